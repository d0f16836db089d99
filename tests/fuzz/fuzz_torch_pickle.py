"""Fuzz the pickle of a .pt file, from its opcodes to the named tensors."""

from __future__ import annotations

import io
import zipfile

from fuzzing import atheris, fixtures, fuzz
from fuzzing import torch_support as made

with atheris.instrument_imports(include=["lstm_engine"]):
    from lstm_engine.formats.tensor_file import TensorFile, flatten
    from lstm_engine.formats.torch_file import read_torch_bytes
    from lstm_engine.formats.torch_modules import find_modules


def read(data: bytes) -> None:
    storages = {str(number): bytes(64) for number in range(4)}
    body = made.archive(b"", storages)
    # The support's archive frames its pickle; here the pickle is the fuzzer's own.
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(body)) as source, zipfile.ZipFile(buffer, "w") as target:
        for name in source.namelist():
            target.writestr(name, data if name.endswith("data.pkl") else source.read(name))
    saved = read_torch_bytes(buffer.getvalue(), "fuzzed.pt")
    find_modules(TensorFile("fuzzed.pt", "torch", *flatten(saved, "fuzzed.pt")))


def seeds() -> list[bytes]:
    pickles = [made.pickled(made.mapping(w=made.tensor((2, 2), (1, 2)), b=made.tensor())), made.pickled(made.laughs(3))]
    for archive in fixtures("*.pt"):
        if archive.startswith(b"PK"):
            try:
                with zipfile.ZipFile(io.BytesIO(archive)) as opened:
                    pickles += [opened.read(name) for name in opened.namelist() if name.endswith("/data.pkl")]
            except zipfile.BadZipFile:  # PyTorch can leave its checksums out
                pass
    return pickles


if __name__ == "__main__":
    fuzz(read, seeds())
