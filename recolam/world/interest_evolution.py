"""Interest evolution: RecSim NG's reference user, with a time budget and leaving.

Dynamics (RecSim NG, Mladenov et al. 2021, https://arxiv.org/abs/2103.08057, and RecSim, Ie et al. 2019,
https://arxiv.org/abs/1909.04847), for interest x, document features f, quality q and length l:

    affinity_k   = offset - affinity_scale * ||x - f_k||_2 - position_bias * log2(1 + k)          k = 0, 1, ...
    P(choice=k)  = exp(affinity_k) / (exp(no_click) + sum_j exp(affinity_j))
    time         = sigmoid(-q) * l              (trash is watched longer: the myopic bait)
    y            = x + step_size * q * (f - x)  (good documents attract, bad ones repel)
    x'           = 4 M (sigmoid(y / M) - 1/2)                  after every step; y = x where nothing was chosen
    budget'      = budget - time + bonus * max(q, 0) * time       after a click
                 = budget - no_click_cost                         otherwise; the user leaves at 0

Shape legend: B users, P bank of start states, T history, K slate, N token ids, I items, Z topics.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from recolam.contracts.dataset import FIRST_ITEM
from recolam.world.assortment import best_logit_slate
from recolam.world.runtime import TensorSpec, Value
from recolam.world.story import Choose, chosen_item, common_initial, common_next, common_spec, sample_choice


@dataclass(frozen=True)
class InterestEvolutionConfig:
    """The constants of the dynamics; times are in the unit of the documents' lengths."""

    slate_size: int = 3
    offset: float = 2.0
    affinity_scale: float = 1.0
    no_click: float = 0.0
    position_bias: float = 0.3
    interest_step: float = 0.1
    max_affinity: float = 10.0
    budget: float = 6.0
    budget_bonus: float = 0.5
    no_click_cost: float = 0.5


def affinities(config: InterestEvolutionConfig, interest_BZ: Tensor, feature_BKZ: Tensor) -> Tensor:
    """Affinity of every shown document, float [B, K]."""
    # one pass over the features, exact where two points are close
    distance_BK = torch.cdist(interest_BZ[:, None], feature_BKZ, compute_mode="donot_use_mm_for_euclid_dist")[:, 0]
    affinity_BK = torch.rsub(distance_BK, config.offset, alpha=config.affinity_scale)  # offset - scale * distance
    if config.position_bias == 0.0:
        return affinity_BK
    place_K = torch.arange(feature_BKZ.shape[1], device=interest_BZ.device)
    return affinity_BK - config.position_bias * torch.log2(1.0 + place_K)


def watch_time(quality: Tensor, length: Tensor) -> Tensor:
    """Time that a chosen document is watched; any common shape."""
    return torch.sigmoid(-quality) * length


def next_interest(
    config: InterestEvolutionConfig, interest_BZ: Tensor, feature_BZ: Tensor, quality_B: Tensor, is_chosen_B: Tensor
) -> Tensor:
    """Interest after the step, from the chosen documents' features and quality; float [B, Z]."""
    pull_B = config.interest_step * quality_B * is_chosen_B
    moved_BZ = torch.lerp(interest_BZ, feature_BZ, pull_B[:, None])
    squashed_BZ = torch.sigmoid(moved_BZ.div_(config.max_affinity))  # in place where autograd allows it
    return (squashed_BZ - 0.5).mul_(4.0 * config.max_affinity)


@dataclass(frozen=True)
class Corpus:
    """Documents by token id (rows of special tokens are never shown)."""

    feature_NZ: Tensor
    quality_N: Tensor
    length_N: Tensor


@dataclass(frozen=True)
class StartStates:
    """Users as they come to the environment: what they had, and (hidden) what they like."""

    history_PT: Tensor
    length_P: Tensor
    interest_PZ: Tensor


