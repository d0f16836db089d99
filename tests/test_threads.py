"""Threads: the same bits however many take part, whatever they share out, and however a host treats them."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import Case, Engine, Options, cases, engines, every_combination, examples, fused_engines, make_weights
from test_same_bits import assert_same_results

import lstm_engine as le
from lstm_engine._core import Threads
from lstm_engine.options import NARROW_TYPES

#: What threads may share out, as the C core numbers it (le_split).
SPLITS = {"rows": 2, "units": 3, "directions": 4, "layers": 5}
COUNTS = (2, 3, 4, 7)
every_split = pytest.mark.parametrize("split", SPLITS.values(), ids=SPLITS)
every_engine = pytest.mark.parametrize("engine", engines(), ids=str)


def os_threads() -> dict[int, str]:
    """Return number and name of every thread of this process."""
    found = {}
    for path in Path("/proc/self/task").iterdir():
        try:
            found[int(path.name)] = (path / "comm").read_text().strip()
        except OSError:
            continue
    return found


def run(program: str) -> str:
    """Run ``program`` in a process of its own; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", PREPARED + program],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


#: A model that uses its threads at every call, and what it gives alone.
PREPARED = """
import hashlib, os, resource, signal, sys, threading, time
import numpy as np
import lstm_engine as le
from lstm_engine._core import Threads

def made(threads, hidden=96, layers=1):
    random = np.random.default_rng(3)
    arrays = [
        [random.uniform(-0.1, 0.1, shape).astype(np.float32) for shape in ((hidden, 4 * hidden),) * 2]
        for _ in range(layers)
    ]
    return le.LSTM.from_weights([k for k, _ in arrays], [r for _, r in arrays], num_threads=threads, backend="fused")

def digest(lstm, x):
    return hashlib.sha256(lstm(x)[0].tobytes()).hexdigest()

def batch(rows=16, steps=20, features=96):
    return np.random.default_rng(4).standard_normal((rows, steps, features)).astype(np.float32)
"""


# ------------------------------------------------------------------------------------------------ bits


def assert_threads_agree(engine: Engine, case: Case, split: int, counts: tuple[int, ...] = COUNTS) -> None:
    wanted = engine.build(case.weights)(case.x, **case.keywords)
    for count in counts:
        lstm = engine.build(case.weights, num_threads=Threads(count, split=split))
        assert_same_results(lstm(case.x, **case.keywords), wanted, f"{count} threads")


@every_engine
@every_split
@examples(20)
@given(case=cases(least_batch=1), count=st.sampled_from(COUNTS))
def test_threads_do_not_matter(engine: Engine, split: int, case: Case, count: int) -> None:
    assert_threads_agree(engine, case, split, (count,))


@every_split
def test_threads_do_not_matter_on_every_combination(split: int) -> None:
    for number, case in enumerate(every_combination()):
        assert_threads_agree(engines()[0], case, split, (COUNTS[number % len(COUNTS)],))


@every_engine
@pytest.mark.parametrize("batch", [2, 70, 130])
@pytest.mark.parametrize("ragged", [False, True])
def test_many_rows_are_shared_out(engine: Engine, batch: int, ragged: bool) -> None:
    case = Case(Options(9, 24, layers=2), seed=batch, batch=batch, time=9, with_lengths=ragged, with_state=True)
    assert_threads_agree(engine, case, SPLITS["rows"])


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
@pytest.mark.parametrize("batch", [1, 33])
def test_what_is_fastest_has_the_same_bits(direction: str, batch: int) -> None:
    options = Options(40, 96, layers=2, direction=direction)  # type: ignore[arg-type]
    assert_threads_agree(engines()[0], Case(options, seed=7, batch=batch, time=90, with_state=True), 0)


def assert_stream_agrees(stream: le.Stream, case: Case, wanted: Any, what: str) -> None:
    if case.state is not None:
        stream.state = case.state
    y = [stream.step(np.ascontiguousarray(case.x[:, time])) for time in range(case.time)]
    found = np.stack(y, axis=1) if y else wanted[0]
    assert_same_results((found, stream.state), wanted, what)


