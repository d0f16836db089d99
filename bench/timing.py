"""Interleaved timing: all contenders take turns, so that a noisy neighbour slows all of them alike."""

from __future__ import annotations

import gc
import os
import statistics
import time
import timeit
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from .contender import Contender

__all__ = ["Timing", "empty_call_seconds", "garbage_collection_off", "measure", "pinned"]

#: A timed sample is an inner loop of at least this long; nothing is subtracted from it.
SAMPLE_SECONDS: Final = 4e-4

#: Untimed calls before a sample: this many, or this much time, whichever is less. Others ran before, and a large third
#: level takes several calls until it holds a model's weights as it does in steady use (on Zen 4, after one call: 160
#: microseconds where 113 is the steady state).
_WARM_CALLS: Final = 16
_WARM_SECONDS: Final = 3e-3

#: Calls at least this long need none: what others left in the caches is a small part of them.
_LONG_CALL_SECONDS: Final = 2e-2

#: More rounds than this do not make a median better.
_MOST_ROUNDS: Final = 500

#: At most this many calls are timed one by one in each round.
_BURST: Final = 64


@dataclass(slots=True)
class Timing:
    """Seconds a call: one sample for each round, and, where asked for, calls timed one by one."""

    samples: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)

    @property
    def p50(self) -> float:
        """Median of the samples."""
        return statistics.median(self.samples)

    def latency(self, percent: float) -> float | None:
        """Return a percentile of the calls that were timed one by one; None where there are none.

        The clock's own time, some tens of nanoseconds, is in it.
        """
        return float(np.percentile(self.latencies, percent)) if self.latencies else None


@contextmanager
def pinned() -> Iterator[int | None]:
    """Keep this thread, and those it starts, on one CPU; yields its number, or None where that cannot be done."""
    if not hasattr(os, "sched_setaffinity"):
        yield None
        return
    before = os.sched_getaffinity(0)
    # The last one: the first takes most of the system's interrupts.
    cpu = max(before)
    os.sched_setaffinity(0, {cpu})
    try:
        yield cpu
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def garbage_collection_off() -> Iterator[None]:
    """Keep the garbage collector from running in the middle of a sample."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def empty_call_seconds() -> float:
    """Return the seconds of one call of a bound C method that does nothing: the least that any call from Python costs.

    One short run; ``"".isascii`` takes no arguments and returns a constant.
    """
    count = 10_000
    return timeit.Timer("call()", "call = ''.isascii").timeit(count) / count


def _inner_loop(timer: timeit.Timer) -> tuple[int, float]:
    """Return how many calls make a sample, and about how long one call is."""
    timer.timeit(1)  # the first call allocates, packs and fills caches
    count = 1
    while True:
        seconds = timer.timeit(count)
        if seconds >= SAMPLE_SECONDS:
            return count, seconds / count
        count *= 2 if seconds <= 0 else max(2, min(64, int(SAMPLE_SECONDS / seconds) + 1))


def measure(
    contenders: Sequence[Contender],
    probes: Mapping[str, Callable[[], float]],
    *,
    seconds: float,
    least_rounds: int = 5,
    one_by_one: bool = False,
) -> tuple[list[Timing], dict[str, float], float]:
    """Time ``contenders`` and ``probes`` in turns until ``seconds`` have passed.

    Parameters
    ----------
    contenders
        What to time; each must have its input already.
    probes
        Measurements of the machine that are taken once a round, by name.
    seconds
        Stop after the round in which this much time has passed,
    least_rounds
        but not before this many rounds.
    one_by_one
        Whether to time single calls as well, for percentiles of their latency.

    Returns
    -------
    timings, medians, cpu_share
        A timing for each contender, in their order; the median of each probe; and how much of the CPU's time we had,
        1 if nobody else ran on it.
    """
    timings = [Timing() for _ in contenders]
    probed: dict[str, list[float]] = {name: [] for name in probes}
    prepared = []
    for contender in contenders:
        timer = contender.timer()
        with contender.context():
            count, call_seconds = _inner_loop(timer)
        prepared.append((timer, count, call_seconds, contender.latencies()))

    begin, begin_cpu = time.perf_counter(), time.process_time()
    rounds = 0
    with garbage_collection_off():
        while rounds < least_rounds or (time.perf_counter() - begin < seconds and rounds < _MOST_ROUNDS):
            for turn in range(len(contenders)):
                # Another one begins each round, so that nobody always follows the same neighbour.
                place = (turn + rounds) % len(contenders)
                timer, count, call_seconds, latencies = prepared[place]
                with contenders[place].context():
                    if call_seconds < _LONG_CALL_SECONDS:
                        timer.timeit(min(_WARM_CALLS + count // 8, 1 + int(_WARM_SECONDS / call_seconds)))
                    timings[place].samples.append(timer.timeit(count) / count)
                    if one_by_one:
                        timings[place].latencies += latencies(min(count, _BURST))
            for name, probe in probes.items():
                probed[name].append(probe())
            rounds += 1
    cpu_share = (time.process_time() - begin_cpu) / (time.perf_counter() - begin)
    return timings, {name: statistics.median(values) for name, values in probed.items()}, cpu_share
