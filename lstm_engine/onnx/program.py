"""An ONNX graph made ready to run: constant parts computed, weights packed, values let go after their last use."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from lstm_engine.errors import (
    FormatError,
    LstmEngineError,
    ShapeError,
    UnsafeFileError,
    UnsupportedModelError,
    raise_together,
)
from lstm_engine.formats.limits import current_limits
from lstm_engine.layers.numerics import Numerics

# The modules put their operators into the table.
from . import operators, quantized, recurrent, reducing, shaping  # noqa: F401
from .graph import ELEMENT_TYPES, OnnxGraph, OnnxNode
from .table import OPERATORS, Array, Call, Compute, Site

__all__ = ["Program", "Step"]

#: What NumPy raises for arrays that do not fit an operation.
_MISFITS: Final = (ValueError, IndexError, TypeError, OverflowError, ZeroDivisionError, AttributeError)


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One node that runs at each call.

    Parameters
    ----------
    site
        The node.
    compute
        What it computes, constant weights prepared.
    inputs, outputs
        Places of its values; None for one that is absent.
    release
        Places whose values nobody needs after it.
    memory_bytes
        Bytes of prepared weights.
    parameters
        Number of weights among its inputs.
    """

    site: Site
    compute: Compute
    inputs: tuple[int | None, ...]
    outputs: tuple[int | None, ...]
    release: tuple[int, ...]
    memory_bytes: int
    parameters: int


