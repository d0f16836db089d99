"""Files with convolution, pooling and attention: recorded outputs, calls with several tensors, and where masks end."""

from __future__ import annotations

import functools
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras_support import call, functional, layer, operation, sequential, source, tensor

import lstm_engine as le
from lstm_engine.description import Call, TensorRef
from lstm_engine.errors import FormatError, UnsafeFileError, UnsupportedModelError
from lstm_engine.formats.keras_config import parse_model
from lstm_engine.formats.keras_layers import KerasModel

DATA = Path(__file__).parent / "data" / "keras_feedforward"

#: What the recorded files have to cover.
LAYERS = {
    "Conv1D", "DepthwiseConv1D", "SeparableConv1D", "MaxPooling1D", "AveragePooling1D", "GlobalMaxPooling1D",
    "GlobalAveragePooling1D", "Cropping1D", "ZeroPadding1D", "UpSampling1D", "Permute", "Reshape", "Normalization",
    "Rescaling", "UnitNormalization", "PReLU", "LeakyReLU", "ELU", "Dot", "Attention", "AdditiveAttention",
    "MultiHeadAttention",
}  # fmt: skip


@functools.cache
def recorded(writer: str) -> dict[str, bytes]:
    """Return the recorded files by name."""
    with tarfile.open(DATA / f"{writer}.tar.xz") as archive:
        return {member.name: archive.extractfile(member).read() for member in archive.getmembers()}  # type: ignore[union-attr]


WRITERS = sorted(path.name.removesuffix(".tar.xz") for path in DATA.glob("*.tar.xz"))
FILES = [(writer, name) for writer in WRITERS for name in sorted(recorded(writer)) if name.endswith((".keras", ".h5"))]


