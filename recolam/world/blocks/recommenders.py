"""Recommenders: which slate each user is shown (RecSim NG: `applications/*/recommender.py`).

A slate has the fields of the documents, [B, K, ...], and `doc_ranks`, their places in the corpus, int64 [B, K].

Shape legend: B users, K slate, N documents, H history.
"""

from collections.abc import Callable

import torch
from recsim_ng.core.value import Value
from torch import Tensor

from recolam.world.blocks.choices import get_chosen
from recolam.world.blocks.distributions import PlackettLuce
from recolam.world.blocks.history import FiniteHistoryStateModel
from recolam.world.blocks.switching import NoOPOrContinueStateModel
from recolam.world.random_fields import Content, Given
from recolam.world.runtime import TensorSpec

Score = Callable[[Value, Value], Tensor]
"""user observation, available documents -> float [B, N]."""


class RandomRecommender:
    """Every ordered slate of distinct documents is as probable as any other.

    Args:
        documents: the spec of the available documents, `corpus.specs().get("available_docs")`.
    """

    def __init__(self, *, num_users: int, slate_size: int, documents: Value) -> None:
        self._users, self._slate_size, self._documents = num_users, slate_size, documents

    def initial_state(self) -> Value:
        return Value()

    def next_state(self, previous_state: Value, user_response: Value, slate_docs: Value) -> Value:
        return Value()

    def slate_docs(self, previous_state: Value, user_obs: Value, available_docs: Value) -> Value:
        some = next(iter(available_docs.as_dict.values()))
        score_BN = torch.zeros(self._users, some.shape[1], device=some.device)
        return slate_of(available_docs, PlackettLuce(score_BN, self._slate_size))

    def specs(self) -> Value:
        return Value(state=Value(), slate=slate_spec(self._documents, slate_size=self._slate_size))


class GreedyRecommender:
    """The documents of the highest scores, best first. `documents` as `RandomRecommender`."""

    def __init__(self, *, score: Score, slate_size: int, documents: Value) -> None:
        self._score, self._slate_size, self._documents = score, slate_size, documents

    def initial_state(self) -> Value:
        return Value()

    def next_state(self, previous_state: Value, user_response: Value, slate_docs: Value) -> Value:
        return Value()

    def slate_docs(self, previous_state: Value, user_obs: Value, available_docs: Value) -> Value:
        """Raises ValueError where the slate is larger than the corpus."""
        score_BN = self._score(user_obs, available_docs)
        if score_BN.shape[1] < self._slate_size:
            raise ValueError(f"slates of {self._slate_size} out of {score_BN.shape[1]} documents")
        return slate_of(available_docs, score_BN.topk(self._slate_size, dim=1).indices)

    def specs(self) -> Value:
        return Value(state=Value(), slate=slate_spec(self._documents, slate_size=self._slate_size))


class CollabFilteringRecommender:
    """Slates drawn by Plackett-Luce from scores of each user's last documents and times.

    Its log-probability, field `doc_ranks` of the slate, is differentiable in the model's parameters.

    Args:
        model: (document ids int64 [B, H], consumed times float [B, H]) -> scores float [B, N]; id 0 is no document.
        documents: as `RandomRecommender`; with `doc_id`.
    """

    def __init__(
        self,
        *,
        model: Callable[[Tensor, Tensor], Tensor],
        num_users: int,
        slate_size: int,
        history_length: int,
        documents: Value,
        device: torch.device | str = "cpu",
    ) -> None:
        self._model, self._slate_size, self._documents = model, slate_size, documents
        self._doc_history, self._ctime_history = (
            NoOPOrContinueStateModel(
                FiniteHistoryStateModel(batch_size=num_users, history_length=history_length, dtype=dtype, device=device)
            )
            for dtype in (torch.int64, torch.float32)
        )

    def initial_state(self) -> Value:
        return Value(doc_history=self._doc_history.initial_state(), ctime_history=self._ctime_history.initial_state())

    def next_state(self, previous_state: Value, user_response: Value, slate_docs: Value) -> Value:
        """The histories of those who chose a document grow by it."""
        choice_B = user_response.get("choice")
        document_B = get_chosen(slate_docs.at("doc_id"), choice_B).get("doc_id")
        is_idle_B = choice_B == self._slate_size
        return Value(
            doc_history=self._doc_history.next_state(
                previous_state.get("doc_history"), Value(input=document_B, condition=is_idle_B)
            ),
            ctime_history=self._ctime_history.next_state(
                previous_state.get("ctime_history"),
                Value(input=user_response.get("consumed_time"), condition=is_idle_B),
            ),
        )

    def slate_docs(self, previous_state: Value, user_obs: Value, available_docs: Value) -> Value:
        score_BN = self._model(previous_state.get("doc_history.state"), previous_state.get("ctime_history.state"))
        return slate_of(available_docs, PlackettLuce(score_BN, self._slate_size))

    def specs(self) -> Value:
        state = Value(doc_history=self._doc_history.specs(), ctime_history=self._ctime_history.specs())
        return Value(state=state, slate=slate_spec(self._documents, slate_size=self._slate_size))


def slate_of(available_docs: Value, doc_ranks: Content) -> Value:
    """The slate's fields, [B, K, ...], of documents [1, N, ...] or [B, N, ...] at `doc_ranks`, which may be random."""

    def at_ranks(field: Tensor) -> Given:
        return Given(lambda rank_BK: _gathered(field, rank_BK), ("doc_ranks",))

    return available_docs.map(at_ranks).union(Value(doc_ranks=doc_ranks))


def slate_spec(documents: Value, *, slate_size: int) -> Value:
    """The spec of slates of documents of this spec.

    Raises:
        ValueError: a slate size below 1 or above the number of documents.
    """

    def shown(spec: TensorSpec) -> TensorSpec:
        shape, dtype = spec.invariant()
        if not 1 <= slate_size <= shape[0]:
            raise ValueError(f"slates of {slate_size} out of {shape[0]} documents")
        return TensorSpec(shape=(slate_size, *shape[1:]), dtype=dtype)

    return documents.map(shown).union(Value(doc_ranks=TensorSpec(shape=(slate_size,), dtype=torch.int64)))


def _gathered(field: Tensor, rank_BK: Tensor) -> Tensor:
    field = field.expand(len(rank_BK), *field.shape[1:])
    index = rank_BK.view(*rank_BK.shape, *[1] * (field.ndim - 2))
    return field.gather(1, index.expand(-1, -1, *field.shape[2:]))
