"""The roofline's figures are plausible, and the limits follow from them as the formula says."""

from __future__ import annotations

import itertools
import math

import pytest

from .cells import CELLS, GROUPS, Cell, select
from .contender import relative_l2
from .roofline import (
    ACTIVATION_FLOPS,
    Roofline,
    RooflineError,
    cache_bytes,
    limit_seconds,
    native_isa,
    phases,
    working_sets,
)


@pytest.fixture(scope="module")
def roofline() -> Roofline:
    try:
        return Roofline()
    except RooflineError as error:
        pytest.skip(str(error))


def test_the_peak_is_that_of_a_cpu_core(roofline: Roofline) -> None:
    # From one lane without fused operations at 1 GHz to sixteen lanes in four units at 6 GHz.
    assert 0.5e9 < roofline.peak() < 800e9
    assert 0.5e9 < roofline.clock() < 8e9


def test_the_peak_is_a_whole_number_of_vectors_a_cycle(roofline: Roofline) -> None:
    if roofline.isa not in ("avx512", "avx2"):
        pytest.skip("known for AVX-512 and AVX2 only")
    lanes = {"avx512": 16, "avx2": 8}[roofline.isa]
    vectors_a_cycle = max(roofline.sample_peak() for _ in range(9)) / roofline.clock() / (2 * lanes)
    # One or two units; the loop must come close to one of them, or it measures something else, such as spilling.
    assert 0.85 < vectors_a_cycle < 2.15


def test_vectors_beat_scalars(roofline: Roofline) -> None:
    if roofline.isa == "scalar":
        pytest.skip("no vectors here")
    scalar = Roofline("scalar")
    assert roofline.peak() > 1.5 * scalar.peak()
    assert roofline.bandwidth(16 << 10) > 1.5 * scalar.bandwidth(16 << 10)


def test_farther_levels_are_not_faster(roofline: Roofline) -> None:
    rates = [rate for _, rate in roofline.curve().values()]
    assert all(0.2e9 < rate < 3e12 for rate in rates)
    # A quarter for noise: neighbours on the same machine share the third level and the memory.
    assert all(farther < 1.25 * nearer for nearer, farther in itertools.pairwise(rates))
    if roofline.isa != "scalar":  # one lane at a time hardly notices the memory
        assert rates[-1] < 0.75 * rates[0]


def test_a_working_set_is_rounded_up_and_measured_once(roofline: Roofline) -> None:
    assert roofline.bandwidth(1) > 0
    assert roofline.bandwidth(10_000) == roofline.bandwidth(10_000)


def test_caches_grow_with_their_level() -> None:
    sizes = list(cache_bytes().values())
    assert sizes == sorted(sizes)
    assert all(size >= 1024 for size in sizes)


def test_every_instruction_set_of_this_cpu_is_measured(roofline: Roofline) -> None:
    if native_isa() == "avx512":
        assert Roofline("avx2").peak() > 0.3 * roofline.peak()
    with pytest.raises(RooflineError, match="unknown"):
        Roofline("avx1024")
    with pytest.raises(RooflineError, match="not neon" if native_isa() != "neon" else "not avx2"):
        Roofline("neon" if native_isa() != "neon" else "avx2")


def test_a_step_is_bound_by_its_weights() -> None:
    cell = Cell(1, 1, 64, 128)
    weight_bytes = 4 * (64 + 128) * 4 * 128
    seen: list[int] = []

    def bandwidth(working_set: int) -> float:
        seen.append(working_set)
        return 100e9

    expected = weight_bytes / 100e9 + 128 * ACTIVATION_FLOPS / 1e12
    assert limit_seconds(cell, lambda _: 1e12, bandwidth) == pytest.approx(expected)
    # Between two steps all weights pass, so both parts come from the level that holds all of them.
    assert set(seen) == {weight_bytes}


def test_a_sequence_reads_its_kernel_once_and_its_recurrent_kernel_at_every_step() -> None:
    kernel, recurrent = phases(Cell(1, 100, 64, 128))
    assert (kernel.weight_bytes, kernel.repeats) == (4 * 64 * 512, 1)
    assert kernel.flops == 2 * 100 * 64 * 512
    assert (recurrent.weight_bytes, recurrent.repeats) == (4 * 128 * 512, 100)
    assert recurrent.working_set == recurrent.weight_bytes < kernel.working_set


