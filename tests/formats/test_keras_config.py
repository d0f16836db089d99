"""Configurations: what is understood, what is refused by name, and that nothing in them is ever run."""

from __future__ import annotations

import itertools
import json
import sys
from typing import Any

import keras_support as made
import numpy as np
import pytest
from keras_support import call, functional, layer, operation, sequential, source, tensor

from lstm_engine.description import Call, TensorRef
from lstm_engine.errors import FormatError, UnsafeFileError, UnsupportedModelError
from lstm_engine.formats.json_text import parse_json
from lstm_engine.formats.keras_config import parse_model
from lstm_engine.formats.keras_layers import KerasModel
from lstm_engine.formats.limits import Limits

CHAIN = [source("x"), layer("LSTM", "lstm", units=4), layer("Dense", "head", units=2)]


def parse(tree: Any) -> KerasModel:
    return parse_model(tree, "config.json")


def calls_of(model: KerasModel, name: str) -> list[Call]:
    return next(one.calls for one in model.layers if one.name == name)


def one_layer(entry: dict[str, Any], *others: dict[str, Any]) -> dict[str, Any]:
    """Return a Functional model of one layer between an input and the output."""
    return functional([source("x"), *others, entry], [["x", 0, 0]], [[entry["name"], 0, 0]])


def test_a_cudnn_layer_with_time_in_front_is_read() -> None:
    (_, found) = parse(sequential([source("x"), layer("CuDNNLSTM", "lstm", units=4, time_major=True)])).layers
    assert found.class_name == "LSTM"
    assert found.config["time_major"] is True


@pytest.mark.parametrize("both", [False, True])
def test_a_cudnn_layer_that_would_turn_the_batch_round_is_refused(both: bool) -> None:
    entry = layer("CuDNNGRU", "one", units=4, time_major=True, go_backwards=not both)
    entry = layer("Bidirectional", "both", layer=entry) if both else entry
    with pytest.raises(
        UnsupportedModelError, match=r"'one'.* \(CuDNNGRU\) has time_major=True and runs backwards, for"
    ):
        parse(one_layer(entry))


# --- Sequential -------------------------------------------------------------------------------------------------------


def test_a_sequential_model_is_a_chain_of_calls() -> None:
    model = parse(sequential(CHAIN))
    assert [one.name for one in model.layers] == ["x", "lstm", "head"]
    assert calls_of(model, "x") == []
    assert calls_of(model, "lstm") == [Call((TensorRef("x"),))]
    assert calls_of(model, "head") == [Call((TensorRef("lstm"),))]
    assert (model.inputs, model.outputs) == ((TensorRef("x"),), (TensorRef("head"),))


def test_the_layers_of_early_keras_2_stand_alone() -> None:
    first = {
        "class_name": "LSTM",
        "config": {"name": "a", "units": 3, "trainable": True, "batch_input_shape": [None, 5, 2]},
    }
    model = parse({"class_name": "Sequential", "config": [first]})
    assert model.name == "sequential"
    assert model.layers[0].class_name == "InputLayer"
    assert model.layers[0].config == {"name": "a_input", "batch_shape": [None, 5, 2], "dtype": "float32"}


@pytest.mark.parametrize(
    ("settings", "own"),
    [
        ({}, {"batch_input_shape": [2, 5, 3]}),
        ({}, {"batch_shape": [2, 5, 3]}),
        ({"build_config": {"input_shape": [2, 5, 3]}}, {}),
    ],
)
def test_an_input_shape_is_found_wherever_keras_keeps_it(settings: dict[str, Any], own: dict[str, Any]) -> None:
    model = parse(sequential([layer("LSTM", "lstm", units=4, dtype="float64", **own)], **settings))
    assert model.layers[0].config == {"name": "lstm_input", "batch_shape": [2, 5, 3], "dtype": "float64"}


def test_an_input_shape_may_stand_beside_the_layers() -> None:
    tree = sequential(CHAIN[1:])
    tree["config"]["build_input_shape"] = [None, 5, 3]
    assert parse(tree).layers[0].config["batch_shape"] == [None, 5, 3]


