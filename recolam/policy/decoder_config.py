"""How a slate decoder is trained."""

import math
from dataclasses import dataclass, field

from recolam.errors import ConfigError
from recolam.policy.exposure import CollapseFloors


@dataclass(frozen=True)
class DecoderTrainingConfig:
    """How to train, within `steps` user-steps, validation included.

    Attributes:
        warm_share: share of the budget that shows random slates first.
        segment: steps of each session between two updates.
        trace: the lambda of generalised advantages.
        epochs, minibatch: passes over a segment's slates, and slates of a gradient step.
        learning_rate: of the decoder, at first; falls to 0 along a line.
        response_steps: gradient steps of the response model after each segment; ten times as many after the warm-up.
        belief_steps: as many of response model and belief together, each over whole sessions, where the agent has one.
        validate_every: rounds between validations on `validation_users` sessions.
        patience: validations without a better one after which training ends.
        expects_rewards: slates are judged by the reward that the response model expects of what was clicked, in place
            of the one that came. What happens next depends on the clicks, not on the draw of their rewards, so only
            noise is taken out where the model is right. It is not where rewards depend on what the policy cannot see:
            there the very effect of a slate on later rewards would be taken out. For full sight alone.
        entropy_weight: of the mean entropy of positions, at first; it moves to `entropy_end` along a line (None: it
            stays).
        kl_weight: of the divergence from the decoder that training began with, in nats per position.
        gradient_clip: greatest norm of the policy's gradient, and of the values'.
        floors: what counts as a collapse. One slate for all users does not by default: it can be the best (choc and
            kale).
    """

    steps: int = 100_000
    users: int = 100
    gamma: float = 0.95
    warm_share: float = 0.05
    segment: int = 10
    trace: float = 0.95
    clip: float = 0.2
    epochs: int = 2
    minibatch: int = 100
    learning_rate: float = 0.01
    value_weight: float = 1.0
    entropy_weight: float = 0.003
    entropy_end: float | None = None
    kl_weight: float = 0.0
    gradient_clip: float = 1.0
    expects_rewards: bool = False
    response_rate: float = 0.03
    response_steps: int = 20
    belief_steps: int = 4
    validate_every: int = 2
    validation_users: int = 50
    patience: int = 5
    floors: CollapseFloors = field(default_factory=lambda: CollapseFloors(effective_slates=0.0))

    def __post_init__(self) -> None:
        counts = ("steps", "users", "segment", "epochs", "minibatch", "validate_every", "validation_users", "patience")
        for name in counts:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, below 1")
        if not 0.0 <= self.warm_share < 1.0:
            raise ConfigError(f"warm_share is {self.warm_share}, outside [0, 1)")
        if not 0.0 <= self.gamma <= 1.0:
            raise ConfigError(f"gamma is {self.gamma}, outside [0, 1]")
        if self.kl_weight < 0:
            raise ConfigError(f"kl_weight is {self.kl_weight}, below 0")

    def rounds(self, horizon: int) -> int:
        """How many rounds, with their validations, the budget pays for; ConfigError where it is not one."""

        def cost(rounds: int) -> int:
            validations = math.ceil(rounds / self.validate_every)
            return (rounds * self.users + validations * self.validation_users) * horizon

        count = self.steps // (self.users * horizon)
        while count and cost(count) > self.steps:
            count -= 1
        if not count:
            raise ConfigError(f"{self.steps} steps; one round and its validation take {cost(1)}")
        return count

    def discounted_length(self, horizon: int) -> float:
        """What a reward of 1 at every step of a session is worth at its start."""
        return sum(self.gamma**step for step in range(horizon))

    def entropy_at(self, done: float) -> float:
        """The weight of entropy when this share of training is done."""
        end = self.entropy_weight if self.entropy_end is None else self.entropy_end
        return self.entropy_weight + done * (end - self.entropy_weight)
