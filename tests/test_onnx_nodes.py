"""ONNX's own node suite, and the recurrent nodes against the equations of ONNX's operator document."""

from __future__ import annotations

import importlib
import pkgutil
import warnings
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

onnx = pytest.importorskip("onnx")

import onnx_oracle  # noqa: E402
from onnx_backend import (  # noqa: E402
    LstmEngineBackend,
    check_case,
    control_cases,
    is_known,
    load_cases,
    recurrent_cases,
)

from lstm_engine.errors import FormatError, LstmEngineError, UnsupportedModelError  # noqa: E402
from lstm_engine.onnx.recurrent import RECURRENT_OPERATORS  # noqa: E402
from lstm_engine.onnx.table import OPERATORS  # noqa: E402

#: Modules of the suite that take seconds to make their cases; the interop run has them.
SLOW_MODULES = ("averagepool", "lppool", "maxpool")

#: Cases of known operators that are refused for something else than an element type, with what the message says.
REFUSED = {
    "batchnorm_epsilon_training_mode": "more than 1 outputs",
    "batchnorm_example_training_mode": "more than 1 outputs",
    "dequantizelinear_blocked": "block_size",
    "identity_opt": "expected a tensor",
    "identity_sequence": "expected a tensor",
    "maxpool_with_argmax_2d_precomputed_pads": "more than 1 outputs",
    "maxpool_with_argmax_2d_precomputed_strides": "more than 1 outputs",
    "not_2d": "from 7 to",
    "not_3d": "from 7 to",
    "not_4d": "from 7 to",
    "quantizelinear_blocked_asymmetric": "block_size",
    "quantizelinear_blocked_symmetric": "block_size",
    "training_dropout": "training_mode",
    "training_dropout_default": "training_mode",
    "training_dropout_default_mask": "training_mode",
    "training_dropout_mask": "training_mode",
    "training_dropout_zero_ratio": "training_mode",
    "training_dropout_zero_ratio_mask": "training_mode",
}

#: Its reference rounds every step of the softmax to half precision; here it is rounded once.
ROUNDED_OTHERWISE = {"attention_4d_causal_fp16_expanded"}


@pytest.mark.parametrize("name", sorted(recurrent_cases()))
def test_recurrent_case(name: str) -> None:
    check_case(recurrent_cases()[name])


def test_every_recurrent_case_is_there() -> None:
    found = {name.split("_")[1] for name in recurrent_cases()}
    assert found >= {"lstm", "gru", "simple", "rnn"}
    assert len(recurrent_cases()) >= 15


#: Cases of If and Loop whose values are no tensors, or of a type that no value here has.
OF_OTHER_TYPES = {"if_seq", "if_opt", "loop13_seq", "loop16_seq_none", "range_bfloat16_type_positive_delta_expanded"}


@pytest.mark.parametrize("name", sorted(control_cases()))
def test_control_case(name: str) -> None:
    case = control_cases()[name]
    if name.removeprefix("test_") in OF_OTHER_TYPES:
        with pytest.raises(
            UnsupportedModelError, match=r"expected a tensor, found a sequence|elements of type BFLOAT16"
        ):
            check_case(case)
    else:
        check_case(case)


def test_every_control_case_is_there() -> None:
    assert {f"test_{name}" for name in ("if", "loop11", *OF_OTHER_TYPES)} <= set(control_cases())


def check_all(cases: dict[str, Any], least: int) -> None:
    """Run all cases whose operators are known: each passes, or is refused by name."""
    passed, failures = 0, []
    for name, case in cases.items():
        if not is_known(case.model):
            continue
        short = name.removeprefix("test_")
        try:
            check_case(case)
            passed += 1
            if short in REFUSED:
                failures.append(f"{name}: is not refused any more")
        except UnsupportedModelError as error:
            if "elements of type" not in str(error) and REFUSED.get(short, "!") not in str(error):
                failures.append(f"{name}: {error}")
        except (LstmEngineError, AssertionError) as error:
            if short not in ROUNDED_OTHERWISE:
                failures.append(f"{name}: {error}")
    assert not failures, "\n".join(failures)
    assert passed >= least


def test_every_quick_case_of_the_operators_that_are_known() -> None:
    check_all(load_cases(lambda module: module not in SLOW_MODULES), 950)


@pytest.mark.interop
def test_every_case_of_the_operators_that_are_known() -> None:
    check_all(load_cases(lambda module: True), 1000)


