"""What a file is, told from its content, whatever its name."""

from __future__ import annotations

import struct
from pathlib import Path

import keras_support as made
import pytest
from keras_support import archive_of

from lstm_engine.errors import FormatError
from lstm_engine.formats.detect import detect

TORCH = Path(__file__).parent / "data" / "torch"
KERAS = made.recorded("keras-3.15.1")
ONNX = b"\x08\x0a\x12\x07pytorch\x1a\x05"


@pytest.mark.parametrize(
    ("data", "kind", "phrase"),
    [
        (KERAS["chain.keras"], "keras", "a Keras .keras archive"),
        (KERAS["chain.h5"], "keras-h5", "an HDF5 file"),
        (made.hdf5_of({"x": 1.0}, userblock_size=1024), "keras-h5", "an HDF5 file"),
        ((TORCH / "module.pt").read_bytes(), "torch-zip", "a PyTorch checkpoint"),
        ((TORCH / "checkpoint_legacy.pt").read_bytes(), "torch-legacy", "a PyTorch checkpoint of the format before"),
        ((TORCH / "lstm_bfloat16.safetensors").read_bytes(), "safetensors", "a safetensors file"),
        (struct.pack("<Q", 2) + b"{}", "safetensors", "a safetensors file"),
        (ONNX, "onnx", "an ONNX model"),
        (archive_of({"x.npy": b"", "y.npy": b""}), "npz", "a NumPy .npz archive"),
        (archive_of({"x.txt": b""}), "unknown", "a zip archive of another kind"),
        (archive_of({"model/saved_model.pb": b""}), "unknown", "a zipped TensorFlow SavedModel"),
        (b"\x1f\x8b" + bytes(20), "unknown", "a gzip file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "unknown", "a git-lfs pointer"),
        (b"<html>", "unknown", "a web page"),
        (bytes(600), "unknown", "a file of zeros"),
        (b"hello world", "unknown", "a file of no format that is known here"),
    ],
)
def test_kinds(data: bytes, kind: str, phrase: str, tmp_path: Path) -> None:
    path = tmp_path / "a.name.that.says.nothing"
    path.write_bytes(data)
    found = detect(path)
    assert found.kind == kind
    assert found.phrase.startswith(phrase)
    assert detect(str(path)) == found


def test_a_large_archive_is_known_by_its_ends(tmp_path: Path) -> None:
    """Neither all members nor all bytes are looked at."""
    path = tmp_path / "large"
    many = {f"archive/data/{number}": b"" for number in range(20_000)}
    path.write_bytes(archive_of({"archive/data.pkl": b"", **many}))
    assert detect(path).kind == "torch-zip"
    path.write_bytes(archive_of({"weights": bytes(3 << 20), "config.json": b"{}", "metadata.json": b"{}"}))
    assert detect(path).kind == "keras"


@pytest.mark.parametrize("end", [4, 10, 29, 30, 31, 60])
def test_the_beginning_of_an_archive_is_still_an_archive(end: int, tmp_path: Path) -> None:
    path = tmp_path / "cut"
    path.write_bytes(KERAS["chain.keras"][:end])
    assert detect(path).kind == "unknown"
    assert "zip archive" in detect(path).phrase


def test_a_cut_archive_is_known_by_its_first_member(tmp_path: Path) -> None:
    path = tmp_path / "cut"
    path.write_bytes((TORCH / "module.pt").read_bytes()[:200])
    assert detect(path).kind == "torch-zip"


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        detect(tmp_path / "none")
    with pytest.raises(FormatError, match="found a directory"):
        detect(tmp_path)
    (tmp_path / "empty").touch()
    with pytest.raises(FormatError, match="found an empty one"):
        detect(tmp_path / "empty")
