"""The autoregressive slate decoder: each position is chosen in the light of those before it.

    P(slate) = prod_k softmax_i( beta r_i + alpha c_i + sum_z a_iz g(x_z, e_z, mass_kz, count_kz) )   not yet shown

r_i is the expected reward of item i and c_i the chance that it is clicked (`recolam.policy.response`), a_iz how much of
attribute z it has, x_z the user's facets of z, e_z a learnt vector of z; mass_kz = sum of a_jz r_j w_j over the items j
before position k (w_j: how likely their positions are looked at), count_kz = sum of a_jz / K. g is one small network
for all attributes. It starts at 0: the policy starts as a softmax of expected rewards and chances of clicks, sharper
the larger beta and alpha. The value of a state comes from the same facets, by a network that is symmetric in the
attributes up to e_z (Zaheer et al. 2017, https://arxiv.org/abs/1703.06114).

Candidates are retrieved first: the items of largest expected reward of every main attribute. The distribution is over
candidates, so its log-probabilities are those of what is sampled.

Shape legend: B users or states, K slate, C candidates, N token ids, Z attributes, X facets, E numbers of an attribute.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from recolam.contracts.dataset import FIRST_ITEM

_TAKEN = -1e9


class Choices(NamedTuple):
    """What a slate is made of: facet_BZX, candidate_BC (token ids), expected_BC, click_BC, attribute_BCZ."""

    facet_BZX: Tensor
    candidate_BC: Tensor
    expected_BC: Tensor
    click_BC: Tensor
    attribute_BCZ: Tensor

    def rows(self, index_R: Tensor) -> "Choices":
        return Choices(*(part[index_R] for part in self))

    @staticmethod
    def joined(parts: "list[Choices]") -> "Choices":
        return Choices(*(torch.cat(column) for column in zip(*parts, strict=True)))


@dataclass(frozen=True)
class Retrieval:
    """Which items are candidates: all where there are few, else the best few of each main attribute.

    Attributes:
        groups: the items of each main attribute (the one they have most of), int64 each.
    """

    groups: tuple[Tensor, ...]
    each: int

    @classmethod
    def of(cls, attribute_NZ: Tensor, *, slate_size: int, most: int = 128) -> "Retrieval":
        items = len(attribute_NZ) - FIRST_ITEM
        if items <= most:
            return cls((torch.arange(items) + FIRST_ITEM,), items)
        main_N = attribute_NZ[FIRST_ITEM:].argmax(dim=1)
        groups = tuple((main_N == z).nonzero()[:, 0] + FIRST_ITEM for z in range(attribute_NZ.shape[1]))
        return cls(tuple(group for group in groups if len(group)), slate_size)

    def candidates(self, expected_BN: Tensor) -> Tensor:
        """Token ids, int64 [B, C]; at least a slate's worth, since of every group there are as many or all."""
        if len(self.groups) == 1:
            return self.groups[0].expand(len(expected_BN), -1)
        best = [group[expected_BN[:, group].topk(min(self.each, len(group)), dim=1).indices] for group in self.groups]
        return torch.cat(best, dim=1)


