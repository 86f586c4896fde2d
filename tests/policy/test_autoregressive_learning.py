"""Autoregressive slates through the learner: its gradient by enumeration, and a world in which items interact.

Shape legend: A all ordered slates, B sessions, H steps, T history, K slate, N token ids.
"""

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from recolam.contracts.dataset import FIRST_ITEM
from recolam.contracts.protocols import Observation, StepResult
from recolam.errors import ArtifactError
from recolam.evaluate.gate import check_agent
from recolam.policy.agent import SlateAgent
from recolam.policy.config import PolicyTrainingConfig
from recolam.policy.interaction import Interaction
from recolam.policy.learner import Learner
from recolam.policy.recommend import Recommender
from recolam.policy.returns import compare, greedy, sampled
from recolam.policy.rollout import Rollout, play
from recolam.policy.training import train_policy
from recolam.sequence.distributed import Processes
from recolam.sequence.model import SequenceConfig, SequenceModel
from recolam.world.runtime import Value
from tests.policy.small import ITEMS, small_agent, small_world
from tests.policy.test_autoregressive import stirred

BARE = PolicyTrainingConfig(
    users=120, replicas=1, shards=1, value_weight=0.0, entropy_weight=0.0, kl_weight=0.0, gradient_clip=1e9
)


@pytest.mark.parametrize("estimator", ["reinforce", "ppo"])
def test_the_learner_s_gradient_is_that_of_the_expected_reward(estimator: Any) -> None:
    """Every slate once, paid with its reward times its probability: the sum of the estimates is the expectation."""
    slates = list(itertools.permutations(range(FIRST_ITEM, FIRST_ITEM + 6), 3))
    slate_AK, agent = torch.tensor(slates), small_agent(tokens=FIRST_ITEM + 6, is_autoregressive=True)
    agent.interaction = stirred(width=16).float()
    torch.nn.init.zeros_(agent.model.value_head.bias)
    seen = Observation(torch.zeros(120, 1, dtype=torch.int64), torch.zeros(120, dtype=torch.int64))
    chance_A = agent.slate_log_prob(seen, slate_AK).exp()
    assert float(chance_A.sum()) == pytest.approx(1.0, abs=1e-5)
    reward_A = torch.rand(120, generator=torch.Generator().manual_seed(0))
    paid_A = 120 * chance_A * reward_A
    rollout = Rollout(
        history_BT=seen.history_BT, length_BH=seen.length_B[:, None], slate_BHK=slate_AK[:, None],
        is_clicked_BHK=torch.zeros(120, 1, 3, dtype=torch.bool), reward_BH=paid_A[:, None],
        log_prob_BH=chance_A.log()[:, None], is_active_BH=torch.ones(120, 1, dtype=torch.bool),
        end_length_B=seen.length_B, is_truncated_B=torch.zeros(120, dtype=torch.bool),
    )  # fmt: skip
    parameters = [*agent.model.parameters(), *agent.interaction.parameters()]
    learner = Learner(
        agent.model, small_agent(tokens=FIRST_ITEM + 6).model, torch.optim.SGD(parameters, lr=0.0),
        dataclasses.replace(BARE, estimator=estimator), temperature=1.0, processes=Processes(),
        interaction=agent.interaction,
    )  # fmt: skip
    learner.learn([rollout], entropy_weight=0.0)
    ours = [None if parameter.grad is None else parameter.grad.clone() for parameter in parameters]

    state_D, table_ND = agent.model.last_state(*dataclasses.astuple(seen))[0], agent.model.item_table()
    found = agent._over(state_D.expand(120, -1), table_ND, seen.history_BT, None)
    expected = (found.log_prob(slate_AK).exp() * reward_A).sum()  # the probability differentiated, not its logarithm
    exact = torch.autograd.grad(-expected / paid_A.std(), parameters, allow_unused=True)
    for mine, theirs in zip(ours, exact, strict=True):
        if theirs is not None and mine is not None:
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)
    assert max(float(gradient.abs().max()) for gradient in exact[-7:] if gradient is not None) > 1e-2


