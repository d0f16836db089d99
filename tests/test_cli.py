"""The command line tool: what it prints, what it writes, and that a failure is one message and status 2."""

# ruff: noqa: F811 (fixtures are imported, and then named as arguments)

from __future__ import annotations

import io
import os
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_support import TWO_INPUTS, Run, contexts, recorded, refused, run  # noqa: F401

import lstm_engine as le
from lstm_engine.demo import DATA

ROOT = Path(__file__).parents[1]
CHARACTERS = DATA / "char_lstm.keras"
SUNSPOTS = DATA / "sunspots_lstm.pt"

# --- The tool itself --------------------------------------------------------------------------------------------------


def test_version(run: Run) -> None:
    assert run("--version") == (0, f"lstm-engine {le.__version__}\n", "")


@pytest.mark.parametrize("command", [(), ("info",), ("predict",), ("demo",), ("config",)])
def test_help(run: Run, command: tuple[str, ...]) -> None:
    status, out, err = run(*command, "--help")
    assert (status, err) == (0, "")
    assert out.startswith(" ".join(["usage: lstm-engine", *command]))


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("fly",),
        ("info",),
        ("predict", "model.keras"),
        ("predict", "m", "-i", "x.npy", "-o", "y.npy", "--batch-size", "0"),
        ("predict", "m", "-i", "x.npy", "-o", "y.npy", "--batch-size", "many"),
        ("predict", "m", "-i", "x.npy", "-o", "y.npy", "--compute-type", "float16"),
        ("demo", "--temperature", "-1"),
        ("demo", "--temperature", "nan"),
        ("demo", "--temperature", "warm"),
        ("demo", "--characters", "-3"),
        ("demo", "--prompt", ""),
    ],
)
def test_wrong_arguments(run: Run, arguments: tuple[str, ...]) -> None:
    status, out, err = run(*arguments)
    assert status == 2
    assert out == ""
    assert err.startswith("usage: ")


def test_config(run: Run) -> None:
    status, out, err = run("config")
    assert (status, err) == (0, "")
    lines = dict(line.split(maxsplit=1) for line in out.splitlines() if not line.startswith(("instruction", "num")))
    assert lines["version"] == le.__version__
    assert lines["backends"] == "fused, blas"
    assert f"instruction set    {le.config()['instruction_set']}\n" in out


def test_an_unknown_instruction_set_is_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LSTM_ENGINE_ISA", "mmx")
    refused(run("config"), "mmx")


def test_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lstm_engine", "info", SUNSPOTS],
        capture_output=True, text=True, check=False, timeout=120, cwd=ROOT,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "LSTM 'lstm'" in done.stdout


def test_a_reader_that_goes_away_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "lstm_engine", "config"],
            stdout=closed, stderr=subprocess.PIPE, text=True, check=False, timeout=120, cwd=ROOT,
        )  # fmt: skip
    assert done.stderr == ""
    assert done.returncode == 1


def test_running_out_of_memory_is_said(run: Run, monkeypatch: pytest.MonkeyPatch, contexts: Path) -> None:
    def exhausted(*_: object, **__: object) -> None:
        raise MemoryError("Unable to allocate 9 TiB")

    monkeypatch.setattr("lstm_engine.row_files.running.run_rows", exhausted)
    result = run("predict", CHARACTERS, "-i", contexts, "-o", contexts.with_name("y.npy"))
    refused(result, "out of memory", "9 TiB", "--batch-size")


def test_interruption_is_said(run: Run, monkeypatch: pytest.MonkeyPatch, contexts: Path) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lstm_engine.row_files.running.run_rows", interrupted)
    status, _, err = run("predict", CHARACTERS, "-i", contexts, "-o", contexts.with_name("y.npy"))
    assert (status, err) == (130, "lstm-engine: interrupted\n")


# --- info -------------------------------------------------------------------------------------------------------------


def test_info_of_a_keras_model(run: Run) -> None:
    status, out, err = run("info", CHARACTERS)
    assert (status, err) == (0, "")
    assert out.splitlines()[0] == f"{CHARACTERS}: a Keras .keras archive, {CHARACTERS.stat().st_size:,} bytes"
    for phrase in (
        "saved by Keras 3.",
        "char_lstm",
        "(None, 40, 60)",
        "lstm (LSTM)",
        "(None, 128)",
        "96,768",
        "104,508",
    ):
        assert phrase in out


def test_info_of_a_model_of_several_inputs(run: Run) -> None:
    _, out, _ = run("info", TWO_INPUTS)
    for phrase in ("readings (Input)", "place (Input)", "memory, site", "level (Dense)", "alarm (Dense)"):
        assert phrase in out


