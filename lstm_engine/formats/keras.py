"""Keras files of either kind, without Keras: the archive ``.keras`` and the legacy HDF5 file."""

from __future__ import annotations

import os

from lstm_engine.description import ModelDescription
from lstm_engine.errors import FormatError

from .content import read_whole
from .detect import detect
from .keras_h5 import read_keras_h5
from .keras_zip import read_keras_archive

__all__ = ["describe_keras_file", "read_keras"]


def read_keras(path: str | os.PathLike[str]) -> ModelDescription:
    """Read a model that Keras 2 or 3 saved; the file's content decides which kind it is.

    Parameters
    ----------
    path
        A ``.keras`` archive, or a legacy ``.h5`` file of a whole model.

    Returns
    -------
    ModelDescription
        Layers with their weights, calls, inputs and outputs. The weights are read-only arrays of the file's dtype
        (bfloat16 as float32, exactly), their shapes checked against the configuration.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    FormatError
        If it is truncated, damaged or of another format.
    UnsupportedModelError
        If the model has layers or options that are not read; all of them are named.
    UnsafeFileError
        If the file holds code, links out of itself, or asks for more memory than it can fill.
    """
    found = detect(path)
    subject = os.fsdecode(path)
    if found.kind not in ("keras", "keras-h5"):
        raise FormatError(f"{subject}: expected a Keras model (.keras, or a whole model in .h5), found {found.phrase}")
    read = read_keras_archive if found.kind == "keras" else read_keras_h5
    return read(read_whole(path), subject)


#: What ``lstm-engine info`` shows about a Keras file is what a model is made from.
describe_keras_file = read_keras
