"""Loops and branches of ONNX graphs: what they mean, what they may take, and that their weights are packed once."""

from __future__ import annotations

import dataclasses
import pickle
import signal
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")

from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

import lstm_engine as le
from lstm_engine.formats.limits import reading
from lstm_engine.formats.onnx import read_onnx_bytes
from lstm_engine.onnx.graph import OnnxBody, OnnxGraph, OnnxNode, OnnxValue
from lstm_engine.onnx.model import OnnxModel, build_onnx_model

KINDS = {"f": TensorProto.FLOAT, "d": TensorProto.DOUBLE, "i": TensorProto.INT64, "b": TensorProto.BOOL, "": 0}

#: A name, a letter for its type, and sizes: the axes are open if there are none, None for no shape at all.
Value = tuple[str, str, Sequence[Any] | None]


def infos(values: Iterable[Value]) -> list[Any]:
    return [helper.make_tensor_value_info(name, KINDS[kind], shape) for name, kind, shape in values]


def constant(name: str, value: Any, dtype: Any = np.float32) -> TensorProto:
    return numpy_helper.from_array(np.asarray(value, dtype), name)


def graph(
    nodes: Iterable[NodeProto], inputs: Iterable[Value], outputs: Iterable[Value], arrays: Iterable[TensorProto] = ()
) -> GraphProto:
    return helper.make_graph(list(nodes), "graph", infos(inputs), infos(outputs), list(arrays))


def data_of(whole: GraphProto, opset: int = 18) -> bytes:
    return bytes(
        helper.make_model(whole, opset_imports=[helper.make_opsetid("", opset)], ir_version=9).SerializeToString()
    )


def built(whole: GraphProto, opset: int = 18, **options: Any) -> OnnxModel:
    return build_onnx_model(read_onnx_bytes(data_of(whole, opset), "graph"), **options)


node = helper.make_node

COUNTED: list[Value] = [("i", "i", []), ("was_going", "b", [])]


def adding(
    *, most: bool = True, condition: bool = True, bound: float | None = None, scan: Sequence[Any] | None = (2,)
) -> GraphProto:
    """Return a model: x gets w at each trip; it goes on while the most of it is below ``bound``."""
    going = [node("Identity", ["was_going"], ["going"])]
    if bound is not None:
        going = [node("ReduceMax", ["t"], ["top"], keepdims=0), node("Less", ["top", "bound"], ["going"])]
    body = graph(
        [node("Add", ["s", "w"], ["t"]), *going, node("Mul", ["t", "t"], ["square"])],
        [*COUNTED, ("s", "f", None)],
        [("going", "b", []), ("t", "f", None), ("square", "f", scan)],
        [] if bound is None else [constant("bound", bound)],
    )
    loop = node("Loop", ["n" if most else "", "c" if condition else "", "x"], ["y", "squares"], body=body)
    given: list[Value] = [("n", "i", [])] if most else []
    given += [("c", "b", [])] if condition else []
    outputs: list[Value] = [("y", "f", ["size"]), ("squares", "f", ["trips", "size"])]
    return graph([loop], [*given, ("x", "f", ["size"])], outputs, [constant("w", [1.0, 2.0])])


X = np.array([0.5, -1.0], np.float32)
W = np.array([1.0, 2.0], np.float32)


def wanted(trips: int) -> tuple[Any, Any]:
    """Return what so many trips of ``adding`` give for X."""
    states = [X + (trip + 1) * W for trip in range(trips)]
    return (states[-1] if states else X), np.array([state * state for state in states], np.float32).reshape(trips, 2)


def check(found: Any, trips: int) -> None:
    for array, reference in zip(found, wanted(trips), strict=True):
        assert (array.dtype, array.shape) == (np.float32, reference.shape)
        np.testing.assert_array_equal(array, reference)


@pytest.mark.parametrize("opset", [7, 10, 11, 13, 16, 18, 21])
@pytest.mark.parametrize("trips", [0, 1, 5])
def test_a_number_of_trips(trips: int, opset: int) -> None:
    whole = adding()
    check(built(whole, opset)(np.int64(trips), True, X), trips)
    check(built(adding(condition=False), opset)(np.array([trips]).reshape(()), X), trips)


