"""Operators that work element by element, and those that multiply by weights or normalise."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from lstm_engine.activations import Activation
from lstm_engine.errors import FormatError, ShapeError, UnsupportedModelError
from lstm_engine.formats.limits import nonfinite_allowed

from .table import OPERATORS, Array, Call, Compute, Operator, Required, Site, each_numerics, operator

__all__ = ["broadcast", "divide", "pointwise", "products"]

_MANY: Final = 1 << 16


# --- Element by element -----------------------------------------------------------------------------------------------


def broadcast(call: Call, *arrays: Array, same: bool = True) -> None:
    """Raise ShapeError unless ``arrays`` have one dtype (if ``same``) and there is room for what they broadcast to."""
    if same and len({array.dtype for array in arrays}) > 1:
        raise ShapeError(f"expected inputs of one type, found {' and '.join(str(array.dtype) for array in arrays)}")
    if len(arrays) == 2:  # as nearly always, and much quicker so: a loop runs thousands of nodes
        shape = arrays[0].shape if arrays[0].shape == arrays[1].shape else np.broadcast(*arrays).shape
    else:
        shape = np.broadcast_shapes(*(array.shape for array in arrays))
    call.allow(shape, arrays[0].dtype)


def _binary(function: Callable[[Array, Array], Any]) -> Compute:
    def compute(call: Call, *arrays: Array) -> Any:
        broadcast(call, *arrays)
        result = arrays[0]
        for other in arrays[1:]:
            result = function(result, other)
        return result

    return compute


def divide(a: Array, b: Array) -> Any:
    """Return ``a / b`` as ONNX has it."""
    if a.dtype.kind == "f":
        return a / b
    if not b.all():
        raise ShapeError("expected divisors other than zero, found a zero")
    # Integers are divided toward zero, as in C.
    quotient = a // b
    return quotient + ((quotient < 0) & (quotient * b != a)).astype(quotient.dtype)


def _mean(call: Call, *arrays: Array) -> Any:
    return np.asarray(_binary(np.add)(call, *arrays)) / arrays[0].dtype.type(len(arrays))


for _name, _function, _most in (
    ("Add", np.add, 2), ("Sub", np.subtract, 2), ("Mul", np.multiply, 2), ("Div", divide, 2),
    ("Max", np.maximum, _MANY), ("Min", np.minimum, _MANY), ("Sum", np.add, _MANY),
    ("Equal", np.equal, 2), ("Less", np.less, 2), ("Greater", np.greater, 2),
    ("LessOrEqual", np.less_equal, 2), ("GreaterOrEqual", np.greater_equal, 2),
    ("And", np.logical_and, 2), ("Or", np.logical_or, 2), ("Xor", np.logical_xor, 2),
):  # fmt: skip
    OPERATORS[_name] = Operator(_binary(_function), (1 if _most > 2 else 2, _most))
OPERATORS["Mean"] = Operator(_mean, (1, _MANY))


def _elementwise(function: Any) -> Compute:
    def compute(call: Call, x: Array) -> Any:
        call.allow(x.shape, x.dtype)
        return function(x)

    return compute


for _name, _unary in {
    "Abs": np.abs, "Neg": np.negative, "Floor": np.floor, "Ceil": np.ceil, "Round": np.rint, "Sign": np.sign,
    "Sqrt": np.sqrt, "Log": np.log, "Not": np.logical_not, "IsNaN": np.isnan, "Sin": np.sin, "Cos": np.cos,
    "Reciprocal": lambda x: x.dtype.type(1) / x, "Relu": lambda x: np.maximum(x, x.dtype.type(0)),
}.items():  # fmt: skip
    OPERATORS[_name] = Operator(_elementwise(_unary), (1, 1))


@operator("Pow", inputs=2)
def _pow(call: Call, x: Array, exponent: Array) -> Any:
    broadcast(call, x, exponent, same=False)
    if exponent.dtype.kind in "iu" and x.dtype.kind in "iu" and exponent.size and int(exponent.min()) < 0:
        raise ShapeError("expected exponents of integers from 0 on, found a negative one")
    return np.power(x, exponent).astype(x.dtype, copy=False)


@operator("Mod", inputs=2, fmod=0)
def _mod(call: Call, a: Array, b: Array) -> Any:
    broadcast(call, a, b)
    return np.fmod(a, b) if call["fmod"] else np.mod(a, b)


@operator("Where", inputs=3)
def _where(call: Call, condition: Array, a: Array, b: Array) -> Any:
    broadcast(call, a, b)
    call.allow(np.broadcast_shapes(condition.shape, a.shape, b.shape), a.dtype)
    return np.where(condition, a, b)


@operator("Clip", inputs=(1, 3), moved=(11, ("min", "max")), min=float, max=float)
def _clip(call: Call, x: Array, least: Array | None = None, most: Array | None = None) -> Array:
    if call.opset < 11:
        least, most = (None if value is None else x.dtype.type(value) for value in (call["min"], call["max"]))
    for bound in (least, most):
        if bound is not None and bound.size != 1:
            raise ShapeError(f"expected bounds of one number, found shape {bound.shape}")
    x = x if least is None else np.maximum(x, least.reshape(()))
    return x if most is None else np.minimum(x, most.reshape(()))


@operator("Erf")
def _erf(call: Call, x: Array) -> Array:
    from scipy.special import erf

    return np.asarray(erf(x)).astype(x.dtype, copy=False)


def pointwise(x: Array, activation: Activation) -> Array:
    """Apply an activation to an array of any shape and float type."""
    return each_numerics(lambda n, a: n.activate(a.reshape(-1), activation).reshape(a.shape), x)


def _activation(kind: str, alpha: float | None = None, beta: float | None = None) -> None:
    """Put an activation into the table; its parameters are attributes."""
    attributes = {name: value for name, value in (("alpha", alpha), ("beta", beta)) if value is not None}

    def compute(call: Call, x: Array) -> Array:
        return pointwise(x, Activation(kind, **call.site.attributes))

    name = {"exponential": "Exp"}.get(kind, "".join(part.title() for part in kind.split("_")))
    OPERATORS[name] = Operator(compute, (1, 1), attributes=attributes)


_activation("sigmoid")
_activation("tanh")
_activation("softplus")
_activation("softsign")
_activation("exponential")
_activation("elu", 1.0)
_activation("leaky_relu", 0.01)
_activation("thresholded_relu", 1.0)
_activation("hard_sigmoid", 0.2, 0.5)


@operator("Gelu", approximate="none")
def _gelu(call: Call, x: Array) -> Array:
    kinds = {"none": "gelu", "tanh": "gelu_tanh"}
    if call["approximate"] not in kinds:
        raise UnsupportedModelError(f"attribute 'approximate': expected none or tanh, found {call['approximate']!r}")
    return pointwise(x, Activation(kinds[call["approximate"]]))


@operator("Selu", alpha=1.6732632423543772, gamma=1.0507009873554805)
def _selu(call: Call, x: Array) -> Any:
    return x.dtype.type(call["gamma"]) * pointwise(x, Activation("elu", alpha=call["alpha"]))


@operator("HardSwish")
def _hard_swish(call: Call, x: Array) -> Any:
    return x * pointwise(x, Activation("hard_sigmoid"))


@operator("Swish", alpha=1.0)
def _swish(call: Call, x: Array) -> Any:
    return x * pointwise(x * x.dtype.type(call["alpha"]), Activation("sigmoid"))


@operator("Celu", alpha=1.0)
def _celu(call: Call, x: Array) -> Any:
    alpha = x.dtype.type(call["alpha"])
    return alpha * pointwise(x / alpha, Activation("elu"))


@operator("Mish")
def _mish(call: Call, x: Array) -> Any:
    return x * pointwise(pointwise(x, Activation("softplus")), Activation("tanh"))


@operator("PRelu", inputs=2)
def _prelu(call: Call, x: Array, slope: Array) -> Any:
    broadcast(call, x, slope)
    return np.where(x < 0, x * slope, x)


# --- Over an axis -----------------------------------------------------------------------------------------------------


def _over_axis(name: str) -> None:
    """Put Softmax or LogSoftmax into the table."""

    def compute(call: Call, x: Array) -> Array:
        axis = call["axis"]
        shape = x.shape
        if call.opset < 13:
            # The axes before and behind ``axis`` each count as one.
            axis = np.lib.array_utils.normalize_axis_index(1 if axis is None else axis, max(x.ndim, 1))
            x, axis = x.reshape(math.prod(shape[:axis]), math.prod(shape[axis:])), 1
        axis = np.lib.array_utils.normalize_axis_index(-1 if axis is None else axis, max(x.ndim, 1))

        def apply(numerics: Any, values: Array) -> Array:
            function = numerics.softmax if name == "Softmax" else numerics.log_softmax
            return np.asarray(numerics.over_axis(function, values, axis))

        return each_numerics(apply, x).reshape(shape)

    OPERATORS[name] = Operator(compute, (1, 1), attributes={"axis": int})


_over_axis("Softmax")
_over_axis("LogSoftmax")


@operator("LayerNormalization", inputs=(2, 3), outputs=3, axis=-1, epsilon=1e-5, stash_type=1)
def _layer_normalization(call: Call, x: Array, scale: Array, bias: Array | None = None) -> Any:
    axis = np.lib.array_utils.normalize_axis_index(call["axis"], x.ndim)
    inner = x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))
    y = each_numerics(lambda n, a: n.layer_norm(a, None, None, call["epsilon"]), inner).reshape(x.shape)
    given = [x, scale, *([] if bias is None else [bias])]
    broadcast(call, *given)
    if np.broadcast_shapes(*(array.shape for array in given)) != x.shape:
        found = " and ".join(str(array.shape) for array in given[1:])
        raise ShapeError(f"expected a scale and a bias that broadcast to {x.shape}, found {found}")
    y = y * scale if bias is None else y * scale + bias
    if not (call.site.wants(1) or call.site.wants(2)):
        return y
    axes = tuple(range(axis, x.ndim))
    mean, variance = np.mean(x, axes, np.float64, keepdims=True), np.var(x, axes, np.float64, keepdims=True)
    # The statistics are of the type that they are computed in: float32 at least.
    kept = np.float64 if x.dtype == np.float64 else np.float32
    return y, mean.astype(kept), (1 / np.sqrt(variance + call["epsilon"])).astype(kept)


@operator("InstanceNormalization", inputs=3, epsilon=1e-5)
def _instance_normalization(call: Call, x: Array, scale: Array, bias: Array) -> Any:
    if x.ndim < 3 or scale.shape != x.shape[1:2] or bias.shape != scale.shape:
        raise ShapeError(f"expected (batch, {scale.size}, ...) and as many scales and biases, found {x.shape}")
    rows = x.reshape(x.shape[0] * x.shape[1], -1)
    y = each_numerics(lambda n, a: n.layer_norm(a, None, None, call["epsilon"]), rows).reshape(x.shape)
    shape = (-1,) + (1,) * (x.ndim - 2)
    return y * scale.reshape(shape) + bias.reshape(shape)


@operator("BatchNormalization", inputs=5, outputs=1, epsilon=1e-5, momentum=0.9, spatial=1, training_mode=0)
def _batch_normalization(call: Call, x: Array, scale: Array, bias: Array, mean: Array, variance: Array) -> Any:
    if call["training_mode"] or not call["spatial"]:
        raise UnsupportedModelError("training_mode=1 and spatial=0 are not supported; export the model for inference")
    if x.ndim < 2 or any(a.shape != x.shape[1:2] for a in (scale, bias, mean, variance)):
        found = ", ".join(str(a.shape) for a in (scale, bias, mean, variance))
        raise ShapeError(f"expected (batch, features, ...) and four weights (features,), found {x.shape} and {found}")
    shape = (-1,) + (1,) * (x.ndim - 2)
    scale, bias, mean, variance = (a.reshape(shape) for a in (scale, bias, mean, variance))
    return ((x - mean) / np.sqrt(variance + x.dtype.type(call["epsilon"])) * scale + bias).astype(x.dtype, copy=False)


@operator("Dropout", inputs=(1, 3), outputs=2, moved=(12, ("ratio",)), ratio=0.5, seed=int, is_test=int)
def _dropout(call: Call, x: Array, ratio: Array | None = None, training: Array | None = None) -> Any:
    if training is not None and training.any():
        raise UnsupportedModelError("training_mode=True is not supported; export the model for inference")
    return (x, np.ones(x.shape, np.bool_)) if call.site.wants(1) else x


# --- Products ---------------------------------------------------------------------------------------------------------


def products(a: Array, b: Array, *others: Array | None) -> float:
    """Return no less than how many products of two numbers are in a product of two arrays."""
    return a.size * b.size / max(min(a.shape, default=1), 1)


def _matrix(site: Site, kernel: Array | None, bias: Array | None = None) -> Any:
    """Return a packed ``x @ kernel + bias`` for constant weights, or None if they are of another kind."""
    if kernel is None or kernel.ndim != 2 or 0 in kernel.shape or kernel.dtype != site.numerics.dtype:
        return None
    if bias is not None and (
        bias.dtype != kernel.dtype or bias.shape not in ((kernel.shape[1],), (1, kernel.shape[1]))
    ):
        return None
    if not nonfinite_allowed() and not np.isfinite(kernel).all():
        raise UnsupportedModelError(
            "expected finite weights, found infinite ones; export the model again from a sound checkpoint, or load it "
            "with allow_nonfinite=True"
        )
    return site.numerics.linear(kernel, None if bias is None else bias.reshape(-1))


def _bind_matmul(site: Site, constants: Sequence[Array | None]) -> tuple[Compute, int] | None:
    linear = _matrix(site, constants[1])
    if linear is None:
        return None

    def compute(call: Call, x: Array, kernel: Array) -> Any:
        if x.dtype != kernel.dtype or x.ndim == 0 or x.shape[-1] != kernel.shape[0]:
            raise ShapeError(f"expected {kernel.dtype} (..., {kernel.shape[0]}), found {x.dtype} {x.shape}")
        call.allow((*x.shape[:-1], kernel.shape[1]), x.dtype)
        return linear(np.ascontiguousarray(x))

    return compute, linear.memory_bytes


@operator("MatMul", inputs=2, bind=_bind_matmul, work=products)
def _matmul(call: Call, a: Array, b: Array) -> Any:
    if a.dtype != b.dtype:
        raise ShapeError(f"expected inputs of one type, found {a.dtype} and {b.dtype}")
    if a.ndim > 1 and b.ndim > 1:
        outer = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        call.allow((*outer, a.shape[-2], b.shape[-1]), a.dtype)
    # Half precision is summed in float32.
    wide = np.float32 if a.dtype == np.float16 else a.dtype
    return np.asarray(np.matmul(a, b, dtype=wide)).astype(a.dtype, copy=False)


def _bind_gemm(site: Site, constants: Sequence[Array | None]) -> tuple[Compute, int] | None:
    attributes = site.attributes
    kernel, bias = constants[1], constants[2] if len(constants) > 2 else None
    absent = len(site.node.inputs) < 3 or not site.node.inputs[2]
    if kernel is None or (bias is None and not absent) or (attributes["alpha"], attributes["beta"]) != (1.0, 1.0):
        return None
    linear = _matrix(site, kernel.T if attributes["transB"] else kernel, bias)
    if linear is None:
        return None
    features = kernel.shape[1 if attributes["transB"] else 0]

    def compute(call: Call, a: Array, kernel: Array, bias: Array | None = None) -> Any:
        a = a.T if call["transA"] else a
        if a.dtype != kernel.dtype or a.ndim != 2 or a.shape[1] != features:
            raise ShapeError(f"expected {kernel.dtype} (rows, {features}), found {a.dtype} {a.shape}")
        call.allow((a.shape[0], kernel.shape[0 if call["transB"] else 1]), a.dtype)
        return linear(np.ascontiguousarray(a))

    return compute, linear.memory_bytes


@operator("Gemm", inputs=(2, 3), bind=_bind_gemm, work=products, alpha=1.0, beta=1.0, transA=0, transB=0)
def _gemm(call: Call, a: Array, b: Array, c: Array | None = None) -> Any:
    if a.ndim != 2 or b.ndim != 2:
        raise ShapeError(f"expected two matrices, found shapes {a.shape} and {b.shape}")
    a, b = a.T if call["transA"] else a, b.T if call["transB"] else b
    call.allow((a.shape[0], b.shape[1]), a.dtype)
    product = np.matmul(a, b) * a.dtype.type(call["alpha"])
    if c is None:
        return product
    if np.broadcast_shapes(product.shape, c.shape) != product.shape:
        raise ShapeError(f"expected an addend that broadcasts to {product.shape}, found {c.shape}")
    return product + c * a.dtype.type(call["beta"])


@operator("Einsum", inputs=(1, 2), work=lambda *arrays: math.prod(a.size for a in arrays), equation=Required(str))
def _einsum(call: Call, *arrays: Array) -> Any:
    equation = call["equation"].replace(" ", "")
    if not re.fullmatch(r"[a-zA-Z.,]*(->[a-zA-Z.]*)?", equation):
        raise FormatError(f"attribute 'equation': expected letters, commas, dots and an arrow, found {equation!r:.60}")
    terms, _, shown = equation.partition("->")
    sizes: dict[str, int] = {}
    dots: list[tuple[int, ...]] = []
    for term, array in zip(terms.split(","), arrays, strict=True):
        first, ellipsis, last = term.partition("...")
        behind = array.ndim - len(last)
        sizes.update(zip(first, array.shape, strict=False))
        sizes.update(zip(last, array.shape[behind:], strict=False))
        dots += [array.shape[len(first) : behind]] if ellipsis else []
    if "->" not in equation:
        shown = "".join(letter for letter in sizes if terms.count(letter) == 1) + "."
    outer = np.broadcast_shapes(*dots) if "." in shown else ()
    call.allow([*outer, *(sizes.get(letter, 1) for letter in shown)], arrays[0].dtype)
    return np.einsum(equation, *arrays, optimize=True)
