"""Bias, variance and cost of the slate gradient estimators, at equal numbers of sampled slates.

Shape legend: S slates, K positions, N items, J parts of the sample.
"""

import json
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recolam.bench.slate_estimators import (
    CONSTANT_BASELINE,
    ESTIMATORS,
    EXPECTED_BASELINE,
    STALENESS,
    Bandit,
    Estimator,
    draw,
)
from recolam.errors import ConfigError
from recolam.policy.inclusion import exact_gradient, expected_exposure
from recolam.progress import Progress
from recolam.seeding import torch_generator

_PARTS = 16
_BLOCK = 256


@dataclass(frozen=True)
class GradientsBench:
    """One state with `items`; `slates` are sampled, in blocks of 256, for every estimator alike.

    Attributes:
        out: a file for the tables: .md, .html, or .json as the evaluation report reads them; "" for none.
    """

    items: int = 1000
    slate: int = 10
    slates: int = 32768
    seed: int = 0
    out: str = ""

    def __post_init__(self) -> None:
        if self.out and Path(self.out).suffix not in _WRITERS:
            raise ConfigError(f"out {self.out!r} ends in none of {', '.join(_WRITERS)}")
        if self.out and not Path(self.out).parent.is_dir():
            raise ConfigError(f"out {self.out!r}: no such folder")
        if self.slate > self.items:
            raise ConfigError(f"slates of {self.slate} cannot be made of {self.items} items")
        if self.slates < _PARTS * _BLOCK:
            raise ConfigError(f"slates is {self.slates}, below {_PARTS * _BLOCK}: too few to tell bias from noise")


