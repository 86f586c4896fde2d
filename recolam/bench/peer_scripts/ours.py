"""recolam's model, training settings and windows as the benchmark's task asks for them."""

from contestant import Task  # type: ignore[import-not-found]

from recolam.contracts.dataset import TokenisedDataset
from recolam.pretrain.stage import PretrainConfig, new_model
from recolam.sequence.config import TrainingConfig
from recolam.sequence.model import SequenceModel


def build(task: Task) -> tuple[TokenisedDataset, TrainingConfig, SequenceModel]:
    """The next item is the only objective; there is one window a user, no validation, no checkpoint in an epoch."""
    settings = task.settings
    dataset = TokenisedDataset.load(task.folder / "dataset")
    training = TrainingConfig(
        epochs=settings["epochs"], batch_size=settings["batch_size"], max_len=settings["max_len"],
        learning_rate=settings["learning_rate"], next_weight=1.0, masked_weight=0.0, last_window_only=True,
        validation_queries=0, patience=settings["epochs"] + 1, checkpoint_every=10**9, device=settings["device"],
        precision=settings["precision"], warmup_steps=1,  # the peers have no warm-up either
    )  # fmt: skip
    sizes = PretrainConfig(
        width=settings["dim"], blocks=settings["blocks"], heads=settings["heads"], dropout=settings["dropout"],
        use_text=False, training=training,
    )  # fmt: skip
    return dataset, training, new_model(dataset, sizes, seed=settings["seed"])
