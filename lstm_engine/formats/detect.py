"""What kind of model a file holds, judged by its content and never by its name."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .content import describe_zip, read_head, sniff
from .own_file import is_own

__all__ = ["FileKind", "detect", "zip_kind"]

_HDF5_SIGNATURE: Final = b"\x89HDF\r\n\x1a\n"

#: Bytes at the end of a zip archive that are searched for the names of its members: more than the directory of a
#: Keras archive takes, and enough of a large checkpoint's to tell what it is.
_TAIL_BYTES: Final = 1 << 20

_PHRASES: Final = {
    "torch-legacy": "a PyTorch checkpoint of the format before PyTorch 1.6",
    "safetensors": "a safetensors file",
}


@dataclass(frozen=True, slots=True)
class FileKind:
    """What a file is.

    Parameters
    ----------
    kind
        ``"keras"``, ``"keras-h5"``, ``"torch-zip"``, ``"torch-legacy"``, ``"safetensors"``, ``"lstm-engine"`` (a
        safetensors file of ours), ``"onnx"``, ``"npz"`` or ``"unknown"``.
    phrase
        The same for a message, with an article; for an unknown file what it seems to be.
    """

    kind: str
    phrase: str


def detect(path: str | os.PathLike[str]) -> FileKind:
    """Tell what kind of model a file holds from its first bytes and, if it is a zip archive, its members' names.

    The kind says which reader to ask; only that reader can tell whether the file is sound.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    FileKind
        The kind, and a phrase for messages.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    FormatError
        If it is empty, a directory, or no regular file.
    """
    head, size = read_head(path)
    found = sniff(head, size)
    if found == "zip":
        return zip_kind(_member_names(path, size))
    if found == "safetensors" and is_own(path):
        return FileKind("lstm-engine", "a model that lstm_engine saved")
    if found in _PHRASES:
        return FileKind(found, _PHRASES[found])
    if found == "a JSON text" and b'"weight_map"' in head:
        return FileKind("safetensors", "an index of shards")
    if found.startswith("an HDF5 file") or _has_hdf5_behind_user_block(path, size):
        return FileKind("keras-h5", "an HDF5 file")
    if found.startswith("an ONNX"):
        return FileKind("onnx", found)
    return FileKind("unknown", found)


def zip_kind(names: Iterable[str]) -> FileKind:
    """Tell what kind of model a zip archive holds from the names of its members."""
    members = set(names)
    if any(name.endswith("/data.pkl") for name in members):
        return FileKind("torch-zip", "a PyTorch checkpoint")
    if "config.json" in members and ("metadata.json" in members or any(n.startswith("model.weights") for n in members)):
        return FileKind("keras", "a Keras .keras archive")
    if members and all(name.endswith(".npy") for name in members):
        return FileKind("npz", "a NumPy .npz archive")
    phrase = describe_zip(members)
    return FileKind("unknown", "a zip archive of another kind" if "torch.save did not" in phrase else phrase)


def _member_names(path: str | os.PathLike[str], size: int) -> list[str]:
    """Return the names of a zip archive's first member and of those whose directory entries lie near its end."""
    with Path(path).open("rb") as file:
        start = file.read(30 + 0xFFFF)
        file.seek(max(0, size - _TAIL_BYTES))
        tail = file.read(_TAIL_BYTES)
    names = []
    if len(start) >= 30:
        (length,) = struct.unpack_from("<H", start, 26)
        names.append(start[30 : 30 + length].decode("utf-8", "replace"))
    place = tail.find(b"PK\x01\x02")
    while 0 <= place <= len(tail) - 46:
        (length,) = struct.unpack_from("<H", tail, place + 28)
        names.append(tail[place + 46 : place + 46 + length].decode("utf-8", "replace"))
        place = tail.find(b"PK\x01\x02", place + 46)
    return names


def _has_hdf5_behind_user_block(path: str | os.PathLike[str], size: int) -> bool:
    """Return whether an HDF5 file begins behind a block of other bytes, which HDF5 allows at 512, 1024, 2048, ..."""
    place = 512
    with Path(path).open("rb") as file:
        while place < size:
            file.seek(place)
            if file.read(len(_HDF5_SIGNATURE)) == _HDF5_SIGNATURE:
                return True
            place *= 2
    return False
