"""Files of ``torch.save``: the zip archive that PyTorch has written since 1.6, and the layout before it.

The archive ``NAME/`` holds a pickle ``data.pkl``, the storages ``data/KEY`` as raw bytes, and ``byteorder``; all
members are stored, not compressed. The older layout is five pickles (magic number, protocol version, sizes of the
machine's types, the object, the keys of its storages), then for each storage its number of elements and its bytes.
"""

from __future__ import annotations

import os
from typing import Any, Final

from lstm_engine.errors import FormatError, UnsafeFileError, UnsupportedModelError

from .content import describe_zip, read_head, read_whole, sniff
from .limits import current_limits
from .torch_descriptions import DTYPES, GlobalName, OrderedDictDescription, Record, StorageRef, kind_of
from .torch_pickle import read_pickle
from .torch_tensors import TensorBuilder
from .zip_archive import ZipArchive

__all__ = ["read_torch_bytes", "read_torch_file"]

_MAGIC_NUMBER: Final = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL: Final = 1001


def read_torch_file(path: str | os.PathLike[str]) -> dict[Any, Any]:
    """Read a file of ``torch.save`` without PyTorch and without running anything in it.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    dict
        The saved mapping, nested as it was saved: tensors are read-only NumPy arrays (float16 and bfloat16 widened to
        float32, the other dtypes kept; strided and shared as they were), all other values are plain.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    FormatError
        If it is truncated, damaged or of another format.
    UnsupportedModelError
        If it holds no mapping, or is a TorchScript archive or written on a big-endian machine.
    UnsafeFileError
        If it asks for code to be run (a whole module does), or its archive is made to mislead.
    """
    subject = os.fspath(path)
    head, file_bytes = read_head(path)
    kind = sniff(head, file_bytes)
    if kind not in ("zip", "torch-legacy"):
        found = "a safetensors file" if kind == "safetensors" else kind
        raise FormatError(f"{subject}: expected a file of torch.save, found {found}")
    return read_torch_bytes(read_whole(path), subject)


def read_torch_bytes(data: bytes, subject: str) -> dict[Any, Any]:
    """Read the bytes of a file of ``torch.save``; as :func:`read_torch_file`.

    Parameters
    ----------
    data
        All bytes of the file.
    subject
        The file's name, for messages.
    """
    if data[:4] == b"PK\x03\x04":
        value, builder = _read_archive(data, subject)
    else:
        value, builder = _read_legacy(data, subject)
    if not isinstance(value, dict | OrderedDictDescription | Record):
        found = kind_of(value)
        raise UnsupportedModelError(
            f"{subject}: expected a state dict or a checkpoint (a mapping), found {found}; "
            "save the weights with torch.save(model.state_dict(), path)"
        )
    result: dict[Any, Any] = builder.resolve(value)
    return result


# --- The archive ----------------------------------------------------------------------------------------------------


def _read_archive(data: bytes, subject: str) -> tuple[Any, TensorBuilder]:
    archive = ZipArchive(data, subject)
    pickles = [name for name in archive.names if name.count("/") == 1 and name.endswith("/data.pkl")]
    if not pickles:
        raise FormatError(f"{subject}: expected a file of torch.save, found {describe_zip(archive.names)}")
    root = pickles[0].removesuffix("data.pkl")
    if any(name == root + "constants.pkl" or name.startswith(root + "code/") for name in archive.names):
        raise UnsupportedModelError(
            f"{subject}: this is a TorchScript archive, which holds code; expected a state dict. "
            "Save its weights alone: torch.save(torch.jit.load(path).state_dict(), new_path)"
        )
    archive.check(stored_only=True)
    if len(pickles) > 1:
        raise UnsafeFileError(f"{subject}: the archive has {len(pickles)} pickles data.pkl; expected one")
    if root + "byteorder" in archive:
        order = bytes(archive.content(root + "byteorder")[:16]).strip()
        if order != b"little":
            raise UnsupportedModelError(
                f"{subject}: expected byteorder little, found {order.decode('ascii', 'backslashreplace')!r}; "
                "load and save the file on a little-endian machine"
            )
    value, _ = read_pickle(archive.content(pickles[0]), subject)

    def storage_bytes(storage: StorageRef) -> memoryview:
        name = f"{root}data/{storage.key}"
        if name not in archive:
            raise FormatError(f"expected its storage in the member {_quoted(name)}, found none; the file is damaged")
        wanted = storage.size * DTYPES[storage.dtype][0]
        if archive.size(name) < wanted:
            raise FormatError(
                f"expected {wanted} bytes in the member {_quoted(name)}, found {archive.size(name)}; it is damaged"
            )
        return archive.content(name)

    return value, TensorBuilder(subject, storage_bytes, len(data))


