"""What judges benchmarks judges made-up ones rightly; tables in the pages are those of the recorded results."""

from __future__ import annotations

import json
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
RECORDED = ROOT / "bench" / "recorded.json"

Document = dict[str, Any]


def entry(engine: str, seconds: float) -> Document:
    return {"engine": engine, "variant": "", "p50": seconds, "relative_l2_error": 1e-7}


def run_of(cells: dict[str, dict[str, float]], cpu: str = "a CPU") -> Document:
    """A made-up run: microseconds of each engine by cell, and of the machine's limit under ``limit``."""
    made = []
    for name, times in cells.items():
        engines = [entry(engine, 1e-6 * time) for engine, time in times.items() if engine != "limit"]
        made.append({"cell": name, "group": "step", "time": 1, "limit": 1e-6 * times["limit"], "engines": engines})
    return {"machine": {"cpu": cpu, "isa": "avx512"}, "settings": {}, "cells": made}


BEFORE = {
    "1,1,64,128": {"ours fused": 4.0, "onnxruntime": 12.0, "torch": 28.0, "limit": 3.6},
    "8,100,64,128": {"ours fused": 1500.0, "onnxruntime": 1700.0, "limit": 1400.0},
}


def changed(cell: str, **times: float) -> dict[str, dict[str, float]]:
    return BEFORE | {cell: BEFORE[cell] | {name.replace("_", " "): time for name, time in times.items()}}


class Judge:
    """Runs the guard on files of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, name: str, document: Document | str) -> Path:
        path = self.folder / name
        path.write_text(document if isinstance(document, str) else json.dumps(document))
        return path

    def __call__(self, before: Document | str, now: Document | str, *more: str) -> tuple[int, str]:
        recorded, results = self.path("recorded.json", before), self.path("now.json", now)
        command = [sys.executable, "-m", "bench.guard", "--results", results, "--recorded", recorded, *more]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
        return done.returncode, done.stdout + done.stderr


@pytest.fixture
def judge(tmp_path: Path) -> Judge:
    return Judge(tmp_path)


def test_the_same_run_passes(judge: Judge) -> None:
    status, said = judge(run_of(BEFORE), run_of(BEFORE))
    assert (status, "0 worse" in said) == (0, True), said


def test_a_slower_host_is_no_regression(judge: Judge) -> None:
    slower = {cell: {name: 1.7 * time for name, time in times.items()} for cell, times in BEFORE.items()}
    assert judge(run_of(BEFORE), run_of(slower))[0] == 0


def test_ours_slower_fails_and_is_named_with_both_ratios(judge: Judge) -> None:
    status, said = judge(run_of(BEFORE), run_of(changed("1,1,64,128", ours_fused=5.0)))
    assert status == 1
    assert "8,100" not in said
    lines = [line.split() for line in said.splitlines() if line.startswith("1,1,64,128")]
    assert ["1,1,64,128", "onnxruntime", "/", "ours", "3", "2.4", "-20%"] in lines
    assert ["1,1,64,128", "limit", "/", "ours", "0.9", "0.72", "-20%"] in lines


def test_within_the_tolerance_passes_and_the_tolerance_can_be_given(judge: Judge) -> None:
    now = run_of(changed("1,1,64,128", ours_fused=4.4))
    assert judge(run_of(BEFORE), now)[0] == 0
    assert judge(run_of(BEFORE), now, "--tolerance", "0.05")[0] == 1
    assert judge(run_of(BEFORE), now, "--tolerance", "2")[0] == 2


def test_one_peer_that_got_faster_is_not_our_regression(judge: Judge) -> None:
    assert judge(run_of(BEFORE), run_of(changed("1,1,64,128", onnxruntime=6.0)))[0] == 0


def test_farther_from_the_limit_is_a_regression_by_itself(judge: Judge) -> None:
    status, said = judge(run_of(BEFORE), run_of(changed("8,100,64,128", limit=1000.0)))
    assert (status, "limit / ours" in said) == (1, True)


def test_a_cell_that_ours_cannot_run_any_more_fails(judge: Judge) -> None:
    now = run_of(BEFORE)
    now["cells"][0]["engines"][0] = {"engine": "ours fused", "variant": "", "refused": "UnsupportedModelError: no"}
    status, said = judge(run_of(BEFORE), now)
    assert (status, "1,1,64,128: ours ran it" in said) == (1, True), said


def test_a_disturbed_cell_is_neither_judged_nor_recorded(judge: Judge) -> None:
    now = run_of(changed("1,1,64,128", ours_fused=9.0))
    now["cells"][0]["cpu_share"] = 0.5
    assert judge(run_of(BEFORE), now)[0] == 0
    assert "1 of 2 cells" in judge(run_of(BEFORE), now, "--record")[1]


def test_cells_of_one_run_only_are_not_compared(judge: Judge) -> None:
    extra = {"1,1,16,16": {"ours fused": 9.0, "limit": 1.0}}
    assert judge(run_of(BEFORE), run_of(BEFORE | extra))[0] == 0
    assert judge(run_of(BEFORE), run_of(extra))[0] == 2


@pytest.mark.parametrize(
    ("before", "word"),
    [
        (run_of(BEFORE, cpu="another CPU"), "another CPU"),
        ("{", "expected the results"),
        ('{"machine": {}}', "expected the results"),
        ("[]", "expected the results"),
    ],
    ids=["machine", "damaged", "incomplete", "list"],
)
def test_what_cannot_be_compared_is_said(judge: Judge, before: Document | str, word: str) -> None:
    status, said = judge(before, run_of(BEFORE))
    assert (status, word in said) == (2, True), said


def test_recording_keeps_what_is_compared(judge: Judge) -> None:
    status, said = judge("not there yet", run_of(BEFORE), "--record")
    assert status == 0, said
    again = judge.folder / "recorded.json"
    assert judge(again.read_text(), run_of(BEFORE))[0] == 0
    assert judge(again.read_text(), run_of(changed("1,1,64,128", ours_fused=6.0)))[0] == 1


@pytest.mark.parametrize("page", ["README.md", "docs/performance.md"])
def test_tables_in_the_pages_are_those_of_the_recorded_results(page: str) -> None:
    command = [sys.executable, "-m", "bench.markdown", "--check", page]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_two_trees_are_compared_by_their_own_builds() -> None:
    command = [sys.executable, "-m", "bench.compare", ".", ".", "--cells", "^1,1,16,16$", "--seconds", "0.1", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    (cell,) = json.loads(done.stdout)["cells"]
    assert cell["same_bits"]
    assert cell["rounds"] >= 5
    assert all(0 < least <= median for least, median in zip(cell["least"], cell["median"], strict=True))
    command[3] = "tests"
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, "expected a source tree" in done.stderr) == (2, True)


@pytest.mark.slow
def test_the_inner_loops_of_the_core_can_be_shown() -> None:
    if shutil.which("objdump") is None:
        pytest.skip("objdump is not installed")
    command = [sys.executable, "-m", "bench.profile", "--loops"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert platform.machine() != "x86_64" or "tile_1_blocks" in done.stdout


@pytest.mark.slow
def test_the_inner_loops_of_another_machine_can_be_shown() -> None:
    if shutil.which("aarch64-linux-gnu-gcc") is None:
        pytest.skip("aarch64-linux-gnu-gcc is not installed")
    command = [sys.executable, "-m", "bench.profile", "--loops", "--cross", "aarch64-linux-gnu-"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^neon +tile_8x2 ", done.stdout, re.M)


@pytest.fixture
def bench_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmark is no part of the package."""
    monkeypatch.syspath_prepend(ROOT)