class SlateDecoder(nn.Module):
    """The distribution above, and the value of a state.

    Args:
        sharpness, click: beta and alpha at the start.
    """

    facet_scale_X: Tensor

    def __init__(
        self,
        *,
        attributes: int,
        facets: int,
        width: int = 32,
        own: int = 4,
        sharpness: float = 6.0,
        click: float = 0.0,
    ) -> None:
        super().__init__()
        self.register_buffer("facet_scale_X", torch.ones(facets))
        self.own_ZE = nn.Parameter(torch.zeros(attributes, own))
        self.log_sharpness = nn.Parameter(torch.tensor(math.log(sharpness)))
        self.click_weight = nn.Parameter(torch.tensor(click))
        last = nn.Linear(width, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.urge = nn.Sequential(nn.Linear(facets + own + 2, width), nn.Tanh(), last)
        self.facet_value = nn.Sequential(nn.Linear(facets + own, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh())
        self.total_value = nn.Sequential(nn.Linear(2 * width, width), nn.Tanh(), nn.Linear(width, 1))

    def values(self, facet_BZX: Tensor) -> Tensor:
        """Float [B]."""
        hidden_BZD = self.facet_value(self._with_own(facet_BZX))
        return self.total_value(torch.cat([hidden_BZD.mean(dim=1), hidden_BZD.amax(dim=1)], dim=1))[:, 0]

    def logits(self, choices: Choices, mass_BJZ: Tensor, count_BJZ: Tensor) -> Tensor:
        """Scores of the candidates after each of J prefixes, float [B, J, C]; items of the prefix are not left out."""
        facet_BJZX = self._with_own(choices.facet_BZX)[:, None].expand(-1, mass_BJZ.shape[1], -1, -1)
        urge_BJZ = self.urge(torch.cat([facet_BJZX, mass_BJZ[..., None], count_BJZ[..., None]], dim=3))[..., 0]
        alone_BC = self.log_sharpness.exp() * choices.expected_BC + self.click_weight * choices.click_BC
        return alone_BC[:, None] + urge_BJZ @ choices.attribute_BCZ.mT

    def _with_own(self, facet_BZX: Tensor) -> Tensor:
        return torch.cat([facet_BZX / self.facet_scale_X, self.own_ZE.expand(len(facet_BZX), -1, -1)], dim=2)


def decode(
    decoder: SlateDecoder, choices: Choices, examination_K: Tensor, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """A slate for each row, position by position: sampled with a generator, each position's best without.

    Returns:
        Places among the candidates, int64 [B, K], and the log-probability of each position's choice, float [B, K].
    """
    slate_size = len(examination_K)
    mass_B1Z = torch.zeros_like(choices.facet_BZX[:, None, :, 0])
    count_B1Z = torch.zeros_like(mass_B1Z)
    is_taken_BC = torch.zeros_like(choices.expected_BC, dtype=torch.bool)
    places, log_probs = [], []
    for position in range(slate_size):
        logit_BC = decoder.logits(choices, mass_B1Z, count_B1Z)[:, 0].masked_fill(is_taken_BC, _TAKEN)
        noisy_BC = logit_BC  # the largest score plus Gumbel noise is a draw from the softmax
        if generator is not None:
            noisy_BC = logit_BC - torch.empty_like(logit_BC).exponential_(generator=generator).log()
        place_B1 = noisy_BC.argmax(dim=1, keepdim=True)
        log_probs.append(logit_BC.log_softmax(dim=1).gather(1, place_B1))
        places.append(place_B1)
        is_taken_BC = is_taken_BC.scatter(1, place_B1, True)
        own_B1Z = choices.attribute_BCZ.take_along_dim(place_B1[..., None], dim=1)
        looked_B11 = (choices.expected_BC.gather(1, place_B1) * examination_K[position])[..., None]
        mass_B1Z, count_B1Z = mass_B1Z + own_B1Z * looked_B11, count_B1Z + own_B1Z / slate_size
    return torch.cat(places, dim=1), torch.cat(log_probs, dim=1)


def log_probs(
    decoder: SlateDecoder, choices: Choices, place_BK: Tensor, examination_K: Tensor
) -> tuple[Tensor, Tensor]:
    """Log-probability of each position's choice given those before it, and the entropy it was drawn with.

    Equal to what `decode` returned for the slates it made; all positions at once. The entropies, summed over positions,
    are an unbiased estimate of the slate's where slates were sampled (chain rule).

    Returns:
        Float [B, K] both.
    """
    slate_size, candidates = place_BK.shape[1], choices.expected_BC.shape[1]
    own_BKZ = choices.attribute_BCZ.take_along_dim(place_BK[..., None], dim=1)
    looked_BKZ = own_BKZ * (choices.expected_BC.gather(1, place_BK) * examination_K)[..., None]
    mass_BKZ, count_BKZ = looked_BKZ.cumsum(dim=1) - looked_BKZ, (own_BKZ.cumsum(dim=1) - own_BKZ) / slate_size
    position_K = torch.arange(slate_size, device=place_BK.device)
    taken_at_BC = torch.full((len(place_BK), candidates), slate_size, device=place_BK.device)
    taken_at_BC = taken_at_BC.scatter(1, place_BK, position_K.expand_as(place_BK))
    is_taken_BKC = taken_at_BC[:, None] < position_K[:, None]
    logit_BKC = decoder.logits(choices, mass_BKZ, count_BKZ).masked_fill(is_taken_BKC, _TAKEN)
    log_chance_BKC = logit_BKC.log_softmax(dim=2)
    entropy_BK = -(log_chance_BKC.exp() * log_chance_BKC.clamp(min=-50.0)).sum(dim=2)
    return log_chance_BKC.gather(2, place_BK[..., None])[..., 0], entropy_BK