@pytest.mark.parametrize("engine", fused_engines(), ids=str)
@examples(20)
@given(case=cases(directions=["forward"], least_batch=1, ragged=False), count=st.sampled_from(COUNTS))
def test_streams_on_threads(engine: Engine, case: Case, count: int) -> None:
    wanted = engine.build(case.weights)(case.x, case.state)
    shared = engine.build(case.weights, num_threads=Threads(count, split=SPLITS["units"]))
    assert_stream_agrees(shared.stream(batch=case.batch), case, wanted, f"{count} threads")


@pytest.mark.parametrize("compute_type", ["float32", *NARROW_TYPES])
@pytest.mark.parametrize("batch", [1, 5])
def test_streams_as_fast_as_they_can(compute_type: Any, batch: int) -> None:
    """Steps that follow at once are shared out, short ones after a pause are not: the same bits, in any order."""
    case = Case(Options(40, 250, layers=3), seed=7, batch=batch, time=30, with_state=True)
    wanted = le.LSTM(case.weights, compute_type=compute_type)(case.x, case.state)
    shared = le.LSTM(case.weights, compute_type=compute_type, num_threads=2)
    stream = shared.stream(batch=batch)
    assert_stream_agrees(stream, case, wanted, "at once")
    stream.state = case.state
    y = []
    for time_step in range(case.time):
        if time_step % 7 == 3:
            time.sleep(0.002)
        y.append(stream.step(np.ascontiguousarray(case.x[:, time_step])))
    assert_same_results((np.stack(y, axis=1), stream.state), wanted, "with pauses")


def test_short_steps_after_pauses_wake_nobody() -> None:
    lstm = le.LSTM(make_weights(Options(40, 250), seed=1), num_threads=2)
    stream = lstm.stream()
    for _ in range(5):
        time.sleep(0.002)
        stream.step(np.zeros(40, np.float32))
    assert threads_of(lstm).alive == 0


def test_threads_that_sleep_are_called_to_long_steps_of_several_layers() -> None:
    """A step begins alone and is shared out from the layer on at which the other threads are there: the same bits."""
    case = Case(Options(40, 480, layers=4), seed=7, batch=1, time=24)
    wanted = le.LSTM(case.weights)(case.x)
    shared = le.LSTM(case.weights, num_threads=2)
    stream = shared.stream(batch=1)
    y = []
    for time_step in range(case.time):
        time.sleep(0.002)
        y.append(stream.step(np.ascontiguousarray(case.x[:, time_step])))
    assert_same_results((np.stack(y, axis=1), stream.state), wanted, "with pauses")
    assert threads_of(shared).alive == 1


def test_called_threads_sleep_again() -> None:
    shared = le.LSTM(make_weights(Options(40, 480, layers=4), seed=7), num_threads=2)
    stream = shared.stream()
    for _ in range(4):
        time.sleep(0.002)
        stream.step(np.zeros(40, np.float32))
    assert threads_of(shared).alive == 1
    before = time.process_time()
    time.sleep(0.2)
    assert time.process_time() - before < 0.1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_stream_goes_on_in_the_child_of_a_fork() -> None:
    program = """
lstm, x = made(Threads(2, split=3)), batch(1)[0]
wanted = made(1)(x[None])[0][0]
stream = lstm.stream()
assert all((stream.step(x_t) == y_t).all() for x_t, y_t in zip(x[:9], wanted))
child = os.fork()
if child == 0:
    signal.alarm(20)
good = all((stream.step(x_t) == y_t).all() for x_t, y_t in zip(x[9:], wanted[9:]))
if child == 0:
    os._exit(0 if good else 1)
assert os.waitpid(child, 0)[1] == 0 and good
print("good")
"""
    assert run(program) == "good"


# ----------------------------------------------------------------------------------------------- the pool


@pytest.fixture
def lstm() -> le.LSTM:
    """Return an LSTM that shares its rows with one more thread at every call."""
    return engines()[0].build(make_weights(Options(8, 32), seed=1), num_threads=Threads(2, split=SPLITS["rows"]))


X = np.random.default_rng(2).standard_normal((24, 30, 8)).astype(np.float32)


def threads_of(lstm: le.LSTM) -> Threads:
    assert lstm.core.threads is not None
    return lstm.core.threads


