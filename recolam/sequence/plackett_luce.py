"""The Plackett-Luce distribution over ordered slates of K distinct items.

P(a_1, ..., a_K) = prod_k exp(s_{a_k}) / sum_{j not in a_1..a_{k-1}} exp(s_j)     (Plackett 1975; Luce 1959)

Items with score -inf are never in a slate. Shape legend: B slates, K positions, N items.
"""

import torch
from torch import Tensor

_NOTHING = -1e30  # exp of it is 0, and unlike -inf it has a gradient where a slate takes the whole catalogue


def sample(score_BN: Tensor, k: int, generator: torch.Generator | None) -> Tensor:
    """A slate for each row, int64 [B, k]; without a generator the most probable one.

    The k largest scores after adding independent Gumbel noise are a Plackett-Luce sample (Gumbel top-k, Kool et al.
    2019, https://arxiv.org/abs/1903.06059).

    Raises:
        ValueError: a row has fewer than k items with a finite score.
    """
    fewest = int(torch.isfinite(score_BN).sum(dim=1).min()) if len(score_BN) else k
    if fewest < k:
        raise ValueError(f"a slate of {k} items cannot be made of {fewest} admissible items")
    if generator is None:
        return score_BN.topk(k, dim=1).indices
    # -log of an exponential is a Gumbel variable
    exponential_BN = torch.empty_like(score_BN).exponential_(generator=generator)
    return (score_BN - exponential_BN.log()).topk(k, dim=1).indices


def log_prob(score_BN: Tensor, slate_BK: Tensor) -> Tensor:
    """Exact log-probability of each ordered slate, float [B]; differentiable in the scores.

    The normaliser of position k is log(exp(Z) - sum of the items already taken), computed from the other end: the
    mass of the items outside the slate, to which the slate's items are added from the last to the first. No
    difference of large numbers is ever formed.
    """
    shown_BK = score_BN.gather(1, slate_BK)
    rest_B = torch.logsumexp(score_BN.scatter(1, slate_BK, _NOTHING), dim=1)
    tail_BK = torch.logcumsumexp(torch.cat([rest_B[:, None], shown_BK.flip(1)], dim=1), dim=1)[:, 1:].flip(1)
    return (shown_BK - tail_BK).sum(dim=1)


def first_pick_entropy(score_BN: Tensor) -> Tensor:
    """Entropy of the first position's distribution, float [B], in nats."""
    log_probability_BN = torch.log_softmax(score_BN, dim=1)
    return -(log_probability_BN.exp() * log_probability_BN.clamp(min=-1e4)).sum(dim=1)


def first_pick_kl(score_BN: Tensor, reference_BN: Tensor) -> Tensor:
    """KL(policy || reference) of the first position's distribution, float [B], in nats; masks must agree."""
    log_probability_BN = torch.log_softmax(score_BN, dim=1).clamp(min=-1e4)
    difference_BN = log_probability_BN - torch.log_softmax(reference_BN, dim=1).clamp(min=-1e4)
    return (log_probability_BN.exp() * difference_BN).sum(dim=1)