TOPICS, EACH = 6, 6


class Saturating:
    """Users who like three of six topics and click on the first item of each in a slate: a second one is nothing new.

    A session begins with an item of each liked topic; what was clicked joins the history.
    """

    users, horizon, slate_size, tokens = None, 4, 3, FIRST_ITEM + TOPICS * EACH

    def reset(self, *, users: int, seed: int) -> Observation:
        generator = torch.Generator().manual_seed(seed)
        topic_BK = torch.rand(users, TOPICS, generator=generator).argsort(dim=1)[:, :3]
        own_BK = torch.randint(EACH, (users, 3), generator=generator)
        self._topic_BK, self._step = topic_BK, 0
        self._history_BT = torch.zeros(users, 20, dtype=torch.int64)
        self._history_BT[:, :3] = FIRST_ITEM + topic_BK * EACH + own_BK
        self._length_B = torch.full((users,), 3)
        return self._observation

    def replicate(self, replicas: int) -> Observation:
        for name in ("_topic_BK", "_history_BT", "_length_B"):
            setattr(self, name, getattr(self, name).repeat_interleave(replicas, dim=0))
        return self._observation

    def step(self, slate_BK: Tensor) -> StepResult:
        topic_BK = (slate_BK - FIRST_ITEM) // EACH
        is_liked_BK = (topic_BK[:, :, None] == self._topic_BK[:, None]).any(dim=2)
        is_old_BK = (topic_BK[:, :, None] == topic_BK[:, None]).tril(-1).any(dim=2)
        is_clicked_BK = is_liked_BK & ~is_old_BK
        self._history_BT = self._history_BT.clone()
        for place in range(3):
            rows = is_clicked_BK[:, place].nonzero()[:, 0]
            self._history_BT[rows, self._length_B[rows]] = slate_BK[rows, place]
            self._length_B = self._length_B + is_clicked_BK[:, place]
        self._step += 1
        nobody_B = torch.zeros(len(slate_BK), dtype=torch.bool)
        return StepResult(
            self._observation, is_clicked_BK.long().argmax(dim=1), is_clicked_BK, is_clicked_BK.sum(dim=1).float(),
            nobody_B, ~nobody_B & (self._step == self.horizon),
        )  # fmt: skip

    @property
    def state(self) -> Value:
        return Value(is_active=torch.full((len(self._length_B),), self._step < self.horizon))

    @property
    def _observation(self) -> Observation:
        return Observation(self._history_BT, self._length_B)


def beginner(*, is_autoregressive: bool) -> SlateAgent:
    """Knows the topics, as a pretrained model does: items of one are alike but for a little."""
    torch.manual_seed(1)
    sizes = SequenceConfig(tokens=Saturating.tokens, max_len=20, width=16, blocks=1, heads=2, dropout=0.0)
    model = SequenceModel(sizes).eval()
    with torch.no_grad():
        topic_ZD = torch.randn(TOPICS, 16) * 0.3
        model.item_vectors.weight[FIRST_ITEM:] = topic_ZD.repeat_interleave(EACH, dim=0)
        model.item_vectors.weight.add_(torch.randn_like(model.item_vectors.weight) * 0.03)
    items = tuple(f"item-{index}" for index in range(TOPICS * EACH))
    return SlateAgent(model, 1.0, items, {"slate_size": 3}, interaction=Interaction(16) if is_autoregressive else None)


@pytest.mark.slow
def test_where_items_interact_it_earns_more_at_the_same_budget(tmp_path: Path) -> None:
    config = PolicyTrainingConfig(
        iterations=100, users=32, replicas=4, shards=1, learning_rate=1e-2, validate_every=20, validation_users=64,
        validation_seeds=1,
    )  # fmt: skip
    policies = {}
    for name, is_autoregressive in (("flat", False), ("autoregressive", True)):
        agent = beginner(is_autoregressive=is_autoregressive)
        train_policy(agent, Saturating(), config, seed=0, scratch=tmp_path / name)
        policies |= {name: greedy(agent, k=3), f"{name}, sampled": sampled(agent, k=3)}
    table = compare(Saturating(), policies, users=200, seeds=range(100, 106))
    assert table["autoregressive"]["ci95"][0] > table["flat"]["ci95"][1]
    assert table["autoregressive, sampled"]["ci95"][0] > table["flat, sampled"]["ci95"][1]


