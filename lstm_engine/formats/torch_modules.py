"""Which modules of PyTorch a set of named tensors comes from.

A state dict has no architecture, only names and shapes. They say enough for the modules with weights that are read
here: ``nn.LSTM`` and its kin name their tensors ``weight_ih_l{layer}{_reverse}`` and have 4, 3 or 1 rows of weights for
each hidden unit (LSTM, GRU, RNN); ``nn.Linear`` and ``nn.Embedding`` have one matrix ``weight``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from lstm_engine.errors import UnsupportedModelError

from .tensor_file import TensorFile

__all__ = ["CELL_TENSOR", "TorchModule", "choose", "find_modules"]

#: Names of the tensors of a recurrent module: what, layer (none for a cell), and whether of the reverse direction.
CELL_TENSOR: Final = re.compile(r"(weight_ih|weight_hh|weight_hr|bias_ih|bias_hh)(?:_l([0-9]{1,4})(_reverse)?)?")

#: Rows of weight_hh for each of its columns.
_KINDS: Final = {4: "LSTM", 3: "GRU", 1: "RNN"}

#: Keys and attributes under which checkpoints and wrappers put a model.
_WRAPPERS: Final = frozenset(
    {"state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "params", "ema", "module"}
)
_TRANSPARENT: Final = frozenset({"_orig_mod", "module", "_fsdp_wrapped_module"})


@dataclass(frozen=True, slots=True, eq=False)
class TorchModule:
    """One module that a file has weights of.

    Parameters
    ----------
    name
        Its path in the file, such as ``"encoder.rnn"``; empty for the top.
    kind
        ``"LSTM"``, ``"LSTMCell"``, ``"GRU"``, ``"GRUCell"``, ``"RNN"``, ``"RNNCell"``, ``"Linear"``, ``"Linear or
        Embedding"`` (one matrix and no bias), ``"Conv1d"`` (a weight of three axes), ``"BatchNorm"`` (with running
        statistics), ``"normalization"`` or ``"tensors"`` (anything else).
    shapes
        Shape of each of its own tensors by short name; None for one that cannot be read.
    layers, directions, input_size, hidden_size, projection_size
        Of a recurrent module, as far as its tensors say; projection_size is 0 for none.
    """

    name: str
    kind: str
    shapes: dict[str, tuple[int, ...] | None]
    layers: int = 0
    directions: int = 0
    input_size: int = 0
    hidden_size: int = 0
    projection_size: int = 0

    def tensor(self, short: str) -> str:
        """Return the full name of the tensor ``short``."""
        return f"{self.name}.{short}" if self.name else short

    def describe(self) -> str:
        """Return one line for people: kind, path and sizes."""
        place = repr(self.name) if self.name else "at the top ('')"
        if self.layers:
            parts = [
                f"{self.layers} layer{'s' if self.layers > 1 else ''}",
                "bidirectional" if self.directions == 2 else "one direction",
                f"input {self.input_size}",
                f"hidden {self.hidden_size}",
            ]
            if self.projection_size:
                parts.append(f"projection {self.projection_size}")
        else:
            # A shape is shown as PyTorch has it: (out_features, in_features), (num_embeddings, embedding_dim).
            parts = [f"{short} {shape}" for short, shape in list(self.shapes.items())[:6]]
        return f"{self.kind} {place} ({', '.join(parts)})"


def find_modules(file: TensorFile) -> list[TorchModule]:
    """Group the tensors of ``file`` to modules, in the file's order.

    Parameters
    ----------
    file
        Named tensors.

    Returns
    -------
    list of TorchModule
        One for each path that has tensors of its own.
    """
    groups: dict[str, dict[str, tuple[int, ...] | None]] = {}
    for full, array in file.tensors.items():
        module, _, short = full.rpartition(".")
        groups.setdefault(module, {})[short] = array.shape
    for full in file.unsupported:
        module, _, short = full.rpartition(".")
        groups.setdefault(module, {})[short] = None
    return [_module(name, shapes) for name, shapes in groups.items()]


def _module(name: str, shapes: dict[str, tuple[int, ...] | None]) -> TorchModule:
    if any(CELL_TENSOR.fullmatch(short) for short in shapes):
        return _recurrent(name, shapes)
    weight, bias = shapes.get("weight"), shapes.get("bias")
    kind = "tensors"
    if shapes.keys() <= {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}:
        if "running_mean" in shapes and "running_var" in shapes:
            kind = "BatchNorm"
        elif weight is not None and (len(weight) == 1 or (len(weight) > 1 and bias == weight)):
            kind = "normalization"
        elif weight is not None and len(weight) == 2:
            kind = "Linear" if "bias" in shapes else "Linear or Embedding"
        elif weight is not None and len(weight) == 3:
            kind = "Conv1d"
    return TorchModule(name, kind, shapes)


def _recurrent(name: str, shapes: dict[str, tuple[int, ...] | None]) -> TorchModule:
    found = [match for short in shapes if (match := CELL_TENSOR.fullmatch(short))]
    cell = not any(match.group(2) for match in found)
    layers = 1 if cell else 1 + max(int(match.group(2)) for match in found if match.group(2))
    directions = 2 if any(match.group(3) for match in found) else 1
    suffix = "" if cell else "_l0"
    input_weight = _matrix(shapes.get(f"weight_ih{suffix}"))
    projection = _matrix(shapes.get(f"weight_hr{suffix}"))
    rows, columns = next(
        (matrix for short, shape in shapes.items() if short.startswith("weight_hh") and (matrix := _matrix(shape))),
        (0, 0),
    )
    # Only an LSTM can have a projection, and its columns are then fewer than its units. Where the sizes fit nothing it
    # is taken for an LSTM, whose checks then say what does not fit.
    kind = "LSTM"
    if projection is None and columns and rows % columns == 0:
        kind = _KINDS.get(rows // columns, "LSTM")
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind]
    rows = rows or (input_weight[0] if input_weight else 0)
    return TorchModule(
        name,
        kind + ("Cell" if cell else ""),
        shapes,
        layers,
        directions,
        input_weight[1] if input_weight else 0,
        rows // gates,
        projection[0] if projection else 0,
    )


def _matrix(shape: tuple[int, ...] | None) -> tuple[int, int] | None:
    return (shape[0], shape[1]) if shape is not None and len(shape) == 2 else None


def _means(name: str, path: str) -> bool:
    """Return whether ``path`` is ``name`` without some of what checkpoints and wrappers put around a model.

    Only the file's own name is shortened: one who asks for ``ema.rnn`` must not get ``state_dict.rnn``.
    """
    parts, wanted = _parts(name), _parts(path)
    for start in range(len(parts) + 1):
        matched = 0
        for part in parts[start:]:
            if matched < len(wanted) and part == wanted[matched]:
                matched += 1
            elif part not in _TRANSPARENT:
                break
        else:
            if matched == len(wanted):
                return True
        if start < len(parts) and parts[start] not in _WRAPPERS | _TRANSPARENT:
            break
    return False


def _parts(name: str) -> list[str]:
    return name.split(".") if name else []


def choose(
    subject: str, modules: Sequence[TorchModule], what: str, kinds: Iterable[str], prefix: str | None
) -> TorchModule:
    """Return the one module that is meant.

    Parameters
    ----------
    subject
        The file, for messages.
    modules
        All modules of the file.
    what
        What is looked for, for messages, such as ``"an LSTM"``.
    kinds
        Kinds that will do.
    prefix
        The module's path; what checkpoints and wrappers put around it (``state_dict.``, ``module.``, ``_orig_mod.``)
        may be left out. None if the file has only one.

    Raises
    ------
    UnsupportedModelError
        If there is none, or more than one; with a list of what there is.
    """
    wanted = set(kinds)
    fitting = [module for module in modules if module.kind in wanted]
    hint = _hint(modules)
    if prefix is None:
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            raise UnsupportedModelError(
                f"{subject}: expected {what}, found {len(fitting)}; choose one with prefix:\n{_listed(fitting)}"
            )
        recurrent = [module for module in modules if module.layers]
        if recurrent and what == "an LSTM":
            raise UnsupportedModelError(
                f"{subject}: expected {what}, found only other recurrent layers; take them with le.GRU or le.RNN:\n"
                f"{_listed(recurrent)}"
            )
        raise UnsupportedModelError(f"{subject}: expected {what}, found none; {_there_is(modules)}{hint}")
    path = prefix.rstrip(".")
    same = [module for module in modules if module.name == path]
    if not same:
        same = [module for module in modules if _means(module.name, path)]
        if len(same) > 1:
            same = [module for module in same if module.kind in wanted] or same
    if not same:
        raise UnsupportedModelError(
            f"{subject}: expected {what} at prefix {prefix!r}, found nothing there; "
            f"{_there_is(fitting or modules)}{hint}"
        )
    if len(same) > 1:
        raise UnsupportedModelError(
            f"{subject}: expected {what} at prefix {prefix!r}, found {len(same)} of that name; give the whole path:\n"
            f"{_listed(same)}"
        )
    if same[0].kind not in wanted:
        found = same[0].describe()
        raise UnsupportedModelError(f"{subject}: expected {what} at prefix {prefix!r}, found {found}{hint}")
    return same[0]


def _listed(modules: Sequence[TorchModule]) -> str:
    lines = [f"  {module.describe()}" for module in modules[:20]]
    if len(modules) > 20:
        lines.append(f"  and {len(modules) - 20} more")
    return "\n".join(lines)


def _there_is(modules: Sequence[TorchModule]) -> str:
    return f"there is:\n{_listed(modules)}" if modules else "the file holds no tensors"


def _hint(modules: Iterable[TorchModule]) -> str:
    """Return what to do about layers whose weights are there in a form that is not read; a line of its own."""
    parts = {part for module in modules for part in _parts(module.name)}
    if not parts.isdisjoint({"_packed_params", "_all_weight_values"}):
        return (
            "\nIts layers are quantized and their weights packed, which only PyTorch can undo; save the state_dict() "
            "of the float model, from before it was quantized"
        )
    if "parametrizations" in parts:
        return (
            "\nSome of its weights are parametrized: call torch.nn.utils.parametrize.remove_parametrizations before "
            "saving"
        )
    return ""
