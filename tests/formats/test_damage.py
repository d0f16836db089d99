"""Every recorded file, cut off at every 64th byte and with bytes of its first 4 KB overwritten.

It is then refused by one of our errors, or still makes a model; never anything else, never in more than five seconds,
and never with more memory than four times the file and 64 MB. ``make test`` tries some of these places in the smaller
files. The tests marked slow cut every file, those recorded in archives and some of our own format too, at every 64th
byte, and change every byte of the first 4 KB. Most files begin much alike, so a byte of a recorded one is changed in
the first file alone that has it between the same eight bytes before it and behind it; of files over 256 KB it is each
sixteenth of such bytes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from recorded import load_arrays, manifest

import lstm_engine as le

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the limits of a process are those of Linux")

HERE = Path(__file__).parent
ENDINGS = (".keras", ".h5", ".pt", ".bin", ".safetensors", ".onnx", ".index.json")

#: Recorded files as they are, and archives of many of them.
FILES = sorted(
    path
    for folder in (HERE.parent / "fixtures", HERE / "data" / "torch")
    for path in folder.rglob("*")
    if path.name.endswith(ENDINGS)
) + sorted(HERE.glob("y_*"))
ARCHIVES = sorted((HERE / "data").rglob("*.tar.xz"))


def check(files: list[Path], seed: int, cuts: int, flips: int, tried: Path | str = "") -> None:
    """Damage files in a guarded process: at each ``cuts``-th place to cut at, and each ``flips``-th byte to change.

    With a file ``tried`` each byte is changed that is not in it yet with what stands around it.
    """
    done = subprocess.run(
        [sys.executable, "guarded.py", "damage", *map(str, (seed, cuts, flips, tried)), *map(str, files)],
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
    check([path for path in FILES if path.stat().st_size < 20_000], seed=3, cuts=127, flips=127)


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damage") / "tried"


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_damaged_files_at_every_place(path: Path, tried: Path) -> None:
    check([path], seed=0, cuts=1, flips=1, tried=tried)


@pytest.mark.slow
@pytest.mark.parametrize("path", ARCHIVES, ids=lambda path: path.name)
def test_damaged_files_of_an_archive(path: Path, tmp_path: Path, tried: Path) -> None:
    with tarfile.open(path) as archive:
        archive.extractall(tmp_path, filter="data")
    files = sorted(one for one in tmp_path.rglob("*") if one.name.endswith(ENDINGS))
    assert files
    check(files, seed=1, cuts=1, flips=1, tried=tried)


@pytest.mark.slow
def test_damaged_files_of_our_own_format(tmp_path: Path) -> None:
    fixtures = HERE.parent / "fixtures"
    files = []
    for place, entry in enumerate(manifest(fixtures / "keras")["models"][::3]):
        arrays = load_arrays(fixtures / "keras", entry["name"])
        inputs = tuple(arrays[key] for key in sorted(arrays) if key.startswith("input_"))
        files.append(tmp_path / f"{place}.safetensors")
        le.load(fixtures / "keras" / entry["file"]).save(files[-1], golden=inputs if len(inputs) > 1 else inputs[0])
    x = np.ones((1, 2, 1), np.float32)
    for kind, rows in (("plain", 1), ("loop", 2), ("branch", 2)):
        files.append(tmp_path / f"onnx_{kind}.safetensors")
        le.load(HERE / f"y_onnx_{kind}.onnx").save(files[-1], golden=x.repeat(rows, 0))
    files.append(tmp_path / "lstm.safetensors")
    le.LSTM.from_torch(HERE / "y_torch_plain.pt").save(files[-1], golden=x)
    check(files, seed=2, cuts=1, flips=1)
