"""What a file is, judged by its first bytes and never by its name."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from lstm_engine.errors import FormatError

__all__ = ["HEAD_BYTES", "TORCH_LEGACY_MAGIC", "describe_zip", "read_head", "read_whole", "sniff"]

#: Bytes that :func:`sniff` needs.
HEAD_BYTES: Final = 512

#: PyTorch's magic number 0x1950a86a20f9469cfc6c as pickle writes it (LONG1 of ten bytes, STOP), with which its files
#: before 1.6 begin, behind the protocol and, from protocol 4 on, a frame.
TORCH_LEGACY_MAGIC: Final = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."

_SIGNATURES: Final[tuple[tuple[int, bytes, str], ...]] = (
    (0, b"PK\x03\x04", "zip"),
    (0, b"PK\x05\x06", "an empty zip archive"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file, such as Keras writes it"),
    (0, b"\x1f\x8b", "a gzip file; unpack it first"),
    (0, b"BZh", "a bzip2 file; unpack it first"),
    (0, b"\xfd7zXZ\x00", "an xz file; unpack it first"),
    (0, b"\x28\xb5\x2f\xfd", "a Zstandard file; unpack it first"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-zip archive; unpack it first"),
    (0, b"version https://git-lfs", "a git-lfs pointer, not the file itself; run `git lfs pull`"),
    (0, b"\x93NUMPY", "a NumPy .npy array"),
    (0, b"GGUF", "a GGUF file"),
    (4, b"TFL3", "a TensorFlow Lite file"),
    (257, b"ustar", "a tar archive; unpack it first, or load and save it anew if PyTorch before 0.2 wrote it"),
)


def sniff(head: bytes, file_bytes: int) -> str:
    """Name what a file is.

    Parameters
    ----------
    head
        Its first :data:`HEAD_BYTES` bytes, or all of them if it is smaller.
    file_bytes
        Its size.

    Returns
    -------
    str
        ``"zip"``, ``"torch-legacy"`` or ``"safetensors"``; else a phrase such as ``"an HDF5 file"`` for messages.
    """
    # A safetensors header is JSON behind its length. A truncated file is still recognised, so that its own reader can
    # say what is missing.
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < max(file_bytes, 1 << 32):
        return "safetensors"
    if head[:1] == b"\x80" and TORCH_LEGACY_MAGIC in head[2:40]:
        return "torch-legacy"
    for place, signature, name in _SIGNATURES:
        if head[place : place + len(signature)] == signature:
            return name
    if head[:1] == b"\x80" and b"\x02" <= head[1:2] <= b"\x05":
        return "a bare Python pickle, not written by torch.save"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page; the download went wrong"
    if text.startswith((b"{", b"[")):
        return "a JSON text"
    # An ONNX ModelProto begins with ir_version (field 1, a small varint), then usually the producer (field 2).
    if len(head) > 3 and head[0] == 0x08 and 1 <= head[1] <= 32 and head[2] in b"\x12\x1a\x22\x28\x32\x3a\x42":
        return "an ONNX model"
    if head and not head.strip(b"\x00"):
        return "a file of zeros; the copy or download went wrong"
    return "a file of no format that is known here"


def describe_zip(names: Iterable[str]) -> str:
    """Name what a zip archive with members of these ``names`` is, for messages."""
    found = set(names)
    if "config.json" in found and any(name.startswith("model.weights") for name in found):
        return "a Keras .keras archive"
    if any(name.endswith("saved_model.pb") for name in found):
        return "a zipped TensorFlow SavedModel"
    if found and all(name.endswith(".npy") for name in found):
        return "a NumPy .npz archive"
    if any(name.endswith("/archive_format") for name in found):
        return "an archive of torch.export; save its state_dict with torch.save"
    if any("/.data/" in name for name in found):
        return "an archive of torch.package; save the model's state_dict with torch.save"
    if any(name.endswith((".pt", ".pth", ".safetensors", ".h5", ".keras")) for name in found):
        return "a zip archive with model files in it; unpack it first"
    return "a zip archive that torch.save did not write"


def read_head(path: str | os.PathLike[str]) -> tuple[bytes, int]:
    """Read the first bytes of a file.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    head
        At most :data:`HEAD_BYTES` bytes.
    file_bytes
        Its size.

    Raises
    ------
    FileNotFoundError
        If there is none.
    FormatError
        If it is empty, a directory, or no regular file.
    """
    state = Path(path).stat()
    if stat.S_ISDIR(state.st_mode):
        hint = ""
        if Path(path, "saved_model.pb").exists():
            hint = " (a TensorFlow SavedModel)"
        raise FormatError(f"{os.fspath(path)}: expected a file, found a directory{hint}; give the file's own path")
    if not stat.S_ISREG(state.st_mode):
        raise FormatError(f"{os.fspath(path)}: expected a regular file, found a device, pipe or socket; make it a file")
    with Path(path).open("rb") as file:
        head = file.read(HEAD_BYTES)
    if not head:
        raise FormatError(f"{os.fspath(path)}: expected a model file, found an empty one; export or download it again")
    return head, state.st_size


def read_whole(path: str | os.PathLike[str]) -> bytes:
    """Read all of a regular file that :func:`read_head` has accepted.

    Readers work on bytes in memory: a file mapped into memory takes the process down if another program truncates it.
    """
    with Path(path).open("rb") as file:
        return file.read()
