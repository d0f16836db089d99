"""The Batcher: concurrent calls get the bits of each alone, in order, and what goes wrong stays with whom it is of."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from causal_models import causal_model, inputs_of
from described import dense, input_layer, layer, lstm, model, random

import lstm_engine as le
from lstm_engine.builder import build_model

Batcher = le.serving.Batcher


def go(main: Callable[[], Awaitable[Any]]) -> Any:
    """Run a test's coroutine; one that hangs fails."""

    async def bounded() -> Any:
        return await asyncio.wait_for(main(), 30)

    return asyncio.run(bounded())


class Held:
    """Holds the worker at the beginning of a round until it is let go."""

    def __init__(self, batcher: Any) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        engine, compute = batcher._engine, batcher._engine.compute

        def held(current: Any) -> None:
            self.begun.set()
            assert self.go_on.wait(20)
            compute(current)

        engine.compute = held

    async def until_begun(self) -> None:
        while not self.begun.is_set():
            await asyncio.sleep(0.001)


# --- Bits and order ---------------------------------------------------------------------------------------------------


def test_a_thousand_streams() -> None:
    source = causal_model("lstm")
    x = inputs_of("lstm", 1, 1000, 4)

    async def main() -> None:
        async with Batcher(source, max_delay=0.0) as batcher:

            async def client(place: int) -> Any:
                return [await batcher.step(("client", place), x_t) for x_t in x[place]]

            found = np.array(await asyncio.gather(*map(client, range(1000))))
            assert found.tobytes() == source(x)[0].tobytes()
            metrics = batcher.metrics()
            assert (metrics["answered"], metrics["steps"], metrics["streams"]) == (4000, 4000, 1000)
            assert metrics["rounds"] <= 100  # merged: 16 or a few more
            assert metrics["batch_size"]["count"] == metrics["rounds"]
            assert metrics["call_seconds"]["count"] == sum(metrics["queue_seconds"]["counts"]) == 4000
            assert metrics["queue_depth"] == 0

    go(main)


def test_short_calls_do_not_wait_for_long_ones() -> None:
    source = causal_model("lstm")

    async def main() -> None:
        async with Batcher(source, max_batch=16) as batcher:
            x = inputs_of("lstm", 1, 4000)
            long = asyncio.create_task(batcher.run("long", x))
            wide = asyncio.create_task(batcher.predict(np.stack([x[:200]] * 40)))
            await asyncio.sleep(0)
            for step in range(20):
                await batcher.step("short", x[step])
            assert not long.done()
            assert not wide.done()
            assert (await long).tobytes() == source(x[None])[0][0].tobytes()
            assert (await wide).tobytes() == np.stack([source(x[None, :200])[0][0]] * 40).tobytes()

    go(main)


def test_models_that_cannot_run_in_a_stream_serve_whole_sequences() -> None:
    backward = le.LSTM.from_weights(random(1, 3, 16), random(2, 4, 16), direction="reverse")

    async def main() -> None:
        async with Batcher(backward) as batcher:
            given = [random(place, 2, 3 + place % 2, 3) for place in range(9)]
            found = await asyncio.gather(*map(batcher.predict, given))
            for x, y in zip(given, found, strict=True):
                assert y.tobytes() == backward(x)[0].tobytes()
            assert (await batcher.predict(given[0][0])).tobytes() == backward(given[0][0])[0].tobytes()
            with pytest.raises(le.UnsupportedModelError, match="forward LSTM"):
                await batcher.step(1, given[0][0, 0])
            assert len(batcher) == 0

    go(main)


