import itertools
import math

import pytest
import torch

from recolam.sequence import plackett_luce


def all_slates(items: int, k: int) -> torch.Tensor:
    return torch.tensor(list(itertools.permutations(range(items), k)))


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_probabilities_of_all_slates_sum_to_one(k: int) -> None:
    score_N = torch.tensor([0.3, -1.2, 2.0, 0.0, 0.7], dtype=torch.float64)
    slates = all_slates(5, k)
    log_probability = plackett_luce.log_prob(score_N.expand(len(slates), -1), slates)
    assert float(log_probability.exp().sum()) == pytest.approx(1.0, abs=1e-12)


def test_log_probability_is_the_product_over_positions() -> None:
    score_N = torch.tensor([0.3, -1.2, 2.0, 0.0])
    weight = score_N.exp().tolist()
    rest, expected = sum(weight), 0.0
    for item in (2, 0, 3):
        expected += math.log(weight[item] / rest)
        rest -= weight[item]
    assert float(plackett_luce.log_prob(score_N[None], torch.tensor([[2, 0, 3]]))) == pytest.approx(expected, abs=1e-6)


def test_one_overwhelming_item_leaves_the_others_exact() -> None:
    score_BN = torch.tensor([[200.0, 0.0, 1.0]])
    expected = math.log(1 / (1 + math.e))
    assert float(plackett_luce.log_prob(score_BN, torch.tensor([[0, 1]]))) == pytest.approx(expected, abs=1e-5)


def test_a_whole_catalogue_slate_has_a_finite_gradient() -> None:
    score_BN = torch.tensor([[1.0, -torch.inf, 0.0, 0.5]], requires_grad=True)
    plackett_luce.log_prob(score_BN, torch.tensor([[0, 3, 2]])).sum().backward()
    assert score_BN.grad is not None
    assert torch.isfinite(score_BN.grad).all()


def test_samples_follow_the_distribution() -> None:
    score_N = torch.tensor([0.3, -1.2, 1.0, 0.0, 0.7])
    slates, draws = all_slates(5, 2), 40_000
    drawn = plackett_luce.sample(score_N.expand(draws, -1), 2, torch.Generator().manual_seed(0))
    counts = torch.zeros(5, 5)
    counts.index_put_((drawn[:, 0], drawn[:, 1]), torch.ones(draws), accumulate=True)
    expected = draws * plackett_luce.log_prob(score_N.expand(len(slates), -1), slates).exp()
    observed = counts[slates[:, 0], slates[:, 1]]
    chi_square = float(((observed - expected) ** 2 / expected).sum())
    assert chi_square < 43.8  # 99.9 % quantile with 19 degrees of freedom


def test_barred_items_are_never_shown_and_too_few_are_refused() -> None:
    score_BN = torch.tensor([[0.0, -torch.inf, 0.0, -torch.inf]]).expand(500, -1)
    drawn = plackett_luce.sample(score_BN, 2, torch.Generator().manual_seed(0))
    assert set(drawn.flatten().tolist()) == {0, 2}
    with pytest.raises(ValueError, match="slate of 3 items cannot be made of 2"):
        plackett_luce.sample(score_BN, 3, None)


def test_entropy_and_divergence_of_the_first_pick() -> None:
    uniform_BN = torch.tensor([[0.0, 0.0, -torch.inf, 0.0]])
    other_BN = torch.tensor([[1.0, 0.0, -torch.inf, -1.0]])
    assert float(plackett_luce.first_pick_entropy(uniform_BN)) == pytest.approx(math.log(3), abs=1e-6)
    assert float(plackett_luce.first_pick_kl(other_BN, other_BN)) == pytest.approx(0.0, abs=1e-6)
    p, q = torch.softmax(other_BN, 1)[0, [0, 1, 3]], 1 / 3
    assert float(plackett_luce.first_pick_kl(other_BN, uniform_BN)) == pytest.approx(
        float((p * (p / q).log()).sum()), abs=1e-6
    )


def drawn(items: int, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(items)
    score_BN = 3 * torch.randn(8, items, generator=generator, dtype=torch.float64)
    score_BN[2, 1] = -torch.inf
    return score_BN, plackett_luce.sample(score_BN, min(k, items - 1), generator)


@pytest.mark.parametrize(("items", "k"), [(5, 3), (9, 1), (9, 7), (4, 3)])
def test_conditionals_agree_with_each_other_and_with_the_definition(items: int, k: int) -> None:
    score_BN, slate_BK = drawn(items, k)
    log_policy_BKN = plackett_luce.conditional_log_probs(score_BN, slate_BK)
    shown_BK = log_policy_BKN.gather(2, slate_BK[..., None])[..., 0]
    torch.testing.assert_close(shown_BK, plackett_luce.position_log_probs(score_BN, slate_BK))
    for row in range(8):
        for position in range(slate_BK.shape[1]):
            weight_N = score_BN[row].exp()
            weight_N[slate_BK[row, :position]] = 0.0
            torch.testing.assert_close(log_policy_BKN[row, position].exp(), weight_N / weight_N.sum())
    value_BN = torch.randn(score_BN.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected_BK = (log_policy_BKN.exp() * value_BN[:, None]).sum(dim=2)
    torch.testing.assert_close(plackett_luce.conditional_means(score_BN, slate_BK, value_BN), expected_BK)
    weight_BK = torch.randn(slate_BK.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected_BN = (log_policy_BKN.exp() * weight_BK[..., None]).sum(dim=1)
    torch.testing.assert_close(plackett_luce.conditional_sums(score_BN, slate_BK, weight_BK), expected_BN)


def test_conditionals_of_a_whole_catalogue_and_of_scores_far_apart() -> None:
    score_BN = torch.tensor([[500.0, 0.0, -500.0]], dtype=torch.float64)
    for slate in ([0, 1, 2], [2, 1, 0], [1, 0, 2]):
        slate_BK = torch.tensor([slate])
        policy_BKN = plackett_luce.conditional_log_probs(score_BN, slate_BK).exp()
        value_BN = torch.tensor([[1.0, 10.0, 100.0]], dtype=torch.float64)
        mean_BK = plackett_luce.conditional_means(score_BN, slate_BK, value_BN)
        torch.testing.assert_close(mean_BK, (policy_BKN * value_BN[:, None]).sum(dim=2))
        sum_BN = plackett_luce.conditional_sums(score_BN, slate_BK, torch.ones(1, 3, dtype=torch.float64))
        torch.testing.assert_close(sum_BN, policy_BKN.sum(dim=1))
