"""Estimator "pl_rank" in the trainer: the gradient that it takes, what it learns beside it, and where it works."""

import copy
import dataclasses
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import Tensor

from recolam.contracts.config import from_mapping, to_mapping
from recolam.errors import ConfigError
from recolam.policy import learner
from recolam.policy.agent import SlateAgent, admissible
from recolam.policy.config import PlRankConfig, PolicyTrainingConfig
from recolam.policy.gradient import advantages, discounted_returns
from recolam.policy.item_value_learning import ItemValueLearner
from recolam.policy.label_gradient import Form
from recolam.policy.learner import Learner
from recolam.policy.lesson import replay
from recolam.policy.pl_rank import conditional_pl_rank
from recolam.policy.returns import compare, greedy, uniform
from recolam.policy.rollout import play
from recolam.policy.stage import PolicyConfig
from recolam.policy.training import train_policy
from recolam.sequence.distributed import Processes
from recolam.tune.space import over
from tests.policy.small import small_agent, small_world
from tests.policy.test_restricted_agent import RULES, restricted

CONFIG = PolicyTrainingConfig(
    iterations=6, users=16, replicas=4, estimator="pl_rank", learning_rate=1e-2, validate_every=3,
    validation_users=64, checkpoint_every=2, gradient_clip=1e9,
)  # fmt: skip


def learner_of(agent: SlateAgent, config: PolicyTrainingConfig) -> Learner:
    optimizer = torch.optim.SGD(agent.model.parameters(), lr=0.0)
    reference = copy.deepcopy(agent.model).requires_grad_(False)
    values = ItemValueLearner(
        reference.item_table(), config.pl_rank, slate_size=3, gamma=config.gamma, shards=config.shards,
        processes=Processes(),
    )  # fmt: skip
    return Learner(
        agent.model, reference, optimizer, config, temperature=agent.temperature, processes=Processes(),
        constraints=agent.constraints, item_values=values,
    )  # fmt: skip


def randomised(values: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(5)
    for parameter in values.parameters():
        torch.nn.init.normal_(parameter, generator=generator)


def gradients(agent: SlateAgent) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in agent.model.named_parameters() if p.grad is not None}


def test_with_known_values_the_step_is_that_of_pl_rank_on_their_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks and shards add up to PL-Rank over all states, in units of the advantages' deviation."""
    agent, config = small_agent(), dataclasses.replace(CONFIG, shards=2, kl_weight=0.0)
    shards = [play(small_world(), agent, users=users, replicas=4, seed=users) for users in (12, 8)]
    learning = learner_of(agent, config)
    assert learning.item_values is not None
    values = learning.item_values.values
    randomised(values)
    values.measure(1.0, 0.0, 2.0)
    known = copy.deepcopy(values)
    monkeypatch.setattr(learner, "_BLOCK", 7)
    figures = learning.learn(shards, entropy_weight=0.0)
    assert {"item_value_loss", "click_loss"} <= figures.keys()
    found = gradients(agent)

    agent.model.zero_grad()
    surrogate, error_S, gain_S = torch.zeros(()), [], []
    for rollout in shards:
        states, active = replay(agent.model, rollout), rollout.is_active_BH
        score_SN = admissible(states.state_SD @ states.table_ND.T, states.seen_ST)
        estimate_SN = conditional_pl_rank(
            score_SN.detach(), rollout.slate_BHK[active], known.labels(states.state_SD), known.examination_K.detach()
        )
        surrogate = surrogate + (score_SN.masked_fill(score_SN == -torch.inf, 0.0) * estimate_SN).sum()
        after_B = (states.after_B * rollout.is_truncated_B).detach()
        return_BH = discounted_returns(rollout.reward_BH, gamma=config.gamma, after_B=after_B)
        gain_S.append(advantages(return_BH, states.value_BH.detach(), active, replicas=4)[active])
        error_S.append((states.value_BH - return_BH)[active])
    gain = torch.cat(gain_S)
    loss = -surrogate / gain.std() / len(gain) + config.value_weight * torch.cat(error_S).square().mean()
    loss.backward()
    for name, gradient in gradients(agent).items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-6)


def test_no_slate_is_judged_by_values_that_its_own_answer_has_moved() -> None:
    agent = small_agent()
    learning = learner_of(agent, dataclasses.replace(CONFIG, shards=1, kl_weight=0.0, value_weight=0.0))
    rollout = play(small_world(), agent, users=16, replicas=4, seed=0)
    learning.learn([rollout], entropy_weight=0.0)
    assert all(bool((gradient == 0).all()) for gradient in gradients(agent).values())  # values knew nothing yet
    learning.learn([rollout], entropy_weight=0.0)
    assert any(bool((gradient != 0).any()) for gradient in gradients(agent).values())


