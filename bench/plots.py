"""Pictures of a run: ``python -m bench.plots [FILE [FOLDER]]``.

- ``speedup.png``: how many times faster ours is than each peer, cell by cell
- ``limit.png``: how near to the machine's limit each cell comes
- ``roofline.png``: the machine, and where the cells lie under it
- ``latency.png``: the percentiles of single steps
- ``fpga.png``: the stacks that FPGA makers publish
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from .cells import CELLS, GROUPS
from .report import RESULTS, read_results
from .results import OURS, PEERS, fastest, of_limit, speed_up
from .roofline import phases

__all__ = ["draw"]

Cells = Sequence[dict[str, Any]]

#: Colours that are told apart with any kind of eyes (Okabe and Ito), the same for an engine in every picture.
_COLOURS: Final = {
    OURS: "#000000",
    "onnxruntime": "#0072B2",
    "torch": "#D55E00",
    "openvino": "#009E73",
    "litert": "#E69F00",
    "keras": "#CC79A7",
    "numpy": "#56B4E9",
}
_GROUP_COLOURS: Final = {group: f"C{number}" for number, group in enumerate(GROUPS)}
_TYPE_MARKS: Final = {"float32": "o", "bfloat16": "s", "int8": "^"}
_PLAIN: Final = FuncFormatter(lambda value, _: f"{value:g}")


def _by_group(cells: Cells) -> Iterator[tuple[str, Cells]]:
    for group in GROUPS:
        own = [cell for cell in cells if cell["group"] == group]
        if own:
            yield group, own


def _rows(axes: Axes, cells: Cells) -> list[tuple[float, dict[str, Any]]]:
    """Label the y axis with the cells, group by group from the top, and return the height of each."""
    places, labels, heights = [], [], []
    height = 0.0
    for group, own in _by_group(cells):
        axes.text(1.008, height, group, transform=axes.get_yaxis_transform(), va="center", fontsize=8, color="#555555")
        axes.axhline(height - 0.5, color="#cccccc", linewidth=0.6)
        for cell in own:
            places.append((height, cell))
            labels.append(cell["cell"])
            heights.append(height)
            height += 1
    axes.set_yticks(heights, labels, fontsize=7)
    axes.set_ylim(height - 0.5, -0.6)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    return places


def _subtitle(document: dict[str, Any]) -> str:
    machine = document["machine"]
    return f"{machine['cpu']}, {machine['isa']}, {machine['date'][:10]}"


def _speed_up(document: dict[str, Any], cells: Cells) -> Figure | None:
    cells = [cell for cell in cells if speed_up(cell) is not None]
    if not cells:
        return None
    figure, axes = plt.subplots(figsize=(10, 1.4 + 0.21 * len(cells)), layout="constrained")
    for height, cell in _rows(axes, cells):
        for engine in PEERS:
            ratio = speed_up(cell, engine)
            if ratio is not None:
                axes.plot(ratio, height, "o", color=_COLOURS[engine], markersize=5, alpha=0.9)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(_PLAIN)
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("times faster than the peer (left of 1: slower)")
    axes.set_title(f"lstm_engine beside its peers, same compute type and threads\n{_subtitle(document)}", fontsize=10)
    seen = [engine for engine in PEERS if any(speed_up(cell, engine) is not None for cell in cells)]
    for engine in seen:
        axes.plot([], [], "o", color=_COLOURS[engine], label=engine)
    figure.legend(loc="outside lower center", ncols=6, fontsize=8, frameon=False)
    return figure


def _limit(document: dict[str, Any], cells: Cells) -> Figure | None:
    cells = [cell for cell in cells if of_limit(cell) is not None]
    if not cells:
        return None
    figure, axes = plt.subplots(figsize=(9, 1.4 + 0.21 * len(cells)), layout="constrained")
    for height, cell in _rows(axes, cells):
        part = 100 * (of_limit(cell) or 0.0)
        axes.barh(height, part, color="#0072B2", height=0.7)
        axes.text(part + 0.7, height, f"{part:.0f}", va="center", fontsize=7)
    axes.axvline(100, color="black", linewidth=1)
    axes.set_xlim(0, 115)
    axes.set_xlabel("percent of the roofline measured in the same rounds")
    axes.set_title(f"How near to the limit of the machine\n{_subtitle(document)}", fontsize=10)
    return figure


def _roofline(document: dict[str, Any], cells: Cells) -> Figure | None:
    machine = document["machine"]
    figure, axes = plt.subplots(figsize=(9, 6), layout="constrained")
    intensities = [0.2, 600.0]
    peaks = {"float32": machine["peak_flops"], "bfloat16": machine["peak_bfloat16"], "int8": machine["peak_int8"]}
    for name, peak in peaks.items():
        if peak:
            axes.axhline(peak / 1e9, color="#555555", linewidth=1)
            axes.text(intensities[1], peak / 1e9 * 1.04, f"{name} {peak / 1e9:.0f} GOP/s", ha="right", fontsize=8)
    highest = max(peak for peak in peaks.values() if peak)
    shown = [name for name in machine["bandwidth"] if name in ("L1", "L2", "L3", "L3 at 8 MiB", "DRAM")]
    for name in shown:
        rate = machine["bandwidth"][name]["bytes_per_second"]
        reach = [intensities[0], highest / rate]
        axes.plot(reach, [rate * one / 1e9 for one in reach], color="#999999", linewidth=1)
        where = 0.21 if name != "L2" else 0.3
        words = f"{name} {rate / 1e9:.0f} GB/s"
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
        axes.text(where, rate * where / 1e9, words, fontsize=7, va="center", color="#555555", bbox=box)
    known = {cell.name: cell for cell in CELLS}
    for cell in cells:
        ours, shape = fastest(cell, OURS), known.get(cell["cell"])
        if ours is None or shape is None or cell["threads"] > 1 or cell["cold"]:
            continue
        loaded = sum(phase.weight_bytes * phase.repeats for phase in phases(shape))
        colour = _GROUP_COLOURS[cell["group"]]
        mark = _TYPE_MARKS[cell["compute_type"]]
        axes.plot(shape.flops / loaded, shape.flops / ours["p50"] / 1e9, mark, color=colour, markersize=6, alpha=0.85)
    for group, _ in _by_group([cell for cell in cells if cell["threads"] == 1 and not cell["cold"]]):
        colour = _GROUP_COLOURS[group]
        mark = _TYPE_MARKS.get(group, "o")
        axes.plot([], [], mark, color=colour, label=group)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(*intensities)
    axes.set_ylim(4, highest / 1e9 * 2)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(_PLAIN)
    axes.set_xlabel("operations for each byte of weights that is loaded")
    axes.set_ylabel("GOP/s of matrix products, one core")
    axes.grid(color="#eeeeee", linewidth=0.6)
    axes.set_title(f"Roofline, measured, and ours under it\n{_subtitle(document)}", fontsize=10)
    axes.legend(loc="lower right", fontsize=8)
    return figure


def _latency(document: dict[str, Any], cells: Cells) -> Figure | None:
    cells = [cell for cell in cells if cell["group"] in ("step", "cold") and fastest(cell, OURS)]
    if not cells:
        return None
    figure, axes = plt.subplots(figsize=(9, 1.6 + 0.42 * len(cells)), layout="constrained")
    engines = [OURS, *PEERS]
    for height, cell in _rows(axes, cells):
        for number, engine in enumerate(engines):
            entry = fastest(cell, engine)
            if entry is None or entry.get("single_call_p50") is None:
                continue
            place = height + (number - len(engines) / 2) * 0.11
            last = entry.get("single_call_p999") or entry.get("single_call_p99")
            middle, colour = entry.get("single_call_p50") * 1e6, _COLOURS[engine]
            axes.plot([middle, last * 1e6], [place, place], color=colour, linewidth=1.4)
            axes.plot(middle, place, "o", color=colour, markersize=4)
            axes.plot(entry.get("single_call_p99") * 1e6, place, "|", color=colour, markersize=7)
            axes.plot(last * 1e6, place, ">", color=colour, markersize=3)
    for engine in engines:
        axes.plot([], [], "o-", color=_COLOURS[engine], label="lstm_engine" if engine == OURS else engine)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(_PLAIN)
    axes.set_xlabel(
        "microseconds of a single call: median (dot), p99 (bar), p99.9 where there are enough calls (arrow)"
    )
    axes.set_title(f"One step of a stream\n{_subtitle(document)}", fontsize=10)
    figure.legend(loc="outside lower center", ncols=7, fontsize=8, frameon=False)
    return figure


def _fpga(document: dict[str, Any], cells: Cells) -> Figure | None:
    cells = [cell for cell in cells if cell["group"] == "fpga" and any(one.get("p50") for one in cell["engines"])]
    if not cells:
        return None
    shapes = list(dict.fromkeys((cell["layers"], cell["hidden"]) for cell in cells))
    figure, axes = plt.subplots(figsize=(10, 5), layout="constrained")
    bars = [("float32", 1), ("float32", 2), ("bfloat16", 1), ("bfloat16", 2), ("int8", 1), ("int8", 2)]
    shades = ("#0072B2", "#7fb8d8", "#009E73", "#7fceb9", "#D55E00", "#eaae7f")
    width = 0.13
    for number, ((compute_type, threads), shade) in enumerate(zip(bars, shades, strict=True)):
        for place, shape in enumerate(shapes):
            own = [
                c
                for c in cells
                if (c["layers"], c["hidden"], c["compute_type"], c["threads"]) == (*shape, compute_type, threads)
            ]
            left = place + (number - 2.5) * width
            for cell in own:
                ours = fastest(cell, OURS)
                if ours is not None:
                    axes.bar(left, ours["p50"] * 1e6, width, color=shade)
                    last = (ours.get("single_call_p99") or ours["p50"]) * 1e6
                    axes.plot([left, left], [ours["p50"] * 1e6, last], color="black", linewidth=1)
                peers = [(fastest(cell, engine), engine) for engine in PEERS]
                best = min(((one["p50"], engine) for one, engine in peers if one), default=None)
                if best is not None:
                    axes.plot(left, best[0] * 1e6, "x", color=_COLOURS[best[1]], markersize=6)
        axes.bar(0, 0, color=shade, label=f"{compute_type}, {threads} thread{'s' * (threads > 1)}")
    for place, shape in enumerate(shapes):
        published = next((c["published"] for c in cells if (c["layers"], c["hidden"]) == shape), "")
        low, _, high = published.partition("-")
        axes.fill_between(
            [place - 0.45, place + 0.45], float(low) * 0.97, float(high or low) * 1.03, color="#444444", alpha=0.5
        )
    axes.fill_between([], [], [], color="#444444", alpha=0.5, label="FPGA, published mean")
    for engine in PEERS[:4]:
        axes.plot([], [], "x", color=_COLOURS[engine], label=f"{engine} (the best peer)")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(_PLAIN)
    axes.set_xticks(range(len(shapes)), [f"{layers} x {hidden}" for layers, hidden in shapes])
    axes.set_xlabel("layers x units")
    axes.set_ylabel("microseconds a step (line: up to p99)")
    axes.set_title(f"Single steps of the stacks that FPGA makers publish\n{_subtitle(document)}", fontsize=10)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    figure.legend(loc="outside lower center", ncols=6, fontsize=7, frameon=False)
    return figure


_PICTURES: Final = {
    "speedup": _speed_up,
    "limit": _limit,
    "roofline": _roofline,
    "latency": _latency,
    "fpga": _fpga,
}


def draw(document: dict[str, Any], folder: Path) -> list[Path]:
    """Draw what the cells of a run allow into ``folder`` as PNG; returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    cells = [cell for cell in document["cells"] if cell["engines"]]
    drawn = []
    for name, picture in _PICTURES.items():
        figure = picture(document, cells)
        if figure is not None:
            path = folder / f"{name}.png"
            figure.savefig(path, dpi=110)
            plt.close(figure)
            drawn.append(path)
    return drawn


def main() -> int:
    """Draw a saved run."""
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS
    try:
        document = read_results(source)
    except ValueError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    for path in draw(document, Path(sys.argv[2]) if len(sys.argv) > 2 else source.parent):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
