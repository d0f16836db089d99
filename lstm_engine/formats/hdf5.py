"""HDF5 files from strangers: only what lies in the file itself, and only as much as the file can hold.

h5py opens the file and walks its groups; this module decides what may be asked of it:

- a path is followed through hard links alone: soft links, external links and user-defined ones are refused;
- the bytes of a dataset lie in the file: no external storage, no virtual dataset, no fill values in place of data;
- datasets hold plain numbers, stored as they are or with the filters gzip and shuffle;
- shapes are checked against the stored bytes and the caps before anything is allocated, and compressed chunks
  are unpacked here, where the length of what comes out is bounded (HDF5's own gzip filter unpacks a chunk whole,
  however large it turns out to be).
"""

from __future__ import annotations

import itertools
import math
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from lstm_engine.errors import FormatError, LstmEngineError, UnsafeFileError, UnsupportedModelError

from .limits import MAX_JSON_BYTES, MAX_NAME_LENGTH, MAX_RANK, MAX_TENSORS, max_tensor_bytes

if TYPE_CHECKING:
    import h5py

__all__ = ["HDF5File", "HDF5Group"]

_NUMBERS: Final = frozenset(
    {"float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"}
)

#: What h5py raises about a damaged file: any of these, from any of its calls.
_HDF5_ERRORS: Final = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    RuntimeError,
    SystemError,
    TypeError,
    ValueError,
)

_DAMAGED: Final = "the file is truncated or damaged"


class HDF5File:
    """An HDF5 file, open for reading; a context manager.

    Parameters
    ----------
    source
        The file's path, or all of its bytes.
    subject
        What the file is, for messages.

    Raises
    ------
    FormatError
        If HDF5 cannot make sense of it.
    """

    def __init__(self, source: str | os.PathLike[str] | bytes, subject: str) -> None:
        import h5py

        self.subject = subject
        with _as_format_error(subject):
            if isinstance(source, bytes):
                self.size = len(source)
                self._file = h5py.File(h5py.h5f.open_file_image(source))
            else:
                self.size = Path(source).stat().st_size
                # A lock would only keep others from writing; some network file systems refuse it to readers.
                self._file = h5py.File(source, "r", locking=False)
        self._left_bytes = max_tensor_bytes(self.size)
        self._left_tensors = MAX_TENSORS

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with _as_format_error(self.subject):
            self._file.close()

    @property
    def root(self) -> HDF5Group:
        """The root group."""
        with _as_format_error(self.subject):
            return HDF5Group(self, self._file["/"].id, "")

    def spend(self, wanted_bytes: int, subject: str) -> None:
        """Take ``wanted_bytes`` from what the file's arrays may take together."""
        self._left_bytes -= wanted_bytes
        self._left_tensors -= 1
        if self._left_bytes < 0:
            raise UnsafeFileError(
                f"{subject}: with this dataset the file asks for more than {max_tensor_bytes(self.size):,} bytes, "
                f"the most that a file of {self.size:,} bytes may ask for"
            )
        if self._left_tensors < 0:
            raise UnsafeFileError(f"{self.subject}: expected at most {MAX_TENSORS:,} datasets, found more")


