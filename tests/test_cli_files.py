"""``lstm-engine convert`` and ``lstm-engine verify``."""

# ruff: noqa: F811 (fixtures are imported, and then named as arguments)

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cli_support import TWO_INPUTS, Run, contexts, recorded, refused, run  # noqa: F401

import lstm_engine as le
from lstm_engine.demo import DATA
from lstm_engine.formats.mapped_tensors import map_tensors, write_tensors

ROOT = Path(__file__).parents[1]
LEGACY = Path(__file__).parent / "fixtures/keras/keras_chain_1998_1.h5"
CHARACTERS = DATA / "char_lstm.keras"
SUNSPOTS = DATA / "sunspots_lstm.pt"

# --- convert ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [CHARACTERS, LEGACY], ids=[".keras", ".h5"])
def test_convert_keeps_the_bits(run: Run, tmp_path: Path, source: Path) -> None:
    target = tmp_path / "m.safetensors"
    status, out, err = run("convert", source, target)
    assert (status, err) == (0, "")
    assert out == f"{target}: {target.stat().st_size:,} bytes\n"
    first, again = le.load(source), le.load(target)
    shape = tuple(3 if size is None else size for size in first.inputs[0].shape)
    x = np.random.default_rng(1).integers(0, 2, shape).astype(np.float32)  # token numbers as well as features
    assert np.asarray(again(x)).tobytes() == np.asarray(first(x)).tobytes()
    # Of what was converted once, too.
    assert run("convert", target, tmp_path / "again.safetensors")[0] == 0
    assert np.asarray(le.load(tmp_path / "again.safetensors")(x)).tobytes() == np.asarray(first(x)).tobytes()


@pytest.mark.parametrize("source", [SUNSPOTS, ROOT / "examples/models/sunspots_lstm.safetensors"], ids=lambda p: p.name)
def test_convert_takes_an_lstm_from_pytorch_weights(run: Run, tmp_path: Path, source: Path) -> None:
    target = tmp_path / "lstm.safetensors"
    np.save(tmp_path / "x.npy", np.ones((2, 5, 1), np.float32))
    assert run("convert", source, target, "--prefix", "lstm", "--golden", tmp_path / "x.npy")[0] == 0
    x = np.ones((2, 5, 1), np.float32)
    expected = le.LSTM.from_torch(source, "lstm")(x)[0]
    assert le.LSTM.load(target, verify=True)(x)[0].tobytes() == expected.tobytes()
    assert run("verify", target)[0] == 0


def test_convert_to_onnx_and_from_it(run: Run, tmp_path: Path, contexts: Path) -> None:
    pytest.importorskip("onnx")
    assert run("convert", CHARACTERS, tmp_path / "m.onnx")[0] == 0
    assert run("convert", tmp_path / "m.onnx", tmp_path / "m.safetensors", "--golden", contexts)[0] == 0
    x = np.load(contexts)
    assert le.load(tmp_path / "m.safetensors")(x).tobytes() == le.load(tmp_path / "m.onnx")(x).tobytes()
    assert run("verify", tmp_path / "m.safetensors")[0] == 0
    assert run("convert", SUNSPOTS, tmp_path / "l.onnx", "--prefix", "lstm")[0] == 0
    assert le.load(tmp_path / "l.onnx")(np.ones((2, 5, 1), np.float32)).shape == (2, 5, 32)


def test_convert_rounds_wider_weights_if_asked(run: Run, tmp_path: Path) -> None:
    kernel = np.random.default_rng(0).random((3, 2))
    le.Sequential([le.Dense(kernel)]).save(tmp_path / "wide.safetensors")
    for arguments, dtype in (((), "float64"), (("--compute-type", "float32"), "float32")):
        assert run("convert", tmp_path / "wide.safetensors", tmp_path / "m.safetensors", *arguments)[0] == 0
        assert map_tensors(tmp_path / "m.safetensors")[0]["dense.kernel"].dtype == dtype


def test_convert_refuses_what_it_cannot_take(run: Run, tmp_path: Path) -> None:
    target = tmp_path / "m.safetensors"
    refused(run("convert", "none.keras", target), "none.keras: No such file")
    refused(run("convert", CHARACTERS, target, "--prefix", "lstm"), "--prefix", "PyTorch weights alone")
    refused(run("convert", CHARACTERS, tmp_path / "none" / "m.safetensors"), "expected an existing folder")
    (tmp_path / "text").write_text("hello")
    refused(run("convert", tmp_path / "text", target), "text", "of no format that is known")
    assert not target.exists()


# --- verify -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def golden(run: Run, contexts: Path) -> Path:
    """The character model with golden outputs."""
    target = contexts.with_name("golden.safetensors")
    assert run("convert", CHARACTERS, target, "--golden", contexts)[0] == 0
    return target


def test_verify_of_golden_outputs(run: Run, golden: Path) -> None:
    for arguments in ((), ("--tolerance", "0"), ("--backend", "fused", "--tolerance", "0"), ("--backend", "blas")):
        status, out, err = run("verify", golden, *arguments)
        assert (status, err) == (0, "")
        assert out.splitlines()[0].startswith("dense: max abs error ")
        assert out.splitlines()[0].endswith(": ok")
        assert out.splitlines()[1].startswith("1 of 1 outputs within a relative L2 error of ")


