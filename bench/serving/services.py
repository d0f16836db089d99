"""What answers: the Batcher and ONNX Runtime in this process; ``lstm-engine serve`` and FastAPI in one of their own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import numpy as np

import lstm_engine as le

from .clients import Ask
from .workload import Workload, onnx_session

__all__ = ["SERVICES", "Service"]

_ROOT = Path(__file__).resolve().parents[2]
_PATIENCE = 60.0

#: Makes what asks for steps of so many streams.
Service = Callable[[Workload, int], AbstractAsyncContextManager[Ask]]


@contextlib.asynccontextmanager
async def _batcher(workload: Workload, streams: int) -> AsyncIterator[Ask]:
    async with le.serving.Batcher(workload.lstm(), max_streams=streams) as batcher:

        async def ask(stream: int, step: int) -> bytes:
            y: bytes = (await batcher.step(stream, workload.sample(stream, step))).tobytes()
            return y

        yield ask


@contextlib.asynccontextmanager
async def _onnx_runtime(workload: Workload, streams: int) -> AsyncIterator[Ask]:
    session = onnx_session(workload.onnx())
    zero = np.zeros((1, 1, workload.hidden), np.float32)
    states = [{"h0": zero, "c0": zero} for _ in range(streams)]

    async def ask(stream: int, step: int) -> bytes:
        state = states[stream]
        feed = {"x": workload.sample(stream, step)[None, None], **state}
        y, state["h0"], state["c0"] = session.run(["y", "hn0", "cn0"], feed)
        await asyncio.sleep(0)  # everybody's turn
        result: bytes = y.tobytes()
        return result

    yield ask


@contextlib.contextmanager
def _running(command: list[str], listening: str, environment: dict[str, str]) -> Iterator[int]:
    """Run a server; gives the port that its log names."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("w") as output:
            server = subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=_ROOT,
                env={**os.environ, **environment},
                stdout=output,
                stderr=output,
            )
        try:
            end = time.monotonic() + _PATIENCE
            while not (found := re.search(listening, log.read_text())):
                if server.poll() is not None or time.monotonic() > end:
                    raise SystemExit(f"bench.serving: {' '.join(command)} does not listen:\n{log.read_text()}")
                time.sleep(0.05)
            yield int(found[1])
        finally:
            server.terminate()
            try:
                server.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


@contextlib.asynccontextmanager
async def _connections(url: str, streams: int) -> AsyncIterator[list[Any]]:
    """Open a WebSocket for each stream."""
    from websockets.asyncio.client import connect

    async with contextlib.AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(connect(url, compression=None, ping_interval=None, max_queue=None))
            for _ in range(streams)
        ]


@contextlib.asynccontextmanager
async def _serve(workload: Workload, streams: int) -> AsyncIterator[Ask]:
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "bench.safetensors"
        workload.lstm().save(model)
        command = ["lstm_engine", "serve", str(model), "--port", "0", "--drain-delay", "0"]
        with _running(command, r'"port": (\d+)', {}) as port:
            async with _connections(f"ws://127.0.0.1:{port}/v2/models/bench/stream", streams) as sockets:
                for socket in sockets:
                    await socket.send(json.dumps({"op": "open", "stream": "s"}))
                    await socket.recv()
                head = json.dumps({"op": "step", "stream": "s"}).encode()
                head = len(head).to_bytes(4, "little") + head

                async def ask(stream: int, step: int) -> bytes:
                    socket = sockets[stream]
                    await socket.send(head + workload.sample(stream, step).tobytes())
                    reply: bytes = await socket.recv()
                    if isinstance(reply, str):
                        raise RuntimeError(reply)
                    return reply[4 + int.from_bytes(reply[:4], "little") :]

                yield ask


@contextlib.asynccontextmanager
async def _fastapi(workload: Workload, streams: int) -> AsyncIterator[Ask]:
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "bench.onnx"
        model.write_bytes(workload.onnx())
        options = ["--host", "127.0.0.1", "--port", "0", "--no-access-log", "--ws-per-message-deflate", "false"]
        command = ["uvicorn", "bench.serving.onnx_service:app", *options]
        environment = {"BENCH_SERVING_MODEL": str(model)}
        with _running(command, r"running on http://127\.0\.0\.1:(\d+)", environment) as port:
            async with _connections(f"ws://127.0.0.1:{port}/stream", streams) as sockets:

                async def ask(stream: int, step: int) -> bytes:
                    socket = sockets[stream]
                    await socket.send(workload.sample(stream, step).tobytes())
                    reply: bytes = await socket.recv()
                    return reply

                yield ask


#: By name: the engine, how it is reached, and what does it.
SERVICES: dict[str, tuple[str, str, Service]] = {
    "batcher": ("lstm_engine", "Batcher, in process", _batcher),
    "onnxruntime": ("onnxruntime", "a run for each step, in process", _onnx_runtime),
    "serve": ("lstm_engine", "lstm-engine serve, WebSocket", _serve),
    "fastapi": ("onnxruntime", "FastAPI, WebSocket", _fastapi),
}
