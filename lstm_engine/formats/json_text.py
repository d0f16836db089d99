"""JSON from strangers: bounded in size and depth, and saying one thing only."""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final

from lstm_engine.errors import FormatError, UnsafeFileError

from .limits import WAY_OUT, current_limits

__all__ = ["check_json_bytes", "parse_json"]


#: What half of a surrogate pair is written with, as is every character beyond the first 65,536.
_HALF: Final = re.compile(r"\\u[dD][89a-fA-F]")


class _RepeatedKeyError(Exception):
    pass


def parse_json(text: bytes | str, subject: str) -> Any:
    """Parse a JSON text.

    Parameters
    ----------
    text
        The text; bytes are UTF-8.
    subject
        What the text is and where it stands, for messages.

    Returns
    -------
    Any
        Plain values: None, bool, int, float, str, list and dict.

    Raises
    ------
    FormatError
        If it is not JSON.
    UnsafeFileError
        If it is larger or nested deeper than the caps of :mod:`lstm_engine.formats.limits`, or an object has a
        key twice (two parsers would then read two different things).
    """
    check_json_bytes(len(text), subject)
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        value = json.loads(
            text, object_pairs_hook=_object, parse_constant=_constant, parse_float=_float, parse_int=_int
        )
    except RecursionError:
        raise UnsafeFileError(_too_deep(subject)) from None
    except _RepeatedKeyError as error:
        raise UnsafeFileError(
            f"{subject}: the key {error} stands twice in one object of the JSON; expected once"
        ) from None
    except ValueError as error:
        raise FormatError(f"{subject}: expected JSON, found a damaged or truncated text ({error})") from None
    if _deeper_than(value, current_limits().json_depth):
        raise UnsafeFileError(_too_deep(subject))
    if _HALF.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise FormatError(f"{subject}: expected Unicode, found half of a surrogate pair in a text") from None
    return value


def check_json_bytes(size: int, subject: str, file_bytes: int | None = None) -> None:
    """Raise UnsafeFileError if a JSON text of ``size`` bytes is larger than the caps allow; before it is unpacked.

    Parameters
    ----------
    size
        Of the text.
    subject
        What it is, for the message.
    file_bytes
        Size of the archive that it is unpacked from, if there is one.
    """
    most = current_limits().json_bytes
    if file_bytes is not None:
        most = min(most, most // 8 + 16 * file_bytes)
    if size > most:
        raise UnsafeFileError(
            f"{subject}: expected at most {most:,} bytes of JSON, found {size:,}; " + WAY_OUT.format("json_bytes")
        )


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _RepeatedKeyError(ascii(key[:100]))
            seen.add(key)
    return result


def _constant(name: str) -> float:
    raise ValueError(f"the constant {name}, which JSON does not have")


def _float(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"the number {digits[:40]}, which is too large")
    return value


def _int(digits: str) -> int:
    # No size, seed or number of a layer has more, and what takes it further may not either.
    if len(digits) > 20:
        raise ValueError(f"the number {digits[:40]}, which is too large")
    return int(digits)


def _deeper_than(value: Any, depth: int) -> bool:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(depth):
        if not level:
            return False
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
    return bool(level)


def _too_deep(subject: str) -> str:
    return f"{subject}: expected JSON nested at most {current_limits().json_depth} deep, found more"
