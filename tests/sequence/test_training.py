import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recolam.contracts.dataset import TokenisedDataset
from recolam.errors import ArtifactError, ConfigError, DataError
from recolam.pretrain.stage import PretrainConfig, new_model
from recolam.sequence import training
from recolam.sequence.config import TrainingConfig
from recolam.sequence.model import SequenceModel
from recolam.sequence.ranking import ndcg, rank_targets
from recolam.sequence.training import train_sequence_model
from recolam.sequence.windows import Batch
from tests.planted import cyclic_dataset, dataset_from, noise_dataset

CONFIG = TrainingConfig(epochs=6, batch_size=16, max_len=12, learning_rate=5e-3, warmup_steps=5, checkpoint_every=3)


def model_for(dataset: TokenisedDataset, config: TrainingConfig = CONFIG) -> SequenceModel:
    return new_model(dataset, PretrainConfig(width=16, blocks=1, heads=2, dropout=0.1, training=config), seed=0)


def trained(dataset: TokenisedDataset, config: TrainingConfig, scratch: Path) -> SequenceModel:
    model = model_for(dataset, config)
    train_sequence_model(model, dataset, config, seed=3, scratch=scratch)
    return model


@pytest.mark.parametrize(("next_weight", "masked_weight"), [(1.0, 0.0), (0.0, 1.0), (1.0, 0.5)])
def test_a_planted_source_is_learnt(tmp_path: Path, next_weight: float, masked_weight: float) -> None:
    dataset = cyclic_dataset(users=300)
    config = dataclasses.replace(CONFIG, epochs=15, next_weight=next_weight, masked_weight=masked_weight)
    model = trained(dataset, config, tmp_path)
    assert ndcg(rank_targets(model, dataset, dataset.test_event_Q, max_len=12).rank_Q, k=10) > 0.85


def test_noise_stays_at_chance(tmp_path: Path) -> None:
    dataset = noise_dataset(users=400)
    model = trained(dataset, CONFIG, tmp_path)
    value = ndcg(rank_targets(model, dataset, dataset.test_event_Q, max_len=12).rank_Q, k=10)
    candidates = 30 - 11  # items that the user has not had
    chance = (1 / np.log2(1 + np.arange(1, 11))).sum() / candidates
    assert abs(value - chance) < 0.06  # about 4 standard errors of 400 queries


class Killed(Exception):
    pass


@pytest.mark.parametrize(
    ("stop", "settings"),
    [
        (1, {}), (4, {}), (17, {}), (30, {}),
        (4, {"average": 0.9}), (17, {"average": 0.9, "validate_every": 3, "schedule": "cosine"}),
        (17, {"precision": "bfloat16"}),
    ],
)  # fmt: skip
def test_a_killed_run_resumes_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int, settings: dict[str, Any]
) -> None:
    dataset = noise_dataset(users=80)
    config = dataclasses.replace(CONFIG, masked_weight=0.5, epochs=8, patience=8, **settings)
    whole = trained(dataset, config, tmp_path / "whole")
    step, calls = training._Trainer._step, 0

    def killed(self: training._Trainer, *batch: torch.Tensor) -> float:
        nonlocal calls
        calls += 1
        if calls > stop:
            raise Killed
        return step(self, *batch)

    monkeypatch.setattr(training._Trainer, "_step", killed)
    with pytest.raises(Killed):
        trained(dataset, config, tmp_path / "broken")
    monkeypatch.setattr(training._Trainer, "_step", step)
    resumed = trained(dataset, config, tmp_path / "broken")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_a_checkpoint_with_a_flipped_byte_is_refused(tmp_path: Path) -> None:
    dataset = noise_dataset(users=40)
    trained(dataset, CONFIG, tmp_path)
    path = tmp_path / "checkpoint" / "tensors.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ArtifactError, match=r"tensors\.safetensors: changed since it was written"):
        trained(dataset, CONFIG, tmp_path)


