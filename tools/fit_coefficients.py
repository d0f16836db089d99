"""Derive the coefficients and clamps of ``src/simd/math.h``.

Every approximation there is a minimax fit: the polynomial or fraction whose largest relative error over an interval
is smallest. Fits are made by an exchange algorithm in 40 digits. The coefficients are then rounded to float32 one after
the other, lowest power first, each time fitting the remaining ones anew so that they absorb the rounding error.

Where a function saturates, its argument is clamped at the first float32 for which the float32 evaluation, rounded
exactly as the kernels round, gives 1. Smaller arguments then stay below 1 and larger ones give 1 itself.

Run it with mpmath and numpy installed::

    python tools/fit_coefficients.py                        # print every constant as it stands in math.h
    python tools/fit_coefficients.py --check src/simd/math.h    # exit 1 if the header has another value
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from mpmath import cos, erf, erfc, exp, expm1, log, log1p, lu_solve, matrix, mp, mpf, nstr, pi, sqrt, tanh
from numpy.typing import NDArray

mp.dps = 40

GRID_POINTS = 300
ERF_SPLIT = mpf("0.92")
UNIT = mpf(2) ** -24  #: relative errors are printed in units of 2^-24: half to one ULP of float32


def to_float32(value: mpf) -> np.float32:
    """Round ``value`` to the nearest float32 (through float64: its error is 2^-29 of a float32 ULP)."""
    return np.float32(float(value))


def chebyshev_grid(low: mpf, high: mpf, points: int = GRID_POINTS) -> list[mpf]:
    """Return ``points`` abscissas from ``low`` to ``high``, dense at both ends, where the extremes of the error lie."""
    middle, half = (low + high) / 2, (high - low) / 2
    return [middle - half * cos(pi * point / (points - 1)) for point in range(points)]


def linear_minimax(
    columns: Sequence[Sequence[mpf]], target: Sequence[mpf], weight: Sequence[mpf], reference: list[int]
) -> list[mpf]:
    """Minimise ``max |weight * (sum c_j * columns[j] - target)|`` over the grid by Stiefel's exchange.

    The exchange is the simplex method on the dual: it needs no alternation of signs, which a set of powers without
    the lowest ones does not have around 0. ``reference`` is where to start, and receives where it ended.
    """
    unknowns, points = len(columns), len(target)
    if unknowns == 0:
        return []
    rows = [[columns[j][p] * weight[p] for j in range(unknowns)] for p in range(points)]
    goal = [target[p] * weight[p] for p in range(points)]
    if len(reference) != unknowns + 1:
        reference[:] = [round((points - 1) * float(1 - cos(pi * k / unknowns)) / 2) for k in range(unknowns + 1)]
    while True:
        # The weights of the points in the dual: they cancel every column. Their signs are the signs of the error.
        dual, total = matrix(unknowns + 1, unknowns + 1), matrix(unknowns + 1, 1)
        for k, p in enumerate(reference):
            for j in range(unknowns):
                dual[j, k] = rows[p][j]
            dual[unknowns, k] = 1 if k == 0 else 0
        total[unknowns] = 1
        share = lu_solve(dual, total)
        signs = [1 if share[k] > 0 else -1 for k in range(unknowns + 1)]
        primal, right = matrix(unknowns + 1, unknowns + 1), matrix(unknowns + 1, 1)
        for k, p in enumerate(reference):
            for j in range(unknowns):
                primal[k, j] = rows[p][j]
            primal[k, unknowns] = signs[k]
            right[k] = goal[p]
        solution = lu_solve(primal, right)
        coefficients = [solution[j] for j in range(unknowns)]
        level = solution[unknowns]
        if level < 0:
            signs, level = [-sign for sign in signs], -level
        error = [goal[p] - sum(c * r for c, r in zip(coefficients, rows[p], strict=True)) for p in range(points)]
        entering = max(range(points), key=lambda p: abs(error[p]))
        if abs(error[entering]) <= level * mpf("1.0001"):
            return coefficients
        # The entering point in terms of those of the reference; the one whose weight first falls to 0 leaves.
        basis, column = matrix(unknowns + 1, unknowns + 1), matrix(unknowns + 1, 1)
        sign = 1 if error[entering] > 0 else -1
        for k, p in enumerate(reference):
            for j in range(unknowns):
                basis[j, k] = signs[k] * rows[p][j]
            basis[unknowns, k] = 1
        for j in range(unknowns):
            column[j] = sign * rows[entering][j]
        column[unknowns] = 1
        change = lu_solve(basis, column)
        leaving = min((k for k in range(unknowns + 1) if change[k] > 0), key=lambda k: abs(share[k]) / change[k])
        reference[leaving] = entering


#: Coefficients by side, "p" for the numerator and "q" for the denominator, and power.
Coefficients = dict[tuple[str, int], mpf]


def polynomial(coefficients: Coefficients, side: str, x: mpf) -> mpf:
    """Return the value of one side of a fraction at ``x``."""
    return sum(value * x**power for (owner, power), value in coefficients.items() if owner == side)


@dataclass
class Fit:
    """A fraction ``sum p_k x^k / sum q_k x^k`` for ``function`` on [low, high]; ``q`` is {0: 1} for a polynomial.

    Parameters
    ----------
    numerator, denominator
        Powers whose coefficients are free.
    fixed
        Coefficients of the numerator given beforehand, such as 1 for x in tanh(x). The denominator has 1 at x^0.
    first_guess
        Rough shape of the denominator, to weight the first of the linear fits.
    relative_to
        What the error is divided by, if not ``function`` itself.
    """

    name: str
    function: Callable[[mpf], mpf]
    low: mpf
    high: mpf
    numerator: Sequence[int]
    denominator: Sequence[int] = ()
    fixed: dict[int, float] = field(default_factory=dict)
    first_guess: Callable[[mpf], mpf] = lambda x: mpf(1)
    relative_to: Callable[[mpf], mpf] | None = None
    p: dict[int, np.float32] = field(default_factory=dict, init=False)
    q: dict[int, np.float32] = field(default_factory=dict, init=False)
    error: mpf = field(default=mpf(0), init=False)

    def run(self) -> Fit:
        """Fit, round, and keep the float32 coefficients in ``p`` and ``q`` and the rounded fraction's error."""
        xs = [x for x in chebyshev_grid(self.low, self.high) if x != 0]
        values = [self.function(x) for x in xs]
        known = {("p", power): mpf(value) for power, value in self.fixed.items()} | {("q", 0): mpf(1)}
        previous = [self.first_guess(x) for x in xs]
        # Lowest powers first: they act over the whole interval.
        order = sorted([(k, "p") for k in self.numerator] + [(k, "q") for k in self.denominator])
        for power, side in order:
            fitted, previous = self._solve(xs, values, known, previous)
            known[side, power] = mpf(float(to_float32(fitted[side, power])))
        self.p = {k: np.float32(float(c)) for (side, k), c in sorted(known.items()) if side == "p"}
        self.q = {k: np.float32(float(c)) for (side, k), c in sorted(known.items()) if side == "q"}
        fractions = [polynomial(known, "p", x) / polynomial(known, "q", x) for x in xs]
        self.error = max(
            abs(fraction - value) / scale
            for fraction, value, scale in zip(fractions, values, self._scales(xs), strict=True)
        )
        return self

    def _scales(self, xs: list[mpf]) -> list[mpf]:
        return [abs((self.relative_to or self.function)(x)) for x in xs]

    def _solve(
        self, xs: list[mpf], values: list[mpf], known: Coefficients, denominators: list[mpf]
    ) -> tuple[Coefficients, list[mpf]]:
        """Fit what is not ``known``: linear fits of N - f D, each weighted by the denominator of the one before."""
        free_p = [k for k in self.numerator if ("p", k) not in known]
        free_q = [k for k in self.denominator if ("q", k) not in known]
        free = [("p", k) for k in free_p] + [("q", k) for k in free_q]
        columns = [[x**k for x in xs] for k in free_p]
        columns += [[-value * x**k for x, value in zip(xs, values, strict=True)] for k in free_q]
        target = [
            value * polynomial(known, "q", x) - polynomial(known, "p", x) for x, value in zip(xs, values, strict=True)
        ]
        reference: list[int] = []
        fitted = dict(known)
        for _ in range(25 if free_q else 1):
            weight = [1 / (scale * d) for scale, d in zip(self._scales(xs), denominators, strict=True)]
            solution = linear_minimax(columns, target, weight, reference)
            fitted = {**known, **dict(zip(free, solution, strict=True))}
            before = denominators
            denominators = [polynomial(fitted, "q", x) for x in xs]
            assert min(denominators) > 0, f"{self.name}: the denominator has a zero"
            if max(abs(a / b - 1) for a, b in zip(denominators, before, strict=True)) < mpf("1e-12"):
                break
        return fitted, denominators


