"""The FastAPI application of the examples, under uvicorn, with many clients at once."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import lstm_engine as le

pytestmark = pytest.mark.services

ROOT = Path(__file__).parents[2]
PATIENCE = 120.0


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """Where the application listens; it has to end well when it is told to."""
    log = tmp_path / "uvicorn.log"
    command = [sys.executable, "-m", "uvicorn", "--app-dir", "examples/services", "--host", "127.0.0.1", "--port", "0"]
    with log.open("w") as output:
        server = subprocess.Popen([*command, "fastapi_batcher:app"], cwd=ROOT, stdout=output, stderr=output)
    try:
        end = time.monotonic() + PATIENCE
        while not (found := re.search(r"running on (http://127\.0\.0\.1:\d+)", log.read_text())):
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.02)
        yield found[1]
        server.send_signal(signal.SIGTERM)
        server.wait(PATIENCE)
        assert "Traceback" not in log.read_text()
        assert "Finished server process" in log.read_text()
    finally:
        if server.poll() is None:
            server.kill()
            server.wait()


def test_every_client_gets_the_forecasts_of_its_own_series(url: str) -> None:
    import httpx

    clients, months = 40, 12
    spots = np.random.default_rng(1).uniform(0, 200, (clients, months)).round(1)
    weights = Path(le.__file__).parent / "data/sunspots_lstm.pt"
    model = le.Sequential([le.LSTM.from_torch(weights, "lstm"), le.Dense.from_torch(weights, "head")])
    x = np.array([[[np.sqrt(value) / 8] for value in row] for row in spots], np.float32)
    wanted = [[(8 * max(float(y), 0)) ** 2 for y in row] for row in model(x)[..., 0]]

    async def client(http: httpx.AsyncClient, place: int) -> list[float]:
        found = []
        for month, value in enumerate(spots[place], start=1):
            answer = await http.post(f"/sunspots/client {place}", json=value)
            assert answer.status_code == 200, answer.text
            assert answer.json()["months"] == month
            found.append(answer.json()["forecast"])
        return found

    async def everybody() -> list[list[float]]:
        async with httpx.AsyncClient(base_url=url, timeout=PATIENCE) as http:
            refused = await http.post("/sunspots/x", json="many")
            assert refused.status_code == 422
            return await asyncio.gather(*(client(http, place) for place in range(clients)))

    assert asyncio.run(everybody()) == wanted  # the same bits, through JSON and back


def test_it_is_short() -> None:
    lines = (ROOT / "examples/services/fastapi_batcher.py").read_text().split('"""', 2)[2].strip().splitlines()
    assert len(lines) <= 40
