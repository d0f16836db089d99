"""Arrays that callers give: converted where that is safe, refused by name where it is not.

===================  ==========================================================================
given                rule
===================  ==========================================================================
float16, float32     accepted
float64, longdouble  rounded to the nearest value of the compute type, as the frameworks do;
                     refused if a finite value would become infinite
integers             accepted if every value is exact in the compute type (up to 2**24 in float32)
bool                 0 and 1, exactly
anything else        refused: complex, text, dates, objects, ragged lists, numpy masked arrays
===================  ==========================================================================

Strides, byte order, alignment and write protection do not matter: what comes back is C-contiguous,
and is the given array itself wherever that already fits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from .errors import ShapeError

__all__ = ["Axes", "as_float_array", "as_index_array", "as_lengths", "as_mask", "as_plain_array", "describe_axes"]

#: The axes of an expected array: an int is a size that must match, a str the name of a free axis.
Axes = Sequence[int | str]

_REAL_KINDS: Final = frozenset("fiub")


def describe_axes(axes: Axes) -> str:
    """Return ``axes`` as it stands in messages, such as ``(batch, time, 64)``."""
    return f"({', '.join(map(str, axes))}{',' if len(axes) == 1 else ''})"


def as_plain_array(value: ArrayLike, name: str) -> NDArray[Any]:
    """Return ``value`` as a plain array of real numbers, of any shape, dtype and layout; itself if it is one.

    Raises
    ------
    ShapeError
        If it is none.
    """
    if isinstance(value, np.ma.MaskedArray):
        raise ShapeError(
            f"{name}: expected a plain array, found a numpy masked array, whose mask would be lost; "
            "give filled(...) values, and the time steps to skip as mask="
        )
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ShapeError(
            f"{name}: expected an array of real numbers, found a {type(value).__name__} that NumPy cannot convert "
            f"({error}); pad sequences of different lengths to one length and give lengths="
        ) from error
    if array.dtype.kind not in _REAL_KINDS:
        raise ShapeError(
            f"{name}: expected an array of real numbers, found dtype {array.dtype}; convert it to float32 first"
        )
    return array


def _check_axes(array: NDArray[Any], name: str, axes: Axes | None) -> None:
    """Raise ShapeError unless ``array`` has the rank and the fixed sizes of ``axes``."""
    if axes is None:
        return
    if array.ndim != len(axes):
        raise ShapeError(
            f"{name}: expected shape {describe_axes(axes)}, of rank {len(axes)}, found shape {array.shape}, "
            f"of rank {array.ndim}; reshape it or add the missing axis"
        )
    for axis, (found, wanted) in enumerate(zip(array.shape, axes, strict=True)):
        if not isinstance(wanted, str) and found != wanted:
            raise ShapeError(
                f"{name}: expected shape {describe_axes(axes)}, found shape {array.shape}: "
                f"axis {axis} must have size {wanted}, it has {found}"
            )


def _laid_out(array: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return ``array`` in ``dtype``, C-contiguous and aligned; itself if it is so already."""
    if array.dtype == dtype and array.flags.c_contiguous and array.flags.aligned:
        return array
    return array.astype(dtype, order="C")


def _check_integers(array: NDArray[Any], name: str, dtype: np.dtype[Any]) -> None:
    """Raise ShapeError if an integer of ``array`` is not exact in the float type ``dtype``."""
    if array.size == 0:
        return
    limit = 2 ** (np.finfo(dtype).nmant + 1)
    least, greatest = int(array.min()), int(array.max())
    if least < -limit or greatest > limit:
        raise ShapeError(
            f"{name}: expected integers that {dtype} holds exactly, from {-limit} to {limit}, found values from "
            f"{least} to {greatest}; scale them, or convert them to float yourself if rounding is meant"
        )


def as_float_array(
    value: ArrayLike, name: str, axes: Axes | None = None, dtype: DTypeLike = np.float32
) -> NDArray[Any]:
    """Return ``value`` as a C-contiguous float array, converted only where that is safe.

    Parameters
    ----------
    value
        The caller's array, or anything that NumPy makes an array of real numbers from.
    name
        The argument's name, for messages.
    axes
        The expected axes: an int is a size, a str names a free axis. None for any shape.
    dtype
        float32 or float64.

    Returns
    -------
    numpy.ndarray
        ``value`` itself where it already fits, else a converted copy. It may be read-only.

    Raises
    ------
    ShapeError
        If the rank, a size, the dtype or a value does not fit.
    """
    wanted = np.dtype(dtype)
    array = as_plain_array(value, name)
    _check_axes(array, name, axes)
    if array.dtype == wanted:
        return _laid_out(array, wanted)
    if array.dtype.kind in "iu":
        _check_integers(array, name, wanted)
        return _laid_out(array, wanted)
    if array.dtype.kind == "b" or array.dtype.itemsize <= wanted.itemsize:
        return _laid_out(array, wanted)
    with np.errstate(over="ignore"):
        converted = _laid_out(array, wanted)
    overflowed = np.isinf(converted) & np.isfinite(array)
    if overflowed.any():
        first = tuple(int(place) for place in np.argwhere(overflowed)[0])
        raise ShapeError(
            f"{name}: expected values within the range of {wanted}, up to {np.finfo(wanted).max:.4g}, "
            f"found {array[first]!r} at {first}; scale the input"
        )
    return converted


