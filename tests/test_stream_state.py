"""The state of streams: snapshots, forks, threads, and any order of operations beside the plain model."""

from __future__ import annotations

import pickle
import struct
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from causal_models import FEATURES, KINDS, assert_same, causal_model, deeper, inputs_of, whole
from described import random
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

import lstm_engine as le
from lstm_engine.fingerprint import fingerprint
from lstm_engine.snapshots import SnapshotLayout

ROOT = Path(__file__).parent.parent


class StreamMachine(RuleBasedStateMachine):
    """Streams of one model, each with all that it was fed since its beginning."""

    @initialize(kind=st.sampled_from(KINDS), seed=st.integers(0, 100))
    def begin(self, kind: str, seed: int) -> None:
        self.kind, self.seed = kind, seed
        self.source = causal_model(kind)
        self.streams = [(self.source.stream(), inputs_of(kind, 0, 0))]
        self.kept: list[tuple[bytes, Any]] = []

    def _fresh(self, steps: int) -> Any:
        self.seed += 1
        return inputs_of(self.kind, self.seed, steps)

    def _fed(self, place: int, steps: int) -> tuple[Any, Any, Any]:
        place %= len(self.streams)
        stream, history = self.streams[place]
        x = self._fresh(steps)
        self.streams[place] = (stream, np.concatenate([history, x]))
        return stream, x, self.streams[place][1]

    @rule(place=st.integers(0, 9))
    def step(self, place: int) -> None:
        stream, x, history = self._fed(place, 1)
        assert_same(self.kind, stream.step(x[0]), whole(self.kind, history[None])[0])

    @rule(place=st.integers(0, 9), steps=st.integers(0, 7))
    def run(self, place: int, steps: int) -> None:
        stream, x, history = self._fed(place, steps)
        y = stream.run(x)
        assert len(y) == steps
        if steps:
            assert_same(self.kind, y[-1], whole(self.kind, history[None])[0])

    @rule(place=st.integers(0, 9))
    def reset(self, place: int) -> None:
        stream, history = self.streams[place % len(self.streams)]
        stream.reset()
        self.streams[place % len(self.streams)] = (stream, history[:0])

    @rule(place=st.integers(0, 9))
    def snapshot(self, place: int) -> None:
        stream, history = self.streams[place % len(self.streams)]
        self.kept.append((stream.snapshot(), history))

    @precondition(lambda self: self.kept)
    @rule(place=st.integers(0, 9), kept=st.integers(0, 9))
    def restore(self, place: int, kept: int) -> None:
        snapshot, history = self.kept[kept % len(self.kept)]
        stream, _ = self.streams[place % len(self.streams)]
        stream.restore(snapshot)
        self.streams[place % len(self.streams)] = (stream, history)

    @precondition(lambda self: len(self.streams) < 4)
    @rule(place=st.integers(0, 9))
    def fork(self, place: int) -> None:
        stream, history = self.streams[place % len(self.streams)]
        self.streams.append((stream.fork(), history))

    @rule(place=st.integers(0, 9), other=st.integers(0, 9))
    def copy_state(self, place: int, other: int) -> None:
        stream, _ = self.streams[place % len(self.streams)]
        from_stream, history = self.streams[other % len(self.streams)]
        stream.state = from_stream.state
        self.streams[place % len(self.streams)] = (stream, history)

    @precondition(lambda self: self.kept)
    @rule(place=st.integers(0, 9), kept=st.integers(0, 9), at=st.integers(0, 1 << 20), cut=st.booleans())
    def bad_restore(self, place: int, kept: int, at: int, cut: bool) -> None:
        snapshot = bytearray(self.kept[kept % len(self.kept)][0])
        at %= len(snapshot)
        if cut:
            del snapshot[at:]
        else:
            snapshot[at] ^= 0x10
        with pytest.raises(le.LstmEngineError, match="snapshot: "):
            self.streams[place % len(self.streams)][0].restore(snapshot)

    @rule(place=st.integers(0, 9), wrong=st.sampled_from(["step", "run", "out", "state"]))
    def mistake(self, place: int, wrong: str) -> None:
        stream, _ = self.streams[place % len(self.streams)]
        calls = {
            "step": lambda: stream.step(np.zeros((2, 2, 2))),
            "run": lambda: stream.run(np.zeros((2, 2, 2, 2))),
            "out": lambda: stream.step(self._fresh(1)[0], out=np.empty((7, 7), np.float32)),
            "state": lambda: setattr(stream, "state", ()),
        }
        with pytest.raises(le.ShapeError):
            calls[wrong]()


