"""The three options that every loader takes, checked in one place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from .errors import UnsupportedModelError
from .thread_count import NumThreads, check_num_threads

if TYPE_CHECKING:
    from .weights import LSTMWeights

__all__ = [
    "BACKENDS",
    "COMPUTE_TYPES",
    "NARROW_TYPES",
    "Backend",
    "ComputeType",
    "check_options",
    "check_sizes",
    "dtype_of",
]

ComputeType = Literal["float32", "float64", "bfloat16", "int8", "int8_recurrent", "auto"]
Backend = Literal["auto", "fused", "blas"]

COMPUTE_TYPES: Final = ("float32", "float64", "bfloat16", "int8", "int8_recurrent")
#: Compute types of the products of LSTM gates, where all else is float32.
NARROW_TYPES: Final[tuple[ComputeType, ...]] = ("bfloat16", "int8", "int8_recurrent")
BACKENDS: Final = ("auto", "fused", "blas")

#: Values of x or of h that int8 sums; as LE_NARROW_MOST_VALUES in src/kernels/narrow.h.
INT8_MOST_VALUES: Final = 1 << 17


def dtype_of(compute_type: str) -> np.dtype[Any]:
    """Return the dtype of inputs, states and outputs of a model that computes in ``compute_type``."""
    return np.dtype(np.float64 if compute_type == "float64" else np.float32)


def check_sizes(compute_type: str, weights: LSTMWeights) -> None:
    """Raise UnsupportedModelError if sums of an LSTM's products could overflow in ``compute_type``."""
    if compute_type not in ("int8", "int8_recurrent"):
        return
    for cell in weights.flat():
        found = max(cell.output_size, cell.input_size if compute_type == "int8" else 0)
        if found > INT8_MOST_VALUES:
            raise UnsupportedModelError(
                f"compute_type: {compute_type!r} sums up to {INT8_MOST_VALUES} products without overflow, found a cell "
                f"with {found} inputs; use 'bfloat16'"
            )


def check_options(compute_type: str, num_threads: NumThreads, backend: str, calibration: Any = None) -> None:
    """Raise UnsupportedModelError unless the options can be had together.

    ``compute_type="auto"`` is only for callers that take calibration data, and needs them.

    Parameters
    ----------
    compute_type
        ``"float32"``; ``"float64"`` (blas backend only); ``"bfloat16"``, ``"int8"`` or ``"int8_recurrent"`` (fused
        backend only).
    num_threads
        Threads of one call: a positive integer, or ``"auto"``.
    backend
        ``"auto"``, ``"fused"`` or ``"blas"``.
    calibration
        Data for ``"auto"``, or None.
    """
    if compute_type == "auto" and calibration is None:
        raise UnsupportedModelError(
            "compute_type: 'auto' takes the fastest type within an error, and needs data to measure it; give "
            "calibration=x, inputs like those that will come, to le.load or LSTM, found none"
        )
    if compute_type != "auto" and calibration is not None:
        raise UnsupportedModelError(
            f"calibration: expected none but with compute_type 'auto', found some with {compute_type!r}; leave it away"
        )
    if compute_type not in (*COMPUTE_TYPES, "auto"):
        raise UnsupportedModelError(
            f"compute_type: expected one of {', '.join(COMPUTE_TYPES)}, found {compute_type!r}; use 'float32'"
        )
    if backend not in BACKENDS:
        raise UnsupportedModelError(f"backend: expected one of {', '.join(BACKENDS)}, found {backend!r}")
    if compute_type == "float64" and backend == "fused":
        raise UnsupportedModelError(
            "backend: the fused backend computes in float32, found compute_type 'float64'; use backend='auto' or 'blas'"
        )
    if compute_type in (*NARROW_TYPES, "auto") and backend == "blas":
        raise UnsupportedModelError(
            f"backend: the blas backend computes in float32 and float64, found compute_type {compute_type!r}; use "
            "backend='auto' or 'fused'"
        )
    check_num_threads(num_threads)
