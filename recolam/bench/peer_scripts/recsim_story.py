"""Stock RecSim NG's interest-evolution story on today's TensorFlow: its own classes, some of them fed from outside.

The corpus is fed through RecSim NG's `StaticCorpus`. Slates come from a recommender of this file (random, greedy, or
fed), for stock's only one is a neural network that begins untrained. The choice model can be replaced by one that takes
the choice from Gumbel noise it is given and keeps the logits it saw.

Three faults of recsim-ng 0.1.2 on today's versions are mended before it is imported: numpy no longer has `Inf`; gym's
`Box` takes whole numbers only where stock passes tensors; and edward2 stumbles over scipy's `dirichlet_multinomial`,
so scipy is not installed beside it and edward2 leaves its NumPy half out.

Shape legend: U users, K slate positions, C = K + 1 options (the last is no click), D documents, Z topics, T steps.
"""

import os
from collections.abc import Mapping
from typing import Any

os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import gym  # type: ignore[import-not-found]
import numpy as np
import tensorflow as tf  # type: ignore[import-untyped]


class _Box(gym.spaces.Box):
    def __init__(self, low: Any, high: Any, shape: Any = None, **more: Any) -> None:
        whole = None if shape is None else tuple(int(tf.get_static_value(size)) for size in shape)
        super().__init__(low, high, whole, **more)


np.Inf = np.inf  # type: ignore[attr-defined]
gym.spaces.Box = _Box

from recsim_ng.applications.recsys_partially_observable_rl import (  # noqa: E402
    corpus,
    interest_evolution_simulation,
    metrics,
    recommender,
    user,
)
from recsim_ng.core.network import Network  # noqa: E402
from recsim_ng.core.value import Value, ValueSpec  # noqa: E402
from recsim_ng.entities.choice_models import selectors  # noqa: E402
from recsim_ng.entities.recommendation.recommender import BaseRecommender  # noqa: E402
from recsim_ng.lib.tensorflow import entity  # noqa: E402
from recsim_ng.lib.tensorflow.field_spec import FieldSpec  # noqa: E402
from recsim_ng.lib.tensorflow.runtime import TFRuntime  # noqa: E402
from recsim_ng.stories.recommendation_simulation import recs_story  # noqa: E402

CORPUS_FIELDS = ("doc_id", "doc_topic", "doc_quality", "doc_features", "doc_length")


class SlateRecommender(BaseRecommender):
    """Random slates by stock's own sampler, the greedy slate of the privileged observer, or slates from a table."""

    def __init__(self, config: Mapping[str, Any], *, kind: str, slate_TUK: Any = None) -> None:
        super().__init__(config, name="SlateRecommender")
        self._kind, self._slate_TUK = kind, slate_TUK
        self._zero_UD = tf.zeros((self._num_users, self._num_docs))
        self._sampler = selectors.IteratedMultinomialLogitChoiceModel(
            self._slate_size, (self._num_users,), -np.inf * tf.ones(self._num_users)
        )

    def initial_state(self) -> Value:
        return Value(step=tf.constant(0))

    def next_state(self, previous_state: Value, user_response: Value, slate_docs: Value) -> Value:
        return Value(step=previous_state.get("step") + 1)

    def slate_docs(self, previous_state: Value, user_obs: Value, available_docs: Value) -> Value:
        if self._kind == "random":
            slate_UK = self._sampler.choice(self._zero_UD).get("choice")
        elif self._kind == "greedy":
            slate_UK = greedy_slate(user_obs.get("interest"), available_docs, self._slate_size)
        else:
            slate_UK = tf.gather(self._slate_TUK, previous_state.get("step"))
        shown = available_docs.map(lambda field: tf.gather(field, slate_UK))
        return shown.union(Value(doc_ranks=slate_UK))

    def specs(self) -> ValueSpec:
        slate = ValueSpec(**{name: FieldSpec() for name in ("doc_ranks", *CORPUS_FIELDS)})
        return ValueSpec(step=FieldSpec()).prefixed_with("state").union(slate.prefixed_with("slate"))


class ObservedUser(user.InterestEvolutionUser):
    """Stock's user whose interest the recommender sees; for the greedy one."""

    def observation(self, user_state: Value) -> Value:
        return Value(interest=tf.identity(user_state.get("interest.state")))

    def specs(self) -> ValueSpec:
        return super().specs().union(ValueSpec(interest=FieldSpec()).prefixed_with("observation"))


