"""Nightly scoring with Ray Data: a table of histories of different lengths in, the same table with forecasts out.

The table has a row for each month since 1900: the sunspots of up to forty years before it, as they were known at its
beginning. Run it from the repository's root, on the CPUs of this machine; on a cluster only ``ray.init`` changes::

    python examples/services/nightly_scoring_ray.py FOLDER
"""

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray

import lstm_engine as le
from lstm_engine.integrations.ray import Predictor

DATA = Path(le.__file__).parent / "data"
LONGEST = 480  # months


def write_histories(folder: Path) -> None:
    """Write what a night's job finds: Parquet files with a list of numbers in each row."""
    year, month, spots = np.loadtxt(DATA / "sunspots.csv", delimiter=",", skiprows=1, unpack=True)
    known = (np.sqrt(spots) / 8).astype(np.float32)
    places = np.flatnonzero(year >= 1900)
    # Histories of 81 to 480 months, as from stations that began at different times.
    histories = [known[max(place - LONGEST + 37 * place % 400, 0) : place] for place in places]
    table = pa.table(
        {
            "month": [f"{year[place]:.0f}-{month[place]:02.0f}" for place in places],
            "history": pa.array(histories, pa.list_(pa.float32())),
            "spots": spots[places],
        }
    )
    folder.mkdir(parents=True)
    for part in range(0, len(table), 500):
        pq.write_table(table.slice(part, 500), folder / f"{part:05d}.parquet")


def in_spots(table: pa.Table) -> pa.Table:
    """Add the forecast in spots: the model's output is the root of it, scaled."""
    forecast = (8 * np.maximum(table["output"].to_numpy(), 0)) ** 2
    return table.append_column("forecast", pa.array(forecast)).drop_columns(["history", "output"])


def main(folder: Path) -> None:
    """Score the table, and say how good the forecasts are."""
    write_histories(folder / "histories")
    weights = DATA / "sunspots_lstm.pt"
    model = le.Sequential([le.LSTM.from_torch(weights, "lstm"), le.LastStep(), le.Dense.from_torch(weights, "head")])
    model.save(folder / "forecaster.safetensors")

    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100 << 20)
    (
        ray.data.read_parquet(str(folder / "histories"))
        .map_batches(
            Predictor,
            fn_constructor_kwargs={
                "model": str(folder / "forecaster.safetensors"),
                "columns": "history",
                "output": "output",
            },
            batch_format="pyarrow",
            batch_size=1024,
            num_cpus=1,  # an actor for all CPUs but one, which is left for reading and writing
            compute=ray.data.ActorPoolStrategy(size=1),
        )
        .map_batches(in_spots, batch_format="pyarrow")
        .write_parquet(str(folder / "forecasts"))
    )
    ray.shutdown()

    scored = pq.read_table(folder / "forecasts").sort_by("month")
    print("month    forecast   sunspots")
    for row in scored.slice(len(scored) - 12).to_pylist():
        print(f"{row['month']}  {row['forecast']:8.1f} {row['spots']:10.1f}")
    errors = np.abs(scored["forecast"].to_numpy() - scored["spots"].to_numpy())
    later = np.array([month >= "1976" for month in scored["month"].to_pylist()])  # which the model was not trained on
    print(f"{len(scored)} rows; mean error since 1976: {errors[later].mean():.2f} spots")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "nightly"))
