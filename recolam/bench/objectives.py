"""Next item, masked item, or their weighted sum: which objective ranks best, everything else alike."""

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from recolam.bench.data import Protocol, Ties
from recolam.bench.quality import Part, mean_and_error, over_seeds
from recolam.bench.seeds import Job, train_all
from recolam.bench.settings import sequence_config
from recolam.contracts.config import to_mapping
from recolam.contracts.home import Home
from recolam.errors import ConfigError
from recolam.pretrain.stage import PretrainConfig

WEIGHTS = {"next": (1.0, 0.0), "masked": (0.0, 1.0), "sum": (1.0, 0.5)}
"""Weights of the next-item and of the masked-item loss."""


@dataclass(frozen=True)
class ObjectivesBench:
    """`data` names one or several logs, joined by commas; the rest is as in `QualityBench`."""

    data: str = "demo"
    protocol: Protocol = "loo"
    ties: Ties = "hash"
    seeds: int = 3
    preset: str = "two-cores"
    config: str | None = None
    workers: int = 1
    home: str | None = None


def objectives(config: ObjectivesBench) -> dict[str, Any]:
    """Test NDCG@10 and HR@10 after training by each objective, with the same settings, seeds and patience.

    Weights are chosen on validation, as in `quality`, with which the trainings are shared.

    Returns:
        datasets: per log and objective mean, standard error and runs, sum_minus_next (paired by seed) and the default
        by the rule; sum_minus_next and default over all logs; rule, configuration, weights.

    Raises:
        ConfigError: an empty or repeated name among `data`.
    """
    model = sequence_config(config.preset, config.config)
    names = [name.strip() for name in config.data.split(",")]
    if len(set(names)) < len(names) or not all(names):
        raise ConfigError(f"bench option data: {config.data!r} names a log twice, or none between two commas")
    with tempfile.TemporaryDirectory() as folder:
        jobs: list[Job] = []
        for place, name in enumerate(names):
            part = Part.made(Path(folder) / str(place), name, config.protocol, config.ties)
            for objective in WEIGHTS:
                jobs += part.jobs(
                    with_objective(model, objective),
                    seeds=range(config.seeds),
                    home=Home.at(config.home),
                    label=objective,
                )
        runs = train_all(jobs, workers=config.workers)
    shares = [runs[begin : begin + config.seeds] for begin in range(0, len(runs), config.seeds)]
    keys = [(name, objective) for name in names for objective in WEIGHTS]
    by_key = dict(zip(keys, shares, strict=True))
    tables = {name: compare({objective: by_key[name, objective] for objective in WEIGHTS}) for name in names}
    overall = pooled([table["sum_minus_next"] for table in tables.values()])
    return {
        "datasets": tables,
        "sum_minus_next": overall,
        "default": default_by_rule(overall),
        "rule": "sum only if it wins by more than two standard errors; over all logs, of the mean of their gains",
        "weights": {name: list(weights) for name, weights in WEIGHTS.items()},
        "configuration": to_mapping(model),
        "sources": jobs[0].sources,
    }


def with_objective(config: PretrainConfig, objective: str) -> PretrainConfig:
    """The same settings with another objective's weights."""
    following, masked = WEIGHTS[objective]
    return replace(config, training=replace(config.training, next_weight=following, masked_weight=masked))


def compare(runs: Mapping[str, Sequence[dict[str, Any]]]) -> dict[str, Any]:
    """One log: figures by objective, and what the sum gains over next item alone, seed by seed."""
    pairs = zip(runs["sum"], runs["next"], strict=True)
    gains = [one["ndcg10"] - other["ndcg10"] for one, other in pairs]
    gain = {**mean_and_error(gains), "per_seed": gains}
    return {
        **{name: over_seeds(of_one) for name, of_one in runs.items()},
        "sum_minus_next": gain,
        "default": default_by_rule(gain),
    }


def pooled(gains: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """The mean over logs of their mean gains; its standard error from those of the logs, which are independent."""
    errors = [gain["se"] for gain in gains]
    mean = sum(gain["mean"] for gain in gains) / len(gains)
    if None in errors:
        return {"mean": mean, "se": None}
    return {"mean": mean, "se": math.sqrt(sum(error**2 for error in errors)) / len(gains)}


def default_by_rule(gain: Mapping[str, Any]) -> str:
    """ "sum" where its gain exceeds two standard errors of it, else "next"; so also where there is no error to tell."""
    return "sum" if gain["se"] is not None and gain["mean"] > 2 * gain["se"] else "next"
