"""Outputs compared with what they should be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from .arrays import as_plain_array
from .errors import FormatError, ShapeError

if TYPE_CHECKING:
    from .formats.own_file import Golden
    from .lstm import LSTM
    from .model import Model

__all__ = ["TOLERANCES", "OutputError", "check_golden", "compare", "golden_errors", "golden_tolerance", "make_golden"]

#: Largest relative L2 error of golden outputs, by the compute type: what the rounding of another CPU's BLAS may do.
#: The fused backend's own bits are the same everywhere; a tolerance of 0 asks for that. Those of the narrow types are
#: what usual models have against float32, and bfloat16 on one CPU against another.
TOLERANCES: Final = {"float32": 1e-6, "float64": 1e-13, "bfloat16": 1e-2, "int8": 3e-2, "int8_recurrent": 1e-2}


@dataclass(frozen=True, slots=True)
class OutputError:
    """How one output differs from the expected one.

    Parameters
    ----------
    name
        The output's name.
    max_abs
        Largest absolute difference; NaN where only one of the two has a number.
    relative_l2
        Norm of the difference over that of the expected output; the norm of the difference itself where that is zero.
    """

    name: str
    max_abs: float
    relative_l2: float

    def within(self, tolerance: float) -> bool:
        """Return whether the relative L2 error is at most ``tolerance``, and a number."""
        return self.relative_l2 <= tolerance

    def __str__(self) -> str:
        return f"{self.name}: max abs error {self.max_abs:.3g}, relative L2 error {self.relative_l2:.3g}"


def compare(found: Mapping[str, NDArray[Any]], expected: Mapping[str, NDArray[Any]]) -> list[OutputError]:
    """Compare outputs by name; values that are alike, NaN and infinity included, differ by nothing.

    Raises
    ------
    ShapeError
        If an expected output is not there, or of another shape.
    """
    errors = []
    for name, wanted in expected.items():
        if name not in found:
            raise ShapeError(f"{name}: expected one of the outputs {', '.join(found)}")
        array = found[name]
        if array.shape != wanted.shape:
            raise ShapeError(f"{name}: expected shape {wanted.shape}, found {array.shape}")
        left, right = array.astype(np.float64), wanted.astype(np.float64)
        with np.errstate(all="ignore"):
            alike = (left == right) | (np.isnan(left) & np.isnan(right))
            difference = np.where(alike, 0.0, left - right)
            norm = float(np.linalg.norm(np.where(alike & ~np.isfinite(right), 0.0, right)))
            error = float(np.linalg.norm(difference)) / (norm or 1.0)
        errors.append(OutputError(name, float(np.max(np.abs(difference), initial=0.0)), error))
    return errors


def make_golden(model: Model | LSTM, x: Any) -> Golden:
    """Return inputs as a model takes them, and its outputs for them.

    Parameters
    ----------
    model
        A :class:`~lstm_engine.Model`, or an :class:`~lstm_engine.LSTM` from a zero state.
    x
        As for its call.
    """
    from .formats.own_file import Golden
    from .lstm import LSTM

    if isinstance(model, LSTM):
        inputs = {"x": as_plain_array(x, "x")}
    else:
        inputs = {
            spec.name: as_plain_array(value, spec.name)
            for spec, value in zip(model.inputs, model._arguments.gathered((x,)), strict=True)
        }
    return Golden(inputs, _outputs(model, inputs), model.compute_type, model.backend)


def golden_errors(model: Model | LSTM, golden: Golden | None) -> list[OutputError]:
    """Run a model on golden inputs and compare.

    Raises
    ------
    FormatError
        If there are none, or they are not those of this model.
    """
    if golden is None:
        raise FormatError("expected golden inputs and outputs, found none; save the model with golden=x to have them")
    try:
        return compare(_outputs(model, golden.inputs), golden.outputs)
    except ShapeError as error:
        raise FormatError(f"its golden inputs and outputs do not fit the model: {error}") from None


def check_golden(model: Model | LSTM, golden: Golden | None, subject: str) -> None:
    """Raise FormatError, naming ``subject``, unless the golden outputs come out within the usual tolerance."""
    try:
        errors = golden_errors(model, golden)
    except FormatError as error:
        raise FormatError(f"{subject}: {error}") from None
    assert golden is not None
    bound = golden_tolerance(model, golden)
    wrong = [str(error) for error in errors if not error.within(bound)]
    if wrong:
        raise FormatError(
            f"{subject}: expected the golden outputs that the file holds to within {bound:.3g}, found "
            f"{'; '.join(wrong)}; the file is damaged, or this build computes wrongly"
        )


def golden_tolerance(model: Model | LSTM, golden: Golden) -> float:
    """Return the usual tolerance of golden outputs: that of the coarser of the two compute types."""
    if model.compute_type == golden.compute_type != "bfloat16":
        # In int8 the bits are the same everywhere, too.
        return TOLERANCES["float64" if model.compute_type == "float64" else "float32"]
    return max(TOLERANCES.get(kind, TOLERANCES["float32"]) for kind in (model.compute_type, golden.compute_type))


def _outputs(model: Model | LSTM, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    from .lstm import LSTM

    if isinstance(model, LSTM):
        y, (h, c) = model(inputs["x"]) if set(inputs) == {"x"} else ((), ((), ()))
        arrays = {f"y{place or ''}": part for place, part in enumerate(y)} if isinstance(y, tuple) else {"y": y}
        return {**arrays, "h": h, "c": c}
    result = model.predict(dict(inputs))
    outputs = result if isinstance(result, tuple) else (result,)
    return {spec.name: array for spec, array in zip(model.outputs, outputs, strict=True)}
