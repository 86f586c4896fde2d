"""How to train a sequence model."""

import math
from dataclasses import dataclass, field
from typing import Literal

from recolam.errors import ConfigError
from recolam.sequence.freezing import check_policy
from recolam.sequence.heads import check_task
from recolam.sequence.precision import Precision


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of the training loop.

    Attributes:
        epochs: at most so many passes over the windows.
        batch_size: windows a step, over all processes together.
        max_len: items of a window.
        learning_rate: the highest; reached after `warmup_steps`.
        schedule: what follows: "constant", or "cosine" down to 0 at the last epoch.
        weight_decay: of matrices; vectors do not decay.
        gradient_clip: greatest norm of a step's gradient.
        next_weight, masked_weight: weights of the objectives, relative to each other.
        mask_share: the share of items that the masked objective hides.
        tasks: weights of classifier heads by name (`recolam.sequence.heads`); each costs a pass of its own. Without
            an item objective, they and not NDCG@10 choose the weights to keep.
        negatives: items against which each batch's targets are judged (`recolam.sequence.sampled`); 0 for all, exactly.
        exclude_seen: the softmax leaves out the items that the window has shown before, as recommending does.
        freeze: what stands still (`recolam.sequence.freezing`).
        last_window_only: only each user's newest window, the protocol of the published SASRec figures.
        shuffle_ties: a new order, every epoch, of a window's events with one and the same time.
        average: decay of the moving average of weights that is validated and kept; 0 for none.
        validate_every: epochs between two validations; the last epoch always has one.
        patience: validations without a better NDCG@10 before training ends.
        validation_queries: at most so many queries, drawn once.
        checkpoint_every: steps between two checkpoints inside an epoch.
        precision: number format of matrix products (`recolam.sequence.precision`).
        compile: torch.compile of the backbone.
        distributed: what torchrun's processes hold: "ddp" whole copies of the model, "fsdp" shards of it; for one
            process without meaning (`recolam.sequence.distributed`).
        device: "auto", "cpu" or "cuda".
    """

    epochs: int = 20
    batch_size: int = 128
    max_len: int = 50
    learning_rate: float = 1e-3
    schedule: Literal["constant", "cosine"] = "constant"
    weight_decay: float = 0.01
    warmup_steps: int = 100
    gradient_clip: float = 1.0
    next_weight: float = 1.0
    masked_weight: float = 0.0
    mask_share: float = 0.2
    tasks: dict[str, float] = field(default_factory=dict)
    negatives: int = 0
    exclude_seen: bool = False
    freeze: str = "none"
    last_window_only: bool = False
    shuffle_ties: bool = False
    average: float = 0.0
    validate_every: int = 1
    patience: int = 3
    validation_queries: int = 2000
    checkpoint_every: int = 200
    precision: Precision = "auto"
    compile: bool = False
    distributed: Literal["ddp", "fsdp"] = "ddp"
    device: str = "auto"

    def __post_init__(self) -> None:
        weights = (self.next_weight, self.masked_weight, *self.tasks.values())
        if min(weights) < 0 or sum(weights) == 0:
            raise ConfigError(f"objective weights {' and '.join(map(str, weights))} train nothing")
        for task in self.tasks:
            check_task(task)
        check_policy(self.freeze)
        if self.freeze == "all-but-heads" and sum(self.tasks.values()) == 0:
            raise ConfigError("freeze 'all-but-heads' without a task trains nothing")
        if self.negatives < 0:
            raise ConfigError(f"negatives {self.negatives} is less than 0")
        if self.negatives and self.exclude_seen:
            raise ConfigError("exclude_seen is a matter of the full softmax: negatives must be 0")
        if min(self.batch_size, self.max_len, self.checkpoint_every, self.validate_every) < 1 or self.epochs < 0:
            raise ConfigError(
                "batch_size, max_len, checkpoint_every and validate_every are at least 1, epochs at least 0"
            )
        if not 0.0 <= self.average < 1.0:
            raise ConfigError(f"average {self.average} is not at least 0 and below 1")

    @property
    def trains_items(self) -> bool:
        """True if an objective about items has a weight and weights to train."""
        return self.next_weight + self.masked_weight > 0 and self.freeze != "all-but-heads"

    def learning_rate_at(self, step: int, *, steps: int) -> float:
        """The learning rate of step `step` (from 0) out of `steps`."""
        rate = self.learning_rate * min(1.0, (step + 1) / max(1, self.warmup_steps))
        if self.schedule == "cosine":
            rate *= 0.5 * (1.0 + math.cos(math.pi * min(1.0, step / max(1, steps))))
        return rate
