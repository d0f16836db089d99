"""Hostile and damaged Keras files: each ends in one of our errors, at once, and always in the same one."""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras_support as made
import numpy as np
import pytest

from lstm_engine.errors import FormatError, LstmEngineError, UnsafeFileError, UnsupportedModelError
from lstm_engine.formats.keras import read_keras
from lstm_engine.formats.limits import Limits

ARCHIVE = made.recorded("keras-3.15.1")["without_input.keras"]
LEGACY = made.recorded("keras-3.15.1")["without_input.h5"]


def outcome(data: bytes, name: str) -> str:
    """Return how reading ends: nothing but an error of ours may stop it."""
    try:
        made.read(data, name)
    except LstmEngineError as error:
        return f"{type(error).__name__}: {error}"
    return "read"


# --- Damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("writer", ["keras-3.15.1", "tf_keras-2.21.0", "keras-2.12.0"])
@pytest.mark.parametrize("name", ["chain.keras", "chain.h5"])
def test_a_truncated_file_is_refused_wherever_it_ends(writer: str, name: str) -> None:
    data = made.recorded(writer)[name]
    for end in range(0, len(data), 64):
        with pytest.raises(FormatError):
            made.read(data[:end], name)


@pytest.mark.parametrize("writer", ["keras-3.15.1", "tf_keras-2.21.0", "keras-2.12.0"])
@pytest.mark.parametrize("name", ["chain.keras", "chain.h5"])
def test_a_flipped_bit_ends_in_an_error_or_changes_nothing_else(writer: str, name: str) -> None:
    data = made.recorded(writer)[name]
    chance = random.Random(f"{writer} {name}")
    for _ in range(400):
        place = chance.randrange(4096)
        damaged = data[:place] + bytes([data[place] ^ 1 << chance.randrange(8)]) + data[place + 1 :]
        assert outcome(damaged, name) == outcome(damaged, name)


@pytest.mark.parametrize("member", ["model.weights.h5", "config.json", "metadata.json"])
def test_damage_that_the_checksum_does_not_show(member: str) -> None:
    """Bytes and addresses overwritten within a member whose checksum is then right again."""
    members = made.members_of(made.recorded("keras-3.15.1")["masks.keras"])
    chance = random.Random(member)
    ends = set()
    for _ in range(600):
        data = bytearray(members[member])
        for _ in range(chance.choice((1, 1, 2, 8))):
            place = chance.randrange(len(data))
            if chance.random() < 0.5:
                data[place] = chance.choice((0, 255, chance.randrange(256)))
            else:
                value = chance.choice((0, 1, 8, len(data), 1 << 32, (1 << 64) - 1, chance.randrange(len(data)) & ~7))
                data[place & ~7 : (place & ~7) + 8] = value.to_bytes(8, "little")
        ends.add(outcome(made.archive_of({**members, member: bytes(data)}), "m.keras").partition(":")[0])
    assert "FormatError" in ends


def test_damage_to_a_legacy_file_never_hangs() -> None:
    data = made.recorded("tf_keras-2.21.0")["several_ends.h5"]
    chance = random.Random(1)
    ends = set()
    for _ in range(500):
        damaged = bytearray(data)
        place = chance.randrange(len(data)) & ~7
        source = chance.randrange(len(data)) & ~7
        damaged[place : place + 8] = chance.choice((bytes(8), b"\xff" * 8, data[source : source + 8]))
        ends.add(outcome(bytes(damaged), "m.h5").partition(":")[0])
    assert {"read", "FormatError"} <= ends


# --- Zip archives -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["/etc/passwd", "../escape", "assets/../../escape", "assets\\..\\x", "C:/x", "a\0b"])
def test_members_that_point_out_of_the_archive_are_refused(name: str) -> None:
    data = made.archive_of({**made.members_of(ARCHIVE), "placeholder": b"x"})
    data = rename(data, "placeholder", name)
    with pytest.raises(UnsafeFileError, match="points out of the archive"):
        made.read(data)


