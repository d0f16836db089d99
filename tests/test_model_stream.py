"""Models as streams: each step is what the model would give if the sequence ended there, in the same bits."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from described import MASK, dense, input_layer, layer, lstm, model, random
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples

import lstm_engine as le
from lstm_engine.builder import build_model
from lstm_engine.description import TensorRef

FEATURES, UNITS = 3, 4
BATCH, TIME = 3, 9


def weights_of(*names: str, size: int) -> dict[str, Any]:
    return {name: np.abs(random(3, size)) + np.float32(0.1) for name in names}


def chain() -> Any:
    """LSTM, LSTM, Dense with softmax: compiled stages."""
    return model(
        input_layer("x", None, FEATURES),
        lstm("first", "x", features=FEATURES, units=UNITS, return_sequences=True),
        layer("dropout", "Dropout", "first", config={"rate": 0.1}),
        layer("td", "TimeDistributed", "dropout", config={"layer": {}},
              inner={"layer": dense("inner", features=UNITS, units=UNITS, activation="relu")}),
        lstm("second", "td", features=UNITS, units=UNITS),
        layer("act", "Activation", "second", config={"activation": "tanh"}),
        dense("dense", "act", features=UNITS, units=5, activation="softmax"),
    )  # fmt: skip


def graph() -> Any:
    """Everything causal that is no chain: branches, masks, normalization, states as outputs, shapes after the end."""
    moving = weights_of("gamma", "beta", "moving_mean", "moving_variance", size=2 * UNITS)
    return model(
        input_layer("x", None, FEATURES),
        input_layer("side", 2),
        layer("masking", "Masking", "x", config={"mask_value": 0.0}),
        lstm("left", "masking", features=FEATURES, units=UNITS, seed=1, return_sequences=True),
        lstm("right", "masking", features=FEATURES, units=UNITS, seed=2, return_sequences=True,
             zero_output_for_mask=True),
        layer("cat", "Concatenate", "left", "right", config={"axis": -1}),
        layer("norm", "LayerNormalization", "cat", config={"axis": 2},
              weights=weights_of("gamma", "beta", size=2 * UNITS)),
        layer("batch", "BatchNormalization", "norm", config={"axis": -1}, weights=moving),
        layer("soft", "Softmax", "batch", config={"axis": 2}),
        layer("sum", "Add", "cat", "soft"),
        lstm("last", "sum", features=2 * UNITS, units=6, return_state=True, seed=3),
        layer("reshape", "Reshape", "last", config={"target_shape": [3, 2]}),
        layer("soft_columns", "Softmax", "reshape", config={"axis": 1}),
        layer("permute", "Permute", "soft_columns", config={"dims": [2, 1]}),
        layer("flat", "Flatten", "permute"),
        layer("with_side", "Concatenate", "flat", "side", config={"axis": 1}),
        dense("dense", "with_side", features=8, units=3, activation="log_softmax"),
        outputs=["dense", "sum", TensorRef("last", 0, 2)],
    )  # fmt: skip


def tokens() -> Any:
    return model(
        input_layer("tokens", None),
        layer(
            "embed", "Embedding", "tokens", config={"mask_zero": True}, weights={"embeddings": random(4, 5, FEATURES)}
        ),
        lstm("lstm", "embed", features=FEATURES, units=UNITS),
        dense("dense", "lstm", features=UNITS, units=5, activation="softmax"),
    )


X = random(1, BATCH, TIME, FEATURES)
X[random(2, BATCH, TIME) > 0.6] = 0
SIDE = random(5, BATCH, TIME, 2)
TOKENS = np.random.default_rng(6).integers(0, 5, (BATCH, TIME))


@pytest.mark.parametrize("compute_type", ["float32", "float64"])
def test_each_step_of_a_chain_is_what_the_model_gives_for_the_sequence_so_far(compute_type: Any) -> None:
    built = build_model(chain(), compute_type=compute_type)
    stream = built.stream(BATCH)
    for step in range(TIME):
        found = stream.step(np.ascontiguousarray(X[:, step]))
        wanted = built(X[:, : step + 1])
        if compute_type == "float32":
            np.testing.assert_array_equal(found, wanted)
        else:
            np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_a_chain_runs_as_compiled_stages_and_any_other_model_does_not() -> None:
    stages = build_model(chain())._stream_chain()
    assert stages is not None
    assert [kind for kind, _ in stages] == ["lstm", "linear", "lstm", "activation", "linear", "softmax"]
    assert build_model(chain())._stream_names() == ["first", "second"]
    assert build_model(graph())._stream_chain() is None
    assert build_model(tokens())._stream_chain() is None


def test_each_step_of_a_graph_is_what_the_model_gives_for_the_sequence_so_far() -> None:
    built = build_model(graph())
    stream = built.stream(BATCH)
    for step in range(TIME):
        found = stream.step((X[:, step], SIDE[:, step]))
        dense_now, sums, state = built(X[:, : step + 1], SIDE[:, step])
        np.testing.assert_array_equal(found[0], dense_now)
        np.testing.assert_array_equal(found[1], sums[:, -1])
        np.testing.assert_array_equal(found[2], state)


def test_each_step_of_a_model_of_tokens_is_what_the_model_gives_so_far() -> None:
    built = build_model(tokens())
    stream = built.stream(BATCH)
    for step in range(TIME):
        np.testing.assert_array_equal(stream.step(TOKENS[:, step]), built(TOKENS[:, : step + 1]))
    alone = built.stream()
    np.testing.assert_array_equal(
        alone.run(TOKENS[1]), np.stack([built(TOKENS[1:2, : end + 1])[0] for end in range(TIME)])
    )
    assert alone.step(3).shape == (5,)


@examples(40)
@given(kind=st.sampled_from(["chain", "graph", "tokens"]), cuts=st.lists(st.integers(0, TIME), max_size=5))
def test_any_chunking_gives_the_same_bits_and_state(kind: str, cuts: list[int]) -> None:
    description, x = {
        "chain": (chain, (X,)),
        "graph": (graph, (X, SIDE)),
        "tokens": (tokens, (TOKENS,)),
    }[kind]
    built = build_model(description())
    inputs = x if len(x) > 1 else x[0]
    whole_stream, chunked_stream = built.stream(BATCH), built.stream(BATCH)
    whole = whole_stream.run(inputs)
    ends = [0, *sorted(cuts), TIME]
    parts: list[Any] = []
    for first, last in itertools.pairwise(ends):
        chunk = tuple(array[:, first:last] for array in x)
        parts.append(chunked_stream.run(chunk if len(x) > 1 else chunk[0]))
    if isinstance(whole, tuple):
        for place, one in enumerate(whole):
            np.testing.assert_array_equal(np.concatenate([part[place] for part in parts], axis=1), one)
    else:
        np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)
    for name, state in whole_stream.state.items():
        for one, other in zip(state, chunked_stream.state[name], strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_stream_can_be_reset_and_set_back_to_a_state() -> None:
    for description, inputs in ((graph, (X, SIDE)), (tokens, TOKENS)):
        built = build_model(description())
        stream = built.stream(BATCH)
        first = stream.run(inputs)
        state = stream.state
        second = stream.run(inputs)
        stream.state = state
        again = stream.run(inputs)
        stream.reset()
        anew = stream.run(inputs)
        for one, other in ((again, second), (anew, first)):
            for a, b in zip(
                one if isinstance(one, tuple) else (one,), other if isinstance(other, tuple) else (other,), strict=True
            ):
                np.testing.assert_array_equal(a, b)


def test_last_step_remembers_the_last_real_step_across_chunks() -> None:
    sequential = le.Sequential(
        [
            le.Embedding(random(4, 5, FEATURES), mask_zero=True),
            le.LSTM.from_weights(random(5, FEATURES, 8), random(6, 2, 8), zero_masked=True),
            le.LastStep(),
            le.Dense(random(7, 2, 3)),
        ]
    )
    stream = sequential.stream(BATCH)
    for step in range(TIME):
        np.testing.assert_array_equal(stream.step(TOKENS[:, step]), sequential(TOKENS[:, : step + 1]))
        stream.state = stream.state  # what it remembers is part of the state


# --- What cannot be a stream ------------------------------------------------------------------------------------------

SEQUENCE = [
    input_layer("x", 6, FEATURES),
    lstm("lstm", "x", features=FEATURES, units=UNITS, return_sequences=True),
]
BACKWARD = {"return_sequences": True, "go_backwards": True}


@pytest.mark.parametrize(
    ("last", "reason"),
    [
        (lstm("end", "lstm", features=UNITS, units=2, go_backwards=True), "begins at the end"),
        (
            layer("end", "Bidirectional", "lstm", config={"merge_mode": "sum", "layer": {}}, inner={
                "forward_layer": lstm("f", features=UNITS, units=2, return_sequences=True),
                "backward_layer": lstm("b", features=UNITS, units=2, **BACKWARD),
            }),
            "backward half begins at the end",
        ),
        (layer("end", "Flatten", "lstm"), "a Flatten layer over the time axis needs the whole sequence"),
        (layer("end", "Reshape", "lstm", config={"target_shape": [3, 8]}), "Reshape .* needs the whole sequence"),
        (layer("end", "Permute", "lstm", config={"dims": [2, 1]}), "Permute .* needs the whole sequence"),
        (layer("end", "GlobalAveragePooling1D", "lstm"), "needs the whole sequence"),
        (layer("end", "GlobalMaxPooling1D", "lstm"), "needs the whole sequence"),
        (layer("end", "Softmax", "lstm", config={"axis": 1}), "Softmax over the time axis"),
        (layer("end", "LayerNormalization", "lstm", config={"axis": [1, 2], "scale": False, "center": False}),
         "normalizes over the time axis"),
        (layer("end", "BatchNormalization", "lstm", config={"axis": 1}, weights=weights_of(
            "gamma", "beta", "moving_mean", "moving_variance", size=6)), "each step .* by weights of its own"),
        (layer("end", "Concatenate", "lstm", "lstm", config={"axis": 1}), "one behind the other in time"),
    ],
    ids=lambda value: value.class_name if hasattr(value, "class_name") else "",
)  # fmt: skip
def test_layers_that_look_ahead_are_named(last: Any, reason: str) -> None:
    built = build_model(model(*SEQUENCE, last))
    built(random(1, 2, 6, FEATURES))
    with pytest.raises(
        le.UnsupportedModelError, match=rf"layer 'end' \({last.class_name}\) cannot run in a stream: .*{reason}"
    ):
        built.stream()


def test_what_needs_the_end_of_a_sequence_is_named() -> None:
    encoder = lstm("encoder", "x", features=FEATURES, units=UNITS, return_state=True)
    repeat = layer("repeat", "RepeatVector", "encoder", config={"n": 4})
    decoder = lstm("decoder", "repeat", features=UNITS, units=2)
    with pytest.raises(
        le.UnsupportedModelError, match=r"'repeat' \(RepeatVector\) cannot run in a stream: .*whole sequence"
    ):
        build_model(model(input_layer("x", None, FEATURES), encoder, repeat, decoder)).stream()
    state = {"initial_state": [TensorRef("encoder", 0, 1), TensorRef("encoder", 0, 2)]}
    fed = lstm("fed", "x", features=FEATURES, units=UNITS, keywords=state)
    with pytest.raises(le.UnsupportedModelError, match=r"'fed' \(LSTM\) cannot run in a stream: it joins a sequence"):
        build_model(model(input_layer("x", None, FEATURES), encoder, fed)).stream()
    both = layer("both", "Add", "sequence", "encoder")
    sequence = lstm("sequence", "x", features=FEATURES, units=UNITS, return_sequences=True)
    with pytest.raises(le.UnsupportedModelError, match=r"'both' \(Add\) cannot run in a stream: it joins"):
        build_model(model(input_layer("x", None, FEATURES), encoder, sequence, both)).stream()


def test_bad_steps_are_refused_and_leave_the_stream_as_it_was() -> None:
    built = build_model(graph())
    stream = built.stream(BATCH)
    stream.run((X, SIDE))
    before = stream.state
    for inputs, message in (
        ((X[:, 0, :2], SIDE[:, 0]), r"x: expected shape \(3, 3\)"),
        ((X[:, 0], SIDE[:2, 0]), r"side: expected shape \(3, 2\)"),
        (X[:, 0], "inputs: expected 2"),
    ):
        with pytest.raises(le.ShapeError, match=message):
            stream.step(inputs)
    with pytest.raises(le.ShapeError, match="the same number of steps"):
        stream.run((X, SIDE[:, 1:]))
    for name, state in stream.state.items():
        for one, other in zip(state, before[name], strict=True):
            np.testing.assert_array_equal(one, other)
    with pytest.raises(le.ShapeError, match=r"input of embed: expected token numbers from 0 to 4, found 5"):
        build_model(tokens()).stream().step(5)


def test_masks_of_the_model_hold_across_chunks() -> None:
    x = np.where(MASK[..., None], random(1, *MASK.shape, FEATURES), 0).astype(np.float32)
    built = build_model(
        model(
            input_layer("x", None, FEATURES),
            layer("masking", "Masking", "x", config={"mask_value": 0.0}),
            lstm("lstm", "masking", features=FEATURES, units=UNITS, return_sequences=True),
        )
    )
    stream = built.stream(len(x))
    parts = [stream.run(x[:, first : first + 2]) for first in range(0, 6, 2)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), built(x))
