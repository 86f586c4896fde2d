"""Two-sample tests: did one distribution produce both? Each returns a p-value; `holm` corrects for how many there are.

The statistics and their distributions are SciPy's; here is only what a comparison of worlds adds: rare categories are
merged, and samples that are constant and alike do not differ. A test of an empty sample is no number, which
`recolam.world.parity.compare` takes for a difference.

Shape legend: N, M values of the two samples, C categories, P p-values.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Values = NDArray[np.number[Any]]
_LEAST_EXPECTED = 5.0


def chi_square(first_N: Values, second_M: Values) -> float:
    """Pearson's test of homogeneity of two samples of categories (Pearson 1900, doi:10.1080/14786440009463897).

    The rarest category joins the next until all expect at least 5 in either sample (Cochran 1952); where that leaves
    one, nothing can differ.

    Args:
        first_N: integers [N], the categories of the first sample.
        second_M: integers [M].
    """
    if min(len(first_N), len(second_M)) == 0:
        return np.nan
    seen_2C = stats.contingency.crosstab(
        np.repeat([0, 1], [len(first_N), len(second_M)]), np.concatenate([first_N, second_M])
    ).count
    table_2C = seen_2C[:, np.argsort(-seen_2C.sum(axis=0), kind="stable")]
    smaller = table_2C.sum(axis=1).min() / table_2C.sum()
    while table_2C.shape[1] > 1 and table_2C[:, -1].sum() * smaller < _LEAST_EXPECTED:
        table_2C = np.column_stack([table_2C[:, :-2], table_2C[:, -2:].sum(axis=1)])
    return float(stats.chi2_contingency(table_2C, correction=False).pvalue)


def kolmogorov_smirnov(first_N: Values, second_M: Values) -> float:
    """Kolmogorov-Smirnov's two-sample test of numbers, by the distribution for many values; ties make it conservative.

    Args:
        first_N: numbers [N].
        second_M: numbers [M].
    """
    if min(len(first_N), len(second_M)) == 0:
        return np.nan
    return float(stats.ks_2samp(first_N, second_M, method="asymp").pvalue)


def welch(first_N: Values, second_M: Values) -> float:
    """Welch's test of two means with unequal variances. Two constant samples are alike (1.0) or not (0.0).

    Args:
        first_N: numbers [N], at least two.
        second_M: numbers [M], at least two.
    """
    if min(len(first_N), len(second_M)) > 1 and np.ptp(np.concatenate([first_N, second_M])) == 0:
        return 1.0
    return float(stats.ttest_ind(first_N.astype(np.float64), second_M.astype(np.float64), equal_var=False).pvalue)


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
