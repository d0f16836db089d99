"""The architecture of a Keras model: its configuration as JSON to layers, calls, inputs and outputs.

Sequential and Functional models of Keras 2 and 3 become the same graph. A class is looked up in the list of what is
read here and nowhere else: nothing that a configuration names is imported, and no value in it is evaluated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from typing import Any, Final

from lstm_engine.description import Call, TensorRef

from .keras_calls import flat_tensors, parse_calls
from .keras_layers import CELLS, LAYERS, MERGES, MODELS, OPERATIONS, RECURRENT, KerasLayer, KerasModel, Problems, shown
from .keras_legacy import CUDNN, of_today
from .keras_masks import drop_recorded_masks, unmask_after_heads
from .keras_nesting import count_calls_from_zero, inlined, without_unmasked
from .limits import WAY_OUT, current_limits

__all__ = ["parse_model"]

#: Packages whose classes are Keras's own.
_PACKAGES: Final = frozenset({"keras", "tensorflow", "tf_keras"})

#: Wrapped layers that a wrapper's configuration holds, by the role that they play.
_WRAPPED: Final[dict[str, dict[str, str]]] = {
    "Bidirectional": {"layer": "forward_layer", "backward_layer": "backward_layer"},
    "RNN": {"cell": "cell"},
    "TimeDistributed": {"layer": "layer"},
}

#: Names that both a layer and an operation of ``keras.ops`` have.
_SHARED_NAMES: Final = MERGES | {"Reshape", "Softmax"}

#: Classes that say which dtypes a layer uses; any other one asks for quantized arithmetic.
_DTYPE_POLICIES: Final = frozenset({"DTypePolicy", "FloatDTypePolicy", "Policy", "PolicyV1"})


def parse_model(tree: Any, subject: str, version: str = "3") -> KerasModel:
    """Read the configuration of a model.

    Parameters
    ----------
    tree
        The parsed JSON: ``config.json`` of a ``.keras`` archive, or ``model_config`` of a legacy file.
    subject
        What it was read from, for messages.
    version
        Version of the Keras that wrote it; Keras 1 had other names for many things.

    Returns
    -------
    KerasModel
        The model without its weights; its graph is whole, free of loops, without models in a layer's place, and
        without the operations by which Keras 3 records masks that travel along anyway.

    Raises
    ------
    UnsafeFileError
        If it holds code: Lambda layers, serialised functions. All of them are named.
    UnsupportedModelError
        If it is neither Sequential nor Functional, or has layers that are not read; all of them are named.
    FormatError
        If its parts do not fit together.
    """
    problems = Problems(subject)
    saved = _model(of_today(tree, version), problems)
    problems.raise_if_any()
    assert saved is not None
    model = inlined(saved, problems)
    problems.raise_if_any()
    unmask_after_heads(model, version)
    drop_recorded_masks(model, _ordered(_needs(model), problems))
    without_unmasked(model)
    return model


# --- Models -----------------------------------------------------------------------------------------------------------


def _model(tree: Any, problems: Problems, shape: Any = None) -> KerasModel | None:
    """Read a model, models inside of it left whole; what is wrong with it is noted."""
    if not isinstance(tree, dict) or not isinstance(tree.get("class_name"), str):
        problems.damaged.append(f"expected the configuration of a Keras model, found {shown(tree)}")
        return None
    kind, config = tree["class_name"], tree.get("config")
    if _holds_code(tree):
        problems.unsafe.append(_code_problem("the model"))
    elif kind not in MODELS or not _is_keras(tree, "models", "engine"):
        problems.unsupported.append(
            f"the model is of the class {shown(kind)}{_origin(tree)}; expected a Sequential or Functional model: "
            "rebuild it as one of these and save it again"
        )
    elif kind == "Sequential":
        return _sequential(config, tree, problems, shape)
    elif isinstance(config, dict):
        return _functional(config, problems)
    else:
        problems.damaged.append(f"expected the model's config to be an object, found {shown(config)}")
    return None


def _sequential(config: Any, tree: dict[str, Any], problems: Problems, shape: Any) -> KerasModel | None:
    # Before 2.2.3, Keras wrote the layers alone.
    settings = config if isinstance(config, dict) else {"layers": config}
    layers = _layers(settings.get("layers"), problems)
    if problems:
        return None
    saved = list(layers)
    if layers and layers[0].class_name != "InputLayer":
        layers.insert(0, _input_before(layers[0], settings, tree, problems, shape))
    if len(layers) < 2:
        problems.damaged.append(f"expected an input and at least one layer, found {len(layers)} in all")
        return None
    tensors: tuple[TensorRef, ...] = (TensorRef(layers[0].name),)
    for layer in layers[1:]:
        if layer.class_name == "InputLayer":
            problems.damaged.append(f"layer {shown(layer.name)}: expected one input, found a second InputLayer")
        elif len(tensors) > 1 and layer.class_name not in MERGES:
            problems.unsupported.append(
                f"layer {shown(layer.name)} ({layer.class_name}) follows one of {len(tensors)} outputs; expected one"
            )
        elif layer.model is not None and len(layer.model.inputs) != 1:
            problems.unsupported.append(
                f"layer {shown(layer.name)} in a Sequential is a model of {len(layer.model.inputs)} inputs; expected 1"
            )
        layer.calls.append(Call(tensors))
        tensors = tuple(TensorRef(layer.name, 0, output) for output in range(layer.output_count))
    return KerasModel(_model_name(settings, "sequential"), layers, (TensorRef(layers[0].name),), tensors, saved)


def _input_before(
    first: KerasLayer, settings: dict[str, Any], tree: dict[str, Any], problems: Problems, given: Any
) -> KerasLayer:
    """Return the input layer that a Sequential model has without saying so; ``given`` is a shape known otherwise."""
    build = tree.get("build_config")
    config = first.config
    if first.model is not None:
        config = next(layer.config for layer in first.model.layers if layer.name == first.model.inputs[0].layer)
    candidates = (
        config.get("batch_input_shape"),
        config.get("batch_shape"),
        settings.get("build_input_shape"),
        build.get("input_shape") if isinstance(build, dict) else None,
        given,
    )
    shape = next((candidate for candidate in candidates if candidate is not None), None)
    if not isinstance(shape, list):
        problems.damaged.append(
            f"expected an input shape before layer {shown(first.name)}, found none: the model was saved before it was "
            "built; call it on data once and save it again"
        )
    dtype = config.get("dtype")
    name = f"{first.name}_input"
    made = {"name": name, "batch_shape": shape, "dtype": dtype if isinstance(dtype, str) else "float32"}
    return KerasLayer(name, "InputLayer", made)


def _functional(config: dict[str, Any], problems: Problems) -> KerasModel | None:
    entries = config.get("layers")
    layers = _layers(entries, problems)
    if problems:
        return None
    for layer, entry in zip(layers, entries or (), strict=True):
        if layer.class_name != "InputLayer":
            parse_calls(layer, entry.get("inbound_nodes"), problems)
    ends: list[tuple[TensorRef, ...]] = []
    for key in ("input_layers", "output_layers"):
        try:
            ends.append(tuple(flat_tensors(config.get(key))))
        except ValueError as error:
            problems.damaged.append(f"{key}: {error}")
    if problems:
        return None
    model = KerasModel(_model_name(config, "model"), layers, ends[0], ends[1], list(layers))
    lists = [entry.get("inbound_nodes") for entry in entries or ()]
    nodes = [node for listed in lists if isinstance(listed, list) for node in listed]
    count_calls_from_zero(model, keras_3=any(isinstance(node, dict) and "args" in node for node in nodes))
    _check_graph(model, problems)
    return None if problems else model


def _model_name(config: dict[str, Any], default: str) -> str:
    name = config.get("name")
    return name if isinstance(name, str) and 0 < len(name) <= current_limits().name_length else default


# --- Layers -----------------------------------------------------------------------------------------------------------


def _layers(entries: Any, problems: Problems) -> list[KerasLayer]:
    if not isinstance(entries, list):
        problems.damaged.append(f"expected a list of layers, found {shown(entries)}")
        return []
    layers = [layer for entry in entries if (layer := _layer(entry, problems)) is not None]
    if problems.unsupported:
        problems.unsupported[-1] += f". Supported are: {', '.join(sorted(LAYERS))}"
    for name, count in Counter(layer.name for layer in layers).items():
        if count > 1:
            problems.damaged.append(f"expected one layer of the name {shown(name)}, found {count}")
    return layers


def _layer(entry: Any, problems: Problems, wrapper: str = "", known: Collection[str] = LAYERS) -> KerasLayer | None:
    """Read one layer of the classes ``known``; what is wrong with it is noted, and the layer then left out."""
    if not isinstance(entry, dict) or not isinstance(entry.get("class_name"), str):
        problems.damaged.append(f"expected a layer with a class_name{wrapper}, found {shown(entry)}")
        return None
    kind, config = entry["class_name"], entry.get("config")
    if not isinstance(config, dict):
        problems.damaged.append(f"expected a config of the {shown(kind)} layer{wrapper}, found {shown(config)}")
        return None
    name = entry.get("name", config.get("name"))
    if (
        not isinstance(name, str)
        or not 0 < len(name) <= current_limits().name_length
        or config.get("name", name) != name
    ):
        problems.damaged.append(f"expected one name of the {shown(kind)} layer{wrapper}, found {shown(name)}")
        return None
    where = f"layer {shown(name)}{wrapper}"
    saved_class = kind
    if kind in CUDNN:
        kind, settings = CUDNN[kind]
        config = {**settings, **config}
    operation = _is_operation(entry, config)
    if kind == "Lambda" or _holds_code(entry):
        problems.unsafe.append(_code_problem(where))
    elif kind in MODELS and _is_keras(entry, "models", "engine"):
        return _nested(entry, name, where, problems)
    elif operation and (kind not in OPERATIONS or wrapper):
        problems.unsupported.append(
            f"{where} is the operation {shown(kind)} of keras.ops, which is not supported: use a layer in its place"
        )
    elif not operation and (kind not in known or not _is_keras(entry, "layers") or (wrapper and kind == "InputLayer")):
        problems.unsupported.append(f"{where} is of the class {shown(kind)}{_origin(entry)}, which is not supported")
    elif kind in ("Dense", "LSTM") and "units" not in config and "output_dim" in config:
        problems.unsupported.append(
            f"{where} ({kind}) was written by Keras 1, but the configuration says otherwise; expected a keras_version "
            "of '1'"
        )
    elif saved_class != kind and config.get("time_major") and (config.get("go_backwards") or "Bidirect" in wrapper):
        problems.unsupported.append(
            f"{where} ({saved_class}) has time_major=True and runs backwards, for which TensorFlow reverses the batch "
            "in place of time; expected either alone"
        )
    elif not _is_plain_policy(config.get("dtype")):
        problems.unsupported.append(f"{where} ({kind}) is quantized; expected a dtype policy of floating point")
    else:
        layer = KerasLayer(name, kind, config, operation, _features(entry.get("build_config")), saved_class=saved_class)
        return layer if _add_wrapped(layer, problems) else None
    return None


def _nested(entry: dict[str, Any], name: str, where: str, problems: Problems) -> KerasLayer | None:
    """Read a model that stands in a layer's place."""
    inside = Problems(problems.subject)
    # It takes the shape of what it is called on, so that its own is never asked for.
    model = _model(entry, inside, [None, None])
    for found, kind in ((inside.unsafe, problems.unsafe), (inside.unsupported, problems.unsupported)):
        kind.extend(f"{where}: {problem}" for problem in found)
    problems.damaged.extend(f"{where}: {problem}" for problem in inside.damaged)
    if model is None:
        return None
    config = {key: value for key, value in entry["config"].items() if key in ("name", "trainable", "input_layers")}
    return KerasLayer(name, entry["class_name"], config, model=model)


