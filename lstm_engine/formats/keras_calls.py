"""The calls of a Functional Keras model: which tensors each use of a layer is given.

Keras 3 writes a call as ``{"args": [...], "kwargs": {...}}`` with tensors as ``__keras_tensor__`` objects; Keras 2 as a
list of ``[layer, call, output, kwargs]``. Both become :class:`~lstm_engine.description.Call`: the main input (or
the list of inputs that a merging layer takes) as ``inputs``, every other tensor under the name of its argument.
"""

from __future__ import annotations

from typing import Any, Final, TypeGuard

from lstm_engine.description import Call, TensorRef

from .keras_layers import MERGES, OPERATIONS, KerasLayer, Problems, shown

__all__ = ["flat_tensors", "parse_calls"]

#: Arguments after the input, in the order in which Keras takes them by position.
_ARGUMENTS: Final[dict[str, tuple[str, ...]]] = {
    "BatchNormalization": ("training", "mask"),
    "Bidirectional": ("initial_state", "mask", "training"),
    "GlobalAveragePooling1D": ("mask",),
    "LSTM": ("initial_state", "mask", "training"),
    "Softmax": ("mask",),
    "TimeDistributed": ("training", "mask"),
}
_OTHER_ARGUMENTS: Final = ("training",)

#: Names by which the main input can be given.
_INPUT_NAMES: Final = ("inputs", "sequences")


class _UnreadableError(Exception):
    """A call that cannot be read; ``damaged`` says whether the file is at fault."""

    def __init__(self, problem: str, *, damaged: bool = True) -> None:
        super().__init__(problem)
        self.damaged = damaged


def parse_calls(layer: KerasLayer, nodes: Any, problems: Problems) -> None:
    """Read ``inbound_nodes`` of a layer into ``layer.calls``.

    Constant arguments of an operation (the 0 of ``not_equal(x, 0)``) go into ``layer.config`` under the argument's
    name.

    Parameters
    ----------
    layer
        The layer.
    nodes
        The value of ``inbound_nodes``.
    problems
        Where problems are noted.
    """
    if not isinstance(nodes, list):
        problems.damaged.append(f"layer {shown(layer.name)}: expected a list of inbound_nodes, found {shown(nodes)}")
        return
    for number, node in enumerate(nodes):
        try:
            if layer.operation:
                call = _operation_call(layer, node)
            elif isinstance(node, dict):
                call = _call_of_keras_3(layer, node)
            else:
                call = _call_of_keras_2(layer, node)
        except _UnreadableError as error:
            kind = problems.damaged if error.damaged else problems.unsupported
            kind.append(f"layer {shown(layer.name)} ({layer.class_name}), call {number}: {error}")
            continue
        if layer.class_name not in MERGES and not layer.operation and len(call.inputs) != 1:
            problems.damaged.append(
                f"layer {shown(layer.name)} ({layer.class_name}), call {number}: expected one input, "
                f"found {len(call.inputs)}"
            )
        layer.calls.append(call)


def flat_tensors(value: Any) -> list[TensorRef]:
    """Return the tensors of ``input_layers`` or ``output_layers`` in the order in which Keras flattens them.

    Parameters
    ----------
    value
        ``[layer, call, output]``, or lists and dicts of these; Keras takes the values of a dict by sorted key.

    Raises
    ------
    ValueError
        If it is none of these.
    """
    if _is_reference(value):
        return [_reference(value)]
    if isinstance(value, dict):
        value = [value[key] for key in sorted(value)]
    if not isinstance(value, list):
        raise ValueError(f"expected [layer, call, output], found {shown(value)}")
    return [tensor for part in value for tensor in flat_tensors(part)]


# --- Keras 3 ----------------------------------------------------------------------------------------------------------


def _call_of_keras_3(layer: KerasLayer, node: dict[str, Any]) -> Call:
    given = _bound(layer, node, ("inputs", *_ARGUMENTS.get(layer.class_name, _OTHER_ARGUMENTS)))
    inputs = [given.pop(name) for name in _INPUT_NAMES if name in given]
    if len(inputs) != 1:
        raise _UnreadableError(f"expected one argument 'inputs', found {len(inputs)}")
    return Call(_tensors(inputs[0]), _keywords(layer, given, _tensors))


def _operation_call(layer: KerasLayer, node: Any) -> Call:
    if not isinstance(node, dict):
        raise _UnreadableError(f"expected a call with args and kwargs, found {shown(node)}")
    inputs: tuple[TensorRef, ...] = ()
    for name, value in _bound(layer, node, OPERATIONS[layer.class_name]).items():
        if not isinstance(value, dict | list):
            if layer.calls and layer.config.get(name) != value:
                raise _UnreadableError(f"its argument {name!r} differs between its calls", damaged=False)
            layer.config[name] = value
        else:
            inputs += _tensors(value)
    if not inputs:
        raise _UnreadableError("expected a tensor among its arguments, found none")
    return Call(inputs)


