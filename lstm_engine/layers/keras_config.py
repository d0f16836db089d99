"""A Keras layer's configuration, read option by option, so that none is passed over in silence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import numpy as np

from lstm_engine.activations import Activation
from lstm_engine.description import LayerDescription
from lstm_engine.errors import FormatError, ShapeError, UnsupportedModelError
from lstm_engine.formats.limits import nonfinite_allowed

from .base import Array
from .functions import LayerActivation
from .keras_activations import KerasVersion, activation_from_keras, gate_activation_from_keras, number

__all__ = ["KerasConfig", "Problems"]

T = TypeVar("T")

#: Options of any layer that say nothing about the result at inference.
_WITHOUT_EFFECT: Final = frozenset(
    {
        "activity_regularizer",
        "autocast",
        "batch_input_shape",
        "batch_shape",
        "dtype",
        "input_dtype",
        "input_shape",
        "name",
        "trainable",
    }
)
_WITHOUT_EFFECT_ENDS: Final = ("_constraint", "_initializer", "_regularizer")


class Problems:
    """What is wrong with a model's layers, gathered so that it can be told all at once."""

    def __init__(self) -> None:
        self.unsupported: list[str] = []
        self.damaged: list[str] = []

    def __len__(self) -> int:
        return len(self.unsupported) + len(self.damaged)


