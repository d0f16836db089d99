"""HDF5: the same as h5py reads, and nothing from outside of the file or beyond its size."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import h5py
import hypothesis.extra.numpy as numpy_strategies
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from keras_support import hdf5_of

from lstm_engine.errors import FormatError, LstmEngineError, UnsafeFileError, UnsupportedModelError
from lstm_engine.formats.hdf5 import HDF5File, HDF5Group

DTYPES = ("float16", "float32", "float64", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")


def open_root(data: bytes) -> HDF5Group:
    return HDF5File(data, "file.h5").root


def written(write: Any, **settings: Any) -> bytes:
    """Return the bytes of the file that ``write`` fills."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", **settings) as file:
        write(file)
    return buffer.getvalue()


# --- Sound files ------------------------------------------------------------------------------------------------------


@st.composite
def datasets(draw: st.DrawFn) -> tuple[np.ndarray, dict[str, Any]]:
    """An array and how it is stored."""
    dtype = np.dtype(draw(st.sampled_from(DTYPES))).newbyteorder(draw(st.sampled_from("<>")))
    shape = draw(numpy_strategies.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=7))
    array = draw(numpy_strategies.arrays(dtype, shape))
    settings: dict[str, Any] = {}
    if shape and array.size and draw(st.booleans()):
        settings["chunks"] = tuple(draw(st.integers(1, size)) for size in shape)
        settings["compression"] = draw(st.sampled_from((None, "gzip")))
        settings["shuffle"] = draw(st.booleans())
    return array, settings


VERSIONS = st.sampled_from(["earliest", "latest"])


@given(
    st.lists(datasets(), min_size=1, max_size=3),
    VERSIONS,
    st.sampled_from([0, 512, 2048]),
)
def test_arrays_are_what_h5py_wrote(
    stored: list[tuple[np.ndarray, dict[str, Any]]], version: str, user_block: int
) -> None:
    def write(file: h5py.File) -> None:
        for number, (array, settings) in enumerate(stored):
            file.create_dataset(f"a/b/{number}", data=array, **settings)

    data = written(write, libver=version, userblock_size=user_block)
    group = open_root(data).group("a/b")
    assert group.names() == [str(number) for number in range(len(stored))]
    for number, (array, settings) in enumerate(stored):
        if settings and version == "latest":
            with pytest.raises(UnsupportedModelError, match="libver='latest'"):
                group.array(str(number))
            continue
        found = group.array(str(number))
        assert found.dtype == array.dtype.newbyteorder("=")
        assert not found.flags.writeable
        np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("shuffle", [False, True])
def test_chunks_that_only_the_latest_reads_name_the_way_out(shuffle: bool) -> None:
    # HDF5 2.0 gives filtered chunks another layout than the releases before it.
    data = written(
        lambda file: file.create_dataset("x", data=np.ones(4), chunks=(2,), shuffle=shuffle),
        libver="latest",
    )
    with pytest.raises(UnsupportedModelError, match="without asking h5py for libver='latest'"):
        open_root(data).array("x")


names = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=20).filter(
    lambda n: n != "."
)


@given(st.dictionaries(names, st.integers(0, 3), max_size=60), VERSIONS, st.booleans())
def test_groups_hold_what_h5py_put_there(members: dict[str, int], version: str, track_order: bool) -> None:
    """Sixty members split the tree of a group; a name that is not ASCII turns the group into one of the newer kind."""

    def write(file: h5py.File) -> None:
        for name, depth in members.items():
            group = file.create_group(name)
            for _ in range(depth):
                group = group.create_group("inner")

    root = open_root(written(write, libver=version, track_order=track_order))
    assert sorted(root.names()) == sorted(members)
    for name, depth in members.items():
        assert name in root
        assert "/".join([name, *["inner"] * depth]) in root
        assert "/".join([name, *["inner"] * (depth + 1)]) not in root
    assert "nowhere" not in root
    assert "nowhere/inner" not in root


@pytest.mark.parametrize("settings", [{}, {"libver": "latest"}, {"track_order": True}])
def test_a_group_of_thousands_is_a_tree_of_several_levels(settings: dict[str, Any]) -> None:
    root = open_root(hdf5_of({f"group/{number:040}": np.float32(number) for number in range(2500)}, **settings))
    assert sorted(root.group("group").names()) == [f"{number:040}" for number in range(2500)]
    assert root.array(f"group/{1718:040}") == 1718


@pytest.mark.parametrize("count", [8, 9, 300])
def test_any_number_of_attributes_is_read(count: int) -> None:
    def write(file: h5py.File) -> None:
        for number in range(count):
            file.attrs[f"name{number}"] = f"text {number}"

    root = open_root(written(write, libver="latest"))
    assert [root.text(f"name{number}") for number in range(count)] == [f"text {number}" for number in range(count)]