def _add_wrapped(layer: KerasLayer, problems: Problems) -> bool:
    """Read the layers that a wrapper holds; return whether they are there."""
    for key, role in _WRAPPED.get(layer.class_name, {}).items():
        entry = layer.config.get(key)
        if key == "backward_layer" and entry is None:
            # Keras then makes the backward layer from the forward one.
            backward = _copied(layer.inner["forward_layer"])
            backward.name = f"backward_{backward.name}"
            backward.config = dict(backward.config, go_backwards=not backward.config.get("go_backwards", False))
            layer.inner[role] = backward
            continue
        known = {*CELLS, "StackedRNNCells"} if layer.class_name == "RNN" else LAYERS
        wrapped = _layer(entry, problems, f" in {layer.class_name} {shown(layer.name)}", known)
        if wrapped is None:
            return False
        if layer.class_name == "Bidirectional" and wrapped.class_name not in RECURRENT:
            problems.unsupported.append(
                f"layer {shown(layer.name)} is a Bidirectional around a {wrapped.class_name}; expected one of "
                f"{', '.join(sorted(RECURRENT))}"
            )
            return False
        layer.inner[role] = wrapped
    return _add_stacked(layer, problems) if layer.class_name == "StackedRNNCells" else True


def _add_stacked(layer: KerasLayer, problems: Problems) -> bool:
    """Read the cells of a StackedRNNCells, by the groups of their weights; return whether they are there."""
    entries = layer.config.get("cells")
    if not isinstance(entries, list) or not entries:
        problems.damaged.append(f"layer {shown(layer.name)}: expected a list of cells, found {shown(entries)}")
        return False
    used: Counter[str] = Counter()
    for entry in entries:
        cell = _layer(entry, problems, f" in {layer.class_name} {shown(layer.name)}", CELLS)
        if cell is None:
            return False
        group, number = f"cells/{CELLS[cell.class_name]}", used[cell.class_name]
        used[cell.class_name] += 1
        layer.inner[f"{group}_{number}" if number else group] = cell
    return True


