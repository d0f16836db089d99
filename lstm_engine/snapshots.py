"""Snapshots: the state of a stream as bytes, for a database or another process.

A snapshot is a safetensors file, so that any reader of these can look into it: the arrays of the state by name, such as
``lstm.h`` (layers, rows, size), and at the end the tensor ``checksum``, a hash of everything before it. Its metadata:

=============  ====================================================================================
key            value
=============  ====================================================================================
format         ``lstm_engine state``
version        of this format, a whole number; others are refused
fingerprint    of the model (:func:`lstm_engine.fingerprint.fingerprint`)
compute_type   that of the model
rows           rows that advance together
=============  ====================================================================================

All but the numbers follows from the model. A snapshot is therefore compared with the header that it must have, byte for
byte, and nothing that it says is believed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NoReturn

import numpy as np
from numpy.typing import NDArray

from .errors import FormatError, StateError, UnsupportedModelError
from .fingerprint import fingerprint
from .formats.json_text import parse_json
from .options import dtype_of

if TYPE_CHECKING:
    from .lstm import LSTM
    from .model import Model

__all__ = ["FORMAT", "VERSION", "SnapshotLayout"]

FORMAT: Final = "lstm_engine state"
VERSION: Final = "1"

_CHECKSUM_BYTES: Final = 16
_NAMES: Final = {np.dtype(np.float32): "F32", np.dtype(np.float64): "F64"}


class SnapshotLayout:
    """What the snapshots of one model's streams look like.

    Parameters
    ----------
    source
        The Model or LSTM.
    rows
        Rows that advance together; a stream without a batch axis has one.
    arrays
        Names and shapes of the arrays of the state, (..., rows, ...), in order.

    Raises
    ------
    UnsupportedModelError
        If the model cannot be described, so that it has no fingerprint.
    """

    def __init__(self, source: Model | LSTM, rows: int, arrays: Sequence[tuple[str, tuple[int, ...]]]) -> None:
        self.dtype = dtype_of(source.compute_type)
        self.shapes = [shape for _, shape in arrays]
        self._metadata = {
            "format": FORMAT,
            "version": VERSION,
            "fingerprint": fingerprint(source),
            "compute_type": source.compute_type,
            "rows": str(rows),
        }
        header: dict[str, Any] = {"__metadata__": self._metadata}
        end = 0
        for name, shape in arrays:
            begin, end = end, end + math.prod(shape) * self.dtype.itemsize
            header[name] = {"dtype": _NAMES[self.dtype], "shape": list(shape), "data_offsets": [begin, end]}
        checksum = [end, end + _CHECKSUM_BYTES]
        header["checksum"] = {"dtype": "U8", "shape": [_CHECKSUM_BYTES], "data_offsets": checksum}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self._header = len(text).to_bytes(8, "little") + text
        self._bytes = len(self._header) + end + _CHECKSUM_BYTES

    def pack(self, arrays: Sequence[NDArray[Any]]) -> bytes:
        """Return the snapshot of a state: arrays of the layout's shapes."""
        little = self.dtype.newbyteorder("<")
        content = self._header + b"".join([array.astype(little, copy=False).tobytes() for array in arrays])
        return content + _checksum(content)

    def unpack(self, snapshot: Any) -> list[NDArray[Any]]:
        """Return the arrays of a snapshot.

        Raises
        ------
        FormatError
            If it is none, or damaged.
        StateError
            If it is of another model, compute type or number of rows.
        UnsupportedModelError
            If another version of the format wrote it.
        """
        if not isinstance(snapshot, (bytes, bytearray, memoryview)):
            raise FormatError(f"snapshot: expected bytes, found {type(snapshot).__name__}")
        content = bytes(snapshot)
        if not content.startswith(self._header):
            self._refuse(content)
        if len(content) != self._bytes:
            raise FormatError(
                f"snapshot: expected {self._bytes:,} bytes, found {len(content):,}; cut off, or joined with others"
            )
        if _checksum(content[:-_CHECKSUM_BYTES]) != content[-_CHECKSUM_BYTES:]:
            raise FormatError("snapshot: its checksum does not fit its bytes; they were damaged")
        arrays, offset, little = [], len(self._header), self.dtype.newbyteorder("<")
        for shape in self.shapes:
            count = math.prod(shape)
            arrays.append(np.frombuffer(content, little, count, offset).reshape(shape).astype(self.dtype))
            offset += count * self.dtype.itemsize
        return arrays

    def _refuse(self, content: bytes) -> NoReturn:
        """Say why a snapshot has not the header that it must have."""
        found = _metadata(content)
        if found.get("format") != FORMAT:
            raise FormatError("snapshot: expected bytes from snapshot(), found others")
        if found.get("version") != VERSION:
            raise UnsupportedModelError(
                f"snapshot: expected version {VERSION}, found {found.get('version')!r:.20}; take it with this version "
                "of lstm_engine"
            )
        wanted = self._metadata
        if found.get("fingerprint") != wanted["fingerprint"]:
            raise StateError(
                f"snapshot: expected one of this model (fingerprint {wanted['fingerprint'][:16]}...), found one of "
                f"another, {found.get('fingerprint')!r:.19}...; restore it into a stream of that model"
            )
        for key in ("compute_type", "rows"):
            if found.get(key) != wanted[key]:
                raise StateError(f"snapshot: expected {key} {wanted[key]}, found {found.get(key)!r:.20}")
        raise FormatError("snapshot: its header is damaged")


def _checksum(content: bytes) -> bytes:
    from hashlib import blake2b

    return blake2b(content, digest_size=_CHECKSUM_BYTES).digest()


def _metadata(content: bytes) -> dict[str, Any]:
    """Return the metadata of a snapshot's header; empty if it has none."""
    length = int.from_bytes(content[:8], "little")
    if length > len(content) - 8:
        return {}
    try:
        header = parse_json(content[8 : 8 + length], "snapshot: header")
    except ValueError:
        return {}
    found = header.get("__metadata__") if isinstance(header, dict) else None
    return found if isinstance(found, dict) else {}
