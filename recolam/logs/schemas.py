"""Which rows are good: dataframely schemas over rows whose cells have been tried as numbers.

`SCHEMA_RULES[schema]` lists each schema's rules in the order in which they are blamed, with the canonical column at
fault. A row that breaks several rules is counted under the first.
"""

import dataframely as dy
import polars as pl

LATEST_SECOND = 4_102_444_800  # 2100-01-01: later times are milliseconds, or wrong


class EventRows(dy.Schema):
    """Interactions. `seconds` is the time as a number, null where the cell is none; `event_us` in microseconds."""

    source_row = dy.Int64()
    defect = dy.String(nullable=True)
    user_id = dy.String(nullable=True)
    item_id = dy.String(nullable=True)
    time_text = dy.String(nullable=True)
    seconds = dy.Float64(nullable=True, allow_inf=True, allow_nan=True)
    event_us = dy.Int64(nullable=True)
    event = dy.String(nullable=True)
    value_text = dy.String(nullable=True)
    value = dy.Float64(nullable=True, allow_inf=True, allow_nan=True)

    @dy.rule()
    def row_not_readable(cls) -> pl.Expr:
        return pl.col("defect").is_null()

    @dy.rule()
    def user_missing(cls) -> pl.Expr:
        return pl.col("user_id").is_not_null()

    @dy.rule()
    def item_missing(cls) -> pl.Expr:
        return pl.col("item_id").is_not_null()

    @dy.rule()
    def time_missing(cls) -> pl.Expr:
        return pl.col("time_text").is_not_null()

    @dy.rule()
    def time_not_a_number(cls) -> pl.Expr:
        return pl.col("seconds").is_not_null() & pl.col("seconds").is_finite()

    @dy.rule()
    def time_negative(cls) -> pl.Expr:
        return pl.col("seconds") >= 0

    @dy.rule()
    def time_absurd(cls) -> pl.Expr:
        return pl.col("seconds") <= LATEST_SECOND

    @dy.rule()
    def value_not_a_number(cls) -> pl.Expr:
        return pl.col("value_text").is_null() | pl.col("value").is_not_null()

    @dy.rule()
    def value_not_finite(cls) -> pl.Expr:
        return pl.col("value").is_finite()

    @dy.rule()
    def duplicate(cls) -> pl.Expr:
        return pl.struct("defect", "user_id", "item_id", "event_us", "event", "value").is_first_distinct()


class ItemRows(dy.Schema):
    """The catalogue."""

    source_row = dy.Int64()
    defect = dy.String(nullable=True)
    item_id = dy.String(nullable=True)
    title = dy.String(nullable=True)
    tags = dy.List(dy.String(nullable=True), nullable=True)
    domain = dy.String(nullable=True)

    @dy.rule()
    def row_not_readable(cls) -> pl.Expr:
        return pl.col("defect").is_null()

    @dy.rule()
    def item_missing(cls) -> pl.Expr:
        return pl.col("item_id").is_not_null()

    @dy.rule()
    def duplicate(cls) -> pl.Expr:
        return pl.struct("defect", "item_id", "title", pl.col("tags").list.join("\x1f"), "domain").is_first_distinct()

    @dy.rule()
    def item_repeated(cls) -> pl.Expr:
        return pl.struct("defect", "item_id").is_first_distinct()


