"""Streams over WebSocket: the bits of each stream alone, whatever other clients and mistakes do beside it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from server_support import (
    FEATURES,
    PATIENCE,
    UNITS,
    Held,
    ask,
    ask_any,
    ask_binary,
    bidirectional,
    framed,
    inputs,
    put,
    serving,
    trained,
    unframed,
)

pytestmark = pytest.mark.services
pytest.importorskip("websockets")
pytest.importorskip("fastapi")

X = inputs(1, 6, 5)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    put(tmp_path, "m", 1, trained(1))
    put(tmp_path, "both", 1, bidirectional())
    return tmp_path


def connect(service: Any, model: str = "m", **options: Any) -> Any:
    from websockets.sync.client import connect

    return connect(f"ws://127.0.0.1:{service.port}/v2/models/{model}/stream", compression=None, **options)


def rows(answer: dict[str, Any]) -> Any:
    assert "error" not in answer, answer
    return np.array(answer["data"], np.float32)


def wait_until(what: Callable[[], bool]) -> None:
    began = time.monotonic()
    while not what():
        assert time.monotonic() - began < PATIENCE
        time.sleep(0.005)


def closing(client: Any) -> Any:
    """Return the events until a server closes a WebSocket, and its code and reason."""
    from websockets.exceptions import ConnectionClosed

    events: list[dict[str, Any]] = []
    try:
        while True:
            events.append(json.loads(client.recv(timeout=PATIENCE)))
    except ConnectionClosed as closed:
        received = closed.rcvd
    assert received is not None
    return events, received.code, received.reason


# --- Bits -------------------------------------------------------------------------------------------------------------


def test_every_operation_with_the_bits_of_a_stream(models: Path) -> None:
    stream = trained(1).stream()
    with serving(models) as service, connect(service) as client:
        assert ask(client, "open", id="first") == {"id": "first", "stream": "a", "steps": 0}
        answer = ask(client, "step", data=X[0, 0].tolist(), id=7)
        assert (answer["id"], answer["stream"], answer["steps"]) == (7, "a", 1)
        assert rows(answer).tobytes() == stream.step(X[0, 0]).tobytes()
        head, payload = ask_binary(client, "step", payload=X[0, 1].tobytes())
        assert head == {"stream": "a", "steps": 2, "shape": [UNITS]}
        assert payload == stream.step(X[0, 1]).tobytes()
        assert rows(ask(client, "run", data=X[1].tolist())).tobytes() == stream.run(X[1]).tobytes()
        head, payload = ask_binary(client, "run", payload=X[2].tobytes())
        assert head == {"stream": "a", "steps": 12, "shape": [5, UNITS]}
        assert payload == stream.run(X[2]).tobytes()
        # Snapshots in both forms are those of the library.
        kept = base64.b64decode(ask(client, "snapshot")["snapshot"])
        assert kept == stream.snapshot() == ask_binary(client, "snapshot")[1]
        expected = stream.run(X[3])
        assert rows(ask(client, "run", data=X[3].tolist())).tobytes() == expected.tobytes()
        assert ask(client, "restore", snapshot=base64.b64encode(kept).decode()) == {"stream": "a", "steps": 0}
        assert rows(ask(client, "run", data=X[3].tolist())).tobytes() == expected.tobytes()
        assert ask_binary(client, "restore", payload=kept) == ({"stream": "a", "steps": 0}, b"")
        assert ask_binary(client, "run", payload=X[3].tobytes())[1] == expected.tobytes()
        assert ask_binary(client, "open", "b", kept) == ({"stream": "b", "steps": 0}, b"")
        assert rows(ask(client, "run", "b", data=X[3].tolist())).tobytes() == expected.tobytes()
        assert ask(client, "reset") == {"stream": "a", "steps": 0}
        fresh = trained(1).stream()
        assert base64.b64decode(ask(client, "snapshot")["snapshot"]) == fresh.snapshot()
        assert rows(ask(client, "step", data=X[4, 0].tolist())).tobytes() == fresh.step(X[4, 0]).tobytes()
        assert ask(client, "close") == {"stream": "a", "steps": 1}
        assert ask(client, "open") == {"stream": "a", "steps": 0}


def test_nothing_is_waited_for(models: Path) -> None:
    """Messages to many streams at once, from two clients that give them the same names."""
    count, steps = 50, 8
    x = inputs(3, 2, count, steps)
    y = [trained(1)(one)[0] for one in x]
    with serving(models) as service, connect(service) as first, connect(service) as second:
        for place, client in enumerate((first, second)):
            for stream in range(count):
                client.send(json.dumps({"op": "open", "stream": str(stream)}))
            for step in range(steps):
                for stream in range(count):
                    data = x[place, stream, step].tolist()
                    client.send(json.dumps({"op": "step", "stream": str(stream), "id": step, "data": data}))
        for place, client in enumerate((first, second)):
            order: dict[str, list[int]] = {}
            for _ in range(count * (steps + 1)):
                answer = json.loads(client.recv(timeout=PATIENCE))
                if "data" in answer:
                    order.setdefault(answer["stream"], []).append(answer["id"])
                    expected = y[place][int(answer["stream"]), answer["id"]]
                    assert rows(answer).tobytes() == expected.tobytes()
            assert list(order.values()) == [list(range(steps))] * count
        assert service.table.find("m").batcher.metrics()["batch_size"]["sum"] == 2 * count * steps


def test_binary_steps_in_any_company(models: Path) -> None:
    """Steps sent ahead of their answers, with other calls between them: answered in each stream's order."""
    count, rounds = 20, 4
    x = inputs(4, count, rounds, 3)
    with serving(models) as service, connect(service) as client:
        for stream in range(count):
            client.send(framed("open", str(stream)))
        for part in range(rounds):
            for stream in range(count):
                one = x[stream, part]
                client.send(framed("step", str(stream), one[0].tobytes()))
                client.send(framed("step", str(stream), one[1].tobytes(), id=part, timeout=PATIENCE))
                client.send(framed("step", str(stream), one[1, 1:].tobytes()))
                if stream % 2:
                    client.send(json.dumps({"op": "run", "stream": str(stream), "data": one[2:].tolist()}))
                else:
                    client.send(framed("step", str(stream), one[2].tobytes()))
        found: dict[str, list[Any]] = {str(stream): [] for stream in range(count)}
        for _ in range(count * (1 + 4 * rounds)):
            answer = client.recv(timeout=PATIENCE)
            head, payload = unframed(answer) if isinstance(answer, bytes) else (json.loads(answer), b"")
            found[head.pop("stream")].append((head, payload))
        for stream in range(count):
            alone, answers = trained(1).stream(), iter(found[str(stream)])
            assert next(answers) == ({"steps": 0}, b"")
            for part, one in enumerate(x[stream]):
                shape = {"shape": [UNITS]}
                assert next(answers) == ({"steps": 3 * part + 1, **shape}, alone.step(one[0]).tobytes())
                assert next(answers) == ({"id": part, "steps": 3 * part + 2, **shape}, alone.step(one[1]).tobytes())
                assert "32 bytes" in next(answers)[0]["error"]
                head, payload = next(answers)
                assert head["steps"] == 3 * part + 3
                assert (rows(head).tobytes() if stream % 2 else payload) == alone.step(one[2]).tobytes()


