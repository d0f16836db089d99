"""What the tests of PyTorch's files share: recorded files, and archives put together by hand."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lstm_engine.errors import LstmEngineError

DATA = Path(__file__).parent / "data" / "torch"

#: Opcodes of a hand-made pickle; the reference is Python's pickletools.
PROTO, STOP, MARK, NONE, TRUE, FALSE = b"\x80\x02", b".", b"(", b"N", b"\x88", b"\x89"
EMPTY_TUPLE, EMPTY_LIST, EMPTY_DICT = b")", b"]", b"}"
TUPLE, TUPLE1, TUPLE2, TUPLE3 = b"t", b"\x85", b"\x86", b"\x87"
APPEND, APPENDS, SETITEM, SETITEMS = b"a", b"e", b"s", b"u"
REDUCE, NEWOBJ, BUILD, PERSISTENT_ID = b"R", b"\x81", b"b", b"Q"


def name(module: str, attribute: str) -> bytes:
    """GLOBAL."""
    return b"c" + module.encode() + b"\n" + attribute.encode() + b"\n"


def text(value: str) -> bytes:
    """BINUNICODE."""
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def integer(value: int) -> bytes:
    """BININT where it fits, else LONG1."""
    if -(1 << 31) <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    raw = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def whole(values: tuple[int, ...]) -> bytes:
    """A tuple of integers."""
    return MARK + b"".join(integer(value) for value in values) + TUPLE


def put(place: int) -> bytes:
    """LONG_BINPUT."""
    return b"r" + struct.pack("<I", place)


def get(place: int) -> bytes:
    """LONG_BINGET."""
    return b"j" + struct.pack("<I", place)


def pickled(body: bytes) -> bytes:
    return PROTO + body + STOP


def storage(key: str = "0", size: int = 4, kind: str = "FloatStorage") -> bytes:
    """The persistent id of a storage, loaded."""
    identity = text("storage") + name("torch", kind) + text(key) + text("cpu") + integer(size)
    return MARK + identity + TUPLE + PERSISTENT_ID


def tensor(
    shape: tuple[int, ...] = (4,), strides: tuple[int, ...] = (1,), offset: int = 0, block: bytes | None = None
) -> bytes:
    """A call of _rebuild_tensor_v2, as torch.save writes it."""
    hooks = name("collections", "OrderedDict") + EMPTY_TUPLE + REDUCE
    values = (storage() if block is None else block) + integer(offset) + whole(shape) + whole(strides) + FALSE + hooks
    return name("torch._utils", "_rebuild_tensor_v2") + MARK + values + TUPLE + REDUCE


def mapping(**entries: bytes) -> bytes:
    """A dict of named values, each given as its pickle."""
    return EMPTY_DICT + MARK + b"".join(text(key) + value for key, value in entries.items()) + SETITEMS


def laughs(levels: int = 30, bottom: bytes = NONE) -> bytes:
    """A tuple of lists, each ten times in the next: ten to the power of ``levels`` if they are unfolded."""
    lists = EMPTY_LIST + bottom + APPEND + put(0)
    for level in range(levels):
        lists += EMPTY_LIST + MARK + get(level) * 10 + APPENDS + put(level + 1)
    return MARK + lists + TUPLE


def archive(
    body: bytes,
    storages: Mapping[str, bytes] | None = None,
    *,
    more: Mapping[str, bytes] | None = None,
    compression: int = zipfile.ZIP_STORED,
    byteorder: bytes = b"little",
) -> bytes:
    """The bytes of an archive like torch.save's, with the pickle and the storages given."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as target:
        target.writestr("archive/data.pkl", pickled(body))
        target.writestr("archive/byteorder", byteorder)
        for key, raw in (storages if storages is not None else {"0": bytes(16)}).items():
            target.writestr(f"archive/data/{key}", raw)
        for member, raw in (more or {}).items():
            target.writestr(member, raw)
    return buffer.getvalue()


def refusal(function: Callable[..., Any], *arguments: Any) -> str | None:
    """Return the message of the error of ours in which a call ends, or None if it ends well."""
    try:
        function(*arguments)
    except LstmEngineError as error:
        return f"{type(error).__name__}: {error}"
    return None
