"""An ecosystem of content providers, who leave when they are not served.

The question is that of Mladenov et al. 2020, "Optimizing long-term social welfare in recommender systems: a constrained
matching approach" (https://arxiv.org/abs/2008.00104): providers who do not get a certain engagement do not stay, and
who always shows each user the best provider loses welfare in the long run. Utilities, 2 less the distance from the
taste, are those of the ecosystem application of RecSim NG 0.1.2, where providers never leave: there documents are drawn
anew at each step, of a provider with probability proportional to (1 + clicks, discounted by 0.96 a step)^2, and users
always choose (`recolam.world.blocks.corpora.ViableCorpus` is that corpus). The equation of viability below, its cost
and its memory, and the choice of nothing are this project's. For a user's taste u, an item's features f_i and its
provider p(i), in a market of G users:

    utility_i     = offset + u . f_i                    ("dot")      or      offset - ||u - f_i||_2      ("distance")
    P(choice = k) = exp(sensitivity utility_k) / (exp(no_click) + sum_j exp(sensitivity utility_j))
                    over the positions whose item's provider is still there
    engagement_p  = clicks on items of p at this step, of all users of the market, / G
    viability_p'  = memory viability_p + engagement_p - cost                where viability_p >= threshold
                  = viability_p                                             where p has left: it does not come back

A provider leaves at the step at which its viability falls below the threshold; at a steady engagement e that is where
e < cost + (1 - memory) threshold. The reward is the utility of what was chosen, 0 without a click; nobody leaves, so
sessions end at the horizon.

Markets are rows side by side: rows 0 to G - 1 of a batch share the first one, and so on; the last may be smaller. The
field `viability` holds the market's, the same in all its rows. What befalls rows:

- A session that starts anew (`reset_rows`) joins the market as it is: the market's state is that of its oldest row.
  A market all of whose rows start anew together starts anew itself.
- `replicate(R)` makes R markets of each: the r-th copy of every row belongs to the r-th copy of the market.
- A row that is not active engages with nothing and still counts among the G.

Shape legend: B users, T history, K slate, N token ids, I items, P providers, Z taste dimensions, M markets.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from recolam.contracts.dataset import FIRST_ITEM
from recolam.seeding import torch_generator
from recolam.world.assortment import best_logit_slate
from recolam.world.runtime import TensorSpec, Value
from recolam.world.story import common_initial, common_next, common_spec, sample_choice


@dataclass(frozen=True)
class EcosystemConfig:
    """The constants of the dynamics.

    Attributes:
        market_size: G, the users who share a market; None for one market of the whole batch.
        taste_scale: tastes are drawn from Normal(0, taste_scale^2), each dimension for itself.
    """

    slate_size: int = 2
    affinity: Literal["dot", "distance"] = "distance"
    offset: float = 2.0
    sensitivity: float = 2.0
    no_click: float = 0.0
    memory: float = 0.8
    cost: float = 0.08
    threshold: float = 0.0
    start_viability: float = 0.2
    taste_scale: float = 1.0
    market_size: int | None = None
    capacity: int = 64


@dataclass(frozen=True)
class Offer:
    """Items by token id: features float [N, Z], and the provider of each, int64 [N] (-1 for special tokens)."""

    feature_NZ: Tensor
    provider_N: Tensor


def draw_offer(items: int, mean_PZ: Tensor, *, spread: float, seed: int) -> Offer:
    """`items` items, dealt to the providers in turn, features drawn from Normal(mean of the provider, spread^2)."""
    provider_I = torch.arange(items) % len(mean_PZ)
    noise_IZ = torch.randn(items, mean_PZ.shape[1], generator=torch_generator(seed, "ecosystem items"))
    feature_IZ = mean_PZ[provider_I] + spread * noise_IZ
    return Offer(
        feature_NZ=torch.cat([torch.zeros(FIRST_ITEM, mean_PZ.shape[1]), feature_IZ]),
        provider_N=torch.cat([torch.full((FIRST_ITEM,), -1), provider_I]),
    )


class EcosystemUsers:
    """A `UserModel` with the dynamics above.

    Raises:
        ValueError: features and providers for different numbers of items, an item without a provider, a provider
            without an item, a market of no users.
    """

    def __init__(self, config: EcosystemConfig, offer: Offer) -> None:
        provider_I = offer.provider_N[FIRST_ITEM:]
        if len(offer.feature_NZ) != len(offer.provider_N):
            raise ValueError(f"features of {len(offer.feature_NZ)} tokens, providers of {len(offer.provider_N)}")
        if provider_I.unique().tolist() != list(range(int(provider_I.max()) + 1)):
            raise ValueError(
                f"providers are {provider_I.unique().tolist()}; each from 0 on has an item, and none is -1"
            )
        if config.market_size is not None and config.market_size < 1:
            raise ValueError(f"market_size is {config.market_size}, below 1")
        self.config, self.offer = config, offer
        self.slate_size, self.tokens = config.slate_size, len(offer.provider_N)
        self.providers = int(provider_I.max()) + 1

    def state_spec(self) -> Mapping[str, TensorSpec]:
        """`seat`: the row at which a session began; `age`: the steps that a row has seen of its market."""
        return common_spec(capacity=self.config.capacity) | {
            "taste": TensorSpec(shape=(self.offer.feature_NZ.shape[1],)),
            "viability": TensorSpec(shape=(self.providers,)),
            "seat": TensorSpec(dtype=torch.int64),
            "age": TensorSpec(dtype=torch.int64),
        }

    def initial_state(self, generator: torch.Generator, users: int) -> Mapping[str, Tensor]:
        device, shape = self.offer.feature_NZ.device, (users, self.offer.feature_NZ.shape[1])
        taste_BZ = self.config.taste_scale * torch.randn(shape, generator=generator, device=generator.device)
        empty_BT = torch.zeros(users, self.config.capacity, dtype=torch.int64, device=device)
        return common_initial(empty_BT, empty_BT[:, 0].clone()) | {
            "taste": taste_BZ.to(device),
            "viability": torch.full((users, self.providers), self.config.start_viability, device=device),
            "seat": torch.arange(users, device=device),
            "age": torch.zeros(users, dtype=torch.int64, device=device),
        }

    def utilities(self, taste_BZ: Tensor, item_BK: Tensor) -> Tensor:
        """Utility of items, whether their providers are there or not; float [B, K]."""
        feature_BKZ = self.offer.feature_NZ[item_BK]
        if self.config.affinity == "dot":
            return self.config.offset + torch.einsum("bz,bkz->bk", taste_BZ, feature_BKZ)
        return self.config.offset - (taste_BZ[:, None] - feature_BKZ).norm(dim=2)

    def respond(
        self, state: Value, slate_BK: Tensor, generator: torch.Generator, *, is_available_BK: Tensor | None = None
    ) -> Mapping[str, Tensor]:
        utility_BK = self.utilities(state.get("taste"), slate_BK)
        is_offered_BK = self.is_there(state).gather(1, self.offer.provider_N[slate_BK])
        if is_available_BK is not None:
            is_offered_BK = is_offered_BK & is_available_BK
        no_click_B = torch.full_like(utility_BK[:, 0], self.config.no_click)
        choice_B = sample_choice(
            self.config.sensitivity * utility_BK, no_click_B, generator, is_available_BK=is_offered_BK
        )
        reward_B = utility_BK.gather(1, choice_B.clamp(min=0)[:, None])[:, 0].where(choice_B >= 0, 0.0)
        return {"choice": choice_B, "reward": reward_B, "is_leaving": torch.zeros_like(choice_B, dtype=torch.bool)}

    def next_state(
        self, state: Value, slate_BK: Tensor, response: Value, generator: torch.Generator
    ) -> Mapping[str, Tensor]:
        choice_B1 = response.get("choice")[:, None]
        item_B1, is_chosen_B1 = slate_BK.gather(1, choice_B1.clamp(min=0)), choice_B1 >= 0
        market_B, oldest_B = self._market(state)
        viability_BP = state.get("viability")[oldest_B]
        engagement_BP = self._engagement(market_B, self.offer.provider_N[item_B1], is_chosen_B1)
        following_BP = self.config.memory * viability_BP + engagement_BP - self.config.cost
        return common_next(state, item_B1, is_chosen_B1, response) | {
            "taste": state.get("taste"),
            "viability": torch.where(viability_BP >= self.config.threshold, following_BP, viability_BP),
            "seat": state.get("seat"),
            "age": state.get("age")[oldest_B] + 1,
        }

    def is_there(self, state: Value) -> Tensor:
        """Which providers each user's market has still, bool [B, P]."""
        return self._viability(state) >= self.config.threshold

    def greedy_slate(self, state: Value, *, is_available_BN: Tensor | None = None) -> Tensor:
        """The slate of largest expected utility this step, whatever becomes of the providers; int64 [B, K]."""
        utility_BI = self._item_utilities(state, is_available_BN)
        weight_BI = (self.config.sensitivity * utility_BI - self.config.no_click).exp()
        reward_BI = utility_BI.where(weight_BI > 0, 0.0)
        return best_logit_slate(weight_BI, reward_BI, k=self.slate_size) + FIRST_ITEM

    def sustaining_slate(self, state: Value, *, reserved: int, margin: float) -> Tensor:
        """The items that the user likes most, but the last `reserved` positions are for weak providers': of the items
        whose provider is there with a viability below threshold + margin, those that he likes most. int64 [B, K].

        Exposure for the providers at risk, to the users who lose least by it: the idea of Mladenov et al. 2020,
        section 4, without their linear programme.

        Raises:
            ValueError: more or fewer positions reserved than a slate has.
        """
        if not 0 <= reserved <= self.slate_size:
            raise ValueError(f"{reserved} positions reserved in slates of {self.slate_size}")
        utility_BI = self._item_utilities(state, None)
        best_BK = utility_BI.topk(self.slate_size - reserved, dim=1).indices
        is_weak_BP = self._viability(state) < self.config.threshold + margin
        is_weak_BI = is_weak_BP[:, self.offer.provider_N[FIRST_ITEM:]]
        # weak providers' items first, then the others, each by utility
        rank_BI = utility_BI.argsort(dim=1, descending=True).argsort(dim=1)
        rank_BI = rank_BI + utility_BI.shape[1] * (~is_weak_BI | utility_BI.isinf())
        rank_BI.scatter_(1, best_BK, 3 * utility_BI.shape[1])
        reserved_BK = rank_BI.topk(reserved, dim=1, largest=False).indices
        return torch.cat([best_BK, reserved_BK], dim=1) + FIRST_ITEM

    def _item_utilities(self, state: Value, is_available_BN: Tensor | None) -> Tensor:
        """Utility of every item, -inf where it cannot be chosen; float [B, I]."""
        item_I = torch.arange(FIRST_ITEM, self.tokens, device=self.offer.provider_N.device)
        utility_BI = self.utilities(state.get("taste"), item_I.expand(len(state.get("seat")), -1))
        is_offered_BI = self.is_there(state)[:, self.offer.provider_N[item_I]]
        if is_available_BN is not None:
            is_offered_BI = is_offered_BI & is_available_BN[:, FIRST_ITEM:]
        return utility_BI.masked_fill(~is_offered_BI, -torch.inf)

    def _viability(self, state: Value) -> Tensor:
        """The viability of the providers in each user's market, float [B, P]."""
        return state.get("viability")[self._market(state)[1]]

    def _market(self, state: Value) -> tuple[Tensor, Tensor]:
        """Each row's market (int64 [B], from 0 on) and the row that knows it for longest (int64 [B])."""
        seat_B, age_B = state.get("seat"), state.get("age")
        row_B = torch.arange(len(seat_B), device=seat_B.device)
        sorted_B, order_B = seat_B.sort(stable=True)
        copy_B = torch.empty_like(seat_B).scatter_(0, order_B, row_B - torch.searchsorted(sorted_B, sorted_B))
        first_B = torch.zeros_like(seat_B) if self.config.market_size is None else seat_B // self.config.market_size
        name_B = copy_B * (first_B.max() + 1) + first_B
        market_B = name_B.unique(return_inverse=True)[1]
        # the oldest row, the first of them: age in the high digits, rows counted down in the low ones
        key_B = age_B * len(row_B) + row_B.flip(0)
        best_M = torch.zeros_like(key_B).scatter_reduce_(0, market_B, key_B, "amax")
        return market_B, (len(row_B) - 1 - best_M % len(row_B))[market_B]

    def _engagement(self, market_B: Tensor, provider_B1: Tensor, is_chosen_B1: Tensor) -> Tensor:
        """Clicks per user of the market on each provider's items, float [B, P]."""
        clicks_MP = torch.zeros(len(market_B), self.providers, device=market_B.device)
        clicks_MP.index_put_((market_B, provider_B1[:, 0]), is_chosen_B1[:, 0].float(), accumulate=True)
        users_M = torch.bincount(market_B, minlength=1)
        return clicks_MP[market_B] / users_M[market_B][:, None]
