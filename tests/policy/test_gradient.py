import itertools

import pytest
import torch

from recolam.policy import plackett_luce
from recolam.policy.gradient import advantages, discounted_returns, leave_one_out, policy_gradient_loss


def test_returns_by_hand() -> None:
    reward_BH = torch.tensor([[1.0, 0.0, 2.0], [0.0, 3.0, 0.0]])
    returns = discounted_returns(reward_BH, gamma=0.5, after_B=torch.tensor([0.0, 8.0]))
    assert returns.tolist() == [[1.5, 1.0, 2.0], [2.5, 5.0, 4.0]]
    assert discounted_returns(reward_BH, gamma=0.0).tolist() == reward_BH.tolist()
    with pytest.raises(ValueError, match="outside"):
        discounted_returns(reward_BH, gamma=1.5)


def test_leave_one_out_is_the_mean_of_the_others_that_are_active() -> None:
    value_BH = torch.tensor([[1.0], [2.0], [6.0], [5.0]])
    active = torch.tensor([[True], [True], [False], [True]])
    assert leave_one_out(value_BH, active, replicas=2).tolist() == [[2.0], [1.0], [5.0], [0.0]]


def one_step_loss(
    score_N: torch.Tensor, reward_I: torch.Tensor, *, replicas: int, users: int, seed: int
) -> torch.Tensor:
    """A bandit: slates of 3 out of 6 earn the sum of reward_I weighted by position."""
    generator = torch.Generator().manual_seed(seed)
    score_BN = score_N.expand(users * replicas, -1)
    slate_BK = plackett_luce.sample(score_BN.detach(), 3, generator)
    reward_BH = (reward_I[slate_BK] * torch.tensor([1.0, 0.5, 0.25])).sum(dim=1, keepdim=True)
    active = torch.ones_like(reward_BH, dtype=torch.bool)
    advantage_BH = advantages(reward_BH, torch.full_like(reward_BH, 0.3), active, replicas=replicas)
    return policy_gradient_loss(plackett_luce.log_prob(score_BN, slate_BK), advantage_BH[:, 0]) / len(slate_BK)


@pytest.mark.parametrize("replicas", [1, 4])
def test_the_estimate_is_the_gradient_found_by_enumeration(replicas: int) -> None:
    score_N = torch.tensor([0.5, -0.3, 0.0, 1.0, 0.2, -1.0], requires_grad=True)
    reward_I = torch.tensor([1.0, 0.0, 2.0, 0.5, 3.0, 1.5])
    slates = torch.tensor(list(itertools.permutations(range(6), 3)))
    probability = plackett_luce.log_prob(score_N.expand(len(slates), -1), slates).exp()
    expected_reward = (probability * (reward_I[slates] * torch.tensor([1.0, 0.5, 0.25])).sum(dim=1)).sum()
    (exact,) = torch.autograd.grad(expected_reward, score_N)
    estimates = []
    for seed in range(200):
        loss = one_step_loss(score_N, reward_I, replicas=replicas, users=400 // replicas, seed=seed)
        estimates.append(-torch.autograd.grad(loss, score_N)[0])
    estimate = torch.stack(estimates)
    error = estimate.std(dim=0) / len(estimates) ** 0.5
    assert (((estimate.mean(dim=0) - exact).abs() / error) < 4).all()


def test_the_leave_one_out_baseline_lowers_the_variance() -> None:
    score_N = torch.zeros(6, requires_grad=True)
    reward_I = torch.tensor([1.0, 0.0, 2.0, 0.5, 3.0, 1.5]) + 5.0

    def variance(replicas: int) -> float:
        losses = [one_step_loss(score_N, reward_I, replicas=replicas, users=64 // replicas, seed=s) for s in range(100)]
        return float(torch.stack([torch.autograd.grad(loss, score_N)[0] for loss in losses]).var(dim=0).sum())

    assert variance(8) < 0.25 * variance(1)


def test_inactive_steps_carry_nothing() -> None:
    active = torch.tensor([[True, True, False], [True, False, False]])
    assert torch.equal(advantages(torch.ones(2, 3), torch.zeros(2, 3), active, replicas=1) != 0, active)
