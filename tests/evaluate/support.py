"""Running real stages in a home of a test's own."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from recolam.contracts.artifact import Artifact, Draft, build_artifact
from recolam.contracts.home import Home
from recolam.contracts.stage import StageContext
from recolam.evaluate import stage as evaluate

EVALUATE = evaluate.EvaluateConfig(bootstrap=200, ope_samples=2, ope_most=600, checked=64)


def run_stage(home: Home, name: str, run: Any, config: Any, inputs: Mapping[str, Artifact], *, seed: int) -> Artifact:
    def build(draft: Draft) -> Mapping[str, Any]:
        context = StageContext(home=home, inputs=inputs, out=draft.folder, scratch=draft.scratch, seed=seed)
        return run(config, context)

    final = home.runs / name
    return build_artifact(
        final, stage=name.split("-")[0], config=asdict(config), parents=inputs, seed=seed, build=build
    )


def evaluate_house(house: Mapping[str, Artifact], root: Path, **more: Artifact) -> Artifact:
    inputs = {name: house[name] for name in ("features", "pretrain", "world", "policy")} | more
    return run_stage(Home(root), "evaluate", evaluate.run, EVALUATE, inputs, seed=5)
