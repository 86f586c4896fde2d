"""What a policy sees of a world's users: their state in full, or only what it showed and what was clicked.

Full sight reads the state's own fields, once, in the units that the world keeps them in; nothing of the dynamics
(thresholds, rates, who is bored when) is told. Partial sight is made of the slates and clicks of the session alone.

| world | users | users in regard to an attribute | attributes of items |
|---|---|---|---|
| boredom, sardine-rec | taste that boredom leaves | taste, recent clicks, steps of boredom left | topic |
| choc and kale | exposure to kale | exposure, for kale or against choc | shares of choc and of kale |
| interest evolution | interests | interest in the topic | topic, quality |

Shape legend: B users, K slate, N token ids, F numbers of a user, G features, Z attributes (topics), X facets.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from recolam.contracts.dataset import FIRST_ITEM
from recolam.contracts.protocols import Environment, Observation, Sight, StepResult
from recolam.errors import ConfigError
from recolam.world.boredom import BoredomUsers
from recolam.world.choc_kale import ChocKaleUsers
from recolam.world.environment import SimulatedUsers, World
from recolam.world.interest_evolution import InterestEvolutionUsers

if TYPE_CHECKING:
    from recolam.world.sardine import SardineEnvironment

Look = Callable[[], tuple[Tensor, Tensor]]
"""() -> user_BF, facet_BZX of the users as they are now."""
_MEMORY_RATES = (0.5, 0.8, 0.95)


@dataclass(frozen=True)
class Items:
    """What is known of the items: features float [N, G], attributes float [N, Z]."""

    feature_NG: Tensor
    attribute_NZ: Tensor


class Sighted:
    """`recolam.contracts.protocols.SightedEnvironment` over an environment.

    Args:
        look: reads the users' state; None for partial sight.
    """

    def __init__(self, environment: Environment, items: Items, *, horizon: int, look: Look | None) -> None:
        self.environment, self.horizon = environment, horizon
        self.feature_NG, self.attribute_NZ = items.feature_NG, items.attribute_NZ
        self.tokens, self.slate_size = environment.tokens, environment.slate_size
        self._memory = None if look else SessionMemory(items)
        self._look: Look = look or self._memory.look  # type: ignore[union-attr]

    def reset(self, *, users: int, seed: int) -> Sight:
        observation = self.environment.reset(users=users, seed=seed)
        if self._memory:
            self._memory.begin(users)
        return self._see(observation)

    def step(self, slate_BK: Tensor) -> StepResult:
        result = self.environment.step(slate_BK)
        if self._memory:
            self._memory.remember(slate_BK, result.is_clicked_BK)
        return replace(result, observation=self._see(result.observation))

    def _see(self, observation: Observation) -> Sight:
        user_BF, facet_BZX = self._look()
        return Sight(observation.history_BT, observation.length_B, user_BF=user_BF, facet_BZX=facet_BZX)


class SessionMemory:
    """What partial sight keeps of a session: sums that fade, at several rates, of what was clicked and passed over.

    The facets of an attribute are its shares of recent clicks, and of what was passed over, at each rate; the user is
    the mean features of all items clicked, and of all passed over.
    """

    def __init__(self, items: Items) -> None:
        self._items, self._rate_R = items, torch.tensor(_MEMORY_RATES)

    def begin(self, users: int) -> None:
        attributes, features = self._items.attribute_NZ.shape[1], self._items.feature_NG.shape[1]
        self._facet_B2RZ = torch.zeros(users, 2, len(self._rate_R), attributes)
        self._feature_B2G = torch.zeros(users, 2, features)
        self._count_B2 = torch.zeros(users, 2)

    def remember(self, slate_BK: Tensor, is_clicked_BK: Tensor) -> None:
        kind_B2K = torch.stack([is_clicked_BK, ~is_clicked_BK], dim=1).float()
        now_B2Z = kind_B2K @ self._items.attribute_NZ[slate_BK] / slate_BK.shape[1]
        fresh_R1 = (1 - self._rate_R)[:, None]
        self._facet_B2RZ = self._rate_R[:, None] * self._facet_B2RZ + fresh_R1 * now_B2Z[:, :, None]
        self._feature_B2G = self._feature_B2G + kind_B2K @ self._items.feature_NG[slate_BK]
        self._count_B2 = self._count_B2 + kind_B2K.sum(dim=2)

    def look(self) -> tuple[Tensor, Tensor]:
        mean_B2G = self._feature_B2G / self._count_B2.clamp(min=1.0)[..., None]
        return mean_B2G.flatten(1), self._facet_B2RZ.flatten(1, 2).transpose(1, 2)


def boredom_items(feature_NZ: Tensor) -> Items:
    topic_NZ = torch.nn.functional.one_hot(feature_NZ.argmax(dim=1), feature_NZ.shape[1]).float()
    topic_NZ[:FIRST_ITEM] = 0.0
    return Items(feature_NZ, topic_NZ)


def sighted(environment: World, *, is_full: bool) -> Sighted:
    """A world, seen in full or in part.

    Raises:
        ConfigError: users of a world whose state has no known meaning to a policy.
    """
    if not isinstance(environment, SimulatedUsers):
        from recolam.world.sardine import SardineEnvironment  # needs gymnasium, which not everybody has installed

        if not isinstance(environment, SardineEnvironment):
            raise ConfigError(f"no policy sees the state of {type(environment).__name__}")
        package = environment
        items, look = boredom_items(package.feature_NZ), lambda: _sardine(package)
        return Sighted(package, items, horizon=package.horizon, look=look if is_full else None)
    users = environment.users
    if isinstance(users, BoredomUsers):
        items, look = boredom_items(users.feature_NZ), lambda: _boredom(users, environment)
    elif isinstance(users, ChocKaleUsers):
        items, look = _choc_kale_items(users), lambda: _choc_kale(environment)
    elif isinstance(users, InterestEvolutionUsers):
        items, look = _interest_items(users), lambda: _interest(users, environment)
    else:
        raise ConfigError(f"no policy sees the state of {type(users).__name__}")
    return Sighted(environment, items, horizon=environment.horizon, look=look if is_full else None)


def _boredom(users: BoredomUsers, environment: SimulatedUsers) -> tuple[Tensor, Tensor]:
    """Taste, recent clicks of each topic and steps of boredom left, scaled to [0, 1] as sardine-rec gives them."""
    config, state = users.config, environment.state
    taste_BZ = users.present_taste(state)
    recent_BZ = (users.recent_clicks(state) / config.threshold).clamp(max=1.0)
    left_BZ = state.get("bored_steps") / config.window
    return taste_BZ, torch.stack([taste_BZ, recent_BZ, left_BZ], dim=2)


def _sardine(environment: "SardineEnvironment") -> tuple[Tensor, Tensor]:
    """The package's own full state: taste, recent topics, steps of boredom left, one after another."""
    state_BZX = environment.user_state_BF.unflatten(1, (3, -1)).transpose(1, 2)
    return state_BZX[..., 0], state_BZX


