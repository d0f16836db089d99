"""What the tests draw: LSTMs of every variant with inputs for them, and the engines that must run them.

A case is drawn as a handful of small numbers, the arrays come from a seed. Hypothesis then shrinks what
matters (a size, an option) and a failing case prints as one line.

Weights are uniform in +-1/sqrt(n) with n the larger of hidden and input size, much as the frameworks begin, so that the
gates' arguments are of order one; and always distinct: equal ones would pass under any permutation of gates or units.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike, NDArray

import lstm_engine as le
from lstm_engine import _core
from lstm_engine.activations import DEFAULTS, Activation
from lstm_engine.weights import CellWeights, LSTMWeights

PLACES = ("input_activation", "forget_activation", "cell_activation", "output_activation", "hidden_activation")

#: Kinds whose output stays within a few units: a state fed through them cannot run away.
BOUNDED = ("sigmoid", "tanh", "hard_sigmoid", "softsign", "scaled_tanh")

#: Parameters other than the defaults, for the kinds that have any.
PARAMETERS = {
    "hard_sigmoid": (0.2, 0.5),
    "elu": (0.7, 0.0),
    "leaky_relu": (0.3, 0.0),
    "affine": (0.6, 0.1),
    "thresholded_relu": (0.05, 0.0),
    "scaled_tanh": (1.1, 0.7),
}


def examples(count: int) -> settings:
    """Return settings for ``count`` examples; for 30 times as many under the profile "thorough"."""
    return settings(max_examples=count * (1 if settings.default.derandomize else 30))


# ---------------------------------------------------------------------------------------------- engines


@dataclass(frozen=True)
class Engine:
    """One way to run an LSTM."""

    backend: str
    isa: str
    compute_type: str

    def __str__(self) -> str:
        return f"{self.backend}-{self.isa}-{self.compute_type}"

    @property
    def bound(self) -> float:
        """Largest relative L2 error against the oracle."""
        return 1e-13 if self.compute_type == "float64" else 1e-6

    def build(self, weights: LSTMWeights, **keywords: Any) -> le.LSTM:
        """Return the LSTM packed for this engine."""
        return le.LSTM(weights, backend=self.backend, compute_type=self.compute_type, isa=self.isa, **keywords)


def instruction_sets() -> list[str]:
    """Return the instruction sets that this CPU runs, best first."""
    return [name for name, runs_here in _core.instruction_sets().items() if runs_here]


def fused_engines() -> list[Engine]:
    """Return the fused float32 engine of every instruction set here: those that promise the same bits."""
    return [Engine("fused", isa, "float32") for isa in instruction_sets()]


def engines() -> list[Engine]:
    """Return every engine that this CPU runs."""
    # The blas backend takes its activations from the instruction set: the best and the plainest differ most.
    ends = dict.fromkeys((instruction_sets()[0], instruction_sets()[-1]))
    blas = [Engine("blas", isa, "float32") for isa in ends]
    return [*fused_engines(), *blas, Engine("blas", instruction_sets()[0], "float64")]


# ---------------------------------------------------------------------------------------------- weights


@dataclass(frozen=True)
class Options:
    """The variant of an LSTM, without its arrays."""

    input_size: int = 3
    hidden_size: int = 4
    output_size: int | None = None  #: of the projection; None for none
    layers: int = 1
    direction: str = "forward"
    bias: bool = True
    peepholes: bool = False
    coupled: bool = False
    gate_clip: float | None = None
    cell_clip: float | None = None
    activations: tuple[Activation, ...] = ()  #: one for each of PLACES, or none for the usual ones
    scale: float = 1.0  #: of the weights, over 1/sqrt of the larger of hidden and input size

    @property
    def directions(self) -> int:
        """1 or 2."""
        return 2 if self.direction == "bidirectional" else 1


def make_weights(options: Options, seed: int, dtype: type[np.float32] | type[np.float64] = np.float32) -> LSTMWeights:
    """Return random weights of the given variant."""
    random = np.random.default_rng(seed)
    hidden = options.hidden_size
    output = options.output_size or hidden

    def cell(input_size: int) -> CellWeights:
        bound = options.scale / np.sqrt(max(hidden, input_size))

        def uniform(*shape: int) -> NDArray[Any]:
            return random.uniform(-bound, bound, shape).astype(dtype)

        return CellWeights(
            kernel=uniform(input_size, 4 * hidden),
            recurrent_kernel=uniform(output, 4 * hidden),
            bias=uniform(4 * hidden) if options.bias else None,
            projection=uniform(hidden, output) if options.output_size else None,
            peepholes=uniform(3, hidden) if options.peepholes else None,
            gate_clip=options.gate_clip,
            cell_clip=options.cell_clip,
            coupled=options.coupled,
            **dict(zip(PLACES, options.activations, strict=False)),
        )

    sizes = [options.input_size] + [options.directions * output] * (options.layers - 1)
    return LSTMWeights(
        tuple(tuple(cell(size) for _ in range(options.directions)) for size in sizes),
        options.direction,  # type: ignore[arg-type]
    )


# ------------------------------------------------------------------------------------------------ cases


@dataclass(frozen=True)
class Case:
    """An LSTM with inputs for it; ``repr`` is enough to make it again."""

    options: Options
    seed: int
    batch: int
    time: int
    with_state: bool = False
    with_lengths: bool = False
    with_mask: bool = False
    dtype: type[np.float32] | type[np.float64] = np.float32

    @property
    def weights(self) -> LSTMWeights:
        """Random weights."""
        return make_weights(self.options, self.seed, self.dtype)

    def _random(self, stream: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, stream])

    @property
    def x(self) -> NDArray[Any]:
        """(batch, time, features)."""
        shape = (self.batch, self.time, self.options.input_size)
        return self._random(1).standard_normal(shape).astype(self.dtype)

    @property
    def state(self) -> tuple[NDArray[Any], NDArray[Any]] | None:
        """(h0, c0), or None."""
        if not self.with_state:
            return None
        random = self._random(2)
        cells = self.options.layers * self.options.directions
        sizes = (self.options.output_size or self.options.hidden_size, self.options.hidden_size)
        h0, c0 = (random.uniform(-1, 1, (cells, self.batch, size)).astype(self.dtype) for size in sizes)
        return h0, c0

    @property
    def lengths(self) -> NDArray[np.int64] | None:
        """(batch,) with 0 and the whole time among them where there is room, or None."""
        if not self.with_lengths:
            return None
        lengths = self._random(3).integers(0, self.time + 1, self.batch)
        lengths[1:2] = 0
        lengths[2:3] = self.time
        return lengths

    @property
    def mask(self) -> NDArray[np.bool_] | None:
        """(batch, time) of any pattern, with a row of none and a row of all where there is room, or None."""
        if not self.with_mask:
            return None
        mask = self._random(4).random((self.batch, self.time)) < 0.6
        mask[1:2] = False
        mask[2:3] = True
        return mask

    @property
    def keywords(self) -> dict[str, Any]:
        """All arguments of a call but x."""
        return {"state": self.state, "lengths": self.lengths, "mask": self.mask}


def sizes(limit: int = 70) -> st.SearchStrategy[int]:
    """Sizes from 1 that are rarely a multiple of anything, the ends of vector widths among them."""
    edges = [size for size in (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 48, 63, 64, 65) if size <= limit]
    return st.one_of(st.sampled_from(edges), st.integers(1, limit))


@st.composite
def options(
    draw: st.DrawFn, limit: int = 70, directions: Iterable[str] = ("forward", "reverse", "bidirectional")
) -> Options:
    """Any variant of the LSTM, with activations that are bounded, but for one place that may have any."""
    hidden = draw(sizes(limit))
    chosen = Options(
        input_size=draw(sizes(limit)),
        hidden_size=hidden,
        output_size=draw(st.none() | st.integers(1, hidden + 3)),
        layers=draw(st.sampled_from((1, 1, 1, 2, 3))),
        direction=draw(st.sampled_from(tuple(directions))),
        bias=draw(st.sampled_from((True, True, False))),
        peepholes=draw(st.booleans()),
        coupled=draw(st.sampled_from((False, False, True))),
        gate_clip=draw(st.none() | st.sampled_from((0.25, 1.0, 5.0))),
        cell_clip=draw(st.none() | st.sampled_from((0.25, 1.0, 5.0))),
    )
    if draw(st.booleans()):
        return chosen
    activations = [Activation(draw(st.sampled_from(BOUNDED))) for _ in PLACES]
    kind = draw(st.sampled_from(tuple(DEFAULTS)))
    parameters = PARAMETERS.get(kind, (None, None)) if draw(st.booleans()) else (None, None)
    place = draw(st.integers(0, len(PLACES) - 1))
    activations[place] = Activation(kind, *parameters)
    # Half the weights' size keeps a cell whose forget gate exceeds one from running away within these times. With
    # peepholes an unbounded gate makes the step a polynomial of the cell state, or worse, which nothing keeps.
    runs_away = kind not in BOUNDED and PLACES[place] in ("input_activation", "forget_activation")
    return replace(chosen, activations=tuple(activations), scale=0.5, peepholes=chosen.peepholes and not runs_away)


@st.composite
def cases(
    draw: st.DrawFn,
    *,
    limit: int = 70,
    directions: Iterable[str] = ("forward", "reverse", "bidirectional"),
    dtype: type[np.float32] | type[np.float64] = np.float32,
    least_batch: int = 0,
    least_time: int = 0,
    ragged: bool = True,
) -> Case:
    """Any variant with inputs of any shape; with lengths or a mask at times if ``ragged``."""
    chosen = draw(options(limit, directions))
    kind = draw(st.sampled_from(("even", "lengths", "mask"))) if ragged else "even"
    return Case(
        options=chosen,
        seed=draw(st.integers(0, 2**16)),
        batch=draw(st.one_of(st.integers(least_batch, 6), st.sampled_from((8, 13, 16, 17, 33)))),
        time=draw(st.integers(least_time, 8)),
        with_state=draw(st.booleans()),
        with_lengths=kind == "lengths",
        with_mask=kind == "mask",
        dtype=dtype,
    )


def every_combination() -> list[Case]:
    """Return one case for every combination of the options that meet in the engine's control flow.

    What hypothesis draws is uneven: it likes to vary an example that it has. These are the pairs and triples that no
    run may miss, with sizes that go on changing.
    """
    random = np.random.default_rng(1995)
    found = []
    for direction, ragged, layers, projected, with_state in itertools.product(
        ("forward", "reverse", "bidirectional"), ("even", "lengths", "mask"), (1, 2), (False, True), (False, True)
    ):
        hidden = int(random.integers(1, 50))
        chosen = Options(
            input_size=int(random.integers(1, 50)),
            hidden_size=hidden,
            output_size=int(random.integers(1, hidden + 2)) if projected else None,
            layers=layers,
            direction=direction,
            bias=bool(random.random() < 0.8),
            peepholes=bool(random.random() < 0.5),
            coupled=bool(random.random() < 0.3),
            gate_clip=0.5 if random.random() < 0.3 else None,
            cell_clip=0.5 if random.random() < 0.3 else None,
        )
        found.append(
            Case(
                chosen,
                seed=len(found),
                batch=int(random.integers(3, 20)),
                time=int(random.integers(2, 9)),
                with_state=with_state,
                with_lengths=ragged == "lengths",
                with_mask=ragged == "mask",
            )
        )
    return found


# ------------------------------------------------------------------------------------------- comparison


def relative_error(found: ArrayLike, wanted: ArrayLike) -> float:
    """Return the relative L2 error, ``|found - wanted| / |wanted|``.

    The norm of ``wanted`` is taken as 0.4 at least, and as that of values of 0.1 at least: outputs of an LSTM are
    mostly larger, and where a few of them happen to be nearly zero, they are differences of terms of order one,
    which float32 cannot give to more digits than those terms have.
    """
    found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    assert found.shape == wanted.shape, f"shape {found.shape}, expected {wanted.shape}"
    if wanted.size == 0:
        return 0.0
    norm = max(float(np.linalg.norm(wanted)), 0.1 * np.sqrt(wanted.size), 0.4)
    return float(np.linalg.norm(found - wanted)) / norm


def assert_same_bits(found: NDArray[Any], wanted: NDArray[Any], what: str = "") -> None:
    """Fail unless the two arrays have one dtype, one shape and the same bits (so that -0 is not 0)."""
    assert found.dtype == wanted.dtype, f"{what}: dtype {found.dtype}, expected {wanted.dtype}"
    assert found.shape == wanted.shape, f"{what}: shape {found.shape}, expected {wanted.shape}"
    unsigned = np.dtype(f"u{found.dtype.itemsize}")
    differ = np.ascontiguousarray(found).view(unsigned) != np.ascontiguousarray(wanted).view(unsigned)
    if differ.any():
        first = tuple(int(place) for place in np.argwhere(differ)[0])
        raise AssertionError(
            f"{what}: {int(differ.sum())} of {differ.size} values differ, first {first}: "
            f"{found[first]!r}, expected {wanted[first]!r}"
        )
