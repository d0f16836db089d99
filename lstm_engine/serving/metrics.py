"""Counts of what a batcher did: plain numbers, a few additions for each call."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any, Final

__all__ = ["BATCH_BOUNDS", "SECONDS_BOUNDS", "Histogram", "Metrics"]

#: Upper bounds of latencies in seconds: thirds of a decade from 10 us, which the event loop alone takes, to 10 s.
SECONDS_BOUNDS: Final = (*(step * 10.0**power for power in range(-5, 1) for step in (1.0, 2.0, 5.0)), 10.0)
#: Upper bounds of the steps of a round.
BATCH_BOUNDS: Final = tuple(float(2**power) for power in range(13))


class Histogram:
    """How many values lie at or below each of some bounds, as Prometheus counts them, but not yet summed up.

    Parameters
    ----------
    bounds
        Upper bounds, ascending. What is above the last one is counted too.
    """

    __slots__ = ("bounds", "count", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.count = 0
        self.total = 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.count += 1
        self.total += value

    def as_dict(self) -> dict[str, Any]:
        """Return bounds, the count in each bucket (one more than bounds), the sum and the number of values."""
        return {"bounds": list(self.bounds), "counts": list(self.counts), "sum": self.total, "count": self.count}


class Metrics:
    """What a batcher counts; each name is explained at ``Batcher.metrics``."""

    COUNTS: Final = ("answered", "refused", "expired", "cancelled", "failed", "rounds", "steps", "evicted", "swaps")

    def __init__(self) -> None:
        self.answered = self.refused = self.expired = self.cancelled = self.failed = 0
        self.rounds = self.steps = self.evicted = self.swaps = 0
        self.batch_size = Histogram(BATCH_BOUNDS)
        self.queue_seconds = Histogram(SECONDS_BOUNDS)
        self.call_seconds = Histogram(SECONDS_BOUNDS)

    def as_dict(self) -> dict[str, Any]:
        """Return everything by name."""
        histograms = ("batch_size", "queue_seconds", "call_seconds")
        return {name: getattr(self, name) for name in self.COUNTS} | {
            name: getattr(self, name).as_dict() for name in histograms
        }
