"""PyTorch's weights in canonical form: recorded files against recorded outputs, and every way of asking for them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch_support as made
from numpy.typing import NDArray

from lstm_engine import reference
from lstm_engine.errors import FormatError, UnsupportedModelError
from lstm_engine.formats.limits import reading
from lstm_engine.formats.tensor_file import read_tensors
from lstm_engine.formats.torch_layers import embedding_weights_from_torch, linear_weights_from_torch
from lstm_engine.formats.torch_lstm import (
    describe_torch_file,
    lstm_weights_from_torch,
)

DATA = made.DATA
LSTMS = ["plain", "deep", "bidirectional", "projected", "no_bias"]


@pytest.fixture(scope="module")
def outputs() -> dict[str, NDArray[np.float64]]:
    with np.load(DATA / "lstm_outputs.npz") as recorded:
        return dict(recorded)


def state(layers: int = 1, *, prefix: str = "", gates: int = 4, **options: Any) -> dict[str, NDArray[np.float32]]:
    """A state dict as PyTorch would have it, with distinct random weights."""
    random = np.random.default_rng(3)
    features, hidden = options.get("features", 3), options.get("hidden", 4)
    output = options.get("projection") or hidden
    directions = ["", "_reverse"] if options.get("bidirectional") else [""]
    found: dict[str, NDArray[np.float32]] = {}
    for layer in range(layers):
        for direction in directions:
            end = f"_l{layer}{direction}"
            shapes = {
                "weight_ih": (gates * hidden, features if layer == 0 else len(directions) * output),
                "weight_hh": (gates * hidden, output),
            }
            if options.get("bias", True):
                shapes |= {"bias_ih": (gates * hidden,), "bias_hh": (gates * hidden,)}
            if options.get("projection"):
                shapes["weight_hr"] = (output, hidden)
            for name, shape in shapes.items():
                found[prefix + name + end] = random.standard_normal(shape).astype(np.float32)
    return found


# --- Right ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LSTMS)
def test_recorded_layers_give_pytorchs_outputs(name: str, outputs: dict[str, NDArray[np.float64]]) -> None:
    weights = lstm_weights_from_torch(DATA / f"lstm_{name}.pt")
    y, (h, c) = reference.lstm(outputs[f"{name}.x"], weights)
    # The two biases are added and rounded to float32 once: that is all that may differ.
    for found, wanted in ((y, f"{name}.y"), (h, f"{name}.h"), (c, f"{name}.c")):
        np.testing.assert_allclose(found, outputs[wanted], rtol=0, atol=1e-7)


def test_a_recorded_cell_gives_pytorchs_outputs(outputs: dict[str, NDArray[np.float64]]) -> None:
    weights = lstm_weights_from_torch(DATA / "lstm_cell.pt")
    state0 = (outputs["cell.h0"][None], outputs["cell.c0"][None])
    _, (h, c) = reference.lstm(outputs["cell.x"][:, None], weights, state0)
    np.testing.assert_allclose(h[0], outputs["cell.h"], rtol=0, atol=1e-7)
    np.testing.assert_allclose(c[0], outputs["cell.c"], rtol=0, atol=1e-7)


def test_weights_are_the_transposed_ones_in_the_same_order() -> None:
    file = read_tensors(DATA / "lstm_projected.pt").tensors
    weights = lstm_weights_from_torch(DATA / "lstm_projected.pt")
    assert (weights.num_layers, weights.num_directions, weights.input_size) == (2, 2, 3)
    assert (weights.hidden_size, weights.output_size, weights.direction) == (6, 2, "bidirectional")
    for end, cell in zip(["_l0", "_l0_reverse", "_l1", "_l1_reverse"], weights.flat(), strict=True):
        np.testing.assert_array_equal(cell.kernel, file[f"weight_ih{end}"].T)
        np.testing.assert_array_equal(cell.recurrent_kernel, file[f"weight_hh{end}"].T)
        assert cell.projection is not None
        np.testing.assert_array_equal(cell.projection, file[f"weight_hr{end}"].T)
        wide = file[f"bias_ih{end}"].astype(np.float64) + file[f"bias_hh{end}"].astype(np.float64)
        assert cell.bias is not None
        np.testing.assert_array_equal(cell.bias, wide.astype(np.float32))
        assert {array.dtype for array in cell.arrays().values()} == {np.dtype(np.float32)}


def test_a_layer_without_bias_has_none() -> None:
    assert all(cell.bias is None for cell in lstm_weights_from_torch(DATA / "lstm_no_bias.pt").flat())


def test_float64_weights_stay_float64() -> None:
    weights = lstm_weights_from_torch(DATA / "lstm_float64.pt")
    assert {array.dtype for array in weights.cells[0][0].arrays().values()} == {np.dtype(np.float64)}


def test_bfloat16_is_the_same_from_both_formats() -> None:
    one = lstm_weights_from_torch(DATA / "lstm_bfloat16.pt").cells[0][0].arrays()
    other = lstm_weights_from_torch(DATA / "lstm_bfloat16.safetensors").cells[0][0].arrays()
    assert one.keys() == other.keys()
    for name, array in one.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, other[name])
    assert not (one["kernel"].view(np.uint32) & 0xFFFF).any()


def test_a_file_and_its_state_dict_are_the_same() -> None:
    tensors = read_tensors(DATA / "lstm_deep.pt").tensors
    for one, other in zip(
        lstm_weights_from_torch(DATA / "lstm_deep.pt").flat(), lstm_weights_from_torch(tensors).flat(), strict=True
    ):
        for name, array in one.arrays().items():
            np.testing.assert_array_equal(array, other.arrays()[name])


def test_strides_and_byte_order_of_a_given_array_do_not_matter() -> None:
    plain = state()
    odd = {name: np.asfortranarray(array[::-1][::-1]).astype(">f4") for name, array in plain.items()}
    one, other = (lstm_weights_from_torch(given).cells[0][0] for given in (plain, odd))
    for name, array in one.arrays().items():
        np.testing.assert_array_equal(array, other.arrays()[name])
        assert other.arrays()[name].dtype.isnative


# --- Finding ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["encoder", "encoder.", "decoder"])
def test_a_prefix_chooses(prefix: str) -> None:
    weights = lstm_weights_from_torch(DATA / "several.pt", prefix)
    assert weights.hidden_size == {"e": 4, "d": 5}[prefix[0]]


def test_several_without_a_prefix_are_listed() -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        lstm_weights_from_torch(DATA / "several.pt")
    message = str(caught.value)
    assert "expected an LSTM, found 2; choose one with prefix" in message
    assert "LSTM 'encoder' (2 layers, bidirectional, input 3, hidden 4)" in message
    assert "LSTMCell 'decoder' (1 layer, one direction, input 8, hidden 5)" in message
    assert "gru" not in message


@pytest.mark.parametrize("prefix", [None, "rnn", "module.rnn", "state_dict.module.rnn", "state_dict.rnn"])
@pytest.mark.parametrize("name", ["checkpoint", "checkpoint_legacy"])
def test_what_wraps_a_model_may_be_left_out(name: str, prefix: str | None) -> None:
    cell = lstm_weights_from_torch(DATA / f"{name}.pt", prefix).cells[0][0]
    with np.load(DATA / "checkpoint.npz") as recorded:
        np.testing.assert_array_equal(cell.kernel, recorded["rnn.weight_ih_l0"].T)


@pytest.mark.parametrize(
    "prefix", ["ema.rnn", "model.rnn", "state_dict", "_orig_mod.rnn", "module.module.rnn", "fc.rnn"]
)
def test_what_is_asked_for_is_not_left_out(prefix: str) -> None:
    with pytest.raises(UnsupportedModelError, match="found nothing there"):
        lstm_weights_from_torch(DATA / "checkpoint.pt", prefix)


def test_tensors_at_the_top_are_no_lstm() -> None:
    with pytest.raises(UnsupportedModelError, match=r"found tensors at the top \(''\) \(mean \(2, 3\), "):
        lstm_weights_from_torch(DATA / "checkpoint.pt", "")


def test_a_prefix_is_a_path_from_the_top() -> None:
    for prefix in ("rnn", "encoder", "net.rnn"):
        with pytest.raises(UnsupportedModelError, match="found nothing there"):
            lstm_weights_from_torch(state(prefix="net.encoder.rnn."), prefix)
    for prefix in ("encoder.rnn", "net.encoder.rnn"):
        assert lstm_weights_from_torch(state(prefix="net.encoder.rnn."), prefix).hidden_size == 4
    assert lstm_weights_from_torch(state(prefix="encoder._orig_mod.rnn."), "encoder.rnn").hidden_size == 4


def test_two_models_in_a_file_need_the_whole_path() -> None:
    path = DATA / "two_models.pt"
    for prefix in (None, "rnn"):
        with pytest.raises(UnsupportedModelError) as caught:
            lstm_weights_from_torch(path, prefix)
        assert "'model._orig_mod.rnn'" in str(caught.value)
        assert "'ema.rnn'" in str(caught.value)
    for prefix in ("ema.rnn", "model._orig_mod.rnn"):
        assert lstm_weights_from_torch(path, prefix).hidden_size == 4


def test_the_top_is_the_empty_prefix() -> None:
    both = state() | state(prefix="inner.", hidden=5)
    assert lstm_weights_from_torch(both, "").hidden_size == 4
    assert lstm_weights_from_torch(both, "inner").hidden_size == 5
    assert lstm_weights_from_torch({"state_dict": state()}, "").hidden_size == 4


@pytest.mark.parametrize("prefix", ["nothing", "enc", "encoder.weight_ih_l0", "decoder.rnn"])
def test_a_prefix_of_nothing_lists_what_there_is(prefix: str) -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        lstm_weights_from_torch(DATA / "several.pt", prefix)
    message = str(caught.value)
    assert f"expected an LSTM at prefix {prefix!r}, found nothing there" in message
    assert "'encoder'" in message


@pytest.mark.parametrize(("name", "kind"), [("gru", "GRU"), ("rnn", "RNN")])
def test_other_recurrent_layers_are_named(name: str, kind: str) -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        lstm_weights_from_torch(DATA / f"{name}.pt")
    assert re.search(rf"found only other recurrent layers.*le\.{kind}.*\n  {kind} at the top", str(caught.value))
    with pytest.raises(UnsupportedModelError, match=rf"expected an LSTM at prefix '', found {kind}"):
        lstm_weights_from_torch(DATA / f"{name}.pt", "")


def test_a_gru_beside_an_lstm_is_named_when_it_is_asked_for() -> None:
    with pytest.raises(UnsupportedModelError, match=r"found GRU 'gru' \(1 layer, one direction, input 5, hidden 5\)"):
        lstm_weights_from_torch(DATA / "several.pt", "gru")


@pytest.mark.parametrize("source", [{}, {"epoch": 3}, {"w": np.ones(3)}])
def test_a_mapping_without_an_lstm(source: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedModelError, match="the state dict: expected an LSTM, found none"):
        lstm_weights_from_torch(source)


# --- Damage -----------------------------------------------------------------------------------------------------------


def test_all_problems_are_reported_together() -> None:
    broken = state(2, prefix="rnn.", bidirectional=True)
    del broken["rnn.weight_hh_l0"], broken["rnn.bias_ih_l1_reverse"]
    broken["rnn.weight_ih_l1"] = np.ones((16, 7), np.float32)
    broken["rnn.bias_hh_l0_reverse"] = np.ones((12,), np.float32)
    broken["rnn.weight_hh_l1"] = np.ones((16, 4), np.int64)
    broken["rnn.weight_ch_l0"] = np.ones(12, np.float32)
    with pytest.raises(FormatError) as caught:
        lstm_weights_from_torch(broken)
    message = str(caught.value)
    for line in (
        "the state dict: 6 problems were found",
        "rnn.weight_hh_l0: missing; expected shape (16, 4)",
        "rnn.bias_ih_l1_reverse: missing; expected shape (16,)",
        "rnn.weight_ih_l1: expected shape (16, 8), found (16, 7)",
        "rnn.bias_hh_l0_reverse: expected shape (16,), found (12,)",
        "rnn.weight_hh_l1: expected floating-point numbers, found dtype int64",
        "rnn.weight_ch_l0: nn.LSTM has no tensor of this name",
    ):
        assert line in message


@pytest.mark.parametrize("projection", [0, 2])
@pytest.mark.parametrize("bias", [False, True])
def test_each_missing_tensor_is_noticed(projection: int, bias: bool) -> None:
    whole = state(2, bidirectional=True, projection=projection, bias=bias)
    assert lstm_weights_from_torch(whole).num_layers == 2
    for name in whole:
        with pytest.raises(FormatError, match=name):
            lstm_weights_from_torch({key: array for key, array in whole.items() if key != name})


def test_each_wrong_shape_is_noticed() -> None:
    whole = state(2, bidirectional=True, projection=2)
    for name, array in whole.items():
        for wrong in (array[:-1], array[..., None], np.concatenate([array, array])):
            with pytest.raises(FormatError, match=r"expected shape|expected a hidden size"):
                lstm_weights_from_torch(whole | {name: wrong})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"weight_ih_l9999": np.ones((4, 1), np.float32)}, "expected layers 0 to 9999"),
        ({"weight_ih_l1": np.ones((16, 4), np.float32)}, "expected layers 0 to 1, found [1]"),
        (state(hidden=0), "hidden size of at least 1"),
    ],
)
def test_odd_state_dicts(given: dict[str, Any], words: str) -> None:
    with pytest.raises(FormatError, match=re.escape(words)):
        lstm_weights_from_torch(given)


@pytest.mark.parametrize(("name", "way_out"), [("orthogonal", "remove_parametrizations"), ("pruned", r"prune\.remove")])
def test_computed_weights_name_the_way_out(name: str, way_out: str) -> None:
    with pytest.raises(FormatError, match=rf"weight_[ih]h_l0: missing; .*{way_out}"):
        lstm_weights_from_torch(DATA / f"{name}.pt")


def test_a_parametrized_layer_that_is_not_even_found_names_the_way_out() -> None:
    with pytest.raises(UnsupportedModelError, match="remove_parametrizations"):
        linear_weights_from_torch(DATA / "spectral.pt")


def test_tensors_that_are_not_read_are_named_together() -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        lstm_weights_from_torch(DATA / "unread.pt")
    assert "rnn.weight_ih_l0 cannot be read: it is a quantized tensor" in str(caught.value)
    assert "rnn.weight_hh_l0 cannot be read: it is a sparse tensor" in str(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused_unless_allowed(value: float) -> None:
    given = state(2)
    given["bias_hh_l1"][3] = value
    with pytest.raises(UnsupportedModelError, match=r"bias of layer 1, direction 0 holds NaN or infinity"):
        lstm_weights_from_torch(given)
    with reading(None, True):
        bias = lstm_weights_from_torch(given).cells[1][0].bias
    assert bias is not None
    assert not np.isfinite(bias[3])


# --- Modules and other sources ----------------------------------------------------------------------------------------


class FakeTensor:
    """What is used of a torch.Tensor."""

    layout, is_quantized, is_meta = "torch.strided", False, False

    def __init__(self, array: NDArray[Any], dtype: str = "torch.float32", *, gradient: bool = True) -> None:
        self.array, self.dtype, self.gradient = array, dtype, gradient

    def detach(self) -> FakeTensor:
        return FakeTensor(self.array, self.dtype, gradient=False)

    def cpu(self) -> FakeTensor:
        return self

    def float(self) -> FakeTensor:
        return FakeTensor(self.array, gradient=self.gradient)

    def numpy(self) -> NDArray[Any]:
        if self.gradient or self.dtype == "torch.bfloat16":
            raise TypeError("Got unsupported ScalarType")
        return self.array


@pytest.mark.parametrize("dtype", ["torch.float32", "torch.bfloat16"])
def test_tensors_are_used_through_their_own_methods(dtype: str) -> None:
    plain = state()
    given = {name: FakeTensor(array, dtype) for name, array in plain.items()}
    np.testing.assert_array_equal(lstm_weights_from_torch(given).cells[0][0].kernel, plain["weight_ih_l0"].T)


@pytest.mark.parametrize("trait", [{"is_quantized": True}, {"layout": "torch.sparse_coo"}, {"is_meta": True}])
def test_tensors_of_other_kinds_are_refused(trait: dict[str, Any]) -> None:
    given: dict[str, Any] = {name: FakeTensor(array) for name, array in state().items()}
    vars(given["weight_hh_l0"]).update(trait)
    with pytest.raises(UnsupportedModelError, match="weight_hh_l0 cannot be read"):
        lstm_weights_from_torch(given)


@pytest.mark.parametrize("source", [3, None, b"lstm.pt", [1], object()])
def test_other_sources_are_refused_by_their_class(source: object) -> None:
    with pytest.raises(UnsupportedModelError, match=f"found builtins.{type(source).__name__}"):
        lstm_weights_from_torch(source)


def test_a_missing_file_is_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        lstm_weights_from_torch(tmp_path / "none.pt")


# --- Linear and Embedding ---------------------------------------------------------------------------------------------


def test_linear_and_embedding() -> None:
    with np.load(DATA / "several.npz") as recorded:
        kernel, bias = linear_weights_from_torch(DATA / "several.pt", "head")
        np.testing.assert_array_equal(kernel, recorded["head.weight"].T)
        assert bias is not None
        np.testing.assert_array_equal(bias, recorded["head.bias"])
        assert kernel.flags.c_contiguous
        kernel, bias = linear_weights_from_torch(DATA / "several.pt", "tied")
        np.testing.assert_array_equal(kernel, recorded["tied.weight"].T)
        assert bias is None
        table = embedding_weights_from_torch(DATA / "several.pt", "embed")
        np.testing.assert_array_equal(table, recorded["embed.weight"])
    kernel, _ = linear_weights_from_torch(DATA / "checkpoint.pt")
    assert kernel.shape == (4, 2)


def test_linear_and_embedding_are_told_apart_and_checked() -> None:
    path = DATA / "several.pt"
    with pytest.raises(UnsupportedModelError, match="expected a Linear layer, found 3; choose one with prefix"):
        linear_weights_from_torch(path)
    with pytest.raises(UnsupportedModelError, match="expected an Embedding, found 2; choose one with prefix"):
        embedding_weights_from_torch(path)
    with pytest.raises(UnsupportedModelError, match="expected an Embedding at prefix 'head', found Linear 'head'"):
        embedding_weights_from_torch(path, "head")
    with pytest.raises(UnsupportedModelError, match="expected a Linear layer at prefix 'norm', found normalization"):
        linear_weights_from_torch(path, "norm")
    with pytest.raises(UnsupportedModelError, match="expected a Linear layer at prefix 'encoder', found LSTM"):
        linear_weights_from_torch(path, "encoder")
    with pytest.raises(FormatError, match=r"fc.bias: expected shape \(2,\), found \(3,\)"):
        linear_weights_from_torch({"fc.weight": np.ones((2, 4)), "fc.bias": np.ones(3)})
    with pytest.raises(FormatError, match=r"fc\.weight: expected floating-point numbers, found dtype int64"):
        linear_weights_from_torch({"fc.weight": np.ones((2, 4), np.int64)})
    broken = {"fc.weight": np.full((2, 4), np.nan)}
    with pytest.raises(UnsupportedModelError, match=r"fc\.weight holds NaN or infinity"):
        linear_weights_from_torch(broken)
    with pytest.raises(UnsupportedModelError, match=r"fc\.weight holds NaN or infinity"):
        embedding_weights_from_torch(broken)
    with reading(None, True):
        assert np.isnan(embedding_weights_from_torch(broken)).all()


def test_a_file_is_described() -> None:
    found = {module.name: module for module in describe_torch_file(DATA / "several.pt")}
    kinds = {name: module.kind for name, module in found.items()}
    assert kinds == {
        "embed": "Linear or Embedding",
        "encoder": "LSTM",
        "decoder": "LSTMCell",
        "gru": "GRU",
        "norm": "normalization",
        "head": "Linear",
        "tied": "Linear or Embedding",
    }
    encoder = found["encoder"]
    assert (encoder.layers, encoder.directions, encoder.input_size, encoder.hidden_size) == (2, 2, 3, 4)
    assert encoder.shapes["weight_ih_l1_reverse"] == (16, 8)
    assert found["head"].describe() == "Linear 'head' (weight (7, 5), bias (7,))"
    (projected,) = describe_torch_file(DATA / "lstm_projected.pt")
    assert projected.describe() == "LSTM at the top ('') (2 layers, bidirectional, input 3, hidden 6, projection 2)"
