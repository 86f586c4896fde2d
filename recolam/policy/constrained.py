"""Plackett-Luce slates under hard constraints that are part of the distribution.

P(a_1, ..., a_K) = prod_k exp(s_{a_k}) / sum_{j open at k} exp(s_j)

with the open items of `constraints`, those after which the slate can still be completed. Every position is normalised
over what it was truly drawn from, so the log-probability is that of the sampler, and score-function gradients through
it are exact. At a fixed position one item is open, with probability 1. This is not the unconstrained distribution
conditioned on the constraints: there, early positions would also weigh how many completions each item leaves.

Shape legend: B slates, K positions, N items.
"""

import torch
from torch import Tensor

from recolam.policy import plackett_luce
from recolam.policy.constraints import OpenItems, SlateConstraints

_NOTHING = -1e30  # as -inf, with a gradient where nothing is open


def sample(score_BN: Tensor, k: int, constraints: SlateConstraints, generator: torch.Generator | None) -> Tensor:
    """A slate for each row, int64 [B, k]; without a generator the best open item at every position.

    One Gumbel perturbation serves all positions: the open sets of the free positions shrink along the slate, and the
    largest of the perturbed scores in a subset that the earlier winners have decided is a fresh draw from it (clocks
    that have not rung yet have no memory).

    Raises:
        ValueError: constraints that cannot be kept; the message names the one that fails (see `OpenItems`).
    """
    if constraints.is_only_blocking:
        return plackett_luce.sample(constraints.barred(score_BN), k, generator)
    open_items = OpenItems(constraints, score_BN, k)
    key_BN = score_BN if generator is None else plackett_luce.perturbed(score_BN, generator)
    chosen = []
    for _ in range(k):
        chosen.append(key_BN.masked_fill(~open_items.next(), -torch.inf).argmax(dim=1))
        open_items.take(chosen[-1])
    return torch.stack(chosen, dim=1)


def log_prob(score_BN: Tensor, slate_BK: Tensor, constraints: SlateConstraints) -> Tensor:
    """Exact log-probability of each ordered slate, float [B]; -inf where it breaks a constraint."""
    return position_log_probs(score_BN, slate_BK, constraints).sum(dim=1)


def position_log_probs(score_BN: Tensor, slate_BK: Tensor, constraints: SlateConstraints) -> Tensor:
    """log P(a_k | a_1..a_{k-1}), float [B, K], differentiable in the scores; -inf for an item that was not open.

    Raises:
        ValueError: constraints that cannot be kept.
    """
    if constraints.is_only_blocking:
        barred_BN = constraints.barred(score_BN)
        is_open_BK = torch.isfinite(barred_BN.gather(1, slate_BK))
        possible_BN = torch.where(is_open_BK.all(dim=1, keepdim=True), barred_BN, torch.zeros_like(barred_BN))
        return plackett_luce.position_log_probs(possible_BN, slate_BK).masked_fill(~is_open_BK, -torch.inf)
    columns = []
    for item_B, is_open_BN in zip(slate_BK.T, _open_sets(score_BN, slate_BK, constraints), strict=True):
        mass_B = score_BN.masked_fill(~is_open_BN, _NOTHING).logsumexp(dim=1)
        shown_B = score_BN.gather(1, item_B[:, None])[:, 0]
        is_open_B = is_open_BN.gather(1, item_B[:, None])[:, 0]
        columns.append(torch.where(is_open_B, shown_B - mass_B, -torch.inf))
    return torch.stack(columns, dim=1)


def conditional_log_probs(score_BN: Tensor, slate_BK: Tensor, constraints: SlateConstraints) -> Tensor:
    """log P(item | a_1..a_{k-1}) of every item at every position, float [B, K, N]; -inf for items that are not open.

    For slates that keep the constraints, such as sampled ones.
    """
    is_open_BKN = torch.stack(_open_sets(score_BN, slate_BK, constraints), dim=1)
    return torch.log_softmax(score_BN[:, None].masked_fill(~is_open_BKN, -torch.inf), dim=2)


def _open_sets(score_BN: Tensor, slate_BK: Tensor, constraints: SlateConstraints) -> list[Tensor]:
    open_items = OpenItems(constraints, score_BN, slate_BK.shape[1])
    sets = []
    for item_B in slate_BK.T:
        sets.append(open_items.next())
        open_items.take(item_B)
    return sets
