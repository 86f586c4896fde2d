"""Popularity, recent popularity and item-kNN against a naive computation, and ranked through the real ranking."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from recolam.contracts.dataset import FIRST_ITEM, TEST, TRAIN, UNKNOWN, TokenisedDataset
from recolam.errors import DataError
from recolam.evaluate.baselines import (
    ItemKNN,
    Popularity,
    nearest_items,
    ragged_ranges,
    rank_recent_popularity,
    train_pairs,
)
from recolam.evaluate.metrics import hit_at
from recolam.sequence.ranking import OUTSIDE, rank_targets


def dataset_of(histories: list[list[int]], *, items: int, tests: list[int] | None = None) -> TokenisedDataset:
    """Train histories of item numbers from 0, and where given one test event a user."""
    rows = [[*history, *([tests[user]] if tests else [])] for user, history in enumerate(histories)]
    length_U = np.array([len(row) for row in rows])
    offset_U1 = np.concatenate([[0], np.cumsum(length_U)]).astype(np.int64)
    item_E = np.concatenate([np.array(row, dtype=np.int32) for row in rows]) + FIRST_ITEM
    split_E = np.full(len(item_E), TRAIN, dtype=np.int32)
    test_Q = offset_U1[1:] - 1 if tests else np.empty(0, dtype=np.int64)
    split_E[test_Q] = TEST
    names = tuple(f"item {n}" for n in range(items))
    return TokenisedDataset(
        event_item_E=item_E.astype(np.int32),
        event_time_E=np.arange(len(item_E)),
        event_value_E=np.full(len(item_E), np.nan, dtype=np.float32),
        event_split_E=split_E,
        user_offset_U1=offset_U1,
        validation_event_Q=np.empty(0, dtype=np.int64),
        test_event_Q=test_Q,
        item_count_V=np.bincount(item_E[split_E == TRAIN], minlength=FIRST_ITEM + items),
        item_text_VF=np.zeros((FIRST_ITEM + items, 0), dtype=np.float32),
        items=names,
        titles=names,
        users=tuple(map(str, range(len(rows)))),
        info={},
    )


def random_dataset(*, users: int = 80, items: int = 30, seed: int = 0) -> TokenisedDataset:
    generator = np.random.default_rng(seed)
    histories = [generator.integers(0, items, size=generator.integers(1, 12)).tolist() for _ in range(users)]
    return dataset_of(histories, items=items)


def cosine(dataset: TokenisedDataset) -> np.ndarray:
    has_UN = np.zeros((len(dataset.users), dataset.tokens))
    for event in np.flatnonzero(dataset.event_split_E == TRAIN):
        has_UN[dataset.user_of_event(np.array([event]))[0], dataset.event_item_E[event]] = 1
    norm_N = np.maximum(np.sqrt((has_UN**2).sum(axis=0)), 1e-9)
    similar_NN = (has_UN.T @ has_UN) / norm_N[:, None] / norm_N
    np.fill_diagonal(similar_NN, 0)
    return similar_NN


def test_knn_scores_are_sums_of_cosines() -> None:
    dataset = random_dataset()
    similar_NN = cosine(dataset)
    history_BT = torch.tensor([[3, 7, 0, 0], [12, 12, 5, 30], [0, 0, 0, 0]])
    score_BN = ItemKNN(dataset, neighbours=dataset.tokens).scores(history_BT, torch.tensor([2, 4, 0]))
    expected = np.stack([similar_NN[[3, 7]].sum(axis=0), similar_NN[[12, 12, 5, 30]].sum(axis=0), 0 * similar_NN[0]])
    assert score_BN.numpy() == pytest.approx(expected, abs=1e-5)


def test_knn_keeps_only_the_nearest() -> None:
    dataset = random_dataset(seed=1)
    user_P, item_P = train_pairs(dataset)
    found_NM, similarity_NM = nearest_items(user_P, item_P, users=80, tokens=dataset.tokens, neighbours=4)
    best_NM = -np.sort(-cosine(dataset), axis=1)[:, :4]
    assert similarity_NM[FIRST_ITEM:].numpy() == pytest.approx(best_NM[FIRST_ITEM:], abs=1e-6)
    row_N1 = torch.arange(dataset.tokens)[:, None]
    assert ((found_NM != row_N1) | (similarity_NM == 0)).all()


def test_blocks_do_not_change_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = random_dataset(seed=2)
    history_BT, length_B = torch.tensor([[5, 9, 20]]), torch.tensor([3])
    whole = ItemKNN(dataset, neighbours=6).scores(history_BT, length_B)
    monkeypatch.setattr("recolam.evaluate.baselines._PAIRS_AT_A_TIME", 50)
    assert torch.equal(ItemKNN(dataset, neighbours=6).scores(history_BT, length_B), whole)
    monkeypatch.setattr("recolam.evaluate.baselines._CELLS_AT_A_TIME", 1)
    assert torch.equal(ItemKNN(dataset, neighbours=6).scores(history_BT, length_B), whole)


def test_pairs_are_distinct_known_and_from_train_only() -> None:
    dataset = dataset_of([[1, 1, 2], [0, 2]], items=4, tests=[3, 3])
    dataset.event_item_E[dataset.user_offset_U1[1]] = UNKNOWN
    user_P, item_P = train_pairs(dataset)
    assert list(zip(user_P.tolist(), (item_P - FIRST_ITEM).tolist(), strict=True)) == [(0, 1), (0, 2), (1, 2)]


def test_baselines_find_planted_pairs_and_favourites() -> None:
    """Items come in pairs 2n, 2n + 1: after the first comes the second. Pair 0 is everybody's favourite."""
    generator = np.random.default_rng(3)
    pair_of_user = np.where(generator.random(300) < 0.4, 0, generator.integers(0, 20, size=300))
    histories = [[2 * int(pair), 2 * int(pair) + 1] for pair in pair_of_user] + [[2 * pair] for pair in range(20)]
    tests = [38] * 300 + [2 * pair + 1 for pair in range(20)]
    dataset = dataset_of(histories, items=40, tests=tests)
    event_Q = dataset.test_event_Q[300:]
    knn = rank_targets(ItemKNN(dataset), dataset, event_Q, max_len=10)
    popular = rank_targets(Popularity(dataset), dataset, event_Q, max_len=10)
    assert hit_at(knn.rank_Q, k=1).mean() == 1.0
    assert hit_at(popular.rank_Q, k=1).mean() <= 0.1
    assert (popular.top_QK[1:, 0] == FIRST_ITEM).all()


