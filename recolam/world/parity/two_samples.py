"""Two-sample tests: did one distribution produce both? Each returns a p-value; `holm` corrects for how many there are.

Shape legend: N, M values of the two samples, C categories, P p-values.
"""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Values = NDArray[np.number[Any]]
_LEAST_EXPECTED = 5.0
_KOLMOGOROV_TERMS = 100


def chi_square(first_N: Values, second_M: Values) -> float:
    """Pearson's test of homogeneity of two samples of categories (Pearson 1900, doi:10.1080/14786440009463897).

    X² = sum (seen - expected)² / expected over both samples, C - 1 degrees of freedom. Categories that expect fewer
    than 5 in either sample (Cochran 1952) are counted as one; where that leaves fewer than two, nothing can differ.

    Args:
        first_N: integers [N], the categories of the first sample.
        second_M: integers [M].

    Raises:
        ValueError: a sample is empty.
    """
    _check(first_N, second_M)
    category_C, index = np.unique(np.concatenate([first_N, second_M]), return_inverse=True)
    seen_2C = np.stack(
        [np.bincount(part, minlength=len(category_C)) for part in (index[: len(first_N)], index[len(first_N) :])]
    ).astype(np.float64)
    share_2 = seen_2C.sum(axis=1) / seen_2C.sum()
    is_rare_C = seen_2C.sum(axis=0) * share_2.min() < _LEAST_EXPECTED
    rare_2 = seen_2C[:, is_rare_C].sum(axis=1)
    table_2C = seen_2C[:, ~is_rare_C]
    if rare_2.sum() * share_2.min() >= _LEAST_EXPECTED:
        table_2C = np.column_stack([table_2C, rare_2])
    elif table_2C.shape[1]:
        table_2C[:, table_2C.sum(axis=0).argmin()] += rare_2
    freedom = table_2C.shape[1] - 1
    if freedom < 1:
        return 1.0
    expected_2C = share_2[:, None] * table_2C.sum(axis=0)
    return chi_square_tail(float(((table_2C - expected_2C) ** 2 / expected_2C).sum()), freedom=freedom)


def chi_square_tail(value: float, *, freedom: int) -> float:
    """P(X² >= value): the regularised upper incomplete gamma function Q(freedom / 2, value / 2)."""
    halves = torch.tensor([freedom / 2, value / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(halves[0], halves[1]))


def kolmogorov_smirnov(first_N: Values, second_M: Values) -> float:
    """Kolmogorov-Smirnov's two-sample test of numbers (Smirnov 1948, doi:10.1214/aoms/1177730256).

    D = max |F(x) - G(x)|; p = 2 sum_j (-1)^(j-1) exp(-2 j² e²) with e = (s + 0.12 + 0.11 / s) D, s² = N M / (N + M)
    (Stephens 1970, doi:10.1111/j.2517-6161.1970.tb00821.x). Ties make it conservative.

    Args:
        first_N: numbers [N].
        second_M: numbers [M].

    Raises:
        ValueError: a sample is empty.
    """
    _check(first_N, second_M)
    first_N, second_M = np.sort(first_N), np.sort(second_M)
    at = np.concatenate([first_N, second_M])
    below_first = np.searchsorted(first_N, at, side="right") / len(first_N)
    below_second = np.searchsorted(second_M, at, side="right") / len(second_M)
    scale = math.sqrt(len(first_N) * len(second_M) / (len(first_N) + len(second_M)))
    distance = float(np.abs(below_first - below_second).max())
    return kolmogorov_tail((scale + 0.12 + 0.11 / scale) * distance)


def kolmogorov_tail(value: float) -> float:
    """P(K >= value) of Kolmogorov's distribution, for values from 0."""
    if value < 0.2:  # there the series needs ever more terms, and 1 - P is below 1e-12
        return 1.0
    term_J = np.arange(1, _KOLMOGOROV_TERMS + 1)
    signs_J = np.where(term_J % 2 == 1, 1.0, -1.0)
    return float(np.clip(2 * (signs_J * np.exp(-2 * (term_J * value) ** 2)).sum(), 0.0, 1.0))


def welch(first_N: Values, second_M: Values) -> float:
    """Welch's test of two means with unequal variances (Welch 1947, doi:10.1093/biomet/34.1-2.28), by the normal tail.

    z = (mean - mean') / sqrt(s² / N + s'² / M). The normal tail in place of Student's needs some hundreds of values.
    Two constant samples are alike (1.0) or not (0.0).

    Args:
        first_N: numbers [N], at least two.
        second_M: numbers [M], at least two.

    Raises:
        ValueError: a sample of fewer than two values.
    """
    if len(first_N) < 2 or len(second_M) < 2:
        raise ValueError(f"Welch's test needs two values a sample, got {len(first_N)} and {len(second_M)}")
    first_N, second_M = np.asarray(first_N, np.float64), np.asarray(second_M, np.float64)
    difference = abs(float(first_N.mean() - second_M.mean()))
    error = math.sqrt(float(first_N.var(ddof=1)) / len(first_N) + float(second_M.var(ddof=1)) / len(second_M))
    if error == 0:
        return 1.0 if difference == 0 else 0.0
    return math.erfc(difference / error / math.sqrt(2))


def holm(p_P: NDArray[np.float64]) -> NDArray[np.float64]:
    """Adjusted p-values: rejecting those at or below a level errs anywhere with at most that chance (Holm 1979).

    adjusted_(i) = max over j <= i of min(1, (P - j + 1) p_(j)), in ascending order of p. Any dependence is allowed.

    Args:
        p_P: p-values, float [P].

    Returns:
        Float [P], in the order of `p_P`.
    """
    order_P = np.argsort(p_P, kind="stable")
    factor_P = len(p_P) - np.arange(len(p_P))
    adjusted_P = np.empty(len(p_P))
    adjusted_P[order_P] = np.maximum.accumulate(np.minimum(1.0, factor_P * p_P[order_P]))
    return adjusted_P


def _check(first_N: Values, second_M: Values) -> None:
    if len(first_N) == 0 or len(second_M) == 0:
        raise ValueError(f"a two-sample test needs values, got {len(first_N)} and {len(second_M)}")