def test_what_stands_in_the_table_are_operators_of_onnx() -> None:
    known = {schema.name for schema in onnx.defs.get_all_schemas_with_history()}
    assert {name for name in OPERATORS if "." not in name} <= known
    assert set(RECURRENT_OPERATORS) <= set(OPERATORS)


# --- Recurrent nodes against the document's equations -----------------------------------------------------------------

ACTIVATIONS = ("Relu", "Tanh", "Sigmoid", "Affine", "LeakyRelu", "ThresholdedRelu", "ScaledTanh", "HardSigmoid", "Elu",
               "Softsign", "Softplus")  # fmt: skip


@st.composite
def recurrent_nodes(draw: Any) -> dict[str, Any]:
    """Draw an operator with attributes, and the sizes and optional inputs of a run."""
    operator = draw(st.sampled_from(["LSTM", "GRU", "RNN"]))
    direction = draw(st.sampled_from(["forward", "reverse", "bidirectional"]))
    directions = 2 if direction == "bidirectional" else 1
    count = {"LSTM": 3, "GRU": 2, "RNN": 1}[operator] * directions
    attributes: dict[str, Any] = {"direction": direction, "layout": draw(st.sampled_from([0, 1]))}
    if draw(st.booleans()):
        names = draw(st.lists(st.sampled_from(ACTIVATIONS), min_size=count, max_size=count))
        attributes["activations"] = names
        if draw(st.booleans()) or {"Affine", "ScaledTanh"} & set(names):
            alphas = [name for name in names if name in onnx_oracle.TAKES_ALPHA]
            betas = [name for name in names if name in onnx_oracle.TAKES_BETA]
            numbers = st.sampled_from([0.1, 0.25, 0.5, 0.75, 0.9])
            if alphas:
                attributes["activation_alpha"] = draw(st.lists(numbers, min_size=len(alphas), max_size=len(alphas)))
            if betas:
                attributes["activation_beta"] = draw(st.lists(numbers, min_size=len(betas), max_size=len(betas)))
    if draw(st.booleans()):
        attributes["clip"] = draw(st.sampled_from([0.25, 0.5, 1.0]))
    if operator == "LSTM":
        attributes["input_forget"] = draw(st.sampled_from([0, 1]))
    if operator == "GRU":
        attributes["linear_before_reset"] = draw(st.sampled_from([0, 1]))
    optional = ["B", "sequence_lens", "initial_h"] + (["initial_c", "P"] if operator == "LSTM" else [])
    return {
        "operator": operator,
        "attributes": attributes,
        "sizes": draw(st.tuples(*(st.integers(1, 4) for _ in range(4)))),
        "given": draw(st.sets(st.sampled_from(optional))),
        "constant": draw(st.booleans()),
        "seed": draw(st.integers(0, 1000)),
    }


@settings(max_examples=150)
@given(recurrent_nodes())
def test_recurrent_nodes_follow_the_equations(node: dict[str, Any]) -> None:
    model, inputs, values = onnx_oracle.recurrent_model(**node)
    prepared = LstmEngineBackend.prepare(model)
    found = prepared.run(inputs)
    wanted = onnx_oracle.run(node["operator"], node["attributes"], values)
    assert len(found) == len(wanted)
    for array, reference in zip(found, wanted, strict=True):
        assert array.shape == reference.shape
        np.testing.assert_allclose(array, reference, rtol=2e-5, atol=2e-5)
    double = LstmEngineBackend.prepare(model, compute_type="float64").run(inputs)
    for array, reference in zip(double, wanted, strict=True):
        assert array.dtype == np.float64
        np.testing.assert_allclose(array, reference, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("opset", range(7, 23))
@pytest.mark.parametrize("operator", ["LSTM", "GRU", "RNN"])
def test_recurrent_nodes_of_every_opset(operator: str, opset: int) -> None:
    model, inputs, values = onnx_oracle.recurrent_model(operator, {}, (4, 2, 3, 5), {"B"}, True, opset, opset=opset)
    found = LstmEngineBackend.prepare(model).run(inputs)
    for array, reference in zip(found, onnx_oracle.run(operator, {}, values), strict=True):
        np.testing.assert_allclose(array, reference, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-14), (np.float16, 2e-3)])
