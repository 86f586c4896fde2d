import pytest
import torch

from recolam.contracts.dataset import FIRST_ITEM
from recolam.errors import ConfigError
from recolam.world.named import make_environment
from recolam.world.sight import Sighted, sighted
from recolam.world.taste_shift import TasteShifted

SMALL = {
    "bored": {"items": 40, "horizon": 8},
    "bored_influenced": {"items": 40, "horizon": 8},
    "interest_evolution": {"items": 30, "users": 50},
}


def world(name: str, *, is_full: bool = True) -> Sighted:
    return sighted(make_environment(name, SMALL.get(name)), is_full=is_full)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_topic_moves_and_all_in_one_cycle(seed: int) -> None:
    moved_to = TasteShifted(world("bored"), seed=seed).moved_to_F.tolist()
    place, visited = 0, []
    for _ in moved_to:
        visited.append(place)
        place = moved_to[place]
    assert place == 0
    assert sorted(visited) == list(range(10))


@pytest.mark.parametrize("name", SMALL)
def test_sessions_stay_and_profiles_name_another_topic_than_the_true_one(name: str) -> None:
    before, after = world(name), TasteShifted(world(name), seed=3)
    generator = torch.Generator().manual_seed(0)
    seen, shifted = before.reset(users=6, seed=1), after.reset(users=6, seed=1)
    for _ in range(7):
        topics = seen.user_BF.shape[1]
        for profile, true in enumerate(after.moved_to_F.tolist()):
            assert torch.equal(shifted.user_BF[:, profile], seen.user_BF[:, true])
            assert torch.equal(shifted.facet_BZX[:, profile, 0], seen.user_BF[:, true])
        assert torch.equal(shifted.facet_BZX[:, topics:], seen.facet_BZX[:, topics:])
        assert torch.equal(shifted.facet_BZX[..., 1:], seen.facet_BZX[..., 1:])
        assert not torch.equal(shifted.user_BF, seen.user_BF)
        draw = torch.rand(6, before.tokens - FIRST_ITEM, generator=generator)
        slate = draw.topk(before.slate_size, dim=1).indices + FIRST_ITEM
        first, second = before.step(slate), after.step(slate)
        assert torch.equal(first.is_clicked_BK, second.is_clicked_BK)
        assert torch.equal(first.reward_B, second.reward_B)
        seen, shifted = first.observation, second.observation  # type: ignore[assignment]


def test_a_shift_to_come_is_one_between_two_steps() -> None:
    """With 6 users and 20 user-steps to go, the first three steps and what they show are as before."""
    before, after = world("bored"), TasteShifted(world("bored"), seed=3, at=20)
    seen, told = before.reset(users=6, seed=1), after.reset(users=6, seed=1)
    slate = torch.arange(before.slate_size).expand(6, -1) + FIRST_ITEM
    for step in range(7):
        is_shifted = step >= 4
        assert torch.equal(told.user_BF, seen.user_BF[:, after.moved_to_F] if is_shifted else seen.user_BF)
        seen, told = before.step(slate).observation, after.step(slate).observation  # type: ignore[assignment]
    assert after.played == 42
    assert not torch.equal(after.reset(users=6, seed=1).user_BF, before.reset(users=6, seed=1).user_BF)


def test_the_shift_follows_its_seed() -> None:
    first, same, other = (TasteShifted(world("bored"), seed=seed).moved_to_F for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(("name", "is_full"), [("choc_kale", True), ("bored", False), ("interest_evolution", False)])
def test_worlds_that_show_no_tastes_are_refused(name: str, is_full: bool) -> None:
    with pytest.raises(ConfigError, match="no shift of tastes"):
        TasteShifted(world(name, is_full=is_full), seed=0)
