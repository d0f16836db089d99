"""Load files from strangers in a process of its own, with a limit on its address space and on the time of each load.

    python guarded.py corpus FILE...
        load each file
    python guarded.py damage SEED CUTS FLIPS TRIED FILE...
        load each file cut off at each CUTSth multiple of 64 bytes, and with each FLIPSth byte of its first 4 KB
        changed; or, if TRIED is not empty, with each byte that is not in that file yet with what stands around it

Prints one JSON object for each load (corpus) or file (damage). A load that takes longer than five seconds ends the
process by a signal; one that wants more memory than allowed, or does what a file of data must not have done, is
reported with the name of the exception. tests/formats/test_attacks.py and test_damage.py start it.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

import lstm_engine as le
from lstm_engine.formats.detect import detect

with contextlib.suppress(ImportError):
    import onnx  # noqa: F401 - it takes more address space than any file may

SECONDS = 5

#: The two sequences of which the LSTM of the corpus is known to make 0.0063931582 and 0.9693934616.
SEQUENCES = np.array([[0, 0.5, 0.25, 1], [1, 0.5, 0.25, 1]], "f4")[:, :, None]

#: Beginnings of the names of audit events that no file may lead to.
FORBIDDEN = (
    "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.putenv", "os.remove", "os.rename", "os.mkdir",
    "os.link", "os.symlink", "subprocess.", "socket.", "urllib.", "http.", "ftplib.",
    "shutil.", "tempfile.", "webbrowser.", "ctypes.", "pickle.find_class", "marshal.loads.data", "mmap.",
)  # fmt: skip

#: Modules that files of the corpus name, and that nothing here would import by itself.
NAMED = {"evil", "nt", "runpy", "webbrowser", "pip", "torch", "keras", "keras_evil", "tensorflow"}

#: The file that is being loaded, if any, and those beside it that it may name.
_loading: list[str] = []

Loader = Callable[[str], Any]


class ForbiddenError(BaseException):
    """A file has led to an event that it must not lead to; not an Exception, so that no reader takes it for damage."""


def audit(event: str, arguments: tuple[Any, ...]) -> None:
    """Refuse what only a file can have asked for."""
    if not _loading:
        return
    if event == "open" and not str(arguments[0]).endswith((*_loading, ".py", ".pyc", ".so")):
        raise ForbiddenError(f"open {arguments[0]}")
    if event == "import" and arguments[0].partition(".")[0] in NAMED:
        raise ForbiddenError(f"import {arguments[0]}")
    if event.startswith(FORBIDDEN) and not (event.startswith("mmap.") and _loading[0].endswith(".safetensors")):
        raise ForbiddenError(f"{event} {arguments}"[:200])


def load(path: str) -> Any:
    """Load a hostile file with the loader that is meant for it."""
    if path.endswith((".pt", ".safetensors")):
        return le.LSTM.from_torch(path)
    return le.load(path)


def verified(path: str) -> Any:
    return le.load(path, verify=True)


def loader_of(path: str) -> Loader:
    """Return what a sound file is loaded with; so are its damaged kin, whatever they look like."""
    kind = detect(path).kind
    if kind == "lstm-engine":
        return verified
    if kind not in ("keras", "keras-h5", "onnx"):
        return le.LSTM.from_torch
    beside = Path(path).with_name(Path(path).name.partition(".")[0] + ".json")
    if kind != "keras-h5" or not beside.exists():
        return le.load
    try:
        le.load(path)
    except le.UnsupportedModelError as error:
        if "weights alone" in str(error):
            config = json.loads(beside.read_text(encoding="utf-8"))
            return lambda name: le.load(name, config=config)
    return le.load


def outcome(path: str, *, use: bool, load: Loader = load, beside: Sequence[str] = ()) -> dict[str, Any]:
    """Return how loading a file ends: the error's class and message, or what the model computes."""
    # Of the processor's time: a busy machine is no reason to fail. By its own signal, which ends the process at once.
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    _loading.extend((path, *beside))
    try:
        model = load(path)
    except BaseException as error:
        kind = type(error).__name__
        return {
            "file": Path(path).name,
            "ours": isinstance(error, le.LstmEngineError),
            "error": kind,
            "message": str(error),
        }
    finally:
        _loading.clear()
        signal.setitimer(signal.ITIMER_PROF, 0)
    found: dict[str, Any] = {"file": Path(path).name, "ours": True, "error": None}
    if use:
        y = model(SEQUENCES)
        found["last"] = np.asarray(y[0] if isinstance(y, tuple) else y)[:, -1].ravel().tolist()
    return found


