"""Parquet files, some rows at a time, with pyarrow (the extra ``[parquet]``)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final

import numpy as np

from lstm_engine.arrow_columns import column_of, rows_of
from lstm_engine.errors import FormatError, LstmEngineError, ShapeError
from lstm_engine.ragged import Ragged, Rows, Where, fitted

from .chunks import Binding, Chunk, RowReader, RowWriter, from_numbers, one_column

__all__ = ["ParquetReader", "ParquetWriter"]

#: A row group is written when this many rows or bytes are there: large enough to be read in one go, small in memory.
_GROUP_ROWS: Final = 1 << 16
_GROUP_BYTES: Final = 1 << 24


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise LstmEngineError(
            "Parquet: expected the package pyarrow, found none; install it with: pip install lstm-engine[parquet]"
        ) from error
    return pa, pq


class ParquetReader(RowReader):
    """A Parquet file, read row group by row group, of which only a part is in memory.

    An input takes the column that the user named, or those, if several that hold a number each; else the one that is
    called like it; else, where it is the only input, the only one that is not kept.
    """

    def __init__(self, path: str, bindings: Sequence[Binding], keep: Sequence[str], count: int) -> None:
        self._pa, pq = _pyarrow()
        self.subject = path
        self._bindings = bindings
        self._step = count
        self._handle = Path(path).open("rb")  # noqa: SIM115  # closed by close
        try:
            self._file = pq.ParquetFile(self._handle, buffer_size=1 << 20, pre_buffer=False)
            schema = self._file.schema_arrow
        except (self._pa.ArrowException, OSError) as error:
            self._handle.close()
            raise FormatError(f"{path}: expected a Parquet file, found a damaged one ({_first_line(error)})") from None
        try:
            self._names = list(schema.names)
            self._keep = [one_column(self._names, name, path, "--keep") for name in keep]
            self._columns = [self._columns_of(binding) for binding in bindings]
        except BaseException:
            self._handle.close()
            raise
        self.rows = self.size = int(self._file.metadata.num_rows)
        self._batches = self._read_groups()
        self._rest: list[tuple[int, int, Any]] = []

    def _columns_of(self, binding: Binding) -> list[str]:
        if binding.columns:
            return [one_column(self._names, name, self.subject, "--columns") for name in binding.columns]
        name = binding.spec.name
        if self._names.count(name) == 1:
            return [name]
        others = [found for found in self._names if found not in self._keep]
        if len(self._bindings) == len(others) == 1:
            return others
        raise ShapeError(
            f"{self.subject}: expected a column {name} for the input {name}, found {', '.join(self._names) or 'none'}; "
            f"name it with --columns {name}=NAME"
        )

    def _read_groups(self) -> Iterator[tuple[int, int, Any]]:
        """Yield the row group, the first row in it, and the rows."""
        wanted = list(dict.fromkeys([*self._keep, *(name for names in self._columns for name in names)]))
        for group in range(self._file.metadata.num_row_groups):
            first = 0
            try:
                # One thread: order and memory are then those of the file, and so is who uses the CPUs.
                for batch in self._file.iter_batches(
                    batch_size=self._step, row_groups=[group], columns=wanted, use_threads=False
                ):
                    yield group, first, batch
                    first += batch.num_rows
            except (self._pa.ArrowException, OSError) as error:
                raise FormatError(
                    f"{self.subject}: row group {group}, {self._damaged(group, wanted)}: expected sound data, found it "
                    f"damaged ({_first_line(error)})"
                ) from None

    def _damaged(self, group: int, names: Sequence[str]) -> str:
        """Return which columns of a row group cannot be read."""
        damaged = []
        for name in names:
            try:
                for _ in self._file.iter_batches(
                    batch_size=self._step, row_groups=[group], columns=[name], use_threads=False
                ):
                    pass
            except (self._pa.ArrowException, OSError):
                damaged.append(name)
        return f"column {', '.join(damaged or names)}"

    def read(self, count: int) -> Chunk:
        parts, have = self._rest, sum(batch.num_rows for _, _, batch in self._rest)
        while have < count:
            more = next(self._batches, None)
            if more is None:
                break
            parts.append(more)
            have += more[2].num_rows
        self._rest = []
        if have > count:
            group, first, batch = parts.pop()
            fits = batch.num_rows - (have - count)
            self._rest = [(group, first + fits, batch.slice(fits))]
            parts.append((group, first, batch.slice(0, fits)))
        self.position += min(have, count)
        where = self._where([(group, first, batch.num_rows) for group, first, batch in parts])
        if parts:
            table = self._pa.Table.from_batches([batch for _, _, batch in parts])
        else:
            table = self._file.schema_arrow.empty_table()
        columns = [
            self._rows(table, names, binding, where)
            for names, binding in zip(self._columns, self._bindings, strict=True)
        ]
        return Chunk(columns, where, {name: table.column(name) for name in self._keep})

    def _rows(self, table: Any, names: Sequence[str], binding: Binding, where: Where) -> Rows:
        if len(names) == 1:
            rows = rows_of(table.column(names[0]), names[0], where)
            return fitted(rows, binding.spec, f"column {names[0]!r}", where)
        numbers = []
        for name in names:
            rows = rows_of(table.column(name), name, where)
            if isinstance(rows, Ragged) or rows.ndim != 1:
                raise ShapeError(
                    f"{where(0)}: column {name!r}: expected a number where an input is made of several columns, found "
                    "a list"
                )
            numbers.append(rows)
        return from_numbers(np.stack(numbers, axis=1), binding.spec, self.subject)

    def _where(self, parts: Sequence[tuple[int, int, int]]) -> Where:
        def where(row: int) -> str:
            for group, first, count in parts:
                if row < count:
                    return f"{self.subject}: row group {group}, row {first + row}"
                row -= count
            return self.subject

        return where

    def close(self) -> None:
        self._file.close()
        self._handle.close()


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


class ParquetWriter(RowWriter):
    """A Parquet file: the columns that are kept, then one for each output, of numbers or lists of numbers."""

    def __init__(self, subject: str, file: IO[bytes]) -> None:
        super().__init__(subject, file)
        self._pa, self._pq = _pyarrow()
        self._writer: Any = None
        self._tables: list[Any] = []

    def write(self, outputs: Mapping[str, Rows], kept: Mapping[str, Any]) -> None:
        columns = {
            name: self._pa.array(column) if isinstance(column, list) else column for name, column in kept.items()
        }
        columns |= {name: column_of(rows) for name, rows in outputs.items()}
        table = self._pa.table(columns)
        if self._writer is None:
            self._writer = self._pq.ParquetWriter(self.file, table.schema)
        self._tables.append(table)
        rows = sum(table.num_rows for table in self._tables)
        if rows >= _GROUP_ROWS or sum(table.nbytes for table in self._tables) >= _GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        table = self._pa.concat_tables(self._tables)
        self._tables = []
        self._writer.write_table(table, row_group_size=max(table.num_rows, 1))

    def finish(self) -> None:
        if self._tables:
            self._flush()
        self._writer.close()
        self._writer = None

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
