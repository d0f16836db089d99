"""Make the corpus of hostile files ``n_*`` and their sound neighbours ``y_*`` beside this file.

    python tests/formats/make_attack_corpus.py

Every file is a variation of one model: the LSTM of one unit by whose numbers the sound files are known. The same
bytes come out at every run, so a change of this program shows in the files that it changes. What each file must end in
stands in test_attacks.py. Needs h5py, onnx and NumPy, no framework.
"""

from __future__ import annotations

import io
import json
import re
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import onnx_attacks
import torch_support as made
from onnx import TensorProto, helper, numpy_helper

HERE = Path(__file__).parent

# --- The model: hidden size 1, one feature; gates in the order input, forget, cell, output ----------------------------

KERNEL = np.array([[1.65, 1.63, 0.94, -0.19]], "f4")
RECURRENT = np.array([[2.00, 2.70, 1.41, 4.38]], "f4")
BIAS = np.array([0.62, 1.62, -0.32, 0.59], "f4")

# --- PyTorch ----------------------------------------------------------------------------------------------------------

#: Storages of the state dict: weight_ih, weight_hh, bias_ih, bias_hh.
STORAGES = {"0": KERNEL.tobytes(), "1": RECURRENT.tobytes(), "2": BIAS.tobytes(), "3": bytes(16)}

WEIGHTS = {
    "weight_ih_l0": made.tensor((4, 1), (1, 1), block=made.storage("0")),
    "weight_hh_l0": made.tensor((4, 1), (1, 1), block=made.storage("1")),
    "bias_ih_l0": made.tensor((4,), (1,), block=made.storage("2")),
    "bias_hh_l0": made.tensor((4,), (1,), block=made.storage("3")),
}


