"""Compare with what a framework recorded: the models that ``interop/build_*.py`` write.

The process that compares has no framework in it. A model's error is the root mean square, over its outputs, of their
relative L2 errors against the float64 oracle. Each model has to meet two bounds:

* its error is below 1e-6;
* its error is below three times the framework's own float32 error against the same oracle. Where the framework's error
  is below one float32 epsilon, 2**-23, one epsilon is taken for it: an output that was only rounded once is off by up
  to half of that, and on outputs of a few values a framework is at times nearer than its arithmetic can promise.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import lstm_engine as le

LARGEST_ERROR = 1e-6
LARGEST_RATIO = 3.0
FLOOR = 2.0**-23


@dataclass(frozen=True)
class Outcome:
    """How one model compares: the errors of its outputs, ours and the framework's."""

    model: str
    our_errors: tuple[float, ...]
    framework_errors: tuple[float, ...]

    @property
    def ours(self) -> float:
        """Our error."""
        return float(np.sqrt(np.mean(np.square(self.our_errors))))

    @property
    def framework(self) -> float:
        """The framework's error."""
        return float(np.sqrt(np.mean(np.square(self.framework_errors))))

    @property
    def ratio(self) -> float:
        """Our error over the framework's, or over the floor."""
        return self.ours / max(self.framework, FLOOR)

    @property
    def is_right(self) -> bool:
        """Whether both bounds are met; not if the error is NaN."""
        return self.ours < LARGEST_ERROR and self.ratio < LARGEST_RATIO

    def __str__(self) -> str:
        each = ", ".join(f"{error:.1e}" for error in self.our_errors)
        return f"{self.model}: error {self.ours:.2e} ({each}), the framework's {self.framework:.2e}"


def error(found: np.ndarray, oracle: np.ndarray) -> float:
    """Return the relative L2 error; the absolute one where the oracle is zero."""
    assert found.shape == oracle.shape, f"shape {found.shape}, expected {oracle.shape}"
    norm = float(np.linalg.norm(oracle))
    return float(np.linalg.norm(found.astype(np.float64) - oracle)) / (norm or 1.0)


def outcome(name: str, found: tuple[np.ndarray, ...], arrays: dict[str, np.ndarray]) -> Outcome:
    """Compare the outputs of one model."""
    count = sum(key.startswith("oracle_") for key in arrays)
    assert len(found) == count, f"{name}: expected {count} outputs, found {len(found)}"
    ours, framework = [], []
    for place, output in enumerate(found):
        oracle, recorded = arrays[f"oracle_{place}"], arrays[f"output_{place}"]
        assert output.dtype == np.float32, f"{name}: expected float32, found {output.dtype}"
        assert np.isfinite(oracle).all(), f"{name}, output {place}: the oracle is not finite"
        ours.append(error(output, oracle))
        framework.append(error(recorded, oracle))
    return Outcome(name, tuple(ours), tuple(framework))


def load_arrays(directory: Path, name: str) -> dict[str, np.ndarray]:
    """Return what was recorded of a model."""
    with np.load(directory / f"{name}.npz") as file:
        return dict(file)


def compare_keras(directory: Path, entry: dict[str, Any], **options: Any) -> Outcome:
    """Load a whole Keras model and compare its outputs."""
    arrays = load_arrays(directory, entry["name"])
    model = le.load(directory / entry["file"], **options)
    count = sum(key.startswith("input_") for key in arrays)
    keywords = {"mask": arrays["mask"]} if "mask" in arrays else {}
    found = model(*(arrays[f"input_{place}"] for place in range(count)), **keywords)
    return outcome(entry["name"], found if isinstance(found, tuple) else (found,), arrays)


def compare_torch(directory: Path, entry: dict[str, Any], **options: Any) -> Outcome:
    """Load an LSTM from a PyTorch file and compare y, h and c."""
    arrays = load_arrays(directory, entry["name"])
    lstm = le.LSTM.from_torch(directory / entry["file"], entry["prefix"] or None, **options)
    state = (arrays["h0"], arrays["c0"]) if "h0" in arrays else None
    y, (h, c) = lstm(arrays["x"], state, lengths=arrays.get("lengths"), time_major=entry["time_major"])
    return outcome(entry["name"], (y, h, c), arrays)


def manifest(directory: Path) -> dict[str, Any]:
    """Return the manifest that a builder wrote: package, version and the models."""
    (file,) = directory.glob("*.json")
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def compare_all(directory: Path, **options: Any) -> tuple[list[Outcome], list[str]]:
    """Compare every model of a directory; return the outcomes, and what failed altogether."""
    record = manifest(directory)
    compare = compare_torch if record["package"] == "torch" else compare_keras
    results, failures = [], []
    for entry in record["models"]:
        try:
            results.append(compare(directory, entry, **options))
        except (le.LstmEngineError, AssertionError) as failure:
            failures.append(f"{entry['file']} {entry.get('layers', entry.get('module'))}: {failure!r}")
    return results, failures


def summary(title: str, models: int, results: list[Outcome]) -> str:
    """Return a line with the counts and the worst errors."""
    worst = max(results, key=lambda result: result.ours)
    nearest = max(results, key=lambda result: result.ratio)
    median = np.median([(result.ours, result.framework) for result in results], axis=0)
    return (
        f"{title}: {sum(result.is_right for result in results)} of {models} models agree; "
        f"worst error {worst.ours:.2e} ({worst.model}), worst ratio to the framework's {nearest.ratio:.2f} "
        f"({nearest.model}); median error {median[0]:.1e}, the framework's {median[1]:.1e}"
    )


def layer_counts(directory: Path) -> Counter[str]:
    """Return how often each layer class stands in the models of a directory."""
    counts: Counter[str] = Counter()
    for entry in manifest(directory)["models"]:
        counts.update(entry["layers"])
    return counts
