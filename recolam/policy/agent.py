"""The slate policy: a sequence model whose item scores make a distribution of slates, Plackett-Luce or autoregressive.

Shape legend: B users, T history, K slate, N token ids, X items excluded.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, get_args

import torch
from torch import Tensor, nn

from recolam.contracts.config import from_mapping
from recolam.contracts.dataset import FIRST_ITEM
from recolam.contracts.protocols import Observation
from recolam.errors import ArtifactError, ConfigError
from recolam.policy.constraints import SlateConstraints
from recolam.policy.distribution import SlateDistribution, admissible, slates_after
from recolam.policy.interaction import Interaction
from recolam.policy.retrieval import retrieve
from recolam.policy.rules import NamedConstraints
from recolam.sequence.incremental import IncrementalEncoder
from recolam.sequence.model import SequenceModel, load_sequence_model

__all__ = ["SlateAgent", "admissible"]
_RETRIEVER = "retriever"

Decoder = Literal["plackett_luce", "autoregressive"]
PLACKETT_LUCE: Final = "plackett_luce"
AUTOREGRESSIVE: Final = "autoregressive"
DECODERS = get_args(Decoder)


@dataclass
class SlateAgent:
    """A `SlatePolicy` and `ItemScorer`.

    Attributes:
        model: the network; its item scores divided by `temperature` are the scores of an item without company.
        items: the vocabulary, in token order.
        settings: what policy.json holds (slate size, reward, discount, domain, constraints, candidates, ...).
        is_barred_N: True for token ids that this policy never shows.
        retriever: the frozen model that finds `settings["candidates"]` candidates; None for the whole catalogue.
        interaction: what the items of a slate do to each other's scores, in autoregressive slates; None for
            Plackett-Luce.
        constraints: `settings["constraints"]` on these items; None for none.
    """

    model: SequenceModel
    temperature: float
    items: tuple[str, ...]
    settings: Mapping[str, Any]
    is_barred_N: Tensor | None = None
    retriever: SequenceModel | None = None
    interaction: Interaction | None = None
    constraints: SlateConstraints | None = field(init=False)

    def __post_init__(self) -> None:
        named = named_in(self.settings)
        self.constraints = None if named is None else named.on(self.items).to(self.model.device)

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
            candidates = int(settings.get("candidates", 0))
            named, decoder = named_in(settings), settings.get("decoder", PLACKETT_LUCE)
            if decoder not in DECODERS:
                raise ValueError(f"decoder {decoder!r} is not one of {', '.join(DECODERS)}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtifactError(f"{folder}: not a policy ({error})") from error
        if model.config.tokens != FIRST_ITEM + len(items):
            raise ArtifactError(f"{folder}: a model of {model.config.tokens} tokens with {len(items)} items")
        if named is not None and (unknown := named.unknown(items)):
            raise ArtifactError(f"{folder}: constraints on {unknown[0]!r}, which this policy has not")
        retriever = load_sequence_model(folder / _RETRIEVER).eval().requires_grad_(False) if candidates else None
        if retriever is not None:
            if retriever.config.tokens != model.config.tokens:
                raise ArtifactError(f"{folder}: its retriever has another catalogue")
            retriever.to(torch.device(device))
        model.to(torch.device(device))
        interaction = None
        if decoder == AUTOREGRESSIVE:
            interaction = Interaction.load(folder, width=model.config.width).to(torch.device(device))
        try:
            return cls(model, temperature, items, settings, retriever=retriever, interaction=interaction)
        except ConfigError as error:
            raise ArtifactError(f"{folder}: not a policy ({error})") from error

    def save(self, folder: Path, *, titles: Sequence[str]) -> None:
        self.model.save_pretrained(folder / "model")
        if self.retriever is not None:
            self.retriever.save_pretrained(folder / _RETRIEVER)
        (folder / "vocabulary.json").write_text(json.dumps({"items": self.items, "titles": list(titles)}))
        if self.interaction is not None:
            self.interaction.save(folder)
        settings = {**self.settings, "temperature": self.temperature, "decoder": self.decoder}
        (folder / "policy.json").write_text(json.dumps(settings, indent=1, sort_keys=True))

    def scores(self, history_BT: Tensor, length_B: Tensor) -> Tensor:
        score_BN = self.model.scores(history_BT, length_B)
        return score_BN if self.is_barred_N is None else score_BN.masked_fill(self.is_barred_N, -torch.inf)

    @property
    def decoder(self) -> Decoder:
        """How slates are put together."""
        return PLACKETT_LUCE if self.interaction is None else AUTOREGRESSIVE

    def networks(self) -> nn.ModuleDict:
        """What training changes, by name."""
        found: dict[str, nn.Module] = {"model": self.model}
        if self.interaction is not None:
            found["interaction"] = self.interaction
        return nn.ModuleDict(found)

    @property
    def is_restricted(self) -> bool:
        """Whether more than what a user had narrows the slates: constraints or candidates."""
        return self.constraints is not None or self.retriever is not None

    @torch.no_grad()
    def slate_scores(self, observation: Observation) -> Tensor:
        """Scores of the whole catalogue at the first position, float [B, N]: -inf for special tokens and for what the
        history holds, but for fixed items."""
        return self._of_all(observation).score_BM

    @torch.no_grad()
    def distribution(self, observation: Observation, *, excluded_BX: Tensor | None = None) -> SlateDistribution:
        """What slates are drawn from after these histories.

        Args:
            excluded_BX: token ids that a row must not show, padded with 0.
        """
        if self.retriever is None:
            found = self._of_all(observation)
        else:
            history_BT, length_B = observation.history_BT, observation.length_B
            state_BD = self.retriever.last_state(history_BT, length_B)
            candidate_BC = self._retrieved(state_BD, self.retriever.item_table(), history_BT, excluded_BX)
            state_BD, table_ND = self.model.last_state(history_BT, length_B), self.model.item_table()
            found = self._over(state_BD, table_ND, history_BT, candidate_BC)
        return found if excluded_BX is None else found.without(excluded_BX)

    def following(self) -> Callable[[Observation], SlateDistribution]:
        """`distribution` for sessions that go on: a step costs the items that are new in it.

        For as long as the weights stay as they are.
        """
        encoder = IncrementalEncoder(self.model)
        finder = None if self.retriever is None else IncrementalEncoder(self.retriever)

        @torch.no_grad()
        def distribution(observation: Observation) -> SlateDistribution:
            history_BT, length_B = observation.history_BT, observation.length_B
            state_BD, candidate_BC = encoder.last_state(history_BT, length_B), None
            if finder is not None:
                found_BD = finder.last_state(history_BT, length_B)
                candidate_BC = self._retrieved(found_BD, finder.table_ND, history_BT, None)
            return self._over(state_BD, encoder.table_ND, history_BT, candidate_BC)

        return distribution

    def slates(self, observation: Observation, *, k: int, generator: torch.Generator | None) -> Tensor:
        """Token ids [B, k], best first: sampled with a generator, the best item at every position without.

        Raises:
            ValueError: a row has no slate of k items that keeps the constraints.
        """
        return self.distribution(observation).sample(k, generator)

    @torch.no_grad()
    def slate_log_prob(self, observation: Observation, slate_BK: Tensor) -> Tensor:
        """Exact log-probability of each ordered slate, float [B]; -inf where it is never shown."""
        return self.distribution(observation).log_prob(slate_BK)

    def _of_all(self, observation: Observation) -> SlateDistribution:
        history_BT = observation.history_BT
        state_BD = self.model.last_state(history_BT, observation.length_B)
        return self._over(state_BD, self.model.item_table(), history_BT, None)

    def _retrieved(self, state_BD: Tensor, table_ND: Tensor, history_BT: Tensor, excluded_BX: Tensor | None) -> Tensor:
        barred_BT = history_BT if excluded_BX is None else torch.cat([history_BT, excluded_BX], dim=1)
        return retrieve(
            state_BD, table_ND, barred_BT, count=int(self.settings["candidates"]),
            slate_size=int(self.settings["slate_size"]), constraints=self.constraints, is_barred_N=self.is_barred_N,
        )  # fmt: skip

    def _over(
        self, state_BD: Tensor, table_ND: Tensor, history_BT: Tensor, candidate_BC: Tensor | None
    ) -> SlateDistribution:
        return slates_after(
            state_BD, table_ND, history_BT, candidate_BC, temperature=self.temperature, constraints=self.constraints,
            interaction=self.interaction, is_barred_N=self.is_barred_N,
        )  # fmt: skip


def named_in(settings: Mapping[str, Any]) -> NamedConstraints | None:
    """The constraints that a policy's settings hold. Raises ConfigError for what is none."""
    found = settings.get("constraints")
    return None if found is None else from_mapping(NamedConstraints, found, where="constraints")
