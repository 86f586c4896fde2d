"""Sampled rewards, corrected by what a critic expects of every item: unbiased whatever the critic says.

    grad J = E[ sum_k  sum_d grad p_k(d) q_k(d)  +  grad log p_k(a_k) ( G_k - q_k(a_k) ) ]

p_k is the distribution of position k given a_1..a_{k-1}, G_k the sampled reward from position k on, and q_k(d) any
guess of E[G_k | a_1..a_{k-1}, a_k = d]. The first term has no sampling in it but the prefix; the second repairs the
guess, and is 0 on average where the guess is right. So a user model's labels may be used without trusting them.
(Ciosek & Whiteson 2018, "Expected policy gradients", https://arxiv.org/abs/1706.05374; Gu et al. 2017, "Q-Prop",
https://arxiv.org/abs/1611.02247)

It holds S x K x N numbers: for large catalogues use `pl_rank`, or candidates of `two_stage`.

Shape legend: S slates, K positions, N items.
"""

import torch
from torch import Tensor

from recolam.policy.gradient import discounted_returns
from recolam.policy.slate_weights import expected_clicks


def critic_loss(log_policy_SKN: Tensor, slate_SK: Tensor, to_go_SK: Tensor, critic_SKN: Tensor) -> Tensor:
    """A scalar whose gradient is minus the estimate above, summed over slates.

    Args:
        log_policy_SKN: log p_k(d), differentiable, -inf for what cannot be shown (`conditional_log_probs` of
            `plackett_luce` and `constrained`).
        to_go_SK: G_k, sampled.
        critic_SKN: q_k(d), finite.
    """
    log_prob_SK = log_policy_SKN.gather(2, slate_SK[..., None])[..., 0]
    guess_SK = critic_SKN.gather(2, slate_SK[..., None])[..., 0]
    expected = (log_policy_SKN.exp() * critic_SKN.detach()).sum()
    return -expected - ((to_go_SK - guess_SK).detach() * log_prob_SK).sum()


@torch.no_grad()
def label_critic(log_policy_SKN: Tensor, label_SN: Tensor, exposure_K: Tensor) -> Tensor:
    """q_k(d) of a position-based user under Plackett-Luce, float [S, K, N].

        theta_k rho_d + m_{k+1}(d) sum_{x > k} theta_x,   m_{k+1}(d) = (m_k - p_k(d) rho_d) / (1 - p_k(d))

    m_{k+1}(d) is the label expected of the next position once d is gone: exact there, and a guess for those after it.
    """
    later_K = discounted_returns(exposure_K[None], gamma=1.0)[0] - exposure_K
    policy_SKN = log_policy_SKN.exp()
    label_S1N = label_SN[:, None]
    mean_SK1 = (policy_SKN * label_S1N).sum(dim=2, keepdim=True)
    # an item that is certain leaves nothing to compare it with, so its critic weighs nothing
    next_SKN = (mean_SK1 - policy_SKN * label_S1N) / (1.0 - policy_SKN).clamp(min=1e-6)
    return exposure_K[:, None] * label_S1N + later_K[:, None] * next_SKN


@torch.no_grad()
def expected_to_go(log_policy_SKN: Tensor, slate_SK: Tensor, label_SN: Tensor, exposure_K: Tensor) -> Tensor:
    """G_k with nothing sampled but the prefixes, float [S, K]: theta_k rho_{a_k} + sum_{x > k} theta_x m_x.

    m_x is the label that a_1..a_{x-1} lead one to expect at x. Its place in the sampled rewards' costs nothing in bias
    where the labels are right, and is where most of the variance goes; where they are not, use sampled rewards.
    """
    mean_SK = (log_policy_SKN.exp() * label_SN[:, None]).sum(dim=2)
    expected_SK = exposure_K * mean_SK
    later_SK = discounted_returns(expected_SK, gamma=1.0) - expected_SK
    return expected_clicks(label_SN, slate_SK, exposure_K) + later_SK
