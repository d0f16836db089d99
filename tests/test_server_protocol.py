"""The Open Inference Protocol and the messages of streams, as pure functions: what goes in comes out, or is refused."""

from __future__ import annotations

import contextlib
import json
import math
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import lstm_engine as le
from lstm_engine.arguments import TensorSpec
from lstm_engine.server.errors import RequestError, status_of
from lstm_engine.server.frames import StepTensors, decode_call, encode_reply
from lstm_engine.server.options import ServerOptions
from lstm_engine.server.protocol import (
    DATATYPES,
    array_of_bytes,
    array_of_json,
    bytes_of,
    datatype_of,
    decode_request,
    described,
    encode_response,
    json_of,
    json_text,
)

OPTIONS = ServerOptions(model="m", max_json=100_000, max_body=1_000_000, max_steps=1000)
INPUT = TensorSpec("x", (None, None, 3), "float32")
OUTPUTS = [TensorSpec("y", (None, 2), "float32"), TensorSpec("z", (None, 1), "float64")]

#: Arrays of every datatype, NaN and infinities among them.
ARRAYS = st.sampled_from(sorted(DATATYPES)).flatmap(
    lambda name: st.tuples(
        st.just(name), hnp.arrays(DATATYPES[name], hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    )
)


def body(*tensors: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"inputs": tensors, **more}).encode()


def tensor(**changes: Any) -> dict[str, Any]:
    whole = {"name": "x", "shape": [1, 2, 3], "datatype": "FP32", "data": [1, 2, 3, 4, 5, 6], **changes}
    return {key: value for key, value in whole.items() if value is not ...}


def decode(content: bytes, length: int | str | None = None, inputs: Any = (INPUT,)) -> Any:
    return decode_request(content, None if length is None else str(length), inputs, OUTPUTS, OPTIONS)


# --- Tensors ----------------------------------------------------------------------------------------------------------


@given(ARRAYS)
def test_binary_data_carry_every_bit(given: tuple[str, Any]) -> None:
    name, array = given
    assert datatype_of(array.dtype) == name
    found = array_of_bytes(bytes_of(array), name, array.shape, "x")
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    assert found.tobytes() == array.tobytes()


@given(ARRAYS)
def test_json_carries_every_value(given: tuple[str, Any]) -> None:
    name, array = given
    text = json_text(json_of(array))
    found = array_of_json(json.loads(text), name, "x")
    assert found.dtype == array.dtype
    # Of an empty array JSON keeps the outer axes alone.
    assert found.shape == array.shape or array.size == 0
    np.testing.assert_array_equal(found.reshape(array.shape), array)


def test_the_upper_halves_of_floats() -> None:
    halves = struct.pack("<3H", 0x3F80, 0xC000, 0x7F80)
    assert array_of_bytes(halves, "BF16", (3,), "x").tolist() == [1.0, -2.0, math.inf]
    assert array_of_json([1.0, -2.0], "BF16", "x").dtype == np.float32


@pytest.mark.parametrize(
    ("datatype", "data", "phrase"),
    [
        ("FP32", [[1, 2], [3]], "ragged"),
        ("FP32", [1, "two"], "found the text 'two'"),
        ("FP32", [1, None], "found null"),
        ("FP32", [{}], "found an object"),
        ("FP32", [True, False], "found booleans"),
        ("FP32", [1e39], "within the range of float32"),
        ("FP16", [70000], "within the range of float16"),
        ("INT8", [128], "from -128 to 127"),
        ("UINT8", [-1], "from 0 to 255"),
        ("INT64", [1.5], "whole numbers"),
        ("INT64", ["NaN"], "whole numbers"),
        ("INT64", [2**70], "whole numbers"),
        ("BOOL", [2], "booleans"),
        ("BOOL", [0.5], "booleans"),
    ],
)
def test_values_that_a_datatype_does_not_have(datatype: str, data: Any, phrase: str) -> None:
    with pytest.raises(le.ShapeError, match=r"^x: expected .*" + phrase):
        array_of_json(data, datatype, "x")


def test_metadata_names_open_sizes() -> None:
    assert described([INPUT]) == [{"name": "x", "datatype": "FP32", "shape": [-1, -1, 3]}]


# --- Requests ---------------------------------------------------------------------------------------------------------


def test_a_request_in_json() -> None:
    asked = decode(
        body(tensor(), id="seven", outputs=[{"name": "z"}, {"name": "y", "parameters": {"binary_data": True}}])
    )
    assert asked.id == "seven"
    assert asked.timeout is None
    assert asked.outputs == (("z", False), ("y", True))
    np.testing.assert_array_equal(asked.inputs["x"], np.arange(1, 7, dtype=np.float32).reshape(1, 2, 3))
    nested = decode(body(tensor(data=[[[1, 2, 3], [4, 5, "NaN"]]]), parameters={"timeout": 1500}))
    assert np.isnan(nested.inputs["x"][0, 1, 2])
    assert nested.timeout == 0.0015
    assert nested.outputs == (("y", False), ("z", False))


