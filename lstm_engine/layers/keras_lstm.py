"""An LSTM alone out of a Keras file or a Keras layer object: what ``le.LSTM.from_keras`` takes over."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Final

from lstm_engine.description import LayerDescription
from lstm_engine.errors import FormatError, UnsupportedModelError, raise_together
from lstm_engine.weights import LSTMWeights

from .base import Layer
from .bidirectional import BidirectionalLayer
from .keras_activations import KerasVersion
from .keras_config import Problems
from .keras_layers import build_layer
from .recurrent import LSTMLayer

__all__ = ["lstm_from_keras"]

_KINDS: Final = ("LSTM", "RNN", "Bidirectional")

#: What holds cells or layers, and is an LSTM if all that it holds are.
_HOLDERS: Final = ("RNN", "StackedRNNCells", "Bidirectional")

#: Packages whose layers are Keras's own.
_PACKAGES: Final = ("keras", "tf_keras", "tensorflow")


def lstm_from_keras(
    source: str | os.PathLike[str] | Any, layer: str | None = None
) -> tuple[LSTMWeights, dict[str, Any]]:
    """Return the weights of a layer of LSTM cells, and how it combines and masks its outputs.

    An LSTM layer, an RNN of one LSTMCell or of several of one size, or a Bidirectional of either with one cell.

    Parameters
    ----------
    source
        Path of a ``.keras`` or ``.h5`` file, or a Keras layer that has been built. Keras is not imported.
    layer
        Name of the layer in a file; None if there is only one.

    Returns
    -------
    weights
        One layer; ``"reverse"`` for a layer that goes backwards. Outputs are aligned with time, where Keras
        would return those of such a layer in the order of computing.
    options
        ``zero_masked``, and ``merge_mode`` of a Bidirectional, for :class:`lstm_engine.LSTM`.

    Raises
    ------
    FormatError, UnsupportedModelError, UnsafeFileError
        If the source is not sound, has no or several such layers, or has options that are not implemented.
    """
    if isinstance(source, (str, os.PathLike)):
        from lstm_engine.formats.keras import read_keras

        model = read_keras(source)
        subject, version = model.source, model.version
        description = _chosen(list(_recurrent(model.layers)), layer, subject)
    else:
        subject, version, description = _described(source)
        if layer not in (None, description.name):
            raise UnsupportedModelError(f"{subject}: expected layer=None for a layer object, found {layer!r}")
    problems = Problems()
    built = build_layer(description, KerasVersion(version), problems)
    raise_together(UnsupportedModelError, subject, problems.unsupported)
    raise_together(FormatError, subject, problems.damaged)
    assert built is not None
    return _taken(built, subject)


def _taken(layer: Layer, subject: str) -> tuple[LSTMWeights, dict[str, Any]]:
    if isinstance(layer, LSTMLayer):
        weights = layer.recurrence.stack(reverse=layer.options.go_backwards)
        return weights, {"zero_masked": layer.options.zero_masked}
    if isinstance(layer, BidirectionalLayer):
        stack = layer.one_stack()
        if stack is not None:
            return stack.stack(), {"zero_masked": layer.options.zero_masked, "merge_mode": layer.merge_mode}
        both = (layer.forward, layer.backward)
        found = " and ".join(f"{one.kind} of {one.recurrence.output_size} units" for one in both)
        raise UnsupportedModelError(
            f"{subject}: layer {layer.name!r}: expected one LSTM cell in each direction, both of one size, the first "
            f"running forward; found {found}{', the first running backward' if layer.options.go_backwards else ''}; "
            "load the whole model with le.load"
        )
    raise UnsupportedModelError(
        f"{subject}: layer {layer.name!r}: expected LSTM cells of one size, found others; load the whole model with "
        "le.load"
    )


def _recurrent(layers: tuple[LayerDescription, ...]) -> Iterator[LayerDescription]:
    """Iterate over the layers that are LSTMs, alone or in both directions, those in a TimeDistributed included."""
    for layer in layers:
        if _is_lstm(layer):
            yield layer
        elif layer.class_name == "TimeDistributed":
            yield from _recurrent(tuple(layer.inner.values()))


def _is_lstm(layer: LayerDescription) -> bool:
    """Return whether a layer or a cell has the cells of an LSTM and no others."""
    if layer.class_name in _HOLDERS:
        return bool(layer.inner) and all(map(_is_lstm, layer.inner.values()))
    return layer.class_name in ("LSTM", "LSTMCell")


def _chosen(found: list[LayerDescription], name: str | None, subject: str) -> LayerDescription:
    """Return the layer of that name, or the only one."""
    listed = ", ".join(f"{layer.name!r} ({layer.class_name})" for layer in found) or "none"
    if name is None:
        if len(found) == 1:
            return found[0]
        raise UnsupportedModelError(
            f"{subject}: layer: expected a name where the file has not exactly one LSTM; found {listed}"
        )
    for layer in found:
        if layer.name == name:
            return layer
    raise UnsupportedModelError(
        f"{subject}: layer: expected the name of an LSTM of the file, found {name!r}; it has {listed}"
    )


# --- Layer objects --------------------------------------------------------------------------------------------------


def _described(layer: Any) -> tuple[str, str, LayerDescription]:
    """Return what to call a Keras layer object in messages, the version of its Keras, and its description."""
    kind: Any = type(layer)
    package = kind.__module__.split(".")[0]
    if package not in _PACKAGES or kind.__name__ not in _KINDS:
        raise UnsupportedModelError(
            "source: expected a path, or a Keras LSTM, RNN or Bidirectional layer, found "
            f"{kind.__module__}.{kind.__qualname__}"
        )
    # The layer's own package is imported already, by whoever made the layer.
    version = getattr(sys.modules.get(package), "__version__", None)
    if package == "tensorflow" or not isinstance(version, str):
        version = "2.0-tf"
    description = _description(layer)
    if not _is_lstm(description):
        raise UnsupportedModelError(
            f"layer {layer.name!r} ({kind.__name__}): expected LSTM cells, found others; load the whole model with "
            "le.load"
        )
    return f"layer {layer.name!r}", version, description


def _description(layer: Any) -> LayerDescription:
    kind = type(layer).__name__
    config: Mapping[str, Any] = layer.get_config()
    roles = {"Bidirectional": ("forward_layer", "backward_layer"), "RNN": ("cell",)}.get(kind, ())
    inner = {role: _description(getattr(layer, role)) for role in roles}
    if kind == "StackedRNNCells":
        inner = {str(place): _description(cell) for place, cell in enumerate(layer.cells)}
    if kind not in ("LSTM", "LSTMCell"):
        return LayerDescription(layer.name, kind, config, inner=inner)
    arrays = layer.get_weights()
    names = ("kernel", "recurrent_kernel", "bias")[: 3 if config.get("use_bias", True) else 2]
    if len(arrays) != len(names):
        raise FormatError(
            f"layer {layer.name!r}: expected {len(names)} weights ({', '.join(names)}), found {len(arrays)}; "
            "build the layer first, by calling it on data"
        )
    return LayerDescription(layer.name, kind, config, weights=dict(zip(names, arrays, strict=True)))
