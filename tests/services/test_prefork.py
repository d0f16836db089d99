"""``gunicorn --preload``: models loaded and run before the fork serve in every worker, with the same bits."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.services

HERE = Path(__file__).parent
WORKERS = 4
#: Seconds that anything may take on a machine that is busy with something else.
PATIENCE = 120.0


class Gunicorn:
    """A running ``gunicorn --preload`` and its log."""

    def __init__(self, log: Path, *options: str) -> None:
        self._log = log
        command = [sys.executable, "-m", "gunicorn", "--preload", "--bind", "127.0.0.1:0", *options, "prefork_app:app"]
        with log.open("w") as output:
            self.process = subprocess.Popen(command, cwd=HERE, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        found = self.until(lambda: re.search(r"Listening at: http://127\.0\.0\.1:(\d+)", self.log()))
        self.url = f"http://127.0.0.1:{found[1]}/"

    def log(self) -> str:
        return self._log.read_text()

    def until(self, ready: Any) -> Any:
        """Return what ``ready`` gives as soon as it is true."""
        end = time.monotonic() + PATIENCE
        while not (found := ready()):
            assert self.process.poll() is None, f"gunicorn ended:\n{self.log()}"
            assert time.monotonic() < end, f"nothing came of it in {PATIENCE:.0f} s:\n{self.log()}"
            time.sleep(0.02)
        return found

    def ask(self, _: Any = None) -> dict[str, Any]:
        with urllib.request.urlopen(self.url, timeout=PATIENCE) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def ask_every_worker(self, but: frozenset[int] = frozenset()) -> dict[int, dict[str, Any]]:
        """Return an answer of each worker, by its process; ``but`` for those that are gone."""
        answers: dict[int, dict[str, Any]] = {}

        def all_answered() -> bool:
            with ThreadPoolExecutor(2 * WORKERS) as clients:
                answers.update((one["worker"], one) for one in clients.map(self.ask, range(4 * WORKERS)))
            return len(answers.keys() - but) == WORKERS

        self.until(all_answered)
        return answers


@pytest.fixture
def gunicorn(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Gunicorn]:
    running = Gunicorn(tmp_path / "gunicorn.log", *request.param)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.process.terminate()
            try:
                running.process.wait(30)
            except subprocess.TimeoutExpired:
                running.process.kill()
                running.process.wait()


def lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def assert_served(answers: dict[int, dict[str, Any]], parent: int) -> None:
    for worker, answer in answers.items():
        assert answer["computed"] == answer["before"], f"the bits of worker {worker} differ"
        assert answer["parent"] == parent != worker, "the models were not loaded before the fork"
        assert answer["threads"] == 1, "no thread of its own took part"


@pytest.mark.parametrize("gunicorn", [["--workers", str(WORKERS)]], indirect=True)
def test_models_loaded_before_the_fork_serve_in_every_worker(gunicorn: Gunicorn) -> None:
    first = gunicorn.ask_every_worker()
    assert_served(first, gunicorn.process.pid)
    # A worker that dies is replaced by a fork of the same parent, long after its models' threads began.
    victim = min(first)
    os.kill(victim, signal.SIGKILL)
    second = gunicorn.ask_every_worker(but=frozenset({victim}))
    assert_served(second, gunicorn.process.pid)
    assert len({one["computed"] for one in (*first.values(), *second.values())}) == 1

    gunicorn.process.send_signal(signal.SIGTERM)
    assert gunicorn.process.wait(PATIENCE) == 0
    assert not [worker for worker in (*first, *second) if lives(worker)]
    assert "Traceback" not in gunicorn.log()
    # The one that was killed is in the log, and no worker had to be killed because it would not end.
    assert gunicorn.log().count("SIGKILL") <= 1


@pytest.mark.parametrize("gunicorn", [["--workers", str(WORKERS), "--threads", "4"]], indirect=True)
def test_threads_of_a_worker_share_its_models(gunicorn: Gunicorn) -> None:
    assert_served(gunicorn.ask_every_worker(), gunicorn.process.pid)
    gunicorn.process.send_signal(signal.SIGTERM)
    assert gunicorn.process.wait(PATIENCE) == 0
    assert "Traceback" not in gunicorn.log()
