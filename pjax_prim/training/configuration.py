"""Dataclasses from and to plain values: what configuration files and `config.json` hold."""

import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path, PurePath
from typing import Any, Literal, TypeVar, Union

from ..checkpoint import as_path
from ..errors import ArgumentError
from ..sharding.mesh import nearest

Config = TypeVar("Config")


def to_plain(value: Any) -> Any:
    """Dataclasses, also nested ones, as dictionaries that JSON takes; tuples as lists, paths as text."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple | list):
        return [to_plain(x) for x in value]
    if isinstance(value, dict):
        return {name: to_plain(x) for name, x in value.items()}
    return str(value) if isinstance(value, PurePath) else value


def flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested values by names with dots."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        place = f"{before}{name}"
        found |= flat(value, f"{place}.") if isinstance(value, Mapping) else {place: value}
    return found


def from_plain(
    kind: type[Config], values: Any, default: Config | None = None, where: str = "configuration"
) -> Config:
    """The inverse of `to_plain`.

    **Arguments:** `default`: what fields have that are not among the values; by default what the class says.

    **Errors:** `ArgumentError` for a name that is no field, with the nearest one; for a value of another
    type; for a field without value; those of the class.
    """
    if not isinstance(values, dict):
        raise ArgumentError(f"{where}: not a configuration: expected a table, given {values!r}")
    hints = typing.get_type_hints(kind)
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    for name in values:
        if name not in known:
            nested = [place for place in _places(kind) if place.endswith(f".{name}")]
            hint = f"; did you mean {' or '.join(nested)}?" if nested else nearest(str(name), list(known))
            raise ArgumentError(f"{where}: {name}: no such field{hint}")
    found: dict[str, Any] = {}
    for name, field in known.items():
        kept = MISSING if default is None else getattr(default, name)
        if name in values and is_dataclass(hints[name]):
            inner = None if kept is MISSING else kept
            found[name] = from_plain(hints[name], values[name], inner, f"{where}: {name}")
        elif name in values:
            found[name] = _convert(hints[name], values[name], f"{where}: {name}")
        elif kept is not MISSING:
            found[name] = kept
        elif field.default is MISSING and field.default_factory is MISSING:
            raise ArgumentError(f"{where}: {name}: no value, and it has no default")
    return kind(**found)


def _places(kind: Any, before: str = "") -> list[str]:
    """The fields of nested dataclasses, by names with dots."""
    found: list[str] = []
    for name, hint in typing.get_type_hints(kind).items():
        found += _places(hint, f"{before}{name}.") if is_dataclass(hint) else [f"{before}{name}"]
    return found


def _convert(hint: Any, value: Any, where: str) -> Any:
    """The value as the annotation says, as far as plain values can tell. `ArgumentError` where it does not
    fit."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        for option in arguments:
            try:
                return _convert(option, value, where)
            except ArgumentError:
                continue
    elif origin is Literal:
        if value in arguments:
            return value
    elif origin is typing.Annotated:
        return _convert(arguments[0], value, where)
    elif origin in (tuple, list) and isinstance(value, tuple | list):
        kinds = arguments[:1] * len(value) if len(arguments) < 2 or arguments[1] is ... else arguments
        if len(kinds) == len(value):
            made = [_convert(k, x, where) for k, x in zip(kinds, value, strict=True)]
            return tuple(made) if origin is tuple else made
    elif origin is dict and isinstance(value, dict):
        return {name: _convert(arguments[1], x, where) for name, x in value.items()}
    elif hint is Any:
        return value
    elif hint in (None, type(None)):
        if value is None:
            return None
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif hint is Path and isinstance(value, str | PurePath):
        return as_path(value)
    elif isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    expected = ", ".join(map(repr, arguments)) if origin is Literal else getattr(hint, "__name__", str(hint))
    raise ArgumentError(f"{where}: expected {expected}, given {value!r}")
