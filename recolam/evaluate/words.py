"""How names and numbers are written in the report: the filters of its templates. All input counts as hostile."""

import json
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from recolam.evaluate.verdict import number

RETURNS_ORDER = (
    "random",
    "popularity",
    "untrained",
    "pretrained_greedy",
    "champion",
    "bandit",
    "slateq",
    "trained",
    "trained_sampled",
    "myopic",
)
_LABELS = {
    "random": "Random slates",
    "popularity": "Most popular items",
    "item_knn": "Item-kNN",
    "pretrained": "Learnt from logs alone",
    "pretrained_greedy": "Learnt from logs alone",
    "untrained": "Policy before training",
    "policy": "New policy",
    "trained": "New policy",
    "trained_sampled": "New policy, sampled",
    "bandit": "Bandit (Thompson sampling)",
    "slateq": "SlateQ",
    "champion": "Champion now in service",
    "myopic": "Told the users' true state",
    "unpopular": "Least popular items",
    "reversed": "Unlikeliest items",
    "half_random": "Half random, half from logs",
    "tempered": "From logs, drawn broadly",
    "best_next_click": "Best next click, fitted users",
    "learnt_from_true_users": "Learnt from true users",
    "half_learnt_from_true_users": "Half-way to true users",
    "learnt_from_fitted_users": "Learnt from fitted users",
    "half_learnt_from_fitted_users": "Half-way to fitted users",
    "learnt_cautiously": "Learnt cautiously",
    "half_learnt_cautiously": "Half-way, cautiously",
    "ips": "IPS",
    "snips": "SNIPS",
    "dm": "DM (model only)",
    "dr": "DR",
    "scratch": "From scratch",
    "zero_shot": "Zero-shot",
    "full": "Full tuning",
    "head": "Head only",
    "lora": "LoRA",
}
_MEANINGS = {
    "random": "Items drawn at random: the floor.",
    "popularity": "The same best-sellers for everybody.",
    "untrained": "The slate policy as it starts, sampled, before any simulated session.",
    "pretrained_greedy": "The likeliest next items according to the logs.",
    "champion": "What the model registry serves today.",
    "trained": "Trained on whole simulated sessions; shows its likeliest slate, as it would be served.",
    "trained_sampled": "The same, drawing its slates at random as in training.",
    "bandit": "Linear rewards on what the pretrained model knows of users and items; looks no step ahead.",
    "slateq": "Long-term values of items on the same, learnt from what slates led to.",
    "myopic": "The best next click with knowledge no real recommender has; it does not plan ahead.",
}
_CALIBRATION = {
    "users": "Held-out users",
    "slates": "Held-out slates",
    "ece": "Expected calibration error of clicks",
    "nll": "Surprise per choice, nats (lower is better)",
    "nll_impersonal": "Surprise if everybody were the average user, nats",
    "nll_uniform": "Surprise of a blind guess, nats",
    "session_length_tv": "Session lengths: total variation between logged and simulated (0 is alike)",
    "auc": "Real and simulated sessions told apart by a classifier (AUC; 0.5 is not at all)",
    "members": "Models that answer together",
    "disagreement_click": "Their disagreement on the answer given (mean standard deviation of its probability)",
    "disagreement_reward": "Their disagreement on the reward of a slate (mean standard deviation)",
    "disagreement_tells": "Rank correlation of that disagreement with the error of single answers",
    "assumed_click_rate": "Share of slates clicked: assumed, the log has none",
}
_WAYS = {
    "learnt_from_fitted_users": "that learnt from the fitted users",
    "learnt_cautiously": "that learnt from them with rewards charged for what they do not know",
}
_JUDGES = {"fitted": "The fitted users rank", "charged": "With charged rewards, they rank"}
_BEHAVIOURS = {
    "click_rate": "Slates with a click",
    "leaving_rate": "Slates after which the user left",
    "reward_given_click": "Reward of a click",
    "distance_within_session": "Distance between two items of a session (1 \u2212 cosine)",
    "within_day": "Users back within a day",
    "within_week": "Users back within a week",
    "log_hours": "Logarithm of the hours away, a week at most",
}
_LONGEST_TITLE, _LONGEST_FACT = 120, 300


def label(name: str) -> str:
    """A name from the code in a reader's words; unknown names keep their own."""
    return _LABELS.get(name, name.replace("_", " "))


def meaning(name: str) -> str:
    """What a policy is, in a sentence; "" for one this room does not know."""
    return _MEANINGS.get(name, "")


def count(value: float) -> str:
    """A whole number with separators."""
    return f"{value:,.0f}"


def percent(value: float) -> str:
    """A share as a percentage with one decimal."""
    return f"{value:.1%}"


def between(ci95: Sequence[float] | None) -> str:
    """The ends of an interval in words."""
    return "\u2013" if not ci95 else f"{number(ci95[0])} to {number(ci95[1])}"


def in_order(returns: Mapping[str, Any]) -> list[str]:
    """The policies of the returns, weakest reference first, then those nobody expected, by name."""
    known = [name for name in RETURNS_ORDER if name in returns]
    return known + sorted(set(returns) - set(known))


def seeds(returns: Mapping[str, Any]) -> int:
    """How many seeds the returns were averaged over."""
    return max((len(value.get("per_seed", [])) for value in returns.values()), default=0)