def test_a_checkpoint_of_other_settings_is_not_used(tmp_path: Path) -> None:
    dataset = noise_dataset(users=40)
    trained(dataset, CONFIG, tmp_path / "a")
    other = dataclasses.replace(CONFIG, learning_rate=1e-3)
    fresh, after = trained(dataset, other, tmp_path / "b"), trained(dataset, other, tmp_path / "a")
    assert all(torch.equal(value, after.state_dict()[name]) for name, value in fresh.state_dict().items())


def test_global_random_numbers_are_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    trained(noise_dataset(users=20), CONFIG, tmp_path)
    assert torch.equal(torch.rand(3), expected)


def test_nothing_to_train_on_is_refused(tmp_path: Path) -> None:
    dataset = dataset_from([[0, 1, 2]], items=3)
    dataset.event_split_E[:] = 2
    with pytest.raises(DataError, match="no train events"):
        trained(dataset, CONFIG, tmp_path)
    with pytest.raises(ConfigError, match="train nothing"):
        TrainingConfig(next_weight=0.0)


def test_the_average_of_weights_is_the_recursion_and_is_what_stays(tmp_path: Path) -> None:
    dataset = noise_dataset(users=40)
    config = dataclasses.replace(CONFIG, epochs=2, average=0.9, patience=9, checkpoint_every=1)
    kept: list[torch.Tensor] = []

    def watch(self: training._Trainer, batch: Batch) -> float:
        loss = step(self, batch)
        kept.append(self.model.item_vectors.weight.detach().clone())
        return loss

    step = training._Trainer._step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training._Trainer, "_step", watch)
        model = model_for(dataset, config)
        expected = model.item_vectors.weight.detach().clone()
        state = train_sequence_model(model, dataset, config, seed=3, scratch=tmp_path)
    for number, weight in enumerate(kept[: len(kept) * state.best_epoch // 2]):
        decay = min(0.9, (1 + number) / (10 + number))
        expected = decay * expected + (1 - decay) * weight
    torch.testing.assert_close(model.item_vectors.weight.detach(), expected, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(model.item_vectors.weight, kept[-1])


def test_validation_happens_when_asked_and_at_the_end(tmp_path: Path) -> None:
    dataset, told = noise_dataset(users=40), []
    config = dataclasses.replace(CONFIG, epochs=5, validate_every=2, patience=9)
    state = train_sequence_model(
        model_for(dataset, config), dataset, config, seed=3, scratch=tmp_path,
        on_validation=lambda epoch, value: told.append((epoch, value)),
    )  # fmt: skip
    assert [epoch for epoch, _ in told] == [2, 4, 5]
    assert max(value for _, value in told) == state.best_ndcg
    assert state.train_seconds > 0
    assert state.validation_seconds > 0


def test_what_on_validation_raises_ends_the_training(tmp_path: Path) -> None:
    def stop(epoch: int, value: float) -> None:
        raise Killed

    with pytest.raises(Killed):
        train_sequence_model(
            model_for(noise_dataset(users=20)), noise_dataset(users=20), CONFIG, seed=0, scratch=tmp_path,
            on_validation=stop,
        )  # fmt: skip


def test_the_learning_rate_warms_up_and_falls_to_nothing() -> None:
    config = TrainingConfig(learning_rate=2.0, warmup_steps=4, schedule="cosine")
    rates = [config.learning_rate_at(step, steps=100) for step in (0, 3, 50, 100)]
    assert rates == pytest.approx([0.5, 2.0 * 0.5 * (1 + np.cos(0.03 * np.pi)), 1.0, 0.0])
    assert TrainingConfig(learning_rate=2.0).learning_rate_at(10**6, steps=10) == 2.0


def test_bfloat16_learns_what_float32_learns(tmp_path: Path) -> None:
    dataset = cyclic_dataset(users=200)
    found = []
    for precision in ("float32", "bfloat16"):
        config = dataclasses.replace(CONFIG, epochs=10, precision=precision)
        model = trained(dataset, config, tmp_path / precision)
        assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
        found.append(ndcg(rank_targets(model, dataset, dataset.test_event_Q, max_len=12).rank_Q, k=10))
    assert min(found) > 0.9
