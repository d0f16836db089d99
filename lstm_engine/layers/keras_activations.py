"""What Keras means by an activation in a layer's configuration, version by version.

A configuration names an activation by a string, or holds a serialised layer such as LeakyReLU(0.1). What a name
means has changed: ``hard_sigmoid`` is clip(0.2 x + 0.5, 0, 1) in Keras 1 and 2 and clip(x / 6 + 0.5, 0, 1) in Keras 3.
Nothing that a configuration names is looked up anywhere but in the tables of this file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from lstm_engine.activations import Activation
from lstm_engine.errors import FormatError, UnsupportedModelError

from .functions import ClippedReLU, Composed, LayerActivation, LogSoftmax, Softmax

__all__ = ["KerasVersion", "activation_from_keras", "clipped_relu", "gate_activation_from_keras", "number"]


class KerasVersion:
    """The version of Keras that wrote a file, and what depends on it.

    Parameters
    ----------
    text
        As in the file, such as ``"3.15.1"``, ``"2.4.0"``, ``"2.2.4-tf"`` or ``"1"``.

    Raises
    ------
    FormatError
        If it is no version.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        found = re.match(r"([0-9]{1,4})(?![0-9])(?:\.([0-9]{1,4})(?![0-9]))?", text)
        if found is None:
            raise FormatError(f"keras_version: expected a version such as '3.4.1', found {text[:40]!r}")
        self.major, self.minor = int(found.group(1)), int(found.group(2) or 0)
        # What calls itself 2.2.4-tf or 2.4 and later is the Keras within TensorFlow.
        self._within_tensorflow = "tf" in text or (self.major, self.minor) >= (2, 4)

    @property
    def joins_masks_by_or(self) -> bool:
        """Whether merging layers join masks by "or", as since 3.4, and not by "and"."""
        return (self.major, self.minor) >= (3, 4)

    @property
    def merging_drops_masks(self) -> bool:
        """Whether merging layers give no mask: Keras 3.0 to 3.3 lost it on the way (seen in 3.0.5, 3.3.3)."""
        return (3, 0) <= (self.major, self.minor) < (3, 4)

    @property
    def ignores_mask_with_state(self) -> bool:
        """Whether a recurrent layer that is given an initial state does not see the mask of its input (Keras 3)."""
        return self.major >= 3

    @property
    def zeroes_masked_bidirectional(self) -> bool:
        """Whether masked steps of a Bidirectional layer that returns sequences give zeros.

        The Keras outside of TensorFlow never did, up to its last version, 2.3.1.
        """
        return self._within_tensorflow

    @property
    def time_distributed_keeps_mask(self) -> bool:
        """Whether the mask passes a TimeDistributed layer as it is, whatever the wrapped layer does to masks."""
        return self.major >= 3


#: Activations that mean the same in every version. ``leaky_relu`` has a slope of 0.2 by name, in Keras 2 and 3
#: (TensorFlow's own default), but of 0.3 as a layer.
_NAMED: Final[dict[str, LayerActivation]] = {
    "elu": Activation("elu", 1.0),
    "exponential": Activation("exponential"),
    "gelu": Activation("gelu"),
    "hard_silu": Composed("hard_silu"),
    "hard_swish": Composed("hard_silu"),
    "hard_tanh": Composed("hard_tanh"),
    "leaky_relu": Activation("leaky_relu", 0.2),
    "linear": Activation("linear"),
    "log_sigmoid": Composed("log_sigmoid"),
    "log_softmax": LogSoftmax(),
    "mish": Composed("mish"),
    "relu": Activation("relu"),
    "relu6": Composed("relu6"),
    "selu": Activation("selu"),
    "sigmoid": Activation("sigmoid"),
    "silu": Activation("silu"),
    "softmax": Softmax(),
    "softplus": Activation("softplus"),
    "softsign": Activation("softsign"),
    "swish": Activation("silu"),
    "tanh": Activation("tanh"),
}


#: The version of Keras that first had an activation of a name: in an older file it is one of the author's own, whatever
#: it computes (a ``gelu`` of the time before is the approximation by tanh as often as not).
_SINCE: Final = {
    "gelu": (2, 4),
    "hard_silu": (3, 0),
    "hard_swish": (3, 0),
    "hard_tanh": (3, 0),
    "log_sigmoid": (3, 0),
    "mish": (2, 12),
    "swish": (2, 3),
}

#: Packages whose functions are Keras's own.
_PACKAGES: Final = ("keras", "tensorflow", "tf_keras")

#: Greatest float32.
_GREATEST: Final = 3.4028234663852886e38


