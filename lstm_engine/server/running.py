"""From start to drained: one process, one event loop, and what a signal does."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from types import FrameType
from typing import Final

import uvicorn

from .api import create_app
from .log import JsonLines, log
from .models import ModelTable
from .options import ServerOptions
from .service import Service
from .telemetry import Telemetry

__all__ = ["run", "serve_until"]

#: Between two looks whether uvicorn listens.
_START_SECONDS: Final = 0.002
#: Connections that may wait to be accepted.
_BACKLOG: Final = 2048
#: Seconds after which a WebSocket is pinged, and in which it has to answer, so that one that is gone is noticed.
_PING_SECONDS: Final = 20.0
#: New objects that may be alive before garbage is looked for. Python's 700 are reached by the messages of some hundred
#: clients that are being answered, again and again, and a twentieth of the time went into looking in vain.
_GARBAGE: Final = 20_000


def run(options: ServerOptions) -> int:
    """Serve until a signal asks for the end; returns the exit status."""
    _log_to(options.log_level)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(serve_until(options, on_listening=_settle))


def _settle(service: Service, port: int) -> None:
    """Leave what has been loaded, which stays, out of garbage collections: one took 70 ms, in the middle of answers."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GARBAGE)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's event loop where that is installed, which costs less for each message; None for asyncio's."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def _log_to(level: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("lstm_engine.server").setLevel(level.upper())


class _Server(uvicorn.Server):
    """uvicorn, which is told when to end instead of hearing the signals."""

    def __init__(self, config: uvicorn.Config, told: Callable[[int], None]) -> None:
        super().__init__(config)
        self._told = told
        self._loop = asyncio.get_running_loop()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Called between any two instructions: the loop decides when.
        self._loop.call_soon_threadsafe(self._told, sig)


class _Signals:
    """How urgently the end was asked for."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.hurry = asyncio.Event()

    def told(self, number: int) -> None:
        log("signal", signal=signal.Signals(number).name)
        if number == signal.SIGINT or self.asked.is_set():
            self.hurry.set()
        self.asked.set()


async def serve_until(
    options: ServerOptions,
    stop: asyncio.Event | None = None,
    on_listening: Callable[[Service, int], None] | None = None,
) -> int:
    """Serve until a signal, or ``stop``, asks for the end.

    Parameters
    ----------
    options
        What and where.
    stop
        Ends it as SIGTERM does.
    on_listening
        Called with the service and its port when clients can connect.

    Returns
    -------
    int
        0 if all calls were answered, 1 if some were cut off.
    """
    signals = _Signals()
    with _listening_socket(options) as listening:
        async with ModelTable(options) as table:
            service = Service(options, table, Telemetry(table))
            server = _Server(_config(options, service), signals.told)
            serving = asyncio.create_task(server.serve(sockets=[listening]))
            watching = asyncio.create_task(table.watch())
            while not server.started and not serving.done():  # then it has the signals too
                await asyncio.sleep(_START_SECONDS)
            host, port = listening.getsockname()[:2]
            log("listening", host=host, port=port, pid=os.getpid(), models=sorted({one.name for one in table}))
            if on_listening is not None:
                on_listening(service, port)
            asked = [asyncio.create_task(event.wait()) for event in (signals.asked, stop) if event is not None]
            try:
                await asyncio.wait([serving, *asked], return_when=asyncio.FIRST_COMPLETED)
                watching.cancel()
                finished = await _drain(service, server, serving, signals)
            finally:
                for task in (watching, *asked):
                    task.cancel()
                await asyncio.gather(watching, *asked, return_exceptions=True)
            if not finished:
                table.hurry()
    log("ended", finished=finished)
    return 0 if finished else 1


async def _drain(service: Service, server: _Server, serving: asyncio.Task[None], signals: _Signals) -> bool:
    """End in order: not ready, no new calls, WebSockets closed, connections closed; whether all had its time."""
    options = service.options
    service.ready = False
    service.telemetry.ready.set(0)
    log("draining", sessions=len(service.sessions()))
    if not signals.hurry.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(signals.hurry.wait(), options.drain_delay)
    service.taking = False
    loop = asyncio.get_running_loop()
    until = loop.time() + options.drain_timeout
    finished = True
    try:
        async with asyncio.timeout_at(until):
            await service.end_sessions()
    except TimeoutError:
        finished = False
    server.should_exit = True
    done, _ = await asyncio.wait((serving,), timeout=max(until - loop.time(), 0.5))
    if not done:
        finished = False
        server.force_exit = True
        for task in list(server.server_state.tasks):
            task.cancel()
    await serving
    return finished


def _listening_socket(options: ServerOptions) -> socket.socket:
    """Return a socket at the address, before models are loaded: one that cannot be had is known at once."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        options.host, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        listening.close()
        raise OSError(f"--host {options.host} --port {options.port}: {error.strerror or error}") from None
    return listening


def _config(options: ServerOptions, service: Service) -> uvicorn.Config:
    return uvicorn.Config(
        create_app(service),
        log_config=None,
        access_log=False,
        lifespan="off",
        backlog=_BACKLOG,
        server_header=False,
        proxy_headers=False,
        ws="auto",
        ws_max_size=options.max_body,
        ws_ping_interval=_PING_SECONDS,
        ws_ping_timeout=_PING_SECONDS,
        ws_per_message_deflate=False,  # a small message may unfold to a large one, and noise does not compress
        timeout_graceful_shutdown=None,
    )
