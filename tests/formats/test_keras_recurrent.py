"""Recorded files of Keras 3 and tf-keras with recurrent layers of every kind give the recorded outputs."""

from __future__ import annotations

import functools
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from keras_support import parts_of, read

import lstm_engine as le
from lstm_engine.formats.keras_layers import CELLS, RECURRENT
from lstm_engine.layers.bidirectional import BidirectionalLayer
from lstm_engine.layers.recurrent import LSTMLayer, RecurrentLayer

DATA = Path(__file__).parent / "data" / "keras_recurrent"


@functools.cache
def recorded(package: str) -> dict[str, bytes]:
    """Return the recorded files by name."""
    with tarfile.open(DATA / f"{package}.tar.xz") as archive:
        return {member.name: archive.extractfile(member).read() for member in archive.getmembers()}  # type: ignore[union-attr]


def model_files() -> list[tuple[str, str]]:
    packages = sorted(path.name.removesuffix(".tar.xz") for path in DATA.glob("*.tar.xz"))
    return [
        (package, name)
        for package in packages
        for name in sorted(recorded(package))
        if name.endswith((".keras", ".h5"))
    ]


def load(package: str, name: str, folder: Path, **options: str) -> le.Model:
    (folder / name).write_bytes(recorded(package)[name])
    return le.load(folder / name, **options)


@pytest.mark.parametrize("options", [{}, {"backend": "blas"}, {"compute_type": "float64"}], ids=["", "blas", "float64"])
@pytest.mark.parametrize(("package", "name"), model_files())
def test_the_recorded_outputs_come_out(package: str, name: str, options: dict[str, str], tmp_path: Path) -> None:
    model = load(package, name, tmp_path, **options)
    with np.load(io.BytesIO(recorded(package)[f"{name.rpartition('.')[0]}.npz"])) as arrays:
        inputs = [arrays[f"input_{place}"] for place in range(sum(key.startswith("input") for key in arrays))]
        wanted = [arrays[f"output_{place}"] for place in range(sum(key.startswith("output") for key in arrays))]
    found = model(*inputs)
    found = found if isinstance(found, tuple) else (found,)
    for output, expected in zip(found, wanted, strict=True):
        assert output.shape == expected.shape
        np.testing.assert_allclose(output, expected, rtol=0, atol=2e-6)


def test_there_are_files_of_both_frameworks_and_both_formats() -> None:
    assert {(package, name.rpartition(".")[2]) for package, name in model_files()} == {
        (package, form) for package in ("keras", "tf_keras") for form in ("keras", "h5")
    }


@pytest.mark.parametrize("package", ["keras", "tf_keras"])
def test_the_files_cover_every_layer_and_cell(package: str) -> None:
    files = [(name, recorded(package)[name]) for found, name in model_files() if found == package]
    parts = {part.class_name for name, data in files for one in read(data, name).layers for _, part in parts_of(one)}
    assert parts >= RECURRENT | CELLS.keys() | {"StackedRNNCells", "Bidirectional", "TimeDistributed"}


@pytest.mark.parametrize("package", ["keras", "tf_keras"])
def test_lstm_cells_run_on_the_lstm_core(package: str, tmp_path: Path) -> None:
    names = dict(name.split("-", 1) for _, name in model_files() if _ == package and "masked_return_sequences" in name)
    for cell, kind in {"rnn_lstm": LSTMLayer, "rnn_gru": RecurrentLayer, "stack_of_all": RecurrentLayer}.items():
        (layer,) = (
            layer
            for layer in load(package, f"{cell}-{names[cell]}", tmp_path).layers
            if isinstance(layer, RecurrentLayer)
        )
        assert type(layer) is kind
    both = load(package, f"bidirectional_rnn_lstm-{names['bidirectional_rnn_lstm']}", tmp_path)
    (layer,) = (layer for layer in both.layers if isinstance(layer, BidirectionalLayer))
    assert layer.one_stack() is not None


@pytest.mark.parametrize("package", ["keras", "tf_keras"])
def test_an_lstm_is_taken_out_of_an_rnn_layer(package: str, tmp_path: Path) -> None:
    (name,) = (
        name
        for found, name in model_files()
        if found == package and name.startswith("rnn_lstm-masked_return_sequences_return_state")
    )
    model = load(package, name, tmp_path)
    with np.load(io.BytesIO(recorded(package)[f"{name.rpartition('.')[0]}.npz"])) as arrays:
        x = arrays["input_0"]
    y, (h, c) = le.LSTM.from_keras(tmp_path / name)(x, mask=x.any(axis=-1))
    for found, wanted in zip((y, h[0], c[0]), model(x), strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("gru", "expected a name where the file has not exactly one LSTM; found none"),
        ("stack_of_all", "expected a name where the file has not exactly one LSTM; found none"),
        ("stack_of_lstms", "expected LSTM cells of one size, found others; load the whole model with le.load"),
    ],
)
def test_no_lstm_is_taken_out_of_other_cells(cell: str, message: str, tmp_path: Path) -> None:
    (name,) = (
        name
        for found, name in model_files()
        if found == "keras" and name.startswith(f"{cell}-masked_return_sequences_return_state")
    )
    load("keras", name, tmp_path)
    with pytest.raises(le.UnsupportedModelError, match=message):
        le.LSTM.from_keras(tmp_path / name)
