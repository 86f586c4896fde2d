"""Playing sessions in a world and writing down what learning needs.

Shape legend: B sessions, H steps, T history, K slate, C candidates.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from recolam.contracts.protocols import Observation, StepResult
from recolam.policy.agent import SlateAgent
from recolam.world.runtime import Value


class Sessions(Protocol):
    """What a rollout plays in: `SimulatedUsers`, or these under another reward."""

    users: Any
    horizon: int

    @property
    def tokens(self) -> int: ...

    @property
    def slate_size(self) -> int: ...

    @property
    def state(self) -> Value: ...

    def reset(self, *, users: int, seed: int) -> Observation: ...

    def replicate(self, replicas: int) -> Observation: ...

    def step(self, slate_BK: Tensor) -> StepResult: ...


@dataclass(frozen=True)
class Rollout:
    """Sessions played side by side.

    Attributes:
        history_BT: each user's history when the rollout ended. A causal model reads every earlier state off it.
        length_BH: history length when slate h was chosen.
        slate_BHK, is_clicked_BHK, reward_BH: what was shown, clicked and earned.
        log_prob_BH: log-probability of the slate under the distribution it was sampled from.
        is_active_BH: False for steps after a session's end; these carry nothing.
        end_length_B: history length at the end.
        is_truncated_B: True where the horizon, not the user, ended the session.
        candidate_BHC: from which items slate h was drawn; None for the whole catalogue.
    """

    history_BT: Tensor
    length_BH: Tensor
    slate_BHK: Tensor
    is_clicked_BHK: Tensor
    reward_BH: Tensor
    log_prob_BH: Tensor
    is_active_BH: Tensor
    end_length_B: Tensor
    is_truncated_B: Tensor
    candidate_BHC: Tensor | None = None


@torch.no_grad()
def play(environment: Sessions, agent: SlateAgent, *, users: int, replicas: int, seed: int) -> Rollout:
    """Plays `users` x `replicas` sessions; the replicas of one user begin alike (rows u * replicas to + replicas).

    Slates are sampled; seeds decide everything.
    """
    observation = environment.reset(users=users, seed=seed)
    observation = environment.replicate(replicas)
    generator = torch.Generator(device=observation.history_BT.device).manual_seed(seed)
    following = agent.following()
    lengths, slates, clicked, rewards, log_probs, actives, candidates = [], [], [], [], [], [], []
    is_truncated_B = torch.zeros(users * replicas, dtype=torch.bool, device=observation.length_B.device)
    for _ in range(environment.horizon):
        is_active_B = environment.state.get("is_active")
        if not bool(is_active_B.any()):
            break
        distribution = following(observation)
        slate_BK = distribution.sample(environment.slate_size, generator)
        lengths.append(observation.length_B)
        log_probs.append(distribution.position_log_probs(slate_BK).sum(dim=1))
        if distribution.candidate_BC is not None:
            candidates.append(distribution.candidate_BC)
        result = environment.step(slate_BK)
        slates.append(slate_BK)
        clicked.append(result.is_clicked_BK)
        rewards.append(result.reward_B)
        actives.append(is_active_B)
        is_truncated_B |= result.truncated_B
        observation = result.observation
    return Rollout(
        history_BT=observation.history_BT,
        length_BH=torch.stack(lengths, dim=1),
        slate_BHK=torch.stack(slates, dim=1),
        is_clicked_BHK=torch.stack(clicked, dim=1),
        reward_BH=torch.stack(rewards, dim=1),
        log_prob_BH=torch.stack(log_probs, dim=1),
        is_active_BH=torch.stack(actives, dim=1),
        end_length_B=observation.length_B,
        is_truncated_B=is_truncated_B,
        candidate_BHC=torch.stack(candidates, dim=1) if candidates else None,
    )
