"""What a policy learns from a rollout: gradient steps on sessions that were played in shards.

Every shard's gradient is a row of its own, and the rows are added in their order, whoever computed them: several
processes take bit for bit the steps of one. Means and deviations are over all shards.

Shape legend: B sessions, H steps, T history, S states, R rows of a block of states, D width, N token ids, K slate,
C candidates, M columns of scores, P parameters' numbers.
"""

import copy
import math
from collections.abc import Iterable, Sequence
from itertools import chain

import torch
from torch import Tensor

from recolam.errors import ConfigError, DataError
from recolam.policy import plackett_luce
from recolam.policy.config import PolicyTrainingConfig
from recolam.policy.constraints import SlateConstraints
from recolam.policy.distribution import SlateDistribution, slates_after
from recolam.policy.gradient import advantages, discounted_returns, policy_gradient_loss
from recolam.policy.interaction import Interaction
from recolam.policy.item_value_learning import ItemValueLearner
from recolam.policy.label_gradient import label_gradient_loss
from recolam.policy.lesson import Lesson, Replayed, earned_before, replay
from recolam.policy.ppo import clipped_loss, clipped_share
from recolam.policy.rollout import Rollout
from recolam.policy.shards import flat_gradient, leave_sum
from recolam.sequence.distributed import Processes
from recolam.sequence.model import SequenceModel

_BLOCK = 128  # states whose scores of the whole catalogue are in memory together
_SCORES = 2**19  # of states times positions times items, likewise


