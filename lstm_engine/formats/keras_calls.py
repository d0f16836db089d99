"""The calls of a Functional Keras model: which tensors each use of a layer is given.

Keras 3 writes a call as ``{"args": [...], "kwargs": {...}}`` with tensors as ``__keras_tensor__`` objects; Keras 2 as a
list of ``[layer, call, output, kwargs]``. Both become :class:`~lstm_engine.description.Call`: the main input (or
the list of inputs that a merging layer takes) as ``inputs``, every other tensor under the name of its argument.
"""

from __future__ import annotations

from typing import Any, Final, TypeGuard

from lstm_engine.description import Call, TensorRef

from .keras_layers import ATTENTION, MERGES, OPERATIONS, RECURRENT, KerasLayer, Problems, shown

__all__ = ["flat_tensors", "parse_calls"]

#: Arguments after the input, in the order in which Keras takes them by position.
_ARGUMENTS: Final[dict[str, tuple[str, ...]]] = {
    **dict.fromkeys(ATTENTION, ("mask", "training", "return_attention_scores", "use_causal_mask")),
    "BatchNormalization": ("training", "mask"),
    **dict.fromkeys(("Bidirectional", *RECURRENT), ("initial_state", "mask", "training")),
    "Functional": ("training", "mask"),
    "GlobalAveragePooling1D": ("mask",),
    "Model": ("training", "mask"),
    "Sequential": ("training", "mask"),
    "Softmax": ("mask",),
    "TimeDistributed": ("training", "mask"),
}
_OTHER_ARGUMENTS: Final = ("training",)

