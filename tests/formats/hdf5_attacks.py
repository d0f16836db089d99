"""Hostile weights in HDF5, as they stand in a file of Keras."""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Callable
from typing import Any

import h5py
import numpy as np
from archive_attacks import patched
from attacked_model import BIAS, KERNEL, RECURRENT


def hdf5(change: Callable[[h5py.File], None] | None = None, **settings: Any) -> bytes:
    """Return the weights of the model, changed."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", **settings) as file:
        group = file.create_group("layers/lstm/cell/vars")
        for number, array in enumerate((KERNEL, RECURRENT, BIAS)):
            group[str(number)] = array
        if change is not None:
            change(file)
    return timeless(buffer.getvalue())


def timeless(data: bytes) -> bytes:
    """Return an HDF5 file without the times that the library writes into some objects."""
    modified = b"\x12\x00\x08\x00\x00\x00\x00\x00\x01\x00\x00\x00"  # the beginning of a message
    for found in re.finditer(re.escape(modified), data):
        data = patched(data, (found.end(), bytes(4)))
    for found in re.finditer(rb"OHDR\x02([\x20-\x3f])", data):
        (flags,) = found[1]
        size = found.end() + 16 + (4 if flags & 0x10 else 0)
        begin = size + (1 << (flags & 3))
        end = begin + int.from_bytes(data[size:begin], "little")
        data = patched(data, (found.end(), bytes(16)), (end, bytes(4)))  # and the checksum, which is not looked at
    return data


PATH = "layers/lstm/cell/vars"


def replaced(make: Callable[[h5py.Group], Any], **settings: Any) -> bytes:
    """Return weights whose kernel is made anew."""

    def change(file: h5py.File) -> None:
        del file[PATH]["0"]
        make(file[PATH])

    return hdf5(change, **settings)


def virtual(group: h5py.Group) -> None:
    layout = h5py.VirtualLayout((1, 4), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "x", (1, 4))
    group.create_virtual_dataset("0", layout)


def raw_chunk(group: h5py.Group, raw: bytes) -> None:
    """Store a chunk as it is given, as if gzip had made it."""
    dataset = group.create_dataset("0", (1, 4), "f4", chunks=(1, 4), compression="gzip")
    dataset.id.write_direct_chunk((0, 0), raw)


def unpacked_twice(file: h5py.File) -> None:
    """Make a kernel out of chunks that nobody wrote much for, in a file that the archive makes large out of nothing."""
    del file[PATH]["0"]
    file[PATH].create_dataset("0", data=np.zeros((1, 1 << 24), "f4"), chunks=(1, 1 << 22), compression="gzip")
    file["quiet"] = np.zeros(1 << 20, "f4")


def linked(number: int, text: bytes) -> bytes:
    """Return weights with a link message whose type is overwritten."""
    data = replaced(lambda group: group.__setitem__("0", h5py.SoftLink(text.decode())), libver="latest")
    # The message: version, flags, type (1: soft), name of one byte, length of the target.
    place = data.index(struct.pack("<H", len(text)) + text)
    before = data.rindex(b"\x01", 0, place - 2)
    return patched(data, (before, bytes([number])))


def continuations(data: bytes, count: int) -> bytes:
    """Return a file whose root has so many messages that each say that it goes on elsewhere, with nothing."""
    header = struct.pack("<BBHIII", 1, 0, 1, 1, 24 * count, 0) + struct.pack("<HHIQQ", 0x10, 16, 0, 0, 0) * count
    end = len(data) + len(header)
    return patched(data, (40, struct.pack("<Q", end)), (64, struct.pack("<Q", len(data)))) + header


def hdf5_attacks() -> dict[str, bytes]:
    base = hdf5()
    tree = base.index(b"TREE")
    node_of_symbols = base.index(b"SNOD")
    heap = base.index(b"HEAP")
    (end,) = struct.unpack_from("<Q", base, 40)
    # A group whose header does not fit into its first block: the rest hangs on a continuation message.
    continued = hdf5(lambda file: [file[PATH].attrs.__setitem__(f"attribute {n}", "x" * 40) for n in range(8)])
    message = next(
        place
        for place in range(0, len(continued) - 24, 8)
        if continued[place : place + 4] == b"\x10\x00\x10\x00" and continued[place + 5 : place + 8] == bytes(3)
    )
    chunked = replaced(lambda group: group.create_dataset("0", data=KERNEL, chunks=(1, 1)))
    chunk_tree = next(place for place in range(len(chunked)) if chunked[place : place + 5] == b"TREE\x01")
    wrong = KERNEL.copy()
    wrong[0, 1] = np.nan
    return {
        "link_external": replaced(lambda g: g.__setitem__("0", h5py.ExternalLink("/etc/passwd", "/x"))),
        "link_external_to_itself": replaced(lambda g: g.__setitem__("0", h5py.ExternalLink(".", "/" + PATH + "/1"))),
        "link_soft": replaced(lambda g: g.__setitem__("0", h5py.SoftLink("/" + PATH + "/1"))),
        "link_soft_to_itself": replaced(lambda g: g.__setitem__("0", h5py.SoftLink("/" + PATH + "/0"))),
        "link_soft_group": hdf5(
            lambda file: (file.move("layers", "x"), file.__setitem__("layers", h5py.SoftLink("/x")))
        ),
        "link_soft_latest": linked(1, b"/elsewhere"),
        "link_user_defined": linked(65, b"/elsewhere"),
        "external_storage": replaced(
            lambda g: g.create_dataset("0", (1, 4), "f4", external=[("/etc/passwd", 0, 16)])
        ),
        "virtual_dataset": replaced(virtual),
        "filter_lzf": replaced(lambda g: g.create_dataset("0", data=KERNEL, compression="lzf")),
        "filter_scaleoffset": replaced(lambda g: g.create_dataset("0", data=KERNEL, scaleoffset=2, chunks=(1, 4))),
        "filter_fletcher32": replaced(lambda g: g.create_dataset("0", data=KERNEL, fletcher32=True)),
        "cve_2026_0897_shape_bomb": replaced(
            lambda g: g.create_dataset("0", (1 << 40, 4), "f4", chunks=(1 << 16, 4), compression="gzip")
        ),
        "shape_bomb_contiguous": replaced(lambda g: g.create_dataset("0", (1 << 40, 4), "f4")),
        "shape_bomb_packed_twice": hdf5(unpacked_twice),
        "shape_bomb_behind_a_zero": replaced(lambda g: g.create_dataset("0", (0, 1 << 60), "f4")),
        "shape_overflows_behind_a_zero": replaced(lambda g: g.create_dataset("0", (0, *(1 << 24,) * 3), "f4")),
        "shape_of_an_unwritten_one": replaced(lambda g: g.create_dataset("0", (1, 4), "f4")),
        "shape_differs": replaced(lambda g: g.create_dataset("0", data=np.ones((1, 8), "f4"))),
        "chunk_unpacks_to_more": replaced(lambda g: raw_chunk(g, zlib.compress(bytes(1 << 21)))),
        "chunk_unpacks_to_less": replaced(lambda g: raw_chunk(g, zlib.compress(bytes(8)))),
        "chunk_no_gzip": replaced(lambda g: raw_chunk(g, b"no gzip")),
        "chunk_missing": replaced(lambda g: g.create_dataset("0", (1, 4), "f4", chunks=(1, 2)).__setitem__((0, 0), 1)),
        "type_group": replaced(lambda g: g.create_group("0")),
        "type_dataset_for_a_group": hdf5(
            lambda file: (file.__delitem__("layers/lstm/cell"), file.__setitem__("layers/lstm/cell", KERNEL))
        ),
        "type_named": replaced(lambda g: g.__setitem__("0", np.dtype("f4"))),
        "type_text": replaced(lambda g: g.__setitem__("0", ["a", "b"])),
        "type_compound": replaced(lambda g: g.__setitem__("0", np.zeros((1, 4), [("a", "f4")]))),
        "type_reference": replaced(lambda g: g.create_dataset("0", (1, 4), h5py.ref_dtype)),
        "type_integers": replaced(lambda g: g.__setitem__("0", KERNEL.astype("i4"))),
        "type_null": replaced(lambda g: g.__setitem__("0", h5py.Empty("f4"))),
        "type_long_double": replaced(lambda g: g.__setitem__("0", KERNEL.astype("longdouble"))),
        "attribute_dtype_unknown": replaced(
            lambda g: (g.__setitem__("0", KERNEL), g["0"].attrs.__setitem__("dtype", "float8"))
        ),
        "signature_damaged": patched(base, (1, b"X")),
        "superblock_version": patched(base, (8, b"\x09")),
        "superblock_addresses_of_4": patched(base, (13, b"\x04")),
        "superblock_end_past_the_file": patched(base, (40, struct.pack("<Q", end + (1 << 40)))),
        "superblock_base_elsewhere": patched(base, (24, struct.pack("<Q", 8))),
        "superblock_root_elsewhere": patched(base, (64, struct.pack("<Q", 1 << 60))),
        "tree_cycle": patched(base, (tree + 5, b"\x01"), (tree + 32, struct.pack("<Q", tree))),
        "tree_cycle_of_many": patched(
            base, (tree + 5, b"\xff\xff\xff"), (tree + 32, struct.pack("<Q", tree))
        ),
        "tree_of_another_kind": patched(base, (tree + 4, b"\x01")),
        "chunk_tree_cycle": patched(
            chunked, (chunk_tree + 5, b"\x01"), (chunk_tree + 56, struct.pack("<Q", chunk_tree))
        ),
        "symbols_past_the_file": patched(base, (node_of_symbols + 6, b"\xff\xff")),
        "heap_past_the_file": patched(base, (heap + 8, struct.pack("<Q", 1 << 60))),
        "continuation_to_itself": patched(
            continued, (message + 8, struct.pack("<QQ", message, 24))
        ),
        "continuation_past_the_file": patched(continued, (message + 8, struct.pack("<QQ", 1 << 60, 24))),
        "continuation_of_exabytes": patched(continued, (message + 16, struct.pack("<Q", 1 << 60))),
        "continuations_without_end": continuations(base, 320_000),
        "weight_nan": replaced(lambda g: g.__setitem__("0", wrong)),
        "weight_inf": replaced(lambda g: g.__setitem__("0", KERNEL * np.float32(np.inf))),
        "weight_missing": hdf5(lambda file: file[PATH].__delitem__("2")),
        "weight_too_many": hdf5(lambda file: file[PATH].__setitem__("3", BIAS)),
        "truncated": base[: len(base) // 2],
        "empty": b"",
    }  # fmt: skip
