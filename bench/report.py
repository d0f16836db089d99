"""Results of a run: what they are made of, the one table, and the file that keeps them."""

from __future__ import annotations

import datetime
import importlib.metadata
import importlib.util
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import lstm_engine

from .cells import GROUPS, Cell
from .roofline import Roofline, cache_bytes
from .timing import Timing

__all__ = ["CellResult", "Entry", "machine_facts", "render", "write_json"]

_RESULTS: Final = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True, slots=True)
class Entry:
    """One contender's result on one cell."""

    engine: str
    variant: str
    timing: Timing
    #: Relative L2 error against the float64 oracle.
    error: float


@dataclass(slots=True)
class CellResult:
    """Everything measured on one cell."""

    cell: Cell
    entries: list[Entry] = field(default_factory=list)
    #: Rates and times of the machine, medians of the same rounds.
    probes: dict[str, float] = field(default_factory=dict)
    limit_seconds: float | None = None
    #: Part of the CPU's time that was ours while measuring.
    cpu_share: float = 1.0

    def fastest(self, engine: str) -> Entry | None:
        """Return the fastest way that ``engine`` was driven, or None if it was not timed."""
        own = [entry for entry in self.entries if entry.engine == engine]
        return min(own, key=lambda entry: entry.timing.p50, default=None)

    def best_peer(self) -> Entry | None:
        """Return the fastest contender that is not ours, or None."""
        peers = [entry for entry in self.entries if not entry.engine.startswith("ours")]
        return min(peers, key=lambda entry: entry.timing.p50, default=None)

    @property
    def ratio(self) -> float | None:
        """How many times faster than the best peer our fused kernels are."""
        ours, peer = self.fastest("ours fused"), self.best_peer()
        return None if ours is None or peer is None else peer.timing.p50 / ours.timing.p50

    @property
    def fraction_of_limit(self) -> float | None:
        """The machine's limit over the time of our fused kernels; 1 is the limit."""
        ours = self.fastest("ours fused")
        return None if ours is None or self.limit_seconds is None else self.limit_seconds / ours.timing.p50

    @property
    def empty_calls(self) -> float | None:
        """Time of our fused kernels in calls of an empty bound method; single steps only."""
        ours, empty = self.fastest("ours fused"), self.probes.get("empty_call_seconds")
        return None if ours is None or empty is None else ours.timing.p50 / empty


# --- the machine


def _cpu_model() -> str:
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