def zipped(members: Mapping[str, bytes] | list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
    """Return an archive of members in the order given, twice the same name allowed, all of one date."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in members.items() if isinstance(members, Mapping) else members:
            entry = zipfile.ZipInfo(name)
            # Past Python's own tidying of names.
            entry.filename = entry.orig_filename = name
            entry.compress_type = method
            if name in archive.NameToInfo:
                del archive.NameToInfo[name]  # or a warning
            archive.writestr(entry, data)
    return buffer.getvalue()


def torch_members(body: bytes, storages: Mapping[str, bytes] = STORAGES, order: bytes = b"little") -> dict[str, bytes]:
    members = {"m/data.pkl": made.pickled(body), "m/byteorder": order, "m/version": b"3\n"}
    return members | {f"m/data/{key}": raw for key, raw in storages.items()}


def torch_file(body: bytes, storages: Mapping[str, bytes] = STORAGES, order: bytes = b"little") -> bytes:
    return zipped(torch_members(body, storages, order))


def with_value(value: bytes) -> bytes:
    """Return a sound state dict with one more entry."""
    return torch_file(made.mapping(**WEIGHTS, more=value))


def with_weight(**changed: bytes) -> bytes:
    return torch_file(made.mapping(**{**WEIGHTS, **changed}))


def called(module: str, name: str, *arguments: bytes) -> bytes:
    return made.name(module, name) + made.MARK + b"".join(arguments) + made.TUPLE + made.REDUCE


def persistent(*parts: bytes) -> bytes:
    return made.MARK + b"".join(parts) + made.TUPLE + made.PERSISTENT_ID


def nested(depth: int) -> bytes:
    """Lists in lists, with a tensor inside so that they are looked into."""
    return made.EMPTY_LIST * depth + made.tensor(block=made.storage("2")) + made.APPEND * depth


ORDERED = made.name("collections", "OrderedDict") + made.EMPTY_TUPLE + made.REDUCE
OS_SYSTEM = made.name("os", "system")
LINE = made.text("touch /tmp/pwned")

PICKLES: dict[str, bytes] = {
    "reduce_os_system": called("os", "system", LINE),
    "reduce_posix_system": called("posix", "system", LINE),
    "reduce_nt_system": called("nt", "system", LINE),
    "reduce_builtins_eval": called("builtins", "eval", made.text("1")),
    "reduce_builtins_exec_py2": called("__builtin__", "exec", made.text("1")),
    "reduce_builtins_getattr": called("builtins", "getattr", made.text("x"), made.text("y")),
    "reduce_builtins_import": called("builtins", "__import__", made.text("os")),
    "reduce_subprocess_popen": called("subprocess", "Popen", LINE),
    "reduce_runpy": called("runpy", "_run_code", LINE),
    "reduce_webbrowser": called("webbrowser", "open", made.text("http://localhost")),
    "reduce_pip_main": called("pip", "main", made.EMPTY_LIST),
    "reduce_operator_attrgetter": called("operator", "attrgetter", made.text("system")),
    "reduce_torch_load": called("torch", "load", made.text("other.pt")),
    "reduce_torch_hub_load": called("torch.hub", "load", made.text("evil/repository")),
    "reduce_torch_load_from_bytes": called("torch.storage", "_load_from_bytes", b"C\x02\x80."),
    "reduce_torch_wrapper_subclass": called("torch._utils", "_rebuild_wrapper_subclass", made.NONE),
    "reduce_torch_dynamo": called("torch._dynamo.guards", "GuardBuilder.get", made.text("1")),
    "reduce_torch_rebuild_other_type": called(
        "torch._tensor", "_rebuild_from_type_v2", OS_SYSTEM, made.name("torch", "Tensor"), LINE + made.TUPLE1,
        made.EMPTY_DICT,
    ),
    "reduce_numpy_runstring": called("numpy.testing._private.utils", "runstring", made.text("1"), made.EMPTY_DICT),
    "reduce_numpy_subclass": called(
        "numpy.core.multiarray", "_reconstruct", made.name("evil", "ndarray"), made.whole((0,)), made.text("b")
    ),
    "reduce_of_a_text": made.text("print") + made.EMPTY_TUPLE + made.REDUCE,
    "reduce_of_a_tensor": made.tensor(block=made.storage("2")) + made.EMPTY_TUPLE + made.REDUCE,
    "reduce_that_nobody_uses": made.MARK + called("os", "system", LINE) + made.TUPLE + made.NONE + made.TUPLE2,
    "reduce_codec_zlib": called("_codecs", "encode", made.text("x"), made.text("zlib_codec")),
    "stack_global_dotted": b"\x8c\x02os\x8c\x0bpath.system\x93" + made.EMPTY_TUPLE + made.REDUCE,
    "stack_global_of_numbers": b"K\x01K\x02\x93",
    "global_endless": b"c" + b"a" * 1000,
    "global_terminal_escape": b"\x8c\x02os\x8c\x08\x1b[2Jevil\x93" + made.EMPTY_TUPLE + made.REDUCE,
    "newobj_module": made.name("torch.nn.modules.rnn", "LSTM") + made.EMPTY_TUPLE + made.NEWOBJ,
    "newobj_of_an_allowed_call": made.name("collections", "OrderedDict") + made.EMPTY_TUPLE + made.NEWOBJ,
    "newobj_of_a_text": made.text("LSTM") + made.EMPTY_TUPLE + made.NEWOBJ,
    "newobj_ex": OS_SYSTEM + made.EMPTY_TUPLE + made.EMPTY_DICT + b"\x92",
    "build_class_of_ordereddict": ORDERED + made.mapping(__class__=OS_SYSTEM) + made.BUILD,
    "build_method_of_ordereddict": ORDERED + made.mapping(items=OS_SYSTEM) + made.BUILD,
    "build_setstate_of_ordereddict": ORDERED + made.mapping(__setstate__=OS_SYSTEM) + made.BUILD,
    "build_a_tensor": made.tensor(block=made.storage("2")) + made.mapping(data=made.NONE) + made.BUILD,
    "build_a_name": made.name("torch.nn", "Module") + made.mapping(forward=made.NONE) + made.BUILD,
    "build_a_dict": made.EMPTY_DICT + made.mapping(__class__=made.NONE) + made.BUILD,
    "inst": made.MARK + LINE + b"ios\nsystem\n",
    "obj": made.MARK + OS_SYSTEM + LINE + b"o",
    "ext1": b"\x82\x01",
    "ext2": b"\x83\x01\x00",
    "ext4": b"\x84\x01\x00\x00\x00",
    "persid": b"Pstorage\n",
    "next_buffer": b"\x97",
    "readonly_buffer": made.NONE + b"\x98",
    "persistent_id_module": persistent(
        made.text("module"), made.name("torch.nn.modules.rnn", "LSTM"), made.NONE, made.NONE
    ),
    "persistent_id_number": b"K\x01" + made.PERSISTENT_ID,
    "persistent_id_other_kind": persistent(made.text("file"), made.text("/etc/passwd")),
    "persistent_id_class_of_os": persistent(
        made.text("storage"), made.name("os", "FloatStorage"), made.text("0"), made.text("cpu"), b"K\x04"
    ),
    "persistent_id_key_of_numbers": persistent(
        made.text("storage"), made.name("torch", "FloatStorage"), b"K\x00", made.text("cpu"), b"K\x04"
    ),
    "persistent_id_size_negative": made.storage(size=-1),
    "persistent_id_size_text": persistent(
        made.text("storage"), made.name("torch", "FloatStorage"), made.text("0"), made.text("cpu"), made.text("4")
    ),
    "persistent_id_of_the_parent": made.tensor(block=made.storage("../../etc/passwd")),
    "memo_far": made.NONE + made.put(0xFFFF_FFFF),
    "memo_empty": made.get(7),
    "marks_deep": made.MARK * 10_000,
    "lists_deep": nested(5_000),
    "billion_laughs": made.laughs(30, made.tensor(block=made.storage("2"))),
    "list_in_itself": made.EMPTY_LIST + made.put(9) + made.get(9) + made.APPEND
    + made.tensor(block=made.storage("2")) + made.APPEND,
    "dict_in_itself": made.EMPTY_DICT + made.put(9) + made.text("a") + made.get(9) + made.SETITEM,
    "string_of_exabytes": b"\x8d" + struct.pack("<Q", 1 << 60),
    "string_of_two_gigabytes": b"X\xff\xff\xff\x7f",
    "string_not_utf8": b"X\x01\x00\x00\x00\xff",
    "integer_of_two_gigabytes": b"\x8b\xff\xff\xff\x7f",
    "key_of_a_list": made.EMPTY_DICT + made.EMPTY_LIST + made.NONE + made.SETITEM,
    "key_that_collides": made.EMPTY_DICT + made.integer(2**61 - 1) + made.NONE + made.SETITEM,
    "opcode_unknown": b"\xff",
    "opcode_dup": made.NONE + b"2",
    "stack_empty": b"0",
    "mark_missing": made.NONE + made.TUPLE,
}  # fmt: skip

#: Tensors that do not lie in their storages, in place of a bias of four elements.
TENSORS: dict[str, bytes] = {
    "past_the_storage": made.tensor((5,), (1,), block=made.storage("2")),
    "offset_past_the_storage": made.tensor((4,), (1,), 1, made.storage("2")),
    "offset_huge": made.tensor((4,), (1,), 1 << 62, made.storage("2")),
    "offset_negative": made.tensor((4,), (1,), -1, made.storage("2")),
    "stride_negative": made.tensor((4,), (-1,), block=made.storage("2")),
    "stride_huge": made.tensor((4,), (1 << 62,), block=made.storage("2")),
    "stride_missing": made.tensor((4, 1), (1,), block=made.storage("2")),
    "shape_bomb_broadcast": made.tensor((1 << 20, 1 << 20), (0, 0), block=made.storage("2")),
    "shape_bomb_of_128_bits": made.tensor((1 << 64, 1 << 64), (0, 0), block=made.storage("2")),
    "shape_bomb_behind_a_zero": made.tensor((0, 1 << 62), (1, 1), block=made.storage("2")),
    "shape_negative": made.tensor((-4,), (1,), block=made.storage("2")),
    "rank_65": made.tensor((1,) * 65, (1,) * 65, block=made.storage("2")),
    "storage_missing": made.tensor(block=made.storage("7")),
    "storage_too_small": made.tensor((8,), (1,), block=made.storage("2", 8)),
    "storage_of_exabytes": made.tensor((4,), (1,), block=made.storage("2", 1 << 60)),
    "storage_quantized": made.tensor(block=made.storage("2", kind="QInt8Storage")),
    "storage_unknown": made.tensor(block=made.storage("2", kind="EvilStorage")),
    "storage_none": made.tensor(block=made.NONE),
}


def patched(data: bytes, *changes: tuple[int, bytes]) -> bytes:
    """Return ``data`` with bytes overwritten."""
    result = bytearray(data)
    for place, new in changes:
        result[place : place + len(new)] = new
    return bytes(result)


def directory_entry(data: bytes, name: str) -> int:
    """Return where a member's entry in the directory begins."""
    return data.index(name.encode(), data.index(b"PK\x01\x02")) - 46


def local_header(data: bytes, name: str) -> int:
    return data.index(name.encode()) - 30


def renamed(data: bytes, old: str, new: str) -> bytes:
    """Return an archive with a member's name replaced by one of the same length, in both places."""
    assert len(old.encode()) == len(new.encode())
    return data.replace(old.encode(), new.encode())


def zip_attacks(base: bytes, member: str, weights: str) -> dict[str, bytes]:
    """Return the attacks on an archive that both kinds of file share."""
    entry, header = directory_entry(base, weights), local_header(base, weights)
    (size,) = struct.unpack_from("<I", base, entry + 24)
    with zipfile.ZipFile(io.BytesIO(base)) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    end = base.index(b"PK\x05\x06")
    last = base.rindex(b"PK\x01\x02")
    (stored,) = struct.unpack_from("<I", base, last + 20)
    return {
        "name_traversal": renamed(zipped([*members, ("x" * 12, b"")]), "x" * 12, "../../escape"),
        "name_traversal_inside": renamed(zipped([*members, ("x" * 10, b"")]), "x" * 10, "a/../../up"),
        "name_absolute": zipped([*members, ("/etc/passwd", b"")]),
        "name_backslash": zipped([*members, ("a\\..\\b", b"")]),
        "name_drive": zipped([*members, ("C:/x", b"")]),
        "name_with_zero": renamed(zipped([*members, ("x" * 3, b"")]), "x" * 3, "a\0b"),
        "name_endless": zipped([*members, ("x" * 5000, b"")]),
        "name_twice": zipped([*members, (member, b"{}")]),
        "name_differs": patched(base, (header + 30, b"#")),
        "encrypted": patched(base, (entry + 8, b"\x01")),
        "encrypted_strongly": patched(base, (entry + 8, b"\x40")),
        "method_unknown": patched(base, (entry + 10, b"\x63\x00")),
        "size_past_the_file": patched(base, (entry + 20, struct.pack("<II", size + (1 << 20), size + (1 << 20)))),
        "size_of_gigabytes": patched(base, (entry + 20, b"\xfe\xff\xff\xff" * 2)),
        "header_elsewhere": patched(base, (entry + 42, b"\xff\xff\xff\x7f")),
        "overlap": patched(base, (directory_entry(base, member) + 20, struct.pack("<I", 200) * 2)),
        "overlap_of_the_directory": patched(base, (last + 20, struct.pack("<I", stored + 40) * 2)),
        "directory_truncated": base[: end - 10],
        "end_missing": base[:end],
    }  # fmt: skip


def legacy(
    body: bytes, *, little: bytes = made.TRUE, keys: bytes | None = None, storages: bytes | None = None
) -> bytes:
    """Return a file of the layout before PyTorch 1.6."""
    machine = made.mapping(protocol_version=made.integer(1001), little_endian=little)
    listed = made.EMPTY_LIST + made.MARK + b"".join(made.text(key) for key in STORAGES) + made.APPENDS
    parts = [made.integer(0x1950A86A20F9469CFC6C), made.integer(1001), machine, body, listed if keys is None else keys]
    raw = b"".join(struct.pack("<q", 4) + raw for raw in STORAGES.values())
    return b"".join(made.pickled(part) for part in parts) + (raw if storages is None else storages)


def torch_corpus() -> dict[str, bytes]:
    sound = made.mapping(**WEIGHTS)
    base = torch_file(sound)
    files = {f"n_torch_pickle_{name}.pt": with_value(value) for name, value in PICKLES.items()}
    files |= {f"n_torch_tensor_{name}.pt": with_weight(bias_ih_l0=value) for name, value in TENSORS.items()}
    files |= {f"n_torch_zip_{name}.pt": data for name, data in zip_attacks(base, "m/version", "m/data/0").items()}
    wrong = np.array(BIAS)
    for name, value in (("nan", np.nan), ("inf", np.inf)):
        wrong[1] = value
        files[f"n_torch_weight_{name}.pt"] = torch_file(sound, {**STORAGES, "2": wrong.tobytes()})
    files |= {
        "n_torch_zip_compressed.pt": zipped(torch_members(sound), zipfile.ZIP_DEFLATED),
        "n_torch_zip_bomb.pt": zipped({**torch_members(sound), "m/data/9": bytes(1 << 21)}, zipfile.ZIP_DEFLATED),
        "n_torch_zip_two_pickles.pt": zipped({**torch_members(sound), "n/data.pkl": made.pickled(sound)}),
        "n_torch_zip_checksum.pt": patched(base, (base.index(STORAGES["0"]), b"\xff")),
        "n_torch_zip_big_endian.pt": torch_file(sound, order=b"big"),
        "n_torch_zip_byteorder_junk.pt": torch_file(sound, order=b"\x1b[2J"),
        "n_torch_zip_script.pt": zipped({**torch_members(sound), "m/code/__torch__.py": b"x", "m/constants.pkl": b"."}),
        "n_torch_bare_pickle.pt": made.pickled(called("os", "system", LINE)),
        "n_torch_no_mapping.pt": torch_file(made.tensor(block=made.storage("2"))),
        "n_torch_legacy_reduce.pt": legacy(made.mapping(**WEIGHTS, more=called("os", "system", LINE))),
        "n_torch_legacy_reduce_in_keys.pt": legacy(sound, keys=called("os", "system", LINE)),
        "n_torch_legacy_big_endian.pt": legacy(sound, little=made.FALSE),
        "n_torch_legacy_size_negative.pt": legacy(sound, storages=struct.pack("<q", -4)),
        "n_torch_legacy_size_huge.pt": legacy(sound, storages=struct.pack("<q", 1 << 62)),
        "n_torch_legacy_key_unknown.pt": legacy(sound, keys=made.EMPTY_LIST + made.text("9") + made.APPEND),
        "n_torch_legacy_key_twice.pt": legacy(
            sound, keys=made.EMPTY_LIST + made.MARK + made.text("0") * 2 + made.APPENDS
        ),
        "n_torch_legacy_keys_no_list.pt": legacy(sound, keys=made.integer(3)),
        "y_torch_plain.pt": base,
        "y_torch_legacy.pt": legacy(sound),
        "y_torch_ordered_dict.pt": torch_file(ORDERED + sound[1:]),
        "y_torch_shared_and_strided.pt": torch_file(
            made.mapping(**{
                **WEIGHTS,
                "weight_ih_l0": made.tensor((4, 1), (2, 1), block=made.storage("0", 8)),
                "weight_hh_l0": made.tensor((4, 1), (2, 1), 1, made.storage("0", 8)),
            }),
            {**STORAGES, "0": np.stack([KERNEL[0], RECURRENT[0]], axis=1).tobytes()},
        ),
        "y_torch_more_values.pt": with_value(made.laughs(3) + made.integer(7) + b"G" + bytes(8) + made.TUPLE3),
        "y_torch_without_checksums.pt": without_checksums(base),
        "y_torch_directories.pt": zipped({**torch_members(sound), "m/data/": b"", "m/ünïcode": b"x"}),
        "y_torch_names_of_globals_unused.pt": with_value(OS_SYSTEM),
    }  # fmt: skip
    return files


def without_checksums(data: bytes) -> bytes:
    """Return an archive all of whose checksums are zero."""
    for signature, offset in ((b"PK\x03\x04", 14), (b"PK\x01\x02", 16)):
        place = data.find(signature)
        while place >= 0:
            data = patched(data, (place + offset, bytes(4)))
            place = data.find(signature, place + 4)
    return data


# --- safetensors ------------------------------------------------------------------------------------------------------


def safetensors(header: bytes | str | Mapping[str, Any], data: bytes) -> bytes:
    raw = header if isinstance(header, bytes) else (header if isinstance(header, str) else json.dumps(header)).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def safetensors_corpus() -> dict[str, bytes]:
    names = list(WEIGHTS)
    shapes = ([4, 1], [4, 1], [4], [4])
    sound = {
        name: {"dtype": "F32", "shape": shape, "data_offsets": [16 * place, 16 * place + 16]}
        for place, (name, shape) in enumerate(zip(names, shapes, strict=True))
    }
    data = b"".join(STORAGES.values())

    def with_entry(text: str | None = None, **changed: Any) -> bytes:
        header = {**sound, "bias_hh_l0": {**sound["bias_hh_l0"], **changed}}
        return safetensors(json.dumps(header) if text is None else json.dumps(header).replace('"F32"', text, 1), data)

    whole = safetensors(sound, data)
    twice = json.dumps(sound)[:-1] + ', "bias_hh_l0": ' + json.dumps(sound["bias_ih_l0"]) + "}"
    values = {
        "header_of_exabytes": struct.pack("<Q", 1 << 62) + whole[8:],
        "header_over_the_cap": struct.pack("<Q", 1 << 30) + whole[8:],
        "header_past_the_file": struct.pack("<Q", len(whole)) + whole[8:],
        "header_no_json": safetensors(b"{" + b"#" * 100, data),
        "header_not_utf8": safetensors(json.dumps(sound).encode().replace(b"bias_hh", b"bias\xff\xff\xff"), data),
        "header_deep": safetensors(b'{"__metadata__":' + b"[" * 2_000 + b"]" * 2_000 + b"}", data),
        "header_list": safetensors(b"{" * 1 + b'"a":[]}', data),
        "header_empty": safetensors(b"{}", data),
        "tensor_twice": safetensors(twice, data),
        "entry_key_twice": with_entry('"F32", "dtype": "F64"'),
        "metadata_twice": safetensors('{"__metadata__": {"a": "1", "a": "2"}, ' + json.dumps(sound)[1:], data),
        "metadata_of_numbers": safetensors({"__metadata__": {"a": 1}, **sound}, data),
        "trailing_bytes": whole + bytes(16),
        "truncated": whole[:-4],
        "offsets_overlap": with_entry(data_offsets=[32, 48]),
        "offsets_leave_a_hole": safetensors(
            {**sound, "bias_hh_l0": {**sound["bias_hh_l0"], "data_offsets": [64, 80]}}, data + bytes(16)
        ),
        "offsets_reversed": with_entry(data_offsets=[64, 48]),
        "offsets_past_the_file": with_entry(data_offsets=[48, 1 << 60]),
        "offsets_negative": with_entry(data_offsets=[-16, 0]),
        "shape_overflows": with_entry(shape=[1 << 62, 4]),
        "shape_differs": with_entry(shape=[5]),
        "shape_negative": with_entry(shape=[-4]),
        "shape_behind_a_zero": with_entry(shape=[0, 1 << 60], data_offsets=[64, 64]),
        "shape_float": with_entry(shape=[4.0]),
        "dtype_unknown": with_entry(dtype="F31"),
        "dtype_float8": safetensors(
            {**sound, "bias_hh_l0": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [48, 52]}}, data[:52]
        ),
        "weight_nan": safetensors(sound, np.full(16, np.nan, "f4").tobytes()),
    }
    files = {f"n_safetensors_{name}.safetensors": value for name, value in values.items()}
    return files | {
        "y_safetensors_plain.safetensors": whole,
        "y_safetensors_metadata.safetensors": safetensors({"__metadata__": {"format": "pt"}, **sound}, data),
        "y_safetensors_padded_header.safetensors": safetensors(json.dumps(sound) + " " * 64, data),
    }


