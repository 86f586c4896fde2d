"""The report's pictures: SVG text by matplotlib, the same bytes for the same numbers, nothing fetched from outside."""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from numpy.typing import NDArray

from recolam.evaluate import words
from recolam.evaluate.verdict import number

INK, QUIET, RULE, ACCENT, WARM = "#1c2429", "#59656d", "#d5dbdf", "#0b6e99", "#b8501c"
BAR = "#aab7bf"
_LONGEST_LABEL = 34
_NEAREST = 11.0  # points from a point to the middle of its number
_WIDTH = 5.4  # inches: 389 points, about the width of a telephone
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "recolam",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 10.5,
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": QUIET,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": QUIET,
    "ytick.color": INK,
    "axes.grid": False,
    "path.simplify": False,
}
_NO_METADATA: dict[str, Any] = {"Date": None, "Creator": None, "Format": None, "Type": None}


@dataclass(frozen=True)
class Mark:
    """One bar or point: its label, value, interval (or None) and whether it is the one the report is about."""

    label: str
    value: float
    ci95: Sequence[float] | None = None
    is_ours: bool = False


@matplotlib.rc_context(_STYLE)
def interval_bars(marks: Sequence[Mark], *, name: str, title: str, axis: str) -> str:
    """Horizontal bars from 0 with 95% whiskers, in the order given, the value written beside each.

    Args:
        name: prefix of the ids inside the SVG, unlike those of the page's other pictures.
        title: what the picture says, read aloud by screen readers.
        axis: the unit.
    """
    figure, axes = _canvas(height=0.75 + 0.4 * len(marks))
    place = np.arange(len(marks))[::-1]
    axes.barh(
        place, [mark.value for mark in marks], height=0.62, color=[ACCENT if mark.is_ours else BAR for mark in marks]
    )
    ends = [_ends(mark) for mark in marks]
    for y, mark, (low, high) in zip(place, marks, ends, strict=True):
        if mark.ci95 is not None:
            axes.plot([low, high], [y, y], color=INK, linewidth=1.4, solid_capstyle="butt")
        axes.annotate(
            number(mark.value), (max(high, mark.value, 0.0), y), xytext=(5, 0), textcoords="offset points", va="center"
        )
    _label_rows(axes, marks, place)
    axes.axvline(0.0, color=INK, linewidth=0.8)
    largest, smallest = max(0.0, *(high for _, high in ends)), min(0.0, *(low for low, _ in ends))
    span = (largest - smallest) or 1.0
    axes.set_xlim(smallest - (0.04 * span if smallest < 0 else 0.0), largest + 0.17 * span)
    axes.set_xlabel(axis)
    return _svg(figure, name=name, title=title, description=_describe(marks, axis))


@matplotlib.rc_context(_STYLE)
def interval_points(marks: Sequence[Mark], *, name: str, title: str, axis: str, line: tuple[str, float]) -> str:
    """Points with 95% whiskers and one vertical reference line.

    Args:
        line: its label and value.
    """
    figure, axes = _canvas(height=1.05 + 0.4 * len(marks))
    place = np.arange(len(marks))[::-1]
    for y, mark in zip(place, marks, strict=True):
        low, high = _ends(mark)
        axes.plot([low, high], [y, y], color=ACCENT if mark.is_ours else QUIET, linewidth=2.0, solid_capstyle="butt")
        axes.plot([mark.value], [y], marker="o", markersize=6, color=ACCENT if mark.is_ours else QUIET)
    _label_rows(axes, marks, place)
    axes.axvline(line[1], color=WARM, linewidth=1.2, linestyle=(0, (4, 2)))
    axes.annotate(
        line[0], (line[1], 1.0), xycoords=("data", "axes fraction"), xytext=(0, 3), textcoords="offset points",
        color=WARM, ha="center",
    )  # fmt: skip
    axes.margins(x=0.12)
    axes.set_xlabel(axis)
    description = f"{_describe(marks, axis)} {line[0]}: {number(line[1])}."
    return _svg(figure, name=name, title=title, description=description)


