"""Errors of requests, and the HTTP status of each error of the package."""

from __future__ import annotations

from typing import Final

from lstm_engine.errors import (
    DeadlineError,
    LstmEngineError,
    OverloadError,
    StateError,
)

__all__ = ["RequestError", "UnknownModelError", "status_of"]


class RequestError(LstmEngineError):
    """A request that is refused before any model has seen it.

    Parameters
    ----------
    status
        The HTTP status.
    message
        What was expected, what was found, and what to do.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class UnknownModelError(RequestError):
    """There is no such model, or no such version of it."""

    def __init__(self, message: str) -> None:
        super().__init__(404, message)


#: What is not the client's fault has a 5xx; all else of the package is said of what the client sent.
_STATUS: Final[tuple[tuple[type[LstmEngineError], int], ...]] = (
    (OverloadError, 503),
    (DeadlineError, 504),
    (StateError, 409),
    (LstmEngineError, 400),
)


def status_of(error: LstmEngineError) -> int:
    """Return the HTTP status of an error."""
    if isinstance(error, RequestError):
        return error.status
    return next(status for kind, status in _STATUS if isinstance(error, kind))
