"""Pools of streams: any of them together give the bits of each alone, and mistakes change nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from causal_models import COMPILED, KINDS, assert_same, causal_model, deeper, inputs_of, whole
from described import dense, input_layer, layer, lstm, model, random
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from strategies import fused_engines, make_weights

import lstm_engine as le
from lstm_engine.builder import build_model

ROOT = Path(__file__).parent.parent

CAPACITY = 5


class PoolMachine(RuleBasedStateMachine):
    """A pool, and all that each of its streams was fed since its beginning."""

    @initialize(kind=st.sampled_from(KINDS), seed=st.integers(0, 100), idle_timeout=st.sampled_from([None, 0]))
    def begin(self, kind: str, seed: int, idle_timeout: float | None) -> None:
        self.kind, self.seed = kind, seed
        self.evicts = idle_timeout == 0
        self.pool = causal_model(kind).stream_pool(CAPACITY, idle_timeout=idle_timeout, on_evict=self._evicted)
        self.open: dict[int, Any] = {}
        self.used: dict[int, int] = {}
        self.calls = 0
        self.closed: list[int] = []
        self.kept: list[tuple[bytes, Any]] = []

    def _fresh(self, *lead: int) -> Any:
        self.seed += 1
        return inputs_of(self.kind, self.seed, *lead)

    def _evicted(self, id: int, snapshot: bytes) -> None:
        self.closed.append(id)
        self.kept.append((snapshot, self.open.pop(id)))

    def _use(self, ids: Any) -> None:
        self.calls += 1
        self.used.update(dict.fromkeys(ids, self.calls))

    def _choice(self, data: Any) -> int:
        return data.draw(st.sampled_from(sorted(self.open)))

    @precondition(lambda self: len(self.open) < CAPACITY)
    @rule()
    def open_one(self) -> None:
        id = self.pool.open()
        assert id not in self.open
        assert id not in self.closed
        self.open[id] = inputs_of(self.kind, 0, 0)
        self._use([id])

    @precondition(lambda self: self.kept and len(self.open) < CAPACITY)
    @rule(data=st.data())
    def open_snapshot(self, data: Any) -> None:
        snapshot, history = data.draw(st.sampled_from(self.kept))
        id = self.pool.open(snapshot)
        self.open[id] = history
        self._use([id])

    @precondition(lambda self: len(self.open) == CAPACITY)
    @rule()
    def open_one_too_many(self) -> None:
        if not self.evicts:
            with pytest.raises(le.StateError, match="expected room for another stream"):
                self.pool.open()
            return
        before = set(self.open)
        longest = min(self.used[id] for id in before)
        id = self.pool.open()
        (gone,) = before - set(self.open)
        assert self.used[gone] == longest, "not the one that was unused for longest"
        self.open[id] = inputs_of(self.kind, 0, 0)
        self._use([id])

    @rule()
    def evict(self) -> None:
        assert self.pool.evict(3600) == []
        before = set(self.open)
        assert set(self.pool.evict(0)) == before
        assert not self.open

    @rule(data=st.data())
    def step(self, data: Any) -> None:
        ids = data.draw(st.lists(st.sampled_from(sorted(self.open)), unique=True)) if self.open else []
        x = self._fresh(len(ids))
        y = self.pool.step(np.array(ids, np.int64) if data.draw(st.booleans()) else ids, x)
        assert len(y) == len(ids)
        self._use(ids)
        for row, id in enumerate(ids):
            self.open[id] = np.concatenate([self.open[id], x[row : row + 1]])
            assert_same(self.kind, y[row], whole(self.kind, self.open[id][None])[0])

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def several_steps(self, data: Any) -> None:
        ids = data.draw(st.lists(st.sampled_from(sorted(self.open)), unique=True, min_size=1))
        steps = [data.draw(st.integers(0, 4)) for _ in ids]
        x = self._fresh(sum(steps))
        y = self.pool.step(ids, x, steps=steps)
        assert len(y) == sum(steps)
        self._use(ids)
        end = 0
        for id, count in zip(ids, steps, strict=True):
            begin, end = end, end + count
            self.open[id] = np.concatenate([self.open[id], x[begin:end]])
            if count:
                assert_same(self.kind, y[end - 1], whole(self.kind, self.open[id][None])[0])

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def close(self, data: Any) -> None:
        id = self._choice(data)
        self.pool.close(id)
        del self.open[id]
        self.closed.append(id)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def reset(self, data: Any) -> None:
        id = self._choice(data)
        self.pool.reset(id)
        self.open[id] = self.open[id][:0]

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def snapshot(self, data: Any) -> None:
        id = self._choice(data)
        self.kept.append((self.pool.snapshot(id), self.open[id]))

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def through_a_stream(self, data: Any) -> None:
        """A snapshot of a pool is one of a stream, and the other way round."""
        id = self._choice(data)
        stream = causal_model(self.kind).stream()
        stream.restore(self.pool.snapshot(id))
        x = self._fresh(1)
        stream.step(x[0])
        self.pool.restore(id, stream.snapshot())
        self.open[id] = np.concatenate([self.open[id], x])

    @precondition(lambda self: self.open)
    @rule(data=st.data(), wrong=st.sampled_from(["closed", "repeated", "unknown", "negative", "shape", "snapshot"]))
    def mistake(self, data: Any, wrong: str) -> None:
        ids = data.draw(st.permutations(sorted(self.open)))
        bad = {"closed": self.closed[-1] if self.closed else 5, "repeated": ids[0], "unknown": 1 << 60, "negative": -1}
        if wrong == "snapshot":
            with pytest.raises(le.FormatError):
                self.pool.restore(ids[0], b"no")
        elif wrong == "shape":
            with pytest.raises(le.ShapeError):
                self.pool.step(ids, np.zeros((len(ids), 7, 7)))
        else:
            with pytest.raises(le.StateError, match=r"ids\["):
                self.pool.step([*ids, bad[wrong]], self._fresh(len(ids) + 1))

    @invariant()
    def knows_its_streams(self) -> None:
        if not hasattr(self, "pool"):
            return
        assert sorted(self.pool.ids) == sorted(self.open)
        assert len(self.pool) == len(self.open)
        assert all(id in self.pool for id in self.open)
        assert not any(id in self.pool for id in self.closed)


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(max_examples=40, stateful_step_count=25)
TestDeepPoolMachine = deeper(PoolMachine)


@pytest.mark.parametrize("kind", COMPILED)
@pytest.mark.parametrize("count", [1, 2, 9, 63, 64, 65, 200])
def test_many_streams_of_any_lengths_equal_each_alone(kind: str, count: int) -> None:
    source = causal_model(kind)
    pool = source.stream_pool(count)
    ids = [pool.open() for _ in range(count)]
    numbers = np.random.default_rng(count)
    streams = {id: source.stream() for id in ids}
    for _ in range(3):
        chosen = [ids[place] for place in numbers.permutation(count)[: numbers.integers(1, count + 1)]]
        steps = numbers.integers(0, 9, len(chosen)) * numbers.integers(0, 2, len(chosen))
        x = inputs_of(kind, int(numbers.integers(1000)), int(steps.sum()))
        y = pool.step(chosen, x, steps=steps)
        ends = np.cumsum(steps)
        for id, end, wanted in zip(chosen, ends, steps, strict=True):
            assert_same(kind, y[end - wanted : end], streams[id].run(x[end - wanted : end]))


@pytest.mark.parametrize("engine", fused_engines(), ids=str)
def test_every_instruction_set_gives_the_bits_of_streams(engine: Any) -> None:
    from strategies import Options

    built = engine.build(make_weights(Options(11, 37, layers=2, output_size=13), seed=3))
    pool, streams = built.stream_pool(70), [built.stream() for _ in range(70)]
    ids = [pool.open() for _ in streams]
    for step in range(4):
        x = random(step, 70, 11)
        y = pool.step(ids[::-1], x)
        for row, stream in enumerate(reversed(streams)):
            assert y[row].tobytes() == stream.step(x[row]).tobytes()


def test_several_inputs_and_outputs() -> None:
    built = build_model(model(
        input_layer("x", None, 3),
        input_layer("side", 2),
        lstm("lstm", "x", features=3, units=4),
        layer("both", "Concatenate", "lstm", "side", config={"axis": -1}),
        dense("dense", "both", features=6, units=2),
        outputs=["dense", "lstm"],
    ))  # fmt: skip
    pool, stream = built.stream_pool(3), built.stream()
    ids = [pool.open() for _ in range(3)]
    x, side = random(1, 3, 3), random(2, 3, 2)
    y, states = pool.step(ids, (x, side))
    for found, wanted in zip((y[1], states[1]), stream.step((x[1], side[1])), strict=True):
        np.testing.assert_array_equal(found, wanted)
    y, states = pool.step([ids[1]], {"x": x, "side": side}, steps=[3])
    for found, wanted in zip((y, states), stream.run((x, side)), strict=True):
        np.testing.assert_array_equal(found, wanted)
    with pytest.raises(le.ShapeError, match=r"side: expected 3 rows, the sum of steps"):
        pool.step([ids[1]], (x, side[:2]), steps=[3])
    with pytest.raises(le.ShapeError, match="out: expected None for a model of 2 outputs"):
        pool.step([ids[1]], (x[:1], side[:1]), out=np.empty((1, 2), np.float32))


def test_out_and_inputs_that_have_to_be_converted() -> None:
    pool, other = causal_model("lstm").stream_pool(4), causal_model("lstm").stream_pool(4)
    ids, others = [pool.open() for _ in range(4)], [other.open() for _ in range(4)]
    x = random(1, 4, 3)
    out = np.full((4, 16), 7, np.float32)
    assert pool.step(tuple(ids), x, out=out) is out
    for given in (x.astype(np.float64), x.tolist(), np.asfortranarray(x)):
        np.testing.assert_array_equal(other.step(np.array(others), given), out)
        for id in others:
            other.reset(id)
    square = le.LSTM.from_weights(random(1, 4, 16), random(2, 4, 16))
    first, second = square.stream_pool(2), square.stream_pool(2)
    both = [[one.open(), one.open()] for one in (first, second)]
    overlapping = random(3, 2, 4)
    wanted = first.step(both[0], overlapping)
    np.testing.assert_array_equal(second.step(both[1], overlapping, out=overlapping), wanted)
    unsigned = np.array(both[0], np.uint64)
    assert first.step(unsigned, overlapping).shape == (2, 4)
    assert first.step(iter(both[0]), overlapping).shape == (2, 4)


# --- Mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["lstm", "graph"])
@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda ids, x: {"ids": [*ids, ids[1]], "x": x}, le.StateError, r"ids\[3\]: expected each stream once, found"),
        (lambda ids, x: {"ids": [ids[0], 12], "x": x}, le.StateError, r"ids\[1\]: .*found 12, which was never opened"),
        (lambda ids, x: {"ids": [1 << 80], "x": x}, le.StateError, r"ids\[0\]: .*which was never opened"),
        (lambda ids, x: {"ids": [True], "x": x}, le.StateError, r"ids\[0\]: .*which was never opened"),
        (lambda ids, x: {"ids": list(range(50)), "x": x}, le.StateError, r"ids\[0\]: "),
        (lambda ids, x: {"ids": ids * 20, "x": x}, le.StateError, r"ids\[3\]: expected each stream once"),
        (lambda ids, x: {"ids": np.array(ids * 20), "x": x}, le.StateError, r"ids\[3\]: expected each stream once"),
        (lambda ids, x: {"ids": ["a"], "x": x}, le.ShapeError, "ids: expected an id that open.. gave"),
        (lambda ids, x: {"ids": [1.5], "x": x}, le.ShapeError, "ids: expected an id that open.. gave"),
        (lambda ids, x: {"ids": "abc", "x": x}, le.ShapeError, "ids: expected a list of ids, found str"),
        (lambda ids, x: {"ids": ids[0], "x": x}, le.ShapeError, "ids: expected a list of ids, found int"),
        (lambda ids, x: {"ids": np.array([ids]), "x": x}, le.ShapeError, r"ids: .*found dtype int64, shape \(1, 3\)"),
        (lambda ids, x: {"ids": np.array(ids, float), "x": x}, le.ShapeError, "ids: .*found dtype float64"),
        (lambda ids, x: {"ids": ids, "x": x[:2]}, le.ShapeError, r"x: expected shape \(3, 3\), found shape \(2, 3\)"),
        (lambda ids, x: {"ids": ids, "x": x[:, :2]}, le.ShapeError, r"x: expected shape \(3, 3\)"),
        (lambda ids, x: {"ids": ids, "x": x, "steps": [1, 1]}, le.ShapeError, r"steps: expected shape \(3,\)"),
        (lambda ids, x: {"ids": ids, "x": x, "steps": [1, -1, 3]}, le.ShapeError, "steps: .*found -1 at 1"),
        (lambda ids, x: {"ids": ids, "x": x, "steps": [1, 1.5, 3]}, le.ShapeError, "steps: expected"),
        (lambda ids, x: {"ids": ids, "x": x, "steps": [1, 1 << 50, 3]}, le.ShapeError, "steps: expected numbers of"),
        (lambda ids, x: {"ids": ids, "x": x, "steps": [1, 1, 2]}, le.ShapeError, "x: expected"),
        (lambda ids, x: {"ids": ids, "x": x, "out": np.empty((3, 99), np.float32)}, le.ShapeError, "out: expected"),
        (lambda ids, x: {"ids": ids, "x": x, "out": np.empty((2, 3))}, le.ShapeError, "out: expected"),
        (lambda ids, x: {"ids": ids, "x": x, "out": []}, le.ShapeError, "out: expected"),
    ],
)  # fmt: skip
def test_a_mistake_says_what_is_wrong_and_moves_no_stream(kind: str, make: Any, error: Any, words: str) -> None:
    pool = causal_model(kind).stream_pool(CAPACITY)
    ids = [pool.open() for _ in range(3)]
    x = inputs_of(kind, 1, 3)
    pool.step(ids, x)
    before = [pool.snapshot(id) for id in ids]
    with pytest.raises(error, match=words):
        pool.step(**make(ids, x))
    assert [pool.snapshot(id) for id in ids] == before


@pytest.mark.parametrize("call", ["reset", "snapshot", "close", "restore"])
def test_a_stream_that_is_not_open_is_refused_by_every_call(call: str) -> None:
    pool, other = causal_model("head").stream_pool(2), causal_model("head").stream_pool(2)
    id, kept = pool.open(), other.open()
    pool.close(id)
    arguments = [other.snapshot(kept)] if call == "restore" else []
    with pytest.raises(le.StateError, match=f"id: expected the id of an open stream, found {id}, which was closed"):
        getattr(pool, call)(id, *arguments)
    with pytest.raises(le.StateError, match=r"id: .*which was never opened in this pool"):
        getattr(pool, call)(3, *arguments)
    with pytest.raises(le.StateError, match=r"id: .*which was"):
        getattr(pool, call)(kept, *arguments)
    with pytest.raises(le.ShapeError, match="id: expected an id"):
        getattr(pool, call)("x", *arguments)
    assert "x" not in pool


def test_an_id_never_reaches_the_stream_that_has_its_place_now() -> None:
    pool = causal_model("lstm").stream_pool(1)
    seen = set()
    for _ in range(1000):
        id = pool.open()
        assert id not in seen
        assert 0 < id < 1 << 53
        seen.add(id)
        pool.close(id)
    last = pool.open()
    for id in list(seen)[:50]:
        with pytest.raises(le.StateError, match="was closed"):
            pool.step([id], np.zeros((1, 3), np.float32))
    assert pool.ids == [last]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"capacity": 0}, "capacity: expected an integer from 1 to 4194304, found 0"),
        ({"capacity": 1 << 40}, "capacity: expected"),
        ({"capacity": True}, "capacity: expected"),
        ({"capacity": 2.0}, "capacity: expected"),
        ({"idle_timeout": -1}, "idle_timeout: expected seconds or None"),
        ({"idle_timeout": float("nan")}, "idle_timeout: expected seconds or None"),
        ({"on_evict": 3}, "on_evict: expected something to call"),
    ],
)
def test_bad_options_of_a_pool(options: dict[str, Any], words: str) -> None:
    with pytest.raises(le.ShapeError, match=words):
        causal_model("head").stream_pool(**options)


def test_a_pool_that_was_never_made_is_none() -> None:
    bare = le.StreamPool.__new__(le.StreamPool)
    assert (len(bare), bare.ids, 5 in bare) == (0, [], False)
    for call in (bare.open, lambda: bare.step([1], [[0.0]]), lambda: bare.close(1), lambda: bare.evict(0)):
        with pytest.raises(le.StateError, match="never initialised"):
            call()


def test_a_model_that_looks_ahead_has_no_pool() -> None:
    backward = le.LSTM.from_weights(random(1, 3, 8), random(2, 2, 8), direction="reverse")
    with pytest.raises(le.UnsupportedModelError, match="expected a forward LSTM"):
        backward.stream_pool()
    with pytest.raises(le.UnsupportedModelError, match="layer 'lstm'"):
        le.Sequential([backward]).stream_pool()


# --- Eviction ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["chain", "tokens"])
def test_the_longest_unused_stream_makes_room(kind: str) -> None:
    kept: dict[int, bytes] = {}
    pool = causal_model(kind).stream_pool(3, idle_timeout=0.0, on_evict=kept.__setitem__)
    ids = [pool.open() for _ in range(3)]
    x = inputs_of(kind, 1, 3)
    pool.step([ids[1], ids[0], ids[2]], x)
    pool.step([ids[2]], x[:1])
    pool.step([ids[0]], x[:1])
    before = pool.snapshot(ids[1])
    new = pool.open()
    assert kept == {ids[1]: before}
    assert sorted(pool.ids) == sorted([ids[0], ids[2], new])
    twin = causal_model(kind).stream()
    twin.step(x[0])
    pool.close(new)
    back = pool.open(kept[ids[1]])
    assert_same(kind, pool.step([back], x[1:2])[0], twin.step(x[1]))


def test_streams_in_use_are_not_evicted_and_evict_tells_which_went() -> None:
    pool = causal_model("head").stream_pool(2, idle_timeout=3600)
    ids = [pool.open(), pool.open()]
    with pytest.raises(le.StateError, match="expected room for another stream, found 2 open and a capacity of 2"):
        pool.open()
    time.sleep(0.05)
    pool.step([ids[1]], inputs_of("head", 1, 1))
    assert pool.evict(0.04) == [ids[0]]
    assert pool.evict(3600) == []
    assert pool.evict(0) == [ids[1]]
    assert len(pool) == 0
    for bad in (-1, float("nan"), "x", True):
        with pytest.raises(le.ShapeError, match="idle: expected seconds"):
            pool.evict(bad)


def test_a_callback_that_fails_keeps_the_stream() -> None:
    def fail(id: int, snapshot: bytes) -> None:
        with pytest.raises(le.StateError, match="on_evict called it"):
            pool.close(id)
        raise OSError("no space left")

    pool = causal_model("head").stream_pool(1, idle_timeout=0, on_evict=fail)
    id = pool.open()
    for call in (pool.open, lambda: pool.evict(0)):
        with pytest.raises(OSError, match="no space left"):
            call()
        assert pool.ids == [id]
    with pytest.raises(le.FormatError):
        pool.open(b"no snapshot")  # found out before anything is evicted
    assert pool.ids == [id]


# --- Threads, memory and the host's settings --------------------------------------------------------------------------

HOST = """
import ctypes, sys
import numpy as np
sys.path.insert(0, "tests")
from causal_models import causal_model, inputs_of

