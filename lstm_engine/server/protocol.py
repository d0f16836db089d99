"""The Open Inference Protocol, version 2, over REST: bytes to arrays and back. Pure functions, no server in them.

A body is JSON, or JSON with tensors behind it as they lie in memory (the binary tensor extension): the header
``Inference-Header-Content-Length`` then says how long the JSON is. Numbers are little-endian, arrays lie row by row.

JSON has no NaN and no infinities. They are written as Protocol Buffers writes them, as the texts ``"NaN"``,
``"Infinity"`` and ``"-Infinity"``, in both directions; NumPy reads these too. Binary tensors carry them as they are.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from lstm_engine.arrays import as_float_array
from lstm_engine.errors import FormatError, ShapeError
from lstm_engine.formats.json_text import parse_json

from .errors import RequestError

if TYPE_CHECKING:
    from lstm_engine.arguments import TensorSpec

    from .options import ServerOptions

__all__ = [
    "DATATYPES",
    "InferenceRequest",
    "array_of_bytes",
    "array_of_json",
    "bytes_each",
    "bytes_of",
    "check_size",
    "datatype_of",
    "decode_request",
    "described",
    "encode_response",
    "json_of",
    "json_text",
    "read_json",
]

Array = NDArray[Any]

#: The protocol's types and NumPy's. BF16, the upper half of a float32, is known to the protocol alone.
DATATYPES: Final = {
    "BOOL": np.dtype(np.bool_),
    **{f"UINT{bits}": np.dtype(f"<u{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"INT{bits}": np.dtype(f"<i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": np.dtype(f"<f{bits // 8}") for bits in (16, 32, 64)},
}
_NAMES: Final = {dtype: name for name, dtype in DATATYPES.items()}

_TEXTS: Final = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}

#: Parameters of a request that would change what is computed, and what to do instead.
_REFUSED: Final = {
    "sequence_id": "streams with a state are at /v2/models/NAME/stream",
    "priority": "requests take turns, and none comes before another",
    "classification": "ask for the output itself, and take its largest values",
    "shared_memory_region": "send the tensor in the body",
}


@dataclass(frozen=True, slots=True)
class InferenceRequest:
    """What a client asks a model for.

    Attributes
    ----------
    id
        The client's name for it; None for none.
    inputs
        The model's inputs by name, in its order.
    outputs
        The outputs that are wanted, in the client's order, and whether each is to be binary.
    timeout
        Seconds in which it is of use; None for ever.
    """

    id: str | None
    inputs: dict[str, Array]
    outputs: tuple[tuple[str, bool], ...]
    timeout: float | None


# --- Tensors ----------------------------------------------------------------------------------------------------------


def datatype_of(dtype: str | np.dtype[Any]) -> str:
    """Return the protocol's name of a dtype."""
    return _NAMES[np.dtype(dtype).newbyteorder("<")]


def described(specs: Sequence[TensorSpec]) -> list[dict[str, Any]]:
    """Return inputs or outputs as metadata describes them: -1 is a size that the request decides."""
    return [
        {
            "name": spec.name,
            "datatype": datatype_of(spec.dtype),
            "shape": [-1 if size is None else size for size in spec.shape],
        }
        for spec in specs
    ]


def array_of_bytes(data: memoryview | bytes, datatype: str, shape: Sequence[int], name: str) -> Array:
    """Return the array that binary data hold; it is a view of them, but for BF16.

    Raises
    ------
    ShapeError
        If they have another length than the shape asks for, or are no booleans.
    """
    dtype = np.dtype("<u2") if datatype == "BF16" else DATATYPES[datatype]
    wanted = math.prod(shape) * dtype.itemsize
    if len(data) != wanted:
        raise ShapeError(
            f"{name}: expected {wanted:,} bytes for shape {list(shape)} of {datatype}, found {len(data):,}"
        )
    if datatype == "BOOL":
        array = np.frombuffer(data, np.uint8)
        if array.size and array.max() > 1:
            raise ShapeError(f"{name}: expected booleans as bytes 0 and 1, found {array.max()}")
        return array.view(np.bool_).reshape(shape)
    array = np.frombuffer(data, dtype).reshape(shape)
    if datatype == "BF16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array


def bytes_of(array: Array) -> bytes:
    """Return an array as binary data."""
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()


