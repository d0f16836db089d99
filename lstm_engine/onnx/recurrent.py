"""LSTM, GRU and RNN nodes: their weights and options, and how they are run by the project's own cores.

Shapes are those of ONNX: x (time, batch, features), W (directions, gates * hidden, features), R (directions, gates *
hidden, hidden), B (directions, 2 * gates * hidden), P (directions, 3 * hidden), y (time, directions, batch, hidden) and
states (directions, batch, hidden); with ``layout=1`` the batch comes first in x, y and states. The gates of an LSTM
stand in the order input, output, forget, cell, those of its peepholes in the order input, output, forget.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from lstm_engine.activations import Activation
from lstm_engine.arrays import as_float_array, as_lengths
from lstm_engine.errors import FormatError, ShapeError, UnsupportedModelError
from lstm_engine.formats.limits import nonfinite_allowed
from lstm_engine.layers.gru import GRUCell
from lstm_engine.layers.numerics import Numerics
from lstm_engine.layers.recurrence import Recurrence
from lstm_engine.layers.simple_rnn import SimpleCell
from lstm_engine.weights import CellWeights, LSTMWeights

from .table import DOUBLE, OPERATORS, Array, Call, Compute, Operator, Site, not_at_load

__all__ = ["LSTM_OPERATORS", "RECURRENT_OPERATORS", "lstm_weights"]

#: Runs (x, h0, c0, lengths, sequences): x batch or time first as the node's layout says, states (directions, batch,
#: hidden). Returns y as (time, directions, batch, hidden), or None, and the states.
_Run = Callable[..., tuple[Array | None, Array, Array | None]]

#: ONNX's names of the activations, in lower case (they are compared so), with ours and, for those that take any, the
#: defaults of alpha and beta; None where ONNX gives none.
_ACTIVATIONS: Final[dict[str, tuple[str, tuple[float | None, ...]]]] = {
    "relu": ("relu", ()),
    "tanh": ("tanh", ()),
    "sigmoid": ("sigmoid", ()),
    "softsign": ("softsign", ()),
    "softplus": ("softplus", ()),
    "affine": ("affine", (None, None)),
    "leakyrelu": ("leaky_relu", (0.01,)),
    "thresholdedrelu": ("thresholded_relu", (1.0,)),
    "scaledtanh": ("scaled_tanh", (None, None)),
    "hardsigmoid": ("hard_sigmoid", (0.2, 0.5)),
    "elu": ("elu", (1.0,)),
}

_DIRECTIONS: Final = {"forward": 1, "reverse": 1, "bidirectional": 2}

#: Order of an LSTM's gates here, as places in ONNX's order; and of its peepholes.
_GATES: Final = (0, 2, 3, 1)
_PEEPHOLES: Final = (0, 2, 1)


def _activations(site: Site, defaults: Sequence[str]) -> list[list[Activation]]:
    """Return the activations of each direction.

    Alphas and betas are consumed in the order of those functions that take one, as ONNX Runtime does.
    """
    directions = _DIRECTIONS[site.attributes["direction"]]
    names = site.attributes["activations"] or tuple(defaults) * directions
    if len(names) != directions * len(defaults) or not all(isinstance(name, str) for name in names):
        raise FormatError(f"attribute 'activations': expected {directions * len(defaults)} names, found {names}")
    unknown = sorted({name for name in names if name.lower() not in _ACTIVATIONS})
    if unknown:
        raise UnsupportedModelError(f"attribute 'activations': {', '.join(map(repr, unknown))} are not supported")
    waiting = {name: list(site.attributes[f"activation_{name}"] or ()) for name in ("alpha", "beta")}
    found = []
    for name in names:
        kind, parameters = _ACTIVATIONS[name.lower()]
        values = [
            given.pop(0) if given else default for given, default in zip(waiting.values(), parameters, strict=False)
        ]
        if None in values:
            raise UnsupportedModelError(
                f"attribute 'activations': {name} needs activation_alpha and activation_beta, which have no default"
            )
        found.append(Activation(kind, *values))
    for name, left in waiting.items():
        if left:
            raise UnsupportedModelError(
                f"attribute 'activation_{name}': expected one number for each activation that takes one, found "
                f"{len(left)} more, and cannot tell which belong to which; leave out those that are not used"
            )
    return [found[first : first + len(defaults)] for first in range(0, len(found), len(defaults))]


def _clip(site: Site) -> float | None:
    clip: float | None = site.attributes["clip"]
    if clip is not None and not clip > 0:
        raise UnsupportedModelError(f"attribute 'clip': expected a positive number, found {clip}")
    return clip


def _halves(bias: Array | None, direction: int) -> tuple[Array | None, Array | None]:
    """Return the biases of the input and of the recurrence, in the file's order of gates."""
    if bias is None:
        return None, None
    size = bias.shape[1] // 2
    return bias[direction, :size], bias[direction, size:]


