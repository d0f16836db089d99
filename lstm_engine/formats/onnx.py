"""ONNX files: the protobuf is parsed by the onnx package, checked, and turned into plain data.

External data is never followed: a model whose arrays lie in other files is refused. Nothing of the file is run:
functions and operators of domains that are not known are refused by name, all together. Graphs in nodes, the bodies of
loops and branches, are read as the graph itself is, and share its caps.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from lstm_engine.errors import FormatError, LstmEngineError, UnsafeFileError, UnsupportedModelError, raise_together
from lstm_engine.onnx.graph import Attribute, OnnxBody, OnnxGraph, OnnxNode, OnnxValue, graphs

from .content import read_head, read_whole
from .limits import MAX_BODIES, MAX_RANK, WAY_OUT, current_limits, nonfinite_allowed, tensor_room
from .onnx_wire import check_wire

if TYPE_CHECKING:
    from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

__all__ = ["NEWEST_OPSET", "OLDEST_OPSET", "parse_onnx", "read_onnx", "read_onnx_bytes"]

Array = NDArray[Any]

#: Protobuf's own limit on the size of a message.
_MAX_BYTES: Final = (1 << 31) - 1

#: Versions of ONNX's own operators that are known: those from 7 on share the broadcasting of NumPy.
OLDEST_OPSET: Final = 7
NEWEST_OPSET: Final = 28

#: Codes of ``TensorProto.DataType``: dtype, and the field that holds the elements where there is no raw_data.
_DTYPES: Final = {
    1: ("float32", "float_data"),
    2: ("uint8", "int32_data"),
    3: ("int8", "int32_data"),
    4: ("uint16", "int32_data"),
    5: ("int16", "int32_data"),
    6: ("int32", "int32_data"),
    7: ("int64", "int64_data"),
    9: ("bool", "int32_data"),
    10: ("float16", "int32_data"),
    11: ("float64", "double_data"),
    12: ("uint32", "uint64_data"),
    13: ("uint64", "uint64_data"),
}

#: Codes of ``AttributeProto.AttributeType``: how the value is taken.
_ATTRIBUTES: Final[dict[int, Callable[[Any], Attribute]]] = {
    1: lambda a: float(a.f),
    2: lambda a: int(a.i),
    3: lambda a: _text(a.s),
    6: lambda a: tuple(a.floats),
    7: lambda a: tuple(a.ints),
    8: lambda a: tuple(map(_text, a.strings)),
}
_TENSOR: Final = 4
_GRAPH: Final = 5
_REFUSED_ATTRIBUTES: Final = {10: "a list of graphs", 9: "several tensors", 11: "a sparse tensor"}


def _text(value: bytes) -> str:
    return value.decode("utf-8", "backslashreplace")


class _Problems:
    """What was found wrong, by the kind of error; all of it is reported at once."""

    def __init__(self) -> None:
        self.unsafe: list[str] = []
        self.unsupported: list[str] = []
        self.damaged: list[str] = []

    def add(self, error: LstmEngineError) -> None:
        kinds = {UnsafeFileError: self.unsafe, UnsupportedModelError: self.unsupported}
        kinds.get(type(error), self.damaged).append(str(error))

    def report(self, source: str) -> None:
        """Raise the gravest error, if there is any."""
        raise_together(UnsafeFileError, source, self.unsafe)
        raise_together(FormatError, source, self.damaged)
        raise_together(UnsupportedModelError, source, self.unsupported)


def read_onnx(path: str | os.PathLike[str]) -> OnnxGraph:
    """Read an ONNX file.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    OnnxGraph
        What it says.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    LstmEngineError
        If the package onnx is missing.
    FormatError
        If the file is damaged: names made twice or never, cycles, arrays of another size than their shape says.
    UnsupportedModelError
        If it asks for what is not implemented.
    UnsafeFileError
        If its arrays lie in other files.
    """
    _, size = read_head(path)
    source = os.fsdecode(path)
    if size > _MAX_BYTES:
        raise FormatError(f"{source}: expected at most {_MAX_BYTES} bytes, as protobuf allows, found {size}")
    return read_onnx_bytes(read_whole(path), source)


def read_onnx_bytes(data: bytes, source: str) -> OnnxGraph:
    """Read an ONNX model from bytes; see :func:`read_onnx`."""
    return _Reader(parse_onnx(data, source), source, len(data)).read()


def parse_onnx(data: bytes, source: str) -> ModelProto:
    """Return the protobuf of an ONNX model; of what it says nothing is checked.

    Raises
    ------
    LstmEngineError
        If the package onnx is missing.
    FormatError
        If the bytes are no ONNX model, or would unfold to too much.
    """
    try:
        from google.protobuf.message import DecodeError
        from onnx import ModelProto
    except ImportError as error:
        raise LstmEngineError(
            f"{source}: expected the package onnx, which reads ONNX files, found none; "
            "install it with: pip install lstm-engine[onnx]"
        ) from error
    check_wire(data, source)
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        raise FormatError(
            f"{source}: expected an ONNX model, found damaged data ({error}); export or download it again"
        ) from None
    if not model.HasField("graph"):
        raise FormatError(f"{source}: expected an ONNX model, found no graph in it; export or download it again")
    return model


class _Reader:
    """Turns one parsed model into plain data."""

    def __init__(self, model: ModelProto, source: str, file_bytes: int) -> None:
        self.model, self.source, self.file_bytes = model, source, file_bytes
        self.problems = _Problems()
        self.limits = current_limits()
        self.room = tensor_room(file_bytes)
        self.arrays = 0

    def read(self) -> OnnxGraph:
        graph = self.model.graph
        opset = self._opset()
        for function in self.model.functions:
            self.problems.unsupported.append(
                f"function {function.domain}.{function.name}: functions of a model's own are not supported; inline "
                "them with onnx.inliner.inline_local_functions and save the model again"
            )
        nodes, arrays = self._parts(graph, 0)
        inputs = self._values((value for value in graph.input if value.name not in arrays), "input")
        outputs = self._values(graph.output, "output")
        if not len(graph.output):
            self.problems.damaged.append("expected at least one output of the graph, found none")
        self.problems.report(self.source)
        producer = f"{self.model.producer_name} {self.model.producer_version}".strip()
        ignored = [f"unused array {tensor.name!r}" for tensor in graph.initializer if tensor.name not in arrays]
        ignored += ["training information"] if len(self.model.training_info) else []
        read = OnnxGraph(
            source=self.source,
            file_bytes=self.file_bytes,
            producer=producer,
            name=graph.name or "graph",
            opset=opset,
            inputs=inputs,
            outputs=outputs,
            initializers=arrays,
            nodes=nodes,
            ignored=tuple(ignored),
        )
        inferred = tuple(
            f"{node.describe()}: its 8-bit weights are used exactly, its inputs and states are not quantized"
            for inner in graphs(read)
            for node in inner.nodes
            if node.operator == "com.microsoft.DynamicQuantizeLSTM"
        )
        return replace(read, inferred=inferred)

    def _opset(self) -> int:
        versions = [entry.version for entry in self.model.opset_import if entry.domain in ("", "ai.onnx")]
        if len(versions) != 1:
            raise FormatError(
                f"{self.source}: expected one version of ONNX's operators (opset_import), found {versions or 'none'}"
            )
        if not OLDEST_OPSET <= versions[0] <= NEWEST_OPSET:
            raise UnsupportedModelError(
                f"{self.source}: expected a version of ONNX's operators from {OLDEST_OPSET} to {NEWEST_OPSET}, found "
                f"{versions[0]}; convert the model with onnx.version_converter, or export it with another opset_version"
            )
        return int(versions[0])

    # --- Nodes ----------------------------------------------------------------------------------------------------

    def _parts(self, graph: GraphProto, depth: int) -> tuple[tuple[OnnxNode, ...], dict[str, Array]]:
        """Return the nodes and arrays of a graph that stands in ``depth`` others."""
        self.arrays += len(graph.initializer)
        if self.arrays > self.limits.tensors:
            raise FormatError(
                f"{self.source}: expected at most {self.limits.tensors:,} arrays, found {self.arrays:,}; "
                + WAY_OUT.format("tensors")
            )
        if depth > MAX_BODIES:
            raise FormatError(f"{self.source}: expected at most {MAX_BODIES} graphs in graphs, found more")
        for tensor in graph.sparse_initializer:
            self.problems.unsupported.append(
                f"array {tensor.values.name!r}: sparse arrays are not supported; store it as a dense initializer"
            )
        nodes = self._nodes(graph, depth)
        used = {name for node in nodes for name in node.needs} | {value.name for value in graph.output}
        arrays = self._initializers(graph, used)
        if any(
            len(name) > self.limits.name_length for name in (*used, *(name for node in nodes for name in node.outputs))
        ):
            self.problems.damaged.append(
                f"expected names of at most {self.limits.name_length:,} characters, found a longer one; "
                + WAY_OUT.format("name_length")
            )
        return nodes, arrays

    def _body(self, graph: GraphProto, depth: int) -> OnnxBody:
        nodes, arrays = self._parts(graph, depth)
        inputs, outputs = (self._values(ends, "value", bare=True) for ends in (graph.input, graph.output))
        return OnnxBody(graph.name, inputs, outputs, arrays, nodes)

    def _nodes(self, graph: GraphProto, depth: int) -> tuple[OnnxNode, ...]:
        """Return the nodes that the outputs need, in an order in which every node finds its inputs ready."""
        makers: dict[str, int] = {}
        for place, node in enumerate(graph.node):
            for name in node.output:
                if name and makers.setdefault(name, place) != place:
                    self.problems.damaged.append(f"value {name!r}: expected one node that makes it, found two")
        order: list[OnnxNode] = []
        read: dict[int, OnnxNode] = {}
        state: dict[int, bool] = {}  # False while the inputs of a node are being looked at, True when it is placed
        waiting = [makers[value.name] for value in reversed(graph.output) if value.name in makers]
        while waiting:
            place = waiting[-1]
            if place in state:
                waiting.pop()
                if not state[place]:
                    state[place] = True
                    order.append(read[place])
                continue
            state[place] = False
            read[place] = self._node(graph.node[place], depth)
            for name in reversed(read[place].needs):
                before = makers.get(name)
                if before is None or state.get(before):
                    continue
                if before in state:
                    self.problems.damaged.append(f"value {name!r}: expected a graph without cycles, found one here")
                    self.problems.report(self.source)
                waiting.append(before)
        return tuple(order)

    def _node(self, node: NodeProto, depth: int) -> OnnxNode:
        domain = "" if node.domain in ("", "ai.onnx") else f"{node.domain}."
        attributes: dict[str, Attribute] = {}
        bodies: dict[str, OnnxBody] = {}
        plain = OnnxNode(node.name, domain + node.op_type, tuple(node.input), tuple(node.output), attributes, bodies)
        for attribute in node.attribute:
            known = attribute.name in attributes or attribute.name in bodies
            if attribute.type == _GRAPH and not (known or attribute.ref_attr_name):
                bodies[attribute.name] = self._body(attribute.g, depth + 1)
                continue
            try:
                if known:
                    raise FormatError(f"attribute {attribute.name!r}: expected it once, found it twice")
                attributes[attribute.name] = self._attribute(attribute)
            except LstmEngineError as error:
                self.problems.add(type(error)(f"{plain.describe()}: {error}"))
        return plain

    def _attribute(self, attribute: AttributeProto) -> Attribute:
        if attribute.ref_attr_name:
            raise UnsupportedModelError(f"attribute {attribute.name!r}: references to attributes are not supported")
        if attribute.type == _TENSOR:
            return self._array(attribute.t)
        take = _ATTRIBUTES.get(attribute.type)
        if take is None:
            what = _REFUSED_ATTRIBUTES.get(attribute.type, f"a value of type {attribute.type}")
            raise UnsupportedModelError(f"attribute {attribute.name!r}: {what} is not supported")
        return take(attribute)

    # --- Arrays ---------------------------------------------------------------------------------------------------

    def _initializers(self, graph: GraphProto, used: set[str]) -> dict[str, Array]:
        arrays: dict[str, Array] = {}
        names: set[str] = set()
        for tensor in graph.initializer:
            if not tensor.name or tensor.name in names:
                self.problems.damaged.append(
                    f"array {tensor.name!r}: expected a name of its own, found "
                    f"{'two arrays of this name' if tensor.name else 'none'}"
                )
            names.add(tensor.name)
            if tensor.name not in used:
                continue
            try:
                arrays[tensor.name] = self._array(tensor)
            except LstmEngineError as error:
                self.problems.add(type(error)(f"array {tensor.name!r}: {error}"))
                arrays[tensor.name] = np.empty(0, np.float32)
        return arrays

    def _array(self, tensor: TensorProto) -> Array:
        """Return a tensor's elements, read-only; nothing is allocated before its sizes are checked."""
        if tensor.data_location != 0 or len(tensor.external_data):
            raise UnsafeFileError(
                "expected the elements in the model's own file, found a reference to another file, which is never "
                'followed; save the model in one piece: onnx.save(onnx.load("model.onnx"), "whole.onnx")'
            )
        if tensor.data_type not in _DTYPES:
            raise UnsupportedModelError(
                f"elements of type {_type_name(tensor.data_type)} are not supported; convert the model to float32"
            )
        dtype, field = _DTYPES[tensor.data_type]
        native = np.dtype(dtype)
        shape = tuple(tensor.dims)
        if tensor.HasField("segment") or len(shape) > MAX_RANK or any(size < 0 for size in shape):
            raise FormatError(f"expected a whole array of at most {MAX_RANK} axes, found shape {shape}")
        if math.prod(size or 1 for size in shape) * native.itemsize >= 1 << 62:
            raise FormatError(f"expected a shape that memory can hold, found {shape}")
        count = math.prod(shape)
        if tensor.HasField("raw_data"):
            raw = tensor.raw_data
            if len(raw) != count * native.itemsize:
                raise FormatError(
                    f"expected {count * native.itemsize} bytes for shape {shape} of {dtype}, found {len(raw)}"
                )
            self._take(len(raw))
            array: Array = np.frombuffer(raw, native.newbyteorder("<")).reshape(shape)
            if dtype == "bool":
                array = np.frombuffer(raw, np.uint8).reshape(shape) != 0
            elif not array.flags.aligned or not array.dtype.isnative:
                array = array.astype(native)
        else:
            elements = getattr(tensor, field)
            if len(elements) != count:
                raise FormatError(f"expected {count} elements for shape {shape}, found {len(elements)}")
            self._take(count * native.itemsize)
            array = self._from_elements(elements, native, field).reshape(shape)
        if native.kind == "f" and not nonfinite_allowed() and np.isnan(array).any():
            raise UnsupportedModelError("expected numbers, found NaN; export the model again from a sound checkpoint")
        array.setflags(write=False)
        return array

    @staticmethod
    def _from_elements(elements: Any, native: np.dtype[Any], field: str) -> Array:
        if field in ("float_data", "double_data"):
            return np.array(elements, native)
        wide = np.array(elements, np.uint64 if field == "uint64_data" else np.int64)
        narrow = np.dtype(np.uint16) if native == np.float16 else native
        if native.kind == "b":
            return np.asarray(wide != 0)
        bounds = np.iinfo(narrow)
        if wide.size and not (bounds.min <= int(wide.min()) and int(wide.max()) <= bounds.max):
            raise FormatError(f"expected elements that {native} holds, found {wide.min()} to {wide.max()}")
        array: Array = wide.astype(narrow).view(native)
        return array

    def _take(self, size: int) -> None:
        self.room -= size
        if self.room < 0:
            raise FormatError(
                f"expected arrays of at most {self.limits.of_tensors(self.file_bytes):,} bytes together, found more; "
                + WAY_OUT.format("tensor_bytes")
            )

    # --- Inputs and outputs ---------------------------------------------------------------------------------------

    def _values(self, values: Iterable[ValueInfoProto], kind: str, bare: bool = False) -> tuple[OnnxValue, ...]:
        """Return inputs or outputs; ``bare`` ones, of a body, may be without a type or a shape."""
        found: list[OnnxValue] = []
        for value in values:
            described = f"{kind} {value.name!r}"
            tensor = value.type.tensor_type
            axes = tuple(
                (size if (size := dim.dim_value) >= 0 else None) if dim.HasField("dim_value") else dim.dim_param or None
                for dim in tensor.shape.dim
            )
            if value.type.WhichOneof("value") not in ("tensor_type", None):
                self.problems.unsupported.append(f"{described}: expected a tensor, found a sequence, map or optional")
            elif tensor.elem_type not in _DTYPES and not (bare and not tensor.elem_type):
                self.problems.unsupported.append(
                    f"{described}: elements of type {_type_name(tensor.elem_type)} are not supported"
                )
            elif not (bare or tensor.HasField("shape")) or len(axes) > MAX_RANK:
                self.problems.damaged.append(
                    f"{described}: expected a shape of at most {MAX_RANK} axes (open sizes allowed), found "
                    f"{len(axes) or 'none'}"
                )
            found.append(OnnxValue(value.name, _DTYPES.get(tensor.elem_type, ("",))[0], axes))
        return tuple(found)


def _type_name(code: int) -> str:
    """Return ONNX's name of an element type."""
    from onnx import TensorProto

    names: dict[int, str] = {number: name for name, number in TensorProto.DataType.items()}
    return names.get(code, str(code))
