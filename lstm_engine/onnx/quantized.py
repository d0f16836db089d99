"""Operators that quantize and dequantize, and those of ONNX Runtime that work on quantized values."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_index

from lstm_engine.errors import ShapeError

from .operators import broadcast, products
from .table import Array, Call, operator

__all__: list[str] = []


def _along(call: Call, parameter: Array, x: Array) -> Any:
    """Return a scale or zero point, one or one for each place of the axis, so that it broadcasts to ``x``."""
    if parameter.size == 1:
        return parameter.reshape(())
    axis = normalize_axis_index(call["axis"], x.ndim)
    if parameter.shape != (x.shape[axis],):
        raise ShapeError(f"expected one scale, or {x.shape[axis]} for axis {axis}, found shape {parameter.shape}")
    return parameter.reshape((-1,) + (1,) * (x.ndim - axis - 1))


@operator("DequantizeLinear", inputs=(2, 3), axis=1)
def _dequantize(call: Call, x: Array, scale: Array, zero: Array | None = None) -> Any:
    call.allow(x.shape, np.int64)
    whole = x.astype(np.int64) if zero is None else x.astype(np.int64) - _along(call, zero, x)
    return (whole.astype(scale.dtype) * _along(call, scale, x)).astype(scale.dtype)


@operator("QuantizeLinear", inputs=(2, 3), axis=1, saturate=1)
def _quantize(call: Call, x: Array, scale: Array, zero: Array | None = None) -> Any:
    target = np.dtype(np.uint8) if zero is None else zero.dtype
    bounds = np.iinfo(target)
    steps = np.rint(x / _along(call, scale, x))
    shifted = steps if zero is None else steps + _along(call, zero, x)
    return np.clip(shifted, bounds.min, bounds.max).astype(target)


@operator("DynamicQuantizeLinear", outputs=3)
def _dynamic_quantize(call: Call, x: Array) -> tuple[Array, Array, Array]:
    least, most = (np.minimum(x.min(initial=0), 0), np.maximum(x.max(initial=0), 0))
    scale = np.asarray((most - least) / x.dtype.type(255))
    if scale == 0:
        scale = np.ones_like(scale)
    zero = np.clip(np.rint(-least / scale), 0, 255).astype(np.uint8)
    return np.clip(np.rint(x / scale) + zero, 0, 255).astype(np.uint8), scale, np.asarray(zero)


@operator("MatMulInteger", inputs=(2, 4), work=products)
def _matmul_integer(call: Call, a: Array, b: Array, a_zero: Array | None = None, b_zero: Array | None = None) -> Any:
    if a.ndim < 2 or b.ndim < 2:
        raise ShapeError(f"expected matrices, found shapes {a.shape} and {b.shape}")
    call.allow((4, max(a.size, b.size)), np.int32)
    wide_a, wide_b = a.astype(np.int32), b.astype(np.int32)
    if a_zero is not None:
        wide_a = wide_a - (a_zero.astype(np.int32).reshape(-1, 1) if a_zero.ndim == 1 else a_zero.astype(np.int32))
    if b_zero is not None:
        wide_b = wide_b - b_zero.astype(np.int32)
    broadcast(call, wide_a[..., :1, :1], wide_b[..., :1, :1])
    call.allow((*wide_a.shape[:-1], wide_b.shape[-1]), np.int32)
    return np.matmul(wide_a, wide_b)
