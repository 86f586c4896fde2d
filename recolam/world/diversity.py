"""How different from each other are the items that users take, logged and simulated, over the same contexts?

Clicks are independent of each other given the contexts, so simulated counts are expectations, without any draw: with
p_sk the probability that item k of slate s is taken, v its unit vector and m_s = sum_k p_sk v_sk,

    pairs of a session    = sum_{s < t} sum_k p_sk sum_l p_tl
    likeness of the pairs = sum_{s < t} m_s . m_t            (of logged clicks p is 0 or 1: the same formulas)

Shape legend: S slates, K slate, N token ids, D width, Q sessions.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recolam.intervals import cluster_error
from recolam.world.answers import Answers

Floats = NDArray[np.float64]
_BLOCK = 4096


def distance_within_session(
    item_ND: Tensor, answers: Answers, observed_SK: Floats, predicted_SK: Floats
) -> dict[str, float] | None:
    """Mean of 1 - cosine over pairs of items taken in the same session; None where no session has a pair.

    The number of different items is left out: over logged contexts it is biased, since an item is shown again only to
    users who did not take it.

    Returns:
        {logged, simulated, error}; the error is that of the difference, users as clusters, of the linearised ratio.
    """
    sides = [_pairs(item_ND, answers, weight_SK) for weight_SK in (observed_SK, predicted_SK)]
    if any(pairs_Q.sum() == 0 for pairs_Q, _ in sides):
        return None
    ratios, influences = [], []
    for pairs_Q, apart_Q in sides:
        ratios.append(float(apart_Q.sum() / pairs_Q.sum()))
        influences.append((apart_Q - ratios[-1] * pairs_Q) / pairs_Q.mean())
    user_Q = answers.user_S.numpy()[np.unique(answers.session_S.numpy(), return_index=True)[1]]
    return {
        "logged": ratios[0],
        "simulated": ratios[1],
        "error": cluster_error(influences[1] - influences[0], user_Q),
    }


def _pairs(item_ND: Tensor, answers: Answers, weight_SK: Floats) -> tuple[Floats, Floats]:
    """Expected number of pairs of items taken in each session, and the sum of their distances; float [Q] each."""
    unit_ND = torch.nn.functional.normalize(item_ND, dim=1)
    row_S = np.unique(answers.session_S.numpy(), return_inverse=True)[1]
    sessions, width = int(row_S.max()) + 1, item_ND.shape[1]
    sum_QD, square_Q = torch.zeros(sessions, width, dtype=torch.float64), torch.zeros(sessions, dtype=torch.float64)
    index_S = torch.from_numpy(row_S)
    for rows in torch.arange(len(row_S)).split(_BLOCK):
        weight_RK = torch.from_numpy(weight_SK[rows]).float()
        taken_RD = torch.einsum("rk,rkd->rd", weight_RK, unit_ND[answers.slate_SK[rows]]).double()
        sum_QD.index_add_(0, index_S[rows], taken_RD)
        square_Q.index_add_(0, index_S[rows], taken_RD.square().sum(dim=1))
    clicks_S = weight_SK.sum(axis=1)
    clicks_Q, own_Q = np.bincount(row_S, weights=clicks_S), np.bincount(row_S, weights=clicks_S**2)
    pairs_Q = (clicks_Q**2 - own_Q) / 2
    likeness_Q = (sum_QD.square().sum(dim=1) - square_Q).numpy() / 2
    return pairs_Q, pairs_Q - likeness_Q
