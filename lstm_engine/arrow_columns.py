"""Columns of Arrow tables as rows for a model, and back; only for callers that have pyarrow.

Read are numbers, lists of any depth and of fixed or varying size, and the tensors of Arrow and of Ray, which are lists
with a shape. What is written is plain lists, which every reader of Arrow and Parquet knows.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import ShapeError
from .ragged import Ragged, Rows, Where

__all__ = ["column_of", "rows_of"]

Array = NDArray[Any]


def rows_of(column: Any, name: str, where: Where) -> Rows:
    """Return a column of an Arrow table, without a copy where it has none to make.

    Parameters
    ----------
    column
        A ``pyarrow.Array`` or ``pyarrow.ChunkedArray``.
    name
        The column's name, for messages.
    where
        Says where a row stands, for messages.

    Raises
    ------
    ShapeError
        If it holds no numbers, a null, or lists within its rows that differ in length.
    """
    import pyarrow as pa

    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):  # pyarrow 15 and older give one back for some extension types
        array = pa.concat_arrays(array.chunks)
    shape = None
    if isinstance(array.type, pa.BaseExtensionType):
        shape = getattr(array.type, "shape", None)
        array = array.storage
        if pa.types.is_struct(array.type) and {"data", "shape"} == {field.name for field in array.type}:
            return _variable_tensors(array, name, where)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    values, levels = _flattened(array, name, where)
    if shape is not None:
        return values.reshape(len(array), *shape)
    return _nested(values, levels, name, where)


def _flattened(array: Any, name: str, where: Where) -> tuple[Array, list[NDArray[np.int64]]]:
    """Return the numbers of a column one behind the other, and the offsets of its lists, outermost first."""
    import pyarrow as pa

    levels: list[NDArray[np.int64]] = []
    _refuse_nulls(array, levels, name, where)
    while pa.types.is_list(array.type) or pa.types.is_large_list(array.type) or pa.types.is_fixed_size_list(array.type):
        if pa.types.is_fixed_size_list(array.type):
            offsets = np.arange(len(array) + 1, dtype=np.int64) * array.type.list_size
        else:
            offsets = np.asarray(array.offsets).astype(np.int64)
            offsets -= offsets[0]
        levels.append(offsets)
        array = array.flatten()
        _refuse_nulls(array, levels, name, where)
    kind = array.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise ShapeError(
            f"{where(0)}: column {name!r}: expected numbers or lists of numbers, found {kind}; cast it to float32 first"
        )
    return array.to_numpy(zero_copy_only=False), levels


def _refuse_nulls(array: Any, levels: list[NDArray[np.int64]], name: str, where: Where) -> None:
    if not array.null_count:
        return
    place = int(np.flatnonzero(np.asarray(array.is_null()))[0])
    depth = len(levels)
    for offsets in reversed(levels):
        place = int(np.searchsorted(offsets, place, side="right")) - 1
    found = "null" if not depth else "a null in its list"
    raise ShapeError(f"{where(place)}: column {name!r}: expected a value, found {found}; fill it or drop the row")


def _nested(values: Array, levels: list[NDArray[np.int64]], name: str, where: Where) -> Rows:
    """Return numbers and offsets as rows that differ in nothing but their outermost length."""
    if not levels:
        return values
    sizes: list[int] = []
    for depth, offsets in enumerate(levels[1:], start=1):
        lengths = np.diff(offsets)
        size = int(lengths[0]) if len(lengths) else 0
        if (lengths != size).any():
            place = int(np.argmax(lengths != size))
            found = int(lengths[place])
            for outer in reversed(levels[:depth]):
                place = int(np.searchsorted(outer, place, side="right")) - 1
            raise ShapeError(
                f"{where(place)}: column {name!r}: expected inner lists of one length, {size} as in the first, found "
                f"{found}"
            )
        sizes.append(size)
    steps = int(levels[0][-1])
    return Ragged(values.reshape(steps, *sizes), levels[0])


def _variable_tensors(array: Any, name: str, where: Where) -> Rows:
    """Return Ray's tensors of different shapes: a struct of their numbers and their shape."""
    _refuse_nulls(array, [], name, where)
    values, (offsets,) = _flattened(array.field("data"), name, where)
    shapes = array.field("shape").to_pylist()
    rows = [
        values[begin:end].reshape(shape) for begin, end, shape in zip(offsets[:-1], offsets[1:], shapes, strict=True)
    ]
    inner = rows[0].shape[1:] if rows else ()
    for place, row in enumerate(rows):
        if row.shape[1:] != inner:
            raise ShapeError(
                f"{where(place)}: column {name!r}: expected tensors that differ in their first axis alone, found "
                f"{row.shape} beside {rows[0].shape}"
            )
    return Ragged.of(rows) if rows else np.zeros((0, 0))


def column_of(rows: Rows) -> Any:
    """Return rows as an Arrow array: of numbers where a row is one number, else of lists.

    A row of (1,) is a number too, so that a model with one output unit gives a plain column.

    Parameters
    ----------
    rows
        The column.
    """
    import pyarrow as pa

    if isinstance(rows, Ragged):
        return _listed(_lists(rows.values, rows.values.shape[1:]), rows.offsets)
    if rows.shape[1:] == (1,):
        rows = rows[:, 0]
    if rows.ndim == 1:
        return pa.array(rows)
    return _lists(rows, rows.shape[1:], len(rows))


def _lists(values: Array, shape: tuple[int, ...], count: int | None = None) -> Any:
    """Return an array as lists in lists of ``shape``; of (n, ...) with n lists, or n numbers where ``shape`` is ()."""
    import pyarrow as pa

    array = pa.array(np.ascontiguousarray(values).reshape(-1))
    number = len(values) if count is None else count
    for axis in range(len(shape) - 1, -1, -1):
        lists = number * math.prod(shape[:axis])
        array = _listed(array, np.arange(lists + 1, dtype=np.int64) * shape[axis])
    return array


def _listed(array: Any, offsets: NDArray[np.int64]) -> Any:
    import pyarrow as pa

    if offsets[-1] > np.iinfo(np.int32).max:
        return pa.LargeListArray.from_arrays(pa.array(offsets), array)
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), array)
