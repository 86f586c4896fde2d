"""Off-policy estimators for logged slates: what would another policy have earned, slate by slate?

Each logged slate is one round of a contextual bandit whose action is the whole ordered slate: a context (the user's
history), the slate drawn by the logging policy with a known probability, and its reward. The value is the expected
reward of one slate under the target policy, over the contexts the logging policy met.

Shape legend: S logged slates, U users.

    w = pi_target(slate | context) / pi_logging(slate | context)
    IPS   = mean(w r)                         Horvitz & Thompson 1952; unbiased, high variance
    SNIPS = sum(w r) / sum(w)                 Swaminathan & Joachims 2015 (self-normalised); bounded by the rewards
    DM    = mean(q_target)                    as good as the reward model
    DR    = mean(q_target + w (r - q_logged)) Dudík, Langford & Li 2011, arXiv:1103.4601; unbiased if w is right
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recolam.errors import DataError
from recolam.intervals import bootstrap_ratio, cluster_sums
from recolam.seeding import derive

Floats = NDArray[np.float64]
Contribution = tuple[Floats, Floats]
"""Numerator and denominator of each slate, [S] each; the estimate is the ratio of their sums."""

_LARGEST_LOG_WEIGHT = 600.0
"""e^600 is about 1e260: sums of such weights and rewards still fit in float64. Larger weights are cut there."""
_ROUNDING = 1e-4
"""How far above 0 a log probability may be by rounding of float32."""


@dataclass(frozen=True)
class OffPolicyEstimate:
    """An estimated value with its 95 % interval.

    Attributes:
        value: expected reward of one slate.
        ci95: ends of the percentile bootstrap interval.
        ess: Kish's effective sample size of the importance weights, n for an estimator without weights.
        max_weight: the largest importance weight, 1 for an estimator without weights.
        n: logged slates used.
    """

    value: float
    ci95: tuple[float, float]
    ess: float
    max_weight: float
    n: int

    def as_json(self) -> dict[str, object]:
        return {
            "value": self.value, "ci95": list(self.ci95), "ess": self.ess, "max_weight": self.max_weight, "n": self.n
        }  # fmt: skip


def log_weights(log_target_S: Floats, log_propensity_S: Floats) -> Floats:
    """log w = log pi_target - log pi_logging in float64; -inf where the target never shows the slate.

    Raises:
        DataError: a logging propensity that is not finite or above 0, a target one that is NaN, +inf or above 0.
    """
    log_target_S = np.asarray(log_target_S, dtype=np.float64)
    log_propensity_S = np.asarray(log_propensity_S, dtype=np.float64)
    if log_target_S.shape != log_propensity_S.shape or log_propensity_S.size == 0:
        raise DataError(f"{log_propensity_S.shape} logged propensities do not fit {log_target_S.shape} target ones")
    _refuse(~np.isfinite(log_propensity_S), log_propensity_S, "log propensity", "not finite")
    _refuse(log_propensity_S > _ROUNDING, log_propensity_S, "log propensity", "above 0, so no probability")
    _refuse(np.isnan(log_target_S) | (log_target_S == np.inf), log_target_S, "target's log probability", "no number")
    _refuse(log_target_S > _ROUNDING, log_target_S, "target's log probability", "above 0, so no probability")
    return log_target_S - log_propensity_S


def importance_weights(log_weight_S: Floats) -> Floats:
    """w = exp(log w), cut at e^600 so that sums stay finite."""
    return np.exp(np.minimum(log_weight_S, _LARGEST_LOG_WEIGHT))


def scaled_weights(log_weight_S: Floats) -> Floats:
    """w / max(w): what ratios of weights need, free of overflow; all 0 where no logged slate can be shown."""
    largest = log_weight_S.max()
    return np.exp(log_weight_S - largest) if np.isfinite(largest) else np.zeros(len(log_weight_S))


def effective_sample_size(log_weight_S: Floats) -> float:
    """Kish's effective sample size (sum w)^2 / sum w^2 (Kish 1965, Survey Sampling, section 8.2); 0 without overlap."""
    weight_S = scaled_weights(log_weight_S)
    square = float(np.square(weight_S).sum())
    return float(weight_S.sum()) ** 2 / square if square > 0 else 0.0


def ips(reward_S: Floats, log_weight_S: Floats) -> Contribution:
    """Inverse propensity scoring: w r over 1."""
    return importance_weights(log_weight_S) * reward_S, np.ones(len(reward_S))


