"""Convolution, pooling and the layers that make sequences longer or shorter: numbers to check by hand, and formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from described import MASK, input_layer, keras_loop, layer, lstm, lstm_weights, model, random

from lstm_engine.builder import build_model
from lstm_engine.errors import FormatError, ShapeError, UnsupportedModelError

#: One channel of five steps.
RISING = np.arange(1, 6, dtype=np.float32).reshape(1, 5, 1)


def one(class_name: str, *shape: int | None, weights: Any = None, version: str = "3.15.1", **config: Any) -> Any:
    """Return the model of one layer."""
    description = model(
        input_layer("x", *shape), layer("layer", class_name, "x", config=config, weights=weights), version=version
    )
    return build_model(description)


def kernel_of(*values: float) -> np.ndarray:
    """Return the kernel of one channel and one filter."""
    return np.array(values, np.float32).reshape(-1, 1, 1)


def conv(*kernel: float, **config: Any) -> Any:
    """Return the output of a convolution of RISING, without a bias."""
    options = {"filters": 1, "kernel_size": [len(kernel)], "use_bias": False, "activation": "linear", **config}
    return one("Conv1D", None, 1, weights={"kernel": kernel_of(*kernel)}, **options)(RISING)[0, :, 0]


def padded(x: np.ndarray, padding: str, size: int, stride: int, dilation: int, fill: float = 0.0) -> np.ndarray:
    """Return (batch, time, channels) padded as Keras documents it."""
    span, time = (size - 1) * dilation + 1, x.shape[1]
    missing = {
        "valid": 0,
        "causal": span - 1,
        "same": max((-(-time // stride) - 1) * stride + span - time, 0),
    }[padding]
    before = missing if padding == "causal" else missing // 2
    return np.pad(x.astype(np.float64), ((0, 0), (before, missing - before), (0, 0)), constant_values=fill)


def convolved(x: np.ndarray, kernel: np.ndarray, stride: int, dilation: int, groups: int = 1) -> np.ndarray:
    """Return the convolution of (batch, time, channels), loop by loop."""
    size, width, filters = kernel.shape
    span = (size - 1) * dilation + 1
    count = (x.shape[1] - span) // stride + 1
    y = np.zeros((len(x), count, filters))
    for step in range(count):
        for number in range(filters):
            first = number // (filters // groups) * width
            for tap in range(size):
                part = x[:, step * stride + tap * dilation, first : first + width]
                y[:, step, number] += part @ kernel[tap, :, number].astype(np.float64)
    return y


# --- Convolution ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        # 1 * x[t] + 10 * x[t + 1] + 100 * x[t + 2]
        ({}, [321, 432, 543]),
        ({"padding": "same"}, [210, 321, 432, 543, 54]),
        ({"padding": "causal"}, [100, 210, 321, 432, 543]),
        ({"strides": [2]}, [321, 543]),
        ({"strides": [2], "padding": "same"}, [210, 432, 54]),
        ({"strides": 3, "padding": "causal"}, [100, 432]),
        ({"dilation_rate": [2]}, [531]),
        ({"dilation_rate": [2], "padding": "same"}, [310, 420, 531, 42, 53]),
        ({"dilation_rate": 2, "padding": "causal"}, [100, 200, 310, 420, 531]),
        ({"activation": "relu"}, [321, 432, 543]),
    ],
)
def test_a_convolution_by_hand(config: Any, wanted: list[float]) -> None:
    np.testing.assert_array_equal(conv(1, 10, 100, **config), wanted)


def test_a_kernel_of_even_size_looks_forward() -> None:
    np.testing.assert_array_equal(conv(1, 10, padding="same"), [21, 32, 43, 54, 5])


@pytest.mark.parametrize("padding", ["valid", "same", "causal"])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (3, 1), (1, 3)])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_convolution(padding: str, stride: int, dilation: int, groups: int, data_format: str) -> None:
    x, kernel, bias = random(1, 3, 11, 4), random(2, 3, 4 // groups, 6), random(3, 6)
    first = data_format == "channels_first"
    network = one(
        "Conv1D", *((4, 11) if first else (11, 4)), weights={"kernel": kernel, "bias": bias}, filters=6,
        kernel_size=[3], strides=[stride], dilation_rate=[dilation], padding=padding, groups=groups,
        data_format=data_format, activation="tanh", use_bias=True,
    )  # fmt: skip
    found = network(x.swapaxes(1, 2) if first else x)
    wanted = np.tanh(convolved(padded(x, padding, 3, stride, dilation), kernel, stride, dilation, groups) + bias)
    assert found.dtype == np.float32
    assert network.outputs[0].shape == (None, *found.shape[1:])
    np.testing.assert_allclose(found.swapaxes(1, 2) if first else found, wanted, rtol=3e-6, atol=1e-6)


def test_a_row_of_a_batch_has_the_same_bits_alone() -> None:
    weights = {"kernel": random(2, 3, 4, 6), "bias": random(3, 6)}
    network = one("Conv1D", None, 4, weights=weights, filters=6, kernel_size=[3], padding="same")
    x = random(1, 5, 40, 4)
    np.testing.assert_array_equal(network(x)[3:4], network(x[3:4]))


def test_windows_laid_out_in_parts_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = {"kernel": random(2, 3, 4, 6), "bias": random(3, 6)}
    network = one("Conv1D", None, 4, weights=weights, filters=6, kernel_size=[3], groups=1)
    x = random(1, 5, 40, 4)
    whole = network(x)
    for chunk in (1, 50, 1000):
        monkeypatch.setattr("lstm_engine.layers.convolution._CHUNK", chunk)
        np.testing.assert_array_equal(network(x), whole)


def depthwise(x: np.ndarray, kernel: np.ndarray, stride: int, dilation: int) -> np.ndarray:
    """Return the convolution of each channel on its own."""
    parts = [
        convolved(x[:, :, channel : channel + 1], kernel[:, channel : channel + 1], stride, dilation)
        for channel in range(x.shape[2])
    ]
    return np.concatenate(parts, axis=2)


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_depthwise_and_separable_convolution(padding: str, stride: int, dilation: int, data_format: str) -> None:
    x, kernel, pointwise = random(1, 3, 9, 2), random(2, 3, 2, 3), random(4, 1, 6, 5)
    first = data_format == "channels_first"
    shape = (2, 9) if first else (9, 2)
    options = {
        "kernel_size": [3], "strides": [stride], "dilation_rate": [dilation], "padding": padding,
        "depth_multiplier": 3, "data_format": data_format, "use_bias": True,
    }  # fmt: skip
    given = x.swapaxes(1, 2) if first else x
    wanted = depthwise(padded(x, padding, 3, stride, dilation), kernel, stride, dilation)
    bias = random(3, 6)
    found = one("DepthwiseConv1D", *shape, weights={"depthwise_kernel": kernel, "bias": bias}, **options)(given)
    np.testing.assert_allclose(found.swapaxes(1, 2) if first else found, wanted + bias, rtol=3e-6, atol=1e-6)
    weights = {"depthwise_kernel": kernel, "pointwise_kernel": pointwise, "bias": random(3, 5)}
    found = one("SeparableConv1D", *shape, weights=weights, filters=5, **options)(given)
    wanted = wanted @ pointwise[0].astype(np.float64) + weights["bias"]
    np.testing.assert_allclose(found.swapaxes(1, 2) if first else found, wanted, rtol=3e-6, atol=1e-6)


def test_a_softmax_of_a_convolution_is_over_the_last_axis_whatever_it_is() -> None:
    x, kernel = random(1, 2, 4, 9), random(2, 2, 4, 3)
    found = one(
        "Conv1D", 4, 9, weights={"kernel": kernel}, filters=3, kernel_size=[2], use_bias=False,
        data_format="channels_first", activation="softmax",
    )(x)  # fmt: skip
    np.testing.assert_allclose(found.sum(axis=2), 1.0, rtol=1e-6)


# --- Pooling --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "greatest", "mean"),
    [
        ({"pool_size": [2]}, [2, 4], [1.5, 3.5]),
        ({"pool_size": 2, "strides": None}, [2, 4], [1.5, 3.5]),
        ({"pool_size": [2], "strides": [1]}, [2, 3, 4, 5], [1.5, 2.5, 3.5, 4.5]),
        ({"pool_size": [3], "strides": [2], "padding": "same"}, [2, 4, 5], [1.5, 3, 4.5]),
        ({"pool_size": [2], "strides": [2], "padding": "same"}, [2, 4, 5], [1.5, 3.5, 5]),
        ({"pool_size": [4], "strides": [3], "padding": "same"}, [3, 5], [2, 4]),
    ],
)
def test_pooling_by_hand(config: Any, greatest: list[float], mean: list[float]) -> None:
    for class_name, wanted in (("MaxPooling1D", greatest), ("AveragePooling1D", mean)):
        network = one(class_name, None, 1, **config)
        np.testing.assert_array_equal(network(RISING)[0, :, 0], wanted)
        turned = one(class_name, 1, 5, **config, data_format="channels_first")
        np.testing.assert_array_equal(turned(RISING.swapaxes(1, 2))[0, 0], wanted)


def test_the_padding_of_a_maximum_is_less_than_everything() -> None:
    network = one("MaxPooling1D", None, 1, pool_size=[3], strides=[1], padding="same")
    np.testing.assert_array_equal(network(-RISING)[0, :, 0], [-1, -1, -2, -3, -4])


# --- Longer and shorter -------------------------------------------------------------------------------------------


def test_cropping_padding_and_repeating() -> None:
    np.testing.assert_array_equal(one("Cropping1D", None, 1, cropping=[1, 2])(RISING)[0, :, 0], [2, 3])
    np.testing.assert_array_equal(one("Cropping1D", 5, 1, cropping=[1, 0])(RISING)[0, :, 0], [2, 3, 4, 5])
    np.testing.assert_array_equal(
        one("ZeroPadding1D", None, 1, padding=[1, 2])(RISING)[0, :, 0], [0, 1, 2, 3, 4, 5, 0, 0]
    )
    np.testing.assert_array_equal(one("ZeroPadding1D", 5, 1, padding=1)(RISING)[0, :, 0], [0, 1, 2, 3, 4, 5, 0])
    turned = one("ZeroPadding1D", 1, 5, padding=[0, 1], data_format="channels_first")
    np.testing.assert_array_equal(turned(RISING.swapaxes(1, 2))[0, 0], [1, 2, 3, 4, 5, 0])
    np.testing.assert_array_equal(one("UpSampling1D", None, 1, size=2)(RISING)[0, ::2, 0], [1, 2, 3, 4, 5])
    np.testing.assert_array_equal(one("UpSampling1D", None, 1, size=2)(RISING)[0, 1::2, 0], [1, 2, 3, 4, 5])
    assert one("Cropping1D", None, 1, cropping=[1, 2]).outputs[0].shape == (None, None, 1)
    assert one("ZeroPadding1D", 5, 1, padding=[1, 2]).outputs[0].shape == (None, 8, 1)
    assert one("UpSampling1D", 5, 1, size=3).outputs[0].shape == (None, 15, 1)


@pytest.mark.parametrize(
    ("class_name", "config"),
    [
        ("Conv1D", {"filters": 4, "kernel_size": [1]}),
        ("MaxPooling1D", {"pool_size": [1]}),
        ("AveragePooling1D", {"pool_size": [1]}),
        ("Cropping1D", {"cropping": [0, 0]}),
        ("ZeroPadding1D", {"padding": [0, 0]}),
        ("UpSampling1D", {"size": 1}),
    ],
)
def test_a_mask_ends_at_these_layers(class_name: str, config: Any) -> None:
    x = np.where(MASK[..., None], random(1, *MASK.shape, 4), 0).astype(np.float32)
    weights = {"kernel": np.eye(4, dtype=np.float32)[None], "bias": np.zeros(4, np.float32)}
    network = build_model(
        model(
            input_layer("x", 6, 4),
            layer("masking", "Masking", "x", config={"mask_value": 0.0}),
            layer("layer", class_name, "masking", config=config, weights=weights if class_name == "Conv1D" else {}),
            lstm("lstm", "layer", features=4, units=3, return_sequences=True),
        )
    )
    np.testing.assert_allclose(network(x), keras_loop(x, lstm_weights(0, 4, 3))[0], rtol=1e-5, atol=1e-6)


# --- What is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("class_name", "config", "message"),
    [
        ("Conv1D", {"kernel_size": [7]}, r"kernel: expected shape \(7, channels, filters\), found \(2, 4, 6\)"),
        ("Conv1D", {"kernel_size": [2], "groups": 4}, "groups: expected a divisor of the 6 filters, found 4"),
        ("Conv1D", {"kernel_size": [2], "groups": 2}, "its kernel takes 8 channels"),
        ("Conv1D", {"kernel_size": [2], "strides": [0]}, "window stride: expected from 1"),
        ("Conv1D", {"kernel_size": [2], "dilation_rate": [10**9]}, "window dilation: expected from 1"),
        ("Conv1D", {"kernel_size": [2], "dilation_rate": [6]}, "its windows span 7 steps"),
        ("Conv1D", {"kernel_size": [2], "strides": [1, 1]}, "expected strides to be one whole number"),
        ("MaxPooling1D", {"pool_size": [7]}, "its windows span 7 steps"),
        ("MaxPooling1D", {"pool_size": [10**9], "padding": "same"}, "window size: expected from 1"),
        ("Cropping1D", {"cropping": [3, 3]}, "it takes away 3 and 3 steps"),
        ("Cropping1D", {"cropping": [-1, 3]}, "expected from 0 to"),
        ("Cropping1D", {"cropping": [1, 2, 3]}, "expected cropping to be one or two whole numbers"),
        ("ZeroPadding1D", {"padding": [0, 10**12]}, "expected from 0 to"),
        ("UpSampling1D", {"size": 0}, "size: expected a number from 1"),
    ],
)
def test_configurations_that_cannot_be_are_refused(class_name: str, config: Any, message: str) -> None:
    weights = {"kernel": random(1, 2, 4, 6), "bias": random(2, 6)} if class_name == "Conv1D" else {}
    with pytest.raises(FormatError, match=rf"layer 'layer' \({class_name}\): .*{message}"):
        one(class_name, 6, 4, weights=weights, **config)


@pytest.mark.parametrize(
    ("class_name", "config", "named"),
    [
        ("Conv1D", {"padding": "full"}, "padding='full'"),
        ("DepthwiseConv1D", {"padding": "causal"}, "padding='causal'"),
        ("MaxPooling1D", {"padding": "causal"}, "padding='causal'"),
        ("Conv1D", {"data_format": "middle"}, "data_format='middle'"),
        ("Conv1D", {"lora_rank": 2}, "lora_rank=2"),
        ("Conv1D", {"weight_norm": True}, "weight_norm=True"),
        ("ConvLSTM1D", {}, r"'layer' \(ConvLSTM1D\) is not supported"),
        ("ConvLSTM2D", {}, r"'layer' \(ConvLSTM2D\) is not supported"),
        ("Conv2D", {}, r"'layer' \(Conv2D\) is not supported"),
    ],
)
def test_options_that_are_not_implemented_are_named(class_name: str, config: Any, named: str) -> None:
    weights = {"kernel": random(1, 2, 4, 6), "depthwise_kernel": random(1, 2, 4, 6), "bias": random(2, 6)}
    with pytest.raises(UnsupportedModelError, match=named):
        one(class_name, 6, 4, weights=weights, kernel_size=[2], **config)


def test_sequences_that_are_too_short_are_refused_when_they_come() -> None:
    kernel = {"kernel": random(1, 3, 4, 6), "bias": random(2, 6)}
    for class_name, config, weights in (
        ("Conv1D", {"kernel_size": [3]}, kernel),
        ("MaxPooling1D", {"pool_size": [3]}, {}),
        ("AveragePooling1D", {"pool_size": [3]}, {}),
    ):
        with pytest.raises(ShapeError, match="input of layer: expected at least 3 steps, found 2"):
            one(class_name, None, 4, weights=weights, **config)(random(1, 2, 2, 4))
    with pytest.raises(ShapeError, match="input of layer: expected more than 2 steps, which are taken away; found 2"):
        one("Cropping1D", None, 4, cropping=[1, 1])(random(1, 2, 2, 4))
    short = one("Conv1D", None, 4, weights=kernel, kernel_size=[3], padding="same")
    assert short(random(1, 2, 0, 4)).shape == (2, 0, 6)
    assert short(random(1, 0, 5, 4)).shape == (0, 5, 6)


@pytest.mark.parametrize("class_name", ["Conv1D", "MaxPooling1D", "Cropping1D", "ZeroPadding1D", "UpSampling1D"])
def test_a_stream_is_refused_by_the_layers_name(class_name: str) -> None:
    weights = {"kernel": random(1, 2, 4, 6), "bias": random(2, 6)} if class_name == "Conv1D" else {}
    config = {"kernel_size": [2]} if class_name == "Conv1D" else {}
    network = one(class_name, None, 4, weights=weights, **config)
    with pytest.raises(UnsupportedModelError, match=rf"layer 'layer' \({class_name}\) cannot run in a stream"):
        network.stream()