def gradients(config: GradientsBench) -> dict[str, Any]:
    """Every estimator against the exact gradient, under a policy that knows nothing yet and one that has learnt.

    The user is position-based: clicks are Bernoulli(exposure x click probability), exposure 1 / log2(k + 1). Scores
    are standard normal ("start"), or twice the logit of the click probability plus such noise ("trained").

    Returns:
        policies: for each its expected reward and gradient's norm; and per estimator
        `variance` of one slate's estimate, summed over items (of a group: times its slates), `bias_squared` with its
        standard error (an unbiased estimate of it, which may be negative), `relative_bias` (of the gradient's norm),
        `cosine` of the mean estimate and the gradient (absent where noise hides the mean), `mse` of one slate,
        `gain` (mse of REINFORCE with a constant baseline over this one's), `gain_without_clicks` (the same, where
        REINFORCE, too, is given expected clicks) and `microseconds` a slate.
        best: the unbiased estimator of least mse under each policy, and its gains.
    """
    policies = {}
    with Progress("bench gradients", total=2 * (config.slates // _BLOCK), unit="block") as progress:
        for name in ("start", "trained"):
            policies[name] = _one(_bandit(config, name), config, progress, name)
    best = {name: _best(figures["estimators"]) for name, figures in policies.items()}
    result = {"policies": policies, "best": best, "staleness": STALENESS}
    if config.out:
        sizes = {"items": config.items, "slate": config.slate, "slates": config.slates}
        Path(config.out).write_text(_WRITERS[Path(config.out).suffix]({**result, **sizes}), encoding="utf-8")
    return result


def _best(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    unbiased = [name for name in rows if ESTIMATORS[name].is_unbiased]
    name = min(unbiased, key=lambda name: rows[name]["mse"])
    return {"estimator": name, "gain": rows[name]["gain"], "gain_without_clicks": rows[name]["gain_without_clicks"]}


def _bandit(config: GradientsBench, policy: str) -> Bandit:
    generator = torch_generator(config.seed, "bench gradients", "bandit")
    logit_N, noise_N, error_N, drift_N = (torch.randn(config.items, generator=generator) for _ in range(4))
    logit_N = 1.5 * logit_N - 2.0
    score_N = noise_N if policy == "start" else 2.0 * logit_N + noise_N
    exposure_K = 1.0 / torch.log2(torch.arange(config.slate) + 2.0)
    click_N = torch.sigmoid(logit_N)
    reward = float(expected_exposure(score_N, exposure_K)[0] @ click_N.double())
    return Bandit(
        score_N, click_N, torch.sigmoid(logit_N + error_N), score_N + STALENESS * drift_N, exposure_K, reward
    )  # fmt: skip


def _one(bandit: Bandit, config: GradientsBench, progress: Progress, policy: str) -> dict[str, Any]:
    exact_N = exact_gradient(bandit.score_N, bandit.click_N.double(), bandit.exposure_K.double())
    sums = {name: _Sums.of(config.items) for name in ESTIMATORS}
    generator = torch_generator(config.seed, "bench gradients", policy)
    for block in range(config.slates // _BLOCK):
        sample = draw(bandit, _BLOCK, generator)
        for name, estimator in ESTIMATORS.items():
            begin = time.perf_counter()
            estimate_SN = estimator.estimates(sample)
            sums[name].seconds.append(time.perf_counter() - begin)
            sums[name].add(block % _PARTS, estimate_SN.double(), estimator, exact_N)
        progress.advance()
    rows = {name: sums[name].figures(exact_N) for name in ESTIMATORS}
    for row in rows.values():
        row["gain"] = rows[CONSTANT_BASELINE]["mse"] / row["mse"]
        row["gain_without_clicks"] = rows[EXPECTED_BASELINE]["mse"] / row["mse"]
    return {"expected_reward": bandit.expected_reward, "gradient_norm": float(exact_N.norm()), "estimators": rows}


@dataclass
class _Sums:
    """What is kept of an estimator's estimates: part sums of the errors, and their squares."""

    error_JN: Tensor
    count_J: Tensor
    squares: float = 0.0
    replicas: int = 1
    seconds: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, items: int) -> "_Sums":
        return cls(torch.zeros(_PARTS, items, dtype=torch.float64), torch.zeros(_PARTS, dtype=torch.float64))

    def add(self, part: int, estimate_SN: Tensor, estimator: Estimator, exact_N: Tensor) -> None:
        group_GN = estimate_SN.view(-1, estimator.replicas, estimate_SN.shape[1]).mean(dim=1) - exact_N
        self.error_JN[part] += group_GN.sum(dim=0)
        self.count_J[part] += len(group_GN)
        self.squares += float(group_GN.square().sum())
        self.replicas = estimator.replicas

    def figures(self, exact_N: Tensor) -> dict[str, Any]:
        count = float(self.count_J.sum())
        mean_JN = self.error_JN / self.count_J[:, None]
        bias_squared, error = _product_of_means(mean_JN, mean_JN)
        spread = (self.squares - count * float(mean_JN.mean(dim=0).square().sum())) / (count - 1)
        variance = self.replicas * spread
        norm, length_squared = float(exact_N.norm()), _product_of_means(mean_JN + exact_N, mean_JN + exact_N)
        along = float((mean_JN.mean(dim=0) + exact_N) @ exact_N)
        is_seen = length_squared[0] > 3.0 * length_squared[1]
        return {
            "variance": variance,
            "bias_squared": bias_squared,
            "bias_squared_error": error,
            "relative_bias": max(0.0, bias_squared) ** 0.5 / norm,
            "cosine": along / norm / length_squared[0] ** 0.5 if is_seen else None,
            "mse": variance + max(0.0, bias_squared if bias_squared > 3.0 * error else 0.0),
            "microseconds": 1e6 * statistics.median(self.seconds) / _BLOCK,
        }


def _product_of_means(left_JN: Tensor, right_JN: Tensor) -> tuple[float, float]:
    """Unbiased estimate of the product of two expectations from independent parts, and its jackknife error.

    Only products of different parts enter, since their noise is independent. The error is cautious: of up to twice the
    variance, where the product is 0.
    """
    product_JJ = left_JN @ right_JN.T
    product_JJ = product_JJ - torch.diag(product_JJ.diagonal())
    parts = len(product_JJ)
    whole = float(product_JJ.sum()) / (parts * (parts - 1))
    without_J = (product_JJ.sum() - product_JJ.sum(dim=0) - product_JJ.sum(dim=1)) / ((parts - 1) * (parts - 2))
    error = float(((without_J - without_J.mean()).square().sum() * (parts - 1) / parts).sqrt())
    return whole, error


_HEAD = ("estimator", "reads", "bias, share of the gradient", "cosine", "variance", "MSE", "gain", "us a slate")


def _rows(estimators: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
    return [
        (
            name,
            ESTIMATORS[name].reads if name in ESTIMATORS else "",
            f"{row['relative_bias']:.2f}" if row["bias_squared"] > 3.0 * row["bias_squared_error"] else "none seen",
            "lost in noise" if row["cosine"] is None else f"{row['cosine']:.2f}",
            f"{row['variance']:.3g}",
            f"{row['mse']:.3g}",
            f"{row['gain']:.3g}",
            f"{row['microseconds']:.0f}",
        )
        for name, row in estimators.items()
    ]


def as_markdown(result: Mapping[str, Any]) -> str:
    """The tables of bias, variance and cost, one for each policy."""
    parts = []
    for policy, figures in result["policies"].items():
        lines = [_HEAD, ("---",) * len(_HEAD), *_rows(figures["estimators"])]
        parts.append(f"Policy: {policy}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join(parts) + "\n"


def as_html(result: Mapping[str, Any]) -> str:
    """The same as an HTML fragment, one table with a caption for each policy."""

    def line(cells: tuple[str, ...], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return "\n".join(
        f"<table><caption>Gradient estimators, policy: {escape(policy)}</caption>"
        f"<thead>{line(_HEAD, 'th')}</thead>"
        f"<tbody>{''.join(line(row, 'td') for row in _rows(figures['estimators']))}</tbody></table>"
        for policy, figures in result["policies"].items()
    )


def as_table(result: Mapping[str, Any]) -> str:
    """The same as JSON of texts, with the sizes: what `recolam.evaluate.report` draws."""
    tables = [
        {"policy": policy, "rows": [list(row) for row in _rows(figures["estimators"])]}
        for policy, figures in result["policies"].items()
    ]
    sizes = {name: result[name] for name in ("items", "slate", "slates")}
    return json.dumps({**sizes, "head": list(_HEAD), "tables": tables}, indent=1) + "\n"


_WRITERS = {".md": as_markdown, ".html": as_html, ".json": as_table}
