"""The narrow compute types, bfloat16 and int8: their errors against the oracle, and the bits that they promise."""

from __future__ import annotations

import ctypes
import pickle
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    Case,
    Options,
    assert_same_bits,
    cases,
    every_combination,
    examples,
    instruction_sets,
    make_weights,
    relative_error,
)

import lstm_engine as le
from lstm_engine import _core, demo, reference
from lstm_engine.options import NARROW_TYPES
from lstm_engine.weights import LSTMWeights

#: Largest relative L2 errors of h over 100 steps, on weights of the usual size.
BOUNDS = {"bfloat16": 5e-3, "int8": 1e-2, "int8_recurrent": 4e-3}
DATA = Path(le.__file__).parent / "data"

Result = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Kernels:
    """One set of narrow kernels."""

    compute_type: str
    isa: str
    without: int  # the best extensions of the instruction set that are left out

    def __str__(self) -> str:
        return (
            f"{self.compute_type}-{self.isa}-{_core.Kernels.select(self.isa).name_for(self.compute_type, self.without)}"
        )

    def build(self, weights: LSTMWeights) -> le.LSTM:
        """Return an LSTM that runs on these."""
        lstm = le.LSTM(weights, compute_type=self.compute_type, isa=self.isa)  # type: ignore[arg-type]
        if self.without:
            lstm._core = _core.CoreLSTM(weights, compute_type=self.compute_type, isa=self.isa, without=self.without)
        return lstm


def kernels() -> Iterator[Kernels]:
    for compute_type in NARROW_TYPES:
        for isa in instruction_sets():
            table = _core.Kernels.select(isa)
            for without in range(10):
                yield Kernels(compute_type, isa, without)
                if table.name_for(compute_type, without) == isa:
                    break


KERNELS = list(kernels())
every_kernel = pytest.mark.parametrize("kernel", KERNELS, ids=str)


def results(lstm: le.LSTM, case: Case) -> Result:
    y, (h, c) = lstm(case.x, **case.keywords)
    return y, h, c


def assert_same_results(found: Result, wanted: Result, what: str) -> None:
    for name, one, other in zip(("y", "h", "c"), found, wanted, strict=True):
        assert_same_bits(one, other, f"{what}: {name}")


# ---------------------------------------------------------------------------------------------- errors


@every_kernel
@pytest.mark.parametrize("shape", [(1, 16), (30, 61)], ids=str)
def test_error_against_the_oracle(kernel: Kernels, shape: tuple[int, int]) -> None:
    inputs, hidden = shape
    case = Case(Options(inputs, hidden), seed=hidden, batch=5, time=100)
    wanted, _ = reference.lstm(case.x.astype(np.float64), case.weights)
    y, _, _ = results(kernel.build(case.weights), case)
    error = float(np.linalg.norm(y - wanted) / np.linalg.norm(wanted))
    assert 1e-6 < error < BOUNDS[kernel.compute_type]


@pytest.mark.parametrize("kernel", [kernel for kernel in KERNELS if kernel.isa == KERNELS[0].isa], ids=str)
def test_every_variant_of_the_cell(kernel: Kernels) -> None:
    for case in every_combination():
        y, h, c = results(kernel.build(case.weights), case)
        state = None if case.state is None else tuple(part.astype(np.float64) for part in case.state)
        wanted, (last_h, last_c) = reference.lstm(
            case.x.astype(np.float64), case.weights, state, lengths=case.lengths, mask=case.mask
        )
        for found, expected in ((y, wanted), (h, last_h), (c, last_c)):
            # States begin anywhere, and sizes are small: twice the bound of long runs.
            assert relative_error(found, expected) < 2 * BOUNDS[kernel.compute_type], case


def test_narrow_weights_take_less_memory() -> None:
    weights = make_weights(Options(256, 256), seed=1)
    full = le.LSTM(weights, backend="fused").memory_bytes()
    sizes = {name: le.LSTM(weights, compute_type=name).memory_bytes() for name in NARROW_TYPES}  # type: ignore[arg-type]
    assert sizes["bfloat16"] < 0.52 * full
    assert sizes["int8"] < 0.28 * full
    assert sizes["int8_recurrent"] < 0.65 * full


