"""Recommending from a policy folder: item ids in, item ids out. What serving and the command line call."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from recolam.contracts.dataset import FIRST_ITEM, UNKNOWN
from recolam.contracts.protocols import Observation
from recolam.errors import DataError
from recolam.policy.agent import SlateAgent
from recolam.policy.constraints import NoSuchSlate
from recolam.policy.distribution import SlateDistribution
from recolam.seeding import torch_generator


@dataclass(frozen=True)
class Recommendation:
    """A slate with the policy's scores, best first but for what constraints put elsewhere.

    Attributes:
        unknown: how many history items are outside the vocabulary.
        log_propensity: log-probability with which just this slate was shown: 0 for the most probable one, which is not
            drawn. Logged with the slate, it is what off-policy estimates divide by.
        problem: why the slate is empty, where no slate keeps the policy's constraints; "" otherwise.
    """

    slate: list[str]
    scores: list[float]
    unknown: int
    log_propensity: float = 0.0
    problem: str = ""


class Recommender:
    """Slates of a policy for histories: the most probable ones, or ones drawn from the policy."""

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
    def is_constrained(self) -> bool:
        """Whether there can be a `Recommendation.problem`."""
        return self._agent.constraints is not None

    @property
    def slate_size(self) -> int:
        return int(self._agent.settings["slate_size"])

    def recommend(
        self,
        histories: Sequence[Sequence[str]],
        *,
        k: Sequence[int] | int = 10,
        exclude: Sequence[Sequence[str]] | None = None,
        seeds: Sequence[int | None] | None = None,
    ) -> list[Recommendation]:
        """One slate of k different items per history (oldest item first), none of them seen or excluded.

        Items that the model does not know are shown to it as unknown and counted. A slate has fewer than k items
        only where the catalogue has no more to offer. A policy with constraints beyond blocked items keeps them in
        slates of just k items: where none does, the slate is empty and `problem` says why; other rows are not touched
        by it. Fixed items are shown to those, too, who had them; excluded they are a problem. Positions that are fixed
        behind k are not shown.

        Args:
            seeds: draw a row's slate from the policy with this seed, whatever other rows are asked with it; None for
                the most probable slate.

        Raises:
            DataError: a k below 1, or lists of different lengths.
        """
        sizes = [k] * len(histories) if isinstance(k, int) else list(k)
        excluded = exclude if exclude is not None else [[] for _ in histories]
        drawn = list(seeds) if seeds is not None else [None for _ in histories]
        if not len(histories) == len(sizes) == len(excluded) == len(drawn):
            counts = f"{len(sizes)} sizes, {len(excluded)} exclusions and {len(drawn)} seeds"
            raise DataError(f"{len(histories)} histories, {counts}")
        if sizes and min(sizes) < 1:
            raise DataError(f"k is {min(sizes)}, below 1")
        answers: list[Recommendation] = []
        for begin in range(0, len(histories), 256):
            part = slice(begin, begin + 256)
            answers += self._recommend_block(histories[part], sizes[part], excluded[part], drawn[part])
        return answers

    @torch.no_grad()
    def _recommend_block(
        self,
        histories: Sequence[Sequence[str]],
        sizes: Sequence[int],
        excluded: Sequence[Sequence[str]],
        seeds: Sequence[int | None],
    ) -> list[Recommendation]:
        model, rules = self._agent.model, self._agent.constraints
        fixed = set() if rules is None else set(rules.fixed.values())
        tokens = [[self._token_of.get(str(item), UNKNOWN) for item in history] for history in histories]
        recent = [row[-model.config.max_len :] for row in tokens]
        length_B = torch.tensor([len(row) for row in recent])
        history_BT = torch.zeros(len(recent), max(1, int(length_B.max())), dtype=torch.int64)
        for index, row in enumerate(recent):
            history_BT[index, : len(row)] = torch.tensor(row, dtype=torch.int64)
        barred = [
            [token for token in row if token not in fixed]
            + [self._token_of[str(item)] for item in banned if str(item) in self._token_of]
            for row, banned in zip(tokens, excluded, strict=True)
        ]
        barred_BX = torch.zeros(len(barred), max(1, *map(len, barred)), dtype=torch.int64)
        for index, row in enumerate(barred):
            barred_BX[index, : len(row)] = torch.tensor(row, dtype=torch.int64)
        distribution = self._agent.distribution(Observation(history_BT, length_B), excluded_BX=barred_BX)
        return [
            self._answer(distribution.rows(torch.tensor([index])), size, seed, unknown=row.count(UNKNOWN))
            for index, (row, size, seed) in enumerate(zip(tokens, sizes, seeds, strict=True))
        ]

    def _answer(self, distribution: SlateDistribution, size: int, seed: int | None, *, unknown: int) -> Recommendation:
        """A slate of a distribution of one row."""
        rules = distribution.constraints
        if rules is None or rules.is_only_blocking:
            size = min(size, int(torch.isfinite(distribution.first_scores(size)).sum()))
        generator = None if seed is None else torch_generator(seed, "recommend")
        try:
            slate_1K = distribution.sample(size, generator)
        except NoSuchSlate as error:
            return Recommendation([], [], unknown, problem=error.reason)
        slate = [self.items[token - FIRST_ITEM] for token in slate_1K[0].tolist()]
        log_propensity = 0.0 if seed is None else float(distribution.position_log_probs(slate_1K).sum())
        return Recommendation(slate, distribution.scores_of(slate_1K)[0].tolist(), unknown, log_propensity)
