"""The weights that each Keras layer has: their names, their shapes, and their order in both kinds of file.

A ``.keras`` archive holds them by path and number; a legacy file holds one flat list for each layer, the
trainable weights first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from .hdf5 import HDF5Group
from .keras_layers import KerasLayer, Problems, shown

__all__ = ["check_shapes", "group_names", "read_archive_weights", "read_legacy_weights"]

#: Containers of the layers' groups: TensorFlow 2.12 and 2.13 wrote the second one.
_CONTAINERS: Final = ("layers", "_layer_checkpoint_dependencies")


@dataclass(frozen=True, slots=True)
class _Weight:
    """One weight: a size in ``shape`` is a number, or a name of a size that the file does not state."""

    name: str
    shape: tuple[int | str, ...]
    trainable: bool = True


def _own_weights(layer: KerasLayer, problems: Problems | None = None) -> list[_Weight]:
    """Return the weights of a layer, without those of layers that it wraps, in Keras's order."""
    config = layer.config

    def size(key: str) -> int | str:
        value = config.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
        if problems is not None:
            problems.damaged.append(
                f"layer {shown(layer.name)} ({layer.class_name}): expected {key} to be a positive whole number, "
                f"found {shown(value)}"
            )
        return key

    def used(key: str, name: str, shape: tuple[int | str, ...]) -> list[_Weight]:
        return [_Weight(name, shape)] if config.get(key, True) else []

    match layer.class_name:
        case "LSTM":
            units = size("units")
            gates = 4 * units if isinstance(units, int) else "4 * units"
            return [
                _Weight("kernel", ("features", gates)),
                _Weight("recurrent_kernel", (units, gates)),
                *used("use_bias", "bias", (gates,)),
            ]
        case "Dense":
            units = size("units")
            return [_Weight("kernel", ("features", units)), *used("use_bias", "bias", (units,))]
        case "Embedding":
            return [_Weight("embeddings", (size("input_dim"), size("output_dim")))]
        case "BatchNormalization":
            shape = _normalized(config.get("axis", -1))
            return [
                *used("scale", "gamma", shape),
                *used("center", "beta", shape),
                _Weight("moving_mean", shape, trainable=False),
                _Weight("moving_variance", shape, trainable=False),
            ]
        case "LayerNormalization":
            shape = _normalized(config.get("axis", -1))
            scale, center = used("scale", "gamma", shape), used("center", "beta", shape)
            # Root-mean-square scaling has a gamma always and a beta never.
            return [_Weight("gamma", shape)] if config.get("rms_scaling") else scale + center
        case _:
            return []


def _normalized(axis: Any) -> tuple[int | str, ...]:
    """Return the shape of the weights of a normalization along ``axis``."""
    axes = axis if isinstance(axis, list) else [axis]
    return tuple("features" if number == -1 else f"axis {shown(number)}" for number in axes)


def check_shapes(layers: Iterable[KerasLayer], problems: Problems) -> None:
    """Note every weight whose shape or dtype is not what the configuration says.

    Parameters
    ----------
    layers
        Layers with their weights.
    problems
        Where problems are noted.
    """
    for layer in layers:
        sizes: dict[str, int] = {}
        for part in layer.walk():
            inside = "" if part is layer else f" in layer {shown(layer.name)}"
            if part.features is not None:
                sizes.setdefault("features", part.features)
            for weight in _own_weights(part, problems):
                array = part.weights.get(weight.name)
                if array is None:
                    continue  # noted by the reader of the weights
                where = f"layer {shown(part.name)} ({part.class_name}){inside}: {weight.name}"
                wanted = [sizes.get(size, size) if isinstance(size, str) else size for size in weight.shape]
                fits = len(wanted) == array.ndim and all(
                    found == size for found, size in zip(array.shape, wanted, strict=True) if isinstance(size, int)
                )
                if not fits:
                    expected = ", ".join(map(str, wanted)) + ("," if len(wanted) == 1 else "")
                    problems.damaged.append(f"{where}: expected shape ({expected}), found {array.shape}")
                    continue
                sizes.update(
                    (size, found)
                    for size, found in zip(weight.shape, array.shape, strict=True)
                    if isinstance(size, str)
                )
                if array.dtype.kind != "f":
                    problems.unsupported.append(
                        f"{where}: expected floating point, found {array.dtype}; save the model without quantization"
                    )


