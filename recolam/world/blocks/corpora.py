"""Corpora: which documents there are (RecSim NG: `applications/*/corpus.py`).

All users share a corpus, so its fields have a batch of one: [1, N, ...].

Shape legend: B users, K slate, N documents, Z topics, P providers.
"""

import torch
from recsim_ng.core.value import Value
from torch import Tensor
from torch.nn.functional import one_hot

from recolam.world.blocks.choices import get_chosen
from recolam.world.blocks.distributions import Categorical, Normal
from recolam.world.documents import FEATURE_DEVIATION, QUALITY_DEVIATION, mean_qualities
from recolam.world.random_fields import Distribution, Given
from recolam.world.runtime import TensorSpec


class StaticCorpus:
    """The same documents for ever.

    Args:
        documents: tensors [1, N, ...].

    Raises:
        ValueError: fields that are no such tensors, or of different sizes.
    """

    def __init__(self, documents: Value) -> None:
        shapes = {name: tuple(getattr(field, "shape", ())) for name, field in documents.as_dict.items()}
        if not shapes or any(len(shape) < 2 or shape[0] != 1 for shape in shapes.values()):
            raise ValueError(f"documents are tensors [1, documents, ...], not {shapes}")
        if len({shape[1] for shape in shapes.values()}) > 1:
            raise ValueError(f"fields for different numbers of documents: {shapes}")
        self._documents = documents

    def initial_state(self) -> Value:
        return self._documents

    def next_state(self, previous_state: Value, user_response: Value, slate_docs: Value) -> Value:
        return previous_state

    def available_documents(self, corpus_state: Value) -> Value:
        return corpus_state

    def specs(self) -> Value:
        return _both(self._documents.map(lambda field: TensorSpec(shape=tuple(field.shape[1:]), dtype=field.dtype)))


class CorpusWithTopicAndQuality:
    """Documents of one topic each, drawn once; most topics are trashy.

    The first 70 % of the topics (rounded down) have mean qualities from `topic_min_utility` to 0 in equal steps, the
    others from 0 to `topic_max_utility`; a single topic takes its range's first value.

        topic ~ uniform    quality ~ N(mean_topic, 0.1^2)    features ~ N(one-hot topic, 0.7^2)    length constant

    Args:
        num_docs, num_topics: N and Z.

    Raises:
        ValueError: no document or no topic.
    """

    def __init__(
        self,
        *,
        num_docs: int,
        num_topics: int,
        topic_min_utility: float = -1.0,
        topic_max_utility: float = 1.0,
        video_length: float = 2.0,
    ) -> None:
        if num_docs < 1 or num_topics < 1:
            raise ValueError(f"{num_docs} documents of {num_topics} topics")
        self._docs, self._topics, self._length = num_docs, num_topics, video_length
        self.topic_quality_means = mean_qualities(num_topics, lowest=topic_min_utility, highest=topic_max_utility)

    def initial_state(self) -> Value:
        return Value(
            doc_id=torch.arange(1, self._docs + 1)[None],  # 0 is the null document
            doc_topic=Categorical(torch.zeros(1, self._docs, self._topics)),
            doc_quality=Given(self._quality, ("doc_topic",)),
            doc_features=Given(self._features, ("doc_topic",)),
            doc_length=torch.full((1, self._docs), self._length),
        )

    def next_state(self, previous_state: Value, user_response: Value, slate_docs: Value) -> Value:
        return previous_state

    def available_documents(self, corpus_state: Value) -> Value:
        return corpus_state

    def specs(self) -> Value:
        return _both(
            Value(
                doc_id=TensorSpec(shape=(self._docs,), dtype=torch.int64),
                doc_topic=TensorSpec(shape=(self._docs,), dtype=torch.int64),
                doc_quality=TensorSpec(shape=(self._docs,)),
                doc_features=TensorSpec(shape=(self._docs, self._topics)),
                doc_length=TensorSpec(shape=(self._docs,)),
            )
        )

    def _quality(self, topic_1N: Tensor) -> Distribution:
        return Normal(self.topic_quality_means[topic_1N], QUALITY_DEVIATION)

    def _features(self, topic_1N: Tensor) -> Distribution:
        return Normal(one_hot(topic_1N, self._topics).float(), FEATURE_DEVIATION)


class ViableCorpus:
    """Providers live on clicks: the more a provider had lately, the more of the next documents are its own.

        P(provider of a document = p) ~ (1 + clicks_p)^gamma        features ~ N(mean_p, provider_stddev^2)
        clicks' = discount * clicks + clicks of this step, over all users

    The documents are drawn anew at each step (Mladenov et al. 2020, https://arxiv.org/abs/2008.00104; RecSim NG's
    ecosystem story).

    Args:
        num_docs: N.
        provider_means: float [P, Z].

    Raises:
        ValueError: no document, means that are no matrix, a discount outside of [0, 1], a deviation not above 0.
    """

    def __init__(
        self,
        *,
        num_docs: int,
        provider_means: Tensor,
        gamma: float = 2.0,
        discount: float = 0.96,
        provider_stddev: float = 1.0,
    ) -> None:
        if num_docs < 1 or provider_means.ndim != 2:
            raise ValueError(f"{num_docs} documents of providers with means {tuple(provider_means.shape)}")
        if not 0 <= discount <= 1 or provider_stddev <= 0:
            raise ValueError(f"discount {discount} is not in [0, 1] or provider_stddev {provider_stddev} not above 0")
        self._docs, self._mean_PZ = num_docs, provider_means
        self._gamma, self._discount, self._deviation = gamma, discount, provider_stddev

    def initial_state(self) -> Value:
        return Value(provider_click_count=torch.zeros(1, len(self._mean_PZ), device=self._mean_PZ.device))

    def next_state(self, previous_state: Value, user_response: Value, slate_docs: Value) -> Value:
        chosen = get_chosen(slate_docs.at("provider_id"), user_response.get("choice"))
        provider_B = chosen.get("provider_id")
        # Row 0 collects those who chose nothing, whose provider is -1.
        clicks_P = torch.bincount(provider_B + 1, minlength=1 + len(self._mean_PZ))[1:]
        return Value(provider_click_count=self._discount * previous_state.get("provider_click_count") + clicks_P)

    def available_documents(self, corpus_state: Value) -> Value:
        logits_1P = self._gamma * torch.log1p(corpus_state.get("provider_click_count"))
        return Value(
            provider_id=Categorical(logits_1P[:, None].expand(-1, self._docs, -1)),
            doc_features=Given(
                lambda provider_1N: Normal(self._mean_PZ[provider_1N], self._deviation), ("provider_id",)
            ),
        )

    def specs(self) -> Value:
        providers, topics = self._mean_PZ.shape
        state = Value(provider_click_count=TensorSpec(shape=(providers,)))
        documents = Value(
            provider_id=TensorSpec(shape=(self._docs,), dtype=torch.int64),
            doc_features=TensorSpec(shape=(self._docs, topics)),
        )
        return Value(state=state, available_docs=documents)


def _both(documents: Value) -> Value:
    return Value(state=documents, available_docs=documents)