class HDF5Group:
    """One group of an :class:`HDF5File`. Paths are relative to it."""

    def __init__(self, file: HDF5File, group_id: h5py.h5g.GroupID, path: str) -> None:
        self._file = file
        self._id = group_id
        self.path = path

    def __contains__(self, path: str) -> bool:
        parent, _, name = path.rpartition("/")
        group: HDF5Group | None = self
        for part in parent.split("/") if parent else ():
            group = group._child_group(part) if group is not None and group._has(part) else None
        return group is not None and group._has(name)

    def names(self) -> list[str]:
        """Return the names of everything in the group, in HDF5's order.

        Raises
        ------
        UnsafeFileError
            If there are more than :data:`~lstm_engine.formats.limits.MAX_TENSORS`.
        """
        with _as_format_error(self._subject()):
            count = self._id.get_num_objs()
            if count > MAX_TENSORS:
                raise UnsafeFileError(f"{self._subject()}: expected at most {MAX_TENSORS:,} members, found {count:,}")
            return [_decoded(name, self._subject()) for name in self._id]

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
            group = group._child_group(part)
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
        import h5py

        parent, _, name = path.rpartition("/")
        group = self.group(parent) if parent else self
        subject = group._subject(name)
        dataset = group._child(name)
        with _as_format_error(subject):
            if not isinstance(dataset, h5py.h5d.DatasetID):
                raise FormatError(f"{subject}: expected a dataset, found a group")
            array = _read(dataset, subject, self._file)
        array.setflags(write=False)
        return array

    def text(self, name: str) -> str | None:
        """Return the text attribute ``name``, or None if there is no such attribute.

        Raises
        ------
        FormatError
            If it is no text.
        UnsafeFileError
            If it is longer than a JSON text may be.
        """
        with _as_format_error(self._subject(name)):
            return _text(self._id, name, self._subject(name))

    def text_list(self, name: str) -> list[str] | None:
        """Return the texts of attribute ``name``, or of ``name0``, ``name1``, ... if it is stored in chunks.

        Keras cuts a list that is too long for one attribute. None if there is neither.

        Raises
        ------
        FormatError
            If a part is no list of texts.
        """
        value = self._attribute(name)
        if value is not None:
            return self._texts(name, value)
        texts: list[str] | None = None
        for chunk in range(MAX_TENSORS):
            value = self._attribute(f"{name}{chunk}")
            if value is None:
                break
            texts = (texts or []) + self._texts(f"{name}{chunk}", value)
        return texts

    def _texts(self, name: str, value: Any) -> list[str]:
        subject = self._subject(name)
        # An empty list is stored as an empty array of float64.
        if not isinstance(value, np.ndarray) or value.ndim != 1 or (value.size and value.dtype.kind not in "OSU"):
            raise FormatError(f"{subject}: expected the attribute to be a list of texts, found {type(value).__name__}")
        texts = [_decoded(item, subject) if isinstance(item, bytes) else item for item in value.tolist()]
        for text in texts:
            if not isinstance(text, str) or len(text) > MAX_NAME_LENGTH:
                raise FormatError(
                    f"{subject}: expected names of at most {MAX_NAME_LENGTH} characters, found {text!r:.60}"
                )
        return texts

    def _attribute(self, name: str) -> Any:
        with _as_format_error(self._subject(name)):
            return _attribute(self._id, name, self._subject(name))

    def _subject(self, name: str = "") -> str:
        inside = "/".join(part for part in (self.path, name) if part)
        return f"{self._file.subject}: {inside or '/'}"

    def _has(self, name: str) -> bool:
        with _as_format_error(self._subject(name)):
            return bool(self._id.links.exists(self._checked(name)))

    def _checked(self, name: str) -> bytes:
        if name in ("", ".") or len(name) > MAX_NAME_LENGTH or "\0" in name:
            raise FormatError(f"{self._subject()}: expected the name of a member, found {name!r:.60}")
        return name.encode()

    def _child(self, name: str) -> Any:
        """Open what the hard link ``name`` leads to."""
        import h5py

        subject = self._subject(name)
        with _as_format_error(subject):
            key = self._checked(name)
            if not self._id.links.exists(key):
                raise FormatError(f"{subject}: expected this in the file, found nothing; {_DAMAGED}")
            kind = self._id.links.get_info(key).type
            if kind != h5py.h5l.TYPE_HARD:
                found = {h5py.h5l.TYPE_SOFT: "a soft link", h5py.h5l.TYPE_EXTERNAL: "a link to another file"}
                raise UnsafeFileError(
                    f"{subject}: expected data in the file itself, found {found.get(kind, 'a user-defined link')}"
                )
            return h5py.h5o.open(self._id, key)

    def _child_group(self, name: str) -> HDF5Group:
        import h5py

        child = self._child(name)
        if not isinstance(child, h5py.h5g.GroupID):
            raise FormatError(f"{self._subject(name)}: expected a group, found something else")
        return HDF5Group(self._file, child, "/".join(part for part in (self.path, name) if part))


# --- Attributes -------------------------------------------------------------------------------------------------------


