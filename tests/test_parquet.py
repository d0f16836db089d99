"""Columns of Arrow tables and Parquet files: every layout of numbers and lists is read, and its errors say where."""

# ruff: noqa: F811 (fixtures are imported, and then named as arguments)

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_support import TWO_INPUTS, Run, peak_memory, recorded, refused, run, sensor, steps  # noqa: F401
from described import random

import lstm_engine as le
from lstm_engine.integrations.tables import Predictor

pytestmark = pytest.mark.services

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
pd = pytest.importorskip("pandas")

LENGTHS = (5, 1, 9, 3, 9, 2, 14, 5)


def _ragged(features: int = 2, lengths: Any = LENGTHS) -> list[np.ndarray]:
    return [random(place, steps, features) for place, steps in enumerate(lengths)]


def _lists(rows: Any, kind: Any = None) -> Any:
    return pa.array([row.tolist() for row in rows], kind or pa.list_(pa.list_(pa.float32())))


# --- Arrow tables and frames ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.list_(pa.float32())),
        pa.large_list(pa.large_list(pa.float64())),
        pa.list_(pa.list_(pa.float32(), 2)),
    ],
    ids=str,
)
def test_ragged_lists_of_every_layout(sensor: Path, kind: Any) -> None:
    model, rows = le.load(sensor), _ragged()
    expected = [model(row[None])[0].tobytes() for row in rows]
    table = pa.table({"id": [f"r{place}" for place in range(len(rows))], "x": _lists(rows, kind)})
    # Chunks, and slices of them, whose offsets do not begin at 0.
    for given in (table, pa.concat_tables([table.slice(0, 3), table.slice(3)]), table.slice(2, 5)):
        found = Predictor(sensor, batch_size=3)(given)
        assert found.column_names == ["id", "x", "prediction"]
        assert found.select(["id", "x"]) == given
        assert found.schema.field("prediction").type == pa.list_(pa.float32())
        begin = int(given["id"][0].as_py()[1:])
        got = [np.array(row, np.float32).tobytes() for row in found["prediction"].to_pylist()]
        assert got == expected[begin : begin + len(given)]


def test_steps_come_back_as_lists_of_their_length(steps: Path) -> None:
    model, rows = le.load(steps), _ragged(1)
    flat = pa.table({"x": pa.array([row[:, 0].tolist() for row in rows], pa.list_(pa.float32()))})
    found = Predictor(steps)(flat)["prediction"]
    assert found.type == pa.list_(pa.list_(pa.float32()))
    for row, got in zip(rows, found.to_pylist(), strict=True):
        assert np.array(got, np.float32).tobytes() == model(row[None])[0].tobytes()
    # The type does not depend on whether the rows of a batch happen to agree.
    assert Predictor(steps)(flat.slice(0, 1))["prediction"].type == found.type
    assert Predictor(steps)(flat.slice(0, 0))["prediction"].type == found.type


def test_fixed_columns_of_every_layout(sensor: Path) -> None:
    model, x = le.load(sensor), random(1, 6, 5, 2)
    fixed = pa.FixedShapeTensorArray.from_numpy_ndarray(x)
    nested = _lists(x, pa.list_(pa.list_(pa.float32(), 2), 5))
    for column in (fixed, nested, _lists(x)):
        found = Predictor(sensor)(pa.table({"x": column}))["prediction"]
        assert np.array(found.to_pylist(), np.float32).tobytes() == model(x).tobytes()


def test_one_output_of_one_number_is_a_plain_column(tmp_path: Path) -> None:
    le.Sequential([le.Dense(random(1, 3, 1))], input_shape=(3,)).save(tmp_path / "m.safetensors")
    x = random(2, 7, 3)
    table = pa.table({"x": pa.array(x.tolist(), pa.list_(pa.float32(), 3))})
    found = Predictor(tmp_path / "m.safetensors", output="score")(table)["score"]
    assert found.type == pa.float32()
    assert found.to_numpy().tobytes() == le.load(tmp_path / "m.safetensors")(x).tobytes()


def test_frames(sensor: Path, steps: Path) -> None:
    for path, features in ((sensor, 2), (steps, 1)):
        model, rows = le.load(path), _ragged(features)
        frame = pd.DataFrame({"id": range(10, 18), "x": [row.tolist() for row in rows]}, index=range(3, 11))
        found = Predictor(path)(frame)
        assert list(found.columns) == ["id", "x", "prediction"]
        assert list(found.index) == list(frame.index)
        assert "prediction" not in frame
        for row, got in zip(rows, found["prediction"], strict=True):
            assert np.array(got, np.float32).tobytes() == model(row[None])[0].tobytes()
        # As Arrow, and so Parquet and Spark, takes it.
        assert (
            pa.Table.from_pandas(found)["prediction"].to_pylist()
            == Predictor(path)(pa.table({"x": frame["x"].tolist()}))["prediction"].to_pylist()
        )


