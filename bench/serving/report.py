"""What a load test has found, as text and as a table of the documentation."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

from bench.report import cpu_model

__all__ = ["RECORDED", "machine", "markdown", "text"]

#: The results that the documentation shows.
RECORDED: Final = Path(__file__).parent / "recorded.json"


def machine() -> str:
    """Return what the results depend on."""
    import lstm_engine as le

    return f"{cpu_model()} ({le.config()['instruction_set']}), {len(os.sched_getaffinity(0))} CPUs"


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:#.3g}".rstrip(".")


def _cells(run: dict[str, Any]) -> list[str]:
    return [
        f"{run['features']} x {run['hidden']}",
        run["engine"],
        run["words"],
        f"{run['steps_a_second']:,.0f}",
        *(_milliseconds(run[name]) for name in ("p50", "p99", "p99.9")),
        f"{run['replies']:,}",
        str(run["lost"]),
        str(run["crossed"]),
    ]


_HEAD: Final = [
    "inputs x units",
    "engine",
    "service",
    "steps a second",
    "p50 ms",
    "p99 ms",
    "p99.9 ms",
    "replies",
    "lost",
    "crossed",
]


def text(runs: list[dict[str, Any]]) -> str:
    """Return a paragraph for each run."""
    return "\n".join("  ".join(f"{name} {cell}" for name, cell in zip(_HEAD, _cells(run), strict=True)) for run in runs)


def markdown(path: Path = RECORDED) -> str:
    """Return the table of the recorded results in Markdown."""
    document = json.loads(path.read_text(encoding="utf-8"))
    words = {"inputs x units", "engine", "service"}
    rows = [_HEAD, ["---" if name in words else "---:" for name in _HEAD], *map(_cells, document["runs"])]
    streams, seconds = document["runs"][0]["streams"], document["runs"][0]["seconds"]
    versions = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    said = (
        f"{streams} streams for {seconds:.0f} s each; {document['machine']}, {document['date'][:10]}; {versions}. The "
        "clients are on the same machine."
    )
    return "\n".join([said, "", *("| " + " | ".join(cells) + " |" for cells in rows)])
