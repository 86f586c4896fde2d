"""Constraints and candidates through the agent: what is shown, stored, differentiated, kept on disk and served."""

import copy
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from recolam.contracts.dataset import FIRST_ITEM
from recolam.contracts.protocols import Observation
from recolam.errors import ArtifactError
from recolam.evaluate.gate import check_agent
from recolam.policy import constrained, plackett_luce, two_stage
from recolam.policy.agent import SlateAgent, named_in
from recolam.policy.config import PolicyTrainingConfig
from recolam.policy.distribution import SlateDistribution, over_candidates, over_catalogue
from recolam.policy.gradient import advantages, discounted_returns, policy_gradient_loss
from recolam.policy.learner import Learner
from recolam.policy.lesson import replay
from recolam.policy.recommend import Recommender
from recolam.policy.rollout import Rollout, play
from recolam.policy.rules import ConstraintsConfig, NamedConstraints
from recolam.policy.training import train_policy
from recolam.sequence.distributed import Processes
from recolam.sequence.model import SequenceConfig, SequenceModel
from tests.policy.small import ITEMS, small_agent, small_world
from tests.policy.test_autoregressive import stirred

IDS = tuple(f"item-{index}" for index in range(ITEMS))
RULES = NamedConstraints(
    ConstraintsConfig(blocked=("item-3",), at_most_per_group=1, at_least_new=1, fixed={"1": "item-7"}),
    groups={"a": IDS[:6], "b": IDS[6:12], "c": IDS[12:18]},
    new=IDS[4:14],
)


def restricted(
    named: NamedConstraints | None = RULES, *, candidates: int = 0, seed: int = 0, is_autoregressive: bool = False
) -> SlateAgent:
    plain, told = small_agent(seed=seed, is_autoregressive=is_autoregressive), {}
    if named is not None:
        told["constraints"] = named.as_json()
    if candidates:
        told["candidates"] = candidates  # type: ignore[assignment]
    retriever = small_agent(seed=seed + 1).model.requires_grad_(False) if candidates else None
    return SlateAgent(
        plain.model, plain.temperature, plain.items, {**plain.settings, **told}, retriever=retriever,
        interaction=plain.interaction,
    )  # fmt: skip


def keeps(slate: list[str], named: NamedConstraints, history: set[str]) -> bool:
    """The definition by names, one constraint after the other, with nothing shared with the product's code."""
    asked = named.asked
    fixed = {int(place): item for place, item in asked.fixed.items() if int(place) < len(slate)}
    if len(set(slate)) < len(slate) or any(slate[place] != item for place, item in fixed.items()):
        return False
    if any(item in asked.blocked or (item in history and item not in fixed.values()) for item in slate):
        return False
    for name, members in named.groups.items():
        shown = sum(item in members for item in slate)
        if shown and name in asked.blocked_groups:
            return False
        if asked.at_most_per_group is not None and shown > asked.at_most_per_group:
            return False
    return sum(item in named.new for item in slate) >= asked.at_least_new


