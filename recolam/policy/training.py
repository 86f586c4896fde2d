"""Policy-gradient training of a slate agent in a world. Every iteration draws from (seed, iteration, shard) alone, so a
killed run resumes from its checkpoint to the same weights, in as many processes as divide the shards.

Shape legend: B sessions, N token ids, J validation seeds.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from recolam.contracts.dataset import FIRST_ITEM
from recolam.policy.agent import SlateAgent
from recolam.policy.clock import Clock
from recolam.policy.config import PolicyTrainingConfig
from recolam.policy.exposure import Exposure
from recolam.policy.item_value_learning import ItemValueLearner
from recolam.policy.learner import Learner
from recolam.policy.returns import greedy, session_returns
from recolam.policy.rewarded import RewardedSessions
from recolam.policy.rollout import Sessions, play
from recolam.seeding import derive
from recolam.sequence.checkpoint import load_checkpoint, optimizer_tensors, restore_optimizer, save_checkpoint
from recolam.sequence.distributed import Processes, process_group

__all__ = ["OnValidation", "PolicyTrainingConfig", "train_policy"]

_ITEM_VALUES = "item_values."

OnValidation = Callable[[int, float], None]


def train_policy(
    agent: SlateAgent,
    environment: Sessions,
    config: PolicyTrainingConfig,
    *,
    seed: int,
    scratch: Path,
    popularity_N: Tensor | None = None,
    on_validation: OnValidation | None = None,
    clock: Clock | None = None,
) -> dict[str, list[list[float]]]:
    """Trains `agent` in place, leaves it at its best validated weights, returns the curves (`user_steps`: so far).

    Validation plays the greedy policy with seeds of its own, never those of the final comparison, and counts what it
    shows (`recolam.policy.exposure`); `popularity_N` holds the behaviour log's events per token id, for its drift.
    Under torchrun all processes call this with the same arguments and end with the same agent, the one of a single
    process: each plays its share of `config.shards` and of the validation seeds. Checkpoints are the first one's.

    Args:
        on_validation: told (iterations done, mean return) after each validation; what it raises ends the training.
        clock: is told the seconds of "policy" (rollouts), "learning" and "validation".

    Raises:
        ConfigError: `config.shards` cannot be dealt to the processes.
        DataError: the loss is not finite.
        PolicyCollapse: under a floor of `config.floors`.
        ArtifactError: a damaged checkpoint.
    """
    with process_group("cpu") as processes, torch.random.fork_rng(devices=processes.gpus):
        trainer = _Trainer(
            agent, environment, config, processes, seed=seed, scratch=scratch, popularity_N=popularity_N,
            clock=clock or Clock(),
        )  # fmt: skip
        return trainer.run(on_validation)


class _Trainer:
    def __init__(
        self,
        agent: SlateAgent,
        environment: Sessions,
        config: PolicyTrainingConfig,
        processes: Processes,
        *,
        seed: int,
        scratch: Path,
        popularity_N: Tensor | None,
        clock: Clock,
    ) -> None:
        processes.own_blocks(config.shards)  # refuses before anything is played
        self.agent, self.environment, self.config, self.processes = agent, environment, config, processes
        self.seed, self.scratch = seed, scratch
        self.model = agent.model.eval()  # dropout would make the sampled and the differentiated distribution differ
        self.networks = agent.networks()
        self.optimizer = _adam(agent, config)
        reference = copy.deepcopy(agent.model).requires_grad_(False)
        self.item_values = None
        if config.estimator == "pl_rank":
            self.item_values = ItemValueLearner(
                reference.item_table(), config.pl_rank, slate_size=environment.slate_size, gamma=config.gamma,
                shards=config.shards, processes=processes,
            )  # fmt: skip
        self.learner = Learner(
            self.model, reference, self.optimizer, config, temperature=agent.temperature, processes=processes,
            constraints=agent.constraints, interaction=agent.interaction, item_values=self.item_values,
        )  # fmt: skip
        self.popularity_N, self.clock = popularity_N, clock
        self.first_exposure_N: Tensor | None = None
        self.iteration, self.best_return, self.stale = 0, -math.inf, 0
        self.curves: dict[str, list[list[float]]] = {}
        self.best = copy.deepcopy(self.networks.state_dict())
        self._resume()

    def run(self, on_validation: OnValidation | None) -> dict[str, list[list[float]]]:
        config = self.config
        with self.processes.progress("policy", total=config.iterations, unit="iteration") as progress:
            progress.advance(self.iteration)
            if self.iteration == 0:
                self._validate(on_validation)
            while self.iteration < config.iterations and not 0 < config.patience <= self.stale:
                figures = self._iterate()
                self.iteration += 1
                config.floors.check_entropy(figures["entropy"], iteration=self.iteration)
                for name, value in figures.items():
                    self.curves.setdefault(name, []).append([self.iteration, value])
                if self.iteration % config.validate_every == 0 or self.iteration == config.iterations:
                    self._validate(on_validation)
                if self.iteration % config.checkpoint_every == 0:
                    self._save()
                progress.advance(best=self.best_return, earned=figures["return"])
        self.networks.load_state_dict(self.best)
        return self.curves

    def _iterate(self) -> dict[str, float]:
        config = self.config
        with self.clock.part("policy"):
            rollouts = [
                play(
                    self.environment, self.agent, users=config.users_of(shard), replicas=config.replicas,
                    seed=derive(self.seed, "rollout", self.iteration, shard),
                )
                for shard in self.processes.own_blocks(config.shards)
            ]  # fmt: skip
        remaining = 0.5 * (1 + math.cos(math.pi * self.iteration / config.iterations))
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * remaining
        with self.clock.part("learning"):
            figures = self.learner.learn(rollouts, entropy_weight=config.entropy_at(self.iteration))
        before = self.curves["user_steps"][-1][1] if self.iteration else 0
        return {**figures, "user_steps": before + int(self.learner.states_count)}

    def _validate(self, on_validation: OnValidation | None) -> None:
        exposure = Exposure(tokens=self.environment.tokens)
        act = greedy(self.agent, k=self.environment.slate_size)
        return_J = torch.zeros(self.config.validation_seeds, dtype=torch.float64)
        with self.clock.part("validation", is_whole=True):
            for index in range(self.processes.rank, len(return_J), self.processes.size):
                return_J[index] = session_returns(
                    self.environment, act, users=self.config.validation_users,
                    seed=derive(self.seed, "validation", index), exposure=exposure,
                )  # fmt: skip
        mean = float(self.processes.total(return_J).mean())
        exposure.count_N = self.processes.total(exposure.count_N)
        if self.first_exposure_N is None:
            self.first_exposure_N = exposure.count_N
        figures = {"validation_return": mean, **exposure.figures(self.first_exposure_N, self.popularity_N)}
        for name, value in figures.items():
            self.curves.setdefault(name, []).append([self.iteration, value])
        if self.iteration > 0:  # what pretraining left is not training's doing
            k, items = self.environment.slate_size, self.environment.tokens - FIRST_ITEM
            shown = figures["effective_items"]
            self.config.floors.check_exposure(shown, slate_size=k, items=items, iteration=self.iteration)
        self.stale += 1
        if mean > self.best_return:
            self.best_return, self.best, self.stale = mean, copy.deepcopy(self.networks.state_dict()), 0
        if on_validation is not None:
            on_validation(self.iteration, mean)

    def _identity(self) -> dict[str, Any]:
        reward = dict(self.environment.reward.weights) if isinstance(self.environment, RewardedSessions) else None
        settings = self.agent.settings
        restricted = {name: settings[name] for name in ("constraints", "candidates") if name in settings}
        decoder = self.agent.decoder
        return {"seed": self.seed, "reward": reward, "decoder": decoder, **restricted, **asdict(self.config)}

    def _save(self) -> None:
        if not self.processes.is_first:
            return
        tensors = dict(self.networks.state_dict())
        tensors |= {f"best.{name}": value for name, value in self.best.items()} | optimizer_tensors(self.optimizer)
        if self.item_values is not None:
            tensors |= {_ITEM_VALUES + name: value for name, value in self.item_values.tensors().items()}
        tensors["exposure.first"] = cast(Tensor, self.first_exposure_N)
        state = {
            "iteration": self.iteration, "best_return": self.best_return, "stale": self.stale, "curves": self.curves
        }  # fmt: skip
        save_checkpoint(self.scratch, tensors=tensors, state={"run": self._identity(), **state})

    def _resume(self) -> None:
        found = self.processes.shared(load_checkpoint(self.scratch) if self.processes.is_first else None)
        if found is None or found[1]["run"] != self._identity():
            return
        tensors, state = found
        self.iteration, self.best_return, self.stale = state["iteration"], state["best_return"], state["stale"]
        self.curves = state["curves"]
        self.networks.load_state_dict({name: tensors[name] for name in self.networks.state_dict()})
        self.best = {k.removeprefix("best."): v for k, v in tensors.items() if k.startswith("best.")}
        self.first_exposure_N = tensors["exposure.first"]
        restore_optimizer(self.optimizer, tensors)
        if self.item_values is not None:
            own = {k.removeprefix(_ITEM_VALUES): v for k, v in tensors.items() if k.startswith(_ITEM_VALUES)}
            self.item_values.restore(own)


def _adam(agent: SlateAgent, config: PolicyTrainingConfig) -> torch.optim.Adam:
    item_side, model, rate = ("item_vectors.", "text_projection."), agent.model, config.learning_rate
    items = [parameter for name, parameter in model.named_parameters() if name.startswith(item_side)]
    others = [parameter for name, parameter in model.named_parameters() if not name.startswith(item_side)]
    rates = [(others, rate), (items, rate * config.item_rate)]
    if agent.interaction is not None:
        rates.append((list(agent.interaction.parameters()), rate * config.interaction_rate))
    return torch.optim.Adam([{"params": parameters, "lr": rate, "initial_lr": rate} for parameters, rate in rates])