class Program:
    """A graph that runs.

    Parameters
    ----------
    graph
        What the file says.
    numerics
        Compute type and backend. With float64 all floats of the graph are float64; otherwise each value has the type
        that the file gives it.

    Raises
    ------
    UnsupportedModelError
        If operators or attributes are not implemented: all of them are named.
    FormatError
        If nodes do not fit their operators, or constant parts cannot be computed.
    """

    def __init__(self, graph: OnnxGraph, numerics: Numerics) -> None:
        self.graph, self.numerics = graph, numerics
        self.room = current_limits().onnx_value_bytes
        self._check_empty_arrays()
        sites = self._sites()
        self.constants: dict[str, Array] = {name: self._in_type(value) for name, value in graph.initializers.items()}
        waiting = self._folded(sites)
        self._places = {value.name: place for place, value in enumerate(graph.inputs)}
        self.steps = self._bound(waiting)
        self.outputs = tuple(self._place(value.name) for value in graph.outputs)
        used = {place for step in self.steps for place in step.inputs} | set(self.outputs)
        self._values: list[Array | None] = [None] * len(self._places)
        for name, value in self.constants.items():
            place = self._places.get(name)
            if place in used and place is not None:
                self._values[place] = value

    def _in_type(self, value: Array) -> Array:
        return value.astype(np.float64) if self.numerics.double and value.dtype.kind == "f" else value

    def _place(self, name: str) -> int:
        return self._places.setdefault(name, len(self._places))

    # --- Making it --------------------------------------------------------------------------------------------------

    def _sites(self) -> list[Site]:
        """Return the nodes with their attributes, checked."""
        graph = self.graph
        self._check_order()
        used = {name for node in graph.nodes for name in node.inputs} | {value.name for value in graph.outputs}
        unsupported: dict[str, list[OnnxNode]] = {}
        damaged: list[str] = []
        refused: list[str] = []
        sites = []
        for node in graph.nodes:
            known = OPERATORS.get(node.operator)
            if known is None:
                unsupported.setdefault(node.operator, []).append(node)
                continue
            try:
                attributes = known.check(node, graph.opset)
            except FormatError as error:
                damaged.append(f"{node.describe()}: {error}")
                continue
            except UnsupportedModelError as error:
                refused.append(f"{node.describe()}: {error}")
                continue
            wanted = tuple(bool(name) and name in used for name in node.outputs)
            sites.append(Site(node, graph.opset, self.numerics, attributes, wanted))
        problems = [
            f"operator {name!r} is not supported ({len(nodes)} time{'s' if len(nodes) > 1 else ''}, first in "
            f"{nodes[0].describe()})"
            for name, nodes in unsupported.items()
        ] + refused
        raise_together(UnsupportedModelError, graph.source, problems + damaged if problems else [])
        raise_together(FormatError, graph.source, damaged)
        return sites

    def _check_empty_arrays(self) -> None:
        """Raise FormatError for empty arrays whose sizes other than 0 are beyond what a file may ask for.

        Their reader has no bytes of them to count, and what a node makes of them may be without the 0.
        """
        room = current_limits().of_tensors(self.graph.file_bytes)
        arrays = [(f"array {name!r:.100}", array) for name, array in self.graph.initializers.items()]
        arrays += [
            (f"{node.describe()}: attribute {name!r}", value)
            for node in self.graph.nodes
            for name, value in node.attributes.items()
            if isinstance(value, np.ndarray)
        ]
        problems = [
            f"{described}: expected a shape that memory can hold, found {array.shape}"
            for described, array in arrays
            if 0 in array.shape and math.prod(size or 1 for size in array.shape) * array.itemsize > room
        ]
        raise_together(FormatError, self.graph.source, problems)

    def _check_order(self) -> None:
        """Raise FormatError unless every value is made once, before it is used, and those at the ends have known types.

        The reader of ONNX files sees to it; a graph may come from another file too.
        """
        made = {*(value.name for value in self.graph.inputs), *self.graph.initializers}
        problems = [
            f"{value.name!r}: expected an element type of {', '.join(sorted(ELEMENT_TYPES))}, found {value.dtype!r:.40}"
            for value in (*self.graph.inputs, *self.graph.outputs)
            if value.dtype not in ELEMENT_TYPES
        ]
        for node in self.graph.nodes:
            problems += [
                f"{node.describe()}: expected inputs that are made before it, found none for {name!r}"
                for name in node.inputs
                if name and name not in made
            ]
            outputs = [name for name in node.outputs if name]
            problems += [f"{node.describe()}: makes {name!r} again" for name in outputs if name in made]
            made.update(outputs)
        problems += [
            f"output {value.name!r}: expected a value that is made, found none"
            for value in self.graph.outputs
            if value.name not in made
        ]
        raise_together(FormatError, self.graph.source, problems)

    def _folded(self, sites: Sequence[Site]) -> list[Site]:
        """Compute what depends on constants alone, as long as that is quick; return the rest."""
        # Room for constants, and for the work on them: honest graphs shape a few weights, once. The slowest operators
        # take some seconds for it where a file asks for all that it may.
        room = current_limits().of_tensors(self.graph.file_bytes)
        work = 2.0 * room
        room -= sum(array.nbytes for array in self.graph.initializers.values())
        waiting = []
        for site in sites:
            node = site.node
            inputs = [self.constants.get(name) for name in node.inputs]
            if any(name and array is None for name, array in zip(node.inputs, inputs, strict=True)):
                waiting.append(site)
                continue
            known = OPERATORS[node.operator]
            size = sum(array.nbytes for array in inputs if array is not None) + 100
            cost = size if known.work is None else max(size, known.work(*inputs))
            if cost > work:
                waiting.append(site)
                continue
            work -= cost
            with self._naming(site, FormatError), np.errstate(all="ignore"):
                results = _as_outputs(known.compute(Call(site, min(room, self.room)), *inputs))
            for name, result in zip(node.outputs, results, strict=False):
                if name and result is not None:
                    if not any(result is given for given in inputs):
                        room, work = room - result.nbytes, work - result.nbytes
                    # A view would keep alive what it was cut from.
                    kept = result if result.base is None or result.nbytes == 0 else np.array(result, order="C")
                    kept.setflags(write=False)
                    self.constants[name] = kept
        return waiting

    def _bound(self, sites: Sequence[Site]) -> tuple[Step, ...]:
        """Return the steps, weights packed where they are constant."""
        alive = {value.name for value in self.graph.outputs}
        steps: list[Step] = []
        release: list[tuple[int, ...]] = []
        for site in reversed(sites):
            touched = {name for name in (*site.node.inputs, *site.node.outputs) if name} - alive
            touched -= set(self.constants)
            release.append(tuple(self._place(name) for name in sorted(touched)))
            alive |= touched
        prepared: dict[Any, Compute] = {}
        for site, released in zip(sites, reversed(release), strict=True):
            node, known = site.node, OPERATORS[site.node.operator]
            constants = [self.constants.get(name) for name in node.inputs]
            compute, memory = known.compute, 0
            if known.bind is not None:
                # The steps of a loop that an exporter wrote out have the same weights: they are packed once.
                names = tuple(name if name in self.constants else bool(name) for name in node.inputs)
                key = (node.operator, names, tuple(site.attributes.items()), site.wanted)
                if key in prepared:
                    compute = prepared[key]
                else:
                    with self._naming(site, FormatError):
                        bound = known.bind(site, constants)
                    if bound is not None:
                        compute, memory = bound
                        prepared[key] = compute
            weights = {name: self.graph.initializers.get(name) for name in node.inputs}
            steps.append(
                Step(
                    site,
                    compute,
                    tuple(self._place(name) if name else None for name in node.inputs),
                    tuple(self._place(name) if name else None for name in node.outputs),
                    released,
                    memory,
                    sum(array.size for array in weights.values() if array is not None and array.dtype.kind == "f"),
                )
            )
        return tuple(steps)

    def _naming(self, site: Site, misfit: type[LstmEngineError]) -> _Naming:
        return _Naming(site.node, self.graph.source, misfit)

    # --- Running it -------------------------------------------------------------------------------------------------

    def memory_bytes(self) -> int:
        """Return the bytes that constants and packed weights take."""
        kept = sum(value.nbytes for value in self._values if value is not None)
        return kept + sum(step.memory_bytes for step in self.steps)

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """Run all nodes on checked inputs.

        Raises
        ------
        ShapeError
            If values do not fit a node, naming it.
        """
        values = list(self._values)
        values[: len(inputs)] = inputs
        held, step = 0, None
        try:
            with np.errstate(all="ignore"):
                for step in self.steps:
                    given = [None if place is None else values[place] for place in step.inputs]
                    results = _as_outputs(step.compute(Call(step.site, self.room - held), *given))
                    for place, result in zip(step.outputs, results, strict=False):
                        if place is not None and result is not None:
                            values[place] = result
                            held += result.nbytes
                    for place in step.release:
                        held -= 0 if (value := values[place]) is None or place < len(inputs) else value.nbytes
                        values[place] = None
        except Exception as error:
            if step is not None:
                self._naming(step.site, ShapeError).__exit__(type(error), error, None)
            raise
        return [value for place in self.outputs if (value := values[place]) is not None]


@dataclass(slots=True)
class _Naming:
    """Lets the errors in a block name the node."""

    node: OnnxNode
    source: str
    misfit: type[LstmEngineError]

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None:
            return
        where = f"{self.source}: {self.node.describe()}"
        if isinstance(error, (UnsupportedModelError, UnsafeFileError)):
            raise type(error)(f"{where}: {error}") from None
        if isinstance(error, LstmEngineError):
            raise self.misfit(f"{where}: {error}") from None
        if isinstance(error, _MISFITS):
            raise self.misfit(f"{where}: its inputs do not fit: {error}") from error


def _as_outputs(result: Any) -> tuple[Array | None, ...]:
    """Return what an operator gave as a tuple of arrays."""
    results = result if isinstance(result, tuple) else (result,)
    return tuple(None if value is None else np.asarray(value) for value in results)
