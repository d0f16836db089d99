"""Put the last run's table into a page, between its ``bench:begin`` and ``bench:end`` marks.

python -m bench.markdown README.md
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any, Final

RESULTS: Final = Path(__file__).parent / "results" / "latest.json"
MARKS: Final = re.compile(r"(<!-- bench:begin -->\n).*?(<!-- bench:end -->)", re.DOTALL)
PEERS: Final = ("onnxruntime", "torch")
WORDS: Final = {"step": "one step of a stream", "sequence": "one sequence", "batch": "a batch"}


def microseconds(seconds: float | None) -> str:
    """Return a time with three digits, or a dash where there is none."""
    if seconds is None:
        return "-"
    value = seconds * 1e6
    return f"{value:,.0f}" if value >= 99.5 else f"{value:#.3g}".rstrip(".")


def best(cell: dict[str, Any], engine: str) -> float | None:
    """Return the median of an engine's fastest variant."""
    times = [one["p50"] for one in cell["engines"] if one["engine"] == engine and one.get("p50") is not None]
    return min(times, default=None)


def table(results: dict[str, Any]) -> str:
    """Return the table of one run in Markdown."""
    machine = results["machine"]
    lines = [
        "Microseconds a call, median, float32, one thread; every result is checked against the others. "
        f"{machine['cpu']} ({machine['isa']}), {machine['date'][:10]}; ONNX Runtime and PyTorch in the same run, each "
        "driven in its fastest way.",
        "",
        "| | batch x steps x inputs x units | lstm_engine | ONNX Runtime | PyTorch | faster than the best by |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for cell in results["cells"]:
        ours = best(cell, "ours fused")
        peers = [best(cell, peer) for peer in PEERS]
        known = [time for time in peers if time is not None]
        if ours is None or not known:
            continue
        shape = f"{cell['batch']} x {cell['time']} x {cell['features']} x {cell['hidden']}"
        extra = [f"{cell['layers']} layers"] * (cell["layers"] > 1) + ["both directions"] * cell["bidirectional"]
        name = ", ".join([shape, *extra])
        times = " | ".join(microseconds(time) for time in [ours, *peers])
        lines.append(f"| {WORDS[cell['group']]} | {name} | {times} | {min(known) / ours:#.3g} x |")
    return "\n".join(lines)


def main() -> int:
    """Write the table into the page named on the command line, or print it."""
    text = table(json.loads(RESULTS.read_text(encoding="utf-8")))
    if len(sys.argv) < 2:
        print(text)
        return 0
    page = Path(sys.argv[1])
    content, count = MARKS.subn(lambda found: f"{found[1]}{text}\n{found[2]}", page.read_text(encoding="utf-8"))
    if count != 1:
        print(f"{page}: expected one pair of bench:begin and bench:end marks, found {count}", file=sys.stderr)
        return 1
    page.write_text(content, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
