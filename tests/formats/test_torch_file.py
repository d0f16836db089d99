"""Files of torch.save: recorded ones are read as PyTorch reads them, damaged and hostile ones end in our errors."""

from __future__ import annotations

import argparse
import io
import random
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch_support as made

from lstm_engine.errors import FormatError, LstmEngineError, UnsafeFileError, UnsupportedModelError
from lstm_engine.formats.limits import Limits
from lstm_engine.formats.torch_descriptions import DeviceDescription, GlobalName, UnsupportedTensor
from lstm_engine.formats.torch_file import read_torch_bytes, read_torch_file

DATA = made.DATA
TENSOR_FILES = sorted(DATA.glob("tensors*.pt"))


def read(data: bytes) -> dict[Any, Any]:
    return read_torch_bytes(data, "file.pt")


# --- Recorded files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", TENSOR_FILES, ids=lambda path: path.stem)
def test_every_tensor_is_what_pytorch_says(path: Path) -> None:
    found = read_torch_file(path)
    with np.load(DATA / "tensors.npz") as recorded:
        assert list(found) == recorded.files
        for name in recorded.files:
            array, wanted = found[name], recorded[name]
            assert isinstance(array, np.ndarray), name
            assert (array.dtype, array.shape) == (wanted.dtype, wanted.shape), name
            assert array.tobytes() == wanted.tobytes(), name
            assert not array.flags.writeable, name
            assert array.flags.aligned, name


def test_there_are_files_of_both_layouts_and_every_protocol() -> None:
    assert {path.stem for path in TENSOR_FILES} == {
        "tensors", "tensors_legacy", "tensors_legacy_protocol4", "tensors_protocol3", "tensors_protocol4",
        "tensors_protocol5", "tensors_without_checksums",
    }  # fmt: skip


@pytest.mark.parametrize("path", TENSOR_FILES, ids=lambda path: path.stem)
def test_what_shares_memory_in_the_file_shares_it_here(path: Path) -> None:
    found = read_torch_file(path)
    assert found["tied"] is found["tied_again"] or np.shares_memory(found["tied"], found["tied_again"])
    assert np.shares_memory(found["offset"], found["transposed"])
    assert np.shares_memory(found["parameter"], found["parameter_view"])
    assert found["expanded"].strides[1] == 0


@pytest.mark.parametrize("name", ["checkpoint", "checkpoint_legacy"])
def test_everything_in_a_checkpoint_is_plain(name: str) -> None:
    found = read_torch_file(DATA / f"{name}.pt")
    plain = {key: value for key, value in found.items() if key not in ("state_dict", "optimizer", "schedule")}
    arrays = {key: plain.pop(key) for key in [key for key, value in plain.items() if isinstance(value, np.ndarray)]}
    assert isinstance(plain.pop("words"), UnsupportedTensor)
    assert plain == {
        "epoch": 3,
        "best_loss": 0.125,
        "count": -7,
        "args": {"lr": 0.001, "name": "tagger", "layers": (1, 2)},
        "vocabulary": {"a": 0, "b": 1},
        "counter": {"a": 2, "b": 1},
        "default": {1: [2]},
        "set": {1, 2},
        "frozen": frozenset(["x"]),
        "bytes": b"\x00\xff",
        "bytearray": b"ab",
        "complex": 1 + 2j,
        "none": None,
        "huge": 2**100,
        "negative": -(2**40),
        "text": "Grüße, 世界",
        "size": (2, 3),
        "device": DeviceDescription("cuda:1"),
        "dtype": GlobalName("torch", "float32"),
        "layout": GlobalName("torch", "strided"),
    }
    assert type(plain["best_loss"]) is float
    assert not isinstance(plain["args"], argparse.Namespace)
    wanted = {
        "mean": np.arange(6.0).reshape(2, 3),
        "mean_columns": np.arange(6, dtype=np.int16).reshape(2, 3),
        "big_endian": np.arange(3, dtype=np.float32),
        "flags": np.array([True, False]),
        "storage": np.frombuffer(np.arange(3, dtype=np.float32).tobytes(), np.uint8),
        "random_state": np.arange(4, dtype=np.uint8),
    }
    assert arrays.keys() == wanted.keys()
    for key, array in wanted.items():
        assert arrays[key].dtype == array.dtype, key
        np.testing.assert_array_equal(arrays[key], array)
    assert found["optimizer"]["param_groups"][0]["betas"] == (0.9, 0.999)
    assert found["optimizer"]["state"][0]["exp_avg"].shape == (16, 3)
    assert found["schedule"]["milestones"] == {2: 1, 4: 1}
    with np.load(DATA / "checkpoint.npz") as recorded:
        assert list(found["state_dict"]) == [f"module.{key}" for key in recorded.files]
        for key in recorded.files:
            np.testing.assert_array_equal(found["state_dict"][f"module.{key}"], recorded[key])


