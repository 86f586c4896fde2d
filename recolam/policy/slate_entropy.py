"""Entropy and divergence of ordered slates, by the chain rule along sampled slates.

    H(a) = E[ sum_k H(a_k | a_1..a_{k-1}) ],   KL(p || q) = E[ sum_k KL( p(. | a_1..a_{k-1}) || q(. | a_1..a_{k-1}) ) ]

The terms are exact for the prefix at hand, so only the prefix is sampled: the mean over slates drawn from the policy
is unbiased, with much less variance than that of -log P(a), and exact for the first position. Both cost S (N + K^2).
`estimate` has the standard error; `prefix_sets` has the exact figures of small cases.

Shape legend: S slates drawn from the policy, K positions, N items.
"""

import torch
from torch import Tensor

from recolam.policy import plackett_luce


def position_entropies(score_SN: Tensor, slate_SK: Tensor) -> Tensor:
    """H(a_k | a_1..a_{k-1}), float [S, K], in nats: log Z_k - E[score of the item at k]. Differentiable."""
    mean_SK = plackett_luce.conditional_means(score_SN, slate_SK, score_SN)
    return plackett_luce.log_normalisers(score_SN, slate_SK) - mean_SK


def position_kls(score_SN: Tensor, reference_SN: Tensor, slate_SK: Tensor) -> Tensor:
    """KL(policy || reference) of position k given a_1..a_{k-1}, float [S, K], in nats. Differentiable.

    Both bar the same items, or the reference fewer; else the divergence is infinite, and the slate has an inf or nan.
    """
    difference_SN = score_SN - reference_SN.masked_fill(score_SN == -torch.inf, 0.0)
    mean_SK = plackett_luce.conditional_means(score_SN, slate_SK, difference_SN)
    own_SK = plackett_luce.log_normalisers(score_SN, slate_SK)
    return mean_SK - own_SK + plackett_luce.log_normalisers(reference_SN, slate_SK)


def estimate(part_SK: Tensor) -> tuple[float, float]:
    """Mean over slates of one state of the sum over positions, and its standard error (S >= 2)."""
    whole_S = part_SK.sum(dim=1)
    return float(whole_S.mean()), float(whole_S.std() / len(whole_S) ** 0.5)


def chain_surrogate(part_SK: Tensor, log_prob_SK: Tensor) -> Tensor:
    """A scalar whose gradient is that of E[ sum_k part_k ], summed over slates, without bias.

        sum_k grad part_k + grad log P(a_k | a_1..a_{k-1}) sum_{x > k} part_x

    The parts alone would leave out that the policy also decides which prefixes come about.

    Args:
        part_SK: of `position_entropies` or `position_kls`: column k depends on a_1..a_{k-1}.
        log_prob_SK: `position_log_probs` of the same slates.
    """
    future_SK = part_SK.flip(1).cumsum(dim=1).flip(1) - part_SK
    return (part_SK + future_SK.detach() * log_prob_SK).sum()
