"""Ranking metrics as pure functions of ranks and top lists.

Shape legend: Q queries, K list positions, N token ids (special ones included), U users. Every query has exactly one
relevant item, the one that was consumed next. Functions named `*_at` of ranks return one value per query, so that a
bootstrap can resample them; the metric is their mean.
"""

import numpy as np
from numpy.typing import NDArray

from recolam.contracts.dataset import FIRST_ITEM
from recolam.errors import DataError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def ndcg_at(rank_Q: Ints, *, k: int) -> Floats:
    """Normalised discounted cumulative gain of each query, cut at `k`.

    DCG@k = sum_i (2^rel_i - 1) / log2(i + 1) (Järvelin & Kekäläinen 2002, doi:10.1145/582415.582418). With one relevant
    item the ideal DCG is 1, so that NDCG@k = 1 / log2(rank + 1) where rank <= k, else 0.

    Args:
        rank_Q: rank of the relevant item, 1 = best; a target that cannot be ranked has a rank above any `k`.
        k: length of the list.

    Returns:
        Float [Q], each in [0, 1].

    Raises:
        DataError: a rank below 1, or `k` below 1.
    """
    _check(rank_Q, k)
    return np.where(rank_Q <= k, 1.0 / np.log2(rank_Q.astype(np.float64) + 1.0), 0.0)


def hit_at(rank_Q: Ints, *, k: int) -> Floats:
    """1 for each query whose relevant item is among the first `k`, else 0; its mean is the hit rate HR@k.

    With one relevant item HR@k equals recall@k (Deshpande & Karypis 2004, doi:10.1145/963770.963776, eq. 4).

    Args:
        rank_Q: rank of the relevant item, 1 = best.
        k: length of the list.

    Raises:
        DataError: a rank below 1, or `k` below 1.
    """
    _check(rank_Q, k)
    return (rank_Q <= k).astype(np.float64)


def reciprocal_rank(rank_Q: Ints, *, items: int) -> Floats:
    """1 / rank of each query; its mean is MRR (Voorhees 1999, TREC-8 question answering track, section 3).

    Args:
        rank_Q: rank of the relevant item, 1 = best.
        items: size of the catalogue; a rank above it marks a target that was never ranked and counts 0.

    Raises:
        DataError: a rank below 1.
    """
    _check(rank_Q, 1)
    return np.where(rank_Q <= items, 1.0 / rank_Q.astype(np.float64), 0.0)


def coverage_at(top_QK: Ints, *, items: int, k: int) -> float:
    """Share of the catalogue that is in at least one list of length `k`.

    |union over q of top_q| / |catalogue|: "catalogue coverage" of Ge, Delgado-Battenfeld & Jannach 2010,
    doi:10.1145/1864708.1864761, eq. 4. Special tokens (padding of short lists) are not items.

    Args:
        top_QK: token ids, best first.
        items: size of the catalogue.
        k: length of the list.

    Raises:
        DataError: an empty catalogue or no lists.
    """
    if items < 1 or top_QK.size == 0:
        raise DataError(f"coverage needs a catalogue and lists, got {items} items and lists of shape {top_QK.shape}")
    shown = np.unique(top_QK[:, :k])
    return float(np.count_nonzero(shown >= FIRST_ITEM) / items)


def novelty_at(top_QK: Ints, item_count_N: Ints, *, k: int) -> float:
    """Mean self-information of the recommended items under their popularity in train, in bits.

    novelty@k = mean over lists and positions of -log2 p(i), p(i) = c_i / sum_j c_j (Zhou et al. 2010,
    doi:10.1073/pnas.1000488107; Vargas & Castells 2011, doi:10.1145/2043932.2043955, section 3). An item without any
    event in train counts as if it had one, so that the number stays finite.

    Args:
        top_QK: token ids, best first; special tokens are left out of the mean.
        item_count_N: events in train, one per token id.
        k: length of the list.

    Raises:
        DataError: no item was recommended, or nothing was counted in train.
    """
    shown = top_QK[:, :k].reshape(-1)
    shown = shown[shown >= FIRST_ITEM]
    total = int(item_count_N[FIRST_ITEM:].sum())
    if shown.size == 0 or total == 0:
        raise DataError(f"novelty needs recommendations and train events, got {shown.size} and {total}")
    return float(np.mean(np.log2(total) - np.log2(np.maximum(item_count_N[shown], 1))))


def _check(rank_Q: Ints, k: int) -> None:
    if k < 1:
        raise DataError(f"a list of length {k} cannot be judged; k must be at least 1")
    if rank_Q.size and int(rank_Q.min()) < 1:
        raise DataError(f"rank {int(rank_Q.min())} found; ranks start at 1")
