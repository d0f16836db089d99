"""Build random stacks of PyTorch's layers, save their state dicts, and record what PyTorch makes of them.

Run as a program, in a process of its own, so that the process that compares has no framework in it::

    python tests/interop/build_torch_stacks.py --directory DIR --count 150 --seed 0

For every stack it writes its state dict, as a zip, in the format before PyTorch 1.6, as safetensors or in shards with
an index, ``NAME.npz`` as ``build_torch.py`` does, and in the manifest, ``torch.json``, the recipe by which
``le.Sequential`` is put together from the file: what a state dict does not say.

The same layers are drawn by :func:`random_sequential` for an ``nn.Sequential``, which is turned into a model live.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from build_torch import STORED, Choices
from safetensors.torch import save_file
from torch import nn

#: Activations with their names in le.Activate, as a model's own code would call them.
ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": torch.relu,
    "relu6": nn.functional.relu6,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "silu": nn.functional.silu,
    "gelu": nn.functional.gelu,
    "elu": nn.functional.elu,
    "selu": nn.functional.selu,
    "softsign": nn.functional.softsign,
    "mish": nn.functional.mish,
    "softplus": nn.functional.softplus,
    "hard_sigmoid": nn.functional.hardsigmoid,
    "hard_silu": nn.functional.hardswish,
    "hard_tanh": nn.functional.hardtanh,
    "log_sigmoid": nn.functional.logsigmoid,
    "leaky_relu": nn.functional.leaky_relu,
}
#: What a stack is drawn from: methods of Stack.
BLOCKS = (
    "conv", "conv", "batch_norm", "layer_norm", "lstm", "lstm", "gru", "rnn", "linear", "activation", "dropout",
)  # fmt: skip
PREFIXES = ("", "", "module.", "_orig_mod.", "net.encoder.", "module._orig_mod.")
MODULES: list[Callable[[], nn.Module]] = [
    nn.ReLU, nn.ReLU6, nn.Tanh, nn.Sigmoid, nn.SiLU, nn.GELU, lambda: nn.GELU("tanh"), lambda: nn.ELU(0.7), nn.SELU,
    nn.Softsign, nn.Mish, nn.Softplus, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, lambda: nn.Hardtanh(0.0, 0.5),
    nn.LogSigmoid, lambda: nn.LeakyReLU(0.2), nn.CELU, nn.RReLU, lambda: nn.PReLU(init=0.3),
    lambda: nn.Threshold(0.1, 0.0), lambda: nn.Softmax(-1), lambda: nn.LogSoftmax(-1), nn.Identity, nn.Dropout,
    nn.Dropout1d, nn.AlphaDropout, nn.FeatureAlphaDropout,
]  # fmt: skip


def random_convolution(choices: Choices, channels: int) -> nn.Conv1d:
    """Draw a convolution that leaves at least as many steps as half of ten."""
    groups = choices.one_of([divisor for divisor in (1, 1, 2, 3, channels) if channels % divisor == 0])
    size, dilation = choices.size(1, 4), choices.size(1, 2)
    mode = choices.one_of(("zeros", "zeros", "reflect", "replicate", "circular"))
    padding: Any = choices.one_of(("same", "valid", choices.size(0, 3)))
    return nn.Conv1d(
        channels,
        groups * choices.size(1, 4),
        size,
        stride=1 if padding == "same" else choices.one_of((1, 1, 2)),
        padding=padding,
        dilation=dilation,
        groups=groups,
        bias=choices.chance(0.7),
        padding_mode=mode,
    )


def randomise(module: nn.Module, choices: Choices, stored: torch.dtype) -> None:
    """Give every parameter and statistic distinct values that ``stored`` holds exactly."""
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if not tensor.is_floating_point():
                continue
            if name.endswith(("running_var", "original0", "_g")):
                values = choices.random.uniform(0.5, 1.5, tuple(tensor.shape))
            elif tensor.ndim == 1:
                values = choices.random.uniform(-1.0, 1.0, tuple(tensor.shape))
            else:
                values = choices.random.standard_normal(tuple(tensor.shape)) / np.sqrt(np.prod(tensor.shape[1:]))
            tensor.copy_(torch.from_numpy(values).to(stored).to(torch.float32))


class Stack(nn.Module):
    """Layers behind one another over (batch, time, features), with what le.Sequential has to be told of each."""

    def __init__(self, choices: Choices) -> None:
        super().__init__()
        self.recipe: list[tuple[str, str, dict[str, Any]]] = []
        self.steps: list[Callable[[torch.Tensor], torch.Tensor]] = []
        self.tokens = choices.size(3, 20) if choices.chance(0.4) else 0
        self.inputs = self.size = choices.size(1, 8)
        if self.tokens:
            self._add("Embedding", nn.Embedding(self.tokens, self.size), lambda layer, x: layer(x), {})
        for _ in range(choices.size(1, 5)):
            getattr(self, f"_{choices.one_of(BLOCKS)}")(choices)
        if choices.chance(0.4):
            self.recipe.append(("LastStep", "", {}))
            self.steps.append(lambda y: y[:, -1])
        activation = choices.one_of((None, None, "softmax", "log_softmax", "sigmoid"))
        head = nn.Linear(self.size, choices.size(1, 5), bias=choices.chance(0.8))
        self._add("Dense", head, lambda layer, y: layer(y), {"activation": activation})
        if activation is not None:
            last = {"softmax": lambda y: y.softmax(-1), "log_softmax": lambda y: y.log_softmax(-1)}
            self.steps.append(last.get(activation, torch.sigmoid))

    def _add(
        self, kind: str, layer: nn.Module, run: Callable[[Any, Any], torch.Tensor], options: dict[str, Any]
    ) -> None:
        name = f"layer_{len(self.recipe)}"
        self.add_module(name, layer)
        self.recipe.append((kind, name, options))
        self.steps.append(lambda y: run(layer, y))

    def _conv(self, choices: Choices) -> None:
        layer = random_convolution(choices, self.size)
        names = ("stride", "padding", "dilation", "groups", "padding_mode")
        options = {name: getattr(layer, name) for name in names}
        options = {name: value[0] if isinstance(value, tuple) else value for name, value in options.items()}
        self._add("Conv1d", layer, lambda conv, y: conv(y.transpose(1, 2)).transpose(1, 2), options)
        self.size = layer.out_channels

    def _batch_norm(self, choices: Choices) -> None:
        eps = choices.one_of((1e-5, 1e-3))
        layer = nn.BatchNorm1d(self.size, eps=eps, affine=choices.chance(0.8))
        self._add("BatchNorm1d", layer, lambda norm, y: norm(y.transpose(1, 2)).transpose(1, 2), {"eps": eps})

    def _layer_norm(self, choices: Choices) -> None:
        eps = choices.one_of((1e-5, 1e-3))
        # Over two or three features that are nearly the same, a norm is mostly what rounding left of their difference.
        if self.size > 3:
            layer = nn.LayerNorm(self.size, eps=eps, bias=choices.chance(0.7))
            self._add("LayerNorm", layer, lambda norm, y: norm(y), {"eps": eps})

    def _recurrent(self, choices: Choices, kind: str, **own: Any) -> None:
        hidden, both = choices.size(1, 12), choices.chance(0.4)
        if kind == "LSTM" and hidden > 1 and choices.chance(0.2):
            own["proj_size"] = choices.size(1, hidden - 1)
        layer = getattr(nn, kind)(
            self.size,
            hidden,
            num_layers=choices.one_of((1, 1, 2)),
            bidirectional=both,
            bias=choices.chance(0.8),
            batch_first=True,
            **own,
        )
        told = {"nonlinearity": own["nonlinearity"]} if "nonlinearity" in own else {}
        self._add(kind, layer, lambda rnn, y: rnn(y)[0], told)
        self.size = (1 + both) * (own.get("proj_size") or hidden)

    def _lstm(self, choices: Choices) -> None:
        self._recurrent(choices, "LSTM")

    def _gru(self, choices: Choices) -> None:
        self._recurrent(choices, "GRU")

    def _rnn(self, choices: Choices) -> None:
        self._recurrent(choices, "RNN", nonlinearity=choices.one_of(("tanh", "relu")))

    def _linear(self, choices: Choices) -> None:
        layer = nn.Linear(self.size, choices.size(1, 12))
        self._add("Dense", layer, lambda linear, y: linear(y), {})
        self.size = layer.out_features

    def _activation(self, choices: Choices) -> None:
        name = choices.one_of(list(ACTIVATIONS))
        self.recipe.append(("Activate", "", {"activation": name}))
        self.steps.append(ACTIVATIONS[name])

    def _dropout(self, choices: Choices) -> None:
        self._add("Dropout", nn.Dropout(0.3), lambda layer, y: layer(y), {})

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        for step in self.steps:
            y = step(y)
        return y


def normalised(stack: Stack, choices: Choices) -> None:
    """Hang weight normalisation on some weights, in either of its forms."""
    norm = choices.one_of((nn.utils.weight_norm, nn.utils.parametrizations.weight_norm))
    for _, name, _ in stack.recipe:
        layer = getattr(stack, name) if name else None
        weights = [key for key, tensor in layer.named_parameters() if tensor.ndim > 1] if layer is not None else []
        if isinstance(layer, nn.Linear | nn.Conv1d | nn.RNNBase) and weights and choices.chance(0.5):
            norm(layer, choices.one_of(weights), dim=choices.one_of((0, 0, 1, None)))


def save(path: Path, state: dict[str, torch.Tensor], choices: Choices) -> None:
    """Save a state dict in the form that the file's name asks for."""
    if path.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    elif path.suffix == ".json":
        places = {name: f"{path.stem}-{choices.size(1, 3)}.bin" for name in state}
        for shard in set(places.values()):
            torch.save({name: state[name] for name in state if places[name] == shard}, path.with_name(shard))
        path.write_text(json.dumps({"metadata": {}, "weight_map": places}), encoding="utf-8")
    else:
        nested = choices.one_of((state, {"state_dict": state, "epoch": 1}, {"model": state}))
        torch.save(nested, path, _use_new_zipfile_serialization="legacy" not in path.stem)


