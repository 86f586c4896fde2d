"""Finite worlds of slates: a user with finitely many states chooses one item of a slate, or none, and moves on.

Logs are drawn from them, rewards are learnt in them (`recolam.world.inverse_rl`), and slates planned exactly.
Shape legend: S states, N items, A actions (the items, then "none" where it is allowed), Z next states, L slates,
K slate, R rows of a log.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import torch
from torch import Tensor

from recolam.world.soft_planning import Menus, check_transition


@dataclass(frozen=True)
class SlateChoices:
    """Rows of a log: the state (its index), the items shown, the position chosen (-1 for none).

    Attributes:
        state_R, slate_RK, choice_R: int64.
        log_shown_RK: log-probability that a drawn candidate was among the candidates, taken off its score (as
            `fitting.Answers` has it); None where slates are real.
    """

    state_R: Tensor
    slate_RK: Tensor
    choice_R: Tensor
    log_shown_RK: Tensor | None = None

    def __len__(self) -> int:
        return len(self.choice_R)

    def rows(self, index: Tensor) -> "SlateChoices":
        log_shown_RK = None if self.log_shown_RK is None else self.log_shown_RK[index]
        return SlateChoices(self.state_R[index], self.slate_RK[index], self.choice_R[index], log_shown_RK)


@dataclass(frozen=True)
class SlateWorld:
    """The dynamics of the user's state, and the slates that he is used to.

    Attributes:
        transition_SAZ: float [S, A, S]; A = N + 1 if `has_none`, the last action being none, else N. Rows may sum to
            less than 1: the rest leaves.
        slate_LK: every slate that can be shown, int64 [L, K].
        weight_SL: probability of each slate under the logging policy, [S or 1, L]; users foresee these slates.
        discount: in [0, 1).

    Raises:
        ValueError: any of these out of range.
    """

    transition_SAZ: Tensor
    slate_LK: Tensor
    weight_SL: Tensor
    discount: float
    has_none: bool

    def __post_init__(self) -> None:
        check_transition(self.transition_SAZ)
        if not 0.0 <= self.discount < 1.0:
            raise ValueError(f"discount is {self.discount}, outside [0, 1)")
        if int(self.slate_LK.min()) < 0 or int(self.slate_LK.max()) >= self.items:
            raise ValueError(f"slates name items outside 0 to {self.items - 1}")
        ordered_LK = self.slate_LK.sort(dim=1).values
        if bool((ordered_LK[:, 1:] == ordered_LK[:, :-1]).any()):
            raise ValueError("a slate shows an item twice")
        if self.weight_SL.shape not in ((self.states, len(self.slate_LK)), (1, len(self.slate_LK))):
            raise ValueError(f"slate weights of shape {tuple(self.weight_SL.shape)} for {len(self.slate_LK)} slates")

    @property
    def states(self) -> int:
        return self.transition_SAZ.shape[0]

    @property
    def items(self) -> int:
        return self.transition_SAZ.shape[1] - self.has_none

    @cached_property
    def action_LC(self) -> Tensor:
        """The actions that each slate allows: its items and, where allowed, none; int64 [L, C]."""
        if not self.has_none:
            return self.slate_LK
        return torch.cat([self.slate_LK, torch.full_like(self.slate_LK[:, :1], self.items)], dim=1)

    @cached_property
    def menus(self) -> Menus:
        actions = self.transition_SAZ.shape[1]
        is_offered_LA = torch.zeros(len(self.slate_LK), actions, dtype=torch.bool, device=self.slate_LK.device)
        return Menus(is_offered_LA.scatter(1, self.action_LC, True)[None], self.weight_SL)

    def with_none(self, reward_SN: Tensor) -> Tensor:
        """Rewards of actions [S, A] from those of items: choosing none earns 0."""
        return torch.nn.functional.pad(reward_SN, (0, int(self.has_none)))


def all_slates(items: int, *, k: int) -> Tensor:
    """Every set of k items, int64 [L, K]."""
    return torch.tensor(list(combinations(range(items), k)))


@dataclass(frozen=True)
class SlateProblem:
    """The Markov decision process of who chooses slates for users whose choices follow the scores `q_SA`.

    The users go on choosing by the scores they had under the logging policy, whatever slates they now meet: they do
    not foresee the new slates. `reward_SA` and `q_SA` may come from different sources (a true reward, learnt choices).
    """

    world: SlateWorld
    q_SA: Tensor
    reward_SA: Tensor

    @cached_property
    def choice_SLC(self) -> Tensor:
        return torch.softmax(self.q_SA[:, self.world.action_LC], dim=2)

    @cached_property
    def reward_SL(self) -> Tensor:
        return (self.choice_SLC * self.reward_SA[:, self.world.action_LC]).sum(dim=2)

    @cached_property
    def transition_SLZ(self) -> Tensor:
        moved_SLCZ = self.world.transition_SAZ.to(self.q_SA.dtype)[:, self.world.action_LC]
        return torch.einsum("slc,slcz->slz", self.choice_SLC, moved_SLCZ)

    def best_slates(self, *, discount: float | None = None) -> Tensor:
        """The slate of largest discounted return in each state, by policy iteration; index into slate_LK, int64 [S].

        Args:
            discount: the world's by default; 0 plans greedily.
        """
        factor = self.world.discount if discount is None else discount
        best_S = self.reward_SL.argmax(dim=1)
        while True:
            value_S = self._values(best_S, factor)
            gain_SL = self.reward_SL + factor * self.transition_SLZ @ value_S
            is_better_S = gain_SL.amax(dim=1) > gain_SL.gather(1, best_S[:, None])[:, 0] + 1e-9
            if not bool(is_better_S.any()):
                return best_S
            best_S = gain_SL.argmax(dim=1).where(is_better_S, best_S)

    def values(self, slate_S: Tensor) -> Tensor:
        """Discounted return from each state if slate `slate_S` is shown there, float [S]."""
        return self._values(slate_S, self.world.discount)

    def values_of_logging(self) -> Tensor:
        """Discounted return from each state under the logging policy, float [S]."""
        weight_SL = self.world.weight_SL.to(self.q_SA.dtype).expand(self.world.states, -1)
        moved_SZ = torch.einsum("sl,slz->sz", weight_SL, self.transition_SLZ)
        return _solve(moved_SZ, (weight_SL * self.reward_SL).sum(dim=1), self.world.discount)

    def _values(self, slate_S: Tensor, discount: float) -> Tensor:
        each_S = torch.arange(len(slate_S), device=slate_S.device)
        return _solve(self.transition_SLZ[each_S, slate_S], self.reward_SL[each_S, slate_S], discount)


def _solve(moved_SZ: Tensor, reward_S: Tensor, discount: float) -> Tensor:
    identity_SZ = torch.eye(len(reward_S), dtype=moved_SZ.dtype, device=moved_SZ.device)
    return torch.linalg.solve(identity_SZ - discount * moved_SZ, reward_S)


def draw_choices(world: SlateWorld, q_SA: Tensor, state_R: Tensor, generator: torch.Generator) -> SlateChoices:
    """A log: in each of these states a slate of the logging policy, and a choice by the scores."""
    slate_R1 = torch.multinomial(world.weight_SL.expand(world.states, -1)[state_R], 1, generator=generator)
    action_RC = world.action_LC[slate_R1[:, 0]]
    chance_RC = torch.softmax(q_SA[state_R[:, None], action_RC], dim=1)
    choice_R = torch.multinomial(chance_RC, 1, generator=generator)[:, 0]
    slate_RK = world.slate_LK[slate_R1[:, 0]]
    return SlateChoices(state_R, slate_RK, choice_R.where(choice_R < slate_RK.shape[1], -1))