# --- The archive ------------------------------------------------------------------------------------------------------


def _snake_case(name: str) -> str:
    """Keras's own rule for the name of a group from the name of a class."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def group_names(layers: Iterable[KerasLayer], *, counts: str = "all") -> dict[str, str]:
    """Return the group of each layer in a ``.keras`` archive, by the layer's name.

    A group is named after the class, and layers of one class are numbered in the model's order.

    Parameters
    ----------
    layers
        The model's layers; operations have no group.
    counts
        What is numbered: ``"all"`` layers (Keras 3); all but those ``"unvisited"``, whose weights were already saved
        within a wrapper (Keras 2 since TensorFlow 2.14); or layers with weights ``"twice"`` (TensorFlow 2.12).
    """
    names: dict[str, str] = {}
    used: dict[str, int] = {}
    wrapped: set[tuple[str, str]] = set()
    for layer in layers:
        if layer.operation or (counts == "unvisited" and (layer.class_name, layer.name) in wrapped):
            continue
        base = _snake_case(layer.class_name)
        number = used.get(base, 0)
        names[layer.name] = f"{base}_{number}" if number else base
        used[base] = number + (2 if counts == "twice" and any(_own_weights(part) for part in layer.walk()) else 1)
        wrapped.update((part.class_name, part.name) for part in layer.walk() if part is not layer)
    return names


def read_archive_weights(root: HDF5Group, layers: list[KerasLayer], version: str, problems: Problems) -> None:
    """Read the weights of ``model.weights.h5`` into the layers.

    Parameters
    ----------
    root
        The file's root group.
    layers
        The model's layers.
    version
        Keras's version, which decides how layers are numbered.
    problems
        Where problems are noted: missing and superfluous weights, wrong shapes.
    """
    container = next((name for name in _CONTAINERS if name in root), None)
    if container is None:
        if any(_own_weights(part) for layer in layers for part in layer.walk()):
            problems.damaged.append("expected a group 'layers' with the weights, found none")
        return
    group = root.group(container)
    present = set(group.names())
    rules = ("unvisited", "all") if version.startswith(("1.", "2.")) else ("all", "unvisited")
    if container != "layers":
        rules = ("unvisited", "twice")
    candidates = [group_names(layers, counts=rule) for rule in rules]
    # The version says which rule to expect; the groups that are there say whether it was followed.
    names = next((names for names in candidates if present <= set(names.values())), candidates[0])
    for superfluous in sorted(present - set(names.values()))[:20]:
        problems.damaged.append(f"the weights of {shown(f'{container}/{superfluous}')} belong to no layer")

    found: dict[tuple[str, str], KerasLayer] = {}
    missing: list[tuple[KerasLayer, str]] = []
    for layer in layers:
        for part, path in _paths(layer, names.get(layer.name, "")):
            wanted = _own_weights(part)
            place = f"{path}/cell/vars" if part.class_name == "LSTM" else f"{path}/vars"
            if path and place in group:
                _read_group(group.group(place), part, wanted, problems)
                found.setdefault((part.class_name, part.name), part)
            elif wanted:
                missing.append((part, f"{container}/{place}"))
    for part, path in missing:
        # A layer that stands in a wrapper and in the model itself is saved once, where it was met first.
        twin = found.get((part.class_name, part.name))
        if twin is None or not twin.weights:
            problems.damaged.append(
                f"layer {shown(part.name)} ({part.class_name}): expected its weights in {shown(path)}"
            )
        else:
            part.weights.update(twin.weights)
    check_shapes(layers, problems)


def _paths(layer: KerasLayer, path: str) -> Iterator[tuple[KerasLayer, str]]:
    """Iterate over a layer and all that it wraps, each with the path of its group."""
    yield layer, path
    for role, wrapped in layer.inner.items():
        yield from _paths(wrapped, f"{path}/{role}" if path else "")


def _read_group(group: HDF5Group, layer: KerasLayer, wanted: list[_Weight], problems: Problems) -> None:
    """Read the numbered datasets of one layer."""
    numbers = {str(number): weight.name for number, weight in enumerate(wanted)}
    names = group.names()
    if set(names) != set(numbers):
        problems.damaged.append(_count_problem(layer, [weight.name for weight in wanted], len(names), group.path))
        return
    for number, name in numbers.items():
        layer.weights[name] = group.array(number)


def _count_problem(layer: KerasLayer, wanted: list[str], found: int, place: str) -> str:
    listed = f" ({', '.join(wanted)})" if wanted else ""
    return (
        f"layer {shown(layer.name)} ({layer.class_name}): expected {len(wanted)} weights{listed}, "
        f"found {found} in {shown(place)}"
    )


# --- The legacy file --------------------------------------------------------------------------------------------------


def read_legacy_weights(group: HDF5Group, layers: list[KerasLayer], problems: Problems) -> None:
    """Read the weights of the group ``model_weights`` of a legacy file into the layers.

    Parameters
    ----------
    group
        The group.
    layers
        The model's layers.
    problems
        Where problems are noted: missing and superfluous weights, wrong shapes.
    """
    saved = group.text_list("layer_names")
    if saved is None:
        problems.damaged.append(f"{shown(group.path)}: expected an attribute 'layer_names', found none")
        return
    names = {name: group.group(name).text_list("weight_names") or [] for name in saved}
    with_weights = [name for name in saved if names[name]]
    expected = [layer for layer in layers if _legacy_order(layer)]
    if {layer.name for layer in expected} == set(with_weights):
        pairs = [(layer, layer.name) for layer in expected]
    elif len(expected) == len(with_weights):
        # Layers renamed after the file was written: their order says which is which, as in Keras.
        pairs = list(zip(expected, with_weights, strict=True))
    else:
        problems.damaged.append(
            f"expected the weights of {len(expected)} layers ({_listed(layer.name for layer in expected)}), "
            f"found those of {len(with_weights)} ({_listed(with_weights)})"
        )
        return
    for layer, name in pairs:
        order = _legacy_order(layer)
        if len(names[name]) != len(order):
            place = f"{group.path}/{name}"
            problems.damaged.append(_count_problem(layer, [weight for _, weight in order], len(names[name]), place))
            continue
        source = group.group(name)
        for (part, weight), path in zip(order, names[name], strict=True):
            part.weights[weight] = source.array(path)
    check_shapes(layers, problems)


def _legacy_order(layer: KerasLayer) -> list[tuple[KerasLayer, str]]:
    """Return the weights of a layer and of all that it wraps: the trainable ones, then the others."""
    if layer.operation:
        return []
    slots: list[tuple[KerasLayer, str, bool]] = []

    def collect(part: KerasLayer, trainable: bool) -> None:
        trainable = trainable and part.config.get("trainable", True) is not False
        slots.extend((part, weight.name, trainable and weight.trainable) for weight in _own_weights(part))
        for wrapped in part.inner.values():
            collect(wrapped, trainable)

    collect(layer, True)
    slots.sort(key=lambda slot: not slot[2])  # stable: the order within each kind stays
    return [(part, name) for part, name, _ in slots]


def _listed(names: Iterable[str]) -> str:
    shown_names = [shown(name) for name in names]
    return ", ".join([*shown_names[:20], *(["..."] if len(shown_names) > 20 else [])]) or "none"
