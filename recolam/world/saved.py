"""Reading a world artifact back: which user models it holds, and environments made of them."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from recolam.contracts.artifact import Artifact, open_artifact
from recolam.contracts.config import from_mapping
from recolam.errors import ConfigError
from recolam.world.cautious import CautiousUsers, rareness
from recolam.world.environment import SimulatedUsers
from recolam.world.fitted import FittedUsers
from recolam.world.interest_evolution import Corpus, InterestEvolutionConfig, InterestEvolutionUsers, StartStates
from recolam.world.story import UserModel


@dataclass(frozen=True)
class SavedWorld:
    """An opened world artifact."""

    artifact: Artifact

    @classmethod
    def open(cls, folder: Path) -> "SavedWorld":
        return cls(open_artifact(folder, stage="world"))

    @property
    def kind(self) -> str:
        """The user model that policies learn in: the truth where it is known, else the fitted one."""
        return self.artifact.json("world.json")["kind"]

    @property
    def truth(self) -> str | None:
        """The kind of the users who wrote the log, where that is known."""
        return next((kind for kind in self.artifact.json("world.json")["kinds"] if kind != "fitted"), None)

    def users(self, *, kind: str | None = None, population: str) -> UserModel:
        """The user model `kind`, starting from the users of `population` ("train" or "held_out").

        Raises:
            ConfigError: a kind that this world does not have.
        """
        settings = self.artifact.json("world.json")
        kind = kind or settings["kind"]
        if kind not in settings["kinds"]:
            raise ConfigError(f"this world has no users {kind!r}; it has {', '.join(settings['kinds'])}")
        if kind == "fitted":
            return FittedUsers.load(self.artifact.path, population=population, slate_size=settings["slate_size"])
        bank = load_file(self.artifact.file("bank.safetensors"))
        corpus = Corpus(bank["corpus.feature_NZ"], bank["corpus.quality_N"], bank["corpus.length_N"])
        start = StartStates(*(bank[f"{population}.{name}"] for name in ("history_PT", "length_P", "interest_PZ")))
        config = from_mapping(InterestEvolutionConfig, settings["interest_evolution"], where="world.json")
        return InterestEvolutionUsers(config, corpus, start)

    def environment(
        self,
        *,
        population: str,
        kind: str | None = None,
        device: torch.device | str = "cpu",
        penalty: float = 0.0,
        bonus: float = 0.0,
    ) -> SimulatedUsers:
        """Sessions with `users`; `penalty` and `bonus` charge the rewards of fitted ones (`recolam.world.cautious`)."""
        users: UserModel = self.users(kind=kind, population=population)
        if isinstance(users, FittedUsers) and (penalty or bonus):
            shown_N = load_file(self.artifact.file("bank.safetensors"))["shown_N"]
            users = CautiousUsers(users, rareness(shown_N), penalty=penalty, bonus=bonus)
        return SimulatedUsers(users, horizon=self.artifact.json("world.json")["horizon"], device=device)
