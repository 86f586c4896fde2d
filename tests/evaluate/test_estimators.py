"""Off-policy estimators on a bandit small enough to enumerate: 3 contexts, 4 items, ordered slates of 2."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recolam.errors import DataError
from recolam.evaluate.estimators import (
    dm,
    dr,
    effective_sample_size,
    estimate_all,
    importance_weights,
    ips,
    log_weights,
    point_value,
    scaled_weights,
    snips,
)

CONTEXTS, ITEMS = 3, 4
SLATES = np.array(list(permutations(range(ITEMS), 2)))  # [12, 2]


def log_slate_probability(score_CI: np.ndarray) -> np.ndarray:
    """Plackett-Luce log probability of every ordered slate in every context, [C, 12], by its definition."""
    weight_CI = np.exp(score_CI)
    first, second = weight_CI[:, SLATES[:, 0]], weight_CI[:, SLATES[:, 1]]
    total = weight_CI.sum(axis=1, keepdims=True)
    return np.log(first / total * second / (total - first))


def bandit() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logging and target log probabilities and click probabilities, [C, 12] each."""
    generator = np.random.default_rng(11)
    log_logging = log_slate_probability(0.7 * generator.standard_normal((CONTEXTS, ITEMS)))
    log_target = log_slate_probability(0.7 * generator.standard_normal((CONTEXTS, ITEMS)))
    return log_logging, log_target, generator.uniform(0.1, 0.9, size=log_logging.shape)


LOG_LOGGING, LOG_TARGET, CLICK = bandit()
TRUTH = float((np.exp(LOG_TARGET) * CLICK).sum(axis=1).mean())
WRONG_Q = np.random.default_rng(5).uniform(0, 1, size=CLICK.shape)


def draw(generator: np.random.Generator, rounds: int) -> dict[str, np.ndarray]:
    context_S = generator.integers(0, CONTEXTS, size=rounds)
    edge = np.exp(LOG_LOGGING).cumsum(axis=1)[context_S]
    slate_S = np.minimum((generator.random(rounds)[:, None] > edge).sum(axis=1), len(SLATES) - 1)
    return {
        "reward_S": (generator.random(rounds) < CLICK[context_S, slate_S]).astype(float),
        "log_propensity_S": LOG_LOGGING[context_S, slate_S],
        "log_target_S": LOG_TARGET[context_S, slate_S],
        "q_logged_S": WRONG_Q[context_S, slate_S],
        "q_target_S": (np.exp(LOG_TARGET) * WRONG_Q).sum(axis=1)[context_S],
        "context_S": context_S,
        "slate_S": slate_S,
    }


def value_of(name: str, data: dict[str, np.ndarray]) -> float:
    log_w = log_weights(data["log_target_S"], data["log_propensity_S"])
    if name == "ips":
        return point_value(ips(data["reward_S"], log_w))
    if name == "dr":
        q = {"q_logged_S": data["q_logged_S"], "q_target_S": data["q_target_S"]}
        return point_value(dr(data["reward_S"], log_w, **q))
    return point_value(snips(data["reward_S"], log_w))


def test_expected_contributions_are_the_truth_by_enumeration() -> None:
    """Summed over every context and slate with its logging probability, with the mean reward: no sampling at all."""
    chance = np.exp(LOG_LOGGING).ravel() / CONTEXTS
    log_w = log_weights(LOG_TARGET.ravel(), LOG_LOGGING.ravel())
    q_target = np.repeat((np.exp(LOG_TARGET) * WRONG_Q).sum(axis=1), len(SLATES))
    assert chance @ ips(CLICK.ravel(), log_w)[0] == pytest.approx(TRUTH, abs=1e-12)
    wrong = dr(CLICK.ravel(), log_w, q_logged_S=WRONG_Q.ravel(), q_target_S=q_target)
    assert chance @ wrong[0] == pytest.approx(TRUTH, abs=1e-12)
    above, below = snips(CLICK.ravel(), log_w)
    assert chance @ above / (chance @ below) == pytest.approx(TRUTH, abs=1e-12)
    right = np.repeat((np.exp(LOG_TARGET) * CLICK).sum(axis=1), len(SLATES))
    assert chance @ dm(right)[0] == pytest.approx(TRUTH, abs=1e-12)


@pytest.mark.parametrize("name", ["ips", "dr"])
def test_unbiased_over_replications(name: str) -> None:
    """DR is given a wrong reward model on purpose."""
    generator = np.random.default_rng(21)
    values = np.array([value_of(name, draw(generator, 200)) for _ in range(600)])
    assert abs(values.mean() - TRUTH) < 3 * values.std(ddof=1) / np.sqrt(len(values))


def test_snips_is_consistent() -> None:
    assert value_of("snips", draw(np.random.default_rng(22), 200_000)) == pytest.approx(TRUTH, abs=0.01)


def test_wrong_weights_are_noticed() -> None:
    """The same check turns red where the propensities are those of another policy."""
    generator = np.random.default_rng(23)
    values = []
    for _ in range(300):
        data = draw(generator, 200)
        values.append(value_of("ips", data | {"log_propensity_S": np.full(200, -np.log(len(SLATES)))}))
    assert abs(np.mean(values) - TRUTH) > 3 * np.std(values, ddof=1) / np.sqrt(len(values))


