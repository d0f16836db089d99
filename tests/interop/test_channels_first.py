"""Layers whose channels come before time, as Keras on PyTorch computes them: on a CPU TensorFlow does not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lstm_engine as le

pytestmark = pytest.mark.interop

PROGRAM = """
import sys
import keras, numpy as np
L, first = keras.layers, {"data_format": "channels_first"}
makers = [
    *(lambda padding=padding, strides=strides, groups=groups: L.Conv1D(
        6, 3, strides=strides, padding=padding, groups=groups, activation="tanh", **first)
      for padding in ("valid", "same", "causal") for strides, groups in ((1, 1), (2, 2))),
    lambda: L.Conv1D(4, 2, dilation_rate=3, padding="same", activation="softmax", **first),
    *(lambda padding=padding: L.DepthwiseConv1D(3, depth_multiplier=2, padding=padding, **first)
      for padding in ("valid", "same")),
    lambda: L.SeparableConv1D(5, 3, depth_multiplier=2, padding="same", **first),
    lambda: L.MaxPooling1D(3, 2, padding="same", **first),
    lambda: L.MaxPooling1D(2, **first),
    lambda: L.AveragePooling1D(3, 1, padding="valid", **first),
    lambda: L.ZeroPadding1D((1, 2), **first),
    lambda: L.GlobalMaxPooling1D(**first),
    lambda: L.GlobalAveragePooling1D(keepdims=True, **first),
    lambda: L.Flatten(**first),
]
random = np.random.default_rng(7)
for place, make in enumerate(makers):
    x = L.Input((4, 9))
    model = keras.Model(x, make()(x))
    model.set_weights([random.standard_normal(w.shape).astype("float32") for w in model.get_weights()])
    data = random.standard_normal((3, 4, 9)).astype("float32")
    model.save(f"{sys.argv[1]}/{place}.keras")
    np.savez(f"{sys.argv[1]}/{place}.npz", x=data, y=keras.ops.convert_to_numpy(model(data)))
"""


def test_channels_first(tmp_path: Path) -> None:
    environment = {**os.environ, "KERAS_BACKEND": "torch", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    files = sorted(tmp_path.glob("*.keras"))
    assert len(files) == 17
    for file in files:
        with np.load(file.with_suffix(".npz")) as arrays:
            found, wanted = le.load(file)(arrays["x"]), arrays["y"]
        assert found.shape == wanted.shape
        np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=2e-6, err_msg=file.name)
