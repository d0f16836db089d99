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


#: What tf-keras makes of ``time_major=True`` in a TimeDistributed, and in one of two directions.
TIME_MAJOR_IN_OTHERS = """
import numpy as np, tf_keras
L = tf_keras.layers
random = np.random.default_rng(0)
# The last step's outputs have another number of values.
for batch in (None, 2):
    try:
        L.TimeDistributed(L.LSTM(4, time_major=True))(L.Input(batch_shape=(batch, 5, 6, 3)))
    except ValueError:
        print(True)
# A stateful layer is run step by step, over the batch; any other over the batch and the steps.
steps = random.standard_normal((2, 5, 6, 3)).astype(np.float32)
layers = [L.LSTM(4, return_sequences=True, time_major=True, stateful=stateful) for stateful in (False, True)]
found = [np.asarray(L.TimeDistributed(layer)(L.Input(batch_shape=(2, 5, 6, 3))) is not None) for layer in layers]
layers[1].set_weights(layers[0].get_weights())
found = [np.asarray(L.TimeDistributed(layer)(steps)) for layer in layers]
print(np.abs(found[0] - found[1]).max() > 0.01)
x = random.standard_normal((6, 2, 3)).astype(np.float32)
def both(sequences):
    backward = L.LSTM(4, return_sequences=sequences, go_backwards=True)
    forward = L.LSTM(4, return_sequences=sequences, time_major=True)
    layer = L.Bidirectional(forward, backward_layer=backward, merge_mode=None if sequences else "concat")
    return layer, backward, layer(x)
_, backward, (_, turned) = both(True)
print(np.array_equal(turned, np.asarray(backward(x))[::-1]))
try:
    both(False)
except Exception as error:
    print(type(error).__name__ == "InvalidArgumentError")
"""


def test_what_tf_keras_makes_of_time_major_in_other_layers() -> None:
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-c", TIME_MAJOR_IN_OTHERS], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["True"] * 5, done.stderr[-2000:]


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
