"""Constraints against brute force: every ordered slate of small random catalogues is judged by the definition."""

import itertools
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from recolam.errors import ConfigError
from recolam.policy import constrained, plackett_luce
from recolam.policy.constraints import OpenItems, SlateConstraints
from recolam.policy.critic import critic_loss
from recolam.policy.gradient import policy_gradient_loss
from recolam.policy.slate_weights import reward_to_go


@dataclass(frozen=True)
class Case:
    score: tuple[float, ...]
    k: int
    constraints: SlateConstraints

    @property
    def score_1N(self) -> Tensor:
        return torch.tensor([self.score], dtype=torch.float64)

    def keeps(self, slate: tuple[int, ...]) -> bool:
        """The definition, one constraint after the other, with nothing shared with the product's code."""
        rules = self.constraints
        blocked = rules.is_blocked.tolist() if rules.is_blocked is not None else [False] * len(self.score)
        if any(blocked[item] or self.score[item] == -float("inf") for item in slate):
            return False
        if rules.group is not None:
            groups = [int(rules.group[item]) for item in slate if rules.group[item] >= 0]
            if any(groups.count(group) > rules.at_most for group in groups):  # type: ignore[operator]
                return False
        if rules.is_new is not None and sum(bool(rules.is_new[item]) for item in slate) < rules.at_least_new:
            return False
        at = dict(rules.fixed)
        return all(slate[position] == item for position, item in at.items())

    def slates(self) -> list[tuple[int, ...]]:
        return [slate for slate in itertools.permutations(range(len(self.score)), self.k) if self.keeps(slate)]