def test_several_inputs_and_outputs() -> None:
    built = build_model(model(
        input_layer("x", None, 3),
        input_layer("side", None, 2),
        layer("both", "Concatenate", "x", "side", config={"axis": -1}),
        lstm("lstm", "both", features=5, units=4),
        dense("dense", "lstm", features=4, units=2),
        outputs=["dense", "lstm"],
    ))  # fmt: skip

    async def main() -> None:
        async with Batcher(built) as batcher:
            x, side, stream = random(1, 6, 3), random(2, 6, 2), built.stream()
            found = await asyncio.gather(*(batcher.step("a", pair) for pair in zip(x, side, strict=True)))
            for y, pair in zip(found, zip(x, side, strict=True), strict=True):
                for one, wanted in zip(y, stream.step(pair), strict=True):
                    np.testing.assert_array_equal(one, wanted)
            both = await asyncio.gather(*(batcher.predict((x[None], side[None])) for _ in range(2)))
            for one, wanted in zip(both[1], built(x[None], side[None]), strict=True):
                np.testing.assert_array_equal(one, wanted)

    go(main)


# --- Limits -----------------------------------------------------------------------------------------------------------


def test_a_full_queue_refuses_at_once_and_lets_producers_wait() -> None:
    source = causal_model("lstm")
    x = inputs_of("lstm", 1, 1)[0]

    async def main() -> None:
        async with Batcher(source, max_queue=2) as batcher:
            held = Held(batcher)
            calls = [asyncio.create_task(batcher.step(place, x)) for place in range(2)]
            await held.until_begun()
            for refused in (batcher.step(0, x), batcher.predict(x[None, None]), batcher.run(7, x[None])):
                with pytest.raises(le.OverloadError, match=r"max_queue=2 calls at a time, found 2; try again"):
                    await refused
            assert 7 not in batcher

            async def patient(place: int) -> int:
                await batcher.room()
                await batcher.step(9, x)
                return place

            async def idler() -> None:
                await batcher.room()

            waiting = [asyncio.create_task(patient(place)) for place in range(5)]
            waiting[2:2] = [asyncio.create_task(idler())]  # type: ignore[list-item]
            await asyncio.sleep(0)
            left = asyncio.create_task(idler())
            await asyncio.sleep(0)
            left.cancel()
            held.go_on.set()
            assert [await one for one in waiting] == [0, 1, None, 2, 3, 4]
            assert batcher.steps(9) == 5
            assert batcher.metrics()["refused"] == 3
            await asyncio.gather(*calls)

    go(main)


def test_deadlines() -> None:
    source = causal_model("lstm")
    x = inputs_of("lstm", 1, 600)

    async def main() -> None:
        async with Batcher(source, max_batch=2) as batcher:
            held = Held(batcher)
            begun = asyncio.create_task(batcher.step("a", x[0], timeout=0.01))
            await held.until_begun()
            with pytest.raises(le.DeadlineError, match="has not moved") as late:
                await batcher.step("b", x[0], timeout=0.01)
            assert late.value.steps == 0
            assert isinstance(late.value, TimeoutError)
            assert "b" not in batcher
            long = asyncio.create_task(batcher.run("c", x, timeout=0.02))
            held.go_on.set()
            assert (await begun).tobytes() == source(x[None, :1])[0][0, 0].tobytes()  # it had begun
            compute = batcher._engine.compute

            def slow(current: Any) -> None:
                time.sleep(0.002)
                compute(current)

            batcher._engine.compute = slow  # type: ignore[method-assign]
            with pytest.raises(le.DeadlineError, match=r"moved by \d+ of 600 steps|has not moved") as late:
                await long
            made = late.value.steps
            assert 0 <= made == batcher.steps("c") < 600
            if made:  # it goes on where it stands
                y = await batcher.step("c", x[made])
                assert y.tobytes() == source(x[None, : made + 1])[0][0, -1].tobytes()
            assert batcher.metrics()["expired"] == 2

    go(main)


# --- Cancellation -----------------------------------------------------------------------------------------------------


