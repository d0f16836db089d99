"""Time pools of streams and sliding windows beside single streams and beside ONNX Runtime: ``python -m bench.live``.

    python -m bench.live                   # both; --cells streams,window of bench.run is the same
    python -m bench.live window --record   # and make the result the recorded one, bench/live_recorded.json

Streams: n independent streams, each with a state of its own, take one step: in one ``StreamPool.step``, one
``Stream.step`` after the other, and one ``session.run`` after the other. Windows: a new sample arrives, and the
prediction over the last samples is wanted: by ``SlidingWindow.push``, and by ``session.run`` over the whole window.
All take turns, round after round, on one CPU; medians over rounds. What everybody computed is compared before anything
is timed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

import lstm_engine as le

from .cells import Cell
from .contender import relative_l2
from .timing import pinned

__all__ = ["GROUPS", "RECORDED", "main", "markdown"]

#: What there is to time, and the columns of its table.
GROUPS: Final = {
    "streams": ("streams", "pool", "one by one", "onnxruntime", "of one by one", "of onnxruntime"),
    "window": (
        "window", "units", "layers", "push", "onnxruntime", "of onnxruntime", "answer", "step", "answer of step"
    ),
}  # fmt: skip
_WORDS: Final = {
    "streams": "Microseconds a step of one stream; 64 features, 128 units",
    "window": "Microseconds a sample; 64 features. Answer: a deferred push, beside a step of a plain stream",
}
RECORDED: Final = Path(__file__).parent / "live_recorded.json"
_RESULTS: Final = Path(__file__).parent / "results" / "live.json"

Row = dict[str, float]
Call = Callable[[], object]

#: Largest relative L2 difference between two engines in float32.
_TOLERANCE = 1e-5


def _session(cell: Cell) -> Any:
    import onnxruntime

    from .peers.onnx_model import onnx_model

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(onnx_model(cell), options, providers=["CPUExecutionProvider"])


def _microseconds(calls: dict[str, tuple[Call, Call]], seconds: float, least: int = 1) -> dict[str, float]:
    """Return the median time of each call; the second of a pair is called after it and not timed.

    A sample is ``least`` calls in a row or more: the first finds in the caches what another engine left there.
    """
    counts: dict[str, int] = {}
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for name, (call, after) in calls.items():
        begin = time.perf_counter()
        call()
        after()
        counts[name] = max(least, int(4e-4 / (time.perf_counter() - begin)))
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


def _streams(count: int, seconds: float) -> Row:
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
        "one by one": (one_by_one, _nothing),
        "onnxruntime": (by_onnx, _nothing),
    }
    each = {name: took / count for name, took in _microseconds(calls, seconds).items()}
    return {"streams": count, **each}


def _window(length: int, hidden: int, layers: int, seconds: float) -> Row:
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
    return {"window": length, "units": hidden, "layers": layers, **_microseconds(calls, seconds, 8)}


def _rows(group: str, seconds: float) -> Iterator[Row]:
    if group == "streams":
        for count in (1000, 10_000):
            yield _streams(count, seconds)
        return
    for layers in (1, 2):
        for hidden in (64, 128):
            for length in (20, 50, 200):
                yield _window(length, hidden, layers, seconds)


def _texts(group: str, row: Row) -> list[str]:
    """Return what stands in a row of the table: counts, microseconds, and how many times faster ours is."""
    ours = row["pool" if group == "streams" else "push"]
    texts = []
    for column in GROUPS[group]:
        if column == "answer of step":
            texts.append(f"{row['answer'] / row['step']:.2f}x")
        elif column.startswith("of "):
            texts.append(f"{row[column.removeprefix('of ')] / ours:.2f}x")
        elif column in ("streams", "window", "units", "layers"):
            texts.append(f"{row[column]:,}")
        else:
            texts.append(f"{row[column]:,.0f}" if row[column] >= 99.5 else f"{row[column]:#.3g}".rstrip("."))
    return texts


def markdown(group: str, path: Path = RECORDED) -> str:
    """Return the table of a recorded group in Markdown."""
    document = json.loads(path.read_text(encoding="utf-8"))
    head = list(GROUPS[group])
    rows = [_texts(group, row) for row in document[group]]
    lines = [head, ["---:"] * len(head), *rows]
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
    return f"{_WORDS[group]}. {document['cpu']}, {document['date'][:10]}.\n\n{table}"


def main(arguments: list[str] | None = None) -> int:
    """Time, print and save; returns 0."""
    parser = argparse.ArgumentParser(prog="python -m bench.live", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("groups", nargs="*", metavar="GROUP", help="streams, window (default: both)")
    parser.add_argument("--seconds", type=float, default=2.0, help="measuring time for each line (default: 2)")
    parser.add_argument("--record", action="store_true", help="make the result the recorded one")
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.groups) - set(GROUPS)):
        parser.error(f"expected some of {', '.join(GROUPS)}, found {', '.join(unknown)}")
    from .report import machine_facts
    from .roofline import Roofline

    with pinned(1):
        facts = machine_facts(Roofline(le.config()["instruction_set"]))
        document: dict[str, Any] = {"cpu": facts["cpu"], "date": facts["date"]}
        if RECORDED.exists():
            document = {**json.loads(RECORDED.read_text(encoding="utf-8")), **document}
        for group in options.groups or GROUPS:
            columns, document[group] = GROUPS[group], []
            widths = [max(len(column), 10) for column in columns]
            print(f"{group}: {_WORDS[group]}")
            print("  ".join(column.rjust(width) for column, width in zip(columns, widths, strict=True)), flush=True)
            for row in _rows(group, options.seconds):
                document[group].append(row)
                texts = _texts(group, row)
                print("  ".join(text.rjust(width) for text, width in zip(texts, widths, strict=True)), flush=True)
            print()
    for path in [_RESULTS, *([RECORDED] if options.record else [])]:
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