#: Arguments of a MultiHeadAttention layer in Keras's order, and those of them that may be tensors.
_HEADS_ARGUMENTS: Final = (
    *("query", "value", "key", "query_mask", "value_mask", "key_mask", "attention_mask"),
    *("return_attention_scores", "training", "use_causal_mask"),
)
_HEADS_TENSORS: Final = ("query", "value", "key", "attention_mask")

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
            elif isinstance(node, dict) and "args" in node:
                call = _call_of_keras_3(layer, node)
            else:
                call = _call_of_keras_2(layer, node)
        except _UnreadableError as error:
            kind = problems.damaged if error.damaged else problems.unsupported
            kind.append(f"layer {shown(layer.name)} ({layer.class_name}), call {number}: {error}")
            continue
        wanted = 1 if layer.model is None else len(layer.model.inputs)
        several = layer.class_name in MERGES | ATTENTION
        if not layer.operation and (not call.inputs if several else len(call.inputs) != wanted):
            problems.damaged.append(
                f"layer {shown(layer.name)} ({layer.class_name}), call {number}: expected "
                f"{'one input' if wanted == 1 else f'{wanted} inputs'}, found {len(call.inputs)}"
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
    if layer.class_name == "MultiHeadAttention":
        given = _bound(layer, node, _HEADS_ARGUMENTS)
    else:
        given = _bound(layer, node, ("inputs", *_ARGUMENTS.get(layer.class_name, _OTHER_ARGUMENTS)))
    if layer.class_name in ATTENTION:
        return _attention_call(layer, given, _tensors)
    inputs = [given.pop(name) for name in _INPUT_NAMES if name in given]
    if len(inputs) != 1:
        raise _UnreadableError(f"expected one argument 'inputs', found {len(inputs)}")
    parts = inputs if layer.model is None else _parts(layer, inputs[0])
    return Call(tuple(tensor for part in parts for tensor in _tensors(part)), _keywords(layer, given, _tensors))


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
    if not isinstance(node, list) and layer.model is None:
        raise _UnreadableError(f"expected a list of [layer, call, output, kwargs], found {shown(node)}")
    # A layer whose input is one tensor and not a list may be written without the outer list.
    entries = _parts(layer, node) if layer.model is not None else [node] if node and isinstance(node[0], str) else node
    stateful = layer.class_name in {"Bidirectional", *RECURRENT}
    inputs: list[TensorRef] = []
    keywords: dict[str, Any] = {}
    for entry in _flat(entries) if stateful else entries:
        if isinstance(entry, list) and entry and entry[0] == "_CONSTANT_VALUE":
            raise _UnreadableError("a constant as input is not supported; make it an input of the model", damaged=False)
        if not isinstance(entry, list) or not 3 <= len(entry) <= 4 or not _is_reference(entry[:3]):
            raise _UnreadableError(f"expected [layer, call, output, kwargs], found {shown(entry)}")
        inputs.append(_reference(entry[:3]))
        extra = entry[3] if len(entry) == 4 else {}
        if not isinstance(extra, dict) or (extra and keywords and extra != keywords):
            raise _UnreadableError(f"expected the same kwargs with each input, found {shown(extra)}")
        keywords = extra or keywords
    if layer.class_name in ATTENTION:
        first = "query" if layer.class_name == "MultiHeadAttention" else "inputs"
        return _attention_call(layer, {first: tuple(inputs), **keywords}, _tensors_of_keras_2)
    if stateful and len(inputs) > 1:
        # Keras 2 gives the initial state as further inputs, and a Bidirectional a second time by name.
        others = _keywords(layer, keywords, _tensors_of_keras_2)
        if others.setdefault("initial_state", tuple(inputs[1:])) != tuple(inputs[1:]):
            raise _UnreadableError("expected one initial state, found two that differ")
        return Call((inputs[0],), others)
    return Call(tuple(inputs), _keywords(layer, keywords, _tensors_of_keras_2))


def _flat(entry: Any) -> list[Any]:
    """Return what the lists in lists hold that stacked cells have for their states."""
    if not isinstance(entry, list) or (entry and isinstance(entry[0], str)):
        return [entry]
    return [part for inner in entry for part in _flat(inner)]


def _tensors_of_keras_2(value: Any) -> tuple[TensorRef, ...]:
    try:
        return tuple(flat_tensors(value))
    except ValueError as error:
        raise _UnreadableError(str(error), damaged=False) from None


# --- Both -------------------------------------------------------------------------------------------------------------


def _attention_call(layer: KerasLayer, given: dict[str, Any], tensors: Any) -> Call:
    """Return a call of an attention layer: its tensors as inputs, the masks that it is given under their names.

    What they are, and what the call says beside them, goes into ``layer.config``: ``call_arguments`` names the inputs.
    """
    found: dict[str, tuple[TensorRef, ...]] = {}
    masks = {name: given.pop(name, None) for name in ("query_mask", "value_mask", "key_mask")}
    if layer.class_name == "MultiHeadAttention":
        for name in _HEADS_TENSORS:
            if (value := given.pop(name, None)) is not None:
                found[name] = value if isinstance(value, tuple) else tensors(value)
    else:
        value = given.pop("inputs", ())
        inputs = value if isinstance(value, tuple) else tensors(value)
        found = {name: (tensor,) for name, tensor in zip(_HEADS_TENSORS, inputs, strict=False)}
        # A mask of the key is not looked at.
        mask = given.pop("mask", None) or []
        if len(inputs) > 3 or not isinstance(mask, list) or len(mask) > 3:
            raise _UnreadableError(f"expected a query, a value and a key, found {len(inputs)} inputs and {shown(mask)}")
        masks |= dict(zip(("query_mask", "value_mask"), mask, strict=False))
    if not {"query", "value"} <= found.keys() or any(len(group) != 1 for group in found.values()):
        raise _UnreadableError(f"expected one query, one value and at most one key, found {', '.join(found) or 'none'}")
    settings: dict[str, Any] = {"call_arguments": list(found)}
    for name in ("return_attention_scores", "use_causal_mask"):
        settings[name] = given.pop(name, None) or False
        if settings[name] is not True and settings[name] is not False:
            raise _UnreadableError(f"expected its argument {name!r} to be true or false, found {shown(settings[name])}")
    _keywords(layer, given, tensors)
    keywords = {name: tensors(value) for name, value in masks.items() if value is not None}
    if any(len(group) != 1 for group in keywords.values()):
        raise _UnreadableError("expected one mask for each of its inputs, found several")
    if layer.calls and any(layer.config.get(name) != value for name, value in settings.items()):
        raise _UnreadableError("its arguments differ between its calls", damaged=False)
    layer.config.update(settings)
    return Call(tuple(tensor for group in found.values() for tensor in group), keywords)


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
        elif name == "mask" and layer.model is not None:
            masks = enumerate(_parts(layer, value))
            keywords.update({f"mask {place}": tensors(mask) for place, mask in masks if mask is not None})
        elif name in known:
            keywords[name] = tensors(value)
        else:
            raise _UnreadableError(f"its argument {shown(name)} is not supported", damaged=False)
    return keywords


def _parts(layer: KerasLayer, value: Any) -> list[Any]:
    """Return what a nested model is given for each of its inputs, out of the lists and dicts that hold it."""
    assert layer.model is not None
    if isinstance(value, dict) and value.get("class_name") != "__keras_tensor__":
        # Keras flattens a dict by sorted keys; a model whose inputs are a list takes them by the names of its inputs.
        named = isinstance(layer.config.get("input_layers"), dict)
        names = sorted(value) if named else [tensor.layer for tensor in layer.model.inputs]
        if not value.keys() >= set(names):
            listed, found = (", ".join(map(shown, [*some][:20])) or "none" for some in (names, value))
            raise _UnreadableError(f"expected {len(names)} inputs by name ({listed}), found {len(value)} ({found})")
        value = [value[name] for name in names]
    if not isinstance(value, list) or (value and isinstance(value[0], str)):
        return [value]
    return [part for inner in value for part in _parts(layer, inner)]


def _is_reference(value: Any) -> TypeGuard[list[Any]]:
    return (
        isinstance(value, list)
        and len(value) == 3
        and isinstance(value[0], str)
        and all(isinstance(number, int) and not isinstance(number, bool) for number in value[1:])
    )


def _reference(value: list[Any]) -> TensorRef:
    return TensorRef(value[0], value[1], value[2])
