"""Policy-gradient training of a slate agent in a world. Every iteration draws from (seed, iteration) alone, so a killed
run resumes from its checkpoint to the same weights.

Shape legend: B sessions, H steps, S states, D width, N token ids, K slate.
"""

import copy
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from recolam.contracts.dataset import FIRST_ITEM
from recolam.errors import ConfigError, DataError
from recolam.policy import plackett_luce
from recolam.policy.agent import SlateAgent, admissible
from recolam.policy.exposure import CollapseFloors, Exposure
from recolam.policy.gradient import advantages, discounted_returns, policy_gradient_loss
from recolam.policy.returns import greedy, session_returns
from recolam.policy.rollout import Rollout, Sessions, play
from recolam.progress import Progress
from recolam.seeding import derive
from recolam.sequence.checkpoint import load_checkpoint, optimizer_tensors, restore_optimizer, save_checkpoint
from recolam.sequence.model import SequenceModel


_BLOCK = 128  # states whose scores of the whole catalogue are in memory together


@dataclass(frozen=True)
class PolicyTrainingConfig:
    """How to train. Each iteration plays `users` x `replicas` sessions and takes one gradient step.

    The learning rate falls to 0 along a cosine. `item_rate` scales that of the item side: Adam moves every item by the
    full rate however little a slate has told about it, and over a large catalogue that noise drowns what was
    learnt in pretraining.
    """

    iterations: int = 80
    users: int = 64
    replicas: int = 4
    gamma: float = 0.95
    learning_rate: float = 1e-3
    item_rate: float = 0.1
    value_weight: float = 0.2
    entropy_weight: float = 0.003
    kl_weight: float = 0.003
    gradient_clip: float = 1.0
    validate_every: int = 10
    validation_users: int = 256
    validation_seeds: int = 4
    checkpoint_every: int = 10
    floors: CollapseFloors = field(default_factory=CollapseFloors)

    def __post_init__(self) -> None:
        if min(self.users, self.replicas, self.validate_every, self.checkpoint_every, self.validation_seeds) < 1:
            raise ConfigError("users, replicas, validate_every, checkpoint_every, validation_seeds are at least 1")


def train_policy(
    agent: SlateAgent,
    environment: Sessions,
    config: PolicyTrainingConfig,
    *,
    seed: int,
    scratch: Path,
    popularity_N: Tensor | None = None,
) -> dict[str, list[list[float]]]:
    """Trains `agent` in place, leaves it at its best validated weights, returns the curves.

    Validation plays the greedy policy with seeds of its own, never those of the final comparison, and counts what it
    shows (`recolam.policy.exposure`); `popularity_N` holds the behaviour log's events per token id, for its drift.

    Raises:
        DataError: the loss is not finite.
        PolicyCollapse: under a floor of `config.floors`.
        ArtifactError: a damaged checkpoint.
    """
    trainer = _Trainer(agent, environment, config, seed=seed, scratch=scratch, popularity_N=popularity_N)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        return trainer.run()


