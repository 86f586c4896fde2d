"""Options of a benchmark: the fields of its config, read from the command line's text and told in its help."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from recolam.errors import ConfigError

_FROM_ZERO = ("seed", "peer_steps")


def pairs(arguments: Sequence[str]) -> dict[str, str]:
    """`--some-name value` pairs as {"some_name": "value"}.

    Raises:
        ConfigError: an option without a value, or a value without an option.
    """
    if len(arguments) % 2:
        raise ConfigError(f"option {arguments[-1]!r} has no value")
    found = dict(zip(arguments[::2], arguments[1::2], strict=True))
    for name in found:
        if not name.startswith("--"):
            raise ConfigError(f"{name!r} is not an option")
    return {name[2:].replace("-", "_"): value for name, value in found.items()}


def values(config: type, options: Mapping[str, str]) -> dict[str, Any]:
    """The texts as values of the types that the config's defaults have; unknown options stay text.

    Raises:
        ConfigError: a text of another type than the option's.
    """
    kinds = {field.name: type(field.default) for field in fields(config)}
    return {key: _value(key, text, kinds.get(key, str)) for key, text in options.items()}


def described(config: type) -> str:
    """Every option with its choices or default, and what the config's docstring says of them; Markdown."""
    hints = get_type_hints(config)
    examples = {field.name.replace("_", "-"): _example(hints[field.name], field.default) for field in fields(config)}
    told = [f"--{name} {example}".strip() for name, example in examples.items()]
    return f"`{'`, `'.join(told)}`. {' '.join((inspect.getdoc(config) or '').split())}"


def _example(hint: Any, default: Any) -> str:
    if get_origin(hint) is Literal:
        return "|".join(get_args(hint))
    return "" if default is None else str(default).lower() if isinstance(default, bool) else str(default)


def _value(key: str, text: str, kind: type) -> Any:
    """`text` as the option's type; numbers are counts, so at least 1, but for a few."""
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ConfigError(f"bench option {key}: {text!r} is not true or false")
        return text.lower() == "true"
    if kind not in (int, float):
        return text
    try:
        value = kind(text)
    except ValueError as error:
        what = "a whole number" if kind is int else "a number"
        raise ConfigError(f"bench option {key}: {text!r} is not {what}") from error
    if kind is float:
        return value
    least = 0 if key in _FROM_ZERO else 1
    if value < least:
        raise ConfigError(f"bench option {key}: {value} is below {least}")
    return value
