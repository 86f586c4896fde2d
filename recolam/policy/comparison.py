"""The pipeline's comparison: who competes with the trained policy, and what each earns and shows.

All play the same held-out users on the same seeds, with the same rules: no item that the user had, and the policy's
constraints. Those that learn do so before, with the train users under the reward that the policy learns for.

Shape legend: N token ids.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recolam.contracts.dataset import TokenisedDataset
from recolam.policy import returns, rivals
from recolam.policy.admission import NewToTheUser
from recolam.policy.agent import SlateAgent
from recolam.policy.exposure import Exposure, coverage_of, logged_exposure
from recolam.policy.random_log import Budget
from recolam.policy.represented import Representation, Represented
from recolam.policy.returns import Act
from recolam.policy.rollout import Sessions
from recolam.policy.slateq_agent import SlateQConfig
from recolam.progress import say
from recolam.seeding import derive
from recolam.world.environment import SimulatedUsers

BANDIT, SLATEQ = "bandit", "slateq"
_SIDE_BY_SIDE = 256  # sessions that a rival plays at once
_SEEN = 2000  # users whose states decide on the directions


@dataclass(frozen=True)
class PolicyBudget:
    """What the policy learnt from: sessions and, in them, user-steps; a rival plays at most `most` steps of these."""

    sessions: int
    user_steps: int
    most: int

    def of_rivals(self, horizon: int) -> Budget:
        """As many sessions, cut at about `most` user-steps if sessions are as long as the policy's."""
        share = min(1.0, self.most / max(self.user_steps, 1))
        sessions = max(1, round(self.sessions * share))
        users = min(_SIDE_BY_SIDE, sessions)
        return Budget(steps=sessions // users * users * horizon, users=users)


def contestants(
    agent: SlateAgent, untrained: SlateAgent, judging: SimulatedUsers, popularity_N: Tensor
) -> dict[str, Act]:
    """All policies that need no learning beside the trained one, by name, for `judging`."""
    k, rules = judging.slate_size, agent.constraints
    return {
        "random": returns.uniform(tokens=judging.tokens, k=k, constraints=rules),
        "popularity": returns.static(popularity_N, k=k, constraints=rules),
        "untrained": returns.sampled(untrained, k=k),
        "pretrained_greedy": returns.greedy(untrained, k=k),
        "trained": returns.greedy(agent, k=k),
        "trained_sampled": returns.sampled(agent, k=k),
        "myopic": returns.myopic(judging, rules),
    }


def learnt_rivals(
    learning: Sessions, untrained: SlateAgent, popularity_N: Tensor, budget: PolicyBudget, *, gamma: float, seed: int
) -> tuple[dict[str, Act], dict[str, dict[str, int]]]:
    """The bandit and SlateQ on the pretrained representation, which have learnt; and from how much each did.

    Args:
        learning: the train users, under the reward that is learnt for.
        untrained: the policy before training: its model is the representation, its rules are the rivals' rules.
    """
    with torch.no_grad():
        users = learning.reset(users=_SEEN, seed=derive(seed, "rivals", "directions"))
        representation = Representation.of(untrained.model, users, popularity_N)
    admission, allowed = NewToTheUser(learning.tokens, untrained.constraints), budget.of_rivals(learning.horizon)
    acts, learnt_from = {}, {}
    for name in (BANDIT, SLATEQ):
        say(f"comparison: {name} learns")
        world, own_seed = Represented(learning, representation), derive(seed, "rivals", name)
        if name == BANDIT:
            act = rivals.bandit(world, allowed, seed=own_seed, admission=admission)
        else:
            act = rivals.slateq(
                world, allowed, SlateQConfig(gamma=gamma, gradient_steps=20), seed=own_seed, admission=admission
            )
        acts[name] = representation.seeing(act)
        learnt_from[name] = {"sessions": allowed.steps // learning.horizon, "user_steps": world.played}
    return acts, learnt_from


def what_was_shown(
    exposures: Mapping[str, Exposure], dataset: TokenisedDataset, popularity_N: Tensor
) -> dict[str, Any]:
    """Figures of each policy's and the behaviour log's showings, for exposure.json.

    Returns:
        policies: by name, coverage, effective_items and popularity (`Exposure.figures`), showings, and
        log_coverage_of_as_many: the coverage of so many showings drawn as the log shows. log: the same figures of the
        train log's slates, or of its events where it has none (`source`).
    """
    logged, source = logged_exposure(dataset)

    def figures(exposure: Exposure) -> dict[str, float]:
        found = exposure.figures(exposure.count_N, popularity_N)
        return {name: found[name] for name in ("coverage", "effective_items", "popularity")}

    return {
        "log": {**figures(logged), "showings": logged.showings, "source": source},
        "policies": {
            name: {
                **figures(exposure),
                "showings": exposure.showings,
                "log_coverage_of_as_many": coverage_of(logged.count_N, exposure.showings),
            }
            for name, exposure in exposures.items()
        },
    }