class _Trainer:
    def __init__(
        self,
        agent: SlateAgent,
        environment: Sessions,
        config: PolicyTrainingConfig,
        *,
        seed: int,
        scratch: Path,
        popularity_N: Tensor | None = None,
    ) -> None:
        self.agent, self.environment, self.config, self.seed, self.scratch = agent, environment, config, seed, scratch
        self.model = agent.model.eval()  # dropout would make the sampled and the differentiated distribution differ
        self.reference = copy.deepcopy(agent.model).requires_grad_(False)
        self.optimizer = _adam(self.model, config)
        self.popularity_N = popularity_N
        self.first_exposure_N: Tensor | None = None
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
                config.floors.check_entropy(figures["entropy"], iteration=self.iteration)
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
        remaining = 0.5 * (1 + math.cos(math.pi * self.iteration / config.iterations))
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * remaining
        self.optimizer.zero_grad(set_to_none=True)
        figures = self._accumulate_gradients(rollout)
        if not all(math.isfinite(value) for value in figures.values()):
            raise DataError(f"a figure is not finite at iteration {self.iteration}: {figures}")
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.gradient_clip)
        self.optimizer.step()
        return figures

    def _accumulate_gradients(self, rollout: Rollout) -> dict[str, float]:
        """One backward pass over all states, their [S, N] scores formed a block at a time."""
        config, active_BH = self.config, rollout.is_active_BH
        states = replay(self.model, rollout)
        with torch.no_grad():
            reference = replay(self.reference, rollout)
            after_B = states.after_B * rollout.is_truncated_B  # who left earns nothing more; who was cut would have
            return_BH = discounted_returns(rollout.reward_BH, gamma=config.gamma, after_B=after_B)
            advantage_BH = advantages(return_BH, states.value_BH, active_BH, replicas=config.replicas)
            advantage_S = advantage_BH[active_BH] / advantage_BH[active_BH].std().clamp(min=1e-6)
        state_SD = states.state_SD.detach().requires_grad_()
        table_ND = states.table_ND.detach().requires_grad_()
        slate_SK, entropy, kl = rollout.slate_BHK[active_BH], 0.0, 0.0
        for rows in torch.arange(len(state_SD)).split(_BLOCK):
            score_RN = self._scores(state_SD[rows], table_ND, states.seen_ST[rows])
            with torch.no_grad():
                reference_RN = self._scores(reference.state_SD[rows], reference.table_ND, states.seen_ST[rows])
            gradient_loss = policy_gradient_loss(plackett_luce.log_prob(score_RN, slate_SK[rows]), advantage_S[rows])
            block_entropy = plackett_luce.first_pick_entropy(score_RN).sum()
            block_kl = plackett_luce.first_pick_kl(score_RN, reference_RN).sum()
            loss = gradient_loss + config.kl_weight * block_kl - config.entropy_weight * block_entropy
            (loss / len(state_SD)).backward()
            entropy, kl = entropy + float(block_entropy.detach()), kl + float(block_kl.detach())
        value_loss = (states.value_BH - return_BH)[active_BH].square().mean()
        torch.autograd.backward(
            [states.state_SD, states.table_ND, config.value_weight * value_loss], [state_SD.grad, table_ND.grad, None]
        )
        return {
            "return": float(rollout.reward_BH.sum(dim=1).mean()),
            "value_loss": float(value_loss.detach()),
            "entropy": entropy / len(state_SD),
            "kl": kl / len(state_SD),
        }

    def _scores(self, state_RD: Tensor, table_ND: Tensor, seen_RT: Tensor) -> Tensor:
        return admissible(state_RD @ table_ND.T / self.agent.temperature, seen_RT)

    def _validate(self) -> None:
        exposure = Exposure(tokens=self.environment.tokens)
        act = exposure.counted(greedy(self.agent, k=self.environment.slate_size))
        returns = [
            session_returns(
                self.environment, act, users=self.config.validation_users, seed=derive(self.seed, "validation", index)
            )
            for index in range(self.config.validation_seeds)
        ]
        mean = sum(returns) / len(returns)
        if self.first_exposure_N is None:
            self.first_exposure_N = exposure.count_N
        figures = {"validation_return": mean, **exposure.figures(self.first_exposure_N, self.popularity_N)}
        for name, value in figures.items():
            self.curves.setdefault(name, []).append([self.iteration, value])
        if self.iteration > 0:  # what pretraining left is not training's doing
            k, items = self.environment.slate_size, self.environment.tokens - FIRST_ITEM
            shown = figures["effective_items"]
            self.config.floors.check_exposure(shown, slate_size=k, items=items, iteration=self.iteration)
        if mean > self.best_return:
            self.best_return, self.best = mean, copy.deepcopy(self.model.state_dict())

    def _identity(self) -> dict[str, Any]:
        return {"seed": self.seed, **asdict(self.config)}

    def _save(self) -> None:
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in self.best.items()} | optimizer_tensors(self.optimizer)
        tensors["exposure.first"] = cast(Tensor, self.first_exposure_N)
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
        self.first_exposure_N = tensors["exposure.first"]
        restore_optimizer(self.optimizer, tensors)


def _adam(model: SequenceModel, config: PolicyTrainingConfig) -> torch.optim.Adam:
    item_side = ("item_vectors.", "text_projection.")
    items = [parameter for name, parameter in model.named_parameters() if name.startswith(item_side)]
    others = [parameter for name, parameter in model.named_parameters() if not name.startswith(item_side)]
    groups = [
        {"params": parameters, "lr": rate, "initial_lr": rate}
        for parameters, rate in ((others, config.learning_rate), (items, config.learning_rate * config.item_rate))
    ]
    return torch.optim.Adam(groups)


@dataclass(frozen=True)
class Replayed:
    """What one pass over a rollout's final histories gives.

    Attributes:
        state_SD: the state before each active step, in the order of `tensor[is_active_BH]`.
        seen_ST: what the history held then, padded with 0.
        table_ND: item embeddings.
        value_BH, after_B: the value head at every step, and after the last one.
    """

    state_SD: Tensor
    seen_ST: Tensor
    table_ND: Tensor
    value_BH: Tensor
    after_B: Tensor


def replay(model: SequenceModel, rollout: Rollout) -> Replayed:
    """Every state of a rollout from one pass: a causal model's earlier states do not depend on what came later."""
    longest = max(1, int(rollout.end_length_B.max()))
    history_BT = rollout.history_BT[:, :longest]
    table_ND = model.item_table()
    state_BSD = model(history_BT, table_ND=table_ND)
    rows_B1 = torch.arange(len(history_BT), device=history_BT.device)[:, None]
    state_BHD = state_BSD[rows_B1, rollout.length_BH]
    is_past_BHT = torch.arange(longest, device=history_BT.device) < rollout.length_BH[..., None]
    return Replayed(
        state_SD=state_BHD[rollout.is_active_BH],
        seen_ST=(history_BT[:, None] * is_past_BHT)[rollout.is_active_BH],
        table_ND=table_ND,
        value_BH=model.value_head(state_BHD)[..., 0],
        after_B=model.value_head(state_BSD[rows_B1[:, 0], rollout.end_length_B])[:, 0],
    )