def test_a_model_with_names_for_its_data(tmp_path: Path) -> None:
    from described import dense, input_layer, layer, lstm, model

    from lstm_engine.builder import build_model

    source = build_model(model(
        input_layer("p", None, 3), input_layer("q", None, 3), layer("sum", "Add", "p", "q"),
        lstm("lstm", "sum", features=3, units=4, return_sequences=True), dense("one", "lstm", features=4, units=2),
        dense("two", "lstm", features=4, units=1, seed=70), outputs=["one", "two"],
    ))  # fmt: skip
    put(tmp_path, "m", 1, source)
    p, q = np.random.default_rng(8).standard_normal((2, 5, 3)).astype(np.float32)
    expected = source.stream().run((p, q))
    with serving(tmp_path) as service, connect(service) as client:
        ask(client, "open")
        answer = ask(client, "run", data={"p": p.tolist(), "q": q.tolist()})
        for name, y in zip(("one", "two"), expected, strict=True):
            assert np.array(answer["data"][name], np.float32).tobytes() == y.tobytes()
        ask(client, "reset")
        head, payload = ask_binary(client, "run", payload=p.tobytes() + q.tobytes())
        assert head["shape"] == {"one": [5, 2], "two": [5, 1]}
        assert payload == b"".join(y.tobytes() for y in expected)


