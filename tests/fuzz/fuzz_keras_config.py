"""Fuzz the configuration of a Keras model: JSON to layers, weights and a model that is ready to run.

Bytes changed at random seldom make JSON, so the mutations are of the parsed tree.
"""

from __future__ import annotations

import json

from fuzzing import atheris, fixtures, fuzz, mutated_json
from fuzzing import keras_support as made

with atheris.instrument_imports(include=["lstm_engine"]):
    from lstm_engine.builder import build_model
    from lstm_engine.errors import LstmEngineError
    from lstm_engine.formats.keras_zip import read_keras_archive


def sources() -> list[dict[str, bytes]]:
    """Return the members of the recorded archives that load."""
    found = []
    for archive in fixtures("*.keras", 1 << 16):
        try:
            read_keras_archive(archive, "recorded.keras")
        except LstmEngineError:
            continue  # one of the hostile ones
        found.append(made.members_of(archive))
    return found[:: len(found) // 256 + 1]


SOURCES = sources()
CONFIGS = [json.loads(members["config.json"]) for members in SOURCES]


def read(data: bytes) -> None:
    # The first byte chooses the weights, so that a configuration is tried with those it was written for.
    members = SOURCES[data[0] % len(SOURCES)] if data else SOURCES[0]
    build_model(read_keras_archive(made.archive_of({**members, "config.json": data[1:]}), "fuzzed.keras"))


def mutate(data: bytes, most_bytes: int, seed: int) -> bytes:
    return (data[:1] + mutated_json(data[1:], CONFIGS, seed))[:most_bytes]


def seeds() -> list[bytes]:
    compact = (json.dumps(config, separators=(",", ":")).encode() for config in CONFIGS)
    return [bytes([number]) + text for number, text in enumerate(compact) if len(text) < 1 << 14]


if __name__ == "__main__":
    fuzz(read, seeds(), mutate)
