"""The gradient estimators that `bench gradients` compares, each as a function from sampled slates to estimates.

Shape legend: S slates (in groups of replicas), K positions, N items.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from recolam.policy import plackett_luce
from recolam.policy.critic import critic_loss, expected_to_go, label_critic
from recolam.policy.gradient import policy_gradient_loss
from recolam.policy.off_policy_correction import top_k_weights
from recolam.policy.pl_rank import centred, conditional_pl_rank, pl_rank
from recolam.policy.ppo import clipped_loss
from recolam.policy.slate_weights import expected_clicks, less_the_others, reward_to_go, whole_slate

STALENESS = 0.1  # standard deviation of the scores of the policy that sampled, around the policy's own


@dataclass(frozen=True)
class Bandit:
    """One state: the policy's scores, the user's true click probabilities, and a model's wrong ones."""

    score_N: Tensor
    click_N: Tensor
    wrong_click_N: Tensor
    stale_score_N: Tensor
    exposure_K: Tensor
    expected_reward: float


@dataclass(frozen=True)
class Sample:
    """Slates and clicks of the policy, of a slightly older one, and logged single items that were shown uniformly."""

    bandit: Bandit
    score_SN: Tensor
    slate_SK: Tensor
    click_SK: Tensor
    stale_slate_SK: Tensor
    stale_click_SK: Tensor
    logged_S1: Tensor
    logged_click_S: Tensor


def draw(bandit: Bandit, slates: int, generator: torch.Generator) -> Sample:
    score_SN = bandit.score_N.expand(slates, -1)
    k = len(bandit.exposure_K)
    slate_SK = plackett_luce.sample(score_SN, k, generator)
    stale_SK = plackett_luce.sample(bandit.stale_score_N.expand(slates, -1), k, generator)
    logged_S1 = torch.randint(len(bandit.score_N), (slates, 1), generator=generator)
    answers = [
        (torch.rand(chance.shape, generator=generator) < chance).float()
        for chance in (
            bandit.exposure_K * bandit.click_N[slate_SK],
            bandit.exposure_K * bandit.click_N[stale_SK],
            bandit.click_N[logged_S1[:, 0]],
        )
    ]
    return Sample(bandit, score_SN, slate_SK, answers[0], stale_SK, answers[1], logged_S1, answers[2])


@dataclass(frozen=True)
class Estimator:
    """`estimates` [S, N] are of dJ/ds; the mean over `replicas` neighbouring rows is one independent observation."""

    reads: str
    estimates: Callable[[Sample], Tensor]
    replicas: int = 1
    is_unbiased: bool = True


def _by_loss(loss: Callable[[Sample, Tensor], Tensor]) -> Callable[[Sample], Tensor]:
    def estimates(sample: Sample) -> Tensor:
        leaf_SN = sample.score_SN.clone().requires_grad_()
        return -torch.autograd.grad(loss(sample, leaf_SN), leaf_SN)[0]

    return estimates


def _weighted(weights: Callable[[Sample], Tensor]) -> Callable[[Sample], Tensor]:
    return _by_loss(
        lambda sample, score_SN: policy_gradient_loss(
            plackett_luce.position_log_probs(score_SN, sample.slate_SK), weights(sample)
        )
    )


def _expected(sample: Sample) -> Tensor:
    return expected_clicks(sample.bandit.click_N.expand_as(sample.score_SN), sample.slate_SK, sample.bandit.exposure_K)


def _labelled(function: Callable[..., Tensor], *, is_wrong: bool = False) -> Callable[[Sample], Tensor]:
    def estimates(sample: Sample) -> Tensor:
        label_N = sample.bandit.wrong_click_N if is_wrong else sample.bandit.click_N
        label_SN = label_N.expand_as(sample.score_SN)
        return function(sample.score_SN, sample.slate_SK, label_SN, sample.bandit.exposure_K)

    return estimates


