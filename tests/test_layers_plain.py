"""Dense, embedding, masking, normalization, merging, pooling and shape layers against formulas in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from described import MASK, dense, input_layer, keras_loop, layer, lstm, lstm_weights, model, random, softmax

import lstm_engine as le
from lstm_engine.builder import build_model
from lstm_engine.errors import FormatError, ShapeError, UnsupportedModelError
from lstm_engine.layers.merging import MERGES

FEATURES = 4
X = random(1, *MASK.shape, FEATURES)
X_MASKED = np.where(MASK[..., None], X, 0).astype(np.float32)


def close(found: Any, wanted: Any, tolerance: float = 2e-6) -> None:
    assert found.shape == wanted.shape
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance / 10)


def one(class_name: str, *shape: int | None, weights: Any = None, version: str = "3.15.1", **config: Any) -> Any:
    """Return the model of one layer."""
    description = model(
        input_layer("x", *shape), layer("layer", class_name, "x", config=config, weights=weights), version=version
    )
    return build_model(description)


# --- Dense, embedding, masking ----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(7, FEATURES), (5, 6, FEATURES), (2, 3, 5, FEATURES), (0, 6, FEATURES)])
@pytest.mark.parametrize("activation", ["linear", "relu", "softmax", "mish"])
def test_dense_on_any_rank(shape: tuple[int, ...], activation: str) -> None:
    description = model(
        input_layer("x", *shape[1:]), dense("dense", "x", features=FEATURES, units=3, activation=activation)
    )
    x = random(2, *shape)
    sums = x.astype(np.float64) @ random(50, FEATURES, 3) + random(51, 3)
    formulas = {
        "linear": lambda z: z,
        "relu": lambda z: np.maximum(z, 0),
        "softmax": lambda z: softmax(z) if z.size else z,
        "mish": lambda z: z * np.tanh(np.logaddexp(0, z)),
    }
    close(build_model(description)(x), formulas[activation](sums))


def test_embedding_checks_token_numbers() -> None:
    table = random(3, 5, 2)
    embedding = build_model(
        model(
            input_layer("tokens", None),
            layer(
                "embed", "Embedding", "tokens", config={"input_dim": 5, "output_dim": 2}, weights={"embeddings": table}
            ),
        )
    )
    assert embedding.inputs[0].dtype == "int64"
    np.testing.assert_array_equal(embedding([[0, 4], [3, 1]]), table[[[0, 4], [3, 1]]])
    np.testing.assert_array_equal(embedding(np.array([[2.0]], np.float32)), table[[[2]]])
    with pytest.raises(ShapeError, match=r"input of embed: expected token numbers from 0 to 4, found 5 at \(1, 0\)"):
        embedding([[0, 1], [5, 1]])
    with pytest.raises(ShapeError, match=r"found -1 at \(0, 1\)"):
        embedding([[0, -1]])
    with pytest.raises(ShapeError, match=r"tokens: expected integer indices, found .*1\.5"):
        embedding([[0, 1.5]])


def test_masking_zeroes_the_steps_that_it_masks_and_only_these() -> None:
    x = X.copy()
    x[0, 1] = 0.5
    x[1, 2, 0] = 0.5
    found = one("Masking", None, FEATURES, mask_value=0.5)(x)
    wanted = x.copy()
    wanted[0, 1] = 0
    np.testing.assert_array_equal(found, wanted)


def test_a_second_masking_makes_the_mask_anew() -> None:
    def chain(*values: float) -> Any:
        names = [f"masking_{place}" for place in range(len(values))]
        maskings = [
            layer(name, "Masking", before, config={"mask_value": value})
            for name, before, value in zip(names, ["x", *names], values, strict=False)
        ]
        last = lstm("lstm", names[-1] if names else "x", features=FEATURES, units=3, return_sequences=True)
        return build_model(model(input_layer("x", None, FEATURES), *maskings, last))

    # The first one leaves zeros, which are nothing to the second one: as if there were no mask at all.
    np.testing.assert_array_equal(chain(0.0, 7.0)(X_MASKED), chain()(X_MASKED))
    np.testing.assert_array_equal(chain(7.0, 0.0)(X_MASKED), chain(0.0)(X_MASKED))
    # What the caller masks stays masked.
    np.testing.assert_array_equal(chain(7.0)(X, mask=MASK), chain()(X, mask=MASK))


def test_a_mask_passes_the_layers_that_support_masks_and_ends_at_the_others() -> None:
    passing = [
        layer("dropout", "Dropout", "masking", config={"rate": 0.5, "seed": 3, "noise_shape": None}),
        layer("spatial", "SpatialDropout1D", "dropout", config={"rate": 0.5}),
        layer("noise", "GaussianNoise", "spatial", config={"stddev": 0.5}),
        layer("relu", "ReLU", "noise", config={"max_value": None, "negative_slope": 1.0, "threshold": 0.0}),
        layer("act", "Activation", "relu", config={"activation": "linear"}),
    ]
    ending = [layer("permute", "Permute", "act", config={"dims": [1, 2]})]
    last = lstm("lstm", "act", features=FEATURES, units=3, return_sequences=True)
    other = lstm("other", "permute", features=FEATURES, units=3, return_sequences=True)
    masking = layer("masking", "Masking", "x", config={"mask_value": 0.0})
    description = model(
        input_layer("x", None, FEATURES), masking, *passing, *ending, last, other, outputs=["lstm", "other"]
    )
    masked, unmasked = build_model(description)(X_MASKED)
    close(masked, keras_loop(X, lstm_weights(0, FEATURES, 3), mask=MASK)[0])
    close(unmasked, keras_loop(X_MASKED, lstm_weights(0, FEATURES, 3))[0])


# --- Normalization ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [-1, 2, 1, [1], -2])
@pytest.mark.parametrize(("scale", "center"), [(True, True), (False, True), (True, False), (False, False)])
def test_batch_normalization(axis: Any, scale: bool, center: bool) -> None:
    x = random(1, 5, 6, FEATURES)
    place = (axis[0] if isinstance(axis, list) else axis) % 3
    size = x.shape[place]
    weights = {
        "gamma": random(2, size),
        "beta": random(3, size),
        "moving_mean": random(4, size) + 20,
        "moving_variance": np.abs(random(5, size)) + 0.01,
    }
    unused = {"gamma": scale, "beta": center}
    weights = {name: array for name, array in weights.items() if unused.get(name, True)}
    found = one(
        "BatchNormalization", 6, FEATURES, weights=weights, axis=axis, scale=scale, center=center, epsilon=1e-3,
        momentum=0.9,
    )(x + np.float32(20))  # fmt: skip
    shape = [1, 1, 1]
    shape[place] = size
    mean, variance = (weights[name].astype(np.float64).reshape(shape) for name in ("moving_mean", "moving_variance"))
    gamma = weights["gamma"].reshape(shape) if scale else 1.0
    beta = weights["beta"].reshape(shape) if center else 0.0
    close(found, ((x + np.float32(20)).astype(np.float64) - mean) / np.sqrt(variance + 1e-3) * gamma + beta, 1e-5)


@pytest.mark.parametrize("axis", [-1, 1, [1, 2], [2, 1], [-1], 2])
@pytest.mark.parametrize(("scale", "center"), [(True, True), (False, False)])
def test_layer_normalization(axis: Any, scale: bool, center: bool) -> None:
    x = random(1, 5, 6, FEATURES)
    axes = tuple(sorted(number % 3 for number in (axis if isinstance(axis, list) else [axis])))
    sizes = tuple(x.shape[number] for number in axes)
    weights = {"gamma": random(2, *sizes), "beta": random(3, *sizes)} if scale else {}
    found = one(
        "LayerNormalization", 6, FEATURES, weights=weights, axis=axis, scale=scale, center=center, epsilon=1e-3
    )(x)
    double = x.astype(np.float64)
    y = (double - double.mean(axes, keepdims=True)) / np.sqrt(double.var(axes, keepdims=True) + 1e-3)
    shape = [x.shape[number] if number in axes else 1 for number in range(3)]
    if scale:
        y = y * weights["gamma"].reshape(shape) + weights["beta"].reshape(shape)
    close(found, y, 1e-5)


def test_rms_scaling_divides_by_the_deviation_and_keeps_the_mean() -> None:
    x = random(1, 5, 6, FEATURES) + np.float32(3)
    gamma = random(2, FEATURES)
    found = one("LayerNormalization", 6, FEATURES, weights={"gamma": gamma}, rms_scaling=True, epsilon=0.1)(x)
    double = x.astype(np.float64)
    close(found, double / np.sqrt(double.var(-1, keepdims=True) + 0.1) * gamma, 1e-5)
    np.testing.assert_array_equal(
        found[2:3],
        one("LayerNormalization", 6, FEATURES, weights={"gamma": gamma}, rms_scaling=True, epsilon=0.1)(x[2:3]),
    )


def test_normalization_weights_that_do_not_fit_are_refused() -> None:
    with pytest.raises(FormatError, match=r"'layer' \(LayerNormalization\): its gamma has shape \(3,\)"):
        one("LayerNormalization", 6, FEATURES, weights={"gamma": random(1, 3), "beta": random(1, 4)})
    with pytest.raises(FormatError, match=r"'layer' \(BatchNormalization\): its weights are for 3 features"):
        one(
            "BatchNormalization", 6, FEATURES,
            weights={name: np.ones(3, np.float32) for name in ("gamma", "beta", "moving_mean", "moving_variance")},
        )  # fmt: skip
    with pytest.raises(UnsupportedModelError, match="moving_variance plus epsilon: expected positive"):
        one(
            "BatchNormalization", 6, FEATURES,
            weights={name: -np.ones(4, np.float32) for name in ("gamma", "beta", "moving_mean", "moving_variance")},
        )  # fmt: skip
    with pytest.raises(FormatError, match="axis"):
        one("LayerNormalization", 6, FEATURES, weights={}, axis=0, scale=False, center=False)


# --- Merging ------------------------------------------------------------------------------------------------------

OTHER_MASK = np.array([[1, 1, 0, 0, 1, 1], [1, 1, 1, 0, 1, 0], [0, 0, 0, 1, 1, 1], [1] * 6, [0, 0, 0, 0, 0, 1]], bool)
Y = random(7, *MASK.shape, FEATURES)
Y_MASKED = np.where(OTHER_MASK[..., None], Y, 0).astype(np.float32)


def merged(class_name: str, masks: tuple[bool, bool], version: str, **config: Any) -> Any:
    """Merge two inputs, either of them masked or not, then run an LSTM that shows the mask."""
    layers = []
    names = []
    for name, masked in zip(("a", "b"), masks, strict=True):
        layers.append(input_layer(name, None, FEATURES))
        if masked:
            layers.append(layer(f"{name}_masked", "Masking", name, config={"mask_value": 0.0}))
        names.append(f"{name}_masked" if masked else name)
    width = 2 * FEATURES if class_name == "Concatenate" and config.get("axis", -1) == -1 else FEATURES
    layers.append(layer("merge", class_name, *names, config=config))
    layers.append(lstm("lstm", "merge", features=width, units=3, return_sequences=True))
    return build_model(model(*layers, outputs=["merge", "lstm"], version=version))


@pytest.mark.parametrize("masks", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("class_name", [*MERGES, "Concatenate"])
@pytest.mark.parametrize("version", ["2.15.0", "3.3.3", "3.4.0", "3.15.1"])
def test_merging_with_masks(class_name: str, masks: tuple[bool, bool], version: str) -> None:
    found, shown = merged(class_name, masks, version)(X_MASKED, Y_MASKED)
    a, b = X_MASKED.astype(np.float64), Y_MASKED.astype(np.float64)
    first, second = (np.where(masks[place], one, True) for place, one in enumerate((MASK, OTHER_MASK)))
    by_or = version in ("3.4.0", "3.15.1")
    if class_name in ("Maximum", "Minimum") and by_or and any(masks):
        # What is masked on one side is stood in for by the other.
        a, b = np.where(first[..., None], a, b), np.where(second[..., None], b, a)
    if class_name == "Multiply" and by_or and any(masks):
        a, b = (np.where(mask[..., None], value, 1.0) for mask, value in ((first, a), (second, b)))
    wanted = {
        "Add": a + b,
        "Average": (a + b) / 2,
        "Concatenate": np.concatenate([a, b], axis=-1),
        "Maximum": np.maximum(a, b),
        "Minimum": np.minimum(a, b),
        "Multiply": a * b,
        "Subtract": a - b,
    }[class_name]
    if class_name == "Multiply" and by_or and all(masks):
        wanted = np.where((first | second)[..., None], wanted, 0.0)
    close(found, wanted)
    if not any(masks) or version == "3.3.3":
        mask = None  # Keras 3.0 to 3.3 lost the mask here
    elif by_or:
        mask = (first | second) if all(masks) or class_name == "Concatenate" else None
    else:
        mask = first & second
    width = found.shape[-1]
    close(shown, keras_loop(found, lstm_weights(0, width, 3), mask=mask)[0], 1e-5)


@pytest.mark.parametrize("version", ["2.15.0", "3.15.1"])
def test_concatenating_in_time_concatenates_the_masks(version: str) -> None:
    found, shown = merged("Concatenate", (True, True), version, axis=1)(X_MASKED, Y_MASKED)
    np.testing.assert_array_equal(found, np.concatenate([X_MASKED, Y_MASKED], axis=1))
    mask = np.concatenate([MASK, OTHER_MASK], axis=1)
    close(shown, keras_loop(found, lstm_weights(0, FEATURES, 3), mask=mask)[0], 1e-5)


def test_merging_broadcasts_sizes_of_one_and_missing_axes() -> None:
    description = model(
        input_layer("a", None, FEATURES),
        input_layer("b", FEATURES),
        input_layer("c", None, 1),
        layer("add", "Add", "a", "b", "c"),
    )
    b, c = random(8, 5, FEATURES), random(9, 5, 6, 1)
    close(build_model(description)(X, b, c), X.astype(np.float64) + b[:, None] + c)


def test_merging_what_does_not_go_together_is_refused() -> None:
    inputs = [input_layer("a", 6, FEATURES), input_layer("b", 6, 3), input_layer("c", 5, FEATURES)]
    for class_name, names, message in (
        ("Add", ("a", "b"), "which do not go together"),
        ("Concatenate", ("a", "c"), "which do not agree"),
        ("Subtract", ("a", "a", "a"), "expected 2 inputs, found 3"),
    ):
        with pytest.raises(FormatError, match=rf"'merge' \({class_name}\): .*{message}"):
            build_model(model(*inputs, layer("merge", class_name, *names)))


# --- Pooling and shapes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keepdims", [False, True])
def test_average_pooling_counts_the_steps_that_are_not_masked(keepdims: bool) -> None:
    description = model(
        input_layer("x", None, FEATURES),
        layer("masking", "Masking", "x", config={"mask_value": 0.0}),
        layer("pool", "GlobalAveragePooling1D", "masking", config={"keepdims": keepdims}),
    )
    found = build_model(description)(X_MASKED)
    sums = np.where(MASK[..., None], X.astype(np.float64), 0).sum(axis=1, keepdims=keepdims)
    counts = MASK.sum(axis=1).reshape(-1, *[1] * (sums.ndim - 1))
    close(found[:4], sums[:4] / counts[:4])
    assert np.isnan(found[4]).all(), "0 / 0, as in the framework"
    close(one("GlobalAveragePooling1D", None, FEATURES)(X), X.astype(np.float64).mean(axis=1))


def test_average_pooling_does_not_lose_digits_over_long_sequences() -> None:
    x = random(1, 2, 20_000, 1) + np.float32(100)
    found = one("GlobalAveragePooling1D", None, 1)(x)
    close(found, x.astype(np.float64).mean(axis=1), 1e-7)


def test_max_pooling_looks_at_all_steps() -> None:
    np.testing.assert_array_equal(one("GlobalMaxPooling1D", None, FEATURES)(X), X.max(axis=1))
    np.testing.assert_array_equal(
        one("GlobalMaxPooling1D", 6, FEATURES, data_format="channels_first")(X), X.max(axis=2)
    )
    assert np.isneginf(one("GlobalMaxPooling1D", None, FEATURES)(X[:, :0])).all()


def test_shape_layers() -> None:
    np.testing.assert_array_equal(one("Flatten", 6, FEATURES)(X), X.reshape(5, 24))
    np.testing.assert_array_equal(
        one("Flatten", 6, FEATURES, data_format="channels_first")(X), X.transpose(0, 2, 1).reshape(5, 24)
    )
    np.testing.assert_array_equal(one("Permute", 6, FEATURES, dims=[2, 1])(X), X.transpose(0, 2, 1))
    np.testing.assert_array_equal(one("Reshape", 6, FEATURES, target_shape=[3, -1])(X), X.reshape(5, 3, 8))
    np.testing.assert_array_equal(one("Reshape", None, FEATURES, target_shape=[None, 2])(X), X.reshape(5, 12, 2))
    np.testing.assert_array_equal(one("RepeatVector", FEATURES, n=3)(X[:, 0]), np.stack([X[:, 0]] * 3, axis=1))
    assert one("Flatten", 6, FEATURES).outputs[0].shape == (None, 24)
    assert one("Reshape", None, FEATURES, target_shape=[-1, 2]).outputs[0].shape == (None, None, 2)


@pytest.mark.parametrize(
    ("class_name", "config", "message"),
    [
        ("Reshape", {"target_shape": [5, 5]}, "does not hold the 24 elements"),
        ("Reshape", {"target_shape": [-1, 5]}, "does not divide the 24 elements"),
        ("Reshape", {"target_shape": [-1, -1]}, "at most one -1"),
        ("Reshape", {"target_shape": "24"}, "expected target_shape to be a list of sizes"),
        ("Permute", {"dims": [1, 1]}, "expected a permutation"),
        ("Permute", {"dims": [1, 2, 3]}, "do not fit an input"),
        ("RepeatVector", {"n": 0}, "expected a number of steps"),
        ("RepeatVector", {"n": 10**12}, "expected a number of steps"),
        ("RepeatVector", {"n": 3}, r"expected an input of shape \(batch, features\)"),
        ("GlobalMaxPooling1D", {"keepdims": "yes"}, "expected keepdims to be true or false"),
        ("Softmax", {"axis": 3}, "axis 3 is no axis"),
        ("Softmax", {"axis": 0}, "axis 0 is no axis"),
        ("Masking", {"mask_value": "x"}, "expected mask_value to be a finite number"),
    ],
)
def test_configurations_that_cannot_be_are_refused(class_name: str, config: Any, message: str) -> None:
    with pytest.raises(FormatError, match=rf"layer 'layer' \({class_name}\): .*{message}"):
        one(class_name, 6, FEATURES, **config)


@pytest.mark.parametrize(
    ("class_name", "config", "named"),
    [
        ("Dense", {"lora_rank": 4}, "lora_rank=4"),
        ("Dense", {"quantization_config": {"mode": "int8"}}, "quantization_config="),
        ("Activation", {"activation": "sparsemax"}, "activation='sparsemax'"),
        ("LeakyReLU", {"negative_slope": 0.1, "per_channel": True}, "per_channel=True"),
        ("Softmax", {"axis": [1, 2]}, r"axis \[1, 2\]"),
        ("Flatten", {"data_format": "channels_middle"}, "data_format='channels_middle'"),
        ("BatchNormalization", {"axis": [1, 2]}, r"axis=\[1, 2\]"),
        ("BatchNormalization", {"virtual_batch_size": 4}, "virtual_batch_size=4"),
        ("ConvLSTM1D", {}, "not supported$"),
    ],
)
def test_options_that_are_not_implemented_are_named(class_name: str, config: Any, named: str) -> None:
    weights = {"kernel": random(1, FEATURES, 2), "bias": random(1, 2)}
    weights |= {name: np.ones(FEATURES, np.float32) for name in ("gamma", "beta", "moving_mean", "moving_variance")}
    with pytest.raises(UnsupportedModelError, match=rf"model.keras: layer 'layer' \({class_name}\).*{named}"):
        one(class_name, 6, FEATURES, weights=weights, **config)


@pytest.mark.parametrize("name", ["kernel", "bias"])
def test_weights_that_are_missing_or_not_finite_are_named(name: str) -> None:
    weights = {"kernel": random(1, FEATURES, 2), "bias": random(1, 2)}
    with pytest.raises(FormatError, match=rf"'layer' \(Dense\): expected a weight '{name}', found none"):
        one("Dense", FEATURES, weights={key: value for key, value in weights.items() if key != name})
    weights[name] = weights[name].copy()
    weights[name].flat[1] = np.inf
    with pytest.raises(UnsupportedModelError, match=rf"'layer' \(Dense\): {name} holds NaN or infinity"):
        one("Dense", FEATURES, weights=weights)


def test_hand_made_layers_check_their_weights() -> None:
    with pytest.raises(ShapeError, match=r"kernel: expected shape \(in_features, out_features\)"):
        le.Dense(np.ones(3))
    with pytest.raises(ShapeError, match=r"bias: expected shape \(2,\), found shape \(3,\)"):
        le.Dense(np.ones((3, 2)), np.ones(3))
    with pytest.raises(ShapeError, match="kernel: expected at least one input and one output"):
        le.Dense(np.ones((3, 0)))
    with pytest.raises(UnsupportedModelError, match="kernel: expected finite weights"):
        le.Dense(np.full((3, 2), np.nan))
    with pytest.raises(UnsupportedModelError, match="activation: expected"):
        le.Dense(np.ones((3, 2)), activation="Tanh")
    with pytest.raises(ShapeError, match="table: expected"):
        le.Embedding(np.ones((3, 2, 1)))
    kernel = np.ones((3, 2), np.float32)
    dense_layer = le.Dense(kernel)
    kernel[:] = 5
    assert (dense_layer.kernel == 1).all(), "the layer has a copy of its own"