class StreamsMachine(RuleBasedStateMachine):
    """Two clients that use the same names, and a stream of the library for each stream that they have open."""

    service: ClassVar[Any]

    @initialize(seed=st.integers(0, 1000))
    def begin(self, seed: int) -> None:
        self.seed = seed
        self.stack = contextlib.ExitStack()
        self.clients = [self.stack.enter_context(connect(self.service)) for _ in range(2)]
        self.open: dict[tuple[int, str], Any] = {}
        self.kept: list[bytes] = []

    def teardown(self) -> None:
        if hasattr(self, "stack"):
            self.stack.close()
            wait_until(lambda: self.service.table.find("m").reserved == 0)

    @rule(client=st.integers(0, 1), name=st.sampled_from("ab"), kept=st.integers(0, 3), binary=st.booleans())
    def open_one(self, client: int, name: str, kept: int, binary: bool) -> None:
        snapshot = self.kept[kept] if kept < len(self.kept) else None
        if binary:
            answer = ask_any(self.clients[client], "open", name, snapshot or b"")
        else:
            more = {} if snapshot is None else {"snapshot": base64.b64encode(snapshot).decode()}
            answer = ask(self.clients[client], "open", name, **more)
        if (client, name) in self.open:
            assert "which is open" in answer["error"]
            return
        assert answer == {"stream": name, "steps": 0}
        stream = self.open[client, name] = trained(1).stream()
        if snapshot is not None:
            stream.restore(snapshot)

    @rule(client=st.integers(0, 1), name=st.sampled_from("ab"), count=st.integers(0, 4), binary=st.booleans())
    def step(self, client: int, name: str, count: int, binary: bool) -> None:
        self.seed += 1
        x = inputs(self.seed, count or 1)
        op, data = ("run", x) if count else ("step", x[0])
        stream, socket = self.open.get((client, name)), self.clients[client]
        if stream is None:
            assert "open it first" in ask(socket, op, name, data=data.tolist())["error"]
            return
        expected = stream.run(x).tobytes()
        if binary:
            assert ask_binary(socket, op, name, data.tobytes())[1] == expected
        else:
            assert rows(ask(socket, op, name, data=data.tolist())).tobytes() == expected

    @precondition(lambda self: self.open)
    @rule(data=st.data(), op=st.sampled_from(["reset", "snapshot", "restore", "close"]))
    def change(self, data: Any, op: str) -> None:
        client, name = key = data.draw(st.sampled_from(sorted(self.open)))
        socket, stream = self.clients[client], self.open[key]
        if op == "snapshot":
            self.kept = [base64.b64decode(ask(socket, op, name)["snapshot"]), *self.kept][:3]
            assert self.kept[0] == stream.snapshot()
        elif op == "restore":
            if self.kept:
                ask_binary(socket, op, name, self.kept[-1])
                stream.restore(self.kept[-1])
        else:
            assert "error" not in ask(socket, op, name)
            stream.reset()
            if op == "close":
                del self.open[key]

    @rule(client=st.integers(0, 1), message=st.binary(max_size=20) | st.text(max_size=20))
    def mistake(self, client: int, message: Any) -> None:
        self.clients[client].send(message)
        assert "error" in json.loads(self.clients[client].recv(timeout=PATIENCE))

    @rule(client=st.integers(0, 1))
    def leave(self, client: int) -> None:
        """One goes, and comes again with nothing; the other does not notice."""
        self.clients[client].close()
        self.clients[client] = self.stack.enter_context(connect(self.service))
        self.open = {key: stream for key, stream in self.open.items() if key[0] != client}


