"""What a host process must not notice, whatever it calls: BLAS threads, floating-point control words, its settings.

And what it may rely on: other engines beside us, in any order; its affinity mask and ``OMP_NUM_THREADS``; no CPU time
while nothing is asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import itertools
import locale
import logging
import os
import random as python_random
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from causal_models import causal_model, inputs_of
from described import random
from threadpoolctl import threadpool_info

import lstm_engine as le
from lstm_engine._core import Threads

ROOT = Path(__file__).parent.parent
DATA = Path(le.__file__).parent / "data"
TEXT = np.eye(60, dtype=np.float32)[np.random.default_rng(11).integers(0, 60, (3, 40))]

Call = Callable[[], object]


def run(program: str, **options: Any) -> str:
    """Run ``program`` in a process of its own; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=300, cwd=ROOT, **options
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# --- Every kind of call -----------------------------------------------------------------------------------------------


def _lstm_calls(**options: Any) -> Call:
    lstm = le.LSTM.from_weights(random(1, 3, 64, scale=0.7), random(2, 16, 64, scale=0.5), **options)
    x, state = random(3, 24, 9, 3), (random(4, 1, 24, 16), random(5, 1, 24, 16))
    lengths, mask = np.arange(24) % 10, random(6, 24, 9) > 0
    return lambda: [lstm(x), lstm(x, state, lengths=lengths), lstm(x, mask=mask), lstm(x[0]), lstm(x[:, :0])]


def _model_calls(kind: str) -> Call:
    model, x = causal_model(kind), inputs_of(kind, 1, 5, 9)
    return lambda: [model(x), model.predict(x, batch_size=2)]


def _stream_calls(kind: str) -> Call:
    def call() -> None:
        stream = causal_model(kind).stream()
        stream.run(inputs_of(kind, 1, 6))
        stream.restore(stream.fork().snapshot())
        stream.step(inputs_of(kind, 2))
        stream.state = stream.state
        stream.reset()

    return call


def _pool_calls(kind: str) -> Call:
    def call() -> None:
        pool = causal_model(kind).stream_pool(70)
        ids = [pool.open() for _ in range(70)]
        pool.step(ids, inputs_of(kind, 1, 70))
        pool.step(ids[:2], inputs_of(kind, 1, 70), steps=[60, 10])
        pool.restore(ids[0], pool.snapshot(ids[1]))
        pool.evict(0)

    return call


def _window_calls(kind: str) -> Call:
    def call() -> None:
        window = causal_model(kind).sliding_window(5)
        for place in range(8):
            window.push(inputs_of(kind, place), defer=place % 2 == 0)
        window.settle()

    return call


def _batcher_calls() -> Call:
    async def serve() -> None:
        async with le.serving.Batcher(causal_model("chain")) as batcher:
            await asyncio.gather(*(batcher.step(id, inputs_of("chain", id)) for id in range(20)))
            await batcher.predict(inputs_of("chain", 1, 2, 5))
            await batcher.restore("new", await batcher.snapshot(3))

    return lambda: asyncio.run(serve())


def _file_calls(folder: Path) -> Call:
    def call() -> None:
        model = le.load(DATA / "char_lstm.keras")
        model(TEXT)
        model.save(folder / "m.safetensors")
        le.load(folder / "m.safetensors").summary()
        le.load(ROOT / "tests/formats/y_keras_legacy.h5")
        le.LSTM.from_torch(DATA / "sunspots_lstm.pt")
        with contextlib.suppress(le.UnsupportedModelError, ModuleNotFoundError):
            model.to_onnx(folder / "m.onnx")
            le.load(folder / "m.onnx")(TEXT)

    return call


def _failing_calls(folder: Path) -> Call:
    (folder / "damaged.keras").write_bytes((DATA / "char_lstm.keras").read_bytes()[:-100])
    model = causal_model("chain")

    def call() -> None:
        with pytest.raises(le.FormatError):
            le.load(folder / "damaged.keras")
        with pytest.raises(le.ShapeError):
            model(np.zeros((2, 3, 4, 5)))

    return call


CALLS: dict[str, Callable[[Path], Call]] = {
    "an LSTM": lambda _: _lstm_calls(),
    "an LSTM in bfloat16": lambda _: _lstm_calls(compute_type="bfloat16"),
    "an LSTM in int8": lambda _: _lstm_calls(compute_type="int8"),
    "an LSTM in float64": lambda _: _lstm_calls(compute_type="float64"),
    "an LSTM over a BLAS": lambda _: _lstm_calls(backend="blas"),
    "an LSTM with threads": lambda _: _lstm_calls(num_threads=Threads(2, split=2)),
    "a chain": lambda _: _model_calls("chain"),
    "a graph": lambda _: _model_calls("graph"),
    "convolutions": lambda _: _model_calls("convolution"),
    "a stream": lambda _: _stream_calls("chain"),
    "a stream of a graph": lambda _: _stream_calls("convolution"),
    "a pool": lambda _: _pool_calls("chain"),
    "a pool over a BLAS": lambda _: _pool_calls("double"),
    "a window": lambda _: _window_calls("chain"),
    "a window of a graph": lambda _: _window_calls("graph"),
    "a batcher": lambda _: _batcher_calls(),
    "files": _file_calls,
    "errors": _failing_calls,
    "config": lambda _: le.config,
}

