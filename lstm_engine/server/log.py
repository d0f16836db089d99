"""The server's log: one JSON object a line."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any, Final

__all__ = ["JsonLines", "log"]

_LOGGER: Final = logging.getLogger("lstm_engine.server")


def log(event: str, level: str = "info", *, exception: bool = False, **fields: Any) -> None:
    """Write an event.

    Parameters
    ----------
    event
        What has happened, in a few words that never change, to search for.
    level
        ``"debug"``, ``"info"``, ``"warning"`` or ``"error"``.
    exception
        Whether the exception that is being handled belongs to it.
    **fields
        What else there is to say.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    if _LOGGER.isEnabledFor(number):
        _LOGGER.log(number, event, extra={"fields": fields}, exc_info=exception)


class JsonLines(logging.Formatter):
    """Formats records of any logger: ``time``, ``level``, ``event``, then what belongs to it."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as a line."""
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        if record.name != _LOGGER.name:
            entry["logger"] = record.name
        entry |= getattr(record, "fields", {})
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)
