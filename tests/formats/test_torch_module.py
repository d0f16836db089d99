"""le.from_torch without PyTorch: stand-ins of its modules; what is refused is refused by name, with the way out."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch_support as made

import lstm_engine as le
from lstm_engine.errors import UnsupportedModelError

RANDOM = np.random.default_rng(5)


class Module:
    """What is used of a torch.nn.Module."""

    def __init__(self, **attributes: Any) -> None:
        self.tensors = {key: value for key, value in attributes.items() if isinstance(value, np.ndarray)}
        vars(self).update(attributes)

    def forward(self) -> None: ...

    def state_dict(self) -> dict[str, Any]:
        return self.tensors

    def named_children(self) -> Iterator[tuple[str, Any]]:
        return iter(vars(self).get("children", {}).items())


def stand_in(name: str, module: str = "torch.nn.modules.some", base: type = Module) -> Any:
    """Return a class that looks like one of PyTorch's."""
    return type(name, (base,), {"__module__": module, "forward": lambda self: None})


def sequential(*children: Any, **named: Any) -> Any:
    return stand_in("Sequential")(children={**{str(n): child for n, child in enumerate(children)}, **named})


def linear(inputs: int, outputs: int) -> Any:
    weight = RANDOM.standard_normal((outputs, inputs)).astype(np.float32)
    return stand_in("Linear")(weight=weight, bias=np.arange(outputs, dtype=np.float32))


def lstm(inputs: int, hidden: int, name: str = "LSTM", gates: int = 4, **attributes: Any) -> Any:
    shapes = {"weight_ih_l0": (gates * hidden, inputs), "weight_hh_l0": (gates * hidden, hidden)}
    tensors = {key: RANDOM.standard_normal(shape).astype(np.float32) for key, shape in shapes.items()}
    return stand_in(name)(**{"batch_first": True, "nonlinearity": "tanh", "bias": False, **attributes}, **tensors)


def plain(name: str, **attributes: Any) -> Any:
    return stand_in(name)(**attributes)


def test_a_nested_sequential_becomes_one_model() -> None:
    first, second = linear(4, 5), linear(5, 3)
    model = le.from_torch(sequential(sequential(first, plain("ReLU")), plain("Dropout"), head=second))
    assert isinstance(model, le.Sequential)
    assert [layer.name for layer in model.layers] == ["0.0", "0.1", "1", "head"]
    x = RANDOM.standard_normal((6, 4)).astype(np.float32)
    hidden = np.maximum(x @ first.weight.T + first.bias, 0)
    np.testing.assert_allclose(model(x), hidden @ second.weight.T + second.bias, rtol=1e-5, atol=1e-5)


def test_the_shape_is_that_of_the_fewest_axes() -> None:
    assert le.from_torch(sequential(linear(4, 3))).inputs[0].shape == (None, 4)
    assert le.from_torch(sequential(plain("Tanh"), linear(4, 3), lstm(3, 2))).inputs[0].shape == (None, None, 4)
    model = le.from_torch(sequential(linear(4, 3)), input_shape=(None, 4), name="mine", compute_type="float64")
    assert (model.inputs[0].shape, model.name, model.compute_type) == ((None, None, 4), "mine", "float64")
    double = le.from_torch(sequential(lstm(3, 2)), compute_type="float64")
    assert double(np.zeros((1, 2, 3))).dtype == np.float64


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_a_recurrent_module_alone_or_at_the_end(kind: str) -> None:
    module = lstm(3, 5, kind, {"LSTM": 4, "GRU": 3, "RNN": 1}[kind])
    model = le.from_torch(sequential(module))
    assert model(np.ones((2, 4, 3), np.float32)).shape == (2, 4, 5)
    alone = le.from_torch(module)
    assert type(alone).__name__ == kind
    if kind == "LSTM":
        np.testing.assert_array_equal(alone(np.ones((2, 4, 3), np.float32))[0], model(np.ones((2, 4, 3), np.float32)))


def test_wrappers_are_taken_off() -> None:
    inner = linear(4, 3)
    compiled = stand_in("OptimizedModule", "torch._dynamo.eval_frame")(_orig_mod=inner)
    parallel = stand_in("DataParallel", "torch.nn.parallel.data_parallel")(module=compiled)
    assert le.from_torch(parallel).out_features == 3
    assert le.from_torch(sequential(parallel)).layers[0].name == "0"