def test_a_good_reward_model_makes_dr_better_than_ips() -> None:
    generator = np.random.default_rng(24)
    errors: dict[str, list[float]] = {"ips": [], "dr": []}
    for _ in range(200):
        data = draw(generator, 200)
        data["q_logged_S"] = CLICK[data["context_S"], data["slate_S"]]
        data["q_target_S"] = (np.exp(LOG_TARGET) * CLICK).sum(axis=1)[data["context_S"]]
        for name in errors:
            errors[name].append(value_of(name, data) - TRUTH)
    assert np.mean(np.square(errors["dr"])) < np.mean(np.square(errors["ips"]))


def test_intervals_cover_the_truth() -> None:
    generator = np.random.default_rng(25)
    covered = dict.fromkeys(("ips", "snips", "dr"), 0)
    replications = 300
    for replication in range(replications):
        data = draw(generator, 400)
        given_arrays = {name: value for name, value in data.items() if name not in ("context_S", "slate_S")}
        estimates = estimate_all(**given_arrays, resamples=250, seed=replication)
        for name in covered:
            low, high = estimates[name].ci95
            covered[name] += low <= TRUTH <= high
    assert min(covered.values()) >= 0.9 * replications, covered
    assert max(covered.values()) <= 0.99 * replications, covered


def test_intervals_cover_with_several_slates_a_user() -> None:
    """Each user repeats one context: slates of a user are alike, so users must be resampled whole."""
    generator = np.random.default_rng(26)
    covered, width, naive_width = 0, 0.0, 0.0
    for replication in range(200):
        taste_U = generator.uniform(0, 1, size=60)
        user_S = np.repeat(np.arange(60), 5)
        log_p = np.full(300, np.log(0.5))
        reward = taste_U[user_S]
        arrays = {"reward_S": reward, "log_propensity_S": log_p, "log_target_S": log_p}
        arrays |= {"q_logged_S": np.zeros(300), "q_target_S": np.zeros(300)}
        estimate = estimate_all(**arrays, user_S=user_S, resamples=250, seed=replication)["ips"]
        naive = estimate_all(**arrays, resamples=250, seed=replication)["ips"]
        covered += estimate.ci95[0] <= 0.5 <= estimate.ci95[1]
        width += estimate.ci95[1] - estimate.ci95[0]
        naive_width += naive.ci95[1] - naive.ci95[0]
    assert covered >= 178
    assert width > 1.8 * naive_width


def test_identical_policies_have_weights_of_exactly_one() -> None:
    log_p = np.float32(-3.3) * np.arange(1, 50, dtype=np.float32)
    log_w = log_weights(log_p, log_p)
    assert (importance_weights(log_w) == 1.0).all()
    assert effective_sample_size(log_w) == len(log_p)


def test_ess_by_hand() -> None:
    assert effective_sample_size(np.log([3.0, 1.0])) == pytest.approx(16 / 10)
    assert effective_sample_size(np.array([0.0, -np.inf, -np.inf])) == 1.0
    assert effective_sample_size(np.full(4, -np.inf)) == 0.0


@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(-900, 0), st.floats(-900, 0)), min_size=1, max_size=30))
def test_snips_stays_within_the_rewards_and_all_is_finite(rows: list[tuple[float, float, float]]) -> None:
    reward, log_target, log_propensity = (np.array(column) for column in zip(*rows, strict=True))
    log_w = log_weights(log_target, log_propensity)
    value = point_value(snips(reward, log_w))
    assert reward.min() - 1e-9 <= value <= reward.max() + 1e-9
    assert np.isfinite(point_value(ips(reward, log_w)))
    assert 1 - 1e-9 <= effective_sample_size(log_w) <= len(rows) + 1e-9
    assert scaled_weights(log_w).max() == 1.0


def test_a_target_that_never_shows_a_slate_gives_it_no_weight() -> None:
    log_w = log_weights(np.array([-np.inf, -1.0]), np.array([-1.0, -1.0]))
    assert importance_weights(log_w).tolist() == [0.0, 1.0]
    with pytest.raises(DataError, match="no overlap"):
        snips(np.ones(2), np.full(2, -np.inf))


@pytest.mark.parametrize(
    ("log_target", "log_propensity", "message"),
    [
        ([-1.0, -1.0], [-1.0, -np.inf], "slate 1 is -inf: not finite"),
        ([-1.0, -1.0], [np.nan, -1.0], "slate 0 is nan: not finite"),
        ([-1.0, -1.0], [-1.0, 0.5], "slate 1 is 0.5: above 0"),
        ([-1.0, np.nan], [-1.0, -1.0], "slate 1 is nan: no number"),
        ([0.3, -1.0], [-1.0, -1.0], "slate 0 is 0.3: above 0"),
        ([-1.0], [-1.0, -1.0], "do not fit"),
    ],
)
def test_impossible_propensities_are_refused(log_target: list, log_propensity: list, message: str) -> None:
    with pytest.raises(DataError, match=message):
        log_weights(np.array(log_target), np.array(log_propensity))


def test_estimates_refuse_rewards_that_are_no_numbers() -> None:
    minus_one = -np.ones(3)
    arrays = {"log_propensity_S": minus_one, "log_target_S": minus_one, "q_logged_S": np.ones(3)}
    with pytest.raises(DataError, match="reward of logged slate 2"):
        estimate_all(reward_S=np.array([1, 0, np.nan]), q_target_S=np.ones(3), **arrays)
    with pytest.raises(DataError, match="q_target has shape"):
        estimate_all(reward_S=np.ones(3), q_target_S=np.ones(2), **arrays)
