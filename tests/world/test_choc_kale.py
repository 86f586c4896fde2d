import dataclasses
import math

import pytest
import torch

from recolam.contracts.dataset import FIRST_ITEM
from recolam.world.choc_kale import ChocKaleConfig, ChocKaleUsers, draw_choc
from recolam.world.environment import SimulatedUsers
from recolam.world.runtime import Value


def users_and_state(count: int, exposure: float, **settings: float) -> tuple[ChocKaleUsers, Value]:
    people = ChocKaleUsers(dataclasses.replace(ChocKaleConfig(), **settings), draw_choc(20, seed=0))
    state = people.initial_state(torch.Generator().manual_seed(0), count)
    return people, Value(**{**state, "exposure": torch.full((count,), exposure)})


def test_engagement_is_log_normal_about_a_mean_that_satisfaction_scales() -> None:
    people, state = users_and_state(40_000, exposure=30.0, sensitivity=0.05, choc_sd=0.5, kale_sd=1.5)
    item, choc = 7, float(people.choc_N[7])
    reward_B = people.respond(state, torch.full((40_000, 1), item), torch.Generator().manual_seed(1))["reward"]
    satisfaction = 1 / (1 + math.exp(-0.05 * 30.0))
    mean, sd = (5.0 * choc + 4.0 * (1 - choc)) * satisfaction, 0.5 * choc + 1.5 * (1 - choc)
    assert float(reward_B.log().mean()) == pytest.approx(mean, abs=4 * sd / 200)
    assert float(reward_B.log().std()) == pytest.approx(sd, rel=0.02)


def test_exposure_decays_and_follows_what_was_served() -> None:
    people, state = users_and_state(50_000, exposure=2.0, noise=0.1)
    response = Value(choice=torch.zeros(50_000, dtype=torch.int64), is_leaving=torch.zeros(50_000, dtype=torch.bool))
    slate_BK = torch.full((50_000, 1), 9)
    after = people.next_state(state, slate_BK, response, torch.Generator().manual_seed(2))
    wanted = 0.7 * 2.0 + 2 * (0.5 - float(people.choc_N[9]))
    assert float(after["exposure"].mean()) == pytest.approx(wanted, abs=4 * 0.1 / 50_000**0.5)
    assert float(after["exposure"].std()) == pytest.approx(0.1, rel=0.02)
    assert (after["history"][:, 0] == 9).all()


def test_of_a_slate_one_is_always_chosen_and_craving_prefers_choc() -> None:
    people, state = users_and_state(60_000, exposure=0.0, craving=2.0)
    people = ChocKaleUsers(dataclasses.replace(people.config, slate_size=3), people.choc_N)
    slate = [4, 8, 15]
    slate_BK = torch.tensor([slate]).expand(60_000, -1)
    choice_B = people.respond(state, slate_BK, torch.Generator().manual_seed(3))["choice"]
    weights = [math.exp(2.0 * float(people.choc_N[item])) for item in slate]
    for place, weight in enumerate(weights):
        share = weight / sum(weights)
        observed = float((choice_B == place).float().mean())
        assert abs(observed - share) < 4 * math.sqrt(share * (1 - share) / 60_000)


def test_one_is_chosen_even_by_a_draw_of_exactly_zero() -> None:
    """Seed 84 is the first that draws it among so many; no click has probability 0 here."""
    count = 1 << 18
    assert (torch.rand(count, 1, generator=torch.Generator().manual_seed(84)) == 0).any()
    people, state = users_and_state(count, exposure=0.0)
    slate_BK = torch.full((count, 1), 7)
    assert (people.respond(state, slate_BK, torch.Generator().manual_seed(84))["choice"] == 0).all()


def test_myopia_loses_to_kale_in_the_long_run() -> None:
    """At RecSim's sensitivity tenfold, so that twenty steps show it."""
    config = ChocKaleConfig(sensitivity=0.3)
    people = ChocKaleUsers(config, draw_choc(50, seed=1))
    returns = {}
    kale = int(people.choc_N[FIRST_ITEM:].argmin()) + FIRST_ITEM
    choc = int(people.choc_N[FIRST_ITEM:].argmax()) + FIRST_ITEM
    for name, item in (("kale", kale), ("choc", choc)):
        environment = SimulatedUsers(people, horizon=20)
        environment.reset(users=2000, seed=0)
        assert int(people.greedy_slate(environment.state)[0, 0]) == choc
        slate_BK = torch.full((2000, 1), item)
        returns[name] = sum(float(environment.step(slate_BK).reward_B.mean()) for _ in range(20))
    assert returns["kale"] > 1.3 * returns["choc"]
