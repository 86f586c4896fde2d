"""Whole sessions of stock RecSim NG's interest evolution, made of the functions of `recolam.world.interest_evolution`.

The story of `recsim_ng.applications.recsys_partially_observable_rl` (Mladenov et al. 2021,
https://arxiv.org/abs/2103.08057), for interest x, and features f, quality q and length l of a document:

    x_0         ~ Normal(0, I)
    logit_k     = 2 - ||x - f_k||_2, of no click 0; no position bias
    time        = sigmoid(-q) l of the chosen document, -1 where none was chosen; reward = max(time, 0)
    y           = x + 0.1 q (f - x) where a document was chosen, else x
    x'          = 4 M (sigmoid(y / M) - 1/2), M = 10: after every step, chosen or not

Documents have a uniform topic z; q ~ Normal(mean_z, 0.1), where the means rise from -1 to 0 over the first
floor(0.7 Z) topics and from 0 to 1 over the others; f ~ Normal(onehot(z), 0.7); l = 2. Nobody leaves.

Shape legend: U users, K slate positions, C = K + 1 options (the last is no click), D documents, Z topics, T steps,
M marks (steps whose interest is kept).
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recolam.seeding import numpy_generator, torch_generator
from recolam.world import interest_evolution
from recolam.world.documents import FEATURE_DEVIATION, LENGTH, QUALITY_DEVIATION, mean_qualities
from recolam.world.interest_evolution import InterestEvolutionConfig, affinities, watch_time
from recolam.world.slates import random_slates
from recolam.world.story import choice_at

STOCK = InterestEvolutionConfig(position_bias=0.0, budget=math.inf)
"""The settings at which `InterestEvolutionUsers` are stock's users. By default they differ from them on purpose: lower
places are chosen less (`position_bias`), and time spent uses up a `budget`, after which they leave. Histories are kept
beside the dynamics, which do not read them."""
STEP = STOCK.interest_step
RECOMMENDERS = ("random", "greedy")
REPLAYED = ("logit_TUC", "choice_TU", "time_TU", "doc_id_TU", "interest_TUZ")

Arrays = dict[str, NDArray[np.floating] | NDArray[np.integer]]


@dataclass(frozen=True)
class Documents:
    """A corpus: topic int32 [D], quality float32 [D], features float32 [D, Z], length float32 [D]."""

    topic_D: NDArray[np.int32]
    quality_D: NDArray[np.float32]
    feature_DZ: NDArray[np.float32]
    length_D: NDArray[np.float32]

    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The same memory as torch tensors, in the order of the fields."""
        topic_D, quality_D, feature_DZ, length_D = map(
            torch.from_numpy, (self.topic_D, self.quality_D, self.feature_DZ, self.length_D)
        )
        return topic_D, quality_D, feature_DZ, length_D


@dataclass(frozen=True)
class Sessions:
    """What is compared of one run: T steps of U users, whose interest at M of the steps is kept.

    choice_TU int: position, K for none; time_TU float: -1 where nothing was chosen; interest_MUZ float;
    reward_U float: of all steps but the last.
    """

    choice_TU: NDArray[np.integer]
    time_TU: NDArray[np.floating]
    interest_MUZ: NDArray[np.floating]
    reward_U: NDArray[np.floating]


def draw_documents(*, documents: int, topics: int, seed: int) -> Documents:
    """A corpus as stock draws it; see the equations above."""
    generator = numpy_generator(seed, "parity documents")
    topic_D = generator.integers(0, topics, documents).astype(np.int32)
    mean_Z = mean_qualities(topics, dtype=torch.float64).numpy()
    feature_DZ = np.eye(topics)[topic_D] + FEATURE_DEVIATION * generator.standard_normal((documents, topics))
    return Documents(
        topic_D=topic_D,
        quality_D=(mean_Z[topic_D] + QUALITY_DEVIATION * generator.standard_normal(documents)).astype(np.float32),
        feature_DZ=feature_DZ.astype(np.float32),
        length_D=np.full(documents, LENGTH, dtype=np.float32),
    )


