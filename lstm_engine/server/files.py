"""Which files are models to be served: a file, or a folder of NAME/VERSION/model.ENDING."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lstm_engine.errors import ShapeError

from .options import NAME

__all__ = ["Key", "ModelFile", "find_files"]

#: Name and version of a model.
Key = tuple[str, str]

_MOST_VERSION_DIGITS: Final = 18


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A file that is to be served.

    Attributes
    ----------
    name, version
        As what.
    path
        Where it is.
    signature
        What tells one content from another without reading it: the file's number, size and time of change.
    """

    name: str
    version: str
    path: Path
    signature: tuple[int, int, int]

    @property
    def key(self) -> Key:
        """Name and version."""
        return self.name, self.version


def find_files(root: Path, name: str | None) -> tuple[list[ModelFile], list[str]]:
    """Return the models of a file or folder, and a sentence for whatever in it is none.

    Parameters
    ----------
    root
        The file or folder.
    name
        The model's name where it is a file; None for the file's own.

    Raises
    ------
    OSError
        If there is neither, or a folder cannot be read.
    ShapeError
        If a name is given to a folder.
    """
    if not root.is_dir():
        return [_model_file(root, name or _stem(root), "1")], []
    if name is not None:
        raise ShapeError(f"--name: expected it with a file, found the folder {root}, in which folders are the names")
    found: list[ModelFile] = []
    problems: list[str] = []
    for folder in _visible(root):
        if not folder.is_dir() or not NAME.fullmatch(folder.name):
            problems.append(f"{folder}: expected a folder named as a model, of letters, digits, '_', '-' and '.'")
            continue
        for place in _visible(folder):
            if not place.is_dir() or not _is_version(place.name):
                problems.append(f"{place}: expected a folder named as a version, a whole number without leading zeros")
                continue
            files = [path for path in _visible(place) if path.name.startswith("model.") and path.is_file()]
            if len(files) == 1:
                found.append(_model_file(files[0], folder.name, place.name))
            else:
                held = ", ".join(path.name for path in files) or "none"
                problems.append(f"{place}: expected one file model.ENDING, found {held}")
    return found, problems


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _is_version(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _MOST_VERSION_DIGITS and text == str(int(text))


def _stem(path: Path) -> str:
    """Return a name for a file's model: its own, where that can be one."""
    stem = "".join(char if NAME.fullmatch(f"_{char}") else "_" for char in path.stem)[:128]
    return stem if NAME.fullmatch(stem) else f"_{stem}"[:128]


def _model_file(path: Path, name: str, version: str) -> ModelFile:
    status = path.stat()
    return ModelFile(name, version, path, (status.st_ino, status.st_size, status.st_mtime_ns))
