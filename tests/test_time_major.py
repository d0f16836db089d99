"""Keras 2's ``time_major=True``: the bits of the same model with the batch in front, and what knows of the axes.

That tf-keras computes the same is compared in ``formats/test_keras_recurrent.py`` and ``interop/test_recurrent.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from described import dense, input_layer, layer, lstm, model, random

import lstm_engine as le
from lstm_engine.builder import build_model
from lstm_engine.description import LayerDescription, ModelDescription, TensorRef
from lstm_engine.integrations.tables import Predictor

FEATURES, UNITS, BATCH, TIME = 3, 4, 5, 7
X = random(0, BATCH, TIME, FEATURES)
LENGTHS = np.array([7, 3, 0, 1, 6])
MASK = np.random.default_rng(1).random((BATCH, TIME)) < 0.6


def gru(name: str, source: str, **config: Any) -> LayerDescription:
    options = {"units": UNITS, "recurrent_activation": "sigmoid", "reset_after": True, **config}
    weights = {
        "kernel": random(10, FEATURES, 3 * UNITS),
        "recurrent_kernel": random(11, UNITS, 3 * UNITS),
        "bias": random(12, 2, 3 * UNITS),
    }
    return layer(name, "GRU", source, config=options, weights=weights)


def both_ways(name: str, source: str, **config: Any) -> LayerDescription:
    inner = {
        role: lstm(role, features=FEATURES, units=UNITS, seed=place, go_backwards=bool(place), **config)
        for place, role in enumerate(("forward_layer", "backward_layer"))
    }
    return layer(name, "Bidirectional", source, config={"merge_mode": "concat"}, inner=inner)


LAYERS = {
    "lstm": lambda **config: lstm("recurrent", "x", features=FEATURES, units=UNITS, **config),
    "gru": lambda **config: gru("recurrent", "x", **config),
    "bidirectional": lambda **config: both_ways("recurrent", "x", **config),
    "backwards": lambda **config: lstm("recurrent", "x", features=FEATURES, units=UNITS, go_backwards=True, **config),
}


def described(*layers: LayerDescription, version: str = "2.15.0", **keywords: Any) -> ModelDescription:
    return model(*layers, version=version, **keywords)


def pair(kind: str, sequences: bool) -> tuple[le.Model, le.Model]:
    """Return a model with time in front, and the same one with the batch there."""
    width = UNITS * (2 if kind == "bidirectional" else 1)

    def made(major: bool) -> le.Model:
        recurrent = LAYERS[kind](return_sequences=sequences, time_major=major)
        head = dense("dense", "recurrent", features=width, units=2)
        return build_model(described(input_layer("x", None, FEATURES), recurrent, head))

    return made(True), made(False)


@pytest.mark.parametrize("given", ["nothing", "mask", "lengths"])
@pytest.mark.parametrize("sequences", [False, True])
@pytest.mark.parametrize("kind", LAYERS)
def test_the_bits_are_those_with_the_batch_in_front(kind: str, sequences: bool, given: str) -> None:
    first, second = pair(kind, sequences)
    x = X.swapaxes(0, 1)
    ours: dict[str, Any] = {"nothing": {}, "mask": {"mask": MASK.T}, "lengths": {"lengths": LENGTHS}}[given]
    plain: dict[str, Any] = {"nothing": {}, "mask": {"mask": MASK}, "lengths": {"lengths": LENGTHS}}[given]
    wanted = second(X, **plain)
    wanted = wanted.swapaxes(0, 1) if sequences else wanted
    np.testing.assert_array_equal(first(x, **ours), wanted)
    # Axis 0 is not cut into batches.
    np.testing.assert_array_equal(first.predict(x, batch_size=2, **ours), wanted)
    np.testing.assert_array_equal(first.predict({"x": x}, batch_size=2, **ours), wanted)


def test_lengths_and_masks_of_the_other_order_are_refused() -> None:
    first, _ = pair("lstm", True)
    x = X.swapaxes(0, 1)
    with pytest.raises(le.ShapeError, match=r"mask: expected shape \(7, 5\), found shape \(5, 7\)"):
        first(x, mask=MASK)
    with pytest.raises(le.ShapeError, match=r"lengths: expected shape \(5,\)"):
        first(x, lengths=np.ones(TIME, np.int64))
    with pytest.raises(le.ShapeError, match=r"x: expected shape \(time, batch, 3\)"):
        first(x[..., :2])


def test_masks_of_the_model_and_lengths_of_the_caller_join() -> None:
    results = []
    for major in (True, False):
        built = build_model(
            described(
                input_layer("x", None, FEATURES),
                layer("masking", "Masking", "x", config={"mask_value": 0.0}),
                lstm("lstm", "masking", features=FEATURES, units=UNITS, return_sequences=True, time_major=major),
            )
        )
        x = np.where(MASK[..., None], X, np.float32(0))
        results.append(built(x.swapaxes(0, 1) if major else x, lengths=LENGTHS))
    np.testing.assert_array_equal(results[0].swapaxes(0, 1), results[1])


def encoder(major: bool) -> le.Model:
    return build_model(
        described(
            input_layer("x", None, FEATURES),
            input_layer("after", None, FEATURES),
            lstm("encoder", "x", features=FEATURES, units=UNITS, return_state=True, time_major=major),
            lstm(
                "decoder",
                "after",
                features=FEATURES,
                units=UNITS,
                seed=3,
                return_sequences=True,
                keywords={"initial_state": [TensorRef("encoder", 0, place) for place in (1, 2)]},
            ),
            outputs=["decoder"],
        )
    )


def test_only_the_input_that_needs_it_is_turned() -> None:
    after = random(5, BATCH, 2, FEATURES)
    first, second = encoder(True), encoder(False)
    turned = X.swapaxes(0, 1)
    np.testing.assert_array_equal(first(turned, after), second(X, after))
    lengths = (LENGTHS, np.array([2, 1, 2, 0, 2]))
    np.testing.assert_array_equal(first(turned, after, lengths=lengths), second(X, after, lengths=lengths))
    np.testing.assert_array_equal(first.predict((turned, after), batch_size=1), second(X, after))
    with pytest.raises(le.ShapeError, match="after: expected 5 rows as in x, found 7"):
        first(turned, random(5, TIME, 2, FEATURES))


def test_what_cuts_rows_apart_is_refused(tmp_path: Path) -> None:
    first, _ = pair("lstm", False)
    with pytest.raises(le.UnsupportedModelError, match=r"'recurrent' \(LSTM\) cannot run in a stream: time_major=True"):
        first.stream()
    with pytest.raises(le.UnsupportedModelError, match=r"'recurrent' \(LSTM\) cannot run in a stream: time_major=True"):
        first.stream_pool(4)
    with pytest.raises(le.UnsupportedModelError, match="found layers of time_major=True; call it on arrays of"):
        Predictor(first)
    pytest.importorskip("onnx")
    with pytest.raises(le.UnsupportedModelError, match=r"'recurrent' \(LSTM\): time_major=True is not written"):
        first.to_onnx(tmp_path / "model.onnx")


@pytest.mark.parametrize("kind", LAYERS)
def test_it_is_saved(kind: str, tmp_path: Path) -> None:
    first, _ = pair(kind, True)
    x = X.swapaxes(0, 1)
    first.save(tmp_path / "model.safetensors", golden=x)
    again = le.load(tmp_path / "model.safetensors", verify=True)
    np.testing.assert_array_equal(again(x), first(x))
    np.testing.assert_array_equal(again.predict(x, batch_size=1), first(x))


def wrapped(**config: Any) -> ModelDescription:
    inner = lstm("inner", features=FEATURES, units=UNITS, time_major=True, **config)
    wrapper = layer("wrapper", "TimeDistributed", "x", inner={"layer": inner})
    return described(input_layer("x", 2, TIME, FEATURES), wrapper)


def test_the_rows_and_steps_of_a_time_distributed_are_its_time() -> None:
    built = build_model(wrapped(return_sequences=True))
    steps = random(7, 3, 2, TIME, FEATURES)
    alone = build_model(described(input_layer("x", None, FEATURES), LAYERS["lstm"](return_sequences=True)))
    wanted = alone(steps.reshape(6, TIME, FEATURES).swapaxes(0, 1)).swapaxes(0, 1).reshape(3, 2, TIME, UNITS)
    np.testing.assert_array_equal(built(steps), wanted)
    # A row depends on those before it.
    np.testing.assert_array_equal(built.predict(steps, batch_size=1), wanted)
    with pytest.raises(le.UnsupportedModelError, match="time_major=True of its layer takes the batch and"):
        built.stream()


@pytest.mark.parametrize("config", [{"return_sequences": False}, {"return_sequences": True, "stateful": True}])
def test_where_tf_keras_fails_in_a_time_distributed_it_is_refused(config: dict[str, bool]) -> None:
    with pytest.raises(le.UnsupportedModelError, match="time_major=True of 'inner' is not supported here"):
        build_model(wrapped(**config))


def test_keras_3_has_no_such_option() -> None:
    made = described(input_layer("x", None, FEATURES), LAYERS["lstm"](time_major=True), version="3.4.0")
    with pytest.raises(le.UnsupportedModelError, match=r"'recurrent' \(LSTM\): time_major=True is not supported"):
        build_model(made)


def test_two_directions_need_the_same_axes() -> None:
    inner = {
        "forward_layer": lstm("forward", features=FEATURES, units=UNITS, time_major=True),
        "backward_layer": lstm("backward", features=FEATURES, units=UNITS, go_backwards=True),
    }
    made = layer("both", "Bidirectional", "x", config={"merge_mode": "concat"}, inner=inner)
    with pytest.raises(le.FormatError, match="expected time_major to be the same in its two layers, found True and"):
        build_model(described(input_layer("x", None, FEATURES), made))
