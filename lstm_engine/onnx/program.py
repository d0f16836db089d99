"""An ONNX graph made ready to run: constant parts computed, weights packed, values let go after their last use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
from . import control, operators, quantized, recurrent, reducing, shaping  # noqa: F401
from .graph import OnnxBody, OnnxGraph, OnnxNode, check_graph, graphs
from .table import OPERATORS, Allowance, Array, Call, Compute, Prepare, Site

__all__ = ["Program", "Step"]

#: What NumPy raises for arrays that do not fit an operation; RuntimeError for more axes than some of it can take.
_MISFITS: Final = (
    ValueError, IndexError, TypeError, OverflowError, ZeroDivisionError, AttributeError, RuntimeError,
)  # fmt: skip


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
        Number of weights among its inputs, or in its bodies.
    programs
        What it runs of its bodies.
    """

    site: Site
    compute: Compute
    inputs: tuple[int | None, ...]
    outputs: tuple[int | None, ...]
    release: tuple[int, ...]
    memory_bytes: int
    parameters: int
    programs: tuple[Program, ...] = ()


@dataclass(slots=True)
class _Work:
    """What constant parts may take, those of all bodies together: bytes, and about how many steps."""

    room: int
    work: float


@dataclass(frozen=True, slots=True, eq=False)
class _Inside:
    """A body, and what it has of the graphs around it.

    Parameters
    ----------
    body
        The body, or the graph that has none around it.
    given
        Names of the values that it is given before its own inputs.
    constants
        Values that never change, by name.
    work
        For its constant parts.
    attributes
        Of all nodes of the whole graph, checked.
    """

    body: OnnxBody | OnnxGraph
    given: tuple[str, ...]
    constants: Mapping[str, Array]
    work: _Work
    attributes: Mapping[OnnxNode, dict[str, Any]]


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

    def __init__(self, graph: OnnxGraph, numerics: Numerics, _inside: _Inside | None = None) -> None:
        self.graph, self.numerics = graph, numerics
        limits = current_limits()
        self.room, self._nodes = limits.onnx_value_bytes, limits.onnx_loop_nodes
        if _inside is None:
            check_graph(graph)
            # Honest graphs shape a few weights, once. The slowest operators take some seconds for the work where a
            # file asks for all that it may.
            room = limits.of_tensors(graph.file_bytes)
            _inside = _Inside(graph, (), {}, _Work(room, 2.0 * room), _checked_attributes(graph))
            self._source = f"{graph.source}: "
        else:
            self._source = ""
        self.body, self._work, around = _inside.body, _inside.work, _inside.constants
        self._attributes = _inside.attributes
        arrays = self.body.initializers
        self._weights = {**around, **arrays}
        self.constants: dict[str, Array] = {**around, **{name: self._in_type(value) for name, value in arrays.items()}}
        self._work.room -= sum(array.nbytes for array in arrays.values())
        waiting = self._folded(self._sites())
        inputs = [*_inside.given, *(value.name for value in self.body.inputs if value.name not in around)]
        self._places = {name: place for place, name in enumerate(inputs)}
        self.steps = self._bound(waiting)
        self.outputs = tuple(self._place(value.name) for value in self.body.outputs)
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
        """Return the nodes with their attributes."""
        used = {name for node in self.body.nodes for name in node.needs} | {value.name for value in self.body.outputs}
        return [
            Site(
                node,
                self.graph.opset,
                self.numerics,
                self._attributes[node],
                tuple(bool(name) and name in used for name in node.outputs),
            )
            for node in self.body.nodes
        ]

    def _folded(self, sites: Sequence[Site]) -> list[Site]:
        """Compute what depends on constants alone, as long as that is quick; return the rest."""
        left = self._work
        waiting = []
        for site in sites:
            node = site.node
            inputs = [self.constants.get(name) for name in node.inputs]
            if node.bodies or any(name and array is None for name, array in zip(node.inputs, inputs, strict=True)):
                waiting.append(site)
                continue
            known = OPERATORS[node.operator]
            size = sum(array.nbytes for array in inputs if array is not None) + 100
            cost = size if known.work is None else max(size, known.work(*inputs))
            if cost > left.work:
                waiting.append(site)
                continue
            left.work -= cost
            with self._naming(site, FormatError), np.errstate(all="ignore"):
                call = Call(site, min(left.room, self.room), Allowance(0))
                results = _as_outputs(known.compute(call, *inputs))
            for name, result in zip(node.outputs, results, strict=False):
                if name and result is not None:
                    if not any(result is given for given in inputs):
                        left.room, left.work = left.room - result.nbytes, left.work - result.nbytes
                    # A view would keep alive what it was cut from.
                    kept = result if result.base is None or result.nbytes == 0 else np.array(result, order="C")
                    kept.setflags(write=False)
                    self.constants[name] = kept
        return waiting

    def _bound(self, sites: Sequence[Site]) -> tuple[Step, ...]:
        """Return the steps, weights packed where they are constant."""
        alive = {value.name for value in self.body.outputs}
        steps: list[Step] = []
        release: list[tuple[int, ...]] = []
        for site in reversed(sites):
            names = (*site.node.needs, *site.node.outputs)
            touched = {name for name in names if name and name not in alive and name not in self.constants}
            release.append(tuple(self._place(name) for name in sorted(touched)))
            alive |= touched
        prepared: dict[Any, Compute] = {}
        for site, released in zip(sites, reversed(release), strict=True):
            node, known = site.node, OPERATORS[site.node.operator]
            constants = [self.constants.get(name) for name in node.inputs]
            compute, memory = known.compute, 0
            programs: tuple[Program, ...] = ()
            captured = tuple(name for name in node.captured if name not in self.constants)
            if known.nest is not None:
                with self._naming(site, FormatError):
                    compute, nested = known.nest(site, constants, self._preparing(node, captured))
                programs = tuple(nested)
            elif known.bind is not None:
                # The steps of a loop that an exporter wrote out have the same weights: they are packed once.
                kinds = tuple(name if name in self.constants else bool(name) for name in node.inputs)
                key = (node.operator, kinds, tuple(site.attributes.items()), site.wanted)
                if key in prepared:
                    compute = prepared[key]
                else:
                    with self._naming(site, FormatError):
                        bound = known.bind(site, constants)
                    if bound is not None:
                        compute, memory = bound
                        prepared[key] = compute
            weights = {name: self._weights.get(name) for name in node.inputs if not programs}
            own = sum(array.size for array in weights.values() if array is not None and array.dtype.kind == "f")
            steps.append(
                Step(
                    site,
                    compute,
                    tuple(self._place(name) if name else None for name in (*node.inputs, *captured)),
                    tuple(self._place(name) if name else None for name in node.outputs),
                    released,
                    memory,
                    own + sum(step.parameters for program in programs for step in program.steps),
                    programs,
                )
            )
        return tuple(steps)

    def _preparing(self, node: OnnxNode, captured: tuple[str, ...]) -> Prepare:
        """Return what makes the programs of a node's bodies."""

        def prepare(body: OnnxBody, fixed: Mapping[str, Array]) -> Program:
            seen = {name: self.constants[name] for name in node.captured if name in self.constants}
            return Program(
                self.graph, self.numerics, _Inside(body, captured, {**seen, **fixed}, self._work, self._attributes)
            )

        return prepare

    def _naming(self, site: Site, misfit: type[LstmEngineError]) -> _Naming:
        return _Naming(site.node, self._source, misfit)

    # --- Running it -------------------------------------------------------------------------------------------------

    def walk(self) -> Iterator[tuple[int, Program, Step]]:
        """Return all steps, those of bodies behind theirs: how deep they are, the program, the step."""
        for step in self.steps:
            yield 0, self, step
            for inner in step.programs:
                yield from ((1 + depth, program, found) for depth, program, found in inner.walk())

    def memory_bytes(self) -> int:
        """Return the bytes that constants and packed weights take."""
        return sum(self._kept().values()) + sum(step.memory_bytes for _, _, step in self.walk())

    def _kept(self) -> dict[int, int]:
        """Return the bytes of all constants, each once."""
        kept = {id(value): value.nbytes for value in self._values if value is not None}
        for step in self.steps:
            for program in step.programs:
                kept.update(program._kept())
        return kept

    def run(self, inputs: Sequence[Array], call: Call | None = None) -> list[Array]:
        """Run all nodes on checked inputs.

        Parameters
        ----------
        inputs
            What the graph is given.
        call
            That of the node that this is a body of.

        Raises
        ------
        ShapeError
            If values do not fit a node, naming it.
        """
        values = list(self._values)
        values[: len(inputs)] = inputs
        room, allowance = self.room, Allowance(self._nodes)
        if call is not None:
            room, allowance = call.room, call.allowance
            allowance.take(1 + len(self.steps))
        held, step = 0, None
        try:
            with np.errstate(all="ignore"):
                for step in self.steps:
                    given = [None if place is None else values[place] for place in step.inputs]
                    results = _as_outputs(step.compute(Call(step.site, room - held, allowance), *given))
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
        outputs = [value for place in self.outputs if (value := values[place]) is not None]
        if len(outputs) < len(self.outputs):
            raise ShapeError(f"{self._source}expected {len(self.outputs)} outputs, found {len(outputs)}")
        return outputs


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
        where = f"{self.source}{self.node.describe()}"
        if isinstance(error, (UnsupportedModelError, UnsafeFileError)):
            raise type(error)(f"{where}: {error}") from None
        if isinstance(error, LstmEngineError):
            raise self.misfit(f"{where}: {error}") from None
        if isinstance(error, _MISFITS):
            raise self.misfit(f"{where}: its inputs do not fit: {error}") from error


def _checked_attributes(graph: OnnxGraph) -> dict[OnnxNode, dict[str, Any]]:
    """Return the attributes of all nodes, defaults filled in.

    Raises
    ------
    UnsupportedModelError, FormatError
        Naming all operators that are not known, and all nodes that do not fit theirs.
    """
    attributes: dict[OnnxNode, dict[str, Any]] = {}
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
                attributes[node] = known.check(node, graph.opset)
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
    return attributes


def _as_outputs(result: Any) -> tuple[Array | None, ...]:
    """Return what an operator gave as a tuple of arrays."""
    if isinstance(result, np.ndarray):
        return (result,)
    results = result if isinstance(result, tuple) else (result,)
    return tuple(None if value is None else np.asarray(value) for value in results)
