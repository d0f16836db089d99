"""What a Keras file of any generation holds, and the one way from there to a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from lstm_engine.description import ModelDescription
from lstm_engine.errors import FormatError

from .keras_config import parse_model
from .keras_layers import KerasLayer, Problems, shown

__all__ = ["KerasSource", "checked_version"]


@dataclass(frozen=True, slots=True)
class KerasSource:
    """The parts of a Keras file that are read by themselves.

    Parameters
    ----------
    subject
        The file's path, for messages.
    format, version
        As in :class:`~lstm_engine.description.ModelDescription`.
    config
        The model's configuration as parsed JSON.
    config_subject, weights_subject
        Where the configuration and the weights come from, for messages.
    inferred
        What the file does not say and was worked out, in sentences.
    ignored
        What of the file does nothing at inference.
    """

    subject: str
    format: str
    version: str
    config: Any
    config_subject: str
    weights_subject: str
    inferred: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()

    def model(self, read_weights: Callable[[list[KerasLayer], Problems], None]) -> ModelDescription:
        """Return the model.

        Parameters
        ----------
        read_weights
            Reads the weights into the layers, and notes what is wrong with them.
        """
        model = parse_model(self.config, self.config_subject, self.version)
        problems = Problems(self.weights_subject)
        read_weights(model.saved, problems)
        problems.raise_if_any()
        description = model.description(self.subject, self.format, self.version, self.inferred)
        return replace(description, ignored=self.ignored)


def checked_version(version: Any, subject: str) -> str:
    """Return a version of Keras, or raise FormatError if it is none."""
    if not isinstance(version, str) or not version[:1].isdigit() or len(version) > 100:
        raise FormatError(f"{subject}: expected keras_version to be a version, found {shown(version)}")
    return version
