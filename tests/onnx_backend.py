"""ONNX's own node suite: the cases, and the small backend that runs them."""

from __future__ import annotations

import functools
import importlib
import pkgutil
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx.backend.base import Backend, BackendRep

from lstm_engine.formats.onnx import read_onnx_bytes
from lstm_engine.onnx.model import OnnxModel, build_onnx_model
from lstm_engine.onnx.table import OPERATORS


class Representation(BackendRep):
    """A model that the suite runs."""

    def __init__(self, model: OnnxModel) -> None:
        self.model = model

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        arrays = [onnx.numpy_helper.to_array(x) if isinstance(x, onnx.TensorProto) else x for x in inputs]
        outputs = self.model(*arrays)
        return outputs if isinstance(outputs, tuple) else (outputs,)


class LstmEngineBackend(Backend):
    """The package as a backend of ONNX."""

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> Representation:
        data = model.SerializeToString()
        return Representation(build_onnx_model(read_onnx_bytes(data, "case"), **kwargs))

    @classmethod
    def supports_device(cls, device: str) -> bool:
        return device == "CPU"


def load_cases(wanted: Callable[[str], bool]) -> dict[str, Any]:
    """Return the node cases by name, of the modules of the suite whose name is ``wanted``."""
    import onnx.backend.test.case.node as suite

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for module in pkgutil.iter_modules(suite.__path__):
            if wanted(module.name):
                importlib.import_module(f"{suite.__name__}.{module.name}")
    return {case.name: case for case in suite._NodeTestCases}


@functools.cache
def recurrent_cases() -> dict[str, Any]:
    """Return the cases of the recurrent operators."""
    cases = load_cases(lambda module: module in ("lstm", "gru", "rnn"))
    return {name: case for name, case in cases.items() if name.split("_")[1] in ("lstm", "gru", "rnn", "simple")}


def operators_of(graph: onnx.GraphProto) -> set[str]:
    """Return the names of all operators of a graph and of the graphs in it."""
    names = {(f"{node.domain}." if node.domain else "") + node.op_type for node in graph.node}
    inner = [attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")]
    return names.union(*map(operators_of, inner))


def is_known(model: onnx.ModelProto) -> bool:
    """Return whether all operators of a model are known."""
    return operators_of(model.graph) <= set(OPERATORS)


@functools.cache
def control_cases() -> dict[str, Any]:
    """Return the cases of the operators that run graphs of their own, those too that are made of them."""
    cases = load_cases(lambda module: module in ("if_", "loop", "rangeop", "affinegrid"))
    return {name: case for name, case in cases.items() if operators_of(case.model.graph) & {"If", "Loop"}}


def check_case(case: Any, **options: Any) -> None:
    """Run a case and compare, as the suite's own runner does."""
    prepared = LstmEngineBackend.prepare(case.model, **options)
    for inputs, wanted in case.data_sets:
        found = prepared.run(inputs)
        assert len(found) == len(wanted)
        for array, reference in zip(found, wanted, strict=True):
            assert_similar(array, reference, case.rtol, case.atol)


def assert_similar(found: Any, wanted: Any, rtol: float, atol: float) -> None:
    assert isinstance(found, np.ndarray)
    reference = onnx.numpy_helper.to_array(wanted) if isinstance(wanted, onnx.TensorProto) else np.asarray(wanted)
    assert (found.dtype, found.shape) == (reference.dtype, reference.shape)
    np.testing.assert_allclose(found, reference, rtol=rtol, atol=atol)
