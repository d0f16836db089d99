"""A file that appears whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO

__all__ = ["replacement"]


@contextlib.contextmanager
def replacement(target: Path) -> Iterator[IO[bytes]]:
    """Open a new file beside ``target`` that takes its place when all has been written to the disk.

    Whoever reads ``target`` meanwhile, or has it mapped, keeps the old file. If anything fails the old file stays, and
    nothing is left beside it.

    Parameters
    ----------
    target
        The file, in an existing folder; links in the path are resolved by the caller.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    unfinished = target.with_name(f".{target.name}.{secrets.token_hex(4)}.unfinished")
    try:
        with unfinished.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(target)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    # The name itself is on the disk only when its folder is; not every system can be asked for that.
    with contextlib.suppress(OSError):
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
