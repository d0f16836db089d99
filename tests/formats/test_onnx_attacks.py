"""ONNX files from strangers: each is refused by name; damage of any kind ends in one of our errors."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx")

import onnx_attacks as made
from onnx_recorded import FIXTURES, unpacked

import lstm_engine as le
from lstm_engine.formats.onnx import read_onnx_bytes
from lstm_engine.onnx.model import build_onnx_model


def refused(path: Path) -> str:
    """Load a file that must be refused; return the message."""
    with pytest.raises(le.LstmEngineError) as caught:
        le.load(path)
    return str(caught.value)


@pytest.mark.parametrize("name", sorted(made.ATTACKS))
def test_refused_by_name(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.onnx"
    path.write_bytes(made.ATTACKS[name].make())
    (tmp_path / "weights.bin").write_bytes(bytes(36))
    with pytest.raises(made.ATTACKS[name].error) as caught:
        le.load(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert made.ATTACKS[name].said in message
    # The same file gives the same error every time.
    assert refused(path) == message


def test_there_are_enough_of_them() -> None:
    assert len(made.ATTACKS) >= 70


def test_the_sound_model_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_bytes(made.sound().SerializeToString())
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(le.load(path)(x), x)


def test_all_unknown_operators_are_named_together(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(made.ATTACKS["several_unknown_operators"].make())
    message = refused(path)
    assert all(f"'{name}'" in message for name in ("Det", "NonMaxSuppression", "StringNormalizer"))


def test_what_grows_with_the_input_is_bounded(tmp_path: Path) -> None:
    size = made.constant("size", [1 << 20, 1 << 20])
    path = tmp_path / "model.onnx"
    path.write_bytes(made.model([made.node("Tile", ["x", "size"])], [size]).SerializeToString())
    model = le.load(path)
    with pytest.raises(le.ShapeError, match=r"\(Tile\): expected results of at most 4,294,967,296 bytes"):
        model(np.ones((1, 1), np.float32))


def test_infinite_weights_may_be_allowed(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(made.ATTACKS["infinite_weights"].make())
    assert np.isinf(le.load(path, allow_nonfinite=True)(np.ones((1, 3), np.float32))).all()


def test_caps_may_be_raised(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(made.sound().SerializeToString())
    with pytest.raises(le.FormatError, match="onnx_entries"):
        le.load(path, limits=le.Limits(onnx_entries=5))
    assert le.load(path, limits=le.Limits(onnx_entries=1 << 20))


def test_without_the_package_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(made.sound().SerializeToString())
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    assert "pip install lstm-engine[onnx]" in refused(path)


@pytest.mark.parametrize("name", sorted(set(FIXTURES) - {"keras-torch"}))  # hundreds of nodes, and nothing new
def test_every_kind_of_damage_ends_in_one_of_our_errors(name: str, tmp_path: Path) -> None:
    pick = random.Random(11)
    for path in unpacked(name, tmp_path):
        data = path.read_bytes()
        for end in range(64, len(data), 64 * max(1, len(data) // 64 // 25)):
            with pytest.raises(le.LstmEngineError):
                build_onnx_model(read_onnx_bytes(data[:end], "cut"))
        for _ in range(25):
            place, bit = pick.randrange(min(len(data), 4096)), 1 << pick.randrange(8)
            damaged = data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :]
            # Whatever is left sound may be loaded.
            with contextlib.suppress(le.LstmEngineError):
                build_onnx_model(read_onnx_bytes(damaged, "flipped"))
