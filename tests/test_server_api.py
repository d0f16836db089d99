"""The server's REST interface, called in this process: what it answers, and how it refuses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from server_support import FEATURES, UNITS, Held, bidirectional, inputs, put, trained

import lstm_engine as le
from lstm_engine.builder import build_model

pytestmark = pytest.mark.services
httpx = pytest.importorskip("httpx")

X = inputs(1, 3, 5)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions of a model, one that no stream can run, one of several inputs and outputs, one of token numbers."""
    from described import input_layer, lstm, model

    root = tmp_path_factory.mktemp("models")
    put(root, "m", 1, trained(1))
    put(root, "m", 2, trained(2))
    put(root, "both", 1, bidirectional())
    two = model(
        input_layer("a", None, 3), input_layer("b", None, 3), lstm("left", "a", features=3, units=4),
        lstm("right", "b", features=3, units=5, seed=9), outputs=["left", "right"],
    )  # fmt: skip
    put(root, "two", 1, build_model(two))
    numbers = np.random.default_rng(4)
    put(root, "tokens", 1, le.Sequential([le.Embedding(numbers.random((11, FEATURES), np.float32)), trained(5)]))
    return root


Use = Callable[[Any, Any], Awaitable[Any]]


@pytest.fixture
def go(models: Path) -> Callable[..., Any]:
    """Use a client, and the service behind it, in an event loop; what hangs fails."""
    from lstm_engine.server.api import create_app
    from lstm_engine.server.models import ModelTable
    from lstm_engine.server.options import ServerOptions
    from lstm_engine.server.service import Service
    from lstm_engine.server.telemetry import Telemetry

    def go(use: Use, model: Path = models, **options: Any) -> Any:
        async def main() -> Any:
            settings = ServerOptions(model=str(model), **options)
            async with ModelTable(settings) as table:
                service = Service(settings, table, Telemetry(table))
                transport = httpx.ASGITransport(create_app(service))
                async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
                    return await use(client, service)

        return asyncio.run(asyncio.wait_for(main(), 60))

    return go


def request_of(x: Any, name: str = "x", datatype: str = "FP32", **more: Any) -> dict[str, Any]:
    return {
        "inputs": [{"name": name, "shape": list(x.shape), "datatype": datatype, "data": x.ravel().tolist()}],
        **more,
    }


def output(answer: Any, place: int = 0) -> Any:
    """Return an output of an answer in JSON."""
    assert answer.status_code == 200, answer.text
    found = answer.json()["outputs"][place]
    return np.array(found["data"], {"FP32": np.float32}[found["datatype"]]).reshape(found["shape"])


def refused(answer: Any, status: int, phrase: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert list(answer.json()) == ["error"]
    assert phrase in answer.json()["error"]


# --- What there is ----------------------------------------------------------------------------------------------------


def test_the_server_and_its_models(go: Any) -> None:
    async def use(client: Any, service: Any) -> None:
        assert (await client.get("/v2")).json() == {
            "name": "lstm_engine", "version": le.__version__, "extensions": ["binary_tensor_data"]
        }  # fmt: skip
        assert (await client.get("/v2/health/live")).json() == {"live": True}
        assert (await client.get("/v2/health/ready")).json() == {"ready": True}
        metadata = (await client.get("/v2/models/m")).json()
        assert metadata == {
            "name": "m",
            "versions": ["1", "2"],
            "platform": "lstm_engine",
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, -1, FEATURES]}],
            "outputs": [{"name": "lstm", "datatype": "FP32", "shape": [-1, -1, UNITS]}],
        }
        assert (await client.get("/v2/models/m/versions/1")).json() == metadata
        assert (await client.get("/v2/models/tokens")).json()["inputs"][0]["datatype"] == "INT64"
        for path in ("/v2/models/m/ready", "/v2/models/m/versions/2/ready"):
            assert (await client.get(path)).json() == {"ready": True}
        states = (await client.post("/v2/repository/index")).json()
        assert {"name": "m", "version": "2", "state": "READY", "reason": ""} in states
        assert len(states) == 5

    go(use)