def fma32(a: NDArray[np.float32], b: NDArray[np.float32], c: NDArray[np.float32] | np.float32) -> NDArray[np.float32]:
    """Return a * b + c rounded once to float32.

    The product of two float32 is exact in float64. The sum is rounded to odd there, which keeps what a second
    rounding to float32 must know.
    """
    product = a.astype(np.float64) * b.astype(np.float64)
    addend = np.asarray(c, dtype=np.float64)
    total = product + addend
    back = total - product
    lost = (product - (total - back)) + (addend - back)
    even = (total.view(np.int64) & 1) == 0
    total = np.where((lost != 0) & even, np.nextafter(total, np.where(lost > 0, np.inf, -np.inf)), total)
    return total.astype(np.float32)


def horner32(coefficients: Sequence[np.float32], u: NDArray[np.float32]) -> NDArray[np.float32]:
    """Evaluate a polynomial in ``u``, lowest power first, as a chain of float32 FMAs."""
    result = np.full_like(u, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        result = fma32(result, u, coefficient)
    return result


def saturation_clamp(fit: Fit, low: float, high: float) -> np.float32:
    """Return the first float32 from ``low`` on at which x + x^3 (P3 + ...) over 1 + x^2 (Q2 + ...) gives exactly 1."""
    first, last = np.float32(low).view(np.int32), np.float32(high).view(np.int32)
    x = np.arange(first, last, dtype=np.int32).view(np.float32)
    u = x * x
    numerator = fma32(x * u, horner32(list(fit.p.values())[1:], u), x)
    ratio = numerator / horner32(list(fit.q.values()), u)
    assert ratio[0] < 1, f"{fit.name}: the search must start below saturation"
    place = int(np.argmax(ratio >= 1))
    assert ratio[place] == 1, f"{fit.name}: reaches {ratio[place]!r} before it reaches 1"
    return x[place]


def all_fits() -> list[tuple[str, np.float32, str]]:
    """Return (constant's name, value, remark) for everything that ``math.h`` holds."""
    rows: list[tuple[str, np.float32, str]] = []
    half_ln2 = log(2) / 2 * mpf("1.0001")  # the reduced argument can exceed ln(2)/2 by the rounding of n

    # Cody and Waite: a high part of few bits, so that n * high is exact for |n| < 2^9, and the rest of ln(2).
    high = mpf(int(log(2) * 2**15)) / 2**15
    rows += [
        ("LE_LOG2_E", to_float32(1 / log(2)), "1 / ln(2)"),
        ("LE_LN2_HIGH", to_float32(high), "ln(2), upper 15 bits"),
        ("LE_LN2_LOW", to_float32(log(2) - high), "ln(2) - LE_LN2_HIGH"),
        ("LE_LN2", to_float32(log(2)), "ln(2)"),
    ]

    def report(prefix: str, fit: Fit) -> None:
        interval = f"[{nstr(fit.low, 4)}, {nstr(fit.high, 4)}]"
        remark = f"{fit.name}: largest relative error {nstr(fit.error / UNIT, 3)} * 2^-24 on {interval}"
        single = len(fit.q) == 1
        for letter, side in (("P", fit.p), ("Q", fit.q)):
            for power, value in side.items():
                if (letter == "Q" and (single or power == 0)) or (letter == "P" and power in fit.fixed):
                    continue
                rows.append((f"{prefix}_{'C' if single else letter}{power}", value, remark))

    report("LE_EXP5", Fit("exp", exp, -half_ln2, half_ln2, [2, 3, 4, 5], fixed={0: 1, 1: 1}).run())
    report("LE_EXP6", Fit("exp", exp, -half_ln2, half_ln2, [2, 3, 4, 5, 6], fixed={0: 1, 1: 1}).run())
    report("LE_EXPM1", Fit("expm1", expm1, -half_ln2, half_ln2, [2, 3, 4, 5, 6, 7], fixed={1: 1}).run())
    report("LE_LOG1P", Fit("log1p", log1p, mpf("-0.25"), mpf("0.5"), range(2, 11), fixed={1: 1}).run())

    fit = Fit(
        "tanh", tanh, mpf("1e-3"), mpf("8.2"), [3, 5, 7, 9], [2, 4, 6, 8], {1: 1}, lambda x: sqrt(1 + x * x)
    ).run()
    report("LE_TANH", fit)
    rows.append(("LE_TANH_CLAMP", saturation_clamp(fit, 7.0, 9.1), "first float32 whose fraction is exactly 1"))

    report(
        "LE_ERF_SMALL",
        Fit("erf(x) - x", lambda x: erf(x) - x, mpf("1e-3"), ERF_SPLIT, range(1, 12, 2), relative_to=erf).run(),
    )
    # An error of t = -log(erfc(x)) is one of erfc(x) times that, and is measured against erf(x).
    report(
        "LE_ERF_LARGE",
        Fit(
            "-log(erfc(x))",
            lambda x: -log(erfc(x)),
            ERF_SPLIT,
            mpf(4),
            range(1, 8),
            relative_to=lambda x: erf(x) / erfc(x),
        ).run(),
    )
    return rows


def literal(value: np.float32) -> str:
    """Return the shortest decimal literal that a C compiler reads back as ``value``."""
    text = np.format_float_scientific(value, unique=True, trim="0", exp_digits=1)
    mantissa, exponent = text.split("e")
    return (mantissa if int(exponent) == 0 else f"{mantissa}e{int(exponent)}") + "f"


def main() -> int:
    """Print the constants, or compare a header with them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", type=Path, metavar="HEADER", help="compare the constants of this header")
    arguments = parser.parse_args()
    rows = all_fits()
    if arguments.check is None:
        remark = ""
        for name, value, why in rows:
            if why != remark:
                print(f"/* {why} */")
                remark = why
            print(f"#define {name} {literal(value)}")
        return 0
    text = arguments.check.read_text()
    found = {m[1]: np.float32(m[2]) for m in re.finditer(r"#define (LE_\w+) ([-+.\de]+)f\b", text)}
    wrong = [(name, value, found.get(name)) for name, value, _ in rows if found.get(name) != value]
    for name, value, there in wrong:
        print(f"{arguments.check}: {name} is {there}, the fit gives {literal(value)}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
