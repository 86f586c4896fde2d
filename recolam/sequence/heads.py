"""Classifier heads: what the state after an event says about that event, learnt beside the items.

Shape legend: B windows, T items of the longest, S = T + 1 states, M states without padding, D width, E events of the
dataset, C classes, Q judged events.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from recolam.contracts.dataset import TRAIN, VALIDATION, TokenisedDataset
from recolam.errors import ConfigError, DataError
from recolam.seeding import numpy_generator
from recolam.sequence.model import SequenceModel
from recolam.sequence.ragged import Ragged
from recolam.sequence.windows import Batch, Windows, collate

_MOST_VALUES, _MOST_CLASSES = 20, 256
_CHURN = re.compile(r"churn(?:-([1-9]\d*))?")
_CHURN_DAYS, _DAY = 30, 86_400


@dataclass(frozen=True)
class Labels:
    """One class for each event of a dataset, -1 where there is none; int64. `names` of the classes."""

    label_E: NDArray[np.int64]
    names: tuple[str, ...]


def check_task(task: str) -> None:
    """Raises ConfigError for a name that is no task."""
    if task not in ("rating", "event_type") and not _CHURN.fullmatch(task):
        raise ConfigError(f"task {task!r} is not one of rating, event_type, churn, churn-DAYS (DAYS: 1, 2, ...)")


def labels_of(dataset: TokenisedDataset, task: str, *, through: int = TRAIN) -> Labels:
    """The labels of a task, from events of the parts up to `through` alone (TRAIN, or VALIDATION to judge).

    Classes are those of the train events, whatever `through` is.

    rating: the event's value; each of them a class up to 20 different ones, the fifths of the train values beyond.
    event_type: the event's kind.
    churn, churn-DAYS: 1 if the user has no further event within DAYS (30) days of this one, 0 if there is one, none
        where the data end sooner than that. An event whose days are not over stays without a label even if another
        event has followed: else the newest labels would all be 0.

    Raises:
        ConfigError: no such task.
        DataError: fewer than two classes or more than 256, or churn where parts are not cut by time.
    """
    check_task(task)
    is_known_E = dataset.event_split_E <= through
    is_train_E = dataset.event_split_E == TRAIN
    if task == "rating":
        labels = _ratings(dataset.event_value_E, is_train_E)
    elif task == "event_type":
        labels = _types(dataset)
    else:
        days = _CHURN.fullmatch(task)[1]  # type: ignore[index]
        labels = _churn(dataset, is_known_E, is_train_E, days=int(days or _CHURN_DAYS))
    if not 2 <= len(labels.names) <= _MOST_CLASSES:
        where = f"task {task!r} of domain {dataset.info.get('domain')!r}"
        raise DataError(f"{where}: {len(labels.names)} classes in train, not 2 to {_MOST_CLASSES}")
    return Labels(np.where(is_known_E, labels.label_E, -1), labels.names)


def _ratings(value_E: NDArray[np.float32], is_train_E: NDArray[np.bool_]) -> Labels:
    is_given_E = np.isfinite(value_E)
    values = np.unique(value_E[is_given_E & is_train_E])
    if len(values) <= _MOST_VALUES:
        row_E = np.searchsorted(values, value_E).clip(max=max(len(values) - 1, 0))
        is_class_E = is_given_E & (values[row_E] == value_E) if len(values) else is_given_E & False
        return Labels(np.where(is_class_E, row_E, -1), tuple(f"{value:g}" for value in values))
    edges = np.unique(np.quantile(value_E[is_given_E & is_train_E], (0.2, 0.4, 0.6, 0.8)))
    row_E = np.where(is_given_E, np.searchsorted(edges, value_E), -1)
    return Labels(row_E, (*(f"<= {edge:g}" for edge in edges), f"> {edges[-1]:g}"))


def _types(dataset: TokenisedDataset) -> Labels:
    if dataset.event_type_E is None:
        return Labels(np.full(len(dataset.event_item_E), -1), ())
    return Labels(dataset.event_type_E.astype(np.int64), tuple(dataset.info["event_types"]))


def _churn(
    dataset: TokenisedDataset, is_known_E: NDArray[np.bool_], is_train_E: NDArray[np.bool_], *, days: int
) -> Labels:
    time_E = dataset.event_time_E
    if dataset.info.get("clock") == "position":
        raise DataError(f"task 'churn' of domain {dataset.info.get('domain')!r}: the log has no clock")
    if not is_train_E.all() and time_E[is_train_E].max(initial=0) > time_E[~is_train_E].min():
        raise DataError(
            f"task 'churn' of domain {dataset.info.get('domain')!r}: train is not cut off at one time for everybody "
            "(leave-one-out hides the end of every user's history); use the temporal split"
        )
    user_E = dataset.user_of_event(np.arange(len(time_E)))
    is_followed_E = np.append((user_E[1:] == user_E[:-1]) & is_known_E[1:], False)
    is_back_E = is_followed_E & (np.append(time_E[1:], 0) - time_E <= days * _DAY)
    is_over_E = time_E + days * _DAY <= time_E[is_known_E].max(initial=0)
    return Labels(np.where(is_over_E, 1 - is_back_E.astype(np.int64), -1), ("stays", "leaves"))


@dataclass(frozen=True)
class Classify:
    """Cross entropy of the event's label given the state that has read the event.

    label_E: int64, -1 for events without a label.
    """

    name: str
    label_E: Tensor
    weight: float = 1.0

    def targets(self, batch: Batch, generator: torch.Generator) -> Tensor:
        return batch.is_item_BT & (self.label_E[batch.event_BT] >= 0)

    def loss_sum(self, model: SequenceModel, batch: Batch, is_target_BT: Tensor) -> Tensor:
        state_MD, ragged = states_after(model, batch)
        label_BT = self.label_E[batch.event_BT.cpu()].to(state_MD.device)
        is_target_M, label_M = (
            ragged.pack(nn.functional.pad(value_BT, (1, 0))) for value_BT in (is_target_BT, label_BT)
        )
        logit_MC = model.classifiers[self.name](state_MD[is_target_M])
        return nn.functional.cross_entropy(logit_MC.float(), label_M[is_target_M], reduction="sum")


def states_after(model: SequenceModel, batch: Batch) -> tuple[Tensor, Ragged]:
    """Causal states float [M, D] of rectangles [B, T + 1]: column t + 1 has read event t and none after it."""
    ragged = Ragged.of(batch.length_B + 1, width=batch.item_BT.shape[1] + 1)
    time_BS = torch.cat([batch.time_BT, batch.time_BT[:, -1:]], dim=1)
    return model.states(batch.item_BT, ragged, time_BS=time_BS), ragged


def with_tasks(model: SequenceModel, dataset: TokenisedDataset, weights: Mapping[str, float]) -> list[Classify]:
    """The objectives of the tasks with a weight; heads that `model` lacks are added, zero at first.

    A head for another number of classes is replaced.

    Raises:
        ConfigError: no such task, or a model that reads when the next event comes: it would be told who returns.
        DataError: no labels in train.
    """
    tasks = []
    for task, weight in weights.items():
        if weight <= 0:
            continue
        if model.config.time == "query":
            raise ConfigError(f"task {task!r}: a model with time 'query' reads the time of the next event; use 'gaps'")
        labels = labels_of(dataset, task)
        if not (labels.label_E >= 0).any():
            raise DataError(f"task {task!r} of domain {dataset.info.get('domain')!r}: no train event has a label")
        if model.config.classifiers.get(task) != len(labels.names):
            model.config.classifiers = {**model.config.classifiers, task: len(labels.names)}
            head = nn.Linear(model.config.width, len(labels.names)).to(model.value_head.weight)
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)
            model.classifiers[task] = head
        tasks.append(Classify(task, torch.from_numpy(labels.label_E), weight))
    return tasks


@torch.no_grad()
def classification_report(
    model: SequenceModel, dataset: TokenisedDataset, task: str, *, max_len: int, limit: int = 20_000, seed: int = 0
) -> dict[str, float]:
    """How well the task's head does on events whose label train does not tell and the validation events do.

    For churn these are also train events whose days end in validation.

    Returns:
        events, classes, accuracy, log_loss (natural), and accuracy and log loss of the class frequencies in train
        (`majority_accuracy`, `majority_log_loss`); of two classes also `auc`. NaN where nothing can be judged.
    """
    train_E = labels_of(dataset, task).label_E
    labels = labels_of(dataset, task, through=VALIDATION)
    event_Q = np.flatnonzero((labels.label_E >= 0) & (train_E < 0))
    if len(event_Q) > limit:
        event_Q = np.sort(numpy_generator(seed, "classification", task).choice(event_Q, size=limit, replace=False))
    label_Q, classes = labels.label_E[event_Q], len(labels.names)
    log_share_QC = _log_shares(model, dataset, task, event_Q, max_len=max_len)
    count_C = np.bincount(train_E[train_E >= 0], minlength=classes) + 1.0
    report = {"events": float(len(event_Q)), "classes": float(classes)}
    log_prior_QC = np.broadcast_to(np.log(count_C / count_C.sum()), log_share_QC.shape)
    for prefix, guess_QC in (("", log_share_QC), ("majority_", log_prior_QC)):
        is_right_Q = guess_QC.argmax(axis=1) == label_Q
        loss_Q = -guess_QC[np.arange(len(label_Q)), label_Q]
        report |= {f"{prefix}accuracy": _mean(is_right_Q), f"{prefix}log_loss": _mean(loss_Q)}
    return report | ({"auc": area_under_curve(log_share_QC[:, 1], label_Q == 1)} if classes == 2 else {})


def _log_shares(
    model: SequenceModel, dataset: TokenisedDataset, task: str, event_Q: NDArray[np.int64], *, max_len: int
) -> NDArray[np.float64]:
    """log probabilities [Q, C] of the head after each event; the model is in eval mode meanwhile."""
    was_training, device = model.training, model.value_head.weight.device
    model.eval()
    begin_Q = np.maximum(dataset.user_offset_U1[dataset.user_of_event(event_Q)], event_Q + 1 - max_len)
    windows = Windows(dataset.event_item_E, dataset.event_time_E, begin_Q, event_Q + 1)
    found = [np.zeros((0, model.config.classifiers[task]))]
    for begin in range(0, len(event_Q), 256):
        batch = collate(windows, np.arange(begin, min(begin + 256, len(event_Q)))).to(device)
        state_MD, ragged = states_after(model, batch)
        logit_BC = model.classifiers[task](state_MD[ragged.offset_B1[1:].long() - 1])
        found.append(logit_BC.double().log_softmax(dim=1).cpu().numpy())
    model.train(was_training)
    return np.concatenate(found)


def area_under_curve(score_Q: NDArray[np.float64], is_one_Q: NDArray[np.bool_]) -> float:
    """The share of pairs (one, zero) in which the one has the higher score, ties half (Mann & Whitney 1947)."""
    ones, zeros = int(is_one_Q.sum()), int((~is_one_Q).sum())
    if min(ones, zeros) == 0:
        return float("nan")
    _, place_Q, count = np.unique(score_Q, return_inverse=True, return_counts=True)
    rank_Q = (np.cumsum(count) - (count - 1) / 2)[place_Q]
    return float((rank_Q[is_one_Q].sum() - ones * (ones + 1) / 2) / (ones * zeros))


def _mean(value_Q: NDArray) -> float:
    return float(value_Q.mean()) if len(value_Q) else float("nan")
