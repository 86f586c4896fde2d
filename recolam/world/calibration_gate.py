"""When a fitted world is good enough to learn in."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class CalibrationGate:
    """What a calibration must keep.

    Attributes:
        rate: largest relative difference between a simulated and a logged behaviour.
        absolute: differences below it never count: a rate of nothing has no relative difference.
        errors: by how many standard errors (users as clusters; sessions for their lengths) a difference must exceed
            chance to count.
        ece: largest expected calibration error of clicks.
        session_length_tv: largest total variation of session lengths.
    """

    rate: float = 0.05
    absolute: float = 1e-4
    errors: float = 3.0
    ece: float = 0.02
    session_length_tv: float = 0.05


def verdict(calibration: Mapping[str, Any], gate: CalibrationGate) -> dict[str, Any]:
    """Whether the world passes, and every reason why not.

    Returns:
        passed; reasons, in words; within_noise: what differs by more than the gate allows, but not by more than
        chance does: too few users to say.
    """
    reasons: list[str] = []
    within_noise: list[str] = []
    errors = gate.errors * _widening(calibration)
    for name, pair in behaviours(calibration):
        difference = abs(pair["simulated"] - pair["logged"])
        if difference <= max(gate.rate * abs(pair["logged"]), gate.absolute):
            continue
        text = f"{name}: {pair['simulated']:.4g} simulated, {pair['logged']:.4g} logged"
        (reasons if difference > errors * pair["error"] else within_noise).append(text)
    if calibration["ece"] > gate.ece:
        reasons.append(f"calibration error of clicks {calibration['ece']:.4f}, above {gate.ece}")
    if calibration["session_length_tv"] > gate.session_length_tv:
        chance = calibration["session_length_tv_by_chance"]
        text = f"session lengths differ by {calibration['session_length_tv']:.4f} (total variation), above "
        text += f"{gate.session_length_tv}; a perfect model would by {chance['mean']:.4f}"
        is_fault = calibration["session_length_tv"] > chance["mean"] + gate.errors * chance["error"]
        (reasons if is_fault else within_noise).append(text)
    if calibration["nll"] >= calibration["nll_impersonal"]:
        reasons.append(
            f"users are not told apart: surprise per choice {calibration['nll']:.4f} nats, with everybody's average "
            f"state {calibration['nll_impersonal']:.4f}"
        )
    return {"passed": not reasons, "reasons": reasons, "within_noise": within_noise}


def _widening(calibration: Mapping[str, Any]) -> float:
    """By how much the error of held-out users is too small for a difference to what was fitted to other users.

    Both sides are means over users of one population, so variances add: 1 + held-out users / fitted users. 1 where
    the latter were not counted.
    """
    if "users_fitted" not in calibration:
        return 1.0
    return math.sqrt(1.0 + calibration["users"] / calibration["users_fitted"])


def behaviours(calibration: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, float]]]:
    """(name, {logged, simulated, error}) of all rates, in words."""
    for key, name in (
        ("click_rate", "slates with a click"),
        ("leaving_rate", "slates after which the user left"),
        ("reward_given_click", "reward of a click"),
        ("distance_within_session", "distance between two items of a session"),
    ):
        if key in calibration:
            yield name, calibration[key]
    returns = calibration.get("return") or {}
    for key, name in (
        ("within_day", "users back within a day"),
        ("within_week", "users back within a week"),
        ("log_hours", "logarithm of the hours away"),
    ):
        if key in returns:
            yield name, returns[key]
    for place, pair in enumerate(calibration.get("position_rate", ()), start=1):
        yield f"clicks at position {place}", pair
    for place, pair in enumerate(calibration["popularity_rate"], start=1):
        yield f"clicks on the {place}. tenth of sales", pair
