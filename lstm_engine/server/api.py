"""What can be asked for: the Open Inference Protocol over REST, streams over WebSocket, and metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

from fastapi import APIRouter, FastAPI, Request, Response, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from lstm_engine import __version__
from lstm_engine.errors import LstmEngineError, StateError, UnsupportedModelError

from .errors import RequestError, status_of
from .log import log
from .models import ServedModel
from .protocol import InferenceRequest, decode_request, described, encode_response
from .schemas import (
    Failure,
    InferenceRequestBody,
    InferenceResponseBody,
    Liveness,
    ModelMetadata,
    ModelState,
    Readiness,
    ServerMetadata,
    TensorMetadata,
)
from .service import Service
from .streams import WebSocketSession
from .telemetry import RequestMiddleware

__all__ = ["create_app"]

_HEADER_LENGTH: Final = "Inference-Header-Content-Length"

_PROSE: Final = {
    400: "The request is not as the protocol or the model asks for.",
    404: "There is no such model, or no such version of it.",
    408: "The body did not arrive in time.",
    409: "The state of what was asked for does not allow it.",
    413: "The body, a tensor or the answer is too large.",
    415: "The body is compressed.",
    500: "A fault of the server.",
    503: "The queue is full, or the server ends: try again, or another.",
    504: "The time that the request gave was over.",
}


def _failures(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": Failure, "description": _PROSE[status]} for status in statuses}


def create_app(service: Service) -> FastAPI:
    """Return the application that serves.

    Parameters
    ----------
    service
        The models and the limits.
    """
    app = FastAPI(
        title="lstm_engine",
        version=__version__,
        description="LSTMs on a CPU: the Open Inference Protocol, version 2. Streams with a state are at "
        "`/v2/models/{name}/stream`, over WebSocket.",
        docs_url=None,  # the pages load programs from other hosts
        redoc_url=None,
    )
    app.add_middleware(RequestMiddleware, telemetry=service.telemetry)
    app.add_exception_handler(LstmEngineError, _answer_ours)
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    app.add_exception_handler(ClientDisconnect, _answer_gone)
    app.add_exception_handler(Exception, _answer_fault)
    app.include_router(_server_routes(service))
    app.include_router(_model_routes(service))
    _say_what_is_true(app)
    return app


# --- The server -------------------------------------------------------------------------------------------------------


def _server_routes(service: Service) -> APIRouter:
    router = APIRouter(tags=["server"])

    @router.get("/v2", summary="What this server is")
    async def server_metadata() -> ServerMetadata:
        return ServerMetadata(name="lstm_engine", version=__version__, extensions=["binary_tensor_data"])

    @router.get("/v2/health/live", summary="Whether the server runs")
    async def live() -> Liveness:
        return Liveness(live=True)

    @router.get(
        "/v2/health/ready",
        summary="Whether calls should be sent here",
        responses={503: {"model": Readiness, "description": "The server ends."}},
    )
    async def ready(response: Response) -> Readiness:
        response.status_code = 200 if service.ready else 503
        return Readiness(ready=service.ready)

    @router.get("/metrics", summary="Metrics for Prometheus", response_class=Response, responses={
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "The metrics."},
    })  # fmt: skip
    async def metrics() -> Response:
        return Response(generate_latest(service.telemetry.registry), media_type=CONTENT_TYPE_LATEST)

    @router.post("/v2/repository/index", summary="All models and their versions")
    async def index() -> list[ModelState]:
        broken = service.table.broken()
        states = [
            ModelState(
                name=one.name,
                version=one.version,
                state="READY",
                reason=broken.pop((one.name, one.version), ("", 0))[0],
            )
            for one in service.table
        ]
        missing = [
            ModelState(name=name, version=version, state="UNAVAILABLE", reason=reason)
            for (name, version), (reason, _) in sorted(broken.items())
        ]
        return states + missing

    return router


# --- Models -----------------------------------------------------------------------------------------------------------


def _model_routes(service: Service) -> APIRouter:
    router = APIRouter(tags=["models"])
    table = service.table

    def metadata(served: ServedModel) -> ModelMetadata:
        return ModelMetadata(
            name=served.name,
            versions=[one.version for one in table.versions(served.name)],
            platform="lstm_engine",
            inputs=[TensorMetadata(**one) for one in described(served.model.inputs)],
            outputs=[TensorMetadata(**one) for one in described(served.model.outputs)],
        )

    def readiness(name: str, version: str | None) -> JSONResponse:
        table.find(name, version)
        return JSONResponse({"ready": service.ready}, 200 if service.ready else 503)

    one = "/v2/models/{name}"
    exact = "/v2/models/{name}/versions/{version}"
    not_ready: dict[int | str, dict[str, Any]] = {503: {"model": Readiness, "description": "The server ends."}}

    @router.get(one, summary="What a model takes and gives", responses=_failures(404))
    async def model_metadata(name: str) -> ModelMetadata:
        return metadata(table.find(name))

    @router.get(exact, summary="What a version of a model takes and gives", responses=_failures(404))
    async def version_metadata(name: str, version: str) -> ModelMetadata:
        return metadata(table.find(name, version))

    @router.get(
        f"{one}/ready", summary="Whether a model is served", response_model=Readiness,
        responses={**_failures(404), **not_ready},
    )  # fmt: skip
    async def model_ready(name: str) -> JSONResponse:
        return readiness(name, None)

    @router.get(
        f"{exact}/ready", summary="Whether a version is served", response_model=Readiness,
        responses={**_failures(404), **not_ready},
    )  # fmt: skip
    async def version_ready(name: str, version: str) -> JSONResponse:
        return readiness(name, version)

    inference: dict[str, Any] = {
        "response_model": InferenceResponseBody,
        "responses": {**_failures(400, 404, 408, 409, 413, 415, 500, 503, 504), 200: _BINARY_ANSWER},
        "openapi_extra": _INFERENCE,
    }

    @router.post(f"{one}/infer", summary="Compute", **inference)
    async def infer(request: Request, name: str) -> Response:
        return await _infer(service, request, name, None)

    @router.post(f"{exact}/infer", summary="Compute by a version", **inference)
    async def version_infer(request: Request, name: str, version: str) -> Response:
        return await _infer(service, request, name, version)

    @router.websocket(f"{one}/stream")
    async def stream(websocket: WebSocket, name: str) -> None:
        await _stream(service, websocket, name, None)

    @router.websocket(f"{exact}/stream")
    async def version_stream(websocket: WebSocket, name: str, version: str) -> None:
        await _stream(service, websocket, name, version)

    return router


async def _infer(service: Service, request: Request, name: str, version: str | None) -> Response:
    service.check_taking()
    service.table.find(name, version)  # before anything is read
    body = await _read_body(request, service)
    length_header = request.headers.get(_HEADER_LENGTH)
    while True:
        served = service.table.find(name, version)
        model = served.model
        asked = decode_request(body, length_header, model.inputs, model.outputs, service.options)
        try:
            y = await _while_connected(request, _predict(served, asked))
            break
        except StateError:
            # One that was replaced in this moment takes no more calls; the one in its place does.
            if service.table.find(name, version) is served:
                raise
    computed = dict(zip((spec.name for spec in model.outputs), y if isinstance(y, tuple) else (y,), strict=True))
    head = {"model_name": served.name, "model_version": served.version}
    if asked.id is not None:
        head["id"] = asked.id
    outputs = [(output, computed[output], binary) for output, binary in asked.outputs]
    content, length = encode_response(head, outputs, service.options.max_json // 16)
    if length is None:
        return Response(content, media_type="application/json")
    return Response(content, media_type="application/octet-stream", headers={_HEADER_LENGTH: str(length)})


def _predict(served: ServedModel, asked: InferenceRequest) -> Coroutine[Any, Any, Any]:
    inputs: Any = asked.inputs if len(asked.inputs) > 1 else next(iter(asked.inputs.values()))
    return served.batcher.predict(inputs, timeout=asked.timeout)


async def _read_body(request: Request, service: Service) -> bytes:
    """Return the body, or refuse it as soon as it is known to be too long or too slow."""
    options = service.options
    encoding = request.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise RequestError(415, f"Content-Encoding: expected none, found {encoding[:40]!r}; send the body as it is")
    declared = request.headers.get("content-length", "0")
    if not (declared.isascii() and declared.isdigit()):
        raise RequestError(400, f"Content-Length: expected a number of bytes, found {declared[:40]!r}")
    size, parts = int(declared[:20]), []
    if size <= options.max_body:
        size = 0
        try:
            async with asyncio.timeout(options.body_timeout):
                async for part in request.stream():
                    parts.append(part)
                    size += len(part)
                    if size > options.max_body:
                        break
        except TimeoutError:
            raise RequestError(
                408,
                f"body: expected all of it within {options.body_timeout:g} s (--body-timeout), found {size:,} bytes",
            ) from None
    if size > options.max_body:
        raise RequestError(
            413,
            f"body: expected at most {options.max_body:,} bytes (--max-body), found more; send fewer rows at a time",
        )
    return b"".join(parts)


async def _while_connected(request: Request, call: Coroutine[Any, Any, Any]) -> Any:
    """Return what a call does, which is cancelled if the client leaves."""
    computing = asyncio.ensure_future(call)
    leaving = asyncio.ensure_future(request.receive())  # behind the body there is nothing but the end
    try:
        await asyncio.wait((computing, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not computing.done():
            raise ClientDisconnect
        return computing.result()
    finally:
        for task in (computing, leaving):
            task.cancel()
        await asyncio.gather(computing, leaving, return_exceptions=True)


async def _stream(service: Service, websocket: WebSocket, name: str, version: str | None) -> None:
    try:
        service.check_taking()
        served = service.table.find(name, version)
        if served.batcher.obstacle is not None:
            raise UnsupportedModelError(str(served.batcher.obstacle))
    except LstmEngineError as error:
        log("stream refused", model=name[:128], reason=str(error))
        await websocket.send_denial_response(_failure(status_of(error), str(error)))
        return
    session = WebSocketSession(websocket, served, service.options)
    served.sessions.add(session)
    service.telemetry.websockets.inc()
    client = websocket.client.host if websocket.client else None
    try:
        log("stream connected", model=served.name, version=served.version, client=client)
        await session.run()
    finally:
        served.sessions.discard(session)
        service.telemetry.websockets.dec()
        log("stream disconnected", model=served.name, version=served.version, client=client, messages=session.messages)


# --- Errors -----------------------------------------------------------------------------------------------------------


def _failure(status: int, message: str) -> JSONResponse:
    headers = {"Retry-After": "1"} if status == 503 else None
    return JSONResponse({"error": message}, status, headers)


async def _answer_ours(request: Request, error: Exception) -> Response:
    assert isinstance(error, LstmEngineError)
    return _failure(status_of(error), str(error))


async def _answer_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    response = _failure(error.status_code, f"{request.method} {request.url.path[:200]}: {error.detail}")
    response.headers.update(error.headers or {})
    return response


async def _answer_invalid(request: Request, error: Exception) -> Response:
    return _failure(400, f"request: {error}")


async def _answer_gone(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it but the log, where that is what a client who left is called


async def _answer_fault(request: Request, error: Exception) -> Response:
    log("request failed", "error", exception=True, path=request.url.path)
    return _failure(500, "server: expected an answer, found a fault of ours; see its log")


# --- OpenAPI ----------------------------------------------------------------------------------------------------------

_BINARY: Final = {"schema": {"type": "string", "format": "binary"}}
_BINARY_ANSWER: Final = {
    "description": "The outputs; those that are binary behind the JSON, whose length a header tells.",
    "content": {"application/octet-stream": _BINARY},
    "headers": {_HEADER_LENGTH: {"schema": {"type": "integer", "minimum": 1}}},
}
_INFERENCE: Final = {
    "parameters": [
        {
            "name": _HEADER_LENGTH,
            "in": "header",
            "required": False,
            "description": "Bytes of JSON at the beginning of the body, where binary tensors lie behind it.",
            "schema": {"type": "integer", "minimum": 1},
        }
    ],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/InferenceRequestBody"}},
            "application/octet-stream": _BINARY,
        },
    },
}


def _say_what_is_true(app: FastAPI) -> None:
    """Let the OpenAPI document have the schema of requests, and no answer 422, which FastAPI adds and nobody gives."""
    original = app.openapi

    def openapi() -> dict[str, Any]:
        document = original()
        for operations in document["paths"].values():
            for operation in operations.values():
                operation["responses"].pop("422", None)
        schemas = document["components"]["schemas"]
        template = "#/components/schemas/{model}"
        body = InferenceRequestBody.model_json_schema(ref_template=template)
        schemas.update(body.pop("$defs", {}))
        schemas["InferenceRequestBody"] = body
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        return document

    app.openapi = openapi  # type: ignore[method-assign]
