"""The three options that every loader takes, checked in one place."""

from __future__ import annotations

from typing import Final, Literal

from .errors import UnsupportedModelError

__all__ = ["BACKENDS", "COMPUTE_TYPES", "Backend", "ComputeType", "check_options"]

ComputeType = Literal["float32", "float64"]
Backend = Literal["auto", "fused", "blas"]

COMPUTE_TYPES: Final = ("float32", "float64")
BACKENDS: Final = ("auto", "fused", "blas")


def check_options(compute_type: str, num_threads: int, backend: str) -> None:
    """Raise UnsupportedModelError unless the options can be had together.

    Parameters
    ----------
    compute_type
        ``"float32"``, or ``"float64"`` (blas backend only).
    num_threads
        Threads of one call: 1.
    backend
        ``"auto"``, ``"fused"`` or ``"blas"``.
    """
    if compute_type not in COMPUTE_TYPES:
        raise UnsupportedModelError(
            f"compute_type: expected one of {', '.join(COMPUTE_TYPES)}, found {compute_type!r}; use 'float32'"
        )
    if backend not in BACKENDS:
        raise UnsupportedModelError(f"backend: expected one of {', '.join(BACKENDS)}, found {backend!r}")
    if compute_type == "float64" and backend == "fused":
        raise UnsupportedModelError(
            "backend: the fused backend computes in float32, found compute_type 'float64'; use backend='auto' or 'blas'"
        )
    if isinstance(num_threads, bool) or not isinstance(num_threads, int) or num_threads != 1:
        raise UnsupportedModelError(
            f"num_threads: expected 1, the number of threads of one call in this version, found {num_threads!r}; "
            "run several calls from threads of your own: the GIL is released"
        )
