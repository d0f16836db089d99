"""What an ONNX file says, as plain data: names, attributes and arrays, nothing of the protobuf."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from lstm_engine.errors import FormatError, raise_together
from lstm_engine.formats.limits import MAX_BODIES, current_limits

__all__ = ["ELEMENT_TYPES", "Attribute", "OnnxBody", "OnnxGraph", "OnnxNode", "OnnxValue", "check_graph", "graphs"]

#: Value of an attribute: a number, a text, a tuple of either, or an array.
Attribute = int | float | str | tuple[int, ...] | tuple[float, ...] | tuple[str, ...] | NDArray[Any]

#: Types that a value may have, by NumPy's names.
ELEMENT_TYPES: Final = frozenset(
    {
        *("bool", "float16", "float32", "float64", "int8", "int16", "int32", "int64"),
        *("uint8", "uint16", "uint32", "uint64"),
    }
)


@dataclass(frozen=True, slots=True)
class OnnxValue:
    """An input or output of a graph.

    Parameters
    ----------
    name
        Its name.
    dtype
        NumPy's name of its type, such as ``"float32"``: one of :data:`ELEMENT_TYPES`; empty where a body does not say.
    axes
        For each axis its size, the name of an open size, or None for an open size without a name; none where a body
        does not say.
    """

    name: str
    dtype: str
    axes: tuple[int | str | None, ...]

    @property
    def shape(self) -> tuple[int | None, ...]:
        """The axes, None for every open size."""
        return tuple(axis if isinstance(axis, int) else None for axis in self.axes)


@dataclass(frozen=True, slots=True, eq=False)
class OnnxNode:
    """One node of a graph.

    Parameters
    ----------
    name
        Its name; empty for none.
    operator
        The operator's name; those of other domains than ONNX's own with the domain before it, as in
        ``com.microsoft.DynamicQuantizeLSTM``.
    inputs, outputs
        Names of values; empty for an optional one that is absent.
    attributes
        By name.
    bodies
        The graphs that it runs, by the name of the attribute.
    """

    name: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Attribute]
    bodies: Mapping[str, OnnxBody] = field(default_factory=dict)

    @property
    def captured(self) -> tuple[str, ...]:
        """Names of values that its bodies take from the graph around it."""
        return tuple(dict.fromkeys(name for body in self.bodies.values() for name in body.captured))

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of all values that must be there before it runs."""
        return (*filter(None, self.inputs), *self.captured)

    def describe(self) -> str:
        """Return how messages name the node."""
        return f"node {self.name or next((name for name in self.outputs if name), '')!r} ({self.operator})"


@dataclass(frozen=True, slots=True, eq=False)
class OnnxBody:
    """A graph inside of a node. It sees the values of the graphs around it, and no name of theirs is made again in it.

    Parameters
    ----------
    name
        Its name.
    inputs, outputs
        What the node gives it and takes from it, in order.
    initializers
        Arrays of its own by name, read-only.
    nodes
        In an order in which every node finds its inputs ready; without those that no output needs.
    """

    name: str
    inputs: tuple[OnnxValue, ...]
    outputs: tuple[OnnxValue, ...]
    initializers: Mapping[str, NDArray[Any]]
    nodes: tuple[OnnxNode, ...]

    @property
    def captured(self) -> tuple[str, ...]:
        """Names of values that it takes from the graphs around it."""
        used = dict.fromkeys(name for node in self.nodes for name in node.needs)
        used.update(dict.fromkeys(value.name for value in self.outputs))
        made = {name for node in self.nodes for name in node.outputs}
        made.update(self.initializers, (value.name for value in self.inputs))
        return tuple(name for name in used if name not in made)


@dataclass(frozen=True, slots=True, eq=False)
class OnnxGraph:
    """A graph: every name is made once, and every name that is used is made.

    Parameters
    ----------
    source
        The file's path, for messages.
    file_bytes
        Its size.
    producer
        What wrote it, with the version.
    name
        The graph's name.
    opset
        Version of ONNX's own operators.
    inputs, outputs
        What goes in and comes out, in the graph's order.
    initializers
        The file's arrays by name, read-only.
    nodes
        In an order in which every node finds its inputs ready; without those that no output needs.
    inferred
        One sentence for each thing that is computed otherwise than the file says.
    ignored
        One phrase for each part of the file that does not matter at inference.
    """

    source: str
    file_bytes: int
    producer: str
    name: str
    opset: int
    inputs: tuple[OnnxValue, ...]
    outputs: tuple[OnnxValue, ...]
    initializers: Mapping[str, NDArray[Any]]
    nodes: tuple[OnnxNode, ...]
    inferred: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()


def graphs(graph: OnnxGraph | OnnxBody) -> Iterator[OnnxGraph | OnnxBody]:
    """Return a graph and all graphs in it."""
    yield graph
    for node in graph.nodes:
        for body in node.bodies.values():
            yield from graphs(body)


def check_graph(graph: OnnxGraph) -> None:
    """Raise FormatError unless a graph is sound, those inside of it included."""
    problems: list[str] = []
    _check_names(graph, (), problems)
    # Their reader has no bytes of empty arrays to count, and what a node makes of them may be without the 0.
    room = current_limits().of_tensors(graph.file_bytes)
    for inner in graphs(graph) if not problems else ():
        arrays = [(f"array {name!r:.100}", array) for name, array in inner.initializers.items()]
        arrays += [
            (f"{node.describe()}: attribute {name!r}", value)
            for node in inner.nodes
            for name, value in node.attributes.items()
            if isinstance(value, np.ndarray)
        ]
        problems += [
            f"{described}: expected a shape that memory can hold, found {array.shape}"
            for described, array in arrays
            if 0 in array.shape and math.prod(size or 1 for size in array.shape) * array.itemsize > room
        ]
    raise_together(FormatError, graph.source, problems)


def _check_names(
    graph: OnnxGraph | OnnxBody, around: tuple[tuple[set[str], set[str]], ...], problems: list[str]
) -> None:
    """Find what is not made once and before it is used, and ends of unknown types.

    ``around`` has for each graph around it the names in it, and those that are made before.
    """
    if len(around) > MAX_BODIES:
        problems.append(f"expected at most {MAX_BODIES} graphs in graphs, found more")
        return
    problems += [
        f"{value.name!r}: expected an element type of {', '.join(sorted(ELEMENT_TYPES))}, found {value.dtype!r:.40}"
        for value in (*graph.inputs, *graph.outputs)
        if value.dtype not in ELEMENT_TYPES and (value.dtype or not around)
    ]
    given = Counter([*(value.name for value in graph.inputs), *graph.initializers])
    problems += [f"{name!r}: expected it to be given once, found it twice" for name in given if given[name] > 1]
    made = set(given)
    own = made.union(name for node in graph.nodes for name in node.outputs if name)
    problems += [
        f"{name!r}: expected a name that no graph around has, found it there"
        for name in sorted(own)
        if any(name in names for names, _ in around)
    ]
    levels = (*around, (own, made))

    def are_made(names: Iterable[str], where: str) -> bool:
        missing = [name for name in dict.fromkeys(names) if not any(name in before for _, before in levels)]
        problems.extend(
            f"value {name!r}: expected an input, an array or a node that makes it before {where}, found none"
            for name in missing
        )
        return not missing

    for node in graph.nodes:
        for body in node.bodies.values() if are_made(node.needs, node.describe()) else ():
            _check_names(body, levels, problems)
        outputs = [name for name in node.outputs if name]
        problems += [f"{node.describe()}: makes {name!r} again" for name in outputs if name in made]
        made.update(outputs)
    are_made((value.name for value in graph.outputs), "the end")
