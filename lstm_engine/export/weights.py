"""An LSTM's weights as PyTorch and Keras keep them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lstm_engine.errors import ShapeError, UnsupportedModelError, raise_together

if TYPE_CHECKING:
    from lstm_engine.lstm import LSTM
    from lstm_engine.weights import CellWeights

__all__ = ["keras_weights", "torch_state_dict"]

Array = NDArray[Any]

#: Options of a cell that neither framework's layer has, each with what stands for none of it.
_OPTIONS = {"peepholes": None, "gate_clip": None, "cell_clip": None, "coupled": False}
_ACTIVATIONS = ("input", "forget", "cell", "output", "hidden")


def torch_state_dict(lstm: LSTM, prefix: str) -> dict[str, Array]:
    """Return the state dict of the ``nn.LSTM`` that computes the same.

    Parameters
    ----------
    lstm
        The LSTM.
    prefix
        What the names begin with, such as ``"encoder.rnn"``; empty for nothing.

    Raises
    ------
    UnsupportedModelError
        If ``nn.LSTM`` cannot compute the same; all reasons are named.
    """
    weights = lstm.weights
    problems = _common_problems(lstm)
    if weights.direction == "reverse":
        problems.append("its direction is 'reverse'; nn.LSTM runs forward or both ways")
    if weights.num_directions == 2 and lstm.merge_mode != "concat":
        problems.append(f"its merge_mode is {lstm.merge_mode!r}; nn.LSTM sets both directions side by side")
    for cell in weights.flat():
        kinds = [getattr(cell, f"{gate}_activation").kind for gate in _ACTIVATIONS]
        if kinds != ["sigmoid", "sigmoid", "tanh", "sigmoid", "tanh"]:
            problems.append(f"its activations are {', '.join(kinds)}; nn.LSTM has sigmoid and tanh")
            break
    raise_together(UnsupportedModelError, "to_torch_state_dict", problems)
    biased = any(cell.bias is not None for cell in weights.flat())
    result: dict[str, Array] = {}
    for layer, cells in enumerate(weights.cells):
        for place, cell in enumerate(cells):
            gates = 4 * cell.hidden_size
            arrays = {"weight_ih": cell.kernel.T, "weight_hh": cell.recurrent_kernel.T}
            if biased:
                # PyTorch adds two biases; the sum is the one that is kept here.
                arrays["bias_ih"] = np.zeros(gates, cell.kernel.dtype) if cell.bias is None else cell.bias
                arrays["bias_hh"] = np.zeros(gates, cell.kernel.dtype)
            if cell.projection is not None:
                arrays["weight_hr"] = cell.projection.T
            for name, array in arrays.items():
                key = f"{name}_l{layer}{'_reverse' if place else ''}"
                result[f"{prefix}.{key}" if prefix else key] = np.array(array, order="C")
    return result


def keras_weights(lstm: LSTM, layer: int) -> list[Array]:
    """Return what ``set_weights`` of the ``keras.layers.LSTM``, or ``Bidirectional`` of one, takes.

    Parameters
    ----------
    lstm
        The LSTM.
    layer
        Which of its layers; a Keras layer is one.

    Raises
    ------
    ShapeError
        If there is no such layer.
    UnsupportedModelError
        If a Keras LSTM cannot compute the same; all reasons are named.
    """
    if isinstance(layer, bool) or not isinstance(layer, int) or not 0 <= layer < lstm.num_layers:
        raise ShapeError(f"layer: expected a number from 0 to {lstm.num_layers - 1}, found {layer!r}")
    problems = _common_problems(lstm)
    cells = lstm.weights.cells[layer]
    for cell in cells:
        if cell.projection is not None:
            problems.append("it has a projection; a Keras LSTM has none")
        gates = {getattr(cell, f"{gate}_activation") for gate in ("input", "forget", "output")}
        if len(gates) > 1 or cell.cell_activation != cell.hidden_activation:
            problems.append("its gates have different activations; a Keras LSTM has one for all three")
    raise_together(UnsupportedModelError, "to_keras_weights", list(dict.fromkeys(problems)))
    biased = any(cell.bias is not None for cell in cells)
    return [array for cell in cells for array in _keras_arrays(cell, biased)]


def _keras_arrays(cell: CellWeights, biased: bool) -> list[Array]:
    arrays = [np.array(cell.kernel), np.array(cell.recurrent_kernel)]
    if biased:
        arrays.append(np.zeros(4 * cell.hidden_size, cell.kernel.dtype) if cell.bias is None else np.array(cell.bias))
    return arrays


def _common_problems(lstm: LSTM) -> list[str]:
    found = {
        option: value
        for cell in lstm.weights.flat()
        for option, none in _OPTIONS.items()
        if (value := getattr(cell, option)) is not none
    }
    return [
        f"it has {option}{'' if isinstance(value, np.ndarray) else f'={value}'}, which the layer has not"
        for option, value in found.items()
    ]