def test_sessions_leave_no_graph_behind() -> None:
    rollout = play(small_world(), small_agent(is_autoregressive=True), users=4, replicas=2, seed=0)
    assert not rollout.log_prob_BH.requires_grad


def test_training_starts_as_plackett_luce_and_moves_the_interaction(tmp_path: Path) -> None:
    config = PolicyTrainingConfig(iterations=1, users=8, replicas=4, validate_every=1, validation_users=16)
    flat, ours = small_agent(), small_agent(is_autoregressive=True)
    for agent in (flat, ours):  # without a history all scores would tie
        torch.nn.init.normal_(agent.model.start, generator=torch.Generator().manual_seed(0))
    curves = [
        train_policy(agent, small_world(), config, seed=0, scratch=tmp_path / name)
        for name, agent in (("flat", flat), ("ours", ours))
    ]
    for name in ("return", "entropy", "kl", "value_loss"):
        assert curves[0][name][0][1] == pytest.approx(curves[1][name][0][1], rel=1e-5, abs=1e-6)
    assert curves[0]["validation_return"][0] == curves[1]["validation_return"][0]
    learner = Learner(
        ours.model, flat.model, torch.optim.Adam(ours.networks().parameters(), lr=1e-2), config, temperature=1.0,
        processes=Processes(), interaction=ours.interaction,
    )  # fmt: skip
    shards = [play(small_world(), ours, users=2, replicas=4, seed=seed) for seed in range(4)]
    learner.learn(shards, entropy_weight=0.0)
    assert ours.interaction is not None
    assert float(ours.interaction.push.weight.detach().abs().max()) > 1e-3


def test_what_is_served_is_what_was_saved(tmp_path: Path) -> None:
    agent = small_agent()
    agent.interaction = stirred(width=16, scale=2.0).float()
    agent.save(tmp_path, titles=[""] * ITEMS)
    server, flat = Recommender.load(tmp_path), Recommender(small_agent())
    histories = [[], ["item-3"], ["item-3", "item-9"]]
    assert [one.slate for one in server.recommend(histories, k=5)] != [
        one.slate for one in flat.recommend(histories, k=5)
    ]
    for seed in (None, 7):
        answers = server.recommend(histories, k=[5, 1, 25], seeds=[seed] * 3)
        for answer, history in zip(answers, histories, strict=True):
            tokens = torch.tensor([[FIRST_ITEM + agent.items.index(item) for item in answer.slate]])
            seen = [FIRST_ITEM + agent.items.index(item) for item in history] or [0]
            log_prob = float(
                agent.slate_log_prob(Observation(torch.tensor([seen]), torch.tensor([len(history)])), tokens)
            )
            assert answer.log_propensity == pytest.approx(0.0 if seed is None else log_prob, abs=1e-4)
            assert len(answer.scores) == len(answer.slate) == len(set(answer.slate))
        assert [len(answer.slate) for answer in answers] == [5, 1, ITEMS - 2]
    told = check_agent(
        SlateAgent.load(tmp_path), Observation(torch.tensor([[4, 5]]), torch.tensor([2])), k=3,
        tokens=FIRST_ITEM + ITEMS, generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert told == {"slates_valid": True, "finite": True}


def test_a_policy_of_another_decoder_is_refused(tmp_path: Path) -> None:
    small_agent().save(tmp_path, titles=[""] * ITEMS)
    told = json.loads((tmp_path / "policy.json").read_text())
    assert told["decoder"] == "plackett_luce"
    for decoder, message in (("beam", "'beam' is not one of plackett_luce"), ("autoregressive", "no interaction")):
        (tmp_path / "policy.json").write_text(json.dumps({**told, "decoder": decoder}))
        with pytest.raises(ArtifactError, match=message):
            SlateAgent.load(tmp_path)
