"""A WebSocket and its streams: calls to one stream in their order, those to different ones together."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections import deque
from typing import TYPE_CHECKING, Any

from fastapi import WebSocket, WebSocketDisconnect

from lstm_engine.errors import DeadlineError, LstmEngineError, OverloadError, StateError

from .allowance import Allowance
from .errors import RequestError
from .frames import Call, decode_call, encode_reply
from .log import log
from .protocol import check_size

if TYPE_CHECKING:
    from .models import ServedModel
    from .options import ServerOptions

__all__ = ["WebSocketSession"]

#: What tells that the client has gone, or that the connection is closing: servers differ in what they raise.
_GONE = (WebSocketDisconnect, OSError, RuntimeError)


class _Stream:
    """A stream as its client names it, and the calls to it that wait."""

    __slots__ = ("name", "open", "waiting", "worker")

    def __init__(self, name: str) -> None:
        self.name = name
        self.open = False
        self.waiting: deque[tuple[Call, int]] = deque()
        self.worker: asyncio.Task[None] | None = None


class WebSocketSession:
    """The streams of one client, which end with its connection.

    Parameters
    ----------
    websocket
        The connection, not accepted yet.
    served
        The model; it stays the same for the whole session.
    options
        The limits.
    """

    def __init__(self, websocket: WebSocket, served: ServedModel, options: ServerOptions) -> None:
        self._websocket = websocket
        self._served = served
        self._options = options
        self._streams: dict[str, _Stream] = {}
        self._open = 0
        self._messages = Allowance(options.max_in_flight)
        self._bytes = Allowance(options.max_body)
        self._answers = Allowance(options.max_body)
        self._refusals: set[asyncio.Task[None]] = set()
        self._ending: tuple[int, str] | None = None
        self._asked_to_end = asyncio.Event()
        self._ended = asyncio.Event()
        self.messages = 0

    async def run(self) -> None:
        """Accept the connection, and serve the client until it goes, or :meth:`end` is called."""
        reading = asyncio.create_task(self._read())
        asked = asyncio.create_task(self._asked_to_end.wait())
        try:
            await asyncio.wait((reading, asked), return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                await _cancel([reading])
                with contextlib.suppress(*_GONE):
                    await self._farewell()
            elif not isinstance(error := reading.exception(), (WebSocketDisconnect, OSError, type(None))):
                log("stream failed", "error", reason=repr(error))
        finally:
            await _cancel([reading, asked, *self._refusals, *(s.worker for s in self._streams.values() if s.worker)])
            await self._free()
            self._ended.set()

    async def end(self, code: int, reason: str) -> None:
        """Answer what was taken, tell the states of the streams, close; returns when that is done."""
        self._ending = self._ending or (code, reason)
        self._asked_to_end.set()
        await self._ended.wait()

    async def _farewell(self) -> None:
        """Finish, and hand every stream over as a snapshot, with which it goes on elsewhere."""
        assert self._ending is not None
        code, reason = self._ending
        workers = [stream.worker for stream in self._streams.values() if stream.worker]
        await asyncio.gather(*workers, *self._refusals, return_exceptions=True)
        for stream in list(self._streams.values()):
            snapshot = await self._snapshot(self._key(stream))
            head = {"event": "closed", "stream": stream.name, "reason": reason}
            await self._send(encode_reply({**head, "snapshot": base64.b64encode(snapshot).decode()}))
        await self._websocket.close(code, reason)

    async def _free(self) -> None:
        """Close all streams: their client has gone, or knows."""
        opened = [stream for stream in self._streams.values() if stream.open]
        closings = (self._served.batcher.close(self._key(stream)) for stream in opened)
        await asyncio.gather(*closings, return_exceptions=True)  # a Batcher that is closed has none any more
        for stream in opened:
            self._close(stream)
        self._streams.clear()

    # --- Messages -------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        await self._websocket.accept()
        while True:
            # Not read before there is room: the client is slowed down, not refused.
            await self._messages.take(1)
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                return
            self.messages += 1
            text = message.get("text")
            content: str | bytes = message["bytes"] if text is None else text
            await self._bytes.take(len(content))
            try:
                call = decode_call(content, self._options)
            except LstmEngineError as error:
                task = asyncio.create_task(self._reply(encode_reply({"error": str(error)}), len(content)))
                self._refusals.add(task)
                task.add_done_callback(self._refusals.discard)
                continue
            stream = self._streams.get(call.stream)
            if stream is None:
                stream = self._streams[call.stream] = _Stream(call.stream)
            stream.waiting.append((call, len(content)))
            if stream.worker is None:
                stream.worker = asyncio.create_task(self._work(stream))

    async def _reply(self, reply: str | bytes, size: int) -> None:
        """Answer a message of ``size``."""
        with contextlib.suppress(*_GONE):  # the reader is told too, and ends the session
            await self._send(reply)
        self._bytes.give(size)
        self._messages.give(1)

    async def _send(self, reply: str | bytes) -> None:
        if isinstance(reply, str):
            await self._websocket.send_text(reply)
        else:
            await self._websocket.send_bytes(reply)

    async def _work(self, stream: _Stream) -> None:
        """Answer the calls to a stream, one after the other."""
        while stream.waiting:
            call, size = stream.waiting.popleft()
            await self._serve(stream, call, size)
        stream.worker = None
        if not stream.open:
            del self._streams[stream.name]

    async def _serve(self, stream: _Stream, call: Call, size: int) -> None:
        """Answer a call, whose message had ``size`` bytes."""
        head = {"stream": call.stream} if call.id is None else {"id": call.id, "stream": call.stream}
        answer_bytes = 0
        try:
            if call.op != "open" and not stream.open:
                raise StateError(
                    f"stream: expected one that is open, found {stream.name[:80]!r}, which is not; open it first"
                )
            if call.op in ("step", "run"):
                x, answer_bytes = await self._inputs(call)
                found, payload = await self._advance(stream, call, x)
            else:
                found, payload = await self._change(stream, call)
            reply = encode_reply({**head, **found}, payload, call.binary)
        except LstmEngineError as error:
            done = {"done": error.steps} if isinstance(error, DeadlineError) else {}
            reply = encode_reply({**head, "error": str(error), **done})
        except Exception:
            log("call failed", "error", exception=True, model=self._served.name, op=call.op)
            reply = encode_reply({**head, "error": "server: expected an answer, found a fault of ours; see its log"})
        await self._reply(reply, size)
        self._answers.give(answer_bytes)

    # --- Calls ----------------------------------------------------------------------------------------------------

    def _key(self, stream: _Stream) -> tuple[int, str]:
        """Return the stream's id in the Batcher, where other clients have streams of the same names."""
        return id(self), stream.name

    async def _inputs(self, call: Call) -> tuple[Any, int]:
        """Return what a step or run takes, and the bytes of its answer, for which there is room then."""
        tensors = self._served.step_tensors
        x = tensors.decode(call.data, time=call.op == "run")
        steps = 1
        if call.op == "run":
            arrays = x.values() if isinstance(x, dict) else (x,)
            steps = max(array.shape[0] if array.ndim else 1 for array in arrays)
        answer_bytes = steps * tensors.answer_bytes
        check_size("data", steps, answer_bytes, self._options)
        most = self._options.max_json // 4  # as many values as over REST, of 4 bytes or more
        if not call.binary and answer_bytes > most:
            raise RequestError(
                413,
                f"data: expected a run whose outputs take at most {most:,} bytes, a quarter of --max-json, found one "
                f"with {answer_bytes:,}; send a binary message, or shorter chunks",
            )
        await self._answers.take(answer_bytes)
        return x, answer_bytes

    async def _advance(self, stream: _Stream, call: Call, x: Any) -> tuple[dict[str, Any], bytes | None]:
        """Step or run; returns what the reply says, and binary data."""
        batcher, key = self._served.batcher, self._key(stream)
        await batcher.room()
        y = await (batcher.step if call.op == "step" else batcher.run)(key, x, timeout=call.timeout)
        found, payload = self._served.step_tensors.encode(y, call.binary)
        return {"steps": batcher.steps(key), **found}, payload

    async def _change(self, stream: _Stream, call: Call) -> tuple[dict[str, Any], bytes | None]:
        """Do anything else; returns what the reply says, and binary data."""
        batcher, key = self._served.batcher, self._key(stream)
        steps = batcher.steps(key)
        match call.op:
            case "open":
                await self._open_stream(stream, call.snapshot)
            case "reset":
                await batcher.close(key)
            case "snapshot":
                snapshot = await self._snapshot(key)
                if call.binary:
                    return {"steps": steps}, snapshot
                return {"steps": steps, "snapshot": base64.b64encode(snapshot).decode()}, None
            case "restore":
                assert call.snapshot is not None
                await batcher.room()
                await batcher.restore(key, call.snapshot)
            case "close":
                await batcher.close(key)
                self._close(stream)
                return {"steps": steps}, None
        return {"steps": 0}, None

    async def _open_stream(self, stream: _Stream, snapshot: bytes | None) -> None:
        if stream.open:
            raise StateError(f"stream: expected a name that is not in use, found {stream.name[:80]!r}, which is open")
        if self._open >= self._options.max_streams_per_client:
            raise OverloadError(
                f"stream: expected at most {self._options.max_streams_per_client:,} open streams of one client "
                "(--max-streams-per-client), found them open; close some"
            )
        self._served.reserve()
        stream.open = True
        self._open += 1
        if snapshot is not None:
            try:
                await self._served.batcher.room()
                await self._served.batcher.restore(self._key(stream), snapshot)
            except LstmEngineError:
                self._close(stream)
                raise

    def _close(self, stream: _Stream) -> None:
        stream.open = False
        self._open -= 1
        self._served.release()

    async def _snapshot(self, key: tuple[int, str]) -> bytes:
        batcher = self._served.batcher
        await batcher.room()
        if key in batcher:
            with contextlib.suppress(StateError):  # reset, and not begun anew
                return await batcher.snapshot(key)
        return self._served.model.stream().snapshot()


async def _cancel(tasks: list[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
