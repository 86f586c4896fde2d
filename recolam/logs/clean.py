"""A raw log -> validated tables with content-hashed rows, ready to be appended."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import polars as pl

from recolam.errors import DataError
from recolam.logs.candidates import event_candidates, item_candidates, microseconds, slate_candidates
from recolam.logs.catalogue import complete_catalogue
from recolam.logs.quarantine import Sorted, sort_out
from recolam.logs.raw import ROW, Clock, RawLog
from recolam.logs.schemas import EventRows, ItemRows, SlateRows


@dataclass(frozen=True)
class CleanLog:
    """Validated rows; the tables' columns are those of the feature store, without the ingestion time.

    Attributes:
        tables: interactions, items, quarantine and, where logged, slates.
        counts: rows of each raw file, by table: read = kept + quarantined.
        rules: bad rows per rule, over all files.
        clock: whether event times are times or positions.
    """

    tables: Mapping[str, pl.DataFrame]
    counts: Mapping[str, Mapping[str, int]]
    rules: Mapping[str, int]
    clock: Clock


def clean(raw: RawLog, *, budget: float, where: str) -> CleanLog:
    """Validates a raw log.

    Raises:
        DataError: an empty log, more bad rows in one file than `budget`, fewer than 2 users or 2 items.
    """
    if raw.interactions.frame.is_empty():
        raise DataError(f"{where}: {raw.interactions.source} has no rows: the log is empty")
    candidates = event_candidates(raw.interactions, clock=raw.clock, event=raw.event)
    sorted_out = {"interactions": sort_out(EventRows, candidates, raw.interactions, budget=budget, where=where)}
    events = sorted_out["interactions"].good
    for column in ("user", "item"):
        count = events[f"{column}_id"].n_unique()
        if count < 2:
            raise DataError(f"{where}: {raw.interactions.source} has {count} {column}s; at least 2 are needed")
    if raw.items is not None:
        sorted_out["items"] = sort_out(ItemRows, item_candidates(raw.items), raw.items, budget=budget, where=where)
    items = complete_catalogue(raw.interactions, events, sorted_out["items"].good if raw.items is not None else None)
    tables = {"interactions": _interactions(events, raw), "items": _with_ids(items)}
    if raw.slates is not None:
        candidates = slate_candidates(raw.slates, catalogue=items["item_id"])
        sorted_out["slates"] = sort_out(SlateRows, candidates, raw.slates, budget=budget, where=where)
        tables["slates"] = _slates(sorted_out["slates"].good)
    tables["quarantine"] = _with_ids(pl.concat([judged.bad for judged in sorted_out.values()]))
    counts = {
        name: {"read": judged.read, "kept": judged.good.height, "quarantined": judged.bad.height}
        for name, judged in sorted_out.items()
    }
    return CleanLog(tables, counts, _sum_rules(sorted_out.values()), raw.clock)


def row_ids(frame: pl.DataFrame) -> pl.Series:
    """A hash of each row's content: 32 hex digits, the same on every machine, whatever file the row came from."""
    cells = [_hashable(name, kind) for name, kind in frame.schema.items()]
    sized = [pl.concat_str(cell.str.len_bytes(), pl.lit(":"), cell).fill_null("-") for cell in cells]
    keys = frame.select(pl.concat_str(sized, separator=" ")).to_series()
    digests = [hashlib.blake2b(key.encode(), digest_size=16).hexdigest() for key in keys.to_list()]
    return pl.Series("row_id", digests, dtype=pl.String)


def _hashable(name: str, kind: pl.DataType) -> pl.Expr:
    column = pl.col(name)
    if isinstance(kind, pl.List):
        sized = pl.element().str.len_bytes().cast(pl.String) + ":" + pl.element()
        return column.list.eval(sized).list.join(" ")
    return (column.dt.timestamp("us") if isinstance(kind, pl.Datetime) else column).cast(pl.String)


def _with_ids(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(row_ids(frame))


def _interactions(events: pl.DataFrame, raw: RawLog) -> pl.DataFrame:
    frame = events.select(
        "user_id", "item_id", pl.from_epoch("event_us", time_unit="us").dt.replace_time_zone("UTC").alias("event_time"),
        "event", "value",
    )  # fmt: skip
    domain = raw.interactions.frame.select(ROW, raw.interactions.text("domain").alias("domain"))
    mapped = events.select(ROW).join(domain, on=ROW, how="left", maintain_order="left")
    return frame.with_columns(mapped["domain"], events[ROW], row_ids(frame))


def _slates(rows: pl.DataFrame) -> pl.DataFrame:
    when = pl.from_epoch(microseconds(pl.col("seconds")), time_unit="us").dt.replace_time_zone("UTC")
    return _with_ids(
        rows.select(
            "slate_id",
            pl.col("session_number").cast(pl.Int64).alias("session_id"),
            pl.col("step_number").cast(pl.Int32).alias("step"),
            "user_id",
            when.alias("event_time"),
            "items",
            pl.col("propensity_number").alias("log_propensity"),
            pl.col("choice_number").cast(pl.Int32).alias("choice"),
            pl.col("reward_number").alias("reward"),
            pl.col("left_flag").alias("left"),
        )
    )


def _sum_rules(parts: Iterable[Sorted]) -> dict[str, int]:
    total: dict[str, int] = {}
    for part in parts:
        for rule, count in part.rules.items():
            total[rule] = total.get(rule, 0) + count
    return dict(sorted(total.items()))