def test_a_condition_that_is_false_at_the_entry() -> None:
    check(built(adding())(np.int64(7), False, X), 0)
    check(built(adding(most=False, bound=9.0))(False, X), 0)


def test_no_trips_count() -> None:
    # The first trip whose most is not below 9: 0.5 + 1 k, -1 + 2 k; so k = 5.
    check(built(adding(most=False, bound=9.0))(True, X), 5)
    check(built(adding(most=False, condition=False, bound=9.0))(X), 5)


def test_the_condition_of_the_body_and_the_number_both_end_it() -> None:
    check(built(adding(bound=9.0))(np.int64(100), True, X), 5)
    check(built(adding(bound=9.0))(np.int64(3), True, X), 3)
    # As in ONNX Runtime; a negative number of trips is none.
    check(built(adding(condition=False, bound=9.0))(np.int64(100), X), 5)
    check(built(adding())(np.int64(-3), True, X), 0)
    check(built(adding(bound=9.0))(np.int64((1 << 63) - 1), True, X), 5)


def test_what_is_collected_in_no_trip_has_the_shape_that_the_file_gives() -> None:
    for scan, shape in (((3,), (0, 3)), (("open", 4), (0, 0, 4)), (None, (0,))):
        whole = adding(scan=scan)
        whole.output[1].CopyFrom(helper.make_tensor_value_info("squares", TensorProto.FLOAT, [None] * len(shape)))
        assert built(whole)(np.int64(0), True, X)[1].shape == shape
    whole.node[0].attribute[0].g.output[2].type.tensor_type.elem_type = 0
    with pytest.raises(le.ShapeError, match=r"\(Loop\): 'square': expected a type in the file"):
        built(whole)(np.int64(0), True, X)


def test_onnx_runtime_agrees() -> None:
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    for whole in (adding(), adding(bound=9.0), adding(most=False, bound=9.0), adding(condition=False, bound=9.0)):
        model, session = built(whole), runtime.InferenceSession(data_of(whole), options)
        for trips in (0, 1, 7):
            for going in (True, False):
                given = {"n": np.array(trips), "c": np.array(going), "x": X}
                inputs = {value.name: given[value.name] for value in model.inputs}
                for array, reference in zip(model(inputs), session.run(None, inputs), strict=True):
                    np.testing.assert_array_equal(array, reference)


def test_the_number_of_a_trip_and_values_from_around() -> None:
    """The body takes x, an array and a value that is made of x from the graph around it."""
    body = graph(
        [
            node("Cast", ["i"], ["number"], to=TensorProto.FLOAT),
            node("Mul", ["number", "double"], ["m"]),
            node("Sum", ["s", "m", "x", "w"], ["t"]),
        ],
        [*COUNTED, ("s", "f", None)],
        [("was_going", "b", []), ("t", "f", None)],
    )
    nodes = [node("Add", ["x", "x"], ["double"]), node("Loop", ["n", "", "zero"], ["y"], body=body)]
    arrays = [constant("n", 4, np.int64), constant("zero", [0.0, 0.0]), constant("w", W)]
    model = built(graph(nodes, [("x", "f", [2])], [("y", "f", [2])], arrays))
    np.testing.assert_allclose(model(X), (0 + 1 + 2 + 3) * 2 * X + 4 * (X + W), rtol=1e-6)


def test_loops_in_loops() -> None:
    """The inner one makes as many trips as the outer one has made, and takes values of both graphs around it."""
    inner = graph(
        [node("Sum", ["s2", "s", "w"], ["t2"])],
        [("j", "i", []), ("on", "b", []), ("s2", "f", None)],
        [("on", "b", []), ("t2", "f", None), ("j", "i", [])],
    )
    body = graph(
        [
            node("Loop", ["i", "", "s"], ["t", "places"], body=inner),
            node("ReduceSum", ["places"], ["total"], keepdims=0),
        ],
        [*COUNTED, ("s", "f", None)],
        [("was_going", "b", []), ("t", "f", None), ("total", "i", [])],
    )
    loop = node("Loop", ["n", "", "x"], ["y", "totals"], body=body)
    whole = graph(
        [loop], [("n", "i", []), ("x", "f", [2])], [("y", "f", [2]), ("totals", "i", [None])], [constant("w", W)]
    )
    y, totals = built(whole)(np.int64(4), X)
    state = X
    for trip in range(4):
        outer = state
        for _ in range(trip):
            state = state + outer + W
    np.testing.assert_allclose(y, state, rtol=1e-6)
    np.testing.assert_array_equal(totals, [0, 0, 1, 3])


