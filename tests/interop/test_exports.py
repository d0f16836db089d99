"""Exported weights in the real frameworks, and random models of theirs through our own format.

``pytest -m interop tests/interop/test_exports.py``; the frameworks run in processes of their own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recorded import load_arrays, manifest

import lstm_engine as le

pytestmark = pytest.mark.interop

HERE = Path(__file__).parent


def run(program: str, *arguments: str, **environment: str) -> None:
    threads = {"OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(HERE / program), *arguments],
        env={**os.environ, **threads, **environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]


def random_lstm(seed: int, layers: int, directions: int, features: int, hidden: int, **options: Any) -> le.LSTM:
    generator = np.random.default_rng(seed)
    projection = options.pop("projection", 0)
    output = projection or hidden
    cells: dict[str, list[np.ndarray]] = {"kernel": [], "recurrent": [], "bias": [], "projection": []}
    for layer in range(layers):
        for _ in range(directions):
            width = features if layer == 0 else directions * output
            cells["kernel"].append(generator.standard_normal((width, 4 * hidden)).astype(np.float32) / 2)
            cells["recurrent"].append(generator.standard_normal((output, 4 * hidden)).astype(np.float32) / 2)
            cells["bias"].append(generator.standard_normal(4 * hidden).astype(np.float32))
            cells["projection"].append(generator.standard_normal((hidden, output)).astype(np.float32))
    if not projection:
        del cells["projection"]
    if options.pop("no_bias", False):
        del cells["bias"]
    direction: Any = "bidirectional" if directions == 2 else options.pop("direction", "forward")
    return le.LSTM.from_weights(**cells, direction=direction, **options)  # type: ignore[arg-type]


def test_exported_weights_compute_the_same(tmp_path: Path) -> None:
    expected: dict[str, tuple[np.ndarray, ...]] = {}

    def add(name: str, framework: str, lstm: le.LSTM, options: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        x = np.random.default_rng(len(expected)).standard_normal((3, 6, lstm.input_size)).astype(np.float32)
        (tmp_path / f"{name}.json").write_text(json.dumps({"framework": framework, "options": options}))
        wide = {key: array.astype(np.float64) for key, array in arrays.items()}
        np.savez(tmp_path / f"{name}.npz", __x__=x, **wide)
        y, (h, c) = lstm(x)
        expected[name] = (y, h, c)

    seed = 0
    for layers in (1, 3):
        for directions in (1, 2):
            for projection in (0, 3):
                for no_bias in (False, True):
                    seed += 1
                    lstm = random_lstm(seed, layers, directions, 4, 5, projection=projection, no_bias=no_bias)
                    options = {
                        "input_size": 4, "hidden_size": 5, "num_layers": layers, "bidirectional": directions == 2,
                        "proj_size": projection, "bias": not no_bias,
                    }  # fmt: skip
                    add(f"torch_{seed}", "torch", lstm, options, lstm.to_torch_state_dict())
    for directions in (1, 2):
        for no_bias in (False, True):
            for activation, recurrent in (("tanh", "sigmoid"), ("softsign", "hard_sigmoid")):
                seed += 1
                lstm = random_lstm(
                    seed, 1, directions, 4, 5, no_bias=no_bias, activation=activation, recurrent_activation=recurrent
                )
                options = {
                    "units": 5, "use_bias": not no_bias, "bidirectional": directions == 2,
                    "activation": activation, "recurrent_activation": recurrent,
                }  # fmt: skip
                arrays = {str(number): array for number, array in enumerate(lstm.to_keras_weights())}
                add(f"keras_{seed}", "keras", lstm, options, arrays)
    run("apply_exports.py", str(tmp_path), KERAS_BACKEND="torch")
    for name, ours in expected.items():
        with np.load(tmp_path / f"{name}.out.npz") as file:
            theirs = [file[key] for key in ("y", "h", "c")]
        for found, wanted in zip(ours, theirs, strict=True):
            assert found.shape == wanted.shape, name
            assert np.linalg.norm(found - wanted) < 1e-6 * np.linalg.norm(wanted), name
    assert len(expected) == 24


@pytest.mark.parametrize("package", ["keras", "tf_keras"])
def test_random_models_come_back_bit_for_bit_and_go_to_onnx(package: str, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    backend = "torch" if package == "keras" else "tensorflow"
    count = "52" if package == "keras" else "26"
    run(
        "build_keras.py", "--directory", str(tmp_path), "--count", count, "--seed", "77", "--package", package,
        KERAS_BACKEND=backend,
    )  # fmt: skip
    exported = 0
    models = manifest(tmp_path)["models"]
    for entry in models:
        arrays = load_arrays(tmp_path, entry["name"])
        inputs = [arrays[f"input_{place}"] for place in range(sum(key.startswith("input_") for key in arrays))]
        masks = {"mask": arrays["mask"]} if "mask" in arrays else {}
        model = le.load(tmp_path / entry["file"])
        model.save(tmp_path / "m.safetensors", golden=tuple(inputs) if len(inputs) > 1 else inputs[0])
        again = le.load(tmp_path / "m.safetensors", verify=True)
        ours, theirs = model(*inputs, **masks), again(*inputs, **masks)
        pairs = [(ours, theirs)] if isinstance(ours, np.ndarray) else list(zip(ours, theirs, strict=True))
        for first, second in pairs:
            assert first.tobytes() == second.tobytes(), entry["file"]
        assert sum(len(layer.weights) for layer in again.report.layers) == sum(
            len(layer.weights) for layer in model.report.layers
        )
        try:
            model.to_onnx(tmp_path / "m.onnx")
        except le.UnsupportedModelError:
            continue
        exported += 1
        session = runtime.InferenceSession(tmp_path / "m.onnx", options, providers=["CPUExecutionProvider"])
        feeds = {
            node.name: np.asarray(array, np.int64 if "int64" in node.type else np.float32)
            for node, array in zip(session.get_inputs(), inputs, strict=True)
        }
        plain = model(*inputs)
        for found, wanted in zip(
            session.run(None, feeds), plain if isinstance(plain, tuple) else (plain,), strict=True
        ):
            error = np.linalg.norm(found - wanted) / max(float(np.linalg.norm(wanted)), 1e-3)
            assert error < 5e-6, (entry["file"], entry["layers"], error)
    print(f"{package}: {len(models)} models came back bit for bit, {exported} of them agree as ONNX")
    assert exported >= 5
