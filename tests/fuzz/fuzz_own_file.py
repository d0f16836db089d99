"""Fuzz our own format: the header of a safetensors file with an architecture in its metadata."""

from __future__ import annotations

import json
import struct
import tempfile
from pathlib import Path

from fuzzing import ROOT, atheris, fuzz, mutated_json

with atheris.instrument_imports(include=["lstm_engine"]):
    import lstm_engine as le
    import lstm_engine.builder  # which loading imports late, and all layers with it
    import lstm_engine.formats.own_file
    import lstm_engine.loading
    import lstm_engine.saving

PLACE = Path(tempfile.mkdtemp(prefix="fuzz_")) / "fuzzed.safetensors"


def saved(source: Path) -> tuple[dict[str, object], bytes]:
    """Return header and tensors of a model in our own format, its architecture as a tree in place of its text."""
    le.load(source).save(PLACE)
    data = PLACE.read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"]["architecture"] = json.loads(header["__metadata__"]["architecture"])
    return header, data[8 + length :]


SOURCES = [
    saved(path)
    for path in (
        *sorted((ROOT / "tests" / "formats").glob("y_keras_*.keras")),
        *sorted((ROOT / "tests" / "fixtures" / "keras").glob("*.keras")),
        *sorted((ROOT / "tests" / "formats").glob("y_onnx_*.onnx")),
    )
    if path.stat().st_size < 1 << 16
]
HEADERS = [header for header, _ in SOURCES]


def read(data: bytes) -> None:
    # The first byte chooses the tensors.
    header = data[1:]
    try:
        tree = json.loads(header)
        tree["__metadata__"]["architecture"] = json.dumps(tree["__metadata__"]["architecture"])
        header = json.dumps(tree).encode()
    except (ValueError, TypeError, KeyError, RecursionError):
        pass  # then it is read as it is
    tensors = SOURCES[data[0] % len(SOURCES)][1] if data else b""
    PLACE.write_bytes(struct.pack("<Q", len(header)) + header + tensors)
    le.load(PLACE)


def mutate(data: bytes, most_bytes: int, seed: int) -> bytes:
    return (data[:1] + mutated_json(data[1:], HEADERS, seed))[:most_bytes]


if __name__ == "__main__":
    fuzz(read, [bytes([number]) + json.dumps(header).encode() for number, header in enumerate(HEADERS)], mutate)
