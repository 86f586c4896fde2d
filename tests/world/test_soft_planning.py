import itertools
import math

import pytest
import torch
from torch import Tensor

from recolam.world.soft_planning import Menus, admissible_menu, shaping, soft_plan, up_to_shaping, value_gradient


def random_problem(seed: int, *, states: int = 5, actions: int = 4) -> tuple[Tensor, Tensor, Menus]:
    generator = torch.Generator().manual_seed(seed)
    reward_SA = torch.randn(states, actions, generator=generator).double()
    transition_SAZ = torch.rand(states, actions, states, generator=generator).double()
    transition_SAZ /= transition_SAZ.sum(dim=2, keepdim=True)
    is_offered_SMA = torch.rand(states, 3, actions, generator=generator) < 0.6
    is_offered_SMA[:, :, 0] = True
    weight_SM = torch.rand(states, 3, generator=generator).double()
    return reward_SA, transition_SAZ, Menus(is_offered_SMA, weight_SM / weight_SM.sum(dim=1, keepdim=True))


def layered(*, steps: int, width: int, actions: int, is_random: bool) -> Tensor:
    """Transitions from each layer of states to the next; all leave after the last."""
    generator = torch.Generator().manual_seed(5)
    transition_SAZ = torch.zeros(steps * width, actions, steps * width, dtype=torch.float64)
    for state in range((steps - 1) * width):
        following = slice((state // width + 1) * width, (state // width + 2) * width)
        for action in range(actions):
            if is_random:
                chance = torch.rand(width, generator=generator).double()
                transition_SAZ[state, action, following] = chance / chance.sum()
            else:
                transition_SAZ[state, action, following.start + (state + action) % width] = 1.0
    return transition_SAZ


def test_without_discount_or_chance_it_is_the_gibbs_distribution_over_trajectories() -> None:
    """Ziebart et al. 2008: P(trajectory) is proportional to exp(its reward), over all 4^3 of them."""
    transition_SAZ = layered(steps=3, width=2, actions=4, is_random=False)
    reward_SA = torch.randn(6, 4, generator=torch.Generator().manual_seed(1)).double()
    is_admissible_SA = torch.ones(6, 4, dtype=torch.bool)
    is_admissible_SA[3, 1] = False
    menus = admissible_menu(is_admissible_SA)
    plan = soft_plan(reward_SA, transition_SAZ=transition_SAZ, menus=menus, discount=1.0)
    total, first_A = 0.0, torch.zeros(4, dtype=torch.float64)
    for actions in itertools.product(range(4), repeat=3):
        state, reward, is_possible = 0, 0.0, True
        for action in actions:
            is_possible &= bool(is_admissible_SA[state, action])
            reward += float(reward_SA[state, action])
            state = int(transition_SAZ[state, action].argmax())
        total += math.exp(reward) * is_possible
        first_A[actions[0]] += math.exp(reward) * is_possible
    assert float(plan.value_S[0]) == pytest.approx(math.log(total), rel=1e-12)
    torch.testing.assert_close(plan.policy_SA[0], first_A / total)
    assert plan.policy_SA[3, 1] == 0.0


def entropy_regularised_return(
    policy_SMA: Tensor, reward_SA: Tensor, transition_SAZ: Tensor, menus: Menus, discount: float, *, steps: int
) -> float:
    """From state 0: the sum over every trajectory of its probability times its discounted reward - log policy."""
    total, (states, actions) = 0.0, reward_SA.shape
    moves = list(itertools.product(range(policy_SMA.shape[1]), range(actions), range(states)))

    def walk(state: int, step: int, chance: float, earned: float) -> None:
        nonlocal total
        for menu, action, following in moves:
            taken = float(policy_SMA[state, menu, action])
            now = chance * float(menus.weight_SM[state, menu]) * taken
            if now == 0.0:
                continue
            gained = earned + discount**step * (float(reward_SA[state, action]) - math.log(taken))
            if step + 1 == steps:
                total += now * gained if following == 0 else 0.0  # all leave: count the leaf once
            elif float(transition_SAZ[state, action, following]) > 0:
                walk(following, step + 1, now * float(transition_SAZ[state, action, following]), gained)

    walk(0, 0, 1.0, 0.0)
    return total


def test_its_policy_is_the_best_of_all_under_entropy_regularisation() -> None:
    """The definition of maximum causal entropy control, by enumeration of all trajectories through random menus."""
    transition_SAZ = layered(steps=3, width=2, actions=3, is_random=True)
    generator = torch.Generator().manual_seed(2)
    reward_SA = torch.randn(6, 3, generator=generator).double()
    is_offered_SMA = torch.tensor([[True, True, False], [True, True, True]]).expand(6, -1, -1)
    weight_SM = torch.tensor([[0.3, 0.7]], dtype=torch.float64).expand(6, -1)
    menus = Menus(is_offered_SMA, weight_SM)
    plan = soft_plan(reward_SA, transition_SAZ=transition_SAZ, menus=menus, discount=0.7)
    score_SMA = plan.q_SA[:, None].expand(-1, 2, -1).masked_fill(~is_offered_SMA, -torch.inf)
    arguments = (reward_SA, transition_SAZ, menus, 0.7)
    best = entropy_regularised_return(torch.softmax(score_SMA, dim=2), *arguments, steps=3)
    assert best == pytest.approx(float(plan.value_S[0]), rel=1e-10)
    for _ in range(3):
        other_SMA = torch.softmax(score_SMA + 0.3 * torch.randn(6, 2, 3, generator=generator), dim=2)
        assert entropy_regularised_return(other_SMA, *arguments, steps=3) < best - 1e-4


def test_at_discount_0_it_is_the_multinomial_logit() -> None:
    reward_SA, transition_SAZ, menus = random_problem(3)
    plan = soft_plan(reward_SA, transition_SAZ=transition_SAZ, menus=menus, discount=0.0)
    torch.testing.assert_close(plan.q_SA, reward_SA)
    for state in range(5):
        wanted_A = torch.zeros(4, dtype=torch.float64)
        for weight, is_offered_A in zip(menus.weight_SM[state], menus.is_offered_SMA[state], strict=True):
            exponential_A = reward_SA[state].exp() * is_offered_A
            wanted_A += weight * exponential_A / exponential_A.sum()
        torch.testing.assert_close(plan.policy_SA[state], wanted_A)


@pytest.mark.parametrize("discount", [0.3, 0.99])
def test_newton_finds_what_value_iteration_finds(discount: float) -> None:
    reward_SA, transition_SAZ, menus = random_problem(4)
    plan = soft_plan(10 * reward_SA, transition_SAZ=transition_SAZ, menus=menus, discount=discount)
    value_S = torch.zeros(5, dtype=torch.float64)
    for _ in range(4000):
        weight_SMA = (10 * reward_SA + discount * transition_SAZ @ value_S).exp()[:, None] * menus.is_offered_SMA
        value_S = (menus.weight_SM * weight_SMA.sum(dim=2).log()).sum(dim=1)
        if discount == 0.99:
            shift = value_S.max()  # so that exp does not overflow; taken back below
            value_S = value_S - shift
    wanted_S = value_S + (shift / (1 - discount) if discount == 0.99 else 0.0)
    torch.testing.assert_close(plan.value_S, wanted_S, rtol=1e-9, atol=1e-9)


def test_rewards_can_be_batched() -> None:
    reward_SA, transition_SAZ, menus = random_problem(6)
    both_2SA = torch.stack([reward_SA, -3 * reward_SA])
    together = soft_plan(both_2SA, transition_SAZ=transition_SAZ, menus=menus, discount=0.9)
    alone = soft_plan(-3 * reward_SA, transition_SAZ=transition_SAZ, menus=menus, discount=0.9)
    torch.testing.assert_close(together.q_SA[1], alone.q_SA)
    torch.testing.assert_close(together.policy_SA[1], alone.policy_SA)


def test_gradients_are_those_of_finite_differences_and_of_the_discounted_features() -> None:
    reward_SA, transition_SAZ, menus = random_problem(7)

    def outputs(reward: Tensor) -> tuple[Tensor, Tensor]:
        plan = soft_plan(reward, transition_SAZ=transition_SAZ, menus=menus, discount=0.9)
        return plan.q_SA, plan.value_S

    assert torch.autograd.gradcheck(outputs, (reward_SA.clone().requires_grad_(True),))
    plan = soft_plan(reward_SA, transition_SAZ=transition_SAZ, menus=menus, discount=0.9)
    each_SAX = torch.eye(20, dtype=torch.float64).view(5, 4, 20)
    wanted = torch.autograd.functional.jacobian(lambda reward: outputs(reward)[1], reward_SA).flatten(1)
    found = value_gradient(plan.policy_SA, each_SAX, transition_SAZ=transition_SAZ, discount=0.9)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("discount", [0.0, 0.9])
def test_shaping_changes_no_choice_and_is_taken_out(discount: float) -> None:
    reward_SA, transition_SAZ, menus = random_problem(8)
    transition_SAZ = 0.9 * transition_SAZ  # a tenth leaves
    potential_S = torch.tensor([3.0, -2.0, 0.5, 8.0, -1.0], dtype=torch.float64)
    shaped_SA = reward_SA + shaping(potential_S, transition_SAZ=transition_SAZ, discount=discount)
    other_SA = reward_SA + 0.1 * torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    plans = [
        soft_plan(each, transition_SAZ=transition_SAZ, menus=menus, discount=discount)
        for each in (reward_SA, shaped_SA, other_SA)
    ]
    torch.testing.assert_close(plans[0].policy_SA, plans[1].policy_SA)
    torch.testing.assert_close(plans[0].value_S - potential_S, plans[1].value_S)
    assert (plans[0].policy_SA - plans[2].policy_SA).abs().max() > 1e-3
    least, least_shaped, least_other = (
        up_to_shaping(each, transition_SAZ=transition_SAZ, discount=discount)
        for each in (reward_SA, shaped_SA, other_SA)
    )
    torch.testing.assert_close(least, least_shaped)
    torch.testing.assert_close(least, up_to_shaping(least, transition_SAZ=transition_SAZ, discount=discount))
    assert least.norm() < reward_SA.norm()
    assert (least - least_other).abs().max() > 1e-2
    if discount == 0.0:
        torch.testing.assert_close(least, reward_SA - reward_SA.mean(dim=1, keepdim=True))


def test_what_is_not_admissible_does_not_move_the_canonical_reward() -> None:
    reward_SA, transition_SAZ, _ = random_problem(9)
    is_admissible_SA = torch.ones(5, 4, dtype=torch.bool)
    is_admissible_SA[:, 3] = False
    changed_SA = reward_SA.clone()
    changed_SA[:, 3] = 100.0
    least, least_changed = (
        up_to_shaping(each, transition_SAZ=transition_SAZ, discount=0.9, is_admissible_SA=is_admissible_SA)
        for each in (reward_SA, changed_SA)
    )
    torch.testing.assert_close(least, least_changed)
    assert (least[:, 3] == 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"discount": 1.2}, "outside"),
        ({"discount": 1.0}, "leave"),
        ({"reward_SA": torch.full((5, 4), torch.nan)}, "finite"),
        ({"reward_SA": torch.zeros(5, 3)}, "shape"),
        ({"transition_SAZ": torch.full((5, 4, 5), 0.3)}, "no probabilities"),
        ({"transition_SAZ": torch.zeros(5, 4, 3)}, "expected"),
    ],
)
def test_nonsense_is_refused(change: dict[str, object], message: str) -> None:
    reward_SA, transition_SAZ, menus = random_problem(10)
    arguments = {"reward_SA": reward_SA, "transition_SAZ": transition_SAZ, "menus": menus, "discount": 0.9} | change
    with pytest.raises(ValueError, match=message):
        soft_plan(**arguments)  # type: ignore[arg-type]


def test_menus_without_actions_or_of_odd_weight_are_refused() -> None:
    is_offered = torch.tensor([[[True, False], [False, False]]])
    Menus(is_offered, torch.tensor([[1.0, 0.0]]))
    with pytest.raises(ValueError, match="empty menu"):
        Menus(is_offered, torch.tensor([[0.5, 0.5]]))
    with pytest.raises(ValueError, match="rows sum to"):
        Menus(is_offered, torch.tensor([[0.5, 0.0]]))
