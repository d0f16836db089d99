"""Exported models of every writer, as recorded; and what a Model of an ONNX graph offers."""

from __future__ import annotations

import dataclasses
import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper
from onnx_oracle import recurrent_model, run
from onnx_recorded import FIXTURES, compare, relative_error, unpacked

import lstm_engine as le
from lstm_engine.formats.onnx import read_onnx
from lstm_engine.onnx.model import build_onnx_model


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every recorded model by name."""
    found: dict[str, Path] = {}
    for writer in FIXTURES:
        found.update({path.stem: path for path in unpacked(writer, tmp_path_factory.mktemp(writer))})
    return found


@pytest.mark.parametrize("options", [{}, {"backend": "blas"}, {"compute_type": "float64"}], ids=str)
def test_exported_models_give_the_numbers_of_their_framework(exported: dict[str, Path], options: Any) -> None:
    assert len(exported) >= 30
    errors = [error for path in exported.values() for error in compare(path, **options)]
    assert max(errors) < 2e-6


def test_the_exporters_wrote_what_is_to_be_tested(exported: dict[str, Path]) -> None:
    operators = {
        name: {step.site.node.operator for step in le.load(path)._program.steps}  # type: ignore[attr-defined]
        for name, path in exported.items()
    }
    lstms = [name for name, found in operators.items() if "LSTM" in found]
    assert {name.rsplit("_", 1)[0].split("_")[0] for name in lstms} == {"keras", "tf2onnx", "torch"}
    assert {"GRU", "RNN", "Conv", "LayerNormalization"} <= set().union(*operators.values())
    loops = [name for name, found in operators.items() if "Loop" in found]
    assert len(loops) >= 15
    assert all("_loops_" in name for name in loops)


def test_the_loops_of_the_exporters_have_their_weights_packed_and_are_saved(
    exported: dict[str, Path], tmp_path: Path
) -> None:
    versions = set()
    for name, path in exported.items():
        if "_loops_" not in name:
            continue
        model: Any = le.load(path)
        versions.add(model.architecture().opset)
        products = [step for _, _, step in model._program.walk() if step.site.node.operator == "MatMul"]
        assert products, name
        assert all(step.memory_bytes > 0 for step in products), name
        model.save(tmp_path / "model.safetensors")
        again = le.load(tmp_path / "model.safetensors")
        with np.load(path.with_suffix(".npz")) as arrays:
            x = arrays["1_input_0"]
        threaded, double = le.load(path, num_threads=2), le.load(path, compute_type="float64")
        outputs = [made(x) for made in (model, again, threaded, double)]
        listed = [made if isinstance(made, tuple) else (made,) for made in outputs]
        for first, second, third, wide in zip(*listed, strict=True):
            np.testing.assert_array_equal(first, second, err_msg=name)
            np.testing.assert_array_equal(first, third, err_msg=name)
            assert wide.dtype == np.float64
            assert relative_error(first, wide) < 1e-6, name
        # A model of an ONNX graph is not written as another one.
        with pytest.raises(le.UnsupportedModelError):
            model.to_onnx(tmp_path / "again.onnx")
    assert versions >= {10, 11, 13, 15, 16, 18}


def test_inputs_and_outputs_have_the_graphs_names_and_types(exported: dict[str, Path]) -> None:
    model = le.load(exported["torch_old_stateful"])
    assert isinstance(model, le.Model)
    assert [spec.name for spec in model.inputs] == ["x", "h", "c"]
    assert [spec.shape for spec in model.inputs] == [(None, None, 4), (2, None, 6), (2, None, 6)]
    assert model.outputs[0].shape == (None, None, 3)
    assert le.load(exported["torch_old_classifier"]).inputs[0].dtype == "int64"
    assert le.load(exported["keras_tensorflow_classifier"]).inputs[0].dtype == "int32"


def test_arrays_lists_and_dicts_are_taken_alike(exported: dict[str, Path]) -> None:
    model = le.load(exported["torch_old_stateful"])
    random = np.random.default_rng(0)
    x, h, c = (random.standard_normal(shape).astype(np.float32) for shape in ((5, 3, 4), (2, 3, 6), (2, 3, 6)))
    wanted = model(x, h, c)
    for found in (model([x, h, c]), model({"c": c, "x": x, "h": h}), model(x.tolist(), h.astype(np.float64), c)):
        for array, reference in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(array, reference)


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ((np.zeros((2, 5), np.float32),), "inputs: expected 3"),
        (({"x": 1},), "expected a dict with the names"),
        ((np.zeros((5, 3, 5)), np.zeros((2, 3, 6)), np.zeros((2, 3, 6))), "x: expected shape"),
        ((np.zeros((5, 3, 4)), np.zeros((2, 2, 6)), np.zeros((2, 3, 6))), "(LSTM): initial_h: expected shape"),
        ((np.zeros((5, 3, 4), np.complex64), np.zeros((2, 3, 6)), np.zeros((2, 3, 6))), "x: expected an array of real"),
    ],
)
def test_arguments_that_do_not_fit_are_named(exported: dict[str, Path], inputs: Any, said: str) -> None:
    with pytest.raises(le.ShapeError) as caught:
        le.load(exported["torch_old_stateful"])(*inputs)
    assert said in str(caught.value)


def test_token_numbers_out_of_range_are_named(exported: dict[str, Path]) -> None:
    model = le.load(exported["torch_old_classifier"])
    with pytest.raises(le.ShapeError, match=r"\(Gather\): expected indices from -30 to 29, found 30"):
        model(np.array([[1, 30]]))


def test_masks_and_streams_are_refused_with_the_reason(exported: dict[str, Path]) -> None:
    model = le.load(exported["torch_old_attention"])
    x = np.zeros((2, 3, 4), np.float32)
    for name in ("mask", "lengths"):
        with pytest.raises(le.ShapeError, match=name):
            model(x, **{name: np.ones((2, 3), np.bool_)})
    with pytest.raises(le.UnsupportedModelError, match="its states are ordinary inputs and outputs"):
        model.stream()


def test_predict_cuts_batches_where_the_graph_names_them(exported: dict[str, Path]) -> None:
    model = le.load(exported["torch_old_attention"])
    x = np.random.default_rng(1).standard_normal((10, 6, 4)).astype(np.float32)
    for found, wanted in zip(model.predict(x, batch_size=3), model(x), strict=True):
        np.testing.assert_array_equal(found, wanted)
    # Time comes first here: one call, whatever the size of a batch.
    stateful = le.load(exported["torch_old_stateful"])
    given = [np.ones((9, 3, 4), np.float32), np.ones((2, 3, 6), np.float32), np.ones((2, 3, 6), np.float32)]
    for found, wanted in zip(stateful.predict(given, batch_size=2), stateful(*given), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_a_row_has_the_same_bits_in_any_batch(exported: dict[str, Path]) -> None:
    random = np.random.default_rng(2)
    for name in ("torch_old_classifier", "torch_new_attention", "keras_tensorflow_mixed", "tf2onnx_bidirectional",
                 "keras_tensorflow_loops_masked", "tf2onnx_loops_gru"):  # fmt: skip
        model = le.load(exported[name])
        (spec,) = model.inputs
        shape = tuple(size or (7, 8)[axis] for axis, size in enumerate(spec.shape))
        x = random.integers(1, 30, shape) if "int" in spec.dtype else random.standard_normal(shape, np.float32)
        whole = model(x)
        for row in range(shape[0]):
            alone = model(x[row : row + 1])
            for one, many in zip(
                alone if isinstance(alone, tuple) else (alone,),
                whole if isinstance(whole, tuple) else (whole,),
                strict=True,
            ):
                np.testing.assert_array_equal(one[0], many[row], err_msg=name)


def test_models_are_pickled_and_shared_by_threads(exported: dict[str, Path]) -> None:
    model = le.load(exported["torch_old_mixed"])
    x = np.random.default_rng(3).standard_normal((4, 9, 4)).astype(np.float32)
    wanted = model(x)[0]
    copy = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(copy(x)[0], wanted)
    assert copy.memory_bytes() == model.memory_bytes()
    results: list[Any] = [None] * 4

    def call(place: int) -> None:
        results[place] = [model(x)[0] for _ in range(20)]

    threads = [threading.Thread(target=call, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(found, wanted) for found_all in results for found in found_all)


def test_outputs_belong_to_the_caller(tmp_path: Path) -> None:
    nodes = [helper.make_node("Identity", ["x"], ["y"]), helper.make_node("Identity", ["w"], ["z"])]
    values = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", [None]), ("y", [None]), ("z", [3]))
    }
    weights = numpy_helper.from_array(np.arange(3, dtype=np.float32), "w")
    graph = helper.make_graph(nodes, "graph", [values["x"]], [values["y"], values["z"]], [weights])
    path = tmp_path / "model"
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString())
    model = le.load(path)
    x = np.ones(4, np.float32)
    for found in model(x):
        np.add(found, 1, out=found)
    np.testing.assert_array_equal(x, np.ones(4))
    np.testing.assert_array_equal(model(x)[1], np.arange(3))


def test_the_summary_lists_what_runs(exported: dict[str, Path]) -> None:
    model = le.load(exported["torch_old_bidirectional"])
    lines: list[str] = []
    model.summary(lines.append)
    assert "opset" in lines[0]
    assert sum("(LSTM)" in line for line in lines) == 1
    assert not any("(Constant)" in line for line in lines)
    assert f"{model.memory_bytes():,} bytes" in lines[-1]
    assert "bidirectional" in repr(model) or "main_graph" in repr(model)


def test_one_lstm_is_taken_out_of_a_file(exported: dict[str, Path], tmp_path: Path) -> None:
    made, (x,), values = recurrent_model(
        "LSTM", {"direction": "bidirectional", "clip": 0.75, "input_forget": 1}, (6, 3, 4, 5), {"B", "P"}, True, 4
    )
    path = tmp_path / "model"
    path.write_bytes(made.SerializeToString())
    wanted, h_n, c_n = run("LSTM", {"direction": "bidirectional", "clip": 0.75, "input_forget": 1}, values)
    for node in (None, "cell", "Y_h"):
        y, (h, c) = le.LSTM.from_onnx(path, node)(x, time_major=True)
        np.testing.assert_allclose(y, wanted.transpose(0, 2, 1, 3).reshape(6, 3, 10), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(h, h_n, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(c, c_n, rtol=1e-5, atol=1e-6)
    with pytest.raises(le.UnsupportedModelError, match=r"found 2 LSTM nodes; name one(.|\n)*\(LSTM\), weights"):
        le.LSTM.from_onnx(exported["torch_old_stateful"])
    with pytest.raises(le.UnsupportedModelError, match="written as other operators"):
        le.LSTM.from_onnx(exported["keras_torch_classifier"])
    with pytest.raises(le.UnsupportedModelError, match="'nothing'"):
        le.LSTM.from_onnx(path, "nothing")


def test_weights_that_are_inputs_cannot_be_taken_out(tmp_path: Path) -> None:
    made, _, _ = recurrent_model("LSTM", {}, (6, 3, 4, 5), {"B"}, False, 4)
    path = tmp_path / "model"
    path.write_bytes(made.SerializeToString())
    with pytest.raises(le.UnsupportedModelError, match="expected constant weights, found 'W'"):
        le.LSTM.from_onnx(path)


@pytest.mark.parametrize("per_column", [False, True])
@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_quantized_lstms_have_the_weights_that_their_integers_stand_for(
    per_column: bool, dtype: Any, tmp_path: Path
) -> None:
    random = np.random.default_rng(5)
    time, batch, features, hidden = 6, 3, 4, 5
    bounds = np.iinfo(dtype)
    whole = {
        "W": random.integers(bounds.min, bounds.max + 1, (1, features, 4 * hidden)).astype(dtype),
        "R": random.integers(bounds.min, bounds.max + 1, (1, hidden, 4 * hidden)).astype(dtype),
    }
    shape = (1, 4 * hidden) if per_column else (1,)
    arrays = {**whole, "B": random.uniform(-1, 1, (1, 8 * hidden)).astype(np.float32)}
    values: dict[str, Any] = {"B": arrays["B"]}
    for name in ("W", "R"):
        arrays[f"{name}_scale"] = random.uniform(0.005, 0.01, shape).astype(np.float32)
        arrays[f"{name}_zero"] = random.integers(bounds.min // 2, bounds.max // 2, shape).astype(dtype)
        exact = (whole[name].astype(np.float64) - arrays[f"{name}_zero"].reshape(1, 1, -1)) * arrays[
            f"{name}_scale"
        ].reshape(1, 1, -1)
        values[name] = exact.transpose(0, 2, 1)
    node = helper.make_node(
        "DynamicQuantizeLSTM",
        ["X", "W", "R", "B", "", "", "", "", "W_scale", "W_zero", "R_scale", "R_zero"],
        ["Y", "Y_h", "Y_c"],
        domain="com.microsoft",
        hidden_size=hidden,
    )
    graph = helper.make_graph(
        [node],
        "graph",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, None, features])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * rank)
            for name, rank in (("Y", 4), ("Y_h", 3), ("Y_c", 3))
        ],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    imports = [helper.make_opsetid("", 14), helper.make_opsetid("com.microsoft", 1)]
    path = tmp_path / "model"
    path.write_bytes(helper.make_model(graph, opset_imports=imports).SerializeToString())
    model = le.load(path)
    values["X"] = random.uniform(-1, 1, (time, batch, features)).astype(np.float32)
    for found, wanted in zip(model(values["X"]), run("LSTM", {}, values), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    assert any("8-bit weights" in sentence for sentence in model.report.inferred)
    lstm = le.LSTM.from_onnx(path)
    np.testing.assert_array_equal(
        lstm.weights.cells[0][0].kernel[:, :hidden], values["W"][0, :hidden].T.astype(np.float32)
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("kind", ["QInt8", "QUInt8"])
def test_what_onnx_runtime_quantizes_is_read_whole(
    exported: dict[str, Path], kind: str, per_channel: bool, tmp_path: Path
) -> None:
    """Its dynamic quantization of what PyTorch exported: near its own results, and near those before it."""
    runtime = pytest.importorskip("onnxruntime")
    quantization = pytest.importorskip("onnxruntime.quantization")
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    operators: set[str] = set()
    for name in ("classifier", "bidirectional", "stateful", "mixed", "attention", "packed", "cell"):
        path = exported[f"torch_old_{name}"]
        narrow = tmp_path / f"{name}.onnx"
        quantization.quantize_dynamic(path, narrow, weight_type=quantization.QuantType[kind], per_channel=per_channel)
        model = le.load(narrow)
        operators |= {step.site.node.operator for step in model._program.steps}  # type: ignore[attr-defined]
        with np.load(path.with_suffix(".npz")) as arrays:
            inputs = [arrays[f"0_input_{place}"] for place in range(len(model.inputs))]
            before = [arrays[f"0_output_{place}"] for place in range(len(model.outputs))]
        names = [spec.name for spec in model.inputs]
        session = runtime.InferenceSession(narrow, options)
        wanted = session.run(None, dict(zip(names, inputs, strict=True)))
        outputs = model(*inputs)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        for found, theirs, exact in zip(outputs, wanted, before, strict=True):
            if found.dtype.kind == "f":
                # An LSTM's own inputs and states are rounded to 8 bits there, and not here.
                assert relative_error(found, theirs) < (3e-2 if name == "mixed" else 1e-2), name
                assert relative_error(found, exact) < (3e-2 if name == "mixed" else 1e-2), name
    assert {"com.microsoft.DynamicQuantizeLSTM", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger"} <= operators


def test_models_are_saved_in_our_own_format(exported: dict[str, Path], tmp_path: Path) -> None:
    for name in ("torch_old_mixed", "keras_tensorflow_encoder_decoder"):
        model = le.load(exported[name])
        model.save(tmp_path / f"{name}.safetensors")
        again = le.load(tmp_path / f"{name}.safetensors")
        shapes = [tuple(size or (3, 8)[axis % 2] for axis, size in enumerate(spec.shape)) for spec in model.inputs]
        x = [np.random.default_rng(8).standard_normal(shape).astype(np.float32) for shape in shapes]
        for found, wanted in zip(again(*x), model(*x), strict=True):
            np.testing.assert_array_equal(found, wanted)
        assert again.inputs == model.inputs


def test_a_graph_from_elsewhere_is_checked_too(exported: dict[str, Path]) -> None:
    graph = read_onnx(exported["torch_old_cell"])
    for nodes, said in ((graph.nodes[::-1], "that makes it before"), ((*graph.nodes, graph.nodes[0]), "again")):
        with pytest.raises(le.FormatError, match=said):
            build_onnx_model(dataclasses.replace(graph, nodes=nodes))
    odd = dataclasses.replace(graph.inputs[0], dtype="float30")
    with pytest.raises(le.FormatError, match=r"expected an element type of .*, found 'float30'"):
        build_onnx_model(dataclasses.replace(graph, inputs=(odd, *graph.inputs[1:])))