def machine_facts(roofline: Roofline) -> dict[str, Any]:
    """Return what a reader must know about where the numbers come from; measures the roofline's curve."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": _cpu_model(),
        "cpus": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "caches_bytes": cache_bytes(),
        "isa": roofline.isa,
        "clock_hz": roofline.clock(),
        "peak_flops": roofline.peak(),
        "bandwidth": {
            name: {"bytes": size, "bytes_per_second": rate} for name, (size, rate) in roofline.curve().items()
        },
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "versions": {
            "python": platform.python_version(),
            "lstm_engine": lstm_engine.__version__,
            **{name: _version(name) for name in ("numpy", "scipy", "onnxruntime", "onnx", "torch")},
        },
    }


def _heading(facts: dict[str, Any]) -> list[str]:
    caches = ", ".join(f"{name} {size // 1024} KiB" for name, size in facts["caches_bytes"].items()) or "caches unknown"
    rates = ", ".join(f"{name} {entry['bytes_per_second'] / 1e9:.0f}" for name, entry in facts["bandwidth"].items())
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return [
        f"{facts['cpu']}, {facts['cpus']} CPUs, {facts['isa']}, {caches}; {facts['system']}; {facts['date']}",
        versions,
        f"One core: {facts['peak_flops'] / 1e9:.0f} GFLOP/s at {facts['clock_hz'] / 1e9:.2f} GHz; loads, GB/s: {rates}",
    ]


# --- the table

#: With less than this part of the CPU's time, a cell is reported as disturbed.
_UNDISTURBED: Final = 0.97

_COLUMNS: Final = (
    "B,T,I,H",
    "ours fused",
    "p99",
    "ours blas",
    "onnxruntime",
    "torch",
    "numpy",
    "best peer",
    "speed-up",
    "limit",
    "of limit",
    "empty calls",
)


def _microseconds(seconds: float | None) -> str:
    if seconds is None:
        return ""
    value = seconds * 1e6
    return f"{value:,.0f}" if value >= 1000 else f"{value:#.3g}".rstrip(".")


def _row(result: CellResult, absent: Sequence[str]) -> list[str]:
    times = {}
    for engine in _COLUMNS:
        entry = result.fastest(engine)
        times[engine] = "not installed" if engine in absent else _microseconds(entry.timing.p50 if entry else None)
    ours, peer = result.fastest("ours fused"), result.best_peer()
    return [
        result.cell.name,
        times["ours fused"],
        _microseconds(ours.timing.latency(99) if ours else None),
        times["ours blas"],
        times["onnxruntime"],
        times["torch"],
        times["numpy"],
        "" if peer is None else peer.engine,
        "" if result.ratio is None else f"{result.ratio:.2f}x",
        _microseconds(result.limit_seconds),
        "" if result.fraction_of_limit is None else f"{100 * result.fraction_of_limit:.0f}%",
        "" if result.empty_calls is None else f"{result.empty_calls:,.1f}x",
    ]


def _plain(groups: Sequence[tuple[str, list[list[str]]]]) -> str:
    every = [list(_COLUMNS)] + [row for _, rows in groups for row in rows]
    widths = [max(len(row[column]) for row in every) for column in range(len(_COLUMNS))]

    def line(row: Sequence[str]) -> str:
        cells = [row[0].ljust(widths[0])] + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        return "  ".join(cells).rstrip()

    rule = "-" * len(line([" " * width for width in widths[:-1]] + ["-" * widths[-1]]))
    lines = [line(_COLUMNS)]
    for group, rows in groups:
        lines += [f"{group} {rule[len(group) + 1 :]}", *map(line, rows)]
    return "\n".join(lines)


def _rich(groups: Sequence[tuple[str, list[list[str]]]]) -> str:
    import io

    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for place, column in enumerate(_COLUMNS):
        table.add_column(column, justify="left" if place == 0 else "right", no_wrap=True)
    for group, rows in groups:
        table.add_row(f"[bold]{group}[/bold]")
        for row in rows:
            table.add_row(*row)
        table.add_section()
    # As wide as the table needs: a benchmark is often read from a file, and a folded figure is unreadable.
    console = Console(file=io.StringIO(), width=240, color_system=None)
    console.print(table)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.splitlines()).strip("\n")


def render(
    results: Sequence[CellResult], facts: dict[str, Any], absent: Sequence[str] = (), *, plain: bool = False
) -> str:
    """Return the heading and the one table.

    Parameters
    ----------
    results
        The cells, in any order.
    facts
        From :func:`machine_facts`.
    absent
        Peers that are not installed.
    plain
        Whether to do without rich even if it is installed.
    """
    groups = [
        (group, [_row(result, absent) for result in results if result.cell.group == group])
        for group in GROUPS
        if any(result.cell.group == group for result in results)
    ]
    table = _plain(groups) if plain or importlib.util.find_spec("rich") is None else _rich(groups)
    explained = (
        "Microseconds a call, median (p99: of single calls, the clock's time included), one thread, float32. "
        "speed-up: best peer / ours fused.\nlimit: roofline measured in the same rounds; of limit: limit / ours fused. "
        "empty calls: ours fused / a call of an empty bound method."
    )
    lines = [*_heading(facts), "", table, "", explained]
    # Long calls are cut up by other processes, short ones fall between them: then not even ratios can be trusted.
    if disturbed := [result for result in results if result.cpu_share < _UNDISTURBED]:
        least = min(result.cpu_share for result in disturbed)
        names = "  ".join(result.cell.name for result in disturbed)
        lines.append(f"DISTURBED: other processes took up to {100 * (1 - least):.0f}% of the CPU during {names}")
    return "\n".join(lines)


# --- the file


def as_json(results: Sequence[CellResult], facts: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Return everything as plain JSON values; times in seconds."""
    cells = []
    for result in results:
        cell, peer = result.cell, result.best_peer()
        cells.append(
            {
                "cell": cell.name,
                "group": cell.group,
                "batch": cell.batch,
                "time": cell.time,
                "features": cell.features,
                "hidden": cell.hidden,
                "layers": cell.layers,
                "bidirectional": cell.bidirectional,
                "engines": [
                    {
                        "engine": entry.engine,
                        "variant": entry.variant,
                        "p50": entry.timing.p50,
                        "samples": len(entry.timing.samples),
                        "single_call_p50": entry.timing.latency(50),
                        "single_call_p99": entry.timing.latency(99),
                        "single_calls": len(entry.timing.latencies),
                        "relative_l2_error": entry.error,
                    }
                    for entry in result.entries
                ],
                "best_peer": None if peer is None else f"{peer.engine} ({peer.variant})",
                "speed_up": result.ratio,
                "limit": result.limit_seconds,
                "fraction_of_limit": result.fraction_of_limit,
                "empty_calls": result.empty_calls,
                "cpu_share": result.cpu_share,
                "probes": result.probes,
            }
        )
    return {"machine": facts, "settings": settings, "cells": cells}


def write_json(document: dict[str, Any]) -> Path:
    """Write ``document`` to ``bench/results/latest.json`` and return the path."""
    _RESULTS.mkdir(exist_ok=True)
    path = _RESULTS / "latest.json"
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(document, indent=1) + "\n")
    unfinished.replace(path)
    return path
