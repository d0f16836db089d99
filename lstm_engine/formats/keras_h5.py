"""The legacy HDF5 file of a whole Keras model, as Keras 1 to 3 write it with ``model.save("model.h5")``.

The root has the attributes ``model_config`` (the architecture as JSON) and ``keras_version``; the group
``model_weights`` has a group for each layer. Optimizer and training settings beside them are left alone.
"""

from __future__ import annotations

from lstm_engine.description import ModelDescription
from lstm_engine.errors import FormatError, UnsupportedModelError

from .hdf5 import HDF5File
from .json_text import parse_json
from .keras_config import parse_model
from .keras_layers import Problems, shown
from .keras_weights import read_legacy_weights

__all__ = ["read_keras_h5"]


def read_keras_h5(data: bytes, subject: str) -> ModelDescription:
    """Read a legacy whole-model file.

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
        If the file is truncated, damaged or no file of Keras.
    UnsupportedModelError
        If it holds weights without an architecture, or layers that are not read; all of them are named.
    UnsafeFileError
        If it holds code, or links out of itself, or asks for more memory than it can fill.
    """
    root = HDF5File(data, subject).root
    text = root.text("model_config")
    if text is None:
        raise _without_model(subject, set(root.names()), has_layer_names=root.text_list("layer_names") is not None)
    model = parse_model(parse_json(text, f"{subject}: model_config"), f"{subject}: model_config")
    if "model_weights" not in root:
        raise FormatError(f"{subject}: expected a group 'model_weights', found none; the file is damaged")
    weights = root.group("model_weights")
    version = root.text("keras_version") or weights.text("keras_version") or "1"
    if not version[:1].isdigit() or len(version) > 100:
        raise FormatError(f"{subject}: expected keras_version to be a version, found {shown(version)}")
    problems = Problems(f"{subject}: model_weights")
    read_legacy_weights(weights, model.layers, problems)
    problems.raise_if_any()
    return model.description(subject, "keras-h5", version)


def _without_model(subject: str, names: set[str], *, has_layer_names: bool) -> Exception:
    if has_layer_names or names & {"layers", "_layer_checkpoint_dependencies", "model_weights"}:
        return UnsupportedModelError(
            f"{subject}: expected a whole model, found weights alone (written by save_weights); "
            "build the model in Keras, call load_weights, then save it with model.save('model.keras')"
        )
    return FormatError(f"{subject}: expected an HDF5 file of Keras with a model_config, found another HDF5 file")
