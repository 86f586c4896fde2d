"""A planted leak of each sort turns the check red."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from recolam.contracts.dataset import FIRST_ITEM, TEST, TRAIN, UNKNOWN, VALIDATION, TokenisedDataset
from recolam.errors import DataError
from recolam.features import leak
from recolam.features.config import FeaturesConfig
from recolam.features.tokenise import Tokenised, tokenise
from tests.features.support import tables


def clean(split: str = "temporal") -> Tokenised:
    rng = np.random.default_rng(0)
    events = [(f"u{n % 7}", f"i{rng.integers(0, 25)}", n) for n in range(400)]
    slates = [(f"u{n % 7}", n, ["i1", "i2"], -1) for n in range(0, 400, 3)]
    return tokenise(tables(events, slates=slates), FeaturesConfig(split=split), seed=0)  # type: ignore[arg-type]


def changed(values: Any, place: Any, value: Any) -> Any:
    copy = values.copy()
    copy[place] = value
    return copy


def train_event_after_the_cut(d: TokenisedDataset) -> TokenisedDataset:
    event = int(np.flatnonzero(d.event_split_E == VALIDATION)[0])
    return replace(d, event_split_E=changed(d.event_split_E, event, TRAIN))


def early_test_event(d: TokenisedDataset) -> TokenisedDataset:
    event = int(np.flatnonzero(d.event_split_E == TEST)[0])
    return replace(d, event_split_E=changed(d.event_split_E, event, VALIDATION))


def target_in_train(d: TokenisedDataset) -> TokenisedDataset:
    return replace(d, test_event_Q=changed(d.test_event_Q, 0, d.user_offset_U1[0] + 5))


def target_in_the_wrong_window(d: TokenisedDataset) -> TokenisedDataset:
    return replace(d, validation_event_Q=changed(d.validation_event_Q, 0, d.test_event_Q[0]))


def query_without_history(d: TokenisedDataset) -> TokenisedDataset:
    split_E = changed(d.event_split_E, slice(0, int(d.user_offset_U1[1])), TEST)
    validation_Q = d.validation_event_Q[d.validation_event_Q >= d.user_offset_U1[1]]
    return replace(
        d, event_split_E=split_E, validation_event_Q=validation_Q, test_event_Q=changed(d.test_event_Q, 0, 0)
    )


def history_newer_than_target(d: TokenisedDataset) -> TokenisedDataset:
    event = int(d.test_event_Q[0])
    return replace(d, event_time_E=changed(d.event_time_E, event - 2, d.event_time_E[event] + 1))


def events_out_of_order(d: TokenisedDataset) -> TokenisedDataset:
    start = int(d.user_offset_U1[1])
    return replace(d, event_time_E=changed(d.event_time_E, [start, start + 1], d.event_time_E[[start + 1, start]]),
                   validation_event_Q=d.validation_event_Q[:0], test_event_Q=d.test_event_Q[:0])  # fmt: skip


def vocabulary_from_the_future(d: TokenisedDataset) -> TokenisedDataset:
    counts = np.append(d.item_count_V, 1)
    return replace(d, items=(*d.items, "new"), titles=(*d.titles, ""), item_count_V=counts)


def counts_of_all_events(d: TokenisedDataset) -> TokenisedDataset:
    return replace(d, item_count_V=np.bincount(d.event_item_E, minlength=d.tokens))


def unknown_item_in_train(d: TokenisedDataset) -> TokenisedDataset:
    item = d.event_item_E[int(np.flatnonzero(d.event_split_E == TRAIN)[0])]
    event = int(np.flatnonzero((d.event_item_E == item) & (d.event_split_E == TRAIN))[0])
    return replace(d, event_item_E=changed(d.event_item_E, event, UNKNOWN))


def token_outside(d: TokenisedDataset) -> TokenisedDataset:
    return replace(d, event_item_E=changed(d.event_item_E, 0, FIRST_ITEM + len(d.items)))


def _with_slates(d: TokenisedDataset, **values: Any) -> TokenisedDataset:
    assert d.slates is not None
    return replace(d, slates=replace(d.slates, **values))


def slate_history_with_its_own_click(d: TokenisedDataset) -> TokenisedDataset:
    assert d.slates is not None
    return _with_slates(d, history_end_S=changed(d.slates.history_end_S, 1, d.slates.history_end_S[1] + 1))


def slate_history_of_another_user(d: TokenisedDataset) -> TokenisedDataset:
    assert d.slates is not None
    return _with_slates(d, history_end_S=changed(d.slates.history_end_S, 1, d.user_offset_U1[-1]))


def train_slate_with_a_test_history(d: TokenisedDataset) -> TokenisedDataset:
    assert d.slates is not None
    slate = int(np.flatnonzero(d.slates.split_S == TRAIN)[0])
    end = d.user_offset_U1[d.slates.user_S[slate] + 1]
    return _with_slates(d, history_end_S=changed(d.slates.history_end_S, slate, end))


def late_slate_called_train(d: TokenisedDataset) -> TokenisedDataset:
    assert d.slates is not None
    first_of_test = int(np.flatnonzero(d.slates.split_S == VALIDATION)[0])
    end = d.user_offset_U1[d.slates.user_S[first_of_test]]
    return _with_slates(
        d,
        split_S=changed(d.slates.split_S, first_of_test, TRAIN),
        history_end_S=changed(d.slates.history_end_S, first_of_test, end),
    )


PLANTED: list[tuple[Callable[[TokenisedDataset], TokenisedDataset], str]] = [
    (train_event_after_the_cut, "an event of train lies at or after the cut"),
    (early_test_event, "an event lies on the wrong side of the cuts"),
    (target_in_train, "the target of a test query lies in train"),
    (target_in_the_wrong_window, "the target of a validation query lies in another part"),
    (query_without_history, "a test query has no history"),
    (history_newer_than_target, "the history of a validation query is newer|the history of a test query is newer"),
    (events_out_of_order, "a user's events are out of order of time"),
    (vocabulary_from_the_future, "item 'new' is in the vocabulary without an event in train"),
    (counts_of_all_events, r"token \d+ counts \d+ events, train has \d+"),
    (unknown_item_in_train, "an event of train holds an item outside the vocabulary"),
    (token_outside, "event tokens lie outside"),
    (slate_history_with_its_own_click, "the history of a slate reaches its own time"),
    (slate_history_of_another_user, "the history of a slate is another user's"),
    (train_slate_with_a_test_history, "the history of a slate reaches into a later part"),
    (late_slate_called_train, "a slate lies on the wrong side of the cuts"),
]


@pytest.mark.parametrize("split", ["temporal", "leave_one_out"])
def test_clean_dataset_passes(split: str) -> None:
    built = clean(split)
    leak.check(built.dataset, slate_second_S=built.slate_second_S)
    leak.check(built.dataset)


@pytest.mark.parametrize(("plant", "message"), PLANTED, ids=[plant.__name__ for plant, _ in PLANTED])
def test_planted_leak_turns_red(plant: Callable[[TokenisedDataset], TokenisedDataset], message: str) -> None:
    built = clean()
    with pytest.raises(DataError, match=message) as error:
        leak.check(plant(built.dataset), slate_second_S=built.slate_second_S)
    assert str(error.value).startswith("leak check: ")


def test_message_says_where() -> None:
    built = clean()
    dataset = target_in_train(built.dataset)
    with pytest.raises(DataError, match=rf"user '{dataset.users[0]}', event 5 \(1 of {len(dataset.test_event_Q)}\)"):
        leak.check(dataset)