class SlateRows(dy.Schema):
    """Logged slates. `*_number` columns are the cells as numbers, null where they are none."""

    source_row = dy.Int64()
    defect = dy.String(nullable=True)
    slate_id = dy.String(nullable=True)
    session_number = dy.Float64(nullable=True, allow_inf=True, allow_nan=True)
    step_number = dy.Float64(nullable=True, allow_inf=True, allow_nan=True)
    user_id = dy.String(nullable=True)
    seconds = dy.Float64(nullable=True, allow_inf=True, allow_nan=True)
    items = dy.List(dy.String(nullable=True), nullable=True)
    is_in_catalogue = dy.Bool()
    propensity_number = dy.Float64(nullable=True, allow_inf=True, allow_nan=True)
    choice_number = dy.Float64(nullable=True, allow_inf=True, allow_nan=True)
    reward_number = dy.Float64(nullable=True, allow_inf=True, allow_nan=True)
    left_flag = dy.Bool(nullable=True)

    @dy.rule()
    def slate_missing(cls) -> pl.Expr:
        return pl.col("slate_id").is_not_null()

    @dy.rule()
    def user_missing(cls) -> pl.Expr:
        return pl.col("user_id").is_not_null()

    @dy.rule()
    def session_not_whole(cls) -> pl.Expr:
        return _is_whole("session_number") & (pl.col("session_number").abs() < 2**53)

    @dy.rule()
    def step_not_whole(cls) -> pl.Expr:
        return _is_whole("step_number") & pl.col("step_number").is_between(0, 2**31 - 1)

    @dy.rule()
    def time_not_a_number(cls) -> pl.Expr:
        return pl.col("seconds").is_not_null() & pl.col("seconds").is_finite()

    @dy.rule()
    def time_negative(cls) -> pl.Expr:
        return pl.col("seconds") >= 0

    @dy.rule()
    def time_absurd(cls) -> pl.Expr:
        return pl.col("seconds") <= LATEST_SECOND

    @dy.rule()
    def items_missing(cls) -> pl.Expr:
        items = pl.col("items")
        return items.is_not_null() & (items.list.len() > 0) & (items.list.drop_nulls().list.len() == items.list.len())

    @dy.rule()
    def items_repeated(cls) -> pl.Expr:
        return pl.col("items").list.n_unique() == pl.col("items").list.len()

    @dy.rule()
    def item_not_in_catalogue(cls) -> pl.Expr:
        return pl.col("is_in_catalogue")

    @dy.rule()
    def propensity_not_a_number(cls) -> pl.Expr:
        return pl.col("propensity_number").is_not_null() & pl.col("propensity_number").is_finite()

    @dy.rule()
    def propensity_positive(cls) -> pl.Expr:
        return pl.col("propensity_number") <= 0

    @dy.rule()
    def choice_outside_slate(cls) -> pl.Expr:
        choice = pl.col("choice_number")
        return _is_whole("choice_number") & (choice >= -1) & (choice < pl.col("items").list.len())

    @dy.rule()
    def reward_not_a_number(cls) -> pl.Expr:
        return pl.col("reward_number").is_not_null() & pl.col("reward_number").is_finite()

    @dy.rule()
    def left_not_a_flag(cls) -> pl.Expr:
        return pl.col("left_flag").is_not_null()

    @dy.rule()
    def duplicate(cls) -> pl.Expr:
        return pl.col("slate_id").is_first_distinct()


def _is_whole(column: str) -> pl.Expr:
    number = pl.col(column)
    return number.is_not_null() & number.is_finite() & (number == number.round())


SCHEMA_RULES: dict[type[dy.Schema], dict[str, str]] = {
    EventRows: {
        "row_not_readable": "",
        "user_missing": "user",
        "item_missing": "item",
        "time_missing": "time",
        "time_not_a_number": "time",
        "time_negative": "time",
        "time_absurd": "time",
        "value_not_a_number": "value",
        "value_not_finite": "value",
        "duplicate": "",
    },
    ItemRows: {"row_not_readable": "", "item_missing": "item", "duplicate": "", "item_repeated": "item"},
    SlateRows: {
        "slate_missing": "slate_id",
        "user_missing": "user",
        "session_not_whole": "session",
        "step_not_whole": "step",
        "time_not_a_number": "time",
        "time_negative": "time",
        "time_absurd": "time",
        "items_missing": "items",
        "items_repeated": "items",
        "item_not_in_catalogue": "items",
        "propensity_not_a_number": "log_propensity",
        "propensity_positive": "log_propensity",
        "choice_outside_slate": "choice",
        "reward_not_a_number": "reward",
        "left_not_a_flag": "left",
        "duplicate": "",
    },
}
