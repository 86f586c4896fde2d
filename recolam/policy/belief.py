"""A learnt belief about the user, from nothing but what a session showed and what was clicked.

A gated recurrent unit (Cho et al. 2014, https://arxiv.org/abs/1406.1078) reads a session, a slate and its answer at a
time; its state before a slate is the user of `recolam.policy.response`, and both are fitted together, through time, to
the likelihood of the answers. It sees of a step

    sum_k a_k c_k i~_k,   sum_k b_k (1 - c_k) i~_k,   the reward

for the items' vectors i~ and clicks c at positions k; a and b are learnt weights of positions. Before anything was
shown the state is 0, so that the answers' bias is the prior: what users like who are not known.

Shape legend: B sessions, T steps, K slate, V numbers of an item (`described_items`), F numbers of the belief, N token
ids, S answers.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from recolam.contracts.protocols import Sight, SightedEnvironment, StepResult, sight_of
from recolam.policy.response import Answers, ResponseModel


@dataclass(frozen=True)
class Played:
    """Sessions side by side, to the horizon: slate_TBK, is_clicked_TBK, reward_TB, and where there was a step at all.

    Steps that are yet to come, or that came after a session's end, have False in `is_played_TB`.
    """

    slate_TBK: Tensor
    is_clicked_TBK: Tensor
    reward_TB: Tensor
    is_played_TB: Tensor

    @staticmethod
    def nothing(horizon: int, users: int, slate: int) -> "Played":
        shape = (horizon, users, slate)
        slate_TBK, is_clicked_TBK = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.bool)
        return Played(slate_TBK, is_clicked_TBK, torch.zeros(shape[:2]), torch.zeros(shape[:2], dtype=torch.bool))

    def __len__(self) -> int:
        return self.slate_TBK.shape[1]

    def columns(self, index_R: Tensor) -> "Played":
        return Played(*(part[:, index_R] for part in vars(self).values()))

    def begun(self) -> "Played":
        """Without the steps that no session has come to."""
        steps = int(self.is_played_TB.any(dim=1).sum())
        return Played(*(part[:steps] for part in vars(self).values()))

    @staticmethod
    def joined(parts: "list[Played]") -> "Played":
        names = ("slate_TBK", "is_clicked_TBK", "reward_TB", "is_played_TB")
        return Played(*(torch.cat([getattr(part, name) for part in parts], dim=1) for name in names))


class SessionEncoder(nn.Module):
    """Sessions to beliefs.

    Args:
        item_NV: the items.
        width: F.
    """

    item_NV: Tensor

    def __init__(self, item_NV: Tensor, *, slate_size: int, width: int) -> None:
        super().__init__()
        self.register_buffer("item_NV", item_NV, persistent=False)
        self.clicked_K = nn.Parameter(torch.ones(slate_size))
        self.passed_K = nn.Parameter(torch.ones(slate_size))
        self.unit = nn.GRU(2 * item_NV.shape[1] + 1, width)

    def forward(self, played: Played) -> Tensor:
        """The belief before each step and after the last, float [T + 1, B, F]."""
        read_TBD = self._read(played.slate_TBK, played.is_clicked_TBK, played.reward_TB)
        after_TBF, _ = self.unit(read_TBD)
        return torch.cat([torch.zeros_like(after_TBF[:1]), after_TBF])

    def begin(self, users: int) -> Tensor:
        """The belief about users who were shown nothing yet, float [B, F]."""
        return torch.zeros(users, self.unit.hidden_size)

    @torch.no_grad()
    def follow(self, belief_BF: Tensor, slate_BK: Tensor, is_clicked_BK: Tensor, reward_B: Tensor) -> Tensor:
        """The belief after one more step, float [B, F]."""
        read_1BD = self._read(slate_BK, is_clicked_BK, reward_B)[None]
        return self.unit(read_1BD, belief_BF[None])[0][0]

    def _read(self, slate_TBK: Tensor, is_clicked_TBK: Tensor, reward_TB: Tensor) -> Tensor:
        """What is read of steps, float [..., 2 V + 1]."""
        is_clicked, root = is_clicked_TBK.float(), slate_TBK.shape[-1] ** 0.5
        weight = torch.stack([is_clicked * self.clicked_K, (1.0 - is_clicked) * self.passed_K], dim=-2) / root
        return torch.cat([(weight @ self.item_NV[slate_TBK]).flatten(-2), reward_TB[..., None]], dim=-1)


class Believing:
    """A `SightedEnvironment` whose users are what the encoder makes of their sessions; facets stay as they were seen.

    Attributes:
        played: the sessions so far.
    """

    def __init__(self, environment: SightedEnvironment, encoder: SessionEncoder) -> None:
        self.environment, self.encoder, self.horizon = environment, encoder, environment.horizon
        self.feature_NG, self.attribute_NZ = environment.feature_NG, environment.attribute_NZ
        self.tokens, self.slate_size = environment.tokens, environment.slate_size

    def reset(self, *, users: int, seed: int) -> Sight:
        self._sight = self.environment.reset(users=users, seed=seed)
        self.played = Played.nothing(self.horizon, users, self.slate_size)
        self._step, self._is_active_B = 0, torch.ones(users, dtype=torch.bool)
        self._belief_BF = self.encoder.begin(users)
        return self._see()

    def step(self, slate_BK: Tensor) -> StepResult:
        result = self.environment.step(slate_BK)
        answer = (slate_BK, result.is_clicked_BK, result.reward_B)
        if self._step < self.horizon:
            for record, now in zip(vars(self.played).values(), (*answer, self._is_active_B), strict=True):
                record[self._step] = now
        self._step += 1
        self._is_active_B = self._is_active_B & ~result.terminated_B & ~result.truncated_B
        self._belief_BF = self.encoder.follow(self._belief_BF, *answer)
        self._sight = sight_of(result.observation)
        return replace(result, observation=self._see())

    @torch.no_grad()
    def look_again(self) -> Sight:
        """What is seen now, read anew: for when the encoder has changed."""
        if self._step:
            self._belief_BF = self.encoder(self.played.begun())[-1]
        return self._see()

    def _see(self) -> Sight:
        return replace(self._sight, user_BF=self._belief_BF)


class BeliefFit:
    """Fits an encoder and a `ResponseModel` together to sessions, by Adam on minibatches of whole sessions."""

    def __init__(
        self, encoder: SessionEncoder, model: ResponseModel, *, learning_rate: float = 0.01, batch: int = 32
    ) -> None:
        self.encoder, self.model, self.batch = encoder, model, batch
        self._parameters = [*encoder.parameters(), *model.parameters()]
        self.optimizer = torch.optim.Adam(self._parameters, lr=learning_rate, fused=True)

    def steps(self, answers: Played, count: int, generator: torch.Generator) -> float:
        """Takes `count` steps and measures anew what a good item earns; the mean loss."""
        total = 0.0
        for _ in range(count):
            loss = self.model.loss(self._drawn(answers, generator))
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self._parameters, 1.0)
            self.optimizer.step()
            total += float(loss.detach())
        with torch.no_grad():
            self.model.measure(self._drawn(answers, generator).user_SF)
        return total / count

    def _drawn(self, played: Played, generator: torch.Generator) -> Answers:
        """The answers of some sessions, with what was believed before each."""
        drawn = played.columns(torch.randint(len(played), (self.batch,), generator=generator)).begun()
        is_played_TB = drawn.is_played_TB
        return Answers(
            self.encoder(drawn)[:-1][is_played_TB],
            drawn.slate_TBK[is_played_TB],
            drawn.is_clicked_TBK[is_played_TB],
            drawn.reward_TB[is_played_TB],
        )