# --- Keras ------------------------------------------------------------------------------------------------------------


def layer(kind: str, name: str, module: str = "keras.layers", **config: Any) -> dict[str, Any]:
    entry = {"module": module, "class_name": kind, "config": {"name": name, "trainable": True, **config}}
    return {**entry, "registered_name": None, "build_config": {"input_shape": [None, None, 1]}}


INPUT = {
    "module": "keras.layers", "class_name": "InputLayer", "registered_name": None,
    "config": {"batch_shape": [None, None, 1], "dtype": "float32", "name": "input"},
}  # fmt: skip
LSTM = layer(
    "LSTM", "lstm", units=1, activation="tanh", recurrent_activation="sigmoid", use_bias=True, return_sequences=True
)

#: Code as Keras 2 and 3 store it: a marshalled function in base64.
CODE = {"class_name": "__lambda__", "config": {"code": "4wEAAAAAAAAAAAAAAAAAAAABAAAAQwAAAA==\n", "defaults": None}}
CODE_2 = ["4wEAAAAAAAAAAAAAAAAAAAABAAAAQwAAAA==\n", None, None]


def model(*layers: Any, **settings: Any) -> dict[str, Any]:
    """Return the configuration of a Sequential model of the input, the LSTM and ``layers``."""
    config = {"name": "sequential", "layers": [INPUT, LSTM, *layers]}
    return {"module": "keras", "class_name": "Sequential", "config": config, "registered_name": None, **settings}