def test_tensors_of_other_kinds_say_why_they_are_not_read() -> None:
    found = read_torch_file(DATA / "unread.pt")
    reasons = {key: value.reason for key, value in found.items() if isinstance(value, UnsupportedTensor)}
    assert reasons == {
        "rnn.weight_ih_l0": "it is a quantized tensor",
        "rnn.weight_hh_l0": "it is a sparse tensor",
        "meta": "it is a meta (without values) tensor",
        "float8": "its dtype torch.float8_e4m3fn is not read",
    }
    np.testing.assert_array_equal(found["float32"], np.ones(2, np.float32))


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("module", UnsafeFileError, ["torch.nn.modules.rnn.LSTM", "torch.save(model.state_dict(), path)"]),
        ("module_legacy", UnsafeFileError, ["torch.nn.modules.rnn.LSTM", "torch.save(model.state_dict(), path)"]),
        ("subclass", UnsafeFileError, ["__main__.Tensor", "torch.save(model.state_dict(), path)"]),
        ("scripted", UnsupportedModelError, ["TorchScript", "torch.jit.load(path).state_dict()"]),
        ("list", UnsupportedModelError, ["list", "torch.save(model.state_dict(), path)"]),
        ("tensor", UnsupportedModelError, ["torch.Tensor", "torch.save(model.state_dict(), path)"]),
    ],
)
def test_what_is_no_state_dict_is_refused_with_the_way_out(name: str, error: type[Exception], words: list[str]) -> None:
    path = DATA / f"{name}.pt"
    with pytest.raises(error) as caught:
        read_torch_file(path)
    assert str(caught.value).startswith(str(path))
    for word in words:
        assert word in str(caught.value)


# --- Bounds -----------------------------------------------------------------------------------------------------------


def test_a_tensor_may_use_its_whole_storage_and_no_more() -> None:
    raw = np.arange(4, dtype="<f4").tobytes()
    found = read(made.archive(made.mapping(a=made.tensor((2, 2), (2, 1)), b=made.tensor((1,), (99,), 3)), {"0": raw}))
    np.testing.assert_array_equal(found["a"], [[0, 1], [2, 3]])
    np.testing.assert_array_equal(found["b"], [3])


@pytest.mark.parametrize(
    "tensor",
    [
        made.tensor((5,)),
        made.tensor((4,), offset=1),
        made.tensor((2, 2), (3, 2)),
        made.tensor((2,), (2**80,)),
        made.tensor((1,), offset=2**80),
        made.tensor((), (), 4),
        made.tensor((2**62,), (1,)),
        made.tensor((2**40, 2**40), (0, 1)),
    ],
)
def test_a_tensor_outside_of_its_storage_is_refused(tensor: bytes) -> None:
    with pytest.raises(FormatError, match=r"file\.pt: w: a tensor of shape .* of a storage of 4"):
        read(made.archive(made.mapping(w=tensor)))