def _choc_kale_items(users: ChocKaleUsers) -> Items:
    share_NZ = torch.stack([users.choc_N, 1.0 - users.choc_N], dim=1)
    share_NZ[:FIRST_ITEM] = 0.0
    return Items(share_NZ[:, :1], share_NZ)


def _choc_kale(environment: SimulatedUsers) -> tuple[Tensor, Tensor]:
    exposure_B1 = environment.state.get("exposure")[:, None]
    return exposure_B1, torch.stack([-exposure_B1, exposure_B1], dim=1)


def _interest_items(users: InterestEvolutionUsers) -> Items:
    corpus = users.corpus
    topic_NZ = (corpus.feature_NZ == corpus.feature_NZ.amax(dim=1, keepdim=True)).float()
    quality_N1 = torch.sigmoid(corpus.quality_N)[:, None]
    attribute_NZ = torch.cat([topic_NZ, quality_N1], dim=1)
    attribute_NZ[:FIRST_ITEM] = 0.0
    return Items(torch.cat([corpus.feature_NZ, quality_N1], dim=1), attribute_NZ)


def _interest(users: InterestEvolutionUsers, environment: SimulatedUsers) -> tuple[Tensor, Tensor]:
    state = environment.state
    interest_BZ = state.get("interest")
    return interest_BZ, torch.nn.functional.pad(interest_BZ, (0, 1))[..., None]
