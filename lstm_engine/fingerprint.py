"""What a model is, in a few bytes: a hash of its architecture and weights."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from .formats.plain_data import encode

if TYPE_CHECKING:
    from .lstm import LSTM
    from .model import Model

__all__ = ["fingerprint"]

#: What a description says of the file that it came from and of its writer, not of what is computed.
_NOT_COMPUTED: Final = ("version", "format", "name", "inferred", "ignored")


def fingerprint(source: Model | LSTM) -> str:
    """Return a hash of a model's architecture and weights, 64 hexadecimal digits.

    Two models have the same one if they were made from the same layers with the same weights, whatever the file, the
    compute type, the backend and the instruction set.

    Parameters
    ----------
    source
        The Model or LSTM. It does not change, so the hash is computed once and kept with it.

    Raises
    ------
    UnsupportedModelError
        If a layer cannot be described, naming it.
    """
    kept: dict[str, Any] = source.__dict__
    if "_fingerprint" not in kept:
        kept["_fingerprint"] = _computed(source)
    result: str = kept["_fingerprint"]
    return result


def _computed(source: Model | LSTM) -> str:
    from hashlib import blake2b

    from .layers.native import describe_lstm
    from .lstm import LSTM

    description = describe_lstm(source, "") if isinstance(source, LSTM) else source.architecture()
    tensors: dict[str, NDArray[Any]] = {}
    tree = encode(description, tensors)
    for key in _NOT_COMPUTED:
        tree.pop(key, None)
    for layer in tree.get("layers", ()):
        if layer["class_name"] == "InputLayer" and str(layer["config"].get("dtype", "")).startswith("float"):
            layer["config"]["dtype"] = "float"  # of a model put together by hand it is what that one computes in
    digest = blake2b(digest_size=32)
    digest.update(json.dumps(tree, sort_keys=True, separators=(",", ":")).encode())
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name], tensors[name].dtype.newbyteorder("<"))
        digest.update(f"\n{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