@pytest.mark.parametrize(
    ("writer", "name", "compute_type"),
    [
        (writer, name, compute_type)
        for place, (writer, name) in enumerate(FILES)
        for compute_type in ("float32", "float64")
        if compute_type == "float32" or place % 3 == 0
    ],
)
def test_the_recorded_outputs_come_out(writer: str, name: str, compute_type: Any, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(recorded(writer)[name])
    model = le.load(tmp_path / name, compute_type=compute_type)
    with np.load(io.BytesIO(recorded(writer)[f"{name.rpartition('.')[0]}.npz"])) as file:
        arrays = dict(file)
    # Keras takes 1e9 off what is masked: only in its own precision is nothing left of the rest.
    kind = "output" if compute_type == "float32" else "oracle"
    inputs = [arrays[f"input_{place}"] for place in range(sum(key.startswith("input_") for key in arrays))]
    found = model(*inputs)
    found = found if isinstance(found, tuple) else (found,)
    assert len(found) == sum(key.startswith("output_") for key in arrays)
    for place, output in enumerate(found):
        np.testing.assert_allclose(output, arrays[f"{kind}_{place}"], rtol=3e-6, atol=3e-6)


def test_the_files_cover_every_layer_and_both_formats() -> None:
    records = [json.loads(recorded(writer)["keras.json"]) for writer in WRITERS]
    assert not LAYERS - {kind for record in records for entry in record["models"] for kind in entry["layers"]}
    for writer in ("keras", "tf_keras"):
        assert {name.rpartition(".")[2] for found, name in FILES if found == writer} == {"keras", "h5"}


# --- Calls ----------------------------------------------------------------------------------------------------------


def parse(tree: Any, version: str = "3.15.1") -> KerasModel:
    return parse_model(tree, "config.json", version)


def attention(kind: str, *calls: Any, **config: Any) -> Any:
    """Return a Functional model of one attention layer on two inputs, called once or several times."""
    layers = [source("q"), source("v"), layer(kind, "a", list(calls), **config)]
    return functional(layers, [["q", 0, 0], ["v", 0, 0]], [["a", len(calls) - 1, 0]])


def the_layer(model: KerasModel, name: str = "a") -> Any:
    return next(one for one in model.layers if one.name == name)


Q, V = tensor("q"), tensor("v")


@pytest.mark.parametrize(
    ("kind", "node", "arguments"),
    [
        ("Attention", call([Q, V]), ["query", "value"]),
        ("AdditiveAttention", call([Q, V, V]), ["query", "value", "key"]),
        ("Attention", call(inputs=[Q, V], mask=None), ["query", "value"]),
        ("Attention", call([Q, V], mask=[None, None]), ["query", "value"]),
        ("MultiHeadAttention", call(Q, V), ["query", "value"]),
        ("MultiHeadAttention", call(Q, value=V, key=V), ["query", "value", "key"]),
        ("MultiHeadAttention", call(Q, V, attention_mask=V), ["query", "value", "attention_mask"]),
        ("MultiHeadAttention", call(Q, V, None, None, None, None, V), ["query", "value", "attention_mask"]),
        ("Attention", [["q", 0, 0, {}], ["v", 0, 0, {}]], ["query", "value"]),
        ("MultiHeadAttention", [["q", 0, 0, {"value": ["v", 0, 0], "key": ["v", 0, 0]}]], ["query", "value", "key"]),
        ("Attention", call([Q, V], mask=[None, V]), ["query", "value", "value_mask"]),
        ("MultiHeadAttention", call(Q, V, key_mask=V), ["query", "value", "key_mask"]),
    ],
)
def test_the_tensors_of_a_call_are_named(kind: str, node: Any, arguments: list[str]) -> None:
    found = the_layer(parse(attention(kind, node)))
    assert found.config["call_arguments"] == arguments
    refs = {"query": TensorRef("q")}
    assert found.calls == [Call(tuple(refs.get(name, TensorRef("v")) for name in arguments))]


def test_what_a_call_says_beside_its_tensors() -> None:
    flags = {"use_causal_mask": True, "return_attention_scores": True}
    for kind, node in (
        ("Attention", call([Q, V], **flags)),
        ("MultiHeadAttention", call(Q, V, **flags, training=False)),
        ("Attention", [["q", 0, 0, flags], ["v", 0, 0, flags]]),
    ):
        found = the_layer(parse(attention(kind, node)))
        assert found.config["use_causal_mask"] is found.config["return_attention_scores"] is True
        assert found.output_count == 2


@pytest.mark.parametrize(
    ("kind", "calls", "error", "message"),
    [
        ("Attention", [call([Q])], FormatError, "expected one query, one value and at most one key, found query"),
        ("Attention", [call([Q, V, V, V])], FormatError, "found 4 inputs"),
        ("Attention", [call(Q)], FormatError, "expected one query, one value"),
        ("Attention", [call([Q, V], mask=V)], FormatError, "expected a query, a value and a key"),
        ("MultiHeadAttention", [call(Q)], FormatError, "expected one query, one value"),
        ("MultiHeadAttention", [call(Q, [V, V])], FormatError, "expected one query, one value"),
        ("MultiHeadAttention", [call(Q, V, value_mask=[V, V])], FormatError, "expected one mask for each"),
        ("MultiHeadAttention", [call(Q, V, use_causal_mask="yes")], FormatError, "to be true or false, found 'yes'"),
        ("MultiHeadAttention", [call(Q, V, training=True)], UnsupportedModelError, "called with training=True"),
        ("MultiHeadAttention", [call(Q, V, rotate=V)], UnsupportedModelError, "its argument 'rotate' is not supported"),
        ("MultiHeadAttention", [call(Q, V, 3)], UnsupportedModelError, "expected tensors of the graph"),
        (
            "Attention",
            [call([Q, V]), call([Q, V], use_causal_mask=True)],
            UnsupportedModelError,
            "its arguments differ between its calls",
        ),
    ],
)
def test_calls_that_cannot_be_read(kind: str, calls: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=rf"layer 'a' \({kind}\), call {len(calls) - 1}: .*{message}"):
        parse(attention(kind, *calls))


@pytest.mark.parametrize("kind", ["Attention", "MultiHeadAttention"])
def test_attention_is_no_layer_of_a_chain(kind: str) -> None:
    # The reader lets it pass: that it has one input is seen where the graph is put together.
    found = parse(sequential([source("x"), layer(kind, "a")]))
    assert "call_arguments" not in the_layer(found).config


@pytest.mark.parametrize("kind", ["ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D", "Conv2D", "EinsumDense"])
def test_layers_that_are_not_there_are_named(kind: str) -> None:
    with pytest.raises(UnsupportedModelError, match=f"layer 'a' is of the class '{kind}'"):
        parse(sequential([source("x"), layer(kind, "a")]))


def test_a_lambda_is_unsafe_also_beside_attention() -> None:
    layers = [source("q"), source("v"), layer("Lambda", "f", [call(Q)]), layer("Attention", "a", [call([Q, V])])]
    with pytest.raises(UnsafeFileError, match=r"layer 'f' holds Python code \(Lambda\)"):
        parse(functional(layers, [["q", 0, 0], ["v", 0, 0]], [["a", 0, 0]]))


# --- Masks ----------------------------------------------------------------------------------------------------------


def block(*, recorded_masks: bool) -> Any:
    """Return a masked sequence, its attention to itself, and what goes past it: a transformer's block, then an LSTM.

    The LSTM is given the mask that Keras computed when the model was built; older releases record those of the
    attention as well.
    """
    masks = {"query_mask": tensor("any"), "value_mask": tensor("any")} if recorded_masks else {}
    layers = [
        source("x"),
        layer("Masking", "m", [call(tensor("x"))], mask_value=0.0),
        operation("NotEqual", "ne", [call(tensor("x"), 0.0)]),
        operation("Any", "any", [call(tensor("ne"))], axis=-1, keepdims=False),
        layer("MultiHeadAttention", "a", [call(tensor("m"), tensor("m"), **masks)]),
        layer("Add", "add", [call([tensor("m"), tensor("a")])]),
        operation("LogicalOr", "or", [call(tensor("any"), tensor("any"))]),
        layer("LSTM", "lstm", [call(tensor("add"), mask=tensor("or"))], units=2, return_sequences=True),
    ]
    return functional(layers, [["x", 0, 0]], [["lstm", 0, 0]])


def test_before_3_8_masks_pass_attention_and_need_not_be_recorded() -> None:
    found = parse(block(recorded_masks=True), "3.5.0")
    assert [one.name for one in found.layers] == ["x", "m", "a", "add", "lstm"]
    assert not any(one.keywords for layer in found.layers for one in layer.calls)
    assert the_layer(found).config["call_arguments"] == ["query", "value"]


@pytest.mark.parametrize("recorded_masks", [False, True])
def test_since_3_8_attention_takes_the_masks_off_its_inputs(recorded_masks: bool) -> None:
    found = parse(block(recorded_masks=recorded_masks), "3.15.1")
    assert the_layer(found).calls == [Call((TensorRef("m"), TensorRef("m")))]
    # What goes past it has no mask any more, so that the sum has none; the LSTM has what the graph says.
    assert the_layer(found, "add").calls == [Call((TensorRef("m/unmasked"), TensorRef("a")))]
    assert the_layer(found, "m/unmasked").operation
    assert the_layer(found, "lstm").calls == [Call((TensorRef("add"),), {"mask": (TensorRef("or"),)})]


def test_what_runs_before_attention_still_sees_the_mask() -> None:
    layers = [
        source("x"),
        layer("Masking", "m", [call(tensor("x"))], mask_value=0.0),
        layer("Dense", "d", [call(tensor("m"))], units=3),
        layer("MultiHeadAttention", "a", [call(tensor("d"), tensor("m"))]),
        layer("Add", "late", [call([tensor("m"), tensor("a")])]),
    ]
    found = parse(functional(layers, [["x", 0, 0]], [["late", 0, 0]]))
    assert the_layer(found, "d").calls == [Call((TensorRef("m"),))]
    assert the_layer(found, "late").calls == [Call((TensorRef("m/unmasked"), TensorRef("a")))]


def test_masks_that_are_not_those_that_travel_along_become_inputs() -> None:
    tree = block(recorded_masks=True)
    attention_layer = next(one for one in tree["config"]["layers"] if one["name"] == "a")
    attention_layer["inbound_nodes"] = [call(tensor("m"), tensor("m"), value_mask=tensor("ne"))]
    found = parse(tree, "3.5.0")
    assert the_layer(found).config["call_arguments"] == ["query", "value", "value_mask"]
    assert the_layer(found).calls == [Call((TensorRef("m"), TensorRef("m"), TensorRef("ne")))]
