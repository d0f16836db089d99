"""Fuzz safetensors files."""

from __future__ import annotations

from fuzzing import atheris, fixtures, fuzz

with atheris.instrument_imports(include=["lstm_engine"]):
    from lstm_engine.formats.safetensors_file import read_safetensors_bytes
    from lstm_engine.formats.tensor_file import TensorFile
    from lstm_engine.formats.torch_modules import find_modules


def read(data: bytes) -> None:
    tensors, unsupported, metadata = read_safetensors_bytes(data, "fuzzed.safetensors")
    find_modules(TensorFile("fuzzed.safetensors", "safetensors", tensors, unsupported, metadata))


if __name__ == "__main__":
    fuzz(read, fixtures("*.safetensors"))
