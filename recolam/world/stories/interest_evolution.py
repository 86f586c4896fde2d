"""RecSim NG's demo story "interest evolution", on torch (stock: `applications/recsys_partially_observable_rl`).

For interest x, document features f, quality q and length l of a slate:

    x_0          ~ N(0, I)
    affinity_k   = 2 - ||x - f_k||
    P(choice=k)  = exp(affinity_k) / (exp(no_click_mass) + sum_j exp(affinity_j))
    time         = sigmoid(-q) * l, or -1 without a choice     (bad documents are watched longer)
    y            = x + step * q * (f - x) + noise, or x without a choice
    x'           = 4 M (sigmoid(y / M) - 1/2)                  (in both cases)

Shape legend: B users, K slate, N documents, H history, Z topics, W width.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from recsim_ng.core.network import Network
from recsim_ng.core.value import Value
from torch import Tensor, nn

from recolam.world.blocks.affinities import TargetPointSimilarity
from recolam.world.blocks.choices import MultinomialLogitChoiceModel, get_chosen
from recolam.world.blocks.corpora import CorpusWithTopicAndQuality, StaticCorpus
from recolam.world.blocks.linear_gaussian import ControlledLinearScaledGaussianStateModel
from recolam.world.blocks.metrics import ConsumedTimeAsRewardMetrics
from recolam.world.blocks.recommenders import CollabFilteringRecommender, RandomRecommender
from recolam.world.blocks.switching import NoOPOrContinueStateModel
from recolam.world.random_fields import Given, draw
from recolam.world.runtime import TensorSpec
from recolam.world.stories.recommendation import Corpus, recs_story

AFFINITY_OFFSET = 2.0


class ChoiceModel(Protocol):
    def choice(self, slate_document_logits: Tensor) -> Value:
        """Field `choice`, int64 [B], K for none, from logits [B, K]."""

    def specs(self) -> Value: ...


class InterestEvolutionUser:
    """Users with the equations above, field `interest.state` [B, Z].

    `interest.linear_update.state` is y: with noise it is what is random in a step.

    Args:
        no_click_mass: the logit of no choice.
        interest_step_size: a number or float [B], which may require gradients.
        interest_update_noise_scale: standard deviation of the noise; None for none.
        max_user_affinity: M; interests stay within 2M.
        choice_model: chooses in place of the multinomial logit with `no_click_mass`.
        is_observed: recommenders see the interest, which is hidden by default.
    """

    def __init__(
        self,
        *,
        num_users: int,
        num_topics: int,
        slate_size: int,
        no_click_mass: Tensor | float = 0.0,
        interest_step_size: Tensor | float = 0.1,
        interest_update_noise_scale: Tensor | float | None = None,
        max_user_affinity: float = 10.0,
        choice_model: ChoiceModel | None = None,
        is_observed: bool = False,
    ) -> None:
        self.num_users = num_users
        self._topics, self._bound, self._is_observed = num_topics, max_user_affinity, is_observed
        self._affinity_model = TargetPointSimilarity(slate_size=slate_size, similarity_type="negative_euclidean")
        self._choice_model = choice_model or MultinomialLogitChoiceModel(nochoice_logits=no_click_mass)
        self._interest_model = NoOPOrContinueStateModel(
            ControlledLinearScaledGaussianStateModel(
                batch_size=num_users,
                dim=num_topics,
                control_scales=interest_step_size,
                noise_scales=interest_update_noise_scale,
            )
        )

    def initial_state(self) -> Value:
        return Value(interest=_with_update(lambda update_BZ: update_BZ, self._interest_model.initial_state()))

    def next_state(self, previous_state: Value, user_response: Value, slate_docs: Value) -> Value:
        chosen = get_chosen(slate_docs.at("doc_features", "doc_quality"), user_response.get("choice"))
        interest = previous_state.get("interest")
        direction_BZ = chosen.get("doc_quality")[:, None] * (chosen.get("doc_features") - interest.get("state"))
        is_idle_B = user_response.get("consumed_time") < 0
        update = self._interest_model.next_state(interest, Value(input=direction_BZ, condition=is_idle_B))
        return Value(interest=_with_update(self._squash, update))

    def observation(self, user_state: Value) -> Value:
        """Nothing, or field `interest` [B, Z]."""
        return Value(interest=user_state.get("interest.state")) if self._is_observed else Value()

    def next_response(self, previous_state: Value, slate_docs: Value) -> Value:
        """`choice` int64 [B], K for none, and `consumed_time` float [B]."""
        affinity_BK = self._affinity_model.affinities(
            previous_state.get("interest.state"), slate_docs.get("doc_features")
        ).get("affinities")
        time = Value(consumed_time=torch.sigmoid(-slate_docs.get("doc_quality")) * slate_docs.get("doc_length"))
        consumed_time = Given(lambda choice_B: get_chosen(time, choice_B).get("consumed_time"), ("choice",))
        return self._choice_model.choice(affinity_BK + AFFINITY_OFFSET).union(Value(consumed_time=consumed_time))

    def specs(self) -> Value:
        interest = Value(state=TensorSpec(shape=(self._topics,)), linear_update=self._interest_model.specs())
        response = self._choice_model.specs().union(Value(consumed_time=TensorSpec()))
        seen = Value(interest=TensorSpec(shape=(self._topics,))) if self._is_observed else Value()
        return Value(state=Value(interest=interest), observation=seen, response=response)

    def _squash(self, update_BZ: Tensor) -> Tensor:
        return 4.0 * self._bound * (torch.sigmoid(update_BZ / self._bound) - 0.5)


class CollabFilteringModel(nn.Module):
    """Scores of all documents from a user's last documents and times, as RecSim NG's demo has them.

    Each past document's embedding and time, flattened, go through linear, leaky ReLU (slope 0.3) and linear; scores are
    inner products with a second embedding of the documents. Embeddings begin truncated normal, layers Glorot uniform.
    """

    def __init__(self, *, num_docs: int, history_length: int, width: int = 32) -> None:
        super().__init__()
        self.doc_embedding = nn.Embedding(num_docs + 1, width)
        self.doc_prop_embedding = nn.Embedding(num_docs + 1, width)
        self.net = nn.Sequential(nn.Linear(history_length * (width + 1), 32), nn.LeakyReLU(0.3), nn.Linear(32, width))

    def initialise(self, generator: torch.Generator) -> "CollabFilteringModel":
        """Draws all weights anew, and returns the model itself."""
        for embedding in (self.doc_embedding, self.doc_prop_embedding):
            nn.init.trunc_normal_(embedding.weight, a=-2.0, b=2.0, generator=generator)
        for layer in self.net:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight, generator=generator)
                nn.init.zeros_(layer.bias)
        return self

    def forward(self, doc_id_history: Tensor, c_time_history: Tensor) -> Tensor:
        past_BHW = torch.cat([self.doc_embedding(doc_id_history), c_time_history[..., None]], dim=-1)
        return self.net(past_BHW.flatten(start_dim=1)) @ self.doc_prop_embedding.weight[1:].T


def create_interest_evolution_simulation_network(
    *,
    generator: torch.Generator | None = None,
    model: CollabFilteringModel | None = None,
    num_users: int = 1000,
    num_topics: int = 2,
    num_docs: int = 100,
    slate_size: int = 2,
    history_length: int = 15,
    no_click_mass: Tensor | float = 0.0,
    interest_step_size: Tensor | float = 0.1,
    interest_update_noise_scale: Tensor | float | None = None,
    max_user_affinity: float = 10.0,
) -> Network:
    """The story's network, with RecSim NG's defaults.

    Args:
        generator: draws the corpus now, once for all runs (the stock story's `freeze_corpus`); None for a corpus that
            every run draws for itself.
        model: scores for a `CollabFilteringRecommender` (which keeps `history_length` documents); None for random
            slates.
    """
    corpus: Corpus = CorpusWithTopicAndQuality(num_docs=num_docs, num_topics=num_topics)
    if generator is not None:
        corpus = StaticCorpus(draw(corpus.initial_state(), generator))
    documents = corpus.specs().get("available_docs")
    user = InterestEvolutionUser(
        num_users=num_users,
        num_topics=num_topics,
        slate_size=slate_size,
        no_click_mass=no_click_mass,
        interest_step_size=interest_step_size,
        interest_update_noise_scale=interest_update_noise_scale,
        max_user_affinity=max_user_affinity,
    )
    recommender: RandomRecommender | CollabFilteringRecommender
    if model is None:
        recommender = RandomRecommender(num_users=num_users, slate_size=slate_size, documents=documents)
    else:
        recommender = CollabFilteringRecommender(
            model=model,
            num_users=num_users,
            slate_size=slate_size,
            history_length=history_length,
            documents=documents,
        )
    metrics = ConsumedTimeAsRewardMetrics(num_users=num_users)
    return Network(variables=recs_story(user=user, corpus=corpus, recommender=recommender, metrics=metrics))


def _with_update(squash: Callable[[Tensor], Tensor], update: Value) -> Value:
    return Value(state=Given(squash, ("linear_update.state",)), linear_update=update)
