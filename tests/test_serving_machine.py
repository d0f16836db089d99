"""The Batcher beside the plain model, in any order: calls at once, cancelled, too late, swaps, evictions."""

from __future__ import annotations

import asyncio
import pickle
import re
import time
from collections.abc import Awaitable
from typing import Any

import numpy as np
from causal_models import KINDS, assert_same, causal_model, deeper, inputs_of, whole
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import lstm_engine as le

MOST_STREAMS = 4
IDLE_SECONDS = 3600.0

#: Calls at once: a stream, how many steps (0: a single step), and what becomes of the call.
ASKED = st.lists(
    st.tuples(
        st.integers(0, MOST_STREAMS - 1),
        st.integers(0, 5),
        st.sampled_from(["stay", "cancel at once", "cancel soon", "cancel later", "too late", "a little time"]),
    ),
    min_size=1,
    max_size=8,
)
PLACES = st.integers(0, 11)
TURNS = {"cancel at once": 0, "cancel soon": 1, "cancel later": 4}


class BatcherMachine(RuleBasedStateMachine):
    """A batcher, and all that each of its streams was fed since it began."""

    @initialize(kind=st.sampled_from(KINDS), seed=st.integers(0, 100), batch=st.sampled_from([1, 3, 64]))
    def begin(self, kind: str, seed: int, batch: int) -> None:
        self.kind, self.seed = kind, seed
        self.loop, self.slept = asyncio.new_event_loop(), 0.0
        self.loop.time = lambda: time.monotonic() + self.slept  # type: ignore[method-assign]
        self.batcher = le.serving.Batcher(
            causal_model(kind), batch, 0.0, max_streams=MOST_STREAMS, idle_timeout=IDLE_SECONDS, on_evict=self._evicted
        )
        self.loop.run_until_complete(self.batcher.__aenter__())
        self.fed: dict[Any, Any] = {}
        self.kept: list[tuple[bytes, Any]] = []
        self.restored: set[Any] = set()  # their steps are counted from there

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            self.loop.run_until_complete(self.batcher.aclose())
            self.loop.close()

    def _wait(self, *calls: Awaitable[Any]) -> list[Any]:
        async def together() -> list[Any]:
            return await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 20)

        return self.loop.run_until_complete(together())

    def _evicted(self, id: Any, snapshot: bytes) -> None:
        self.kept.append((snapshot, self.fed.pop(id)))
        self.restored.discard(id)

    def _fresh(self, *lead: int) -> Any:
        self.seed += 1
        return inputs_of(self.kind, self.seed, *lead)

    @rule(asked=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=8))
    def calls_at_once(self, asked: list[tuple[int, int]]) -> None:
        """Steps (0), chunks, several of one stream; new streams as long as there is room."""
        calls: list[Any] = []
        expected: list[Any] = []
        for id, count in asked:
            x = self._fresh(count or 1)
            if id not in self.fed and len(self.fed) == MOST_STREAMS:
                expected.append(None)
            else:
                begin = len(self.fed.setdefault(id, x[:0]))
                self.fed[id] = np.concatenate([self.fed[id], x])
                expected.append((id, begin))
            calls.append(self.batcher.run(id, x) if count else self.batcher.step(id, x[0]))
        for found, wanted, (_, count) in zip(self._wait(*calls), expected, asked, strict=True):
            if wanted is None:
                assert isinstance(found, le.OverloadError)
                continue
            id, begin = wanted
            rows = found if count else found[None]
            for place, row in enumerate(rows):
                assert_same(self.kind, row, whole(self.kind, self.fed[id][None, : begin + place + 1])[0])

    @rule(shapes=st.lists(st.tuples(st.integers(0, 5), st.integers(1, 6)), min_size=1, max_size=5))
    def predictions_at_once(self, shapes: list[tuple[int, int]]) -> None:
        given = [self._fresh(*shape) for shape in shapes]
        for x, found in zip(given, self._wait(*[self.batcher.predict(x) for x in given]), strict=True):
            y = causal_model(self.kind)(x)
            assert_same(self.kind, found, y[0] if isinstance(y, tuple) else y)

    # What becomes of calls depends on the clock, so nothing that is drawn may depend on which streams there are.

    @rule(place=PLACES)
    def close(self, place: int) -> None:
        if not self.fed:
            return
        id = sorted(self.fed)[place % len(self.fed)]
        assert self._wait(self.batcher.close(id), self.batcher.close("none")) == [True, False]
        del self.fed[id]
        self.restored.discard(id)
        assert id not in self.batcher

    @rule(place=PLACES, kept=PLACES)
    def snapshot_and_restore(self, place: int, kept: int) -> None:
        if not self.fed:
            return
        id = sorted(self.fed)[place % len(self.fed)]
        (snapshot,) = self._wait(self.batcher.snapshot(id))
        self.kept.append((snapshot, self.fed[id]))
        snapshot, self.fed[id] = self.kept[-1 - kept % len(self.kept)]
        assert self._wait(self.batcher.restore(id, snapshot)) == [None]
        self.restored.add(id)

    @rule(kept=PLACES)
    def come_back(self, kept: int) -> None:
        if not self.kept or len(self.fed) == MOST_STREAMS:
            return
        snapshot, history = self.kept[-1 - kept % len(self.kept)]
        id = min(set(range(MOST_STREAMS)) - set(self.fed), default=9)
        assert self._wait(self.batcher.restore(id, snapshot)) == [None]
        self.fed[id] = history
        self.restored.add(id)

    @rule()
    def nobody_comes_for_an_hour(self) -> None:
        self.slept += IDLE_SECONDS + 1

        async def until_evicted() -> None:
            while self.fed:
                await asyncio.sleep(0)

        self._wait(until_evicted())
        assert len(self.batcher) == 0

    @rule(x=st.integers(1, 3))
    def swap(self, x: int) -> None:
        """Another model of the same weights takes over in the middle of calls; one that does not fit is refused."""
        twin = pickle.loads(pickle.dumps(causal_model(self.kind)))
        stranger = causal_model("stack" if self.kind != "stack" else "lstm")
        given = self._fresh(2, x)
        answers = self._wait(
            self.batcher.predict(given),
            self.batcher.swap(stranger),
            self.batcher.swap(twin),
            self.batcher.predict(given),
        )
        assert isinstance(answers[1], le.StateError)
        assert answers[2] is None
        assert self.batcher.model is twin
        y = causal_model(self.kind)(given)
        for found in (answers[0], answers[3]):
            assert_same(self.kind, found, y[0] if isinstance(y, tuple) else y)

    @rule(asked=ASKED)
    def calls_that_come_to_nothing(self, asked: list[tuple[int, int, str]]) -> None:
        """Whatever becomes of a call, its caller is told how far its stream has moved, and the others are answered."""
        xs = [self._fresh(count or 1) for _, count, _ in asked]

        async def together() -> list[Any]:
            tasks = []
            for (id, count, fate), x in zip(asked, xs, strict=True):
                timeout = {"too late": 0.0, "a little time": 1e-4}.get(fate)
                call = (
                    self.batcher.run(id, x, timeout=timeout) if count else self.batcher.step(id, x[0], timeout=timeout)
                )
                tasks.append(asyncio.create_task(ended(call)))
            for turn in range(max(TURNS.values()) + 1):
                await asyncio.sleep(0)  # a task that never began could not tell
                for task, (_, _, fate) in zip(tasks, asked, strict=True):
                    if TURNS.get(fate) == turn:
                        task.cancel()
            return await asyncio.wait_for(asyncio.gather(*tasks), 20)

        for id in {id for id, _, _ in asked} - set(self.fed):
            self.fed[id] = xs[0][:0]
        for (id, count, _), x, found in zip(asked, xs, self.loop.run_until_complete(together()), strict=True):
            moved = moved_by(found, len(x))
            begin = len(self.fed[id])
            self.fed[id] = np.concatenate([self.fed[id], x[:moved]])
            if not isinstance(found, BaseException):
                for place, row in enumerate(found if count else found[None]):
                    assert_same(self.kind, row, whole(self.kind, self.fed[id][None, : begin + place + 1])[0])
        for id in [id for id, x in self.fed.items() if not len(x) and id not in self.batcher]:
            del self.fed[id]

    @invariant()
    def knows_its_streams(self) -> None:
        if hasattr(self, "fed"):
            assert len(self.batcher) == len(self.fed)
            assert all(self.batcher.steps(id) == len(x) for id, x in self.fed.items() if id not in self.restored)
            assert self.batcher.metrics()["queue_depth"] == 0

    @rule(wrong=st.sampled_from(["shape", "rows", "snapshot", "id"]))
    def mistake(self, wrong: str) -> None:
        calls = {
            "shape": lambda: self.batcher.step(1, np.zeros((7, 7))),
            "rows": lambda: self.batcher.predict(np.zeros((1, 2, 7, 7))),
            "snapshot": lambda: self.batcher.restore("new", b"no"),
            "id": lambda: self.batcher.step([], self._fresh(1)[0]),
        }
        (error,) = self._wait(calls[wrong]())
        assert isinstance(error, le.LstmEngineError)


async def ended(call: Awaitable[Any]) -> Any:
    """Return the answer of a call, or what it raises: ``asyncio.gather`` would lose the words of a cancellation."""
    try:
        return await call
    except (le.LstmEngineError, asyncio.CancelledError) as error:
        return error


def moved_by(answer: Any, length: int) -> int:
    """Return how many steps the stream of a call has made for it, as its caller is told."""
    if not isinstance(answer, BaseException):
        return length
    if isinstance(answer, le.DeadlineError):
        assert str(answer.steps) in str(answer) or answer.steps in (0, length)
        return answer.steps
    if isinstance(answer, le.OverloadError):
        return 0
    assert isinstance(answer, asyncio.CancelledError), repr(answer)
    part = re.search(r"moved by (\d+) of", str(answer))
    return int(part[1]) if part else length if "it happened" in str(answer) else 0


TestBatcherMachine = BatcherMachine.TestCase
TestBatcherMachine.settings = settings(max_examples=40, stateful_step_count=20)
TestDeepBatcherMachine = deeper(BatcherMachine)