def test_what_there_is_not(go: Any) -> None:
    async def use(client: Any, service: Any) -> None:
        for path in ("/v2/models/n", "/v2/models/n/ready", "/v2/models/n/versions/1", "/v2/models/n/versions/1/ready"):
            refused(await client.get(path), 404, "model: expected one of both, m, tokens, two, found 'n'")
        for path in ("/v2/models/n/infer", "/v2/models/m/versions/3/infer", "/v2/models/model.safetensors/infer"):
            refused(await client.post(path, json=request_of(X)), 404, "expected one of")
        refused(await client.post("/v2/models/..%2f..%2fetc%2fpasswd/infer", json=request_of(X)), 404, "Not Found")
        refused(await client.get("/v2/models/m/versions/3"), 404, "version: expected one of 1, 2 of 'm', found '3'")
        refused(await client.get("/nowhere"), 404, "GET /nowhere: Not Found")
        refused(await client.get("/v2/models/m/infer"), 405, "Method Not Allowed")
        for path in ("/docs", "/redoc", "/v2/repository/models/m/load"):
            assert (await client.get(path)).status_code == 404

    go(use)


# --- Inference --------------------------------------------------------------------------------------------------------


def test_answers_have_the_bits_of_the_model(go: Any) -> None:
    async def use(client: Any, service: Any) -> None:
        answer = await client.post("/v2/models/m/infer", json=request_of(X, id="seven"))
        assert {key: answer.json()[key] for key in ("model_name", "model_version", "id")} == {
            "model_name": "m", "model_version": "2", "id": "seven"
        }  # fmt: skip
        assert output(answer).tobytes() == trained(2)(X)[0].tobytes()
        first = await client.post("/v2/models/m/versions/1/infer", json=request_of(X))
        assert output(first).tobytes() == trained(1)(X)[0].tobytes()
        assert "id" not in first.json()
        other = await client.post("/v2/models/both/infer", json=request_of(X))
        assert output(other).tobytes() == bidirectional()(X)[0].tobytes()
        many = [client.post("/v2/models/m/infer", json=request_of(inputs(7, 2, length))) for length in range(1, 30)]
        for length, answer in enumerate(await asyncio.gather(*many), start=1):
            assert output(answer).tobytes() == trained(2)(inputs(7, 2, length))[0].tobytes()

    go(use)


def test_binary_tensors(go: Any) -> None:
    async def use(client: Any, service: Any) -> None:
        x = X.copy()
        x[1, 2, 3] = np.nan
        expected = trained(2)(x)[0]
        head = request_of(x)
        head["inputs"][0] = {**head["inputs"][0], "parameters": {"binary_data_size": x.nbytes}}
        del head["inputs"][0]["data"]
        head["parameters"] = {"binary_data_output": True}
        text = json.dumps(head).encode()
        answer = await client.post(
            "/v2/models/m/infer",
            content=text + x.tobytes(),
            headers={"Inference-Header-Content-Length": str(len(text))},
        )
        assert answer.headers["content-type"] == "application/octet-stream"
        length = int(answer.headers["inference-header-content-length"])
        (found,) = json.loads(answer.content[:length])["outputs"]
        assert found["parameters"] == {"binary_data_size": expected.nbytes}
        y = np.frombuffer(answer.content[length:], np.float32).reshape(expected.shape)
        np.testing.assert_array_equal(y, expected)
        assert np.isnan(y).any()
        # The same numbers as JSON.
        head = request_of(x)
        head["inputs"][0]["data"] = ["NaN" if np.isnan(value) else value for value in x.ravel().tolist()]
        np.testing.assert_array_equal(output(await client.post("/v2/models/m/infer", json=head)), expected)

    go(use)


