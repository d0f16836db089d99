"""Bad arguments: each gets an error of ours that names the argument, what was expected and what was found."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest
from strategies import Options, make_weights

import lstm_engine as le
from lstm_engine.activations import Activation
from lstm_engine.weights import CellWeights, LSTMWeights

FEATURES, HIDDEN, BATCH, TIME = 5, 7, 3, 4
X = np.random.default_rng(1).standard_normal((BATCH, TIME, FEATURES)).astype(np.float32)
H = np.zeros((1, BATCH, HIDDEN), np.float32)


@pytest.fixture(scope="module")
def lstm() -> le.LSTM:
    return le.LSTM(make_weights(Options(FEATURES, HIDDEN), seed=1))


@pytest.fixture(scope="module")
def projected() -> le.LSTM:
    return le.LSTM(make_weights(Options(FEATURES, HIDDEN, output_size=2), seed=1))


def says(*words: object) -> str:
    """Return a pattern that finds the words in this order."""
    return "(?s)" + ".*".join(re.escape(str(word)) for word in words)


# ------------------------------------------------------------------------------------------- a call

BAD_X = {
    "rank 1": (X[0, 0], ("x: expected", "found shape (5,)")),
    "rank 4": (X[None], ("x: expected", "found shape (1, 3, 4, 5)")),
    "rank 0": (np.float32(1), ("x: expected", "found shape ()")),
    "too few features": (X[..., :4], ("x: expected shape (batch, time, 5)", "found shape (3, 4, 4)")),
    "too many features": (np.zeros((3, 4, 6), np.float32), ("x: expected", "5", "found shape (3, 4, 6)")),
    "features of one sequence": (X[0, :, :3], ("x: expected shape (time, 5)", "found shape (4, 3)")),
    "objects": (X.astype(object), ("x: expected", "found dtype object")),
    "complex": (X.astype(complex), ("x: expected", "found dtype complex128")),
    "text": (X.astype("U8"), ("x: expected", "found dtype <U8")),
    "dates": (np.zeros(X.shape, "datetime64[s]"), ("x: expected", "found dtype datetime64")),
    "records": (np.zeros(X.shape, "f4,f4"), ("x: expected", "found dtype")),
    "ragged lists": ([[[1.0] * 5], [[1.0] * 5, [1.0] * 5]], ("x: expected", "list")),
    "None": (None, ("x: expected", "found dtype object")),
    "masked array": (np.ma.masked_less(X, 0), ("x: expected", "masked array")),
    "integers that float32 does not hold": (np.full(X.shape, 2**24 + 1), ("x: expected integers", "16777217")),
    "float64 beyond float32": (np.full(X.shape, 1e39), ("x: expected values within", "1e+39")),
}


@pytest.mark.parametrize(("x", "words"), BAD_X.values(), ids=BAD_X)
def test_bad_x(lstm: le.LSTM, x: Any, words: tuple[str, ...]) -> None:
    with pytest.raises(le.ShapeError, match=says(*words)):
        lstm(x)


BAD_STATES = {
    "one array": (H, ("state: expected a pair (h0, c0)", "ndarray")),
    "three arrays": ((H, H, H), ("state: expected a pair (h0, c0)", "tuple")),
    "too few rows": ((H[:, :2], H), ("h0: expected shape (1, 3, 7)", "found shape (1, 2, 7)")),
    "too many cells": ((H, np.zeros((2, 3, 7))), ("c0: expected shape (1, 3, 7)", "found shape (2, 3, 7)")),
    "no cell axis": ((H[0], H), ("h0: expected shape (1, 3, 7)", "found shape (3, 7)")),
    "units": ((H, H[..., :6]), ("c0: expected shape (1, 3, 7)", "found shape (1, 3, 6)")),
    "objects": ((H, H.astype(object)), ("c0: expected", "found dtype object")),
    "one None": ((H, None), ("c0: expected", "found dtype object")),
}


@pytest.mark.parametrize(("state", "words"), BAD_STATES.values(), ids=BAD_STATES)
def test_bad_state(lstm: le.LSTM, state: Any, words: tuple[str, ...]) -> None:
    with pytest.raises(le.ShapeError, match=says(*words)):
        lstm(X, state)


def test_bad_state_with_projection(projected: le.LSTM) -> None:
    small = np.zeros((1, BATCH, 2), np.float32)
    projected(X, (small, H))
    with pytest.raises(le.ShapeError, match=says("h0: expected shape (1, 3, 2)", "found shape (1, 3, 7)")):
        projected(X, (H, small))


def test_bad_state_without_batch(lstm: le.LSTM) -> None:
    with pytest.raises(le.ShapeError, match=says("h0: expected shape (1, 7)", "found shape (1, 3, 7)")):
        lstm(X[0], (H, H))


BAD_CALLS = {
    "lengths, too few": ({"lengths": [1, 2]}, ("lengths: expected shape (3,)", "found shape (2,)")),
    "lengths, rank": ({"lengths": [[1], [2], [3]]}, ("lengths: expected shape (3,)", "found shape (3, 1)")),
    "lengths, negative": ({"lengths": [1, -1, 2]}, ("lengths: expected", "from 0 to 4", "-1", "row 1")),
    "lengths, too long": ({"lengths": [1, 2, 5]}, ("lengths: expected", "from 0 to 4", "5", "row 2")),
    "lengths, huge": ({"lengths": np.array([1, 2, 2**64 - 1], np.uint64)}, ("lengths: expected", str(2**64 - 1))),
    "lengths, floats": ({"lengths": [1.0, 2.0, 3.0]}, ("lengths: expected integers", "float64")),
    "lengths, text": ({"lengths": ["1", "2", "3"]}, ("lengths: expected", "<U1")),
    "lengths, scalar": ({"lengths": 3}, ("lengths: expected shape (3,)", "found shape ()")),
    "mask, swapped": ({"mask": np.ones((4, 3), bool)}, ("mask: expected shape (3, 4)", "found shape (4, 3)")),
    "mask, rank": ({"mask": np.ones((3, 4, 1), bool)}, ("mask: expected shape (3, 4)", "found shape (3, 4, 1)")),
    "mask, floats": ({"mask": np.ones((3, 4))}, ("mask: expected a bool mask", "float64")),
    "mask, lengths": ({"mask": np.full((3, 4), 2)}, ("mask: expected a bool mask", "2")),
    "mask, objects": ({"mask": np.ones((3, 4), object)}, ("mask: expected", "object")),
    "both": ({"mask": np.ones((3, 4), bool), "lengths": [1, 2, 3]}, ("mask, lengths: expected one", "both")),
    "out, shape": ({"out": np.zeros((3, 4, 6), np.float32)}, ("out: expected", "(3, 4, 7)", "(3, 4, 6)")),
    "out, dtype": ({"out": np.zeros((3, 4, 7))}, ("out: expected", "float32", "float64")),
    "out, read-only": ({"out": np.broadcast_to(np.float32(0), (3, 4, 7))}, ("out: expected a writeable",)),
    "out, list": ({"out": [0.0]}, ("out: expected", "list")),
}


@pytest.mark.parametrize(("keywords", "words"), BAD_CALLS.values(), ids=BAD_CALLS)
def test_bad_call(lstm: le.LSTM, keywords: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(le.ShapeError, match=says(*words)):
        lstm(X, **keywords)


def test_out_of_a_pair_of_outputs() -> None:
    weights = make_weights(Options(FEATURES, HIDDEN, direction="bidirectional"), seed=1)
    lstm = le.LSTM(weights, merge_mode="sum")
    with pytest.raises(le.ShapeError, match=says("out: expected None", "merge_mode 'sum'")):
        lstm(X, out=np.zeros((BATCH, TIME, HIDDEN), np.float32))


def test_accepted_dtypes(lstm: le.LSTM) -> None:
    whole = np.random.default_rng(2).integers(-3, 4, X.shape)
    wanted, _ = lstm(whole.astype(np.float32))
    for dtype in ("i1", "i2", "i4", "i8", "f2", "f4", "f8", ">f4", "<f8", ">i4", np.longdouble):
        np.testing.assert_array_equal(lstm(whole.astype(dtype))[0], wanted, err_msg=str(dtype))
    bits = whole > 0
    np.testing.assert_array_equal(lstm(bits)[0], lstm(bits.astype(np.float32))[0])
    np.testing.assert_array_equal(lstm(bits.astype("u8"))[0], lstm(bits.astype(np.float32))[0])
    # Integers are taken for lengths and masks whatever their width; so is an empty list for no rows.
    np.testing.assert_array_equal(lstm(X, lengths=np.array([1, 2, 3], "i1"))[0], lstm(X, lengths=[1, 2, 3])[0])
    mask = np.random.default_rng(3).random((BATCH, TIME)) < 0.5
    np.testing.assert_array_equal(lstm(X, mask=mask.astype("u1"))[0], lstm(X, mask=mask)[0])
    assert lstm(X[:0], lengths=[])[0].shape == (0, TIME, HIDDEN)


def test_a_refused_call_changes_nothing(lstm: le.LSTM) -> None:
    out = np.full((BATCH, TIME, HIDDEN), 7, np.float32)
    wanted, _ = lstm(X)
    with pytest.raises(le.ShapeError):
        lstm(X, lengths=[1, 2, 9], out=out)
    assert (out == 7).all()
    np.testing.assert_array_equal(lstm(X)[0], wanted)


# --------------------------------------------------------------------------------------------- options

WEIGHTS = make_weights(Options(FEATURES, HIDDEN), seed=1)

BAD_OPTIONS = {
    "backend": ({"backend": "cuda"}, le.UnsupportedModelError, ("backend: expected", "'cuda'")),
    "compute_type": ({"compute_type": "float8"}, le.UnsupportedModelError, ("compute_type: expected", "'float8'")),
    "fused float64": (
        {"backend": "fused", "compute_type": "float64"}, le.UnsupportedModelError, ("backend", "fused", "'float64'"),
    ),
    "no threads": ({"num_threads": 0}, le.UnsupportedModelError, ("num_threads: expected", "0")),
    "threads, text": ({"num_threads": "2"}, le.UnsupportedModelError, ("num_threads: expected", "'2'")),
    "threads, bool": ({"num_threads": True}, le.UnsupportedModelError, ("num_threads: expected", "True")),
    "isa": ({"isa": "avx9"}, le.LstmEngineError, ("isa: instruction set 'avx9' is not known", "scalar")),
    "isa, other case": ({"isa": "AVX2"}, le.LstmEngineError, ("isa: instruction set 'AVX2' is not known",)),
    "merge mode": ({"merge_mode": "max"}, le.UnsupportedModelError, ("merge_mode: expected", "'max'")),
}  # fmt: skip


@pytest.mark.parametrize(("keywords", "error", "words"), BAD_OPTIONS.values(), ids=BAD_OPTIONS)
def test_bad_option(keywords: dict[str, Any], error: type[Exception], words: tuple[str, ...]) -> None:
    with pytest.raises(error, match=says(*words)):
        le.LSTM(WEIGHTS, **keywords)


def test_weights_of_another_kind() -> None:
    with pytest.raises(le.ShapeError, match=says("weights: expected LSTMWeights", "dict")):
        le.LSTM({"kernel": X})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["avx9", "neon" if sys.platform != "darwin" else "avx512"])
def test_environment_names_an_instruction_set_that_is_not_here(name: str) -> None:
    program = "import numpy as np, lstm_engine as le; le.LSTM.from_weights(np.ones((1, 4)), np.ones((1, 4)))"
    environment = {**os.environ, "LSTM_ENGINE_ISA": name}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    if os.uname().machine == "aarch64" and name == "neon":
        assert done.returncode == 0
        return
    assert done.returncode == 1
    message = done.stderr.splitlines()[-1]
    assert message.startswith("lstm_engine.errors.LstmEngineError: LSTM_ENGINE_ISA: instruction set"), message
    assert repr(name) in message


# --------------------------------------------------------------------------------------------- weights

KERNEL, RECURRENT = np.ones((FEATURES, 4 * HIDDEN), np.float32), np.ones((HIDDEN, 4 * HIDDEN), np.float32)

BAD_CELLS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "kernel, rank": ({"kernel": KERNEL[0]}, ("kernel: expected", "(28,)")),
    "kernel, not four gates": ({"kernel": KERNEL[:, :27]}, ("kernel: expected", "(5, 27)")),
    "kernel, no units": ({"kernel": KERNEL[:, :0]}, ("kernel: expected", "(5, 0)")),
    "kernel, complex": ({"kernel": KERNEL.astype(complex)}, ("kernel: expected", "complex128")),
    "kernel, text": ({"kernel": KERNEL.astype(str)}, ("kernel: expected", "dtype <U")),
    "recurrent kernel, rows": ({"recurrent_kernel": RECURRENT[:6]}, ("recurrent_kernel: expected", "(6, 28)")),
    "recurrent kernel, columns": ({"recurrent_kernel": RECURRENT[:, :24]}, ("recurrent_kernel: expected", "(7, 24)")),
    "bias, gates": ({"bias": np.ones(7)}, ("bias: expected shape (28)", "(7,)")),
    "bias, rank": ({"bias": np.ones((2, 28))}, ("bias: expected shape (28)", "(2, 28)")),
    "projection, rows": ({"projection": np.ones((6, 2))}, ("projection: expected", "(6, 2)")),
    "projection, no outputs": ({"projection": np.ones((7, 0))}, ("projection: expected at least one", "0")),
    "projection, recurrent kernel": ({"projection": np.ones((7, 2))}, ("recurrent_kernel: expected shape (2, 28)",)),
    "peepholes, gates": ({"peepholes": np.ones((4, 7))}, ("peepholes: expected shape (3, 7)", "(4, 7)")),
    "gate clip": ({"gate_clip": 0.0}, ("gate_clip: expected a positive number", "0.0")),
    "cell clip": ({"cell_clip": -1.0}, ("cell_clip: expected a positive number", "-1.0")),
    "clip, NaN": ({"cell_clip": float("nan")}, ("cell_clip: expected a positive number", "nan")),
}


@pytest.mark.parametrize(("changes", "words"), BAD_CELLS.values(), ids=BAD_CELLS)
def test_bad_cell(changes: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(le.ShapeError, match=says(*words)):
        CellWeights(**{"kernel": KERNEL, "recurrent_kernel": RECURRENT, **changes})


def test_bad_stacks() -> None:
    cell = CellWeights(KERNEL, RECURRENT)
    second = CellWeights(RECURRENT, RECURRENT)
    with pytest.raises(le.ShapeError, match=says("cells: expected at least one layer")):
        LSTMWeights(())
    with pytest.raises(le.ShapeError, match=says("direction: expected", "'sideways'")):
        LSTMWeights(((cell,),), "sideways")  # type: ignore[arg-type]
    with pytest.raises(le.ShapeError, match=says("cells[0]: expected 2 cell(s)", "found 1")):
        LSTMWeights(((cell,),), "bidirectional")
    with pytest.raises(le.ShapeError, match=says("cells[1][0].kernel: expected 7 input features, found 5")):
        LSTMWeights(((cell,), (cell,)))
    with pytest.raises(le.ShapeError, match=says("cells[1][0].kernel: expected 14 input features, found 7")):
        LSTMWeights(((cell, cell), (second, second)), "bidirectional")
    smaller = CellWeights(RECURRENT[:, :24], RECURRENT[:6, :24])
    with pytest.raises(le.ShapeError, match=says("cells[1][0]: expected hidden size 7", "found 6")):
        LSTMWeights(((cell,), (smaller,)))


def test_weights_do_not_move_with_the_caller_s_arrays() -> None:
    kernel = KERNEL.copy()
    cell = CellWeights(kernel, RECURRENT)
    kernel[:] = 7
    assert (cell.kernel == 1).all()
    with pytest.raises(ValueError, match="read-only"):
        cell.kernel[0, 0] = 2


def test_bad_from_weights() -> None:
    with pytest.raises(le.ShapeError, match=says("recurrent: expected 2 arrays", "found 1")):
        le.LSTM.from_weights([KERNEL, KERNEL], [RECURRENT])
    with pytest.raises(le.ShapeError, match=says("kernel: expected a multiple of 2 arrays", "found 1")):
        le.LSTM.from_weights(KERNEL, RECURRENT, direction="bidirectional")
    with pytest.raises(ValueError, match=says("'swoosh' is not known")):
        le.LSTM.from_weights(KERNEL, RECURRENT, activation="swoosh")
    with pytest.raises(le.ShapeError, match=says("bias: expected")):
        le.LSTM.from_weights(KERNEL, RECURRENT, np.ones(3))
    with pytest.raises(ValueError, match="is not known"):
        Activation("")


# --------------------------------------------------------------------------------------------- streams


@pytest.mark.parametrize("direction", ["reverse", "bidirectional"])
def test_stream_of_a_direction_that_needs_the_future(direction: str) -> None:
    lstm = le.LSTM(make_weights(Options(FEATURES, HIDDEN, direction=direction), seed=1))
    with pytest.raises(le.UnsupportedModelError, match=says("stream: expected a forward LSTM", repr(direction))):
        lstm.stream()


@pytest.mark.parametrize("batch", [0, -1, 2.0, "2", True, [2]])
def test_bad_batch_of_a_stream(lstm: le.LSTM, batch: Any) -> None:
    with pytest.raises(le.ShapeError, match=says("batch: expected a positive integer or None", repr(batch))):
        lstm.stream(batch=batch)


BAD_STEPS = {
    "features": (None, X[0, 0, :4], ("x: expected", "5", "(4,)")),
    "rank": (None, X[:1, 0], ("x: expected", "(5,)", "(1, 5)")),
    "objects": (None, X[0, 0].astype(object), ("x: expected", "object")),
    "None": (None, None, ("x: expected", "object")),
    "rows": (3, X[:2, 0], ("x: expected", "(3, 5)", "(2, 5)")),
    "no rows": (3, X[0, 0], ("x: expected", "(3, 5)", "(5,)")),
    "features of rows": (3, X[:, 0, :4], ("x: expected", "(3, 5)", "(3, 4)")),
    "huge integers": (3, np.full((3, 5), 2**25 + 1), ("x: expected integers", str(2**25 + 1))),
}


@pytest.mark.parametrize(("batch", "x", "words"), BAD_STEPS.values(), ids=BAD_STEPS)
def test_bad_step_leaves_the_state(lstm: le.LSTM, batch: int | None, x: Any, words: tuple[str, ...]) -> None:
    stream, twin = lstm.stream(batch=batch), lstm.stream(batch=batch)
    first, second = (X[0, 0], X[0, 1]) if batch is None else (X[:, 0], X[:, 1])
    stream.step(first)
    twin.step(first)
    with pytest.raises(le.ShapeError, match=says(*words)):
        stream.step(x)
    np.testing.assert_array_equal(stream.step(second), twin.step(second))


@pytest.mark.parametrize(
    ("batch", "x", "words"),
    [
        (None, X[0, 0], ("x: expected", "(5,)")),
        (None, X, ("x: expected", "(3, 4, 5)")),
        (None, X[0, :, :4], ("x: expected", "(4, 4)")),
        (3, X[:2], ("x: expected", "(2, 4, 5)")),
        (3, X[..., :4], ("x: expected", "(3, 4, 4)")),
        (3, X[:, 0], ("x: expected", "(3, 5)")),
    ],
)
def test_bad_chunk(lstm: le.LSTM, batch: int | None, x: Any, words: tuple[str, ...]) -> None:
    stream = lstm.stream(batch=batch)
    with pytest.raises(le.ShapeError, match=says(*words)):
        stream.run(x)
    assert not stream.state[0].any()


@pytest.mark.parametrize(
    "out",
    [
        np.zeros(6, np.float32), np.zeros((1, 7), np.float32), np.zeros(7), np.zeros(14, np.float32)[::2],
        np.broadcast_to(np.float32(0), 7), [0.0] * 7, np.zeros(7, ">f4"),
    ],
    ids=["size", "rank", "dtype", "gaps", "read-only", "list", "byte order"],
)  # fmt: skip
def test_bad_out_of_a_step(lstm: le.LSTM, out: Any) -> None:
    stream = lstm.stream()
    with pytest.raises(le.ShapeError, match=says("out: expected", "float32", "(7,)", "found")):
        stream.step(X[0, 0], out=out)
    assert not stream.state[0].any()


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (H, ("state: expected 2 arrays, (h, c)", "ndarray")),
        ((H,), ("state: expected 2 arrays, (h, c)", "tuple")),
        ((H[:, :2], H), ("state h: expected", "(1, 2, 7)")),
        ((H, H[..., :6]), ("state c: expected", "(1, 3, 6)")),
        ((H[0], H[0]), ("state h: expected", "(3, 7)")),
        ((H, H.astype(object)), ("state c: expected", "object")),
    ],
)
def test_bad_state_of_a_stream(lstm: le.LSTM, state: Any, words: tuple[str, ...]) -> None:
    stream = lstm.stream(batch=BATCH)
    stream.step(X[:, 0])
    before = stream.state
    with pytest.raises(le.ShapeError, match=says(*words)):
        stream.state = state
    for found, wanted in zip(stream.state, before, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_state_of_a_stream_is_a_copy(lstm: le.LSTM) -> None:
    stream, twin = lstm.stream(), lstm.stream()
    for array in stream.state:
        array[:] = 7
    np.testing.assert_array_equal(stream.step(X[0, 0]), twin.step(X[0, 0]))
    h, c = (array.copy() for array in stream.state)
    stream.state = (h, c)
    h[:], c[:] = 7, 7
    np.testing.assert_array_equal(stream.step(X[0, 1]), twin.step(X[0, 1]))


def test_stream_used_by_two_threads_at_once() -> None:
    # Large enough that a chunk releases the GIL and is still running when the other threads come.
    lstm = le.LSTM(make_weights(Options(64, 256), seed=1))
    stream = lstm.stream()
    chunk = np.zeros((3000, 64), np.float32)
    errors: list[BaseException] = []
    started = threading.Barrier(3)

    def run() -> None:
        started.wait()
        try:
            stream.run(chunk)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors, "two threads were in one stream and neither was told"
    for error in errors:
        assert isinstance(error, le.StateError)
        assert "another thread is in this stream" in str(error)
    stream.reset()  # and it can be used afterwards
    stream.step(chunk[0])


def test_errors_are_of_the_kinds_that_callers_expect() -> None:
    assert issubclass(le.ShapeError, ValueError)
    assert issubclass(le.ShapeError, le.LstmEngineError)
    assert issubclass(le.StateError, RuntimeError)
    with pytest.raises(ValueError, match="x: expected") as caught:
        le.LSTM(WEIGHTS)(X[..., :2])
    assert pickle.loads(pickle.dumps(caught.value)).args == caught.value.args
