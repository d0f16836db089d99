"""Operators where ONNX's own node suite does not look: NumPy's other habits, graphs that ask for too much."""

from __future__ import annotations

import itertools
import time
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from onnx import helper, numpy_helper  # noqa: E402

import lstm_engine as le  # noqa: E402
from lstm_engine.errors import FormatError, ShapeError  # noqa: E402
from lstm_engine.formats.limits import reading  # noqa: E402
from lstm_engine.formats.onnx import read_onnx_bytes  # noqa: E402
from lstm_engine.onnx.model import OnnxModel, build_onnx_model, lstm_weights_from_onnx  # noqa: E402

FLOAT = onnx.TensorProto.FLOAT


def value(name: str, array: np.ndarray) -> Any:
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    return helper.make_tensor_value_info(name, kind, [None] * array.ndim)


def graph_bytes(nodes: list[Any], inputs: list[Any], outputs: list[Any], arrays: dict[str, Any], opset: int) -> bytes:
    constants = [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, constants)
    domains = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    made: bytes = helper.make_model(graph, opset_imports=domains).SerializeToString()
    return made


def built(data: bytes) -> OnnxModel:
    return build_onnx_model(read_onnx_bytes(data, "graph"))


def run(operator: str, *arrays: Any, opset: int = 17, outputs: int = 1, **attributes: Any) -> Any:
    """Run one node on inputs; its first output."""
    given = [np.asarray(array) for array in arrays]
    names = [f"x{place}" for place in range(len(given))]
    node = helper.make_node(operator, names, [f"y{place}" for place in range(outputs)], **attributes)
    inputs = [value(name, array) for name, array in zip(names, given, strict=True)]
    data = graph_bytes([node], inputs, [helper.make_tensor_value_info("y0", FLOAT, None)], {}, opset)
    model = onnx.load_from_string(data)
    model.graph.output[0].type.tensor_type.shape.SetInParent()
    return built(model.SerializeToString())(*given)


RANDOM = np.random.default_rng(4)
X = RANDOM.standard_normal((3, 3)).astype(np.float32)
FIVE = np.arange(5, dtype=np.float32)


@pytest.mark.parametrize(
    ("indices", "axis"), [([[0, 2, 1]], 1), ([[0, 2], [1, -1]], 1), ([[0], [1], [-1]], 1), ([[2]], 0), ([[1, 0]], 0)]
)
def test_indices_of_gather_elements_need_not_fill_the_other_axes(indices: Any, axis: int) -> None:
    found = run("GatherElements", X, indices, axis=axis)
    wanted = np.empty(np.shape(indices), np.float32)
    for row, column in np.ndindex(*np.shape(indices)):
        index = indices[row][column]
        wanted[row, column] = X[row, index] if axis == 1 else X[index, column]
    np.testing.assert_array_equal(found, wanted)


def test_an_exclusive_sum_is_the_sum_of_what_comes_before() -> None:
    x = np.array([1, 1e8, 1, np.inf, 2], np.float32)
    found = run("CumSum", x, np.int64(0), exclusive=1)
    np.testing.assert_array_equal(found, np.array([0, 1, 1e8, 1e8, np.inf], np.float32))
    found = run("CumSum", x[:3], np.int64(0), exclusive=1, reverse=1)
    np.testing.assert_array_equal(found, np.array([1e8, 1, 0], np.float32))


def test_a_mean_of_integers_is_cut_off_towards_zero() -> None:
    x = np.array([[-7, 0], [7, 0], [-7, 2]], np.int32)
    np.testing.assert_array_equal(run("ReduceMean", x, axes=[1], keepdims=0), [-3, 3, -2])
    small = np.zeros((1, 300), np.int8)
    np.testing.assert_array_equal(run("ReduceMean", small, axes=[1], keepdims=0), [0])


