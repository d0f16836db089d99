"""The structures of the HDF5 file format that Keras's files are made of, read from bytes with every bound checked.

The HDF5 library is made for files that can be trusted: one damaged byte can send it round an endless loop, with the
interpreter locked (a heap object of size zero does). What Keras writes through h5py is a small part of the format,
and this module reads that part: groups as symbol tables or as link messages, attributes in object headers, data stored
whole or in chunks. The names and layouts are those of the "HDF5 File Format Specification Version 3.0" (The HDF Group).

Reading a file takes time in proportion to its size: what was read is kept, and the entries read are counted against the
number that the file has room for, so that structures which overlap or refer to each other cannot hold a reader up.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from lstm_engine.errors import FormatError, UnsafeFileError, UnsupportedModelError

from .hdf5_dense import FractalHeap, records
from .hdf5_messages import (
    ATTRIBUTE,
    ATTRIBUTE_INFO,
    CONTINUATION,
    LINK,
    LINK_INFO,
    SYMBOL_TABLE,
    UNDEFINED,
    Attribute,
    Bytes,
    Cursor,
    Layout,
    Link,
    Message,
    add_link,
    attribute,
    link,
)
from .limits import WAY_OUT, current_limits

__all__ = ["Chunk", "Structures"]

_SIGNATURE: Final = b"\x89HDF\r\n\x1a\n"

#: Types of the records of a version 2 B-tree: links, and attributes, by name.
_LINK_RECORDS: Final = 5
_ATTRIBUTE_RECORDS: Final = 8

#: Bytes of the smallest entry that is counted: the header of a message.
_SMALLEST_ENTRY: Final = 8


@dataclass(frozen=True, slots=True)
class Chunk:
    """One stored chunk: the element that it begins at, its bytes, and a bit for each filter that was left out."""

    offset: tuple[int, ...]
    data: Bytes
    skipped: int


class Structures:
    """The structures of one file.

    Parameters
    ----------
    data
        All bytes of the file.
    file_bytes
        Size of the file that this one was unpacked from, or its own.

    Raises
    ------
    FormatError
        If it is no HDF5 file, or truncated.
    UnsupportedModelError
        If it has a superblock that is not read.
    """

    def __init__(self, data: bytes | memoryview, file_bytes: int) -> None:
        self._data = Bytes(data)
        limits = current_limits()
        most = min(limits.hdf5_entries, limits.hdf5_entries // 16 + file_bytes // 4)
        self._most_entries = self._entries_left = min(len(data) // _SMALLEST_ENTRY, most)
        self._name_length = limits.name_length
        self._messages: dict[int, list[Message]] = {}
        self._links: dict[int, dict[str, Link] | None] = {}
        self._attributes: dict[int, dict[str, Attribute]] = {}
        self._heaps: dict[int, dict[int, Bytes]] = {}
        start = _superblock_place(data)
        cursor = Cursor(self._data[start:], "superblock")
        cursor.expect(_SIGNATURE)
        version = cursor.number(1)
        if version in (0, 1):
            cursor.take(4)
            sizes = cursor.number(1), cursor.number(1)
            cursor.take(9 if version == 0 else 13)
        elif version in (2, 3):
            sizes = cursor.number(1), cursor.number(1)
            cursor.take(1)
        else:
            raise UnsupportedModelError(f"expected an HDF5 superblock of version 0 to 3, found {version}")
        if sizes != (8, 8):
            raise UnsupportedModelError(
                f"expected HDF5 addresses and lengths of 8 bytes, found {sizes[0]} and {sizes[1]}"
            )
        self._base = cursor.number(8)
        if self._base != start:
            raise FormatError(f"expected the HDF5 base address {start:,}, found {self._base:,}; the file is damaged")
        cursor.take(8)
        end = cursor.number(8)
        if end > len(data):
            raise FormatError(f"expected an HDF5 file of {end:,} bytes, found {len(data):,}; the file is truncated")
        if version in (0, 1):
            cursor.take(16)
        #: Address of the root group's object header.
        self.root = cursor.number(8)

    def at(self, address: int, size: int, what: str) -> Bytes:
        """Return ``size`` bytes at ``address``.

        Raises
        ------
        FormatError
            If they do not lie in the file.
        """
        start = self._base + address
        if address == UNDEFINED or not 0 <= size <= len(self._data) - start:
            raise FormatError(
                f"expected {size:,} bytes of the HDF5 structure {what} at {address:,}, found the end of the file; "
                "the file is truncated or damaged"
            )
        return self._data[start : start + size]

    def _from(self, address: int, what: str) -> Cursor:
        """Return a cursor at ``address`` that may run to the end of the file."""
        start = self._base + address
        if start >= len(self._data):
            raise FormatError(
                f"expected the HDF5 structure {what} inside of the file, found the address {address:,}; "
                "the file is truncated or damaged"
            )
        return Cursor(self._data[start:], what)

    def _count(self, what: str) -> None:
        """Count one entry that was read."""
        self._entries_left -= 1
        if self._entries_left < 0:
            raise UnsafeFileError(
                f"expected at most {self._most_entries:,} HDF5 entries, found more; the {what} overlaps others or runs "
                "in a circle, or " + WAY_OUT.format("hdf5_entries")
            )

    # --- Object headers -------------------------------------------------------------------------------

    def messages(self, address: int) -> list[Message]:
        """Return the messages of the object header at ``address``."""
        if address in self._messages:
            return self._messages[address]
        modern = bytes(self.at(address, 16, "object header")[:4]) == b"OHDR"
        first, ordered = self._first_block(address) if modern else (self._first_block_v1(address), False)
        messages: list[Message] = []
        pending = deque([first])
        while pending:
            cursor = Cursor(pending.popleft(), "object header")
            while len(cursor.data) - cursor.place >= (4 + 2 * ordered if modern else 8):
                self._count("object header")
                if modern:
                    kind, size, flags = cursor.number(1), cursor.number(2), cursor.number(1)
                    cursor.take(2 * ordered)
                else:
                    kind, size, flags = cursor.number(2), cursor.number(2), cursor.number(1)
                    cursor.take(3)
                message = Message(kind, bool(flags & 2), cursor.take(size))
                if kind == CONTINUATION:
                    pending.append(self._continuation(message.data, modern=modern))
                else:
                    messages.append(message)
        self._messages[address] = messages
        return messages

    def _first_block_v1(self, address: int) -> Bytes:
        cursor = self._from(address, "object header")
        version = cursor.number(1)
        if version != 1:
            raise FormatError(f"expected an HDF5 object header at {address:,}, found version {version}; it is damaged")
        cursor.take(7)
        size = cursor.number(4)
        cursor.take(4)
        return cursor.take(size)

    def _first_block(self, address: int) -> tuple[Bytes, bool]:
        cursor = self._from(address, "object header")
        cursor.expect(b"OHDR\x02")
        flags = cursor.number(1)
        cursor.take(16 if flags & 0x20 else 0)
        cursor.take(4 if flags & 0x10 else 0)
        size = cursor.number(1 << (flags & 3))
        return cursor.take(size), bool(flags & 4)

    def _continuation(self, message: Bytes, *, modern: bool) -> Bytes:
        place = Cursor(message, "continuation")
        block = self.at(place.number(8), place.number(8), "object header")
        if not modern:
            return block
        cursor = Cursor(block, "object header")
        cursor.expect(b"OCHK")
        return cursor.take(len(block) - 8)  # the rest is a checksum

    # --- Groups ---------------------------------------------------------------------------------------

    def links(self, address: int) -> dict[str, Link] | None:
        """Return what the group at ``address`` holds by name, or None if the object there is no group."""
        if address not in self._links:
            self._links[address] = self._read_links(self.messages(address))
        return self._links[address]

    def _read_links(self, messages: list[Message]) -> dict[str, Link] | None:
        links: dict[str, Link] = {}
        is_group = False
        for message in messages:
            is_group = is_group or message.kind in (SYMBOL_TABLE, LINK_INFO, LINK)
            if message.kind == SYMBOL_TABLE:
                cursor = Cursor(message.data, "symbol table")
                self._symbols(cursor.number(8), cursor.number(8), links)
            elif message.kind == LINK_INFO:
                cursor = Cursor(message.data, "link info")
                cursor.take(1)
                cursor.take(8 if cursor.number(1) & 1 else 0)
                # A record is a hash of the name, and a heap ID.
                for target, _ in self._dense(cursor.number(8), cursor.number(8), _LINK_RECORDS, 4):
                    add_link(links, *link(Message(LINK, False, target)))
            elif message.kind == LINK:
                add_link(links, *link(message))
        return links if is_group else None

    def _symbols(self, tree: int, heap: int, links: dict[str, Link]) -> None:
        cursor = self._from(heap, "local heap")
        cursor.expect(b"HEAP\0")
        cursor.take(3)
        size = cursor.number(8)
        cursor.take(8)
        names = self.at(cursor.number(8), size, "local heap")
        for node in self._leaves(tree, 0, 8):
            symbols = self._from(node[1], "symbol table node")
            symbols.expect(b"SNOD\x01")
            symbols.take(1)
            for _ in range(symbols.number(2)):
                self._count("symbol table")
                offset, address, cached = symbols.number(8), symbols.number(8), symbols.number(4)
                symbols.take(20)
                # A name ends at a zero; one without would be cut at the longest name that is read.
                name = symbols.text(names[offset : offset + self._name_length + 1])
                add_link(links, name, Link("soft") if cached == 2 else Link("hard", address))

    def _leaves(self, tree: int, kind: int, key_bytes: int) -> Iterator[tuple[Bytes, int]]:
        """Iterate over (key, address) of what hangs on the lowest nodes of a version 1 B-tree, in order."""
        pending = [(tree, -1)]
        while pending:
            address, wanted_level = pending.pop()
            self._count("B-tree")
            cursor = self._from(address, "B-tree")
            cursor.expect(b"TREE" + bytes([kind]))
            level, count = cursor.number(1), cursor.number(2)
            if wanted_level not in (-1, level):
                raise FormatError(
                    f"expected a node of level {wanted_level} in an HDF5 B-tree, found {level}; it is damaged"
                )
            cursor.take(16)
            children = []
            for _ in range(count):
                self._count("B-tree")
                children.append((cursor.take(key_bytes), cursor.number(8)))
            if level == 0:
                yield from children
            else:
                pending.extend((child, level - 1) for _, child in reversed(children))

    # --- Attributes -----------------------------------------------------------------------------------

    def attributes(self, address: int) -> dict[str, Attribute]:
        """Return the attributes of the object at ``address`` by name."""
        if address not in self._attributes:
            self._attributes[address] = self._read_attributes(self.messages(address))
        return self._attributes[address]

    def _read_attributes(self, messages: list[Message]) -> dict[str, Attribute]:
        attributes: dict[str, Attribute] = {}
        found = [message for message in messages if message.kind == ATTRIBUTE]
        for message in messages:
            if message.kind == ATTRIBUTE_INFO:
                cursor = Cursor(message.data, "attribute info")
                cursor.take(1)
                cursor.take(2 if cursor.number(1) & 1 else 0)
                # A record is a heap ID, then flags.
                for data, rest in self._dense(cursor.number(8), cursor.number(8), _ATTRIBUTE_RECORDS, 0):
                    found.append(Message(ATTRIBUTE, bool(rest[0] & 2), data))
        for message in found:
            name, one = attribute(message)
            if name in attributes:
                raise FormatError(f"expected one HDF5 attribute {name!r:.60}, found two; the file is damaged")
            attributes[name] = one
        return attributes

    def _dense(self, heap: int, tree: int, kind: int, place: int) -> Iterator[tuple[Bytes, Bytes]]:
        """Iterate over densely stored objects, each with what follows the heap ID at ``place`` in its record."""
        if heap == UNDEFINED:
            return
        objects = FractalHeap(self._from, heap)
        for record in records(self._from, tree, kind, self._count):
            end = place + objects.id_bytes
            if end >= len(record) + (kind == _LINK_RECORDS):
                raise FormatError("the HDF5 B-tree has records that are too short; the file is damaged")
            yield objects.object(record[place:end]), record[end:]

    def text(self, reference: Bytes) -> bytes:
        """Return the text of variable length that an element refers to."""
        cursor = Cursor(reference, "text")
        length, address, index = cursor.number(4), cursor.number(8), cursor.number(4)
        if length == 0:
            return b""
        if address not in self._heaps:
            self._heaps[address] = self._read_heap(address)
        found = self._heaps[address].get(index, Bytes(b""))
        if length > len(found):
            raise FormatError(
                f"expected a text of {length:,} bytes in the HDF5 global heap, found {len(found):,}; it is damaged"
            )
        return bytes(found[:length])

    def _read_heap(self, address: int) -> dict[int, Bytes]:
        """Return the objects of a collection of the global heap by index."""
        start = self._from(address, "global heap")
        start.expect(b"GCOL\x01")
        start.take(3)
        cursor = Cursor(self.at(address, start.number(8), "global heap"), "global heap")
        cursor.take(16)
        objects: dict[int, Bytes] = {}
        while len(cursor.data) - cursor.place >= 16:
            self._count("global heap")
            index = cursor.number(2)
            cursor.take(6)
            size = cursor.number(8)
            if index == 0:
                break  # the free space, which comes last
            objects[index] = cursor.take(size)
            cursor.take(min(-size % 8, len(cursor.data) - cursor.place))
        return objects

    # --- Datasets -------------------------------------------------------------------------------------

    def stored(self, layout: Layout) -> Bytes:
        """Return the bytes of a dataset that is stored whole; none at all if it was never written."""
        if layout.data is not None:
            return layout.data
        if layout.address == UNDEFINED:
            return Bytes(b"")
        return self.at(layout.address, layout.size, "dataset")

    def chunks(self, layout: Layout) -> Iterator[Chunk]:
        """Iterate over the stored chunks of a dataset."""
        if layout.address == UNDEFINED:
            return
        rank, total = len(layout.chunk), 0
        for key, address in self._leaves(layout.address, 1, 8 + 8 * rank):
            size, skipped, *offset = struct.unpack(f"<II{rank}Q", key)
            total += size
            if total > len(self._data):
                raise UnsafeFileError(
                    f"expected the chunks of an HDF5 dataset in {len(self._data):,} bytes, found more"
                )
            yield Chunk(tuple(offset[:-1]), self.at(address, size, "chunk"), skipped)


def _superblock_place(data: bytes | memoryview) -> int:
    """Return where the superblock is: at 0, or behind a block of other bytes at 512, 1024, 2048, ..."""
    place = 0
    while place < len(data):
        if data[place : place + 8] == _SIGNATURE:
            return place
        place = place * 2 or 512
    raise FormatError("expected an HDF5 file, found another one, or a truncated one")
