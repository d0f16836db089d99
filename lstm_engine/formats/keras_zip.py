"""The ``.keras`` archive of Keras 3 (and of Keras 2 since TensorFlow 2.12): a zip of a configuration and of weights.

It holds ``config.json`` (the architecture), ``metadata.json`` (Keras's version) and ``model.weights.h5``; anything
else in it (assets of text layers) is left alone. Nothing is ever extracted to disk.
"""

from __future__ import annotations

from typing import Any, Final

from lstm_engine.description import ModelDescription
from lstm_engine.errors import FormatError, UnsafeFileError, UnsupportedModelError

from .detect import zip_kind
from .hdf5 import HDF5File
from .json_text import check_json_bytes, parse_json
from .keras_config import parse_model
from .keras_layers import Problems, shown
from .keras_weights import read_archive_weights
from .zip_archive import ZipArchive

__all__ = ["read_keras_archive"]

_CONFIG: Final = "config.json"
_METADATA: Final = "metadata.json"
_WEIGHTS: Final = "model.weights.h5"


def read_keras_archive(data: bytes, subject: str) -> ModelDescription:
    """Read a ``.keras`` archive.

    Parameters
    ----------
    data
        All bytes of the file.
    subject
        The file's path, for messages.

    Returns
    -------
    ModelDescription
        The model, its weights read and checked against its configuration.

    Raises
    ------
    FormatError
        If the archive is truncated, damaged or no ``.keras`` archive.
    UnsupportedModelError
        If the model has layers that are not read; all of them are named.
    UnsafeFileError
        If it holds code, misleading or oversized members, or links out of itself.
    """
    archive = ZipArchive(data, subject)
    archive.check()
    if _CONFIG not in archive or not any(name.startswith("model.weights") for name in archive.names):
        found = zip_kind(archive.names).phrase
        raise FormatError(f"{subject}: expected a .keras archive with {_CONFIG} and {_WEIGHTS}, found {found}")
    if _METADATA not in archive:
        raise FormatError(
            f"{subject}: expected metadata.json with Keras's version, found none; save the model again with Keras"
        )
    if _WEIGHTS not in archive:
        found = ", ".join(sorted(name for name in archive.names if name.startswith("model.weights"))[:5])
        if "model.weights.npz" in archive:
            raise UnsafeFileError(
                f"{subject}: the weights are in {found}, which holds pickled objects; expected {_WEIGHTS}: "
                "save the model again with model.save(path)"
            )
        raise UnsupportedModelError(
            f"{subject}: the weights are in {found}; expected {_WEIGHTS}: save the model again with model.save(path)"
        )
    version = _version(_json(archive, _METADATA, subject), subject)
    model = parse_model(_json(archive, _CONFIG, subject), f"{subject}: {_CONFIG}")

    problems = Problems(f"{subject}: {_WEIGHTS}")
    file = HDF5File(archive.content(_WEIGHTS), problems.subject)
    read_archive_weights(file.root, model.layers, version, problems)
    problems.raise_if_any()
    return model.description(subject, "keras", version)


def _json(archive: ZipArchive, name: str, subject: str) -> Any:
    check_json_bytes(archive.size(name), f"{subject}: {name}")
    return parse_json(bytes(archive.content(name)), f"{subject}: {name}")


def _version(metadata: Any, subject: str) -> str:
    version = metadata.get("keras_version") if isinstance(metadata, dict) else None
    if not isinstance(version, str) or not version[:1].isdigit() or len(version) > 100:
        raise FormatError(f"{subject}: {_METADATA}: expected keras_version to be a version, found {shown(version)}")
    return version