def branching(condition: Value | TensorProto) -> GraphProto:
    """Return a model of x doubled or with w added, as the condition says."""
    then = graph([node("Add", ["x", "x"], ["inner"])], [], [("inner", "f", None)])
    other = graph([node("Add", ["x", "w"], ["inner"])], [], [("inner", "f", None)])  # the same name, in another branch
    chosen = node("If", ["c"], ["y"], then_branch=then, else_branch=other)
    arrays, inputs = [constant("w", W)], []
    if isinstance(condition, TensorProto):
        arrays.append(condition)
    else:
        inputs = [condition]
    return graph([chosen], [*inputs, ("x", "f", [2])], [("y", "f", [2])], arrays)


def test_both_branches() -> None:
    model = built(branching(("c", "b", [])))
    np.testing.assert_array_equal(model(True, X), X + X)
    np.testing.assert_array_equal(model(False, X), X + W)
    for flags in (np.array([True, False]), np.array([], np.bool_)):
        with pytest.raises(le.ShapeError, match=r"node 'y' \(If\): cond: expected a truth value"):
            built(branching(("c", "b", [None])))(flags, X)


def test_a_constant_condition_leaves_one_branch() -> None:
    for flag, result in ((True, X + X), ([False], X + W)):
        model = built(branching(constant("c", flag, np.bool_)))
        np.testing.assert_array_equal(model(X), result)
        (step,) = model._program.steps
        assert len(step.programs) == 1
    both = built(branching(("c", "b", [])))
    assert len(both._program.steps[0].programs) == 2


def test_what_a_body_does_not_make_may_be_handed_out() -> None:
    """An output of a branch that is a value of the graph around it, and of a loop that is its own input."""
    branch = graph([], [], [("x", "f", None)])
    other = graph([node("Neg", ["x"], ["minus"])], [], [("minus", "f", None)])
    body = graph([], [*COUNTED, ("s", "f", None)], [("was_going", "b", []), ("s", "f", None), ("s", "f", None)])
    nodes = [
        node("If", ["c"], ["chosen"], then_branch=branch, else_branch=other),
        node("Loop", ["n", "", "chosen"], ["y", "all"], body=body),
    ]
    arrays = [constant("n", 2, np.int64)]
    model = built(graph(nodes, [("c", "b", []), ("x", "f", [2])], [("y", "f", [2]), ("all", "f", [None, 2])], arrays))
    for flag, result in ((True, X), (False, -X)):
        y, every = model(flag, X)
        np.testing.assert_array_equal(y, result)
        np.testing.assert_array_equal(every, [result, result])


# --- Types and shapes -------------------------------------------------------------------------------------------------


def carrying(*nodes: NodeProto, state: str = "f", made: str = "t", scan: str = "t") -> GraphProto:
    """Return a model of a loop that carries x, of five trips."""
    body = graph(nodes, [*COUNTED, ("s", state, None)], [("was_going", "b", []), (made, "", None), (scan, "", None)])
    loop = node("Loop", ["n", "", "x"], ["y", "all"], body=body)
    outputs: list[Value] = [("y", "f", [None]), ("all", "f", [None, None])]
    return graph([loop], [("x", "f", [2])], outputs, [constant("n", 5, np.int64), constant("w", W)])


