"""The corpus of hostile files ``n_*`` and of their sound neighbours ``y_*``, and what may happen with each.

attacks.tsv is the table of what each hostile file ends in. make_attack_corpus.py makes the files, guarded.py loads
them: in a process with little address space and a limit on the time of each load. It reports any event (a file opened,
a program started, a module imported) that a file was not entitled to.
"""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch_support as made
from hdf5_attacks import hdf5
from keras_attacks import keras, layer, model

pytest.importorskip("onnx")

if sys.platform != "linux":
    pytest.skip("the limits of a process are those of Linux", allow_module_level=True)

import lstm_engine as le
from lstm_engine.cli import main
from lstm_engine.info import describe_file

HERE = Path(__file__).parent
HOSTILE = sorted(path.name for path in HERE.glob("n_*"))
SOUND = sorted(path.name for path in HERE.glob("y_*"))

with (HERE / "attacks.tsv").open(newline="") as table:
    EXPECTED = {
        row["file"]: (row["error"], row["part of its message"])
        for row in csv.DictReader(table, delimiter="\t", quoting=csv.QUOTE_NONE)
    }


@pytest.fixture(scope="module")
def outcomes() -> dict[str, dict[str, Any]]:
    """Load the whole corpus in another process; the file after the last outcome is the one that ended it."""
    files = [*HOSTILE, *SOUND]
    done = subprocess.run(
        [sys.executable, "guarded.py", "corpus", *files],
        cwd=HERE,
        env={**os.environ, "PYTHONPATH": str(HERE.parents[1])},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    ended = files[len(found)] if len(found) < len(files) else "after the last file"
    assert done.returncode == 0, f"{ended} ended the process with status {done.returncode}:\n{done.stderr[-2000:]}"
    return {outcome["file"]: outcome for outcome in found}


def test_the_table_names_every_file() -> None:
    assert list(EXPECTED) == HOSTILE
    assert len(HOSTILE) >= 300


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_as_the_table_says(name: str, outcomes: dict[str, dict[str, Any]]) -> None:
    kind, part = EXPECTED[name]
    outcome = outcomes[name]
    assert (outcome["error"], part in outcome["message"]) == (kind, True), outcome
    assert outcome["message"].startswith(f"{name}: ")
    assert outcome["message"].replace("\n", "").isprintable()


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_file_is_loaded(name: str, outcomes: dict[str, dict[str, Any]]) -> None:
    assert outcomes[name]["error"] is None, outcomes[name]
    np.testing.assert_allclose(outcomes[name]["last"], [0.0063931582, 0.9693934616], rtol=1e-6)


@pytest.mark.parametrize("name", HOSTILE[:: len(HOSTILE) // 24])
def test_the_same_file_ends_in_the_same_error(name: str, outcomes: dict[str, dict[str, Any]]) -> None:
    path = HERE / name
    with pytest.raises(le.LstmEngineError) as caught:
        le.load(path) if path.suffix in (".keras", ".h5", ".onnx") else le.LSTM.from_torch(path)
    assert str(caught.value).replace(str(path), name) == outcomes[name]["message"]


# --- What is shown of a file ------------------------------------------------------------------------------------------


def test_groups_in_each_other_are_shown_once(tmp_path: Path) -> None:
    weights = hdf5(lambda file: file["layers"].__setitem__("again", file["layers"]))
    path = tmp_path / "m.keras"
    path.write_bytes(keras(model(layer("Odd", "x")), weights))
    lines = "\n".join(describe_file(str(path)))
    assert "The model cannot be run" in lines
    assert lines.count("vars/0") == 1


def test_a_name_gives_no_orders_to_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.keras"
    path.write_bytes(keras(model(layer("Dropout", "\x1b[2Jevil", rate=0.5), layer("Dropout", "名", rate=0.5))))
    assert main(["info", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "\\x1b[2Jevil" in shown
    assert "名" in shown


# --- What a caller may allow ------------------------------------------------------------------------------------------


NONFINITE = [name for name in HOSTILE if re.search(r"_weight_(nan|inf)\.", name)]


@pytest.mark.parametrize("name", NONFINITE)
def test_weights_that_are_not_finite_are_loaded_if_they_are_asked_for(name: str) -> None:
    path = HERE / name
    x = np.ones((1, 2, 1), np.float32)
    if path.suffix == ".keras":
        y = le.load(path, allow_nonfinite=True)(x)
        again = le.LSTM.from_keras(path, allow_nonfinite=True)(x)[0]
        np.testing.assert_array_equal(y, again)
    else:
        y, _ = le.LSTM.from_torch(path, allow_nonfinite=True)(x)
    assert np.asarray(y).shape == (1, 2, 1)
    # One load is not allowed what another was.
    with pytest.raises(le.UnsupportedModelError, match="allow_nonfinite=True"):
        le.load(path) if path.suffix == ".keras" else le.LSTM.from_torch(path)


def test_our_own_format_is_no_way_around_that(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    le.load(HERE / "n_hdf5_weight_nan.keras", allow_nonfinite=True).save(path)
    with pytest.raises(le.UnsupportedModelError, match="NaN or infinity"):
        le.load(path)
    assert np.isnan(le.load(path, allow_nonfinite=True)(np.ones((1, 2, 1), np.float32))).any()


def test_allow_nonfinite_is_for_the_other_layers_of_a_state_dict_too() -> None:
    state = {"fc.weight": np.full((2, 3), np.inf, np.float32), "fc.bias": np.zeros(2, np.float32)}
    table = {"e.weight": np.full((2, 3), np.nan, np.float32)}
    for make, source, name in ((le.Dense, state, "fc"), (le.Embedding, table, "e")):
        with pytest.raises(le.UnsupportedModelError, match="NaN or infinity"):
            make.from_torch(source, name)
        assert not np.isfinite(next(iter(make.from_torch(source, name, allow_nonfinite=True).weights().values()))).all()


#: A file, and a cap that it is within only if the cap is the usual one.
CAPS = {
    "zip_members": ("y_keras_plain.keras", 2),
    "json_bytes": ("y_keras_plain.keras", 100),
    "json_depth": ("y_keras_plain.keras", 3),
    "name_length": ("y_keras_plain.keras", 8),
    "hdf5_entries": ("y_keras_plain.keras", 20),
    "tensors": ("y_keras_plain.keras", 2),
    "header_bytes": ("y_safetensors_plain.safetensors", 100),
    "nesting": ("y_torch_more_values.pt", 2),
    "pickle_bytes": ("y_torch_plain.pt", 100),
    "pickle_opcodes": ("y_torch_plain.pt", 50),
    "pickle_containers": ("y_torch_plain.pt", 10),
    "pickle_copied_bytes": ("y_torch_plain.pt", 100),
    "pickle_stack": ("y_torch_plain.pt", 5),
    "pickle_marks": ("y_torch_plain.pt", 1),
    "pickle_string_bytes": ("y_torch_plain.pt", 5),
    "pickle_global_length": ("y_torch_plain.pt", 5),
    "pickle_integer_bytes": ("y_torch_legacy.pt", 5),
}


@pytest.mark.parametrize("cap", CAPS)
def test_a_cap_is_where_the_caller_sets_it(cap: str) -> None:
    name, low = CAPS[cap]
    path = HERE / name
    load: Any = le.load if path.suffix == ".keras" else le.LSTM.from_torch
    with pytest.raises((le.FormatError, le.UnsafeFileError)):
        load(path, limits=le.Limits(**{cap: low}))
    load(path, limits=le.Limits(**{cap: 256}) if cap in ("nesting", "json_depth") else None)
    load(path)


def test_what_all_tensors_may_take_grows_with_the_file() -> None:
    assert le.Limits().of_tensors(1000) == 48 * 2**20 + 16_000
    assert le.Limits(tensor_bytes=1, tensor_growth=2).of_tensors(1000) == 2001


def test_a_tensor_that_repeats_one_element_is_read_if_it_is_allowed_to(tmp_path: Path) -> None:
    """17 million elements out of one: more than a file of a kilobyte may usually ask for."""
    path = tmp_path / "repeated.pt"
    path.write_bytes(made.archive(made.mapping(**{"e.weight": made.tensor((1 << 12, 1 << 12), (0, 0))})))
    with pytest.raises(le.FormatError, match=r"raise limits=le\.Limits\(tensor_bytes=\.\.\.\)"):
        le.Embedding.from_torch(path, "e")
    found = le.Embedding.from_torch(path, "e", limits=le.Limits(tensor_bytes=1 << 27))
    assert found.table.shape == (1 << 12, 1 << 12)


@pytest.mark.parametrize("value", [0, -1, True, 1.5, "1", 1 << 63])
def test_a_cap_is_a_positive_whole_number(value: Any) -> None:
    with pytest.raises(le.UnsupportedModelError, match="expected tensors to be a whole number from 1"):
        le.Limits(tensors=value)


def test_what_is_no_limits_is_refused() -> None:
    with pytest.raises(le.UnsupportedModelError, match=r"limits: expected a le\.Limits or None, found dict"):
        le.load(HERE / "y_keras_plain.keras", limits={"tensors": 3})  # type: ignore[arg-type]
    with pytest.raises(le.UnsupportedModelError, match="allow_nonfinite: expected True or False, found 1"):
        le.LSTM.from_torch(HERE / "y_torch_plain.pt", allow_nonfinite=1)  # type: ignore[arg-type]
    with pytest.raises(le.UnsupportedModelError, match="expected json_depth to be a whole number from 1 to 256"):
        le.Limits(json_depth=10_000)