def test_a_model_saved_before_it_was_built_is_refused() -> None:
    with pytest.raises(FormatError, match=r"expected an input shape before layer 'lstm'.*call it on data once"):
        parse(sequential(CHAIN[1:]))


def test_all_outputs_of_the_last_layer_are_the_models() -> None:
    model = parse(sequential([source("x"), layer("LSTM", "lstm", units=4, return_state=True)]))
    assert model.outputs == tuple(TensorRef("lstm", 0, output) for output in range(3))


def test_several_outputs_may_only_be_merged() -> None:
    both = layer("Bidirectional", "both", merge_mode=None, layer=layer("LSTM", "inner", units=2))
    model = parse(sequential([source("x"), both, layer("Add", "sum")]))
    assert calls_of(model, "sum") == [Call((TensorRef("both"), TensorRef("both", 0, 1)))]
    with pytest.raises(UnsupportedModelError, match=r"layer 'head' \(Dense\) follows one of 2 outputs"):
        parse(sequential([source("x"), both, layer("Dense", "head", units=1)]))


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([], "at least one layer, found 0"),
        ([source("x")], "at least one layer, found 1"),
        ([*CHAIN, source("y")], "layer 'y': expected one input, found a second InputLayer"),
        ([*CHAIN, layer("Dense", "lstm", units=1)], "one layer of the name 'lstm', found 2"),
        (None, "expected a list of layers, found None"),
        ([*CHAIN, 7], "expected a layer with a class_name, found 7"),
        ([{"class_name": "LSTM", "config": []}], "expected a config of the 'LSTM' layer, found list"),
        ([{"class_name": "LSTM", "config": {}}], "expected one name of the 'LSTM' layer, found None"),
        ([{"class_name": "LSTM", "config": {"name": "a"}, "name": "b"}], "expected one name of the 'LSTM' layer"),
    ],
)
def test_damaged_sequential_models(layers: Any, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        parse(sequential(layers))


# --- Wrappers ---------------------------------------------------------------------------------------------------------


def test_a_backward_layer_is_made_from_the_forward_one() -> None:
    inner = layer("LSTM", "inner", units=2, go_backwards=False)
    model = parse(sequential([source("x"), layer("Bidirectional", "both", layer=inner)]))
    wrapped = model.layers[1].inner
    assert list(wrapped) == ["forward_layer", "backward_layer"]
    assert wrapped["backward_layer"].config["go_backwards"] is True
    assert wrapped["backward_layer"].name == "backward_inner"
    assert wrapped["forward_layer"].config == inner["config"]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            layer("Bidirectional", "w", layer=layer("ConvLSTM1D", "c", filters=2)),
            "'c' in Bidirectional 'w' is of the class 'ConvLSTM1D'",
        ),
        (layer("Bidirectional", "w", layer=layer("Dense", "d", units=2)), "'w' is a Bidirectional around a Dense"),
        (
            layer("TimeDistributed", "w", layer=sequential([source("i"), layer("Unknown", "u")])),
            "layer 'sequential' in TimeDistributed 'w': layer 'u' is of the class 'Unknown'",
        ),
        (layer("TimeDistributed", "w", layer=source("i")), "'i' in TimeDistributed 'w' is of the class 'InputLayer'"),
    ],
)
def test_wrapped_layers_that_are_not_supported(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        parse(sequential([source("x"), entry]))


def test_a_wrapper_without_its_layer_is_damaged() -> None:
    with pytest.raises(FormatError, match="expected a layer with a class_name in TimeDistributed 'w', found None"):
        parse(sequential([source("x"), layer("TimeDistributed", "w")]))


# --- Functional -------------------------------------------------------------------------------------------------------


def test_arguments_by_position_and_by_name_are_the_same_call() -> None:
    states = [tensor("h"), tensor("c")]
    others = [source("h", (None, 4)), source("c", (None, 4)), source("m", (None, None))]
    wanted = Call(
        (TensorRef("x"),),
        {"initial_state": (TensorRef("h"), TensorRef("c")), "mask": (TensorRef("m"),)},
    )
    for node in (
        call(tensor("x"), states, tensor("m"), False),
        call(tensor("x"), initial_state=states, mask=tensor("m"), training=False),
        call(sequences=tensor("x"), initial_state=states, mask=tensor("m"), training=None),
    ):
        entry = layer("LSTM", "lstm", [node], units=4)
        ends = [["x", 0, 0], ["h", 0, 0], ["c", 0, 0], ["m", 0, 0]]
        model = parse(functional([source("x"), *others, entry], ends, ["lstm", 0, 0]))
        assert calls_of(model, "lstm") == [wanted]


def test_an_initial_state_of_keras_2_stands_among_the_inputs() -> None:
    others = [source("h", (None, 4)), source("c", (None, 4))]
    ends = [["x", 0, 0], ["h", 0, 0], ["c", 0, 0]]
    wanted = Call((TensorRef("x"),), {"initial_state": (TensorRef("h"), TensorRef("c"))})
    for nodes in (
        [[["x", 0, 0, {}], ["h", 0, 0, {}], ["c", 0, 0, {}]]],
        [[["x", 0, 0, {"initial_state": None}], ["h", 0, 0], ["c", 0, 0]]],
        [[["x", 0, 0, {"initial_state": [["h", 0, 0], ["c", 0, 0]], "training": False}]]],
        [["x", 0, 0, {"initial_state": [["h", 0, 0], ["c", 0, 0]]}]],
    ):
        entry = layer("LSTM", "lstm", nodes, units=4)
        model = parse(functional([source("x"), *others, entry], ends, [["lstm", 0, 0]]))
        assert calls_of(model, "lstm") == [wanted]


@pytest.mark.parametrize(
    ("ends", "wanted"),
    [
        (["b", 0, 0], ["b"]),
        ([["b", 0, 0]], ["b"]),
        ([["b", 0, 0], ["a", 0, 0]], ["b", "a"]),
        ({"second": ["b", 0, 0], "first": ["a", 0, 0]}, ["a", "b"]),
        ([{"z": ["b", 0, 0], "y": ["a", 0, 0]}, [["b", 0, 0]]], ["a", "b", "b"]),
    ],
)
def test_outputs_come_in_the_order_of_predict(ends: Any, wanted: list[str]) -> None:
    layers = [source("x"), layer("Dense", "a", [call(tensor("x"))]), layer("Dense", "b", [call(tensor("x"))])]
    model = parse(functional(layers, ["x", 0, 0], ends))
    assert [one.layer for one in model.outputs] == wanted


def test_inputs_of_a_dict_come_by_sorted_key() -> None:
    layers = [source("x"), source("y"), layer("Add", "sum", [call([tensor("y"), tensor("x")])])]
    model = parse(functional(layers, {"y": ["y", 0, 0], "x": ["x", 0, 0]}, ["sum", 0, 0]))
    assert model.inputs == (TensorRef("x"), TensorRef("y"))
    assert calls_of(model, "sum") == [Call((TensorRef("y"), TensorRef("x")))]


def test_a_layer_may_be_called_by_itself_in_any_order_of_the_file() -> None:
    # The second call takes the output of the first, and the layer stands before its input.
    dense = layer("Dense", "dense", [call(tensor("x")), call(tensor("dense", 0)), call(tensor("dense", 1))], units=3)
    model = parse(functional([dense, source("x")], ["x", 0, 0], ["dense", 2, 0]))
    assert calls_of(model, "dense")[2] == Call((TensorRef("dense", 1, 0),))


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        (None, "expected a list of inbound_nodes, found None"),
        ([], "expected at least one call, found none"),
        ([7], r"call 0: expected a list of \[layer, call, output, kwargs\], found 7"),
        ([[["x", 0]]], r"expected \[layer, call, output, kwargs\], found list"),
        ([[["x", 0, 0, {}], ["x", 0, 0, {"mask": ["x", 0, 0]}], ["x", 0, 0, {"mask": 3}]]], "the same kwargs"),
        ([{"args": 3}], "expected lists of args and kwargs, found 3"),
        ([call()], "expected one argument 'inputs', found 0"),
        ([call(tensor("x"), inputs=tensor("x"))], "its argument 'inputs' once"),
        ([call([tensor("x"), tensor("x")])], "expected one input, found 2"),
        ([call({"class_name": "__keras_tensor__", "config": {}})], "keras_history"),
        ([call({"class_name": "__keras_tensor__", "config": {"keras_history": ["x", True, 0]}})], "keras_history"),
        ([call(tensor("nowhere"))], "call 0: expected a layer 'nowhere', found none"),
        ([call(tensor("x", 1))], "found call 1, output 0"),
        ([call(tensor("x", 0, 2))], "found call 0, output 2"),
        ([call(tensor("x", -1))], "found call -1, output 0"),
        ([call(tensor("d"))], "a graph without loops, found 1 layers that wait in one: 'd'"),
    ],
)
def test_damaged_calls(nodes: Any, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        parse(one_layer(layer("Dense", "d", nodes, units=2)))


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([call(tensor("x"), training=True)], "called with training=True"),
        ([[["x", 0, 0, {"training": True}]]], "called with training=True"),
        ([call(tensor("x"), constants=[tensor("x")])], "its argument 'constants' is not supported"),
        ([call(tensor("x"), 1, 2, 3, 4, 5)], "6 positional arguments"),
        (
            [call({"class_name": "__numpy__", "config": {"value": [1]}})],
            "tensors of the graph, found '__numpy__'",
        ),
        ([call({"a": tensor("x")})], "found 'a dict of tensors'"),
        ([[["_CONSTANT_VALUE", -1, [1.0], {}]]], "a constant as input is not supported"),
        ([call(tensor("x"), mask=[[1, 0]])], "expected tensors of the graph"),
    ],
)
def test_calls_that_are_not_supported(nodes: Any, message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        parse(one_layer(layer("LSTM", "lstm", nodes, units=2)))


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        (None, ["d", 0, 0], "input_layers: expected .layer, call, output., found None"),
        ([], ["d", 0, 0], "at least one tensor among the model's inputs, found none"),
        (["x", 0, 0], [], "at least one tensor among the model's outputs, found none"),
        (["d", 0, 0], ["d", 0, 0], "expected 'd', an input of the model, to be an InputLayer"),
        ([["x", 0, 0], ["x", 0, 0]], ["d", 0, 0], "expected 'x' once among the model's inputs, found it 2 times"),
        (["x", 0, 0], ["e", 0, 0], "the model's outputs: expected a layer 'e', found none"),
        (["x", 0, 0], ["d", 3, 0], "found call 3, output 0"),
    ],
)
def test_damaged_ends(inputs: Any, outputs: Any, message: str) -> None:
    layers = [source("x"), layer("Dense", "d", [call(tensor("x"))], units=2)]
    with pytest.raises(FormatError, match=message):
        parse(functional(layers, inputs, outputs))


