import dataclasses
from pathlib import Path

import pytest
import torch

from recolam.contracts.dataset import FIRST_ITEM, TokenisedDataset
from recolam.errors import ConfigError, DataError
from recolam.pretrain.stage import PretrainConfig, new_model
from recolam.sequence.config import TrainingConfig
from recolam.sequence.model import SequenceModel
from recolam.sequence.ranking import ndcg, rank_targets
from recolam.sequence.training import train_sequence_model
from recolam.sequence.vocabulary import with_vocabulary
from recolam.transfer.tuning import tune
from tests.planted import cyclic_dataset

TRAINING = TrainingConfig(epochs=3, batch_size=16, max_len=12, learning_rate=5e-3, warmup_steps=5)


def source_model(dataset: TokenisedDataset) -> SequenceModel:
    config = PretrainConfig(width=16, blocks=1, heads=2, dropout=0.0, training=TRAINING)
    return new_model(dataset, config, seed=0).eval()


def renamed(dataset: TokenisedDataset, order: list[int]) -> TokenisedDataset:
    """The same items under other token ids."""
    token_of = torch.zeros(FIRST_ITEM + len(order), dtype=torch.int64)
    token_of[FIRST_ITEM + torch.tensor(order)] = FIRST_ITEM + torch.arange(len(order))
    rows = [0, 1, 2, *(FIRST_ITEM + index for index in order)]
    return dataclasses.replace(
        dataset,
        event_item_E=token_of[torch.from_numpy(dataset.event_item_E).long()].numpy().astype("int32"),
        items=tuple(dataset.items[index] for index in order),
        item_text_VF=dataset.item_text_VF[rows],
        item_count_V=dataset.item_count_V[rows],
    )


def test_known_items_move_with_their_vectors() -> None:
    dataset = cyclic_dataset(users=30)
    model = source_model(dataset)
    shuffled = renamed(dataset, list(reversed(range(30))))
    moved = with_vocabulary(
        model, items=dataset.items, new_items=shuffled.items, new_text_NF=torch.from_numpy(shuffled.item_text_VF)
    )
    first = rank_targets(model, dataset, dataset.test_event_Q, max_len=12).rank_Q
    assert (first == rank_targets(moved, shuffled, shuffled.test_event_Q, max_len=12).rank_Q).all()


def test_new_items_speak_by_their_text_alone() -> None:
    dataset = cyclic_dataset(users=30)
    model = source_model(dataset)
    text_NF = torch.from_numpy(dataset.item_text_VF)
    moved = with_vocabulary(model, items=dataset.items, new_items=["new"] * 30, new_text_NF=text_NF)
    assert (moved.item_vectors.weight[FIRST_ITEM:] == 0).all()
    torch.testing.assert_close(moved.item_table()[FIRST_ITEM:], model.text_projection(text_NF)[FIRST_ITEM:])
    with pytest.raises(DataError, match="text features of shape"):
        with_vocabulary(model, items=dataset.items, new_items=["new"], new_text_NF=text_NF)


@pytest.mark.parametrize(("method", "touches_blocks"), [("full", True), ("head", False), ("lora", True)])
def test_each_method_changes_what_it_may(tmp_path: Path, method: str, touches_blocks: bool) -> None:
    dataset = cyclic_dataset(users=60)
    model = source_model(dataset)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    tuned = tune(method, model, dataset, TRAINING, rank=4, seed=0, scratch=tmp_path)
    assert type(tuned) is SequenceModel
    after = tuned.state_dict()
    assert set(after) == set(before)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert "item_vectors.weight" in changed
    assert any(name.startswith("backbone.") for name in changed) == touches_blocks
    assert ("start" in changed) == (method == "full")
    assert "item_text" not in changed
    assert all(parameter.requires_grad for parameter in tuned.parameters())


def test_lora_updates_are_of_low_rank(tmp_path: Path) -> None:
    dataset = cyclic_dataset(users=60)
    model = source_model(dataset)
    name = "backbone.blocks.0.perceptron_in.weight"
    before = model.state_dict()[name].clone()
    update = tune("lora", model, dataset, TRAINING, rank=2, seed=0, scratch=tmp_path).state_dict()[name] - before
    assert int(torch.linalg.matrix_rank(update, atol=1e-5)) == 2


@pytest.mark.slow
def test_tuning_beats_a_zero_shot_start_on_a_related_domain(tmp_path: Path) -> None:
    """The target counts in the same circle under other names: the tuned model learns it in few epochs."""
    dataset = cyclic_dataset(users=300)
    model = source_model(dataset)
    train_sequence_model(model, dataset, dataclasses.replace(TRAINING, epochs=10), seed=0, scratch=tmp_path / "source")
    target = dataclasses.replace(renamed(dataset, list(range(30))), items=tuple(f"other-{i}" for i in range(30)))

    def moved() -> SequenceModel:
        text_NF = torch.from_numpy(target.item_text_VF)
        return with_vocabulary(model, items=dataset.items, new_items=target.items, new_text_NF=text_NF)

    def score(candidate: SequenceModel) -> float:
        return ndcg(rank_targets(candidate.eval(), target, target.test_event_Q, max_len=12).rank_Q, k=10)

    tuned = tune("full", moved(), target, TRAINING, rank=4, seed=0, scratch=tmp_path)
    assert score(tuned) > score(moved()) + 0.1


def test_unknown_methods_are_refused(tmp_path: Path) -> None:
    dataset = cyclic_dataset(users=30)
    with pytest.raises(ConfigError, match="'prompt' is not one of full, head, lora"):
        tune("prompt", source_model(dataset), dataset, TRAINING, rank=4, seed=0, scratch=tmp_path)
