"""Say whether ours got slower beside its peers or beside the machine's limit: ``python -m bench.guard``.

    python -m bench.run && python -m bench.guard            # exit status 1 if a ratio got worse
    python -m bench.guard --tolerance 0.1
    python -m bench.guard --record                          # what was measured is what counts from now on

Compared are ratios measured in the same rounds, peer / ours and limit / ours, with those in ``bench/recorded.json``.
Microseconds of two runs cannot be compared: another day the host is slower.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .results import OURS, PEERS, disturbed, fastest, of_limit, speed_up

__all__ = ["RECORDED", "Change", "changes", "main", "recorded"]

RECORDED: Final = Path(__file__).resolve().parent / "recorded.json"
_LATEST: Final = Path(__file__).resolve().parent / "results" / "latest.json"

#: A ratio may get worse by this part. Twice what two runs of the same build differ by on a shared machine (5 to 10%).
TOLERANCE: Final = 0.15

#: Of the machine only what makes ratios comparable.
_SAME: Final = ("cpu", "isa")


@dataclass(frozen=True, slots=True)
class Change:
    """A ratio of a cell, before and now; more is better for ours."""

    cell: str
    ratio: str
    before: float
    now: float

    @property
    def factor(self) -> float:
        """The ratio now over that before: below 1 is worse."""
        return self.now / self.before


def ratios(cell: dict[str, Any]) -> dict[str, float]:
    """Return the ratios of a cell that are guarded, by name."""
    found = {f"{peer} / ours": speed_up(cell, peer) for peer in PEERS}
    found["limit / ours"] = of_limit(cell)
    return {name: ratio for name, ratio in found.items() if ratio is not None}


def changes(before: dict[str, Any], now: dict[str, Any]) -> Iterator[Change]:
    """Yield the ratios that both runs have; none of a cell that was disturbed."""
    old = {cell["cell"]: ratios(cell) for cell in before["cells"]}
    for cell in now["cells"]:
        known = {} if disturbed(cell) else old.get(cell["cell"], {})
        for name, ratio in ratios(cell).items():
            if name in known:
                yield Change(cell["cell"], name, known[name], ratio)


def worse(found: list[Change], tolerance: float) -> list[Change]:
    """Return the changes that mean that ours got slower, the worst first.

    A single peer that got faster is that peer's merit: ratios to peers count where most of those of a cell, or that to
    the limit, fell with them. What fell beside the limit counts by itself.
    """
    by_cell: dict[str, list[Change]] = {}
    for change in found:
        by_cell.setdefault(change.cell, []).append(change)
    bad = []
    for own in by_cell.values():
        fallen = [change for change in own if change.factor < 1 - tolerance]
        limit = any(change.ratio.startswith("limit") for change in fallen)
        if limit or 2 * len(fallen) > len(own):
            bad += fallen
    return sorted(bad, key=lambda change: change.factor)


def lost(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return the cells that were measured now, where ours ran before and does not any more."""
    ran = {cell["cell"] for cell in before["cells"] if fastest(cell, OURS)}
    return [cell["cell"] for cell in now["cells"] if cell["cell"] in ran and not fastest(cell, OURS)]


def recorded(document: dict[str, Any]) -> dict[str, Any]:
    """Return what is kept of a run: the machine, and of each cell the times that tables and ratios are made of."""

    def short(value: float) -> float:
        return float(f"{value:.4g}")

    kept = ("single_call_p50", "single_call_p99", "single_call_p999", "relative_l2_error")
    cells = []
    for cell in document["cells"]:
        if "limit" not in cell or disturbed(cell):  # the run has said so
            continue
        engines = []
        for name in dict.fromkeys(entry["engine"] for entry in cell["engines"]):
            entry = fastest(cell, name)
            if entry is None:
                said = next((one["refused"] for one in cell["engines"] if one["engine"] == name), "")
                engines.append({"engine": name, "variant": "", "refused": said})
                continue
            own = {"engine": name, "variant": entry["variant"], "p50": short(entry["p50"])}
            engines.append(own | {key: short(entry[key]) for key in kept if entry.get(key) is not None})
        probes = {name: short(value) for name, value in cell.get("probes", {}).items()}
        rest = {
            key: value for key, value in cell.items() if key not in ("engines", "probes", "limit", "took", "complaints")
        }
        cells.append({**rest, "limit": short(cell["limit"]), "engines": engines, "probes": probes})
    return {"machine": document["machine"], "settings": document["settings"], "cells": cells}


