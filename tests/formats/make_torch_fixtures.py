"""Write the recorded PyTorch files of tests/formats/data/torch. Run it with PyTorch and safetensors installed:

    python tests/formats/make_torch_fixtures.py

The tests read what it wrote, so they need no PyTorch. What PyTorch itself makes of each tensor is recorded beside the
files, as NumPy arrays.
"""

from __future__ import annotations

import argparse
import collections
import json
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import safetensors.torch
import torch
from torch import nn
from torch.nn.utils import prune

DATA = Path(__file__).parent / "data" / "torch"

LSTMS: dict[str, dict[str, Any]] = {
    "plain": {"input_size": 3, "hidden_size": 4},
    "deep": {"input_size": 3, "hidden_size": 5, "num_layers": 3},
    "bidirectional": {"input_size": 4, "hidden_size": 3, "num_layers": 2, "bidirectional": True},
    "projected": {"input_size": 3, "hidden_size": 6, "num_layers": 2, "proj_size": 2, "bidirectional": True},
    "no_bias": {"input_size": 2, "hidden_size": 3, "bias": False, "batch_first": True},
}


def recorded(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    """What PyTorch says the values are; half precision as float32."""
    tensor = tensor.detach()
    if tensor.dtype in (torch.bfloat16, torch.float16):
        tensor = tensor.float()
    return tensor.resolve_conj().resolve_neg().numpy().copy()


def variants() -> dict[str, torch.Tensor]:
    """Every way in which a dense tensor may lie in its storage, and every dtype."""
    base = torch.randn(6, 4)
    half = torch.randn(5, 3)
    half[0] = torch.tensor([float("inf"), -0.0, float("nan")])
    whole = torch.randint(-100, 100, (3, 4))
    tied = torch.randn(2, 2)
    parameter = nn.Parameter(torch.randn(3))
    tagged = nn.Parameter(torch.randn(2), requires_grad=False)
    tagged.note = "an attribute makes PyTorch write the state along"  # type: ignore[attr-defined]
    found = {
        "float32": torch.randn(2, 3),
        "float64": torch.randn(2, 3, dtype=torch.float64),
        "float16": half.half(),
        "bfloat16": half.bfloat16(),
        "bool": torch.tensor([[True, False, True]]),
        "complex64": torch.randn(3, dtype=torch.complex64),
        "complex128": torch.randn(2, dtype=torch.complex128),
        "conjugate": torch.randn(3, dtype=torch.complex64).conj(),
        "negative": torch.randn(3, dtype=torch.complex64).conj().imag,
        "transposed": base.T,
        "strided": base[::2, 1::2],
        "offset": base[3:],
        "permuted": torch.randn(2, 3, 4).permute(2, 0, 1),
        "strided_bfloat16": half.bfloat16()[1::2, :2],
        "expanded": torch.randn(3, 1).expand(3, 5),
        "expanded_half": torch.randn(1).half().expand(2, 2),
        "scalar": torch.tensor(2.5),
        "scalar_offset": base[4, 3],
        "one": torch.randn(1, 1, 1),
        "empty": torch.empty(0, 3),
        "empty_offset": base[6:],
        "empty_int": torch.empty(2, 0, 4, dtype=torch.int32),
        "tied": tied,
        "tied_again": tied,
        "parameter": parameter,
        "parameter_view": parameter.detach()[1:],
        "tagged": tagged,
        "buffer": nn.Buffer(torch.randn(2)),
    }
    for name in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"):
        found[name] = whole.abs().to(getattr(torch, name)) if name[0] == "u" else whole.to(getattr(torch, name))
    return found


def tensors() -> None:
    state = variants()
    np.savez_compressed(DATA / "tensors.npz", **{name: recorded(tensor) for name, tensor in state.items()})
    torch.save(state, DATA / "tensors.pt")
    torch.save(state, DATA / "tensors_legacy.pt", _use_new_zipfile_serialization=False)
    for protocol in (3, 4, 5):
        torch.save(state, DATA / f"tensors_protocol{protocol}.pt", pickle_protocol=protocol)
    torch.save(state, DATA / "tensors_legacy_protocol4.pt", pickle_protocol=4, _use_new_zipfile_serialization=False)
    torch.serialization.set_crc32_options(compute_crc32=False)
    torch.save(state, DATA / "tensors_without_checksums.pt")
    torch.serialization.set_crc32_options(compute_crc32=True)
    plain = {name: tensor.detach().resolve_conj().resolve_neg().clone().contiguous() for name, tensor in state.items()}
    del plain["complex128"]  # safetensors has no such dtype
    safetensors.torch.save_file(plain, DATA / "tensors.safetensors", metadata={"made by": "PyTorch", "units": "µV"})
    safetensors.torch.save_file({"w": torch.ones(2).to(torch.float8_e4m3fn)}, DATA / "float8.safetensors")


def lstms() -> None:
    outputs: dict[str, Any] = {}
    for name, options in LSTMS.items():
        module = nn.LSTM(**options)
        torch.save(module.state_dict(), DATA / f"lstm_{name}.pt")
        # In float64, so that what is recorded is the layer's value and not one library's rounding of it.
        x = torch.randn(2, 6, options["input_size"], dtype=torch.float64)
        with torch.no_grad():
            oriented = x if options.get("batch_first") else x.transpose(0, 1)
            y, (h, c) = module.double()(oriented)
        outputs[f"{name}.x"] = x.numpy()
        outputs[f"{name}.y"] = (y if options.get("batch_first") else y.transpose(0, 1)).numpy()
        outputs[f"{name}.h"], outputs[f"{name}.c"] = h.numpy(), c.numpy()
    torch.save(nn.LSTM(3, 4).double().state_dict(), DATA / "lstm_float64.pt")
    half = nn.LSTM(3, 4).bfloat16()
    torch.save(half.state_dict(), DATA / "lstm_bfloat16.pt")
    safetensors.torch.save_file(half.state_dict(), DATA / "lstm_bfloat16.safetensors")
    cell = nn.LSTMCell(3, 4)
    torch.save(cell.state_dict(), DATA / "lstm_cell.pt")
    with torch.no_grad():
        x, h, c = (torch.randn(2, size, dtype=torch.float64) for size in (3, 4, 4))
        outputs["cell.x"], outputs["cell.h0"], outputs["cell.c0"] = x.numpy(), h.numpy(), c.numpy()
        h, c = cell.double()(x, (h, c))
        outputs["cell.h"], outputs["cell.c"] = h.numpy(), c.numpy()
    np.savez_compressed(DATA / "lstm_outputs.npz", **outputs)


class Translator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 3)
        self.encoder = nn.LSTM(3, 4, num_layers=2, bidirectional=True)
        self.decoder = nn.LSTMCell(8, 5)
        self.gru = nn.GRU(5, 5)
        self.norm = nn.LayerNorm(5)
        self.head = nn.Linear(5, 7)
        self.tied = nn.Linear(3, 7, bias=False)


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(3, 4)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.rnn(x)[0])


