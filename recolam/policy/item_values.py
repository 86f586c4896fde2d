"""Item-level long-term values and clicks of a state: what a policy's slates are worth, item by item.

    P(click | s, i at position k) = sigmoid(e_k) sigmoid(x' A v + a_i)                  (position-based model)
    Q(s, i) - Q(s, nothing)       = x' W v + b_i
    Q(s, nothing)                 = x' q
    Q(s, A)                       = Q(s, nothing) + sum_k P(click | s, A_k at k) (Q(s, A_k) - Q(s, nothing))

with x = [state, 1] and v = [item's embedding, 1], each scaled to a mean square length of 1 before the 1. Both come from
a model that does not change, so what is learnt is linear in them and nothing moves below it. Where users pick at most
one item, Q is SlateQ's (`slateq`); where they pick several, the picks' effects on the future are taken to add up.
Three things it does not see: that an item shown takes picks from the others, what a slate earns by being shown and not
by its picks, and a user's state where the history does not tell it. Labels are as wrong as these matter.

Shape legend: S states, K positions, N token ids, C candidates, M columns (N, or C), D width, V = D + 1, B sessions, H
steps.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy, pad

from recolam.contracts.dataset import FIRST_ITEM
from recolam.policy.gradient import generalised_advantages
from recolam.policy.response import root_mean_square
from recolam.policy.slateq import long_term_labels, slate_value

_START_SEEN, _START_CLICK = 2.0, -2.0  # logits of .88 and .12


class ItemValues(nn.Module):
    """The model above. It starts at gains of 0, and clicks that are alike for all items.

    Args:
        table_ND: embeddings of all token ids, kept as they are.
    """

    item_NV: Tensor
    state_scale: Tensor
    value_scale: Tensor

    def __init__(self, table_ND: Tensor, *, slate_size: int) -> None:
        super().__init__()
        table_ND = table_ND.detach() / root_mean_square(table_ND[FIRST_ITEM:].detach())
        self.register_buffer("item_NV", pad(table_ND, (0, 1), value=1.0), persistent=False)
        self.register_buffer("state_scale", torch.tensor(1.0))
        self.register_buffer("value_scale", torch.tensor(0.0))
        tokens, size = self.item_NV.shape
        self.gain, self.affinity = nn.Parameter(torch.zeros(size, size)), nn.Parameter(torch.zeros(size, size))
        self.item_gain, self.item_click = nn.Parameter(torch.zeros(tokens)), nn.Parameter(torch.zeros(tokens))
        self.nothing = nn.Parameter(torch.zeros(size))
        self.seen_K = nn.Parameter(torch.full((slate_size,), _START_SEEN))
        with torch.no_grad():
            self.affinity[-1, -1] = _START_CLICK

    @property
    def examination_K(self) -> Tensor:
        """How likely a position is looked at, float [K]."""
        return torch.sigmoid(self.seen_K)

    @torch.no_grad()
    def measure(self, state_length: float, return_mean: float, return_size: float) -> None:
        """Sets the units, once: the root mean square of states' lengths and of returns; values begin at their mean."""
        self.state_scale.fill_(max(state_length, 1e-6))
        self.value_scale.fill_(max(return_size, 1e-6))
        self.nothing[-1] = return_mean / self.value_scale

    @property
    def is_measured(self) -> bool:
        return bool(self.value_scale > 0)

    def chances(self, state_SD: Tensor, slate_SK: Tensor) -> Tensor:
        """P(click) of each shown item at its position, float [S, K]."""
        logit_SK = _shown(self._state(state_SD) @ self.affinity, self.item_NV, slate_SK) + self.item_click[slate_SK]
        return torch.sigmoid(logit_SK) * self.examination_K

    def parts(self, state_SD: Tensor, slate_SK: Tensor) -> tuple[Tensor, Tensor]:
        """Q(s, nothing) [S] and Q(s, i) - Q(s, nothing) of the shown items [S, K], in units of `value_scale`."""
        state_SV = self._state(state_SD)
        gain_SK = _shown(state_SV @ self.gain, self.item_NV, slate_SK) + self.item_gain[slate_SK]
        return state_SV @ self.nothing, gain_SK

    def slate_values(self, state_SD: Tensor, slate_SK: Tensor) -> Tensor:
        """Q(s, A), float [S], in units of `value_scale`."""
        nothing_S, gain_SK = self.parts(state_SD, slate_SK)
        return nothing_S + slate_value(self.chances(state_SD, slate_SK), gain_SK)

    @torch.no_grad()
    def labels(self, state_SD: Tensor, candidate_SC: Tensor | None = None) -> Tensor:
        """P(click | examined) (Q(s, i) - Q(s, nothing)) of every item or candidate, float [S, M], in rewards."""
        state_SV = self._state(state_SD)
        if candidate_SC is None:
            gain_SM = state_SV @ self.gain @ self.item_NV.T + self.item_gain
            logit_SM = state_SV @ self.affinity @ self.item_NV.T + self.item_click
        else:
            gain_SM = _shown(state_SV @ self.gain, self.item_NV, candidate_SC) + self.item_gain[candidate_SC]
            logit_SM = _shown(state_SV @ self.affinity, self.item_NV, candidate_SC) + self.item_click[candidate_SC]
        nothing_S = state_SV @ self.nothing
        label_SM = long_term_labels(torch.sigmoid(logit_SM), nothing_S[:, None] + gain_SM, nothing_S)
        return label_SM * self.value_scale

    def losses(
        self, state_SD: Tensor, slate_SK: Tensor, is_clicked_SK: Tensor, target_S: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Squared errors of what each slate came to, and cross entropies of its clicks; sums over states.

        Args:
            target_S: what the picks of the slate were worth, in units of `value_scale`.
        """
        nothing_S, gain_SK = self.parts(state_SD, slate_SK)
        error_S = nothing_S + (gain_SK * is_clicked_SK).sum(dim=1) - target_S
        chance_SK = self.chances(state_SD, slate_SK).clamp(1e-6, 1 - 1e-6)
        return error_S.square().sum(), binary_cross_entropy(chance_SK, is_clicked_SK.float(), reduction="sum")

    def _state(self, state_SD: Tensor) -> Tensor:
        """x, float [S, V]."""
        return pad(state_SD.detach() / self.state_scale, (0, 1), value=1.0)


def td_targets(
    reward_BH: Tensor,
    slate_value_BH: Tensor,
    is_active_BH: Tensor,
    *,
    gamma: float,
    trace: float,
    after_B: Tensor,
    is_truncated_B: Tensor,
) -> Tensor:
    """r + gamma ((1 - trace) Q(s', A') + trace target'), float [B, H]: s' is the NEXT state, A' what was shown there.

    Where the user left nothing follows; where the horizon cut, `after_B` does. This is TD(lambda) (Sutton 1988,
    https://doi.org/10.1007/BF00115009) for SARSA values: with trace 0 `slateq.slateq_target`, with trace 1 the
    discounted return.

    Raises:
        ValueError: gamma or trace outside [0, 1].
    """
    surprise_BH = generalised_advantages(
        reward_BH, slate_value_BH, is_active_BH, gamma=gamma, trace=trace, after_B=after_B,
        is_truncated_B=is_truncated_B,
    )  # fmt: skip
    return (slate_value_BH + surprise_BH) * is_active_BH


def _shown(state_SV: Tensor, item_NV: Tensor, item_SK: Tensor) -> Tensor:
    """Inner products with these items alone, float [S, K]."""
    return (item_NV[item_SK] @ state_SV[..., None])[..., 0]