def hdf5(change: Callable[[h5py.File], None] | None = None, **settings: Any) -> bytes:
    """Return the weights of the model, changed."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", **settings) as file:
        group = file.create_group("layers/lstm/cell/vars")
        for number, array in enumerate((KERNEL, RECURRENT, BIAS)):
            group[str(number)] = array
        if change is not None:
            change(file)
    return timeless(buffer.getvalue())


def timeless(data: bytes) -> bytes:
    """Return an HDF5 file without the times that the library writes into some objects."""
    modified = b"\x12\x00\x08\x00\x00\x00\x00\x00\x01\x00\x00\x00"  # the beginning of a message
    for found in re.finditer(re.escape(modified), data):
        data = patched(data, (found.end(), bytes(4)))
    for found in re.finditer(rb"OHDR\x02([\x20-\x3f])", data):
        (flags,) = found[1]
        size = found.end() + 16 + (4 if flags & 0x10 else 0)
        begin = size + (1 << (flags & 3))
        end = begin + int.from_bytes(data[size:begin], "little")
        data = patched(data, (found.end(), bytes(16)), (end, bytes(4)))  # and the checksum, which is not looked at
    return data


METADATA = b'{"keras_version": "3.9.2"}'


def keras(config: Any = None, weights: bytes | None = None, metadata: bytes = METADATA) -> bytes:
    """Return a .keras archive, compressed to keep the corpus small."""
    text = config if isinstance(config, bytes) else json.dumps(model() if config is None else config).encode()
    members = {"metadata.json": metadata, "config.json": text}
    return zipped({**members, "model.weights.h5": hdf5() if weights is None else weights}, zipfile.ZIP_DEFLATED)


def keras_h5(config: Any, version: str | bytes = b"2.15.0") -> bytes:
    """Return a legacy file; a version that is str is stored as text of variable length."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.attrs["keras_version"] = version
        file.attrs["backend"] = b"tensorflow"
        file.attrs["model_config"] = json.dumps(config).encode()
        weights = file.create_group("model_weights")
        weights.attrs["layer_names"] = [b"lstm"]
        weights.attrs["keras_version"] = b"2.15.0"
        names = ["lstm/kernel:0", "lstm/recurrent_kernel:0", "lstm/bias:0"]
        group = weights.create_group("lstm")
        group.attrs["weight_names"] = [name.encode() for name in names]
        for name, array in zip(names, (KERNEL, RECURRENT, BIAS), strict=True):
            group[name] = array
    return buffer.getvalue()