@pytest.mark.parametrize(
    "tensor",
    [
        made.tensor((2**40,), (0,)),
        made.tensor((2**30, 2**30), (0, 0)),
        made.tensor((0, 2**62), (1, 1)),
        made.tensor((0,) + (2**100,) * 3, (1,) * 4),
    ],
)
def test_a_shape_bomb_is_refused(tensor: bytes) -> None:
    with pytest.raises(FormatError, match=r"file\.pt: w: .* more memory"):
        read(made.archive(made.mapping(w=tensor)))


def test_all_tensors_together_are_bounded() -> None:
    size = Limits().of_tensors(4096) // 4 // 10
    entries = {f"w{place}": made.tensor((size,), (0,)) for place in range(20)}
    with pytest.raises(FormatError, match=r"w(9|1[0-9]): .* more memory"):
        read(made.archive(made.mapping(**entries)))


@pytest.mark.parametrize("claimed", [5, 2**31, 2**60])
def test_a_storage_smaller_than_it_claims_is_refused(claimed: int) -> None:
    with pytest.raises(FormatError, match=r"file\.pt: w: expected \d+ bytes in the member 'archive/data/0', found 16"):
        read(made.archive(made.mapping(w=made.tensor((1,), block=made.storage(size=claimed)))))


def test_a_second_size_of_the_same_storage_is_no_way_around() -> None:
    entries = made.mapping(a=made.tensor((4,)), b=made.tensor((8,), block=made.storage(size=8)))
    with pytest.raises(FormatError, match=r"file\.pt: b: .* reaches element 7 of a storage of 4"):
        read(made.archive(entries))


def test_a_missing_storage_is_named() -> None:
    with pytest.raises(FormatError, match=r"file\.pt: w: expected its storage in the member 'archive/data/0'"):
        read(made.archive(made.mapping(w=made.tensor()), {}))


def test_booleans_are_zero_or_one_whatever_the_bytes() -> None:
    found = read(
        made.archive(
            made.mapping(w=made.tensor((3,), block=made.storage(size=3, kind="BoolStorage"))), {"0": b"\x00\x02\xff"}
        )
    )
    assert found["w"].tolist() == [False, True, True]
    assert found["w"].tobytes() == b"\x00\x01\x01"


def test_a_value_that_contains_itself_is_refused() -> None:
    loop = made.EMPTY_LIST + made.put(0) + made.get(0) + made.APPEND
    with pytest.raises(FormatError, match="contains itself"):
        read(made.archive(made.mapping(a=loop)))


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(FormatError, match="nest deeper"):
        read(made.archive(made.mapping(a=made.EMPTY_TUPLE + made.TUPLE1 * 50_000)))


def test_shared_lists_are_not_unfolded() -> None:
    found = read(made.archive(made.mapping(a=made.laughs())))
    assert found["a"][30][0] is found["a"][29]


# --- The archive ------------------------------------------------------------------------------------------------------

GOOD = made.mapping(w=made.tensor())


@pytest.mark.parametrize("name", ["/etc/passwd", "../evil", "archive/../../evil", "archive\\..\\evil", "C:/evil"])
def test_names_that_point_out_of_the_archive_are_refused(name: str) -> None:
    with pytest.raises(UnsafeFileError, match="points out of the archive"):
        read(made.archive(GOOD, more={name: b"x"}))


