"""Hostile files of safetensors."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch_attacks import STORAGES, WEIGHTS


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