@pytest.mark.parametrize(
    ("start", "end", "step", "wanted"),
    [
        (-10, -100, -1, [0]), (-6, -7, -1, [0]), (4, -100, -2, [4, 2, 0]), (10, 0, -1, [4, 3, 2, 1]),
        (-3, -1, -1, []), (-2, 0, -1, [3, 2, 1]), (-1, 2**62, -1, []), (2**62, -(2**62), -1, [4, 3, 2, 1, 0]),
    ],
)  # fmt: skip
def test_slices_backwards_begin_inside(start: int, end: int, step: int, wanted: list[int]) -> None:
    found = run("Slice", FIVE, [start], [end], [0], [step])
    np.testing.assert_array_equal(found, np.array(wanted, np.float32))
    assert run("Slice", FIVE[:0], [start], [end], [0], [step]).shape == (0,)


def test_a_number_that_is_not_zero_has_a_place() -> None:
    np.testing.assert_array_equal(run("NonZero", np.float32(3)), [[0]])
    assert run("NonZero", np.zeros((2, 2), np.float32)).shape == (2, 0)


def test_a_convolution_of_no_rows() -> None:
    kernel = np.ones((4, 2, 3), np.float32)
    assert run("Conv", np.ones((0, 2, 7), np.float32), kernel).shape == (0, 4, 5)


def test_biases_in_half_precision_are_added_in_more() -> None:
    bias = np.zeros((1, 24), np.float16)
    bias[0, :12], bias[0, 12:] = 1.0, 2.0**-12
    inputs = {"w": np.ones((1, 12, 2), np.float16), "r": np.ones((1, 12, 3), np.float16), "b": bias}
    node = helper.make_node("LSTM", ["x", "w", "r", "b"], ["y"], hidden_size=3)
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT16, [2, 1, 2])
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT16, [2, 1, 1, 3])
    weights = lstm_weights_from_onnx(read_onnx_bytes(graph_bytes([node], [x], [y], inputs, 14), "graph"), None)
    found = weights.cells[0][0].bias
    assert found is not None
    np.testing.assert_array_equal(found, np.full(12, 1.0 + 2.0**-12, np.float32))


@pytest.mark.parametrize(
    ("operator", "opset", "arrays", "attributes", "said"),
    [
        ("Squeeze", 13, [X[None]], {"axes": [0]}, "'axes': expected an input from opset 13 on"),
        ("Squeeze", 11, [X[None], [0]], {}, "expected axes as attributes before opset 13"),
        ("ReduceSum", 13, [X], {"axes": [1]}, "'axes': expected an input from opset 13 on"),
        ("ReduceMean", 18, [X], {"axes": [1]}, "'axes': expected an input from opset 18 on"),
        ("ReduceMean", 17, [X, [1]], {}, "expected axes as attributes before opset 18"),
        ("Clip", 11, [X], {"min": 0.0}, "'min': expected an input from opset 11 on"),
        ("Split", 13, [X], {"split": [1, 2]}, "'split': expected an input from opset 13 on"),
        ("Slice", 10, [X, [0], [1]], {"axes": [1]}, "'axes': expected an input from opset 10 on"),
        ("Pad", 11, [X, [0, 0, 1, 1]], {"value": 3.0}, "'value': expected an input from opset 11 on"),
        ("TopK", 9, [X, [1]], {"k": 2}, "expected k as attributes before opset 10"),
        ("Dropout", 12, [X], {"ratio": 0.5}, "'ratio': expected an input from opset 12 on"),
    ],
)  # fmt: skip
def test_what_another_version_says_is_not_passed_over(
    operator: str, opset: int, arrays: list[Any], attributes: dict[str, Any], said: str
) -> None:
    with pytest.raises(FormatError) as caught:
        run(operator, *arrays, opset=opset, **attributes)
    assert said in str(caught.value)
    assert operator in str(caught.value)


