"""Count the instructions of a cell's call: ``python -m bench.profile CELL [CELL ...]``.

The C core is built with symbols and run under ``valgrind --tool=callgrind``, which counts every instruction that is
executed. Printed are, for one call, the instructions of each function, what kind they are, and how many multiply-adds
there are beside those that the equations need. Counts do not depend on what else the machine does. valgrind knows no
AVX-512, so what is counted is AVX2, the same source with shorter vectors.

``--loops`` prints what the innermost loops are made of, without running them; with ``--cross aarch64-linux-gnu-``, the
prefix of another machine's compiler, those of NEON.
"""

from __future__ import annotations

import argparse
import collections
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from bench.cells import Cell, select

__all__ = ["main"]

_ROOT: Final = Path(__file__).resolve().parents[2]
_FLAGS: Final = ("-std=c11", "-O2", "-g", "-ffp-contract=off", "-fno-math-errno", "-D_POSIX_C_SOURCE=200809L")
_LANES: Final = {"avx2": 8, "scalar": 1}

#: Kinds of instructions, by what their name begins with; the first that fits counts. An operand in parentheses is a
#: load or a store of its own kind only where nothing else is done with it.
_KINDS: Final = (
    ("multiply-add", r"vfn?m(add|sub)"),
    ("divide", r"v?div|vsqrt"),
    ("other arithmetic on vectors", r"v(add|sub|mul|max|min|and|or|xor|round|cmp|blend|psll|psrl|psra|padd|psub|cvt)"),
    (
        "loads, broadcasts, stores, moves",
        r"v(mov|broadcast|insert|extract|perm|unpck|shuf|zeroupper|maskmov)|v?p?broadcast",
    ),
)


#: The same for AArch64.
_KINDS_AARCH64: Final = (
    ("multiply-add", r"fml[as]|[su]dot"),
    ("loads, broadcasts, stores, moves", r"ld|st|dup|mov|ins|prfm"),
)
_JUMPS: Final = r"(?:j\w+|b\.\w+|cbn?z\s+\w+,)\s+([0-9a-f]+)"

#: Loops with fewer multiply-adds than this in a turn are not matrix products.
_LOOP_MULTIPLY_ADDS: Final = 6


class ProfileError(RuntimeError):
    """It cannot be counted here."""


