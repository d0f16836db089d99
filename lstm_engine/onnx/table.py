"""The table of operators, and what an operator is given: its node, its inputs and how much room there is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from lstm_engine.errors import FormatError, ShapeError, UnsupportedModelError
from lstm_engine.layers.numerics import Numerics

from .graph import OnnxBody, OnnxNode

if TYPE_CHECKING:
    from .program import Program

__all__ = [
    "DOUBLE",
    "OPERATORS",
    "SINGLE",
    "Allowance",
    "Array",
    "Call",
    "Operator",
    "Required",
    "Site",
    "each_numerics",
    "not_at_load",
    "operator",
]

Array = NDArray[Any]

SINGLE: Final = Numerics("float32")
DOUBLE: Final = Numerics("float64")


@dataclass(frozen=True, slots=True)
class Required:
    """Marks an attribute of a type that a node must have."""

    type: type


@dataclass(frozen=True, slots=True, eq=False)
class Site:
    """One node of a model, with all that does not change from call to call.

    Parameters
    ----------
    node
        The node.
    opset
        Version of the operators.
    numerics
        Of the model.
    attributes
        Of the node, defaults filled in; None where there is neither.
    wanted
        For each output of the operator whether anybody uses it.
    """

    node: OnnxNode
    opset: int
    numerics: Numerics
    attributes: Mapping[str, Any]
    wanted: tuple[bool, ...]

    def dtype(self, dtype: Any) -> np.dtype[Any]:
        """Return the dtype in which values of a file's ``dtype`` are computed."""
        given = np.dtype(dtype)
        return np.dtype(np.float64) if self.numerics.double and given.kind == "f" else given

    def wants(self, output: int) -> bool:
        """Return whether anybody uses an output."""
        return output < len(self.wanted) and self.wanted[output]


@dataclass(slots=True)
class Allowance:
    """How many nodes of bodies may still run in a call of the model.

    Parameters
    ----------
    left
        So many.
    """

    left: int

    def take(self, nodes: int) -> None:
        """Raise ShapeError if there are no more than so many nodes left."""
        self.left -= nodes
        if self.left < 0:
            raise ShapeError(
                "expected loops that come to an end within limits=le.Limits(onnx_loop_nodes=...), found one that had "
                "run as many nodes as that; give the model fewer steps in a call, or raise it if that is meant"
            )


@dataclass(slots=True)
class Call:
    """One run of a node.

    Parameters
    ----------
    site
        The node.
    room
        Bytes that are left for the values that it makes.
    allowance
        Of the nodes that its bodies run.
    """

    site: Site
    room: int
    allowance: Allowance

    def __getitem__(self, name: str) -> Any:
        """Return an attribute."""
        return self.site.attributes[name]

    @property
    def opset(self) -> int:
        """Version of the operators."""
        return self.site.opset

    def allow(self, shape: Sequence[int], dtype: Any) -> None:
        """Raise ShapeError unless there is room for a value, before it is made."""
        # A size of 0 must not hide the others: what is made of the value next may be without it.
        size = math.prod(axis or 1 for axis in shape) * np.dtype(dtype).itemsize
        if size > self.room or any(axis < 0 for axis in shape):
            raise ShapeError(
                f"expected results of at most {self.room:,} bytes, found shape {tuple(shape)} of {np.dtype(dtype)}; "
                "if that is meant, give the model smaller inputs, or raise limits=le.Limits(onnx_value_bytes=...)"
            )


#: (call, *inputs) -> one output or all of them; an input that is absent is None.
Compute = Callable[..., Any]

#: (body, arrays for those of its inputs that never change) -> what runs it; that takes what the node captures, and
#: then the body's other inputs.
Prepare = Callable[[OnnxBody, Mapping[str, Array]], "Program"]