def test_threads_are_made_at_the_first_call_that_needs_them_and_end_with_the_model() -> None:
    before = set(os_threads())
    lstm = engines()[0].build(make_weights(Options(8, 32), seed=1), num_threads=Threads(3))
    assert set(os_threads()) == before
    lstm(X[:1, :1])
    assert set(os_threads()) == before, "one thread is as fast"
    assert threads_of(lstm).alive == 0
    del lstm
    lstm = engines()[0].build(make_weights(Options(8, 32), seed=1), num_threads=Threads(3, split=SPLITS["rows"]))
    lstm(X)
    assert threads_of(lstm).alive == 2
    names = {name for number, name in os_threads().items() if number not in before}
    assert names == {"lstm_engine/1", "lstm_engine/2"}
    del lstm
    assert set(os_threads()) == before


def test_the_lstms_of_a_model_share_their_threads() -> None:
    weights = make_weights(Options(8, 32), seed=1)
    threads = Threads(2, split=SPLITS["rows"])
    first, second = (engines()[0].build(weights, num_threads=threads) for _ in range(2))
    before = len(os_threads())
    first(X)
    second(X)
    assert len(os_threads()) == before + 1


def test_idle_threads_take_no_time(lstm: le.LSTM) -> None:
    lstm(X)
    assert threads_of(lstm).alive == 1
    time.sleep(0.05)
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.05


def test_signals_are_for_the_threads_of_the_host(lstm: le.LSTM) -> None:
    lstm(X)
    worker = next(number for number, name in os_threads().items() if name == "lstm_engine/1")
    status = Path(f"/proc/self/task/{worker}/status").read_text()
    blocked = int(next(line.split()[1] for line in status.splitlines() if line.startswith("SigBlk")), 16)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGALRM):
        assert blocked >> (number - 1) & 1, number


def test_many_callers_share_an_lstm(lstm: le.LSTM) -> None:
    inputs = [X[: 2 + place % 20, : 5 + place] for place in range(24)] * 4
    wanted = [engines()[0].build(lstm.weights)(x) for x in inputs]
    with ThreadPoolExecutor(32) as pool:
        for _ in range(5):
            for found, expected in zip(pool.map(lstm, inputs), wanted, strict=True):
                assert_same_results(found, expected, "in a thread")


def test_a_busy_pool_is_not_waited_for() -> None:
    """A second caller goes on alone while a long run has the threads."""
    lstm = engines()[0].build(make_weights(Options(96, 96), seed=1), num_threads=Threads(2, split=SPLITS["rows"]))
    long = np.zeros((64, 3000, 96), np.float32)
    short = np.zeros((2, 5, 96), np.float32)
    lstm(short)
    other = threading.Thread(target=lstm, args=(long,))
    began = time.perf_counter()
    other.start()
    time.sleep(0.05)
    lstm(short)
    taken = time.perf_counter() - began
    assert other.is_alive(), "the long run was too short to tell"
    other.join()
    assert taken < time.perf_counter() - began


def test_a_pickle_makes_threads_of_its_own(lstm: le.LSTM) -> None:
    wanted = lstm(X)
    asked = engines()[0].build(lstm.weights, num_threads="auto")
    copy = pickle.loads(pickle.dumps(asked))
    assert copy.num_threads == asked.num_threads
    assert_same_results(copy(X), wanted, "pickled")


def test_a_copied_model_shares_threads_among_its_own_layers() -> None:
    weights = make_weights(Options(8, 8), seed=1)
    model = le.Sequential([le.LSTM(weights), le.LSTM(weights)], num_threads="auto")
    assert model.num_threads == pickle.loads(pickle.dumps(model)).num_threads == le.config()["num_threads_auto"]


# ----------------------------------------------------------------------------------------------- the host


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_fork_with_threads_alive_and_busy() -> None:
    """Forked while other threads are in calls, again and again: every child computes, with threads of its own."""
    program = """
lstm, x = made(Threads(2, split=2)), batch()
wanted = digest(made(1), x)
assert digest(lstm, x) == wanted
going = True
def busy():
    while going:
        lstm(x)
callers = [threading.Thread(target=busy) for _ in range(2)]
[caller.start() for caller in callers]
time.sleep(0.02)
for _ in range(40):
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        assert lstm.core.threads.alive == 0
        good = digest(lstm, x) == wanted and lstm.core.threads.alive == 1
        del lstm
        os._exit(0 if good else 1)
    assert os.waitpid(child, 0)[1] == 0
going = False
[caller.join() for caller in callers]
assert digest(lstm, x) == wanted and lstm.core.threads.alive == 1
print("good")
"""
    assert run(program) == "good"