TestStreamMachine = StreamMachine.TestCase
TestStreamMachine.settings = settings(max_examples=25, stateful_step_count=20)
TestDeepStreamMachine = deeper(StreamMachine)


# --- What a model is --------------------------------------------------------------------------------------------------


def test_every_kind_has_its_own_fingerprint_and_no_file_changes_it(tmp_path: Any) -> None:
    found = {fingerprint(causal_model(kind)) for kind in KINDS}
    assert len(found) == len(KINDS)
    for kind in ("chain", "convolution"):
        source = causal_model(kind)
        source.save(tmp_path / f"{kind}.safetensors")
        loaded = le.load(tmp_path / f"{kind}.safetensors")
        assert fingerprint(loaded) == fingerprint(source)
        assert fingerprint(pickle.loads(pickle.dumps(source))) == fingerprint(source)
        stream, other = source.stream(), loaded.stream()
        stream.run(inputs_of(kind, 1, 5))
        other.restore(stream.snapshot())
        assert_same(kind, other.step(inputs_of(kind, 2)), stream.step(inputs_of(kind, 2)))


def test_weights_and_options_are_part_of_the_fingerprint() -> None:
    arrays = random(1, FEATURES, 16), random(2, 4, 16), random(3, 16)
    changed = arrays[2].copy()
    changed[5] = np.nextafter(changed[5], np.float32(9))
    plain = le.LSTM.from_weights(*arrays)
    others = [
        le.LSTM.from_weights(arrays[0], arrays[1], changed),
        le.LSTM.from_weights(*arrays, zero_masked=True),
        le.Sequential([plain, le.Dense(random(4, 4, 2))]),
        le.Sequential([plain, le.Dense(random(4, 4, 2), activation="relu")]),
    ]
    assert len({fingerprint(one) for one in (plain, *others)}) == 5
    assert fingerprint(le.LSTM.from_weights(*arrays)) == fingerprint(plain)
    alone, model = plain.stream(), le.Sequential([plain]).stream()  # the same model, so the same snapshots
    alone.step(random(5, FEATURES))
    model.restore(alone.snapshot())
    assert model.snapshot() == alone.snapshot()
    double = le.LSTM.from_weights(*arrays, compute_type="float64")
    assert fingerprint(le.Sequential([double])) == fingerprint(le.Sequential([plain]))


# --- Snapshots --------------------------------------------------------------------------------------------------------


def test_a_snapshot_is_a_safetensors_file_of_named_arrays() -> None:
    import safetensors.numpy

    stream = causal_model("convolution").stream(batch=2)
    stream.run(inputs_of("convolution", 1, 2, 6))
    found = safetensors.numpy.load(stream.snapshot())
    state = stream.state
    assert set(found) == {"conv.past", "separable.past", "gru.h", "lstm.h", "lstm.c", "checksum"}
    np.testing.assert_array_equal(found["gru.h"], state["gru"].h)
    np.testing.assert_array_equal(found["conv.past"], state["conv"].past)
    np.testing.assert_array_equal(found["lstm.c"], state["lstm"].c)
    assert state["conv"].past.shape == (4, 2, FEATURES)
    h, c = causal_model("lstm").stream().state
    assert (h.shape, c.shape) == ((1, 16), (1, 16))
    assert causal_model("lstm").stream().state.c.shape == (1, 16)


