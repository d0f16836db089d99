"""A Ray of this machine alone, for checks that run in a process of their own: ``python tests/ray_checks.py NAME``.

Ray starts a handful of processes. In a test's own process their warnings and leftovers would be the whole suite's; a
process of its own can be given a time, and is ended with all that it started.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

#: Seconds for a check: on a busy machine of two cores Ray takes ten to begin, and as much for each of its processes.
TIME = 300

ENVIRONMENT = {
    "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
    "RAY_AUTH_MODE": "disabled",  # it would leave a key in the home folder
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on Linux as on those: the loopback interface alone
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "240",
    "RAY_USAGE_STATS_ENABLED": "0",
    "NO_PROXY": "127.0.0.1,localhost",
}


def run_alone(*arguments: Any, folder: Path) -> str:
    """Run a Python program of Ray's in a process group of its own; return what it printed.

    Parameters
    ----------
    *arguments
        The script and its arguments.
    folder
        Where it runs.
    """
    with (
        # A short path: those of Ray's sockets in it may have 107 characters.
        tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as scratch,
        subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            env={**os.environ, **ENVIRONMENT, "RAY_TMPDIR": scratch},
            start_new_session=True,
        ) as process,
    ):
        try:
            out, err = process.communicate(timeout=TIME)
        finally:
            # Its group is whatever it has left behind; that there is nothing is the rule.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, f"{out[-4000:]}\n{err[-8000:]}"
    return out


def start() -> Any:
    """Start a Ray of two CPUs; returns the package."""
    import ray

    ray.init(num_cpus=2, object_store_memory=100 << 20, include_dashboard=False, log_to_driver=False)
    return ray
