"""Time lstm_engine beside its peers and beside the machine's limits, and print one table: ``python -m bench.run``."""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
from typing import TYPE_CHECKING

# Only the standard library here: LSTM_ENGINE_ISA and the CPU must be chosen before lstm_engine is imported.
if TYPE_CHECKING:
    from .cells import Cell
    from .contender import Contender
    from .report import CellResult
    from .roofline import Roofline

__all__ = ["main"]

#: --quick leaves out cells with more arithmetic than this; a second's work of one core for each contender.
_QUICK_FLOPS = 10_000_000_000


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.run", description=__doc__)
    parser.add_argument("--cells", metavar="WHICH", help="step, sequence, batch, or a regular expression")
    parser.add_argument("--peers", metavar="NAMES", help="peers to time, comma separated (default: all)")
    parser.add_argument("--seconds", type=float, help="measuring time for each cell (default: 10, with --quick 0.5)")
    parser.add_argument("--quick", action="store_true", help="a few seconds a group; leaves out the largest cells")
    parser.add_argument("--isa", help="instruction set for ours and for the limits: avx512, avx2, neon, scalar")
    parser.add_argument("--json", action="store_true", help="print the results as JSON instead of the table")
    parser.add_argument("--plain", action="store_true", help="a table of plain characters even where rich is installed")
    options = parser.parse_args(arguments)
    if options.seconds is not None and not options.seconds > 0:
        parser.error(f"--seconds: expected a positive number, found {options.seconds}")
    return options


def _check(contenders: list[Contender], cell: Cell) -> tuple[list[float], list[str]]:
    """Run every contender on the cell's input; return its errors against the oracle, and complaints."""
    from .contender import steps_of
    from .oracle import TOLERANCE, expected_outputs, inputs

    x = inputs(cell)
    expected, rows = expected_outputs(cell, x)
    outputs = [steps_of(contender, x) for contender in contenders]
    errors = [own.rows(rows).error(expected) for own in outputs]
    complaints = [
        f"{cell.name}: {contender.name} differs from the float64 oracle by {error:.1e}, more than {TOLERANCE:.0e}"
        for contender, error in zip(contenders, errors, strict=True)
        if not error <= TOLERANCE
    ]
    # The oracle has seen a few rows of a batch; all rows of everybody must agree with one another.
    for contender, own in zip(contenders[1:], outputs[1:], strict=True):
        error = own.error(outputs[0])
        if not error <= TOLERANCE:
            pair = f"{contender.name} differs from {contenders[0].name}"
            complaints.append(f"{cell.name}: {pair} by {error:.1e}, more than {TOLERANCE:.0e}")
    return errors, complaints


def _time_cell(cell: Cell, peers: list[str], roofline: Roofline, seconds: float) -> tuple[CellResult, list[str]]:
    from . import ours
    from .peers import contenders as peer_contenders
    from .report import CellResult, Entry
    from .roofline import limit_seconds, phases
    from .timing import empty_call_seconds, measure

    kinds: list[type[Contender]] = [*ours.CONTENDERS]
    for peer in peers:
        kinds += peer_contenders(peer, cell)
    contenders = [kind(cell) for kind in kinds]
    errors, complaints = _check(contenders, cell)

    # The machine is measured between the contenders, at the very sizes that the cell needs.
    probes = {"peak_flops": roofline.sample_peak}
    sets = sorted({phase.working_set for phase in phases(cell)})
    for size in sets:
        probes[f"bandwidth_{size}"] = lambda size=size: roofline.sample_bandwidth(size)  # type: ignore[misc]
    if cell.group == "step":
        probes["empty_call_seconds"] = empty_call_seconds
    timings, medians, cpu_share = measure(contenders, probes, seconds=seconds, one_by_one=cell.group == "step")

    result = CellResult(cell, probes=medians, cpu_share=cpu_share)
    result.limit_seconds = limit_seconds(cell, medians["peak_flops"], lambda size: medians[f"bandwidth_{size}"])
    for contender, timing, error in zip(contenders, timings, errors, strict=True):
        result.entries.append(Entry(contender.engine, contender.variant, timing, error))
    return result, complaints


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; returns 0, 1 if a result was wrong, 2 if it cannot run."""
    options = _arguments(arguments)
    if options.isa is not None:
        os.environ["LSTM_ENGINE_ISA"] = options.isa

    from .timing import pinned

    with pinned():
        return _run(options)


def _run(options: argparse.Namespace) -> int:
    try:
        from lstm_engine import LstmEngineError
        from lstm_engine._core import Kernels
    except ImportError as error:
        print(f"bench: lstm_engine cannot be imported ({error}); build it first: pip install -e .", file=sys.stderr)
        return 2
    from .cells import select
    from .peers import ENGINES, installed
    from .report import as_json, machine_facts, render, write_json
    from .roofline import Roofline, RooflineError

    try:
        cells = select(options.cells)
        chosen = list(ENGINES) if options.peers is None else [name for name in options.peers.split(",") if name]
        if unknown := sorted(set(chosen) - set(ENGINES)):
            raise ValueError(f"peers: {', '.join(unknown)} unknown; expected some of {', '.join(ENGINES)}")
        # The limits are those of the instructions that ours are made of, also where the environment chose them.
        roofline = Roofline(Kernels.select().name)
    except (ValueError, LstmEngineError, RooflineError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2

    left_out = [cell.name for cell in cells if options.quick and cell.flops > _QUICK_FLOPS]
    cells = tuple(cell for cell in cells if cell.name not in left_out)
    seconds = options.seconds or (0.5 if options.quick else 10.0)
    present = [name for name in chosen if installed(name)]
    absent = [name for name in chosen if name not in present]

    begin = time.perf_counter()
    facts = machine_facts(roofline)
    results, complaints = [], []
    for number, cell in enumerate(cells, start=1):
        if sys.stderr.isatty():
            print(f"\r{number}/{len(cells)} {cell.name}\x1b[K", end="", file=sys.stderr, flush=True)
        result, wrong = _time_cell(cell, present, roofline, seconds)
        results.append(result)
        complaints += wrong
        gc.collect()  # a cell's weights and buffers go before the next cell's come
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr)

    settings = {
        "seconds_per_cell": seconds,
        "quick": options.quick,
        "cells": options.cells,
        "peers": chosen,
        "left_out": left_out,
        "total_seconds": time.perf_counter() - begin,
        "complaints": complaints,
    }
    document = as_json(results, facts, settings)
    path = write_json(document)
    if options.json:
        print(json.dumps(document, indent=1))
    else:
        print(render(results, facts, absent, plain=options.plain))
        if left_out:
            print(f"Left out by --quick: {'  '.join(left_out)}")
        print(f"{settings['total_seconds']:.0f} s; everything measured is in {path}")
    for complaint in complaints:
        print(f"WRONG: {complaint}", file=sys.stderr)
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
