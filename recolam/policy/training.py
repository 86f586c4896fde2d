"""Policy-gradient training of a slate agent in a world. Every iteration draws from (seed, iteration) alone, so a killed
run resumes from its checkpoint to the same weights.

Shape legend: B sessions, H steps, S states, D width, N token ids, K slate.
"""

import copy
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recolam.errors import ConfigError, DataError
from recolam.policy import plackett_luce
from recolam.policy.agent import SlateAgent, admissible
from recolam.policy.gradient import advantages, discounted_returns, policy_gradient_loss
from recolam.policy.returns import session_returns
from recolam.policy.rollout import Rollout, play
from recolam.progress import Progress
from recolam.seeding import derive
from recolam.sequence.checkpoint import load_checkpoint, optimizer_tensors, restore_optimizer, save_checkpoint
from recolam.sequence.model import SequenceModel
from recolam.world.environment import SimulatedUsers


@dataclass(frozen=True)
class PolicyTrainingConfig:
    """How to train. Each iteration plays `users` x `replicas` sessions and takes one gradient step."""

    iterations: int = 80
    users: int = 64
    replicas: int = 4
    gamma: float = 0.95
    learning_rate: float = 1e-3
    value_weight: float = 0.2
    entropy_weight: float = 0.003
    kl_weight: float = 0.003
    gradient_clip: float = 1.0
    validate_every: int = 10
    validation_users: int = 256
    validation_seeds: int = 2
    checkpoint_every: int = 10

    def __post_init__(self) -> None:
        if min(self.users, self.replicas, self.validate_every, self.checkpoint_every, self.validation_seeds) < 1:
            raise ConfigError("users, replicas, validate_every, checkpoint_every, validation_seeds are at least 1")


def train_policy(
    agent: SlateAgent, environment: SimulatedUsers, config: PolicyTrainingConfig, *, seed: int, scratch: Path
) -> dict[str, list[list[float]]]:
    """Trains `agent` in place, leaves it at its best validated weights, returns the curves.

    Validation plays the greedy policy with seeds of its own, never those of the final comparison.

    Raises:
        DataError: the loss is not finite.
        ArtifactError: a damaged checkpoint.
    """
    trainer = _Trainer(agent, environment, config, seed=seed, scratch=scratch)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        return trainer.run()


