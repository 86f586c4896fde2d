"""Several gradient steps on one batch of slates: the clipped surrogate of PPO.

Shape legend: any shape; one entry is one action, such as a slate [S] or a position of one [S, K].
"""

import math

import torch
from torch import Tensor

from recolam.errors import ConfigError


def clipped_loss(log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, *, clip: float) -> Tensor:
    """-sum of min(ratio A, clip(ratio, 1 - clip, 1 + clip) A), ratio = P_now / P_when_sampled.

    (Schulman et al. 2017, "Proximal policy optimization algorithms", https://arxiv.org/abs/1707.06347)

    Where the policy is still the one that sampled, the gradient is that of `policy_gradient_loss`, and unbiased. Later
    it is that of the importance-weighted objective, which for one action a state is unbiased too, except for the
    actions whose ratio has left the interval in the direction of their advantage. These have no gradient any more,
    which is the bias, and the point: a pull back to the policy that sampled. Where advantages are mostly noise it can
    exceed the gradient itself (`bench gradients`). With positions as actions the ratio of the prefix a_1..a_{k-1} is
    left out: a second bias, of first order in the step taken.

    Args:
        old_log_prob: log-probability under the distribution that was sampled from, as the rollout stored it.
        clip: at least 0; math.inf is plain importance weighting.

    Raises:
        ConfigError: a negative clip.
    """
    if clip < 0:
        raise ConfigError(f"clip is {clip}, below 0")
    ratio, advantage = (log_prob - old_log_prob.detach()).exp(), advantage.detach()
    bounded = ratio if clip == math.inf else ratio.clamp(1.0 - clip, 1.0 + clip)
    return -torch.minimum(ratio * advantage, bounded * advantage).sum()


def clipped_share(log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, *, clip: float) -> float:
    """Share of the actions that no longer have a gradient: a step size that is too large shows here first."""
    ratio = (log_prob - old_log_prob).exp()
    is_past = torch.where(advantage > 0, ratio > 1.0 + clip, ratio < 1.0 - clip) & (advantage != 0)
    return float(is_past.float().mean())
