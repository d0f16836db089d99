"""Every Python snippet of the documentation runs, and prints what the documentation says that it prints.

The ``python`` blocks of a page run one after the other in one namespace, in a folder that looks like the root of a
clone. A ``text`` block that directly follows a ``python`` block is what that block prints. In a ``console`` block each
line ``$ lstm-engine ...`` is run, and the lines behind it are what it prints; ``...`` stands for anything.

Blocks that begin with ``python services`` need the packages that services are made with, and run in those tests.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lstm_engine.cli import main

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(
    r"^(?P<fence>```+)(?P<language>[\w+-]*)(?P<services> services)?[^\n]*\n(?P<body>.*?)^(?P=fence)[ \t]*$",
    re.MULTILINE | re.DOTALL,
)
LINK = re.compile(r"\]\((?P<target>[^)#\s]+)(?:#[^)]*)?\)")


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    language: str
    body: str
    line: int
    #: Body of the ``text`` block directly behind it, or None.
    prints: str | None
    #: Whether it needs what services are made with.
    services: bool


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    found = list(FENCE.finditer(text))
    for place, match in enumerate(found):
        prints = None
        following = found[place + 1] if place + 1 < len(found) else None
        if following and following["language"] == "text" and not text[match.end() : following.start()].strip():
            prints = following["body"]
        line = text.count("\n", 0, match.start()) + 2
        yield Block(match["language"], match["body"], line, prints, match["services"] is not None)


def pages_with(language: str) -> list[Path]:
    return [page for page in PAGES if any(block.language == language for block in blocks(page))]


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that snippets read, in which they may write without leaving a trace."""
    (tmp_path / "lstm_engine").mkdir()
    (tmp_path / "lstm_engine/data").symlink_to(ROOT / "lstm_engine/data")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/cli_models").symlink_to(ROOT / "tests/cli_models")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pattern(expected: str) -> str:
    return ".*".join(re.escape(part) for part in expected.split("..."))


def run_snippets(page: Path, *, services: bool = False) -> None:
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(page):
        if block.language != "python" or (block.services and not services):
            continue
        # Padded, so that a traceback names the line of the page.
        code = compile("\n" * (block.line - 1) + block.body, str(page), "exec")
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code, namespace)
        if block.prints is not None:
            assert printed.getvalue() == block.prints, f"{page.name}:{block.line}"


def run_command(words: list[str]) -> tuple[int, str]:
    """Run the command line tool; return its status and all that it printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            status = main(words)
        except SystemExit as stopped:  # argparse, for --help
            status = int(stopped.code or 0)
    return status, printed.getvalue().rstrip()


@pytest.mark.parametrize("page", pages_with("python"), ids=lambda page: page.name)
@pytest.mark.usefixtures("clone")
def test_snippets_run(page: Path) -> None:
    run_snippets(page)


@pytest.mark.services
@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(b.services for b in blocks(page))], ids=lambda p: p.name
)
@pytest.mark.usefixtures("clone")
def test_snippets_of_services_run(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Where an installed package has its command.
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    run_snippets(page, services=True)


@pytest.mark.parametrize("page", pages_with("console"), ids=lambda page: page.name)
@pytest.mark.usefixtures("clone")
def test_commands_run(page: Path) -> None:
    run_snippets(page)  # commands use what the snippets wrote, as they do for a reader who goes from top to bottom
    for block in blocks(page):
        if block.language != "console":
            continue
        for session in re.split(r"^\$ ", block.body, flags=re.MULTILINE)[1:]:
            command, _, expected = session.partition("\n")
            words = shlex.split(command)
            if words[0] != "lstm-engine":
                continue
            status, printed = run_command(words[1:])
            where = f"{page.name}:{block.line}: {command}\n{printed}"
            assert status == (2 if expected.startswith("lstm-engine: ") else 0), where
            if expected.strip():
                assert re.fullmatch(pattern(expected.rstrip()), printed, re.DOTALL), where


@pytest.mark.parametrize("page", [*PAGES, ROOT / "SECURITY.md", ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for match in LINK.finditer(page.read_text(encoding="utf-8")):
        target = match["target"]
        if not re.match(r"[a-z]+:", target):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_readme_has_snippets() -> None:
    assert sum(block.language == "python" for block in blocks(ROOT / "README.md")) >= 5


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_examples_run(example: Path, tmp_path: Path) -> None:
    arguments = {"control_loop.py": ["0.2"], "watch_a_pulse.py": ["1"]}.get(example.name, [])
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-W", "error", example, *arguments],
        capture_output=True, text=True, check=False, timeout=120, cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip()
    assert "other bits" not in done.stdout