def array_of_json(data: Any, datatype: str, name: str) -> Array:
    """Return the array that JSON values hold, with the shape in which they are nested.

    Raises
    ------
    ShapeError
        If they are ragged, or no values of the datatype.
    """
    try:
        array = np.asarray(data)
        if array.dtype.kind not in "iufb":
            array = np.asarray(_without_texts(data, name))
    except ShapeError:
        raise
    except (ValueError, OverflowError):
        raise ShapeError(f"{name}: expected numbers in lists of one length, found ragged lists") from None
    found, dtype = array.dtype.kind, np.dtype(np.float32) if datatype == "BF16" else DATATYPES[datatype]
    if array.size == 0:
        return array.astype(dtype)
    if dtype.kind == "f":
        if found not in "iuf":
            raise ShapeError(f"{name}: expected numbers, found {_kind(array)}")
        # Of the range alone, for JSON does not tell 3 from 3.0: rounded as a float would be.
        return as_float_array(array.astype(np.float64), name, None, dtype)
    if dtype.kind == "b":
        if found == "b":
            return array
        if found not in "iu" or array.min() < 0 or array.max() > 1:
            raise ShapeError(f"{name}: expected booleans, found {_kind(array)}")
        return array.astype(dtype)
    if found not in "iu":
        raise ShapeError(f"{name}: expected whole numbers for {datatype}, found {_kind(array)}")
    limits: Any = np.iinfo(dtype.str)
    least, greatest = int(array.min()), int(array.max())
    if least < limits.min or greatest > limits.max:
        raise ShapeError(
            f"{name}: expected {datatype}, from {limits.min} to {limits.max}, found values from {least} to {greatest}"
        )
    return array.astype(dtype)


def _kind(array: Array) -> str:
    return {"b": "booleans", "f": "fractions", "i": "other whole numbers", "u": "other whole numbers"}.get(
        array.dtype.kind, "something else"
    )


def _without_texts(data: Any, name: str) -> Any:
    """Return JSON values with floats in place of the texts for those that JSON has no number for."""
    if isinstance(data, list):
        return [_without_texts(value, name) for value in data]
    if isinstance(data, str) and data in _TEXTS:
        return _TEXTS[data]
    if isinstance(data, int | float):  # bool too
        return data
    shown = {type(None): "null", dict: "an object"}.get(type(data), f"the text {str(data)[:40]!r}")
    raise ShapeError(f'{name}: expected numbers, or the texts "NaN", "Infinity" and "-Infinity"; found {shown}')


def json_of(array: Array) -> Any:
    """Return an array as JSON values, nested as it is shaped."""
    values: Any = array.tolist()
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        return _with_texts(values)
    return values


def _with_texts(values: Any) -> Any:
    if isinstance(values, list):
        return [_with_texts(value) for value in values]
    if math.isfinite(values):
        return values
    return "NaN" if math.isnan(values) else "Infinity" if values > 0 else "-Infinity"


def read_json(text: bytes | memoryview | str, most: int, subject: str) -> dict[str, Any]:
    """Return the object that a JSON text holds.

    Raises
    ------
    RequestError
        413 if it is longer than ``most`` bytes.
    FormatError, UnsafeFileError
        If it is no JSON object, or says two things.
    """
    if len(text) > most:
        raise RequestError(
            413,
            f"{subject}: expected at most {most:,} bytes of JSON (--max-json), found {len(text):,}; send tensors as "
            "binary data",
        )
    try:
        value = parse_json(text if isinstance(text, str) else bytes(text), subject)
    except FormatError as error:
        if "constant" in str(error):
            raise FormatError(f'{error}; write it as the text "NaN", "Infinity" or "-Infinity"') from None
        raise
    if not isinstance(value, dict):
        raise FormatError(f"{subject}: expected a JSON object, found {_json_kind(value)}")
    return value


def _json_kind(value: Any) -> str:
    kinds = {bool: "a boolean", int: "a number", float: "a number", str: "a text", list: "a list", type(None): "null"}
    return kinds.get(type(value), "an object")