@given(
    hnp.arrays(np.float32, st.tuples(st.integers(0, 4), st.integers(0, 4), st.just(3))),
    hnp.arrays(np.int64, hnp.array_shapes(max_dims=3)),
    st.booleans(),
)
def test_tensors_behind_the_json(x: Any, tokens: Any, all_binary: bool) -> None:
    specs = [INPUT, TensorSpec("tokens", tokens.shape, "int64")]
    first = {"name": "x", "shape": list(x.shape), "datatype": "FP32", "parameters": {"binary_data_size": x.nbytes}}
    second: dict[str, Any] = {"name": "tokens", "shape": list(tokens.shape), "datatype": "INT64"}
    if all_binary:
        second["parameters"] = {"binary_data_size": tokens.nbytes}
    else:
        second["data"] = tokens.tolist()
    head = body(second, first, parameters={"binary_data_output": True})
    tail = (tokens.tobytes() if all_binary else b"") + x.tobytes()
    asked = decode(head + tail, len(head), specs)
    assert list(asked.inputs) == ["x", "tokens"]
    assert asked.inputs["x"].tobytes() == x.tobytes()
    np.testing.assert_array_equal(asked.inputs["tokens"], tokens)
    assert asked.outputs == (("y", True), ("z", True))


@pytest.mark.parametrize(
    ("content", "phrase"),
    [
        (b"", "body: expected JSON"),
        (b"\xff\xfe", "body: expected JSON"),
        (b"[]", "body: expected a JSON object, found a list"),
        (b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [NaN]}]}', '"NaN", "Infinity"'),
        (b'{"inputs": [], "inputs": []}', "twice"),
        (b"[" * 5000, "deep"),
        (b"{}", "inputs: expected a list of tensors, found null"),
        (body(), "inputs: expected x, found none"),
        (body(tensor(name="w")), "inputs: expected x, found w"),
        (body(tensor(), tensor()), "found 'x' twice"),
        (body(tensor(name=...)), r"inputs\[0\]: expected a name"),
        (json.dumps({"inputs": [7]}).encode(), r"inputs\[0\]: expected an object, found a number"),
        (body(tensor(datatype="BYTES")), "datatype: expected one of BOOL"),
        (body(tensor(datatype=["FP32"])), "datatype: expected one of BOOL"),
        (body(tensor(shape="wide")), "shape: expected a list of sizes"),
        (body(tensor(shape=[1, -2, 3])), "shape: expected a list of sizes"),
        (body(tensor(shape=[True, 2, 3])), "shape: expected a list of sizes"),
        (body(tensor(shape=[1] * 9)), "at most 8 axes"),
        (body(tensor(shape=[0, 10**12, 3], data=[])), "what a body can hold"),
        (body(tensor(shape=[400, 3, 3], data=[0] * 3600)), "at most 1,000 steps"),
        (body(tensor(shape=[0, 2000, 3], data=[])), "at most 1,000 steps"),
        (body(tensor(data=[1, 2, 3])), "expected 6 values"),
        (body(tensor(data=[[1, 2, 3], [4, 5, 6]])), "expected 6 values"),
        (body(tensor(data=...)), "data: expected a list, found null"),
        (body(tensor(data="1 2 3")), "data: expected a list, found a text"),
        (body(tensor(parameters={"binary_data_size": 24})), "found both"),
        (body(tensor(data=..., parameters={"binary_data_size": 24})), "0 are left"),
        (body(tensor(data=..., parameters={"binary_data_size": -1})), "binary_data_size"),
        (body(tensor(parameters=[])), "parameters: expected an object"),
        (body(tensor(), parameters={"sequence_id": 4}), "/v2/models/NAME/stream"),
        (body(tensor(), parameters={"timeout": "soon"}), "microseconds"),
        (body(tensor(), parameters={"binary_data_output": 1}), "true or false"),
        (body(tensor(), id=4), "id: expected a text"),
        (body(tensor(), outputs=[{"name": "w"}]), "of y, z; found 'w'"),
        (body(tensor(), outputs=[{"name": "y"}, {"name": "y"}]), "each once"),
        (body(tensor(), outputs=7), "outputs: expected a list"),
        (body(tensor(), outputs=[{"name": "y", "parameters": {"classification": 3}}]), "no classification"),
    ],
)
def test_requests_that_are_refused(content: bytes, phrase: str) -> None:
    with pytest.raises(le.LstmEngineError, match=phrase) as caught:
        decode(content)
    assert status_of(caught.value) in (400, 413)


