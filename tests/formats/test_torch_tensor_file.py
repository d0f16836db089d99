"""Named tensors of a file, whatever it is called: content decides, and other formats are named."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch_support as made

from lstm_engine.errors import FormatError
from lstm_engine.formats.limits import Limits
from lstm_engine.formats.tensor_file import flatten, read_tensors
from lstm_engine.formats.torch_file import read_torch_file

DATA = made.DATA


@pytest.mark.parametrize(
    ("name", "kind"),
    [("tensors.pt", "torch"), ("tensors_legacy.pt", "torch-legacy"), ("tensors_legacy_protocol4.pt", "torch-legacy")],
)
def test_the_content_decides_and_not_the_name(name: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    shutil.copy(DATA / name, path)
    assert read_tensors(path).format == kind
    assert read_tensors(str(path)).path == str(path)


def test_a_safetensors_file_of_another_name(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    shutil.copy(DATA / "tensors.safetensors", path)
    file = read_tensors(path)
    assert (file.format, file.metadata["made by"]) == ("safetensors", "PyTorch")


def test_keys_of_a_checkpoint_are_joined_with_dots() -> None:
    file = read_tensors(DATA / "checkpoint.pt")
    assert file.tensors["state_dict.module.rnn.weight_ih_l0"].shape == (16, 3)
    assert file.tensors["optimizer.state.0.exp_avg"].shape == (16, 3)
    assert file.metadata["epoch"] == 3
    assert file.metadata["best_loss"] == 0.125
    assert "args" not in file.metadata
    assert file.unsupported == {"words": "its NumPy dtype 'U2' is not read"}


def _zip(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, raw in members.items():
            archive.writestr(name.replace("__", "."), raw)
    return buffer.getvalue()


def _tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"), io.BytesIO())
    return buffer.getvalue()


def _npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.ones(3))
    return buffer.getvalue()


def _npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ones(3))
    return buffer.getvalue()


OTHERS = {
    "keras": (_zip(config__json=b"{}", metadata__json=b"{}", model__weights__h5=b"x" * 99), "a Keras .keras archive"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "an HDF5 file"),
    "onnx": (b"\x08\x08\x12\x07pytorch\x1a\x052.1.0:\xd5\x01", "an ONNX model"),
    "gzip": (gzip.compress(b"x"), "a gzip file; unpack it first"),
    "xz": (b"\xfd7zXZ\x00" + bytes(20), "an xz file"),
    "html": (b"\n <!DOCTYPE html><html><body>404", "a web page"),
    "git-lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "git lfs pull"),
    "npz": (_npz(), "a NumPy .npz archive"),
    "npy": (_npy(), "a NumPy .npy array"),
    "tar": (_tar(), "a tar archive"),
    "json": (json.dumps({"a": 1}).encode(), "a JSON text"),
    "pickle": (b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00}\x94.", "a bare Python pickle"),
    "tflite": (b"\x1c\x00\x00\x00TFL3" + bytes(20), "a TensorFlow Lite file"),
    "zip of a model": (_zip(model__pt=b"x"), "a zip archive with model files in it; unpack it first"),
    "another zip": (_zip(readme=b"x"), "a zip archive that torch.save did not write"),
    "an empty zip": (b"PK\x05\x06" + bytes(18), "an empty zip archive"),
    "zeros": (bytes(1000), "a file of zeros"),
    "noise": (b"\xde\xad\xbe\xef" * 9, "a file of no format that is known here"),
    "one byte": (b"\x80", "a file of no format that is known here"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_a_file_of_another_format_is_named(case: str, tmp_path: Path) -> None:
    data, words = OTHERS[case]
    path = tmp_path / "model.pt"
    path.write_bytes(data)
    for read in (read_tensors, read_torch_file):
        with pytest.raises(FormatError) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path}: expected a file of torch.save")
        assert words in str(caught.value)


def test_the_reader_of_one_format_names_the_other() -> None:
    with pytest.raises(FormatError, match=r"expected a file of torch\.save, found a safetensors file"):
        read_torch_file(DATA / "tensors.safetensors")


@pytest.mark.parametrize("read", [read_tensors, read_torch_file])
def test_what_is_no_file(read: Any, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none.pt")
    with pytest.raises(FormatError, match="expected a file, found a directory;"):
        read(tmp_path)
    (tmp_path / "saved_model.pb").touch()
    with pytest.raises(FormatError, match=r"found a directory \(a TensorFlow SavedModel\)"):
        read(tmp_path)
    with pytest.raises(FormatError, match="expected a model file, found an empty one"):
        read(tmp_path / "saved_model.pb")
    os.mkfifo(tmp_path / "pipe")
    for special in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(FormatError, match="expected a regular file, found a device, pipe or socket"):
            read(special)


# --- Flattening -------------------------------------------------------------------------------------------------------


def test_two_tensors_of_one_name_are_refused() -> None:
    with pytest.raises(FormatError, match=r"two tensors have the name 'a\.b'"):
        flatten({"a": {"b": np.ones(1)}, "a.b": np.ones(1)}, "x")
    with pytest.raises(FormatError, match="two tensors have the name '1'"):
        flatten({1: np.ones(1), "1": np.ones(1)}, "x")


def test_too_many_tensors_are_refused() -> None:
    one = np.ones(1)
    with pytest.raises(FormatError, match="more than 65,536 tensors"):
        flatten({str(place): one for place in range(Limits().tensors + 1)}, "x")


def test_a_mapping_that_contains_itself_is_refused() -> None:
    loop: dict[str, Any] = {"w": np.ones(1)}
    loop["again"] = loop
    with pytest.raises(FormatError, match="nest deeper"):
        flatten(loop, "x")


def test_what_holds_no_tensor_is_not_walked(tmp_path: Path) -> None:
    vocabulary = {str(word): word for word in range(300_000)}
    tensors, _ = flatten({"words": [vocabulary] * 1000, "w": np.ones(1)}, "x")
    assert list(tensors) == ["w"]
    path = tmp_path / "laughs.pt"
    path.write_bytes(made.archive(made.mapping(a=made.laughs())))
    assert not read_tensors(path).tensors


def test_tensors_that_unfold_without_end_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "laughs.pt"
    path.write_bytes(made.archive(made.mapping(a=made.laughs(bottom=made.tensor()))))
    with pytest.raises(FormatError, match=r"unfold to more than|more than 65,536 tensors"):
        read_tensors(path)


def test_a_long_header_length_is_no_safetensors_file(tmp_path: Path) -> None:
    path = tmp_path / "w.bin"
    path.write_bytes(struct.pack("<Q", 1 << 40) + b"{}")
    with pytest.raises(FormatError, match="a file of no format that is known here"):
        read_tensors(path)