def title_text(text: str) -> str:
    """A title without control, direction and surrogate characters, cut at 120 characters."""
    kept = "".join(" " if unicodedata.category(char)[0] == "C" else char for char in text[: 2 * _LONGEST_TITLE])
    kept = " ".join(kept.split())
    return kept if len(kept) <= _LONGEST_TITLE else kept[: _LONGEST_TITLE - 1] + "\u2026"


def facts(data: Mapping[str, Any], *, prefix: str = "") -> list[tuple[str, str]]:
    """A nested mapping as flat (name, value) pairs in words, empty values left out."""
    pairs: list[tuple[str, str]] = []
    for key, value in data.items():
        name = title_text(f"{prefix}{str(key).replace('_', ' ')}")
        if isinstance(value, Mapping):
            pairs += facts(value, prefix=f"{name}: ")
        elif value is not None and value != [] and value != "":
            pairs.append((name, _fact(value)))
    return pairs


def calibration_facts(calibration: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The single numbers of a calibration, in words; what is missing is left out."""
    apart = calibration.get("disagreement") or {}
    known = {
        "members": apart.get("members"),
        "disagreement_click": apart.get("click"),
        "disagreement_reward": apart.get("reward"),
        "disagreement_tells": apart.get("error_correlation"),
        **(calibration.get("told_apart") or {}),
        **calibration,
    }
    return [(text, _fact(known[key])) for key, text in _CALIBRATION.items() if known.get(key) is not None]


def calibration_pairs(calibration: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(behaviour, logged, simulated), by position and popularity last; what is missing is left out."""
    known = {**(calibration.get("return") or {}), **calibration}
    named = [(text, known.get(key)) for key, text in _BEHAVIOURS.items()]
    positions, tenths = calibration.get("position_rate") or [], calibration.get("popularity_rate") or []
    named += [(f"Click at position {place}", pair) for place, pair in enumerate(positions, start=1)]
    named += [
        (f"Click on the {place}. tenth of sales, best-sellers first", pair) for place, pair in enumerate(tenths, 1)
    ]
    return [
        (text, number(pair["logged"]), number(pair["simulated"]))
        for text, pair in named
        if isinstance(pair, Mapping) and {"logged", "simulated"} <= set(pair)
    ]


def loop_sentences(loop: Mapping[str, Any]) -> list[str]:
    """What the closed loop says, in sentences; nothing where there is none."""
    told = []
    for name, row in (loop.get("share") or {}).items():
        gain = row["gain"]["mean"]
        told.append(
            f"A policy {_WAYS.get(name, label(name))} earns {percent(row['mean'])} of what one earns that learnt from "
            f"the true users for as long ({_ends(row['ci95'])}); of the gain above random slates, {percent(gain)}."
        )
    for name, row in (loop.get("ranking") or {}).items():
        told.append(
            f"{_JUDGES.get(name, label(name))} {len(loop['policies'])} policies as the true users do with a rank "
            f"correlation of {number(row['spearman'])}; the policy that comes first earns "
            f"{percent(row['regret_at_1'])} less than the best."
        )
    return told


def exposure_sentences(exposure: Mapping[str, Any]) -> list[str]:
    """What the policy shows, in sentences; nothing where its training left no curves."""
    if not exposure:
        return []
    start, served, logged = exposure["start"], exposure["served"], exposure["logged"]
    log = "the slates of the log" if exposure["source"] == "slates" else "the log's events"
    told = [
        f"Before training its likeliest slates covered {percent(start['coverage'])} of the catalogue in validation, as "
        f"served they cover {percent(served['coverage'])}; {log} cover {percent(logged['coverage'])}.",
        f"Showings are spread as if over {count(served['effective_items'])} items shown alike, before training over "
        f"{count(start['effective_items'])}, in the log over {count(logged['effective_items'])}.",
    ]
    if "exposure_drift" in served:
        told.append(f"{percent(served['exposure_drift'])} of the showings went to other items than before training.")
    if "popularity" in served:
        told.append(
            f"An item shown sells more than {percent(served['popularity'])} of the catalogue on average (before "
            f"training {percent(start['popularity'])}, in the log {percent(logged['popularity'])})."
        )
    return told


def exposure_warning(exposure: Mapping[str, Any]) -> str:
    """A sentence where the policy shows little of the catalogue; "" elsewhere."""
    if not exposure.get("is_narrow"):
        return ""
    served, logged = exposure["served"]["coverage"], exposure["logged"]["coverage"]
    return (
        f"It covers {percent(served)} of the catalogue, less than half of the {percent(logged)} that the log covers: "
        "many items would never be shown."
    )


def _ends(ci95: Sequence[float] | None) -> str:
    return "no interval" if not ci95 else f"95% interval {percent(ci95[0])} to {percent(ci95[1])}"


def pretty(value: Any) -> str:
    """JSON for reading."""
    return json.dumps(value, indent=1, sort_keys=True, default=str)


def cell(text: str) -> str:
    """Text for a Markdown table cell: on one line, without characters that would end the cell or start markup."""
    return title_text(str(text)).translate({ord(char): f"\\{char}" for char in r"\|`*_[]#!"})


def _fact(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return count(value)
    if isinstance(value, float):
        return number(value)
    if isinstance(value, list | tuple):
        value = ", ".join(_fact(part) for part in value[:20]) + (", \u2026" if len(value) > 20 else "")
    text = title_text(str(value)) if not isinstance(value, str) else str(value)
    return text if len(text) <= _LONGEST_FACT else text[: _LONGEST_FACT - 1] + "\u2026"
