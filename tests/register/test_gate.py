"""The gate's truth table."""

import math
from typing import Any

import pytest

from recolam.errors import ArtifactError
from recolam.register.gate import decide, decide_from_report

CANDIDATE = {"policy_digest": "new", "return_mean": 5.0, "slates_valid": True, "finite": True}
CHAMPION = {"policy_digest": "old", "return_mean": 4.0}


def difference(low: float, high: float) -> dict[str, Any]:
    return {"mean": (low + high) / 2, "ci95": [low, high]}


@pytest.mark.parametrize(
    ("change", "baseline", "is_promoted", "reason"),
    [
        ({}, 1.0, True, "no champion"),
        ({}, 5.0, False, "not above"),
        ({}, 6.0, False, "not above"),
        ({}, math.nan, False, "not above"),
        ({"return_mean": math.nan}, 1.0, False, "not above"),
        ({"return_mean": None}, 1.0, False, "not above"),
        ({"return_mean": math.inf}, 1.0, False, "not finite"),
        ({"slates_valid": False}, 1.0, False, "repeated, seen or excluded"),
        ({"finite": False}, 1.0, False, "not finite"),
    ],
)
def test_without_a_champion(change: dict[str, Any], baseline: float, is_promoted: bool, reason: str) -> None:
    decision = decide(CANDIDATE | change, None, difference=None, baseline_return=baseline)
    assert decision.promote is is_promoted
    assert any(reason in text for text in decision.reasons)


@pytest.mark.parametrize(
    ("change", "compared", "min_gain", "is_promoted"),
    [
        ({}, difference(0.1, 0.3), 0.0, True),
        ({}, difference(0.0, 0.3), 0.0, False),
        ({}, difference(-0.1, 0.5), 0.0, False),
        ({}, difference(-0.5, -0.1), 0.0, False),
        ({}, difference(0.1, 0.3), 0.1, False),
        ({}, difference(0.2, 0.3), 0.1, True),
        ({}, difference(math.nan, math.nan), 0.0, False),
        ({}, {"mean": None, "ci95": None}, 0.0, False),
        ({}, None, 0.0, False),
        ({"slates_valid": False}, difference(0.1, 0.3), 0.0, False),
        ({"finite": False}, difference(0.1, 0.3), 0.0, False),
        ({"return_mean": 0.5}, difference(0.1, 0.3), 0.0, False),
        ({"policy_digest": "old"}, difference(0.1, 0.3), 0.0, False),
    ],
)
def test_against_a_champion(
    change: dict[str, Any], compared: dict[str, Any] | None, min_gain: float, is_promoted: bool
) -> None:
    decision = decide(CANDIDATE | change, CHAMPION, difference=compared, baseline_return=1.0, min_gain=min_gain)
    assert decision.promote is is_promoted
    assert decision.reasons
    assert all(reason[0].isupper() and reason.endswith(".") for reason in decision.reasons)


def test_every_fault_is_told() -> None:
    worst = CANDIDATE | {"slates_valid": False, "finite": False, "return_mean": 0.0}
    assert len(decide(worst, None, difference=None, baseline_return=1.0).reasons) == 3


@pytest.mark.parametrize("key", ["candidate", "champion", "difference", "baseline_return"])
def test_a_report_that_lacks_a_number_is_named(key: str) -> None:
    gate = {"candidate": CANDIDATE, "champion": None, "difference": None, "baseline_return": 1.0}
    assert decide_from_report({"gate": gate}, min_gain=0.0).promote
    with pytest.raises(ArtifactError, match=key):
        decide_from_report({"gate": {name: value for name, value in gate.items() if name != key}}, min_gain=0.0)
    with pytest.raises(ArtifactError, match="gate"):
        decide_from_report({}, min_gain=0.0)


@pytest.mark.parametrize("key", ["policy_digest", "return_mean", "slates_valid", "finite"])
def test_a_candidate_that_lacks_a_number_is_named(key: str) -> None:
    partial = {name: value for name, value in CANDIDATE.items() if name != key}
    with pytest.raises(ArtifactError, match=key):
        decide(partial, CHAMPION, difference=difference(0.1, 0.3), baseline_return=1.0)


def test_a_text_where_a_number_belongs_is_named() -> None:
    with pytest.raises(ArtifactError, match="'high', not a number, as 'return_mean'"):
        decide(CANDIDATE | {"return_mean": "high"}, None, difference=None, baseline_return=1.0)


def test_a_champion_of_another_catalogue_is_replaced_by_a_sound_candidate_only() -> None:
    candidate = {"policy_digest": "a", "return_mean": 2.0, "slates_valid": True, "finite": True}
    champion = {"policy_digest": "b", "is_comparable": False}
    decision = decide(candidate, champion, difference=None, baseline_return=1.0)
    assert decision.promote
    assert "another catalogue" in decision.reasons[0]
    assert not decide({**candidate, "slates_valid": False}, champion, difference=None, baseline_return=1.0).promote


@pytest.mark.parametrize(
    ("share", "floor", "is_promoted", "warning"),
    [
        (0.8, 0.05, True, ""),
        (0.5, 0.05, True, ""),
        (0.4, 0.05, True, "It shows 0.4 of what as many showings of the log would cover, less than 0.5."),
        (0.04, 0.05, False, "It shows 0.04 of what as many showings of the log would cover, less than 0.05."),
        (0.04, 0.0, True, "It shows 0.04 of what as many showings of the log would cover, less than 0.5."),
        (None, 0.05, False, "It shows nan of what as many showings of the log would cover, less than 0.05."),
    ],
)
def test_a_narrow_policy_is_told_of_and_a_collapsed_one_is_stopped(
    share: float | None, floor: float, is_promoted: bool, warning: str
) -> None:
    gate = {
        "candidate": CANDIDATE, "champion": None, "difference": None, "baseline_return": 1.0,
        "coverage": {"coverage": 0.3, "log_coverage_of_as_many": 0.9, "share": share},
    }  # fmt: skip
    decision = decide_from_report({"gate": gate}, min_gain=0.0, min_coverage=floor)
    assert decision.promote is is_promoted
    assert [reason for reason in decision.reasons if "as many showings" in reason] == ([warning] if warning else [])


def test_coverage_that_nobody_counted_stops_nobody() -> None:
    gate = {"candidate": CANDIDATE, "champion": None, "difference": None, "baseline_return": 1.0}
    for counted in ({}, {"coverage": None}):
        decision = decide_from_report({"gate": gate | counted}, min_gain=0.0, min_coverage=0.9)
        assert decision.promote
        assert not any("showings" in reason for reason in decision.reasons)
