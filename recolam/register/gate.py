"""The gate: whether a candidate policy may become the champion, and why, from the evaluation's numbers alone."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from recolam.errors import ArtifactError

_TOLD = 0.5  # of the log's coverage: a policy below it is promoted with a warning


@dataclass(frozen=True)
class Decision:
    """The verdict on a candidate; each reason is one sentence."""

    promote: bool
    reasons: list[str]


def decide(
    candidate: Mapping[str, Any],
    champion: Mapping[str, Any] | None,
    *,
    difference: Mapping[str, Any] | None,
    baseline_return: float,
    min_gain: float = 0.0,
    coverage: Mapping[str, Any] | None = None,
    min_coverage: float = 0.0,
) -> Decision:
    """Decides on a candidate.

    A candidate must show valid slates, finite scores and numbers, earn more than the baseline, and show enough of the
    catalogue. Beyond that it must beat the champion, if there is one: the lower bound of the 95 % interval of the
    paired difference of returns (candidate minus champion, on the same seeds) must exceed `min_gain`. A champion made
    for another catalogue cannot serve this one: it is replaced, and stays reachable as the previous champion.

    Args:
        candidate: policy_digest, return_mean, slates_valid, finite.
        champion: its policy_digest and return_mean, or None where there is none.
        difference: mean and ci95 [low, high] (or None where it is not finite), or None where nothing was compared.
        baseline_return: the return of random slates.
        min_gain: in units of return.
        coverage: the `share` of the catalogue that the candidate shows in what as many showings of the behaviour log
            would cover; below half it is told, below `min_coverage` it is a fault. None where nothing was counted.

    Raises:
        ArtifactError: a number that the decision needs is missing.
    """
    if champion is not None and _read(candidate, "policy_digest") == _read(champion, "policy_digest"):
        return Decision(promote=False, reasons=["The candidate is the champion already."])
    reach = None if coverage is None else _number(coverage, "share")
    faults = _faults(candidate, baseline_return) + _narrow(reach, min_coverage)
    if faults:
        return Decision(promote=False, reasons=faults)
    decision = _against(candidate, champion, difference=difference, baseline_return=baseline_return, min_gain=min_gain)
    return replace(decision, reasons=decision.reasons + _narrow(reach, _TOLD))


def _against(
    candidate: Mapping[str, Any],
    champion: Mapping[str, Any] | None,
    *,
    difference: Mapping[str, Any] | None,
    baseline_return: float,
    min_gain: float,
) -> Decision:
    own_return = _number(candidate, "return_mean")
    above = f"Its return of {own_return:.4g} is above the {baseline_return:.4g} of random slates."
    if champion is None:
        return Decision(promote=True, reasons=["There is no champion to beat.", above])
    if not champion.get("is_comparable", True):
        return Decision(promote=True, reasons=["The champion serves another catalogue and cannot be compared.", above])
    if difference is None:
        return Decision(promote=False, reasons=["The candidate was not compared with the champion."])
    mean, (low, high) = _number(difference, "mean"), _read(difference, "ci95") or (math.nan, math.nan)
    interval = f"{mean:.4g} with a 95 % interval from {low:.4g} to {high:.4g}"
    compared = f"The paired difference of returns to the champion is {interval}."
    if low > min_gain:
        return Decision(promote=True, reasons=[compared, f"Its lower bound exceeds {min_gain:.4g}.", above])
    return Decision(promote=False, reasons=[compared, f"Its lower bound does not exceed {min_gain:.4g}."])


def decide_from_report(report: Mapping[str, Any], *, min_gain: float, min_coverage: float = 0.0) -> Decision:
    """`decide` on the numbers under `gate` in an evaluation's report.

    Raises:
        ArtifactError: the report has no such numbers.
    """
    gate = _read(report, "gate")
    return decide(
        _read(gate, "candidate"),
        _read(gate, "champion"),
        difference=_read(gate, "difference"),
        baseline_return=_number(gate, "baseline_return"),
        min_gain=min_gain,
        coverage=gate.get("coverage"),  # absent in reports of older versions
        min_coverage=min_coverage,
    )


def _narrow(reach: float | None, floor: float) -> list[str]:
    """The sentence on a coverage under the floor, NaN included; a floor of 0 switches it off."""
    if reach is None or floor <= 0 or reach >= floor:
        return []
    return [f"It shows {reach:.2g} of what as many showings of the log would cover, less than {floor:.2g}."]


def _faults(candidate: Mapping[str, Any], baseline_return: float) -> list[str]:
    faults = []
    if not _read(candidate, "slates_valid"):
        faults.append("The candidate shows slates with repeated, seen or excluded items.")
    if not _read(candidate, "finite"):
        faults.append("The candidate has scores that are not finite.")
    own_return = _number(candidate, "return_mean")
    if not own_return > baseline_return:  # also where either is NaN
        faults.append(f"Its return of {own_return:.4g} is not above the {baseline_return:.4g} of random slates.")
    elif not math.isfinite(own_return):
        faults.append(f"Its return of {own_return} is not finite.")
    return faults


def _read(values: Mapping[str, Any], key: str) -> Any:
    try:
        return values[key]
    except (KeyError, TypeError) as error:
        raise ArtifactError(f"the evaluation's report lacks {key!r} under 'gate'") from error


def _number(values: Mapping[str, Any], key: str) -> float:
    """The number under `key`; JSON has no NaN, so that None stands for one."""
    value = _read(values, key)
    if value is not None and not isinstance(value, (int, float)):
        raise ArtifactError(f"the evaluation's report has {value!r}, not a number, as {key!r} under 'gate'")
    return math.nan if value is None else float(value)
