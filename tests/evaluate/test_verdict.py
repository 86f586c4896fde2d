"""The verdict's words follow the numbers."""

from typing import Any

import pytest

from recolam.evaluate.gate import Standing, build_gate
from recolam.evaluate.verdict import UNRELIABLE, Verdict, number, reach_verdict, reliability

RANKING = {
    "ndcg10": 0.20,
    "policy_ndcg10": 0.15,
    "policy_ndcg10_difference_ci95": [-0.06, -0.04],
    "coverage": 0.5,
    "policy_coverage": 0.6,
}
NO_LOGS = {"estimates": {}, "reason": "the log has no slates with propensities"}


def judge(
    new: list[float],
    old: list[float],
    *,
    champion: list[float] | None = None,
    ope: dict[str, Any] = NO_LOGS,
    **rank: Any,
) -> Verdict:
    returns = {
        "trained": {"mean": sum(new) / len(new), "per_seed": new},
        "pretrained_greedy": {"mean": sum(old) / len(old), "per_seed": old},
    }
    standing = Standing("a", new, 0.1, 0.5, 0.05, slates_valid=True, finite=True)
    other = None if champion is None else Standing("b", champion, 0.1, 0.5, 0.05, slates_valid=True, finite=True)
    gate = build_gate(standing, other, baseline_return=1.0)
    return reach_verdict(returns=returns, gate=gate, ranking=RANKING | rank, ope=ope)


def test_better_worse_and_undecided() -> None:
    better = judge([12.0, 12.1, 11.9], [10.0, 10.1, 9.9])
    assert better.level == "better"
    assert better.sentence.startswith("Yes: the new policy earns 12.0 per simulated session")
    assert "the recommender learnt from the logs alone 10.0, a gain of 20.0%" in better.sentence
    assert "3 seeds" in better.sentence
    worse = judge([8.0, 8.1, 7.9], [10.0, 10.1, 9.8])
    assert worse.level == "worse"
    assert worse.sentence.startswith("No: ")
    unsure = judge([12.0, 8.0, 11.0], [10.0, 9.0, 11.5])
    assert unsure.level == "undecided"
    assert "chance alone" in unsure.sentence


def test_a_champion_is_what_counts_where_there_is_one() -> None:
    verdict = judge([12.0, 12.1, 11.9], [10.0, 10.1, 9.9], champion=[13.0, 13.2, 12.9])
    assert verdict.level == "worse"
    assert "the champion now in service 13.0" in verdict.sentence


def test_a_broken_policy_is_never_better() -> None:
    broken = Standing("a", [12.0, 12.1], 0.1, 0.5, 0.05, slates_valid=False, finite=True)
    gate = build_gate(broken, None, baseline_return=1.0)
    returns = {"trained": {"mean": 12.05, "per_seed": [12.0, 12.1]}, "random": {"mean": 1.0, "per_seed": [1.0, 1.0]}}
    verdict = reach_verdict(returns=returns, gate=gate, ranking=RANKING, ope=NO_LOGS)
    assert verdict.level == "worse"
    assert "broken" in verdict.sentence


def test_one_seed_shows_nothing() -> None:
    verdict = judge([12.0], [10.0])
    assert verdict.level == "undecided"
    assert "nobody can say how sure" in verdict.sentence


def test_losses_and_bases_below_zero_are_not_percentages() -> None:
    assert "%" not in judge([-1.0, -1.1, -0.9], [-3.0, -3.1, -2.8]).sentence.replace("95%", "")


def test_a_simpler_rival_is_not_kept_quiet() -> None:
    def judge_beside(popular: list[float]) -> str:
        returns = {
            "trained": {"mean": 2.5, "per_seed": [2.4, 2.5, 2.6]},
            "pretrained_greedy": {"mean": 1.8, "per_seed": [1.7, 1.8, 1.9]},
            "popularity": {"mean": sum(popular) / 3, "per_seed": popular},
            "myopic": {"mean": 9.0, "per_seed": [9.0, 9.0, 9.0]},
        }
        standing = Standing("a", [2.4, 2.5, 2.6], 0.1, 0.5, 0.05, slates_valid=True, finite=True)
        gate = build_gate(standing, None, baseline_return=1.0)
        return reach_verdict(returns=returns, gate=gate, ranking=RANKING, ope=NO_LOGS).alternative

    assert judge_beside([1.0, 1.1, 1.2]) == ""
    assert "the most popular items, 2.25. The new policy beats that too" in judge_beside([2.15, 2.25, 2.35])
    assert "is not shown to beat it" in judge_beside([2.7, 2.2, 2.7])
    assert "earns less" in judge_beside([2.9, 3.0, 3.1])


def test_the_price_is_named() -> None:
    assert "less well (NDCG@10 0.150 instead of 0.200)" in judge([1.0, 1.1], [1.0, 1.1]).price
    assert "60% of the catalogue instead of 50%" in judge([1.0, 1.1], [1.0, 1.1]).price
    gained = judge([1.0, 1.1], [1.0, 1.1], policy_ndcg10=0.25, policy_ndcg10_difference_ci95=[0.04, 0.06])
    assert "even guesses the very next item better" in gained.price
    even = judge([1.0, 1.1], [1.0, 1.1], policy_ndcg10_difference_ci95=[-0.01, 0.01])
    assert "no measurable price" in even.price


@pytest.mark.parametrize(
    ("ci95", "ess", "mean_weight", "words"),
    [
        ([0.1, 0.2], 500.0, 1.0, "agree"),
        ([-0.2, -0.1], 500.0, 1.0, "disagree"),
        ([-0.1, 0.1], 500.0, 1.0, "no difference"),
        ([0.1, 0.2], 3.0, 1.0, "too unlike"),
        ([0.1, 0.2], 500.0, 0.7, "too unlike"),
    ],
)
def test_what_the_logs_say(ci95: list[float], ess: float, mean_weight: float, words: str) -> None:
    ope = {
        "estimates": {"dr": {"value": 0.4, "ci95": [0.3, 0.5], "ess": ess, "n": 2000}},
        "gain": {"mean": 0.15, "ci95": ci95},
        "logged_mean": 0.3,
        "mean_weight": mean_weight,
    }
    assert words in judge([1.0, 1.1], [1.0, 1.1], ope=ope).logs_say


def test_without_logged_slates_the_reason_is_given() -> None:
    assert "the log has no slates" in judge([1.0, 1.1], [1.0, 1.1]).logs_say


def test_reliability_follows_the_effective_sample_size() -> None:
    assert reliability({"ess": 900.0, "n": 2000}, mean_weight=1.0) == "usable"
    assert reliability({"ess": 150.0, "n": 2000}, mean_weight=1.0) == "with caution"
    assert reliability({"ess": 20.0, "n": 100}, mean_weight=1.0) == UNRELIABLE
    assert reliability({"ess": 90.0, "n": 10_000}, mean_weight=1.0) == UNRELIABLE
    assert reliability({"ess": 900.0, "n": 2000}, mean_weight=1.5) == UNRELIABLE


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.03940, "0.0394"), (12.0, "12.0"), (0.1, "0.100"), (123456.7, "123,457"), (99.96, "100"), (-0.5, "\u22120.500"),
     (0.0, "0.00"), (float("nan"), "\u2013"), (None, "\u2013")],
)  # fmt: skip
def test_numbers_are_written_for_readers(value: float | None, text: str) -> None:
    assert number(value) == text
