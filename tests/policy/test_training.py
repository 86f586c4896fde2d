import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from recolam.errors import ArtifactError, ConfigError
from recolam.policy import learner, plackett_luce, training
from recolam.policy.agent import SlateAgent, admissible
from recolam.policy.config import PolicyTrainingConfig, PpoConfig
from recolam.policy.gradient import advantages, discounted_returns, policy_gradient_loss
from recolam.policy.learner import Learner
from recolam.policy.lesson import Lesson, earned_before, replay
from recolam.policy.returns import compare, greedy, myopic, sampled, session_returns, static, uniform
from recolam.policy.rollout import play
from recolam.policy.training import train_policy
from recolam.sequence.distributed import Processes
from tests.policy.small import small_agent, small_world
from tests.world.worlds import small_environment

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
        torch.testing.assert_close(following(observation).score_BM, expected_BN, rtol=1e-4, atol=1e-5)
        observation = world.step(plackett_luce.sample(expected_BN, 3, None)).observation
    assert int(observation.length_B.max()) > 2


def learner_of(agent: SlateAgent, config: PolicyTrainingConfig) -> Learner:
    optimizer = torch.optim.SGD(agent.model.parameters(), lr=0.0)
    reference = copy.deepcopy(agent.model).requires_grad_(False)
    return Learner(agent.model, reference, optimizer, config, temperature=agent.temperature, processes=Processes())


def gradients(agent: SlateAgent) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in agent.model.named_parameters() if p.grad is not None}


UNCLIPPED = dataclasses.replace(CONFIG, gradient_clip=1e9)


@pytest.mark.parametrize("estimator", ["reinforce", "reward_to_go", "ppo"])
def test_blocks_and_shards_add_up_to_the_gradient_of_the_whole_loss(
    monkeypatch: pytest.MonkeyPatch, estimator: Any
) -> None:
    agent, world = small_agent(), small_world()
    config = dataclasses.replace(UNCLIPPED, shards=2, estimator=estimator, ppo=PpoConfig(epochs=1))
    shards = [play(world, agent, users=users, replicas=4, seed=users) for users in (12, 8)]
    monkeypatch.setattr(learner, "_BLOCK", 7)
    figures = learner_of(agent, config).learn(shards, entropy_weight=0.1)
    found = gradients(agent)

    agent.model.zero_grad()
    log_prob_SK, advantage_S, before_SK, entropy_S, error_S = [], [], [], [], []
    for rollout in shards:
        states, active = replay(agent.model, rollout), rollout.is_active_BH
        score_SN = admissible(states.state_SD @ states.table_ND.T, states.seen_ST)
        log_prob_SK.append(plackett_luce.position_log_probs(score_SN, rollout.slate_BHK[active]))
        after_B = (states.after_B * rollout.is_truncated_B).detach()
        return_BH = discounted_returns(rollout.reward_BH, gamma=config.gamma, after_B=after_B)
        advantage_S.append(advantages(return_BH, states.value_BH.detach(), active, replicas=4)[active])
        before_SK.append(earned_before(rollout))
        entropy_S.append(plackett_luce.first_pick_entropy(score_SN))
        error_S.append((states.value_BH - return_BH)[active])
    weight_SK = torch.cat(advantage_S)[:, None].expand(-1, 3)
    before = torch.cat(before_SK)
    if estimator == "reward_to_go":
        weight_SK = weight_SK - (before - before.mean(dim=0))
    loss = policy_gradient_loss(torch.cat(log_prob_SK), weight_SK / torch.cat(advantage_S).std()) / len(weight_SK)
    loss = loss + config.value_weight * torch.cat(error_S).square().mean() - 0.1 * torch.cat(entropy_S).mean()
    loss.backward()  # the divergence from the start weights has no gradient there
    for name, gradient in gradients(agent).items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-6)
    assert figures["entropy"] == pytest.approx(float(torch.cat(entropy_S).mean().detach()), rel=1e-5)
    assert figures["value_loss"] == pytest.approx(float(torch.cat(error_S).square().mean().detach()), rel=1e-5)
    earned = torch.cat([rollout.reward_BH.sum(dim=1) for rollout in shards])
    assert figures["return"] == pytest.approx(float(earned.mean()), rel=1e-5)


def test_what_was_earned_before_a_position_by_hand() -> None:
    rollout = play(small_world(), small_agent(), users=1, replicas=2, seed=0)
    made = dataclasses.replace(
        rollout,
        is_clicked_BHK=torch.tensor([[[True, False, True], [False, False, False]], [[False, True, False]] * 2]),
        reward_BH=torch.tensor([[6.0, 0.0], [5.0, 7.0]]),
        is_active_BH=torch.tensor([[True, True], [True, False]]),
    )
    assert earned_before(made).tolist() == [[0.0, 3.0, 3.0], [0.0, 0.0, 0.0], [0.0, 0.0, 5.0]]


