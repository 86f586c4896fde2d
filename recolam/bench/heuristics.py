"""The best rules known for each shipped world, by who knows its equations and the users' true state.

Shape legend: B users, K slate, N token ids, I items, Z attributes.
"""

import torch
from torch import Tensor

from recolam.contracts.dataset import FIRST_ITEM
from recolam.contracts.protocols import Observation
from recolam.errors import ConfigError
from recolam.policy.returns import Act
from recolam.world.boredom import BoredomUsers
from recolam.world.choc_kale import ChocKaleUsers
from recolam.world.environment import SimulatedUsers
from recolam.world.interest_evolution import InterestEvolutionUsers
from recolam.world.sardine import SardineEnvironment
from recolam.world.sight import Sighted

_CAPS = (1, 2, 3)
_SHARES = (0.0, 0.25, 0.5)
_QUALITIES = (0.0, 0.5, 1.0)


def myopic(environment: Sighted) -> Act:
    """The slate of largest expected reward now, knowing the true state, whatever the policy may see."""
    world = environment.environment
    if isinstance(world, SimulatedUsers):
        return lambda observation, _: world.users.greedy_slate(world.state)
    return lambda observation, _: _relevance(environment).topk(environment.slate_size, dim=1).indices + FIRST_ITEM


def heuristics(environment: Sighted) -> dict[str, Act]:
    """Rules by name; which is best is for the returns to say. None where no rule is known."""
    world = environment.environment
    users = world.users if isinstance(world, SimulatedUsers) else None
    if isinstance(world, SardineEnvironment) or isinstance(users, BoredomUsers):
        return {f"at most {cap} a topic": _capped(environment, cap) for cap in _CAPS}
    if isinstance(users, ChocKaleUsers):
        return {f"choc share {share}": _of_share(users, share) for share in _SHARES}
    if isinstance(world, SimulatedUsers) and isinstance(users, InterestEvolutionUsers):
        near = {f"nearest, quality times {weight}": _near(world, users, weight) for weight in _QUALITIES}
        return near | {"same for all, nearest the mean": _near_the_mean(users)}
    return {}


def _relevance(environment: Sighted) -> Tensor:
    """How well every item fits the taste that boredom leaves, float [B, I]."""
    world, topics = environment.environment, environment.feature_NG.shape[1]
    if isinstance(world, SardineEnvironment):
        taste_BZ = world.user_state_BF[:, :topics]
    elif isinstance(world, SimulatedUsers) and isinstance(world.users, BoredomUsers):
        taste_BZ = world.users.present_taste(world.state)
    else:
        raise ConfigError("only the boredom worlds have tastes for topics")
    return taste_BZ @ environment.feature_NG[FIRST_ITEM:].T


def _capped(environment: Sighted, cap: int) -> Act:
    """The most relevant items, at most `cap` of each topic."""
    topic_I = environment.attribute_NZ[FIRST_ITEM:].argmax(dim=1)

    def act(observation: Observation, generator: torch.Generator) -> Tensor:
        relevance_BI = _relevance(environment)
        for topic in topic_I.unique():
            own_I = (topic_I == topic).nonzero()[:, 0]
            order_BJ = relevance_BI[:, own_I].argsort(dim=1, descending=True)
            beyond_BJ = own_I[order_BJ[:, cap:]]
            relevance_BI = relevance_BI.scatter(1, beyond_BJ, -torch.inf)
        return relevance_BI.topk(environment.slate_size, dim=1).indices + FIRST_ITEM

    return act


def _of_share(users: ChocKaleUsers, share: float) -> Act:
    """Always the items whose choc share is nearest to `share`."""
    slate_K = (users.choc_N[FIRST_ITEM:] - share).abs().topk(users.slate_size, largest=False).indices + FIRST_ITEM
    return lambda observation, _: slate_K.repeat(len(observation.length_B), 1)


def _near(world: SimulatedUsers, users: InterestEvolutionUsers, weight: float) -> Act:
    """The documents nearest to the user's interest, `weight` times their quality nearer."""

    def act(observation: Observation, generator: torch.Generator) -> Tensor:
        distance_BN = torch.cdist(world.state.get("interest"), users.corpus.feature_NZ)
        score_BN = weight * users.corpus.quality_N - distance_BN
        return score_BN[:, FIRST_ITEM:].topk(users.slate_size, dim=1).indices + FIRST_ITEM

    return act


def _near_the_mean(users: InterestEvolutionUsers) -> Act:
    """The documents nearest to the origin, around which interests are drawn: what not knowing the user is worth."""
    distance_N = users.corpus.feature_NZ[FIRST_ITEM:].norm(dim=1)
    slate_K = distance_N.topk(users.slate_size, largest=False).indices + FIRST_ITEM
    return lambda observation, _: slate_K.repeat(len(observation.length_B), 1)
