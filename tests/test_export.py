"""What goes back to the frameworks: state dicts, Keras weights, ONNX. Live comparisons are in interop/."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from described import input_layer, layer
from described import model as model_of
from recorded import load_arrays, manifest

import lstm_engine as le
from lstm_engine.activations import Activation
from lstm_engine.builder import build_model
from lstm_engine.layers import LayerNormalization

FIXTURES = Path(__file__).parent / "fixtures"
KERAS = [(folder, entry) for folder in ("keras", "tf_keras") for entry in manifest(FIXTURES / folder)["models"]]
TORCH = manifest(FIXTURES / "torch")["models"]


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


def lstm(**options: Any) -> le.LSTM:
    return le.LSTM.from_weights(random(3, 16), random(4, 16), random(16), **options)


# --- PyTorch and Keras ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", TORCH, ids=[entry["file"] for entry in TORCH])
def test_a_state_dict_comes_back(entry: dict[str, Any]) -> None:
    first = le.LSTM.from_torch(FIXTURES / "torch" / entry["file"], entry["prefix"] or None)
    exported = first.to_torch_state_dict("encoder.rnn")
    assert all(name.startswith("encoder.rnn.weight_") or "bias_" in name for name in exported)
    again = le.LSTM.from_torch(exported, "encoder.rnn")
    for cell, other in zip(first.weights.flat(), again.weights.flat(), strict=True):
        for name, array in cell.arrays().items():
            np.testing.assert_array_equal(array, other.arrays()[name])


def test_the_biases_of_a_state_dict() -> None:
    with_bias = lstm().to_torch_state_dict()
    np.testing.assert_array_equal(with_bias["bias_ih_l0"], random(16))
    np.testing.assert_array_equal(with_bias["bias_hh_l0"], np.zeros(16))
    without = le.LSTM.from_weights(random(3, 16), random(4, 16)).to_torch_state_dict()
    assert set(without) == {"weight_ih_l0", "weight_hh_l0"}
    with_bias["weight_ih_l0"][:] = 0  # the caller's own


def test_keras_weights_in_their_order() -> None:
    both = le.LSTM.from_weights(
        [random(3, 16), random(3, 16) + 1], [random(4, 16), random(4, 16) + 1], [random(16), random(16) + 1],
        direction="bidirectional",
    )  # fmt: skip
    arrays = both.to_keras_weights()
    expected = [random(3, 16), random(4, 16), random(16), random(3, 16) + 1, random(4, 16) + 1, random(16) + 1]
    for array, wanted in zip(arrays, expected, strict=True):
        np.testing.assert_array_equal(array, wanted)
    assert len(le.LSTM.from_weights(random(3, 16), random(4, 16)).to_keras_weights()) == 2
    with pytest.raises(le.ShapeError, match="layer: expected a number from 0 to 0"):
        both.to_keras_weights(1)


@pytest.mark.parametrize(
    ("made", "torch", "keras"),
    [
        (lambda: lstm(direction="reverse"), "direction is 'reverse'", None),
        (lambda: lstm(recurrent_activation="hard_sigmoid"), "activations are hard_sigmoid", None),
        (lambda: lstm(peepholes=random(3, 4)), "peepholes", "peepholes"),
        (lambda: lstm(gate_clip=2.0), "gate_clip=2.0", "gate_clip=2.0"),
        (lambda: lstm(cell_clip=2.0), "cell_clip=2.0", "cell_clip=2.0"),
        (lambda: lstm(coupled=True), "coupled=True", "coupled=True"),
        (lambda: lstm(hidden_activation="relu"), "tanh", "different activations"),
        (
            lambda: le.LSTM.from_weights(random(3, 16), random(2, 16), projection=random(4, 2)),
            None,
            "it has a projection",
        ),
    ],
)
def test_what_a_framework_has_no_words_for_is_named(made: Any, torch: str | None, keras: str | None) -> None:
    for export, phrase in ((made().to_torch_state_dict, torch), (made().to_keras_weights, keras)):
        if phrase is None:
            export()
        else:
            with pytest.raises(le.UnsupportedModelError, match=phrase):
                export()


# --- ONNX -------------------------------------------------------------------------------------------------------------


def compared(model: le.Model, path: Path, *inputs: np.ndarray, bound: float = 1e-6) -> None:
    """Export, and compare ONNX Runtime with the model; twice, for other sizes of batch and time are given then."""
    runtime = pytest.importorskip("onnxruntime")
    model.to_onnx(path)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    for given in (inputs, tuple(array[:1] for array in inputs)):
        feeds = {node.name: array for node, array in zip(session.get_inputs(), given, strict=True)}
        found = session.run(None, feeds)
        ours = model(*given)
        ours = ours if isinstance(ours, tuple) else (ours,)
        assert len(found) == len(ours)
        for theirs, array in zip(found, ours, strict=True):
            assert theirs.shape == array.shape
            error = np.linalg.norm(theirs - array) / max(float(np.linalg.norm(array)), 1e-3)
            assert error < bound, error


#: The recorded models that ONNX has no words for, and why.
REFUSED = {
    "keras_encoder_decoder_1998_8": "Masking", "keras_exponential_1998_15": "'exponential' of a cell",
    "keras_masked_branches_1998_5": "mask_zero", "keras_sequential_1998_0": "Masking",
    "keras_sequential_1998_2": "Masking", "keras_tagger_1998_3": "mask_zero", "keras_two_outputs_1998_13": "mask_zero",
    "keras_zeroed_1998_11": "Masking", "tf_keras_autoencoder_1997_7": "'gelu' of a cell",
    "tf_keras_flattened_1997_6": "ClippedReLU", "tf_keras_sequential_1997_0": "Masking",
    "tf_keras_tagger_1997_3": "mask_zero",
}  # fmt: skip


@pytest.mark.parametrize(("folder", "entry"), KERAS, ids=[entry["file"] for _, entry in KERAS])
def test_recorded_models_as_onnx(folder: str, entry: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    model = le.load(FIXTURES / folder / entry["file"])
    if entry["name"] in REFUSED:
        with pytest.raises(le.UnsupportedModelError, match=REFUSED[entry["name"]]):
            model.to_onnx(tmp_path / "m.onnx")
        assert list(tmp_path.iterdir()) == []
        return
    arrays = load_arrays(FIXTURES / folder, entry["name"])
    inputs = [arrays[key] for key in sorted(arrays) if key.startswith("input_")]
    given = [
        np.asarray(array, np.int64 if spec.indices else np.float32)
        for array, spec in zip(inputs, model.inputs, strict=True)
    ]
    compared(model, tmp_path / "m.onnx", *given)


def stack(**options: Any) -> le.LSTM:
    kernels = [random(3, 16), random(3, 16) + 0.1, random(8, 16) / 2, random(8, 16) / 3]
    recurrents = [random(4, 16), random(4, 16) / 2, random(4, 16) / 3, random(4, 16) / 4]
    return le.LSTM.from_weights(kernels, recurrents, [random(16)] * 4, direction="bidirectional", **options)


@pytest.mark.parametrize(
    "layers",
    [
        lambda: [stack()],
        lambda: [stack(merge_mode="concat"), le.LastStep(), le.Dense(random(8, 2), None, "log_softmax")],
        lambda: [le.FinalHidden(stack())],
        lambda: [stack(merge_mode="mul")],
        lambda: [lstm(direction="reverse")],
        lambda: [lstm(coupled=True, peepholes=random(3, 4))],
        lambda: [lstm(gate_clip=0.8)],
        lambda: [lstm(recurrent_activation=Activation("hard_sigmoid", 0.2, 0.5), activation="softsign")],
        lambda: [lstm(activation=Activation("leaky_relu", 0.3), hidden_activation=Activation("elu", 0.7))],
        lambda: [lstm(), LayerNormalization(random(4), random(4))],
    ],
)
def test_stacks_as_onnx(layers: Any, tmp_path: Path) -> None:
    compared(le.Sequential(layers()), tmp_path / "m.onnx", random(3, 6, 3))


@pytest.mark.parametrize(
    "activation",
    ["relu", "sigmoid", "tanh", "hard_sigmoid", "softsign", "elu", "selu", "softplus", "exponential", "gelu",
     "gelu_tanh", "silu", "leaky_relu", "affine", "thresholded_relu", "scaled_tanh", "softmax", "log_softmax", "relu6",
     "hard_tanh", "hard_silu", "log_sigmoid", "mish", "linear", None],
)  # fmt: skip
def test_every_activation_as_onnx(activation: str | None, tmp_path: Path) -> None:
    model = le.Sequential([le.Dense(random(4, 9) * 2, random(9), activation)])
    compared(model, tmp_path / "m.onnx", random(3, 6, 4))


def test_an_embedding_as_onnx(tmp_path: Path) -> None:
    model = le.Sequential([le.Embedding(random(7, 3)), lstm(), le.LastStep()])
    compared(model, tmp_path / "m.onnx", np.array([[1, 2, 6], [0, 3, 5]]))


@pytest.mark.parametrize("shape", [(0, 6, 4), (2, 6, 4)])
def test_an_empty_batch_of_an_exported_model(shape: tuple[int, ...], tmp_path: Path) -> None:
    layers = [
        layer("shaped", "Reshape", "x", config={"target_shape": [-1, 2, 4]}),
        layer("flat", "Flatten", "shaped", config={}),
    ]
    flat = build_model(model_of(input_layer("x", 6, 4), *layers))
    compared(flat, tmp_path / "m.onnx", np.ones(shape, np.float32))


def test_all_that_onnx_has_no_words_for_is_named_together(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    model = le.Sequential([le.Embedding(random(7, 3), mask_zero=True), lstm(cell_clip=1.0), le.LastStep()])
    with pytest.raises(le.UnsupportedModelError, match=r"(?s)2 problems.*mask_zero=True.*a cell_clip"):
        model.to_onnx(tmp_path / "m.onnx")


def test_the_exported_file(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    path = tmp_path / "m.onnx"
    model = le.Sequential([lstm(), le.LastStep()])
    model.to_onnx(path)
    proto = onnx.load(path)
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", 17)]
    (x,) = proto.graph.input
    assert [dim.dim_param or dim.dim_value for dim in x.type.tensor_type.shape.dim] == ["batch", "time", 3]
    # It comes back through our own reader, too.
    again = le.load(path)
    np.testing.assert_allclose(again(random(2, 5, 3)), model(random(2, 5, 3)), rtol=0, atol=1e-7)
    with pytest.raises(le.UnsupportedModelError, match="came from an ONNX file"):
        again.to_onnx(tmp_path / "n.onnx")
    with pytest.raises(FileNotFoundError, match="expected an existing folder"):
        model.to_onnx(tmp_path / "none" / "m.onnx")
