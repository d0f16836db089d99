"""What a host process must not notice: forks, pickles, its BLAS threads, its floating-point state."""

from __future__ import annotations

import ctypes
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_info

import lstm_engine as le

DATA = Path(le.__file__).parent / "data"
FILE = DATA / "char_lstm.keras"


def some_rows(count: int = 3) -> np.ndarray:
    letters = np.random.default_rng(11).integers(0, 60, (count, 40))
    return np.eye(60, dtype=np.float32)[letters]


def run(program: str) -> str:
    """Run ``program`` in a process of its own; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False, timeout=120
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
    assert run(program) == "same\n"


@pytest.mark.parametrize("compute_type", ["float32", "float64"])
def test_a_model_survives_a_pickle(compute_type: str) -> None:
    model = le.load(FILE, compute_type=compute_type)  # type: ignore[arg-type]
    copy = pickle.loads(pickle.dumps(model))
    assert copy(some_rows()).tobytes() == model(some_rows()).tobytes()


@pytest.mark.parametrize("backend", ["fused", "blas"])
def test_the_blas_threads_of_the_host_are_left_alone(backend: str) -> None:
    model = le.load(FILE, backend=backend)  # type: ignore[arg-type]
    model(some_rows())  # SciPy's BLAS is in the process from here on
    before = threadpool_info()
    assert before
    model(some_rows(64))
    assert threadpool_info() == before


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the C library's name")
@pytest.mark.parametrize("backend", ["fused", "blas"])
def test_the_floating_point_state_of_the_host_is_left_alone(backend: str) -> None:
    # The rounding mode is a part of the state that a process can set and read back without a compiler.
    libm = ctypes.CDLL("libm.so.6")
    upward = {"x86_64": 0x800, "aarch64": 0x400000}[os.uname().machine]
    model = le.load(FILE, backend=backend)  # type: ignore[arg-type]
    x, stream = some_rows(), model.stream()
    assert libm.fesetround(upward) == 0
    try:
        model(x)
        stream.step(x[0, 0])
        assert libm.fegetround() == upward
    finally:
        assert libm.fesetround(0) == 0
    tiny = np.float32(1e-40)
    assert tiny * np.float32(0.5) > 0, "denormal numbers have been switched off"
