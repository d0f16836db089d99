"""Keras models as descriptions, put together by hand, and Keras's recurrent loop in float64.

The loop is a second opinion: it is written step by step after the documentation of ``keras.layers.RNN``
(what a masked step does, which way time runs, what is returned), and shares no code with the package.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lstm_engine.description import Call, LayerDescription, ModelDescription, TensorRef

Array = np.ndarray[Any, Any]


def random(seed: int, *shape: int, scale: float = 1.0) -> Array:
    """Return distinct float32 numbers."""
    return (scale * np.random.default_rng([seed, *shape]).standard_normal(shape)).astype(np.float32)


def input_layer(name: str, *shape: int | None, dtype: str = "float32") -> LayerDescription:
    """Return an input layer; ``shape`` without the batch."""
    return LayerDescription(name, "InputLayer", {"batch_shape": [None, *shape], "dtype": dtype, "name": name})


def layer(
    name: str,
    class_name: str,
    *inputs: str | TensorRef,
    config: Mapping[str, Any] | None = None,
    weights: Mapping[str, Array] | None = None,
    inner: Mapping[str, LayerDescription] | None = None,
    keywords: Mapping[str, Sequence[str | TensorRef]] | None = None,
) -> LayerDescription:
    """Return a layer that is called once on the layers named in ``inputs`` (on none: an inner layer)."""
    named = {key: tuple(map(_ref, refs)) for key, refs in (keywords or {}).items()}
    calls = (Call(tuple(map(_ref, inputs)), named),) if inputs else ()
    full = {"name": name, "trainable": True, "dtype": "float32", **(config or {})}
    return LayerDescription(name, class_name, full, weights or {}, inner or {}, calls)


def _ref(tensor: str | TensorRef) -> TensorRef:
    return TensorRef(tensor) if isinstance(tensor, str) else tensor


def lstm_weights(seed: int, features: int, units: int, *, bias: bool = True) -> dict[str, Array]:
    """Return distinct weights by Keras's names."""
    weights = {
        "kernel": random(seed, features, 4 * units, scale=0.7),
        "recurrent_kernel": random(seed + 1000, units, 4 * units, scale=0.5),
    }
    return {**weights, "bias": random(seed + 2000, 4 * units, scale=0.5)} if bias else weights


def lstm(
    name: str, *inputs: str | TensorRef, features: int, units: int, seed: int = 0, keywords: Any = None, **config: Any
) -> LayerDescription:
    """Return an LSTM layer with Keras's usual options."""
    options = {
        "units": units,
        "activation": "tanh",
        "recurrent_activation": "sigmoid",
        "use_bias": True,
        "return_sequences": False,
        "return_state": False,
        "go_backwards": False,
        "stateful": False,
        "unroll": False,
        "dropout": 0.3,
        "recurrent_dropout": 0.2,
        "unit_forget_bias": True,
        "kernel_initializer": {"class_name": "GlorotUniform", "config": {}},
        **config,
    }
    weights = lstm_weights(seed, features, units, bias=options["use_bias"])
    return layer(name, "LSTM", *inputs, config=options, weights=weights, keywords=keywords)


def dense(name: str, *inputs: str, features: int, units: int, seed: int = 50, activation: Any = "linear") -> Any:
    """Return a dense layer."""
    weights = {"kernel": random(seed, features, units), "bias": random(seed + 1, units)}
    config = {"units": units, "activation": activation, "use_bias": True, "kernel_initializer": None}
    return layer(name, "Dense", *inputs, config=config, weights=weights)


def model(*layers: LayerDescription, outputs: Sequence[str | TensorRef] = (), version: str = "3.15.1") -> Any:
    """Return a model: its inputs are its input layers, its output the last layer unless ``outputs`` are given."""
    inputs = [one for one in layers if one.class_name == "InputLayer"]
    ends = tuple(map(_ref, outputs or [layers[-1].name]))
    return ModelDescription(
        source="model.keras",
        format="keras",
        framework="keras",
        version=version,
        name="model",
        layers=tuple(layers),
        inputs=tuple(TensorRef(one.name) for one in inputs),
        outputs=ends,
        input_names=tuple(one.name for one in inputs),
        output_names=tuple(ref.layer for ref in ends),
    )


# --- Keras's loop ---------------------------------------------------------------------------------------------------


def sigmoid(x: Array) -> Array:
    return np.asarray(1.0 / (1.0 + np.exp(-x)))


def softmax(x: Array, axis: int = -1) -> Array:
    powers = np.exp(x - x.max(axis=axis, keepdims=True))
    return np.asarray(powers / powers.sum(axis=axis, keepdims=True))


def keras_loop(
    x: Array,
    weights: Mapping[str, Array],
    *,
    mask: Array | None = None,
    state: tuple[Array, Array] | None = None,
    go_backwards: bool = False,
    zero_output_for_mask: bool = False,
) -> tuple[Array, Array, Array, Array]:
    """Run an LSTM with tanh and sigmoid; return all outputs in the order of computing, the last one, h and c."""
    kernel, recurrent = weights["kernel"].astype(np.float64), weights["recurrent_kernel"].astype(np.float64)
    bias = weights.get("bias", np.zeros(kernel.shape[1])).astype(np.float64)
    batch, time, _ = x.shape
    units = recurrent.shape[0]
    h, c = (np.zeros((batch, units)), np.zeros((batch, units))) if state is None else state
    output = np.zeros((batch, units))
    outputs = []
    for step in reversed(range(time)) if go_backwards else range(time):
        z = x[:, step].astype(np.float64) @ kernel + h @ recurrent + bias
        input_gate, forget_gate, candidate, output_gate = np.split(z, 4, axis=1)
        new_c = sigmoid(forget_gate) * c + sigmoid(input_gate) * np.tanh(candidate)
        new_h = sigmoid(output_gate) * np.tanh(new_c)
        counts = np.ones((batch, 1), bool) if mask is None else mask[:, step, None]
        output = np.where(counts, new_h, 0.0 if zero_output_for_mask else output)
        h, c = np.where(counts, new_h, h), np.where(counts, new_c, c)
        outputs.append(output)
    return np.stack(outputs, axis=1) if outputs else np.zeros((batch, 0, units)), output, h, c


#: A mask of every kind: none, gaps, masked ends, masked beginnings, nothing left.
MASK = np.array(
    [
        [1, 1, 1, 1, 1, 1],
        [1, 0, 1, 0, 0, 1],
        [1, 1, 1, 0, 0, 0],
        [0, 0, 1, 1, 1, 1],
        [0, 0, 0, 0, 0, 0],
    ],
    dtype=bool,
)
