"""Recurrent layers of a model against Keras's loop: masks, directions, merge modes, states."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from described import MASK, dense, input_layer, keras_loop, layer, lstm, lstm_weights, model, random

from lstm_engine.builder import build_model
from lstm_engine.errors import FormatError, UnsupportedModelError

FEATURES, UNITS = 3, 5
X = random(1, *MASK.shape, FEATURES)
#: The same with zeros at the masked steps, for Masking to find.
X_MASKED = np.where(MASK[..., None], X, 0).astype(np.float32)


def close(found: Any, wanted: Any) -> None:
    assert found.shape == wanted.shape
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, rtol=2e-6, atol=2e-7)


def masked_model(**config: Any) -> Any:
    """Masking, then an LSTM."""
    return build_model(
        model(
            input_layer("x", None, FEATURES),
            layer("masking", "Masking", "x", config={"mask_value": 0.0}),
            lstm("lstm", "masking", features=FEATURES, units=UNITS, **config),
        )
    )


@pytest.mark.parametrize(("sequences", "backwards", "zeroed", "bias"), list(itertools.product((False, True), repeat=4)))
def test_lstm_with_a_mask(sequences: bool, backwards: bool, zeroed: bool, bias: bool) -> None:
    options = {"go_backwards": backwards, "zero_output_for_mask": zeroed}
    found = masked_model(return_sequences=sequences, use_bias=bias, **options)(X_MASKED)
    weights = lstm_weights(0, FEATURES, UNITS, bias=bias)
    outputs, last, _, _ = keras_loop(X, weights, mask=MASK, **options)
    close(found, outputs if sequences else last)


@pytest.mark.parametrize("backwards", [False, True])
def test_the_returned_state_is_that_of_the_last_real_step(backwards: bool) -> None:
    description = model(
        input_layer("x", None, FEATURES),
        layer("masking", "Masking", "x", config={"mask_value": 0.0}),
        lstm("lstm", "masking", features=FEATURES, units=UNITS, return_state=True, go_backwards=backwards),
        outputs=[*(_output("lstm", number) for number in range(3))],
    )
    y, h, c = build_model(description)(X_MASKED)
    _, last, wanted_h, wanted_c = keras_loop(X, lstm_weights(0, FEATURES, UNITS), mask=MASK, go_backwards=backwards)
    close(y, last)
    close(h, wanted_h)
    close(c, wanted_c)
    assert not y[4].any(), "a row without a real step gives zeros"


def _output(name: str, number: int) -> Any:
    from lstm_engine.description import TensorRef

    return TensorRef(name, 0, number)


@pytest.mark.parametrize("version", ["2.15.0", "3.15.1"])
def test_an_initial_state_and_a_mask(version: str) -> None:
    # Keras 3 does not look at the travelling mask where an initial state is given; Keras 2 does.
    h0, c0 = random(8, 5, UNITS), random(9, 5, UNITS)
    description = model(
        input_layer("x", None, FEATURES),
        input_layer("h0", UNITS),
        input_layer("c0", UNITS),
        layer("masking", "Masking", "x", config={"mask_value": 0.0}),
        lstm(
            "lstm", "masking", features=FEATURES, units=UNITS, return_sequences=True,
            keywords={"initial_state": ["h0", "c0"]},
        ),
        version=version,
    )  # fmt: skip
    mask = MASK if version.startswith("2") else None
    outputs, _, _, _ = keras_loop(X_MASKED, lstm_weights(0, FEATURES, UNITS), mask=mask, state=(h0, c0))
    close(build_model(description)(X_MASKED, h0, c0), outputs)


def test_the_last_output_before_any_real_step_is_zero_whatever_the_initial_state() -> None:
    h0, c0 = random(8, 5, UNITS), random(9, 5, UNITS)
    description = model(
        input_layer("x", None, FEATURES),
        input_layer("h0", UNITS),
        input_layer("c0", UNITS),
        layer("masking", "Masking", "x", config={"mask_value": 0.0}),
        lstm("lstm", "masking", features=FEATURES, units=UNITS, return_state=True,
             keywords={"initial_state": ["h0", "c0"]}),
        outputs=[_output("lstm", number) for number in range(3)],
        version="2.15.0",
    )  # fmt: skip
    y, h, c = build_model(description)(X_MASKED, h0, c0)
    assert not y[4].any()
    np.testing.assert_array_equal(h[4], h0[4])
    np.testing.assert_array_equal(c[4], c0[4])


def test_unrolling_changes_what_is_zeroed_in_a_sequence_that_goes_backwards() -> None:
    # Keras reverses the mask for the loop but not for the zeroing at its end.
    options = {"return_sequences": True, "go_backwards": True, "zero_output_for_mask": True}
    found = masked_model(unroll=True, **options)(X_MASKED)
    outputs, _, _, _ = keras_loop(X, lstm_weights(0, FEATURES, UNITS), mask=MASK, go_backwards=True)
    close(found, np.where(MASK[..., None], outputs, 0.0))
    assert np.abs(found - masked_model(unroll=False, **options)(X_MASKED)).max() > 0.01


MERGES = {
    "concat": lambda forward, backward: np.concatenate([forward, backward], axis=-1),
    "sum": lambda forward, backward: forward + backward,
    "mul": lambda forward, backward: forward * backward,
    "ave": lambda forward, backward: (forward + backward) / 2,
}


def bidirectional(
    *inputs: str, forward: dict[str, Any], backward: dict[str, Any], units: int = UNITS, **config: Any
) -> Any:
    """Return a Bidirectional layer with the two LSTMs."""
    return layer(
        "bi",
        "Bidirectional",
        *inputs,
        config={"merge_mode": "concat", "layer": {}, **config},
        inner={
            "forward_layer": lstm("forward", features=FEATURES, units=UNITS, seed=1, **forward),
            "backward_layer": lstm("backward", features=FEATURES, units=units, seed=2, **backward),
        },
    )


@pytest.mark.parametrize(("mode", "sequences"), list(itertools.product(MERGES, (False, True))))
@pytest.mark.parametrize("version", ["2.3.1", "2.15.0", "3.15.1"])
def test_bidirectional(mode: str, sequences: bool, version: str) -> None:
    options = {"return_sequences": sequences}
    description = model(
        input_layer("x", None, FEATURES),
        layer("masking", "Masking", "x", config={"mask_value": 0.0}),
        bidirectional("masking", forward=options, backward={**options, "go_backwards": True}, merge_mode=mode),
        version=version,
    )
    # Keras outside of TensorFlow, up to 2.3.1, let masked steps repeat the output; since then they are zero.
    zeroed = sequences and version != "2.3.1"
    forward, last_forward, _, _ = keras_loop(
        X, lstm_weights(1, FEATURES, UNITS), mask=MASK, zero_output_for_mask=zeroed
    )
    backward, last_backward, _, _ = keras_loop(
        X, lstm_weights(2, FEATURES, UNITS), mask=MASK, zero_output_for_mask=zeroed, go_backwards=True
    )
    wanted = MERGES[mode](forward, backward[:, ::-1]) if sequences else MERGES[mode](last_forward, last_backward)
    close(build_model(description)(X_MASKED), wanted)


def test_bidirectional_without_merging_returns_both_and_all_states() -> None:
    options = {"return_sequences": True, "return_state": True}
    description = model(
        input_layer("x", None, FEATURES),
        bidirectional("x", forward=options, backward={**options, "go_backwards": True}, merge_mode=None),
        outputs=[_output("bi", number) for number in range(6)],
    )
    found = build_model(description)(X)
    forward, _, h, c = keras_loop(X, lstm_weights(1, FEATURES, UNITS))
    backward, _, back_h, back_c = keras_loop(X, lstm_weights(2, FEATURES, UNITS), go_backwards=True)
    for one, wanted in zip(found, (forward, backward[:, ::-1], h, c, back_h, back_c), strict=True):
        close(one, wanted)


def test_bidirectional_with_cells_of_two_sizes() -> None:
    options = {"return_sequences": True}
    description = model(
        input_layer("x", None, FEATURES),
        layer("masking", "Masking", "x", config={"mask_value": 0.0}),
        bidirectional("masking", forward=options, backward={**options, "go_backwards": True}, units=UNITS + 2),
    )
    forward, *_ = keras_loop(X, lstm_weights(1, FEATURES, UNITS), mask=MASK, zero_output_for_mask=True)
    backward, *_ = keras_loop(
        X, lstm_weights(2, FEATURES, UNITS + 2), mask=MASK, zero_output_for_mask=True, go_backwards=True
    )
    close(build_model(description)(X_MASKED), np.concatenate([forward, backward[:, ::-1]], axis=-1))


@pytest.mark.parametrize("sequences", [False, True])
def test_bidirectional_whose_first_layer_goes_backwards(sequences: bool) -> None:
    options = {"return_sequences": sequences}
    description = model(
        input_layer("x", None, FEATURES),
        bidirectional("x", forward={**options, "go_backwards": True}, backward=options),
    )
    first, last_first, _, _ = keras_loop(X, lstm_weights(1, FEATURES, UNITS), go_backwards=True)
    second, last_second, _, _ = keras_loop(X, lstm_weights(2, FEATURES, UNITS))
    wanted = [first, second[:, ::-1]] if sequences else [last_first, last_second]
    close(build_model(description)(X), np.concatenate(wanted, axis=-1))


def test_bidirectional_with_an_initial_state_for_each_cell() -> None:
    states = [random(seed, 5, UNITS) for seed in (20, 21, 22, 23)]
    names = ["h0", "c0", "h1", "c1"]
    options = {"return_sequences": True}
    bi = bidirectional("x", forward=options, backward={**options, "go_backwards": True}, merge_mode="sum")
    bi = type(bi)(bi.name, bi.class_name, bi.config, bi.weights, bi.inner, (_call("x", names),))
    description = model(input_layer("x", None, FEATURES), *(input_layer(name, UNITS) for name in names), bi)
    forward, *_ = keras_loop(X, lstm_weights(1, FEATURES, UNITS), state=(states[0], states[1]))
    backward, *_ = keras_loop(X, lstm_weights(2, FEATURES, UNITS), state=(states[2], states[3]), go_backwards=True)
    close(build_model(description)(X, *states), forward + backward[:, ::-1])


def _call(name: str, states: list[str]) -> Any:
    from lstm_engine.description import Call, TensorRef

    return Call((TensorRef(name),), {"initial_state": tuple(map(TensorRef, states))})


def test_bidirectional_layers_that_do_not_fit_together() -> None:
    forward = {"return_sequences": True}
    for backward in ({"return_sequences": False, "go_backwards": True}, {"return_sequences": True}):
        description = model(input_layer("x", None, FEATURES), bidirectional("x", forward=forward, backward=backward))
        with pytest.raises(FormatError, match="'bi'"):
            build_model(description)
    uneven = bidirectional(
        "x", forward=forward, backward={**forward, "go_backwards": True}, units=UNITS + 1, merge_mode="sum"
    )
    with pytest.raises(FormatError, match=r"'bi'.*merge_mode 'sum': expected cells of one size, found 5 and 6 units"):
        build_model(model(input_layer("x", None, FEATURES), uneven))


@pytest.mark.parametrize(
    ("version", "slope"), [("1", 0.2), ("2.2.4", 0.2), ("2.15.0", 0.2), ("3.0.5", 1 / 6), ("3.15.1", 1 / 6)]
)
def test_hard_sigmoid_means_what_the_version_says(version: str, slope: float) -> None:
    description = model(
        input_layer("x", None, FEATURES),
        lstm("lstm", "x", features=FEATURES, units=UNITS, recurrent_activation="hard_sigmoid"),
        dense("dense", "lstm", features=UNITS, units=2, activation="hard_sigmoid"),
        version=version,
    )
    weights = {name: array.astype(np.float64) for name, array in lstm_weights(0, FEATURES, UNITS).items()}
    h = c = np.zeros((len(X), UNITS))
    for step in range(X.shape[1]):
        z = X[:, step] @ weights["kernel"] + h @ weights["recurrent_kernel"] + weights["bias"]
        i, f, g, o = np.split(z, 4, axis=1)
        i, f, o = (np.clip(slope * gate + 0.5, 0.0, 1.0) for gate in (i, f, o))
        c = f * c + i * np.tanh(g)
        h = o * np.tanh(c)
    kernel = random(50, UNITS, 2).astype(np.float64)
    close(build_model(description)(X), np.clip(slope * (h @ kernel + random(51, 2)) + 0.5, 0.0, 1.0))


def test_time_distributed_runs_a_sequence_within_each_step() -> None:
    x = random(5, 4, 3, 6, FEATURES)
    description = model(
        input_layer("x", 3, 6, FEATURES),
        layer(
            "td", "TimeDistributed", "x", config={"layer": {}},
            inner={"layer": lstm("inner", features=FEATURES, units=UNITS)},
        ),
    )  # fmt: skip
    wanted = np.stack([keras_loop(x[:, step], lstm_weights(0, FEATURES, UNITS))[1] for step in range(3)], axis=1)
    close(build_model(description)(x), wanted)


def test_time_distributed_sees_the_inner_part_of_a_mask_of_tokens() -> None:
    table = random(6, 4, FEATURES)
    tokens = np.random.default_rng(3).integers(1, 4, (4, 3, 6))
    tokens[0, 1, 3:] = tokens[1, 2] = tokens[2, 0, :2] = 0
    description = model(
        input_layer("tokens", 3, 6),
        layer(
            "embed", "Embedding", "tokens",
            config={"input_dim": 4, "output_dim": FEATURES, "mask_zero": True}, weights={"embeddings": table},
        ),
        layer(
            "td", "TimeDistributed", "embed", config={"layer": {}},
            inner={"layer": lstm("inner", features=FEATURES, units=UNITS)},
        ),
    )  # fmt: skip
    wanted = [
        keras_loop(table[tokens[:, step]], lstm_weights(0, FEATURES, UNITS), mask=tokens[:, step] != 0)[1]
        for step in range(3)
    ]
    close(build_model(description)(tokens), np.stack(wanted, axis=1))


@pytest.mark.parametrize("version", ["2.15.0", "3.15.1"])
def test_what_a_wrapped_layer_does_to_masks(version: str) -> None:
    # Keras 2 asks the wrapped embedding for a mask and passes it on; Keras 3 passes on the mask that came in: none.
    table = random(6, 4, FEATURES)
    tokens = np.array([[[1, 2], [3, 0], [0, 0]], [[0, 1], [2, 2], [3, 1]]])
    description = model(
        input_layer("tokens", 3, 2),
        layer(
            "td", "TimeDistributed", "tokens", config={"layer": {}},
            inner={
                "layer": layer(
                    "embed", "Embedding",
                    config={"input_dim": 4, "output_dim": FEATURES, "mask_zero": True}, weights={"embeddings": table},
                )
            },
        ),
        layer(
            "td2", "TimeDistributed", "td", config={"layer": {}},
            inner={"layer": lstm("inner", features=FEATURES, units=UNITS)},
        ),
        version=version,
    )  # fmt: skip
    masks = [tokens[:, step] != 0 if version.startswith("2") else None for step in range(3)]
    wanted = [
        keras_loop(table[tokens[:, step]], lstm_weights(0, FEATURES, UNITS), mask=masks[step])[1] for step in range(3)
    ]
    close(build_model(description)(tokens), np.stack(wanted, axis=1))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("time_major", True),
        ("activation", "softmax"),
        ("recurrent_activation", {"class_name": "ReLU", "config": {"max_value": 3.0}}),
        ("activation", "my_own"),
        (
            "activation",
            {"module": "builtins", "class_name": "function", "config": "foo", "registered_name": "function"},
        ),
        ("peephole", True),
    ],
)
def test_options_of_an_lstm_that_are_not_implemented_are_named(option: str, value: Any) -> None:
    description = model(
        input_layer("x", None, FEATURES), lstm("my_lstm", "x", features=FEATURES, units=UNITS, **{option: value})
    )
    with pytest.raises(UnsupportedModelError, match=rf"'my_lstm' \(LSTM\): {option}="):
        build_model(description)
