import math

import pytest
import torch
from torch import Tensor

from recolam.policy import inclusion, plackett_luce
from recolam.policy.prefix_sets import exact_entropy, exact_inclusion, exact_kl, prefix_sets
from recolam.policy.slate_entropy import chain_surrogate, estimate, position_entropies, position_kls
from tests.policy.enumeration import (
    CLICK_N,
    EXPOSURE_K,
    SCORE_N,
    SLATE_AK,
    exact_gradient,
    position_reward,
    probabilities,
    row_gradients,
)

REFERENCE_N = torch.tensor([0.0, 1.0, -0.5, 0.3, 0.0, 0.4], dtype=torch.float64)


def random_scores(items: int, spread: float = 1.0) -> Tensor:
    return spread * torch.randn(items, generator=torch.Generator().manual_seed(items), dtype=torch.float64)


def test_sums_over_sets_are_the_sums_over_ordered_slates() -> None:
    chance_A = probabilities()
    assert float(exact_entropy(SCORE_N, 3)) == pytest.approx(float(-(chance_A * chance_A.log()).sum()), abs=1e-12)
    kl = (chance_A * (chance_A / probabilities(REFERENCE_N)).log()).sum()
    assert float(exact_kl(SCORE_N, REFERENCE_N, 3)) == pytest.approx(float(kl), abs=1e-12)
    inclusion_N = torch.stack([chance_A[SLATE_AK.eq(item).any(dim=1)].sum() for item in range(6)])
    torch.testing.assert_close(exact_inclusion(SCORE_N, 3), inclusion_N, rtol=0, atol=1e-12)
    for is_in_CN, probability_C in prefix_sets(SCORE_N, 3):
        assert float(probability_C.sum()) == pytest.approx(1.0, abs=1e-12)
        assert len(is_in_CN) == math.comb(6, int(is_in_CN[0].sum()))


def test_known_figures() -> None:
    even_N = torch.tensor([0.0, 0.0, -torch.inf, 0.0, 0.0], dtype=torch.float64)
    assert float(exact_entropy(even_N, 2)) == pytest.approx(math.log(12), abs=1e-12)
    assert exact_inclusion(even_N, 2).tolist() == pytest.approx([0.5, 0.5, 0.0, 0.5, 0.5])
    assert float(exact_kl(even_N, even_N, 2)) == 0.0
    assert math.isinf(float(exact_kl(torch.zeros(5, dtype=torch.float64), even_N, 2)))
    with pytest.raises(ValueError, match="can be enumerated"):
        exact_entropy(torch.zeros(60), 10)
    with pytest.raises(ValueError, match="of 4 items"):
        exact_inclusion(even_N, 5)


def test_the_expectation_of_the_position_parts_is_exact() -> None:
    score_AN, reference_AN = SCORE_N.expand(120, -1), REFERENCE_N.expand(120, -1)
    chance_A = probabilities()
    entropy = chance_A @ position_entropies(score_AN, SLATE_AK).sum(dim=1)
    assert float(entropy) == pytest.approx(float(exact_entropy(SCORE_N, 3)), abs=1e-12)
    kl = chance_A @ position_kls(score_AN, reference_AN, SLATE_AK).sum(dim=1)
    assert float(kl) == pytest.approx(float(exact_kl(SCORE_N, REFERENCE_N, 3)), abs=1e-12)


def test_barred_items_take_no_part() -> None:
    barred = torch.tensor([[-torch.inf]], dtype=torch.float64)
    for slate in ([[0, 3, 4]], [[5, 1, 2]]):
        slate_SK = torch.tensor(slate)
        score_SN, reference_SN = SCORE_N[None], REFERENCE_N[None]
        wider = [torch.cat([rows, barred], dim=1) for rows in (score_SN, reference_SN)]
        torch.testing.assert_close(position_entropies(wider[0], slate_SK), position_entropies(score_SN, slate_SK))
        torch.testing.assert_close(
            position_kls(*wider, slate_SK), position_kls(score_SN, reference_SN, slate_SK)
        )  # fmt: skip