class Environment(ctypes.Structure):
    _fields_ = [("x87", ctypes.c_uint32 * 7), ("mxcsr", ctypes.c_uint32)]

libm, environment = ctypes.CDLL("libm.so.6"), Environment()
libm.fegetenv(ctypes.byref(environment))
kept, strange = environment.mxcsr, environment.mxcsr | 0x8040 | 0x4000  # denormals are zero, rounding is upward
results = []
for control in (kept, strange):
    pool, window = causal_model("chain").stream_pool(5), causal_model("chain").sliding_window(3)
    ids = [pool.open() for _ in range(5)]
    x = [scale * inputs_of("chain", 1, 5) for scale in (np.float32(1), np.float32(1e-41))]
    out = [np.empty((5, 4), np.float32) for _ in range(8)]
    environment.mxcsr = control
    libm.fesetenv(ctypes.byref(environment))
    for place in range(4):
        pool.step(ids, x[place % 2], out=out[place])
        for row in range(5):
            window.push(x[place % 2][row], out=out[4 + place][row], defer=row % 2 == 0)
    libm.fegetenv(ctypes.byref(environment))
    assert environment.mxcsr & 0xE040 == control & 0xE040, hex(environment.mxcsr)
    environment.mxcsr = kept
    libm.fesetenv(ctypes.byref(environment))
    out[4][:2] = 0  # before there were three samples
    results.append(b"".join(y.tobytes() for y in out))
