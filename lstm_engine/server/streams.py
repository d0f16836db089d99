"""A WebSocket and its streams: calls to one stream in their order, those to different ones together."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
from collections import deque
from collections.abc import Awaitable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from fastapi import WebSocket, WebSocketDisconnect

from lstm_engine.errors import DeadlineError, LstmEngineError, OverloadError, StateError

from .allowance import Allowance
from .errors import RequestError
from .frames import Call, decode_call, encode_reply
from .log import log
from .protocol import check_size
from .steps import StepHead, StepHeads
from .telemetry import WIRE

if TYPE_CHECKING:
    from starlette.types import Receive, Send

    from lstm_engine.serving.work import Work

    from .models import ServedModel
    from .options import ServerOptions

__all__ = ["WebSocketSession"]

#: What tells that the client has gone, or that the connection is closing: servers differ in what they raise.
_GONE = (WebSocketDisconnect, OSError, RuntimeError)


class _Step(NamedTuple):
    """A step that is in the Batcher without a task that waits for it."""

    head: StepHead
    work: Work
    size: int
    answer_bytes: int


class _Stream:
    """A stream as its client names it, and the calls to it that wait while a task or a step is under way.

    Attributes
    ----------
    key
        Its id in the Batcher, where other clients have streams of the same names.
    """

    __slots__ = ("key", "name", "open", "step", "waiting", "worker")

    def __init__(self, name: str, session: WebSocketSession) -> None:
        self.key = id(session), name
        self.name = name
        self.open = False
        self.step: _Step | None = None
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
        # The framework's layers would cost each message more than reading it.
        self._from_wire: Receive
        self._to_wire: Send
        self._from_wire, self._to_wire = websocket.scope[WIRE]
        self._served = served
        self._options = options
        self._streams: dict[str, _Stream] = {}
        self._open = 0
        self._messages = Allowance(options.max_in_flight)
        self._bytes = Allowance(options.max_body)
        self._answers = Allowance(options.max_body)
        self._heads = StepHeads(options.max_streams_per_client)
        self._stepped: deque[_Stream] = deque()
        self._more: asyncio.Future[None] | None = None
        self._refusals: set[asyncio.Task[None]] = set()
        self._ending: tuple[int, str] | None = None
        self._asked_to_end = asyncio.Event()
        self._ended = asyncio.Event()
        self.messages = 0

    async def run(self) -> None:
        """Accept the connection, and serve the client until it goes, or :meth:`end` is called."""
        reading = asyncio.create_task(self._read())
        writing = asyncio.create_task(self._write())
        asked = asyncio.create_task(self._asked_to_end.wait())
        try:
            done, _ = await asyncio.wait((reading, writing, asked), return_when=asyncio.FIRST_COMPLETED)
            if done == {asked}:
                await _cancel([reading])
                with contextlib.suppress(*_GONE):
                    await self._farewell()
            for task in done - {asked}:
                if not isinstance(error := task.exception(), (WebSocketDisconnect, OSError, type(None))):
                    log("stream failed", "error", reason=repr(error))
        finally:
            workers = [stream.worker for stream in self._streams.values() if stream.worker]
            await _cancel([reading, writing, asked, *self._refusals, *workers])
            steps = [stream.step for stream in self._streams.values() if stream.step]
            await asyncio.gather(*(self._served.batcher._abandon(step.work) for step in steps))
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
        await asyncio.gather(*self._refusals, return_exceptions=True)
        await self._bytes.returned()
        for stream in list(self._streams.values()):
            snapshot = await self._snapshot(stream.key)
            head = {"event": "closed", "stream": stream.name, "reason": reason}
            await self._send(encode_reply({**head, "snapshot": base64.b64encode(snapshot).decode()}))
        await self._websocket.close(code, reason)

    async def _free(self) -> None:
        """Close all streams: their client has gone, or knows."""
        opened = [stream for stream in self._streams.values() if stream.open]
        closings = (self._served.batcher.close(stream.key) for stream in opened)
        await asyncio.gather(*closings, return_exceptions=True)  # a Batcher that is closed has none any more
        for stream in opened:
            self._close(stream)
        self._streams.clear()

    # --- Messages -------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        await self._websocket.accept()
        while True:
            # Not read before there is room: the client is slowed down, not refused.
            if not self._messages.take_now(1):
                await self._messages.take(1)
            message = await self._from_wire()
            if message["type"] == "websocket.disconnect":
                return
            self.messages += 1
            text = message.get("text")
            content: str | bytes = message["bytes"] if text is None else text
            if not self._bytes.take_now(len(content)):
                await self._bytes.take(len(content))
            try:
                self._take(content)
            except LstmEngineError as error:
                task = asyncio.create_task(self._reply(encode_reply({"error": str(error)}), len(content)))
                self._refusals.add(task)
                task.add_done_callback(self._refusals.discard)

    def _take(self, content: str | bytes) -> None:
        """Let a message take its turn, or raise LstmEngineError if it is none of ours."""
        head = None
        if type(content) is bytes and (head := self._heads.find(content)) and self._step(head, content):
            return
        call = decode_call(content, self._options)
        if type(content) is bytes and call.op == "step" and head is None:
            head = self._heads.learn(content, call)
            if self._step(head, content):
                return
        stream = self._streams.get(call.stream)
        if stream is None:
            stream = self._streams[call.stream] = _Stream(call.stream, self)
        stream.waiting.append((call, len(content)))
        if stream.worker is None and stream.step is None:
            stream.worker = asyncio.create_task(self._work(stream))

    # --- Steps without tasks --------------------------------------------------------------------------------------

    def _step(self, head: StepHead, content: bytes) -> bool:
        """Begin a step without a task, and return whether that was possible: nothing is to be waited for or refused."""
        stream = self._streams.get(head.stream)
        if stream is None or not stream.open or stream.worker is not None or stream.step is not None:
            return False
        tensors, batcher = self._served.step_tensors, self._served.batcher
        x = tensors.plain_step(content, head.length)
        answer_bytes = tensors.answer_bytes
        if x is None or batcher._full or answer_bytes > self._options.max_body:
            return False
        if not self._answers.take_now(answer_bytes):
            return False
        try:
            work = batcher._begin_step(stream.key, x, head.timeout)
        except LstmEngineError:
            self._answers.give(answer_bytes)
            return False  # the long way says why
        stream.step = _Step(head, work, len(content), answer_bytes)
        work.future.add_done_callback(functools.partial(self._step_done, stream))
        return True

    def _step_done(self, stream: _Stream, future: asyncio.Future[Any]) -> None:
        if not future.cancelled():
            future.exception()  # looked at, should nobody be left to tell
            self._stepped.append(stream)
            more, self._more = self._more, None
            if more is not None and not more.done():
                more.set_result(None)

    async def _write(self) -> None:
        """Answer the steps that have no task, as they are done."""
        loop = asyncio.get_running_loop()
        while True:
            if not self._stepped:
                self._more = loop.create_future()
                await self._more
            stream = self._stepped.popleft()
            step = stream.step
            assert step is not None
            await self._reply(self._step_reply(stream, step), step.size)
            self._answers.give(step.answer_bytes)
            stream.step = None  # not before: answers of a stream keep their order
            if stream.waiting:
                stream.worker = asyncio.create_task(self._work(stream))

    def _step_reply(self, stream: _Stream, step: _Step) -> str | bytes:
        try:
            y = step.work.future.result()
            return step.head.reply(self._served.batcher.steps(stream.key), y)
        except Exception as error:
            return self._failure(step.head.said, error, "step")

    # --- Calls with tasks -----------------------------------------------------------------------------------------

    async def _reply(self, reply: str | bytes, size: int) -> None:
        """Answer a message of ``size``."""
        try:
            await self._send(reply)
        except _GONE:
            pass  # the reader is told too, and ends the session
        finally:
            self._bytes.give(size)
            self._messages.give(1)

    def _send(self, reply: str | bytes) -> Awaitable[None]:
        return self._to_wire({"type": "websocket.send", "text" if isinstance(reply, str) else "bytes": reply})

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
            reply = encode_reply({**call.said, **found}, payload, call.binary)
        except Exception as error:
            reply = self._failure(call.said, error, call.op)
        await self._reply(reply, size)
        self._answers.give(answer_bytes)

    def _failure(self, said: Mapping[str, Any], error: Exception, op: str) -> str | bytes:
        """Return the reply that tells an error, which is being handled; one of ours is for the log."""
        if isinstance(error, LstmEngineError):
            done = {"done": error.steps} if isinstance(error, DeadlineError) else {}
            return encode_reply({**said, "error": str(error), **done})
        log("call failed", "error", exception=True, model=self._served.name, op=op)
        return encode_reply({**said, "error": "server: expected an answer, found a fault of ours; see its log"})

    # --- Calls ----------------------------------------------------------------------------------------------------

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
        batcher, key = self._served.batcher, stream.key
        await batcher.room()
        y = await (batcher.step if call.op == "step" else batcher.run)(key, x, timeout=call.timeout)
        found, payload = self._served.step_tensors.encode(y, call.binary)
        return {"steps": batcher.steps(key), **found}, payload

    async def _change(self, stream: _Stream, call: Call) -> tuple[dict[str, Any], bytes | None]:
        """Do anything else; returns what the reply says, and binary data."""
        batcher, key = self._served.batcher, stream.key
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
                await self._served.batcher.restore(stream.key, snapshot)
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