@pytest.mark.parametrize("kind", ["entropy", "kl"])
def test_the_surrogate_has_the_exact_gradient_and_the_parts_alone_do_not(kind: str) -> None:
    leaf_N = SCORE_N.clone().requires_grad_()
    whole = exact_entropy(leaf_N, 3) if kind == "entropy" else exact_kl(leaf_N, REFERENCE_N, 3)
    (exact_N,) = torch.autograd.grad(whole, leaf_N)

    def parts(score_SN: Tensor) -> Tensor:
        if kind == "entropy":
            return position_entropies(score_SN, SLATE_AK)
        return position_kls(score_SN, REFERENCE_N.expand_as(score_SN), SLATE_AK)

    def surrogate(score_SN: Tensor) -> Tensor:
        return -chain_surrogate(parts(score_SN), plackett_luce.position_log_probs(score_SN, SLATE_AK))

    chance_A = probabilities()
    torch.testing.assert_close(chance_A @ row_gradients(surrogate, SLATE_AK), exact_N, rtol=0, atol=1e-12)
    alone_N = chance_A @ row_gradients(lambda score_SN: -parts(score_SN).sum(), SLATE_AK)
    assert (alone_N - exact_N).abs().max() > 1e-3


def test_estimates_of_a_large_catalogue_are_within_their_stated_error() -> None:
    score_N, draws = random_scores(14, 2.0), 4000
    score_SN = score_N.expand(draws, -1)
    slate_SK = plackett_luce.sample(score_SN, 5, torch.Generator().manual_seed(0))
    mean, error = estimate(position_entropies(score_SN, slate_SK))
    assert abs(mean - float(exact_entropy(score_N, 5))) < 4 * error
    naive = float(plackett_luce.log_prob(score_SN, slate_SK).std() / draws**0.5)
    assert error < 0.7 * naive
    reference_N = random_scores(14, 2.0).flip(0)
    mean, error = estimate(position_kls(score_SN, reference_N.expand_as(score_SN), slate_SK))
    assert abs(mean - float(exact_kl(score_N, reference_N, 5))) < 4 * error


@pytest.mark.parametrize(
    ("items", "k", "spread"), [(6, 3, 1.0), (12, 5, 5.0), (8, 8, 1.0), (8, 7, 3.0), (5, 1, 1.0), (14, 6, 20.0)]
)
def test_the_quadrature_of_inclusion_is_exact_to_its_stated_error(items: int, k: int, spread: float) -> None:
    score_N = random_scores(items, spread)
    found_N, error = inclusion.inclusion(score_N, k)
    assert error < 1e-7
    assert float((found_N - exact_inclusion(score_N, k)).abs().max()) < max(error, 1e-11)


def test_exposure_of_positions_and_its_gradient_agree_with_enumeration() -> None:
    barred_N = torch.cat([SCORE_N, torch.tensor([-torch.inf])])
    found_N, _ = inclusion.expected_exposure(barred_N, EXPOSURE_K)
    chance_A1 = probabilities()[:, None]
    weight_AK = chance_A1 * EXPOSURE_K
    expected_N = torch.zeros(7, dtype=torch.float64).index_add(0, SLATE_AK.flatten(), weight_AK.flatten())
    torch.testing.assert_close(found_N, expected_N, rtol=0, atol=1e-11)
    gradient_N = inclusion.exact_gradient(SCORE_N, CLICK_N, EXPOSURE_K)
    torch.testing.assert_close(gradient_N, exact_gradient(position_reward()), rtol=0, atol=1e-11)
    with pytest.raises(ValueError, match="8 items cannot be made of 6"):
        inclusion.inclusion(barred_N, 8)


def test_inclusion_in_a_thousand_items_sums_to_the_slate_and_agrees_with_samples() -> None:
    score_N = random_scores(1000)
    found_N, error = inclusion.inclusion(score_N, 10)
    assert float(found_N.sum()) == pytest.approx(10.0, abs=1e-6)
    assert error < 1e-6
    draws = 20_000
    slates = plackett_luce.sample(score_N.float().expand(draws, -1), 10, torch.Generator().manual_seed(0))
    share_N = torch.bincount(slates.flatten(), minlength=1000) / draws
    z_N = (share_N - found_N) / (found_N * (1 - found_N) / draws).sqrt()
    assert float(z_N.abs().max()) < 5.4  # of 1,000 items any, by chance, with probability 1e-4
