"""The compiled core: argument checks, then C. No arithmetic happens in Cython."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .activations import Activation
from .weights import LSTMWeights

class Kernels:
    """The kernels of one instruction set; ``name`` is "avx512", "avx2", "neon" or "scalar"."""

    @property
    def name(self) -> str:
        """Name of the instruction set."""

    def name_for(self, compute_type: str) -> str:
        """Name of the instruction set that a compute type runs on, with what it is extended by: "avx512_vnni"."""

    @property
    def vectorised(self) -> bool:
        """Whether this is a vector instruction set, not the scalar reference."""

    @staticmethod
    def select(name: str | None = None) -> Kernels:
        """Return the named instruction set, or that of ``LSTM_ENGINE_ISA``, or the best one here."""

class Threads:
    """Threads that the LSTMs of one model share; made when a call first needs them, asleep between calls."""

    def __init__(self, count: int, asked: int | str | None = None, split: int = 0) -> None: ...
    split: int
    @property
    def count(self) -> int:
        """Threads of one call, the caller's included."""

    @property
    def alive(self) -> int:
        """Threads that have been made so far."""

def instruction_sets() -> dict[str, bool]:
    """Every instruction set compiled in, best first, and whether this CPU runs it."""

class CoreLSTM:
    """Packed weights of an LSTM stack; immutable, shared by any number of threads."""

    threads: Threads | None
    backend: str
    isa: str
    dtype: np.dtype[Any]
    memory_bytes: int
    layers: int
    directions: int
    input_size: int
    hidden_size: int
    output_size: int
    def __init__(
        self,
        weights: LSTMWeights,
        *,
        backend: str = "auto",
        compute_type: str = "float32",
        isa: str | None = None,
        baseline: bool = False,
        threads: Threads | None = None,
    ) -> None: ...
    def run(
        self,
        x: NDArray[Any],
        h0: NDArray[Any] | None,
        c0: NDArray[Any] | None,
        *,
        lengths: NDArray[np.int64] | None = None,
        mask: NDArray[np.bool_] | None = None,
        zero_masked: bool = False,
        time_major: bool = False,
        out: NDArray[Any] | None = None,
        sequences: bool = True,
    ) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Run a batch of sequences; returns y (all steps, or the last output), h_n and c_n."""

    def run_plain(
        self, x: object, out: object, time_major: bool
    ) -> tuple[NDArray[Any], tuple[NDArray[Any], NDArray[Any]]] | None:
        """Run from the zero state; None where an argument has to be converted first."""

class Linear:
    """``activation(x @ kernel + bias)`` over the last axis, each row's bits independent of the others."""

    in_features: int
    out_features: int
    memory_bytes: int
    def __init__(
        self,
        kernel: NDArray[np.float32],
        bias: NDArray[np.float32] | None = None,
        activation: Activation | None = None,
        *,
        isa: str | None = None,
    ) -> None: ...
    def __call__(self, x: NDArray[np.float32], out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """x (..., in_features) -> (..., out_features), float32."""

def activate(
    x: NDArray[np.float32], activation: Activation, out: NDArray[np.float32] | None = None, *, isa: str | None = None
) -> NDArray[np.float32]:
    """Apply an activation elementwise; ``out`` may be ``x`` itself."""

def softmax(x: NDArray[np.float32], *, isa: str | None = None) -> NDArray[np.float32]:
    """Softmax over the last axis."""

def layer_norm(
    x: NDArray[np.float32],
    gamma: NDArray[np.float32] | None,
    beta: NDArray[np.float32] | None,
    epsilon: float,
    *,
    isa: str | None = None,
) -> NDArray[np.float32]:
    """Normalise over the last axis (Ba, Kiros and Hinton 2016)."""
