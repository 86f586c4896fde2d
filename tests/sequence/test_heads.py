import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from recolam.contracts.config import from_mapping
from recolam.contracts.dataset import FIRST_ITEM, TEST, TRAIN, VALIDATION, TokenisedDataset
from recolam.errors import ConfigError, DataError
from recolam.features.config import FeaturesConfig
from recolam.features.tokenise import tokenise
from recolam.pretrain.stage import PretrainConfig, new_model
from recolam.sequence import training
from recolam.sequence.config import TrainingConfig
from recolam.sequence.gradients import BatchGradient
from recolam.sequence.heads import Classify, area_under_curve, classification_report, labels_of, with_tasks
from recolam.sequence.model import SequenceModel, load_sequence_model
from recolam.sequence.training import TrainingState, train_sequence_model
from recolam.sequence.vocabulary import with_vocabulary
from recolam.sequence.windows import batches, training_windows
from tests.features.support import tables
from tests.planted import dataset_from, noise_dataset

DAY = 86_400
TRAINING = TrainingConfig(epochs=15, batch_size=16, max_len=12, learning_rate=1e-2, warmup_steps=5, patience=15)


def timed(users: list[list[int]], *, cuts: tuple[int, int], items: int = 4) -> TokenisedDataset:
    """Each user's events at the given days, split by the two cut days."""
    dataset = dataset_from([[day % items for day in days] for days in users], items=items)
    day_E = np.concatenate([np.asarray(days) for days in users])
    split_E = np.where(day_E < cuts[0], TRAIN, np.where(day_E < cuts[1], VALIDATION, TEST)).astype(np.int32)
    return dataclasses.replace(dataset, event_time_E=day_E.astype(np.int64) * DAY, event_split_E=split_E)


def small_model(dataset: TokenisedDataset, **settings: object) -> SequenceModel:
    config = PretrainConfig(**{"width": 16, "blocks": 1, "dropout": 0.0, "training": TRAINING, **settings})
    return new_model(dataset, config, seed=0)


def trained(dataset: TokenisedDataset, scratch: Path, **settings: object) -> tuple[SequenceModel, TrainingState]:
    model, config = small_model(dataset), dataclasses.replace(TRAINING, **settings)
    return model, train_sequence_model(model, dataset, config, seed=1, scratch=scratch)


def with_types(dataset: TokenisedDataset, type_E: np.ndarray) -> TokenisedDataset:
    names = [f"kind-{row}" for row in range(int(type_E.max()) + 1)]
    return dataclasses.replace(
        dataset, event_type_E=type_E.astype(np.int32), info={**dataset.info, "event_types": names}
    )


def previous_item_parity(dataset: TokenisedDataset) -> np.ndarray:
    """A label that the item itself does not tell: whether the item BEFORE it is odd; 0 at a history's start."""
    parity_E = np.roll(dataset.event_item_E % 2, 1)
    parity_E[dataset.user_offset_U1[:-1]] = 0
    return parity_E


@pytest.mark.parametrize("item_weight", [1.0, 0.0])
def test_a_label_made_of_the_history_is_learnt(tmp_path: Path, item_weight: float) -> None:
    dataset = noise_dataset(users=150, items=8, length=8)
    dataset = with_types(dataset, previous_item_parity(dataset))
    model, state = trained(dataset, tmp_path, next_weight=item_weight, tasks={"event_type": 1.0})
    report = classification_report(model, dataset, "event_type", max_len=12)
    assert report["events"] == 150
    assert report["accuracy"] > 0.9
    assert report["auc"] > 0.95
    assert report["majority_accuracy"] < 0.7
    assert report["log_loss"] < report["majority_log_loss"] / 2
    assert max(value for _, value in state.curves["event_type.accuracy"]) > 0.9


def test_noise_labels_stay_at_the_majority(tmp_path: Path) -> None:
    dataset = noise_dataset(users=300, items=8, length=8)
    dataset = with_types(dataset, (np.random.default_rng(0).random(2400) < 0.3).astype(np.int32))
    model, _ = trained(dataset, tmp_path, epochs=3, tasks={"event_type": 1.0})
    report = classification_report(model, dataset, "event_type", max_len=12)
    assert abs(report["accuracy"] - report["majority_accuracy"]) < 0.08  # 3 standard errors of 300 events
    assert abs(report["auc"] - 0.5) < 0.11


