"""Time-aware models: what each mode reads, and what it never reads."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from recolam.contracts.dataset import TokenisedDataset
from recolam.errors import ConfigError
from recolam.pretrain.stage import PretrainConfig, new_model
from recolam.sequence.config import TrainingConfig
from recolam.sequence.model import SequenceConfig, SequenceModel
from recolam.sequence.ranking import ndcg, rank_targets
from recolam.sequence.times import BUCKETS, TimeMode, gap_buckets
from recolam.sequence.training import train_sequence_model
from tests.planted import noise_dataset


def model(time: TimeMode) -> SequenceModel:
    torch.manual_seed(0)
    made = SequenceModel(SequenceConfig(tokens=20, max_len=6, width=16, blocks=1, heads=2, time=time)).eval()
    for name, parameter in made.named_parameters():
        if "gap" in name:
            torch.nn.init.normal_(parameter)
    return made


def test_buckets_by_hand() -> None:
    before, after = gap_buckets(torch.tensor([[100, 100, 103, 103 + 10**9, 0]]))
    assert before.tolist() == [[0, 0, 1, 1 + 4, 1 + 59]]  # gaps 0, 3 (2 log2 4 = 4), 10^9 (59.8)
    assert after.tolist() == [[0, 1, 5, 60, 1]]  # a clock that runs backwards counts as no time at all
    assert int(after.max()) < BUCKETS


def test_gaps_are_read_and_the_query_time_is_not() -> None:
    history, length = torch.randint(3, 20, (2, 5)), torch.tensor([5, 3])
    time = torch.arange(6)[None].expand(2, -1) * 3600
    later = time.clone()
    later[0, 5], later[1, 3] = 10**8, 10**8
    earlier = time - torch.tensor([10**6, 0, 0, 0, 0, 0])
    gaps, query = model("gaps"), model("query")
    assert torch.equal(gaps.scores(history, length, time), gaps.scores(history, length, later))
    assert not torch.allclose(gaps.scores(history, length, time), gaps.scores(history, length, earlier))
    assert not torch.allclose(query.scores(history, length, time), query.scores(history, length, later))
    # The gap before an item never reaches the states before it, the query's not even those before the last.
    states = [gaps(history, time_BS=t) for t in (time, time + torch.tensor([0, 0, 0, 500, 500, 500]))]
    assert torch.equal(states[0][:, :4], states[1][:, :4])
    assert not torch.allclose(states[0][:, 4], states[1][:, 4])


def test_of_a_long_history_the_newest_times_count() -> None:
    history, length = torch.randint(3, 20, (2, 9)), torch.tensor([9, 4])
    time = (torch.rand(2, 10).cumsum(1) * 10_000).long()
    made = model("query")
    score = made.scores(history, length, time)
    alone = made.scores(history[:1, 3:], torch.tensor([6]), time[:1, 3:])
    torch.testing.assert_close(score[:1, 3:], alone[:, 3:])
    torch.testing.assert_close(score[1:, 3:], made.scores(history[1:, :4], torch.tensor([4]), time[1:, :5])[:, 3:])


def timed_dataset() -> TokenisedDataset:
    """The gap before an item tells which half of the catalogue it is from."""
    dataset = noise_dataset(users=200, items=12, length=10)
    token = dataset.event_item_E.copy()
    gap = np.where(np.arange(len(token)) % 2 == 0, 10, 100_000)
    time = np.cumsum(gap)
    low, high = 3 + np.arange(len(token)) % 6, 9 + np.arange(len(token)) % 6
    draw = np.random.default_rng(0).integers(0, 6, len(token))
    token = np.where(np.roll(gap, 1) == 10, low[draw], high[draw]).astype(np.int32)
    return dataclasses.replace(dataset, event_item_E=token, event_time_E=time.astype(np.int64))


@pytest.mark.parametrize("time", ["gaps", "query"])
def test_time_aware_models_train_and_are_ranked_with_times(tmp_path: Path, time: TimeMode) -> None:
    dataset = timed_dataset()
    training = TrainingConfig(epochs=2, batch_size=32, max_len=10)
    made = new_model(dataset, PretrainConfig(width=16, blocks=1, time=time, training=training), seed=0)
    before = made.gap_vectors.weight.detach().clone()
    state = train_sequence_model(made, dataset, training, seed=0, scratch=tmp_path)
    assert state.epoch == 2
    assert not torch.equal(before, made.gap_vectors.weight)
    rank_Q = rank_targets(made, dataset, dataset.test_event_Q, max_len=10).rank_Q
    moved = dataclasses.replace(dataset, event_time_E=dataset.event_time_E * 7)
    assert not np.array_equal(rank_Q, rank_targets(made, moved, dataset.test_event_Q, max_len=10).rank_Q)
    assert 0 <= ndcg(rank_Q, k=10) <= 1


def test_history_times_are_those_of_the_history_and_the_query() -> None:
    dataset = timed_dataset()
    event_Q = dataset.test_event_Q[:3]
    time = dataset.history_times(event_Q, limit=4)
    _, length = dataset.histories(event_Q, limit=4)
    for row, event in enumerate(event_Q):
        n = int(length[row])
        assert time[row, : n + 1].tolist() == dataset.event_time_E[event - n : event + 1].tolist()


def test_missing_times_and_unknown_modes_are_refused() -> None:
    with pytest.raises(ValueError, match="needs the times"):
        model("gaps").scores(torch.tensor([[3]]), torch.tensor([1]))
    with pytest.raises(ConfigError, match="'soon' is not one of none, gaps, query"):
        SequenceModel(SequenceConfig(time="soon"))
