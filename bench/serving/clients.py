"""Who asks: a closed loop for each stream, which keeps every reply and how long it took."""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import numpy as np

from .workload import Workload

__all__ = ["Answers", "Ask", "closed_loops"]

#: Sends a step of a stream, returns the bytes of its outputs.
Ask = Callable[[int, int], Awaitable[bytes]]

#: Seconds that pass before anything counts, and a reply may take before it is lost.
_WARMING = 1.0
_PATIENCE = 30.0


@dataclass
class Answers:
    """What came back.

    Attributes
    ----------
    replies
        Of each stream, in order.
    seconds
        From asking to answer, of every step behind the warming up.
    lost
        Steps that were asked for and not answered.
    elapsed
        Seconds over which ``seconds`` were taken.
    """

    replies: list[list[bytes]]
    seconds: array[float] = field(default_factory=lambda: array("d"))
    lost: int = 0
    elapsed: float = 0.0

    def crossed(self, workload: Workload, engine: str) -> int:
        """Return how many replies differ in a bit from those of the same stream run alone."""
        wrong = 0
        for stream, replies in enumerate(self.replies):
            wanted, found = workload.alone(engine, stream, len(replies)), b"".join(replies)
            if wanted != found:
                size = len(wanted) // len(replies)
                wrong += sum(one != wanted[size * step : size * (step + 1)] for step, one in enumerate(replies))
        return wrong

    def percentiles(self) -> dict[str, float]:
        """Return the latencies that count, in seconds."""
        values = np.percentile(np.frombuffer(self.seconds), [50, 99, 99.9, 100])
        return dict(zip(("p50", "p99", "p99.9", "worst"), map(float, values), strict=True))


async def closed_loops(ask: Ask, streams: int, seconds: float) -> Answers:
    """Let each stream ask for its next step as soon as it has the last one, for a time."""
    answers = Answers([[] for _ in range(streams)])
    clock = time.perf_counter
    begin = clock() + _WARMING
    end = begin + seconds

    async def loop(stream: int) -> None:
        replies, taken = answers.replies[stream], answers.seconds
        while (sent := clock()) < end:
            try:
                reply = await ask(stream, len(replies))
            except Exception as error:
                answers.lost += 1
                print(f"stream {stream}, step {len(replies)}: {type(error).__name__}: {error}")
                return
            now = clock()
            replies.append(reply)
            if sent >= begin:
                taken.append(now - sent)

    tasks = [asyncio.create_task(loop(stream)) for stream in range(streams)]
    _, unanswered = await asyncio.wait(tasks, timeout=_WARMING + seconds + _PATIENCE)
    answers.lost += len(unanswered)
    answers.elapsed = clock() - begin
    for task in unanswered:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return answers
