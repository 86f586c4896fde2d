"""A catalogue that grows by a fifth while the model stays as it is."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from recolam.contracts.dataset import FIRST_ITEM, TokenisedDataset
from recolam.errors import ConfigError
from recolam.pretrain.stage import PretrainConfig, new_model
from recolam.sequence.model import SequenceConfig, SequenceModel
from recolam.sequence.ranking import ndcg, rank_targets
from recolam.sequence.training import TrainingConfig, train_sequence_model
from recolam.sequence.vocabulary import typical_vectors, with_vocabulary
from tests.planted import dataset_from

ITEMS, NEW = 60, range(5, 60, 6)  # ten of sixty: the fifty others grow by 20 %
OLD = [item for item in range(ITEMS) if item not in NEW]
TRAINING = TrainingConfig(epochs=8, batch_size=32, max_len=12, learning_rate=5e-3, warmup_steps=10)


def circle(*, with_new: bool) -> TokenisedDataset:
    """Every user walks the circle of items, two steps in three to the next one, else over it; text tells the place."""
    generator = np.random.default_rng(1)
    histories = []
    for _ in range(400):
        walk = (generator.integers(ITEMS) + np.cumsum(generator.choice([1, 1, 2], size=16))) % ITEMS
        histories.append([int(item) for item in walk if with_new or item in OLD])
    whole = dataset_from(histories, items=ITEMS)
    angle_V1 = 2 * np.pi * np.arange(ITEMS)[:, None] / ITEMS
    turns_F = np.arange(1, 9)
    text_VF = np.concatenate([np.cos(angle_V1 * turns_F), np.sin(angle_V1 * turns_F)], axis=1) / 8**0.5
    item_text_NF = np.concatenate([np.zeros((FIRST_ITEM, 16)), text_VF]).astype(np.float32)
    whole = dataclasses.replace(whole, item_text_VF=item_text_NF)
    return whole if with_new else without_new(whole)


def without_new(whole: TokenisedDataset) -> TokenisedDataset:
    """The same over the vocabulary of old items; no event may be of another."""
    token_N = np.full(whole.tokens, -1, dtype=np.int32)
    token_N[FIRST_ITEM + np.array(OLD)] = FIRST_ITEM + np.arange(len(OLD))
    assert (token_N[whole.event_item_E] >= 0).all()
    rows = [*range(FIRST_ITEM), *(FIRST_ITEM + item for item in OLD)]
    return dataclasses.replace(
        whole, event_item_E=token_N[whole.event_item_E], items=tuple(whole.items[item] for item in OLD),
        titles=tuple(whole.titles[item] for item in OLD), item_count_V=whole.item_count_V[rows],
        item_text_VF=whole.item_text_VF[rows],
    )  # fmt: skip


def trained(folder: Path, *, use_text: bool) -> SequenceModel:
    config = PretrainConfig(width=16, blocks=1, heads=2, dropout=0.1, use_text=use_text, training=TRAINING)
    model = new_model(circle(with_new=False), config, seed=0)
    train_sequence_model(model, circle(with_new=False), TRAINING, seed=0, scratch=folder)
    return model.eval()


def untrained(text_features: int) -> SequenceModel:
    torch.manual_seed(0)
    config = SequenceConfig(tokens=FIRST_ITEM + 50, text_features=text_features, max_len=8, width=16, blocks=1)
    model = SequenceModel(config).eval()
    with torch.no_grad():
        model.item_vectors.weight.normal_().add_(torch.linspace(-2, 2, 16))  # what all vectors have in common
    model.item_text.normal_()
    return model


def old_ndcg(model: SequenceModel, dataset: TokenisedDataset) -> float:
    return ndcg(rank_targets(model, dataset, dataset.test_event_Q, max_len=12).rank_Q, k=10)


def old_histories_over_all_items() -> TokenisedDataset:
    """The events of `circle(with_new=False)` as token ids of the grown vocabulary."""
    small, whole = circle(with_new=False), circle(with_new=True)
    event_item_E = np.array([0, 1, 2, *(FIRST_ITEM + item for item in OLD)], dtype=np.int32)[small.event_item_E]
    return dataclasses.replace(
        small, event_item_E=event_item_E, items=whole.items, titles=whole.titles, item_text_VF=whole.item_text_VF,
        item_count_V=np.zeros(whole.tokens, dtype=np.int64),
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("use_text", [True, False])
def test_old_items_lose_at_most_one_per_cent(use_text: bool, tmp_path: Path) -> None:
    model, small, whole = trained(tmp_path, use_text=use_text), circle(with_new=False), circle(with_new=True)
    text_NF = torch.from_numpy(whole.item_text_VF)[:, : model.config.text_features]
    grown = with_vocabulary(model, items=small.items, new_items=whole.items, new_text_NF=text_NF, new="typical")
    before, after = old_ndcg(model, small), old_ndcg(grown, old_histories_over_all_items())
    assert before > 0.6
    assert after >= 0.99 * before
    is_new_Q = np.isin(whole.event_item_E[whole.test_event_Q] - FIRST_ITEM, NEW)
    rank_Q = rank_targets(grown, whole, whole.test_event_Q[is_new_Q], max_len=12).rank_Q
    assert len(rank_Q) > 40
    if use_text:  # two or three of the sixty items can follow, and the new one is shown among the first ten
        assert np.median(rank_Q) <= 6
    else:  # nothing tells the ten new ones apart
        assert np.median(rank_Q) > 6


def test_without_text_a_new_item_scores_the_mean_of_all_known_ones() -> None:
    model = untrained(text_features=0)
    items = [f"item-{index}" for index in range(50)]
    new_items = ["first", *items[:30], "middle", *items[30:], "last"]
    moved = with_vocabulary(
        model, items=items, new_items=new_items, new_text_NF=torch.zeros(FIRST_ITEM + 53, 0), new="typical"
    )
    history_BT, length_B = torch.tensor([[4, 9, 30], [5, 0, 0]]), torch.tensor([3, 1])
    before_BV = model.scores(history_BT, length_B)[:, FIRST_ITEM:]
    shifted_BT = torch.where(history_BT > 0, history_BT + 1, 0)  # "first" moved these items on by one
    after_BV = moved.scores(shifted_BT, length_B)[:, FIRST_ITEM:]
    columns = [new_items.index(item) for item in items]
    torch.testing.assert_close(after_BV[:, columns], before_BV)
    for item in ("first", "middle", "last"):
        torch.testing.assert_close(after_BV[:, new_items.index(item)], before_BV.mean(dim=1), rtol=1e-4, atol=1e-4)


def test_text_places_a_new_item_between_its_neighbours_and_the_mean() -> None:
    """Against the formula written out for one item at a time."""
    model, text_WF = untrained(text_features=5), torch.randn(7, 5) * 3
    text_WF[4] = 0.0
    found_WD = typical_vectors(model, new_text_WF=text_WF)
    known, words = model.item_vectors.weight[3:].detach().numpy(), model.item_text[3:].numpy()
    mean = known.mean(axis=0)
    for row, text in enumerate(text_WF.numpy()):
        wanted = mean
        if np.linalg.norm(text) > 0:
            cosines = [float(text @ other / np.linalg.norm(text) / np.linalg.norm(other)) for other in words]
            near = sorted(range(50), key=lambda index, by=cosines: -by[index])[:20]
            weights = np.array([np.exp(cosines[index] / 0.1) for index in near])
            mixed = sum(weight * known[index] for weight, index in zip(weights / weights.sum(), near, strict=True))
            wanted = 0.75 * mixed + 0.25 * mean
        np.testing.assert_allclose(found_WD[row], wanted, rtol=1e-4, atol=1e-5)


def test_zero_stays_the_default_and_other_names_are_refused() -> None:
    model = untrained(text_features=5)
    options = {"items": ["old"] * 50, "new_items": ["new"] * 4, "new_text_NF": torch.randn(FIRST_ITEM + 4, 5)}
    assert (with_vocabulary(model, **options).item_vectors.weight[FIRST_ITEM:] == 0).all()
    assert (with_vocabulary(model, new="typical", **options).item_vectors.weight[FIRST_ITEM:] != 0).any()
    with pytest.raises(ConfigError, match="new 'rare' is not one of zero, typical"):
        with_vocabulary(model, new="rare", **options)  # type: ignore[arg-type]