def json_text(value: Any) -> bytes:
    """Return a value as a JSON text without spaces."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


# --- Requests ---------------------------------------------------------------------------------------------------------


def decode_request(
    body: bytes,
    header_length: str | None,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    options: ServerOptions,
) -> InferenceRequest:
    """Return what a body asks for, checked against the protocol, the limits and the model's names.

    Whether shapes fit the model is for the model to say.

    Parameters
    ----------
    body
        The body.
    header_length
        The header ``Inference-Header-Content-Length``; None where there is none, and the body is JSON alone.
    inputs, outputs
        The model's.
    options
        The limits.

    Raises
    ------
    FormatError, UnsafeFileError
        If it is not as the protocol says.
    ShapeError
        If a tensor is not what it says of itself, or names are not the model's.
    RequestError
        413 if there is too much JSON.
    """
    length = len(body) if header_length is None else _header_length(header_length, len(body))
    head = read_json(memoryview(body)[:length], options.max_json, "body")
    parameters = _parameters(head, "body")
    reader = _Tensors(memoryview(body)[length:], options)
    found: dict[str, Array] = {}
    for place, entry in enumerate(_listed(head, "inputs")):
        name, array = reader.tensor(entry, f"inputs[{place}]")
        if name in found:
            raise ShapeError(f"inputs: expected each name once, found {name!r} twice")
        found[name] = array
    reader.check_end()
    names = [spec.name for spec in inputs]
    if set(found) != set(names):
        raise ShapeError(f"inputs: expected {', '.join(names)}, found {', '.join(found) or 'none'}")
    _check_sizes(found, inputs, outputs, options)
    return InferenceRequest(
        _text_or_none(head, "id"),
        {name: found[name] for name in names},
        _wanted(head, parameters, [spec.name for spec in outputs]),
        _timeout(parameters),
    )


def _header_length(text: str, body: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 12) or not 0 < int(text) <= body:
        raise FormatError(
            f"Inference-Header-Content-Length: expected the bytes of JSON at the beginning of the body, which has "
            f"{body:,}, found {text[:40]!r}"
        )
    return int(text)


class _Tensors:
    """Reads the tensors of a request, whose binary data lie one behind the other."""

    def __init__(self, binary: memoryview, options: ServerOptions) -> None:
        self._binary = binary
        self._begin = 0
        self._options = options

    def tensor(self, entry: Any, where: str) -> tuple[str, Array]:
        if not isinstance(entry, dict):
            raise FormatError(f"{where}: expected an object, found {_json_kind(entry)}")
        name = entry.get("name")
        if not isinstance(name, str):
            raise FormatError(f"{where}: expected a name, found {_json_kind(name)}")
        where = name if name.isprintable() and 0 < len(name) <= 128 else where
        shape, datatype = self._shape(entry.get("shape"), where), entry.get("datatype")
        if not isinstance(datatype, str) or datatype not in (*DATATYPES, "BF16"):
            raise FormatError(
                f"{where}: datatype: expected one of {', '.join(DATATYPES)}, BF16; found {datatype!r:.60}"
            )
        size = _parameters(entry, where).get("binary_data_size")
        if size is not None:
            if "data" in entry:
                raise FormatError(f"{where}: expected data or binary_data_size, found both")
            return name, array_of_bytes(self._next(size, where), datatype, shape, where)
        if not isinstance(entry.get("data"), list):
            raise FormatError(f"{where}: data: expected a list, found {_json_kind(entry.get('data'))}")
        array = array_of_json(entry["data"], datatype, where)
        flat = array.ndim == 1 and array.size == math.prod(shape)
        if array.shape != shape and not flat:
            raise ShapeError(
                f"{where}: expected {math.prod(shape):,} values for shape {list(shape)}, in one list or nested in that "
                f"shape, found shape {list(array.shape)}"
            )
        return name, array.reshape(shape)

    def _shape(self, shape: Any, where: str) -> tuple[int, ...]:
        if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
            raise FormatError(f"{where}: shape: expected a list of sizes, 0 or more each, found {str(shape)[:80]}")
        if len(shape) > self._options.max_rank:
            raise ShapeError(
                f"{where}: shape: expected at most {self._options.max_rank} axes (--max-rank), found {len(shape)}"
            )
        # An axis of size 0 must not make room for others of any size: outputs have those.
        if math.prod(max(size, 1) for size in shape) > self._options.max_body:
            raise RequestError(413, f"{where}: shape: expected what a body can hold (--max-body), found {shape}")
        return tuple(shape)

    def _next(self, size: Any, where: str) -> memoryview:
        left = len(self._binary) - self._begin
        if type(size) is not int or not 0 <= size <= left:
            raise FormatError(
                f"{where}: binary_data_size: expected a number of bytes, of which {left:,} are left in the body, "
                f"found {str(size)[:40]}"
            )
        self._begin += size
        return self._binary[self._begin - size : self._begin]

    def check_end(self) -> None:
        left = len(self._binary) - self._begin
        if left:
            raise FormatError(f"body: expected no bytes behind the tensors, found {left:,} of no tensor")


def check_size(name: str, steps: int, answer_bytes: int, options: ServerOptions) -> None:
    """Raise RequestError if a request is for more than may be.

    Parameters
    ----------
    name
        The input, for the message.
    steps
        Its rows times time steps.
    answer_bytes
        Bytes of the outputs.
    options
        The limits.
    """
    if steps > options.max_steps:
        raise RequestError(
            413,
            f"{name}: expected at most {options.max_steps:,} steps in a request (--max-steps), found {steps:,}; "
            "send fewer rows at a time, or a long sequence in chunks to a stream",
        )
    if answer_bytes > options.max_body:
        raise RequestError(
            413,
            f"{name}: expected outputs of at most {options.max_body:,} bytes (--max-body), found {steps:,} steps, "
            f"whose outputs take {answer_bytes:,}; send fewer rows at a time, or a long sequence in chunks to a stream",
        )


def _check_sizes(
    found: Mapping[str, Array], inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], options: ServerOptions
) -> None:
    """Raise RequestError if any input asks for too much, with axes of size 0 taken for 1, as outputs may have them."""
    for spec in inputs:
        sizes = [max(size, 1) for size in found[spec.name].shape]
        rows, steps = math.prod(sizes[:1]), math.prod(sizes[: 2 if spec.sequence else 1])
        answer = sum(
            (
                steps * bytes_each(output.shape[2:], output)
                if len(output.shape) > 2
                else rows * bytes_each(output.shape[1:], output)
            )
            for output in outputs
        )
        check_size(spec.name, steps, answer, options)


def bytes_each(shape: Sequence[int | None], spec: TensorSpec) -> int:
    """Return the bytes of a part of a tensor, as far as its shape is known."""
    return math.prod(size or 1 for size in shape) * np.dtype(spec.dtype).itemsize


def _listed(head: Mapping[str, Any], key: str) -> list[Any]:
    value = head.get(key)
    if not isinstance(value, list):
        raise FormatError(f"{key}: expected a list of tensors, found {_json_kind(value)}")
    return value


def _parameters(entry: Mapping[str, Any], where: str) -> dict[str, Any]:
    parameters = entry.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise FormatError(f"{where}: parameters: expected an object, found {_json_kind(parameters)}")
    for name, instead in _REFUSED.items():
        if parameters.get(name):
            raise FormatError(f"{where}: parameters: expected no {name}, which this server does not have; {instead}")
    return parameters


def _flag(parameters: Mapping[str, Any], name: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise FormatError(f"parameters: {name}: expected true or false, found {_json_kind(value)}")
    return value


def _text_or_none(head: Mapping[str, Any], key: str) -> str | None:
    value = head.get(key)
    if value is not None and not isinstance(value, str):
        raise FormatError(f"{key}: expected a text, found {_json_kind(value)}")
    return value


def _timeout(parameters: Mapping[str, Any]) -> float | None:
    """Return the seconds of Triton's parameter, which is in microseconds; 0 is for none."""
    value = parameters.get("timeout", 0)
    if type(value) is not int or value < 0:
        raise FormatError(f"parameters: timeout: expected microseconds, a whole number, found {str(value)[:40]}")
    return value / 1e6 if value else None


