"""PyTorch's layers out of a file, in a Sequential: recorded weights against recorded outputs, and what is refused."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch_support as made
from numpy.typing import NDArray

import lstm_engine as le
from lstm_engine.errors import FormatError, ShapeError, UnsupportedModelError

DATA = made.DATA
#: The options of the recorded convolutions, which their weights do not tell.
CONVOLUTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "strided": {"stride": 3, "padding": 2},
    "same": {"padding": "same", "dilation": 2},
    "grouped": {"groups": 2, "padding": 1},
    "depthwise": {"groups": 3, "dilation": 2},
    "reflect": {"padding": 3, "padding_mode": "reflect"},
    "replicate": {"padding": 4, "padding_mode": "replicate"},
    "circular": {"padding": 9, "padding_mode": "circular"},
}


@pytest.fixture(scope="module")
def recorded() -> dict[str, NDArray[Any]]:
    with np.load(DATA / "layers.npz") as arrays:
        return dict(arrays)


def close(found: NDArray[Any], wanted: NDArray[Any], bound: float = 1e-6) -> None:
    assert found.shape == wanted.shape
    assert np.linalg.norm(found - wanted) <= bound * np.linalg.norm(wanted)


def stack(source: Any, **options: Any) -> le.Sequential:
    """The recorded model, put together by hand."""
    return le.Sequential(
        [
            le.Embedding.from_torch(source, "embed"),
            le.Conv1d.from_torch(source, "conv", padding="same", dilation=2, groups=2, padding_mode="replicate"),
            le.BatchNorm1d.from_torch(source, "batch_norm", eps=1e-3),
            le.Activate("relu"),
            le.Dropout(0.2),
            le.LayerNorm.from_torch(source, "layer_norm"),
            le.GRU.from_torch(source, "gru"),
            le.RNN.from_torch(source, "rnn", nonlinearity="relu"),
            le.LSTM.from_torch(source, "lstm", **options),
            le.Dense.from_torch(source, "fc", activation="log_softmax"),
        ]
    )


@pytest.mark.parametrize("name", ["stack.pt", "stack.safetensors"])
def test_a_model_of_every_layer(name: str, recorded: dict[str, NDArray[Any]]) -> None:
    model = stack(DATA / name)
    close(model(recorded["stack.x"]), recorded["stack.y"])
    assert [layer.kind for layer in model.layers] == [
        "Embedding", "Conv1d", "BatchNorm1d", "Activation", "Dropout", "LayerNorm", "GRU", "RNN", "LSTM", "Dense",
    ]  # fmt: skip
    assert [layer.name for layer in model.layers[:3]] == ["embed", "conv", "batch_norm"]
    close(stack(DATA / name, compute_type="float64")(recorded["stack.x"]), recorded["stack.y"], 1e-7)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again(recorded["stack.x"]), model(recorded["stack.x"]))


def test_a_saved_model_is_the_same_model(tmp_path: Path, recorded: dict[str, NDArray[Any]]) -> None:
    source = DATA / "layers.pt"
    first = [
        le.Conv1d.from_torch(source, "same", padding="same", dilation=2),
        le.Dropout(0.3),
        le.Conv1d(np.full((3, 2, 3), 0.3), padding=1, padding_mode="reflect"),
        le.BatchNorm1d.from_torch(source, "plain_norm", eps=1e-3),
        le.LayerNorm(np.arange(1.0, 4.0), epsilon=1e-4),
    ]
    model = le.Sequential(first)
    model.save(tmp_path / "m.safetensors")
    again = le.load(tmp_path / "m.safetensors")
    x = recorded["same.x"].swapaxes(1, 2)
    np.testing.assert_array_equal(again(x), model(x))
    assert [layer.kind for layer in again.layers] == ["Conv1d", "Dropout", "Conv1d", "BatchNorm1d", "LayerNorm"]
    whole = stack(DATA / "stack.pt")
    whole.save(tmp_path / "w.safetensors")
    np.testing.assert_array_equal(le.load(tmp_path / "w.safetensors")(recorded["stack.x"]), whole(recorded["stack.x"]))


def test_the_only_one_of_a_kind_needs_no_prefix() -> None:
    path = DATA / "stack.pt"
    assert le.Conv1d.from_torch(path).filters == 6
    assert le.BatchNorm1d.from_torch(path).mean.shape == (6,)
    assert le.LayerNorm.from_torch(path).axes == (-1,)
    assert le.GRU.from_torch(path).num_directions == 2
    assert le.RNN.from_torch(path).recurrence.output_size == 4
    assert le.LSTM.from_torch(path).hidden_size == 3
    # One matrix and no bias may be a Linear layer as well.
    with pytest.raises(UnsupportedModelError, match=r"expected a Linear layer, found 2; choose one with prefix"):
        le.Dense.from_torch(path)
    assert le.Embedding.from_torch(path).name == ""
    with pytest.raises(UnsupportedModelError, match="expected a Conv1d, found 8; choose one with prefix"):
        le.Conv1d.from_torch(DATA / "layers.pt")


@pytest.mark.parametrize("channels_first", [False, True])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name: str, channels_first: bool, recorded: dict[str, NDArray[Any]]) -> None:
    layer = le.Conv1d.from_torch(DATA / "layers.pt", name, channels_first=channels_first, **CONVOLUTIONS[name])
    model = le.Sequential([layer])
    x, y = recorded[f"{name}.x"], recorded[f"{name}.y"]
    close(model(x) if channels_first else model(x.swapaxes(1, 2)).swapaxes(1, 2), y)
    sized = le.Sequential([layer], input_shape=x.shape[1:] if channels_first else x.shape[:0:-1])
    assert sized.outputs[0].shape[1:] == (y.shape[1:] if channels_first else y.shape[:0:-1])


def test_a_causal_convolution_sees_no_later_step(recorded: dict[str, NDArray[Any]]) -> None:
    kernel = recorded["plain.y"].astype(np.float32)[0, :, :3].reshape(2, 3, 2)
    model = le.Sequential([le.Conv1d(kernel, padding=(1, 0))])
    x = recorded["plain.x"].swapaxes(1, 2)
    assert model(x).shape == (2, 9, 2)
    np.testing.assert_array_equal(model(x)[:, :4], model(x[:, :4]))


def test_norms(recorded: dict[str, NDArray[Any]]) -> None:
    x = recorded["norm.x"]
    norm = le.LayerNorm.from_torch(DATA / "layers.pt", "norm")
    assert norm.axes == (-2, -1)
    close(le.Sequential([norm])(x), recorded["norm.y"])
    first = le.BatchNorm1d.from_torch(DATA / "layers.pt", "plain_norm", channels_first=True)
    close(le.Sequential([first], input_shape=(3, None))(x), recorded["plain_norm.y"])
    flat = le.Sequential([first], input_shape=(3,))
    np.testing.assert_array_equal(flat(x[:, :, 0]), le.Sequential([first], input_shape=(3, None))(x)[:, :, 0])
    last = le.BatchNorm1d.from_torch(DATA / "layers.pt", "plain_norm")
    close(le.Sequential([last])(x.swapaxes(1, 2)), recorded["plain_norm.y"].swapaxes(1, 2))


def test_lengths_pass_through_a_convolution_that_keeps_the_steps(recorded: dict[str, NDArray[Any]]) -> None:
    source = DATA / "stack.pt"
    gru = le.GRU.from_torch(source, "gru")
    same = le.Conv1d.from_torch(source, "conv", padding=2, dilation=2, groups=2)
    x = np.random.default_rng(0).standard_normal((3, 9, 4)).astype(np.float32)
    lengths = np.array([9, 4, 0])
    y = le.Sequential([same, gru])(x, lengths=lengths)
    alone = le.Sequential([gru])(le.Sequential([same])(x), lengths=lengths)
    np.testing.assert_array_equal(y, alone)
    assert not y[1, 4:].any()
    assert y[1, :4].any()
    shorter = le.Sequential([le.Conv1d.from_torch(source, "conv", groups=2), gru])
    assert shorter(x).shape == (3, 7, 10)
    with pytest.raises(ShapeError, match="mask, lengths: conv makes 7 steps of 9"):
        shorter(x, lengths=lengths)


def test_recurrent_layers_end_with_their_hidden_state(recorded: dict[str, NDArray[Any]]) -> None:
    x = np.random.default_rng(0).standard_normal((3, 9, 6)).astype(np.float32)
    every = le.Sequential([le.GRU.from_torch(DATA / "stack.pt")])(x)
    last = le.Sequential([le.GRU.from_torch(DATA / "stack.pt", return_sequences=False)])(x)
    np.testing.assert_array_equal(last, np.concatenate([every[:, -1, :5], every[:, 0, 5:]], axis=-1))


def test_a_recurrent_layer_streams_if_it_runs_forward() -> None:
    model = le.Sequential([le.RNN.from_torch(DATA / "stack.pt", nonlinearity="relu")])
    x = np.random.default_rng(0).standard_normal((1, 5, 10)).astype(np.float32)
    stream = model.stream()
    steps = np.stack([stream.step(np.ascontiguousarray(now)) for now in x[0]])
    np.testing.assert_array_equal(steps, model(x)[0])
    with pytest.raises(UnsupportedModelError, match="reverse direction begins at the end"):
        le.Sequential([le.GRU.from_torch(DATA / "stack.pt")]).stream()
    with pytest.raises(UnsupportedModelError, match="not padded at the beginning alone"):
        le.Sequential([le.Conv1d.from_torch(DATA / "stack.pt", groups=2)]).stream()


# --- Refused ----------------------------------------------------------------------------------------------------------

KERNEL = np.ones((3, 2, 4), np.float32)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"stride": 0}, UnsupportedModelError, "window stride: expected from 1"),
        ({"stride": 1.5}, UnsupportedModelError, "stride: expected a whole number, found 1.5"),
        ({"stride": 2, "padding": "same"}, UnsupportedModelError, "'same' needs stride 1, found stride 2"),
        ({"padding": -1}, UnsupportedModelError, "padding: expected from 0 to 1048576 steps, found -1"),
        ({"padding": "full"}, UnsupportedModelError, "padding: expected a whole number, found 'full'"),
        ({"dilation": 1 << 40}, UnsupportedModelError, "window dilation: expected from 1"),
        ({"groups": 3}, UnsupportedModelError, "groups: expected a divisor of the 4 filters, found 3"),
        ({"padding_mode": "same"}, UnsupportedModelError, "padding_mode: expected one of zeros, reflect"),
        ({"bias": np.ones(3)}, ShapeError, r"bias: expected shape \(4,\)"),
        ({"kernel": np.ones((0, 2, 4))}, ShapeError, "kernel: expected at least one of each axis"),
        ({"kernel": np.full((3, 2, 4), np.nan)}, UnsupportedModelError, "kernel: expected finite weights"),
    ],
)
def test_options_of_a_convolution_that_do_not_fit(options: dict[str, Any], error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        le.Conv1d(**{"kernel": KERNEL, **options})


@pytest.mark.parametrize(("mode", "padding", "least"), [("reflect", 3, 4), ("replicate", 3, 1), ("circular", 3, 3)])
def test_padding_that_has_nothing_to_repeat(mode: str, padding: int, least: int) -> None:
    model = le.Sequential([le.Conv1d(KERNEL, padding=padding, padding_mode=mode)])
    model(np.ones((1, least, 2), np.float32))
    with pytest.raises(ShapeError, match=f"needs at least {least} steps, found {least - 1}"):
        model(np.ones((1, least - 1, 2), np.float32))


def test_too_few_steps_and_other_channels() -> None:
    with pytest.raises(ShapeError, match="expected at least 3 steps, found 2"):
        le.Sequential([le.Conv1d(KERNEL)])(np.ones((1, 2, 2), np.float32))
    with pytest.raises(ShapeError, match="its kernel takes 2 channels"):
        le.Sequential([le.Conv1d(KERNEL)], input_shape=(None, 3))
    first = le.BatchNorm1d(np.ones(3), np.ones(3), channels_first=True)
    with pytest.raises(ShapeError, match="expected 3 channels on axis 1"):
        le.Sequential([first], input_shape=(None, 3))
    with pytest.raises(UnsupportedModelError, match="input_shape: expected one"):
        le.Sequential([first])


@pytest.mark.parametrize(
    ("load", "state", "error", "words"),
    [
        (le.Conv1d, {"weight": (4, 2, 3), "bias": (3,)}, FormatError, r"c\.bias: expected shape \(4,\)"),
        (le.Conv1d, {"weight": (4, 2)}, UnsupportedModelError, "expected a Conv1d at prefix 'c', found Linear"),
        (
            le.BatchNorm1d,
            {"running_mean": (3,), "running_var": (2,)},
            FormatError,
            r"c\.running_var: expected .*\(3,\)",
        ),
        (le.LayerNorm, {"weight": (3,), "bias": (2,)}, FormatError, r"expected shape \(3,\), found \(2,\)"),
        (le.GRU, {"weight_ih_l0": (12, 3), "weight_hh_l0": (12, 3)}, UnsupportedModelError, "found LSTM"),
        (le.GRU, {"weight_ih_l0": (9, 3), "weight_hh_l0": (12, 4)}, FormatError, r"expected shape \(12, 3\)"),
        (
            le.RNN,
            {"weight_ih_l0": (4, 3), "weight_hh_l0": (4, 4), "bias_ih_l0": (4,)},
            FormatError,
            "bias_hh_l0: missing",
        ),
    ],
)
def test_tensors_that_do_not_fit(load: Any, state: dict[str, tuple[int, ...]], error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        load.from_torch({f"c.{name}": np.ones(shape) for name, shape in state.items()}, "c")


def test_numbers_that_do_not_fit() -> None:
    with pytest.raises(FormatError, match="expected floating-point numbers, found dtype int64"):
        le.Conv1d.from_torch({"weight": np.ones((4, 2, 3), np.int64)})
    with pytest.raises(UnsupportedModelError, match="variance plus epsilon"):
        le.BatchNorm1d.from_torch({"running_mean": np.ones(3), "running_var": np.full(3, -1.0)})
    with pytest.raises(UnsupportedModelError, match="weight holds NaN"):
        le.LayerNorm.from_torch({"weight": np.full(3, np.inf)})


def test_weights_that_are_not_finite_only_if_they_are_allowed() -> None:
    state = {"c.weight": np.full((4, 2, 3), np.inf)}
    with pytest.raises(UnsupportedModelError, match="holds NaN or infinity"):
        le.Conv1d.from_torch(state, "c")
    assert np.isinf(le.Conv1d.from_torch(state, "c", allow_nonfinite=True).kernel).all()


def test_nonlinearities_of_an_rnn() -> None:
    with pytest.raises(UnsupportedModelError, match="nonlinearity: expected 'tanh' or 'relu', found 'elu'"):
        le.RNN.from_torch(DATA / "stack.pt", nonlinearity="elu")
