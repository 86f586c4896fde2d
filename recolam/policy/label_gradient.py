"""The gradient that item labels give a slate distribution: PL-Rank where it is Plackett-Luce, conditionals where not.

J(s) = E_a[ sum_k theta_k rho_{a_k} ], labels rho of every column and exposures theta of every position. For a slate
policy that is drawn item by item, whatever narrows its choices,

    grad J = E[ sum_k  sum_d theta_k rho_d grad p_k(d)  +  grad log p_k(a_k) sum_{x > k} theta_x (m_x - m_k) ],
    m_k = sum_d p_k(d) rho_d,   p_k(d) = P(d | a_1..a_{k-1})

A position's own label enters by its exact conditional gradient, a later one by its expectation given the items before
it (Rao-Blackwell), and m_k is a baseline: `conditional_pl_rank` is this for Plackett-Luce, in time N + K^2. Under
constraints it takes K x N, from the conditional probabilities of `constrained`.

Shape legend: S slates, K positions, M columns (items, or candidates).
"""

from typing import Literal

import torch
from torch import Tensor

from recolam.policy.distribution import SlateDistribution
from recolam.policy.gradient import discounted_returns, policy_gradient_loss
from recolam.policy.pl_rank import centred, conditional_pl_rank, label_loss, pl_rank
from recolam.policy.slate_weights import expected_clicks, reward_to_go

Form = Literal["conditional", "centred", "expected_clicks"]


def label_gradient_loss(
    distribution: SlateDistribution,
    slate_SK: Tensor,
    label_SM: Tensor,
    exposure_K: Tensor,
    *,
    form: Form = "conditional",
    correction: float = 0.0,
    weight_SK: Tensor | None = None,
) -> Tensor:
    """A scalar whose gradient is minus the estimate of grad J, summed over slates.

    Args:
        distribution: what the slates were drawn from, under the weights to be differentiated.
        slate_SK: token ids.
        form: see `PlRankConfig`; "centred" is "conditional" under constraints that are not only of blocked items.
        correction: how much of `weight_SK` minus what the labels say of the slate is added, by the score function. With
            1 the expectation is that of `policy_gradient_loss(log_prob, weight_SK)`, whatever the labels.
        weight_SK: sampled advantages; needed for a correction.
    """
    score_SM, column_SK = distribution.first_scores(slate_SK.shape[1]), distribution.columns_of(slate_SK)
    label_SM = centred(score_SM.detach(), label_SM)
    worth_SK = expected_clicks(label_SM, column_SK, exposure_K)
    if form == "expected_clicks":
        loss = policy_gradient_loss(distribution.position_log_probs(slate_SK), reward_to_go(worth_SK))
    elif distribution.is_plackett_luce:
        estimate = pl_rank if form == "centred" else conditional_pl_rank
        loss = label_loss(score_SM, estimate(score_SM.detach(), column_SK, label_SM, exposure_K))
    else:
        loss = conditional_loss(distribution.conditional_log_probs(slate_SK), column_SK, label_SM, exposure_K)
    if correction and weight_SK is not None:
        surprise_SK = weight_SK - worth_SK.sum(dim=1, keepdim=True)
        loss = loss + correction * policy_gradient_loss(distribution.position_log_probs(slate_SK), surprise_SK)
    return loss


def conditional_loss(log_policy_SKM: Tensor, column_SK: Tensor, label_SM: Tensor, exposure_K: Tensor) -> Tensor:
    """The formula above as a scalar whose gradient is minus the estimate, summed over slates.

    Args:
        log_policy_SKM: log p_k(d), differentiable, -inf for what is not open.
    """
    mean_SK = (log_policy_SKM.exp() * label_SM[:, None]).sum(dim=2)
    log_prob_SK = log_policy_SKM.gather(2, column_SK[..., None])[..., 0]
    with torch.no_grad():
        exposed_SK, later_exposure_K = exposure_K * mean_SK, exposure_K.flip(0).cumsum(0).flip(0) - exposure_K
        later_SK = discounted_returns(exposed_SK, gamma=1.0) - exposed_SK - later_exposure_K * mean_SK
    return -(exposure_K * mean_SK).sum() + policy_gradient_loss(log_prob_SK, later_SK)
