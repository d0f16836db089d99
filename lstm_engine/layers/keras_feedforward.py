"""From the description of a Keras layer to the layer that computes: convolution, pooling, attention and their kin.

As ``keras_layers.py``, whose table takes up the functions of :data:`FEEDFORWARD`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from lstm_engine.errors import FormatError

from .attention import AdditiveAttention, Attention, MultiHeadAttention
from .base import Array, Layer
from .convolution import Conv1D, DepthwiseConv1D, SeparableConv1D
from .core import PReLU
from .keras_activations import number
from .keras_config import KerasConfig
from .merging import Dot
from .normalization import Normalization, Rescaling, UnitNormalization
from .pooling import AveragePooling1D, MaxPooling1D
from .shaping import Cropping1D, UpSampling1D, ZeroPadding1D
from .windows import Windows

__all__ = ["FEEDFORWARD"]


def _one(config: KerasConfig, option: str, default: int) -> int:
    """Return a whole number, which Keras writes in a list of one."""
    values = config.integers(option, (default,))
    if len(values) != 1:
        config.damaged(option, list(values), "one whole number")
    return values[0] if values else default


def _windows(config: KerasConfig, size: str, paddings: tuple[str, ...]) -> Windows:
    """Return where the windows lie: ``size`` is the option that says how long they are."""
    steps = _one(config, size, 2)
    # Without strides, a pooling layer goes on by its own size.
    pools = size == "pool_size"
    stride = steps if pools and config.layer.config.get("strides") is None else _one(config, "strides", 1)
    config.ignore("strides")
    padding = config.choice("padding", "valid", paddings)
    return Windows(steps, stride, _one(config, "dilation_rate", 1), str(padding), config.channels_first())


# --- Convolution and pooling ------------------------------------------------------------------------------------------


def _conv1d(config: KerasConfig) -> Layer:
    config.ignore("filters")
    for option in ("lora_rank", "quantization_config"):
        config.refuse(option, None)
    return Conv1D(
        config.weight("kernel"),
        _windows(config, "kernel_size", ("valid", "same", "causal")),
        config.weight_if(config.flag("use_bias", True), "bias"),
        config.activation("activation", "linear"),
        groups=config.integer("groups", 1),
    )


def _depthwise_conv1d(config: KerasConfig) -> Layer:
    # Keras 2 writes a number of groups that it never looks at.
    config.ignore("depth_multiplier", "groups", "filters")
    return DepthwiseConv1D(
        config.weight("depthwise_kernel"),
        _windows(config, "kernel_size", ("valid", "same")),
        config.weight_if(config.flag("use_bias", True), "bias"),
        config.activation("activation", "linear"),
    )


def _separable_conv1d(config: KerasConfig) -> Layer:
    config.ignore("depth_multiplier", "groups", "filters")
    return SeparableConv1D(
        config.weight("depthwise_kernel"),
        config.weight("pointwise_kernel"),
        _windows(config, "kernel_size", ("valid", "same", "causal")),
        config.weight_if(config.flag("use_bias", True), "bias"),
        config.activation("activation", "linear"),
    )


def _pooling(kind: Callable[[Windows], Layer]) -> Callable[[KerasConfig], Layer]:
    return lambda config: kind(_windows(config, "pool_size", ("valid", "same")))


# --- Shapes -----------------------------------------------------------------------------------------------------------


def _ends(config: KerasConfig, option: str) -> tuple[int, int]:
    """Return the steps at both ends: one number for both, or one for each."""
    values = config.integers(option, (1,))
    if not 1 <= len(values) <= 2:
        config.damaged(option, list(values), "one or two whole numbers")
        raise LookupError(option)
    return values[0], values[-1]


def _zero_padding1d(config: KerasConfig) -> Layer:
    return ZeroPadding1D(*_ends(config, "padding"), channels_first=config.channels_first())


def _cropping1d(config: KerasConfig) -> Layer:
    return Cropping1D(*_ends(config, "cropping"))


def _up_sampling1d(config: KerasConfig) -> Layer:
    return UpSampling1D(_one(config, "size", 2))


# --- Numbers ----------------------------------------------------------------------------------------------------------


def _array(config: KerasConfig, option: str, default: float) -> Array:
    """Return a number or nested lists of numbers: as they are, or as Keras writes NumPy's arrays."""
    config.ignore(option)
    value: Any = config.layer.config.get(option, default)
    if isinstance(value, dict):
        # {"class_name": "__numpy__", "config": {"value": ...}}; {"type": "ndarray", "value": ...} in legacy files.
        inner = value.get("config")
        value = inner.get("value") if isinstance(inner, dict) else value.get("value")
    if (single := number(value)) is not None:
        return np.asarray(single)
    try:
        array = np.asarray(value)
    except ValueError:
        array = np.asarray(None)
    if array.dtype.kind not in "iuf" or not np.isfinite(array).all() or array.ndim > 8:
        config.damaged(option, value, "a finite number or an array of them")
        raise LookupError(option)
    return array.astype(np.float64)


