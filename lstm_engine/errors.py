"""The errors of lstm_engine.

Every message names the file, tensor or argument, what was expected, what was found, and what to do.

::

    LstmEngineError
    ├── FormatError            (ValueError)    the bytes are not what the format says
    ├── UnsupportedModelError  (ValueError)    the file is sound but asks for what is not implemented
    ├── UnsafeFileError        (ValueError)    the file asks for something that a data file must not do
    ├── ShapeError             (ValueError)    an array has the wrong rank, size or dtype
    ├── OverloadError          (RuntimeError)  more calls or streams at a time than there is room for
    ├── DeadlineError          (TimeoutError)  the time that a call was given is over
    └── StateError             (RuntimeError)  a stream is used in a way that its state does not allow
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "DeadlineError",
    "FormatError",
    "LstmEngineError",
    "OverloadError",
    "ShapeError",
    "StateError",
    "UnsafeFileError",
    "UnsupportedModelError",
    "raise_together",
]


class LstmEngineError(Exception):
    """Base class of every error that lstm_engine raises on purpose."""


class FormatError(LstmEngineError, ValueError):
    """A file is truncated, damaged, or of another format than expected."""


class UnsupportedModelError(LstmEngineError, ValueError):
    """A sound model asks for a layer, option or dtype that is not implemented."""


class UnsafeFileError(LstmEngineError, ValueError):
    """A file asks for something that a file of data must never ask for, such as running code."""


class ShapeError(LstmEngineError, ValueError):
    """An array has the wrong rank, size, dtype or content for the argument it was given as."""


class StateError(LstmEngineError, RuntimeError):
    """A stream was used in a way that its state does not allow."""


class OverloadError(LstmEngineError, RuntimeError):
    """A service was asked for more at a time than it has room for; nothing was done. Try again later, or elsewhere."""


class DeadlineError(LstmEngineError, TimeoutError):
    """The time that a call was given is over.

    Parameters
    ----------
    message
        What was asked for, and how far it came.
    steps
        The steps that the call's stream has made for it: 0 if it did not begin.
    """

    def __init__(self, message: str, steps: int = 0) -> None:
        super().__init__(message)
        self.steps = steps


def raise_together(kind: type[LstmEngineError], subject: str, problems: Sequence[str]) -> None:
    """Raise one error of ``kind`` that lists all ``problems`` found in ``subject``, if there are any.

    Parameters
    ----------
    kind
        The error class.
    subject
        What the problems were found in, usually a file's path.
    problems
        One sentence for each problem. Nothing is raised if it is empty.
    """
    if not problems:
        return
    if len(problems) == 1:
        raise kind(f"{subject}: {problems[0]}")
    listed = "\n".join(f"  {number}. {problem}" for number, problem in enumerate(problems, start=1))
    raise kind(f"{subject}: {len(problems)} problems were found:\n{listed}")
