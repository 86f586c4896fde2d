"""What a world, a slate policy and an item scorer promise to each other.

Shape legend: B users or sessions side by side, T history length, K slate positions, N token ids (special ones
included, so that an item's column is its token id), F numbers of a user, X facets, G features and Z attributes of an
item.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Generator, Tensor


@dataclass(frozen=True)
class Observation:
    """What a recommender may see.

    Attributes:
        history_BT: token ids of consumed items, oldest first, padded with 0 on the right; int64.
        length_B: how many of them are real.
    """

    history_BT: "Tensor"
    length_B: "Tensor"


@dataclass(frozen=True)
class Sight(Observation):
    """An observation with numbers about the user beside the history.

    Attributes:
        user_BF: the user at large (tastes, say).
        facet_BZX: the user with regard to each attribute of items (how much of a topic was clicked lately, say).
    """

    user_BF: "Tensor"
    facet_BZX: "Tensor"


def sight_of(observation: Observation) -> Sight:
    """The observation as a `Sight`.

    Raises:
        ValueError: it is a plain observation, from an environment that is not sighted.
    """
    if not isinstance(observation, Sight):
        raise ValueError("this policy reads the users' state; make the environment a sighted one")
    return observation


@dataclass(frozen=True)
class StepResult:
    """The users' answer to one slate each.

    Attributes:
        observation: what may be seen next.
        choice_B: first position clicked in the slate, -1 for none; int64.
        is_clicked_BK: every position clicked.
        reward_B: the reward, 0 for users whose session had ended before.
        terminated_B: True where the user left (an end of the world's making).
        truncated_B: True where the horizon cut the session (the value beyond it is not zero).
    """

    observation: Observation
    choice_B: "Tensor"
    is_clicked_BK: "Tensor"
    reward_B: "Tensor"
    terminated_B: "Tensor"
    truncated_B: "Tensor"


class Environment(Protocol):
    """Simulated users, side by side. Ended sessions stay ended until the next `reset`."""

    @property
    def tokens(self) -> int: ...

    @property
    def slate_size(self) -> int: ...

    @property
    def horizon(self) -> int:
        """Steps after which a session is cut."""

    def reset(self, *, users: int, seed: int) -> Observation:
        """Starts `users` sessions; equal seeds start equal sessions."""

    def step(self, slate_BK: "Tensor") -> StepResult:
        """Shows each user an ordered slate of K distinct item tokens."""


class SightedEnvironment(Environment, Protocol):
    """An environment of items with known features, whose observations are `Sight`s.

    Attributes:
        feature_NG: what an item is like, float; rows of special tokens are zeros.
        attribute_NZ: how much of each attribute an item has, float in [0, 1].
    """

    feature_NG: "Tensor"
    attribute_NZ: "Tensor"

    def reset(self, *, users: int, seed: int) -> Sight: ...


class SlatePolicy(Protocol):
    """A distribution over ordered slates of K distinct items."""

    def slates(self, observation: Observation, *, k: int, generator: "Generator | None") -> "Tensor":
        """Token ids [B, K], best first; sampled with a generator, greedy without."""


class ItemScorer(Protocol):
    """Scores every item for a history: what ranking metrics are computed from."""

    def scores(self, history_BT: "Tensor", length_B: "Tensor") -> "Tensor":
        """Float [B, N]; higher is better. Columns of special tokens are ignored by the metrics."""
