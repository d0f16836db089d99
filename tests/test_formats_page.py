"""docs/formats.md promises: every row names a test that exists, and nothing that is read goes without a row."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from lstm_engine.formats.keras_layers import LAYERS

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "formats.md"
TEST = re.compile(r"`(?P<file>tests/[\w/]+\.py)::(?P<name>\w+)`")


def rows() -> list[tuple[int, list[str]]]:
    """Return the rows of all tables, without their heads, with their line numbers."""
    found: list[tuple[int, list[str]]] = []
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        below = lines[number] if number < len(lines) else ""
        if line.startswith("|") and not set(line) <= set("|-: ") and not (below and set(below) <= set("|-: ")):
            found.append((number, [cell.strip() for cell in line.strip("|").split("|")]))
    return found


@cache
def functions_of(file: Path) -> frozenset[str]:
    """Return the names of the test functions of a module."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def test_the_page_has_tables() -> None:
    assert len(rows()) > 50


@pytest.mark.parametrize(("line", "cells"), rows(), ids=lambda value: str(value) if isinstance(value, int) else "")
def test_every_row_names_a_test_that_exists(line: int, cells: list[str]) -> None:
    named = list(TEST.finditer(cells[-1]))
    assert named, f"docs/formats.md:{line}: the last cell names no test"
    for match in named:
        file = ROOT / match["file"]
        assert file.is_file(), f"docs/formats.md:{line}: {match['file']} does not exist"
        assert match["name"] in functions_of(file), f"docs/formats.md:{line}: {match['file']} has no {match['name']}"


def test_every_keras_layer_has_a_row() -> None:
    shown = {name for _, cells in rows() for name in re.findall(r"`(\w+)`", " ".join(cells[:-1]))}
    assert set(LAYERS) - shown == set()
