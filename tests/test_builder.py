"""From descriptions to models: graphs of every form, and everything that is wrong with one told together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from described import MASK, dense, input_layer, keras_loop, layer, lstm, lstm_weights, model, random, sigmoid
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples

from lstm_engine.builder import build_model
from lstm_engine.description import Call, TensorRef
from lstm_engine.errors import FormatError, LstmEngineError, ShapeError, UnsupportedModelError

FEATURES, UNITS = 3, 4
X = random(1, *MASK.shape, FEATURES)


def close(found: Any, wanted: Any, tolerance: float = 2e-6) -> None:
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance / 10)


def test_layers_may_stand_in_any_order() -> None:
    layers = [
        dense("dense", "lstm", features=UNITS, units=2),
        lstm("lstm", "x", features=FEATURES, units=UNITS),
        input_layer("x", None, FEATURES),
    ]
    forward = build_model(model(*reversed(layers), outputs=["dense"]))
    backward = build_model(model(*layers, outputs=["dense"]))
    np.testing.assert_array_equal(forward(X), backward(X))
    assert [one.name for one in backward.layers] == ["lstm", "dense"]


def test_a_layer_that_is_shared_has_its_weights_once() -> None:
    shared = replace(
        lstm("lstm", "a", features=FEATURES, units=UNITS), calls=(Call((TensorRef("a"),)), Call((TensorRef("b"),)))
    )
    description = model(
        input_layer("a", None, FEATURES),
        input_layer("b", None, FEATURES),
        shared,
        layer("difference", "Subtract", "lstm", TensorRef("lstm", 1)),
        outputs=["difference", TensorRef("lstm", 1)],
    )
    built = build_model(description)
    y = random(2, *MASK.shape, FEATURES)
    difference, second = built(X, y)
    weights = lstm_weights(0, FEATURES, UNITS)
    wanted = keras_loop(X, weights)[1], keras_loop(y, weights)[1]
    close(second, wanted[1])
    np.testing.assert_allclose(difference, wanted[0] - wanted[1], atol=1e-6)
    assert len(built.layers) == 2
    lines: list[str] = []
    built.summary(print_fn=lines.append)
    assert sum("lstm" in line and "128" in line for line in lines) == 1


def test_an_encoder_hands_its_state_to_a_decoder() -> None:
    description = model(
        input_layer("source", None, FEATURES),
        input_layer("target", None, 2),
        lstm("encoder", "source", features=FEATURES, units=UNITS, return_state=True, seed=1),
        lstm(
            "decoder", "target", features=2, units=UNITS, return_sequences=True, seed=2,
            keywords={"initial_state": [TensorRef("encoder", 0, 1), TensorRef("encoder", 0, 2)]},
        ),
    )  # fmt: skip
    target = random(3, 5, 4, 2)
    _, _, h, c = keras_loop(X, lstm_weights(1, FEATURES, UNITS))
    close(build_model(description)(X, target), keras_loop(target, lstm_weights(2, 2, UNITS), state=(h, c))[0])


def test_a_mask_that_the_graph_computes_replaces_the_one_that_travels() -> None:
    # As Keras 3 writes lstm(x, mask=any(not_equal(other, 0), axis=-1)).
    description = model(
        input_layer("x", None, FEATURES),
        input_layer("other", None, 2),
        layer("masking", "Masking", "x", config={"mask_value": 0.0}),
        _operation("not_equal", "NotEqual", "other", x2=0.0),
        _operation("any", "Any", "not_equal", axis=-1, keepdims=False),
        lstm("lstm", "masking", features=FEATURES, units=UNITS, return_sequences=True, keywords={"mask": ["any"]}),
    )
    other = np.where(MASK[..., None], random(4, *MASK.shape, 2), 0).astype(np.float32)
    wanted = keras_loop(X, lstm_weights(0, FEATURES, UNITS), mask=MASK)[0]
    close(build_model(description)(X, other), wanted)


def _operation(name: str, class_name: str, *inputs: str, **config: Any) -> Any:
    made = layer(name, class_name, *inputs)
    return replace(made, config={"name": name, **config})


@pytest.mark.parametrize(
    ("class_name", "config", "formula"),
    [
        ("LogicalOr", {}, lambda a, b: a | b),
        ("LogicalAnd", {}, lambda a, b: a & b),
        ("NotEqual", {}, lambda a, b: a != b),
    ],
)
def test_operations_on_two_masks(class_name: str, config: Any, formula: Any) -> None:
    a, b = random(4, *MASK.shape) > 0, random(5, *MASK.shape) > 0
    description = model(
        input_layer("x", None, FEATURES),
        input_layer("a", None),
        input_layer("b", None),
        _operation("a_true", "NotEqual", "a", x2=0.0),
        _operation("b_true", "NotEqual", "b", x2=0.0),
        _operation("joined", class_name, "a_true", "b_true", **config),
        lstm("lstm", "x", features=FEATURES, units=UNITS, return_sequences=True, keywords={"mask": ["joined"]}),
    )
    wanted = keras_loop(X, lstm_weights(0, FEATURES, UNITS), mask=formula(a, b))[0]
    close(build_model(description)(X, a, b), wanted)


def test_operations_on_shapes() -> None:
    # What Keras 3 records for Concatenate of a masked and an unmasked input.
    description = model(
        input_layer("x", None, FEATURES),
        _operation("not_equal", "NotEqual", "x", x2=0.0),
        _operation("any", "Any", "not_equal", axis=[-1], keepdims=False),
        _operation("expanded", "ExpandDims", "any", axis=-1),
        _operation("zeros", "ZerosLike", "x", dtype="bool"),
        _operation("wide", "LogicalOr", "expanded", "zeros"),
        _operation("ones", "OnesLike", "x", dtype="bool"),
        _operation("both", "Concatenate", "wide", "ones", axis=-1),
        _operation("all", "All", "both", axis=-1),
        lstm("lstm", "x", features=FEATURES, units=UNITS, return_sequences=True, keywords={"mask": ["all"]}),
    )
    x = np.where(MASK[..., None], X, 0).astype(np.float32)
    close(build_model(description)(x), keras_loop(X, lstm_weights(0, FEATURES, UNITS), mask=MASK)[0])


def test_token_numbers_may_also_make_masks() -> None:
    table = random(6, 7, FEATURES)
    description = model(
        input_layer("tokens", None),
        layer("embed", "Embedding", "tokens", config={"mask_zero": True}, weights={"embeddings": table}),
        _operation("not_equal", "NotEqual", "tokens", x2=0),
        lstm("lstm", "embed", features=FEATURES, units=UNITS, keywords={"mask": ["not_equal"]}),
    )
    built = build_model(description)
    assert built.inputs[0].dtype == "int64"
    tokens = np.random.default_rng(0).integers(0, 7, (5, 6))
    wanted = keras_loop(table[tokens], lstm_weights(0, FEATURES, UNITS), mask=tokens != 0)[1]
    close(built(tokens), wanted)
    # What the caller masks stays masked, though the graph's own argument knows nothing of it.
    lengths = np.array([6, 3, 0, 1, 4])
    mask = (tokens != 0) & (np.arange(6) < lengths[:, None])
    close(built(tokens, lengths=lengths), keras_loop(table[tokens], lstm_weights(0, FEATURES, UNITS), mask=mask)[1])


def test_lengths_join_the_masks_of_the_model() -> None:
    table = random(6, 7, FEATURES)
    description = model(
        input_layer("tokens", None),
        layer("embed", "Embedding", "tokens", config={"mask_zero": True}, weights={"embeddings": table}),
        lstm("lstm", "embed", features=FEATURES, units=UNITS, return_sequences=True),
    )
    tokens = np.array([[1, 0, 2, 3, 0, 4], [5, 6, 0, 0, 1, 2], [0, 0, 1, 2, 3, 4]])
    lengths = np.array([5, 4, 3])
    within = np.arange(6) < lengths[:, None]
    repeated = keras_loop(table[tokens], lstm_weights(0, FEATURES, UNITS), mask=(tokens != 0) & within)[0]
    close(build_model(description)(tokens, lengths=lengths), np.where(within[..., None], repeated, 0.0))


def test_float64_computes_in_float64() -> None:
    description = model(
        input_layer("x", None, FEATURES),
        layer("norm", "LayerNormalization", "x", config={"axis": -1, "scale": False, "center": False}),
        lstm("lstm", "norm", features=FEATURES, units=UNITS),
        dense("dense", "lstm", features=UNITS, units=2, activation="sigmoid"),
    )
    built = build_model(description, compute_type="float64")
    found = built(X.astype(np.float64))
    assert found.dtype == np.float64
    assert built.outputs[0].dtype == "float64"
    x = X.astype(np.float64)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-3)
    last = keras_loop(x, lstm_weights(0, FEATURES, UNITS))[1]
    close(found, sigmoid(last @ random(50, UNITS, 2).astype(np.float64) + random(51, 2)), 1e-13)


@pytest.mark.parametrize("backend", ["auto", "fused", "blas"])
def test_both_backends_agree(backend: Any) -> None:
    description = model(input_layer("x", None, FEATURES), lstm("lstm", "x", features=FEATURES, units=UNITS))
    close(build_model(description, backend=backend)(X), keras_loop(X, lstm_weights(0, FEATURES, UNITS))[1])


# --- What is wrong ---------------------------------------------------------------------------------------------------


def test_all_problems_are_told_together() -> None:
    description = model(
        input_layer("x", None, FEATURES),
        lstm("first", "x", features=FEATURES, units=UNITS, time_major=True, activation="softmax"),
        layer("conv", "ConvLSTM1D", "first"),
        dense("last", "conv", features=UNITS, units=2, activation="sparsemax"),
    )
    with pytest.raises(UnsupportedModelError) as caught:
        build_model(description)
    message = str(caught.value)
    assert message.startswith("model.keras: 4 problems were found:")
    for part in (
        "'first' (LSTM): time_major=True",
        "'first' (LSTM): activation='softmax'",
        "'conv' (ConvLSTM1D) is not supported",
        "'last' (Dense): activation='sparsemax'",
    ):
        assert part in message


def test_layers_that_do_not_fit_are_told_together() -> None:
    description = model(
        input_layer("x", None, FEATURES + 1),
        input_layer("y", FEATURES),
        lstm("lstm", "x", features=FEATURES, units=UNITS),
        lstm("flat", "y", features=FEATURES, units=UNITS),
        dense("dense", "y", features=UNITS, units=2),
        outputs=["lstm", "flat", "dense"],
    )
    with pytest.raises(FormatError) as caught:
        build_model(description)
    message = str(caught.value)
    assert "3 problems" in message
    assert "layer 'lstm' (LSTM): its kernel takes 3 features, expected an input of shape (batch, time, 3)" in message
    assert "layer 'flat' (LSTM): its kernel takes 3 features" in message
    assert "layer 'dense' (Dense): its kernel takes 4 features, its input has shape (None, 3)" in message


@pytest.mark.parametrize(
    ("layers", "outputs", "message"),
    [
        ([dense("d", "nowhere", features=3, units=2)], ["d"], "'d', call 0: expected tensors .* none for nowhere:0:0"),
        ([dense("d", "x", features=3, units=2)], ["other"], "output 'other', call 0, output 0 is missing"),
        ([dense("d", "x", features=3, units=2)], [TensorRef("d", 0, 1)], "output 'd', call 0, output 1 is missing"),
        (
            [dense("a", "b", features=3, units=3), dense("b", "a", features=3, units=3)],
            ["b"],
            "3 problems.*\n.*'a', call 0.*\n.*'b', call 0.*\n.*output 'b'",
        ),
    ],
)
def test_graphs_that_cannot_run_are_refused(layers: Any, outputs: Any, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        build_model(model(input_layer("x", 3), *layers, outputs=outputs))


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        ({"batch_shape": None}, FormatError, "expected batch_shape to be"),
        ({"batch_shape": [None]}, FormatError, "expected batch_shape to be"),
        ({"batch_shape": [None, "3"]}, FormatError, "expected batch_shape to be"),
        ({"batch_shape": [None, -3]}, FormatError, "expected batch_shape to be"),
        ({"batch_shape": [None, 3], "sparse": True}, UnsupportedModelError, "sparse=True"),
        ({"batch_shape": [None, 3], "dtype": "string"}, UnsupportedModelError, "dtype='string'"),
    ],
)
def test_inputs_that_cannot_be_are_refused(config: Any, error: Any, message: str) -> None:
    description = model(
        replace(input_layer("x", 3), config={"name": "x", **config}), dense("d", "x", features=3, units=2)
    )
    with pytest.raises(error, match=rf"layer 'x' \(InputLayer\): .*{message}"):
        build_model(description)


def test_a_fixed_batch_is_left_open_since_rows_never_mix() -> None:
    x = replace(input_layer("x", 3), config={"name": "x", "batch_input_shape": [32, None, FEATURES]})
    built = build_model(model(x, lstm("lstm", "x", features=FEATURES, units=UNITS, stateful=True)))
    assert built.inputs[0].shape == (None, None, FEATURES)
    np.testing.assert_array_equal(built(X), built(X)), "a call begins at zero, stateful or not"  # type: ignore[func-returns-value]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compute_type": "int4"}, "compute_type"),
        ({"num_threads": "all"}, "num_threads"),
        ({"backend": "cuda"}, "backend"),
        ({"compute_type": "float64", "backend": "fused"}, "fused"),
    ],
)
def test_options_that_cannot_be_had_are_refused(options: Any, message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        build_model(model(input_layer("x", 3), dense("d", "x", features=3, units=2)), **options)


def test_an_initial_state_of_the_wrong_size_is_refused() -> None:
    description = model(
        input_layer("x", None, FEATURES),
        input_layer("h", UNITS + 1),
        input_layer("c", UNITS),
        lstm("lstm", "x", features=FEATURES, units=UNITS, keywords={"initial_state": ["h", "c"]}),
    )
    with pytest.raises(FormatError, match=r"'lstm' \(LSTM\): expected an initial state of shape \(batch, 4\)"):
        build_model(description)
    single = model(
        input_layer("x", None, FEATURES),
        input_layer("h", UNITS),
        lstm("lstm", "x", features=FEATURES, units=UNITS, keywords={"initial_state": ["h"]}),
    )
    with pytest.raises(FormatError, match="expected 1 input, or 3 with an initial state, found 2"):
        build_model(single)


def test_a_computed_mask_of_another_shape_is_refused() -> None:
    description = model(
        input_layer("x", 6, FEATURES),
        input_layer("mask", 5),
        lstm("lstm", "x", features=FEATURES, units=UNITS, keywords={"mask": ["mask"]}),
    )
    with pytest.raises(FormatError, match=r"'lstm' \(LSTM\): its mask has shape \(None, 5\)"):
        build_model(description)


def test_a_mask_of_an_open_shape_is_checked_when_it_is_there() -> None:
    description = model(
        input_layer("x", None, FEATURES),
        input_layer("mask", None),
        lstm("lstm", "x", features=FEATURES, units=UNITS, keywords={"mask": ["mask"]}),
    )
    built = build_model(description)
    close(built(X, MASK), keras_loop(X, lstm_weights(0, FEATURES, UNITS), mask=MASK)[1])
    with pytest.raises(ShapeError, match=r"mask: expected shape \(5, 6\)"):
        built(X, MASK[:, :4])


# --- Configurations from a stranger ---------------------------------------------------------------------------------

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["tanh", "softmax", "concat", "channels_first", "LSTM", "LeakyReLU"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["class_name", "config", "value", "alpha", "axis", "module"]), inner, max_size=3
        )
    ),
    max_leaves=5,
)

STATISTICS = {name: np.ones(FEATURES, np.float32) for name in ("gamma", "beta", "moving_mean", "moving_variance")}

#: One layer of each kind with all of its options, on an input of shape (6, 3).
EVERY_LAYER = [
    lstm("one", "x", features=FEATURES, units=UNITS, zero_output_for_mask=False),
    dense("one", "x", features=FEATURES, units=2),
    layer("one", "Masking", "x", config={"mask_value": 0.0}),
    layer("one", "Activation", "x", config={"activation": "relu"}),
    layer("one", "ReLU", "x", config={"max_value": 1.0, "negative_slope": 0.1, "threshold": 0.2}),
    layer("one", "LeakyReLU", "x", config={"negative_slope": 0.1, "alpha": 0.1}),
    layer("one", "ELU", "x", config={"alpha": 0.1}),
    layer("one", "Softmax", "x", config={"axis": -1}),
    layer("one", "BatchNormalization", "x", weights=STATISTICS,
          config={"axis": -1, "epsilon": 1e-3, "scale": True, "center": True, "momentum": 0.9}),
    layer("one", "LayerNormalization", "x", weights=STATISTICS,
          config={"axis": [-1], "epsilon": 1e-3, "scale": True, "center": True, "rms_scaling": False}),
    layer("one", "Flatten", "x", config={"data_format": None}),
    layer("one", "Reshape", "x", config={"target_shape": [3, 6]}),
    layer("one", "Permute", "x", config={"dims": [2, 1]}),
    layer("one", "Concatenate", "x", "x", config={"axis": -1}),
    layer("one", "Average", "x", "x"),
    layer("one", "GlobalAveragePooling1D", "x", config={"data_format": "channels_last", "keepdims": False}),
    layer("one", "Dropout", "x", config={"rate": 0.5, "seed": 1}),
    layer("one", "TimeDistributed", "x", config={"layer": {}},
          inner={"layer": dense("inner", features=FEATURES, units=2)}),
    layer("one", "Bidirectional", "x", config={"merge_mode": "sum", "layer": {}}, inner={
        "forward_layer": lstm("f", features=FEATURES, units=UNITS),
        "backward_layer": lstm("b", features=FEATURES, units=UNITS, go_backwards=True),
    }),
    layer("one", "InputLayer", config={"batch_shape": [None, 3], "dtype": "float32", "sparse": False}),
]  # fmt: skip


@examples(400)
@given(place=st.integers(0, len(EVERY_LAYER) - 1), value=JSON, data=st.data())
def test_any_value_of_any_option_is_understood_or_refused(place: int, value: Any, data: st.DataObject) -> None:
    chosen = EVERY_LAYER[place]
    option = data.draw(st.sampled_from(sorted(set(chosen.config) - {"name"})))
    changed = replace(chosen, config={**chosen.config, option: value})
    x = np.ones((2, 6, FEATURES), np.float32)
    try:
        build_model(model(input_layer("x", 6, FEATURES), changed, outputs=["one"]))(x)
    except LstmEngineError as error:
        message = str(error)
    else:
        return
    assert "one" in message, "the layer is named"
