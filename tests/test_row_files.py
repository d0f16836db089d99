"""``lstm-engine predict`` from files to files: the same bits in every format, in constant memory, all or nothing."""

# ruff: noqa: F811 (fixtures are imported, and then named as arguments)

from __future__ import annotations

import csv
import zipfile
from pathlib import Path

import numpy as np
import pytest
from cli_support import TWO_INPUTS, Run, peak_memory, recorded, refused, run, sensor, steps  # noqa: F401
from described import random

import lstm_engine as le


def _text(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


# --- NumPy ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [0, 1, 15, 16, 17, 100])
@pytest.mark.parametrize("ending", [".npy", ".npz", " compressed.npz"])
def test_any_number_of_rows_has_the_bits_of_one_call(
    run: Run, tmp_path: Path, sensor: Path, rows: int, ending: str
) -> None:
    x = random(9, rows, 5, 2)
    source, target = tmp_path / f"x{ending}", tmp_path / f"y{ending}"
    {".npy": np.save, ".npz": np.savez}.get(ending, np.savez_compressed)(source, x)
    # 16 batches are read at a time: of one row here, so that there are several chunks and an uneven end.
    assert run("predict", sensor, "-i", source, "-o", target, "--batch-size", "1") == (
        0, f"{target}: dense ({rows}, 3) float32\n", ""
    )  # fmt: skip
    found = np.load(target) if ending == ".npy" else np.load(target)["dense"]
    assert found.flags.c_contiguous
    assert found.tobytes() == le.load(sensor)(x).tobytes()


def test_arrays_in_fortran_order(run: Run, tmp_path: Path, sensor: Path) -> None:
    x = random(9, 40, 5, 2)
    for name, save in (("x.npy", np.save), ("x.npz", np.savez)):
        save(tmp_path / name, np.asfortranarray(x))
        assert run("predict", sensor, "-i", tmp_path / name, "-o", tmp_path / "y.npy", "--batch-size", "1")[0] == 0
        assert np.load(tmp_path / "y.npy").tobytes() == le.load(sensor)(x).tobytes()


def test_an_array_names_the_row_that_is_wrong(run: Run, tmp_path: Path) -> None:
    le.Sequential([le.Embedding(random(1, 5, 2)), le.LastStep()]).save(tmp_path / "m.safetensors")
    x = np.zeros((50, 4), np.int64)
    x[37, 2] = 5
    np.save(tmp_path / "x.npy", x)
    (tmp_path / "y.npy").write_bytes(b"old")
    result = run("predict", tmp_path / "m.safetensors", "-i", tmp_path / "x.npy", "-o", tmp_path / "y.npy",
                 "--batch-size", "2")  # fmt: skip
    refused(result, "x.npy: row 37: ", "found 5 at (0, 2)")
    assert (tmp_path / "y.npy").read_bytes() == b"old"
    assert not list(tmp_path.glob(".*"))


def test_a_damaged_end_of_an_archive_is_found(run: Run, tmp_path: Path, sensor: Path) -> None:
    np.savez(tmp_path / "x.npz", random(9, 500, 5, 2))
    content = bytearray((tmp_path / "x.npz").read_bytes())
    with zipfile.ZipFile(tmp_path / "x.npz") as archive:
        (entry,) = archive.infolist()
    content[entry.header_offset + entry.file_size] ^= 1  # in the last rows
    (tmp_path / "x.npz").write_bytes(content)
    result = run("predict", sensor, "-i", tmp_path / "x.npz", "-o", tmp_path / "y.npy", "--batch-size", "4")
    refused(result, "x.npz: expected a NumPy .npz file, found a damaged archive")
    assert not (tmp_path / "y.npy").exists()


def test_files_of_several_inputs_must_agree(run: Run, tmp_path: Path, recorded: dict[str, np.ndarray]) -> None:
    np.save(tmp_path / "readings.npy", recorded["readings"])
    np.save(tmp_path / "place.npy", recorded["place"][:-1])
    np.savez(tmp_path / "x.npz", readings=recorded["readings"], place=recorded["place"][:-1])
    for inputs in (("-i", tmp_path / "readings.npy", "-i", tmp_path / "place.npy"), ("-i", tmp_path / "x.npz")):
        refused(run("predict", TWO_INPUTS, *inputs, "-o", tmp_path / "y.npz"), "as many rows", "7", "6")
    (tmp_path / "place.csv").write_text("\n".join(",".join(map(str, row)) for row in recorded["place"][:-1]))
    refused(
        run("predict", TWO_INPUTS, "-i", tmp_path / "readings.npy", "-i", tmp_path / "place.csv", "-o",
            tmp_path / "y.npz"), "place.csv ends before the others",
    )  # fmt: skip


# --- CSV --------------------------------------------------------------------------------------------------------------


def _write_csv(path: Path, x: np.ndarray, header: str = "") -> None:
    lines = [",".join(map(str, row)) for row in x.reshape(len(x), -1)]
    path.write_text("\n".join([*([header] if header else []), *lines]) + "\n")


@pytest.mark.parametrize("header", ["", ",".join(f"x_{step}_{feature}" for step in range(5) for feature in range(2))])
@pytest.mark.parametrize("batch_size", ["1", "64"])
def test_csv_has_the_bits_of_one_call(run: Run, tmp_path: Path, sensor: Path, header: str, batch_size: str) -> None:
    x = random(9, 40, 5, 2)
    _write_csv(tmp_path / "x.csv", x, header)
    target = tmp_path / "y.csv"
    assert run("predict", sensor, "-i", tmp_path / "x.csv", "-o", target, "--batch-size", batch_size) == (
        0, f"{target}: dense (40, 3) float32\n", ""
    )  # fmt: skip
    names, *lines = _text(target)
    assert names == ["dense_0", "dense_1", "dense_2"]
    assert np.array(lines).astype(np.float32).tobytes() == le.load(sensor)(x).tobytes()


def test_csv_with_other_columns(run: Run, tmp_path: Path, steps: Path) -> None:
    x = random(9, 20, 3, 1)
    lines = [f'"pump, {place}",{a},{b},note,{c}' for place, (a, b, c) in enumerate(x[..., 0].tolist())]
    (tmp_path / "x.csv").write_text("\ufeff" + "\r\n".join(["name,a,b,remark,c", "", *lines]), encoding="utf-8")
    target = tmp_path / "y.csv"
    assert run("predict", steps, "-i", tmp_path / "x.csv", "-o", target, "--columns", "a,b,c", "--keep",
               "name,remark")[0] == 0  # fmt: skip
    names, *found = _text(target)
    assert names == ["name", "remark", "dense_0_0", "dense_1_0", "dense_2_0"]
    assert [line[:2] for line in found] == [[f"pump, {place}", "note"] for place in range(20)]
    y = np.array([line[2:] for line in found]).astype(np.float32)
    assert y.tobytes() == le.load(steps)(x).tobytes()


def test_csv_of_several_inputs_and_outputs(run: Run, tmp_path: Path, recorded: dict[str, np.ndarray]) -> None:
    readings, place = (recorded[name].reshape(7, -1) for name in ("readings", "place"))
    header = [f"readings_{number}" for number in range(readings.shape[1])]
    header += [f"place_{number}" for number in range(place.shape[1])]
    _write_csv(tmp_path / "x.csv", np.concatenate([readings, place], axis=1), ",".join(header))
    model = le.load(TWO_INPUTS)
    level, alarm = model(recorded["readings"], recorded["place"])
    assert run("predict", TWO_INPUTS, "-i", tmp_path / "x.csv", "-o", tmp_path / "y.csv")[0] == 0
    names, *lines = _text(tmp_path / "y.csv")
    assert names == ["level", "alarm_0", "alarm_1"]
    assert np.array(lines).astype(np.float32).tobytes() == np.concatenate([level, alarm], axis=1).tobytes()


@pytest.mark.parametrize(
    ("content", "phrases"),
    [
        (b"", ("found an empty file",)),
        (b"\n\n", ("found an empty file",)),
        (b"1,2\n3\n", ("line 2: expected 2 fields", "found 1")),
        (b"1,2\n3,4\n5,warm\n", ("line 3, column 2: expected a number, found 'warm'",)),
        (b"a,b\n3,4\n\n5,\n", ("line 4, column b: expected a number, found ''",)),
        (b"a,b\n3,1_0\n", ("line 2, column b: expected a number, found '1_0'",)),
        (b"1,2,3\n", ("expected a multiple of 2 columns", "found 3", "--columns")),
        (b'1,2\n"3,4\n', ("line 2: expected CSV",)),
        (b"1,2\n3,\xff\n", ("expected UTF-8 text, found b'\\xff'",)),
        (b"1,2\n1e60,0\n", ("line 2: ", "expected values within the range of float32")),
    ],
)
def test_bad_csv_is_refused_with_its_line(
    run: Run, tmp_path: Path, sensor: Path, content: bytes, phrases: tuple[str, ...]
) -> None:
    (tmp_path / "x.csv").write_bytes(content)
    refused(run("predict", sensor, "-i", tmp_path / "x.csv", "-o", tmp_path / "y.npy"), "x.csv", *phrases)
    assert not (tmp_path / "y.npy").exists()
    assert not list(tmp_path.glob(".*"))


def test_options_for_tables_are_refused_where_there_is_none(run: Run, tmp_path: Path, sensor: Path) -> None:
    np.save(tmp_path / "x.npy", random(9, 4, 5, 2))
    (tmp_path / "x.csv").write_text("name,a,b,b\nq,1,2,3\n")
    array, table = ("-i", tmp_path / "x.npy"), ("-i", tmp_path / "x.csv")
    target = ("-o", tmp_path / "y.csv")
    refused(run("predict", sensor, *array, *target, "--columns", "a"), "--columns", "found NumPy arrays")
    refused(run("predict", sensor, *array, *target, "--keep", "a"), "--keep: expected one CSV or Parquet file")
    refused(run("predict", sensor, *table, *target, "--columns", "a,c"), "--columns", "found 'c'", "name, a, b, b")
    refused(run("predict", sensor, *table, *target, "--columns", "a,b"), "the name of one column, found 'b'")
    refused(run("predict", sensor, *table, *target, "--columns", "y=a"), "--columns: expected INPUT=", "among x")
    refused(run("predict", sensor, *table, *target, "--columns", "x="), "--columns: expected INPUT=")
    refused(run("predict", sensor, *table, "-o", tmp_path / "y.npy", "--keep", "name"), "an array has no columns")
    refused(run("predict", TWO_INPUTS, *table, *target), "expected columns readings_0", "--columns readings=")


def test_progress_counts_rows_and_bytes(run: Run, tmp_path: Path, sensor: Path) -> None:
    pytest.importorskip("tqdm")
    x = random(9, 40, 5, 2)
    np.save(tmp_path / "x.npy", x)
    _write_csv(tmp_path / "x.csv", x)
    for name, phrase in (("x.npy", "40.0/40.0"), ("x.csv", "100%")):
        status, _, err = run("predict", sensor, "-i", tmp_path / name, "-o", tmp_path / "y.npy", "--progress",
                             "--batch-size", "1")  # fmt: skip
        assert status == 0
        assert phrase in err


# --- Memory -----------------------------------------------------------------------------------------------------------


def _zeros(path: Path, rows: int, width: int) -> None:
    """Write a .npy file of zeros that takes no room on the disk, or a .npz, or a .csv."""
    if path.suffix == ".csv":
        with path.open("w") as file:
            for _ in range(rows):
                file.write("0," * (width - 1) + "0\n")
    elif path.suffix == ".npz":
        np.savez_compressed(path, np.broadcast_to(np.float32(0), (rows, width)))
    else:
        np.lib.format.open_memmap(path, "w+", np.float32, (rows, width)).flush()


@pytest.mark.timing
@pytest.mark.parametrize(
    ("ending", "rows", "width"), [(".npy", 16_000, 2000), (".npz", 16_000, 2000), (".csv", 12_000, 200)]
)
def test_memory_does_not_grow_with_the_file(tmp_path: Path, ending: str, rows: int, width: int) -> None:
    model, source, target = tmp_path / "m.safetensors", tmp_path / f"x{ending}", tmp_path / f"y{ending}"
    le.Sequential([le.Dense(np.zeros((width, 100), np.float32))], input_shape=(width,)).save(model)
    peaks = []
    for count in (rows // 8, rows):
        _zeros(source, count, width)
        peaks.append(peak_memory("predict", model, "-i", source, "-o", target, "--batch-size", "16"))
    # 112 MB more of numbers to read, in the CSV 17 MB; 6 or 4 MB more to write.
    assert peaks[1] - peaks[0] < 6 * 1024, peaks
