"""The LSTM: a stack of cells that maps batches of sequences to outputs and states."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .activations import Activation
from .arrays import Axes, as_float_array, as_lengths, as_mask
from .errors import FormatError, ShapeError, UnsupportedModelError
from .formats.limits import Limits, reading, spend_packed
from .options import NARROW_TYPES, Backend, ComputeType, check_options, check_sizes, dtype_of
from .thread_count import NumThreads, shared_threads
from .weights import CellWeights, Direction, LSTMWeights

if TYPE_CHECKING:
    from ._core import CoreLSTM, SlidingWindow, Stream, StreamPool, Threads
    from .accuracy import AccuracyReport

__all__ = ["LSTM", "MergeMode", "merge"]

Array = NDArray[Any]
MergeMode = Literal["concat", "sum", "mul", "ave"]

_MERGE_MODES: Final = ("concat", "sum", "mul", "ave", None)


def merge(forward: Array, reverse: Array, mode: MergeMode | None) -> Array | tuple[Array, Array]:
    """Combine the outputs of the two directions as Keras's Bidirectional does.

    Parameters
    ----------
    forward, reverse
        Arrays of one shape (of one shape but for the last axis with ``"concat"`` and None).
    mode
        ``"concat"``, ``"sum"``, ``"mul"``, ``"ave"``, or None for the pair itself.
    """
    if mode == "concat":
        return np.concatenate([forward, reverse], axis=-1)
    if mode == "sum":
        return np.asarray(forward + reverse)
    if mode == "mul":
        return np.asarray(forward * reverse)
    if mode == "ave":
        return np.asarray((forward + reverse) / np.asarray(2, forward.dtype))
    return forward, reverse


class LSTM:
    """An LSTM stack; immutable, shared by any number of threads, picklable.

    Parameters
    ----------
    weights
        Canonical weights; see :class:`lstm_engine.weights.LSTMWeights`.
    compute_type
        ``"float32"``; ``"float64"`` (blas backend only); ``"bfloat16"``, ``"int8"`` or ``"int8_recurrent"`` (fused
        backend only), which compute the products of the gates in fewer bits, and all else in float32; ``"auto"``: the
        fastest of these and float32 within an error, measured on ``calibration``.
    num_threads
        Threads of one call, or ``"auto"``; see :func:`lstm_engine.load`.
    backend
        ``"fused"``: our packed kernels. ``"blas"``: gate products by SciPy's BLAS. ``"auto"``: fused wherever this
        CPU has a vector instruction set that we know, else blas; never decided by the input.
    merge_mode
        How the outputs of two directions are combined: ``"concat"``, ``"sum"``, ``"mul"``, ``"ave"``, or None for
        a pair. Between the layers of a stack it is always ``"concat"``.
    zero_masked
        Whether the output of a masked step is zero instead of the previous output.
    calibration, max_error
        For ``compute_type="auto"``: inputs as for a call, and the largest relative L2 error of y, h and c against
        float32 that a faster compute type may have on them.
    isa
        Instruction set; None for ``LSTM_ENGINE_ISA`` or the best one here.

    Raises
    ------
    UnsupportedModelError
        If the options cannot be had together.
    LstmEngineError
        If the instruction set is unknown or does not run here.
    """

    def __init__(
        self,
        weights: LSTMWeights,
        *,
        compute_type: ComputeType = "float32",
        num_threads: NumThreads | Threads = 1,
        backend: Backend = "auto",
        merge_mode: MergeMode | None = "concat",
        zero_masked: bool = False,
        isa: str | None = None,
        calibration: ArrayLike | None = None,
        max_error: float = 1e-2,
    ) -> None:
        from ._core import CoreLSTM, Threads

        if not isinstance(weights, LSTMWeights):
            raise ShapeError(
                f"weights: expected LSTMWeights, found {type(weights).__name__}; use LSTM.from_weights for plain "
                "arrays, LSTM.from_torch or LSTM.from_keras for files"
            )
        check_options(compute_type, 1, backend, calibration)
        if compute_type == "auto":
            from .accuracy import fastest

            plain = LSTM(
                weights,
                num_threads=num_threads,
                backend=backend,
                merge_mode=merge_mode,
                zero_masked=zero_masked,
                isa=isa,
            )
            self.__dict__.update(fastest(plain, calibration, max_error).__dict__)
            return
        check_sizes(compute_type, weights)
        threads = num_threads if isinstance(num_threads, Threads) else shared_threads(num_threads)
        if merge_mode not in _MERGE_MODES:
            raise UnsupportedModelError(
                f"merge_mode: expected one of {', '.join(map(repr, _MERGE_MODES))}, found {merge_mode!r}"
            )
        self._options: dict[str, Any] = {
            "compute_type": compute_type,
            "num_threads": num_threads,
            "backend": backend,
            "merge_mode": merge_mode,
            "zero_masked": bool(zero_masked),
            "isa": isa,
        }
        self._weights = weights
        for cell in weights.flat():
            # Four gates, each in panels of its own.
            size = dtype_of(compute_type).itemsize
            spend_packed(cell.input_size + cell.output_size + 1, cell.hidden_size, 4 * size)
        self._core = CoreLSTM(weights, backend=backend, compute_type=compute_type, isa=isa, threads=threads)
        self._plain = weights.num_directions == 1 or merge_mode == "concat"

    # ---- other ways to make one ----

    @classmethod
    def from_torch(
        cls,
        source: str | os.PathLike[str] | Mapping[str, Any] | Any,
        prefix: str | None = None,
        *,
        limits: Limits | None = None,
        allow_nonfinite: bool = False,
        **options: Any,
    ) -> LSTM:
        """Make an LSTM from PyTorch weights, without PyTorch.

        Parameters
        ----------
        source
            Path of a ``.pt`` or ``.safetensors`` file, a state_dict, an ``nn.LSTM`` or an ``nn.LSTMCell``.
        prefix
            Name of the LSTM in the state_dict, such as ``"encoder.rnn"``. With None and exactly one LSTM in the
            source, that one.
        limits, allow_nonfinite
            As in :func:`lstm_engine.load`.
        **options
            As of :class:`LSTM`.

        Raises
        ------
        FormatError, UnsupportedModelError, UnsafeFileError
            If the source is not sound, has no or several LSTMs, or asks for code to be run.
        """
        from .formats.torch_lstm import lstm_weights_from_torch

        with reading(limits, allow_nonfinite):
            return cls._of_file(source, lstm_weights_from_torch(source, prefix), options)

    @classmethod
    def from_keras(
        cls,
        source: str | os.PathLike[str] | Any,
        layer: str | None = None,
        *,
        limits: Limits | None = None,
        allow_nonfinite: bool = False,
        **options: Any,
    ) -> LSTM:
        """Make an LSTM from a Keras LSTM or Bidirectional(LSTM) layer, without Keras.

        Parameters
        ----------
        source
            Path of a ``.keras`` or ``.h5`` file, or a Keras layer object.
        layer
            Name of the layer in the file. With None and exactly one such layer in the file, that one.
        limits, allow_nonfinite
            As in :func:`lstm_engine.load`.
        **options
            As of :class:`LSTM`; ``merge_mode`` and ``zero_masked`` are the layer's own unless given.

        Raises
        ------
        FormatError, UnsupportedModelError, UnsafeFileError
            If the source is not sound, has no or several such layers, or the layer is of another kind.
        """
        from .layers.keras_lstm import lstm_from_keras

        with reading(limits, allow_nonfinite):
            weights, found = lstm_from_keras(source, layer)
            return cls._of_file(source, weights, {**found, **options})

    @classmethod
    def from_onnx(
        cls,
        path: str | os.PathLike[str],
        node: str | None = None,
        *,
        limits: Limits | None = None,
        allow_nonfinite: bool = False,
        **options: Any,
    ) -> LSTM:
        """Make an LSTM from one LSTM node of an ONNX model; an exported stack of layers is one node for each layer.

        Parameters
        ----------
        path
            The file. Reading it needs the package onnx.
        node
            Name of the node, or of one of its outputs. With None and exactly one LSTM in the file, that one.
        limits, allow_nonfinite
            As of :func:`lstm_engine.load`.
        **options
            As of :class:`LSTM`.

        Raises
        ------
        FormatError, UnsupportedModelError, UnsafeFileError
            If the file is not sound, has no or several such nodes, or their weights are computed from inputs.
        """
        from .formats.onnx import read_onnx
        from .onnx.model import lstm_weights_from_onnx

        with reading(limits, allow_nonfinite):
            return cls._of_file(path, lstm_weights_from_onnx(read_onnx(path), node), options)

    @classmethod
    def _of_file(cls, source: Any, weights: LSTMWeights, options: dict[str, Any]) -> LSTM:
        try:
            return cls(weights, **options)
        except FormatError as error:  # packed, they are beyond what the file may ask for
            raise FormatError(f"{source}: {error}") from None

    @classmethod
    def from_weights(
        cls,
        kernel: ArrayLike | Sequence[ArrayLike],
        recurrent: ArrayLike | Sequence[ArrayLike],
        bias: ArrayLike | Sequence[ArrayLike] | None = None,
        *,
        projection: ArrayLike | Sequence[ArrayLike] | None = None,
        peepholes: ArrayLike | Sequence[ArrayLike] | None = None,
        direction: Direction = "forward",
        activation: str | Activation = "tanh",
        recurrent_activation: str | Activation = "sigmoid",
        hidden_activation: str | Activation | None = None,
        gate_clip: float | None = None,
        cell_clip: float | None = None,
        coupled: bool = False,
        **options: Any,
    ) -> LSTM:
        """Make an LSTM from NumPy arrays: gates in the order input, forget, cell, output; ``x @ kernel``.

        Parameters
        ----------
        kernel
            (features, 4 * hidden_size); for several cells a sequence of such arrays, layer by layer and forward
            before reverse. The other arrays follow it.
        recurrent
            (output_size, 4 * hidden_size).
        bias
            (4 * hidden_size,), or None.
        projection
            (hidden_size, output_size), or None.
        peepholes
            (3, hidden_size): input, forget, output; or None.
        direction
            ``"forward"``, ``"reverse"`` or ``"bidirectional"``.
        activation, recurrent_activation, hidden_activation
            Of the candidate, of the three gates and of the cell state (None: as the candidate).
        gate_clip, cell_clip, coupled
            As of :class:`lstm_engine.weights.CellWeights`.
        **options
            As of :class:`LSTM`.

        Raises
        ------
        ShapeError
            If the arrays do not fit together, naming the array.
        """

        def listed(value: Any, name: str, count: int) -> list[Any]:
            values = list(value) if isinstance(value, (list, tuple)) else [value] * (count if value is None else 1)
            if len(values) != count:
                raise ShapeError(f"{name}: expected {count} arrays, one for each kernel, found {len(values)}")
            return values

        def named(value: str | Activation) -> Activation:
            return value if isinstance(value, Activation) else Activation(value)

        kernels: list[Any] = list(kernel) if isinstance(kernel, (list, tuple)) else [kernel]
        count = len(kernels)
        directions = 2 if direction == "bidirectional" else 1
        if count == 0 or count % directions:
            raise ShapeError(
                f"kernel: expected a multiple of {directions} arrays for direction {direction!r}, found {count}"
            )
        gates = named(recurrent_activation)
        candidate = named(activation)
        cells = [
            CellWeights(
                *arrays,
                input_activation=gates,
                forget_activation=gates,
                cell_activation=candidate,
                output_activation=gates,
                hidden_activation=candidate if hidden_activation is None else named(hidden_activation),
                gate_clip=gate_clip,
                cell_clip=cell_clip,
                coupled=coupled,
            )
            for arrays in zip(
                kernels,
                listed(recurrent, "recurrent", count),
                listed(bias, "bias", count),
                listed(projection, "projection", count),
                listed(peepholes, "peepholes", count),
                strict=True,
            )
        ]
        layers = tuple(tuple(cells[first : first + directions]) for first in range(0, count, directions))
        return cls(LSTMWeights(layers, direction), **options)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        verify: bool = False,
        limits: Limits | None = None,
        allow_nonfinite: bool = False,
        **options: Any,
    ) -> LSTM:
        """Load an LSTM that :meth:`save` wrote.

        Parameters
        ----------
        path
            The file.
        verify
            Whether to run the golden inputs that the file holds, and compare.
        limits, allow_nonfinite
            As of :func:`lstm_engine.load`.
        **options
            As of :class:`LSTM`; ``merge_mode`` and ``zero_masked`` are the saved one's unless given.

        Raises
        ------
        FormatError, UnsupportedModelError, UnsafeFileError
            If the file is not sound, or holds another model.
        """
        from .saving import load_lstm

        with reading(limits, allow_nonfinite):
            return load_lstm(path, options, verify=verify)

    def save(self, path: str | os.PathLike[str], *, golden: ArrayLike | None = None) -> None:
        """Save the LSTM to a safetensors file: :meth:`load` makes the same LSTM from it, ``le.load`` a model.

        Parameters
        ----------
        path
            Where to. What lies there is replaced once the new file is whole; if saving fails it stays.
        golden
            An ``x`` as for a call, kept in the file with y, h and c for it; None for none.

        Raises
        ------
        ShapeError
            If ``golden`` does not fit.
        OSError
            If the file cannot be written.
        """
        from .saving import save

        save(self, path, golden=golden)

    def to_torch_state_dict(self, prefix: str = "") -> dict[str, Array]:
        """Return the state dict of the ``torch.nn.LSTM`` that computes the same, as NumPy arrays.

        ``nn.LSTM.load_state_dict({name: torch.from_numpy(array) for name, array in ...})`` takes it. Of PyTorch's two
        biases, ``bias_ih`` is this LSTM's (what PyTorch would add up to) and ``bias_hh`` is zero; without a bias
        there is neither.

        Parameters
        ----------
        prefix
            What the names begin with, such as ``"encoder.rnn"``; empty for nothing.

        Raises
        ------
        UnsupportedModelError
            If ``nn.LSTM`` cannot compute the same (peepholes, clipping, other activations, ...), naming why.
        """
        from .export.weights import torch_state_dict

        return torch_state_dict(self, prefix)

    def to_keras_weights(self, layer: int = 0) -> list[Array]:
        """Return what ``set_weights`` of a ``keras.layers.LSTM``, or of a Bidirectional of one, takes.

        The Keras layer is made with this one's units, ``use_bias``, activations and ``go_backwards``, which are no
        weights.

        Parameters
        ----------
        layer
            Which layer of the stack; Keras makes a stack of several of its layers.

        Returns
        -------
        list of numpy.ndarray
            Kernel (features, 4 * units), recurrent kernel (units, 4 * units) and, if there is one, bias (4 * units,);
            of the forward, then of the backward direction.

        Raises
        ------
        ShapeError
            If there is no such layer.
        UnsupportedModelError
            If a Keras LSTM cannot compute the same (projection, peepholes, clipping, ...), naming why.
        """
        from .export.weights import keras_weights

        return keras_weights(self, layer)

    # ---- what it is ----

    @property
    def weights(self) -> LSTMWeights:
        """The canonical weights."""
        return self._weights

    @property
    def input_size(self) -> int:
        """Number of features of the input."""
        return self._weights.input_size

    @property
    def hidden_size(self) -> int:
        """Number of units of the cell state."""
        return self._weights.hidden_size

    @property
    def output_size(self) -> int:
        """Number of units of the output of one direction."""
        return self._weights.output_size

    @property
    def num_layers(self) -> int:
        """Number of stacked layers."""
        return self._weights.num_layers

    @property
    def num_directions(self) -> int:
        """1, or 2 if bidirectional."""
        return self._weights.num_directions

    @property
    def merge_mode(self) -> MergeMode | None:
        """How the outputs of two directions are combined."""
        mode: MergeMode | None = self._options["merge_mode"]
        return mode

    @property
    def zero_masked(self) -> bool:
        """Whether the output of a masked step is zero."""
        return bool(self._options["zero_masked"])

    @property
    def compute_type(self) -> str:
        """The type that it computes in."""
        return str(self._options["compute_type"])

    @property
    def backend(self) -> str:
        """The backend in use: ``"fused"`` or ``"blas"``."""
        return self._core.backend

    @property
    def isa(self) -> str:
        """The instruction set in use."""
        return self._core.isa

    @property
    def num_threads(self) -> int:
        """Threads that a call may use, its caller's included."""
        return 1 if self._core.threads is None else self._core.threads.count

    @property
    def core(self) -> CoreLSTM:
        """The packed weights."""
        return self._core

    def memory_bytes(self) -> int:
        """Return the bytes of packed weights."""
        return self._core.memory_bytes

    def accuracy_report(self, x: ArrayLike, compute_type: ComputeType | None = None) -> AccuracyReport:
        """Compare a compute type with float32: error of y, h and c, speed-up and memory.

        Parameters
        ----------
        x
            As for a call; the state begins at zero.
        compute_type
            The type to compare; this LSTM's own if None.

        Raises
        ------
        ShapeError
            If ``x`` does not fit, or has no steps.
        UnsupportedModelError
            If the type is float32 itself, or not known.
        """
        from .accuracy import accuracy_report

        return accuracy_report(self, x, compute_type)

    def _in_compute_type(self, compute_type: ComputeType) -> LSTM:
        """Return the same LSTM in another compute type."""
        backend = "auto" if (self.backend == "fused") == (compute_type == "float64") else self.backend
        backend = "fused" if compute_type in NARROW_TYPES else backend
        return LSTM(self._weights, **{**self._options, "compute_type": compute_type, "backend": backend})

    def __repr__(self) -> str:
        weights = self._weights
        projected = f", output_size={self.output_size}" if self.output_size != self.hidden_size else ""
        return (
            f"LSTM(input_size={self.input_size}, hidden_size={self.hidden_size}{projected}, "
            f"num_layers={self.num_layers}, direction={weights.direction!r}, compute_type={self.compute_type!r}, "
            f"backend={self.backend!r}, isa={self.isa!r})"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self._weights, self._options)

    # ---- what it does ----

    def __call__(
        self,
        x: ArrayLike,
        state: tuple[ArrayLike, ArrayLike] | None = None,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        time_major: bool = False,
        out: Array | None = None,
    ) -> tuple[Any, tuple[Array, Array]]:
        """Run a batch of sequences.

        Parameters
        ----------
        x
            (batch, time, features), or (time, features) unbatched; (time, batch, features) if ``time_major``.
        state
            ``(h0, c0)`` or None for zero: (layers * directions, batch, output size / hidden size), without the
            batch axis if ``x`` is unbatched.
        lengths
            (batch,) of int, or one int if unbatched: outputs past a row's length are zero, the final state is that
            of its last real step, and time runs backward from there.
        mask
            (batch, time) of bool whatever ``time_major``, (time,) if unbatched: a masked step keeps the state and
            repeats the previous output, zero before the first. Not together with ``lengths``.
        time_major
            Whether the axes of ``x`` and ``y`` begin with time.
        out
            Array for y; not with ``merge_mode`` other than ``"concat"`` if bidirectional.

        Returns
        -------
        y, (h, c)
            y like ``x`` with directions * output size features (a pair if ``merge_mode`` is None); h
            (layers * directions, batch, output size) and c (layers * directions, batch, hidden size).

        Raises
        ------
        ShapeError
            If an argument does not fit, naming it.
        """
        if state is None and lengths is None and mask is None and self._plain:
            # The shortest way for a small model, open where nothing has to be converted.
            result = self._core.run_plain(x, out, time_major)
            if result is not None:
                return result
        y, h, c = self.run(x, state, lengths=lengths, mask=mask, time_major=time_major, out=out, sequences=True)
        return y, (h, c)

    def run(
        self,
        x: ArrayLike,
        state: tuple[ArrayLike, ArrayLike] | None = None,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        time_major: bool = False,
        out: Array | None = None,
        sequences: bool = True,
    ) -> tuple[Any, Array, Array]:
        """As calling it, with the choice of all outputs or only the last; returns y, h, c.

        Parameters
        ----------
        sequences
            False: y is (batch, directions * output size), the last processed output of each direction, and only
            that is stored.
        """
        dtype = self._core.dtype
        if not isinstance(x, np.ndarray):
            x = as_float_array(x, "x", None, dtype)  # converted once: the call below then finds nothing to do
        unbatched = x.ndim == 2
        axes: Axes = ("time", self.input_size)
        if not unbatched:
            axes = ("time", "batch", self.input_size) if time_major else ("batch", "time", self.input_size)
        array = as_float_array(x, "x", axes, dtype)
        if unbatched:
            array = array[:, None] if time_major else array[None]
        batch, time = (array.shape[1], array.shape[0]) if time_major else (array.shape[0], array.shape[1])
        h0, c0 = self._initial(state, batch, unbatched)
        if mask is not None and lengths is not None:
            raise ShapeError("mask, lengths: expected one of the two, found both; put the lengths into the mask")
        if mask is not None:
            mask = as_mask(mask, "mask", (time,) if unbatched else (batch, time)).reshape(batch, time)
        if lengths is not None:
            lengths = as_lengths(
                np.reshape(lengths, (1,)) if unbatched and np.ndim(lengths) == 0 else lengths, "lengths", batch, time
            )
        target = self._target(out, array, sequences, time_major, unbatched, (array, h0, c0))
        y, h, c = self._core.run(
            array,
            h0,
            c0,
            lengths=lengths,
            mask=mask,
            zero_masked=self.zero_masked,
            time_major=time_major,
            out=target,
            sequences=sequences,
        )
        if unbatched:
            h, c = h[:, 0], c[:, 0]
            y = y[0] if not sequences or not time_major else y[:, 0]
        if out is not None:
            if target is None:
                np.copyto(out, y)
            y = out
        elif self.num_directions == 2 and self.merge_mode != "concat":
            return merge(y[..., : self.output_size], y[..., self.output_size :], self.merge_mode), h, c
        return y, h, c

    def _initial(
        self, state: tuple[ArrayLike, ArrayLike] | None, batch: int, unbatched: bool
    ) -> tuple[Array | None, Array | None]:
        """Return (h0, c0) with their batch axis."""
        if state is None:
            return None, None
        if not isinstance(state, (tuple, list)) or len(state) != 2:
            raise ShapeError(f"state: expected a pair (h0, c0), found {type(state).__name__}")
        rows = self.num_layers * self.num_directions
        pair = []
        for name, value, size in zip(("h0", "c0"), state, (self.output_size, self.hidden_size), strict=True):
            axes = (rows, size) if unbatched else (rows, batch, size)
            pair.append(as_float_array(value, name, axes, self._core.dtype).reshape(rows, batch, size))
        return pair[0], pair[1]

    def _target(
        self,
        out: Array | None,
        x: Array,
        sequences: bool,
        time_major: bool,
        unbatched: bool,
        sources: tuple[Array | None, ...],
    ) -> Array | None:
        """Check ``out``; return the array that the core may write into, or None if the result must be copied."""
        if out is None:
            return None
        if self.num_directions == 2 and self.merge_mode != "concat":
            raise ShapeError(f"out: expected None with merge_mode {self.merge_mode!r}, found an array")
        width = self.num_directions * self.output_size
        batch = x.shape[1] if time_major else x.shape[0]
        full = (*x.shape[:2], width) if sequences else (batch, width)
        shape = full
        if unbatched:
            shape = (x.shape[0 if time_major else 1], width) if sequences else (width,)
        if (
            not isinstance(out, np.ndarray)
            or out.dtype != self._core.dtype
            or out.shape != shape
            or not out.flags.writeable
        ):
            found = f"dtype {out.dtype}, shape {out.shape}" if isinstance(out, np.ndarray) else type(out).__name__
            raise ShapeError(f"out: expected a writeable {self._core.dtype} array of shape {shape}, found {found}")
        if not out.flags.c_contiguous or not out.flags.aligned:
            return None
        if any(source is not None and np.may_share_memory(out, source) for source in sources):
            # The core reads its inputs while it writes its outputs.
            return None
        return out.reshape(full)

    def stream(self, batch: int | None = None) -> Stream:
        """Return a stream: one time step at a call, the state kept between calls.

        Parameters
        ----------
        batch
            Number of rows that advance together, or None for one row without a batch axis.

        Raises
        ------
        UnsupportedModelError
            If the LSTM is bidirectional or runs backward: its first output needs the last input.
        """
        from ._core import Stream

        return Stream(self, batch)

    def stream_pool(
        self,
        capacity: int = 10_000,
        *,
        idle_timeout: float | None = None,
        on_evict: Callable[[int, bytes], Any] | None = None,
    ) -> StreamPool:
        """Make a pool of independent streams, any of which advance together in one call.

        Parameters
        ----------
        capacity
            Most streams that are open at a time; memory for all is taken at once.
        idle_timeout
            Seconds: where the pool is full, opening a stream may close the one that was not used for longest if that
            is as long. None: never.
        on_evict
            Called as ``on_evict(id, snapshot)`` before a stream is closed for being idle.

        Raises
        ------
        UnsupportedModelError
            If the LSTM is bidirectional or runs backward.
        """
        from ._core import StreamPool

        return StreamPool(self, capacity, idle_timeout=idle_timeout, on_evict=on_evict)

    def sliding_window(self, length: int = 50, batch: int | None = None) -> SlidingWindow:
        """Make a sliding window: for every sample a prediction over the last ``length`` samples from a zero state.

        The same bits as calling it on the window, for the price of one step of each window in flight.

        Parameters
        ----------
        length
            Samples that each prediction is over.
        batch
            Rows (instruments, sensors) that are fed together; None for one row without a batch axis.

        Raises
        ------
        UnsupportedModelError
            If the LSTM is bidirectional or runs backward.
        """
        from ._core import SlidingWindow

        return SlidingWindow(self, length, batch)

    def _stream_chain(self) -> list[tuple[str, Any]]:
        """Return what a stream runs: one LSTM."""
        if self._weights.direction != "forward":
            raise UnsupportedModelError(
                f"stream: expected a forward LSTM, found direction {self._weights.direction!r}: its first output needs "
                "the last input; call it on whole sequences"
            )
        return [("lstm", self._core)]

    def _stream_names(self) -> list[None]:
        """Return the names of the LSTMs of the chain: this one needs none."""
        return [None]


def _rebuild(weights: LSTMWeights, options: dict[str, Any]) -> LSTM:
    """Make an unpickled LSTM: packed anew, for the CPU of the process that reads it."""
    return LSTM(weights, **options)
