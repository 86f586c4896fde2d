"""Score-function estimators of a slate policy's gradient: what each position's log-probability is weighted by.

grad J = E[ sum_k w_k grad log P(a_k | a_1..a_{k-1}) ], J = E[ sum_k r_k ]: `policy_gradient_loss(log_prob_SK, w_SK)`
has minus that gradient, summed over slates. It holds for every policy that draws a slate item by item: Plackett-Luce,
constrained, two-stage or autoregressive. Weights never carry a gradient themselves.

- `whole_slate`: REINFORCE. Unbiased for any reward.
- `reward_to_go`: unbiased where r_k depends on a_1..a_k alone (position-based and cascade users, not users who compare
  a whole slate).
- `less_the_others`: leave-one-out over slates of one state, on top of either. Unbiased.
- `expected_clicks`: a user model's expectation in the sampled click's place. As unbiased as the model: under a wrong
  one the bias is the gradient of the expected difference of the two models' rewards.

Shape legend: S slates (with replicas: R slates of each state, side by side), K positions, N items.
"""

import torch
from torch import Tensor

from recolam.policy.gradient import discounted_returns, leave_one_out


def whole_slate(reward_SK: Tensor, *, baseline: Tensor | float = 0.0) -> Tensor:
    """The slate's whole reward minus a baseline at every position, float [S, K].

    (Williams 1992, https://doi.org/10.1007/BF00992696)

    Args:
        baseline: a number, or [S] that does not depend on the slate of its own row.
    """
    return (reward_SK.sum(dim=1) - baseline)[:, None].expand_as(reward_SK).detach()


def reward_to_go(reward_SK: Tensor, *, baseline: Tensor | float = 0.0) -> Tensor:
    """sum_{x >= k} r_x minus a baseline, float [S, K]: what came before a position says nothing about its choice.

    (Sutton et al. 2000, "Policy gradient methods for reinforcement learning with function approximation")

    Args:
        baseline: a number, [K], or [S, K] whose column k depends on no more of its slate than a_1..a_{k-1}.
    """
    return (discounted_returns(reward_SK, gamma=1.0) - baseline).detach()


def less_the_others(weight_SK: Tensor, *, replicas: int) -> Tensor:
    """Minus the mean weight of the state's other slates at the same position, float [S, K]; `replicas` >= 2.

    (RLOO: Kool, van Hoof & Welling 2019, "Buy 4 REINFORCE samples, get a baseline for free!")

    Raises:
        ValueError: fewer than two replicas, or rows that do not divide into them.
    """
    if replicas < 2 or len(weight_SK) % replicas:
        raise ValueError(f"{len(weight_SK)} slates are not groups of {replicas} replicas, at least 2 each")
    everything_SK = torch.ones_like(weight_SK, dtype=torch.bool)
    return weight_SK - leave_one_out(weight_SK, everything_SK, replicas=replicas)


def expected_clicks(label_SN: Tensor, slate_SK: Tensor, exposure_K: Tensor) -> Tensor:
    """Reward of each position under a position-based user, float [S, K]: exposure_k label(a_k).

    (Craswell et al. 2008, https://doi.org/10.1145/1341531.1341545, is the user; taking the expectation over an
    outcome that a model knows is Rao-Blackwell's)

    Args:
        label_SN: P(click | examined) of every item, or any other expected reward of it.
        exposure_K: P(position examined).
    """
    return exposure_K * label_SN.gather(1, slate_SK)
