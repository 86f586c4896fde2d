"""What a policy learns from a rollout: gradient steps on sessions that were played in shards.

Every shard's gradient is a row of its own, and the rows are added in their order, whoever computed them: several
processes take bit for bit the steps of one. Means and deviations are over all shards.

Shape legend: B sessions, H steps, T history, S states, R rows of a block of states, D width, N token ids, K slate,
C candidates, M columns of scores, P parameters' numbers.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from recolam.errors import DataError
from recolam.policy import plackett_luce
from recolam.policy.config import PolicyTrainingConfig
from recolam.policy.constraints import SlateConstraints
from recolam.policy.distribution import SlateDistribution, over_candidates, over_catalogue
from recolam.policy.gradient import advantages, discounted_returns, policy_gradient_loss
from recolam.policy.ppo import clipped_loss, clipped_share
from recolam.policy.rollout import Rollout
from recolam.sequence.distributed import Processes
from recolam.sequence.model import SequenceModel

_BLOCK = 128  # states whose scores of the whole catalogue are in memory together


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


@dataclass(frozen=True)
class Lesson:
    """A shard's rollout and what each slate of it was worth.

    Attributes:
        return_BH: discounted returns; what a session that the horizon cut would have earned is the value head's guess.
        weight_SK: what each position's log-probability is weighted by.
        reference: the pretrained policy's pass.
    """

    rollout: Rollout
    return_BH: Tensor
    weight_SK: Tensor
    reference: Replayed

    @property
    def slate_SK(self) -> Tensor:
        return self.rollout.slate_BHK[self.rollout.is_active_BH]

    @cached_property
    def candidate_SC(self) -> Tensor | None:
        candidate_BHC = self.rollout.candidate_BHC
        return None if candidate_BHC is None else candidate_BHC[self.rollout.is_active_BH]

    @property
    def old_log_prob_S(self) -> Tensor:
        return self.rollout.log_prob_BH[self.rollout.is_active_BH]


def earned_before(rollout: Rollout) -> Tensor:
    """What was earned at the positions before each one, float [S, K]; a reward belongs to its step's clicks alike."""
    is_clicked_SK = rollout.is_clicked_BHK[rollout.is_active_BH].float()
    reward_S = rollout.reward_BH[rollout.is_active_BH]
    earned_SK = is_clicked_SK * (reward_S / is_clicked_SK.sum(dim=1).clamp(min=1.0))[:, None]
    return earned_SK.cumsum(dim=1) - earned_SK


