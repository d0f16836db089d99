"""Hostile files of Keras: configurations that ask for code or for too much, and damage to the files around them."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np
import torch_support as made
from archive_attacks import directory_entry, local_header, patched, zip_attacks, zipped
from attacked_model import BIAS, KERNEL, RECURRENT
from hdf5_attacks import hdf5, hdf5_attacks, replaced
from torch_attacks import LINE, called


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


def names_of_no_bytes(parts: int) -> bytes:
    """Return a legacy file whose list of layers has 65,536 names in each of its parts, and no bytes for any."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.attrs["model_config"] = json.dumps(legacy_model()).encode()
        weights = file.create_group("model_weights")
        for part in range(parts):
            weights.attrs[f"layer_names{part}"] = np.array([b"x"], "S7")
    of_seven, of_none = (struct.pack("<BBHI", 0x13, 1, 0, size) for size in (7, 0))
    one, many = (struct.pack("<IIQ", 0x10101, 0, size) for size in (1, 65536))
    return buffer.getvalue().replace(of_seven, of_none).replace(one, many)


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


def idle(inputs: int) -> dict[str, Any]:
    """Return a model in a layer's place that gives back its first input."""
    names = [f"input {number}" for number in range(inputs)]
    ends = [{**SOURCE, "name": name, "config": {**SOURCE["config"], "name": name}} for name in names]
    references = [[name, 0, 0] for name in names]
    config = {"name": "idle", "layers": ends, "input_layers": references, "output_layers": references[:1]}
    return {"class_name": "Functional", "name": "idle", "config": config}


IDLE = idle(1)


def stacked(cells: int, calls: int) -> dict[str, Any]:
    """Return an RNN of so many cells that gives back the states of them all."""
    stack = {"name": "stack", "cells": [{"class_name": "LSTMCell", "config": {"name": "cell", "units": 1}}] * cells}
    entry = layer("RNN", "cells", cell={"class_name": "StackedRNNCells", "config": stack}, return_state=True)
    return {**entry, "name": "cells", "inbound_nodes": [[["input", 0, 0, {}]]] * calls}


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
        "graph_chain_of_models_that_do_nothing": graph(
            SOURCE,
            {**IDLE, "inbound_nodes": [[["input", 0, 0, {}]], *([["idle", call, 0, {}]] for call in range(3999))]},
            {**layer("Dropout", "lstm", rate=0.1), "name": "lstm", "inbound_nodes": [[["idle", 3999, 0, {}]]] * 4000},
        ),
        "graph_inputs_by_no_name": graph(
            SOURCE, {**idle(2000), "inbound_nodes": [{"args": [{}], "kwargs": {}}] * 6000}
        ),
        "graph_states_of_many_cells": graph(
            SOURCE, stacked(4000, calls=1), {**node(layer("Dropout", "lstm", rate=0.1), "input"), "inbound_nodes": [
                [["cells", 0, 0, {}]]
            ] * 12_000},
        ),
        "graph_states_without_end": graph(SOURCE, stacked(1000, calls=1000), node(LSTM, "input")),
        "layers_without_end": b'{"class_name": "Sequential", "config": {"layers": [' + b"1," * 1_000_000 + b"1]}}",
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
        "json_half_of_a_surrogate_pair": model(layer("Dropout", "\ud800", rate=0.5)),
        "json_not_utf8": b'{"class_name": "\xff"}',
        "json_of_utf16": json.dumps(model()).encode("utf-16"),
        "json_truncated": json.dumps(model()).encode()[:-2],
        "json_surplus": json.dumps(model()).encode() + b"{}",
        "json_empty": b"",
        "json_bomb": b'{"a": [' + b"[]," * 1_500_000 + b"0]}",
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
        "n_hdf5_names_of_no_bytes.h5": names_of_no_bytes(300),
        "n_hdf5_heap_object_of_no_size.h5": patched(texts, (collection + 24, bytes(8))),
        "n_hdf5_heap_object_of_exabytes.h5": patched(texts, (collection + 24, struct.pack("<Q", 1 << 60))),
        "n_hdf5_heap_of_no_size.h5": patched(texts, (collection + 8, bytes(8))),
        "n_hdf5_heap_of_exabytes.h5": patched(texts, (collection + 8, struct.pack("<Q", 1 << 60))),
        "y_keras_legacy_text.h5": texts,
        "n_keras_packed_bomb.keras": packed_bomb(6_000_000),
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
        "n_keras_npz_bomb_of_many_members.keras": npz(
            members, zipped({f"layers/{number}.npy": bytes(1 << 24) for number in range(4)}, zipfile.ZIP_DEFLATED)
        ),
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
        "y_keras_long_chain.keras": keras(
            model(*(layer("Dropout", f"layer {number}", rate=0.1) for number in range(8000)))
        ),
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


def packed_bomb(features: int) -> bytes:
    """Return a dense layer of one unit, whose weights fill a sixteenth of the columns that they are packed in."""
    entry = {**INPUT, "config": {**INPUT["config"], "batch_shape": [None, features]}}
    dense = layer("Dense", "dense", units=1, activation="linear", use_bias=False)
    dense["build_config"] = {"input_shape": [None, features]}
    config = {**model(), "config": {"name": "sequential", "layers": [entry, dense]}}
    settings = {"chunks": (1 << 20, 1), "compression": "gzip"}
    return keras(config, hdf5(lambda file: (file.__delitem__("layers"), file.create_dataset(
        "layers/dense/vars/0", data=np.zeros((features, 1), "f4"), **settings
    ))))  # fmt: skip


def quiet_place(data: bytes) -> int:
    """Return where the checksum of the configuration stands in the directory."""
    return directory_entry(data, "config.json") + 16


def bomb(members: Mapping[str, bytes]) -> bytes:
    """Return an archive with a member that says that it unpacks to four gigabytes."""
    data = zipped({**members, "assets/bomb": bytes(1 << 12)}, zipfile.ZIP_DEFLATED)
    return patched(data, (directory_entry(data, "assets/bomb") + 24, b"\xfe\xff\xff\xff"))
