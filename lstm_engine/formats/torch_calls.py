"""The short list of what PyTorch's pickles may have called, and what describes each result.

A pickle is a program that names functions and has them called. Here a name is only a
:class:`~lstm_engine.formats.torch_descriptions.GlobalName`, and a call of one of the names in :data:`CALLS` makes a
description of what the call would have made. Nothing is imported, nothing is called, and no attribute of any class
of Python, NumPy or PyTorch is set: an allow-list over the real unpickler is not enough, because what an allowed class
does with its arguments and state is outside of the list's control (CVE-2025-32434, CVE-2026-24747).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from lstm_engine.errors import FormatError, UnsafeFileError, UnsupportedModelError

from .limits import MAX_RANK
from .torch_descriptions import (
    DTYPES,
    DeviceDescription,
    GlobalName,
    NumpyArray,
    NumpyDtype,
    NumpyScalar,
    OrderedDictDescription,
    Record,
    StorageRef,
    TensorDescription,
    UnsupportedTensor,
    kind_of,
    sound_key,
)

__all__ = ["CALLS", "NEW_OBJECTS", "WAY_OUT", "build", "describe_storage"]

#: What to do about a file that needs code to be run.
WAY_OUT: Final = "save the weights alone, torch.save(model.state_dict(), path), and load that file"

_STORAGES: Final = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "QInt8Storage": "qint8",
    "QUInt8Storage": "quint8",
    "QInt32Storage": "qint32",
    "UntypedStorage": "uint8",
}


def _count(name: str, value: object) -> int:
    if type(value) is not int or value < 0:
        found = value if type(value) is int else kind_of(value)
        raise FormatError(f"expected {name} to be a whole number that is not negative, found {found}")
    return value


def _counts(name: str, value: object) -> tuple[int, ...]:
    if not isinstance(value, tuple):
        raise FormatError(f"expected {name} to be a tuple of whole numbers, found {kind_of(value)}")
    if len(value) > MAX_RANK:
        raise FormatError(f"expected at most {MAX_RANK} dimensions, found {len(value)} in {name}")
    return tuple(_count(name, size) for size in value)


def _arguments(values: tuple[Any, ...], fewest: int, most: int) -> None:
    if not fewest <= len(values) <= most:
        wanted = str(fewest) if fewest == most else f"{fewest} to {most}"
        raise FormatError(f"expected {wanted} arguments, found {len(values)}")


def _ascii(value: object) -> object:
    # Python 2 wrote these words as byte strings.
    return value.decode("latin-1") if isinstance(value, bytes) else value


def describe_storage(identity: object) -> StorageRef:
    """Describe the storage that a persistent id names.

    Parameters
    ----------
    identity
        ``("storage", storage class, key, location, elements[, view])``; or
        ``("module", class, source file, source)``, which only a pickled module has.

    Raises
    ------
    UnsafeFileError
        If it names a module's class.
    FormatError
        If it is anything else.
    """
    if not isinstance(identity, tuple) or not identity:
        raise FormatError(f"expected the persistent id of a storage to be a tuple, found {kind_of(identity)}")
    word = _ascii(identity[0])
    if word == "module":
        name = identity[1].shown if len(identity) > 1 and isinstance(identity[1], GlobalName) else "unknown"
        raise UnsafeFileError(
            f"the file holds a whole module of class {name}, which needs its code to be run; {WAY_OUT}"
        )
    if word != "storage" or len(identity) not in (5, 6):
        raise FormatError('expected the persistent id ("storage", class, key, location, size)')
    kind, key, location = identity[1], _ascii(identity[2]), _ascii(identity[3])
    if not isinstance(kind, GlobalName) or kind.module not in ("torch", "torch.cuda", "torch.storage"):
        raise FormatError(f"expected a storage class of torch, found {kind_of(kind)}")
    if kind.name not in _STORAGES:
        raise UnsupportedModelError(
            f"tensors kept in a {kind.shown} are not read; convert them to float32 and save anew"
        )
    if not isinstance(key, str) or not isinstance(location, str):
        raise FormatError(
            f"expected a storage's key and location to be strings, found {kind_of(key)}, {kind_of(location)}"
        )
    if len(identity) == 6 and identity[5] is not None:
        raise UnsupportedModelError(
            "the storage is a view of another, which early PyTorch wrote; load and save it anew"
        )
    return StorageRef(_STORAGES[kind.name], key, _count("the size of a storage", identity[4]), location)


def _tensor(values: tuple[Any, ...], dtype: str | None, metadata: object) -> TensorDescription:
    storage, offset, shape, strides = values[:4]
    if not isinstance(storage, StorageRef):
        raise FormatError(f"expected a storage, found {kind_of(storage)}")
    sizes, steps = _counts("the shape", shape), _counts("the strides", strides)
    if len(sizes) != len(steps):
        raise FormatError(
            f"expected a stride for each dimension, found {len(sizes)} dimensions and {len(steps)} strides"
        )
    bits = metadata if isinstance(metadata, dict) else {}
    return TensorDescription(
        storage,
        _count("the offset", offset),
        sizes,
        steps,
        dtype or storage.dtype,
        bits.get("neg") is True,
        bits.get("conj") is True,
    )


def _rebuild_tensor(values: tuple[Any, ...]) -> object:
    _arguments(values, 4, 4)
    return _tensor(values, None, None)


def _rebuild_tensor_v2(values: tuple[Any, ...]) -> object:
    _arguments(values, 6, 7)
    return _tensor(values, None, values[6] if len(values) > 6 else None)


def _rebuild_tensor_v3(values: tuple[Any, ...]) -> object:
    _arguments(values, 7, 8)
    dtype = values[6]
    if not isinstance(dtype, GlobalName) or dtype.module != "torch":
        raise FormatError(f"expected a dtype of torch, found {kind_of(dtype)}")
    if dtype.name not in DTYPES:
        return UnsupportedTensor(f"its dtype {dtype.shown} is not read")
    return _tensor(values, dtype.name, values[7] if len(values) > 7 else None)


def _rebuild_parameter(values: tuple[Any, ...]) -> object:
    _arguments(values, 3, 4)
    if not isinstance(values[0], TensorDescription | UnsupportedTensor):
        raise FormatError(f"expected a tensor, found {kind_of(values[0])}")
    return values[0]


def _rebuild_from_type(values: tuple[Any, ...]) -> object:
    _arguments(values, 4, 4)
    function, new_type, arguments = values[:3]
    if str(new_type) not in _TENSOR_TYPES or not isinstance(new_type, GlobalName):
        raise UnsafeFileError(
            f"the file holds a tensor of the class {kind_of(new_type)}, which needs its code; {WAY_OUT}"
        )
    if not isinstance(function, GlobalName) or str(function) not in _TENSOR_CALLS:
        raise UnsafeFileError(f"the file asks to have {kind_of(function)} called to make a tensor; {WAY_OUT}")
    if not isinstance(arguments, tuple):
        raise FormatError(f"expected a tuple of arguments, found {kind_of(arguments)}")
    return _TENSOR_CALLS[str(function)](arguments)


def _unsupported(kind: str) -> Callable[[tuple[Any, ...]], object]:
    return lambda values: UnsupportedTensor(f"it is a {kind} tensor")


_TENSOR_TYPES: Final = ("torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer")

_TENSOR_CALLS: Final[dict[str, Callable[[tuple[Any, ...]], object]]] = {
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor_v2,
    "torch._utils._rebuild_tensor_v3": _rebuild_tensor_v3,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
    "torch._utils._rebuild_qtensor": _unsupported("quantized"),
    "torch._utils._rebuild_sparse_tensor": _unsupported("sparse"),
    "torch._utils._rebuild_meta_tensor_no_storage": _unsupported("meta (without values)"),
    "torch._utils._rebuild_nested_tensor": _unsupported("nested"),
}


def _ordered_dict(values: tuple[Any, ...]) -> object:
    _arguments(values, 0, 1)
    result = OrderedDictDescription()
    if values:  # Python 2 wrote the items as one list of pairs.
        if not isinstance(values[0], list):
            raise FormatError(f"expected a list of pairs, found {kind_of(values[0])}")
        for pair in values[0]:
            if not isinstance(pair, list | tuple) or len(pair) != 2 or not sound_key(pair[0]):
                raise FormatError("expected pairs of a plain key and a value")
            result[pair[0]] = pair[1]
    return result


def _counter(values: tuple[Any, ...]) -> object:
    _arguments(values, 0, 1)
    if values and type(values[0]) is not dict:
        raise FormatError(f"expected a dict, found {kind_of(values[0])}")
    return dict(values[0]) if values else {}


def _default_dict(values: tuple[Any, ...]) -> object:
    _arguments(values, 0, 1)  # the default is a name, and stays one
    return {}


def _elements(values: tuple[Any, ...]) -> list[Any]:
    _arguments(values, 0, 1)
    if not values:
        return []
    if not isinstance(values[0], list | tuple) or not all(sound_key(element) for element in values[0]):
        raise FormatError("expected a list of plain values")
    return list(values[0])


def _bytes(values: tuple[Any, ...]) -> object:
    _arguments(values, 0, 1)
    if values and not isinstance(values[0], bytes):
        raise FormatError(f"expected bytes, found {kind_of(values[0])}")
    return values[0] if values else b""


def _encode(values: tuple[Any, ...]) -> object:
    # How protocol 2, which has no bytes, writes them: as text of the same code points.
    _arguments(values, 2, 2)
    text, codec = values
    if not isinstance(text, str) or codec not in ("latin1", "latin-1"):
        raise FormatError('expected text and the codec "latin1"')
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        raise FormatError("expected text of code points below 256") from None


def _complex(values: tuple[Any, ...]) -> object:
    _arguments(values, 2, 2)
    if not all(type(part) is float for part in values):
        raise FormatError("expected two real numbers")
    return complex(*values)


def _size(values: tuple[Any, ...]) -> object:
    _arguments(values, 1, 1)
    return _counts("torch.Size", tuple(values[0]) if isinstance(values[0], list) else values[0])


def _device(values: tuple[Any, ...]) -> object:
    _arguments(values, 1, 2)
    kind = _ascii(values[0])
    if not isinstance(kind, str):
        raise FormatError(f"expected a device's type to be a string, found {kind_of(kind)}")
    return DeviceDescription(kind if len(values) == 1 else f"{kind}:{_count('the index of a device', values[1])}")


def _layout(values: tuple[Any, ...]) -> object:
    _arguments(values, 1, 1)
    name = _ascii(values[0])
    if not isinstance(name, str) or not name.startswith("torch."):
        raise FormatError(f"expected the name of a layout of torch, found {kind_of(name)}")
    return GlobalName("torch", name.removeprefix("torch."))


def _numpy_dtype(values: tuple[Any, ...]) -> object:
    _arguments(values, 1, 3)
    code = _ascii(values[0])
    if not isinstance(code, str):
        raise FormatError(f"expected the code of a NumPy dtype to be a string, found {kind_of(code)}")
    return NumpyDtype(code)


def _numpy_scalar(values: tuple[Any, ...]) -> object:
    _arguments(values, 2, 2)
    dtype, data = values
    data = data.encode("latin-1", "replace") if isinstance(data, str) else data
    if not isinstance(dtype, NumpyDtype) or not isinstance(data, bytes):
        raise FormatError(f"expected a NumPy dtype and bytes, found {kind_of(dtype)} and {kind_of(data)}")
    return NumpyScalar(dtype, data)


def _numpy_array(values: tuple[Any, ...]) -> object:
    _arguments(values, 3, 3)
    if values[0] != GlobalName("numpy", "ndarray"):
        raise UnsafeFileError(
            f"the file holds an array of the class {kind_of(values[0])}, which needs its code; {WAY_OUT}"
        )
    return NumpyArray()


#: Every function and class that a pickle may have called, and what describes the result.
CALLS: Final[dict[str, Callable[[tuple[Any, ...]], object]]] = {
    **_TENSOR_CALLS,
    "torch._tensor._rebuild_from_type": _rebuild_from_type,
    "torch._tensor._rebuild_from_type_v2": _rebuild_from_type,
    "torch.Size": _size,
    "torch.device": _device,
    "torch.serialization._get_layout": _layout,
    "collections.OrderedDict": _ordered_dict,
    "collections.Counter": _counter,
    "collections.defaultdict": _default_dict,
    "builtins.set": lambda values: set(_elements(values)),
    "builtins.frozenset": lambda values: frozenset(_elements(values)),
    "builtins.bytes": _bytes,
    "builtins.bytearray": _bytes,
    "builtins.complex": _complex,
    "_codecs.encode": _encode,
    "numpy.dtype": _numpy_dtype,
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray.scalar": _numpy_scalar,
    "numpy.core.multiarray._reconstruct": _numpy_array,
    "numpy._core.multiarray._reconstruct": _numpy_array,
}

#: Classes that a pickle may make an object of: bags of values, read as mappings.
NEW_OBJECTS: Final = frozenset({"argparse.Namespace"})


def build(target: object, state: object) -> None:
    """Add ``state``, the operand of BUILD, to a description.

    Parameters
    ----------
    target
        What the state belongs to. Only our own descriptions take one.
    state
        The state, inert itself.

    Raises
    ------
    UnsafeFileError
        If the target takes no state, or not this one.
    FormatError
        If the state is not of the form that its class writes.
    """
    if isinstance(target, OrderedDictDescription):
        if not isinstance(state, dict):
            raise FormatError(f"expected the state of an OrderedDict to be a dict, found {kind_of(state)}")
        for name in state:
            if name != "_metadata":
                shown = repr(name[:80]) if isinstance(name, str) else kind_of(name)
                raise UnsafeFileError(
                    f"the file asks to set the attribute {shown} of a collections.OrderedDict; {WAY_OUT}"
                )
        metadata = state.get("_metadata", {})
        target.metadata = metadata if isinstance(metadata, dict) else {}
    elif isinstance(target, Record):
        if type(state) is not dict:
            raise FormatError(f"expected the state of {kind_of(target)} to be a dict, found {kind_of(state)}")
        target.values.update(state)
    elif isinstance(target, NumpyDtype):
        # (version, byte order, sub-array, names, fields, ...): all but the byte order are for structured types.
        if not isinstance(state, tuple) or len(state) < 2 or _ascii(state[1]) not in ("<", ">", "=", "|"):
            raise FormatError("expected the state of a NumPy dtype to give a byte order")
        target.byteorder = str(_ascii(state[1]))
    elif isinstance(target, NumpyArray):
        if not isinstance(state, tuple) or len(state) != 5:
            raise FormatError("expected the state of a NumPy array to have five parts")
        _, shape, dtype, fortran, data = state
        if not isinstance(dtype, NumpyDtype):
            raise FormatError(f"expected a NumPy dtype, found {kind_of(dtype)}")
        if isinstance(data, str):
            data = data.encode("latin-1", "replace")
        target.shape, target.dtype, target.fortran = _counts("the shape", shape), dtype, fortran is True
        # An array of objects has a list here: no numbers, and of use to the one reader that asks for objects.
        target.data = data if isinstance(data, bytes) else b""
        target.objects = data if isinstance(data, list) else None
    else:
        raise UnsafeFileError(f"the file asks to set the state of {kind_of(target)}; {WAY_OUT}")