class Learner:
    """Takes the steps.

    Args:
        reference: the policy that `kl_weight` holds the model to.
        temperature: divides item scores.
        constraints: those of the slates played.
    """

    def __init__(
        self,
        model: SequenceModel,
        reference: SequenceModel,
        optimizer: torch.optim.Optimizer,
        config: PolicyTrainingConfig,
        *,
        temperature: float,
        processes: Processes,
        constraints: SlateConstraints | None = None,
    ) -> None:
        self.model, self.reference, self.optimizer, self.config = model, reference, optimizer, config
        self.temperature, self.processes, self.constraints = temperature, processes, constraints
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def learn(self, rollouts: Sequence[Rollout], *, entropy_weight: float) -> dict[str, float]:
        """One step on the shards' rollouts, or several (`PpoConfig`); the figures are those of the first.

        Raises:
            DataError: a figure is not finite.
        """
        ppo = self.config.ppo
        passes = [replay(self.model, rollout) for rollout in rollouts]
        lessons, figures = self._lessons(rollouts, passes)
        found = self._gradient(lessons, passes, entropy_weight)
        figures |= {name: found[name] for name in ("value_loss", "entropy", "kl")}
        self._step(figures)
        if self.config.estimator != "ppo":
            return figures
        del passes
        steps = 1
        while steps < ppo.epochs:
            found = self._gradient(lessons, (replay(self.model, rollout) for rollout in rollouts), entropy_weight)
            if 0 < ppo.kl_limit < found["moved"]:
                break
            self._step(found)
            steps += 1
        return figures | {"steps": float(steps), "clipped": found["clipped"]}

    def _lessons(
        self, rollouts: Sequence[Rollout], passes: Sequence[Replayed]
    ) -> tuple[list[Lesson], dict[str, float]]:
        """Weights are in units of the deviation of all advantages."""
        gamma, replicas = self.config.gamma, self.config.replicas
        is_to_go = self.config.estimator == "reward_to_go"
        returns, gains, befores, rows = [], [], [], []
        for rollout, states in zip(rollouts, passes, strict=True):
            active_BH = rollout.is_active_BH
            after_B = states.after_B.detach() * rollout.is_truncated_B  # who left earns nothing more
            return_BH = discounted_returns(rollout.reward_BH, gamma=gamma, after_B=after_B)
            advantage_BH = advantages(return_BH, states.value_BH.detach(), active_BH, replicas=replicas)
            gain_S, before_SK = advantage_BH[active_BH], earned_before(rollout)
            sums = [gain_S.double().sum(), gain_S.double().square().sum(), rollout.reward_BH.double().sum()]
            counts = torch.tensor([len(gain_S), len(active_BH)], dtype=torch.float64)
            rows.append(torch.cat([counts, torch.stack(sums).cpu(), before_SK.double().sum(dim=0).cpu()]))
            returns.append(return_BH)
            gains.append(gain_S)
            befores.append(before_SK)
        total = self.processes.all_blocks(torch.stack(rows), count=self.config.shards).sum(dim=0)
        states_count, sessions, gain, square, earned = total[:5].tolist()
        spread = max(math.sqrt(max(square - gain**2 / states_count, 0.0) / max(states_count - 1, 1)), 1e-6)
        before_mean_K = (total[5:] / states_count).to(befores[0])
        lessons = []
        for rollout, return_BH, gain_S, before_SK in zip(rollouts, returns, gains, befores, strict=True):
            weight_SK = gain_S[:, None].expand_as(before_SK)
            if is_to_go:
                weight_SK = weight_SK - (before_SK - before_mean_K)
            with torch.no_grad():
                reference = replay(self.reference, rollout)
            lessons.append(Lesson(rollout, return_BH, weight_SK / spread, reference))
        self.states_count = states_count
        return lessons, {"return": earned / sessions}

    def _gradient(
        self, lessons: Sequence[Lesson], passes: Iterable[Replayed], entropy_weight: float
    ) -> dict[str, float]:
        """Leaves the gradient of the mean loss of all shards' states in the parameters; returns figures' means."""
        gradients, rows = [], []
        for lesson, states in zip(lessons, passes, strict=True):
            self.model.zero_grad(set_to_none=True)
            rows.append(torch.tensor(self._backward(lesson, states, entropy_weight), dtype=torch.float64))
            gradients.append(torch.cat([_flat_gradient(parameter) for parameter in self.parameters]))
        shards = self.config.shards
        gradient_P = self.processes.all_blocks(torch.stack(gradients), count=shards).sum(dim=0)
        sizes = [parameter.numel() for parameter in self.parameters]
        for parameter, part in zip(self.parameters, gradient_P.split(sizes), strict=True):
            parameter.grad = part.view_as(parameter)
        sums = self.processes.all_blocks(torch.stack(rows), count=shards).sum(dim=0) / self.states_count
        return dict(zip(("value_loss", "entropy", "kl", "moved", "clipped"), sums.tolist(), strict=True))

    def _backward(self, lesson: Lesson, states: Replayed, entropy_weight: float) -> list[float]:
        """One backward pass over a shard's states, their [S, N] scores formed a block at a time; sums over states."""
        config, rollout, count = self.config, lesson.rollout, self.states_count
        k = rollout.slate_BHK.shape[2]
        state_SD = states.state_SD.detach().requires_grad_()
        table_ND = states.table_ND.detach().requires_grad_()
        sums = torch.zeros(4, dtype=torch.float64)
        for rows in torch.arange(len(state_SD), device=state_SD.device).split(_BLOCK):
            distribution = self._distribution(state_SD[rows], table_ND, lesson, states.seen_ST[rows], rows)
            first_RM = distribution.first_scores(k)
            with torch.no_grad():
                old = lesson.reference
                reference = self._distribution(old.state_SD[rows], old.table_ND, lesson, states.seen_ST[rows], rows)
                reference_RM = reference.first_scores(k)
            gradient_loss, moved, clipped = self._surrogate(distribution, lesson, rows)
            entropy = plackett_luce.first_pick_entropy(first_RM).sum()
            kl = plackett_luce.first_pick_kl(first_RM, reference_RM).sum()
            ((gradient_loss + config.kl_weight * kl - entropy_weight * entropy) / count).backward()
            sums += torch.tensor([float(entropy.detach()), float(kl.detach()), moved, clipped])
        value_loss = (states.value_BH - lesson.return_BH)[rollout.is_active_BH].square().sum()
        torch.autograd.backward(
            [states.state_SD, states.table_ND, config.value_weight * value_loss / count],
            [state_SD.grad, table_ND.grad, None],
        )
        return [float(value_loss.detach()), *sums.tolist()]

    def _surrogate(self, distribution: SlateDistribution, lesson: Lesson, rows: Tensor) -> tuple[Tensor, float, float]:
        """The loss whose gradient is the estimate, how far the policy has moved from the one that played (Schulman's
        nonnegative estimate of the divergence), and how many slates are clipped; sums over the rows."""
        log_prob_RK = distribution.position_log_probs(lesson.slate_SK[rows])
        weight_RK = lesson.weight_SK[rows]
        if self.config.estimator != "ppo":
            return policy_gradient_loss(log_prob_RK, weight_RK), 0.0, 0.0
        log_prob_R, old_R, clip = log_prob_RK.sum(dim=1), lesson.old_log_prob_S[rows], self.config.ppo.clip
        change_R = (log_prob_R - old_R).detach()
        clipped = clipped_share(log_prob_R.detach(), old_R, weight_RK[:, 0], clip=clip) * len(rows)
        loss = clipped_loss(log_prob_R, old_R, weight_RK[:, 0], clip=clip)
        return loss, float((change_R.expm1() - change_R).sum()), clipped

    def _distribution(
        self, state_RD: Tensor, table_ND: Tensor, lesson: Lesson, seen_RT: Tensor, rows: Tensor
    ) -> SlateDistribution:
        """The distribution that the slates of these rows were drawn from, under these weights."""
        if lesson.candidate_SC is None:
            return over_catalogue(state_RD @ table_ND.T / self.temperature, seen_RT, self.constraints)
        return over_candidates(
            state_RD, table_ND, lesson.candidate_SC[rows], temperature=self.temperature, constraints=self.constraints
        )

    def _step(self, figures: dict[str, float]) -> None:
        if not all(math.isfinite(value) for value in figures.values()):
            raise DataError(f"a figure of the policy's training is not finite: {figures}")
        torch.nn.utils.clip_grad_norm_(self.parameters, self.config.gradient_clip)
        self.optimizer.step()


def _flat_gradient(parameter: Tensor) -> Tensor:
    return (torch.zeros_like(parameter) if parameter.grad is None else parameter.grad).flatten()
