"""The nightly scoring with Ray Data runs, and forecasts what the model alone forecasts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ray_support import ROOT, run_alone

import lstm_engine as le

pytestmark = pytest.mark.services

pq = pytest.importorskip("pyarrow.parquet")
pytest.importorskip("ray")


def test_nightly_scoring(tmp_path: Path) -> None:
    out = run_alone(ROOT / "examples/services/nightly_scoring_ray.py", tmp_path, folder=tmp_path)
    assert "\nmonth    forecast   sunspots\n2008-01 " in f"\n{out}"
    (summary,) = [line for line in out.splitlines() if "mean error since 1976" in line]  # Ray may print beside it
    rows, error = (float(summary.split()[place]) for place in (0, -2))
    assert rows == 109 * 12
    assert 12 < error < 14.7  # next month as this one: 14.73
    model = le.load(tmp_path / "forecaster.safetensors")
    histories = pq.read_table(tmp_path / "histories").sort_by("month").to_pylist()
    scored = pq.read_table(tmp_path / "forecasts").sort_by("month").to_pylist()
    assert len({len(row["history"]) for row in histories}) > 300
    for given, found in zip(histories, scored, strict=True):
        y = model(np.array(given["history"], np.float32)[None, :, None])
        assert found == {
            "month": given["month"], "spots": given["spots"], "forecast": float(((8 * np.maximum(y[:, 0], 0)) ** 2)[0])
        }  # fmt: skip
