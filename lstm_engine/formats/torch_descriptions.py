"""Inert descriptions of what PyTorch's pickles ask for.

Each is a record of names and numbers. None of them computes, imports or holds a class of PyTorch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

__all__ = [
    "DTYPES",
    "DeviceDescription",
    "GlobalName",
    "NumpyArray",
    "NumpyDtype",
    "NumpyScalar",
    "OrderedDictDescription",
    "Record",
    "StorageRef",
    "TensorDescription",
    "UnsupportedTensor",
    "kind_of",
    "sound_key",
]

#: PyTorch's element types: bytes of an element, and NumPy's name of the little-endian type, or None where
#: NumPy has none (bfloat16 is widened to float32; the others are refused where they are needed).
DTYPES: Final[dict[str, tuple[int, str | None]]] = {
    "float64": (8, "<f8"),
    "float32": (4, "<f4"),
    "float16": (2, "<f2"),
    "bfloat16": (2, None),
    "int64": (8, "<i8"),
    "int32": (4, "<i4"),
    "int16": (2, "<i2"),
    "int8": (1, "<i1"),
    "uint64": (8, "<u8"),
    "uint32": (4, "<u4"),
    "uint16": (2, "<u2"),
    "uint8": (1, "<u1"),
    "bool": (1, "|b1"),
    "complex64": (8, "<c8"),
    "complex128": (16, "<c16"),
    "complex32": (4, None),
    "float8_e4m3fn": (1, None),
    "float8_e4m3fnuz": (1, None),
    "float8_e5m2": (1, None),
    "float8_e5m2fnuz": (1, None),
    "float8_e8m0fnu": (1, None),
    "qint8": (1, None),
    "quint8": (1, None),
    "qint32": (4, None),
}


@dataclass(frozen=True, slots=True)
class GlobalName:
    """The name of a class, function or constant; only the name."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"

    @property
    def shown(self) -> str:
        """The name as a message may show it: without anything that a terminal would obey."""
        return str(self) if str(self).isprintable() else ascii(str(self))


@dataclass(frozen=True, slots=True, eq=False)
class StorageRef:
    """A block of elements outside of the pickle.

    Parameters
    ----------
    dtype
        A key of :data:`DTYPES`.
    key
        The block's name in the file.
    size
        Elements that the pickle says it has.
    location
        Where it lived, such as ``"cpu"`` or ``"cuda:0"``.
    """

    dtype: str
    key: str
    size: int
    location: str


@dataclass(frozen=True, slots=True, eq=False)
class TensorDescription:
    """A strided view of a storage; sizes, strides and offset in elements.

    Parameters
    ----------
    storage
        The block that holds the elements.
    offset
        Place of the first element.
    shape, strides
        One number for each dimension, not negative.
    dtype
        A key of :data:`DTYPES`; the storage's own unless the storage is untyped.
    negative, conjugate
        PyTorch's lazy bits: the true values are the negated or conjugated elements.
    """

    storage: StorageRef
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str
    negative: bool = False
    conjugate: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class UnsupportedTensor:
    """A tensor of a kind that is not read; an error names it only if it is needed."""

    reason: str


@dataclass(frozen=True, slots=True)
class DeviceDescription:
    """A torch.device, such as ``"cuda:0"``."""

    name: str


@dataclass(slots=True, eq=False)
class NumpyDtype:
    """A NumPy element type: its code such as ``"f8"``, and the byte order that BUILD adds."""

    code: str
    byteorder: str = "|"


@dataclass(slots=True, eq=False)
class NumpyArray:
    """A NumPy array whose bytes are in the pickle; BUILD fills it in."""

    shape: tuple[int, ...] = (0,)
    dtype: NumpyDtype | None = None
    fortran: bool = False
    data: bytes = b""
    objects: list[Any] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class NumpyScalar:
    """A NumPy scalar, such as the best loss that a training script keeps."""

    dtype: NumpyDtype
    data: bytes


class OrderedDictDescription(dict[Any, Any]):
    """A collections.OrderedDict; ``metadata`` is the ``_metadata`` that PyTorch hangs on a state dict."""

    __slots__ = ("metadata",)

    def __init__(self) -> None:
        super().__init__()
        self.metadata: dict[Any, Any] = {}


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """An object that is a bag of named values, such as argparse.Namespace."""

    class_name: str
    values: dict[Any, Any]


def kind_of(value: object) -> str:
    """Name what ``value`` is, in few words: its content may be anything, however large."""
    if isinstance(value, GlobalName):
        return f"the name {value.shown}"
    if isinstance(value, OrderedDictDescription):
        return "a collections.OrderedDict"
    if isinstance(value, Record):
        return f"a {value.class_name}"
    if isinstance(value, TensorDescription | UnsupportedTensor):
        return "a torch.Tensor"
    if isinstance(value, NumpyDtype):
        return "a numpy.dtype"
    if isinstance(value, NumpyArray):
        return "a numpy.ndarray"
    return f"a value of type {type(value).__name__}"


def sound_key(key: object) -> bool:
    """Return whether ``key`` may be the key of a mapping or the element of a set.

    Hashing a nested tuple takes time exponential in its depth, and integers beyond 2**60 can be chosen to collide.
    """
    if isinstance(key, tuple):
        return len(key) <= 16 and all(not isinstance(part, tuple) and sound_key(part) for part in key)
    if isinstance(key, int):
        return -(1 << 60) < key < 1 << 60
    return key is None or isinstance(key, str | bytes | float | complex | GlobalName | DeviceDescription)
