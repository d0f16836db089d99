"""The report of a load, and ``lstm-engine info``: where weights came from, what was inferred, what was ignored."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recorded import manifest

import lstm_engine as le
from lstm_engine.formats.content import read_whole
from lstm_engine.formats.hdf5 import HDF5File
from lstm_engine.info import describe_file

FIXTURES = Path(__file__).parent / "fixtures"
CHARACTERS = Path(le.__file__).parent / "data" / "char_lstm.keras"
KERAS = [(folder, entry) for folder in ("keras", "tf_keras") for entry in manifest(FIXTURES / folder)["models"]]


def weights_file(path: Path) -> HDF5File:
    if path.suffix == ".h5":
        return HDF5File(read_whole(path), str(path))
    with zipfile.ZipFile(path) as archive:
        return HDF5File(archive.read("model.weights.h5"), str(path))


@pytest.mark.parametrize(("folder", "entry"), KERAS, ids=[entry["file"] for _, entry in KERAS])
def test_every_weight_has_its_key_in_the_file(folder: str, entry: dict[str, Any]) -> None:
    path = FIXTURES / folder / entry["file"]
    model = le.load(path)
    report = model.report
    root = weights_file(path).root
    weights = [weight for layer in report.layers for weight in layer.weights]
    assert weights
    for weight in weights:
        array = root.array(weight.source)
        assert (array.shape, str(array.dtype)) == (weight.shape, weight.dtype)
    assert sum(int(np.prod(weight.shape)) for weight in weights) == sum(layer.parameters for layer in model.layers)
    assert report.source == str(path)
    assert report.version == manifest(FIXTURES / folder)["version"]


def test_it_is_frozen_readable_and_plain() -> None:
    report = le.load(CHARACTERS).report
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.name = "other"  # type: ignore[misc]
    text = str(report)
    assert text.splitlines()[0] == f"{CHARACTERS}: format keras, by keras {report.version}"
    assert "    recurrent_kernel: layers/lstm/cell/vars/1 (128, 512) float32" in text.splitlines()
    plain = report.as_dict()
    assert json.loads(json.dumps(plain))["layers"][1]["weights"][0]["source"] == "layers/lstm/cell/vars/0"


def test_what_has_no_effect_is_said() -> None:
    report = le.load(FIXTURES / "keras" / "keras_tagger_1998_3.h5").report
    (lstm,) = [layer for layer in report.layers if layer.kind == "LSTM"]
    assert lstm.ignored == ("dropout=0.3", "recurrent_dropout=0.2")
    assert "without effect here: dropout=0.3, recurrent_dropout=0.2" in str(report)


def rewritten(path: Path, target: Path, edit: Callable[[dict[str, Any]], None]) -> Path:
    """Copy a .keras archive with another configuration."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as copy:
        for name in source.namelist():
            content = source.read(name)
            if name == "config.json":
                config = json.loads(content)
                edit(config)
                content = json.dumps(config).encode()
            copy.writestr(name, content)
        copy.writestr("assets/vocabulary.txt", "a b c")
    return target


def test_parts_of_the_file_that_are_left_alone_are_said(tmp_path: Path) -> None:
    def compile_(config: dict[str, Any]) -> None:
        config["compile_config"] = {"optimizer": "adam", "loss": "mse"}

    report = le.load(rewritten(CHARACTERS, tmp_path / "m.keras", compile_)).report
    assert "the settings of the training (config.json: compile_config)" in report.ignored
    assert "assets/vocabulary.txt" in report.ignored
    assert "ignored:\n    the settings of the training" in str(report)


def test_a_saved_model_says_what_it_was_saved_from(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    le.load(CHARACTERS).save(path)
    report = le.load(path).report
    assert report.saved_by == f"lstm_engine {le.__version__}, format 1.0"
    assert (report.format, report.framework) == ("keras", "keras")
    assert [weight.source for weight in report.layers[2].weights] == ["dense.kernel", "dense.bias"]


def test_a_model_made_by_hand_has_a_report() -> None:
    model = le.Sequential([le.Dense(np.ones((3, 2), np.float32), None, "tanh")])
    (_, dense) = model.report.layers
    assert [(weight.name, weight.source, weight.shape) for weight in dense.weights] == [("kernel", "", (3, 2))]


# --- info -------------------------------------------------------------------------------------------------------------


def test_info_of_weights_alone_lists_them() -> None:
    lines = describe_file(str(CHARACTERS.with_name("sunspots_lstm.pt")))
    assert "    array: lstm.weight_ih_l0 (128, 1) float32" in lines


def test_info_has_the_report() -> None:
    lines = describe_file(str(CHARACTERS))
    assert "    kernel: layers/dense/vars/0 (128, 60) float32" in lines


def test_info_of_a_saved_model(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    le.load(CHARACTERS).save(path, golden=np.zeros((2, 40, 60), np.float32))
    text = "\n".join(describe_file(str(path)))
    assert f"saved by lstm_engine {le.__version__}, format 1.0; it was saved by Keras 3." in text
    assert "    kernel: dense.kernel (128, 60) float32" in text
    assert "golden inputs and outputs: input_layer (2, 40, 60), dense (2, 60)" in text


@pytest.mark.parametrize(
    ("class_name", "phrase"), [("ConvLSTM1D", "'ConvLSTM1D'"), ("Lambda", "Python code"), ("MyLayer", "'MyLayer'")]
)
def test_info_goes_on_where_a_model_cannot_be_run(tmp_path: Path, class_name: str, phrase: str) -> None:
    def replace(config: dict[str, Any]) -> None:
        config["config"]["layers"][2]["class_name"] = class_name

    path = rewritten(CHARACTERS, tmp_path / "m.keras", replace)
    with pytest.raises((le.UnsupportedModelError, le.UnsafeFileError)):
        le.load(path)
    lines = describe_file(str(path))
    assert lines[1].startswith("saved by Keras 3.")
    assert {"lstm (LSTM)", f"dense ({class_name})"} <= set(lines)
    assert "    array: layers/lstm/cell/vars/1 (128, 512) float32" in lines
    assert lines[-2] == "The model cannot be run:"
    assert phrase in lines[-1]


def test_info_of_a_saved_model_of_a_newer_layer(tmp_path: Path) -> None:
    from lstm_engine.formats.mapped_tensors import map_tensors, write_tensors

    path = tmp_path / "m.safetensors"
    le.Sequential([le.Dense(np.ones((3, 2), np.float32))]).save(path)
    tensors, metadata = map_tensors(path)
    metadata["architecture"] = metadata["architecture"].replace('"Dense"', '"Denser"')
    newer = tmp_path / "newer.safetensors"
    with newer.open("wb") as file:
        write_tensors(file, tensors, metadata)
    lines = describe_file(str(newer))
    assert "dense (Denser)" in lines
    assert any("a layer of this class is not supported" in line for line in lines)


def test_info_of_an_onnx_model_that_cannot_be_run(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    node = helper.make_node("MatMulNBits", ["x", "w"], ["y"], "quantized", domain="com.microsoft")
    value = [helper.make_tensor_value_info(name, 1, ["batch", 2]) for name in ("x", "y")]
    array = onnx.numpy_helper.from_array(np.ones((2, 2), np.float32), "w")
    graph = helper.make_graph([node], "g", value[:1], value[1:], [array])
    (tmp_path / "m.onnx").write_bytes(helper.make_model(graph, producer_name="test").SerializeToString())
    lines = describe_file(str(tmp_path / "m.onnx"))
    assert "quantized (com.microsoft.MatMulNBits)" in lines
    assert "    array: w (2, 2) type 1" in lines
    assert "The model cannot be run:" in lines
