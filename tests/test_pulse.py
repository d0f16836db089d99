"""The autoencoder of ``examples/watch_a_pulse.py``: what PyTorch recorded of it, and what it is for."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

EXAMPLE = Path(__file__).parents[1] / "examples/watch_a_pulse.py"


@pytest.fixture(scope="module")
def example() -> Any:
    specification = importlib.util.spec_from_file_location("watch_a_pulse", EXAMPLE)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def readings(example: Any) -> Any:
    return np.loadtxt(example.MODELS / "pulse.csv", skiprows=1)


def test_it_makes_of_the_readings_what_pytorch_made(example: Any, readings: Any) -> None:
    with np.load(example.MODELS / "pulse_recorded.npz") as recorded:
        places, outputs = recorded["places"], recorded["outputs"]
    x = np.concatenate([example.standardised(readings[place : place + example.WINDOW]) for place in places])
    _, state = example.ENCODER(x)
    y, _ = example.DECODER(np.zeros_like(x), state)
    found = example.HEAD(y)[:, ::-1]
    assert np.linalg.norm(found - outputs) / np.linalg.norm(outputs) < 1e-5
    alone = example.written_down_again(x[3:4])
    assert alone.tobytes() == np.ascontiguousarray(found[3:4]).tobytes()


def test_the_alarm_is_silent_at_rest_and_not_where_the_wearer_moves(example: Any, readings: Any) -> None:
    def alarmed(first: int, last: int) -> float:
        begin, end = ((second - example.FACTS["first_second"]) * 125 for second in (first, last))
        windows = np.lib.stride_tricks.sliding_window_view(readings[begin:end], example.WINDOW)[::5]
        x = np.concatenate([example.standardised(window) for window in windows])
        _, state = example.ENCODER(x)
        y, _ = example.DECODER(np.zeros_like(x), state)
        errors = np.abs(example.HEAD(y)[:, ::-1] - x).mean((1, 2))
        return float((errors > example.FACTS["alarm"]).mean())

    assert alarmed(660, 672) == 0
    assert alarmed(675, 679) > 0.6


def test_the_loop_says_what_it_sees(example: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["watch_a_pulse.py", "1"])
    example.main()
    said = capsys.readouterr().out.splitlines()
    assert any("this is no pulse" in line for line in said)
    assert said[-1].startswith("125 readings, ")
    assert "of 8 ms that there are" in said[-1]
