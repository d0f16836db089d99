"""Put the recorded results into pages, between their ``bench:begin TABLE`` and ``bench:end`` marks.

    python -m bench.markdown README.md docs/performance.md     # write
    python -m bench.markdown --check README.md                 # exit status 1 if a page is not as it would be written
    python -m bench.markdown                                   # print every table

TABLE is ``summary``, ``machine``, ``errors``, ``targets`` (of all machines), a group of cells, or ``serving``,
``streams``, ``window``, ``elsewhere`` or ``without_amx`` (other machines), which have recorded results of their own.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any, Final

from .cells import GROUPS
from .guard import RECORDED
from .live import GROUPS as LIVE
from .live import markdown as live_table
from .report import filled_columns, left_out, read_results, row
from .results import OURS, best_peer, fastest, of_limit, speed_up
from .serving.report import markdown as serving_table
from .targets import TARGETS
from .targets import row as target_row

__all__ = ["main", "table"]

_MARKS: Final = re.compile(r"(<!-- bench:begin (?P<table>\w+) -->\n).*?(<!-- bench:end -->)", re.DOTALL)

#: Results of machines of other kinds, recorded apart.
_ELSEWHERE: Final = {
    "elsewhere": Path(__file__).parent / "recorded_elsewhere.json",
    "without_amx": Path(__file__).parent / "recorded_without_amx.json",
}

#: Rows of the summary: few enough to be read, and every regime.
_SUMMARY: Final = (
    ("one step of a stream", ("1,1,16,16", "1,1,64,128", "1,1,256,256", "1,1,512,512")),
    ("one sequence", ("1,100,64,128", "1,100,256,256", "1,100,1024,1024")),
    ("a batch", ("8,100,64,128", "32,100,64,128", "32,100,512,512")),
    ("a batch of different lengths", ("32,100,64,128,lengths",)),
    ("both directions", ("16,100,128,256,2-layer,bidirectional",)),
    ("one step, int8", ("1,1,256,256,int8",)),
    ("one sequence, int8", ("1,100,256,256,int8",)),
    ("a batch, int8", ("32,100,256,256,int8",)),
    ("one sequence, bfloat16", ("1,100,256,256,bfloat16",)),
    ("a batch, bfloat16", ("32,100,256,256,bfloat16",)),
    ("one sequence, two threads", ("1,100,512,512,2-threads",)),
    ("a batch, two threads", ("32,100,256,256,2-threads",)),
)
_SUMMARY_PEERS: Final = {"onnxruntime": "ONNX Runtime", "torch": "PyTorch", "openvino": "OpenVINO", "litert": "LiteRT"}

_LEFT_OUT: Final = frozenset({"best peer", "its p99", "its error"})


def _microseconds(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    value = seconds * 1e6
    return f"{value:,.0f}" if value >= 99.5 else f"{value:#.3g}".rstrip(".")


def _lines(head: list[str], rows: list[list[str]], words: int = 1) -> str:
    """Return a table whose first ``words`` columns are words and the rest figures."""
    rule = ["---" if column < words else "---:" for column in range(len(head))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, rule, *rows])


def _source(document: dict[str, Any]) -> str:
    machine = document["machine"]
    return f"{machine['cpu']} ({machine['isa']}), {machine['date'][:10]}"


def _engine_time(cell: dict[str, Any], engine: str) -> float | None:
    entry = fastest(cell, engine)
    return None if entry is None else float(entry["p50"])


def _summary(document: dict[str, Any]) -> str:
    cells = {cell["cell"]: cell for cell in document["cells"]}
    rows = []
    for words, names in _SUMMARY:
        for name in names:
            cell = cells.get(name)
            if cell is None or fastest(cell, OURS) is None or best_peer(cell) is None:
                continue
            shape = f"{cell['batch']} x {cell['time']} x {cell['features']} x {cell['hidden']}"
            shape += f", {cell['layers']} layers" * (cell["layers"] > 1)
            times = [_microseconds(_engine_time(cell, engine)) for engine in (OURS, *_SUMMARY_PEERS)]
            rows.append([words, shape, *times, f"{speed_up(cell):#.3g} x", f"{100 * (of_limit(cell) or 0):.0f}%"])
    head = [
        "",
        "batch x steps x inputs x units",
        "lstm_engine",
        *_SUMMARY_PEERS.values(),
        "faster by",
        "of the limit",
    ]
    said = (
        f"Microseconds a call, median, one thread and float32 unless it says otherwise; {_source(document)}. All "
        "engines take turns, each driven in its fastest way, and every result is checked against a float64 oracle. "
        "Faster by: than the fastest of the others. The limit is what the arithmetic units and the caches of this "
        "machine can give, measured in the same rounds."
    )
    return f"{said}\n\n{_lines(head, rows, words=2)}"


def _machine(document: dict[str, Any]) -> str:
    machine = document["machine"]
    rows = [["clock", f"{machine['clock_hz'] / 1e9:.2f} GHz"]]
    peaks = (
        ("float32", "multiply-adds of float32", "peak_flops"),
        ("bfloat16", "products of bfloat16", "peak_bfloat16"),
        ("int8", "products of int8", "peak_int8"),
    )
    for _, words, key in peaks:
        rows.append([words, f"{machine[key] / 1e9:.0f} GOP/s" if machine.get(key) else "no instruction"])
    for name, entry in machine["bandwidth"].items():
        rows.append([f"loads, {name} ({entry['bytes'] >> 10:,} KiB)", f"{entry['bytes_per_second'] / 1e9:.0f} GB/s"])
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    head = ["one core", ""]
    return f"{_source(document)}, {machine['cpus']} CPUs, {machine['system']}; {versions}.\n\n{_lines(head, rows)}"


def _errors(document: dict[str, Any]) -> str:
    """Return the largest error of each engine in each compute type, over all cells."""
    worst: dict[tuple[str, str], float] = {}
    for cell in document["cells"]:
        for entry in cell["engines"]:
            if entry.get("relative_l2_error"):
                key = entry["engine"], cell["compute_type"]
                worst[key] = max(worst.get(key, 0.0), entry["relative_l2_error"])
    types = [name for name in ("float32", "bfloat16", "int8") if any(key[1] == name for key in worst)]
    engines = [OURS, *_SUMMARY_PEERS, "keras", "numpy"]
    rows = [
        ["ours" if engine == OURS else engine]
        + [f"{worst[engine, name]:.1e}" if (engine, name) in worst else "-" for name in types]
        for engine in engines
        if any(key[0] == engine for key in worst)
    ]
    return _lines(["largest relative L2 error", *types], rows)


def _elsewhere(name: str) -> str:
    """Return one table of all cells of another machine, beside the fastest of the others there."""
    document = read_results(_ELSEWHERE[name])
    rows = []
    for cell in document["cells"]:
        peer = best_peer(cell)
        if peer is not None and fastest(cell, OURS) is not None:
            times = [_microseconds(_engine_time(cell, engine)) for engine in (OURS, peer["engine"])]
            limit = f"{100 * (of_limit(cell) or 0):.0f}%"
            rows.append([cell["cell"], times[0], peer["engine"], times[1], f"{speed_up(cell):#.3g}x", limit])
    machine = document["machine"]
    peaks = ", ".join(
        f"{machine[key] / 1e9:,.0f} GOP/s of {kind}" if machine[key] else f"no products of {kind}"
        for kind, key in (("float32", "peak_flops"), ("bfloat16", "peak_bfloat16"), ("int8", "peak_int8"))
    )
    head = ["B,T,I,H", "ours", "best peer", "its time", "speed-up", "of limit"]
    return f"{_source(document)}; one core: {peaks}.\n\n{_lines(head, rows)}"


def _targets(document: dict[str, Any]) -> str:
    """Return what each machine reached of what is aimed at."""
    documents = [document, *(read_results(path) for path in _ELSEWHERE.values())]
    rows = [[target.regime, target.words, *(target_row(target, one) for one in documents)] for target in TARGETS]
    return _lines(["regime", "figure", "AMD Zen 4", "Intel with AMX", "Intel without"], rows, words=5)


def table(document: dict[str, Any], name: str) -> str:
    """Return a table in Markdown.

    Raises
    ------
    ValueError
        If there is no table of that name.
    """
    made = {
        "summary": _summary,
        "machine": _machine,
        "errors": _errors,
        "serving": lambda _: serving_table(),
        "targets": _targets,
        **{other: lambda _, other=other: _elsewhere(other) for other in _ELSEWHERE},
    }
    if name in made:
        return made[name](document)
    if name in LIVE:
        return live_table(name)
    if name not in GROUPS:
        raise ValueError(f"table {name!r} is unknown; expected one of {', '.join([*made, *LIVE, *GROUPS])}")
    rows = [row(cell) for cell in document["cells"] if cell["group"] == name and cell["engines"]]
    if not rows:
        return f"Group `{name}` is not in the recorded results."
    columns = [column for column in filled_columns(rows) if column not in _LEFT_OUT]
    lines = _lines(columns, [[one[column] or "-" for column in columns] for one in rows])
    reasons = left_out([cell for cell in document["cells"] if cell["group"] == name and cell["engines"]])
    return f"{lines}\n\nNot here: {reasons}." if reasons else lines


def main(arguments: list[str] | None = None) -> int:
    """Write, check or print; returns 0, 1 if a page is not up to date, 2 if it cannot be done."""
    parser = argparse.ArgumentParser(prog="python -m bench.markdown", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("pages", nargs="*", type=Path)
    parser.add_argument("--results", type=Path, default=RECORDED, help="default: the recorded ones")
    parser.add_argument("--check", action="store_true", help="write nothing; say which page would change")
    options = parser.parse_args(arguments)
    stale = []
    try:
        document = read_results(options.results)
        if not options.pages:
            for name in ("summary", "machine", "errors", "targets", "serving", *LIVE, *_ELSEWHERE, *GROUPS):
                print(f"{name}\n\n{table(document, name)}\n")
        for page in options.pages:
            before = page.read_text(encoding="utf-8")
            after, count = _MARKS.subn(lambda found: f"{found[1]}{table(document, found['table'])}\n{found[3]}", before)
            if count == 0:
                raise ValueError(
                    f"{page}: expected marks <!-- bench:begin TABLE --> and <!-- bench:end -->, found none"
                )
            if after != before and options.check:
                stale.append(page)
            elif after != before:
                page.write_text(after, encoding="utf-8")
    except (OSError, ValueError) as error:
        print(f"bench.markdown: {error}", file=sys.stderr)
        return 2
    for page in stale:
        print(f"{page}: not what the recorded results say; run python -m bench.markdown {page}")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