def test_clicks_and_values_are_learnt_from_rollouts() -> None:
    """With returns as targets, whose errors can be compared: the next state's values spread as they are learnt."""
    agent, config = small_agent(), dataclasses.replace(CONFIG, shards=1, pl_rank=PlRankConfig(trace=1.0))
    learning, losses = learner_of(agent, config), []
    for seed in range(12):  # the policy stays as it is
        figures = learning.learn(
            [play(small_world(), agent, users=40, replicas=2, seed=seed)], entropy_weight=0.0
        )  # fmt: skip
        losses.append([figures["item_value_loss"], figures["click_loss"]])
    first, last = torch.tensor(losses[:3]).mean(dim=0), torch.tensor(losses[-3:]).mean(dim=0)
    assert (last < 0.97 * first).all(), (first, last)


@pytest.mark.parametrize("form", get_args(Form))
@pytest.mark.parametrize(("is_constrained", "candidates"), [(True, 0), (False, 8), (True, 8)])
def test_it_works_among_candidates_and_under_constraints(
    tmp_path: Path, form: Form, is_constrained: bool, candidates: int
) -> None:
    agent = restricted(RULES if is_constrained else None, candidates=candidates)
    config = dataclasses.replace(CONFIG, iterations=3, pl_rank=PlRankConfig(form=form, correction=0.3, steps=2))
    curves = train_policy(agent, small_world(), config, seed=0, scratch=tmp_path)
    assert len(curves["click_loss"]) == 3
    assert curves["kl"][-1][1] > 0
    rollout = play(small_world(), agent, users=8, replicas=2, seed=1)
    if agent.constraints is not None:
        assert agent.constraints.are_kept(rollout.slate_BHK[rollout.is_active_BH]).all()


def test_item_values_belong_to_pl_rank_alone() -> None:
    agent = small_agent()
    with pytest.raises(ConfigError, match="'reinforce': item values belong to 'pl_rank' alone"):
        learner_of(agent, dataclasses.replace(CONFIG, estimator="reinforce"))
    with pytest.raises(ConfigError, match="pl_rank"):
        Learner(
            agent.model, agent.model, torch.optim.SGD(agent.model.parameters()), CONFIG, temperature=1.0,
            processes=Processes(),
        )  # fmt: skip


def test_what_a_slate_earns_by_being_shown_is_refused_without_a_correction() -> None:
    corrected = dataclasses.replace(CONFIG, pl_rank=PlRankConfig(correction=0.5))
    for settings, name in (
        ({"reward": {"response": 1.0, "fairness": 0.1}}, "reward 'fairness'"),
        ({"uncertainty_penalty": 1.0}, "uncertainty_penalty"),
    ):
        with pytest.raises(ConfigError, match=name + " is earned by what is shown"):
            PolicyConfig(training=CONFIG, **settings)  # type: ignore[arg-type]
        PolicyConfig(training=corrected, **settings)  # type: ignore[arg-type]
    PolicyConfig(training=CONFIG, reward={"response": 1.0, "diversity": 0.5})


def test_the_settings_can_be_searched() -> None:
    base = to_mapping(PolicyConfig())
    values = {"training.estimator": "pl_rank", "training.pl_rank.trace": 0.5, "training.pl_rank.steps": 3}
    found = from_mapping(PolicyConfig, over(base, values), where="policy").training
    assert (found.estimator, found.pl_rank) == ("pl_rank", PlRankConfig(trace=0.5, steps=3))


@pytest.mark.slow
def test_training_beats_the_untrained_policy(tmp_path: Path) -> None:
    world, agent, untrained = small_world(), small_agent(), small_agent()
    config = dataclasses.replace(CONFIG, iterations=60, gradient_clip=1.0)
    train_policy(agent, world, config, seed=0, scratch=tmp_path)
    table = compare(
        world,
        {"trained": greedy(agent, k=3), "untrained": greedy(untrained, k=3), "random": uniform(tokens=23, k=3)},
        users=300,
        seeds=range(1000, 1006),
    )
    assert table["trained"]["ci95"][0] > table["untrained"]["ci95"][1]
    assert table["trained"]["ci95"][0] > table["random"]["ci95"][1]
