"""Beliefs are exact where exactness is possible, and learn what a session tells."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from recolam.contracts.dataset import FIRST_ITEM
from recolam.policy import decoder_training
from recolam.policy.belief import BeliefFit, Believing, Played, SessionEncoder
from recolam.policy.decoder_agent import DecoderAgent, prospects
from recolam.policy.decoder_rollout import Sessions, random_slates
from recolam.policy.decoder_training import DecoderTrainingConfig, train_decoder
from recolam.policy.response import ResponseModel, described_items
from recolam.world.sight import Sighted
from tests.policy.sighted import bored_world

SMALL = DecoderTrainingConfig(
    steps=700, users=10, segment=4, minibatch=20, belief_steps=2, validate_every=2, validation_users=10, patience=9
)


def believing_agent(world: Sighted, *, seed: int = 0) -> DecoderAgent:
    return DecoderAgent.for_environment(world, world.reset(users=1, seed=0), {}, seed=seed, belief=6)


def played_at_random(environment: Believing, *, users: int, steps: int) -> Sessions:
    sessions = Sessions(environment, users=users, seed=3)
    sessions.play_by(random_slates(environment), torch.Generator().manual_seed(0), steps=steps)
    return sessions


def two_kinds() -> tuple[Tensor, Tensor]:
    """Two items, each with an attribute of its own."""
    feature_NG = torch.zeros(FIRST_ITEM + 2, 2)
    feature_NG[FIRST_ITEM:] = torch.eye(2)
    return feature_NG, feature_NG


def constant_users(*, users: int, steps: int, seed: int) -> tuple[Played, Tensor]:
    """Each is shown both items and clicks the same one nearly always; which one is his, bool [B] (True: the first)."""
    generator = torch.Generator().manual_seed(seed)
    is_first_B = torch.rand(users, generator=generator) < 0.5
    slate_TBK = torch.tensor([FIRST_ITEM, FIRST_ITEM + 1]).expand(steps, users, 2)
    own_BK = torch.stack([is_first_B, ~is_first_B], dim=1)
    is_clicked_TBK = own_BK & (torch.rand(steps, users, 2, generator=generator) < 0.9)
    everything_TB = torch.ones(steps, users, dtype=torch.bool)
    return Played(slate_TBK, is_clicked_TBK, is_clicked_TBK.sum(dim=2).float(), everything_TB), is_first_B


def test_reading_step_by_step_is_reading_the_whole_session() -> None:
    world = bored_world(is_full=False)
    agent = believing_agent(world)
    seen = agent.seen(world)
    assert isinstance(seen, Believing)
    with torch.no_grad():
        agent.encoder.clicked_K.mul_(torch.arange(1.0, 5.0))  # type: ignore[union-attr]
    sessions = played_at_random(seen, users=8, steps=7)
    assert int(seen.played.is_played_TB.sum()) == 8 * 7
    followed_BF = sessions.sight.user_BF
    assert followed_BF.abs().max() > 0
    torch.testing.assert_close(seen.look_again().user_BF, followed_BF)


def test_a_belief_is_of_the_past_alone_and_of_its_own_session() -> None:
    feature_NG, attribute_NZ = two_kinds()
    torch.manual_seed(0)
    encoder = SessionEncoder(described_items(feature_NG, attribute_NZ), slate_size=2, width=4)
    played, _ = constant_users(users=3, steps=6, seed=0)
    changed_TBK = played.is_clicked_TBK.clone()
    changed_TBK[4, 1] = ~changed_TBK[4, 1]
    before_TBF, after_TBF = encoder(played), encoder(dataclasses.replace(played, is_clicked_TBK=changed_TBK))
    is_other_TB = (before_TBF != after_TBF).any(dim=2)
    assert not before_TBF[0].any()
    assert is_other_TB.nonzero().tolist() == [[5, 1], [6, 1]]


def test_a_session_tells_who_a_user_is() -> None:
    """New users are told apart by their answers; before the first, nobody is known, and only the rate of clicks is."""
    feature_NG, attribute_NZ = two_kinds()
    torch.manual_seed(0)
    model = ResponseModel(feature_NG, attribute_NZ, user_size=4, slate_size=2)
    encoder = SessionEncoder(model.item_NV, slate_size=2, width=4)
    known, _ = constant_users(users=200, steps=8, seed=1)
    fit = BeliefFit(encoder, model, learning_rate=0.03)
    fit.steps(known, 300, torch.Generator().manual_seed(2))
    others, is_first_B = constant_users(users=500, steps=8, seed=3)
    belief_TBF = encoder(others).detach()
    chance_BK = model.click_chance(belief_TBF[-1])[:, FIRST_ITEM:] * model.examination_K
    assert chance_BK[is_first_B].mean(dim=0).tolist() == pytest.approx([0.9, 0.0], abs=0.05)
    assert chance_BK[~is_first_B].mean(dim=0).tolist() == pytest.approx([0.0, 0.9], abs=0.05)
    prior_K = model.click_chance(belief_TBF[0])[0, FIRST_ITEM:] * model.examination_K
    assert prior_K.tolist() == pytest.approx([0.45, 0.45], abs=0.06)


def test_steps_that_were_not_played_teach_nothing() -> None:
    feature_NG, attribute_NZ = two_kinds()
    played, _ = constant_users(users=5, steps=6, seed=0)
    is_played_TB = played.is_played_TB.clone()
    is_played_TB[4:, 2] = False
    drawn = []
    for clicked_TBK in (played.is_clicked_TBK, played.is_clicked_TBK ^ ~is_played_TB[..., None]):
        torch.manual_seed(0)
        model = ResponseModel(feature_NG, attribute_NZ, user_size=4, slate_size=2)
        fit = BeliefFit(SessionEncoder(model.item_NV, slate_size=2, width=4), model)
        record = dataclasses.replace(played, is_clicked_TBK=clicked_TBK, is_played_TB=is_played_TB)
        drawn.append(fit.steps(record, 3, torch.Generator().manual_seed(1)))
    assert drawn[0] == drawn[1]


def test_prospects_by_hand() -> None:
    attribute_BCZ = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 0.5]]])
    found = prospects(torch.tensor([[0.2, 0.6, 0.8]]), torch.tensor([[0.5, 0.1, 1.0]]), attribute_BCZ)
    torch.testing.assert_close(found, torch.tensor([[[0.4, 0.6, 0.5], [0.8, 0.4, 0.5]]]))


def test_a_believing_agent_is_saved_and_loaded_whole(tmp_path: Path) -> None:
    world = bored_world(is_full=False)
    agent = believing_agent(world)
    train_decoder(agent, world, dataclasses.replace(SMALL, steps=300), seed=1)
    agent.save(tmp_path / "agent")
    loaded = DecoderAgent.load(tmp_path / "agent")
    slates = []
    for one in (agent, loaded):
        seen = one.seen(world)
        assert isinstance(seen, Believing)
        sight = played_at_random(seen, users=20, steps=5).sight
        slates.append(one.slates(sight, k=4, generator=None))
    assert torch.equal(*slates)


class _Killed(Exception):
    pass


def test_a_killed_training_resumes_to_the_same_beliefs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = bored_world(is_full=False)
    whole = believing_agent(world)
    curves = train_decoder(whole, world, SMALL, seed=1).curves
    save = decoder_training._Trainer._save

    def save_and_die(trainer: decoder_training._Trainer) -> None:
        save(trainer)
        if trainer.round == 2:
            raise _Killed

    monkeypatch.setattr(decoder_training._Trainer, "_save", save_and_die)
    with pytest.raises(_Killed):
        train_decoder(believing_agent(world), world, SMALL, seed=1, scratch=tmp_path)
    monkeypatch.setattr(decoder_training._Trainer, "_save", save)
    resumed = believing_agent(world, seed=5)
    assert train_decoder(resumed, world, SMALL, seed=1, scratch=tmp_path).curves == curves
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_a_sight_without_the_belief_is_refused() -> None:
    world = bored_world(is_full=False)
    with pytest.raises(ValueError, match="seen"):
        believing_agent(world).slates(world.reset(users=2, seed=0), k=4, generator=None)