def test_a_cancelled_step_says_whether_it_happened() -> None:
    source = causal_model("lstm")
    x = inputs_of("lstm", 1, 4)

    async def main() -> None:
        async with Batcher(source) as batcher:
            await batcher.step("a", x[0])
            held = Held(batcher)
            first = asyncio.create_task(batcher.step("a", x[1]))
            await held.until_begun()
            second = asyncio.create_task(batcher.step("a", x[2]))
            third = asyncio.create_task(batcher.step("a", x[2]))
            fourth = asyncio.create_task(batcher.step("new", x[2]))
            await asyncio.sleep(0)
            for task in (first, second, fourth):
                task.cancel()
            for task in (second, fourth):
                with pytest.raises(asyncio.CancelledError, match="it did not happen: the stream has not moved"):
                    await task
            await asyncio.sleep(0.01)
            assert not first.done()  # nobody knows yet
            first.cancel()
            held.go_on.set()
            with pytest.raises(asyncio.CancelledError, match="it happened: the stream has moved by its step"):
                await first
            assert (await third).tobytes() == source(x[None, :3])[0][0, -1].tobytes()
            assert batcher.steps("a") == 3
            assert "new" not in batcher
            with pytest.raises(TimeoutError):  # asyncio's own way of cancelling still is one
                async with asyncio.timeout(0.0):
                    await batcher.step("a", x[3])
            assert batcher.metrics()["cancelled"] in (3, 4)
            assert batcher.metrics()["queue_depth"] == 0

    go(main)


def test_steps_without_tasks() -> None:
    """Queued at once, in the order of the calls; one that is given up is taken out, or waited for."""
    source = causal_model("lstm")
    x = inputs_of("lstm", 1, 4)

    async def main() -> None:
        async with Batcher(source, max_queue=3) as batcher:
            held = Held(batcher)
            first = batcher._begin_step("a", x[0])
            await held.until_begun()
            second, third = batcher._begin_step("a", x[1]), batcher._begin_step("b", x[0], 60)
            assert batcher._full
            with pytest.raises(le.OverloadError, match="max_queue=3"):
                batcher._begin_step("a", x[2])
            await batcher._abandon(second)
            assert not batcher._full
            with pytest.raises(le.ShapeError, match="expected shape"):
                batcher._begin_step("a", x[0, :-1])
            giving_up = asyncio.create_task(batcher._abandon(first))
            await asyncio.sleep(0.01)
            assert not giving_up.done()  # it is being computed
            held.go_on.set()
            await giving_up
            assert (await third.future).tobytes() == source(x[None, :1])[0][0, -1].tobytes()
            await batcher._abandon(third)  # too late, and no harm
            y = await batcher.step("a", x[1])
            assert y.tobytes() == source(x[None, :2])[0][0, -1].tobytes()
            metrics = batcher.metrics()
            assert (metrics["cancelled"], metrics["refused"], metrics["queue_depth"]) == (2, 1, 0)

    go(main)


def test_cancelled_predictions_leave_no_stream_behind() -> None:
    source = causal_model("lstm")

    async def main() -> None:
        async with Batcher(source, max_batch=4, max_streams=1) as batcher:
            for _ in range(5):
                call = asyncio.create_task(batcher.predict(inputs_of("lstm", 1, 6, 500)))
                while batcher.metrics()["steps"] == 0:
                    await asyncio.sleep(0)
                await asyncio.sleep(0.002)
                call.cancel()
                with pytest.raises(asyncio.CancelledError, match="no stream has moved"):
                    await call
            x = inputs_of("lstm", 2, 3, 9)
            assert (await batcher.predict(x)).tobytes() == source(x)[0].tobytes()
            assert len(batcher._engine.pool) == 0
            assert batcher._places == [4]

    go(main)


# --- Errors -----------------------------------------------------------------------------------------------------------


def test_an_error_reaches_the_call_that_it_is_of() -> None:
    source = causal_model("tokens")

    async def main() -> None:
        async with Batcher(source) as batcher:
            for id in "abc":
                await batcher.step(id, 1)
            found = await asyncio.gather(
                batcher.step("a", 2), batcher.step("b", 99), batcher.step("c", 3), batcher.predict([[1, 2]]),
                batcher.predict([[1, 99]]), return_exceptions=True,
            )  # fmt: skip
            assert [isinstance(one, le.ShapeError) for one in found] == [False, True, False, False, True]
            assert (await batcher.step("b", 4)).tobytes() == source([[1, 4]])[0].tobytes()  # as if it had not been
            assert found[2].tobytes() == source([[1, 3]])[0].tobytes()
            assert found[3].tobytes() == source([[1, 2]]).tobytes()
            assert batcher.metrics()["failed"] == 2

    go(main)


