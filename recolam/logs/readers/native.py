"""The project's own raw format, which the demo world writes: Parquet files with events, items and logged slates."""

from recolam.errors import DataError
from recolam.logs.columns import check_kinds, require
from recolam.logs.config import ColumnMapping
from recolam.logs.raw import RawLog, RawTable
from recolam.logs.readers.reader import Reader, present
from recolam.logs.readers.table import item_table, read_table
from recolam.logs.source import Source

_INTERACTIONS, _ITEMS, _SLATES = "interactions.parquet", "items.parquet", "slates.parquet"
_EVENT_COLUMNS = {"user": "user_id", "item": "item_id", "time": "event_time", "event": "event", "value": "value"}
_SLATE_COLUMNS = {
    "slate_id": "slate_id",
    "session": "session_id",
    "step": "step",
    "user": "user_id",
    "time": "event_time",
    "items": "items",
    "log_propensity": "log_propensity",
    "choice": "choice",
    "reward": "reward",
    "left": "left",
}


def _read(source: Source, mapping: ColumnMapping | None) -> RawLog:
    for name in (_INTERACTIONS, _ITEMS):
        if source.find(name) is None:
            raise DataError(f"{source.path}: no {name}; members: {', '.join(source.names[:10]) or 'none'}")
    slates = None if source.find(_SLATES) is None else _table(source, _SLATES, _SLATE_COLUMNS)
    items = item_table(source, source.find(_ITEMS) or _ITEMS, kind="parquet")
    return RawLog(_table(source, _INTERACTIONS, _EVENT_COLUMNS), items, slates, clock="time", event="interaction")


def _table(source: Source, name: str, columns: dict[str, str]) -> RawTable:
    name = source.find(name) or name
    where = f"{source.path}: {source.label(name)}"
    frame = read_table(source, name, kind="parquet")
    found = {canonical: column for canonical, column in columns.items() if column in frame.columns}
    optional = ("event", "value")
    require(frame, found, tuple(name for name in columns if name not in optional), where=where)
    check_kinds(frame, found, where=where)
    return RawTable(frame, found, source.label(name), "row")


def _files(source: Source) -> list[str]:
    has_items = source.find(_ITEMS) is not None
    return present(source, _INTERACTIONS, _ITEMS, _SLATES) if has_items else []


READER = Reader("recolam", _files, _read)