def _attribute(holder: h5py.h5o.ObjectID, name: str, subject: str) -> Any:
    """Return the value of an attribute of texts or numbers, or None if there is no such attribute."""
    import h5py

    key = name.encode()
    if not h5py.h5a.exists(holder, key):
        return None
    attribute = h5py.h5a.open(holder, key)
    kind = attribute.get_type()
    if kind.get_class() not in (h5py.h5t.STRING, h5py.h5t.FLOAT, h5py.h5t.INTEGER):
        raise FormatError(f"{subject}: expected the attribute to be text, found another type")
    if attribute.get_space().get_simple_extent_type() == h5py.h5s.NULL:
        raise FormatError(f"{subject}: expected the attribute to hold a value, found none")
    count = math.prod(attribute.shape)
    # Texts of variable length lie in the file, once each: only their number has to be bounded.
    variable = kind.get_class() == h5py.h5t.STRING and kind.is_variable_str()
    if count > MAX_TENSORS or (not variable and kind.get_size() * count > MAX_JSON_BYTES):
        raise UnsafeFileError(
            f"{subject}: expected at most {MAX_TENSORS:,} texts of {MAX_JSON_BYTES:,} bytes together, found {count:,} "
            f"of {kind.get_size():,} bytes each"
        )
    owner = h5py.Group(holder) if isinstance(holder, h5py.h5g.GroupID) else h5py.Dataset(holder)
    return owner.attrs[name]


def _text(holder: h5py.h5o.ObjectID, name: str, subject: str) -> str | None:
    value = _attribute(holder, name, subject)
    if value is None:
        return None
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(()).item()
    if isinstance(value, bytes):
        return _decoded(value, subject)
    if not isinstance(value, str):
        raise FormatError(f"{subject}: expected the attribute {name!r} to be a text, found {type(value).__name__}")
    return value


# --- Datasets ---------------------------------------------------------------------------------------------------------


def _read(dataset: h5py.h5d.DatasetID, subject: str, file: HDF5File) -> NDArray[Any]:
    import h5py

    creation = dataset.get_create_plist()
    layout = creation.get_layout()
    if layout == h5py.h5d.VIRTUAL:
        raise UnsafeFileError(f"{subject}: expected data in the file itself, found a virtual dataset")
    if creation.get_external_count() > 0:
        raise UnsafeFileError(f"{subject}: expected data in the file itself, found a dataset stored in another file")

    dtype, bfloat16 = _number_type(dataset, subject)
    if dataset.get_space().get_simple_extent_type() == h5py.h5s.NULL:
        raise FormatError(f"{subject}: expected a dataset with values, found one without any")
    shape = tuple(int(size) for size in dataset.shape)
    if len(shape) > MAX_RANK:
        raise UnsafeFileError(f"{subject}: expected at most {MAX_RANK} dimensions, found {len(shape)}")
    array_bytes = math.prod(shape) * dtype.itemsize
    stored = dataset.get_storage_size()
    if stored > file.size:
        raise FormatError(
            f"{subject}: expected it in a file of {file.size:,} bytes, found {stored:,} bytes; {_DAMAGED}"
        )
    file.spend(array_bytes * (2 if bfloat16 else 1), subject)

    if array_bytes == 0:
        array: NDArray[Any] = np.empty(shape, dtype)
    elif layout == h5py.h5d.CHUNKED:
        array = _read_chunks(dataset, creation, shape, dtype, subject)
    else:
        if stored != array_bytes:
            raise UnsafeFileError(
                f"{subject}: an array of shape {shape} takes {array_bytes:,} bytes, found {stored:,} in the file"
            )
        array = np.empty(shape, dtype)
        dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, array, dataset.get_type())
    if bfloat16:
        # A bfloat16 is the upper half of a float32.
        return (array.view("<u2").astype(np.uint32) << 16).view(np.float32)
    return array.astype(dtype.newbyteorder("="), copy=False)


def _number_type(dataset: h5py.h5d.DatasetID, subject: str) -> tuple[np.dtype[Any], bool]:
    """Return the dtype of the stored numbers, and whether they are bfloat16 (two opaque bytes, or uint16)."""
    import h5py

    marked = _text(dataset, "dtype", subject)
    if marked is not None and marked != "bfloat16":
        raise UnsupportedModelError(
            f"{subject}: expected numbers of bfloat16, float16, float32 or float64, found {marked!r:.40}"
        )
    kind = dataset.get_type()
    if kind.get_class() == h5py.h5t.OPAQUE and kind.get_size() == 2 and marked:
        return np.dtype("V2"), True
    if kind.get_class() in (h5py.h5t.FLOAT, h5py.h5t.INTEGER):
        dtype = np.dtype(kind.dtype)
        # h5py shows a number type that NumPy lacks as a wider one: the stored bytes are then not what the dtype says.
        if dtype.name in _NUMBERS and kind == h5py.h5t.py_create(dtype) and (not marked or dtype.str == "<u2"):
            return dtype, bool(marked)
    opaque = kind.get_class() == h5py.h5t.OPAQUE
    found = f"opaque values of {kind.get_size()} bytes" if opaque else "values of another type"
    raise UnsupportedModelError(
        f"{subject}: expected plain numbers, found {found}; save the model with float32 weights, as a .keras file"
    )


