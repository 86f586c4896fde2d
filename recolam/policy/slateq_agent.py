"""SlateQ as a baseline: item-level long-term values, learnt off-policy, and slates that add them up.

Each position of a slate is a choice between its item and nothing, examined with probability e_k (`response`), so

    Q(s, A) = Q(s, nothing) + sum_k e_k P(click | s, i_k) (Q(s, i_k) - Q(s, nothing))

and the best slate shows the largest labels P(click) (Q(s, i) - Q(s, nothing)) first. The target is evaluated in the
NEXT state: r + gamma max_A' Q(s', A') (Ie et al. 2019, https://arxiv.org/abs/1905.12767). With one position this is
SlateQ; users who pick at most one item of several are those of `slateq_choice`. Where several positions are clicked,
each is regressed on its own reward and a K-th of what follows: the decomposition then holds if the clicks' effects on
the future add up.

Shape legend: B users, K slate, C candidates, N token ids, P numbers of a state, V of an item, S transitions.
"""

import copy
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recolam.contracts.protocols import Observation, Sight, sight_of
from recolam.policy.decoder import Retrieval
from recolam.policy.response import Answers, ResponseModel
from recolam.policy.slateq import long_term_labels


@dataclass(frozen=True)
class SlateQConfig:
    """Steps of gradient between two segments of play, and how they are taken."""

    gamma: float = 0.9
    width: int = 64
    learning_rate: float = 1e-3
    batch: int = 256
    gradient_steps: int = 60
    target_every: int = 100


@dataclass(frozen=True)
class Transitions:
    """Answers, and what was seen before and after: state_SP, next_SP, next_user_SF, has_left_S."""

    answers: Answers
    state_SP: Tensor
    next_SP: Tensor
    next_user_SF: Tensor
    has_left_S: Tensor

    @property
    def columns(self) -> tuple[Tensor, ...]:
        answers = self.answers
        return (
            answers.user_SF, answers.slate_SK, answers.is_clicked_SK, answers.reward_S,
            self.state_SP, self.next_SP, self.next_user_SF, self.has_left_S,
        )  # fmt: skip

    @staticmethod
    def of(columns: Iterable[Tensor]) -> "Transitions":
        user_SF, slate_SK, is_clicked_SK, reward_S, *rest = columns
        return Transitions(Answers(user_SF, slate_SK, is_clicked_SK, reward_S), *rest)

    def rows(self, index_R: Tensor) -> "Transitions":
        return Transitions.of(column[index_R] for column in self.columns)

    @staticmethod
    def joined(parts: "list[Transitions]") -> "Transitions":
        return Transitions.of(map(torch.cat, zip(*(part.columns for part in parts), strict=True)))


class Replay:
    """All transitions so far, in memory that doubles where it is full: adding copies what is new, reading nothing."""

    def __init__(self) -> None:
        self._columns: tuple[Tensor, ...] = ()
        self._count = 0

    def add(self, transitions: Transitions) -> None:
        begin, self._count = self._count, self._count + len(transitions.answers)
        if begin == 0:
            self._columns = tuple(column.clone() for column in transitions.columns)
            return
        if self._count > len(self._columns[0]):
            size = max(self._count, 2 * len(self._columns[0]))
            old, self._columns = self._columns, tuple(c.new_empty((size, *c.shape[1:])) for c in self._columns)
            for column, before in zip(self._columns, old, strict=True):
                column[:begin] = before[:begin]
        for column, new in zip(self._columns, transitions.columns, strict=True):
            column[begin : self._count] = new

    @property
    def transitions(self) -> Transitions:
        return Transitions.of(column[: self._count] for column in self._columns)