def rename(data: bytes, old: str, new: str) -> bytes:
    """Return the archive with a member renamed, past Python's own tidying of names."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(buffer, "w") as target:
        for entry in source.infolist():
            copy = zipfile.ZipInfo(entry.filename)
            if entry.filename == old:
                copy.filename = copy.orig_filename = new
            target.writestr(copy, source.read(entry))
    return buffer.getvalue()


def test_two_members_of_one_name_are_refused() -> None:
    buffer = io.BytesIO(ARCHIVE)
    with zipfile.ZipFile(buffer, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("config.json", "{}")
    with pytest.raises(UnsafeFileError, match=r"two members of the name 'config\.json'"):
        made.read(buffer.getvalue())


def test_encrypted_members_are_refused() -> None:
    data = bytearray(ARCHIVE)
    directory = data.index(b"PK\x01\x02")
    data[directory + 8] |= 1
    with pytest.raises(UnsafeFileError, match=r"'metadata\.json' is encrypted; expected a plain one"):
        made.read(bytes(data))


def test_a_compressed_archive_is_read() -> None:
    """Tools that pack an archive again compress its members."""
    packed = made.archive_of(made.members_of(ARCHIVE), zipfile.ZIP_DEFLATED)
    assert len(packed) < len(ARCHIVE)
    found, wanted = made.weights_of(made.read(packed)), made.weights_of(made.read(ARCHIVE))
    assert all(np.array_equal(found[key], wanted[key]) for key in wanted)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_methods_of_compression_are_refused_by_name(method: int) -> None:
    with pytest.raises(UnsupportedModelError, match=rf"'metadata\.json' is packed by method {method}"):
        made.read(made.archive_of(made.members_of(ARCHIVE), method))


def test_a_compression_bomb_is_refused_before_it_goes_off() -> None:
    members = {**made.members_of(ARCHIVE), "assets/bomb": bytes(1 << 27)}
    with pytest.raises(UnsafeFileError, match="'assets/bomb' unpacks to 134,217,728 bytes; expected at most"):
        made.read(made.archive_of(members, zipfile.ZIP_DEFLATED))


def test_a_member_that_says_another_size_is_refused() -> None:
    """The directory promises little, the compressed data holds a lot."""
    data = bytearray(made.archive_of({**made.members_of(ARCHIVE), "config.json": bytes(1 << 22)}, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        header = archive.getinfo("config.json").header_offset
    directory = data.index(b"config.json", data.index(b"PK\x01\x02")) - 46
    for place in (header + 22, directory + 24):
        data[place : place + 4] = struct.pack("<I", 100)
    for place in (header + 14, directory + 16):
        data[place : place + 4] = struct.pack("<I", zlib.crc32(bytes(100)))
    with pytest.raises(LstmEngineError, match=r"config\.json"):
        made.read(bytes(data))


def test_a_large_configuration_is_refused_before_it_is_unpacked() -> None:
    members = {**made.members_of(ARCHIVE), "config.json": b" " * (Limits().json_bytes + 1)}
    with pytest.raises(UnsafeFileError, match=r"config\.json: expected at most 16,777,216 bytes of JSON"):
        made.read(made.archive_of(members, zipfile.ZIP_STORED))
    # Unpacked out of a few bytes, less is too much.
    with pytest.raises(UnsafeFileError, match=r"config\.json: expected at most 2,\d{3},\d{3} bytes of JSON"):
        made.read(made.archive_of(members, zipfile.ZIP_DEFLATED))


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"metadata.json": None}, FormatError, "expected metadata.json with Keras's version, found none"),
        ({"metadata.json": b"{}"}, FormatError, "expected keras_version to be a version, found None"),
        (
            {"metadata.json": b'{"keras_version": "new"}'},
            FormatError,
            "to be a version, found 'new'",
        ),
        ({"metadata.json": b"[]"}, FormatError, "expected keras_version to be a version"),
        ({"metadata.json": b'{"keras_version": "3", "keras_version": "2"}'}, UnsafeFileError, "stands twice"),
        ({"config.json": None}, FormatError, "expected a .keras archive with config.json"),
        ({"config.json": b"{"}, FormatError, "config.json: expected JSON"),
        ({"config.json": b"[" * 5000 + b"]" * 5000}, UnsafeFileError, "nested at most 128 deep"),
        ({"model.weights.h5": None}, FormatError, "expected a .keras archive with config.json and model.weights.h5"),
        ({"model.weights.h5": b""}, FormatError, "model.weights.h5: expected an HDF5 file"),
        ({"model.weights.h5": None, "model.weights.npz": b""}, FormatError, "npz: the zip archive is truncated"),
        ({"model.weights.h5": None, "model.weights.json": b"{}"}, UnsupportedModelError, "are in model.weights.json"),
    ],
)
def test_archives_with_other_members(change: dict[str, bytes | None], kind: type[Exception], message: str) -> None:
    members = {**made.members_of(ARCHIVE), **change}
    with pytest.raises(kind, match=message):
        made.read(made.archive_of({name: data for name, data in members.items() if data is not None}))


# --- Weights that lie elsewhere, in both kinds of file ----------------------------------------------------------------


def with_weights(change: Callable[[h5py.File], None]) -> bytes:
    members = made.members_of(ARCHIVE)
    return made.archive_of({**members, "model.weights.h5": changed(members["model.weights.h5"], change)})


def changed(data: bytes, change: Callable[[h5py.File], None]) -> bytes:
    buffer = io.BytesIO(data)
    with h5py.File(buffer, "r+") as file:
        change(file)
    return buffer.getvalue()


KERNEL = "layers/dense/vars/0"


def legacy_kernel() -> str:
    """Return the path of the Dense layer's kernel in the legacy file."""
    paths: list[str] = []
    with h5py.File(io.BytesIO(LEGACY)) as file:
        file.visit(paths.append)
    return next(path for path in paths if "dense" in path and path.endswith("kernel"))


