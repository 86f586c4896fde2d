"""One user's session as a picture: a line a slate, what was clicked, what it was worth and how it ended.

SVG text by matplotlib, the same bytes for the same session. Clicks are told apart by a tick and by weight as well as by
colour; a title and a description say all of it to those who do not see it.
Shape legend: K slate positions.
"""

import functools
import io
import math
import re
import unicodedata
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from typing import Any, Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle
from matplotlib.textpath import text_to_path
from torch import Tensor

from recolam.contracts.dataset import FIRST_ITEM
from recolam.contracts.protocols import Environment, Observation

SlateFunction = Callable[[Observation], Tensor]
"""What may be seen -> slates int64 [B, K]."""

_INK, _QUIET, _RULE, _ACCENT, _PAPER = "#1c2429", "#59656d", "#d5dbdf", "#0b6e99", "#ffffff"
_LINE, _MARGIN, _BAR, _PAD = 0.36, 0.6, 1.6, 0.07  # inches
_NARROWEST, _WIDEST, _ALL_CELLS = 0.95, 1.45, 12.0  # inches: cells of short and of long names; more where there is room
_SIZE, _TITLE_SIZE = 9, 12  # points
_TICK, _DOTS = "\u2713 ", "\u2026"
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "recolam",
    "svg.fonttype": "none",
    "font.family": ["DejaVu Sans", "sans-serif"],
}
_NO_METADATA: dict[str, Any] = {"Date": None, "Creator": None, "Format": None, "Type": None}
_ENDS = {
    "left": "The user left after step {}.",
    "cut": "The session was cut at its horizon after step {}.",
    "goes on": "The session goes on after step {}.",
}


@dataclass(frozen=True)
class Shown:
    """One slate and its answer: tokens and clicks by position, and the reward."""

    item_K: tuple[int, ...]
    is_clicked_K: tuple[bool, ...]
    reward: float


@dataclass(frozen=True)
class Session:
    """What happened to one user, and how it ended: he "left", was "cut" at the horizon, or it "goes on"."""

    steps: tuple[Shown, ...]
    end: Literal["left", "cut", "goes on"]


def record_session(environment: Environment, slates: SlateFunction, *, seed: int, steps: int) -> Session:
    """Starts one session and shows it slates until it ends, `steps` at most.

    Raises:
        ValueError: fewer steps than one, or a slate that the environment refuses.
    """
    if steps < 1:
        raise ValueError(f"a session of {steps} steps")
    observation, shown = environment.reset(users=1, seed=seed), []
    for _ in range(steps):
        slate_BK = slates(observation)
        result = environment.step(slate_BK)
        items, clicks = slate_BK[0].tolist(), result.is_clicked_BK[0].tolist()
        shown.append(Shown(tuple(items), tuple(clicks), float(result.reward_B[0])))
        if bool(result.terminated_B[0]):
            return Session(tuple(shown), "left")
        if bool(result.truncated_B[0]):
            return Session(tuple(shown), "cut")
        observation = result.observation
    return Session(tuple(shown), "goes on")


def item_number(token: int) -> str:
    """A name for items that have none: "item 0" for the first of the vocabulary."""
    return f"item {token - FIRST_ITEM}"


@matplotlib.rc_context(_STYLE)
def session_svg(session: Session, *, title: str, label: Callable[[int], str] = item_number) -> str:
    """The session as an SVG document.

    Args:
        title: what the picture shows, drawn on top and read aloud by screen readers.
        label: a token's name; long ones are cut in the picture and whole in the description.

    Raises:
        ValueError: a session without steps, or slates of different sizes.
    """
    sizes = {len(shown.item_K) for shown in session.steps}
    if len(sizes) != 1:
        raise ValueError(f"a session of {len(session.steps)} steps with slates of {sorted(sizes)} positions")
    positions, lines = sizes.pop(), len(session.steps)
    names = {token: _printable(label(token)) for shown in session.steps for token in shown.item_K}
    room = max(_WIDEST, _ALL_CELLS / positions)
    longest = max(_inches(_TICK + name, weight="bold") for name in names.values())
    cell = min(max(longest + 3 * _PAD, _NARROWEST), room)
    end = _ENDS[session.end].format(lines)
    wide = max(_inches(title, size=_TITLE_SIZE, weight="bold"), _inches(end)) + 0.2
    width, height = max(_MARGIN + positions * cell + _BAR, wide), (lines + 3) * _LINE
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0), xlim=(0.0, width), ylim=(height, 0.0))
    axes.set_axis_off()
    _write(axes, 0.1, 0.5 * _LINE, title, size=_TITLE_SIZE, weight="bold")
    for place in range(positions):
        _write(axes, _MARGIN + place * cell, 1.5 * _LINE, f"position {place + 1}", color=_QUIET)
    _write(axes, _MARGIN + positions * cell, 1.5 * _LINE, "reward", color=_QUIET)
    largest = max((abs(shown.reward) for shown in session.steps if math.isfinite(shown.reward)), default=0.0)
    for step, shown in enumerate(session.steps):
        top = (step + 2) * _LINE
        _write(axes, 0.1, top + 0.5 * _LINE, str(step + 1), color=_QUIET)
        for place, (token, is_clicked) in enumerate(zip(shown.item_K, shown.is_clicked_K, strict=True)):
            _cell(axes, _MARGIN + place * cell, top, cell, names[token], is_clicked=is_clicked)
        _reward(axes, _MARGIN + positions * cell, top, shown.reward, largest=largest)
    _write(axes, 0.1, (lines + 2.5) * _LINE, end)
    return _svg(figure, title=title, description=described(session, label=label))


