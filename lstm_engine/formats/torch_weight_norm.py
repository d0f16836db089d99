"""Weights that PyTorch computes from others: weight normalisation (Salimans and Kingma 2016), folded.

``torch.nn.utils.weight_norm`` keeps ``NAME_g`` and ``NAME_v`` in place of ``NAME``, and
``torch.nn.utils.parametrizations.weight_norm`` keeps ``parametrizations.NAME.original0`` and ``original1``. Either way
the weight is ``v * (g / norm(v))``, the norm taken over every axis that g does not have.
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_left
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .tensor_file import TensorFile

__all__ = ["fold_weight_norm"]


def fold_weight_norm(file: TensorFile) -> TensorFile:
    """Replace what weight normalisation keeps of each weight by the weight.

    Parameters
    ----------
    file
        Named tensors.

    Returns
    -------
    TensorFile
        ``file`` itself if nothing in it is normalised. A pair of tensors whose shapes are not those of weight
        normalisation, or that another parametrization has a part in, is left as it is.
    """
    pairs = {}
    names = sorted([*file.tensors, *file.unsupported])
    for name in file.tensors:
        if name.endswith("_v") and name.rpartition(".")[2] != "_v":
            pairs[name] = (name[:-1] + "g", name[:-2])
        elif name.endswith(".original1"):
            owner = name.removesuffix(".original1")
            module, _, weight = owner.rpartition(".")
            # All names that begin with "OWNER.", which sort in front of "OWNER/": more than the two is another part.
            below = bisect_left(names, owner + "/") - bisect_left(names, owner + ".")
            if below == 2 and (module == "parametrizations" or module.endswith(".parametrizations")):
                pairs[name] = (owner + ".original0", module.removesuffix("parametrizations") + weight)
    tensors = dict(file.tensors)
    for direction, (magnitude, weight) in pairs.items():
        if magnitude not in tensors or weight in tensors or weight in file.unsupported:
            continue
        folded = _folded(tensors[magnitude], tensors[direction])
        if folded is not None:
            del tensors[magnitude], tensors[direction]
            tensors[weight] = folded
    return dataclasses.replace(file, tensors=tensors) if len(tensors) < len(file.tensors) else file


def _folded(magnitude: NDArray[Any], direction: NDArray[Any]) -> NDArray[Any] | None:
    """Return the weight, or None if the shapes are not those of weight normalisation."""
    if magnitude.dtype.kind != "f" or direction.dtype.kind != "f" or direction.ndim > 26:
        return None
    # One number for each index of one axis, or a single number for all.
    kept = [axis for axis, size in enumerate(magnitude.shape) if size > 1]
    fits = magnitude.ndim == direction.ndim and all(magnitude.shape[axis] == direction.shape[axis] for axis in kept)
    if (not fits and magnitude.ndim > 0) or len(kept) > 1:
        return None
    axes = list(range(direction.ndim))
    # In float64, and rounded once: PyTorch's own rounding depends on its build. einsum makes no copy of the squares.
    norm = np.sqrt(np.einsum(direction, axes, direction, axes, kept, dtype=np.float64))
    with np.errstate(all="ignore"):  # what is not finite is refused where the weight is used
        scale = magnitude.astype(np.float64) / norm.reshape(magnitude.shape)
        weight = np.empty(direction.shape, np.float64 if direction.dtype == np.float64 else np.float32)
        np.multiply(direction, scale, out=weight, dtype=np.float64, casting="same_kind")
    weight.setflags(write=False)
    return weight
