"""Fuzz ONNX files, from the protobuf to a model that is ready to run."""

from __future__ import annotations

from fuzzing import atheris, fixtures, fuzz

with atheris.instrument_imports(include=["lstm_engine"]):
    from lstm_engine.formats.onnx import read_onnx_bytes
    from lstm_engine.onnx.model import build_onnx_model


def read(data: bytes) -> None:
    build_onnx_model(read_onnx_bytes(data, "fuzzed.onnx"))


if __name__ == "__main__":
    fuzz(read, fixtures("*.onnx"))
