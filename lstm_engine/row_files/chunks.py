"""What readers give and writers take: some rows of every input or output."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lstm_engine.errors import FormatError, ShapeError
from lstm_engine.ragged import Ragged, Rows, Where

if TYPE_CHECKING:
    from lstm_engine.arguments import TensorSpec

__all__ = ["Binding", "Chunk", "RowReader", "RowWriter", "from_numbers", "one_column", "one_length"]


@dataclass(frozen=True, slots=True)
class Binding:
    """An input of the model and where it stands in a file.

    Parameters
    ----------
    spec
        The input.
    columns
        The columns of a table that the user named for it; empty for none.
    """

    spec: TensorSpec
    columns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some rows of a file.

    Parameters
    ----------
    columns
        A column for each input that the file holds, in the shape that the input takes.
    where
        Says where a row stands, for messages.
    kept
        Columns that go to the output as they are, by name: lists of text, or Arrow arrays.
    """

    columns: Sequence[Rows]
    where: Where
    kept: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.columns[0])


class RowReader(ABC):
    """A file of rows that is read from its beginning to its end.

    Attributes
    ----------
    subject
        The file in messages.
    rows
        How many rows it has; None if only reading it will tell.
    size, position, unit
        How much there is, how much of it has been read, and in what: for the progress bar.
    """

    subject: str
    rows: int | None = None
    size: int
    position: int = 0
    unit: str = "row"

    @abstractmethod
    def read(self, count: int) -> Chunk:
        """Return the next ``count`` rows, fewer at the end of the file only, and none behind it."""

    @abstractmethod
    def close(self) -> None:
        """Close the file."""


class RowWriter(ABC):
    """Writes rows to a file that somebody else opens and closes."""

    def __init__(self, subject: str, file: IO[bytes]) -> None:
        self.subject = subject
        self.file = file

    @abstractmethod
    def write(self, outputs: Mapping[str, Rows], kept: Mapping[str, Any]) -> None:
        """Write the next rows."""

    @abstractmethod
    def finish(self) -> None:
        """Write what belongs to the end."""

    def close(self) -> None:  # noqa: B027  # most have nothing
        """Let go of what the writer holds, whether it has finished or not."""


def one_column(names: Sequence[str], name: str, subject: str, option: str) -> str:
    """Return the name of a column that the user asked for, or say that there is not exactly one.

    Parameters
    ----------
    names
        All columns of the table.
    name
        The one that is asked for.
    subject, option
        The file and the option that named it, for the message.
    """
    if list(names).count(name) != 1:
        raise ShapeError(
            f"{subject}: {option}: expected the name of one column, found {name!r}; the columns are {', '.join(names)}"
        )
    return name


def one_length(rows: Rows, before: tuple[int, ...] | None, subject: str, name: str) -> NDArray[Any]:
    """Return rows as an array of the same shape as those before, or say that the file cannot hold them.

    Parameters
    ----------
    rows
        The rows.
    before
        Shape of a row that was written before; None for none.
    subject, name
        The file and the output, for the message.
    """
    if isinstance(rows, Ragged) or before not in (None, rows.shape[1:]):
        raise FormatError(
            f"{subject}: expected rows of one length for the output {name}, found rows of different lengths; write a "
            ".parquet file, whose lists may differ"
        )
    return rows


def from_numbers(values: NDArray[Any], spec: TensorSpec, subject: str) -> NDArray[Any]:
    """Return the plain columns of a table, (rows, columns), as rows of an input: its numbers one behind the other.

    Raises
    ------
    ShapeError
        If there are not as many columns as the input has numbers.
    """
    sizes = list(spec.shape[1:])
    known = int(np.prod([size for size in sizes if size is not None], dtype=np.int64))
    found, opened = values.shape[1], sizes.count(None)
    if opened > 1:
        raise ShapeError(
            f"{subject}: expected an input of which at most one size is open for columns of numbers, found {spec.name} "
            f"{spec.shape}; give it as a column of lists in a .parquet file, or as a .npy file"
        )
    if (found % known if opened else found != known) or not found:
        wanted = f"a multiple of {known}" if opened else str(known)
        raise ShapeError(
            f"{subject}: expected {wanted} columns for the input {spec.name} of shape {spec.shape}, found {found}; "
            "name the columns with --columns"
        )
    return values.reshape(len(values), *(found // known if size is None else size for size in sizes))
