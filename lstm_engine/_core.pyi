"""The compiled core: argument checks, then C. No arithmetic happens in Cython."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .activations import Activation
from .lstm import LSTM
from .model import Model
from .weights import LSTMWeights

class Kernels:
    """The kernels of one instruction set; ``name`` is "avx512", "avx2", "neon" or "scalar"."""

    @property
    def name(self) -> str:
        """Name of the instruction set."""

    def name_for(self, compute_type: str, without: int = 0) -> str:
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
        without: int = 0,
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

class Stream:
    """A causal model or LSTM that advances one time step at a call and carries its state."""

    source: Model | LSTM
    batch: int | None
    def __init__(self, source: Model | LSTM, batch: int | None = None) -> None: ...
    def step(self, x: ArrayLike, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Advance every row by one time step: (features,) or (batch, features) to outputs likewise."""

    def run(self, x: ArrayLike) -> NDArray[Any]:
        """Advance every row by a chunk of any length: (time, features) or (batch, time, features)."""

    def reset(self) -> None:
        """Return every row to the zero state."""

    @property
    def state(self) -> Any:
        """The state as named arrays: ``(h, c)`` of an LSTM's stream; of a model's, a tuple for each layer by name."""

    @state.setter
    def state(self, value: Any) -> None: ...
    def snapshot(self) -> bytes:
        """Return the state as bytes."""

    def restore(self, snapshot: bytes | bytearray | memoryview) -> None:
        """Set the state to that of a snapshot of the same model; nothing changes if it does not fit."""

    def fork(self) -> Stream:
        """Return another stream of the same model in the same state."""

class StreamPool:
    """Many independent streams of one model, any of which advance together in one call."""

    source: Model | LSTM
    capacity: int
    idle_timeout: float | None
    def __init__(
        self,
        source: Model | LSTM,
        capacity: int = 10_000,
        *,
        idle_timeout: float | None = None,
        on_evict: Callable[[int, bytes], Any] | None = None,
    ) -> None: ...
    def __len__(self) -> int: ...
    def __contains__(self, id: object) -> bool: ...
    @property
    def ids(self) -> list[int]:
        """Ids of the open streams."""

    def open(self, snapshot: bytes | bytearray | memoryview | None = None) -> int:
        """Open a stream, at the zero state or where a snapshot was taken; returns its id."""

    def step(
        self,
        ids: Sequence[int] | NDArray[np.integer[Any]],
        x: Any,
        *,
        steps: ArrayLike | None = None,
        out: NDArray[Any] | None = None,
    ) -> Any:
        """Advance some of the streams: (streams, features) to (streams, outputs), or several ``steps`` of each."""

    def reset(self, id: int) -> None:
        """Return a stream to the zero state."""

    def snapshot(self, id: int) -> bytes:
        """Return the state of a stream as bytes."""

    def restore(self, id: int, snapshot: bytes | bytearray | memoryview) -> None:
        """Set the state of a stream to that of a snapshot."""

    def close(self, id: int) -> None:
        """Close a stream: its id is never used again."""

    def evict(self, idle: float) -> list[int]:
        """Close every stream that was not used for ``idle`` seconds; returns their ids."""

    def _named_state(self, id: int) -> dict[str | None, tuple[NDArray[Any], ...]]:
        """The state of an open stream, by layer name."""

    def _set_state(self, id: int, arrays: Sequence[NDArray[Any]] | None) -> None:
        """Set the state of an open stream to such arrays, contiguous; None for the beginning."""

class SlidingWindow:
    """A prediction for every sample, each over the last ``length`` samples from a zero state."""

    source: Model | LSTM
    length: int
    batch: int | None
    def __init__(self, source: Model | LSTM, length: int = 50, batch: int | None = None) -> None: ...
    @property
    def samples(self) -> int:
        """Samples that the window holds, from 0 to ``length``."""

    def push(self, x: Any, *, out: NDArray[Any] | None = None, defer: bool = False) -> Any:
        """Take the next sample of every row; the prediction over the last ``length``, None until there are as many."""

    def settle(self) -> None:
        """Do what a deferred ``push`` left."""

    def reset(self) -> None:
        """Forget all samples."""
