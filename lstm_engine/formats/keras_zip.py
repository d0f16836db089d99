"""The ``.keras`` archive of Keras 3 (and of Keras 2 since TensorFlow 2.12): a zip of a configuration and of weights.

It holds ``config.json`` (the architecture), ``metadata.json`` (Keras's version) and ``model.weights.h5``; anything
else in it (assets of text layers) is left alone. Nothing is ever extracted to disk.
"""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING, Any, Final

from lstm_engine.description import ModelDescription
from lstm_engine.errors import FormatError, UnsafeFileError, UnsupportedModelError

from .detect import zip_kind
from .hdf5 import HDF5File
from .json_text import parse_json
from .keras_config import parse_model
from .keras_layers import Problems, shown
from .keras_weights import read_archive_weights
from .limits import MAX_JSON_BYTES, MAX_NAME_LENGTH, MAX_ZIP_MEMBERS, max_tensor_bytes

if TYPE_CHECKING:
    import zipfile

__all__ = ["read_keras_archive"]

_CONFIG: Final = "config.json"
_METADATA: Final = "metadata.json"
_WEIGHTS: Final = "model.weights.h5"

#: Bits of a member's flags that stand for encryption: of its data, strong, and of the directory.
_ENCRYPTED: Final = 0x2041


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
    members = _members(data, subject)
    if _CONFIG not in members or not any(name.startswith("model.weights") for name in members):
        found = zip_kind(members).phrase
        raise FormatError(f"{subject}: expected a .keras archive with {_CONFIG} and {_WEIGHTS}, found {found}")
    if _METADATA not in members:
        raise FormatError(
            f"{subject}: expected metadata.json with Keras's version, found none; save the model again with Keras"
        )
    if _WEIGHTS not in members:
        found = ", ".join(sorted(name for name in members if name.startswith("model.weights"))[:5])
        if "model.weights.npz" in members:
            raise UnsafeFileError(
                f"{subject}: the weights are in {found}, which holds pickled objects; expected {_WEIGHTS}: "
                "save the model again with model.save(path)"
            )
        raise UnsupportedModelError(
            f"{subject}: the weights are in {found}; expected {_WEIGHTS}: save the model again with model.save(path)"
        )
    version = _version(parse_json(_content(data, members[_METADATA], subject), f"{subject}: {_METADATA}"), subject)
    tree = parse_json(_content(data, members[_CONFIG], subject), f"{subject}: {_CONFIG}")
    model = parse_model(tree, f"{subject}: {_CONFIG}")

    problems = Problems(f"{subject}: {_WEIGHTS}")
    file = HDF5File(_content(data, members[_WEIGHTS], subject), problems.subject)
    read_archive_weights(file.root, model.layers, version, problems)
    problems.raise_if_any()
    return model.description(subject, "keras", version)


def _version(metadata: Any, subject: str) -> str:
    version = metadata.get("keras_version") if isinstance(metadata, dict) else None
    if not isinstance(version, str) or not version[:1].isdigit() or len(version) > 100:
        raise FormatError(f"{subject}: {_METADATA}: expected keras_version to be a version, found {shown(version)}")
    return version


# --- The archive ------------------------------------------------------------------------------------------------------


def _members(data: bytes, subject: str) -> dict[str, zipfile.ZipInfo]:
    """Return the members by name, each checked."""
    import zipfile

    # Python parses the directory whole when it opens an archive, so its entries are counted by their signature before.
    if data.count(b"PK\x01\x02") > MAX_ZIP_MEMBERS:
        raise UnsafeFileError(f"{subject}: expected at most {MAX_ZIP_MEMBERS:,} members, found more")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
    except _zip_errors() as error:
        raise FormatError(f"{subject}: expected a zip archive, found a truncated or damaged one ({error})") from None
    members: dict[str, zipfile.ZipInfo] = {}
    for entry in entries:
        name = entry.orig_filename
        parts = name.split("/")
        if name.startswith("/") or ".." in parts or "\\" in name or "\0" in name or parts[0].endswith(":"):
            raise UnsafeFileError(f"{subject}: expected members inside of the archive, found {shown(name)}")
        if len(name) > MAX_NAME_LENGTH:
            raise UnsafeFileError(
                f"{subject}: expected names of at most {MAX_NAME_LENGTH} characters, found {shown(name)}"
            )
        if name in members:
            raise UnsafeFileError(f"{subject}: expected one member {shown(name)}, found two of the same name")
        if entry.flag_bits & _ENCRYPTED:
            raise UnsafeFileError(f"{subject}: expected plain members, found {shown(name)} encrypted")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UnsupportedModelError(
                f"{subject}: expected members that are stored or deflated, found {shown(name)} packed by method "
                f"{entry.compress_type}; save the model again with Keras"
            )
        if entry.file_size > max_tensor_bytes(len(data)):
            raise UnsafeFileError(
                f"{subject}: the member {shown(name)} unpacks to {entry.file_size:,} bytes; expected at most "
                f"{max_tensor_bytes(len(data)):,} of an archive of {len(data):,} bytes"
            )
        members[name] = entry
    return members


def _content(data: bytes, member: zipfile.ZipInfo, subject: str) -> bytes:
    """Return a member's bytes, of the size that its entry promises and with the right checksum."""
    import zipfile

    name = member.orig_filename
    if name.endswith(".json") and member.file_size > MAX_JSON_BYTES:
        raise UnsafeFileError(
            f"{subject}: {name}: expected at most {MAX_JSON_BYTES:,} bytes of JSON, found {member.file_size:,}"
        )
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive, archive.open(member) as stream:
            content = stream.read(member.file_size)
            # The checksum is compared at the end of the stream.
            surplus = stream.read(1)
    except _zip_errors() as error:
        raise FormatError(f"{subject}: the member {name} is truncated or damaged ({error})") from None
    if len(content) != member.file_size or surplus:
        raise FormatError(
            f"{subject}: expected {member.file_size:,} bytes in the member {name}, found {len(content):,}; "
            "the file is truncated or damaged"
        )
    return content


def _zip_errors() -> tuple[type[Exception], ...]:
    import zipfile
    import zlib

    return (
        zipfile.BadZipFile,
        zlib.error,
        struct.error,
        EOFError,
        IndexError,
        NotImplementedError,
        OSError,
        OverflowError,
        RuntimeError,
        ValueError,
    )
