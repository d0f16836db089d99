"""Random models, built now in the real frameworks, against what we make of their files.

Slow, and needs PyTorch, Keras, TensorFlow and tf-keras: ``pytest -m interop -s tests/interop``. Another
``LSTM_ENGINE_INTEROP_SEED`` gives other models. ``build_keras.py`` and ``build_torch.py`` build them in processes of
their own; nothing of a framework is imported here.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from recorded import compare_all, layer_counts, manifest, summary

pytestmark = pytest.mark.interop

HERE = Path(__file__).parent
SEED = int(os.environ.get("LSTM_ENGINE_INTEROP_SEED", "0"))

#: Every Keras layer that a random model can have; in the largest run all have to turn up.
KERAS_LAYERS = {
    "Sequential", "Embedding", "Masking", "LSTM", "Bidirectional", "TimeDistributed", "Dense", "Dropout", "Activation",
    "Softmax", "ReLU", "BatchNormalization", "LayerNormalization", "Concatenate", "Add", "Flatten", "RepeatVector",
    "SpatialDropout1D", "GaussianNoise", "GaussianDropout", "AlphaDropout", "ActivityRegularization",
    "Conv1D", "DepthwiseConv1D", "SeparableConv1D", "MaxPooling1D", "AveragePooling1D", "GlobalMaxPooling1D",
    "GlobalAveragePooling1D", "Cropping1D", "ZeroPadding1D", "UpSampling1D", "Permute", "Reshape", "Normalization",
    "Rescaling", "UnitNormalization", "PReLU", "LeakyReLU", "ELU", "Multiply", "Subtract", "Average", "Maximum",
    "Minimum", "Dot", "Attention", "AdditiveAttention", "MultiHeadAttention",
    "GRU", "SimpleRNN", "RNN", "StackedRNNCells", "LSTMCell", "GRUCell", "SimpleRNNCell",
}  # fmt: skip

#: 28 themes of models, fifteen times over with PyTorch under Keras, which is the quickest, thrice each with TensorFlow.
KERAS_RUNS = {
    "keras-torch": ("torch", ["--count", "420"]),
    "keras-tensorflow": ("tensorflow", ["--count", "84"]),
    "tf-keras": ("tensorflow", ["--count", "84", "--package", "tf_keras"]),
}
TORCH_MODELS = 200


def build(program: str, directory: Path, arguments: list[str], **environment: str) -> None:
    """Run a builder."""
    command = [sys.executable, str(HERE / program), "--directory", str(directory), *arguments]
    threads = {"OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
    done = subprocess.run(
        command, env={**os.environ, **threads, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]


def assert_all_agree(directory: Path, title: str) -> None:
    """Compare every model on both backends; print the summaries and fail with everything that differs."""
    problems = []
    for backend in ("fused", "blas"):
        results, failures = compare_all(directory, backend=backend)
        if results:
            print("\n" + summary(f"{title}, {backend}", len(results) + len(failures), results))
        problems += failures + [f"{backend}: {result}" for result in results if not result.is_right]
    assert not problems, "\n".join(problems)


@pytest.fixture(scope="module", params=KERAS_RUNS)
def keras_directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    backend, arguments = KERAS_RUNS[request.param]
    directory: Path = tmp_path_factory.mktemp(request.param)
    seed = len(KERAS_RUNS) * SEED + list(KERAS_RUNS).index(request.param)
    build("build_keras.py", directory, [*arguments, "--seed", str(seed)], KERAS_BACKEND=backend)
    return directory


def test_keras(keras_directory: Path) -> None:
    record = manifest(keras_directory)
    assert_all_agree(keras_directory, f"{record['package']} {record['version']} on {record['backend']}")
    if len(record["models"]) >= 200:  # the smaller runs need not have every layer
        assert not KERAS_LAYERS - set(layer_counts(keras_directory))


def test_torch(tmp_path: Path) -> None:
    build("build_torch.py", tmp_path, ["--count", str(TORCH_MODELS), "--seed", str(SEED)])
    assert_all_agree(tmp_path, f"torch {manifest(tmp_path)['version']}")


def test_more_than_a_thousand_models_are_compared() -> None:
    from test_torch_stacks import SEQUENTIALS, STACKS

    keras = sum(int(arguments[1]) for _, arguments in KERAS_RUNS.values())
    assert keras + TORCH_MODELS + STACKS + SEQUENTIALS > 1000
    # Two of the 28 themes are Sequential models, all others Functional ones.
    assert keras * 26 // 28 > 500


LIVE_LAYERS = """
import keras, numpy as np
import lstm_engine as le
random = np.random.default_rng({seed})
for wrap in (False, True):
    layer = keras.layers.LSTM(5, return_sequences=True, recurrent_activation="hard_sigmoid")
    layer = keras.layers.Bidirectional(layer, merge_mode="concat") if wrap else layer
    x = random.standard_normal((3, 7, 4)).astype(np.float32)
    layer(x)
    layer.set_weights([random.standard_normal(array.shape) / 2 for array in layer.get_weights()])
    theirs = keras.ops.convert_to_numpy(layer(x))
    ours, _ = le.LSTM.from_keras(layer)(x)
    assert ours.shape == theirs.shape == (3, 7, 10 if wrap else 5)
    assert np.abs(ours - theirs).max() < 2e-6
    print("agrees")
"""


def test_keras_layers_that_live() -> None:
    environment = {**os.environ, "KERAS_BACKEND": "torch", "OMP_NUM_THREADS": "1"}
    program = LIVE_LAYERS.format(seed=SEED)
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["agrees", "agrees"], done.stderr[-2000:]
