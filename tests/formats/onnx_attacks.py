"""ONNX files that must be refused: name, bytes, error and what the message says."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from lstm_engine.errors import FormatError, LstmEngineError, UnsafeFileError, UnsupportedModelError

__all__ = ["ATTACKS", "Attack", "model", "sound"]


class Attack(NamedTuple):
    """A file and how it must be refused."""

    make: Callable[[], bytes]
    error: type[LstmEngineError]
    said: str


ATTACKS: dict[str, Attack] = {}


def attack(error: type[LstmEngineError], said: str) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Put a function that makes a model, or its bytes, on the list."""

    def register(make: Callable[[], Any]) -> Callable[[], Any]:
        def data() -> bytes:
            made = make()
            return made if isinstance(made, bytes) else bytes(made.SerializeToString())

        ATTACKS[make.__name__] = Attack(data, error, said)
        return make

    return register


def constant(name: str, value: Any, dtype: Any = np.int64) -> TensorProto:
    return numpy_helper.from_array(np.asarray(value, dtype), name)


def model(
    nodes: Iterable[NodeProto], arrays: Iterable[TensorProto] = (), *, inputs: Iterable[str] = ("x",),
    outputs: Iterable[str] = ("y",), opset: int = 18, functions: Iterable[Any] = (), domains: Iterable[str] = (),
) -> ModelProto:  # fmt: skip
    """Return a model whose inputs and outputs are float matrices."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", None]) for name in inputs]
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, None]) for name in outputs]
    graph = helper.make_graph(list(nodes), "graph", values, results, list(arrays))
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=imports, functions=list(functions), ir_version=9)


def node(operator: str, inputs: Iterable[str], outputs: Iterable[str] = ("y",), **attributes: Any) -> NodeProto:
    return helper.make_node(operator, list(inputs), list(outputs), **attributes)


def sound() -> ModelProto:
    """Return a small model with nothing wrong."""
    return model([node("MatMul", ["x", "w"])], [constant("w", np.eye(3), np.float32)])


def weighted(change: Callable[[TensorProto], Any]) -> ModelProto:
    """Return the sound model with its array changed."""
    made = sound()
    change(made.graph.initializer[0])
    return made


def bomb(operator: str, inputs: Iterable[str], *arrays: TensorProto, **attributes: Any) -> ModelProto:
    """Return a model in which a constant node asks for a great deal of memory."""
    return model([node(operator, inputs, ["big"], **attributes), node("Add", ["x", "big"])], arrays)


HUGE = 1 << 40


# --- Other files ------------------------------------------------------------------------------------------------------


def external(tensor: TensorProto, **entries: str) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)


@attack(UnsafeFileError, "reference to another file")
def external_data_beside() -> ModelProto:
    return weighted(lambda w: external(w, location="weights.bin", offset="0", length="36"))


@attack(UnsafeFileError, "reference to another file")
def external_data_above() -> ModelProto:
    return weighted(lambda w: external(w, location="../../../etc/passwd"))


@attack(UnsafeFileError, "reference to another file")
def external_data_absolute() -> ModelProto:
    return weighted(lambda w: external(w, location="/etc/passwd"))


@attack(UnsafeFileError, "reference to another file")
def external_data_without_a_place() -> ModelProto:
    return weighted(external)


@attack(UnsafeFileError, "reference to another file")
def external_data_beside_raw_data() -> ModelProto:
    return weighted(lambda w: w.external_data.add(key="location", value="weights.bin"))


@attack(UnsafeFileError, "reference to another file")
def external_data_in_an_attribute() -> ModelProto:
    value = constant("v", [1.0], np.float32)
    external(value, location="secret")
    return model([node("Constant", [], ["c"], value=value), node("Add", ["x", "c"])])


# --- Code -------------------------------------------------------------------------------------------------------------


@attack(UnsupportedModelError, "function custom.Twice")
def function() -> ModelProto:
    made = helper.make_function(
        "custom", "Twice", ["a"], ["b"], [node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 18)]
    )
    return model([node("Twice", ["x"], domain="custom")], functions=[made], domains=["custom"])


@attack(UnsupportedModelError, "function .Add")
def function_that_replaces_an_operator() -> ModelProto:
    made = helper.make_function(
        "", "Add", ["a", "b"], ["c"], [node("Mul", ["a", "b"], ["c"])], [helper.make_opsetid("", 18)]
    )
    return model([node("Add", ["x", "x"])], functions=[made])


@attack(UnsupportedModelError, "com.evil.Run")
def custom_domain() -> ModelProto:
    return model([node("Run", ["x"], domain="com.evil")], domains=["com.evil"])


@attack(UnsupportedModelError, "com.evil.Add")
def known_name_in_a_custom_domain() -> ModelProto:
    return model([node("Add", ["x", "x"], domain="com.evil")], domains=["com.evil"])


@attack(UnsupportedModelError, "'NonMaxSuppression'")
def several_unknown_operators() -> ModelProto:
    return model(
        [node("Det", ["x"], ["a"]), node("NonMaxSuppression", ["a", "x"], ["b"]), node("StringNormalizer", ["b"])]
    )


# --- Graphs in graphs -------------------------------------------------------------------------------------------------


def body(
    *nodes: NodeProto, inputs: Iterable[str] = (), outputs: Iterable[str] = ("inner",),
    arrays: Iterable[TensorProto] = (),
) -> GraphProto:  # fmt: skip
    """Return a graph for a node; what it is given is a number and a truth value, and floats after these."""
    kinds = [TensorProto.INT64, TensorProto.BOOL, *[TensorProto.FLOAT] * 9]
    given = [helper.make_tensor_value_info(name, kind, None) for name, kind in zip(inputs, kinds, strict=False)]
    made = [helper.make_tensor_value_info(name, 0, None) for name in outputs]
    return helper.make_graph(list(nodes) or [node("Relu", ["x"], ["inner"])], "body", given, made, list(arrays))


def branching(then: GraphProto, other: GraphProto | None = None, *more: NodeProto, **options: Any) -> ModelProto:
    """Return a model of one If, whose condition depends on the input."""
    nodes = [node("ReduceMax", ["x"], ["most"], keepdims=0), node("Cast", ["most"], ["c"], to=TensorProto.BOOL)]
    chosen = node(
        "If", ["c"], then_branch=then, else_branch=other or body(node("Abs", ["x"], ["other"]), outputs=["other"])
    )
    return model([*nodes, chosen, *more], **options)


def looping(inner: GraphProto, carried: Iterable[str] = ("x",), outputs: Iterable[str] = ("y",)) -> ModelProto:
    """Return a model of one Loop without an end of its own."""
    return model([node("Loop", ["", "", *carried], outputs, body=inner)])


def trip(
    *nodes: NodeProto, inputs: Iterable[str] = ("i", "go", "s"), outputs: Iterable[str] = ("going", "t"), **rest: Any
) -> GraphProto:
    """Return the body of a loop that carries one value."""
    return body(node("Identity", ["go"], ["going"]), *nodes, inputs=inputs, outputs=outputs, **rest)


@attack(UnsupportedModelError, "operator 'Scan' is not supported")
def scan() -> ModelProto:
    return model([node("Scan", ["x"], body=body(), num_scan_inputs=1)])


@attack(UnsupportedModelError, "attributes 'hidden' are not supported")
def subgraph_on_a_known_operator() -> ModelProto:
    return model([node("Relu", ["x"], hidden=body())])


@attack(UnsupportedModelError, "'branches': a list of graphs")
def list_of_graphs() -> ModelProto:
    return model([node("If", ["x"], branches=[body(), body()])])


@attack(FormatError, "'else_branch': expected a graph, found none")
def branch_missing() -> ModelProto:
    made = branching(body())
    del made.graph.node[-1].attribute[0]
    return made


@attack(FormatError, "'then_branch': expected it once, found it twice")
def branch_given_twice() -> ModelProto:
    made = branching(body())
    (then,) = (part for part in made.graph.node[-1].attribute if part.name == "then_branch")
    made.graph.node[-1].attribute.append(then)
    return made


@attack(FormatError, "expected a graph of 0 inputs and 1 to 1 outputs, found 1 and 1")
def branch_with_an_input() -> ModelProto:
    return branching(body(node("Relu", ["x"], ["inner"]), inputs=["n"]))


@attack(FormatError, "'then_branch': expected a graph of 0 inputs and 1 to 1 outputs, found 0 and 2")
def branch_with_another_output() -> ModelProto:
    return branching(body(node("Relu", ["x"], ["inner"]), outputs=["inner", "inner"]))


@attack(FormatError, "expected a graph of 3 inputs")
def loop_body_without_its_input() -> ModelProto:
    return looping(trip(node("Relu", ["x"], ["t"]), inputs=["i", "go"]))


@attack(FormatError, "expected a graph of 3 inputs and 3 to")
def loop_body_without_its_output() -> ModelProto:
    return looping(trip(node("Relu", ["s"], ["t"])), outputs=["y", "all"])


@attack(FormatError, "expected a first value for everything that the loop carries")
def loop_that_carries_nothing() -> ModelProto:
    return looping(trip(node("Relu", ["s"], ["t"])), [""])


@attack(FormatError, "(Loop): attribute 'body': expected a graph, found none")
def loop_without_a_body() -> ModelProto:
    return model([node("Loop", ["", "", "x"])])


@attack(FormatError, "value 'nowhere': expected an input, an array or a node that makes it")
def captured_value_missing() -> ModelProto:
    return branching(body(node("Add", ["x", "nowhere"], ["inner"])))


@attack(FormatError, "without cycles")
def captured_value_that_is_made_of_the_node() -> ModelProto:
    return branching(body(node("Add", ["x", "later"], ["inner"])), None, node("Relu", ["y"], ["later"]))


@attack(FormatError, "without cycles")
def branch_that_captures_what_it_makes() -> ModelProto:
    return branching(body(node("Add", ["x", "y"], ["inner"])))


@attack(FormatError, "without cycles")
def cycle_in_a_body() -> ModelProto:
    return looping(trip(node("Add", ["s", "b"], ["a"]), node("Add", ["a", "s"], ["b"]), node("Relu", ["b"], ["t"])))


@attack(FormatError, "value 'other': expected an input, an array or a node")
def value_of_the_other_branch() -> ModelProto:
    return branching(body(node("Add", ["x", "other"], ["inner"])))


@attack(FormatError, "value 'inner': expected an input, an array or a node")
def value_of_a_body_outside_of_it() -> ModelProto:
    return branching(body(), None, node("Relu", ["inner"], ["z"]), outputs=["y", "z"])


@attack(FormatError, "'most': expected a name that no graph around has")
def value_made_again_in_a_body() -> ModelProto:
    return branching(body(node("Relu", ["x"], ["most"]), node("Abs", ["most"], ["inner"])))


@attack(FormatError, "'x': expected a name that no graph around has")
def input_of_a_body_that_hides_another() -> ModelProto:
    return looping(trip(node("Relu", ["x"], ["t"]), inputs=["i", "go", "x"]))


@attack(FormatError, "'c': expected a name that no graph around has")
def array_of_a_body_that_hides_another() -> ModelProto:
    return branching(body(node("Add", ["x", "c"], ["inner"]), arrays=[constant("c", [1.0], np.float32)]))


@attack(FormatError, "value 't': expected one node that makes it, found two")
def value_made_twice_in_a_body() -> ModelProto:
    return looping(trip(node("Relu", ["s"], ["t"]), node("Abs", ["s"], ["t"])))


@attack(FormatError, "'i': expected it to be given once")
def input_given_twice_in_a_body() -> ModelProto:
    return looping(trip(node("Relu", ["x"], ["t"]), inputs=["i", "go", "i"]))


@attack(FormatError, "'s': expected it to be given once")
def input_of_a_body_with_a_default() -> ModelProto:
    return looping(trip(node("Relu", ["s"], ["t"]), arrays=[constant("s", [1.0], np.float32)]))


@attack(FormatError, "at most 12 graphs in graphs")
def bodies_too_deep() -> ModelProto:
    inner = body()
    for depth in range(13):
        name = f"inner{depth}"
        inner = body(node("If", ["c"], [name], then_branch=inner, else_branch=inner), outputs=[name])
    return branching(inner)


@attack(UnsafeFileError, "reference to another file")
def external_data_in_a_body() -> ModelProto:
    array = constant("v", [1.0], np.float32)
    external(array, location="weights.bin")
    return branching(body(node("Add", ["x", "v"], ["inner"]), arrays=[array]))


@attack(UnsafeFileError, "reference to another file")
def external_data_in_an_attribute_in_a_body() -> ModelProto:
    value = constant("v", [1.0], np.float32)
    external(value, location="/etc/passwd")
    return branching(body(node("Constant", [], ["c1"], value=value), node("Add", ["x", "c1"], ["inner"])))


@attack(UnsupportedModelError, "com.evil.Run")
def custom_domain_in_a_body() -> ModelProto:
    return branching(body(node("Run", ["x"], ["inner"], domain="com.evil")), domains=["com.evil"])


@attack(UnsupportedModelError, "sparse arrays")
def sparse_array_in_a_body() -> ModelProto:
    inner = body()
    sparse = helper.make_sparse_tensor(constant("s1", [1.0], np.float32), constant("i1", [0]), [HUGE])
    inner.sparse_initializer.append(sparse)
    return branching(inner)


@attack(UnsupportedModelError, "references to attributes")
def reference_to_an_attribute_in_a_body() -> ModelProto:
    joined = node("Concat", ["x", "x"], ["inner"], axis=0)
    joined.attribute[0].ref_attr_name = "axis"
    return branching(body(joined))


@attack(UnsupportedModelError, "references to attributes")
def reference_in_place_of_a_body() -> ModelProto:
    made = branching(body())
    made.graph.node[-1].attribute[0].ref_attr_name = "body"
    return made


@attack(UnsupportedModelError, "'then': expected a tensor, found a sequence")
def sequence_in_a_body() -> ModelProto:
    inner = body(node("SequenceConstruct", ["x"], ["then"]), outputs=["then"])
    inner.output[0].type.sequence_type.elem_type.tensor_type.elem_type = 1
    return branching(inner)


@attack(UnsupportedModelError, "elements of type COMPLEX64")
def type_in_a_body_that_is_unknown() -> ModelProto:
    inner = trip(node("Relu", ["s"], ["t"]))
    inner.input[2].type.tensor_type.elem_type = TensorProto.COMPLEX64
    return looping(inner)


@attack(FormatError, "(ConstantOfShape): expected results of at most")
def constant_bomb_in_a_body() -> ModelProto:
    return looping(
        trip(node("ConstantOfShape", ["n"], ["big"]), node("Add", ["s", "big"], ["t"]), arrays=[constant("n", [HUGE])])
    )


@attack(FormatError, "(ConstantOfShape): expected results of at most")
def bodies_that_share_one_room() -> ModelProto:
    """Each is well within what constant parts may take; together they are not."""
    nodes = [node("ReduceMax", ["x"], ["most"], keepdims=0), node("Cast", ["most"], ["c"], to=TensorProto.BOOL)]
    for n in range(20):
        big = [node("ConstantOfShape", ["n"], [f"big{n}"]), node("Add", ["x", f"big{n}"], [f"inner{n}"])]
        other = body(node("Abs", ["x"], [f"other{n}"]), outputs=[f"other{n}"])
        nodes.append(node("If", ["c"], [f"z{n}"], then_branch=body(*big, outputs=[f"inner{n}"]), else_branch=other))
    nodes.append(node("Sum", [f"z{n}" for n in range(20)]))
    return model(nodes, [constant("n", [1 << 20])])


@attack(FormatError, "once they are packed for the kernels")
def packed_again_in_each_body() -> ModelProto:
    nodes = [node("Unsqueeze", ["x", "axes"], ["v"]), node("ConstantOfShape", ["n"], ["w"])]
    nodes += [node("ReduceMax", ["x"], ["most"], keepdims=0), node("Cast", ["most"], ["c"], to=TensorProto.BOOL)]
    for n in range(120):
        cell = [node("LSTM", ["v", "w", "w"], ["", f"h{n}"], hidden_size=128)]
        other = body(node("Identity", ["v"], [f"other{n}"]), outputs=[f"other{n}"])
        nodes.append(node("If", ["c"], [f"z{n}"], then_branch=body(*cell, outputs=[f"h{n}"]), else_branch=other))
    nodes += [node("Sum", [f"z{n}" for n in range(120)], ["sum"]), node("Squeeze", ["sum", "axes"])]
    return model(nodes, [constant("n", [1, 512, 128]), constant("axes", [0])])


@attack(FormatError, "cond: expected a truth value")
def condition_that_is_no_truth_value() -> ModelProto:
    return model([node("If", ["n"], then_branch=body(), else_branch=body())], [constant("n", 1)])


@attack(UnsupportedModelError, "references to attributes")
def reference_to_an_attribute() -> ModelProto:
    made = model([node("Concat", ["x", "x"], axis=0)])
    made.graph.node[0].attribute[0].ref_attr_name = "axis"
    return made


# --- Arrays -----------------------------------------------------------------------------------------------------------


@attack(UnsupportedModelError, "sparse arrays")
def sparse_initializer() -> ModelProto:
    made = sound()
    sparse = helper.make_sparse_tensor(constant("s", [1.0], np.float32), constant("i", [0]), [HUGE])
    made.graph.sparse_initializer.append(sparse)
    return made


@attack(UnsupportedModelError, "a sparse tensor")
def sparse_attribute() -> ModelProto:
    sparse = helper.make_sparse_tensor(constant("s", [1.0], np.float32), constant("i", [0]), [HUGE])
    return model([node("Constant", [], ["c"], sparse_value=sparse), node("Add", ["x", "c"])])


@attack(UnsupportedModelError, "elements of type STRING")
def text_array() -> ModelProto:
    return model([node("Add", ["x", "s"])], [helper.make_tensor("s", TensorProto.STRING, [1], [b"rm -rf"])])


@attack(UnsupportedModelError, "elements of type BFLOAT16")
def unknown_element_type() -> ModelProto:
    return weighted(lambda w: setattr(w, "data_type", TensorProto.BFLOAT16))


@attack(UnsupportedModelError, "elements of type 99")
def element_type_that_does_not_exist() -> ModelProto:
    return weighted(lambda w: setattr(w, "data_type", 99))


@attack(FormatError, "expected 36 bytes")
def raw_data_too_short() -> ModelProto:
    return weighted(lambda w: setattr(w, "raw_data", w.raw_data[:-1]))


@attack(FormatError, "expected 36 bytes")
def raw_data_too_long() -> ModelProto:
    return weighted(lambda w: setattr(w, "raw_data", w.raw_data + bytes(4)))


@attack(FormatError, "expected 4398046511104 bytes")
def shape_bomb() -> ModelProto:
    return weighted(lambda w: w.dims.__setitem__(slice(None), [HUGE]))


@attack(FormatError, "that memory can hold")
def shape_that_overflows() -> ModelProto:
    return weighted(lambda w: w.dims.__setitem__(slice(None), [1 << 62, 1 << 62]))


@attack(FormatError, "that memory can hold")
def empty_shape_that_overflows() -> ModelProto:
    return weighted(lambda w: w.dims.__setitem__(slice(None), [0, 1 << 62]))


@attack(FormatError, "found shape (-3, -3)")
def negative_shape() -> ModelProto:
    return weighted(lambda w: w.dims.__setitem__(slice(None), [-3, -3]))


@attack(FormatError, "at most 64 axes")
def too_many_axes() -> ModelProto:
    return weighted(lambda w: w.dims.__setitem__(slice(None), [1] * 63 + [3, 3]))


@attack(FormatError, "expected 9 elements for shape (3, 3), found 2")
def too_few_elements() -> ModelProto:
    def change(w: TensorProto) -> None:
        w.ClearField("raw_data")
        w.float_data.extend([1.0, 2.0])

    return weighted(change)


@attack(FormatError, "elements that int8 holds")
def elements_out_of_range() -> ModelProto:
    tensor = TensorProto(name="w", data_type=TensorProto.INT8, dims=[1], int32_data=[300])
    return model([node("Cast", ["w"], ["c"], to=1), node("Add", ["x", "c"])], [tensor])


@attack(FormatError, "a whole array")
def segment() -> ModelProto:
    return weighted(lambda w: setattr(w.segment, "begin", 0))


@attack(UnsupportedModelError, "found NaN")
def weights_that_are_no_numbers() -> ModelProto:
    return weighted(lambda w: setattr(w, "raw_data", np.full(9, np.nan, np.float32).tobytes()))


@attack(UnsupportedModelError, "expected finite weights")
def infinite_weights() -> ModelProto:
    return weighted(lambda w: setattr(w, "raw_data", np.full(9, np.inf, np.float32).tobytes()))


# --- What nodes would make --------------------------------------------------------------------------------------------


@attack(FormatError, "(ConstantOfShape): expected results of at most")
def constant_of_shape_bomb() -> ModelProto:
    return bomb("ConstantOfShape", ["s"], constant("s", [HUGE]))


@attack(FormatError, "(ConstantOfShape): expected results of at most")
def constant_of_negative_shape() -> ModelProto:
    return bomb("ConstantOfShape", ["s"], constant("s", [-1]))


@attack(FormatError, "(Expand): expected results of at most")
def expand_bomb() -> ModelProto:
    return bomb("Expand", ["one", "s"], constant("one", [1.0], np.float32), constant("s", [HUGE]))


@attack(FormatError, "(Tile): expected results of at most")
def tile_bomb() -> ModelProto:
    return bomb("Tile", ["one", "s"], constant("one", [1.0], np.float32), constant("s", [HUGE]))


@attack(FormatError, "(Range): expected results of at most")
def range_bomb() -> ModelProto:
    return bomb("Range", ["a", "b", "c"], constant("a", 0), constant("b", HUGE), constant("c", 1))


@attack(FormatError, "expected finite numbers")
def infinite_range() -> ModelProto:
    f = np.float32
    return bomb("Range", ["a", "b", "c"], constant("a", 0, f), constant("b", np.inf, f), constant("c", 1, f))


@attack(FormatError, "(Pad): expected results of at most")
def pad_bomb() -> ModelProto:
    return bomb("Pad", ["one", "s"], constant("one", [1.0], np.float32), constant("s", [0, HUGE]))


@attack(FormatError, "(OneHot): expected results of at most")
def one_hot_bomb() -> ModelProto:
    arrays = [constant("i", [1, 2]), constant("d", HUGE), constant("v", [0.0, 1.0], np.float32)]
    return bomb("OneHot", ["i", "d", "v"], *arrays)


@attack(FormatError, "(OneHot): expected results of at most")
def one_hot_of_nothing_bomb() -> ModelProto:
    arrays = [constant("i", np.zeros((2, 0), np.int64)), constant("d", HUGE), constant("v", [0.0, 1.0], np.float32)]
    return bomb("OneHot", ["i", "d", "v"], *arrays)


@attack(FormatError, "expected a shape that memory can hold")
def shape_behind_a_zero_bomb() -> ModelProto:
    array = constant("a", np.zeros((0, 1)), np.float32)
    array.dims[1] = HUGE
    return bomb("ReduceMax", ["a"], array, axes=[0])


@attack(FormatError, "(Gather): expected results of at most")
def gather_bomb() -> ModelProto:
    arrays = [constant("a", np.ones((1, 10_000)), np.float32), constant("i", np.zeros(10_000, np.int64))]
    return bomb("Gather", ["a", "i"], *arrays)


@attack(FormatError, "(Add): expected results of at most")
def broadcast_bomb() -> ModelProto:
    arrays = [constant("a", np.ones((1, 10_000)), np.float32), constant("b", np.ones((10_000, 1)), np.float32)]
    return bomb("Add", ["a", "b"], *arrays)


@attack(FormatError, "(MatMul): expected results of at most")
def product_bomb() -> ModelProto:
    arrays = [constant("a", np.ones((10_000, 1)), np.float32), constant("b", np.ones((1, 10_000)), np.float32)]
    return bomb("MatMul", ["a", "b"], *arrays)


@attack(FormatError, "(Concat): expected results of at most")
def doubling() -> ModelProto:
    nodes = [node("Concat", [f"v{n}"] * 2, [f"v{n + 1}"], axis=0) for n in range(60)]
    return model([*nodes, node("Add", ["x", "v60"])], [constant("v0", np.ones(16), np.float32)])


@attack(FormatError, "once they are packed for the kernels")
def packed_again_and_again() -> ModelProto:
    """One array, made of nothing, as the weights of many nodes that are none of them the same."""
    nodes = [node("ConstantOfShape", ["s"], ["w"])]
    for n in range(120):
        nodes.append(node("LSTM", [f"v{n}", "w", "w"], ["", f"h{n}"], hidden_size=128, clip=1.0 + n))
        nodes.append(node("Squeeze", [f"h{n}", "axes"], [f"s{n}"]))
        nodes.append(node("Unsqueeze", [f"s{n}", "axes"], [f"v{n + 1}"]))
    nodes += [node("Unsqueeze", ["x", "axes"], ["v0"]), node("Squeeze", ["v120", "axes"])]
    return model(nodes, [constant("s", [1, 512, 128]), constant("axes", [0])])


@attack(FormatError, "(MatMul): its inputs do not fit")
def product_of_many_axes() -> ModelProto:
    arrays = [constant("a", np.ones((1,) * 61 + (2,)), np.float32), constant("b", np.ones((2, 2)), np.float32)]
    return bomb("MatMul", ["a", "b"], *arrays)


@attack(FormatError, "(Split)")
def split_bomb() -> ModelProto:
    arrays = [constant("a", np.ones(4), np.float32), constant("s", [HUGE, 4 - HUGE])]
    return model([node("Split", ["a", "s"], ["b", "c"], axis=0), node("Add", ["x", "b"])], arrays)


@attack(FormatError, "expected indices from")
def gather_out_of_range() -> ModelProto:
    return bomb("Gather", ["a", "i"], constant("a", np.ones(4), np.float32), constant("i", [1 << 50]))


@attack(FormatError, "(Reshape)")
def reshape_to_another_size() -> ModelProto:
    return bomb("Reshape", ["a", "s"], constant("a", np.ones(4), np.float32), constant("s", [HUGE, HUGE]))


@attack(FormatError, "expected divisors other than zero")
def division_by_zero() -> ModelProto:
    return bomb("Div", ["a", "b"], constant("a", [1]), constant("b", [0]))


# --- Graphs -----------------------------------------------------------------------------------------------------------


@attack(FormatError, "without cycles")
def cycle() -> ModelProto:
    return model([node("Add", ["x", "b"], ["a"]), node("Relu", ["a"], ["b"]), node("Relu", ["b"])])


@attack(FormatError, "without cycles")
def node_that_feeds_itself() -> ModelProto:
    return model([node("Add", ["x", "y"])])


@attack(FormatError, "found two")
def value_made_twice() -> ModelProto:
    return model([node("Relu", ["x"]), node("Abs", ["x"])])


@attack(FormatError, "two arrays of this name")
def array_given_twice() -> ModelProto:
    made = sound()
    made.graph.initializer.append(made.graph.initializer[0])
    return made


@attack(FormatError, "node 'w' (Relu): makes 'w' again")
def array_that_a_node_makes() -> ModelProto:
    return model([node("Relu", ["x"], ["w"]), node("Add", ["x", "w"])], [constant("w", [1.0], np.float32)])


@attack(FormatError, "'x': expected it to be given once")
def input_given_twice() -> ModelProto:
    return model([node("Relu", ["x"])], inputs=["x", "x"])


@attack(FormatError, "value 'w': expected an input, an array or a node")
def array_missing() -> ModelProto:
    return model([node("Add", ["x", "w"])])


@attack(FormatError, "value 'z': expected an input, an array or a node")
def output_missing() -> ModelProto:
    return model([node("Relu", ["x"])], outputs=["y", "z"])


@attack(FormatError, "at least one output")
def no_output() -> ModelProto:
    return model([node("Relu", ["x"])], outputs=[])


@attack(FormatError, "names of at most")
def endless_name() -> ModelProto:
    long = "n" * 5000
    return model([node("Relu", ["x"], [long]), node("Relu", [long])])


@attack(FormatError, "found it twice")
def attribute_given_twice() -> ModelProto:
    made = model([node("Concat", ["x", "x"], axis=0)])
    made.graph.node[0].attribute.append(made.graph.node[0].attribute[0])
    return made


@attack(FormatError, "'axis': expected a int, found none")
def attribute_missing() -> ModelProto:
    return model([node("Concat", ["x", "x"])])


@attack(FormatError, "'axis': expected a int")
def attribute_of_another_type() -> ModelProto:
    return model([node("Concat", ["x", "x"], axis="0")])


@attack(UnsupportedModelError, "a value of type 0")
def attribute_without_a_type() -> ModelProto:
    made = model([node("Concat", ["x", "x"], axis=0)])
    made.graph.node[0].attribute[0].type = AttributeProto.UNDEFINED
    return made


@attack(UnsupportedModelError, "attributes 'secret' are not supported")
def attribute_that_is_unknown() -> ModelProto:
    return model([node("Relu", ["x"], secret=1)])


@attack(FormatError, "expected 2 to 2 inputs")
def too_few_inputs() -> ModelProto:
    return model([node("MatMul", ["x"])])


@attack(FormatError, "expected 2 to 2 inputs")
def input_left_out() -> ModelProto:
    return model([node("MatMul", ["x", ""])])


@attack(FormatError, "found none")
def input_without_a_shape() -> ModelProto:
    made = sound()
    made.graph.input[0].type.tensor_type.ClearField("shape")
    return made


@attack(UnsupportedModelError, "a sequence, map or optional")
def input_that_is_a_sequence() -> ModelProto:
    made = sound()
    made.graph.input[0].type.sequence_type.elem_type.tensor_type.elem_type = 1
    return made


# --- Versions and damage ----------------------------------------------------------------------------------------------


@attack(UnsupportedModelError, "from 7 to")
def opset_too_old() -> ModelProto:
    return model([node("Relu", ["x"])], opset=6)


@attack(UnsupportedModelError, "from 7 to")
def opset_too_new() -> ModelProto:
    return model([node("Relu", ["x"])], opset=1000)


@attack(FormatError, "found none")
def opset_missing() -> ModelProto:
    made = sound()
    made.ClearField("opset_import")
    return made


@attack(FormatError, "one version of ONNX's operators")
def opset_given_twice() -> ModelProto:
    made = sound()
    made.opset_import.append(made.opset_import[0])
    return made


@attack(FormatError, "no graph")
def no_graph() -> ModelProto:
    made = sound()
    made.ClearField("graph")
    return made


@attack(FormatError, "cut off or damaged")
def truncated() -> bytes:
    return sound().SerializeToString()[:-20]


@attack(FormatError, "damaged data")
def field_of_an_old_kind() -> bytes:
    return b"\x08\x09\x12\x01a" + b"\x3b" * 20


@attack(FormatError, "bytes that are no text")
def name_that_is_no_text() -> bytes:
    return sound().SerializeToString().replace(b"MatMul", b"MatM\xff\xff")


@attack(FormatError, "together, found more")
def empty_messages() -> bytes:
    # A node of two bytes becomes an object of more than a hundred.
    many = b"\x0a\x00" * 600_000
    return b"\x08\x09\x12\x01a\x3a" + _varint(len(many)) + many


@attack(FormatError, "together, found more")
def packed_numbers() -> bytes:
    # A number of one byte becomes one of eight.
    packed = b"\x3a" + _varint(4_000_000) + b"\x01" * 4_000_000
    tensor = b"\x2a" + _varint(len(packed)) + packed
    return b"\x08\x09\x12\x01a\x3a" + _varint(len(tensor)) + tensor


@attack(FormatError, "damaged")
def graphs_in_graphs() -> bytes:
    graph = b""
    for _ in range(200):
        attribute = b"\x32" + _varint(len(graph)) + graph
        inner = b"\x2a" + _varint(len(attribute)) + attribute
        graph = b"\x0a" + _varint(len(inner)) + inner
    return b"\x08\x09\x12\x01a\x3a" + _varint(len(graph)) + graph


def _varint(value: int) -> bytes:
    data = bytearray()
    while value >= 0x80:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*data, value))
