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

import numpy as np
import pytest
from recorded import compare_keras

import lstm_engine as le

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


#: Saves a model of one dtype in every kind of file, and tells what lies in it and whether it comes back.
HALVES = """
import io, json, sys, zipfile
import h5py, numpy as np
package, dtype = sys.argv[1:]
keras = __import__(package)
L = keras.layers
made = [L.LSTM(4, dtype=dtype, recurrent_initializer="glorot_uniform"), L.Dense(2, dtype=dtype)]
model = keras.Sequential([L.Input((5, 3)), *made])
x = np.random.default_rng(0).standard_normal((2, 5, 3)).astype(np.float32)
y = np.asarray(model(x)).astype(np.float32)
np.save("x.npy", x), np.save("y.npy", y)
open("config.json", "w").write(model.to_json())
told = {}
for name in ("model.h5", "model.keras", "model.weights.h5", *(["only_h5"] if package == "tf_keras" else [])):
    whole = "weights" not in name and name != "only_h5"
    model.save(name) if whole else model.save_weights(name, **({"save_format": "h5"} if name == "only_h5" else {}))
    data = zipfile.ZipFile(name).read("model.weights.h5") if name.endswith(".keras") else open(name, "rb").read()
    found = set()
    with h5py.File(io.BytesIO(data)) as file:
        look = lambda _, item: found.add((item.dtype.str, *item.attrs.values())) if hasattr(item, "dtype") else None
        file.visititems(look)
    try:
        if whole:
            again = keras.models.load_model(name)
        else:
            again = keras.models.model_from_json(model.to_json())
            again.load_weights(name)
        back = bool(np.array_equal(np.asarray(again(x)).astype(np.float32), y))
    except ValueError as error:
        back = str(error)
    told[name] = [sorted(found), back]
print(json.dumps(told))
"""
BARE, MARKED, NO_CAST = [["|V2"]], [["|V2", "bfloat16"]], "No cast function available."


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("package", ["keras", "tf_keras"])
def test_what_the_frameworks_make_of_half_precision(package: str, dtype: str, tmp_path: Path) -> None:
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-c", HALVES, package, dtype],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    told = json.loads(done.stdout.splitlines()[-1])
    # Opaque bytes without a mark come back in no framework, so they are refused; what comes back is loaded.
    stored = {"float16": [["<f2"]], "bfloat16": BARE}.get(dtype, [["<f4"]])
    for name, found in told.items():
        marked = dtype == "bfloat16" and package == "keras" and name != "model.h5"
        bare = dtype == "bfloat16" and not marked
        assert found == [MARKED if marked else stored, NO_CAST if bare else True], name
        config = None if name in ("model.h5", "model.keras") else tmp_path / "config.json"
        if bare:
            with pytest.raises(
                le.UnsupportedModelError, match="expected plain numbers, found opaque values of 2 bytes"
            ):
                le.load(tmp_path / name, config=config)
            continue
        y = le.load(tmp_path / name, config=config)(np.load(tmp_path / "x.npy"))
        assert np.abs(y - np.load(tmp_path / "y.npy")).max() < (0.03 if "bfloat16" in dtype else 0.004)
