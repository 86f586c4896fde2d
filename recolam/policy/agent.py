"""The slate policy: a sequence model whose item scores are the parameters of a Plackett-Luce distribution.

Shape legend: B users, T history, K slate, N token ids.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recolam.contracts.dataset import FIRST_ITEM
from recolam.contracts.protocols import Observation
from recolam.errors import ArtifactError
from recolam.policy import plackett_luce
from recolam.sequence.incremental import IncrementalEncoder
from recolam.sequence.model import SequenceModel, load_sequence_model


def admissible(score_BN: Tensor, history_BT: Tensor) -> Tensor:
    """Scores with -inf for special tokens and for items of the history; padding may stand anywhere in it."""
    masked_BN = score_BN.scatter(1, history_BT, -torch.inf)
    masked_BN[:, :FIRST_ITEM] = -torch.inf
    return masked_BN


@dataclass
class SlateAgent:
    """A `SlatePolicy` and `ItemScorer`.

    Attributes:
        model: the network; its item scores divided by `temperature` are the Plackett-Luce scores.
        items: the vocabulary, in token order.
        settings: what policy.json holds (slate size, reward, discount, domain, ...).
        is_barred_N: True for token ids that this policy never shows.
    """

    model: SequenceModel
    temperature: float
    items: tuple[str, ...]
    settings: Mapping[str, Any]
    is_barred_N: Tensor | None = None

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> "SlateAgent":
        """Reads the model of a policy (or tuned policy) folder.

        Raises:
            ArtifactError: files are missing, pickled, or do not fit each other.
        """
        model = load_sequence_model(folder / "model").eval()
        try:
            settings = json.loads((folder / "policy.json").read_text())
            items = tuple(json.loads((folder / "vocabulary.json").read_text())["items"])
            temperature = float(settings["temperature"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtifactError(f"{folder}: not a policy ({error})") from error
        if model.config.tokens != FIRST_ITEM + len(items):
            raise ArtifactError(f"{folder}: a model of {model.config.tokens} tokens with {len(items)} items")
        model.to(torch.device(device))
        return cls(model, temperature, items, settings)

    def save(self, folder: Path, *, titles: Sequence[str]) -> None:
        self.model.save_pretrained(folder / "model")
        (folder / "vocabulary.json").write_text(json.dumps({"items": self.items, "titles": list(titles)}))
        settings = {**self.settings, "temperature": self.temperature}
        (folder / "policy.json").write_text(json.dumps(settings, indent=1, sort_keys=True))

    def scores(self, history_BT: Tensor, length_B: Tensor) -> Tensor:
        score_BN = self.model.scores(history_BT, length_B)
        return score_BN if self.is_barred_N is None else score_BN.masked_fill(self.is_barred_N, -torch.inf)

    @torch.no_grad()
    def slate_scores(self, observation: Observation) -> Tensor:
        """Plackett-Luce scores, float [B, N]: -inf for special tokens and for what the history holds."""
        score_BN = self.scores(observation.history_BT, observation.length_B) / self.temperature
        return admissible(score_BN, observation.history_BT)

    def following(self) -> Callable[[Observation], Tensor]:
        """`slate_scores` for sessions that go on: a step costs the items that are new in it.

        For as long as the weights stay as they are.
        """
        encoder = IncrementalEncoder(self.model)

        @torch.no_grad()
        def slate_scores(observation: Observation) -> Tensor:
            state_BD = encoder.last_state(observation.history_BT, observation.length_B)
            score_BN = state_BD @ encoder.table_ND.T
            if self.is_barred_N is not None:
                score_BN.masked_fill_(self.is_barred_N, -torch.inf)
            return admissible(score_BN / self.temperature, observation.history_BT)

        return slate_scores

    def slates(self, observation: Observation, *, k: int, generator: torch.Generator | None) -> Tensor:
        """Token ids [B, k], best first: sampled with a generator, the most probable slate without."""
        return plackett_luce.sample(self.slate_scores(observation), k, generator)

    def slate_log_prob(self, observation: Observation, slate_BK: Tensor) -> Tensor:
        """Exact log-probability of each ordered slate, float [B]; -inf where it shows an inadmissible item."""
        score_BN = self.slate_scores(observation)
        is_possible_B = torch.isfinite(score_BN.gather(1, slate_BK)).all(dim=1)
        log_probability_B = plackett_luce.log_prob(score_BN[is_possible_B], slate_BK[is_possible_B])
        answer_B = torch.full((len(slate_BK),), -torch.inf, device=score_BN.device)
        answer_B[is_possible_B] = log_probability_B
        return answer_B
