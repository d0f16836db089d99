"""What every layer is: weights, output shapes, masks, and how it takes part in a stream.

A layer computes on :class:`Tensor` objects, values with the mask that travels along with them, as in Keras. It
holds its weights as they came; :meth:`Layer.prepare` makes the copy that computes in one compute type.
Layers are immutable and shared by any number of threads: whatever belongs to one call is in its
:class:`Context`.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from lstm_engine.errors import FormatError, UnsupportedModelError
from lstm_engine.frozen import frozen

if TYPE_CHECKING:
    from .numerics import Numerics

__all__ = ["Array", "Context", "Layer", "Mask", "Pointwise", "Shape", "State", "Tensor", "frozen_copy", "same_shape"]

Array = NDArray[Any]
Mask = NDArray[np.bool_]

#: A tensor's shape, the batch axis included; None for a size that the model leaves open.
Shape = tuple[int | None, ...]

#: What a layer carries from step to step of a stream: arrays whose axis 1 is the batch.
State = tuple[Array, ...]


class Tensor(NamedTuple):
    """Values and the mask that travels with them.

    ``values`` has (batch, ...) in the compute type, C-contiguous. ``mask`` is True where a step counts; it
    covers the leading axes of ``values``, usually (batch, time), and is None where every step counts.
    """

    values: Array
    mask: Mask | None = None


@dataclass(slots=True)
class Context:
    """What belongs to one call of a model.

    Parameters
    ----------
    paddings
        The masks made from the caller's ``lengths``, with the lengths.
    caller_masked
        Whether the caller gave a mask or lengths.
    states
        In a stream: the state that each stateful node begins with, by node. None outside of a stream.
    new_states
        In a stream: filled by the nodes with the states after this chunk.
    node
        Key of the node that is being computed.
    explicit_mask
        Whether that node is given its mask as an argument.
    """

    paddings: Sequence[tuple[Mask, NDArray[np.int64]]] = ()
    caller_masked: bool = False
    states: Mapping[str, State] | None = None
    new_states: dict[str, State] = field(default_factory=dict)
    node: str = ""
    explicit_mask: bool = False

    def lengths_of(self, mask: Mask) -> NDArray[np.int64] | None:
        """Return the caller's lengths if ``mask`` is the very mask made from them."""
        return next((lengths for padding, lengths in self.paddings if padding is mask), None)

    def padding_of(self, mask: Mask) -> Mask | None:
        """Return the mask made from the caller's lengths that ``mask`` is a part of."""
        for padding, _ in self.paddings:
            if padding.shape == mask.shape and not (mask & ~padding).any():
                return padding
        return None


def frozen_copy(array: Array, dtype: np.dtype[Any] | None = None) -> Array:
    """Return a read-only C-contiguous copy of ``array``, in ``dtype`` if given; itself if nobody can change it."""
    return frozen(np.asarray(array), dtype)


def same_shape(*shapes: Shape) -> Shape:
    """Return the one shape that ``shapes`` agree on, open sizes filled from each other.

    Raises
    ------
    FormatError
        If they do not agree.
    """
    first = shapes[0]
    for shape in shapes[1:]:
        if len(shape) != len(first) or any(
            a is not None and b is not None and a != b for a, b in zip(first, shape, strict=True)
        ):
            raise FormatError(f"its inputs have the shapes {' and '.join(map(str, shapes))}, which do not agree")
        first = tuple(b if a is None else a for a, b in zip(first, shape, strict=True))
    return first


