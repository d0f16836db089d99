"""The index of a model whose weights are spread over several files.

``model.safetensors.index.json`` and ``pytorch_model.bin.index.json`` stand beside the files that they name: their
``weight_map`` says for each tensor which of them holds it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lstm_engine.errors import FormatError, UnsafeFileError, raise_together

from .json_text import parse_json
from .limits import WAY_OUT, current_limits

__all__ = ["read_index", "read_shards"]


def read_index(path: Path, subject: str) -> dict[str, set[str]] | None:
    """Read the index of a sharded model.

    Parameters
    ----------
    path
        The index.
    subject
        Its name, for messages.

    Returns
    -------
    dict or None
        For each shard's plain file name the tensors that it has to hold; None if the JSON is no index.

    Raises
    ------
    FormatError, UnsafeFileError
        If it is damaged, or names a shard anywhere else than beside it.
    """
    with path.open("rb") as file:
        index = parse_json(file.read(current_limits().json_bytes + 1), subject)
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict):
        return None
    most = current_limits().tensors
    if len(places) > most:
        raise FormatError(f"{subject}: there are more than {most:,} tensors; {WAY_OUT.format('tensors')}")
    shards: dict[str, set[str]] = {}
    for tensor, shard in places.items():
        if not isinstance(shard, str):
            raise FormatError(f"{subject}: expected the name of a file for {tensor!r:.200}, found {shard!r:.60}")
        if not _is_plain(shard):
            raise UnsafeFileError(
                f"{subject}: the tensor {tensor!r:.200} is said to be in {shard[:200]!a}; expected the plain name of a "
                "file beside the index"
            )
        shards.setdefault(shard, set()).add(tensor)
    return shards


def _is_plain(name: str) -> bool:
    # A colon would be a drive or a stream of Windows.
    return name not in ("", ".", "..") and len(name) < 256 and name.isprintable() and not set(name) & set('/\\:*?"<>|')


def read_shards(
    folder: Path,
    shards: Mapping[str, set[str]],
    subject: str,
    read: Callable[[Path], tuple[Mapping[str, Any], Mapping[str, str]]],
) -> tuple[dict[str, Any], dict[str, str]]:
    """Read all shards; every tensor has to be in the one that the index names, and in no other.

    Parameters
    ----------
    folder
        Where the index stands.
    shards
        As :func:`read_index` gives it.
    subject
        The index, for messages.
    read
        Reads one shard: its tensors, and the reason for each that cannot be read.

    Returns
    -------
    tensors, unsupported
        Of all shards together.

    Raises
    ------
    FormatError
        If a shard is missing, or has other tensors than the index says; all problems are listed together.
    """
    missing = [
        f"the shard {name!r} is not there; expected it beside the index: copy or download all of the model's files"
        for name in shards
        if not (folder / name).exists()
    ]
    raise_together(FormatError, subject, missing[:20])
    tensors: dict[str, Any] = {}
    unsupported: dict[str, str] = {}
    problems: list[str] = []
    for shard, wanted in shards.items():
        held, unread = read(folder / shard)
        found = held.keys() | unread.keys()
        for word, names in (("lacks", wanted - found), ("holds, unlike the index says,", found - wanted)):
            if names:
                shown = ", ".join(repr(name[:200]) for name in sorted(names)[:5])
                more = f" and {len(names) - 5} more" if len(names) > 5 else ""
                problems.append(
                    f"the shard {shard!r} {word} {shown}{more}; "
                    "index and shards are not of one model: download all of them anew"
                )
        tensors |= held
        unsupported |= unread
    raise_together(FormatError, subject, problems[:20])
    return tensors, unsupported
