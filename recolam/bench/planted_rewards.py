"""Finite slate worlds with a planted reward, in which inverse reinforcement learning is measured.

Shape legend: S states, N items, A actions, Z next states, D and F features, E = 1 + D.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recolam.contracts.dataset import FIRST_ITEM
from recolam.world.choc_kale import ChocKaleConfig, ChocKaleUsers, draw_choc
from recolam.world.inverse_rl import plan_of
from recolam.world.runtime import Value
from recolam.world.slate_world import SlateChoices, SlateWorld, all_slates, draw_choices

LEVELS, MOODS = 10, 3


@dataclass(frozen=True)
class Planted:
    """A world, its features and true reward of items, and which states never come up in its logs."""

    world: SlateWorld
    state_SD: Tensor
    item_NF: Tensor
    reward_SN: Tensor
    is_held_out_S: Tensor

    def log(self, rows: int, *, seed: int) -> SlateChoices:
        """Choices of users who plan with the true reward, in states that are not held out."""
        generator = torch.Generator().manual_seed(seed)
        seen = self.is_held_out_S.logical_not().nonzero()[:, 0]
        state_R = seen[torch.randint(len(seen), (rows,), generator=generator)]
        return draw_choices(self.world, plan_of(self.reward_SN, self.world).q_SA, state_R, generator)


def satisfaction_ladder(seed: int) -> Planted:
    """30 states (10 levels of satisfaction, 3 moods), 12 items, slates of 3 or none, discount 0.8.

    Tempting items are enjoyed most and lead down the ladder; a high rung makes everything more enjoyable.
    """
    generator = torch.Generator().manual_seed(seed)
    level_S = torch.arange(LEVELS * MOODS) // MOODS
    mood_SM = torch.eye(MOODS)[torch.arange(LEVELS * MOODS) % MOODS]
    tempting_N = torch.rand(12, generator=generator)
    topic_NM = torch.eye(MOODS)[torch.arange(12) % MOODS]
    state_SD = torch.cat([level_S[:, None] / (LEVELS - 1), mood_SM], dim=1).double()
    item_NF = torch.cat([torch.ones(12, 1), tempting_N[:, None], topic_NM], dim=1).double()
    weight_EF = 0.3 * torch.randn(2 + MOODS, 2 + MOODS, generator=generator).double()
    weight_EF[0, 1] += 3.0  # temptation now
    weight_EF[1, 0] += 5.0  # satisfaction makes everything better
    weight_EF[2:, 2:] += torch.eye(MOODS)  # topics suit moods
    reward_SN = torch.nn.functional.pad(state_SD, (1, 0), value=1.0) @ weight_EF @ item_NF.T
    slate_LK = all_slates(12, k=3)
    weight_SL = 0.2 + torch.rand(LEVELS * MOODS, len(slate_LK), generator=generator).double()
    world = SlateWorld(
        transition_SAZ=ladder_transition(1.0 - tempting_N),
        slate_LK=slate_LK,
        weight_SL=weight_SL / weight_SL.sum(dim=1, keepdim=True),
        discount=0.8,
        has_none=True,
    )
    is_held_out_S = torch.zeros(LEVELS * MOODS, dtype=torch.bool)
    is_held_out_S[torch.randperm(LEVELS * MOODS, generator=generator)[:8]] = True
    return Planted(world, state_SD, item_NF, reward_SN, is_held_out_S)


def ladder_transition(up_N: Tensor) -> Tensor:
    """An item leads up with its probability, else down; none stays. Moods change one time in two, float64 [S, A, Z]."""
    up_A = torch.cat([up_N, torch.tensor([0.5])]).double()
    level_UL, level_DL = (torch.zeros(LEVELS, LEVELS, dtype=torch.float64) for _ in range(2))
    each = torch.arange(LEVELS)
    level_UL[each, (each + 1).clamp(max=LEVELS - 1)] = 1.0
    level_DL[each, (each - 1).clamp(min=0)] = 1.0
    level_LAY = up_A[:, None] * level_UL[:, None] + (1 - up_A)[:, None] * level_DL[:, None]
    mood_MW = 0.5 * torch.eye(MOODS, dtype=torch.float64) + 0.5 / MOODS
    states = LEVELS * MOODS
    return torch.einsum("lay,mw->lmayw", level_LAY, mood_MW).reshape(states, len(up_A), states)


def reversed_ladder(planted: Planted) -> Planted:
    """The same users and rewards where tempting items lead up."""
    return replace(
        planted, world=replace(planted.world, transition_SAZ=ladder_transition(planted.item_NF[:, 1].float()))
    )


def choc_kale_grid(seed: int) -> Planted:
    """Choc and kale on a grid of 41 exposures, 10 items, slates of 2, one of which is always chosen; discount 0.9.

    The users' reward is the logarithm of engagement, and they foresee what choc does to them. Exposures below -1 never
    come up in logs.
    """
    users = ChocKaleUsers(ChocKaleConfig(sensitivity=4.0, noise=0.3, choc_mean=6.0), draw_choc(10, seed=seed))
    choc_N = users.choc_N[FIRST_ITEM:].double()
    grid_S = torch.linspace(-3.2, 3.2, 41, dtype=torch.float64)
    moved_SN = users.config.memory * grid_S[:, None] + 2.0 * (0.5 - choc_N)
    edge = (grid_S[1:] + grid_S[:-1]) / 2
    below = torch.special.ndtr((edge - moved_SN[..., None]) / users.config.noise)
    below = torch.nn.functional.pad(torch.nn.functional.pad(below, (1, 0), value=0.0), (0, 1), value=1.0)
    state = Value(exposure=grid_S)
    reward_SN = torch.stack([users.engagement(state, choc.expand(41))[0] for choc in choc_N], dim=1)
    slate_LK = all_slates(10, k=2)
    world = SlateWorld(
        transition_SAZ=below.diff(dim=2),
        slate_LK=slate_LK,
        weight_SL=torch.full((1, len(slate_LK)), 1.0 / len(slate_LK), dtype=torch.float64),
        discount=0.9,
        has_none=False,
    )
    state_SD = torch.stack([torch.sigmoid(4.0 * grid_S), grid_S / 3.0], dim=1)
    return Planted(world, state_SD, torch.stack([choc_N, 1 - choc_N], dim=1), reward_SN, grid_S < -1.0)
