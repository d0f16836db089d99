"""The recorded Keras files, and Keras files made by hand."""

from __future__ import annotations

import functools
import io
import json
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from lstm_engine.description import LayerDescription, ModelDescription
from lstm_engine.formats.keras_h5 import read_keras_h5
from lstm_engine.formats.keras_zip import read_keras_archive

DATA = Path(__file__).parent / "data" / "keras"
WRITERS = sorted(path.name.removesuffix(".tar.xz") for path in DATA.glob("*.tar.xz"))


@functools.cache
def recorded(writer: str) -> Mapping[str, bytes]:
    """Return the files that one release of Keras wrote, by name."""
    with tarfile.open(DATA / f"{writer}.tar.xz") as archive:
        return {member.name: archive.extractfile(member).read() for member in archive.getmembers()}  # type: ignore[union-attr]


def expected(writer: str) -> dict[str, Any]:
    """Return what the framework says about the models that it wrote."""
    found: dict[str, Any] = json.loads(recorded(writer)["expected.json"])
    return found


def model_files(*writers: str) -> list[tuple[str, str]]:
    """Return (writer, file name) of every recorded model file."""
    return [
        (writer, name)
        for writer in writers or WRITERS
        for name in sorted(recorded(writer))
        if name.endswith((".keras", ".h5"))
    ]


def read(data: bytes, name: str = "model.keras") -> ModelDescription:
    """Read a Keras file's bytes."""
    return (read_keras_h5 if name.endswith(".h5") else read_keras_archive)(data, name)


def parts_of(layer: LayerDescription, roles: str = "") -> Iterator[tuple[str, LayerDescription]]:
    """Iterate over a layer and those that it wraps, each with its roles."""
    yield roles, layer
    for role, wrapped in layer.inner.items():
        yield from parts_of(wrapped, f"{roles}{role}/")


def weights_of(model: ModelDescription) -> dict[str, np.ndarray]:
    """Return all weights by layer, roles and name."""
    return {
        f"{layer.name}/{roles}{name}": array
        for layer in model.layers
        for roles, part in parts_of(layer)
        for name, array in part.weights.items()
    }


# --- Files made by hand -----------------------------------------------------------------------------------------------


def members_of(archive: bytes) -> dict[str, bytes]:
    """Return the members of a .keras archive."""
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def archive_of(members: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """Return a zip archive of these members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def with_config(archive: bytes, config: Any) -> bytes:
    """Return a .keras archive with another configuration."""
    text = config if isinstance(config, bytes) else json.dumps(config).encode()
    return archive_of({**members_of(archive), "config.json": text})


def hdf5_of(arrays: Mapping[str, Any], **settings: Any) -> bytes:
    """Return an HDF5 file with these datasets."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", **settings) as file:
        for path, array in arrays.items():
            file[path] = array
    return buffer.getvalue()


def layer(kind: str, name: str, inbound: Any = None, *, module: str = "keras.layers", **config: Any) -> dict[str, Any]:
    """Return the configuration of one layer as Keras 3 writes it."""
    entry = {"module": module, "class_name": kind, "config": {"name": name, "trainable": True, **config}}
    entry |= {"registered_name": None, "name": name}
    if inbound is not None:
        entry["inbound_nodes"] = inbound
    return entry


def operation(kind: str, name: str, inbound: Any, **config: Any) -> dict[str, Any]:
    """Return the configuration of one operation as Keras 3 writes it."""
    entry = layer(kind, name, inbound, module="keras.src.ops.numpy", **config)
    del entry["config"]["trainable"]
    return {**entry, "registered_name": kind}


def source(name: str, shape: tuple[int | None, ...] = (None, None, 3)) -> dict[str, Any]:
    """Return the configuration of an input layer."""
    return layer("InputLayer", name, [], batch_shape=list(shape), dtype="float32")


def tensor(name: str, call: int = 0, output: int = 0) -> dict[str, Any]:
    """Return a tensor as Keras 3 writes it."""
    return {"class_name": "__keras_tensor__", "config": {"keras_history": [name, call, output]}}


def call(*args: Any, **kwargs: Any) -> dict[str, Any]:
    """Return a call as Keras 3 writes it."""
    return {"args": list(args), "kwargs": kwargs}


def functional(layers: list[Any], inputs: Any, outputs: Any, name: str = "functional") -> dict[str, Any]:
    """Return the configuration of a Functional model."""
    config = {"name": name, "trainable": True, "layers": layers, "input_layers": inputs, "output_layers": outputs}
    return {"module": "keras", "class_name": "Functional", "config": config, "registered_name": None}


def sequential(layers: Any, **settings: Any) -> dict[str, Any]:
    """Return the configuration of a Sequential model."""
    config = {"name": "sequential", "layers": layers}
    return {"module": "keras", "class_name": "Sequential", "config": config, "registered_name": None, **settings}
