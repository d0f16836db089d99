"""Train the LSTM autoencoder of ``examples/watch_a_pulse.py`` with PyTorch, and record what PyTorch makes of it.

The recording is eleven minutes of a pulse, as a light sensor on the skin sees it, of somebody who moves now and then:
``data3.csv`` of HeartPy 1.2.7 (Paul van Gent, MIT licence), 100 readings a second with their times, interpolated here
to 125 a second.

The autoencoder (Srivastava, Mansimov and Salakhutdinov 2015, "Unsupervised Learning of Video Representations using
LSTMs") reads a second, ``encoder = nn.LSTM(1, 32)``, and writes it down again, the last reading first, from nothing
but the state: ``decoder = nn.LSTM(1, 32)`` over zeros, then ``head = nn.Linear(32, 1)``. It learns how a pulse goes, so
what is no pulse comes out badly.

Trained on seconds 240 to 560 where the sensor did not reach the ends of its range. In seconds 640 to 660 the wearer is
at rest, and the alarm is a quarter above the largest error there. Held out are 590 to 620 and 672 to 680, in which the
wearer moves, and 660 to 672, at rest.

Run it from the repository's root (three minutes on one core), with HeartPy's files somewhere on Python's path::

    python examples/models/train_pulse_torch.py

It writes pulse_autoencoder.safetensors, pulse_autoencoder.json, pulse.csv (seconds 590 to the end) and
pulse_recorded.npz beside itself.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import sys
import time
from datetime import datetime
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

HERE = Path(__file__).parent

RATE = 125
WINDOW = RATE
HIDDEN = 32
LEAST_DEVIATION = 25.0  #: a second that is flatter is no pulse, and must not be blown up to one
TRAINING = (240, 560)
CHOOSING = (640, 660)
AT_REST = (660, 672)
MOVING = ((590, 620), (672, 680))
KEPT_FROM = 590  #: the readings that are written for the example
LOWEST, HIGHEST = 5, 970  #: the sensor's range
STEPS = 1500
BATCH = 128
SEED = 1997


class Autoencoder(nn.Module):
    """Reads a second, and writes it down again, the last reading first."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.LSTM(1, HIDDEN, batch_first=True)
        self.decoder = nn.LSTM(1, HIDDEN, batch_first=True)
        self.head = nn.Linear(HIDDEN, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (batch, readings, 1) -> the same shape and order."""
        _, state = self.encoder(x)
        y, _ = self.decoder(torch.zeros_like(x), state)
        return self.head(y).flip(1)


def recording() -> np.ndarray:
    """Return the readings at 125 a second."""
    found = importlib.util.find_spec("heartpy")
    if found is None or found.origin is None:
        raise SystemExit("train_pulse_torch: HeartPy was not found; pip install --no-deps heartpy==1.2.7")
    with (Path(found.origin).parent / "data/data3.csv").open(encoding="ascii", newline="") as file:
        rows = list(csv.DictReader(file))
    times = np.array([datetime.fromisoformat(row["datetime"]).timestamp() for row in rows])
    readings = np.array([float(row["hr"]) for row in rows])
    grid = np.arange(0, times[-1] - times[0], 1 / RATE)
    # Two readings of one tick of the clock follow each other all the same.
    return np.interp(grid, times - times[0] + 1e-7 * np.arange(len(times)), readings).round()


def standardised(windows: np.ndarray) -> np.ndarray:
    """Return windows (..., readings) as the model reads them, float32."""
    mean, deviation = windows.mean(-1, keepdims=True), windows.std(-1, keepdims=True)
    return ((windows - mean) / np.maximum(deviation, LEAST_DEVIATION)).astype(np.float32)


def windows_of(readings: np.ndarray, first: int, last: int) -> np.ndarray:
    """Return every window between two seconds."""
    return np.lib.stride_tricks.sliding_window_view(readings[first * RATE : last * RATE], WINDOW)


def train(readings: np.ndarray) -> tuple[Autoencoder, float]:
    """Return the trained model and the CPU seconds that it took."""
    torch.manual_seed(SEED)
    random = np.random.default_rng(SEED)
    windows = windows_of(readings, *TRAINING)
    usable = np.flatnonzero((windows.min(1) > LOWEST) & (windows.max(1) < HIGHEST))
    model = Autoencoder()
    optimiser = torch.optim.Adam(model.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    began = time.process_time()
    for step in range(1, STEPS + 1):
        x = torch.from_numpy(standardised(windows[random.choice(usable, BATCH)]))[..., None]
        loss = (model(x) - x).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step} of {STEPS}: mean error {loss.item():.4f}", flush=True)
    return model, time.process_time() - began


def errors(model: Autoencoder, windows: np.ndarray) -> np.ndarray:
    """Return the mean error of each window."""
    x = torch.from_numpy(standardised(windows))[..., None]
    with torch.no_grad():
        return np.concatenate([(model(part) - part).abs().mean((1, 2)).numpy() for part in x.split(512)])


def main() -> None:
    """Train the model, and write it with what it makes of the readings."""
    torch.set_num_threads(1)
    readings = recording()
    model, cpu_seconds = train(readings)
    chosen = errors(model, windows_of(readings, *CHOOSING))
    alarm = 1.25 * float(chosen.max())
    at_rest = errors(model, windows_of(readings, *AT_REST))
    moving = np.concatenate([errors(model, windows_of(readings, *seconds)) for seconds in MOVING])

    save_file(model.state_dict(), HERE / "pulse_autoencoder.safetensors")
    np.savetxt(HERE / "pulse.csv", readings[KEPT_FROM * RATE :], fmt="%d", header="reading", comments="")
    kept = windows_of(readings, KEPT_FROM, len(readings) // RATE)
    places = np.linspace(0, len(kept) - 1, 16).astype(int)
    x = standardised(kept[places])[..., None]
    with torch.no_grad():
        outputs = model(torch.from_numpy(x)).numpy()
    np.savez_compressed(HERE / "pulse_recorded.npz", places=places, outputs=outputs)
    facts = {
        "model": "pulse_autoencoder.safetensors",
        "readings_a_second": RATE,
        "window": WINDOW,
        "hidden_size": HIDDEN,
        "input": "(window - mean) / max(standard deviation, least_deviation)",
        "least_deviation": LEAST_DEVIATION,
        "alarm": alarm,
        "mean_error": {"chosen on": float(chosen.mean()), "held out, at rest": float(at_rest.mean())},
        "windows_above_alarm": {
            "held out, at rest": float((at_rest > alarm).mean()),
            "held out, moving": float((moving > alarm).mean()),
        },
        "first_second": KEPT_FROM,
        "cpu_seconds": round(cpu_seconds),
        "versions": {"python": sys.version.split()[0], "torch": torch.__version__, "numpy": np.__version__},
    }
    (HERE / "pulse_autoencoder.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main()
