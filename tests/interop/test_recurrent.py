"""Every variant of the recurrent layers, built now in the real frameworks, against what we make of their files.

``pytest -m interop tests/interop``; ``keras_recurrent.py`` builds them in processes of their own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lstm_engine as le

pytestmark = pytest.mark.interop

#: Largest difference from the framework's own float32 output; values are of the order of one.
TOLERANCE = 3e-6


@pytest.mark.parametrize("package", ["keras", "tf_keras"])
def test_every_variant_agrees(package: str, tmp_path: Path) -> None:
    command = [sys.executable, str(Path(__file__).parent / "keras_recurrent.py"), "--directory", str(tmp_path)]
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow"}  # on PyTorch, Keras cannot unroll backwards with a mask
    done = subprocess.run(
        [*command, "--package", package], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    record = json.loads((tmp_path / "keras.json").read_text(encoding="utf-8"))
    assert len(record["models"]) > 400
    problems = []
    for entry in record["models"]:
        with np.load(tmp_path / f"{entry['name']}.npz") as arrays:
            inputs = [arrays[f"input_{place}"] for place in range(sum(key.startswith("input") for key in arrays))]
            wanted = [arrays[f"output_{place}"] for place in range(sum(key.startswith("output") for key in arrays))]
        try:
            found = le.load(tmp_path / entry["file"])(*inputs)
        except le.LstmEngineError as error:
            problems.append(f"{entry['file']}: {error}")
            continue
        found = found if isinstance(found, tuple) else (found,)
        if [array.shape for array in found] != [array.shape for array in wanted]:
            problems.append(f"{entry['file']}: other shapes")
            continue
        worst = max(np.abs(mine - theirs).max(initial=0.0) for mine, theirs in zip(found, wanted, strict=True))
        if not worst < TOLERANCE:
            problems.append(f"{entry['file']}: differs by {worst}")
    print(f"\n{len(record['models'])} recurrent variants of {package} {record['version']}")
    assert not problems, "\n".join(problems)
