"""What a file holds in place of a weight: weight normalisation, shards behind an index, packed quantized layers."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch_support as made
from numpy.typing import NDArray

import lstm_engine as le
from lstm_engine.errors import FormatError, UnsafeFileError, UnsupportedModelError
from lstm_engine.formats.tensor_file import TensorFile, read_tensors
from lstm_engine.formats.torch_layers import conv1d_weights_from_torch, linear_weights_from_torch
from lstm_engine.formats.torch_lstm import describe_torch_file, lstm_weights_from_torch
from lstm_engine.formats.torch_weight_norm import fold_weight_norm

DATA = made.DATA


# --- Weight normalisation ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["old", "new"])
def test_normalised_weights_are_those_that_pytorch_computes(form: str) -> None:
    path = DATA / f"norm_{form}.pt"
    with np.load(DATA / "norm.npz") as recorded:
        wanted = {name.removeprefix(form + "."): array for name, array in recorded.items() if name.startswith(form)}
    forward, reverse = lstm_weights_from_torch(path, "rnn").cells[0]
    conv, _ = conv1d_weights_from_torch(path, "conv")
    dense, _ = linear_weights_from_torch(path, "fc")
    found = {
        "rnn.weight_ih_l0": forward.kernel.T,
        "rnn.weight_hh_l0": forward.recurrent_kernel.T,
        "rnn.weight_hh_l0_reverse": reverse.recurrent_kernel.T,
        "conv.weight": conv.transpose(2, 1, 0),
        "fc.weight": dense.T,
    }
    for name, array in found.items():
        # Computed in float64 from the very same numbers, and rounded to float32 once.
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, wanted[name].astype(np.float32), err_msg=name)
    tensors = fold_weight_norm(read_tensors(path)).tensors
    np.testing.assert_array_equal(
        tensors["state_dict.module.rnn.bias_ih_l0"], wanted["rnn.bias_ih_l0"].astype(np.float32)
    )
    assert {module.kind for module in describe_torch_file(path)} == {"LSTM", "Conv1d", "Linear"}


@pytest.mark.parametrize("name", ["parametrized", "weight_norm"])
def test_one_normalised_weight_among_plain_ones(name: str) -> None:
    file = read_tensors(DATA / f"{name}.pt").tensors
    old = "weight_hh_l0_g" in file
    g, v = (
        file[key].astype(np.float64)
        for key in (
            ("weight_hh_l0_g", "weight_hh_l0_v")
            if old
            else ("parametrizations.weight_hh_l0.original0", "parametrizations.weight_hh_l0.original1")
        )
    )
    wanted = v * (g / np.linalg.norm(v, axis=1, keepdims=True))
    cell = lstm_weights_from_torch(DATA / f"{name}.pt").cells[0][0]
    np.testing.assert_allclose(cell.recurrent_kernel.T, wanted, rtol=1e-7)


def folded(**tensors: NDArray[Any]) -> set[str]:
    """Return the names of the tensors after folding; __ in a name stands for a dot."""
    named = {name.replace("__", "."): array for name, array in tensors.items()}
    return set(fold_weight_norm(TensorFile("x", "mapping", named)).tensors)


def test_what_is_no_weight_normalisation_is_left_alone() -> None:
    one, two = np.ones((4, 1)), np.ones((4, 3))
    assert folded(fc__weight_g=one, fc__weight_v=two) == {"fc.weight"}
    assert folded(weight_g=np.ones(()), weight_v=two) == {"weight"}
    for g, v in ((np.ones((4, 3)), two), (np.ones((3, 1)), two), (np.ones(4), two), (one.astype(int), two)):
        assert folded(weight_g=g, weight_v=v) == {"weight_g", "weight_v"}
    assert folded(weight_g=one, weight_v=two, weight=two) == {"weight_g", "weight_v", "weight"}
    assert folded(weight_v=two) == {"weight_v"}
    assert folded(fc___g=one, fc___v=two) == {"fc._g", "fc._v"}
    names = {"fc__parametrizations__weight__original0": one, "fc__parametrizations__weight__original1": two}
    assert folded(**names) == {"fc.weight"}
    # A second parametrization of the same weight changes it again.
    more = {**names, "fc__parametrizations__weight__1__base": two}
    assert len(folded(**more)) == 3
    assert len(folded(**{**names, "fc__parametrizations__weight__scale": one})) == 3
    assert len(folded(weight__original0=one, weight__original1=two)) == 2


def test_many_names_take_no_long_time() -> None:
    one = np.ones((1, 1), np.float32)
    names = [f"a{place}.parametrizations.w.original{part}" for place in range(10_000) for part in (0, 1)]
    began = time.perf_counter()
    assert len(fold_weight_norm(TensorFile("x", "mapping", dict.fromkeys(names, one))).tensors) == 10_000
    missing = {f"weight_ih_l{place}": np.ones((4, 1)) for place in range(5_000)}
    with pytest.raises(FormatError, match="weight_hh_l4999: missing"):
        lstm_weights_from_torch(missing)
    assert time.perf_counter() - began < 5.0


def test_a_norm_of_zero_is_a_weight_that_is_not_finite() -> None:
    state = {"fc.weight_g": np.ones((2, 1)), "fc.weight_v": np.zeros((2, 3)), "fc.bias": np.zeros(2)}
    with pytest.raises(UnsupportedModelError, match=r"fc\.weight holds NaN or infinity"):
        linear_weights_from_torch(state)


def test_normalised_weights_that_do_not_fit_name_the_way_out() -> None:
    state = {
        "weight_ih_l0": np.ones((16, 3)),
        "weight_hh_l0_g": np.ones((15, 1)),
        "weight_hh_l0_v": np.ones((16, 4)),
    }
    with pytest.raises(FormatError, match=r"weight_hh_l0: missing; .*call torch\.nn\.utils\.remove_weight_norm"):
        lstm_weights_from_torch(state)


# --- Shards -----------------------------------------------------------------------------------------------------------

SAFE, BIN = "model.safetensors.index.json", "pytorch_model.bin.index.json"


@pytest.mark.parametrize("name", [SAFE, BIN])
def test_a_model_over_several_files(name: str) -> None:
    path = DATA / "shards" / name
    file = read_tensors(path)
    assert (file.path, file.format) == (str(path), "shards")
    with np.load(DATA / "shards.npz") as recorded:
        assert set(file.tensors) == set(recorded)
        for key, array in recorded.items():
            np.testing.assert_array_equal(file.tensors[key], array)
    assert le.LSTM.from_torch(path).hidden_size == 4
    assert le.Dense.from_torch(path).out_features == 2
    assert {module.kind for module in describe_torch_file(path)} == {"LSTM", "Linear"}


def test_an_index_is_known_for_what_it_is() -> None:
    from lstm_engine.formats.detect import detect

    assert detect(DATA / "shards" / SAFE).phrase == "an index of shards"
    with pytest.raises(UnsupportedModelError, match=r"(?s)found an index of shards of weights.*le\.LSTM\.from_torch"):
        le.load(DATA / "shards" / BIN)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the sharded model that a test may damage, a folder deep."""
    shutil.copytree(DATA / "shards", tmp_path / "shards")
    return tmp_path / "shards"


