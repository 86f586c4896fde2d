"""The leak check: nothing a model is trained on, or given as history, may be newer than what it must foretell.

It runs on every dataset that the features stage makes, and knows nothing of how it was made.

Shape legend: E events, U users, V token ids, S slates, Q queries.
"""

import numpy as np
from numpy.typing import NDArray

from recolam.contracts.dataset import FIRST_ITEM, TEST, TRAIN, UNKNOWN, VALIDATION, TokenisedDataset
from recolam.errors import DataError


def check(dataset: TokenisedDataset, *, slate_second_S: NDArray[np.int64] | None = None) -> None:
    """Looks for every sort of leak.

    Args:
        slate_second_S: when each slate was shown; without it slates are compared with the split alone.

    Raises:
        DataError: an event of train at or after the cut; a user's events out of order of time or of the split; a
            query whose target lies in train or whose history is newer; a vocabulary item without train events;
            item counts other than those of train; a slate whose history reaches its own time or a later part.
    """
    _check_queries(dataset)
    _check_order(dataset)
    _check_cuts(dataset)
    _check_vocabulary(dataset)
    if dataset.slates is not None:
        _check_slates(dataset, slate_second_S)


def _check_queries(dataset: TokenisedDataset) -> None:
    time_E = dataset.event_time_E
    parts = (("validation", VALIDATION, dataset.validation_event_Q), ("test", TEST, dataset.test_event_Q))
    for name, part, event_Q in parts:
        user_Q = dataset.user_of_event(event_Q)
        bad_Q = dataset.event_split_E[event_Q] == TRAIN
        _refuse(dataset, bad_Q, event_Q, user_Q, f"the target of a {name} query lies in train")
        bad_Q = dataset.event_split_E[event_Q] != part
        _refuse(dataset, bad_Q, event_Q, user_Q, f"the target of a {name} query lies in another part of the split")
        bad_Q = event_Q <= dataset.user_offset_U1[user_Q]
        _refuse(dataset, bad_Q, event_Q, user_Q, f"a {name} query has no history")
        newest_E = _newest_before(dataset)
        _refuse(dataset, newest_E[event_Q] > time_E[event_Q], event_Q, user_Q,
                f"the history of a {name} query is newer than its target")  # fmt: skip


def _newest_before(dataset: TokenisedDataset) -> NDArray[np.int64]:
    """The newest time among the user's events before each event; below all times where there are none."""
    stride = int(dataset.event_time_E.max(initial=0)) + 2
    user_E = dataset.user_of_event(np.arange(len(dataset.event_time_E)))
    running_E = np.maximum.accumulate(user_E * stride + dataset.event_time_E)
    before_E = np.concatenate([np.zeros(1, dtype=np.int64), running_E[:-1]]) - user_E * stride
    return np.maximum(before_E, -1)


def _check_order(dataset: TokenisedDataset) -> None:
    is_same_user = np.ones(max(len(dataset.event_time_E) - 1, 0), dtype=bool)
    inner = dataset.user_offset_U1[1:-1]
    inner = inner[(inner > 0) & (inner < len(dataset.event_time_E))]
    is_same_user[inner - 1] = False
    for values_E, what in ((dataset.event_time_E, "time"), (dataset.event_split_E, "split")):
        later = np.flatnonzero(is_same_user & (np.diff(values_E) < 0)) + 1
        users = dataset.user_of_event(later)
        _refuse(dataset, np.ones(len(later), dtype=bool), later, users, f"a user's events are out of order of {what}")


def _check_cuts(dataset: TokenisedDataset) -> None:
    cuts = dataset.info.get("cut_times")
    if cuts is None:
        return
    events = np.arange(len(dataset.event_time_E))
    part_E = np.int32(TRAIN) + (dataset.event_time_E >= cuts[0]) + (dataset.event_time_E >= cuts[1])
    for name, bad_E in (
        (f"an event of train lies at or after the cut {cuts[0]}", (dataset.event_split_E == TRAIN) & (part_E != TRAIN)),
        (f"an event lies on the wrong side of the cuts {cuts}", dataset.event_split_E != part_E),
    ):
        _refuse(dataset, bad_E, events, dataset.user_of_event(events), name)


def _check_vocabulary(dataset: TokenisedDataset) -> None:
    token_E = dataset.event_item_E
    if len(token_E) and not (token_E.min() >= UNKNOWN and token_E.max() < dataset.tokens):
        raise DataError(f"leak check: event tokens lie outside {UNKNOWN} to {dataset.tokens - 1}")
    count_V = np.bincount(token_E[dataset.event_split_E == TRAIN], minlength=dataset.tokens)
    unseen = np.flatnonzero(count_V[FIRST_ITEM:] == 0)
    if len(unseen):
        raise DataError(f"leak check: item {dataset.items[unseen[0]]!r} is in the vocabulary without an event in train")
    if count_V[UNKNOWN]:
        raise DataError("leak check: an event of train holds an item outside the vocabulary")
    differing = np.flatnonzero(count_V != dataset.item_count_V)
    if len(differing):
        token = int(differing[0])
        raise DataError(
            f"leak check: token {token} counts {dataset.item_count_V[token]} events, train has {count_V[token]}"
        )


def _check_slates(dataset: TokenisedDataset, second_S: NDArray[np.int64] | None) -> None:
    slates, offset_U1 = dataset.slates, dataset.user_offset_U1
    if slates is None:
        return
    end_S, user_S = slates.history_end_S, slates.user_S
    bad_S = (end_S < offset_U1[user_S]) | (end_S > offset_U1[user_S + 1])
    _refuse(dataset, bad_S, end_S, user_S, "the history of a slate is another user's")
    has_history_S = end_S > offset_U1[user_S]
    last_S = np.maximum(end_S - 1, 0)
    bad_S = has_history_S & (dataset.event_split_E[last_S] > slates.split_S)
    _refuse(dataset, bad_S, end_S, user_S, "the history of a slate reaches into a later part of the split")
    if second_S is None:
        return
    bad_S = has_history_S & (dataset.event_time_E[last_S] >= second_S)
    _refuse(dataset, bad_S, end_S, user_S, "the history of a slate reaches its own time")
    cuts = dataset.info.get("cut_times")
    if cuts is not None:
        part_S = np.int32(TRAIN) + (second_S >= cuts[0]) + (second_S >= cuts[1])
        _refuse(dataset, part_S != slates.split_S, end_S, user_S, f"a slate lies on the wrong side of the cuts {cuts}")


def _refuse(
    dataset: TokenisedDataset,
    is_bad: NDArray[np.bool_],
    event: NDArray[np.int64],
    user: NDArray[np.int64],
    what: str,
) -> None:
    bad = np.flatnonzero(is_bad)
    if len(bad):
        first = bad[0]
        raise DataError(
            f"leak check: {what}: user {dataset.users[user[first]]!r}, event {int(event[first])} "
            f"({len(bad)} of {len(is_bad)})"
        )
