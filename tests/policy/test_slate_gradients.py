"""Every estimator against the gradient found by enumeration: its expectation over all outcomes, then by sampling."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from recolam.errors import ConfigError
from recolam.policy import plackett_luce
from recolam.policy.critic import critic_loss, expected_to_go, label_critic
from recolam.policy.gradient import policy_gradient_loss
from recolam.policy.pl_rank import centred, conditional_pl_rank, label_loss, pl_rank
from recolam.policy.ppo import clipped_loss, clipped_share
from recolam.policy.slate_weights import expected_clicks, less_the_others, reward_to_go, whole_slate
from tests.policy.enumeration import (
    CLICK_N,
    EXPOSURE_K,
    SCORE_N,
    SLATE_AK,
    WRONG_CLICK_N,
    all_outcomes,
    exact_gradient,
    position_reward,
    probabilities,
    row_gradients,
)

Estimator = Callable[[Tensor, Tensor], Tensor]  # slates [S, K], clicks [S, K] -> estimates [S, N]


def weighted(weights: Callable[[Tensor, Tensor], Tensor]) -> Estimator:
    def estimate(slate_SK: Tensor, click_SK: Tensor) -> Tensor:
        weight_SK = weights(slate_SK, click_SK)
        return row_gradients(
            lambda score: policy_gradient_loss(plackett_luce.position_log_probs(score, slate_SK), weight_SK), slate_SK
        )

    return estimate


def labelled(function: Callable[..., Tensor], click_N: Tensor = CLICK_N) -> Estimator:
    def estimate(slate_SK: Tensor, click_SK: Tensor) -> Tensor:
        size = (len(slate_SK), 6)
        return function(SCORE_N.expand(size), slate_SK, click_N.expand(size), EXPOSURE_K)

    return estimate


def criticised(click_N: Tensor, *, is_sampled: bool) -> Estimator:
    def estimate(slate_SK: Tensor, click_SK: Tensor) -> Tensor:
        def loss(score_SN: Tensor) -> Tensor:
            log_policy_SKN = plackett_luce.conditional_log_probs(score_SN, slate_SK)
            label_SN = click_N.expand_as(score_SN)
            to_go_SK = (
                reward_to_go(click_SK) if is_sampled else expected_to_go(log_policy_SKN, slate_SK, label_SN, EXPOSURE_K)
            )
            return critic_loss(log_policy_SKN, slate_SK, to_go_SK, label_critic(log_policy_SKN, label_SN, EXPOSURE_K))

        return row_gradients(loss, slate_SK)

    return estimate


def just_sampled(slate_SK: Tensor, click_SK: Tensor) -> Tensor:
    def loss(score_SN: Tensor) -> Tensor:
        now_SK = plackett_luce.position_log_probs(score_SN, slate_SK)
        return clipped_loss(now_SK, now_SK.detach(), reward_to_go(click_SK), clip=0.2)

    return row_gradients(loss, slate_SK)


def model(slate_SK: Tensor) -> Tensor:
    return expected_clicks(CLICK_N.expand(len(slate_SK), -1), slate_SK, EXPOSURE_K)


UNBIASED: dict[str, Estimator] = {
    "REINFORCE": weighted(lambda slate, click: whole_slate(click)),
    "constant baseline": weighted(lambda slate, click: whole_slate(click, baseline=0.9)),
    "reward-to-go": weighted(lambda slate, click: reward_to_go(click, baseline=torch.tensor([0.9, 0.4, 0.1]))),
    "expected clicks": weighted(lambda slate, click: whole_slate(model(slate))),
    "PL-Rank-1": weighted(lambda slate, click: reward_to_go(model(slate))),
    "PL-Rank-3": labelled(pl_rank),
    "centred": labelled(lambda score, slate, label, k: pl_rank(score, slate, centred(score, label), k)),
    "conditional": labelled(conditional_pl_rank),
    "critic": criticised(CLICK_N, is_sampled=False),
    "critic and clicks": criticised(CLICK_N, is_sampled=True),
    "wrong critic and clicks": criticised(WRONG_CLICK_N, is_sampled=True),
    "PPO, first step": just_sampled,
}


def expectation(estimate: Estimator) -> Tensor:
    slate_SK, click_SK, probability_S = all_outcomes()
    return (probability_S[:, None] * estimate(slate_SK, click_SK)).sum(dim=0)


@pytest.mark.parametrize("name", UNBIASED)
def test_the_expectation_over_all_outcomes_is_the_exact_gradient(name: str) -> None:
    torch.testing.assert_close(expectation(UNBIASED[name]), exact_gradient(position_reward()), rtol=0, atol=1e-12)


def one_position_dropped(slate_SK: Tensor, click_SK: Tensor) -> Tensor:
    return weighted(lambda slate, click: reward_to_go(click) * torch.tensor([1.0, 1.0, 0.0]))(slate_SK, click_SK)


def nothing_taken_out(slate_SK: Tensor, click_SK: Tensor) -> Tensor:
    """Every position normalised over the whole catalogue: sampled without, scored with replacement."""
    weight_SK = reward_to_go(click_SK)
    return row_gradients(lambda score: -(weight_SK * score.log_softmax(1).gather(1, slate_SK)).sum(), slate_SK)


def wrong_sign(slate_SK: Tensor, click_SK: Tensor) -> Tensor:
    score_SN, label_SN = SCORE_N.expand(len(slate_SK), -1), CLICK_N.expand(len(slate_SK), -1)
    gone_SK = reward_to_go(model(slate_SK))
    return labelled(pl_rank)(slate_SK, click_SK) + 2 * plackett_luce.conditional_sums(score_SN, slate_SK, gone_SK) * (
        label_SN > 0
    )


FAULTY: dict[str, Estimator] = {
    "one position dropped": one_position_dropped,
    "nothing taken out": nothing_taken_out,
    "sign of the risk set": wrong_sign,
    "only earlier rewards": weighted(lambda slate, click: click.cumsum(dim=1)),
    "only the own reward": weighted(lambda slate, click: click),
    "wrong click model": labelled(pl_rank, WRONG_CLICK_N),
    "wrong critic, no clicks": criticised(WRONG_CLICK_N, is_sampled=False),
}


@pytest.mark.parametrize("name", FAULTY)
def test_faults_show_in_the_expectation(name: str) -> None:
    assert (expectation(FAULTY[name]) - exact_gradient(position_reward())).abs().max() > 0.01


DRAWS = 200_000
# 6 derivatives of 14 unbiased estimators: a false alarm of any with probability 1e-3 (Bonferroni, two-sided)
LIMIT = 4.38


def deviation(estimate: Estimator, *, seed: int) -> float:
    """Largest |z| of the mean of `DRAWS` sampled estimates against the exact gradient."""
    generator = torch.Generator().manual_seed(seed)
    slate_SK = plackett_luce.sample(SCORE_N.expand(DRAWS, -1), 3, generator)
    chance_SK = EXPOSURE_K * CLICK_N[slate_SK]
    click_SK = (torch.rand(chance_SK.shape, generator=generator, dtype=torch.float64) < chance_SK).double()
    return worst(estimate(slate_SK, click_SK))


def worst(estimate_SN: Tensor) -> float:
    error_N = estimate_SN.std(dim=0) / len(estimate_SN) ** 0.5
    return float(((estimate_SN.mean(dim=0) - exact_gradient(position_reward())).abs() / error_N).max())


@pytest.mark.parametrize("name", UNBIASED)
def test_sampled_means_agree_within_monte_carlo_error(name: str) -> None:
    assert deviation(UNBIASED[name], seed=1) < LIMIT


@pytest.mark.parametrize("name", FAULTY)
def test_faults_show_in_sampled_means(name: str) -> None:
    assert deviation(FAULTY[name], seed=1) > LIMIT


@pytest.mark.parametrize("kind", [whole_slate, reward_to_go])
def test_leave_one_out_keeps_the_expectation(kind: Callable[[Tensor], Tensor]) -> None:
    def estimate(slate_SK: Tensor, click_SK: Tensor) -> Tensor:
        each_SN = weighted(lambda slate, click: less_the_others(kind(click), replicas=4))(slate_SK, click_SK)
        return each_SN.view(-1, 4, 6).mean(dim=1)  # replicas share noise: a group is one observation

    assert deviation(estimate, seed=2) < LIMIT
    pairs = torch.cartesian_prod(torch.arange(120), torch.arange(120))
    slate_SK = SLATE_AK[pairs.flatten()]
    both_SN = weighted(lambda slate, click: less_the_others(kind(model(slate)), replicas=2))(slate_SK, slate_SK)
    probability_P = probabilities()[pairs].prod(dim=1)
    expected_N = (probability_P[:, None] * both_SN.view(-1, 2, 6).mean(dim=1)).sum(dim=0)
    torch.testing.assert_close(expected_N, exact_gradient(position_reward()), rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="groups of 7"):
        less_the_others(torch.ones(8, 3), replicas=7)


def test_a_slate_s_own_weight_in_its_baseline_would_show() -> None:
    def with_itself(slate_SK: Tensor, click_SK: Tensor) -> Tensor:
        total_SK = whole_slate(click_SK)
        mean_SK = total_SK.view(-1, 4, 3).mean(dim=1, keepdim=True).expand(-1, 4, -1).reshape(total_SK.shape)
        return weighted(lambda slate, click: total_SK - mean_SK)(slate_SK, click_SK).view(-1, 4, 6).mean(dim=1)

    assert deviation(with_itself, seed=2) > LIMIT


def test_whole_slate_rewards_of_any_form_are_unbiased_and_rewards_to_go_are_not() -> None:
    """A bonus for the first item that the last one decides: a position's reward that depends on later items."""
    bonus_AK = torch.zeros(120, 3, dtype=torch.float64)
    bonus_AK[:, 0] = CLICK_N[SLATE_AK[:, 0]] * CLICK_N[SLATE_AK[:, 2]]
    exact_N, chance_A1 = exact_gradient(bonus_AK.sum(dim=1)), probabilities()[:, None]
    whole = weighted(lambda slate, click: whole_slate(bonus_AK))(SLATE_AK, bonus_AK)
    to_go = weighted(lambda slate, click: reward_to_go(bonus_AK))(SLATE_AK, bonus_AK)
    torch.testing.assert_close((chance_A1 * whole).sum(dim=0), exact_N, rtol=0, atol=1e-12)
    assert ((chance_A1 * to_go).sum(dim=0) - exact_N).abs().max() > 0.01


