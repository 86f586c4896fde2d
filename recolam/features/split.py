"""Train, validation and test, and the queries: which events a model must foretell from what came before them.

Shape legend: E events sorted by user, time and a seeded hash; U users; Q queries.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recolam.contracts.dataset import TEST, TRAIN, VALIDATION

_LEAVE_ONE_OUT_EVENTS = 3  # below, a user has nothing to train on once two events are held out


@dataclass(frozen=True)
class Split:
    """`split_E` holds TRAIN, VALIDATION or TEST; the queries are indices of events."""

    split_E: NDArray[np.int32]
    validation_event_Q: NDArray[np.int64]
    test_event_Q: NDArray[np.int64]


def cut_times(time_E: NDArray[np.int64], *, validation: float, test: float) -> tuple[int, int]:
    """The times from which on events are validation and test: quantiles 1 - validation - test and 1 - test.

    A quantile is the time of the event at that place in order of time, so that events with one time are not parted.
    """
    ordered = np.sort(time_E)
    places = [int(np.floor(share * len(ordered) + 1e-9)) for share in (1.0 - validation - test, 1.0 - test)]
    first, second = (int(ordered[min(place, len(ordered) - 1)]) for place in places)
    return first, second


def temporal_split(
    time_E: NDArray[np.int64], offset_U1: NDArray[np.int64], *, cuts: tuple[int, int], min_events: int
) -> Split:
    """Train: before the first cut; validation: before the second; test: the rest.

    A user's query is his last event in the window, if it is at least his `min_events`-th event. Events inside the
    window before it are part of its history: at that time they were known.
    """
    split_E = (np.int32(TRAIN) + (time_E >= cuts[0]) + (time_E >= cuts[1])).astype(np.int32)
    queries = [_last_of_each_user(split_E == part, offset_U1, min_events=min_events) for part in (VALIDATION, TEST)]
    return Split(split_E, queries[0], queries[1])


def leave_one_out_split(offset_U1: NDArray[np.int64], *, min_events: int) -> Split:
    """Each user's last event is test, the one before it validation; users with fewer than 3 events are train only."""
    length_U = np.diff(offset_U1)
    last_Q = offset_U1[1:][length_U >= max(_LEAVE_ONE_OUT_EVENTS, min_events + 1)] - 1
    split_E = np.full(int(offset_U1[-1]), TRAIN, dtype=np.int32)
    split_E[last_Q], split_E[last_Q - 1] = TEST, VALIDATION
    return Split(split_E, last_Q - 1, last_Q)


def _last_of_each_user(
    is_inside_E: NDArray[np.bool_], offset_U1: NDArray[np.int64], *, min_events: int
) -> NDArray[np.int64]:
    inside = np.flatnonzero(is_inside_E)
    user = np.searchsorted(offset_U1, inside, side="right") - 1
    is_last = np.append(user[1:] != user[:-1], True) if len(inside) else np.zeros(0, dtype=bool)
    last, user = inside[is_last], user[is_last]
    return last[last - offset_U1[user] >= min_events - 1].astype(np.int64)
