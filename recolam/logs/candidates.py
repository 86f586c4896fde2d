"""Text cells tried as numbers, times, flags and lists: the rows that the schemas then judge."""

from datetime import UTC, datetime

import polars as pl

from recolam.logs.raw import DEFECT, ROW, Clock, RawTable

_FLAGS = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}


def event_candidates(raw: RawTable, *, clock: Clock, event: str) -> pl.DataFrame:
    """Interaction rows for `EventRows`; `event` fills rows without an event name."""
    frame = raw.frame.select(
        ROW,
        DEFECT,
        _identifier(raw, "user").alias("user_id"),
        _identifier(raw, "item").alias("item_id"),
        raw.text("time").alias("time_text"),
        raw.text("event").fill_null(event).alias("event"),
        raw.text("value").alias("value_text"),
    )
    seconds = _seconds(frame["time_text"], clock=clock)
    frame = frame.with_columns(seconds.alias("seconds"), _number(pl.col("value_text")).alias("value"))
    return frame.with_columns(microseconds(pl.col("seconds")).alias("event_us"))


def item_candidates(raw: RawTable) -> pl.DataFrame:
    """Catalogue rows for `ItemRows`."""
    return raw.frame.select(
        ROW,
        DEFECT,
        _identifier(raw, "item").alias("item_id"),
        raw.text("title").alias("title"),
        tag_list(raw).alias("tags"),
        raw.text("domain").alias("domain"),
    )


def slate_candidates(raw: RawTable, *, catalogue: pl.Series) -> pl.DataFrame:
    """Slate rows for `SlateRows`; `catalogue` holds the known item ids."""
    listed = pl.col(raw.columns["items"])
    frame = raw.frame.select(
        ROW,
        DEFECT,
        raw.text("slate_id").alias("slate_id"),
        _number(raw.text("session")).alias("session_number"),
        _number(raw.text("step")).alias("step_number"),
        _identifier(raw, "user").alias("user_id"),
        raw.text("time").alias("time_text"),
        listed.alias("items"),
        _number(raw.text("log_propensity")).alias("propensity_number"),
        _number(raw.text("choice")).alias("choice_number"),
        _number(raw.text("reward")).alias("reward_number"),
        raw.text("left").str.to_lowercase().replace_strict(_FLAGS, default=None, return_dtype=pl.Boolean)
        .alias("left_flag"),
    )  # fmt: skip
    known = frame.select(ROW, "items").explode("items").filter(~pl.col("items").is_in(catalogue.implode()))
    return frame.with_columns(
        _seconds(frame["time_text"], clock="time").alias("seconds"),
        (~pl.col(ROW).is_in(known[ROW].implode())).alias("is_in_catalogue"),
    ).drop("time_text")


def tag_list(raw: RawTable) -> pl.Expr:
    """The item's tags: a list column as it is, or a cell taken apart at `|`; null where there are none."""
    if "tags" not in raw.columns:
        return pl.lit(None, dtype=pl.List(pl.String))
    name = raw.columns["tags"]
    if isinstance(raw.frame.schema[name], pl.List):
        return pl.col(name).list.drop_nulls()
    return raw.text("tags").str.split("|")


def microseconds(seconds: pl.Expr) -> pl.Expr:
    """Whole microseconds, null where there are none."""
    return (seconds * 1_000_000).round().cast(pl.Int64, strict=False)


def _identifier(raw: RawTable, canonical: str) -> pl.Expr:
    text = raw.text(canonical)
    return pl.when(text.str.to_lowercase() != "nan").then(text)


def _number(text: pl.Expr) -> pl.Expr:
    return text.cast(pl.Float64, strict=False)


def _seconds(text: pl.Series, *, clock: Clock) -> pl.Series:
    """Seconds since 1970 (from numbers or ISO 8601, UTC where no zone is given), or the position if it is whole."""
    numbers = text.cast(pl.Float64, strict=False)
    if clock == "position":
        return pl.select(pl.when(~numbers.is_finite() | (numbers == numbers.round())).then(numbers)).to_series()
    rest = text.filter(numbers.is_null() & text.is_not_null()).unique()
    if rest.is_empty():
        return numbers
    parsed = pl.Series([_iso_seconds(value) for value in rest], dtype=pl.Float64)
    return numbers.fill_null(text.replace_strict(rest, parsed, default=None, return_dtype=pl.Float64))


def _iso_seconds(text: str) -> float | None:
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