def test_a_dense_attribute_of_more_than_a_heap_block_is_refused_by_name() -> None:
    def write(file: h5py.File) -> None:
        for number in range(9):
            file.attrs[f"name{number}"] = np.bytes_(b"x" * 30_000)

    with pytest.raises(UnsupportedModelError, match="heap objects of more than a few kilobytes"):
        open_root(written(write, libver="latest")).text("name3")


texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=50)


@given(texts, st.lists(texts, max_size=30), VERSIONS)
def test_attributes_are_what_h5py_wrote(text: str, many: list[str], version: str) -> None:
    def write(file: h5py.File) -> None:
        file.attrs["text"] = text
        file.attrs["bytes"] = text.encode()
        file.attrs["fixed"] = np.bytes_(text.encode())
        file.attrs["many"] = many or np.array([])
        file.attrs["fixed_many"] = np.array([one.encode() for one in many] or [b""])

    root = open_root(written(write, libver=version))
    assert root.text("text") == root.text("bytes") == text
    assert root.text("fixed") == text
    assert root.text_list("many") == many
    assert root.text_list("fixed_many") == (many or [""])
    assert root.text("nothing") is None
    assert root.text_list("nothing") is None


def test_a_list_in_parts_is_one_list() -> None:
    """Keras cuts lists of names that are too long for one attribute."""
    everything = [f"layer_{number}_{'x' * 90}" for number in range(1500)]

    def write(file: h5py.File) -> None:
        for number, part in enumerate(np.array_split(np.array(everything, "S"), 3)):
            file.attrs[f"layer_names{number}"] = part

    assert open_root(written(write)).text_list("layer_names") == everything


def test_a_list_in_parts_ends_at_the_first_name_that_is_too_long() -> None:
    def write(file: h5py.File) -> None:
        file.attrs["names0"] = ["x" * 5000]
        file.attrs["names1"] = 3.0

    with pytest.raises(FormatError, match="names0: expected names of at most 4096 characters"):
        open_root(written(write)).text_list("names")


def test_a_dataset_of_many_names_is_read_once() -> None:
    def write(file: h5py.File) -> None:
        file["a"] = np.ones(3)
        file["b"] = file["a"]

    root = open_root(written(write))
    assert root.array("a") is root.array("b")


def test_a_text_longer_than_an_object_header_is_read() -> None:
    text = "x" * 1_000_000
    assert open_root(written(lambda file: file.attrs.create("model_config", text))).text("model_config") == text


@pytest.mark.parametrize("stored", ["opaque", "uint16"])
def test_bfloat16_is_widened_exactly(stored: str) -> None:
    halves = np.arange(1 << 16, dtype="<u2")

    def write(file: h5py.File) -> None:
        file["x"] = halves.view("V2") if stored == "opaque" else halves
        file["x"].attrs["dtype"] = "bfloat16"

    found = open_root(written(write)).array("x")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found.view(np.uint32), halves.astype(np.uint32) << 16)


# --- Outside of the file ----------------------------------------------------------------------------------------------