@pytest.mark.parametrize(
    ("whole", "said"),
    [
        (
            carrying(node("Cast", ["s"], ["t"], to=TensorProto.DOUBLE)),
            "'s': expected float32 at each trip, found float64",
        ),
        (carrying(node("Add", ["s", "s"], ["t"]), state="i"), "'s': expected int64 at each trip, found float32"),
        (
            carrying(node("Concat", ["s", "s"], ["t"], axis=0)),
            r"'t': expected float32 of shape \(4,\) at each trip, found float32 of shape \(8,\)",
        ),
        (carrying(node("Relu", ["s"], ["t"]), node("Gather", ["w", "i"], ["u"]), scan="u"), "expected indices from"),
    ],
)
def test_what_changes_its_type_or_shape_is_named(whole: GraphProto, said: str) -> None:
    with pytest.raises(le.ShapeError, match=rf"^graph: node 'y' \(Loop\): (node 'u' \(Gather\): )?{said}"):
        built(whole)(X)


def test_what_is_carried_may_grow() -> None:
    whole = carrying(node("Concat", ["s", "w"], ["t"], axis=0), node("Relu", ["w"], ["u"]), scan="u")
    np.testing.assert_array_equal(built(whole)(X)[0], np.concatenate([X, *[W] * 5]))


@pytest.mark.parametrize("names", [("n", ""), ("", "c")])
def test_a_count_and_a_condition_of_another_type(names: tuple[str, str]) -> None:
    body = graph([], [*COUNTED, ("s", "f", None)], [("was_going", "b", []), ("s", "f", None)])
    loop = node("Loop", [*names, "x"], ["y"], body=body)
    whole = graph([loop], [("".join(names), "f", [None]), ("x", "f", [2])], [("y", "f", [2])])
    said = "M: expected an integer" if names[0] else "cond: expected a truth value"
    with pytest.raises(le.ShapeError, match=rf"\(Loop\): {said}, found float32 of shape \(1,\)"):
        built(whole)(np.ones(1, np.float32), X)


# --- What it may take -------------------------------------------------------------------------------------------------


def test_a_loop_without_an_end_ends() -> None:
    with reading(le.Limits(onnx_loop_nodes=3_000), False):
        model = built(adding(most=False, condition=False, bound=np.inf))
    start = time.perf_counter()
    with pytest.raises(le.ShapeError, match=r"node 'y' \(Loop\): expected loops that come to an end .*onnx_loop_nodes"):
        model(X)
    assert time.perf_counter() - start < 5
    # A copy in another process keeps the caps; a call that needs less is not touched by the one before.
    again = pickle.loads(pickle.dumps(model))
    with pytest.raises(le.ShapeError, match="onnx_loop_nodes"):
        again(X)


def test_all_loops_of_a_call_count_together() -> None:
    whole = adding(bound=1e9)  # four nodes at each trip, and the trip
    with reading(le.Limits(onnx_loop_nodes=50), False):
        model = built(whole)
        check(model(np.int64(10), True, X), 10)
        with pytest.raises(le.ShapeError, match="onnx_loop_nodes"):
            model(np.int64(11), True, X)
        check(model(np.int64(10), True, X), 10)
    # Two loops in a row have the same allowance between them.
    first, second = adding(bound=1e9), adding(bound=1e9)
    (other,) = second.node
    other.input[2], other.output[0], other.output[1] = "y", "z", "more"
    first.node.append(other)
    first.output[0].name = "z"
    with reading(le.Limits(onnx_loop_nodes=50), False):
        model = built(first)
        model(np.int64(5), True, X)
        with pytest.raises(le.ShapeError, match=r"node 'z' \(Loop\): expected loops that come to an end"):
            model(np.int64(6), True, X)


def test_nothing_of_a_loop_is_run_when_it_is_loaded() -> None:
    """Even where all that it needs is constant: its condition might never become false."""
    body = graph(
        [node("Add", ["s", "w"], ["t"])], [*COUNTED, ("s", "f", None)], [("was_going", "b", []), ("t", "f", None)]
    )
    nodes = [node("Loop", ["", "", "w"], ["end"], body=body), node("Add", ["x", "end"], ["y"])]
    model = built(graph(nodes, [("x", "f", [2])], [("y", "f", [2])], [constant("w", W)]))
    assert [step.site.node.operator for step in model._program.steps] == ["Loop", "Add"]


