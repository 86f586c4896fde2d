"""Domains share no users and no items, and every event is either kept or counted."""

from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest

from recolam.errors import ConfigError
from recolam.features.catalogue import newest_items
from recolam.features.select import LogTables, select_domain
from tests.features.support import tables

DOMAINS = {f"i{n}": "small" if n < 10 else "tiny" if n < 14 else "main" for n in range(60)}


def mixed_log(seed: int = 0) -> LogTables:
    rng = np.random.default_rng(seed)
    events = [(f"u{user}", f"i{item}", n) for n, (user, item) in enumerate(rng.integers(0, (400, 60), (4000, 2)))]
    events += [(f"only{user}", f"i{user % 10}", user) for user in range(30)]
    return tables(events, domains=DOMAINS)


@pytest.mark.parametrize("seed", range(3))
def test_domains_do_not_overlap_and_nothing_is_lost(seed: int) -> None:
    log = mixed_log(seed)
    parts = {name: select_domain(log, domain=name, target_share=0.3, seed=seed) for name in ("main", "small", "tiny")}
    users = [set(part.users) for part in parts.values()]
    assert sum(map(len, users)) == len(set.union(*users)) == log.interactions["user_id"].n_unique()
    for name, part in parts.items():
        assert {DOMAINS[item] for item in part.events["item_id"]} == {name}
        dropped = part.dropped["events_of_other_domains"] + part.dropped["events_of_users_of_other_domains"]
        assert part.events.height + dropped == log.interactions.height
        assert part.dropped["users_of_other_domains"] == sum(map(len, users)) - len(part.users)


def test_share_of_users_with_several_domains() -> None:
    log = mixed_log()
    for share in (0.0, 0.3, 1.0):
        part = select_domain(log, domain="main", target_share=share, seed=0)
        inside = sum(user.startswith("u") for user in part.users)
        assert abs(inside - (1 - share) * 400) <= (0 if share == 0.0 else 45)  # 0.3: five standard deviations
    assert {f"only{user}" for user in range(30)} <= set(
        select_domain(log, domain="small", target_share=0.0, seed=0).users
    )


def test_seed_draws_the_users_anew() -> None:
    log = mixed_log()
    one, two = (set(select_domain(log, domain="small", target_share=0.3, seed=seed).users) for seed in (0, 1))
    assert one != two


def test_biggest_domain_is_the_default_and_unknown_ones_are_refused() -> None:
    log = mixed_log()
    assert select_domain(log, domain=None, target_share=0.15, seed=0).domain == "main"
    with pytest.raises(ConfigError, match="domain 'books' has no events; domains: main, small, tiny"):
        select_domain(log, domain="books", target_share=0.15, seed=0)


def test_newest_item_row_that_says_something_counts() -> None:
    def row(day: int, title: str, tags: list[str], domain: str) -> dict[str, object]:
        moment = datetime(2030, 1, day, tzinfo=UTC)
        return {"item_id": "x", "title": title, "tags": tags, "domain": domain, "row_id": title, "ingested_at": moment}

    rows = [row(1, "old", ["a"], "d1"), row(2, "new", ["b"], "d2"), row(3, "", [], "main")]
    for order in ([0, 1, 2], [2, 1, 0]):
        items = newest_items(
            pl.DataFrame([rows[place] for place in order], schema_overrides={"tags": pl.List(pl.String)})
        )
        assert items.rows() == [("x", "new", ["b"], "d2")]
