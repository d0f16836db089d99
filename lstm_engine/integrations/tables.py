"""A model on tables: batches of rows in, the same rows with a column of predictions out.

It is what engines of tables take for a function on batches. Ray Data hands over dicts of NumPy arrays, Arrow tables or
pandas frames, Spark pandas frames; each comes back as what it was.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from lstm_engine.errors import ShapeError
from lstm_engine.options import Backend, ComputeType
from lstm_engine.ragged import BATCH_SIZE, Ragged, Rows, fitted, require_rows, run_rows
from lstm_engine.thread_count import NumThreads

if TYPE_CHECKING:
    from lstm_engine.lstm import LSTM
    from lstm_engine.model import Model

__all__ = ["Predictor"]

Batch = TypeVar("Batch")


class Predictor:
    """Adds a model's predictions to batches of rows.

    Rows keep their order, and all their other columns. Rows of one column may be sequences of different lengths: they
    are computed sorted by length, no step of padding is computed, and each gets the bits that it gets alone.

    Parameters
    ----------
    model
        Path of a whole model, or a Model or LSTM that is there already. Give a path where many processes load it.
    columns
        The column that an input is read from: a name for a model of one input, else names in the order of the inputs,
        or a dict from inputs to columns. None: the columns have the inputs' names.
    output
        The new columns, likewise. None: ``"prediction"`` for a model of one output, else the outputs' names.
    batch_size
        Most rows that are computed together, whatever the size of the engine's batches.
    compute_type, num_threads, backend
        As of :func:`lstm_engine.load`, for a path. One thread an instance is right where an engine runs many.

    Raises
    ------
    ShapeError
        If an argument does not fit the model.
    UnsupportedModelError
        If the model's rows cannot be told apart, as in an ONNX graph with another axis in front.
    LstmEngineError, OSError
        As of :func:`lstm_engine.load`.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Model | LSTM,
        *,
        columns: str | Sequence[str] | Mapping[str, str] | None = None,
        output: str | Sequence[str] | Mapping[str, str] | None = None,
        batch_size: int = BATCH_SIZE,
        compute_type: ComputeType = "float32",
        num_threads: NumThreads = 1,
        backend: Backend = "auto",
    ) -> None:
        from lstm_engine.loading import load
        from lstm_engine.lstm import LSTM
        from lstm_engine.model import Model, Sequential

        if isinstance(model, LSTM):
            model = Sequential([model])
        elif not isinstance(model, Model):
            model = load(model, compute_type=compute_type, num_threads=num_threads, backend=backend)
        require_rows(model)
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ShapeError(f"batch_size: expected a positive integer, found {batch_size!r}")
        self._model = model
        self._batch_size = batch_size
        inputs = [spec.name for spec in model.inputs]
        outputs = [spec.name for spec in model.outputs]
        self._columns = _names(columns, inputs, inputs, "columns", "inputs")
        default = ["prediction"] if len(outputs) == 1 else outputs
        self._outputs = _names(output, outputs, default, "output", "outputs")
        if len(set(self._outputs)) < len(self._outputs):
            raise ShapeError(f"output: expected a column of its own for each output, found {self._outputs}")

    @property
    def model(self) -> Model:
        """The model."""
        return self._model

    def __call__(self, batch: Batch) -> Batch:
        """Return a batch with its predictions.

        Parameters
        ----------
        batch
            A dict of NumPy arrays, a ``pyarrow.Table`` or a ``pandas.DataFrame``. A sequence is a list (of lists where
            a step has several features) or an array. A column is not changed.

        Returns
        -------
        dict, pyarrow.Table or pandas.DataFrame
            The same kind of batch. A prediction of one number is a number, any other a list (of lists) in a table or
            a frame, and an array in a dict.

        Raises
        ------
        ShapeError
            If a column is missing or a row does not fit, saying which; if a new column is there already.
        """
        result: Any
        # Whoever gives a table or a frame has imported its package.
        if _is_one(batch, "pyarrow", "Table"):
            result = self._on_table(batch)
        elif _is_one(batch, "pandas", "DataFrame"):
            result = self._on_frame(batch)
        elif isinstance(batch, Mapping):
            result = self._on_arrays(batch)
        else:
            raise ShapeError(
                f"batch: expected a dict of arrays, a pyarrow.Table or a pandas.DataFrame, found {type(batch).__name__}"
            )
        return cast("Batch", result)

    def _on_table(self, table: Any) -> Any:
        from lstm_engine.arrow_columns import column_of, rows_of

        self._check_names(table.column_names)
        rows = self._predicted([rows_of(table.column(name), name, _in_batch) for name in self._columns], table.num_rows)
        for name, one in zip(self._outputs, rows, strict=True):
            table = table.append_column(name, column_of(one))
        return table

    def _on_frame(self, frame: Any) -> Any:
        self._check_names(list(frame.columns))
        rows = self._predicted([_from_objects(frame[name].to_numpy(), name) for name in self._columns], len(frame))
        return frame.assign(**{
            name: _objects(one, lists=True) for name, one in zip(self._outputs, map(_numbers, rows), strict=True)
        })  # fmt: skip

    def _on_arrays(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        self._check_names(list(batch))
        rows = self._predicted(
            [_from_objects(_array_of(batch[name], name), name) for name in self._columns],
            len(next(iter(batch.values()), ())),
        )
        arrays = {
            name: _objects(one) if isinstance(one, Ragged) else one
            for name, one in zip(self._outputs, map(_numbers, rows), strict=True)
        }
        return {**batch, **arrays}

    def _check_names(self, found: Sequence[Any]) -> None:
        missing = [name for name in self._columns if name not in found]
        if missing:
            raise ShapeError(
                f"columns: expected the columns {', '.join(missing)} for the model's inputs, found "
                f"{', '.join(map(str, found)) or 'none'}; name them with columns="
            )
        taken = [name for name in self._outputs if name in found]
        if taken:
            raise ShapeError(
                f"output: expected new columns, found {', '.join(taken)} in the batch already; name others with output="
            )

    def _predicted(self, columns: Sequence[Rows], count: int) -> list[Rows]:
        specs = self._model.inputs
        for column, name in zip(columns, self._columns, strict=True):
            if len(column) != count:
                raise ShapeError(f"columns: expected {count} rows in {name!r} as in the batch, found {len(column)}")
        inputs = [
            fitted(column, spec, f"column {name!r}", _in_batch)
            for column, spec, name in zip(columns, specs, self._columns, strict=True)
        ]
        return run_rows(self._model, inputs, self._batch_size, _in_batch)


def _in_batch(row: int) -> str:
    return f"row {row} of the batch"


def _is_one(value: Any, package: str, name: str) -> bool:
    """Return whether a value is of a class of a package that may not be installed."""
    module = sys.modules.get(package)
    return module is not None and isinstance(value, getattr(module, name))


def _names(
    given: str | Sequence[str] | Mapping[str, str] | None,
    ends: Sequence[str],
    default: Sequence[str],
    argument: str,
    what: str,
) -> list[str]:
    """Return one column for each input or output."""
    if given is None:
        return list(default)
    if isinstance(given, str):
        listed = [given]
    elif isinstance(given, Mapping):
        if set(given) != set(ends):
            raise ShapeError(f"{argument}: expected a dict with the model's {what} {list(ends)}, found {list(given)}")
        listed = [given[end] for end in ends]
    else:
        listed = list(given)
    if len(listed) != len(ends) or not all(isinstance(name, str) for name in listed):
        raise ShapeError(
            f"{argument}: expected the name of a column for each of the model's {what} {', '.join(ends)}, "
            f"found {given!r}"
        )
    return listed


def _numbers(rows: Rows) -> Rows:
    """Return a column of (rows, 1) as plain numbers."""
    return rows[:, 0] if not isinstance(rows, Ragged) and rows.shape[1:] == (1,) else rows


def _objects(rows: Rows, lists: bool = False) -> NDArray[Any]:
    """Return a column as numbers, or as an array of objects: each row an array, or for ``lists`` a list of arrays."""
    if not isinstance(rows, Ragged) and rows.ndim == 1:
        return rows
    objects = np.empty(len(rows), object)
    for place in range(len(rows)):
        row = rows.row(place) if isinstance(rows, Ragged) else rows[place]
        # Arrow takes arrays of one axis for lists, and no others.
        objects[place] = row if not lists or row.ndim == 1 else list(row) if row.ndim == 2 else row.tolist()
    return objects


def _from_objects(column: NDArray[Any], name: str) -> Rows:
    """Return a column of numbers, or of lists and arrays, as rows."""
    if column.dtype != object:
        return column
    rows = [_array(row, name, place) for place, row in enumerate(column.ravel())]
    if not rows:
        return np.zeros((0, 0))
    # What an empty list would hold nobody can tell, so the first that holds something is the example.
    example = next((row for row in rows if row.size), rows[0])
    if not example.ndim:
        return np.array(rows)
    for place, row in enumerate(rows):
        if not row.size and row.shape != example.shape:
            rows[place] = np.zeros((0, *example.shape[1:]), example.dtype)
        elif row.shape[1:] != example.shape[1:] or row.ndim != example.ndim:
            raise ShapeError(
                f"{_in_batch(place)}: column {name!r}: expected rows that differ in their length alone, found shape "
                f"{row.shape} beside {example.shape}"
            )
    return Ragged.of(rows)


def _array_of(column: Any, name: str) -> NDArray[Any]:
    if isinstance(column, np.ma.MaskedArray):
        raise ShapeError(
            f"columns: expected a plain array in {name!r}, found a numpy masked array, whose mask would be lost; give "
            "filled(...) values, or drop the rows"
        )
    return np.asarray(column)


def _array(row: Any, name: str, place: int) -> NDArray[Any]:
    if isinstance(row, np.ma.MaskedArray):
        raise ShapeError(f"{_in_batch(place)}: column {name!r}: expected numbers, found a numpy masked array")
    try:
        array = np.asarray(row)
        if array.dtype == object and array.ndim and array.size:
            array = np.stack([np.asarray(step) for step in row])  # an array of arrays, as lists of lists arrive
    except (TypeError, ValueError) as error:
        raise ShapeError(
            f"{_in_batch(place)}: column {name!r}: expected numbers, or lists of one length for all steps ({error})"
        ) from None
    if array.dtype.kind not in "biuf" and array.size:
        found = "none" if row is None else f"dtype {array.dtype}"
        raise ShapeError(f"{_in_batch(place)}: column {name!r}: expected numbers, found {found}")
    return array
