"""The shipped environment as a `World`: `InterestEvolutionUsers` in `SimulatedUsers`, at stock's settings or others.

Everything runs as it does for a policy: resets, checks of slates, histories, budgets. Only the draw of a choice is
replaced where draws are fed.

Shape legend: see `recolam.world.parity.dynamics`.
"""

import functools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from recolam.contracts.dataset import FIRST_ITEM
from recolam.seeding import torch_generator
from recolam.world.environment import SimulatedUsers
from recolam.world.interest_evolution import Corpus, InterestEvolutionConfig, InterestEvolutionUsers, StartStates
from recolam.world.parity.dynamics import (
    REPLAYED,
    STOCK,
    Arrays,
    Documents,
    Sessions,
    World,
    recommended,
    replayed,
    sessions_of,
)
from recolam.world.story import Choose, sample_choice

_HISTORY = 8  # shorter than the sessions: full histories are part of what is compared


def environment_world(config: InterestEvolutionConfig = STOCK) -> World:
    """The environment under this config; its slate size is the sessions'."""
    return World(functools.partial(_simulate, config=config), functools.partial(_replay, config=config))


def users_of(
    documents: Documents, interest_UZ: Tensor, *, config: InterestEvolutionConfig, choose: Choose = sample_choice
) -> InterestEvolutionUsers:
    """Users who begin, in this order, with these interests and an empty history, on the interests' device; document d
    is token d + FIRST_ITEM."""
    _, quality_D, feature_DZ, length_D = (field.to(interest_UZ.device) for field in documents.tensors())
    corpus = Corpus(
        feature_NZ=pad(feature_DZ, (0, 0, FIRST_ITEM, 0)),
        quality_N=pad(quality_D, (FIRST_ITEM, 0)),
        length_N=pad(length_D, (FIRST_ITEM, 0)),
    )
    empty_UT = torch.zeros(len(interest_UZ), _HISTORY, dtype=torch.int64, device=interest_UZ.device)
    start = StartStates(history_PT=empty_UT, length_P=empty_UT[:, 0].clone(), interest_PZ=interest_UZ)
    return InterestEvolutionUsers(config, corpus, start, is_sampled=False, choose=choose)


@torch.no_grad()
def _simulate(
    documents: Documents,
    *,
    users: int,
    slate: int,
    marks: Sequence[int],
    recommender: str,
    seed: int,
    config: InterestEvolutionConfig,
) -> Sessions:
    generator = torch_generator(seed, "parity environment", recommender)
    interest_UZ = torch.randn(users, documents.feature_DZ.shape[1], generator=generator)
    steps = max(marks) + 1
    model = users_of(documents, interest_UZ, config=replace(config, slate_size=slate))
    environment = SimulatedUsers(model, horizon=steps)
    environment.reset(users=users, seed=seed)
    choices, watched, interests = [], [], []
    for _ in range(steps):
        interests.append(environment.state.get("interest"))
        slate_UK = recommended(recommender, interests[-1], documents, slate=slate, generator=generator)
        result = environment.step(slate_UK + FIRST_ITEM)
        is_chosen_U = result.choice_B >= 0
        choices.append(result.choice_B.where(is_chosen_U, slate))
        watched.append(result.reward_B.where(is_chosen_U, -1.0))
    return sessions_of(torch.stack(choices), torch.stack(watched), torch.stack(interests), marks=marks)


@torch.no_grad()
def _replay(
    documents: Documents,
    *,
    interest_UZ: NDArray[np.float32],
    slate_TUK: NDArray[np.int64],
    noise_TUC: NDArray[np.float32],
    config: InterestEvolutionConfig,
) -> Arrays:
    logits: list[Tensor] = []

    def choose(
        utility_BK: Tensor,
        no_click_B: Tensor,
        generator: torch.Generator,
        *,
        is_available_BK: Tensor | None = None,
    ) -> Tensor:
        noise_UC = torch.from_numpy(noise_TUC[len(logits)])
        logits.append(torch.cat([utility_BK, no_click_B[:, None]], dim=1))
        best_U = (logits[-1] + noise_UC).argmax(dim=1)
        return best_U.where(best_U < utility_BK.shape[1], -1)

    steps, users, slate = slate_TUK.shape
    config = replace(config, slate_size=slate)
    model = users_of(documents, torch.from_numpy(interest_UZ), config=config, choose=choose)
    environment = SimulatedUsers(model, horizon=steps)
    environment.reset(users=users, seed=0)
    found: dict[str, list[Tensor]] = {}
    for slate_UK in map(torch.from_numpy, slate_TUK):
        result = environment.step(slate_UK + FIRST_ITEM)
        state, is_chosen_U = environment.state, result.choice_B >= 0
        last_U1 = (state.get("length") - 1).clamp(min=0)[:, None]
        doc_id_U = state.get("history").gather(1, last_U1)[:, 0] - FIRST_ITEM + 1
        answer = (
            logits[-1],
            result.choice_B.where(is_chosen_U, slate),
            result.reward_B.where(is_chosen_U, -1.0),
            doc_id_U.where(is_chosen_U, -1),
            state.get("interest"),
        )
        for name, tensor in zip(REPLAYED, answer, strict=True):
            found.setdefault(name, []).append(tensor)
    return replayed({name: torch.stack(tensors) for name, tensors in found.items()})
