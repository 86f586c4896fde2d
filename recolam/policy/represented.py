"""Users as the pretrained model knows them: what SlateQ and the bandit of `recolam.policy.rivals` learn on.

The frozen model scores item i for a user in state h by h'e_i. Of this product the F leading terms are kept: with
C = mean h h' over users, the singular values S of C^(1/2) E' in h'e = (h' C^(-1/2) U S^(1/2)) (S^(1/2) V') are cut, so
that user_BF and feature_NG have the inner products nearest to the model's scores, on average over users and all items
(Eckart & Young 1936). Items are centred first: a user's mean score ranks nothing.

Shape legend: B users, T history, K slate, N token ids, I items, D width, R rank, F = G leading directions, Z parts of
the catalogue by sales.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recolam.contracts.dataset import FIRST_ITEM
from recolam.contracts.protocols import Observation, Sight, StepResult
from recolam.policy.returns import Act
from recolam.policy.rollout import Sessions
from recolam.sequence.incremental import IncrementalEncoder
from recolam.sequence.model import SequenceModel

_LEAST_SPREAD = 1e-6  # of the largest: directions in which users do not differ are dropped


@dataclass(frozen=True, eq=False)
class Representation:
    """Sights of users and features of items, from a frozen model.

    Attributes:
        feature_NG: the leading directions of each item; 0 for special tokens.
        attribute_NZ: 1 for the part of the catalogue, by sales, that an item belongs to.
        project_DF: from the model's state to the user's numbers.
    """

    encoder: IncrementalEncoder
    feature_NG: Tensor
    attribute_NZ: Tensor
    project_DF: Tensor

    @classmethod
    def of(
        cls, model: SequenceModel, users: Observation, popularity_N: Tensor, *, directions: int = 16, parts: int = 4
    ) -> "Representation":
        """
        Args:
            users: whose states say in which directions users differ.
            popularity_N: events per token id in the behaviour log.
            directions: F, fewer where the model is narrower.
            parts: Z.
        """
        encoder = IncrementalEncoder(model)
        state_BD = encoder.last_state(users.history_BT, users.length_B)
        project_DF, item_IF = leading_terms(state_BD, encoder.table_ND[FIRST_ITEM:], count=directions)
        feature_NG = torch.zeros(len(popularity_N), item_IF.shape[1])
        feature_NG[FIRST_ITEM:] = item_IF
        return cls(encoder, feature_NG, _parts_of_sales(popularity_N, parts), project_DF)

    def see(self, observation: Observation) -> Sight:
        """The user's numbers, and the shares of each part of the catalogue in what he had (facets, X = 1)."""
        history_BT, length_B = observation.history_BT, observation.length_B
        user_BF = self.encoder.last_state(history_BT, length_B) @ self.project_DF
        had_BZ = self.attribute_NZ[history_BT].sum(dim=1) / length_B.clamp(min=1)[:, None]
        return Sight(history_BT, length_B, user_BF=user_BF, facet_BZX=had_BZ[..., None])

    def seeing(self, act: Act) -> Act:
        """A policy of sights as one of plain observations."""
        return lambda observation, generator: act(self.see(observation), generator)


class Represented:
    """A `SightedEnvironment`: an environment seen through a representation. `played` counts user-steps."""

    def __init__(self, environment: Sessions, representation: Representation) -> None:
        self.environment, self.representation, self.played = environment, representation, 0
        self.tokens, self.slate_size, self.horizon = environment.tokens, environment.slate_size, environment.horizon
        self.feature_NG, self.attribute_NZ = representation.feature_NG, representation.attribute_NZ

    def reset(self, *, users: int, seed: int) -> Sight:
        return self.representation.see(self.environment.reset(users=users, seed=seed))

    def step(self, slate_BK: Tensor) -> StepResult:
        self.played += int(self.environment.state.get("is_active").sum())
        result = self.environment.step(slate_BK)
        return replace(result, observation=self.representation.see(result.observation))


@torch.no_grad()
def leading_terms(state_BD: Tensor, table_ID: Tensor, *, count: int) -> tuple[Tensor, Tensor]:
    """Projections of states [D, F] and items [I, F] as the head of this file says; F is `count`, or the rank."""
    state_BD, table_ID = state_BD.double(), table_ID.double()
    spread_D, axis_DD = torch.linalg.eigh(state_BD.T @ state_BD / len(state_BD))
    is_kept_D = spread_D > _LEAST_SPREAD * spread_D[-1]
    root_R, axis_DR = spread_D[is_kept_D].sqrt(), axis_DD[:, is_kept_D]
    left_RF, size_F, right_FI = torch.linalg.svd(
        root_R[:, None] * (axis_DR.T @ (table_ID - table_ID.mean(dim=0)).T), full_matrices=False
    )
    half_F = size_F[:count].sqrt()
    project_DF = axis_DR @ (left_RF[:, :count] / root_R[:, None]) * half_F
    return project_DF.float(), (right_FI[:count].T * half_F).float()


def _parts_of_sales(popularity_N: Tensor, parts: int) -> Tensor:
    """Equal parts of the catalogue from least to most sold, float [N, Z]; rows of special tokens are 0."""
    rank_I = popularity_N[FIRST_ITEM:].argsort(stable=True).argsort()
    part_I = rank_I * parts // len(rank_I)
    attribute_NZ = torch.zeros(len(popularity_N), parts)
    attribute_NZ[FIRST_ITEM:] = torch.nn.functional.one_hot(part_I, parts).float()
    return attribute_NZ
