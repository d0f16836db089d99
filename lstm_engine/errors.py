"""The errors of lstm_engine.

Every message names the file, tensor or argument, what was expected, what was found, and what to do.

::

    LstmEngineError
    ├── FormatError            (ValueError)    the bytes are not what the format says
    ├── UnsupportedModelError  (ValueError)    the file is sound but asks for what is not implemented
    ├── UnsafeFileError        (ValueError)    the file asks for something that a data file must not do
    ├── ShapeError             (ValueError)    an array has the wrong rank, size or dtype
    └── StateError             (RuntimeError)  a stream is used in a way that its state does not allow
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "FormatError",
    "LstmEngineError",
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