@pytest.mark.parametrize("path", [SUNSPOTS, ROOT / "examples/models/sunspots_lstm.safetensors"])
def test_info_of_pytorch_weights_says_how_to_load_them(run: Run, path: Path) -> None:
    status, out, err = run("info", path)
    assert (status, err) == (0, "")
    assert "10 tensors, 12,961 parameters, in 2 modules" in out
    assert "LSTM 'lstm' (2 layers, one direction, input 1, hidden 32)" in out
    loaders = [line.strip() for line in out.splitlines() if "from_torch" in line]
    loaded = [eval(line, {"le": le}) for line in loaders]
    assert sorted(type(layer).__name__ for layer in loaded) == ["Dense", "LSTM"]


def test_info_of_other_modules_shows_their_tensors(run: Run) -> None:
    status, out, _ = run("info", ROOT / "tests/formats/data/torch/spectral.pt")
    assert status == 0
    assert "tensors 'parametrizations.weight'" in out
    assert "parametrizations.weight.original: (4, 3)" in out
    assert "from_torch" not in out


def test_info_shows_how_each_layer_of_a_file_is_loaded(run: Run) -> None:
    status, out, _ = run("info", ROOT / "tests/formats/data/torch/stack.pt")
    assert status == 0
    loaders = [line.strip() for line in out.splitlines() if "from_torch" in line]
    loaded = {type(eval(line, {"le": le})).__name__ for line in loaders}
    assert loaded == {"Embedding", "Dense", "Conv1d", "BatchNorm1d", "LayerNorm", "GRU", "RNN", "LSTM"}


@pytest.mark.parametrize(
    ("content", "phrase"),
    [
        (b"", "empty"),
        (b"hello", "of no format that is known"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"\x08\x08\x12\x07pytorch", "ONNX"),
        (b"PK\x03\x04" + bytes(60), "zip"),
        (CHARACTERS.read_bytes()[:-1000], "char.bin"),
        (SUNSPOTS.read_bytes()[:-1000], "char.bin"),
    ],
    ids=["empty", "text", "web page", "onnx", "zip", "truncated keras", "truncated torch"],
)
def test_info_of_no_model_is_refused(run: Run, tmp_path: Path, content: bytes, phrase: str) -> None:
    path = tmp_path / "char.bin"
    path.write_bytes(content)
    refused(run("info", path), str(path), phrase)


def test_info_of_nothing_and_of_a_folder(run: Run, tmp_path: Path) -> None:
    refused(run("info", tmp_path / "none.keras"), f"{tmp_path / 'none.keras'}: No such file or directory")
    refused(run("info", tmp_path), "found a directory")


# --- predict ----------------------------------------------------------------------------------------------------------


def test_predict(run: Run, contexts: Path) -> None:
    target = contexts.with_name("y.npy")
    status, out, err = run("predict", CHARACTERS, "--input", contexts, "--output", target)
    assert (status, err) == (0, "")
    assert out == f"{target}: dense (10, 60) float32\n"
    with np.load(DATA / "char_recorded.npz", allow_pickle=False) as archive:
        np.testing.assert_allclose(np.load(target), archive["outputs"][:10], rtol=0, atol=1e-6)
    assert sorted(path.name for path in contexts.parent.iterdir()) == ["x.npy", "y.npy"]


@pytest.mark.parametrize(
    "options",
    [
        ("--batch-size", "3"),
        ("--batch-size", "1000"),
        ("--backend", "blas"),
        ("--backend", "fused"),
        ("--compute-type", "float64"),
    ],
)
def test_predict_with_options(run: Run, contexts: Path, options: tuple[str, ...]) -> None:
    target = contexts.with_name("y.npy")
    assert run("predict", CHARACTERS, "-i", contexts, "-o", target, *options)[0] == 0
    y = np.load(target)
    assert y.dtype == ("float64" if "float64" in options else "float32")
    with np.load(DATA / "char_recorded.npz", allow_pickle=False) as archive:
        np.testing.assert_allclose(y, archive["outputs"][:10], rtol=0, atol=2e-6)


def test_predict_shows_progress(run: Run, contexts: Path) -> None:
    pytest.importorskip("tqdm")
    result = run("predict", CHARACTERS, "-i", contexts, "-o", contexts.with_name("y.npy"), "--progress")
    assert result[0] == 0
    assert "100%" in result[2]


def test_predict_replaces_and_follows_links(run: Run, contexts: Path) -> None:
    real, link = contexts.with_name("real.npy"), contexts.with_name("link.npy")
    real.write_bytes(b"old")
    link.symlink_to(real)
    assert run("predict", CHARACTERS, "-i", contexts, "-o", link)[0] == 0
    assert link.is_symlink()
    assert np.load(real).shape == (10, 60)


