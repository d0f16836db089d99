"""What the tests of the command line share: running it, and the inputs that they give it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

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


def refused(result: tuple[int, str, str], *phrases: str) -> None:
    """Assert that the tool failed with one message that has all ``phrases``, and printed nothing else."""
    status, out, err = result
    assert status == 2
    assert out == ""
    assert err.startswith("lstm-engine: ")
    assert "Traceback" not in err
    for phrase in phrases:
        assert phrase in err
