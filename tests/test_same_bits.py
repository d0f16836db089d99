"""The promise of the fused backend: one result for one row, bit for bit, however it is computed.

Whatever the batch and the row's place in it, the cutting in time, stream or whole sequence, the layout of the
input, the instruction set, and whatever else runs at the same time.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    Case,
    Engine,
    Options,
    assert_same_bits,
    cases,
    every_combination,
    examples,
    fused_engines,
    make_weights,
)

import lstm_engine as le

ENGINES = fused_engines()
every_engine = pytest.mark.parametrize("engine", ENGINES, ids=str)

Result = tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]


def assert_same_results(found: Result, wanted: Result, what: str = "") -> None:
    """Compare y, h and c."""
    assert_same_bits(found[0], wanted[0], f"{what}: y")
    assert_same_bits(found[1][0], wanted[1][0], f"{what}: h")
    assert_same_bits(found[1][1], wanted[1][1], f"{what}: c")


def rows_of(case: Case, rows: Any) -> dict[str, Any]:
    """Return the arguments of a call with some rows of a case alone."""
    chosen = case.keywords
    if case.state is not None:
        chosen["state"] = tuple(array[:, rows] for array in case.state)
    for name in ("lengths", "mask"):
        if chosen[name] is not None:
            chosen[name] = chosen[name][rows]
    return {"x": case.x[rows], **chosen}


# ------------------------------------------------------------------------------------------- rows


@every_engine
@examples(40)
@given(case=cases(least_batch=1))
def test_batch_equals_its_rows_one_by_one(engine: Engine, case: Case) -> None:
    assert_rows_alone_agree(engine, case)


@every_engine
def test_every_combination_row_by_row(engine: Engine) -> None:
    for case in every_combination():
        assert_rows_alone_agree(engine, case)


def assert_rows_alone_agree(engine: Engine, case: Case) -> None:
    lstm = engine.build(case.weights)
    y, (h, c) = lstm(case.x, **case.keywords)
    for row in range(case.batch):
        single = lstm(**rows_of(case, slice(row, row + 1)))
        wanted = (y[row : row + 1], (h[:, row : row + 1], c[:, row : row + 1]))
        assert_same_results(single, wanted, f"row {row} of {case.batch}")


@every_engine
@examples(25)
@given(case=cases(least_batch=2), seed=st.integers(0, 1000))
def test_permuted_rows(engine: Engine, case: Case, seed: int) -> None:
    lstm = engine.build(case.weights)
    order = np.random.default_rng(seed).permutation(case.batch)
    y, (h, c) = lstm(case.x, **case.keywords)
    assert_same_results(lstm(**rows_of(case, order)), (y[order], (h[:, order], c[:, order])), "permuted")


@every_engine
@examples(25)
@given(case=cases(), more=st.integers(1, 40), seed=st.integers(0, 1000))
def test_neighbours_do_not_matter(engine: Engine, case: Case, more: int, seed: int) -> None:
    lstm = engine.build(case.weights)
    wanted = lstm(case.x, **case.keywords)
    # Neighbours of every kind: ordinary, huge, infinite, NaN, denormal.
    random = np.random.default_rng(seed)
    others = random.standard_normal((more, *case.x.shape[1:])).astype(np.float32)
    others *= np.array([1.0, 1e30, np.inf, np.nan, 1e-40], np.float32)[random.integers(0, 5, more)][:, None, None]
    keywords = case.keywords
    if case.state is not None:
        keywords["state"] = tuple(
            np.concatenate([array, np.full((array.shape[0], more, array.shape[2]), np.nan, np.float32)], axis=1)
            for array in case.state
        )
    if case.lengths is not None:
        keywords["lengths"] = np.concatenate([case.lengths, random.integers(0, case.time + 1, more)])
    if case.mask is not None:
        keywords["mask"] = np.concatenate([case.mask, random.random((more, case.time)) < 0.5])
    y, (h, c) = lstm(np.concatenate([case.x, others]), **keywords)
    rows = case.batch
    assert_same_results((y[:rows], (h[:, :rows], c[:, :rows])), wanted, f"{more} more rows")


@every_engine
@pytest.mark.parametrize("hidden", [1, 16, 61])
def test_every_batch_size(engine: Engine, hidden: int) -> None:
    case = Case(Options(23, hidden, layers=2), seed=hidden, batch=70, time=3, with_state=True)
    lstm = engine.build(case.weights)
    y, (h, c) = lstm(case.x, case.state)
    for batch in range(1, 70):
        found = lstm(**rows_of(case, slice(0, batch)))
        assert_same_results(found, (y[:batch], (h[:, :batch], c[:, :batch])), f"batch {batch}")


# ------------------------------------------------------------------------------------------- time


@every_engine
@examples(30)
@given(case=cases(directions=["forward"], ragged=False), data=st.data())
def test_chunks_of_calls(engine: Engine, case: Case, data: st.DataObject) -> None:
    lstm = engine.build(case.weights)
    wanted = lstm(case.x, case.state)
    cuts = sorted(data.draw(st.lists(st.integers(0, case.time), max_size=4), label="cuts"))
    state, parts = case.state, []
    for start, end in zip([0, *cuts], [*cuts, case.time], strict=True):
        y, state = lstm(case.x[:, start:end], state)
        parts.append(y)
    assert_same_results((np.concatenate(parts, axis=1), state), wanted, f"cut at {cuts}")


@every_engine
@examples(30)
@given(case=cases(directions=["forward"], least_batch=1, ragged=False), data=st.data())
def test_streams(engine: Engine, case: Case, data: st.DataObject) -> None:
    lstm = engine.build(case.weights)
    wanted = lstm(case.x, case.state)
    single = case.batch == 1 and data.draw(st.booleans(), label="unbatched")
    stream = lstm.stream() if single else lstm.stream(batch=case.batch)
    x = case.x[0] if single else case.x
    y, h, c = (wanted[0][0], *(array[:, 0] for array in wanted[1])) if single else (wanted[0], *wanted[1])
    state = case.state
    if state is not None and single:
        state = (state[0][:, 0], state[1][:, 0])
    for attempt in ("fresh", "after a reset"):
        if state is not None:
            stream.state = state
        parts, time = [], 0
        while time < case.time:
            # 0: one step into an array of the stream's; -1: one step into ours; else a chunk.
            chunk = data.draw(st.integers(-1, case.time - time), label="chunk")
            x_t, rows = x[..., time, :], y[..., time, :]
            if chunk == -1:
                out = np.full(rows.shape, 7, np.float32)
                assert stream.step(x_t, out=out) is out
                parts.append(out[..., None, :])
            elif chunk == 0:
                parts.append(stream.step(x_t)[..., None, :])
            else:
                parts.append(stream.run(x[..., time : time + chunk, :]))
            time += max(chunk, 1)
        found = np.concatenate(parts, axis=-2) if parts else y
        assert_same_results((found, stream.state), (y, (h, c)), f"stream {attempt}")
        stream.reset()
        assert not any(array.any() for array in stream.state)


@every_engine
@examples(30)
@given(case=cases(least_batch=1, ragged=False), seed=st.integers(0, 1000))
def test_lengths_equal_truncated_rows(engine: Engine, case: Case, seed: int) -> None:
    lstm = engine.build(case.weights)
    lengths = np.random.default_rng(seed).integers(0, case.time + 1, case.batch)
    y, (h, c) = lstm(case.x, case.state, lengths=lengths)
    for row, length in enumerate(lengths):
        arguments = rows_of(case, slice(row, row + 1))
        arguments["x"] = arguments["x"][:, :length]
        found = lstm(**arguments)
        wanted = (y[row : row + 1, :length], (h[:, row : row + 1], c[:, row : row + 1]))
        assert_same_results(found, wanted, f"row {row} of length {length}")
        assert not y[row, length:].any()


@every_engine
@examples(30)
@given(case=cases(least_batch=1, ragged=False))
def test_masked_rows_equal_their_real_steps(engine: Engine, case: Case) -> None:
    case = replace(case, with_mask=True)
    assert case.mask is not None
    lstm = engine.build(case.weights)
    y, (h, c) = lstm(**rows_of(case, slice(None)))
    zeroed, _ = engine.build(case.weights, zero_masked=True)(**rows_of(case, slice(None)))
    assert_same_bits(zeroed[case.mask], y[case.mask], "real steps with zero_masked")
    assert not zeroed[~case.mask].any()
    for row in range(case.batch):
        arguments = rows_of(case, slice(row, row + 1))
        real = arguments.pop("mask")[0]
        arguments["x"] = arguments["x"][:, real]
        found = lstm(**arguments)
        wanted = (y[row : row + 1, real], (h[:, row : row + 1], c[:, row : row + 1]))
        assert_same_results(found, wanted, f"row {row} of mask {real}")


@every_engine
@examples(30)
@given(case=cases(directions=["bidirectional"]))
def test_directions_equal_lstms_of_their_own(engine: Engine, case: Case) -> None:
    if case.options.layers > 1:
        case = replace(case, options=replace(case.options, layers=1))
    y, (h, c) = engine.build(case.weights)(case.x, **case.keywords)
    for place, direction in enumerate(("forward", "reverse")):
        weights = type(case.weights)(((case.weights.cells[0][place],),), direction)
        keywords = case.keywords
        if case.state is not None:
            keywords["state"] = tuple(array[place : place + 1] for array in case.state)
        found = engine.build(weights)(case.x, **keywords)
        size = weights.output_size
        half = np.ascontiguousarray(y[..., place * size : (place + 1) * size])
        assert_same_results(found, (half, (h[place : place + 1], c[place : place + 1])), direction)
    # Backward over a sequence is forward over the reversed one.
    if not (case.with_lengths or case.with_mask):
        forward = type(case.weights)(((case.weights.cells[0][1],),), "forward")
        state = None if case.state is None else tuple(array[1:] for array in case.state)
        found = engine.build(forward)(case.x[:, ::-1], state)
        half = np.ascontiguousarray(y[:, ::-1, size:])
        assert_same_results(found, (half, (h[1:], c[1:])), "reversed input")


@every_engine
def test_long_sequences_in_chunks(engine: Engine) -> None:
    case = Case(Options(20, 48, layers=3, output_size=17), seed=5, batch=9, time=700)
    lstm = engine.build(case.weights)
    y, state = lstm(case.x)
    stream = lstm.stream(batch=9)
    found = np.concatenate([stream.run(part) for part in np.array_split(case.x, [1, 8, 300, 301, 555], axis=1)], axis=1)
    assert_same_results((found, stream.state), (y, state), "chunks")
    single, _ = lstm(case.x[4:5])
    assert_same_bits(single, y[4:5], "one row")


# ---------------------------------------------------------------------------------- instruction sets


@examples(150)
@given(case=cases())
def test_instruction_sets_agree(case: Case) -> None:
    assert_instruction_sets_agree(case)


def test_instruction_sets_agree_on_every_combination() -> None:
    for case in every_combination():
        assert_instruction_sets_agree(case)


def assert_instruction_sets_agree(case: Case) -> None:
    first, *others = ENGINES
    wanted = first.build(case.weights)(case.x, **case.keywords)
    for engine in others:
        assert_same_results(engine.build(case.weights)(case.x, **case.keywords), wanted, f"{engine} against {first}")


@examples(60)
@given(case=cases(directions=["forward"], least_batch=1, ragged=False))
def test_streams_of_the_instruction_sets_agree(case: Case) -> None:
    results = []
    for engine in ENGINES:
        stream = engine.build(case.weights).stream(batch=case.batch)
        outputs = [stream.step(case.x[:, time]) for time in range(case.time)]
        results.append((np.array(outputs, np.float32), stream.state))
    for engine, result in zip(ENGINES[1:], results[1:], strict=True):
        assert_same_results(result, results[0], f"{engine} against {ENGINES[0]}")


@pytest.mark.parametrize("hidden", [64, 128, 257])
def test_instruction_sets_agree_on_large_shapes(hidden: int) -> None:
    for options in (Options(90, hidden, layers=2, direction="bidirectional"), Options(90, hidden, output_size=33)):
        assert_instruction_sets_agree(Case(options, seed=hidden, batch=19, time=12, with_state=True))


PRINT_HASH = """
import hashlib, sys
import numpy as np
import lstm_engine as le
random = np.random.default_rng(3)
arrays = [random.uniform(-0.3, 0.3, shape).astype(np.float32) for shape in ((9, 84), (21, 84), (84,))]
y, (h, c) = le.LSTM.from_weights(*arrays)(random.standard_normal((7, 11, 9)).astype(np.float32))
print(le.LSTM.from_weights(*arrays).isa, hashlib.sha256(y.tobytes() + h.tobytes() + c.tobytes()).hexdigest())
"""


def test_instruction_set_of_the_environment_in_a_process_of_its_own() -> None:
    hashes = set()
    for engine in ENGINES:
        program = PRINT_HASH.replace("from_weights(*arrays)", "from_weights(*arrays, backend='fused')")
        environment = {**os.environ, "LSTM_ENGINE_ISA": engine.isa}
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True
        )
        isa, digest = done.stdout.split()
        assert isa == engine.isa
        hashes.add(digest)
    assert len(hashes) == 1


# -------------------------------------------------------------------------------- how the call is made


@every_engine
@examples(20)
@given(case=cases(limit=20))
def test_layout_of_the_input_does_not_matter(engine: Engine, case: Case) -> None:
    lstm = engine.build(case.weights)
    x, keywords = case.x, case.keywords
    wanted = lstm(x, **keywords)
    read_only = x.copy()
    read_only.setflags(write=False)
    spaced = np.full((case.batch, case.time, 2 * x.shape[2] + 1), np.nan, np.float32)
    spaced[..., ::2][..., : x.shape[2]] = x
    unaligned = np.frombuffer(b"x" + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(x.shape)
    layouts = {
        "read-only": read_only,
        "spaced": spaced[..., ::2][..., : x.shape[2]],
        "Fortran order": np.asfortranarray(x),
        "backward": x[::-1, ::-1, ::-1].copy()[::-1, ::-1, ::-1],
        "unaligned": unaligned,
        "other byte order": x.astype(x.dtype.newbyteorder()),
        "float64": x.astype(np.float64),
        "nested lists": x.tolist() if x.size else x,
    }
    for name, given_x in layouts.items():
        assert_same_results(lstm(given_x, **keywords), wanted, name)
    if case.state is not None:
        state = tuple(np.asfortranarray(array.astype(np.float64)) for array in case.state)
        assert_same_results(lstm(x, **{**keywords, "state": state}), wanted, "state")
    y, state = lstm(x.swapaxes(0, 1), **keywords, time_major=True)
    assert_same_results((np.ascontiguousarray(y.swapaxes(0, 1)), state), wanted, "time major")
    out = np.full(wanted[0].shape, 7, np.float32)
    y, state = lstm(x, **keywords, out=out)
    assert y is out
    assert_same_results((out, state), wanted, "out")


@every_engine
@pytest.mark.parametrize("start", [0.0, -0.0, np.nan, np.inf, 1.0])
@examples(20)
@given(case=cases(least_batch=1))
def test_no_state_is_the_zero_state(engine: Engine, start: float, case: Case) -> None:
    """Whatever arrives at the first step."""
    lstm = engine.build(case.weights)
    x = case.x.copy()
    x[:, :1] = start
    x[:1, :1] *= case.x[:1, :1]
    rows = lstm.num_layers * lstm.num_directions
    zeros = (
        np.zeros((rows, len(x), lstm.output_size), np.float32),
        np.zeros((rows, len(x), lstm.hidden_size), np.float32),
    )
    keywords = {**case.keywords, "state": None}
    assert_same_results(lstm(x, **keywords), lstm(x, **{**keywords, "state": zeros}))


@every_engine
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_recurrent_weight_that_is_not_finite_is_seen_from_the_first_step(engine: Engine, value: float) -> None:
    case = Case(Options(3, 5), seed=5, batch=2, time=3)
    cell = case.weights.cells[0][0]
    recurrent = cell.recurrent_kernel.copy()
    recurrent[2, 7] = value
    weights = replace(case.weights, cells=((replace(cell, recurrent_kernel=recurrent),),))
    y, _ = engine.build(weights)(case.x)
    assert np.isnan(y[:, 0, 2]).all()
    assert np.isfinite(y[:, 0, [0, 1, 3, 4]]).all()


@every_engine
def test_out_that_overlaps_the_input(engine: Engine) -> None:
    case = Case(Options(7, 7), seed=21, batch=3, time=5)
    lstm = engine.build(case.weights)
    wanted, _ = lstm(case.x)
    x = case.x.copy()
    lstm(x, out=x)
    assert_same_bits(x, wanted, "out is x")
    spaced = np.zeros((3, 5, 14), np.float32)
    y, _ = lstm(case.x, out=spaced[..., ::2])
    assert_same_bits(np.ascontiguousarray(spaced[..., ::2]), wanted, "out with gaps")
    assert np.shares_memory(y, spaced)
    assert not spaced[..., 1::2].any()


@every_engine
def test_calls_leave_no_trace(engine: Engine) -> None:
    case = Case(Options(30, 45, layers=2, direction="bidirectional"), seed=22, batch=11, time=9, with_state=True)
    lstm = engine.build(case.weights)
    wanted = lstm(case.x, case.state)
    assert case.state is not None
    before = [case.x, *case.state]
    given_arrays = [array.copy() for array in before]
    lstm(given_arrays[0], (given_arrays[1], given_arrays[2]))
    for found, array in zip(given_arrays, before, strict=True):
        assert_same_bits(found, array, "an argument")
    # Larger, smaller and spoiled calls between, which reuse the workspace.
    lstm(np.full((40, 33, 30), np.nan, np.float32))
    lstm(case.x[:2, :3])
    assert_same_results(lstm(case.x, case.state), wanted, "again")
    assert_same_results(pickle.loads(pickle.dumps(lstm))(case.x, case.state), wanted, "pickled")


@every_engine
def test_threads_share_an_lstm(engine: Engine) -> None:
    weights = make_weights(Options(12, 32, layers=2, direction="bidirectional"), seed=23)
    lstm = engine.build(weights)
    random = np.random.default_rng(24)
    inputs = [random.standard_normal((size, 10 + size, 12)).astype(np.float32) for size in (1, 2, 5, 9, 17, 33)] * 4
    wanted = [lstm(x) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lstm, inputs))
    for one, other in zip(found, wanted, strict=True):
        assert_same_results(one, other, "in a thread")


def test_backend_is_chosen_by_the_machine_alone() -> None:
    # auto is decided once: on one machine small and large models run on one backend, so bits do not depend on size.
    backends = {le.LSTM(make_weights(Options(3, hidden), seed=1)).backend for hidden in (1, 7, 300)}
    assert len(backends) == 1
