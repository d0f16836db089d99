"""What the tests of the command line share: running it, and the inputs that they give it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from described import random

import lstm_engine as le
from lstm_engine import cli
from lstm_engine.demo import DATA

TWO_INPUTS = Path(__file__).parent / "cli_models/two_inputs.keras"

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the tool; returns its status and what it printed on standard output and standard error."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        try:
            status = cli.main([str(argument) for argument in arguments])
        except SystemExit as stopped:  # argparse
            status = int(stopped.code or 0)
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


@pytest.fixture
def recorded() -> dict[str, np.ndarray]:
    with np.load(TWO_INPUTS.with_suffix(".npz"), allow_pickle=False) as archive:
        return dict(archive)


@pytest.fixture
def contexts(tmp_path: Path) -> Path:
    """Inputs of the character model, (10, 40, 60)."""
    with np.load(DATA / "char_recorded.npz", allow_pickle=False) as archive:
        one_hot = np.eye(60, dtype=np.float32)[archive["contexts"][:10]]
    np.save(tmp_path / "x.npy", one_hot)
    return tmp_path / "x.npy"


@pytest.fixture
def sensor(tmp_path: Path) -> Path:
    """A model of sequences of any length with two features: (n, time, 2) to (n, 3)."""
    path = tmp_path / "sensor.safetensors"
    lstm = le.LSTM.from_weights(random(1, 2, 16), random(2, 4, 16), random(3, 16))
    le.Sequential([lstm, le.LastStep(), le.Dense(random(4, 4, 3))]).save(path)
    return path


@pytest.fixture
def steps(tmp_path: Path) -> Path:
    """A model that gives every step: (n, time, 1) to (n, time, 1)."""
    path = tmp_path / "steps.safetensors"
    lstm = le.LSTM.from_weights(random(5, 1, 16), random(6, 4, 16), random(7, 16))
    le.Sequential([lstm, le.Dense(random(8, 4, 1))]).save(path)
    return path


_PEAK = """
import resource, sys
from lstm_engine.cli import main
assert main(sys.argv[1:]) == 0
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_memory(*arguments: Any) -> int:
    """Return the most memory in KiB that the tool took."""
    done = subprocess.run(
        [sys.executable, "-c", _PEAK, *map(str, arguments)],
        capture_output=True, text=True, check=False, timeout=300, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return int(done.stdout.split()[-1])


def refused(result: tuple[int, str, str], *phrases: str) -> None:
    """Assert that the tool failed with one message that has all ``phrases``, and printed nothing else."""
    status, out, err = result
    assert status == 2
    assert out == ""
    assert err.startswith("lstm-engine: ")
    assert "Traceback" not in err
    for phrase in phrases:
        assert phrase in err
