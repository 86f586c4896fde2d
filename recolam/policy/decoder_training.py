"""Trains a `DecoderAgent` in a world within a budget of user-steps: responses by likelihood, slates by policy gradient.

A round plays `users` sessions side by side to the horizon and learns after every `segment` steps, PPO's way: clipped
likelihood ratios of every position, generalised advantages of every slate. Values are learnt in units of what good
slates earn in a discounted session, and their gradient is clipped apart from the policy's. The first steps show random
slates, from which the response model begins. Validation plays the greedy policy on sessions of its own; its steps count
towards the budget. An agent with a belief learns it, too: from the random slates first, then after every segment from
all sessions so far; what it makes of those under way is then read anew. Every round draws from (seed, round) alone, so
a killed run resumes at a round's end to the same weights.

Shape legend: B sessions, H steps, K slate, N token ids, S states, Z attributes, X facets.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from recolam.contracts.dataset import FIRST_ITEM
from recolam.contracts.protocols import SightedEnvironment
from recolam.errors import DataError
from recolam.policy.belief import BeliefFit, Believing, Played
from recolam.policy.decoder import divergence, log_probs
from recolam.policy.decoder_agent import DecoderAgent
from recolam.policy.decoder_config import DecoderTrainingConfig
from recolam.policy.decoder_rollout import Segment, Sessions, random_slates
from recolam.policy.exposure import Exposure
from recolam.policy.gradient import generalised_advantages
from recolam.policy.ppo import clipped_loss
from recolam.policy.response import Answers, ResponseFit
from recolam.policy.returns import session_returns
from recolam.progress import Progress
from recolam.seeding import derive, torch_generator
from recolam.sequence.checkpoint import load_checkpoint, optimizer_tensors, restore_optimizer, save_checkpoint

__all__ = ["DecoderTrainingConfig", "Trained", "Watch", "train_decoder"]

Watch = Callable[[Answers], bool]
"""Is shown the answers of every step; True ends the training."""

_COUNTERS = ("round", "learning_steps", "validation_steps", "best_return", "stale", "curves")


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
        PolicyCollapse: under a floor of `config.floors`.
        ArtifactError: a damaged checkpoint.
    """
    return _Trainer(agent, environment, config, seed=seed, scratch=scratch, watch=watch).run()