def test_what_a_loop_collects_is_bounded() -> None:
    """A kilobyte for each trip, and trips without end."""
    nodes = [node("Expand", ["s", "size"], ["wide"]), node("ReduceMax", ["wide"], ["t"], keepdims=1)]
    body = graph(
        nodes,
        [*COUNTED, ("s", "f", None)],
        [("was_going", "b", []), ("t", "f", None), ("wide", "f", None)],
        [constant("size", [256], np.int64)],
    )
    loop = node("Loop", ["", "", "x"], ["y", "all"], body=body)
    whole = graph([loop], [("x", "f", [1])], [("y", "f", [1]), ("all", "f", [None, 256])])
    with reading(le.Limits(onnx_value_bytes=1 << 20), False):
        model = built(whole)
    with pytest.raises(le.ShapeError, match=r"\(Loop\): expected results of at most 1,048,576 bytes"):
        model(np.ones(1, np.float32))


def test_what_a_loop_carries_is_bounded() -> None:
    whole = carrying(node("Concat", ["s", "s"], ["t"], axis=0), node("Relu", ["w"], ["u"]), scan="u")
    whole.initializer[0].CopyFrom(constant("n", 60, np.int64))
    with reading(le.Limits(onnx_value_bytes=1 << 20), False):
        model = built(whole)
    with pytest.raises(le.ShapeError, match=r"\(Loop\): node 't' \(Concat\): expected results of at most [\d,]+ bytes"):
        model(X)


def test_small_parts_of_large_values_do_not_keep_them() -> None:
    """Each trip makes a megabyte and hands out four bytes of it; all trips together stay within a few of them."""
    import tracemalloc

    nodes = [
        node("Expand", ["s", "size"], ["wide"]),
        node("Relu", ["wide"], ["made"]),
        node("Slice", ["made", "zero", "one"], ["t"]),
    ]
    arrays = [constant("size", [1 << 18], np.int64), constant("zero", [0], np.int64), constant("one", [1], np.int64)]
    body = graph(
        nodes, [*COUNTED, ("s", "f", None)], [("was_going", "b", []), ("t", "f", None), ("t", "f", None)], arrays
    )
    loop = node("Loop", ["n", "", "x"], ["y", "all"], body=body)
    whole = graph([loop], [("n", "i", []), ("x", "f", [1])], [("y", "f", [1]), ("all", "f", [None, 1])])
    model, x = built(whole), np.ones(1, np.float32)
    tracemalloc.start()
    try:
        model(np.int64(64), x)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs a signal for one thread")
def test_a_signal_is_served_in_a_loop() -> None:
    model = built(adding(most=False, condition=False, bound=np.inf))
    timer = threading.Timer(0.3, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT))
    timer.start()
    start = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        model(X)
    assert time.perf_counter() - start < 5
    timer.join()


# --- Weights ----------------------------------------------------------------------------------------------------------


def stacked(captured: bool) -> tuple[GraphProto, Any]:
    """Return a model whose loop multiplies by a matrix, from around it or carried along, and the matrix."""
    matrix = np.random.default_rng(3).standard_normal((8, 8)).astype(np.float32) / 4
    carried: list[Value] = [("s", "f", ["batch", 8])] + ([] if captured else [("k", "f", [8, 8])])
    nodes = [node("MatMul", ["s", "m" if captured else "k"], ["u"]), node("Tanh", ["u"], ["t"])]
    kept: list[Value] = [("t", "f", ["batch", 8])] + ([] if captured else [("k", "f", [8, 8])])
    body = graph(nodes, [*COUNTED, *carried], [("was_going", "b", []), *kept])
    inputs = ["n", "", "x"] + ([] if captured else ["m"])
    loop = node("Loop", inputs, ["y"] + ([] if captured else ["k_end"]), body=body)
    arrays = [constant("n", 6, np.int64), constant("m", matrix)]
    return graph([loop], [("x", "f", ["batch", 8])], [("y", "f", ["batch", 8])], arrays), matrix


