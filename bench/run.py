"""Time lstm_engine beside its peers and beside the machine's limits, and print one table: ``python -m bench.run``."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

# Only the standard library here: LSTM_ENGINE_ISA must be chosen before lstm_engine is imported.
if TYPE_CHECKING:
    from .cells import Cell

__all__ = ["main"]

_ROOT: Final = Path(__file__).resolve().parents[1]

#: What --quick times: one cell of most kinds, beside two peers.
_QUICK: Final = (
    "1,1,16,16",
    "1,1,64,128",
    "1,100,64,128",
    "8,100,64,128",
    "1,100,64,128,int8",
    "1,100,64,128,bfloat16",
    "1,100,256,256,2-threads",
    "1,1,128,128,2-layer,dense-32,int8",
)
_QUICK_PEERS: Final = ("onnxruntime", "torch")

_SECONDS: Final = 4.0
_QUICK_SECONDS: Final = 0.4
#: The stacks are many, and their steps short.
_FPGA_SECONDS: Final = 2.0

#: For the estimate of how long a run takes: what engines reach about, float32 operations a second; seconds that it
#: takes to make the engines of a cell; seconds that it takes to load them, once for each process.
_ABOUT_FLOPS: Final = 60e9
_SETUP_SECONDS: Final = 2.0
_LOADING_SECONDS: Final = 12.0


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.run", description=__doc__)
    parser.add_argument(
        "--cells",
        metavar="WHICH",
        help="groups, comma separated (streams and window, of bench.live, too), or a regular expression over cells",
    )
    parser.add_argument("--peers", metavar="NAMES", help="peers to time, comma separated (default: all)")
    parser.add_argument("--seconds", type=float, help=f"measuring time for each cell (default: {_SECONDS:g})")
    parser.add_argument("--quick", action="store_true", help="a few cells and two peers, a fraction of a second each")
    parser.add_argument("--add", action="store_true", help="keep the last run's cells that are not timed this time")
    parser.add_argument("--isa", help="instruction set for ours and for the limits: avx512, avx2, neon, scalar")
    parser.add_argument("--json", action="store_true", help="print the results as JSON instead of the table")
    parser.add_argument("--plain", action="store_true", help="a table of plain characters even where rich is installed")
    parser.add_argument("--no-plots", action="store_true", help="no pictures")
    options = parser.parse_args(arguments)
    if options.seconds is not None and not options.seconds > 0:
        parser.error(f"--seconds: expected a positive number, found {options.seconds}")
    return options


def _seconds_of(cell: Cell, options: argparse.Namespace) -> float:
    if options.seconds is not None:
        return float(options.seconds)
    if options.quick:
        return _QUICK_SECONDS
    return _FPGA_SECONDS if cell.group == "fpga" else _SECONDS


def _about_seconds(cells: tuple[Cell, ...], peers: list[str], options: argparse.Namespace) -> float:
    """Return about how long the cells will take: at least five rounds of everybody, and what is around them."""
    total = _LOADING_SECONDS * len({cell.threads for cell in cells}) * len(peers) / 6
    for cell in cells:
        speed = _ABOUT_FLOPS * (1.0 if cell.compute_type == "float32" else 2.0)
        call = (1 + len(peers)) * cell.flops / speed
        total += max(_seconds_of(cell, options), 5 * call) + 3 * call + _SETUP_SECONDS * len(peers) / 6
    return total


def _worker(task: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Run one worker over the task's cells; yields its results, and a complaint for a cell that took it along."""
    left = list(task["cells"])
    while left:
        environment = {**os.environ, "LSTM_ENGINE_ISA": task["isa"]}
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"):
            environment[name] = str(task["threads"])
        # What the engines say goes to a file: a pipe that nobody reads would stop them when it is full.
        with tempfile.TemporaryFile("w+", errors="replace") as said_to:
            process = subprocess.Popen(
                [sys.executable, "-m", "bench.worker"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said_to, text=True, cwd=_ROOT, env=environment,
            )  # fmt: skip
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps({**task, "cells": left}))
            process.stdin.close()
            for line in process.stdout:
                result = json.loads(line)
                left.remove(result["cell"])
                yield result
            status = process.wait()
            said_to.seek(0)
            said = said_to.read().strip().splitlines()
        if status == 0 or not left:
            return
        text = f"{left[0]}: the process that timed it ended with status {status}: {said[-1] if said else 'no word'}"
        yield {"cell": left.pop(0), "group": "", "engines": [], "complaints": [text], "took": 0.0}


