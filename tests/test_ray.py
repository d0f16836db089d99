"""Ray Data and Ray Serve on a real Ray of this machine."""

from __future__ import annotations

from pathlib import Path

import pytest
from ray_support import ROOT, run_alone

import lstm_engine as le

pytestmark = pytest.mark.services

pytest.importorskip("ray")


def checked(name: str, folder: Path) -> list[str]:
    """Run a check; return what it has checked. Ray may print between."""
    out = run_alone(ROOT / "tests/ray_checks.py", name, folder, folder=folder)
    return [line.removeprefix("checked: ") for line in out.splitlines() if line.startswith("checked: ")]


def test_ray_data(tmp_path: Path) -> None:
    formats = [f"batches of {kind}" for kind in ("numpy", "pandas", "pyarrow")]
    assert checked("data", tmp_path) == ["Parquet to Parquet", *formats]


def test_ray_serve(tmp_path: Path) -> None:
    assert checked("serve", tmp_path) == ["handles", "HTTP"]


def test_arguments_of_a_deployment() -> None:
    from lstm_engine.integrations.ray import deployment

    for arguments, phrase in (
        ({"num_replicas": 0}, "num_replicas"),
        ({"num_replicas": "auto"}, "num_replicas"),
        ({"max_queue": 0}, "max_queue"),
        ({"options": {"name": "x", "autoscaling_config": {}}}, "found autoscaling_config, name"),
    ):
        with pytest.raises(le.ShapeError, match=phrase):
            deployment("model.keras", **arguments)
