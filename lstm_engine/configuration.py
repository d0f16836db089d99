"""What is in use: version, instruction set, backends, threads, BLAS."""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["config"]


def config() -> dict[str, Any]:
    """Return what lstm_engine runs with here.

    Returns
    -------
    dict
        ``version``; ``instruction_set`` in use and ``instruction_sets`` compiled in, each with whether
        this CPU runs it; ``backend`` that ``"auto"`` means for float32; ``backends``; ``compute_types``, each with
        what its kernels run on; ``num_threads`` of a call by default, and ``num_threads_auto``: what
        ``num_threads="auto"`` means; ``cpus`` that this process may keep busy, by its affinity mask and its cgroup;
        ``blas``: the library that SciPy was built with (None if SciPy is not installed); ``python`` and ``numpy``
        versions.

    Raises
    ------
    LstmEngineError
        If ``LSTM_ENGINE_ISA`` names an instruction set that is unknown or that this CPU does not run, or
        ``LSTM_ENGINE_NUM_THREADS`` or ``OMP_NUM_THREADS`` is no positive integer.
    """
    import numpy as np

    from . import __version__
    from ._core import Kernels, instruction_sets
    from .options import COMPUTE_TYPES
    from .thread_count import thread_count, usable_cpus

    kernels = Kernels.select()
    return {
        "version": __version__,
        "instruction_set": kernels.name,
        "instruction_sets": instruction_sets(),
        "backend": "fused" if kernels.vectorised else "blas",
        "backends": ["fused", "blas"],
        "compute_types": {name: "blas" if name == "float64" else kernels.name_for(name) for name in COMPUTE_TYPES},
        "num_threads": 1,
        "num_threads_auto": thread_count("auto"),
        "cpus": usable_cpus(),
        "blas": _blas(),
        "python": sys.version.split()[0],
        "numpy": np.__version__,
    }


def _blas() -> str | None:
    """Return name and version of the BLAS that SciPy was built with."""
    try:
        import scipy
    except ImportError:
        return None
    built = scipy.show_config(mode="dicts")
    blas = built.get("Build Dependencies", {}).get("blas", {}) if isinstance(built, dict) else {}
    return f"{blas.get('name', 'unknown')} {blas.get('version', '')}".strip()
