"""One sequence of many steps."""

from __future__ import annotations

from collections.abc import Callable

from .cells import Cell, Group
from .contender import Contender

GROUP: Group = "sequence"


def test_sequence(
    time_contender: Callable[[Cell, type[Contender]], None], cell: Cell, contender_kind: type[Contender]
) -> None:
    """Every engine gives the oracle's result and ours; then it is timed."""
    time_contender(cell, contender_kind)
