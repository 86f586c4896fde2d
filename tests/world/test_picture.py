"""The picture of a session says what happened, to the eye and to a screen reader."""

import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
import torch
from matplotlib import get_data_path
from PIL import ImageFont

from recolam.contracts.dataset import FIRST_ITEM
from recolam.contracts.protocols import Observation
from recolam.world.boredom import BoredomConfig, BoredomUsers, draw_items
from recolam.world.environment import SimulatedUsers
from recolam.world.picture import Session, Shown, described, record_session, session_svg
from tests.world.worlds import fixed_slates, small_environment

SVG = "{http://www.w3.org/2000/svg}"
SESSION = Session(
    steps=(
        Shown((4, 9), (False, True), 1.25),
        Shown((7, 3), (True, True), -0.5),
        Shown((8, 5), (False, False), 0.0),
    ),
    end="left",
)


def slates(observation: Observation) -> torch.Tensor:
    return fixed_slates(len(observation.length_B))


def drawn_texts(svg: str) -> list[str]:
    return ["".join(node.itertext()).strip() for node in ElementTree.fromstring(svg).iter(f"{SVG}text")]  # noqa: S314


def test_every_slate_click_reward_and_the_leaving_are_drawn() -> None:
    texts = drawn_texts(session_svg(SESSION, title="A session"))
    assert texts == [
        "A session", "position 1", "position 2", "reward",
        "1", "item 1", "\u2713 item 6", "1.25",
        "2", "\u2713 item 4", "\u2713 item 0", "-0.5",
        "3", "item 5", "item 2", "0",
        "The user left after step 3.",
    ]  # fmt: skip


def test_clicked_cells_are_filled_and_bars_are_as_long_as_rewards() -> None:
    root = ElementTree.fromstring(session_svg(SESSION, title="A session"))  # noqa: S314
    widths, filled = [], 0
    for path in root.iter(f"{SVG}path"):
        numbers = [float(word) for word in path.get("d", "").split() if word not in "MLzC"]
        left, right, top, bottom = min(numbers[::2]), max(numbers[::2]), min(numbers[1::2]), max(numbers[1::2])
        style = path.get("style", "")
        if "#0b6e99" in style and "stroke: #0b6e99" in style:
            filled += 1
        elif bottom - top == pytest.approx(0.16 * 72, abs=0.01):
            widths.append(right - left)
    assert filled == 3
    assert widths == pytest.approx([0.85 * 72, 0.85 * 72 * 0.4, 0.0], abs=0.01)


def test_screen_readers_are_told_all_of_it() -> None:
    names = {4: "Casino & Co", 9: "<b>Whale</b> of a very long name", 7: "$5", 3: "c\x00d", 8: "e", 5: "f"}
    svg = session_svg(SESSION, title="One <user>", label=names.__getitem__)
    root = ElementTree.fromstring(svg)  # noqa: S314
    title, description = root.find(f"{SVG}title"), root.find(f"{SVG}desc")
    assert title is not None
    assert description is not None
    assert root.get("role") == "img"
    assert root.get("aria-labelledby") == f"{title.get('id')} {description.get('id')}"
    assert title.text == "One <user>"
    assert (
        description.text
        == described(SESSION, label=names.__getitem__)
        == (
            "Step 1: shown Casino & Co, <b>Whale</b> of a very long name; clicked <b>Whale</b> of a very long name; "
            "reward 1.25. Step 2: shown $5, c d; clicked $5, c d; reward -0.5. Step 3: shown e, f; no click; reward 0. "
            "The user left after step 3."
        )
    )
    assert "\u2713 <b>Whale</b> of a very long name" in drawn_texts(svg)
    assert "\u2713 $5" in drawn_texts(svg)


NAMES = {
    "wide letters": "W" * 60,
    "narrow letters": "il" * 60,
    "a title": "Shakespeare's Sister, or the Very Long Title of a Film (1999)",
    "East Asian": "\u5343\u3068\u5343\u5c0b\u306e\u795e\u96a0\u3057" * 4,
    "short": "Up",
}


