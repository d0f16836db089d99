"""Models behind HTTP and WebSocket: what ``lstm-engine serve`` runs.

::

    options.py     every option, its default and the reason for it
    files.py       which files are models
    models.py      the models that are served, and how a changed file takes over
    protocol.py    the Open Inference Protocol: bytes to arrays and back, nothing else
    frames.py      the same for the messages of streams
    steps.py       binary messages that ask for a step, whose heads are known
    streams.py     a WebSocket and its streams
    allowance.py   how much of its messages is in memory at a time
    api.py         what can be asked for, and how an answer looks
    service.py     what one server is made of, and whether it is ready
    schemas.py     the JSON of the protocol, for the OpenAPI document
    telemetry.py   metrics, and the middleware that counts and logs requests
    log.py         the log's lines
    running.py     from start to drained

``api.py``, ``schemas.py``, ``streams.py``, ``telemetry.py`` and ``running.py`` need what the extra ``serve`` brings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from lstm_engine.errors import LstmEngineError

if TYPE_CHECKING:
    from .options import ServerOptions

__all__ = ["serve"]

_NEEDED: Final = ("fastapi", "uvicorn", "websockets", "prometheus_client")


def serve(options: ServerOptions) -> int:
    """Serve models until a signal asks for the end, and return the exit status.

    Parameters
    ----------
    options
        What to serve, where, and the limits.

    Returns
    -------
    int
        0 if everything that had been taken was answered, 1 if the time to finish it was over.

    Raises
    ------
    LstmEngineError
        If a package of the extra ``serve`` is missing, or a model cannot be loaded.
    OSError
        If the address cannot be had, or there is no such file.
    """
    from importlib.util import find_spec

    missing = [name.replace("_", "-") for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise LstmEngineError(
            f"serve: expected the packages that a server is made of, found no {', '.join(missing)}; "
            "pip install lstm-engine[serve]"
        )
    from .running import run

    return run(options)
