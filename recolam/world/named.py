"""Worlds by name: each a config with its defaults, and how its users are drawn.

`make_environment("bored", {"dynamics": {"slope": 10.0}}, seed=0)` is an environment. The seed draws the world: items,
providers, who there is. The environment's own seed, `reset(seed=...)`, draws the sessions.

All but "sardine" can change while they are played: `{"drift": {"shift_at": 50}}`, see `recolam.world.drift`.
Shape legend: B users, N token ids, P providers, Z topics.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from recolam.contracts.config import from_mapping, merged, to_mapping
from recolam.errors import ConfigError
from recolam.seeding import torch_generator
from recolam.world.boredom import BORED, BORED_INFLUENCED, UNCERTAIN, BoredomConfig, BoredomUsers, draw_items
from recolam.world.choc_kale import ChocKaleConfig, ChocKaleUsers, draw_choc
from recolam.world.documents import FEATURE_DEVIATION, draw_corpus
from recolam.world.drift import DriftConfig, Drifting
from recolam.world.ecosystem import EcosystemConfig, EcosystemUsers, draw_offer
from recolam.world.environment import SimulatedUsers, World
from recolam.world.interest_evolution import InterestEvolutionConfig, InterestEvolutionUsers, StartStates
from recolam.world.story import UserModel


@dataclass(frozen=True)
class InterestEvolutionWorld:
    """RecSim NG's demo of interest evolution: slates of 2 of 100 documents in 10 topics, for 1,000 users.

    Equations and source: `recolam.world.interest_evolution`; documents: `recolam.world.documents`. The interests of the
    `users` are drawn from Normal(0, I), and every session begins with one of them. As in the demo there is no position
    bias, and nobody leaves: the budget is what 100 documents of length 2 take at most. Longer sessions need a larger
    budget; users leave where it is smaller.
    """

    items: int = 100
    topics: int = 10
    users: int = 1000
    feature_deviation: float = FEATURE_DEVIATION
    capacity: int = 64
    horizon: int = 100
    dynamics: InterestEvolutionConfig = field(
        default_factory=lambda: InterestEvolutionConfig(slate_size=2, position_bias=0.0, budget=200.0)
    )
    drift: DriftConfig | None = None


@dataclass(frozen=True)
class ChocKaleWorld:
    """RecSim's long-term satisfaction: one item at a time, of which the more it is choc the less it does good.

    Equations and source: `recolam.world.choc_kale`. Satisfaction reacts 30 times as strongly as RecSim's default, under
    which it stays near 1/2 whatever is shown and the myopic diet is the best one; here it is the worst.
    """

    items: int = 50
    horizon: int = 60
    dynamics: ChocKaleConfig = field(default_factory=lambda: ChocKaleConfig(sensitivity=0.3))
    drift: DriftConfig | None = None


@dataclass(frozen=True)
class BoredomWorld:
    """SARDINE's world of bored users: slates of 10 of 1,000 items, 100 steps.

    Equations and source: `recolam.world.boredom`. "bored", "bored_influenced" and "uncertain" are its three settings
    with these names; their dynamics are `BORED`, `BORED_INFLUENCED` and `UNCERTAIN`.
    """

    items: int = 1000
    horizon: int = 100
    dynamics: BoredomConfig = BORED
    drift: DriftConfig | None = None


@dataclass(frozen=True)
class EcosystemWorld:
    """Content providers who leave when they are not served.

    Equations and source: `recolam.world.ecosystem`. In two dimensions, one provider makes items around the middle of
    tastes, the others around a circle of this `radius`. The one in the middle is everybody's second choice: serve him
    alone and the others leave.
    """

    items: int = 20
    providers: int = 5
    radius: float = 2.0
    spread: float = 0.1
    horizon: int = 60
    dynamics: EcosystemConfig = field(default_factory=lambda: EcosystemConfig(cost=0.12))
    drift: DriftConfig | None = None


@dataclass(frozen=True)
class SardineWorld:
    """The package sardine-rec's own simulator, with its own items and horizon (`recolam.world.sardine`).

    The real thing, one session at a time, so slow. It cannot drift: its users answer the package's items.
    """

    name: Literal["SlateTopK-Bored", "SlateTopK-BoredInf", "SlateTopK-Uncertain"] = "SlateTopK-Bored"
    capacity: int = 64


def _interest_evolution(config: InterestEvolutionWorld, seed: int) -> UserModel:
    corpus, _ = draw_corpus(config.items, topics=config.topics, seed=seed, feature_deviation=config.feature_deviation)
    generator = torch_generator(seed, "interests")
    start = StartStates(
        history_PT=torch.zeros(config.users, config.capacity, dtype=torch.int64),
        length_P=torch.zeros(config.users, dtype=torch.int64),
        interest_PZ=torch.randn(config.users, config.topics, generator=generator),
    )
    return InterestEvolutionUsers(config.dynamics, corpus, start)


def _choc_kale(config: ChocKaleWorld, seed: int) -> UserModel:
    return ChocKaleUsers(config.dynamics, draw_choc(config.items, seed=seed))


def _boredom(config: BoredomWorld, seed: int) -> UserModel:
    return BoredomUsers(config.dynamics, draw_items(config.items, topics=config.dynamics.topics, seed=seed))


def _ecosystem(config: EcosystemWorld, seed: int) -> UserModel:
    if config.items < config.providers:
        raise ValueError(f"{config.items} items for {config.providers} providers")
    mean_PZ = _middle_and_ring(config.providers, config.radius)
    return EcosystemUsers(config.dynamics, draw_offer(config.items, mean_PZ, spread=config.spread, seed=seed))


def _middle_and_ring(providers: int, radius: float) -> Tensor:
    """The origin and points at equal angles on a circle around it, float [P, 2]."""
    angle_R = torch.arange(providers - 1) * (2 * math.pi / max(providers - 1, 1))
    return torch.cat([torch.zeros(1, 2), radius * torch.stack([angle_R.cos(), angle_R.sin()], dim=1)])


SARDINE = "sardine"
_WORLDS: dict[str, tuple[Any, Callable[[Any, int], UserModel]]] = {
    "interest_evolution": (InterestEvolutionWorld(), _interest_evolution),
    "choc_kale": (ChocKaleWorld(), _choc_kale),
    "bored": (BoredomWorld(), _boredom),
    "bored_influenced": (BoredomWorld(dynamics=BORED_INFLUENCED), _boredom),
    "uncertain": (BoredomWorld(dynamics=UNCERTAIN), _boredom),
    "ecosystem": (EcosystemWorld(), _ecosystem),
}
SIMULATED = tuple(_WORLDS)
NAMES = (*SIMULATED, SARDINE)


def make_config(name: str, overrides: Mapping[str, Any] | None = None) -> Any:
    """The world's config, with `overrides` over its defaults at every depth.

    Raises:
        ConfigError: an unknown world or key, a value of another type or out of range.
    """
    if name not in NAMES:
        raise ConfigError(f"world {name!r} is not one of {', '.join(NAMES)}")
    default = SardineWorld() if name == SARDINE else _WORLDS[name][0]
    values = merged(to_mapping(default), overrides or {})
    config = from_mapping(type(default), values, where=f"world {name}")
    for count in ("items", "topics", "users", "providers", "capacity"):
        if getattr(config, count, 1) < 1:
            raise ConfigError(f"world {name}: {count} is {getattr(config, count)}, below 1")
    return config


def make_users(name: str, overrides: Mapping[str, Any] | None = None, *, seed: int = 0) -> UserModel:
    """The users of one of the `SIMULATED` worlds. Raises ConfigError as `make_config` does, and for other worlds."""
    config = make_config(name, overrides)
    if name not in _WORLDS:
        raise ConfigError(f"world {name!r} has no user model of ours; those that have: {', '.join(SIMULATED)}")

    if config.items < config.dynamics.slate_size:
        raise ConfigError(f"world {name}: slates of {config.dynamics.slate_size} of {config.items} items")

    def draw() -> UserModel:
        users = _WORLDS[name][1](config, seed)
        return users if config.drift is None else Drifting(users, config.drift)

    return _checked(name, draw)


def make_environment(name: str, overrides: Mapping[str, Any] | None = None, *, seed: int = 0) -> World:
    """The world `name` as an environment.

    Args:
        overrides: settings over the world's defaults, such as {"horizon": 20, "dynamics": {"slope": 10.0}}.
        seed: draws the world; "sardine" has its own.

    Raises:
        ConfigError: an unknown world or key, a value of another type or out of range, "sardine" without the package.
    """
    config = make_config(name, overrides)
    if isinstance(config, SardineWorld):
        return make_sardine(config)
    users = make_users(name, overrides, seed=seed)
    return _checked(name, lambda: SimulatedUsers(users, horizon=config.horizon))


def make_sardine(config: SardineWorld) -> World:
    try:
        from recolam.world.sardine import SardineEnvironment  # needs gymnasium, which not everybody has installed

        return SardineEnvironment(config.name, capacity=config.capacity)
    except ImportError as error:
        raise ConfigError(f"world 'sardine' needs the package sardine-rec: install recolam[gym] ({error})") from error


def _checked(name: str, make: Callable[[], Any]) -> Any:
    """What `make` makes; values that it refuses are the user's settings."""
    try:
        return make()
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"world {name}: {error}") from error