def test_a_worker_that_fails_altogether_answers_everybody() -> None:
    async def main() -> None:
        async with Batcher(causal_model("lstm")) as batcher:
            compute, x = batcher._engine.compute, inputs_of("lstm", 1, 1)[0]

            def fails(current: Any) -> None:
                raise MemoryError("no more")

            batcher._engine.compute = fails  # type: ignore[method-assign]
            for error in await asyncio.gather(*(batcher.step(id, x) for id in range(3)), return_exceptions=True):
                assert isinstance(error, MemoryError)
            batcher._engine.compute = compute  # type: ignore[method-assign]
            await batcher.step(1, x)

    go(main)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"max_batch": 0}, "max_batch"),
        ({"max_delay": -1.0}, "max_delay"),
        ({"max_queue": True}, "max_queue"),
        ({"max_streams": 1.5}, "max_streams"),
        ({"idle_timeout": float("nan")}, "idle_timeout"),
        ({"on_evict": 3}, "on_evict"),
    ],
)
def test_arguments_are_checked(options: dict[str, Any], name: str) -> None:
    with pytest.raises(le.ShapeError, match=f"^{name}: expected"):
        Batcher(causal_model("lstm"), **options)
    with pytest.raises(le.ShapeError, match=r"^model: expected a Model or an LSTM, found str"):
        Batcher("model.keras")


# --- Idle streams -----------------------------------------------------------------------------------------------------


def test_idle_streams_are_closed_and_can_come_back() -> None:
    source = causal_model("lstm")
    x = inputs_of("lstm", 1, 3)

    async def main() -> None:
        kept: dict[Any, bytes] = {}
        batcher = Batcher(source, max_streams=2, idle_timeout=0.02, on_evict=kept.__setitem__)
        async with batcher:
            await asyncio.gather(batcher.step("a", x[0]), batcher.step("b", x[0]))
            with pytest.raises(le.OverloadError, match="max_streams=2"):
                await batcher.step("c", x[0])
            while len(kept) < 2:
                await asyncio.sleep(0.005)
            assert len(batcher) == 0
            assert batcher.metrics()["evicted"] == 2
            await batcher.restore("a", kept["a"])
            assert (await batcher.step("a", x[1])).tobytes() == source(x[None, :2])[0][0, 1].tobytes()
            assert (await batcher.step("b", x[1])).tobytes() == source(x[None, 1:2])[0][0, 0].tobytes()

    go(main)


# --- Swapping ---------------------------------------------------------------------------------------------------------


def _other(units: int = 16, features: int = 3, seed: int = 50, **options: Any) -> le.LSTM:
    arrays = (random(seed, features, 4 * units), random(seed + 1, units, 4 * units), random(seed + 2, 4 * units))
    return le.LSTM.from_weights(*arrays, **options)


def test_swap_keeps_the_states_and_gives_each_answer_of_one_model() -> None:
    old, new = causal_model("lstm"), _other()
    x = inputs_of("lstm", 1, 8, 6)

    async def main() -> None:
        async with Batcher(old, max_batch=4) as batcher:
            await asyncio.gather(*(batcher.run(id, x[id, :3]) for id in range(8)))
            long = asyncio.create_task(batcher.predict(inputs_of("lstm", 3, 6, 200)))
            while batcher.metrics()["steps"] < 24 + 40:
                await asyncio.sleep(0)
            await batcher.swap(new)
            assert not long.done()
            assert batcher.model is new
            found = await asyncio.gather(*(batcher.step(id, x[id, 3]) for id in range(8)))
            for id, y in enumerate(found):
                stream = new.stream()
                _, stream.state = old(x[id, :3])
                assert y.tobytes() == stream.step(x[id, 3]).tobytes()
            assert (await long).tobytes() == new(inputs_of("lstm", 3, 6, 200))[0].tobytes()
            assert len(batcher._engine.pool) == 8
            assert batcher.metrics()["swaps"] == 1

    go(main)


