"""Where the target stands among all items, exactly, a block of queries at a time; seen items never compete.

Shape legend: Q queries, B queries of a block, N token ids, K recommended items.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recolam.contracts.dataset import FIRST_ITEM, TokenisedDataset
from recolam.contracts.protocols import ItemScorer

OUTSIDE = np.iinfo(np.int64).max
"""Rank of a target that is not in the vocabulary: a miss at every cut-off."""


@dataclass(frozen=True)
class Ranked:
    """rank_Q: 1 for the best; `OUTSIDE` for a target no model can name. top_QK: token ids, best first."""

    rank_Q: NDArray[np.int64]
    top_QK: NDArray[np.int64]


@torch.no_grad()
def rank_targets(
    scorer: ItemScorer,
    dataset: TokenisedDataset,
    event_Q: NDArray[np.int64],
    *,
    max_len: int,
    k: int = 10,
    block: int = 256,
    device: torch.device | str = "cpu",
) -> Ranked:
    """Ranks each query's target among all items that the user has not had before.

    Ties count half against the target (its expected rank under random tie-breaking, rounded up), so that a scorer
    that gives equal scores gains nothing.

    Args:
        event_Q: indices of the events to predict; the history of each is what its user had before.
        max_len: how many of the newest items the scorer is shown. The filter always uses the whole history.
    """
    ranks, tops = [], []
    for begin in range(0, len(event_Q), block):
        event_B = event_Q[begin : begin + block]
        score_BN = _scores(scorer, dataset, event_B, max_len=max_len, device=device)
        target_B = torch.from_numpy(dataset.event_item_E[event_B].astype(np.int64)).to(score_BN.device)
        _mask_seen(score_BN, dataset, event_B, target_B)
        ranks.append(_rank(score_BN, target_B).cpu().numpy())
        tops.append(score_BN.topk(min(k, score_BN.shape[1] - FIRST_ITEM), dim=1).indices.cpu().numpy())
    if not ranks:
        return Ranked(np.empty(0, dtype=np.int64), np.empty((0, k), dtype=np.int64))
    return Ranked(np.concatenate(ranks), np.concatenate(tops))


def _scores(
    scorer: ItemScorer,
    dataset: TokenisedDataset,
    event_B: NDArray[np.int64],
    *,
    max_len: int,
    device: torch.device | str,
) -> Tensor:
    history_BT, length_B = dataset.histories(event_B, limit=max_len)
    inputs = [history_BT.astype(np.int64), length_B]
    if getattr(scorer, "reads_time", False):
        inputs.append(dataset.history_times(event_B, limit=max_len))
    return scorer.scores(*(torch.from_numpy(value).to(device) for value in inputs)).float()


def ndcg(rank_Q: NDArray[np.int64], *, k: int) -> float:
    """Mean of 1 / log2(1 + rank) over queries, 0 beyond k: NDCG with one relevant item (Jarvelin & Kekalainen 2002)."""
    if len(rank_Q) == 0:
        return float("nan")
    return float(np.where(rank_Q <= k, 1.0 / np.log2(1.0 + np.minimum(rank_Q, k)), 0.0).mean())


def _mask_seen(score_BN: Tensor, dataset: TokenisedDataset, event_B: NDArray[np.int64], target_B: Tensor) -> None:
    """Sets the scores of special tokens and of items in the user's history to -inf; a repeated target stays."""
    target_score_B1 = score_BN.gather(1, target_B[:, None])
    users = dataset.user_of_event(event_B)
    for row, (user, event) in enumerate(zip(users, event_B, strict=True)):
        seen = dataset.event_item_E[dataset.user_offset_U1[user] : event].astype(np.int64)
        score_BN[row, torch.from_numpy(seen).to(score_BN.device)] = -torch.inf
    score_BN.scatter_(1, target_B[:, None], target_score_B1)
    score_BN[:, :FIRST_ITEM] = -torch.inf


def _rank(score_BN: Tensor, target_B: Tensor) -> Tensor:
    target_score_B1 = score_BN.gather(1, target_B[:, None])
    better_B = (score_BN > target_score_B1).sum(dim=1)
    ties_B = (score_BN == target_score_B1).sum(dim=1) - 1
    rank_B = 1 + better_B + (ties_B + 1) // 2
    return torch.where((target_B >= FIRST_ITEM) & torch.isfinite(target_score_B1[:, 0]), rank_B, OUTSIDE)
