"""The messages of HDF5 object headers: what Keras's files say in them about shapes, types, names and places.

The names and layouts are those of the "HDF5 File Format Specification Version 3.0" (The HDF Group).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from lstm_engine.errors import FormatError, UnsupportedModelError

from .limits import MAX_RANK, current_limits

__all__ = [
    "ATTRIBUTE",
    "ATTRIBUTE_INFO",
    "CONTINUATION",
    "DATASPACE",
    "DATATYPE",
    "EXTERNAL_FILES",
    "FILTERS",
    "LAYOUT",
    "LINK",
    "LINK_INFO",
    "SYMBOL_TABLE",
    "UNDEFINED",
    "Attribute",
    "Bytes",
    "Cursor",
    "Datatype",
    "Filter",
    "Layout",
    "Link",
    "Message",
    "add_link",
    "attribute",
    "dataspace",
    "datatype",
    "filters",
    "layout",
    "link",
]

#: An address that points nowhere.
UNDEFINED: Final = 0xFFFF_FFFF_FFFF_FFFF

Bytes = memoryview

# Types of header messages.
DATASPACE, LINK_INFO, DATATYPE, EXTERNAL_FILES, LINK, LAYOUT = 0x01, 0x02, 0x03, 0x07, 0x06, 0x08
FILTERS, ATTRIBUTE, CONTINUATION, SYMBOL_TABLE, ATTRIBUTE_INFO = 0x0B, 0x0C, 0x10, 0x11, 0x15


@dataclass(frozen=True, slots=True)
class Message:
    """One message of an object header."""

    kind: int
    shared: bool
    data: Bytes


@dataclass(frozen=True, slots=True)
class Link:
    """What a name in a group leads to: ``"hard"`` to the object at ``address``, else ``"soft"``, ``"external"``, ..."""

    kind: str
    address: int = UNDEFINED


@dataclass(frozen=True, slots=True)
class Datatype:
    """An element's type.

    Parameters
    ----------
    kind
        ``"float"``, ``"bfloat16"``, ``"int"``, ``"uint"``, ``"string"`` (of fixed size), ``"text"`` (of variable
        length), ``"opaque"`` or ``"other"``.
    size
        Bytes of one element in the file.
    big_endian
        Order of a number's bytes.
    """

    kind: str
    size: int
    big_endian: bool = False


@dataclass(frozen=True, slots=True)
class Attribute:
    """An attribute: its type, its shape (None for one without a value), and its bytes."""

    datatype: Datatype
    shape: tuple[int, ...] | None
    data: Bytes


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a dataset's bytes are.

    ``"compact"``: in ``data``. ``"contiguous"``: ``size`` bytes at ``address``. ``"chunked"``: below the B-tree at
    ``address``, in chunks of the shape ``chunk``, whose last number is the size of an element.
    """

    kind: str
    data: Bytes | None = None
    address: int = UNDEFINED
    size: int = 0
    chunk: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Filter:
    """One filter of a dataset's pipeline."""

    code: int
    name: str


class Cursor:
    """Reads one structure from its first byte on."""

    def __init__(self, data: Bytes, what: str) -> None:
        self.data, self.what, self.place = data, what, 0

    def take(self, count: int) -> Bytes:
        if not 0 <= count <= len(self.data) - self.place:
            raise FormatError(f"the HDF5 structure {self.what} is truncated or damaged")
        self.place += count
        return self.data[self.place - count : self.place]

    def number(self, count: int) -> int:
        return int.from_bytes(self.take(count), "little")

    def expect(self, signature: bytes) -> None:
        found = bytes(self.take(len(signature)))
        if found != signature:
            raise FormatError(
                f"expected the HDF5 structure {self.what} ({signature!r}), found {found!r}; it is damaged"
            )

    def text(self, data: Bytes) -> str:
        try:
            return bytes(data).split(b"\0", 1)[0].decode("utf-8")
        except UnicodeDecodeError:
            raise FormatError(f"a name in the HDF5 structure {self.what} is damaged: expected UTF-8") from None


def dataspace(data: Bytes) -> tuple[int, ...] | None:
    """Return the shape that a dataspace message states; None if it holds no elements at all."""
    cursor = Cursor(data, "dataspace")
    version, rank, _ = cursor.number(1), cursor.number(1), cursor.number(1)
    if version not in (1, 2) or rank > MAX_RANK:
        raise FormatError(f"expected an HDF5 dataspace of at most {MAX_RANK} dimensions, found {rank}; it is damaged")
    null = cursor.number(1) == 2 and version == 2
    cursor.take(4 if version == 1 else 0)
    shape = tuple(cursor.number(8) for _ in range(rank))
    return None if null else shape


#: Numbers of the IEEE formats: size, precision, place and width of the exponent, width of the mantissa, bias.
_FLOATS: Final = {
    (2, 16, 10, 5, 10, 15): "float",
    (4, 32, 23, 8, 23, 127): "float",
    (8, 64, 52, 11, 52, 1023): "float",
    (2, 16, 7, 8, 7, 127): "bfloat16",
}


