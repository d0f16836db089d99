"""Descriptions as JSON and named arrays, and back, by the types that their fields are declared with.

A description is a tree of dataclasses, mappings, tuples, plain values and arrays. An array is kept outside of the JSON
and stands in it as ``{"tensor": name}``. Reading checks every value against its field's type, so that what comes out of
a stranger's file is as well-formed as what went in; a key that no field is called after is passed over.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from lstm_engine.errors import FormatError, UnsupportedModelError

__all__ = ["decode", "encode"]

T = TypeVar("T")

#: Fields that say where a description came from; the file that it is written to is another.
_NOT_KEPT = ("source", "sources", "saved_by")


def encode(description: Any, tensors: dict[str, NDArray[Any]], prefix: tuple[str, ...] = ()) -> Any:
    """Return a description as JSON values.

    Parameters
    ----------
    description
        A dataclass.
    tensors
        Gets the arrays by name; an array that stands in several places is named once.
    prefix
        What the names of the arrays begin with.

    Raises
    ------
    UnsupportedModelError
        If it holds a value that JSON has no words for.
    """
    names = {id(array): name for name, array in tensors.items()}
    return _Encoder(tensors, names).value(type(description), description, prefix)


class _Encoder:
    def __init__(self, tensors: dict[str, NDArray[Any]], names: dict[int, str]) -> None:
        self._tensors, self._names = tensors, names

    def value(self, hint: Any, value: Any, path: tuple[str, ...]) -> Any:
        if isinstance(value, np.ndarray) and hint is not Any:
            return {"tensor": self._named(value, path)}
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            hints = _hints(type(value))
            return {
                field.name: self.value(hints[field.name], part, path)
                for field in dataclasses.fields(value)
                if field.name not in _NOT_KEPT and not _is_default(field, part := getattr(value, field.name))
            }
        if isinstance(value, Mapping):
            inside = _part(hint, 1)
            return {str(key): self.value(inside, part, (*path, str(key))) for key, part in value.items()}
        if isinstance(value, (tuple, list)):
            inside = _part(hint, 0)
            return [self.value(inside, part, (*path, getattr(part, "name", str(n)))) for n, part in enumerate(value)]
        if value is None or type(value) in (bool, int, float, str):
            return value
        raise UnsupportedModelError(
            f"{'.'.join(path)}: a value of the type {type(value).__name__} cannot be saved; expected plain values"
        )

    def _named(self, array: NDArray[Any], path: tuple[str, ...]) -> str:
        if id(array) not in self._names:
            base = ".".join(filter(None, path)) or "tensor"
            name, number = base, 0
            while name in self._tensors or name == "__metadata__":
                number += 1
                name = f"{base}_{number}"
            self._tensors[name], self._names[id(array)] = array, name
        return self._names[id(array)]


def decode(kind: type[T], tree: Any, tensors: Mapping[str, NDArray[Any]], subject: str) -> T:
    """Return the description that JSON values mean.

    Parameters
    ----------
    kind
        The dataclass.
    tree
        The parsed JSON.
    tensors
        The arrays by name.
    subject
        What the JSON was read from, for messages.

    Raises
    ------
    FormatError
        If a value is missing or of another type than its field.
    """
    result: T = _decoded(kind, tree, tensors, subject)
    return result


def _decoded(hint: Any, tree: Any, tensors: Mapping[str, NDArray[Any]], place: str) -> Any:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return tree
    if origin in (typing.Union, types.UnionType):
        for part in parts:
            if _may_be(part, tree):
                return _decoded(part, tree, tensors, place)
    elif isinstance(hint, type) and dataclasses.is_dataclass(hint) and isinstance(tree, dict):
        hints = _hints(hint)
        values = {}
        for field in dataclasses.fields(hint):
            if field.name in tree:
                values[field.name] = _decoded(hints[field.name], tree[field.name], tensors, f"{place}.{field.name}")
            elif field.name == "source":
                values[field.name] = ""
            elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                raise FormatError(f"{place}: expected a value {field.name!r}, found none")
        return hint(**values)
    elif origin is tuple and isinstance(tree, list):
        return tuple(_decoded(parts[0], value, tensors, f"{place}[{n}]") for n, value in enumerate(tree))
    elif origin is np.ndarray and _may_be(hint, tree):
        if tree["tensor"] not in tensors:
            raise FormatError(f"{place}: expected a tensor {tree['tensor']!r:.100} in the file, found none")
        return tensors[tree["tensor"]]
    elif isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(tree, dict):
        return {key: _decoded(parts[1], value, tensors, f"{place}.{key:.100}") for key, value in tree.items()}
    elif _may_be(hint, tree):
        return tree
    raise FormatError(f"{place}: expected {_wording(hint)}, found {tree!r:.100}")


def _may_be(hint: Any, tree: Any) -> bool:
    """Return whether a value has the outer form of a type."""
    origin = typing.get_origin(hint)
    if origin is tuple:
        return isinstance(tree, list) and all(_may_be(typing.get_args(hint)[0], value) for value in tree)
    if origin is np.ndarray:
        return isinstance(tree, dict) and isinstance(tree.get("tensor"), str)
    if origin in (typing.Union, types.UnionType):
        return any(_may_be(part, tree) for part in typing.get_args(hint))
    if origin is not None or dataclasses.is_dataclass(hint):
        return isinstance(tree, dict)
    return hint is Any or type(tree) is hint


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _part(hint: Any, place: int) -> Any:
    """Return the type of what a container holds; Any in what is plain JSON."""
    for option in typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,):
        parts = typing.get_args(option)
        if len(parts) > place:
            return parts[place]
    return Any


def _is_default(field: dataclasses.Field[Any], value: Any) -> bool:
    if field.default is not dataclasses.MISSING:
        return bool(value == field.default) and type(value) is type(field.default)
    return field.default_factory is not dataclasses.MISSING and not value


def _wording(hint: Any) -> str:
    return getattr(hint, "__name__", None) or str(hint).replace("typing.", "")
