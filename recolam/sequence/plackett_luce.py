"""The Plackett-Luce distribution over ordered slates of K distinct items.

P(a_1, ..., a_K) = prod_k exp(s_{a_k}) / Z_k,  Z_k = sum_{j not in a_1..a_{k-1}} exp(s_j)     (Plackett 1975; Luce 1959)

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
    check_room(score_BN, k)
    if generator is None:
        return score_BN.topk(k, dim=1).indices
    return perturbed(score_BN, generator).topk(k, dim=1).indices


def check_room(score_BN: Tensor, k: int) -> None:
    """Raises ValueError: a row has fewer than k items with a finite score."""
    fewest = int(torch.isfinite(score_BN).sum(dim=1).min()) if len(score_BN) else k
    if fewest < k:
        raise ValueError(f"a slate of {k} items cannot be made of {fewest} admissible items")


def perturbed(score_BN: Tensor, generator: torch.Generator) -> Tensor:
    """The scores with independent Gumbel noise, float [B, N]."""
    # -log of an exponential is a Gumbel variable
    exponential_BN = torch.empty_like(score_BN).exponential_(generator=generator)
    return score_BN - exponential_BN.log()


def log_prob(score_BN: Tensor, slate_BK: Tensor) -> Tensor:
    """Exact log-probability of each ordered slate, float [B]; differentiable in the scores."""
    return position_log_probs(score_BN, slate_BK).sum(dim=1)


def position_log_probs(score_BN: Tensor, slate_BK: Tensor) -> Tensor:
    """log P(a_k | a_1..a_{k-1}), float [B, K]; its sum is the slate's log-probability."""
    return score_BN.gather(1, slate_BK) - log_normalisers(score_BN, slate_BK)


def log_normalisers(score_BN: Tensor, slate_BK: Tensor) -> Tensor:
    """log Z_k, float [B, K]: the mass from which position k is drawn.

    It is computed from the other end: the mass of the items outside the slate, to which the slate's items are added
    from the last to the first. No difference of large numbers is ever formed.
    """
    rest_B = torch.logsumexp(score_BN.scatter(1, slate_BK, _NOTHING), dim=1)
    shown_BK = score_BN.gather(1, slate_BK)
    return torch.logcumsumexp(torch.cat([rest_B[:, None], shown_BK.flip(1)], dim=1), dim=1)[:, 1:].flip(1)


def conditional_log_probs(score_BN: Tensor, slate_BK: Tensor) -> Tensor:
    """log P(item | a_1..a_{k-1}) of every item at every position, float [B, K, N]; -inf for those already shown.

    It holds B x K x N numbers; `log_normalisers`, `conditional_means` and `conditional_sums` need no more than B x N.
    """
    batch, positions = slate_BK.shape
    is_shown_BKN = torch.zeros(batch, positions, score_BN.shape[1], dtype=torch.bool, device=score_BN.device)
    for position in range(positions - 1):
        before_BN = is_shown_BKN[:, position]
        is_shown_BKN[:, position + 1] = before_BN.scatter(1, slate_BK[:, position, None], True)
    return torch.log_softmax(score_BN[:, None].masked_fill(is_shown_BKN, -torch.inf), dim=2)


def conditional_means(score_BN: Tensor, slate_BK: Tensor, value_BN: Tensor) -> Tensor:
    """E[value of the item at position k | a_1..a_{k-1}], float [B, K], in time B (N + K^2); differentiable.

    The items outside the slate enter every position's mean as one, in their mean value; values of items with score
    -inf do not matter.
    """
    log_mass_BK = log_normalisers(score_BN, slate_BK)
    outside_BN = score_BN.scatter(1, slate_BK, _NOTHING)
    value_BN = value_BN.masked_fill(score_BN == -torch.inf, 0.0)
    outside_B = (torch.softmax(outside_BN, dim=1) * value_BN).sum(dim=1)
    outside_mass_BK = (torch.logsumexp(outside_BN, dim=1, keepdim=True) - log_mass_BK).exp()
    # share_xk = P(a_x | a_1..a_{k-1}) for x >= k
    share_BKK = _lower(score_BN.gather(1, slate_BK)[:, :, None] - log_mass_BK[:, None, :]).exp()
    inside_BK = (share_BKK * value_BN.gather(1, slate_BK)[:, :, None]).sum(dim=1)
    return inside_BK + outside_mass_BK * outside_B[:, None]


def conditional_sums(score_BN: Tensor, slate_BK: Tensor, weight_BK: Tensor) -> Tensor:
    """sum_k weight_k P(item | a_1..a_{k-1}) of every item, float [B, N], in time B (N + K^2).

    The sum runs over the positions at which the item was still to be had. Masses are divided by each other only where
    the quotient is at most 1, so scores far apart do no harm.
    """
    log_mass_BK = log_normalisers(score_BN, slate_BK)
    # running_k = sum_{x <= k} weight_x Z_k / Z_x, where Z falls along the slate
    quotient_BKK = _lower(log_mass_BK[:, :, None] - log_mass_BK[:, None, :]).exp()
    running_BK = (quotient_BKK @ weight_BK[..., None])[..., 0]
    sum_BN = (score_BN - log_mass_BK[:, -1:]).scatter(1, slate_BK, _NOTHING).exp() * running_BK[:, -1:]
    return sum_BN.scatter(1, slate_BK, (score_BN.gather(1, slate_BK) - log_mass_BK).exp() * running_BK)


def _lower(exponent_BKK: Tensor) -> Tensor:
    """Nothing above the diagonal."""
    size = exponent_BKK.shape[1]
    is_above_KK = torch.ones(size, size, dtype=torch.bool, device=exponent_BKK.device).triu(1)
    return exponent_BKK.masked_fill(is_above_KK, _NOTHING)


def first_pick_entropy(score_BN: Tensor) -> Tensor:
    """Entropy of the first position's distribution, float [B], in nats."""
    log_probability_BN = torch.log_softmax(score_BN, dim=1)
    return -(log_probability_BN.exp() * log_probability_BN.clamp(min=-1e4)).sum(dim=1)


def first_pick_kl(score_BN: Tensor, reference_BN: Tensor) -> Tensor:
    """KL(policy || reference) of the first position's distribution, float [B], in nats; masks must agree."""
    log_probability_BN = torch.log_softmax(score_BN, dim=1).clamp(min=-1e4)
    difference_BN = log_probability_BN - torch.log_softmax(reference_BN, dim=1).clamp(min=-1e4)
    return (log_probability_BN.exp() * difference_BN).sum(dim=1)