@pytest.mark.parametrize("captured", [True, False])
def test_weights_in_a_loop_are_packed_when_it_is_loaded(captured: bool) -> None:
    whole, matrix = stacked(captured)
    model = built(whole)
    (loop,) = model._program.steps
    (multiplied, _) = loop.programs[0].steps
    assert multiplied.memory_bytes > 0
    assert (multiplied.parameters, loop.parameters) == (64, 64)
    assert multiplied.memory_bytes <= model.memory_bytes() <= multiplied.memory_bytes + 3 * matrix.nbytes
    x = np.random.default_rng(4).standard_normal((5, 8)).astype(np.float32)
    state = x.astype(np.float64)
    for _ in range(6):
        state = np.tanh(state @ matrix)
    np.testing.assert_allclose(model(x), state, rtol=2e-6)
    # Each row has the bits that it has alone, and that any number of threads gives it.
    np.testing.assert_array_equal(np.concatenate([model(x[row : row + 1]) for row in range(5)]), model(x))
    np.testing.assert_array_equal(built(whole, num_threads=2)(x), model(x))
    double = built(whole, compute_type="float64")(x.astype(np.float64))
    assert double.dtype == np.float64
    np.testing.assert_allclose(double, state, rtol=1e-13)
    lines: list[str] = []
    model.summary(lines.append)
    assert any(line.startswith(". ") and "(MatMul)" in line and " 64 " in line for line in lines)
    assert "Weights: 64;" in lines[-1]


def nested_lstm() -> tuple[GraphProto, Any]:
    """Return a model with an LSTM in a branch, whose weights lie in the graph around it."""
    random = np.random.default_rng(6)
    arrays = {"w": (1, 12, 2), "r": (1, 12, 3)}
    weights = [constant(name, random.standard_normal(shape)) for name, shape in arrays.items()]
    cell = node("LSTM", ["steps", "w", "r"], ["all", "last"], hidden_size=3, name="cell")
    then = graph([node("Transpose", ["x"], ["steps"], perm=[1, 0, 2]), cell], [], [("last", "f", None)])
    other = graph(
        [node("ConstantOfShape", ["shape"], ["none"])],
        [],
        [("none", "f", None)],
        [constant("shape", [1, 1, 3], np.int64)],
    )
    chosen = node("If", ["c"], ["y"], then_branch=then, else_branch=other)
    values: list[Value] = [("c", "b", []), ("x", "f", ["batch", "time", 2])]
    return graph([chosen], values, [("y", "f", [1, "batch", 3])], weights), random.standard_normal((4, 5, 2))


def test_an_lstm_of_a_branch_is_taken_out(tmp_path: Path) -> None:
    whole, x = nested_lstm()
    path = tmp_path / "model.onnx"
    path.write_bytes(data_of(whole))
    model, lstm = le.load(path), le.LSTM.from_onnx(path, "cell")
    _, (h, _) = lstm(x.astype(np.float32))
    np.testing.assert_array_equal(model(True, x), h)
    assert model(False, x).shape == (1, 1, 3)
    assert [layer.name for layer in model.report.layers] == ["y", "none", "steps", "cell"]
    whole.input.pop(0)
    whole.initializer.append(constant("c", False, np.bool_))
    path.write_bytes(data_of(whole))
    with pytest.raises(le.UnsupportedModelError, match="stands in a branch that is never taken"):
        le.LSTM.from_onnx(path, "cell")


# --- Files ------------------------------------------------------------------------------------------------------------


def test_loops_and_branches_are_saved_in_our_own_format(tmp_path: Path) -> None:
    path, again = tmp_path / "model.onnx", tmp_path / "model.safetensors"
    for whole, inputs in (
        (stacked(True)[0], (np.ones((2, 8), np.float32),)),
        (stacked(False)[0], (np.ones((2, 8), np.float32),)),
        (nested_lstm()[0], (True, np.ones((2, 3, 2), np.float32))),
        (adding(bound=9.0), (np.int64(3), True, X)),
    ):
        path.write_bytes(data_of(whole))
        model = le.load(path)
        model.save(again, golden=list(inputs))
        loaded = le.load(again, verify=True)
        for copy in (loaded, pickle.loads(pickle.dumps(model))):
            found, reference = copy(*inputs), model(*inputs)
            for one, other in zip(
                found if isinstance(found, tuple) else (found,),
                reference if isinstance(reference, tuple) else (reference,),
                strict=True,
            ):
                np.testing.assert_array_equal(one, other)
        assert loaded.memory_bytes() == model.memory_bytes()
        with pytest.raises(le.UnsupportedModelError, match="cannot run in a stream"):
            loaded.stream()


