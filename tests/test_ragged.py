"""A model on batches of a table's rows: each row gets the bits that it gets alone, whatever the lengths beside it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from causal_models import FEATURES, causal_model, inputs_of
from cli_support import TWO_INPUTS
from described import dense, input_layer, layer, lstm, model, random

import lstm_engine as le
from lstm_engine import ragged
from lstm_engine.builder import build_model
from lstm_engine.integrations.tables import Predictor

LENGTHS = (5, 1, 9, 0, 3, 9, 2, 1, 14, 5)


def _keras(*layers: Any) -> Any:
    return build_model(model(*layers))


def _bidirectional(name: str, source: str, features: int, **config: Any) -> Any:
    sides = {
        "forward_layer": lstm(f"{name}_forward", features=features, units=4, seed=5, **config),
        "backward_layer": lstm(f"{name}_backward", features=features, units=4, seed=6, go_backwards=True, **config),
    }
    return layer(name, "Bidirectional", source, config={"merge_mode": "concat"}, inner=sides)


def _words(mask_zero: bool) -> Any:
    config = {"input_dim": 11, "output_dim": FEATURES, "mask_zero": mask_zero}
    return _keras(
        input_layer("x", None, dtype="int32"),
        layer("embedding", "Embedding", "x", config=config, weights={"embeddings": random(4, 11, FEATURES)}),
        _bidirectional("both", "embedding", FEATURES, return_sequences=True),
        _bidirectional("last", "both", 8),
        dense("dense", "last", features=8, units=2),
    )


MODELS: dict[str, Any] = {
    **{kind: lambda kind=kind: causal_model(kind) for kind in ("lstm", "chain", "head", "tokens", "int8", "graph")},
    "convolution": lambda: causal_model("convolution"),
    "words": lambda: _words(False),
    "masked words": lambda: _words(True),
    "tagger": lambda: _keras(
        input_layer("x", None, FEATURES),
        layer("masking", "Masking", "x", config={"mask_value": 0.0}),
        _bidirectional("both", "masking", FEATURES, return_sequences=True),
        dense("dense", "both", features=8, units=2, activation="softmax"),
    ),
    "backwards": lambda: _keras(
        input_layer("x", None, FEATURES),
        lstm("lstm", "x", features=FEATURES, units=5, go_backwards=True, return_sequences=True),
        lstm("last", "lstm", features=5, units=4),
    ),
    "pooling": lambda: _keras(
        input_layer("x", None, FEATURES),
        lstm("lstm", "x", features=FEATURES, units=5, return_sequences=True),
        layer("pool", "GlobalMaxPooling1D", "lstm", config={"keepdims": False, "data_format": "channels_last"}),
        dense("dense", "pool", features=5, units=1),
    ),
}

#: Those whose rows of different lengths share a batch.
TOGETHER = {"lstm", "chain", "head", "tokens", "int8", "words", "masked words", "tagger"}


def _rows(name: str, lengths: Any = LENGTHS) -> list[np.ndarray]:
    kind = "tokens" if "words" in name or name == "tokens" else "lstm"
    rows = [inputs_of(kind, place, steps) for place, steps in enumerate(lengths)]
    if name == "tagger":
        rows[2][3:5] = 0  # masked steps inside of a row
    return rows


def _objects(rows: Any) -> np.ndarray:
    column = np.empty(len(rows), object)
    column[:] = list(rows)
    return column


def _alone(source: Any, x: np.ndarray) -> np.ndarray:
    y = source(x[None])
    return np.asarray((y[0] if isinstance(source, le.LSTM) else y)[0])


@pytest.mark.parametrize("batch_size", [1, 3, 64])
@pytest.mark.parametrize("name", MODELS)
def test_each_row_has_the_bits_that_it_has_alone(name: str, batch_size: int) -> None:
    source, rows = MODELS[name](), _rows(name, [n for n in LENGTHS if n or name != "pooling"])
    predictor = Predictor(source, columns="x", batch_size=batch_size)
    batch = {"x": _objects(rows), "id": np.arange(len(rows))}
    found = predictor(batch)
    assert list(found) == ["x", "id", "prediction"]
    assert found["x"] is batch["x"]
    for x, y in zip(rows, found["prediction"], strict=True):
        expected = _alone(source, x)
        expected = expected[0] if expected.shape == (1,) else expected
        assert y.dtype == np.float32
        assert y.shape == expected.shape
        assert y.tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", MODELS)
def test_rows_of_different_lengths_share_batches_where_that_is_right(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = MODELS[name]()
    source = le.Sequential([source]) if isinstance(source, le.LSTM) else source
    rows = _rows(name, [4, 7, 2, 7])
    calls: list[tuple[tuple[int, ...], Any]] = []
    computed = ragged._computed

    def spied(model: Any, inputs: Any, batch: Any, where: Any) -> Any:
        outputs, lengths = computed(model, inputs, batch, where)
        calls.append((tuple(batch), None if lengths is None else tuple(lengths)))
        return outputs, lengths

    monkeypatch.setattr(ragged, "_computed", spied)
    Predictor(source, columns="x")({"x": _objects(rows)})
    assert calls == (
        [((1, 3, 0, 2), (7, 7, 4, 2))] if name in TOGETHER else [((2,), None), ((0,), None), ((1, 3), None)]
    )


def test_rows_of_one_length_are_an_array() -> None:
    source = MODELS["chain"]()
    x = inputs_of("lstm", 1, 6, 5)
    for column in (x, _objects(x), _objects([row.tolist() for row in x])):
        found = Predictor(source)({"x": column})["prediction"]
        assert found.dtype == np.float32
        assert found.tobytes() == source(x).tobytes()


def test_no_rows() -> None:
    for column in (np.zeros(0, object), np.zeros((0, 4, FEATURES), np.float32)):
        assert Predictor(MODELS["chain"]())({"x": column})["prediction"].shape == (0, 4)
        assert Predictor(MODELS["head"]())({"x": column})["prediction"].shape[0] == 0


def test_several_inputs_and_outputs() -> None:
    with np.load(TWO_INPUTS.with_suffix(".npz"), allow_pickle=False) as archive:
        recorded = dict(archive)
    source = le.load(TWO_INPUTS)
    level, alarm = source(recorded["readings"], recorded["place"])
    batch = {"where": recorded["place"], "readings": recorded["readings"]}
    found = Predictor(TWO_INPUTS, columns={"readings": "readings", "place": "where"})(batch)
    assert found["level"].tobytes() == level[:, 0].tobytes()
    assert found["alarm"].tobytes() == alarm.tobytes()
    found = Predictor(source, columns=["readings", "where"], output=["a", "b"], batch_size=3)(batch)
    assert list(found) == ["where", "readings", "a", "b"]
    assert found["b"].tobytes() == alarm.tobytes()


def test_several_inputs_of_different_lengths() -> None:
    source = _keras(
        input_layer("left", None, 2),
        input_layer("right", None, 2),
        lstm("a", "left", features=2, units=3, seed=1),
        lstm("b", "right", features=2, units=3, seed=2),
        layer("sum", "Add", "a", "b"),
    )
    left = [random(place, steps, 2) for place, steps in enumerate((3, 5, 3, 5, 3))]
    right = [random(place + 50, steps, 2) for place, steps in enumerate((2, 2, 4, 2, 2))]
    found = Predictor(source)({"left": _objects(left), "right": _objects(right)})["prediction"]
    for place, (a, b) in enumerate(zip(left, right, strict=True)):
        assert found[place].tobytes() == source(a[None], b[None])[0].tobytes()


# --- What does not fit ------------------------------------------------------------------------------------------------


def test_columns_that_do_not_fit_are_named() -> None:
    chain = MODELS["chain"]()
    rows = {"x": np.zeros((2, 5, FEATURES), np.float32)}
    for arguments, batch, phrase in (
        ({}, {"y": rows["x"]}, "expected the columns x for the model's inputs, found y"),
        ({"columns": "readings"}, rows, "expected the columns readings"),
        ({"output": "x"}, rows, "output: expected new columns, found x"),
        ({}, {"x": np.zeros((2, 5, 4), np.float32)}, "column 'x': expected rows of shape (any, 3)"),
        ({}, {"x": np.zeros((2, 5), np.float32)}, "nest its lists"),
        ({}, {"x": np.zeros(2, np.float32)}, "found single numbers"),
        ({}, {"x": _objects([None, rows["x"][0]])}, "row 0 of the batch: column 'x': expected numbers, found none"),
        ({}, {"x": _objects([rows["x"][0], [[1.0, 2.0, 3.0], [4.0]]])}, "row 1 of the batch: column 'x'"),
        ({}, {"x": _objects([rows["x"][0], ["a"]])}, "row 1 of the batch: column 'x': expected numbers"),
        ({}, {"x": _objects([rows["x"][0], np.zeros((2, 4))])}, "row 1 of the batch: column 'x': expected rows that"),
        ({}, {"x": np.ma.masked_equal(rows["x"], 1)}, "found a numpy masked array"),
        ({}, {"x": _objects([np.ma.masked_equal(rows["x"][0], 1)])}, "row 0 of the batch: column 'x'"),
        ({}, {"id": np.zeros(3), "x": rows["x"]}, "expected 3 rows in 'x' as in the batch, found 2"),
    ):
        with pytest.raises(le.ShapeError) as caught:
            Predictor(chain, **arguments)(batch)
        assert phrase in str(caught.value)


def test_a_row_that_does_not_fit_is_found_in_its_batch() -> None:
    rows = _rows("tokens", [3, 9, 4, 9, 2])
    rows[2][1] = 99
    rows[4][0] = 99
    with pytest.raises(le.ShapeError, match=r"^row 2 of the batch: .* found 99"):
        Predictor(MODELS["tokens"]())({"x": _objects(rows)})
    fixed = _keras(input_layer("x", 4, FEATURES), lstm("lstm", "x", features=FEATURES, units=2))
    with pytest.raises(le.ShapeError, match=r"^row 1 of the batch: column 'x': expected 4 steps .* found 5"):
        Predictor(fixed)({"x": _objects(_rows("lstm", [4, 5, 4]))})


def test_arguments_that_do_not_fit_are_named() -> None:
    for arguments, phrase in (
        ({"columns": ["a"]}, "columns: expected the name of a column for each of the model's inputs readings, place"),
        ({"columns": {"readings": "a"}}, "columns: expected a dict with the model's inputs"),
        ({"output": "y"}, "output: expected the name of a column for each"),
        ({"output": ["y", "y"]}, "output: expected a column of its own"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": True}, "batch_size"),
    ):
        with pytest.raises(le.ShapeError) as caught:
            Predictor(TWO_INPUTS, **arguments)
        assert phrase in str(caught.value)
    with pytest.raises(le.ShapeError, match=r"batch: expected a dict of arrays, .* found list"):
        Predictor(MODELS["chain"]())([1, 2])


def test_ray_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from lstm_engine.integrations.ray import deployment

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(le.LstmEngineError, match=r"pip install lstm-engine\[ray\]"):
        deployment("model.keras")
