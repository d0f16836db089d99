"""Streams: a model that takes one time step at a call and carries its state between calls."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .lstm import LSTM
from .model import Model

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
