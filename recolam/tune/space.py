"""What a search may choose: for every setting a list of values or a range.

    {"width": [64, 128], "dropout": {"low": 0.1, "high": 0.5}, "training.learning_rate": {"low": 3e-4, "high": 3e-3,
     "log": true}, "training.max_len": {"low": 20, "high": 200, "int": true}}

A key with dots names a setting of a nested config.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from recolam.contracts.config import merged
from recolam.errors import ConfigError

Value = bool | int | float | str | None


@dataclass(frozen=True)
class Choice:
    """One of these values; no order is assumed between them."""

    values: tuple[Value, ...]

    def probes(self) -> tuple[Value, ...]:
        return self.values

    def to_json(self) -> Any:
        return list(self.values)


@dataclass(frozen=True)
class Range:
    """A number from `low` to `high`, both included: real or whole, drawn evenly or (`log`) evenly in its logarithm."""

    low: float
    high: float
    log: bool = False
    is_int: bool = False

    def probes(self) -> tuple[Value, ...]:
        """The ends: where both are good settings, all between them are."""
        return self.low, self.high

    def to_json(self) -> Any:
        return {"low": self.low, "high": self.high, "log": self.log, "int": self.is_int}


Space = Mapping[str, Choice | Range]


def parse_space(values: Mapping[str, Any], *, where: str) -> Space:
    """The space that JSON values describe; `where` names the file in errors.

    Raises:
        ConfigError: no setting, or one that is neither a list of plain values nor a range of numbers.
    """
    if not values:
        raise ConfigError(f"{where}: the space names no setting")
    return {key: _dimension(value, where=f"{where}: {key}") for key, value in values.items()}


def check_space(space: Space, make: Callable[[Mapping[str, Any]], Any], *, where: str) -> None:
    """Tries every value of every list, and both ends of every range, one at a time over the other settings' base.

    Args:
        make: builds the config from values by their keys in the space, or raises ConfigError.

    Raises:
        ConfigError: `make` refused; names the key and the value.
    """
    for key, dimension in space.items():
        for value in dimension.probes():
            try:
                make({key: value})
            except ConfigError as error:
                raise ConfigError(f"{where}: {key}: {value!r} is no setting ({error})") from error


def over(base: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """`extra` over `base` at every depth; in `extra`, a key with dots stands for nested ones."""
    nested: dict[str, Any] = {}
    for key, value in extra.items():
        for part in reversed(key.split(".")):
            value = {part: value}
        nested = merged(nested, value)
    return merged(base, nested)


def space_json(space: Space) -> dict[str, Any]:
    """The space as JSON values: equal spaces have equal ones, however they were written."""
    return {key: dimension.to_json() for key, dimension in space.items()}


def _dimension(value: Any, *, where: str) -> Choice | Range:
    if isinstance(value, list):
        return _choice(value, where=where)
    if isinstance(value, Mapping):
        return _range(value, where=where)
    raise ConfigError(f'{where}: {value!r} is neither a list of values nor {{"low", "high"}}')


def _choice(values: list[Any], *, where: str) -> Choice:
    if not values:
        raise ConfigError(f"{where}: [] offers no value")
    for place, value in enumerate(values):
        if not isinstance(value, Value) or (isinstance(value, float) and not math.isfinite(value)):
            raise ConfigError(f"{where}: {value!r} is not a plain value")
        if value in values[:place]:
            raise ConfigError(f"{where}: {value!r} is named twice")
    return Choice(tuple(values))


def _range(value: Mapping[str, Any], *, where: str) -> Range:
    unknown = sorted(set(value) - {"low", "high", "log", "int"})
    missing = sorted({"low", "high"} - set(value))
    if unknown:
        raise ConfigError(f"{where}: unknown key {unknown[0]!r}; a range has low, high, log and int")
    if missing:
        raise ConfigError(f"{where}: {dict(value)!r} has no {missing[0]!r}")
    for name in ("log", "int"):
        if not isinstance(value.get(name, False), bool):
            raise ConfigError(f"{where}: {name}: {value[name]!r} is neither true nor false")
    low, high, is_int, log = value["low"], value["high"], value.get("int", False), value.get("log", False)
    for name, end in (("low", low), ("high", high)):
        if isinstance(end, bool) or not isinstance(end, int | float) or not math.isfinite(end):
            raise ConfigError(f"{where}: {name}: {end!r} is not a finite number")
        if is_int and end != int(end):
            raise ConfigError(f"{where}: {name}: {end!r} is not a whole number")
    if low > high:
        raise ConfigError(f"{where}: low {low!r} is above high {high!r}")
    if log and low <= 0:
        raise ConfigError(f"{where}: low {low!r} has no logarithm")
    return Range(int(low), int(high), log, is_int=True) if is_int else Range(float(low), float(high), log)
