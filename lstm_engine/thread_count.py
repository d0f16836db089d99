"""How many threads a call may use: what was asked for, within what the machine and its owner allow."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from .errors import LstmEngineError, UnsupportedModelError

if TYPE_CHECKING:
    from ._core import Threads

__all__ = ["NumThreads", "check_num_threads", "shared_threads", "thread_count", "usable_cpus"]

#: Threads of one call: a number, or "auto".
NumThreads = int | Literal["auto"]

#: Where "auto" looks, in this order.
VARIABLES: Final = ("LSTM_ENGINE_NUM_THREADS", "OMP_NUM_THREADS")


def check_num_threads(num_threads: object) -> None:
    """Raise UnsupportedModelError unless ``num_threads`` is a positive integer or ``"auto"``."""
    if num_threads == "auto" and isinstance(num_threads, str):
        return
    if isinstance(num_threads, bool) or not isinstance(num_threads, int) or num_threads < 1:
        raise UnsupportedModelError(
            f"num_threads: expected a positive integer or 'auto', found {num_threads!r}; use 1 for the caller's own "
            "thread alone"
        )


def thread_count(num_threads: NumThreads) -> int:
    """Return how many threads a call may use, its caller's included.

    Parameters
    ----------
    num_threads
        A number, or ``"auto"``: ``LSTM_ENGINE_NUM_THREADS`` of the environment, else ``OMP_NUM_THREADS``, else all
        CPUs. It is cut to :func:`usable_cpus`.

    Raises
    ------
    UnsupportedModelError
        If ``num_threads`` is neither.
    LstmEngineError
        If a variable of the environment is no positive integer, naming it.
    """
    check_num_threads(num_threads)
    if num_threads == 1:
        return 1
    asked = num_threads if num_threads != "auto" else _environment(os.environ)
    allowed = usable_cpus()
    return allowed if asked is None else min(asked, allowed)


def shared_threads(num_threads: NumThreads) -> Threads | None:
    """Return the threads for a model, None for its caller's own alone; raises as :func:`thread_count`.

    Unpickled they are counted anew, for the machine and the environment of the process that reads them.
    """
    count = thread_count(num_threads)
    if count == 1:
        return None
    from ._core import Threads

    return Threads(count, num_threads)


def _environment(environment: Mapping[str, str]) -> int | None:
    """Return what the environment asks for, None for nothing."""
    for name in VARIABLES:
        value = environment.get(name)
        if value is None or not value.strip():
            continue
        # OpenMP takes a list, one number for each level of nesting; the first is ours.
        first = value.split(",")[0].strip() if name == "OMP_NUM_THREADS" else value.strip()
        if not (first.isascii() and first.isdecimal() and len(first) <= 9 and int(first) > 0):
            raise LstmEngineError(
                f"{name}: expected a positive integer in the environment, found {value!r:.100}; correct or unset it, "
                "or give num_threads as a number"
            )
        return int(first)
    return None


def usable_cpus(root: Path = Path("/")) -> int:
    """Return how many CPUs this process may keep busy: its affinity mask and its cgroups' quotas, 1 at least.

    Parameters
    ----------
    root
        Of the file system that ``proc`` and ``sys`` lie in.
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    quota = _cgroup_quota(root)
    # A quota of 1.5 CPUs is one thread: a second one would be held back again and again, and the first with it.
    return max(1, cpus if quota is None else min(cpus, int(quota)))


def _cgroup_quota(root: Path) -> float | None:
    """Return the smallest CPU quota of the cgroups that this process is in, in CPUs; None without one."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    quotas: list[float] = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, separator, path = rest.partition(":")
        if not separator:
            continue
        if not controllers:
            _walk_up(root / "sys/fs/cgroup", path, _quota_v2, quotas)
        elif "cpu" in controllers.split(","):
            for name in (controllers, "cpu"):
                _walk_up(root / "sys/fs/cgroup" / name, path, _quota_v1, quotas)
    return min(quotas, default=None)


def _walk_up(mount: Path, path: str, quota: Callable[[Path], float | None], quotas: list[float]) -> None:
    """Add the quotas of a cgroup and of all above it, for a child cannot have more than its parents.

    In a container the path is often the host's and does not exist here; the mount's own folder is then the cgroup.
    """
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    for count in range(len(parts), -1, -1):
        found = quota(mount.joinpath(*parts[:count]))
        if found is not None:
            quotas.append(found)


def _words(path: Path) -> list[str]:
    """Return the words of a small file; none if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").split()
    except OSError:
        return []


def _ratio(quota: list[str], period: list[str]) -> float | None:
    """Return quota / period in CPUs; None where there is no limit ("max", -1) or the files say something else."""
    try:
        limit, length = int(quota[0]), int(period[0])
    except (IndexError, ValueError):
        return None
    return limit / length if limit > 0 and length > 0 else None


def _quota_v2(folder: Path) -> float | None:
    words = _words(folder / "cpu.max")
    return _ratio(words[:1], words[1:2] or ["100000"])


def _quota_v1(folder: Path) -> float | None:
    return _ratio(_words(folder / "cpu.cfs_quota_us"), _words(folder / "cpu.cfs_period_us"))