def _wanted(
    head: Mapping[str, Any], parameters: Mapping[str, Any], names: Sequence[str]
) -> tuple[tuple[str, bool], ...]:
    binary = _flag(parameters, "binary_data_output", False)
    if head.get("outputs") is None:
        return tuple((name, binary) for name in names)
    wanted: dict[str, bool] = {}
    for place, entry in enumerate(_listed(head, "outputs")):
        name = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(name, str) or name not in names or name in wanted:
            raise ShapeError(
                f"outputs[{place}]: expected the name of an output, each once, of {', '.join(names)}; "
                f"found {str(name)[:80]!r}"
            )
        wanted[name] = _flag(_parameters(entry, f"outputs[{place}]"), "binary_data", binary)
    # Nothing is wanted by nobody: an empty list is as none, as other servers of the protocol have it.
    return tuple(wanted.items()) or tuple((name, binary) for name in names)


# --- Responses --------------------------------------------------------------------------------------------------------


def encode_response(
    head: Mapping[str, Any], outputs: Sequence[tuple[str, Array, bool]], most_values: int
) -> tuple[bytes, int | None]:
    """Return the body of an answer, and the length of its JSON if tensors lie behind it.

    Parameters
    ----------
    head
        ``model_name`` and what else stands before the outputs.
    outputs
        Name, array, and whether it is to be binary.
    most_values
        Values that JSON may have.

    Raises
    ------
    RequestError
        413 if there are more.
    """
    values = sum(array.size for _, array, binary in outputs if not binary)
    if values > most_values:
        raise RequestError(
            413,
            f"outputs: expected at most {most_values:,} values in a JSON answer, a 16th of --max-json, found "
            f"{values:,}; ask for binary data, with the parameter binary_data_output",
        )
    tail: list[bytes] = []
    described: list[dict[str, Any]] = []
    for name, array, binary in outputs:
        entry: dict[str, Any] = {"name": name, "datatype": datatype_of(array.dtype), "shape": list(array.shape)}
        if binary:
            tail.append(bytes_of(array))
            entry["parameters"] = {"binary_data_size": len(tail[-1])}
        else:
            entry["data"] = json_of(array.reshape(-1))
        described.append(entry)
    text = json_text({**head, "outputs": described})
    return b"".join([text, *tail]), len(text) if tail else None
