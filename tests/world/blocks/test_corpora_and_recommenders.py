"""Corpora, recommenders and metrics, alone."""

import itertools

import numpy as np
import pytest
import torch
from scipy import stats

from recolam.world.blocks.corpora import CorpusWithTopicAndQuality, StaticCorpus, ViableCorpus
from recolam.world.blocks.metrics import ConsumedTimeAsRewardMetrics, CoverageMetrics
from recolam.world.blocks.recommenders import CollabFilteringRecommender, GreedyRecommender, RandomRecommender
from recolam.world.random_fields import draw
from recolam.world.runtime import TensorSpec, Value


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_topics_qualities_and_features_follow_their_distributions() -> None:
    """7 of 10 topics are trashy; qualities and features are normal around their topic's (KS, 0.001)."""
    corpus = CorpusWithTopicAndQuality(num_docs=5_000, num_topics=10)
    means = [-1 + t / 6 for t in range(7)] + [0.0, 0.5, 1.0]
    assert corpus.topic_quality_means.tolist() == pytest.approx(means, abs=1e-6)
    documents = draw(corpus.initial_state(), seeded(0))
    topic_N = documents.get("doc_topic")[0]
    assert stats.chisquare(np.bincount(topic_N, minlength=10)).pvalue > 0.001
    noise_N = (documents.get("doc_quality")[0] - torch.tensor(means)[topic_N]) / 0.1
    assert stats.kstest(noise_N.numpy(), "norm").pvalue > 0.001
    noise_NZ = (documents.get("doc_features")[0] - torch.eye(10)[topic_N]) / 0.7
    assert stats.kstest(noise_NZ.flatten().numpy(), "norm").pvalue > 0.001
    assert documents.get("doc_id")[0].tolist() == list(range(1, 5_001))
    assert documents.get("doc_length").unique().tolist() == [2.0]
    assert CorpusWithTopicAndQuality(num_docs=1, num_topics=2).topic_quality_means.tolist() == [-1.0, 0.0]


def test_static_corpora_are_made_of_documents() -> None:
    documents = draw(CorpusWithTopicAndQuality(num_docs=4, num_topics=2).initial_state(), seeded(0))
    corpus = StaticCorpus(documents)
    assert corpus.specs().get("available_docs.doc_features").invariant() == ((4, 2), torch.float32)
    assert corpus.next_state(documents, Value(), Value()) is documents
    with pytest.raises(ValueError, match=r"not {'quality': \(4,\)}"):
        StaticCorpus(Value(quality=torch.zeros(4)))
    with pytest.raises(ValueError, match="different numbers"):
        StaticCorpus(Value(a=torch.zeros(1, 4), b=torch.zeros(1, 5)))
    with pytest.raises(ValueError, match="0 documents"):
        CorpusWithTopicAndQuality(num_docs=0, num_topics=2)


def test_providers_gain_by_clicks_and_fade_without() -> None:
    means = torch.tensor([[0.0, 0.0], [50.0, 0.0], [0.0, 50.0]])
    corpus = ViableCorpus(num_docs=20_000, provider_means=means, gamma=2.0, discount=0.5)
    state = corpus.initial_state()
    slate = Value(provider_id=torch.tensor([[0, 1], [1, 1], [2, 0], [2, 1]]), doc_features=torch.zeros(4, 2, 2))
    state = corpus.next_state(state, Value(choice=torch.tensor([1, 0, 2, 1])), slate)
    assert state.get("provider_click_count").tolist() == [[0.0, 3.0, 0.0]]
    state = corpus.next_state(state, Value(choice=torch.tensor([0, 2, 2, 2])), slate)
    assert state.get("provider_click_count").tolist() == [[1.0, 1.5, 0.0]]

    documents = draw(corpus.available_documents(state), seeded(1))
    provider_N = documents.get("provider_id")[0]
    weight = np.array([2.0, 2.5, 1.0]) ** 2
    assert stats.chisquare(np.bincount(provider_N, minlength=3), weight / weight.sum() * 20_000).pvalue > 0.001
    noise_NZ = documents.get("doc_features")[0] - means[provider_N]
    assert stats.kstest(noise_NZ.flatten().numpy(), "norm").pvalue > 0.001
    with pytest.raises(ValueError, match="discount 2"):
        ViableCorpus(num_docs=1, provider_means=means, discount=2.0)
    with pytest.raises(ValueError, match="providers with means"):
        ViableCorpus(num_docs=1, provider_means=means[0])


