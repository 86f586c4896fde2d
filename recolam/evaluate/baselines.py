"""The rankers that every learned one must beat: popularity, of all time or of late, and item-kNN, over the catalogue.

Shape legend: B histories, T history length, N token ids (special ones included), U users, M neighbours kept per item,
P distinct pairs of user and item, C items of one block, R rows, Q queries, E events, K recommended items.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recolam.contracts.dataset import FIRST_ITEM, TRAIN, TokenisedDataset
from recolam.errors import DataError
from recolam.sequence.ranking import OUTSIDE, Ranked

_PAIRS_AT_A_TIME = 1_000_000
_CELLS_AT_A_TIME = 1_000_000
_DAY = 86_400


class Popularity:
    """Scores every item by its number of events in train, whatever the history (an `ItemScorer`)."""

    def __init__(self, dataset: TokenisedDataset) -> None:
        self._count_N = torch.as_tensor(dataset.item_count_V, dtype=torch.float32)

    def scores(self, history_BT: Tensor, length_B: Tensor) -> Tensor:
        """Float [B, N], each row the same; a tensor of its own, which the caller may overwrite."""
        return self._count_N.to(history_BT.device).repeat(len(history_BT), 1)


class ItemKNN:
    """Item-based collaborative filtering with cosine similarity (an `ItemScorer`).

    sim(i, j) = |U_i ∩ U_j| / sqrt(|U_i| |U_j|) over the sets of train users who have the item; only the M nearest
    neighbours of each item i are kept, and score(h, j) = sum over the items i of the history h of sim(i, j)
    (Sarwar et al. 2001, doi:10.1145/371920.372071; Deshpande & Karypis 2004, doi:10.1145/963770.963776). Standard and
    unweighted: every item of the history counts once an occurrence, whatever its age; no shrinkage.
    """

    def __init__(self, dataset: TokenisedDataset, *, neighbours: int = 100) -> None:
        """Counts co-occurrences over the train histories.

        Args:
            dataset: only its train events are read.
            neighbours: M, how many similar items each item keeps.

        Raises:
            DataError: fewer than one neighbour asked for, or no item in train.
        """
        if neighbours < 1:
            raise DataError(f"item-kNN needs at least one neighbour, got {neighbours}")
        user_P, item_P = train_pairs(dataset)
        if len(item_P) == 0:
            raise DataError("item-kNN needs train events with known items, and there are none")
        self._tokens = dataset.tokens
        kept = min(neighbours, dataset.tokens)
        self._neighbour_NM, self._similarity_NM = nearest_items(
            user_P, item_P, users=len(dataset.users), tokens=dataset.tokens, neighbours=kept
        )

    def scores(self, history_BT: Tensor, length_B: Tensor) -> Tensor:
        """Float [B, N]; 0 for items that are no neighbour of anything in the history."""
        neighbour_NM = self._neighbour_NM.to(history_BT.device)
        similarity_NM = self._similarity_NM.to(history_BT.device)
        rows, width = history_BT.shape
        is_real_BT = torch.arange(width, device=history_BT.device) < length_B.unsqueeze(1)
        score_BN = torch.zeros(rows, self._tokens, device=history_BT.device)
        added_BTM = similarity_NM[history_BT.long()] * is_real_BT.unsqueeze(2)
        return score_BN.scatter_add_(1, neighbour_NM[history_BT.long()].flatten(1), added_BTM.flatten(1))


def rank_recent_popularity(
    dataset: TokenisedDataset, event_Q: NDArray[np.int64], *, days: int = 7, k: int = 10
) -> Ranked:
    """Ranks each query's target by how often each item was taken in the `days` days before the query.

    Point in time: a query at second t counts the events of seconds t - 86,400 days to t - 1, of all users and of all
    parts of the split. That includes events that are targets of other users' queries: by t they have happened, and who
    counts what is in fashion would know them. The target itself, and whatever else bears the query's own second, is
    not counted. Items that the user has had do not compete, equal counts count half against the target, and a target
    outside the vocabulary is `OUTSIDE`, as in `rank_targets`. Of equal items the one with the lower token comes first
    in `top_QK`.

    Args:
        event_Q: indices of the events to predict, in any order; the answer is in the same order.
        days: how long an event counts.
        k: length of the lists.

    Raises:
        DataError: fewer than one day, or a log without a clock (its times are positions).
    """
    if days < 1:
        raise DataError(f"recent popularity needs at least one day, got {days}")
    if dataset.info.get("clock") == "position":
        raise DataError("recent popularity needs a log with a clock; this one has positions")
    by_time_E = np.argsort(dataset.event_time_E, kind="stable")
    time_E, item_E = dataset.event_time_E[by_time_E], dataset.event_item_E[by_time_E].astype(np.int64)
    count_N = np.zeros(dataset.tokens, dtype=np.int64)
    rank_Q = np.empty(len(event_Q), dtype=np.int64)
    top_QK = np.empty((len(event_Q), min(k, dataset.tokens - FIRST_ITEM)), dtype=np.int64)
    first = last = 0
    for query in np.argsort(dataset.event_time_E[event_Q], kind="stable"):
        now = dataset.event_time_E[event_Q[query]]
        new_first, new_last = np.searchsorted(time_E, [now - days * _DAY, now], side="left")
        np.add.at(count_N, item_E[last:new_last], 1)
        np.subtract.at(count_N, item_E[first:new_first], 1)
        first, last = int(new_first), int(new_last)
        rank_Q[query], top_QK[query] = _rank_by_count(count_N, dataset, int(event_Q[query]), k=top_QK.shape[1])
    return Ranked(rank_Q, top_QK)


def _rank_by_count(
    count_N: NDArray[np.int64], dataset: TokenisedDataset, event: int, *, k: int
) -> tuple[int, NDArray[np.int64]]:
    """The rank of the event's item and the first `k` items, by count."""
    target = int(dataset.event_item_E[event])
    start = int(dataset.user_offset_U1[dataset.user_of_event(np.array([event]))[0]])
    score_N = count_N.copy()
    score_N[dataset.event_item_E[start:event]] = -1
    score_N[target] = count_N[target]
    score_N[:FIRST_ITEM] = -1
    place_N = score_N * len(score_N) - np.arange(len(score_N))  # no two alike: equal counts by token
    top_K = np.argpartition(-place_N, k - 1)[:k]
    top_K = top_K[np.argsort(-place_N[top_K])]
    if target < FIRST_ITEM:
        return int(OUTSIDE), top_K
    ties = int((score_N == count_N[target]).sum()) - 1
    return 1 + int((score_N > count_N[target]).sum()) + (ties + 1) // 2, top_K


