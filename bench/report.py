"""Results of a run: the facts of the machine, the tables, and the file that keeps everything.

``python -m bench.report [FILE]`` prints the tables of a saved run again.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import importlib.util
import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from .results import (
    OURS,
    PEERS,
    best_peer,
    disturbed,
    empty_calls,
    fastest,
    of_limit,
    refusal,
    saving,
    scaling,
    speed_up,
)

__all__ = ["RESULTS", "filled_columns", "left_out", "machine_facts", "read_results", "render", "row", "write_results"]

RESULTS: Final = Path(__file__).resolve().parent / "results" / "latest.json"


# --- the machine


def cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


#: Distributions whose versions decide the figures.
_PACKAGES: Final = {
    "numpy": "numpy",
    "scipy": "scipy",
    "onnxruntime": "onnxruntime",
    "torch": "torch",
    "openvino": "openvino",
    "litert": "ai-edge-litert",
    "keras": "keras",
    "tensorflow": "tensorflow-cpu",
}


def machine_facts(roofline: Any) -> dict[str, Any]:
    """Return what a reader must know about where the numbers come from; measures the roofline's curve."""
    import lstm_engine

    from .roofline import cache_bytes

    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": cpu_model(),
        "cpus": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "caches_bytes": cache_bytes(),
        "isa": roofline.isa,
        "clock_hz": roofline.clock(),
        "peak_flops": roofline.peak(),
        "peak_bfloat16": roofline.peak("bfloat16") if roofline.has_products_of("bfloat16") else None,
        "peak_int8": roofline.peak("int8") if roofline.has_products_of("int8") else None,
        "bandwidth": {
            name: {"bytes": size, "bytes_per_second": rate} for name, (size, rate) in roofline.curve().items()
        },
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "versions": {
            "python": platform.python_version(),
            "lstm_engine": lstm_engine.__version__,
            **{name: _version(package) for name, package in _PACKAGES.items()},
        },
    }


def _heading(facts: dict[str, Any]) -> list[str]:
    caches = ", ".join(f"{name} {size // 1024} KiB" for name, size in facts["caches_bytes"].items()) or "caches unknown"
    rates = ", ".join(f"{name} {entry['bytes_per_second'] / 1e9:.0f}" for name, entry in facts["bandwidth"].items())
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    narrow = [
        f"{name} {facts[key] / 1e9:.0f}" if facts.get(key) else f"{name} none"
        for name, key in (("bfloat16", "peak_bfloat16"), ("int8", "peak_int8"))
    ]
    return [
        f"{facts['cpu']}, {facts['cpus']} CPUs, {facts['isa']}, {caches}; {facts['system']}; {facts['date']}",
        versions,
        f"One core: {facts['peak_flops'] / 1e9:.0f} GFLOP/s at {facts['clock_hz'] / 1e9:.2f} GHz, products of "
        f"{' and '.join(narrow)} GOP/s; loads, GB/s: {rates}",
    ]


# --- the tables


def _microseconds(seconds: float | None) -> str:
    if seconds is None:
        return ""
    value = seconds * 1e6
    return f"{value:,.0f}" if value >= 1000 else f"{value:#.3g}".rstrip(".")


def _time(cell: dict[str, Any], engine: str) -> str:
    """Return an engine's time, or the word that stands for its absence."""
    entry = fastest(cell, engine)
    if entry is not None:
        return _microseconds(entry["p50"])
    if engine in cell.get("absent", ()):
        return "not installed"
    said = refusal(cell, engine)
    if said is None:
        return ""
    return "not in this build" if engine.startswith("ours") and "UnsupportedModelError" in said else "-"


def _percentile(cell: dict[str, Any], which: str) -> str:
    entry = fastest(cell, OURS)
    return "" if entry is None else _microseconds(entry.get(which))


def _error(cell: dict[str, Any], engine: str) -> str:
    entry = fastest(cell, engine)
    return "" if entry is None else f"{entry['relative_l2_error']:.0e}"


def row(cell: dict[str, Any]) -> dict[str, str]:
    """Return what is said of a cell, by column."""
    peer, ours = best_peer(cell), fastest(cell, OURS)

    def times(value: float | None, form: str = ".2f") -> str:
        return "" if value is None else f"{value:{form}}x"

    def percent(value: float | None) -> str:
        return "" if value is None else f"{100 * value:.0f}%"

    single = ours if ours is not None and cell.get("time") == 1 else None
    return {
        "B,T,I,H": cell["cell"],
        "ours": _time(cell, OURS),
        "p99": _percentile(cell, "single_call_p99") if single else "",
        "p99.9": _percentile(cell, "single_call_p999") if single else "",
        "error": _error(cell, OURS),
        "blas": _time(cell, "ours blas"),
        "padded": _time(cell, "ours padded"),
        "one thread": _time(cell, "ours one thread"),
        **{name: _time(cell, name) for name in PEERS},
        "best peer": "" if peer is None else peer["engine"],
        "its p99": "" if peer is None or not single else _microseconds(peer.get("single_call_p99")),
        "its error": "" if peer is None else _error(cell, peer["engine"]),
        "speed-up": times(speed_up(cell)),
        "limit": _microseconds(cell.get("limit")),
        "of limit": percent(of_limit(cell)),
        "of one thread": times(scaling(cell)),
        "of ideal": percent(saving(cell)),
        "empty calls": times(empty_calls(cell), ",.1f"),
        "FPGA, published": cell.get("published", ""),
    }