class _Fit(Protocol):
    optimizer: torch.optim.Adam

    def steps(self, answers: Any, count: int, generator: torch.Generator) -> float: ...


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
        self.agent, self.config, self.seed, self.scratch = agent, config, seed, scratch
        self.environment = agent.seen(environment)
        self.rounds = config.rounds(environment.horizon)
        values = (agent.decoder.facet_value, agent.decoder.total_value)
        self.value_side = [parameter for part in values for parameter in part.parameters()]
        is_value = {id(parameter) for parameter in self.value_side}
        self.policy_side = [each for each in agent.decoder.parameters() if id(each) not in is_value]
        self.optimizer = torch.optim.Adam(agent.decoder.parameters(), lr=config.learning_rate, fused=True)
        self.fit: _Fit
        if agent.encoder is None:
            self.fit = ResponseFit(agent.response, learning_rate=config.response_rate)
        else:
            self.fit = BeliefFit(agent.encoder, agent.response)
        self.fit_steps = config.response_steps if agent.encoder is None else config.belief_steps
        self.round, self.learning_steps, self.validation_steps = 0, 0, 0
        self.best_return, self.stale = -math.inf, 0
        self.best = copy.deepcopy(agent.state_dict())
        self.start = copy.deepcopy(agent.decoder).requires_grad_(False)
        self.first_exposure_N: Tensor | None = None
        self.answers: list[Any] = []  # of `Answers`, or of `Played` where a belief is learnt
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
        begun, earned = self.learning_steps, 0.0
        warm = math.ceil(config.warm_share * config.steps / config.users) if self.round == 0 else 0
        if warm:
            sessions.play_by(random_slates(self.environment), generator, steps=min(warm, self.environment.horizon))
            self.agent.measure_users(sessions.sight)
            self._learn_answers(sessions, 10 * self.fit_steps, generator)
            self.agent.measure_facets(sessions.sight)
        heard = 0
        while bool(sessions.is_active_B.any()):
            segment = sessions.play(self.agent, generator, steps=config.segment)
            self.learning_steps = begun + sessions.played
            heard, new = len(sessions.answers), sessions.answers[heard:]
            self.is_stopped = any(map(self.watch, new))
            if self.is_stopped:
                break
            self._learn_slates(segment, generator)  # first: what was sampled is still the policy's own distribution
            self._learn_answers(sessions, self.fit_steps, generator)
            earned += float(segment.reward_BH.sum())
        self.learning_steps = begun + sessions.played
        self.answers = [self._known(sessions)]
        return earned / config.users

    def _known(self, sessions: Sessions) -> Answers | Played:
        if isinstance(self.environment, Believing):
            return Played.joined([*self.answers, self.environment.played])
        return Answers.joined([*self.answers, *sessions.answers])

    def _learn_answers(self, sessions: Sessions, steps: int, generator: torch.Generator) -> None:
        self._note("response_loss", self.fit.steps(self._known(sessions), steps, generator))
        if isinstance(self.environment, Believing):
            sessions.sight = self.environment.look_again()

    def _learn_slates(self, segment: Segment, generator: torch.Generator) -> None:
        config, decoder = self.config, self.agent.decoder
        done = min(self.learning_steps / (self.rounds * config.users * self.environment.horizon), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * max(1.0 - done, 0.01)
        users, steps = segment.reward_BH.shape
        unit = float(self.agent.response.reward_scale) * self.environment.slate_size
        unit *= config.discounted_length(self.environment.horizon)
        index_S = segment.is_active_BH.T.reshape(-1).nonzero()[:, 0]
        with torch.no_grad():
            value_BH = decoder.values(segment.choices.facet_BZX).view(steps, users).T
            advantage_BH = generalised_advantages(
                self._rewards(segment, index_S) / unit, value_BH, segment.is_active_BH,
                gamma=config.gamma, trace=config.trace, after_B=decoder.values(segment.after_BZX),
                is_truncated_B=~segment.has_left_B,
            )  # fmt: skip
        target_S = (advantage_BH + value_BH).T.reshape(-1)
        advantage_S = advantage_BH.T.reshape(-1)
        advantage_S = (advantage_S - advantage_S[index_S].mean()) / advantage_S[index_S].std().clamp(min=1e-6)
        self._note("reward_per_step", float(segment.reward_BH.sum()) / max(len(index_S), 1))
        for _ in range(config.epochs):
            order_S = index_S[torch.randperm(len(index_S), generator=generator)]
            for rows in order_S.split(config.minibatch):
                figures = self._step(segment, rows, advantage_S[rows], target_S[rows], config.entropy_at(done))
        for name, value in figures.items():
            self._note(name, value)
        config.floors.check_entropy(figures["entropy"], iteration=self.round + 1)

    def _rewards(self, segment: Segment, index_S: Tensor) -> Tensor:
        """What the steps are taken to have earned, float [B, H]."""
        if not self.config.expects_rewards:
            return segment.reward_BH
        users, steps = segment.reward_BH.shape
        expected_S = segment.reward_BH.new_zeros(steps * users)
        expected_S[index_S] = self.agent.response.worth_of_clicks(segment.answers)
        return expected_S.view(steps, users).T

    def _step(
        self, segment: Segment, row_R: Tensor, advantage_R: Tensor, target_R: Tensor, entropy_weight: float
    ) -> dict[str, float]:
        config, decoder = self.config, self.agent.decoder
        choices, place_RK = segment.choices.rows(row_R), segment.place_SK[row_R]
        log_prob_RK, entropy_RK = log_probs(decoder, choices, place_RK, self.agent.response.examination_K)
        advantage_RK = advantage_R[:, None].expand_as(log_prob_RK)
        gain = clipped_loss(log_prob_RK, segment.log_prob_SK[row_R], advantage_RK, clip=config.clip)
        value_loss = (decoder.values(choices.facet_BZX) - target_R).square().mean()
        figures = {"value_loss": value_loss, "entropy": entropy_RK.mean()}
        loss = gain / log_prob_RK.numel() + config.value_weight * value_loss - entropy_weight * figures["entropy"]
        if config.kl_weight > 0:
            kl_RK = divergence(decoder, self.start, choices, place_RK, self.agent.response.examination_K)
            figures["kl"] = kl_RK.mean()
            loss = loss + config.kl_weight * figures["kl"]
        self.optimizer.zero_grad()
        loss.backward()
        for side in (self.value_side, self.policy_side):  # while values are far off, the policy must not stand still
            torch.nn.utils.clip_grad_norm_(side, config.gradient_clip)
        self.optimizer.step()
        return {name: float(value.detach()) for name, value in figures.items()}

    def _validate(self) -> None:
        agent, environment = self.agent, self.environment
        exposure = Exposure(tokens=environment.tokens)
        earned = session_returns(
            environment,
            lambda sight, _: agent.slates(sight, k=environment.slate_size, generator=None),
            users=self.config.validation_users,
            seed=derive(self.seed, "validation"),
            exposure=exposure,
        )
        self.validation_steps += self.config.validation_users * environment.horizon
        if self.first_exposure_N is None:
            self.first_exposure_N = exposure.count_N
        shown = exposure.figures(self.first_exposure_N, None)
        for name, value in {"validation_return": earned, **shown}.items():
            self._note(name, value)
        self.config.floors.check_exposure(
            shown["effective_items"], slate_size=environment.slate_size, items=environment.tokens - FIRST_ITEM,
            iteration=self.round,
        )  # fmt: skip
        self.stale += 1
        if earned > self.best_return:
            self.best_return, self.best, self.stale = earned, copy.deepcopy(agent.state_dict()), 0

    def _note(self, name: str, value: float) -> None:
        if not math.isfinite(value):
            raise DataError(f"{name} is {value} after {self.learning_steps} steps")
        self.curves.setdefault(name, []).append([self.learning_steps + self.validation_steps, value])

    def _identity(self) -> dict[str, Any]:
        return {"seed": self.seed, **asdict(self.config)}

    def _save(self) -> None:
        if self.scratch is None:
            return
        tensors = {f"agent.{name}": value for name, value in self.agent.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in self.best.items()}
        tensors |= {f"start.{name}": value for name, value in self.start.state_dict().items()}
        if self.first_exposure_N is not None:
            tensors["exposure.first"] = self.first_exposure_N
        tensors |= {f"answers.{name}": value for name, value in vars(self.answers[0]).items()}
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
        self.start.load_state_dict(_below(tensors, "start."))
        self.first_exposure_N = tensors.get("exposure.first")
        kind = Answers if self.agent.encoder is None else Played
        self.answers = [kind(**_below(tensors, "answers."))]
        restore_optimizer(self.optimizer, _below(tensors, "slates."))
        restore_optimizer(self.fit.optimizer, _below(tensors, "fit."))


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