def replace(make: Callable[[h5py.Group, str], Any]) -> list[bytes]:
    """Return both kinds of file with the kernel of the Dense layer replaced."""

    def at(path: str) -> Callable[[h5py.File], None]:
        def change(file: h5py.File) -> None:
            del file[path]
            parent, _, name = path.rpartition("/")
            make(file[parent], name)

        return change

    return [with_weights(at(KERNEL)), changed(LEGACY, at(legacy_kernel()))]


def virtual(group: h5py.Group, name: str) -> None:
    layout = h5py.VirtualLayout((3, 2), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "x", (3, 2))
    group.create_virtual_dataset(name, layout)


def external_link(group: h5py.Group, name: str) -> None:
    group[name] = h5py.ExternalLink("/etc/hostname", "/x")


def soft_link(group: h5py.Group, name: str) -> None:
    group[name] = h5py.SoftLink("/x")


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (external_link, UnsafeFileError, "found a link to another file"),
        (soft_link, UnsafeFileError, "found a soft link"),
        (virtual, UnsafeFileError, "found a virtual dataset"),
        (
            lambda group, name: group.create_dataset(name, (3, 2), "f4", external=[("/etc/passwd", 0, 24)]),
            UnsafeFileError,
            "found it stored in another file",
        ),
        (
            lambda group, name: group.create_dataset(name, (1 << 40, 2), "f4", chunks=(1 << 16, 2), compression="gzip"),
            UnsafeFileError,
            "asks for more than",
        ),
        (
            lambda group, name: group.create_dataset(name, (3, 2), "f4"),
            UnsafeFileError,
            "expected 24 bytes",
        ),
        (lambda group, name: group.create_group(name), FormatError, "expected a dataset, found something else"),
        (lambda group, name: group.create_dataset(name, data=["a"]), UnsupportedModelError, "found text values"),
        (lambda group, name: group.create_dataset(name, data=np.ones((2, 3), "f4")), FormatError, "expected shape"),
        (
            lambda group, name: group.create_dataset(name, data=np.ones((3, 2), "f4"), compression="lzf"),
            UnsupportedModelError,
            "expected the filters gzip and shuffle",
        ),
    ],
)
def test_weights_that_are_no_plain_numbers_in_the_file(
    make: Callable[[h5py.Group, str], Any], kind: type[Exception], message: str
) -> None:
    for data, name in zip(replace(make), ("m.keras", "m.h5"), strict=True):
        with pytest.raises(kind, match=message):
            made.read(data, name)


