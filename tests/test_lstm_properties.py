"""Every variant of the LSTM, on every engine, against the float64 oracle."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from strategies import (
    BOUNDED,
    PARAMETERS,
    PLACES,
    Case,
    Engine,
    Options,
    assert_same_bits,
    cases,
    engines,
    every_combination,
    examples,
    make_weights,
    relative_error,
)

import lstm_engine as le
from lstm_engine import _core, reference
from lstm_engine.activations import DEFAULTS, Activation

ENGINES = engines()
every_engine = pytest.mark.parametrize("engine", ENGINES, ids=str)


def assert_right(engine: Engine, case: Case, x: np.ndarray | None = None) -> None:
    """Fail unless the engine's y, h and c agree with the oracle's."""
    x = case.x if x is None else x
    found_y, found_state = engine.build(case.weights)(x, **case.keywords)
    wanted_y, wanted_state = reference.lstm(x, case.weights, **case.keywords)
    pairs = zip("yhc", (found_y, *found_state), (wanted_y, *wanted_state), strict=True)
    for name, found, wanted in pairs:
        assert found.dtype == engine.compute_type, name
        error = relative_error(found, wanted)
        assert error <= engine.bound, f"{name}: relative error {error:.2e}"


@every_engine
@examples(120)
@given(case=cases())
def test_agrees_with_the_oracle(engine: Engine, case: Case) -> None:
    assert_right(engine, case)


@every_engine
def test_every_combination(engine: Engine) -> None:
    for case in every_combination():
        assert_right(engine, case)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", DEFAULTS)
def test_every_activation_in_every_place(kind: str, place: str) -> None:
    for parameters in dict.fromkeys(((None, None), PARAMETERS.get(kind, (None, None)))):
        # Distinct neighbours, so that one activation that is taken for another's shows.
        activations = [Activation(BOUNDED[number]) for number in range(len(PLACES))]
        activations[PLACES.index(place)] = Activation(kind, *parameters)
        for hidden in (3, 21):
            options = Options(5, hidden, activations=tuple(activations), scale=0.5, peepholes=True)
            for engine in ENGINES:
                assert_right(engine, Case(options, seed=hidden, batch=2, time=4, with_state=True))


#: Shapes beyond those that are drawn: several blocks of rows, units and time with a rest each.
LARGE = [
    Case(Options(60, 128), seed=1, batch=1, time=300),
    Case(Options(67, 131), seed=2, batch=67, time=9),
    Case(Options(1, 16), seed=3, batch=1, time=3000),
    Case(Options(33, 40, layers=2, direction="bidirectional"), seed=4, batch=5, time=400, with_lengths=True),
    Case(Options(33, 40, layers=3, output_size=17), seed=5, batch=5, time=400, with_mask=True),
    Case(Options(300, 24, direction="reverse"), seed=6, batch=130, time=40, with_lengths=True),
    Case(Options(9, 260, direction="bidirectional", peepholes=True), seed=7, batch=3, time=20, with_state=True),
    Case(Options(4, 6, layers=2, direction="bidirectional"), seed=8, batch=300, time=70, with_mask=True),
]


@every_engine
@pytest.mark.parametrize("case", LARGE, ids=lambda case: f"{case.batch}x{case.time}x{case.options.hidden_size}")
def test_large(engine: Engine, case: Case) -> None:
    assert_right(engine, case)


@every_engine
@examples(20)
@given(case=cases(limit=20, directions=["forward"], least_batch=1, ragged=False))
def test_streams_agree_with_the_oracle(engine: Engine, case: Case) -> None:
    stream = engine.build(case.weights).stream(batch=case.batch)
    if case.state is not None:
        stream.state = case.state
    middle = case.time // 2
    stepped = [stream.step(case.x[:, time]) for time in range(middle)]
    rest = stream.run(case.x[:, middle:])
    wanted, (h, c) = reference.lstm(case.x, case.weights, case.state)
    assert rest.dtype == engine.compute_type
    found = np.concatenate([*(y[:, None] for y in stepped), rest], axis=1)
    assert relative_error(found, wanted) <= engine.bound
    assert relative_error(stream.state[0], h) <= engine.bound
    assert relative_error(stream.state[1], c) <= engine.bound


# --------------------------------------------------------------------- what a call of the class can ask for


@every_engine
@examples(30)
@given(case=cases(limit=12))
def test_zero_masked_and_last_outputs(engine: Engine, case: Case) -> None:
    weights, x = case.weights, case.x.astype(engine.compute_type)
    lstm = engine.build(weights, zero_masked=True)
    wanted_y, (wanted_h, _) = reference.lstm(x, weights, **case.keywords, zero_masked=True)
    found, (h, _) = lstm(x, **case.keywords)
    assert relative_error(found, wanted_y) <= engine.bound
    assert relative_error(h, wanted_h) <= engine.bound
    if case.with_lengths or not case.time:
        return
    # The last output of a direction is the one processed last: of the reverse direction, that of time 0.
    last, _, _ = lstm.run(x, **case.keywords, sequences=False)
    half = lstm.output_size
    ends = {"forward": [-1], "reverse": [0], "bidirectional": [-1, 0]}[case.options.direction]
    parts = [wanted_y[:, end, place * half : (place + 1) * half] for place, end in enumerate(ends)]
    assert relative_error(last, np.concatenate(parts, axis=-1)) <= engine.bound


@every_engine
@pytest.mark.parametrize("mode", ["sum", "mul", "ave", None])
def test_merge_modes(engine: Engine, mode: Any) -> None:
    case = Case(Options(5, 7, layers=2, direction="bidirectional"), seed=11, batch=3, time=6)
    y, state = engine.build(case.weights, merge_mode=mode)(case.x)
    both, (h, c) = reference.lstm(case.x, case.weights)
    forward, reverse = both[..., :7], both[..., 7:]
    if mode is None:
        assert relative_error(np.stack(y), np.stack([forward, reverse])) <= engine.bound
    else:
        wanted = {"sum": forward + reverse, "mul": forward * reverse, "ave": (forward + reverse) / 2}[mode]
        assert relative_error(y, wanted) <= engine.bound
    assert relative_error(state[0], h) <= engine.bound
    assert relative_error(state[1], c) <= engine.bound


@every_engine
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(("batch", "time"), [(0, 5), (3, 0), (0, 0)])
def test_nothing_in_nothing_out(engine: Engine, direction: str, batch: int, time: int) -> None:
    options = Options(5, 7, output_size=3, layers=2, direction=direction)
    for with_state in (False, True):
        case = Case(options, seed=12, batch=batch, time=time, with_state=with_state)
        y, (h, c) = engine.build(case.weights)(case.x, case.state)
        assert y.shape == (batch, time, 3 * options.directions)
        h0, c0 = case.state or (
            np.zeros((2 * options.directions, batch, 3)),
            np.zeros((2 * options.directions, batch, 7)),
        )
        np.testing.assert_array_equal(h, h0)
        np.testing.assert_array_equal(c, c0)


@every_engine
def test_rows_without_any_step_keep_their_state(engine: Engine) -> None:
    options = Options(5, 7, layers=2, direction="bidirectional")
    case = Case(options, seed=13, batch=3, time=6, with_state=True)
    assert case.state is not None
    for keywords in ({"lengths": [0, 6, 0]}, {"mask": np.array([[False] * 6, [True] * 6, [False] * 6])}):
        y, (h, c) = engine.build(case.weights)(case.x, case.state, **keywords)
        np.testing.assert_array_equal(y[[0, 2]], 0)
        np.testing.assert_array_equal(h[:, [0, 2]], case.state[0][:, [0, 2]])
        np.testing.assert_array_equal(c[:, [0, 2]], case.state[1][:, [0, 2]])
        assert np.abs(y[1]).min() > 0


@every_engine
def test_one_sequence_without_a_batch_axis(engine: Engine) -> None:
    for direction in ("forward", "bidirectional"):
        case = Case(Options(5, 7, layers=2, direction=direction), seed=14, batch=1, time=6, with_state=True)
        assert case.state is not None
        lstm = engine.build(case.weights)
        h0, c0 = case.state
        for keywords, single in (
            ({}, {}),
            ({"lengths": [4]}, {"lengths": 4}),
            ({"mask": [[True, False, True] * 2]}, {"mask": [True, False, True] * 2}),
        ):
            wanted_y, (wanted_h, wanted_c) = lstm(case.x, case.state, **keywords)
            y, (h, c) = lstm(case.x[0], (h0[:, 0], c0[:, 0]), **single)
            assert_same_bits(y, wanted_y[0], "y")
            assert_same_bits(h, wanted_h[:, 0], "h")
            assert_same_bits(c, wanted_c[:, 0], "c")


def test_from_weights_is_the_same_lstm() -> None:
    options = Options(4, 6, output_size=5, layers=2, direction="bidirectional", peepholes=True, coupled=True)
    weights = make_weights(options, seed=15)
    cells = list(weights.flat())
    lstm = le.LSTM.from_weights(
        [cell.kernel for cell in cells],
        [cell.recurrent_kernel for cell in cells],
        [cell.bias for cell in cells],
        projection=[cell.projection for cell in cells],
        peepholes=[cell.peepholes for cell in cells],
        direction="bidirectional",
        coupled=True,
    )
    x = np.random.default_rng(16).standard_normal((2, 5, 4)).astype(np.float32)
    assert_same_bits(lstm(x)[0], le.LSTM(weights)(x)[0])


# --------------------------------------------------------------------------------------------- specials


@every_engine
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_nan_spoils_its_own_row_alone(engine: Engine, direction: str) -> None:
    options = Options(5, 19, layers=2, direction=direction)
    case = Case(options, seed=17, batch=21, time=7)
    lstm = engine.build(case.weights)
    clean, (clean_h, clean_c) = lstm(case.x)
    for row, step in ((0, 0), (11, 3), (20, 6)):
        x = case.x.copy()
        x[row, step, 2] = np.nan
        y, (h, c) = lstm(x)
        others = np.arange(21) != row
        assert_same_bits(y[others], clean[others], "y of the other rows")
        assert_same_bits(h[:, others], clean_h[:, others], "h of the other rows")
        assert_same_bits(c[:, others], clean_c[:, others], "c of the other rows")
        if direction == "forward":
            assert_same_bits(y[row, :step], clean[row, :step], "y before the NaN")
            assert np.isnan(y[row, step:]).all()
            assert np.isnan(h[:, row]).all()
            assert np.isnan(c[:, row]).all()
        elif direction == "reverse":
            assert_same_bits(y[row, step + 1 :], clean[row, step + 1 :], "y after the NaN")
            assert np.isnan(y[row, : step + 1]).all()
        else:
            assert np.isnan(y[row]).all()


@every_engine
def test_nan_in_the_state_and_at_skipped_steps(engine: Engine) -> None:
    case = Case(Options(5, 19), seed=18, batch=4, time=6, with_state=True)
    lstm = engine.build(case.weights)
    assert case.state is not None
    h0, c0 = (array.copy() for array in case.state)
    c0[0, 1, 3] = np.nan
    h0[0, 2, 4] = np.nan
    y, (h, c) = lstm(case.x, (h0, c0))
    assert np.isnan(y[2]).all()
    assert np.isnan(y[1, 0, 3])
    assert np.isnan(y[1, 1:]).all()
    assert np.isfinite(y[[0, 3]]).all()
    # A skipped step is not looked at.
    x = case.x.copy()
    x[:, 4:] = np.nan
    for keywords in ({"lengths": [4, 4, 4, 4]}, {"mask": np.arange(6)[None].repeat(4, 0) < 4}):
        y, (h, c) = lstm(x, case.state, **keywords)
        wanted, (wanted_h, wanted_c) = lstm(case.x, case.state, **keywords)
        assert_same_bits(y, wanted, "y")
        assert_same_bits(h, wanted_h, "h")
        assert_same_bits(c, wanted_c, "c")


@pytest.mark.parametrize("kind", DEFAULTS)
def test_infinities_and_nan_go_through_as_the_formula_says(kind: str) -> None:
    # A cell of one unit whose candidate is x itself, so that nothing is added to infinity on the way.
    place = PLACES.index("cell_activation")
    activations = [Activation("sigmoid")] * 5
    activations[place] = Activation(kind)
    activations[4] = Activation("linear")
    zeros = np.zeros((1, 4), np.float32)
    kernel = zeros.copy()
    kernel[0, 2] = 1.0
    x = np.array([-np.inf, np.inf, np.nan, -1e30, 1e30, -1e-40, 1e-40, -0.0, 0.0], np.float32)[:, None, None]
    weights = le.LSTM.from_weights(kernel, zeros, activation=activations[place], hidden_activation="linear").weights
    wanted, _ = reference.lstm(x, weights)
    for engine in ENGINES:
        # c' = 0.5 * g and h = 0.5 * c' exactly: the gates' arguments are zero.
        found, _ = engine.build(weights)(x)
        with np.errstate(over="ignore"):
            limited = wanted.astype(engine.compute_type)
        np.testing.assert_allclose(found, limited, rtol=1e-6, atol=1e-45, err_msg=str(engine))


@every_engine
def test_saturation(engine: Engine) -> None:
    # Weights of one sign, so that infinity times them adds up to an infinity of a sign.
    case = Case(Options(3, 21), seed=19, batch=1, time=4)
    cell = case.weights.cells[0][0]
    for value in (np.inf, -np.inf, 1e30, -1e30, 3e38):
        x = np.full((1, 4, 3), value, np.float32)
        lstm = le.LSTM.from_weights(
            np.abs(cell.kernel), cell.recurrent_kernel, cell.bias,
            backend=engine.backend, compute_type=engine.compute_type, isa=engine.isa,
        )  # fmt: skip
        y, (_, c) = lstm(x)
        wanted, (_, wanted_c) = reference.lstm(x, lstm.weights)
        np.testing.assert_allclose(y, wanted, rtol=1e-6, atol=1e-37, err_msg=str(value))
        np.testing.assert_allclose(c, wanted_c, rtol=1e-6, atol=1e-37, err_msg=str(value))


@every_engine
def test_huge_and_denormal_values(engine: Engine) -> None:
    case = Case(Options(13, 21, layers=2), seed=20, batch=3, time=5, with_state=True)
    for scale in (1e-42, 1e-38, 1e-20, 1e10, 1e20):
        assert_right(engine, case, (case.x * np.float32(scale)).astype(np.float32))


@every_engine
def test_denormal_state_is_neither_lost_nor_slow_to_come_back(engine: Engine) -> None:
    # A forget gate near zero takes the cell through the denormal numbers.
    hidden = 5
    bias = np.zeros(4 * hidden, np.float32)
    bias[hidden : 2 * hidden] = -20.0
    kernel = np.zeros((1, 4 * hidden), np.float32)
    lstm = le.LSTM.from_weights(
        kernel, np.zeros((hidden, 4 * hidden), np.float32), bias, hidden_activation="linear",
        backend=engine.backend, compute_type=engine.compute_type, isa=engine.isa,
    )  # fmt: skip
    c0 = np.full((1, 1, hidden), 1e-30, engine.compute_type)
    state = (np.zeros_like(c0), c0)
    for _ in range(3):
        y, state = lstm(np.zeros((1, 1, 1), np.float32), state)
        wanted, (_, wanted_c) = reference.lstm(np.zeros((1, 1, 1)), lstm.weights, (0 * c0, c0))
        np.testing.assert_allclose(state[1], wanted_c, rtol=1e-5, atol=2e-45)
        np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=2e-45)
        c0 = state[1]


# ------------------------------------------------------------------------------- the instruction sets


def test_every_instruction_set_of_this_cpu_is_tested() -> None:
    here = [name for name, runs_here in _core.instruction_sets().items() if runs_here]
    assert "scalar" in here
    assert {engine.isa for engine in ENGINES if engine.backend == "fused"} == set(here)
    for engine in ENGINES:
        lstm = engine.build(make_weights(Options(), seed=1))
        assert (lstm.backend, lstm.isa, lstm.compute_type) == (engine.backend, engine.isa, engine.compute_type)
