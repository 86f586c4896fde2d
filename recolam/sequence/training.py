"""The training loop of the sequence model: explicit, deterministic, resumable at any step.

Every step seeds torch from (seed, step), so a resumed run draws the dropout and the masks that the unbroken run
would have drawn, without saving any generator.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from recolam.contracts.dataset import TokenisedDataset
from recolam.errors import ConfigError, DataError
from recolam.progress import Progress
from recolam.seeding import derive, numpy_generator
from recolam.sequence.checkpoint import load_checkpoint, optimizer_tensors, restore_optimizer, save_checkpoint
from recolam.sequence.model import SequenceModel
from recolam.sequence.objectives import pretraining_loss
from recolam.sequence.ranking import ndcg, rank_targets
from recolam.sequence.windows import Windows, batch_count, batches, training_windows


@dataclass(frozen=True)
class TrainingConfig:
    """How to train. Weights of the objectives are relative; `patience` counts epochs without a better NDCG@10."""

    epochs: int = 20
    batch_size: int = 128
    max_len: int = 50
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup_steps: int = 100
    gradient_clip: float = 1.0
    next_weight: float = 1.0
    masked_weight: float = 0.0
    mask_share: float = 0.2
    last_window_only: bool = False
    patience: int = 3
    validation_queries: int = 2000
    checkpoint_every: int = 200
    compile: bool = False
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.next_weight < 0 or self.masked_weight < 0 or self.next_weight + self.masked_weight == 0:
            raise ConfigError(f"objective weights {self.next_weight} and {self.masked_weight} train nothing")
        if min(self.batch_size, self.max_len, self.checkpoint_every) < 1 or self.epochs < 0:
            raise ConfigError("batch_size, max_len and checkpoint_every are at least 1, epochs at least 0")


@dataclass
class TrainingState:
    """Where a run stands: what a checkpoint holds besides tensors."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    best_ndcg: float = -1.0
    best_epoch: int = -1
    stale_epochs: int = 0
    curves: dict[str, list[list[float]]] | None = None

    def record(self, name: str, step: int, value: float) -> None:
        self.curves = self.curves or {}
        self.curves.setdefault(name, []).append([step, value])


def resolve_device(name: str) -> torch.device:
    """`auto` is the GPU where there is one."""
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def train_sequence_model(
    model: nn.Module,
    dataset: TokenisedDataset,
    config: TrainingConfig,
    *,
    seed: int,
    scratch: Path,
    label: str = "pretrain",
    inner: Callable[[nn.Module], SequenceModel] = lambda module: module,  # type: ignore[assignment, return-value]
) -> TrainingState:
    """Trains `model` in place and leaves it at the weights of its best validation epoch, in eval mode.

    Args:
        inner: finds the `SequenceModel` in a wrapped module (an adapter around it, say).
        scratch: where checkpoints live; a killed run continues from there to the same weights (on CPU, bit for bit).

    Raises:
        DataError: no train window, or a loss that is not finite.
        ArtifactError: a damaged checkpoint.
    """
    windows = training_windows(dataset, max_len=config.max_len, last_only=config.last_window_only)
    if len(windows) == 0:
        raise DataError("the dataset has no train events to learn from")
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        return _Trainer(model, inner, dataset, windows, config, seed=seed, scratch=scratch).run(label)