def test_predict_with_arrays_by_name(run: Run, tmp_path: Path, recorded: dict[str, np.ndarray]) -> None:
    np.savez(tmp_path / "x.npz", place=recorded["place"], readings=recorded["readings"])
    status, out, _ = run("predict", TWO_INPUTS, "-i", tmp_path / "x.npz", "-o", tmp_path / "y.npz")
    assert status == 0
    assert out == f"{tmp_path}/y.npz: level (7, 1) float32\n{tmp_path}/y.npz: alarm (7, 2) float32\n"
    with np.load(tmp_path / "y.npz", allow_pickle=False) as archive:
        assert list(archive) == ["level", "alarm"]
        for name in archive:
            np.testing.assert_allclose(archive[name], recorded[name], rtol=0, atol=1e-6)


def test_predict_with_arrays_in_order(run: Run, tmp_path: Path, recorded: dict[str, np.ndarray]) -> None:
    for name in ("readings", "place"):
        np.save(tmp_path / f"{name}.npy", recorded[name])
    inputs = ("-i", tmp_path / "readings.npy", "-i", tmp_path / "place.npy")
    outputs = ("-o", tmp_path / "level.npy", "-o", tmp_path / "alarm.npy")
    assert run("predict", TWO_INPUTS, *inputs, *outputs)[0] == 0
    for name in ("level", "alarm"):
        np.testing.assert_allclose(np.load(tmp_path / f"{name}.npy"), recorded[name], rtol=0, atol=1e-6)

    refused(run("predict", TWO_INPUTS, *inputs[:2], *outputs), "--input", "readings, place", "found 1")
    refused(run("predict", TWO_INPUTS, *inputs, "-o", tmp_path / "y.npy"), "y.npy", ".npz for 2 arrays")
    refused(run("predict", TWO_INPUTS, *inputs, *outputs[:2], *outputs[:2]), "--output", "2 different files")
    refused(run("predict", TWO_INPUTS, *inputs, *outputs, "-o", tmp_path / "z.npy"), "--output")


def test_predict_takes_the_only_array_of_an_archive_for_the_only_input(run: Run, contexts: Path) -> None:
    np.savez(contexts.with_name("x.npz"), any_name=np.load(contexts))
    assert run("predict", CHARACTERS, "-i", contexts.with_name("x.npz"), "-o", contexts.with_name("y.npy"))[0] == 0


def test_predict_refuses_an_archive_that_does_not_fit(
    run: Run, tmp_path: Path, recorded: dict[str, np.ndarray]
) -> None:
    np.savez(tmp_path / "x.npz", readings=recorded["readings"], spot=recorded["place"])
    np.save(tmp_path / "x.npy", recorded["place"])
    refused(
        run("predict", TWO_INPUTS, "-i", tmp_path / "x.npz", "-o", tmp_path / "y.npz"),
        "x.npz", "readings, place", "readings, spot",
    )  # fmt: skip
    refused(
        run("predict", TWO_INPUTS, "-i", tmp_path / "x.npz", "-i", tmp_path / "x.npy", "-o", tmp_path / "y.npz"),
        "x.npz", "must be the only --input",
    )  # fmt: skip


def test_predict_needs_a_whole_model(run: Run, contexts: Path) -> None:
    refused(
        run("predict", SUNSPOTS, "-i", contexts, "-o", contexts.with_name("y.npy")),
        "sunspots_lstm.pt", "le.LSTM.from_torch",
    )  # fmt: skip
    refused(run("predict", "none.keras", "-i", contexts, "-o", contexts.with_name("y.npy")), "none.keras: No such file")


def test_predict_refuses_an_array_of_another_shape(run: Run, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((2, 40, 61), np.float32))
    refused(run("predict", CHARACTERS, "-i", tmp_path / "x.npy", "-o", tmp_path / "y.npy"), "60", "61")
    assert not (tmp_path / "y.npy").exists()


