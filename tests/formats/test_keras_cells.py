"""Recurrent layers in Keras configurations and archives: cells by their groups, initial states in every form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from keras_support import functional, hdf5_of, layer, sequential, source

from lstm_engine.description import TensorRef
from lstm_engine.errors import FormatError, UnsupportedModelError
from lstm_engine.formats.hdf5 import HDF5File
from lstm_engine.formats.keras_config import parse_model
from lstm_engine.formats.keras_layers import KerasModel, Problems
from lstm_engine.formats.keras_weights import read_archive_weights

UNITS = {"LSTMCell": 4, "GRUCell": 3, "SimpleRNNCell": 2}
GATES = {"LSTMCell": 4, "GRUCell": 3, "SimpleRNNCell": 1}


def cell(kind: str, name: str, **config: Any) -> dict[str, Any]:
    return layer(kind, name, units=UNITS[kind], **config)


def stack(*kinds: str) -> dict[str, Any]:
    return layer("StackedRNNCells", "stack", cells=[cell(kind, f"c{place}") for place, kind in enumerate(kinds)])


def parse(*layers: dict[str, Any]) -> KerasModel:
    return parse_model(sequential([source("x"), *layers]), "config.json")


def arrays_of(kinds: list[str], features: int = 3) -> dict[str, np.ndarray]:
    """Return the weights of stacked cells by their paths within the stack."""
    arrays: dict[str, np.ndarray] = {}
    groups = {"LSTMCell": "lstm_cell", "GRUCell": "gru_cell", "SimpleRNNCell": "simple_rnn_cell"}
    for place, kind in enumerate(kinds):
        number = kinds[:place].count(kind)
        units, width = UNITS[kind], GATES[kind] * UNITS[kind]
        shapes: list[tuple[int, ...]] = [(features, width), (units, width), (width,)]
        for weight, shape in enumerate(shapes):
            group = f"{groups[kind]}_{number}" if number else groups[kind]
            arrays[f"cells/{group}/vars/{weight}"] = np.full(shape, 10 * place + weight, np.float32)
        features = units
    return arrays


def read(model: KerasModel, arrays: dict[str, np.ndarray]) -> None:
    problems = Problems("model.weights.h5")
    read_archive_weights(HDF5File(hdf5_of(arrays), "model.weights.h5").root, model.layers, "3.15.1", problems)
    problems.raise_if_any()


def test_stacked_cells_are_read_by_the_groups_of_their_classes() -> None:
    kinds = ["LSTMCell", "GRUCell", "LSTMCell", "SimpleRNNCell", "GRUCell"]
    model = parse(layer("RNN", "r", cell=stack(*kinds)))
    read(model, {f"layers/rnn/cell/{path}": array for path, array in arrays_of(kinds).items()})
    cells = list(model.layers[1].inner["cell"].inner.values())
    assert [one.class_name for one in cells] == kinds
    for place, one in enumerate(cells):
        assert [int(one.weights[name].flat[0]) for name in ("kernel", "recurrent_kernel", "bias")] == [
            10 * place,
            10 * place + 1,
            10 * place + 2,
        ]


def test_both_directions_have_cells_of_their_own() -> None:
    kinds = ["LSTMCell", "GRUCell"]
    model = parse(layer("Bidirectional", "b", layer=layer("RNN", "r", cell=stack(*kinds))))
    one = {f"layers/bidirectional/forward_layer/cell/{path}": array for path, array in arrays_of(kinds).items()}
    other = {f"layers/bidirectional/backward_layer/cell/{path}": -array for path, array in arrays_of(kinds).items()}
    # The cells of both have the same names: those of one are not taken for those of the other.
    with pytest.raises(
        FormatError, match="'c0' \\(LSTMCell\\): expected its weights in 'layers/bidirectional/backward"
    ):
        read(parse(layer("Bidirectional", "b", layer=layer("RNN", "r", cell=stack(*kinds)))), one)
    read(model, one | other)
    forward, backward = (
        model.layers[1].inner[role].inner["cell"].inner for role in ("forward_layer", "backward_layer")
    )
    assert model.layers[1].inner["backward_layer"].config["go_backwards"] is True
    for role, part in forward.items():
        for name, array in part.weights.items():
            np.testing.assert_array_equal(array, -backward[role].weights[name])


def test_a_stacked_cell_takes_what_the_one_before_gives() -> None:
    arrays = {f"layers/rnn/cell/{path}": array for path, array in arrays_of(["LSTMCell", "GRUCell"]).items()}
    arrays["layers/rnn/cell/cells/gru_cell/vars/0"] = np.zeros((5, 9), np.float32)
    with pytest.raises(
        FormatError, match=r"'c1' \(GRUCell\) in layer 'r': kernel: expected shape \(4, 9\), found \(5, 9\)"
    ):
        read(parse(layer("RNN", "r", cell=stack("LSTMCell", "GRUCell"))), arrays)


@pytest.mark.parametrize(
    ("entry", "error", "message"),
    [
        (layer("RNN", "r"), FormatError, "expected a layer with a class_name in RNN 'r'"),
        (layer("RNN", "r", cell=layer("LSTM", "l", units=2)), UnsupportedModelError, "'l' in RNN 'r' is of the class"),
        (layer("RNN", "r", cell=layer("MyCell", "m", module="mine")), UnsupportedModelError, "'m' in RNN 'r' is of"),
        (cell("GRUCell", "alone"), UnsupportedModelError, "'alone' is of the class 'GRUCell'"),
        (stack("GRUCell"), UnsupportedModelError, "'stack' is of the class 'StackedRNNCells'"),
        (layer("RNN", "r", cell=stack()), FormatError, "'stack': expected a list of cells, found list"),
        (
            layer("RNN", "r", cell=layer("StackedRNNCells", "s", cells=[stack("GRUCell")])),
            UnsupportedModelError,
            "'stack' in StackedRNNCells 's' is of the class",
        ),
        (
            layer("Bidirectional", "b", layer=layer("TimeDistributed", "t", layer=layer("Dense", "d", units=2))),
            UnsupportedModelError,
            "'b' is a Bidirectional around a TimeDistributed; expected one of GRU, LSTM, RNN, SimpleRNN",
        ),
    ],
)
def test_cells_that_are_not_read_are_named(entry: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        parse(entry)


# --- Initial states as Keras 2 writes them --------------------------------------------------------------------------


def states_of(node: Any, wrapper: str = "Bidirectional") -> tuple[TensorRef, ...]:
    """Return the initial state of a layer that is called once, by this node."""
    lstm = layer("LSTM", "lstm", units=2)
    inner = (
        layer("Bidirectional", "r", node, layer=lstm) if wrapper else layer("RNN", "r", node, cell=stack("LSTMCell"))
    )
    starts = [source(name, (None, 2)) for name in ("a", "b", "c", "d")]
    ends = [["x", 0, 0], *([start["name"], 0, 0] for start in starts)]
    (made,) = parse_model(functional([source("x"), *starts, inner], ends, [["r", 0, 0]]), "config.json").layers[5].calls
    assert made.inputs == (TensorRef("x"),)
    return made.keywords["initial_state"]


FOUR = tuple(map(TensorRef, "abcd"))


def test_a_bidirectional_may_name_its_states_a_second_time() -> None:
    named = {"initial_state": [[name, 0, 0] for name in "abcd"]}
    assert states_of([[[name, 0, 0, named] for name in ("x", *"abcd")]]) == FOUR
    assert states_of([[["x", 0, 0, named]]]) == FOUR
    unnamed = {"initial_state": None, "constants": None}
    assert states_of([[[name, 0, 0, unnamed] for name in ("x", *"abcd")]]) == FOUR


def test_two_initial_states_that_differ_are_refused() -> None:
    named = {"initial_state": [[name, 0, 0] for name in "badc"]}
    with pytest.raises(FormatError, match="expected one initial state, found two that differ"):
        states_of([[[name, 0, 0, named] for name in ("x", *"abcd")]])


def test_states_of_stacked_cells_stand_in_lists() -> None:
    x, a, b, c, d = ([name, 0, 0, {}] for name in ("x", *"abcd"))
    assert states_of([[x, [a, b], [c, d]]], "") == FOUR
    assert states_of([[x, [[a, b], [c, [d]]]]], "") == FOUR
