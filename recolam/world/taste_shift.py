"""A preference shift that a policy has to learn: what users like moves to other topics, what it reads of them does not.

A policy with full sight reads of every user the taste for each of F topics. After the shift the user's true taste is

    taste_pi(z) = profile_z          pi: one cycle through all topics, in a seeded order

and the policy reads the profile where it read the taste: whoever is said to like z likes pi(z) now. Items keep their
features, users keep their dynamics, and what else is seen (recent clicks, boredom) is told of the true topics.

Exact consequences: sessions answer the same slates as before, bit for bit, so rules that know the true state earn what
they earned, and as much can be earned; a policy that trusts what it learnt of profiles shows what is liked no more.

`recolam.world.drift` shifts otherwise: there items exchange all that they are, one by one, so their features tell
nothing afterwards, and a policy that knows items by their features has little to learn the new places by.
Shape legend: B users, F topics and numbers of a user, Z >= F attributes, X facets, K slate.
"""

from dataclasses import replace

import torch
from torch import Tensor

from recolam.contracts.protocols import Sight, StepResult, sight_of
from recolam.errors import ConfigError
from recolam.seeding import torch_generator
from recolam.world.environment import SimulatedUsers
from recolam.world.sight import Sighted


class TasteShifted:
    """A `SightedEnvironment`: a world after the shift.

    Args:
        before: the world with full sight, of users with tastes for topics.
        seed: draws pi.
        at: user-steps that are still played as before; then tastes shift, in the middle of sessions where they are.

    Attributes:
        moved_to_F: pi, int64 [F].
        played: user-steps so far, of all sessions.

    Raises:
        ConfigError: what is seen of the users are not their tastes for two topics or more.
    """

    def __init__(self, before: Sighted, *, seed: int, at: int = 0) -> None:
        self.at, self.played = at, 0
        self.before, self.environment = before, before.environment
        self.feature_NG, self.attribute_NZ = before.feature_NG, before.attribute_NZ
        self.tokens, self.slate_size, self.horizon = before.tokens, before.slate_size, before.horizon
        topics = _topics(before, seed=seed)
        order_F = torch.randperm(topics, generator=torch_generator(seed, "taste shift"))
        self.moved_to_F = torch.empty_like(order_F)
        self.moved_to_F[order_F] = order_F.roll(1)

    def reset(self, *, users: int, seed: int) -> Sight:
        return self._profiles(self.before.reset(users=users, seed=seed))

    def step(self, slate_BK: Tensor) -> StepResult:
        result = self.before.step(slate_BK)
        self.played += len(slate_BK)
        return replace(result, observation=self._profiles(sight_of(result.observation)))

    def _profiles(self, sight: Sight) -> Sight:
        if self.played < self.at:
            return sight
        profile_BF, facet_BZX = sight.user_BF[:, self.moved_to_F], sight.facet_BZX.clone()
        facet_BZX[:, : len(self.moved_to_F), 0] = profile_BF
        return replace(sight, user_BF=profile_BF, facet_BZX=facet_BZX)


def _topics(before: Sighted, *, seed: int) -> int:
    """F, where what is seen of users is a taste for each topic, and again the first facet of the first attributes."""
    sight = before.reset(users=2, seed=seed)
    taste_BF = sight.user_BF
    topics = taste_BF.shape[1]
    if topics < 2 or not torch.equal(taste_BF, sight.facet_BZX[:, :topics, 0]):
        world = before.environment
        of = type(world.users if isinstance(world, SimulatedUsers) else world).__name__
        raise ConfigError(f"no shift of tastes: what is seen of {of} are no tastes for topics (or sight is not full)")
    return topics