def test_without_items_the_tasks_choose_the_weights(tmp_path: Path) -> None:
    """NDCG@10 says nothing about a frozen body: the epoch with the best log loss is the one to keep."""
    dataset = noise_dataset(users=150, items=8, length=8)
    dataset = with_types(dataset, dataset.event_item_E % 2)
    model, state = trained(dataset, tmp_path, epochs=6, tasks={"event_type": 1.0}, freeze="all-but-heads")
    losses = [value for _, value in state.curves["event_type.log_loss"]]
    assert state.best_epoch == 1 + int(np.argmin(losses)) > 1
    report = classification_report(model, dataset, "event_type", max_len=12, limit=2000, seed=1)
    assert report["log_loss"] == pytest.approx(min(losses), abs=0.01)
    assert state.best_score == pytest.approx(math.exp(-min(losses)))
    assert len({value for _, value in state.curves["validation_ndcg10"]}) == 1


class Killed(Exception):
    pass


def test_a_killed_run_with_tasks_and_negatives_resumes_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = noise_dataset(users=40, items=8, length=6)
    dataset = with_types(dataset, dataset.event_item_E % 2)
    settings = {
        "epochs": 3,
        "tasks": {"event_type": 1.0},
        "negatives": 5,
        "freeze": "embeddings",
        "checkpoint_every": 2,
    }
    whole, state = trained(dataset, tmp_path / "whole", **settings)
    step, calls = training._Trainer._step, iter(range(99))

    def killed(self: training._Trainer, *batch: object) -> float:
        if next(calls) == 5:
            raise Killed
        return step(self, *batch)

    monkeypatch.setattr(training._Trainer, "_step", killed)
    with pytest.raises(Killed):
        trained(dataset, tmp_path / "broken", **settings)
    resumed, again = trained(dataset, tmp_path / "broken", **settings)
    assert again.step == state.step == 9
    assert again.curves == state.curves
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_loss_is_that_of_plain_cross_entropy_event_by_event() -> None:
    dataset = dataset_from([[0, 1, 2, 3, 1], [3, 2], [1, 0, 3, 3, 2, 1]], items=4)
    label_E = torch.tensor([0, -1, 2, 1, 1, 2, 0, 1, -1, 0, 2, 1, 1])
    model = small_model(dataset, time="gaps")
    model.classifiers["kind"] = torch.nn.Linear(16, 3)
    batch = next(iter(batches(training_windows(dataset, max_len=12), batch_size=8, seed=0, epoch=0)))
    objective = Classify("kind", label_E, 0.5)
    gradient = BatchGradient([objective], device=torch.device("cpu"), dtype=torch.float32)
    found = gradient(model.eval(), model, batch, seed=0)
    losses = []
    for begin, end in ((0, 3), (5, 7), (7, 11)):  # train events alone
        for event in range(begin, end):
            if label_E[event] >= 0:
                history_BT = torch.from_numpy(dataset.event_item_E[begin : event + 1].astype(np.int64))[None]
                time_BS = torch.from_numpy(np.append(dataset.event_time_E[begin : event + 1], 10**9))[None]
                state_BD = model.last_state(history_BT, torch.tensor([event + 1 - begin]), time_BS)
                losses.append(-model.classifiers["kind"](state_BD).log_softmax(1)[0, label_E[event]])
    assert len(losses) == 7
    assert found == pytest.approx(0.5 * float(torch.stack(losses).mean().detach()), rel=1e-4)


def test_ratings_are_classes_or_fifths() -> None:
    dataset = noise_dataset(users=30, items=10, length=10)
    value_E = np.tile(np.asarray([1, 2, 5, np.nan, 1, 2, 2, 1, 4, 1], dtype=np.float32), 30)
    labels = labels_of(dataclasses.replace(dataset, event_value_E=value_E), "rating")
    assert labels.names == ("1", "2", "5")  # 4 occurs in validation alone
    assert labels.label_E[:10].tolist() == [0, 1, 2, -1, 0, 1, 1, 0, -1, -1]
    through = labels_of(dataclasses.replace(dataset, event_value_E=value_E), "rating", through=VALIDATION)
    assert through.label_E[10:20].tolist() == [0, 1, 2, -1, 0, 1, 1, 0, -1, -1]
    many = dataclasses.replace(dataset, event_value_E=np.arange(300, dtype=np.float32) ** 2)
    labels = labels_of(many, "rating")
    assert len(labels.names) == 5
    share_C = np.bincount(labels.label_E[labels.label_E >= 0]) / 240
    assert np.abs(share_C - 0.2).max() < 0.01
    assert (labels.label_E[dataset.event_split_E != TRAIN] == -1).all()


