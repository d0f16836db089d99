"""The model on Ray: a function on batches for Ray Data, and a deployment for Ray Serve.

::

    from lstm_engine.integrations.ray import Predictor, deployment

    rows = ray.data.read_parquet("readings/").map_batches(
        Predictor,
        fn_constructor_kwargs={"model": "model.keras", "columns": "readings"},
        batch_format="pyarrow", batch_size=1024, num_cpus=1, compute=ray.data.ActorPoolStrategy(min_size=1, max_size=8),
    )
    rows.write_parquet("predictions/")

    handle = serve.run(deployment("model.keras"))

Ray Data gives each actor a model of its own, on one thread; its progress bar counts the rows. In a replica of Ray Serve
a :class:`lstm_engine.serving.Batcher` merges the concurrent requests.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from lstm_engine.errors import DeadlineError, LstmEngineError, OverloadError, ShapeError, StateError
from lstm_engine.options import Backend, ComputeType
from lstm_engine.thread_count import NumThreads

from .tables import Predictor

if TYPE_CHECKING:
    from lstm_engine.lstm import LSTM
    from lstm_engine.model import Model

__all__ = ["Predictor", "Replica", "deployment"]

#: HTTP's word for each of our errors, the first that fits.
_STATUS: Final = ((OverloadError, 503), (DeadlineError, 504), (StateError, 409), (LstmEngineError, 400))


def deployment(
    model: str | os.PathLike[str] | Model | LSTM,
    *,
    name: str = "lstm_engine",
    num_replicas: int = 1,
    compute_type: ComputeType = "float32",
    num_threads: NumThreads = 1,
    backend: Backend = "auto",
    max_batch: int = 256,
    max_delay: float = 0.001,
    max_queue: int = 4096,
    max_streams: int = 10_000,
    idle_timeout: float | None = None,
    options: Mapping[str, Any] | None = None,
) -> Any:
    """Return an application for ``ray.serve.run``, whose replicas are :class:`Replica`.

    Parameters
    ----------
    model
        Path of a whole model, the same on every node, or a Model or LSTM, which is sent to the replicas.
    name
        Of the deployment.
    num_replicas
        How many replicas answer ``predict``. Streams need exactly one, for it holds their states: to share streams
        between several, run several applications and let the stream's id choose among them.
    compute_type, num_threads, backend
        As of :func:`lstm_engine.load`, for a path.
    max_batch, max_delay, max_queue, max_streams, idle_timeout
        As of :class:`lstm_engine.serving.Batcher`.
    options
        Other options of ``ray.serve.deployment``, such as ``ray_actor_options``.

    Raises
    ------
    LstmEngineError
        If Ray Serve is not installed.
    ShapeError
        If an argument is not as above.
    """
    # What the batcher of a replica would refuse too, but far from here.
    for argument, value in (("num_replicas", num_replicas), ("max_queue", max_queue)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ShapeError(f"{argument}: expected a positive integer, found {value!r}")
    fixed = sorted({"name", "num_replicas", "autoscaling_config"} & set(options or {}))
    if fixed:
        raise ShapeError(
            f"options: expected none of name, num_replicas and autoscaling_config, found {', '.join(fixed)}; give "
            "name= and num_replicas=, for streams depend on how many replicas there are"
        )
    try:
        from ray import serve
    except ImportError as error:
        raise LstmEngineError(
            "ray: expected the package ray with Ray Serve, found none; install it with: pip install lstm-engine[ray]"
        ) from error
    chosen = {
        "ray_actor_options": {"num_cpus": 1},
        "max_ongoing_requests": max_queue,  # Serve's own 5 would leave little to merge
        **(options or {}),
    }
    batching = {
        "max_batch": max_batch,
        "max_delay": max_delay,
        "max_queue": max_queue,
        "max_streams": max_streams,
        "idle_timeout": idle_timeout,
    }
    loading = {"compute_type": compute_type, "num_threads": num_threads, "backend": backend}
    replicated = serve.deployment(Replica, name=name, num_replicas=num_replicas, **chosen)
    return replicated.bind(model, loading, batching, num_replicas == 1)


class Replica:
    """What answers in a process of Ray Serve: calls by handle, and JSON over HTTP.

    By handle, ``await handle.step.remote(stream_id, x_t)`` and the other methods. Over HTTP a POST of
    ``{"inputs": ...}`` gives ``{"outputs": {name: ...}}`` for whole sequences, and one of
    ``{"inputs": ..., "stream": id}`` advances a stream by a step; ``"timeout"`` is in seconds. Several inputs are an
    object by name. An error is ``{"error": message}`` with the status 400, 409 (state), 503 (overload) or 504
    (deadline).

    Parameters
    ----------
    model
        As of :func:`deployment`.
    loading, batching
        Arguments of :func:`lstm_engine.load` and of :class:`lstm_engine.serving.Batcher`.
    alone
        Whether it is the only replica, so that streams find their states.
    """

    # Ray Serve awaits it, on the event loop that the batcher is to belong to.
    async def __init__(  # type: ignore[misc]
        self,
        model: str | os.PathLike[str] | Model | LSTM,
        loading: Mapping[str, Any],
        batching: Mapping[str, Any],
        alone: bool = True,
    ) -> None:
        from lstm_engine.loading import load
        from lstm_engine.lstm import LSTM
        from lstm_engine.model import Model
        from lstm_engine.serving import Batcher

        loaded = model if isinstance(model, (Model, LSTM)) else load(model, **loading)
        self._alone = alone
        self._names = ["y"] if isinstance(loaded, LSTM) else [spec.name for spec in loaded.outputs]
        self._batcher = await Batcher(loaded, **batching).__aenter__()

    # --- By handle --------------------------------------------------------------------------------------------------

    async def predict(self, x: Any, timeout: float | None = None) -> Any:
        """Compute whole sequences, as :meth:`lstm_engine.serving.Batcher.predict` does."""
        return await self._batcher.predict(x, timeout=timeout)

    async def step(self, stream_id: Hashable, x: Any, timeout: float | None = None) -> Any:
        """Advance a stream by one step, as :meth:`lstm_engine.serving.Batcher.step` does."""
        self._require_alone()
        return await self._batcher.step(stream_id, x, timeout=timeout)

    async def run(self, stream_id: Hashable, x: Any, timeout: float | None = None) -> Any:
        """Advance a stream by a chunk, as :meth:`lstm_engine.serving.Batcher.run` does."""
        self._require_alone()
        return await self._batcher.run(stream_id, x, timeout=timeout)

    async def close(self, stream_id: Hashable) -> bool:
        """Close a stream; returns whether there was one."""
        self._require_alone()
        return await self._batcher.close(stream_id)

    async def snapshot(self, stream_id: Hashable) -> bytes:
        """Return the state of a stream, to be restored in another replica."""
        self._require_alone()
        return await self._batcher.snapshot(stream_id)

    async def restore(self, stream_id: Hashable, snapshot: bytes) -> None:
        """Let a stream go on from a snapshot."""
        self._require_alone()
        await self._batcher.restore(stream_id, snapshot)

    async def metrics(self) -> dict[str, Any]:
        """Return what the batcher has counted."""
        return self._batcher.metrics()

    def _require_alone(self) -> None:
        if not self._alone:
            raise StateError(
                "stream_id: expected a deployment of one replica, which holds the states of all streams, found "
                "several; run several applications of one replica, and let the stream's id choose among them"
            )

    # --- HTTP -------------------------------------------------------------------------------------------------------

    async def __call__(self, request: Any) -> Any:
        """Answer a request over HTTP, or over a handle one of a dict with the same names."""
        if isinstance(request, dict):  # Starlette's request is a Mapping as well
            return await self._answer(request)
        from starlette.responses import JSONResponse

        try:
            body = await request.json()
        except (ValueError, RecursionError):
            return JSONResponse({"error": "body: expected JSON, found something else"}, 400)
        try:
            outputs = await self._answer(body)
        except LstmEngineError as error:
            status = next(status for kind, status in _STATUS if isinstance(error, kind))
            return JSONResponse({"error": str(error)}, status)
        return JSONResponse({"outputs": {name: _plain(array) for name, array in outputs["outputs"].items()}})

    async def _answer(self, body: Any) -> dict[str, Any]:
        if not isinstance(body, Mapping) or "inputs" not in body or set(body) - {"inputs", "stream", "timeout"}:
            raise ShapeError(
                "body: expected an object with inputs, and perhaps stream and timeout, found "
                f"{sorted(map(str, body)) if isinstance(body, Mapping) else type(body).__name__}"
            )
        x, timeout = _arrays(body["inputs"]), body.get("timeout")
        if "stream" in body:
            y = await self.step(body["stream"], x, timeout)
        else:
            y = await self.predict(x, timeout)
        return {"outputs": dict(zip(self._names, y if isinstance(y, tuple) else (y,), strict=True))}


def _arrays(value: Any) -> Any:
    """Return the inputs of a request: an array, or arrays by name."""
    if isinstance(value, Mapping):
        return {name: _array(one, str(name)) for name, one in value.items()}
    return _array(value, "inputs")


def _array(value: Any, name: str) -> Any:
    try:
        return np.asarray(value)
    except (ValueError, TypeError) as error:
        raise ShapeError(f"{name}: expected numbers, or lists of one length at each level ({error})") from None


def _plain(array: Any) -> Any:
    """Return an array as JSON can say it: JSON knows neither NaN nor infinity, so they are null."""
    plain: Any = np.asarray(array)
    if not np.isfinite(plain).all():
        plain = plain.astype(object)
        plain[~np.isfinite(array)] = None
    return plain.tolist()
