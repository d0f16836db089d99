"""GRU, SimpleRNN, RNN and stacked cells as Keras layers: the LSTM's own bits, streams, states, and errors by name."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import numpy as np
import pytest
from described import MASK, input_layer, keras_loop, layer, lstm, lstm_weights, model, random

from lstm_engine.builder import build_model
from lstm_engine.description import LayerDescription, TensorRef
from lstm_engine.errors import FormatError, UnsupportedModelError
from lstm_engine.layers.gru import GRUCell
from lstm_engine.layers.numerics import Numerics
from lstm_engine.model import Model

Array = np.ndarray[Any, Any]
FEATURES, UNITS = 3, 5
X = random(1, *MASK.shape, FEATURES)
X_MASKED = np.where(MASK[..., None], X, np.float32(0))


def gru(name: str, *inputs: str, features: int = FEATURES, units: int = UNITS, seed: int = 0, **config: Any) -> Any:
    """Return a GRU layer, or a GRUCell if nothing calls it and ``kind`` says so."""
    kind, keywords = config.pop("kind", "GRU"), config.pop("keywords", None)
    options = {
        "units": units, "activation": "tanh", "recurrent_activation": "sigmoid", "use_bias": True, "reset_after": True,
        "dropout": 0.1, "recurrent_dropout": 0.2, "implementation": 2, "kernel_initializer": None, **config,
    }  # fmt: skip
    weights = {
        "kernel": random(seed, features, 3 * units, scale=0.7),
        "recurrent_kernel": random(seed + 1, units, 3 * units, scale=0.5),
        "bias": random(seed + 2, *((2,) if options["reset_after"] else ()), 3 * units, scale=0.5),
    }
    return layer(name, kind, *inputs, config=options, weights=weights, keywords=keywords)


def lstm_cell(name: str, features: int, units: int, seed: int) -> LayerDescription:
    """Return an LSTMCell."""
    whole = lstm(name, features=features, units=units, seed=seed)
    dropped = ("return_sequences", "return_state", "go_backwards", "stateful", "unroll")
    config = {key: value for key, value in whole.config.items() if key not in dropped}
    return dataclasses.replace(whole, class_name="LSTMCell", config=config)


def rnn(name: str, *inputs: str, cells: list[LayerDescription], keywords: Any = None, **config: Any) -> Any:
    """Return an RNN layer around one cell, or around several stacked ones."""
    cell = cells[0]
    if len(cells) > 1:
        roles = {f"cells/{place}": one for place, one in enumerate(cells)}
        cell = layer("stacked", "StackedRNNCells", config={"cells": []}, inner=roles)
    options = {"cell": {}, "return_sequences": True, "return_state": False, "go_backwards": False, "unroll": False}
    return layer(name, "RNN", *inputs, config=options | config, inner={"cell": cell}, keywords=keywords)


def built(*layers: LayerDescription, outputs: Any = (), version: str = "3.15.1") -> Model:
    masking = layer("masking", "Masking", "x", config={"mask_value": 0.0})
    return build_model(model(input_layer("x", None, FEATURES), masking, *layers, outputs=outputs, version=version))


def refs(name: str, count: int) -> list[TensorRef]:
    return [TensorRef(name, 0, place) for place in range(count)]


@pytest.mark.parametrize("backwards", [False, True])
def test_an_rnn_of_an_lstm_cell_has_the_bits_of_the_lstm(backwards: bool) -> None:
    options = {"return_sequences": True, "return_state": True, "go_backwards": backwards}
    plain = built(lstm("lstm", "masking", features=FEATURES, units=UNITS, **options), outputs=refs("lstm", 3))
    wrapped = built(
        rnn("rnn", "masking", cells=[lstm_cell("cell", FEATURES, UNITS, 0)], **options), outputs=refs("rnn", 3)
    )
    for found, wanted in zip(wrapped(X_MASKED), plain(X_MASKED), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_stacked_lstm_cells_have_the_bits_of_lstm_layers_behind_each_other() -> None:
    first = lstm("first", "masking", features=FEATURES, units=UNITS, return_sequences=True)
    second = lstm("second", "first", features=UNITS, units=UNITS, seed=3, return_sequences=True)
    third = lstm("third", "second", features=UNITS, units=2, seed=4, return_sequences=True)
    cells = [lstm_cell("a", FEATURES, UNITS, 0), lstm_cell("b", UNITS, UNITS, 3), lstm_cell("c", UNITS, 2, 4)]
    np.testing.assert_array_equal(
        built(rnn("rnn", "masking", cells=cells))(X_MASKED), built(first, second, third)(X_MASKED)
    )
    same_size = built(rnn("rnn", "masking", cells=cells[:2]))
    np.testing.assert_array_equal(same_size(X_MASKED), built(first, second)(X_MASKED))
    assert same_size._stream_chain() is None  # because of the Masking
    bare = build_model(model(input_layer("x", None, FEATURES), rnn("rnn", "x", cells=cells[:2])))
    chain = bare._stream_chain()
    assert chain is not None
    assert [stage for stage, _ in chain] == ["lstm"]


@pytest.mark.parametrize("version", ["2.15.0", "3.15.1"])
def test_several_initial_states_of_stacked_cells(version: str) -> None:
    sizes = (UNITS, UNITS, 2, 2)
    states = [random(20 + place, len(X), size) for place, size in enumerate(sizes)]
    names = [f"s{place}" for place in range(4)]
    cells = [lstm_cell("a", FEATURES, UNITS, 0), lstm_cell("b", UNITS, 2, 3)]
    starts = [input_layer(name, size) for name, size in zip(names, sizes, strict=True)]
    built_model = built(
        *starts,
        rnn("rnn", "masking", cells=cells, return_state=True, keywords={"initial_state": names}),
        outputs=refs("rnn", 5),
        version=version,
    )
    mask = MASK if version.startswith("2") else None
    between, _, h0, c0 = keras_loop(X_MASKED, lstm_weights(0, FEATURES, UNITS), mask=mask, state=(states[0], states[1]))
    outputs, _, h1, c1 = keras_loop(between, lstm_weights(3, UNITS, 2), mask=mask, state=(states[2], states[3]))
    for found, wanted in zip(built_model(X_MASKED, *states), (outputs, h0, c0, h1, c1), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=2e-6, atol=5e-7)


LAYERS = {
    "gru": lambda **options: gru("r", "masking", **options),
    "rnn of a gru": lambda **options: rnn("r", "masking", cells=[gru("c", kind="GRUCell")], **options),
    "stack": lambda **options: rnn(
        "r", "masking", cells=[lstm_cell("a", FEATURES, 4, 0), gru("b", kind="GRUCell", features=4)], **options
    ),
    "stack of lstms": lambda **options: rnn(
        "r", "masking", cells=[lstm_cell("a", FEATURES, 4, 0), lstm_cell("b", 4, 4, 2)], **options
    ),
}


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("returned", [False, True])
def test_streams_give_the_bits_of_whole_sequences(kind: str, returned: bool) -> None:
    count = {"gru": 1, "rnn of a gru": 1, "stack": 3, "stack of lstms": 4}[kind] if returned else 0
    whole = built(LAYERS[kind](return_sequences=True, return_state=returned), outputs=refs("r", 1 + count))
    # Not the row without a real step: its stream would begin with a masked one, which is tested below.
    x = np.ascontiguousarray(X_MASKED[:4])
    stream = whole.stream(batch=4)
    parts = [stream.run(np.ascontiguousarray(x[:, part])) for part in (slice(0, 2), slice(2, 5), slice(5, 6))]
    wanted = whole(x)
    if not returned:
        np.testing.assert_array_equal(np.concatenate(parts, axis=1), wanted)
        np.testing.assert_array_equal(stream.run(x[:, :0]), np.empty((4, 0, wanted.shape[2]), np.float32))
        return
    np.testing.assert_array_equal(np.concatenate([part[0] for part in parts], axis=1), wanted[0])
    for place in range(1, 1 + count):
        np.testing.assert_array_equal(parts[-1][place][:, -1], wanted[place])
        np.testing.assert_array_equal(parts[0][place][:, -1], whole(np.ascontiguousarray(x[:, :2]))[place])


@pytest.mark.parametrize("kind", LAYERS)
def test_a_masked_step_of_a_stream_repeats_the_output_before_it(kind: str) -> None:
    stream = built(LAYERS[kind](return_sequences=True)).stream(batch=1)
    masked = np.zeros((1, FEATURES), np.float32)
    assert not stream.step(masked).any()
    before = stream.step(X[:1, 0])
    assert before.any()
    np.testing.assert_array_equal(stream.step(masked), before)


def test_a_stream_goes_back_to_a_state() -> None:
    stream = built(LAYERS["stack"]()).stream()
    x = X_MASKED[0]
    stream.run(x[:3])
    kept = stream.state
    wanted = stream.run(x[3:])
    stream.state = kept
    np.testing.assert_array_equal(stream.run(x[3:]), wanted)


@pytest.mark.parametrize("kind", LAYERS)
def test_lengths_are_those_of_the_caller(kind: str) -> None:
    bare = LAYERS[kind](return_sequences=True)
    bare = dataclasses.replace(bare, calls=layer("r", "RNN", "x").calls)
    built_model = build_model(model(input_layer("x", None, FEATURES), bare))
    lengths = np.array([6, 4, 2, 1, 0])
    y = built_model(X, lengths=lengths)
    for row, length in enumerate(lengths):
        np.testing.assert_array_equal(y[row, :length], built_model(X[row : row + 1, :length])[0])
        assert not y[row, length:].any()


def test_models_are_pickled_with_all_their_cells() -> None:
    both = layer(
        "bi", "Bidirectional", "masking", config={"merge_mode": "sum", "layer": {}},
        inner={
            "forward_layer": gru("f", return_sequences=True),
            "backward_layer": rnn(
                "b", go_backwards=True, cells=[lstm_cell("a", FEATURES, 4, 0), gru("g", kind="GRUCell", features=4)]
            ),
        },
    )  # fmt: skip
    built_model = built(both)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(built_model))(X_MASKED), built_model(X_MASKED))
    assert built_model.memory_bytes() > sum(
        array.nbytes for one in built_model.layers for array in one.weights().values()
    )


def test_a_bidirectional_holds_layers_of_different_kinds() -> None:
    both = layer(
        "bi", "Bidirectional", "masking", config={"merge_mode": "concat", "layer": {}},
        inner={
            "forward_layer": gru("f", return_sequences=True),
            "backward_layer": lstm("b", features=FEATURES, units=4, return_sequences=True, go_backwards=True),
        },
    )  # fmt: skip
    source = gru("f")
    cell = GRUCell(source.weights["kernel"], source.weights["recurrent_kernel"], *source.weights["bias"])
    forward, _ = cell.prepare(Numerics()).run(X_MASKED, mask=MASK, zero_masked=True)
    backward, *_ = keras_loop(X, lstm_weights(0, FEATURES, 4), mask=MASK, go_backwards=True, zero_output_for_mask=True)
    wanted = np.concatenate([forward, backward[:, ::-1]], axis=-1)
    np.testing.assert_allclose(built(both)(X_MASKED), wanted, rtol=2e-6, atol=2e-7)


def test_the_reset_gate_of_files_that_do_not_say_is_applied_before() -> None:
    older = gru("r", "masking", reset_after=False)
    unsaid = dataclasses.replace(
        older, config={key: value for key, value in older.config.items() if key != "reset_after"}
    )
    np.testing.assert_array_equal(built(unsaid, version="2.1.0")(X_MASKED), built(older, version="2.1.0")(X_MASKED))


@pytest.mark.parametrize(
    ("made", "error", "message"),
    [
        (gru("r", "masking", time_major=True), UnsupportedModelError, r"'r' \(GRU\): time_major=True"),
        (gru("r", "masking", activation="mine"), UnsupportedModelError, r"'r' \(GRU\): activation='mine'"),
        (
            gru("r", "masking", activation={"class_name": "Softmax", "config": {"axis": 1}}),
            UnsupportedModelError,
            r"'r' \(GRU\): activation='softmax over axis 1' is not supported; expected one over the last axis",
        ),
        (gru("r", "masking", peephole=True), UnsupportedModelError, r"'r' \(GRU\): peephole=True"),
        (gru("r", "masking", features=4), FormatError, r"'r' \(GRU\): its kernel takes 4 features"),
        (
            rnn("r", "masking", cells=[gru("inside", kind="GRUCell", activation="mine")]),
            UnsupportedModelError,
            r"'inside' \(GRUCell\) in layer 'r' \(RNN\): activation='mine'",
        ),
        (
            rnn("r", "masking", cells=[layer("mine", "MyCell")]),
            UnsupportedModelError,
            r"'r' \(RNN\): cell='MyCell' is not supported; expected one of GRUCell, LSTMCell, SimpleRNN",
        ),
        (
            rnn("r", "masking", cells=[lstm_cell("a", FEATURES, 4, 0), gru("b", kind="GRUCell", features=3)]),
            FormatError,
            r"cell 1: expected a kernel that takes the 4 outputs of the cell before it, found one for 3 features",
        ),
        (
            dataclasses.replace(gru("r", "masking", reset_after=False), config=gru("r").config),
            FormatError,
            r"'r' \(GRU\): bias: expected shape \(2, 3 \* units\), found \(15,\)",
        ),
        (layer("r", "RNN", "masking", config={"cell": {}}), FormatError, r"'r' \(RNN\): expected cell to be a cell"),
        (
            gru("r", "masking", keywords={"initial_state": ["masking", "x"]}),
            FormatError,
            r"'r' \(GRU\): expected 1 input, or 2 with an initial state, found 3",
        ),
        (
            gru("r", "masking", keywords={"initial_state": ["masking"]}),
            FormatError,
            r"'r' \(GRU\): expected an initial state of shape \(batch, 5\)",
        ),
    ],
)
def test_what_cannot_be_built_is_named(made: LayerDescription, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        built(made)


def test_what_cannot_be_streamed_is_named() -> None:
    for options, message in (
        ({"go_backwards": True}, r"'r' \(GRU\) cannot run in a stream: go_backwards=True"),
        ({"keywords": {"initial_state": ["s"]}}, "joins a sequence with a result of the whole sequence"),
    ):
        whole = built(input_layer("s", UNITS), gru("r", "masking", return_sequences=True, **options))
        with pytest.raises(UnsupportedModelError, match=message):
            whole.stream()
