"""What a replica of Ray Serve answers, by call and over HTTP, without Ray around it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from described import random

import lstm_engine as le
from lstm_engine.integrations.ray import Replica

pytestmark = pytest.mark.services

httpx = pytest.importorskip("httpx")
applications = pytest.importorskip("starlette.applications")


def sensor() -> Any:
    lstm = le.LSTM.from_weights(random(1, 2, 16), random(2, 4, 16), random(3, 16))
    return le.Sequential([lstm, le.LastStep(), le.Dense(random(4, 4, 3))])


def served(
    check: Callable[[Replica, Any], Awaitable[None]], model: Any = None, alone: bool = True, **batching: Any
) -> None:
    """Run a check with a replica and an HTTP client of it."""

    async def main() -> None:
        replica = Replica.__new__(Replica)
        await replica.__init__(model or sensor(), {}, batching, alone)  # type: ignore[misc,func-returns-value]
        application = applications.Starlette()
        application.add_route("/", replica.__call__, methods=["POST"])
        transport = httpx.ASGITransport(application)
        async with httpx.AsyncClient(transport=transport, base_url="http://replica") as client:
            await check(replica, client)
        await replica._batcher.aclose()

    asyncio.run(asyncio.wait_for(main(), 120))


def test_sequences_and_streams_over_http() -> None:
    model, x = sensor(), random(5, 4, 6, 2)

    async def check(replica: Replica, client: Any) -> None:
        answer = await client.post("/", json={"inputs": x.tolist()})
        assert answer.status_code == 200
        assert np.array(answer.json()["outputs"]["dense"], np.float32).tobytes() == model(x).tobytes()
        for now in range(6):
            answers = await asyncio.gather(*(
                client.post("/", json={"inputs": x[place, now].tolist(), "stream": f"s{place}"}) for place in range(4)
            ))  # fmt: skip
            found = np.array([answer.json()["outputs"]["dense"] for answer in answers], np.float32)
            assert found.tobytes() == model(x[:, : now + 1]).tobytes()
        assert (await replica.metrics())["streams"] == 4

    served(check, model)


def test_inputs_and_outputs_by_name() -> None:
    from cli_support import TWO_INPUTS

    model = le.load(TWO_INPUTS)
    with np.load(TWO_INPUTS.with_suffix(".npz"), allow_pickle=False) as archive:
        inputs = {name: archive[name] for name in ("readings", "place")}

    async def check(replica: Replica, client: Any) -> None:
        level, alarm = model(inputs)
        answer = await client.post("/", json={"inputs": {name: array.tolist() for name, array in inputs.items()}})
        outputs = answer.json()["outputs"]
        assert list(outputs) == ["level", "alarm"]
        assert np.array(outputs["level"], np.float32).tobytes() == level.tobytes()
        called = await replica({"inputs": inputs})
        assert called["outputs"]["alarm"].tobytes() == alarm.tobytes()

    served(check, model)


def test_an_lstm_gives_its_steps() -> None:
    lstm = le.LSTM.from_weights(random(1, 2, 16), random(2, 4, 16), random(3, 16))
    x = random(5, 4, 6, 2)

    async def check(replica: Replica, client: Any) -> None:
        assert (await replica.predict(x)).tobytes() == lstm(x)[0].tobytes()
        assert (await replica.run("a", x[0])).tobytes() == lstm(x[:1])[0].tobytes()
        saved = await replica.snapshot("a")
        await replica.restore("b", saved)
        assert (await replica.step("a", x[1, 0])).tobytes() == (await replica.step("b", x[1, 0])).tobytes()
        assert await replica.close("b")
        assert not await replica.close("b")

    served(check, lstm)


@pytest.mark.parametrize(
    ("body", "status", "phrase"),
    [
        (b"{", 400, "expected JSON"),
        (b"\xff", 400, "expected JSON"),
        (b"[" * 100_000, 400, "expected JSON"),
        ([1, 2], 400, "expected an object with inputs"),
        ({"inputs": [1], "more": 2}, 400, "found ['inputs', 'more']"),
        ({"stream": "a"}, 400, "expected an object with inputs"),
        ({"inputs": [[1.0, 2.0, 3.0]]}, 400, "x: expected"),
        ({"inputs": [[1.0], [2.0, 3.0]]}, 400, "lists of one length"),
        ({"inputs": "abc"}, 400, "x: expected"),
        ({"inputs": None}, 400, "x: expected"),
        ({"inputs": {"y": [1]}}, 400, "expected a dict with the names ['x']"),
        ({"inputs": [1.0, 2.0], "stream": ["a"]}, 400, "hashable"),
        ({"inputs": [[[1.0, 2.0]]], "timeout": 0}, 504, "timeout"),
        ({"inputs": [[[1.0, 2.0]]], "timeout": "soon"}, 400, "timeout: expected seconds"),
    ],
)
def test_bad_requests_are_answered(body: Any, status: int, phrase: str) -> None:
    async def check(replica: Replica, client: Any) -> None:
        content = {"content": body} if isinstance(body, bytes) else {"json": body}
        answer = await client.post("/", **content)
        assert answer.status_code == status, answer.text
        assert phrase in answer.json()["error"]
        assert (await replica.metrics())["streams"] == 0

    served(check)


def test_what_json_cannot_say_is_null() -> None:
    async def check(replica: Replica, client: Any) -> None:
        answer = await client.post("/", content=b'{"inputs": [[[NaN, 1.0]], [[1.0, 1.0]]]}')
        (first, second) = answer.json()["outputs"]["dense"]
        assert first == [None, None, None]
        assert None not in second

    served(check)


def test_overload_and_state_are_answered() -> None:
    async def check(replica: Replica, client: Any) -> None:
        assert (await client.post("/", json={"inputs": [1.0, 2.0], "stream": "a"})).status_code == 200
        answer = await client.post("/", json={"inputs": [1.0, 2.0], "stream": "b"})
        assert (answer.status_code, "max_streams=1" in answer.json()["error"]) == (503, True)

    served(check, max_streams=1)

    async def several(replica: Replica, client: Any) -> None:
        answer = await client.post("/", json={"inputs": [1.0, 2.0], "stream": "a"})
        assert (answer.status_code, "one replica" in answer.json()["error"]) == (409, True)
        assert (await client.post("/", json={"inputs": [[[1.0, 2.0]]]})).status_code == 200

    served(several, alone=False)
