"""A WSGI application whose models were loaded and run, with threads, before gunicorn made its workers."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

import lstm_engine as le
from lstm_engine._core import Threads

_random = np.random.default_rng(3)
_arrays = [_random.uniform(-0.2, 0.2, shape).astype(np.float32) for shape in ((8, 192), (48, 192))]

#: One that shares its rows with another thread at every call, one that calls SciPy's BLAS, and a whole file.
SHARED = le.LSTM.from_weights(*_arrays, num_threads=Threads(2, split=2))  # type: ignore[arg-type]
DOUBLE = le.LSTM.from_weights(*_arrays, compute_type="float64")
LETTERS = le.load(Path(le.__file__).parent / "data/char_lstm.keras")
STREAM = SHARED.stream()
X = _random.standard_normal((24, 30, 8)).astype(np.float32)
TEXT = np.eye(60, dtype=np.float32)[_random.integers(0, 60, (3, 40))]
STREAM.run(X[0])
BEGINNING = STREAM.snapshot()


def computed() -> str:
    """Return a digest of what every model gives, and of a stream that goes on where the parent's stood."""
    STREAM.restore(BEGINNING)
    outputs = [SHARED(X)[0], DOUBLE(X)[0], LETTERS(TEXT), STREAM.step(X[1, 0])]
    return hashlib.sha256(b"".join(np.ascontiguousarray(y).tobytes() for y in outputs)).hexdigest()


PARENT, BEFORE_THE_FORK = os.getpid(), computed()
_one_at_a_time = threading.Lock()


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer with what this worker computes, and what its parent did."""
    time.sleep(0.02)  # so that another worker takes the next request
    with _one_at_a_time:
        found = {
            "worker": os.getpid(),
            "parent": PARENT,
            "computed": computed(),
            "before": BEFORE_THE_FORK,
            "threads": SHARED.core.threads.alive,
        }
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(found).encode()]