def test_several_inputs_and_outputs(go: Any) -> None:
    async def use(client: Any, service: Any) -> None:
        a, b = np.random.default_rng(6).standard_normal((2, 3, 4, 3)).astype(np.float32)
        whole = {"inputs": request_of(b, "b")["inputs"] + request_of(a, "a")["inputs"]}
        left, right = service.table.find("two").model(a, b)
        answer = await client.post("/v2/models/two/infer", json=whole)
        assert output(answer, 0).tobytes() == left.tobytes()
        assert output(answer, 1).tobytes() == right.tobytes()
        answer = await client.post("/v2/models/two/infer", json={**whole, "outputs": [{"name": "right"}]})
        assert [one["name"] for one in answer.json()["outputs"]] == ["right"]
        assert output(answer).tobytes() == right.tobytes()
        refused(await client.post("/v2/models/two/infer", json=request_of(a, "a")), 400, "expected a, b, found a")

    go(use)


def test_graphs_of_onnx(tmp_path: Path, go: Any) -> None:
    """Their calls are not merged, and their outputs may be of other types."""
    onnx = pytest.importorskip("onnx")
    kinds, value = onnx.TensorProto, onnx.helper.make_tensor_value_info
    nodes = [
        onnx.helper.make_node("Add", ["a", "b"], ["sum"]),
        onnx.helper.make_node("Greater", ["a", "b"], ["greater"]),
    ]
    inputs = [value(name, kinds.FLOAT, ["time", "rows", 3]) for name in "ab"]
    outputs = [value("sum", kinds.FLOAT, ["time", "rows", 3]), value("greater", kinds.BOOL, ["time", "rows", 3])]
    graph = onnx.helper.make_graph(nodes, "graph", inputs, outputs)
    (tmp_path / "g/1").mkdir(parents=True)
    opsets = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9), tmp_path / "g/1/model.onnx")
    a, b = np.random.default_rng(6).standard_normal((2, 3, 4, 3)).astype(np.float32)

    async def use(client: Any, service: Any) -> None:
        assert [one["datatype"] for one in (await client.get("/v2/models/g")).json()["outputs"]] == ["FP32", "BOOL"]
        whole = {"inputs": request_of(b, "b")["inputs"] + request_of(a, "a")["inputs"]}
        answer = await client.post("/v2/models/g/infer", json=whole)
        np.testing.assert_array_equal(output(answer), a + b)
        np.testing.assert_array_equal(answer.json()["outputs"][1]["data"], (a > b).ravel())

    go(use, model=tmp_path)


def test_token_numbers(go: Any) -> None:
    async def use(client: Any, service: Any) -> None:
        tokens = np.arange(10).reshape(2, 5)
        answer = await client.post("/v2/models/tokens/infer", json=request_of(tokens, datatype="INT64"))
        assert output(answer).tobytes() == service.table.find("tokens").model(tokens).tobytes()
        refused(await client.post("/v2/models/tokens/infer", json=request_of(tokens + 5, datatype="INT64")), 400, "1")

    go(use)


# --- Bad input --------------------------------------------------------------------------------------------------------


def test_bodies_that_are_refused(go: Any) -> None:
    async def use(client: Any, service: Any) -> None:
        async def post(phrase: str, status: int = 400, headers: Any = None, **body: Any) -> None:
            refused(await client.post("/v2/models/m/infer", headers=headers, **body), status, phrase)

        await post("expected JSON", content=b"")
        await post("expected JSON", content=b"\x00\x01")
        await post('"NaN"', content=json.dumps(request_of(X * np.nan)).encode())
        await post("(batch, time, 8)", json=request_of(X[:, :, :7]))
        await post("of rank 3", json=request_of(X[0]))
        await post("at most 8 axes", json=request_of(X.reshape(1, 1, 1, 1, 1, 1, 3, 5, 8)))
        await post("at most 100 steps", 413, json=request_of(np.zeros((21, 5, 8))))
        await post("at most 10,000 bytes of JSON", 413, json=request_of(X, id="x" * 10_000))
        await post("found more", 413, content=b"x" * 12_501)
        await post("send the body as it is", 415, json=request_of(X), headers={"content-encoding": "gzip"})
        await post(
            "Inference-Header-Content-Length", json=request_of(X), headers={"inference-header-content-length": "9e9"}
        )
        await post("/v2/models/NAME/stream", json=request_of(X, parameters={"sequence_id": 7}))
        await post("ask for binary data", 413, json=request_of(np.zeros((10, 5, 8))))
        await post("outputs take 12,800", 413, json=request_of(np.zeros((100, 1, 8))))
        # Whatever was refused, the next one is answered.
        assert output(await client.post("/v2/models/m/infer", json=request_of(X))).shape == (3, 5, UNITS)

    go(use, max_steps=100, max_json=10_000, max_body=12_500)


