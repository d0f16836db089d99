"""From the description of a Keras layer to the layer that computes.

A new Keras layer is a function here, under its class name in :data:`BUILDERS`; the reader's own list of layers is in
``formats/keras_layers.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from lstm_engine.description import LayerDescription
from lstm_engine.errors import UnsupportedModelError

from .base import Layer, Shape
from .bidirectional import BidirectionalLayer
from .connecting import connect, input_shape
from .core import Activate, Dense, Embedding, Identity, Masking
from .graph import GraphBuilder
from .keras_activations import KerasVersion, clipped_relu
from .keras_config import KerasConfig, Problems
from .keras_feedforward import FEEDFORWARD
from .keras_recurrent import bidirectional, recurrent
from .merging import Concatenate, Merge
from .normalization import BatchNormalization, LayerNormalization
from .operations import OPERATIONS, Operation
from .pooling import GlobalAveragePooling1D, GlobalMaxPooling1D
from .recurrent import RecurrentLayer
from .shaping import Flatten, Permute, RepeatVector, Reshape
from .submodel import Submodel
from .wrappers import TimeDistributed

__all__ = ["BUILDERS", "build_layer"]

Builder = Callable[[KerasConfig], Layer]


def build_layer(
    description: LayerDescription, version: KerasVersion, problems: Problems, where: str = ""
) -> Layer | None:
    """Return the layer that a description means, or None if that is not possible; all problems are noted.

    Parameters
    ----------
    description
        The layer.
    version
        Keras's version.
    problems
        Where problems are noted.
    where
        What the layer is part of, for messages.
    """
    config = KerasConfig(description, version, problems, where)
    if description.class_name in OPERATIONS and "trainable" not in description.config:
        builder: Builder | None = _operation
    else:
        builder = BUILDERS.get(description.class_name) if description.model is None else _submodel
    if builder is None:
        problems.unsupported.append(f"{config.subject} is not supported")
        return None
    layer = config.built(builder)
    return None if layer is None else layer.renamed(description.name)


# --- Core layers --------------------------------------------------------------------------------------------------


def _dense(config: KerasConfig) -> Layer:
    config.ignore("units")
    for option in ("lora_rank", "quantization_config"):
        config.refuse(option, None)
    use_bias = config.flag("use_bias", True)
    activation = config.activation("activation", "linear")
    return Dense(config.weight("kernel"), config.weight_if(use_bias, "bias"), activation)


def _embedding(config: KerasConfig) -> Layer:
    config.ignore("input_dim", "output_dim", "input_length", "sparse")
    for option in ("lora_rank", "quantization_config"):
        config.refuse(option, None)
    return Embedding(config.weight("embeddings"), config.flag("mask_zero", False))


def _masking(config: KerasConfig) -> Layer:
    return Masking(config.number("mask_value", 0.0))


def _activation(config: KerasConfig) -> Layer:
    return Activate(config.activation("activation", "linear"))


def _activation_layer(config: KerasConfig) -> Layer:
    """ELU, LeakyReLU and Softmax: what the layer's own configuration says as an activation."""
    kind = config.layer.class_name
    config.ignore("alpha", "negative_slope", "axis", "robust_masking")
    as_activation = {"class_name": kind, "config": config.layer.config}
    holder = KerasConfig(
        LayerDescription(config.layer.name, kind, {"activation": as_activation}), config.version, config.problems
    )
    return Activate(holder.activation("activation", "linear"), kind=kind)


def _relu(config: KerasConfig) -> Layer:
    activation = clipped_relu(
        config.number_or_none("max_value"), config.number("negative_slope", 0.0), config.number("threshold", 0.0)
    )
    return Activate(activation, kind="ReLU")


#: What a layer that does nothing at inference may be told, by class name.
_TRAINING_OPTIONS: Final[dict[str, tuple[str, ...]]] = {
    "ActivityRegularization": ("l1", "l2"),
    "AlphaDropout": ("rate", "seed", "noise_shape"),
    "Dropout": ("rate", "seed", "noise_shape"),
    "GaussianDropout": ("rate", "seed"),
    "GaussianNoise": ("stddev", "seed"),
    "SpatialDropout1D": ("rate", "seed", "noise_shape"),
}


def _identity(config: KerasConfig) -> Layer:
    kind = config.layer.class_name
    config.ignore(*_TRAINING_OPTIONS[kind])
    return Identity(kind=kind)


# --- Shapes, normalization, merging, pooling ------------------------------------------------------------------------


def _flatten(config: KerasConfig) -> Layer:
    return Flatten(channels_first=config.channels_first())


def _reshape(config: KerasConfig) -> Layer:
    # None stands for a size that is left to be worked out, as -1 does.
    target = config.layer.config.get("target_shape")
    config.ignore("target_shape")
    if not isinstance(target, list) or any(
        size is not None and (not isinstance(size, int) or isinstance(size, bool)) for size in target
    ):
        config.damaged("target_shape", target, "a list of sizes")
        raise LookupError("target_shape")
    return Reshape([-1 if size is None else size for size in target])


def _permute(config: KerasConfig) -> Layer:
    return Permute(config.integers("dims", ()))


def _repeat_vector(config: KerasConfig) -> Layer:
    return RepeatVector(config.integer("n", 0))