def test_two_members_of_one_name_are_refused() -> None:
    buffer = io.BytesIO(made.archive(GOOD))
    with zipfile.ZipFile(buffer, "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive.writestr("archive/data/0", bytes(16))
    with pytest.raises(UnsafeFileError, match="two members of the name 'archive/data/0'"):
        read(buffer.getvalue())


def test_compressed_members_are_refused() -> None:
    bomb = made.archive(GOOD, {"0": bytes(50 << 20)}, compression=zipfile.ZIP_DEFLATED)
    assert len(bomb) < 100_000
    with pytest.raises(UnsafeFileError, match="is compressed"):
        read(bomb)


def test_two_pickles_are_refused() -> None:
    with pytest.raises(UnsafeFileError, match="2 pickles"):
        read(made.archive(GOOD, more={"other/data.pkl": made.pickled(GOOD)}))


def _patched(data: bytes, member: str, place: int, value: bytes) -> bytes:
    """Return an archive with bytes of a member's directory entry replaced."""
    entry = data.rindex(member.encode()) - 46
    assert data[entry : entry + 4] == b"PK\x01\x02"
    return data[: entry + place] + value + data[entry + place + len(value) :]


def test_encrypted_members_are_refused() -> None:
    with pytest.raises(UnsafeFileError, match="is encrypted"):
        read(_patched(made.archive(GOOD), "archive/data/0", 8, b"\x01\x00"))


@pytest.mark.parametrize("size", [17, 10**6, 2**32 - 2])
def test_a_member_larger_than_the_file_is_refused(size: int) -> None:
    data = _patched(made.archive(GOOD), "archive/data/0", 20, struct.pack("<II", size, size))
    with pytest.raises(LstmEngineError, match="archive/data/0"):
        read(data)


def test_members_that_overlap_are_refused() -> None:
    data = made.archive(GOOD, {"0": bytes(16), "1": bytes(16)})
    data = _patched(data, "archive/data/0", 20, struct.pack("<II", 40, 40))
    with pytest.raises(UnsafeFileError, match="overlaps"):
        read(data)


@pytest.mark.parametrize("place", [-1, 1, 5, 10**6])
def test_a_member_that_is_not_where_the_directory_says_is_refused(place: int) -> None:
    data = made.archive(GOOD)
    found = struct.unpack_from("<I", data, data.rindex(b"archive/data/0") - 4)[0]
    with pytest.raises(FormatError, match="archive/data/0"):
        read(_patched(data, "archive/data/0", 42, struct.pack("<I", (found + place) % 2**32)))


def test_a_wrong_checksum_is_named() -> None:
    data = made.archive(GOOD)
    at = data.index(b"archive/data/0") + len("archive/data/0")
    with pytest.raises(FormatError, match=r"^file\.pt: w: the member 'archive/data/0' is .* its checksum is wrong"):
        read(data[:at] + b"\x01" + data[at + 1 :])


@pytest.mark.parametrize("order", [b"big", b"", b"middle\x1b[2J"])
def test_other_byte_orders_are_refused_by_name(order: bytes) -> None:
    with pytest.raises(UnsupportedModelError, match="expected byteorder little") as caught:
        read(made.archive(GOOD, byteorder=order))
    assert str(caught.value).isprintable()


def test_too_many_members_are_refused_before_they_are_listed() -> None:
    entry = b"PK\x01\x02" + bytes(24) + b"\x01" + bytes(17) + b"a"
    count, head = 70_000, made.archive(GOOD)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 9, 9, len(entry) * count, len(head), 0)
    with mock.patch("zipfile.ZipInfo", side_effect=AssertionError("parsed")), pytest.raises(UnsafeFileError) as caught:
        read(head + entry * count + end)
    assert "file.pt: the archive has more than 65,536 members" in str(caught.value)
    # The same directory with fewer entries is parsed.
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 9, 9, len(entry), len(head), 0)
    with mock.patch("zipfile.ZipInfo", side_effect=AssertionError("parsed")), pytest.raises(AssertionError):
        read(head + entry + end)


def test_zip64_sizes_are_read() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for member, raw in {"data.pkl": made.pickled(GOOD), "data/0": np.arange(4, dtype="<f4").tobytes()}.items():
            with archive.open(f"m/{member}", "w", force_zip64=True) as target:
                target.write(raw)
    np.testing.assert_array_equal(read(buffer.getvalue())["w"], np.arange(4))


# --- Truncated and flipped --------------------------------------------------------------------------------------------

WHOLE_FILES = [
    "checkpoint.pt",
    "checkpoint_legacy.pt",
    "lstm_projected.pt",
    "tensors_protocol4.pt",
    "tensors_legacy.pt",
]


@pytest.mark.parametrize("name", WHOLE_FILES)
def test_truncated_files_are_refused(name: str) -> None:
    data = (DATA / name).read_bytes()
    for length in [*range(0, len(data), 64), len(data) - 1]:
        with pytest.raises(FormatError) as caught:
            read(data[:length])
        assert str(caught.value).startswith("file.pt: ")


