"""safetensors files: recorded ones are read as PyTorch wrote them, damaged and hostile ones end in our errors."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch_support as made

from lstm_engine.errors import FormatError, UnsafeFileError
from lstm_engine.formats.limits import Limits
from lstm_engine.formats.safetensors_file import read_safetensors_bytes
from lstm_engine.formats.tensor_file import read_tensors

DATA = made.DATA


def file_of(header: Any, raw: bytes = bytes(16)) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + raw


def read(data: bytes) -> Any:
    return read_safetensors_bytes(data, "file")


def entry(dtype: str = "F32", shape: tuple[int, ...] = (4,), begin: int = 0, end: int = 16) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def test_every_tensor_is_what_pytorch_says() -> None:
    file = read_tensors(DATA / "tensors.safetensors")
    tensors, metadata = file.tensors, file.metadata
    assert metadata == {"made by": "PyTorch", "units": "µV"}
    with np.load(DATA / "tensors.npz") as recorded:
        assert tensors.keys() == set(recorded.files) - {"complex128"}
        for name, array in tensors.items():
            wanted = recorded[name]
            assert (array.dtype, array.shape) == (wanted.dtype, wanted.shape), name
            assert array.tobytes() == wanted.tobytes(), name
            assert not array.flags.writeable
            assert array.flags.aligned


def test_a_dtype_that_is_not_read_is_named() -> None:
    assert read_tensors(DATA / "float8.safetensors").unsupported == {"w": "its dtype F8_E4M3 is not read"}


def test_tensors_come_in_the_order_of_the_file() -> None:
    header = {name: entry(begin=16 * place, end=16 * place + 16) for place, name in enumerate("cabxyd")}
    assert list(read(file_of(header, bytes(96)))[0]) == list("cabxyd")


def test_a_file_without_metadata_has_none() -> None:
    tensors, unsupported, metadata = read(file_of({"w": entry()}))
    assert (list(tensors), unsupported, metadata) == (["w"], {}, {})


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (file_of({"w": entry()}, bytes(15)), FormatError, "truncated or damaged"),
        (file_of({"w": entry()}, bytes(17)), FormatError, "truncated or damaged"),
        (file_of({"w": entry(shape=(5,))}), FormatError, "truncated or damaged"),
        (file_of({"w": entry(shape=(2**62, 4))}), FormatError, "truncated or damaged"),
        (file_of({"w": entry(shape=(-1,))}), FormatError, "truncated or damaged"),
        (file_of({"w": entry(begin=8, end=24)}), FormatError, "truncated or damaged"),
        (file_of({"a": entry(), "b": entry()}), FormatError, "truncated or damaged"),
        (file_of({"w": entry(dtype="F99")}), FormatError, "truncated or damaged"),
        (file_of({"w": entry(), "__metadata__": {"a": 1}}), FormatError, "truncated or damaged"),
        (file_of(b'{"w": '), FormatError, "truncated or damaged"),
        (file_of(b"{" * 100_000), FormatError, "truncated or damaged"),
        (file_of(b"{}" + b"\xff" * 9, b""), FormatError, "truncated or damaged"),
        (file_of({"w": entry(shape=(0, 2**61), end=0)}, b""), FormatError, "beyond what an array can have"),
        (file_of({"w": entry(shape=(1,) * 65, end=4)}, bytes(4)), FormatError, "beyond what an array can have"),
        (struct.pack("<Q", 1000) + b"{}", FormatError, "expected a header of 1,000 bytes, found 2"),
        (struct.pack("<Q", Limits().header_bytes + 1) + b"{}", FormatError, "more than the 16,777,216 allowed"),
        (struct.pack("<Q", 2**64 - 1) + b"{}", FormatError, "more than the 16,777,216 allowed"),
        (
            file_of(b'{"__metadata__": {"a": "1", "a": "2"}, "w": ' + json.dumps(entry()).encode() + b"}"),
            UnsafeFileError,
            "stands twice",
        ),
    ],
)
def test_damage_is_named(data: bytes, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        read(data)
    assert str(caught.value).startswith("file: ")


def test_one_name_for_two_tensors_is_refused() -> None:
    first, second = (json.dumps(entry(begin=begin, end=begin + 16)).encode() for begin in (0, 16))
    message = made.refusal(read, file_of(b'{"w": ' + first + b', "w": ' + second + b"}", bytes(32)))
    assert message is not None


def test_truncated_files_are_refused(tmp_path: Path) -> None:
    data = (DATA / "tensors.safetensors").read_bytes()
    path = tmp_path / "cut.safetensors"
    for length in [*range(9, len(data), 64), len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(FormatError, match="truncated"):
            read_tensors(path)


def test_flipped_bytes_end_in_an_error_or_tensors() -> None:
    data = (DATA / "tensors.safetensors").read_bytes()
    chance = random.Random(5)
    refused = 0
    for _ in range(1000):
        changed = bytearray(data)
        changed[chance.randrange(min(4096, len(data)))] ^= chance.randrange(1, 256)
        message = made.refusal(read, bytes(changed))
        assert message is None or "Error: file: " in message
        refused += message is not None
    assert refused > 300