def _copied(layer: KerasLayer) -> KerasLayer:
    """Return a layer that is still without weights once more, with all that it wraps."""
    return replace(layer, inner={role: _copied(part) for role, part in layer.inner.items()}, weights={}, sources={})


def _is_keras(entry: dict[str, Any], *kinds: str) -> bool:
    """Return whether a class is Keras's own and of the kind that it is needed as, not a custom one of the same name.

    Keras 2 names no module in its legacy files; a custom class is then known by its name alone.
    """
    if entry.get("registered_name") not in (None, entry["class_name"]):
        return False
    if "module" not in entry:
        return True
    module = entry["module"]
    if not isinstance(module, str):
        return False
    parts = module.split(".")
    return parts[0] in _PACKAGES and (len(parts) == 1 or any(kind in parts for kind in kinds))


def _is_operation(entry: dict[str, Any], config: dict[str, Any]) -> bool:
    """Return whether a node of the graph is an operation of ``keras.ops``, some of which share a layer's name."""
    if "module" in entry:
        return _is_keras(entry, "ops") and not _is_keras(entry, "layers")
    # A legacy file names no modules. There the layers of these names have the key "trainable", and no operation has.
    kind = entry["class_name"]
    return kind in OPERATIONS.keys() - LAYERS or (kind in _SHARED_NAMES and "trainable" not in config)


