"""Returns, advantages and the policy-gradient loss, as pure functions.

Shape legend: B = U x R sessions (R replicas of each of U users, side by side), H steps, S states.
"""

import torch
from torch import Tensor


def discounted_returns(reward_BH: Tensor, *, gamma: float, after_B: Tensor | None = None) -> Tensor:
    """G_h = r_h + gamma G_{h+1}, float [B, H]; G after the last step is `after_B` (0 where the user has left).

    Raises:
        ValueError: gamma outside [0, 1].
    """
    if not 0.0 <= gamma <= 1.0:
        raise ValueError(f"gamma is {gamma}, outside [0, 1]")
    following_B = torch.zeros_like(reward_BH[:, 0]) if after_B is None else after_B
    returns = []
    for step in reversed(range(reward_BH.shape[1])):
        following_B = reward_BH[:, step] + gamma * following_B
        returns.append(following_B)
    return torch.stack(returns[::-1], dim=1)


def generalised_advantages(
    reward_BH: Tensor,
    value_BH: Tensor,
    is_active_BH: Tensor,
    *,
    gamma: float,
    trace: float,
    after_B: Tensor,
    is_truncated_B: Tensor,
) -> Tensor:
    """Advantages over a learnt value, float [B, H]; 0 at inactive steps.

    A_h = sum_l (gamma trace)^l delta_{h+l},  delta_h = r_h + gamma V(s_{h+1}) - V(s_h)   (Schulman et al. 2016,
    "High-dimensional continuous control using generalized advantage estimation", https://arxiv.org/abs/1506.02438)

    What follows a session's last step is worth 0 where the user left (terminated) and `after_B` where the horizon cut
    it (truncated). With trace 1 this is the return minus V, unbiased for any V; with a smaller trace the bias is that
    of V, the price for less variance.

    Args:
        after_B: V of the state after the last step.
        is_truncated_B: True where the horizon, not the user, ended the session.

    Raises:
        ValueError: gamma or trace outside [0, 1].
    """
    if not (0.0 <= gamma <= 1.0 and 0.0 <= trace <= 1.0):
        raise ValueError(f"gamma is {gamma}, trace {trace}: both lie in [0, 1]")
    nothing_B1 = torch.zeros_like(value_BH[:, :1])
    is_followed_BH = torch.cat([is_active_BH[:, 1:], nothing_B1.bool()], dim=1)
    following_BH = torch.cat([value_BH[:, 1:], nothing_B1], dim=1)
    next_BH = torch.where(is_followed_BH, following_BH, (after_B * is_truncated_B)[:, None])
    surprise_BH = (reward_BH + gamma * next_BH - value_BH) * is_active_BH
    return discounted_returns(surprise_BH, gamma=gamma * trace) * is_active_BH


def leave_one_out(value_BH: Tensor, is_active_BH: Tensor, *, replicas: int) -> Tensor:
    """Mean of the other replicas' values at the same step, float [B, H]; 0 where no other replica is active.

    The others' draws do not depend on one's own slate, so subtracting it leaves the gradient unbiased (Kool, van Hoof
    & Welling 2019, "Buy 4 REINFORCE samples, get a baseline for free").
    """
    grouped_URH = (value_BH * is_active_BH).view(-1, replicas, value_BH.shape[1])
    count_URH = is_active_BH.view(grouped_URH.shape).float()
    others_URH = grouped_URH.sum(dim=1, keepdim=True) - grouped_URH
    others_count_URH = count_URH.sum(dim=1, keepdim=True) - count_URH
    return (others_URH / others_count_URH.clamp(min=1.0)).view(value_BH.shape)


def advantages(return_BH: Tensor, value_BH: Tensor, is_active_BH: Tensor, *, replicas: int) -> Tensor:
    """Return minus the learnt value, minus the leave-one-out mean of what remains; float [B, H].

    Both baselines are independent of the slate they judge, given the state, so the gradient keeps its expectation
    (Williams 1992, https://doi.org/10.1007/BF00992696).
    """
    surprise_BH = (return_BH - value_BH) * is_active_BH
    if replicas > 1:
        surprise_BH = surprise_BH - leave_one_out(surprise_BH, is_active_BH, replicas=replicas)
    return surprise_BH * is_active_BH


def policy_gradient_loss(log_prob_S: Tensor, advantage_S: Tensor) -> Tensor:
    """-sum of advantage x log-probability over states; its gradient is minus the REINFORCE estimate times S.

    Both may have further dimensions, such as positions: every log-probability is weighted by its own advantage.
    """
    return -(advantage_S.detach() * log_prob_S).sum()