class _Trainer:
    def __init__(
        self,
        model: nn.Module,
        inner: Callable[[nn.Module], SequenceModel],
        dataset: TokenisedDataset,
        windows: Windows,
        config: TrainingConfig,
        *,
        seed: int,
        scratch: Path,
    ) -> None:
        self.device = resolve_device(config.device)
        self.model, self.inner, self.config, self.seed, self.scratch = (
            model.to(self.device),
            inner,
            config,
            seed,
            scratch,
        )
        self.dataset, self.windows = dataset, windows
        self.per_epoch = batch_count(windows, batch_size=config.batch_size)
        self.optimizer = _adamw(model, config)
        if config.compile:  # the body only: the loss picks positions, whose number differs from batch to batch
            inner(model).backbone.compile(dynamic=True)
        self.state = TrainingState()
        self.best: dict[str, Tensor] = _copy(model)
        self._resume()

    def run(self, label: str) -> TrainingState:
        total = self.per_epoch * self.config.epochs
        with Progress(label, total=total) as progress:
            progress.advance(self.state.step)
            while self.state.epoch < self.config.epochs and self.state.stale_epochs < self.config.patience:
                self._epoch(progress)
        self.model.load_state_dict(self.best)
        self.model.eval()
        return self.state

    def _epoch(self, progress: Progress) -> None:
        state = self.state
        self.model.train()
        losses: list[float] = []
        for item_BT, length_B in batches(
            self.windows, batch_size=self.config.batch_size, seed=self.seed, epoch=state.epoch, skip=state.batch
        ):
            loss = self._step(item_BT.to(self.device), length_B.to(self.device))
            losses.append(loss)
            state.step, state.batch = state.step + 1, state.batch + 1
            if state.step % 20 == 0:
                state.record("train_loss", state.step, loss)
            if state.step % self.config.checkpoint_every == 0 and state.batch < self.per_epoch:
                self._save()
            progress.advance(epoch=state.epoch + 1, loss=loss, best_ndcg10=max(state.best_ndcg, 0.0))
        state.epoch, state.batch = state.epoch + 1, 0
        self._validate()
        self._save()

    def _step(self, item_BT: Tensor, length_B: Tensor) -> float:
        config, step = self.config, self.state.step
        torch.manual_seed(derive(self.seed, "step", step))
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * min(1.0, (step + 1) / max(1, config.warmup_steps))
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.device.type == "cuda"):
            loss = pretraining_loss(
                self.inner(self.model), item_BT, length_B, next_weight=config.next_weight,
                masked_weight=config.masked_weight, mask_share=config.mask_share,
                generator=torch.Generator().manual_seed(derive(self.seed, "mask", step)),
            )  # fmt: skip
        value = float(loss.detach())
        if not math.isfinite(value):
            raise DataError(f"the loss became {value} at step {step}: lower the learning rate or look at the data")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p in self.model.parameters() if p.grad is not None], config.gradient_clip)
        self.optimizer.step()
        return value

    def _validate(self) -> None:
        state = self.state
        value = validation_ndcg(
            self.inner(self.model), self.dataset, max_len=self.config.max_len, limit=self.config.validation_queries,
            seed=self.seed,
        )  # fmt: skip
        state.record("validation_ndcg10", state.step, value)
        if value > state.best_ndcg or math.isnan(value):  # without validation queries the newest weights are the best
            state.best_ndcg, state.best_epoch, state.stale_epochs = value, state.epoch, 0
            self.best = _copy(self.model)
        else:
            state.stale_epochs += 1

    def _save(self) -> None:
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in self.best.items()} | optimizer_tensors(self.optimizer)
        save_checkpoint(self.scratch, tensors=tensors, state={"run": self._identity(), **vars(self.state)})

    def _resume(self) -> None:
        found = load_checkpoint(self.scratch)
        if found is None or found[1].pop("run") != self._identity():
            return  # a checkpoint of another configuration is of no use here
        tensors, state = found
        self.state = TrainingState(**state)
        self.model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
        self.best = {k.removeprefix("best."): v.to(self.device) for k, v in tensors.items() if k.startswith("best.")}
        restore_optimizer(self.optimizer, tensors)

    def _identity(self) -> dict[str, Any]:
        return {"seed": self.seed, "batches": self.per_epoch, **vars(self.config)}


def validation_ndcg(model: SequenceModel, dataset: TokenisedDataset, *, max_len: int, limit: int, seed: int) -> float:
    """NDCG@10 on (a fixed sample of) the validation queries; NaN where there are none."""
    queries = dataset.validation_event_Q
    if len(queries) > limit:
        queries = numpy_generator(seed, "validation").choice(queries, size=limit, replace=False)
    was_training = model.training
    model.eval()
    ranked = rank_targets(model, dataset, queries, max_len=max_len, device=next(model.parameters()).device)
    model.train(was_training)
    return ndcg(ranked.rank_Q, k=10)


def _adamw(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW that decays matrices but not biases, norms and other vectors."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=config.learning_rate, betas=(0.9, 0.98))


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy({name: value.detach() for name, value in model.state_dict().items()})
