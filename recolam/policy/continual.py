"""Learning on in users who may change: a decoder that notices by itself, and begins anew."""

from dataclasses import dataclass, replace

from recolam.contracts.protocols import SightedEnvironment
from recolam.policy.decoder_agent import DecoderAgent
from recolam.policy.decoder_training import DecoderTrainingConfig, Trained, train_decoder
from recolam.policy.response import Answers
from recolam.policy.shift_detection import ShiftDetectionConfig, ShiftDetector
from recolam.progress import say
from recolam.seeding import derive


@dataclass(frozen=True)
class LearntOn:
    """What happened, in user-steps from the beginning: the alarms, and the validations as [user-steps, return]."""

    alarms: list[int]
    validation_return: list[list[float]]


class _Watch:
    """A `Watch` that lets `settling` user-steps pass before it takes the response model for what users are like."""

    def __init__(self, agent: DecoderAgent, config: ShiftDetectionConfig, *, settling: int) -> None:
        self.agent, self.config, self.settling = agent, config, settling
        self.detector: ShiftDetector | None = None

    def __call__(self, answers: Answers) -> bool:
        if self.settling > 0:
            self.settling -= len(answers)
            return False
        self.detector = self.detector or ShiftDetector(self.agent.response, self.config)
        return self.detector.observe(answers)


def learn_on(
    agent: DecoderAgent,
    environment: SightedEnvironment,
    config: DecoderTrainingConfig,
    *,
    detection: ShiftDetectionConfig,
    seed: int,
) -> LearntOn:
    """Trains an agent that has learnt for `config.steps` more user-steps, in place.

    At first it goes on as it is, without random slates. An alarm ends that: the response model, its answers and the
    optimisers are new, the decoder stays, and random slates come first, `config.warm_share` of what is left. The new
    response model is trusted after `detection.settling` user-steps.

    Raises:
        ConfigError: a budget of less than one round.
    """
    alarms: list[int] = []
    curve: list[list[float]] = []
    spent = 0
    settling, training = 0, replace(config, warm_share=0.0)
    while True:
        watch = _Watch(agent, detection, settling=settling)
        phase = derive(seed, "phase", len(alarms))
        trained: Trained = train_decoder(agent, environment, training, seed=phase, watch=watch)
        curve += [[spent + step, earned] for step, earned in trained.curves.get("validation_return", [])]
        spent += trained.steps
        if not trained.is_stopped:
            break
        alarms.append(spent)
        say(f"users have changed: alarm after {spent} user-steps")
        agent.response = agent.new_response()
        if config.steps - spent < (config.users + config.validation_users) * environment.horizon:
            break
        settling, training = detection.settling, replace(config, steps=config.steps - spent)
    return LearntOn(alarms, curve)
