"""``load``: what a file is decides, and what is no model is refused with what to do."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lstm_engine as le

DATA = Path(le.__file__).parent / "data"
TORCH = Path(__file__).parent / "formats" / "data" / "torch"
CHAR = DATA / "char_lstm.keras"


@pytest.fixture(scope="module")
def recorded() -> tuple[Any, Any]:
    """Contexts of the character model as one-hot sequences, and Keras's own outputs."""
    with np.load(DATA / "char_recorded.npz") as arrays:
        contexts, outputs = arrays["contexts"], arrays["outputs"]
    return np.eye(outputs.shape[1], dtype=np.float32)[contexts], outputs


def test_the_character_model_predicts_what_keras_recorded(recorded: tuple[Any, Any]) -> None:
    x, wanted = recorded
    model = le.load(CHAR)
    found = model.predict(x, batch_size=25)
    assert np.linalg.norm(found - wanted) < 3e-6 * np.linalg.norm(wanted)
    np.testing.assert_array_equal(found, model(x))
    stream = model.stream(4)
    np.testing.assert_array_equal(stream.run(x[:4])[:, -1], found[:4])


@pytest.mark.parametrize("options", [{"backend": "blas"}, {"backend": "fused"}, {"compute_type": "float64"}])
def test_every_option_gives_the_same_numbers(recorded: tuple[Any, Any], options: Any) -> None:
    x, wanted = recorded
    found = le.load(CHAR, **options).predict(x)
    assert found.dtype == options.get("compute_type", "float32")
    assert np.linalg.norm(found - wanted) < 3e-6 * np.linalg.norm(wanted)


def test_the_name_of_a_file_says_nothing(tmp_path: Path, recorded: tuple[Any, Any]) -> None:
    for name in ("model.pt", "model.onnx", "model"):
        shutil.copy(CHAR, tmp_path / name)
        np.testing.assert_array_equal(le.load(tmp_path / name)(recorded[0][:2]), le.load(str(CHAR))(recorded[0][:2]))


@pytest.mark.parametrize("name", ["lstm_plain.pt", "tensors_legacy.pt", "lstm_bfloat16.safetensors", "several.pt"])
def test_a_state_dict_is_no_model(name: str) -> None:
    with pytest.raises(le.UnsupportedModelError) as caught:
        le.load(TORCH / name)
    message = str(caught.value)
    assert message.startswith(f"{TORCH / name}: expected a model with its architecture")
    assert "how the layers are connected" in message
    assert ("le.LSTM.from_torch(" in message) == ("lstm" in name or "several" in name)


def test_the_lstms_of_a_state_dict_are_listed_and_what_is_shown_works() -> None:
    path = DATA / "sunspots_lstm.pt"
    with pytest.raises(le.UnsupportedModelError) as caught:
        le.load(path)
    lines = str(caught.value).splitlines()
    assert any("LSTM 'lstm' (2 layers" in line for line in lines)
    calls = [line.strip() for line in lines if line.strip().startswith("le.")]
    assert calls == [f"le.LSTM.from_torch({str(path)!r}, prefix='lstm')", f"le.Dense.from_torch({str(path)!r}, 'head')"]
    made = [eval(call, {"le": le}) for call in calls]  # what the message tells people to type
    assert le.Sequential(made)(np.zeros((1, 3, 1))).shape == (1, 3, 1)


@pytest.mark.parametrize(
    ("content", "error", "found"),
    [
        (b"", le.FormatError, "empty"),
        (b"hello", le.FormatError, "no format that is known"),
        (b"\x08\x09\x12\x07pytorch\x1a\x052.1.0" + bytes(100), le.FormatError, "an ONNX model"),
        (b"\x93NUMPY" + bytes(100), le.FormatError, "a NumPy"),
        (b"version https://git-lfs.github.com/spec/v1\n", le.FormatError, "git-lfs"),
    ],
)
def test_other_files_are_named(tmp_path: Path, content: bytes, error: Any, found: str) -> None:
    path = tmp_path / "model.keras"
    path.write_bytes(content)
    with pytest.raises(error, match=found) as caught:
        le.load(path)
    assert str(path) in str(caught.value)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    whole = CHAR.read_bytes()
    for size in (4, 100, len(whole) // 2, len(whole) - 1):
        path = tmp_path / f"{size}.keras"
        path.write_bytes(whole[:size])
        with pytest.raises(le.LstmEngineError, match=str(path)):
            le.load(path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        le.load(tmp_path / "none.keras")
    with pytest.raises(le.FormatError, match="directory"):
        le.load(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compute_type": "int4"}, "compute_type: expected one of .*'int4'"),
        ({"compute_type": "bfloat16", "backend": "blas"}, "backend"),
        ({"num_threads": 0}, "num_threads: expected a positive integer or 'auto'"),
        ({"num_threads": True}, "num_threads: expected a positive integer"),
        ({"backend": "onnx"}, "backend: expected one of"),
        ({"backend": "fused", "compute_type": "float64"}, "the fused backend computes in float32"),
    ],
)
def test_options_that_cannot_be_had_are_refused_before_the_file_is_opened(options: Any, message: str) -> None:
    with pytest.raises(le.UnsupportedModelError, match=message):
        le.load("no such file", **options)
