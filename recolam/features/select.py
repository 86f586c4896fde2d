"""From the feature store's tables to one domain's events and slates, in order, with what was left out counted.

Everything is in whole seconds (positions, where the log has no clock) from here on; within a second, events keep the
order of their finer times. Events at one and the same time stand in the order of a seeded hash of their content:
the order of the file, or of ids, would invent patterns (and can be asked for, to show how much: `FeaturesConfig.ties`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from recolam.errors import ConfigError
from recolam.features.catalogue import newest_items
from recolam.features.domains import Membership, assign_users
from recolam.features.hashing import row_hash, text_hash
from recolam.logs.raw import ROW

Ties = Literal["hash", "file", "item"]


@dataclass(frozen=True)
class LogTables:
    """A dataset as read from the store: its tables, its name and "time" or "position"."""

    interactions: pl.DataFrame
    items: pl.DataFrame
    slates: pl.DataFrame | None
    name: str
    clock: str


@dataclass(frozen=True)
class DomainLog:
    """One domain.

    Attributes:
        events: sorted by user, time, ties; columns user (row in `users`), item_id, second, value, event.
        slates: sorted by user, time, session, step; columns of the table plus user and second; None without slates.
        items: item_id, title, tags, domain of the whole catalogue.
        users: ids, ordered by a seeded hash; those of `slates` included, even without events.
        dropped: what was left out, and why.
    """

    domain: str
    rows: Mapping[str, int]
    events: pl.DataFrame
    slates: pl.DataFrame | None
    items: pl.DataFrame
    users: tuple[str, ...]
    dropped: Mapping[str, int]


def select_domain(
    log: LogTables, *, domain: str | None, target_share: float, seed: int, ties: Ties = "hash"
) -> DomainLog:
    """Keeps one domain's items and users.

    Raises:
        ConfigError: the log has no such domain, or `ties` is "file" and its rows have no numbers.
    """
    if ties == "file":
        _refuse_unnumbered(log)
    items = newest_items(log.items)
    events = log.interactions.join(
        items.select("item_id", pl.col("domain").alias("of_item")), on="item_id", how="left", maintain_order="left"
    )
    slates = None if log.slates is None else _with_domain(log.slates, items)
    activity = [events.select("user_id", pl.col("of_item").alias("domain"))]
    if slates is not None:
        activity.append(slates.select("user_id", pl.col("of_item").alias("domain")).drop_nulls())
    member = assign_users(pl.concat(activity), domain=domain, target_share=target_share, seed=seed)
    kept, dropped = _keep(events, member, what="events")
    kept_slates = None
    if slates is not None:
        kept_slates, dropped_slates = _keep(slates, member, what="slates")
        dropped |= dropped_slates
    dropped["users_of_other_domains"] = int((member.user_domain["user_domain"] != member.domain).sum())
    ids = sorted(set(kept["user_id"]) | (set(kept_slates["user_id"]) if kept_slates is not None else set()))
    order = np.argsort(text_hash(ids, seed=seed, stream="users"), kind="stable")
    users = tuple(ids[row] for row in order)
    return DomainLog(
        domain=member.domain,
        rows=member.rows,
        events=_sorted_events(kept, users, seed=seed, ties=ties),
        slates=None if kept_slates is None or kept_slates.is_empty() else _sorted_slates(kept_slates, users),
        items=items,
        users=users,
        dropped=dropped,
    )


def _keep(rows: pl.DataFrame, member: Membership, *, what: str) -> tuple[pl.DataFrame, dict[str, int]]:
    """The rows of the domain's items and users, and how many were not, by reason."""
    rows = rows.join(member.user_domain, on="user_id", how="left", maintain_order="left")
    is_item_inside = (rows["of_item"] == member.domain).fill_null(False)
    is_user_inside = (rows["user_domain"] == member.domain).fill_null(False)
    dropped = {
        f"{what}_of_other_domains": int((~is_item_inside).sum()),
        f"{what}_of_users_of_other_domains": int((is_item_inside & ~is_user_inside).sum()),
    }
    return rows.filter(is_item_inside & is_user_inside), dropped


def _with_domain(slates: pl.DataFrame, items: pl.DataFrame) -> pl.DataFrame:
    """Adds of_item: the domain of all items of the slate, null where they have several."""
    of_row = (
        slates.select("row_id", pl.col("items").alias("item_id"))
        .explode("item_id")
        .join(items.select("item_id", "domain"), on="item_id", how="left")
        .group_by("row_id")
        .agg(pl.when(pl.col("domain").n_unique() == 1).then(pl.col("domain").first()).alias("of_item"))
    )
    return slates.join(of_row, on="row_id", how="left", maintain_order="left")


def _with_user(frame: pl.DataFrame, users: tuple[str, ...]) -> pl.DataFrame:
    table = pl.DataFrame({"user_id": pl.Series(users, dtype=pl.String), "user": np.arange(len(users), dtype=np.int64)})
    seconds = pl.col("event_time").dt.timestamp("us") // 1_000_000
    return frame.join(table, on="user_id", how="left", maintain_order="left").with_columns(seconds.alias("second"))


def _sorted_events(events: pl.DataFrame, users: tuple[str, ...], *, seed: int, ties: Ties) -> pl.DataFrame:
    hashed = pl.Series("tie", row_hash(events["row_id"], seed=seed, stream="ties"), dtype=pl.UInt64)
    number = pl.col("item_id").cast(pl.Int64, strict=False).alias("item_number")
    keys = {"hash": ["tie"], "file": ["ingested_at", ROW], "item": ["item_number", "item_id"]}[ties]
    ordered = (
        _with_user(events, users)
        .with_columns(hashed, number)
        .sort("user", "event_time", *keys, "row_id", nulls_last=True)
    )
    return ordered.select("user", "item_id", "second", "value", "event")


def _refuse_unnumbered(log: LogTables) -> None:
    if ROW not in log.interactions.columns or log.interactions[ROW].has_nulls():
        raise ConfigError(
            f"ties 'file': the interactions of dataset {log.name!r} were stored without the numbers of their rows; "
            "ingest the log again under another name or in another home (rows that a table holds are not added twice)"
        )


def _sorted_slates(slates: pl.DataFrame, users: tuple[str, ...]) -> pl.DataFrame:
    return _with_user(slates, users).sort("user", "event_time", "session_id", "step", "slate_id")
