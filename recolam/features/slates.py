"""Logged slates as tensors, each with the history its user had when it was shown.

Shape legend: S slates, K slate positions, E events, U users.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recolam.contracts.dataset import PADDING, TEST, TRAIN, VALIDATION, LoggedSlates
from recolam.features.vocabulary import tokens_of

_USER_STRIDE = 1 << 33  # above every time in seconds (validated to lie before the year 2100)


@dataclass(frozen=True)
class EventTimes:
    """The events that slates are placed among: sorted by user and time; `cuts` None with leave-one-out."""

    user_E: NDArray[np.int64]
    second_E: NDArray[np.int64]
    split_E: NDArray[np.int32]
    users: int
    cuts: tuple[int, int] | None


def tokenise_slates(slates: pl.DataFrame, events: EventTimes, *, vocabulary: tuple[str, ...]) -> LoggedSlates:
    """Turns slates (columns of the table plus user and second) into tensors.

    A history holds the user's events of earlier seconds only: the click on a slate bears the slate's own time. Items
    outside the vocabulary are UNKNOWN; slates shorter than the longest are padded on the right. The split is by the
    slate's time: the global cuts, or with leave-one-out the times of the user's own held-out events.
    """
    user_S, second_S = slates["user"].to_numpy(), slates["second"].to_numpy()
    place_E = events.user_E * _USER_STRIDE + events.second_E
    history_end_S = np.searchsorted(place_E, user_S * _USER_STRIDE + second_S, side="left")
    if events.cuts is None:
        first_S, second_cut_S = (_time_of(part, events)[user_S] for part in (VALIDATION, TEST))
    else:
        first_S, second_cut_S = (np.full_like(second_S, cut) for cut in events.cuts)
    return LoggedSlates(
        slate_SK=_slate_tokens(slates["items"], vocabulary),
        log_propensity_S=slates["log_propensity"].to_numpy().astype(np.float32),
        choice_S=slates["choice"].to_numpy().astype(np.int32),
        reward_S=slates["reward"].to_numpy().astype(np.float32),
        user_S=user_S.astype(np.int64),
        history_end_S=history_end_S.astype(np.int64),
        session_S=slates["session_id"].to_numpy().astype(np.int64),
        step_S=slates["step"].to_numpy().astype(np.int32),
        left_S=slates["left"].to_numpy().astype(np.int32),
        split_S=(np.int32(TRAIN) + (second_S >= first_S) + (second_S >= second_cut_S)).astype(np.int32),
    )


def _slate_tokens(items: pl.Series, vocabulary: tuple[str, ...]) -> NDArray[np.int32]:
    length_S = items.list.len().to_numpy().astype(np.int64)
    slate_SK = np.full((len(items), int(length_S.max())), PADDING, dtype=np.int32)
    row = np.repeat(np.arange(len(items)), length_S)
    column = np.arange(len(row)) - np.repeat(np.cumsum(length_S) - length_S, length_S)
    slate_SK[row, column] = tokens_of(items.explode(), vocabulary)
    return slate_SK


def _time_of(part: int, events: EventTimes) -> NDArray[np.int64]:
    """The time of each user's first event in a part of the split; beyond all times where there is none."""
    time_U = np.full(events.users, _USER_STRIDE, dtype=np.int64)
    is_part_E = events.split_E == part
    np.minimum.at(time_U, events.user_E[is_part_E], events.second_E[is_part_E])
    return time_U