def test_an_input_that_is_not_the_models_is_damage() -> None:
    layers = [source("x"), source("y"), layer("Add", "sum", [call([tensor("x"), tensor("y")])])]
    with pytest.raises(FormatError, match="expected 'y', an InputLayer, among the model's inputs"):
        parse(functional(layers, ["x", 0, 0], ["sum", 0, 0]))


def test_a_loop_of_ten_thousand_layers_is_found_without_recursion() -> None:
    count = 10_000
    layers = [layer("Dense", f"d{i}", [call(tensor(f"d{(i + 1) % count}"))], units=1) for i in range(count)]
    with pytest.raises(FormatError, match="without loops, found 10000 layers"):
        parse(functional([source("x"), *layers], ["x", 0, 0], ["d0", 0, 0]))


def test_a_chain_of_ten_thousand_layers_is_read() -> None:
    names = ["x", *(f"d{i}" for i in range(10_000))]
    layers = [layer("Dense", name, [call(tensor(before))], units=1) for before, name in itertools.pairwise(names)]
    model = parse(functional([source("x"), *reversed(layers)], ["x", 0, 0], [names[-1], 0, 0]))
    assert len(model.layers) == 10_001


# --- What is not supported --------------------------------------------------------------------------------------------


def test_all_layers_that_are_not_supported_are_named_together() -> None:
    layers = [
        source("x"),
        layer("ConvLSTM1D", "conv", filters=2),
        layer("LSTM", "mine", module="my_package.layers", units=2),
        {**layer("MyLSTM", "yours", units=2), "module": None, "registered_name": "yours>MyLSTM"},
        sequential([source("i"), layer("Unknown", "inside")]),
        layer("Dense", "small", dtype={"class_name": "QuantizedDTypePolicy", "config": {}}, units=2),
        layer("Dense", "eight", dtype="int8_from_float32", units=2),
        {"class_name": "LSTM", "config": {"name": "ancient", "output_dim": 3, "trainable": True}},
    ]
    with pytest.raises(UnsupportedModelError) as caught:
        parse(sequential(layers))
    message = str(caught.value)
    for expected in (
        "7 problems were found",
        "layer 'conv' is of the class 'ConvLSTM1D' (module 'keras.layers')",
        "layer 'mine' is of the class 'LSTM' (module 'my_package.layers')",
        "layer 'yours' is of the class 'MyLSTM' (a custom object, registered as 'yours>MyLSTM')",
        "layer 'sequential': layer 'inside' is of the class 'Unknown'",
        "layer 'small' (Dense) is quantized",
        "layer 'eight' (Dense) is quantized",
        "layer 'ancient' (LSTM) was written by Keras 1",
        "Supported are: Activation, ActivityRegularization, Add,",
    ):
        assert expected in message


