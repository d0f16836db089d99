"""How much a protobuf of an ONNX model would take in memory, counted on its bytes before it is parsed.

A parser makes an object of a hundred bytes and more from two bytes of an empty message, and eight from one byte of a
packed number. So entries are counted first, without making any of them.
"""

from __future__ import annotations

from typing import Final

from lstm_engine.errors import FormatError

from .limits import WAY_OUT, current_limits

__all__ = ["check_wire"]

#: Fields of each message of onnx.proto that are messages themselves.
_MESSAGES: Final[dict[str, dict[int, str]]] = {
    "model": {7: "graph", 8: "opset", 14: "leaf", 20: "training", 25: "function", 26: "leaf"},
    "training": {1: "graph", 2: "graph", 3: "leaf", 4: "leaf"},
    "function": {7: "node", 8: "leaf", 9: "leaf", 11: "attribute", 12: "value", 13: "leaf", 14: "leaf"},
    "graph": {
        1: "node", 5: "tensor", 11: "value", 12: "value", 13: "value", 14: "annotation", 15: "sparse", 16: "leaf"
    },
    "node": {5: "attribute", 9: "leaf", 10: "leaf"},
    "attribute": {
        5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 14: "type", 15: "type", 22: "sparse", 23: "sparse"
    },
    "tensor": {3: "leaf", 13: "leaf", 16: "leaf"},
    "sparse": {1: "tensor", 2: "tensor"},
    "annotation": {2: "leaf"},
    "value": {2: "type", 4: "leaf"},
    "type": {1: "shaped", 4: "holder", 5: "holder", 8: "shaped", 9: "holder"},
    "holder": {1: "type", 2: "type"},
    "shaped": {2: "shape"},
    "shape": {1: "dimension"},
    "opset": {},
    "dimension": {},
    "leaf": {},
}  # fmt: skip

#: Fields that hold a text which is looked at.
_TEXTS: Final = {
    "model": {2, 3}, "graph": {2}, "node": {1, 2, 3, 4, 7}, "attribute": {1, 21}, "tensor": {8}, "value": {1},
    "function": {1, 10}, "opset": {1}, "dimension": {2},
}  # fmt: skip

#: Fields that hold packed numbers of variable width, of which one byte becomes eight.
_PACKED: Final = {"tensor": {1, 5, 7, 11}, "sparse": {3}, "attribute": {8}}

#: Packed bytes that count as one entry.
_PACKED_BYTES: Final = 8

#: Messages in messages that protobuf follows.
_DEEPEST: Final = 100


def check_wire(data: bytes, source: str) -> None:
    """Raise FormatError if the bytes of a model are damaged, hold names that are no text, or would unfold to too much.

    Parameters
    ----------
    data
        The whole file.
    source
        Its path, for messages.
    """
    most = current_limits().onnx_entries
    entries = 0
    open_messages: list[tuple[int, str]] = [(len(data), "model")]
    place = 0
    while open_messages:
        end, message = open_messages[-1]
        if entries > most:
            raise FormatError(
                f"{source}: expected at most {most:,} nodes, names, attributes and arrays together, found more; "
                + WAY_OUT.format("onnx_entries")
            )
        if place == end:
            open_messages.pop()
            continue
        entries += 1
        key, place = _number(data, place, end, source)
        field, kind = key >> 3, key & 7
        if kind == 0:
            _, place = _number(data, place, end, source)
            continue
        if kind == 2:
            length, place = _number(data, place, end, source)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise FormatError(f"{source}: expected an ONNX model, found damaged data at byte {place}")
        if length > end - place:
            raise FormatError(
                f"{source}: expected {length} more bytes at byte {place}, found {end - place}; the file is cut off or "
                "damaged: export or download it again"
            )
        inner = _MESSAGES[message].get(field) if kind == 2 else None
        if inner is not None and len(open_messages) < _DEEPEST:
            open_messages.append((place + length, inner))
            continue
        if kind == 2 and field in _PACKED.get(message, ()):
            entries += length // _PACKED_BYTES
        elif kind == 2 and field in _TEXTS.get(message, ()):
            _check_text(data[place : place + length], place, source)
        place += length


def _check_text(text: bytes, place: int, source: str) -> None:
    """Raise FormatError unless a text is UTF-8."""
    try:
        text.decode()
    except UnicodeDecodeError:
        raise FormatError(
            f"{source}: expected a name at byte {place}, found bytes that are no text; export the model again"
        ) from None


def _number(data: bytes, place: int, end: int, source: str) -> tuple[int, int]:
    """Return the variable-width number at ``place``, and the place behind it."""
    value = shift = 0
    while place < end and shift < 70:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
    raise FormatError(f"{source}: expected an ONNX model, found damaged data at byte {place}; export it again")
