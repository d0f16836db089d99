"""What the tests of the server share: models in files, a server in a thread or a process, and its streams' messages."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import lstm_engine as le

ROOT = Path(__file__).parents[1]
FEATURES, UNITS = 8, 32
#: For what takes milliseconds, on a machine that has something else to do.
PATIENCE = 60.0


def trained(seed: int, *, features: int = FEATURES, units: int = UNITS) -> le.LSTM:
    """Return an LSTM; those of other seeds have other weights."""
    numbers = np.random.default_rng([seed, features, units])
    shapes = ((features, 4 * units), (units, 4 * units), (4 * units,))
    return le.LSTM.from_weights(*(numbers.uniform(-0.4, 0.4, shape).astype(np.float32) for shape in shapes))


def bidirectional() -> le.LSTM:
    """Return an LSTM that no stream can run."""
    from strategies import Options, make_weights

    return le.LSTM(make_weights(Options(FEATURES, UNITS, direction="bidirectional"), seed=3))


def inputs(seed: int, *lead: int) -> Any:
    """Return (*lead, features)."""
    return np.random.default_rng([seed, *lead]).standard_normal((*lead, FEATURES)).astype(np.float32)


def put(root: Path, name: str, version: int | str, content: Any) -> Path:
    """Put a model, or bytes that are none, where the server looks for them, whole or not at all."""
    folder = root / name / str(version)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.safetensors"
    if isinstance(content, bytes):
        beside = folder / ".new"
        beside.write_bytes(content)
        beside.replace(path)
    else:
        content.save(path)
    return path


class Held:
    """Holds a Batcher's worker at the beginning of a round until it is let go."""

    def __init__(self, batcher: Any) -> None:
        self._begun, self._go_on = threading.Event(), threading.Event()
        engine, compute = batcher._engine, batcher._engine.compute

        def held(current: Any) -> None:
            self._begun.set()
            assert self._go_on.wait(PATIENCE)
            compute(current)

        engine.compute = held

    def begun(self) -> bool:
        """Return whether a round is held."""
        return self._begun.is_set()

    async def until_begun(self) -> None:
        """Wait until a round is held."""
        while not self._begun.is_set():
            await asyncio.sleep(0.001)

    def let_go(self) -> None:
        """Let the rounds go on."""
        self._go_on.set()


# --- A server in this process -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def serving(model: Path, **options: Any) -> Iterator[Any]:
    """Run a server in a thread; gives its Service, whose ``port`` is where it listens."""
    from lstm_engine.server import running
    from lstm_engine.server.options import ServerOptions

    begun, found, ended = threading.Event(), {}, []

    async def main() -> int:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        found["stop"] = lambda: loop.call_soon_threadsafe(stop.set)

        def listening(service: Any, port: int) -> None:
            service.port, service.loop = port, loop
            found["service"] = service
            begun.set()

        settings = {"port": 0, "drain_delay": 0.0, "reload_interval": 0.0, **options}
        return await running.serve_until(ServerOptions(model=str(model), **settings), stop, listening)

    def run() -> None:
        try:
            ended.append(asyncio.run(main()))
        finally:
            begun.set()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert begun.wait(PATIENCE)
        yield found["service"]
    finally:
        if "stop" in found:
            found["stop"]()
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert ended == [0]


# --- A server in a process --------------------------------------------------------------------------------------------


class Process:
    """``lstm-engine serve`` as a program; always ended, and its log kept."""

    def __init__(self, model: Path, *options: str) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error::DeprecationWarning:lstm_engine"}
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "lstm_engine", "serve", str(model), "--port", "0", *options],
            stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment,
        )  # fmt: skip
        self.lines: list[dict[str, Any]] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.popen.stderr is not None
        for line in self.popen.stderr:
            with self._changed:
                try:
                    self.lines.append(json.loads(line))
                except ValueError:
                    self.lines.append({"event": "not JSON", "line": line})
                self._changed.notify_all()
        with self._changed:
            self.lines.append({"event": "end of log"})
            self._changed.notify_all()

    def until(self, event: str, count: int = 1) -> dict[str, Any]:
        """Wait for the ``count``-th line of an event."""

        def matching() -> list[dict[str, Any]]:
            return [line for line in self.lines if line["event"] == event]

        with self._changed:
            over = self._changed.wait_for(
                lambda: len(matching()) >= count or self.lines[-1:] == [{"event": "end of log"}], PATIENCE
            )
            assert over, (event, self.lines)
            assert len(matching()) >= count, (event, self.lines)
            return matching()[count - 1]

    @property
    def port(self) -> int:
        port: int = self.until("listening")["port"]
        return port

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait(PATIENCE)
        self._reader.join(PATIENCE)
        assert self.popen.stderr is not None
        self.popen.stderr.close()

    def end(self) -> int:
        """Ask it to end, and return its exit status."""
        self.popen.terminate()
        return self.popen.wait(PATIENCE)


# --- Streams ----------------------------------------------------------------------------------------------------------


def ask(socket: Any, op: str, stream: str = "a", **more: Any) -> dict[str, Any]:
    """Send a message to a WebSocket, and return the next answer."""
    socket.send(json.dumps({"op": op, "stream": stream, **more}))
    answer: dict[str, Any] = json.loads(socket.recv(timeout=PATIENCE))
    return answer


def ask_binary(socket: Any, op: str, stream: str = "a", payload: bytes = b"") -> tuple[dict[str, Any], bytes]:
    """Send a binary message, and return the next answer: its JSON, and what lies behind."""
    return unframed(_answer_to_binary(socket, op, stream, payload))


def ask_any(socket: Any, op: str, stream: str, payload: bytes) -> dict[str, Any]:
    """Send a binary message that may be refused, and return the JSON of its answer, which then is text."""
    answer = _answer_to_binary(socket, op, stream, payload)
    found: dict[str, Any] = json.loads(answer if isinstance(answer, str) else answer[4:])
    return found


def framed(op: str, stream: str = "a", payload: bytes = b"", **more: Any) -> bytes:
    """Return a binary message."""
    head = json.dumps({"op": op, "stream": stream, **more}).encode()
    return len(head).to_bytes(4, "little") + head + payload


def unframed(answer: Any) -> tuple[dict[str, Any], bytes]:
    """Return what a binary answer holds: its JSON, and what lies behind."""
    assert isinstance(answer, bytes), answer
    begin = 4 + int.from_bytes(answer[:4], "little")
    return json.loads(answer[4:begin]), answer[begin:]


def _answer_to_binary(socket: Any, op: str, stream: str, payload: bytes) -> Any:
    socket.send(framed(op, stream, payload))
    return socket.recv(timeout=PATIENCE)
