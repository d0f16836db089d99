"""What ``lstm-engine info`` shows of a file: all that can be said of it, also where the model cannot be run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .errors import FormatError, LstmEngineError, UnsafeFileError, UnsupportedModelError
from .report import LayerReport, Report, WeightReport, array_report

if TYPE_CHECKING:
    from .formats.torch_modules import TorchModule

__all__ = ["describe_file"]

#: Entries of a file that are listed where nothing is known but their names.
_MOST_ENTRIES: Final = 1000


def describe_file(path: str) -> list[str]:
    """Return the lines that describe a file.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    FormatError
        If it is no model, or damaged. A model that cannot be run is none of that.
    """
    from .formats.detect import detect

    found = detect(path)
    shower = _SHOWERS.get(found.kind)
    if shower is None:
        raise FormatError(
            f"{path}: expected a model file (.keras, .h5, .onnx, .pt or .safetensors), found {found.phrase}"
        )
    lines = shower(path)
    return [f"{path}: {found.phrase}, {Path(path).stat().st_size:,} bytes", *lines]


# --- Whole models -----------------------------------------------------------------------------------------------------


def _model_lines(path: str, inspect: Callable[[str], Report]) -> list[str]:
    from .loading import load

    try:
        model = load(path)
    except (UnsupportedModelError, UnsafeFileError) as error:
        try:
            report = inspect(path)
        except LstmEngineError:
            raise error from None  # nothing can be said of such a file but what is wrong with it
        return [*_heading(report), *list(report.lines())[1:], "", "The model cannot be run:", str(error)]
    lines = [*_heading(model.report), ""]
    model.summary(lines.append)
    return [*lines, "", *list(model.report.lines())[1:]]


def _heading(report: Report) -> list[str]:
    framework = {"keras": "Keras"}.get(report.framework, report.framework)
    origin = f"saved by {framework} {report.version}"
    return [f"saved by {report.saved_by}; it was {origin}" if report.saved_by else origin]


def _keras_lines(path: str) -> list[str]:
    return _model_lines(path, _keras_parts)


def _keras_parts(path: str) -> Report:
    """Return what a file of Keras holds without making sense of it: classes, names and arrays."""
    from .formats.content import read_whole
    from .formats.detect import detect
    from .formats.hdf5 import HDF5File
    from .formats.json_text import parse_json
    from .formats.zip_archive import ZipArchive

    data = read_whole(path)
    root: Any = None
    if detect(path).kind == "keras":
        archive = ZipArchive(data, path)
        archive.check()
        metadata = parse_json(bytes(archive.content("metadata.json")), path) if "metadata.json" in archive else {}
        version = metadata.get("keras_version") if isinstance(metadata, dict) else None
        config = parse_json(bytes(archive.content("config.json")), path)
        if "model.weights.h5" in archive:
            root = HDF5File(archive.content("model.weights.h5"), path, len(data)).root
    else:
        root = HDF5File(data, path).root
        version, text = root.text("keras_version"), root.text("model_config")
        config = {} if text is None else parse_json(text, path)
    layers = tuple(islice(_config_layers(config), _MOST_ENTRIES))
    settings = config.get("config") if isinstance(config, dict) else None
    name = settings.get("name", "") if isinstance(settings, dict) else ""
    tensors = () if root is None else tuple(islice(_arrays_in(root), _MOST_ENTRIES))
    return Report(path, "keras", "keras", str(version or "of an unknown version"), str(name), layers, tensors=tensors)


def _config_layers(entry: Any) -> Iterator[LayerReport]:
    """Iterate over the layers that a configuration names, at every depth."""
    config = entry.get("config") if isinstance(entry, dict) else None
    inside = config.get("layers") if isinstance(config, dict) else config
    for layer in inside if isinstance(inside, list) else ():
        settings = layer.get("config") if isinstance(layer, dict) else None
        if isinstance(settings, dict):
            yield LayerReport(
                str(settings.get("name", layer.get("name", "")))[:200], str(layer.get("class_name"))[:200]
            )
            yield from _config_layers(layer)


def _arrays_in(root: Any) -> Iterator[WeightReport]:
    """Iterate over the arrays of an HDF5 file, each group once, for groups may lie in each other."""
    waiting = [(root, name) for name in reversed(root.names())]
    seen = {root.address}
    while waiting:
        group, name = waiting.pop()
        try:
            inner = group.group(name)
        except FormatError:
            inner = None
        path = f"{group.path}/{name}".lstrip("/")
        try:
            if inner is None:
                yield array_report("array", path, group.array(name))
            elif inner.address not in seen:
                seen.add(inner.address)
                waiting += [(inner, below) for below in reversed(inner.names())]
        except UnsupportedModelError:
            yield WeightReport("array", path, (), "of a kind that is not read")


def _onnx_lines(path: str) -> list[str]:
    return _model_lines(path, _onnx_parts)


def _onnx_parts(path: str) -> Report:
    """Return what an ONNX file holds without making sense of it: operators and arrays."""
    from .formats.content import read_whole
    from .formats.onnx import parse_onnx

    proto = parse_onnx(read_whole(path), path)
    layers = tuple(
        LayerReport(node.name or next(iter(node.output), ""), f"{node.domain}.{node.op_type}".lstrip("."))
        for node in proto.graph.node
    )
    tensors = tuple(
        WeightReport("array", array.name, tuple(array.dims), f"type {array.data_type}")
        for array in proto.graph.initializer
    )
    opset = max((entry.version for entry in proto.opset_import if not entry.domain), default=0)
    producer = f"{proto.producer_name or 'an unknown program'} {proto.producer_version}".strip()
    return Report(
        path, "onnx", producer, f"(opset {opset})", proto.graph.name, layers[:_MOST_ENTRIES],
        tensors=tensors[:_MOST_ENTRIES],
    )  # fmt: skip


def _own_lines(path: str) -> list[str]:
    from .formats.own_file import read_own

    def parts(path: str) -> Report:
        from .report import report_of

        return report_of(read_own(path).architecture)

    content = read_own(path)
    golden = content.golden
    held = "none" if golden is None else ", ".join(
        f"{name} {array.shape}" for end in (golden.inputs, golden.outputs) for name, array in end.items()
    )  # fmt: skip
    return [*_model_lines(path, parts), f"computes in {content.compute_type}; golden inputs and outputs: {held}"]


# --- Weights ----------------------------------------------------------------------------------------------------------

#: How a module of PyTorch is loaded, by its kind.
_LOADERS: Final = {
    "LSTM": ("le.LSTM.from_torch",),
    "LSTMCell": ("le.LSTM.from_torch",),
    "Linear": ("le.Dense.from_torch",),
    "Linear or Embedding": ("le.Dense.from_torch", "le.Embedding.from_torch"),
    "GRU": ("le.GRU.from_torch",),
    "GRUCell": ("le.GRU.from_torch",),
    "RNN": ("le.RNN.from_torch",),
    "RNNCell": ("le.RNN.from_torch",),
    "Conv1d": ("le.Conv1d.from_torch",),
    "BatchNorm": ("le.BatchNorm1d.from_torch",),
    "normalization": ("le.LayerNorm.from_torch",),
}


def _torch_lines(path: str) -> list[str]:
    from .formats.tensor_file import read_tensors
    from .formats.torch_modules import find_modules
    from .formats.torch_weight_norm import fold_weight_norm

    file = read_tensors(path)
    modules = find_modules(fold_weight_norm(file))
    shapes = [shape for module in modules for shape in module.shapes.values()]
    parameters = sum(math.prod(shape) for shape in shapes if shape is not None)
    lines = [f"{len(shapes)} tensors, {parameters:,} parameters, in {len(modules)} modules"]
    for module in modules:
        lines += ["", *_module_lines(path, module)]
    if any(module.kind in _LOADERS for module in modules):
        lines += [
            "",
            "The file has weights and no architecture: put the layers together as the model's forward() does,",
            "for instance le.Sequential([lstm, le.LastStep(), head]).",
        ]
    lines += ["", "tensors:", *(f"    {array_report('array', name, array)}" for name, array in file.tensors.items())]
    return [*lines, *(f"    array: {name} cannot be read: {reason}" for name, reason in file.unsupported.items())]


def _module_lines(path: str, module: TorchModule) -> list[str]:
    lines = [module.describe()]
    lines += [f"    {loader}({path!r}, {module.name!r})" for loader in _LOADERS.get(module.kind, ())]
    if module.kind not in _LOADERS:
        shown = {short: "cannot be read" if shape is None else shape for short, shape in module.shapes.items()}
        lines += [f"    {module.tensor(short)}: {what}" for short, what in shown.items()]
    return lines


#: What is shown of a file, by its kind.
_SHOWERS: Final[dict[str, Callable[[str], list[str]]]] = {
    "keras": _keras_lines,
    "keras-h5": _keras_lines,
    "onnx": _onnx_lines,
    "lstm-engine": _own_lines,
    "torch-zip": _torch_lines,
    "torch-legacy": _torch_lines,
    "safetensors": _torch_lines,
}
