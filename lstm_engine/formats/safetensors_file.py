"""safetensors files, read by the safetensors package."""

from __future__ import annotations

import math
from typing import Any, Final

from numpy.typing import NDArray

from lstm_engine.errors import FormatError

from .json_text import parse_json
from .limits import MAX_RANK, WAY_OUT, current_limits, tensor_room
from .torch_tensors import flat_array

__all__ = ["read_safetensors_bytes"]

#: PyTorch's names of the dtypes that are read.
_DTYPES: Final = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "C64": "complex64",
    "BOOL": "bool",
}


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
        Read-only arrays by name, in the file's order; the reason by name for tensors of dtypes that are not read, such
        as float8; the metadata.

    Raises
    ------
    FormatError
        If it is truncated or damaged.
    UnsafeFileError
        If its header names something twice.
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
    tensor_room(len(data))
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
    return flat_array(raw, _DTYPES[dtype]).reshape(shape) if dtype in _DTYPES else None


def _header(header: bytes, subject: str) -> tuple[list[str], dict[str, str]]:
    """Return the names of the tensors and the metadata of a header that the package has accepted."""
    parsed = parse_json(header, f"{subject}: header")
    metadata: dict[str, str] = parsed.pop("__metadata__", None) or {}
    return list(parsed), metadata
