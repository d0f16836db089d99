"""Layers that scale, bend and multiply numbers: Normalization, Rescaling, UnitNormalization, PReLU and kin, and Dot."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from described import MASK, input_layer, keras_loop, layer, lstm, lstm_weights, model, random

from lstm_engine.builder import build_model
from lstm_engine.errors import FormatError, ShapeError, UnsupportedModelError

X = random(1, *MASK.shape, 4)
X_MASKED = np.where(MASK[..., None], X, 0).astype(np.float32)


def one(class_name: str, *shape: int | None, weights: Any = None, version: str = "3.15.1", **config: Any) -> Any:
    """Return the model of one layer."""
    description = model(
        input_layer("x", *shape), layer("layer", class_name, "x", config=config, weights=weights), version=version
    )
    return build_model(description)


def close(found: Any, wanted: Any) -> None:
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, rtol=2e-6, atol=1e-6)


# --- Normalization and scaling ------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [-1, [2], [1, 2], [-1, 1], None, 1])
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("invert", [False, True])
def test_normalization(axis: Any, given: bool, invert: bool) -> None:
    axes = () if axis is None else tuple(sorted(n % 3 for n in (axis if isinstance(axis, list) else [axis])))
    sizes = tuple(X.shape[place] for place in axes)
    mean, variance = random(2, *sizes), np.abs(random(3, *sizes)) + np.float32(0.1)
    options: dict[str, Any] = {"axis": axis, "invert": invert, "mean": None, "variance": None}
    weights = {"mean": np.asarray(mean), "variance": np.asarray(variance), "count": np.array(7)}
    if given:
        options |= {"mean": mean.tolist(), "variance": variance.tolist()}
    network = one("Normalization", 6, 4, weights={} if given else weights, **options)
    shape = [X.shape[place] if place in axes else 1 for place in range(3)]
    mean, deviation = mean.astype(np.float64).reshape(shape), np.sqrt(variance.astype(np.float64)).reshape(shape)
    close(network(X), mean + X * deviation if invert else (X - mean) / deviation)


def test_normalization_by_hand() -> None:
    network = one("Normalization", 2, mean=[1.0, 2.0], variance=[4.0, 0.0], axis=[-1])
    np.testing.assert_array_equal(network(np.array([[5.0, 2.0]], np.float32)), [[2.0, 0.0]])
    # A variance of nothing counts as 1e-14, the square of Keras's smallest deviation.
    close(network(np.array([[5.0, 3.0]], np.float32)), [[2.0, 1e7]])
    single = one("Normalization", 3, 2, mean=1.0, variance=4.0, axis=[-1])
    close(single(random(1, 2, 3, 2)), (random(1, 2, 3, 2) - 1) / 2)
    row = one("Normalization", 2, mean=[[1.0, 2.0]], variance=[[4.0, 1.0]], axis=-1, version="2.15.0")
    np.testing.assert_array_equal(row(np.array([[5.0, 3.0]], np.float32)), [[2.0, 1.0]])


@pytest.mark.parametrize(
    "scale",
    [
        [1.0, 2.0, 3.0, 4.0],
        {"class_name": "__numpy__", "config": {"value": [1.0, 2.0, 3.0, 4.0], "dtype": "float32"}},
        {"type": "ndarray", "value": [1, 2, 3, 4]},
    ],
)
def test_rescaling(scale: Any) -> None:
    close(one("Rescaling", None, 4, scale=scale, offset=-0.5)(X), X * np.arange(1.0, 5.0) - 0.5)
    close(one("Rescaling", None, 4, scale=0.25, offset=scale)(X), X * 0.25 + np.arange(1.0, 5.0))


@pytest.mark.parametrize("axis", [-1, 1, [1, 2]])
def test_rows_of_length_one(axis: Any) -> None:
    axes = tuple(axis) if isinstance(axis, list) else axis
    wanted = X.astype(np.float64) / np.linalg.norm(X.astype(np.float64), axis=axes, keepdims=True)
    if axis == [1, 2]:
        wanted = X / np.sqrt(np.square(X.astype(np.float64)).sum(axis=(1, 2), keepdims=True))
    close(one("UnitNormalization", 6, 4, axis=axis)(X), wanted)


@pytest.mark.parametrize(("version", "least"), [("3.15.1", 1e-12), ("3.6.0", 1e-12), ("3.5.0", 1e-6), ("2.15.0", 1e-6)])
def test_the_shortest_row_that_becomes_one_of_length_one(version: str, least: float) -> None:
    x = np.array([[3e-7, 4e-7], [0.0, 0.0], [3e-14, 4e-14], [3.0, 4.0]], np.float32)
    norms = np.maximum([[5e-7], [0.0], [5e-14], [5.0]], least)
    np.testing.assert_allclose(one("UnitNormalization", 2, version=version)(x), x / norms, rtol=1e-6)


def test_slopes_of_their_own() -> None:
    x = np.array([[[-2.0, 3.0], [4.0, -5.0]]], np.float32)
    alpha = np.array([[0.5, 7.0], [7.0, 0.1]], np.float32)
    np.testing.assert_allclose(one("PReLU", 2, 2, weights={"alpha": alpha})(x), [[[-1, 3], [4, -0.5]]], rtol=1e-7)
    shared = one("PReLU", None, 2, weights={"alpha": alpha[:1]}, shared_axes=[1])
    np.testing.assert_allclose(shared(x), [[[-1, 3], [4, -35]]], rtol=1e-7)
    np.testing.assert_allclose(shared.stream().run(x[0]), shared(x)[0])
    np.testing.assert_allclose(one("LeakyReLU", 2, 2, negative_slope=0.5)(x), [[[-1, 3], [4, -2.5]]])
    np.testing.assert_allclose(one("LeakyReLU", 2, 2, alpha=0.5, version="2.15.0")(x), [[[-1, 3], [4, -2.5]]])
    close(one("ELU", 2, 2, alpha=2.0)(x), [[[2 * np.expm1(-2), 3], [4, 2 * np.expm1(-5)]]])


@pytest.mark.parametrize("version", ["3.15.1", "3.3.3", "2.15.0"])
@pytest.mark.parametrize(
    ("class_name", "config", "ends"),
    [
        ("Normalization", {"mean": 0.0, "variance": 1.0}, "2.15.0"),
        ("Rescaling", {"scale": 1.0}, "2.15.0"),
        ("UnitNormalization", {}, ""),
        ("PReLU", {}, ""),
        ("LeakyReLU", {"negative_slope": 0.5}, ""),
        ("ELU", {}, ""),
    ],
)
def test_a_mask_passes_as_in_each_version(version: str, class_name: str, config: Any, ends: str) -> None:
    weights = {"alpha": np.full((1, 4), 0.5, np.float32)} if class_name == "PReLU" else {}
    network = build_model(
        model(
            input_layer("x", None, 4),
            layer("masking", "Masking", "x", config={"mask_value": 0.0}),
            layer("layer", class_name, "masking", config=config, weights=weights),
            lstm("lstm", "layer", features=4, units=3, return_sequences=True),
            outputs=["layer", "lstm"],
            version=version,
        )
    )
    x, found = network(X_MASKED)
    wanted = keras_loop(x, lstm_weights(0, 4, 3), mask=None if version == ends else MASK)[0]
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("class_name", "config", "weights", "message"),
    [
        ("Normalization", {}, {"mean": random(1, 3), "variance": np.ones(3, np.float32)}, r"its mean has shape \(3,\)"),
        ("Normalization", {"axis": 0, "mean": 1.0, "variance": 1.0}, {}, "the batch excluded"),
        ("Normalization", {"mean": "x", "variance": 1.0}, {}, "expected mean to be a finite number or an array"),
        ("Normalization", {"mean": [1.0, [2.0]], "variance": 1.0}, {}, "expected mean to be a finite number"),
        ("Normalization", {"axis": None, "mean": [1.0, 2.0], "variance": [1.0, 1.0]}, {}, "with at most 0 axes"),
        ("Rescaling", {"scale": [1.0, 2.0]}, {}, r"its scale has shape \(2,\)"),
        ("Rescaling", {"scale": [1.0, float("nan")]}, {}, "expected scale to be a finite number or an array"),
        ("UnitNormalization", {"axis": 0}, {}, "the batch excluded"),
        ("PReLU", {}, {"alpha": random(1, 5, 4)}, r"its alpha has shape \(5, 4\)"),
        ("PReLU", {}, {"alpha": random(1, 4)}, r"its alpha has shape \(4,\)"),
    ],
)
def test_what_cannot_be_is_refused(class_name: str, config: Any, weights: Any, message: str) -> None:
    with pytest.raises(FormatError, match=rf"'layer' \({class_name}\): .*{message}"):
        one(class_name, 6, 4, weights=weights, **config)


def test_a_negative_variance_and_a_scale_of_two_axes_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="variance: expected numbers that are not negative"):
        one("Normalization", 4, mean=[0.0], variance=[-1.0])
    with pytest.raises(UnsupportedModelError, match="expected numbers or one for each feature"):
        one("Rescaling", 4, scale=[[1.0, 2.0]])
    with pytest.raises(ShapeError, match=r"input of layer: expected a row of shape \(3, 4\)"):
        one("PReLU", None, 4, weights={"alpha": random(1, 3, 4)})(X)


# --- Products ---------------------------------------------------------------------------------------------------------


def dot(first: np.ndarray, second: np.ndarray, version: str = "3.15.1", **config: Any) -> Any:
    network = build_model(
        model(
            input_layer("a", *first.shape[1:]),
            input_layer("b", *second.shape[1:]),
            layer("layer", "Dot", "a", "b", config={"normalize": False, **config}),
            version=version,
        )
    )
    found = network(first, second)
    assert network.outputs[0].shape[1:] == found.shape[1:]
    return found


@pytest.mark.parametrize(
    ("first", "second", "axes", "formula"),
    [
        ((3,), (3,), 1, "bi,bi->b"),
        ((3,), (3,), -1, "bi,bi->b"),
        ((2, 3), (5, 3), 2, "bti,bsi->bts"),
        ((2, 3), (3, 5), [2, 1], "bti,bis->bts"),
        ((4, 3), (4, 5), 1, "bit,bis->bts"),
        ((3,), (5, 3), [1, 2], "bi,bsi->bs"),
        ((2, 3), (3,), [-1, -1], "bti,bi->bt"),
        ((2, 4, 3), (5, 3), -1, "btui,bsi->btus"),
        ((2, 3), (5, 3, 6), [2, 2], "bti,bsiu->btsu"),
    ],
)
def test_dot(first: tuple[int, ...], second: tuple[int, ...], axes: Any, formula: str) -> None:
    a, b = random(1, 7, *first), random(2, 7, *second)
    wanted = np.einsum(formula, a.astype(np.float64), b.astype(np.float64))
    close(dot(a, b, axes=axes), wanted if wanted.ndim > 1 else wanted[:, None])


@pytest.mark.parametrize(("version", "least"), [("3.15.1", 1e-7), ("2.15.0", 1e-6)])
def test_cosines(version: str, least: float) -> None:
    a, b = random(1, 3, 2, 4), random(2, 3, 5, 4)
    a[0, 0] = [3e-7, 0, 0, 4e-7]
    lengths = [np.maximum(np.linalg.norm(x.astype(np.float64), axis=-1, keepdims=True), least) for x in (a, b)]
    wanted = (a / lengths[0]) @ (b / lengths[1]).swapaxes(1, 2)
    close(dot(a, b, version, axes=-1, normalize=True), wanted)
    np.testing.assert_allclose(dot(a, b, version, axes=-1, normalize=True)[0, 0], wanted[0, 0], rtol=1e-5)


def test_products_that_cannot_be_are_refused() -> None:
    a, b = random(1, 3, 2, 4), random(2, 3, 5, 6)
    with pytest.raises(FormatError, match=r"'layer' \(Dot\): its inputs have the shapes \(4,\) and \(6,\)"):
        dot(a, b, axes=2)
    with pytest.raises(FormatError, match="axis 0 is no axis"):
        dot(a, b, axes=0)
    with pytest.raises(FormatError, match="expected axes to be one or two whole numbers"):
        dot(a, b, axes=[1, 1, 1])
    network = build_model(
        model(input_layer("a", None, 4), input_layer("b", None, 4), layer("layer", "Dot", "a", "b", config={"axes": 1}))
    )
    with pytest.raises(ShapeError, match="inputs of layer: expected axes of one size, found 2 and 3"):
        network(random(1, 1, 2, 4), random(1, 1, 3, 4))
    with pytest.raises(UnsupportedModelError, match=r"'layer' \(Dot\) cannot run in a stream"):
        network.stream()