def _dumped(document: dict[str, Any]) -> str:
    """Return JSON with one line for each cell, so that a new record changes few lines."""
    cells = ",\n".join(json.dumps(cell) for cell in document["cells"])
    machine, settings = json.dumps(document["machine"], indent=1), json.dumps(document["settings"])
    return f'{{"machine": {machine},\n"settings": {settings},\n"cells": [\n{cells}\n]}}\n'


def _table(rows: list[Change]) -> str:
    lines = [("cell", "ratio", "recorded", "now", "change")]
    lines += [(c.cell, c.ratio, f"{c.before:.3g}", f"{c.now:.3g}", f"{100 * (c.factor - 1):+.0f}%") for c in rows]
    widths = [max(len(line[column]) for line in lines) for column in range(5)]
    return "\n".join(
        "  ".join(
            text.ljust(w) if column < 2 else text.rjust(w)
            for column, (text, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        _ = document["machine"]["cpu"], [(cell["cell"], cell["engines"]) for cell in document["cells"]]
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: expected the results of python -m bench.run, found something else ({error})"
        ) from None
    return document


def main(arguments: list[str] | None = None) -> int:
    """Compare or record; returns 0, 1 if something got worse, 2 if it cannot be said."""
    parser = argparse.ArgumentParser(prog="python -m bench.guard", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--results", type=Path, default=_LATEST, help="the run to judge (default: the last one)")
    parser.add_argument("--recorded", type=Path, default=RECORDED, help="what to compare with")
    parser.add_argument(
        "--tolerance", type=float, default=TOLERANCE, help=f"part that may be lost (default {TOLERANCE})"
    )
    parser.add_argument("--record", action="store_true", help="make this run the recorded one")
    options = parser.parse_args(arguments)
    if not 0 < options.tolerance < 1:
        parser.error(f"--tolerance: expected a number between 0 and 1, found {options.tolerance}")
    try:
        now = _read(options.results)
        if options.record:
            kept = recorded(now)
            options.recorded.write_text(_dumped(kept), encoding="utf-8")
            print(
                f"{options.recorded}: {len(kept['cells'])} of {len(now['cells'])} cells recorded, the undisturbed ones"
            )
            return 0
        before = _read(options.recorded)
        for name in _SAME:
            was, found = before["machine"].get(name), now["machine"].get(name)
            if was != found:
                raise ValueError(
                    f"{options.recorded}: recorded on {name} {was}, this run is on {found}; ratios of two kinds of "
                    "machine cannot be compared: record this one with --record --recorded FILE"
                )
    except ValueError as error:
        print(f"bench.guard: {error}", file=sys.stderr)
        return 2

    found, gone = list(changes(before, now)), lost(before, now)
    if not found and not gone:
        print("bench.guard: the two runs have no cell in common", file=sys.stderr)
        return 2
    bad = worse(found, options.tolerance)
    cells = len({change.cell for change in found})
    if bad:
        print(f"Slower than recorded by more than {100 * options.tolerance:.0f}%:\n\n{_table(bad)}\n")
    for cell in gone:
        print(f"{cell}: ours ran it when it was recorded, and does not now")
    better = sum(change.factor > 1 + options.tolerance for change in found)
    print(f"{len(found)} ratios of {cells} cells: {len(bad)} worse, {better} better than recorded by more than that")
    return 1 if bad or gone else 0


if __name__ == "__main__":
    sys.exit(main())