@matplotlib.rc_context(_STYLE)
def curves(series: Mapping[str, Sequence[Sequence[float]]], *, name: str, title: str) -> str:
    """One small panel a curve, since curves differ in unit: value over step.

    Args:
        series: by name, [step, value] pairs; values that are not finite are left out.
    """
    rows = -(-len(series) // 2)
    figure = Figure(figsize=(_WIDTH, 0.35 + 1.45 * rows), layout="constrained")
    grid = figure.subplots(rows, 2, squeeze=False)
    told = []
    for axes, label in zip(grid.flat, series, strict=False):
        points = np.array(series[label], dtype=np.float64).reshape(-1, 2)
        points = points[np.isfinite(points).all(axis=1)]
        axes.plot(points[:, 0], points[:, 1], color=ACCENT, linewidth=1.5, marker="o" if len(points) == 1 else None)
        axes.set_title(_plain(label.replace("_", " ")), fontsize=10, loc="left", color=INK)
        axes.tick_params(labelsize=8, length=2)
        axes.grid(axis="y", color=RULE, linewidth=0.6)
        if len(points):
            told.append(f"{label}: from {number(points[0, 1])} to {number(points[-1, 1])}.")
    for axes in list(grid.flat)[len(series) :]:
        axes.set_axis_off()
    figure.supxlabel("training step", fontsize=9.5, color=QUIET)
    return _svg(figure, name=name, title=title, description=" ".join(told))


@matplotlib.rc_context(_STYLE)
def reliability_diagram(bins: Sequence[Sequence[float]], *, name: str, title: str) -> str:
    """Predicted against observed frequency; perfect predictions lie on the diagonal, larger points hold more cases.

    Args:
        bins: [mean predicted, observed, count] each.
    """
    cells = np.array(bins, dtype=np.float64).reshape(-1, 3)
    cells = cells[np.isfinite(cells).all(axis=1) & (cells[:, 2] > 0)]
    figure, axes = _canvas(height=3.6)
    top = min(1.0, 1.1 * float(cells[:, :2].max(initial=0.05)))
    axes.plot([0, top], [0, top], color=WARM, linewidth=1.2, linestyle=(0, (4, 2)))
    share = cells[:, 2] / max(float(cells[:, 2].sum()), 1.0)
    axes.plot(cells[:, 0], cells[:, 1], color=ACCENT, linewidth=1.0, alpha=0.6)
    axes.scatter(cells[:, 0], cells[:, 1], s=18 + 350 * share, color=ACCENT, alpha=0.85, linewidths=0)
    axes.annotate("perfect", (top, top), xytext=(0, -22), textcoords="offset points", color=WARM, ha="right", va="top")
    axes.set(xlabel="predicted by the fitted users", ylabel="observed in held-out logs", xlim=(0, top), ylim=(0, top))
    axes.yaxis.label.set_color(QUIET)
    told = "; ".join(f"predicted {number(p)}, observed {number(o)} ({int(n)} cases)" for p, o, n in cells)
    return _svg(figure, name=name, title=title, description=told + ".")


@dataclass(frozen=True)
class Place:
    """One point: its label, where it lies, and whether it is one that the report is about."""

    label: str
    x: float
    y: float
    is_ours: bool = False


@matplotlib.rc_context(_STYLE)
def scatter(places: Sequence[Place], *, name: str, title: str, x_axis: str, y_axis: str) -> str:
    """Points with numbers, which a legend below explains in the order of x; the best of either axis needs no colour.

    Args:
        x_axis, y_axis: what is measured, with its unit.
    """
    ordered = sorted(places, key=lambda place: (place.x, place.label))
    rows = -(-len(ordered) // 2)
    figure, axes = _canvas(height=3.4 + 0.24 * rows)
    axes.margins(0.17)
    axes.tick_params(length=2, labelsize=9)
    axes.set(xlabel=x_axis, ylabel=y_axis)
    axes.yaxis.label.set_color(QUIET)
    lines = [f"{number_}  {_plain(place.label)}" for number_, place in enumerate(ordered, start=1)]
    columns = ["\n".join(lines[:rows]), "\n".join(lines[rows:])]
    for left, text in zip((0.0, 0.52), columns, strict=True):
        axes.annotate(
            text, (left, 0.0), xycoords="axes fraction", xytext=(0, -42), textcoords="offset points", va="top",
            fontsize=9, linespacing=1.35,
        )  # fmt: skip
    for place in ordered:
        colour = ACCENT if place.is_ours else QUIET
        axes.plot([place.x], [place.y], marker="o", markersize=5, color=colour, markeredgecolor="white")
    figure.draw_without_rendering()  # where points lie is known once all else has its room
    point_N2 = axes.transData.transform([(place.x, place.y) for place in ordered]) * 72.0 / figure.dpi
    for number_, (place, offset) in enumerate(zip(ordered, free_offsets(point_N2), strict=True), start=1):
        colour = ACCENT if place.is_ours else QUIET
        line = {"arrowstyle": "-", "color": colour, "linewidth": 0.6, "shrinkA": 1.0, "shrinkB": 2.0}
        axes.annotate(
            str(number_), (place.x, place.y), xytext=tuple(offset), textcoords="offset points", color=colour,
            fontsize=9, ha="center", va="center", arrowprops=line if np.hypot(*offset) > 1.5 * _NEAREST else None,
        ).set_in_layout(False)  # fmt: skip
    told = "; ".join(f"{place.label}: {number(place.x)}, {number(place.y)}" for place in ordered)
    return _svg(figure, name=name, title=title, description=f"{x_axis.capitalize()}, then {y_axis}. {told}.")


def free_offsets(point_N2: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where the number of each point goes: the middle of its text as seen from the point, float [N, 2], in points.

    As near as may be, away from the points close by, and so that no text comes near another text or another point.

    Args:
        point_N2: where the points lie, in points.
    """
    angle_A = np.arange(0.0, 2.0 * np.pi, np.pi / 12)
    direction_A2 = np.column_stack([np.cos(angle_A), np.sin(angle_A)])
    texts = np.empty((0, 2))
    for index, point in enumerate(point_N2):
        others = np.delete(point_N2, index, axis=0)
        near = others[np.hypot(*(others - point).T) < 3.0 * _NEAREST]
        away_2 = point - near.mean(axis=0) if len(near) else np.ones(2)  # to the upper right, if all are alike
        preferred_A2 = direction_A2[np.argsort(-direction_A2 @ away_2, kind="stable")]
        for radius in np.arange(_NEAREST, _NEAREST * (2 + len(point_N2)), _NEAREST):
            text_A2 = point + radius * preferred_A2
            is_free_A = _is_apart(text_A2, texts, across=14.0, up=11.0) & _is_apart(
                text_A2, others, across=10.0, up=8.0
            )
            if is_free_A.any():
                break
        texts = np.vstack([texts, text_A2[is_free_A.argmax()]])
    return texts - point_N2


def _is_apart(text_A2: NDArray[np.float64], taken_M2: NDArray[np.float64], *, across: float, up: float) -> Any:
    """Which texts keep so far from everything taken, to the side or up and down; bool [A]."""
    distance_AM2 = np.abs(text_A2[:, None] - taken_M2[None])
    return ((distance_AM2[..., 0] >= across) | (distance_AM2[..., 1] >= up)).all(axis=1)


def _canvas(*, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    return figure, figure.subplots()


def _label_rows(axes: Axes, marks: Sequence[Mark], place: np.ndarray) -> None:
    axes.set_yticks(place, [_plain(mark.label) for mark in marks])
    for text, mark in zip(axes.get_yticklabels(), marks, strict=True):
        text.set_fontweight("bold" if mark.is_ours else "normal")
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", length=2, labelsize=9)
    axes.spines["left"].set_visible(False)
    axes.set_ylim(-0.6, len(marks) - 0.4)


def _ends(mark: Mark) -> tuple[float, float]:
    return (mark.value, mark.value) if mark.ci95 is None else (float(mark.ci95[0]), float(mark.ci95[1]))


def _describe(marks: Sequence[Mark], axis: str) -> str:
    told = []
    for mark in marks:
        between = f", 95% interval {number(mark.ci95[0])} to {number(mark.ci95[1])}" if mark.ci95 is not None else ""
        told.append(f"{mark.label}: {number(mark.value)}{between}")
    return f"{axis.capitalize()}. " + "; ".join(told) + "."


def _plain(text: str) -> str:
    """Text for a picture: short, without what cannot be drawn; a dollar would start a formula in matplotlib."""
    text = words.title_text(text)
    text = text if len(text) <= _LONGEST_LABEL else text[: _LONGEST_LABEL - 1] + "\u2026"
    return text.replace("$", r"\$")


def _svg(figure: Figure, *, name: str, title: str, description: str) -> str:
    """The figure as an SVG element for HTML: ids made unique by `name`, a title and description for screen readers."""
    stream = io.StringIO()
    FigureCanvasSVG(figure).print_svg(stream, metadata=_NO_METADATA)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<(metadata|style).*?</\1>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'(\sid="|url\(#|xlink:href="#)', rf"\g<1>{name}-", text)
    view = re.search(r'viewBox="([^"]*)"', text)
    box = view.group(1) if view else "0 0 1 1"
    head = (
        f'<svg viewBox="{box}" role="img" aria-labelledby="{name}-title {name}-description">'
        f'<title id="{name}-title">{escape(title)}</title>'
        f'<desc id="{name}-description">{escape(description)}</desc>'
    )
    return head + text[text.index(">") + 1 :].rstrip()
