"""Every kind of file of Keras 2 and 3, built now in the real frameworks with other weights than the recorded ones.

``tests/formats/build_keras_generations.py`` builds them in a process of its own; nothing of a framework is imported
here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from recorded import compare_keras

pytestmark = pytest.mark.interop

BUILDER = Path(__file__).parents[1] / "formats" / "build_keras_generations.py"
SEED = int(os.environ.get("LSTM_ENGINE_INTEROP_SEED", "0"))


@pytest.mark.parametrize("package", ["keras", "tf_keras"])
def test_every_kind_of_file(package: str, tmp_path: Path) -> None:
    command = [sys.executable, str(BUILDER), "--directory", str(tmp_path), "--package", package]
    threads = {"OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
    done = subprocess.run(
        [*command, "--seed", str(SEED + 1)], env={**os.environ, **threads}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    entries = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))["models"]
    problems = []
    for entry in entries:
        config = entry["config"] and tmp_path / entry["config"]
        for backend in ("fused", "blas"):
            result = compare_keras(tmp_path, entry, config=config, backend=backend)
            if not result.is_right:
                problems.append(f"{entry['file']} on {backend}: {result}")
    assert len(entries) > 30
    assert not problems, "\n".join(problems)