class Tensor(torch.Tensor):
    pass


def models() -> None:
    translator = Translator()
    torch.save(translator.state_dict(), DATA / "several.pt")
    np.savez_compressed(
        DATA / "several.npz", **{name: recorded(tensor) for name, tensor in translator.state_dict().items()}
    )
    tagger = Tagger()
    optimizer = torch.optim.Adam(tagger.parameters())
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 4])
    tagger(torch.randn(5, 1, 3)).sum().backward()
    optimizer.step()
    schedule.step()
    checkpoint = {
        "state_dict": nn.DataParallel(tagger).state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "epoch": 3,
        "best_loss": np.float64(0.125),
        "count": np.int32(-7),
        "mean": np.arange(6.0).reshape(2, 3),
        "mean_columns": np.asfortranarray(np.arange(6, dtype=np.int16).reshape(2, 3)),
        "big_endian": np.arange(3, dtype=">f4"),
        "flags": np.array([True, False]),
        "words": np.array(["a", "bc"]),
        "args": argparse.Namespace(lr=0.001, name="tagger", layers=(1, 2)),
        "vocabulary": collections.OrderedDict(a=0, b=1),
        "counter": collections.Counter("aab"),
        "default": collections.defaultdict(list, {1: [2]}),
        "set": {1, 2},
        "frozen": frozenset(["x"]),
        "bytes": b"\x00\xff",
        "bytearray": bytearray(b"ab"),
        "complex": 1 + 2j,
        "none": None,
        "huge": 2**100,
        "negative": -(2**40),
        "text": "Grüße, 世界",
        "size": torch.Size([2, 3]),
        "device": torch.device("cuda", 1),
        "dtype": torch.float32,
        "layout": torch.strided,
        "storage": torch.arange(3.0).untyped_storage(),
        "random_state": torch.arange(4, dtype=torch.uint8),
    }
    torch.save(checkpoint, DATA / "checkpoint.pt")
    torch.save(checkpoint, DATA / "checkpoint_legacy.pt", _use_new_zipfile_serialization=False)
    np.savez_compressed(
        DATA / "checkpoint.npz", **{name: recorded(tensor) for name, tensor in tagger.state_dict().items()}
    )
    wrapped = {f"_orig_mod.{name}": tensor for name, tensor in tagger.state_dict().items()}
    torch.save({"epoch": 1, "model": wrapped, "ema": dict(tagger.state_dict())}, DATA / "two_models.pt")