@pytest.mark.parametrize("positions", [1, 2, 5, 10])
@pytest.mark.parametrize("name", NAMES)
def test_no_text_leaves_its_place(name: str, positions: int) -> None:
    """Text measured by another program than the picture's own, in a font that has the letters or one as wide."""
    steps = [Shown(tuple(range(3, 3 + positions)), (is_clicked,) * positions, -1.2e-05) for is_clicked in (True, False)]
    svg = session_svg(Session(tuple(steps), "cut"), title="A title " * 9, label=lambda _: NAMES[name])
    root = ElementTree.fromstring(svg)  # noqa: S314
    canvas = float(root.get("viewBox", "").split()[2])
    lines: dict[int, list[tuple[float, float]]] = {}
    for node in root.iter(f"{SVG}text"):
        left, top = float(node.get("x", "")), round(float(node.get("y", "")))
        style, text = node.get("style", ""), "".join(node.itertext()).strip()
        size = float(re.search(r"([\d.]+)px", style)[1])  # type: ignore[index]
        lines.setdefault(top, []).append((left, left + wide(text, size, is_bold="font-weight: 700" in style)))
    assert len(lines) == 5
    for spans in lines.values():
        spans.sort()
        assert all(end < start for (_, end), (start, _) in pairwise(spans))
        assert spans[-1][1] < canvas
    texts = drawn_texts(svg)
    assert name != "short" or texts.count("Up") == texts.count("\u2713 Up") == positions
    assert sum(text.endswith("\u2026") for text in texts) == (0 if NAMES[name] in texts else 2 * positions)


def wide(text: str, size: float, *, is_bold: bool) -> float:
    """Width of a text in the SVG's units; what DejaVu has not is an em wide."""
    font = ImageFont.truetype(get_data_path() + f"/fonts/ttf/DejaVuSans{'-Bold' * is_bold}.ttf", 100)
    known = "".join(letter for letter in text if ord(letter) < 0x3000)
    return (font.getlength(known) / 100 + len(text) - len(known)) * size


def test_the_same_session_is_the_same_picture() -> None:
    assert session_svg(SESSION, title="A") == session_svg(SESSION, title="A")


def test_long_titles_have_room() -> None:
    def width(title: str) -> float:
        return float(session_svg(SESSION, title=title).split('viewBox="0 0 ')[1].split()[0])

    assert width("A" * 20) == width("A")
    assert width("W" * 100) > 100 * 12 * 0.7


def test_a_recorded_session_is_what_the_environment_answered() -> None:
    environment = small_environment(horizon=30, budget=2.0)
    session = record_session(environment, slates, seed=1, steps=30)
    observation = environment.reset(users=1, seed=1)
    for number, shown in enumerate(session.steps, start=1):
        result = environment.step(slates(observation))
        assert shown.item_K == (FIRST_ITEM, FIRST_ITEM + 1, FIRST_ITEM + 2)
        assert shown.is_clicked_K == tuple(result.is_clicked_BK[0].tolist())
        assert shown.reward == float(result.reward_B[0])
        assert bool(result.terminated_B[0]) == (number == len(session.steps))
    assert session.end == "left"


def test_sessions_that_are_cut_or_go_on_say_so() -> None:
    people = BoredomUsers(BoredomConfig(slate_size=3, topics=5), draw_items(12, topics=5, seed=0))
    cut = record_session(SimulatedUsers(people, horizon=4), slates, seed=0, steps=9)
    open_end = record_session(SimulatedUsers(people, horizon=4), slates, seed=0, steps=2)
    assert (cut.end, len(cut.steps)) == ("cut", 4)
    assert (open_end.end, open_end.steps) == ("goes on", cut.steps[:2])
    assert "The session was cut at its horizon after step 4." in drawn_texts(session_svg(cut, title="A"))
    assert described(open_end).endswith("The session goes on after step 2.")


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match="0 steps"):
        record_session(small_environment(), slates, seed=0, steps=0)
    with pytest.raises(ValueError, match="0 steps with slates of"):
        session_svg(Session((), "cut"), title="A")
    with pytest.raises(ValueError, match=r"2 steps with slates of \[1, 2\] positions"):
        session_svg(Session((Shown((3,), (True,), 1.0), Shown((3, 4), (True, False), 1.0)), "cut"), title="A")