# ------------------------------------------------------------------------------------------------ bits


@pytest.mark.parametrize("compute_type", NARROW_TYPES)
@examples(25)
@given(case=cases(least_batch=1))
def test_a_row_is_the_same_alone_and_on_other_kernels(compute_type: str, case: Case) -> None:
    assert_bits(compute_type, case)


@pytest.mark.parametrize("compute_type", NARROW_TYPES)
def test_every_combination_on_every_kernel(compute_type: str) -> None:
    for case in every_combination():
        assert_bits(compute_type, case)


def assert_bits(compute_type: str, case: Case) -> None:
    wanted: Result | None = None
    for kernel in KERNELS:
        if kernel.compute_type != compute_type:
            continue
        lstm = kernel.build(case.weights)
        y, h, c = results(lstm, case)
        # Baselines of bfloat16 share their bits; a CPU that multiplies bfloat16 has its own.
        name = _core.Kernels.select(kernel.isa).name_for(compute_type, kernel.without)
        if compute_type != "bfloat16" or name == kernel.isa:
            wanted = (y, h, c) if wanted is None else wanted
            assert_same_results((y, h, c), wanted, str(kernel))
        row = case.seed % case.batch
        alone = replace(case, with_state=False, with_lengths=False, with_mask=False)
        keywords = case.keywords
        if case.state is not None:
            keywords["state"] = tuple(part[:, row : row + 1] for part in case.state)
        for name in ("lengths", "mask"):
            if keywords[name] is not None:
                keywords[name] = keywords[name][row : row + 1]
        y_row, (h_row, c_row) = lstm(alone.x[row : row + 1], **keywords)
        one = slice(row, row + 1)
        assert_same_results((y_row, h_row, c_row), (y[one], h[:, one], c[:, one]), f"{kernel}: row {row}")


@pytest.mark.parametrize("compute_type", NARROW_TYPES)
@examples(20)
@given(case=cases(directions=["forward"], least_batch=1, least_time=1, ragged=False), data=st.data())
def test_streams_and_chunks(compute_type: str, case: Case, data: st.DataObject) -> None:
    lstm = le.LSTM(case.weights, compute_type=compute_type)  # type: ignore[arg-type]
    y, (h, c) = lstm(case.x, case.state)
    stream = lstm.stream(batch=case.batch)
    if case.state is not None:
        stream.state = case.state
    cut = data.draw(st.integers(0, case.time), label="cut")
    parts = [stream.step(case.x[:, time])[:, None] for time in range(cut)]
    parts.append(stream.run(case.x[:, cut:]))
    assert_same_results((np.concatenate(parts, axis=1), *stream.state), (y, h, c), f"cut at {cut}")


@every_kernel
def test_more_rows_than_are_converted_at_once(kernel: Kernels) -> None:
    case = Case(Options(7, 19), seed=3, batch=301, time=2)
    lstm = kernel.build(case.weights)
    whole = lstm(case.x)[0]
    stream = lstm.stream(batch=301)
    stepped = np.stack([stream.step(case.x[:, time]) for time in range(2)], axis=1)
    assert_same_bits(stepped, whole, "stream")
    for row in (0, 127, 128, 255, 256, 300):
        assert_same_bits(lstm(case.x[row : row + 1])[0], whole[row : row + 1], f"row {row}")


@every_kernel
@pytest.mark.parametrize("shape", [(1, 3), (33, 16), (70, 40)], ids=str)
def test_rows_around_the_heights_of_tiles(kernel: Kernels, shape: tuple[int, int]) -> None:
    """Vectors take up to 8 rows at once, matrices 16 and 32: each height whole, and one row less and more."""
    inputs, hidden = shape
    weights = make_weights(Options(input_size=inputs, hidden_size=hidden), seed=3)
    lstm = kernel.build(weights)
    random = np.random.default_rng(4)
    x = random.standard_normal((66, 5, inputs), dtype=np.float32)
    state = random.standard_normal((2, 1, 66, hidden), dtype=np.float32)
    alone = [lstm(x[[row]], state=(state[0, :, [row]], state[1, :, [row]])) for row in range(66)]
    for batch in (2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 49, 63, 64, 65, 66):
        y, (h, c) = lstm(x[:batch], state=(state[0, :, :batch], state[1, :, :batch]))
        assert_same_bits(y, np.concatenate([one for one, _ in alone[:batch]]), f"y of {batch} rows")
        for found, place in ((h, 0), (c, 1)):
            wanted = np.concatenate([one[place] for _, one in alone[:batch]], axis=1)
            assert_same_bits(found, wanted, f"state of {batch} rows")


