"""RecSim NG's documents: a topic each, a quality after the topic, features around the topic; most topics are trashy.

For Z topics (Mladenov et al. 2021, https://arxiv.org/abs/2103.08057, `corpus.CorpusWithTopicAndQuality`):

    topic z     uniform
    mean_z      rises in equal steps from the lowest quality to 0 over the first floor(0.7 Z) topics, from 0 to the
                highest over the others
    quality     ~ Normal(mean_z, 0.1^2)
    features    ~ Normal(one-hot(z), 0.7^2), each of the Z for itself

Shape legend: N token ids, Z topics.
"""

import torch
from torch import Tensor

from recolam.contracts.dataset import FIRST_ITEM
from recolam.seeding import torch_generator
from recolam.world.interest_evolution import Corpus

TRASHY_SHARE = 0.7
QUALITY_DEVIATION, FEATURE_DEVIATION, LENGTH = 0.1, 0.7, 2.0


def mean_qualities(
    topics: int, *, lowest: float = -1.0, highest: float = 1.0, dtype: torch.dtype = torch.float32
) -> Tensor:
    """The mean quality of each topic, float [Z]."""
    trashy = int(topics * TRASHY_SHARE)
    return torch.cat(
        [torch.linspace(lowest, 0.0, trashy, dtype=dtype), torch.linspace(0.0, highest, topics - trashy, dtype=dtype)]
    )


def draw_corpus(
    items: int, *, topics: int, seed: int, feature_deviation: float = FEATURE_DEVIATION
) -> tuple[Corpus, Tensor]:
    """Documents by token id, of one length, and the topic of each (int64 [N])."""
    generator = torch_generator(seed, "corpus")
    topic_N = torch.randint(topics, (FIRST_ITEM + items,), generator=generator)
    noise_NZ = torch.randn(len(topic_N), topics, generator=generator)
    feature_NZ = torch.nn.functional.one_hot(topic_N, topics).float() + feature_deviation * noise_NZ
    noise_N = torch.randn(len(topic_N), generator=generator)
    quality_N = mean_qualities(topics)[topic_N] + QUALITY_DEVIATION * noise_N
    return Corpus(feature_NZ, quality_N, torch.full((len(topic_N),), LENGTH)), topic_N
