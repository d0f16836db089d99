"""Calling a model: what may be given, what comes back, and that a row never depends on its neighbours."""

from __future__ import annotations

import copy
import pickle
import sys
import threading
from typing import Any

import numpy as np
import pytest
from described import MASK, dense, input_layer, keras_loop, layer, lstm, lstm_weights, model, random
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples

import lstm_engine as le
from lstm_engine.builder import build_model

FEATURES, UNITS = 3, 5
X = random(1, *MASK.shape, FEATURES)


@pytest.fixture(scope="module")
def simple() -> le.Model:
    return build_model(
        model(
            input_layer("x", None, FEATURES),
            lstm("lstm", "x", features=FEATURES, units=UNITS),
            dense("dense", "lstm", features=UNITS, units=2, activation="softmax"),
        )
    )


@pytest.fixture(scope="module")
def two_inputs() -> le.Model:
    """Two sequences and a row of features; two outputs."""
    return build_model(
        model(
            input_layer("tokens", None),
            input_layer("x", None, FEATURES),
            input_layer("more", 2),
            layer("embed", "Embedding", "tokens", config={"mask_zero": True}, weights={"embeddings": random(3, 9, 4)}),
            lstm("words", "embed", features=4, units=UNITS, seed=1),
            lstm("signal", "x", features=FEATURES, units=UNITS, seed=2),
            layer("all", "Concatenate", "words", "signal", "more", config={"axis": -1}),
            dense("dense", "all", features=2 * UNITS + 2, units=3),
            outputs=["dense", "signal"],
        )
    )


TOKENS = np.random.default_rng(2).integers(0, 9, (5, 4))
MORE = random(5, 5, 2)


# --- What may be given ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "convert",
    [
        lambda x: x,
        lambda x: x.astype(np.float64),
        np.asfortranarray,
        lambda x: x.astype(">f4"),
        lambda x: np.repeat(x, 2, axis=1)[:, ::2],
        lambda x: x.tolist(),
        lambda x: [x],
        lambda x: (x,),
        lambda x: {"x": x},
    ],
)
def test_every_form_of_an_input_gives_the_same(simple: le.Model, convert: Any) -> None:
    np.testing.assert_array_equal(simple(convert(X)), simple(X))
    np.testing.assert_array_equal(simple.predict(convert(X)), simple(X))


def test_a_read_only_input_is_accepted_and_left_alone(simple: le.Model) -> None:
    x = X.copy()
    x.setflags(write=False)
    simple(x)
    np.testing.assert_array_equal(x, X)


def test_integers_and_bools_are_taken_where_they_are_exact(simple: le.Model) -> None:
    x = np.random.default_rng(0).integers(0, 2, X.shape)
    np.testing.assert_array_equal(simple(x), simple(x.astype(np.float32)))
    np.testing.assert_array_equal(simple(x.astype(bool)), simple(x.astype(np.float32)))


def test_several_inputs_by_place_by_list_and_by_name(two_inputs: le.Model) -> None:
    wanted = two_inputs(TOKENS, X, MORE)
    assert isinstance(wanted, tuple)
    assert [y.shape for y in wanted] == [(5, 3), (5, UNITS)]
    named = {"more": MORE, "tokens": TOKENS, "x": X}
    for found in (
        two_inputs([TOKENS, X, MORE]),
        two_inputs(named),
        two_inputs.predict((TOKENS, X, MORE), batch_size=2),
    ):
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(one, other)


