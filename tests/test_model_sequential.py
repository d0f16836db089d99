"""Models put together by hand, as PyTorch's users do, against the formulas of their parts in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from described import random, sigmoid, softmax

import lstm_engine as le
from lstm_engine import reference
from lstm_engine.layers import FinalHidden

TOKENS, FEATURES, HIDDEN = 11, 4, 5
IDS = np.random.default_rng(0).integers(0, TOKENS, (6, 7))
X = random(3, 6, 7, FEATURES)
LENGTHS = np.array([7, 1, 0, 4, 6, 2])


def stack(directions: int = 1, layers: int = 2, **options: Any) -> le.LSTM:
    kernels, recurrents, biases = [], [], []
    for place in range(layers * directions):
        features = FEATURES if place < directions else directions * HIDDEN
        kernels.append(random(place, features, 4 * HIDDEN, scale=0.6))
        recurrents.append(random(place + 20, HIDDEN, 4 * HIDDEN, scale=0.6))
        biases.append(random(place + 40, 4 * HIDDEN))
    direction: Any = "bidirectional" if directions == 2 else "forward"
    return le.LSTM.from_weights(kernels, recurrents, biases, direction=direction, **options)


def close(found: Any, wanted: Any) -> None:
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=3e-6, atol=3e-7)


def test_a_classifier_over_the_last_step() -> None:
    table, kernel, bias = random(1, TOKENS, FEATURES), random(2, HIDDEN, 3), random(5, 3)
    lstm = stack()
    built = le.Sequential([le.Embedding(table), lstm, le.LastStep(), le.Dense(kernel, bias, "softmax")])
    y, _ = reference.lstm(table[IDS], lstm.weights)
    close(built(IDS), softmax(y[:, -1] @ kernel.astype(np.float64) + bias))
    assert [one.name for one in built.layers] == ["embedding", "lstm", "last_step", "dense"]
    assert built.inputs[0].shape == (None, None)
    assert built.outputs[0].shape == (None, 3)


def test_dense_works_on_every_step() -> None:
    kernel = random(2, 2 * HIDDEN, 3)
    lstm = stack(2)
    y, _ = reference.lstm(X, lstm.weights)
    built = le.Sequential([lstm, le.Dense(kernel, activation="sigmoid")])
    close(built(X), sigmoid(y @ kernel.astype(np.float64)))
    assert built.inputs[0].shape == (None, None, FEATURES)


@pytest.mark.parametrize("directions", [1, 2])
def test_last_step_and_final_hidden_with_lengths(directions: int) -> None:
    lstm = stack(directions)
    y, (h, _) = reference.lstm(X, lstm.weights, lengths=LENGTHS)
    last = np.stack([y[row, length - 1] if length else np.zeros(y.shape[2]) for row, length in enumerate(LENGTHS)])
    close(le.Sequential([lstm, le.LastStep()])(X, lengths=LENGTHS), last)
    hidden = np.concatenate(list(h[-directions:]), axis=-1)
    close(le.Sequential([FinalHidden(lstm)])(X, lengths=LENGTHS), hidden)
    close(le.Sequential([lstm])(X, lengths=LENGTHS), y)


def test_padding_changes_no_bit_of_a_row() -> None:
    built = le.Sequential([stack(2), le.LastStep(), le.Dense(random(2, 2 * HIDDEN, 3))])
    together = built(X, lengths=LENGTHS)
    for row, length in enumerate(LENGTHS):
        np.testing.assert_array_equal(together[row], built(X[row : row + 1, :length])[0])


def test_last_step_of_a_masked_sequence() -> None:
    mask = random(4, 6, 7) > 0
    mask[2] = False
    lstm = stack()
    y, _ = reference.lstm(X, lstm.weights, mask=mask)
    wanted = np.stack(
        [y[row, np.flatnonzero(one)[-1]] if one.any() else np.zeros(HIDDEN) for row, one in enumerate(mask)]
    )
    close(le.Sequential([lstm, le.LastStep()])(X, mask=mask), wanted)


@pytest.mark.parametrize("mode", ["concat", "sum", "mul", "ave"])
def test_the_merge_mode_of_an_lstm_holds_in_a_chain(mode: Any) -> None:
    lstm = stack(2, merge_mode=mode)
    y, _ = lstm(X)
    np.testing.assert_array_equal(le.Sequential([lstm])(X), y)
    size = y.shape[-1]
    assert le.Sequential([lstm]).outputs[0].shape == (None, None, size)
    np.testing.assert_array_equal(le.Sequential([lstm, le.Dense(np.eye(size, dtype=np.float32))])(X), y)


def test_final_hidden_streams_where_the_lstm_runs_forward() -> None:
    built = le.Sequential([FinalHidden(stack()), le.Dense(random(2, HIDDEN, 3))])
    stream = built.stream(6)
    for step in range(7):
        np.testing.assert_array_equal(stream.step(np.ascontiguousarray(X[:, step])), built(X[:, : step + 1]))
    with pytest.raises(le.UnsupportedModelError, match=r"'lstm' \(LSTM\) cannot run in a stream"):
        le.Sequential([stack(2)]).stream()


def test_the_compute_type_is_that_of_the_lstms() -> None:
    lstm = stack(compute_type="float64")
    built = le.Sequential([lstm, le.Dense(random(2, HIDDEN, 3))])
    assert built.compute_type == "float64"
    y, _ = reference.lstm(X, lstm.weights)
    np.testing.assert_allclose(built(X), y @ random(2, HIDDEN, 3).astype(np.float64), rtol=1e-12)
    with pytest.raises(le.UnsupportedModelError, match=r"compute_type: expected one .* found float32 and float64"):
        le.Sequential([stack(compute_type="float64"), le.Dense(random(2, HIDDEN, FEATURES)), stack()])
    assert le.Sequential([le.Dense(random(2, 4, 3))], compute_type="float64").compute_type == "float64"


def test_names_are_unique() -> None:
    again = le.LSTM.from_weights(random(1, HIDDEN, 8), random(2, 2, 8))
    square = np.eye(4)
    built = le.Sequential([le.Dense(square), le.Dense(square), le.Dense(square, name="dense_1"), stack(), again])
    assert [one.name for one in built.layers] == ["dense", "dense_1", "dense_1_1", "lstm", "lstm_1"]


def test_an_input_shape_may_be_given() -> None:
    flat = le.Sequential([le.Dense(np.eye(4))], input_shape=(4,))
    assert flat(X[:, 0]).shape == (6, 4)
    fixed = le.Sequential([stack()], input_shape=(7, FEATURES))
    with pytest.raises(le.ShapeError, match="axis 1 must have size 7"):
        fixed(X[:, :5])
    with pytest.raises(le.UnsupportedModelError, match="input_shape: expected one"):
        le.Sequential([le.LastStep()])


@pytest.mark.parametrize(
    ("layers", "error", "message"),
    [
        ([], le.UnsupportedModelError, "layers: expected at least one"),
        ([np.eye(3)], le.UnsupportedModelError, r"layers\[0\]: expected a layer .* found ndarray"),
        ([le.Dense, le.LastStep()], le.UnsupportedModelError, r"layers\[0\]"),
        ([le.Dense(np.eye(4)), le.Dense(np.eye(3))], le.ShapeError, r"layers: 'dense_1' \(Dense\): its kernel takes 3"),
        ([le.Dense(np.eye(3)), stack()], le.ShapeError, r"layers: 'lstm' \(LSTM\): its kernel takes 4 features"),
    ],
)
def test_layers_that_make_no_chain_are_refused(layers: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        le.Sequential(layers)


def test_an_lstm_with_two_outputs_is_refused_in_a_chain() -> None:
    with pytest.raises(le.UnsupportedModelError, match="merge_mode: expected a mode with one output"):
        le.Sequential([stack(2, merge_mode=None)])


def test_weights_come_out_of_a_state_dict() -> None:
    state = {
        "embed.weight": random(1, TOKENS, FEATURES),
        "fc.weight": random(2, 3, HIDDEN),
        "fc.bias": random(3, 3),
        "rnn.weight_ih_l0": random(4, 4 * HIDDEN, FEATURES),
        "rnn.weight_hh_l0": random(5, 4 * HIDDEN, HIDDEN),
        "rnn.bias_ih_l0": random(6, 4 * HIDDEN),
        "rnn.bias_hh_l0": random(7, 4 * HIDDEN),
    }
    lstm = le.LSTM.from_torch(state, "rnn")
    built = le.Sequential(
        [le.Embedding.from_torch(state, "embed"), lstm, le.Dense.from_torch(state, "fc", activation="softmax")]
    )
    assert [one.name for one in built.layers] == ["embed", "lstm", "fc"]
    y, _ = reference.lstm(state["embed.weight"][IDS], lstm.weights)
    close(built(IDS), softmax(y @ state["fc.weight"].T.astype(np.float64) + state["fc.bias"]))


def test_the_sunspot_model_forecasts_what_pytorch_recorded() -> None:
    folder = Path(le.__file__).parent / "data"
    path = folder / "sunspots_lstm.pt"
    built = le.Sequential([le.LSTM.from_torch(path, "lstm"), le.Dense.from_torch(path, "head")])
    with np.load(folder / "sunspots_recorded.npz") as recorded:
        forecasts = recorded["outputs"]
    spots = np.loadtxt(folder / "sunspots.csv", delimiter=",", skiprows=1, usecols=2)
    months = (np.sqrt(spots[:-1]) / 8).astype(np.float32)
    found = built(months[None, :, None])[0, :, 0]
    assert np.linalg.norm(found - forecasts) < 3e-6 * np.linalg.norm(forecasts)
    stream = built.stream()
    np.testing.assert_array_equal([stream.step(month[None])[0] for month in months[:200]], found[:200])
