"""The story of all recommendation worlds (RecSim NG: `recsim_ng.stories.recommendation_simulation.recs_story`).

Within a step:   corpus state -> available docs ─┐
                 user state -> user observation ─┼-> slate docs -> user response
                 recommender state ──────────────┘        (user state too)
From a step to the next: corpus, user, recommender and metrics follow the response and the slate before.
"""

from typing import Protocol

from recsim_ng.core.value import Value
from recsim_ng.core.variable import Variable, value


class User(Protocol):
    def initial_state(self) -> Value: ...
    def next_state(self, previous_state: Value, user_response: Value, slate_docs: Value) -> Value: ...
    def observation(self, user_state: Value) -> Value: ...
    def next_response(self, previous_state: Value, slate_docs: Value) -> Value: ...
    def specs(self) -> Value:
        """Specs of `state`, `observation` and `response`."""


class Corpus(Protocol):
    def initial_state(self) -> Value: ...
    def next_state(self, previous_state: Value, user_response: Value, slate_docs: Value) -> Value: ...
    def available_documents(self, corpus_state: Value) -> Value: ...
    def specs(self) -> Value:
        """Specs of `state` and `available_docs`."""


class Recommender(Protocol):
    def initial_state(self) -> Value: ...
    def next_state(self, previous_state: Value, user_response: Value, slate_docs: Value) -> Value: ...
    def slate_docs(self, previous_state: Value, user_obs: Value, available_docs: Value) -> Value: ...
    def specs(self) -> Value:
        """Specs of `state` and `slate`."""


class Metrics(Protocol):
    def initial_metrics(self) -> Value: ...
    def next_metrics(
        self, previous_metrics: Value, corpus_state: Value, user_state: Value, user_response: Value, slate_docs: Value
    ) -> Value: ...
    def specs(self) -> Value:
        """Spec of `state`."""


def recs_story(*, user: User, corpus: Corpus, recommender: Recommender, metrics: Metrics) -> list[Variable]:
    """The variables of the story, with RecSim NG's names; `Network(variables=...)` takes them."""
    corpus_state = Variable(name="corpus state", spec=corpus.specs().get("state"))
    available_docs = Variable(name="available docs", spec=corpus.specs().get("available_docs"))
    user_state = Variable(name="user state", spec=user.specs().get("state"))
    user_observation = Variable(name="user observation", spec=user.specs().get("observation"))
    user_response = Variable(name="user response", spec=user.specs().get("response"))
    recommender_state = Variable(name="recommender state", spec=recommender.specs().get("state"))
    slate_docs = Variable(name="slate docs", spec=recommender.specs().get("slate"))
    metrics_state = Variable(name="metrics state", spec=metrics.specs().get("state"))
    outcome = (user_response.previous, slate_docs.previous)

    corpus_state.initial_value = value(corpus.initial_state)
    corpus_state.value = value(corpus.next_state, (corpus_state.previous, *outcome))
    available_docs.value = value(corpus.available_documents, (corpus_state,))

    user_state.initial_value = value(user.initial_state)
    user_state.value = value(user.next_state, (user_state.previous, *outcome))
    user_observation.value = value(user.observation, (user_state,))

    recommender_state.initial_value = value(recommender.initial_state)
    recommender_state.value = value(recommender.next_state, (recommender_state.previous, *outcome))
    slate_docs.value = value(recommender.slate_docs, (recommender_state, user_observation, available_docs))
    user_response.value = value(user.next_response, (user_state, slate_docs))

    metrics_state.initial_value = value(metrics.initial_metrics)
    metrics_state.value = value(
        metrics.next_metrics, (metrics_state.previous, corpus_state.previous, user_state.previous, *outcome)
    )
    return [
        user_state,
        user_response,
        corpus_state,
        available_docs,
        slate_docs,
        recommender_state,
        metrics_state,
        user_observation,
    ]
