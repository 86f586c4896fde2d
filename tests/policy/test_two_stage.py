import itertools

import pytest
import torch
from torch import Tensor

from recolam.errors import ConfigError
from recolam.policy import constrained, plackett_luce, two_stage
from recolam.policy.constraints import SlateConstraints
from recolam.policy.distribution import SlateDistribution

GENERATOR = torch.Generator().manual_seed(0)
TABLE_ND = torch.randn(500, 8, generator=GENERATOR)
QUERY_BD = torch.randn(6, 8, generator=GENERATOR)
BARRED_BT = torch.randint(0, 500, (6, 40), generator=GENERATOR)


@pytest.mark.parametrize("block", [1, 7, 64, 500, 10_000])
def test_blocks_find_the_best_of_the_whole_catalogue(block: int) -> None:
    found_BC = two_stage.top_candidates(
        two_stage.by_vectors(QUERY_BD, TABLE_ND), 500, count=20, barred_BT=BARRED_BT, always=[3, 490], block=block
    )
    score_BN = (QUERY_BD @ TABLE_ND.T).scatter(1, BARRED_BT, -torch.inf)
    score_BN[:, [3, 490]] = -torch.inf
    assert found_BC[:, :2].tolist() == [[3, 490]] * 6
    assert torch.equal(found_BC[:, 2:].sort(dim=1).values, score_BN.topk(20, dim=1).indices.sort(dim=1).values)
    best_BC = score_BN.gather(1, found_BC[:, 2:])
    assert (best_BC.diff(dim=1) <= 1e-6).all()


def test_random_candidates_never_hold_barred_items_or_one_twice() -> None:
    source = torch.Generator().manual_seed(1)
    found_BC = two_stage.top_candidates(
        lambda first, last: torch.rand(6, last - first, generator=source), 500, count=100, barred_BT=BARRED_BT, block=90
    )
    for row, barred in zip(found_BC.tolist(), BARRED_BT.tolist(), strict=True):
        assert len(set(row)) == 100
        assert not set(row) & set(barred)
    with pytest.raises(ValueError, match="480 candidates"):
        two_stage.top_candidates(lambda a, b: torch.zeros(6, b - a), 500, count=480, barred_BT=BARRED_BT)


CANDIDATE_BC = torch.tensor([[7, 2, 9, 4], [1, 9, 3, 8]])
SCORE_BC = torch.tensor([[0.5, -1.0, 0.3, 1.2], [0.0, 0.1, 2.0, -0.4]], dtype=torch.float64)


def every_slate(row: int, k: int) -> Tensor:
    return torch.tensor(list(itertools.permutations(CANDIDATE_BC[row].tolist(), k)))


@pytest.mark.parametrize("row", [0, 1])
def test_slates_of_candidates_have_all_the_probability_and_others_none(row: int) -> None:
    slate_AK = every_slate(row, 3)
    size = (len(slate_AK), -1)
    candidate_AC, score_AC = CANDIDATE_BC[row].expand(*size), SCORE_BC[row].expand(*size)
    log_prob_A = SlateDistribution(score_AC, candidate_AC).position_log_probs(slate_AK).sum(dim=1)
    assert float(log_prob_A.exp().sum()) == pytest.approx(1.0, abs=1e-12)
    outside = (
        SlateDistribution(SCORE_BC, CANDIDATE_BC).position_log_probs(torch.tensor([[7, 9, 0], [1, 3, 9]])).sum(dim=1)
    )
    assert torch.isneginf(outside[0])
    inside = plackett_luce.log_prob(SCORE_BC[1:], torch.tensor([[0, 2, 1]]))
    assert float(outside[1]) == pytest.approx(float(inside))


def test_samples_follow_the_log_probability() -> None:
    draws, slate_AK = 30_000, every_slate(0, 2)
    drawn = SlateDistribution(SCORE_BC[:1].expand(draws, -1), CANDIDATE_BC[:1].expand(draws, -1)).sample(2, GENERATOR)
    counts = torch.bincount(drawn @ torch.tensor([10, 1]), minlength=100)[slate_AK @ torch.tensor([10, 1])]
    size = (len(slate_AK), -1)
    log_prob_AK = SlateDistribution(SCORE_BC[0].expand(*size), CANDIDATE_BC[0].expand(*size)).position_log_probs(
        slate_AK
    )
    expected_A = draws * log_prob_AK.sum(dim=1).exp()
    assert int(counts.sum()) == draws
    assert float(((counts - expected_A) ** 2 / expected_A).sum()) < 31.3  # 99.9 % quantile, 11 degrees of freedom


def test_with_every_item_a_candidate_it_is_the_full_policy() -> None:
    everything_BC = torch.arange(500).expand(6, -1)
    score_BC = two_stage.candidate_scores(QUERY_BD, TABLE_ND, everything_BC)
    torch.testing.assert_close(score_BC, QUERY_BD @ TABLE_ND.T, rtol=1e-4, atol=1e-5)
    slate_BK = SlateDistribution(score_BC, everything_BC).sample(5, torch.Generator().manual_seed(3))
    assert torch.equal(slate_BK, plackett_luce.sample(score_BC, 5, torch.Generator().manual_seed(3)))
    found_BK = SlateDistribution(score_BC, everything_BC).position_log_probs(slate_BK)
    torch.testing.assert_close(found_BK, plackett_luce.position_log_probs(score_BC, slate_BK))


def test_constraints_speak_of_items_and_hold_among_candidates() -> None:
    is_new_N, group_N = torch.arange(500) % 10 == 0, torch.arange(500) % 7
    rules = SlateConstraints(torch.arange(500) > 450, group_N, 1, is_new_N, 2, {1: 33})
    candidate_BC = two_stage.top_candidates(
        two_stage.by_vectors(QUERY_BD, TABLE_ND), 500, count=200, barred_BT=BARRED_BT, always=[33]
    )
    score_BC = two_stage.candidate_scores(QUERY_BD, TABLE_ND, candidate_BC)
    slate_BK = SlateDistribution(score_BC, candidate_BC, rules).sample(5, GENERATOR)
    assert slate_BK[:, 1].eq(33).all()
    assert (slate_BK <= 450).all()
    assert (is_new_N[slate_BK].sum(dim=1) >= 2).all()
    assert all(len(set(groups)) == 5 for groups in group_N[slate_BK].tolist())
    found_BK = SlateDistribution(score_BC, candidate_BC, rules).position_log_probs(slate_BK)
    wide_BN = torch.full((6, 500), -torch.inf).scatter(1, candidate_BC, score_BC)
    torch.testing.assert_close(found_BK, constrained.position_log_probs(wide_BN, slate_BK, rules))
    with pytest.raises(ConfigError, match="fixed item 34"):
        SlateDistribution(score_BC, candidate_BC, SlateConstraints(fixed={0: 34})).sample(5, GENERATOR)


def test_the_gradient_reaches_the_candidates_alone() -> None:
    table_ND = TABLE_ND.clone().requires_grad_()
    candidate_BC = torch.tensor([[5, 6, 7]])
    score_BC = two_stage.candidate_scores(QUERY_BD[:1], table_ND, candidate_BC)
    SlateDistribution(score_BC, candidate_BC).position_log_probs(torch.tensor([[6, 5]])).sum().backward()
    assert table_ND.grad is not None
    assert table_ND.grad.abs().sum(dim=1).nonzero()[:, 0].tolist() == [5, 6, 7]
