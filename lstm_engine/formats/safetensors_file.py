"""safetensors files, read by the safetensors package."""

from __future__ import annotations

import json
import math
import os
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from lstm_engine.errors import FormatError, UnsafeFileError, UnsupportedModelError

from .content import read_head, read_whole, sniff
from .limits import MAX_RANK, WAY_OUT, current_limits
from .torch_tensors import widen_bfloat16

__all__ = ["read_safetensors", "read_safetensors_bytes"]

_DTYPES: Final = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "|u1",
    "C64": "<c8",
}


def read_safetensors(path: str | os.PathLike[str]) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Read a safetensors file.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    tensors
        Read-only arrays by name, in the file's order; float16 and bfloat16 are widened to float32, exactly.
    metadata
        The file's ``__metadata__``.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    FormatError
        If it is truncated, damaged or of another format.
    UnsupportedModelError
        If it has a tensor of a dtype that is not read, such as float8.
    UnsafeFileError
        If its header names something twice.
    """
    subject = os.fspath(path)
    kind = sniff(*read_head(path))
    if kind != "safetensors":
        found = "a file of torch.save" if kind == "torch-legacy" else "a zip archive" if kind == "zip" else kind
        raise FormatError(f"{subject}: expected a safetensors file, found {found}")
    tensors, unsupported, metadata = read_safetensors_bytes(read_whole(path), subject)
    if unsupported:
        name, reason = next(iter(unsupported.items()))
        raise UnsupportedModelError(f"{subject}: the tensor {name!r} cannot be read: {reason}; convert it to float32")
    return tensors, metadata


def read_safetensors_bytes(data: bytes, subject: str) -> tuple[dict[str, NDArray[Any]], dict[str, str], dict[str, str]]:
    """Read the bytes of a safetensors file.

    Parameters
    ----------
    data
        All bytes of the file.
    subject
        The file's name, for messages.

    Returns
    -------
    tensors, unsupported, metadata
        Arrays by name; the reason by name for tensors of dtypes that are not read; the metadata.
    """
    header_bytes = int.from_bytes(data[:8], "little")
    limits = current_limits()
    if header_bytes > limits.header_bytes:
        raise FormatError(
            f"{subject}: the header has {header_bytes:,} bytes, more than the {limits.header_bytes:,} allowed; "
            "the file is damaged or made to exhaust memory, or " + WAY_OUT.format("header_bytes")
        )
    if 8 + header_bytes > len(data):
        raise FormatError(
            f"{subject}: expected a header of {header_bytes:,} bytes, found {len(data) - 8:,}; the file is truncated"
        )
    import safetensors

    try:
        entries: list[tuple[str, dict[str, Any]]] = safetensors.deserialize(data)  # type: ignore[no-untyped-call]
    except (safetensors.SafetensorError, ValueError, OverflowError) as error:
        raise FormatError(f"{subject}: the safetensors file is truncated or damaged ({error})") from None
    if len(entries) > limits.tensors:
        raise FormatError(f"{subject}: the file has more than {limits.tensors:,} tensors; " + WAY_OUT.format("tensors"))
    names, metadata = _header(data[8 : 8 + header_bytes], subject)
    found = dict(entries)
    tensors: dict[str, NDArray[Any]] = {}
    unsupported: dict[str, str] = {}
    # The package promises no order of its own, and the first problem has to be the same one each time.
    for name in names:
        entry = found[name]
        array = _array(subject, name, entry["dtype"], tuple(entry["shape"]), entry["data"])
        if array is None:
            unsupported[name] = f"its dtype {entry['dtype']} is not read"
        else:
            tensors[name] = array
    return tensors, unsupported, metadata


def _array(subject: str, name: str, dtype: str, shape: tuple[int, ...], raw: bytes) -> NDArray[Any] | None:
    if len(shape) > MAX_RANK or math.prod(max(size, 1) for size in shape) >= 1 << 60:
        # Only an empty tensor can have such sizes: the package has compared the others with the bytes there are.
        raise FormatError(f"{subject}: the tensor {name!r} has a shape beyond what an array can have")
    if dtype == "BF16":
        flat: NDArray[Any] = widen_bfloat16(np.frombuffer(raw, "<u2"))
    elif dtype == "BOOL":
        flat = np.frombuffer(raw, np.uint8) != 0
    elif dtype in _DTYPES:
        flat = np.frombuffer(raw, _DTYPES[dtype])
        if dtype == "F16":
            flat = flat.astype(np.float32)
    else:
        return None
    array = np.require(flat, requirements=["ALIGNED"]).reshape(shape)
    array.setflags(write=False)
    return array


def _header(header: bytes, subject: str) -> tuple[list[str], dict[str, str]]:
    """Return the names of the tensors and the metadata of a header that the package has accepted."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            # Which of the two counts would depend on the reader.
            raise UnsafeFileError(f"{subject}: the header names something twice; the file is made to mislead")
        return found

    parsed = json.loads(header, object_pairs_hook=once)
    metadata: dict[str, str] = parsed.pop("__metadata__", None) or {}
    return list(parsed), metadata
