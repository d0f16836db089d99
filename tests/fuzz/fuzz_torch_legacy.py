"""Fuzz the .pt files of PyTorch before 1.6: several pickles, then raw storages."""

from __future__ import annotations

from fuzzing import atheris, fixtures, fuzz

with atheris.instrument_imports(include=["lstm_engine"]):
    from lstm_engine.formats.tensor_file import flatten
    from lstm_engine.formats.torch_file import read_torch_bytes


def read(data: bytes) -> None:
    if not data.startswith(b"PK"):
        flatten(read_torch_bytes(data, "fuzzed.pt"), "fuzzed.pt")


def seeds() -> list[bytes]:
    return [data for data in fixtures("*.pt") if not data.startswith(b"PK")]


if __name__ == "__main__":
    fuzz(read, seeds())
