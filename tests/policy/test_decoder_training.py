import dataclasses
from pathlib import Path

import pytest
import torch

from recolam.contracts.protocols import Observation
from recolam.errors import ArtifactError, ConfigError, PolicyCollapse
from recolam.policy import decoder_training
from recolam.policy.decoder_agent import DecoderAgent
from recolam.policy.decoder_rollout import Sessions
from recolam.policy.decoder_training import DecoderTrainingConfig, train_decoder
from recolam.policy.exposure import CollapseFloors
from recolam.policy.returns import session_returns
from recolam.world.named import make_environment
from recolam.world.sight import sighted
from tests.policy.sighted import bored_world, choc_world, new_agent

SMALL = DecoderTrainingConfig(
    steps=700, users=10, segment=4, minibatch=20, response_steps=2, validate_every=2, validation_users=10, patience=9
)


@pytest.mark.parametrize(
    ("steps", "rounds"),
    [(100_000, 8), (99_999, 7), (125_000, 10), (15_000, 1), (24_999, 1), (25_000, 2)],
)
def test_rounds_and_their_validations_fit_the_budget(steps: int, rounds: int) -> None:
    """Rounds of 100 x 100 steps, a validation of 5,000 after every second one and after the last."""
    config = DecoderTrainingConfig(steps=steps)
    assert config.rounds(100) == rounds
    assert rounds * 10_000 + (rounds + 1) // 2 * 5_000 <= steps


@pytest.mark.parametrize(
    "values", [{"users": 0}, {"warm_share": 1.0}, {"patience": 0}, {"gamma": 1.5}, {"kl_weight": -1.0}]
)
def test_settings_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=str(next(iter(values.values())))):
        DecoderTrainingConfig(**values)  # type: ignore[arg-type]


def test_schedules_by_hand() -> None:
    config = DecoderTrainingConfig(gamma=0.5, entropy_weight=0.4, entropy_end=0.1)
    assert config.discounted_length(3) == 1.75
    assert dataclasses.replace(config, gamma=0.0).discounted_length(3) == 1.0
    assert dataclasses.replace(config, gamma=1.0).discounted_length(3) == 3.0
    assert [config.entropy_at(done) for done in (0.0, 0.5, 1.0)] == pytest.approx([0.4, 0.25, 0.1])
    assert dataclasses.replace(config, entropy_end=None).entropy_at(1.0) == 0.4


def test_a_budget_of_less_than_a_round_is_refused() -> None:
    with pytest.raises(ConfigError, match="14999 steps; one round and its validation take 15000"):
        DecoderTrainingConfig(steps=14_999).rounds(100)


def test_what_is_played_is_counted_and_within_the_budget() -> None:
    world = bored_world()
    played = 0

    class Counting:
        def __getattr__(self, name: str) -> object:
            return getattr(world, name)

        def step(self, slate_BK: torch.Tensor) -> object:
            nonlocal played
            played += len(slate_BK)
            return world.step(slate_BK)

    trained = train_decoder(new_agent(world), Counting(), SMALL, seed=1)  # type: ignore[arg-type]
    assert played == trained.learning_steps + trained.validation_steps <= SMALL.steps
    assert (trained.learning_steps, trained.validation_steps) == (400, 200)
    assert [steps for steps, _ in trained.curves["validation_return"]] == [300, 600]


class _Killed(Exception):
    pass


def test_a_killed_training_resumes_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = bored_world()
    whole = new_agent(world)
    config = dataclasses.replace(SMALL, kl_weight=0.3, expects_rewards=True, entropy_end=0.0)
    curves = train_decoder(whole, world, config, seed=1).curves
    save = decoder_training._Trainer._save

    def save_and_die(trainer: decoder_training._Trainer) -> None:
        save(trainer)
        if trainer.round == 2:
            raise _Killed

    monkeypatch.setattr(decoder_training._Trainer, "_save", save_and_die)
    with pytest.raises(_Killed):
        train_decoder(new_agent(world), world, config, seed=1, scratch=tmp_path)
    monkeypatch.setattr(decoder_training._Trainer, "_save", save)
    resumed = new_agent(world, seed=5)  # its own weights are replaced by the checkpoint's
    with torch.no_grad():
        resumed.decoder.log_sharpness += 1.0  # and are not what training began with
    again = train_decoder(resumed, world, config, seed=1, scratch=tmp_path).curves
    assert again == curves
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_training_stops_when_validation_no_longer_rises() -> None:
    world = bored_world()
    config = dataclasses.replace(SMALL, steps=4000, validate_every=1, patience=1, learning_rate=0.0, response_rate=0.0)
    trained = train_decoder(new_agent(world), world, config, seed=1)
    assert len(trained.curves["validation_return"]) == 2  # the second equals the first


