"""Against PyTorch itself: random modules and random files, written and run by PyTorch in the same process."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lstm_engine import reference
from lstm_engine.errors import FormatError, UnsafeFileError, UnsupportedModelError
from lstm_engine.formats.tensor_file import read_tensors
from lstm_engine.formats.torch_file import read_torch_file
from lstm_engine.formats.torch_layers import embedding_weights_from_torch, linear_weights_from_torch
from lstm_engine.formats.torch_lstm import (
    lstm_weights_from_torch,
)

torch = pytest.importorskip("torch")
nn = torch.nn
pytestmark = [pytest.mark.interop, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(autouse=True)
def _quiet() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def _options(chance: random.Random) -> dict[str, Any]:
    hidden = chance.randint(1, 17)
    return {
        "input_size": chance.randint(1, 12),
        "hidden_size": hidden,
        "num_layers": chance.randint(1, 3),
        "bias": chance.random() < 0.8,
        "batch_first": chance.random() < 0.5,
        "dropout": chance.choice([0.0, 0.5]),
        "bidirectional": chance.random() < 0.5,
        "proj_size": chance.randint(1, hidden - 1) if hidden > 1 and chance.random() < 0.4 else 0,
    }


def _close(found: Any, wanted: Any, bound: float) -> None:
    wanted = wanted.detach().numpy()
    assert found.shape == wanted.shape
    assert np.linalg.norm(found - wanted) <= bound * max(np.linalg.norm(wanted), 1e-3)


@pytest.mark.parametrize("seed", range(60))
def test_random_layers_give_pytorchs_outputs(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    options = _options(chance)
    torch.manual_seed(seed)
    module = nn.LSTM(**options, dtype=torch.float64).eval()
    directions = 2 if options["bidirectional"] else 1
    output = options["proj_size"] or options["hidden_size"]
    batch, steps = chance.randint(1, 3), chance.randint(1, 7)
    x = torch.randn(batch, steps, options["input_size"], dtype=torch.float64)
    h0 = torch.randn(options["num_layers"] * directions, batch, output, dtype=torch.float64)
    c0 = torch.randn(options["num_layers"] * directions, batch, options["hidden_size"], dtype=torch.float64)
    y, (h, c) = module(x if options["batch_first"] else x.transpose(0, 1), (h0, c0))
    y = y if options["batch_first"] else y.transpose(0, 1)

    path = tmp_path / "model.pt"
    prefix = chance.choice(["", "rnn.", "encoder.deep.rnn."])
    wrapper = chance.choice(["", "module.", "_orig_mod."])
    state = {f"{wrapper}{prefix}{name}": tensor for name, tensor in module.state_dict().items()}
    state["fc.weight"] = torch.randn(2, 3)
    nested = chance.choice([state, {"state_dict": state, "epoch": 1}, {"model": state}])
    torch.save(nested, path, _use_new_zipfile_serialization=chance.random() < 0.7)
    for source, name in [
        (module, None),
        (module.state_dict(), None),
        (nested, prefix),
        (path, None),
        (path, prefix.rstrip(".")),
    ]:
        weights = lstm_weights_from_torch(source, name)
        found, (found_h, found_c) = reference.lstm(x.numpy(), weights, (h0.numpy(), c0.numpy()))
        _close(found, y, 1e-13)
        _close(found_h, h, 1e-13)
        _close(found_c, c, 1e-13)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_same_weights_from_every_source(dtype: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    module = nn.LSTM(5, 6, num_layers=2, bidirectional=True, proj_size=3).to(getattr(torch, dtype))
    torch.save(module.state_dict(), tmp_path / "a.pt")
    save_file(module.state_dict(), tmp_path / "a.safetensors")
    exact = module.float().state_dict()
    for source in (module, tmp_path / "a.pt", tmp_path / "a.safetensors"):
        for end, cell in zip(
            ("_l0", "_l0_reverse", "_l1", "_l1_reverse"), lstm_weights_from_torch(source).flat(), strict=True
        ):
            np.testing.assert_array_equal(cell.kernel, exact[f"weight_ih{end}"].numpy().T)
            np.testing.assert_array_equal(cell.recurrent_kernel, exact[f"weight_hh{end}"].numpy().T)
            assert cell.kernel.dtype == np.float32


def test_a_cell(tmp_path: Path) -> None:
    cell = nn.LSTMCell(3, 5, dtype=torch.float64)
    x, h, c = (torch.randn(4, size, dtype=torch.float64) for size in (3, 5, 5))
    wanted_h, wanted_c = cell(x, (h, c))
    torch.save(
        {"model_state_dict": {"decoder.cell." + name: t for name, t in cell.state_dict().items()}}, tmp_path / "c"
    )
    for source in (cell, cell.state_dict(), tmp_path / "c"):
        weights = lstm_weights_from_torch(source)
        _, (found_h, found_c) = reference.lstm(x.numpy()[:, None], weights, (h.numpy()[None], c.numpy()[None]))
        _close(found_h[0], wanted_h, 1e-13)
        _close(found_c[0], wanted_c, 1e-13)


def test_linear_and_embedding_modules() -> None:
    linear, embedding = nn.Linear(3, 2), nn.Embedding(5, 4, padding_idx=0)
    kernel, bias = linear_weights_from_torch(linear)
    x = torch.randn(7, 3)
    assert bias is not None
    np.testing.assert_allclose(x.numpy() @ kernel + bias, linear(x).detach().numpy(), rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(embedding_weights_from_torch(embedding), embedding.weight.detach().numpy())
    with pytest.raises(UnsupportedModelError, match="max_norm is not implemented; expected None, found 1"):
        embedding_weights_from_torch(nn.Embedding(5, 4, max_norm=1.0))


def test_batch_first_and_dropout_change_nothing() -> None:
    torch.manual_seed(4)
    one = nn.LSTM(3, 4, num_layers=2)
    other = nn.LSTM(3, 4, num_layers=2, batch_first=True, dropout=0.3)
    other.load_state_dict(one.state_dict())
    for left, right in zip(lstm_weights_from_torch(one).flat(), lstm_weights_from_torch(other).flat(), strict=True):
        np.testing.assert_array_equal(left.kernel, right.kernel)


class Own(nn.LSTM):  # type: ignore[misc, name-defined]
    def forward(self, x: Any) -> Any:
        return super().forward(x * 2)


class Inherited(nn.LSTM):  # type: ignore[misc, name-defined]
    pass


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (nn.GRU(3, 4), "torch.nn.modules.rnn.GRU"),
        (nn.RNN(3, 4), "torch.nn.modules.rnn.RNN"),
        (nn.GRUCell(3, 4), "torch.nn.modules.rnn.GRUCell"),
        (nn.Linear(3, 4), "torch.nn.modules.linear.Linear"),
        (nn.Sequential(nn.LSTM(3, 4)), "torch.nn.modules.container.Sequential"),
        (Own(3, 4), "Own has a forward of its own"),
        (torch.ones(3), "torch.Tensor"),
    ],
)
def test_other_modules_are_refused_by_class_name(module: Any, words: str) -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        lstm_weights_from_torch(module)
    assert words in str(caught.value)


def test_a_subclass_that_computes_the_same_is_taken() -> None:
    assert lstm_weights_from_torch(Inherited(3, 4)).hidden_size == 4


def test_a_module_whose_attributes_and_tensors_disagree_is_refused() -> None:
    module = nn.LSTM(3, 4, bidirectional=True)
    module.bidirectional, module.proj_size = False, 2
    with pytest.raises(FormatError) as caught:
        lstm_weights_from_torch(module)
    assert "the module says bidirectional=False, its tensors say True" in str(caught.value)
    assert "the module says proj_size=2, its tensors say 0" in str(caught.value)


@pytest.mark.parametrize("dim", [0, 1, None])
@pytest.mark.parametrize("norm", [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm])
def test_weight_normalisation(norm: Any, dim: int | None, tmp_path: Path) -> None:
    module = nn.LSTM(3, 4, num_layers=2, batch_first=True)
    for name in ("weight_ih_l0", "weight_hh_l0", "weight_hh_l1"):
        norm(module, name, dim=dim)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(1 + 0.3 * torch.randn_like(parameter))
    torch.save({"model": {f"module.rnn.{name}": t for name, t in module.state_dict().items()}}, tmp_path / "norm.pt")
    sources = [lstm_weights_from_torch(source) for source in (module, module.state_dict(), tmp_path / "norm.pt")]
    x = torch.randn(2, 5, 3, dtype=torch.float64)
    wanted, _ = module.double()(x)
    for weights in sources:
        _close(reference.lstm(x.numpy(), weights)[0], wanted, 1e-7)


def test_what_is_hung_on_a_module_is_refused_by_name() -> None:
    module = nn.utils.parametrizations.orthogonal(nn.LSTM(3, 4), "weight_hh_l0")
    for source in (module, module.state_dict()):
        with pytest.raises((FormatError, UnsupportedModelError), match="remove_parametrizations"):
            lstm_weights_from_torch(source)
    nn.utils.parametrize.remove_parametrizations(module, "weight_hh_l0")
    assert lstm_weights_from_torch(module).hidden_size == 4
    with pytest.raises(UnsupportedModelError, match=r"SpectralNorm.*remove_spectral_norm"):
        linear_weights_from_torch(nn.utils.spectral_norm(nn.Linear(3, 4)))
    module.register_forward_hook(lambda module, given, output: None)
    with pytest.raises(UnsupportedModelError, match=r"has the forward hook .*lambda"):
        lstm_weights_from_torch(module)


def test_packed_quantized_modules_are_refused_by_name(tmp_path: Path) -> None:
    model = nn.ModuleDict({"rnn": nn.LSTM(3, 4), "fc": nn.Linear(4, 2)})
    model = torch.ao.quantization.quantize_dynamic(model, {nn.LSTM, nn.Linear})
    torch.save(model.state_dict(), tmp_path / "q.pt")
    for read, prefix in ((lstm_weights_from_torch, "rnn"), (linear_weights_from_torch, "fc")):
        for source in (model.state_dict(), tmp_path / "q.pt"):
            with pytest.raises(UnsupportedModelError, match="of the float model"):
                read(source, prefix)
        with pytest.raises(UnsupportedModelError, match=r"found a torch\.ao\.nn\.quantized\.dynamic"):
            read(model[prefix])


# --- Random files -----------------------------------------------------------------------------------------------------

DTYPES = ["float32", "float64", "float16", "bfloat16", "int8", "int16", "int32", "int64", "uint8", "bool", "complex64"]


def _tensor(chance: random.Random, storages: list[Any]) -> Any:
    """A random view of a new or an old storage."""
    if not storages or chance.random() < 0.5:
        dtype = getattr(torch, chance.choice(DTYPES))
        storages.append((torch.randn(chance.randint(0, 60)) * 100).to(dtype))
    base = chance.choice(storages)
    shape, strides, reach = [], [], 0
    for _ in range(chance.randint(0, 4)):
        size, stride = chance.randint(0, 4), chance.randint(0, 5)
        if reach + max(size - 1, 0) * stride < len(base):
            shape.append(size)
            strides.append(stride)
            reach += max(size - 1, 0) * stride
    if not len(base):
        return base
    return base.as_strided(shape, strides, chance.randrange(len(base) - reach))


def _value(chance: random.Random, storages: list[Any], depth: int) -> Any:
    kind = chance.randrange(9 if depth < 4 else 6)
    if kind < 4:
        return _tensor(chance, storages)
    if kind == 4:
        return chance.choice([None, True, 3, -(2**40), 2.5, "text", b"bytes", torch.Size([2])])
    if kind == 5:
        return nn.Parameter(torch.randn(chance.randint(0, 3)))
    parts = [_value(chance, storages, depth + 1) for _ in range(chance.randint(0, 4))]
    if kind == 6:
        return parts
    if kind == 7:
        return tuple(parts)
    return {chance.choice([f"key{place}", place]): part for place, part in enumerate(parts)}


def _same(found: Any, wanted: Any) -> None:
    if isinstance(wanted, torch.Tensor):
        wanted = wanted.detach()
        wanted = wanted.float() if wanted.dtype in (torch.float16, torch.bfloat16) else wanted
        assert found.shape == tuple(wanted.shape)
        assert found.dtype == wanted.numpy().dtype
        assert found.tobytes() == wanted.numpy().tobytes()
    elif isinstance(wanted, dict):
        assert list(found) == list(wanted)
        for key, part in wanted.items():
            _same(found[key], part)
    elif isinstance(wanted, list | tuple):
        assert type(found) is (tuple if isinstance(wanted, tuple) else list)
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            _same(one, other)
    else:
        assert found == wanted


@pytest.mark.parametrize("seed", range(150))
def test_random_checkpoints_are_read_as_pytorch_reads_them(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    storages: list[Any] = []
    saved = {f"key{place}": _value(chance, storages, 0) for place in range(chance.randint(1, 6))}
    path = tmp_path / "random.pt"
    old = chance.random() < 0.3
    torch.save(saved, path, _use_new_zipfile_serialization=not old, pickle_protocol=chance.choice([2, 2, 3, 4, 5]))
    _same(read_torch_file(path), torch.load(path, weights_only=False))
    read_tensors(path)


def test_a_module_in_a_checkpoint_is_refused_by_class_name(tmp_path: Path) -> None:
    for old in (False, True):
        torch.save({"model": nn.Sequential(nn.Linear(1, 1))}, tmp_path / "m.pt", _use_new_zipfile_serialization=not old)
        with pytest.raises(UnsafeFileError, match=r"torch\.nn\.modules\.container\.Sequential"):
            read_torch_file(tmp_path / "m.pt")


def test_an_exported_program_is_named(tmp_path: Path) -> None:
    torch.export.save(torch.export.export(nn.Linear(2, 3), (torch.ones(1, 2),)), tmp_path / "m.pt2")
    with pytest.raises(FormatError, match=r"an archive of torch\.export"):
        read_tensors(tmp_path / "m.pt2")