def train_pairs(dataset: TokenisedDataset) -> tuple[np.ndarray, np.ndarray]:
    """The distinct (user row, item token) pairs of the train events, special tokens left out, sorted by user."""
    is_used_E = (dataset.event_split_E == TRAIN) & (dataset.event_item_E >= FIRST_ITEM)
    event_P = np.flatnonzero(is_used_E)
    pair_P = dataset.user_of_event(event_P) * dataset.tokens + dataset.event_item_E[event_P].astype(np.int64)
    user_P, item_P = np.divmod(np.unique(pair_P), dataset.tokens)
    return user_P, item_P


def nearest_items(
    user_P: np.ndarray, item_P: np.ndarray, *, users: int, tokens: int, neighbours: int
) -> tuple[Tensor, Tensor]:
    """The nearest items of every item by cosine similarity.

    Co-occurrences are counted pair by pair, so that work grows with sum over users of |history|^2 and not with N^2
    times U; a block of items is counted at a time, so that memory stays bounded.

    Args:
        user_P: user row of each distinct pair, ascending.
        item_P: item token of each distinct pair.
        users: U.
        tokens: N.
        neighbours: M, at most N.

    Returns:
        tokens int64 [N, M] and similarities float32 [N, M], nearest first; where an item has fewer neighbours the
        similarity is 0. An item is not its own neighbour.
    """
    start_U = np.searchsorted(user_P, np.arange(users))
    width_U = np.bincount(user_P, minlength=users)
    order_P = np.argsort(item_P, kind="stable")
    start_N1 = np.searchsorted(item_P[order_P], np.arange(tokens + 1))
    norm_N = torch.from_numpy(np.sqrt(np.maximum(np.diff(start_N1), 1)).astype(np.float32))
    found_NM = torch.zeros(tokens, neighbours, dtype=torch.int64)
    similarity_NM = torch.zeros(tokens, neighbours)
    work_N = np.concatenate([[0], np.cumsum(width_U[user_P[order_P]])])[start_N1]
    for first, last in _blocks(work_N, tokens=tokens):
        here_P = order_P[start_N1[first] : start_N1[last]]
        user_p = user_P[here_P]
        both = ragged_ranges(start_U[user_p], width_U[user_p])
        cell = np.repeat((item_P[here_P] - first) * tokens, width_U[user_p]) + item_P[both]
        count = np.bincount(cell, minlength=(last - first) * tokens).reshape(last - first, tokens)
        similar_CN = torch.from_numpy(count.astype(np.float32)) / (norm_N[first:last, None] * norm_N)
        similar_CN[torch.arange(last - first), torch.arange(first, last)] = 0.0
        top = similar_CN.topk(neighbours, dim=1)
        similarity_NM[first:last], found_NM[first:last] = top.values, top.indices
    return found_NM, similarity_NM


def ragged_ranges(start_R: np.ndarray, width_R: np.ndarray) -> np.ndarray:
    """The ranges start, start + 1, ..., start + width - 1 of every row, one after the other."""
    before_R = np.cumsum(width_R) - width_R
    return np.arange(int(width_R.sum())) + np.repeat(start_R - before_R, width_R)


def _blocks(work_N: np.ndarray, *, tokens: int) -> Iterator[tuple[int, int]]:
    """Consecutive ranges of items whose pairs and whose similarity rows fit in a few tens of megabytes."""
    first = FIRST_ITEM
    while first < tokens:
        fitting = int(np.searchsorted(work_N, work_N[first] + _PAIRS_AT_A_TIME, side="right")) - 1
        last = min(max(fitting, first + 1), first + max(1, _CELLS_AT_A_TIME // tokens), tokens)
        yield first, last
        first = last
