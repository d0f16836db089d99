"""Operators that reduce axes, sort, or slide windows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.lib.array_utils import normalize_axis_index, normalize_axis_tuple
from numpy.lib.stride_tricks import sliding_window_view

from lstm_engine.errors import ShapeError

from .operators import divide
from .shaping import listed
from .table import DOUBLE, OPERATORS, Array, Call, Compute, Operator, Required, Site, not_at_load, operator

__all__: list[str] = []


# --- Reductions -------------------------------------------------------------------------------------------------------


def _sum(x: Array) -> Any:
    """Sum over the first of two axes, for floats in float64; the order never depends on the size of the second one."""
    if x.dtype.kind != "f":
        return np.add.reduce(x, 0, x.dtype)
    # A single column would be summed pairwise, several row by row.
    wide = np.repeat(x, 2, 1) if x.shape[1] == 1 else x
    return np.add.reduce(wide, 0, np.float64)[: x.shape[1]]


def _mean(x: Array) -> Any:
    if x.dtype.kind == "f":
        return _sum(x) / x.shape[0]
    # As the quotient of integers; in their type, which may not hold how many there are.
    return divide(_sum(x).astype(np.int64), np.asarray(max(x.shape[0], 1))).astype(x.dtype)


def _extreme(function: np.ufunc, sign: int) -> Callable[[Array], Array]:
    def reduce(x: Array) -> Array:
        if x.shape[0]:
            return np.asarray(function.reduce(x, 0))
        if x.dtype.kind == "f":
            empty: Any = sign * np.inf
        elif x.dtype.kind == "b":
            empty = sign > 0
        else:
            empty = np.iinfo(x.dtype).max if sign > 0 else np.iinfo(x.dtype).min
        return np.full(x.shape[1:], empty, x.dtype)

    return reduce


def _log_sum_exp(x: Array) -> Any:
    most = np.max(x, 0, initial=-np.inf).astype(np.float64)
    most = np.where(np.isfinite(most), most, 0)
    return np.log(_sum(np.exp(x.astype(np.float64) - most))) + most


_REDUCTIONS: Final[dict[str, Callable[[Array], Any]]] = {
    "Sum": _sum,
    "Mean": _mean,
    "Max": _extreme(np.maximum, -1),
    "Min": _extreme(np.minimum, 1),
    "Prod": lambda x: np.multiply.reduce(x, 0, x.dtype),
    "L1": lambda x: _sum(np.abs(x)),
    "L2": lambda x: np.sqrt(_sum(np.square(x, dtype=np.float64))),
    "SumSquare": lambda x: _sum(np.square(x)),
    "LogSum": lambda x: np.log(_sum(x)),
    "LogSumExp": _log_sum_exp,
}


def _passes(x: Array, *_: Array) -> float:
    """Return the bytes that a reduction goes over: copies in order and in float64 are several times its input."""
    return 16.0 * x.nbytes


def _reduction(name: str, function: Callable[[Array], Any]) -> None:
    since = 13 if name == "Sum" else 18

    def compute(call: Call, x: Array, given: Array | None = None) -> Any:
        axes = listed(call, "axes", given, since)
        if not axes and call["noop_with_empty_axes"]:
            return function(x.reshape(1, -1)).astype(x.dtype, copy=False).reshape(x.shape)
        places = tuple(range(x.ndim)) if not axes else normalize_axis_tuple(axes, x.ndim)
        kept = [axis for axis in range(x.ndim) if axis not in places]
        rows = x.transpose(*places, *kept).reshape(
            math.prod(x.shape[axis] for axis in places), math.prod(x.shape[axis] for axis in kept)
        )
        shape = [1 if axis in places else x.shape[axis] for axis in range(x.ndim)]
        if not call["keepdims"]:
            shape = [x.shape[axis] for axis in kept]
        return np.asarray(function(rows)).astype(x.dtype, copy=False).reshape(shape)

    attributes = {"axes": tuple, "keepdims": 1, "noop_with_empty_axes": 0}
    OPERATORS[f"Reduce{name}"] = Operator(
        compute, (1, 2), attributes=attributes, work=_passes, moved=(since, ("axes",))
    )


for _name, _function in _REDUCTIONS.items():
    _reduction(_name, _function)


def _first_or_last(name: str, function: Callable[..., Any]) -> None:
    def compute(call: Call, x: Array) -> Any:
        axis = normalize_axis_index(call["axis"], x.ndim)
        backward = bool(call["select_last_index"])
        found = np.asarray(function(np.flip(x, axis) if backward else x, axis), np.int64)
        found = x.shape[axis] - 1 - found if backward else found
        return np.expand_dims(found, axis) if call["keepdims"] else found

    attributes = {"axis": 0, "keepdims": 1, "select_last_index": 0}
    OPERATORS[name] = Operator(compute, (1, 1), attributes=attributes)


_first_or_last("ArgMax", np.argmax)
_first_or_last("ArgMin", np.argmin)


@operator("CumSum", inputs=2, exclusive=0, reverse=0)
def _cumsum(call: Call, x: Array, given: Array) -> Any:
    axis = normalize_axis_index(int(given.reshape(()).item()), x.ndim)
    values = np.flip(x, axis) if call["reverse"] else x
    sums = np.cumsum(values, axis, x.dtype)
    if call["exclusive"]:
        # Not less the element itself, which would round once more, and make NaN of what is infinite.
        before: list[slice] = [slice(None)] * x.ndim
        behind = list(before)
        before[axis], behind[axis] = slice(None, -1), slice(1, None)
        inclusive, sums = sums, np.zeros_like(sums)
        sums[tuple(behind)] = inclusive[tuple(before)]
    return np.flip(sums, axis) if call["reverse"] else sums


@operator("TopK", inputs=(1, 2), outputs=2, moved=(10, ("k",)), axis=-1, largest=1, sorted=1, k=int)
def _top_k(call: Call, x: Array, given: Array | None = None) -> tuple[Array, Array]:
    count = call["k"]
    if call.opset >= 10:
        count = None if given is None else int(given.reshape(()).item())
    axis = normalize_axis_index(call["axis"], x.ndim)
    if count is None or not 0 <= count <= x.shape[axis]:
        raise ShapeError(f"expected k from 0 to {x.shape[axis]}, found {count}")
    if call["largest"]:
        # Equal elements stay in their order, as from the smallest on.
        order = np.flip(x.shape[axis] - 1 - np.argsort(np.flip(x, axis), axis, kind="stable"), axis)
    else:
        order = np.argsort(x, axis, kind="stable")
    order = np.take(order, np.arange(count), axis)
    return np.take_along_axis(x, order, axis), order.astype(np.int64)


# --- Windows ----------------------------------------------------------------------------------------------------------


def _windows(call: Call, x: Array, kernel: Sequence[int], fill: Any) -> tuple[Array, Array]:
    """Return the windows of (batch, channels, *space) as (batch, channels, *places, *kernel).

    The second array has the same windows of a plane that is 1 where the input or its padding lies, 0 beyond it.
    """
    rank = x.ndim - 2
    if len(kernel) != rank or any(size < 1 for size in kernel):
        raise ShapeError(f"expected a window of {rank} sizes, found {tuple(kernel)} for an input of shape {x.shape}")
    strides, dilations = call["strides"] or (1,) * rank, call["dilations"] or (1,) * rank
    pads = list(call["pads"] or (0,) * (2 * rank))
    mode = call["auto_pad"]
    if len(strides) != rank or len(dilations) != rank or len(pads) != 2 * rank or mode not in _AUTO_PADS:
        raise ShapeError(f"expected strides, dilations and pads for {rank} axes, found {strides}, {dilations}, {pads}")
    if any(size < 1 for size in (*strides, *dilations)) or any(pad < 0 for pad in pads):
        raise ShapeError(f"expected positive strides and dilations, found {strides}, {dilations} and pads {pads}")
    extents = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]
    beyond = [0] * rank
    for axis, (size, extent, stride) in enumerate(zip(x.shape[2:], extents, strides, strict=True)):
        if mode.startswith("SAME"):
            missing = max((-(-size // stride) - 1) * stride + extent - size, 0)
            less, more = missing // 2, missing - missing // 2
            pads[axis], pads[rank + axis] = (less, more) if mode == "SAME_UPPER" else (more, less)
        elif call.site.attributes.get("ceil_mode"):
            # One more window, if it begins inside the input or the padding before it.
            past = (size + pads[axis] + pads[rank + axis] - extent) % stride
            last = size + pads[axis] + pads[rank + axis] - past - extent + stride
            if past and last < size + pads[axis]:
                beyond[axis] = stride - past
    around = [(pads[axis], pads[rank + axis]) for axis in range(rank)]
    wide = [(a, b + c) for (a, b), c in zip(around, beyond, strict=True)]
    call.allow([*x.shape[:2], *(size + a + b for size, (a, b) in zip(x.shape[2:], wide, strict=True))], x.dtype)
    padded = np.pad(x, [(0, 0), (0, 0), *wide], constant_values=fill)
    counted = np.ones(x.shape[2:], x.dtype)
    counted = np.pad(counted, around, constant_values=1 if call.site.attributes.get("count_include_pad") else 0)
    counted = np.pad(counted, [(0, size) for size in beyond])[None, None]
    if any(size < extent for size, extent in zip(padded.shape[2:], extents, strict=True)):
        raise ShapeError(f"expected an input of at least {extents}, found {padded.shape[2:]} with its padding")
    axes = tuple(range(2, x.ndim))
    cut: Any = (..., *(slice(None, None, stride) for stride in strides), *(slice(None, None, d) for d in dilations))
    return sliding_window_view(padded, extents, axes)[cut], sliding_window_view(counted, extents, axes)[cut]


_AUTO_PADS: Final = ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")
_WINDOW: Final[dict[str, Any]] = {"auto_pad": "NOTSET", "dilations": tuple, "pads": tuple, "strides": tuple}


@operator("MaxPool", work=not_at_load, kernel_shape=Required(tuple), ceil_mode=0, storage_order=0, **_WINDOW)
def _max_pool(call: Call, x: Array) -> Any:
    least = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
    windows, _ = _windows(call, x, call["kernel_shape"], least)
    return np.asarray(windows.max(tuple(range(x.ndim, windows.ndim))))


@operator("AveragePool", work=not_at_load, kernel_shape=Required(tuple), ceil_mode=0, count_include_pad=0, **_WINDOW)
def _average_pool(call: Call, x: Array) -> Any:
    windows, counted = _windows(call, x, call["kernel_shape"], 0)
    axes = tuple(range(x.ndim, windows.ndim))
    return (windows.sum(axes, np.float64) / counted.sum(axes, np.float64)).astype(x.dtype)


@operator("GlobalAveragePool")
def _global_average_pool(call: Call, x: Array) -> Any:
    rows = np.moveaxis(x.reshape(*x.shape[:2], -1), 2, 0)
    means = _sum(rows.reshape(rows.shape[0], -1)) / rows.shape[0]
    return means.astype(x.dtype).reshape(*x.shape[:2], *(1,) * (x.ndim - 2))


@operator("GlobalMaxPool")
def _global_max_pool(call: Call, x: Array) -> Any:
    return np.asarray(np.max(x, tuple(range(2, x.ndim)), keepdims=True))


def _bind_conv(site: Site, constants: Sequence[Array | None]) -> tuple[Compute, int] | None:
    kernel, bias = constants[1], constants[2] if len(constants) > 2 else None
    if kernel is None or (bias is None and len(constants) > 2 and site.node.inputs[2]):
        return None
    linear = _filters(site, kernel, bias)

    def compute(call: Call, x: Array, kernel: Array, bias: Array | None = None) -> Any:
        return _convolved(call, x, kernel, linear)

    return compute, sum(part.memory_bytes for part in linear)


def _filters(site: Site, kernel: Array, bias: Array | None) -> list[Any]:
    """Return the packed filters of each group."""
    groups = site.attributes["group"]
    if kernel.ndim < 3 or groups < 1 or kernel.shape[0] % groups or kernel.dtype.kind != "f":
        raise ShapeError(
            f"expected filters (filters, channels, *window) for {groups} groups, found {kernel.dtype} {kernel.shape}"
        )
    if bias is not None and bias.shape != kernel.shape[:1]:
        raise ShapeError(f"expected a bias of shape {kernel.shape[:1]}, found {bias.shape}")
    each = kernel.shape[0] // groups
    rows = kernel.reshape(kernel.shape[0], -1)
    cuts = [slice(group * each, (group + 1) * each) for group in range(groups)]
    numerics = DOUBLE if kernel.dtype == np.float64 else site.numerics
    return [numerics.linear(rows[cut].T, None if bias is None else bias[cut]) for cut in cuts]


def _convolved(call: Call, x: Array, kernel: Array, filters: Sequence[Any]) -> Any:
    groups, depth = call["group"], kernel.shape[1]
    if x.ndim != kernel.ndim or x.shape[1] != groups * depth or x.dtype != kernel.dtype:
        raise ShapeError(
            f"expected {kernel.dtype} (batch, {groups * depth}, ...) of rank {kernel.ndim}, found {x.dtype} {x.shape}"
        )
    if call["kernel_shape"] not in (None, kernel.shape[2:]):
        raise ShapeError(f"attribute 'kernel_shape': expected {kernel.shape[2:]}, found {call['kernel_shape']}")
    windows, _ = _windows(call, x, kernel.shape[2:], 0)
    call.allow(windows.shape, x.dtype)
    places = windows.shape[2 : x.ndim]
    call.allow((x.shape[0], kernel.shape[0], *places), x.dtype)
    rows = np.moveaxis(windows, 1, x.ndim - 1)
    # (batch, *places, channels, *window): a group's channels are the first axis of what is left behind the places.
    parts = []
    for group, part in enumerate(filters):
        window: Any = (slice(None),) * (1 + len(places)) + (slice(group * depth, (group + 1) * depth),)
        wide = np.ascontiguousarray(rows[window], np.float64 if x.dtype == np.float64 else np.float32)
        parts.append(part(wide.reshape(x.shape[0] * math.prod(places), math.prod(kernel.shape[1:]))))
    y = np.concatenate(parts, -1).reshape(x.shape[0], *places, kernel.shape[0])
    return np.ascontiguousarray(np.moveaxis(y, -1, 1), x.dtype)


@operator("Conv", inputs=(2, 3), bind=_bind_conv, work=not_at_load, group=1, kernel_shape=tuple, **_WINDOW)
def _conv(call: Call, x: Array, kernel: Array, bias: Array | None = None) -> Any:
    return _convolved(call, x, kernel, _filters(call.site, kernel, bias))


@operator("ConvInteger", inputs=(2, 4), work=not_at_load, group=1, kernel_shape=tuple, **_WINDOW)
def _conv_integer(
    call: Call, x: Array, kernel: Array, x_zero: Array | None = None, kernel_zero: Array | None = None
) -> Any:
    if kernel.ndim < 3 or any(array.dtype not in (np.uint8, np.int8) for array in (x, kernel)):
        raise ShapeError(
            f"expected an input and filters (filters, channels, *window) of 8-bit integers, found {x.dtype} "
            f"{x.shape} and {kernel.dtype} {kernel.shape}"
        )
    for zero, sizes in ((x_zero, (1,)), (kernel_zero, (1, kernel.shape[0]))):
        if zero is not None and (zero.ndim > 1 or zero.size not in sizes):
            raise ShapeError(f"expected a zero point for all or, of the filters, for each, found shape {zero.shape}")
    call.allow(x.shape, np.float64)
    # Sums of whole numbers, which float64 has exactly; padding is the zero point, so zero once that is taken off.
    wide = x.astype(np.float64) - (0 if x_zero is None else x_zero.reshape(()))
    columns = (-1,) + (1,) * (kernel.ndim - 1)
    filters = kernel.astype(np.float64) - (0 if kernel_zero is None else kernel_zero.reshape(columns))
    return _convolved(call, wide, filters, _filters(call.site, filters, None)).astype(np.int32)
