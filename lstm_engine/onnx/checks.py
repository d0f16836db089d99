"""What is checked of a graph, the graphs inside of it included, before anything of it is computed."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np

from lstm_engine.errors import FormatError, UnsupportedModelError, raise_together
from lstm_engine.formats.limits import MAX_BODIES, current_limits

from .graph import ELEMENT_TYPES, OnnxBody, OnnxGraph, OnnxNode, graphs
from .table import OPERATORS

__all__ = ["check_graph"]


def check_graph(graph: OnnxGraph) -> None:
    """Raise an error unless a graph is sound and all of its operators are known.

    Raises
    ------
    UnsupportedModelError
        If operators or attributes are not implemented: all of them are named.
    FormatError
        If values are not made once and before they are used, or nodes do not fit their operators.
    """
    _check_empty_arrays(graph)
    problems: list[str] = []
    _check_order(graph, (), problems)
    raise_together(FormatError, graph.source, problems)
    _check_operators(graph)


def _check_empty_arrays(graph: OnnxGraph) -> None:
    """Raise FormatError for empty arrays whose sizes other than 0 are beyond what a file may ask for.

    Their reader has no bytes of them to count, and what a node makes of them may be without the 0.
    """
    room = current_limits().of_tensors(graph.file_bytes)
    problems = []
    for inner in graphs(graph):
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


def _check_order(
    graph: OnnxGraph | OnnxBody, around: tuple[tuple[set[str], set[str]], ...], problems: list[str]
) -> None:
    """Find what is not made once and before it is used, and what has an unknown type.

    The reader of ONNX files sees to it; a graph may come from another file too.

    Parameters
    ----------
    graph
        Any graph.
    around
        For each graph around it the names in it, and those of them that are made before.
    problems
        Gets a sentence for each.
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

    def missing(name: str) -> bool:
        return not any(name in before for _, before in levels)

    for node in graph.nodes:
        lost = [name for name in dict.fromkeys(node.needs) if missing(name)]
        problems += [
            f"{node.describe()}: expected inputs that are made before it, found none for {name!r}" for name in lost
        ]
        for body in () if lost else node.bodies.values():
            _check_order(body, levels, problems)
        outputs = [name for name in node.outputs if name]
        problems += [f"{node.describe()}: makes {name!r} again" for name in outputs if name in made]
        made.update(outputs)
    problems += [
        f"output {value.name!r}: expected a value that is made, found none"
        for value in graph.outputs
        if missing(value.name)
    ]


def _check_operators(graph: OnnxGraph) -> None:
    """Raise an error that names all operators that are not known, and all nodes that do not fit theirs."""
    unknown: dict[str, list[OnnxNode]] = {}
    damaged: list[str] = []
    refused: list[str] = []
    for inner in graphs(graph):
        for node in inner.nodes:
            known = OPERATORS.get(node.operator)
            if known is None:
                unknown.setdefault(node.operator, []).append(node)
                continue
            try:
                known.check(node, graph.opset)
            except FormatError as error:
                damaged.append(f"{node.describe()}: {error}")
            except UnsupportedModelError as error:
                refused.append(f"{node.describe()}: {error}")
    problems = [
        f"operator {name!r} is not supported ({len(nodes)} time{'s' if len(nodes) > 1 else ''}, first in "
        f"{nodes[0].describe()})"
        for name, nodes in unknown.items()
    ] + refused
    raise_together(UnsupportedModelError, graph.source, problems + damaged if problems else [])
    raise_together(FormatError, graph.source, damaged)
