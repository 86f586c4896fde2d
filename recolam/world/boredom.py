"""Boredom and influence: ten items a slate, several clicks, topics that wear out, tastes that follow clicks.

Rebuilt from SARDINE (Deffayet et al. 2024, https://arxiv.org/abs/2311.09174) and the simulator of GeMS (Deffayet et al.
2023, https://arxiv.org/abs/2301.08632). For a user's taste u (unit length), item features f (unit length), the topic of
an item z_i = argmax f_i and slate positions k = 0, 1, ...:

    relevance_i   = sigmoid(slope * (u . f_i / max_j |f_j| - offset))
    P(click at k) = relevance_i * fading^k / crowding penalty            each position for itself (position-based model)
    crowding      : the penalty applies if `crowd` items of a slate share their topic
    bored of z    : for `window` steps, once `threshold` of the last `memory` clicks within `window` steps were of z
    bored users   : lose their taste for the topics they are bored of ("topic"), or all of it ("everything")
    influence     : u <- omega u + (1 - omega) mean of the clicked items' f, scaled to unit length

The reward is the number of clicks; nobody leaves, sessions end at the horizon.
Shape legend: B users, T history, K slate, N token ids, Z topics, R remembered clicks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from recolam.contracts.dataset import FIRST_ITEM
from recolam.seeding import torch_generator
from recolam.world.runtime import TensorSpec, Value
from recolam.world.slates import random_slates
from recolam.world.story import appended, common_initial, common_next, common_spec

_USER_TOPICS, _ITEM_TOPICS = (3, 4, 5), (2, 3)


@dataclass(frozen=True)
class BoredomConfig:
    """The constants of the dynamics; the defaults are SARDINE's "SlateTopK-Bored".

    Attributes:
        omega: how much of a taste survives a click; 1 is no influence.
        is_scalar_influence: the influence of the package sardine-rec 1.0.8, which takes the mean over the clicked items
            and over their topics at once, so that every topic gains alike. To compare with it.
    """

    slate_size: int = 10
    topics: int = 10
    offset: float = 0.65
    slope: float = 100.0
    fading: float = 0.85
    crowd: int = 4
    crowding_penalty: float = 1.0
    threshold: int = 5
    window: int = 5
    memory: int = 10
    boredom: Literal["topic", "everything"] = "everything"
    omega: float = 1.0
    is_scalar_influence: bool = False
    capacity: int = 64


BORED = BoredomConfig()
BORED_INFLUENCED = BoredomConfig(omega=0.95)
UNCERTAIN = BoredomConfig(omega=0.95, slope=10.0)


def draw_items(items: int, *, topics: int, seed: int) -> Tensor:
    """Features of `items` items behind zero rows for special tokens, float [N, Z]: two or three topics each, in amounts
    uniform on [0, 1), scaled to unit length."""
    generator = torch_generator(seed, "boredom items")
    count_N = torch.tensor(_ITEM_TOPICS)[torch.randint(len(_ITEM_TOPICS), (items,), generator=generator)]
    feature_NZ = _some_topics(count_N, topics, generator)
    return torch.cat([torch.zeros(FIRST_ITEM, topics), feature_NZ])


class BoredomUsers:
    """A `UserModel` with the dynamics above.

    Args:
        feature_NZ: item features by token id; rows of special tokens are not shown.

    Raises:
        ValueError: features over another number of topics than the config's, or fewer than five topics.
    """

    def __init__(self, config: BoredomConfig, feature_NZ: Tensor) -> None:
        if config.topics < max(_USER_TOPICS):
            raise ValueError(f"{config.topics} topics; users like up to {max(_USER_TOPICS)}")
        if feature_NZ.shape[1] != config.topics:
            raise ValueError(f"features over {feature_NZ.shape[1]} topics in a world of {config.topics}")
        self.config, self.feature_NZ = config, feature_NZ
        self.slate_size, self.tokens = config.slate_size, len(feature_NZ)
        self.topic_N = feature_NZ.argmax(dim=1)
        self._longest = feature_NZ[FIRST_ITEM:].norm(dim=1).max()
        self._fading_K = config.fading ** torch.arange(config.slate_size, device=feature_NZ.device)

    def state_spec(self) -> Mapping[str, TensorSpec]:
        topics, memory = self.config.topics, self.config.memory
        return common_spec(capacity=self.config.capacity) | {
            "taste": TensorSpec(shape=(topics,)),
            "clicked_topic": TensorSpec(shape=(memory,), dtype=torch.int64),
            "clicked_step": TensorSpec(shape=(memory,), dtype=torch.int64),
            "clicks": TensorSpec(dtype=torch.int64),
            "is_bored": TensorSpec(shape=(topics,), dtype=torch.bool),
            "bored_steps": TensorSpec(shape=(topics,), dtype=torch.int64),
        }

    def initial_state(self, generator: torch.Generator, users: int) -> Mapping[str, Tensor]:
        """Tastes over three to five topics, after one slate drawn at random, as in SARDINE."""
        config, device = self.config, self.feature_NZ.device
        # four topics of ten on average, each for itself, if there are three to five
        chance = torch.distributions.Binomial(config.topics, torch.tensor(4.0 / config.topics))
        weight_C = chance.log_prob(torch.tensor(_USER_TOPICS, dtype=torch.float32)).exp()
        drawn_B = torch.rand(users, generator=generator, device=generator.device) * weight_C.sum()
        count_B = _USER_TOPICS[0] + (drawn_B[:, None] >= weight_C.cumsum(0)[:-1].to(drawn_B)).sum(dim=1)
        taste_BZ = _some_topics(count_B, config.topics, generator).to(device)
        empty_BT = torch.zeros(users, config.capacity, dtype=torch.int64, device=device)
        none_BR = torch.zeros(users, config.memory, dtype=torch.int64, device=device)
        start = common_initial(empty_BT, empty_BT[:, 0].clone()) | {
            "taste": taste_BZ,
            "clicked_topic": none_BR,
            "clicked_step": none_BR.clone(),
            "clicks": none_BR[:, 0].clone(),
            "is_bored": torch.zeros_like(taste_BZ, dtype=torch.bool),
            "bored_steps": torch.full_like(taste_BZ, config.window, dtype=torch.int64),
        }
        items = self.tokens - FIRST_ITEM
        slate_BK = random_slates(users, documents=items, slate=self.slate_size, generator=generator) + FIRST_ITEM
        state = Value(**start)
        first = Value(**self.respond(state, slate_BK.to(device), generator))
        following = self.next_state(state, slate_BK.to(device), first, generator)
        return {**following, "step": start["step"], "clicked_step": following["clicked_step"] - 1}

    def respond(
        self, state: Value, slate_BK: Tensor, generator: torch.Generator, *, is_available_BK: Tensor | None = None
    ) -> Mapping[str, Tensor]:
        probability_BK = self.click_probability(state, slate_BK)
        draw_BK = torch.rand(probability_BK.shape, generator=generator, device=probability_BK.device)
        is_clicked_BK = draw_BK < probability_BK
        if is_available_BK is not None:  # clicks are independent of each other
            is_clicked_BK = is_clicked_BK & is_available_BK
        reward_B = is_clicked_BK.sum(dim=1).float()
        return {"is_clicked": is_clicked_BK, "reward": reward_B, "is_leaving": torch.zeros_like(reward_B).bool()}

    def click_probability(self, state: Value, slate_BK: Tensor) -> Tensor:
        """Probability of a click at every position, float [B, K]."""
        config = self.config
        score_BK = torch.einsum("bz,bkz->bk", self.present_taste(state), self._features(slate_BK)) / self._longest
        relevance_BK = torch.sigmoid(config.slope * (score_BK - config.offset))
        if config.crowding_penalty != 1.0:
            most_B1 = self._topic_counts(self.topic_N[slate_BK]).amax(dim=1, keepdim=True)
            relevance_BK = torch.where(most_B1 >= config.crowd, relevance_BK / config.crowding_penalty, relevance_BK)
        return relevance_BK * self._fading_K

    def present_taste(self, state: Value) -> Tensor:
        """The taste that boredom leaves, float [B, Z]."""
        is_bored_BZ = state.get("is_bored")
        if self.config.boredom == "everything":
            is_bored_BZ = is_bored_BZ.any(dim=1, keepdim=True)
        return state.get("taste").masked_fill(is_bored_BZ, 0.0)

    def next_state(
        self, state: Value, slate_BK: Tensor, response: Value, generator: torch.Generator
    ) -> Mapping[str, Tensor]:
        is_clicked_BK = response.get("is_clicked")
        following = common_next(state, slate_BK, is_clicked_BK, response)
        topic_BK, now_B = self.topic_N[slate_BK], state.get("step")
        now_BK = now_B[:, None].expand_as(topic_BK)
        topic_BR, clicks_B = appended(state.get("clicked_topic"), state.get("clicks"), topic_BK, is_clicked_BK)
        step_BR, _ = appended(state.get("clicked_step"), state.get("clicks"), now_BK, is_clicked_BK)
        is_bored_BZ, bored_steps_BZ = self._next_boredom(state, topic_BR, step_BR, clicks_B)
        return following | {
            "taste": self._influenced(state.get("taste"), slate_BK, is_clicked_BK),
            "clicked_topic": topic_BR,
            "clicked_step": step_BR,
            "clicks": clicks_B,
            "is_bored": is_bored_BZ,
            "bored_steps": bored_steps_BZ,
        }

    def greedy_slate(self, state: Value, *, is_available_BN: Tensor | None = None) -> Tensor:
        """The K items of largest click probability now, best first; int64 [B, K]."""
        score_BN = self.present_taste(state) @ self.feature_NZ.T
        if is_available_BN is not None:
            score_BN.masked_fill_(~is_available_BN, -torch.inf)
        return score_BN[:, FIRST_ITEM:].topk(self.slate_size, dim=1).indices + FIRST_ITEM

    def _next_boredom(self, state: Value, topic_BR: Tensor, step_BR: Tensor, clicks_B: Tensor) -> tuple[Tensor, Tensor]:
        """Who is bored of what at the next step, and for how many steps yet (the whole window where not bored)."""
        left_BZ = state.get("bored_steps") - state.get("is_bored").long()
        is_bored_BZ = state.get("is_bored") & (left_BZ > 0)
        left_BZ = left_BZ.where(is_bored_BZ, self.config.window)
        count_BZ = self._recent_clicks(topic_BR, step_BR, clicks_B, now_B=state.get("step") + 1)
        return is_bored_BZ | (count_BZ >= self.config.threshold), left_BZ

    def recent_clicks(self, state: Value) -> Tensor:
        """How many of the remembered clicks of the last `window` steps were of each topic, int64 [B, Z]."""
        topic_BR, step_BR, clicks_B = (state.get(name) for name in ("clicked_topic", "clicked_step", "clicks"))
        return self._recent_clicks(topic_BR, step_BR, clicks_B, now_B=state.get("step"))

    def _recent_clicks(self, topic_BR: Tensor, step_BR: Tensor, clicks_B: Tensor, *, now_B: Tensor) -> Tensor:
        place_R = torch.arange(self.config.memory, device=topic_BR.device)
        is_recent_BR = (place_R < clicks_B[:, None]) & (step_BR >= (now_B - self.config.window)[:, None])
        return self._topic_counts(topic_BR, is_recent_BR)

    def _features(self, slate_BK: Tensor) -> Tensor:
        """Features of what is shown, float [B, K, Z]; `index_select` copies rows far faster than indexing does."""
        return self.feature_NZ.index_select(0, slate_BK.reshape(-1)).view(*slate_BK.shape, -1)

    def _topic_counts(self, topic_BJ: Tensor, is_counted_BJ: Tensor | None = None) -> Tensor:
        one_BJ = torch.ones_like(topic_BJ) if is_counted_BJ is None else is_counted_BJ.long()
        return topic_BJ.new_zeros(len(topic_BJ), self.config.topics).scatter_add_(1, topic_BJ, one_BJ)

    def _influenced(self, taste_BZ: Tensor, slate_BK: Tensor, is_clicked_BK: Tensor) -> Tensor:
        if self.config.omega == 1.0:
            return taste_BZ
        weight_BK = is_clicked_BK.float() / is_clicked_BK.sum(dim=1, keepdim=True).clamp(min=1)
        mean_BZ = torch.einsum("bk,bkz->bz", weight_BK, self._features(slate_BK))
        if self.config.is_scalar_influence:
            mean_BZ = mean_BZ.mean(dim=1, keepdim=True).expand_as(mean_BZ)
        moved_BZ = self.config.omega * taste_BZ + (1 - self.config.omega) * mean_BZ
        moved_BZ = moved_BZ / moved_BZ.norm(dim=1, keepdim=True)
        return torch.where(is_clicked_BK.any(dim=1, keepdim=True), moved_BZ, taste_BZ)


def _some_topics(count_B: Tensor, topics: int, generator: torch.Generator) -> Tensor:
    """Unit vectors float [B, Z] over `count_B` topics each, which are drawn without repetition; amounts are uniform on
    [0, 1) before they are scaled. So sardine-rec 1.0.8 draws both items and, given their number of topics, users."""
    device = generator.device
    order_BZ = torch.rand(len(count_B), topics, generator=generator, device=device).argsort(dim=1).argsort(dim=1)
    amount_BZ = torch.rand(len(count_B), topics, generator=generator, device=device)
    amount_BZ = amount_BZ.masked_fill(order_BZ >= count_B[:, None].to(device), 0.0)
    return amount_BZ / amount_BZ.norm(dim=1, keepdim=True)
