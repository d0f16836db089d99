"""A FastAPI service with a model inside: a stream for each client, one batched call for all that ask at once.

Run it, then ``curl -X POST localhost:8000/sunspots/me -H 'content-type: application/json' -d 96.7``::

    uvicorn --app-dir examples/services fastapi_batcher:app
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import Body, FastAPI, Request
from fastapi.responses import JSONResponse

import lstm_engine as le

WEIGHTS = Path(le.__file__).parent / "data/sunspots_lstm.pt"


@asynccontextmanager
async def model(app: FastAPI) -> AsyncIterator[None]:
    """Load the model when the service begins, and finish what was asked for when it ends."""
    forecaster = le.Sequential([le.LSTM.from_torch(WEIGHTS, "lstm"), le.Dense.from_torch(WEIGHTS, "head")])
    async with le.serving.Batcher(forecaster, idle_timeout=3600) as app.state.batcher:
        yield


app = FastAPI(lifespan=model)


@app.exception_handler(le.OverloadError)
async def overloaded(request: Request, error: Exception) -> JSONResponse:
    """Ask clients to come again rather than letting them wait."""
    return JSONResponse({"error": str(error)}, 503)


@app.post("/sunspots/{client}")
async def forecast(client: str, spots: Annotated[float, Body(ge=0, le=1e4)]) -> dict[str, Any]:
    """Take the spots of a client's next month, and forecast those of the month after."""
    (y,) = await app.state.batcher.step(client, np.array([np.sqrt(spots) / 8], np.float32))
    return {"forecast": (8 * max(float(y), 0)) ** 2, "months": app.state.batcher.steps(client)}
