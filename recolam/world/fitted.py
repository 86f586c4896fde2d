"""Users fitted to logs: the ensemble of `recolam.world.response` on top of the frozen pretrained model.

Shape legend: B users, P bank of start states, T history, K slate, N token ids, D width, F features of z.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from recolam.contracts.artifact import open_artifact
from recolam.contracts.dataset import FIRST_ITEM
from recolam.contracts.protocols import Observation
from recolam.sequence.model import SequenceModel, load_sequence_model
from recolam.world.assortment import best_logit_slate
from recolam.world.response import CONTEXT_FEATURES, ResponseModel, context_after
from recolam.world.returning import ReturnModel
from recolam.world.runtime import TensorSpec, Value
from recolam.world.story import common_initial, common_next, common_spec, sample_choice


@dataclass(frozen=True)
class Bank:
    """Users as they come to the environment.

    Attributes:
        context_PF: what they have been through: z of `recolam.world.response`; the average user's where None.
    """

    history_PT: Tensor
    length_P: Tensor
    context_PF: Tensor | None = None


class FittedUsers:
    """A `UserModel` that answers as the logs' users did.

    Args:
        encoder: the pretrained model, frozen.
        slate_size: positions of a slate; at most as many as were fitted.
        returning: when they come back; None where the log could not tell.
    """

    def __init__(
        self,
        encoder: SequenceModel,
        response: ResponseModel,
        start: Bank,
        *,
        slate_size: int,
        returning: ReturnModel | None = None,
    ) -> None:
        self.encoder, self.response, self.start, self.returning = encoder.eval(), response.eval(), start, returning
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
        start = Bank(*(bank[f"{population}.{name}"] for name in ("history_PT", "length_P", "context_PF")))
        returning = None
        if "return.safetensors" in artifact.manifest["files"]:
            returning = ReturnModel(encoder.config.width)
            returning.load_state_dict(load_file(artifact.file("return.safetensors")))
        return cls(encoder, response, start, slate_size=slate_size or positions, returning=returning)

    def state_spec(self) -> Mapping[str, TensorSpec]:
        width = self.encoder.config.width
        return common_spec(capacity=self.start.history_PT.shape[1]) | {
            "taste": TensorSpec(shape=(width,)),
            "context": TensorSpec(shape=(CONTEXT_FEATURES,)),
        }

    @torch.no_grad()
    def initial_state(self, generator: torch.Generator, users: int) -> Mapping[str, Tensor]:
        row_B = torch.randint(len(self.start.length_P), (users,), generator=generator, device=generator.device)
        history_BT, length_B = self.start.history_PT[row_B], self.start.length_P[row_B]
        taste_BD = self.encoder.last_state(history_BT, length_B)
        known_PF = self.start.context_PF
        context_BF = self._average(users) if known_PF is None else known_PF[row_B]
        return common_initial(history_BT, length_B) | {"taste": taste_BD, "context": context_BF}

    @torch.no_grad()
    def respond(
        self, state: Value, slate_BK: Tensor, generator: torch.Generator, *, is_available_BK: Tensor | None = None
    ) -> Mapping[str, Tensor]:
        taste_BD, context_BF = state.get("taste"), state.get("context")
        log_probability_BC = self.response.choice_log_probability(
            taste_BD, context_BF, slate_BK, is_available_BK=is_available_BK
        )
        choice_B = sample_choice(
            log_probability_BC[:, 1:], log_probability_BC[:, 0], generator, is_available_BK=is_available_BK
        )
        is_clicked_B, reward_B = choice_B >= 0, self._reward(taste_BD, slate_BK, choice_B)
        after_BF = context_after(context_BF, is_clicked_B, reward_B)
        leaving_B = self.response.leaving_probability(is_clicked_B, state.get("step"), after_BF)
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
        reward_B = self._reward(state.get("taste"), slate_BK, response.get("choice"))  # without what others charge
        context_BF = context_after(state.get("context"), is_clicked_B, reward_B)
        return following | {"taste": taste_BD, "context": context_BF}

    def _reward(self, taste_BD: Tensor, slate_BK: Tensor, choice_B: Tensor) -> Tensor:
        chosen_B1 = slate_BK.gather(1, choice_B.clamp(min=0)[:, None])
        return self.response.reward_given_choice(taste_BD, chosen_B1)[:, 0].where(choice_B >= 0, 0.0)

    @torch.no_grad()
    def disagreement(self, state: Value, slate_BK: Tensor) -> Tensor:
        """Standard deviation over members of the slate's expected reward now, float [B]."""
        return self.response.disagreement(state.get("taste"), state.get("context"), slate_BK)

    @torch.no_grad()
    def best_slates(self, observation: Observation) -> Tensor:
        """The greedy slates of users of average z, from what a recommender may see; int64 [B, K]."""
        taste_BD = self.encoder.last_state(observation.history_BT, observation.length_B)
        average_BF = self._average(len(taste_BD))
        return self.greedy_slate(Value(taste=taste_BD, context=average_BF, history=observation.history_BT))

    @torch.no_grad()
    def return_time(self, state: Value, generator: torch.Generator) -> Tensor:
        """Hours until each user's next session, if this one ended now; float [B].

        Raises:
            ValueError: the log could not tell.
        """
        if self.returning is None:
            raise ValueError("these users were fitted to a log that does not tell when they came back")
        return self.returning.draw(state.get("taste"), generator)

    @torch.no_grad()
    def expected_reward(self, history_BT: Tensor, length_B: Tensor, slate_BK: Tensor) -> Tensor:
        """Expected immediate reward of showing a slate to users of average z: sum_k P(choice = k) E[reward | k],
        float [B]."""
        state_BD = self.encoder.last_state(history_BT, length_B)
        return self.response.expected_reward(state_BD, self._average(len(length_B)), slate_BK)

    def _average(self, users: int) -> Tensor:
        return self.response.context_mean_F.expand(users, -1)

    @torch.no_grad()
    def greedy_slate(self, state: Value, *, is_available_BN: Tensor | None = None) -> Tensor:
        """The K items of largest exp(utility) x (reward - value of the slate): the best unordered slate of the
        multinomial logit with the members' mean utilities (Rusmevichientong et al. 2010), its best item first."""
        weight_BN, reward_BN = self.logit_choice(state)
        if is_available_BN is not None:
            weight_BN = weight_BN * is_available_BN
        best_BK = best_logit_slate(weight_BN[:, FIRST_ITEM:], reward_BN[:, FIRST_ITEM:], k=self.slate_size)
        return best_BK + FIRST_ITEM

    @torch.no_grad()
    def logit_choice(self, state: Value) -> tuple[Tensor, Tensor]:
        """Every item's weight in the choice by the members' mean utilities, where no click has weight 1 (0 for what the
        user had), and its reward given a click; float [B, N] each."""
        taste_BD = state.get("taste")
        utility_BN = self.response.catalogue_utilities(taste_BD)
        utility_BN.scatter_(1, state.get("history"), -torch.inf)
        no_click_B = self.response.no_click(taste_BD, state.get("context")).mean(dim=0)
        return (utility_BN - no_click_B[:, None]).exp(), self.response.catalogue_rewards(taste_BD)
