"""Build random LSTMs in PyTorch, save their state dicts, and record what PyTorch makes of them.

Run as a program, in a process of its own, so that the process that compares has no framework in it::

    python tests/interop/build_torch.py --directory DIR --count 150 --seed 0

For every LSTM it writes a file, ``NAME.pt`` (a zip, or the format before PyTorch 1.6) or ``NAME.safetensors``, and
``NAME.npz`` with the call's arguments (``x``, ``h0``, ``c0``, ``lengths``), PyTorch's own float32 outputs
(``output_0``, ``output_1``, ``output_2``: y, h, c) and those of the same module in float64, which are the oracle
(``oracle_0``, ...); then one manifest, ``torch.json``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

PREFIXES = ("", "lstm", "encoder.rnn", "module.encoder.layers.0", "_orig_mod.net.lstm_1", "rnn_l0")
STORED = (torch.float32, torch.float32, torch.float32, torch.float16, torch.bfloat16, torch.float64)


class Choices:
    """Random choices from one seed."""

    def __init__(self, seed: list[int]) -> None:
        self.random = np.random.default_rng(seed)

    def size(self, least: int, most: int) -> int:
        return int(self.random.integers(least, most + 1))

    def chance(self, probability: float) -> bool:
        return bool(self.random.random() < probability)

    def one_of(self, options: Any) -> Any:
        return options[int(self.random.integers(len(options)))]

    def tensor(self, *shape: int, scale: float = 1.0) -> torch.Tensor:
        return torch.from_numpy((scale * self.random.standard_normal(shape)).astype(np.float32))


def randomise(module: nn.Module, choices: Choices, stored: torch.dtype, hidden: int) -> None:
    """Give every parameter distinct values, as large as PyTorch's own, that ``stored`` holds exactly."""
    with torch.no_grad():
        for parameter in module.parameters():
            values = choices.random.uniform(-1.0, 1.0, tuple(parameter.shape)) / np.sqrt(hidden)
            parameter.copy_(torch.from_numpy(values).to(stored).to(torch.float32))


def wrapped(state: dict[str, torch.Tensor], choices: Choices, prefix: str, stored: torch.dtype) -> dict[str, Any]:
    """Return the state dict as a larger model's: with a prefix, neighbours, another dtype, tensors that are views."""
    named = {f"{prefix}.{name}" if prefix else name: tensor.to(stored) for name, tensor in state.items()}
    if prefix:
        named["embed.weight"] = choices.tensor(5, 3)
        named["fc.weight"] = choices.tensor(2, 4)
        named["fc.bias"] = choices.tensor(2)
    return named


def save(path: Path, state: dict[str, Any], choices: Choices) -> None:
    """Save a state dict in the form that the file's name asks for."""
    if path.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
        return
    if choices.chance(0.3):
        # A view of a larger storage, not contiguous: what a transposed or sliced parameter becomes.
        name = choices.one_of([name for name, tensor in state.items() if tensor.ndim == 2])
        state[name] = state[name].t().contiguous().t()
    saved: Any = state
    match choices.one_of(("plain", "plain", "state_dict", "model_state_dict", "model")):
        case "plain":
            pass
        case key:
            saved = {"epoch": 3, "best": 0.25, "name": "model", key: state, "optimizer": {"lr": [1e-3]}}
    torch.save(saved, path, _use_new_zipfile_serialization="legacy" not in path.stem)


def arguments_of_lstm(choices: Choices, module: nn.LSTM) -> dict[str, np.ndarray]:
    """Return the arguments of one of the calls that an nn.LSTM can have."""
    directions = 2 if module.bidirectional else 1
    batch, time = choices.size(1, 5), choices.size(1, 12)
    axes = (batch, time) if module.batch_first else (time, batch)
    rows = (module.num_layers * directions, batch)
    if choices.chance(0.15):  # unbatched
        axes, rows = (time,), rows[:1]
    arrays = {"x": choices.tensor(*axes, module.input_size).numpy()}
    if choices.chance(0.5):
        arrays["h0"] = choices.tensor(*rows, module.proj_size or module.hidden_size, scale=0.5).numpy()
        arrays["c0"] = choices.tensor(*rows, module.hidden_size, scale=0.5).numpy()
    if len(axes) == 2 and choices.chance(0.4):
        arrays["lengths"] = choices.random.integers(1, time + 1, batch)
    return arrays


