"""Choc and kale: long-term satisfaction, where serving what is enjoyed most now serves worst.

RecSim's long-term satisfaction environment (Ie et al. 2019, https://arxiv.org/abs/1909.04847, section 5.1). An item is
choc in the share c of [0, 1], kale in the rest; x is the user's net exposure to kale, s his satisfaction:

    s           = sigmoid(sensitivity * x)
    engagement  = exp(e),  e ~ Normal((c choc_mean + (1 - c) kale_mean) s,  c choc_sd + (1 - c) kale_sd)
    x'          = memory * x + 2 (1/2 - c) + noise * Normal(0, 1)

Of a slate of several items one is always chosen, by a multinomial logit over `craving` * c; a slate of one is RecSim's.
Where nothing shown is available, nothing is chosen and the reward is 0.
The reward is the engagement; sessions end at the horizon.
Shape legend: B users, K slate, N token ids.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from recolam.contracts.dataset import FIRST_ITEM
from recolam.seeding import torch_generator
from recolam.world.runtime import TensorSpec, Value
from recolam.world.story import common_initial, common_next, common_spec, sample_choice


@dataclass(frozen=True)
class ChocKaleConfig:
    """The constants of the dynamics; the defaults are RecSim's."""

    slate_size: int = 1
    memory: float = 0.7
    sensitivity: float = 0.01
    noise: float = 0.05
    choc_mean: float = 5.0
    choc_sd: float = 1.0
    kale_mean: float = 4.0
    kale_sd: float = 1.0
    craving: float = 1.0
    capacity: int = 64


def draw_choc(items: int, *, seed: int) -> Tensor:
    """How much of each item is choc, uniform on [0, 1) behind zeros for special tokens; float [N]."""
    share_N = torch.rand(items, generator=torch_generator(seed, "choc"))
    return torch.cat([torch.zeros(FIRST_ITEM), share_N])


class ChocKaleUsers:
    """A `UserModel` with the dynamics above. `choc_N`: the choc share of each token id."""

    def __init__(self, config: ChocKaleConfig, choc_N: Tensor) -> None:
        self.config, self.choc_N = config, choc_N
        self.slate_size, self.tokens = config.slate_size, len(choc_N)

    def state_spec(self) -> Mapping[str, TensorSpec]:
        return common_spec(capacity=self.config.capacity) | {"exposure": TensorSpec()}

    def initial_state(self, generator: torch.Generator, users: int) -> Mapping[str, Tensor]:
        """Exposures uniform within the bounds that an endless diet of choc or of kale leads to."""
        config, device = self.config, self.choc_N.device
        bound = 1.0 / (1.0 - config.memory)
        exposure_B = (2.0 * torch.rand(users, generator=generator, device=generator.device) - 1.0) * bound
        empty_BT = torch.zeros(users, config.capacity, dtype=torch.int64, device=device)
        return common_initial(empty_BT, empty_BT[:, 0].clone()) | {"exposure": exposure_B.to(device)}

    def respond(
        self, state: Value, slate_BK: Tensor, generator: torch.Generator, *, is_available_BK: Tensor | None = None
    ) -> Mapping[str, Tensor]:
        choc_BK = self.choc_N[slate_BK]
        never_B = torch.full_like(choc_BK[:, 0], -torch.inf)
        choice_B = sample_choice(self.config.craving * choc_BK, never_B, generator, is_available_BK=is_available_BK)
        choc_B = choc_BK.gather(1, choice_B.clamp(min=0)[:, None])[:, 0]
        mean_B, sd_B = self.engagement(state, choc_B)
        noise_B = torch.randn(len(mean_B), generator=generator, device=mean_B.device)
        return {
            "choice": choice_B,
            "reward": (mean_B + sd_B * noise_B).exp().where(choice_B >= 0, 0.0),
            "is_leaving": torch.zeros_like(choice_B, dtype=torch.bool),
        }

    def next_state(
        self, state: Value, slate_BK: Tensor, response: Value, generator: torch.Generator
    ) -> Mapping[str, Tensor]:
        choice_B1, exposure_B = response.get("choice")[:, None], state.get("exposure")
        item_B1, is_chosen_B1 = slate_BK.gather(1, choice_B1.clamp(min=0)), choice_B1 >= 0
        noise_B = self.config.noise * torch.randn(len(exposure_B), generator=generator, device=exposure_B.device)
        moved_B = self.config.memory * exposure_B + 2.0 * (0.5 - self.choc_N[item_B1[:, 0]]) + noise_B
        return common_next(state, item_B1, is_chosen_B1, response) | {
            "exposure": torch.where(is_chosen_B1[:, 0], moved_B, exposure_B)
        }

    def greedy_slate(self, state: Value, *, is_available_BN: Tensor | None = None) -> Tensor:
        """The items of most choc: they are enjoyed most now, whatever the exposure; int64 [B, K]."""
        choc_BN = self.choc_N.expand(len(state.get("step")), -1)
        if is_available_BN is not None:
            choc_BN = choc_BN.masked_fill(~is_available_BN, -torch.inf)
        return choc_BN[:, FIRST_ITEM:].topk(self.slate_size, dim=1).indices + FIRST_ITEM

    def engagement(self, state: Value, choc_B: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the logarithm of engagement, float [B] both."""
        config = self.config
        satisfaction_B = torch.sigmoid(config.sensitivity * state.get("exposure"))
        mean_B = (choc_B * config.choc_mean + (1 - choc_B) * config.kale_mean) * satisfaction_B
        return mean_B, choc_B * config.choc_sd + (1 - choc_B) * config.kale_sd
