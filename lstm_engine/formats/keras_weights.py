"""The weights that each Keras layer has: their names, their shapes, and their order in both kinds of file.

A ``.keras`` archive holds them by path and number; a legacy file holds one flat list for each layer, the
trainable weights first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from .hdf5 import HDF5Group
from .keras_layers import CELLS, RECURRENT, KerasLayer, Problems, shown
from .keras_legacy import CUDNN, GATE_WEIGHTS, join_gates, of_today_kernel, unfold_cudnn
from .keras_npz import ArrayTree

__all__ = ["CONTAINERS", "check_shapes", "group_names", "read_archive_weights", "read_legacy_weights"]

#: Containers of the layers' groups: TensorFlow 2.12 and 2.13 wrote the second one.
CONTAINERS: Final = ("layers", "_layer_checkpoint_dependencies")


@dataclass(frozen=True, slots=True)
class _Weight:
    """One weight: a size in ``shape`` is a number, or a name of a size that the file does not state; None is any."""

    name: str
    shape: tuple[int | str, ...] | None
    trainable: bool = True
    whole: bool = False  #: whether it holds whole numbers


def _own_weights(layer: KerasLayer, problems: Problems | None = None) -> list[_Weight]:
    """Return the weights of a layer, without those of layers that it wraps, in Keras's order."""
    config = layer.config

    def size(key: str) -> int | str:
        value = config.get(key)
        if key == "kernel_size" and isinstance(value, list) and len(value) == 1:
            (value,) = value
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
        case "GRU" | "GRUCell" | "LSTM" | "LSTMCell" | "SimpleRNN" | "SimpleRNNCell":
            units = size("units")
            count = {"G": 3, "L": 4, "S": 1}[layer.class_name[0]]
            gates = count * units if isinstance(units, int) else f"{count} * units"
            # A stacked cell takes what the one before it gives, and what that is stands in ``features``.
            taken = layer.features or "features" if layer.class_name in CELLS else "features"
            return [
                _Weight("kernel", (taken, gates)),
                _Weight("recurrent_kernel", (units, gates)),
                *used("use_bias", "bias", (2, gates) if count == 3 and config.get("reset_after") else (gates,)),
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
        case "Conv1D":
            groups = config.get("groups", 1)
            shape = (size("kernel_size"), _channels(config) if groups == 1 else "channels / groups", size("filters"))
            return [_Weight("kernel", shape), *used("use_bias", "bias", (shape[2],))]
        case "DepthwiseConv1D" | "SeparableConv1D":
            depthwise = _Weight("depthwise_kernel", (size("kernel_size"), _channels(config), size("depth_multiplier")))
            if layer.class_name == "DepthwiseConv1D":
                return [depthwise, *used("use_bias", "bias", ("channels * depth_multiplier",))]
            filters = size("filters")
            pointwise = _Weight("pointwise_kernel", (1, "channels * depth_multiplier", filters))
            return [depthwise, pointwise, *used("use_bias", "bias", (filters,))]
        case "PReLU":
            return [_Weight("alpha", None)]
        case "Normalization" if config.get("mean") is None:
            shape = () if config.get("axis", -1) is None else _normalized(config.get("axis", -1))
            statistics = [_Weight(name, shape, trainable=False) for name in ("mean", "variance")]
            return [*statistics, _Weight("count", (), trainable=False, whole=True)]
        case "Attention":
            concat = [_Weight("concat_score_weight", ())] if config.get("score_mode") == "concat" else []
            return [*([_Weight("scale", ())] if config.get("use_scale") else []), *concat]
        case "AdditiveAttention":
            return used("use_scale", "scale", ("features",))
        case "EinsumDense":  # a part of a MultiHeadAttention: no such layer is read on its own
            heads, role = size("num_heads"), config["role"]
            width = size("key_dim" if role in ("query", "key") else "value_dim")
            if role != "output":
                projection = [_Weight("kernel", (f"{role} features", heads, width))]
                return [*projection, *used("use_bias", "bias", (heads, width))]
            wanted = config.get("output_shape") or "query features"
            shape = tuple(wanted) if isinstance(wanted, list) else (wanted,)
            return [_Weight("kernel", (heads, width, *shape)), *used("use_bias", "bias", shape)]
        case _:
            return []


def _normalized(axis: Any) -> tuple[int | str, ...]:
    """Return the shape of the weights of a normalization along ``axis``."""
    axes = axis if isinstance(axis, list) else [axis]
    return tuple("features" if number == -1 else f"axis {shown(number)}" for number in axes)


def _channels(config: dict[str, Any]) -> str:
    """Return the name of the number of channels: what the file states is the size of the last axis."""
    return "channels" if config.get("data_format") == "channels_first" else "features"


def _every_layer(layers: Iterable[KerasLayer]) -> Iterator[KerasLayer]:
    """Iterate over layers and those of the models among them and within them, at any depth."""
    for layer in layers:
        yield layer
        for part in layer.walk():
            if part.model is not None:
                yield from _every_layer(part.model.saved)


def _has_weights(layers: Iterable[KerasLayer]) -> bool:
    """Return whether any of the layers, or of all within them, has weights."""
    return any(_own_weights(part) for layer in _every_layer(layers) for part in layer.walk())


def check_shapes(layers: Iterable[KerasLayer], problems: Problems) -> None:
    """Note every weight whose shape or dtype is not what the configuration says.

    Parameters
    ----------
    layers
        Layers with their weights.
    problems
        Where problems are noted.
    """
    for layer in _every_layer(layers):
        sizes: dict[str, int] = {}
        for part in layer.walk():
            unfold_cudnn(part)
            if part.class_name == "StackedRNNCells":
                for before, cell in pairwise(part.inner.values()):
                    cell.features = units if isinstance(units := before.config.get("units"), int) else None
            inside = "" if part is layer else f" in layer {shown(layer.name)}"
            if part.features is not None:
                sizes.setdefault("features", part.features)
            for weight in _own_weights(part, problems):
                array = part.weights.get(weight.name)
                if array is None:
                    continue  # noted by the reader of the weights
                shape = array.shape if weight.shape is None else weight.shape
                where = f"layer {shown(part.name)} ({part.class_name}){inside}: {weight.name}"
                wanted = [sizes.get(size, size) if isinstance(size, str) else size for size in shape]
                fits = len(wanted) == array.ndim and all(
                    found == size for found, size in zip(array.shape, wanted, strict=True) if isinstance(size, int)
                )
                if not fits:
                    expected = ", ".join(map(str, wanted)) + ("," if len(wanted) == 1 else "")
                    problems.damaged.append(f"{where}: expected shape ({expected}), found {array.shape}")
                    continue
                sizes.update(
                    (size, found) for size, found in zip(shape, array.shape, strict=True) if isinstance(size, str)
                )
                if array.dtype.kind not in ("iu" if weight.whole else "f"):
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
        base = _snake_case(layer.saved_class or layer.class_name)
        number = used.get(base, 0)
        names[layer.name] = f"{base}_{number}" if number else base
        used[base] = number + (2 if counts == "twice" and _has_weights([layer]) else 1)
        wrapped.update((part.class_name, part.name) for part in layer.walk() if part is not layer)
    return names


def read_archive_weights(
    root: HDF5Group | ArrayTree, layers: list[KerasLayer], version: str, problems: Problems
) -> None:
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
    container = next((name for name in CONTAINERS if name in root), None)
    if container is None:
        if _has_weights(layers):
            problems.damaged.append("expected a group 'layers' with the weights, found none")
        return
    rules = ("unvisited", "all") if version.startswith(("1.", "2.")) else ("all", "unvisited")
    if container != "layers":
        rules = ("unvisited", "twice")
    reading = _ArchiveReading(root, container, rules, problems)
    for part, path in reading.paths(layers, container):
        reading.read(part, path)
    reading.share()
    check_shapes(layers, problems)


class _ArchiveReading:
    """The reading of one archive's weights."""

    def __init__(self, root: HDF5Group | ArrayTree, container: str, rules: tuple[str, str], problems: Problems) -> None:
        self._root, self._container, self._rules, self._problems = root, container, rules, problems
        self._found: dict[tuple[str, str], KerasLayer] = {}
        self._missing: list[tuple[KerasLayer, str]] = []

    def paths(self, layers: list[KerasLayer], path: str) -> Iterator[tuple[KerasLayer, str]]:
        """Iterate over the layers of a model whose groups are at ``path`` and all within them, each with its group."""
        present = set(self._root.group(path).names()) if path in self._root else set()
        candidates = [group_names(layers, counts=rule) for rule in self._rules]
        # The version says which rule to expect; the groups that are there say whether it was followed.
        names = next((names for names in candidates if present <= set(names.values())), candidates[0])
        for superfluous in sorted(present - set(names.values()))[:20]:
            self._problems.damaged.append(f"the weights of {shown(f'{path}/{superfluous}')} belong to no layer")
        for layer in layers:
            if not layer.operation:
                # A layer that was saved before, within a wrapper, has no group.
                yield from self._within(layer, f"{path}/{names.get(layer.name, '')}")

    def _within(self, layer: KerasLayer, path: str) -> Iterator[tuple[KerasLayer, str]]:
        yield layer, path
        for role, wrapped in layer.inner.items():
            inside = f"{path}/{role}"
            if wrapped.class_name == "EinsumDense" and inside not in self._root:
                inside = f"{path}/_{role}"  # Keras 2 and the first releases of Keras 3 name the attribute
            yield from self._within(wrapped, inside)
        if layer.model is not None:
            yield from self.paths(layer.model.saved, f"{path}/{self._container}")

    def read(self, layer: KerasLayer, path: str) -> None:
        """Read the weights of one layer from its group."""
        wanted = _own_weights(layer)
        has_cell = layer.class_name in RECURRENT - {"RNN"} and layer.saved_class not in CUDNN
        place = f"{path}/cell/vars" if has_cell else f"{path}/vars"
        if place in self._root:
            _read_group(self._root.group(place), layer, wanted, self._problems)
            if layer.class_name not in CELLS:  # Those of both directions have the same names.
                self._found.setdefault((layer.class_name, layer.name), layer)
        elif wanted:
            self._missing.append((layer, place))

    def share(self) -> None:
        """Give the layers that have no group of their own the weights of their twins.

        A layer that stands at several places, in a wrapper, a nested model or the model itself, is saved once, where it
        was met first.
        """
        for layer, place in self._missing:
            twin = self._found.get((layer.class_name, layer.name))
            if twin is None or not twin.weights:
                self._problems.damaged.append(
                    f"layer {shown(layer.name)} ({layer.class_name}): expected its weights in {shown(place)}"
                )
            else:
                layer.weights.update(twin.weights)
                layer.sources.update(twin.sources)


def _read_group(group: HDF5Group | ArrayTree, layer: KerasLayer, wanted: list[_Weight], problems: Problems) -> None:
    """Read the numbered datasets of one layer."""
    numbers = {str(number): weight.name for number, weight in enumerate(wanted)}
    names = group.names()
    if set(names) != set(numbers):
        problems.damaged.append(_count_problem(layer, [weight.name for weight in wanted], len(names), group.path))
        return
    for number, name in numbers.items():
        layer.weights[name] = group.array(number)
        layer.sources[name] = f"{group.path}/{number}"


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
        count, source = len(names[name]), group.group(name)
        orders = [_legacy_order(layer), _legacy_order(layer, by_gates=True), _legacy_order(layer, once=True)]
        order = next((order for order in orders if len(order) == count), None)
        if order is None:
            problems.damaged.append(_count_problem(layer, [weight for _, weight in orders[0]], count, source.path))
            continue
        for (part, weight), path in zip(order, names[name], strict=True):
            part.weights[weight] = source.array(path)
            part.sources[weight] = f"{source.path}/{path}"
        for part in {id(part): part for part, weight in order if weight in ("U_o", "U_h")}.values():
            join_gates(part)
        if order is orders[2]:
            _share_within(layer)
    by_theano = group.text("backend") == "theano"
    for layer in _every_layer(expected):
        for part in layer.walk():
            if (problem := of_today_kernel(part, by_theano=by_theano)) is not None:
                problems.unsupported.append(problem)
    check_shapes(layers, problems)


def _legacy_order(layer: KerasLayer, *, by_gates: bool = False, once: bool = False) -> list[tuple[KerasLayer, str]]:
    """Return the weights of a layer and of all that it holds: the trainable ones, then the others.

    ``by_gates``: with an array for each gate, as Keras 1 saved them. ``once``: a layer that stands at several places
    within only once.
    """
    if layer.operation:
        return []
    slots: list[tuple[KerasLayer, str, bool]] = []
    seen: set[tuple[str, str]] = set()

    def collect(part: KerasLayer, trainable: bool) -> None:
        trainable = trainable and part.config.get("trainable", True) is not False
        if not once or (part.class_name, part.name) not in seen:
            own = [(weight.name, weight.trainable) for weight in _own_weights(part)]
            if by_gates and part.class_name in GATE_WEIGHTS:
                own = [(name, True) for name in GATE_WEIGHTS[part.class_name]]
            slots.extend((part, name, trainable and changes) for name, changes in own)
        seen.add((part.class_name, part.name))
        for wrapped in (*part.inner.values(), *(part.model.saved if part.model is not None else ())):
            collect(wrapped, trainable)

    collect(layer, True)
    slots.sort(key=lambda slot: not slot[2])  # stable: the order within each kind stays
    return [(part, name) for part, name, _ in slots]


def _share_within(layer: KerasLayer) -> None:
    """Give the layers that stand at several places within ``layer`` the weights that were saved once."""
    found: dict[tuple[str, str], KerasLayer] = {}
    for whole in _every_layer([layer]):
        for part in whole.walk():
            twin = found.setdefault((part.class_name, part.name), part)
            part.weights.update(twin.weights)
            part.sources.update(twin.sources)


def _listed(names: Iterable[str]) -> str:
    shown_names = [shown(name) for name in names]
    return ", ".join([*shown_names[:20], *(["..."] if len(shown_names) > 20 else [])]) or "none"