def _quoted(name: str) -> str:
    return ascii(name[:200])


# --- The layout before 1.6 ------------------------------------------------------------------------------------------


def _read_legacy(data: bytes, subject: str) -> tuple[Any, TensorBuilder]:
    magic, place = read_pickle(data, subject)
    if magic != _MAGIC_NUMBER:
        raise FormatError(f"{subject}: expected PyTorch's magic number, found another; the file is damaged")
    protocol, place = read_pickle(data, subject, place)
    if protocol != _LEGACY_PROTOCOL:
        raise FormatError(
            f"{subject}: expected protocol version {_LEGACY_PROTOCOL}, found another; the file is damaged"
        )
    machine, place = read_pickle(data, subject, place)
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise UnsupportedModelError(
            f"{subject}: expected a file of a little-endian machine, found another; load and save it on such a one"
        )
    value, place = read_pickle(data, subject, place)
    keys, place = read_pickle(data, subject, place)
    most = current_limits().tensors
    if not isinstance(keys, list) or len(keys) > most or not all(isinstance(key, str) for key in keys):
        raise FormatError(f"{subject}: expected a list of at most {most:,} storage keys; the file is damaged")
    widths = _storage_widths(value, subject)
    found: dict[str, memoryview] = {}
    for key in keys:
        if key not in widths:
            raise FormatError(f"{subject}: the storage {_quoted(key)} belongs to no tensor; the file is damaged")
        if key in found:
            raise FormatError(f"{subject}: the storage {_quoted(key)} is listed twice; the file is damaged")
        if place + 8 > len(data):
            raise FormatError(f"{subject}: the file ends before the storage {_quoted(key)}; it is truncated")
        count = int.from_bytes(data[place : place + 8], "little", signed=True)
        place += 8
        if not 0 <= count * widths[key] <= len(data) - place:
            raise FormatError(
                f"{subject}: expected {count} elements of {widths[key]} bytes in the storage {_quoted(key)}, found "
                f"{len(data) - place} bytes to the end of the file; it is truncated or damaged"
            )
        found[key] = memoryview(data)[place : place + count * widths[key]]
        place += count * widths[key]

    def storage_bytes(storage: StorageRef) -> memoryview:
        if storage.key not in found:
            raise FormatError(f"its storage {_quoted(storage.key)} is not in the file; the file is damaged")
        raw, wanted = found[storage.key], storage.size * DTYPES[storage.dtype][0]
        if len(raw) < wanted:
            raise FormatError(
                f"expected {wanted} bytes in the storage {_quoted(storage.key)}, found {len(raw)}; the file is damaged"
            )
        return raw

    return value, TensorBuilder(subject, storage_bytes, len(data))


def _storage_widths(value: Any, subject: str) -> dict[str, int]:
    """Return the bytes of an element of each storage: the file gives sizes in elements, of the first use's type."""
    widths: dict[str, int] = {}
    seen: set[int] = set()
    waiting: list[Any] = [value]
    while waiting:
        part = waiting.pop()
        if part is None or isinstance(part, bool | int | float | str | bytes | GlobalName) or id(part) in seen:
            continue
        seen.add(id(part))
        storage = part if isinstance(part, StorageRef) else getattr(part, "storage", None)
        if isinstance(storage, StorageRef):
            width = DTYPES[storage.dtype][0]
            if widths.setdefault(storage.key, width) != width:
                raise UnsupportedModelError(
                    f"{subject}: the storage {_quoted(storage.key)} is used with two element sizes; "
                    "load the file and save it anew"
                )
        elif isinstance(part, Record):
            waiting.append(part.values)
        elif isinstance(part, dict):
            waiting.extend(part.values())
        elif isinstance(part, list | tuple):
            waiting.extend(part)
    return widths
