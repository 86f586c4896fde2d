"""Learning `ItemValues` from rollouts: by temporal differences with the next state in the target, beside the policy.

Every shard's gradient is a row, and the rows are added in their order, as in `learner`: several processes learn the
values of one, bit for bit.

Shape legend: B sessions, H steps, S states, N token ids, D width, P parameters' numbers.
"""

import copy
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from recolam.errors import DataError
from recolam.policy.config import PlRankConfig
from recolam.policy.item_values import ItemValues, td_targets
from recolam.policy.lesson import Lesson
from recolam.policy.shards import flat_gradient, leave_sum
from recolam.sequence.checkpoint import optimizer_tensors, restore_optimizer
from recolam.sequence.distributed import Processes


class ItemValueLearner:
    """Takes the steps, and keeps the slow copy that values the next state.

    Args:
        table_ND: item embeddings of the model that the lessons' `reference` states come from.
        shards: of all processes together.
    """

    def __init__(
        self,
        table_ND: Tensor,
        config: PlRankConfig,
        *,
        slate_size: int,
        gamma: float,
        shards: int,
        processes: Processes,
    ) -> None:
        self.config, self.gamma, self.shards, self.processes = config, gamma, shards, processes
        self.values = ItemValues(table_ND, slate_size=slate_size).to(table_ND.device)
        self.slow = copy.deepcopy(self.values).requires_grad_(False)
        self.parameters = list(self.values.parameters())
        self.optimizer = torch.optim.Adam(self.parameters, lr=config.learning_rate)

    def learn(self, lessons: Sequence[Lesson]) -> dict[str, float]:
        """Some steps on the shards' lessons; the mean losses before them.

        Raises:
            DataError: a loss is not finite.
        """
        if not self.values.is_measured:
            self._measure(lessons)
        figures: dict[str, float] = {}
        for _ in range(self.config.steps):
            found = self._step(lessons)
            figures = figures or found
        if not all(math.isfinite(value) for value in figures.values()):
            raise DataError(f"the item values' training is not finite: {figures}; lower pl_rank.learning_rate")
        return figures

    def targets(self, lesson: Lesson) -> Tensor:
        """What each slate of a lesson came to, float [S], in units of the values."""
        rollout, scale = lesson.rollout, self.values.value_scale
        active_BH = rollout.is_active_BH
        value_BH = torch.zeros_like(rollout.reward_BH)
        value_BH[active_BH] = self.slow.slate_values(lesson.reference.state_SD, lesson.slate_SK)
        target_BH = td_targets(
            rollout.reward_BH / scale, value_BH, active_BH, gamma=self.gamma, trace=self.config.trace,
            after_B=lesson.after_B / scale, is_truncated_B=rollout.is_truncated_B,
        )  # fmt: skip
        return target_BH[active_BH]

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a resumed run needs, by name."""
        kept = {f"values.{name}": value for name, value in self.values.state_dict().items()}
        kept |= {f"slow.{name}": value for name, value in self.slow.state_dict().items()}
        return kept | optimizer_tensors(self.optimizer)

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `tensors`."""
        for name, module in (("values.", self.values), ("slow.", self.slow)):
            own = {key.removeprefix(name): value for key, value in tensors.items() if key.startswith(name)}
            module.load_state_dict(own)
        restore_optimizer(self.optimizer, tensors)

    def _step(self, lessons: Sequence[Lesson]) -> dict[str, float]:
        gradients, rows = [], []
        for lesson in lessons:
            self.optimizer.zero_grad()
            value_loss, click_loss = self.values.losses(
                lesson.reference.state_SD, lesson.slate_SK, lesson.is_clicked_SK, self.targets(lesson)
            )
            (value_loss + click_loss).backward()
            figures = (float(value_loss.detach()), float(click_loss.detach()), float(lesson.slate_SK.shape[0]))
            rows.append(torch.tensor(figures, dtype=torch.float64))
            gradients.append(flat_gradient(self.parameters))
        value, click, states = self.processes.all_blocks(torch.stack(rows), count=self.shards).sum(dim=0).tolist()
        leave_sum(self.parameters, [part_P / states for part_P in gradients], self.processes, shards=self.shards)
        self.optimizer.step()
        with torch.no_grad():
            for slow, fast in zip(self.slow.parameters(), self.parameters, strict=True):
                slow.lerp_(fast, self.config.target_rate)
        return {"item_value_loss": value / states, "click_loss": click / states}

    def _measure(self, lessons: Sequence[Lesson]) -> None:
        """The units of states and returns, from the first lessons of all shards."""
        rows = []
        for lesson in lessons:
            return_S = lesson.return_BH[lesson.rollout.is_active_BH].double()
            length_S = lesson.reference.state_SD.double().square().sum(dim=1)
            parts = [return_S.sum(), return_S.square().sum(), length_S.sum(), torch.ones_like(return_S).sum()]
            rows.append(torch.stack(parts))
        total, square, length, states = (
            self.processes.all_blocks(torch.stack(rows), count=self.shards).sum(dim=0).tolist()
        )
        for values in (self.values, self.slow):
            values.measure(math.sqrt(length / states), total / states, math.sqrt(square / states))