def test_every_damaged_byte_and_every_length_of_a_snapshot_is_refused() -> None:
    stream = causal_model("head").stream()
    stream.run(inputs_of("head", 1, 5))
    snapshot, twin = stream.snapshot(), stream.fork()
    for place in range(len(snapshot)):
        damaged = bytearray(snapshot)
        damaged[place] ^= 1
        with pytest.raises(le.LstmEngineError, match="snapshot: "):
            twin.restore(damaged)
    for length in (*range(0, len(snapshot), 7), len(snapshot) - 1):
        with pytest.raises(le.LstmEngineError, match="snapshot: "):
            twin.restore(snapshot[:length])
    x = inputs_of("head", 2)
    twin_step = twin.fork().step(x)
    assert_same("head", twin_step, stream.fork().step(x))
    twin.restore(memoryview(snapshot))
    assert_same("head", twin.step(x), stream.step(x))


def _with_header(snapshot: bytes, old: bytes, new: bytes) -> bytes:
    """Return a snapshot with other text in its header, its checksum made to fit."""
    from hashlib import blake2b

    (length,) = struct.unpack("<Q", snapshot[:8])
    header = snapshot[8 : 8 + length].rstrip(b" ")
    assert old in header
    header = header.replace(old, new)
    header += b" " * (-len(header) % 8)
    content = struct.pack("<Q", len(header)) + header + snapshot[8 + length : -16]
    return content + blake2b(content, digest_size=16).digest()


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda s: 5, le.FormatError, "expected bytes, found int"),
        (lambda s: b"", le.FormatError, r"expected bytes from snapshot\(\), found others"),
        (lambda s: b"\xff" * 300, le.FormatError, r"expected bytes from snapshot\(\), found others"),
        (lambda s: s + b"x", le.FormatError, "expected .* bytes, found .*joined"),
        (lambda s: s[:-20], le.FormatError, "expected .* bytes, found .*cut off"),
        (lambda s: s[:-60] + b"\0" * 4 + s[-56:], le.FormatError, "checksum"),
        (lambda s: _with_header(s, b'"version":"1"', b'"version":"2"'), le.UnsupportedModelError,
         "version 1, found '2'"),
        (lambda s: _with_header(s, b'"rows":"1"', b'"rows":"7"'), le.StateError, "expected rows 1, found '7'"),
        (lambda s: _with_header(s, b'"float32"', b'"float64"'), le.StateError, "expected compute_type float32"),
        (lambda s: _with_header(s, b'[1,1,16]', b'[1,16,1]'), le.FormatError, "header is damaged"),
        (lambda s: causal_model("head").stream().snapshot(), le.StateError, "expected one of this model"),
        (lambda s: causal_model("lstm").stream(batch=2).snapshot(), le.StateError, "expected rows 1, found '2'"),
    ],
)  # fmt: skip
def test_a_snapshot_that_does_not_fit_says_why(make: Any, error: Any, words: str) -> None:
    stream = causal_model("lstm").stream()
    stream.step(inputs_of("lstm", 1))
    before = stream.state
    with pytest.raises(error, match=f"snapshot: .*{words}"):
        stream.restore(make(stream.snapshot()))
    for found, wanted in zip(stream.state, before, strict=True):
        np.testing.assert_array_equal(found, wanted)
    stream.step(inputs_of("lstm", 2))  # and it was let go


def test_a_snapshot_goes_on_in_another_process() -> None:
    stream = causal_model("convolution").stream()
    stream.run(inputs_of("convolution", 1, 9))
    program = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "from causal_models import causal_model, inputs_of\n"
        "stream = causal_model('convolution').stream()\n"
        "stream.restore(bytes.fromhex(sys.stdin.read()))\n"
        "print(stream.run(inputs_of('convolution', 2, 5)).tobytes().hex())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], input=stream.snapshot().hex(), capture_output=True, text=True, check=True,
        cwd=ROOT,
    )  # fmt: skip
    assert done.stdout.strip() == stream.run(inputs_of("convolution", 2, 5)).tobytes().hex()


