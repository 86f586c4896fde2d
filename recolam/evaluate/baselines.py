"""The two rankers that every learned one must beat: popularity and item-kNN, over the whole catalogue.

Shape legend: B histories, T history length, N token ids (special ones included), U users, M neighbours kept per item,
P distinct pairs of user and item, C items of one block, R rows.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from recolam.contracts.dataset import FIRST_ITEM, TRAIN, TokenisedDataset
from recolam.errors import DataError

_PAIRS_AT_A_TIME = 1_000_000
_CELLS_AT_A_TIME = 1_000_000


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