def test_a_wrong_click_model_s_bias_is_the_gradient_of_the_models_difference() -> None:
    expected_N = expectation(labelled(pl_rank, WRONG_CLICK_N)) - exact_gradient(position_reward())
    difference_N = exact_gradient(position_reward(WRONG_CLICK_N - CLICK_N))
    torch.testing.assert_close(expected_N, difference_N, rtol=0, atol=1e-12)


def pl_rank_by_definition(score_N: Tensor, slate_K: Tensor, label_N: Tensor, exposure_K: Tensor) -> Tensor:
    gradient_N, weight_N, shown = torch.zeros_like(score_N), score_N.exp(), slate_K.tolist()
    for item in range(len(score_N)):
        for position in range(len(shown)):
            later = sum(float(exposure_K[x] * label_N[shown[x]]) for x in range(position + 1, len(shown)))
            if item in shown[:position]:
                continue
            left = sum(float(weight_N[j]) for j in range(len(score_N)) if j not in shown[:position])
            chance = float(weight_N[item]) / left
            here = float(exposure_K[position] * label_N[shown[position]])
            gradient_N[item] += chance * (float(exposure_K[position] * label_N[item]) - here - later)
            gradient_N[item] += later if shown[position] == item else 0.0
    return gradient_N


def test_the_fast_route_has_the_definition_s_value() -> None:
    generator = torch.Generator().manual_seed(0)
    score_SN = 2 * torch.randn(20, 9, generator=generator, dtype=torch.float64)
    label_SN = torch.randn(20, 9, generator=generator, dtype=torch.float64)
    exposure_K = torch.tensor([1.0, 0.7, 0.4, 0.2], dtype=torch.float64)
    slate_SK = plackett_luce.sample(score_SN, 4, generator)
    fast_SN = pl_rank(score_SN, slate_SK, label_SN, exposure_K)
    slow_SN = torch.stack([
        pl_rank_by_definition(score_SN[row], slate_SK[row], label_SN[row], exposure_K) for row in range(20)
    ])  # fmt: skip
    torch.testing.assert_close(fast_SN, slow_SN, rtol=0, atol=1e-12)


