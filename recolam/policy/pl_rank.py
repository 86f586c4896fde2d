"""PL-Rank: the gradient of a position-based reward under Plackett-Luce, from sampled slates and all items' labels.

J(s) = E_a[ sum_k theta_k rho_{a_k} ]. With G_k = sum_{x >= k} theta_x rho_{a_x} and the conditional probability
p_k(d) = P(d | a_1..a_{k-1}), 0 for items already shown, every item's derivative is the expectation of

    sum_k ( [a_k = d] - p_k(d) ) G_k                                              PL-Rank-1, reward-to-go
    [d = a_k] G_{k+1} + sum_k p_k(d) ( theta_k rho_d - G_k )                      PL-Rank-2 and 3

The second replaces the chosen item's own reward by its expectation over the choice. PL-Rank-3 is the same estimate in
time N + K^2 instead of N K. All are unbiased for any labels; the objective is that of the labels, so a wrong click
model's labels give the gradient of the wrong objective. PL-Rank-1 is
`reward_to_go(expected_clicks(...))` of `slate_weights`.

Adding a constant to all labels adds a constant to J and leaves the gradient alone, not its variance: `centred`.
`conditional_pl_rank` goes further, at the same cost.

(Oosterhuis 2021, https://arxiv.org/abs/2105.00855; PL-Rank-3: Oosterhuis 2022, https://arxiv.org/abs/2204.10872)

Shape legend: S slates, K positions, N items.
"""

import torch
from torch import Tensor

from recolam.policy import plackett_luce
from recolam.policy.gradient import discounted_returns
from recolam.policy.slate_weights import expected_clicks


def centred(score_SN: Tensor, label_SN: Tensor) -> Tensor:
    """Labels minus the label that the policy expects in its first position, float [S, N]."""
    return label_SN - (torch.softmax(score_SN, dim=1) * label_SN).sum(dim=1, keepdim=True)


def pl_rank(score_SN: Tensor, slate_SK: Tensor, label_SN: Tensor, exposure_K: Tensor) -> Tensor:
    """The estimate of dJ/ds by each slate, float [S, N]: PL-Rank-2's value by PL-Rank-3's route.

    Args:
        score_SN: the policy's scores; -inf bars an item.
        label_SN: rho, any sign.
        exposure_K: theta.
    """
    to_go_SK = discounted_returns(expected_clicks(label_SN, slate_SK, exposure_K), gamma=1.0)
    return _estimate(score_SN, slate_SK, label_SN, exposure_K, taken_SK=to_go_SK, later_SK=_after(to_go_SK))


def conditional_pl_rank(score_SN: Tensor, slate_SK: Tensor, label_SN: Tensor, exposure_K: Tensor) -> Tensor:
    """PL-Rank with every reward replaced by its expectation given the items before it, float [S, N].

        sum_k p_k(d) theta_k (rho_d - m_k) + ([d = a_k] - p_k(d)) sum_{x > k} theta_x (m_x - m_k),
        m_k = sum_j p_k(j) rho_j

    Three steps beyond PL-Rank-1, none of which changes the expectation. A position's own reward enters through its
    exact conditional gradient, p_k(d) theta_k (rho_d - m_k) (Ciosek & Whiteson 2018, "Expected policy gradients",
    https://arxiv.org/abs/1706.05374). A later reward theta_x rho_{a_x} enters as theta_x m_x, its expectation given
    a_1..a_{x-1}, of which a_k is one (Rao-Blackwell; Casella & Robert 1996, https://doi.org/10.1093/biomet/83.1.81).
    And m_k, which the prefix of k decides, is the baseline (Williams 1992). What is left of the noise is how much the
    items shown change the mean label of those not shown: little in a large catalogue.
    """
    mean_SK = plackett_luce.conditional_means(score_SN, slate_SK, label_SN)
    later_exposure_K = _after(discounted_returns(exposure_K[None], gamma=1.0))[0]
    later_SK = _after(discounted_returns(exposure_K * mean_SK, gamma=1.0)) - later_exposure_K * mean_SK
    return _estimate(
        score_SN, slate_SK, label_SN, exposure_K, taken_SK=exposure_K * mean_SK + later_SK, later_SK=later_SK
    )


def label_loss(score_SN: Tensor, gradient_SN: Tensor) -> Tensor:
    """-sum of score x estimate: its gradient in the scores is minus the estimates. Barred items count 0."""
    return -(score_SN.masked_fill(score_SN == -torch.inf, 0.0) * gradient_SN.detach()).sum()


def _estimate(
    score_SN: Tensor, slate_SK: Tensor, label_SN: Tensor, exposure_K: Tensor, *, taken_SK: Tensor, later_SK: Tensor
) -> Tensor:
    """[d = a_k] later_k + sum_k p_k(d) (theta_k rho_d - taken_k)."""
    with torch.no_grad():
        exposed_SN = plackett_luce.conditional_sums(score_SN, slate_SK, exposure_K.expand_as(taken_SK))
        given_up_SN = plackett_luce.conditional_sums(score_SN, slate_SK, taken_SK)
        return (label_SN * exposed_SN - given_up_SN).scatter_add(1, slate_SK, later_SK)


def _after(to_go_SK: Tensor) -> Tensor:
    """Column k + 1 in column k's place, 0 in the last."""
    return torch.cat([to_go_SK[:, 1:], torch.zeros_like(to_go_SK[:, :1])], dim=1)
