"""HDF5 files of Keras 1 to 3: whole models (``model.save("model.h5")``) and weights alone (``save_weights``).

A whole model has the attributes ``model_config`` (the architecture as JSON) and ``keras_version`` at the root; the
group ``model_weights`` has a group for each layer. A file of weights has the same groups at the root, or, as Keras
writes it under a name ending in ``.weights.h5``, the tree of groups that a ``.keras`` archive has. Optimizer and
training settings beside them are left alone.
"""

from __future__ import annotations

import json
from typing import Any, Final

from lstm_engine.description import ModelDescription
from lstm_engine.errors import FormatError, UnsupportedModelError

from .hdf5 import HDF5File, HDF5Group
from .json_text import parse_json
from .keras_source import KerasSource, checked_version
from .keras_weights import CONTAINERS, read_archive_weights, read_legacy_weights

__all__ = ["read_keras_h5"]

#: What a configuration of Keras 3 is taken for, which says nothing of its release: masks have been joined in the same
#: way since 3.4.
_KERAS_3: Final = "3.4 or later"
_KERAS_2: Final = "2.4 or later"


def read_keras_h5(data: bytes, subject: str, config: Any = None, config_subject: str = "config") -> ModelDescription:
    """Read an HDF5 file of Keras: as :func:`lstm_engine.formats.keras.read_keras`, from all bytes of the file.

    Parameters
    ----------
    data
        All bytes of the file.
    subject
        The file's path, for messages.
    config
        The architecture as parsed JSON, for a file of weights alone.
    config_subject
        Where it comes from, for messages.
    """
    root = HDF5File(data, subject).root
    text = root.text("model_config")
    if text is None:
        return _of_weights(root, subject, config, config_subject)
    if config is not None:
        raise UnsupportedModelError(
            f"{subject}: config: expected none for a file that holds a whole model; leave config away"
        )
    if "model_weights" not in root:
        raise FormatError(f"{subject}: expected a group 'model_weights', found none; the file is damaged")
    weights = root.group("model_weights")
    version = root.text("keras_version") or weights.text("keras_version")
    optimizer = ("the weights of the optimizer (optimizer_weights)",) if "optimizer_weights" in root else ()
    training = () if root.text("training_config") is None else ("the settings of the training (training_config)",)
    source = KerasSource(
        subject=subject,
        format="keras-h5",
        version=checked_version(version or "1", subject),
        config=parse_json(text, f"{subject}: model_config"),
        config_subject=f"{subject}: model_config",
        weights_subject=f"{subject}: model_weights",
        inferred=() if version else ("Keras's version: the file has none, as Keras 1 wrote it",),
        ignored=optimizer + training,
    )
    return source.model(lambda layers, problems: read_legacy_weights(weights, layers, problems))


def _of_weights(root: HDF5Group, subject: str, config: Any, config_subject: str) -> ModelDescription:
    """Read a file of weights alone."""
    weights = root.group("model_weights") if "model_weights" in root else root
    legacy = weights.text_list("layer_names") is not None
    if not legacy and not any(name in root for name in CONTAINERS):
        raise FormatError(f"{subject}: expected an HDF5 file of Keras with a model_config, found another HDF5 file")
    if config is None:
        raise UnsupportedModelError(
            f"{subject}: expected a whole model, found weights alone (written by save_weights); give the architecture, "
            "which is what model.to_json() returns, as config: le.load(path, config='model.json'); or save both with "
            "model.save('model.keras')"
        )
    version, inferred = _version(config, weights.text("keras_version"), config_subject)
    source = KerasSource(subject, "keras-weights", version, config, config_subject, subject, inferred)
    if legacy:
        return source.model(lambda layers, problems: read_legacy_weights(weights, layers, problems))
    return source.model(lambda layers, problems: read_archive_weights(root, layers, version, problems))


def _version(config: Any, of_weights: str | None, subject: str) -> tuple[str, tuple[str, ...]]:
    """Return the version of the Keras that wrote a configuration, and what was inferred."""
    if not isinstance(config, dict):
        return "1", ()
    if config.get("keras_version") is not None:
        return checked_version(config["keras_version"], f"{subject}: keras_version"), ()
    if of_weights is not None:
        return checked_version(of_weights, f"{subject}: keras_version of the weights"), ()
    # model.to_json() of Keras 3 does not say its version; its input layers have another key than those of Keras 2.
    found = _KERAS_2 if '"batch_input_shape"' in json.dumps(config) else _KERAS_3
    return found, (f"Keras's version, from the form of the configuration: {found}",)