class Layer(ABC):
    """One layer of a model.

    Parameters
    ----------
    name
        The layer's name, unique in its model.
    """

    #: Name of the kind of layer, as in the framework.
    kind: str = "Layer"
    #: Whether the layer takes whole numbers (token numbers) for input; None if either will do.
    takes_indices: bool | None = False
    #: Whether the values that the layer computes depend on a mask.
    uses_mask: ClassVar[bool] = False
    #: Why the layer cannot take part in a stream at a place where its input has lost the time axis.
    untimed_obstacle: ClassVar[str | None] = None
    #: Attributes made by ``_prepare``: they are made again rather than copied and pickled.
    _prepared: ClassVar[tuple[str, ...]] = ()

    @property
    def time_major(self) -> bool:
        """Whether axis 0 of its input is time, and axis 1 the batch."""
        return False

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the arrays that the layer carries in a stream, as in :mod:`lstm_engine.stream_state`."""
        return ()

    def __init__(self, name: str | None = None) -> None:
        self.name = name or ""
        self.numerics: Numerics | None = None

    # --- Weights and compute type -----------------------------------------------------------------

    def weights(self) -> dict[str, Array]:
        """Return the layer's weights by name, as they came."""
        return {}

    @property
    def parameters(self) -> int:
        """Number of weights, as the framework's summary counts them."""
        return sum(array.size for array in self.weights().values())

    def memory_bytes(self) -> int:
        """Return the bytes that the weights take, packed copies included."""
        return sum(array.nbytes for array in self.weights().values())

    def prepare(self, numerics: Numerics) -> Self:
        """Return a copy of the layer that computes with ``numerics``; the layer itself if it does already."""
        if self.numerics == numerics:
            return self
        prepared = copy.copy(self)
        prepared.numerics = numerics
        prepared._prepare(numerics)
        return prepared

    def _prepare(self, numerics: Numerics) -> None:  # noqa: B027  # most layers have nothing to prepare
        """Make what computes, such as packed weights."""

    def renamed(self, name: str) -> Self:
        """Return a copy of the layer with another name."""
        renamed = copy.copy(self)
        renamed.name = name
        return renamed

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in self._prepared}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.numerics is not None:
            self._prepare(self.numerics)

    def __copy__(self) -> Self:
        # The prepared attributes are immutable and shared, so a copy need not make them again.
        duplicate = type(self).__new__(type(self))
        duplicate.__dict__.update(self.__dict__)
        return duplicate

    def __repr__(self) -> str:
        return f"<{self.kind} {self.name!r}>"

    # --- Shapes and values --------------------------------------------------------------------------

    @abstractmethod
    def output_shapes(self, shapes: Sequence[Shape]) -> tuple[Shape, ...]:
        """Return the shapes of the outputs for inputs of ``shapes``.

        Raises
        ------
        FormatError
            If the layer cannot take inputs of these shapes.
        """

    @abstractmethod
    def call(self, inputs: Sequence[Tensor], context: Context) -> tuple[Tensor, ...]:
        """Compute the outputs and their masks."""

    # --- Streams --------------------------------------------------------------------------------------

    def stream(self, shapes: Sequence[Shape]) -> tuple[bool, ...]:
        """Return for each output whether it still has the time axis, in a stream whose time is axis 1 of the inputs.

        Raises
        ------
        UnsupportedModelError
            If a step's output depends on later steps, with the reason.
        """
        raise UnsupportedModelError(f"a {self.kind} layer needs the whole sequence")

    def initial_state(self, batch: int, shapes: Sequence[Shape]) -> State:
        """Return the state at the beginning of a stream, () for a layer that carries none."""
        return ()


class Pointwise(Layer):
    """A layer of one input that treats every step alike: the mask passes through, and so does a stream."""

    @abstractmethod
    def apply(self, values: Array) -> Array:
        """Compute the output values."""

    def output_shapes(self, shapes: Sequence[Shape]) -> tuple[Shape, ...]:
        return (shapes[0],)

    def call(self, inputs: Sequence[Tensor], context: Context) -> tuple[Tensor, ...]:
        values, mask = inputs[0]
        return (Tensor(self.apply(values), mask),)

    def stream(self, shapes: Sequence[Shape]) -> tuple[bool, ...]:
        return (True,)
