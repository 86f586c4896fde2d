"""The reward `learnt`: what `recolam.world.inverse_rl` found, as a function of state features and item, on disk, and in
place of the reward of any users.

    r(s, i) = [1, x_s] W f_i          x state features, f item features; choosing none earns 0

Shape legend: B states or users, K items, N items or token ids, D state features, E = 1 + D, F item features.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from recolam.contracts.dataset import FIRST_ITEM
from recolam.contracts.files import canonical_digest, sha256_file, write_json
from recolam.errors import ArtifactError
from recolam.world.assortment import best_logit_slate
from recolam.world.runtime import Value
from recolam.world.story import UserModel

NAME = "learnt"
_FORMAT = 1
_TENSORS, _SETTINGS = "learnt_reward.safetensors", "learnt_reward.json"


@dataclass(frozen=True)
class LearntReward:
    """A reward in units of the users' temperature.

    Attributes:
        weight_EF, item_NF: W, and the features of every item; the weight of item features alone is row 0.
        discount: how far the users were taken to look ahead; the reward means nothing under another one.
        has_none: whether users could choose none, which anchors the reward at 0. Else it is known up to shaping only.

    Raises:
        ValueError: weights that do not fit the features, or numbers that are not finite.
    """

    weight_EF: Tensor
    item_NF: Tensor
    discount: float
    has_none: bool

    def __post_init__(self) -> None:
        if self.weight_EF.ndim != 2 or self.item_NF.ndim != 2 or self.weight_EF.shape[1] != self.item_NF.shape[1]:
            raise ValueError(f"weights {tuple(self.weight_EF.shape)} for item features {tuple(self.item_NF.shape)}")
        if not (bool(torch.isfinite(self.weight_EF).all()) and bool(torch.isfinite(self.item_NF).all())):
            raise ValueError("a learnt reward with numbers that are not finite")

    def __call__(self, state_BD: Tensor, item_BK: Tensor) -> Tensor:
        """Reward of choosing items (int64 [B, K]) in states (float [B, D]): float [B, K].

        Raises:
            ValueError: another number of state features.
        """
        return torch.einsum("bf,bkf->bk", self._pull(state_BD), self.item_NF[item_BK])

    def catalogue(self, state_BD: Tensor) -> Tensor:
        """Reward of every item, float [B, N]. Raises ValueError as the call does."""
        return self._pull(state_BD) @ self.item_NF.T

    def by_token(self) -> "LearntReward":
        """The same reward where item i is token i + FIRST_ITEM, as it is in environments."""
        return replace(self, item_NF=torch.nn.functional.pad(self.item_NF, (0, 0, FIRST_ITEM, 0)))

    def save(self, folder: Path) -> None:
        """Writes `learnt_reward.safetensors`, then `learnt_reward.json` with its checksum. No pickle."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {"weight_EF": self.weight_EF, "item_NF": self.item_NF}
        save_file(
            {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, folder / _TENSORS
        )
        content: dict[str, Any] = {
            "name": NAME,
            "format": _FORMAT,
            "discount": self.discount,
            "has_none": self.has_none,
            "sha256": sha256_file(folder / _TENSORS),
        }
        write_json(folder / _SETTINGS, content | {"digest": canonical_digest(content)})

    @classmethod
    def digest(cls, folder: Path) -> str:
        """Names the content of a folder that `save` wrote. Raises ArtifactError as `load` does."""
        cls.load(folder)
        return sha256_file(folder / _SETTINGS)

    @classmethod
    def load(cls, folder: Path) -> "LearntReward":
        """What `save` wrote.

        Raises:
            ArtifactError: files are missing, damaged, of another reward or format, or do not belong together.
        """
        try:
            content = json.loads((folder / _SETTINGS).read_text())
            digest = content.pop("digest")
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise ArtifactError(f"{folder / _SETTINGS}: not a learnt reward ({error})") from error
        if digest != canonical_digest(content):
            raise ArtifactError(f"{folder / _SETTINGS}: changed since it was written")
        if (content.get("name"), content.get("format")) != (NAME, _FORMAT):
            raise ArtifactError(
                f"{folder / _SETTINGS}: reward {content.get('name')!r} of format {content.get('format')!r}; "
                f"expected {NAME!r} of format {_FORMAT}"
            )
        path = folder / _TENSORS
        if not path.is_file() or sha256_file(path) != content.get("sha256"):
            raise ArtifactError(f"{path}: missing, or not the file that {_SETTINGS} was written with")
        try:
            tensors = load_file(path)
            return cls(tensors["weight_EF"], tensors["item_NF"], float(content["discount"]), bool(content["has_none"]))
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"{folder}: not a learnt reward ({error})") from error

    def _pull(self, state_BD: Tensor) -> Tensor:
        if state_BD.ndim != 2 or state_BD.shape[1] + 1 != len(self.weight_EF):
            raise ValueError(f"states of shape {tuple(state_BD.shape)}; expected [B, {len(self.weight_EF) - 1}]")
        return with_one(state_BD).to(self.weight_EF) @ self.weight_EF


def with_one(state_BD: Tensor) -> Tensor:
    """[1, x], float [B, E]."""
    return torch.nn.functional.pad(state_BD, (1, 0), value=1.0)


class RewardedUsers:
    """A `UserModel` whose reward is a learnt one: users begin, choose, leave and change as those it is made of.

    The reward of a step is the sum over what was clicked, in the state before the step.

    Args:
        users: whose reward is replaced.
        reward: its items are token ids (`LearntReward.by_token`).
        features: state of `users` -> what the reward was learnt on, float [B, D].

    Raises:
        ValueError: a reward of another number of token ids than the users'.
    """

    def __init__(self, users: UserModel, reward: LearntReward, *, features: Callable[[Value], Tensor]) -> None:
        if len(reward.item_NF) != users.tokens:
            raise ValueError(f"a reward of {len(reward.item_NF)} token ids for users of {users.tokens}")
        self.users, self.reward, self.features = users, reward, features
        self.slate_size, self.tokens = users.slate_size, users.tokens
        self.state_spec, self.initial_state, self.next_state = users.state_spec, users.initial_state, users.next_state

    def respond(
        self, state: Value, slate_BK: Tensor, generator: torch.Generator, *, is_available_BK: Tensor | None = None
    ) -> Mapping[str, Tensor]:
        answer = dict(self.users.respond(state, slate_BK, generator, is_available_BK=is_available_BK))
        is_clicked_BK = answer.get("is_clicked")
        if is_clicked_BK is None:
            is_clicked_BK = answer["choice"][:, None] == torch.arange(self.slate_size, device=slate_BK.device)
        earned_BK = self.reward(self.features(state), slate_BK).where(is_clicked_BK, 0.0)
        return answer | {"reward": earned_BK.sum(dim=1).to(answer["reward"].dtype)}

    def greedy_slate(self, state: Value, *, is_available_BN: Tensor | None = None) -> Tensor:
        """The best slate for users who choose one item by this reward alone, or none: exact at discount 0."""
        reward_BN = self.reward.catalogue(self.features(state)).float()
        weight_BN = reward_BN.exp().scatter(1, state.get("history"), 0.0)
        if is_available_BN is not None:
            weight_BN = weight_BN * is_available_BN
        best_BK = best_logit_slate(weight_BN[:, FIRST_ITEM:], reward_BN[:, FIRST_ITEM:], k=self.slate_size)
        return best_BK + FIRST_ITEM