def choice_logits(interest_UZ: Tensor, feature_UKZ: Tensor) -> Tensor:
    """Logits of the shown documents, no click last: float [U, C]."""
    return torch.nn.functional.pad(affinities(STOCK, interest_UZ, feature_UKZ), (0, 1), value=STOCK.no_click)


next_interest = functools.partial(interest_evolution.next_interest, STOCK)


@dataclass(frozen=True)
class Dynamics:
    """The three functions above, each replaceable: by another implementation's, or by one with a planted fault."""

    logits: Callable[[Tensor, Tensor], Tensor] = choice_logits
    times: Callable[[Tensor, Tensor], Tensor] = watch_time
    interests: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] = next_interest


STOCK_DYNAMICS = Dynamics()


def greedy_scores(interest_UZ: Tensor, documents: Documents) -> Tensor:
    """sigmoid(2 - ||x - f||) sigmoid(-q) l of every document, float [U, D]: the greedy recommender's, who knows x."""
    _, quality_D, feature_DZ, length_D = documents.tensors()
    chance_UD = torch.sigmoid(STOCK.offset - torch.cdist(interest_UZ, feature_DZ))
    return chance_UD * watch_time(quality_D, length_D)


def recommended(
    recommender: str, interest_UZ: Tensor, documents: Documents, *, slate: int, generator: torch.Generator
) -> Tensor:
    """Slates from one of `RECOMMENDERS`, best first, int64 [U, K].

    Raises:
        ValueError: an unknown recommender.
    """
    if recommender == "random":
        return random_slates(len(interest_UZ), documents=len(documents.topic_D), slate=slate, generator=generator)
    if recommender == "greedy":
        return greedy_scores(interest_UZ, documents).topk(slate, dim=1).indices
    raise ValueError(f"recommender {recommender!r} is not one of {', '.join(RECOMMENDERS)}")


def sessions_of(choice_TU: Tensor, time_TU: Tensor, interest_TUZ: Tensor, *, marks: Sequence[int]) -> Sessions:
    """What is kept of T steps of choices (K for none), times (-1 for none) and interests before each step."""
    return Sessions(
        choice_TU=choice_TU.numpy(),
        time_TU=time_TU.numpy(),
        interest_MUZ=interest_TUZ[list(marks)].numpy(),
        reward_U=time_TU[:-1].clamp(min=0.0).sum(dim=0).numpy(),
    )


def draw_choice(logit_UC: Tensor, *, generator: torch.Generator) -> Tensor:
    """Option by multinomial logit, int64 [U]; the last column is none of the documents."""
    share_U = torch.rand(len(logit_UC), generator=generator)
    position_U = choice_at(share_U, logit_UC[:, :-1], logit_UC[:, -1])
    return position_U.where(position_U >= 0, logit_UC.shape[1] - 1)


@torch.no_grad()
def simulate(
    documents: Documents,
    *,
    users: int,
    slate: int,
    marks: Sequence[int],
    recommender: str,
    seed: int,
    slate_TUK: Tensor | None = None,
    dynamics: Dynamics = STOCK_DYNAMICS,
) -> Sessions:
    """Sessions of max(marks) + 1 steps with slates from one of `RECOMMENDERS`, or with `slate_TUK`, int64 [T, U, K].

    Raises:
        ValueError: an unknown recommender.
    """
    generator = torch_generator(seed, "parity sessions", recommender)
    interest_UZ = torch.randn(users, documents.feature_DZ.shape[1], generator=generator)
    choices, watched, interests = [], [], []
    for step in range(max(marks) + 1):
        interests.append(interest_UZ)
        if slate_TUK is None:
            slate_UK = recommended(recommender, interest_UZ, documents, slate=slate, generator=generator)
        else:
            slate_UK = slate_TUK[step]
        choice_U = draw_choice(dynamics.logits(interest_UZ, _shown(documents, slate_UK)), generator=generator)
        _, time_U, interest_UZ = _answer(documents, interest_UZ, slate_UK, choice_U, dynamics)
        choices.append(choice_U)
        watched.append(time_U)
    return sessions_of(torch.stack(choices), torch.stack(watched), torch.stack(interests), marks=marks)


