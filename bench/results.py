"""What follows from the results of a cell: the fastest of an engine, the best peer, and the ratios.

A cell is a dictionary as it stands in the file of results; times are in seconds. Nothing but the standard library here:
tables, pictures and the guard all read saved results.
"""

from __future__ import annotations

from typing import Any, Final

__all__ = [
    "OURS",
    "PEERS",
    "best_peer",
    "disturbed",
    "empty_calls",
    "fastest",
    "of_limit",
    "refusal",
    "saving",
    "scaling",
    "speed_up",
]

Result = dict[str, Any]

OURS: Final = "ours fused"
PEERS: Final = ("onnxruntime", "torch", "openvino", "litert", "keras", "numpy")


#: With less than this part of its CPUs' time, a cell is counted as disturbed.
_UNDISTURBED: Final = 0.97


def disturbed(cell: Result) -> bool:
    """Return whether others had so much of the CPUs' time that not even ratios hold."""
    return float(cell.get("cpu_share", 1.0)) < _UNDISTURBED


def fastest(cell: Result, engine: str) -> Result | None:
    """Return the entry of the fastest way that an engine was driven, or None if it was not timed."""
    own = [entry for entry in cell["engines"] if entry["engine"] == engine and entry.get("p50") is not None]
    return min(own, key=lambda entry: float(entry["p50"]), default=None)


def refusal(cell: Result, engine: str) -> str | None:
    """Return why an engine was not timed; None if it was, or if nothing is known of it."""
    return next((str(one["refused"]) for one in cell["engines"] if one["engine"] == engine and "refused" in one), None)


def best_peer(cell: Result) -> Result | None:
    """Return the entry of the fastest contender that is not ours, or None."""
    peers = [entry for entry in cell["engines"] if entry["engine"] in PEERS and entry.get("p50") is not None]
    return min(peers, key=lambda entry: float(entry["p50"]), default=None)


def _ratio(above: Result | None, below: Result | None) -> float | None:
    return None if above is None or below is None else float(above["p50"]) / float(below["p50"])


def speed_up(cell: Result, engine: str | None = None) -> float | None:
    """Return how many times faster ours is than a peer, the best one unless named."""
    return _ratio(best_peer(cell) if engine is None else fastest(cell, engine), fastest(cell, OURS))


def of_limit(cell: Result) -> float | None:
    """Return the machine's limit over our time; 1 is the limit."""
    ours, limit = fastest(cell, OURS), cell.get("limit")
    return None if ours is None or limit is None else float(limit) / float(ours["p50"])


def scaling(cell: Result) -> float | None:
    """Return how many times faster ours is with the cell's threads than with one."""
    return _ratio(fastest(cell, "ours one thread"), fastest(cell, OURS))


def saving(cell: Result) -> float | None:
    """Return the part of the ideal saving that knowing the lengths brings: 1 if no time at all goes into padding."""
    gained = _ratio(fastest(cell, "ours padded"), fastest(cell, OURS))
    return None if gained is None else gained * float(cell["filled"])


def empty_calls(cell: Result) -> float | None:
    """Return our time in calls of an empty bound method; steps only."""
    ours, empty = fastest(cell, OURS), cell.get("probes", {}).get("empty_call_seconds")
    return None if ours is None or not empty else float(ours["p50"]) / float(empty)
