"""Saving to our own format and loading it again: the same bits, damage found, strangers' files refused."""

from __future__ import annotations

import contextlib
import inspect
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recorded import load_arrays, manifest
from safetensors import safe_open

import lstm_engine as le
from lstm_engine.activations import Activation
from lstm_engine.formats.mapped_tensors import map_tensors, write_tensors
from lstm_engine.formats.own_file import VERSION, read_own
from lstm_engine.layers import native
from lstm_engine.layers.base import Layer
from lstm_engine.layers.gru import GRUCell
from lstm_engine.layers.simple_rnn import SimpleCell
from lstm_engine.saving import verify_saved

FIXTURES = Path(__file__).parent / "fixtures"
SUNSPOTS = Path(le.__file__).parent / "data" / "sunspots_lstm.pt"
KERAS = [(folder, entry) for folder in ("keras", "tf_keras") for entry in manifest(FIXTURES / folder)["models"]]
TORCH = manifest(FIXTURES / "torch")["models"]

Edit = Callable[[dict[str, Any]], None]


def outputs(result: Any) -> list[bytes]:
    """Return all bits of what a call gave."""
    if isinstance(result, np.ndarray):
        return [repr((result.shape, result.dtype)).encode() + result.tobytes()]
    return [part for value in result for part in outputs(value)]


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