def _batch_normalization(config: KerasConfig) -> Layer:
    # Renormalization, synchronization and virtual batches concern training.
    config.ignore("momentum", "synchronized", "renorm", "renorm_clipping", "renorm_momentum", "fused")
    config.refuse("virtual_batch_size", None)
    config.refuse("adjustment", None)
    axes = config.integers("axis", (-1,))
    if len(axes) != 1:
        config.unsupported("axis", list(axes), "one axis")
        raise LookupError("axis")
    return BatchNormalization(
        config.weight("moving_mean"),
        config.weight("moving_variance"),
        config.weight_if(config.flag("scale", True), "gamma"),
        config.weight_if(config.flag("center", True), "beta"),
        epsilon=config.number("epsilon", 1e-3),
        axis=axes[0],
    )


def _layer_normalization(config: KerasConfig) -> Layer:
    by_variance = config.flag("rms_scaling", False)
    scale, center = config.flag("scale", True), config.flag("center", True)
    return LayerNormalization(
        config.weight_if(scale or by_variance, "gamma"),
        config.weight_if(center and not by_variance, "beta"),
        epsilon=config.number("epsilon", 1e-3),
        axes=config.integers("axis", (-1,)),
        by_variance=by_variance,
    )


def _merge(config: KerasConfig) -> Layer:
    version = config.version
    return Merge(config.layer.class_name, any_mask=version.joins_masks_by_or, drops_mask=version.merging_drops_masks)


def _concatenate(config: KerasConfig) -> Layer:
    version = config.version
    return Concatenate(
        config.integer("axis", -1), any_mask=version.joins_masks_by_or, drops_mask=version.merging_drops_masks
    )


def _pooling(kind: Callable[..., Layer]) -> Builder:
    def build(config: KerasConfig) -> Layer:
        return kind(channels_first=config.channels_first(), keep_axis=config.flag("keepdims", False))

    return build


# --- Wrappers and operations ----------------------------------------------------------------------------------------


def _time_distributed(config: KerasConfig) -> Layer:
    config.ignore("layer")
    inner = config.layer.inner.get("layer")
    if inner is None:
        config.damaged("layer", None, "a layer")
        raise LookupError("layer")
    layer = build_layer(inner, config.version, config.problems, f" in {config.subject}")
    if layer is None:
        raise LookupError("layer")
    if layer.time_major and (
        not isinstance(layer, BidirectionalLayer | RecurrentLayer)
        or not layer.options.return_sequences
        or any(part.config.get("stateful") for part in (inner, *inner.inner.values()))
    ):
        raise UnsupportedModelError(
            f"time_major=True of {inner.name!r} is not supported here; expected a recurrent layer of "
            "return_sequences=True and stateful=False, for tf-keras takes the batch and the steps together for its "
            "time and fails on the last step, and by a stateful layer or a model it takes the batch"
        )
    return TimeDistributed(layer, keeps_mask=config.version.time_distributed_keeps_mask)


def _submodel(config: KerasConfig) -> Layer:
    """Return a model within a wrapper; a model in the place of a layer has been taken apart by the reader."""
    config.ignore("input_layers")
    description = config.layer.model
    assert description is not None
    problems = config.problems
    noted = len(problems)
    inputs: dict[str, Shape] = {}
    layers: dict[str, Layer] = {}
    for part in description.layers:
        if part.class_name == "InputLayer":
            inputs[part.name] = input_shape(part, problems)
        elif (built := build_layer(part, config.version, problems, f" in {config.subject}")) is not None:
            layers[part.name] = built
    if len(problems) > noted:
        raise LookupError("model")
    builder = GraphBuilder()
    slots = connect(description, inputs, layers, builder, problems)
    if len(problems) > noted:
        raise LookupError("model")
    return Submodel(builder.build([slots[ref] for ref in description.outputs]))


def _operation(config: KerasConfig) -> Layer:
    kind = config.layer.class_name
    config.refuse("dtype", config.layer.config.get("dtype") if kind in ("OnesLike", "ZerosLike") else None)
    axes: tuple[int, ...] | None = None
    if kind in ("All", "Any"):
        axes = None if config.layer.config.get("axis") is None else config.integers("axis", (-1,))
        config.ignore("axis")
    elif kind in ("Concatenate", "ExpandDims"):
        axes = (config.integer("axis", -1),)
    return Operation(kind, axes=axes, keep_axes=config.flag("keepdims", False), operand=config.number("x2", 0.0))


#: What makes each layer, by Keras's class name.
BUILDERS: Final[dict[str, Builder]] = {
    "Activation": _activation,
    "Add": _merge,
    "Average": _merge,
    "BatchNormalization": _batch_normalization,
    "Bidirectional": bidirectional,
    "Concatenate": _concatenate,
    "Dense": _dense,
    "ELU": _activation_layer,
    "Embedding": _embedding,
    "Flatten": _flatten,
    "GlobalAveragePooling1D": _pooling(GlobalAveragePooling1D),
    "GlobalMaxPooling1D": _pooling(GlobalMaxPooling1D),
    "GRU": recurrent,
    "LSTM": recurrent,
    "LayerNormalization": _layer_normalization,
    "LeakyReLU": _activation_layer,
    "Masking": _masking,
    "Maximum": _merge,
    "Minimum": _merge,
    "Multiply": _merge,
    "Permute": _permute,
    "RNN": recurrent,
    "ReLU": _relu,
    "RepeatVector": _repeat_vector,
    "Reshape": _reshape,
    "SimpleRNN": recurrent,
    "Softmax": _activation_layer,
    "Subtract": _merge,
    "TimeDistributed": _time_distributed,
    **FEEDFORWARD,
    **dict.fromkeys(_TRAINING_OPTIONS, _identity),
}