def test_any_order_of_operations(models: Path) -> None:
    with serving(models) as service:
        StreamsMachine.service = service
        run_state_machine_as_test(
            StreamsMachine,
            settings=settings(
                max_examples=12, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
            ),
        )


# --- Mistakes ---------------------------------------------------------------------------------------------------------


def test_mistakes_are_answered_and_change_nothing(models: Path) -> None:
    stream, steps = trained(1).stream(), iter(X.reshape(-1, FEATURES))
    with serving(models, max_steps=10, max_json=4000) as service, connect(service) as client:

        def good() -> None:
            x_t = next(steps)
            assert rows(ask(client, "step", data=x_t.tolist())).tobytes() == stream.step(x_t).tobytes()

        def bad(phrase: str, message: Any) -> None:
            client.send(json.dumps(message) if isinstance(message, dict) else message)
            answer = json.loads(client.recv(timeout=PATIENCE))
            assert phrase in answer["error"]
            if isinstance(message, dict) and message.get("op") in ("step", "run"):
                assert (answer["stream"], answer.get("id")) == (message["stream"], message.get("id"))
            good()

        ask(client, "open")
        good()
        bad("which is not; open it first", {"op": "step", "stream": "b", "data": [0] * 8, "id": 3})
        bad("which is not; open it first", {"op": "close", "stream": "b"})
        bad("which is open", {"op": "open", "stream": "a"})
        bad("expected shape (8,)", {"op": "step", "stream": "a", "data": [0] * 7, "id": "x"})
        bad("expected shape (8,)", {"op": "step", "stream": "a", "data": [[0] * 8]})
        bad("expected shape (time, 8)", {"op": "run", "stream": "a", "data": np.zeros((0, 8)).tolist()})
        bad("at most 10 steps", {"op": "run", "stream": "a", "data": [[0] * 8] * 11})
        bad("binary message, or shorter", {"op": "run", "stream": "a", "data": [[0] * 8] * 9})
        bad("found null", {"op": "step", "stream": "a", "data": [None] * 8})
        bad('"NaN"', json.dumps({"op": "step", "stream": "a", "data": [float("nan")] * 8}))
        bad("expected JSON", "{")
        bad("op: expected one of", {"op": "eval", "stream": "a"})
        bad("first 4 bytes", b"\x01")
        bad("at most 4,000 bytes", "x" * 4001)
        bad("snapshot", {"op": "restore", "stream": "a", "snapshot": "QUJD"})
        bad("snapshot", {"op": "open", "stream": "c", "snapshot": "QUJD"})
        bad("which is not", {"op": "step", "stream": "c", "data": [0] * 8})
        other = base64.b64encode(trained(9, units=16).stream().snapshot()).decode()
        bad("found one of another", {"op": "restore", "stream": "a", "snapshot": other})
        assert service.table.find("m").reserved == 1


def test_a_stream_of_nan_is_its_own(models: Path) -> None:
    with serving(models) as service, connect(service) as client:
        ask(client, "open", "ill")
        ask(client, "open", "well")
        assert set(ask(client, "step", "ill", data=["NaN"] * FEATURES)["data"]) == {"NaN"}
        nan = np.full(FEATURES, np.nan, np.float32)
        assert np.isnan(np.frombuffer(ask_binary(client, "step", "ill", nan.tobytes())[1], np.float32)).all()
        assert rows(ask(client, "run", "well", data=X[0].tolist())).tobytes() == trained(1)(X[:1])[0].tobytes()


