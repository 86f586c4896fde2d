"""Users fitted to logs: the ensemble of `recolam.world.response` on top of the frozen pretrained model.

Shape legend: B users, P bank of start states, T history, K slate, N token ids, D width.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from recolam.contracts.artifact import open_artifact
from recolam.contracts.dataset import FIRST_ITEM
from recolam.sequence.model import SequenceModel, load_sequence_model
from recolam.world.assortment import best_logit_slate
from recolam.world.response import ResponseModel
from recolam.world.runtime import TensorSpec, Value
from recolam.world.story import common_initial, common_next, common_spec, sample_choice


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
        members, positions = tensors["position_EK"].shape
        response = ResponseModel(
            item_ND=tensors["item_ND"], popularity_N=tensors["log_popularity_N"], slate_size=positions, members=members
        )
        response.load_state_dict(tensors)
        bank = load_file(artifact.file("bank.safetensors"))
        start = Bank(history_PT=bank[f"{population}.history_PT"], length_P=bank[f"{population}.length_P"])
        return cls(encoder, response, start, slate_size=slate_size or positions)

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
        log_probability_BC = self.response.choice_log_probability(taste_BD, slate_BK, is_available_BK=is_available_BK)
        choice_B = sample_choice(
            log_probability_BC[:, 1:], log_probability_BC[:, 0], generator, is_available_BK=is_available_BK
        )
        is_clicked_B = choice_B >= 0
        chosen_B1 = slate_BK.gather(1, choice_B.clamp(min=0)[:, None])
        reward_B = self.response.reward_given_choice(taste_BD, chosen_B1)[:, 0].where(is_clicked_B, 0.0)
        leaving_B = self.response.leaving_probability(is_clicked_B, state.get("step"))
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
        return self.response.expected_reward(self.encoder.last_state(history_BT, length_B), slate_BK)

    @torch.no_grad()
    def greedy_slate(self, state: Value, *, is_available_BN: Tensor | None = None) -> Tensor:
        """The K items of largest exp(utility) x (reward - value of the slate): the best unordered slate of the
        multinomial logit with the members' mean utilities (Rusmevichientong et al. 2010), its best item first."""
        taste_BD = state.get("taste")
        utility_BN = self.response.catalogue_utilities(taste_BD)
        utility_BN.scatter_(1, state.get("history"), -torch.inf)
        if is_available_BN is not None:
            utility_BN = utility_BN.masked_fill(~is_available_BN, -torch.inf)
        weight_BN = (utility_BN - self.response.no_click(taste_BD).mean(dim=0)[:, None]).exp()
        reward_BN = self.response.catalogue_rewards(taste_BD)
        best_BK = best_logit_slate(weight_BN[:, FIRST_ITEM:], reward_BN[:, FIRST_ITEM:], k=self.slate_size)
        return best_BK + FIRST_ITEM