def legacy_model(*layers: Any) -> dict[str, Any]:
    """Return the configuration as Keras 2 writes it into a .h5 file: no modules."""

    def plain(entry: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in entry.items() if key in ("class_name", "config")}

    layers = (
        dict(plain(INPUT), config={**INPUT["config"], "batch_input_shape": [None, None, 1]}),
        plain(LSTM),
        *layers,
    )
    return {"class_name": "Sequential", "config": {"name": "sequential", "layers": list(layers)}}


def graph(*entries: dict[str, Any], ends: Any = None) -> dict[str, Any]:
    """Return the configuration of a Functional model."""
    config = {"name": "functional", "trainable": True, "layers": list(entries), "input_layers": [["input", 0, 0]]}
    config["output_layers"] = ends or [["lstm", 0, 0]]
    return {"module": "keras", "class_name": "Functional", "config": config, "registered_name": "Functional"}


def node(entry: dict[str, Any], source: str, call: int = 0, output: int = 0) -> dict[str, Any]:
    tensor = {
        "class_name": "__keras_tensor__",
        "config": {"shape": [None, None, 1], "keras_history": [source, call, output]},
    }
    return {**entry, "name": entry["config"]["name"], "inbound_nodes": [{"args": [tensor], "kwargs": {}}]}


SOURCE = {**INPUT, "name": "input", "inbound_nodes": []}


