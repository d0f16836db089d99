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
from pathlib import Path
from typing import Final

import numpy as np

from .contender import Contender

__all__ = ["Timing", "cpus_allowed", "empty_call_seconds", "garbage_collection_off", "inner_loop", "measure", "pinned"]

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

#: With several threads everybody waits before a turn, for the pools of some spin on for a while when their work is
#: done, on the CPU that the next one needs (libgomp's and ONNX Runtime's: a few milliseconds at most).
_REST_SECONDS: Final = 5e-3


@dataclass(slots=True)
class Timing:
    """Seconds a call: one sample for each round, and, where asked for, calls timed one by one."""

    samples: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)

    @property
    def p50(self) -> float:
        """Median of the samples."""
        return statistics.median(self.samples)

    @property
    def least(self) -> float:
        """Smallest of the samples."""
        return min(self.samples)

    def latency(self, percent: float) -> float | None:
        """Return a percentile of the calls that were timed one by one; None where there are none.

        The clock's own time, some tens of nanoseconds, is in it.
        """
        return float(np.percentile(self.latencies, percent)) if self.latencies else None


def cpus_allowed() -> int:
    """Return how many CPUs this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def pinned(count: int = 1) -> Iterator[set[int]]:
    """Keep this thread, and those it starts, on so many CPUs; yields their numbers, none where that cannot be done."""
    if not hasattr(os, "sched_setaffinity"):
        yield set()
        return
    before = os.sched_getaffinity(0)
    # The last ones: the first takes most of the system's interrupts.
    chosen = set(sorted(before)[-count:])
    os.sched_setaffinity(0, chosen)
    try:
        yield chosen
    finally:
        os.sched_setaffinity(0, before)


def _others_seconds() -> float:
    """Return for how long the CPUs that we may use have worked for others so far; 0 where the system does not say.

    The host's own work, where we are its guest, is in it as far as it tells.
    """
    try:
        lines = Path("/proc/stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0.0
    ours = {f"cpu{number}" for number in os.sched_getaffinity(0)}
    ticks = 0
    for name, *counts in (line.split() for line in lines if line.startswith("cpu")):
        if name in ours:
            user, nice, system, _idle, _waiting, interrupts, soft_interrupts, stolen = map(int, counts[:8])
            ticks += user + nice + system + interrupts + soft_interrupts + stolen
    return ticks / os.sysconf("SC_CLK_TCK") - time.process_time()


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


def inner_loop(timer: timeit.Timer) -> tuple[int, float]:
    """Return how many calls make a sample, and about how long one call is."""
    timer.timeit(1)  # the first call allocates, packs and fills caches
    count = 1
    while True:
        seconds = timer.timeit(count)
        # Twice more before it is believed: others' threads that spin still can make a loop ten times as long.
        for _ in range(2 if SAMPLE_SECONDS <= seconds < _LONG_CALL_SECONDS else 0):
            seconds = min(seconds, timer.timeit(count))
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
    before_call: Callable[[], None] | None = None,
    threads: int = 1,
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
    before_call
        Called before every call that is timed, which are then single ones only and nothing is warm.
    threads
        Threads that each contender uses.

    Returns
    -------
    timings, medians, cpu_share
        A timing for each contender, in their order; the median of each probe; and how much of our CPUs' time was left
        to us, 1 if nobody else ran on those that we may use.
    """
    timings = [Timing() for _ in contenders]
    probed: dict[str, list[float]] = {name: [] for name in probes}
    prepared = []
    for contender in contenders:
        timer = contender.timer()
        with contender.context():
            count, call_seconds = inner_loop(timer)
            if before_call is not None:
                count = 1
        prepared.append((timer, count, call_seconds, contender.latencies()))

    begin, others_before = time.perf_counter(), _others_seconds()
    rounds = 0
    with garbage_collection_off():
        while rounds < least_rounds or (time.perf_counter() - begin < seconds and rounds < _MOST_ROUNDS):
            for turn in range(len(contenders)):
                # Another one begins each round, so that nobody always follows the same neighbour.
                place = (turn + rounds) % len(contenders)
                timer, count, call_seconds, latencies = prepared[place]
                with contenders[place].context():
                    if before_call is not None:
                        before_call()
                        seconds_taken = latencies(1)
                        timings[place].samples += seconds_taken
                        timings[place].latencies += seconds_taken
                        continue
                    if threads > 1:
                        time.sleep(_REST_SECONDS)
                    if call_seconds < _LONG_CALL_SECONDS:
                        timer.timeit(min(_WARM_CALLS + count // 8, 1 + int(_WARM_SECONDS / call_seconds)))
                    timings[place].samples.append(timer.timeit(count) / count)
                    if one_by_one:
                        timings[place].latencies += latencies(min(count, _BURST))
            for name, probe in probes.items():
                probed[name].append(probe())
            rounds += 1
    passed = (time.perf_counter() - begin) * min(threads, cpus_allowed())
    cpu_share = min(1.0, 1.0 - (_others_seconds() - others_before) / passed)
    return timings, {name: statistics.median(values) for name, values in probed.items()}, cpu_share
