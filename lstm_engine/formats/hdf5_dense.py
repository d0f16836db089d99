"""Dense storage of HDF5: the links or attributes of one object in a fractal heap, found through a version 2 B-tree.

HDF5 stores a group of more than eight members so if one of their names is not ASCII (as the names of layers may be), if
the order of creation is kept, or if it is asked for its latest format. The names and layouts are those of the "HDF5
File Format Specification Version 3.0" (The HDF Group).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from lstm_engine.errors import FormatError, UnsupportedModelError

from .hdf5_messages import UNDEFINED, Bytes, Cursor

__all__ = ["FractalHeap", "records"]

#: Opens a structure: from an address and a name for messages to a cursor that may run to the end of the file.
Open = Callable[[int, str], Cursor]


class FractalHeap:
    """Objects of up to some kilobytes in blocks of doubling size.

    Parameters
    ----------
    open_at
        Opens a structure of the file.
    address
        Address of the heap's header.

    Raises
    ------
    FormatError
        If the header is damaged.
    UnsupportedModelError
        If the heap is compressed.
    """

    def __init__(self, open_at: Open, address: int) -> None:
        self._open = open_at
        cursor = open_at(address, "fractal heap")
        cursor.expect(b"FRHP\0")
        self.id_bytes = cursor.number(2)
        if cursor.number(2):
            raise UnsupportedModelError("compressed HDF5 heaps are not read; save the model again with Keras")
        cursor.take(1)
        largest_object = cursor.number(4)
        cursor.take(12 * 8)
        self._width, self._first_size = cursor.number(2), cursor.number(8)
        largest_block, address_bits = cursor.number(8), cursor.number(2)
        cursor.take(2)
        self._root, self._rows = cursor.number(8), cursor.number(2)
        powers = all(size > 0 and size & (size - 1) == 0 for size in (self._width, self._first_size, largest_block))
        if not powers or largest_block < self._first_size or not 0 < address_bits <= 64:
            raise FormatError("the HDF5 fractal heap is damaged: expected block sizes that are powers of two")
        self._direct_rows = (largest_block // self._first_size).bit_length() + 1
        self._offset_bytes = -(-address_bits // 8)
        self._length_bytes = min(-(-(largest_block.bit_length() - 1) // 8), _bytes_for(largest_object))

    def object(self, identity: Bytes) -> Bytes:
        """Return the bytes of the object that a heap ID names."""
        cursor = Cursor(identity, "heap ID")
        kind = cursor.number(1)
        if kind & 0xF0:
            raise UnsupportedModelError(
                "HDF5 heap objects of more than a few kilobytes are not read; save the model again with Keras"
            )
        offset, length = cursor.number(self._offset_bytes), cursor.number(self._length_bytes)
        block, start = self._block(offset)
        block.take(offset - start)
        return block.take(length)

    def _block(self, offset: int) -> tuple[Cursor, int]:
        """Return the direct block around ``offset``, and the offset that it begins at."""
        if self._rows == 0:
            return self._direct(self._root, self._first_size), 0
        address, rows, start = self._root, self._rows, 0
        while True:
            row, column, size, begin = self._entry(offset - start)
            if row >= rows:
                raise FormatError(f"expected the offset {offset:,} inside of the HDF5 fractal heap; it is damaged")
            block = self._open(address, "fractal heap block")
            block.expect(b"FHIB\0")
            block.take(8 + self._offset_bytes + 8 * (row * self._width + column))
            address, start = block.number(8), start + begin
            if address == UNDEFINED:
                raise FormatError(f"expected a block at {start:,} of the HDF5 fractal heap, found none; it is damaged")
            if row < self._direct_rows:
                return self._direct(address, size), start
            # An indirect block of this size has as many rows as fill it; it is smaller than the one that it is in.
            rows = (size // (self._first_size * self._width)).bit_length()

    def _entry(self, offset: int) -> tuple[int, int, int, int]:
        """Return row, column, size and beginning of the block of a doubling table that covers ``offset``."""
        # Rows 0 and 1 have blocks of the first size; each further row twice the size of the one before.
        row = (offset // (self._first_size * self._width)).bit_length()
        size = self._first_size << max(0, row - 1)
        row_begin = size * self._width if row else 0
        column = (offset - row_begin) // size
        return row, column, size, row_begin + column * size

    def _direct(self, address: int, size: int) -> Cursor:
        block = self._open(address, "fractal heap block")
        block.expect(b"FHDB\0")
        block.place = 0
        return Cursor(block.take(size), "fractal heap block")


def records(open_at: Open, address: int, kind: int, count: Callable[[str], None]) -> Iterator[Bytes]:
    """Iterate over the records of a version 2 B-tree, in order.

    Parameters
    ----------
    open_at
        Opens a structure of the file.
    address
        Address of the tree's header.
    kind
        Type of the records that are expected.
    count
        Called once for each node and record.

    Raises
    ------
    FormatError
        If the tree is damaged.
    """
    cursor = open_at(address, "B-tree header")
    cursor.expect(b"BTHD\0" + bytes([kind]))
    node_bytes, record_bytes, depth = cursor.number(4), cursor.number(2), cursor.number(2)
    cursor.take(2)
    root, root_records = cursor.number(8), cursor.number(2)
    if record_bytes == 0 or node_bytes <= 10 + record_bytes or depth > 32:
        raise FormatError("the HDF5 B-tree header is damaged")
    # How many records fit into a node decides how many bytes their number takes, level by level.
    most = (node_bytes - 10) // record_bytes
    number_bytes, totals, total_bytes = _bytes_for(most), most, [0]
    for _ in range(depth):
        pointer = 8 + number_bytes + total_bytes[-1]
        most = (node_bytes - 10 - pointer) // (record_bytes + pointer)
        totals = (most + 1) * totals + most
        total_bytes.append(_bytes_for(totals))

    pending: list[tuple[int, int, int] | Bytes] = [(root, root_records, depth)] if root != UNDEFINED else []
    while pending:
        item = pending.pop()
        if not isinstance(item, tuple):
            yield item
            continue
        node_address, found, level = item
        node = open_at(node_address, "B-tree node")
        node.expect((b"BTIN" if level else b"BTLF") + bytes([0, kind]))
        own: list[Bytes] = []
        for _ in range(found):
            count("B-tree")
            own.append(node.take(record_bytes))
        if not level:
            yield from own
            continue
        children = []
        for _ in range(found + 1):
            count("B-tree")
            children.append((node.number(8), node.number(number_bytes), level - 1))
            node.take(total_bytes[level - 1])
        pending.append(children[-1])
        for record, child in zip(reversed(own), reversed(children[:-1]), strict=True):
            pending += [record, child]


def _bytes_for(number: int) -> int:
    """Return how many bytes hold numbers up to ``number``."""
    return max(0, number.bit_length() - 1) // 8 + 1
