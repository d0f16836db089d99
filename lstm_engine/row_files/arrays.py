"""``.npy`` and ``.npz`` files, some rows at a time."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from lstm_engine.array_files import read_array, read_header
from lstm_engine.errors import FormatError, ShapeError
from lstm_engine.ragged import Rows, fitted

from .chunks import Binding, Chunk, RowReader, RowWriter, one_length

__all__ = ["ArchiveReader", "ArchiveWriter", "ArrayReader", "ArrayWriter"]

Array = NDArray[Any]

#: Room for the header of a .npy file, which is written last: the number of rows is not known before.
_HEADER: Final = 256


class _Rows:
    """The rows of one array, read one after the other from a file that stands behind its header."""

    def __init__(self, file: IO[bytes], size: int, subject: str) -> None:
        self.file = file
        self.subject = subject
        self.shape, fortran, self.dtype = read_header(file, size, subject)
        if not self.shape:
            raise ShapeError(f"{subject}: expected an array whose first axis is the batch, found a single number")
        self.position = 0
        self._row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
        self._whole: Array | None = None
        if fortran and len(self.shape) > 1:  # its rows lie scattered over the whole file
            self._whole = read_array(file, size, subject)

    def read(self, count: int) -> Array:
        count = min(count, self.shape[0] - self.position)
        begin, self.position = self.position, self.position + count
        if self._whole is not None:
            return self._whole[begin : begin + count]
        content = self.file.read(count * self._row_bytes)
        if len(content) != count * self._row_bytes:
            raise FormatError(f"{self.subject}: row {begin}: the file became shorter while it was read")
        return np.frombuffer(content, self.dtype).reshape(count, *self.shape[1:])


class ArrayReader(RowReader):
    """A ``.npy`` file with one input. One in Fortran's order is read whole."""

    def __init__(self, path: str, bindings: Sequence[Binding]) -> None:
        self.subject = path
        (self._binding,) = bindings
        self._file = Path(path).open("rb")  # noqa: SIM115  # closed by close
        try:
            self._rows = _Rows(self._file, os.fstat(self._file.fileno()).st_size, path)
        except BaseException:
            self._file.close()
            raise
        self.rows = self.size = self._rows.shape[0]

    def read(self, count: int) -> Chunk:
        begin = self._rows.position
        array = self._rows.read(count)
        self.position = self._rows.position
        where = _where(self.subject, begin)
        return Chunk([fitted(array, self._binding.spec, "array", where)], where)

    def close(self) -> None:
        self._file.close()


class ArchiveReader(RowReader):
    """A ``.npz`` file with all inputs by name, or one input by whatever name; its members are read side by side."""

    def __init__(self, path: str, bindings: Sequence[Binding]) -> None:
        self.subject = path
        self._bindings = bindings
        names = [binding.spec.name for binding in bindings]
        with contextlib.ExitStack() as stack:
            with self._checked():
                archive = stack.enter_context(zipfile.ZipFile(path))
                entries: dict[str, zipfile.ZipInfo] = {}
                for entry in archive.infolist():
                    name = entry.filename.removesuffix(".npy")
                    if name in entries:
                        raise FormatError(f"{path}: expected each name once, found {name!r} twice")
                    entries[name] = entry
            if not (len(names) == len(entries) == 1) and set(entries) != set(names):
                raise ShapeError(
                    f"{path}: expected arrays named as the model's inputs, {', '.join(names)}; found "
                    f"{', '.join(entries)}"
                )
            chosen = list(entries.values()) if len(names) == 1 else [entries[name] for name in names]
            with self._checked():
                self._rows = [
                    _Rows(stack.enter_context(archive.open(entry)), entry.file_size, f"{path}: {entry.filename}")
                    for entry in chosen
                ]
            self._stack = stack.pop_all()
        counts = {rows.shape[0] for rows in self._rows}
        if len(counts) > 1:
            self.close()
            raise ShapeError(f"{path}: expected as many rows in every array, found {sorted(counts)}")
        self.rows = self.size = counts.pop()

    @contextlib.contextmanager
    def _checked(self) -> Any:
        try:
            yield
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise FormatError(
                f"{self.subject}: expected a NumPy .npz file, found a damaged archive ({error})"
            ) from None

    def read(self, count: int) -> Chunk:
        with self._checked():
            arrays = [rows.read(count) for rows in self._rows]
            if self._rows[0].position == self.rows:
                for rows in self._rows:  # at its end a member's checksum is compared
                    rows.file.read(1)
        where = _where(self.subject, self.position)
        self.position = self._rows[0].position
        return Chunk(
            [
                fitted(array, binding.spec, f"array {binding.spec.name!r}", where)
                for array, binding in zip(arrays, self._bindings, strict=True)
            ],
            where,
        )

    def close(self) -> None:
        self._stack.close()


def _where(subject: str, begin: int) -> Callable[[int], str]:
    return lambda row: f"{subject}: row {begin + row}"


class ArrayWriter(RowWriter):
    """A ``.npy`` file with one output."""

    def __init__(self, subject: str, file: IO[bytes]) -> None:
        super().__init__(subject, file)
        self._shape: tuple[int, ...] | None = None
        self._dtype = np.dtype(np.float32)
        self._count = 0
        file.write(bytes(_HEADER))

    def write(self, outputs: Mapping[str, Rows], kept: Mapping[str, Any]) -> None:
        ((name, rows),) = outputs.items()
        array = one_length(rows, self._shape, self.subject, name)
        self._shape, self._dtype = array.shape[1:], array.dtype
        self._count += len(array)
        self.file.write(np.ascontiguousarray(array).data.cast("B") if array.size else b"")

    def finish(self) -> None:
        assert self._shape is not None
        header = {
            "descr": np.lib.format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": (self._count, *self._shape),
        }
        text = repr(header).encode("latin1")
        length = _HEADER - len(np.lib.format.MAGIC_PREFIX) - 4
        self.file.seek(0)
        self.file.write(np.lib.format.magic(1, 0) + length.to_bytes(2, "little"))
        self.file.write(text.ljust(length - 1) + b"\n")
        self.file.seek(0, os.SEEK_END)


class ArchiveWriter(RowWriter):
    """A ``.npz`` file with outputs by name; each waits in a file of its own until all are there."""

    def __init__(self, subject: str, file: IO[bytes]) -> None:
        super().__init__(subject, file)
        self._parts: dict[str, ArrayWriter] = {}
        self._stack = contextlib.ExitStack()

    def write(self, outputs: Mapping[str, Rows], kept: Mapping[str, Any]) -> None:
        for name, rows in outputs.items():
            if name not in self._parts:
                # On the disk of the target: elsewhere, in memory perhaps, there may be no room for it.
                folder = Path(self.subject).resolve().parent
                part = self._stack.enter_context(tempfile.TemporaryFile(dir=folder))  # noqa: SIM115
                self._parts[name] = ArrayWriter(self.subject, part)
            self._parts[name].write({name: rows}, kept)

    def finish(self) -> None:
        with zipfile.ZipFile(self.file, "w") as archive:
            for name, part in self._parts.items():
                part.finish()
                part.file.seek(0)
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    shutil.copyfileobj(part.file, member, 1 << 20)

    def close(self) -> None:
        self._stack.close()
