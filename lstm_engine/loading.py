"""``load``: a file to a model, whatever its format."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from .errors import FormatError, UnsupportedModelError
from .formats.limits import Limits, reading
from .model import Model
from .options import Backend, ComputeType, check_options
from .thread_count import NumThreads

__all__ = ["load"]


def load(
    path: str | os.PathLike[str],
    *,
    config: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    compute_type: ComputeType = "float32",
    num_threads: NumThreads = 1,
    backend: Backend = "auto",
    limits: Limits | None = None,
    allow_nonfinite: bool = False,
    verify: bool = False,
    calibration: Any = None,
    max_error: float = 1e-2,
) -> Model:
    """Load a model from a file: its content, not its name, decides how it is read.

    Parameters
    ----------
    path
        A ``.keras`` archive, a legacy ``.h5`` file with a whole Keras model, a ``.h5`` or ``.weights.h5`` file of its
        weights alone (with ``config``), an ``.onnx`` model (needs the package onnx), or what ``model.save`` wrote.
    config
        For a Keras file of weights alone (``save_weights``): the architecture, as the path of a JSON file, as the text
        that ``model.to_json()`` returns, or as that text parsed into a dict.
    compute_type
        ``"float32"`` or ``"float64"``; or, for the products of the LSTMs' gates alone while all else stays float32,
        ``"bfloat16"``, ``"int8"`` or ``"int8_recurrent"`` (int8, but the products of the inputs in float32).
        ``"auto"``: the fastest of these and float32 whose error on ``calibration`` is within ``max_error``.
    num_threads
        Threads of one call, 1 to leave it on the caller's own; ``"auto"``: ``LSTM_ENGINE_NUM_THREADS`` of the
        environment, else ``OMP_NUM_THREADS``, else all CPUs. Never more than the affinity mask and the cgroup allow.
        The threads are made at the first call that is faster with them. The bits do not depend on them.
    backend
        Of the recurrent layers: ``"fused"`` (our kernels), ``"blas"`` (SciPy's BLAS), or ``"auto"``: fused wherever
        this CPU has a vector instruction set that we know, else blas; float64 runs on blas.
    limits
        How much the file may ask for, where that is more than the usual :class:`~lstm_engine.Limits`.
    allow_nonfinite
        Whether weights may be NaN or infinite, which is refused otherwise.
    calibration, max_error
        For ``compute_type="auto"``: inputs as for a call of the model, like those that it will see, and the largest
        relative L2 error of any output against float32. Times are measured here and now, so that a busy machine may
        choose another type; the model's ``compute_type`` tells which, and naming it loads the same again.
    verify
        Whether to run the golden inputs that the file holds, and refuse it unless the golden outputs come out.

    Returns
    -------
    Model
        The model.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    FormatError
        If the file is truncated, damaged or of a format that is not known.
    UnsupportedModelError
        If it is sound but asks for what is not implemented, naming all of it; also for a file of weights without an
        architecture, such as a PyTorch state dict.
    UnsafeFileError
        If the file asks for something that a data file must not do.
    """
    check_options(compute_type, num_threads, backend, calibration)
    with reading(limits, allow_nonfinite):
        if compute_type != "auto":
            return _load(path, config, compute_type, num_threads, backend, verify)
        from .accuracy import fastest

        return fastest(_load(path, config, "float32", num_threads, backend, verify), calibration, max_error)


def _load(
    path: str | os.PathLike[str],
    config: str | os.PathLike[str] | Mapping[str, Any] | None,
    compute_type: ComputeType,
    num_threads: NumThreads,
    backend: Backend,
    verify: bool,
) -> Model:
    from .formats.detect import detect

    found, subject = detect(path), os.fsdecode(path)
    if config is not None and found.kind not in ("keras", "keras-h5"):
        raise UnsupportedModelError(
            f"{subject}: config: expected none but for a Keras file of weights alone, found one for "
            f"{found.phrase}; leave config away"
        )
    if found.kind == "lstm-engine":
        from .saving import load_saved

        return load_saved(path, compute_type=compute_type, num_threads=num_threads, backend=backend, verify=verify)
    if verify:
        raise FormatError(
            f"{subject}: verify: expected a file with golden inputs and outputs, found {found.phrase}; "
            "save the model with model.save(path, golden=x)"
        )
    if found.kind in ("keras", "keras-h5"):
        from .builder import build_model
        from .formats.keras import read_keras

        return build_model(
            read_keras(path, config), compute_type=compute_type, num_threads=num_threads, backend=backend
        )
    if found.kind in ("torch-zip", "torch-legacy", "safetensors"):
        raise UnsupportedModelError(_state_dict_message(subject, found.phrase))
    if found.kind == "onnx":
        from .formats.onnx import read_onnx
        from .onnx.model import build_onnx_model

        return build_onnx_model(read_onnx(path), compute_type=compute_type, num_threads=num_threads, backend=backend)
    raise FormatError(
        f"{subject}: expected a Keras model (.keras or .h5), an ONNX model, or a .safetensors file of model.save, "
        f"found {found.phrase}; export the model again, as one of these"
    )


def _state_dict_message(subject: str, phrase: str) -> str:
    """Say what a file of weights holds, and how to use it."""
    from .formats.torch_lstm import describe_torch_file

    modules = describe_torch_file(subject)
    lstms = [module for module in modules if module.kind in ("LSTM", "LSTMCell")]
    lines = [
        f"{subject}: expected a model with its architecture, found {phrase} of weights: names and numbers, but not how "
        "the layers are connected."
    ]
    if not lstms:
        kinds = sorted({module.kind for module in modules})
        lines.append(f"It holds no LSTM; modules found: {', '.join(kinds) if kinds else 'none'}.")
        return "\n".join(lines)
    lines.append("LSTMs in it:")
    lines += [f"  {module.describe()}" for module in lstms]
    lines.append("Take each by its name, and put a model together with le.Sequential:")
    lines += [f"  le.LSTM.from_torch({subject!r}, prefix={module.name!r})" for module in lstms]
    others = [module for module in modules if module.kind == "Linear"]
    lines += [f"  le.Dense.from_torch({subject!r}, {module.name!r})" for module in others[:20]]
    return "\n".join(lines)