def _read_chunks(
    dataset: h5py.h5d.DatasetID, creation: h5py.h5p.PropDCID, shape: tuple[int, ...], dtype: np.dtype[Any], subject: str
) -> NDArray[Any]:
    """Read a chunked dataset, unpacking each chunk here."""
    filters = _filters(creation, subject)
    steps = tuple(int(size) for size in creation.get_chunk())
    chunk_bytes = math.prod(steps) * dtype.itemsize
    # A chunk may stick out of the array, but less than once in each direction.
    if len(steps) != len(shape) or chunk_bytes > 2 ** len(shape) * math.prod(shape) * dtype.itemsize:
        raise UnsafeFileError(f"{subject}: expected chunks that fit the shape {shape}, found {steps}")
    wanted = math.prod(-(-size // step) for size, step in zip(shape, steps, strict=True))
    found = dataset.get_num_chunks()
    if found != wanted:
        raise UnsafeFileError(
            f"{subject}: an array of shape {shape} takes {wanted:,} chunks, found {found:,} in the file"
        )
    stored = dataset.get_storage_size()
    array = np.empty(shape, dtype)
    for offset in itertools.product(*(range(0, size, step) for size, step in zip(shape, steps, strict=True))):
        chunk = dataset.get_chunk_info_by_coord(offset)
        if not 0 < chunk.size <= stored:
            raise FormatError(f"{subject}: expected a chunk at {offset}, found none; {_DAMAGED}")
        skipped, raw = dataset.read_direct_chunk(offset)
        applied = [code for place, code in enumerate(filters) if not skipped >> place & 1]
        data = _unfilter(bytes(raw), applied, chunk_bytes=chunk_bytes, itemsize=dtype.itemsize, subject=subject)
        window = tuple(slice(start, start + step) for start, step in zip(offset, steps, strict=True))
        target = array[window]
        target[...] = np.frombuffer(data, dtype).reshape(steps)[tuple(slice(size) for size in target.shape)]
    return array


def _filters(creation: h5py.h5p.PropDCID, subject: str) -> list[int]:
    import h5py

    filters = []
    for place in range(creation.get_nfilters()):
        code, _, _, name = creation.get_filter(place)
        if code not in (h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE):
            shown = name.decode("utf-8", "replace")
            raise UnsupportedModelError(
                f"{subject}: expected the filters gzip and shuffle, found {shown!r:.60} ({code})"
            )
        filters.append(code)
    return filters


def _unfilter(data: bytes, applied: list[int], *, chunk_bytes: int, itemsize: int, subject: str) -> bytes:
    """Undo the filters that were applied to a chunk, the last one first."""
    import h5py

    for code in reversed(applied):
        if code == h5py.h5z.FILTER_DEFLATE:
            try:
                data = zlib.decompressobj().decompress(data, chunk_bytes + 1)
            except zlib.error as error:
                raise FormatError(f"{subject}: expected gzip data, found damaged bytes ({error})") from None
        elif len(data) == chunk_bytes:
            # Shuffled: the first bytes of all items, then all second bytes, and so on.
            data = np.frombuffer(data, np.uint8).reshape(itemsize, -1).T.tobytes()
    if len(data) != chunk_bytes:
        raise FormatError(f"{subject}: expected a chunk of {chunk_bytes:,} bytes, found {len(data):,}; {_DAMAGED}")
    return data


# --- Errors -----------------------------------------------------------------------------------------------------------


@contextmanager
def _as_format_error(subject: str) -> Iterator[None]:
    """Turn what h5py raises about a damaged file into a FormatError."""
    try:
        yield
    except LstmEngineError:
        raise
    except _HDF5_ERRORS as error:
        raise FormatError(
            f"{subject}: expected readable HDF5, found {error or type(error).__name__}; {_DAMAGED}"
        ) from None


def _decoded(text: bytes, subject: str) -> str:
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError:
        raise FormatError(f"{subject}: expected UTF-8, found {text[:40]!r}; {_DAMAGED}") from None