def test_what_is_no_stream_is_refused_before_it_begins(models: Path) -> None:
    from websockets.exceptions import InvalidStatus

    with serving(models) as service:
        for model, status, phrase in (
            ("n", 404, "expected one of both, m"),
            ("both", 400, "lstm"),
            ("m", 503, "ending"),
        ):
            service.taking = status != 503
            with pytest.raises(InvalidStatus) as caught:
                connect(service, model)
            assert caught.value.response.status_code == status
            assert phrase in json.loads(caught.value.response.body)["error"]
        service.taking = True


# --- Limits -----------------------------------------------------------------------------------------------------------


def test_streams_of_a_client_and_of_all(models: Path) -> None:
    with serving(models, max_streams=3, max_streams_per_client=2) as service:
        with connect(service) as first, connect(service) as second:
            for name in "ab":
                ask(first, "open", name)
            assert "at most 2 open streams of one client" in ask(first, "open", "c")["error"]
            ask(second, "open", "a")
            assert "at most 3 open streams of 'm'" in ask(second, "open", "b")["error"]
            # All that are open can begin: their places were taken when they were opened.
            for client, name in ((first, "a"), (first, "b"), (second, "a")):
                rows(ask(client, "step", name, data=X[0, 0].tolist()))
            ask(first, "close", "b")
            ask(second, "open", "b")
            rows(ask(second, "step", "b", data=X[0, 0].tolist()))
        wait_until(lambda: service.table.find("m").reserved == 0)
        assert len(service.table.find("m").batcher) == 0


def test_a_message_that_is_too_large_ends_the_connection(models: Path) -> None:
    with serving(models, max_body=2000) as service:
        with connect(service) as client:
            ask(client, "open")
            client.send("x" * 3000)
            assert closing(client)[1] == 1009
        wait_until(lambda: service.table.find("m").reserved == 0)


def test_a_client_that_is_too_fast_is_slowed_down(models: Path) -> None:
    with serving(models, max_in_flight=3) as service, connect(service) as client:
        ask(client, "open")
        held = Held(service.table.find("m").batcher)
        (session,) = service.sessions()
        for x_t in X.reshape(-1, FEATURES):
            client.send(json.dumps({"op": "step", "stream": "a", "data": x_t.tolist()}))
        wait_until(lambda: session.messages == 4)
        time.sleep(0.2)
        assert session.messages == 4  # the one that was answered, and three
        held.let_go()
        stream = trained(1).stream()
        for x_t in X.reshape(-1, FEATURES):
            assert rows(json.loads(client.recv(timeout=PATIENCE))).tobytes() == stream.step(x_t).tobytes()


def test_binary_steps_that_are_too_many_wait(models: Path) -> None:
    """Of one client, and of all: none is refused."""
    names = [str(place) for place in range(20)]
    limits = {"max_in_flight": 3, "max_queue": 2, "max_batch": 2}
    with serving(models, **limits) as service, connect(service) as client, connect(service) as other:
        for name in names:
            ask(client, "open", name)
            ask(other, "open", name)
        for name in names:
            client.send(framed("step", name, X[0, 0].tobytes()))
            other.send(framed("step", name, X[0, 0].tobytes()))
        expected = trained(1).stream().step(X[0, 0]).tobytes()
        for socket in (client, other):
            answers = [unframed(socket.recv(timeout=PATIENCE)) for _ in names]
            assert all(payload == expected for _, payload in answers)
            assert sorted(head["stream"] for head, _ in answers) == sorted(names)
        assert service.table.find("m").batcher.metrics()["refused"] == 0

        def taken() -> int:
            return sum(session.messages for session in service.sessions())

        before = taken()
        held = Held(service.table.find("m").batcher)
        for name in names:
            client.send(framed("step", name, X[0, 1].tobytes()))
        wait_until(lambda: taken() == before + 3)
        time.sleep(0.2)
        assert taken() == before + 3
        held.let_go()
        for _ in names:
            unframed(client.recv(timeout=PATIENCE))


