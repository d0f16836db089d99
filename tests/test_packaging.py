"""What is packaged: the metadata, and the contents and size of a wheel if one has been built.

``LSTM_ENGINE_WHEEL`` names the wheel (``make wheel`` builds one into ``dist/``).
"""

from __future__ import annotations

import email
import os
import re
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import lstm_engine

ROOT = Path(__file__).parents[1]
MAX_WHEEL_BYTES = 1_000_000

#: Names that only the machine of a developer, or a test, could need.
UNWANTED = (".c", ".h", ".inc", ".def", ".pyx", ".pxd", ".pxi", ".o", ".a", ".html", ".pyc", "_test.py")


def project() -> dict[str, object]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        table: dict[str, object] = tomllib.load(file)["project"]
    return table


@pytest.fixture(scope="module")
def wheel() -> zipfile.ZipFile:
    path = os.environ.get("LSTM_ENGINE_WHEEL")
    if path is None:
        pytest.skip("LSTM_ENGINE_WHEEL names no wheel; .ci/run builds one")
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def names(wheel: zipfile.ZipFile) -> set[str]:
    return set(wheel.namelist())


def test_one_version_everywhere() -> None:
    assert project()["version"] == lstm_engine.__version__
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert newest is not None
    assert newest.group(1) == lstm_engine.__version__


def test_public_names_exist() -> None:
    for name in lstm_engine.__all__:
        assert getattr(lstm_engine, name) is not None
    assert set(lstm_engine.__all__) <= set(dir(lstm_engine))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = lstm_engine.no_such_name


def test_the_wheel_is_small(wheel: zipfile.ZipFile) -> None:
    size = Path(str(wheel.filename)).stat().st_size
    assert size < MAX_WHEEL_BYTES, f"{size:,} bytes: " + ", ".join(
        f"{entry.filename} {entry.compress_size:,}"
        for entry in sorted(wheel.infolist(), key=lambda entry: -entry.compress_size)[:8]
    )


def test_the_wheel_has_every_module(names: set[str]) -> None:
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "lstm_engine").rglob("*.py")}
    assert modules <= names, sorted(modules - names)
    for extension in (path.stem for path in (ROOT / "lstm_engine").glob("*.pyx")):
        built = [name for name in names if re.fullmatch(rf"lstm_engine/{extension}\..*\.(so|pyd)", name)]
        assert len(built) == 1, f"{extension}: {built}"
    stubs = {str(path.relative_to(ROOT)) for path in (ROOT / "lstm_engine").rglob("*.pyi")}
    assert {"lstm_engine/py.typed", *stubs} <= names


def test_the_wheel_has_what_the_demo_needs(names: set[str]) -> None:
    data = {str(path.relative_to(ROOT)) for path in (ROOT / "lstm_engine/data").iterdir()}
    assert data <= names, sorted(data - names)


def test_the_wheel_has_nothing_else(names: set[str]) -> None:
    version = lstm_engine.__version__
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"lstm_engine", f"lstm_engine-{version}.dist-info"}
    assert not [name for name in names if name.endswith(UNWANTED)]


def test_the_wheel_carries_the_licence(wheel: zipfile.ZipFile, names: set[str]) -> None:
    information = f"lstm_engine-{lstm_engine.__version__}.dist-info"
    assert wheel.read(f"{information}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    metadata = email.message_from_bytes(wheel.read(f"{information}/METADATA"))
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Requires-Python"] == ">=3.11"
    required = {
        re.split(r"[><=; ]", str(line))[0] for line in metadata.get_all("Requires-Dist", []) if "extra" not in line
    }
    assert required == {"numpy", "scipy", "safetensors"}


def test_the_wheel_has_the_command(wheel: zipfile.ZipFile) -> None:
    entry_points = wheel.read(f"lstm_engine-{lstm_engine.__version__}.dist-info/entry_points.txt").decode()
    assert "lstm-engine = lstm_engine.cli:main" in entry_points


def test_the_extensions_carry_no_debug_information(wheel: zipfile.ZipFile) -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("looks into ELF files")
    for name in wheel.namelist():
        if name.endswith(".so"):
            assert b".debug_info" not in wheel.read(name), name
