"""Train the sunspot forecaster of the demo with PyTorch, and record what PyTorch makes of it.

The series is the monthly mean sunspot number from January 1749 to December 2008 that statsmodels
ships (National Geophysical Data Center, public domain). The model, ``nn.LSTM(1, 32, num_layers=2)``
and ``nn.Linear(32, 1)``, reads one month after the other and predicts the next. Numbers of spots
vary the more the higher they are, so it works on ``sqrt(number) / 8``.

Trained on the months to 1955, the best epoch chosen on 1956 to 1975, scored on 1976 to 2008 (three
whole solar cycles), where the state runs on from 1749. "Persistence" is the forecast that the next
month will be as this one; a forecast of the next month has to beat that to be worth anything.

The trained weights are rounded to the precision of bfloat16. They stay float32 in the file, and half of their bits are
zero, so that the model takes half the room in a package. Everything that is recorded is of the rounded model.

Run it from the repository's root (half a minute on one core)::

    python examples/models/train_sunspots_torch.py

It writes sunspots.csv, sunspots_lstm.pt, sunspots_lstm.json and sunspots_recorded.npz to
``lstm_engine/data``, and sunspots_lstm.safetensors, the same weights, beside this script.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import statsmodels
import statsmodels.datasets.sunspots
import torch
from safetensors.torch import save_file
from torch import nn

HERE = Path(__file__).parent
DATA = HERE.parents[1] / "lstm_engine" / "data"

HIDDEN = 32
LAYERS = 2
FIRST_YEAR = 1749
TRAINING_UNTIL = (1956 - FIRST_YEAR) * 12  #: the first month that is not trained on
VALIDATION_UNTIL = (1976 - FIRST_YEAR) * 12  #: the first month that is held out
TRAINING_WINDOW = 264  #: two solar cycles
EPOCHS = 600
BATCH = 32
SEED = 1997


class SunspotLSTM(nn.Module):
    """Two LSTM layers and a linear one, at every month."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(1, HIDDEN, num_layers=LAYERS, batch_first=True)
        self.head = nn.Linear(HIDDEN, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (batch, months, 1) -> the same shape, each entry the forecast for the month after."""
        return self.head(self.lstm(x)[0])


def monthly() -> list[tuple[int, int, float]]:
    """Return (year, month, number of spots) for every month to the end of 2008."""
    source = Path(statsmodels.datasets.sunspots.__file__).parent / "src" / "sunspots_monthly.dat"
    rows = []
    for line in source.read_text(encoding="ascii").splitlines():
        fields = line.split()
        if len(fields) == 13 and fields[0].isdigit():
            rows += [(int(fields[0]), month, float(value)) for month, value in enumerate(fields[1:], start=1)]
    if rows[0][:2] != (FIRST_YEAR, 1) or rows[-1][:2] != (2008, 12) or len(rows) != 3120:
        raise ValueError(f"{source}: expected the months 1749-01 to 2008-12, found {rows[0]} to {rows[-1]}")
    return rows


def scaled(spots: np.ndarray) -> np.ndarray:
    """Return what the model reads and predicts, float32."""
    return (np.sqrt(spots) / 8.0).astype(np.float32)


def unscaled(outputs: np.ndarray) -> np.ndarray:
    """Return numbers of spots; the scaled value is never below zero."""
    return (np.maximum(outputs.astype(np.float64), 0.0) * 8.0) ** 2


def metric(forecast: np.ndarray, actual: np.ndarray) -> dict[str, float]:
    """Return mean absolute and root mean squared error in numbers of spots."""
    error = forecast - actual
    return {"mae": float(np.abs(error).mean()), "rmse": float(np.sqrt((error**2).mean()))}


def read(rows: list[tuple[int, int, float]]) -> tuple[np.ndarray, np.ndarray, torch.Tensor]:
    """Return the numbers of spots, what the model makes of them, and its input (1, months, 1): all but the last."""
    spots = np.array([row[2] for row in rows])
    series = scaled(spots)
    return spots, series, torch.from_numpy(series[None, :-1, None])


def train(rows: list[tuple[int, int, float]]) -> tuple[dict[str, torch.Tensor], int, float]:
    """Train, and choose the best epoch on the validation years: return its weights, its number and the CPU seconds."""
    torch.manual_seed(SEED)
    random = np.random.default_rng(SEED)
    spots, series, whole = read(rows)

    model = SunspotLSTM()
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3, weight_decay=1e-5)
    best, best_weights, best_epoch = np.inf, model.state_dict(), 0
    began = time.process_time()
    for epoch in range(1, EPOCHS + 1):
        starts = random.integers(0, TRAINING_UNTIL - TRAINING_WINDOW, BATCH)
        taken = torch.from_numpy(np.stack([series[start : start + TRAINING_WINDOW] for start in starts])[..., None])
        # The first months of a window are predicted from too little to learn from.
        error = (model(taken[:, :-1]) - taken[:, 1:])[:, 12:]
        optimiser.zero_grad()
        (error**2).mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if epoch % 10 == 0:
            with torch.no_grad():
                forecast = unscaled(model(whole[:, : VALIDATION_UNTIL - 1])[0, :, 0].numpy())
            score = metric(forecast[TRAINING_UNTIL - 1 :], spots[TRAINING_UNTIL:VALIDATION_UNTIL])
            if score["rmse"] < best:
                best, best_epoch = score["rmse"], epoch
                best_weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
            print(f"epoch {epoch}: validation {score}", flush=True)
    return best_weights, best_epoch, time.process_time() - began


def record(
    rows: list[tuple[int, int, float]], weights: dict[str, torch.Tensor], epoch: int, cpu_seconds: float
) -> None:
    """Round the weights, score the held-out years with what is left of them, write the files."""
    spots, _, whole = read(rows)
    model = SunspotLSTM()
    model.load_state_dict({name: tensor.bfloat16().float() for name, tensor in weights.items()})
    with torch.no_grad():
        outputs = model(whole)[0, :, 0].numpy()
    forecast = unscaled(outputs)

    DATA.mkdir(exist_ok=True)
    torch.save(model.state_dict(), DATA / "sunspots_lstm.pt")
    save_file(model.state_dict(), HERE / "sunspots_lstm.safetensors")
    lines = ["year,month,sunspots", *(f"{year},{month},{value:g}" for year, month, value in rows)]
    (DATA / "sunspots.csv").write_text("\n".join(lines) + "\n", encoding="ascii", newline="\n")
    np.savez_compressed(DATA / "sunspots_recorded.npz", outputs=outputs)
    facts = {
        "model": "sunspots_lstm.pt",
        "hidden_size": HIDDEN,
        "layers": LAYERS,
        "input": "sqrt(sunspots) / 8 of each month",
        "output": "the same of the month after; sunspots = (8 * max(output, 0)) ** 2",
        "first_month": "1749-01",
        "held_out_from_month": "1976-01",
        "held_out_from_index": VALIDATION_UNTIL,
        "held_out_months": len(rows) - VALIDATION_UNTIL,
        "weights": "float32, rounded to the precision of bfloat16",
        "framework_metric": metric(forecast[VALIDATION_UNTIL - 1 :], spots[VALIDATION_UNTIL:]),
        "baseline_persistence": metric(spots[VALIDATION_UNTIL - 1 : -1], spots[VALIDATION_UNTIL:]),
        "chosen_epoch": epoch,
        "cpu_seconds": round(cpu_seconds),
        "versions": {
            "python": sys.version.split()[0],
            "torch": torch.__version__,
            "statsmodels": statsmodels.__version__,
            "numpy": np.__version__,
        },
    }
    (DATA / "sunspots_lstm.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(facts, indent=2))


def main() -> None:
    """Train the model, and write it with what it makes of the series."""
    torch.set_num_threads(1)
    rows = monthly()
    record(rows, *train(rows))


if __name__ == "__main__":
    main()