def run_lstm(module: nn.LSTM, given: dict[str, np.ndarray], dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """Return y, h, c of an nn.LSTM."""
    x = torch.from_numpy(given["x"]).to(dtype)
    state = tuple(torch.from_numpy(given[name]).to(dtype) for name in ("h0", "c0")) if "h0" in given else None
    if "lengths" not in given:
        y, (h, c) = module(x, state)
        return y, h, c
    lengths = torch.from_numpy(given["lengths"])
    packed = pack_padded_sequence(x, lengths, batch_first=module.batch_first, enforce_sorted=False)
    y, (h, c) = module(packed, state)
    time = x.shape[1 if module.batch_first else 0]
    return pad_packed_sequence(y, batch_first=module.batch_first, total_length=time)[0], h, c


def arguments_of_cell(choices: Choices, cell: nn.LSTMCell) -> dict[str, np.ndarray]:
    """Return the arguments of a loop over an nn.LSTMCell."""
    batch, time = choices.size(1, 5), choices.size(1, 8)
    return {
        "x": choices.tensor(batch, time, cell.input_size).numpy(),
        "h0": choices.tensor(1, batch, cell.hidden_size, scale=0.5).numpy(),
        "c0": choices.tensor(1, batch, cell.hidden_size, scale=0.5).numpy(),
    }


def run_cell(cell: nn.LSTMCell, given: dict[str, np.ndarray], dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """Return y, h, c of an nn.LSTMCell that goes step by step."""
    x, h, c = (torch.from_numpy(given[name]).to(dtype) for name in ("x", "h0", "c0"))
    h, c, outputs = h[0], c[0], []
    for step in range(x.shape[1]):
        h, c = cell(x[:, step], (h, c))
        outputs.append(h)
    return torch.stack(outputs, dim=1), h[None], c[None]


def build_one(choices: Choices, path: Path, limit: int) -> dict[str, Any]:
    """Write one model and its record; returns its entry in the manifest."""
    # Small sizes mostly, because that is where tails are, and a few of the sizes that services run.
    hidden = choices.size(1, min(limit, 40)) if choices.chance(0.8) else choices.size(min(limit, 64), limit)
    inputs = choices.size(1, min(limit, 40))
    bias = choices.chance(0.8)
    kind = "LSTMCell" if choices.chance(0.15) else "LSTM"
    module: Any
    if kind == "LSTMCell":
        module = nn.LSTMCell(inputs, hidden, bias=bias)
    else:
        layers = choices.one_of((1, 1, 2, 3))
        module = nn.LSTM(
            inputs,
            hidden,
            num_layers=layers,
            bias=bias,
            batch_first=choices.chance(0.7),
            dropout=0.2 if layers > 1 else 0.0,
            bidirectional=choices.chance(0.4),
            proj_size=choices.size(1, hidden - 1) if hidden > 1 and choices.chance(0.3) else 0,
        )
    module.eval()
    stored = choices.one_of(STORED)
    randomise(module, choices, stored, hidden)
    arguments, run = (arguments_of_cell, run_cell) if kind == "LSTMCell" else (arguments_of_lstm, run_lstm)
    arrays = arguments(choices, module)
    prefix = choices.one_of(PREFIXES)
    save(path, wrapped(module.state_dict(), choices, prefix, stored), choices)
    with torch.no_grad():
        outputs = run(module, arrays, torch.float32)
        oracles = run(module.double(), arrays, torch.float64)
    for place, (output, oracle) in enumerate(zip(outputs, oracles, strict=True)):
        arrays |= {f"output_{place}": output.numpy(), f"oracle_{place}": oracle.numpy()}
    np.savez_compressed(path.with_suffix(".npz"), **arrays)
    return {
        "name": path.stem,
        "file": path.name,
        "prefix": prefix,
        "module": repr(module),
        "stored": str(stored),
        "time_major": arrays["x"].ndim == 3 and not getattr(module, "batch_first", True),
    }


def main() -> None:
    """Write the models that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, default=160, help="largest hidden size")
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    arguments.directory.mkdir(parents=True, exist_ok=True)
    manifest = []
    for number in range(arguments.count):
        form, suffix = (("zip", ".pt"), ("legacy", ".pt"), ("safe", ".safetensors"))[number % 3]
        path = arguments.directory / f"torch_{form}_{arguments.seed}_{number}{suffix}"
        manifest.append(build_one(Choices([arguments.seed, number]), path, arguments.limit))
    record = {"package": "torch", "version": torch.__version__, "models": manifest}
    (arguments.directory / "torch.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"{len(manifest)} models of torch {torch.__version__}")


if __name__ == "__main__":
    main()