def damaged(folder: Path, change: Any) -> Path:
    """Change the weight map of the index."""
    path = folder / SAFE
    index = json.loads(path.read_text())
    change(index["weight_map"])
    path.write_text(json.dumps(index))
    return path


@pytest.mark.parametrize(
    "shard",
    ["../secret.safetensors", "/etc/passwd", "a/b", "..", ".", "", "C:x", "a\\b", "x" * 300, "a\nb", "a\0b", "~/x/y"],
)
def test_a_shard_elsewhere_is_refused(folder: Path, shard: str) -> None:
    shutil.copy(folder / "model-00002-of-00002.safetensors", folder.parent / "secret.safetensors")
    path = damaged(folder, lambda places: places.update({"fc.weight": shard}))
    with pytest.raises(UnsafeFileError, match=r"fc\.weight.*expected the plain name of a file beside the index"):
        read_tensors(path)


def test_a_shard_that_is_not_there(folder: Path) -> None:
    (folder / "model-00001-of-00002.safetensors").unlink()
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(FormatError) as caught:
        read_tensors(folder / SAFE)
    message = str(caught.value)
    assert "2 problems were found" in message
    assert "the shard 'model-00001-of-00002.safetensors' is not there; expected it beside the index" in message


def test_a_tensor_that_its_shard_lacks(folder: Path) -> None:
    path = damaged(folder, lambda places: places.update({"fc.weight": "model-00001-of-00002.safetensors", "x": "y"}))
    (folder / "y").write_bytes((folder / "model-00002-of-00002.safetensors").read_bytes())
    with pytest.raises(FormatError) as caught:
        read_tensors(path)
    message = str(caught.value)
    assert "the shard 'model-00001-of-00002.safetensors' lacks 'fc.weight'" in message
    assert "the shard 'model-00002-of-00002.safetensors' holds, unlike the index says, 'fc.weight'" in message
    assert "the shard 'y' lacks 'x'" in message
    assert "the shard 'y' holds, unlike the index says, 'fc.bias', 'fc.weight'" in message