def changed(whole: OnnxGraph, **changes: Any) -> OnnxGraph:
    """Return a graph whose first node has its body changed."""
    first, *others = whole.nodes
    body: OnnxBody = first.bodies["body"]
    bodies = {"body": dataclasses.replace(body, **changes)}
    return dataclasses.replace(whole, nodes=(dataclasses.replace(first, bodies=bodies), *others))


def test_bodies_from_elsewhere_are_checked_too() -> None:
    """A file of our own format has not gone through the reader of ONNX."""
    whole = read_onnx_bytes(data_of(adding()), "graph")
    body = whole.nodes[0].bodies["body"]
    taken = dataclasses.replace(body.nodes[0], outputs=("x",))
    for wrong, said in (
        (changed(whole, nodes=body.nodes[::-1]), "that makes it before"),
        (changed(whole, nodes=(*body.nodes, body.nodes[0])), "makes '.*' again"),
        (changed(whole, nodes=(*body.nodes, taken)), "'x': expected a name that no graph around has"),
        (changed(whole, inputs=(*body.inputs, body.inputs[0])), "'i': expected it to be given once"),
        (changed(whole, outputs=(dataclasses.replace(body.outputs[0], name="nowhere"),)), "value 'nowhere': expected"),
        (changed(whole, inputs=(*body.inputs[:2], dataclasses.replace(body.inputs[2], dtype="float30"))), "float30"),
        (changed(whole, initializers={"e": np.empty((0, 1 << 40), np.float32)}), "a shape that memory can hold"),
    ):
        with pytest.raises(le.FormatError, match=said):
            build_onnx_model(wrong)
    (loop,) = whole.nodes
    relu = dataclasses.replace(loop, operator="Relu", inputs=("x",), outputs=("y",))
    with pytest.raises(le.UnsupportedModelError, match="attributes 'body' are not supported"):
        build_onnx_model(dataclasses.replace(whole, nodes=(relu,), outputs=whole.outputs[:1]))
    with pytest.raises(le.FormatError, match="attribute 'body': expected a graph, found none"):
        build_onnx_model(dataclasses.replace(whole, nodes=(dataclasses.replace(loop, bodies={}),)))
    innermost = OnnxNode("", "Relu", ("x",), ("z0",), {})
    for depth in range(14):
        inner = OnnxBody("deep", (), (OnnxValue(f"z{depth}", "", ()),), {}, (innermost,))
        other = OnnxBody("flat", (), (OnnxValue("x", "", ()),), {}, ())
        bodies = {"then_branch": inner, "else_branch": other}
        innermost = OnnxNode("", "If", ("c",), (f"z{depth + 1}",), {}, bodies)
    outputs = (OnnxValue("z14", "float32", ("size",)),)
    with pytest.raises(le.FormatError, match="at most 12 graphs in graphs"):
        build_onnx_model(dataclasses.replace(whole, nodes=(innermost,), outputs=outputs))


def test_all_that_is_unknown_in_a_graph_and_in_its_bodies_is_named_together() -> None:
    whole = adding()
    whole.node[0].attribute[0].g.node.append(node("Det", ["square"], ["d"]))
    whole.node[0].attribute[0].g.output[2].name = "d"
    whole.node.append(node("NonMaxSuppression", ["y", "squares"], ["odd"]))
    whole.output[0].name = "odd"
    with pytest.raises(le.UnsupportedModelError) as caught:
        built(whole)
    assert all(f"'{name}'" in str(caught.value) for name in ("Det", "NonMaxSuppression"))