def refused() -> None:
    torch.save(nn.GRU(3, 4, num_layers=2).state_dict(), DATA / "gru.pt")
    torch.save(nn.RNN(3, 4).state_dict(), DATA / "rnn.pt")
    torch.save(nn.LSTM(3, 4), DATA / "module.pt")
    # The old layout carries the source code of every module along; without it the file has the same form.
    with mock.patch("torch.serialization.get_source_lines_and_file", side_effect=OSError):
        torch.save(nn.LSTM(3, 4), DATA / "module_legacy.pt", _use_new_zipfile_serialization=False)
    torch.save([torch.ones(2)], DATA / "list.pt")
    torch.save(torch.ones(2), DATA / "tensor.pt")
    torch.save({"w": torch.ones(2).as_subclass(Tensor)}, DATA / "subclass.pt")
    torch.jit.script(Tagger()).save(str(DATA / "scripted.pt"))
    torch.save(
        nn.utils.parametrizations.weight_norm(nn.LSTM(3, 4), "weight_hh_l0").state_dict(), DATA / "parametrized.pt"
    )
    torch.save(nn.utils.weight_norm(nn.LSTM(3, 4), "weight_hh_l0").state_dict(), DATA / "weight_norm.pt")
    unread = {
        "rnn.weight_ih_l0": torch.quantize_per_tensor(torch.randn(16, 3), 0.1, 0, torch.qint8),
        "rnn.weight_hh_l0": torch.randn(16, 4).to_sparse(),
        "meta": torch.ones(2, device="meta"),
        "float8": torch.ones(2).to(torch.float8_e4m3fn),
        "float32": torch.ones(2),
    }
    torch.save(unread, DATA / "unread.pt")


def normalised(seed: int, norm: Any) -> nn.Module:
    """A model whose weights are computed from others, the norm taken over every choice of axes."""
    torch.manual_seed(seed)
    model = nn.ModuleDict({"rnn": nn.LSTM(3, 4, bidirectional=True), "conv": nn.Conv1d(4, 6, 3), "fc": nn.Linear(6, 1)})
    for name in ("weight_ih_l0", "weight_hh_l0", "weight_hh_l0_reverse", "bias_ih_l0"):
        norm(model["rnn"], name)
    norm(model["conv"], "weight", dim=1)
    norm(model["fc"], "weight", dim=None)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def folded() -> None:
    """Weight normalisation in both of PyTorch's forms, with the weights that PyTorch itself computes."""
    weights = {}
    for form, norm in (("old", nn.utils.weight_norm), ("new", nn.utils.parametrizations.weight_norm)):
        model = normalised(7, norm)
        torch.save({"state_dict": {f"module.{n}": t for n, t in model.state_dict().items()}}, DATA / f"norm_{form}.pt")
        for name, module in model.double().named_children():
            for hook in module._forward_pre_hooks.values():
                hook(module, None)
            for tensor in ("weight_ih_l0", "weight_hh_l0", "weight_hh_l0_reverse", "bias_ih_l0", "weight"):
                if hasattr(module, tensor):
                    weights[f"{form}.{name}.{tensor}"] = recorded(getattr(module, tensor))
    np.savez_compressed(DATA / "norm.npz", **weights)
    torch.save(nn.utils.parametrizations.spectral_norm(nn.Linear(3, 4)).state_dict(), DATA / "spectral.pt")
    torch.save(nn.utils.parametrizations.orthogonal(nn.LSTM(3, 4), "weight_hh_l0").state_dict(), DATA / "orthogonal.pt")
    pruned = nn.LSTM(3, 4)
    prune.random_unstructured(pruned, "weight_ih_l0", 0.5)
    torch.save(pruned.state_dict(), DATA / "pruned.pt")


