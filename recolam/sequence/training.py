"""The training loop of the sequence model: explicit, deterministic, resumable at any step.

Every step seeds torch from (seed, step), so a resumed run draws the dropout and the masks that the unbroken run
would have drawn, without saving any generator.
"""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from recolam.contracts.dataset import FIRST_ITEM, TokenisedDataset
from recolam.errors import DataError
from recolam.progress import Progress
from recolam.seeding import derive, numpy_generator
from recolam.sequence.averaging import WeightAverage
from recolam.sequence.checkpoint import load_checkpoint, optimizer_tensors, restore_optimizer, save_checkpoint
from recolam.sequence.config import TrainingConfig
from recolam.sequence.distributed import Processes, SharedGradient, Silence, Spread, process_group, resolve_device
from recolam.sequence.freezing import frozen
from recolam.sequence.gradients import BatchGradient
from recolam.sequence.heads import Classify, classification_report, with_tasks
from recolam.sequence.model import SequenceModel
from recolam.sequence.objectives import MaskedItem, NextItem, Objective, Rivals
from recolam.sequence.precision import autocast, resolve_precision
from recolam.sequence.ranking import ndcg, rank_targets
from recolam.sequence.sampled import Negatives, popularity_proposal
from recolam.sequence.windows import Batch, Windows, batch_count, batches, real_share, training_windows

OnValidation = Callable[[int, float], None]


