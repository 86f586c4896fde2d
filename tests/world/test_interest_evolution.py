import itertools
import math

import pytest
import torch

from recolam.contracts.dataset import FIRST_ITEM
from recolam.world.assortment import best_logit_slate
from recolam.world.runtime import Value
from tests.world.worlds import fixed_slates, small_environment, small_users


def state_of(users: int, interest: torch.Tensor, budget: float) -> Value:
    return Value(
        history=torch.zeros(users, 10, dtype=torch.int64),
        length=torch.zeros(users, dtype=torch.int64),
        step=torch.zeros(users, dtype=torch.int64),
        is_active=torch.ones(users, dtype=torch.bool),
        interest=interest.expand(users, -1),
        budget=torch.full((users,), budget),
    )


def test_choices_follow_the_multinomial_logit_written_out() -> None:
    people = small_users(position_bias=0.5, no_click=0.4)
    interest, count = people.start.interest_PZ[:1], 60_000
    slate = [3, 9, 14]
    weights = [math.exp(0.4)]
    for place, item in enumerate(slate):
        distance = math.dist(interest[0].tolist(), people.corpus.feature_NZ[item].tolist())
        weights.append(math.exp(2.0 - distance - 0.5 * math.log2(1 + place)))
    expected = [weight / sum(weights) for weight in weights]
    response = people.respond(
        state_of(count, interest, 100.0), torch.tensor([slate]).expand(count, -1), torch.Generator().manual_seed(0)
    )
    observed = torch.bincount(response["choice"] + 1, minlength=4) / count
    for share, probability in zip(observed.tolist(), expected, strict=True):
        assert abs(share - probability) < 4 * math.sqrt(probability * (1 - probability) / count)


@pytest.mark.parametrize("choice", [-1, 0, 2])
def test_interest_budget_and_reward_follow_the_equations(choice: int) -> None:
    people = small_users(interest_step=0.3, budget_bonus=0.5, no_click_cost=0.7)
    state = state_of(1, people.start.interest_PZ[:1], 5.0)
    slate = torch.tensor([[4, 7, 11]])
    response = Value(choice=torch.tensor([choice]), reward=torch.zeros(1), is_leaving=torch.tensor([False]))
    after = people.next_state(state, slate, response, torch.Generator())
    if choice < 0:
        before = state.get("interest")
        torch.testing.assert_close(after["interest"], 40 * (1 / (1 + torch.exp(-before / 10)) - 0.5))
        assert float(after["budget"]) == pytest.approx(4.3)
        return
    item = slate[0, choice]
    quality, feature = float(people.corpus.quality_N[item]), people.corpus.feature_NZ[item]
    moved = state.get("interest")[0] + 0.3 * quality * (feature - state.get("interest")[0])
    torch.testing.assert_close(after["interest"][0], 40 * (1 / (1 + torch.exp(-moved / 10)) - 0.5))
    time = 2.0 / (1 + math.exp(quality))
    assert float(people.watch_time(item[None])) == pytest.approx(time, rel=1e-5)
    assert float(after["budget"]) == pytest.approx(5.0 - time + 0.5 * max(quality, 0) * time, rel=1e-5)
    assert after["history"][0, 0] == item
    assert int(after["length"]) == 1


def test_who_left_stays_as_he_was() -> None:
    people = small_users()
    state = Value(
        **{**state_of(2, people.start.interest_PZ[:1], 5.0).as_dict, "is_active": torch.tensor([True, False])}
    )
    response = Value(choice=torch.full((2,), -1), reward=torch.zeros(2), is_leaving=torch.zeros(2, dtype=torch.bool))
    after = people.next_state(state, torch.tensor([[4, 7, 11]] * 2), response, torch.Generator())
    assert not torch.equal(after["interest"][0], state.get("interest")[0])
    assert torch.equal(after["interest"][1], state.get("interest")[1])
    assert after["budget"][1] == state.get("budget")[1]


def test_the_myopic_slate_is_the_best_of_all() -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        weight, reward = torch.rand(1, 8, generator=generator) * 3, torch.rand(1, 8, generator=generator)
        values = {
            pick: float((weight[0, list(pick)] * reward[0, list(pick)]).sum() / (1 + weight[0, list(pick)].sum()))
            for pick in itertools.combinations(range(8), 3)
        }
        chosen = tuple(sorted(best_logit_slate(weight, reward, k=3)[0].tolist()))
        assert values[chosen] == pytest.approx(max(values.values()), rel=1e-6)


def test_leaving_is_terminated_and_the_horizon_is_truncated() -> None:
    poor = small_environment(budget=0.2, budget_bonus=0.0)
    poor.reset(users=20, seed=0)
    result = poor.step(fixed_slates(20))
    assert result.terminated_B.all()
    assert not result.truncated_B.any()
    again = poor.step(fixed_slates(20, FIRST_ITEM + 3))
    assert (again.reward_B == 0).all()
    assert (again.choice_B == -1).all()
    assert not (again.terminated_B | again.truncated_B).any()

    rich = small_environment(budget=1e6, horizon=2)
    rich.reset(users=20, seed=0)
    assert not rich.step(fixed_slates(20)).truncated_B.any()
    last = rich.step(fixed_slates(20, FIRST_ITEM + 3))
    assert last.truncated_B.all()
    assert not last.terminated_B.any()


def test_equal_seeds_replay_and_replicas_begin_alike() -> None:
    environment = small_environment()
    first = [environment.reset(users=30, seed=4), *(environment.step(fixed_slates(30)).reward_B for _ in range(3))]
    second = [environment.reset(users=30, seed=4), *(environment.step(fixed_slates(30)).reward_B for _ in range(3))]
    assert all(torch.equal(a, b) for a, b in zip(first[1:], second[1:], strict=True))
    environment.reset(users=5, seed=0)
    environment.replicate(4)
    interest = environment.state.get("interest").view(5, 4, -1)
    assert torch.equal(interest[:, 0], interest[:, 3])
    assert not torch.equal(interest[0, 0], interest[1, 0])


@pytest.mark.parametrize(
    ("slate", "message"),
    [
        (torch.tensor([[3, 4]]), "expected"),
        (torch.tensor([[3, 4, 4]]), "twice"),
        (torch.tensor([[2, 4, 5]]), "outside the items"),
        (torch.tensor([[3, 4, 23]]), "outside the items"),
        (torch.tensor([[3.0, 4.0, 5.0]]), "int64"),
    ],
)
def test_bad_slates_are_refused(slate: torch.Tensor, message: str) -> None:
    environment = small_environment()
    environment.reset(users=1, seed=0)
    with pytest.raises(ValueError, match=message):
        environment.step(slate)


def test_a_full_history_drops_its_oldest_item() -> None:
    environment = small_environment(budget=1e6, horizon=60, offset=50.0)  # everybody clicks
    environment.reset(users=2, seed=0)
    shown = [FIRST_ITEM + (3 * step) % 18 for step in range(14)]
    chosen = []
    for first in shown:
        slate = fixed_slates(2, first)
        chosen.append(slate.gather(1, environment.step(slate).choice_B[:, None])[:, 0])
    assert torch.equal(environment.state.get("history"), torch.stack(chosen[-10:], dim=1))