def test_a_body_without_a_length_is_counted(go: Any) -> None:
    async def use(client: Any, service: Any) -> None:
        sent = 0

        async def parts() -> AsyncIterator[bytes]:
            nonlocal sent
            for _ in range(1000):
                sent += 1000
                yield bytes(1000)

        refused(await client.post("/v2/models/m/infer", content=parts()), 413, "at most 20,000 bytes")
        assert sent < 30_000

        async def sound() -> AsyncIterator[bytes]:
            text = json.dumps(request_of(X)).encode()
            for begin in range(0, len(text), 500):
                yield text[begin : begin + 500]

        assert output(await client.post("/v2/models/m/infer", content=sound())).tobytes() == trained(2)(X)[0].tobytes()

    go(use, max_body=20_000)


def test_a_body_that_does_not_come(go: Any) -> None:
    async def use(client: Any, service: Any) -> None:
        async def parts() -> AsyncIterator[bytes]:
            yield b"{"
            await asyncio.sleep(30)

        refused(await client.post("/v2/models/m/infer", content=parts()), 408, "within 0.1 s")

    go(use, body_timeout=0.1)


def test_a_full_queue_is_said_at_once(go: Any) -> None:
    async def use(client: Any, service: Any) -> None:
        held = Held(service.table.find("m").batcher)
        first = [asyncio.create_task(client.post("/v2/models/m/infer", json=request_of(X))) for _ in range(2)]
        while service.table.find("m").batcher.metrics()["queue_depth"] < 2:
            await asyncio.sleep(0.001)
        answer = await client.post("/v2/models/m/infer", json=request_of(X))
        refused(answer, 503, "max_queue=2")
        assert answer.headers["retry-after"] == "1"
        held.let_go()
        assert [output(await one).tobytes() for one in first] == [trained(2)(X)[0].tobytes()] * 2

    go(use, max_queue=2)


def test_a_model_that_is_replaced_in_the_moment_of_a_call(go: Any) -> None:
    async def use(client: Any, service: Any) -> None:
        table, first = service.table, service.table.find("m")
        beside = await table._begin(first.file, first.model)
        predict = first.batcher.predict

        async def replaced(*arguments: Any, **options: Any) -> Any:
            table._served[first.file.key] = beside
            await first.end(1012, "replaced")
            return await predict(*arguments, **options)

        first.batcher.predict = replaced
        assert (
            output(await client.post("/v2/models/m/infer", json=request_of(X))).tobytes() == trained(2)(X)[0].tobytes()
        )
        assert beside.batcher.metrics()["answered"] == 1

    go(use)


def test_time_that_is_over(go: Any) -> None:
    async def use(client: Any, service: Any) -> None:
        held = Held(service.table.find("m").batcher)
        first = asyncio.create_task(client.post("/v2/models/m/infer", json=request_of(X)))
        await held.until_begun()
        late = await client.post("/v2/models/m/infer", json=request_of(X, parameters={"timeout": 20_000}))
        refused(late, 504, "the time of the call is over")
        held.let_go()
        assert output(await first).tobytes() == trained(2)(X)[0].tobytes()

    go(use)