def test_multiprocessing_with_a_pool_that_lives() -> None:
    program = """
import multiprocessing
lstm, x = made(Threads(2, split=2)), batch()
wanted = digest(lstm, x)
def work(_):
    return digest(lstm, x)
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert set(pool.map(work, range(6))) == {wanted}
print("good")
"""
    assert run(program) == "good"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of Linux")
def test_threads_that_cannot_be_made_are_done_without() -> None:
    program = """
lstm, x = made(Threads(4, split=2)), batch()
wanted = digest(made(1), x)
made(1)(x)
size = int(next(line for line in open("/proc/self/status") if line.startswith("VmSize")).split()[1]) * 1024
# A thread's stack is 8 MB: there is room for what a call needs, not for that.
resource.setrlimit(resource.RLIMIT_AS, (size + (4 << 20), resource.RLIM_INFINITY))
assert digest(lstm, x) == wanted
print(lstm.core.threads.alive)
"""
    assert run(program) == "0"


#: Measured in the processor's time, for the machine may be busy with something else.
INTERRUPTED = """
class Told(Exception):
    pass
def tell(*_):
    global told
    told = time.process_time()
    raise Told
signal.signal(signal.SIGPROF, tell)
lstm = made({threads}, **{options!r})
x, out = np.ones({shape}, np.float32), np.ones({shape}, np.float32)  # pages that are there already
lstm(x[:, :2])
sent = time.process_time() + 0.1
signal.setitimer(signal.ITIMER_PROF, 0.1)
try:
    lstm(x, out=out)
except Told:
    busy = 1 + lstm.core.threads.alive if lstm.core.threads else 1
    assert told - sent < 0.1 * busy, (told - sent, busy)
    assert time.process_time() - told < 0.05 * busy
    lstm(x[:, :2])
    print("in time")
else:
    print("too late")
"""


@pytest.mark.parametrize("threads", ["1", "Threads(2, split=2)"])
@pytest.mark.parametrize(
    ("shape", "options"),
    [((1, 150_000, 192), {"hidden": 192}), ((64, 8_000, 96), {}), ((20_000, 40, 96), {"layers": 2})],
    ids=["one row", "many rows", "a stack"],
)
def test_a_signal_during_a_long_run_is_served(threads: str, shape: tuple[int, ...], options: dict[str, int]) -> None:
    program = INTERRUPTED.format(threads=threads, shape=shape, options=options)
    assert run(program) == "in time"


def test_a_handler_that_forks_does_not_hang_the_child() -> None:
    program = """
def fork(*_):
    global child
    child = os.fork()
signal.signal(signal.SIGALRM, fork)
lstm, x = made(Threads(2, split=2)), np.zeros((64, 5000, 96), np.float32)
wanted = digest(made(1), x)
child = None
signal.setitimer(signal.ITIMER_REAL, 0.1)
try:
    found = digest(lstm, x)
except le.LstmEngineError as error:
    assert child == 0 and "forked" in str(error)
    signal.alarm(20)
    os._exit(0 if digest(lstm, x) == wanted else 1)
assert child and found == wanted
assert os.waitpid(child, 0)[1] == 0
print("good")
"""
    assert run(program) == "good"


@pytest.mark.skipif(os.uname().machine != "x86_64" or not sys.platform.startswith("linux"), reason="x86-64 Linux")
def test_the_floating_point_state_of_the_host_does_not_matter() -> None:
    """Rounding upward and flushing denormals to zero, in the caller or in the thread that made the pool."""
    program = """
import ctypes
libm = ctypes.CDLL("libm.so.6")
class Environment(ctypes.Structure):
    _fields_ = [("x87", ctypes.c_uint32 * 7), ("mxcsr", ctypes.c_uint32)]
x = batch()
wanted = digest(made(1), x)
tiny = x * np.float32(1e-41)
wanted_tiny = digest(made(1), tiny)
environment = Environment()
libm.fegetenv(ctypes.byref(environment))
kept = environment.mxcsr
for threads in (1, Threads(2, split=2)):
    lstm = made(threads)
    environment.mxcsr = kept | 0x8040 | 0x4000
    libm.fesetenv(ctypes.byref(environment))
    found = lstm(x)[0], lstm(tiny)[0]
    libm.fegetenv(ctypes.byref(environment))
    after = environment.mxcsr
    environment.mxcsr = kept
    libm.fesetenv(ctypes.byref(environment))
    assert after & 0xE040 == (kept | 0x8040 | 0x4000) & 0xE040, hex(after)
    assert [hashlib.sha256(y.tobytes()).hexdigest() for y in found] == [wanted, wanted_tiny]
print("good")
"""
    assert run(program) == "good"


