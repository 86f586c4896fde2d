"""The agent that knows its users by numbers: expected answers, retrieved candidates, and a decoder over them.

Shape legend: B users, K slate, N token ids, G features and Z attributes of items.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from recolam.contracts.protocols import Observation, Sight, SightedEnvironment, sight_of
from recolam.errors import ArtifactError
from recolam.policy.belief import Believing, SessionEncoder
from recolam.policy.decoder import Choices, Retrieval, SlateDecoder, decode
from recolam.policy.response import ResponseModel, root_mean_square

_TENSORS, _SETTINGS, _SCHEMA = "decoder.safetensors", "decoder.json", 2
_PROSPECTS = 3
# Where the decoder starts. A belief begins with what will be clicked: what a click is worth says nothing of what it
# does to the user, and a belief, unlike a state, does not show that at once.
_SEEN_START, _BELIEVED_START = (6.0, 0.0), (0.5, 8.0)  # sharpness, click


@dataclass(frozen=True)
class Sizes:
    """What the networks are built from: F numbers of a user, X facets, K positions.

    With `belief` above 0 the user is not what is seen but a belief of as many numbers, learnt from the sessions.
    """

    user: int
    facets: int
    slate: int
    belief: int = 0


class DecoderAgent(nn.Module):
    """A `SlatePolicy`; its observations are `Sight`s.

    Args:
        feature_NG, attribute_NZ: the items.
        settings: what the policy was trained for (world, reward, gamma, ...); saved with it.
    """

    def __init__(
        self, feature_NG: Tensor, attribute_NZ: Tensor, sizes: Sizes, settings: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__()
        self.feature_NG, self.attribute_NZ, self.sizes = feature_NG, attribute_NZ, sizes
        self.settings = dict(settings or {})
        facets, (sharpness, click) = sizes.facets, _SEEN_START
        if sizes.belief:
            facets, (sharpness, click) = sizes.facets + _PROSPECTS, _BELIEVED_START
        self.response = self.new_response()
        self.decoder = SlateDecoder(attributes=attribute_NZ.shape[1], facets=facets, sharpness=sharpness, click=click)
        self.encoder: SessionEncoder | None = None
        if sizes.belief:
            self.encoder = SessionEncoder(self.response.item_NV, slate_size=sizes.slate, width=sizes.belief)
        self.retrieval = Retrieval.of(attribute_NZ, slate_size=sizes.slate)

    @classmethod
    def for_environment(
        cls,
        environment: SightedEnvironment,
        sight: Sight,
        settings: Mapping[str, Any],
        *,
        seed: int,
        belief: int = 0,
    ) -> "DecoderAgent":
        """A new agent for this environment, which showed this sight; the seed draws its weights."""
        user, facets = sight.user_BF.shape[1], sight.facet_BZX.shape[2]
        sizes = Sizes(user=user, facets=facets, slate=environment.slate_size, belief=belief)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(environment.feature_NG, environment.attribute_NZ, sizes, settings)

    def new_response(self) -> ResponseModel:
        """A response model for this agent that has learnt nothing."""
        sizes = self.sizes
        return ResponseModel(
            self.feature_NG, self.attribute_NZ, user_size=sizes.belief or sizes.user, slate_size=sizes.slate
        )

    def seen(self, environment: SightedEnvironment) -> SightedEnvironment:
        """The environment as this agent has to play it: with its belief, where it has one."""
        return environment if self.encoder is None else Believing(environment, self.encoder)

    def measure_users(self, sight: Sight) -> None:
        """Takes the unit of the users' numbers from what is seen of some users; beliefs are their own unit."""
        if self.encoder is None:
            self.response.user_scale.copy_(root_mean_square(sight.user_BF))

    def measure_facets(self, sight: Sight) -> None:
        """Takes the units of facets from what is seen of some users."""
        for facet, value_BZ in enumerate(self.choices(sight).facet_BZX.unbind(dim=2)):
            self.decoder.facet_scale_X[facet] = root_mean_square(value_BZ.reshape(-1, 1))

    @torch.no_grad()
    def choices(self, sight: Sight) -> Choices:
        """Candidates and what the decoder reads of them.

        Raises:
            ValueError: a belief is needed and was not seen.
        """
        if self.encoder is not None and sight.user_BF.shape[1] != self.sizes.belief:
            raise ValueError("this policy reads a belief: play the environment that `seen` makes of yours")
        expected_BN, click_BN = self.response.expected(sight.user_BF), self.response.click_chance(sight.user_BF)
        candidate_BC = self.retrieval.candidates(expected_BN)
        expected_BC, click_BC = expected_BN.gather(1, candidate_BC), click_BN.gather(1, candidate_BC)
        facet_BZX, attribute_BCZ = sight.facet_BZX, self.attribute_NZ[candidate_BC]
        if self.encoder is not None:
            facet_BZX = torch.cat([facet_BZX, prospects(expected_BC, click_BC, attribute_BCZ)], dim=2)
        return Choices(facet_BZX, candidate_BC, expected_BC, click_BC, attribute_BCZ)

    @torch.no_grad()
    def slates(self, observation: Observation, *, k: int, generator: torch.Generator | None) -> Tensor:
        """Token ids [B, k], k at most the slate size it was trained with: sampled with a generator, greedy without."""
        choices = self.choices(sight_of(observation))
        place_BK, _ = decode(self.decoder, choices, self.response.examination_K[:k], generator)
        return choices.candidate_BC.gather(1, place_BK)

    def save(self, folder: Path) -> None:
        """Writes decoder.safetensors and decoder.json."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {**self.state_dict(), "items.feature_NG": self.feature_NG, "items.attribute_NZ": self.attribute_NZ}
        save_file({name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}, folder / _TENSORS)
        content = {"schema": _SCHEMA, "sizes": vars(self.sizes), "settings": self.settings}
        (folder / _SETTINGS).write_text(json.dumps(content, indent=1, sort_keys=True))

    @classmethod
    def load(cls, folder: Path) -> "DecoderAgent":
        """Raises ArtifactError: files are missing, damaged or of another kind of policy."""
        try:
            content = json.loads((folder / _SETTINGS).read_text())
            if content["schema"] != _SCHEMA:
                raise ValueError(f"schema {content['schema']}, not {_SCHEMA}")
            tensors = load_file(folder / _TENSORS)
            items = tensors.pop("items.feature_NG"), tensors.pop("items.attribute_NZ")
            agent = cls(*items, Sizes(**content["sizes"]), content["settings"])
            agent.load_state_dict(tensors)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            raise ArtifactError(f"{folder}: not a decoder policy ({error})") from error
        return agent


def prospects(expected_BC: Tensor, click_BC: Tensor, attribute_BCZ: Tensor) -> Tensor:
    """What candidates of each attribute promise: expected reward of the mean and of the best, best chance of a click.

    Facets that a belief has where a state would have its own; float [B, Z, 3].
    """
    mean_BZ = (expected_BC[:, None] @ attribute_BCZ)[:, 0] / attribute_BCZ.sum(dim=1).clamp(min=1e-6)
    best_BZ, clicked_BZ = ((value_BC[..., None] * attribute_BCZ).amax(dim=1) for value_BC in (expected_BC, click_BC))
    return torch.stack([mean_BZ, best_BZ, clicked_BZ], dim=2)