def config_attacks() -> dict[str, Any]:
    lambda_2 = {"function": CODE_2, "function_type": "lambda", "module": "__main__", "arguments": {}}
    wrapped = layer("Lambda", "code", function=CODE)
    return {
        "cve_2025_1550_module_os": model(layer("system", "x", "os", command="touch /tmp/pwned")),
        "cve_2025_1550_module_subprocess": model(layer("Popen", "x", "subprocess", args=["touch", "/tmp/pwned"])),
        "cve_2025_1550_function": model(
            {"module": "builtins", "class_name": "function", "config": "eval", "registered_name": "function"}
        ),
        "cve_2025_1550_in_activation": model(layer(
            "Activation", "x", activation={"module": "os", "class_name": "function", "config": "system"}
        )),
        "cve_2025_1550_in_initializer": {
            **model(), "config": {"name": "s", "layers": [INPUT, {**LSTM, "config": {
                **LSTM["config"], "activation": {"module": "builtins", "class_name": "function", "config": "exec"}
            }}]},
        },
        "cve_2025_1550_as_the_model": {"module": "os", "class_name": "system", "config": {}, "registered_name": None},
        "cve_2025_8747_get_file": model(layer("get_file", "x", "keras.utils", origin="http://localhost/evil")),
        "cve_2025_8747_get_file_as_operation": graph(
            SOURCE, node(layer("get_file", "lstm", "keras.ops", origin="http://localhost/evil"), "input")
        ),
        "cve_2025_8747_inner_module": model(layer("load_model", "x", "keras.src.saving.saving_api", filepath="/x")),
        "cve_2025_12058_vocabulary_path": model(layer("StringLookup", "x", vocabulary="/etc/passwd")),
        "cve_2024_3660_lambda": model(wrapped),
        "cve_2024_3660_lambda_keras_2": model(layer("Lambda", "code", **lambda_2)),
        "cve_2024_3660_lambda_of_a_name": model(
            layer("Lambda", "code", function="system", function_type="function", module="os")
        ),
        "cve_2024_3660_lambda_in_time_distributed": model(layer("TimeDistributed", "x", layer=wrapped)),
        "cve_2024_3660_lambda_in_bidirectional": model(layer("Bidirectional", "x", layer=wrapped, merge_mode="sum")),
        "cve_2024_3660_lambda_in_a_model": model(
            {**model(wrapped), "name": "inner", "config": {**model(wrapped)["config"], "name": "inner"}}
        ),
        "cve_2024_3660_lambda_as_activation": model(layer("Activation", "x", activation=CODE)),
        "cve_2024_3660_lambda_in_lstm": {
            **model(), "config": {"name": "s", "layers": [INPUT, {**LSTM, "config": {
                **LSTM["config"], "kernel_initializer": CODE
            }}]},
        },
        "cve_2024_3660_lambda_as_the_model": CODE,
        "custom_registered": model({**layer("Dense", "x", units=1), "registered_name": "Evil>Dense"}),
        "custom_module": model(layer("Dense", "x", "evil.layers", units=1)),
        "custom_package_like_keras": model(layer("Dense", "x", "keras_evil.layers", units=1)),
        "custom_model": {**model(), "module": "evil", "class_name": "Evil", "registered_name": "Evil>Evil"},
        "class_tfsm_layer": model(layer("TFSMLayer", "x", filepath="/evil")),
        "class_torch_module_wrapper": model(layer("TorchModuleWrapper", "x", module="AAAA")),
        "class_jax_layer": model(layer("JaxLayer", "x", call_fn=CODE)),
        "class_conv_lstm": model(layer("ConvLSTM2D", "x", filters=1)),
        "class_no_text": model({**layer("Dense", "x"), "class_name": ["Dense"]}),
        "class_dunder": model(layer("__class__", "x")),
        "name_no_text": model(layer("Dense", 3, units=1)),  # type: ignore[arg-type]
        "name_endless": model(layer("Dense", "x" * 5000, units=1)),
        "name_twice": model(layer("Dropout", "lstm", rate=0.5)),
        "units_huge": {**model(), "config": {"name": "s", "layers": [INPUT, {**LSTM, "config": {
            **LSTM["config"], "units": 1 << 60
        }}]}},
        "units_negative": {**model(), "config": {"name": "s", "layers": [INPUT, {**LSTM, "config": {
            **LSTM["config"], "units": -1
        }}]}},
        "units_true": {**model(), "config": {"name": "s", "layers": [INPUT, {**LSTM, "config": {
            **LSTM["config"], "units": True
        }}]}},
        "option_unknown": {**model(), "config": {"name": "s", "layers": [INPUT, {**LSTM, "config": {
            **LSTM["config"], "activation": "evil"
        }}]}},
        "repeat_bomb": model(layer("GlobalAveragePooling1D", "p"), layer("RepeatVector", "x", n=1 << 50)),
        "input_shape_negative": {**model(), "config": {"name": "s", "layers": [
            {**INPUT, "config": {**INPUT["config"], "batch_shape": [None, -1, 1]}}, LSTM
        ]}},
        "dtype_of_a_list": {**model(), "config": {"name": "s", "layers": [INPUT, {**LSTM, "config": {
            **LSTM["config"], "dtype": {"class_name": ["DTypePolicy"], "config": {}}
        }}]}},
        "graph_nodes_no_list": graph({**SOURCE, "inbound_nodes": 3}, node(LSTM, "nowhere")),
        "graph_attention_without_inputs": graph(
            SOURCE,
            {**node(layer("Attention", "lstm"), "input"), "inbound_nodes": [{"args": [[]], "kwargs": {}}]},
        ),
        "layers_missing": {**model(), "config": {"name": "s"}},
        "layers_no_objects": {**model(), "config": {"name": "s", "layers": [INPUT, 3, None]}},
        "graph_cycle": graph(SOURCE, node(LSTM, "lstm")),
        "graph_cycle_of_two": graph(
            SOURCE, node(LSTM, "other"), node(layer("Dropout", "other", rate=0.1), "lstm")
        ),
        "graph_source_missing": graph(SOURCE, node(LSTM, "nowhere")),
        "graph_call_missing": graph(SOURCE, node(LSTM, "input", 7)),
        "graph_output_missing": graph(SOURCE, node(LSTM, "input", 0, 7)),
        "graph_output_negative": graph(SOURCE, node(LSTM, "input", 0, -1)),
        "graph_end_missing": graph(SOURCE, node(LSTM, "input"), ends=[["nowhere", 0, 0]]),
        "json_list": [],
        "json_deep": b'{"class_name": "Sequential", "config": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
        "json_deep_objects": b'{"a":' * 500 + b"1" + b"}" * 500,
        "json_key_twice": b'{"class_name": "Sequential", "class_name": "Lambda", "config": {}}',
        "json_key_twice_escaped": b'{"class_name": "Sequential", "class\\u005fname": "Lambda", "config": {}}',
        "json_nan": json.dumps(model(layer("Dropout", "x", rate=float("nan")))).encode(),
        "json_infinity": json.dumps(model(layer("Dropout", "x", rate=float("-inf")))).encode(),
        "json_number_too_large": json.dumps(model(layer("Dropout", "x", rate=77))).encode().replace(b"77", b"1e999"),
        "json_number_of_many_digits": json.dumps(model(layer("Dropout", "x", rate=77))).encode().replace(
            b"77", b"7" * 6000
        ),
        "json_integer_too_large": json.dumps(model(layer("Dropout", "x", rate=77))).encode().replace(b"77", b"7" * 400),
        "json_not_utf8": b'{"class_name": "\xff"}',
        "json_of_utf16": json.dumps(model()).encode("utf-16"),
        "json_truncated": json.dumps(model()).encode()[:-2],
        "json_surplus": json.dumps(model()).encode() + b"{}",
        "json_empty": b"",
    }  # fmt: skip


PATH = "layers/lstm/cell/vars"


def replaced(make: Callable[[h5py.Group], Any], **settings: Any) -> bytes:
    """Return weights whose kernel is made anew."""

    def change(file: h5py.File) -> None:
        del file[PATH]["0"]
        make(file[PATH])

    return hdf5(change, **settings)


def virtual(group: h5py.Group) -> None:
    layout = h5py.VirtualLayout((1, 4), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "x", (1, 4))
    group.create_virtual_dataset("0", layout)


def raw_chunk(group: h5py.Group, raw: bytes) -> None:
    """Store a chunk as it is given, as if gzip had made it."""
    dataset = group.create_dataset("0", (1, 4), "f4", chunks=(1, 4), compression="gzip")
    dataset.id.write_direct_chunk((0, 0), raw)


def linked(number: int, text: bytes) -> bytes:
    """Return weights with a link message whose type is overwritten."""
    data = replaced(lambda group: group.__setitem__("0", h5py.SoftLink(text.decode())), libver="latest")
    # The message: version, flags, type (1: soft), name of one byte, length of the target.
    place = data.index(struct.pack("<H", len(text)) + text)
    before = data.rindex(b"\x01", 0, place - 2)
    return patched(data, (before, bytes([number])))