def number(value: Any) -> float | None:
    """Return a number of a configuration, or None if it is none, or none that float32 holds.

    Keras 2 wrote NumPy numbers as ``{"type": ..., "value": x}`` or as text, Keras 3 as ``{"config": {"value": x}}``.
    """
    if isinstance(value, Mapping):
        inner = value.get("config")
        value = inner.get("value") if isinstance(inner, Mapping) else value.get("value")
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= _GREATEST:
        return None
    return float(value)


def clipped_relu(max_value: float | None, negative_slope: float, threshold: float) -> LayerActivation:
    """Return Keras's relu with these options in its simplest form."""
    if max_value is None and threshold == 0.0:
        return Activation("relu") if negative_slope == 0.0 else Activation("leaky_relu", negative_slope)
    return ClippedReLU(max_value, negative_slope, threshold)


def _relu_layer(config: Mapping[str, Any]) -> LayerActivation:
    numbers = [number(config.get(name, 0.0)) for name in ("negative_slope", "threshold")]
    limit = config.get("max_value")
    if None in numbers or (limit is not None and number(limit) is None):
        raise UnsupportedModelError("a ReLU whose options are no numbers")
    slope, threshold = (value or 0.0 for value in numbers)
    return clipped_relu(None if limit is None else number(limit), slope, threshold)


def _leaky_relu_layer(config: Mapping[str, Any]) -> LayerActivation:
    # Called alpha in Keras 2.
    slope = number(config.get("negative_slope", config.get("alpha", 0.3)))
    if slope is None:
        raise UnsupportedModelError("a LeakyReLU whose slope is no number")
    return Activation("leaky_relu", slope)


def _elu_layer(config: Mapping[str, Any]) -> LayerActivation:
    alpha = number(config.get("alpha", 1.0))
    if alpha is None:
        raise UnsupportedModelError("an ELU whose alpha is no number")
    return Activation("elu", alpha)


def _softmax_layer(config: Mapping[str, Any]) -> LayerActivation:
    axis = config.get("axis", -1)
    if isinstance(axis, list) and len(axis) == 1:
        (axis,) = axis
    if not isinstance(axis, int) or isinstance(axis, bool):
        raise UnsupportedModelError(f"a Softmax over axis {axis!r}; expected one axis")
    return Softmax(axis)


#: Layers that stand for an activation, by class name.
_LAYERS: Final[dict[str, Callable[[Mapping[str, Any]], LayerActivation]]] = {
    "ELU": _elu_layer,
    "LeakyReLU": _leaky_relu_layer,
    "ReLU": _relu_layer,
    "Softmax": _softmax_layer,
}


def activation_from_keras(value: Any, version: KerasVersion) -> LayerActivation:
    """Return the activation that a configuration means.

    Parameters
    ----------
    value
        The configuration's value: None, a name, or a serialised function or layer.
    version
        Keras's version.

    Raises
    ------
    UnsupportedModelError
        If it is not implemented; the message says what was found, for the caller to say where.
    """
    if value is None:
        return None
    if isinstance(value, Mapping):
        kind, config = value.get("class_name"), value.get("config")
        layer = _LAYERS.get(kind) if isinstance(kind, str) else None
        if layer is not None and isinstance(config, Mapping) and value.get("registered_name") in (None, kind):
            return layer(config)
        own = str(value.get("module", "keras")).partition(".")[0] in _PACKAGES
        if kind == "function" and isinstance(config, str) and own:
            value = config
        else:
            raise UnsupportedModelError(f"{config if kind == 'function' else kind!r}, a custom activation")
    if value == "hard_sigmoid":
        return Activation("hard_sigmoid", 1.0 / 6.0 if version.major >= 3 else 0.2, 0.5)
    if not isinstance(value, str) or value not in _NAMED:
        raise UnsupportedModelError(repr(value))
    if (version.major, version.minor) < _SINCE.get(value, (0, 0)):
        raise UnsupportedModelError(f"{value!r}, which Keras {version.text:.40} does not have: a custom activation")
    return _NAMED[value]


def gate_activation_from_keras(value: Any, version: KerasVersion) -> Activation:
    """Return the activation of an LSTM's gates: as :func:`activation_from_keras`, of one value at a time.

    Raises
    ------
    UnsupportedModelError
        If it is not implemented, or not for the gates of an LSTM.
    """
    activation = activation_from_keras(value, version)
    if activation is None:
        return Activation("linear")
    if not isinstance(activation, Activation):
        shown = value if isinstance(value, str) else value.get("class_name")
        raise UnsupportedModelError(f"{shown!r}, which is supported in other layers but not within an LSTM")
    return activation
