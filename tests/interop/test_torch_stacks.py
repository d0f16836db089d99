"""Random stacks of PyTorch's layers, built now in PyTorch, against what we make of their files and of the live modules.

Slow, and needs PyTorch: ``pytest -m interop -s tests/interop``. Another ``LSTM_ENGINE_INTEROP_SEED`` gives other ones.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recorded import Outcome, load_arrays, outcome, summary
from test_live import SEED, build

import lstm_engine as le

pytestmark = pytest.mark.interop

STACKS, SEQUENTIALS = 220, 220
#: Every layer that a stack can have.
LAYERS = {
    "Embedding", "Conv1d", "BatchNorm1d", "LayerNorm", "LSTM", "GRU", "RNN", "Dense", "Activate", "Dropout", "LastStep",
}  # fmt: skip


def assembled(directory: Path, entry: dict[str, Any], backend: Any) -> le.Sequential:
    """Put a model together from a file and its recipe, as a user does."""
    layers = []
    for kind, prefix, told in entry["recipe"]:
        if kind in ("Activate", "Dropout", "LastStep"):
            layers.append(getattr(le, kind)(**(told if kind == "Activate" else {})))
        else:
            own = {"backend": backend} if kind == "LSTM" else {}
            layers.append(getattr(le, kind).from_torch(directory / entry["file"], prefix, **told, **own))
    return le.Sequential(layers, input_shape=entry["input_shape"], backend=backend)


def assert_right(title: str, results: list[Outcome]) -> None:
    print("\n" + summary(title, len(results), results))
    problems = [str(result) for result in results if not result.is_right]
    assert not problems, "\n".join(problems)


def test_stacks_from_files(tmp_path: Path) -> None:
    build("build_torch_stacks.py", tmp_path, ["--count", str(STACKS), "--seed", str(SEED)])
    record = json.loads((tmp_path / "manifest").read_text(encoding="utf-8"))
    assert not LAYERS - {kind for entry in record["models"] for kind in entry["layers"]}
    for backend in ("fused", "blas"):
        results = []
        for entry in record["models"]:
            arrays = load_arrays(tmp_path, entry["name"])
            y = assembled(tmp_path, entry, backend)(arrays["x"])
            results.append(outcome(f"{entry['name']} {entry['layers']}", (y,), arrays))
        assert_right(f"stacks of torch {record['version']} from files, {backend}", results)


@pytest.mark.filterwarnings("ignore")
def test_live_sequentials() -> None:
    torch = pytest.importorskip("torch")
    from build_torch import Choices
    from build_torch_stacks import can_answer, random_sequential

    torch.set_num_threads(1)
    results = []
    number = 0
    while len(results) < SEQUENTIALS:
        number += 1
        torch.manual_seed(number)
        module, x = random_sequential(Choices([SEED, number, 9]))
        with torch.no_grad():
            try:
                output = module(x)
            except RuntimeError:  # too few steps are left for a convolution
                continue
            ours = le.from_torch(module)
            oracle = module.double()(x.double() if x.is_floating_point() else x)
        output, oracle = (found[0] if isinstance(found, tuple) else found for found in (output, oracle))
        found = ours(x.numpy())
        assert found.shape == tuple(output.shape), module
        if not can_answer(output, oracle):
            continue
        arrays = {"output_0": output.numpy(), "oracle_0": oracle.numpy()}
        names = [type(part).__name__ for part in module.modules()][1:]
        results.append(outcome(f"{number} {names}", (np.asarray(found),), arrays))
    assert_right(f"nn.Sequential of torch {torch.__version__}, live", results)