@dataclass(frozen=True, slots=True, eq=False)
class Operator:
    """An operator.

    Parameters
    ----------
    compute
        What it computes.
    inputs
        Fewest and most inputs.
    outputs
        Most outputs.
    attributes
        By name the default value, or a type where there is none, or :class:`Required`. A node with any other
        attribute is refused.
    bind
        ``bind(site, constants)`` with an array for each constant input and None for the others returns a function
        like ``compute`` for which the constants are prepared, and the bytes they take; or None if it cannot.
    work
        ``work(*inputs)``, constants all of them: about how many steps it takes, infinity for an operator that is not
        worth computing at load; None if that grows no faster than the sizes of what it takes and gives.
    moved
        The version of the operators from which on some attributes are inputs, behind the first one, and their names.
    bodies
        The attributes that are graphs; a node has all of them.
    nest
        ``nest(site, constants, prepare)`` returns a function like ``compute``, which gets the captured values that are
        not constant behind the inputs, and the programs that it runs. In place of ``bind`` where there are bodies.
    """

    compute: Compute
    inputs: tuple[int, int]
    outputs: int = 1
    attributes: Mapping[str, Any] = field(default_factory=dict)
    bind: Callable[[Site, Sequence[Array | None]], tuple[Compute, int] | None] | None = None
    work: Callable[..., float] | None = None
    moved: tuple[int, tuple[str, ...]] | None = None
    bodies: tuple[str, ...] = ()
    nest: Callable[[Site, Sequence[Array | None], Prepare], tuple[Compute, Sequence[Program]]] | None = None

    def check(self, node: OnnxNode, opset: int) -> dict[str, Any]:
        """Return the attributes of a node of a version of the operators, defaults filled in.

        Raises
        ------
        FormatError
            If the node has another number of inputs, or an attribute is missing, of another type or of another version.
        UnsupportedModelError
            If it has an attribute or an output that is not known.
        """
        fewest, most = self.inputs
        given = len(node.inputs)
        if not fewest <= given <= most or "" in node.inputs[:fewest]:
            raise FormatError(f"expected {fewest} to {most} inputs, found {[name or 'none' for name in node.inputs]}")
        if not any(node.outputs):
            raise FormatError("expected an output, found none")
        if any(node.outputs[self.outputs :]):
            raise UnsupportedModelError(
                f"more than {self.outputs} outputs are not supported, found {len(node.outputs)}"
            )
        unknown = sorted(set(node.attributes) - set(self.attributes) | set(node.bodies) - set(self.bodies))
        if unknown:
            raise UnsupportedModelError(f"attributes {', '.join(map(repr, unknown))} are not supported")
        for name in self.bodies:
            if name not in node.bodies:
                raise FormatError(f"attribute {name!r}: expected a graph, found none")
        self._check_moved(node, opset)
        values: dict[str, Any] = {}
        for name, default in self.attributes.items():
            kind = default if isinstance(default, type) else type(default)
            if isinstance(default, Required):
                kind = default.type
                if name not in node.attributes:
                    raise FormatError(f"attribute {name!r}: expected a {kind.__name__}, found none")
            value = node.attributes.get(name, None if isinstance(default, type) else default)
            if value is not None and not isinstance(value, kind):
                raise FormatError(f"attribute {name!r}: expected a {kind.__name__}, found {value!s:.60}")
            values[name] = value
        return values

    def _check_moved(self, node: OnnxNode, opset: int) -> None:
        """Raise FormatError for an attribute that has become an input, or for an input that is an attribute still."""
        if self.moved is None:
            return
        since, names = self.moved
        for name in names if opset >= since else ():
            if name in node.attributes:
                raise FormatError(
                    f"attribute {name!r}: expected an input from opset {since} on, found an attribute in a model of "
                    f"opset {opset}; export the model again"
                )
        if opset < since and any(node.inputs[1:]):
            raise FormatError(
                f"expected {', '.join(names)} as attributes before opset {since}, found inputs in a model of opset "
                f"{opset}; export the model again"
            )


#: Every operator that is known, by name.
OPERATORS: Final[dict[str, Operator]] = {}


def operator(
    *names: str,
    inputs: int | tuple[int, int] = 1,
    outputs: int = 1,
    bind: Callable[[Site, Sequence[Array | None]], tuple[Compute, int] | None] | None = None,
    work: Callable[..., float] | None = None,
    moved: tuple[int, tuple[str, ...]] | None = None,
    **attributes: Any,
) -> Callable[[Compute], Compute]:
    """Put a function into the table under ``names``; the arguments are those of :class:`Operator`."""

    def register(compute: Compute) -> Compute:
        few, most = (inputs, inputs) if isinstance(inputs, int) else inputs
        for name in names:
            OPERATORS[name] = Operator(compute, (few, most), outputs, attributes, bind, work, moved)
        return compute

    return register


def not_at_load(*inputs: Array | None) -> float:
    """Say of an operator that its work is not known from the sizes of its inputs, or is not for the time of loading."""
    return math.inf


def each_numerics(function: Callable[[Numerics, Array], Array], x: Array) -> Array:
    """Apply a function of numerics in the type of ``x``: float32 by the core, other floats by way of float64."""
    if x.dtype == np.float32:
        return function(SINGLE, np.asarray(x, order="C"))
    if x.dtype.kind != "f":
        raise ShapeError(f"expected floats, found {x.dtype}")
    return function(DOUBLE, np.asarray(x, np.float64, order="C")).astype(x.dtype, copy=False)
