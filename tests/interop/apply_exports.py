"""Set exported weights in the real frameworks and record what they compute; run by ``test_exports.py``.

Usage: ``python apply_exports.py DIRECTORY`` with, for each case, ``NAME.json`` (framework and options) and ``NAME.npz``
(x and the exported arrays); writes ``NAME.out.npz``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]


def with_torch(options: dict[str, Any], arrays: Arrays, x: np.ndarray) -> Arrays:
    import torch

    torch.set_num_threads(1)
    lstm = torch.nn.LSTM(**options, batch_first=True, dtype=torch.float64)
    lstm.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    with torch.no_grad():
        y, (h, c) = lstm(torch.from_numpy(x.astype(np.float64)))
    return {"y": y.numpy(), "h": h.numpy(), "c": c.numpy()}


def with_keras(options: dict[str, Any], arrays: Arrays, x: np.ndarray) -> Arrays:
    import keras

    bidirectional = options.pop("bidirectional")
    layer = keras.layers.LSTM(**options, return_sequences=True, return_state=True, dtype="float64")
    if bidirectional:
        layer = keras.layers.Bidirectional(layer, merge_mode="concat", dtype="float64")
    layer.build(x.shape)
    layer.set_weights([arrays[str(number)] for number in range(len(arrays))])
    y, *states = (np.asarray(keras.ops.convert_to_numpy(part)) for part in layer(x.astype(np.float64)))
    return {"y": y, "h": np.stack(states[::2]), "c": np.stack(states[1::2])}


def main(directory: Path) -> None:
    for path in sorted(directory.glob("*.json")):
        case = json.loads(path.read_text(encoding="utf-8"))
        with np.load(path.with_suffix(".npz")) as file:
            arrays = dict(file)
        x = arrays.pop("__x__")
        apply = with_torch if case["framework"] == "torch" else with_keras
        np.savez(path.with_suffix(".out.npz"), **apply(case["options"], arrays, x))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