def datatype(data: Bytes) -> Datatype:
    """Return the type that a datatype message states."""
    cursor = Cursor(data, "datatype")
    first, bits, size = cursor.number(1), cursor.number(3), cursor.number(4)
    kind = first & 15
    if kind == 0:
        offset, precision = cursor.number(2), cursor.number(2)
        if offset == 0 and precision == 8 * size and size in (1, 2, 4, 8):
            return Datatype("int" if bits & 8 else "uint", size, bool(bits & 1))
    elif kind == 1:
        offset, precision, exponent_place, exponent = (
            cursor.number(2),
            cursor.number(2),
            cursor.number(1),
            cursor.number(1),
        )
        mantissa_place, mantissa, bias = cursor.number(1), cursor.number(1), cursor.number(4)
        name = _FLOATS.get((size, precision, exponent_place, exponent, mantissa, bias))
        plain = offset == mantissa_place == 0 and bits >> 8 & 255 == 8 * size - 1 and not bits & 0x4E
        # Bits 4 and 5: the mantissa's leading one is implied.
        if name is not None and plain and bits >> 4 & 3 == 2:
            return Datatype(name, size, bool(bits & 1))
    elif kind == 3:
        return Datatype("string", size)
    elif kind == 5:
        return Datatype("opaque", size)
    elif kind == 9 and bits & 15 == 1 and size == 16:
        return Datatype("text", size)
    return Datatype("other", size)


def layout(data: Bytes) -> Layout:
    """Return where a dataset's bytes are."""
    cursor = Cursor(data, "data layout")
    version, kind = cursor.number(1), cursor.number(1)
    if version not in (3, 4):
        # HDF5 2.0 writes 5, for filtered chunks, where nothing older is to read it.
        raise UnsupportedModelError(
            f"expected an HDF5 data layout of version 3 or 4, found {version}; save the model again with Keras, "
            "without asking h5py for libver='latest'"
        )
    if kind == 0:
        return Layout("compact", data=cursor.take(cursor.number(2)))
    if kind == 1:
        return Layout("contiguous", address=cursor.number(8), size=cursor.number(8))
    if kind == 2 and version == 3:
        rank = cursor.number(1)
        address = cursor.number(8)
        return Layout("chunked", address=address, chunk=tuple(cursor.number(4) for _ in range(rank)))
    return Layout({2: "chunked by a newer index", 3: "virtual"}.get(kind, "unknown"))


def filters(data: Bytes) -> list[Filter]:
    """Return the filters of a pipeline message, in the order in which they were applied."""
    cursor = Cursor(data, "filter pipeline")
    version, count = cursor.number(1), cursor.number(1)
    if version not in (1, 2):
        raise FormatError(f"expected an HDF5 filter pipeline of version 1 or 2, found {version}; it is damaged")
    cursor.take(6 if version == 1 else 0)
    found = []
    for _ in range(count):
        code = cursor.number(2)
        length = cursor.number(2) if version == 1 or code >= 256 else 0
        cursor.take(2)
        values = cursor.number(2)
        name = cursor.text(cursor.take(length))
        cursor.take(4 * values + (4 if version == 1 and values % 2 else 0))
        found.append(Filter(code, name))
    return found


def attribute(message: Message) -> tuple[str, Attribute]:
    cursor = Cursor(message.data, "attribute")
    version, flags = cursor.number(1), cursor.number(1)
    if version not in (1, 2, 3):
        raise FormatError(f"expected an HDF5 attribute of version 1 to 3, found {version}; it is damaged")
    if message.shared or (version > 1 and flags & 3):
        raise UnsupportedModelError("HDF5 attributes with shared types are not read; save the model again with Keras")
    sizes = cursor.number(2), cursor.number(2), cursor.number(2)
    cursor.take(1 if version == 3 else 0)
    # Version 1 pads each part to a multiple of eight bytes.
    name, kind, space = (cursor.take(-(-size // 8) * 8 if version == 1 else size) for size in sizes)
    return cursor.text(name), Attribute(datatype(kind), dataspace(space), cursor.data[cursor.place :])


def link(message: Message) -> tuple[str, Link]:
    cursor = Cursor(message.data, "link")
    version, flags = cursor.number(1), cursor.number(1)
    if version != 1 or message.shared:
        raise FormatError(f"expected an HDF5 link of version 1, found {version}; it is damaged")
    kind = cursor.number(1) if flags & 8 else 0
    cursor.take((8 if flags & 4 else 0) + (1 if flags & 16 else 0))
    name = cursor.text(cursor.take(cursor.number(1 << (flags & 3))))
    if kind == 0:
        return name, Link("hard", cursor.number(8))
    return name, Link({1: "soft", 64: "external"}.get(kind, "user-defined"))


def add_link(links: dict[str, Link], name: str, link: Link) -> None:
    if name in links:
        raise FormatError(f"expected one HDF5 object {name!r:.60} in a group, found two; the file is damaged")
    limits = current_limits()
    if not name or len(name) > limits.name_length or len(links) >= limits.tensors:
        raise FormatError(
            f"expected at most {limits.tensors:,} names of up to {limits.name_length} characters in an HDF5 group"
        )
    links[name] = link