every_call = pytest.mark.parametrize("name", CALLS)


def settings() -> dict[str, Any]:
    """Return what a process has set, and would miss."""
    mask = os.umask(0)
    os.umask(mask)
    return {
        "BLAS threads": threadpool_info(),
        "numpy errors": np.geterr(),
        "numpy random": repr(np.random.get_state()),
        "random": python_random.getstate(),
        "signal handlers": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "signal mask": signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        "affinity": os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None,
        "environment": dict(os.environ),
        "folder": Path.cwd(),
        "umask": mask,
        "locale": locale.setlocale(locale.LC_ALL),
        "recursion": sys.getrecursionlimit(),
        "switch interval": sys.getswitchinterval(),
        "garbage": (gc.isenabled(), gc.get_threshold()),
        "warnings": list(warnings.filters),
        "logging": list(logging.getLogger().handlers),
        "hooks": (sys.excepthook, sys.unraisablehook, threading.excepthook, sys.stdout, sys.stderr),
    }


@every_call
def test_the_settings_of_the_host_are_as_before(name: str, tmp_path: Path) -> None:
    call = CALLS[name](tmp_path)
    call()  # SciPy's BLAS is in the process from here on
    before = settings()
    call()
    after = settings()
    for setting, value in before.items():
        assert after[setting] == value, setting


class FloatEnvironment:
    """The control words of the floating-point units, as the C library keeps them."""

    def __init__(self) -> None:
        self._libm = ctypes.CDLL("libm.so.6")
        self._words = (ctypes.c_uint32 * 8)()

    def _read(self) -> Any:
        assert self._libm.fegetenv(ctypes.byref(self._words)) == 0
        return self._words

    def control(self) -> tuple[int, ...]:
        """Return the control words without the flags of what has happened."""
        words = self._read()
        if os.uname().machine == "x86_64":
            return words[0] & 0xFFFF, words[7] & 0xFFC0  # of the x87, and MXCSR
        return (words[0],)  # FPCR

    @contextlib.contextmanager
    def strange(self) -> Iterator[None]:
        """Rounding is upward, and denormal numbers are zero."""
        kept = bytes(self._read())
        if os.uname().machine == "x86_64":
            self._words[0] |= 0x800
            self._words[7] |= 0x8040 | 0x4000
        else:
            self._words[0] |= 1 << 24 | 1 << 22
        assert self._libm.fesetenv(ctypes.byref(self._words)) == 0
        try:
            yield
        finally:
            self._words[:] = (ctypes.c_uint32 * 8).from_buffer_copy(kept)
            assert self._libm.fesetenv(ctypes.byref(self._words)) == 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the C library's name")
@every_call
def test_the_floating_point_control_words_are_as_before(name: str, tmp_path: Path) -> None:
    call, environment = CALLS[name](tmp_path), FloatEnvironment()
    call()
    usual = environment.control()
    call()
    assert environment.control() == usual
    with environment.strange():
        strange = environment.control()
        call()
        after = environment.control()
    assert after == strange != usual
    assert environment.control() == usual
    assert np.float32(1e-40) * np.float32(0.5) > 0, "denormal numbers have been switched off"


# --- Other engines ----------------------------------------------------------------------------------------------------

