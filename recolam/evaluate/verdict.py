"""The verdict in plain words: is the new policy better than what we have, by how much, how sure, at what price."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from recolam.intervals import paired_difference

LEARNT_FROM_LOGS = "the recommender learnt from the logs alone"
SIMPLE = {
    "pretrained_greedy": LEARNT_FROM_LOGS,
    "random": "random slates",
    "popularity": "the most popular items",
    "untrained": "the policy before training",
}
UNRELIABLE = "do not rely on this"
CHAMPION = "the champion now in service"


@dataclass(frozen=True)
class Verdict:
    """One sentence for a manager, and what it rests on.

    Attributes:
        level: `better`, `worse` or `undecided`; it colours the report.
        sentence: the verdict.
        alternative: how the policy stands to the best of the simple alternatives, where that is another one; else "".
        price: what the gain costs, in one sentence.
        logs_say: what the logged slates add to it, in one sentence.
    """

    level: Literal["better", "worse", "undecided"]
    sentence: str
    alternative: str
    price: str
    logs_say: str


def reach_verdict(
    *, returns: Mapping[str, Any], gate: Mapping[str, Any], ranking: Mapping[str, Any], ope: Mapping[str, Any]
) -> Verdict:
    """Words for the numbers.

    Args:
        returns: by policy, `mean` and `per_seed`; `trained` is the candidate.
        gate: from `build_gate`; with a champion in it, that is what the candidate is compared with.
        ranking: metrics with `ndcg10` (pretrained), `policy_ndcg10`, `policy_ndcg10_difference_ci95`, `coverage`,
            `policy_coverage`.
        ope: the `ope` block of report.json.
    """
    level, sentence = _compare(returns, gate)
    return Verdict(
        level=level,
        sentence=sentence,
        alternative=_alternative(returns),
        price=_price(ranking),
        logs_say=_logs_say(ope),
    )


def _compare(
    returns: Mapping[str, Any], gate: Mapping[str, Any]
) -> tuple[Literal["better", "worse", "undecided"], str]:
    own = float(gate["candidate"]["return_mean"])
    if not (gate["candidate"]["slates_valid"] and gate["candidate"]["finite"]):
        return (
            "worse",
            "No: the new policy is broken: it shows repeated, seen or unknown items, or has no finite scores.",
        )
    if gate.get("champion") is not None and gate["champion"].get("is_comparable", True):
        name, other, difference = CHAMPION, float(gate["champion"]["return_mean"]), gate.get("difference")
        if gate["champion"]["policy_digest"] == gate["candidate"]["policy_digest"]:
            return "undecided", f"No change: this policy is {CHAMPION}; it earns {number(own)} per simulated session."
        seeds = len(returns.get("trained", {}).get("per_seed", []))
    elif "pretrained_greedy" in returns:
        name, other = LEARNT_FROM_LOGS, float(returns["pretrained_greedy"]["mean"])
        difference, seeds = _difference(returns["trained"], returns["pretrained_greedy"])
    else:
        return "undecided", f"Not known: there is nothing to compare the {number(own)} per simulated session with."
    against = f"the new policy earns {number(own)} per simulated session, {name} {number(other)}"
    if difference is None:
        return "undecided", f"Not shown: {against}, but without repeated runs nobody can say how sure this is."
    low, high = difference["ci95"]
    sure = f"95% interval of the difference: {_gain(low, other)} to {_gain(high, other)}"
    sure += f", {seeds} seeds" if seeds else ""
    if low > 0:
        return "better", f"Yes: {against}, a gain of {_gain(own - other, other)} ({sure})."
    if high < 0:
        return "worse", f"No: {against}, a loss of {_gain(other - own, other)} ({sure})."
    return "undecided", f"Not shown: {against}, a difference that chance alone could make ({sure})."


def _alternative(returns: Mapping[str, Any]) -> str:
    rivals = {name: returns[name] for name in SIMPLE if name in returns}
    best = max(rivals, key=lambda name: rivals[name]["mean"], default="pretrained_greedy")
    if best == "pretrained_greedy":
        return ""
    earned = f"Mind that something simpler earns more than the logs' recommender: {SIMPLE[best]}, "
    earned += f"{number(returns[best]['mean'])}"
    difference, _ = _difference(returns["trained"], returns[best])
    if difference is None:
        return f"{earned}."
    (low, high), base = difference["ci95"], returns[best]["mean"]
    within = f"95% interval of the difference {_gain(low, base)} to {_gain(high, base)}"
    if low > 0:
        return f"{earned}. The new policy beats that too ({within})."
    return f"{earned}. The new policy {'earns less' if high < 0 else 'is not shown to beat it'} ({within})."


def _gain(difference: float, base: float) -> str:
    """A difference as a percentage of what it is compared with; as it is, where that is not above 0."""
    return f"{difference / base:.1%}".replace("-", "\u2212") if base > 0 else number(difference)


def _difference(first: Mapping[str, Any], second: Mapping[str, Any]) -> tuple[dict[str, Any] | None, int]:
    first_S, second_S = np.array(first.get("per_seed", [])), np.array(second.get("per_seed", []))
    if len(first_S) < 2 or len(first_S) != len(second_S):
        return None, 0
    return paired_difference(first_S, second_S).as_json(), len(first_S)


def _price(ranking: Mapping[str, Any]) -> str:
    low, high = ranking["policy_ndcg10_difference_ci95"]
    before, after = ranking["ndcg10"], ranking["policy_ndcg10"]
    moved = f"NDCG@10 {number(after)} instead of {number(before)}"
    if high < 0:
        words = f"The price: it guesses the very next item less well ({moved})"
    elif low > 0:
        words = f"There is no price in accuracy: it even guesses the very next item better ({moved})"
    else:
        words = f"There is no measurable price in guessing the very next item ({moved})"
    shares = f"{ranking['policy_coverage']:.0%} of the catalogue instead of {ranking['coverage']:.0%}"
    return f"{words}; it shows {shares}."


def _logs_say(ope: Mapping[str, Any]) -> str:
    estimates = ope["estimates"]
    if "dr" not in estimates:
        return f"The logs cannot confirm this: {ope['reason']}."
    low, high = ope["gain"]["ci95"]
    told = f"DR: {number(ope['gain']['mean'])} per slate on top of {number(ope['logged_mean'])}, "
    told += f"95% interval {number(low)} to {number(high)}"
    if not is_reliable(estimates["dr"], mean_weight=ope["mean_weight"]):
        return f"The logged slates are too unlike the new policy's to confirm or refute it ({told})."
    if low > 0:
        return f"The logged slates, one at a time, agree: it beats the policy that wrote the logs ({told})."
    if high < 0:
        behind = "The logged slates, one at a time, disagree: it falls behind the policy that wrote the logs"
        return f"{behind} ({told}). A policy that plans ahead may give up a click now for more later, or be mistaken."
    return f"The logged slates show no difference to the policy that wrote the logs ({told})."


def reliability(estimate: Mapping[str, Any], *, mean_weight: float) -> str:
    """A plain word on an off-policy estimate that uses weights.

    The thresholds are a convention of this report: with fewer than 50 effective slates (Kish), fewer than 1 % of all,
    or a mean weight outside [0.8, 1.25] nothing can be said; below 10 % the interval is likely too narrow.
    """
    if estimate["ess"] < max(50.0, 0.01 * estimate["n"]) or not 0.8 <= mean_weight <= 1.25:
        return UNRELIABLE
    return "with caution" if estimate["ess"] < 0.1 * estimate["n"] else "usable"


def is_reliable(estimate: Mapping[str, Any], *, mean_weight: float) -> bool:
    """Whether `reliability` has any good word for it."""
    return reliability(estimate, mean_weight=mean_weight) != UNRELIABLE


def number(value: float | None, *, digits: int = 3) -> str:
    """`value` as a reader wants it: whole from 100 on, else `digits` digits; a real minus sign; a dash for none."""
    if value is None or not np.isfinite(value):
        return "\u2013"
    text = f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.{digits}g}".rstrip(".")
    return text.replace("-", "\u2212")