def test_popularity_rows_are_the_callers_to_overwrite() -> None:
    dataset = random_dataset()
    scorer = Popularity(dataset)
    history_BT, length_B = torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)
    scorer.scores(history_BT, length_B)[0].fill_(-1)
    assert scorer.scores(history_BT, length_B).numpy() == pytest.approx(np.stack([dataset.item_count_V] * 2))


def test_ragged_ranges_by_hand() -> None:
    assert ragged_ranges(np.array([5, 0, 9]), np.array([2, 0, 3])).tolist() == [5, 6, 9, 10, 11]


def test_nothing_to_learn_from_is_named() -> None:
    with pytest.raises(DataError, match="at least one neighbour"):
        ItemKNN(random_dataset(), neighbours=0)
    empty = dataset_of([[0]], items=1)
    empty.event_item_E[:] = UNKNOWN
    with pytest.raises(DataError, match="train events"):
        ItemKNN(empty)


def dated_dataset(*, seed: int, days: int = 30, users: int = 40, items: int = 25) -> TokenisedDataset:
    """Random events, many at equal seconds, each user's in order of time; a few items outside the vocabulary."""
    generator = np.random.default_rng(seed)
    dataset = random_dataset(users=users, items=items, seed=seed)
    second_E = generator.integers(0, days * 4, size=len(dataset.event_item_E)) * 21_600
    user_E = dataset.user_of_event(np.arange(len(second_E)))
    second_E = second_E[np.lexsort((second_E, user_E))]
    item_E = np.where(generator.random(len(second_E)) < 0.1, UNKNOWN, dataset.event_item_E)
    return replace(dataset, event_time_E=second_E, event_item_E=item_E.astype(np.int32), info={"clock": "time"})


def naive_recent_rank(dataset: TokenisedDataset, event: int, *, days: int) -> tuple[int, dict[int, int]]:
    """The definition, one event at a time; also the counts of the items that compete."""
    now, target = int(dataset.event_time_E[event]), int(dataset.event_item_E[event])
    user = int(dataset.user_of_event(np.array([event]))[0])
    seen = {int(token) for token in dataset.event_item_E[dataset.user_offset_U1[user] : event]} - {target}
    count = {token: 0 for token in range(FIRST_ITEM, dataset.tokens) if token not in seen}
    for second, token in zip(dataset.event_time_E.tolist(), dataset.event_item_E.tolist(), strict=True):
        if now - days * 86_400 <= second < now and token in count:
            count[token] += 1
    if target < FIRST_ITEM:
        return int(OUTSIDE), count
    rivals = [value for token, value in count.items() if token != target]
    better, equal = (sum(value > count[target] for value in rivals), sum(value == count[target] for value in rivals))
    return 1 + better + -(-equal // 2), count


@pytest.mark.parametrize(("seed", "days"), [(0, 7), (1, 1), (2, 90)])
def test_recent_popularity_is_its_definition(seed: int, days: int) -> None:
    dataset = dated_dataset(seed=seed)
    event_Q = np.random.default_rng(seed).permutation(len(dataset.event_item_E))[:150]
    ranked = rank_recent_popularity(dataset, event_Q, days=days, k=5)
    assert OUTSIDE in ranked.rank_Q
    for event, rank, top_K in zip(event_Q, ranked.rank_Q, ranked.top_QK, strict=True):
        expected, count = naive_recent_rank(dataset, int(event), days=days)
        assert rank == expected
        assert top_K.tolist() == sorted(count, key=lambda token: (-count[token], token))[:5]


def test_recent_popularity_ranks_as_rank_targets_does() -> None:
    """Where the window holds all of train and every query comes last, it is popularity."""
    histories = np.random.default_rng(5).integers(0, 20, size=(60, 6)).tolist()
    dataset = dataset_of(histories, items=20, tests=np.random.default_rng(6).integers(0, 20, size=60).tolist())
    time_E = np.where(dataset.event_split_E == TEST, 10**6, dataset.event_time_E)
    dataset = replace(dataset, event_time_E=time_E)
    recent = rank_recent_popularity(dataset, dataset.test_event_Q, days=365)
    always = rank_targets(Popularity(dataset), dataset, dataset.test_event_Q, max_len=6)
    assert recent.rank_Q.tolist() == always.rank_Q.tolist()


def test_recent_popularity_needs_a_clock_and_a_day() -> None:
    dataset = dated_dataset(seed=0)
    with pytest.raises(DataError, match="at least one day"):
        rank_recent_popularity(dataset, np.array([3]), days=0)
    with pytest.raises(DataError, match="clock"):
        rank_recent_popularity(replace(dataset, info={"clock": "position"}), np.array([3]))
    assert rank_recent_popularity(dataset, np.array([], dtype=np.int64)).top_QK.shape == (0, 10)
