"""What the readers of Keras files share: the layers they know, and a layer while it is being read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from numpy.typing import NDArray

from lstm_engine.description import Call, LayerDescription, ModelDescription, TensorRef
from lstm_engine.errors import FormatError, UnsafeFileError, UnsupportedModelError, raise_together

__all__ = [
    "ATTENTION",
    "CELLS",
    "LAYERS",
    "MERGES",
    "MODELS",
    "OPERATIONS",
    "RECURRENT",
    "KerasLayer",
    "KerasModel",
    "Problems",
    "shown",
]

#: Layers that run a cell over time.
RECURRENT: Final = frozenset({"GRU", "LSTM", "RNN", "SimpleRNN"})

#: Cells, which stand in an RNN layer or among stacked cells alone, each with the name of its group in an archive.
CELLS: Final = {"GRUCell": "gru_cell", "LSTMCell": "lstm_cell", "SimpleRNNCell": "simple_rnn_cell"}

#: Layers that merge a list of tensors.
MERGES: Final = frozenset({"Add", "Average", "Concatenate", "Dot", "Maximum", "Minimum", "Multiply", "Subtract"})

#: Layers that are called on a query, a value and, at times, a key.
ATTENTION: Final = frozenset({"AdditiveAttention", "Attention", "MultiHeadAttention"})

#: Every layer class that is read; a file's other classes are refused by name.
LAYERS: Final = (
    MERGES
    | ATTENTION
    | RECURRENT
    | {
        "Activation",
        "ActivityRegularization",
        "AlphaDropout",
        "AveragePooling1D",
        "BatchNormalization",
        "Bidirectional",
        "Conv1D",
        "Cropping1D",
        "Dense",
        "DepthwiseConv1D",
        "Dropout",
        "ELU",
        "Embedding",
        "Flatten",
        "GaussianDropout",
        "GaussianNoise",
        "GlobalAveragePooling1D",
        "GlobalMaxPooling1D",
        "InputLayer",
        "LayerNormalization",
        "LeakyReLU",
        "Masking",
        "MaxPooling1D",
        "Normalization",
        "PReLU",
        "Permute",
        "ReLU",
        "RepeatVector",
        "Rescaling",
        "Reshape",
        "SeparableConv1D",
        "Softmax",
        "SpatialDropout1D",
        "TimeDistributed",
        "UnitNormalization",
        "UpSampling1D",
        "ZeroPadding1D",
    }
)

#: Model classes; ``Model`` is what Keras 2 wrote for ``Functional`` before TensorFlow 2.3.
MODELS: Final = frozenset({"Functional", "Model", "Sequential"})

#: Operations, with the names of their arguments: those that Keras 3 records as nodes of the graph, between the layers,
#: where it computes the masks of Embedding, Masking and the merging layers.
OPERATIONS: Final[dict[str, tuple[str, ...]]] = {
    "All": ("x",),
    "Any": ("x",),
    "Concatenate": ("xs",),
    "ConvertToTensor": ("x",),
    "ExpandDims": ("x",),
    "LogicalAnd": ("x1", "x2"),
    "LogicalOr": ("x1", "x2"),
    "NotEqual": ("x1", "x2"),
    "OnesLike": ("x",),
    "ZerosLike": ("x",),
}


@dataclass(slots=True, eq=False)
class KerasLayer:
    """One layer while it is being read.

    Parameters
    ----------
    name, class_name, config
        As in the file.
    operation
        Whether it is an operation of ``keras.ops`` rather than a layer: it has no weights and no place in the
        model's list of layers.
    features
        Size of the last axis of the input, where the file says so.
    inner
        Wrapped layers by role.
    calls
        Uses in the graph.
    weights, sources
        Arrays by name and their keys in the file, filled by the reader of the weights.
    model
        The layers and the graph of a model that stands in a layer's place.
    saved_class
        Name of the class that saved the layer, where it is another one: CuDNNLSTM for what is an LSTM now.
    joined
        Whether it is no layer of the file, but stands for the mask that a nested model was given.
    """

    name: str
    class_name: str
    config: dict[str, Any]
    operation: bool = False
    features: int | None = None
    inner: dict[str, KerasLayer] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    weights: dict[str, NDArray[Any]] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    model: KerasModel | None = None
    saved_class: str = ""
    joined: bool = False

    def __post_init__(self) -> None:
        if self.class_name == "MultiHeadAttention" and not self.inner:
            # Its weights are those of four layers within it, which no configuration describes.
            for role in ("query", "key", "value", "output"):
                name = f"{self.name}/{role}"
                self.inner[f"{role}_dense"] = KerasLayer(name, "EinsumDense", {**self.config, "role": role})

    @property
    def output_count(self) -> int:
        """Number of tensors that one call returns."""
        if self.model is not None:
            return len(self.model.outputs)
        if self.class_name in ATTENTION:
            return 2 if self.config.get("return_attention_scores") else 1
        forward = self.inner.get("forward_layer")
        outputs = 2 if forward is not None and self.config.get("merge_mode", "concat") is None else 1
        return outputs + (self.state_count if (forward or self).config.get("return_state") else 0)

    @property
    def state_count(self) -> int:
        """Number of states of a recurrent layer or a cell."""
        own = 2 if self.class_name.startswith("LSTM") else 1
        return sum(part.state_count for part in self.inner.values()) or own

    def walk(self) -> Iterator[KerasLayer]:
        """Iterate over the layer and all that it wraps, in the order of their weights."""
        yield self
        for wrapped in self.inner.values():
            yield from wrapped.walk()

    def description(self) -> LayerDescription:
        """Return the finished layer."""
        return LayerDescription(
            name=self.name,
            class_name=self.class_name,
            config=self.config,
            weights=self.weights,
            inner={role: wrapped.description() for role, wrapped in self.inner.items()},
            calls=tuple(self.calls),
            sources=self.sources,
            model=None if self.model is None else self.model.description("", "", ""),
        )


@dataclass(slots=True, eq=False)
class KerasModel:
    """A model while it is being read: its graph is checked, its weights are still to come.

    Parameters
    ----------
    name
        The model's name.
    layers
        All layers of the graph.
    inputs, outputs
        Its ends.
    saved
        The layers as the file has them, models in models left whole: what its weights are arranged by.
    """

    name: str
    layers: list[KerasLayer]
    inputs: tuple[TensorRef, ...]
    outputs: tuple[TensorRef, ...]
    saved: list[KerasLayer]

    def description(self, source: str, format: str, version: str, inferred: tuple[str, ...] = ()) -> ModelDescription:
        """Return the finished model.

        Parameters
        ----------
        source, format, version, inferred
            As the fields of :class:`~lstm_engine.description.ModelDescription`.
        """
        return ModelDescription(
            source=source,
            format=format,
            framework="keras",
            version=version,
            name=self.name,
            layers=tuple(layer.description() for layer in self.layers),
            inputs=self.inputs,
            outputs=self.outputs,
            input_names=tuple(tensor.layer for tensor in self.inputs),
            output_names=tuple(tensor.layer for tensor in self.outputs),
            inferred=inferred,
        )


#: Problems of one kind that are gathered: more than anybody reads, and few enough that a file of nothing but problems
#: cannot fill memory with their sentences.
_MOST_PROBLEMS: Final = 1000


class _Listed(list[str]):
    """Problems of one kind, which are raised once they are too many."""

    def __init__(self, owner: Problems) -> None:
        super().__init__()
        self._owner = owner

    def append(self, problem: str, /) -> None:
        super().append(problem)
        if len(self) >= _MOST_PROBLEMS:
            self._owner.raise_if_any()

    def extend(self, problems: Iterable[str], /) -> None:
        for problem in problems:
            self.append(problem)


class Problems:
    """What is wrong with a file, gathered so that it can be told all at once; or as soon as it is very much.

    Parameters
    ----------
    subject
        What is being read, for messages.
    """

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.unsafe: list[str] = _Listed(self)
        self.unsupported: list[str] = _Listed(self)
        self.damaged: list[str] = _Listed(self)

    def __bool__(self) -> bool:
        return bool(self.unsafe or self.unsupported or self.damaged)

    def raise_if_any(self) -> None:
        """Raise what was found, the gravest kind first.

        Raises
        ------
        UnsafeFileError, UnsupportedModelError, FormatError
            With all problems of that kind.
        """
        raise_together(UnsafeFileError, self.subject, self.unsafe)
        raise_together(UnsupportedModelError, self.subject, self.unsupported)
        raise_together(FormatError, self.subject, self.damaged)


def shown(value: Any) -> str:
    """Return ``value`` as a message shows it: quoted, printable and short."""
    if isinstance(value, str):
        return repr(value if len(value) <= 100 else value[:97] + "...")
    text = repr(value) if isinstance(value, int | float | None) else type(value).__name__
    return text if len(text) <= 100 else text[:97] + "..."