def _is_plain_policy(dtype: Any) -> bool:
    if isinstance(dtype, dict):
        kind = dtype.get("class_name")
        return isinstance(kind, str) and kind in _DTYPE_POLICIES
    return dtype is None or (isinstance(dtype, str) and "_from_" not in dtype)


def _features(build: Any) -> int | None:
    """Return the size of the last axis of the (first) input that a layer was built for, where ``build_config`` says."""
    if not isinstance(build, dict):
        return None
    shape = build.get("input_shape")
    shapes = build.get("shapes_dict")
    if shape is None and isinstance(shapes, dict):
        shape = shapes.get("sequences_shape", shapes.get("inputs_shape"))
    while isinstance(shape, list) and shape and isinstance(shape[0], list):
        shape = shape[0]
    last = shape[-1] if isinstance(shape, list) and shape else None
    return last if isinstance(last, int) and not isinstance(last, bool) else None


def _origin(entry: dict[str, Any]) -> str:
    """Return where a class says that it comes from."""
    module, registered = entry.get("module"), entry.get("registered_name")
    if isinstance(registered, str) and registered != entry["class_name"]:
        return f" (a custom object, registered as {shown(registered)})"
    return f" (module {shown(module)})" if "module" in entry else ""


def _holds_code(entry: dict[str, Any]) -> bool:
    """Return whether a layer's own settings, but not the layers that it holds, hold a serialised function."""
    config = entry.get("config")
    pending: list[Any] = []
    if isinstance(config, dict):
        pending = [value for key, value in config.items() if key not in ("layers", "layer", "backward_layer")]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            if value.get("class_name") == "__lambda__":
                return True
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)
    return False


def _code_problem(where: str) -> str:
    return (
        f"{where} holds Python code (Lambda), which is never run; "
        "expected layers without code: use a built-in layer in its place"
    )


# --- The graph --------------------------------------------------------------------------------------------------------