def _check_shapes(site: Site, gates: int, w: Array, r: Array, b: Array | None, p: Array | None) -> None:
    if site.attributes["direction"] not in _DIRECTIONS:
        raise FormatError(
            f"attribute 'direction': expected one of {', '.join(_DIRECTIONS)}, found {site.attributes['direction']!r}"
        )
    if site.attributes["layout"] not in (0, 1):
        raise FormatError(f"attribute 'layout': expected 0 or 1, found {site.attributes['layout']}")
    directions = _DIRECTIONS[site.attributes["direction"]]
    hidden = r.shape[-1] if r.ndim == 3 else 0
    if site.attributes["hidden_size"] not in (None, hidden):
        raise FormatError(f"attribute 'hidden_size': expected {hidden}, found {site.attributes['hidden_size']}")
    features = w.shape[-1] if w.ndim == 3 else 0
    for name, array, shape in (
        ("W", w, (directions, gates * hidden, features)),
        ("R", r, (directions, gates * hidden, hidden)),
        ("B", b, (directions, 2 * gates * hidden)),
        ("P", p, (directions, 3 * hidden)),
    ):
        if array is not None and (array.shape != shape or array.dtype.kind != "f" or hidden == 0):
            raise FormatError(f"{name}: expected floats of shape {shape}, found {array.dtype} of shape {array.shape}")


def _numerics(site: Site, w: Array) -> Numerics:
    """Return the numerics of a node: those of the model, float64 where the file's weights are."""
    return replace(DOUBLE, threads=site.numerics.threads) if w.dtype == np.float64 else site.numerics


# --- LSTM -------------------------------------------------------------------------------------------------------------


def lstm_weights(site: Site, w: Array, r: Array, b: Array | None, p: Array | None) -> LSTMWeights:
    """Return the canonical weights of an LSTM node.

    Raises
    ------
    FormatError, UnsupportedModelError
        If arrays or attributes do not fit.
    """
    _check_shapes(site, 4, w, r, b, p)
    activations = _activations(site, ("Sigmoid", "Tanh", "Tanh"))
    hidden = r.shape[2]

    def reordered(array: Array, order: Sequence[int]) -> Array:
        return array.reshape(len(order), hidden, -1)[list(order)].reshape(array.shape)

    cells = []
    for direction, (gate, cell, hidden_activation) in enumerate(activations):
        input_bias, recurrent_bias = _halves(b, direction)
        bias = None
        if input_bias is not None and recurrent_bias is not None:
            # Summed in double and rounded once, to what is computed in, which is never half precision.
            total = input_bias.astype(np.float64) + recurrent_bias.astype(np.float64)
            bias = reordered(total, _GATES).astype(np.result_type(input_bias.dtype, np.float32))
        cells.append(
            CellWeights(
                reordered(w[direction], _GATES).T,
                reordered(r[direction], _GATES).T,
                bias,
                peepholes=None if p is None else reordered(p[direction], _PEEPHOLES).reshape(3, hidden),
                input_activation=gate,
                forget_activation=gate,
                cell_activation=cell,
                output_activation=gate,
                hidden_activation=hidden_activation,
                gate_clip=_clip(site),
                coupled=bool(site.attributes["input_forget"]),
            )
        )
    weights = LSTMWeights((tuple(cells),), site.attributes["direction"])
    if not nonfinite_allowed():
        weights.check_finite("the node's weights")
    return weights


def _lstm_runner(site: Site, w: Array, r: Array, b: Array | None, p: Array | None) -> tuple[_Run, int]:
    lstm = _numerics(site, w).lstm(lstm_weights(site, w, r, b, p))
    time_major = not site.attributes["layout"]

    def run(x: Array, h0: Array, c0: Array, lengths: Array | None, sequences: bool) -> Any:
        y, h, c = lstm.run(x, (h0, c0), lengths=lengths, time_major=time_major, sequences=sequences)
        if not sequences:
            return None, h, c
        y = y.reshape(*y.shape[:2], h.shape[0], h.shape[2])
        return (y.transpose(0, 2, 1, 3) if time_major else y.transpose(1, 2, 0, 3)), h, c

    return run, lstm.memory_bytes()