def _normalization(config: KerasConfig) -> Layer:
    axes = () if config.layer.config.get("axis", -1) is None else config.integers("axis", (-1,))
    config.ignore("axis", "mean", "variance")
    given = config.layer.config.get("mean") is not None
    mean, variance = (_array(config, name, 0.0) if given else _scalar_or(config, name) for name in ("mean", "variance"))
    # A mean of one row, (1, features), is as good as one of (features,).
    while given and mean.ndim > len(axes) and mean.shape[0] == 1 == variance.shape[0]:
        mean, variance = mean[0], variance[0]
    ends_mask = config.version.major < 3
    return Normalization(mean, variance, axes=axes, invert=config.flag("invert", False), ends_mask=ends_mask)


def _scalar_or(config: KerasConfig, name: str) -> Array:
    """Return a weight that may be a number without axes."""
    return config.weight(name).reshape(config.layer.weights[name].shape)


def _rescaling(config: KerasConfig) -> Layer:
    ends_mask = config.version.major < 3
    return Rescaling(_array(config, "scale", 1.0), _array(config, "offset", 0.0), ends_mask=ends_mask)


def _unit_normalization(config: KerasConfig) -> Layer:
    # Under the root until Keras 3.6: the root of 1e-12.
    least = 1e-12 if (config.version.major, config.version.minor) >= (3, 6) else 1e-6
    return UnitNormalization(config.integers("axis", (-1,)), least=least)


def _prelu(config: KerasConfig) -> Layer:
    config.ignore("shared_axes")  # the shape of alpha says it
    return PReLU(config.weight("alpha"))


def _dot(config: KerasConfig) -> Layer:
    axes = config.integers("axes", (-1,))
    if not 1 <= len(axes) <= 2:
        config.damaged("axes", list(axes), "one or two whole numbers")
        raise LookupError("axes")
    least = 1e-7 if config.version.major >= 3 else 1e-6
    return Dot((axes[0], axes[-1]), least_norm=least if config.flag("normalize", False) else None)


# --- Attention --------------------------------------------------------------------------------------------------------


def _call_flags(config: KerasConfig) -> tuple[bool, bool]:
    """Return whether the calls are causal and give scores, which their reader has put beside the options."""
    config.ignore("call_arguments")
    causal, scores = config.flag("use_causal_mask", False), config.flag("return_attention_scores", False)
    return config.flag("causal", False) or causal, scores


def _attention(config: KerasConfig) -> Layer:
    config.ignore("dropout", "seed")
    causal, scores = _call_flags(config)
    mode = config.choice("score_mode", "dot", ("dot", "concat"))
    return Attention(
        _scalar_or(config, "scale") if config.flag("use_scale", False) else None,
        _scalar_or(config, "concat_score_weight") if mode == "concat" else None,
        arguments=_arguments(config),
        causal=causal,
        gives_scores=scores,
        drops_mask=config.version.merging_drops_masks,
    )