def test_a_binary_step_whose_time_is_over(models: Path) -> None:
    with serving(models) as service, connect(service) as client:
        ask(client, "open")
        ask(client, "open", "b")
        held = Held(service.table.find("m").batcher)
        client.send(framed("step", "b", X[0, 0].tobytes()))
        wait_until(held.begun)
        client.send(framed("step", "a", X[0, 0].tobytes(), timeout=0.01, id="late"))
        answer = json.loads(client.recv(timeout=PATIENCE))
        assert "it did not happen" in answer.pop("error")
        assert answer == {"id": "late", "stream": "a", "done": 0}
        held.let_go()
        stream = trained(1).stream()
        expected = stream.step(X[0, 0]).tobytes()
        assert unframed(client.recv(timeout=PATIENCE)) == ({"stream": "b", "steps": 1, "shape": [UNITS]}, expected)
        assert ask_binary(client, "step", "a", X[0, 0].tobytes())[1] == expected


def test_a_full_queue_slows_streams_down_and_refuses_none(models: Path) -> None:
    with serving(models, max_queue=2, max_batch=2) as service, connect(service) as client:
        names = [str(place) for place in range(20)]
        for name in names:
            client.send(json.dumps({"op": "open", "stream": name}))
            client.send(json.dumps({"op": "run", "stream": name, "data": X[int(name) % 6].tolist()}))
        found = {}
        for _ in range(2 * len(names)):
            answer = json.loads(client.recv(timeout=PATIENCE))
            if "data" in answer:
                found[answer["stream"]] = rows(answer)
        assert all(found[name].tobytes() == trained(1)(X)[0][int(name) % 6].tobytes() for name in names)
        assert service.table.find("m").batcher.metrics()["refused"] == 0


def test_a_timeout_says_how_far_it_came(models: Path) -> None:
    with serving(models, max_batch=1) as service, connect(service) as client:
        ask(client, "open")
        held = Held(service.table.find("m").batcher)
        client.send(json.dumps({"op": "run", "stream": "a", "data": X[0].tolist(), "timeout": 0.01}))
        batcher = service.table.find("m").batcher
        wait_until(lambda: batcher._running is not None and batcher._running.works[0].expired)
        held.let_go()
        answer = json.loads(client.recv(timeout=PATIENCE))
        assert "the stream has moved by 1 of 5 steps" in answer["error"]
        assert answer["done"] == 1
        assert rows(ask(client, "run", data=X[0, 1:].tolist())).tobytes() == trained(1)(X)[0][0, 1:].tobytes()


# --- Leaving ----------------------------------------------------------------------------------------------------------


def test_a_client_that_leaves_in_the_middle_frees_its_streams(models: Path) -> None:
    with serving(models) as service, connect(service) as other:
        ask(other, "open")
        served = service.table.find("m")
        with connect(service) as leaving:
            for name in "abc":
                ask(leaving, "open", name)
                rows(ask(leaving, "step", name, data=X[0, 0].tolist()))
            held = Held(served.batcher)
            for name in "ab":
                leaving.send(json.dumps({"op": "run", "stream": name, "data": X[1].tolist()}))
            leaving.send(framed("step", "c", X[1, 0].tobytes()))
            wait_until(lambda: served.batcher.metrics()["queue_depth"] == 3)
            leaving.socket.shutdown(socket.SHUT_RDWR)  # without a word
        time.sleep(0.2)  # the server hears of it while the round is held
        held.let_go()
        wait_until(lambda: served.reserved == 1 and len(served.batcher) == 0 and len(service.sessions()) == 1)
        assert rows(ask(other, "run", data=X[2].tolist())).tobytes() == trained(1)(X)[0][2].tobytes()


