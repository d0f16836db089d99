"""Reports of a compute type beside float32, and the choice of the fastest within an error."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from strategies import Options, assert_same_bits, make_weights

import lstm_engine as le
from lstm_engine import accuracy
from lstm_engine.accuracy import AccuracyReport
from lstm_engine.verification import OutputError

CHARACTERS = Path(le.__file__).parent / "data" / "char_lstm.keras"


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return np.eye(60, dtype=np.float32)[np.random.default_rng(0).integers(0, 60, (5, 40))]


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accuracy, "_SECONDS", 0.0)


def test_report_of_a_model(x: np.ndarray) -> None:
    model = le.load(CHARACTERS, compute_type="int8")
    plain = le.load(CHARACTERS)
    report = model.accuracy_report(x)
    y, wanted = model(x).astype(np.float64), plain(x).astype(np.float64)
    assert report.compute_type == "int8"
    assert [output.name for output in report.outputs] == ["dense"]
    assert report.outputs[0].max_abs == pytest.approx(np.abs(y - wanted).max())
    assert report.error == pytest.approx(np.linalg.norm(y - wanted) / np.linalg.norm(wanted))
    assert 0 < report.error < 0.05
    assert report.memory_bytes == model.memory_bytes() < report.float32_memory_bytes == plain.memory_bytes()
    assert report.speed_up == report.float32_seconds / report.seconds > 0
    text = str(report)
    assert text.startswith("int8 beside float32\n  dense: max abs error ")
    assert "times as fast" in text
    assert f"memory: {model.memory_bytes():,} bytes" in text


@pytest.mark.parametrize("compute_type", ["bfloat16", "int8", "int8_recurrent", "float64"])
def test_report_of_an_lstm_and_of_another_type(compute_type: Any) -> None:
    weights = make_weights(Options(7, 20, layers=2, direction="bidirectional", output_size=9), seed=3)
    x = np.random.default_rng(1).standard_normal((4, 9, 7)).astype(np.float32)
    report = le.LSTM(weights).accuracy_report(x, compute_type)
    assert [output.name for output in report.outputs] == ["y", "h", "c"]
    assert 0 < report.error < 2e-2
    own = le.LSTM(weights, compute_type=compute_type).accuracy_report(x)
    assert own.outputs == report.outputs
    assert own.compute_type == report.compute_type == compute_type


def test_report_of_a_sequential_model() -> None:
    weights = make_weights(Options(3, 8), seed=2)
    dense = le.Dense(np.random.default_rng(0).uniform(-1, 1, (8, 2)).astype(np.float32), activation="softmax")
    model = le.Sequential([le.LSTM(weights, compute_type="int8"), dense])
    report = model.accuracy_report(np.ones((2, 5, 3), np.float32))
    assert 0 < report.error < 1e-2


def test_reports_that_cannot_be_made(x: np.ndarray) -> None:
    model = le.load(CHARACTERS)
    with pytest.raises(le.UnsupportedModelError, match=r"compare with float32.*'float32'"):
        model.accuracy_report(x)
    with pytest.raises(le.UnsupportedModelError, match="'int4'"):
        model.accuracy_report(x, "int4")  # type: ignore[arg-type]
    with pytest.raises(le.ShapeError, match="give at least one step"):
        model.accuracy_report(x[:0], "int8")
    with pytest.raises(le.ShapeError, match="axis 1"):
        model.accuracy_report(x[:, :7], "int8")


def reports(times: dict[str, float], errors: dict[str, float]) -> Any:
    """Return what stands for the measurement: given times and errors for each narrow type."""

    def made(plain: Any, others: Any, x: Any) -> Any:
        for other in others:
            name = other.compute_type
            yield AccuracyReport(name, (OutputError("y", 0.0, errors[name]),), times[name], 1.0, 1, 1)

    return made


@pytest.mark.parametrize(
    ("times", "max_error", "wanted"),
    [
        ((0.6, 0.5, 0.3), 1e-2, "int8"),
        ((0.6, 0.5, 0.3), 5e-3, "int8_recurrent"),
        ((0.4, 0.5, 0.3), 5e-3, "bfloat16"),
        ((0.4, 0.5, 0.3), 1e-4, "float32"),
        ((0.97, 0.98, 0.96), 1.0, "float32"),
        ((1.4, 1.5, 1.3), 1.0, "float32"),
    ],
)
def test_the_fastest_within_an_error_is_taken(
    monkeypatch: pytest.MonkeyPatch, x: np.ndarray, times: tuple[float, ...], max_error: float, wanted: str
) -> None:
    names = ("bfloat16", "int8_recurrent", "int8")
    given = dict(zip(names, times, strict=True)), dict(zip(names, (3e-3, 1e-3, 8e-3), strict=True))
    monkeypatch.setattr(accuracy, "_reports", reports(*given))
    model = le.load(CHARACTERS, compute_type="auto", calibration=x, max_error=max_error)
    assert model.compute_type == wanted
    assert_same_bits(model(x), le.load(CHARACTERS, compute_type=wanted)(x))  # type: ignore[arg-type]
    weights = make_weights(Options(4, 6), seed=1)
    lstm = le.LSTM(weights, compute_type="auto", calibration=np.ones((1, 2, 4)), max_error=max_error)
    assert lstm.compute_type == wanted
    again = pickle.loads(pickle.dumps(lstm))
    assert again.compute_type == wanted
    assert_same_bits(again(np.ones((1, 2, 4)))[0], lstm(np.ones((1, 2, 4)))[0])


def test_the_choice_is_measured(x: np.ndarray) -> None:
    model = le.load(CHARACTERS, compute_type="auto", calibration=x, max_error=1e-9)
    # The weights of this model are numbers of bfloat16: a CPU without its products computes the same in both.
    assert model.compute_type == "float32" or model.accuracy_report(x).error <= 1e-9
    lstm = le.LSTM(
        make_weights(Options(4, 6), seed=1), compute_type="auto", calibration=np.ones((1, 2, 4)), max_error=1e-9
    )
    assert lstm.compute_type == "float32"
    chosen = le.load(CHARACTERS, compute_type="auto", calibration=x, max_error=0.5)
    assert chosen.compute_type == "float32" or chosen.accuracy_report(x).error <= 0.5


def test_bad_calibration(x: np.ndarray) -> None:
    with pytest.raises(le.UnsupportedModelError, match="calibration=x"):
        le.load(CHARACTERS, compute_type="auto")
    with pytest.raises(le.UnsupportedModelError, match="leave it away"):
        le.load(CHARACTERS, compute_type="int8", calibration=x)
    for max_error in (0, -1.0, float("nan"), "1", True):
        with pytest.raises(le.UnsupportedModelError, match="max_error"):
            le.load(CHARACTERS, compute_type="auto", calibration=x, max_error=max_error)  # type: ignore[arg-type]
    with pytest.raises(le.ShapeError, match="axis 1"):
        le.load(CHARACTERS, compute_type="auto", calibration=x[:, :7])
    with pytest.raises(le.UnsupportedModelError, match="blas backend"):
        le.load(CHARACTERS, compute_type="auto", calibration=x, backend="blas")
    with pytest.raises(le.UnsupportedModelError, match="'auto'"):
        le.Sequential([le.Dense(np.ones((2, 2), np.float32))], input_shape=(2,), compute_type="auto")
