"""From the inert descriptions of a PyTorch file to NumPy arrays.

No array is made before its bounds are known to lie in its storage, and none takes more memory than the file's size
allows (:meth:`lstm_engine.formats.limits.Limits.of_tensors`). Tensors that share a storage share it here too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lstm_engine.errors import FormatError

from .limits import WAY_OUT, current_limits, tensor_room
from .torch_descriptions import (
    DTYPES,
    NumpyArray,
    NumpyScalar,
    OrderedDictDescription,
    Record,
    StorageRef,
    TensorDescription,
    UnsupportedTensor,
)

__all__ = ["TensorBuilder", "flat_array", "widen_bfloat16"]


def widen_bfloat16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Return the float32 values of bfloat16 ``bits``, exactly: bfloat16 is the upper half of float32."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def flat_array(raw: bytes | memoryview, dtype: str) -> NDArray[Any]:
    """Return the elements of a tensor that lie one behind the other.

    Parameters
    ----------
    raw
        Their bytes, a whole number of elements.
    dtype
        PyTorch's name of a type that NumPy has a name for in :data:`DTYPES`, or ``"bfloat16"``.

    Returns
    -------
    ndarray
        (elements,), read-only and aligned; float16 and bfloat16 are widened to float32, exactly.
    """
    if dtype == "bfloat16":
        flat: NDArray[Any] = widen_bfloat16(np.frombuffer(raw, "<u2"))
    elif dtype == "bool":
        flat = np.frombuffer(raw, np.uint8) != 0  # any byte but 0 and 1 would make an ill-formed NumPy bool
    else:
        flat = np.frombuffer(raw, DTYPES[dtype][1])
        if dtype == "float16":
            flat = flat.astype(np.float32)
    flat = np.require(flat, requirements=["ALIGNED"])
    flat.setflags(write=False)
    return flat


class TensorBuilder:
    """Turns descriptions into arrays and plain values, each description once.

    Parameters
    ----------
    subject
        The file, for messages.
    storage_bytes
        Gives the bytes of a storage, at least as many as its size says; raises FormatError if there are fewer.
    file_bytes
        The file's size, which bounds what its tensors may take.
    """

    def __init__(self, subject: str, storage_bytes: Callable[[StorageRef], memoryview], file_bytes: int) -> None:
        self._subject = subject
        self._storage_bytes = storage_bytes
        self._limits = current_limits()
        self._allowance = tensor_room(file_bytes)
        self._file_bytes = file_bytes
        self._storages: dict[tuple[str, str], NDArray[Any]] = {}
        # By identity, with the description kept alive beside its result so that no identity is used twice.
        self._made: dict[int, tuple[object, Any]] = {}
        self._open: set[int] = set()

    def resolve(self, value: Any, name: str = "") -> Any:
        """Return ``value`` with all descriptions replaced.

        Parameters
        ----------
        value
            A result of :func:`lstm_engine.formats.torch_pickle.read_pickle`.
        name
            Where it stands in the file, in dotted form, for messages.

        Returns
        -------
        Any
            Mappings (also OrderedDict and Namespace) as dict, lists and tuples as such; tensors and NumPy arrays as
            read-only arrays, where float16 and bfloat16 are widened to float32; NumPy scalars as Python's; tensors of
            other kinds as UnsupportedTensor; all else as it is.

        Raises
        ------
        FormatError
            If a value contains itself, nests too deep, or a tensor lies outside of its storage.
        """
        if value is None or isinstance(value, bool | int | float | str | bytes):
            return value
        known = self._made.get(id(value))
        if known is not None:
            return known[1]
        if id(value) in self._open:
            raise FormatError(f"{self._subject}: {name or 'the top value'} contains itself; the file is damaged")
        if len(self._open) >= self._limits.nesting:
            raise FormatError(f"{self._subject}: values nest deeper than {self._limits.nesting}; the file is damaged")
        self._open.add(id(value))
        result = self._made_of(value, name)
        self._open.discard(id(value))
        self._made[id(value)] = (value, result)
        return result

    def _made_of(self, value: Any, name: str) -> Any:
        if isinstance(value, TensorDescription):
            return self._tensor(value, name)
        if isinstance(value, StorageRef):
            whole = TensorDescription(value, 0, (value.size,), (1,), value.dtype)
            return self._tensor(whole, name)
        if isinstance(value, NumpyArray):
            return self._numpy_array(value, name)
        if isinstance(value, NumpyScalar):
            single = self._numpy_array(NumpyArray((), value.dtype, False, value.data), name)
            return single.item() if isinstance(single, np.ndarray) else single
        if isinstance(value, Record):
            value = value.values
        if isinstance(value, dict | OrderedDictDescription):
            return {key: self.resolve(part, _below(name, key)) for key, part in value.items()}
        if isinstance(value, list):
            return [self.resolve(part, _below(name, place)) for place, part in enumerate(value)]
        if isinstance(value, tuple):
            return tuple(self.resolve(part, _below(name, place)) for place, part in enumerate(value))
        return value

    def _spend(self, shape: tuple[int, ...], element_bytes: int, name: str) -> None:
        # A size of zero must not hide the others: NumPy multiplies them all the same.
        wanted = math.prod(max(size, 1) for size in shape) * element_bytes
        if wanted > self._allowance:
            raise FormatError(
                f"{self._subject}: {name}: a tensor of shape {_shown(shape)} asks for more memory than the "
                f"{self._limits.of_tensors(self._file_bytes):,} bytes that all tensors of a file of "
                f"{self._file_bytes:,} bytes may take; the file is damaged or made to exhaust memory, or "
                + WAY_OUT.format("tensor_bytes")
            )
        self._allowance -= wanted

    def _tensor(self, tensor: TensorDescription, name: str) -> NDArray[Any] | UnsupportedTensor:
        element_bytes, numpy_name = DTYPES[tensor.dtype]
        if numpy_name is None and tensor.dtype != "bfloat16":
            return UnsupportedTensor(f"its dtype torch.{tensor.dtype} is not read")
        storage = tensor.storage
        empty = 0 in tensor.shape
        last = (
            -1
            if empty
            else tensor.offset
            + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))
        )
        self._inside(tensor, last, storage.size * DTYPES[storage.dtype][0] // element_bytes, name)
        self._spend(tensor.shape, 4 if tensor.dtype in ("bfloat16", "float16") else element_bytes, name)
        flat = self._flat(storage, tensor.dtype, name)
        # Another tensor may have named the same storage with another size.
        self._inside(tensor, last, flat.size, name)
        if empty:
            array = np.empty(tensor.shape, dtype=flat.dtype)
        else:
            steps = tuple(
                stride * flat.itemsize if size > 1 else 0
                for size, stride in zip(tensor.shape, tensor.strides, strict=True)
            )
            array = np.ndarray(tensor.shape, flat.dtype, flat.data, tensor.offset * flat.itemsize, steps)
        if tensor.negative and tensor.dtype == "bool":
            raise FormatError(f"{self._subject}: {name}: a tensor of booleans is marked as negated; it is damaged")
        if tensor.conjugate:
            array = np.conjugate(array)
        if tensor.negative:
            array = np.negative(array)
        array.setflags(write=False)
        return array

    def _inside(self, tensor: TensorDescription, last: int, elements: int, name: str) -> None:
        if last >= elements:
            raise FormatError(
                f"{self._subject}: {name}: a tensor of shape {_shown(tensor.shape)}, strides {_shown(tensor.strides)} "
                f"and offset {tensor.offset} reaches element {last} of a storage of {elements}; the file is damaged"
            )

    def _flat(self, storage: StorageRef, dtype: str, name: str) -> NDArray[Any]:
        known = self._storages.get((storage.key, dtype))
        if known is not None:
            return known
        try:
            raw = self._storage_bytes(storage)
        except FormatError as error:
            reason = str(error).removeprefix(f"{self._subject}: ")
            raise FormatError(f"{self._subject}: {name}: {reason}") from None
        element_bytes, _ = DTYPES[dtype]
        flat = self._storages[(storage.key, dtype)] = flat_array(
            raw[: len(raw) // element_bytes * element_bytes], dtype
        )
        return flat

    def _numpy_array(self, value: NumpyArray, name: str) -> NDArray[Any] | UnsupportedTensor:
        code = value.dtype.code if value.dtype is not None else "none"
        # Numbers only: a code of text or objects is of no use here, and of records could be anything.
        if value.dtype is None or not re.fullmatch(r"b1|[iu][1248]|f[248]|c(8|16)", code):
            return UnsupportedTensor(f"its NumPy dtype {code[:20]!r} is not read")
        dtype = np.dtype(code).newbyteorder(">" if value.dtype.byteorder == ">" else "<")
        self._spend(value.shape, dtype.itemsize, name)
        if math.prod(value.shape) * dtype.itemsize != len(value.data):
            raise FormatError(
                f"{self._subject}: {name}: a NumPy array of shape {_shown(value.shape)} and dtype {dtype} needs "
                f"{math.prod(value.shape) * dtype.itemsize} bytes, found {len(value.data)}; the file is damaged"
            )
        if code == "b1":
            flat: NDArray[Any] = np.frombuffer(value.data, np.uint8) != 0
        else:
            flat = np.frombuffer(value.data, dtype).astype(dtype.newbyteorder("="))
        array = flat.reshape(value.shape, order="F" if value.fortran else "C")
        array.setflags(write=False)
        return array


def _below(name: str, key: object) -> str:
    part = key if isinstance(key, str | int) else type(key).__name__
    return f"{name}.{part}"[-400:] if name else str(part)[:400]


def _shown(numbers: tuple[int, ...]) -> str:
    text = ", ".join(str(number) for number in numbers[:9])
    return f"({text}{', ...' if len(numbers) > 9 else ''})"
