import pytest
import torch

from recolam.contracts.dataset import FIRST_ITEM
from recolam.contracts.protocols import Sight
from recolam.errors import ConfigError
from recolam.world.boredom import BORED, BoredomUsers
from recolam.world.environment import SimulatedUsers
from recolam.world.named import make_environment
from recolam.world.sardine import SardineEnvironment
from recolam.world.sight import Items, SessionMemory, Sighted, sighted

SLATES = {"bored": 10, "choc_kale": 1, "interest_evolution": 2}


def shown(world: Sighted, *, users: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    items = world.tokens - FIRST_ITEM
    return torch.rand(users, items, generator=generator).topk(world.slate_size, dim=1).indices + FIRST_ITEM


@pytest.mark.parametrize("name", SLATES)
@pytest.mark.parametrize("is_full", [True, False])
def test_sights_keep_their_shapes(name: str, is_full: bool) -> None:
    world = sighted(make_environment(name), is_full=is_full)
    first = world.reset(users=7, seed=0)
    found = world.step(shown(world, users=7, seed=1)).observation
    assert isinstance(found, Sight)
    assert found.user_BF.shape == first.user_BF.shape
    assert found.facet_BZX.shape == first.facet_BZX.shape == (7, world.attribute_NZ.shape[1], first.facet_BZX.shape[2])
    assert world.slate_size == SLATES[name]
    assert not world.attribute_NZ[:FIRST_ITEM].any()
    assert 0.0 <= float(world.attribute_NZ.min()) <= float(world.attribute_NZ.max()) <= 1.0


def test_full_sight_of_boredom_is_what_the_package_tells() -> None:
    """The same numbers in the same units: our state is set to the package's, then both are read."""
    package = SardineEnvironment("SlateTopK-Bored")
    theirs = sighted(package, is_full=True)
    ours = SimulatedUsers(BoredomUsers(BORED, package.feature_NZ), horizon=100)
    theirs.reset(users=1, seed=3)
    session = package._sessions[0]
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        taste_1Z = torch.tensor(session.user_embedd, dtype=torch.float32)[None]
        best_K = (taste_1Z @ package.feature_NZ.T)[:, FIRST_ITEM:].topk(10).indices + FIRST_ITEM
        chance_K = torch.randperm(1000, generator=generator)[None, :10] + FIRST_ITEM
        is_chance = bool(torch.rand(1, generator=generator) < 0.5)
        sight = theirs.step(chance_K if is_chance else best_K).observation
        assert isinstance(sight, Sight)
        topics, steps = list(session.clicked_item_topics), list(session.clicked_step)
        room = 10 - len(topics)
        ours.reset(users=1, seed=0)
        ours.state.as_dict["taste"].copy_(taste_1Z)
        ours.state.as_dict["clicked_topic"].copy_(torch.tensor([[int(topic) for topic in topics] + [0] * room]))
        ours.state.as_dict["clicked_step"].copy_(torch.tensor([[int(step) for step in steps] + [0] * room]))
        ours.state.as_dict["clicks"].fill_(len(topics))
        ours.state.as_dict["step"].fill_(session.t)
        ours.state.as_dict["is_bored"].copy_(torch.tensor(session.bored)[None])
        ours.state.as_dict["bored_steps"].copy_(torch.tensor(session.bored_timeout)[None])
        user_BF, facet_BZX = sighted(ours, is_full=True)._look()
        torch.testing.assert_close(facet_BZX, sight.facet_BZX, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(user_BF, sight.user_BF, rtol=1e-5, atol=1e-6)


def test_partial_sight_remembers_clicks_and_what_was_passed_over() -> None:
    feature_NG = torch.zeros(FIRST_ITEM + 2, 2)
    feature_NG[FIRST_ITEM:] = torch.eye(2)
    memory = SessionMemory(Items(feature_NG, feature_NG))
    memory.begin(1)
    slate_BK = torch.tensor([[FIRST_ITEM, FIRST_ITEM + 1]])
    memory.remember(slate_BK, torch.tensor([[True, False]]))
    memory.remember(slate_BK, torch.tensor([[True, True]]))
    user_BF, facet_BZX = memory.look()
    # clicked: twice the first item, once the second; passed over: once the second
    assert user_BF[0].tolist() == pytest.approx([2 / 3, 1 / 3, 0.0, 1.0])
    halves = 0.5  # each step's share of a slate of two
    rates = (0.5, 0.8, 0.95)
    clicked = [[(1 - r) * halves * (r + 1) for r in rates], [(1 - r) * halves for r in rates]]
    passed = [[0.0] * 3, [(1 - r) * r * halves for r in rates]]
    for attribute in range(2):
        assert facet_BZX[0, attribute].tolist() == pytest.approx(clicked[attribute] + passed[attribute])


def test_partial_sight_does_not_read_the_state() -> None:
    """Users of different tastes are told apart by their answers alone."""
    world = make_environment("bored", {"items": 50})
    partial, full = sighted(world, is_full=False), sighted(world, is_full=True)
    sight = partial.reset(users=30, seed=0)
    assert not sight.user_BF.any()
    assert not sight.facet_BZX.any()
    assert full.reset(users=30, seed=0).user_BF.any()


def test_a_world_whose_state_means_nothing_to_a_policy_is_refused() -> None:
    with pytest.raises(ConfigError, match="EcosystemUsers"):
        sighted(make_environment("ecosystem"), is_full=True)