# --- GRU and RNN ------------------------------------------------------------------------------------------------------


def _cell_runner(site: Site, w: Array, cells: Sequence[Recurrence]) -> tuple[_Run, int]:
    """Return what runs one cell for each direction."""
    if not nonfinite_allowed() and not all(
        np.isfinite(array).all() for cell in cells for array in cell.arrays().values()
    ):
        raise UnsupportedModelError("expected finite weights, found NaN or infinity; export from a sound checkpoint")
    numerics, direction = _numerics(site, w), site.attributes["direction"]
    reverse = [direction == "reverse", True]
    runners = [cell.prepare(numerics, reverse=reverse[place]) for place, cell in enumerate(cells)]

    def run(x: Array, h0: Array, c0: Array, lengths: Array | None, sequences: bool) -> Any:
        batch_major = x if site.attributes["layout"] else np.ascontiguousarray(x.swapaxes(0, 1))
        ys, hs = [], []
        for place, runner in enumerate(runners):
            y, (h,) = runner.run(batch_major, (h0[place],), lengths=lengths, sequences=sequences)
            ys.append(y)
            hs.append(h)
        return (np.stack(ys).transpose(2, 0, 1, 3) if sequences else None), np.stack(hs), None

    return run, sum(runner.memory_bytes for runner in runners)


def _gru_runner(site: Site, w: Array, r: Array, b: Array | None, p: Array | None) -> tuple[_Run, int]:
    _check_shapes(site, 3, w, r, b, p)
    cells = [
        GRUCell(
            w[direction].T,
            r[direction].T,
            *_halves(b, direction),
            reset_after=bool(site.attributes["linear_before_reset"]),
            gate_activation=gate,
            candidate_activation=candidate,
            clip=_clip(site),
        )
        for direction, (gate, candidate) in enumerate(_activations(site, ("Sigmoid", "Tanh")))
    ]
    return _cell_runner(site, w, cells)


def _rnn_runner(site: Site, w: Array, r: Array, b: Array | None, p: Array | None) -> tuple[_Run, int]:
    _check_shapes(site, 1, w, r, b, p)
    cells = []
    for direction, (activation,) in enumerate(_activations(site, ("Tanh",))):
        bias, recurrent_bias = _halves(b, direction)
        if bias is not None and recurrent_bias is not None:
            total = bias.astype(np.float64) + recurrent_bias.astype(np.float64)
            bias = total.astype(np.result_type(bias.dtype, np.float32))
        cells.append(SimpleCell(w[direction].T, r[direction].T, bias, activation=activation, clip=_clip(site)))
    return _cell_runner(site, w, cells)


# --- Nodes ------------------------------------------------------------------------------------------------------------


_Arrange = Callable[..., tuple[Any, ...]]


def _plain(*inputs: Array | None) -> tuple[Any, ...]:
    """Return W, R, B and P of the inputs x, W, R, B, lengths, h0, c0, P."""
    padded = (*inputs, *(None,) * 8)
    return padded[1], padded[2], padded[3], padded[7]


def _dequantized(*inputs: Array | None) -> tuple[Any, ...]:
    """Return W, R, B and P of a DynamicQuantizeLSTM, whose W and R are (directions, features, 4 * hidden) integers.

    What stands for a number is ``(integer - zero point) * scale``, with one scale for each direction or for each
    direction and column; the result is rounded once, to float32.
    """
    w, r, b, p = _plain(*inputs)
    arrays = []
    scales = (*inputs, *(None,) * 12)[8:12]
    for name, array, scale, zero in (("W", w, *scales[:2]), ("R", r, *scales[2:])):
        if (
            array is None or scale is None or zero is None or array.ndim != 3
            or array.dtype.kind not in "iu" or array.dtype.itemsize > 1 or zero.dtype != array.dtype
            or scale.shape not in (array.shape[:1], (array.shape[0], array.shape[2])) or zero.shape != scale.shape
        ):  # fmt: skip
            raise FormatError(
                f"{name}: expected integers of 8 bits and of shape (directions, size, 4 * hidden), with a scale and a "
                "zero point for each direction or each column"
            )
        shape = (array.shape[0], 1, -1)
        whole = array.astype(np.float64) - zero.reshape(shape)
        arrays.append((whole * scale.reshape(shape)).astype(np.float32).transpose(0, 2, 1))
    return *arrays, b, p