def test_a_client_that_does_not_read_holds_nobody_up(models: Path) -> None:
    with serving(models, max_in_flight=64) as service, connect(service) as other, connect(service) as deaf:
        ask(deaf, "open")
        ask(other, "open")
        x = inputs(5, 2000)
        head = json.dumps({"op": "run", "stream": "a"}).encode()
        frame = len(head).to_bytes(4, "little") + head + x.tobytes()

        def flood() -> None:
            with contextlib.suppress(Exception):  # it is slowed down until the test ends it
                for _ in range(200):  # each is answered by 256 KB
                    deaf.send(frame)

        flooding = threading.Thread(target=flood, daemon=True)
        flooding.start()
        stream = trained(1).stream()
        for x_t in X.reshape(-1, FEATURES):
            assert rows(ask(other, "step", data=x_t.tolist())).tobytes() == stream.step(x_t).tobytes()
        deaf.socket.shutdown(socket.SHUT_RDWR)
        flooding.join(PATIENCE)
        assert not flooding.is_alive()


# --- The end ----------------------------------------------------------------------------------------------------------


def test_streams_are_handed_over_at_the_end(models: Path) -> None:
    """Calls that were taken are answered, and each stream goes on elsewhere with the same bits."""
    streams = {name: trained(1).stream() for name in "ab"}
    with serving(models) as service, connect(service) as client:
        for place, name in enumerate("abc"):
            ask(client, "open", name)
            if name in streams:
                assert (
                    rows(ask(client, "run", name, data=X[place].tolist())).tobytes()
                    == streams[name].run(X[place]).tobytes()
                )
        held = Held(service.table.find("m").batcher)
        client.send(json.dumps({"op": "step", "stream": "a", "data": X[3, 0].tolist(), "id": "last"}))
        client.send(framed("step", "b", X[4, 0].tobytes()))
        client.send(framed("step", "b", X[4, 1].tobytes()))
        session = service.sessions()[0]
        wait_until(lambda: session.messages == 8)
        ending = asyncio.run_coroutine_threadsafe(service.end_sessions(), service.loop)
        held.let_go()
        answers = [client.recv(timeout=PATIENCE) for _ in range(3)]
        (last,) = (json.loads(one) for one in answers if isinstance(one, str))
        assert rows(last).tobytes() == streams["a"].step(X[3, 0]).tobytes()
        binary = [unframed(one)[1] for one in answers if isinstance(one, bytes)]
        assert binary == [streams["b"].step(X[4, step]).tobytes() for step in range(2)]
        events, code, reason = closing(client)
        ending.result(PATIENCE)
        assert (code, reason) == (1001, "the server ends")
        assert [(one["event"], one["stream"], one["reason"]) for one in events] == [
            ("closed", name, "the server ends") for name in "abc"
        ]
        assert service.table.find("m").reserved == 0
    with serving(models) as service, connect(service) as client:
        for event in events:
            ask(client, "open", event["stream"], snapshot=event["snapshot"])
            stream = streams.get(event["stream"], trained(1).stream())
            found = rows(ask(client, "run", event["stream"], data=X[4].tolist()))
            assert found.tobytes() == stream.run(X[4]).tobytes()


def test_a_new_training_takes_over_under_the_streams(models: Path) -> None:
    with serving(models, reload_interval=0.05) as service, connect(service) as client:
        ask(client, "open")
        old = trained(1).stream()
        assert rows(ask(client, "run", data=X[0].tolist())).tobytes() == old.run(X[0]).tobytes()
        put(models, "m", 1, trained(2))
        wait_until(lambda: service.table.find("m").batcher.metrics()["swaps"] == 1)
        new = trained(2).stream()
        new.state = old.state
        assert rows(ask(client, "run", data=X[1].tolist())).tobytes() == new.run(X[1]).tobytes()
        # One whose states are others ends the streams of the old one, which were handed over.
        put(models, "m", 1, trained(2, units=48))
        events, code, reason = closing(client)
        assert code == 1012
        assert "states" in reason
        assert base64.b64decode(events[0]["snapshot"]) == new.snapshot()
        with connect(service) as again:
            ask(again, "open")
            assert rows(ask(again, "run", data=X[1].tolist())).shape == (5, 48)
            refused = ask(again, "restore", snapshot=events[0]["snapshot"])
            assert "found one of another" in refused["error"]
