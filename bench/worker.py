"""Times cells in a process of its own and prints one line of JSON for each: ``bench.run`` starts it.

One process for each number of threads, because several engines take that number once and for all when they are loaded;
and apart from the one that reports, so that an engine that crashes takes its cell with it and nothing else.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
import traceback
import warnings
from typing import IO, Any, Final

from lstm_engine import LstmEngineError

from . import ours
from .cells import CELLS, Cell
from .contender import Contender, Outputs, steps_of
from .oracle import expected_outputs, inputs, tolerance
from .peers import contenders as peer_contenders
from .roofline import Roofline, limit_seconds, phases, working_sets
from .timing import Timing, cpus_allowed, empty_call_seconds, measure, pinned

__all__ = ["main", "time_cell"]

#: Percentiles of single calls that are kept.
_PERCENTILES: Final = {"single_call_p50": 50.0, "single_call_p99": 99.0, "single_call_p999": 99.9}

#: Fewer single calls than this have no 99.9th percentile worth the name.
_CALLS_FOR_P999: Final = 2000


def _entry(kind: type[Contender], **more: Any) -> dict[str, Any]:
    return {"engine": kind.engine, "variant": kind.variant, **more}


def _timed(contender: Contender, timing: Timing, error: float) -> dict[str, Any]:
    latencies = {name: timing.latency(percent) for name, percent in _PERCENTILES.items()}
    if len(timing.latencies) < _CALLS_FOR_P999:
        latencies["single_call_p999"] = None
    return _entry(
        type(contender),
        p50=timing.p50,
        least=timing.least,
        samples=len(timing.samples),
        single_calls=len(timing.latencies),
        relative_l2_error=error,
        **latencies,
    )


def _is_ours(kind: type[Contender] | Contender) -> bool:
    return kind.engine.startswith("ours")


def _made(kinds: list[type[Contender]], cell: Cell) -> tuple[list[Contender], list[dict[str, Any]]]:
    """Make the contenders; of those that refuse the cell, return entries that say why."""
    made, refused = [], []
    for kind in kinds:
        try:
            made.append(kind(cell))
        except LstmEngineError as error:
            refused.append(_entry(kind, refused=f"{type(error).__name__}: {error}"))
        except Exception as error:  # a peer's own trouble with a cell must not end the run; it stands in the table
            if _is_ours(kind):
                raise
            text = str(error).strip().splitlines()
            refused.append(_entry(kind, refused=f"{type(error).__name__}: {text[0][:200] if text else ''}"))
    return made, refused


def _checked(contenders: list[Contender], cell: Cell) -> tuple[list[float], list[str]]:
    """Run every contender on the cell's input; return its errors against the oracle, and complaints."""
    x = inputs(cell)
    expected, rows = expected_outputs(cell, x)
    errors, complaints = [], []
    first: Outputs | None = None
    for contender in contenders:
        own = steps_of(contender, x)
        if isinstance(contender, ours.Padded):  # computes something else on purpose: the steps behind the lengths too
            errors.append(0.0)
            continue
        error = own.rows(rows).error(expected)
        errors.append(error)
        bound = tolerance(cell, ours=_is_ours(contender))
        if not error <= bound:
            complaints.append(
                f"{cell.name}: {contender.name} differs from the float64 oracle by {error:.1e}, more than {bound:.0e}"
            )
        # The oracle has seen a few rows of a batch; all rows of everybody must agree with one another.
        if first is None:
            first = own
        elif not (apart := own.error(first)) <= 2 * tolerance(cell, ours=False):
            complaints.append(
                f"{cell.name}: {contender.name} differs from {contenders[0].name} by {apart:.1e}, all rows"
            )
    return errors, complaints


def time_cell(cell: Cell, peers: list[str], roofline: Roofline, seconds: float) -> dict[str, Any]:
    """Check and time everybody on a cell; returns what stands in the file of results."""
    kinds: list[type[Contender]] = [*ours.contenders(cell)]
    entries: list[dict[str, Any]] = []
    for peer in peers:
        found = peer_contenders(peer, cell)
        if isinstance(found, str):
            entries.append({"engine": peer, "variant": "", "refused": found})
        else:
            kinds += found
    contenders, refused = _made(kinds, cell)
    entries += refused
    errors, complaints = _checked(contenders, cell) if contenders else ([], [])

    # The machine is measured between the contenders, at the very sizes that the cell needs.
    types = sorted({phase.compute_type for phase in phases(cell)} | {"float32"})
    probes = {f"peak_{name}": lambda name=name: roofline.sample_peak(name) for name in types}
    for size in sorted(working_sets(cell)):
        probes[f"bandwidth_{size}"] = lambda size=size: roofline.sample_bandwidth(size)
    if cell.streaming and not cell.cold:
        probes["empty_call_seconds"] = empty_call_seconds
    timings, medians, cpu_share = measure(
        contenders,
        probes,
        seconds=seconds,
        one_by_one=cell.streaming,
        before_call=roofline.empty_caches if cell.cold else None,
        threads=cell.threads,
    )
    entries += [_timed(*row) for row in zip(contenders, timings, errors, strict=True)]
    names = ("batch", "time", "features", "hidden", "layers", "bidirectional", "dense", "cold", "compute_type")
    limit = limit_seconds(cell, lambda name: medians[f"peak_{name}"], lambda size: medians[f"bandwidth_{size}"])
    return {
        "cell": cell.name,
        "group": cell.group,
        **{name: getattr(cell, name) for name in names},
        "threads": cell.threads,
        "filled": cell.filled,
        "published": cell.published,
        "engines": entries,
        "limit": limit,
        "cpu_share": cpu_share,
        "probes": medians,
        "complaints": complaints,
    }


def _failed(cell: Cell, error: Exception) -> dict[str, Any]:
    where = traceback.extract_tb(error.__traceback__)[-1]
    text = f"{cell.name}: {type(error).__name__}: {error} ({where.name}, line {where.lineno})"
    return {"cell": cell.name, "group": cell.group, "engines": [], "complaints": [text]}


def _quiet_stdout() -> IO[str]:
    """Return the real standard output, and let whatever else writes there write to standard error."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return channel


def main() -> int:
    """Read the task, one JSON object, from standard input; print one line for each cell as it is done."""
    task = json.loads(sys.stdin.read())
    channel = _quiet_stdout()
    warnings.simplefilter("ignore")
    cells = {cell.name: cell for cell in CELLS}
    threads = task["threads"]
    with pinned(threads):
        roofline = Roofline(task["isa"])
        for name in task["cells"]:
            cell = cells[name]
            begin = time.perf_counter()
            try:
                if cpus_allowed() < threads:
                    raise RuntimeError(f"needs {threads} CPUs, this process may use {cpus_allowed()}")
                result = time_cell(cell, task["peers"], roofline, task["seconds"][name])
            except Exception as error:  # the other cells are still worth having
                result = _failed(cell, error)
            result["took"] = time.perf_counter() - begin
            print(json.dumps(result), file=channel, flush=True)
            gc.collect()  # a cell's weights and buffers go before the next cell's come
    return 0


if __name__ == "__main__":
    sys.exit(main())