def hdf5_attacks() -> dict[str, bytes]:
    base = hdf5()
    tree = base.index(b"TREE")
    node_of_symbols = base.index(b"SNOD")
    heap = base.index(b"HEAP")
    (end,) = struct.unpack_from("<Q", base, 40)
    # A group whose header does not fit into its first block: the rest hangs on a continuation message.
    continued = hdf5(lambda file: [file[PATH].attrs.__setitem__(f"attribute {n}", "x" * 40) for n in range(8)])
    message = next(
        place
        for place in range(0, len(continued) - 24, 8)
        if continued[place : place + 4] == b"\x10\x00\x10\x00" and continued[place + 5 : place + 8] == bytes(3)
    )
    chunked = replaced(lambda group: group.create_dataset("0", data=KERNEL, chunks=(1, 1)))
    chunk_tree = next(place for place in range(len(chunked)) if chunked[place : place + 5] == b"TREE\x01")
    wrong = KERNEL.copy()
    wrong[0, 1] = np.nan
    return {
        "link_external": replaced(lambda g: g.__setitem__("0", h5py.ExternalLink("/etc/passwd", "/x"))),
        "link_external_to_itself": replaced(lambda g: g.__setitem__("0", h5py.ExternalLink(".", "/" + PATH + "/1"))),
        "link_soft": replaced(lambda g: g.__setitem__("0", h5py.SoftLink("/" + PATH + "/1"))),
        "link_soft_to_itself": replaced(lambda g: g.__setitem__("0", h5py.SoftLink("/" + PATH + "/0"))),
        "link_soft_group": hdf5(
            lambda file: (file.move("layers", "x"), file.__setitem__("layers", h5py.SoftLink("/x")))
        ),
        "link_soft_latest": linked(1, b"/elsewhere"),
        "link_user_defined": linked(65, b"/elsewhere"),
        "external_storage": replaced(
            lambda g: g.create_dataset("0", (1, 4), "f4", external=[("/etc/passwd", 0, 16)])
        ),
        "virtual_dataset": replaced(virtual),
        "filter_lzf": replaced(lambda g: g.create_dataset("0", data=KERNEL, compression="lzf")),
        "filter_scaleoffset": replaced(lambda g: g.create_dataset("0", data=KERNEL, scaleoffset=2, chunks=(1, 4))),
        "filter_fletcher32": replaced(lambda g: g.create_dataset("0", data=KERNEL, fletcher32=True)),
        "cve_2026_0897_shape_bomb": replaced(
            lambda g: g.create_dataset("0", (1 << 40, 4), "f4", chunks=(1 << 16, 4), compression="gzip")
        ),
        "shape_bomb_contiguous": replaced(lambda g: g.create_dataset("0", (1 << 40, 4), "f4")),
        "shape_bomb_behind_a_zero": replaced(lambda g: g.create_dataset("0", (0, 1 << 60), "f4")),
        "shape_of_an_unwritten_one": replaced(lambda g: g.create_dataset("0", (1, 4), "f4")),
        "shape_differs": replaced(lambda g: g.create_dataset("0", data=np.ones((1, 8), "f4"))),
        "chunk_unpacks_to_more": replaced(lambda g: raw_chunk(g, zlib.compress(bytes(1 << 21)))),
        "chunk_unpacks_to_less": replaced(lambda g: raw_chunk(g, zlib.compress(bytes(8)))),
        "chunk_no_gzip": replaced(lambda g: raw_chunk(g, b"no gzip")),
        "chunk_missing": replaced(lambda g: g.create_dataset("0", (1, 4), "f4", chunks=(1, 2)).__setitem__((0, 0), 1)),
        "type_group": replaced(lambda g: g.create_group("0")),
        "type_dataset_for_a_group": hdf5(
            lambda file: (file.__delitem__("layers/lstm/cell"), file.__setitem__("layers/lstm/cell", KERNEL))
        ),
        "type_named": replaced(lambda g: g.__setitem__("0", np.dtype("f4"))),
        "type_text": replaced(lambda g: g.__setitem__("0", ["a", "b"])),
        "type_compound": replaced(lambda g: g.__setitem__("0", np.zeros((1, 4), [("a", "f4")]))),
        "type_reference": replaced(lambda g: g.create_dataset("0", (1, 4), h5py.ref_dtype)),
        "type_integers": replaced(lambda g: g.__setitem__("0", KERNEL.astype("i4"))),
        "type_null": replaced(lambda g: g.__setitem__("0", h5py.Empty("f4"))),
        "type_long_double": replaced(lambda g: g.__setitem__("0", KERNEL.astype("longdouble"))),
        "attribute_dtype_unknown": replaced(
            lambda g: (g.__setitem__("0", KERNEL), g["0"].attrs.__setitem__("dtype", "float8"))
        ),
        "signature_damaged": patched(base, (1, b"X")),
        "superblock_version": patched(base, (8, b"\x09")),
        "superblock_addresses_of_4": patched(base, (13, b"\x04")),
        "superblock_end_past_the_file": patched(base, (40, struct.pack("<Q", end + (1 << 40)))),
        "superblock_base_elsewhere": patched(base, (24, struct.pack("<Q", 8))),
        "superblock_root_elsewhere": patched(base, (64, struct.pack("<Q", 1 << 60))),
        "tree_cycle": patched(base, (tree + 5, b"\x01"), (tree + 32, struct.pack("<Q", tree))),
        "tree_cycle_of_many": patched(
            base, (tree + 5, b"\xff\xff\xff"), (tree + 32, struct.pack("<Q", tree))
        ),
        "tree_of_another_kind": patched(base, (tree + 4, b"\x01")),
        "chunk_tree_cycle": patched(
            chunked, (chunk_tree + 5, b"\x01"), (chunk_tree + 56, struct.pack("<Q", chunk_tree))
        ),
        "symbols_past_the_file": patched(base, (node_of_symbols + 6, b"\xff\xff")),
        "heap_past_the_file": patched(base, (heap + 8, struct.pack("<Q", 1 << 60))),
        "continuation_to_itself": patched(
            continued, (message + 8, struct.pack("<QQ", message, 24))
        ),
        "continuation_past_the_file": patched(continued, (message + 8, struct.pack("<QQ", 1 << 60, 24))),
        "continuation_of_exabytes": patched(continued, (message + 16, struct.pack("<Q", 1 << 60))),
        "weight_nan": replaced(lambda g: g.__setitem__("0", wrong)),
        "weight_inf": replaced(lambda g: g.__setitem__("0", KERNEL * np.float32(np.inf))),
        "weight_missing": hdf5(lambda file: file[PATH].__delitem__("2")),
        "weight_too_many": hdf5(lambda file: file[PATH].__setitem__("3", BIAS)),
        "truncated": base[: len(base) // 2],
        "empty": b"",
    }  # fmt: skip


def keras_corpus() -> dict[str, bytes]:
    base = keras()
    members = {"metadata.json": METADATA, "config.json": json.dumps(model()).encode(), "model.weights.h5": hdf5()}
    files = {f"n_keras_config_{name}.keras": keras(config) for name, config in config_attacks().items()}
    files |= {f"n_hdf5_{name}.keras": keras(weights=weights) for name, weights in hdf5_attacks().items()}
    shared = zip_attacks(base, "metadata.json", "model.weights.h5")
    files |= {f"n_keras_zip_{name}.keras": data for name, data in shared.items()}
    lambda_2 = {"class_name": "Lambda", "config": {"name": "code", "function": CODE_2, "function_type": "lambda"}}
    small = keras(metadata=b" " * 10_000 + METADATA)
    quiet = directory_entry(small, "metadata.json")
    texts = keras_h5(legacy_model(), "2.15.0")
    collection = texts.index(b"GCOL")
    files |= {
        "n_hdf5_heap_object_of_no_size.h5": patched(texts, (collection + 24, bytes(8))),
        "n_hdf5_heap_object_of_exabytes.h5": patched(texts, (collection + 24, struct.pack("<Q", 1 << 60))),
        "n_hdf5_heap_of_no_size.h5": patched(texts, (collection + 8, bytes(8))),
        "n_hdf5_heap_of_exabytes.h5": patched(texts, (collection + 8, struct.pack("<Q", 1 << 60))),
        "y_keras_legacy_text.h5": texts,
        "n_keras_cve_2025_9905_lambda.h5": keras_h5(legacy_model(lambda_2)),
        "n_keras_cve_2025_9905_custom.h5": keras_h5(legacy_model({"class_name": "Evil", "config": {"name": "x"}})),
        "n_keras_zip_bomb.keras": zipped({**members, "assets/bomb": bytes(1 << 27)}, zipfile.ZIP_LZMA),
        "n_keras_zip_bomb_stored.keras": bomb(members),
        "n_keras_zip_unpacks_to_more.keras": patched(
            small,
            (quiet + 24, struct.pack("<I", 100)),
            (local_header(small, "metadata.json") + 22, struct.pack("<I", 100)),
        ),
        "n_keras_zip_checksum.keras": patched(base, (quiet_place(base), b"\xff\xff\xff\xff")),
        "n_keras_npz_no_archive.keras": npz(members, b"PK"),
        "n_keras_npz_reduce.keras": npz(members, zipped({"lstm.npy": objects(called("os", "system", LINE))})),
        "n_keras_npz_traversal.keras": npz(members, zipped({"../lstm.npy": b""})),
        "n_keras_npz_plain_array.keras": npz(members, zipped({"lstm.npy": b"\x93NUMPY\x01\x00" + bytes(120)})),
        "n_keras_npz_bomb.keras": npz(members, zipped({"lstm.npy": bytes(1 << 20)}, zipfile.ZIP_LZMA)),
        "n_keras_zip_weights_json.keras": zipped(
            {key: members[key] for key in ("metadata.json", "config.json")} | {"model.weights.json": b"{}"}
        ),
        "n_keras_zip_no_metadata.keras": zipped(
            {name: data for name, data in members.items() if name != "metadata.json"}
        ),
        "n_keras_metadata_no_version.keras": keras(metadata=b"{}"),
        "n_keras_metadata_version_escape.keras": keras(metadata=b'{"keras_version": "\\u001b[2J"}'),
        "n_keras_metadata_version_twice.keras": keras(metadata=b'{"keras_version": "3.0", "keras_version": "2.0"}'),
        "n_keras_metadata_deep.keras": keras(metadata=b"[" * 5000 + b"]" * 5000),
        "y_keras_plain.keras": base,
        "y_keras_stored.keras": zipped(members),
        "y_keras_more_members.keras": zipped({**members, "assets/vocabulary.txt": b"a\nb\n"}, zipfile.ZIP_DEFLATED),
        "y_keras_functional.keras": keras(graph(SOURCE, node(LSTM, "input"))),
        "n_hdf5_group_in_itself.keras": keras(
            weights=hdf5(lambda file: file["layers"].__setitem__("again", file["layers"]))
        ),
        "y_keras_unused_group_in_itself.keras": keras(
            weights=hdf5(lambda file: file.create_group("optimizer").__setitem__("again", file["optimizer"]))
        ),
        "y_keras_compressed_weights.keras": keras(weights=replaced(
            lambda g: g.create_dataset("0", data=KERNEL, chunks=(1, 2), compression="gzip", shuffle=True)
        )),
        "y_keras_big_endian.keras": keras(weights=replaced(lambda g: g.create_dataset("0", data=KERNEL.astype(">f4")))),
        "y_keras_unused_soft_link.keras": keras(
            weights=hdf5(lambda file: file.__setitem__("elsewhere", h5py.SoftLink("/nowhere")))
        ),
        "y_keras_nested_100_deep.keras": keras({**model(), "compile_config": nested_lists(100)}),
        "y_keras_legacy.h5": keras_h5(legacy_model()),
    }  # fmt: skip
    return files


def npz(members: Mapping[str, bytes], weights: bytes) -> bytes:
    """Return an archive whose weights are NumPy's, which are pickled."""
    kept = {name: data for name, data in members.items() if name.endswith(".json")}
    return zipped({**kept, "model.weights.npz": weights}, zipfile.ZIP_DEFLATED)


def objects(body: bytes) -> bytes:
    """Return an .npy file of one object."""
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (), }\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + made.pickled(body)


