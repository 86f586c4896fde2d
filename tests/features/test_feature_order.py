"""Equal times are ordered by a seeded hash of the event: not by the file, not by ids."""

from itertools import pairwise

import numpy as np

from recolam.features.config import FeaturesConfig
from recolam.features.hashing import row_hash, text_hash, unit_draw
from recolam.features.tokenise import tokenise
from recolam.logs.clean import row_ids
from tests.features.support import Event, tables


def tied_log(users: int = 300) -> list[Event]:
    """Every user has ten events at two times."""
    rng = np.random.default_rng(0)
    return [
        (f"u{user}", f"i{item:03d}", half) for user in range(users) for half in (0, 1)
        for item in rng.choice(100, 5, replace=False)
    ]  # fmt: skip


def item_order(events: list[Event], *, seed: int) -> dict[str, list[str]]:
    dataset = tokenise(tables(events), FeaturesConfig(split="leave_one_out"), seed=seed).dataset
    names = ("", "", "?", *dataset.items)
    return {
        user: [names[token] for token in dataset.history(user=row, end=int(dataset.user_offset_U1[row + 1]), limit=99)]
        for row, user in enumerate(dataset.users)
    }


def test_file_order_does_not_matter() -> None:
    events = tied_log()
    shuffled = [events[row] for row in np.random.default_rng(1).permutation(len(events))]
    assert item_order(shuffled, seed=3) == item_order(events, seed=3)


def test_seed_orders_ties_anew_and_never_times() -> None:
    events = tied_log()
    one, two = item_order(events, seed=3), item_order(events, seed=4)
    assert sum(one[user] != two[user] for user in one) > 290
    assert all(set(one[user][:5]) == set(two[user][:5]) for user in one)


def test_ties_do_not_follow_item_ids() -> None:
    ordered = [
        first < second
        for items in item_order(tied_log(), seed=3).values()
        for half in (items[:5], items[5:])
        for first, second in pairwise(half)
    ]
    assert len(ordered) == 2400
    assert abs(np.mean(ordered) - 0.5) < 0.06  # 5 standard errors; sorted ids would give 1


def test_vocabulary_order_follows_neither_ids_nor_popularity() -> None:
    events = [(f"u{user}", f"i{item:03d}", user) for item in range(200) for user in range(item // 10 + 3)]
    dataset = tokenise(tables(events), FeaturesConfig(split="leave_one_out"), seed=0).dataset
    rank = np.argsort(np.argsort(dataset.items))
    assert abs(np.corrcoef(rank, np.arange(len(rank)))[0, 1]) < 0.3
    assert abs(np.corrcoef(dataset.item_count_V[3:], np.arange(len(rank)))[0, 1]) < 0.3


def test_hashes_are_uniform_and_streams_differ() -> None:
    texts = [str(n) for n in range(20_000)]
    draws = unit_draw(texts, seed=0, stream="a")
    np.testing.assert_allclose(np.histogram(draws, bins=10, range=(0, 1))[0], 2000, rtol=0.12)
    assert abs(np.corrcoef(draws, unit_draw(texts, seed=0, stream="b"))[0, 1]) < 0.03
    assert abs(np.corrcoef(draws, unit_draw(texts, seed=1, stream="a"))[0, 1]) < 0.03
    assert text_hash(["x"], seed=0, stream="a").tolist() == text_hash(["x"], seed=0, stream="a").tolist()


def test_row_hashes_are_uniform_and_follow_the_seed() -> None:
    ids = row_ids(tables([("u", str(n), n) for n in range(20_000)]).interactions.select("user_id", "item_id"))
    one, two = (row_hash(ids, seed=seed, stream="ties") for seed in (0, 1))
    np.testing.assert_allclose(np.histogram(one / 2.0**64, bins=10, range=(0, 1))[0], 2000, rtol=0.12)
    assert len(np.unique(one)) == 20_000
    assert abs(np.corrcoef(one.astype(float), two.astype(float))[0, 1]) < 0.03
