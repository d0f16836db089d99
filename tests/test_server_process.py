"""``lstm-engine serve`` as a program: its beginning, its end, hostile connections, and clients that exist."""

from __future__ import annotations

import base64
import json
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from server_support import PATIENCE, Process, ask, inputs, put, trained

import lstm_engine as le

pytestmark = pytest.mark.services
httpx = pytest.importorskip("httpx")

X = inputs(1, 3, 5)


def infer(x: Any, **more: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "shape": list(x.shape), "datatype": "FP32", "data": x.ravel().tolist()}], **more}


def answered(answer: Any, seed: int = 1) -> bool:
    """Say whether an answer to ``infer(X)`` has the bits of a model."""
    assert answer.status_code == 200, answer.text
    found = np.array(answer.json()["outputs"][0]["data"], np.float32)
    return bool(found.tobytes() == trained(seed)(X)[0].tobytes())


def client_of(process: Process) -> Any:
    return httpx.Client(base_url=f"http://127.0.0.1:{process.port}", timeout=PATIENCE)


def connect(process: Process) -> Any:
    from websockets.sync.client import connect

    return connect(f"ws://127.0.0.1:{process.port}/v2/models/m/stream", compression=None)


def wait_until(what: Any) -> None:
    began = time.monotonic()
    while not what():
        assert time.monotonic() - began < PATIENCE
        time.sleep(0.01)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    put(tmp_path, "m", 1, trained(1))
    return tmp_path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A server that the tests which do not end it share; it has to end well after all of them."""
    root = tmp_path_factory.mktemp("shared")
    put(root, "m", 1, trained(1))
    with Process(root, "--max-body", "200000", "--body-timeout", "5", "--drain-delay", "0") as process:
        yield process
        assert process.end() == 0
        assert [line for line in process.lines if line.get("level") == "error" or line["event"] == "not JSON"] == []


# --- Beginning --------------------------------------------------------------------------------------------------------


def test_what_cannot_begin_says_why(tmp_path: Path) -> None:
    for model, phrase in ((tmp_path / "none.keras", "No such file"), (tmp_path, "found none")):
        with Process(model) as process:
            assert process.popen.wait(PATIENCE) == 2
            process.until("end of log")
            assert phrase in process.lines[-2]["line"]
    put(tmp_path, "m", 1, b"no model")
    with Process(tmp_path) as process:
        assert process.popen.wait(PATIENCE) == 2
        process.until("end of log")
        assert any("model.safetensors" in line.get("line", "") for line in process.lines)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        put(tmp_path, "m", 1, trained(1))
        with Process(tmp_path, "--port", str(taken.getsockname()[1])) as process:
            assert process.popen.wait(PATIENCE) == 2
            process.until("end of log")
            assert "Address already in use" in process.lines[-2]["line"]


# --- The end ----------------------------------------------------------------------------------------------------------


def test_sigterm_ends_in_order(models: Path) -> None:
    with Process(models, "--drain-delay", "60") as process, client_of(process) as http, connect(process) as stream:
        ask(stream, "open")
        ask(stream, "run", data=X[0].tolist())
        assert http.get("/v2/health/ready").status_code == 200
        process.popen.send_signal(signal.SIGTERM)
        process.until("draining")
        # Not ready, and serving all the same.
        assert http.get("/v2/health/ready").json() == {"ready": False}
        assert http.get("/v2/health/live").status_code == 200
        assert answered(http.post("/v2/models/m/infer", json=infer(X)))
        ask(stream, "run", data=X[1].tolist())
        process.popen.send_signal(signal.SIGTERM)  # once more: the delay has been long enough
        event = json.loads(stream.recv(timeout=PATIENCE))
        assert (event["event"], event["stream"]) == ("closed", "a")
        with pytest.raises(Exception, match="1001"):
            stream.recv(timeout=PATIENCE)
        assert process.popen.wait(PATIENCE) == 0
        expected = trained(1).stream()
        expected.run(X[:2].reshape(10, -1))
        assert base64.b64decode(event["snapshot"]) == expected.snapshot()
        assert process.until("ended")["finished"] is True
        assert all(line["event"] != "not JSON" for line in process.lines)


def test_running_calls_are_answered_at_the_end(models: Path) -> None:
    x = inputs(2, 40, 500)
    with Process(
        models, "--drain-delay", "0", "--max-steps", "100000", "--max-json", "16000000", "--max-batch", "1"
    ) as process:
        found = []

        def call() -> None:
            body = infer(x[:, :, :0])
            body["inputs"][0] = {
                "name": "x", "shape": list(x.shape), "datatype": "FP32", "parameters": {"binary_data_size": x.nbytes}
            }  # fmt: skip
            body["parameters"] = {"binary_data_output": True}
            text = json.dumps(body).encode()
            with client_of(process) as http:
                found.append(
                    http.post(
                        "/v2/models/m/infer", content=text + x.tobytes(),
                        headers={"inference-header-content-length": str(len(text))},
                    )
                )  # fmt: skip

        calling = threading.Thread(target=call)
        with client_of(process) as http:
            calling.start()
            wait_until(lambda: 'queue_depth{model="m",version="1"} 1.0' in http.get("/metrics").text)
        process.popen.send_signal(signal.SIGTERM)
        assert process.popen.wait(PATIENCE) == 0
        calling.join(PATIENCE)
        length = int(found[0].headers["inference-header-content-length"])
        assert found[0].content[length:] == trained(1)(x)[0].tobytes()
        # It was on its way when the end was asked for.
        events = [line["event"] for line in process.lines]
        assert events.index("signal") < len(events) - 1 - events[::-1].index("request")


def test_sigint_does_not_wait(models: Path) -> None:
    with Process(models, "--drain-delay", "60") as process:
        process.until("listening")
        began = time.monotonic()
        process.popen.send_signal(signal.SIGINT)
        assert process.popen.wait(PATIENCE) == 0
        assert time.monotonic() - began < 30
    with Process(models, "--drain-delay", "60") as process:
        process.until("listening")
        process.popen.send_signal(signal.SIGTERM)
        process.until("draining")
        process.popen.send_signal(signal.SIGTERM)
        assert process.popen.wait(PATIENCE) == 0
        assert time.monotonic() - began < 60


def test_what_does_not_end_is_cut_off(models: Path) -> None:
    with Process(models, "--drain-delay", "1", "--drain-timeout", "1") as process:
        with socket.create_connection(("127.0.0.1", process.port)) as half:
            half.sendall(b"POST /v2/models/m/infer HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\n{")
            time.sleep(0.3)
            assert process.end() == 1
        assert process.until("ended")["finished"] is False


def test_killed_and_started_again(models: Path) -> None:
    kept, expected = [], trained(1).stream()
    with Process(models) as process, connect(process) as stream:
        ask(stream, "open")
        ask(stream, "run", data=X[0].tolist())
        kept.append(ask(stream, "snapshot")["snapshot"])
        process.popen.kill()
        process.popen.wait(PATIENCE)
    expected.run(X[0])
    with Process(models) as process, connect(process) as stream:
        ask(stream, "open", snapshot=kept[0])
        found = np.array(ask(stream, "run", data=X[1].tolist())["data"], np.float32)
        assert found.tobytes() == expected.run(X[1]).tobytes()


# --- Reloading --------------------------------------------------------------------------------------------------------


def test_files_that_change(models: Path) -> None:
    with Process(models, "--reload-interval", "0.1", "--drain-delay", "0") as process, client_of(process) as http:
        assert answered(http.post("/v2/models/m/infer", json=infer(X)), 1)
        put(models, "m", 2, trained(2))
        process.until("model loaded", 2)
        wait_until(lambda: http.get("/v2/models/m").json()["versions"] == ["1", "2"])
        assert answered(http.post("/v2/models/m/infer", json=infer(X)), 2)
        assert answered(http.post("/v2/models/m/versions/1/infer", json=infer(X)), 1)
        put(models, "m", 2, b"no model")
        failure = process.until("model not loaded")
        assert (failure["level"], failure["model"], failure["version"], failure["kept"]) == ("error", "m", "2", True)
        assert "m/2/model.safetensors" in failure["reason"]
        assert answered(http.post("/v2/models/m/infer", json=infer(X)), 2)
        text = http.get("/metrics").text
        assert 'lstm_engine_model_stale{model="m",version="2"} 1.0' in text
        assert 'lstm_engine_model_load_failures_total{model="m",version="2"} 1.0' in text
        (state,) = [one for one in http.post("/v2/repository/index").json() if one["version"] == "2"]
        assert state["state"] == "READY"
        assert "model.safetensors" in state["reason"]
        put(models, "m", 2, trained(3))
        process.until("model swapped")
        assert answered(http.post("/v2/models/m/infer", json=infer(X)), 3)
        assert 'lstm_engine_model_stale{model="m",version="2"} 0.0' in http.get("/metrics").text
        assert process.end() == 0


# --- Hostile connections ----------------------------------------------------------------------------------------------


def exchange(process: Process, *parts: bytes) -> bytes:
    """Send bytes, and return all that comes back until the server closes or has said what it had to say."""
    with socket.create_connection(("127.0.0.1", process.port), timeout=PATIENCE) as raw:
        found = b""
        try:
            for part in parts:
                raw.sendall(part)
            while b"\r\n\r\n" not in found:
                received = raw.recv(65_536)
                if not received:
                    break
                found += received
        except (BrokenPipeError, ConnectionResetError):
            pass  # it refused, and did not read the rest
        return found


HEAD = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: h\r\n"


def test_connections_of_every_bad_sort(server: Process) -> None:
    assert b" 413 " in exchange(server, HEAD + b"Content-Length: 99999999999\r\n\r\n")
    assert b" 413 " in exchange(server, HEAD + b"Content-Length: 300000\r\n\r\n", b"x" * 300_000)
    chunk = b"8000\r\n" + b"x" * 0x8000 + b"\r\n"
    assert exchange(server, HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *[chunk] * 40)[9:12] in (b"413", b"")
    assert b" 400 " in exchange(server, HEAD + b"Content-Length: -5\r\n\r\n")
    assert b" 400 " in exchange(server, HEAD + b"Transfer-Encoding: chunked\r\n\r\nzzz\r\n")
    assert b" 400 " in exchange(server, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200))
    assert b" 400 " in exchange(server, HEAD + b"Content-Length: 5\r\n\r\nhello")
    assert b" 404 " in exchange(server, b"GET /v2/models/%00%ff%2e%2e%2fetc HTTP/1.1\r\nHost: h\r\n\r\n")
    upgrade = b"GET /v2/models/m/stream HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    assert b" 400 " in exchange(server, upgrade + b"Sec-WebSocket-Key: short\r\nSec-WebSocket-Version: 13\r\n\r\n")
    # Half a body, and gone; nothing at all, and gone.
    for part in (HEAD + b"Content-Length: 100\r\n\r\n{", b"", b"G"):
        with socket.create_connection(("127.0.0.1", server.port)) as raw:
            raw.sendall(part)
    with client_of(server) as http:
        assert answered(http.post("/v2/models/m/infer", json=infer(X)))


def test_a_body_that_stops(server: Process) -> None:
    began = time.monotonic()
    assert b" 408 " in exchange(server, HEAD + b"Content-Length: 100\r\n\r\n{")
    assert 4 < time.monotonic() - began < 40


def test_a_client_that_leaves_ends_its_call(models: Path) -> None:
    """The one that stays gets its own bits."""
    with Process(models, "--drain-delay", "0", "--max-batch", "1", "--max-steps", "10000000") as process:
        x = inputs(2, 60, 1000)
        head = {"name": "x", "shape": list(x.shape), "datatype": "FP32", "parameters": {"binary_data_size": x.nbytes}}
        text = json.dumps({"inputs": [head], "parameters": {"binary_data_output": True}}).encode()
        headers = f"Content-Length: {len(text) + x.nbytes}\r\nInference-Header-Content-Length: {len(text)}\r\n\r\n"
        with client_of(process) as http:
            with socket.create_connection(("127.0.0.1", process.port)) as raw:
                raw.sendall(HEAD + headers.encode() + text + x.tobytes())
                wait_until(lambda: 'queue_depth{model="m",version="1"} 1.0' in http.get("/metrics").text)
                assert answered(http.post("/v2/models/m/infer", json=infer(X)))
            wait_until(lambda: 'cancelled_total{model="m",version="1"} 1.0' in http.get("/metrics").text)
            assert 'queue_depth{model="m",version="1"} 0.0' in http.get("/metrics").text
            assert answered(http.post("/v2/models/m/infer", json=infer(X)))
        assert process.end() == 0


# --- Clients that exist -----------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what the client is made of
def test_the_client_of_triton(server: Process) -> None:
    triton = pytest.importorskip("tritonclient.http")
    with triton.InferenceServerClient(f"127.0.0.1:{server.port}", concurrency=4) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("m")
        assert client.is_model_ready("m", "1")
        assert not client.is_model_ready("n")
        assert client.get_server_metadata()["version"] == le.__version__
        metadata = client.get_model_metadata("m")
        (spec,) = metadata["inputs"]
        assert (spec["name"], spec["datatype"], spec["shape"]) == ("x", "FP32", [-1, -1, 8])
        assert client.get_model_repository_index()[0]["state"] == "READY"
        x = X.copy()
        x[0, 0, 0] = np.nan
        name = metadata["outputs"][0]["name"]
        for sent in (True, False):
            for wanted in (True, False):
                for values in (X, x) if sent else (X,):  # as JSON it writes NaN, which is none
                    tensor = triton.InferInput("x", list(values.shape), "FP32")
                    tensor.set_data_from_numpy(values, binary_data=sent)
                    output = triton.InferRequestedOutput(name, binary_data=wanted)
                    result = client.infer("m", [tensor], outputs=[output], request_id="seven")
                    assert result.get_response()["id"] == "seven"
                    np.testing.assert_array_equal(result.as_numpy(name), trained(1)(values)[0])
        tensor = triton.InferInput("x", list(X.shape), "FP32").set_data_from_numpy(X)
        calls = [client.async_infer("m", [tensor]) for _ in range(20)]
        for call in calls:
            np.testing.assert_array_equal(call.get_result().as_numpy(name), trained(1)(X)[0])
        wrong = triton.InferInput("x", [1, 2, 7], "FP32").set_data_from_numpy(np.zeros((1, 2, 7), np.float32))
        with pytest.raises(triton.InferenceServerException, match=r"expected shape \(batch, time, 8\)") as caught:
            client.infer("m", [wrong])
        assert caught.value.status() == "400"
        with pytest.raises(triton.InferenceServerException, match="streams with a state"):
            client.infer("m", [tensor], sequence_id=3)
        with pytest.raises(triton.InferenceServerException, match="send the body as it is"):
            client.infer("m", [tensor], request_compression_algorithm="gzip")


@pytest.mark.filterwarnings("ignore")  # of what schemathesis is made of
def test_the_openapi_document_is_true(server: Process) -> None:
    """Requests made from the document, right ones and wrong ones, get answers that it knows; none is a fault."""
    schemathesis = pytest.importorskip("schemathesis")
    url = f"http://127.0.0.1:{server.port}"
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    modes = schemathesis.GenerationMode
    # A request that fits the document need not fit a model, which has names and shapes of its own.
    excluded = [schemathesis.checks.positive_data_acceptance]
    counts: Counter[str] = Counter()

    def check(operation: Any, mode: Any) -> None:
        @settings(
            max_examples=15, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def requests(case: Any) -> None:
            if "name" in (case.path_parameters or {}) and counts[operation.label] % 3:
                case.path_parameters["name"] = "m"  # else all would end at an unknown one
            case.call_and_validate(base_url=url, excluded_checks=excluded)
            counts[operation.label] += 1

        requests()

    for found in schema.get_all_operations():
        operation = found.ok()
        check(operation, modes.POSITIVE)
        if operation.body:  # a path that is no text there is none
            check(operation, modes.NEGATIVE)
    assert set(counts) == {
        f"{method.upper()} {path}" for path, methods in schema.raw_schema["paths"].items() for method in methods
    }
    assert sum(counts.values()) > 100