def test_a_fault_of_ours_is_no_traceback(go: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def use(client: Any, service: Any) -> None:
        def broken(*_: Any, **__: Any) -> Any:
            raise ZeroDivisionError("secret")

        service.table.find = broken
        with pytest.raises(ZeroDivisionError):  # the middleware of errors raises it again, for the server's log
            await client.get("/v2/models/m")

    go(use)
    assert "request failed" in [record.getMessage() for record in caplog.records]


def test_a_server_that_ends(go: Any) -> None:
    async def use(client: Any, service: Any) -> None:
        service.ready = False
        for path in ("/v2/health/ready", "/v2/models/m/ready"):
            answer = await client.get(path)
            assert (answer.status_code, answer.json()) == (503, {"ready": False})
        assert (await client.get("/v2/health/live")).status_code == 200
        assert output(await client.post("/v2/models/m/infer", json=request_of(X))).shape == (3, 5, UNITS)
        service.taking = False
        refused(await client.post("/v2/models/m/infer", json=request_of(X)), 503, "found it ending")

    go(use)


# --- What it tells of itself ------------------------------------------------------------------------------------------


def test_metrics(go: Any) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    async def use(client: Any, service: Any) -> None:
        for _ in range(3):
            await client.post("/v2/models/m/infer", json=request_of(X))
        await client.post("/v2/models/secret-name/infer", json=request_of(X))
        await service.table.find("m", "1").batcher.step("a", X[0, 0])
        answer = await client.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain")
        assert "secret-name" not in answer.text
        found = {
            (sample.name, *sorted(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
        }
        old, new = (("model", "m"), ("version", "1")), (("model", "m"), ("version", "2"))
        assert found["lstm_engine_answered_total", *new] == 3
        assert found["lstm_engine_steps_total", *new] == 3 * 15
        assert found["lstm_engine_streams", *old] == 1
        assert found["lstm_engine_streams", *new] == 0
        assert found["lstm_engine_call_seconds_count", *new] == 3
        bounds = [value for (name, *labels), value in found.items() if name == "lstm_engine_call_seconds_bucket"
                  and tuple(labels[1:]) == new]  # fmt: skip
        assert bounds == sorted(bounds)
        assert bounds[-1] == 3
        route = ("route", "/v2/models/{name}/infer")
        assert found["lstm_engine_http_requests_total", route, ("status", "200")] == 3
        assert found["lstm_engine_http_requests_total", route, ("status", "404")] == 1
        assert found["lstm_engine_ready",] == 1

    go(use)


def test_requests_are_logged(go: Any, caplog: pytest.LogCaptureFixture) -> None:
    from lstm_engine.server.log import JsonLines

    async def use(client: Any, service: Any) -> None:
        await client.post("/v2/models/m/infer", json=request_of(X))

    with caplog.at_level("INFO", "lstm_engine.server"):
        go(use)
    lines = [json.loads(JsonLines().format(record)) for record in caplog.records]
    (line,) = [line for line in lines if line["event"] == "request"]
    assert (line["method"], line["path"], line["status"]) == ("POST", "/v2/models/m/infer", 200)
    assert line["seconds"] > 0
    assert line["time"].endswith("+00:00")


def test_the_openapi_document(go: Any) -> None:
    async def use(client: Any, service: Any) -> None:
        document = (await client.get("/openapi.json")).json()
        assert "422" not in json.dumps(document)
        assert "HTTPValidationError" not in json.dumps(document)
        infer = document["paths"]["/v2/models/{name}/infer"]["post"]
        assert set(infer["requestBody"]["content"]) == {"application/json", "application/octet-stream"}
        assert set(infer["responses"]) == {"200", "400", "404", "408", "409", "413", "415", "500", "503", "504"}
        assert {"name", "Inference-Header-Content-Length"} == {one["name"] for one in infer["parameters"]}
        for name in ("InferenceRequestBody", "InputTensor", "InferenceResponseBody", "Failure", "ModelMetadata"):
            assert name in document["components"]["schemas"]

    go(use)