@dataclass(frozen=True)
class Case:
    agent: SlateAgent
    named: NamedConstraints
    histories: list[list[int]]
    k: int

    @property
    def seen(self) -> Observation:
        longest = max(1, *map(len, self.histories))
        padded = [[FIRST_ITEM + item for item in row] + [0] * (longest - len(row)) for row in self.histories]
        return Observation(torch.tensor(padded), torch.tensor([len(row) for row in self.histories]))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A random catalogue (scores, groups, new items), constraints, histories, and perhaps candidates."""
    items = draw(st.integers(6, 14))
    ids = tuple(f"i{row}" for row in range(items))
    of = draw(st.lists(st.integers(-1, 2), min_size=items, max_size=items))
    groups = {name: tuple(i for i, g in zip(ids, of, strict=True) if g == row) for row, name in enumerate("abc")}
    some = st.lists(st.sampled_from(ids), unique=True, max_size=3)
    fixed = draw(st.dictionaries(st.sampled_from("012"), st.sampled_from(ids), max_size=2))
    assume(len(set(fixed.values())) == len(fixed))
    gone = draw(st.lists(st.sampled_from("abc"), unique=True, max_size=1))
    asked = ConstraintsConfig(
        blocked=tuple(item for item in draw(some) if item not in fixed.values()),
        blocked_groups=tuple(name for name in gone if not set(groups[name]) & set(fixed.values())),
        at_most_per_group=draw(st.sampled_from([None, 1, 2])),
        at_least_new=draw(st.integers(0, 2)),
        fixed=fixed,
    )
    named = NamedConstraints(asked, groups, tuple(draw(st.lists(st.sampled_from(ids), unique=True, max_size=items))))
    torch.manual_seed(draw(st.integers(0, 9)))
    sizes = SequenceConfig(tokens=FIRST_ITEM + items, max_len=5, width=8, blocks=1, heads=2, dropout=0.0)
    model, retriever = SequenceModel(sizes).eval(), SequenceModel(sizes).eval()
    candidates = draw(st.sampled_from([0, 0, 8]))
    told = {"slate_size": 3, "constraints": named.as_json(), "candidates": candidates}
    interaction = draw(st.none() | st.integers(0, 9).map(lambda seed: stirred(width=8, scale=2.0, seed=seed).float()))
    agent = SlateAgent(model, 0.5, ids, told, retriever=retriever if candidates else None, interaction=interaction)
    rows = st.lists(st.lists(st.integers(0, items - 1), max_size=5), min_size=1, max_size=4)
    return Case(agent, named, draw(rows), draw(st.integers(1, 4)))


@settings(max_examples=150, deadline=None)
@given(case=cases())
def test_every_sampled_and_greedy_slate_keeps_the_constraints(case: Case) -> None:
    fixed = {place: item for place, item in case.named.asked.fixed.items() if int(place) < case.k}
    members = case.named.groups.values()
    assume(all(sum(item in group for item in fixed.values()) <= (case.named.asked.at_most_per_group or 9)
               for group in members))  # fmt: skip
    distribution = case.agent.distribution(case.seen)
    is_possible_B = distribution.is_possible(case.k)
    kept = [index for index, is_possible in enumerate(is_possible_B.tolist()) if is_possible]
    assume(kept)
    part, rules = distribution.rows(is_possible_B), case.agent.constraints
    assert rules is not None
    for seed in (None, 0, 1, 2):
        stream = None if seed is None else torch.Generator().manual_seed(seed)
        slate_BK = part.sample(case.k, stream)
        for index, slate in zip(kept, slate_BK.tolist(), strict=True):
            names = [case.agent.items[token - FIRST_ITEM] for token in slate]
            assert keeps(names, case.named, {case.agent.items[item] for item in case.histories[index]})
        assert rules.are_kept(slate_BK).all()
        log_prob_B = part.log_prob(slate_BK)
        assert torch.isfinite(log_prob_B).all()
        assert (log_prob_B <= 1e-5).all()
    if not bool(is_possible_B.all()):
        with pytest.raises(ValueError):  # noqa: PT011 - which constraint fails is another test's
            distribution.sample(case.k, None)


@settings(max_examples=60, deadline=None)
@given(case=cases(), data=st.data())
def test_slates_that_break_a_constraint_have_no_probability(case: Case, data: st.DataObject) -> None:
    tokens = st.permutations(range(FIRST_ITEM, FIRST_ITEM + len(case.agent.items)))
    slate = data.draw(tokens)[: case.k]
    try:
        log_prob_B = case.agent.distribution(case.seen).log_prob(torch.tensor(slate).expand(len(case.histories), -1))
    except ValueError:
        return  # more of a group are fixed than a slate may show
    names = [case.agent.items[token - FIRST_ITEM] for token in slate]
    for history, log_prob in zip(case.histories, log_prob_B.tolist(), strict=True):
        if not keeps(names, case.named, {case.agent.items[item] for item in history}):
            assert log_prob == -float("inf")


def test_the_probabilities_of_a_restricted_agent_s_slates_sum_to_1() -> None:
    case = Case(restricted(candidates=6), RULES, [[0, 7]], 2)
    every = torch.combinations(torch.arange(FIRST_ITEM, FIRST_ITEM + ITEMS), 2)
    slates = torch.cat([every, every.flip(1)])
    seen = Observation(case.seen.history_BT.expand(len(slates), -1), case.seen.length_B.expand(len(slates)))
    chance_A = case.agent.slate_log_prob(seen, slates).exp()
    assert float(chance_A.sum()) == pytest.approx(1.0, abs=1e-5)
    assert set(slates[chance_A > 0][:, 1].tolist()) == {FIRST_ITEM + 7}  # fixed, though the history has it
    assert (chance_A > 0).sum() < ITEMS - 2  # candidates are fewer than the catalogue


CONFIG = PolicyTrainingConfig(
    iterations=4, users=16, replicas=4, shards=1, learning_rate=1e-2, validate_every=2, validation_users=32,
    gradient_clip=1e9,
)  # fmt: skip
WAYS = [(RULES, 0), (None, 8), (RULES, 8)]


def learner_of(agent: SlateAgent) -> Learner:
    optimizer = torch.optim.SGD(agent.model.parameters(), lr=0.0)
    return Learner(
        agent.model, copy.deepcopy(agent.model), optimizer, CONFIG, temperature=agent.temperature,
        processes=Processes(), constraints=agent.constraints,
    )  # fmt: skip


def distributions(agent: SlateAgent, rollout: Rollout) -> tuple[SlateDistribution, Tensor]:
    """What every slate of a rollout was drawn from, read off its final histories; and the values."""
    states, active = replay(agent.model, rollout), rollout.is_active_BH
    if rollout.candidate_BHC is None:
        score_SN = states.state_SD @ states.table_ND.T / agent.temperature
        found = over_catalogue(score_SN, states.seen_ST, agent.constraints)
        if agent.interaction is not None:
            found = replace(found, interplay=agent.interaction.among(states.state_SD, states.table_ND))
        return found, states.value_BH
    found = over_candidates(
        states.state_SD, states.table_ND, rollout.candidate_BHC[active], temperature=agent.temperature,
        constraints=agent.constraints, interaction=agent.interaction,
    )  # fmt: skip
    return found, states.value_BH


@pytest.mark.parametrize("is_autoregressive", [False, True])
@pytest.mark.parametrize(("named", "candidates"), WAYS)
def test_a_trained_policy_s_slates_replay_with_the_probability_stored(
    tmp_path: Path, named: NamedConstraints | None, candidates: int, is_autoregressive: bool
) -> None:
    agent = restricted(named, candidates=candidates, is_autoregressive=is_autoregressive)
    curves = train_policy(agent, small_world(), CONFIG, seed=0, scratch=tmp_path)
    assert curves["kl"][-1][1] > 1e-4  # it has moved
    rollout = play(small_world(), agent, users=12, replicas=3, seed=5)
    active = rollout.is_active_BH
    slate_SK = rollout.slate_BHK[active]
    found, _ = distributions(agent, rollout)
    torch.testing.assert_close(found.log_prob(slate_SK), rollout.log_prob_BH[active], rtol=1e-4, atol=1e-4)
    assert (rollout.candidate_BHC is None) == (candidates == 0)
    if agent.constraints is not None:
        assert agent.constraints.are_kept(slate_SK).all()
        unconstrained = SlateDistribution(found.score_BM, found.candidate_BC).log_prob(slate_SK)
        assert (unconstrained - rollout.log_prob_BH[active]).abs().max() > 0.1


@pytest.mark.parametrize(("named", "candidates"), WAYS)
def test_what_is_differentiated_is_what_was_drawn_from(named: NamedConstraints | None, candidates: int) -> None:
    agent = restricted(named, candidates=candidates)
    rollout = play(small_world(), agent, users=12, replicas=4, seed=1)
    figures = learner_of(agent).learn([rollout], entropy_weight=0.1)
    found = {name: p.grad.clone() for name, p in agent.model.named_parameters() if p.grad is not None}

    agent.model.zero_grad()
    active = rollout.is_active_BH
    drawn, value_BH = distributions(agent, rollout)
    slate_SK, score_SM = rollout.slate_BHK[active], drawn.score_BM
    rules = agent.constraints
    if candidates:
        candidate_SC = drawn.candidate_BC
        assert candidate_SC is not None
        columns = two_stage.narrowed(rules, candidate_SC)
        log_prob_SK = constrained.position_log_probs(score_SM, columned(drawn, slate_SK), columns)
    else:
        assert rules is not None
        log_prob_SK, columns = constrained.position_log_probs(score_SM, slate_SK, rules), rules
    first_SM = constrained.conditional_log_probs(score_SM, columned(drawn, slate_SK), columns)[:, 0]
    after_B = (replay(agent.model, rollout).after_B * rollout.is_truncated_B).detach()
    return_BH = discounted_returns(rollout.reward_BH, gamma=CONFIG.gamma, after_B=after_B)
    gain_S = advantages(return_BH, value_BH.detach(), active, replicas=4)[active]
    loss = policy_gradient_loss(log_prob_SK, (gain_S / gain_S.std())[:, None].expand(-1, 3)) / len(gain_S)
    loss = loss + CONFIG.value_weight * (value_BH - return_BH)[active].square().mean()
    loss = loss - 0.1 * plackett_luce.first_pick_entropy(first_SM).mean()
    loss.backward()
    for name, parameter in agent.model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(found[name], parameter.grad, rtol=1e-3, atol=1e-6)
    assert 0.0 < figures["entropy"] < 3.0


def columned(drawn: SlateDistribution, slate_SK: Tensor) -> Tensor:
    if drawn.candidate_BC is None:
        return slate_SK
    return (slate_SK[..., None] == drawn.candidate_BC[:, None]).long().argmax(dim=2)


def test_entropy_is_that_of_the_first_position_that_is_free() -> None:
    """Where the first position is fixed, an entropy of 0 there would be taken for a collapse."""
    rules = replace(RULES, asked=replace(RULES.asked, fixed={"0": "item-7"}))
    agent = restricted(rules)
    found = agent.distribution(Observation(torch.tensor([[3]]), torch.tensor([1])))
    first_1N = found.first_scores(3)
    open_ids = set(torch.isfinite(first_1N)[0].nonzero()[:, 0].sub(FIRST_ITEM).tolist())
    # fixed: item-7 of group b, new. Open: what is not of b, not blocked, not had
    assert open_ids == {1, 2, 4, 5, *range(12, 20)}
    assert learner_of(agent).learn([play(small_world(), agent, users=8, replicas=2, seed=0)], entropy_weight=0.0)[
        "entropy"
    ] > 1.0  # fmt: skip


def test_an_unrestricted_agent_is_plain_plackett_luce_to_the_bit() -> None:
    agent, seen = small_agent(), Observation(torch.tensor([[4, 5, 0], [9, 9, 9]]), torch.tensor([2, 3]))
    score_BN = agent.slate_scores(seen)
    for seed in (None, 4):
        streams = [None if seed is None else torch.Generator().manual_seed(seed) for _ in range(2)]
        slate_BK = agent.slates(seen, k=4, generator=streams[0])
        assert torch.equal(slate_BK, plackett_luce.sample(score_BN, 4, streams[1]))
    assert torch.equal(agent.slate_log_prob(seen, slate_BK), plackett_luce.log_prob(score_BN, slate_BK))


@pytest.mark.parametrize("is_autoregressive", [False, True])
@pytest.mark.parametrize(("named", "candidates"), WAYS)
def test_restrictions_are_kept_on_disk(
    tmp_path: Path, named: NamedConstraints | None, candidates: int, is_autoregressive: bool
) -> None:
    agent = restricted(named, candidates=candidates)
    if is_autoregressive:
        agent.interaction = stirred(width=16).float()
    agent.save(tmp_path, titles=[""] * ITEMS)
    loaded = SlateAgent.load(tmp_path)
    assert named_in(loaded.settings) == named
    assert loaded.decoder == agent.decoder == loaded.settings["decoder"]
    seen = Observation(torch.tensor([[4, 5, 0], [9, 9, 9]]), torch.tensor([2, 3]))
    ours, theirs = (one.slates(seen, k=3, generator=torch.Generator().manual_seed(0)) for one in (agent, loaded))
    assert torch.equal(ours, theirs)
    assert torch.equal(agent.slate_log_prob(seen, ours), loaded.slate_log_prob(seen, ours))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"asked": {"blocked": ["nobody"]}}, "constraints on 'nobody'"),
        ({"asked": {"blocked_groups": ["nobody's"]}}, "nobody's"),
        ({"asked": {"at_least_new": "3"}}, "not of type int"),
        ({"asked": {"fixed": {"-1": "item-1"}}}, "not a position"),
        ({"rules": []}, "unknown key"),
        ("all of them", "not a policy"),
    ],
)
def test_broken_restrictions_on_disk_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    restricted().save(tmp_path, titles=[""] * ITEMS)
    told = json.loads((tmp_path / "policy.json").read_text())
    told["constraints"] = {**told["constraints"], **change} if isinstance(change, dict) else change
    (tmp_path / "policy.json").write_text(json.dumps(told))
    with pytest.raises(ArtifactError, match=message):
        SlateAgent.load(tmp_path)


@pytest.mark.parametrize("candidates", [0, 10])
def test_recommendations_keep_the_constraints_and_say_where_they_cannot(candidates: int) -> None:
    server = Recommender(restricted(candidates=candidates))
    histories = [["item-0"], ["item-7", "item-0"], [], ["item-1"], ["item-4"]]
    exclude = [[], [], ["item-7"], list(IDS[4:7]) + list(IDS[8:14]), ["item-5", "nobody knows"]]
    answers = server.recommend(histories, k=[3, 3, 3, 3, 1], exclude=exclude)
    for row in (0, 1, 4):
        assert answers[row].problem == ""
        assert len(answers[row].slate) == len(answers[row].scores) == (1 if row == 4 else 3)
        assert keeps(answers[row].slate, RULES, set(histories[row]) | set(exclude[row]))
    assert (answers[2].slate, answers[2].problem) == ([], "the item fixed at position 1 is blocked or barred")
    assert answers[3].slate[1] == "item-7"  # new itself: the quota is kept although all others are excluded
    two_new = replace(RULES, asked=replace(RULES.asked, at_least_new=2))
    refused = Recommender(restricted(two_new, candidates=candidates)).recommend(histories, k=3, exclude=exclude)[3]
    assert refused.slate == refused.scores == []
    assert refused.problem.startswith("at least 2 new items in a slate of 3: 1 needed beside 1 fixed, 0 to be had")


def test_the_gate_s_checks_include_the_constraints() -> None:
    seen = Observation(torch.tensor([[4, FIRST_ITEM + 7], [9, 10]]), torch.tensor([2, 2]))

    class Breaks(SlateAgent):
        def slates(self, observation: Observation, *, k: int, generator: torch.Generator | None) -> Tensor:
            return plackett_luce.sample(self.slate_scores(observation), k, generator)

    for kind, is_valid in ((SlateAgent, True), (Breaks, False)):
        honest = restricted()
        agent = kind(honest.model, 1.0, honest.items, honest.settings)
        told = check_agent(agent, seen, k=3, tokens=FIRST_ITEM + ITEMS, generator=torch.Generator().manual_seed(0))
        assert told == {"slates_valid": is_valid, "finite": True}
