"""Our own format: a safetensors file whose metadata holds the architecture as JSON.

=============  ======================================================================================================
key            value
=============  ======================================================================================================
format         ``lstm_engine``
version        ``MAJOR.MINOR`` of the format, see below
writer         what wrote the file, such as ``lstm_engine 0.1.0``
kind           what ``architecture`` is: a key of :data:`KINDS`
requires       names, with spaces between them, of what a reader must know beyond the architecture; mostly empty
compute_type   what the model that was saved computes in
architecture   the fields of the kind's dataclass as JSON (:mod:`lstm_engine.formats.plain_data`)
golden         inputs and the outputs that the saved model gave for them (:class:`Golden`), where there are any
=============  ======================================================================================================

The tensors are the model's weights as they came, and the golden inputs and outputs, by the names that the JSON has.

What a newer version may do, and what an older reader makes of it:

* A newer **minor** version may add keys of the metadata, keys of the JSON's objects, and tensors. An older reader
  passes over what it does not know, so these may only say what changes no result.
* What changes a result has to be something that an older reader refuses by name: a class name, an option of a layer,
  a kind, or a name in ``requires``.
* A newer **major** version is refused, and says which version of lstm_engine is needed.
"""

from __future__ import annotations

import importlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from lstm_engine.description import LayerDescription, ModelDescription
from lstm_engine.errors import FormatError, UnsafeFileError, UnsupportedModelError

from .json_text import parse_json
from .limits import WAY_OUT, tensor_room
from .mapped_tensors import map_tensors, read_metadata, write_tensors
from .plain_data import decode, encode

__all__ = ["KINDS", "VERSION", "Golden", "OwnFile", "is_own", "read_own", "write_own"]

#: Version of the format that is written; of the same major version all are read.
VERSION: Final = "1.0"

_FORMAT: Final = "lstm_engine"

#: What an architecture can be: module and name of the dataclass that it is one of.
KINDS: Final = {
    "model": ("lstm_engine.description", "ModelDescription"),
    "onnx": ("lstm_engine.onnx.graph", "OnnxGraph"),
}

#: What this version knows of ``requires``.
_KNOWN: Final[frozenset[str]] = frozenset()


@dataclass(frozen=True, slots=True, eq=False)
class Golden:
    """Inputs, and the outputs that a model gave for them.

    Parameters
    ----------
    inputs, outputs
        Arrays by name.
    compute_type, backend
        What computed the outputs.
    """

    inputs: Mapping[str, NDArray[Any]]
    outputs: Mapping[str, NDArray[Any]]
    compute_type: str
    backend: str


@dataclass(frozen=True, slots=True, eq=False)
class OwnFile:
    """What a file of ours holds.

    Parameters
    ----------
    architecture
        A dataclass of one of the :data:`KINDS`, its arrays being the file's own memory.
    compute_type
        What the model that was saved computes in.
    golden
        Golden inputs and outputs; None for none.
    version
        Version of the format.
    writer
        What wrote the file.
    tensors
        The arrays by name.
    """

    architecture: Any
    compute_type: str
    golden: Golden | None
    version: str = VERSION
    writer: str = ""
    tensors: Mapping[str, NDArray[Any]] = field(default_factory=dict)


def is_own(path: str | os.PathLike[str]) -> bool:
    """Return whether a safetensors file is one of ours; False also where its header cannot be read."""
    try:
        return read_metadata(path).get("format") == _FORMAT
    except (FormatError, UnsupportedModelError, ValueError):
        return False  # its reader will say what is wrong