def filled_columns(rows: Sequence[dict[str, str]]) -> list[str]:
    """Return the columns in which any row says something."""
    return [name for name in rows[0] if any(one[name] not in ("", "-") for one in rows)]


def left_out(cells: Sequence[dict[str, Any]]) -> str:
    """Return which peers none of the cells has, and why, in one line; empty if there are none."""
    reasons = {}
    for peer in PEERS:
        said = [refusal(cell, peer) for cell in cells]
        if said and all(said):
            reasons[peer] = "; ".join(dict.fromkeys(filter(None, said)))
    return "; ".join(f"{peer}: {reason}" for peer, reason in reasons.items())


def _plain(title: str, rows: Sequence[dict[str, str]]) -> str:
    columns = filled_columns(rows)
    widths = {name: max(len(name), *(len(one[name]) for one in rows)) for name in columns}
    first = columns[0]

    def line(one: dict[str, str]) -> str:
        cells = [one[name].ljust(widths[name]) if name == first else one[name].rjust(widths[name]) for name in columns]
        return "  ".join(cells).rstrip()

    head = line({name: name for name in columns})
    return "\n".join([title, head, "-" * len(head), *map(line, rows)])


def _rich(title: str, rows: Sequence[dict[str, str]]) -> str:
    import io

    from rich import box
    from rich.console import Console
    from rich.table import Table

    columns = filled_columns(rows)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
    for name in columns:
        table.add_column(name, justify="left" if name == columns[0] else "right", no_wrap=True)
    for one in rows:
        table.add_row(*(one[name] for name in columns))
    # As wide as the table needs: a benchmark is often read from a file, and a folded figure is unreadable.
    console = Console(file=io.StringIO(), width=260, color_system=None)
    console.print(table)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.splitlines()).strip("\n")


_EXPLAINED: Final = (
    "Microseconds a call, median; p99, p99.9: of single calls, the clock's time included. error: relative L2 against a "
    "float64 oracle.\nspeed-up: best peer / ours. limit: roofline measured in the same rounds; of limit: limit / ours. "
    "of one thread: ours on one thread / ours.\nof ideal: what knowing the lengths saves, of what there is to save. "
    "empty calls: ours / a call of an empty bound method. FPGA, published: mean microseconds.\n"
    "-: the peer cannot run the cell, or nobody would run it there; the file of results says why."
)


def render(document: dict[str, Any], *, plain: bool = False) -> str:
    """Return the heading and the tables, one for each group; ``plain`` does without rich even if it is installed."""
    from .cells import GROUPS

    cells = [cell for cell in document["cells"] if cell["engines"]]
    use = _plain if plain or importlib.util.find_spec("rich") is None else _rich
    parts = _heading(document["machine"])
    for group, words in GROUPS.items():
        own = [cell for cell in cells if cell["group"] == group]
        if own:
            parts += ["", use(f"{group}: {words}", [row(cell) for cell in own])]
            if reasons := left_out(own):
                parts.append(f"not here: {reasons}")
    parts += ["", _EXPLAINED]
    # Long calls are cut up by other processes, short ones fall between them: then not even ratios can be trusted.
    if bad := [cell for cell in cells if disturbed(cell)]:
        least = min(cell["cpu_share"] for cell in bad)
        names = "  ".join(cell["cell"] for cell in bad)
        parts.append(f"DISTURBED: other processes took up to {100 * (1 - least):.0f}% of the CPU during {names}")
    return "\n".join(parts)


# --- the file


def read_results(path: Path = RESULTS) -> dict[str, Any]:
    """Return a saved run.

    Raises
    ------
    ValueError
        If there is none, or it is not one.
    """
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        _ = document["machine"]["cpu"], [cell["cell"] for cell in document["cells"]]
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}; make it with python -m bench.run") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: expected the results of python -m bench.run, found something else ({error})"
        ) from None
    return document


def write_results(document: dict[str, Any], path: Path = RESULTS) -> Path:
    """Write a run to ``path``, whole or not at all, and return the path."""
    path.parent.mkdir(exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(document, indent=1) + "\n")
    unfinished.replace(path)
    return path


if __name__ == "__main__":
    try:
        print(render(read_results(*map(Path, sys.argv[1:2]))))
    except ValueError as problem:
        sys.exit(f"bench: {problem}")