@torch.no_grad()
def replay(
    documents: Documents,
    *,
    interest_UZ: NDArray[np.float32],
    slate_TUK: NDArray[np.int64],
    noise_TUC: NDArray[np.float32],
    dynamics: Dynamics = STOCK_DYNAMICS,
) -> Arrays:
    """Sessions whose draws are given: the option of the largest logit plus noise is chosen (Gumbel 1954).

    Args:
        interest_UZ: interest before the first step.
        slate_TUK: shown documents.
        noise_TUC: independent draws of Gumbel's distribution make the choice multinomial logit.

    Returns:
        logit_TUC, probability_TUC, choice_TU, time_TU, doc_id_TU (from 1, -1 for none), and interest_TUZ after each
        step.
    """
    found: dict[str, list[Tensor]] = {}
    now_UZ = torch.from_numpy(interest_UZ)
    for slate_UK, noise_UC in zip(map(torch.from_numpy, slate_TUK), map(torch.from_numpy, noise_TUC), strict=True):
        logit_UC = dynamics.logits(now_UZ, _shown(documents, slate_UK))
        choice_U = (logit_UC + noise_UC).argmax(dim=1)
        doc_id_U, time_U, now_UZ = _answer(documents, now_UZ, slate_UK, choice_U, dynamics)
        for name, tensor in zip(REPLAYED, (logit_UC, choice_U, time_U, doc_id_U, now_UZ), strict=True):
            found.setdefault(name, []).append(tensor)
    return replayed({name: torch.stack(tensors) for name, tensors in found.items()})


def replayed(found: Mapping[str, Tensor]) -> Arrays:
    """The fields of `REPLAYED` as arrays, with the probabilities of the logits."""
    both = {**found, "probability_TUC": torch.softmax(found["logit_TUC"], dim=2)}
    return {name: tensor.numpy() for name, tensor in both.items()}


def _shown(documents: Documents, slate_UK: Tensor) -> Tensor:
    """Features of the shown documents, float [U, K, Z]; `index_select` copies rows far faster than indexing does."""
    return documents.tensors()[2].index_select(0, slate_UK.reshape(-1)).view(*slate_UK.shape, -1)


def _answer(
    documents: Documents, interest_UZ: Tensor, slate_UK: Tensor, choice_U: Tensor, dynamics: Dynamics
) -> tuple[Tensor, Tensor, Tensor]:
    """Id of the chosen document, its time, and the interest after the step."""
    _, quality_D, feature_DZ, length_D = documents.tensors()
    is_chosen_U = choice_U < slate_UK.shape[1]
    chosen_U = slate_UK.gather(1, choice_U.clamp(max=slate_UK.shape[1] - 1)[:, None])[:, 0]
    time_U = dynamics.times(quality_D[chosen_U], length_D[chosen_U]).where(is_chosen_U, -1.0)
    after_UZ = dynamics.interests(interest_UZ, feature_DZ.index_select(0, chosen_U), quality_D[chosen_U], is_chosen_U)
    return (chosen_U + 1).where(is_chosen_U, -1), time_U, after_UZ


@dataclass(frozen=True)
class World:
    """An implementation to compare with stock: `simulate` and `replay` with the arguments of the functions above.

    Another world joins by two functions that drive it, for random and greedy slates and for fed draws.
    """

    simulate: Callable[..., Sessions]
    replay: Callable[..., Arrays]

    def replay_steps(
        self,
        documents: Documents,
        *,
        before_TUZ: NDArray[np.float32],
        slate_TUK: NDArray[np.int64],
        noise_TUC: NDArray[np.float32],
    ) -> Arrays:
        """Each step from a given interest before it, as a session of its own: errors of rounding do not add up."""
        steps, users, _ = before_TUZ.shape
        flat = self.replay(
            documents, interest_UZ=before_TUZ.reshape(steps * users, -1),
            slate_TUK=slate_TUK.reshape(1, steps * users, -1), noise_TUC=noise_TUC.reshape(1, steps * users, -1),
        )  # fmt: skip
        return {name: array.reshape(steps, users, *array.shape[2:]) for name, array in flat.items()}


def world_of(dynamics: Dynamics) -> World:
    """The sessions of this file under these dynamics."""
    return World(functools.partial(simulate, dynamics=dynamics), functools.partial(replay, dynamics=dynamics))
