"""Watch a sensor at 125 Hz: an LSTM autoencoder that knows how a pulse goes raises an alarm on what is none.

A recorded sensor on the skin stands for a live one, and its wearer moves now and then. With each reading the last
second is read by one LSTM and written down again by another from nothing but the state; what comes out badly is no
pulse.
``models/train_pulse_torch.py`` trained it, with PyTorch. Run it from the repository's root::

    python examples/watch_a_pulse.py [SECONDS]
"""

import json
import sys
import time
from pathlib import Path

import numpy as np

import lstm_engine as le

MODELS = Path(__file__).parent / "models"
WEIGHTS = MODELS / "pulse_autoencoder.safetensors"
FACTS = json.loads((MODELS / "pulse_autoencoder.json").read_text(encoding="utf-8"))
PERIOD = 1 / FACTS["readings_a_second"]
WINDOW = FACTS["window"]
#: The wearer is at rest, moves for some seconds, and is at rest again.
BEGIN = (671 - FACTS["first_second"]) * FACTS["readings_a_second"]

ENCODER = le.LSTM.from_torch(WEIGHTS, "encoder")
DECODER = le.LSTM.from_torch(WEIGHTS, "decoder")
HEAD = le.Sequential([le.Dense.from_torch(WEIGHTS, "head")])
NOTHING = np.zeros((1, WINDOW, 1), np.float32)


def standardised(window: np.ndarray) -> np.ndarray:
    """Return a window as the model reads it, (1, readings, 1)."""
    scale = max(float(window.std()), FACTS["least_deviation"])
    return ((window - window.mean()) / scale).astype(np.float32)[None, :, None]


def written_down_again(x: np.ndarray) -> np.ndarray:
    """Return what the model makes of (1, readings, 1): the decoder has the encoder's last state and no input."""
    _, state = ENCODER(x)
    y, _ = DECODER(NOTHING, state)
    return HEAD(y)[:, ::-1]


def main() -> None:
    """Take a reading every 8 ms, say when the alarm begins and ends, and how long the answers took."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 8.0
    recording = np.loadtxt(MODELS / "pulse.csv", skiprows=1)[BEGIN:]
    window = recording[:WINDOW].copy()
    took, errors, alarmed = [], [], False
    due = time.perf_counter()
    for place, reading in enumerate(recording[WINDOW : WINDOW + round(seconds / PERIOD)]):
        time.sleep(max(0.0, due - time.perf_counter()))
        began = time.perf_counter()
        window[:-1] = window[1:]
        window[-1] = reading
        x = standardised(window)
        errors.append(float(np.abs(written_down_again(x) - x).mean()))
        # It ends well below where it begins, or it would come and go with every reading.
        if (errors[-1] > FACTS["alarm"] * (0.7 if alarmed else 1.0)) != alarmed:
            alarmed = not alarmed
            print(
                f"{place * PERIOD:6.2f} s  error {errors[-1]:.2f}: {'this is no pulse' if alarmed else 'a pulse again'}"
            )
        took.append(time.perf_counter() - began)
        due += PERIOD
    p50, p99, worst = np.percentile(took, [50, 99, 100]) * 1e3
    late = sum(one > PERIOD for one in took)
    print(
        f"{len(took)} readings, {np.mean(np.array(errors) > FACTS['alarm']):.0%} no pulse; p50 {p50:.3f} ms, "
        f"p99 {p99:.3f} ms, worst {worst:.3f} ms, of {PERIOD * 1e3:.0f} ms that there are; {late} late"
    )


if __name__ == "__main__":
    main()
