"""Files that Keras 2 and 3 wrote are read as the frameworks themselves say: every weight, every call, every end."""

from __future__ import annotations

import io
import itertools
import tarfile
from pathlib import Path
from typing import Any

import keras_support as made
import numpy as np
import pytest

from lstm_engine.description import TensorRef
from lstm_engine.formats.keras import describe_keras_file, read_keras
from lstm_engine.formats.keras_layers import LAYERS

FILES = made.model_files()


def in_words(file: tuple[str, str]) -> str:
    return "-".join(file)


def reference(entry: list[Any]) -> TensorRef:
    return TensorRef(*entry)


@pytest.mark.parametrize("file", FILES, ids=in_words)
def test_the_weights_are_the_frameworks_own(file: tuple[str, str]) -> None:
    writer, name = file
    found = made.weights_of(made.read(made.recorded(writer)[name], name))
    with np.load(io.BytesIO(made.recorded(writer)[name.rpartition(".")[0] + ".npz"])) as recorded:
        assert sorted(found) == sorted(recorded.files)
        for key in recorded.files:
            assert found[key].dtype == recorded[key].dtype
            np.testing.assert_array_equal(found[key], recorded[key], err_msg=key)


@pytest.mark.parametrize("file", FILES, ids=in_words)
def test_the_graph_is_the_frameworks_own(file: tuple[str, str]) -> None:
    writer, name = file
    model = made.read(made.recorded(writer)[name], name)
    recorded = made.expected(writer)
    graph = recorded["models"][name.rpartition(".")[0]]
    assert (model.framework, model.version) == ("keras", recorded["version"])
    assert model.format == ("keras-h5" if name.endswith(".h5") else "keras")
    assert model.name == graph["name"]
    layers = [layer for layer in model.layers if layer.class_name in LAYERS]
    if graph["sequential"]:
        assert [(one.name, one.class_name) for one in layers[1:]] == [
            (one["name"], one["class_name"]) for one in graph["layers"]
        ]
        assert layers[0].class_name == "InputLayer"
        assert model.inputs == (TensorRef(layers[0].name),)
        assert model.outputs == (TensorRef(layers[-1].name),)
        for before, after in itertools.pairwise(layers):
            assert [(made_call.inputs, dict(made_call.keywords)) for made_call in after.calls] == [
                ((TensorRef(before.name),), {})
            ]
        return
    assert [(one.name, one.class_name) for one in layers] == [
        (one["name"], one["class_name"]) for one in graph["layers"]
    ]
    assert model.inputs == tuple(map(reference, graph["inputs"]))
    assert model.outputs == tuple(map(reference, graph["outputs"]))
    assert model.input_names == tuple(entry[0] for entry in graph["inputs"])
    assert model.output_names == tuple(entry[0] for entry in graph["outputs"])
    for layer, entry in zip(layers, graph["layers"], strict=True):
        tensors = [[*one.inputs, *one.keywords.get("initial_state", ())] for one in layer.calls]
        assert tensors == [list(map(reference, one)) for one in entry["calls"]], layer.name


@pytest.mark.parametrize("file", FILES, ids=in_words)
def test_masks_that_travel_along_are_not_in_the_graph(file: tuple[str, str]) -> None:
    writer, name = file
    model = made.read(made.recorded(writer)[name], name)
    operations = [layer for layer in model.layers if layer.class_name not in LAYERS]
    masked = [layer.name for layer in model.layers for one in layer.calls if "mask" in one.keywords]
    if name.startswith("author_masks"):
        # not_equal(tokens, 2) is the author's own; what Masking computes is only recorded.
        assert [(layer.class_name, layer.config["x2"]) for layer in operations] == [("NotEqual", 2)]
        assert masked == ["computed", "given"]
    else:
        assert not operations
        assert not masked


@pytest.mark.parametrize("writer", made.WRITERS)
def test_both_kinds_of_file_give_the_same_model(writer: str) -> None:
    files = made.recorded(writer)
    compared = 0
    for name in sorted(files):
        other = name.removesuffix(".keras") + ".h5"
        if name.endswith(".keras") and other in files:
            first, second = made.read(files[name], name), made.read(files[other], other)
            assert [layer.name for layer in first.layers] == [layer.name for layer in second.layers]
            assert [layer.calls for layer in first.layers] == [layer.calls for layer in second.layers]
            assert (first.inputs, first.outputs) == (second.inputs, second.outputs)
            one, two = made.weights_of(first), made.weights_of(second)
            assert one.keys() == two.keys()
            assert all(np.array_equal(one[key], two[key]) for key in one)
            compared += 1
    assert compared >= 3


def test_the_files_cover_every_layer() -> None:
    found = set()
    for writer, name in FILES:
        for layer in made.read(made.recorded(writer)[name], name).layers:
            found |= {part.class_name for _, part in made.parts_of(layer)}
    # Other layers are in the folders beside this one, with tests of their own.
    folders = [made.DATA.parent / name for name in ("keras_feedforward", "keras_recurrent")]
    for archive in (path for folder in folders for path in folder.glob("*.tar.xz")):
        with tarfile.open(archive) as opened:
            for member in opened.getmembers():
                if member.name.endswith((".keras", ".h5")):
                    data = opened.extractfile(member)
                    assert data is not None
                    for layer in made.read(data.read(), member.name).layers:
                        found |= {part.class_name for _, part in made.parts_of(layer)}
    assert found >= LAYERS


def test_weights_are_read_only_and_belong_to_nobody_else() -> None:
    model = made.read(made.recorded("keras-3.15.1")["wrappers.keras"])
    for key, array in made.weights_of(model).items():
        assert not array.flags.writeable, key
        assert array.flags.c_contiguous
        assert array.dtype.isnative


def test_a_layer_in_a_wrapper_and_in_the_model_has_the_same_weights() -> None:
    for writer in made.WRITERS:
        weights = made.weights_of(made.read(made.recorded(writer)["shared_in_wrapper.keras"]))
        wrapper = next(key for key in weights if key.endswith("layer/kernel"))
        assert any(np.array_equal(weights[wrapper], weights[key]) for key in weights if key != wrapper)
        # The three kernels of the model are different ones.
        assert len({weights[key].tobytes() for key in weights if key.endswith("kernel")}) == 3


@pytest.mark.parametrize("name", ["chain.keras", "chain.h5"])
def test_the_content_decides_and_not_the_name(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(made.recorded("tf_keras-2.21.0")[name])
    model = read_keras(path)
    assert model.source == str(path)
    assert model.format == ("keras" if name.endswith(".keras") else "keras-h5")
    assert describe_keras_file(str(path)).layers[1].name == model.layers[1].name


def test_a_keras_name_on_a_legacy_file_is_no_obstacle(tmp_path: Path) -> None:
    # TensorFlow up to 2.12 wrote HDF5 under the name model.keras.
    path = tmp_path / "model.keras"
    path.write_bytes(made.recorded("keras-2.12.0")["chain.h5"])
    assert read_keras(path).format == "keras-h5"
