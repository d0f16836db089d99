"""Memory stays flat: over a million steps of whatever carries a state, and over ten thousand calls of random shapes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent

pytestmark = [pytest.mark.timing, pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc")]

#: What is measured is the memory that the process has, of C and of Python, once it has warmed up.
PREPARED = """
import asyncio, sys
import numpy as np
import lstm_engine as le
from lstm_engine._core import Threads
sys.path.insert(0, "tests")
from causal_models import causal_model, inputs_of
from described import random

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

def stays_flat(work, count, warming, allowed):
    work(warming)
    before = resident()
    work(count)
    grown = resident() - before
    assert grown <= allowed, f"{grown} bytes more"
    print("flat")
"""

STEPS = {
    "a stream": """
stream, x, out = causal_model("chain").stream(), inputs_of("chain", 1), np.empty(4, np.float32)
def work(count):
    for _ in range(count // 2):
        stream.step(x, out=out)
        stream.step(x)
stays_flat(work, 1_000_000, 100_000, 1 << 18)
""",
    "chunks of a stream": """
stream, x = causal_model("chain").stream(), inputs_of("chain", 1, 1000)
def work(count):
    done = length = 0
    while done < count:
        length = length % 997 + 13
        stream.run(x[:length])
        done += length
stays_flat(work, 1_000_000, 100_000, 1 << 19)
""",
    "a pool": """
pool, x = causal_model("chain").stream_pool(1000), inputs_of("chain", 1, 1000)
ids = [pool.open() for _ in range(1000)]
def work(count):
    for turn in range(count // 1000):
        pool.step(ids[turn % 10:], x[turn % 10:])
        pool.close(ids.pop())
        ids.insert(turn % 700, pool.open(pool.snapshot(ids[turn % 900])))
stays_flat(work, 1_000_000, 100_000, 1 << 19)
""",
    "a window": """
window, x = causal_model("chain").sliding_window(5), inputs_of("chain", 1)
def work(count):
    for place in range(count):
        window.push(x, defer=place % 2 == 0)
stays_flat(work, 200_000, 20_000, 1 << 18)
""",
    "a stream of a graph": """
stream, x = causal_model("graph").stream(), inputs_of("graph", 1)
def work(count):
    for place in range(count):
        stream.step(x)
stays_flat(work, 10_000, 1000, 1 << 18)
""",
    "a batcher": """
x = inputs_of("chain", 1, 200)
async def main():
    async with le.serving.Batcher(causal_model("chain"), max_delay=0.0) as batcher:
        async def work(count):
            for turn in range(count // 200):
                await asyncio.gather(*(batcher.step(turn % 3 + place, x[place]) for place in range(200)))
                await batcher.close(turn % 3 + 7)
        await work(10_000)
        before = resident()
        await work(60_000)
        assert resident() - before <= 1 << 20, resident() - before
asyncio.run(main())
print("flat")
""",
}

#: Rows and steps of every size up to 100, and now and then a large call between.
SHAPES = """
{lstm}
numbers = np.random.default_rng(1)
x = numbers.standard_normal((100, 100, 8)).astype(np.float32)
large = np.zeros((40, 2000, 8), np.float32)
def work(count):
    for turn in range(count):
        rows, steps = numbers.integers(0, 101, 2) // numbers.integers(1, 30, 2)
        given = x[:rows, :steps]
        match turn % 4:
            case 0: lstm(given)
            case 1: lstm(np.ascontiguousarray(given), lengths=numbers.integers(0, steps + 1, rows))
            case 2: lstm(given, mask=numbers.random((rows, steps)) > 0.5)
            case 3: lstm(given.swapaxes(0, 1), time_major=True, out=np.empty((steps, rows, 8 * DIRECTIONS), np.float32))
        if turn % 2000 == 77:
            lstm(large)
stays_flat(work, 10_000, 10_000, 1 << 20)
"""
WEIGHTS = "le.LSTM.from_weights([random(1, 8, 32), random(2, 8 * DIRECTIONS, 32)], [random(3, 8, 32), random(4, 8, 32)]"
LSTMS = {
    "fused": f"DIRECTIONS = 1; lstm = {WEIGHTS})",
    "threads": f"DIRECTIONS = 1; lstm = {WEIGHTS}, num_threads=Threads(2, split=2))",
    "blas": f"DIRECTIONS = 1; lstm = {WEIGHTS}, backend='blas')",
    "int8": f"DIRECTIONS = 1; lstm = {WEIGHTS}, compute_type='int8')",
}


def run(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PREPARED + program], capture_output=True, text=True, check=False, timeout=900, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def some_are_slow(names: Iterable[str], quick: str) -> list[Any]:
    """Return the names, all but one of them marked."""
    return [pytest.param(name, marks=[] if name == quick else [pytest.mark.slow]) for name in names]


@pytest.mark.parametrize("what", some_are_slow(STEPS, quick="a stream"))
def test_a_million_steps(what: str) -> None:
    assert run(STEPS[what]) == "flat"


@pytest.mark.parametrize("lstm", some_are_slow(LSTMS, quick="fused"))
def test_ten_thousand_calls_of_random_shapes(lstm: str) -> None:
    assert run(SHAPES.replace("{lstm}", LSTMS[lstm])) == "flat"
