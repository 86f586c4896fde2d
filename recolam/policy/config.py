"""How a slate agent is trained."""

import math
from dataclasses import dataclass, field
from typing import Literal

from recolam.errors import ConfigError
from recolam.policy.exposure import CollapseFloors


@dataclass(frozen=True)
class PpoConfig:
    """Several gradient steps on one rollout (estimator "ppo").

    Attributes:
        epochs: most steps on one rollout.
        clip: how far a slate's probability may move, as a share, before it carries no gradient.
        kl_limit: the steps on a rollout end where the policy has moved this far from the one that played it, in nats
            per slate; 0 for no limit.
    """

    epochs: int = 3
    clip: float = 0.2
    kl_limit: float = 0.03

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.clip <= 0 or self.kl_limit < 0:
            raise ConfigError(f"ppo: epochs {self.epochs}, clip {self.clip} or kl_limit {self.kl_limit} is too small")


@dataclass(frozen=True)
class PlRankConfig:
    """Item values, learnt beside the policy, and the gradient that they give (estimator "pl_rank").

    Attributes:
        form: "conditional": every position's value by its expectation given the items before it. "centred": PL-Rank-3
            with centred labels. "expected_clicks": the score function, weighted by the expected value of the slate
            shown from a position on. All three have the same expectation.
        correction: how much of what sampled returns say beyond the values is added. 0 trusts the values; 1 is without
            bias whatever they are, at nearly the variance of "reinforce".
        steps: gradient steps of the values and of the click model on a rollout.
        learning_rate: theirs.
        target_rate: how far the slow copy, by which the next state is valued, follows with each of these steps.
        trace: weight of the sampled rest of a session in place of the next state's value, the lambda of TD(lambda);
            0 for the next state's value alone.
    """

    form: Literal["conditional", "centred", "expected_clicks"] = "conditional"
    correction: float = 0.0
    steps: int = 10
    learning_rate: float = 0.01
    target_rate: float = 0.05
    trace: float = 0.0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.learning_rate <= 0:
            raise ConfigError(f"pl_rank: steps {self.steps} or learning_rate {self.learning_rate} is too small")
        for name in ("correction", "trace"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"pl_rank: {name} is {getattr(self, name)}, outside [0, 1]")
        if not 0.0 < self.target_rate <= 1.0:
            raise ConfigError(f"pl_rank: target_rate is {self.target_rate}, outside (0, 1]")


@dataclass(frozen=True)
class PolicyTrainingConfig:
    """How to train. Each iteration plays `users` x `replicas` sessions and takes one gradient step.

    The learning rate falls to 0 along a cosine. `item_rate` scales that of the item side: Adam moves every item by the
    full rate however little a slate has told about it, and over a large catalogue that noise drowns what was
    learnt in pretraining. `interaction_rate` scales that of autoregressive slates' interaction.

    Attributes:
        shards: independent parts of a rollout, dealt to torchrun's processes, whose number must divide it; what is
            learnt depends on it as on a seed, and not on the number of processes.
        gamma: what a reward one step later is worth. 0 learns for the next answer alone, 1 for the whole session; what
            lies beyond the horizon counts by the value head, and what lies beyond a user's leaving counts nothing.
        estimator: "reinforce": every position is credited with all that follows its slate. "reward_to_go": less what
            was earned at the positions before it, which is biased where users compare a slate's items. "ppo":
            "reinforce" with several clipped steps on a rollout, biased where a step is clipped. "pl_rank": by
            item-level long-term values in place of sampled returns (`recolam.policy.item_values`), as biased as these.
        entropy_weight: of the entropy of the first position, at first; it moves to `entropy_end` (None: it stays).
        patience: validations without a better one after which training ends; 0 for never.
    """

    iterations: int = 80
    users: int = 64
    replicas: int = 4
    shards: int = 4
    gamma: float = 0.95
    estimator: Literal["reinforce", "reward_to_go", "ppo", "pl_rank"] = "reinforce"
    ppo: PpoConfig = field(default_factory=PpoConfig)
    pl_rank: PlRankConfig = field(default_factory=PlRankConfig)
    learning_rate: float = 1e-3
    item_rate: float = 0.1
    interaction_rate: float = 1.0
    value_weight: float = 0.2
    entropy_weight: float = 0.003
    entropy_end: float | None = None
    entropy_schedule: Literal["linear", "cosine"] = "linear"
    kl_weight: float = 0.003
    gradient_clip: float = 1.0
    validate_every: int = 10
    validation_users: int = 256
    validation_seeds: int = 4
    patience: int = 0
    checkpoint_every: int = 10
    floors: CollapseFloors = field(default_factory=CollapseFloors)

    def __post_init__(self) -> None:
        counts = ("users", "replicas", "shards", "validate_every", "checkpoint_every", "validation_seeds")
        for name in counts:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; {', '.join(counts)} are at least 1")
        if self.users < self.shards:
            raise ConfigError(f"{self.users} users cannot be dealt to {self.shards} shards")
        if not 0.0 <= self.gamma <= 1.0:
            raise ConfigError(f"gamma is {self.gamma}, outside [0, 1]")
        if self.patience < 0:
            raise ConfigError(f"patience is {self.patience}, below 0")

    def users_of(self, shard: int) -> int:
        """How many users a shard plays: as equally many as can be, the first shards one more."""
        return self.users // self.shards + (shard < self.users % self.shards)

    def entropy_at(self, iteration: int) -> float:
        """The weight of entropy in an iteration."""
        if self.entropy_end is None:
            return self.entropy_weight
        done = iteration / self.iterations
        if self.entropy_schedule == "cosine":
            done = 0.5 * (1.0 - math.cos(math.pi * done))
        return self.entropy_weight + done * (self.entropy_end - self.entropy_weight)