@pytest.mark.parametrize(
    ("column", "phrase"),
    [
        (pa.array([[[1.0, 2.0]], None]), "row 1 of the batch: column 'x': expected a value, found null"),
        (
            pa.array([[[1.0, 2.0]], [[1.0, 2.0], None]]),
            "row 1 of the batch: column 'x': expected a value, found a null",
        ),
        (pa.array([[[1.0, 2.0]], [[1.0, 2.0], [1.0, None]]]), "row 1 of the batch: column 'x': expected a value"),
        (pa.array([[[1.0, 2.0]], [], [[1.0, 2.0], [1.0]]]), "row 2 of the batch: column 'x': expected inner lists"),
        (pa.array([[[1.0, 2.0, 3.0]]]), "row 0 of the batch: column 'x': expected rows of shape (any, 2)"),
        (pa.array([[1.0, 2.0]]), "expected rows of shape (any, 2) for the input x, found 1 axes"),
        (pa.array([1.0, 2.0]), "found single numbers"),
        (pa.array(["a"]), "expected numbers or lists of numbers, found string"),
        (pa.array([[["a", "b"]]]), "expected numbers or lists of numbers, found string"),
    ],
)
def test_arrow_columns_that_do_not_fit(sensor: Path, column: Any, phrase: str) -> None:
    with pytest.raises(le.ShapeError) as caught:
        Predictor(sensor)(pa.table({"x": column}))
    assert phrase in str(caught.value)


# --- Files ------------------------------------------------------------------------------------------------------------


def _predicted(path: Path, column: str) -> list[bytes]:
    return [np.array(row, np.float32).tobytes() for row in pq.read_table(path)[column].to_pylist()]


@pytest.mark.parametrize("batch_size", ["1", "3", "64"])
@pytest.mark.parametrize("group", [1, 7, 1000])
def test_parquet_to_parquet(run: Run, tmp_path: Path, sensor: Path, group: int, batch_size: str) -> None:
    rows = _ragged(lengths=[(7 * place) % 12 for place in range(100)])
    table = pa.table({"id": [f"r{place}" for place in range(100)], "at": range(100), "x": _lists(rows)})
    source, target = tmp_path / "x.parquet", tmp_path / "y.parquet"
    pq.write_table(table, source, row_group_size=group)
    assert run("predict", sensor, "-i", source, "-o", target, "--keep", "at,id", "--batch-size", batch_size) == (
        0, f"{target}: dense (100, 3) float32\n", ""
    )  # fmt: skip
    written = pq.read_table(target)
    assert written.column_names == ["at", "id", "dense"]
    assert written.select(["id", "at"]) == table.select(["id", "at"])
    model = le.load(sensor)
    assert _predicted(target, "dense") == [model(row[None])[0].tobytes() for row in rows]


def test_parquet_of_steps_and_other_formats(run: Run, tmp_path: Path, steps: Path) -> None:
    model, rows = le.load(steps), _ragged(1)
    column = pa.array([row[:, 0].tolist() for row in rows], pa.list_(pa.float32()))
    pq.write_table(pa.table({"id": range(len(rows)), "load": column}), tmp_path / "x.parquet")
    given = ("predict", steps, "-i", tmp_path / "x.parquet", "--columns", "load")
    status, out, _ = run(*given, "-o", tmp_path / "y.parquet")
    assert (status, out) == (0, f"{tmp_path}/y.parquet: dense (8, any, 1) float32\n")
    assert _predicted(tmp_path / "y.parquet", "dense") == [model(row[None])[0].tobytes() for row in rows]
    for ending in (".npy", ".npz", ".csv"):
        refused(run(*given, "-o", tmp_path / f"y{ending}"), f"y{ending}: ", "rows of different lengths", ".parquet")
        assert not (tmp_path / f"y{ending}").exists()


def test_columns_of_numbers_and_csv(run: Run, tmp_path: Path, sensor: Path) -> None:
    x = random(1, 50, 3, 2)
    columns = {f"c{place}": x.reshape(50, 6)[:, place] for place in range(6)}
    pq.write_table(pa.table({"id": range(50), **columns}), tmp_path / "x.parquet", row_group_size=20)
    given = ("predict", sensor, "-i", tmp_path / "x.parquet", "--columns", "c0,c1,c2,c3,c4,c5", "--keep", "id")
    expected = le.load(sensor)(x)
    assert run(*given, "-o", tmp_path / "y.csv", "--batch-size", "1")[0] == 0
    with (tmp_path / "y.csv").open(newline="") as file:
        names, *lines = csv.reader(file)
    assert names == ["id", "dense_0", "dense_1", "dense_2"]
    assert [line[0] for line in lines] == [str(place) for place in range(50)]
    assert np.array([line[1:] for line in lines]).astype(np.float32).tobytes() == expected.tobytes()
    # And back: a CSV file with a column of text beside the numbers, to Parquet.
    (tmp_path / "x.csv").write_text(
        "\n".join(["id,a,b,c,d,e,f", *(f"r{i}," + ",".join(map(str, row)) for i, row in enumerate(x.reshape(50, 6)))])
    )
    assert run("predict", sensor, "-i", tmp_path / "x.csv", "-o", tmp_path / "y.parquet", "--keep", "id")[0] == 0
    assert pq.read_table(tmp_path / "y.parquet")["id"].to_pylist() == [f"r{place}" for place in range(50)]
    assert _predicted(tmp_path / "y.parquet", "dense") == [row.tobytes() for row in expected]


