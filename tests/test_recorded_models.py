"""Whole files as the frameworks wrote them, against what the frameworks recorded; no framework is needed."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recorded import compare_keras, compare_torch, error, layer_counts, manifest
from strategies import instruction_sets

import lstm_engine as le

FIXTURES = Path(__file__).parent / "fixtures"
DATA = Path(le.__file__).parent / "data"
EXAMPLES = Path(__file__).parents[1] / "examples" / "models"

KERAS = [(folder, entry) for folder in ("keras", "tf_keras") for entry in manifest(FIXTURES / folder)["models"]]
TORCH = manifest(FIXTURES / "torch")["models"]

every_backend = pytest.mark.parametrize("backend", ["fused", "blas"])


@every_backend
@pytest.mark.parametrize(("folder", "entry"), KERAS, ids=[entry["file"] for _, entry in KERAS])
def test_keras(folder: str, entry: dict[str, Any], backend: str) -> None:
    result = compare_keras(FIXTURES / folder, entry, backend=backend)
    assert result.is_right, result


@every_backend
@pytest.mark.parametrize("entry", TORCH, ids=[entry["file"] for entry in TORCH])
def test_torch(entry: dict[str, Any], backend: str) -> None:
    result = compare_torch(FIXTURES / "torch", entry, backend=backend)
    assert result.is_right, result


@pytest.mark.parametrize("isa", instruction_sets())
def test_torch_on_every_instruction_set(isa: str) -> None:
    for entry in TORCH:
        result = compare_torch(FIXTURES / "torch", entry, isa=isa)
        assert result.is_right, result


def test_the_recorded_models_have_every_common_layer() -> None:
    counts: Counter[str] = sum((layer_counts(FIXTURES / folder) for folder in ("keras", "tf_keras")), Counter())
    wanted = {
        "LSTM", "Bidirectional", "TimeDistributed", "Embedding", "Masking", "Dense", "Dropout", "Activation", "Softmax",
        "ReLU", "BatchNormalization", "LayerNormalization", "Concatenate", "Add", "Flatten", "RepeatVector",
    }  # fmt: skip
    assert not wanted - set(counts)


# ------------------------------------------------------------------------------------ the two shipped models


def test_character_model_predicts_what_keras_recorded() -> None:
    record = json.loads((DATA / "char_lstm.json").read_text(encoding="utf-8"))
    with np.load(DATA / "char_recorded.npz") as recorded:
        places, contexts, outputs = (recorded[name] for name in ("places", "contexts", "outputs"))
    text = (DATA / "char_held_out.txt").read_text(encoding="ascii")
    numbers = np.array([record["vocabulary"].index(symbol) for symbol in text])
    np.testing.assert_array_equal(contexts, numbers[places[:, None] + np.arange(record["window"])])
    # From the first prediction to the last, so that no part of the text goes unseen.
    assert (places[0], places[-1]) == (0, record["held_out_predictions"] - 1)

    x = np.eye(len(record["vocabulary"]), dtype=np.float32)[contexts]
    found = le.load(DATA / "char_lstm.keras")(x)
    # Both are float32 against each other, not against an oracle: twice the bound.
    assert error(found, outputs) < 2e-6
    np.testing.assert_array_equal(found.argmax(axis=1), outputs.argmax(axis=1))
    exact = le.load(DATA / "char_lstm.keras", compute_type="float64")(x.astype(np.float64))
    assert error(found, exact) < 1e-6


@pytest.mark.parametrize(
    "path", [DATA / "sunspots_lstm.pt", EXAMPLES / "sunspots_lstm.safetensors"], ids=lambda p: p.name
)
def test_sunspot_model_predicts_what_pytorch_recorded(path: Path) -> None:
    record = json.loads((DATA / "sunspots_lstm.json").read_text(encoding="utf-8"))
    with np.load(DATA / "sunspots_recorded.npz") as recorded:
        outputs = recorded["outputs"]
    spots = np.loadtxt(DATA / "sunspots.csv", delimiter=",", skiprows=1)[:, 2]
    inputs = (np.sqrt(spots[:-1]) / 8).astype(np.float32)

    model = le.Sequential([le.LSTM.from_torch(path, "lstm"), le.Dense.from_torch(path, "head")])
    found = np.asarray(model(inputs[None, :, None]))[0, :, 0]
    assert error(found, outputs) < 2e-6
    start = record["held_out_from_index"]
    forecast = (8 * np.maximum(found[start - 1 :].astype(np.float64), 0)) ** 2
    assert np.abs(forecast - spots[start:]).mean() == pytest.approx(record["framework_metric"]["mae"], abs=1e-4)
    rmse = np.sqrt(((forecast - spots[start:]) ** 2).mean())
    assert rmse == pytest.approx(record["framework_metric"]["rmse"], abs=1e-4)
    assert rmse < record["baseline_persistence"]["rmse"]
