"""What users answer to a slate: an ensemble of response models over the frozen pretrained representation.

For a history with state h (from the pretrained model), item embeddings e_i and the slate's positions k, member m says

    utility_k   = (A h) . e_i + b log popularity_i + p_k
    P_m(choice=k) = exp(utility_k) / (exp(u_0) + sum_j exp(utility_j)),   u_0 = w . h + v . z + c
    reward | choice = r . e_i + (R h) . e_i + r_0                         (squared loss)
    P_m(leaving)  = sigmoid(d clicked + f . z' + d_step)                  late steps share their d_step

with parameters of its own. z is what the user has been through: how many slates he saw before this session and which
share of them he clicked (both fixed during a session, so that a policy cannot make a user clickier than he came), and
the rewards and clicks of this session so far, the present step left out of z and included in z'. A user with little
time left leaves for what he had, not for how often he was asked: without these terms slates that earn more would be
free. Plain interactions do not show what was passed over; for them z is 0.

The ensemble says the mean over m of these probabilities and rewards. The mean is taken of probabilities: utilities are
linear in the parameters, so their mean would be one model again. Members differ in the users they were fitted to (a
bootstrap), so where they differ the logs do not settle the answer. PETS (Chua et al. 2018,
https://arxiv.org/abs/1805.12114) lets one member drawn at random answer for a whole episode, to keep apart what is
random and what is unknown; here every answer is drawn from the mean, as that is the distribution whose calibration is
checked, and the disagreement is reported and charged separately (DORL, Gao et al. 2023,
https://arxiv.org/abs/2307.04571).

All parameters are maximum-likelihood estimates; see `recolam.world.fitting`.
Shape legend: E members, B users, K slate, N token ids, D width, J groups of steps, F features of z, C = 1 + K choices.
"""

import math

import torch
from torch import Tensor, nn

STEP_GROUPS, _OWN_STEPS = 48, 32
CONTEXT_FEATURES = 4  # before the session: `past_features`; in it: rewards, clicks


def past_features(seen_B: Tensor, clicked_B: Tensor) -> Tensor:
    """z at the start of a session: log(1 + slates seen), log-odds of a click at (clicked + 1) / (seen + 2), 0, 0."""
    seen_B, clicked_B = seen_B.float(), clicked_B.float()
    odds_B = (clicked_B + 1.0) / (seen_B - clicked_B + 1.0)
    return torch.stack([seen_B.log1p(), odds_B.log(), torch.zeros_like(seen_B), torch.zeros_like(seen_B)], dim=1)


def context_after(context_BF: Tensor, is_clicked_B: Tensor, reward_B: Tensor) -> Tensor:
    """z after one more step, float [B, F]."""
    gained_B2 = torch.stack([reward_B * is_clicked_B, is_clicked_B.float()], dim=1)
    return context_BF + torch.nn.functional.pad(gained_B2, (CONTEXT_FEATURES - 2, 0))


def step_group(step_B: Tensor) -> Tensor:
    """Groups of steps that leave alike: 0 to 31 each for itself, then half an octave each; int64 [B]."""
    octave_B = (2.0 * torch.log2(step_B.clamp(min=_OWN_STEPS) / _OWN_STEPS)).long()
    return torch.where(step_B < _OWN_STEPS, step_B, (_OWN_STEPS + octave_B).clamp(max=STEP_GROUPS - 1))