def test_ppo_stops_when_the_policy_has_moved_too_far() -> None:
    steps = {}
    for rate, limit in ((1e-4, 0.03), (3e-2, 0.03), (3e-2, 0.0)):
        agent = small_agent()
        config = dataclasses.replace(CONFIG, shards=1, estimator="ppo", ppo=PpoConfig(epochs=6, kl_limit=limit))
        optimizer = torch.optim.Adam(agent.model.parameters(), lr=rate)
        learning = learner_of(agent, config)
        learning.optimizer = optimizer
        rollout = play(small_world(), agent, users=16, replicas=4, seed=0)
        figures = learning.learn([rollout], entropy_weight=0.0)
        steps[rate, limit] = figures["steps"]
        assert 0.0 <= figures["clipped"] <= 1.0
    assert steps[1e-4, 0.03] == 6.0  # small steps: all epochs
    assert 1.0 <= steps[3e-2, 0.03] < 6.0
    assert steps[3e-2, 0.0] == 6.0  # no limit


def test_the_weight_of_entropy_moves_by_its_schedule() -> None:
    constant = dataclasses.replace(CONFIG, iterations=4, entropy_weight=0.8)
    assert [constant.entropy_at(step) for step in range(5)] == [0.8] * 5
    linear = dataclasses.replace(constant, entropy_end=0.0)
    assert [linear.entropy_at(step) for step in range(5)] == pytest.approx([0.8, 0.6, 0.4, 0.2, 0.0])
    cosine = dataclasses.replace(linear, entropy_schedule="cosine")
    half = 0.5**0.5
    expected = [0.8, 0.4 * (1 + half), 0.4, 0.4 * (1 - half), 0.0]
    assert [cosine.entropy_at(step) for step in range(5)] == pytest.approx(expected)


def test_training_ends_when_validation_gets_no_better(tmp_path: Path) -> None:
    still = dataclasses.replace(CONFIG, iterations=30, learning_rate=0.0, validate_every=2, patience=3)
    told: list[int] = []
    curves = train_policy(
        small_agent(), small_world(), still, seed=0, scratch=tmp_path,
        on_validation=lambda iteration, mean: told.append(iteration),
    )  # fmt: skip
    assert told == [iteration for iteration, _ in curves["validation_return"]] == [0, 2, 4, 6]


def cut_short(horizon: int, *, gamma: float) -> tuple[Lesson, torch.Tensor]:
    """A lesson of sessions that the horizon cut or the user ended, and the value of the state after them."""
    agent = small_agent()
    config = dataclasses.replace(UNCLIPPED, shards=1, gamma=gamma)
    torch.nn.init.constant_(agent.model.value_head.bias, 5.0)
    rollout = play(small_environment(horizon=horizon, budget=2.0), agent, users=40, replicas=1, seed=0)
    states = replay(agent.model, rollout)
    lessons, _ = learner_of(agent, config)._lessons([rollout], [states])
    return lessons[0], states.after_B.detach()


def test_gamma_0_learns_for_the_next_answer_alone() -> None:
    lesson, _ = cut_short(3, gamma=0.0)
    assert torch.equal(lesson.return_BH[:, :-1], lesson.rollout.reward_BH[:, :-1])


def test_what_lies_beyond_the_horizon_counts_and_what_lies_beyond_leaving_does_not() -> None:
    lesson, after_B = cut_short(3, gamma=0.9)
    cut_B = lesson.rollout.is_truncated_B
    assert 0 < int(cut_B.sum()) < len(cut_B)
    reward_BH = lesson.rollout.reward_BH
    own_B = reward_BH[:, 0] + 0.9 * reward_BH[:, 1] + 0.81 * reward_BH[:, 2]
    expected_B = own_B + 0.9**3 * after_B * cut_B
    torch.testing.assert_close(lesson.return_BH[:, 0], expected_B)
    assert float(after_B.abs().min()) > 1.0


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


@pytest.mark.parametrize(
    ("stop", "is_autoregressive", "estimator"),
    [
        (1, False, "reinforce"),
        (5, False, "reinforce"),
        (5, True, "reinforce"),
        (5, False, "pl_rank"),
        (5, True, "pl_rank"),
    ],
)
def test_a_killed_run_resumes_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int, is_autoregressive: bool, estimator: Any
) -> None:
    whole, resumed, broken = (small_agent(is_autoregressive=is_autoregressive) for _ in range(3))
    config = dataclasses.replace(CONFIG, estimator=estimator)
    curves = train_policy(whole, small_world(), config, seed=0, scratch=tmp_path / "whole")
    iterate, calls = training._Trainer._iterate, 0

    def killed(self: training._Trainer) -> dict[str, float]:
        nonlocal calls
        calls += 1
        if calls > stop:
            raise Killed
        return iterate(self)

    monkeypatch.setattr(training._Trainer, "_iterate", killed)
    with pytest.raises(Killed):
        train_policy(broken, small_world(), config, seed=0, scratch=tmp_path / "broken")
    monkeypatch.setattr(training._Trainer, "_iterate", iterate)
    assert train_policy(resumed, small_world(), config, seed=0, scratch=tmp_path / "broken") == curves
    for name, value in whole.networks().state_dict().items():
        assert torch.equal(value, resumed.networks().state_dict()[name]), name


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
