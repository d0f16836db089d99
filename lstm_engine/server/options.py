"""Every option of the server: its name, its default, and the reason for it, in one place."""

from __future__ import annotations

import argparse
import dataclasses
import math
import re
from typing import Any, Final

from lstm_engine.errors import ShapeError
from lstm_engine.options import BACKENDS, COMPUTE_TYPES

__all__ = ["NAME", "ServerOptions", "add_arguments", "options_of"]

#: Names of models: what needs no escaping in a URL, a metric or a log.
NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")

_MIB: Final = 1 << 20


def _option(default: Any, help: str, metavar: str = "N", least: float = 1, most: float = math.inf) -> Any:
    """Return a field of :class:`ServerOptions`; a float default makes it a number of seconds."""
    return dataclasses.field(
        default=default, metadata={"help": help, "metavar": metavar, "least": least, "most": most, "choices": None}
    )


def _choice(default: str, help: str, choices: tuple[str, ...]) -> Any:
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """What is served, where, and how much a client may ask for. ``lstm-engine serve --help`` explains each.

    Raises
    ------
    ShapeError
        If a value is not as it must be, naming the option.
    """

    model: str
    name: str | None = _option(
        None, "the model's name where MODEL is a file (default: the file's, without ending)", "NAME"
    )
    host: str = _option("127.0.0.1", "address to listen at; others than this machine reach 0.0.0.0", "ADDRESS")
    port: int = _option(8000, "port to listen at, 0 for any that is free", "PORT", 0, 65_535)

    compute_type: str = _choice("float32", "of every model", COMPUTE_TYPES)
    num_threads: int = _option(1, "threads of one call; rounds of many clients are computed one after the other", "N")
    backend: str = _choice("auto", "of every model", BACKENDS)

    max_batch: int = _option(
        256, "steps that are computed together at most: a few milliseconds, for which the next call waits", "STEPS", 1,
        65_536,
    )  # fmt: skip
    max_delay: float = _option(
        0.001, "how long a call waits for others to join it; a tenth of what a network takes", "SECONDS", 0, 60
    )
    max_queue: int = _option(
        4096, "calls of a model that wait or run at most; more are refused at once with status 503", "CALLS", 1, 1 << 24
    )
    max_streams: int = _option(
        10_000, "open streams of a model at most; memory for their states is set aside at the start", "STREAMS", 1,
        1 << 20,
    )  # fmt: skip

    max_body: int = _option(
        16 * _MIB,
        "bytes of a request's body, of a message, and of the outputs of either at most, and of all messages and all "
        "answers of a WebSocket that are in memory: 65,536 steps of 64 float32 features",
        "BYTES",
        1024,
        1 << 31,
    )
    max_json: int = _option(
        2 * _MIB,
        "bytes of JSON in it at most, and values in a JSON answer at most a 16th of that: no other client is served "
        "while JSON is read or written, some 30 ms for each MB. Binary tensors have no such cost",
        "BYTES",
        1024,
        16 * _MIB,
    )
    max_rank: int = _option(8, "axes of a tensor at most; no layer takes more than 5", "AXES", 1, 32)
    max_steps: int = _option(
        65_536,
        "rows times time steps of a request at most: at 2 to 10 us a step, half a second of one core. Split longer "
        "ones, or use a stream",
        "STEPS",
        1,
        1 << 30,
    )
    max_streams_per_client: int = _option(
        1000, "open streams of one WebSocket at most: a tenth of --max-streams, so that no client takes all", "STREAMS",
        1, 1 << 20,
    )  # fmt: skip
    max_in_flight: int = _option(
        1024, "messages of one WebSocket at most that are not answered; the next is not read before one is", "MESSAGES",
        1, 1 << 20,
    )  # fmt: skip
    body_timeout: float = _option(
        30.0, "how long a client may take to send a request; a slower one gets status 408", "SECONDS", 0.1, 3600
    )

    reload_interval: float = _option(
        2.0, "how often to look for new and changed files, 0 for never. A file is loaded when two looks see the same",
        "SECONDS", 0, 86_400,
    )  # fmt: skip
    drain_delay: float = _option(
        2.0,
        "how long everything is served still after SIGTERM, while /v2/health/ready says no: the time that a load "
        "balancer takes to notice. SIGINT, or a second SIGTERM, ends it",
        "SECONDS",
        0,
        3600,
    )
    drain_timeout: float = _option(
        25.0,
        "how long running calls may take to end after that; then they are cut off and the exit status is 1. Kubernetes "
        "kills 30 seconds after SIGTERM",
        "SECONDS",
        0.1,
        3600,
    )
    log_level: str = _choice(
        "info", "least level of what is logged, as JSON on standard error; debug has health checks too",
        ("debug", "info", "warning", "error"),
    )  # fmt: skip

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, metadata = getattr(self, field.name), field.metadata
            option = f"--{field.name.replace('_', '-')}"
            if metadata.get("choices"):
                if value not in metadata["choices"]:
                    raise ShapeError(f"{option}: expected one of {', '.join(metadata['choices'])}, found {value!r}")
            elif isinstance(field.default, (int, float)):
                _check_number(value, option, field)
        if self.name is not None and not NAME.fullmatch(self.name):
            raise ShapeError(
                f"--name: expected letters, digits, '_', '-' and '.', at most 128 and beginning with none of the last "
                f"two, found {self.name!r}"
            )


def _check_number(value: Any, option: str, field: dataclasses.Field[Any]) -> None:
    whole = isinstance(field.default, int)
    kinds = (int,) if whole else (int, float)
    least, most = field.metadata["least"], field.metadata["most"]
    if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value <= most:
        what = "a whole number" if whole else "seconds"
        bounds = f"of {least:,} or more" if most == math.inf else f"from {least:,} to {most:,}"
        raise ShapeError(f"{option}: expected {what} {bounds}, found {value!r}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add every option to a parser of the command line."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a model file (.keras, .h5, .onnx, or .safetensors as model.save writes it), served as version 1; or a "
        "folder of NAME/VERSION/model.ENDING, with whole numbers for versions",
    )
    for field in dataclasses.fields(ServerOptions):
        if field.name == "model":
            continue
        metadata, default = field.metadata, field.default
        help = metadata["help"] if default is None else f"{metadata['help']} (default: {default})"
        option = f"--{field.name.replace('_', '-')}"
        if metadata["choices"]:
            parser.add_argument(option, choices=metadata["choices"], default=default, help=help)
        else:
            kind = {int: _whole, float: _number}.get(type(default), str)
            parser.add_argument(option, metavar=metadata["metavar"], type=kind, default=default, help=help)


def options_of(namespace: argparse.Namespace) -> ServerOptions:
    """Return the options that a command line gave."""
    return ServerOptions(**{field.name: getattr(namespace, field.name) for field in dataclasses.fields(ServerOptions)})


def _whole(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 12:
        raise argparse.ArgumentTypeError(f"expected a whole number, found {text!r}")
    return int(text)


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"expected a number of seconds, found {text!r}")
    return value