@dataclass
class TrainingState:
    """Where a run stands: what a checkpoint holds besides tensors.

    `best_score` is what the kept weights were chosen for: NDCG@10, or the tasks' where no item objective trains;
    `stale_epochs` counts validations without a better one; the seconds leave out checkpoints.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    best_ndcg: float = -1.0
    best_score: float = -1.0
    best_epoch: int = -1
    stale_epochs: int = 0
    train_seconds: float = 0.0
    validation_seconds: float = 0.0
    curves: dict[str, list[list[float]]] | None = None

    def record(self, name: str, step: int, value: float) -> None:
        self.curves = self.curves or {}
        self.curves.setdefault(name, []).append([step, value])


def train_sequence_model(
    model: nn.Module,
    dataset: TokenisedDataset,
    config: TrainingConfig,
    *,
    seed: int,
    scratch: Path,
    label: str = "pretrain",
    inner: Callable[[nn.Module], SequenceModel] = lambda module: module,  # type: ignore[assignment, return-value]
    on_validation: OnValidation | None = None,
) -> TrainingState:
    """Trains `model` in place and leaves it at the weights of its best validation epoch, in eval mode.

    Under torchrun all processes call this with the same arguments and end with the same model; `config.distributed`
    says how they share the work. Checkpoints are the first one's alone, and fit any number of processes.

    Args:
        on_validation: told (epochs done, NDCG@10) after each validation; what it raises ends the training.
        inner: finds the `SequenceModel` in a wrapped module (an adapter around it, say).
        scratch: where checkpoints live; a killed run continues from there to the same weights (on CPU, bit for bit).

    Raises:
        DataError: no train window, or a loss that is not finite.
        ArtifactError: a damaged checkpoint.
        ConfigError: what `recolam.sequence.distributed` refuses.
    """
    windows = training_windows(dataset, max_len=config.max_len, last_only=config.last_window_only)
    if len(windows) == 0:
        raise DataError("the dataset has no train events to learn from")
    with process_group(config.device) as processes, torch.random.fork_rng(devices=processes.gpus):
        tasks = with_tasks(inner(model), dataset, config.tasks)
        with frozen(inner(model), config.freeze):
            trainer = _Trainer(
                model, inner, dataset, windows, config, processes, tasks=tasks, seed=seed, scratch=scratch
            )
            return trainer.run(label, on_validation)


def item_objectives(config: TrainingConfig, dataset: TokenisedDataset, device: torch.device) -> list[Objective]:
    """The objectives about items that have a weight and weights to train."""
    negatives = None
    if config.negatives:
        proposal_N = popularity_proposal(torch.from_numpy(dataset.item_count_V[FIRST_ITEM:]))
        negatives = Negatives(config.negatives, proposal_N.to(device))
    rivals = Rivals(negatives, config.exclude_seen)
    both: list[Objective] = [
        NextItem(config.next_weight, rivals),
        MaskedItem(config.masked_weight, config.mask_share, rivals),
    ]
    return [objective for objective in both if objective.weight > 0 and config.trains_items]


class _Trainer:
    def __init__(
        self,
        model: nn.Module,
        inner: Callable[[nn.Module], SequenceModel],
        dataset: TokenisedDataset,
        windows: Windows,
        config: TrainingConfig,
        processes: Processes,
        *,
        tasks: list[Classify],
        seed: int,
        scratch: Path,
    ) -> None:
        self.device = resolve_device(config.device)
        self.dtype = resolve_precision(config.precision, self.device)
        self.spread = Spread(model, mode=config.distributed, device=self.device, processes=processes)
        self.model, self.inner, self.config, self.processes = self.spread.model, inner, config, processes
        self.seed, self.scratch = seed, scratch
        self.dataset, self.windows, self.tasks = dataset, windows, tasks
        objectives = [*item_objectives(config, dataset, self.device), *tasks]
        self.per_epoch = batch_count(windows, batch_size=config.batch_size)
        local = BatchGradient(objectives, device=self.device, dtype=self.dtype)
        self.gradient = local if processes.size == 1 else SharedGradient(local, self.spread, inner)
        self.optimizer = adamw(self.model, config)
        self.average = WeightAverage(self.model, decay=config.average) if config.average else None
        if config.compile:  # the body only: the loss picks positions, whose number differs from batch to batch
            inner(self.model).backbone.compile(dynamic=True)
        self.state = TrainingState()
        self.best: dict[str, Tensor] = _copy(self.model)
        self._resume()

    def run(self, label: str, on_validation: OnValidation | None) -> TrainingState:
        config, state = self.config, self.state
        share = real_share(self.windows, batch_size=config.batch_size, seed=self.seed)
        where = f"{self.device}" if self.processes.size == 1 else f"{self.processes.size} x {self.device}"
        self.processes.say(f"{label}: {self.dtype} on {where}, {share:.1%} of the batches' cells are real items")
        with self.processes.progress(label, total=self.per_epoch * config.epochs) as progress:
            progress.advance(state.step)
            while state.epoch < config.epochs and state.stale_epochs < config.patience:
                self._epoch(progress)
                if state.epoch % config.validate_every == 0 or state.epoch == config.epochs:
                    self._validate(on_validation)
                self._save()
        self.model.load_state_dict(self.best)
        self.spread.give_back()
        return state

    def _epoch(self, progress: Progress | Silence) -> None:
        state, config = self.state, self.config
        self.model.train()
        begin = begun = time.perf_counter()
        items = 0
        for batch in batches(
            self.windows, batch_size=config.batch_size, seed=self.seed, epoch=state.epoch, skip=state.batch,
            shuffle_ties=config.shuffle_ties,
        ):  # fmt: skip
            loss = self._step(batch)
            state.step, state.batch = state.step + 1, state.batch + 1
            if state.step % 20 == 0:
                state.record("train_loss", state.step, loss)
            if state.step % config.checkpoint_every == 0 and state.batch < self.per_epoch:
                state.train_seconds += time.perf_counter() - begin
                self._save()
                begin = time.perf_counter()
            items += int(batch.length_B.sum())
            speed = items / max(time.perf_counter() - begun, 1e-9)
            progress.advance(epoch=state.epoch + 1, loss=loss, best_ndcg10=max(state.best_ndcg, 0.0), items_per_s=speed)
        state.train_seconds += time.perf_counter() - begin
        state.epoch, state.batch = state.epoch + 1, 0

    def _step(self, batch: Batch) -> float:
        config, step = self.config, self.state.step
        torch.manual_seed(derive(self.seed, "step", step, *self.processes.names))
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate_at(step, steps=self.per_epoch * config.epochs)
        loss = self.gradient(self.model, self.inner(self.model), batch, seed=derive(self.seed, "mask", step))
        if not math.isfinite(loss):
            raise DataError(f"the loss became {loss} at step {step}: lower the learning rate or look at the data")
        torch.nn.utils.clip_grad_norm_([p for p in self.model.parameters() if p.grad is not None], config.gradient_clip)
        self.optimizer.step()
        if self.average is not None:
            self.average.update(self.model, step=step)
        return loss

    def _validate(self, on_validation: OnValidation | None) -> None:
        state = self.state
        begin = time.perf_counter()
        if self.average is not None:
            self.average.swap(self.model)
        with autocast(self.device, self.dtype):
            value = self.spread.evaluate(
                lambda module: validation_ndcg(
                    self.inner(module), self.dataset, max_len=self.config.max_len,
                    limit=self.config.validation_queries, seed=self.seed, processes=self.processes,
                )
            )  # fmt: skip
        state.record("validation_ndcg10", state.step, value)
        score = self.processes.agree(self._judge_tasks(value))
        if score > state.best_score or math.isnan(score):  # nothing to validate on: the newest weights are the best
            state.best_ndcg, state.best_score, state.best_epoch, state.stale_epochs = value, score, state.epoch, 0
            self.best = _copy(self.model)
        else:
            state.stale_epochs += 1
        if self.average is not None:
            self.average.swap(self.model)
        state.validation_seconds += time.perf_counter() - begin
        if on_validation is not None:
            on_validation(state.epoch, value)

    def _judge_tasks(self, ndcg10: float) -> float:
        """Records how the classifiers do; what to choose weights by: NDCG@10, or the geometric mean of the right
        classes' probabilities if no item objective trains."""
        config, losses, weights = self.config, [], []
        for task in self.tasks:
            with autocast(self.device, self.dtype):
                report = self._report(task.name)
            for name, value in report.items():
                if not math.isnan(value):
                    self.state.record(f"{task.name}.{name}", self.state.step, value)
            if not math.isnan(report["log_loss"]):
                losses.append(task.weight * report["log_loss"])
                weights.append(task.weight)
        if config.trains_items:
            return ndcg10
        return math.exp(-sum(losses) / sum(weights)) if weights else math.nan

    def _report(self, task: str) -> dict[str, float]:
        limits = {"max_len": self.config.max_len, "limit": self.config.validation_queries, "seed": self.seed}
        return self.spread.evaluate(
            lambda module: classification_report(self.inner(module), self.dataset, task, **limits)
        )

    def _save(self) -> None:
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in self.best.items()} | optimizer_tensors(self.optimizer)
        if self.average is not None:
            tensors |= {f"average.{name}": value for name, value in self.average.tensors().items()}
        tensors = self.spread.gathered(tensors)
        if self.processes.is_first:
            save_checkpoint(self.scratch, tensors=tensors, state={"run": self._identity(), **vars(self.state)})

    def _resume(self) -> None:
        found = self.processes.shared(load_checkpoint(self.scratch) if self.processes.is_first else None)
        if found is None or found[1].pop("run") != self._identity():
            return  # a checkpoint of another configuration is of no use here
        tensors, state = self.spread.cut(found[0], self.optimizer), found[1]
        self.state = TrainingState(**state)
        self.model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
        self.best = {k.removeprefix("best."): v.to(self.device) for k, v in tensors.items() if k.startswith("best.")}
        restore_optimizer(self.optimizer, tensors)
        if self.average is not None:
            self.average.restore(
                {k.removeprefix("average."): v for k, v in tensors.items() if k.startswith("average.")}
            )

    def _identity(self) -> dict[str, Any]:
        settings = {name: value for name, value in vars(self.config).items() if name != "distributed"}
        return {"seed": self.seed, "batches": self.per_epoch, "format": str(self.dtype), **settings}


def validation_ndcg(
    model: SequenceModel,
    dataset: TokenisedDataset,
    *,
    max_len: int,
    limit: int,
    seed: int,
    processes: Processes = Processes(),  # noqa: B008 - frozen
) -> float:
    """NDCG@10 on (a fixed sample of) the validation queries, shared among the processes; NaN where there are none."""
    queries = dataset.validation_event_Q
    if len(queries) > limit:
        queries = numpy_generator(seed, "validation").choice(queries, size=limit, replace=False)
    was_training = model.training
    model.eval()
    device, mine = next(model.parameters()).device, queries[processes.share(len(queries))]
    ranked = rank_targets(model, dataset, mine, max_len=max_len, device=device)
    model.train(was_training)
    return ndcg(processes.collect(ranked.rank_Q, count=len(queries)), k=10)


def adamw(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW that decays matrices but not biases, norms and other vectors."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=config.learning_rate, betas=(0.9, 0.98), fused=True)


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy({name: value.detach() for name, value in model.state_dict().items()})
