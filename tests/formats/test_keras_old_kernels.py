"""Files of releases that no longer install: kernels of Keras 1 and of Keras on Theano, and activations of one's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import lstm_engine as le

KERNEL = np.arange(1, 13, dtype=np.float32).reshape(3, 2, 2)
BIAS = np.array([0.5, -0.5], np.float32)
X = np.random.default_rng(1).standard_normal((2, 7, 2)).astype(np.float32)
MODERN: dict[str, Any] = {
    "name": "c", "filters": 2, "kernel_size": [3], "strides": [1], "padding": "valid", "dilation_rate": [1],
    "activation": "linear", "use_bias": True, "batch_input_shape": [None, None, 2],
}  # fmt: skip
#: As Keras 1 wrote a Convolution1D; sizes of the input stood there too.
KERAS_1: dict[str, Any] = {
    "name": "c", "nb_filter": 2, "filter_length": 3, "subsample_length": 1, "border_mode": "valid", "init": "uniform",
    "activation": "linear", "bias": True, "input_dim": 2, "input_length": 7, "batch_input_shape": [None, 7, 2],
    "W_regularizer": None, "b_regularizer": None, "activity_regularizer": None, "W_constraint": None,
    "b_constraint": None, "trainable": True,
}  # fmt: skip


def saved(path: Path, version: str, backend: str, kind: str, config: dict[str, Any], arrays: list[np.ndarray]) -> Path:
    """Write a legacy file of one layer."""
    model = {"class_name": "Sequential", "config": [{"class_name": kind, "config": config}]}
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"] = version
        file.attrs["model_config"] = json.dumps(model).encode()
        weights = file.create_group("model_weights")
        weights.attrs["backend"] = backend.encode()
        weights.attrs["layer_names"] = [b"c"]
        group = weights.create_group("c")
        group.attrs["weight_names"] = [f"w{number}".encode() for number in range(len(arrays))]
        for number, array in enumerate(arrays):
            group[f"w{number}"] = array
    return path


@pytest.fixture
def expected(tmp_path: Path) -> np.ndarray:
    y = le.load(saved(tmp_path / "m.h5", "2.2.4", "tensorflow", "Conv1D", MODERN, [KERNEL, BIAS]))(X)
    by_hand = sum(X[:, step : step + 5] @ KERNEL[step] for step in range(3)) + BIAS
    np.testing.assert_allclose(y, by_hand, rtol=1e-5, atol=1e-5)
    return np.asarray(y)


def test_theano_convolves(tmp_path: Path, expected: np.ndarray) -> None:
    model = le.load(saved(tmp_path / "t.h5", "2.2.4", "theano", "Conv1D", MODERN, [KERNEL[::-1], BIAS]))
    np.testing.assert_array_equal(model(X), expected)


def test_other_convolutions_of_theano_are_refused_by_name(tmp_path: Path) -> None:
    config = {**MODERN, "depth_multiplier": 1}
    arrays = [np.ones((3, 2, 1), np.float32), np.ones((1, 2, 2), np.float32), BIAS]
    path = saved(tmp_path / "t.h5", "2.2.4", "theano", "SeparableConv1D", config, arrays)
    with pytest.raises(le.UnsupportedModelError, match=r"'c' \(SeparableConv1D\) was saved by Keras on Theano"):
        le.load(path)


@pytest.mark.parametrize("version", ["1.2.2", "1.0.8"])
@pytest.mark.parametrize("backend", ["tensorflow", "theano"])
def test_kernels_of_keras_1_have_four_axes(tmp_path: Path, expected: np.ndarray, version: str, backend: str) -> None:
    kernel = KERNEL[::-1] if backend == "theano" else KERNEL
    kernel = kernel[:, None] if version == "1.2.2" else kernel.transpose(2, 1, 0)[..., None]
    model = le.load(saved(tmp_path / "1.h5", version, backend, "Convolution1D", KERAS_1, [kernel, BIAS]))
    np.testing.assert_array_equal(model(X), expected)


def test_a_dense_layer_of_keras_1_states_the_size_of_its_input(tmp_path: Path) -> None:
    config = {"name": "c", "output_dim": 2, "input_dim": 2, "activation": "linear", "bias": True, "init": "uniform"}
    config["batch_input_shape"] = [None, 2]  # type: ignore[assignment]
    model = le.load(saved(tmp_path / "d.h5", "1.2.2", "tensorflow", "Dense", config, [KERNEL[0], BIAS]))
    np.testing.assert_allclose(model(X[:, 0]), X[:, 0] @ KERNEL[0] + BIAS, rtol=1e-6)


@pytest.mark.parametrize(
    ("version", "name"),
    [("2.2.4", "gelu"), ("2.2.4", "swish"), ("2.2.4-tf", "mish"), ("2.15.0", "hard_swish"), ("2.15.0", "log_sigmoid")],
)
def test_a_name_that_keras_did_not_have_yet_is_the_authors_own(tmp_path: Path, version: str, name: str) -> None:
    config = {**MODERN, "activation": name}
    path = saved(tmp_path / "a.h5", version, "tensorflow", "Conv1D", config, [KERNEL, BIAS])
    with pytest.raises(le.UnsupportedModelError, match=f"'{name}', which Keras .* does not have: a custom activation"):
        le.load(path)