def as_index_array(value: ArrayLike, name: str, axes: Axes | None = None) -> NDArray[np.intp]:
    """Return ``value`` as a C-contiguous array of indices.

    Parameters
    ----------
    value
        Integers, or floats that are whole numbers (the frameworks pass token numbers as float32 too).
    name
        The argument's name, for messages.
    axes
        The expected axes, as in :func:`as_float_array`.

    Returns
    -------
    numpy.ndarray
        ``numpy.intp``; whether the indices are in range is for the layer that uses them to say.

    Raises
    ------
    ShapeError
        If the rank, a size or the dtype does not fit or a value is no whole number.
    """
    array = as_plain_array(value, name)
    _check_axes(array, name, axes)
    if array.dtype.kind == "b":
        raise ShapeError(f"{name}: expected integer indices, found dtype bool; convert it to int32 first")
    limit = np.iinfo(np.intp).max
    if array.dtype.kind == "f":
        # NaN and infinity fail the comparisons too. 2**53 bounds what a float counts exactly.
        with np.errstate(invalid="ignore"):
            whole = (np.floor(array) == array) & (np.abs(array) <= 2.0**53)
        if not whole.all():
            first = tuple(int(place) for place in np.argwhere(~whole)[0])
            raise ShapeError(
                f"{name}: expected integer indices, found {array[first]!r} at {first}; give token numbers, not features"
            )
    elif array.dtype.kind == "u" and array.size and int(array.max()) > limit:
        raise ShapeError(f"{name}: expected indices up to {limit}, found {int(array.max())}")
    return _laid_out(array, np.dtype(np.intp))


def as_mask(value: ArrayLike, name: str, axes: Axes | None = None) -> NDArray[np.bool_]:
    """Return ``value`` as a C-contiguous bool array: True where a step counts, False where it is skipped.

    Parameters
    ----------
    value
        bool, or integers that are all 0 or 1.
    name
        The argument's name, for messages.
    axes
        The expected axes, as in :func:`as_float_array`; usually (batch, time).

    Raises
    ------
    ShapeError
        If the rank, a size, the dtype or a value does not fit.
    """
    array = as_plain_array(value, name)
    _check_axes(array, name, axes)
    if array.dtype.kind == "f":
        raise ShapeError(
            f"{name}: expected a bool mask, True where a step counts, found dtype {array.dtype}; compare it first, "
            "such as (mask != 0)"
        )
    if array.dtype.kind in "iu" and not ((array == 0) | (array == 1)).all():
        raise ShapeError(
            f"{name}: expected a bool mask, or integers 0 and 1, found values from {int(array.min())} to "
            f"{int(array.max())}; for the number of real steps of each row give lengths="
        )
    return _laid_out(array, np.dtype(np.bool_))


def as_lengths(value: ArrayLike, name: str, batch: int, time: int) -> NDArray[np.int64]:
    """Return ``value`` as a C-contiguous int64 array of the number of real steps of each row.

    Parameters
    ----------
    value
        (batch,) integers from 0 to ``time``.
    name
        The argument's name, for messages.
    batch, time
        Size of the input's batch and time axes.

    Raises
    ------
    ShapeError
        If the shape, the dtype or a value does not fit.
    """
    array = as_plain_array(value, name)
    _check_axes(array, name, (batch,))
    if array.dtype.kind not in "iu" and array.size:
        raise ShapeError(
            f"{name}: expected integers, the number of real steps of each row, found dtype {array.dtype}; "
            "convert it to int64 first"
        )
    outside = (array < 0) | (array > time)
    if outside.any():
        row = int(np.argmax(outside))
        raise ShapeError(
            f"{name}: expected lengths from 0 to {time}, the size of the time axis, found {array[row]} for row {row}"
        )
    return _laid_out(array, np.dtype(np.int64))
