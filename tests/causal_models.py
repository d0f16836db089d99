"""Causal models of every kind that streams, pools and windows run, and what they must give: the model's last step."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from described import dense, input_layer, layer, lstm, model, random
from hypothesis import settings

import lstm_engine as le
from lstm_engine.builder import build_model

FEATURES = 3

#: Every kind, and those that are compiled stages.
COMPILED = ("lstm", "stack", "chain", "head", "bfloat16", "int8", "int8_recurrent")
KINDS = (*COMPILED, "tokens", "convolution", "graph", "double")


def _lstm(seed: int, features: int, units: int, **options: Any) -> le.LSTM:
    arrays = (random(seed, features, 4 * units, scale=0.7), random(seed + 1, units, 4 * units, scale=0.5))
    return le.LSTM.from_weights(*arrays, random(seed + 2, 4 * units, scale=0.5), **options)


def _stack(layers: int, features: int, units: int, outputs: int, **options: Any) -> le.LSTM:
    """Layers with a projection, of sizes that are no multiple of any vector."""
    from strategies import Options, make_weights

    return le.LSTM(make_weights(Options(features, units, layers=layers, output_size=outputs), seed=units), **options)


def _convolution() -> Any:
    """Causal convolutions of each kind, a GRU and normalization: a graph with state of several sorts."""
    depthwise = {"depthwise_kernel": random(12, 1, 4, 2), "bias": random(13, 8)}
    separable = {
        "depthwise_kernel": random(14, 3, 8, 1), "pointwise_kernel": random(15, 1, 8, 5), "bias": random(16, 5)
    }  # fmt: skip
    gru = {"kernel": random(17, 5, 12), "recurrent_kernel": random(18, 4, 12), "bias": random(19, 2, 12)}
    options = {"padding": "causal", "strides": [1], "use_bias": True, "activation": "linear", "groups": 1}
    options["data_format"] = "channels_last"
    return build_model(model(
        input_layer("x", None, FEATURES),
        layer("conv", "Conv1D", "x", config={**options, "filters": 4, "kernel_size": [3], "dilation_rate": [2],
              "activation": "relu"}, weights={"kernel": random(10, 3, FEATURES, 4), "bias": random(11, 4)}),
        layer("depthwise", "DepthwiseConv1D", "conv", config={**options, "kernel_size": [1], "depth_multiplier": 2,
              "dilation_rate": [1], "padding": "same"}, weights=depthwise),
        layer("separable", "SeparableConv1D", "depthwise", config={**options, "filters": 5, "kernel_size": [3],
              "depth_multiplier": 1, "dilation_rate": [1]}, weights=separable),
        layer("gru", "GRU", "separable", config={"units": 4, "activation": "tanh", "recurrent_activation": "sigmoid",
              "use_bias": True, "reset_after": True, "return_sequences": True}, weights=gru),
        layer("norm", "LayerNormalization", "gru", config={"axis": -1, "epsilon": 1e-3},
              weights={"gamma": random(20, 4), "beta": random(21, 4)}),
        lstm("lstm", "norm", features=4, units=6),
        dense("dense", "lstm", features=6, units=2),
    ))  # fmt: skip


def _graph() -> Any:
    """Two branches that meet again."""
    return build_model(model(
        input_layer("x", None, FEATURES),
        lstm("left", "x", features=FEATURES, units=5, seed=1, return_sequences=True),
        dense("right", "x", features=FEATURES, units=5),
        layer("sum", "Add", "left", "right"),
        lstm("last", "sum", features=5, units=7, seed=3),
        dense("dense", "last", features=7, units=3, activation="softmax"),
    ))  # fmt: skip


@cache
def causal_model(kind: str) -> Any:
    """Return the model of a kind."""
    match kind:
        case "lstm":
            return _lstm(1, FEATURES, 16)
        case "stack":
            return _stack(3, FEATURES, 21, 9)
        case "chain":
            return le.Sequential([
                _lstm(2, FEATURES, 9), le.Dense(random(5, 9, 6), activation="relu"), _stack(2, 6, 18, 18),
                le.LastStep(), le.Dense(random(6, 18, 4), random(7, 4), activation="softmax"),
            ])  # fmt: skip
        case "head":
            return le.Sequential(
                [le.Dense(random(8, FEATURES, 5), activation="tanh"), _lstm(3, 5, 8), le.Dense(random(9, 8, 1))]
            )
        case "bfloat16" | "int8" | "int8_recurrent":
            units = 16 + len(kind)
            return _stack(2, FEATURES, units, units, compute_type=kind)
        case "tokens":
            return le.Sequential([
                le.Embedding(random(4, 11, FEATURES)), _lstm(4, FEATURES, 8), le.LastStep(), le.Dense(random(7, 8, 3))
            ])  # fmt: skip
        case "convolution":
            return _convolution()
        case "graph":
            return _graph()
        case "double":
            return _lstm(5, FEATURES, 7, compute_type="float64")
    raise ValueError(kind)


def inputs_of(kind: str, seed: int, *lead: int) -> Any:
    """Return inputs of shape (*lead, features), or token numbers of shape lead."""
    numbers = np.random.default_rng([seed, *lead])
    if kind == "tokens":
        return numbers.integers(0, 11, lead)
    return numbers.standard_normal((*lead, FEATURES)).astype(np.float64 if kind == "double" else np.float32)


def whole(kind: str, x: Any) -> Any:
    """Return the last output of the model over whole sequences (batch, time, ...): (batch, outputs)."""
    source = causal_model(kind)
    y = source(x)
    y = y[0] if isinstance(source, le.LSTM) else y
    return y[:, -1] if y.ndim == 3 else y


def assert_same(kind: str, found: Any, wanted: Any, what: str = "") -> None:
    """Compare bits; float64 is the BLAS's, whose sums depend on the shape."""
    if kind == "double":
        np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-14, err_msg=what)
    else:
        assert found.dtype == wanted.dtype == np.float32
        assert found.shape == wanted.shape, what
        np.testing.assert_array_equal(found.view(np.uint32), wanted.view(np.uint32), err_msg=what)


def deeper(machine: Any) -> Any:
    """Return a state machine as a slow test: more runs than every time, and longer ones."""
    case = type(f"Deep{machine.__name__}", (machine,), {}).TestCase
    case.settings = settings(max_examples=250, stateful_step_count=60)
    return pytest.mark.slow(case)
