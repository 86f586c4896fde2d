"""Exact figures of a small Plackett-Luce distribution: entropy, divergence and inclusion, with nothing sampled.

What a position chooses from depends on the items before it, not on their order. So the sum over ordered slates is a
sum over sets: P({}) = 1, P(C + {i}) += P(C) P(i | C), of which there are binomial(N, k) at position k + 1. That is
3,003 for the last of 6 positions among 15 items, where ordered slates are 3.6 million.

Shape legend: C sets of one size, N items.
"""

import math

import torch
from torch import Tensor

_MOST_SETS = 300_000


def prefix_sets(score_N: Tensor, k: int) -> list[tuple[Tensor, Tensor]]:
    """For every size 0..k, which items are in each set, bool [C, N], and P(a_1..a_size is that set), float [C].

    Differentiable in the scores; items of score -inf are in no set.

    Raises:
        ValueError: fewer than k items, or more than 300,000 sets.
    """
    item_I = torch.isfinite(score_N).nonzero()[:, 0]
    count = sum(math.comb(len(item_I), size) for size in range(k + 1))
    if len(item_I) < k or len(item_I) > 62 or count > _MOST_SETS:
        raise ValueError(f"{count:,} sets of up to {k} of {len(item_I)} items: 1 to {_MOST_SETS:,} can be enumerated")
    bit_I = torch.bitwise_left_shift(torch.ones_like(item_I), torch.arange(len(item_I), device=score_N.device))
    set_C, probability_C = torch.zeros(1, dtype=torch.int64, device=score_N.device), score_N.new_ones(1)
    levels = []
    for size in range(k + 1):
        is_in_CI = (set_C[:, None] & bit_I) > 0
        is_in_CN = torch.zeros(len(set_C), len(score_N), dtype=torch.bool, device=score_N.device)
        is_in_CN[:, item_I] = is_in_CI
        levels.append((is_in_CN, probability_C))
        if size == k:
            break
        chance_CI = probability_C[:, None] * _next_log_probs(score_N, is_in_CN)[:, item_I].exp()
        larger_CI = set_C[:, None] | bit_I
        set_C, place = larger_CI[~is_in_CI].unique(return_inverse=True)
        probability_C = score_N.new_zeros(len(set_C)).index_add(0, place, chance_CI[~is_in_CI])
    return levels


def exact_inclusion(score_N: Tensor, k: int) -> Tensor:
    """P(item in the slate), float [N]; it sums to k."""
    is_in_CN, probability_C = prefix_sets(score_N, k)[-1]
    return probability_C @ is_in_CN.to(score_N.dtype)


def exact_entropy(score_N: Tensor, k: int) -> Tensor:
    """Entropy of the ordered slate, a scalar in nats: sum_k E[ H(a_k | a_1..a_{k-1}) ]."""
    total = score_N.new_zeros(())
    for is_in_CN, probability_C in prefix_sets(score_N, k)[:-1]:
        log_policy_CN = _next_log_probs(score_N, is_in_CN)
        total = total - probability_C @ (log_policy_CN.exp() * log_policy_CN.clamp(min=-1e30)).sum(dim=1)
    return total


def exact_kl(score_N: Tensor, reference_N: Tensor, k: int) -> Tensor:
    """KL(slates of `score_N` || slates of `reference_N`), a scalar in nats; inf where the reference bars more."""
    total = score_N.new_zeros(())
    for is_in_CN, probability_C in prefix_sets(score_N, k)[:-1]:
        log_policy_CN = _next_log_probs(score_N, is_in_CN)
        policy_CN = log_policy_CN.exp()
        difference_CN = log_policy_CN - _next_log_probs(reference_N, is_in_CN)
        total = total + probability_C @ (policy_CN * difference_CN.masked_fill(policy_CN == 0, 0.0)).sum(dim=1)
    return total


def _next_log_probs(score_N: Tensor, is_in_CN: Tensor) -> Tensor:
    """log P(item | the set before it), float [C, N]; -inf for the set's own items."""
    return torch.log_softmax(score_N.masked_fill(is_in_CN, -torch.inf), dim=1)
