"""Attention: Luong's and Bahdanau's between two sequences, and that of several heads.

Everything here works on whole sequences (batch, time, features). ``scores`` has (batch, ..., query steps, value
steps); its softmax over the value steps weighs the values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from lstm_engine.activations import Activation
from lstm_engine.errors import FormatError, ShapeError, UnsupportedModelError

from .base import Array, Context, Layer, Mask, Shape, Tensor, frozen_copy, same_shape
from .merging import matmul
from .numerics import LinearMap, Numerics

__all__ = ["AdditiveAttention", "Attention", "MultiHeadAttention"]

#: What the framework takes off the score of a masked step.
_MASKED: float = 1e9
#: What it puts in place of one in its fused attention: 0.7 times the greatest bfloat16.
_FUSED_MASKED: float = -0.7 * 3.38953e38

_TANH = Activation("tanh")


def _joined(mask: Mask | None, other: Mask | None) -> Mask | None:
    return (other if mask is None else mask) if mask is None or other is None else mask & other


def _causal(queries: int, values: int) -> Mask:
    """Return (queries, values): a step sees itself and what came before."""
    return np.tri(queries, values, dtype=np.bool_)


def _named(arguments: Sequence[str], shapes: Sequence[Shape]) -> dict[str, Shape]:
    """Return the shapes of the inputs by name, those of query, value and key checked."""
    if len(arguments) != len(shapes) or list(arguments[:2]) != ["query", "value"]:
        raise FormatError(f"expected inputs for {', '.join(arguments)}, found {len(shapes)}")
    given = dict(zip(arguments, shapes, strict=True))
    for role in ("query", "value", "key"):
        shape = given.get(role, given["value"])
        if len(shape) != 3:
            raise UnsupportedModelError(f"a {role} of shape {shape} is not supported; expected (batch, time, features)")
        if f"{role}_mask" in given:
            same_shape(given[f"{role}_mask"], shape[:2])
    return given


def _padding(given: Mapping[str, Tensor], role: str) -> Mask | None:
    """Return the mask of an input: the one that is given for it, else the one that travels with it."""
    explicit = given.get(f"{role}_mask")
    if explicit is not None:
        return np.asarray(explicit.values != 0)
    return given[role].mask if role in given else None


def _weighted(
    layer: Layer, scores: Array, values: Array, mask: Mask | None, *, fused: bool = False
) -> tuple[Array, Array]:
    """Return what the attention gives, and the weights: the softmax of the scores over the last axis."""
    assert layer.numerics is not None
    if mask is not None:
        masked = scores.dtype.type(_FUSED_MASKED) if fused else scores - scores.dtype.type(_MASKED)
        try:
            scores = np.where(np.broadcast_to(mask, scores.shape), scores, masked)
        except ValueError:
            raise ShapeError(
                f"mask of {layer.name}: expected a shape that fits scores of {scores.shape}, found {mask.shape}"
            ) from None
    weights = layer.numerics.softmax(np.ascontiguousarray(scores)) if scores.size else scores
    return matmul(weights, values), weights


class _DenseAttention(Layer):
    """Attention of a query to values by the scores of keys, without weight matrices.

    The inputs are query, value and, where it is not the value, key. What masked values have is not looked at; the
    output has the query's mask, and zeros where the query is masked.

    Parameters
    ----------
    arguments
        The names of the inputs; after those that are named above come ``query_mask`` and ``value_mask``, where these
        are given and do not travel along.
    causal
        Whether a step of the query sees the values up to its own number alone.
    gives_scores
        Whether the weights are a second output.
    drops_mask
        Whether the output has no mask, as in Keras 3.0 to 3.3.
    name
        The layer's name; a model gives it one if None.
    """

    uses_mask: ClassVar[bool] = True

    def __init__(
        self,
        *,
        arguments: Sequence[str] = ("query", "value"),
        causal: bool = False,
        gives_scores: bool = False,
        drops_mask: bool = False,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        self.arguments = tuple(arguments)
        self.causal, self.gives_scores, self.drops_mask = causal, gives_scores, drops_mask

    def output_shapes(self, shapes: Sequence[Shape]) -> tuple[Shape, ...]:
        given = _named(self.arguments, shapes)
        query, value = shapes[0], shapes[1]
        key = given.get("key", value)
        same_shape((query[2],), (key[2],))
        same_shape(value[:2], key[:2])
        output: Shape = (query[0], query[1], value[2])
        return (output, (query[0], query[1], value[1])) if self.gives_scores else (output,)

    def call(self, inputs: Sequence[Tensor], context: Context) -> tuple[Tensor, ...]:
        given = dict(zip(self.arguments, inputs, strict=True))
        query, value = inputs[0], inputs[1]
        key = given.get("key", value)
        if key.values.shape[1] != value.values.shape[1] or query.values.shape[2] != key.values.shape[2]:
            found = " and ".join(str(tensor.values.shape) for tensor in inputs)
            raise ShapeError(f"inputs of {self.name}: expected shapes that fit each other, found {found}")
        scores = self._scores(query.values, key.values)
        query_mask, value_mask = _padding(given, "query"), _padding(given, "value")
        mask = None if value_mask is None else value_mask[:, None, :]
        if self.causal:
            mask = _joined(mask, _causal(*scores.shape[1:]))
        y, weights = _weighted(self, scores, value.values, mask)
        if query_mask is not None:
            y = np.where(query_mask[:, :, None], y, np.zeros((), y.dtype))
        output = Tensor(y, None if self.drops_mask else query_mask)
        return (output, Tensor(weights)) if self.gives_scores else (output,)

    def _scores(self, query: Array, key: Array) -> Array:
        """Return (batch, query steps, key steps)."""
        raise NotImplementedError

    def _summed_tanh(self, query: Array, key: Array, inner: Array | None, weights: Array) -> Array:
        """Return the sum over the features of ``weights * tanh(inner * (query + key))``.

        One step of the query at a time: all of them would take the features times the memory of the scores.
        """
        assert self.numerics is not None
        scores = np.empty((*query.shape[:2], key.shape[1]), query.dtype)
        for step in range(query.shape[1]):
            sums = query[:, step, None, :] + key
            bent = self.numerics.activate(np.ascontiguousarray(sums if inner is None else inner * sums), _TANH)
            scores[:, step] = matmul(bent, weights[:, None])[..., 0]
        return scores


class Attention(_DenseAttention):
    """Luong's attention: ``scale * query @ key``, or the sum of ``tanh(scale * (query + key))`` times a weight.

    Parameters
    ----------
    scale
        A number as an array without axes, or None for none.
    concat_weight
        The weight of the second kind of scores, likewise; None for the first kind.
    name, **options
        As in :class:`_DenseAttention`.
    """

    kind = "Attention"

    def __init__(
        self,
        scale: Array | None = None,
        concat_weight: Array | None = None,
        *,
        name: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(name=name, **options)
        self.scale = None if scale is None else frozen_copy(scale)
        self.concat_weight = None if concat_weight is None else frozen_copy(concat_weight)

    def weights(self) -> dict[str, Array]:
        named = {"scale": self.scale, "concat_score_weight": self.concat_weight}
        return {name: array for name, array in named.items() if array is not None}

    def _scores(self, query: Array, key: Array) -> Array:
        scale = None if self.scale is None else self.scale.astype(query.dtype)
        if self.concat_weight is None:
            scores = matmul(query, key.swapaxes(1, 2))
            return scores if scale is None else np.asarray(scores * scale)
        ones = np.ones(query.shape[2], query.dtype)
        return np.asarray(self._summed_tanh(query, key, scale, ones) * self.concat_weight.astype(query.dtype))


class AdditiveAttention(_DenseAttention):
    """Bahdanau's attention: the sum of ``scale * tanh(query + key)`` over the features.

    Parameters
    ----------
    scale
        (features,), or None for ones.
    name, **options
        As in :class:`_DenseAttention`.
    """

    kind = "AdditiveAttention"

    def __init__(
        self,
        scale: Array | None = None,
        *,
        name: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(name=name, **options)
        self.scale = None if scale is None else frozen_copy(scale)

    def weights(self) -> dict[str, Array]:
        return {} if self.scale is None else {"scale": self.scale}

    def output_shapes(self, shapes: Sequence[Shape]) -> tuple[Shape, ...]:
        outputs = super().output_shapes(shapes)
        if self.scale is not None and shapes[0][2] not in (None, *self.scale.shape):
            raise FormatError(f"its scale has shape {self.scale.shape}, its query has shape {shapes[0]}")
        return outputs

    def _scores(self, query: Array, key: Array) -> Array:
        features = query.shape[2]
        scale = np.ones(features, query.dtype) if self.scale is None else self.scale
        return self._summed_tanh(query, key, None, scale)


class MultiHeadAttention(Layer):
    """Attention of several heads, each with its own view of query, key and value (Vaswani et al. 2017).

    The inputs are query, value and, where given, key and a mask of (batch, query steps, value steps) or (batch, heads,
    query steps, value steps). The output has the query's mask.

    Parameters
    ----------
    kernels
        ``query`` and ``key`` (features, heads, key size), ``value`` (features, heads, value size), ``output`` (heads,
        value size, features ...).
    biases
        The same without their first axis, and without the first two for the output; or empty for none.
    arguments
        The names of the inputs.
    causal, gives_scores
        As in :class:`Attention`, the scores for each head.
    window
        Steps of the query's number on either side, its own included, that a step of it sees; None for all.
    fused, zeroes
        What a step of the query gets that sees nothing at all. ``fused``: the mean of all values. ``zeroes``: zeros.
        Neither: its scores count as if nothing were masked, as far as float32 has digits for them beside 1e9.
    name
        The layer's name; a model gives it one if None.
    """

    kind = "MultiHeadAttention"
    uses_mask: ClassVar[bool] = True
    _prepared: ClassVar[tuple[str, ...]] = ("_maps",)

    def __init__(
        self,
        kernels: Mapping[str, Array],
        biases: Mapping[str, Array],
        *,
        arguments: Sequence[str] = ("query", "value"),
        causal: bool = False,
        gives_scores: bool = False,
        window: int | None = None,
        fused: bool = True,
        zeroes: bool = False,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        self.kernels = {role: frozen_copy(kernel) for role, kernel in kernels.items()}
        self.biases = {role: frozen_copy(bias) for role, bias in biases.items()}
        self.arguments, self.causal, self.gives_scores = tuple(arguments), causal, gives_scores
        self.window, self.fused, self.zeroes = window, fused, zeroes
        self._maps: dict[str, LinearMap]
        _, self.heads, self.key_size = self.kernels["query"].shape
        heads = {role: self.kernels[role].shape[0 if role == "output" else 1] for role in self.kernels}
        if len(set(heads.values())) > 1 or self.kernels["key"].shape[2] != self.key_size:
            shapes = ", ".join(f"{role} {kernel.shape}" for role, kernel in self.kernels.items())
            raise FormatError(f"kernels: expected as many heads in each and keys as long as queries, found {shapes}")

    def weights(self) -> dict[str, Array]:
        named: dict[str, Array] = {}
        for role, kernel in self.kernels.items():
            named[f"{role}/kernel"] = kernel
            if role in self.biases:
                named[f"{role}/bias"] = self.biases[role]
        return named

    def memory_bytes(self) -> int:
        packed = sum(one.memory_bytes for one in self._maps.values()) if self.numerics is not None else 0
        return super().memory_bytes() + packed

    def _prepare(self, numerics: Numerics) -> None:
        self._maps = {}
        for role, kernel in self.kernels.items():
            rows = math.prod(kernel.shape[:2]) if role == "output" else kernel.shape[0]
            bias = self.biases[role].ravel() if role in self.biases else None
            self._maps[role] = numerics.linear(kernel.reshape(rows, -1), bias)

    def output_shapes(self, shapes: Sequence[Shape]) -> tuple[Shape, ...]:
        given = _named(self.arguments, shapes)
        query, value = shapes[0], shapes[1]
        key = given.get("key", value)
        for role, shape in (("query", query), ("value", value), ("key", key)):
            if shape[2] not in (None, self.kernels[role].shape[0]):
                raise FormatError(f"its {role} kernel has shape {self.kernels[role].shape}, its {role} {shape}")
        same_shape(value[:2], key[:2])
        mask = given.get("attention_mask")
        if mask is not None and len(mask) not in (3, 4):
            raise UnsupportedModelError(
                f"attention_mask of shape {mask} is not supported; expected (batch, query steps, value steps)"
            )
        output: Shape = (*query[:2], *self.kernels["output"].shape[2:])
        return (output, (query[0], self.heads, query[1], value[1])) if self.gives_scores else (output,)

    def _mask(self, given: Mapping[str, Tensor]) -> Mask | None:
        """Return all masks in one, (batch, heads or 1, query steps, value steps) or what is broadcast to it."""
        queries, values = (given[role].values.shape[1] for role in ("query", "value"))
        seeing = _padding(given, "query")
        mask = None if seeing is None else seeing[:, None, :, None]
        for role in ("value", "key"):
            if (padding := _padding(given, role)) is not None:
                mask = _joined(mask, padding[:, None, None, :])
        if self.causal:
            mask = _joined(mask, _causal(queries, values))
        if self.window is not None:
            distance = np.arange(queries)[:, None] - np.arange(values)
            mask = _joined(mask, np.abs(distance) < self.window)
        if "attention_mask" in given:
            seen = given["attention_mask"].values != 0
            mask = _joined(mask, seen[:, None] if seen.ndim == 3 else seen)
        return mask

    def call(self, inputs: Sequence[Tensor], context: Context) -> tuple[Tensor, ...]:
        given = dict(zip(self.arguments, inputs, strict=True))
        query, value = given["query"], given["value"]
        key = given.get("key", value)
        if key.values.shape[1] != value.values.shape[1]:
            raise ShapeError(
                f"inputs of {self.name}: expected a key for each value, found {key.values.shape} and "
                f"{value.values.shape}"
            )
        queries = self._headed("query", query) * query.values.dtype.type(1.0 / math.sqrt(self.key_size))
        keys, values = self._headed("key", key), self._headed("value", value)
        mask = self._mask(given)
        scores = matmul(queries, keys.swapaxes(2, 3))
        y, weights = _weighted(self, scores, values, mask, fused=self.fused)
        if self.zeroes and mask is not None:
            unseen = ~mask.any(axis=-1, keepdims=True)
            y, weights = (np.where(unseen, np.zeros((), y.dtype), one) for one in (y, weights))
        batch, heads, steps, size = y.shape
        flat = np.ascontiguousarray(y.swapaxes(1, 2)).reshape(batch, steps, heads * size)
        shape = self.kernels["output"].shape[2:]
        output = Tensor(np.asarray(self._maps["output"](flat)).reshape(batch, steps, *shape), query.mask)
        return (output, Tensor(weights)) if self.gives_scores else (output,)

    def _headed(self, role: str, tensor: Tensor) -> Array:
        """Return (batch, heads, time, size)."""
        y = np.asarray(self._maps[role](tensor.values))
        return y.reshape(*y.shape[:2], self.heads, self.kernels[role].shape[2]).swapaxes(1, 2)