class ResponseModel(nn.Module):
    """The parameters above, every one with a leading axis of members.

    Args:
        item_ND: frozen item embeddings.
        popularity_N: train events per token id.
        slate_size: positions that have a parameter.
        members: how many models answer together.
    """

    item_ND: Tensor
    log_popularity_N: Tensor
    context_mean_F: Tensor
    context_scale_F: Tensor

    def __init__(self, *, item_ND: Tensor, popularity_N: Tensor, slate_size: int, members: int = 1) -> None:
        super().__init__()
        width = item_ND.shape[1]
        self.members = members
        self.register_buffer("item_ND", item_ND.clone())
        self.register_buffer("log_popularity_N", torch.log1p(popularity_N.float()))
        self.register_buffer("context_mean_F", torch.zeros(CONTEXT_FEATURES))  # weights of z are of its standardised
        self.register_buffer("context_scale_F", torch.ones(CONTEXT_FEATURES))  # features
        self.match_EDD = nn.Parameter(torch.eye(width).repeat(members, 1, 1))
        self.popularity_E = nn.Parameter(torch.zeros(members))
        self.position_EK = nn.Parameter(torch.zeros(members, slate_size))
        self.no_click_ED = nn.Parameter(torch.zeros(members, width))
        self.no_click_context_EF = nn.Parameter(torch.zeros(members, CONTEXT_FEATURES))
        self.no_click_E = nn.Parameter(torch.zeros(members))
        self.reward_item_ED = nn.Parameter(torch.zeros(members, width))
        self.reward_match_EDD = nn.Parameter(torch.zeros(members, width, width))
        self.reward_E = nn.Parameter(torch.zeros(members))
        self.leaving_click_E = nn.Parameter(torch.zeros(members))
        self.leaving_context_EF = nn.Parameter(torch.zeros(members, CONTEXT_FEATURES))
        self.leaving_step_EJ = nn.Parameter(torch.zeros(members, STEP_GROUPS))

    def standardised(self, context_BF: Tensor) -> Tensor:
        return (context_BF - self.context_mean_F) / self.context_scale_F

    def item_utilities(self, state_BD: Tensor, item_BK: Tensor) -> Tensor:
        """Each member's utility of items apart from any position, float [E, B, K]."""
        match_EBK = torch.einsum("ebd,bkd->ebk", state_BD @ self.match_EDD, self.item_ND[item_BK])
        return match_EBK + self.popularity_E[:, None, None] * self.log_popularity_N[item_BK]

    def utilities(self, state_BD: Tensor, slate_BK: Tensor) -> Tensor:
        """Each member's utility of every shown item at its position, float [E, B, K]."""
        return self.item_utilities(state_BD, slate_BK) + self.position_EK[:, None, : slate_BK.shape[1]]

    def catalogue_utilities(self, state_BD: Tensor) -> Tensor:
        """The members' mean utility of every token id at the first position, float [B, N]."""
        match_BN = (state_BD @ self.match_EDD.mean(dim=0)) @ self.item_ND.T
        return match_BN + self.popularity_E.mean() * self.log_popularity_N + self.position_EK[:, 0].mean()

    def no_click(self, state_BD: Tensor, context_BF: Tensor) -> Tensor:
        """Each member's utility of choosing nothing, float [E, B]."""
        from_context_EB = self.no_click_context_EF @ self.standardised(context_BF).T
        return self.no_click_ED @ state_BD.T + from_context_EB + self.no_click_E[:, None]

    def member_log_probability(
        self, state_BD: Tensor, context_BF: Tensor, slate_BK: Tensor, *, is_available_BK: Tensor | None = None
    ) -> Tensor:
        """Each member's log-probability of no click (column 0) and of each position, float [E, B, C].

        What is not available has probability 0; the others are chosen as if it could not be.
        """
        utility_EBK = self.utilities(state_BD, slate_BK)
        if is_available_BK is not None:
            utility_EBK = utility_EBK.masked_fill(~is_available_BK, -torch.inf)
        return torch.log_softmax(torch.cat([self.no_click(state_BD, context_BF)[..., None], utility_EBK], dim=2), dim=2)

    def choice_log_probability(
        self, state_BD: Tensor, context_BF: Tensor, slate_BK: Tensor, *, is_available_BK: Tensor | None = None
    ) -> Tensor:
        """The ensemble's log-probability of no click (column 0) and of each position, float [B, C]."""
        return mixture(self.member_log_probability(state_BD, context_BF, slate_BK, is_available_BK=is_available_BK))

    def member_rewards(self, state_BD: Tensor, item_BK: Tensor) -> Tensor:
        """Each member's expected reward of an item once chosen, float [E, B, K]."""
        taste_EBD = state_BD @ self.reward_match_EDD + self.reward_item_ED[:, None]
        return torch.einsum("ebd,bkd->ebk", taste_EBD, self.item_ND[item_BK]) + self.reward_E[:, None, None]

    def reward_given_choice(self, state_BD: Tensor, item_BK: Tensor) -> Tensor:
        """The ensemble's expected reward of an item once chosen, float [B, K]."""
        return self.member_rewards(state_BD, item_BK).mean(dim=0)

    def catalogue_rewards(self, state_BD: Tensor) -> Tensor:
        """The ensemble's expected reward of every token id once chosen, float [B, N]."""
        taste_BD = state_BD @ self.reward_match_EDD.mean(dim=0) + self.reward_item_ED.mean(dim=0)
        return taste_BD @ self.item_ND.T + self.reward_E.mean()

    def member_expected_rewards(self, state_BD: Tensor, context_BF: Tensor, slate_BK: Tensor) -> Tensor:
        """Each member's expected reward of showing a slate, sum_k P_m(k) E_m[reward | k], float [E, B]."""
        probability_EBK = self.member_log_probability(state_BD, context_BF, slate_BK).exp()[..., 1:]
        return (probability_EBK * self.member_rewards(state_BD, slate_BK)).sum(dim=2)

    def expected_reward(self, state_BD: Tensor, context_BF: Tensor, slate_BK: Tensor) -> Tensor:
        """The ensemble's expected reward of showing a slate, sum_k P(k) E[reward | k], float [B]."""
        probability_BK = self.choice_log_probability(state_BD, context_BF, slate_BK).exp()[:, 1:]
        return (probability_BK * self.reward_given_choice(state_BD, slate_BK)).sum(dim=1)

    def disagreement(self, state_BD: Tensor, context_BF: Tensor, slate_BK: Tensor) -> Tensor:
        """Standard deviation over members of the expected reward of a slate, in its unit, float [B]."""
        return self.member_expected_rewards(state_BD, context_BF, slate_BK).std(dim=0, correction=0)

    def leaving_logit(self, is_clicked_B: Tensor, step_B: Tensor, context_BF: Tensor) -> Tensor:
        """Each member's log-odds of leaving after a step, float [E, B].

        Args:
            is_clicked_B: whether the step had a click.
            step_B: steps before it in the session.
            context_BF: z with the step included.
        """
        from_context_EB = self.leaving_context_EF @ self.standardised(context_BF).T
        own_EB = self.leaving_click_E[:, None] * is_clicked_B + self.leaving_step_EJ[:, step_group(step_B)]
        return own_EB + from_context_EB

    def leaving_probability(self, is_clicked_B: Tensor, step_B: Tensor, context_BF: Tensor) -> Tensor:
        """The ensemble's probability of leaving after a step, float [B]; see `leaving_logit`."""
        return torch.sigmoid(self.leaving_logit(is_clicked_B, step_B, context_BF)).mean(dim=0)


def mixture(log_probability_EBC: Tensor) -> Tensor:
    """Log of the members' mean probability, float [B, C]."""
    return torch.logsumexp(log_probability_EBC, dim=0) - math.log(len(log_probability_EBC))
