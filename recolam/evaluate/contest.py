"""The policy stage's comparison beyond its returns: what each showed and learnt from, what a reward is made of."""

from collections.abc import Mapping
from typing import Any

from recolam.contracts.artifact import Artifact
from recolam.evaluate.verdict import number
from recolam.evaluate.words import count, percent, title_text

_NARROW = 0.5


def shown_block(policy: Artifact) -> dict[str, Any]:
    """What the policy stage counted (`recolam.policy.comparison.what_was_shown`); empty for older policies."""
    if "exposure.json" not in policy.manifest["files"]:
        return {}
    found: dict[str, Any] = policy.json("exposure.json")
    return found


def composed_block(policy: Artifact) -> dict[str, Any]:
    """`returns` under the composed reward, and its definition `reward`; empty where the world's own was learnt for."""
    returns = policy.metrics.get("composed_returns")
    return {"returns": dict(returns), "reward": dict(policy.metrics["reward"])} if returns else {}


def coverage_check(shown: Mapping[str, Any]) -> dict[str, float] | None:
    """What the gate reads of the served policy: `coverage`, `log_coverage_of_as_many`, and their ratio `share`.

    None where nothing was counted. The log is asked for as many showings as the comparison had: a long log covers
    everything in the end, and a short comparison of any policy little of a large catalogue.
    """
    row = (shown.get("policies") or {}).get("trained")
    if row is None:
        return None
    coverage, logged = float(row["coverage"]), float(row["log_coverage_of_as_many"])
    return {"coverage": coverage, "log_coverage_of_as_many": logged, "share": coverage / logged if logged else 0.0}


def reach_sentence(check: Mapping[str, float] | None) -> str:
    """How much of the catalogue the served policy shows beside the log, with a warning below half; "" if unknown."""
    if check is None:
        return ""
    told = (
        f"In simulated sessions it shows {percent(check['coverage'])} of the catalogue; as many showings drawn like "
        f"the log's would cover {percent(check['log_coverage_of_as_many'])}"
    )
    return f"{told}, more than twice as much." if check["share"] < _NARROW else f"{told}."


def learnt_from(row: Mapping[str, Any]) -> str:
    """From how much a contestant learnt, in a sentence; "" for those that learnt from no simulated session."""
    steps = row.get("learnt_from")
    if not steps:
        return ""
    return f"Learnt from {count(steps['user_steps'])} user-steps in {count(steps['sessions'])} sessions."


def shown_by(shown: Mapping[str, Any], name: str) -> Mapping[str, float] | None:
    """A contestant's figures; those of the log by the name "log"; None where nothing was counted."""
    if name == "log":
        return shown.get("log")
    found: Mapping[str, float] | None = (shown.get("policies") or {}).get(name)
    return found


def reward_sentences(reward: Mapping[str, Any]) -> list[str]:
    """A composed reward as a sum, what its terms are, and the discount."""
    weights, formulas = reward.get("weights") or {}, reward.get("formulas") or {}
    terms = " + ".join(f"{number(weight)} \u00d7 {title_text(str(name))}" for name, weight in weights.items())
    told = [f"Reward of a step = {terms}."]
    told += [f"{title_text(str(name))}: {title_text(str(formula))}." for name, formula in formulas.items()]
    if "response" in reward and "response" in weights:
        told.append(f"The response is worth: {title_text(str(reward['response']))}.")
    if "gamma" in reward:
        told.append(f"In training a reward one step later counted {number(reward['gamma'])}; here none is discounted.")
    return told
