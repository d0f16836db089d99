"""The oracle: an LSTM in float64 NumPy, written as the literature's equations.

Nothing here is fast. It is the definition that everything fast is tested against, so each line is
meant to be checked by eye against a paper:

* the memory cell: Hochreiter and Schmidhuber, "Long Short-Term Memory", Neural Computation 9(8), 1997;
* the forget gate: Gers, Schmidhuber and Cummins, "Learning to Forget", Neural Computation 12(10), 2000;
* peepholes: Gers, Schraudolph and Schmidhuber, "Learning Precise Timing with LSTM Recurrent
  Networks", Journal of Machine Learning Research 3, 2002;
* the projection: Sak, Senior and Beaufays, "Long Short-Term Memory Recurrent Neural Network
  Architectures for Large Scale Acoustic Modeling", Interspeech 2014;
* coupled gates: Greff, Srivastava, Koutnik, Steunebrink and Schmidhuber, "LSTM: A Search Space
  Odyssey", IEEE Transactions on Neural Networks and Learning Systems 28(10), 2017.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .activations import Activation
from .errors import ShapeError
from .weights import GATES, CellWeights, LSTMWeights

__all__ = ["CellTrace", "activation", "cell_step", "lstm"]

Array = NDArray[np.float64]

#: Klambauer, Unterthiner, Mayr and Hochreiter, "Self-Normalizing Neural Networks", 2017.
_SELU_SCALE = 1.0507009873554805
_SELU_ALPHA = 1.6732632423543772


def _sigmoid(x: Array) -> Array:
    # exp overflows to infinity for very negative x, and 1 / infinity is the 0 that the formula means.
    with np.errstate(over="ignore"):
        return np.asarray(1.0 / (1.0 + np.exp(-x)))


def activation(kind: str | Activation, x: ArrayLike, alpha: float | None = None, beta: float | None = None) -> Array:
    """Apply an activation function elementwise in float64.

    Parameters
    ----------
    kind
        A name of :data:`lstm_engine.activations.DEFAULTS`, which also gives the formulas, or an
        :class:`~lstm_engine.activations.Activation`, whose own parameters are then used.
    x
        Any shape.
    alpha, beta
        Parameters; the kind's defaults where None.

    Returns
    -------
    numpy.ndarray
        float64, the shape of ``x``. NaN gives NaN; an infinity gives what the formula gives, so
        that for instance ``silu(-inf)``, which is infinity over infinity, is NaN.

    Raises
    ------
    ValueError
        If the kind is not known.
    """
    chosen = kind if isinstance(kind, Activation) else Activation(kind, alpha, beta)
    with np.errstate(all="ignore"):
        return _formula(chosen, np.asarray(x, dtype=np.float64))


def _formula(chosen: Activation, x: Array) -> Array:
    alpha = np.float64(chosen.alpha)
    beta = np.float64(chosen.beta)
    # Where the textbook form cancels (gelu, elu) an equal form that does not is used: an oracle has
    # to be right in its last digits.
    match chosen.kind:
        case "linear":
            y = x.copy()
        case "sigmoid":
            y = _sigmoid(x)
        case "tanh":
            y = np.tanh(x)
        case "relu":
            y = np.maximum(x, 0.0)
        case "hard_sigmoid":
            y = np.clip(alpha * x + beta, 0.0, 1.0)
        case "softsign":
            y = x / (1.0 + np.abs(x))
        case "elu":
            y = np.where(x > 0.0, x, alpha * np.expm1(x))
        case "selu":
            y = _SELU_SCALE * np.where(x > 0.0, x, _SELU_ALPHA * np.expm1(x))
        case "softplus":
            y = np.logaddexp(0.0, x)
        case "exponential":
            y = np.exp(x)
        case "gelu":
            from scipy.special import erfc

            y = 0.5 * x * erfc(-x / np.sqrt(2.0))  # erfc(-z) = 1 + erf(z)
        case "gelu_tanh":
            y = x * _sigmoid(2.0 * np.sqrt(2.0 / np.pi) * (x + 0.044715 * x**3))  # 2 sigmoid(2 z) = 1 + tanh(z)
        case "silu":
            y = x / (1.0 + np.exp(-x))
        case "leaky_relu":
            y = np.where(x < 0.0, alpha * x, x)
        case "affine":
            y = alpha * x + beta
        case "thresholded_relu":
            y = np.where((x > alpha) | np.isnan(x), x, 0.0)
        case "scaled_tanh":
            y = alpha * np.tanh(beta * x)
        case _:
            raise NotImplementedError(f"reference.activation has no formula for {chosen.kind!r}")
    return np.asarray(y, dtype=np.float64)


@dataclass(frozen=True, slots=True)
class CellTrace:
    """Every stage of one step of one cell, in the order in which a person works it out.

    All arrays are float64 of shape (..., hidden_size); ``hidden_state`` has (..., output_size).
    """

    forget_gate: Array
    #: ``forget_gate * c``: what is left of the old cell state.
    forgotten: Array
    cell_candidate: Array
    input_gate: Array
    cell_state: Array
    #: The hidden activation of ``cell_state``.
    hidden_activation: Array
    output_gate: Array
    hidden_state: Array


def cell_step(x: ArrayLike, h: ArrayLike, c: ArrayLike, cell: CellWeights) -> CellTrace:
    """Advance one cell by one time step.

    Parameters
    ----------
    x
        Input, (..., features).
    h
        Hidden state before the step, (..., output_size).
    c
        Cell state before the step, (..., hidden_size).
    cell
        Weights and options.

    Returns
    -------
    CellTrace
        Every stage; ``hidden_state`` and ``cell_state`` are the state after the step.
    """
    x, h, c = (np.asarray(array, dtype=np.float64) for array in (x, h, c))
    kernel, recurrent_kernel = cell.kernel.astype(np.float64), cell.recurrent_kernel.astype(np.float64)
    bias = np.zeros(4 * cell.hidden_size) if cell.bias is None else cell.bias.astype(np.float64)
    no_peepholes = np.zeros((3, cell.hidden_size))
    p_input, p_forget, p_output = no_peepholes if cell.peepholes is None else cell.peepholes.astype(np.float64)

    def bounded(value: Array, bound: float | None) -> Array:
        return value if bound is None else np.clip(value, -bound, bound)

    with np.errstate(all="ignore"):  # overflow to infinity and infinity minus infinity are defined: IEEE 754
        sums = np.split(x @ kernel + h @ recurrent_kernel + bias, 4, axis=-1)
        z = dict(zip(GATES, sums, strict=True))

        # A peephole that is absent must not turn an infinite cell state into NaN by 0 * inf.
        if cell.peepholes is not None:
            z["input_gate"] = z["input_gate"] + p_input * c
            z["forget_gate"] = z["forget_gate"] + p_forget * c

        input_gate = activation(cell.input_activation, bounded(z["input_gate"], cell.gate_clip))
        if cell.coupled:
            forget_gate = 1.0 - input_gate
        else:
            forget_gate = activation(cell.forget_activation, bounded(z["forget_gate"], cell.gate_clip))
        cell_candidate = activation(cell.cell_activation, bounded(z["cell_candidate"], cell.gate_clip))

        forgotten = forget_gate * c
        cell_state = bounded(forgotten + input_gate * cell_candidate, cell.cell_clip)

        if cell.peepholes is not None:
            z["output_gate"] = z["output_gate"] + p_output * cell_state
        output_gate = activation(cell.output_activation, bounded(z["output_gate"], cell.gate_clip))

        hidden_activation = activation(cell.hidden_activation, cell_state)
        hidden_state = output_gate * hidden_activation
        if cell.projection is not None:
            hidden_state = hidden_state @ cell.projection.astype(np.float64)

    return CellTrace(
        forget_gate=forget_gate,
        forgotten=forgotten,
        cell_candidate=cell_candidate,
        input_gate=input_gate,
        cell_state=cell_state,
        hidden_activation=hidden_activation,
        output_gate=output_gate,
        hidden_state=hidden_state,
    )


def lstm(
    x: ArrayLike,
    weights: LSTMWeights,
    state: tuple[ArrayLike, ArrayLike] | None = None,
    *,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    zero_masked: bool = False,
    time_major: bool = False,
) -> tuple[Array, tuple[Array, Array]]:
    """Run a stack of LSTM layers over a batch of sequences in float64.

    Parameters
    ----------
    x
        (batch, time, features); (time, batch, features) if ``time_major``; (time, features) for one
        sequence without a batch axis.
    weights
        The stack.
    state
        ``(h0, c0)``, (layers * directions, batch, output_size) and (..., hidden_size), in the order
        layer 0 forward, layer 0 reverse, layer 1 forward, ...; without the batch axis if ``x`` has
        none. Zeros if None.
    lengths
        (batch,) integers, or one integer for one sequence: only the first ``lengths[row]`` steps of
        a row are real. Outputs after them are zero, the final state is that after the last real
        step, and the reverse direction begins at the last real step of each row (PyTorch, ONNX).
        A length of 0 leaves the initial state.
    mask
        (batch, time) booleans whatever ``time_major``, or (time,) for one sequence. At a False step
        the state is kept and the output repeats that of the step processed before, or zeros before
        the first real step (Keras). The mask holds for every layer. Not together with ``lengths``.
    zero_masked
        Whether the output of a masked step is zero instead.
    time_major
        Whether time is the first axis of ``x`` and the outputs.

    Returns
    -------
    y, (h, c)
        Outputs (batch, time, directions * output_size), aligned with the inputs in both directions,
        and the final state, shaped like the initial one.

    Raises
    ------
    ShapeError
        If an argument does not fit.
    """
    x = np.asarray(x, dtype=np.float64)
    unbatched = x.ndim == 2
    if unbatched:
        x = x[None]
        mask = None if mask is None else np.asarray(mask)[None]
        lengths = None if lengths is None else np.reshape(np.asarray(lengths), (1,))
        state = None if state is None else (np.asarray(state[0])[:, None], np.asarray(state[1])[:, None])
    elif time_major:
        x = np.swapaxes(x, 0, 1)
    if x.ndim != 3 or x.shape[2] != weights.input_size:
        raise ShapeError(f"x: expected (batch, time, {weights.input_size}), found {x.shape}")
    batch, time, _ = x.shape

    cells = weights.num_layers * weights.num_directions
    h0 = _initial("h0", None if state is None else state[0], (cells, batch, weights.output_size))
    c0 = _initial("c0", None if state is None else state[1], (cells, batch, weights.hidden_size))
    within = _within(lengths, batch, time)
    if lengths is not None and mask is not None:
        raise ShapeError("mask: expected None where lengths are given, found both; mask the padded steps instead")
    allowed = np.ones((batch, time), dtype=bool) if mask is None else np.asarray(mask, dtype=bool)
    if allowed.shape != (batch, time):
        raise ShapeError(f"mask: expected ({batch}, {time}), found {allowed.shape}")

    h, c = h0.copy(), c0.copy()
    layer_input = x
    for layer, layer_cells in enumerate(weights.cells):
        outputs = []
        for direction, cell in enumerate(layer_cells):
            place = layer * weights.num_directions + direction
            reverse = weights.direction == "reverse" or direction == 1
            output, h[place], c[place] = _one_direction(
                layer_input,
                h0[place],
                c0[place],
                cell,
                within=within,
                allowed=allowed,
                zero_masked=zero_masked,
                reverse=reverse,
            )
            outputs.append(output)
        layer_input = np.concatenate(outputs, axis=-1)

    y = layer_input
    if unbatched:
        return y[0], (h[:, 0], c[:, 0])
    return (np.swapaxes(y, 0, 1) if time_major else y), (h, c)


def _initial(name: str, value: ArrayLike | None, shape: tuple[int, ...]) -> Array:
    if value is None:
        return np.zeros(shape)
    array = np.asarray(value, dtype=np.float64)
    if array.shape != shape:
        raise ShapeError(f"{name}: expected {shape}, found {array.shape}")
    return array


def _within(lengths: ArrayLike | None, batch: int, time: int) -> NDArray[np.bool_]:
    """Whether each step of each row lies before the row's length, (batch, time)."""
    if lengths is None:
        return np.ones((batch, time), dtype=bool)
    array = np.asarray(lengths)
    if array.shape != (batch,) or (array.size and (array.min() < 0 or array.max() > time)):
        raise ShapeError(f"lengths: expected ({batch},) numbers from 0 to {time}, found {array!r}")
    return np.arange(time) < array[:, None]


def _one_direction(
    x: Array,
    h: Array,
    c: Array,
    cell: CellWeights,
    *,
    within: NDArray[np.bool_],
    allowed: NDArray[np.bool_],
    zero_masked: bool,
    reverse: bool,
) -> tuple[Array, Array, Array]:
    """Run one cell over (batch, time, features); returns outputs, aligned with time, and the final h and c.

    Padded steps change nothing, so that going backward over a padded row reaches its last real step
    with the initial state still in place.
    """
    batch, time, _ = x.shape
    y = np.zeros((batch, time, cell.output_size))
    previous_output = np.zeros((batch, cell.output_size))
    for step in reversed(range(time)) if reverse else range(time):
        trace = cell_step(x[:, step], h, c, cell)
        real = (within[:, step] & allowed[:, step])[:, None]
        h = np.where(real, trace.hidden_state, h)
        c = np.where(real, trace.cell_state, c)
        output = np.where(real, trace.hidden_state, 0.0 if zero_masked else previous_output)
        output = np.where(within[:, step, None], output, 0.0)
        previous_output = output
        y[:, step] = output
    return y, h, c