def _additive_attention(config: KerasConfig) -> Layer:
    config.ignore("dropout", "seed")
    causal, scores = _call_flags(config)
    return AdditiveAttention(
        config.weight_if(config.flag("use_scale", True), "scale"),
        arguments=_arguments(config),
        causal=causal,
        gives_scores=scores,
        drops_mask=config.version.merging_drops_masks,
    )


_ATTENTION_ARGUMENTS: Final = {
    *("query", "value", "key", "attention_mask"),
    *("query_mask", "value_mask", "key_mask"),
}


def _arguments(config: KerasConfig) -> tuple[str, ...]:
    """Return what the inputs of an attention layer are, as the reader of the calls has found it."""
    found = config.layer.config.get("call_arguments")
    if not isinstance(found, list) or len(found) != len({*found} & _ATTENTION_ARGUMENTS):
        raise FormatError(f"expected to be called on a query and a value, found {found}")
    return tuple(found)


def _multi_head_attention(config: KerasConfig) -> Layer:
    config.ignore(
        "num_heads", "key_dim", "value_dim", "seed", "query_shape", "key_shape", "value_shape", "output_shape"
    )
    for option in ("use_gate", "softmax_robust_masking"):
        config.refuse(option, False)
    if config.layer.config.get("flash_attention"):
        config.unsupported("flash_attention", True, "None")
    config.ignore("flash_attention", "sliding_window", "attention_axes")
    axes = config.layer.config.get("attention_axes")
    if axes not in (None, 1, [1]):
        config.unsupported("attention_axes", axes, "the time axis, [1]")
    window = None if config.layer.config.get("sliding_window") is None else config.integer("sliding_window", 1)
    if window is not None and window < 1:
        config.damaged("sliding_window", window, "a positive whole number")
    use_bias = config.flag("use_bias", True)
    kernels: dict[str, Array] = {}
    biases: dict[str, Array] = {}
    for role in ("query", "key", "value", "output"):
        inner = config.layer.inner.get(f"{role}_dense")
        if inner is None:
            raise FormatError(f"expected the weights of {role}_dense, found none")
        part = KerasConfig(inner, config.version, config.problems, f" in {config.subject}")
        kernels[role] = part.weight("kernel")
        if use_bias:
            biases[role] = part.weight("bias")
    causal, scores = _call_flags(config)
    # Without dropout and scores Keras has used its backend's own attention since 3.7, and a softmax else, which has
    # left nothing to a step that sees nothing since 3.10.
    version = (config.version.major, config.version.minor)
    dropout = config.number("dropout", 0.0) > 0.0
    fused = version >= (3, 7) and not dropout and not scores
    return MultiHeadAttention(
        kernels,
        biases,
        arguments=_arguments(config),
        window=window,
        fused=fused,
        zeroes=version >= (3, 10) and not fused,
        causal=causal,
        gives_scores=scores,
    )


#: What makes each layer, by Keras's class name.
FEEDFORWARD: Final[dict[str, Callable[[KerasConfig], Layer]]] = {
    "AdditiveAttention": _additive_attention,
    "Attention": _attention,
    "AveragePooling1D": _pooling(AveragePooling1D),
    "Conv1D": _conv1d,
    "Cropping1D": _cropping1d,
    "DepthwiseConv1D": _depthwise_conv1d,
    "Dot": _dot,
    "MaxPooling1D": _pooling(MaxPooling1D),
    "MultiHeadAttention": _multi_head_attention,
    "Normalization": _normalization,
    "PReLU": _prelu,
    "Rescaling": _rescaling,
    "SeparableConv1D": _separable_conv1d,
    "UnitNormalization": _unit_normalization,
    "UpSampling1D": _up_sampling1d,
    "ZeroPadding1D": _zero_padding1d,
}
