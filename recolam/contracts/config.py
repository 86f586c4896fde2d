"""Configs are frozen dataclasses; these functions move them from and to JSON, refusing what does not fit."""

import dataclasses
import json
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from recolam.errors import ConfigError

Config = TypeVar("Config")


def from_mapping(cls: type[Config], values: Mapping[str, Any], *, where: str) -> Config:
    """Builds `cls` from JSON-like values.

    Raises:
        ConfigError: an unknown or missing key, a value whose type is not the field's, or one that the config itself
            refuses; `where` names the source.
    """
    hints = typing.get_type_hints(cls)
    known = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ConfigError(f"{where}: unknown key {unknown[0]!r}; known keys: {', '.join(sorted(known))}")
    for name, field in known.items():
        if name not in values and field.default is field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{where}: {name!r} is missing")
    converted = {key: _convert(value, hints[key], where=f"{where}.{key}") for key, value in values.items()}
    try:
        return cls(**converted)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error


def to_mapping(config: Any) -> dict[str, Any]:
    """The JSON form of a config; `from_mapping` reads it back."""
    return dataclasses.asdict(config)


def merged(base: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """`extra` over `base`, key by key at every depth."""
    result = dict(base)
    for key, value in extra.items():
        below = result.get(key)
        is_nested = isinstance(value, Mapping) and isinstance(below, Mapping)
        result[key] = merged(below, value) if is_nested else value  # type: ignore[arg-type]
    return result


def read_settings(path: Path) -> dict[str, Any]:
    """The JSON object in a settings file.

    Raises:
        ConfigError: no such file, or its text is not a JSON object.
    """
    try:
        values = json.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path}: no such config file ({error.strerror})") from error
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}: line {error.lineno}, column {error.colno}: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not text in UTF-8 ({error})") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: a JSON object is needed, not {type(values).__name__}")
    return values


def _convert(value: Any, hint: Any, *, where: str) -> Any:
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return from_mapping(hint, value, where=where)  # type: ignore[arg-type]
    if origin in (typing.Union, types.UnionType):
        return _convert_union(value, typing.get_args(hint), where=where)
    if origin is typing.Literal:
        if value not in typing.get_args(hint):
            raise ConfigError(f"{where}: {value!r} is not one of {', '.join(map(repr, typing.get_args(hint)))}")
        return value
    if origin is tuple and isinstance(value, (list, tuple)):
        return _convert_tuple(value, typing.get_args(hint), where=where)
    if origin is dict and isinstance(value, Mapping):
        return {key: _convert(item, typing.get_args(hint)[1], where=f"{where}.{key}") for key, item in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    plain = origin or hint
    if plain is not Any and (not isinstance(value, plain) or (isinstance(value, bool) and plain is not bool)):
        raise ConfigError(f"{where}: {value!r} is not of type {getattr(hint, '__name__', hint)}")
    return value


def _convert_tuple(value: Sequence[Any], options: tuple[Any, ...], *, where: str) -> tuple[Any, ...]:
    if options[-1] is Ellipsis:
        options = options[:1] * len(value)
    if len(value) != len(options):
        raise ConfigError(f"{where}: {value!r} has {len(value)} values, not {len(options)}")
    pairs = zip(value, options, strict=True)
    return tuple(_convert(item, option, where=f"{where}[{place}]") for place, (item, option) in enumerate(pairs))


def _convert_union(value: Any, options: tuple[Any, ...], *, where: str) -> Any:
    if value is None and type(None) in options:
        return None
    for option in options:
        if option is type(None):
            continue
        try:
            return _convert(value, option, where=where)
        except ConfigError as error:
            last = error
    raise last