class InterestEvolutionUsers:
    """A `UserModel` with the dynamics above.

    Args:
        is_sampled: sessions begin with users drawn from `start`; False takes them all, in their order.
        choose: draws the choice from the affinities.
    """

    def __init__(
        self,
        config: InterestEvolutionConfig,
        corpus: Corpus,
        start: StartStates,
        *,
        is_sampled: bool = True,
        choose: Choose = sample_choice,
    ) -> None:
        self.config, self.corpus, self.start, self.is_sampled = config, corpus, start, is_sampled
        self._choose = choose
        self.slate_size, self.tokens = config.slate_size, len(corpus.quality_N)
        time_N = watch_time(corpus.quality_N, corpus.length_N)
        gain_N = config.budget_bonus * corpus.quality_N.clamp(min=0) * time_N - time_N
        is_item_N = torch.arange(self.tokens, device=time_N.device) > 0  # token 0: nothing was chosen
        self._time_N, self._gain_N = time_N.where(is_item_N, 0.0), gain_N.where(is_item_N, -config.no_click_cost)

    def state_spec(self) -> Mapping[str, TensorSpec]:
        capacity, topics = self.start.history_PT.shape[1], self.corpus.feature_NZ.shape[1]
        return common_spec(capacity=capacity) | {"interest": TensorSpec(shape=(topics,)), "budget": TensorSpec()}

    def initial_state(self, generator: torch.Generator, users: int) -> Mapping[str, Tensor]:
        start = self.start
        if self.is_sampled:
            row_B = torch.randint(len(start.length_P), (users,), generator=generator, device=start.length_P.device)
        elif users == len(start.length_P):
            row_B = torch.arange(users, device=start.length_P.device)
        else:
            raise ValueError(f"{users} sessions for {len(start.length_P)} users taken in their order")
        return common_initial(start.history_PT[row_B], start.length_P[row_B]) | {
            "interest": start.interest_PZ[row_B],
            "budget": torch.full((users,), self.config.budget, device=row_B.device),
        }

    def utilities(self, interest_BZ: Tensor, slate_BK: Tensor) -> Tensor:
        """Affinity of every shown document, float [B, K]."""
        feature_BKZ = self.corpus.feature_NZ.index_select(0, slate_BK.reshape(-1)).view(*slate_BK.shape, -1)
        return affinities(self.config, interest_BZ, feature_BKZ)

    def respond(
        self, state: Value, slate_BK: Tensor, generator: torch.Generator, *, is_available_BK: Tensor | None = None
    ) -> Mapping[str, Tensor]:
        utility_BK = self.utilities(state.get("interest"), slate_BK)
        no_click_B = torch.full((len(slate_BK),), self.config.no_click, device=slate_BK.device)
        choice_B = self._choose(utility_BK, no_click_B, generator, is_available_BK=is_available_BK)
        chosen_B = chosen_item(slate_BK, choice_B)
        left_B = state.get("budget") + self._gain_N.index_select(0, chosen_B)
        return {"choice": choice_B, "reward": self._time_N.index_select(0, chosen_B), "is_leaving": left_B <= 0}

    def next_state(
        self, state: Value, slate_BK: Tensor, response: Value, generator: torch.Generator
    ) -> Mapping[str, Tensor]:
        choice_B, interest_BZ = response.get("choice"), state.get("interest")
        chosen_B, is_clicked_B, is_active_B = chosen_item(slate_BK, choice_B), choice_B >= 0, state.get("is_active")
        feature_BZ, quality_B = (
            field.index_select(0, chosen_B) for field in (self.corpus.feature_NZ, self.corpus.quality_N)
        )
        after_BZ = next_interest(self.config, interest_BZ, feature_BZ, quality_B, is_clicked_B)
        budget_B = state.get("budget")
        return common_next(state, chosen_B[:, None], is_clicked_B[:, None], response) | {
            # who left stays as he was: by weights of 0 and 1, which are exact, in half the time of `where`
            "interest": torch.lerp(interest_BZ, after_BZ, is_active_B[:, None].to(after_BZ.dtype)),
            "budget": torch.where(is_active_B, budget_B + self._gain_N.index_select(0, chosen_B), budget_B),
        }

    def watch_time(self, item_B: Tensor) -> Tensor:
        """Time spent on an item once chosen: the reward."""
        return watch_time(self.corpus.quality_N[item_B], self.corpus.length_N[item_B])

    def greedy_slate(self, state: Value, *, is_available_BN: Tensor | None = None) -> Tensor:
        """The slate of largest expected watch time this step, knowing the interest; int64 [B, K]."""
        weight_BN, time_1N = self.logit_choice(state)
        if is_available_BN is not None:
            weight_BN = weight_BN * is_available_BN
        return best_logit_slate(weight_BN[:, FIRST_ITEM:], time_1N[:, FIRST_ITEM:], k=self.slate_size) + FIRST_ITEM

    def logit_choice(self, state: Value) -> tuple[Tensor, Tensor]:
        """Every item's weight in the choice, where no click has weight 1 (0 for what the user had), and its watch time,
        float [B, N] and [1, N]."""
        distance_BN = torch.cdist(state.get("interest"), self.corpus.feature_NZ)
        affinity_BN = self.config.offset - self.config.affinity_scale * distance_BN
        affinity_BN.scatter_(1, state.get("history"), -torch.inf)
        return (affinity_BN - self.config.no_click).exp(), watch_time(self.corpus.quality_N, self.corpus.length_N)[None]