def test_a_large_batch_is_bound_by_arithmetic() -> None:
    cell = Cell(128, 100, 512, 512)
    activations = 128 * 100 * 512 * ACTIVATION_FLOPS
    assert limit_seconds(cell, lambda _: 1e11, lambda _: 1e11) == pytest.approx((cell.flops + activations) / 1e11)


def test_narrow_types_have_their_own_peak_and_fewer_bytes() -> None:
    peaks = {"float32": 1e11, "int8": 4e11}
    wide, narrow = (Cell(128, 100, 512, 512, compute_type=name) for name in ("float32", "int8"))
    activations = 128 * 100 * 512 * ACTIVATION_FLOPS / 1e11
    found = [limit_seconds(cell, peaks.__getitem__, lambda _: 1e12) - activations for cell in (wide, narrow)]
    assert found[0] == pytest.approx(4 * found[1])
    step = Cell(1, 1, 512, 512, compute_type="int8")
    assert sum(phase.weight_bytes for phase in phases(step)) == 2 * 512 * 4 * 512
    assert working_sets(step) == {2 * 512 * 4 * 512}


def test_threads_share_the_work_and_the_weights() -> None:
    small, halves = (Cell(1, 1, 64, 128, threads=threads) for threads in (1, 2))
    assert working_sets(halves) == {size // 2 for size in working_sets(small)}
    # What does not fit a core's own caches is shared, whole.
    one, two = (Cell(1, 1, 2048, 2048, threads=threads) for threads in (1, 2))
    assert working_sets(two) == working_sets(one)
    limits = [limit_seconds(cell, lambda _: 1e11, lambda _: 1e11) for cell in (one, two)]
    assert limits[0] == pytest.approx(2 * limits[1])


def test_padding_is_no_work_and_a_cold_step_comes_from_memory() -> None:
    ragged = Cell(32, 100, 64, 128, ragged=True)
    assert 0.3 < ragged.filled < 0.7
    assert ragged.flops == pytest.approx(ragged.filled * Cell(32, 100, 64, 128).flops)
    assert min(working_sets(Cell(1, 1, 16, 16, cold=True))) >= 64 << 20


def test_products_of_narrow_types_are_faster_where_they_have_instructions(roofline: Roofline) -> None:
    if roofline.has_products_of("int8") and roofline.isa != "avx2":
        assert roofline.peak("int8") > 1.2 * roofline.peak()
    if roofline.has_products_of("bfloat16"):
        assert roofline.peak("bfloat16") > 1.2 * roofline.peak()


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_phases_add_up_to_the_cell(cell: Cell) -> None:
    assert math.isclose(sum(phase.flops * phase.repeats for phase in phases(cell)), cell.flops)
    weights = cell.weights()
    arrays = [array for own in weights.flat() for array in (own.kernel, own.recurrent_kernel)]
    loaded = sum(phase.weight_bytes for phase in phases(cell))
    dense = 4 * cell.directions * cell.hidden * cell.dense
    assert loaded == sum(array.nbytes for array in arrays) * cell.weight_item_bytes // 4 + dense
    assert weights.num_layers == cell.layers
    assert weights.num_directions == cell.directions


def test_cells_are_selected_by_group_by_name_and_by_work() -> None:
    assert sum(len(select(group)) for group in GROUPS) == len(select()) == len(CELLS)
    assert [cell.name for cell in select("bidirectional$")] == [
        "1,100,64,128,bidirectional",
        "16,100,128,256,2-layer,bidirectional",
    ]
    assert {cell.group for cell in select("step,cold")} == {"step", "cold"}
    with pytest.raises(ValueError, match="matches no cell"):
        select("7,7,7,7")
    with pytest.raises(ValueError, match="regular expression"):
        select("(")


def test_a_cell_has_the_same_numbers_every_time_and_distinct_gates() -> None:
    cell = Cell(1, 1, 16, 16)
    kernel = cell.weights().cells[0][0].kernel
    assert (kernel == cell.weights().cells[0][0].kernel).all()
    assert (cell.inputs() == cell.inputs()).all()
    assert len({kernel[:, gate * 16 : (gate + 1) * 16].tobytes() for gate in range(4)}) == 4
    assert abs(kernel).max() <= 1 / 4


def test_a_wrong_result_is_seen() -> None:
    right = Cell(1, 1, 16, 16).inputs()
    assert relative_l2(right, right) == 0
    assert relative_l2(right * 1.01, right) == pytest.approx(0.01, rel=1e-3)
    assert relative_l2(right * float("nan"), right) == math.inf
    assert relative_l2(right[..., :8], right) == math.inf