@pytest.mark.parametrize("compute_type", ["bfloat16", "int8"])
def test_matrix_registers_are_given_back(compute_type: Any, tmp_path: Path) -> None:
    """The CPU says which registers hold anything; those of AMX must not after a call, or every switch saves 8 KB."""
    if "amx" not in le.config()["compute_types"][compute_type]:
        pytest.skip("this CPU has no matrix registers")
    source = tmp_path / "in_use.c"
    source.write_text(
        "unsigned in_use(void) { unsigned low, high;"
        ' __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(1)); return low >> 17 & 3; }'
    )
    subprocess.run(["cc", "-shared", "-fPIC", source, "-o", tmp_path / "in_use.so"], check=True)
    in_use = ctypes.CDLL(str(tmp_path / "in_use.so")).in_use
    lstm = le.LSTM(make_weights(Options(24, 40, layers=2), seed=2), compute_type=compute_type)
    x = np.random.default_rng(3).standard_normal((20, 7, 24), dtype=np.float32)
    pool, window = lstm.stream_pool(20), lstm.sliding_window(2, batch=20)
    ids = np.array([pool.open() for _ in range(20)])
    step = np.ascontiguousarray(x[:, 0])
    for call in (
        lambda: lstm(x),
        lambda: lstm(x[:1]),
        lambda: lstm.stream(batch=20).step(step),
        lambda: pool.step(ids, step),
        lambda: window.push(step, defer=True),
        window.settle,
    ):
        call()
        assert in_use() == 0


@pytest.mark.parametrize("compute_type", NARROW_TYPES)
def test_pools(compute_type: Any) -> None:
    weights = make_weights(Options(5, 21, layers=2, output_size=13), seed=8)
    lstm = le.LSTM(weights, compute_type=compute_type)
    x = np.random.default_rng(1).standard_normal((70, 3, 5)).astype(np.float32)
    pool = lstm.stream_pool(capacity=70)
    ids = [pool.open() for _ in range(70)]
    stepped = np.stack([pool.step(ids, np.ascontiguousarray(x[:, time])) for time in range(3)], axis=1)
    assert_same_bits(stepped, lstm(x)[0], "pool")


@pytest.mark.parametrize("compute_type", NARROW_TYPES)
def test_sliding_windows(compute_type: Any) -> None:
    weights = make_weights(Options(5, 21, layers=2), seed=8)
    lstm = le.LSTM(weights, compute_type=compute_type)
    x = np.random.default_rng(1).standard_normal((12, 5)).astype(np.float32)
    window = lstm.sliding_window(length=6)
    for time, sample in enumerate(x):
        y = window.push(sample)
        if time >= 5:
            assert_same_bits(y, lstm(x[time - 5 : time + 1])[0][-1], f"after {time}")


@pytest.mark.parametrize("compute_type", NARROW_TYPES)
def test_threads(compute_type: Any) -> None:
    case = Case(Options(40, 50, layers=2, direction="bidirectional"), seed=2, batch=40, time=9)
    wanted = results(le.LSTM(case.weights, compute_type=compute_type), case)
    assert_same_results(results(le.LSTM(case.weights, compute_type=compute_type, num_threads=2), case), wanted, "two")


