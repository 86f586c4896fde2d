"""The closed loop of the demo world: what a policy that learnt in fitted users earns with the true ones."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recolam import pipeline
from recolam.contracts.artifact import Artifact, open_artifact
from recolam.contracts.dataset import TokenisedDataset
from recolam.errors import ConfigError
from recolam.intervals import student_t_interval
from recolam.policy.agent import SlateAgent
from recolam.policy.closed_loop import ClosedLoopConfig, closed_loop
from recolam.policy.stage import PolicyConfig
from recolam.sequence.model import load_sequence_model
from recolam.world.saved import SavedWorld

_STAGES = ("demo", "ingest", "features", "pretrain", "world")


@dataclass(frozen=True)
class ClosedLoopBench:
    """Worlds of `seeds` seeds from `seed` on, each with its own logs, model, fit and trainings.

    `iterations` are of every training. `home` keeps the stages' artifacts (thrown away without it); `penalty`
    and `bonus` are numbers in words, the charge of the cautious training.
    """

    seeds: int = 3
    seed: int = 0
    preset: str = "quick"
    iterations: int = 120
    users: int = 1000
    evaluations: int = 3
    penalty: str = "1.0"
    bonus: str = "0.05"
    home: str = ""


def closed_loop_bench(config: ClosedLoopBench) -> dict[str, Any]:
    """Runs the pipeline's own stages and `recolam.policy.closed_loop` for every seed.

    Returns:
        worlds: what `closed_loop` says of each, with its seed and its calibration's verdict; share and gain: of each
            way of training in the fitted world, mean and t interval over the worlds (where there are two or more);
            spearman and regret_at_1: the same of each way of ranking.
    """
    loop = ClosedLoopConfig(
        iterations=config.iterations, users=config.users, seeds=config.evaluations,
        penalty=_number("penalty", config.penalty), bonus=_number("bonus", config.bonus), is_cautious=True,
    )  # fmt: skip
    place = nullcontext(config.home) if config.home else tempfile.TemporaryDirectory()
    with place as home:
        worlds = [_one(config, loop, home, seed) for seed in range(config.seed, config.seed + config.seeds)]
    return {
        "worlds": worlds,
        "share": _over(worlds, "share", "mean"),
        "gain": {name: _interval([w["share"][name]["gain"]["mean"] for w in worlds]) for name in worlds[0]["share"]},
        "spearman": _over(worlds, "ranking", "spearman"),
        "regret_at_1": _over(worlds, "ranking", "regret_at_1"),
    }


def _one(config: ClosedLoopBench, loop: ClosedLoopConfig, home: str, seed: int) -> dict[str, Any]:
    plan = pipeline.make_plan(preset=config.preset, home=home, seed=seed)
    made: dict[str, Artifact] = {}
    for stage in _STAGES:
        made[stage] = open_artifact(pipeline.run_stage(plan, stage, is_tracked=False)["path"], stage=stage)
    policy = pipeline.stage_config(plan, "policy")
    dataset = TokenisedDataset.load(made["features"].path)
    with tempfile.TemporaryDirectory() as scratch:
        found = closed_loop(
            SavedWorld.open(made["world"].path), lambda: _untrained(made, policy, dataset),
            torch.from_numpy(dataset.item_count_V).float(), loop, policy.training, seed=seed, scratch=Path(scratch),
        )  # fmt: skip
    calibration = json.loads(made["world"].file("calibration.json").read_text())
    return {"seed": seed, "gate": calibration["gate"], **found}


def _untrained(made: Mapping[str, Artifact], policy: PolicyConfig, dataset: TokenisedDataset) -> SlateAgent:
    model = load_sequence_model(made["pretrain"].path / "model").eval()
    return SlateAgent(model, policy.temperature, dataset.items, {})


def _over(worlds: Sequence[Mapping[str, Any]], part: str, figure: str) -> dict[str, Any]:
    return {name: _interval([world[part][name][figure] for world in worlds]) for name in worlds[0][part]}


def _interval(values: Sequence[float]) -> dict[str, Any]:
    if len(values) < 2:
        return {"mean": values[0], "ci95": None}
    return student_t_interval(np.array(values)).as_json()


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ConfigError(f"bench option {name}: {text!r} is not a number") from error
