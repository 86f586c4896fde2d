"""The kinds of users that can be written down: as settings and tensors, and made from them again.

A tensor's name ends in its dimensions, as everywhere: the same letter is the same size in all tensors of a world.
Shape legend: N token ids, P users of a bank, T history, Z topics.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recolam.world.boredom import BoredomConfig, BoredomUsers
from recolam.world.choc_kale import ChocKaleConfig, ChocKaleUsers
from recolam.world.ecosystem import EcosystemConfig, EcosystemUsers, Offer
from recolam.world.interest_evolution import Corpus, InterestEvolutionConfig, InterestEvolutionUsers, StartStates
from recolam.world.story import UserModel


@dataclass(frozen=True)
class InterestEvolutionSettings:
    """What interest-evolution users are besides their tensors."""

    dynamics: InterestEvolutionConfig
    is_sampled: bool


@dataclass(frozen=True)
class Kind:
    """How users of one class are taken apart and put together.

    Attributes:
        users: the class.
        settings: the dataclass of their settings.
        dtypes: the tensors by name, and what they hold.
        parts: users -> settings and tensors.
        build: settings and tensors -> users; a ValueError where they do not fit each other.
    """

    users: type
    settings: type
    dtypes: Mapping[str, torch.dtype]
    parts: Callable[[Any], tuple[Any, dict[str, Tensor]]]
    build: Callable[[Any, Mapping[str, Tensor]], UserModel]


def _interest_evolution(settings: InterestEvolutionSettings, tensors: Mapping[str, Tensor]) -> UserModel:
    corpus = Corpus(**{name: tensors[f"corpus.{name}"] for name in ("feature_NZ", "quality_N", "length_N")})
    start = StartStates(**{name: tensors[f"start.{name}"] for name in ("history_PT", "length_P", "interest_PZ")})
    tokens, capacity = len(corpus.quality_N), start.history_PT.shape[1]
    check_range("start.history_PT", start.history_PT, tokens - 1)
    check_range("start.length_P", start.length_P, capacity)
    return InterestEvolutionUsers(settings.dynamics, corpus, start, is_sampled=settings.is_sampled)


def _interest_evolution_parts(users: InterestEvolutionUsers) -> tuple[Any, dict[str, Tensor]]:
    tensors = {f"corpus.{name}": tensor for name, tensor in vars(users.corpus).items()}
    tensors |= {f"start.{name}": tensor for name, tensor in vars(users.start).items()}
    return InterestEvolutionSettings(users.config, users.is_sampled), tensors


def _ecosystem(config: EcosystemConfig, tensors: Mapping[str, Tensor]) -> UserModel:
    return EcosystemUsers(config, Offer(tensors["feature_NZ"], tensors["provider_N"]))


KINDS: dict[str, Kind] = {
    "interest_evolution": Kind(
        InterestEvolutionUsers,
        InterestEvolutionSettings,
        {
            "corpus.feature_NZ": torch.float32, "corpus.quality_N": torch.float32, "corpus.length_N": torch.float32,
            "start.history_PT": torch.int64, "start.length_P": torch.int64, "start.interest_PZ": torch.float32,
        },
        _interest_evolution_parts,
        _interest_evolution,
    ),
    "choc_kale": Kind(
        ChocKaleUsers,
        ChocKaleConfig,
        {"choc_N": torch.float32},
        lambda users: (users.config, {"choc_N": users.choc_N}),
        lambda config, tensors: ChocKaleUsers(config, tensors["choc_N"]),
    ),
    "boredom": Kind(
        BoredomUsers,
        BoredomConfig,
        {"feature_NZ": torch.float32},
        lambda users: (users.config, {"feature_NZ": users.feature_NZ}),
        lambda config, tensors: BoredomUsers(config, tensors["feature_NZ"]),
    ),
    "ecosystem": Kind(
        EcosystemUsers,
        EcosystemConfig,
        {"feature_NZ": torch.float32, "provider_N": torch.int64},
        lambda users: (users.config, dict(vars(users.offer))),
        _ecosystem,
    ),
}  # fmt: skip


def kind_of(users: UserModel) -> str | None:
    """The name of the users' kind, None where there is none."""
    return next((name for name, kind in KINDS.items() if type(users) is kind.users), None)


def check_tensors(kind: Kind, tensors: Mapping[str, Tensor]) -> None:
    """Raises ValueError for tensors that are not the kind's, or whose sizes do not fit each other."""
    if set(tensors) != set(kind.dtypes):
        raise ValueError(f"tensors {', '.join(sorted(tensors))}; expected {', '.join(sorted(kind.dtypes))}")
    sizes: dict[str, tuple[int, str]] = {}
    for name, tensor in tensors.items():
        letters = name.rsplit("_", 1)[1]
        if tensor.dtype != kind.dtypes[name] or tensor.ndim != len(letters):
            raise ValueError(f"{name} is {tensor.dtype} of shape {tuple(tensor.shape)}, not {kind.dtypes[name]}")
        if tensor.dtype.is_floating_point and not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{name} has numbers that are not finite")
        for letter, size in zip(letters, tensor.shape, strict=True):
            known, where = sizes.setdefault(letter, (size, name))
            if known != size:
                raise ValueError(f"{name} of shape {tuple(tensor.shape)} does not fit {where}: {letter} is {known}")


def check_range(name: str, number: Tensor, most: int) -> None:
    """Raises ValueError for numbers below 0 or above `most`."""
    if number.numel() and not 0 <= int(number.min()) <= int(number.max()) <= most:
        raise ValueError(f"{name} has numbers from {int(number.min())} to {int(number.max())}, outside 0 to {most}")