def taken_bytes() -> int:
    """Return how much address space the process has taken."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def allow(bytes_in_all: int) -> None:
    """Let the process take so much address space from now on."""
    # AddressSanitizer's shadow takes terabytes of it.
    if "asan" not in os.environ.get("LD_PRELOAD", ""):
        resource.setrlimit(resource.RLIMIT_AS, (bytes_in_all, resource.RLIM_INFINITY))


def corpus(files: list[str]) -> None:
    allow(taken_bytes() + (128 << 20))
    for path in files:
        print(json.dumps(outcome(path, use=Path(path).name.startswith("y_"))), flush=True)


def untried(data: bytes, tried: set[bytes]) -> list[int]:
    """Return the places in the first 4 KB that are not among ``tried`` with the 8 bytes on either side; add them."""
    places = []
    for place in range(min(4096, len(data))):
        around = blake2b(data[max(0, place - 8) : place + 9], digest_size=8).digest()
        if around not in tried:
            tried.add(around)
            places.append(place)
    return places


def damaged(data: bytes, seed: int, cuts: int, flips: int, places: list[int] | None) -> Any:
    """Iterate over (what was done, damaged bytes): cut off at every 64th byte, overwritten in the first 4 KB."""
    chance = random.Random(seed)
    for end in range(chance.randrange(cuts) * 64, len(data), 64 * cuts):
        yield f"cut at {end}", data[:end]
    for place in range(chance.randrange(flips), min(4096, len(data)), flips) if places is None else places:
        new = data[place] ^ chance.choice((1 << chance.randrange(8), 0xFF))
        yield f"byte {place} set to {new}", data[:place] + bytes([new]) + data[place + 1 :]


def damage(seed: int, cuts: int, flips: int, kept: str, files: list[str]) -> None:
    places: dict[str, list[int]] = {}
    if kept:
        known = Path(kept).read_bytes() if Path(kept).exists() else b""
        tried = {known[begin : begin + 8] for begin in range(0, len(known), 8)}
        for path in files:
            data = Path(path).read_bytes()
            # The few large ones, of many layers, take longest to load, and are of the same parts again and again.
            places[path] = untried(data, tried)[:: 16 if len(data) > 1 << 18 else 1]
        Path(kept).write_bytes(b"".join(tried))
    # Everything that is imported late is imported now, so that it does not count as the damaged file's memory.
    loaders = {path: loader_of(path) for path in files}
    shards = {path: [str(one) for one in Path(path).parent.iterdir()] for path in files if path.endswith(".index.json")}
    for path in files:
        outcome(path, use=False, load=loaders[path], beside=shards.get(path, ()))
    before = taken_bytes()
    for path in files:
        data = Path(path).read_bytes()
        allow(before + 4 * len(data) + (64 << 20))
        ends: dict[str, int] = {}
        bad = []
        # A disk would take most of the time.
        with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as directory:
            target = Path(directory, "damaged" + Path(path).suffix)
            beside = [shutil.copy(shard, directory) for shard in shards.get(path, ()) if shard != path]
            for done, changed in damaged(data, seed, cuts, flips, places.get(path)):
                print(f"# {path}: {done}", file=sys.stderr, flush=True)
                target.write_bytes(changed)
                found = outcome(str(target), use=False, load=loaders[path], beside=beside)
                ends[found["error"] or "loaded"] = ends.get(found["error"] or "loaded", 0) + 1
                if not found["ours"]:
                    bad.append(f"{done}: {found['error']}: {found['message']}")
        print(json.dumps({"file": path, "ends": ends, "bad": bad}), flush=True)


def main(arguments: list[str]) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.addaudithook(audit)
    if arguments[0] == "corpus":
        corpus(arguments[1:])
    else:
        damage(*map(int, arguments[1:4]), arguments[4], arguments[5:])


if __name__ == "__main__":
    main(sys.argv[1:])
