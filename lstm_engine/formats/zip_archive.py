"""Zip archives from strangers: a directory that is checked whole before any member is looked at.

Keras and PyTorch keep their files in zip archives. Python's zipfile parses the directory; which names, flags and places
are allowed in it, and how a member's bytes are had, is decided here, once for both. Nothing is ever extracted to disk.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from lstm_engine.errors import FormatError, UnsafeFileError, UnsupportedModelError

from .limits import WAY_OUT, current_limits

if TYPE_CHECKING:
    from zipfile import ZipInfo

__all__ = ["ZipArchive"]

# The zip format's numbers for the methods that are read: as it is, and deflate.
_STORED: Final = 0
_DEFLATED: Final = 8

#: Bits of a member's flags that stand for encryption: of its data, strong, and of the directory.
_ENCRYPTED: Final = 0x2041

#: Bit of a member's flags that says that its name is UTF-8.
_UTF8: Final = 0x800


@dataclass(frozen=True, slots=True)
class _Member:
    name: str
    header: int
    start: int
    stored: int
    size: int
    crc: int
    deflated: bool


class ZipArchive:
    """An archive whose directory has been read, but not believed.

    Parameters
    ----------
    data
        All bytes of the file.
    subject
        The file, for messages.

    Raises
    ------
    FormatError
        If it is truncated or damaged.
    UnsafeFileError
        If it has more members than the caps allow.
    """

    def __init__(self, data: bytes, subject: str) -> None:
        self._data = data
        self._subject = subject
        self._members: dict[str, _Member] = {}
        self._checked = True
        #: Size of the archive, which bounds what is made of it.
        self.file_bytes = len(data)
        self._entries, self._end = _directory(data, subject)
        #: The members' names as they stand in the directory.
        self.names = [entry.orig_filename for entry in self._entries]

    def check(self, *, stored_only: bool = False) -> None:
        """Check all members; only then can their content be asked for.

        Parameters
        ----------
        stored_only
            Whether a compressed member is refused.

        Raises
        ------
        FormatError
            If a member does not lie in the file.
        UnsafeFileError
            If a name points out of the archive, is too long or stands there twice, if a member is encrypted, lies over
            another, or unpacks to more than the caps allow.
        UnsupportedModelError
            If a member is packed by another method than deflate.
        """
        members: dict[str, _Member] = {}
        for entry in self._entries:
            member = self._member(entry, stored_only=stored_only)
            if member.name in members:
                raise UnsafeFileError(
                    f"{self._subject}: the archive has two members of the name {_quoted(member.name)}; expected one"
                )
            members[member.name] = member
        end, before = self._end, "the directory"
        for member in sorted(members.values(), key=lambda member: member.header, reverse=True):
            if member.start + member.stored > end:
                raise UnsafeFileError(
                    f"{self._subject}: the member {_quoted(member.name)} overlaps {before}; the file is made to mislead"
                )
            end, before = member.header, f"the member {_quoted(member.name)}"
        self._members = members
        # torch.serialization.set_crc32_options(False) leaves all checksums zero.
        self._checked = any(member.crc for member in members.values())

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def size(self, name: str) -> int:
        """Return how many bytes a member unpacks to."""
        return self._members[name].size

    def content(self, name: str) -> memoryview:
        """Return a member's bytes, of the size that the directory promises and with the right checksum.

        Raises
        ------
        FormatError
            If they are damaged.
        """
        member = self._members[name]
        raw = memoryview(self._data)[member.start : member.start + member.stored]
        if member.deflated:
            unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
            try:
                raw = memoryview(unpacker.decompress(raw, member.size + 1))
            except zlib.error as error:
                raise self._damaged(name, str(error)) from None
            if len(raw) != member.size:
                raise self._damaged(name, f"expected {member.size:,} bytes in it, found {len(raw):,} or more")
        if self._checked and zlib.crc32(raw) != member.crc:
            raise self._damaged(name, "its checksum is wrong")
        return raw

    def _damaged(self, name: str, reason: str) -> FormatError:
        return FormatError(f"{self._subject}: the member {_quoted(name)} is truncated or damaged: {reason}")

    def _member(self, entry: ZipInfo, *, stored_only: bool) -> _Member:
        """Return a member that is allowed and lies in the file."""
        subject, name, limits = self._subject, entry.orig_filename, current_limits()
        # Nothing is ever extracted, so a name could do no harm here; it is a sign of a file made to do harm elsewhere.
        parts = name.split("/")
        if name.startswith("/") or ".." in parts or "\\" in name or "\0" in name or parts[0].endswith(":"):
            raise UnsafeFileError(
                f"{subject}: the archive has a member {_quoted(name)}, which points out of the archive"
            )
        if len(name) > limits.name_length:
            raise UnsafeFileError(
                f"{subject}: the name of a member has {len(name)} characters; expected at most {limits.name_length}; "
                + WAY_OUT.format("name_length")
            )
        if entry.flag_bits & _ENCRYPTED:
            raise UnsafeFileError(f"{subject}: the member {_quoted(name)} is encrypted; expected a plain one")
        if entry.compress_type not in (_STORED, _DEFLATED):
            raise UnsupportedModelError(
                f"{subject}: the member {_quoted(name)} is packed by method {entry.compress_type}; expected members "
                "that are stored or deflated: load the file where it was made and save it anew"
            )
        deflated = entry.compress_type == _DEFLATED
        if stored_only and (deflated or entry.compress_size != entry.file_size):
            raise UnsafeFileError(
                f"{subject}: the member {_quoted(name)} is compressed ({entry.compress_size} bytes for "
                f"{entry.file_size}); torch.save stores members as they are: load the file and save it anew"
            )
        most = limits.of_tensors(len(self._data))
        if entry.file_size > most:
            raise UnsafeFileError(
                f"{subject}: the member {_quoted(name)} unpacks to {entry.file_size:,} bytes; expected at most "
                f"{most:,} of a file of {len(self._data):,} bytes; " + WAY_OUT.format("tensor_growth")
            )
        start = _data_start(self._data, entry)
        inside = start is not None and start + entry.compress_size <= len(self._data)
        if start is None or not inside or not (deflated or entry.compress_size == entry.file_size):
            raise FormatError(
                f"{subject}: the member {_quoted(name)} of {entry.compress_size} bytes does not lie in the file of "
                f"{len(self._data)} bytes, or its header is damaged; the file is truncated or damaged"
            )
        return _Member(
            name, entry.header_offset, start, entry.compress_size, entry.file_size, entry.CRC, deflated=deflated
        )


class _Bounded(io.BytesIO):
    """An archive whose directory Python's zipfile reads in one piece, and would parse however many entries it has."""

    def read(self, size: int | None = -1, /) -> bytes:
        raw = super().read(size)
        most = current_limits().zip_members
        if raw.count(b"PK\x01\x02") > most:
            raise UnsafeFileError(
                f"the archive has more than {most:,} members; it is made to exhaust memory, or "
                + WAY_OUT.format("zip_members")
            )
        return raw


def _directory(data: bytes, subject: str) -> tuple[list[ZipInfo], int]:
    """Return the entries of the archive's directory as they stand there, and where it begins."""
    import zipfile

    try:
        with zipfile.ZipFile(_Bounded(data)) as archive:
            return archive.infolist(), archive.start_dir
    except UnsafeFileError as error:
        raise UnsafeFileError(f"{subject}: {error}") from None
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, EOFError, OSError, IndexError) as error:
        raise FormatError(f"{subject}: the zip archive is truncated or damaged ({error})") from None


def _data_start(data: bytes, entry: ZipInfo) -> int | None:
    """Return where a member's bytes begin, or None if the header before them is of another member."""
    header = entry.header_offset
    if not 0 <= header <= len(data) - 30 or data[header : header + 4] != b"PK\x03\x04":
        return None
    name_length, extra_length = struct.unpack_from("<HH", data, header + 26)
    name = entry.orig_filename.encode("utf-8" if entry.flag_bits & _UTF8 else "cp437", "surrogatepass")
    if data[header + 30 : header + 30 + name_length] != name:
        return None
    return int(header + 30 + name_length + extra_length)


def _quoted(name: str) -> str:
    return ascii(name[:200])
