"""What loading a file found: where each weight came from, what was inferred, what was ignored."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from .description import LayerDescription, ModelDescription

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .onnx.graph import OnnxGraph

__all__ = ["LayerReport", "Report", "WeightReport", "array_report", "report_of"]

#: Options of a layer that do nothing at inference, told where they are set; whatever else ends in these words too.
_TRAINING: Final = ("dropout", "recurrent_dropout", "rate", "stddev", "stateful", "seed")
_TRAINING_ENDS: Final = ("_regularizer", "_constraint")


@dataclass(frozen=True, slots=True)
class WeightReport:
    """One weight of a layer.

    Parameters
    ----------
    name
        Its name in the layer.
    source
        Its key in the file; empty where it came from no file.
    shape, dtype
        As in the file.
    """

    name: str
    source: str
    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.name}: {self.source or '-'} {self.shape} {self.dtype}"


@dataclass(frozen=True, slots=True)
class LayerReport:
    """One layer.

    Parameters
    ----------
    name, kind
        Its name and its class in the framework's words.
    weights
        Its weights, those of layers that it wraps included.
    ignored
        Its options that do nothing at inference, such as ``dropout=0.3``.
    """

    name: str
    kind: str
    weights: tuple[WeightReport, ...] = ()
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """What loading a file found.

    Parameters
    ----------
    source
        The file; empty for a model that was put together by hand.
    format
        ``"keras"``, ``"keras-h5"``, ``"keras-weights"``, ``"onnx"``; ``"lstm_engine"`` for a model and ``"lstm"`` for
        an LSTM alone that was put together by hand. Of a file of our own format, what it was saved from.
    framework, version
        What wrote the file, or the file that it was converted from.
    name
        The model's name.
    saved_by
        What wrote the file if it is of our own format; empty otherwise.
    layers
        The layers in the file's order; the nodes of an ONNX graph that have weights.
    inferred
        What the file does not say and was worked out.
    ignored
        Parts of the file that do nothing at inference.
    tensors
        Arrays of the file where it is not known which layer they belong to.
    """

    source: str
    format: str
    framework: str
    version: str
    name: str
    layers: tuple[LayerReport, ...]
    saved_by: str = ""
    inferred: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    tensors: tuple[WeightReport, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def lines(self) -> Iterator[str]:
        """Iterate over the lines of the report."""
        saved = f"; saved by {self.saved_by}" if self.saved_by else ""
        yield f"{self.source or self.name}: format {self.format}, by {self.framework} {self.version}{saved}"
        for layer in self.layers:
            yield f"{layer.name} ({layer.kind})"
            yield from (f"    {weight}" for weight in layer.weights)
            if layer.ignored:
                yield f"    without effect here: {', '.join(layer.ignored)}"
        for title, entries in (("inferred", self.inferred), ("ignored", self.ignored), ("tensors", self.tensors)):
            if entries:
                yield f"{title}:"
                yield from (f"    {entry}" for entry in entries)


def report_of(architecture: ModelDescription | OnnxGraph) -> Report:
    """Return the report of a model.

    Parameters
    ----------
    architecture
        What the file says, or how a model that was put together by hand is described.
    """
    if not isinstance(architecture, ModelDescription):
        return _of_graph(architecture)
    return Report(
        source=architecture.source,
        format=architecture.format,
        framework=architecture.framework,
        version=architecture.version,
        name=architecture.name,
        layers=tuple(
            LayerReport(layer.name, layer.class_name, tuple(_weights(layer)), tuple(_without_effect(layer)))
            for layer in architecture.layers
        ),
        inferred=architecture.inferred,
        ignored=architecture.ignored,
        saved_by=architecture.saved_by,
    )


def array_report(name: str, source: str, array: NDArray[Any]) -> WeightReport:
    """Return the report of one array."""
    return WeightReport(name, source, tuple(array.shape), str(array.dtype))


def _weights(layer: LayerDescription, prefix: str = "") -> Iterator[WeightReport]:
    for name, array in layer.weights.items():
        yield array_report(prefix + name, layer.sources.get(name, ""), array)
    for role, inner in layer.inner.items():
        yield from _weights(inner, f"{prefix}{role}.")
    if layer.model is not None:
        for part in layer.model.layers:
            yield from _weights(part, f"{prefix}{part.name}.")


def _without_effect(layer: LayerDescription, prefix: str = "") -> Iterator[str]:
    for option, value in layer.config.items():
        if value and (option in _TRAINING or option.endswith(_TRAINING_ENDS)):
            shown = value.get("class_name", "...") if isinstance(value, Mapping) else value
            yield f"{prefix}{option}={shown}"
    for role, inner in layer.inner.items():
        yield from _without_effect(inner, f"{prefix}{role}.")


def _of_graph(graph: OnnxGraph) -> Report:
    from .onnx.graph import graphs

    inside = list(graphs(graph))
    arrays = {name: array for inner in inside for name, array in inner.initializers.items()}

    def weights(names: Iterable[str]) -> tuple[WeightReport, ...]:
        return tuple(array_report(name, name, arrays[name]) for name in names if name in arrays)

    return Report(
        source=graph.source,
        format="onnx",
        framework=graph.producer,
        version=f"(opset {graph.opset})",
        name=graph.name,
        layers=tuple(
            LayerReport(node.name or next(filter(None, node.outputs)), node.operator, weights(node.inputs))
            for inner in inside
            for node in inner.nodes
        ),
        inferred=graph.inferred,
        ignored=graph.ignored,
    )
