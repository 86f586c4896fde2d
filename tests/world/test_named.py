"""Every world by its name: it plays, it replays from a seed bit for bit, and wrong settings are named."""

import sys
from typing import Any

import pytest
import torch

from recolam.contracts.dataset import FIRST_ITEM
from recolam.errors import ConfigError
from recolam.world.boredom import BORED, BORED_INFLUENCED, UNCERTAIN, BoredomUsers, draw_items
from recolam.world.documents import draw_corpus, mean_qualities
from recolam.world.ecosystem import EcosystemUsers
from recolam.world.environment import SimulatedUsers
from recolam.world.interest_evolution import InterestEvolutionUsers
from recolam.world.named import NAMES, SIMULATED, make_config, make_environment, make_users
from tests.world.playing import DRIFT, assert_same_session, play, simulated

every_world = pytest.mark.parametrize("name", NAMES)
every_simulated_world = pytest.mark.parametrize("name", SIMULATED)
with_and_without_drift = pytest.mark.parametrize("overrides", [{}, {"drift": DRIFT}], ids=["steady", "drift"])


@every_world
def test_every_world_takes_its_slates_and_ends_at_its_horizon(name: str) -> None:
    environment = make_environment(name)
    environment.reset(users=2, seed=0)
    assert len(play(environment, users=2, steps=3, seed=1)) == 3
    items = environment.tokens - FIRST_ITEM
    expected = {"interest_evolution": (100, 2, 100), "choc_kale": (50, 1, 60), "ecosystem": (20, 2, 60)}
    assert (items, environment.slate_size, environment.horizon) == expected.get(name, (1000, 10, 100))


@with_and_without_drift
@every_simulated_world
def test_a_seeded_session_replays_bit_for_bit(name: str, overrides: dict[str, Any]) -> None:
    """Also where rows start anew and sessions are replicated; another seed plays another session."""
    first, again, other = (
        play(simulated(name, overrides), users=5, steps=12, seed=seed, reset_at=4, replicate_at=7) for seed in (3, 3, 4)
    )
    assert_same_session(first, again)
    with pytest.raises(AssertionError):
        assert_same_session(first, other)


def test_the_package_s_sessions_replay_bit_for_bit() -> None:
    environment = make_environment("sardine")
    first, again = (play(environment, users=2, steps=6, seed=3, reset_at=4) for _ in range(2))
    assert_same_session(first, again)


@every_simulated_world
def test_the_seed_draws_the_world(name: str) -> None:
    same, again, other = (play(simulated(name, seed=seed), users=5, steps=6, seed=3) for seed in (1, 1, 2))
    assert_same_session(same, again)
    with pytest.raises(AssertionError):
        assert_same_session(same, other)


@every_simulated_world
def test_a_drift_changes_what_happens_from_its_step_on_and_not_before(name: str) -> None:
    steady = play(simulated(name), users=40, steps=8, seed=3)
    shifted = play(simulated(name, {"drift": {"shift_at": 4}}), users=40, steps=8, seed=3)
    for before, after in zip(steady[:4], shifted[:4], strict=True):
        assert torch.equal(before["reward_B"], after["reward_B"])
    assert any(not torch.equal(a["reward_B"], b["reward_B"]) for a, b in zip(steady[4:], shifted[4:], strict=True))


def test_the_three_worlds_of_boredom_keep_their_dynamics_under_overrides() -> None:
    for name, dynamics in {"bored": BORED, "bored_influenced": BORED_INFLUENCED, "uncertain": UNCERTAIN}.items():
        assert make_config(name).dynamics == dynamics
    changed = make_config("uncertain", {"dynamics": {"omega": 0.5}}).dynamics
    assert (changed.omega, changed.slope) == (0.5, UNCERTAIN.slope)
    users = make_users("bored", seed=7)
    assert isinstance(users, BoredomUsers)
    assert torch.equal(users.feature_NZ, draw_items(1000, topics=10, seed=7))


def test_users_of_the_demo_of_interest_evolution_never_leave_before_its_horizon() -> None:
    """Though they are shown what is watched longest: trash."""
    environment = simulated("interest_evolution")
    environment.reset(users=100, seed=0)
    for _ in range(environment.horizon):
        result = environment.step(environment.users.greedy_slate(environment.state))
        assert not result.terminated_B.any()
    assert result.truncated_B.all()
    assert float(environment.state.get("budget").min()) > 0


