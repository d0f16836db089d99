"""Activations of layers: their formulas, and what Keras means by a name, a dict and a version."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from described import sigmoid, softmax

from lstm_engine.activations import Activation
from lstm_engine.errors import FormatError, UnsupportedModelError
from lstm_engine.layers.functions import ClippedReLU, Composed, LogSoftmax, Softmax, as_layer_activation
from lstm_engine.layers.keras_activations import (
    KerasVersion,
    activation_from_keras,
    gate_activation_from_keras,
    number,
)
from lstm_engine.layers.numerics import Numerics

X = np.linspace(-9, 9, 7 * 24).reshape(7, 24).astype(np.float32)
KERAS_3, KERAS_2 = KerasVersion("3.15.1"), KerasVersion("2.15.0")


def gelu(x: Any) -> Any:
    from scipy.special import erfc

    return 0.5 * x * erfc(-x / np.sqrt(2))


def log_softmax(x: Any) -> Any:
    shifted = x - x.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


#: Formulas in float64, as Keras's documentation gives them.
FORMULAS: dict[str, Callable[[Any], Any]] = {
    "elu": lambda x: np.where(x > 0, x, np.expm1(x)),
    "exponential": np.exp,
    "gelu": gelu,
    "hard_silu": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "hard_swish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "hard_tanh": lambda x: np.clip(x, -1, 1),
    "leaky_relu": lambda x: np.where(x >= 0, x, 0.2 * x),
    "linear": lambda x: x,
    "log_sigmoid": lambda x: -np.logaddexp(0, -x),
    "log_softmax": log_softmax,
    "mish": lambda x: x * np.tanh(np.logaddexp(0, x)),
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "selu": lambda x: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(x)),
    "sigmoid": sigmoid,
    "silu": lambda x: x * sigmoid(x),
    "softmax": softmax,
    "softplus": lambda x: np.logaddexp(0, x),
    "softsign": lambda x: x / (1 + np.abs(x)),
    "swish": lambda x: x * sigmoid(x),
    "tanh": np.tanh,
}  # fmt: skip


def apply(activation: Any, x: Any, compute_type: Any) -> Any:
    numerics = Numerics(compute_type)
    x = np.ascontiguousarray(x, numerics.dtype)
    if isinstance(activation, Activation):
        return numerics.activate(x, activation)
    return activation(x, numerics)


@pytest.mark.parametrize("compute_type", ["float32", "float64"])
@pytest.mark.parametrize("name", FORMULAS)
def test_formula_of_every_name(name: str, compute_type: str) -> None:
    found = apply(activation_from_keras(name, KERAS_3), X, compute_type)
    assert found.dtype == compute_type
    tolerance = 3e-6 if compute_type == "float32" else 1e-14
    # 1 + erf(x) cancels in float32 far left of zero, in the frameworks too.
    absolute = 3e-7 if name == "gelu" and compute_type == "float32" else tolerance * 1e-2
    np.testing.assert_allclose(found, FORMULAS[name](X.astype(np.float64)), rtol=tolerance, atol=absolute)


@pytest.mark.parametrize(("version", "slope"), [(KERAS_2, 0.2), (KERAS_3, 1 / 6), (KerasVersion("1"), 0.2)])
def test_hard_sigmoid(version: KerasVersion, slope: float) -> None:
    found = apply(activation_from_keras("hard_sigmoid", version), X, "float32")
    np.testing.assert_allclose(found, np.clip(slope * X.astype(np.float64) + 0.5, 0, 1), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        ({"class_name": "LeakyReLU", "config": {"negative_slope": 0.1}}, Activation("leaky_relu", 0.1)),
        ({"class_name": "LeakyReLU", "config": {"alpha": 0.25}}, Activation("leaky_relu", 0.25)),
        ({"class_name": "LeakyReLU", "config": {}}, Activation("leaky_relu", 0.3)),
        ({"class_name": "LeakyReLU", "config": {"alpha": {"type": "ndarray", "value": 0.5}}},
         Activation("leaky_relu", 0.5)),
        ({"class_name": "ELU", "config": {"alpha": 0.7}}, Activation("elu", 0.7)),
        ({"class_name": "ReLU", "config": {"max_value": None, "negative_slope": "0.0", "threshold": "0.0"}},
         Activation("relu")),
        ({"class_name": "ReLU", "config": {"max_value": None, "negative_slope": 0.2, "threshold": 0.0}},
         Activation("leaky_relu", 0.2)),
        ({"class_name": "ReLU", "config": {"max_value": 3, "negative_slope": 0.0, "threshold": 0.0}},
         ClippedReLU(3.0, 0.0, 0.0)),
        ({"class_name": "Softmax", "config": {"axis": [1]}}, Softmax(1)),
        ({"module": "keras.activations", "class_name": "function", "config": "silu"}, Activation("silu")),
        (None, None),
    ],
)  # fmt: skip
def test_serialised_activations(config: Any, wanted: Any) -> None:
    assert activation_from_keras(config, KERAS_3) == wanted


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ("swoosh", "'swoosh'"),
        (3, "3"),
        ({"module": "builtins", "class_name": "function", "config": "mine", "registered_name": "function"}, "mine"),
        (
            {"module": "acts", "class_name": "function", "config": "swish", "registered_name": "swish"},
            "'swish', a custom",
        ),
        ({"class_name": "LeakyReLU", "config": {"alpha": "steep"}}, "LeakyReLU"),
        ({"class_name": "LeakyReLU", "registered_name": "Mine>LeakyReLU", "config": {}}, "custom"),
        ({"class_name": "Softmax", "config": {"axis": [1, 2]}}, r"\[1, 2\]"),
        ({"class_name": "PReLU", "config": {}}, "PReLU"),
        ({"class_name": ["relu"], "config": {}}, "relu"),
        ([], r"\[\]"),
    ],
)
def test_what_is_not_implemented_is_named(config: Any, named: str) -> None:
    with pytest.raises(UnsupportedModelError, match=named):
        activation_from_keras(config, KERAS_3)


def test_gates_take_activations_of_one_value() -> None:
    assert gate_activation_from_keras("relu", KERAS_3) == Activation("relu")
    assert gate_activation_from_keras(None, KERAS_3) == Activation("linear")
    for value in ("softmax", "mish", {"class_name": "ReLU", "config": {"max_value": 1.0}}):
        with pytest.raises(UnsupportedModelError, match="not within an LSTM"):
            gate_activation_from_keras(value, KERAS_3)


@pytest.mark.parametrize(
    "options", [(None, 0.0, 0.7), (2.0, 0.0, 0.0), (2.0, 0.3, 0.5), (None, 0.3, 0.5), (6.0, 0.1, 0.0)]
)
def test_clipped_relu(options: Any) -> None:
    limit, slope, threshold = options
    x = X.astype(np.float64)
    wanted = np.where(x > threshold, np.minimum(x, np.inf if limit is None else limit), slope * (x - threshold))
    for compute_type in ("float32", "float64"):
        np.testing.assert_allclose(apply(ClippedReLU(*options), X, compute_type), wanted, rtol=1e-6, atol=1e-6)
    not_a_number = apply(ClippedReLU(*options), np.array([np.nan]), "float32")
    assert np.isnan(not_a_number).all()


@pytest.mark.parametrize("size", [1, 2, 3, 5, 16, 100])
def test_log_softmax_of_any_size_is_right_where_softmax_underflows(size: int) -> None:
    x = np.random.default_rng(size).normal(scale=40, size=(9, size)).astype(np.float32)
    wanted = FORMULAS["log_softmax"](x.astype(np.float64))
    np.testing.assert_allclose(apply(LogSoftmax(), x, "float32"), wanted, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(apply(LogSoftmax(), x[3:4], "float32"), apply(LogSoftmax(), x, "float32")[3:4])


def test_log_softmax_of_infinities_is_what_the_formula_says() -> None:
    x = np.array([[-np.inf, 0.0, -np.inf, -np.inf], [-np.inf, -np.inf, -np.inf, 1.0]], np.float32)
    np.testing.assert_array_equal(
        apply(LogSoftmax(), x, "float32"), [[-np.inf, 0, -np.inf, -np.inf], [-np.inf, -np.inf, -np.inf, 0]]
    )


@pytest.mark.parametrize("axis", [1, 2, -1, -2])
def test_softmax_over_any_axis(axis: int) -> None:
    x = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    for compute_type in ("float32", "float64"):
        found = apply(Softmax(axis), x, compute_type)
        assert found.flags.c_contiguous
        np.testing.assert_allclose(found, softmax(x.astype(np.float64), axis), rtol=1e-6)


def test_names_of_hand_made_layers() -> None:
    assert as_layer_activation("softmax") == Softmax()
    assert as_layer_activation("relu") == Activation("relu")
    assert as_layer_activation("relu6") == Composed("relu6")
    assert as_layer_activation(Activation("elu", 0.5)) == Activation("elu", 0.5)
    assert as_layer_activation(None) is None
    for value in ("ReLU", 3, np.tanh):
        with pytest.raises(UnsupportedModelError, match="activation: expected None, an Activation or one of"):
            as_layer_activation(value)


@pytest.mark.parametrize(
    ("text", "major", "minor", "by_or", "zeroes"),
    [
        ("1", 1, 0, False, False),
        ("2.2.4", 2, 2, False, False),
        ("2.2.4-tf", 2, 2, False, True),
        ("2.3.1", 2, 3, False, False),
        ("2.4.0", 2, 4, False, True),
        ("2.13.1", 2, 13, False, True),
        ("3.3.3", 3, 3, False, True),
        ("3.4.0", 3, 4, True, True),
        ("3.15.0.dev2", 3, 15, True, True),
    ],
)
def test_versions(text: str, major: int, minor: int, by_or: bool, zeroes: bool) -> None:
    version = KerasVersion(text)
    assert (version.major, version.minor) == (major, minor)
    assert version.joins_masks_by_or is by_or
    assert version.merging_drops_masks is (text == "3.3.3")
    assert version.zeroes_masked_bidirectional is zeroes


@pytest.mark.parametrize("text", ["", "three", "v3", "12345.0", "\u0663.1", "9" * 5000])
def test_what_is_no_version_is_refused(text: str) -> None:
    with pytest.raises(FormatError, match="keras_version: expected a version"):
        KerasVersion(text)


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (0.5, 0.5),
        (3, 3.0),
        ("0.25", 0.25),
        ({"type": "ndarray", "value": 0.5}, 0.5),
        ({"class_name": "__numpy__", "config": {"value": 1.5, "dtype": "float32"}}, 1.5),
        (True, None),
        (None, None),
        ("x", None),
        ([1.0], None),
        (float("nan"), None),
        (float("inf"), None),
        (1e39, None),
        (10**400, None),
        ({"config": 3}, None),
    ],
)
def test_numbers_of_configurations(value: Any, wanted: float | None) -> None:
    assert number(value) == wanted
