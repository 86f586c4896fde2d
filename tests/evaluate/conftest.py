"""A tiny house made of real stages: demo world, ingest, features, pretrain, world, policy; and one evaluation of it."""

from typing import Any

import pytest

from recolam.contracts.artifact import Artifact
from recolam.contracts.home import Home
from recolam.features import stage as features
from recolam.logs import stage as ingest
from recolam.policy import stage as policy
from recolam.policy.closed_loop import ClosedLoopConfig
from recolam.policy.training import PolicyTrainingConfig
from recolam.pretrain import stage as pretrain
from recolam.sequence.config import TrainingConfig
from recolam.world import demo
from recolam.world import stage as world
from tests.evaluate.support import evaluate_house, run_stage


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    """The artifacts of all stages before evaluate, of a demo world with 240 users and 120 items."""
    home, made = Home(tmp_path_factory.mktemp("house")), dict[str, Artifact]()
    training = TrainingConfig(epochs=2, max_len=30)
    steps = PolicyTrainingConfig(
        iterations=2, users=8, replicas=2, validate_every=2, validation_users=16, validation_seeds=1
    )
    loop = ClosedLoopConfig(iterations=1, users=16, seeds=2, is_cautious=True)
    plan: list[tuple[str, Any, Any, list[str]]] = [
        ("demo", demo.run, demo.DemoConfig(users=240, items=120), []),
        ("ingest", ingest.run, ingest.IngestConfig(data="demo"), ["demo"]),
        ("features", features.run, features.FeaturesConfig(), ["ingest"]),
        ("pretrain", pretrain.run, pretrain.PretrainConfig(width=16, blocks=1, training=training), ["features"]),
        ("world", world.run, world.WorldConfig(epochs=2), ["features", "pretrain", "demo"]),
        (
            "policy",
            policy.run,
            policy.PolicyConfig(evaluation_users=16, evaluation_seeds=3, training=steps, closed_loop=loop),
            ["pretrain", "world", "features"],
        ),
    ]
    for name, run, config, inputs in plan:
        made[name] = run_stage(home, name, run, config, {key: made[key] for key in inputs}, seed=5)
    return made


@pytest.fixture(scope="session")
def evaluated(house: dict[str, Artifact], tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The evaluation of the tiny house."""
    return evaluate_house(house, tmp_path_factory.mktemp("evaluated"))
