"""Self-supervised pretraining of the sequence model."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from recolam.contracts.dataset import TokenisedDataset
from recolam.contracts.stage import StageContext
from recolam.seeding import derive
from recolam.sequence.config import TrainingConfig
from recolam.sequence.distributed import current
from recolam.sequence.heads import labels_of
from recolam.sequence.model import NATIVE, SequenceConfig, SequenceModel
from recolam.sequence.times import TimeMode
from recolam.sequence.training import train_sequence_model


@dataclass(frozen=True)
class PretrainConfig:
    """Architecture and training of the sequence model (`SequenceConfig`, `TrainingConfig`).

    `use_text` adds title and tags to the item embeddings.
    """

    backbone: str = NATIVE
    width: int = 64
    blocks: int = 2
    heads: int = 2
    dropout: float = 0.2
    use_text: bool = True
    time: TimeMode = "none"
    training: TrainingConfig = field(default_factory=TrainingConfig)


def new_model(dataset: TokenisedDataset, config: PretrainConfig, *, seed: int) -> SequenceModel:
    """An untrained model for the dataset's vocabulary, its weights drawn from `seed`."""
    text_VF = torch.from_numpy(dataset.item_text_VF) if config.use_text else torch.zeros(dataset.tokens, 0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "model"))
        model = SequenceModel(
            SequenceConfig(
                tokens=dataset.tokens, text_features=text_VF.shape[1], backbone=config.backbone, time=config.time,
                width=config.width, max_len=config.training.max_len, blocks=config.blocks, heads=config.heads,
                dropout=config.dropout,
            )
        )  # fmt: skip
    model.item_text.copy_(text_VF)
    return model


def run(config: PretrainConfig, context: StageContext) -> dict[str, Any]:
    """Trains on `inputs["features"]`, keeps the best validation epoch.

    Writes model/, vocabulary.json, classes.json (of the classifier heads) and curves.json.
    """
    dataset = TokenisedDataset.load(context.inputs["features"].path)
    model = new_model(dataset, config, seed=context.seed)
    state = train_sequence_model(
        model, dataset, config.training, seed=derive(context.seed, "pretrain"), scratch=context.scratch
    )
    model.cpu().save_pretrained(context.out / "model")
    (context.out / "vocabulary.json").write_text(json.dumps({"items": dataset.items, "titles": dataset.titles}))
    classes = {task: labels_of(dataset, task).names for task in config.training.tasks}
    (context.out / "classes.json").write_text(json.dumps(classes))
    (context.out / "curves.json").write_text(json.dumps(state.curves or {}))
    return {
        "validation_ndcg10": state.best_ndcg,
        "best_epoch": state.best_epoch,
        "epochs": state.epoch,
        "steps": state.step,
        "parameters": sum(p.numel() for p in model.parameters()),
        "architecture": asdict(config)["backbone"],
        **({"processes": current().size} if current().size > 1 else {}),
    }