def test_predict_checks_the_output_before_it_computes(
    run: Run, contexts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def predict(*_: object, **__: object) -> None:
        pytest.fail("computed before the output was checked")

    monkeypatch.setattr("lstm_engine.row_files.running.run_rows", predict)
    (contexts.parent / "folder.npy").mkdir()
    for output, phrase in {
        contexts.parent / "none" / "y.npy": "expected an existing folder",
        contexts.parent / "y.txt": "'.txt'",
        contexts.parent / "y": "no ending",
        contexts.parent / "folder.npy": "expected a regular file",
    }.items():
        refused(run("predict", CHARACTERS, "-i", contexts, "-o", output), str(output), phrase)


def test_a_failed_write_leaves_what_was_there(run: Run, contexts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = contexts.with_name("y.npy")
    target.write_bytes(b"old")

    def full(writer: Any, *_: object) -> None:
        writer.file.write(b"half of it")
        raise OSError(28, "No space left on device", "y.npy")

    monkeypatch.setattr("lstm_engine.row_files.arrays.ArrayWriter.write", full)
    refused(run("predict", CHARACTERS, "-i", contexts, "-o", target), "y.npy: No space left on device")
    assert target.read_bytes() == b"old"
    assert sorted(path.name for path in contexts.parent.iterdir()) == ["x.npy", "y.npy"]


# --- Input files from strangers ---------------------------------------------------------------------------------------


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def header(text: str, version: tuple[int, int] = (1, 0)) -> bytes:
    padded = text.encode() + b"\n"
    return b"\x93NUMPY" + bytes(version) + len(padded).to_bytes(2 if version == (1, 0) else 4, "little") + padded


def npz(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return file.getvalue()


def twice_the_same_name() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive.writestr("x.npy", npy(np.zeros(3)))
        archive.writestr("x.npy", npy(np.ones(3)))
    return file.getvalue()


def damaged_member() -> bytes:
    content = bytearray(npz(x=npy(np.ones(100))))
    content[300] ^= 1
    return bytes(content)


SMALL = np.zeros((2, 3), np.float32)

BAD_ARRAYS = {
    "empty": (b"", "empty"),
    "text": (b"1,2,3\n", "begins with"),
    "pickle": (b"\x80\x04K\x01.", "begins with"),
    "objects": (npy(np.array([print, None], dtype=object)), "pickled Python objects"),
    "strings": (npy(np.array(["a"])), "dtype"),
    "complex": (npy(np.zeros(3, np.complex64)), "complex64"),
    "dates": (npy(np.zeros(3, "M8[s]")), "datetime64"),
    "fields": (npy(np.zeros(3, [("a", "f4")])), "dtype"),
    "truncated": (npy(SMALL)[:-1], "truncated or damaged"),
    "too long": (npy(SMALL) + b"x", "truncated or damaged"),
    "no header": (b"\x93NUMPY", "damaged header"),
    "cut header": (npy(SMALL)[:40], "damaged header"),
    "shape bomb": (
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776, 1048576)}"),
        "truncated or damaged",
    ),
    "negative": (header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}") + bytes(4), "-1"),
    "code": (header("__import__('os').system('true')"), "damaged header"),
    "version 9": (b"\x93NUMPY\x09\x00" + bytes(20), "damaged header"),
    "huge header": (header("{" + " " * 100_000 + "}", (2, 0)), "damaged header"),
    "damaged zip": (b"PK\x03\x04 and nothing more", "damaged archive"),
    "zip of objects": (npz(x=npy(np.array([print], dtype=object))), "x.npy: expected an array of numbers"),
    "zip of a bomb": (
        npz(x=header("{'descr': '<f8', 'fortran_order': False, 'shape': (1099511627776,)}")),
        "truncated or damaged",
    ),
    "zip of text": (npz(x=b"hello"), "damaged header"),
    "same name twice": (twice_the_same_name(), "found 'x' twice"),
    "damaged member": (damaged_member(), "damaged archive"),
}


@pytest.mark.parametrize("name", BAD_ARRAYS)
def test_a_bad_input_is_refused_by_name(run: Run, tmp_path: Path, name: str) -> None:
    content, phrase = BAD_ARRAYS[name]
    path = tmp_path / "stranger.npy"
    path.write_bytes(content)
    refused(run("predict", CHARACTERS, "-i", path, "-o", tmp_path / "y.npy"), str(path), phrase)
    assert not (tmp_path / "y.npy").exists()


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((0, 40, 60), np.float32),
        np.zeros((2, 40, 60), np.float64),
        np.zeros((2, 40, 60), np.uint8),
        np.zeros((2, 40, 60), bool),
        np.zeros((2, 40, 60), ">f4"),
        np.asfortranarray(np.zeros((2, 40, 60), np.float32)),
    ],
    ids=["empty batch", "float64", "uint8", "bool", "big endian", "Fortran order"],
)
def test_other_sound_inputs_are_taken(run: Run, tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "x.npy", array)
    status, _, err = run("predict", CHARACTERS, "-i", tmp_path / "x.npy", "-o", tmp_path / "y.npy")
    assert (status, err) == (0, "")
    assert np.load(tmp_path / "y.npy").shape == (len(array), 60)


# --- demo -------------------------------------------------------------------------------------------------------------


def test_demo_passes_its_options_on(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, object] = {}

    def demo(**options: object) -> int:
        seen.update(options)
        return 1

    monkeypatch.setattr("lstm_engine.demo.run", demo)
    assert run("demo", "--characters", "5", "--temperature", "0.5", "--seed", "9", "--prompt", "for ")[0] == 1
    assert seen == {"characters": 5, "temperature": 0.5, "seed": 9, "prompt": "for "}