@pytest.mark.parametrize("split", [3, 4, 5], ids=["units", "directions", "layers"])
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
@pytest.mark.parametrize("compute_type", NARROW_TYPES)
def test_parts_of_a_stack_on_threads_of_their_own(compute_type: Any, direction: Any, split: int) -> None:
    # 150 units are no whole number of blocks for each of three.
    case = Case(Options(40, 150, layers=3, direction=direction), seed=2, batch=2, time=37)
    wanted = results(le.LSTM(case.weights, compute_type=compute_type), case)
    shared = le.LSTM(case.weights, compute_type=compute_type, num_threads=_core.Threads(3, split=split))
    assert_same_results(results(shared, case), wanted, "three")


@every_kernel
def test_one_row_of_many_blocks(kernel: Kernels) -> None:
    # Enough blocks that one row takes several at once, on every instruction set, with some left over.
    case = Case(Options(33, 16 * 37 + 5), seed=11, batch=2, time=3)
    lstm = kernel.build(case.weights)
    assert_same_bits(lstm(case.x[:1])[0], lstm(case.x)[0][:1], "one row")


# --------------------------------------------------------------------------------- numbers at the edge


@pytest.mark.parametrize("kernel", [kernel for kernel in KERNELS if kernel.compute_type != "bfloat16"], ids=str)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_int8_makes_no_number_of_what_is_none(kernel: Kernels, bad: float) -> None:
    case = Case(Options(21, 18), seed=4, batch=3, time=4)
    lstm = kernel.build(case.weights)
    clean = lstm(case.x)[0]
    x = case.x.copy()
    x[1, 2, 20] = bad
    y, (_, c) = lstm(x)
    assert_same_bits(y[[0, 2]], clean[[0, 2]], "neighbours")
    assert_same_bits(y[1, :2], clean[1, :2], "steps before")
    if np.isnan(bad) or kernel.compute_type == "int8":
        assert np.isnan(y[1, 2:]).all()
        assert np.isnan(c[:, 1]).all()


@every_kernel
def test_bfloat16_and_int8_give_nan_for_nan_states(kernel: Kernels) -> None:
    case = Case(Options(4, 9), seed=4, batch=2, time=2)
    h0, c0 = np.zeros((1, 2, 9), np.float32), np.zeros((1, 2, 9), np.float32)
    h0[0, 1, 3] = np.nan
    y = kernel.build(case.weights)(case.x, (h0, c0))[0]
    assert np.isfinite(y[0]).all()
    assert np.isnan(y[1]).all()


@pytest.mark.parametrize("scale", [1e-45, 1e-38, 1e-31, 1e-29, 1e-20, 1e20, 1e37])
def test_int8_rows_and_weights_of_any_size(scale: float) -> None:
    # Tiny and huge rows next to each other; tiny weights for the huge inputs keep the gates away from their ends.
    weights = make_weights(Options(12, 20), seed=2)
    x = Case(Options(12, 20), seed=2, batch=3, time=5).x
    found = [kernel.build(weights)(x * np.float32([[[1]], [[scale]], [[1]]]))[0] for kernel in KERNELS]
    plain = le.LSTM(weights)(x * np.float32([[[1]], [[scale]], [[1]]]))[0]
    for kernel, y in zip(KERNELS, found, strict=True):
        assert np.isfinite(y).all(), kernel
        assert relative_error(y, plain) < 2 * BOUNDS[kernel.compute_type], kernel


def test_states_beyond_one_keep_their_size_in_int8() -> None:
    weights = make_weights(Options(3, 8), seed=6)
    x = np.zeros((1, 1, 3), np.float32)
    state = tuple(np.random.default_rng(0).uniform(-30, 30, (1, 1, 8)).astype(np.float32) for _ in range(2))
    wanted, _ = reference.lstm(x.astype(np.float64), weights, tuple(part.astype(np.float64) for part in state))
    y, _ = le.LSTM(weights, compute_type="int8")(x, state)
    assert relative_error(y, wanted) < 2e-2