def test_parquet_of_several_inputs_and_outputs(run: Run, tmp_path: Path, recorded: dict[str, np.ndarray]) -> None:
    columns = {name: pa.array(recorded[name].tolist()) for name in ("place", "readings")}
    pq.write_table(pa.table({"other": range(7), **columns}), tmp_path / "x.parquet")
    level, alarm = le.load(TWO_INPUTS)(recorded["readings"], recorded["place"])
    assert run("predict", TWO_INPUTS, "-i", tmp_path / "x.parquet", "-o", tmp_path / "y.parquet")[0] == 0
    written = pq.read_table(tmp_path / "y.parquet")
    assert written["level"].to_numpy().tobytes() == level.tobytes()
    assert _predicted(tmp_path / "y.parquet", "alarm") == [row.tobytes() for row in alarm]


def test_a_bad_row_is_found_in_its_row_group(run: Run, tmp_path: Path, sensor: Path) -> None:
    rows = [row.tolist() for row in _ragged(lengths=[3] * 50)]
    rows[33][1][0] = None
    pq.write_table(pa.table({"x": rows}), tmp_path / "x.parquet", row_group_size=20)
    for batch_size in ("1", "64"):
        result = run("predict", sensor, "-i", tmp_path / "x.parquet", "-o", tmp_path / "y.parquet", "--batch-size",
                     batch_size)  # fmt: skip
        refused(result, "x.parquet: row group 1, row 13: column 'x': expected a value, found a null in its list")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sensor.safetensors", "x.parquet"]


def test_damaged_parquet_is_refused(run: Run, tmp_path: Path, sensor: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(
        pa.table({"x": _lists(_ragged(lengths=[30] * 400)), "id": range(400)}), path, row_group_size=100,
        compression="gzip",
    )  # fmt: skip
    sound = path.read_bytes()
    place = pq.ParquetFile(path).metadata.row_group(2).column(0).data_page_offset
    for content, phrases in (
        (sound[:-9], ("expected a Parquet file, found a damaged one",)),
        (b"PAR1", ("expected a Parquet file, found a damaged one",)),
        (sound[: place + 40] + bytes(200) + sound[place + 240 :], ("row group 2, column x: expected sound data",)),
    ):
        path.write_bytes(content)
        refused(run("predict", sensor, "-i", path, "-o", tmp_path / "y.parquet"), "x.parquet: ", *phrases)
        assert not (tmp_path / "y.parquet").exists()
    path.write_bytes(sound)
    for options, phrase in (
        (("--columns", "z"), "the name of one column, found 'z'; the columns are x, id"),
        (("--keep", "z"), "--keep: expected the name of one column, found 'z'"),
        (("--columns", "x,id"), "column 'x': expected a number where an input is made of several columns"),
        (("--columns", "id"), "found single numbers"),
    ):
        refused(run("predict", sensor, "-i", path, "-o", tmp_path / "y.parquet", *options), phrase)


def test_no_rows(run: Run, tmp_path: Path, sensor: Path) -> None:
    pq.write_table(pa.table({"x": _lists([])}), tmp_path / "x.parquet")
    assert run("predict", sensor, "-i", tmp_path / "x.parquet", "-o", tmp_path / "y.parquet") == (
        0, f"{tmp_path}/y.parquet: dense (0, 3) float32\n", ""
    )  # fmt: skip
    assert pq.read_table(tmp_path / "y.parquet").schema.field("dense").type == pa.list_(pa.float32())


def test_pyarrow_is_named_where_it_is_missing(
    run: Run, tmp_path: Path, sensor: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    pq.write_table(pa.table({"x": _lists(_ragged())}), tmp_path / "x.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    refused(run("predict", sensor, "-i", tmp_path / "x.parquet", "-o", tmp_path / "y.csv"), "lstm-engine[parquet]")
    np.save(tmp_path / "x.npy", random(1, 4, 5, 2))
    refused(run("predict", sensor, "-i", tmp_path / "x.npy", "-o", tmp_path / "y.parquet"), "lstm-engine[parquet]")


def test_memory_does_not_grow_with_the_file(tmp_path: Path, sensor: Path) -> None:
    peaks = []
    block = _lists(random(1, 500, 400, 2), pa.list_(pa.list_(pa.float32(), 2)))
    for groups in (5, 40):
        with pq.ParquetWriter(tmp_path / "x.parquet", pa.schema([("x", block.type)]), compression="none") as writer:
            for _ in range(groups):
                writer.write_table(pa.table({"x": block}))
        peaks.append(peak_memory("predict", sensor, "-i", tmp_path / "x.parquet", "-o",
                                 tmp_path / "y.parquet", "--batch-size", "16"))  # fmt: skip
    # Without compression 56 MB more to read.
    assert peaks[1] - peaks[0] < 16 * 1024, peaks
