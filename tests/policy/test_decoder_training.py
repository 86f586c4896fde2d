import dataclasses
from pathlib import Path

import pytest
import torch

from recolam.contracts.protocols import Observation
from recolam.errors import ArtifactError, ConfigError
from recolam.policy import decoder_training
from recolam.policy.decoder_agent import DecoderAgent
from recolam.policy.decoder_training import DecoderTrainingConfig, train_decoder
from recolam.policy.returns import session_returns
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


@pytest.mark.parametrize("values", [{"users": 0}, {"warm_share": 1.0}, {"patience": 0}])
def test_settings_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=str(next(iter(values.values())))):
        DecoderTrainingConfig(**values)  # type: ignore[arg-type]


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
    curves = train_decoder(whole, world, SMALL, seed=1).curves
    save = decoder_training._Trainer._save

    def save_and_die(trainer: decoder_training._Trainer) -> None:
        save(trainer)
        if trainer.round == 2:
            raise _Killed

    monkeypatch.setattr(decoder_training._Trainer, "_save", save_and_die)
    with pytest.raises(_Killed):
        train_decoder(new_agent(world), world, SMALL, seed=1, scratch=tmp_path)
    monkeypatch.setattr(decoder_training._Trainer, "_save", save)
    resumed = new_agent(world, seed=5)  # its own weights are replaced by the checkpoint's
    again = train_decoder(resumed, world, SMALL, seed=1, scratch=tmp_path).curves
    assert again == curves
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_training_stops_when_validation_no_longer_rises() -> None:
    world = bored_world()
    config = dataclasses.replace(SMALL, steps=4000, validate_every=1, patience=1, learning_rate=0.0, response_rate=0.0)
    trained = train_decoder(new_agent(world), world, config, seed=1)
    assert len(trained.curves["validation_return"]) == 2  # the second equals the first


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
