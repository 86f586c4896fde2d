"""What readers hand over: rows as they stand in the file, every cell still text, with the number of their row."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import polars as pl

Clock = Literal["time", "position"]
ROW, DEFECT = "source_row", "defect"


@dataclass(frozen=True)
class RawTable:
    """One file's rows.

    Attributes:
        frame: text columns under their original names (lists of text where the file has lists), `source_row` (i64)
            and `defect` (text, null for rows that could be taken apart).
        columns: canonical name (user, item, time, ...) -> original name; absent ones are left out.
        source: the file, as a reader of the quarantine table should see it.
        row_word: what `source_row` counts: "line" (physical, from 1) or "row" (data rows, from 1).
    """

    frame: pl.DataFrame
    columns: Mapping[str, str]
    source: str
    row_word: Literal["line", "row"]

    def text(self, canonical: str) -> pl.Expr:
        """The cells of a canonical column without surrounding blanks; null where empty or where there is no column."""
        if canonical not in self.columns:
            return pl.lit(None, dtype=pl.String)
        stripped = pl.col(self.columns[canonical]).str.strip_chars()
        return pl.when(stripped != "").then(stripped)


@dataclass(frozen=True)
class RawLog:
    """A whole raw log.

    Attributes:
        interactions: columns user, item, time, and optionally event, value, title, tags, domain.
        items: columns item, and optionally title, tags, domain; None without a catalogue.
        slates: the native format's columns; None where slates were not logged.
        clock: "position" where `time` is only an order.
        event: the event's name where the log has no event column.
    """

    interactions: RawTable
    items: RawTable | None
    slates: RawTable | None
    clock: Clock
    event: str

    def without_domains(self) -> "RawLog":
        return replace(self, interactions=_hide_domain(self.interactions), items=_hide_domain(self.items))


def _hide_domain(table: RawTable | None) -> Any:
    if table is None:
        return None
    return replace(table, columns={name: column for name, column in table.columns.items() if name != "domain"})