def test_no_link_but_a_hard_one_is_followed(tmp_path: Path) -> None:
    (tmp_path / "other.h5").write_bytes(hdf5_of({"x": np.ones(3)}))

    def write(file: h5py.File) -> None:
        file["x"] = np.ones(3)
        file["soft"] = h5py.SoftLink("/x")
        file["hard"] = file["x"]
        group = file.create_group("group")
        group["external"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/x")
        group["folder"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/")

    root = open_root(written(write))
    assert root.array("hard").tolist() == [1, 1, 1]
    for path, message in (
        ("soft", "file.h5: soft: expected data in the file itself, found a soft link"),
        ("group/external", "group/external: expected data in the file itself, found a link to another file"),
        ("group/folder/x", "group/folder: expected data in the file itself, found a link to another file"),
    ):
        with pytest.raises(UnsafeFileError, match=message):
            root.array(path)


def test_a_dataset_stored_in_another_file_is_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret! " * 4)
    data = written(lambda file: file.create_dataset("x", (4,), "f8", external=[(str(secret), 0, 32)]))
    with pytest.raises(UnsafeFileError, match="x: expected data in the file itself, found it stored in another file"):
        open_root(data).array("x")


@pytest.mark.parametrize("version", ["earliest", "latest"])
def test_a_virtual_dataset_is_refused(version: str) -> None:
    layout = h5py.VirtualLayout((4,), "f8")
    layout[:] = h5py.VirtualSource("other.h5", "x", (4,))
    data = written(lambda file: file.create_virtual_dataset("x", layout), libver=version)
    with pytest.raises(UnsafeFileError, match="x: expected data in the file itself, found a virtual dataset"):
        open_root(data).array("x")


# --- Beyond the file's size -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "settings"),
    [
        ((1 << 40,), {}),
        ((1 << 40,), {"chunks": (1 << 20,), "compression": "gzip"}),
        ((1 << 20, 1 << 20, 1 << 20), {"chunks": (64, 64, 64)}),
        ((4,), {}),
        ((4,), {"chunks": (4,)}),
    ],
)
def test_shapes_that_the_file_does_not_fill_are_refused(shape: tuple[int, ...], settings: dict[str, Any]) -> None:
    data = written(lambda file: file.create_dataset("x", shape, "f4", **settings))
    with pytest.raises(UnsafeFileError, match=r"file\.h5: x: .*expected|asks for more than|takes"):
        open_root(data).array("x")


def test_an_empty_array_of_an_absurd_shape_is_refused() -> None:
    data = written(lambda file: file.create_dataset("x", (0, 1 << 60), "f4", maxshape=(None, None), chunks=(1, 1)))
    with pytest.raises(UnsafeFileError, match="asks for more than"):
        open_root(data).array("x")


def test_many_arrays_may_not_ask_for_more_than_one_may() -> None:
    """A few bytes of zeros, compressed a thousandfold, that many names lead to."""

    def write(file: h5py.File) -> None:
        file.create_dataset("0", data=np.zeros((1 << 20,), "f4"), compression="gzip", compression_opts=9)
        for number in range(1, 64):
            file[str(number)] = file["0"]

    root = open_root(written(write))
    with pytest.raises(UnsafeFileError, match=r"file\.h5: \d+: with this dataset the file asks for more than"):
        [root.array(name) for name in root.names()]


def test_a_chunk_unpacks_to_what_its_shape_says() -> None:
    """A chunk whose gzip stream goes on for 256 MiB is cut at the size of the chunk."""
    packer = zlib.compressobj(9)
    bomb = b"".join([*(packer.compress(bytes(1 << 20)) for _ in range(256)), packer.flush()])

    def write(file: h5py.File) -> None:
        dataset = file.create_dataset("x", (16384,), "f4", chunks=(16384,), compression="gzip")
        dataset.id.write_direct_chunk((0,), bomb)

    with pytest.raises(FormatError, match="expected a chunk of 65,536 bytes, found 65,537"):
        open_root(written(write)).array("x")


def test_a_chunk_that_is_no_gzip_is_refused() -> None:
    def write(file: h5py.File) -> None:
        dataset = file.create_dataset("x", (16,), "f4", chunks=(16,), compression="gzip")
        dataset.id.write_direct_chunk((0,), b"not gzip")

    with pytest.raises(FormatError, match="expected gzip data, found damaged bytes"):
        open_root(written(write)).array("x")


def test_a_filter_that_was_left_out_for_a_chunk_is_not_undone() -> None:
    array = np.arange(16, dtype="<f4")

    def write(file: h5py.File) -> None:
        dataset = file.create_dataset("x", (16,), "f4", chunks=(16,), shuffle=True, compression="gzip")
        dataset.id.write_direct_chunk((0,), array.tobytes(), filter_mask=0b11)

    np.testing.assert_array_equal(open_root(written(write)).array("x"), array)


# --- What Keras does not write ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (
            lambda file: file.create_dataset("x", data=["a", "b"]),
            "plain numbers, found text values of 16 bytes",
        ),
        (lambda file: file.create_dataset("x", data=np.array([1 + 2j])), "found other values of 16 bytes"),
        (lambda file: file.create_dataset("x", data=np.array([True])), "found other values of 1 bytes"),
        (lambda file: file.create_dataset("x", data=np.ones(2, "V2")), "found opaque values of 2 bytes"),
        (
            lambda file: file.create_dataset("x", data=np.ones(9), compression="lzf"),
            "shuffle, found 'lzf' .32000",
        ),
        (lambda file: file.create_dataset("x", data=np.ones(9), fletcher32=True), "found 'fletcher32' .3."),
        (lambda file: file.create_dataset("x", data=np.arange(9), scaleoffset=4), "found 'scaleoffset' .6."),
    ],
)
def test_other_types_and_filters_are_refused_by_name(write: Any, message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        open_root(written(write)).array("x")


def test_another_mark_on_a_dataset_is_refused_by_name() -> None:
    def write(file: h5py.File) -> None:
        file["x"] = np.ones(3, np.uint8)
        file["x"].attrs["dtype"] = "float8_e4m3fn"

    with pytest.raises(UnsupportedModelError, match="found 'float8_e4m3fn'"):
        open_root(written(write)).array("x")


def test_a_named_type_is_refused() -> None:
    def write(file: h5py.File) -> None:
        file["type"] = np.dtype("f4")
        file.create_dataset("x", (2,), file["type"])

    with pytest.raises(UnsupportedModelError, match="found a shared one"):
        open_root(written(write)).array("x")


def test_a_dataset_without_any_value_is_refused() -> None:
    with pytest.raises(FormatError, match="expected a dataset with values, found one without any"):
        open_root(written(lambda file: file.create_dataset("x", data=h5py.Empty("f4")))).array("x")


def test_wrong_kinds_of_object() -> None:
    def write(file: h5py.File) -> None:
        file["group/x"] = np.ones(3)
        file.attrs["number"] = 3
        file.attrs["table"] = np.array([[b"a"]])
        file.attrs["two"] = ["a", "b"]
        file.attrs["none"] = h5py.Empty("f4")
        file.attrs["latin"] = np.bytes_(b"\xff")

    root = open_root(written(write))
    for read, message in (
        (lambda: root.array("group"), "group: expected a dataset, found something else"),
        (lambda: root.group("group/x"), "group/x: expected a group, found something else"),
        (lambda: root.array("group/y"), "group/y: expected this in the file, found nothing"),
        (lambda: root.group("y/z"), "y: expected this in the file, found nothing"),
        (lambda: root.group(""), "expected this in the file, found nothing"),
        (lambda: root.text("number"), "number: expected the attribute to hold text, found int"),
        (lambda: root.text("two"), "two: expected the attribute to be one text, found 2"),
        (lambda: root.text_list("table"), "table: expected the attribute to be a text or a list of texts"),
        (lambda: root.text("none"), "none: expected the attribute to be a text or a list"),
        (lambda: root.text("latin"), "latin: expected UTF-8"),
    ):
        with pytest.raises(FormatError, match=message):
            read()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "expected an HDF5 file"),
        (b"\x89HDF\r\n\x1a\n", "superblock is truncated"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "addresses and lengths of 8 bytes"),
        (b"\x89HDF\r\n\x1a\n\x09" + bytes(100), "superblock of version 0 to 3, found 9"),
        (b"x" * 100_000, "expected an HDF5 file"),
    ],
)
def test_what_is_no_hdf5(data: bytes, message: str) -> None:
    with pytest.raises((FormatError, UnsupportedModelError), match=message):
        open_root(data)