def test_scores_far_apart_barred_items_and_whole_catalogues_stay_finite() -> None:
    score_SN = torch.tensor([[300.0, 0.0, -300.0, -torch.inf, 1.0]])
    label_SN = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]])
    for slate in ([[0, 4, 1]], [[2, 1, 0]], [[0, 1, 2, 4]], [[2, 4, 1, 0]]):
        slate_SK = torch.tensor(slate)
        exposure_K = torch.ones(slate_SK.shape[1])
        for estimate in (pl_rank, conditional_pl_rank):
            gradient_SN = estimate(score_SN, slate_SK, label_SN, exposure_K)
            assert torch.isfinite(gradient_SN).all()
            assert gradient_SN[0, 3] == 0
        assert abs(float(gradient_SN.sum())) < 1e-4  # conditional: J does not change when all scores rise together
    leaf_SN = score_SN.clone().requires_grad_()
    label_loss(leaf_SN, gradient_SN).backward()
    torch.testing.assert_close(leaf_SN.grad, -gradient_SN)


@pytest.mark.parametrize("shift", [0.0, 100.0])
def test_conditional_pl_rank_does_not_see_a_constant_in_the_labels(shift: float) -> None:
    estimate_AN = labelled(conditional_pl_rank, CLICK_N + shift)(SLATE_AK, SLATE_AK)
    torch.testing.assert_close(
        estimate_AN, labelled(conditional_pl_rank)(SLATE_AK, SLATE_AK), rtol=0, atol=1e-11
    )  # fmt: skip


