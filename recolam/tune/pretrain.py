"""`recolam tune`: the search for the pretraining's settings with the best validation NDCG@10.

The test events are never looked at. The best of many trials is too good on the queries it was chosen by; what the
settings are worth is what the test events say after the search.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from recolam import pipeline, presets
from recolam.contracts.artifact import Artifact, canonical_digest
from recolam.contracts.config import from_mapping, to_mapping
from recolam.contracts.dataset import TokenisedDataset
from recolam.contracts.home import safe_name
from recolam.errors import ConfigError, DataError
from recolam.pretrain.stage import PretrainConfig, new_model
from recolam.seeding import derive
from recolam.sequence.training import train_sequence_model
from recolam.tune.space import check_space, over, parse_space, space_json
from recolam.tune.study import Objective, Report, SearchConfig, search, summary, trial_folder

DEFAULT_SPACE: dict[str, Any] = {
    "width": [64, 128, 256],
    "blocks": [1, 2, 3],
    "heads": [1, 2, 4],
    "dropout": {"low": 0.1, "high": 0.5},
    "training.learning_rate": {"low": 3e-4, "high": 3e-3, "log": True},
    "training.weight_decay": {"low": 1e-4, "high": 0.1, "log": True},
    "training.batch_size": [64, 128, 256],
    "training.max_len": [50, 100, 200],
}
PROTOCOLS: dict[str, dict[str, dict[str, Any]]] = {
    "loo": {"ingest": {"is_whole": True}, "features": {"split": "leave_one_out"}},
    "temporal": {"ingest": {"is_whole": True}, "features": {"split": "temporal"}},
}


@dataclass(frozen=True)
class TuneConfig:
    """What to search, over which settings.

    Attributes:
        data, format: "demo" or the path of a log, and how that is read.
        preset: the settings that the space does not name, one of `presets.SEQUENCE`.
        protocol: "loo" (each user's last events) or "temporal" (one cut in time); the whole log is one domain.
        space: JSON values of the space; None for DEFAULT_SPACE. `space_name` is what errors call it.
        overrides: settings by stage over the preset: ingest, features and pretrain count here.
        name: the study's; None for one made of data, preset, protocol and seed.
    """

    data: str = "demo"
    format: str = "auto"
    preset: str = "two-cores"
    protocol: str = "loo"
    space: Mapping[str, Any] | None = None
    space_name: str = "the default space"
    overrides: Mapping[str, Mapping[str, Any]] | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        for option, value, known in (("preset", self.preset, presets.SEQUENCE), ("protocol", self.protocol, PROTOCOLS)):
            if value not in known:
                raise ConfigError(f"{option} {value!r} is not one of {', '.join(known)}")

    def study(self, seed: int) -> str:
        stem = re.sub(r"[^a-z0-9]+", "-", Path(self.data).name.split(".")[0].lower()).strip("-")[:24] or "data"
        return self.name if self.name is not None else f"{stem}-{self.preset}-{self.protocol}-{seed}"


def tune(config: TuneConfig, limits: SearchConfig, *, home: str | None = None) -> dict[str, Any]:
    """Searches, or goes on searching; writes `runs/tune/<study>/best.json`, which `recolam run --config` reads.

    Returns:
        What `recolam.tune.study.summary` says.

    Raises:
        ConfigError: an unusable setting, space or study.
        DataError: no validation query to judge by, or three trials in a row with unusable losses.
    """
    overrides = config.overrides or {}
    plan = pipeline.make_plan(config.data, config.format, home=home, seed=limits.seed, overrides=overrides)
    base = over(presets.SEQUENCE[config.preset], overrides.get("pretrain", {}))

    def make(values: Mapping[str, Any]) -> PretrainConfig:
        return from_mapping(PretrainConfig, over(base, values), where="pretrain")

    known = to_mapping(make({}))
    space = parse_space(DEFAULT_SPACE if config.space is None else config.space, where=config.space_name)
    check_space(space, make, where=config.space_name)
    study = safe_name(config.study(limits.seed))
    features = _features(dataclasses.replace(plan, overrides=over(overrides, PROTOCOLS[config.protocol])))
    dataset = TokenisedDataset.load(features.path)
    if len(dataset.validation_event_Q) == 0:
        raise DataError(f"{config.data}: the split leaves no validation query to judge a trial by")
    identity = {
        "stage": "pretrain", "data": features.digest, "space": canonical_digest(space_json(space)),
        "preset": config.preset, "protocol": config.protocol, "seed": limits.seed, "settings": canonical_digest(known),
    }  # fmt: skip
    folder = plan.home.runs / "tune" / study
    found = search(
        pretrain_objective(dataset, make, seed=limits.seed, scratch=folder / "scratch"), space, limits, study=study,
        home=plan.home, identity=identity, metric="validation_ndcg10",
        describe=lambda values: {"pretrain": to_mapping(make(values))},
    )  # fmt: skip
    return summary(found, study=study, best_file=folder / "best.json")


def pretrain_objective(
    dataset: TokenisedDataset, make: Callable[[Mapping[str, Any]], PretrainConfig], *, seed: int, scratch: Path
) -> Objective:
    """Trains a model as the pretrain stage does with `seed`, and returns the NDCG@10 of its best validation epoch.

    Args:
        make: values by their keys in the space -> PretrainConfig.
        scratch: checkpoints lie in a folder for each setting (`trial_folder`).
    """

    def objective(values: Mapping[str, Any], report: Report) -> float:
        config = make(values)
        with trial_folder(scratch, config) as folder:
            try:
                model = new_model(dataset, config, seed=seed)
                state = train_sequence_model(
                    model, dataset, config.training, seed=derive(seed, "pretrain"), scratch=folder, label="trial",
                    on_validation=report,
                )  # fmt: skip
            except torch.OutOfMemoryError as error:
                raise ConfigError(f"too big for this machine's memory ({error})") from error
        return state.best_ndcg

    return objective


def _features(plan: pipeline.Plan) -> Artifact:
    """The tokenised dataset: made like the pipeline's, or found, without becoming any plan's latest one."""
    parents: dict[str, Artifact] = {}
    for stage in (["demo"] if plan.is_demo else []) + ["ingest", "features"]:
        spec, settings = pipeline.STAGES[stage], pipeline.stage_config(plan, stage)
        inputs = {name: parents[name] for name in spec.inputs + spec.optional if name in parents}
        parents[stage], _ = pipeline.execute(stage, settings, inputs, home=plan.home, seed=plan.seed, is_tracked=False)
    return parents["features"]