def described(session: Session, *, label: Callable[[int], str] = item_number) -> str:
    """The session in words, a sentence a step and one for the end."""
    told = []
    for step, shown in enumerate(session.steps, start=1):
        names = [_printable(label(token)) for token in shown.item_K]
        clicked = [name for name, is_clicked in zip(names, shown.is_clicked_K, strict=True) if is_clicked]
        answer = f"clicked {', '.join(clicked)}" if clicked else "no click"
        told.append(f"Step {step}: shown {', '.join(names)}; {answer}; reward {shown.reward:.3g}.")
    return " ".join([*told, _ENDS[session.end].format(len(session.steps))])


def _cell(axes: Axes, left: float, top: float, width: float, text: str, *, is_clicked: bool) -> None:
    axes.add_patch(
        Rectangle(
            (left, top + 0.03), width - 0.06, _LINE - 0.06,
            facecolor=_ACCENT if is_clicked else _PAPER, edgecolor=_ACCENT if is_clicked else _RULE, linewidth=0.8,
        )
    )  # fmt: skip
    text, color, weight = (_TICK + text, _PAPER, "bold") if is_clicked else (text, _INK, "normal")
    text = _cut(text, room=width - 3 * _PAD, weight=weight)
    _write(axes, left + _PAD, top + 0.5 * _LINE, text, color=color, weight=weight)


def _reward(axes: Axes, left: float, top: float, reward: float, *, largest: float) -> None:
    """A bar as long as the reward's size, grey where it is a loss, and the number."""
    share = abs(reward) / largest if largest > 0 and math.isfinite(reward) else 0.0
    length = share * (_BAR - 0.75)
    color = _ACCENT if reward > 0 else _QUIET
    axes.add_patch(Rectangle((left, top + 0.1), length, _LINE - 0.2, facecolor=color, linewidth=0))
    _write(axes, left + length + 0.06, top + 0.5 * _LINE, f"{reward:.3g}")


def _write(
    axes: Axes, x: float, y: float, text: str, *, color: str = _INK, size: float = _SIZE, weight: str = "normal"
) -> None:
    # names of items are text: a dollar in them starts no formula
    axes.text(x, y, _printable(text), color=color, fontsize=size, fontweight=weight, va="center", parse_math=False)


def _printable(text: str) -> str:
    """The text without what XML does not allow."""
    return "".join(character if character.isprintable() else " " for character in text)


def _cut(text: str, *, room: float, weight: str) -> str:
    """As much of the text as fits into `room` inches."""
    if _inches(text, weight=weight) <= room:
        return text
    kept = next(size for size in range(len(text) - 1, -1, -1) if _inches(text[:size] + _DOTS, weight=weight) <= room)
    return text[:kept].rstrip() + _DOTS


@functools.cache
def _inches(text: str, *, size: float = _SIZE, weight: str = "normal") -> float:
    """The width of a text in DejaVu Sans, which is wider than what browsers take in its place.

    It has no East Asian letters: they are an em wide in other fonts, and its W is wider than that.
    """
    known = "".join("W" if unicodedata.east_asian_width(letter) in "WF" else letter for letter in text)
    font = FontProperties(family="DejaVu Sans", size=size, weight=weight)
    return text_to_path.get_text_width_height_descent(known, font, ismath=False)[0] / 72


def _svg(figure: Figure, *, title: str, description: str) -> str:
    stream = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # browsers have fonts of their own
        FigureCanvasSVG(figure).print_svg(stream, metadata=_NO_METADATA)
    text = stream.getvalue()
    text = re.sub(r"<(metadata|style).*?</\1>\s*", "", text[text.index("<svg") :], flags=re.DOTALL)
    told = (
        f'<title id="session-title">{escape(_printable(title))}</title>'
        f'<desc id="session-description">{escape(description)}</desc>'
    )
    opening = '<svg role="img" aria-labelledby="session-title session-description"'
    text = text.replace("<svg", opening, 1)
    end = text.index(">") + 1
    return text[:end] + told + text[end:]