def test_answers_of_a_segment_are_those_of_its_active_states() -> None:
    """Users leave on the way: states and answers must not slip against each other."""
    world = sighted(
        make_environment("interest_evolution", {"items": 20, "horizon": 12, "dynamics": {"budget": 6.0}}), is_full=True
    )
    agent, generator = new_agent(world), torch.Generator().manual_seed(0)
    sessions = Sessions(world, users=30, seed=0)
    for _ in range(3):
        segment = sessions.play(agent, generator, steps=4)
        is_active_S = segment.is_active_BH.T.reshape(-1)
        assert torch.equal(segment.answers.reward_S, segment.reward_BH.T.reshape(-1)[is_active_S])
    assert 0 < int(segment.is_active_BH.sum()) < segment.is_active_BH.numel()


def test_expected_rewards_stand_at_the_steps_of_their_clicks() -> None:
    world = bored_world()
    config = dataclasses.replace(SMALL, expects_rewards=True)
    trainer = decoder_training._Trainer(new_agent(world), world, config, seed=1, scratch=None, watch=None)
    with torch.no_grad():
        trainer.agent.response.worth[-1, -1] = torch.tensor(3.0).log()
    sessions = Sessions(world, users=20, seed=0)
    segment = sessions.play(trainer.agent, torch.Generator().manual_seed(0), steps=4)
    index_S = segment.is_active_BH.T.reshape(-1).nonzero()[:, 0]
    assert len(segment.reward_BH.unique()) > 1  # clicks, each worth 3 to the model above
    torch.testing.assert_close(trainer._rewards(segment, index_S), 3.0 * segment.reward_BH)


@pytest.mark.parametrize(
    ("floors", "message"),
    [
        (CollapseFloors(entropy=99.0), "iteration 1: entropy"),
        (CollapseFloors(effective_slates=15.0), "iteration 2: what it shows"),
    ],
)
def test_a_collapse_ends_training(floors: CollapseFloors, message: str) -> None:
    world = bored_world()
    with pytest.raises(PolicyCollapse, match=message):
        train_decoder(new_agent(world), world, dataclasses.replace(SMALL, floors=floors), seed=1)


def test_divergence_from_the_start_is_held_down() -> None:
    world = bored_world()
    last = {}
    for weight in (1e-6, 10.0):
        config = dataclasses.replace(SMALL, kl_weight=weight)
        last[weight] = train_decoder(new_agent(world), world, config, seed=1).curves["kl"][-1][1]
    assert 0.0 < last[10.0] < last[1e-6] / 3


def test_an_agent_is_saved_and_loaded_whole(tmp_path: Path) -> None:
    world = bored_world()
    agent = new_agent(world)
    train_decoder(agent, world, dataclasses.replace(SMALL, steps=300), seed=1)
    agent.save(tmp_path / "agent")
    loaded = DecoderAgent.load(tmp_path / "agent")
    sight = world.reset(users=20, seed=7)
    for generator in (None, 3):
        slates = [
            one.slates(sight, k=4, generator=torch.Generator().manual_seed(generator) if generator else None)
            for one in (agent, loaded)
        ]
        assert torch.equal(*slates)
    assert loaded.settings == {"world": "test"}
    (tmp_path / "agent" / "decoder.safetensors").write_bytes(b"nothing")
    with pytest.raises(ArtifactError, match="not a decoder policy"):
        DecoderAgent.load(tmp_path / "agent")


def test_a_plain_observation_is_refused() -> None:
    world = bored_world()
    plain = Observation(torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="sighted"):
        new_agent(world).slates(plain, k=4, generator=None)


@pytest.mark.parametrize("is_full", [True, False])
def test_slates_hold_distinct_items(is_full: bool) -> None:
    world = bored_world(is_full=is_full)
    agent = new_agent(world)
    sight = world.reset(users=50, seed=0)
    slate_BK = agent.slates(sight, k=4, generator=torch.Generator().manual_seed(0))
    world.step(slate_BK)  # raises where an item stands twice or is none


@pytest.mark.slow
def test_foresight_wins_where_greed_loses() -> None:
    """Choc and kale: what pays at once starves what comes later."""
    world = choc_world(horizon=60)
    earned = {}
    for gamma in (0.95, 0.0):
        agent = new_agent(world)
        config = DecoderTrainingConfig(steps=30_000, gamma=gamma)
        train_decoder(agent, world, config, seed=0)
        earned[gamma] = session_returns(
            world, lambda sight, _, agent=agent: agent.slates(sight, k=1, generator=None), users=500, seed=9
        )
    assert earned[0.95] > 1.3 * earned[0.0]
