"""HDF5 files from strangers: only what lies in the file itself, and only as much as the file can hold.

- A path is followed through hard links alone: soft links, external links and user-defined ones are refused.
- The bytes of a dataset lie in the file: no external storage, no virtual dataset, no fill values in place of data.
- Datasets hold plain numbers, stored as they are or with the filters gzip and shuffle.
- Shapes are checked against the stored bytes and the caps before anything is allocated, and a compressed chunk may
  not unpack to more than its shape says.
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from lstm_engine.errors import FormatError, UnsafeFileError, UnsupportedModelError
from lstm_engine.frozen import seal

from . import hdf5_messages as messages
from .hdf5_messages import Attribute, Bytes, Layout, Link
from .hdf5_structures import Structures
from .json_text import check_json_bytes
from .limits import WAY_OUT, current_limits, tensor_room

__all__ = ["HDF5File", "HDF5Group"]

_GZIP: Final = 1
_SHUFFLE: Final = 2

_LINKS: Final = {"soft": "a soft link", "external": "a link to another file", "user-defined": "a user-defined link"}


class HDF5File:
    """An HDF5 file.

    Parameters
    ----------
    data
        All bytes of the file.
    subject
        What the file is, for messages.
    file_bytes
        Size of the archive that it was unpacked from, which bounds what it may ask for; None for a file of its own.

    Raises
    ------
    FormatError
        If it is no HDF5 file, or truncated.
    UnsupportedModelError
        If it is of a kind of HDF5 file that Keras does not write.
    """

    def __init__(self, data: bytes | memoryview, subject: str, file_bytes: int | None = None) -> None:
        self.subject = subject
        self.size = len(data) if file_bytes is None else file_bytes
        with _about(subject):
            self.structures = Structures(data, self.size)
        self._limits = current_limits()
        self._left_bytes = tensor_room(self.size)
        self._left_tensors = self._limits.tensors
        #: Arrays that were read, by the address of their dataset: many names may lead to one.
        self.arrays: dict[int, NDArray[Any]] = {}

    @property
    def root(self) -> HDF5Group:
        """The root group."""
        return HDF5Group(self, self.structures.root, "")

    def spend(self, wanted_bytes: int, subject: str) -> None:
        """Take ``wanted_bytes`` from what the file's arrays may take together.

        Raises
        ------
        UnsafeFileError
            If they are more than what is left.
        """
        self._left_bytes -= wanted_bytes
        self._left_tensors -= 1
        if self._left_bytes < 0:
            raise UnsafeFileError(
                f"{subject}: with this dataset the file asks for more than {self._limits.of_tensors(self.size):,} "
                f"bytes, the most that a file of {self.size:,} bytes may ask for; " + WAY_OUT.format("tensor_bytes")
            )
        if self._left_tensors < 0:
            raise UnsafeFileError(
                f"{self.subject}: expected at most {self._limits.tensors:,} datasets, found more; "
                + WAY_OUT.format("tensors")
            )


class HDF5Group:
    """One group of an :class:`HDF5File`. Paths are relative to it."""

    def __init__(self, file: HDF5File, address: int, path: str) -> None:
        self._file = file
        self.address = address
        self.path = path
        with _about(self._subject()):
            links = file.structures.links(address)
        if links is None:
            raise FormatError(f"{self._subject()}: expected a group, found something else")
        self._links: dict[str, Link] = links

    def __contains__(self, path: str) -> bool:
        parent, _, name = path.rpartition("/")
        group = self
        for part in parent.split("/") if parent else ():
            if part not in group._links:
                return False
            group = group.group(part)
        return name in group._links

    def names(self) -> list[str]:
        """Return the names of everything in the group."""
        return list(self._links)

    def group(self, path: str) -> HDF5Group:
        """Open a group.

        Raises
        ------
        FormatError
            If there is none, or it is a dataset.
        UnsafeFileError
            If a part of the path is a soft or external link.
        """
        group = self
        for part in path.split("/"):
            group = HDF5Group(self._file, group._target(part), "/".join(filter(None, (group.path, part))))
        return group

    def array(self, path: str) -> NDArray[Any]:
        """Read a dataset.

        Returns
        -------
        ndarray
            Read-only, C-contiguous, in the file's dtype but native byte order; bfloat16 as float32, exactly.

        Raises
        ------
        FormatError
            If there is none, it is a group, or its bytes are damaged.
        UnsupportedModelError
            If it holds anything but plain numbers, or uses another filter than gzip and shuffle.
        UnsafeFileError
            If it lies outside of the file, or asks for more memory than the file can fill.
        """
        parent, _, name = path.rpartition("/")
        group = self.group(parent) if parent else self
        address, subject, arrays = group._target(name), group._subject(name), self._file.arrays
        if address in arrays:
            # Each layer that it is a weight of packs it anew.
            self._file.spend(arrays[address].nbytes, subject)
        else:
            arrays[address] = seal(_Dataset(self._file, address, subject).read())
        return arrays[address]

    def text(self, name: str) -> str | None:
        """Return the text attribute ``name``, or None if there is no such attribute.

        Raises
        ------
        FormatError
            If it is no text.
        UnsafeFileError
            If it is longer than a JSON text may be.
        """
        attribute = self._attributes().get(name)
        if attribute is None:
            return None
        texts = _texts(self._file, attribute, self._subject(name))
        if len(texts) != 1:
            raise FormatError(f"{self._subject(name)}: expected the attribute to be one text, found {len(texts)}")
        return texts[0]

    def text_list(self, name: str) -> list[str] | None:
        """Return the texts of attribute ``name``, or of ``name0``, ``name1``, ... if it is stored in parts.

        Keras cuts a list that is too long for one attribute. None if there is neither.

        Raises
        ------
        FormatError
            If a part is no list of texts.
        """
        attributes = self._attributes()
        names = [name] if name in attributes else []
        if not names:
            names = list(itertools.takewhile(attributes.__contains__, (f"{name}{part}" for part in itertools.count())))
        if not names:
            return None
        texts: list[str] = []
        total, longest = 0, current_limits().name_length
        for part in names:
            for text in _texts(self._file, attributes[part], self._subject(part)):
                if len(text) > longest:
                    raise FormatError(
                        f"{self._subject(part)}: expected names of at most {longest} characters, found {text!r:.60}"
                    )
                texts.append(text)
                total += len(text)
            check_json_bytes(total, self._subject(name))
        return texts

    def _attributes(self) -> dict[str, Attribute]:
        with _about(self._subject()):
            return self._file.structures.attributes(self.address)

    def _target(self, name: str) -> int:
        """Return the address of the object that the hard link ``name`` leads to."""
        link = self._links.get(name)
        if link is None:
            raise FormatError(f"{self._subject(name)}: expected this in the file, found nothing; the file is damaged")
        if link.kind != "hard":
            raise UnsafeFileError(f"{self._subject(name)}: expected data in the file itself, found {_LINKS[link.kind]}")
        return link.address

    def _subject(self, name: str = "") -> str:
        return f"{self._file.subject}: {'/'.join(filter(None, (self.path, name))) or '/'}"


def _texts(file: HDF5File, attribute: Attribute, subject: str) -> list[str]:
    kind, shape = attribute.datatype, attribute.shape
    if shape is None or len(shape) > 1:
        raise FormatError(f"{subject}: expected the attribute to be a text or a list of texts, found another shape")
    count = math.prod(shape)
    if count == 0:
        return []  # an empty list is stored as numbers
    if kind.kind not in ("string", "text"):
        raise FormatError(f"{subject}: expected the attribute to hold text, found {kind.kind}")
    if not kind.size or count > current_limits().tensors or count * kind.size > len(attribute.data):
        raise FormatError(
            f"{subject}: expected {count:,} texts of {kind.size:,} bytes in the attribute, "
            f"found {len(attribute.data):,} bytes in all; the file is damaged"
        )
    texts = []
    total = 0
    for number in range(count):
        text = bytes(attribute.data[number * kind.size : (number + 1) * kind.size])
        if kind.kind == "text":
            with _about(subject):
                text = file.structures.text(Bytes(text))
        total += len(text)
        check_json_bytes(total, subject)
        try:
            texts.append(text.rstrip(b"\0").decode("utf-8"))
        except UnicodeDecodeError:
            raise FormatError(f"{subject}: expected UTF-8, found {text[:40]!r}; the file is damaged") from None
    return texts


# --- Datasets ---------------------------------------------------------------------------------------------------------


class _Dataset:
    """One dataset while it is being read."""

    def __init__(self, file: HDF5File, address: int, subject: str) -> None:
        self._file = file
        self._subject = subject
        with _about(subject):
            self._messages = {message.kind: message for message in file.structures.messages(address)}
        needed = (messages.DATATYPE, messages.DATASPACE, messages.LAYOUT)
        if not all(kind in self._messages for kind in needed):
            raise FormatError(f"{subject}: expected a dataset, found something else")
        if any(self._messages[kind].shared for kind in (*needed, messages.FILTERS) if kind in self._messages):
            raise UnsupportedModelError(f"{subject}: expected a dataset with a type of its own, found a shared one")
        with _about(subject):
            attribute = file.structures.attributes(address).get("dtype")
        marks = _texts(file, attribute, subject) if attribute is not None else []
        self._mark = marks[0] if marks else None

    def read(self) -> NDArray[Any]:
        """Read the numbers."""
        subject = self._subject
        with _about(subject):
            layout = messages.layout(self._messages[messages.LAYOUT].data)
            shape = messages.dataspace(self._messages[messages.DATASPACE].data)
        if messages.EXTERNAL_FILES in self._messages:
            raise UnsafeFileError(f"{subject}: expected data in the file itself, found it stored in another file")
        if layout.kind == "virtual":
            raise UnsafeFileError(f"{subject}: expected data in the file itself, found a virtual dataset")
        if layout.kind not in ("compact", "contiguous", "chunked"):
            raise UnsupportedModelError(
                f"{subject}: expected a dataset stored whole or in chunks, found one {layout.kind}; "
                "save the model again with Keras, without asking h5py for libver='latest'"
            )
        if shape is None:
            raise FormatError(f"{subject}: expected a dataset with values, found one without any")
        dtype, bfloat16 = self._dtype()
        array_bytes = math.prod(shape) * dtype.itemsize
        # A size of zero must not hide the others: NumPy multiplies them all the same.
        wanted = math.prod(size or 1 for size in shape) * dtype.itemsize
        self._file.spend(wanted * (2 if bfloat16 else 1), subject)
        if array_bytes == 0:
            array: NDArray[Any] = np.empty(shape, dtype)
        elif layout.kind == "chunked":
            array = self._read_chunks(layout, shape, dtype)
        else:
            array = np.frombuffer(self._stored(layout, array_bytes), dtype).reshape(shape)
        if bfloat16:
            # A bfloat16 is the upper half of a float32.
            return (array.astype(np.uint32) << 16).view(np.float32)
        return array.astype(dtype.newbyteorder("="), order="C", copy=True)

    def _stored(self, layout: Layout, array_bytes: int) -> Bytes:
        """Return the bytes of a dataset that is stored whole."""
        with _about(self._subject):
            stored = self._file.structures.stored(layout)
        if len(stored) != array_bytes:
            raise UnsafeFileError(
                f"{self._subject}: expected {array_bytes:,} bytes of an array in the file, found {len(stored):,}"
            )
        return stored

    def _dtype(self) -> tuple[np.dtype[Any], bool]:
        """Return the dtype of the stored numbers, and whether they are bfloat16, shown as uint16."""
        with _about(self._subject):
            found = messages.datatype(self._messages[messages.DATATYPE].data)
        order = ">" if found.big_endian else "<"
        if self._mark is not None and self._mark != "bfloat16":
            raise UnsupportedModelError(
                f"{self._subject}: expected numbers of bfloat16, float16, float32 or float64, found {self._mark!r:.40}"
            )
        halves = found.kind in ("opaque", "uint") and found.size == 2 and self._mark
        if halves or (found.kind == "bfloat16" and found.size == 2):
            return np.dtype(f"{order}u2"), True
        if found.kind in ("float", "int", "uint") and not self._mark:
            return np.dtype(f"{order}{found.kind[0]}{found.size}"), False
        raise UnsupportedModelError(
            f"{self._subject}: expected plain numbers, found {found.kind} values of {found.size} bytes; "
            "save the model with float32 weights, as a .keras file"
        )

    def _read_chunks(self, layout: Layout, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Read a chunked dataset, unpacking each chunk."""
        subject = self._subject
        applied = self._filters()
        steps, element = layout.chunk[:-1], layout.chunk[-1:]
        fits = len(steps) == len(shape) and all(0 < step <= size for step, size in zip(steps, shape, strict=True))
        if not fits or element != (dtype.itemsize,):
            raise UnsafeFileError(f"{subject}: expected chunks that fit the shape {shape}, found {layout.chunk}")
        chunk_bytes = math.prod(steps) * dtype.itemsize
        with _about(subject):
            chunks = {chunk.offset: chunk for chunk in self._file.structures.chunks(layout)}
        wanted = math.prod(-(-size // step) for size, step in zip(shape, steps, strict=True))
        # Chunks stick out of the array, by less than twice its size along each axis.
        self._file.spend(wanted * chunk_bytes - math.prod(shape) * dtype.itemsize, subject)
        if len(chunks) != wanted:
            raise UnsafeFileError(
                f"{subject}: an array of shape {shape} takes {wanted:,} chunks, found {len(chunks):,} in the file"
            )
        array = np.empty(shape, dtype)
        for offset in itertools.product(*(range(0, size, step) for size, step in zip(shape, steps, strict=True))):
            chunk = chunks.get(offset)
            if chunk is None:
                raise FormatError(f"{subject}: expected a chunk at {offset}, found none; the file is damaged")
            codes = [code for place, code in enumerate(applied) if not chunk.skipped >> place & 1]
            data = _unfilter(
                bytes(chunk.data), codes, chunk_bytes=chunk_bytes, itemsize=dtype.itemsize, subject=subject
            )
            target = array[tuple(slice(start, start + step) for start, step in zip(offset, steps, strict=True))]
            target[...] = np.frombuffer(data, dtype).reshape(steps)[tuple(slice(size) for size in target.shape)]
        return array

    def _filters(self) -> list[int]:
        message = self._messages.get(messages.FILTERS)
        if message is None:
            return []
        with _about(self._subject):
            found = messages.filters(message.data)
        for one in found:
            if one.code not in (_GZIP, _SHUFFLE):
                raise UnsupportedModelError(
                    f"{self._subject}: expected the filters gzip and shuffle, found {one.name!r:.60} ({one.code}); "
                    "save the model again with Keras"
                )
        return [one.code for one in found]


def _unfilter(data: bytes, codes: list[int], *, chunk_bytes: int, itemsize: int, subject: str) -> bytes:
    """Undo the filters that were applied to a chunk, the last one first."""
    for code in reversed(codes):
        if code == _GZIP:
            try:
                data = zlib.decompressobj().decompress(data, chunk_bytes + 1)
            except zlib.error as error:
                raise FormatError(f"{subject}: expected gzip data, found damaged bytes ({error})") from None
        elif len(data) == chunk_bytes:
            # Shuffled: the first bytes of all items, then all second bytes, and so on.
            data = np.frombuffer(data, np.uint8).reshape(itemsize, -1).T.tobytes()
    if len(data) != chunk_bytes:
        raise FormatError(f"{subject}: expected a chunk of {chunk_bytes:,} bytes, found {len(data):,}; it is damaged")
    return data


@contextmanager
def _about(subject: str) -> Iterator[None]:
    """Say what the errors of the structures are about."""
    try:
        yield
    except (FormatError, UnsafeFileError, UnsupportedModelError) as error:
        raise type(error)(f"{subject}: {error}") from None
