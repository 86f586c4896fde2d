"""Any CSV, Parquet or JSON Lines table of interactions, alone or beside a table of items (the Amazon layout)."""

from collections.abc import Callable
from typing import Literal

import polars as pl

from recolam.errors import DataError
from recolam.logs.columns import check_kinds, interaction_columns, obvious_columns, require
from recolam.logs.config import ColumnMapping
from recolam.logs.parse import parse_csv, parse_jsonl, parse_parquet
from recolam.logs.raw import RawLog, RawTable
from recolam.logs.readers.reader import Reader
from recolam.logs.source import Source

Kind = Literal["csv", "tsv", "parquet", "jsonl"]
_ENDINGS: dict[Kind, tuple[str, ...]] = {
    "csv": (".csv", ".csv.gz"),
    "tsv": (".tsv", ".tsv.gz"),
    "parquet": (".parquet",),
    "jsonl": (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz"),
}
_PARSERS: dict[Kind, Callable[[bytes, str], pl.DataFrame]] = {
    "csv": lambda data, where: parse_csv(data, where=where),
    "tsv": lambda data, where: parse_csv(data, where=where, separator="\t"),
    "parquet": lambda data, where: parse_parquet(data, where=where),
    "jsonl": lambda data, where: parse_jsonl(data, where=where),
}


def kind_of(name: str) -> Kind | None:
    """The kind of table that a file's ending promises."""
    return next((kind for kind, endings in _ENDINGS.items() if name.lower().endswith(endings)), None)


def read_table(source: Source, name: str, *, kind: Kind) -> pl.DataFrame:
    """One member as text cells.

    Raises:
        DataError: it is not such a table.
    """
    return _PARSERS[kind](source.read(name), f"{source.path}: {source.label(name)}")


def item_table(source: Source, name: str, *, kind: Kind) -> RawTable:
    """A catalogue with columns item_id and optionally title, tags, domain.

    Raises:
        DataError: not a table, or no item column.
    """
    frame = read_table(source, name, kind=kind)
    found = obvious_columns(frame, ("item", "title", "tags", "domain"))
    where = f"{source.path}: {source.label(name)}"
    require(frame, found, ("item",), where=where)
    check_kinds(frame, found, where=where)
    return RawTable(frame, found, source.label(name), _row_word(kind))


def _read_file(kind: Kind) -> Callable[[Source, ColumnMapping | None], RawLog]:
    def read(source: Source, mapping: ColumnMapping | None) -> RawLog:
        if source.kind != "file":
            raise DataError(f"{source.path}: a {source.kind}, not a {kind} file")
        return _log(source, source.names[0], None, mapping, kind=kind)

    return read


def _read_folder(source: Source, mapping: ColumnMapping | None) -> RawLog:
    name = _member(source, "interactions")
    if name is None:
        members = ", ".join(source.names[:10]) or "none"
        raise DataError(f"{source.path}: no interactions.csv (or .tsv, .parquet, .jsonl, .gz) among: {members}")
    return _log(source, name, _member(source, "items"), mapping, kind=kind_of(name) or "csv")


def _log(source: Source, name: str, items: str | None, mapping: ColumnMapping | None, *, kind: Kind) -> RawLog:
    frame = read_table(source, name, kind=kind)
    found, clock = interaction_columns(frame, mapping, where=f"{source.path}: {source.label(name)}")
    catalogue = None if items is None else item_table(source, items, kind=kind_of(items) or "csv")
    table = RawTable(frame, found, source.label(name), _row_word(kind))
    return RawLog(table, catalogue, None, clock=clock, event="interaction")


def _member(source: Source, stem: str) -> str | None:
    return source.find(*(stem + ending for endings in _ENDINGS.values() for ending in endings))


def _row_word(kind: Kind) -> Literal["line", "row"]:
    return "line" if kind == "jsonl" else "row"


def _single(kind: Kind) -> Reader:
    def files(source: Source) -> list[str]:
        return list(source.names) if source.kind == "file" and kind_of(source.names[0]) == kind else []

    return Reader(kind, files, _read_file(kind), is_mappable=True)


def _folder_files(source: Source) -> list[str]:
    names = [_member(source, "interactions"), _member(source, "items")]
    return [name for name in names if name is not None] if names[0] is not None and source.kind != "file" else []


CSV, TSV, PARQUET, JSONL = _single("csv"), _single("tsv"), _single("parquet"), _single("jsonl")
AMAZON = Reader("amazon", _folder_files, _read_folder, is_mappable=True)
