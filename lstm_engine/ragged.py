"""Rows of different lengths: a table's column of sequences, and a model that is run on such columns.

A column is an ordinary array (rows, ...) where all rows have one shape, and a :class:`Ragged` where they have not. No
step of padding is computed: sequences are sorted by length and given to the model with their lengths where the model is
a chain of layers that keep to them, and in batches of one length where it is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from .errors import ShapeError, UnsupportedModelError

if TYPE_CHECKING:
    from .arguments import TensorSpec
    from .layers.base import Layer
    from .model import Model

__all__ = ["Ragged", "Rows", "Where", "fitted", "require_rows", "run_rows"]

Array = NDArray[Any]

#: Says in a message where a row of a column stands, such as ``x.csv: line 17``.
Where = Callable[[int], str]

#: Rows of a batch where the caller does not say how many.
BATCH_SIZE: Final = 64


@dataclass(frozen=True, slots=True)
class Ragged:
    """Rows that differ in the size of their first axis, one behind the other in one array.

    Parameters
    ----------
    values
        (steps of all rows, ...).
    offsets
        (rows + 1,) int64: row ``r`` is ``values[offsets[r]:offsets[r + 1]]``.
    """

    values: Array
    offsets: NDArray[np.int64]

    @classmethod
    def of(cls, rows: Sequence[Array]) -> Ragged:
        """Return rows as one column; they agree in all but their first axis."""
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum([len(row) for row in rows], out=offsets[1:])
        return cls(np.concatenate(rows), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The steps of each row."""
        return np.diff(self.offsets)

    def row(self, place: int) -> Array:
        """Return one row."""
        return self.values[self.offsets[place] : self.offsets[place + 1]]


Rows = Array | Ragged


def fitted(rows: Rows, spec: TensorSpec, what: str, where: Where) -> Rows:
    """Return a column in the shape that an input of a model takes, as an array if its rows have one shape.

    Parameters
    ----------
    rows
        The column.
    spec
        The input.
    what
        The column in messages, such as ``column 'x'``.
    where
        Says where a row stands, for messages.

    Raises
    ------
    ShapeError
        If a row does not fit, saying which.
    """
    wanted = spec.shape[1:]
    array = rows.values if isinstance(rows, Ragged) else rows
    if not len(rows):
        return np.zeros((0, *(size or 0 for size in wanted)), array.dtype)
    if isinstance(rows, Ragged) and not len(array):  # empty lists do not tell what their elements would be
        array = np.zeros((0, *(size or 0 for size in wanted[1:])), array.dtype)
    found = array.ndim if isinstance(rows, Ragged) else array.ndim - 1
    # As in a call: an axis of size 1 at the end may be left out, or be too many.
    if found == len(wanted) - 1 and wanted[-1] == 1:
        array = array[..., None]
    elif found == len(wanted) + 1 and array.shape[-1] == 1:
        array = array[..., 0]
    elif found != len(wanted):
        raise ShapeError(
            f"{where(0)}: {what}: expected rows of shape {_shown(wanted)} for the input {spec.name}, found "
            f"{f'{found} axes' if found else 'single numbers'}; nest its lists accordingly"
        )
    if isinstance(rows, Ragged):
        lengths = rows.lengths
        if wanted[0] is not None and (lengths != wanted[0]).any():
            row = int(np.argmax(lengths != wanted[0]))
            raise ShapeError(
                f"{where(row)}: {what}: expected {wanted[0]} steps for the input {spec.name}, found {lengths[row]}"
            )
        inner, expected = array.shape[1:], wanted[1:]
    else:
        inner, expected = array.shape[1:], wanted
    if any(size not in (None, have) for have, size in zip(inner, expected, strict=True)):
        shape = ("steps", *inner) if isinstance(rows, Ragged) else inner
        raise ShapeError(
            f"{where(0)}: {what}: expected rows of shape {_shown(wanted)} for the input {spec.name}, found "
            f"{_shown(shape)}"
        )
    if isinstance(rows, Ragged):
        if (lengths == lengths[0]).all():
            return array.reshape(len(lengths), int(lengths[0]), *array.shape[1:])
        return Ragged(array, rows.offsets)
    return array


def _shown(shape: Sequence[int | str | None]) -> str:
    sizes = ["any" if size is None else str(size) for size in shape]
    return f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"


def require_rows(model: Model) -> None:
    """Raise UnsupportedModelError unless the rows of a model's inputs and outputs can be told apart."""
    if not model._in_rows:
        raise UnsupportedModelError(
            f"{model.source or model.name}: expected a model whose inputs and outputs all begin with the batch axis, "
            + (
                "found layers of time_major=True; call it on arrays of (time, batch, features)"
                if model._arguments.time_major
                else "found an ONNX graph that does not say so; export it with a dynamic first axis named batch"
            )
        )


def run_rows(model: Model, inputs: Sequence[Rows], batch_size: int, where: Where) -> list[Rows]:
    """Run a model on columns: the bits of each row are those that it gets alone.

    Parameters
    ----------
    model
        The model, which has passed :func:`require_rows`.
    inputs
        A column for each of its inputs, from :func:`fitted`, all of the same number of rows.
    batch_size
        Most rows that are computed together.
    where
        Says where a row stands, for messages.

    Returns
    -------
    list of array or Ragged
        A column for each output. Those whose rows have different lengths are ragged.

    Raises
    ------
    ShapeError
        If a row does not fit, saying which.
    """
    padded = len(inputs) == 1 and isinstance(inputs[0], Ragged) and _keeps_to_lengths(model)
    parts: list[tuple[NDArray[np.intp], Sequence[Array], NDArray[np.int64] | None]] = []
    for batch in _batches(inputs, batch_size, padded):
        outputs, lengths = _computed(model, inputs, batch, where)
        parts.append((batch, outputs, lengths))
    return [
        _joined(len(inputs[0]), [(batch, outputs[place], lengths) for batch, outputs, lengths in parts])
        for place in range(len(model.outputs))
    ]