# ------------------------------------------------------------------------------------------- how many


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Return an environment without a word about threads, on a machine of 64 CPUs without quotas."""
    for name in ("LSTM_ENGINE_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("lstm_engine.thread_count.usable_cpus", lambda: 64)
    return monkeypatch


def test_auto_reads_the_environment(environment: pytest.MonkeyPatch) -> None:
    from lstm_engine.thread_count import thread_count

    assert thread_count("auto") == 64
    environment.setenv("OMP_NUM_THREADS", "8,2")
    assert thread_count("auto") == 8
    environment.setenv("LSTM_ENGINE_NUM_THREADS", " 3 ")
    assert thread_count("auto") == 3
    environment.setenv("LSTM_ENGINE_NUM_THREADS", "1000")
    assert thread_count("auto") == 64
    environment.setenv("LSTM_ENGINE_NUM_THREADS", "")
    assert thread_count("auto") == 8
    assert thread_count(5) == 5
    assert thread_count(10**30) == 64
    assert thread_count(1) == 1


@pytest.mark.parametrize("name", ["LSTM_ENGINE_NUM_THREADS", "OMP_NUM_THREADS"])
@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", "3 4", "9" * 5000, "²", "auto"])
def test_a_bad_environment_is_named(environment: pytest.MonkeyPatch, name: str, value: str) -> None:
    environment.setenv(name, value)
    with pytest.raises(le.LstmEngineError, match=f"{name}: expected a positive integer") as caught:
        le.LSTM(make_weights(Options(2, 3), seed=1), num_threads="auto")
    assert len(str(caught.value)) < 400
    with pytest.raises(le.LstmEngineError, match=name):
        le.config()
    assert le.LSTM(make_weights(Options(2, 3), seed=1), num_threads=2).num_threads == 2


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "250000 100000\n"}, 2),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000\n"}, 1),
        # The smallest of the way up counts; a container may not see its own path.
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/b/cpu.max": "800000 100000",
                "sys/fs/cgroup/a/cpu.max": "300000 100000",
            },
            3,
        ),
        ({"proc/self/cgroup": "0::/docker/123\n", "sys/fs/cgroup/cpu.max": "400000 100000"}, 4),
        ({"proc/self/cgroup": "0::/../x\n", "cpu.max": "100000 100000"}, None),
        (
            {
                "proc/self/cgroup": "12:memory:/m\n4:cpu,cpuacct:/a\n1:name=systemd:/s\n",
                "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us": "200000\n",
                "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us": "100000\n",
            },
            2,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu:/a\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            None,
        ),
        ({"proc/self/cgroup": "0::/\nnonsense\n\x00:", "sys/fs/cgroup/cpu.max": "some words"}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "100000 0"}, None),
    ],
)
def test_quotas_of_cgroups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], expected: int | None
) -> None:
    from lstm_engine.thread_count import usable_cpus

    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    assert usable_cpus(tmp_path) == (16 if expected is None else expected)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3}, raising=False)
    assert usable_cpus(tmp_path) == 1


def test_config_says_how_many(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("LSTM_ENGINE_NUM_THREADS", "5")
    config = le.config()
    assert (config["num_threads"], config["num_threads_auto"]) == (1, 5)


def test_every_loader_takes_threads(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    data = Path(le.__file__).parent / "data"
    model = le.load(data / "char_lstm.keras", num_threads=3)
    assert model.num_threads == 3
    model.save(tmp_path / "m.safetensors")
    again = le.load(tmp_path / "m.safetensors", num_threads="auto")
    assert again.num_threads == 64
    lstms = [layer.lstm for layer in again.layers if hasattr(layer, "lstm")]
    assert lstms
    assert all(lstm.num_threads == 64 for lstm in lstms)
    assert le.LSTM.from_keras(data / "char_lstm.keras", num_threads=2).num_threads == 2
    assert le.LSTM.from_torch(data / "sunspots_lstm.pt", num_threads=2).num_threads == 2
