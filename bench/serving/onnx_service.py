"""The service as one writes it with ONNX Runtime: FastAPI, a state for each connection, one run for each step.

``python -m bench.serving`` runs it as ``uvicorn bench.serving.onnx_service:app``, and names the model's file in the
environment.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from fastapi import FastAPI, WebSocket, WebSocketDisconnect

from .workload import onnx_session

session = onnx_session(Path(os.environ["BENCH_SERVING_MODEL"]).read_bytes())
hidden = session.get_outputs()[1].shape[-1]
app = FastAPI()


@app.websocket("/stream")
async def stream(websocket: WebSocket) -> None:
    """Answer each message, the float32 features of a step, with the float32 outputs."""
    await websocket.accept()
    state = {name: np.zeros((1, 1, hidden), np.float32) for name in ("h0", "c0")}
    try:
        while True:
            x = np.frombuffer(await websocket.receive_bytes(), np.float32)
            y, state["h0"], state["c0"] = session.run(["y", "hn0", "cn0"], {"x": x[None, None], **state})
            await websocket.send_bytes(y.tobytes())
    except WebSocketDisconnect:
        pass