class KerasConfig:
    """The configuration and weights of one layer.

    Each option is asked for by name; :meth:`finish` refuses what was not asked for. A problem is noted, and a usable
    value returned, so that all problems of a model come to light together.

    Parameters
    ----------
    layer
        The layer.
    version
        Keras's version.
    problems
        Where problems are noted.
    where
        What the layer is part of, for messages, such as ``" in TimeDistributed 'td'"``.
    """

    def __init__(self, layer: LayerDescription, version: KerasVersion, problems: Problems, where: str = "") -> None:
        self.layer, self.version, self.problems = layer, version, problems
        self.subject = f"layer {layer.name!r} ({layer.class_name}){where}"
        self._asked: set[str] = set()

    def built(self, build: Callable[[KerasConfig], T]) -> T | None:
        """Return what ``build`` makes of the configuration, or None if there are problems, which are noted."""
        noted = len(self.problems)
        try:
            result = build(self)
        except LookupError:
            return None  # noted already
        except UnsupportedModelError as error:
            self.problems.unsupported.append(f"{self.subject}: {error}")
            return None
        except (FormatError, ShapeError) as error:
            self.problems.damaged.append(f"{self.subject}: {error}")
            return None
        self.finish()
        return result if len(self.problems) == noted else None

    def inner(self, builders: Mapping[str, Callable[[KerasConfig], T]], roles: Sequence[str] = ()) -> list[T]:
        """Return what is made of the layers that this one holds: of all, or of those with these roles.

        Raises
        ------
        LookupError
            If one of them is missing, not among ``builders``, or has problems; they are noted.
        """
        results: list[T] = []
        roles = roles or tuple(self.layer.inner)
        for role in roles:
            description = self.layer.inner.get(role)
            build = None if description is None else builders.get(description.class_name)
            if description is None or build is None:
                found = None if description is None else description.class_name
                self.unsupported(role, found, f"one of {', '.join(sorted(builders))}")
                continue
            config = KerasConfig(description, self.version, self.problems, f" in {self.subject}")
            results += [result for result in [config.built(build)] if result is not None]
        if len(results) < len(roles):
            raise LookupError("inner")
        return results

    # --- Problems -----------------------------------------------------------------------------------------------

    def unsupported(self, option: str, value: Any, expected: str = "") -> None:
        """Note that an option has a value that is not implemented."""
        wanted = f"; expected {expected}" if expected else ""
        self.problems.unsupported.append(f"{self.subject}: {option}={_shown(value)} is not supported{wanted}")

    def damaged(self, option: str, value: Any, expected: str) -> None:
        """Note that an option has a value that Keras never writes."""
        self.problems.damaged.append(f"{self.subject}: expected {option} to be {expected}, found {_shown(value)}")

    def finish(self) -> None:
        """Note every option that nobody asked for; one that is None asks for nothing."""
        for option, value in self.layer.config.items():
            ignored = option in _WITHOUT_EFFECT or option.endswith(_WITHOUT_EFFECT_ENDS) or option in self._asked
            if not ignored and value is not None:
                self.unsupported(option, value, "an option that is known to this version of lstm_engine")

    # --- Options ------------------------------------------------------------------------------------------------

    def ignore(self, *options: str) -> None:
        """Name options that have no effect at inference."""
        self._asked.update(options)

    def _option(self, option: str, default: T, expected: str, read: Callable[[Any], T | None]) -> T:
        self._asked.add(option)
        if option not in self.layer.config:
            return default
        value = self.layer.config[option]
        found = read(value)
        if found is None:
            self.damaged(option, value, expected)
            return default
        return found

    def flag(self, option: str, default: bool) -> bool:
        """Return a boolean; None, as some versions write it, is False."""
        return self._option(
            option,
            default,
            "true or false",
            lambda value: bool(value) if value is None or isinstance(value, bool) or value in (0, 1) else None,
        )

    def integer(self, option: str, default: int) -> int:
        """Return a whole number."""
        return self._option(option, default, "a whole number", _integer)

    def integers(self, option: str, default: tuple[int, ...]) -> tuple[int, ...]:
        """Return one whole number or a list of them, as a tuple."""

        def read(value: Any) -> tuple[int, ...] | None:
            values = [_integer(part) for part in (value if isinstance(value, list) else [value])]
            return None if None in values else tuple(part for part in values if part is not None)

        return self._option(option, default, "a whole number or a list of them", read)

    def number(self, option: str, default: float) -> float:
        """Return a finite number."""
        return self._option(option, default, "a finite number", number)

    def number_or_none(self, option: str) -> float | None:
        """Return a number, or None if there is none."""
        self._asked.add(option)
        return None if self.layer.config.get(option) is None else self.number(option, 0.0)

    def choice(self, option: str, default: str, choices: tuple[str | None, ...]) -> str | None:
        """Return one of ``choices``, which may include None."""
        self._asked.add(option)
        value = self.layer.config.get(option, default)
        if value not in choices:
            self.unsupported(option, value, f"one of {', '.join(map(repr, choices))}")
            return default
        return value if value is None else str(value)

    def refuse(self, option: str, supported: Any) -> None:
        """Note an option that has any value but the one that is implemented."""
        self._asked.add(option)
        value = self.layer.config.get(option, supported)
        if value != supported:
            self.unsupported(option, value, repr(supported))

    def channels_first(self) -> bool:
        """Return whether ``data_format`` says that axis 1 holds the channels."""
        self._asked.add("data_format")
        if self.layer.config.get("data_format") is None:
            return False
        return self.choice("data_format", "channels_last", ("channels_last", "channels_first")) == "channels_first"

    def activation(self, option: str, default: str) -> LayerActivation:
        """Return a layer's activation."""
        self._asked.add(option)
        try:
            return activation_from_keras(self.layer.config.get(option, default), self.version)
        except UnsupportedModelError as error:
            self.problems.unsupported.append(f"{self.subject}: {option}={error} is not supported")
            return None

    def gate_activation(self, option: str, default: str) -> Activation:
        """Return an activation of an LSTM's gates."""
        self._asked.add(option)
        try:
            return gate_activation_from_keras(self.layer.config.get(option, default), self.version)
        except UnsupportedModelError as error:
            self.problems.unsupported.append(f"{self.subject}: {option}={error} is not supported")
            return Activation("linear")

    # --- Weights ------------------------------------------------------------------------------------------------

    def weight(self, name: str) -> Array:
        """Return a weight, which must be there and finite.

        Raises
        ------
        LookupError
            If it is not; the problem is noted.
        """
        array = self.layer.weights.get(name)
        if array is None:
            self.problems.damaged.append(f"{self.subject}: expected a weight {name!r}, found none")
            raise LookupError(name)
        if array.dtype.kind != "f":
            self.problems.unsupported.append(
                f"{self.subject}: {name} has dtype {array.dtype}; expected floating point: save without quantization"
            )
            raise LookupError(name)
        if not (nonfinite_allowed() or np.isfinite(array).all()):
            self.problems.unsupported.append(
                f"{self.subject}: {name} holds NaN or infinity; expected finite weights: export the model again from "
                "a sound checkpoint, or load it with allow_nonfinite=True"
            )
            raise LookupError(name)
        dtype = np.float64 if array.dtype == np.float64 else np.float32
        return np.ascontiguousarray(array, dtype=dtype)

    def weight_if(self, used: bool, name: str) -> Array | None:
        """Return a weight if it is used, else None."""
        return self.weight(name) if used else None


def _integer(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."
