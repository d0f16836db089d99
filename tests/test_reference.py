"""The oracle against the frameworks that the field runs, and against itself where they say nothing.

The recorded cases hold what PyTorch and Keras compute in float64 and ONNX Runtime in float32; see
``fixtures/record_oracle.py``, which made them.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lstm_engine import reference
from lstm_engine.activations import DEFAULTS, Activation
from lstm_engine.errors import ShapeError
from lstm_engine.weights import CellWeights, LSTMWeights

FIXTURES = Path(__file__).parent / "fixtures"
CASES: list[dict[str, Any]] = json.loads((FIXTURES / "oracle.json").read_text(encoding="utf-8"))["cases"]


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    with np.load(FIXTURES / "oracle.npz") as file:
        return dict(file)


def recorded_weights(number: int, arrays: dict[str, np.ndarray]) -> LSTMWeights:
    """Return the weights of a recorded case."""
    case = CASES[number]
    options = iter(case["options"])
    layers = []
    for layer in range(case["layers"]):
        cells = []
        for direction in range(case["directions"]):
            prefix = f"{number}/cell/{layer}/{direction}/"
            fields: dict[str, Any] = {
                name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)
            }
            for name, value in next(options).items():
                fields[name] = Activation(**value) if isinstance(value, dict) else value
            cells.append(CellWeights(**fields))
        layers.append(tuple(cells))
    return LSTMWeights(tuple(layers), case["direction"])


@pytest.mark.parametrize(
    "number", range(len(CASES)), ids=[f"{number}-{case['source']}" for number, case in enumerate(CASES)]
)
def test_agrees_with_the_frameworks(number: int, arrays: dict[str, np.ndarray]) -> None:
    case = CASES[number]
    prefix = f"{number}/in/"
    given = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
    state = (given.pop("h0"), given.pop("c0")) if "h0" in given else None
    y, (h, c) = reference.lstm(
        weights=recorded_weights(number, arrays), state=state, zero_masked=case.get("zero_masked", False), **given
    )
    # Float64 against float64; ONNX Runtime computes in float32, and TensorFlow, under Keras, keeps the constants of
    # these two activations in float32 whatever it computes in.
    kinds = {value["kind"] for option in case["options"] for value in option.values() if isinstance(value, dict)}
    bound = 1e-6 if "float32" in case["source"] else 1e-7 if kinds & {"gelu", "leaky_relu"} else 1e-13
    for name, found in (("y", y), ("h", h), ("c", c)):
        wanted = arrays[f"{number}/out/{name}"]
        assert found.shape == wanted.shape, name
        assert np.linalg.norm(found - wanted) <= bound * np.linalg.norm(wanted), name


def test_every_variant_is_recorded() -> None:
    options = [option for case in CASES for option in case["options"]]
    kinds = {value["kind"] for option in options for value in option.values() if isinstance(value, dict)}
    # Only these two are in no framework's LSTM: they are compared with their formulas below.
    assert set(DEFAULTS) - kinds == {"gelu_tanh"}
    assert any(option.get("coupled") for option in options)
    assert any(option.get("gate_clip") for option in options)
    assert {case["direction"] for case in CASES} == {"forward", "reverse", "bidirectional"}


# ------------------------------------------------------------------------------------------ activations

#: The formulas of activations.py in the mathematics of one number.
FORMULAS = {
    "linear": lambda x, a, b: x,
    "sigmoid": lambda x, a, b: 1 / (1 + math.exp(-x)),
    "tanh": lambda x, a, b: math.tanh(x),
    "relu": lambda x, a, b: max(x, 0),
    "hard_sigmoid": lambda x, a, b: min(max(a * x + b, 0), 1),
    "softsign": lambda x, a, b: x / (1 + abs(x)),
    "elu": lambda x, a, b: x if x > 0 else a * (math.exp(x) - 1),
    "selu": lambda x, a, b: 1.0507009873554805 * (x if x > 0 else 1.6732632423543772 * (math.exp(x) - 1)),
    "softplus": lambda x, a, b: math.log(1 + math.exp(x)),
    "exponential": lambda x, a, b: math.exp(x),
    "gelu": lambda x, a, b: 0.5 * x * (1 + math.erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x, a, b: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x, a, b: x / (1 + math.exp(-x)),
    "leaky_relu": lambda x, a, b: x if x >= 0 else a * x,
    "affine": lambda x, a, b: a * x + b,
    "thresholded_relu": lambda x, a, b: x if x > a else 0,
    "scaled_tanh": lambda x, a, b: a * math.tanh(b * x),
}


@pytest.mark.parametrize("kind", DEFAULTS)
def test_activation_formulas(kind: str) -> None:
    x = np.concatenate([np.linspace(-6, 6, 97), [0.0, -0.0, 1e-9, -1e-9, 20.0, -20.0]])
    for alpha, beta in (DEFAULTS[kind], (0.3, 0.6)):
        wanted = [FORMULAS[kind](value, alpha, beta) for value in x.tolist()]
        np.testing.assert_allclose(reference.activation(kind, x, alpha, beta), wanted, rtol=1e-13, atol=1e-15)
        chosen = Activation(kind, alpha, beta)
        np.testing.assert_array_equal(
            reference.activation(chosen, x), reference.activation(kind, x, alpha, beta), strict=True
        )


#: Value at minus infinity and at plus infinity, as the formulas give them: inf / inf and 0 * inf are NaN.
LIMITS = {
    "linear": (-np.inf, np.inf), "sigmoid": (0, 1), "tanh": (-1, 1), "relu": (0, np.inf), "hard_sigmoid": (0, 1),
    "softsign": (np.nan, np.nan), "elu": (-1, np.inf), "selu": (-1.0507009873554805 * 1.6732632423543772, np.inf),
    "softplus": (0, np.inf), "exponential": (0, np.inf), "gelu": (np.nan, np.inf), "gelu_tanh": (np.nan, np.inf),
    "silu": (np.nan, np.inf), "leaky_relu": (-np.inf, np.inf), "affine": (-np.inf, np.inf),
    "thresholded_relu": (0, np.inf), "scaled_tanh": (-1, 1),
}  # fmt: skip


@pytest.mark.parametrize("kind", DEFAULTS)
def test_activation_of_nan_and_infinity(kind: str) -> None:
    found = reference.activation(kind, [-np.inf, np.inf, np.nan])
    np.testing.assert_array_equal(found, [*LIMITS[kind], np.nan])


def test_unknown_activation_is_refused() -> None:
    with pytest.raises(ValueError, match="'swoosh' is not known"):
        reference.activation("swoosh", [0.0])


# ----------------------------------------------------------------------------------------------- masks


def one_cell(**options: Any) -> LSTMWeights:
    """Return one cell, 2 features and 3 units, with distinct weights."""
    random = np.random.default_rng(7)
    cell = CellWeights(random.normal(size=(2, 12)), random.normal(size=(3, 12)), random.normal(size=12), **options)
    return LSTMWeights(((cell,),))


X = np.random.default_rng(8).normal(size=(3, 5, 2))


def test_masked_step_keeps_the_state_and_repeats_the_output() -> None:
    mask = np.array([[False, True, False, True, False]] * 3)
    y, (h, c) = reference.lstm(X, one_cell(), mask=mask)
    real, (h_real, c_real) = reference.lstm(X[:, [1, 3]], one_cell())
    np.testing.assert_array_equal(y[:, 0], 0)
    np.testing.assert_array_equal(y[:, 1], real[:, 0])
    np.testing.assert_array_equal(y[:, 2], real[:, 0])
    np.testing.assert_array_equal(y[:, 3], real[:, 1])
    np.testing.assert_array_equal(y[:, 4], real[:, 1])
    np.testing.assert_array_equal(h, h_real)
    np.testing.assert_array_equal(c, c_real)
    zeroed, _ = reference.lstm(X, one_cell(), mask=mask, zero_masked=True)
    np.testing.assert_array_equal(zeroed, np.where(mask[..., None], y, 0))


def test_output_before_the_first_real_step_is_zero_whatever_the_initial_state() -> None:
    state = (np.ones((1, 3, 3)), np.ones((1, 3, 3)))
    y, (h, c) = reference.lstm(X, one_cell(), state, mask=np.zeros((3, 5), bool))
    np.testing.assert_array_equal(y, 0)
    np.testing.assert_array_equal(h, 1)
    np.testing.assert_array_equal(c, 1)


def test_nan_at_a_masked_or_padded_step_is_not_seen() -> None:
    spoiled = X.copy()
    spoiled[:, 3:] = np.nan
    wanted = reference.lstm(X, one_cell(), lengths=[3, 3, 3])
    found = reference.lstm(spoiled, one_cell(), lengths=[3, 3, 3])
    np.testing.assert_array_equal(found[0], wanted[0])
    masked = reference.lstm(spoiled, one_cell(), mask=np.arange(5)[None] < [[3]] * 3)
    np.testing.assert_array_equal(masked[1][0], wanted[1][0])


# -------------------------------------------------------------------------------- clipping, shapes, axes


def test_cell_clip_bounds_the_state_that_everything_after_it_sees() -> None:
    random = np.random.default_rng(9)
    options = {"peepholes": random.normal(size=(3, 3)), "cell_clip": 0.05}
    cell = one_cell(**options).cells[0][0]
    trace = reference.cell_step(X[:, 0], np.zeros((3, 3)), np.full((3, 3), 4.0), cell)
    unclipped = trace.forgotten + trace.input_gate * trace.cell_candidate
    assert np.abs(unclipped).max() > 0.05
    np.testing.assert_array_equal(trace.cell_state, np.clip(unclipped, -0.05, 0.05))
    np.testing.assert_array_equal(trace.hidden_activation, np.tanh(trace.cell_state))
    z = X[:, 0] @ cell.kernel[:, 9:] + cell.bias[9:] + cell.peepholes[2] * trace.cell_state
    np.testing.assert_allclose(trace.output_gate, reference.activation("sigmoid", z), rtol=1e-14)


def test_axes() -> None:
    weights = one_cell()
    y, (h, c) = reference.lstm(X, weights)
    time_major, (h_time_major, _) = reference.lstm(X.swapaxes(0, 1), weights, time_major=True)
    np.testing.assert_array_equal(time_major, y.swapaxes(0, 1))
    np.testing.assert_array_equal(h_time_major, h)
    single, (h_single, c_single) = reference.lstm(X[1], weights, lengths=5)
    np.testing.assert_allclose(single, y[1], rtol=1e-14)
    np.testing.assert_allclose(h_single, h[:, 1], rtol=1e-14)
    assert c_single.shape == c[:, 1].shape


@pytest.mark.parametrize(("batch", "time"), [(0, 5), (3, 0), (0, 0)])
def test_nothing_in_nothing_out(batch: int, time: int) -> None:
    state = (np.full((1, batch, 3), 0.5), np.full((1, batch, 3), -0.5))
    y, (h, c) = reference.lstm(np.zeros((batch, time, 2)), one_cell(), state)
    assert y.shape == (batch, time, 3)
    np.testing.assert_array_equal(h, state[0])
    np.testing.assert_array_equal(c, state[1])


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"x": np.zeros((3, 5, 4))}, "x: expected"),
        ({"state": (np.zeros((1, 3, 2)), np.zeros((1, 3, 3)))}, "h0: expected"),
        ({"state": (np.zeros((1, 3, 3)), np.zeros((2, 3, 3)))}, "c0: expected"),
        ({"lengths": [1, 2]}, "lengths: expected"),
        ({"lengths": [1, 2, 6]}, "lengths: expected"),
        ({"mask": np.ones((5, 3), bool)}, "mask: expected"),
        ({"mask": np.ones((3, 5), bool), "lengths": [1, 2, 3]}, "mask: expected None"),
    ],
)
def test_bad_arguments(keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        reference.lstm(**{"x": X, "weights": one_cell(), **keywords})
