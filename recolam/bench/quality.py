"""How well the sequence model ranks, with several training seeds, beside what every model must beat."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recolam.bench.data import Protocol, Ties, dataset_of, save_with_digest
from recolam.bench.seeds import Job, sources_digest, train_all
from recolam.bench.settings import sequence_config
from recolam.contracts.config import to_mapping
from recolam.contracts.dataset import UNKNOWN, TokenisedDataset
from recolam.contracts.home import Home
from recolam.errors import DataError
from recolam.evaluate.baselines import ItemKNN, Popularity, rank_recent_popularity
from recolam.pretrain.stage import PretrainConfig
from recolam.progress import say
from recolam.sequence.ranking import Ranked, ndcg, rank_targets

_HELD_OUT = {
    "loo": "each user's last event but one",
    "temporal": "each user's last event between the two cuts in time",
}


@dataclass(frozen=True)
class QualityBench:
    """What to measure.

    Attributes:
        data: "demo" or a log, taken as one domain.
        protocol: leave-one-out, or one cut in time for everybody.
        ties: order of a user's events with one time; see `FeaturesConfig`.
        seeds: training seeds 0, 1, ...; the dataset is that of seed 0 for all of them.
        preset, config: see `sequence_config`.
        workers: how many trainings run side by side.
        temporal: with leave-one-out, whether the model is trained (once) for the temporal split too.
        home: below it lie the results and checkpoints; see `bench.seeds`.
    """

    data: str = "demo"
    protocol: Protocol = "loo"
    ties: Ties = "hash"
    seeds: int = 3
    preset: str = "two-cores"
    config: str | None = None
    workers: int = 1
    temporal: bool = True
    home: str | None = None


def quality(config: QualityBench) -> dict[str, Any]:
    """Test NDCG@10 and HR@10 of the model and of three baselines on the same queries.

    Every query ranks the whole catalogue, exactly, without the items that its user has had. Targets outside the train
    vocabulary are misses for everybody.

    Returns:
        ndcg10, hr10 (mean and standard error over seeds), runs (see `train_all`), baselines (popularity, seven-day
        popularity or None without a clock, item-kNN), dataset, selection, configuration, sources, and temporal: the
        same on the temporal split with one training seed, None where there is none.
    """
    model = sequence_config(config.preset, config.config)
    home = Home.at(config.home)
    with tempfile.TemporaryDirectory() as folder:
        parts = [Part.made(Path(folder) / "main", config.data, config.protocol, config.ties)]
        jobs = parts[0].jobs(model, seeds=range(config.seeds), home=home, label="quality")
        if config.protocol == "loo" and (second := _temporal(Path(folder), config, parts[0])) is not None:
            parts.append(second)
            if config.temporal:
                jobs += second.jobs(model, seeds=[0], home=home, label="quality temporal")
        tables = [part.table(model) for part in parts]
        runs = train_all(jobs, workers=config.workers)
    answer = {**over_seeds(runs[: config.seeds]), **tables[0], "configuration": to_mapping(model)}
    answer |= {"sources": jobs[0].sources, "temporal": None}
    if len(parts) == 2:
        more = over_seeds(runs[config.seeds :]) if config.temporal else {"ndcg10": None, "hr10": None, "runs": []}
        answer["temporal"] = {**more, **tables[1]}
    return answer


@dataclass(frozen=True)
class Part:
    """A log under one protocol: the dataset, saved where workers find it."""

    dataset: TokenisedDataset
    folder: Path
    digest: str
    protocol: Protocol

    @classmethod
    def made(cls, folder: Path, data: str, protocol: Protocol, ties: Ties) -> "Part":
        dataset = dataset_of(data, protocol=protocol, ties=ties)
        return cls(dataset, folder, save_with_digest(dataset, folder), protocol)

    def jobs(self, config: PretrainConfig, *, seeds: Sequence[int], home: Home, label: str) -> list[Job]:
        """One training a seed."""
        sources, name = sources_digest(), self.dataset.info["dataset"]
        return [
            Job(home, self.folder, self.digest, sources, config, seed, f"{label} {name} seed {seed}") for seed in seeds
        ]

    def table(self, config: PretrainConfig) -> dict[str, Any]:
        """Everything about the part that needs no training."""
        dataset, test_Q = self.dataset, self.dataset.test_event_Q
        return {
            "baselines": baselines(dataset, max_len=config.training.max_len),
            "selection": selection(dataset, config, protocol=self.protocol),
            "dataset": {
                "name": dataset.info["dataset"],
                "digest": self.digest,
                "split": dataset.info["split"],
                "ties": dataset.info["ties"],
                "users": len(dataset.users),
                "items": len(dataset.items),
                "events": len(dataset.event_item_E),
                "queries": len(test_Q),
                "unknown_targets": int((dataset.event_item_E[test_Q] == UNKNOWN).sum()),
            },
        }


def baselines(dataset: TokenisedDataset, *, max_len: int) -> dict[str, Any]:
    """NDCG@10 and HR@10 of popularity, seven-day popularity (None without a clock) and item-kNN on the test queries.

    Args:
        max_len: how many of a history's newest items item-kNN is shown: as many as the model.
    """
    event_Q = dataset.test_event_Q
    say(f"quality: baselines on {len(event_Q)} queries, {dataset.info['split']} split")
    has_clock = dataset.info["clock"] == "time"
    return {
        "popularity": accuracy(rank_targets(Popularity(dataset), dataset, event_Q, max_len=max_len)),
        "popularity_7_days": accuracy(rank_recent_popularity(dataset, event_Q, days=7)) if has_clock else None,
        "item_knn": accuracy(rank_targets(ItemKNN(dataset), dataset, event_Q, max_len=max_len)),
    }


def accuracy(ranked: Ranked) -> dict[str, float]:
    return {"ndcg10": ndcg(ranked.rank_Q, k=10), "hr10": float((ranked.rank_Q <= 10).mean())}


def selection(dataset: TokenisedDataset, config: PretrainConfig, *, protocol: Protocol) -> str:
    """What the trained weights were chosen by, in a sentence."""
    training, queries = config.training, len(dataset.validation_event_Q)
    used = min(training.validation_queries, queries)
    if used == 0:
        return "nothing was chosen: the weights are those of the last epoch"
    drawn = "all" if used == queries else f"{used}, drawn by the training seed, of the"
    weights = "weights, averaged over steps," if training.average else "weights"
    unknown = int((dataset.event_item_E[dataset.validation_event_Q] == UNKNOWN).sum())
    return (
        f"the {weights} are those of the validation with the best NDCG@10 on {drawn} {queries} validation queries of "
        f"the same split ({_HELD_OUT[protocol]}; {unknown} targets of them outside the vocabulary), full ranking, seen "
        f"items filtered; epochs between validations: {training.validate_every}; training ends after "
        f"{training.patience} validations without a better one, or after {training.epochs} epochs"
    )


def over_seeds(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard error of the test figures over runs, and the runs."""
    return {name: mean_and_error([run[name] for run in runs]) for name in ("ndcg10", "hr10")} | {"runs": list(runs)}


def mean_and_error(values: Sequence[float]) -> dict[str, float | None]:
    """The mean and its standard error, s / sqrt(n) with n - 1 below s; one value has none."""
    error = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "se": error}


def _temporal(folder: Path, config: QualityBench, main: Part) -> Part | None:
    if main.dataset.info["clock"] == "position":
        return None
    try:
        return Part.made(folder / "temporal", config.data, "temporal", config.ties)
    except DataError as error:
        say(f"quality: no temporal split: {error}")
        return None
