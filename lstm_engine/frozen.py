"""Arrays that nobody can write to, and are therefore shared instead of copied.

A weight has to stay what it was when it was packed, so a layer keeps a private copy of an array that its caller could
still change. What a reader took from a file nobody can change: it is read-only memory all the way down (the bytes of
the file, or the map of it), and every part of a model holds the same one.
"""

from __future__ import annotations

from mmap import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["frozen", "seal"]


def seal(array: NDArray[Any]) -> NDArray[Any]:
    """Return an array over the same memory, C-contiguous, that can never be made writeable again.

    Parameters
    ----------
    array
        An array that the caller hands over and does not write to afterwards.
    """
    laid_out = np.ascontiguousarray(array).reshape(array.shape)
    if laid_out.size == 0:
        laid_out.setflags(write=False)
        return laid_out
    # NumPy's own object of the dtype: with an equal one, it would take the array for another in need of a new view.
    dtype = np.dtype(laid_out.dtype.char)
    return np.frombuffer(laid_out.data.toreadonly(), dtype).reshape(array.shape)


def frozen(array: NDArray[Any], dtype: np.dtype[Any] | None = None) -> NDArray[Any]:
    """Return ``array`` read-only, C-contiguous and in ``dtype`` if given: itself if it is sealed so, else a copy."""
    if (dtype is None or array.dtype == dtype) and _is_sealed(array):
        return array
    copy = np.array(array, dtype=dtype, order="C", copy=True)
    copy.setflags(write=False)
    return copy


def _is_sealed(array: NDArray[Any]) -> bool:
    if not (array.flags.c_contiguous and array.flags.aligned and array.dtype.isnative):
        return False
    root: Any = array
    while isinstance(root, np.ndarray):
        # One that owns its memory could be unlocked by whoever holds it.
        if root.flags.writeable or root.base is None:
            return False
        root = root.base
    try:
        memory = memoryview(root)
    except TypeError:
        return False
    # A part of a larger file in memory is copied, so that the rest of it, an optimizer's weights say, can be let go.
    return memory.readonly and (memory.nbytes == array.nbytes or isinstance(memory.obj, mmap))
