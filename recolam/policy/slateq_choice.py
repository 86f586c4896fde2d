"""SlateQ where users pick at most one item of a slate: the decomposition as published, under a conditional choice.

    Q(s, A) = Q(s, nothing) + sum_{i in A} P(i | s, A) (Q(s, i) - Q(s, nothing)),   P of `choice_model`

The value of what was picked, an item or nothing, is regressed on r + gamma max_A' Q(s', A'), with the choice and the
values of the NEXT state (Ie et al. 2019, https://arxiv.org/abs/1905.12767). The best slate is found exactly
(`slateq.best_slate`); an item's label is what its place in that slate is worth, v(i) (Q(s, i) - Q(s, nothing) - z) with
z = max_A Q(s, A) - Q(s, nothing), so that the slate is the items of largest labels. Where a rule forbids that slate,
the first labels that keep the rule are a heuristic: z is the free maximum.

Where nothing was never picked, its value is never regressed, and what it says of the slates is arbitrary. It is then no
choice at all: P(i | s, A) = v(i) / sum_{j in A} v(j), which is the same with all v a large factor larger.

Shape legend: B users, K slate, C candidates, P numbers of a state, R transitions.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from recolam.policy.choice_model import picked_place
from recolam.policy.slateq import best_slate, slate_value, slateq_target
from recolam.policy.slateq_agent import ItemValues, SlateQAgent, Transitions

_NEVER = 40.0  # the log-odds of the likeliest item against nothing where nothing is no choice


class ChoiceSlateQAgent(SlateQAgent):
    """`SlateQAgent` for users of a `ChoiceModel`, which is its `response`.

    Attributes:
        is_nothing_seen: whether anybody picked nothing in what it has learnt from.
    """

    is_nothing_seen = False

    def learn(self, transitions: Transitions, generator: torch.Generator) -> None:
        """Takes the configured number of gradient steps."""
        if not self.is_nothing_seen:
            self.is_nothing_seen = not bool(transitions.answers.is_clicked_SK.any(dim=1).all())
        super().learn(transitions, generator)

    def loss(self, transitions: Transitions) -> Tensor:
        """Mean squared error of the value of what was picked, an item or nothing."""
        answers = transitions.answers
        value_RK, nothing_R = self._values(self.values, transitions.state_SP, answers.slate_SK)
        picked_R1 = picked_place(answers.is_clicked_SK)[:, None]
        chosen_R = torch.cat([value_RK, nothing_R[:, None]], dim=1).gather(1, picked_R1)[:, 0]
        following_R = self.state_value(transitions.next_SP, transitions.next_user_SF)
        target_R = slateq_target(
            answers.reward_S / self.response.reward_scale,
            torch.ones_like(following_R)[:, None],
            following_R[:, None],
            transitions.has_left_S,
            gamma=self.config.gamma,
        )
        return (chosen_R - target_R).square().mean()

    @torch.no_grad()
    def state_value(self, state_BP: Tensor, user_BF: Tensor) -> Tensor:
        """max_A Q(s, A) under the target network, float [B]."""
        odds_BC, gain_BC, nothing_B, _ = self._candidates(self.target, state_BP, user_BF)
        return nothing_B + _best_gain(odds_BC, gain_BC, k=self.slate_size)

    def _labels(self, values: ItemValues, state_BP: Tensor, user_BF: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        odds_BC, gain_BC, nothing_B, candidate_BC = self._candidates(values, state_BP, user_BF)
        best_B = _best_gain(odds_BC, gain_BC, k=self.slate_size)
        return candidate_BC, odds_BC.exp() * (gain_BC - best_B[:, None]), nothing_B

    def _candidates(
        self, values: ItemValues, state_BP: Tensor, user_BF: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Log-odds [B, C], Q(s, i) - Q(s, nothing) [B, C], Q(s, nothing) [B], token ids [B, C]."""
        candidate_BC = self.retrieval.candidates(self.response.expected(user_BF))
        value_BC, nothing_B = self._values(values, state_BP, candidate_BC)
        odds_BC = self.response.log_odds(user_BF).gather(1, candidate_BC)
        if not self.is_nothing_seen:
            odds_BC = odds_BC + (_NEVER - odds_BC.amax(dim=1, keepdim=True))
        return odds_BC, value_BC - nothing_B[:, None], nothing_B, candidate_BC


def _best_gain(odds_BC: Tensor, gain_BC: Tensor, *, k: int) -> Tensor:
    """max_A sum_{i in A} P(i | A) gain_i over the sets of k candidates, float [B]."""
    slate_BK = best_slate(odds_BC, gain_BC, k=k)
    choice_BK = torch.softmax(pad(odds_BC.gather(1, slate_BK), (0, 1)), dim=1)[:, :-1]
    return slate_value(choice_BK, gain_BC.gather(1, slate_BK))