@pytest.mark.parametrize(
    "tree",
    [
        {"class_name": "MyModel", "config": {}, "module": "my_package", "registered_name": "mine>MyModel"},
        {"class_name": "Functional", "config": {}, "module": "my_package", "registered_name": "Functional"},
        {"class_name": "Functional", "config": {}, "module": "keras", "registered_name": "mine>Functional"},
    ],
)
def test_models_of_other_classes_are_refused_by_name(tree: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedModelError, match=r"the model is of the class '(MyModel|Functional)'"):
        parse(tree)


@pytest.mark.parametrize("tree", [None, 3, [], {}, {"class_name": 3}, {"class_name": "Functional", "config": 3}])
def test_what_is_no_model_is_refused(tree: Any) -> None:
    with pytest.raises(FormatError, match="expected"):
        parse(tree)


LAMBDA = {"class_name": "__lambda__", "config": {"value": "4wEAAAAAAAAA"}}


@pytest.mark.parametrize(
    "entry",
    [
        layer("Lambda", "evil", function=LAMBDA),
        layer("Lambda", "evil", module="my_package"),
        {"class_name": "Lambda", "config": {"name": "evil", "function": ["4wEA", None, None], "trainable": True}},
        layer("Dense", "evil", units=2, activation=LAMBDA),
        layer("LSTM", "evil", units=2, kernel_initializer={"class_name": "X", "config": {"f": [LAMBDA]}}),
        layer("TimeDistributed", "outer", layer=layer("Lambda", "evil", function=LAMBDA)),
        layer("TimeDistributed", "outer", layer=layer("Dense", "evil", units=1, activation=LAMBDA)),
    ],
)
def test_code_is_refused_by_the_layers_name(entry: dict[str, Any]) -> None:
    with pytest.raises(UnsafeFileError, match=r"layer 'evil'.* holds Python code"):
        parse(sequential([source("x"), entry]))