def _run_node(call: Call, run: _Run, w: Array, inputs: Sequence[Array | None], hidden: int) -> tuple[Any, ...]:
    """Check the inputs of a node, run it and put the results in the node's layout."""
    site = call.site
    x, lengths, h0, c0 = (*inputs, *(None,) * 8)[0], *(*inputs, *(None,) * 8)[4:7]
    if x is None or x.ndim != 3 or x.dtype.kind != "f":
        raise ShapeError(f"X: expected floats of rank 3, found {'none' if x is None else f'{x.dtype} {x.shape}'}")
    first = bool(site.attributes["layout"])
    dtype = np.dtype(np.float64) if w.dtype == np.float64 or site.numerics.double else np.dtype(np.float32)
    batch, time = (x.shape[0], x.shape[1]) if first else (x.shape[1], x.shape[0])
    directions = _DIRECTIONS[site.attributes["direction"]]
    steps = None if lengths is None else as_lengths(lengths, "sequence_lens", batch, time)

    def state(value: Array | None, name: str) -> Array:
        if value is None:
            return np.zeros((directions, batch, hidden), dtype)
        axes = (batch, directions, hidden) if first else (directions, batch, hidden)
        array = as_float_array(value, name, axes, dtype)
        return np.ascontiguousarray(array.swapaxes(0, 1)) if first else array

    call.allow((time, directions, batch, hidden), dtype)
    y, h, c = run(np.ascontiguousarray(x, dtype), state(h0, "initial_h"), state(c0, "initial_c"), steps, site.wants(0))
    if first:
        y = None if y is None else y.transpose(2, 0, 1, 3)
        h, c = h.swapaxes(0, 1), None if c is None else c.swapaxes(0, 1)
    kept = x.dtype
    return tuple(value if value is None else value.astype(kept, copy=False) for value in (y, h, c))


def _register(
    name: str,
    runner: Callable[..., tuple[_Run, int]],
    most: int,
    arrange: _Arrange = _plain,
    weights: Sequence[int] = (1, 2, 3, 7),
    **attributes: Any,
) -> None:
    """Put a recurrent operator into the table; ``weights`` are the inputs that can be prepared if constant."""

    def compute(call: Call, *inputs: Array | None) -> tuple[Any, ...]:
        w, r, b, p = arrange(*inputs)
        run, _ = runner(call.site, w, r, b, p)
        return _run_node(call, run, w, inputs, r.shape[2])

    def bind(site: Site, constants: Sequence[Array | None]) -> tuple[Compute, int] | None:
        needed = [place for place in weights if place < len(site.node.inputs) and site.node.inputs[place]]
        if any(constants[place] is None for place in needed):
            return None
        w, r, b, p = arrange(*(array if place in weights else None for place, array in enumerate(constants)))
        run, memory = runner(site, w, r, b, p)
        small, hidden = w[:0], r.shape[2]
        return (lambda call, *inputs: _run_node(call, run, small, inputs, hidden)), memory

    common = {
        "activations": tuple, "activation_alpha": tuple, "activation_beta": tuple, "clip": float,
        "direction": "forward", "hidden_size": int, "layout": 0,
    }  # fmt: skip
    outputs = 3 if most > 6 else 2
    OPERATORS[name] = Operator(compute, (3, most), outputs, {**common, **attributes}, bind, work=not_at_load)


_register("LSTM", _lstm_runner, 8, input_forget=0)
_register("GRU", _gru_runner, 6, linear_before_reset=0)
_register("RNN", _rnn_runner, 6)
_register(
    "com.microsoft.DynamicQuantizeLSTM",
    _lstm_runner,
    12,
    _dequantized,
    (1, 2, 3, 7, 8, 9, 10, 11),
    input_forget=0,
)

#: The operators that are an LSTM, with the function that finds W, R, B and P among their inputs.
LSTM_OPERATORS: Final[dict[str, _Arrange]] = {"LSTM": _plain, "com.microsoft.DynamicQuantizeLSTM": _dequantized}

RECURRENT_OPERATORS: Final = (*LSTM_OPERATORS, "GRU", "RNN")
