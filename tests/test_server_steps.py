"""Binary steps whose head is known: the replies of the long way, byte for byte, and nothing that was not checked."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from lstm_engine.server.frames import StepTensors, decode_call, encode_reply
from lstm_engine.server.options import ServerOptions
from lstm_engine.server.steps import StepHead, StepHeads

OPTIONS = ServerOptions(model="m.keras")
ONE = StepTensors((("x", "FP32", (3,)),), ("y",), 8)


def message(head: dict[str, Any], payload: bytes = b"12345678") -> bytes:
    found = encode_reply({"op": "step", **head}, payload, True)
    assert isinstance(found, bytes)
    return found


def learned(heads: StepHeads, content: bytes) -> StepHead:
    return heads.learn(content, decode_call(content, OPTIONS))


@pytest.mark.parametrize(
    "head", [{"stream": "a"}, {"stream": 'ä"\\'}, {"stream": "a", "id": 7}, {"id": 'x"', "stream": "a", "timeout": 0.5}]
)
@pytest.mark.parametrize(
    "y", [np.arange(6, dtype=np.float32).reshape(2, 3)[:, 1], np.ones((2, 1), ">f8"), np.array(1.5)]
)
def test_replies_are_those_of_the_long_way(head: dict[str, Any], y: Any) -> None:
    said, payload = ONE.encode(y, True)
    wanted = encode_reply(
        {**{key: head[key] for key in ("id", "stream") if key in head}, "steps": 12, **said}, payload, True
    )
    assert learned(StepHeads(2), message(head)).reply(12, y) == wanted


def test_a_head_is_known_by_all_of_its_bytes() -> None:
    heads = StepHeads(10)
    content = message({"stream": "a", "timeout": 2})
    assert heads.find(content) is None
    head = learned(heads, content)
    assert heads.find(content) is heads.find(message({"stream": "a", "timeout": 2}, b"other")) is head
    assert (head.stream, head.timeout, content[head.length :]) == ("a", 2, b"12345678")
    for other in (
        message({"stream": "a"}), message({"stream": "b", "timeout": 2}), content[: head.length - 1], b"", b"\xff" * 4,
        (head.length - 5).to_bytes(4, "little") + content[4:], (head.length - 3).to_bytes(4, "little") + content[4:],
    ):  # fmt: skip
        assert heads.find(other) is None


def test_no_more_is_remembered_than_may_be() -> None:
    heads = StepHeads(2)
    contents = [message({"stream": name}) for name in "abc"]
    for content in contents:
        learned(heads, content)
    assert [heads.find(content) is not None for content in contents] == [False, False, True]
    for once in (message({"stream": "a", "id": 1}), message({"stream": "€" * 150})):
        learned(heads, once)  # one that will not come again, and a long one
        assert heads.find(once) is None


@pytest.mark.parametrize(
    ("tensors", "size"),
    [
        (ONE, 12),
        (StepTensors((("x", "FP64", (2, 2)),), ("y",)), 32),
        (StepTensors((("x", "INT32", ()),), ("y",)), 4),
    ],
)
def test_the_data_of_a_plain_step(tensors: StepTensors, size: int) -> None:
    data = np.random.default_rng(1).bytes(size)
    found, wanted = tensors.plain_step(b"head" + data, 4), tensors.decode(memoryview(data), time=False)
    assert found is not None
    assert (found.dtype, found.shape, found.tobytes()) == (wanted.dtype, wanted.shape, data)
    assert all(tensors.plain_step(other, 0) is None for other in (data[:-1], data * 2, b""))


@pytest.mark.parametrize(
    "tensors",
    [
        StepTensors((("x", "BOOL", (3,)),), ("y",)),
        StepTensors((("x", "FP32", (None,)),), ("y",)),
        StepTensors((("x", "FP32", (0,)),), ("y",)),
        StepTensors((("x", "FP32", (3,)), ("z", "FP32", (3,))), ("y",)),
        StepTensors((("x", "FP32", (3,)),), ("y", "z")),
    ],
)
def test_what_goes_the_long_way(tensors: StepTensors) -> None:
    assert all(tensors.plain_step(bytes(size), 0) is None for size in (0, 3, 4, 12, 24))


def test_json_of_a_reply_is_what_it_was() -> None:
    head = learned(StepHeads(2), message({"stream": "a"})).reply(3, np.zeros(2, np.float32))
    assert json.loads(head[4:-8]) == {"stream": "a", "steps": 3, "shape": [2]}
