"""Hostile zip archives, of either kind of file that is one: PyTorch's and Keras's."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Mapping


def zipped(members: Mapping[str, bytes] | list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
    """Return an archive of members in the order given, twice the same name allowed, all of one date."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in members.items() if isinstance(members, Mapping) else members:
            entry = zipfile.ZipInfo(name)
            # Past Python's own tidying of names.
            entry.filename = entry.orig_filename = name
            entry.compress_type = method
            if name in archive.NameToInfo:
                del archive.NameToInfo[name]  # or a warning
            archive.writestr(entry, data)
    return buffer.getvalue()


def patched(data: bytes, *changes: tuple[int, bytes]) -> bytes:
    """Return ``data`` with bytes overwritten."""
    result = bytearray(data)
    for place, new in changes:
        result[place : place + len(new)] = new
    return bytes(result)


def directory_entry(data: bytes, name: str) -> int:
    """Return where a member's entry in the directory begins."""
    return data.index(name.encode(), data.index(b"PK\x01\x02")) - 46


def local_header(data: bytes, name: str) -> int:
    return data.index(name.encode()) - 30


def renamed(data: bytes, old: str, new: str) -> bytes:
    """Return an archive with a member's name replaced by one of the same length, in both places."""
    assert len(old.encode()) == len(new.encode())
    return data.replace(old.encode(), new.encode())


def zip_attacks(base: bytes, member: str, weights: str) -> dict[str, bytes]:
    """Return the attacks on an archive that both kinds of file share."""
    entry, header = directory_entry(base, weights), local_header(base, weights)
    (size,) = struct.unpack_from("<I", base, entry + 24)
    with zipfile.ZipFile(io.BytesIO(base)) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    end = base.index(b"PK\x05\x06")
    last = base.rindex(b"PK\x01\x02")
    (stored,) = struct.unpack_from("<I", base, last + 20)
    return {
        "name_traversal": renamed(zipped([*members, ("x" * 12, b"")]), "x" * 12, "../../escape"),
        "name_traversal_inside": renamed(zipped([*members, ("x" * 10, b"")]), "x" * 10, "a/../../up"),
        "name_absolute": zipped([*members, ("/etc/passwd", b"")]),
        "name_backslash": zipped([*members, ("a\\..\\b", b"")]),
        "name_drive": zipped([*members, ("C:/x", b"")]),
        "name_with_zero": renamed(zipped([*members, ("x" * 3, b"")]), "x" * 3, "a\0b"),
        "name_endless": zipped([*members, ("x" * 5000, b"")]),
        "name_twice": zipped([*members, (member, b"{}")]),
        "name_differs": patched(base, (header + 30, b"#")),
        "encrypted": patched(base, (entry + 8, b"\x01")),
        "encrypted_strongly": patched(base, (entry + 8, b"\x40")),
        "method_unknown": patched(base, (entry + 10, b"\x63\x00")),
        "size_past_the_file": patched(base, (entry + 20, struct.pack("<II", size + (1 << 20), size + (1 << 20)))),
        "size_of_gigabytes": patched(base, (entry + 20, b"\xfe\xff\xff\xff" * 2)),
        "header_elsewhere": patched(base, (entry + 42, b"\xff\xff\xff\x7f")),
        "overlap": patched(base, (directory_entry(base, member) + 20, struct.pack("<I", 200) * 2)),
        "overlap_of_the_directory": patched(base, (last + 20, struct.pack("<I", stored + 40) * 2)),
        "directory_truncated": base[: end - 10],
        "end_missing": base[:end],
    }  # fmt: skip