def _split_live(options: argparse.Namespace) -> list[str]:
    """Take the groups of bench.live out of the cells that are asked for; return them."""
    from .live import GROUPS as LIVE

    if options.cells is None:
        return [] if options.quick or options.json else list(LIVE)
    names = options.cells.split(",")
    live = [name for name in names if name in LIVE]
    if live:
        options.cells = ",".join(name for name in names if name not in LIVE)
    return live


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; returns 0, 1 if a result was wrong, 2 if it cannot run."""
    options = _arguments(arguments)
    if options.isa is not None:
        os.environ["LSTM_ENGINE_ISA"] = options.isa
    try:
        from lstm_engine import LstmEngineError
        from lstm_engine._core import Kernels
    except ImportError as error:
        print(f"bench: lstm_engine cannot be imported ({error}); build it first: pip install -e .", file=sys.stderr)
        return 2
    from .cells import CELLS, select
    from .peers import ENGINES, installed
    from .report import RESULTS, machine_facts, read_results, render, write_results
    from .roofline import Roofline, RooflineError
    from .timing import pinned

    live = _split_live(options)
    if live and options.cells == "":
        return _time_live(live, options)
    try:
        cells = select(options.cells)
        if options.quick and options.cells is None:
            cells = tuple(cell for cell in CELLS if cell.name in _QUICK)
        if options.peers is not None:
            chosen = [name for name in options.peers.split(",") if name]
        else:
            chosen = list(_QUICK_PEERS if options.quick else ENGINES)
        if unknown := sorted(set(chosen) - set(ENGINES)):
            raise ValueError(f"peers: {', '.join(unknown)} unknown; expected some of {', '.join(ENGINES)}")
        # The limits are those of the instructions that ours are made of, also where the environment chose them.
        isa = Kernels.select().name
        with pinned():
            facts = machine_facts(Roofline(isa))
        before = read_results() if options.add else None
    except (ValueError, LstmEngineError, RooflineError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2

    peers = [name for name in chosen if installed(name)]
    absent = [name for name in chosen if name not in peers]
    about = _about_seconds(cells, peers, options)
    print(f"{len(cells)} cells, about {about / 60:.0f} min {about % 60:.0f} s", file=sys.stderr)
    if absent:
        print(f"Not installed, so not compared: {', '.join(absent)} (make bench installs all)", file=sys.stderr)

    begin = time.perf_counter()
    results: list[dict[str, Any]] = []
    settings: dict[str, Any] = {"quick": options.quick, "cells": options.cells, "peers": chosen}
    # A quick look must not take the place of a quarter of an hour's work.
    path = RESULTS.with_name("quick.json") if options.quick else RESULTS
    for threads in sorted({cell.threads for cell in cells}):
        own = [cell for cell in cells if cell.threads == threads]
        task = {
            "cells": [cell.name for cell in own],
            "seconds": {cell.name: _seconds_of(cell, options) for cell in own},
            "peers": peers,
            "threads": threads,
            "isa": isa,
        }
        for result in _worker(task):
            results.append({**result, "absent": absent, "date": facts["date"], "isa": isa})
            # As it stands now, so that a run that is broken off has not been in vain.
            write_results(_document(results, before, facts, settings), path)
            _progress(result, len(results), len(cells), time.perf_counter() - begin, about)
    _progress(None, 0, 0, 0, 0)

    settings["total_seconds"] = time.perf_counter() - begin
    document = _document(results, before, facts, settings)
    write_results(document, path)
    complaints = [text for result in results for text in result["complaints"]]
    print(json.dumps(document, indent=1) if options.json else render(document, plain=options.plain))
    out = sys.stderr if options.json else sys.stdout
    print(f"{settings['total_seconds']:.0f} s; everything measured is in {path}", file=out)
    if not options.no_plots:
        _draw(document, path.parent, out)
    status = _time_live(live, options) if live else 0
    for complaint in complaints:
        print(f"WRONG: {complaint}", file=sys.stderr)
    return 1 if complaints else status


def _time_live(groups: list[str], options: argparse.Namespace) -> int:
    """Time pools of streams and sliding windows, whose peer is ONNX Runtime."""
    from .peers import installed

    if not installed("onnxruntime"):
        print("No streams and windows: onnxruntime, which they are compared with, is not installed", file=sys.stderr)
        return 0
    from .live import main as live

    return live([*groups, *([] if options.seconds is None else ["--seconds", str(options.seconds)])])


def _document(
    results: list[dict[str, Any]], before: dict[str, Any] | None, facts: dict[str, Any], settings: dict[str, Any]
) -> dict[str, Any]:
    """Return what is saved: the cells in their order, those of the run before where they were not timed this time."""
    from .cells import CELLS

    cells = {result["cell"]: result for result in (before["cells"] if before is not None else [])}
    cells |= {result["cell"]: result for result in results}
    ordered = [cells[cell.name] for cell in CELLS if cell.name in cells]
    return {"machine": facts, "settings": settings, "cells": ordered}


def _draw(document: dict[str, Any], folder: Path, out: Any) -> None:
    try:
        from .plots import draw
    except ImportError as error:
        print(f"no pictures: {error}", file=out)
        return
    for picture in draw(document, folder):
        print(f"picture: {picture}", file=out)


def _progress(result: dict[str, Any] | None, done: int, all_cells: int, seconds: float, about: float) -> None:
    """Say which cell is done; in place on a terminal, a line each elsewhere."""
    if result is None:
        if sys.stderr.isatty():
            print("\r\x1b[K", end="", file=sys.stderr)
        return
    # What is left by the estimate, corrected by how it has fared so far.
    left = max(0.0, about * (1 - done / all_cells) if seconds < 1 else seconds * (all_cells - done) / done)
    text = f"{done}/{all_cells} {result['cell']} {seconds:.0f} s, about {left:.0f} s left"
    print(
        f"\r{text}\x1b[K" if sys.stderr.isatty() else text,
        end="" if sys.stderr.isatty() else "\n",
        file=sys.stderr,
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
