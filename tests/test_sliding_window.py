"""Sliding windows: every prediction has the bits of the model over the last samples alone."""

from __future__ import annotations

import sys
import threading
import tracemalloc
from typing import Any

import numpy as np
import pytest
from causal_models import KINDS, assert_same, causal_model, deeper, inputs_of, whole
from described import dense, input_layer, layer, lstm, model, random
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from strategies import Options, fused_engines, make_weights

import lstm_engine as le
from lstm_engine.builder import build_model


def last_windows(kind: str, samples: list[Any], length: int, batch: int | None) -> Any:
    """Return what the model gives for the last samples."""
    x = np.stack(samples[-length:])
    if batch is None:
        return whole(kind, x[None])[0]
    return whole(kind, np.ascontiguousarray(x.swapaxes(0, 1)))


class WindowMachine(RuleBasedStateMachine):
    """A window, and the samples since its beginning."""

    @initialize(
        kind=st.sampled_from(KINDS),
        length=st.sampled_from([1, 2, 3, 7]),
        batch=st.sampled_from([None, 1, 3]),
        seed=st.integers(0, 100),
    )
    def begin(self, kind: str, length: int, batch: int | None, seed: int) -> None:
        self.kind, self.length, self.batch, self.seed = kind, length, batch, seed
        self.window = causal_model(kind).sliding_window(length, batch)
        self.samples: list[Any] = []
        assert (self.window.length, self.window.batch) == (length, batch)

    @rule(defer=st.booleans(), settled=st.booleans(), given_out=st.booleans())
    def push(self, defer: bool, settled: bool, given_out: bool) -> None:
        self.seed += 1
        x = inputs_of(self.kind, self.seed, *(() if self.batch is None else (self.batch,)))
        self.samples.append(x)
        given = np.array(x)  # the window must not need it later
        out = None
        if given_out and len(self.samples) > self.length:
            out = np.empty_like(last_windows(self.kind, self.samples, self.length, self.batch))
        y = self.window.push(given, defer=defer) if out is None else self.window.push(given, out=out, defer=defer)
        given[...] = 1
        assert self.window.samples == min(len(self.samples), self.length)
        if len(self.samples) < self.length:
            assert y is None
        else:
            assert out is None or y is out
            assert_same(self.kind, y, last_windows(self.kind, self.samples, self.length, self.batch))
        if settled:
            self.window.settle()

    @rule()
    def settle(self) -> None:
        self.window.settle()

    @rule()
    def reset(self) -> None:
        self.window.reset()
        assert self.window.samples == 0
        self.samples = []

    @rule(x=st.sampled_from([np.zeros((9, 9)), "text", None]))
    def bad_push(self, x: Any) -> None:
        with pytest.raises(le.ShapeError):
            self.window.push(x)

    @precondition(lambda self: len(self.samples) >= self.length)
    @rule()
    def bad_out(self) -> None:
        x = np.zeros_like(self.samples[-1])
        with pytest.raises(le.ShapeError, match="out: expected"):
            self.window.push(x, out=np.empty((7, 7), np.float32))

    @precondition(lambda self: self.kind == "tokens")
    @rule(defer=st.booleans())
    def bad_token(self, defer: bool) -> None:
        with pytest.raises(le.ShapeError, match="expected token numbers from 0 to 10, found 11"):
            self.window.push(np.full(() if self.batch is None else (self.batch,), 11), defer=defer)


TestWindowMachine = WindowMachine.TestCase
TestWindowMachine.settings = settings(max_examples=60, stateful_step_count=25)
TestDeepWindowMachine = deeper(WindowMachine)


@pytest.mark.parametrize("engine", fused_engines(), ids=str)
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("batch", [1, 5])
def test_every_instruction_set_gives_the_bits_of_whole_windows(engine: Any, layers: int, batch: int) -> None:
    """Lengths and batches around the number of rows that advance together."""
    built = engine.build(make_weights(Options(11, 37, layers=layers, output_size=13), seed=3))
    for length in (13, 64, 65):
        window = built.sliding_window(length, batch)
        x = random(length, batch, length + 5, 11)
        for end in range(1, length + 6):
            y = window.push(x[:, end - 1], defer=end % 3 == 0)
            if end >= length:
                wanted, _ = built(x[:, end - length : end])
                assert y.tobytes() == np.ascontiguousarray(wanted[:, -1]).tobytes()
            else:
                assert y is None


def test_a_model_with_no_memory_at_all() -> None:
    source = le.Sequential([le.Dense(random(1, 3, 2), activation="tanh")])
    window = source.sliding_window(3)
    x = random(2, 6, 3)
    for place in range(6):
        y = window.push(x[place], defer=place % 2 == 0)
        assert (y is None) == (place < 2)
        if y is not None:
            assert y.tobytes() == source(x[None, place : place + 1])[0, -1].tobytes()


