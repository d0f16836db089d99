"""Fuzz the archives: the directory and the headers of a .keras and of a .pt file."""

from __future__ import annotations

import contextlib

from fuzzing import atheris, fixtures, fuzz, keras_support, torch_support

with atheris.instrument_imports(include=["lstm_engine", "zipfile"]):
    from lstm_engine.errors import LstmEngineError
    from lstm_engine.formats.keras_zip import read_keras_archive
    from lstm_engine.formats.torch_file import read_torch_bytes


def read(data: bytes) -> None:
    with contextlib.suppress(LstmEngineError):
        read_keras_archive(data, "fuzzed.keras")
    read_torch_bytes(b"PK\x03\x04" + data[4:], "fuzzed.pt")


def seeds() -> list[bytes]:
    plain = torch_support.archive(torch_support.mapping(w=torch_support.tensor()))
    small = keras_support.archive_of({"config.json": b"{}", "metadata.json": b"{}", "model.weights.h5": b"x"}, 8)
    return [plain, small, *fixtures("*.pt", 1 << 12)]


if __name__ == "__main__":
    fuzz(read, seeds())