def test_all_code_is_named_together() -> None:
    layers = [source("x"), layer("Lambda", "one"), layer("GRU", "gru"), layer("Lambda", "two")]
    with pytest.raises(UnsafeFileError, match=r"2 problems were found:\n.*'one'.*\n.*'two'"):
        parse(sequential(layers))


def test_nothing_that_a_configuration_names_is_imported(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trap_module.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    entry = layer("LSTM", "lstm", module="trap_module", units=2)
    with pytest.raises(UnsupportedModelError, match="trap_module"):
        parse(sequential([source("x"), entry]))
    inside = layer("Dense", "d", units=2, activation={"module": "trap_module", "class_name": "function", "config": "f"})
    parse(sequential([source("x"), inside]))
    assert "trap_module" not in sys.modules


# --- Operations -------------------------------------------------------------------------------------------------------


NOT_ZERO = operation("NotEqual", "ne", [call(tensor("x"), 0)])


def masked(*operations: dict[str, Any], mask: str, first: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return a model of Masking and an LSTM that is given ``mask``."""
    masking = first or layer("Masking", "masking", [call(tensor("x"))], mask_value=0.0)
    lstm = layer("LSTM", "lstm", [call(tensor("masking"), mask=tensor(mask))], units=2)
    return functional([source("x"), masking, *operations, lstm], ["x", 0, 0], ["lstm", 0, 0])


def test_a_recorded_mask_is_taken_out() -> None:
    counts = operation("NotEqual", "counts", [call(tensor("x"), 0)])
    model = parse(
        masked(counts, operation("Any", "any", [call(tensor("counts"))], axis=-1, keepdims=False), mask="any")
    )
    assert [one.name for one in model.layers] == ["x", "masking", "lstm"]
    assert calls_of(model, "lstm") == [Call((TensorRef("masking"),))]


@pytest.mark.parametrize(
    ("compared", "over"),
    [(1.0, {"axis": -1}), (0.0, {"axis": 1}), (0.0, {"axis": None}), (0.0, {"axis": -1, "keepdims": True})],
)
def test_another_mask_stays(compared: float, over: dict[str, Any]) -> None:
    counts = operation("NotEqual", "counts", [call(tensor("x"), compared)])
    model = parse(masked(counts, operation("Any", "any", [call(tensor("counts"))], **over), mask="any"))
    assert [one.name for one in model.layers] == ["x", "masking", "counts", "any", "lstm"]
    assert calls_of(model, "lstm")[0].keywords == {"mask": (TensorRef("any"),)}
    counted = next(one for one in model.layers if one.name == "counts")
    assert counted.config["x2"] == compared
    assert counted.operation


def test_a_mask_given_with_a_state_stays() -> None:
    # Keras 3 does not look at the travelling mask there, so the recorded one is no repetition.
    counts = operation("NotEqual", "counts", [call(tensor("x"), 0)])
    tree = masked(counts, operation("Any", "any", [call(tensor("counts"))], axis=-1, keepdims=False), mask="any")
    states = [tensor("h"), tensor("h")]
    tree["config"]["layers"].insert(1, source("h", (None, 2)))
    tree["config"]["layers"][-1]["inbound_nodes"][0]["kwargs"]["initial_state"] = states
    tree["config"]["input_layers"] = [["x", 0, 0], ["h", 0, 0]]
    model = parse(tree)
    assert set(calls_of(model, "lstm")[0].keywords) == {"mask", "initial_state"}


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([operation("Add", "op", [call(tensor("x"), tensor("x"))])], "'op' is the operation 'Add' of keras.ops"),
        ([operation("NotEqual", "op", [call(tensor("x"), 0)])], "output 'op' is an operation"),
        (
            [operation("NotEqual", "ne", [call(tensor("x"), 0)]), layer("Dense", "op", [call(tensor("ne"))])],
            "'ne' and 'op'",
        ),
        ([operation("Concatenate", "op", [call([tensor("x"), tensor("x")])], axis=-1)], "'x' and 'op'"),
    ],
)
def test_operations_that_are_no_masks_are_refused(layers: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        parse(functional([source("x"), *layers], ["x", 0, 0], ["op", 0, 0]))


def test_operations_of_legacy_files_are_told_from_layers() -> None:
    """There no module says which is which, and SpatialDropout1D of Keras 3 has no key "trainable" either."""
    add = {
        "class_name": "Add",
        "config": {"name": "add"},
        "name": "add",
        "inbound_nodes": [call(tensor("x"), tensor("x"))],
    }
    drop = {"class_name": "SpatialDropout1D", "config": {"name": "drop", "rate": 0.1, "dtype": "float32"}}
    with pytest.raises(UnsupportedModelError, match="'add' is the operation 'Add'"):
        parse(functional([source("x"), add], ["x", 0, 0], ["add", 0, 0]))
    assert parse(sequential([source("x"), drop])).layers[1].class_name == "SpatialDropout1D"


# --- JSON -------------------------------------------------------------------------------------------------------------


def test_json_is_read_as_json() -> None:
    text = {"a": [1, 2.5, None, True, "ü"], "b": {}}
    assert parse_json(json.dumps(text).encode(), "x") == text
    assert parse_json(json.dumps(text), "x") == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "damaged or truncated"),
        (b"{", "damaged or truncated"),
        (b"\xff", "damaged or truncated"),
        (b'{"a": 1}x', "damaged or truncated"),
        (b"[" + b"9" * 5000 + b"]", "damaged or truncated"),
    ],
)
def test_what_is_no_json(text: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        parse_json(text, "config.json")


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


def test_json_nests_as_deep_as_the_cap_says() -> None:
    parse_json(nested(Limits().json_depth), "x")
    parse_json(b'{"a": ' * Limits().json_depth + b"1" + b"}" * Limits().json_depth, "x")
    for depth in (Limits().json_depth + 1, 900, 100_000):
        with pytest.raises(UnsafeFileError, match=f"nested at most {Limits().json_depth} deep"):
            parse_json(nested(depth), "x")


def test_json_says_one_thing_only() -> None:
    with pytest.raises(UnsafeFileError, match="the key 'units' stands twice"):
        parse_json(b'{"a": {"units": 1, "units": 2}}', "config.json")


def test_json_is_not_larger_than_the_cap_says() -> None:
    with pytest.raises(UnsafeFileError, match="at most 16,777,216 bytes"):
        parse_json(b" " * (Limits().json_bytes + 1), "config.json")


# --- Weights that do not fit ------------------------------------------------------------------------------------------


def test_all_weights_that_do_not_fit_are_named_together() -> None:
    archive = made.recorded("keras-3.15.1")["chain.keras"]
    config = json.loads(made.members_of(archive)["config.json"])
    for entry in config["config"]["layers"]:
        if entry["config"]["name"] in ("head", "lstm"):
            entry["config"]["units"] = 7
        if entry["class_name"] == "BatchNormalization":
            entry["config"]["scale"] = False
    with pytest.raises(FormatError) as caught:
        made.read(made.with_config(archive, config))
    message = str(caught.value)
    for expected in (
        "model.weights.h5: 6 problems were found",
        "expected 3 weights (beta, moving_mean, moving_variance), found 4 in 'layers/batch_normalization/vars'",
        "(LSTM): kernel: expected shape (3, 28), found (3, 16)",
        "(LSTM): recurrent_kernel: expected shape (7, 28), found (4, 16)",
        "(LSTM): bias: expected shape (28,), found (16,)",
        "(Dense): kernel: expected shape (4, 7), found (4, 2)",
        "(Dense): bias: expected shape (7,), found (2,)",
    ):
        assert expected in message


@pytest.mark.parametrize("units", [0, -1, True, "4", 4.0, None, [4]])
def test_sizes_are_positive_whole_numbers(units: Any) -> None:
    archive = made.recorded("keras-3.15.1")["chain.keras"]
    config = json.loads(made.members_of(archive)["config.json"])
    config["config"]["layers"][2]["config"]["units"] = units
    with pytest.raises(FormatError, match="expected units to be a positive whole number"):
        made.read(made.with_config(archive, config))


def test_weights_that_no_layer_has_are_refused() -> None:
    archive = made.recorded("keras-3.15.1")["chain.keras"]
    config = json.loads(made.members_of(archive)["config.json"])
    del config["config"]["layers"][-1]
    with pytest.raises(FormatError, match="the weights of 'layers/dense_1' belong to no layer"):
        made.read(made.with_config(archive, config))


def test_missing_weights_are_refused() -> None:
    archive = made.recorded("keras-3.15.1")["chain.keras"]
    config = json.loads(made.members_of(archive)["config.json"])
    config["config"]["layers"].append(layer("Dense", "more", units=3))
    with pytest.raises(FormatError, match=r"layer 'more' \(Dense\): expected its weights in 'layers/dense_2/vars'"):
        made.read(made.with_config(archive, config))


def test_quantized_weights_are_refused() -> None:
    archive = made.archive_of(
        {
            "metadata.json": b'{"keras_version": "3.15.1"}',
            "config.json": json.dumps(sequential([source("x"), layer("Dense", "d", units=2, use_bias=False)])).encode(),
            "model.weights.h5": made.hdf5_of({"layers/dense/vars/0": np.zeros((3, 2), np.int8)}),
        }
    )
    with pytest.raises(UnsupportedModelError, match="expected floating point, found int8"):
        made.read(archive)
