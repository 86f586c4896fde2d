"""A bandit small enough to enumerate: slates of 3 of 6 items, clicks of a position-based user.

Shape legend: A all 120 ordered slates, K positions, N items, S sampled slates.
"""

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from recolam.policy import plackett_luce

SCORE_N = torch.tensor([0.5, -0.3, 0.0, 1.0, 0.2, -1.0], dtype=torch.float64)
CLICK_N = torch.tensor([0.5, 0.1, 0.7, 0.2, 0.9, 0.4], dtype=torch.float64)
WRONG_CLICK_N = torch.tensor([0.2, 0.6, 0.3, 0.5, 0.4, 0.8], dtype=torch.float64)
EXPOSURE_K = torch.tensor([1.0, 0.6, 0.3], dtype=torch.float64)
SLATE_AK = torch.tensor(list(itertools.permutations(range(6), 3)))


def probabilities(score_N: Tensor = SCORE_N) -> Tensor:
    return plackett_luce.log_prob(score_N.expand(len(SLATE_AK), -1), SLATE_AK).exp()


def exact_gradient(reward_A: Tensor, score_N: Tensor = SCORE_N) -> Tensor:
    """d/ds of sum_A P(A) reward(A), with the probabilities differentiated, not their logarithm."""
    leaf_N = score_N.clone().requires_grad_()
    (gradient_N,) = torch.autograd.grad((probabilities(leaf_N) * reward_A).sum(), leaf_N)
    return gradient_N


def position_reward(click_N: Tensor = CLICK_N) -> Tensor:
    return (EXPOSURE_K * click_N[SLATE_AK]).sum(dim=1)


def row_gradients(loss_of: Callable[[Tensor], Tensor], slate_SK: Tensor, score_N: Tensor = SCORE_N) -> Tensor:
    """Each slate's own estimate, float [S, N]: minus the gradient of a loss that is a sum over rows."""
    leaf_SN = score_N.expand(len(slate_SK), -1).clone().requires_grad_()
    (gradient_SN,) = torch.autograd.grad(loss_of(leaf_SN), leaf_SN)
    return -gradient_SN


def all_outcomes() -> tuple[Tensor, Tensor, Tensor]:
    """Every slate with every pattern of clicks: slates [120 * 8, 3], clicks [120 * 8, 3], probabilities [120 * 8]."""
    pattern_PK = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3)), dtype=torch.float64)
    slate_SK = SLATE_AK.repeat_interleave(len(pattern_PK), dim=0)
    click_SK = pattern_PK.repeat(len(SLATE_AK), 1)
    chance_SK = EXPOSURE_K * CLICK_N[slate_SK]
    pattern_S = torch.where(click_SK > 0, chance_SK, 1 - chance_SK).prod(dim=1)
    return slate_SK, click_SK, probabilities().repeat_interleave(len(pattern_PK)) * pattern_S
