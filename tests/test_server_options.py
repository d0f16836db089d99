"""The options of ``lstm-engine serve``: every one is explained, and a wrong one is named before anything happens."""

# ruff: noqa: F811 (a fixture is imported, and then named as an argument)

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from typing import Any

import pytest
from cli_support import Run, refused, run  # noqa: F401

import lstm_engine as le
from lstm_engine.server.options import ServerOptions


def test_help_explains_every_option(run: Run) -> None:
    status, out, err = run("serve", "--help")
    assert (status, err) == (0, "")
    assert "pip install" not in out
    for field in dataclasses.fields(ServerOptions):
        if field.name != "model":
            assert f"--{field.name.replace('_', '-')} " in out
            assert field.default is None or f"(default: {field.default})" in " ".join(out.split())


def test_help_needs_nothing_that_a_server_is_made_of() -> None:
    from test_import_time import python

    program = (
        "import sys, lstm_engine.cli as cli\n"
        "try: cli.main(['serve', '--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'fastapi', 'uvicorn', 'asyncio', 'h5py'} & set(sys.modules)))"
    )
    assert python(program).splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("options", "phrase"),
    [
        ({"port": 65_536}, "--port: expected a whole number from 0 to 65,535, found 65536"),
        ({"port": True}, "--port"),
        ({"max_batch": 0}, "--max-batch: expected a whole number from 1"),
        ({"max_delay": float("nan")}, "--max-delay: expected seconds from 0"),
        ({"max_steps": 1.5}, "--max-steps: expected a whole number"),
        ({"drain_timeout": 0}, "--drain-timeout"),
        ({"compute_type": "float16"}, "--compute-type: expected one of float32"),
        ({"name": "a/b"}, "--name: expected letters"),
        ({"name": "..", "port": 1}, "--name: expected letters"),
    ],
)
def test_options_that_are_refused(options: dict[str, Any], phrase: str) -> None:
    with pytest.raises(le.ShapeError, match=phrase):
        ServerOptions(model="m", **options)


@pytest.mark.parametrize(
    "arguments",
    [("serve",), ("serve", "m", "--port", "many"), ("serve", "m", "--port", "-1"), ("serve", "m", "--max-delay", "inf"),
     ("serve", "m", "--backend", "gpu")],
)  # fmt: skip
def test_command_lines_that_are_refused(run: Run, arguments: tuple[str, ...]) -> None:
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("usage: ")


def test_a_missing_extra_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in ("fastapi", "prometheus_client") else find(name)
    )
    result = run("serve", "model.keras")
    refused(result, "fastapi", "prometheus-client", "pip install lstm-engine[serve]")
    assert "lstm_engine.server.api" not in sys.modules