def test_churn_is_known_only_where_the_data_reach() -> None:
    """Cut at day 20: train's newest event is of day 19. Validation until day 30."""
    dataset = timed([[0, 3, 9, 19, 28], [2, 12, 13, 25], [14, 16, 22]], cuts=(20, 29))
    # Day 9 + 10 = 19 is just within reach. What follows on day 19 is just within the ten days.
    train = labels_of(dataset, "churn-10").label_E
    assert train.tolist() == [0, 0, 0, -1, -1, *[0, -1, -1, -1], *[-1, -1, -1]]
    assert labels_of(dataset, "churn-9").label_E.tolist() == [0, 0, 1, -1, -1, *[1, -1, -1, -1], *[-1, -1, -1]]
    # With validation, day 28 is the newest: days 12 (followed), 13 (followed only after 12 days) and so on are told.
    through = labels_of(dataset, "churn-10", through=VALIDATION).label_E
    assert through.tolist() == [0, 0, 0, -1, -1, *[0, 0, 1, -1], *[0, 0, -1]]
    report = classification_report(_ready(dataset, "churn-10"), dataset, "churn-10", max_len=4)
    assert (report["events"], report["majority_accuracy"]) == (4, 0.75)


def test_later_events_change_no_train_label() -> None:
    dataset = timed([[0, 3, 9, 19, 28], [2, 12, 13, 25], [14, 16, 22]], cuts=(20, 29))
    moved = dataclasses.replace(dataset, event_time_E=np.where(dataset.event_split_E, 10**9, dataset.event_time_E))
    for task in ("churn-5", "churn-10"):
        assert (labels_of(dataset, task).label_E == labels_of(moved, task).label_E).all()


def test_churn_is_learnt_and_judged(tmp_path: Path) -> None:
    """Users come every day or once in twenty days, and say so by what they choose."""
    generator = np.random.default_rng(0)
    users = [sorted(set((int(generator.integers(20)) + np.arange(0, 100, step)).tolist())) for step in [20, 4] * 40]
    dataset = timed(users, cuts=(60, 90))
    rare_E = np.repeat([step == 20 for step in [20, 4] * 40], [len(days) for days in users])
    token_E = FIRST_ITEM + (2 * rare_E + generator.integers(2, size=len(rare_E)))
    dataset = dataclasses.replace(dataset, event_item_E=token_E.astype(np.int32))
    model, state = trained(dataset, tmp_path, epochs=5, tasks={"churn-10": 1.0})
    report = classification_report(model, dataset, "churn-10", max_len=12)
    assert report["auc"] > 0.99
    assert report["accuracy"] > max(0.98, report["majority_accuracy"])
    assert {"churn-10.auc", "churn-10.majority_log_loss"} <= set(state.curves)


def _ready(dataset: TokenisedDataset, task: str) -> SequenceModel:
    model = small_model(dataset)
    with_tasks(model, dataset, {task: 1.0})
    return model


def test_event_types_come_from_the_log(tmp_path: Path) -> None:
    """Ten events a user, the item's number telling the kind; the newest of all is of a kind that train has not."""
    log = tables([(f"u{user}", f"i{(user + step) % 6}", 100 * step + user) for user in range(8) for step in range(10)])
    kind = pl.when(pl.col("item_id").is_in(["i0", "i3"])).then(pl.lit("view")).otherwise(pl.lit("buy"))
    last = pl.when(pl.col("event_time") == pl.col("event_time").max()).then(pl.lit("return")).otherwise(kind)
    log = dataclasses.replace(log, interactions=log.interactions.with_columns(last.alias("event")))
    tokenise(log, FeaturesConfig(), seed=0).dataset.save(tmp_path)
    dataset = TokenisedDataset.load(tmp_path)
    assert dataset.info["event_types"] == ["buy", "view"]
    views = [FIRST_ITEM + row for row, item in enumerate(dataset.items) if item in ("i0", "i3")]
    expected_E = np.isin(dataset.event_item_E, views).astype(int)
    expected_E[dataset.event_time_E.argmax()] = -1
    assert dataset.event_type_E.tolist() == expected_E.tolist()
    train_E = np.where(dataset.event_split_E == TRAIN, expected_E, -1)
    assert labels_of(dataset, "event_type").label_E.tolist() == train_E.tolist()


