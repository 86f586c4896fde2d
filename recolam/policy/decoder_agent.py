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
from recolam.policy.decoder import Choices, Retrieval, SlateDecoder, decode
from recolam.policy.response import ResponseModel, root_mean_square

_TENSORS, _SETTINGS, _SCHEMA = "decoder.safetensors", "decoder.json", 2


@dataclass(frozen=True)
class Sizes:
    """What the networks are built from: F numbers of a user, X facets, K positions."""

    user: int
    facets: int
    slate: int


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
        self.response = ResponseModel(feature_NG, attribute_NZ, user_size=sizes.user, slate_size=sizes.slate)
        self.decoder = SlateDecoder(attributes=attribute_NZ.shape[1], facets=sizes.facets)
        self.retrieval = Retrieval.of(attribute_NZ, slate_size=sizes.slate)

    @classmethod
    def for_environment(
        cls, environment: SightedEnvironment, sight: Sight, settings: Mapping[str, Any], *, seed: int
    ) -> "DecoderAgent":
        """A new agent for this environment, which showed this sight; the seed draws its weights."""
        sizes = Sizes(user=sight.user_BF.shape[1], facets=sight.facet_BZX.shape[2], slate=environment.slate_size)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(environment.feature_NG, environment.attribute_NZ, sizes, settings)

    def measure(self, sight: Sight) -> None:
        """Takes the units of the users' numbers and facets from what is seen of some users."""
        self.response.user_scale.copy_(root_mean_square(sight.user_BF))
        for facet, value_BZ in enumerate(sight.facet_BZX.unbind(dim=2)):
            self.decoder.facet_scale_X[facet] = root_mean_square(value_BZ.reshape(-1, 1))

    @torch.no_grad()
    def choices(self, sight: Sight) -> Choices:
        """Candidates and what the decoder reads of them."""
        expected_BN, click_BN = self.response.expected(sight.user_BF), self.response.click_chance(sight.user_BF)
        candidate_BC = self.retrieval.candidates(expected_BN)
        return Choices(
            sight.facet_BZX,
            candidate_BC,
            expected_BN.gather(1, candidate_BC),
            click_BN.gather(1, candidate_BC),
            self.attribute_NZ[candidate_BC],
        )

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
