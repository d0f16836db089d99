"""Masks, directions, merges and wrappers, case by case, against Keras 3 and Keras 2 themselves.

The random models of ``tests/interop`` say that models agree; these say which meaning of Keras each agreement is
about: a case is named for one. Slow, and needs Keras, TensorFlow and tf-keras:
``pytest -m interop tests/test_builder_live.py``. The models are built by this file run as a program, so that no
framework is imported where ours computes::

    python tests/test_builder_live.py keras DIRECTORY
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

Case = tuple[str, Any, list[Any]]

RANDOM = np.random.default_rng(0)


def numbers(*shape: int) -> Any:
    return RANDOM.normal(size=shape).astype(np.float32)


X, Y = numbers(5, 7, 3), numbers(5, 7, 3)
X_MASKED, Y_MASKED = X.copy(), Y.copy()
X_MASKED[0, 3:] = X_MASKED[1, :2] = X_MASKED[2] = 0
X_MASKED[3, [1, 4]] = 0
Y_MASKED[0, :3] = Y_MASKED[4, 5:] = Y_MASKED[2] = 0
TOKENS = RANDOM.integers(1, 6, (5, 7)).astype(np.int32)
TOKENS[0, 3:] = TOKENS[1, :2] = TOKENS[2] = 0
TOKENS[3, [1, 4]] = 0
NESTED = RANDOM.integers(1, 4, (4, 3, 5)).astype(np.int32)
NESTED[0, 2] = NESTED[1, 0, 3:] = 0


def recurrent_cases(keras: Any) -> Iterator[Case]:
    """LSTM and Bidirectional: every way of running, all of them with masks."""
    layers, x = keras.layers, keras.Input((7, 3))
    masked = layers.Masking()(x)
    for backwards, sequences, bias, unroll in itertools.product((False, True), repeat=4):
        options = {"return_sequences": sequences, "go_backwards": backwards, "use_bias": bias, "unroll": unroll}
        y = layers.LSTM(4, return_state=True, **options)(masked)
        yield f"lstm {options}", keras.Model(x, y), [X_MASKED]
        if sequences or not unroll:  # Keras 2 cannot build the other one
            y = layers.LSTM(4, zero_output_for_mask=True, **options)(masked)
            yield f"lstm zeroed {options}", keras.Model(x, y), [X_MASKED]
    for mode, sequences, unroll in itertools.product(
        ("concat", "sum", "mul", "ave", None), (False, True), (False, True)
    ):
        inner = layers.LSTM(4, return_sequences=sequences, unroll=unroll)
        y = layers.Bidirectional(inner, merge_mode=mode)(masked)
        yield f"bidirectional {mode} {sequences} {unroll}", keras.Model(x, y), [X_MASKED]
    for mode in ("concat", None):
        y = layers.Bidirectional(layers.LSTM(4, return_sequences=True, return_state=True), merge_mode=mode)(masked)
        yield f"bidirectional states {mode}", keras.Model(x, y), [X_MASKED]
    for units, sequences in ((4, True), (6, True), (4, False)):
        options = {"return_sequences": sequences}
        ahead, back = layers.LSTM(4, **options), layers.LSTM(units, go_backwards=True, **options)
        y = layers.Bidirectional(ahead, backward_layer=back)(masked)
        yield f"bidirectional of two layers {units} {sequences}", keras.Model(x, y), [X_MASKED]
        first, second = layers.LSTM(4, go_backwards=True, **options), layers.LSTM(4, **options)
        y = layers.Bidirectional(first, backward_layer=second)(masked)
        yield f"bidirectional flipped {units} {sequences}", keras.Model(x, y), [X_MASKED]
    for activation, recurrent in (
        ("relu", "hard_sigmoid"),
        ("softsign", "tanh"),
        ("gelu", "sigmoid"),
        ("elu", "softsign"),
    ):
        y = layers.LSTM(4, activation=activation, recurrent_activation=recurrent, return_sequences=True)(x)
        yield f"activations {activation} {recurrent}", keras.Model(x, y), [X / 2]


def state_cases(keras: Any) -> Iterator[Case]:
    """Initial states, with and without masks."""
    layers, x, h, c = keras.layers, keras.Input((None, 3)), keras.Input((4,)), keras.Input((4,))
    states = [numbers(5, 4), numbers(5, 4)]
    for name, sequence, values in (("plain", x, X), ("masked", layers.Masking()(x), X_MASKED)):
        for sequences in (False, True):
            y = layers.LSTM(4, return_sequences=sequences, return_state=True)(sequence, initial_state=[h, c])
            yield f"initial state {name} {sequences}", keras.Model([x, h, c], y), [values, *states]
    source, target, embedding = keras.Input((None,)), keras.Input((None,)), layers.Embedding(6, 4, mask_zero=True)
    _, h, c = layers.LSTM(5, return_state=True)(embedding(source))
    y = layers.LSTM(5, return_sequences=True)(embedding(target), initial_state=[h, c])
    y = layers.Dense(6, activation="softmax")(y)
    yield "encoder and decoder", keras.Model([source, target], y), [TOKENS, TOKENS[:, ::-1].copy()]


def mask_cases(keras: Any) -> Iterator[Case]:
    """Which layers make, pass, join and drop masks."""
    layers, a, b = keras.layers, keras.Input((7, 3)), keras.Input((7, 3))
    for merge in ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate"):
        for first, second in itertools.product((False, True), repeat=2):
            left = layers.Masking()(a) if first else a
            right = layers.Masking()(b) if second else b
            y = getattr(layers, merge)()([left, right])
            outputs = [layers.LSTM(4, return_sequences=True)(y), y]
            yield f"{merge} {first} {second}", keras.Model([a, b], outputs), [X_MASKED, Y_MASKED]
        if merge not in ("Subtract", "Concatenate"):
            three = [layers.Masking()(a), b, layers.Masking(mask_value=0.5)(a)]
            y = layers.LSTM(4)(getattr(layers, merge)()(three))
            yield f"{merge} of three", keras.Model([a, b], y), [X_MASKED, Y_MASKED]
    for masked in (False, True):
        parts = [layers.Masking()(one) if masked else one for one in (a, b)]
        y = layers.LSTM(4, return_sequences=True)(layers.Concatenate(axis=1)(parts))
        yield f"concatenated in time {masked}", keras.Model([a, b], y), [X_MASKED, Y_MASKED]

    def shown(tensor: Any) -> Any:
        return layers.LSTM(2, return_sequences=True)(tensor)

    masking = layers.Masking()(a)
    passing = (
        layers.Dropout(0.1), layers.GaussianNoise(0.1), layers.GaussianDropout(0.1), layers.AlphaDropout(0.1),
        layers.ActivityRegularization(), layers.Activation("tanh"), layers.ReLU(negative_slope=0.5),
        layers.LeakyReLU(), layers.ELU(), layers.Dense(4), layers.BatchNormalization(), layers.LayerNormalization(),
        layers.TimeDistributed(layers.Dense(4)),
    )  # fmt: skip
    dropping = (layers.Permute((1, 2)), layers.Reshape((7, 3)), layers.RepeatVector(4), layers.GlobalMaxPooling1D())
    for layer in (*passing, *dropping[:2]):
        yield f"mask through {type(layer).__name__}", keras.Model(a, shown(layer(masking))), [X_MASKED]
    flat = layers.Dense(3)(layers.Flatten()(masking))
    outputs = [shown(dropping[2](flat)), dropping[3](masking), layers.GlobalAveragePooling1D()(masking)]
    yield "masks that end", keras.Model(a, outputs), [X_MASKED]
    tokens = keras.Input((None,))
    y = layers.Embedding(6, 4, mask_zero=True)(tokens)
    yield "embedding", keras.Model(tokens, [shown(y), layers.LSTM(3)(y)]), [TOKENS]


def wrapper_cases(keras: Any) -> Iterator[Case]:
    """TimeDistributed, and masks of tokens within its steps."""
    layers, tokens = keras.layers, keras.Input((3, 5))
    embedded = layers.Embedding(4, 6, mask_zero=True)(tokens)
    inner = {
        "lstm": layers.LSTM(4),
        "bidirectional": layers.Bidirectional(layers.LSTM(4)),
        "pooling": layers.GlobalAveragePooling1D(),
    }
    for name, layer in inner.items():
        y = layers.Dense(3)(layers.TimeDistributed(layer)(embedded))
        yield f"time distributed {name}", keras.Model(tokens, y), [NESTED]
    y = layers.TimeDistributed(layers.LSTM(4))(layers.TimeDistributed(layers.Embedding(4, 6, mask_zero=True))(tokens))
    yield "time distributed embedding", keras.Model(tokens, y), [NESTED]


def normalization_cases(keras: Any) -> Iterator[Case]:
    """Normalization along any axis, activations, shapes."""
    layers, x = keras.layers, keras.Input((7, 3))
    stack = (
        layers.BatchNormalization(),
        layers.LayerNormalization(axis=[1, 2]),
        layers.BatchNormalization(axis=1, scale=False),
        layers.LayerNormalization(axis=1, center=False),
        layers.Softmax(axis=1),
        layers.Permute((2, 1)),
    )
    y = x
    for layer in stack:
        y = layer(y)
    yield "normalizations", keras.Model(x, y), [X]
    relu = layers.ReLU(max_value=1.5, negative_slope=0.1, threshold=0.2)
    for layer in (relu, layers.ELU(0.5), layers.LeakyReLU(0.1)):
        yield f"{layer.name}", keras.Model(x, layer(layers.Dense(4, activation=type(layer)())(x))), [X * 3]
    for name in ("hard_sigmoid", "selu", "softplus", "exponential", "gelu", "swish", "log_softmax", "mish", "relu6"):
        yield f"dense {name}", keras.Model(x, layers.Dense(4, activation=name)(x)), [X]
    y = layers.LSTM(3)(layers.RepeatVector(4)(layers.Reshape((-1,))(layers.Flatten()(x))))
    yield "shapes", keras.Model(x, y), [X]
    first = layers.LSTM(4)
    other = keras.Input((7, 3))
    outputs = [first(x), layers.Subtract()([first(x), first(other)])]
    yield "a shared layer", keras.Model([x, other], outputs), [X, Y]


def cases(keras: Any) -> Iterator[Case]:
    for kind in (recurrent_cases, state_cases, mask_cases, wrapper_cases, normalization_cases):
        yield from kind(keras)


def main(package: str, directory: Path) -> None:
    """Build every case, save it in both formats, and record what Keras makes of it."""
    warnings.simplefilter("ignore")
    keras: Any = __import__(package)
    for place, (name, model, inputs) in enumerate(cases(keras)):
        for weight in model.weights:
            values = RANDOM.normal(size=tuple(weight.shape)) * 0.6
            weight.assign((np.abs(values) + 0.3 if "variance" in weight.name else values).astype(np.float32))
        outputs = model(inputs if len(inputs) > 1 else inputs[0], training=False)
        outputs = list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]
        arrays = {f"input_{number}": array for number, array in enumerate(inputs)}
        arrays |= {f"output_{number}": np.asarray(array) for number, array in enumerate(outputs)}
        np.savez(directory / f"{place:03}.npz", name=np.array(name), **arrays)
        for ending in ("keras", "h5"):
            model.save(directory / f"{place:03}.{ending}")


def expected_cases() -> int:
    """Return how many cases there are at least, so that none is lost unseen."""
    return 130


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
else:
    import pytest

    import lstm_engine as le

    pytestmark = pytest.mark.interop

    @pytest.mark.parametrize("package", ["keras", "tf_keras"])
    def test_every_case_agrees_with_the_framework(package: str, tmp_path: Path) -> None:
        pytest.importorskip(package)
        settings = {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_NUM_INTRAOP_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, __file__, package, str(tmp_path)]
        done = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        wrong = []
        records = sorted(tmp_path.glob("*.npz"))
        assert len(records) >= expected_cases()
        for record in records:
            with np.load(record) as arrays:
                inputs = [arrays[name] for name in arrays.files if name.startswith("input_")]
                outputs = [arrays[name] for name in arrays.files if name.startswith("output_")]
                name = str(arrays["name"])
            for ending in (".keras", ".h5"):
                try:
                    found = le.load(record.with_suffix(ending))(*inputs)
                except le.LstmEngineError as error:
                    wrong.append(f"{name}{ending}: {error}")
                    continue
                found = found if isinstance(found, tuple) else (found,)
                for one, other in zip(found, outputs, strict=True):
                    finite = np.isfinite(other)
                    distance = np.linalg.norm(np.where(finite, one - np.where(finite, other, 0), 0))
                    if one.shape != other.shape or not np.array_equal(finite, np.isfinite(one)):
                        wrong.append(f"{name}{ending}: shape or what is finite")
                    elif distance > 2e-6 * max(np.linalg.norm(other[finite]), 1e-3):
                        wrong.append(f"{name}{ending}: differs by {distance}")
        assert wrong == []
