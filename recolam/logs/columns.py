"""Which column is which: by the user's mapping, or by the obvious names."""

from collections.abc import Mapping

import polars as pl

from recolam.errors import DataError
from recolam.logs.config import ColumnMapping
from recolam.logs.raw import Clock

OBVIOUS: Mapping[str, tuple[str, ...]] = {
    "user": ("user", "user_id", "userid"),
    "item": ("item", "item_id", "itemid"),
    "time": ("time", "timestamp", "event_time"),
    "position": ("position",),
    "event": ("event",),
    "value": ("value", "rating"),
    "title": ("title",),
    "tags": ("tags",),
    "domain": ("domain",),
}


def interaction_columns(
    frame: pl.DataFrame, mapping: ColumnMapping | None, *, where: str
) -> tuple[dict[str, str], Clock]:
    """Canonical -> original names of an interaction table, and whether its time is a clock or an order.

    Without a mapping the names in `OBVIOUS` are looked for, in any case of letters; a time is preferred to a position.

    Raises:
        DataError: no rows; a mapped or needed column is not there, or holds lists.
    """
    if frame.is_empty():
        raise DataError(f"{where}: no rows: the log is empty")
    found = _mapped(frame, mapping, where=where) if mapping else obvious_columns(frame, tuple(OBVIOUS))
    clock: Clock = "time" if "time" in found else "position"
    if clock == "position" and "position" in found:
        found["time"] = found["position"]
    found.pop("position", None)
    require(frame, found, ("user", "item", "time"), where=where)
    check_kinds(frame, found, where=where)
    return found, clock


def obvious_columns(frame: pl.DataFrame, wanted: tuple[str, ...]) -> dict[str, str]:
    """Those of the canonical names for which the frame has a column with an obvious name."""
    by_lower = {name.lower(): name for name in reversed(frame.columns)}
    found = {}
    for canonical in wanted:
        names = [by_lower[name] for name in OBVIOUS.get(canonical, (canonical,)) if name in by_lower]
        if names:
            found[canonical] = names[0]
    return found


def require(frame: pl.DataFrame, found: Mapping[str, str], wanted: tuple[str, ...], *, where: str) -> None:
    """Raises DataError naming the first canonical column that was not found, and what columns there are."""
    for canonical in wanted:
        if canonical not in found:
            names = ", ".join((*OBVIOUS.get(canonical, (canonical,)), *(OBVIOUS["position"] * (canonical == "time"))))
            raise DataError(f"{where}: no column for the {canonical} (looked for {names}); {_has(frame)}")


def check_kinds(frame: pl.DataFrame, found: Mapping[str, str], *, where: str) -> None:
    """Raises DataError where a column of single values holds lists, or a slate's items are no list."""
    for canonical, name in found.items():
        is_list = isinstance(frame.schema[name], pl.List)
        if is_list != (canonical == "items") and canonical != "tags":
            kind = "lists" if is_list else "single values"
            raise DataError(f"{where}: column {name!r} holds {kind}, which the {canonical} cannot be")


def _mapped(frame: pl.DataFrame, mapping: ColumnMapping, *, where: str) -> dict[str, str]:
    found = {canonical: name for canonical in OBVIOUS if (name := getattr(mapping, canonical)) is not None}
    for canonical, name in found.items():
        if name not in frame.columns:
            raise DataError(f"{where}: no column {name!r}, which the mapping names for the {canonical}; {_has(frame)}")
    return found


def _has(frame: pl.DataFrame) -> str:
    return "it has: " + ", ".join(name for name in frame.columns if name not in ("source_row", "defect"))
