"""Confidence intervals: percentile bootstrap over units, Student t over seeds.

Shape legend: U units (users, or whatever was drawn independently), R resamples, S seeds.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recolam.errors import DataError

Floats = NDArray[np.float64]
_BLOCK_CELLS = 2_000_000  # resampled values held at a time


@dataclass(frozen=True)
class Interval:
    """A mean (or ratio) with the ends of its two-sided confidence interval."""

    mean: float
    low: float
    high: float

    def as_json(self) -> dict[str, object]:
        return {"mean": self.mean, "ci95": [self.low, self.high]}


def bootstrap_ratio(
    numerator_U: Floats, denominator_U: Floats, *, resamples: int, seed: int, confidence: float = 0.95
) -> Interval:
    """Percentile bootstrap of sum(numerator) / sum(denominator), resampling units with replacement.

    (Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapter 13.) A mean over units has denominator 1; a mean
    over events clustered by user has the users' sums and counts; a self-normalised estimate has the weights' sums.
    Resamples whose denominator is 0 are left out.

    Args:
        numerator_U: float [U].
        denominator_U: float [U], none negative.
        resamples: how many resamples; they are drawn in blocks, so that memory stays bounded.
        seed: seed of the draws.
        confidence: mass between the two ends.

    Raises:
        DataError: no units, a value that is not finite, or a denominator that sums to 0.
    """
    _check_ratio(numerator_U, denominator_U, resamples)
    units = len(numerator_U)
    generator = np.random.default_rng(seed)
    block = max(1, _BLOCK_CELLS // units)
    ratios = []
    for start in range(0, resamples, block):
        chosen_RU = generator.integers(0, units, size=(min(block, resamples - start), units))
        below_R = denominator_U[chosen_RU].sum(axis=1)
        above_R = numerator_U[chosen_RU].sum(axis=1)
        ratios.append(above_R[below_R > 0] / below_R[below_R > 0])
    ratio_R = np.concatenate(ratios)
    mean = float(numerator_U.sum() / denominator_U.sum())
    if not len(ratio_R):
        return Interval(mean, mean, mean)
    tail = (1 - confidence) / 2
    low, high = np.quantile(ratio_R, [tail, 1 - tail])
    return Interval(mean, float(low), float(high))


def bootstrap_mean(value_U: Floats, *, resamples: int, seed: int, confidence: float = 0.95) -> Interval:
    """Percentile bootstrap of the mean of independent units; see `bootstrap_ratio`."""
    return bootstrap_ratio(value_U, np.ones(len(value_U)), resamples=resamples, seed=seed, confidence=confidence)


def cluster_sums(value_E: Floats, unit_E: NDArray[np.int64]) -> Floats:
    """Sums of the values that belong to the same unit, one per unit that occurs.

    Args:
        value_E: float [E].
        unit_E: any integer name of the unit of each value.

    Returns:
        Float [U], in the order of the sorted names.
    """
    _, row_E = np.unique(unit_E, return_inverse=True)
    return np.bincount(row_E, weights=value_E).astype(np.float64)


def cluster_error(value_E: Floats, unit_E: NDArray[np.int64]) -> float:
    """Standard error of the mean of events, where those of one unit go together (Liang & Zeger 1986, without a model).

    sqrt(sum over units of (sum of the unit's deviations from the mean)^2) / E; 0 without events.

    Args:
        value_E: float [E].
        unit_E: unit of each event, int64 [E].
    """
    if len(value_E) == 0:
        return 0.0
    deviation_U = np.bincount(np.unique(unit_E, return_inverse=True)[1], weights=value_E - value_E.mean())
    return float(np.sqrt(np.square(deviation_U).sum()) / len(value_E))


def student_t_interval(value_S: Floats, *, confidence: float = 0.95) -> Interval:
    """mean ± t(S - 1) * s / sqrt(S) over independent seeds (Student 1908, doi:10.1093/biomet/6.1.1).

    Raises:
        DataError: fewer than two values, or one that is not finite.
    """
    value_S = np.asarray(value_S, dtype=np.float64)
    if len(value_S) < 2 or not np.isfinite(value_S).all():
        raise DataError(f"an interval over seeds needs at least two finite values, got {value_S.tolist()}")
    mean = float(value_S.mean())
    half = student_t_quantile(0.5 + confidence / 2, freedom=len(value_S) - 1) * float(value_S.std(ddof=1))
    half /= math.sqrt(len(value_S))
    return Interval(mean, mean - half, mean + half)


def paired_difference(first_S: Floats, second_S: Floats, *, confidence: float = 0.95) -> Interval:
    """Student t interval of first - second, seed by seed: noise that both share cancels.

    Raises:
        DataError: the lists differ in length, or `student_t_interval` refuses the differences.
    """
    first_S, second_S = np.asarray(first_S, dtype=np.float64), np.asarray(second_S, dtype=np.float64)
    if first_S.shape != second_S.shape:
        raise DataError(f"a paired difference needs the same seeds, got {len(first_S)} and {len(second_S)} values")
    return student_t_interval(first_S - second_S, confidence=confidence)


def student_t_quantile(probability: float, *, freedom: int) -> float:
    """The quantile of Student's t for a whole number of degrees of freedom, by bisection of `student_t_cdf`.

    Raises:
        DataError: a probability outside (0, 1), or fewer than one degree of freedom.
    """
    if not 0 < probability < 1 or freedom < 1:
        raise DataError(f"no quantile of Student's t at {probability} with {freedom} degrees of freedom")
    if probability < 0.5:
        return -student_t_quantile(1 - probability, freedom=freedom)
    low, high = 0.0, 1.0
    while student_t_cdf(high, freedom=freedom) < probability:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if student_t_cdf(middle, freedom=freedom) < probability else (low, middle)
    return (low + high) / 2


def student_t_cdf(value: float, *, freedom: int) -> float:
    """P(T <= value), closed form for whole degrees of freedom (Abramowitz & Stegun 1964, 26.7.3 and 26.7.4)."""
    angle = math.atan2(value, math.sqrt(freedom))
    cosine_squared = math.cos(angle) ** 2
    is_odd = freedom % 2 == 1
    term = total = math.cos(angle) if is_odd else 1.0
    for step in range(3 if is_odd else 2, freedom - 1, 2):
        term *= cosine_squared * (step - 1) / step
        total += term
    if is_odd:
        inner = total * math.sin(angle) if freedom > 1 else 0.0
        return 0.5 + (angle + inner) / math.pi
    return 0.5 + total * math.sin(angle) / 2


def _check_ratio(numerator_U: Floats, denominator_U: Floats, resamples: int) -> None:
    if len(numerator_U) == 0 or numerator_U.shape != denominator_U.shape or resamples < 1:
        raise DataError(
            f"a bootstrap needs units and resamples, got {numerator_U.shape} values, {denominator_U.shape} weights "
            f"and {resamples} resamples"
        )
    if not (np.isfinite(numerator_U).all() and np.isfinite(denominator_U).all()):
        raise DataError("a bootstrap needs finite values")
    if denominator_U.sum() <= 0 or denominator_U.min() < 0:
        raise DataError("a bootstrap of a ratio needs denominators that are not negative and do not sum to 0")
