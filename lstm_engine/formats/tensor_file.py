"""Named tensors of any file that PyTorch users keep weights in, chosen by content."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lstm_engine.errors import FormatError

from .content import read_head, read_whole, sniff
from .limits import WAY_OUT, current_limits
from .safetensors_file import read_safetensors_bytes
from .torch_descriptions import UnsupportedTensor
from .torch_file import read_torch_bytes
from .torch_shards import read_index, read_shards

__all__ = ["TensorFile", "flatten", "read_tensors"]


@dataclass(frozen=True, slots=True, eq=False)
class TensorFile:
    """The tensors of one file by their dotted names.

    Parameters
    ----------
    path
        The file, or what else the tensors come from, for messages.
    format
        ``"torch"`` (zip), ``"torch-legacy"`` (before PyTorch 1.6), ``"safetensors"``, ``"shards"`` (an index and its
        files) or ``"mapping"``.
    tensors
        Read-only arrays. A nested checkpoint's keys are joined with dots:
        ``{"state_dict": {"rnn.weight_ih_l0": ...}}`` gives ``state_dict.rnn.weight_ih_l0``.
    unsupported
        For each tensor that cannot be read (quantized, sparse, ...), the reason.
    metadata
        The metadata of a safetensors file; of a checkpoint the plain values at its top, such as the epoch.
    """

    path: str
    format: str
    tensors: Mapping[str, NDArray[Any]]
    unsupported: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)


def read_tensors(path: str | os.PathLike[str]) -> TensorFile:
    """Read all tensors of a PyTorch or safetensors file; its content decides which it is.

    Parameters
    ----------
    path
        The file; or the index of several, ``model.safetensors.index.json`` or ``pytorch_model.bin.index.json``, which
        are then looked for beside it.

    Returns
    -------
    TensorFile
        Its tensors by name.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    FormatError
        If it is empty, a directory, damaged, truncated, or of another format, saying what it looks like.
    UnsupportedModelError, UnsafeFileError
        As :func:`lstm_engine.formats.torch_file.read_torch_file`.
    """
    subject = os.fspath(path)
    head, file_bytes = read_head(path)
    kind = sniff(head, file_bytes)
    if kind == "a JSON text" and (shards := read_index(Path(path), subject)) is not None:
        return TensorFile(subject, "shards", *read_shards(Path(path).parent, shards, subject, _read_shard))
    if kind == "safetensors":
        tensors, unsupported, metadata = read_safetensors_bytes(read_whole(path), subject)
        return TensorFile(subject, kind, tensors, unsupported, metadata)
    if kind in ("zip", "torch-legacy"):
        saved = read_torch_bytes(read_whole(path), subject)
        tensors, unsupported = flatten(saved, subject)
        plain = {
            key: value
            for key, value in saved.items()
            if isinstance(key, str) and isinstance(value, bool | int | float | str)
        }
        return TensorFile(subject, "torch" if kind == "zip" else kind, tensors, unsupported, plain)
    raise FormatError(f"{subject}: expected a file of torch.save or a safetensors file, found {kind}")


def _read_shard(path: Path) -> tuple[Mapping[str, NDArray[Any]], Mapping[str, str]]:
    if sniff(*read_head(path)) == "a JSON text":
        raise FormatError(f"{path}: expected a file of torch.save or a safetensors file, found a JSON text")
    file = read_tensors(path)
    return file.tensors, file.unsupported


def flatten(source: Mapping[Any, Any], subject: str) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Join the keys of nested mappings and sequences to dotted names of the tensors in them.

    Parameters
    ----------
    source
        A state dict or a checkpoint: its tensors are NumPy arrays, or PyTorch tensors (used through their own
        methods, PyTorch is not imported).
    subject
        What it comes from, for messages.

    Returns
    -------
    tensors
        Arrays by name; those of PyTorch tensors share their memory where PyTorch allows it.
    unsupported
        The reason by name for tensors that cannot be read.

    Raises
    ------
    FormatError
        If two tensors get one name, or there are too many or too deep.
    """
    tensors: dict[str, NDArray[Any]] = {}
    unsupported: dict[str, str] = {}
    bearing = _Bearing(subject)
    visits = 0
    limits = current_limits()

    def visit(value: Any, name: str) -> None:
        nonlocal visits
        visits += 1
        # What is shared in the file is one object, but here it has a name for each way to it. In an honest file each
        # entry took an opcode to write.
        if visits > limits.pickle_opcodes:
            raise FormatError(
                f"{subject}: the values unfold to more than {limits.pickle_opcodes:,} entries; "
                + WAY_OUT.format("pickle_opcodes")
            )
        # A key that the file has once can stand before any number of others.
        if len(name) > limits.name_length:
            raise FormatError(
                f"{subject}: expected names of at most {limits.name_length:,} characters, found {name!r:.60}; "
                + WAY_OUT.format("name_length")
            )
        if isinstance(value, Mapping | list | tuple):
            if bearing.of(value):
                for key, part in _entries(value):
                    visit(part, _joined(name, key))
            return
        tensor = _as_array(value)
        if tensor is None:
            return
        if name in tensors or name in unsupported:
            raise FormatError(f"{subject}: two tensors have the name {name!r}; give the state dict alone")
        if len(tensors) + len(unsupported) >= limits.tensors:
            raise FormatError(
                f"{subject}: there are more than {limits.tensors:,} tensors; " + WAY_OUT.format("tensors")
            )
        if isinstance(tensor, str):
            unsupported[name] = tensor
        else:
            tensors[name] = tensor

    visit(source, "")
    return tensors, unsupported