def test_the_documents_follow_their_equations() -> None:
    assert mean_qualities(10).tolist() == pytest.approx([-1, -5 / 6, -4 / 6, -0.5, -2 / 6, -1 / 6, 0, 0, 0.5, 1])
    corpus, topic_N = draw_corpus(40_000, topics=4, seed=0, feature_deviation=0.5)
    for topic, mean in enumerate([-1.0, 0.0, 0.0, 1.0]):
        is_it_N = topic_N == topic
        assert abs(float(is_it_N.float().mean()) - 0.25) < 0.01
        quality, feature = corpus.quality_N[is_it_N], corpus.feature_NZ[is_it_N]
        assert abs(float(quality.mean()) - mean) < 0.005
        assert abs(float(quality.std()) - 0.1) < 0.003
        assert float((feature.mean(dim=0) - torch.eye(4)[topic]).abs().max()) < 0.025
        assert float((feature.std(dim=0) - 0.5).abs().max()) < 0.02


def test_one_provider_of_the_ecosystem_is_in_the_middle_of_the_others() -> None:
    users = make_users("ecosystem", {"spread": 0.0, "items": 6, "providers": 3, "radius": 1.5})
    assert isinstance(users, EcosystemUsers)
    expected = torch.tensor([[0.0, 0.0], [1.5, 0.0], [-1.5, 0.0]])
    torch.testing.assert_close(users.offer.feature_NZ[FIRST_ITEM:], expected.repeat(2, 1), atol=1e-6, rtol=0)


def test_the_bank_of_interest_evolution_has_as_many_users_as_asked_for() -> None:
    users = make_users("interest_evolution", {"users": 7, "topics": 3, "drift": None})
    assert isinstance(users, InterestEvolutionUsers)
    assert users.start.interest_PZ.shape == (7, 3)


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("boredom", {}, "world 'boredom' is not one of interest_evolution, choc_kale, bored"),
        ("../bored", {}, "is not one of"),
        ("bored", {"itmes": 3}, "world bored: unknown key 'itmes'; known keys: drift, dynamics, horizon, items"),
        ("bored", {"dynamics": {"omgea": 3}}, "world bored.dynamics: unknown key 'omgea'"),
        ("bored", {"horizon": "long"}, "world bored.horizon: 'long' is not of type int"),
        ("bored", {"horizon": 0}, "world bored: horizon is 0, below 1"),
        ("bored", {"dynamics": {"topics": 3}}, "world bored: 3 topics; users like up to 5"),
        ("bored", {"items": -5}, "world bored: "),
        ("choc_kale", {"drift": {"shift_at": -1}}, "world choc_kale.drift: shift_at is -1, below 0"),
        ("choc_kale", {"drift": {"when": 1}}, "world choc_kale.drift: unknown key 'when'"),
        ("ecosystem", {"dynamics": {"affinity": "cosine"}}, "'cosine' is not one of 'dot', 'distance'"),
        ("ecosystem", {"items": 3}, "world ecosystem: 3 items for 5 providers"),
        ("sardine", {"drift": {"shift_at": 1}}, "world sardine: unknown key 'drift'"),
        ("sardine", {"name": "ToyBox"}, "world sardine.name: 'ToyBox' is not one of"),
        ("interest_evolution", {"items": 1}, "world interest_evolution: slates of 2 of 1 items"),
        ("interest_evolution", {"users": 0}, "world interest_evolution: users is 0, below 1"),
    ],
)  # fmt: skip
def test_wrong_settings_are_named(name: str, overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
        make_environment(name, overrides)


def test_the_package_has_no_user_model_of_ours_and_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="no user model of ours"):
        make_users("sardine")
    monkeypatch.setitem(sys.modules, "sardine", None)
    with pytest.raises(ConfigError, match="needs the package sardine-rec"):
        make_environment("sardine")


def test_environments_are_of_the_users_that_are_named() -> None:
    environment = make_environment("choc_kale", {"horizon": 9}, seed=2)
    assert isinstance(environment, SimulatedUsers)
    assert environment.horizon == 9
