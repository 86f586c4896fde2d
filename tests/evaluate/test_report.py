"""The report as a document: self-contained, accessible, deterministic, and unmoved by hostile text."""

import copy
import re
import xml.etree.ElementTree as ET  # parses what this repository wrote
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from recolam.evaluate import contest, words
from recolam.evaluate.figures import (
    Mark,
    Place,
    curves,
    free_offsets,
    interval_bars,
    interval_points,
    reliability_diagram,
    scatter,
)
from recolam.evaluate.report import draw_pictures, render_card, render_html
from recolam.evaluate.stage import finite
from tests.evaluate.synthetic import a_report

VOID = {"meta", "link", "br", "img", "hr", "input"}
HOSTILE = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror='alert(1)'>",
    "{{ 7 * 7 }}{% raw %}",
    "</bdi></li></ol><iframe src=//evil.example>",
    "\u202etxt.exe\u202c\x00\x1b[31m\ud800",
    "| a | `b` | [c](javascript:alert(1))",
    "long " * 5000,
]


class Page(HTMLParser):
    """Collects elements and their attributes, and refuses elements that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: dict[str, list[str]] = {}
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        for tag in self.open:
            self.text.setdefault(tag, []).append(data)

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return a_report()


@pytest.fixture(scope="module")
def html(report: dict[str, Any]) -> str:
    return render_html(report)


def test_the_page_needs_nothing_from_outside(html: str) -> None:
    assert "://" not in html
    assert "@import" not in html
    page = Page(html)
    assert {tag for tag, _ in page.elements}.isdisjoint({"script", "link", "img", "iframe", "object", "embed", "form"})
    for _, attributes in page.elements:
        for name, value in attributes.items():
            assert not name.startswith("on")
            assert name not in ("src", "srcset", "action", "href") or (value or "").startswith("#")
            assert "url(" not in (value or "").replace("url(#", "")
    policy = next(m["content"] for m in page.named("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_equal_reports_have_equal_bytes(report: dict[str, Any], html: str) -> None:
    assert render_html(copy.deepcopy(report)) == html
    assert render_card(copy.deepcopy(report)) == render_card(report)


def test_the_verdict_comes_first_and_in_full(report: dict[str, Any], html: str) -> None:
    page = Page(html)
    verdict = report["verdict"]["sentence"]
    text = "".join(page.text["main"])
    assert text.index("Is the new policy better?") < text.index(verdict) < text.index("What it earns")
    assert report["verdict"]["price"] in text
    assert report["verdict"]["logs_say"] in text


def test_pictures_and_tables_can_be_read_aloud(html: str) -> None:
    page = Page(html)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids)), "ids must be unique in a page"
    pictures = page.named("svg")
    assert len(pictures) == 7
    for picture in pictures:
        assert picture["role"] == "img"
        assert set((picture["aria-labelledby"] or "").split()) <= set(ids)
    assert page.named("html")[0]["lang"] == "en"
    assert all(heading.get("scope") in ("col", "row") for heading in page.named("th"))
    for attributes in page.named("section") + [a for a in page.named("div") if a.get("role") == "region"]:
        assert attributes["aria-labelledby"] in ids
    levels = [int(tag[1]) for tag, _ in page.elements if tag in ("h1", "h2", "h3", "h4")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(below - above <= 1 for above, below in pairwise(levels))


def test_numbers_reach_the_page(report: dict[str, Any], html: str) -> None:
    text = " ".join("".join(Page(html).text["main"]).split())
    for name, row in report["ranking"]["rows"].items():
        assert words.label(name) in text
        assert words.number(row["ndcg10"]["mean"]) in text
        assert words.number(row["ndcg10"]["ci95"][0]) in text
    for row in report["ope"]["estimates"].values():
        assert words.number(row["value"]) in text
        assert row["reliability"] in text
    for row in report["lineage"]:
        assert row["digest"] in text
    assert "books" in text
    assert "Small Hours" in text


@pytest.mark.parametrize("title", HOSTILE)
def test_hostile_text_stays_text(report: dict[str, Any], title: str) -> None:
    hostile = copy.deepcopy(report)
    hostile["examples"] = [{"history": [title], "policy": [title], "pretrained": [title], "next": title}]
    hostile["dataset"]["name"] = title
    hostile["data"] = {title: title, "rules": {title: 3}}
    hostile["transfer"][0]["domain"] = title
    hostile["lineage"][0]["config"] = {title: title}
    hostile["curves"][title] = [[0, 1.0], [1, 2.0]]
    hostile["returns"][title] = hostile["returns"]["random"]
    html = render_html(hostile)
    html.encode("utf-8")
    page, plain = Page(html), Page(render_html(report))
    assert {tag for tag, _ in page.elements} <= {tag for tag, _ in plain.elements}
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert "49" not in "".join(page.text["bdi"])
    shown = "".join(page.text["bdi"])
    assert not any(char in shown for char in "\u202e\x00\x1b\ud800")
    card = render_card(hostile)
    card.encode("utf-8")
    rows = [line for line in card.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in rows)
    assert "<script" not in card
    assert not re.search(r"(?<!\\)\]\(", card)


def test_missing_parts_are_said_and_do_not_break_the_page(report: dict[str, Any]) -> None:
    bare = copy.deepcopy(report)
    bare |= {"curves": {}, "exposure": {}, "calibration": {}, "transfer": [], "examples": []}
    bare["closed_loop"] = {"reason": "nobody knows the true users of this log"}
    bare["ope"] = {**bare["ope"], "estimates": {}, "reason": "the log has no slates with propensities"}
    for row in bare["returns"].values():
        row["ci95"] = None
    page = Page(render_html(bare))
    text = "".join(page.text["main"])
    assert "No off-policy estimate: the log has no slates with propensities." in text
    assert "left no calibration" in text
    assert "Not closed: nobody knows the true users of this log." in text
    assert "another domain" not in text
    assert len(page.named("svg")) == 2
    assert "the log has no slates" in render_card(bare)


def test_partial_calibration_is_shown_as_far_as_it_goes(report: dict[str, Any]) -> None:
    partial = copy.deepcopy(report)
    partial["calibration"] = {"ece": 0.2, "click_rate": {"logged": 0.3}, "bins": None}
    text = "".join(Page(render_html(partial)).text["main"])
    assert "0.200" in text
    assert "Slates with a click" not in text


def test_pictures_are_well_formed_svg_with_their_numbers_in_words(report: dict[str, Any]) -> None:
    pictures = draw_pictures(report)
    assert set(pictures) == {"returns", "ranking", "ope", "curves", "exposure", "calibration", "closed_loop"}
    for name, svg in pictures.items():
        root = ET.fromstring(svg.replace("<svg ", '<svg xmlns:xlink="x" ', 1))  # noqa: S314
        assert root.find("title") is not None
        description = root.find("desc")
        assert description is not None
        assert description.text
        assert all(node.get("id", name).startswith(name) for node in root.iter())
    assert "New policy: 21." in pictures["returns"]
    assert "as logged: 0.310" in pictures["ope"]
    assert "Learnt from fitted users: 22.4, 19.6" in pictures["closed_loop"]


def test_the_closed_loop_is_told_in_sentences(report: dict[str, Any], html: str) -> None:
    told = words.loop_sentences(report["closed_loop"])
    assert len(told) == 2
    assert "94.3% of what" in told[0]
    assert "92.1% to 96.5%" in told[0]
    assert "81.3%" in told[0]
    assert "rank 5 policies" in told[1]
    assert "0.900" in told[1]
    assert "5.8% less" in told[1]
    text = " ".join("".join(Page(html).text["main"]).split())
    assert all(sentence in text for sentence in told)
    assert words.loop_sentences({"reason": "x"}) == []


def test_what_the_policy_shows_is_told_and_too_little_is_warned_of(report: dict[str, Any], html: str) -> None:
    told = words.exposure_sentences(report["exposure"])
    assert [figure in told[0] for figure in ("51.2%", "39.1%", "98.7%", "the slates of the log")] == [True] * 4
    assert [figure in told[1] for figure in ("131", "190", "402")] == [True] * 3
    assert "37.4% of the showings" in told[2]
    assert [figure in told[3] for figure in ("64.2%", "71.0%", "53.3%")] == [True] * 3
    text = " ".join("".join(Page(html).text["main"]).split())
    assert all(sentence in text for sentence in told)
    warning = words.exposure_warning(report["exposure"])
    assert "covers 39.1% of the catalogue, less than half of the 98.7%" in warning
    assert warning in text
    calm = copy.deepcopy(report)
    calm["exposure"]["is_narrow"] = False
    assert "less than half" not in render_html(calm)
    pictures = draw_pictures(report)
    assert "coverage: from 0.512 to 0.391" in pictures["exposure"]
    assert "coverage" not in pictures["curves"]
    assert (words.exposure_sentences({}), words.exposure_warning({})) == ([], "")


def test_each_contestant_s_breadth_stands_beside_its_return(report: dict[str, Any], html: str) -> None:
    text = " ".join("".join(Page(html).text["main"]).split())
    assert report["verdict"]["reach"] in text
    assert "71.3% 214" in text  # SlateQ
    assert "98.7% 402" in text
    assert "All train slates of the behaviour log; 60,210 showings." in text
    assert "Learnt from 90,225 user-steps in 9,984 sessions." in text
    card = render_card(report)
    assert f"| SlateQ | {words.number(report['returns']['slateq']['mean'])} |" in card
    assert "| 71.3% |" in card
    assert "| What the log shows | | | 98.7% |" in card
    older = copy.deepcopy(report) | {"shown": {}}
    older["verdict"]["reach"] = ""
    text = "".join(Page(render_html(older)).text["main"])
    assert "Catalogue shown" not in text
    assert "What the log shows" not in render_card(older)


def test_a_composed_reward_has_a_table_of_its_own_and_is_defined(report: dict[str, Any], html: str) -> None:
    page = Page(html)
    text = " ".join("".join(page.text["main"]).split())
    assert "Under the world's own reward, without what it was composed with in training" in text
    assert "What it earns by the reward that it learnt for" in text
    assert "Reward of a step = 1.00 \u00d7 response + 0.500 \u00d7 diversity." in text
    assert "diversity: mean distance of the slate's items." in text
    assert "one step later counted 0.950" in text
    for table, name in (("composed", "slateq"), ("returns", "slateq")):
        rows = report["composed"]["returns"] if table == "composed" else report["returns"]
        assert words.number(rows[name]["mean"]) in text
        assert words.number(rows[name]["mean"]) in render_card(report)
    plain = copy.deepcopy(report) | {"composed": {}}
    text = "".join(Page(render_html(plain)).text["main"])
    assert "world's own reward" not in text
    assert "omposed" not in text + render_card(plain)


def test_reach_by_hand() -> None:
    row = {"coverage": 0.3, "log_coverage_of_as_many": 0.75}
    check = contest.coverage_check({"policies": {"trained": row}})
    assert check == {**row, "share": pytest.approx(0.4)}
    assert "30.0% of the catalogue" in contest.reach_sentence(check)
    assert contest.reach_sentence(check).endswith("would cover 75.0%, more than twice as much.")
    wide = contest.coverage_check({"policies": {"trained": row | {"coverage": 0.375}}})
    assert contest.reach_sentence(wide).endswith("would cover 75.0%.")
    assert (contest.coverage_check({}), contest.reach_sentence(None)) == (None, "")
    assert contest.learnt_from({"mean": 1.0}) == ""


def test_the_table_of_gradient_estimators_is_folded_away(html: str) -> None:
    page = Page(html)
    assert len(page.named("details")) == 1
    folded = "".join(page.text["details"])
    assert folded.count("PL-Rank-3, centred") == 2
    assert "slates of 10 out of\n1,000 items" in folded


def test_pictures_bear_strange_numbers() -> None:
    flat = interval_bars([Mark("a", 0.0), Mark("$b$", 0.0, [0.0, 0.0])], name="x", title="t", axis="y")
    negative = interval_bars([Mark("a", -3.0, [-4.0, 1.0]), Mark("b", -1.0)], name="x", title="t", axis="y")
    point = interval_points([Mark("a", 1.0)], name="x", title="t", axis="y", line=("l", 1.0))
    broken = curves({"one": [[0, 1.0]], "none": [], "nan": [[0, float("nan")], [1, 2.0]]}, name="x", title="t")
    empty = reliability_diagram([[float("nan"), 0.1, 3], [0.2, 0.1, 0]], name="x", title="t")
    dots = scatter([Place("$a$", 0.0, 0.0), Place("b", -1.0, 2.0)], name="x", title="t", x_axis="x", y_axis="y")
    alone = scatter([Place("a", 1.0, 1.0)], name="x", title="t", x_axis="x", y_axis="y")
    for svg in (flat, negative, point, broken, empty, dots, alone):
        assert "nan" not in svg.split("</desc>")[1].lower()
        ET.fromstring(svg.replace("<svg ", '<svg xmlns:xlink="x" ', 1))  # noqa: S314


def test_numbers_of_points_that_lie_over_each_other_do_not() -> None:
    crowd = np.array([[100.0, 100.0]] * 4 + [[102.0, 99.0], [96.0, 101.0], [200.0, 20.0]])
    offset_N2 = free_offsets(crowd)
    text_N2 = crowd + offset_N2
    for index, text in enumerate(text_N2):
        for other in text_N2[:index]:
            across, up = np.abs(text - other)
            assert across >= 13 or up >= 10  # two digits in the size that is drawn
        for other in crowd:
            assert np.hypot(*(text - other)) >= 8
    lonely = offset_N2[-1]
    assert lonely[0] == pytest.approx(lonely[1])
    assert 0 < np.hypot(*lonely) < 12
    assert np.hypot(*offset_N2.T).max() < 40


def test_nothing_in_report_json_is_without_a_number() -> None:
    wild = {"mean": 1.0, "ci95": [float("-inf"), float("inf")], "rows": [float("nan"), 2, (3.0, "x")]}
    assert finite(wild) == {"mean": 1.0, "ci95": None, "rows": [None, 2, [3.0, "x"]]}


def test_facts_flatten_and_leave_out_what_is_empty() -> None:
    facts = words.facts({"rows": 1200, "rules": {"bad_time": 3}, "none": None, "list": [], "ok": True, "share": 0.5})
    assert facts == [("rows", "1,200"), ("rules: bad time", "3"), ("ok", "yes"), ("share", "0.500")]
