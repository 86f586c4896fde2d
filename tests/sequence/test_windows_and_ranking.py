import dataclasses

import numpy as np
import pytest
import torch

from recolam.contracts.dataset import FIRST_ITEM, TRAIN
from recolam.sequence.ranking import OUTSIDE, ndcg, rank_targets
from recolam.sequence.windows import batch_count, batches, training_windows
from tests.planted import dataset_from, noise_dataset


def test_every_train_event_is_in_one_window_and_no_other_event_in_any() -> None:
    dataset = dataset_from([[0, 1, 2], [3], list(range(11)), [4, 5]], items=12)
    windows = training_windows(dataset, max_len=4)
    covered = np.concatenate([np.arange(a, b) for a, b in zip(windows.start_W, windows.end_W, strict=True)])
    assert sorted(covered.tolist()) == np.flatnonzero(dataset.event_split_E == TRAIN).tolist()
    assert (windows.end_W - windows.start_W).max() <= 4


def test_an_epoch_holds_every_window_once_and_can_be_entered_anywhere() -> None:
    dataset = noise_dataset(users=50)
    windows = training_windows(dataset, max_len=4)
    whole = list(batches(windows, batch_size=8, seed=1, epoch=2))
    assert len(whole) == batch_count(windows, batch_size=8)
    assert sum(int(batch.length_B.sum()) for batch in whole) == windows.items
    later = list(batches(windows, batch_size=8, seed=1, epoch=2, skip=3))
    assert all(torch.equal(a.item_BT, b.item_BT) for a, b in zip(whole[3:], later, strict=True))
    other = list(batches(windows, batch_size=8, seed=1, epoch=3))
    assert any(not torch.equal(a.item_BT, b.item_BT) for a, b in zip(whole, other, strict=True))


def test_events_of_one_time_change_places_and_no_others() -> None:
    dataset = noise_dataset(users=40, items=20, length=12)
    dataset = dataclasses.replace(dataset, event_time_E=dataset.event_time_E // 4)
    windows = training_windows(dataset, max_len=9)
    plain = list(batches(windows, batch_size=16, seed=0, epoch=1))
    drawn = list(batches(windows, batch_size=16, seed=0, epoch=1, shuffle_ties=True))
    again = list(batches(windows, batch_size=16, seed=0, epoch=1, shuffle_ties=True, skip=1))
    assert all(torch.equal(a.item_BT, b.item_BT) for a, b in zip(drawn[1:], again, strict=True))
    moved = 0
    for before, after in zip(plain, drawn, strict=True):
        assert torch.equal(before.time_BT, after.time_BT)
        for row, length in enumerate(before.length_B.tolist()):
            items, times = before.item_BT[row, :length].tolist(), before.time_BT[row, :length].tolist()
            shuffled, events = after.item_BT[row, :length].tolist(), after.event_BT[row, :length].numpy()
            assert dataset.event_item_E[events].tolist() == shuffled
            assert dataset.event_time_E[events].tolist() == times
            assert sorted(zip(times, items, strict=True)) == sorted(zip(times, shuffled, strict=True))
            moved += items != shuffled
        assert not after.item_BT[~(torch.arange(after.item_BT.shape[1])[None] < after.length_B[:, None])].any()
    assert moved > 30
    other = list(batches(windows, batch_size=16, seed=0, epoch=2, shuffle_ties=True))
    assert not all(torch.equal(a.item_BT, b.item_BT) for a, b in zip(drawn, other, strict=True))


class Fixed:
    """Scores drawn once for every token, the same for all."""

    def __init__(self, score_N: torch.Tensor) -> None:
        self.score_N = score_N

    def scores(self, history_BT: torch.Tensor, length_B: torch.Tensor) -> torch.Tensor:
        return self.score_N.repeat(len(length_B), 1)


@pytest.mark.parametrize("block", [1, 3, 256])
def test_ranks_are_those_of_a_plain_sort(block: int) -> None:
    dataset = noise_dataset(users=40, items=20, length=9)
    score_N = torch.randn(23, generator=torch.Generator().manual_seed(0))
    ranked = rank_targets(Fixed(score_N), dataset, dataset.test_event_Q, max_len=3, block=block, k=5)
    for row, event in enumerate(dataset.test_event_Q):
        begin = dataset.user_offset_U1[dataset.user_of_event(np.array([event]))[0]]
        seen = set(dataset.event_item_E[begin:event].tolist())
        order = sorted((t for t in range(FIRST_ITEM, 23) if t not in seen), key=lambda t: -float(score_N[t]))
        assert ranked.rank_Q[row] == 1 + order.index(int(dataset.event_item_E[event]))
        assert ranked.top_QK[row].tolist() == order[:5]


def test_equal_scores_gain_nothing() -> None:
    dataset = noise_dataset(users=40, items=21, length=3)
    ranked = rank_targets(Fixed(torch.zeros(24)), dataset, dataset.test_event_Q, max_len=3)
    assert set(ranked.rank_Q.tolist()) == {10}  # 19 candidates, the target in their middle


def test_a_target_outside_the_vocabulary_is_a_miss() -> None:
    dataset = noise_dataset(users=5)
    dataset.event_item_E[dataset.test_event_Q[0]] = 2
    ranked = rank_targets(Fixed(torch.arange(33.0)), dataset, dataset.test_event_Q, max_len=3)
    assert ranked.rank_Q[0] == OUTSIDE
    assert ndcg(ranked.rank_Q[:1], k=10) == 0.0


def test_ndcg_by_hand() -> None:
    assert ndcg(np.array([1, 3, 11]), k=10) == pytest.approx((1 + 0.5 + 0) / 3)
    assert np.isnan(ndcg(np.array([], dtype=np.int64), k=10))
