import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from recolam.world.slate_world import SlateProblem, SlateWorld, all_slates, draw_choices


def tiny_world(*, has_none: bool = True, discount: float = 0.8) -> SlateWorld:
    """3 states, 4 items, slates of 2."""
    generator = torch.Generator().manual_seed(0)
    transition_SAZ = torch.rand(3, 4 + has_none, 3, generator=generator).double() ** 3
    weight_SL = torch.rand(3, 6, generator=generator).double()
    return SlateWorld(
        transition_SAZ=0.95 * transition_SAZ / transition_SAZ.sum(dim=2, keepdim=True),
        slate_LK=all_slates(4, k=2),
        weight_SL=weight_SL / weight_SL.sum(dim=1, keepdim=True),
        discount=discount,
        has_none=has_none,
    )


def scores(seed: int, actions: int) -> Tensor:
    return torch.randn(3, actions, generator=torch.Generator().manual_seed(seed)).double()


@pytest.mark.parametrize("has_none", [True, False])
def test_the_best_slates_are_the_best_of_all_policies(has_none: bool) -> None:
    world = tiny_world(has_none=has_none)
    problem = SlateProblem(world, scores(1, 4 + has_none), scores(2, 4 + has_none))
    best_S = problem.best_slates()
    returns = {policy: problem.values(torch.tensor(policy)) for policy in itertools.product(range(6), repeat=3)}
    most_S = torch.stack(list(returns.values())).amax(dim=0)
    torch.testing.assert_close(problem.values(best_S), most_S)
    assert (problem.values(problem.best_slates(discount=0.0)) < most_S - 1e-6).any()


def test_returns_are_what_sessions_earn() -> None:
    """Against a simulation by single draws, for a fixed policy and for the logging policy."""
    world = tiny_world(discount=0.6)
    problem = SlateProblem(world, scores(3, 5), scores(4, 5))
    generator = torch.Generator().manual_seed(5)
    sessions, policy_S = 40_000, torch.tensor([2, 0, 5])
    for is_logging in (False, True):
        state_B = torch.zeros(sessions, dtype=torch.int64)
        is_active_B = torch.ones(sessions, dtype=torch.bool)
        total_B = torch.zeros(sessions, dtype=torch.float64)
        fixed = replace(world, weight_SL=torch.eye(6, dtype=torch.float64)[policy_S])
        for step in range(25):
            log = draw_choices(world if is_logging else fixed, problem.q_SA, state_B, generator)
            action_B = log.slate_RK.gather(1, log.choice_R.clamp(min=0)[:, None])[:, 0].where(log.choice_R >= 0, 4)
            total_B += 0.6**step * problem.reward_SA[state_B, action_B] * is_active_B
            chance_BZ = world.transition_SAZ[state_B, action_B]
            chance_BZ = torch.cat([chance_BZ, 1 - chance_BZ.sum(dim=1, keepdim=True)], dim=1)
            following_B = torch.multinomial(chance_BZ, 1, generator=generator)[:, 0]
            is_active_B &= following_B < 3
            state_B = following_B.clamp(max=2)
        exact = problem.values_of_logging() if is_logging else problem.values(policy_S)
        assert float(total_B.mean()) == pytest.approx(float(exact[0]), abs=4 * float(total_B.std()) / sessions**0.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"discount": 1.0}, "outside"),
        ({"slate_LK": torch.tensor([[0, 4]])}, "items outside"),
        ({"slate_LK": torch.tensor([[1, 3], [2, 2]])}, "twice"),
        ({"weight_SL": torch.ones(2, 6)}, "slate weights of shape"),
        ({"transition_SAZ": torch.ones(3, 5, 3)}, "no probabilities"),
    ],
)
def test_nonsense_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(tiny_world(), **change)  # type: ignore[arg-type]