@pytest.mark.parametrize("length", ["", "x", "-1", "0", "1e3", "99999999999999", "+5", "٣"])
def test_lengths_of_the_json_that_are_refused(length: str) -> None:
    with pytest.raises(le.FormatError, match="Inference-Header-Content-Length"):
        decode(body(tensor()), length)


def test_bytes_of_no_tensor_are_refused() -> None:
    head = body(tensor())
    with pytest.raises(le.FormatError, match="found 3 of no tensor"):
        decode(head + b"abc", len(head))
    head = body(tensor(data=..., parameters={"binary_data_size": 23}))
    with pytest.raises(le.ShapeError, match="expected 24 bytes"):
        decode(head + bytes(23), len(head))


def test_too_much_json_is_refused() -> None:
    with pytest.raises(RequestError, match="send tensors as binary data") as caught:
        decode(body(tensor(), padding="x" * 100_000))
    assert caught.value.status == 413


@given(st.binary(max_size=300), st.integers(0, 300))
def test_any_bytes_are_refused_and_nothing_else(content: bytes, length: int) -> None:
    with pytest.raises(le.LstmEngineError):
        decode(content, length)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["x", "FP32", "INT8"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
PLACES = st.sampled_from(["name", "shape", "datatype", "data", "parameters"])


@given(
    st.dictionaries(PLACES, JSON, max_size=3), st.dictionaries(st.sampled_from(["id", "outputs", "parameters"]), JSON)
)
def test_requests_with_anything_in_a_place(changes: dict[str, Any], more: dict[str, Any]) -> None:
    """Each is taken or refused by one of our errors."""
    with contextlib.suppress(le.LstmEngineError):
        assert decode(body(tensor(**changes), **more)).inputs["x"].ndim <= 8


# --- Answers ----------------------------------------------------------------------------------------------------------


def test_an_answer_with_json_and_binary_outputs() -> None:
    y, z = np.array([[1, math.nan]], np.float32), np.array([[-math.inf]])
    content, length = encode_response({"model_name": "m"}, [("y", y, False), ("z", z, True)], 10)
    assert length is not None
    assert json.loads(content[:length]) == {
        "model_name": "m",
        "outputs": [
            {"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [1, "NaN"]},
            {"name": "z", "datatype": "FP64", "shape": [1, 1], "parameters": {"binary_data_size": 8}},
        ],
    }
    assert content[length:] == z.tobytes()
    content, length = encode_response({}, [("y", y, False)], 10)
    assert length is None
    # What NumPy, and so other clients, make of the texts.
    np.testing.assert_array_equal(np.array(json.loads(content)["outputs"][0]["data"], np.float32), y[0])


def test_too_many_values_for_json() -> None:
    y = np.zeros((3, 4), np.float32)
    with pytest.raises(RequestError, match="binary_data_output"):
        encode_response({}, [("y", y, False)], 11)
    encode_response({}, [("y", y, True)], 0)


# --- Messages of streams ----------------------------------------------------------------------------------------------


def binary(head: dict[str, Any], payload: bytes = b"") -> bytes:
    found = encode_reply(head, payload, True)
    assert isinstance(found, bytes)
    return found


def test_messages() -> None:
    call = decode_call('{"op": "step", "stream": "a", "id": 7, "data": [1, 2], "timeout": 0.5}', OPTIONS)
    assert (call.op, call.stream, call.id, call.data, call.timeout, call.binary) == ("step", "a", 7, [1, 2], 0.5, False)
    call = decode_call(binary({"op": "run", "stream": "a"}, b"1234"), OPTIONS)
    assert (bytes(call.data), call.binary) == (b"1234", True)
    assert decode_call('{"op": "open", "stream": "a", "snapshot": "QUI="}', OPTIONS).snapshot == b"AB"
    assert decode_call(binary({"op": "open", "stream": "a"}), OPTIONS).snapshot is None
    assert decode_call(binary({"op": "restore", "stream": "a"}, b"AB"), OPTIONS).snapshot == b"AB"


@pytest.mark.parametrize(
    ("message", "phrase"),
    [
        ("", "expected JSON"),
        ("[]", "expected a JSON object"),
        ("{}", "op: expected one of open"),
        ('{"op": "fly", "stream": "a"}', "op: expected one of open"),
        ('{"op": ["step"], "stream": "a"}', "op: expected one of open"),
        ('{"op": "close"}', "stream: expected a text"),
        ('{"op": "close", "stream": ""}', "stream: expected a text"),
        ('{"op": "close", "stream": 4}', "stream: expected a text"),
        ('{"op": "close", "stream": "a", "id": 1.5}', "id: expected"),
        ('{"op": "close", "stream": "a", "ids": 1}', "'ids' too"),
        ('{"op": "step", "stream": "a"}', "data: expected some"),
        ('{"op": "close", "stream": "a", "data": [1]}', "data: expected none"),
        ('{"op": "step", "stream": "a", "data": [NaN]}', '"NaN"'),
        ('{"op": "step", "stream": "a", "data": [1], "timeout": -1}', "timeout: expected seconds"),
        ('{"op": "restore", "stream": "a"}', "snapshot: expected one"),
        ('{"op": "restore", "stream": "a", "snapshot": "%"}', "base64"),
        ('{"op": "restore", "stream": "a", "snapshot": "Ä"}', "base64"),
        ('{"op": "close", "stream": "a", "snapshot": "QUI="}', "snapshot: expected none"),
        (b"", "first 4 bytes"),
        (b"\x05\x00\x00\x00{}", "found 6 bytes and 5"),
        (b"\xff\xff\xff\xff{}", "first 4 bytes"),
        (binary({"op": "step", "stream": "a", "data": [1]}, b"1234"), "found them in it"),
        (binary({"op": "close", "stream": "a"}, b"1234"), "found 4 bytes"),
        (json.dumps({"op": "close", "stream": "a" * 100_000}), "at most 100,000 bytes"),
    ],
)
def test_messages_that_are_refused(message: str | bytes, phrase: str) -> None:
    with pytest.raises(le.LstmEngineError, match=phrase):
        decode_call(message, OPTIONS)


@given(
    st.dictionaries(st.sampled_from(["op", "stream", "id", "data", "timeout", "snapshot"]), JSON), st.binary(max_size=9)
)
def test_any_message_is_taken_or_refused(head: dict[str, Any], payload: bytes) -> None:
    text = json.dumps(head)
    framed = len(text.encode()).to_bytes(4, "little") + text.encode() + payload
    for message in (text, framed, framed[:-1], payload):
        try:
            call = decode_call(message, OPTIONS)
        except le.LstmEngineError:
            continue
        assert isinstance(call.stream, str)


TWO = StepTensors((("a", "FP32", (2,)), ("b", "INT64", ())), ("y", "z"))
ONE = StepTensors((("x", "FP32", (3,)),), ("y",))


def test_steps_in_json_and_binary() -> None:
    np.testing.assert_array_equal(ONE.decode([1, 2, "NaN"], time=False), [1, 2, np.nan])
    a, b = np.arange(6, dtype=np.float32).reshape(3, 2), np.arange(3)
    for data in ({"a": a.tolist(), "b": b.tolist()}, memoryview(a.tobytes() + b.tobytes())):
        found = TWO.decode(data, time=True)
        np.testing.assert_array_equal(found["a"], a)
        np.testing.assert_array_equal(found["b"], b)
    found = TWO.decode(memoryview(a[0].tobytes() + b[:1].tobytes()), time=False)
    assert (found["a"].shape, found["b"].shape) == ((2,), ())
    assert len(ONE.decode(memoryview(b""), time=True)) == 0  # what has no step the Batcher refuses


@pytest.mark.parametrize(
    ("tensors", "data", "phrase"),
    [
        (ONE, {"y": [1]}, "object with x, found y"),
        (TWO, [1, 2], "object with a, b, found no object"),
        (ONE, memoryview(bytes(13)), "12 bytes for each step, .*found 13"),
        (TWO, memoryview(bytes(15)), "16 bytes"),
        (StepTensors((("x", "FP32", (None,)),), ("y",)), memoryview(bytes(4)), "expected JSON"),
    ],
)
def test_steps_that_are_refused(tensors: StepTensors, data: Any, phrase: str) -> None:
    with pytest.raises(le.ShapeError, match=phrase):
        tensors.decode(data, time=True)


def test_one_step_is_one() -> None:
    with pytest.raises(le.ShapeError, match=r"12 bytes, .*found 24"):
        ONE.decode(memoryview(bytes(24)), time=False)


def test_replies() -> None:
    y, z = np.ones((2, 1), np.float32), np.zeros(2)
    assert ONE.encode(y, False) == ({"data": [[1.0], [1.0]]}, None)
    assert TWO.encode((y, z), False) == ({"data": {"y": [[1.0], [1.0]], "z": [0.0, 0.0]}}, None)
    assert ONE.encode(y, True) == ({"shape": [2, 1]}, y.tobytes())
    assert TWO.encode((y, z), True) == ({"shape": {"y": [2, 1], "z": [2]}}, y.tobytes() + z.tobytes())
