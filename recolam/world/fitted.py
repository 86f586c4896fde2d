"""Users fitted to logs, on top of the frozen pretrained representation.

For a history with state h (from the pretrained model), item embeddings e_i and the slate's positions k:

    utility_k  = (A h) . e_i + b . [log popularity_i, 1] + p_k
    P(choice=k) = exp(utility_k) / (exp(u_0) + sum_j exp(utility_j)),   u_0 = w . h + c
    reward | choice = r . e_i + (R h) . e_i + r_0                       (squared loss)
    P(leaving)  = sigmoid(d clicked + d_step)                           late steps share their d_step

All parameters are maximum-likelihood estimates; see `recolam.world.fitting`.
Shape legend: B users, P bank of start states, T history, K slate, N token ids, D width, J groups of steps.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from recolam.contracts.artifact import open_artifact
from recolam.contracts.dataset import FIRST_ITEM
from recolam.sequence.model import SequenceModel, load_sequence_model
from recolam.world.assortment import best_logit_slate
from recolam.world.runtime import TensorSpec, Value
from recolam.world.story import common_initial, common_next, common_spec, sample_choice

STEP_GROUPS, _OWN_STEPS = 48, 32


def step_group(step_B: Tensor) -> Tensor:
    """Groups of steps that leave alike: 0 to 31 each for itself, then half an octave each; int64 [B]."""
    octave_B = (2.0 * torch.log2(step_B.clamp(min=_OWN_STEPS) / _OWN_STEPS)).long()
    return torch.where(step_B < _OWN_STEPS, step_B, (_OWN_STEPS + octave_B).clamp(max=STEP_GROUPS - 1))


class ResponseModel(nn.Module):
    """The parameters above. `popularity_N`: train events per token id; `item_ND`: frozen item embeddings."""

    item_ND: Tensor
    log_popularity_N: Tensor

    def __init__(self, *, item_ND: Tensor, popularity_N: Tensor, slate_size: int) -> None:
        super().__init__()
        width = item_ND.shape[1]
        self.register_buffer("item_ND", item_ND.clone())
        self.register_buffer("log_popularity_N", torch.log1p(popularity_N.float()))
        self.match = nn.Parameter(torch.eye(width))
        self.popularity_weight = nn.Parameter(torch.zeros(()))
        self.position_K = nn.Parameter(torch.zeros(slate_size))
        self.no_click = nn.Linear(width, 1)
        self.reward_item = nn.Linear(width, 1)
        self.reward_match = nn.Parameter(torch.zeros(width, width))
        self.leaving_click = nn.Parameter(torch.zeros(()))
        self.leaving_step_J = nn.Parameter(torch.zeros(STEP_GROUPS))
        for linear in (self.no_click, self.reward_item):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)

    def utilities(self, state_BD: Tensor, slate_BK: Tensor) -> Tensor:
        """Utility of every shown item at its position, float [B, K]."""
        return self.item_utilities(state_BD, slate_BK) + self.position_K[: slate_BK.shape[1]]

    def item_utilities(self, state_BD: Tensor, item_BK: Tensor) -> Tensor:
        """Utility of items apart from any position, float [B, K]."""
        match_BK = torch.einsum("bd,bkd->bk", state_BD @ self.match, self.item_ND[item_BK])
        return match_BK + self.popularity_weight * self.log_popularity_N[item_BK]

    def catalogue_utilities(self, state_BD: Tensor) -> Tensor:
        """Utility of every token id at the first position, float [B, N]."""
        match_BN = (state_BD @ self.match) @ self.item_ND.T
        return match_BN + self.popularity_weight * self.log_popularity_N + self.position_K[0]

    def choice_log_probability(self, state_BD: Tensor, slate_BK: Tensor) -> Tensor:
        """Log-probability of no click (column 0) and of each position, float [B, 1 + K]."""
        logit_BC = torch.cat([self.no_click(state_BD), self.utilities(state_BD, slate_BK)], dim=1)
        return torch.log_softmax(logit_BC, dim=1)

    def reward_given_choice(self, state_BD: Tensor, item_BK: Tensor) -> Tensor:
        """Expected reward of an item once chosen, float [B, K]."""
        embedding_BKD = self.item_ND[item_BK]
        match_BK = torch.einsum("bd,bkd->bk", state_BD @ self.reward_match, embedding_BKD)
        return match_BK + self.reward_item(embedding_BKD)[..., 0]

    def leaving_logit(self, is_clicked_B: Tensor, step_B: Tensor) -> Tensor:
        """After a step (counted from 0) with or without a click, float [B]."""
        return self.leaving_click * is_clicked_B + self.leaving_step_J[step_group(step_B)]


@dataclass(frozen=True)
class Bank:
    """Users as they come to the environment."""

    history_PT: Tensor
    length_P: Tensor


class FittedUsers:
    """A `UserModel` that answers as the logs' users did.

    Args:
        encoder: the pretrained model, frozen.
        slate_size: positions of a slate; at most as many as were fitted.
    """

    def __init__(self, encoder: SequenceModel, response: ResponseModel, start: Bank, *, slate_size: int) -> None:
        self.encoder, self.response, self.start = encoder.eval(), response.eval(), start
        self.slate_size, self.tokens = slate_size, encoder.config.tokens

    @classmethod
    def load(cls, folder: Path, *, population: str = "held_out", slate_size: int | None = None) -> "FittedUsers":
        """The fitted users of a world artifact; `population` is "train" or "held_out".

        Raises:
            ArtifactError: not a world artifact, or one that changed.
        """
        artifact = open_artifact(folder, stage="world")
        encoder = load_sequence_model(artifact.parent("pretrain").path / "model")
        tensors = load_file(artifact.file("response.safetensors"))
        response = ResponseModel(
            item_ND=tensors["item_ND"], popularity_N=tensors["log_popularity_N"], slate_size=len(tensors["position_K"])
        )
        response.load_state_dict(tensors)
        bank = load_file(artifact.file("bank.safetensors"))
        start = Bank(history_PT=bank[f"{population}.history_PT"], length_P=bank[f"{population}.length_P"])
        return cls(encoder, response, start, slate_size=slate_size or len(tensors["position_K"]))

    def state_spec(self) -> Mapping[str, TensorSpec]:
        width = self.encoder.config.width
        return common_spec(capacity=self.start.history_PT.shape[1]) | {"taste": TensorSpec(shape=(width,))}

    @torch.no_grad()
    def initial_state(self, generator: torch.Generator, users: int) -> Mapping[str, Tensor]:
        row_B = torch.randint(len(self.start.length_P), (users,), generator=generator, device=generator.device)
        history_BT, length_B = self.start.history_PT[row_B], self.start.length_P[row_B]
        taste_BD = self.encoder.last_state(history_BT, length_B)
        return common_initial(history_BT, length_B) | {"taste": taste_BD}

    @torch.no_grad()
    def respond(
        self, state: Value, slate_BK: Tensor, generator: torch.Generator, *, is_available_BK: Tensor | None = None
    ) -> Mapping[str, Tensor]:
        taste_BD = state.get("taste")
        choice_B = sample_choice(
            self.response.utilities(taste_BD, slate_BK),
            self.response.no_click(taste_BD)[:, 0],
            generator,
            is_available_BK=is_available_BK,
        )
        is_clicked_B = choice_B >= 0
        chosen_B1 = slate_BK.gather(1, choice_B.clamp(min=0)[:, None])
        reward_B = self.response.reward_given_choice(taste_BD, chosen_B1)[:, 0].where(is_clicked_B, 0.0)
        leaving_B = torch.sigmoid(self.response.leaving_logit(is_clicked_B, state.get("step")))
        draw_B = torch.rand(len(leaving_B), generator=generator, device=leaving_B.device)
        return {"choice": choice_B, "reward": reward_B, "is_leaving": draw_B < leaving_B}

    @torch.no_grad()
    def next_state(
        self, state: Value, slate_BK: Tensor, response: Value, generator: torch.Generator
    ) -> Mapping[str, Tensor]:
        choice_B1 = response.get("choice")[:, None]
        chosen_B1 = slate_BK.gather(1, choice_B1.clamp(min=0))
        following = common_next(state, chosen_B1, choice_B1 >= 0, response)
        taste_BD = state.get("taste").clone()
        is_clicked_B = choice_B1[:, 0] >= 0  # only a click changes what the encoder reads
        if bool(is_clicked_B.any()):
            taste_BD[is_clicked_B] = self.encoder.last_state(
                following["history"][is_clicked_B], following["length"][is_clicked_B]
            )
        return following | {"taste": taste_BD}

    @torch.no_grad()
    def expected_reward(self, history_BT: Tensor, length_B: Tensor, slate_BK: Tensor) -> Tensor:
        """Expected immediate reward of showing a slate: sum_k P(choice = k) E[reward | k], float [B]."""
        state_BD = self.encoder.last_state(history_BT, length_B)
        probability_BK = self.response.choice_log_probability(state_BD, slate_BK).exp()[:, 1:]
        return (probability_BK * self.response.reward_given_choice(state_BD, slate_BK)).sum(dim=1)

    @torch.no_grad()
    def greedy_slate(self, state: Value, *, is_available_BN: Tensor | None = None) -> Tensor:
        """The K items of largest exp(utility) x (reward - value of the slate): the best unordered slate of a
        multinomial logit (Rusmevichientong et al. 2010), its best item first."""
        taste_BD = state.get("taste")
        utility_BN = self.response.catalogue_utilities(taste_BD)
        utility_BN.scatter_(1, state.get("history"), -torch.inf)
        if is_available_BN is not None:
            utility_BN = utility_BN.masked_fill(~is_available_BN, -torch.inf)
        weight_BN = (utility_BN - self.response.no_click(taste_BD)).exp()
        reward_BN = (taste_BD @ self.response.reward_match) @ self.response.item_ND.T
        reward_BN = reward_BN + self.response.reward_item(self.response.item_ND)[:, 0]
        best_BK = best_logit_slate(weight_BN[:, FIRST_ITEM:], reward_BN[:, FIRST_ITEM:], k=self.slate_size)
        return best_BK + FIRST_ITEM
