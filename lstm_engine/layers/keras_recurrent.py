"""From the description of a Keras recurrent layer, with its cells, to the layer that computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from lstm_engine.errors import FormatError
from lstm_engine.lstm import MergeMode
from lstm_engine.weights import CellWeights

from .base import Layer
from .bidirectional import BidirectionalLayer
from .functions import LayerActivation, LogSoftmax, Softmax
from .gru import GRUCell
from .keras_config import KerasConfig
from .lstm_cells import LSTMCells, chained
from .recurrence import Recurrence
from .recurrent import LSTMLayer, RecurrentLayer, RecurrentOptions
from .simple_rnn import SimpleCell

__all__ = ["bidirectional", "cell_from_keras", "recurrent"]


# --- Cells ----------------------------------------------------------------------------------------------------------


def _weights(config: KerasConfig) -> dict[str, Any]:
    """Return the weights, and pass over the options that all cells have for training alone."""
    config.ignore("units", "dropout", "recurrent_dropout", "implementation", "seed", "enable_caching_device")
    names = ("kernel", "recurrent_kernel", "bias")[: 3 if config.flag("use_bias", True) else 2]
    return {name: config.weight(name) for name in names}


def _check_recurrent_activation(config: KerasConfig) -> None:
    # Its default has changed over the years, and Keras has always written it.
    if "recurrent_activation" not in config.layer.config:
        config.damaged("recurrent_activation", None, "given")


def cell_from_keras(config: KerasConfig) -> CellWeights:
    """Return the cell of an LSTM layer, or an LSTMCell: its weights and activations."""
    config.ignore("unit_forget_bias")
    activation = config.gate_activation("activation", "tanh")
    _check_recurrent_activation(config)
    recurrent = config.gate_activation("recurrent_activation", "sigmoid")
    return CellWeights(
        **_weights(config),
        input_activation=recurrent,
        forget_activation=recurrent,
        cell_activation=activation,
        output_activation=recurrent,
        hidden_activation=activation,
    )


def _lstm_cells(config: KerasConfig) -> LSTMCells:
    return LSTMCells([cell_from_keras(config)])


def _unit_activation(config: KerasConfig, option: str, default: str) -> LayerActivation:
    """Return an activation of a cell that is computed step by step; one that joins values joins the units."""
    activation = config.activation(option, default)
    if isinstance(activation, Softmax | LogSoftmax) and activation.axis != -1:
        config.unsupported(option, f"softmax over axis {activation.axis}", "one over the last axis")
    return activation


def _gru_cell(config: KerasConfig) -> GRUCell:
    _check_recurrent_activation(config)
    # What Keras wrote before it knew of the option is the older form.
    reset_after = config.flag("reset_after", False)
    gate = _unit_activation(config, "recurrent_activation", "sigmoid")
    candidate = _unit_activation(config, "activation", "tanh")
    weights = _weights(config)
    if reset_after and "bias" in weights:
        if weights["bias"].ndim != 2 or len(weights["bias"]) != 2:
            raise FormatError(f"bias: expected shape (2, 3 * units), found {weights['bias'].shape}")
        weights["bias"], weights["recurrent_bias"] = weights["bias"]
    return GRUCell(**weights, reset_after=reset_after, gate_activation=gate, candidate_activation=candidate)


def _simple_cell(config: KerasConfig) -> SimpleCell:
    activation = _unit_activation(config, "activation", "tanh")
    return SimpleCell(**_weights(config), activation=activation)


def _stacked_cells(config: KerasConfig) -> Recurrence:
    config.ignore("cells")
    parts = config.inner(_CELLS)
    if not parts:
        config.damaged("cells", [], "at least one cell")
        raise LookupError("cells")
    return chained(parts)


#: What makes each cell, by its class; a layer such as GRU is named after its cell.
_CELLS: Final[Mapping[str, Callable[[KerasConfig], Recurrence]]] = {
    "GRUCell": _gru_cell,
    "LSTMCell": _lstm_cells,
    "SimpleRNNCell": _simple_cell,
    "StackedRNNCells": _stacked_cells,
}


# --- Layers ---------------------------------------------------------------------------------------------------------


def recurrent(config: KerasConfig) -> RecurrentLayer:
    """Return an LSTM, GRU, SimpleRNN or RNN layer."""
    kind = config.layer.class_name
    # A model call of a stateful layer begins at zero: the memory between calls is a Stream's.
    config.ignore("stateful", "use_cudnn", "input_dim", "input_length")
    if config.version.major >= 3:  # it has never had the option
        config.refuse("time_major", False)
    if kind == "RNN":
        config.ignore("cell")
        (cell,) = config.inner(_CELLS) or (None,)
        if cell is None:
            config.damaged("cell", None, "a cell")
            raise LookupError("cell")
    else:
        cell = _CELLS[f"{kind}Cell"](config)
    options = RecurrentOptions(
        return_sequences=config.flag("return_sequences", False),
        return_state=config.flag("return_state", False),
        go_backwards=config.flag("go_backwards", False),
        zero_masked=config.flag("zero_output_for_mask", False),
        unrolled=config.flag("unroll", False),
        mask_with_state=not config.version.ignores_mask_with_state,
        time_major=config.flag("time_major", False),
    )
    if isinstance(cell, LSTMCells):
        return LSTMLayer(cell, options, kind=kind)
    return RecurrentLayer(cell, options, kind=kind)


#: The layers that can stand in a Bidirectional.
_LAYERS: Final = dict.fromkeys(("GRU", "LSTM", "RNN", "SimpleRNN"), recurrent)

_MERGE_MODES: Final[Mapping[str | None, MergeMode | None]] = {
    "concat": "concat",
    "sum": "sum",
    "mul": "mul",
    "ave": "ave",
    None: None,
}


def bidirectional(config: KerasConfig) -> Layer:
    """Return a Bidirectional layer."""
    config.ignore("layer", "backward_layer", "weights")
    mode = config.choice("merge_mode", "concat", tuple(_MERGE_MODES))
    layers = config.inner(_LAYERS, ("forward_layer", "backward_layer"))
    return BidirectionalLayer(
        layers[0],
        layers[1],
        merge_mode=_MERGE_MODES[mode],
        # Keras sets this on both of its layers, whatever they were told.
        zero_masked=config.version.zeroes_masked_bidirectional and layers[0].options.return_sequences,
    )
