"""From the numbers of report.json to report.html and model_card.md: no number is made here, only shown.

`report` is a JSON-able mapping; `recolam.evaluate.stage` lists its keys. One table is of no report: that of gradient
estimators, which `recolam bench gradients --out recolam/evaluate/templates/gradient_estimators.json` makes anew.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from recolam.evaluate import contest, words
from recolam.evaluate.exposure import CURVES
from recolam.evaluate.figures import (
    Mark,
    Place,
    curves,
    interval_bars,
    interval_points,
    reliability_diagram,
    scatter,
)
from recolam.evaluate.verdict import number

TRANSFER_WAYS = ("scratch", "zero_shot", "full", "head", "lora")
_TEMPLATES = Path(__file__).parent / "templates"
PICTURES = ("returns", "ranking", "ope", "curves", "exposure", "calibration", "closed_loop")
_PANELS = 8


def render_html(report: Mapping[str, Any]) -> str:
    """The report as one HTML page that needs nothing else; the same bytes for the same report."""
    drawn = {name: Markup(svg) for name, svg in draw_pictures(report).items()}  # noqa: S704 - made by figures.py
    pictures = dict.fromkeys(PICTURES, "") | drawn
    template = _environment().get_template("report.html.j2")
    estimators = json.loads((_TEMPLATES / "gradient_estimators.json").read_text(encoding="utf-8"))
    page = template.render(report=report, pictures=pictures, transfer_ways=TRANSFER_WAYS, estimators=estimators)
    return _encodable(page)


def render_card(report: Mapping[str, Any]) -> str:
    """The model card as Markdown."""
    return _encodable(_environment().get_template("model_card.md.j2").render(report=report))


def draw_pictures(report: Mapping[str, Any]) -> dict[str, str]:
    """The report's pictures as SVG by name; one is missing where its numbers are."""
    returns, rows, ope = report["returns"], report["ranking"]["rows"], report["ope"]
    pictures = {
        "returns": interval_bars(
            [
                Mark(words.label(name), returns[name]["mean"], returns[name].get("ci95"), name == "trained")
                for name in words.in_order(returns)
            ],
            name="returns", title="Mean reward per simulated session, by policy", axis="reward per session",
        ),
        "ranking": interval_bars(
            [
                Mark(words.label(name), row["ndcg10"]["mean"], row["ndcg10"]["ci95"], name == "policy")
                for name, row in rows.items()
            ],
            name="ranking", title="Next-item accuracy, by ranker", axis="NDCG@10",
        ),
    }  # fmt: skip
    if ope["estimates"]:
        pictures["ope"] = interval_points(
            [
                Mark(words.label(name), row["value"], row["ci95"], name == "dr")
                for name, row in ope["estimates"].items()
            ],
            name="ope", title="Estimated reward of one slate of the new policy", axis="reward per slate",
            line=("as logged", ope["logged_mean"]),
        )  # fmt: skip
    panels = {name: series for name, series in report["curves"].items() if len(series)}
    learning = sorted(set(panels) - {*CURVES, "user_steps"}, key=lambda name: ("return" not in name, name))[:_PANELS]
    for name, chosen, title in (
        ("curves", learning, "Learning curves of the policy"),
        ("exposure", [name for name in CURVES if name in panels], "What the policy shows as it learns"),
    ):
        if chosen:
            pictures[name] = curves({label: panels[label] for label in chosen}, name=name, title=title)
    if report["calibration"].get("bins"):
        pictures["calibration"] = reliability_diagram(
            report["calibration"]["bins"], name="calibration", title="Predicted against observed clicks"
        )
    ranked = report["closed_loop"].get("policies")
    if ranked:
        pictures["closed_loop"] = scatter(
            [Place(words.label(name), row["fitted"], row["true"], "learnt" in name) for name, row in ranked.items()],
            name="closed_loop", title="Policies in the fitted and in the true world",
            x_axis="reward with the fitted users", y_axis="reward with the true users",
        )  # fmt: skip
    return pictures


def _encodable(text: str) -> str:
    """The text with lone surrogates, which JSON can smuggle in and no file can hold, replaced by question marks."""
    return text.encode("utf-8", errors="replace").decode("utf-8")


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True
    )
    environment.filters |= {
        "between": words.between,
        "calibration_facts": words.calibration_facts,
        "calibration_pairs": words.calibration_pairs,
        "cell": words.cell,
        "count": words.count,
        "exposure_sentences": words.exposure_sentences,
        "exposure_warning": words.exposure_warning,
        "facts": words.facts,
        "in_order": words.in_order,
        "label": words.label,
        "learnt_from": contest.learnt_from,
        "loop_sentences": words.loop_sentences,
        "meaning": words.meaning,
        "number": number,
        "percent": words.percent,
        "pretty": words.pretty,
        "reward_sentences": contest.reward_sentences,
        "seeds": words.seeds,
        "shown_by": contest.shown_by,
        "title_text": words.title_text,
    }
    return environment
