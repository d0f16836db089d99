"""Processes and threads of a host: forks, children of multiprocessing, pickles, many threads at one model."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from causal_models import KINDS, assert_same, causal_model, inputs_of

import lstm_engine as le

DATA = Path(le.__file__).parent / "data"
FILE = DATA / "char_lstm.keras"


def some_rows(count: int = 3) -> np.ndarray:
    letters = np.random.default_rng(11).integers(0, 60, (count, 40))
    return np.eye(60, dtype=np.float32)[letters]


def run(*program: str) -> str:
    """Run a program, ``-c`` and its text or its file, in a process of its own; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", *program], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_model_gives_the_same_bits_in_a_forked_child() -> None:
    program = f"""
import hashlib, os
import numpy as np
import lstm_engine as le
model = le.load({str(FILE)!r})
x = np.eye(60, dtype=np.float32)[np.random.default_rng(11).integers(0, 60, (3, 40))]
digest = lambda: hashlib.sha256(model(x).tobytes()).hexdigest()
stream = model.stream()
stream.step(x[0, 0])
before = digest()
read, write = os.pipe()
child = os.fork()
if child == 0:
    os.write(write, (digest() + stream.step(x[0, 1]).tobytes().hex()).encode())
    os._exit(0)
os.close(write)
theirs = b"".join(iter(lambda: os.read(read, 65536), b"")).decode()
assert os.waitpid(child, 0)[1] == 0
assert digest() == before
# The child had a copy of the stream: its step has not moved ours.
assert theirs == before + stream.step(x[0, 1]).tobytes().hex(), "the child's bits differ"
print("same")
"""
    assert run("-c", program) == "same\n"


#: A pool of workers that is given models and answers with digests; the main module is imported by some of them.
WORKERS = """
import hashlib, multiprocessing, sys, warnings
from concurrent.futures import ProcessPoolExecutor
import numpy as np
import lstm_engine as le
from lstm_engine._core import Threads

# Since Python 3.12 a fork beside any thread is warned of; ours are made for it.
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)

def work(model, lstm, snapshot, x, rows):
    y, stream = lstm(x)[0], lstm.stream()
    stream.restore(snapshot)
    return hashlib.sha256(y.tobytes() + stream.step(x[0, 3]).tobytes() + model(rows).tobytes()).hexdigest()

if __name__ == "__main__":
    random = np.random.default_rng(3)
    arrays = [random.uniform(-0.2, 0.2, shape).astype(np.float32) for shape in ((8, 192), (48, 192))]
    lstm = le.LSTM.from_weights(*arrays, num_threads=Threads(2, split=2))
    model = le.load(sys.argv[2])
    x = random.standard_normal((24, 30, 8)).astype(np.float32)
    rows = np.eye(60, dtype=np.float32)[random.integers(0, 60, (3, 40))]
    stream = lstm.stream()
    stream.run(x[0, :3])
    given = model, lstm, stream.snapshot(), x, rows
    here = work(*given)
    context = multiprocessing.get_context(sys.argv[1])
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        there = {one.result() for one in [pool.submit(work, *given) for _ in range(6)]}
    process = context.Process(target=work, args=given)
    process.start()
    process.join()
    assert process.exitcode == 0
    assert work(*given) == here
    print("same" if there == {here} else "other bits")
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(method: str, tmp_path: Path) -> None:
    if sys.platform == "win32" and method != "spawn":
        pytest.skip("spawn is all that there is")
    program = tmp_path / "workers.py"
    program.write_text(WORKERS)
    assert run(str(program), method, str(FILE)) == "same\n"


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_survives_a_pickle(kind: str, protocol: int) -> None:
    source, x = causal_model(kind), inputs_of(kind, 1, 2, 5)
    twin = pickle.loads(pickle.dumps(source, protocol))
    assert type(twin) is type(source)
    for found, wanted in zip(outputs(twin(x)), outputs(source(x)), strict=True):
        assert_same(kind, found, wanted)
    assert twin.stream().snapshot() == source.stream().snapshot()


def outputs(y: Any) -> list[Any]:
    """Return the arrays that a Model or an LSTM gives."""
    return [y[0], *y[1]] if isinstance(y, tuple) else [y]


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
@pytest.mark.parametrize("kind", ["lstm", "graph"])
@pytest.mark.parametrize(
    "made",
    [
        lambda source: source.stream(),
        lambda source: source.stream_pool(2),
        lambda source: source.sliding_window(2),
        le.serving.Batcher,
    ],
    ids=["Stream", "StreamPool", "SlidingWindow", "Batcher"],
)
def test_what_carries_a_state_is_not_copied_unawares(made: Any, kind: str, copied: Any) -> None:
    """A copy of its attributes would share the state in C, and each would advance the other."""
    with pytest.raises(TypeError, match=r"cannot .*pickle '.*' object"):
        copied(made(causal_model(kind)))


def test_errors_reach_the_process_that_asked() -> None:
    for error in (le.ShapeError("x: no"), le.FormatError("no"), le.DeadlineError("late", steps=3)):
        twin = pickle.loads(pickle.dumps(error))
        assert type(twin) is type(error)
        assert str(twin) == str(error)
        assert vars(twin) == vars(error)


@pytest.mark.parametrize("kind", ["chain", "graph", "convolution", "int8", "double"])
def test_thirty_two_threads_at_one_model(kind: str) -> None:
    """Calls of all shapes, and a stream for each thread, begun together."""
    callers, rounds = 32, 6
    source = causal_model(kind)
    inputs = [inputs_of(kind, place, 1 + place % 7, 1 + place % 11) for place in range(callers)]
    wanted = [outputs(source(x)) for x in inputs]
    steps = [inputs_of(kind, 100 + place, rounds) for place in range(callers)]
    stepped = [source.stream().run(x) for x in steps]
    together = threading.Barrier(callers)

    def call(place: int) -> None:
        together.wait(60)
        stream = source.stream()
        for number in range(rounds):
            for found, expected in zip(outputs(source(inputs[place])), wanted[place], strict=True):
                assert_same(kind, found, expected)
            assert_same(kind, stream.step(steps[place][number]), stepped[place][number])

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(callers) as pool:
            for result in [pool.submit(call, place) for place in range(callers)]:
                result.result(120)
    finally:
        sys.setswitchinterval(interval)
