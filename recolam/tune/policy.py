"""`recolam tune --stage policy`: the search for the policy's settings with the best validation return.

The sessions of the final comparison are never played. The best of many trials is too good on the validation seeds it
was chosen by; what the settings are worth is what the comparison says after the search.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna

from recolam import pipeline
from recolam.contracts.artifact import Artifact, canonical_digest
from recolam.contracts.config import from_mapping, to_mapping
from recolam.contracts.home import safe_name
from recolam.errors import ConfigError, PolicyCollapse
from recolam.policy.stage import PolicyConfig, Prepared
from recolam.tune.space import check_space, over, parse_space, space_json
from recolam.tune.study import Objective, Report, SearchConfig, search, summary, trial_folder

DEFAULT_SPACE: dict[str, Any] = {
    "temperature": {"low": 0.1, "high": 0.5, "log": True},
    "training.learning_rate": {"low": 1e-4, "high": 3e-3, "log": True},
    "training.item_rate": {"low": 0.01, "high": 1.0, "log": True},
    "training.gamma": [0.8, 0.9, 0.95, 0.99],
    "training.replicas": [2, 4, 8],
    "training.entropy_weight": {"low": 3e-4, "high": 3e-2, "log": True},
    "training.kl_weight": {"low": 3e-4, "high": 3e-2, "log": True},
}
# What a trial is judged by is the same for all, or their values could not be compared.
JUDGING = ("training.validation_users", "training.validation_seeds")


@dataclass(frozen=True)
class PolicyTuneConfig:
    """What to search, over which settings.

    Attributes:
        data: "demo" or another name: whose settings a preset has.
        preset: the settings that the space does not name, one of `presets.NAMES`.
        space: JSON values of the space; None for DEFAULT_SPACE. `space_name` is what errors call it.
        overrides: settings by stage over the preset; policy counts here.
        name: the study's; None for one made of data, preset and seed.
    """

    data: str = "demo"
    preset: str = "quick"
    space: Mapping[str, Any] | None = None
    space_name: str = "the default space"
    overrides: Mapping[str, Mapping[str, Any]] | None = None
    name: str | None = None


def tune_policy(
    config: PolicyTuneConfig, inputs: Mapping[str, Artifact], limits: SearchConfig, *, home: str | None = None
) -> dict[str, Any]:
    """Searches, or goes on searching; writes `runs/tune/<study>/best.json`, which `recolam run --config` reads.

    Args:
        inputs: the policy stage's: pretrain, world, features.

    Returns:
        What `recolam.tune.study.summary` says.

    Raises:
        ConfigError: an unusable setting, space or study.
        RecolamError: three trials in a row failed.
    """
    plan = pipeline.make_plan(
        config.data, preset=config.preset, home=home, seed=limits.seed, overrides=config.overrides or {}
    )
    base = to_mapping(pipeline.stage_config(plan, "policy"))

    def make(values: Mapping[str, Any]) -> PolicyConfig:
        for key in values:
            if key in JUDGING or not (key in ("temperature", "decoder") or key.startswith("training.")):
                raise ConfigError("trials are judged by it, or it is no setting of the training")
        return from_mapping(PolicyConfig, over(base, values), where="policy")

    space = parse_space(DEFAULT_SPACE if config.space is None else config.space, where=config.space_name)
    check_space(space, make, where=config.space_name)
    study = safe_name(config.name if config.name is not None else f"policy-{plan.name}"[:60])
    identity = {
        "stage": "policy", "preset": config.preset, "seed": limits.seed, "space": canonical_digest(space_json(space)),
        "settings": canonical_digest(base), **{name: parent.digest for name, parent in sorted(inputs.items())},
    }  # fmt: skip
    folder = plan.home.runs / "tune" / study
    found = search(
        policy_objective(inputs, make, seed=limits.seed, scratch=folder / "scratch"), space, limits, study=study,
        home=plan.home, identity=identity, metric="validation_return",
        describe=lambda values: {"policy": to_mapping(make(values))},
    )  # fmt: skip
    return summary(found, study=study, best_file=folder / "best.json")


def policy_objective(
    inputs: Mapping[str, Artifact], make: Callable[[Mapping[str, Any]], PolicyConfig], *, seed: int, scratch: Path
) -> Objective:
    """Trains a policy as the policy stage does with `seed`, and returns its best validation return.

    Args:
        make: values by their keys in the space -> PolicyConfig.
        scratch: checkpoints lie in a folder for each setting (`trial_folder`).
    """

    def objective(values: Mapping[str, Any], report: Report) -> float:
        config = make(values)
        with trial_folder(scratch, config) as folder:
            prepared = Prepared.of(config, inputs)
            try:
                curves = prepared.train(prepared.fresh(), seed=seed, scratch=folder, on_validation=report)
            except PolicyCollapse as error:  # a bad setting, and no reason to end the search
                raise optuna.TrialPruned(str(error)) from error
        return max(value for _, value in curves["validation_return"])

    return objective
