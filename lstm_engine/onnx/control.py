"""Operators that run graphs of their own: If and Loop."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from lstm_engine.errors import FormatError, ShapeError

from .graph import OnnxBody, OnnxValue
from .table import OPERATORS, Array, Call, Compute, Operator, Prepare, Site

if TYPE_CHECKING:
    from .program import Program

__all__: list[str] = []

_MANY: Final = 1 << 16

#: What a small array takes beside its elements.
_ARRAY_BYTES: Final = 128


def _one(value: Array, kind: str, name: str) -> Any:
    """Return the element of an array of one element, of one of NumPy's kinds of types."""
    if value.dtype.kind not in kind or value.size != 1:
        wanted = "a truth value" if kind == "b" else "an integer"
        raise ShapeError(f"{name}: expected {wanted}, found {value.dtype} of shape {value.shape}")
    return value.reshape(()).item()


def _check_ends(body: OnnxBody, name: str, inputs: int, outputs: int, most: int) -> None:
    """Raise FormatError unless a body has so many inputs and outputs."""
    if len(body.inputs) != inputs or not outputs <= len(body.outputs) <= most:
        raise FormatError(
            f"attribute {name!r}: expected a graph of {inputs} inputs and {outputs} to {most} outputs, found "
            f"{len(body.inputs)} and {len(body.outputs)}"
        )


def _nest_if(site: Site, constants: Sequence[Array | None], prepare: Prepare) -> tuple[Compute, Sequence[Program]]:
    outputs = len(site.node.outputs)
    names, (condition, *_) = ("else_branch", "then_branch"), constants
    for name in names:
        _check_ends(site.node.bodies[name], name, 0, outputs, outputs)
    if condition is not None:
        # The other branch is never taken.
        chosen = prepare(site.node.bodies[names[_one(condition, "b", "cond")]], {})
        return (lambda call, condition, *captured: tuple(chosen.run(captured, call))), [chosen]
    branches = [prepare(site.node.bodies[name], {}) for name in names]

    def compute(call: Call, condition: Array, *captured: Array) -> Any:
        return tuple(branches[_one(condition, "b", "cond")].run(captured, call))

    return compute, branches


def _nest_loop(site: Site, constants: Sequence[Array | None], prepare: Prepare) -> tuple[Compute, Sequence[Program]]:
    node, body = site.node, site.node.bodies["body"]
    count, given = max(len(node.inputs) - 2, 0), len(node.inputs)
    if "" in node.inputs[2:]:
        raise FormatError(f"expected a first value for everything that the loop carries, found {list(node.inputs)}")
    _check_ends(body, "body", 2 + count, max(1 + count, 1 + len(node.outputs)), _MANY)
    carried_inputs, carried_outputs = body.inputs[2:], body.outputs[1 : 1 + count]
    # What an exporter of TensorFlow carries along unchanged are mostly weights: they are packed once.
    fixed = {
        value.name: array
        for value, output, array in zip(carried_inputs, carried_outputs, constants[2:], strict=True)
        if value.name == output.name and array is not None
    }
    scans = body.outputs[1 + count :]
    given_each = [place for place, value in enumerate(carried_inputs) if value.name not in fixed]
    moving = [place for place in given_each if carried_inputs[place].name != carried_outputs[place].name]
    program = prepare(body, fixed)

    def typed(place: int, value: Array, before: Array | None) -> Array:
        declared = carried_inputs[place].dtype
        wanted = before.dtype if before is not None else site.dtype(declared) if declared else value.dtype
        if value.dtype != wanted:
            raise ShapeError(f"{carried_inputs[place].name!r}: expected {wanted} at each trip, found {value.dtype}")
        return value

    def compute(call: Call, *values: Any) -> Any:
        most, condition = (*values[:given], None, None)[:2]
        captured = values[given:]
        trips = math.inf if most is None else _one(most, "iu", "M")
        going = True if condition is None else _one(condition, "b", "cond")
        carried = list(values[2:given])
        for place, value in enumerate(carried):
            typed(place, value, None)
        kept: list[list[Array]] = [[] for _ in scans]
        trip, held, scanned = 0, 0, 0
        # As ONNX Runtime does it, a condition that the body gives counts, whether there was one at the entry or not.
        while going and trip < trips:
            own = (np.array(trip, np.int64), np.array(True), *(carried[place] for place in given_each))
            flag, *results = program.run((*captured, *own), Call(site, call.room - held, call.allowance))
            going = _one(flag, "b", "the body's condition")
            for place in moving:
                value = typed(place, results[place], carried[place])
                carried[place] = value if value.base is None else np.array(value)  # a view keeps more than itself alive
            for scan, value, rows in zip(scans, results[count:], kept, strict=True):
                if rows and (rows[0].shape, rows[0].dtype) != (value.shape, value.dtype):
                    raise ShapeError(
                        f"{scan.name!r}: expected {rows[0].dtype} of shape {rows[0].shape} at each trip, found "
                        f"{value.dtype} of shape {value.shape}"
                    )
                rows.append(np.array(value))
                scanned += 2 * value.nbytes + _ARRAY_BYTES  # once more when they are put together
            held = scanned + sum(carried[place].nbytes for place in moving)
            call.allow((held,), np.uint8)
            trip += 1
        stacked = [np.stack(rows) if rows else _no_trips(call, scan) for scan, rows in zip(scans, kept, strict=True)]
        return (*carried, *stacked)

    return compute, [program]


def _no_trips(call: Call, scan: OnnxValue) -> Array:
    """Return what is collected of a value in no trip at all."""
    if not scan.dtype:
        raise ShapeError(f"{scan.name!r}: expected a type in the file, for the loop makes no trip, found none")
    # Sizes that are open are 0, as ONNX Runtime has it.
    shape, dtype = (0, *(size or 0 for size in scan.shape)), call.site.dtype(scan.dtype)
    call.allow(shape, dtype)
    return np.empty(shape, dtype)


def _never(call: Call, *inputs: Array | None) -> Any:
    raise NotImplementedError  # what runs is made by ``nest``


OPERATORS["If"] = Operator(_never, (1, 1), _MANY, bodies=("then_branch", "else_branch"), nest=_nest_if)
OPERATORS["Loop"] = Operator(_never, (0, _MANY), _MANY, bodies=("body",), nest=_nest_loop)