def random_stack(choices: Choices) -> Stack:
    """Draw a stack that at least one step is left of."""
    while True:
        stack = Stack(choices).eval()
        time = choices.size(4, 12)
        x = torch.zeros(1, time, dtype=torch.int64) if stack.tokens else torch.zeros(1, time, stack.inputs)
        try:
            stack(x)
        except RuntimeError:
            continue
        stack.time = time
        return stack


def can_answer(output: torch.Tensor, oracle: torch.Tensor) -> bool:
    """Return whether float32 can answer a case: PyTorch's own error against float64 is small."""
    return bool(torch.linalg.norm(output - oracle) < 2.5e-7 * torch.linalg.norm(oracle))


def build_one(choices: Choices, path: Path) -> dict[str, Any] | None:
    """Write one stack and its record; returns its entry in the manifest, or None if float32 cannot answer it."""
    stack = random_stack(choices)
    if choices.chance(0.25):
        normalised(stack, choices)
    stored = choices.one_of(STORED)
    randomise(stack, choices, stored)
    prefix = choices.one_of(PREFIXES)
    state = {f"{prefix}{name}": tensor.to(stored) for name, tensor in stack.state_dict().items()}
    save(path, state, choices)
    # Rows enough that an output near zero by chance, which no float32 gives well, does not decide over a comparison.
    batch = choices.size(8, 12)
    if stack.tokens:
        x = torch.from_numpy(choices.random.integers(0, stack.tokens, (batch, stack.time)))
    else:
        x = choices.tensor(batch, stack.time, stack.inputs)
    with torch.no_grad():
        output = stack(x)
        oracle = stack.double()(x if stack.tokens else x.double())
    if not can_answer(output, oracle):
        return None
    np.savez_compressed(path.with_suffix(".npz"), x=x.numpy(), output_0=output.numpy(), oracle_0=oracle.numpy())
    recipe = [(kind, f"{prefix}{name}" if name else "", options) for kind, name, options in stack.recipe]
    return {
        "name": path.stem,
        "file": path.name,
        "recipe": recipe,
        "layers": [kind for kind, _, _ in recipe],
        "input_shape": [None] if stack.tokens else [None, stack.inputs],
        "stored": str(stored),
    }