def test_a_layer_that_cannot_be_described_has_no_snapshot() -> None:
    from lstm_engine.layers.core import Identity

    class Mine(Identity):
        pass

    stream = le.Sequential([causal_model("lstm"), Mine(kind="Mine", name="mine")]).stream()
    with pytest.raises(le.UnsupportedModelError, match="'mine'"):
        stream.snapshot()
    stream.step(inputs_of("lstm", 1))


def test_the_layout_gives_back_what_it_was_given() -> None:
    layout = SnapshotLayout(causal_model("double"), 2, [("a", (3, 2)), ("b", (0,)), ("c", (1,))])
    arrays = [np.arange(6.0).reshape(3, 2), np.zeros(0), np.array([np.nan])]
    for found, wanted in zip(layout.unpack(layout.pack(arrays)), arrays, strict=True):
        np.testing.assert_array_equal(found, wanted)
        assert found.flags.writeable


# --- Convolutions -----------------------------------------------------------------------------------------------------


def test_a_convolution_of_pytorch_that_is_padded_at_the_beginning_streams() -> None:
    kernel, bias = random(1, 3, FEATURES, 4), random(2, 4)
    made = le.Sequential(
        [le.Conv1d(kernel, bias, dilation=2, padding=(4, 0)), le.LSTM.from_weights(random(3, 4, 8), random(4, 2, 8))]
    )
    x = random(5, 2, 9, FEATURES)
    stream = made.stream(batch=2)
    parts = [stream.run(x[:, a:b]) for a, b in ((0, 0), (0, 1), (1, 2), (2, 7), (7, 9))]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), made(x))
    for options, words in (
        ({}, "looks at later steps"),
        ({"padding": (2, 0), "padding_mode": "replicate"}, "looks at later steps"),
        ({"padding": "same"}, "looks at later steps"),
        ({"padding": (2, 0), "stride": 2}, "one step for 2 steps"),
    ):
        with pytest.raises(le.UnsupportedModelError, match=rf"layer 'conv' \(Conv1d\) cannot run .*{words}"):
            le.Sequential([le.Conv1d(kernel, bias, name="conv", **options)]).stream()


# --- Threads and memory -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["wide", "graph"])
def test_two_threads_in_one_stream_are_refused_and_never_mixed(kind: str) -> None:
    """Every call goes through whole or not at all, whatever runs beside it."""
    if kind == "wide":
        source: Any = le.LSTM.from_weights(random(1, 96, 1024), random(2, 256, 1024, scale=0.1))
        x = random(3, 96)
    else:
        source, x = causal_model(kind), inputs_of(kind, 3)
    stream, counts, refused = source.stream(), [0, 0], [0, 0]

    def work(place: int) -> None:
        # Lists are converted on the way, which gives the other thread a chance in the middle of a call.
        given = x.tolist() if place else x
        for _ in range(150):
            try:
                stream.step(given)
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
    assert sum(counts) + sum(refused) == 300
    twin = source.stream()
    twin.run(np.broadcast_to(x, (sum(counts), *x.shape)))
    assert stream.snapshot() == twin.snapshot()


def test_memory_stays_flat() -> None:
    stream = causal_model("chain").stream()
    x, out = inputs_of("chain", 1), np.empty(4, np.float32)
    snapshot = stream.snapshot()

    def work(count: int) -> None:
        for _ in range(count):
            stream.step(x, out=out)
            stream.step(x)
        for _ in range(count // 50):
            stream.restore(snapshot)
            stream.fork().snapshot()
            stream.state = stream.state

    work(200)
    tracemalloc.start()
    try:
        work(200)
        before, _ = tracemalloc.get_traced_memory()
        work(4000)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 4096