def test_datasets_of_before_have_no_types(tmp_path: Path) -> None:
    noise_dataset(users=5).save(tmp_path)
    assert TokenisedDataset.load(tmp_path).event_type_E is None


def test_what_cannot_be_learnt_is_refused() -> None:
    dataset = noise_dataset(users=5)
    with pytest.raises(ConfigError, match="task 'mood' is not one of rating, event_type, churn"):
        TrainingConfig(tasks={"mood": 1.0})
    with pytest.raises(ConfigError, match="train nothing"):
        TrainingConfig(tasks={"rating": -1.0})
    with pytest.raises(DataError, match="task 'rating' of domain 'main': 0 classes"):
        labels_of(dataset, "rating")
    with pytest.raises(DataError, match="'event_type' of domain 'main': 0 classes"):
        labels_of(dataset, "event_type")
    with pytest.raises(DataError, match="not cut off at one time"):
        labels_of(dataset, "churn")
    cut = timed([[0, 3, 9, 19, 28], [2, 12, 13, 25]], cuts=(20, 29))
    with pytest.raises(DataError, match="no train event has a label"):
        with_tasks(small_model(cut), cut, {"churn": 1.0})
    with pytest.raises(DataError, match="no clock"):
        labels_of(dataclasses.replace(cut, info={"domain": "main", "clock": "position"}), "churn")
    with pytest.raises(ConfigError, match="'query' reads the time of the next event"):
        with_tasks(small_model(cut, time="query"), cut, {"churn-5": 1.0})


def test_a_config_file_names_tasks() -> None:
    config = from_mapping(PretrainConfig, json.loads('{"training": {"tasks": {"rating": 1}}}'), where="file")
    assert config.training.tasks == {"rating": 1.0}


def test_heads_are_saved_and_move_with_the_model(tmp_path: Path) -> None:
    dataset = with_types(noise_dataset(users=20), np.arange(240) % 3)
    model = small_model(dataset)
    plain = {name: value.clone() for name, value in model.state_dict().items()}
    with_tasks(model, dataset, {"event_type": 1.0, "churn": 0.0})
    assert set(model.state_dict()) - set(plain) == {"classifiers.event_type.weight", "classifiers.event_type.bias"}
    torch.nn.init.normal_(model.classifiers["event_type"].weight)
    model.save_pretrained(tmp_path / "model")
    read = load_sequence_model(tmp_path / "model")
    moved = with_vocabulary(read, items=dataset.items, new_items=["x", "y"], new_text_NF=torch.zeros(FIRST_ITEM + 2, 8))
    for other in (read, moved):
        assert torch.equal(other.classifiers["event_type"].weight, model.classifiers["event_type"].weight)
    with_tasks(read, dataset, {"event_type": 1.0})  # the head is there already
    assert torch.equal(read.classifiers["event_type"].weight, model.classifiers["event_type"].weight)
    with_tasks(read, with_types(dataset, np.arange(240) % 2), {"event_type": 1.0})
    assert read.classifiers["event_type"].weight.shape == (2, 16)


def test_area_under_the_curve_counts_pairs() -> None:
    generator = np.random.default_rng(0)
    score_Q, is_one_Q = generator.integers(5, size=60).astype(float), generator.random(60) < 0.4
    pairs = [(a > b) + 0.5 * (a == b) for a in score_Q[is_one_Q] for b in score_Q[~is_one_Q]]
    assert area_under_curve(score_Q, is_one_Q) == pytest.approx(np.mean(pairs))
    assert math.isnan(area_under_curve(score_Q, np.ones(60, dtype=bool)))
