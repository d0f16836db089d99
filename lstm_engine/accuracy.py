"""What a compute type costs and gains: outputs, time and memory beside those of float32, on the user's own data."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from .description import ModelDescription
from .errors import ShapeError, UnsupportedModelError
from .formats.limits import reading
from .options import COMPUTE_TYPES, NARROW_TYPES, ComputeType
from .verification import OutputError, _outputs, compare, make_golden

if TYPE_CHECKING:
    from .lstm import LSTM
    from .model import Model

__all__ = ["AccuracyReport", "accuracy_report", "fastest", "in_compute_type"]

AnyModel = TypeVar("AnyModel", "Model", "LSTM")

#: Seconds over which each of two models is timed, in turns; at least _ROUNDS times.
_SECONDS: Final = 0.1
_ROUNDS: Final = 3

#: A type with fewer bits must save this part of the time, or it is not taken: less is within what clocks differ by.
_WORTHWHILE: Final = 0.05


@dataclass(frozen=True, slots=True)
class AccuracyReport:
    """A compute type beside float32, on some inputs.

    Parameters
    ----------
    compute_type
        What was compared with float32.
    outputs
        How each output differs from that of float32; of an LSTM y, h and c.
    seconds, float32_seconds
        Time of one pass over the inputs, the best of several.
    memory_bytes, float32_memory_bytes
        As ``memory_bytes()`` of the two.
    """

    compute_type: str
    outputs: tuple[OutputError, ...]
    seconds: float
    float32_seconds: float
    memory_bytes: int
    float32_memory_bytes: int

    @property
    def error(self) -> float:
        """The largest relative L2 error of an output."""
        return max((output.relative_l2 for output in self.outputs), default=0.0)

    @property
    def speed_up(self) -> float:
        """How many times as fast as float32."""
        return self.float32_seconds / self.seconds

    def __str__(self) -> str:
        lines = [f"{self.compute_type} beside float32"]
        lines += [f"  {output}" for output in self.outputs]
        lines.append(
            f"  time: {1e3 * self.seconds:.3g} ms, float32 {1e3 * self.float32_seconds:.3g} ms: "
            f"{self.speed_up:.2f} times as fast"
        )
        lines.append(
            f"  memory: {self.memory_bytes:,} bytes, float32 {self.float32_memory_bytes:,}: "
            f"{self.memory_bytes / self.float32_memory_bytes:.0%}"
        )
        return "\n".join(lines)


def in_compute_type(model: AnyModel, compute_type: ComputeType) -> AnyModel:
    """Return a model that computes the same in another compute type; itself if it is of that type."""
    from .lstm import LSTM

    if model.compute_type == compute_type:
        return model
    if isinstance(model, LSTM):
        return model._in_compute_type(compute_type)
    backend: Any = "auto" if model.backend == "blas" and compute_type in NARROW_TYPES else model.backend
    backend = "auto" if backend == "fused" and compute_type == "float64" else backend
    architecture = model.architecture()
    # What the file was allowed is asked no second time.
    if isinstance(architecture, ModelDescription):
        from .builder import build_model

        with reading(None, allow_nonfinite=True):
            return build_model(architecture, compute_type=compute_type, num_threads=model.num_threads, backend=backend)
    from .onnx.model import OnnxModel, build_onnx_model

    assert isinstance(model, OnnxModel)
    with reading(model._limits, model._allow_nonfinite):
        return build_onnx_model(architecture, compute_type=compute_type, num_threads=model.num_threads, backend=backend)


def accuracy_report(model: AnyModel, x: Any, compute_type: ComputeType | None = None) -> AccuracyReport:
    """Compare a model's compute type, or another one, with float32.

    Parameters
    ----------
    model
        A :class:`~lstm_engine.Model`, or an :class:`~lstm_engine.LSTM` from a zero state.
    x
        Inputs as for its call.
    compute_type
        The type to compare; the model's own if None.

    Raises
    ------
    ShapeError
        If the inputs do not fit, or are empty.
    UnsupportedModelError
        If the compute type is not known, or is float32, which differs from itself by nothing.
    """
    chosen: Any = model.compute_type if compute_type is None else compute_type
    if chosen not in COMPUTE_TYPES or chosen == "float32":
        others = ", ".join(repr(name) for name in COMPUTE_TYPES if name != "float32")
        raise UnsupportedModelError(
            f"compute_type: expected one to compare with float32, {others}, found {chosen!r}; give compute_type="
        )
    return next(iter(_reports(in_compute_type(model, "float32"), (in_compute_type(model, chosen),), x)))


def _reports(plain: Model | LSTM, others: Iterable[Model | LSTM], x: Any) -> Iterable[AccuracyReport]:
    golden = make_golden(plain, x)
    if not all(array.size for array in golden.outputs.values()):
        shapes = ", ".join(f"{name} {array.shape}" for name, array in golden.inputs.items())
        raise ShapeError(f"x: expected inputs that give outputs to compare, found {shapes}; give at least one step")
    for other in others:
        errors = compare(_outputs(other, golden.inputs), golden.outputs)
        times = _seconds(
            lambda other=other: _outputs(other, golden.inputs),  # type: ignore[misc]
            lambda: _outputs(plain, golden.inputs),
        )
        yield AccuracyReport(other.compute_type, tuple(errors), *times, other.memory_bytes(), plain.memory_bytes())


def _seconds(first: Callable[[], Any], second: Callable[[], Any]) -> tuple[float, float]:
    """Return the best time of each, measured in turns so that both see the same machine."""
    best = [float("inf"), float("inf")]
    rounds, end = 0, time.perf_counter() + 2 * _SECONDS
    while rounds < _ROUNDS or time.perf_counter() < end:
        for place, call in enumerate((first, second)):
            start = time.perf_counter()
            call()
            best[place] = min(best[place], time.perf_counter() - start)
        rounds += 1
    return best[0], best[1]


def fastest(model: AnyModel, calibration: Any, max_error: float) -> AnyModel:
    """Return the model in the compute type that is fastest within an error: what ``compute_type="auto"`` means.

    Parameters
    ----------
    model
        In float32.
    calibration
        Inputs as for its call, like those that it will see.
    max_error
        Largest relative L2 error of any output, against float32.

    Raises
    ------
    UnsupportedModelError
        If ``calibration`` is None, or ``max_error`` is no positive number.
    ShapeError
        If the inputs do not fit.
    """
    if calibration is None:
        raise UnsupportedModelError(
            "calibration: expected inputs to measure errors and times with for compute_type 'auto', found None; give "
            "calibration=x, inputs like those that the model will see"
        )
    if isinstance(max_error, bool) or not isinstance(max_error, (int, float)) or not 0.0 < max_error < float("inf"):
        raise UnsupportedModelError(f"max_error: expected a positive number, found {max_error!r}; use 1e-2")
    others: list[Any] = [in_compute_type(model, name) for name in NARROW_TYPES]
    best, share = model, 1.0 - _WORTHWHILE
    for other, report in zip(others, _reports(model, others, calibration), strict=True):
        if report.error <= max_error and report.seconds < share * report.float32_seconds:
            best, share = other, report.seconds / report.float32_seconds
    return best