def _needed(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        raise ProfileError(f"{program} is not installed; it is needed to count instructions")
    return found


def _kernels(machine: str) -> list[tuple[Path, list[str]]]:
    """Return the sources of a machine's kernels, each with the compiler's flags for it."""
    text = (_ROOT / "src/instruction_sets.def").read_text()
    sets = re.findall(r'^LE_(?:ISA|EXTENSION)\((\w+),.* "(\w+)", "([^"]*)"\)', text, re.M)
    return [
        (_ROOT / f"src/kernels/{name}.c", shlex.split(flags)) for name, own, flags in sets if own in (machine, "any")
    ]


def _compiled(compiler: str, jobs: list[tuple[Path, list[str]]], folder: Path) -> list[Path]:
    objects = []
    for source, flags in jobs:
        objects.append(folder / f"{source.parent.name}_{source.stem}.o")
        include = [f"-I{_ROOT / 'include'}", f"-I{_ROOT / 'src'}"]
        subprocess.run([compiler, *_FLAGS, *include, *flags, "-c", source, "-o", objects[-1]], check=True)
    return objects


def _build(folder: Path) -> Path:
    """Build the driver and the C core with symbols."""
    compiler = _needed("cc")
    jobs: list[tuple[Path, list[str]]] = [(source, []) for source in sorted((_ROOT / "src").glob("*.c"))]
    jobs += _kernels(platform.machine())
    jobs.append((Path(__file__).with_name("driver.c"), []))
    objects = _compiled(compiler, jobs, folder)
    program = folder / "driver"
    # At fixed addresses, so that those of the run are those of the file; nothing is left to be linked while it runs.
    subprocess.run([compiler, "-no-pie", "-Wl,-z,now", "-pthread", *objects, "-o", program, "-lm"], check=True)
    return program


def _counted(lines: Iterable[str]) -> tuple[collections.Counter[int], collections.Counter[str]]:
    """Return how often each address and how many instructions of each function were executed, from callgrind's file."""
    addresses: collections.Counter[int] = collections.Counter()
    functions: collections.Counter[str] = collections.Counter()
    function, of_a_call = "", False
    for line in lines:
        if line.startswith("fn="):
            function = line[3:].strip()
        elif line.startswith("calls="):
            of_a_call = True  # the next line is what the called function cost, which stands at that function too
        elif line.startswith("0x"):
            if not of_a_call:
                address, _, count = line.split()
                addresses[int(address, 16)] += int(count)
                functions[function] += int(count)
            of_a_call = False
    return addresses, functions


def _instructions(program: Path) -> dict[int, str]:
    """Return the instruction at each address of a program."""
    text = subprocess.run(
        [_needed("objdump"), "-d", "--no-show-raw-insn", program], capture_output=True, text=True, check=True
    ).stdout
    found = re.findall(r"^\s+([0-9a-f]+):\t(.+)$", text, re.M)
    return {int(address, 16): instruction.strip() for address, instruction in found}


def _kind(instruction: str, kinds: tuple[tuple[str, str], ...] = _KINDS) -> str:
    return next((kind for kind, pattern in kinds if re.match(pattern, instruction)), "addresses, loops, calls")


def _loops(programs: list[Path], prefix: str = "") -> None:
    """Print what the innermost loops of the vector kernels are made of, as the compiler has made them."""
    command = [_needed(f"{prefix}objdump"), "-d", "--no-show-raw-insn", *programs]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    kinds = _KINDS_AARCH64 if "aarch64" in text else _KINDS
    rows = set()
    for name, body in re.findall(r"^[0-9a-f]+ <([^>]+)>:\n(.*?)(?:\n\n|\Z)", text, re.M | re.S):
        if not name.startswith("tile_"):
            continue
        lines = [(int(at, 16), what) for at, what in re.findall(r"^\s+([0-9a-f]+):\t(.+)$", body, re.M)]
        jumps = [(int(found[1], 16), at) for at, what in lines if (found := re.match(_JUMPS, what))]
        loops = [(begin, end) for begin, end in jumps if lines[0][0] <= begin <= end]
        for begin, end in loops:
            if any(begin <= low and high <= end and (low, high) != (begin, end) for low, high in loops):
                continue  # not an innermost one
            inside = [what for at, what in lines if begin <= at <= end]
            counts = collections.Counter(_kind(what, kinds) for what in inside)
            if counts["multiply-add"] >= _LOOP_MULTIPLY_ADDS:
                width = "avx512" if any("zmm" in what for what in inside) else "avx2" if kinds is _KINDS else "neon"
                from_memory = sum("(" in what for what in inside if _kind(what, kinds) == "multiply-add")
                rest = sum(counts.values()) - counts["multiply-add"] - counts[_KINDS[-1][0]]
                rows.add(
                    (width, name.partition(".")[0], counts["multiply-add"], from_memory, counts[_KINDS[-1][0]], rest)
                )
    print("set     function          multiply-adds  of them from memory  loads and broadcasts  others")
    for width, name, products, from_memory, loads, rest in sorted(rows):
        print(f"{width:<8}{name:<18}{products:>13}{from_memory:>21}{loads:>22}{rest:>8}")


def _profile(cell: Cell, isa: str, program: Path, instructions: dict[int, str], calls: int) -> None:
    words = (cell.batch, cell.time, cell.features, cell.hidden, cell.layers, cell.directions, calls)
    out = program.with_name("callgrind.out")
    command = [
        _needed("valgrind"), "--tool=callgrind", "--dump-instr=yes", "--compress-strings=no", "--compress-pos=no",
        "--toggle-collect=measured", f"--callgrind-out-file={out}", program, isa, *map(str, words),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ProfileError(f"valgrind ended with status {done.returncode}:\n{done.stderr}")
    with out.open(encoding="utf-8", errors="replace") as lines:
        addresses, functions = _counted(lines)
    total = sum(addresses.values())
    kinds: collections.Counter[str] = collections.Counter()
    for address, count in addresses.items():
        kinds[_kind(instructions.get(address, "?"))] += count
    needed = cell.flops / 2 / _LANES[isa]
    print(f"{cell.name}, {isa}: {total / calls:,.0f} instructions a call")
    print(f"  the matrix products need {needed:,.0f} multiply-adds: {total / calls / needed:.2f} instructions for each")
    for kind, count in kinds.most_common():
        print(f"  {count / calls:>14,.0f}  {100 * count / total:5.1f}%  {kind}")
    for function, count in functions.most_common(5):
        if count > 0.005 * total:
            print(f"  {100 * count / total:5.1f}%  in {function}")


def main(arguments: list[str] | None = None) -> int:
    """Count; returns 0, or 2 if it cannot be done."""
    parser = argparse.ArgumentParser(prog="python -m bench.profile", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("cells", nargs="*", help="names of cells, or regular expressions; float32, one thread")
    parser.add_argument("--loops", action="store_true", help="what the innermost loops are made of")
    parser.add_argument("--cross", default="", metavar="PREFIX", help="of another machine's compiler, for --loops")
    parser.add_argument("--isa", default="avx2", choices=sorted(_LANES))
    parser.add_argument("--calls", type=int, default=1, help="calls to count (default: 1)")
    options = parser.parse_args(arguments)
    try:
        chosen = [
            cell
            for words in options.cells
            for cell in select(words)
            if (cell.compute_type, cell.threads, cell.ragged, cell.cold, cell.dense) == ("float32", 1, False, False, 0)
        ]
        with tempfile.TemporaryDirectory() as folder:
            if options.cross:
                kernels = _kernels(options.cross.partition("-")[0])
                _loops(_compiled(_needed(f"{options.cross}gcc"), kernels, Path(folder)), options.cross)
                return 0
            program = _build(Path(folder))
            if options.loops:
                _loops([program])
            instructions = _instructions(program)
            for cell in chosen:
                _profile(cell, options.isa, program, instructions, options.calls)
    except (ValueError, ProfileError, subprocess.CalledProcessError) as error:
        print(f"bench.profile: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
