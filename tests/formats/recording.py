"""What the programs that record fixtures of a framework share: one archive of files, and processes of one thread."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

#: Of the environment: frameworks that compute in one thread record the same numbers everywhere.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}


def run(program: Path, *arguments: str, **environment: str) -> None:
    """Run a Python program in one thread."""
    subprocess.run(
        [sys.executable, str(program), *arguments], env={**os.environ, **ONE_THREAD, **environment}, check=True
    )


def pack(folder: Path, target: Path) -> None:
    """Put the files of a folder into an archive ``.tar.xz``, which is the same whenever they are."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(target, "w:xz", preset=9) as archive:
        # Files of one kind stand side by side, where they compress best.
        for path in sorted(folder.iterdir(), key=lambda path: (path.suffix, path.name)):
            entry = tarfile.TarInfo(path.name)
            entry.size = path.stat().st_size
            with path.open("rb") as file:
                archive.addfile(entry, file)
    print(f"{target.name}: {target.stat().st_size:,} bytes")