def nested_lists(depth: int) -> list[Any]:
    result: list[Any] = []
    for _ in range(depth):
        result = [result]
    return result


def quiet_place(data: bytes) -> int:
    """Return where the checksum of the configuration stands in the directory."""
    return directory_entry(data, "config.json") + 16


def bomb(members: Mapping[str, bytes]) -> bytes:
    """Return an archive with a member that says that it unpacks to four gigabytes."""
    data = zipped({**members, "assets/bomb": bytes(1 << 12)}, zipfile.ZIP_DEFLATED)
    return patched(data, (directory_entry(data, "assets/bomb") + 24, b"\xfe\xff\xff\xff"))


# --- ONNX -------------------------------------------------------------------------------------------------------------


def onnx_corpus() -> dict[str, bytes]:
    """Return those of the ONNX attacks that are small; test_onnx_attacks.py has the others too."""
    made_of = {f"n_onnx_{name}.onnx": attack.make() for name, attack in onnx_attacks.ATTACKS.items()}
    order = [0, 3, 1, 2]  # of the gates in ONNX: input, output, forget, cell
    weights = {
        "W": KERNEL.T[None, order],
        "R": RECURRENT.T[None, order],
        "B": np.concatenate([BIAS[order], np.zeros(4, "f4")])[None],
    }
    graph = helper.make_graph(
        [
            helper.make_node("LSTM", ["x", *weights], ["Y"], hidden_size=1, layout=1),
            helper.make_node("Squeeze", ["Y", "axes"], ["y"]),
        ],
        "lstm",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "time", 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "time", 1])],
        [
            *(numpy_helper.from_array(array, name) for name, array in weights.items()),
            numpy_helper.from_array(np.array([2]), "axes"),
        ],
    )
    sound = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return {name: data for name, data in made_of.items() if len(data) < 1 << 14} | {
        "y_onnx_plain.onnx": sound.SerializeToString()
    }


def corpus() -> dict[str, bytes]:
    """Return all files by name."""
    return {**torch_corpus(), **safetensors_corpus(), **keras_corpus(), **onnx_corpus()}


def main() -> None:
    for place in [*HERE.glob("n_*"), *HERE.glob("y_*")]:
        place.unlink()
    files = corpus()
    for name, data in files.items():
        (HERE / name).write_bytes(data)
    print(f"{len(files)} files, {sum(map(len, files.values())):,} bytes, the largest {max(map(len, files.values())):,}")


if __name__ == "__main__":
    sys.exit(main())
