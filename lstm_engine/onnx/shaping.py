"""Operators that move, cut, join, look up and convert values without computing with them."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.lib.array_utils import normalize_axis_index, normalize_axis_tuple

from lstm_engine.errors import ShapeError, UnsupportedModelError

from .table import Array, Call, Required, operator

__all__: list[str] = []

_MANY: Final = 1 << 16

#: Codes of ``TensorProto.DataType`` that values can be converted to.
_DTYPES: Final = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool", 10: "float16",
    11: "float64", 12: "uint32", 13: "uint64",
}  # fmt: skip


def integers(array: Array, what: str) -> list[int]:
    """Return the elements of an array of integers of rank 0 or 1."""
    if array.dtype.kind not in "iu" or array.ndim > 1:
        raise ShapeError(f"{what}: expected a list of integers, found {array.dtype} of shape {array.shape}")
    return [int(value) for value in array.reshape(-1)]


def listed(call: Call, name: str, given: Array | None, since: int) -> list[int] | None:
    """Return what is an attribute before opset ``since`` and an input from then on; None if it is absent."""
    if call.opset < since:
        value = call[name]
        return None if value is None else [int(element) for element in value]
    return None if given is None else integers(given, name)


# --- Constants and types ----------------------------------------------------------------------------------------------


@operator(
    "Constant", inputs=0, value=np.ndarray, value_float=float, value_floats=tuple, value_int=int, value_ints=tuple
)
def _constant(call: Call) -> Any:
    given = {name: value for name, value in call.site.attributes.items() if value is not None}
    if len(given) != 1:
        raise UnsupportedModelError(f"expected one value, found {', '.join(given) or 'none'}")
    ((name, value),) = given.items()
    if name == "value":
        return np.asarray(value, call.site.dtype(value.dtype))
    return np.array(value, call.site.dtype(np.float32) if "float" in name else np.int64)


@operator("ConstantOfShape", value=np.ndarray)
def _constant_of_shape(call: Call, shape: Array) -> Any:
    value = np.zeros(1, np.float32) if call["value"] is None else call["value"]
    if value.size != 1:
        raise ShapeError(f"attribute 'value': expected one element, found {value.size}")
    sizes, dtype = integers(shape, "shape"), call.site.dtype(value.dtype)
    call.allow(sizes, dtype)
    return np.full(sizes, value.reshape(()), dtype)


@operator("Range", inputs=3)
def _range(call: Call, start: Array, limit: Array, delta: Array) -> Any:
    first, last, step = (value.reshape(()).item() for value in (start, limit, delta))
    if not step:
        raise ShapeError("expected a delta other than zero, found zero")
    length = (last - first) / step
    if not math.isfinite(length):
        raise ShapeError(f"expected finite numbers, found {first}, {last}, {step}")
    count = max(0, math.ceil(length) if start.dtype.kind == "f" else -((first - last) // step))
    call.allow((count,), np.int64)
    return (first + np.arange(count, dtype=start.dtype) * start.dtype.type(step)).astype(start.dtype)


@operator("Cast", to=Required(int), saturate=1)
def _cast(call: Call, x: Array) -> Any:
    if call["to"] not in _DTYPES:
        raise UnsupportedModelError(f"elements of type {call['to']} are not supported; convert the model to float32")
    dtype = call.site.dtype(_DTYPES[call["to"]])
    call.allow(x.shape, dtype)
    return x.astype(dtype)


@operator("CastLike", inputs=2, saturate=1)
def _cast_like(call: Call, x: Array, like: Array) -> Any:
    call.allow(x.shape, like.dtype)
    return x.astype(like.dtype)


@operator("Identity")
def _identity(call: Call, x: Array) -> Any:
    return x


# --- Shapes -----------------------------------------------------------------------------------------------------------


@operator("Shape", start=0, end=int)
def _shape(call: Call, x: Array) -> Any:
    return np.array(x.shape[slice(call["start"], call["end"])], np.int64)


@operator("Size")
def _size(call: Call, x: Array) -> Any:
    return np.array(x.size, np.int64)


@operator("Reshape", inputs=2, allowzero=0)
def _reshape(call: Call, x: Array, shape: Array) -> Any:
    sizes = integers(shape, "shape")
    if not call["allowzero"]:
        if any(size == 0 for size in sizes[x.ndim :]):
            raise ShapeError(f"expected a zero in the shape only for an axis of the input, found {sizes} for {x.shape}")
        sizes = [x.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)]
    if any(size < -1 for size in sizes):
        raise ShapeError(f"expected sizes from -1 on, found {sizes}")
    if -1 in sizes and 0 in sizes:
        raise ShapeError(f"expected a shape whose open size can be told, found {sizes}")
    return x.reshape(sizes)


@operator("Flatten", axis=1)
def _flatten(call: Call, x: Array) -> Any:
    axis = call["axis"] + x.ndim if call["axis"] < 0 else call["axis"]
    if not 0 <= axis <= x.ndim:
        raise ShapeError(f"expected an axis of {x.ndim}, found {axis}")
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@operator("Transpose", perm=tuple)
def _transpose(call: Call, x: Array) -> Any:
    return x.transpose(call["perm"])


@operator("Unsqueeze", inputs=(1, 2), moved=(13, ("axes",)), axes=tuple)
def _unsqueeze(call: Call, x: Array, given: Array | None = None) -> Any:
    axes = listed(call, "axes", given, 13)
    if axes is None:
        raise ShapeError("expected axes, found none")
    return np.expand_dims(x, tuple(axes))


@operator("Squeeze", inputs=(1, 2), moved=(13, ("axes",)), axes=tuple)
def _squeeze(call: Call, x: Array, given: Array | None = None) -> Any:
    axes = listed(call, "axes", given, 13)
    return np.squeeze(x, None if axes is None else tuple(axes))


@operator("Expand", inputs=2)
def _expand(call: Call, x: Array, shape: Array) -> Any:
    sizes = integers(shape, "shape")
    if any(size < 0 for size in sizes):
        raise ShapeError(f"expected sizes from 0 on, found {sizes}")
    result = np.broadcast_shapes(x.shape, tuple(sizes))
    call.allow(result, x.dtype)
    return np.broadcast_to(x, result)


@operator("Tile", inputs=2)
def _tile(call: Call, x: Array, repeats: Array) -> Any:
    counts = integers(repeats, "repeats")
    if len(counts) != x.ndim:
        raise ShapeError(f"expected {x.ndim} repeats, found {len(counts)}")
    call.allow([size * count for size, count in zip(x.shape, counts, strict=True)], x.dtype)
    return np.tile(x, counts)


# --- Cutting and joining ----------------------------------------------------------------------------------------------


@operator("Concat", inputs=(1, _MANY), axis=Required(int))
def _concat(call: Call, *arrays: Array) -> Any:
    call.allow((sum(array.size for array in arrays),), arrays[0].dtype)
    return np.concatenate(arrays, axis=call["axis"])


@operator("Split", inputs=(1, 2), outputs=_MANY, moved=(13, ("split",)), axis=0, split=tuple, num_outputs=int)
def _split(call: Call, x: Array, given: Array | None = None) -> tuple[Array, ...]:
    axis = normalize_axis_index(call["axis"], x.ndim)
    size = x.shape[axis]
    sizes = listed(call, "split", given, 13)
    if sizes is None:
        count = len(call.site.node.outputs)
        part = -(-size // count)
        if call.opset < 18 and size % count:
            raise ShapeError(f"expected a size that {count} outputs share evenly before opset 18, found {size}")
        if call["num_outputs"] not in (None, count):
            raise ShapeError(f"attribute 'num_outputs': expected {count}, found {call['num_outputs']}")
        sizes = [part] * (count - 1) + [size - part * (count - 1)]
    if any(part < 0 for part in sizes) or sum(sizes) != size or len(sizes) != len(call.site.node.outputs):
        raise ShapeError(f"expected {len(call.site.node.outputs)} parts that make up {size}, found {sizes}")
    return tuple(np.split(x, np.cumsum(sizes)[:-1], axis))


@operator("Slice", inputs=(1, 5), moved=(10, ("starts", "ends", "axes")), starts=tuple, ends=tuple, axes=tuple)
def _slice(
    call: Call,
    x: Array,
    starts: Array | None = None,
    ends: Array | None = None,
    axes: Array | None = None,
    steps: Array | None = None,
) -> Any:
    first, last, where = (
        listed(call, name, given, 10) for name, given in (("starts", starts), ("ends", ends), ("axes", axes))
    )
    if first is None or last is None:
        raise ShapeError("expected starts and ends, found none")
    where = list(range(len(first))) if where is None else where
    strides = [1] * len(first) if steps is None else integers(steps, "steps")
    places = normalize_axis_tuple(where, x.ndim)
    cuts: list[slice] = [slice(None)] * x.ndim
    for axis, begin, end, step in zip(places, first, last, strides, strict=True):
        cuts[axis] = slice(begin, end, step)
        if step < 0:
            # Unlike Python, a start in front of the first element is the first element.
            size = x.shape[axis]
            start = min(max(begin + size if begin < 0 else begin, 0), size - 1)
            stop = min(max(end + size if end < 0 else end, -1), size - 1)
            # An end before the first element: a negative index would count from the back.
            cuts[axis] = slice(start, None if stop < 0 else stop, step) if start > stop else slice(0, 0)
    return x[tuple(cuts)]


@operator("Pad", inputs=(1, 4), moved=(11, ("pads", "value")), mode="constant", pads=tuple, value=0.0)
def _pad(
    call: Call, x: Array, given: Array | None = None, value: Array | None = None, axes: Array | None = None
) -> Any:
    pads = listed(call, "pads", given, 11)
    places = range(x.ndim) if axes is None else normalize_axis_tuple(integers(axes, "axes"), x.ndim)
    if pads is None or len(pads) != 2 * len(places):
        raise ShapeError(f"expected {2 * len(places)} pads, found {pads}")
    if call["mode"] not in ("constant", "reflect", "edge", "wrap"):
        raise UnsupportedModelError(f"attribute 'mode': {call['mode']!r} is not supported")
    both = [(0, 0)] * x.ndim
    for place, axis in enumerate(places):
        both[axis] = (pads[place], pads[place + len(places)])
    if any(size + min(a, 0) + min(b, 0) < 0 for size, (a, b) in zip(x.shape, both, strict=True)):
        raise ShapeError(f"expected pads that take away at most what there is, found {pads} for shape {x.shape}")
    call.allow([size + max(a, 0) + max(b, 0) for size, (a, b) in zip(x.shape, both, strict=True)], x.dtype)
    padding: dict[str, Any] = {"mode": call["mode"]}
    if call["mode"] == "constant":
        filled = call["value"] if call.opset < 11 else 0 if value is None else value.reshape(()).item()
        padding["constant_values"] = filled
    y = np.pad(x, [(max(a, 0), max(b, 0)) for a, b in both], **padding)
    return y[tuple(slice(max(-a, 0), size - max(-b, 0)) for (a, b), size in zip(both, y.shape, strict=True))]


@operator("Trilu", inputs=(1, 2), upper=1)
def _trilu(call: Call, x: Array, k: Array | None = None) -> Any:
    if x.ndim < 2:
        raise ShapeError(f"expected matrices, found shape {x.shape}")
    diagonal = 0 if k is None else int(k.reshape(()).item())
    return np.triu(x, diagonal) if call["upper"] else np.tril(x, diagonal)


@operator("ReverseSequence", inputs=2, batch_axis=1, time_axis=0)
def _reverse_sequence(call: Call, x: Array, lengths: Array) -> Any:
    batch_axis, time_axis = (normalize_axis_index(call[name], 2) for name in ("batch_axis", "time_axis"))
    if batch_axis == time_axis or lengths.shape != (x.shape[batch_axis],):
        raise ShapeError(f"expected {x.shape[batch_axis]} lengths, found shape {lengths.shape}")
    time = np.arange(x.shape[time_axis])
    steps = np.where(time < lengths[:, None], lengths[:, None] - 1 - time, time)
    steps = (steps if batch_axis == 0 else steps.T).reshape(*x.shape[:2], *(1,) * (x.ndim - 2))
    return np.take_along_axis(x, steps, time_axis)


# --- Looking up and putting -------------------------------------------------------------------------------------------


def _in_range(indices: Array, size: int) -> Array:
    """Return indices, each from ``-size`` to ``size - 1``, as rising from 0."""
    if indices.dtype.kind not in "iu":
        raise ShapeError(f"expected integer indices, found {indices.dtype}")
    outside = (indices < -size) | (indices >= size)
    if outside.any():
        raise ShapeError(f"expected indices from {-size} to {size - 1}, found {indices[outside].flat[0]}")
    return np.where(indices < 0, indices + size, indices)


@operator("Gather", inputs=2, axis=0)
def _gather(call: Call, x: Array, indices: Array) -> Any:
    axis = normalize_axis_index(call["axis"], x.ndim)
    call.allow((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]), x.dtype)
    return np.take(x, _in_range(indices, x.shape[axis]), axis)


@operator("GatherElements", inputs=2, axis=0)
def _gather_elements(call: Call, x: Array, indices: Array) -> Any:
    axis = normalize_axis_index(call["axis"], x.ndim)
    if indices.ndim != x.ndim or any(
        n > m for place, (n, m) in enumerate(zip(indices.shape, x.shape, strict=True)) if place != axis
    ):
        raise ShapeError(f"expected indices within {x.shape} on all axes but {axis}, found shape {indices.shape}")
    call.allow(indices.shape, np.result_type(x.dtype, np.int64))
    places: list[Array] = list(np.indices(indices.shape, sparse=True))
    places[axis] = _in_range(indices, x.shape[axis])
    return x[tuple(places)]


@operator("GatherND", inputs=2, batch_dims=0)
def _gather_nd(call: Call, x: Array, indices: Array) -> Any:
    batch, depth = call["batch_dims"], indices.shape[-1]
    if batch < 0 or batch + depth > x.ndim or x.shape[:batch] != indices.shape[:batch]:
        raise ShapeError(f"expected indices into {x.shape} behind {batch} axes, found shape {indices.shape}")
    outer, inner = indices.shape[:-1], x.shape[batch + depth :]
    call.allow((*outer, *inner), x.dtype)
    rows = x.reshape(math.prod(x.shape[:batch]), *x.shape[batch:])
    places = indices.reshape(rows.shape[0], -1, depth)
    picked = [_in_range(places[..., axis], rows.shape[1 + axis]) for axis in range(depth)]
    return rows[(np.arange(rows.shape[0])[:, None], *picked)].reshape(*outer, *inner)


_COMBINE: Final = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}


def _put(call: Call, x: Array, places: tuple[Array, ...], updates: Array) -> Any:
    """Return a copy of ``x`` with ``updates`` put at ``places``."""
    y = np.array(x)
    if call["reduction"] == "none":
        y[places] = updates
    elif call["reduction"] in _COMBINE:
        _COMBINE[call["reduction"]].at(y, places, updates)
    else:
        raise UnsupportedModelError(f"attribute 'reduction': {call['reduction']!r} is not supported")
    return y


@operator("ScatterElements", "Scatter", inputs=3, axis=0, reduction="none")
def _scatter_elements(call: Call, x: Array, indices: Array, updates: Array) -> Any:
    axis = normalize_axis_index(call["axis"], x.ndim)
    if indices.shape != updates.shape or indices.ndim != x.ndim:
        raise ShapeError(f"expected as many indices as updates, found shapes {indices.shape} and {updates.shape}")
    places: list[Array] = list(np.indices(indices.shape, sparse=True))
    places[axis] = _in_range(indices, x.shape[axis])
    return _put(call, x, tuple(places), updates)


@operator("ScatterND", inputs=3, reduction="none")
def _scatter_nd(call: Call, x: Array, indices: Array, updates: Array) -> Any:
    depth = indices.shape[-1] if indices.ndim else 0
    wanted = (*indices.shape[:-1], *x.shape[depth:])
    if not 1 <= depth <= x.ndim or updates.shape != wanted:
        raise ShapeError(
            f"expected indices into {x.shape} and updates of shape {wanted}, found shapes {indices.shape} and "
            f"{updates.shape}"
        )
    places = tuple(_in_range(indices[..., axis], x.shape[axis]) for axis in range(depth))
    return _put(call, x, places, updates)


@operator("OneHot", inputs=3, axis=-1)
def _one_hot(call: Call, indices: Array, depth: Array, values: Array) -> Any:
    count = int(depth.reshape(()).item())
    axis = normalize_axis_index(call["axis"], indices.ndim + 1)
    call.allow((*indices.shape, max(count, 0)), values.dtype)
    hot = np.expand_dims(np.where(indices < 0, indices + count, indices), axis)
    steps = np.arange(count).reshape((-1,) + (1,) * (indices.ndim - axis))
    return np.where(hot == steps, values[1], values[0])


@operator("Compress", inputs=2, axis=int)
def _compress(call: Call, x: Array, condition: Array) -> Any:
    return np.compress(condition, x, call["axis"])


@operator("NonZero")
def _nonzero(call: Call, x: Array) -> Any:
    call.allow((x.ndim, x.size), np.int64)
    return np.array(np.nonzero(np.atleast_1d(x)), np.int64)