def per_item(items: int, values: st.SearchStrategy) -> st.SearchStrategy[Tensor]:
    return st.lists(values, min_size=items, max_size=items).map(torch.tensor)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Any mixture of constraints, blocked, fixed and barred items."""
    items = draw(st.integers(2, 6))
    k = draw(st.integers(1, min(4, items)))
    score_N = draw(per_item(items, st.sampled_from([-2.0, -0.5, 0.0, 0.3, 1.0, 2.5, 0.7, -torch.inf])))
    group_N = draw(st.one_of(*[per_item(items, st.integers(-1, 2))] * 3, st.none()))
    is_new_N = draw(st.one_of(*[per_item(items, st.booleans())] * 3, st.none()))
    places = draw(st.one_of(st.just([]), st.lists(st.integers(0, k - 1), unique=True, max_size=2)))
    shown = draw(st.lists(st.integers(0, items - 1), unique=True, min_size=len(places), max_size=len(places)))
    return Case(tuple(score_N.tolist()), k, SlateConstraints(
        is_blocked=draw(st.none() | per_item(items, st.sampled_from([False, False, False, True]))),
        group=group_N,
        at_most=None if group_N is None else draw(st.sampled_from([1, 1, 1, 2, 3, 0])),
        is_new=is_new_N,
        at_least_new=0 if is_new_N is None else draw(st.integers(0, k)),
        fixed=dict(zip(places, shown, strict=True)),
    ))  # fmt: skip


@st.composite
def tight_cases(draw: st.DrawFn) -> Case:
    """A quota that the caps just allow, in a slate with room for more: here showing an old item may close the rest."""
    items, cap = draw(st.integers(4, 6)), draw(st.integers(1, 2))
    group_N = draw(per_item(items, st.integers(-1, 1)))
    is_new_N = draw(per_item(items, st.booleans()))
    in_group = [int((is_new_N & (group_N == group)).sum()) for group in (-1, 0, 1)]
    most = in_group[0] + min(cap, in_group[1]) + min(cap, in_group[2])
    k = min(4, most + 1)
    return Case((0.0, 1.0, -0.5, 0.7, 0.2, 0.4)[:items], k, SlateConstraints(
        None, group_N, cap, is_new_N, min(most, k)
    ))  # fmt: skip


# 2 new items, one a group: showing old item 1 would take the room of new item 0
TIGHT = Case(
    (0.0, 1.0, 0.5, 0.2, 0.1), 3,
    SlateConstraints(None, torch.tensor([0, 0, 1, 1, -1]), 1, torch.tensor([True, False, True, False, False]), 2),
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(case=tight_cases() | cases())
@example(case=TIGHT)
def test_open_items_are_exactly_those_that_a_whole_slate_begins_with(case: Case) -> None:
    slates = case.slates()
    score_1N, k, constraints = case.score_1N, case.k, case.constraints
    if not slates:
        with pytest.raises(ValueError, match=r"slate|fixed|group"):
            constrained.sample(score_1N, k, constraints, torch.Generator().manual_seed(0))
        return
    slate_AK = torch.tensor(slates)
    score_AN = score_1N.expand(len(slates), -1)
    log_policy_AKN = constrained.conditional_log_probs(score_AN, slate_AK, constraints)
    begins = {slate[:size] for slate in slates for size in range(1, k + 1)}
    expected_AKN = torch.tensor([
        [[(*slate[:position], item) in begins for item in range(len(case.score))] for position in range(k)]
        for slate in slates
    ])  # fmt: skip
    assert torch.equal(torch.isfinite(log_policy_AKN), expected_AKN)
    chance_A = constrained.log_prob(score_AN, slate_AK, constraints).exp()
    assert float(chance_A.sum()) == pytest.approx(1.0, abs=1e-9)
    shown_AK = log_policy_AKN.gather(2, slate_AK[..., None])[..., 0]
    torch.testing.assert_close(constrained.position_log_probs(score_AN, slate_AK, constraints), shown_AK)


@settings(max_examples=200, deadline=None)
@given(case=tight_cases() | cases(), seed=st.integers(0, 10**6))
def test_every_sampled_and_every_greedy_slate_keeps_the_constraints(case: Case, seed: int) -> None:
    if not case.slates():
        return
    many = case.score_1N.expand(20, -1)
    drawn = constrained.sample(many, case.k, case.constraints, torch.Generator().manual_seed(seed))
    greedy = constrained.sample(many[:1], case.k, case.constraints, None)
    for slate in torch.cat([drawn, greedy]).tolist():
        assert len(set(slate)) == case.k
        assert case.keeps(tuple(slate))


@settings(max_examples=100, deadline=None)
@given(case=tight_cases() | cases())
def test_slates_that_break_a_constraint_have_probability_zero(case: Case) -> None:
    allowed = set(case.slates())
    if not allowed:
        return
    every = torch.tensor(list(itertools.permutations(range(len(case.score)), case.k)))
    log_prob_A = constrained.log_prob(case.score_1N.expand(len(every), -1), every, case.constraints)
    assert torch.isfinite(log_prob_A).tolist() == [tuple(slate) in allowed for slate in every.tolist()]


def test_thousands_of_items_many_rows_at_once() -> None:
    generator = torch.Generator().manual_seed(0)
    score_BN = torch.randn(40, 3000, generator=generator)
    group_N = torch.randint(-1, 25, (3000,), generator=generator)
    is_new_BN = torch.rand(40, 3000, generator=generator) < 0.01
    is_blocked_BN = torch.rand(40, 3000, generator=generator) < 0.5
    is_blocked_BN[:, [7, 11]] = False
    rules = SlateConstraints(is_blocked_BN, group_N, 2, is_new_BN, 4, {0: 7, 9: 11})
    for source in (generator, None):
        slate_BK = constrained.sample(score_BN, 10, rules, source)
        assert not is_blocked_BN.gather(1, slate_BK).any()
        assert (is_new_BN.gather(1, slate_BK).sum(dim=1) >= 4).all()
        assert slate_BK[:, 0].eq(7).all()
        assert slate_BK[:, 9].eq(11).all()
        for row in slate_BK.tolist():
            groups = [int(group_N[item]) for item in row if group_N[item] >= 0]
            assert len(set(row)) == 10
            assert max(groups.count(group) for group in groups) <= 2
        assert torch.isfinite(constrained.log_prob(score_BN, slate_BK, rules)).all()


GROUP_N = torch.tensor([0, 0, 1, 1, -1, 2])
RULES = SlateConstraints(None, GROUP_N, 1, torch.tensor([False, True, False, True, False, False]), 1, {1: 4})
CASE = Case((0.5, -0.3, 1.0, 0.2, 0.1, 1.5), 3, RULES)


def test_samples_follow_the_log_probability() -> None:
    slates, draws = CASE.slates(), 60_000
    slate_AK = torch.tensor(slates)
    expected_A = draws * constrained.log_prob(CASE.score_1N.expand(len(slates), -1), slate_AK, RULES).exp()
    drawn = constrained.sample(CASE.score_1N.expand(draws, -1), 3, RULES, torch.Generator().manual_seed(0))
    code = torch.tensor([36, 6, 1])
    counts = torch.bincount(drawn @ code, minlength=216)[slate_AK @ code]
    assert len(slates) == 10
    assert float(((counts - expected_A) ** 2 / expected_A).sum()) < 27.9  # 99.9 % quantile, 9 degrees of freedom
    plain_A = plackett_luce.log_prob(CASE.score_1N.expand(len(slates), -1), slate_AK).exp()
    conditioned_A = draws * plain_A / plain_A.sum()  # what filtering finished slates would give
    assert float(((counts - conditioned_A) ** 2 / conditioned_A).sum()) > 27.9


def test_gradients_through_the_log_probability_are_exact() -> None:
    """Rewards to go and a critic, whose exactness rests on every position being normalised over its open items."""
    slate_AK = torch.tensor(CASE.slates())
    label_N = torch.tensor([1.0, 3.0, 0.5, 2.0, 4.0, 0.0], dtype=torch.float64)
    reward_AK = label_N[slate_AK] * torch.tensor([1.0, 0.5, 0.25], dtype=torch.float64)
    reward_AK[:, 2] += reward_AK[:, 0] * reward_AK[:, 2]  # the prefix matters
    leaf_1N = CASE.score_1N.requires_grad_()
    score_AN = leaf_1N.expand(len(slate_AK), -1)
    chance_A = constrained.log_prob(score_AN, slate_AK, RULES).exp()
    (exact,) = torch.autograd.grad((chance_A * reward_AK.sum(dim=1)).sum(), leaf_1N, retain_graph=True)

    def expected(log_prob_AK: Tensor) -> Tensor:
        weight_AK = reward_to_go(reward_AK) * chance_A.detach()[:, None]
        return -torch.autograd.grad(policy_gradient_loss(log_prob_AK, weight_AK), leaf_1N, retain_graph=True)[0]

    torch.testing.assert_close(expected(constrained.position_log_probs(score_AN, slate_AK, RULES)), exact)
    unconstrained = expected(plackett_luce.position_log_probs(score_AN, slate_AK))
    assert (unconstrained - exact).abs().max() > 0.01
    log_policy_AKN = constrained.conditional_log_probs(score_AN, slate_AK, RULES)
    critic_AKN = torch.randn(log_policy_AKN.shape[2], generator=torch.Generator().manual_seed(0)).expand(3, -1)
    loss = torch.zeros((), dtype=torch.float64)
    for row, chance in enumerate(chance_A.detach()):
        part = slice(row, row + 1)
        to_go = reward_to_go(reward_AK[part])
        loss = loss + chance * critic_loss(log_policy_AKN[part], slate_AK[part], to_go, critic_AKN[None].double())
    torch.testing.assert_close(-torch.autograd.grad(loss, leaf_1N)[0], exact)


def test_without_constraints_it_is_plain_plackett_luce_to_the_bit() -> None:
    score_BN = torch.randn(200, 50, generator=torch.Generator().manual_seed(0))
    vacuous = SlateConstraints(group=torch.zeros(50, dtype=torch.int64), at_most=50)
    for rules in (SlateConstraints(), vacuous):
        for seed in (3, None):
            source = [None if seed is None else torch.Generator().manual_seed(seed) for _ in range(2)]
            plain_BK = plackett_luce.sample(score_BN, 6, source[0])
            assert torch.equal(constrained.sample(score_BN, 6, rules, source[1]), plain_BK)
    plain_B = plackett_luce.log_prob(score_BN, plain_BK)
    assert torch.equal(constrained.log_prob(score_BN, plain_BK, SlateConstraints()), plain_B)
    torch.testing.assert_close(constrained.log_prob(score_BN, plain_BK, vacuous), plain_B)


def test_blocking_bars_and_scores_of_broken_slates_carry_no_nan() -> None:
    rules = SlateConstraints(is_blocked=torch.tensor([False, True, False, False]))
    score_BN = torch.tensor([[0.0, 1.0, 2.0, 0.5]]).expand(2, -1).clone().requires_grad_()
    log_prob_B = constrained.log_prob(score_BN, torch.tensor([[1, 2], [0, 2]]), rules)
    assert torch.isneginf(log_prob_B[0])
    assert torch.isfinite(log_prob_B[1])
    log_prob_B[1].backward()
    assert torch.isfinite(score_BN.grad).all()  # type: ignore[arg-type]
    capped = replace(rules, group=torch.tensor([0, 0, 0, 1]), at_most=1)
    log_prob_B = constrained.log_prob(score_BN, torch.tensor([[0, 2], [3, 2]]), capped)
    assert torch.isfinite(log_prob_B).tolist() == [False, True]


ITEMS_6 = torch.zeros(2, 6)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"group": GROUP_N}, "at most None"),
        ({"group": GROUP_N, "at_most": -1}, "at most -1"),
        ({"group": GROUP_N - 1, "at_most": 1}, "group -2"),
        ({"at_least_new": 2}, "at least 2 new items"),
        ({"fixed": {0: 3, 1: 3}}, "an item twice"),
        ({"fixed": {4: 3}}, "item 3 fixed at position 4: slates have 4 positions"),
        ({"fixed": {0: 9}}, "item 9 fixed at position 0"),
        ({"fixed": {0: 5}, "is_blocked": torch.arange(6) == 5}, "row 0: the item fixed at position 0 is blocked"),
        ({"fixed": {0: 0, 1: 1}, "group": GROUP_N, "at_most": 1}, "at most 1 items per group: more of group 0"),
        (
            {"is_new": torch.arange(6) < 2, "at_least_new": 3},
            "row 0: at least 3 new items .* 4: 3 needed, 2 to be had",
        ),
        (
            {"is_new": torch.arange(6) < 2, "at_least_new": 2, "group": GROUP_N, "at_most": 1},
            "at least 2 new items .* 1 to be had under at most 1 items per group",
        ),
        (
            {"is_new": torch.arange(6) < 3, "at_least_new": 3, "fixed": {0: 3, 1: 4}},
            "3 needed beside 2 fixed, 2 to be had",
        ),
        (
            {"is_blocked": torch.arange(6) > 2, "fixed": {0: 0}},
            "row 0: a slate of 4 items: 2 beside 1 fixed",
        ),
        ({"group": torch.zeros(6, dtype=torch.int64), "at_most": 3}, "3 admissible under at most 3"),
    ],
)
def test_constraints_that_cannot_be_kept_are_named(rules: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        constrained.sample(ITEMS_6, 4, SlateConstraints(**rules), torch.Generator().manual_seed(0))


def test_what_no_scores_could_repair_is_a_wrong_setting() -> None:
    with pytest.raises(ConfigError, match="group 0"):
        OpenItems(SlateConstraints(None, GROUP_N, 1, None, 0, {0: 0, 1: 1}), ITEMS_6, 4)
