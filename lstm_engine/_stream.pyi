"""Streams: a model that takes one time step at a call and carries its state between calls."""

from typing import Any

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
