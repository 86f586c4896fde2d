"""Intervals: known quantiles, and coverage over hundreds of replications."""

import numpy as np
import pytest

from recolam.errors import DataError
from recolam.intervals import (
    bootstrap_mean,
    bootstrap_ratio,
    cluster_sums,
    paired_difference,
    student_t_cdf,
    student_t_interval,
    student_t_quantile,
)


@pytest.mark.parametrize(
    ("freedom", "expected"),
    [(1, 12.7062), (2, 4.30265), (3, 3.18245), (4, 2.77645), (9, 2.26216), (30, 2.04227), (199, 1.97196)],
)
def test_t_quantiles_are_those_of_the_tables(freedom: int, expected: float) -> None:
    assert student_t_quantile(0.975, freedom=freedom) == pytest.approx(expected, rel=2e-5)
    assert student_t_quantile(0.025, freedom=freedom) == pytest.approx(-expected, rel=2e-5)


def test_t_quantile_inverts_the_distribution() -> None:
    for freedom in (1, 2, 5, 8, 40):
        for probability in (0.1, 0.5, 0.8, 0.999):
            value = student_t_quantile(probability, freedom=freedom)
            assert student_t_cdf(value, freedom=freedom) == pytest.approx(probability, abs=1e-9)


def test_t_interval_by_hand() -> None:
    interval = student_t_interval(np.array([1.0, 2.0, 3.0]))
    half = 4.30265 * 1.0 / np.sqrt(3)
    assert (interval.mean, interval.low, interval.high) == pytest.approx((2, 2 - half, 2 + half), rel=1e-5)


def test_paired_difference_removes_what_both_share() -> None:
    shared = np.array([10.0, 90.0, 50.0, 30.0])
    interval = paired_difference(shared + np.array([1.0, 1.1, 0.9, 1.0]), shared)
    assert interval.mean == pytest.approx(1.0)
    assert 0.8 < interval.low < interval.high < 1.2
    with pytest.raises(DataError, match="same seeds"):
        paired_difference(shared, shared[:3])


def test_one_seed_gives_no_interval() -> None:
    with pytest.raises(DataError, match="at least two"):
        student_t_interval(np.array([1.0]))


def test_t_interval_covers_the_truth_in_95_of_100_cases() -> None:
    generator = np.random.default_rng(1)
    covered = 0
    for _ in range(1000):
        interval = student_t_interval(3.0 + generator.standard_normal(5))
        covered += interval.low <= 3.0 <= interval.high
    assert 920 <= covered <= 975  # 950 expected, standard deviation 7


def test_bootstrap_covers_the_truth_of_a_skewed_mean() -> None:
    generator = np.random.default_rng(2)
    covered = 0
    for replication in range(400):
        interval = bootstrap_mean(generator.exponential(2.0, size=150), resamples=300, seed=replication)
        covered += interval.low <= 2.0 <= interval.high
    assert 355 <= covered <= 395  # 380 expected


def test_clustered_bootstrap_covers_where_the_naive_one_does_not() -> None:
    generator = np.random.default_rng(3)
    covered, naive = 0, 0
    users = 60
    for replication in range(300):
        size_U = generator.integers(1, 8, size=users)
        user_E = np.repeat(np.arange(users), size_U)
        value_E = generator.standard_normal(users)[user_E] + 0.2 * generator.standard_normal(len(user_E))
        one_E = np.ones(len(user_E))
        by_user = bootstrap_ratio(
            cluster_sums(value_E, user_E), cluster_sums(one_E, user_E), resamples=300, seed=replication
        )
        by_event = bootstrap_mean(value_E, resamples=300, seed=replication)
        assert by_user.mean == pytest.approx(by_event.mean)
        covered += by_user.low <= 0.0 <= by_user.high
        naive += by_event.low <= 0.0 <= by_event.high
    assert covered >= 265  # 285 expected
    assert naive <= 250  # users' events are not independent


def test_bootstrap_is_seeded_and_its_blocks_do_not_change_the_kind_of_result() -> None:
    value_U = np.random.default_rng(4).random(5000)  # so many that the resamples take several blocks
    first, again = (bootstrap_mean(value_U, resamples=900, seed=7) for _ in range(2))
    assert first == again
    assert first != bootstrap_mean(value_U, resamples=900, seed=8)
    assert first.high - first.low == pytest.approx(2 * 1.96 * value_U.std() / np.sqrt(5000), rel=0.15)


def test_bootstrap_refuses_what_it_cannot_resample() -> None:
    with pytest.raises(DataError, match="needs units"):
        bootstrap_mean(np.array([]), resamples=10, seed=0)
    with pytest.raises(DataError, match="finite"):
        bootstrap_mean(np.array([1.0, np.nan]), resamples=10, seed=0)
    with pytest.raises(DataError, match="sum to 0"):
        bootstrap_ratio(np.ones(3), np.zeros(3), resamples=10, seed=0)


def test_cluster_sums_by_hand() -> None:
    assert cluster_sums(np.array([1.0, 2.0, 3.0, 4.0]), np.array([9, 2, 9, 5])).tolist() == [2.0, 4.0, 4.0]