@pytest.mark.parametrize(
    ("operator", "arrays", "attributes", "said"),
    [
        ("Softmax", [X], {"axis": 2}, "axis 2 is out of bounds"),
        ("LogSoftmax", [X], {"axis": -5}, "axis -5 is out of bounds"),
        ("GatherElements", [X, [[0, 0, 0]] * 4], {"axis": 1}, r"expected indices within (3, 3)"),
        ("Pad", [FIVE, [0, -7]], {}, "expected pads that take away at most what there is"),
        ("Trilu", [FIVE], {}, "expected matrices"),
        ("Reshape", [X, [-3, 3]], {}, "expected sizes from -1 on"),
        ("Split", [FIVE], {"outputs": 2}, "share evenly before opset 18"),
        ("Split", [FIVE], {"outputs": 2, "opset": 18, "num_outputs": 3}, "'num_outputs': expected 2, found 3"),
        ("BatchNormalization", [X, *[np.ones(1, np.float32)] * 4], {}, "four weights (features,)"),
        ("LayerNormalization", [FIVE, np.ones((2, 5), np.float32)], {}, "a scale and a bias that broadcast to (5,)"),
        ("ScatterND", [X, [[0], [1]], X[:1]], {}, "updates of shape (2, 3)"),
        ("MatMulInteger", [np.ones(3, np.uint8), np.ones((3, 2), np.uint8)], {}, "expected matrices"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(operator: str, arrays: list[Any], attributes: dict[str, Any], said: str) -> None:
    with pytest.raises(ShapeError) as caught:
        run(operator, *arrays, **attributes)
    assert said in str(caught.value)


def test_a_quantized_lstm_without_its_scales() -> None:
    arrays = {"w": np.ones((1, 2, 12), np.int8), "r": np.ones((1, 3, 12), np.int8)}
    node = helper.make_node("DynamicQuantizeLSTM", ["x", "w", "r"], ["y"], domain="com.microsoft", hidden_size=3)
    x, y = (helper.make_tensor_value_info(name, FLOAT, [None] * rank) for name, rank in (("x", 3), ("y", 4)))
    with pytest.raises(FormatError, match=r"W: expected integers of 8 bits .* with a scale and a zero point"):
        built(graph_bytes([node], [x], [y], arrays, 14))


# --- Graphs that ask for too much -------------------------------------------------------------------------------------


def filled(name: str, *sizes: int) -> tuple[Any, dict[str, Any]]:
    """Return a node that makes an array of zeros out of a few bytes."""
    return helper.make_node("ConstantOfShape", [f"{name}_sizes"], [name]), {f"{name}_sizes": np.array(sizes, np.int64)}


@pytest.mark.parametrize(
    ("operator", "shapes", "attributes"),
    [
        ("MaxPool", [(1, 1, 1_000_000)], {"kernel_shape": [500_000]}),
        ("AveragePool", [(1, 1, 1_000_000)], {"kernel_shape": [500_000]}),
        ("MaxPool", [(1, 1, 1)], {"kernel_shape": [1_000_000], "pads": [1_000_000, 1_000_000]}),
        ("Einsum", [(250, 250), (250, 250)], {"equation": "ab,cd->"}),
        ("Conv", [(1, 1, 100_000), (1, 1, 50_000)], {}),
        ("LSTM", [(100_000, 1, 1), (1, 400, 1), (1, 400, 100)], {"hidden_size": 100}),
    ],
)
def test_no_work_without_end_at_load(operator: str, shapes: list[Any], attributes: dict[str, Any]) -> None:
    names = [f"x{place}" for place in range(len(shapes))]
    made = [filled(name, *shape) for name, shape in zip(names, shapes, strict=True)]
    arrays = {key: array for _, own in made for key, array in own.items()}
    node = helper.make_node(operator, names, ["y"], **attributes)
    output = helper.make_tensor_value_info("y", FLOAT, [] if operator == "Einsum" else [None] * 3)
    data = graph_bytes([*(node for node, _ in made), node], [], [output], arrays, 17)
    began = time.perf_counter()
    built(data)
    assert time.perf_counter() - began < 2.0


@pytest.mark.parametrize(("elements", "nodes", "least", "most"), [(2_500, 20, 7, 8), (50_000, 3, 3, 3)])
def test_work_at_load_is_bound_by_what_the_arrays_may_take(elements: int, nodes: int, least: int, most: int) -> None:
    made, arrays = filled("x", elements)
    names = [f"y{place}" for place in range(nodes)]
    sums = [helper.make_node("ReduceLogSumExp", ["x"], [name], keepdims=0) for name in names]
    outputs = [helper.make_tensor_value_info(name, FLOAT, []) for name in names]
    data = graph_bytes([made, *sums], [], outputs, arrays, 17)
    with reading(le.Limits(tensor_bytes=1 << 20), False):
        model = built(data)
    # Sums that take sixteen times their input of twice the room of all arrays; the others run at a call.
    assert least <= len(model._program.steps) <= most
    np.testing.assert_allclose(model(), np.full(nodes, np.log(elements)), rtol=1e-6)


@pytest.mark.parametrize(
    ("operator", "kernel", "shape"),
    [("MatMul", (1, 4096), (100_000, 1)), ("Gemm", (1, 4096), (100_000, 1)), ("Conv", (4096, 1, 1), (1, 1, 100_000))],
)
def test_a_product_with_weights_is_bound_as_any_value(operator: str, kernel: Any, shape: Any) -> None:
    node = helper.make_node(operator, ["x", "w"], ["y"])
    x, y = (helper.make_tensor_value_info(name, FLOAT, [None] * len(shape)) for name in ("x", "y"))
    with reading(le.Limits(onnx_value_bytes=1 << 26), False):
        model = built(graph_bytes([node], [x], [y], {"w": np.ones(kernel, np.float32)}, 17))
    with pytest.raises(ShapeError, match="expected results of at most"):
        model(np.ones(shape, np.float32))


def test_values_one_by_one_are_bound_together() -> None:
    names = [f"v{place}" for place in range(9)]
    nodes = [helper.make_node("Neg", [a], [b]) for a, b in itertools.pairwise(names)]
    x = helper.make_tensor_value_info("v0", FLOAT, [None])
    ends = [helper.make_tensor_value_info(name, FLOAT, [None]) for name in names[1:]]
    with reading(le.Limits(onnx_value_bytes=4000), False):
        model = built(graph_bytes(nodes, [x], ends, {}, 17))
    assert len(model(np.ones(100, np.float32))) == 8
    with pytest.raises(ShapeError, match="expected results of at most"):
        model(np.ones(200, np.float32))


def test_the_weights_of_an_lstm_that_is_given_nothing_but_constants() -> None:
    random = np.random.default_rng(2)
    arrays = {
        "x": random.standard_normal((4, 1, 2)), "w": random.standard_normal((1, 12, 2)),
        "r": random.standard_normal((1, 12, 3)),
    }  # fmt: skip
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    node = helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=3)
    graph = read_onnx_bytes(
        graph_bytes([node], [], [helper.make_tensor_value_info("y", FLOAT, [4, 1, 1, 3])], arrays, 14), "graph"
    )
    y, _ = le.LSTM(lstm_weights_from_onnx(graph, None))(arrays["x"], time_major=True)
    np.testing.assert_array_equal(build_onnx_model(graph)()[:, 0], y)


def test_steps_with_the_same_weights_share_what_is_packed_of_them() -> None:
    """What an exporter makes of a loop: the same product again and again."""
    weights = np.random.default_rng(0).standard_normal((16, 16)).astype(np.float32) / 4
    x = value("x", np.zeros((3, 16), np.float32))

    def chain(steps: int, **attributes: Any) -> Any:
        nodes = [
            helper.make_node("Gemm", [f"y{n}" if n else "x", "w"], [f"y{n + 1}"], **attributes) for n in range(steps)
        ]
        return built(graph_bytes(nodes, [x], [value(f"y{steps}", np.zeros((3, 16), np.float32))], {"w": weights}, 17))

    once, often = chain(1), chain(20)
    assert often.memory_bytes() == once.memory_bytes()
    given = np.random.default_rng(1).standard_normal((3, 16)).astype(np.float32)
    stepwise = given
    for _ in range(20):
        stepwise = once(stepwise)
    np.testing.assert_array_equal(often(given), stepwise)
    # Another attribute means other weights.
    nodes = [helper.make_node("Gemm", ["x", "w"], ["a"]), helper.make_node("Gemm", ["a", "w"], ["y"], transB=1)]
    both = built(graph_bytes(nodes, [x], [value("y", given)], {"w": weights}, 17))
    np.testing.assert_allclose(both(given), given @ weights @ weights.T, rtol=1e-5, atol=1e-5)
