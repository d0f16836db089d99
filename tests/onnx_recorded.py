"""Exported ONNX models with what the frameworks say: ``NAME.onnx`` and ``NAME.npz`` of ``interop/build_onnx.py``."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import lstm_engine as le

DATA = Path(__file__).parent / "formats" / "data" / "onnx"

#: The recorded writers (``formats/make_onnx_fixtures.py``).
FIXTURES = (
    "keras-tensorflow",
    "keras-tensorflow-loops",
    "keras-torch",
    "tf2onnx",
    "tf2onnx-loops",
    "torch-new",
    "torch-old",
)

#: Largest relative L2 error against a float64 oracle, and against a framework that has none (whose own error is
#: as large as ours).
MAX_ERROR, MAX_DIFFERENCE = 1e-6, 2e-6


def unpacked(writer: str, directory: Path) -> list[Path]:
    """Unpack the recorded models of a writer; return their paths."""
    with tarfile.open(DATA / f"{writer}.tar.xz") as archive:
        archive.extractall(directory, filter="data")
    return sorted(directory.glob("*.onnx"))


def relative_error(found: NDArray[Any], wanted: NDArray[Any]) -> float:
    scale = float(np.linalg.norm(wanted))
    return float(np.linalg.norm(found.astype(np.float64) - wanted)) / (scale or 1.0)


def compare(path: Path, **options: Any) -> list[float]:
    """Load a model, run it on its recorded inputs and return the relative errors of its outputs.

    Raises
    ------
    AssertionError
        If an output has another shape or type, or is further off than it may be.
    """
    model = le.load(path, **options)
    errors = []
    with np.load(path.with_suffix(".npz")) as arrays:
        for run in sorted({name.split("_")[0] for name in arrays.files}):
            listed = {
                kind: [arrays[name] for place in range(20) if (name := f"{run}_{kind}_{place}") in arrays.files]
                for kind in ("input", "output", "oracle")
            }
            found = model(*listed["input"])
            outputs = found if isinstance(found, tuple) else (found,)
            assert len(outputs) == len(listed["output"]) == len(model.outputs)
            for place, (output, wanted) in enumerate(zip(outputs, listed["output"], strict=True)):
                assert output.shape == wanted.shape
                if wanted.dtype.kind != "f":
                    np.testing.assert_array_equal(output, wanted)
                    continue
                if listed["oracle"]:
                    error = relative_error(output, listed["oracle"][place])
                    bound = max(MAX_ERROR, 3 * relative_error(wanted, listed["oracle"][place]))
                else:
                    error, bound = relative_error(output, wanted), MAX_DIFFERENCE
                assert error <= bound, f"{path.name}, run {run}, output {place}: error {error:.2e}, at most {bound:.2e}"
                errors.append(error)
    return errors
