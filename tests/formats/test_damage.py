"""Every recorded file, cut off at every 64th byte and with bytes of its first 4 KB overwritten.

It is then refused by one of our errors, or still makes a model; never anything else, never in more than five seconds,
and never with more memory than four times the file and 64 MB. ``make test`` tries some of these places in the smaller
files; the tests marked slow try all of them, and every sixteenth in the files that are recorded in archives.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the limits of a process are those of Linux")

HERE = Path(__file__).parent
SUFFIXES = {".keras", ".h5", ".pt", ".safetensors", ".onnx"}

#: Recorded files as they are, and archives of many of them.
FILES = sorted(
    path
    for folder in (HERE.parent / "fixtures", HERE / "data" / "torch")
    for path in folder.rglob("*")
    if path.suffix in SUFFIXES
) + sorted(HERE.glob("y_*"))
ARCHIVES = sorted((HERE / "data").rglob("*.tar.xz"))


def check(files: list[Path], seed: int, step: int) -> None:
    """Damage files at every ``step``-th place in a guarded process."""
    done = subprocess.run(
        [sys.executable, "guarded.py", "damage", str(seed), str(step), *map(str, files)],
        cwd=HERE,
        env={**os.environ, "PYTHONPATH": str(HERE.parents[1])},
        capture_output=True,
        text=True,
        timeout=3600,
        check=False,
    )
    assert done.returncode == 0, f"status {done.returncode} at {done.stderr[-2000:]}"
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["file"] for one in found] == [str(path) for path in files]
    assert not [f"{one['file']}: {bad}" for one in found for bad in one["bad"]]
    # Cut files are refused, so some load must have ended so, or nothing has been tried.
    assert any(one["ends"].get("FormatError") for one in found)


def test_damaged_files_at_some_places() -> None:
    check([path for path in FILES if path.stat().st_size < 20_000], seed=3, step=127)


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_damaged_files_at_every_place(path: Path) -> None:
    check([path], seed=0, step=1)


@pytest.mark.slow
@pytest.mark.parametrize("path", ARCHIVES, ids=lambda path: path.name)
def test_damaged_files_of_an_archive(path: Path, tmp_path: Path) -> None:
    with tarfile.open(path) as archive:
        archive.extractall(tmp_path, filter="data")
    # The files are many and much alike: every place of each would take hours.
    check(sorted(one for one in tmp_path.rglob("*") if one.suffix in SUFFIXES), seed=1, step=16)
