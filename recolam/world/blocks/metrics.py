"""Metrics: what a story counts (RecSim NG: `applications/*/metrics.py`). At step t they have counted steps before t.

Shape legend: B users, K slate, N documents.
"""

import torch
from recsim_ng.core.value import Value

from recolam.world.runtime import TensorSpec


class ConsumedTimeAsRewardMetrics:
    """`reward`, the time consumed (0 where it is negative: no choice), and `cumulative_reward`; float [B]."""

    def __init__(self, *, num_users: int, device: torch.device | str = "cpu") -> None:
        self._zero_B = torch.zeros(num_users, device=device)

    def initial_metrics(self) -> Value:
        return Value(reward=self._zero_B, cumulative_reward=self._zero_B)

    def next_metrics(
        self, previous_metrics: Value, corpus_state: Value, user_state: Value, user_response: Value, slate_docs: Value
    ) -> Value:
        reward_B = user_response.get("consumed_time").clamp(min=0.0)
        return Value(reward=reward_B, cumulative_reward=previous_metrics.get("cumulative_reward") + reward_B)

    def specs(self) -> Value:
        return Value(state=Value(reward=TensorSpec(), cumulative_reward=TensorSpec()))


class CoverageMetrics:
    """`is_shown`, bool [B, N]: the documents each user has been shown; `coverage`, their share of the corpus, [B].

    The corpus's documents must keep their places (`doc_ranks`).
    """

    def __init__(self, *, num_users: int, num_docs: int, device: torch.device | str = "cpu") -> None:
        self._none_BN = torch.zeros(num_users, num_docs, dtype=torch.bool, device=device)

    def initial_metrics(self) -> Value:
        return Value(is_shown=self._none_BN, coverage=self._none_BN.float().mean(dim=1))

    def next_metrics(
        self, previous_metrics: Value, corpus_state: Value, user_state: Value, user_response: Value, slate_docs: Value
    ) -> Value:
        is_shown_BN = previous_metrics.get("is_shown").scatter(1, slate_docs.get("doc_ranks"), True)
        return Value(is_shown=is_shown_BN, coverage=is_shown_BN.float().mean(dim=1))

    def specs(self) -> Value:
        documents = self._none_BN.shape[1]
        return Value(state=Value(is_shown=TensorSpec(shape=(documents,), dtype=torch.bool), coverage=TensorSpec()))