def _criticised(*, is_wrong: bool) -> Callable[[Sample], Tensor]:
    def loss(sample: Sample, score_SN: Tensor) -> Tensor:
        label_N = sample.bandit.wrong_click_N if is_wrong else sample.bandit.click_N
        log_policy_SKN = plackett_luce.conditional_log_probs(score_SN, sample.slate_SK)
        label_SN, exposure_K = label_N.expand_as(score_SN), sample.bandit.exposure_K
        critic_SKN = label_critic(log_policy_SKN, label_SN, exposure_K)
        if is_wrong:
            to_go_SK = reward_to_go(sample.click_SK)
        else:
            to_go_SK = expected_to_go(log_policy_SKN, sample.slate_SK, label_SN, exposure_K)
        return critic_loss(log_policy_SKN, sample.slate_SK, to_go_SK, critic_SKN)

    return _by_loss(loss)


def _clipped(sample: Sample, score_SN: Tensor) -> Tensor:
    old_SN = sample.bandit.stale_score_N.expand_as(score_SN)
    old_SK, now_SK = (plackett_luce.position_log_probs(s, sample.stale_slate_SK) for s in (old_SN, score_SN))
    advantage_SK = reward_to_go(sample.stale_click_SK, baseline=_share_of_reward(sample))
    return clipped_loss(now_SK, old_SK, advantage_SK, clip=0.2)


def _share_of_reward(sample: Sample) -> Tensor:
    """A constant baseline for each position's reward-to-go: the expected reward, by exposure."""
    exposure_1K = sample.bandit.exposure_K[None]
    return sample.bandit.expected_reward * (reward_to_go(exposure_1K) / exposure_1K.sum())[0]


def _off_policy(sample: Sample, score_SN: Tensor) -> Tensor:
    log_prob_S = score_SN.log_softmax(dim=1).gather(1, sample.logged_S1)[:, 0]
    even_S = torch.full_like(log_prob_S, 1.0 / score_SN.shape[1]).log()
    weight_S = top_k_weights(
        log_prob_S.detach(), even_S, sample.logged_click_S, k=len(sample.bandit.exposure_K), cap=10.0
    )
    return policy_gradient_loss(log_prob_S, weight_S)


CLICKS, MODEL, WRONG, LOGS = "clicks", "true click model", "wrong click model", "logs"
CONSTANT_BASELINE = "REINFORCE, constant baseline"
EXPECTED_BASELINE = "REINFORCE, expected clicks, constant baseline"
ESTIMATORS: dict[str, Estimator] = {
    "REINFORCE": Estimator(CLICKS, _weighted(lambda s: whole_slate(s.click_SK))),
    CONSTANT_BASELINE: Estimator(
        CLICKS, _weighted(lambda s: whole_slate(s.click_SK, baseline=s.bandit.expected_reward))
    ),
    "RLOO, 4 slates": Estimator(
        CLICKS, _weighted(lambda s: less_the_others(whole_slate(s.click_SK), replicas=4)), replicas=4
    ),
    "reward-to-go": Estimator(CLICKS, _weighted(lambda s: reward_to_go(s.click_SK))),
    "reward-to-go, RLOO, 4 slates": Estimator(
        CLICKS, _weighted(lambda s: less_the_others(reward_to_go(s.click_SK), replicas=4)), replicas=4
    ),
    EXPECTED_BASELINE: Estimator(
        MODEL, _weighted(lambda s: whole_slate(_expected(s), baseline=s.bandit.expected_reward))
    ),
    "reward-to-go, expected clicks (PL-Rank-1)": Estimator(MODEL, _weighted(lambda s: reward_to_go(_expected(s)))),
    "PL-Rank-3": Estimator(MODEL, _labelled(pl_rank)),
    "PL-Rank-3, centred": Estimator(
        MODEL,
        _labelled(lambda score, slate, label, exposure: pl_rank(score, slate, centred(score, label), exposure)),
    ),
    "PL-Rank, conditional": Estimator(MODEL, _labelled(conditional_pl_rank)),
    "critic": Estimator(MODEL, _criticised(is_wrong=False)),
    "PL-Rank, conditional, wrong model": Estimator(
        WRONG, _labelled(conditional_pl_rank, is_wrong=True), is_unbiased=False
    ),
    "critic, wrong model": Estimator(f"{CLICKS}, {WRONG}", _criticised(is_wrong=True)),
    "PPO, clip .2, older policy": Estimator(CLICKS, _by_loss(_clipped), is_unbiased=False),
    "top-K correction, uniform logs, cap 10": Estimator(LOGS, _by_loss(_off_policy), is_unbiased=False),
}
