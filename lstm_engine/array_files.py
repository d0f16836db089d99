"""Arrays in ``.npy`` and ``.npz`` files, for the command line: read without trust, written whole or not at all."""

from __future__ import annotations

import io
import math
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from .errors import FormatError, UnsafeFileError
from .replacement import replacement

__all__ = ["check_output", "read_array", "read_arrays", "read_header", "write_arrays"]

_NPY_MAGIC: Final = b"\x93NUMPY"
_ZIP_MAGIC: Final = (b"PK\x03\x04", b"PK\x05\x06")
_KINDS: Final = "biuf"
_SUFFIXES: Final = (".npy", ".npz")


def read_arrays(path: str | os.PathLike[str]) -> NDArray[Any] | dict[str, NDArray[Any]]:
    """Read a ``.npy`` file, or all arrays of a ``.npz`` file; the content decides which it is.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    numpy.ndarray or dict
        The array, or the arrays by name in the file's order. Their dtypes are numbers or booleans.

    Raises
    ------
    OSError
        If the file cannot be read.
    FormatError
        If it is truncated, damaged or of another format, or its arrays hold no numbers.
    UnsafeFileError
        If it holds pickled objects, which are never read.
    """
    subject = os.fspath(path)
    with Path(path).open("rb") as file:
        head = file.read(len(_NPY_MAGIC))
        file.seek(0)
        if head == _NPY_MAGIC:
            return read_array(file, os.fstat(file.fileno()).st_size, subject)
        if head[:4] in _ZIP_MAGIC:
            return _read_archive(file, subject)
    if not head:
        raise FormatError(f"{subject}: expected a NumPy .npy or .npz file, found an empty one")
    raise FormatError(
        f"{subject}: expected a NumPy .npy or .npz file, found one that begins with {head!r}; "
        "write it with numpy.save or numpy.savez"
    )


def _read_archive(file: IO[bytes], subject: str) -> dict[str, NDArray[Any]]:
    import zipfile
    import zlib

    arrays: dict[str, NDArray[Any]] = {}
    try:
        with zipfile.ZipFile(file) as archive:
            for entry in archive.infolist():
                name = entry.filename.removesuffix(".npy")
                if name in arrays:
                    raise FormatError(f"{subject}: expected each name once, found {name!r} twice")
                with archive.open(entry) as member:
                    # The whole member, so that its checksum is compared; at most what its entry promises.
                    content = member.read(entry.file_size + 1)
                arrays[name] = read_array(io.BytesIO(content), len(content), f"{subject}: {entry.filename}")
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise FormatError(f"{subject}: expected a NumPy .npz file, found a damaged archive ({error})") from None
    return arrays


def read_array(file: IO[bytes], size: int, subject: str) -> NDArray[Any]:
    """Read an array of ``size`` bytes from the beginning of a file.

    Raises
    ------
    FormatError, UnsafeFileError
        As :func:`read_arrays`.
    """
    file.seek(0)
    read_header(file, size, subject)
    file.seek(0)
    array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    return array


def read_header(file: IO[bytes], size: int, subject: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read the header of an array; what it asks for is checked against the ``size`` bytes that there are.

    Returns
    -------
    tuple
        The array's shape, whether it is in Fortran's order, and its dtype; the file stands at its first element.

    Raises
    ------
    FormatError, UnsafeFileError
        As :func:`read_arrays`.
    """
    try:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        elif version == (2, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
        else:
            raise ValueError(f"its version is {version}")
    except (ValueError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise FormatError(f"{subject}: expected a NumPy array, found a damaged header or none ({reason})") from None
    if dtype.hasobject:
        raise UnsafeFileError(
            f"{subject}: expected an array of numbers, found pickled Python objects, which are never read; "
            "save the array with a dtype of numbers"
        )
    if dtype.kind not in _KINDS:
        raise FormatError(f"{subject}: expected an array of real numbers or booleans, found dtype {dtype}")
    if any(length < 0 for length in shape):
        raise FormatError(f"{subject}: expected lengths of 0 or more, found shape {shape}")
    wanted = math.prod(shape) * dtype.itemsize
    left = size - file.tell()
    if wanted != left:
        raise FormatError(
            f"{subject}: expected {wanted:,} bytes for shape {shape} of {dtype}, found {left:,}; "
            "the file is truncated or damaged"
        )
    return tuple(shape), bool(fortran), dtype


def check_output(path: str | os.PathLike[str], arrays: int = 1, endings: Sequence[str] = _SUFFIXES) -> Path:
    """Return the real path that an output will be written to, or raise before anything has been computed.

    Parameters
    ----------
    path
        Where the caller wants the output.
    arrays
        How many arrays will be written to it.
    endings
        What its name may end in.

    Raises
    ------
    OSError
        If its folder is missing or not a folder.
    FormatError
        If its name has another ending, if it ends in ``.npy`` and is to hold several arrays, or if something lies there
        that is no regular file.
    """
    subject = os.fspath(path)
    target = Path(path).resolve()
    if target.suffix not in endings:
        wanted = f"{', '.join(endings[:-1])} or {endings[-1]}"
        raise FormatError(f"{subject}: expected a name ending in {wanted}, found {target.suffix or 'no ending'!r}")
    if target.suffix == ".npy" and arrays != 1:
        raise FormatError(f"{subject}: expected a name ending in .npz for {arrays} arrays; a .npy file holds one")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{subject}: expected an existing folder {target.parent}; make it first")
    if target.exists() and not stat.S_ISREG(target.stat().st_mode):
        raise FormatError(f"{subject}: expected a regular file or nothing there, found something else")
    return target


def write_arrays(path: str | os.PathLike[str], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays to a ``.npy`` file (one) or ``.npz`` file (by name); the file appears whole or not at all.

    Parameters
    ----------
    path
        Where to; its ending decides the format. What lies there is replaced.
    arrays
        The arrays by name.

    Raises
    ------
    OSError, FormatError
        As :func:`check_output`, or if it cannot be written. Nothing is left behind then.
    """
    target = check_output(path, len(arrays))
    with replacement(target) as file:
        if target.suffix == ".npy":
            (array,) = arrays.values()
            np.lib.format.write_array(file, np.asanyarray(array), allow_pickle=False)
        else:
            _write_archive(file, arrays)


def _write_archive(file: IO[bytes], arrays: Mapping[str, NDArray[Any]]) -> None:
    # Not numpy.savez: its own parameters' names could not be names of arrays.
    import zipfile

    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)
