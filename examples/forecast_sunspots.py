"""A PyTorch state_dict, without PyTorch: forecast the sunspots of the next month, month after month.

A state_dict has weights and names but does not say how the layers are joined; this one belongs to
``head(lstm(x)[0])`` with ``nn.LSTM(1, 32, num_layers=2)`` and ``nn.Linear(32, 1)``. Run it from the repository's root::

    python examples/forecast_sunspots.py
"""

from pathlib import Path

import numpy as np

import lstm_engine as le

DATA = Path(le.__file__).parent / "data"


def main() -> None:
    """Print the last year of the series beside its forecasts."""
    path = DATA / "sunspots_lstm.pt"
    model = le.Sequential([le.LSTM.from_torch(path, "lstm"), le.Dense.from_torch(path, "head")])
    months = np.loadtxt(DATA / "sunspots.csv", delimiter=",", skiprows=1)

    stream = model.stream()
    forecast = np.zeros(1, np.float32)  # what stream.step writes to, so that it allocates nothing
    print("month    forecast   sunspots")
    for year, month, spots in months:
        if (year, month) >= (2008, 1):
            print(f"{year:.0f}-{month:02.0f}  {(8 * max(float(forecast[0]), 0)) ** 2:8.1f} {spots:10.1f}")
        stream.step(np.array([np.sqrt(spots) / 8], np.float32), out=forecast)


if __name__ == "__main__":
    main()