def snips(reward_S: Floats, log_weight_S: Floats) -> Contribution:
    """Self-normalised IPS: w r over w.

    Raises:
        DataError: the target policy shows none of the logged slates, so that there is nothing to weigh.
    """
    weight_S = scaled_weights(log_weight_S)
    if weight_S.sum() == 0:
        raise DataError("the target policy never shows any of the logged slates: no overlap, nothing to estimate from")
    return weight_S * reward_S, weight_S


def dm(q_target_S: Floats) -> Contribution:
    """Direct method: the reward model's expectation under the target policy, over 1."""
    return np.asarray(q_target_S, dtype=np.float64), np.ones(len(q_target_S))


def dr(reward_S: Floats, log_weight_S: Floats, *, q_logged_S: Floats, q_target_S: Floats) -> Contribution:
    """Doubly robust: q_target + w (r - q_logged) over 1.

    Args:
        reward_S: observed rewards.
        log_weight_S: from `log_weights`.
        q_logged_S: the model's expected reward of the logged slate.
        q_target_S: the model's expected reward under the target policy in the same context.
    """
    return q_target_S + importance_weights(log_weight_S) * (reward_S - q_logged_S), np.ones(len(reward_S))


def point_value(contribution: Contribution) -> float:
    """The estimate of a contribution: sum of numerators over sum of denominators."""
    return float(contribution[0].sum() / contribution[1].sum())


def estimate_all(
    *,
    reward_S: Floats,
    log_propensity_S: Floats,
    log_target_S: Floats,
    q_logged_S: Floats,
    q_target_S: Floats,
    user_S: NDArray[np.int64] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, OffPolicyEstimate]:
    """IPS, SNIPS, DM and DR with bootstrap intervals, each under its lower-case name.

    Args:
        reward_S: observed rewards.
        log_propensity_S: log probability of each logged slate under the logging policy, as logged.
        log_target_S: the same under the target policy.
        q_logged_S: the reward model's expectation for the logged slate.
        q_target_S: the reward model's expectation under the target policy.
        user_S: the user of each slate: users are resampled whole, since one user's slates are not independent.
            Without it every slate is a unit of its own.
        resamples: bootstrap resamples.
        seed: seed of the resampling.

    Raises:
        DataError: arrays of different lengths, values that are not finite, impossible propensities, no overlap.
    """
    reward_S, q_logged_S, q_target_S = (np.asarray(x, dtype=np.float64) for x in (reward_S, q_logged_S, q_target_S))
    log_weight_S = log_weights(log_target_S, log_propensity_S)
    for name, value_S in (("reward", reward_S), ("q_logged", q_logged_S), ("q_target", q_target_S)):
        if value_S.shape != log_weight_S.shape:
            raise DataError(f"{name} has shape {value_S.shape}, the propensities have {log_weight_S.shape}")
        _refuse(~np.isfinite(value_S), value_S, name, "not finite")
    contributions = {
        "ips": ips(reward_S, log_weight_S),
        "snips": snips(reward_S, log_weight_S),
        "dm": dm(q_target_S),
        "dr": dr(reward_S, log_weight_S, q_logged_S=q_logged_S, q_target_S=q_target_S),
    }
    unit_S = np.arange(len(reward_S)) if user_S is None else np.asarray(user_S)
    estimates = {}
    for name, (numerator_S, denominator_S) in contributions.items():
        interval = bootstrap_ratio(
            cluster_sums(numerator_S, unit_S), cluster_sums(denominator_S, unit_S),
            resamples=resamples, seed=derive(seed, "bootstrap"),
        )  # fmt: skip
        is_weighted = name != "dm"
        estimates[name] = OffPolicyEstimate(
            value=interval.mean,
            ci95=(interval.low, interval.high),
            ess=effective_sample_size(log_weight_S) if is_weighted else float(len(reward_S)),
            max_weight=float(importance_weights(log_weight_S).max()) if is_weighted else 1.0,
            n=len(reward_S),
        )
    return estimates


def _refuse(is_bad_S: NDArray[np.bool_], value_S: Floats, name: str, reason: str) -> None:
    if is_bad_S.any():
        row = int(np.flatnonzero(is_bad_S)[0])
        raise DataError(f"{name} of logged slate {row} is {value_S[row]}: {reason}")