@pytest.mark.parametrize("name", [*WHOLE_FILES, "tensors_without_checksums.pt"])
def test_flipped_bytes_end_in_an_error_or_a_mapping(name: str) -> None:
    data = (DATA / name).read_bytes()
    chance = random.Random(name)
    refused = 0
    for _ in range(400):
        changed = bytearray(data)
        for _ in range(chance.choice([1, 1, 1, 4])):
            changed[chance.randrange(min(4096, len(data)))] ^= chance.randrange(1, 256)
        message = made.refusal(read, bytes(changed))
        assert message == made.refusal(read, bytes(changed))
        assert message is None or "Error: file.pt: " in message
        refused += message is not None
    assert refused > 100


def test_flipped_bytes_of_the_directory() -> None:
    data = (DATA / "lstm_plain.pt").read_bytes()
    start = data.index(b"PK\x01\x02")
    for place in range(start, len(data)):
        for value in (0x00, 0xFF, data[place] ^ 1):
            changed = data[:place] + bytes([value]) + data[place + 1 :]
            message = made.refusal(read, changed)
            assert message is None or "Error: file.pt: " in message


# --- The layout before 1.6 --------------------------------------------------------------------------------------------


def _legacy(body: bytes, keys: bytes, storages: bytes, *, little: bytes = made.TRUE, protocol: int = 1001) -> bytes:
    magic = made.pickled(b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19")
    parts = [made.integer(protocol), made.mapping(little_endian=little), body, keys]
    return magic + b"".join(made.pickled(part) for part in parts) + storages


KEYS = made.EMPTY_LIST + made.text("0") + made.APPEND
BLOCK = struct.pack("<q4f", 4, 0, 1, 2, 3)


def test_a_hand_made_file_of_the_old_layout() -> None:
    np.testing.assert_array_equal(read(_legacy(GOOD, KEYS, BLOCK))["w"], [0, 1, 2, 3])


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (_legacy(GOOD, KEYS, BLOCK, protocol=1000), FormatError, "protocol version 1001"),
        (_legacy(GOOD, KEYS, BLOCK, little=made.FALSE), UnsupportedModelError, "little-endian"),
        (_legacy(GOOD, made.text("0"), BLOCK), FormatError, "list of at most"),
        (_legacy(GOOD, made.EMPTY_LIST + made.NONE + made.APPEND, BLOCK), FormatError, "list of at most"),
        (_legacy(GOOD, made.EMPTY_LIST, BLOCK), FormatError, "storage '0' is not in the file"),
        (_legacy(GOOD, made.EMPTY_LIST + made.text("1") + made.APPEND, BLOCK), FormatError, "belongs to no tensor"),
        (
            _legacy(GOOD, made.EMPTY_LIST + made.MARK + made.text("0") * 2 + made.APPENDS, BLOCK * 2),
            FormatError,
            "listed twice",
        ),
        (_legacy(GOOD, KEYS, BLOCK[:4]), FormatError, "ends before the storage"),
        (_legacy(GOOD, KEYS, BLOCK[:-1]), FormatError, "expected 4 elements of 4 bytes"),
        (_legacy(GOOD, KEYS, struct.pack("<q", -1)), FormatError, "expected -1 elements"),
        (_legacy(GOOD, KEYS, struct.pack("<q", 2**62)), FormatError, "expected 4611686018427387904 elements"),
        (
            _legacy(GOOD, KEYS, struct.pack("<q3f", 3, 0, 1, 2)),
            FormatError,
            "expected 16 bytes in the storage '0', found 12",
        ),
        (
            _legacy(
                made.mapping(a=made.tensor(), b=made.tensor(block=made.storage(kind="DoubleStorage"))), KEYS, BLOCK * 2
            ),
            UnsupportedModelError,
            "two element sizes",
        ),
    ],
)
def test_damage_of_the_old_layout_is_named(data: bytes, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        read(data)