class _Bearing:
    """Whether a container has a tensor in it, found out once for each: a vocabulary need not be walked by name."""

    def __init__(self, subject: str) -> None:
        self._subject = subject
        self._deepest = current_limits().nesting
        # With the container kept alive beside the answer, so that no identity is used twice.
        self._known: dict[int, tuple[object, bool]] = {}

    def of(self, value: Any, depth: int = 0) -> bool:
        if not isinstance(value, Mapping | list | tuple):
            return isinstance(value, np.ndarray | UnsupportedTensor) or hasattr(value, "detach") or _is_packed(value)
        known = self._known.get(id(value))
        if known is not None:
            return known[1]
        if depth > self._deepest:
            raise FormatError(f"{self._subject}: values nest deeper than {self._deepest}; give the state dict alone")
        # All parts are asked: one that is left out here would be met deeper, and out of bounds, later.
        answers = [self.of(part, depth + 1) for _, part in _entries(value)]
        self._known[id(value)] = (value, any(answers))
        return any(answers)


def _entries(value: Mapping[Any, Any] | list[Any] | tuple[Any, ...]) -> Iterable[tuple[Any, Any]]:
    return value.items() if isinstance(value, Mapping) else enumerate(value)


def _joined(name: str, key: object) -> str:
    part = key if isinstance(key, str) else str(key) if isinstance(key, int) else type(key).__name__
    return f"{name}.{part}" if name else part


def _is_packed(value: Any) -> bool:
    """Return whether ``value`` holds the weights of a quantized module in a form that only PyTorch can read."""
    return type(value).__name__ == "ScriptObject" and type(value).__module__.startswith("torch")


def _as_array(value: Any) -> NDArray[Any] | str | None:
    """Return the array of a tensor, or why there is none, or None if ``value`` is no tensor."""
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, UnsupportedTensor):
        return value.reason
    if _is_packed(value):
        return "it is packed for quantized kernels"
    if not (hasattr(value, "detach") and hasattr(value, "cpu") and hasattr(value, "dtype")):
        return None
    if getattr(value, "is_quantized", False):
        return "it is a quantized tensor"
    layout = str(getattr(value, "layout", "torch.strided"))
    if layout != "torch.strided":
        return f"its layout is {layout}"
    if getattr(value, "is_meta", False):
        return "it is a meta (without values) tensor"
    tensor = value.detach().cpu()
    # NumPy has no bfloat16 and no float8; both widen to float32 exactly, as float16 does.
    if str(tensor.dtype) in ("torch.bfloat16", "torch.float16") or "float8" in str(tensor.dtype):
        tensor = tensor.float()
    for lazy in ("resolve_conj", "resolve_neg"):
        if hasattr(tensor, lazy):
            tensor = getattr(tensor, lazy)()
    try:
        return np.asarray(tensor.numpy())
    except (TypeError, RuntimeError) as error:
        return f"PyTorch gives no array of it ({error})"
