"""Fixtures of the benchmarks: one CPU, results checked before anything is timed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import pytest

from .cells import CELLS, Cell
from .contender import Contender, Outputs, steps_of
from .oracle import expected_outputs, inputs, tolerance
from .peers import ENGINES, contenders, installed
from .timing import pinned


@pytest.fixture(scope="session", autouse=True)
def one_cpu() -> Iterator[set[int]]:
    """Run the whole session on one CPU."""
    with pinned() as cpus:
        yield cpus


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """Record beside the timings what the machine's limits were."""
    from .report import machine_facts
    from .roofline import Roofline, RooflineError

    try:
        machine_info["lstm_engine"] = machine_facts(Roofline())
    except RooflineError as error:  # no compiler: the timings stand all the same
        machine_info["lstm_engine"] = str(error)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give each benchmark the cells of its group, and every engine's ways to drive them."""
    if "contender_kind" not in metafunc.fixturenames:
        return
    from . import ours

    group = metafunc.module.GROUP
    cases = []
    for cell in (cell for cell in CELLS if cell.group == group):
        for kind in ours.contenders(cell):
            cases.append(pytest.param(cell, kind, id=f"{cell.name}-{kind.engine}"))
        for engine in ENGINES:
            if not installed(engine):
                reason = f"{engine} is not installed"
                cases.append(
                    pytest.param(cell, None, id=f"{cell.name}-{engine}", marks=pytest.mark.skip(reason=reason))
                )
                continue
            kinds = contenders(engine, cell)
            for kind in () if isinstance(kinds, str) else kinds:
                cases.append(pytest.param(cell, kind, id=f"{cell.name}-{kind.engine}-{kind.variant}"))
    metafunc.parametrize(("cell", "contender_kind"), cases)


@lru_cache(maxsize=1)
def _expected(cell: Cell) -> tuple[Outputs, list[int]]:
    # Cases come cell by cell, so one is enough.
    return expected_outputs(cell, inputs(cell))


@lru_cache(maxsize=1)
def _ours(cell: Cell) -> Outputs:
    from . import ours

    return steps_of(ours.Fused(cell), inputs(cell))


@pytest.fixture
def time_contender(benchmark: Any) -> Callable[[Cell, type[Contender]], None]:
    """Return a function that checks a contender's result and then times it."""

    def check_and_time(cell: Cell, kind: type[Contender]) -> None:
        # What peers warn of is their own affair.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _check_and_time(cell, kind)

    def _check_and_time(cell: Cell, kind: type[Contender]) -> None:
        contender = kind(cell)
        found = steps_of(contender, inputs(cell))
        expected, rows = _expected(cell)
        bound = tolerance(cell, ours=kind.engine.startswith("ours"))
        assert found.rows(rows).error(expected) <= bound, f"{contender.name} against the float64 oracle"
        assert found.error(_ours(cell)) <= bound, f"{contender.name} against ours, all rows"
        benchmark.group = f"{cell.group} {cell.name}"
        benchmark.extra_info["engine"] = contender.name
        with contender.context():
            benchmark(contender.function())

    return check_and_time