def test_a_tensor_that_the_index_does_not_know(folder: Path) -> None:
    path = damaged(folder, lambda places: places.pop("fc.bias"))
    with pytest.raises(FormatError, match=r"holds, unlike the index says, 'fc\.bias'; index and shards are not of one"):
        read_tensors(path)


def test_a_tensor_named_twice(folder: Path) -> None:
    path = folder / SAFE
    path.write_text(path.read_text().replace('"weight_map": {', '"weight_map": {"fc.bias": "model-1",'))
    with pytest.raises(UnsafeFileError, match=r"the key 'fc\.bias' stands twice"):
        read_tensors(path)


def test_an_index_of_an_index(folder: Path) -> None:
    path = damaged(folder, lambda places: places.update(dict.fromkeys(places, SAFE)))
    with pytest.raises(FormatError, match=r"expected a file of torch\.save or a safetensors file, found a JSON text"):
        read_tensors(path)


def test_an_index_of_too_many_tensors(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {str(place): "x" for place in range((1 << 16) + 1)}}))
    with pytest.raises(FormatError, match=r"more than 65,536 tensors; .*le\.Limits\(tensors=\.\.\.\)"):
        read_tensors(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[1]", "found a JSON text"),
        ('{"weight_map": [1]}', "found a JSON text"),
        ('{"weight_map": {"a": 1}}', "expected the name of a file for 'a', found 1"),
        ('{"weight_map": {"a": ', "damaged or truncated text"),
    ],
)
def test_other_json(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(text)
    with pytest.raises(FormatError, match=words):
        read_tensors(path)


def test_a_large_json_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.json"
    with path.open("wb") as file:
        file.write(b"{")
        file.truncate(1 << 34)
    with pytest.raises(UnsafeFileError, match="bytes of JSON"):
        read_tensors(path)


# --- Quantized --------------------------------------------------------------------------------------------------------


def test_packed_weights_of_quantized_layers_name_the_way_out() -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        le.LSTM.from_torch(DATA / "quantized_lstm.pt")
    assert "the packed weights of quantized modules (torch.ScriptObject)" in str(caught.value)
    assert "save the state_dict() of the float model" in str(caught.value)
    # Where the LSTM is a plain one it can be had; the packed layer cannot.
    assert le.LSTM.from_torch(DATA / "quantized_linear.pt").hidden_size == 4
    for prefix in (None, "fc"):
        with pytest.raises(UnsupportedModelError, match=r"quantized and their weights packed.*of the float model"):
            le.Dense.from_torch(DATA / "quantized_linear.pt", prefix)
