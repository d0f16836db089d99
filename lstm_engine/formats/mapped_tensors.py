"""A safetensors file as a map: arrays that are the file's own memory, and its metadata; and the writing of one.

Nothing of a tensor is read before it is used, and what several processes load they share. The file must not be changed
in place meanwhile; to replace it by another of the same name, as :mod:`lstm_engine.replacement` does, is safe.
"""

from __future__ import annotations

import json
import math
import mmap
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Final, TypeGuard

import numpy as np
from numpy.typing import NDArray

from lstm_engine.errors import FormatError, UnsafeFileError, UnsupportedModelError

from .json_text import parse_json
from .limits import MAX_RANK, WAY_OUT, Limits, current_limits

__all__ = ["map_tensors", "read_metadata", "write_tensors"]

#: Names of the dtypes that are written and mapped.
_DTYPES: Final = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1", "BOOL": "|b1",
}  # fmt: skip
_NAMES: Final = {np.dtype(code): name for name, code in _DTYPES.items()}

Metadata = dict[str, str]


def read_metadata(path: str | os.PathLike[str]) -> Metadata:
    """Return the metadata of a safetensors file, nothing else of it being checked.

    Raises
    ------
    FormatError, UnsafeFileError
        If its header is damaged or beyond the caps.
    """
    subject = os.fsdecode(path)
    with Path(path).open("rb") as file:
        length = _header_bytes(file.read(8), os.fstat(file.fileno()).st_size, subject)
        return _metadata(_parsed(file.read(length), subject), subject)


def map_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, NDArray[Any]], Metadata]:
    """Map a safetensors file.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    tensors
        Read-only arrays by name. Each keeps the map open.
    metadata
        The file's ``__metadata__``.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    FormatError
        If it is truncated, damaged or of another format: tensors must lie one behind the other, without gaps, to the
        file's end.
    UnsupportedModelError
        If it has a tensor of a dtype that cannot be mapped.
    UnsafeFileError
        If its header is beyond the caps, or names something twice.
    """
    subject = os.fsdecode(path)
    with Path(path).open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        length = _header_bytes(file.read(8), size, subject)
        header = _parsed(file.read(length), subject)
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    metadata = _metadata(header, subject)
    limits = current_limits()
    if len(header) > limits.tensors:
        raise UnsafeFileError(
            f"{subject}: expected at most {limits.tensors:,} tensors, found {len(header):,}; "
            + WAY_OUT.format("tensors")
        )
    places = []
    for name, entry in header.items():
        if len(name) > limits.name_length:
            raise UnsafeFileError(f"{subject}: expected names of at most {limits.name_length:,} characters")
        places.append((*_place(name, entry, subject), name))
    end = 0
    tensors: dict[str, NDArray[Any]] = {}
    for begin, stop, dtype, shape, name in sorted(places, key=lambda place: place[:2]):
        if begin != end:
            raise FormatError(f"{subject}: the tensor {name!r:.100} begins at byte {begin:,}, expected {end:,}")
        end = stop
        if 8 + length + end > size:
            raise FormatError(
                f"{subject}: expected {8 + length + end:,} bytes for the tensor {name!r:.100}, found {size:,}; "
                "the file is truncated"
            )
        count = math.prod(shape)
        flat = np.frombuffer(memory, dtype, count, 8 + length + begin) if count else np.empty(0, dtype)
        array = np.require(flat, requirements=["ALIGNED"]).reshape(shape)
        array.setflags(write=False)
        tensors[name] = array
    if 8 + length + end != size:
        raise FormatError(f"{subject}: expected {8 + length + end:,} bytes, found {size:,}: more than its tensors have")
    return {name: tensors[name] for name in header}, metadata


def _header_bytes(head: bytes, size: int, subject: str) -> int:
    length, most = int.from_bytes(head, "little"), current_limits().header_bytes
    if len(head) < 8 or length > size - 8:
        raise FormatError(
            f"{subject}: expected a header of {length:,} bytes, found a file of {size:,}; it is truncated"
        )
    if length > most:
        raise UnsafeFileError(
            f"{subject}: expected a header of at most {most:,} bytes, found {length:,}; "
            + WAY_OUT.format("header_bytes")
        )
    return length


def _parsed(header: bytes, subject: str) -> dict[str, Any]:
    tree = parse_json(header, f"{subject}: header")
    if not isinstance(tree, dict):
        raise FormatError(f"{subject}: header: expected a JSON object, found {type(tree).__name__}")
    return tree


def _metadata(header: dict[str, Any], subject: str) -> Metadata:
    """Take the metadata out of a header."""
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise FormatError(f"{subject}: header: expected __metadata__ to be an object of texts")
    return metadata


def _place(name: str, entry: Any, subject: str) -> tuple[int, int, np.dtype[Any], tuple[int, ...]]:
    """Return where a tensor begins and ends, its dtype and its shape, each checked."""
    fields = entry if isinstance(entry, dict) else {}
    shape, offsets = fields.get("shape"), fields.get("data_offsets")
    if not (_are_sizes(shape) and _are_sizes(offsets) and len(offsets) == 2 and len(shape) <= MAX_RANK):
        raise FormatError(f"{subject}: header: expected dtype, shape and data_offsets of the tensor {name!r:.100}")
    if not isinstance(fields.get("dtype"), str) or fields["dtype"] not in _DTYPES:
        raise UnsupportedModelError(
            f"{subject}: the tensor {name!r:.100} has dtype {fields.get('dtype')!r:.40}; expected one of "
            f"{', '.join(_DTYPES)}"
        )
    dtype = np.dtype(_DTYPES[fields["dtype"]])
    wanted = math.prod(shape) * dtype.itemsize
    if offsets[1] - offsets[0] != wanted or math.prod(max(size, 1) for size in shape) >= 1 << 60:
        raise FormatError(
            f"{subject}: the tensor {name!r:.100} of shape {shape!s:.100} has {offsets[1] - offsets[0]:,} bytes, "
            f"expected {wanted:,}"
        )
    return offsets[0], offsets[1], dtype, tuple(shape)


def _are_sizes(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(size) is int and size >= 0 for size in value)


def write_tensors(file: IO[bytes], tensors: Mapping[str, NDArray[Any]], metadata: Metadata) -> None:
    """Write a safetensors file.

    Parameters
    ----------
    file
        Open for writing.
    tensors
        The arrays by name. They are written as they lie in memory, the widest elements first, so that each is aligned.
    metadata
        The file's ``__metadata__``.

    Raises
    ------
    UnsupportedModelError
        If an array is of a dtype that safetensors has no name for, or the header would be beyond what is read.
    """
    for name, array in tensors.items():
        if array.dtype.newbyteorder("<") not in _NAMES:
            raise UnsupportedModelError(f"{name}: an array of dtype {array.dtype} cannot be saved; convert it first")
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name in order:
        array = tensors[name]
        begin, end = end, end + array.nbytes
        kind = _NAMES[array.dtype.newbyteorder("<")]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > Limits().header_bytes:
        raise UnsupportedModelError(
            f"a header of {len(text):,} bytes cannot be saved; a reader takes at most {Limits().header_bytes:,}"
        )
    file.write(len(text).to_bytes(8, "little") + text)
    for name in order:
        array = tensors[name]
        file.write(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(-1).view(np.uint8).data)