def shards() -> None:
    """A model over several files with an index, as the Hugging Face libraries write it."""
    state = Tagger().state_dict()
    np.savez_compressed(DATA / "shards.npz", **{name: recorded(tensor) for name, tensor in state.items()})
    folder = DATA / "shards"
    folder.mkdir(exist_ok=True)
    for stem, suffix, save in (
        ("model", "safetensors", safetensors.torch.save_file),
        ("pytorch_model", "bin", torch.save),
    ):
        places = {}
        for number, module in enumerate(("rnn", "fc"), start=1):
            shard = f"{stem}-{number:05}-of-00002.{suffix}"
            part = {name: tensor for name, tensor in state.items() if name.startswith(module)}
            save(part, folder / shard)
            places |= dict.fromkeys(part, shard)
        size = sum(tensor.nbytes for tensor in state.values())
        index = {"metadata": {"total_size": size}, "weight_map": places}
        (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


class Stack(nn.Module):
    """A model of every layer that a file can hold weights of."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 4, padding_idx=0)
        self.conv = nn.Conv1d(4, 6, 3, padding="same", dilation=2, groups=2, padding_mode="replicate")
        self.batch_norm = nn.BatchNorm1d(6, eps=1e-3)
        self.layer_norm = nn.LayerNorm(6)
        self.gru = nn.GRU(6, 5, num_layers=2, bidirectional=True, batch_first=True)
        self.rnn = nn.RNN(10, 4, nonlinearity="relu", batch_first=True)
        self.lstm = nn.LSTM(4, 3, batch_first=True)
        self.fc = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(self.embed(x).transpose(1, 2))
        y = self.layer_norm(torch.relu(self.batch_norm(y)).transpose(1, 2))
        y = self.lstm(self.rnn(self.gru(y)[0])[0])[0]
        return torch.log_softmax(self.fc(y), dim=-1)


#: Convolutions with every option; each is called on nine steps.
CONVOLUTIONS: dict[str, dict[str, Any]] = {
    "plain": {"in_channels": 3, "out_channels": 4, "kernel_size": 3},
    "strided": {"in_channels": 3, "out_channels": 4, "kernel_size": 4, "stride": 3, "padding": 2, "bias": False},
    "same": {"in_channels": 3, "out_channels": 2, "kernel_size": 4, "padding": "same", "dilation": 2},
    "grouped": {"in_channels": 4, "out_channels": 6, "kernel_size": 2, "groups": 2, "padding": 1},
    "depthwise": {"in_channels": 3, "out_channels": 6, "kernel_size": 3, "groups": 3, "dilation": 2},
    "reflect": {"in_channels": 2, "out_channels": 3, "kernel_size": 5, "padding": 3, "padding_mode": "reflect"},
    "replicate": {"in_channels": 2, "out_channels": 3, "kernel_size": 3, "padding": 4, "padding_mode": "replicate"},
    "circular": {"in_channels": 2, "out_channels": 3, "kernel_size": 3, "padding": 9, "padding_mode": "circular"},
}


def layers() -> None:
    arrays = {}
    model = Stack().eval()
    with torch.no_grad():
        for tensor in model.batch_norm.buffers():
            tensor.copy_(torch.rand_like(tensor.float()) + 0.5)
        for tensor in (*model.batch_norm.parameters(), *model.layer_norm.parameters()):
            tensor.copy_(torch.randn_like(tensor))
    torch.save(model.state_dict(), DATA / "stack.pt")
    safetensors.torch.save_file(model.state_dict(), DATA / "stack.safetensors")
    x = torch.randint(0, 11, (3, 9))
    with torch.no_grad():
        arrays["stack.x"], arrays["stack.y"] = x.numpy(), model.double()(x).numpy()
    state = {}
    for name, options in CONVOLUTIONS.items():
        module = nn.Conv1d(**options)
        state |= {f"{name}.{key}": tensor for key, tensor in module.state_dict().items()}
        x = torch.randn(2, options["in_channels"], 9)
        with torch.no_grad():
            y = module.double()(x.double())
        arrays[f"{name}.x"], arrays[f"{name}.y"] = x.numpy(), y.numpy()
    norm = nn.LayerNorm((3, 4), bias=False)
    nn.init.normal_(norm.weight)
    state["norm.weight"] = norm.weight.detach()
    plain = nn.BatchNorm1d(3, affine=False)
    plain.running_mean, plain.running_var = torch.randn(3), torch.rand(3) + 0.1
    state |= {f"plain_norm.{key}": tensor for key, tensor in plain.state_dict().items()}
    torch.save(state, DATA / "layers.pt")
    x = torch.randn(2, 3, 4)
    with torch.no_grad():
        arrays["norm.x"], arrays["norm.y"] = x.numpy(), norm.double()(x.double()).numpy()
        arrays["plain_norm.y"] = plain.double().eval()(x.double()).numpy()
    np.savez_compressed(DATA / "layers.npz", **arrays)


def quantized() -> None:
    torch.backends.quantized.engine = "fbgemm"
    dynamic = torch.ao.quantization.quantize_dynamic(Tagger(), {nn.LSTM, nn.Linear}, dtype=torch.qint8)
    torch.save(dynamic.state_dict(), DATA / "quantized_lstm.pt")
    dynamic = torch.ao.quantization.quantize_dynamic(Tagger(), {nn.Linear}, dtype=torch.qint8)
    torch.save(dynamic.state_dict(), DATA / "quantized_linear.pt")


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(1)
    DATA.mkdir(parents=True, exist_ok=True)
    tensors()
    lstms()
    models()
    refused()
    folded()
    shards()
    quantized()
    layers()
    made = {"torch": torch.__version__, "numpy": np.__version__, "safetensors": safetensors.__version__}
    (DATA / "versions.json").write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