def moved(path: Path, name: str, ulps: int) -> Path:
    """Write a file anew with one element of a tensor moved by so many units in the last place."""
    tensors, metadata = map_tensors(path)
    array = np.array(tensors[name])
    place = int(np.argmax(np.abs(array)))
    array.ravel().view(np.int32)[place] += ulps
    target = path.with_name("moved.safetensors")
    with target.open("wb") as file:
        write_tensors(file, {**tensors, name: array}, metadata)
    return target


def test_verify_finds_a_change_of_one_unit_in_the_last_place(run: Run, golden: Path) -> None:
    path = moved(golden, "golden.dense", 1)
    assert run("verify", path)[0] == 0  # beside the tolerance of other CPUs it is nothing
    status, out, _ = run("verify", path, "--tolerance", "0")
    assert status == 1
    assert ": WRONG\n0 of 1 outputs within a relative L2 error of 0\n" in out
    error = float(out.split("relative L2 error ")[1].split(":")[0])
    assert 0 < error < 1e-7
    # A tolerance below the change catches it, one above does not.
    assert run("verify", path, "--tolerance", str(error / 2))[0] == 1
    assert run("verify", path, "--tolerance", str(error * 2))[0] == 0


def test_verify_finds_a_weight_that_moved(run: Run, golden: Path) -> None:
    assert run("verify", moved(golden, "dense.kernel", 1 << 14))[0] == 1


def test_verify_needs_golden_outputs_or_others(run: Run, tmp_path: Path, contexts: Path) -> None:
    refused(run("verify", CHARACTERS), "char_lstm.keras", "a Keras .keras archive", "--against")
    assert run("convert", CHARACTERS, tmp_path / "m.safetensors")[0] == 0
    refused(run("verify", tmp_path / "m.safetensors"), "m.safetensors", "golden", "--against")
    refused(run("verify", CHARACTERS, "--input", contexts), "--input", "--against")
    refused(run("verify", CHARACTERS, "--against", contexts), "--against", ".npz with the inputs too")


def test_verify_against_what_predict_wrote(run: Run, contexts: Path) -> None:
    outputs = contexts.with_name("y.npz")
    assert run("predict", CHARACTERS, "-i", contexts, "-o", outputs)[0] == 0
    status, out, _ = run("verify", CHARACTERS, "-i", contexts, "--against", outputs, "--tolerance", "0")
    assert (status, out.splitlines()[0]) == (0, "dense: max abs error 0, relative L2 error 0: ok")
    np.save(contexts.with_name("y.npy"), np.load(outputs)["dense"] * np.float32(1.001))
    assert run("verify", CHARACTERS, "-i", contexts, "--against", contexts.with_name("y.npy"))[0] == 1
    assert run(
        "verify", CHARACTERS, "-i", contexts, "--against", contexts.with_name("y.npy"), "--tolerance", "0.01"
    )[0] == 0  # fmt: skip


def test_verify_against_a_file_with_everything_by_name(
    run: Run, tmp_path: Path, recorded: dict[str, np.ndarray]
) -> None:
    np.savez(tmp_path / "all.npz", **recorded)
    status, out, _ = run("verify", TWO_INPUTS, "--against", tmp_path / "all.npz")
    assert status == 0
    assert [line.partition(":")[0] for line in out.splitlines()[:2]] == ["level", "alarm"]
    named = {
        f"{'inputs' if name in ('readings', 'place') else 'outputs'}.{name}": array for name, array in recorded.items()
    }
    np.savez(tmp_path / "named.npz", **named)
    assert run("verify", TWO_INPUTS, "--against", tmp_path / "named.npz")[0] == 0
    wrong = {**recorded, "alarm": recorded["alarm"] + np.float32(0.01)}
    np.savez(tmp_path / "wrong.npz", **wrong)
    status, out, _ = run("verify", TWO_INPUTS, "--against", tmp_path / "wrong.npz")
    assert status == 1
    assert [line.rpartition(": ")[2] for line in out.splitlines()] == [
        "ok", "WRONG", "1 of 2 outputs within a relative L2 error of 1e-05"
    ]  # fmt: skip


def test_verify_refuses_what_does_not_fit(run: Run, tmp_path: Path, recorded: dict[str, np.ndarray]) -> None:
    np.savez(tmp_path / "some.npz", **{name: array for name, array in recorded.items() if name != "alarm"})
    refused(run("verify", TWO_INPUTS, "--against", tmp_path / "some.npz"), "some.npz", "alarm", "it has")
    np.savez(tmp_path / "shape.npz", **{**recorded, "alarm": recorded["alarm"][:, :1]})
    refused(run("verify", TWO_INPUTS, "--against", tmp_path / "shape.npz"), "alarm", "(7, 1)", "(7, 2)")
    nan = {**recorded, "level": np.full_like(recorded["level"], np.nan)}
    np.savez(tmp_path / "nan.npz", **nan)
    assert run("verify", TWO_INPUTS, "--against", tmp_path / "nan.npz", "--tolerance", "1e30")[0] == 1