#: Each engine computes when it has come, and again when all are there, one after the other and all at once.
BESIDE = """
import hashlib, sys, tempfile, threading
from pathlib import Path
import numpy as np

x = np.random.default_rng(1).standard_normal((24, 30, 8)).astype(np.float32)
random = np.random.default_rng(2)
arrays = [random.uniform(-0.2, 0.2, shape).astype(np.float32) for shape in ((8, 192), (48, 192), (192,))]
folder = Path(sys.argv[1])

def digest(y):
    return hashlib.sha256(np.ascontiguousarray(y).tobytes()).hexdigest()

def lstm_engine():
    import lstm_engine as le
    from lstm_engine._core import Threads
    fused = le.LSTM.from_weights(*arrays, num_threads=Threads(2, split=2))
    double = le.LSTM.from_weights(*arrays, compute_type="float64")
    return lambda: digest(fused(x)[0]) + digest(double(x.astype(np.float64))[0])

def onnxruntime():
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    session = onnxruntime.InferenceSession(str(folder / "lstm.onnx"), options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    return lambda: digest(session.run(None, {names[0]: x})[0])

def torch():
    import torch
    torch.set_num_threads(2)
    torch.manual_seed(1)
    lstm = torch.nn.LSTM(8, 48, batch_first=True)
    def call():
        with torch.inference_mode():
            return digest(lstm(torch.from_numpy(x))[0].numpy())
    return call

from threadpoolctl import threadpool_info
calls, first = {}, {}
for name in sys.argv[2:]:
    calls[name] = globals()[name]()
    first[name] = calls[name]()
if "lstm_engine" in calls:
    before = threadpool_info()
    calls["lstm_engine"]()
    assert threadpool_info() == before
for _ in range(3):
    for name, call in calls.items():
        assert call() == first[name], name
wrong = []
def often(name):
    for _ in range(10):
        if calls[name]() != first[name]:
            wrong.append(name)
threads = [threading.Thread(target=often, args=(name,)) for name in calls]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert not wrong, wrong
print(*[f"{name}={first[name]}" for name in sorted(first)])
"""


def assert_any_order(engines: list[str], folder: Path) -> None:
    lstm = le.LSTM.from_weights(random(1, 8, 192, scale=0.2), random(2, 48, 192, scale=0.2))
    le.Sequential([lstm]).to_onnx(folder / "lstm.onnx")
    alone = {name: run(BESIDE.replace("sys.argv", repr(["", str(folder), name]))) for name in engines}
    for order in itertools.permutations(engines):
        found = run(BESIDE.replace("sys.argv", repr(["", str(folder), *order])))
        assert found == " ".join(alone[name] for name in sorted(engines)), order


def test_onnxruntime_beside_us_in_any_order(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    assert_any_order(["lstm_engine", "onnxruntime"], tmp_path)


@pytest.mark.interop
def test_torch_and_onnxruntime_beside_us_in_any_order(tmp_path: Path) -> None:
    assert_any_order(["lstm_engine", "onnxruntime", "torch"], tmp_path)


# --- CPUs -------------------------------------------------------------------------------------------------------------

AUTO = """
import os, sys
from pathlib import Path
if CPUS:
    os.sched_setaffinity(0, CPUS)
import numpy as np
import lstm_engine as le
from lstm_engine._core import Threads

model = le.load(Path(le.__file__).parent / "data/char_lstm.keras", num_threads="auto")
lstm = le.LSTM.from_weights(np.ones((96, 384), np.float32), np.ones((96, 384), np.float32), num_threads="auto")
lstm(np.zeros((64, 200, 96), np.float32))
own = [one for one in Path("/proc/self/task").iterdir() if (one / "comm").read_text().startswith("lstm_engine/")]
allowed = {tuple(sorted(os.sched_getaffinity(int(one.name)))) for one in own}
print(model.num_threads, lstm.num_threads, len(own), allowed <= {tuple(sorted(os.sched_getaffinity(0)))})
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity masks on this system")
@pytest.mark.parametrize("how", ["OMP_NUM_THREADS", "LSTM_ENGINE_NUM_THREADS", "affinity"])
def test_one_cpu_is_one_thread(how: str) -> None:
    """However a host says so: in its environment or by an affinity mask, as taskset and containers do."""
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    if how != "affinity":
        environment[how] = "1"
    cpus = {min(os.sched_getaffinity(0))} if how == "affinity" else None
    assert run(AUTO.replace("CPUS", repr(cpus)), env=environment) == "1 1 0 True"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity masks on this system")
def test_threads_stay_within_the_mask_of_the_host() -> None:
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        pytest.skip("one CPU alone")
    environment = {**os.environ, "LSTM_ENGINE_NUM_THREADS": "2"}
    assert run(AUTO.replace("CPUS", repr(set(cpus[:2]))), env=environment) == "2 2 1 True"


@pytest.mark.timing
def test_an_idle_service_takes_no_cpu_time() -> None:
    """Threads of a model, a pool with streams and a batcher, all used before."""
    lstm = le.LSTM.from_weights(random(1, 8, 128), random(2, 32, 128), num_threads=Threads(2, split=2))
    pool = lstm.stream_pool(1000)
    ids = [pool.open() for _ in range(1000)]

    async def idle() -> float:
        async with le.serving.Batcher(lstm, idle_timeout=3600) as batcher:
            await asyncio.gather(*(batcher.step(id, random(id, 8)) for id in range(50)))
            lstm(random(3, 24, 30, 8))
            pool.step(ids, random(4, 1000, 8))
            await asyncio.sleep(0.05)
            before = time.process_time()
            await asyncio.sleep(1.0)
            return time.process_time() - before

    assert asyncio.run(idle()) < 0.02
