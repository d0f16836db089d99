"""Time pools of streams and sliding windows beside single streams and beside ONNX Runtime: ``python -m bench.live``.

Streams: n independent streams, each with a state of its own, take one step: in one ``StreamPool.step``, one
``Stream.step`` after the other, and one ``session.run`` after the other. Windows: a new sample arrives, and the
prediction over the last samples is wanted: by ``SlidingWindow.push``, and by ``session.run`` over the whole window.
All take turns, round after round, on one CPU; medians over rounds. What everybody computed is compared before anything
is timed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import lstm_engine as le

from .cells import Cell
from .contender import relative_l2
from .timing import pinned

__all__ = ["main"]

Call = Callable[[], object]

#: Largest relative L2 difference between two engines in float32.
_TOLERANCE = 1e-5


def _session(cell: Cell) -> Any:
    import onnxruntime

    from .peers.onnx_model import onnx_model

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(onnx_model(cell), options, providers=["CPUExecutionProvider"])


def _microseconds(calls: dict[str, tuple[Call, Call]], seconds: float) -> dict[str, float]:
    """Return the median time of each call; the second of a pair is called after it and not timed."""
    counts: dict[str, int] = {}
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for name, (call, after) in calls.items():
        begin = time.perf_counter()
        call()
        after()
        counts[name] = max(1, int(4e-4 / (time.perf_counter() - begin)))
    end, rounds = time.perf_counter() + seconds, 0
    while rounds < 5 or time.perf_counter() < end:
        rounds += 1
        for name, (call, after) in calls.items():
            took = 0.0
            for _ in range(counts[name]):
                begin = time.perf_counter()
                call()
                took += time.perf_counter() - begin
                after()
            samples[name].append(took / counts[name])
    return {name: 1e6 * statistics.median(own) for name, own in samples.items()}


def _nothing() -> None:
    pass


def _check(name: str, found: Any, wanted: Any) -> None:
    if not (error := relative_l2(np.asarray(found), np.asarray(wanted))) <= _TOLERANCE:
        raise SystemExit(f"bench.live: {name}: engines differ by {error:.1e}, more than {_TOLERANCE:.0e}")


def _streams(count: int, seconds: float) -> str:
    cell = Cell(1, 1, 64, 128)
    lstm, session = le.LSTM(cell.weights()), _session(cell)
    pool, alone = lstm.stream_pool(count), [lstm.stream() for _ in range(count)]
    random = np.random.default_rng(0)
    ids = random.permutation(np.array([pool.open() for _ in range(count)]))
    x, out = random.standard_normal((count, 64), dtype=np.float32), np.empty((count, 128), np.float32)
    separate, peer = np.empty_like(out), np.empty_like(out)
    zero = np.zeros((1, 1, 128), np.float32)
    states = [{"x": row.reshape(1, 1, 64), "h0": zero, "c0": zero} for row in x]
    names = ["y", "hn0", "cn0"]

    def one_by_one() -> None:
        for place, stream in enumerate(alone):
            stream.step(x[place], out=separate[place])

    def by_onnx() -> None:
        for place, feed in enumerate(states):
            y, feed["h0"], feed["c0"] = session.run(names, feed)
            peer[place] = y[0, 0]

    for _ in range(2):
        pool.step(ids, x, out=out)
        one_by_one()
        by_onnx()
    _check(f"{count} streams", out, separate)
    _check(f"{count} streams", out, peer)
    calls: dict[str, tuple[Call, Call]] = {
        "pool": (lambda: pool.step(ids, x, out=out), _nothing),
        "alone": (one_by_one, _nothing),
        "onnxruntime": (by_onnx, _nothing),
    }
    each = {name: took / count for name, took in _microseconds(calls, seconds).items()}
    return (
        f"{count:8,}  {each['pool']:10.3f}  {each['alone']:10.3f}  {each['onnxruntime']:11.2f}"
        f"  {each['alone'] / each['pool']:8.2f}x  {each['onnxruntime'] / each['pool']:14.2f}x"
    )


def _window(length: int, hidden: int, layers: int, seconds: float) -> str:
    cell = Cell(1, length, 64, hidden, layers)
    lstm, session = le.LSTM(cell.weights()), _session(cell)
    samples, out = cell.inputs()[0], np.empty(hidden, np.float32)
    window, deferred, stream = lstm.sliding_window(length), lstm.sliding_window(length), lstm.stream()
    for sample in samples:
        window.push(sample, out=out)
        deferred.push(sample, defer=True)
    feed, last = {"x": np.ascontiguousarray(samples[:, None])}, samples[-1]
    (y,) = session.run(["y"], feed)
    _check(f"window {length}", out, y[-1, 0])
    other = np.empty_like(out)
    calls: dict[str, tuple[Call, Call]] = {
        "push": (lambda: window.push(last, out=out), _nothing),
        "answer": (lambda: deferred.push(last, out=other, defer=True), deferred.settle),
        "step": (lambda: stream.step(last, out=other), _nothing),
        "onnxruntime": (lambda: session.run(["y"], feed), _nothing),
    }
    took = _microseconds(calls, seconds)
    return (
        f"{length:6}  {hidden:4}  {layers:6}  {took['push']:8.1f}  {took['onnxruntime']:11.1f}"
        f"  {took['onnxruntime'] / took['push']:7.2f}x  {took['answer']:8.2f}  {took['step']:6.2f}"
        f"  {took['answer'] / took['step']:7.2f}x"
    )


def _lines(which: str, seconds: float) -> Iterator[str]:
    if which in ("streams", "all"):
        yield "streams: microseconds a step of one stream, 64 features, 128 units"
        yield " streams        pool       alone  onnxruntime  of alone  of onnxruntime"
        for count in (1000, 10_000):
            yield _streams(count, seconds)
        yield ""
    if which in ("window", "all"):
        yield "window: microseconds a sample, 64 features; answer: a deferred push, beside a step of a stream"
        yield "length  units  layers   push  onnxruntime   speed-up   answer    step   of step"
        for layers in (1, 2):
            for hidden in (64, 128):
                for length in (20, 50, 200):
                    yield _window(length, hidden, layers, seconds)


def main(arguments: list[str] | None = None) -> int:
    """Print both tables."""
    parser = argparse.ArgumentParser(prog="python -m bench.live", description=__doc__)
    parser.add_argument("which", nargs="?", choices=("streams", "window", "all"), default="all")
    parser.add_argument("--seconds", type=float, default=2.0, help="measuring time for each line (default: 2)")
    options = parser.parse_args(arguments)
    with pinned(1):
        for line in _lines(options.which, options.seconds):
            print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