@pytest.mark.parametrize("operator", ["LSTM", "GRU", "RNN"])
def test_recurrent_nodes_of_other_float_types(operator: str, dtype: Any, tolerance: float) -> None:
    attributes = {"direction": "bidirectional", "layout": 1}
    model, inputs, values = onnx_oracle.recurrent_model(operator, attributes, (4, 3, 2, 5), {"B"}, True, 3)
    for tensor in model.graph.initializer:
        converted = onnx.numpy_helper.to_array(tensor).astype(dtype)
        tensor.CopyFrom(onnx.numpy_helper.from_array(converted, tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    found = LstmEngineBackend.prepare(model).run([x.astype(dtype) for x in inputs])
    for array, reference in zip(found, onnx_oracle.run(operator, attributes, values), strict=True):
        assert array.dtype == dtype
        np.testing.assert_allclose(array, reference, rtol=0, atol=tolerance)


X = np.arange(24, dtype=np.float32).reshape(2, 3, 4) / 8

#: What older versions of operators say by attributes: opset, operator, attributes, what comes out for X.
OLDER = [
    (9, "Slice", {"starts": [1, -3], "ends": [9, -1], "axes": [1, 2]}, X[:, 1:, -3:-1]),
    (9, "Slice", {"starts": [1], "ends": [2]}, X[1:2]),
    (11, "Unsqueeze", {"axes": [0, 4]}, X[None, ..., None]),
    (11, "ReduceSum", {"axes": [1], "keepdims": 0}, X.sum(1)),
    (13, "ReduceMean", {"axes": [-1]}, X.mean(-1, keepdims=True)),
    (17, "ReduceMax", {}, X.max(keepdims=True)),
    (10, "Clip", {"min": 0.5, "max": 2.0}, X.clip(0.5, 2)),
    (10, "Pad", {"pads": [0, 0, 1, 0, 0, 2], "value": 7.0}, np.pad(X, [(0, 0), (0, 0), (1, 2)], constant_values=7)),
    (10, "Pad", {"pads": [0, -1, 0, 0, 0, 0]}, X[:, 1:]),
    (9, "TopK", {"k": 2}, X[..., :1:-1]),
    (11, "Softmax", {}, np.exp(X) / np.exp(X).sum((1, 2), keepdims=True)),
    (11, "LogSoftmax", {"axis": 2}, X - np.log(np.exp(X).sum(-1, keepdims=True))),
    (11, "Flatten", {"axis": -1}, X.reshape(6, 4)),
    (7, "Dropout", {"ratio": 0.5}, X),
]


@pytest.mark.parametrize(("opset", "operator", "attributes", "wanted"), OLDER, ids=lambda value: str(value)[:30])
def test_older_versions_of_operators(opset: int, operator: str, attributes: dict[str, Any], wanted: Any) -> None:
    outputs = ["y", "places"] if operator == "TopK" else ["y"]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(operator, ["x"], outputs, **attributes)],
        "older",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, X.shape)],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, wanted.shape)],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    onnx.checker.check_model(model, full_check=True)
    (found,) = LstmEngineBackend.prepare(model).run([X])
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({"activations": ["Sigmoid", "Tanh"]}, "expected 3 names"),
        ({"activations": ["Sigmoid", "Tanh", "Mish"]}, "'Mish' are not supported"),
        ({"activations": ["Affine", "Tanh", "Tanh"]}, "no default"),
        ({"activation_alpha": [0.5]}, "cannot tell which belong"),
        ({"clip": -1.0}, "expected a positive number"),
        ({"direction": "backward"}, "expected one of forward, reverse, bidirectional"),
        ({"layout": 2}, "expected 0 or 1"),
        ({"hidden_size": 7}, "'hidden_size': expected 3, found 7"),
        ({"zoneout": 0.1}, "'zoneout'"),
        ({"clip": 1}, "expected a float"),
    ],
)
def test_attributes_that_do_not_fit_are_named(attributes: dict[str, Any], said: str) -> None:
    model, inputs, _ = onnx_oracle.recurrent_model("LSTM", attributes, (2, 2, 2, 3), {"B"}, True, 0, hidden=False)
    with pytest.raises((FormatError, UnsupportedModelError), match=r"LSTM") as caught:
        LstmEngineBackend.prepare(model).run(inputs)
    assert said in str(caught.value)


def test_modules_of_the_suite_are_still_called_so() -> None:
    import onnx.backend.test.case.node as suite

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert set(SLOW_MODULES) <= {module.name for module in pkgutil.iter_modules(suite.__path__)}
        assert importlib.import_module(f"{suite.__name__}.lstm")
