"""From files of rows to files of rows: which file holds what, and the way in between."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from lstm_engine.array_files import check_output
from lstm_engine.errors import FormatError, LstmEngineError, ShapeError
from lstm_engine.ragged import Ragged, Rows, run_rows
from lstm_engine.replacement import replacement

from .arrays import ArchiveReader, ArchiveWriter, ArrayReader, ArrayWriter
from .chunks import Binding, Chunk, RowReader, RowWriter
from .text import TextReader, TextWriter

if TYPE_CHECKING:
    from lstm_engine.model import Model

__all__ = ["ENDINGS", "Written", "predict_files"]

#: Batches that are read at a time: rows of different lengths are sorted among so many.
_BATCHES: Final = 16

#: Endings of files that can be written.
ENDINGS: Final = (".npy", ".npz", ".csv", ".parquet")


class Written:
    """What has been written of one output: its rows, their shape and dtype."""

    def __init__(self) -> None:
        self.rows = 0
        self.shape: tuple[int | None, ...] | None = None
        self.dtype = ""

    def count(self, rows: Rows) -> None:
        """Count some more rows."""
        array = rows.values if isinstance(rows, Ragged) else rows
        shape: tuple[int | None, ...] = (None, *array.shape[1:]) if isinstance(rows, Ragged) else array.shape[1:]
        before = shape if self.shape is None else self.shape
        self.rows += len(rows)
        self.shape = tuple(a if a == b else None for a, b in zip(before, shape, strict=True))
        self.dtype = array.dtype.name

    def __str__(self) -> str:
        sizes = [str(self.rows), *("any" if size is None else str(size) for size in self.shape or ())]
        return f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''}) {self.dtype}"


def predict_files(
    model: Model,
    inputs: Sequence[str],
    outputs: Mapping[str, Sequence[str]],
    *,
    batch_size: int,
    columns: Mapping[str, Sequence[str]] | None = None,
    keep: Sequence[str] = (),
    progress: bool = False,
) -> dict[str, Written]:
    """Run a model on files of rows; every output file appears whole or not at all.

    Parameters
    ----------
    model
        The model.
    inputs
        One file with all inputs, or one for each in the model's order.
    outputs
        The names of the outputs that go to each file.
    batch_size
        Most rows that are computed together.
    columns
        The columns of a table that each input is made of, for inputs where the file does not tell.
    keep
        Columns of the input that go to the output as they are; between tables alone.
    progress
        Whether to show a progress bar (needs the package tqdm).

    Returns
    -------
    dict
        What was written of each output.

    Raises
    ------
    ShapeError, FormatError
        If a file does not fit, or holds what it must not, saying where.
    LstmEngineError
        If a package for a format is missing.
    OSError
        If a file cannot be read or written.
    """
    count = batch_size * _BATCHES
    written = {spec.name: Written() for spec in model.outputs}
    with contextlib.ExitStack() as stack:
        targets = {path: check_output(path, len(names), ENDINGS) for path, names in outputs.items()}
        readers = _open(inputs, model, columns or {}, keep, count)
        for reader in readers:
            stack.callback(reader.close)
        bar = stack.enter_context(_progress_bar(readers[0])) if progress else None
        writers: dict[str, RowWriter] = {}
        for path, target in targets.items():
            if keep and target.suffix in (".npy", ".npz"):
                raise ShapeError(f"{path}: expected a .csv or .parquet file with --keep, for an array has no columns")
            file = stack.enter_context(replacement(target))
            writers[path] = _writer(target.suffix)(path, file)
            stack.callback(writers[path].close)
        for chunk in _chunks(readers, count):
            results = run_rows(model, chunk.columns, batch_size, chunk.where)
            named = dict(zip(written, results, strict=True))
            for name, rows in named.items():
                written[name].count(rows)
            for path, writer in writers.items():
                writer.write({name: named[name] for name in outputs[path]}, chunk.kept)
            if bar is not None:
                bar.update(readers[0].position - bar.n)
        for writer in writers.values():
            writer.finish()
    return written


def _open(
    paths: Sequence[str], model: Model, columns: Mapping[str, Sequence[str]], keep: Sequence[str], count: int
) -> list[RowReader]:
    """Open the files of the inputs."""
    bindings = [Binding(spec, tuple(columns.get(spec.name, ()))) for spec in model.inputs]
    names = ", ".join(binding.spec.name for binding in bindings)
    kinds = [_kind(path) for path in paths]
    if len(paths) == 1 and kinds[0] != "npy":
        groups = [bindings]
    else:
        for path, kind in zip(paths, kinds, strict=True):
            if kind == "npz":
                raise FormatError(
                    f"{path}: expected a .npy file or a table; an .npz file must be the only --input, with all inputs "
                    "by name"
                )
        if len(paths) != len(bindings):
            raise ShapeError(
                f"--input: expected {len(bindings)} arrays for the inputs {names}, found {len(paths)}; give --input "
                "once for each, in this order"
            )
        groups = [[binding] for binding in bindings]
    if keep and (len(paths) != 1 or kinds[0] in ("npy", "npz")):
        raise ShapeError("--keep: expected one CSV or Parquet file as --input, which has columns, found another")
    with contextlib.ExitStack() as stack:
        readers: list[RowReader] = []
        for path, kind, group in zip(paths, kinds, groups, strict=True):
            if kind in ("npy", "npz") and any(binding.columns for binding in group):
                raise ShapeError(f"{path}: expected a CSV or Parquet file with --columns, found NumPy arrays")
            readers.append(_reader(path, kind, group, keep, count))
            stack.callback(readers[-1].close)
        known = {reader.rows for reader in readers} - {None}
        if len(known) > 1:
            told = ", ".join(f"{reader.subject} {reader.rows}" for reader in readers if reader.rows is not None)
            raise ShapeError(f"--input: expected as many rows in every file, found {told}")
        stack.pop_all()
    return readers


def _kind(path: str) -> str:
    """Return what a file is, by its content; CSV, which has no mark, by its name."""
    with Path(path).open("rb") as file:
        head = file.read(6)
    if head == b"\x93NUMPY":
        return "npy"
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return "npz"
    if head[:4] == b"PAR1":
        return "parquet"
    if Path(path).suffix.lower() == ".csv":
        return "csv"
    found = f"one that begins with {head!r}" if head else "an empty one"
    raise FormatError(
        f"{path}: expected a NumPy .npy or .npz, a CSV or a Parquet file, found {found}; write it with numpy.save, or "
        "call it .csv if it is one"
    )


def _reader(path: str, kind: str, bindings: Sequence[Binding], keep: Sequence[str], count: int) -> RowReader:
    match kind:
        case "npy":
            return ArrayReader(path, bindings)
        case "npz":
            return ArchiveReader(path, bindings)
        case "csv":
            return TextReader(path, bindings, keep)
        case _:
            from .parquet import ParquetReader

            return ParquetReader(path, bindings, keep, count)


def _writer(ending: str) -> type[RowWriter]:
    if ending == ".parquet":
        from .parquet import ParquetWriter

        return ParquetWriter
    return {".npy": ArrayWriter, ".npz": ArchiveWriter, ".csv": TextWriter}[ending]


def _chunks(readers: Sequence[RowReader], count: int) -> Iterator[Chunk]:
    """Yield the rows of all files together; one chunk at least, for it tells the shapes of the outputs."""
    first = True
    while True:
        parts = [reader.read(count) for reader in readers]
        sizes = [len(part) for part in parts]
        if len(set(sizes)) > 1:
            short = readers[int(np.argmin(sizes))]
            raise ShapeError(
                f"--input: expected as many rows in every file, found that {short.subject} ends before the others"
            )
        if sizes[0] or first:
            yield Chunk([column for part in parts for column in part.columns], parts[0].where, parts[0].kept)
        first = False
        if sizes[0] < count:
            return


def _progress_bar(reader: RowReader) -> Any:
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        raise LstmEngineError(
            "progress: expected the package tqdm, found none; install it with: pip install lstm-engine[progress]"
        ) from error
    return tqdm(total=reader.size, unit=reader.unit, unit_scale=True)
