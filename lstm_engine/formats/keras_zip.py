"""The ``.keras`` archive of Keras 3 (and of Keras 2 since TensorFlow 2.12): a zip of a configuration and of weights.

It holds ``config.json`` (the architecture), ``metadata.json`` (Keras's version) and ``model.weights.h5``, or, where
h5py was not installed, ``model.weights.npz``; anything else in it (assets of text layers) is left alone. Nothing is
ever extracted to disk.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from lstm_engine.description import ModelDescription
from lstm_engine.errors import FormatError, UnsupportedModelError

from .detect import zip_kind
from .hdf5 import HDF5File, HDF5Group
from .json_text import check_json_bytes, parse_json
from .keras_layers import KerasLayer, Problems
from .keras_npz import ArrayTree, read_npz
from .keras_source import KerasSource, checked_version
from .keras_weights import read_archive_weights
from .zip_archive import ZipArchive

__all__ = ["read_keras_archive"]

_CONFIG: Final = "config.json"
_METADATA: Final = "metadata.json"
_WEIGHTS: Final = "model.weights.h5"
_NPZ_WEIGHTS: Final = "model.weights.npz"


def read_keras_archive(data: bytes, subject: str) -> ModelDescription:
    """Read a ``.keras`` archive: as :func:`lstm_engine.formats.keras.read_keras`, from all bytes of the file."""
    archive = ZipArchive(data, subject)
    archive.check()
    if _CONFIG not in archive or not any(name.startswith("model.weights") for name in archive.names):
        found = zip_kind(archive.names).phrase
        raise FormatError(f"{subject}: expected a .keras archive with {_CONFIG} and {_WEIGHTS}, found {found}")
    if _METADATA not in archive:
        raise FormatError(
            f"{subject}: expected metadata.json with Keras's version, found none; save the model again with Keras"
        )
    member = next((name for name in (_WEIGHTS, _NPZ_WEIGHTS) if name in archive), None)
    if member is None:
        found = ", ".join(sorted(name for name in archive.names if name.startswith("model.weights"))[:5])
        raise UnsupportedModelError(
            f"{subject}: the weights are in {found}; expected {_WEIGHTS}: save the model again with model.save(path)"
        )
    metadata = _json(archive, _METADATA, subject)
    version = metadata.get("keras_version") if isinstance(metadata, dict) else None
    config = _json(archive, _CONFIG, subject)
    content = archive.content(member)

    def read_weights(layers: list[KerasLayer], problems: Problems) -> None:
        of_hdf5 = member == _WEIGHTS
        # What the archive unpacked for a few bytes of its own counts for no more than they do.
        root: HDF5Group | ArrayTree
        if of_hdf5:
            root = HDF5File(content, problems.subject, len(data)).root
        else:
            root = read_npz(content, problems.subject, len(data))
        read_archive_weights(root, layers, source.version, problems)
        if "optimizer" in root:
            ignored.append(f"the weights of the optimizer ({member}: optimizer)")

    settings = isinstance(config, dict) and config.get("compile_config")
    ignored = [f"the settings of the training ({_CONFIG}: compile_config)"] if settings else []
    ignored += [name for name in archive.names if name not in (_CONFIG, _METADATA, member)]
    source = KerasSource(
        subject=subject,
        format="keras",
        version=checked_version(version, f"{subject}: {_METADATA}"),
        config=config,
        config_subject=f"{subject}: {_CONFIG}",
        weights_subject=f"{subject}: {member}",
    )
    return replace(source.model(read_weights), ignored=tuple(ignored))


def _json(archive: ZipArchive, name: str, subject: str) -> Any:
    check_json_bytes(archive.size(name), f"{subject}: {name}", archive.file_bytes)
    return parse_json(bytes(archive.content(name)), f"{subject}: {name}")