def read_own(path: str | os.PathLike[str]) -> OwnFile:
    """Read a file of ours, its tensors mapped.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    FormatError
        If it is truncated, damaged or of another format.
    UnsupportedModelError
        If it is of a newer major version, or needs what this version does not know.
    UnsafeFileError
        If it is beyond the caps of :class:`lstm_engine.Limits`, or names something twice.
    """
    subject = os.fsdecode(path)
    tensors, metadata = map_tensors(path)
    if metadata.get("format") != _FORMAT:
        raise FormatError(f"{subject}: expected a model that lstm_engine saved, found other tensors")
    version, writer = metadata.get("version", ""), metadata.get("writer", "")
    numbers = re.fullmatch(r"([0-9]{1,4})\.([0-9]{1,4})", version)
    if numbers is None:
        raise FormatError(f"{subject}: expected a version such as {VERSION!r}, found {version!r:.100}")
    newer = f"it was written by {writer!r:.100}; update lstm_engine, or save the model again with this version"
    if numbers[1] != VERSION.partition(".")[0]:
        raise UnsupportedModelError(f"{subject}: expected version {VERSION} of the format, found {version}: {newer}")
    unknown = [name for name in metadata.get("requires", "").split() if name not in _KNOWN]
    kind = metadata.get("kind", "")
    unknown += [] if kind in KINDS else [f"the kind {kind!r:.100}"]
    if unknown:
        raise UnsupportedModelError(
            f"{subject}: it needs {', '.join(unknown)!s:.500}, which is not known here: {newer}"
        )

    counted = _Counted(tensors, subject)

    def parsed(key: str, dataclass_: type) -> Any:
        place = f"{subject}: {key}"
        return decode(dataclass_, parse_json(metadata.get(key, ""), place), counted, place)

    module, name = KINDS[kind]
    architecture = parsed("architecture", getattr(importlib.import_module(module), name))
    golden = parsed("golden", Golden) if "golden" in metadata else None
    architecture = replace(architecture, source=subject)
    if isinstance(architecture, ModelDescription):
        names = {id(array): name for name, array in tensors.items()}
        architecture = replace(_located(architecture, names), saved_by=f"{writer}, format {version}")
    return OwnFile(
        architecture=architecture,
        compute_type=metadata.get("compute_type", "float32"),
        golden=golden,
        version=version,
        writer=writer,
        tensors=tensors,
    )


class _Counted(dict[str, NDArray[Any]]):
    """Tensors by name, each counted as often as it is asked for: every layer that has it as a weight prepares it."""

    def __init__(self, tensors: Mapping[str, NDArray[Any]], subject: str) -> None:
        super().__init__(tensors)
        self._subject, self._most = subject, tensor_room(sum(array.nbytes for array in tensors.values()))
        self._left = self._most

    def __getitem__(self, name: str) -> NDArray[Any]:
        array = super().__getitem__(name)
        self._left -= array.nbytes
        if self._left < 0:
            raise UnsafeFileError(
                f"{self._subject}: expected weights of at most {self._most:,} bytes together, found more, some of them "
                "named again and again; " + WAY_OUT.format("tensor_bytes")
            )
        return array


def _located(model: ModelDescription, names: Mapping[int, str]) -> ModelDescription:
    """Return a model whose layers know under which names the file has their weights."""
    return replace(model, layers=tuple(_with_sources(layer, names) for layer in model.layers))


def _with_sources(layer: LayerDescription, names: Mapping[int, str]) -> LayerDescription:
    return replace(
        layer,
        sources={short: names[id(array)] for short, array in layer.weights.items()},
        inner={role: _with_sources(inner, names) for role, inner in layer.inner.items()},
        model=None if layer.model is None else _located(layer.model, names),
    )


def write_own(file: IO[bytes], content: OwnFile, *, narrow: bool = False) -> None:
    """Write a file of ours.

    Parameters
    ----------
    file
        Open for writing.
    content
        What to write; its version is :data:`VERSION` and its tensors are those of the architecture and the golden
        inputs and outputs, whatever it says.
    narrow
        Whether float64 weights are rounded to float32.

    Raises
    ------
    UnsupportedModelError
        If something in it cannot be written.
    """
    tensors: dict[str, NDArray[Any]] = {}
    architecture = encode(content.architecture, tensors)
    if narrow:
        tensors = {name: _narrowed(name, array) for name, array in tensors.items()}
    kinds = {name: kind for kind, (_, name) in KINDS.items()}
    metadata = {
        "format": _FORMAT,
        "version": VERSION,
        "writer": content.writer,
        "kind": kinds[type(content.architecture).__name__],
        "requires": "",
        "compute_type": content.compute_type,
        "architecture": json.dumps(architecture, separators=(",", ":")),
    }
    if content.golden is not None:
        golden = encode(content.golden, tensors, ("golden",))
        metadata["golden"] = json.dumps(golden, separators=(",", ":"))
    write_tensors(file, tensors, metadata)


def _narrowed(name: str, array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype != np.float64:
        return array
    with np.errstate(over="ignore"):
        narrow = array.astype(np.float32)
    if (np.isinf(narrow) & np.isfinite(array)).any():
        raise UnsupportedModelError(f"{name}: expected weights within the range of float32; keep them in float64")
    return narrow