class _Trainer:
    def __init__(
        self, agent: SlateAgent, environment: SimulatedUsers, config: PolicyTrainingConfig, *, seed: int, scratch: Path
    ) -> None:
        self.agent, self.environment, self.config, self.seed, self.scratch = agent, environment, config, seed, scratch
        self.model = agent.model.eval()  # dropout would make the sampled and the differentiated distribution differ
        self.reference = copy.deepcopy(agent.model).requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=config.learning_rate)
        self.iteration, self.best_return = 0, -math.inf
        self.curves: dict[str, list[list[float]]] = {}
        self.best = copy.deepcopy(self.model.state_dict())
        self._resume()

    def run(self) -> dict[str, list[list[float]]]:
        config = self.config
        with Progress("policy", total=config.iterations, unit="iteration") as progress:
            progress.advance(self.iteration)
            if self.iteration == 0:
                self._validate()
            while self.iteration < config.iterations:
                figures = self._iterate()
                self.iteration += 1
                for name, value in figures.items():
                    self.curves.setdefault(name, []).append([self.iteration, value])
                if self.iteration % config.validate_every == 0 or self.iteration == config.iterations:
                    self._validate()
                if self.iteration % config.checkpoint_every == 0:
                    self._save()
                progress.advance(best=self.best_return, earned=figures["return"])
        self.model.load_state_dict(self.best)
        return self.curves

    def _iterate(self) -> dict[str, float]:
        config = self.config
        rollout = play(
            self.environment, self.agent, users=config.users, replicas=config.replicas,
            seed=derive(self.seed, "rollout", self.iteration),
        )  # fmt: skip
        loss, figures = self._loss(rollout)
        if not math.isfinite(float(loss.detach())):
            raise DataError(f"the policy's loss became {float(loss.detach())} at iteration {self.iteration}")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.gradient_clip)
        self.optimizer.step()
        return figures

    def _loss(self, rollout: Rollout) -> tuple[Tensor, dict[str, float]]:
        config, is_active_BH = self.config, rollout.is_active_BH
        score_SN, value_BH, after_B = replay(self.model, rollout, temperature=self.agent.temperature)
        log_prob_S = plackett_luce.log_prob(score_SN, rollout.slate_BHK[is_active_BH])
        with torch.no_grad():
            reference_SN, _, _ = replay(self.reference, rollout, temperature=self.agent.temperature)
            after_B = after_B * rollout.is_truncated_B  # who left earns nothing more; who was cut would have
            return_BH = discounted_returns(rollout.reward_BH, gamma=config.gamma, after_B=after_B)
            advantage_BH = advantages(return_BH, value_BH, is_active_BH, replicas=config.replicas)
            spread = advantage_BH[is_active_BH].std().clamp(min=1e-6)
        log_prob_BH = torch.zeros_like(rollout.reward_BH).masked_scatter(is_active_BH, log_prob_S)
        gradient_loss = policy_gradient_loss(log_prob_BH, advantage_BH / spread, is_active_BH)
        value_loss = (value_BH - return_BH)[is_active_BH].square().mean()
        entropy = plackett_luce.first_pick_entropy(score_SN).mean()
        kl = plackett_luce.first_pick_kl(score_SN, reference_SN).mean()
        loss = (
            gradient_loss + config.value_weight * value_loss - config.entropy_weight * entropy + config.kl_weight * kl
        )
        figures = {
            "return": float(rollout.reward_BH.sum(dim=1).mean()),
            "value_loss": float(value_loss.detach()),
            "entropy": float(entropy.detach()),
            "kl": float(kl.detach()),
        }
        return loss, figures

    def _validate(self) -> None:
        returns = [
            session_returns(
                self.environment,
                lambda observation, _: self.agent.slates(observation, k=self.environment.slate_size, generator=None),
                users=self.config.validation_users,
                seed=derive(self.seed, "validation", index),
            )
            for index in range(self.config.validation_seeds)
        ]
        mean = sum(returns) / len(returns)
        self.curves.setdefault("validation_return", []).append([self.iteration, mean])
        if mean > self.best_return:
            self.best_return, self.best = mean, copy.deepcopy(self.model.state_dict())

    def _identity(self) -> dict[str, Any]:
        return {"seed": self.seed, **vars(self.config)}

    def _save(self) -> None:
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in self.best.items()} | optimizer_tensors(self.optimizer)
        state = {"iteration": self.iteration, "best_return": self.best_return, "curves": self.curves}
        save_checkpoint(self.scratch, tensors=tensors, state={"run": self._identity(), **state})

    def _resume(self) -> None:
        found = load_checkpoint(self.scratch)
        if found is None or found[1]["run"] != self._identity():
            return
        tensors, state = found
        self.iteration, self.best_return, self.curves = state["iteration"], state["best_return"], state["curves"]
        self.model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
        self.best = {k.removeprefix("best."): v for k, v in tensors.items() if k.startswith("best.")}
        restore_optimizer(self.optimizer, tensors)


def replay(model: SequenceModel, rollout: Rollout, *, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Scores and values at every state of a rollout, from one pass over the final histories.

    Returns:
        Plackett-Luce scores [S, N] of the active states (in the order of `tensor[is_active_BH]`), values [B, H] and
        the value after the last step [B].
    """
    longest = max(1, int(rollout.end_length_B.max()))
    history_BT = rollout.history_BT[:, :longest]
    table_ND = model.item_table()
    state_BSD = model(history_BT, table_ND=table_ND)
    rows_B1 = torch.arange(len(history_BT), device=history_BT.device)[:, None]
    state_BHD = state_BSD[rows_B1, rollout.length_BH]
    value_BH = model.value_head(state_BHD)[..., 0]
    after_B = model.value_head(state_BSD[rows_B1[:, 0], rollout.end_length_B])[:, 0]
    is_past_BHT = torch.arange(longest, device=history_BT.device) < rollout.length_BH[..., None]
    seen_BHT = history_BT[:, None] * is_past_BHT  # what came later becomes padding
    score_SN = state_BHD[rollout.is_active_BH] @ table_ND.T / temperature
    return admissible(score_SN, seen_BHT[rollout.is_active_BH]), value_BH, after_B
