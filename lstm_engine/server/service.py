"""What one server is made of, and whether it is ready."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from .errors import RequestError

if TYPE_CHECKING:
    from .models import ModelTable, Session
    from .options import ServerOptions
    from .telemetry import Telemetry

__all__ = ["Service"]


class Service:
    """The models, their clients, and where between start and end the server is.

    Parameters
    ----------
    options
        The limits.
    table
        The models, loaded.
    telemetry
        What is counted.

    Attributes
    ----------
    ready
        Whether new clients should be sent here.
    taking
        Whether new calls are taken; for a while after ``ready`` has ended they are.
    """

    def __init__(self, options: ServerOptions, table: ModelTable, telemetry: Telemetry) -> None:
        self.options = options
        self.table = table
        self.telemetry = telemetry
        self.began = time.monotonic()
        self.ready = True
        self.taking = True

    def check_taking(self) -> None:
        """Raise RequestError, with status 503, if no new calls are taken."""
        if not self.taking:
            raise RequestError(503, "server: expected one that takes calls, found it ending; go to another")

    def sessions(self) -> list[Session]:
        """Return the open sessions of all models."""
        return [session for served in self.table for session in served.sessions]

    async def end_sessions(self) -> None:
        """Close the WebSockets as a server does that goes away, their calls answered."""
        # 1001, going away.
        await asyncio.gather(
            *(session.end(1001, "the server ends") for session in self.sessions()), return_exceptions=True
        )