def test_compressed_weights_are_read() -> None:
    kernel = np.arange(6, dtype="f4").reshape(3, 2)

    def make(group: h5py.Group, name: str) -> None:
        group.create_dataset(name, data=kernel, compression="gzip", shuffle=True, chunks=(2, 2))

    for data, name in zip(replace(make), ("m.keras", "m.h5"), strict=True):
        model = made.read(data, name)
        np.testing.assert_array_equal(model.layers[-1].weights["kernel"], kernel)


# --- Legacy files -----------------------------------------------------------------------------------------------------


def test_a_file_of_weights_alone_says_what_to_do() -> None:
    def weights_only(file: h5py.File) -> None:
        del file.attrs["model_config"]
        for key, value in file["model_weights"].attrs.items():
            file.attrs[key] = value

    for data in (changed(LEGACY, weights_only), made.members_of(ARCHIVE)["model.weights.h5"]):
        with pytest.raises(UnsupportedModelError, match=r"found weights alone .*config='model\.json'.*model\.save"):
            made.read(data, "m.h5")


def test_another_hdf5_file_is_no_model() -> None:
    with pytest.raises(FormatError, match="an HDF5 file of Keras with a model_config, found another"):
        made.read(made.hdf5_of({"x": np.ones(3)}), "m.h5")


def test_a_missing_version_means_1() -> None:
    def forget(file: h5py.File) -> None:
        for holder in (file, file["model_weights"]):
            del holder.attrs["keras_version"]

    assert made.read(changed(LEGACY, forget), "m.h5").version == "1"


def test_the_version_may_stand_at_the_weights() -> None:
    def forget(file: h5py.File) -> None:
        del file.attrs["keras_version"]

    assert made.read(changed(LEGACY, forget), "m.h5").version == "3.15.1"


def test_names_in_several_attributes_are_one_list() -> None:
    def cut(file: h5py.File) -> None:
        weights = file["model_weights"]
        for holder, attribute in [(weights, "layer_names"), *((weights[name], "weight_names") for name in weights)]:
            listed = holder.attrs[attribute]
            del holder.attrs[attribute]
            for number, part in enumerate(np.array_split(np.array(listed, dtype="S64"), 2)):
                holder.attrs[f"{attribute}{number}"] = part

    data = made.recorded("tf_keras-2.21.0")["wrappers.h5"]
    found, wanted = made.read(changed(data, cut), "m.h5"), made.read(data, "m.h5")
    assert made.weights_of(found).keys() == made.weights_of(wanted).keys()
    assert all(
        np.array_equal(made.weights_of(found)[key], made.weights_of(wanted)[key]) for key in made.weights_of(wanted)
    )


def test_layers_renamed_since_are_matched_by_their_order() -> None:
    data = made.recorded("tf_keras-2.21.0")["chain.h5"]
    with h5py.File(io.BytesIO(data)) as file:
        text = file.attrs["model_config"]
    config = json.loads(text)
    for number, entry in enumerate(config["config"]["layers"]):
        entry["config"]["name"] = f"renamed_{number}"

    def rename_all(file: h5py.File) -> None:
        file.attrs["model_config"] = json.dumps(config)

    found, wanted = made.read(changed(data, rename_all), "m.h5"), made.read(data, "m.h5")
    for one, other in zip(found.layers, wanted.layers, strict=True):
        assert one.name.startswith("renamed_")
        assert all(np.array_equal(one.weights[key], other.weights[key]) for key in other.weights)