@pytest.mark.parametrize(
    ("new", "reason"),
    [
        (_other(features=4), r"it takes x \(4,\) a step, expected x \(3,\)"),
        (_other(units=8), "its outputs have the shapes"),
        (_other(compute_type="float64"), "its arrays are float64, expected float32"),
        (_other(direction="reverse"), "its first output needs the last input"),
        (le.Sequential([_other(units=4), _other(features=4)]), "carry arrays of the shapes"),
    ],
)
def test_a_swap_that_does_not_fit_is_refused_with_the_reason(new: Any, reason: str) -> None:
    old = causal_model("lstm")
    x = inputs_of("lstm", 1, 2)

    async def main() -> None:
        async with Batcher(old) as batcher:
            await batcher.step("a", x[0])
            with pytest.raises(le.StateError, match=f"^swap: the new model cannot take over: .*{reason}"):
                await batcher.swap(new)
            assert batcher.model is old
            assert (await batcher.step("a", x[1])).tobytes() == old(x[None])[0][0, 1].tobytes()
            assert batcher.metrics()["swaps"] == 0

    go(main)


# --- The end ----------------------------------------------------------------------------------------------------------


def test_closing_finishes_what_was_taken() -> None:
    source = causal_model("lstm")
    x = inputs_of("lstm", 1, 50)

    async def main() -> None:
        batcher = Batcher(source, max_batch=4, max_delay=10.0)
        with pytest.raises(le.StateError, match=r"async with"):
            await batcher.step(1, x[0])
        async with batcher:
            calls = [asyncio.create_task(batcher.run(id, x)) for id in range(3)]
            calls.append(asyncio.create_task(batcher.predict(x[None])))
            await asyncio.sleep(0)
        for call in calls:
            assert call.result().reshape(-1, 16).tobytes() == source(x[None])[0][0].tobytes()
        with pytest.raises(le.StateError, match="found it closed"):
            await batcher.step(1, x[0])
        with pytest.raises(le.StateError, match="entered once"):
            await batcher.__aenter__()

    go(main)
    assert not [one for one in threading.enumerate() if one.name.startswith("lstm_engine.serving") and _lives(one)]


def _lives(thread: threading.Thread) -> bool:
    thread.join(5)
    return thread.is_alive()


def test_closing_without_finishing_tells_how_far_each_came() -> None:
    source = causal_model("lstm")

    async def main() -> None:
        batcher = await Batcher(source, max_batch=2).__aenter__()
        held = Held(batcher)
        calls = [asyncio.create_task(batcher.run(id, inputs_of("lstm", id, 9))) for id in range(4)]
        await held.until_begun()
        closing = asyncio.create_task(batcher.aclose(drain=False))
        await asyncio.sleep(0)
        held.go_on.set()
        await closing
        errors = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(error, le.StateError) for error in errors)
        assert sum("1 of 9 steps" in str(error) for error in errors) in (1, 2)
        assert sum("has not moved" in str(error) for error in errors) in (2, 3)

    go(main)


def test_a_loop_that_closes_or_is_another() -> None:
    source = causal_model("lstm")
    x = inputs_of("lstm", 1, 1)[0]
    loop = asyncio.new_event_loop()
    batcher = Batcher(source)
    loop.run_until_complete(batcher.__aenter__())
    loop.run_until_complete(batcher.step(1, x))
    held = Held(batcher)
    call = loop.create_task(batcher.step(1, x))
    loop.run_until_complete(held.until_begun())

    async def elsewhere() -> None:
        with pytest.raises(le.StateError, match="found another; give each loop a batcher"):
            await batcher.step(1, x)

    go(elsewhere)
    call._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()
    held.go_on.set()  # the round ends with nobody left to tell
    threads = [one for one in threading.enumerate() if one.name.startswith("lstm_engine.serving")]
    batcher._executor.shutdown()
    assert not any(map(_lives, threads))
    call.get_coro().close()
