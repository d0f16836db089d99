"""Load services with a closed loop of many streams, and check every reply: ``python -m bench.serving``.

Each stream asks for its next step as soon as it has the last one. Every reply is compared, bit for bit, with the same
stream run alone on the same engine. The exit status is 1 if a reply was lost or belongs to another stream.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import gc
import importlib.metadata
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .clients import Answers, closed_loops
from .report import machine, text
from .services import SERVICES
from .workload import Workload

_LATEST = Path(__file__).resolve().parents[1] / "results" / "serving.json"


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.serving", description=__doc__)
    parser.add_argument("--services", default=",".join(SERVICES), help="of batcher, onnxruntime, serve, fastapi")
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60.0, help="for each service (default: 60)")
    parser.add_argument("--features", type=int, default=64)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--output", type=Path, default=_LATEST, help="the file of results")
    parser.add_argument("--add", action="store_true", help="keep what the file has of other services and sizes")
    options = parser.parse_args(arguments)
    options.services = options.services.split(",")
    if unknown := set(options.services) - set(SERVICES):
        parser.error(f"--services: expected some of {', '.join(SERVICES)}, found {', '.join(sorted(unknown))}")
    return options


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def _load(name: str, workload: Workload, streams: int, seconds: float) -> Answers:
    async with SERVICES[name][2](workload, streams) as ask:
        gc.collect()
        gc.disable()  # thousands of live objects of ours, none in a cycle
        try:
            return await closed_loops(ask, streams, seconds)
        finally:
            gc.enable()


def measure(name: str, workload: Workload, streams: int, seconds: float) -> dict[str, Any]:
    """Return what stands in the file of results for a service."""
    engine, words, _ = SERVICES[name]
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        answers = runner.run(_load(name, workload, streams, seconds))
    return {
        "service": name,
        "engine": engine,
        "words": words,
        "streams": streams,
        "features": workload.features,
        "hidden": workload.hidden,
        "seconds": round(answers.elapsed, 3),
        "replies": sum(map(len, answers.replies)),
        "steps_a_second": len(answers.seconds) / answers.elapsed,
        **answers.percentiles(),
        "lost": answers.lost,
        "crossed": answers.crossed(workload, engine),
    }


def main(arguments: list[str] | None = None) -> int:
    """Run the services one after the other; print, and leave in a file, what came of it."""
    options = _arguments(arguments)
    workload = Workload(options.features, options.hidden)
    document: dict[str, Any] = {"runs": []}
    if options.add and options.output.exists():
        document = json.loads(options.output.read_text(encoding="utf-8"))
    document["machine"] = machine()
    packages = ("numpy", "onnxruntime", "fastapi", "uvicorn", "websockets", "uvloop")
    document["versions"] = {name: importlib.metadata.version(name) for name in packages}
    document["date"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    bad = 0
    for name in options.services:
        run = measure(name, workload, options.streams, options.seconds)
        same = ("service", "streams", "features", "hidden")
        kept = [one for one in document["runs"] if any(one[key] != run[key] for key in same)]
        document["runs"] = [*kept, run]
        bad += run["lost"] + run["crossed"]
        print(text([run]), flush=True)
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
