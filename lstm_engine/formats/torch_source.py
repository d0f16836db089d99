"""One module of PyTorch out of a file, a state dict or a live module: its tensors, found and checked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lstm_engine.errors import FormatError, UnsupportedModelError, raise_together

from .limits import nonfinite_allowed
from .tensor_file import TensorFile, flatten, read_tensors
from .torch_modules import TorchModule, choose, find_modules
from .torch_weight_norm import fold_weight_norm

__all__ = ["FoundModule", "Source", "check_module", "find_module", "is_module", "torch_class"]

Source = str | os.PathLike[str] | Mapping[str, Any] | Any


@dataclass(frozen=True, slots=True, eq=False)
class FoundModule:
    """A module that was found, with the file that it stands in."""

    file: TensorFile
    module: TorchModule

    def tensor(self, short: str) -> NDArray[Any] | None:
        """Return the tensor of a short name, or None if the module has none."""
        return self.file.tensors.get(self.module.tensor(short))

    def full(self, short: str) -> str:
        """Return the full name of a tensor."""
        return self.module.tensor(short)

    def dtype_problems(self) -> list[str]:
        """Name the tensors that hold no floating-point numbers; a batch counter does not count."""
        return [
            f"{self.full(short)}: expected floating-point numbers, found dtype {array.dtype}"
            for short in self.module.shapes
            if short != "num_batches_tracked" and (array := self.tensor(short)) is not None and array.dtype.kind != "f"
        ]

    def shape_problems(self, expected: Mapping[str, tuple[int, ...]]) -> list[str]:
        """Name the tensors that are missing or of another shape."""
        problems: list[str] = []
        for short, shape in expected.items():
            if short not in self.module.shapes:
                # The way out is looked for among all names, so not for each of ten thousand.
                hint = self._computed(short) if len(problems) < 20 else ""
                problems.append(f"{self.full(short)}: missing{self._wanted(shape)}{hint}")
            elif self.module.shapes[short] != shape:
                problems.append(f"{self.full(short)}: expected shape {shape}, found {self.module.shapes[short]}")
        return problems

    @staticmethod
    def _wanted(shape: tuple[int, ...]) -> str:
        return "" if 0 in shape else f"; expected shape {shape}"  # a size of 0 is one that nothing tells

    def _computed(self, short: str) -> str:
        """Return what to do about a tensor that is missing because PyTorch computes it from others."""
        others = f"{self.full('parametrizations')}.{short}."
        if any(name.startswith(others) for name in [*self.file.tensors, *self.file.unsupported]):
            return "; it is parametrized: call torch.nn.utils.parametrize.remove_parametrizations before saving"
        if f"{short}_g" in self.module.shapes and f"{short}_v" in self.module.shapes:
            return "; it is weight-normalised: call torch.nn.utils.remove_weight_norm before saving"
        if f"{short}_orig" in self.module.shapes:
            return "; it is pruned or spectrally normalised: call prune.remove or remove_spectral_norm before saving"
        return ""

    def check(self, problems: list[str]) -> None:
        """Raise for ``problems``, for dtypes that are none of numbers, and unless it is allowed for weights not finite.

        Raises
        ------
        FormatError, UnsupportedModelError
            Naming all of it.
        """
        raise_together(FormatError, self.file.path, problems + self.dtype_problems())
        if nonfinite_allowed():
            return
        broken = [
            f"{self.full(short)} holds NaN or infinity; expected finite weights: "
            "export the model again from a sound checkpoint"
            for short in self.module.shapes
            if (array := self.tensor(short)) is not None and not np.isfinite(array).all()
        ]
        raise_together(UnsupportedModelError, self.file.path, broken)


def is_module(source: Source) -> bool:
    """Return whether ``source`` is given as a live module: it is no path and no state dict."""
    return not isinstance(source, str | os.PathLike | Mapping)


def find_module(
    source: Source, what: str, classes: tuple[str, ...], kinds: tuple[str, ...], prefix: str | None
) -> FoundModule:
    """Return the one module that is meant.

    Parameters
    ----------
    source
        Path of a file, a state dict, or a module of PyTorch.
    what
        What is looked for, for messages, such as ``"an LSTM"``.
    classes
        Classes of torch.nn that a live module may have.
    kinds
        Kinds of :class:`~lstm_engine.formats.torch_modules.TorchModule` that will do.
    prefix
        As of :func:`~lstm_engine.formats.torch_modules.choose`.

    Returns
    -------
    FoundModule
        Its tensors can all be read.

    Raises
    ------
    LstmEngineError
        If it is not there, or not the only one, or a tensor of it cannot be read.
    """
    if isinstance(source, str | os.PathLike):
        file = read_tensors(source)
    else:
        subject, state = "the state dict", source
        if not isinstance(source, Mapping):
            subject = check_module(source, classes)
            state = source.state_dict()
        file = TensorFile(subject, "mapping", *flatten(state, subject))
    file = fold_weight_norm(file)
    found = FoundModule(file, choose(file.path, find_modules(file), what, kinds, prefix))
    raise_together(
        UnsupportedModelError,
        file.path,
        [
            f"{found.full(short)} cannot be read: {file.unsupported[found.full(short)]}; convert it to float32 first"
            for short, shape in found.module.shapes.items()
            if shape is None
        ],
    )
    return found


def check_module(source: Any, classes: tuple[str, ...]) -> str:
    """Return the class name of a live module that is one of ``classes`` of torch.nn and computes as they do.

    Raises
    ------
    UnsupportedModelError
        If it is none, or computes something of its own: with a ``forward``, a hook or a parametrization.
    """
    kind: Any = type(source)
    name = f"{kind.__module__}.{kind.__qualname__}"
    base = _base(source, classes)
    if base is not None:
        if kind.forward is not base.forward:
            raise UnsupportedModelError(
                f"source: {name} has a forward of its own, which may compute something else than "
                f"nn.{base.__name__}; if it does not, give its state_dict()"
            )
        _check_additions(source, name)
        return name
    wanted = " or ".join(f"torch.nn.{known}" for known in classes)
    if hasattr(source, "state_dict"):
        raise UnsupportedModelError(
            f"source: expected a {wanted}, found a {name}; for a layer inside of a larger module give "
            "module.state_dict() and the layer's prefix"
        )
    raise UnsupportedModelError(f"source: expected a path, a state dict or a {wanted}, found {name}")


def _base(source: Any, classes: tuple[str, ...]) -> Any:
    """Return the class of torch.nn among ``classes`` that ``source`` is or comes from, or None."""
    for base in type(source).__mro__:
        if base.__name__ in classes and base.__module__.startswith("torch.nn.modules."):
            return base
    return None


def torch_class(source: Any, classes: tuple[str, ...]) -> str | None:
    """Return the name of the class of torch.nn among ``classes`` that a live module is or comes from, or None."""
    base = _base(source, classes)
    return None if base is None else str(base.__name__)


def _check_additions(source: Any, name: str) -> None:
    """Refuse what users hang on a module to change what it computes; weight normalisation is understood."""
    if "forward" in getattr(source, "__dict__", {}):
        raise UnsupportedModelError(
            f"source: the forward of this {name} has been replaced by another one, whose results may differ; put the "
            "class's own back (del module.forward), or give the state_dict()"
        )
    hooks = [
        hook
        for hooks in ("_forward_pre_hooks", "_forward_hooks")
        for hook in getattr(source, hooks, {}).values()
        if type(hook).__module__ != "torch.nn.utils.weight_norm"
    ]
    if hooks:
        shown = getattr(hooks[0], "__qualname__", type(hooks[0]).__qualname__)
        raise UnsupportedModelError(
            f"source: {name} has the forward hook {shown}, which may change what it computes; "
            "remove it (for torch.nn.utils.spectral_norm by remove_spectral_norm), or give the state_dict()"
        )
    for weight, parametrizations in getattr(source, "parametrizations", {}).items():
        kinds = [type(part).__qualname__ for part in parametrizations]
        if kinds != ["_WeightNorm"]:
            raise UnsupportedModelError(
                f"source: the {weight} of {name} is parametrized by {', '.join(kinds)}; expected weight_norm alone: "
                f"call torch.nn.utils.parametrize.remove_parametrizations(module, {weight!r}) first"
            )
