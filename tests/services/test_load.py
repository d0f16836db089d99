"""The load test of ``bench/serving`` runs: every service answers all that it is asked, and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.services

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("services", ["batcher,onnxruntime", "serve", "fastapi"])
def test_nothing_is_lost_and_nothing_is_crossed(services: str, tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    options = ["--services", services, "--streams", "30", "--seconds", "1", "--hidden", "24", "--output", str(results)]
    done = subprocess.run(
        [sys.executable, "-m", "bench.serving", *options],
        capture_output=True, text=True, check=False, timeout=300, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    for run in json.loads(results.read_text())["runs"]:
        assert run["lost"] == run["crossed"] == 0
        assert run["replies"] >= 30
        assert 0 < run["p50"] <= run["p99"] <= run["p99.9"] <= run["worst"]


def test_a_reply_of_another_stream_is_found() -> None:
    from bench.serving.clients import Answers
    from bench.serving.workload import Workload

    workload = Workload(8, 24)
    own = [workload.alone("lstm_engine", stream, 5) for stream in range(2)]
    size = len(own[0]) // 5
    replies = [[one[size * step : size * (step + 1)] for step in range(5)] for one in own]
    assert Answers(replies).crossed(workload, "lstm_engine") == 0
    replies[0][3], replies[1][3] = replies[1][3], replies[0][3]
    assert Answers(replies).crossed(workload, "lstm_engine") == 2
