"""One domain's events, with users who belong to no other: transfer must meet new users as well as new items."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from recolam.errors import ConfigError
from recolam.features.hashing import text_hash, unit_draw


@dataclass(frozen=True)
class Membership:
    """Who belongs where.

    Attributes:
        domain: the chosen domain.
        user_domain: columns user_id, user_domain: every user of the log once.
        rows: events per domain.
    """

    domain: str
    user_domain: pl.DataFrame
    rows: Mapping[str, int]


def assign_users(activity: pl.DataFrame, *, domain: str | None, target_share: float, seed: int) -> Membership:
    """Gives every user one domain.

    A user with events in one domain belongs to it. Of those with events in several, a share `target_share` (by a
    seeded hash of the user) goes to one of the smaller ones they have events in, likewise by hash; the others stay in
    the biggest one they have events in. All of a user's events count, also those behind the split's cuts: this
    decides who is looked at, not what is learnt.

    Args:
        activity: one row per event: user_id, domain.
        domain: the domain to choose, None for the one with most events (ties: by name).

    Raises:
        ConfigError: no event is in `domain`.
    """
    rows = dict(activity.group_by("domain").len().sort(["len", "domain"], descending=[True, False]).iter_rows())
    if domain is not None and domain not in rows:
        raise ConfigError(f"domain {domain!r} has no events; domains: {', '.join(sorted(rows))}")
    rank = {name: number for number, name in enumerate(rows)}
    own = (
        activity.unique(["user_id", "domain"])
        .with_columns(pl.col("domain").replace_strict(rank, return_dtype=pl.Int64).alias("rank"))
        .group_by("user_id")
        .agg(pl.col("domain").sort_by("rank"))
        .sort("user_id")
    )
    users, lists = own["user_id"].to_list(), own["domain"]
    is_target = unit_draw(users, seed=seed, stream="domain-share") < target_share
    choice = text_hash(users, seed=seed, stream="domain-choice")
    others = np.maximum(lists.list.len().to_numpy().astype(np.uint64) - np.uint64(1), np.uint64(1))
    index = np.where(is_target & (lists.list.len().to_numpy() > 1), choice % others + np.uint64(1), np.uint64(0))
    chosen = lists.list.get(pl.Series(index.astype(np.int64)))
    user_domain = pl.DataFrame({"user_id": own["user_id"], "user_domain": chosen})
    return Membership(domain if domain is not None else next(iter(rows)), user_domain, rows)