def test_an_axis_of_one_at_the_end_may_be_left_out_or_too_many() -> None:
    one = build_model(model(input_layer("x", None, 1), lstm("lstm", "x", features=1, units=UNITS)))
    x = random(2, 4, 7, 1)
    np.testing.assert_array_equal(one(x[..., 0]), one(x))
    embed = build_model(
        model(
            input_layer("t", None), layer("embed", "Embedding", "t", config={}, weights={"embeddings": random(3, 9, 4)})
        )
    )
    np.testing.assert_array_equal(embed(TOKENS[..., None]), embed(TOKENS))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((X[0],), r"x: expected shape \(batch, time, 3\), of rank 3, found shape \(6, 3\), of rank 2"),
        ((X[None],), r"x: expected shape \(batch, time, 3\).*found shape \(1, 5, 6, 3\)"),
        ((X[..., :2],), r"x: expected shape \(batch, time, 3\).*axis 2 must have size 3, it has 2"),
        ((X.astype(complex),), "x: expected an array of real numbers, found dtype complex128"),
        ((X.astype(object),), "x: expected an array of real numbers, found dtype object"),
        ((X.astype(str),), "x: expected an array of real numbers, found dtype <U"),
        ((X * 1e38 * np.float64(100),), "x: expected values within the range of float32"),
        ((np.full(X.shape, 2**25),), "x: expected integers that float32 holds exactly"),
        ((np.ma.masked_array(X),), "x: expected a plain array"),
        (([[[1.0, 2.0, 3.0]], [[1.0, 2.0]]],), "x: expected an array of real numbers, found a list"),
        ((X, X), r"inputs: expected 1 \(x \(None, None, 3\)\), found 2"),
        ((), "inputs: expected 1"),
        (({"y": X},), r"inputs: expected a dict with the names \['x'\], found \['y'\]"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(simple: le.Model, inputs: Any, message: str) -> None:
    with pytest.raises(le.ShapeError, match=message):
        simple(*inputs)


def test_inputs_with_different_rows_are_refused(two_inputs: le.Model) -> None:
    with pytest.raises(le.ShapeError, match="more: expected 5 rows as in tokens, found 4"):
        two_inputs(TOKENS, X, MORE[:4])
    with pytest.raises(le.ShapeError, match=r"inputs: expected 3 \(tokens .*found 2"):
        two_inputs([TOKENS, X])
    with pytest.raises(le.ShapeError, match="x: expected 5 rows"):
        two_inputs.predict([TOKENS, np.concatenate([X, X]), MORE], batch_size=100)
    with pytest.raises(le.ShapeError, match="x: expected 5 rows"):
        two_inputs.predict([TOKENS, np.concatenate([X, X]), MORE], batch_size=5)


def test_a_fixed_number_of_steps_is_a_promise() -> None:
    fixed = build_model(model(input_layer("x", 6, FEATURES), lstm("lstm", "x", features=FEATURES, units=UNITS)))
    fixed(X)
    with pytest.raises(le.ShapeError, match="axis 1 must have size 6, it has 5"):
        fixed(X[:, :5])


# --- Nothing to compute ---------------------------------------------------------------------------------------------


def test_an_empty_batch_gives_empty_outputs(simple: le.Model, two_inputs: le.Model) -> None:
    assert simple(X[:0]).shape == (0, 2)
    assert simple.predict(X[:0]).shape == (0, 2)
    assert [y.shape for y in two_inputs(TOKENS[:0], X[:0], MORE[:0])] == [(0, 3), (0, UNITS)]


def test_a_sequence_without_a_step_gives_the_output_before_the_first() -> None:
    layers = [
        input_layer("x", None, FEATURES),
        lstm("all", "x", features=FEATURES, units=UNITS, return_sequences=True),
        lstm("last", "all", features=UNITS, units=UNITS),
    ]
    every, last = build_model(model(*layers, outputs=["all", "last"]))(X[:, :0])
    assert every.shape == (5, 0, UNITS)
    np.testing.assert_array_equal(last, np.zeros((5, UNITS), np.float32))


def test_not_a_number_stays_in_its_row(simple: le.Model) -> None:
    x = X.copy()
    x[2, 3, 1] = np.nan
    found = simple(x)
    assert np.isnan(found[2]).all()
    np.testing.assert_array_equal(np.delete(found, 2, axis=0), np.delete(simple(X), 2, axis=0))


# --- Masks and lengths ----------------------------------------------------------------------------------------------


def test_a_mask_and_lengths(simple: le.Model) -> None:
    sequences = build_model(
        model(input_layer("x", None, FEATURES), lstm("l", "x", features=FEATURES, units=UNITS, return_sequences=True))
    )
    weights = lstm_weights(0, FEATURES, UNITS)
    np.testing.assert_allclose(sequences(X, mask=MASK), keras_loop(X, weights, mask=MASK)[0], rtol=2e-6, atol=2e-7)
    lengths = np.array([6, 0, 3, 1, 5])
    within = np.arange(6) < lengths[:, None]
    found = sequences(X, lengths=lengths)
    wanted = keras_loop(X, weights, mask=within, zero_output_for_mask=True)[0]
    np.testing.assert_allclose(found, wanted, rtol=2e-6, atol=2e-7)
    for row, length in enumerate(lengths):
        np.testing.assert_array_equal(found[row, :length], sequences(X[row : row + 1, :length])[0])
        if length:
            np.testing.assert_array_equal(
                simple(X, lengths=lengths)[row], simple(X[row : row + 1, :length])[0], "as the row alone"
            )


def test_masks_and_lengths_for_several_inputs(two_inputs: le.Model) -> None:
    lengths = (np.array([1, 2, 3, 4, 0]), np.array([6, 5, 4, 3, 2]), None)
    found = two_inputs(TOKENS, X, MORE, lengths=lengths)
    for row in range(5):
        alone = two_inputs(
            TOKENS[row : row + 1, : lengths[0][row]], X[row : row + 1, : lengths[1][row]], MORE[row : row + 1]
        )
        for one, other in zip(found, alone, strict=True):
            np.testing.assert_array_equal(one[row], other[0])
    masks = {"x": np.arange(6) < lengths[1][:, None], "tokens": np.arange(4) < lengths[0][:, None]}
    for one, other in zip(two_inputs(TOKENS, X, MORE, mask=masks), found, strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(two_inputs.predict((TOKENS, X, MORE), 2, lengths=lengths), found, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask": MASK[:, :4]}, r"mask: expected shape \(5, 6\), found shape \(5, 4\)"),
        ({"mask": MASK[0]}, r"mask: expected shape \(5, 6\), of rank 2"),
        ({"mask": MASK.astype(np.float32)}, "mask: expected a bool mask"),
        ({"mask": MASK.astype(int) * 2}, "mask: expected a bool mask, or integers 0 and 1"),
        ({"lengths": [7, 1, 1, 1, 1]}, "lengths: expected lengths from 0 to 6.*found 7 for row 0"),
        ({"lengths": [-1, 1, 1, 1, 1]}, "found -1 for row 0"),
        ({"lengths": [1, 1]}, r"lengths: expected shape \(5,\)"),
        ({"lengths": [1.5] * 5}, "lengths: expected integers"),
        ({"lengths": [1] * 5, "mask": MASK}, "expected one of the two, found both"),
        ({"mask": (MASK, MASK)}, "mask: expected one for each of 1 inputs, found 2"),
        ({"mask": {"y": MASK}}, r"mask: expected a dict with names among \['x'\]"),
    ],
)
def test_masks_that_do_not_fit_are_refused(simple: le.Model, options: Any, message: str) -> None:
    with pytest.raises(le.ShapeError, match=message):
        simple(X, **options)


def test_masks_that_nobody_would_look_at_are_refused(two_inputs: le.Model) -> None:
    plain = build_model(model(input_layer("x", None, FEATURES), dense("d", "x", features=FEATURES, units=2)))
    with pytest.raises(le.ShapeError, match="mask: expected None, since no layer of this model looks at a mask"):
        plain(X, mask=MASK)
    with pytest.raises(le.ShapeError, match="lengths: expected None"):
        plain(X, lengths=[1] * 5)
    with pytest.raises(le.ShapeError, match="mask: expected a tuple with one for each of the 3 inputs"):
        two_inputs(TOKENS, X, MORE, mask=MASK)
    with pytest.raises(le.ShapeError, match=r"mask: input more of shape \(None, 2\) has no time axis"):
        two_inputs(TOKENS, X, MORE, mask=(None, None, np.ones((5, 2), bool)))


# --- Same bits ------------------------------------------------------------------------------------------------------


def everything(seed: int) -> le.Model:
    """A model with every kind of layer that sums or takes an exponential, and masks."""
    weights = {name: np.abs(random(seed, 6)) + np.float32(0.1) for name in ("gamma", "beta")}
    moving = {"moving_mean": random(seed + 1, 6), "moving_variance": np.abs(random(seed + 2, 6)) + np.float32(0.1)}
    backward = {"return_sequences": True, "go_backwards": True}
    return build_model(
        model(
            input_layer("x", None, FEATURES),
            layer("masking", "Masking", "x", config={"mask_value": 0.0}),
            layer(
                "bi", "Bidirectional", "masking", config={"merge_mode": "ave", "layer": {}},
                inner={
                    "forward_layer": lstm("f", features=FEATURES, units=6, seed=seed, return_sequences=True),
                    "backward_layer": lstm("b", features=FEATURES, units=6, seed=seed + 1, **backward),
                },
            ),
            layer("norm", "LayerNormalization", "bi", config={"axis": -1}, weights=weights),
            layer("rms", "LayerNormalization", "norm", config={"rms_scaling": True}, weights=weights),
            layer("batch", "BatchNormalization", "rms", config={"axis": -1}, weights={**weights, **moving}),
            dense("soft", "batch", features=6, units=6, activation="softmax"),
            dense("log", "soft", features=6, units=6, activation="log_softmax"),
            dense("mish", "log", features=6, units=6, activation="mish"),
            layer("pool", "GlobalAveragePooling1D", "mish"),
            layer("max", "GlobalMaxPooling1D", "mish"),
            layer("cat", "Concatenate", "pool", "max"),
            dense("last", "cat", features=12, units=3, activation="gelu"),
            outputs=["last", "mish", "pool"],
        )
    )  # fmt: skip


@examples(30)
@given(
    batch=st.integers(1, 40), time=st.integers(0, 12), seed=st.integers(0, 5), rows=st.integers(1, 40), data=st.data()
)
def test_a_row_has_the_same_bits_in_any_batch_and_place(
    batch: int, time: int, seed: int, rows: int, data: st.DataObject
) -> None:
    built = everything(seed)
    x = random(seed + 10, batch, time, FEATURES)
    x[random(seed, batch, time) > 0.8] = 0
    whole = built(x)
    for one, other in zip(built.predict(x, batch_size=rows), whole, strict=True):
        np.testing.assert_array_equal(one, other)
    row = data.draw(st.integers(0, batch - 1))
    for one, other in zip(built(x[row : row + 1]), whole, strict=True):
        np.testing.assert_array_equal(one[0], other[row])
    order = np.random.default_rng(seed).permutation(batch)
    for one, other in zip(built(x[order]), whole, strict=True):
        np.testing.assert_array_equal(one, other[order])


def test_threads_share_a_model(simple: le.Model) -> None:
    x = random(4, 64, 30, FEATURES)
    wanted = simple(x)
    wrong: list[int] = []

    def work(place: int) -> None:
        for _ in range(20):
            if not np.array_equal(simple(x), wanted):
                wrong.append(place)

    threads = [threading.Thread(target=work, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# --- predict, summary and the rest ----------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [0, -1, 1.5, True, "8"])
def test_a_batch_size_that_is_none_is_refused(simple: le.Model, batch_size: Any) -> None:
    with pytest.raises(le.ShapeError, match="batch_size: expected a positive integer"):
        simple.predict(X, batch_size=batch_size)


def test_progress_shows_a_bar_and_needs_tqdm(simple: le.Model, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    pytest.importorskip("tqdm")
    np.testing.assert_array_equal(simple.predict(X, batch_size=2, progress=True), simple(X))
    assert "3/3" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(le.LstmEngineError, match="progress: expected the package tqdm"):
        simple.predict(X, progress=True)


def test_summary_prints_every_layer(simple: le.Model, capsys: Any) -> None:
    assert simple.summary() is None  # type: ignore[func-returns-value]
    printed = capsys.readouterr().out
    weights = 4 * UNITS * (FEATURES + UNITS + 1)
    for part in ("x (Input)", "lstm (LSTM)", "dense (Dense)", f"{weights:,}", "(None, 5)", "float32"):
        assert part in printed
    assert f"Weights: {weights + 2 * UNITS + 2:,}; {simple.memory_bytes():,} bytes" in printed


def test_what_a_model_says_of_itself(two_inputs: le.Model) -> None:
    assert [(spec.name, spec.shape, spec.dtype) for spec in two_inputs.inputs] == [
        ("tokens", (None, None), "int64"),
        ("x", (None, None, 3), "float32"),
        ("more", (None, 2), "float32"),
    ]
    assert [(spec.name, spec.shape) for spec in two_inputs.outputs] == [("dense", (None, 3)), ("signal", (None, UNITS))]
    assert two_inputs.memory_bytes() >= sum(
        array.nbytes for one in two_inputs.layers for array in one.weights().values()
    )
    assert "tokens" in repr(two_inputs)
    assert two_inputs.compute_type == "float32"


def test_a_model_cannot_be_changed(simple: le.Model) -> None:
    with pytest.raises(AttributeError, match="a Model is immutable: 'name' cannot be set"):
        simple.name = "other"  # type: ignore[misc]
    with pytest.raises(AttributeError, match="immutable"):
        del simple._graph
    for one in simple.layers:
        for array in one.weights().values():
            assert not array.flags.writeable


@pytest.mark.parametrize("again", [lambda x: pickle.loads(pickle.dumps(x)), copy.copy, copy.deepcopy])
def test_a_model_can_be_pickled_and_copied(two_inputs: le.Model, again: Any) -> None:
    for one, other in zip(again(two_inputs)(TOKENS, X, MORE), two_inputs(TOKENS, X, MORE), strict=True):
        np.testing.assert_array_equal(one, other)


def test_outputs_never_share_memory_with_inputs_or_weights() -> None:
    layers = [
        input_layer("x", 6, FEATURES),
        layer("dropout", "Dropout", "x", config={"rate": 0.5}),
        layer("flat", "Flatten", "x"),
    ]
    x = X.copy()
    for y in build_model(model(*layers, outputs=["dropout", "flat"]))(x):
        y[:] = 7
    np.testing.assert_array_equal(x, X)


def test_the_caller_may_write_into_what_it_gets(simple: le.Model) -> None:
    first = simple(X)
    kept = first.copy()
    first[:] = -1
    np.testing.assert_array_equal(simple(X), kept)
