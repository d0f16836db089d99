"""The calls that can be computed now, and how a round is shared between them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from .engine import Round
from .work import Change, Rows, Sequence, Steps, Work

__all__ = ["ReadyQueue"]


class ReadyQueue:
    """Calls in the order in which they take their turns: the first of each stream, and those to no stream.

    Parameters
    ----------
    max_batch
        Most steps of a round, and most calls that take part in one.

    Attributes
    ----------
    of_streams
        How many of them are to streams.
    """

    def __init__(self, max_batch: int) -> None:
        self._max_batch = max_batch
        self._works: deque[Work] = deque()
        self.of_streams = 0

    def __len__(self) -> int:
        return len(self._works)

    def __iter__(self) -> Iterator[Work]:
        return iter(self._works)

    @property
    def oldest(self) -> float:
        """When the call came that has waited for longest, as far as its ends tell."""
        return min(self._works[0].since, self._works[-1].since)

    @property
    def urgent(self) -> bool:
        """Whether the next round is full, or a change, for which nobody has to wait."""
        return len(self._works) >= self._max_batch or isinstance(self._works[0], Change)

    def push(self, work: Work) -> None:
        """Let a call take its turn behind all others."""
        work.queued = True
        self._works.append(work)
        self.of_streams += work.entry is not None

    def remove(self, work: Work) -> None:
        """Take a call out, if it is here."""
        if work.queued:
            self._works.remove(work)
            self._taken(work)

    def _taken(self, work: Work) -> None:
        work.queued = False
        self.of_streams -= work.entry is not None

    def choose(self, abandoned: list[int]) -> Round:
        """Take the calls of the next round out, each with an equal part of it; what one does not need others get.

        Changes of one stream cost no steps. One of all streams is a round by itself. Of calls by the row only those
        take part that can be computed together with the first.
        """
        current = Round(abandoned=abandoned)
        chosen: list[Work] = []
        later: list[Work] = []
        first_rows: Rows | None = None
        while self._works and len(chosen) < self._max_batch:
            work = self._works[0]
            whole = isinstance(work, Change) and work.entry is None
            if whole and (chosen or current.works):
                break
            self._works.popleft()
            self._taken(work)
            if work.future.cancelled():
                continue  # its caller is about to take it out
            if isinstance(work, Change):
                current.changes.append(work)
                current.works.append(work)
                if whole:
                    break
            elif isinstance(work, Rows):
                first_rows = first_rows or work
                together = work is first_rows or (work.key is not None and work.key == first_rows.key)
                (chosen if together else later).append(work)
            else:
                (later if work.blocked else chosen).append(work)
        for work in reversed(later):
            work.queued = True
            self._works.appendleft(work)
        self._share(chosen, current)
        return current

    def _share(self, chosen: list[Work], current: Round) -> None:
        if all(type(work) is Steps and work.left() == 1 for work in chosen):  # a step each, as services ask for
            current.works += chosen
            current.steps += [(work, work.sequence, 1) for work in chosen if isinstance(work, Steps)]
            return
        budget, waiting = self._max_batch, len(chosen)
        # The short ones first: what they leave is for the long ones.
        for work in sorted(chosen, key=lambda one: one.left()):
            share = max(budget // waiting, 1)
            waiting -= 1
            pieces = work.take(share)
            if not pieces:  # another call took the last place for a stream of its own
                self.push(work)
                continue
            current.works.append(work)
            for what, count in pieces:
                budget -= count
                if isinstance(what, Sequence):
                    current.steps.append((work, what, count))
                elif isinstance(work, Rows):
                    current.rows.append((work, what, count))
