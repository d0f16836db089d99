"""Keras files of every generation, without Keras: the archive ``.keras``, and HDF5 files of models or of weights."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from lstm_engine.description import ModelDescription
from lstm_engine.errors import FormatError, UnsupportedModelError

from .content import read_head, read_whole
from .detect import detect
from .json_text import check_json_bytes, parse_json
from .keras_h5 import read_keras_h5
from .keras_zip import read_keras_archive

__all__ = ["describe_keras_file", "read_keras"]


def read_keras(
    path: str | os.PathLike[str], config: str | os.PathLike[str] | Mapping[str, Any] | None = None
) -> ModelDescription:
    """Read a model that Keras 1, 2 or 3 saved; the file's content decides which kind it is.

    Parameters
    ----------
    path
        A ``.keras`` archive, a legacy ``.h5`` file of a whole model, or a file of weights alone (``save_weights``).
    config
        For weights alone: the architecture, as the path of a JSON file, as what ``model.to_json()`` returns, or as that
        parsed into a dict.

    Returns
    -------
    ModelDescription
        Layers with their weights, calls, inputs and outputs. The weights are read-only arrays of the file's dtype
        (bfloat16 as float32, exactly), their shapes checked against the configuration. A policy of mixed precision
        changes nothing: what computes is decided by whoever loads the model.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    FormatError
        If it is truncated, damaged or of another format.
    UnsupportedModelError
        If it holds weights alone and there is no ``config``, or a whole model and there is one, or if the model has
        layers or options that are not read; all of them are named.
    UnsafeFileError
        If the file holds code, links out of itself, or asks for more memory than it can fill.
    """
    found = detect(path)
    subject = os.fsdecode(path)
    if found.kind == "keras-h5":
        return read_keras_h5(read_whole(path), subject, *_architecture(config))
    if found.kind != "keras":
        raise FormatError(f"{subject}: expected a Keras model (.keras, or a whole model in .h5), found {found.phrase}")
    if config is not None:
        raise UnsupportedModelError(
            f"{subject}: config: expected none for a file that holds a whole model; leave config away"
        )
    return read_keras_archive(read_whole(path), subject)


#: What ``lstm-engine info`` shows about a Keras file is what a model is made from.
describe_keras_file = read_keras


def _architecture(config: str | os.PathLike[str] | Mapping[str, Any] | None) -> tuple[Any, str]:
    """Return a configuration as plain JSON values, and where it comes from."""
    if config is None:
        return None, "config"
    if isinstance(config, str) and config.lstrip()[:1] == "{":
        return parse_json(config, "config"), "config"
    if isinstance(config, str | os.PathLike):
        subject = os.fsdecode(config)
        _, size = read_head(config)
        check_json_bytes(size, subject)
        return parse_json(read_whole(config), subject), subject
    if not isinstance(config, Mapping):
        raise UnsupportedModelError(
            f"config: expected the path of a JSON file, a JSON text or a dict, found {type(config).__name__}"
        )
    try:
        text = json.dumps(dict(config))
    except (TypeError, ValueError, RecursionError) as error:
        raise UnsupportedModelError(f"config: expected plain JSON values, found others ({error})") from None
    return parse_json(text, "config"), "config"
