"""The port of stock's story as a `World`: `recolam.world.stories.interest_evolution` of the blocks, on TorchRuntime.

Shape legend: see `recolam.world.parity.dynamics`; fields of the blocks' corpora are [1, D, ...].
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from recsim_ng.core.network import Network
from recsim_ng.core.value import Value
from recsim_ng.core.variable import value
from torch import Tensor

from recolam.seeding import torch_generator
from recolam.world.blocks.choices import MultinomialLogitChoiceModel
from recolam.world.blocks.corpora import StaticCorpus
from recolam.world.blocks.metrics import ConsumedTimeAsRewardMetrics
from recolam.world.blocks.recommenders import GreedyRecommender, RandomRecommender, slate_of, slate_spec
from recolam.world.parity.dynamics import (
    RECOMMENDERS,
    REPLAYED,
    Arrays,
    Documents,
    Sessions,
    World,
    greedy_scores,
    replayed,
    sessions_of,
)
from recolam.world.runtime import TensorSpec, TorchRuntime
from recolam.world.stories.interest_evolution import InterestEvolutionUser
from recolam.world.stories.recommendation import Recommender, recs_story


def story_world(**settings: Any) -> World:
    """The story with these settings of `InterestEvolutionUser`, by default stock's."""
    return World(functools.partial(_simulate, settings=settings), functools.partial(_replay, settings=settings))


def runtime_of(
    documents: Documents, recommender: Recommender, user: InterestEvolutionUser, *, interest_UZ: Tensor | None = None
) -> TorchRuntime:
    """The story over a corpus that is given, and from first interests that are given or drawn."""
    corpus = StaticCorpus(_available(documents))
    metrics = ConsumedTimeAsRewardMetrics(num_users=user.num_users)
    variables = recs_story(user=user, corpus=corpus, recommender=recommender, metrics=metrics)
    if interest_UZ is not None:
        start = Value(interest=Value(state=interest_UZ, linear_update=Value(state=interest_UZ)))
        state = next(variable for variable in variables if variable.name == "user state")
        state.initial_value = value(lambda: start)
    return TorchRuntime(Network(variables=variables))


class FedChoice:
    """The choice model with its randomness given: the option of largest logit plus noise, a step at a time; keeps the
    logits it saw."""

    def __init__(self, noise_TUC: Tensor, *, nochoice_logits: Tensor | float = 0.0) -> None:
        self._stock = MultinomialLogitChoiceModel(nochoice_logits=nochoice_logits)
        self._noise_TUC = noise_TUC
        self.logits: list[Tensor] = []

    def choice(self, slate_document_logits: Tensor) -> Value:
        noise_UC = self._noise_TUC[len(self.logits)]
        self.logits.append(self._stock.choice(slate_document_logits).get("choice").logits)
        return Value(choice=(self.logits[-1] + noise_UC).argmax(dim=1))

    def specs(self) -> Value:
        return self._stock.specs()


class FedRecommender:
    """Slates from a table, int64 [T, U, K]."""

    def __init__(self, slate_TUK: Tensor, *, documents: Value) -> None:
        self._slate_TUK, self._documents = slate_TUK, documents

    def initial_state(self) -> Value:
        return Value(step=torch.zeros(1, dtype=torch.int64))

    def next_state(self, previous_state: Value, user_response: Value, slate_docs: Value) -> Value:
        return Value(step=previous_state.get("step") + 1)

    def slate_docs(self, previous_state: Value, user_obs: Value, available_docs: Value) -> Value:
        return slate_of(available_docs, self._slate_TUK[int(previous_state.get("step"))])

    def specs(self) -> Value:
        spec = slate_spec(self._documents, slate_size=self._slate_TUK.shape[2])
        return Value(state=Value(step=TensorSpec(dtype=torch.int64)), slate=spec)


@torch.no_grad()
def _simulate(
    documents: Documents,
    *,
    users: int,
    slate: int,
    marks: Sequence[int],
    recommender: str,
    seed: int,
    settings: Mapping[str, Any],
) -> Sessions:
    spec = StaticCorpus(_available(documents)).specs().get("available_docs")
    show: Recommender
    if recommender == "random":
        show = RandomRecommender(num_users=users, slate_size=slate, documents=spec)
    elif recommender == "greedy":
        show = GreedyRecommender(
            score=lambda observed, _: greedy_scores(observed.get("interest"), documents),
            slate_size=slate,
            documents=spec,
        )
    else:
        raise ValueError(f"recommender {recommender!r} is not one of {', '.join(RECOMMENDERS)}")
    user = InterestEvolutionUser(
        num_users=users, num_topics=documents.feature_DZ.shape[1], slate_size=slate, is_observed=True, **settings
    )
    generator = torch_generator(seed, "parity story", recommender)
    steps = runtime_of(documents, show, user).trajectory(max(marks) + 1, generator=generator)
    response, counted_TU = steps["user response"], steps["metrics state"].get("cumulative_reward")
    found = sessions_of(
        response.get("choice"),
        response.get("consumed_time"),
        steps["user state"].get("interest.state"),
        marks=marks,
    )
    return replace(found, reward_U=counted_TU[-1].numpy())


@torch.no_grad()
def _replay(
    documents: Documents,
    *,
    interest_UZ: NDArray[np.float32],
    slate_TUK: NDArray[np.int64],
    noise_TUC: NDArray[np.float32],
    settings: Mapping[str, Any],
) -> Arrays:
    steps, users, slate = slate_TUK.shape
    # the interest after the last step is the state of one more, whose answer nobody looks at
    slates, noise = (torch.from_numpy(np.concatenate([fed, fed[-1:]])) for fed in (slate_TUK, noise_TUC))
    choice = FedChoice(noise, nochoice_logits=settings.get("no_click_mass", 0.0))
    user = InterestEvolutionUser(
        num_users=users, num_topics=interest_UZ.shape[1], slate_size=slate, choice_model=choice, **settings
    )
    show = FedRecommender(slates, documents=StaticCorpus(_available(documents)).specs().get("available_docs"))
    runtime = runtime_of(documents, show, user, interest_UZ=torch.from_numpy(interest_UZ))
    found = runtime.trajectory(steps + 1)
    response = found["user response"].map(lambda field: field[:-1])
    choice_TU = response.get("choice")
    place_TU1 = choice_TU.clamp(max=slate - 1)[..., None]
    chosen_TU = found["slate docs"].get("doc_id")[:-1].gather(2, place_TU1)[..., 0]
    answer = (
        torch.stack(choice.logits[:-1]),
        choice_TU,
        response.get("consumed_time"),
        chosen_TU.where(choice_TU < slate, -1),
        found["user state"].get("interest.state")[1:],
    )
    return replayed(dict(zip(REPLAYED, answer, strict=True)))


def _available(documents: Documents) -> Value:
    topic_D, quality_D, feature_DZ, length_D = documents.tensors()
    return Value(
        doc_id=torch.arange(1, len(topic_D) + 1)[None],
        doc_topic=topic_D[None],
        doc_quality=quality_D[None],
        doc_features=feature_DZ[None],
        doc_length=length_D[None],
    )