def variance(name: str) -> float:
    slate_SK, click_SK, probability_S = all_outcomes()
    estimate_SN = UNBIASED[name](slate_SK, click_SK)
    return float((probability_S[:, None] * (estimate_SN - exact_gradient(position_reward())).square()).sum())


def test_each_step_lowers_the_variance() -> None:
    """Exact variances over all outcomes, in the order in which randomness is taken out."""
    order = ("REINFORCE", "constant baseline", "reward-to-go", "PL-Rank-1", "PL-Rank-3", "centred", "conditional")
    variances = [variance(name) for name in order]
    assert variances[1] < 0.7 * variances[0]
    assert variances[2] < variances[1]
    assert variances[4] < 0.5 * variances[3]
    assert variances[5] < 0.5 * variances[4]
    assert variances[6] < 0.2 * variances[5]
    assert variance("critic") < variances[6]
    assert variance("critic and clicks") < variance("wrong critic and clicks") < variance("constant baseline")


def test_ppo_weighs_by_importance_until_the_clip_and_has_no_gradient_beyond() -> None:
    new_N = SCORE_N + torch.tensor([0.3, 0.0, -0.2, 0.1, 0.0, 0.2])
    old_A, reward_A = probabilities().log(), position_reward()

    def expected(clip: float, advantage_A: Tensor) -> Tensor:
        rows_AN = row_gradients(
            lambda score: clipped_loss(plackett_luce.log_prob(score, SLATE_AK), old_A, advantage_A, clip=clip),
            SLATE_AK, new_N,
        )  # fmt: skip
        return (old_A.exp()[:, None] * rows_AN).sum(dim=0)

    centred_A = reward_A - 0.9
    exact_N = exact_gradient(reward_A, new_N)
    torch.testing.assert_close(expected(math.inf, centred_A), exact_N, rtol=0, atol=1e-12)
    assert (expected(0.1, centred_A) - exact_N).abs().max() > 0.01  # the documented bias
    now_A = plackett_luce.log_prob(new_N.expand(120, -1), SLATE_AK)
    ratio_A = (now_A - old_A).exp()
    is_past_A = ((ratio_A > 1.1) & (centred_A > 0)) | ((ratio_A < 0.9) & (centred_A < 0))
    assert 0.2 < float(is_past_A.double().mean()) < 0.8
    assert clipped_share(now_A, old_A, centred_A, clip=0.1) == pytest.approx(float(is_past_A.double().mean()))
    rows_AN = row_gradients(
        lambda score: clipped_loss(plackett_luce.log_prob(score, SLATE_AK), old_A, centred_A, clip=0.1), SLATE_AK, new_N
    )
    assert torch.equal(rows_AN.abs().sum(dim=1) == 0, is_past_A)
    with pytest.raises(ConfigError, match="below 0"):
        clipped_loss(now_A, old_A, centred_A, clip=-0.1)