def test_several_inputs_and_outputs() -> None:
    built = build_model(model(
        input_layer("x", None, 3),
        input_layer("side", 2),
        lstm("lstm", "x", features=3, units=4),
        layer("both", "Concatenate", "lstm", "side", config={"axis": -1}),
        dense("dense", "both", features=6, units=2),
        outputs=["dense", "lstm"],
    ))  # fmt: skip
    x, side = random(1, 9, 3), random(2, 9, 2)
    for batch in (None, 2):
        window = built.sliding_window(4, batch)
        for place in range(9):
            sample = (x[place], side[place]) if batch is None else (x[[place] * 2], side[[place] * 2])
            y = window.push(sample, defer=place % 2 == 0)
            if place < 3:
                assert y is None
                continue
            for found, wanted in zip(y, built(x[None, place - 3 : place + 1], side[None, place]), strict=True):
                np.testing.assert_array_equal(found if batch is None else found[1], wanted[0])
        with pytest.raises(le.ShapeError, match="out: expected None for a model of 2 outputs"):
            window.push(sample, out=np.empty((2,), np.float32))


def test_out_and_inputs_that_have_to_be_converted() -> None:
    square = le.LSTM.from_weights(random(1, 4, 16), random(2, 4, 16))
    first, second = square.sliding_window(2), square.sliding_window(2)
    x = random(3, 4, 4)
    first.push(x[0])
    second.push(x[0].tolist())
    wanted = first.push(x[1])
    overlapping = x[1].copy()
    assert second.push(overlapping, out=overlapping, defer=True) is overlapping
    np.testing.assert_array_equal(overlapping, wanted)
    np.testing.assert_array_equal(second.push(x[2].astype(np.float64)), first.push(x[2]))
    np.testing.assert_array_equal(second.push(x[3].astype(x.dtype.newbyteorder())), first.push(x[3]))


@pytest.mark.parametrize("defer", [False, True])
@pytest.mark.parametrize("shift", [-1, 0, 1])
def test_out_may_overlap_the_input(defer: bool, shift: int) -> None:
    square = le.LSTM.from_weights(random(1, 4, 16), random(2, 4, 16))
    rows = 130  # in several runs
    one, other = square.sliding_window(2, batch=rows), square.sliding_window(2, batch=rows)
    memory = random(3, rows + 2, 4)
    for window in (one, other):
        window.push(memory[:rows])
    wanted = one.push(memory[1:-1].copy())
    given, out = memory[1:-1], memory[1 + shift : rows + 1 + shift]
    assert other.push(given, out=out, defer=defer) is out
    np.testing.assert_array_equal(out, wanted)


@pytest.mark.parametrize("batch", [None, 3, 70])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_rehearsed_is_forgotten(kind: str, batch: int | None) -> None:
    """Settling many windows runs one more step, which no answer may show."""
    length = 65
    plain, settled = (causal_model(kind).sliding_window(length, batch) for _ in range(2))
    for seed in range(length + 4):
        x = inputs_of(kind, seed, *(() if batch is None else (batch,)))
        wanted = plain.push(x)
        found = settled.push(x, defer=True)
        settled.settle()
        assert (found is None) is (wanted is None) is (seed < length - 1)
        if found is not None:
            assert_same(kind, found, wanted)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"length": 0}, "length: expected a positive integer, found 0"),
        ({"length": 2.0}, "length: expected a positive integer, found 2.0"),
        ({"length": True}, "length: expected a positive integer, found True"),
        ({"batch": 0}, "batch: expected a positive integer, found 0"),
        ({"batch": "2"}, "batch: expected a positive integer, found '2'"),
        ({"length": 1 << 20, "batch": 1 << 20}, r"length, batch: expected a product below 2\*\*31"),
    ],
)
@pytest.mark.parametrize("kind", ["lstm", "graph"])
def test_bad_options_of_a_window(kind: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(le.ShapeError, match=words):
        causal_model(kind).sliding_window(**options)


def test_a_model_that_looks_ahead_has_no_window() -> None:
    backward = le.LSTM.from_weights(random(1, 3, 8), random(2, 2, 8), direction="reverse")
    with pytest.raises(le.UnsupportedModelError, match="expected a forward LSTM"):
        backward.sliding_window()
    with pytest.raises(le.UnsupportedModelError, match="layer 'lstm'"):
        le.Sequential([backward]).sliding_window()


def test_two_threads_in_one_window_are_refused() -> None:
    window = le.LSTM.from_weights(random(1, 32, 512), random(2, 128, 512, scale=0.1)).sliding_window(200)
    x = random(3, 32)
    counts, refused, together = [0, 0], [0, 0], threading.Barrier(2)

    def work(place: int) -> None:
        together.wait()
        for _ in range(40):
            try:
                window.push(x if place else x.astype(np.float64))
                counts[place] += 1
            except le.StateError:
                refused[place] += 1

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=work, args=(place,)) for place in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert sum(counts) + sum(refused) == 80
    assert window.samples == min(sum(counts), 200)


def test_memory_stays_flat() -> None:
    window = causal_model("chain").sliding_window(10)
    x, out = inputs_of("chain", 1), np.empty(4, np.float32)

    def work(count: int) -> None:
        for place in range(count):
            window.push(x, out=out, defer=place % 2 == 0)
            window.push(x)
            window.settle()

    work(50)
    tracemalloc.start()
    try:
        work(50)
        before, _ = tracemalloc.get_traced_memory()
        work(2000)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 4096
