"""``model.weights.npz``: the weights of a ``.keras`` archive that Keras wrote where h5py was not installed.

It is a zip of one array of objects for each group, which is a pickle of a dict of arrays. It is read by the interpreter
that reads PyTorch's pickles, which makes plain values and runs nothing. Keras 2 pickled arrays, which are read; Keras 3
pickles its own variables, with all that their backend hangs on them, and does not read that file again itself.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from lstm_engine.errors import FormatError, UnsafeFileError

from .limits import WAY_OUT, current_limits
from .torch_descriptions import NumpyArray, kind_of
from .torch_pickle import read_pickle
from .torch_tensors import TensorBuilder
from .zip_archive import ZipArchive

__all__ = ["ArrayTree", "read_npz"]

#: How an array of objects begins: the format's version 1, and a header that ends in a line feed.
_MAGIC: Final = b"\x93NUMPY\x01\x00"


class ArrayTree:
    """Arrays by path, with the ways of an :class:`~lstm_engine.formats.hdf5.HDF5Group`."""

    def __init__(self, arrays: dict[str, NDArray[Any]], groups: dict[str, dict[str, None]], path: str = "") -> None:
        self._arrays, self._groups, self.path = arrays, groups, path

    def _place(self, path: str) -> str:
        return f"{self.path}/{path}" if self.path else path

    def __contains__(self, path: str) -> bool:
        return self._place(path) in self._groups

    def names(self) -> list[str]:
        """Return the names of everything in the group."""
        return list(self._groups.get(self.path, ()))

    def group(self, path: str) -> ArrayTree:
        """Open a group that is there."""
        return ArrayTree(self._arrays, self._groups, self._place(path))

    def array(self, path: str) -> NDArray[Any]:
        """Return an array that is there."""
        return self._arrays[self._place(path)]


def read_npz(data: bytes | memoryview, subject: str, file_bytes: int) -> ArrayTree:
    """Read all arrays of ``model.weights.npz``.

    Parameters
    ----------
    data
        All bytes of the file.
    subject
        The file, for messages.
    file_bytes
        Size of the file that this one is packed in, which bounds what its arrays may take.

    Returns
    -------
    ArrayTree
        The arrays at the paths that they have in ``model.weights.h5``.

    Raises
    ------
    FormatError
        If it is damaged, or no such file.
    UnsafeFileError
        If it holds more than arrays, naming it.
    """
    archive = ZipArchive(bytes(data), subject)
    archive.check()
    limits = current_limits()
    if sum(map(archive.size, archive.names)) > (most := limits.of_tensors(file_bytes)):
        raise UnsafeFileError(
            f"{subject}: expected members that unpack to at most {most:,} bytes together, found more; "
            + WAY_OUT.format("tensor_growth")
        )
    arrays: dict[str, NDArray[Any]] = {}
    #: What each group holds, by its path; the names alone, in the file's order.
    groups: dict[str, dict[str, None]] = {"": {}}
    builder = TensorBuilder(subject, _no_storage, file_bytes)
    for name in archive.names:
        path = name.removesuffix(".npy")
        for number, array in _weights(bytes(archive.content(name)), f"{subject}: {name}", builder).items():
            if not isinstance(number, str) or not isinstance(array, np.ndarray):
                raise FormatError(f"{subject}: {name}: expected numbered arrays, found {kind_of(array)}")
            place = f"{path}/vars/{number}"
            arrays[place] = array
            while place:
                group, _, inside = place.rpartition("/")
                known = inside in groups.setdefault(group, {})
                groups[group][inside] = None
                place = "" if known else group
    return ArrayTree(arrays, groups)


def _weights(data: bytes, subject: str, builder: TensorBuilder) -> dict[Any, Any]:
    """Return what one array of objects holds."""
    length = int.from_bytes(data[8:10], "little")
    header = data[10 : 10 + length]
    if data[:8] != _MAGIC or len(header) != length or b"'|O'" not in header or b"'shape': ()" not in header:
        raise FormatError(f"{subject}: expected an array of one object, found something else")
    try:
        holder, _ = read_pickle(data, subject, 10 + length)
    except UnsafeFileError as error:
        raise UnsafeFileError(
            f"{error}; these are variables of Keras 3 and not arrays: save the model again with h5py installed, "
            "model.save(path)"
        ) from None
    objects = holder.objects if isinstance(holder, NumpyArray) else None
    if not isinstance(objects, list) or len(objects) != 1:
        raise FormatError(f"{subject}: expected an array of one object, found {kind_of(holder)}")
    values = builder.resolve(objects[0])
    if not isinstance(values, dict):
        raise FormatError(f"{subject}: expected a dict of arrays, found {kind_of(values)}")
    return values


def _no_storage(storage: object) -> memoryview:
    raise FormatError("expected arrays of NumPy, found a tensor of PyTorch")