def random_sequential(choices: Choices) -> tuple[nn.Sequential, torch.Tensor]:
    """Draw an nn.Sequential, nested at times, and an input of it."""
    batch, size = choices.size(8, 12), choices.size(2, 8)
    parts: list[nn.Module] = []

    def plain() -> None:
        for _ in range(choices.size(0, 2)):
            parts.append(choices.one_of(MODULES)())

    def dense() -> int:
        width = choices.size(2, 9)
        parts.append(nn.Linear(size, width, bias=choices.chance(0.8)))
        return width

    form = choices.one_of(("mlp", "convolution", "recurrent", "tokens"))
    if form == "mlp":
        x = choices.tensor(batch, size)
        for _ in range(choices.size(1, 4)):
            size = dense()
            parts.append(choices.one_of((nn.BatchNorm1d, nn.LayerNorm if size > 3 else nn.Identity, nn.Identity))(size))
            plain()
    elif form == "convolution":
        time = choices.size(10, 16)
        x = choices.tensor(batch, size, time)
        for _ in range(choices.size(1, 3)):
            layer = random_convolution(choices, size)
            parts += [layer, choices.one_of((nn.BatchNorm1d, nn.Identity))(layer.out_channels)]
            size = layer.out_channels
            plain()
        if choices.chance(0.4):
            parts.append(choices.one_of((nn.MaxPool1d(2), nn.AvgPool1d(2, 1), nn.MaxPool1d(2, 1, dilation=2))))
        if choices.chance(0.7):
            parts += [choices.one_of((nn.AdaptiveAvgPool1d, nn.AdaptiveMaxPool1d))(1), nn.Flatten()]
            dense()
    else:
        time = choices.size(1, 9)
        x = choices.tensor(batch, time, size)
        if form == "tokens":
            x = torch.from_numpy(choices.random.integers(0, 9, (batch, time)))
            parts.append(nn.Embedding(9, size))
        plain()
        if choices.chance(0.5):
            size = dense()
            parts.append(nn.LayerNorm(size) if size > 3 else nn.Identity())
        kind = choices.one_of((nn.LSTM, nn.LSTM, nn.GRU, nn.RNN))
        parts.append(
            kind(size, choices.size(1, 9), choices.size(1, 2), batch_first=True, bidirectional=choices.chance(0.4))
        )
    if len(parts) > 3 and choices.chance(0.5):
        parts[1:3] = [nn.Sequential(*parts[1:3])]
    model = nn.Sequential(*parts).eval()
    randomise(model, choices, torch.float32)
    return model, x


def main() -> None:
    """Write the stacks that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    arguments.directory.mkdir(parents=True, exist_ok=True)
    manifest = []
    for number in range(arguments.count):
        torch.manual_seed(number)
        form = (("zip", ".pt"), ("legacy", ".pt"), ("safe", ".safetensors"), ("shards", ".json"))[number % 4]
        path = arguments.directory / f"stack_{form[0]}_{arguments.seed}_{number}{form[1]}"
        attempts = (build_one(Choices([arguments.seed, number, attempt]), path) for attempt in range(100))
        manifest.append(next(entry for entry in attempts if entry is not None))
    record = {"package": "torch", "version": torch.__version__, "models": manifest}
    (arguments.directory / "manifest").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"{len(manifest)} stacks of torch {torch.__version__}")


if __name__ == "__main__":
    main()
