"""CSV files, some rows at a time: a line is a row of the model's input, and its numbers stand one behind the other."""

from __future__ import annotations

import csv
import io
import itertools
import os
import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np

from lstm_engine.errors import FormatError, ShapeError
from lstm_engine.ragged import Rows

from .chunks import Binding, Chunk, RowReader, RowWriter, from_numbers, one_column, one_length

__all__ = ["TextReader", "TextWriter"]


class TextReader(RowReader):
    """A CSV file. Its first line may name the columns; it does if not all of its fields are numbers.

    An input takes the columns that the user named; else those that are called like it, alone or with a number behind
    it (``x``, ``x_0``, ``x_0_1``); else, where it is the only input, all that are not kept.
    """

    unit = "B"

    def __init__(self, path: str, bindings: Sequence[Binding], keep: Sequence[str]) -> None:
        self.subject = path
        self._bindings = bindings
        self._file = Path(path).open("rb")  # noqa: SIM115  # closed by close
        try:
            self.size = os.fstat(self._file.fileno()).st_size
            self._text = io.TextIOWrapper(self._file, "utf-8-sig", newline="")
            self._csv = csv.reader(self._text, strict=True)
            self._records = self._numbered()
            self._begin(keep)
        except BaseException:
            self._file.close()
            raise

    def _begin(self, keep: Sequence[str]) -> None:
        line, first = next(self._records, (0, []))
        if not first:
            raise FormatError(f"{self.subject}: expected lines of numbers, found an empty file")
        self._width = len(first)
        named = bool(keep) or any(binding.columns for binding in self._bindings) or not all(map(_is_number, first))
        if not named:
            self._records = itertools.chain([(line, first)], self._records)
        self._names = [name.strip() for name in first] if named else [f"{place + 1}" for place in range(len(first))]
        self._kept = {name: self._place(name, "--keep") for name in keep}
        self._places = [self._places_of(binding, named) for binding in self._bindings]

    def _place(self, name: str, option: str) -> int:
        return self._names.index(one_column(self._names, name, self.subject, option))

    def _places_of(self, binding: Binding, named: bool) -> list[int]:
        if binding.columns:
            return [self._place(name, "--columns") for name in binding.columns]
        name = binding.spec.name
        pattern = re.compile(rf"{re.escape(name)}(_\d+)*")
        places = [place for place, found in enumerate(self._names) if named and pattern.fullmatch(found)]
        if not places and len(self._bindings) == 1:
            places = [place for place in range(self._width) if place not in self._kept.values()]
        if not places:
            raise ShapeError(
                f"{self.subject}: expected columns {name}_0, {name}_1, ... for the input {name}, found "
                f"{', '.join(self._names)}; name them with --columns {name}=NAME,NAME,..."
            )
        return places

    def _numbered(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the lines that are not empty, with their numbers."""
        try:
            for record in self._csv:
                if record:
                    yield self._csv.line_num, record
        except csv.Error as error:
            raise FormatError(f"{self.subject}: line {self._csv.line_num}: expected CSV, found {error}") from None
        except UnicodeDecodeError as error:
            raise FormatError(
                f"{self.subject}: line {self._csv.line_num + 1} or shortly behind it: expected UTF-8 text, found "
                f"{error.object[error.start : error.start + 1]!r}"
            ) from None

    def read(self, count: int) -> Chunk:
        lines: list[int] = []
        numbers = [array("d") for _ in self._bindings]
        kept: dict[str, list[str]] = {name: [] for name in self._kept}
        for line, record in itertools.islice(self._records, count):
            if len(record) != self._width:
                raise FormatError(
                    f"{self.subject}: line {line}: expected {self._width} fields as in the first line, found "
                    f"{len(record)}"
                )
            lines.append(line)
            for places, values in zip(self._places, numbers, strict=True):
                fields = [record[place] for place in places]
                try:
                    if "_" in "".join(fields):  # Python reads 1_0 as ten
                        raise ValueError
                    values.extend(map(float, fields))
                except ValueError:
                    self._refuse(line, record, places)
            for name, place in self._kept.items():
                kept[name].append(record[place])
        self.position = self._file.tell()

        def where(row: int) -> str:
            return f"{self.subject}: line {lines[row]}" if lines else self.subject

        columns = [
            from_numbers(np.array(values).reshape(len(lines), len(places)), binding.spec, self.subject)
            for values, places, binding in zip(numbers, self._places, self._bindings, strict=True)
        ]
        return Chunk(columns, where, kept)

    def _refuse(self, line: int, record: Sequence[str], places: Sequence[int]) -> NoReturn:
        wrong = next(place for place in places if not _is_number(record[place]))
        raise FormatError(
            f"{self.subject}: line {line}, column {self._names[wrong]}: expected a number, found {record[wrong]!r}"
        ) from None

    def close(self) -> None:
        self._file.close()


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return "_" not in field


class TextWriter(RowWriter):
    """A CSV file: the columns that are kept, then a column for each number of each output.

    An output of one number is called like the output, the others ``dense_0``, ``dense_1``, or ``dense_0_1`` for step 0
    and feature 1.
    """

    def __init__(self, subject: str, file: IO[bytes]) -> None:
        super().__init__(subject, file)
        self._text = io.TextIOWrapper(file, "utf-8", newline="")
        self._csv = csv.writer(self._text, lineterminator="\n")
        self._shapes: dict[str, tuple[int, ...]] = {}

    def write(self, outputs: Mapping[str, Rows], kept: Mapping[str, Any]) -> None:
        arrays = {name: one_length(rows, self._shapes.get(name), self.subject, name) for name, rows in outputs.items()}
        if not self._shapes:
            names = list(kept)
            for name, rows in arrays.items():
                shape = self._shapes[name] = rows.shape[1:]
                single = not shape or set(shape) == {1}
                names += [name] if single else ["_".join([name, *map(str, place)]) for place in np.ndindex(shape)]
            self._csv.writerow(names)
        columns: list[Any] = [_fields(column) for column in kept.values()]
        for rows in arrays.values():
            # The shortest text that means the very number.
            columns += rows.reshape(len(rows), int(np.prod(rows.shape[1:]))).astype(str).T.tolist()
        self._csv.writerows(zip(*columns, strict=True))

    def finish(self) -> None:
        self._text.flush()

    def close(self) -> None:
        # The file is another's to close, and may be closed already.
        if not self.file.closed:
            self._text.detach()


def _fields(column: Any) -> list[Any]:
    return column if isinstance(column, list) else list(column.to_pylist())