class ItemValues(nn.Module):
    """Q(s, nothing), and Q(s, i) = Q(s, nothing) + w(s)' i~, with w and Q(s, nothing) from one network of the state.

    What an item adds is learnt apart from what the state is worth, which is larger by far where gamma is near 1 (Wang
    et al. 2016, https://arxiv.org/abs/1511.06581), and the network runs once a state, not once an item.
    """

    def __init__(self, state_size: int, item_size: int, *, width: int) -> None:
        super().__init__()
        self.state = nn.Sequential(nn.Linear(state_size, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.nothing = nn.Linear(width, 1)
        self.gain = nn.Linear(width, item_size)

    def forward(self, state_BP: Tensor, item_BJV: Tensor) -> tuple[Tensor, Tensor]:
        """Q(s, i) float [B, J], Q(s, nothing) float [B]."""
        state_BD = self.state(state_BP)
        nothing_B, weight_BV = self.nothing(state_BD)[:, 0], self.gain(state_BD)
        return nothing_B[:, None] + (item_BJV @ weight_BV[..., None])[..., 0], nothing_B


class SlateQAgent(nn.Module):
    """A `SlatePolicy` over `Sight`s.

    Args:
        response: the click model, which somebody else fits; its items are the catalogue.
        state_size: P, the numbers of `state_of`.
    """

    def __init__(
        self, response: ResponseModel, attribute_NZ: Tensor, config: SlateQConfig, *, state_size: int, slate_size: int
    ) -> None:
        super().__init__()
        self.response, self.config, self.slate_size = response, config, slate_size
        self.retrieval = Retrieval.of(attribute_NZ, slate_size=slate_size)
        self.values = ItemValues(state_size, response.item_NV.shape[1], width=config.width)
        self.target = copy.deepcopy(self.values).requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.values.parameters(), lr=config.learning_rate)
        self._updates = 0

    @torch.no_grad()
    def slates(self, observation: Observation, *, k: int, generator: torch.Generator | None) -> Tensor:
        """Token ids [B, k], the greedy slate; this policy does not explore by itself."""
        sight = sight_of(observation)
        candidate_BC, label_BC, _ = self._labels(self.values, state_of(sight), sight.user_BF)
        return candidate_BC.gather(1, label_BC.topk(k, dim=1).indices)

    @torch.no_grad()
    def scores(self, observation: Observation) -> Tensor:
        """Labels of candidates, and below them all other items by their expected reward; float [B, N].

        The first of them make the greedy slate; who may not show these finds what comes next.
        """
        sight = sight_of(observation)
        candidate_BC, label_BC, _ = self._labels(self.values, state_of(sight), sight.user_BF)
        expected_BN = self.response.expected(sight.user_BF)
        behind_BN = label_BC.amin(dim=1, keepdim=True) - 1.0 - (expected_BN.amax(dim=1, keepdim=True) - expected_BN)
        return behind_BN.scatter(1, candidate_BC, label_BC)

    def learn(self, transitions: Transitions, generator: torch.Generator) -> None:
        """Takes the configured number of gradient steps."""
        for _ in range(self.config.gradient_steps):
            index_R = torch.randint(len(transitions.answers), (self.config.batch,), generator=generator)
            loss = self.loss(transitions.rows(index_R))
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self._updates += 1
            if self._updates % self.config.target_every == 0:
                self.target.load_state_dict(self.values.state_dict())

    def loss(self, transitions: Transitions) -> Tensor:
        """Mean squared error of the value of what each position came to: its item, or nothing."""
        answers, is_clicked_RK = transitions.answers, transitions.answers.is_clicked_SK
        value_RK, nothing_R = self._values(self.values, transitions.state_SP, answers.slate_SK)
        with torch.no_grad():
            following_R = self.state_value(transitions.next_SP, transitions.next_user_SF)
            following_R = following_R.masked_fill(transitions.has_left_S, 0.0)
            each_R = answers.reward_S / self.response.reward_scale / is_clicked_RK.sum(dim=1).clamp(min=1)
            share_R1 = self.config.gamma * following_R[:, None] / self.slate_size
            target_RK = is_clicked_RK * each_R[:, None] + share_R1
        chosen_RK = torch.where(is_clicked_RK, value_RK, nothing_R[:, None])
        return (chosen_RK - target_RK).square().mean()

    @torch.no_grad()
    def state_value(self, state_BP: Tensor, user_BF: Tensor) -> Tensor:
        """max_A Q(s, A) under the target network, summed over positions; float [B]."""
        _, label_BC, nothing_B = self._labels(self.target, state_BP, user_BF)
        best_BK = label_BC.topk(self.slate_size, dim=1).values
        return self.slate_size * nothing_B + (best_BK * self.response.examination_K).sum(dim=1)

    def _labels(self, values: ItemValues, state_BP: Tensor, user_BF: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        candidate_BC = self.retrieval.candidates(self.response.expected(user_BF))
        click_BC = self.response.click_chance(user_BF).gather(1, candidate_BC)
        value_BC, nothing_B = self._values(values, state_BP, candidate_BC)
        return candidate_BC, long_term_labels(click_BC, value_BC, nothing_B), nothing_B

    def _values(self, values: ItemValues, state_BP: Tensor, item_BJ: Tensor) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] = values(state_BP, self.response.item_NV[item_BJ])
        return found


def state_of(sight: Sight) -> Tensor:
    """Everything seen of a user as one row, float [B, P]."""
    return torch.cat([sight.user_BF, sight.facet_BZX.flatten(1)], dim=1)
