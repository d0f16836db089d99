"""The messages of streams over a WebSocket: bytes to calls and back. Pure functions, no server in them.

A text message is a JSON object. A binary one is a JSON object with data behind it: 4 bytes, the length of the JSON in
bytes (little-endian), then the JSON, then the data.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from lstm_engine.errors import FormatError, ShapeError

from .protocol import (
    DATATYPES,
    array_of_bytes,
    array_of_json,
    bytes_each,
    bytes_of,
    datatype_of,
    json_of,
    json_text,
    read_json,
)

if TYPE_CHECKING:
    from lstm_engine.model import Model

    from .options import ServerOptions

__all__ = ["LENGTH_BYTES", "OPERATIONS", "Call", "StepTensors", "decode_call", "encode_reply"]

Array = NDArray[Any]

OPERATIONS: Final = ("open", "step", "run", "reset", "snapshot", "restore", "close")

#: Of the length that stands before the JSON of a binary message.
LENGTH_BYTES: Final = 4
_MOST_NAME: Final = 200
_KEYS: Final = {"op", "stream", "id", "timeout", "data", "snapshot"}


@dataclass(frozen=True, slots=True)
class Call:
    """What a message asks for.

    Attributes
    ----------
    op
        One of :data:`OPERATIONS`.
    stream
        The client's name for the stream.
    id
        The client's name for the message, which the reply repeats; None for none.
    timeout
        Seconds; None for ever.
    data
        Of a step or a run: JSON values, or binary data.
    snapshot
        Of an open or a restore; None for none.
    binary
        Whether the message was binary, as the reply then is too.
    """

    op: str
    stream: str
    id: str | int | None
    timeout: float | None
    data: Any
    snapshot: bytes | None
    binary: bool

    @property
    def said(self) -> dict[str, Any]:
        """What every reply to it repeats."""
        return {"stream": self.stream} if self.id is None else {"id": self.id, "stream": self.stream}


def decode_call(message: str | bytes, options: ServerOptions) -> Call:
    """Return what a message asks for.

    Raises
    ------
    FormatError, UnsafeFileError
        If it is none of ours.
    RequestError
        413 if there is too much JSON.
    """
    payload: memoryview | None = None
    if isinstance(message, str):
        head = read_json(message, options.max_json, "message")
    else:
        view = memoryview(message)
        length = int.from_bytes(view[:LENGTH_BYTES], "little")
        if len(view) < LENGTH_BYTES or length > len(view) - LENGTH_BYTES:
            raise FormatError(
                f"message: expected the length of its JSON in the first 4 bytes, and that JSON behind them, found "
                f"{len(view):,} bytes and {length:,} for that length"
            )
        head = read_json(view[LENGTH_BYTES : LENGTH_BYTES + length], options.max_json, "message")
        payload = view[LENGTH_BYTES + length :]
    unknown = sorted(set(head) - _KEYS)
    if unknown:
        raise FormatError(f"message: expected {', '.join(sorted(_KEYS))}; found {', '.join(unknown)[:80]!r} too")
    op, stream, id, timeout = (head.get(key) for key in ("op", "stream", "id", "timeout"))
    if op not in OPERATIONS:
        raise FormatError(f"op: expected one of {', '.join(OPERATIONS)}, found {str(op)[:40]!r}")
    if not isinstance(stream, str) or not 0 < len(stream) <= _MOST_NAME:
        raise FormatError(f"stream: expected a text of 1 to {_MOST_NAME} characters, found {str(stream)[:40]!r}")
    if id is not None and type(id) is not int and not (isinstance(id, str) and len(id) <= _MOST_NAME):
        raise FormatError(f"id: expected a whole number, or a text of at most {_MOST_NAME} characters")
    if timeout is not None and (type(timeout) not in (int, float) or not 0 <= timeout < math.inf):
        raise FormatError(f"timeout: expected seconds, 0 or more, found {str(timeout)[:40]}")
    data, snapshot = head.get("data"), _snapshot(head.get("snapshot"))
    if payload is not None:
        if data is not None or snapshot is not None:
            raise FormatError(
                "message: expected data and snapshots of a binary message behind its JSON, found them in it"
            )
        if op in ("step", "run"):
            data = payload
        elif op == "restore" or (op == "open" and len(payload)):
            snapshot = bytes(payload)
        elif len(payload):
            raise FormatError(f"message: expected nothing behind the JSON of {op!r}, found {len(payload):,} bytes")
    if (data is None) == (op in ("step", "run")):
        raise FormatError(f"data: expected {'none' if data is not None else 'some'} with {op!r}")
    if (snapshot is None) == (op == "restore") and op != "open":
        raise FormatError(f"snapshot: expected {'none' if snapshot is not None else 'one'} with {op!r}")
    return Call(op, stream, id, timeout, data, snapshot, payload is not None)


def _snapshot(text: Any) -> bytes | None:
    if text is None:
        return None
    try:
        if isinstance(text, str):
            return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        pass
    raise FormatError("snapshot: expected the base64 text of a snapshot")


def encode_reply(head: Mapping[str, Any], payload: bytes | None = None, binary: bool = False) -> str | bytes:
    """Return a message: text, or binary with ``payload`` behind its JSON."""
    text = json_text(head)
    if not binary:
        return text.decode()
    return b"".join([len(text).to_bytes(LENGTH_BYTES, "little"), text, payload or b""])


@dataclass(frozen=True)
class StepTensors:
    """What a model takes and gives at each step: names, datatypes and shapes without rows and time."""

    inputs: tuple[tuple[str, str, tuple[int | None, ...]], ...]
    outputs: tuple[str, ...]
    #: Bytes of the outputs of a step.
    answer_bytes: int = 0

    @classmethod
    def of(cls, model: Model) -> StepTensors:
        """Return those of a model."""
        return cls(
            tuple(
                (spec.name, datatype_of(spec.dtype), spec.shape[2:] if spec.sequence else spec.shape[1:])
                for spec in model.inputs
            ),
            tuple(spec.name for spec in model.outputs),
            sum(bytes_each(spec.shape[2:] if len(spec.shape) > 2 else spec.shape[1:], spec) for spec in model.outputs),
        )

    def decode(self, data: Any, time: bool) -> Any:
        """Return what ``Batcher.step`` (``run`` if ``time``) takes.

        Raises
        ------
        ShapeError
            If the data are none, or not as many as the shapes ask for.
        """
        arrays = self._of_bytes(data, time) if isinstance(data, memoryview) else self._of_json(data)
        return next(iter(arrays.values())) if len(arrays) == 1 else arrays

    def _of_json(self, data: Any) -> dict[str, Array]:
        names = [name for name, _, _ in self.inputs]
        given = {names[0]: data} if len(names) == 1 and not isinstance(data, dict) else data
        if not isinstance(given, dict) or set(given) != set(names):
            found = ", ".join(given) if isinstance(given, dict) else "no object"
            raise ShapeError(f"data: expected an object with {', '.join(names)}, found {found[:200]}")
        return {name: array_of_json(given[name], datatype, name) for name, datatype, _ in self.inputs}

    @cached_property
    def _sizes(self) -> tuple[int, ...]:
        """The bytes of each input in a step."""
        for name, _, shape in self.inputs:
            if None in shape:
                raise ShapeError(
                    f"data: expected JSON, since {name} has sizes that the request decides, found binary data"
                )
        return tuple(
            math.prod(size or 0 for size in shape) * DATATYPES[datatype].itemsize for _, datatype, shape in self.inputs
        )

    def _of_bytes(self, data: memoryview, time: bool) -> dict[str, Array]:
        sizes = self._sizes
        steps, left = divmod(len(data), sum(sizes)) if sum(sizes) else (0, len(data))
        if left or (not time and steps != 1):
            raise ShapeError(
                f"data: expected {sum(sizes):,} bytes{' for each step' if time else ''}, "
                f"{' and '.join(f'{name} {list(shape)} of {kind}' for name, kind, shape in self.inputs)}, "
                f"found {len(data):,}"
            )
        arrays, begin = {}, 0
        for (name, datatype, shape), size in zip(self.inputs, sizes, strict=True):
            part = data[begin : begin + steps * size]
            arrays[name] = array_of_bytes(part, datatype, (*([steps] if time else []), *(n or 0 for n in shape)), name)
            begin += steps * size
        return arrays

    @cached_property
    def _plain(self) -> tuple[int, np.dtype[Any], tuple[int, ...]] | None:
        """The bytes, dtype and shape of a step of one input and one output, if any bytes are numbers of it."""
        if len(self.inputs) > 1 or len(self.outputs) > 1:
            return None
        ((_, datatype, shape),) = self.inputs
        if datatype == "BOOL" or None in shape or not self._sizes[0]:
            return None
        return self._sizes[0], DATATYPES[datatype], tuple(size or 0 for size in shape)

    def plain_step(self, message: bytes, begin: int) -> Array | None:
        """Return what :meth:`decode` makes of the data at ``begin``; None where it takes that one to tell."""
        if self._plain is None or len(message) - begin != self._plain[0]:
            return None
        _, dtype, shape = self._plain
        # Of a copy, which is aligned, as data behind a text seldom are.
        return np.frombuffer(message[begin:], dtype).reshape(shape)

    def encode(self, y: Any, binary: bool) -> tuple[dict[str, Any], bytes | None]:
        """Return what a reply says of a result, and its binary data: one output behind the other."""
        outputs: Sequence[Array] = y if isinstance(y, tuple) else (y,)
        named = dict(zip(self.outputs, outputs, strict=True))
        if binary:
            shapes: Any = {name: list(array.shape) for name, array in named.items()}
            head = {"shape": shapes if len(named) > 1 else next(iter(shapes.values()))}
            return head, b"".join(bytes_of(array) for array in outputs)
        values: Any = {name: json_of(np.asarray(array)) for name, array in named.items()}
        return {"data": values if len(named) > 1 else next(iter(values.values()))}, None
