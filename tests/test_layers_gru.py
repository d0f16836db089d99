"""GRU and simple recurrent cells against their equations in float64: forms, directions, lengths, masks, states."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from described import MASK, random, sigmoid

from lstm_engine.activations import Activation
from lstm_engine.errors import ShapeError
from lstm_engine.layers.gru import GRUCell
from lstm_engine.layers.numerics import Numerics
from lstm_engine.layers.recurrence import Chain
from lstm_engine.layers.simple_rnn import SimpleCell

Array = np.ndarray[Any, Any]
FEATURES, UNITS = 3, 5
X = random(1, *MASK.shape, FEATURES)
H0 = random(2, len(X), UNITS)
KERNEL, RECURRENT = random(3, FEATURES, 3 * UNITS, scale=0.7), random(4, UNITS, 3 * UNITS, scale=0.5)
BIAS, RECURRENT_BIAS = random(5, 3 * UNITS, scale=0.5), random(6, 3 * UNITS, scale=0.5)
LENGTHS = np.array([6, 4, 3, 1, 0])

Step = Callable[[Array, Array], Array]


def gru_step(x: Array, h: Array, *, reset_after: bool, clip: float = np.inf) -> Array:
    """Return the state after a step, gate by gate as Cho et al. 2014 have it."""

    def gate(place: int, state: Array, scale: Array | float = 1.0) -> Array:
        part = slice(place * UNITS, (place + 1) * UNITS)
        given = x @ KERNEL[:, part].astype(float) + BIAS[part]
        return np.clip(given + scale * (state @ RECURRENT[:, part].astype(float) + RECURRENT_BIAS[part]), -clip, clip)

    update, reset = sigmoid(gate(0, h)), sigmoid(gate(1, h))
    candidate = np.tanh(gate(2, h, reset) if reset_after else gate(2, reset * h))
    return update * h + (1 - update) * candidate


def simple_step(x: Array, h: Array) -> Array:
    return np.tanh(x @ KERNEL[:, :UNITS].astype(float) + h @ RECURRENT[:, :UNITS].astype(float) + BIAS[:UNITS])


def loop(
    step: Step, *, h: Array | None = None, counts: Array | None = None, reverse: bool = False, zeroed: bool = False
) -> tuple[Array, Array, Array]:
    """Return all outputs aligned with time, the one computed last, and the state."""
    batch, time, _ = X.shape
    h = np.zeros((batch, UNITS)) if h is None else h
    counts = np.ones((batch, time), bool) if counts is None else counts
    output, outputs = np.zeros((batch, UNITS)), np.zeros((batch, time, UNITS))
    for now in range(time)[:: -1 if reverse else 1]:
        for row in range(batch):
            new = step(X[row, now].astype(float), h[row]) if counts[row, now] else None
            if new is not None:
                output[row], h = new, np.concatenate([h[:row], new[None], h[row + 1 :]])
            elif zeroed:
                output[row] = 0.0
        outputs[:, now] = output
    return outputs, output, h


def close(found: Any, wanted: Array, dtype: str = "float32") -> None:
    assert found.shape == wanted.shape
    assert found.dtype == dtype
    tolerance = 2e-6 if dtype == "float32" else 1e-13
    np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance / 4)


GRUS = {after: GRUCell(KERNEL, RECURRENT, BIAS, RECURRENT_BIAS, reset_after=after) for after in (True, False)}
SIMPLE = SimpleCell(KERNEL[:, :UNITS], RECURRENT[:, :UNITS], BIAS[:UNITS])
CELLS: list[tuple[Any, Step]] = [
    (GRUS[True], lambda x, h: gru_step(x, h, reset_after=True)),
    (GRUS[False], lambda x, h: gru_step(x, h, reset_after=False)),
    (SIMPLE, simple_step),
]
IDS = ["reset after", "reset before", "simple"]


@pytest.mark.parametrize(("cell", "step"), CELLS, ids=IDS)
@pytest.mark.parametrize(
    ("dtype", "reverse", "initial"), list(itertools.product(("float32", "float64"), (False, True), (False, True)))
)
def test_cells_compute_their_equations(cell: Any, step: Step, dtype: str, reverse: bool, initial: bool) -> None:
    runner = cell.prepare(Numerics(dtype), reverse=reverse)
    y, (h,) = runner.run(X.astype(dtype), (H0.astype(dtype),) if initial else ())
    outputs, last, state = loop(step, h=H0.astype(float) if initial else None, reverse=reverse)
    close(y, outputs, dtype)
    close(h, state, dtype)
    close(runner.run(X.astype(dtype), (H0.astype(dtype),) if initial else (), sequences=False)[0], last, dtype)


@pytest.mark.parametrize(("cell", "step"), CELLS, ids=IDS)
@pytest.mark.parametrize("reverse", [False, True])
def test_lengths_leave_the_padding_zero_and_the_state_alone(cell: Any, step: Step, reverse: bool) -> None:
    runner = cell.prepare(Numerics(), reverse=reverse)
    y, (h,) = runner.run(X, (H0,), lengths=LENGTHS)
    counts = np.arange(X.shape[1]) < LENGTHS[:, None]
    outputs, _, state = loop(step, h=H0.astype(float), counts=counts, reverse=reverse, zeroed=True)
    close(y, outputs)
    close(h, state)
    _, last, _ = loop(step, h=H0.astype(float), counts=counts, reverse=reverse)
    close(runner.run(X, (H0,), lengths=LENGTHS, sequences=False)[0], last)


@pytest.mark.parametrize(("cell", "step"), CELLS, ids=IDS)
@pytest.mark.parametrize(("reverse", "zeroed"), list(itertools.product((False, True), repeat=2)))
def test_masked_steps_keep_the_state(cell: Any, step: Step, reverse: bool, zeroed: bool) -> None:
    runner = cell.prepare(Numerics(), reverse=reverse)
    outputs, last, state = loop(step, h=H0.astype(float), counts=MASK, reverse=reverse, zeroed=zeroed)
    y, (h,) = runner.run(X, (H0,), mask=MASK, zero_masked=zeroed)
    close(y, outputs)
    close(h, state)
    close(runner.run(X, (H0,), mask=MASK, zero_masked=zeroed, sequences=False)[0], last)


@pytest.mark.parametrize("after", [True, False])
def test_clipping_bounds_what_the_activations_are_given(after: bool) -> None:
    cell = GRUCell(KERNEL, RECURRENT, BIAS, RECURRENT_BIAS, reset_after=after, clip=0.3)
    outputs, _, _ = loop(lambda x, h: gru_step(x, h, reset_after=after, clip=0.3))
    close(cell.prepare(Numerics()).run(X)[0], outputs)
    assert np.abs(outputs - loop(CELLS[not after][1])[0]).max() > 0.01


def test_a_chain_feeds_each_cell_with_the_one_before() -> None:
    second = SimpleCell(random(7, UNITS, 2), random(8, 2, 2), activation=Activation("relu"))
    states = (H0, random(9, len(X), 2))
    y, after = Chain([GRUS[True], second]).prepare(Numerics(), reverse=True).run(X, states, mask=MASK)
    between, (h,) = GRUS[True].prepare(Numerics(), reverse=True).run(X, states[:1], mask=MASK)
    wanted, (last,) = second.prepare(Numerics(), reverse=True).run(between, states[1:], mask=MASK)
    for found, array in zip((y, *after), (wanted, h, last), strict=True):
        np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("cell", [cell for cell, _ in CELLS], ids=IDS)
def test_no_steps_and_no_rows(cell: Any) -> None:
    runner = cell.prepare(Numerics())
    y, (h,) = runner.run(X[:, :0], (H0,))
    assert y.shape == (len(X), 0, UNITS)
    np.testing.assert_array_equal(h, H0)
    assert not runner.run(X[:, :0], (H0,), sequences=False)[0].any()
    assert runner.run(X[:0])[0].shape == (0, X.shape[1], UNITS)


@pytest.mark.parametrize("cell", [cell for cell, _ in CELLS], ids=IDS)
def test_a_row_has_the_same_bits_alone_and_in_chunks(cell: Any) -> None:
    runner = cell.prepare(Numerics())
    y, (h,) = runner.run(X)
    np.testing.assert_array_equal(runner.run(X[2:3])[0], y[2:3])
    first, state = runner.run(np.ascontiguousarray(X[:, :2]))
    second, (end,) = runner.run(np.ascontiguousarray(X[:, 2:]), state)
    np.testing.assert_array_equal(np.concatenate([first, second], axis=1), y)
    np.testing.assert_array_equal(end, h)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GRUCell(KERNEL, RECURRENT[:, :-1]), r"recurrent_kernel: expected shape \(units, 3 \* units\)"),
        (lambda: GRUCell(KERNEL[:, 1:], RECURRENT), r"kernel: expected shape \(features, 15\), found shape \(3, 14\)"),
        (lambda: GRUCell(KERNEL, RECURRENT, BIAS[1:]), r"bias: expected shape \(15,\), found shape \(14,\)"),
        (lambda: GRUCell(KERNEL, RECURRENT, BIAS, BIAS[1:]), r"recurrent_bias: expected shape \(15,\)"),
        (lambda: SimpleCell(KERNEL, RECURRENT), r"recurrent_kernel: expected shape \(15, 15\)"),
        (lambda: SimpleCell(np.empty((3, 0)), np.empty((0, 0))), r"kernel: expected at least one unit"),
    ],
)
def test_weights_that_do_not_fit_are_named(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        make()
