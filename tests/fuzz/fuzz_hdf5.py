"""Fuzz the HDF5 reader: a legacy Keras file, and every group, attribute and dataset that can be reached in it."""

from __future__ import annotations

import contextlib
import io

import h5py
import numpy as np
from fuzzing import atheris, fixtures, fuzz

with atheris.instrument_imports(include=["lstm_engine"]):
    from lstm_engine.errors import LstmEngineError
    from lstm_engine.formats.hdf5 import HDF5File, HDF5Group
    from lstm_engine.formats.keras_h5 import read_keras_h5


def walk(group: HDF5Group, depth: int = 0) -> None:
    """Read everything below a group; a part that is refused does not keep the next one from being read."""
    for name in ("layer_names", "weight_names", "text"):
        with contextlib.suppress(LstmEngineError):
            group.text_list(name)
    for name in group.names()[:32]:
        with contextlib.suppress(LstmEngineError):
            group.array(name)
        try:
            inner = group.group(name)
        except LstmEngineError:
            continue
        if depth < 4:
            walk(inner, depth + 1)


def read(data: bytes) -> None:
    with contextlib.suppress(LstmEngineError):
        read_keras_h5(data, "fuzzed.h5")
    walk(HDF5File(data, "fuzzed.h5").root)


def seeds() -> list[bytes]:
    """Return small files with every structure that is read."""
    made = []
    for settings in ({}, {"libver": "latest"}, {"track_order": True}):
        buffer = io.BytesIO()
        with h5py.File(buffer, "w", **settings) as file:
            file.attrs["text"] = "of variable length"
            file.attrs["layer_names"] = [b"one", b"two"]
            file["a/b"] = np.arange(6, dtype="f4").reshape(2, 3)
            file.create_dataset("packed", data=np.arange(24.0), chunks=(5,), compression="gzip", shuffle=True)
            for number in range(12):
                file[f"many/ü{number}"] = np.float16(number)
                file["a"].attrs[f"attribute {number}"] = number
        made.append(buffer.getvalue())
    return made + fixtures("*.h5")


if __name__ == "__main__":
    fuzz(read, seeds())