class FedChoice(selectors.ChoiceModel):
    """The choice model with its randomness given: the option of largest logit plus noise; keeps the logits it saw."""

    def __init__(self, batch_shape: Any, nochoice_logits: Any) -> None:
        super().__init__(batch_shape=batch_shape)
        self._stock = selectors.MultinomialLogitChoiceModel(batch_shape, nochoice_logits)
        self.noise_UC: Any = None
        self.logit_UC: Any = None
        self.probability_UC: Any = None

    def choice(self, slate_document_logits: Any) -> Value:
        distribution = self._stock.choice(slate_document_logits).get("choice").distribution
        self.logit_UC, self.probability_UC = distribution.logits_parameter(), distribution.probs_parameter()
        return Value(choice=tf.argmax(self.logit_UC + self.noise_UC, axis=-1, output_type=tf.int32))

    def specs(self) -> ValueSpec:
        return self._stock.specs()


def greedy_slate(interest_UZ: Any, documents: Value, slate_size: int) -> Any:
    """The documents of largest chance to be watched if shown alone, times the time they would be watched; int32 [U, K].

    sigmoid(2 - ||x - f||) * sigmoid(-q) * l. The squared distance is multiplied out: [U, D, Z] is never made.
    """
    feature_DZ = documents.get("doc_features")
    squared_UD = (
        tf.reduce_sum(interest_UZ**2, axis=1, keepdims=True)
        - 2.0 * tf.matmul(interest_UZ, feature_DZ, transpose_b=True)
        + tf.reduce_sum(feature_DZ**2, axis=1)
    )
    time_D = tf.sigmoid(-documents.get("doc_quality")) * documents.get("doc_length")
    score_UD = tf.sigmoid(2.0 - tf.sqrt(tf.maximum(squared_UD, 0.0))) * time_D
    return tf.math.top_k(score_UD, k=slate_size).indices


def documents_value(arrays: Mapping[str, Any]) -> Value:
    """The corpus as stock holds it, from `topic_D` (int32), `quality_D`, `feature_DZ` and `length_D` (float32).

    Variables stay variables: what is assigned to them later is what the story reads.
    """
    count = arrays["quality_D"].shape[0]
    return Value(
        doc_id=tf.range(1, count + 1, dtype=tf.int32),
        doc_topic=arrays["topic_D"],
        doc_quality=arrays["quality_D"],
        doc_features=arrays["feature_DZ"],
        doc_length=arrays["length_D"],
    )


def story_runtime(
    config: Mapping[str, Any], documents: Value, *, recommender: str, slate_TUK: Any = None, graph_compile: bool
) -> TFRuntime:
    """Stock's `recs_story` of this corpus and recommender ("random", "greedy" or "fed"), run by stock's `TFRuntime`."""
    variables = recs_story(
        config,
        ObservedUser if recommender == "greedy" else user.InterestEvolutionUser,
        lambda settings: corpus.StaticCorpus(settings, documents),
        lambda settings: SlateRecommender(settings, kind=recommender, slate_TUK=slate_TUK),
        metrics.ConsumedTimeAsRewardMetrics,
    )
    return TFRuntime(network=Network(variables=variables), graph_compile=graph_compile)


class Demo:
    """Stock's demo of interest evolution: its own recommender, trained by its own policy gradient, on this corpus.

    `train_step()` plays `horizon` steps of new users in graph mode and takes a gradient step; `play()` plays only. Both
    return the users' mean consumed time.
    """

    def __init__(self, config: Mapping[str, Any], documents: Value, *, horizon: int, learning_rate: float) -> None:
        variables, trainable = entity.story_with_trainable_variables(
            lambda: recs_story(
                config,
                user.InterestEvolutionUser,
                lambda settings: corpus.StaticCorpus(settings, documents),
                recommender.CollabFilteringRecommender,
                metrics.ConsumedTimeAsRewardMetrics,
            )
        )
        metric, runtime = "cumulative_reward", interest_evolution_simulation.make_runtime(variables)
        step = interest_evolution_simulation.make_train_step(
            runtime, horizon, config["num_users"], trainable["Recommender"], metric,
            interest_evolution_simulation.reset_optimizer(learning_rate),
        )  # fmt: skip
        self.train_step = lambda: float(step()[2])
        mean = tf.function(lambda: tf.reduce_mean(runtime.execute(num_steps=horizon)["metrics state"].get(metric)))
        self.play = lambda: float(mean())


def stock_corpus(config: Mapping[str, Any]) -> Value:
    """A corpus drawn by stock."""
    return corpus.CorpusWithTopicAndQuality(config).initial_state()