def _check_graph(model: KerasModel, problems: Problems) -> None:
    """Note references to what does not exist, loops, and operations that are used for anything but masks."""
    layers = {layer.name: layer for layer in model.layers}
    # Found once for each: the outputs of stacked cells are counted cell by cell.
    sizes = {
        name: (1 if layer.class_name == "InputLayer" else len(layer.calls), layer.output_count)
        for name, layer in layers.items()
    }
    if (total := sum(calls * outputs for calls, outputs in sizes.values())) > (most := current_limits().tensors):
        problems.unsafe.append(
            f"expected at most {most:,} outputs of layers, call by call, found {total:,}; " + WAY_OUT.format("tensors")
        )
        return
    _check_ends(model, layers, sizes, problems)
    operations = {layer.name for layer in model.layers if layer.operation}
    for layer in model.layers:
        if not layer.calls and layer.class_name != "InputLayer":
            problems.damaged.append(f"layer {shown(layer.name)}: expected at least one call, found none")
        for number, call in enumerate(layer.calls):
            user = f"layer {shown(layer.name)}, call {number}"
            for tensor in call.tensors():
                _check_tensor(tensor, sizes, user, problems)
            # An operation drops the masks of its inputs, which a layer of the same name would pass on.
            outside = [tensor.layer for tensor in call.inputs if (tensor.layer in operations) != layer.operation]
            if (outside and not layer.operation) or (outside and layer.class_name == "Concatenate"):
                problems.unsupported.append(
                    f"{user}: operations of keras.ops are supported where they compute masks, not between "
                    f"{shown(outside[0])} and {shown(layer.name)}: use a layer in place of the operation"
                )
    problems.unsupported.extend(
        f"the model's output {shown(tensor.layer)} is an operation of keras.ops; expected the output of a layer"
        for tensor in model.outputs
        if tensor.layer in operations
    )
    if not problems:
        _ordered(_needs(model), problems)


def _needs(model: KerasModel) -> dict[tuple[str, int], set[tuple[str, int]]]:
    """Return for each call the calls whose outputs it takes."""
    sources = {layer.name for layer in model.layers if layer.class_name == "InputLayer"}
    return {
        (layer.name, number): {(tensor.layer, tensor.call) for tensor in call.tensors() if tensor.layer not in sources}
        for layer in model.layers
        for number, call in enumerate(layer.calls)
    }


def _check_ends(
    model: KerasModel, layers: dict[str, KerasLayer], sizes: dict[str, tuple[int, int]], problems: Problems
) -> None:
    for end, tensors in (("inputs", model.inputs), ("outputs", model.outputs)):
        if not tensors:
            problems.damaged.append(f"expected at least one tensor among the model's {end}, found none")
        for tensor in tensors:
            _check_tensor(tensor, sizes, f"the model's {end}", problems)
    for name, count in Counter(tensor.layer for tensor in model.inputs).items():
        if name in layers and layers[name].class_name != "InputLayer":
            problems.damaged.append(f"expected {shown(name)}, an input of the model, to be an InputLayer")
        if count > 1:
            problems.damaged.append(f"expected {shown(name)} once among the model's inputs, found it {count} times")
    given = {tensor.layer for tensor in model.inputs}
    problems.damaged.extend(
        f"expected {shown(name)}, an InputLayer, among the model's inputs"
        for name, layer in layers.items()
        if layer.class_name == "InputLayer" and name not in given
    )


def _check_tensor(tensor: TensorRef, sizes: dict[str, tuple[int, int]], user: str, problems: Problems) -> None:
    if tensor.layer not in sizes:
        problems.damaged.append(f"{user}: expected a layer {shown(tensor.layer)}, found none")
        return
    calls, outputs = sizes[tensor.layer]
    if not 0 <= tensor.call < calls or not 0 <= tensor.output < outputs:
        problems.damaged.append(
            f"{user}: expected one of {calls} calls and {outputs} outputs of layer {shown(tensor.layer)}, "
            f"found call {tensor.call}, output {tensor.output}"
        )


def _ordered(needs: dict[tuple[str, int], set[tuple[str, int]]], problems: Problems) -> list[tuple[str, int]]:
    """Return the calls, each after those that it needs; note those that can never be made."""
    users: dict[tuple[str, int], list[tuple[str, int]]] = {}
    for call, sources in needs.items():
        for source in sources:
            users.setdefault(source, []).append(call)
    open_needs = {call: len(sources) for call, sources in needs.items()}
    order = [call for call, count in open_needs.items() if count == 0]
    for call in order:  # which grows meanwhile
        for user in users.get(call, ()):
            open_needs[user] -= 1
            if open_needs[user] == 0:
                order.append(user)
    if len(order) < len(needs):
        names = sorted({name for (name, _), count in open_needs.items() if count > 0})
        listed = ", ".join(shown(name) for name in names[:20])
        problems.damaged.append(f"expected a graph without loops, found {len(names)} layers that wait in one: {listed}")
    return order