@pytest.mark.usefixtures("bench_is_found")
def test_targets_are_of_cells_that_are_measured() -> None:
    from bench.cells import CELLS
    from bench.targets import TARGETS

    names = {cell.name for cell in CELLS}
    assert {name for target in TARGETS for name in target.cells} <= names


@pytest.mark.usefixtures("bench_is_found")
def test_what_a_target_finds_stands_beside_what_was_aimed_at() -> None:
    from bench.results import speed_up
    from bench.targets import Target, row

    document = run_of(BEFORE)
    least = Target("step", "of ours", speed_up, {"1,1,64,128": 3.0, "8,100,64,128": 1.2, "1,1,1,1": 2.0})
    assert row(least, document) == "**3 / 3**, 1.13 / 1.2"
    most = Target("step", "of ours", speed_up, {"1,1,64,128": 2.9, "8,100,64,128": 1.2}, at_most=True)
    assert row(most, document) == "3 / 2.9, **1.13 / 1.2**"
    assert row(Target("step", "of ours", speed_up, {"1,1,1,1": 2.0}), document) == "-"


@pytest.mark.usefixtures("bench_is_found")
def test_the_part_of_the_peak_counts_every_layer_and_direction() -> None:
    from bench.targets import TARGETS

    of_peak = next(target.figure for target in TARGETS if "peak" in target.words)
    cell = run_of({"16,100,128,256,2-layer,bidirectional": {"ours fused": 1e6, "limit": 1.0}})["cells"][0]
    cell |= {"compute_type": "float32", "probes": {"peak_float32": 1e12}}
    products = 2 * (2 * 4 * 256 * (128 + 256)) + 2 * (2 * 4 * 256 * (512 + 256))
    assert of_peak(cell) == pytest.approx(100 * products * 16 * 100 / 1e12)
