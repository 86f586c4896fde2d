"""Trains a `DecoderAgent` in a world within a budget of user-steps: responses by likelihood, slates by policy gradient.

A round plays `users` sessions side by side to the horizon and learns after every `segment` steps, PPO's way: clipped
likelihood ratios of every position, generalised advantages of every slate. The first steps show random slates, from
which the response model begins. Validation plays the greedy policy on sessions of its own; its steps count towards the
budget. Every round draws from (seed, round) alone, so a killed run resumes at a round's end to the same weights.

Shape legend: B sessions, H steps, K slate, N token ids, S states, Z attributes, X facets.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recolam.contracts.protocols import SightedEnvironment
from recolam.errors import ConfigError, DataError
from recolam.policy.decoder import log_probs
from recolam.policy.decoder_agent import DecoderAgent
from recolam.policy.decoder_rollout import Segment, Sessions, random_slates
from recolam.policy.gradient import generalised_advantages
from recolam.policy.ppo import clipped_loss
from recolam.policy.response import Answers, ResponseFit
from recolam.policy.returns import session_returns
from recolam.progress import Progress
from recolam.seeding import derive, torch_generator
from recolam.sequence.checkpoint import load_checkpoint, optimizer_tensors, restore_optimizer, save_checkpoint

Watch = Callable[[Answers], bool]
"""Is shown the answers of every step; True ends the training."""

_COUNTERS = ("round", "learning_steps", "validation_steps", "best_return", "stale", "curves")


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
        validate_every: rounds between validations on `validation_users` sessions.
        patience: validations without a better one after which training ends.
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
    gradient_clip: float = 1.0
    response_rate: float = 0.03
    response_steps: int = 20
    validate_every: int = 2
    validation_users: int = 50
    patience: int = 5

    def __post_init__(self) -> None:
        counts = ("steps", "users", "segment", "epochs", "minibatch", "validate_every", "validation_users", "patience")
        for name in counts:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, below 1")
        if not 0.0 <= self.warm_share < 1.0:
            raise ConfigError(f"warm_share is {self.warm_share}, outside [0, 1)")

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


@dataclass(frozen=True)
class Trained:
    """Curves as [user-steps so far, value], how many user-steps were played to learn and to validate, and whether the
    watch ended it."""

    curves: dict[str, list[list[float]]]
    learning_steps: int
    validation_steps: int
    is_stopped: bool = False

    @property
    def steps(self) -> int:
        return self.learning_steps + self.validation_steps


def train_decoder(
    agent: DecoderAgent,
    environment: SightedEnvironment,
    config: DecoderTrainingConfig,
    *,
    seed: int,
    scratch: Path | None = None,
    watch: Watch | None = None,
) -> Trained:
    """Trains `agent` in place and leaves it at its best validated weights.

    Args:
        scratch: where checkpoints are written and looked for; None for neither.
        watch: ends the training within a segment of the answers at which it says so; what it knows is in no checkpoint.

    Raises:
        ConfigError: a budget of less than one round.
        DataError: a figure is not finite.
        ArtifactError: a damaged checkpoint.
    """
    return _Trainer(agent, environment, config, seed=seed, scratch=scratch, watch=watch).run()


class _Trainer:
    def __init__(
        self,
        agent: DecoderAgent,
        environment: SightedEnvironment,
        config: DecoderTrainingConfig,
        *,
        seed: int,
        scratch: Path | None,
        watch: Watch | None,
    ) -> None:
        self.watch, self.is_stopped = watch or (lambda answers: False), False
        self.agent, self.environment, self.config, self.seed, self.scratch = agent, environment, config, seed, scratch
        self.rounds = config.rounds(environment.horizon)
        self.optimizer = torch.optim.Adam(agent.decoder.parameters(), lr=config.learning_rate)
        self.fit = ResponseFit(agent.response, learning_rate=config.response_rate)
        self.round, self.learning_steps, self.validation_steps = 0, 0, 0
        self.best_return, self.stale = -math.inf, 0
        self.best = copy.deepcopy(agent.state_dict())
        self.answers: list[Answers] = []
        self.curves: dict[str, list[list[float]]] = {}
        self._resume()

    def run(self) -> Trained:
        with Progress("policy", total=self.rounds, unit="round") as progress:
            progress.advance(self.round)
            while self.round < self.rounds and self.stale < self.config.patience:
                earned = self._play_round()
                if self.is_stopped:
                    break
                self.round += 1
                if self.round % self.config.validate_every == 0 or self.round == self.rounds:
                    self._validate()
                self._save()
                progress.advance(best=self.best_return, earned=earned)
        self.agent.load_state_dict(self.best)
        return Trained(self.curves, self.learning_steps, self.validation_steps, self.is_stopped)

    def _play_round(self) -> float:
        config = self.config
        generator = torch_generator(self.seed, "round", self.round)
        sessions = Sessions(self.environment, users=config.users, seed=derive(self.seed, "learning", self.round))
        earlier, begun, earned = self.answers, self.learning_steps, 0.0
        warm = math.ceil(config.warm_share * config.steps / config.users) if self.round == 0 else 0
        if warm:
            sessions.play_by(random_slates(self.environment), generator, steps=min(warm, self.environment.horizon))
            self.agent.measure(sessions.sight)
            self._learn_answers(earlier + sessions.answers, 10 * config.response_steps, generator)
        heard = 0
        while bool(sessions.is_active_B.any()):
            segment = sessions.play(self.agent, generator, steps=config.segment)
            self.learning_steps = begun + sessions.played
            heard, new = len(sessions.answers), sessions.answers[heard:]
            self.is_stopped = any(map(self.watch, new))
            if self.is_stopped:
                break
            self._learn_slates(segment, generator)  # first: what was sampled is still the policy's own distribution
            self._learn_answers(earlier + sessions.answers, config.response_steps, generator)
            earned += float(segment.reward_BH.sum())
        self.learning_steps = begun + sessions.played
        self.answers = [Answers.joined(earlier + sessions.answers)]
        return earned / config.users

    def _learn_answers(self, parts: list[Answers], steps: int, generator: torch.Generator) -> None:
        self._note("response_loss", self.fit.steps(Answers.joined(parts), steps, generator))

    def _learn_slates(self, segment: Segment, generator: torch.Generator) -> None:
        config, decoder = self.config, self.agent.decoder
        remaining = 1.0 - self.learning_steps / (self.rounds * config.users * self.environment.horizon)
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * max(remaining, 0.01)
        steps, users = segment.reward_BH.shape[1], segment.reward_BH.shape[0]
        unit = float(self.agent.response.reward_scale) * self.environment.slate_size
        with torch.no_grad():
            value_BH = decoder.values(segment.choices.facet_BZX).view(steps, users).T
            advantage_BH = generalised_advantages(
                segment.reward_BH / unit, value_BH, segment.is_active_BH, gamma=config.gamma, trace=config.trace,
                after_B=decoder.values(segment.after_BZX), is_truncated_B=~segment.has_left_B,
            )  # fmt: skip
        index_S = segment.is_active_BH.T.reshape(-1).nonzero()[:, 0]
        target_S = (advantage_BH + value_BH).T.reshape(-1)
        advantage_S = advantage_BH.T.reshape(-1)
        advantage_S = (advantage_S - advantage_S[index_S].mean()) / advantage_S[index_S].std().clamp(min=1e-6)
        self._note("reward_per_step", float(segment.reward_BH.sum()) / max(len(index_S), 1))
        for _ in range(config.epochs):
            order_S = index_S[torch.randperm(len(index_S), generator=generator)]
            for rows in order_S.split(config.minibatch):
                value_loss, entropy = self._step(segment, rows, advantage_S[rows], target_S[rows])
        self._note("value_loss", value_loss)
        self._note("entropy", entropy)

    def _step(self, segment: Segment, row_R: Tensor, advantage_R: Tensor, target_R: Tensor) -> tuple[float, float]:
        config, decoder = self.config, self.agent.decoder
        choices, place_RK = segment.choices.rows(row_R), segment.place_SK[row_R]
        log_prob_RK, entropy_RK = log_probs(decoder, choices, place_RK, self.agent.response.examination_K)
        advantage_RK = advantage_R[:, None].expand_as(log_prob_RK)
        gain = clipped_loss(log_prob_RK, segment.log_prob_SK[row_R], advantage_RK, clip=config.clip)
        value_loss = (decoder.values(choices.facet_BZX) - target_R).square().mean()
        entropy = entropy_RK.mean()
        loss = gain / log_prob_RK.numel() + config.value_weight * value_loss - config.entropy_weight * entropy
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), config.gradient_clip)
        self.optimizer.step()
        return float(value_loss.detach()), float(entropy.detach())

    def _validate(self) -> None:
        agent, environment = self.agent, self.environment
        earned = session_returns(
            environment,
            lambda sight, _: agent.slates(sight, k=environment.slate_size, generator=None),
            users=self.config.validation_users,
            seed=derive(self.seed, "validation"),
        )
        self.validation_steps += self.config.validation_users * environment.horizon
        self._note("validation_return", earned)
        self.stale += 1
        if earned > self.best_return:
            self.best_return, self.best, self.stale = earned, copy.deepcopy(agent.state_dict()), 0

    def _note(self, name: str, value: float) -> None:
        if not math.isfinite(value):
            raise DataError(f"{name} is {value} after {self.learning_steps} steps")
        self.curves.setdefault(name, []).append([self.learning_steps + self.validation_steps, value])

    def _identity(self) -> dict[str, Any]:
        return {"seed": self.seed, **vars(self.config)}

    def _save(self) -> None:
        if self.scratch is None:
            return
        tensors = {f"agent.{name}": value for name, value in self.agent.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in self.best.items()}
        tensors |= {f"answers.{name}": value for name, value in vars(Answers.joined(self.answers)).items()}
        for name, optimizer in (("slates", self.optimizer), ("fit", self.fit.optimizer)):
            tensors |= {f"{name}.{key}": value for key, value in optimizer_tensors(optimizer).items()}
        state = {name: getattr(self, name) for name in _COUNTERS}
        save_checkpoint(self.scratch, tensors=tensors, state={"run": self._identity(), **state})

    def _resume(self) -> None:
        found = None if self.scratch is None else load_checkpoint(self.scratch)
        if found is None or found[1]["run"] != self._identity():
            return
        tensors, state = found
        for name in _COUNTERS:
            setattr(self, name, state[name])
        self.agent.load_state_dict(_below(tensors, "agent."))
        self.best = _below(tensors, "best.")
        self.answers = [Answers(**_below(tensors, "answers."))]
        restore_optimizer(self.optimizer, _below(tensors, "slates."))
        restore_optimizer(self.fit.optimizer, _below(tensors, "fit."))


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
