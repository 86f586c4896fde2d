"""A small pretrain artifact, made by the stage itself."""

from pathlib import Path

from recolam.contracts.artifact import Artifact, build_artifact
from recolam.contracts.home import Home
from recolam.contracts.stage import StageContext
from recolam.pretrain import stage
from recolam.sequence.training import TrainingConfig
from tests.planted import cyclic_dataset


def pretrain_artifact(folder: Path) -> Artifact:
    dataset = cyclic_dataset(users=60)

    def save(draft):  # type: ignore[no-untyped-def]
        dataset.save(draft.folder)
        return {}

    features = build_artifact(folder / "features", stage="features", config={}, parents={}, seed=0, build=save)
    training = TrainingConfig(epochs=2, batch_size=16, max_len=12, learning_rate=5e-3, warmup_steps=5)
    config = stage.PretrainConfig(width=16, blocks=1, heads=2, dropout=0.0, training=training)
    parents = {"features": features}
    return build_artifact(
        folder / "pretrain", stage="pretrain", config={}, parents=parents, seed=0,
        build=lambda draft: stage.run(config, StageContext(Home(folder), parents, draft.folder, draft.scratch, 0)),
    )  # fmt: skip
