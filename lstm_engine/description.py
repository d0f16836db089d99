"""What a file says, as plain data: the hand-over from the readers to the model.

A reader in ``formats/`` turns bytes into a :class:`ModelDescription` and does nothing else: no
numerics, nothing executed. ``model.py`` turns the description into layers that compute.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

__all__ = ["Call", "LayerDescription", "ModelDescription", "TensorRef"]


@dataclass(frozen=True, slots=True)
class TensorRef:
    """One tensor of a graph: output number ``output`` of call number ``call`` of layer ``layer``."""

    layer: str
    call: int = 0
    output: int = 0


@dataclass(frozen=True, slots=True)
class Call:
    """One use of a layer in a graph.

    Parameters
    ----------
    inputs
        The tensors given as positional inputs, in order.
    keywords
        Tensors given by name, such as ``initial_state`` (several) or ``mask`` (one).
    """

    inputs: tuple[TensorRef, ...]
    keywords: Mapping[str, tuple[TensorRef, ...]] = field(default_factory=dict)

    def tensors(self) -> list[TensorRef]:
        """Return all tensors that are given, by position and by name."""
        return [*self.inputs, *(tensor for group in self.keywords.values() for tensor in group)]

    def over(self, changed: Callable[[TensorRef], TensorRef]) -> Call:
        """Return the call with ``changed(tensor)`` for each tensor."""
        keywords = {name: tuple(map(changed, group)) for name, group in self.keywords.items()}
        return Call(tuple(map(changed, self.inputs)), keywords)


@dataclass(frozen=True, slots=True, eq=False)
class LayerDescription:
    """One layer as its file describes it.

    Parameters
    ----------
    name
        The layer's own name, unique in its model.
    class_name
        The framework's class name, such as ``"LSTM"`` or ``"BatchNormalization"``.
    config
        The layer's configuration: plain JSON values, exactly as in the file.
    weights
        Arrays by the framework's own short names: ``kernel``, ``recurrent_kernel``, ``bias``,
        ``embeddings``, ``gamma``, ``beta``, ``moving_mean``, ``moving_variance``; read-only, in the
        file's dtype.
    inner
        Wrapped layers by role: ``forward_layer`` and ``backward_layer`` of a Bidirectional,
        ``layer`` of a TimeDistributed.
    calls
        The uses of the layer in the graph, in the file's order.
    sources
        For weights by short name: the key of the array in the file, such as
        ``"layers/lstm/cell/vars/0"``; for the report.
    model
        Of a model within a wrapper, such as a TimeDistributed: its own layers and graph.
    """

    name: str
    class_name: str
    config: Mapping[str, Any]
    weights: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    inner: Mapping[str, LayerDescription] = field(default_factory=dict)
    calls: tuple[Call, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)
    model: ModelDescription | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ModelDescription:
    """A whole model as its file describes it.

    Parameters
    ----------
    source
        The file's path, for messages.
    format
        ``"keras"`` (the zip of Keras 3), ``"keras-h5"`` (legacy whole-model HDF5) or ``"keras-weights"`` (HDF5 of
        weights alone, with a configuration from elsewhere).
    framework
        ``"keras"``.
    version
        The framework's version that wrote the file, as in the file; ``"1"`` where a legacy file has none.
    name
        The model's name.
    layers
        All layers, input layers (class name ``"InputLayer"``) included, in the file's order. A
        Sequential model is described as the same chain of calls that a Functional one would have; the layers of a
        model that stands in a layer's place are among them, under names such as ``"encoder/lstm"``.
    inputs, outputs
        The model's tensors in the order of the framework's own ``predict``.
    input_names, output_names
        Names in the same order: of the layers that produce them.
    inferred
        For the report: one sentence for each thing that the file does not say and the reader worked out.
    ignored
        For the report: one phrase for each part of the file that does not matter at inference, such as
        the weights of an optimizer.
    saved_by
        For the report: what wrote the file, if it is one of our own format; the other fields then say what the model
        was saved from.
    """

    source: str
    format: str
    framework: str
    version: str
    name: str
    layers: tuple[LayerDescription, ...]
    inputs: tuple[TensorRef, ...]
    outputs: tuple[TensorRef, ...]
    input_names: tuple[str, ...] = ()
    output_names: tuple[str, ...] = ()
    inferred: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    saved_by: str = ""