def _batches(inputs: Sequence[Rows], batch_size: int, padded: bool) -> Iterator[NDArray[np.intp]]:
    """Yield the rows of each batch: in order, or sorted by length, or those of one length together."""
    count = len(inputs[0])
    ragged = [rows.lengths for rows in inputs if isinstance(rows, Ragged)]
    if not ragged:
        groups = [np.arange(count)]
    elif padded:
        groups = [np.argsort(-ragged[0], kind="stable")]
    else:
        _, numbers = np.unique(np.stack(ragged, axis=1), axis=0, return_inverse=True)
        order = np.argsort(numbers.ravel(), kind="stable")
        groups = np.split(order, np.flatnonzero(np.diff(numbers.ravel()[order])) + 1)
    for group in groups:
        for begin in range(0, max(len(group), 1), batch_size):
            yield group[begin : begin + batch_size]


def _computed(
    model: Model, inputs: Sequence[Rows], batch: NDArray[np.intp], where: Where
) -> tuple[Sequence[Array], NDArray[np.int64] | None]:
    """Return the outputs of a batch, and the lengths of its rows if they differ."""
    lengths = None
    arrays = []
    for rows in inputs:
        if isinstance(rows, Ragged):
            taken = rows.lengths[batch]
            array = np.zeros((len(batch), int(taken.max()), *rows.values.shape[1:]), rows.values.dtype)
            for place, row in enumerate(batch):
                array[place, : taken[place]] = rows.row(row)
            if (taken != taken[0]).any():
                lengths = taken
            arrays.append(array)
        elif len(batch) and batch[-1] - batch[0] + 1 == len(batch):
            arrays.append(rows[batch[0] : batch[-1] + 1])
        else:
            arrays.append(rows[batch])
    try:
        result = model(tuple(arrays)) if lengths is None else model(tuple(arrays), lengths=lengths)
    except ShapeError as error:
        if len(batch) == 1:
            raise ShapeError(f"{where(int(batch[0]))}: {error}") from None
        for row in np.sort(batch):  # the first row that is wrong by itself is what the message is about
            _computed(model, inputs, np.array([row]), where)
        raise
    return (result if isinstance(result, tuple) else (result,)), lengths


def _joined(count: int, parts: Sequence[tuple[NDArray[np.intp], Array, NDArray[np.int64] | None]]) -> Rows:
    """Return one output of all batches as a column."""
    first = parts[0][1]
    sequence = first.ndim == 3  # a chain that keeps to lengths has (batch, time, features) or (batch, features)
    if not any(lengths is not None and sequence for *_, lengths in parts) and all(
        array.shape[1:] == first.shape[1:] for _, array, _ in parts
    ):
        joined = np.empty((count, *first.shape[1:]), first.dtype)
        for batch, array, _ in parts:
            joined[batch] = array
        return joined
    if any(array.ndim < 2 or array.shape[2:] != first.shape[2:] for _, array, _ in parts):
        raise UnsupportedModelError(
            "outputs: expected rows that differ in their first axis alone, found outputs of "
            f"{' and '.join(sorted({str(array.shape[1:]) for _, array, _ in parts}))}; give rows of one length"
        )
    sizes = np.zeros(count, np.int64)
    for batch, array, lengths in parts:
        sizes[batch] = array.shape[1] if lengths is None else lengths
    offsets = np.zeros(count + 1, np.int64)
    np.cumsum(sizes, out=offsets[1:])
    values = np.empty((int(offsets[-1]), *first.shape[2:]), first.dtype)
    for batch, array, _ in parts:
        for place, row in enumerate(batch):
            values[offsets[row] : offsets[row + 1]] = array[place, : sizes[row]]
    return Ragged(values, offsets)


def _keeps_to_lengths(model: Model) -> bool:
    """Return whether padded rows with ``lengths`` give the bits of each row alone.

    So it is in a chain of layers that look at a step alone or, from recurrence to recurrence, at the mask.
    """
    from .layers.streaming import chain_nodes

    spec = model.inputs[0]
    graph = model.__dict__.get("_graph")
    nodes = None if graph is None or len(spec.shape) != (2 if spec.indices else 3) else chain_nodes(graph)
    return bool(nodes) and model._arguments.uses_mask and all(_step_by_step(node.layer) for node in nodes or ())


def _step_by_step(layer: Layer) -> bool:
    from .layers.bidirectional import BidirectionalLayer
    from .layers.core import Activate, Dense, Embedding, Identity, Masking
    from .layers.recurrent import LSTMStack, RecurrentLayer
    from .layers.shaping import LastStep
    from .layers.wrappers import TimeDistributed

    match layer:
        case RecurrentLayer():
            return not layer.options.go_backwards
        case BidirectionalLayer():
            return not layer.forward.options.go_backwards
        case Activate():
            return layer._axis in (None, -1)
        case TimeDistributed():
            return _step_by_step(layer.layer)
        case Dense() | Embedding() | Identity() | Masking() | LSTMStack() | LastStep():
            return True
        case _:
            return False
