import dataclasses
from pathlib import Path

import pytest
import torch

from recolam.errors import ArtifactError, ConfigError
from recolam.policy import plackett_luce, training
from recolam.policy.agent import admissible
from recolam.policy.gradient import advantages, discounted_returns, policy_gradient_loss
from recolam.policy.returns import compare, greedy, myopic, sampled, session_returns, static, uniform
from recolam.policy.rollout import play
from recolam.policy.training import PolicyTrainingConfig, replay, train_policy
from tests.policy.small import small_agent, small_world

CONFIG = PolicyTrainingConfig(
    iterations=8, users=16, replicas=4, learning_rate=1e-2, validate_every=3, validation_users=64, checkpoint_every=2
)


def test_one_pass_over_the_final_history_gives_every_step_s_distribution() -> None:
    agent = small_agent()
    rollout = play(small_world(), agent, users=20, replicas=3, seed=1)
    states = replay(agent.model, rollout)
    score_SN = admissible(states.state_SD @ states.table_ND.T, states.seen_ST)
    log_prob_S = plackett_luce.log_prob(score_SN, rollout.slate_BHK[rollout.is_active_BH])
    torch.testing.assert_close(log_prob_S, rollout.log_prob_BH[rollout.is_active_BH], rtol=1e-4, atol=1e-4)
    assert states.value_BH.shape == rollout.reward_BH.shape


def test_scores_that_follow_a_session_are_those_of_its_histories() -> None:
    agent, world = small_agent(), small_world(budget=1e6)
    agent.is_barred_N = torch.zeros(23, dtype=torch.bool).index_fill_(0, torch.tensor([5, 9]), True)
    following, observation = agent.following(), world.reset(users=12, seed=3)
    for _ in range(6):
        expected_BN = agent.slate_scores(observation)
        torch.testing.assert_close(following(observation), expected_BN, rtol=1e-4, atol=1e-5)
        observation = world.step(plackett_luce.sample(expected_BN, 3, None)).observation
    assert int(observation.length_B.max()) > 2


def test_blocks_add_up_to_the_gradient_of_the_whole_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent, world = small_agent(), small_world()
    rollout = play(world, agent, users=20, replicas=4, seed=1)
    trainer = training._Trainer(agent, world, CONFIG, seed=0, scratch=tmp_path)
    monkeypatch.setattr(training, "_BLOCK", 7)
    trainer._accumulate_gradients(rollout)
    blocks = {name: p.grad.clone() for name, p in agent.model.named_parameters() if p.grad is not None}

    agent.model.zero_grad()
    states = replay(agent.model, rollout)
    active = rollout.is_active_BH
    score_SN = admissible(states.state_SD @ states.table_ND.T, states.seen_ST)
    log_prob_S = plackett_luce.log_prob(score_SN, rollout.slate_BHK[active])
    after_B = (states.after_B * rollout.is_truncated_B).detach()
    return_BH = discounted_returns(rollout.reward_BH, gamma=CONFIG.gamma, after_B=after_B)
    advantage_BH = advantages(return_BH, states.value_BH.detach(), active, replicas=4)
    advantage_S = advantage_BH[active] / advantage_BH[active].std()
    loss = policy_gradient_loss(log_prob_S, advantage_S) / len(advantage_S)
    loss = loss + CONFIG.value_weight * (states.value_BH - return_BH)[active].square().mean()
    loss = loss - CONFIG.entropy_weight * plackett_luce.first_pick_entropy(score_SN).mean()
    loss.backward()  # the divergence from the start weights has no gradient there
    for name, parameter in agent.model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(blocks[name], parameter.grad, rtol=1e-3, atol=1e-6)


def test_rollouts_replay_from_their_seed() -> None:
    first, second, other = (play(small_world(), small_agent(), users=8, replicas=2, seed=s) for s in (5, 5, 6))
    assert torch.equal(first.slate_BHK, second.slate_BHK)
    assert torch.equal(first.reward_BH, second.reward_BH)
    assert first.slate_BHK.shape != other.slate_BHK.shape or not torch.equal(first.slate_BHK, other.slate_BHK)


def test_no_slate_shows_what_the_user_had() -> None:
    rollout = play(small_world(budget=1e6), small_agent(), users=30, replicas=2, seed=0)
    for session in range(60):
        for step in range(rollout.slate_BHK.shape[1]):
            seen = set(rollout.history_BT[session, : rollout.length_BH[session, step]].tolist())
            assert not seen & set(rollout.slate_BHK[session, step].tolist())


@pytest.mark.slow
def test_training_beats_the_untrained_policy(tmp_path: Path) -> None:
    world, agent, untrained = small_world(), small_agent(), small_agent()
    train_policy(agent, world, dataclasses.replace(CONFIG, iterations=60), seed=0, scratch=tmp_path)
    table = compare(
        world,
        {"trained": greedy(agent, k=3), "untrained": greedy(untrained, k=3), "random": uniform(tokens=23, k=3)},
        users=300,
        seeds=range(1000, 1006),
    )
    assert table["trained"]["ci95"][0] > table["untrained"]["ci95"][1]
    assert table["trained"]["ci95"][0] > table["random"]["ci95"][1]


class Killed(Exception):
    pass


@pytest.mark.parametrize("stop", [1, 5])
def test_a_killed_run_resumes_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int) -> None:
    whole, resumed = small_agent(), small_agent()
    curves = train_policy(whole, small_world(), CONFIG, seed=0, scratch=tmp_path / "whole")
    iterate, calls = training._Trainer._iterate, 0

    def killed(self: training._Trainer) -> dict[str, float]:
        nonlocal calls
        calls += 1
        if calls > stop:
            raise Killed
        return iterate(self)

    monkeypatch.setattr(training._Trainer, "_iterate", killed)
    with pytest.raises(Killed):
        train_policy(small_agent(), small_world(), CONFIG, seed=0, scratch=tmp_path / "broken")
    monkeypatch.setattr(training._Trainer, "_iterate", iterate)
    assert train_policy(resumed, small_world(), CONFIG, seed=0, scratch=tmp_path / "broken") == curves
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    train_policy(small_agent(), small_world(), CONFIG, seed=0, scratch=tmp_path)
    path = tmp_path / "checkpoint" / "state.json"
    path.write_text(path.read_text().replace('"iteration": 8', '"iteration": 7'))
    with pytest.raises(ArtifactError, match=r"state\.json: changed"):
        train_policy(small_agent(), small_world(), CONFIG, seed=0, scratch=tmp_path)


def test_policies_that_know_more_earn_more_now() -> None:
    world = small_world()
    popularity = torch.randn(23, generator=torch.Generator().manual_seed(0))
    policies = {
        "myopic": myopic(world), "random": uniform(tokens=23, k=3), "static": static(popularity, k=3),
        "sampled": sampled(small_agent(), k=3),
    }  # fmt: skip
    one_step = {name: session_returns(small_world(), act, users=10, seed=0) for name, act in policies.items() if
                name not in ("myopic",)}  # fmt: skip
    table = compare(world, policies, users=200, seeds=range(4))
    assert table["myopic"]["mean"] > table["random"]["mean"]
    assert all(value >= 0 for value in one_step.values())
    assert (
        compare(world, {"r": policies["random"]}, users=50, seeds=[1, 2])["r"]
        == compare(world, {"r": policies["random"]}, users=50, seeds=[1, 2])["r"]
    )


def test_settings_that_play_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        PolicyTrainingConfig(replicas=0)