# --- Structures that never end ----------------------------------------------------------------------------------------


def patched(data: bytes, place: int, *values: int) -> bytes:
    """Return ``data`` with 8-byte numbers written at ``place``."""
    raw = struct.pack(f"<{len(values)}Q", *values)
    return data[:place] + raw + data[place + len(raw) :]


def test_a_heap_object_of_size_zero_ends() -> None:
    """The HDF5 library goes round this one for ever."""
    data = written(lambda file: file.attrs.create("name", "some text"))
    heap = data.index(b"GCOL")
    with pytest.raises(FormatError, match="expected a text of 9 bytes in the HDF5 global heap, found 0"):
        open_root(patched(data, heap + 16, 0, 0)).text("name")


def test_a_tree_that_is_its_own_child_ends() -> None:
    data = written(lambda file: file.create_group("group"))
    tree = data.index(b"TREE")
    looped = data[: tree + 5] + b"\x01" + data[tree + 6 :]  # a level above the leaves
    looped = patched(looped, tree + 32, tree)
    with pytest.raises(FormatError, match="a node of level 0 in an HDF5 B-tree, found 1"):
        open_root(looped)


def test_a_header_that_continues_in_itself_ends() -> None:
    def write(file: h5py.File) -> None:
        for number in range(40):
            file.attrs[f"attribute{number}"] = "some text that makes the header continue elsewhere"

    data = written(write)
    root = HDF5File(data, "file.h5").structures.root
    at = next(
        place
        for place in range(root + 16, len(data) - 24, 8)
        if data[place : place + 8] == b"\x10\x00\x10\x00\x00\x00\x00\x00"
    )
    target, length = struct.unpack_from("<QQ", data, at + 8)
    nested = data[:target] + data[at : at + 24] + data[target + 24 :]  # the continuation begins with itself
    with pytest.raises(LstmEngineError, match="object header"):
        open_root(nested).text("attribute0")
    assert length > 24


def test_names_that_stand_twice_are_refused() -> None:
    data = hdf5_of({"aaaa": np.ones(1), "bbbb": np.ones(1)})
    with pytest.raises(FormatError, match="expected one HDF5 object 'aaaa' in a group, found two"):
        open_root(data.replace(b"bbbb", b"aaaa"))
