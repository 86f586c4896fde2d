"""Off-policy estimates of a slate agent from the logged slates of a dataset.

Shape legend: S logged slates, B slates of a block, K slate positions, T history length.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recolam.contracts.dataset import FIRST_ITEM, PADDING, TEST, VALIDATION, LoggedSlates, TokenisedDataset
from recolam.contracts.protocols import Observation
from recolam.evaluate.estimators import OffPolicyEstimate, dr, estimate_all, importance_weights, log_weights
from recolam.evaluate.seen import items_left, observe
from recolam.intervals import Interval, bootstrap_ratio, cluster_sums
from recolam.policy.distribution import SlateDistribution
from recolam.progress import Progress
from recolam.seeding import derive, numpy_generator, torch_generator


class TargetAgent(Protocol):
    """The policy that is judged: `recolam.policy.agent.SlateAgent` is one.

    `is_restricted` where more than what a user had narrows its slates.
    """

    @property
    def is_restricted(self) -> bool: ...

    def distribution(self, observation: Observation) -> SlateDistribution: ...


class RewardModel(Protocol):
    """What the direct method believes: `recolam.world.fitted.FittedUsers` is one."""

    def expected_reward(self, history_BT: Tensor, length_B: Tensor, slate_BK: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class OffPolicyResult:
    """The estimates by name, or the reason why there are none, and what a reader must know to trust them.

    Attributes:
        estimates: by estimator; empty where `reason` is set.
        reason: why there is no estimate, "" otherwise.
        split: which logged slates were used, in words.
        logged_mean: mean reward of the same slates as they were logged: the logging policy's own value.
        mean_weight: mean importance weight; near 1 where logging and target policy overlap.
        impossible: logged slates that the target policy can never show (seen or unknown items in them).
        gain: DR minus the logged reward, slate by slate: what the target policy would have earned more.
    """

    estimates: Mapping[str, OffPolicyEstimate] = field(default_factory=dict)
    reason: str = ""
    split: str = ""
    logged_mean: float = 0.0
    mean_weight: float = 0.0
    impossible: int = 0
    gain: Interval | None = None


def evaluate_off_policy(
    dataset: TokenisedDataset,
    agent: TargetAgent,
    reward_model: RewardModel,
    *,
    max_len: int,
    samples: int = 4,
    least: int = 200,
    most: int = 20_000,
    resamples: int = 1000,
    block: int = 256,
    seed: int = 0,
) -> OffPolicyResult:
    """Estimates the expected reward of one slate of `agent` from slates that another policy showed.

    Args:
        dataset: its slates of the test split are used; validation slates join where test has fewer than `least`.
            Contexts in which the user has had almost everything, so that no slate is left, are passed over.
        agent: the target policy, judged as it samples.
        reward_model: its rewards stand in for DM and DR; fitted on train, so the slates used here are new to it.
        max_len: how many of the newest items of a history the agent and the model are shown.
        samples: slates drawn from the target policy for each context to average the model's reward over.
        least: see `dataset`.
        most: slates used; a seeded draw where there are more.
        resamples: bootstrap resamples of users.
        block: slates scored at a time.
        seed: seed of the sampled slates and of the bootstrap.

    Raises:
        DataError: logged propensities that are no probabilities.
    """
    if dataset.slates is None:
        return OffPolicyResult(reason="the log has no slates with propensities")
    row_S, split = choose_slates(dataset.slates, least=least, most=most, seed=seed)
    row_S = _with_room(dataset, dataset.slates, row_S, agent, max_len=max_len, block=block)
    if len(row_S) == 0:
        return OffPolicyResult(reason="no logged slate is newer than the training data")
    scored = _score(dataset, row_S, agent, reward_model, max_len=max_len, samples=samples, block=block, seed=seed)
    reward_S = dataset.slates.reward_S[row_S].astype(np.float64)
    log_propensity_S = dataset.slates.log_propensity_S[row_S].astype(np.float64)
    log_weight_S = log_weights(scored["log_target_S"], log_propensity_S)
    impossible = int(np.isneginf(log_weight_S).sum())
    facts: dict[str, Any] = {"split": split, "logged_mean": float(reward_S.mean()), "impossible": impossible}
    if impossible == len(row_S):
        return OffPolicyResult(reason="the policy can show none of the logged slates (no overlap)", **facts)
    user_S = dataset.slates.user_S[row_S]
    estimates = estimate_all(
        reward_S=reward_S, log_propensity_S=log_propensity_S, user_S=user_S, resamples=resamples, seed=seed, **scored
    )
    better_S, one_S = dr(reward_S, log_weight_S, q_logged_S=scored["q_logged_S"], q_target_S=scored["q_target_S"])
    gain = bootstrap_ratio(
        cluster_sums(better_S - reward_S, user_S), cluster_sums(one_S, user_S),
        resamples=resamples, seed=derive(seed, "bootstrap"),
    )  # fmt: skip
    mean_weight = float(importance_weights(log_weight_S).mean())
    return OffPolicyResult(estimates=estimates, mean_weight=mean_weight, gain=gain, **facts)


def choose_slates(slates: LoggedSlates, *, least: int, most: int, seed: int) -> tuple[NDArray[np.int64], str]:
    """Rows of the slates to estimate from, and their split in words: test, or with too few of them validation too."""
    is_used_S, words = slates.split_S == TEST, "test"
    tests = int(is_used_S.sum())
    if tests < least:
        is_used_S = is_used_S | (slates.split_S == VALIDATION)
        words = f"validation and test (test alone has {tests} of the {least} wanted)"
    row_S = np.flatnonzero(is_used_S)
    if len(row_S) <= most:
        return row_S, words
    drawn_S = numpy_generator(seed, "logged slates").choice(row_S, size=most, replace=False)
    return np.sort(drawn_S), f"{words}, {most:,} drawn of {len(row_S):,}"


@torch.no_grad()
def _score(
    dataset: TokenisedDataset,
    row_S: NDArray[np.int64],
    agent: TargetAgent,
    reward_model: RewardModel,
    *,
    max_len: int,
    samples: int,
    block: int,
    seed: int,
) -> dict[str, NDArray[np.float64]]:
    """`log_target_S`, `q_logged_S` and `q_target_S` of the slates in these rows."""
    slates = dataset.slates
    if slates is None:
        raise ValueError("no slates to score")
    generator = torch_generator(seed, "off-policy", "target slates")
    scored = {name: np.zeros(len(row_S)) for name in ("log_target_S", "q_logged_S", "q_target_S")}
    width_S = (slates.slate_SK[row_S] != PADDING).sum(axis=1)
    with Progress("off-policy", total=len(row_S), unit="slate") as progress:
        for place_B, width in _blocks(width_S, block=block):
            row_B = row_S[place_B]
            seen = observe(dataset, slates.history_end_S[row_B], max_len=max_len, user_B=slates.user_S[row_B])
            slate_BK = torch.from_numpy(slates.slate_SK[row_B, :width].astype(np.int64))
            q_target_B = torch.zeros(len(row_B), dtype=torch.float64)
            distribution = agent.distribution(seen)
            for _ in range(samples):
                drawn_BK = distribution.sample(width, generator)
                q_target_B += reward_model.expected_reward(seen.history_BT, seen.length_B, drawn_BK).double() / samples
            scored["log_target_S"][place_B] = _log_target(distribution, slate_BK).double().numpy()
            q_logged_B = reward_model.expected_reward(seen.history_BT, seen.length_B, slate_BK)
            scored["q_logged_S"][place_B] = q_logged_B.double().numpy()
            scored["q_target_S"][place_B] = q_target_B.numpy()
            progress.advance(len(row_B))
    return scored


@torch.no_grad()
def _with_room(
    dataset: TokenisedDataset,
    slates: LoggedSlates,
    row_S: NDArray[np.int64],
    agent: TargetAgent,
    *,
    max_len: int,
    block: int,
) -> NDArray[np.int64]:
    """The rows whose history leaves the target policy a slate of the logged size."""
    width_S = (slates.slate_SK[row_S] != PADDING).sum(axis=1)
    has_room_S = np.zeros(len(row_S), dtype=bool)
    for place_B, width in _blocks(width_S, block=block):
        row_B = row_S[place_B]
        seen = observe(dataset, slates.history_end_S[row_B], max_len=max_len, user_B=slates.user_S[row_B])
        has_room_B = items_left(seen, tokens=dataset.tokens) >= width
        if agent.is_restricted:
            has_room_B = agent.distribution(seen).is_possible(width)
        has_room_S[place_B] = has_room_B.numpy()
    return row_S[has_room_S]


def _blocks(width_S: NDArray[np.int64], *, block: int) -> Iterator[tuple[NDArray[np.int64], int]]:
    """Places of at most `block` slates of equal width; slates shorter than the longest are padded in the dataset."""
    for width in np.unique(width_S):
        place_S = np.flatnonzero(width_S == width)
        for start in range(0, len(place_S), block):
            yield place_S[start : start + block], int(width)


def _log_target(distribution: SlateDistribution, slate_BK: Tensor) -> Tensor:
    """Log probability of each logged slate, -inf for one with an item that the agent's vocabulary lacks."""
    is_known_B = (slate_BK >= FIRST_ITEM).all(dim=1)
    log_prob_B = torch.full((len(slate_BK),), -torch.inf)
    if is_known_B.any():
        log_prob_B[is_known_B] = distribution.rows(is_known_B).log_prob(slate_BK[is_known_B]).float()
    return log_prob_B
