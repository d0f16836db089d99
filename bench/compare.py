"""Time the builds of two source trees against each other: ``python -m bench.compare TREE_A TREE_B --cells REGEX``.

    git worktree add ../before HEAD~1
    python -m bench.compare ../before . --build --cells '^32,100,512,512$'

Each tree runs in a process of its own on the same CPU, and the two take turns, sample by sample, so that what slows the
machine slows both. Printed are the smallest and the median time of each, and how much faster B is by each. Percentages
in the comments of ``src/`` come from such runs: a tree with a choice made one way against the same tree with it made
the other way.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

__all__ = ["main"]

_HERE: Final = Path(__file__).resolve().parents[1]

#: A round is one sample of each.
_LEAST_ROUNDS: Final = 5


class Tree:
    """The build of a tree, in a process that waits for what to time."""

    def __init__(self, root: Path, isa: str | None) -> None:
        self.root = root
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).resolve()), "--serve", str(root), isa or ""],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/",
        )  # fmt: skip
        package = Path(self._answer()["package"])
        if not package.is_relative_to(root):
            self.end()
            raise ValueError(f"{root}: lstm_engine was imported from {package}, not from this tree")

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ValueError(
                f"{self.root}: its build ended with status {self._process.wait()}; was it built? (--build)"
            )
        return json.loads(line)

    def ask(self, **question: Any) -> Any:
        """Send a question and return its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def end(self) -> None:
        """Let the process end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def _serve(root: str, isa: str) -> int:
    """Answer questions from standard input with lstm_engine from ``root`` and everything else from this tree."""
    import os

    if isa:
        os.environ["LSTM_ENGINE_ISA"] = isa
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"
    # The package first, from the tree; then bench, from here, whatever the tree's own is like.
    sys.path.insert(0, root)
    import lstm_engine

    place = Path(lstm_engine.__file__).resolve()
    sys.path[0] = str(_HERE)
    from bench import ours
    from bench.cells import CELLS
    from bench.contender import steps_of
    from bench.oracle import inputs
    from bench.timing import garbage_collection_off, inner_loop, pinned

    cells = {cell.name: cell for cell in CELLS}
    timer, count = None, 1
    print(json.dumps({"package": str(place)}), flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        if "cell" in question:
            cell = cells[question["cell"]]
            contender = ours.Fused(cell)
            result = steps_of(contender, inputs(cell))
            timer = contender.timer()
            with pinned(cell.threads):
                count, _ = inner_loop(timer)
            answer: Any = {"bits": hash_of(result.y)}
        else:
            assert timer is not None
            with pinned(cell.threads), garbage_collection_off():
                timer.timeit(max(1, count // 4))
                answer = {"seconds": timer.timeit(count) / count}
        print(json.dumps(answer), flush=True)
    return 0


def hash_of(array: Any) -> str:
    """Return a hash of an array's bytes."""
    import hashlib

    return hashlib.sha256(array.tobytes()).hexdigest()


def _compared(a: Tree, b: Tree, cell: str, seconds: float) -> dict[str, Any]:
    bits = [tree.ask(cell=cell)["bits"] for tree in (a, b)]
    times: tuple[list[float], list[float]] = ([], [])
    begin, rounds = time.perf_counter(), 0
    while rounds < _LEAST_ROUNDS or time.perf_counter() - begin < seconds:
        # Another one begins each round, so that nobody always follows the same neighbour.
        for which in (0, 1) if rounds % 2 == 0 else (1, 0):
            times[which].append((a, b)[which].ask()["seconds"])
        rounds += 1
    least, median = [min(own) for own in times], [statistics.median(own) for own in times]
    return {"cell": cell, "rounds": rounds, "least": least, "median": median, "same_bits": bits[0] == bits[1]}


def main(arguments: list[str] | None = None) -> int:
    """Compare two trees; returns 0, or 2 if it cannot be done."""
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("a", type=Path, help="a source tree, built in place")
    parser.add_argument("b", type=Path, help="another one")
    parser.add_argument(
        "--cells", default="sequence", help="groups, comma separated, or a regular expression over cells"
    )
    parser.add_argument("--seconds", type=float, default=4.0, help="measuring time for each cell (default: 4)")
    parser.add_argument("--isa", help="instruction set of both")
    parser.add_argument("--build", action="store_true", help="build both trees in place first")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(arguments)

    from .cells import select

    try:
        cells = [cell.name for cell in select(options.cells)]
        roots = [root.resolve() for root in (options.a, options.b)]
        for root in roots:
            if not (root / "lstm_engine" / "__init__.py").exists():
                raise ValueError(f"{root}: expected a source tree with the folder lstm_engine in it")
            if options.build:
                subprocess.run([sys.executable, "setup.py", "-q", "build_ext", "--inplace"], cwd=root, check=True)
        trees = [Tree(root, options.isa) for root in roots]
    except (ValueError, subprocess.CalledProcessError) as error:
        print(f"bench.compare: {error}", file=sys.stderr)
        return 2

    rows = []
    if not options.json:
        print(f"A {roots[0]}\nB {roots[1]}\nmicroseconds; B is faster by the percentage in front of it")
        print(f"{'cell':<36}{'A min':>11}{'B min':>11}{'':>8}{'A median':>11}{'B median':>11}{'':>8}  bits")
    for cell in cells:
        try:
            row = _compared(trees[0], trees[1], cell, options.seconds)
        except ValueError as error:
            print(f"bench.compare: {cell}: {error}", file=sys.stderr)
            return 2
        rows.append(row)
        if not options.json:
            figures = ""
            for name in ("least", "median"):
                a, b = row[name]
                figures += f"{1e6 * a:>11.4g}{1e6 * b:>11.4g}{100 * (a / b - 1):>+7.1f}%"
            print(f"{cell:<36}{figures}  {'same' if row['same_bits'] else 'DIFFERENT'}", flush=True)
    for tree in trees:
        tree.end()
    if options.json:
        print(json.dumps({"a": str(roots[0]), "b": str(roots[1]), "cells": rows}, indent=1))
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        sys.exit(_serve(sys.argv[2], sys.argv[3]))
    sys.exit(main())