class Learner:
    """Takes the steps.

    Args:
        reference: the policy that `kl_weight` holds the model to.
        temperature: divides item scores.
        constraints: those of the slates played.
        interaction: of autoregressive slates; the reference has it as it is now. Regularised is the first position
            alone, as for Plackett-Luce.
        item_values: what estimator "pl_rank" learns beside the policy.
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
        interaction: Interaction | None = None,
        item_values: ItemValueLearner | None = None,
    ) -> None:
        if (item_values is None) == (config.estimator == "pl_rank"):
            raise ConfigError(f"estimator {config.estimator!r}: item values belong to 'pl_rank' alone")
        self.model, self.reference, self.optimizer, self.config = model, reference, optimizer, config
        self.temperature, self.processes, self.constraints = temperature, processes, constraints
        self.interaction, self.first_interaction = interaction, copy.deepcopy(interaction)
        self.item_values = item_values
        learning = chain(model.parameters(), [] if interaction is None else interaction.parameters())
        self.parameters = [parameter for parameter in learning if parameter.requires_grad]

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
        if self.item_values is not None:  # last, so that no slate is judged by values that its own answer has moved
            return figures | self.item_values.learn(lessons)
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
            returns.append((return_BH, after_B))
            gains.append(gain_S)
            befores.append(before_SK)
        total = self.processes.all_blocks(torch.stack(rows), count=self.config.shards).sum(dim=0)
        states_count, sessions, gain, square, earned = total[:5].tolist()
        spread = max(math.sqrt(max(square - gain**2 / states_count, 0.0) / max(states_count - 1, 1)), 1e-6)
        before_mean_K = (total[5:] / states_count).to(befores[0])
        lessons = []
        for rollout, (return_BH, after_B), gain_S, before_SK in zip(rollouts, returns, gains, befores, strict=True):
            weight_SK = gain_S[:, None].expand_as(before_SK)
            if is_to_go:
                weight_SK = weight_SK - (before_SK - before_mean_K)
            with torch.no_grad():
                reference = replay(self.reference, rollout)
            lessons.append(Lesson(rollout, return_BH, after_B, weight_SK / spread, reference))
        self.states_count, self.spread = states_count, spread
        return lessons, {"return": earned / sessions}

    def _gradient(
        self, lessons: Sequence[Lesson], passes: Iterable[Replayed], entropy_weight: float
    ) -> dict[str, float]:
        """Leaves the gradient of the mean loss of all shards' states in the parameters; returns figures' means."""
        gradients, rows = [], []
        shards = self.config.shards
        for lesson, states in zip(lessons, passes, strict=True):
            for parameter in self.parameters:
                parameter.grad = None
            rows.append(torch.tensor(self._backward(lesson, states, entropy_weight), dtype=torch.float64))
            gradients.append(flat_gradient(self.parameters))
        leave_sum(self.parameters, gradients, self.processes, shards=shards)
        sums = self.processes.all_blocks(torch.stack(rows), count=shards).sum(dim=0) / self.states_count
        return dict(zip(("value_loss", "entropy", "kl", "moved", "clipped"), sums.tolist(), strict=True))

    def _backward(self, lesson: Lesson, states: Replayed, entropy_weight: float) -> list[float]:
        """One backward pass over a shard's states, their [S, N] scores formed a block at a time; sums over states."""
        config, rollout, count = self.config, lesson.rollout, self.states_count
        k = rollout.slate_BHK.shape[2]
        state_SD = states.state_SD.detach().requires_grad_()
        table_ND = states.table_ND.detach().requires_grad_()
        sums = torch.zeros(4, dtype=torch.float64)
        for rows in torch.arange(len(state_SD), device=state_SD.device).split(self._block(lesson, k)):
            seen_RT = states.seen_ST[rows]
            distribution = self._distribution(state_SD[rows], table_ND, lesson, seen_RT, rows, self.interaction)
            first_RM = distribution.first_scores(k)
            with torch.no_grad():
                old, first = lesson.reference, self.first_interaction
                reference = self._distribution(old.state_SD[rows], old.table_ND, lesson, seen_RT, rows, first)
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

    def _block(self, lesson: Lesson, k: int) -> int:
        """How many states are worked on together: autoregressive slates have other scores at every position."""
        if self.interaction is None:
            return _BLOCK
        columns = self.model.config.tokens if lesson.candidate_SC is None else lesson.candidate_SC.shape[1]
        return max(1, _SCORES // (k * columns))

    def _surrogate(self, distribution: SlateDistribution, lesson: Lesson, rows: Tensor) -> tuple[Tensor, float, float]:
        """The loss whose gradient is the estimate, how far the policy has moved from the one that played (Schulman's
        nonnegative estimate of the divergence), and how many slates are clipped; sums over the rows."""
        log_prob_RK = distribution.position_log_probs(lesson.slate_SK[rows])
        weight_RK = lesson.weight_SK[rows]
        if self.item_values is not None:
            return self._labelled(self.item_values, distribution, lesson, rows), 0.0, 0.0
        if self.config.estimator != "ppo":
            return policy_gradient_loss(log_prob_RK, weight_RK), 0.0, 0.0
        log_prob_R, old_R, clip = log_prob_RK.sum(dim=1), lesson.old_log_prob_S[rows], self.config.ppo.clip
        change_R = (log_prob_R - old_R).detach()
        clipped = clipped_share(log_prob_R.detach(), old_R, weight_RK[:, 0], clip=clip) * len(rows)
        loss = clipped_loss(log_prob_R, old_R, weight_RK[:, 0], clip=clip)
        return loss, float((change_R.expm1() - change_R).sum()), clipped

    def _labelled(
        self, item_values: ItemValueLearner, distribution: SlateDistribution, lesson: Lesson, rows: Tensor
    ) -> Tensor:
        candidate_RC = None if lesson.candidate_SC is None else lesson.candidate_SC[rows]
        label_RM = item_values.values.labels(lesson.reference.state_SD[rows], candidate_RC)
        return label_gradient_loss(
            distribution, lesson.slate_SK[rows], label_RM / self.spread, item_values.values.examination_K.detach(),
            form=self.config.pl_rank.form, correction=self.config.pl_rank.correction,
            weight_SK=lesson.weight_SK[rows],
        )  # fmt: skip

    def _distribution(
        self,
        state_RD: Tensor,
        table_ND: Tensor,
        lesson: Lesson,
        seen_RT: Tensor,
        rows: Tensor,
        interaction: Interaction | None,
    ) -> SlateDistribution:
        """The distribution that the slates of these rows were drawn from, under these weights."""
        candidate_RC = None if lesson.candidate_SC is None else lesson.candidate_SC[rows]
        return slates_after(
            state_RD, table_ND, seen_RT, candidate_RC, temperature=self.temperature, constraints=self.constraints,
            interaction=interaction,
        )  # fmt: skip

    def _step(self, figures: dict[str, float]) -> None:
        if not all(math.isfinite(value) for value in figures.values()):
            raise DataError(f"a figure of the policy's training is not finite: {figures}")
        torch.nn.utils.clip_grad_norm_(self.parameters, self.config.gradient_clip)
        self.optimizer.step()
