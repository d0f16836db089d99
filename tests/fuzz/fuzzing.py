"""What the harnesses share: a reader may end in one of our errors or with a result, and in nothing else.

Each harness is a program of its own for libFuzzer by way of atheris::

    python tests/fuzz/fuzz_hdf5.py -max_total_time=600 CORPUS_DIRECTORY

See README.md beside this file.
"""

from __future__ import annotations

import contextlib
import copy
import json
import random
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import atheris

ROOT = Path(__file__).parents[2]
_FOLDERS = (ROOT / "tests" / "fixtures", ROOT / "tests" / "formats")
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "formats")]

# NumPy is not what is looked into, and must be imported before the instrumentation.
import numpy as np  # noqa: E402, F401

with atheris.instrument_imports(include=["lstm_engine"]):
    # The harnesses take the two from here. They import the readers, so they must not be imported before.
    import keras_support  # noqa: F401
    import torch_support  # noqa: F401

    import lstm_engine  # noqa: F401
    from lstm_engine.errors import LstmEngineError
    from lstm_engine.formats import keras_h5, keras_zip, tensor_file, torch_file  # noqa: F401

#: Limits of one run that the promise about hostile files names: five seconds, and memory in proportion to the file.
_DEFAULTS = ("-timeout=5", "-rss_limit_mb=1024", "-max_len=16384", "-print_final_stats=1")


def _corpus(harness: str) -> list[bytes]:
    """Return the inputs that earlier runs of a harness kept, for they reached lines that no other reached."""
    archive = Path(__file__).parent / "corpus" / f"{harness}.tar.xz"
    if not archive.exists():
        return []
    with tarfile.open(archive) as tar:
        return [file.read() for member in tar if (file := tar.extractfile(member)) is not None]


def fuzz(
    read: Callable[[bytes], object],
    seeds: Iterable[bytes],
    mutate: Callable[[bytes, int, int], bytes] | None = None,
) -> None:
    """Feed mutations of ``seeds`` to ``read`` until an exception that is not ours, or the time that was given, ends it.

    Parameters
    ----------
    read
        Reads one file.
    seeds
        Sound files to begin with.
    mutate
        Makes another input from (bytes, most bytes, random number), where libFuzzer's own mutations would seldom make
        any that is worth reading.
    """

    def once(data: bytes) -> None:
        with contextlib.suppress(LstmEngineError):
            read(data)

    with tempfile.TemporaryDirectory() as directory:
        for number, seed in enumerate([*seeds, *_corpus(Path(sys.argv[0]).stem)]):
            Path(directory, f"seed_{number:04d}").write_bytes(seed)
        given = sys.argv[1:]
        # The first directory is where new inputs are kept; without one they are lost. A file is run alone.
        named = [argument for argument in given if not argument.startswith("-")]
        kept = [] if named else [tempfile.mkdtemp(prefix="fuzz_")]
        kept += [] if any(Path(name).is_file() for name in named) else [directory]
        own = {} if mutate is None else {"custom_mutator": mutate}
        atheris.Setup([sys.argv[0], *_DEFAULTS, *given, *kept], once, **own)
        atheris.Fuzz()


def fixtures(pattern: str, most_bytes: int = 1 << 14) -> list[bytes]:
    """Return the recorded files whose names match, the large ones left out: they only slow the fuzzer down."""
    found = [path.read_bytes() for folder in _FOLDERS for path in sorted(folder.rglob(pattern)) if path.is_file()]
    for archive in sorted(path for folder in _FOLDERS for path in folder.rglob("*.tar.xz")):
        with tarfile.open(archive) as opened:
            members = [member for member in opened.getmembers() if fnmatch(member.name, pattern)]
            found += [file.read() for member in members if (file := opened.extractfile(member)) is not None]
    return [data for data in found if len(data) <= most_bytes]


# --- Mutations of JSON: bytes changed at random seldom make any -------------------------------------------------------

#: What may stand in any place.
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 1 << 31, 1 << 63, -(1 << 63), 1 << 200, 0.0, -0.0, 0.5, -1.5, 1e308, 5e-324, "",
    "x", "linear", "LSTM", "Bidirectional", "keras", "keras.layers", "keras.ops", "__lambda__", "float64", "causal",
    "same", [], {}, [[]], [None], [None, None], {"class_name": "LSTM", "config": {}}, {"class_name": "__tensor__"},
    [0, 0, 0],
)  # fmt: skip


def mutated_json(text: bytes, trees: list[Any], seed: int) -> bytes:
    """Change a JSON text in one to four places.

    Parameters
    ----------
    text
        The text; if it is no JSON, one of ``trees`` is taken in its place.
    trees
        Sound values, of which parts are put into others.
    seed
        Decides what is changed.
    """
    chance = random.Random(seed)
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError):
        tree = copy.deepcopy(chance.choice(trees))
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        found = _places(tree, [])
        if not found:
            break
        container, key = chance.choice(found)
        other, other_key = chance.choice(_places(chance.choice(trees), []) if chance.random() < 0.3 else found)
        part = copy.deepcopy(other[other_key])
        match chance.randrange(6):
            case 0:
                del container[key]
            case 1 | 2:
                container[key] = copy.deepcopy(chance.choice(VALUES))
            case 3 | 4:
                container[key] = part
            case _ if isinstance(container, dict):
                container[str(other_key)] = part
            case _:
                container.insert(key, part)
    return json.dumps(tree, separators=(",", ":")).encode()


def _places(tree: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Return all (container, key) in a tree."""
    entries = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in entries:
        found.append((tree, key))
        _places(value, found)
    return found
