"""Models to files of our own format and back: see :mod:`lstm_engine.formats.own_file` for the format."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .description import LayerDescription, ModelDescription
from .errors import FormatError, LstmEngineError, UnsupportedModelError, raise_together
from .formats.own_file import OwnFile, read_own, write_own
from .options import COMPUTE_TYPES
from .replacement import replacement
from .verification import OutputError, check_golden, golden_errors, golden_tolerance, make_golden

if TYPE_CHECKING:
    from .lstm import LSTM
    from .model import Model
    from .options import Backend, ComputeType
from .thread_count import NumThreads

__all__ = ["golden_subject", "load_lstm", "load_saved", "save", "verify_saved"]


def save(model: Model | LSTM, path: str | os.PathLike[str], *, golden: Any = None, narrow: bool = False) -> None:
    """Save a model, or an LSTM alone; the file appears whole or not at all.

    Parameters
    ----------
    model
        What to save.
    path
        Where to; a file that lies there is replaced.
    golden
        Inputs as for a call, to be kept with the outputs for them; None for none.
    narrow
        Whether float64 weights are rounded to float32.

    Raises
    ------
    UnsupportedModelError
        If the model has something that cannot be saved, naming it.
    OSError
        If the file cannot be written; what lay there is still there then.
    """
    from . import __version__

    content = OwnFile(
        architecture=_architecture(model, __version__),
        compute_type=model.compute_type,
        golden=None if golden is None else make_golden(model, golden),
        writer=f"lstm_engine {__version__}",
    )
    target = Path(path).resolve()
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{os.fsdecode(path)}: expected an existing folder {target.parent}; make it first")
    if target.exists() and not target.is_file():
        raise FormatError(f"{os.fsdecode(path)}: expected a regular file or nothing there, found something else")
    with replacement(target) as file:
        write_own(file, content, narrow=narrow)


def _architecture(model: Model | LSTM, version: str) -> Any:
    from .layers import native
    from .lstm import LSTM

    return native.describe_lstm(model, version) if isinstance(model, LSTM) else model.architecture()


def load_saved(
    path: str | os.PathLike[str],
    *,
    compute_type: ComputeType = "float32",
    num_threads: NumThreads = 1,
    backend: Backend = "auto",
    verify: bool = False,
) -> Model:
    """Load a model from a file of ours.

    Parameters
    ----------
    path
        The file.
    compute_type, num_threads, backend
        As in :func:`lstm_engine.load`.
    verify
        Whether to run its golden inputs and compare.

    Raises
    ------
    FormatError, UnsupportedModelError, UnsafeFileError
        As :func:`lstm_engine.load`.
    """
    from .builder import build_model

    content = read_own(path)
    try:
        model: Model
        if isinstance(content.architecture, ModelDescription):
            _check(content.architecture)
            model = build_model(
                content.architecture, compute_type=compute_type, num_threads=num_threads, backend=backend
            )
        else:
            from .onnx.model import build_onnx_model

            graph = replace(content.architecture, file_bytes=Path(path).stat().st_size)
            model = build_onnx_model(graph, compute_type=compute_type, num_threads=num_threads, backend=backend)
    except LstmEngineError:
        raise
    except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RecursionError) as error:
        # A framework's reader checks a configuration before it is built from; a file that says to be ours was not.
        raise FormatError(f"{os.fsdecode(path)}: its architecture is damaged: {error!r:.300}") from error
    if verify:
        check_golden(golden_subject(model), content.golden, os.fsdecode(path))
    return model


def verify_saved(
    path: str | os.PathLike[str], *, compute_type: ComputeType | None = None, backend: Backend = "auto"
) -> tuple[list[OutputError], float]:
    """Run the golden inputs of a file of ours.

    Parameters
    ----------
    path
        The file.
    compute_type
        What to compute in; None for what computed the golden outputs.
    backend
        As in :func:`lstm_engine.load`.

    Returns
    -------
    errors, tolerance
        How each output differs from the golden one, and the usual tolerance for it.

    Raises
    ------
    FormatError, UnsupportedModelError, UnsafeFileError
        As :func:`lstm_engine.load`; also if it has no golden outputs, or of another model.
    """
    subject = os.fsdecode(path)
    content = read_own(path)
    if content.golden is None:
        raise FormatError(
            f"{subject}: expected golden inputs and outputs in the file, found none; give outputs with --against, or "
            "save the model with model.save(path, golden=x)"
        )
    chosen: Any = compute_type or content.golden.compute_type
    if chosen not in COMPUTE_TYPES:
        raise FormatError(
            f"{subject}: golden: expected a compute_type of {', '.join(COMPUTE_TYPES)}, found {chosen!r:.60}; save the "
            "model again, or give one"
        )
    model: Model | LSTM
    if _is_lstm(content.architecture):
        model = load_lstm(path, {"compute_type": chosen, "backend": backend}, verify=False)
    else:
        model = load_saved(path, compute_type=chosen, backend=backend)
    try:
        return golden_errors(model, content.golden), golden_tolerance(model, content.golden)
    except FormatError as error:
        raise FormatError(f"{subject}: {error}") from None


def _is_lstm(architecture: Any) -> bool:
    return isinstance(architecture, ModelDescription) and architecture.format == "lstm"


def golden_subject(model: Model) -> Model | LSTM:
    """Return what the golden outputs of a loaded model are of: the LSTM itself if it was saved alone."""
    if _is_lstm(model.architecture()):
        lstm: LSTM = model.layers[0].lstm  # type: ignore[attr-defined]
        return lstm
    return model


def load_lstm(path: str | os.PathLike[str], options: dict[str, Any], *, verify: bool) -> LSTM:
    """Load an LSTM that was saved alone.

    Parameters
    ----------
    path
        The file.
    options
        Of the LSTM.
    verify
        Whether to run its golden inputs and compare.
    """
    from .layers import native

    content = read_own(path)
    subject = os.fsdecode(path)
    if not isinstance(content.architecture, ModelDescription):
        raise UnsupportedModelError(f"{subject}: expected an LSTM alone, found a whole model; use le.load")
    try:
        lstm = native.build_lstm(content.architecture, options)
    except UnsupportedModelError as error:
        raise UnsupportedModelError(f"{subject}: {error}") from None
    except LstmEngineError as error:
        raise FormatError(f"{subject}: {error}") from None
    if verify:
        check_golden(lstm, content.golden, subject)
    return lstm


def _check(architecture: ModelDescription) -> None:
    """Raise FormatError for what only a damaged or made-up architecture has; the builder checks the rest."""
    problems = [
        f"expected one layer of the name {name!r:.100}, found {count}"
        for name, count in Counter(layer.name for layer in architecture.layers).items()
        if count > 1
    ]
    for end in ("input", "output"):
        tensors, names = getattr(architecture, f"{end}s"), getattr(architecture, f"{end}_names")
        if not tensors or len(names) not in (0, len(tensors)):
            problems.append(f"expected {end}s with a name each, found {len(tensors)} and {len(names)} names")
    raise_together(FormatError, architecture.source, problems)
    if architecture.framework == "keras":
        _check_keras_weights(architecture)


def _check_keras_weights(architecture: ModelDescription) -> None:
    """Compare the weights with the configuration, as when the file of Keras was read."""
    from .formats.keras_layers import KerasLayer, Problems
    from .formats.keras_weights import check_shapes

    def as_read(layer: LayerDescription) -> KerasLayer:
        inner = {role: as_read(part) for role, part in layer.inner.items()}
        config = dict(layer.config)
        return KerasLayer(layer.name, layer.class_name, config, inner=inner, weights=dict(layer.weights))

    problems = Problems(architecture.source)
    check_shapes([as_read(layer) for layer in architecture.layers], problems)
    problems.raise_if_any()