def simple_model() -> le.Sequential:
    lstm = le.LSTM.from_weights(random(3, 16), random(4, 16), random(16))
    return le.Sequential([lstm, le.LastStep(), le.Dense(random(4, 2), random(2), "softmax")])


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A small model with golden outputs."""
    simple_model().save(tmp_path / "m.safetensors", golden=random(2, 5, 3))
    return tmp_path / "m.safetensors"


def edited(path: Path, edit: Edit | None = None, **metadata: str | None) -> Path:
    """Write a file anew with another architecture, or other metadata (None: without it)."""
    tensors, found = map_tensors(path)
    kept = {name: np.array(array) for name, array in tensors.items()}
    if edit is not None:
        tree = json.loads(found["architecture"])
        edit(tree)
        found["architecture"] = json.dumps(tree)
    changed = {**found, **metadata}
    target = path.with_name("edited.safetensors")
    with target.open("wb") as file:
        write_tensors(file, kept, {key: value for key, value in changed.items() if value is not None})
    return target


# --- The same bits ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["fused", "blas"])
@pytest.mark.parametrize(("folder", "entry"), KERAS, ids=[entry["file"] for _, entry in KERAS])
def test_keras_models_come_back_bit_for_bit(folder: str, entry: dict[str, Any], backend: Any, tmp_path: Path) -> None:
    arrays = load_arrays(FIXTURES / folder, entry["name"])
    inputs = [arrays[key] for key in sorted(arrays) if key.startswith("input_")]
    model = le.load(FIXTURES / folder / entry["file"], backend=backend)
    model.save(tmp_path / "m.safetensors", golden=tuple(inputs) if len(inputs) > 1 else inputs[0])
    again = le.load(tmp_path / "m.safetensors", backend=backend, verify=True)
    masks = {"mask": arrays["mask"]} if "mask" in arrays else {}
    assert outputs(again(*inputs, **masks)) == outputs(model(*inputs, **masks))
    assert (again.inputs, again.outputs, again.name) == (model.inputs, model.outputs, model.name)
    # What was loaded from our own format can be saved to it again, and is the same file but for the tensors' place.
    again.save(tmp_path / "again.safetensors")
    assert outputs(le.load(tmp_path / "again.safetensors", backend=backend)(*inputs, **masks)) == outputs(
        model(*inputs, **masks)
    )


@pytest.mark.parametrize("entry", TORCH, ids=[entry["file"] for entry in TORCH])
def test_lstms_come_back_bit_for_bit(entry: dict[str, Any], tmp_path: Path) -> None:
    arrays = load_arrays(FIXTURES / "torch", entry["name"])
    lstm = le.LSTM.from_torch(FIXTURES / "torch" / entry["file"], entry["prefix"] or None)
    x = arrays["x"].swapaxes(0, 1) if entry["time_major"] and arrays["x"].ndim == 3 else arrays["x"]
    lstm.save(tmp_path / "l.safetensors", golden=x)
    again = le.LSTM.load(tmp_path / "l.safetensors", verify=True)
    assert outputs(again(x)) == outputs(lstm(x))
    # As a model, it gives what an LSTM in a chain of layers gives.
    batch = x if x.ndim == 3 else x[None]
    assert outputs(le.load(tmp_path / "l.safetensors", verify=True)(batch)) == outputs(lstm(batch)[0])


def test_every_option_of_an_lstm_comes_back(tmp_path: Path) -> None:
    lstm = le.LSTM.from_weights(
        [random(3, 16), random(3, 16) + 1],
        [random(2, 16), random(2, 16) + 1],
        None,
        projection=[random(4, 2), random(4, 2) + 1],
        peepholes=[random(3, 4), random(3, 4) + 1],
        direction="bidirectional",
        activation=Activation("scaled_tanh", 1.5, 0.5),
        recurrent_activation="hard_sigmoid",
        hidden_activation="softsign",
        gate_clip=2.5,
        cell_clip=1.25,
        coupled=True,
        merge_mode=None,
        zero_masked=True,
    )
    lstm.save(tmp_path / "l.safetensors", golden=random(2, 5, 3))
    again = le.LSTM.load(tmp_path / "l.safetensors", verify=True)
    mask = np.array([[1, 0, 1, 1, 0], [0, 1, 1, 0, 1]], bool)
    assert outputs(again(random(2, 5, 3), mask=mask)) == outputs(lstm(random(2, 5, 3), mask=mask))
    assert (again.merge_mode, again.zero_masked) == (None, True)
    for cell, other in zip(lstm.weights.flat(), again.weights.flat(), strict=True):
        assert all(np.array_equal(array, other.arrays()[name]) for name, array in cell.arrays().items())
        assert (cell.gate_clip, cell.cell_clip, cell.coupled) == (other.gate_clip, other.cell_clip, other.coupled)
    assert len(verify_saved(tmp_path / "l.safetensors")[0]) == 4  # both outputs, h and c
    # A pair of outputs is no layer of a chain.
    with pytest.raises(le.UnsupportedModelError, match="merge_mode"):
        le.load(tmp_path / "l.safetensors")


def test_weights_that_are_not_finite_are_refused_unless_allowed(tmp_path: Path) -> None:
    kernel = random(3, 16)
    kernel[1, 2] = np.inf
    lstm = le.LSTM.from_weights(kernel, random(4, 16))
    lstm.save(tmp_path / "l.safetensors")
    for load in (le.load, le.LSTM.load):
        with pytest.raises(le.UnsupportedModelError, match="NaN or infinity"):
            load(tmp_path / "l.safetensors")
        again = load(tmp_path / "l.safetensors", allow_nonfinite=True)
        assert outputs(again(random(2, 5, 3)))[0] == outputs(lstm(random(2, 5, 3)))[0]


def test_a_whole_model_is_no_lstm_alone(saved: Path) -> None:
    with pytest.raises(le.UnsupportedModelError, match=r"expected an LSTM alone.*use le\.load"):
        le.LSTM.load(saved)


def test_float64_weights_and_compute_type(tmp_path: Path) -> None:
    weights = [array.astype(np.float64) + 1e-12 for array in (random(3, 16), random(4, 16), random(16))]
    model = le.Sequential([le.LSTM.from_weights(*weights, compute_type="float64")])
    model.save(tmp_path / "m.safetensors", golden=random(2, 5, 3).astype(np.float64))
    again = le.load(tmp_path / "m.safetensors", compute_type="float64", verify=True)
    assert outputs(again(random(2, 5, 3))) == outputs(model(random(2, 5, 3)))
    assert read_own(tmp_path / "m.safetensors").compute_type == "float64"
    le.load(tmp_path / "m.safetensors", verify=True)  # in float32: within its tolerance


def test_onnx_models_come_back_bit_for_bit(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    simple_model().to_onnx(tmp_path / "m.onnx")
    model = le.load(tmp_path / "m.onnx")
    model.save(tmp_path / "m.safetensors", golden=random(2, 5, 3))
    again = le.load(tmp_path / "m.safetensors", verify=True)
    assert type(again) is type(model)
    assert outputs(again(random(4, 7, 3))) == outputs(model(random(4, 7, 3)))


def test_every_layer_that_is_described_keeps_its_arguments() -> None:
    """What the description of a layer relies on: an argument is an attribute, and of a type that is checked."""
    known = {*native._PLAIN, *native._ARRAYS, *native._ACTIVATIONS, native._STACK, "LSTM", "Layer"}
    for name, module in native.LAYERS.items():
        kind = getattr(__import__(f"lstm_engine.layers.{module}", fromlist=[name]), name)
        assert issubclass(kind, Layer)
        source = inspect.getsource(kind) + "".join(inspect.getsource(base) for base in kind.__mro__[1:-3])
        for argument, annotation in native._arguments(kind).items():
            assert f"self.{argument}" in source, f"{name} does not keep {argument}"
            parts = {part.strip() for part in annotation.split("|")}
            assert parts & known, f"{name}: {argument} is of the type {annotation}"


@pytest.mark.parametrize(
    "layer",
    [
        lambda: le.Embedding(random(7, 4), mask_zero=True),
        lambda: native_layer("LayerNormalization", random(4), random(4), epsilon=1e-4),
        lambda: native_layer("BatchNormalization", random(4), np.abs(random(4)), random(4), None, epsilon=0.01),
        lambda: le.Dense(random(4, 3), None, Activation("leaky_relu", 0.3)),
        lambda: le.Dense(random(4, 3), random(3), "mish"),
        lambda: native_layer("Identity", kind="Dropout"),
        lambda: native_layer("TimeDistributed", le.Dense(random(4, 3), random(3), "log_softmax")),
        lambda: native_layer("GlobalMaxPooling1D", keep_axis=True),
        lambda: native_layer("Flatten"),
        lambda: le.Conv1d(random(3, 4, 6), random(6), padding=(2, 0), padding_mode="replicate"),
        lambda: le.BatchNorm1d(random(4), np.abs(random(4)), None, random(4)),
        lambda: le.LayerNorm(random(4), random(4), epsilon=1e-3),
        lambda: le.Dropout(0.3),
        lambda: native_layer("PReLU", random(5, 4)),
        lambda: le.GRU([[gru_cell(4, 1), gru_cell(4, 2)], [gru_cell(6, 3), gru_cell(6, 4)]]),
        lambda: le.GRU([[gru_cell(4, 1)]], return_sequences=False),
        lambda: le.RNN([[SimpleCell(random(4, 3), random(3, 3), random(3), activation=Activation("relu"))]]),
        lambda: le.FinalHidden(le.LSTM.from_weights(random(4, 8), random(2, 8), random(8))),
    ],
)
def test_hand_made_layers_come_back_bit_for_bit(layer: Callable[[], Layer], tmp_path: Path) -> None:
    made = layer()
    indices = isinstance(made, le.Embedding)
    model = le.Sequential([made], input_shape=(5,) if indices else (5, 4))
    x: Any = np.array([[1, 2, 0, 6, 3], [0, 0, 1, 2, 3]]) if indices else random(2, 5, 4)
    model.save(tmp_path / "m.safetensors")
    again = le.load(tmp_path / "m.safetensors")
    assert outputs(again(x)) == outputs(model(x))
    assert (again.inputs, again.outputs) == (model.inputs, model.outputs)


def gru_cell(features: int, seed: int) -> GRUCell:
    return GRUCell(random(features, 9) + seed / 10, random(3, 9), random(9), random(9), reset_after=True)


def native_layer(name: str, *arguments: Any, **options: Any) -> Layer:
    module = __import__(f"lstm_engine.layers.{native.LAYERS[name]}", fromlist=[name])
    layer: Layer = getattr(module, name)(*arguments, **options)
    return layer


def test_a_layer_of_another_package_is_refused_by_name(tmp_path: Path) -> None:
    class Odd(native_layer("Identity").__class__):  # type: ignore[misc]
        pass

    with pytest.raises(le.UnsupportedModelError, match=r"layer 'odd' .*cannot be saved"):
        le.Sequential([Odd(name="odd")], input_shape=(5, 4)).save(tmp_path / "m.safetensors")
    assert list(tmp_path.iterdir()) == []


# --- The file ---------------------------------------------------------------------------------------------------------


def test_any_reader_of_safetensors_opens_it(saved: Path) -> None:
    with safe_open(saved, "np") as file:
        metadata = file.metadata()
        names = set(file.keys())
        kernel = file.get_tensor("dense.kernel")
    assert (metadata["format"], metadata["version"]) == ("lstm_engine", VERSION)
    assert metadata["writer"] == f"lstm_engine {le.__version__}"
    assert json.loads(metadata["architecture"])["framework"] == "lstm_engine"
    assert {"lstm.lstm.l0.kernel", "dense.bias", "golden.x"} <= names
    np.testing.assert_array_equal(kernel, random(4, 2))


def test_it_is_known_by_its_content(saved: Path) -> None:
    renamed = saved.rename(saved.with_name("model.keras"))
    assert le.load(renamed).name == "sequential"


def test_weights_are_the_map_itself_and_are_kept_once(saved: Path) -> None:
    model = le.load(saved)
    described = {layer.name: layer for layer in model.architecture().layers}
    dense = model.layers[-1]
    assert dense.weights()["kernel"] is described["dense"].weights["kernel"]
    assert not dense.weights()["kernel"].flags.owndata
    # Twice the weights would be far more than twice this slack.
    wide = le.Sequential([le.Dense(random(100, 100))], input_shape=(100,))
    wide.save(saved)
    assert len(pickle.dumps(le.load(saved))) < 100 * 100 * 4 + 4000


def test_the_weights_of_a_keras_file_are_kept_once() -> None:
    model = le.load(FIXTURES / "keras" / "keras_sequential_1998_0.keras")
    parts = [layer.weights for layer in model.architecture().layers]
    kept = {array.__array_interface__["data"][0] for part in parts for array in part.values()}
    dense = next(layer for layer in model.layers if layer.kind == "Dense")
    assert all(array.__array_interface__["data"][0] in kept for array in dense.weights().values())


def test_a_failed_save_leaves_the_old_file(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def failing(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    model = simple_model()
    with pytest.raises(le.ShapeError):
        model.save(saved, golden=random(2, 5, 4))
    monkeypatch.setattr("lstm_engine.formats.own_file.write_tensors", failing)
    with pytest.raises(OSError, match="No space left"):
        model.save(saved)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_a_loaded_model_outlives_the_file_that_replaces_its_own(saved: Path) -> None:
    model = le.load(saved)
    expected = outputs(model(random(2, 5, 3)))
    le.Sequential([le.Dense(random(3, 2))]).save(saved)
    assert outputs(model(random(2, 5, 3))) == expected
    assert outputs(pickle.loads(pickle.dumps(model))(random(2, 5, 3))) == expected
    assert le.load(saved).outputs != model.outputs


def test_it_is_saved_to_an_existing_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected an existing folder"):
        simple_model().save(tmp_path / "none" / "m.safetensors")
    with pytest.raises(le.FormatError, match="expected a regular file"):
        simple_model().save(tmp_path)


# --- Golden outputs ---------------------------------------------------------------------------------------------------


def moved(path: Path, tensor: str, factor: float) -> Path:
    """Write a file anew with one element of a tensor moved."""
    tensors, metadata = map_tensors(path)
    arrays = {name: np.array(array) for name, array in tensors.items()}
    arrays[tensor].flat[0] *= np.float32(factor)
    target = path.with_name("moved.safetensors")
    with target.open("wb") as file:
        write_tensors(file, arrays, metadata)
    return target


def test_a_moved_weight_is_found(saved: Path) -> None:
    path = moved(saved, "dense.kernel", 1.001)
    with pytest.raises(le.FormatError, match=r"moved\.safetensors: expected the golden outputs .*dense: max abs error"):
        le.load(path, verify=True)
    le.load(path)  # nobody asked


def test_golden_outputs_are_asked_of_a_file_that_has_none(tmp_path: Path) -> None:
    simple_model().save(tmp_path / "m.safetensors")
    with pytest.raises(le.FormatError, match="expected golden inputs and outputs, found none"):
        le.load(tmp_path / "m.safetensors", verify=True)
    with pytest.raises(le.FormatError, match="verify: expected a file with golden"):
        le.load(FIXTURES / "keras" / "keras_sequential_1998_0.keras", verify=True)


def test_golden_outputs_of_another_model_are_refused(saved: Path) -> None:
    golden = json.loads(read_metadata_of(saved)["golden"])
    golden["outputs"] = {"other": golden["outputs"]["dense"]}
    with pytest.raises(le.FormatError, match="other: expected one of the outputs dense"):
        le.load(edited(saved, golden=json.dumps(golden)), verify=True)


def test_golden_outputs_of_no_known_compute_type_are_refused(saved: Path) -> None:
    golden = {**json.loads(read_metadata_of(saved)["golden"]), "compute_type": "float7"}
    path = edited(saved, golden=json.dumps(golden))
    with pytest.raises(
        le.FormatError, match=r"edited\.safetensors: golden: expected a compute_type of float32, float64"
    ):
        verify_saved(path)


def read_metadata_of(path: Path) -> dict[str, str]:
    return map_tensors(path)[1]


# --- Versions ---------------------------------------------------------------------------------------------------------


def test_a_newer_minor_version_may_add_what_changes_no_result(saved: Path) -> None:
    def add(tree: dict[str, Any]) -> None:
        tree["license"] = "MIT"
        tree["layers"][1]["colour"] = {"red": 1}
        tree["layers"][1]["calls"][0]["when"] = "later"

    path = edited(saved, add, version="1.7", somebody="else")
    assert outputs(le.load(path, verify=True)(random(2, 5, 3))) == outputs(simple_model()(random(2, 5, 3)))


@pytest.mark.parametrize(
    ("metadata", "phrase"),
    [
        ({"version": "2.0"}, "expected version 1.0 of the format, found 2.0: it was written by 'lstm_engine"),
        ({"version": "0.9"}, "expected version 1.0 of the format, found 0.9"),
        ({"requires": "sparse-kernels"}, "it needs sparse-kernels, which is not known here"),
        ({"kind": "forest"}, "the kind 'forest'"),
    ],
)
def test_what_this_version_cannot_know_is_refused(saved: Path, metadata: dict[str, str], phrase: str) -> None:
    with pytest.raises(le.UnsupportedModelError, match=phrase):
        le.load(edited(saved, **metadata))


# --- Files of strangers -----------------------------------------------------------------------------------------------


def set_in(*keys: Any, value: Any) -> Edit:
    """Return an edit of the architecture that sets one value."""

    def edit(tree: Any) -> None:
        for key in keys[:-1]:
            tree = tree[key]
        tree[keys[-1]] = value

    return edit


DENSE = ("layers", 3)
LSTM = ("layers", 1, "inner", "lstm")


@pytest.mark.parametrize(
    ("edit", "error", "phrase"),
    [
        (set_in(*DENSE, "class_name", value="Lambda"), le.UnsupportedModelError, r"layer 'dense' \(Lambda\)"),
        (set_in(*DENSE, "class_name", value="os.system"), le.UnsupportedModelError, "os.system"),
        (set_in(*DENSE, "class_name", value="Layer"), le.UnsupportedModelError, "not supported"),
        (set_in("framework", value="jax"), le.UnsupportedModelError, "jax"),
        (set_in(*DENSE, "config", "speed", value=3), le.UnsupportedModelError, "its option 'speed' is not known"),
        (set_in(*DENSE, "weights", value={}), le.FormatError, "expected a value 'kernel'"),
        (set_in(*DENSE, "weights", "kernel", value={"tensor": "none"}), le.FormatError, "expected a tensor 'none'"),
        (set_in(*DENSE, "weights", "kernel", value={"tensor": 3}), le.FormatError, "weights.kernel: expected"),
        (set_in(*DENSE, "weights", "bias", value={"tensor": "golden.x"}), le.FormatError, "bias"),
        (set_in(*DENSE, "config", "activation", value="relu"), le.FormatError, "expected activation to be"),
        (
            set_in(*DENSE, "config", "activation", value={"class_name": "eval", "config": {}}),
            le.FormatError,
            "expected activation to be",
        ),
        (
            set_in(*DENSE, "config", "activation", "config", value={"axis": "1; import os"}),
            le.FormatError,
            "expected axis to be of the type int",
        ),
        (set_in(*DENSE, "config", "activation", "config", value={"axis": 5}), le.FormatError, "axis"),
        (set_in(*DENSE, "name", value="lstm"), le.FormatError, "expected one layer of the name 'lstm', found 2"),
        (set_in(*DENSE, "calls", value=[]), le.FormatError, "output"),
        (set_in(*DENSE, "calls", 0, "inputs", 0, "layer", value="dense"), le.FormatError, "expected tensors"),
        (set_in(*DENSE, "calls", 0, "inputs", 0, "call", value=True), le.FormatError, "expected int, found True"),
        (set_in("outputs", 0, "output", value=7), le.FormatError, "output"),
        (set_in("outputs", value=[]), le.FormatError, "expected outputs with a name each"),
        (set_in("inputs", 0, "layer", value="dense"), le.FormatError, "is no InputLayer"),
        (set_in("layers", 0, "config", "batch_shape", value="x"), le.FormatError, "batch_shape"),
        (set_in("layers", value={}), le.FormatError, r"architecture\.layers: expected tuple"),
        (set_in("name", value=None), le.FormatError, r"architecture\.name: expected str, found None"),
        (set_in(*LSTM, "config", "direction", value="sideways"), le.ShapeError, "direction"),
        (set_in(*LSTM, "config", "merge_mode", value=["sum"]), le.UnsupportedModelError, "merge_mode"),
        (set_in(*LSTM, "inner", value={}), le.FormatError, "cells"),
        (set_in(*LSTM, "inner", "l7", value={}), le.FormatError, "expected a value 'name'"),
        (set_in(*LSTM, "inner", "l0", "config", "gate_clip", value="3"), le.FormatError, "expected gate_clip to be"),
    ],
)
def test_an_architecture_of_nobody_is_refused(saved: Path, edit: Edit, error: type[Exception], phrase: str) -> None:
    path = edited(saved, edit)
    with pytest.raises((error, le.FormatError), match=phrase) as caught:
        le.load(path)
    assert str(path) in str(caught.value)


def test_a_keras_architecture_is_checked_as_a_file_of_keras_is(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    le.load(FIXTURES / "keras" / "keras_sequential_1998_0.keras").save(path)
    tree = json.loads(read_metadata_of(path)["architecture"])
    place = next(n for n, layer in enumerate(tree["layers"]) if layer["class_name"] == "Dense")
    with pytest.raises(le.FormatError, match="kernel: expected shape"):
        le.load(edited(path, set_in("layers", place, "config", "units", value=77)))
    with pytest.raises(le.UnsupportedModelError, match="Lambda"):
        le.load(edited(path, set_in("layers", place, "class_name", value="Lambda")))
    with pytest.raises(le.FormatError, match="version"):
        le.load(edited(path, set_in("version", value="three")))


def test_an_array_that_is_named_again_and_again_counts_each_time(saved: Path) -> None:
    """A layer prepares its weights whether or not another one has them too."""

    def repeated(tree: Any) -> None:
        dense = tree["layers"][3]
        for number in range(50):
            again = {**dense, "name": f"again {number}", "calls": dense["calls"]}
            tree["layers"].append(again)

    path = edited(saved, repeated)
    with pytest.raises(le.UnsafeFileError, match=r"named again and again; .*Limits\(tensor_bytes=\.\.\.\)"):
        le.load(path, limits=le.Limits(tensor_bytes=1, tensor_growth=2))
    assert len(le.load(path).layers) >= 1


@pytest.mark.parametrize("as_attribute", [False, True])
def test_no_size_of_zero_hides_the_others_of_an_onnx_array(as_attribute: bool, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    path = tmp_path / "m.safetensors"
    le.Sequential([le.Dense(random(3, 2), random(2))], input_shape=(3,)).to_onnx(tmp_path / "m.onnx")
    le.load(tmp_path / "m.onnx").save(path)
    huge = {"dtype": "F32", "shape": [0, 1 << 40], "data_offsets": [0, 0]}

    def make(tree: dict[str, Any]) -> None:
        largest = {"operator": "ReduceMax", "attributes": {"axes": [0]}, "name": "", "outputs": ["largest"]}
        if as_attribute:
            constant = {"operator": "Constant", "attributes": {"value": {"tensor": "huge"}}, "name": "", "inputs": []}
            tree["nodes"].insert(0, {**constant, "outputs": ["huge"]})
        else:
            tree["initializers"]["huge"] = {"tensor": "huge"}
        tree["nodes"].insert(int(as_attribute), {**largest, "inputs": ["huge"]})

    made = edited(path, make)
    length = int.from_bytes(made.read_bytes()[:8], "little")
    header, data = json.loads(made.read_bytes()[8 : 8 + length]), made.read_bytes()[8 + length :]
    made.write_bytes(header_of({**header, "huge": huge}, data))
    with pytest.raises(le.FormatError, match=r"(huge|value)': expected a shape that memory can hold"):
        le.load(made)


@pytest.mark.parametrize("json_text", ["", "[]", "{", '{"name": 1, "name": 2}', "null", "[" * 500 + "]" * 500])
def test_an_architecture_that_is_no_object_is_refused(saved: Path, json_text: str) -> None:
    with pytest.raises((le.FormatError, le.UnsafeFileError), match="architecture"):
        le.load(edited(saved, architecture=json_text))


def test_every_truncation_and_every_flipped_byte_of_the_header_is_one_of_our_errors(saved: Path) -> None:
    data = saved.read_bytes()
    path = saved.with_name("damaged.safetensors")
    for length in range(0, len(data), 64):
        path.write_bytes(data[:length])
        with pytest.raises(le.LstmEngineError):
            le.load(path)
    generator = np.random.default_rng(7)
    for place in generator.choice(min(len(data), 4096), 300, replace=False):
        damaged = bytearray(data)
        damaged[place] ^= 1 << int(generator.integers(8))
        path.write_bytes(damaged)
        with contextlib.suppress(le.LstmEngineError):
            le.load(path)


def header_of(entries: dict[str, Any], data: bytes) -> bytes:
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.parametrize(
    ("entries", "data", "error", "phrase"),
    [
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, b"1234", le.FormatError, "truncated"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(8), le.FormatError, "more than"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, bytes(8), le.FormatError, "begins at byte 4"),
        ({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 4]}}, bytes(4), le.FormatError, "expected 12"),
        ({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, bytes(4), le.FormatError, "expected dtype"),
        ({"a": {"dtype": "F8_E4M3", "shape": [1], "data_offsets": [0, 1]}}, b"1", le.UnsupportedModelError, "F8_E4M3"),
        ({"a": {"dtype": "F32", "shape": [0, 1 << 62], "data_offsets": [0, 0]}}, b"", le.FormatError, "shape"),
        (
            {"a": {"dtype": "F32", "shape": [1] * 65, "data_offsets": [0, 4]}},
            bytes(4),
            le.FormatError,
            "expected dtype",
        ),
        ({"a": [], "__metadata__": {}}, b"", le.FormatError, "expected dtype"),
        ({"__metadata__": {"format": 3}}, b"", le.FormatError, "__metadata__"),
        (
            {
                "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
                "b": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
            },
            bytes(4),
            le.FormatError,
            "begins at byte 0",
        ),
        ({"a" * 5000: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(4), le.UnsafeFileError, "names"),
    ],
)
def test_a_map_of_anything_else_is_refused(
    tmp_path: Path, entries: dict[str, Any], data: bytes, error: type[Exception], phrase: str
) -> None:
    path = tmp_path / "t.safetensors"
    path.write_bytes(header_of(entries, data))
    with pytest.raises(error, match=phrase):
        map_tensors(path)


def test_a_header_beyond_the_caps_is_refused(saved: Path) -> None:
    with pytest.raises(le.UnsafeFileError, match="header_bytes"):
        read_own_under(saved, le.Limits(header_bytes=100))
    with pytest.raises(le.UnsafeFileError, match="tensors"):
        read_own_under(saved, le.Limits(tensors=1))


def read_own_under(path: Path, limits: le.Limits) -> None:
    from lstm_engine.formats.limits import reading

    with reading(limits, False):
        read_own(path)