def _bound(layer: KerasLayer, node: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Return the arguments of a call by name."""
    args, kwargs = node.get("args"), node.get("kwargs", {})
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        raise _UnreadableError(f"expected lists of args and kwargs, found {shown(args)} and {shown(kwargs)}")
    if len(args) > len(names):
        raise _UnreadableError(
            f"{layer.class_name} with {len(args)} positional arguments is not supported; give them by name",
            damaged=False,
        )
    given = dict(zip(names, args, strict=False))
    for name, value in kwargs.items():
        if name in given:
            raise _UnreadableError(f"expected its argument {shown(name)} once, found it twice")
        given[name] = value
    return given


def _tensors(value: Any) -> tuple[TensorRef, ...]:
    """Return one tensor, or a list of them, as Keras 3 writes them."""
    if isinstance(value, list):
        return tuple(tensor for part in value for tensor in _tensors(part))
    if not isinstance(value, dict) or value.get("class_name") != "__keras_tensor__":
        kind = value.get("class_name", "a dict of tensors") if isinstance(value, dict) else value
        raise _UnreadableError(
            f"expected tensors of the graph, found {shown(kind)}; this is not supported", damaged=False
        )
    config = value.get("config")
    history = config.get("keras_history") if isinstance(config, dict) else None
    if not _is_reference(history):
        raise _UnreadableError(f"expected keras_history to be [layer, call, output], found {shown(history)}")
    return (_reference(history),)


# --- Keras 2 ----------------------------------------------------------------------------------------------------------


def _call_of_keras_2(layer: KerasLayer, node: Any) -> Call:
    if not isinstance(node, list):
        raise _UnreadableError(f"expected a list of [layer, call, output, kwargs], found {shown(node)}")
    # A layer whose input is one tensor and not a list may be written without the outer list.
    entries = [node] if node and isinstance(node[0], str) else node
    inputs: list[TensorRef] = []
    keywords: dict[str, Any] = {}
    for entry in entries:
        if isinstance(entry, list) and entry and entry[0] == "_CONSTANT_VALUE":
            raise _UnreadableError("a constant as input is not supported; make it an input of the model", damaged=False)
        if not isinstance(entry, list) or not 3 <= len(entry) <= 4 or not _is_reference(entry[:3]):
            raise _UnreadableError(f"expected [layer, call, output, kwargs], found {shown(entry)}")
        inputs.append(_reference(entry[:3]))
        extra = entry[3] if len(entry) == 4 else {}
        if not isinstance(extra, dict) or (extra and keywords and extra != keywords):
            raise _UnreadableError(f"expected the same kwargs with each input, found {shown(extra)}")
        keywords = extra or keywords
    if layer.class_name in ("LSTM", "Bidirectional") and len(inputs) > 1:
        # Keras 2 gives the initial state as further inputs.
        others = _keywords(layer, keywords, _tensors_of_keras_2)
        if "initial_state" in others:
            raise _UnreadableError("expected one initial state, found two")
        return Call((inputs[0],), {"initial_state": tuple(inputs[1:]), **others})
    return Call(tuple(inputs), _keywords(layer, keywords, _tensors_of_keras_2))


def _tensors_of_keras_2(value: Any) -> tuple[TensorRef, ...]:
    try:
        return tuple(flat_tensors(value))
    except ValueError as error:
        raise _UnreadableError(str(error), damaged=False) from None


# --- Both -------------------------------------------------------------------------------------------------------------


def _keywords(layer: KerasLayer, given: dict[str, Any], tensors: Any) -> dict[str, tuple[TensorRef, ...]]:
    """Return the arguments beside the input that are tensors; refuse what would change the result."""
    known = _ARGUMENTS.get(layer.class_name, _OTHER_ARGUMENTS)
    keywords = {}
    for name, value in given.items():
        if value is None or value == []:
            continue
        if name == "training":
            if value is not False:
                raise _UnreadableError(
                    "it is called with training=True, so that its output is random or depends on the batch; "
                    "expected a call without",
                    damaged=False,
                )
        elif name in known:
            keywords[name] = tensors(value)
        else:
            raise _UnreadableError(f"its argument {shown(name)} is not supported", damaged=False)
    return keywords


def _is_reference(value: Any) -> TypeGuard[list[Any]]:
    return (
        isinstance(value, list)
        and len(value) == 3
        and isinstance(value[0], str)
        and all(isinstance(number, int) and not isinstance(number, bool) for number in value[1:])
    )


def _reference(value: list[Any]) -> TensorRef:
    return TensorRef(value[0], value[1], value[2])