class Own(stand_in("Linear")):  # type: ignore[misc]
    def forward(self) -> None: ...


HOOK = SimpleNamespace(values=lambda: [lambda module, given: None])


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (plain("Bilinear"), "torch.nn.modules.some.Bilinear is none of the modules that are understood"),
        (stand_in("Net", "__main__")(), "__main__.Net is none of the modules .* le.Sequential"),
        (Own(weight=np.ones((2, 2))), "Own has a forward of its own"),
        (plain("Linear", forward=lambda x: x), "the forward of this .*Linear has been replaced"),
        (plain("ReLU", forward=lambda x: x), "the forward of this .*ReLU has been replaced"),
        (plain("Linear", _forward_hooks=HOOK), "has the forward hook .*lambda"),
        (plain("Linear", parametrizations={"weight": [object()]}), "weight of .* is parametrized by object"),
        (stand_in("Linear", "torch.ao.nn.quantized.dynamic")(), "keeps its weights packed.*float model"),
        (stand_in("RecursiveScriptModule", "torch.jit._script")(), "is TorchScript.*state_dict"),
        (stand_in("BatchNorm1d")(running_mean=None), "track_running_stats=False"),
        (plain("Embedding", max_norm=1.0, weight=np.ones((2, 2), np.float32)), "max_norm is not implemented"),
        (plain("Softmax", dim=None), "Softmax without dim"),
        (plain("Hardtanh", min_val=-2.0, max_val=2.0), "Hardtanh from -2.0 to 2.0 is not implemented"),
        (plain("Softplus", beta=2, threshold=20), "Softplus with beta=2"),
        (plain("Threshold", threshold=1.0, value=3.0), "Threshold with value=3.0"),
        (plain("CELU", alpha=2.0), "CELU with alpha=2.0"),
        (plain("Flatten", start_dim=0, end_dim=-1), "Flatten from axis 0 to -1"),
        (plain("MaxPool1d", padding=1, ceil_mode=False, dilation=1), "MaxPool1d with padding"),
        (plain("AdaptiveAvgPool1d", output_size=2), "AdaptiveAvgPool1d to 2"),
        (3, "expected a module of PyTorch, found builtins.int"),
        (made.DATA / "stack.pt", "expected a module of PyTorch, found a PosixPath"),
        ({"fc.weight": np.ones((2, 2))}, "found a dict: a file or a state dict says nothing about how layers"),
    ],
)
def test_what_is_refused(module: Any, words: str) -> None:
    with pytest.raises(UnsupportedModelError, match=words):
        le.from_torch(module)
    if not isinstance(module, dict | int | type(made.DATA)):
        with pytest.raises(UnsupportedModelError, match=rf"the nn\.Sequential: '0': .*{words}"):
            le.from_torch(sequential(module))


def test_all_that_a_sequential_cannot_take_is_said_together() -> None:
    model = sequential(lstm(3, 2), sequential(lstm(2, 2, "LSTMCell"), lstm(2, 2, batch_first=False)), plain("Bilinear"))
    with pytest.raises(UnsupportedModelError) as caught:
        le.from_torch(model)
    message = str(caught.value)
    assert "the nn.Sequential: 4 problems were found" in message
    assert "'0': an nn.LSTM gives a tuple" in message
    assert "'1.0': an nn.LSTMCell takes a single step; use nn.LSTM" in message
    assert "'1.1': an nn.LSTM gives a tuple" in message
    assert "Bilinear" in message
    with pytest.raises(UnsupportedModelError, match="batch_first=False and takes"):
        le.from_torch(sequential(lstm(3, 2, batch_first=False)))
    with pytest.raises(UnsupportedModelError, match="is empty"):
        le.from_torch(sequential())


def test_options_are_for_models() -> None:
    with pytest.raises(UnsupportedModelError, match=r"options: expected none .* found compute_type"):
        le.from_torch(linear(2, 2), compute_type="float64")
    with pytest.raises(UnsupportedModelError, match=r"input_shape: expected None .* found LSTM"):
        le.from_torch(lstm(2, 2), input_shape=(None, 2))
    assert le.from_torch(lstm(2, 2), compute_type="float64").compute_type == "float64"
    broken = linear(2, 2)
    broken.weight[0] = np.nan
    with pytest.raises(UnsupportedModelError, match="holds NaN or infinity"):
        le.from_torch(broken)
    assert np.isnan(le.from_torch(broken, allow_nonfinite=True).kernel).any()
