"""Autoregressive slates against the formula, written down once more without a tensor of more than one slate.

Shape legend: A all ordered slates, B slates, K positions, M columns, D width, R numbers of a key.
"""

import itertools
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recolam.errors import ArtifactError
from recolam.policy import autoregressive, plackett_luce
from recolam.policy.constraints import SlateConstraints
from recolam.policy.distribution import SlateDistribution
from recolam.policy.interaction import Interaction, Interplay
from tests.policy.test_constraints import Case, cases, tight_cases

WIDTH = 5


def stirred(*, scale: float = 1.0, seed: int = 0, width: int = WIDTH) -> Interaction:
    """An interaction with weights of its own in the last layer, too; float64."""
    found = Interaction(width, rank=3, hidden=4, seed=seed).double()
    with torch.no_grad():
        found.push.weight.normal_(std=scale, generator=torch.Generator().manual_seed(seed))
        found.push.bias.normal_(std=scale, generator=torch.Generator().manual_seed(seed + 1))
    return found


def vectors(*shape: int, seed: int = 3) -> Tensor:
    return torch.randn(*shape, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def normalised(vector_D: Tensor) -> Tensor:
    centred = vector_D - vector_D.mean()
    return centred / (centred.square().mean() + 1e-5).sqrt()


def by_hand(
    score: Tensor, slate: tuple[int, ...], net: Interaction, state: Tensor, vector_MD: Tensor, is_open: object
) -> Tensor:
    """The log-probability of one slate by the formula; `is_open(prefix, item)` tells what may follow a prefix."""
    keys = [net.key.weight @ normalised(vector) for vector in vector_MD]
    total = torch.zeros((), dtype=score.dtype)
    for place, item in enumerate(slate):
        push = torch.zeros_like(keys[0])
        if place:
            mean = sum(keys[other] for other in slate[:place]) / place
            shown = torch.cat([mean, torch.tensor([math.log(place + 1)], dtype=mean.dtype)])
            user = net.read_user.weight @ normalised(state) + net.read_user.bias
            hidden = torch.tanh(user + net.read_shown.weight @ shown)
            push = net.push.weight @ torch.cat([hidden, mean]) + net.push.bias
        chances = {
            other: score[other] + push @ keys[other]
            for other in range(len(keys))
            if other not in slate[:place] and is_open(slate[:place], other)  # type: ignore[operator]
        }
        total = total + chances[item] - torch.stack(list(chances.values())).logsumexp(0)
    return total


def anything(prefix: tuple[int, ...], item: int) -> bool:
    return True


SCORE_M = torch.tensor([0.5, -0.3, 0.0, 1.0, 0.2, -1.0], dtype=torch.float64)
SLATES = list(itertools.permutations(range(6), 3))
SLATE_AK = torch.tensor(SLATES)


def spread(net: Interaction, rows: int, *, has_own_columns: bool = False) -> Interplay:
    """One user `rows` times, with common columns or with each row's own."""
    vector_MD = vectors(6)
    state_BD = vectors(1, seed=4).expand(rows, -1)
    return net.among(state_BD, vector_MD.expand(rows, -1, -1) if has_own_columns else vector_MD)


@pytest.mark.parametrize("has_own_columns", [False, True])
def test_every_slate_has_the_probability_of_the_formula_and_all_sum_to_1(has_own_columns: bool) -> None:
    net = stirred(scale=1.5)
    interplay = spread(net, len(SLATES), has_own_columns=has_own_columns)
    log_prob_AK = autoregressive.position_log_probs(SCORE_M.expand(len(SLATES), -1), SLATE_AK, interplay, None)
    expected_A = torch.stack([by_hand(SCORE_M, s, net, vectors(1, seed=4)[0], vectors(6), anything) for s in SLATES])
    torch.testing.assert_close(log_prob_AK.sum(dim=1), expected_A)
    assert float(log_prob_AK.sum(dim=1).exp().sum().detach()) == pytest.approx(1.0, abs=1e-12)
    flat = plackett_luce.log_prob(SCORE_M.expand(len(SLATES), -1), SLATE_AK)
    assert float((flat - expected_A.detach()).abs().max()) > 1.0  # they interact
    own = plackett_luce.position_log_probs(SCORE_M.expand(len(SLATES), -1), SLATE_AK)[:, 0]
    torch.testing.assert_close(log_prob_AK[:, 0].detach(), own)  # but not at the first position


@settings(max_examples=150, deadline=None)
@given(case=tight_cases() | cases(), seed=st.integers(0, 1000))
def test_constrained_slates_sum_to_1_and_are_those_that_keep_the_constraints(case: Case, seed: int) -> None:
    slates = case.slates()
    if not slates:
        return
    net, items = stirred(seed=seed), len(case.score)
    vector_MD, state_1D = vectors(items, seed=seed), vectors(1, seed=seed + 1)
    everything = list(itertools.permutations(range(items), case.k))
    found = SlateDistribution(
        case.score_1N.expand(len(everything), -1), None, case.constraints,
        net.among(state_1D.expand(len(everything), -1), vector_MD),
    )  # fmt: skip
    log_prob_A = found.log_prob(torch.tensor(everything)).detach()
    assert {slate for slate, p in zip(everything, log_prob_A.tolist(), strict=True) if p > -math.inf} == set(slates)
    assert float(log_prob_A.exp().sum()) == pytest.approx(1.0, abs=1e-9)
    begins = {slate[:size] for slate in slates for size in range(1, case.k + 1)}
    slate = slates[seed % len(slates)]
    expected = by_hand(
        case.score_1N[0], slate, net, state_1D[0], vector_MD, lambda prefix, item: (*prefix, item) in begins
    )
    assert float(log_prob_A[everything.index(slate)]) == pytest.approx(float(expected.detach()), abs=1e-9)


@settings(max_examples=150, deadline=None)
@given(case=tight_cases() | cases(), seed=st.integers(0, 1000))
def test_sampled_and_greedy_slates_keep_the_constraints(case: Case, seed: int) -> None:
    slates = set(case.slates())
    interplay = stirred(scale=3.0, seed=seed).among(vectors(1).expand(40, -1), vectors(len(case.score), seed=seed))
    found = SlateDistribution(case.score_1N.expand(40, -1), None, case.constraints, interplay)
    for stream in (None, torch.Generator().manual_seed(seed)):
        if slates:
            assert set(map(tuple, found.sample(case.k, stream).tolist())) <= slates
        else:
            with pytest.raises(ValueError, match=r"slate|fixed|group"):
                found.sample(case.k, stream)


RULES = SlateConstraints(
    group=torch.tensor([0, 0, 1, 1, -1, 0]), at_most=1, is_new=torch.tensor([True, False] * 3), at_least_new=1,
    fixed={1: 4},
)  # fmt: skip


@pytest.mark.parametrize("constraints", [None, SlateConstraints(is_blocked=torch.arange(6) == 3), RULES])
def test_slates_come_as_often_as_they_should(constraints: SlateConstraints | None) -> None:
    draws, net = 60_000, stirred(scale=1.5)
    one = SlateDistribution(SCORE_M.expand(len(SLATES), -1), None, constraints, spread(net, len(SLATES)))
    chance_A = one.log_prob(SLATE_AK).detach().exp()
    many = SlateDistribution(SCORE_M.expand(draws, -1), None, constraints, spread(net, draws))
    drawn = many.sample(3, torch.Generator().manual_seed(0))
    count_A = torch.zeros(len(SLATES), dtype=torch.float64)
    for slate, count in zip(*drawn.unique(dim=0, return_counts=True), strict=True):
        count_A[SLATES.index(tuple(slate.tolist()))] = float(count)
    assert count_A[chance_A == 0].sum() == 0
    error_A = (count_A / draws - chance_A) / (chance_A * (1 - chance_A) / draws).sqrt().clamp(min=1e-9)
    assert float(error_A.abs().max()) < 4.5
    assert float(error_A.square().sum() / (chance_A > 0).sum()) == pytest.approx(1.0, abs=0.5)


def test_the_clocks_of_scores_far_apart_keep_their_shares() -> None:
    """After the first pick, which is certain, the shift makes two items alike that were e^30 apart."""
    net = Interaction(WIDTH, rank=2, hidden=2).double()
    key_MR = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    with torch.no_grad():
        net.push.bias.copy_(torch.tensor([30.0, 0.0]))
    score_BM = torch.tensor([60.0, 0.0, -30.0]).expand(20_000, -1)
    interplay = Interplay(net.float(), torch.zeros(20_000, WIDTH), key_MR.float())
    second_B = autoregressive.sample(score_BM, 2, interplay, None, torch.Generator().manual_seed(0))[:, 1]
    assert float((second_B == 2).float().mean()) == pytest.approx(0.5, abs=0.015)


def test_greedy_takes_the_best_at_every_position() -> None:
    net = stirred(scale=2.0, seed=3)
    greedy = autoregressive.sample(SCORE_M[None], 3, spread(net, 1), None, None)[0].tolist()
    assert greedy[0] == int(SCORE_M.argmax())
    for size in (1, 2):
        begin = tuple(greedy[:size])
        others = [item for item in range(6) if item not in begin]
        chances = [
            by_hand(SCORE_M, (*begin, item), net, vectors(1, seed=4)[0], vectors(6), anything) for item in others
        ]
        assert greedy[size] == others[int(torch.stack(chances).argmax())]
    assert greedy != SCORE_M.topk(3).indices.tolist()


@pytest.mark.parametrize("constraints", [None, RULES])
def test_a_new_interaction_is_plackett_luce(constraints: SlateConstraints | None) -> None:
    score_BM = torch.randn(400, 6, generator=torch.Generator().manual_seed(5))
    interplay = Interaction(WIDTH).among(torch.randn(400, WIDTH), torch.randn(6, WIDTH))
    plain = SlateDistribution(score_BM, None, constraints)
    ours = replace(plain, interplay=interplay)
    for seed in (None, 1):
        slates = [one.sample(3, None if seed is None else torch.Generator().manual_seed(seed)) for one in (plain, ours)]
        assert torch.equal(*slates)
    log_probs = [one.position_log_probs(slates[0]) for one in (plain, ours)]
    torch.testing.assert_close(log_probs[0], log_probs[1].detach(), rtol=0, atol=1e-6)
    assert torch.equal(plain.first_scores(3), ours.first_scores(3).detach())
    assert torch.equal(plain.scores_of(slates[0]), ours.scores_of(slates[0]).detach())


def test_candidates_are_the_catalogue_s_slates_of_them() -> None:
    net, candidate_BC = stirred(), torch.tensor([[5, 2, 4, 1], [0, 3, 1, 2]])
    vector_MD, state_BD = vectors(6), vectors(2, seed=8)
    score_BC = SCORE_M[candidate_BC]
    few = SlateDistribution(score_BC, candidate_BC, None, net.among(state_BD, vector_MD[candidate_BC]))
    is_out_BM = torch.ones(2, 6, dtype=torch.bool).scatter(1, candidate_BC, False)
    whole = SlateDistribution(
        SCORE_M.expand(2, -1).masked_fill(is_out_BM, -torch.inf), None, None, net.among(state_BD, vector_MD)
    )
    total_B = torch.zeros(2, dtype=torch.float64)
    for slate in SLATES:
        slate_BK = torch.tensor([slate, slate])
        log_prob_B = few.log_prob(slate_BK)
        torch.testing.assert_close(log_prob_B, whole.log_prob(slate_BK))
        total_B += log_prob_B.detach().exp()
    torch.testing.assert_close(total_B, torch.ones(2, dtype=torch.float64))
    slate_BK = few.sample(3, torch.Generator().manual_seed(0))
    torch.testing.assert_close(few.scores_of(slate_BK), whole.scores_of(slate_BK))
    part = few.rows(torch.tensor([1]))
    torch.testing.assert_close(part.log_prob(slate_BK[1:]), few.log_prob(slate_BK)[1:])
    without = few.without(torch.tensor([[5], [0]])).log_prob(torch.tensor([[2, 4, 1], [0, 3, 1]]))
    assert without.isneginf().tolist() == [False, True]


def test_the_first_free_scores_know_what_is_fixed_before_them() -> None:
    rules = SlateConstraints(fixed={0: 4, 1: 2})
    found = SlateDistribution(SCORE_M[None], None, rules, spread(stirred(scale=2.0), 1))
    every = torch.tensor([[4, 2, item] for item in (0, 1, 3, 5)])
    chance = found.rows(torch.zeros(4, dtype=torch.long)).log_prob(every)
    first_M = found.first_scores(3)[0]
    torch.testing.assert_close(first_M.log_softmax(0)[every[:, 2]], chance)
    assert torch.isneginf(first_M[[2, 4]]).all()


def test_scores_along_a_slate_are_those_it_was_chosen_by() -> None:
    net = stirred()
    found = SlateDistribution(SCORE_M[None], None, None, spread(net, 1))
    for last in (0, 3):
        slate_1K = torch.tensor([[2, 1, last]])
        first, second = found.scores_of(torch.tensor([[2, 1, 5]])), found.scores_of(slate_1K)
        odds = found.log_prob(slate_1K) - found.log_prob(torch.tensor([[2, 1, 5]]))
        torch.testing.assert_close((second - first)[:, 2], odds)
    assert float(first[0, 0].detach()) == float(SCORE_M[2])


def test_gradients_reach_scores_states_embeddings_and_weights() -> None:
    net = stirred()
    leaves = [leaf.requires_grad_() for leaf in (SCORE_M.clone(), vectors(1, seed=4)[0], vectors(6))]
    score_M, state_D, vector_MD = leaves
    parameters = [*leaves, *net.parameters()]
    slates = [(3, 1, 5), (0, 4, 2)]
    interplay = net.among(state_D.expand(2, -1), vector_MD)
    barred_BM = torch.stack([score_M, score_M]).masked_fill(
        torch.tensor([[False] * 6, [False] * 5 + [True]]), -math.inf
    )
    found = autoregressive.position_log_probs(barred_BM, torch.tensor(slates), interplay, None)
    weights = torch.tensor([[0.3, -1.0, 2.0], [1.0, 0.5, -0.7]], dtype=torch.float64)
    ours = torch.autograd.grad((found * weights).sum(), parameters)
    total = torch.zeros((), dtype=torch.float64)
    for row, slate in enumerate(slates):
        longer = 0.0
        for size in (1, 2, 3):
            is_open = anything if row == 0 else (lambda prefix, item: item != 5)
            upto = by_hand(score_M, slate[:size], net, state_D, vector_MD, is_open)
            total, longer = total + weights[row, size - 1] * (upto - longer), upto
    for mine, theirs in zip(ours, torch.autograd.grad(total, parameters), strict=True):
        torch.testing.assert_close(mine, theirs)
        assert torch.isfinite(mine).all()
        assert mine.abs().max() > 0


def test_on_disk_it_is_safetensors_of_its_own_sizes(tmp_path: Path) -> None:
    net = stirred().float()
    net.save(tmp_path)
    loaded = Interaction.load(tmp_path, width=WIDTH)
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in net.state_dict().items())
    with pytest.raises(ArtifactError, match="width 7"):
        Interaction.load(tmp_path, width=7)
    (tmp_path / "interaction.safetensors").write_bytes(b"nothing")
    with pytest.raises(ArtifactError, match="interaction"):
        Interaction.load(tmp_path, width=WIDTH)