DOCUMENTS = Value(doc_id=torch.arange(1, 5)[None], doc_quality=torch.tensor([[0.1, 0.4, 0.2, 0.3]]))
SPEC = Value(doc_id=TensorSpec(shape=(4,), dtype=torch.int64), doc_quality=TensorSpec(shape=(4,)))


def test_random_slates_are_uniform_over_ordered_pairs_and_carry_their_documents() -> None:
    recommender = RandomRecommender(num_users=12_000, slate_size=2, documents=SPEC)
    slate = draw(recommender.slate_docs(Value(), Value(), DOCUMENTS), seeded(0))
    rank_BK = slate.get("doc_ranks")
    pairs = torch.tensor(list(itertools.permutations(range(4), 2)))
    counts = (rank_BK[:, None] == pairs[None]).all(dim=2).sum(dim=0)
    assert int(counts.sum()) == 12_000
    assert stats.chisquare(counts.numpy()).pvalue > 0.001
    assert torch.equal(slate.get("doc_id"), rank_BK + 1)
    assert torch.equal(slate.get("doc_quality"), DOCUMENTS.get("doc_quality")[0][rank_BK])
    with pytest.raises(ValueError, match="slates of 5 out of 4"):
        RandomRecommender(num_users=1, slate_size=5, documents=SPEC).specs()


def test_greedy_slates_are_the_best_scores_in_order() -> None:
    recommender = GreedyRecommender(
        score=lambda observation, documents: observation.get("taste")[:, None] * documents.get("doc_quality"),
        slate_size=3,
        documents=SPEC,
    )
    slate = draw(recommender.slate_docs(Value(), Value(taste=torch.tensor([1.0, -1.0])), DOCUMENTS), seeded(0))
    assert slate.get("doc_ranks").tolist() == [[1, 3, 2], [0, 2, 3]]
    assert slate.get("doc_id").tolist() == [[2, 4, 3], [1, 3, 4]]


def test_the_collaborative_recommender_remembers_who_chose_what() -> None:
    recommender = CollabFilteringRecommender(
        model=lambda ids_BH, times_BH: torch.zeros(2, 4) + ids_BH.sum(dim=1, keepdim=True) + times_BH[:, :1],
        num_users=2,
        slate_size=2,
        history_length=3,
        documents=SPEC,
    )
    state = recommender.initial_state()
    slate = Value(doc_id=torch.tensor([[3, 1], [2, 4]]), doc_ranks=torch.tensor([[2, 0], [1, 3]]))
    for choice, time in (([1, 2], [0.5, -1.0]), ([0, 1], [0.7, 0.9])):
        response = Value(choice=torch.tensor(choice), consumed_time=torch.tensor(time))
        state = recommender.next_state(state, response, slate)
    assert state.get("doc_history.state").tolist() == [[0, 1, 3], [0, 0, 4]]
    expected = [[0.0, 0.5, 0.7], [0.0, 0.0, 0.9]]
    torch.testing.assert_close(state.get("ctime_history.state"), torch.tensor(expected))


def test_metrics_count_time_and_coverage() -> None:
    times = ConsumedTimeAsRewardMetrics(num_users=2)
    state = times.initial_metrics()
    for time in ([1.5, -1.0], [0.5, 2.0]):
        state = times.next_metrics(state, Value(), Value(), Value(consumed_time=torch.tensor(time)), Value())
    assert state.get("reward").tolist() == [0.5, 2.0]
    assert state.get("cumulative_reward").tolist() == [2.0, 2.0]

    coverage = CoverageMetrics(num_users=2, num_docs=4)
    state = coverage.initial_metrics()
    for ranks in ([[0, 1], [2, 3]], [[1, 3], [2, 3]]):
        state = coverage.next_metrics(state, Value(), Value(), Value(), Value(doc_ranks=torch.tensor(ranks)))
    assert state.get("coverage").tolist() == [0.75, 0.5]
    assert coverage.initial_metrics().get("coverage").tolist() == [0.0, 0.0]
