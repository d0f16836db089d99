"""What tests/test_ray.py has checked on a running Ray: ``python tests/ray_checks.py data|serve FOLDER``."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from described import random
from ray_support import start

import lstm_engine as le
from lstm_engine.integrations.ray import Predictor, deployment


def sensor() -> Any:
    """(n, time, 2) to (n, 3)."""
    lstm = le.LSTM.from_weights(random(1, 2, 16), random(2, 4, 16), random(3, 16))
    return le.Sequential([lstm, le.LastStep(), le.Dense(random(4, 4, 3))])


def steps() -> Any:
    """(n, time, 2) to (n, time, 3)."""
    lstm = le.LSTM.from_weights(random(1, 2, 16), random(2, 4, 16), random(3, 16))
    return le.Sequential([lstm, le.Dense(random(4, 4, 3))])


class Threads(Predictor):
    """Tells how many threads there are in the actor for the model."""

    def __call__(self, batch: Any) -> Any:
        result: Any = super().__call__(batch)
        threads = pa.array([f"{os.getpid()} {self.model.num_threads}"] * result.num_rows)
        return result.append_column("threads", threads)


def _rows(table: Any, column: str) -> list[bytes]:
    return [np.array(row, np.float32).tobytes() for row in table[column].to_pylist()]


def data(folder: Path) -> None:
    """Ray Data: Parquet to Parquet with ragged sequences, rows in order, the bits of each row alone."""
    model = sensor()
    model.save(folder / "m.safetensors")
    rows = [random(place, 1 + (7 * place) % 23, 2) for place in range(1000)]
    lists = pa.array([row.tolist() for row in rows], pa.list_(pa.list_(pa.float32())))
    table = pa.table({"id": pa.array(range(1000)), "name": [f"row {place}" for place in range(1000)], "load": lists})
    (folder / "in").mkdir()
    for part in range(4):
        pq.write_table(table.slice(250 * part, 250), folder / f"in/{part}.parquet", row_group_size=100)
    ray = start()
    ray.data.DataContext.get_current().enable_progress_bars = False
    ray.data.DataContext.get_current().execution_options.preserve_order = True

    expected = [model(row[None])[0].tobytes() for row in rows]
    arguments = {"model": str(folder / "m.safetensors"), "columns": "load", "output": "score"}
    found = ray.data.read_parquet(str(folder / "in")).map_batches(
        Threads,
        fn_constructor_kwargs=arguments,
        batch_format="pyarrow",
        batch_size=128,
        compute=ray.data.ActorPoolStrategy(size=2),
        num_cpus=0.5,  # a CPU is left for reading and writing, without which Ray would wait for ever
    )
    found.write_parquet(str(folder / "out"))
    written = pa.concat_tables(pq.read_table(path) for path in sorted((folder / "out").iterdir())).sort_by("id")
    assert written.column_names == ["id", "name", "load", "score", "threads"]
    assert written.select(["id", "name"]) == table.select(["id", "name"])
    assert written["load"].to_pylist() == table["load"].to_pylist()
    assert _rows(written, "score") == expected
    actors = {text.split()[0] for text in written["threads"].to_pylist()}
    assert {text.split()[1] for text in written["threads"].to_pylist()} == {"1"}
    assert len(actors) <= 2
    assert str(os.getpid()) not in actors
    print("checked: Parquet to Parquet")

    # Batches as Ray makes them of its other columns: fixed sequences and ragged ones as its tensors. They are asked for
    # here, without actors, whose start is what takes long; what comes out must be something that Ray takes back.
    x = random(9, 300, 4, 2)
    items = ray.data.from_items([{"x": row, "id": place} for place, row in enumerate(rows[:200])])
    for batch_format in ("numpy", "pandas", "pyarrow"):
        (batch,) = ray.data.from_numpy(x).iter_batches(batch_size=1000, batch_format=batch_format)
        got = _back(ray, Predictor(model, columns="data")(batch))
        assert np.array([np.asarray(row["prediction"], np.float32) for row in got]).tobytes() == model(x).tobytes()
        (batch,) = items.iter_batches(batch_size=1000, batch_format=batch_format)
        got = _back(ray, Predictor(steps())(batch))
        assert [row["id"] for row in got] == list(range(200))
        for row, wanted in zip(got, rows, strict=False):
            found = np.array([np.asarray(step, np.float32) for step in row["prediction"]])
            assert found.tobytes() == steps()(wanted[None])[0].tobytes(), batch_format
        print(f"checked: batches of {batch_format}")
    ray.shutdown()


def _back(ray: Any, batch: Any) -> list[dict[str, Any]]:
    """Return the rows of a batch that Ray has taken back."""
    if isinstance(batch, dict):
        from ray.data.block import BlockAccessor

        return list(BlockAccessor.for_block(BlockAccessor.batch_to_block(batch)).iter_rows(public_row_format=True))
    taken = ray.data.from_arrow(batch) if isinstance(batch, pa.Table) else ray.data.from_pandas(batch)
    return list(taken.take_all())


def _post(url: str, body: Any) -> tuple[int, Any]:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url, content, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def serve(folder: Path) -> None:
    """Ray Serve: concurrent calls are merged, streams keep their states, errors are answers."""
    import socket

    # Serve gives its own processes a minute to begin, which a busy machine may need more than.
    from ray.serve._private import api, client

    for module in (api, client):
        assert module.HTTP_PROXY_TIMEOUT
        module.HTTP_PROXY_TIMEOUT = 240

    model = sensor()
    model.save(folder / "m.safetensors")
    ray = start()
    from ray import serve

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    application = deployment(str(folder / "m.safetensors"), max_delay=0.02)
    handle = serve.run(application, name="sensor", route_prefix="/")

    # Over handles: every stream has the bits that it has alone, though they were computed together.
    x = random(5, 50, 6, 2)

    async def streams() -> None:
        for now in range(6):
            answers = [handle.step.remote(f"s{place}", x[place, now]) for place in range(50)]
            for place, answer in enumerate(answers):
                y = await answer
                assert y.tobytes() == model(x[place : place + 1, : now + 1])[0].tobytes(), (place, now)

    asyncio.run(streams())
    metrics = handle.metrics.remote().result(timeout_s=60)
    assert metrics["streams"] == 50
    assert metrics["answered"] == 300
    assert metrics["rounds"] < 200, metrics["rounds"]
    assert handle.predict.remote(x).result(timeout_s=60).tobytes() == model(x).tobytes()
    saved = handle.snapshot.remote("s3").result(timeout_s=60)
    handle.restore.remote("copy", saved).result(timeout_s=60)
    step = np.ones(2, np.float32)
    first, second = (handle.step.remote(name, step).result(timeout_s=60) for name in ("s3", "copy"))
    assert first.tobytes() == second.tobytes()
    assert handle.close.remote("copy").result(timeout_s=60)
    print("checked: handles")

    # Over HTTP.
    url = f"http://127.0.0.1:{port}/"
    status, answer = _post(url, {"inputs": x[:3].tolist()})
    assert status == 200, answer
    assert np.array(answer["outputs"]["dense"], np.float32).tobytes() == model(x[:3]).tobytes()
    for now in range(3):
        status, answer = _post(url, {"inputs": x[7, now].tolist(), "stream": "web"})
        assert status == 200, answer
        expected = model(x[7:8, : now + 1])[0]
        assert np.array(answer["outputs"]["dense"], np.float32).tobytes() == expected.tobytes()
    status, answer = _post(url, {"inputs": [[1.0, 2.0, 3.0]]})
    assert status == 400, answer
    assert "x: expected" in answer["error"], answer
    print("checked: HTTP")
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    {"data": data, "serve": serve}[sys.argv[1]](Path(sys.argv[2]))
