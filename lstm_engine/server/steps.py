"""Binary messages that ask for a step, the same head again and again: each head is read once, then known by its bytes.

Streams live on such messages, thousands a second, and reading a head takes longer than many a step. Nothing is decided
here that ``frames.py`` has not decided before.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

from numpy.typing import NDArray

from .frames import LENGTH_BYTES, Call
from .protocol import bytes_of, json_text

__all__ = ["StepHead", "StepHeads"]

#: Bytes of a head that is remembered. That of an ordinary name has some 40.
_MOST_HEAD: Final = 512


class StepHead:
    """What the head of a binary message that asks for a step says, and its replies.

    Parameters
    ----------
    call
        The call, of which the data do not matter.
    length
        How many bytes of a message stand before the data.

    Attributes
    ----------
    length
        As above.
    stream, timeout
        As of the call.
    said
        What every reply repeats.
    """

    __slots__ = ("_begin", "length", "said", "stream", "timeout")

    def __init__(self, call: Call, length: int) -> None:
        self.length = length
        self.stream = call.stream
        self.timeout = call.timeout
        self.said = call.said
        self._begin = json_text(self.said)[:-1]

    def reply(self, steps: int, y: NDArray[Any]) -> bytes:
        """Return what ``encode_reply`` makes of a step's only output."""
        head = b'%b,"steps":%d,"shape":%b}' % (self._begin, steps, _shape_text(y.shape))
        return b"".join((len(head).to_bytes(LENGTH_BYTES, "little"), head, bytes_of(y)))


class StepHeads:
    """The heads that a client repeats.

    Parameters
    ----------
    most
        How many are remembered; one more, and all are forgotten.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: dict[bytes, StepHead] = {}

    def find(self, message: bytes) -> StepHead | None:
        """Return the head of a message, if it is remembered."""
        length = LENGTH_BYTES + int.from_bytes(message[:LENGTH_BYTES], "little")
        return self._known.get(message[:length]) if length <= _MOST_HEAD else None

    def learn(self, message: bytes, call: Call) -> StepHead:
        """Return the head of a message that asks for ``call``, a step, and remember it if it can come again."""
        length = len(message) - len(call.data)
        head = StepHead(call, length)
        if call.id is None and length <= _MOST_HEAD:
            if len(self._known) >= self._most:
                self._known.clear()
            self._known[message[:length]] = head
        return head


@lru_cache(64)
def _shape_text(shape: tuple[int, ...]) -> bytes:
    return json_text(shape)