def test_names_of_layers_need_not_be_ascii() -> None:
    """HDF5 stores a group with such names in another way, and so one of more than eight members."""
    data = made.recorded("tf_keras-2.21.0")["every_layer.h5"]
    with h5py.File(io.BytesIO(data)) as file:
        config = json.loads(file.attrs["model_config"])
        names = {entry["config"]["name"]: f"слой {entry['config']['name']}" for entry in config["config"]["layers"]}
    for entry in config["config"]["layers"]:
        entry["config"]["name"] = names[entry["config"]["name"]]

    def rename_all(file: h5py.File) -> None:
        file.attrs["model_config"] = json.dumps(config)
        weights = file["model_weights"]
        listed = [names[name] for name in weights.attrs["layer_names"]]
        weights.attrs["layer_names"] = listed
        new = file.create_group("new")
        for key, value in weights.attrs.items():
            new.attrs[key] = value
        for name in weights:
            new[names.get(name, name)] = weights[name]
        del file["model_weights"]
        file["model_weights"] = new

    found, wanted = made.read(changed(data, rename_all), "m.h5"), made.read(data, "m.h5")
    assert [layer.name for layer in found.layers] == [names[layer.name] for layer in wanted.layers]
    for one, other in zip(found.layers, wanted.layers, strict=True):
        assert one.weights.keys() == other.weights.keys()
        assert all(np.array_equal(one.weights[key], other.weights[key]) for key in other.weights)


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (lambda file: file.attrs.create("model_config", "{"), FormatError, "model_config: expected JSON"),
        (
            lambda file: file.attrs.create("model_config", 3),
            FormatError,
            "attribute to hold text, found int",
        ),
        (lambda file: file.__delitem__("model_weights"), FormatError, "expected a group 'model_weights', found none"),
        (
            lambda file: file["model_weights"].attrs.__delitem__("layer_names"),
            FormatError,
            "expected an attribute 'layer_names', found none",
        ),
        (lambda file: file.attrs.create("keras_version", "x"), FormatError, "keras_version to be a version, found 'x'"),
        (
            lambda file: file["model_weights"].attrs.create("layer_names", ["nowhere"]),
            FormatError,
            "model_weights/nowhere: expected this in the file, found nothing",
        ),
        (
            lambda file: file["model_weights"].attrs.create("layer_names", np.array([], "S1")),
            FormatError,
            r"expected the weights of 2 layers \('lstm.*', 'dense.*'\), found those of 0 \(none\)",
        ),
        (
            lambda file: next(
                group for name, group in file["model_weights"].items() if name.startswith("lstm")
            ).attrs.create("weight_names", ["a"]),
            FormatError,
            r"expected 3 weights \(kernel, recurrent_kernel, bias\), found 1",
        ),
    ],
)
def test_damaged_legacy_files(change: Callable[[h5py.File], None], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        made.read(changed(LEGACY, change), "m.h5")


# --- Files of another kind --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"hello", "found a file of no format that is known here"),
        (b"<!DOCTYPE html>", "found a web page"),
        (struct.pack("<Q", 2) + b"{}", "found a safetensors file"),
        (made.archive_of({"archive/data.pkl": b"x"}), "found a PyTorch checkpoint"),
        (made.archive_of({"a.npy": b"x"}), "found a NumPy .npz archive"),
        (made.archive_of({"a.txt": b"x"}), "found a zip archive of another kind"),
    ],
)
def test_files_of_another_kind_are_named(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    path.write_bytes(data)
    with pytest.raises(FormatError, match=rf"model\.keras: expected a Keras model .* {message}"):
        read_keras(path)


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_keras(tmp_path / "none.keras")
    with pytest.raises(FormatError, match="found a directory"):
        read_keras(tmp_path)
    (tmp_path / "empty.keras").touch()
    with pytest.raises(FormatError, match="found an empty one"):
        read_keras(tmp_path / "empty.keras")