@pytest.mark.parametrize("kernel", [kernel for kernel in KERNELS if kernel.compute_type != "bfloat16"], ids=str)
def test_largest_products_do_not_saturate(kernel: Kernels) -> None:
    # All weights and inputs at the ends of their scales, where pairs of byte products pass the range of 16 bits.
    inputs, hidden = 4096, 8
    signs = np.random.default_rng(5).choice(np.float32([-1, 1]), inputs)
    kernel_weights = np.repeat(signs[:, None], 4 * hidden, axis=1) * np.float32(1 / inputs)
    lstm = le.LSTM.from_weights(kernel_weights, np.zeros((hidden, 4 * hidden), np.float32))
    x = np.stack([signs, -signs, np.roll(signs, 1)])[:, None]
    wanted = lstm(x)[0]
    found = kernel.build(lstm.weights)(x)[0]
    assert relative_error(found, wanted) < 1e-5


# ------------------------------------------------------------------------------------------- the package


@pytest.mark.parametrize("compute_type", NARROW_TYPES)
def test_options_that_do_not_go_together(compute_type: Any) -> None:
    weights = make_weights(Options(), seed=1)
    with pytest.raises(le.UnsupportedModelError, match="blas backend"):
        le.LSTM(weights, compute_type=compute_type, backend="blas")
    lstm = le.LSTM(weights, compute_type=compute_type)
    assert (lstm.compute_type, lstm.backend) == (compute_type, "fused")
    assert lstm(np.zeros((1, 2, 3)))[0].dtype == np.float32


def test_too_many_inputs_for_exact_sums() -> None:
    kernel = np.zeros(((1 << 17) + 1, 4), np.float32)
    with pytest.raises(le.UnsupportedModelError, match="131073 inputs"):
        le.LSTM.from_weights(kernel, np.zeros((1, 4), np.float32), compute_type="int8")
    le.LSTM.from_weights(kernel, np.zeros((1, 4), np.float32), compute_type="int8_recurrent")


@pytest.mark.parametrize("compute_type", NARROW_TYPES)
def test_models_and_their_copies(compute_type: Any, tmp_path: Path) -> None:
    path = DATA / "char_lstm.keras"
    model = le.load(path, compute_type=compute_type)
    plain = le.load(path)
    x = np.eye(60, dtype=np.float32)[np.random.default_rng(0).integers(0, 60, (3, 40))]
    y = model(x)
    assert model.compute_type == compute_type
    assert model.inputs[0].dtype == model.outputs[0].dtype == "float32"
    assert model.memory_bytes() < plain.memory_bytes()
    error = np.abs(y - plain(x)).max()
    # The weights of this model are numbers of bfloat16 as they are, and a CPU without its products multiplies them by
    # states of float32.
    assert 0 < error < 0.05 or (compute_type == "bfloat16" and error == 0)
    assert_same_bits(pickle.loads(pickle.dumps(model))(x), y, "pickled")
    model.save(tmp_path / "m.safetensors", golden=x)
    again = le.load(tmp_path / "m.safetensors", compute_type=compute_type, verify=True)
    assert_same_bits(again(x), y, "saved")
    stream = model.stream(batch=3)
    assert_same_bits([stream.step(x[:, time]) for time in range(40)][-1], y, "stream")


@pytest.mark.parametrize("compute_type", NARROW_TYPES)
@pytest.mark.parametrize("shipped", [demo.CharacterModel, demo.SunspotModel])
def test_shipped_models_keep_their_metric(shipped: type[demo._ShippedModel], compute_type: Any) -> None:
    shown = shipped()
    if isinstance(shown, demo.CharacterModel):
        shown.model = le.load(shown.data / shown.file, compute_type=compute_type)
    else:
        path = shown.data / shown.file
        lstm = le.LSTM.from_torch(path, "lstm", compute_type=compute_type)
        shown.model = le.Sequential([lstm, le.Dense.from_torch(path, "head")])
    evaluation = shown.evaluate()
    assert not evaluation.problems
    assert evaluation.difference > 0
    for metric in evaluation.metrics:
        assert metric.found == pytest.approx(metric.recorded, rel=0.01), metric.name


def test_configuration_names_the_kernels() -> None:
    found = le.config()["compute_types"]
    assert set(found) == {"float32", "float64", *NARROW_TYPES}
    assert found["float64"] == "blas"
    assert all(found[name].startswith(le.config()["instruction_set"]) for name in NARROW_TYPES)
