"""The split, the queries and the histories against a plain loop over small random logs."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from recolam.contracts.dataset import FIRST_ITEM, TEST, TRAIN, UNKNOWN, VALIDATION, TokenisedDataset
from recolam.errors import DataError
from recolam.features import leak
from recolam.features.config import FeaturesConfig
from recolam.features.split import cut_times
from recolam.features.tokenise import tokenise
from tests.features.support import Event, tables

USERS, ITEMS = "abcd", "pqrstuv"
EVENTS = st.lists(
    st.tuples(st.sampled_from(USERS), st.sampled_from(ITEMS), st.integers(0, 12)), min_size=6, max_size=40, unique=True
)


def build(events: list[Event], *, split: str, seed: int = 0, cuts: tuple[int, int] | None = None) -> TokenisedDataset:
    config = FeaturesConfig(split=split, validation_fraction=0.25, test_fraction=0.25)  # type: ignore[arg-type]
    built = tokenise(tables(events), config, seed=seed, cuts=cuts)
    leak.check(built.dataset)
    return built.dataset


def sequences(dataset: TokenisedDataset) -> dict[str, list[tuple[int, int, int]]]:
    """(token, time, split) of each user's events, in the dataset's order."""
    columns = (dataset.event_item_E, dataset.event_time_E, dataset.event_split_E)
    rows = list(zip(*(column.tolist() for column in columns), strict=True))
    offset = dataset.user_offset_U1
    return {user: rows[offset[row] : offset[row + 1]] for row, user in enumerate(dataset.users)}


@settings(max_examples=60, deadline=None)
@given(EVENTS, st.integers(0, 3))
def test_temporal_split_equals_the_plain_definition(events: list[Event], seed: int) -> None:
    times = sorted(time for _, _, time in events)
    first, second = times[math.floor(0.5 * len(times))], times[math.floor(0.75 * len(times))]
    try:
        dataset = build(events, split="temporal", seed=seed)
    except DataError:
        assume(False)
        return
    assert dataset.info["cut_times"] == [first, second]
    train_items = {item for _, item, time in events if time < first}
    assert set(dataset.items) == train_items
    token = {item: FIRST_ITEM + place for place, item in enumerate(dataset.items)}
    for user, rows in sequences(dataset).items():
        wanted = sorted((time, token.get(item, UNKNOWN)) for name, item, time in events if name == user)
        assert sorted((time, item) for item, time, _ in rows) == wanted
        assert [time for _, time, _ in rows] == [time for time, _ in wanted]
        for _, time, part in rows:
            assert part == (TRAIN if time < first else VALIDATION if time < second else TEST)
    for part, queries in ((VALIDATION, dataset.validation_event_Q), (TEST, dataset.test_event_Q)):
        assert queries.tolist() == plain_queries(dataset, part)


def plain_queries(dataset: TokenisedDataset, part: int) -> list[int]:
    """For every user the last event in the window, where he has any event before it."""
    found = []
    for user in range(len(dataset.users)):
        start, end = int(dataset.user_offset_U1[user]), int(dataset.user_offset_U1[user + 1])
        inside = [event for event in range(start, end) if dataset.event_split_E[event] == part]
        if inside and inside[-1] > start:
            found.append(inside[-1])
    return found


@settings(max_examples=60, deadline=None)
@given(EVENTS, st.integers(0, 3))
def test_leave_one_out_equals_the_plain_definition(events: list[Event], seed: int) -> None:
    try:
        dataset = build(events, split="leave_one_out", seed=seed)
    except DataError:
        assume(False)
        return
    tests, validations = [], []
    for row, (user, rows) in enumerate(sequences(dataset).items()):
        mine = sorted(time for name, _, time in events if name == user)
        assert [time for _, time, _ in rows] == mine
        start = int(dataset.user_offset_U1[row])
        if len(mine) >= 3:
            assert [part for _, _, part in rows] == [TRAIN] * (len(mine) - 2) + [VALIDATION, TEST]
            validations.append(start + len(mine) - 2)
            tests.append(start + len(mine) - 1)
        else:
            assert [part for _, _, part in rows] == [TRAIN] * len(mine)
    assert dataset.validation_event_Q.tolist() == validations
    assert dataset.test_event_Q.tolist() == tests


def log_of(rng: np.random.Generator, *, events: int, last: int = 1000) -> list[Event]:
    draws = zip(rng.integers(0, 12, events), rng.integers(0, 30, events), rng.integers(0, last, events), strict=True)
    return [(f"u{user}", f"i{item}", int(time)) for user, item, time in draws]


@pytest.mark.parametrize("seed", range(5))
def test_the_future_changes_no_past_feature(seed: int) -> None:
    """With fixed cuts, events appended after the last one leave train, validation and all their histories alone."""
    rng = np.random.default_rng(seed)
    past = log_of(rng, events=300)
    future = [(f"u{rng.integers(0, 20)}", f"i{rng.integers(0, 60)}", 1000 + n) for n in range(200)]
    before = build(past, split="temporal", cuts=(500, 800))
    after = build([*past, *future], split="temporal", cuts=(500, 800))
    assert after.items == before.items
    np.testing.assert_array_equal(after.item_count_V, before.item_count_V)
    np.testing.assert_array_equal(after.item_text_VF, before.item_text_VF)
    new = sequences(after)
    for user, rows in sequences(before).items():
        assert new[user][: len(rows)] == rows
    assert _queries(after, after.validation_event_Q) == _queries(before, before.validation_event_Q)


def _queries(dataset: TokenisedDataset, event_Q: np.ndarray) -> dict[str, tuple[list[int], int]]:
    users = dataset.user_of_event(event_Q)
    return {
        dataset.users[user]: (
            dataset.history(user=user, end=event, limit=10_000).tolist(),
            int(dataset.event_item_E[event]),
        )
        for user, event in zip(users, event_Q, strict=True)
    }


def test_leave_one_out_future_moves_the_targets_and_keeps_the_order() -> None:
    """Every user's old events, in the old order, are the beginning of the new ones."""
    past = log_of(np.random.default_rng(0), events=300, last=40)
    future = [(user, item, time + 1000) for user, item, time in past[:50]]
    before, after = build(past, split="leave_one_out"), build([*past, *future], split="leave_one_out")
    new = sequences(after)
    for user, rows in sequences(before).items():
        beginning = new[user][: len(rows)]
        for (new_token, new_time, _), (token, time, _) in zip(beginning, rows, strict=True):
            assert new_time == time
            assert UNKNOWN in (new_token, token) or _name(after, new_token) == _name(before, token)


def _name(dataset: TokenisedDataset, token: int) -> str:
    return dataset.items[token - FIRST_ITEM]


def test_cuts_do_not_part_equal_times() -> None:
    assert cut_times(np.array([5, 1, 1, 1, 9, 9, 9, 9, 9, 9]), validation=0.1, test=0.1) == (9, 9)
    assert cut_times(np.arange(10)[::-1], validation=0.1, test=0.1) == (8, 9)
    assert cut_times(np.arange(100), validation=0.2, test=0.1) == (70, 90)


def test_min_user_events_is_what_a_query_needs() -> None:
    events = [("a", f"i{n}", n) for n in range(9)] + [("b", "i0", 0), ("b", "i1", 6), ("b", "i2", 8)]
    for least, validation, test in ((2, 2, 2), (3, 1, 2), (4, 1, 1)):
        config = FeaturesConfig(min_user_events=least)
        dataset = tokenise(tables(events), config, seed=0, cuts=(6, 8)).dataset
        assert (len(dataset.validation_event_Q), len(dataset.test_event_Q)) == (validation, test)
        assert len(dataset.event_item_E) == len(events)
