"""Recommending from a policy folder: item ids in, item ids out. What serving and the command line call."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from recolam.contracts.dataset import FIRST_ITEM, UNKNOWN
from recolam.contracts.protocols import Observation
from recolam.errors import DataError
from recolam.policy.agent import SlateAgent


@dataclass(frozen=True)
class Recommendation:
    """A slate, best first, with the policy's scores; `unknown` counts history items outside the vocabulary."""

    slate: list[str]
    scores: list[float]
    unknown: int


class Recommender:
    """The most probable slate of a policy for each history."""

    def __init__(self, agent: SlateAgent) -> None:
        self._agent = agent
        self._token_of = {item: FIRST_ITEM + row for row, item in enumerate(agent.items)}

    @classmethod
    def load(cls, folder: Path) -> "Recommender":
        return cls(SlateAgent.load(folder))

    @property
    def items(self) -> tuple[str, ...]:
        return self._agent.items

    @property
    def slate_size(self) -> int:
        return int(self._agent.settings["slate_size"])

    def recommend(
        self,
        histories: Sequence[Sequence[str]],
        *,
        k: Sequence[int] | int = 10,
        exclude: Sequence[Sequence[str]] | None = None,
    ) -> list[Recommendation]:
        """One slate of k different items per history (oldest item first), none of them seen or excluded.

        Items that the model does not know are shown to it as unknown and counted. A slate has fewer than k items
        only where the catalogue has no more to offer.

        Raises:
            DataError: a k below 1, or lists of different lengths.
        """
        sizes = [k] * len(histories) if isinstance(k, int) else list(k)
        excluded = exclude if exclude is not None else [[] for _ in histories]
        if not len(histories) == len(sizes) == len(excluded):
            raise DataError(f"{len(histories)} histories, {len(sizes)} sizes and {len(excluded)} exclusions")
        if sizes and min(sizes) < 1:
            raise DataError(f"k is {min(sizes)}, below 1")
        answers: list[Recommendation] = []
        for begin in range(0, len(histories), 256):
            part = slice(begin, begin + 256)
            answers += self._recommend_block(histories[part], sizes[part], excluded[part])
        return answers

    @torch.no_grad()
    def _recommend_block(
        self, histories: Sequence[Sequence[str]], sizes: Sequence[int], excluded: Sequence[Sequence[str]]
    ) -> list[Recommendation]:
        model = self._agent.model
        tokens = [[self._token_of.get(str(item), UNKNOWN) for item in history] for history in histories]
        recent = [row[-model.config.max_len :] for row in tokens]
        length_B = torch.tensor([len(row) for row in recent])
        history_BT = torch.zeros(len(recent), max(1, int(length_B.max())), dtype=torch.int64)
        for index, row in enumerate(recent):
            history_BT[index, : len(row)] = torch.tensor(row, dtype=torch.int64)
        score_BN = self._agent.slate_scores(Observation(history_BT, length_B))
        answers = []
        for index, (row, size, banned) in enumerate(zip(tokens, sizes, excluded, strict=True)):
            score_N = score_BN[index]
            barred = row + [self._token_of[str(item)] for item in banned if str(item) in self._token_of]
            score_N[torch.tensor(barred, dtype=torch.int64)] = -torch.inf
            top = score_N.topk(min(size, int(torch.isfinite(score_N).sum())))
            answers.append(
                Recommendation(
                    slate=[self.items[token - FIRST_ITEM] for token in top.indices.tolist()],
                    scores=top.values.tolist(),
                    unknown=row.count(UNKNOWN),
                )
            )
        return answers