print(results[0] == results[1])
"""


@pytest.mark.skipif(os.uname().machine != "x86_64" or not sys.platform.startswith("linux"), reason="x86-64 Linux")
def test_the_floating_point_state_of_the_host_does_not_matter() -> None:
    done = subprocess.run([sys.executable, "-c", HOST], capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.stdout.strip(), done.stderr) == ("True", "")


def test_two_threads_in_one_pool_are_refused_and_never_mixed() -> None:
    source = le.LSTM.from_weights(random(1, 32, 512), random(2, 128, 512, scale=0.1))
    pool = source.stream_pool(64)
    ids = [pool.open() for _ in range(64)]
    x = np.repeat(random(3, 64, 32), 20, axis=0)
    counts, refused, together = [0, 0], [0, 0], threading.Barrier(2)

    def work(place: int) -> None:
        given = x.astype(np.float64) if place else x
        together.wait()
        for _ in range(15):
            try:
                pool.step(ids, given, steps=np.full(64, 20))
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
    assert sum(counts) + sum(refused) == 30
    assert sum(refused), "two threads were in one pool and neither was told"
    stream = source.stream()
    stream.run(np.broadcast_to(x[100], (20 * sum(counts), 32)))
    assert pool.snapshot(ids[5]) == stream.snapshot()


def test_asking_for_a_stream_does_not_disturb_a_step() -> None:
    """``in`` may be asked by any thread at any time."""
    source = le.LSTM.from_weights(random(1, 32, 512), random(2, 128, 512, scale=0.1))
    pool = source.stream_pool(2)
    unused, stepped = pool.open(), pool.open()
    x = np.zeros((20_000, 32), np.float32)
    thread = threading.Thread(target=pool.step, args=([stepped], x), kwargs={"steps": [len(x)]})
    began = time.perf_counter()
    thread.start()
    asked = 0
    while thread.is_alive():
        assert unused in pool
        asked += 1
    assert asked > 10
    assert pool.evict((time.perf_counter() - began) / 2) == [unused]


def test_memory_stays_flat() -> None:
    pool = causal_model("chain").stream_pool(100)
    ids = [pool.open() for _ in range(99)]
    x, out = inputs_of("chain", 1, 99), np.empty((99, 4), np.float32)

    def work(count: int) -> None:
        for _ in range(count):
            pool.step(ids, x, out=out)
            pool.step(ids[:3], x, steps=[90, 0, 9])
            id = pool.open(pool.snapshot(ids[0]))
            pool.close(id)

    work(20)
    tracemalloc.start()
    try:
        work(20)
        before, _ = tracemalloc.get_traced_memory()
        work(400)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 4096
