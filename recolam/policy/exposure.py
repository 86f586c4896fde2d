"""What a policy shows: how much of the catalogue, how evenly, and when that is called a collapse.

Shape legend: B users, K slate, N token ids.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from recolam.contracts.dataset import FIRST_ITEM, TRAIN, TokenisedDataset
from recolam.errors import ConfigError, PolicyCollapse


@dataclass
class Exposure:
    """How often each item was shown; `count_N` float64 [N]."""

    tokens: int
    count_N: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.count_N = torch.zeros(self.tokens, dtype=torch.float64)

    def add(self, slate_BK: Tensor) -> None:
        """Counts slates that were shown."""
        self.count_N += torch.bincount(slate_BK.flatten(), minlength=self.tokens).cpu()

    @property
    def showings(self) -> int:
        return int(self.count_N.sum())

    def figures(self, start_N: Tensor, popularity_N: Tensor | None) -> dict[str, float]:
        """What the counts say.

        Args:
            start_N: the counts before training.
            popularity_N: events per token id in the behaviour log.

        Returns:
            coverage: share of the catalogue shown at all; effective_items: exp of the entropy of what is shown, the
            number of items that would give it if all were shown alike; exposure_drift: total variation from what was
            shown before training; popularity: mean share of the catalogue that sells less than the item shown, where
            sales are known.
        """
        share_N = self.count_N / self.count_N.sum().clamp(min=1.0)
        start_share_N = start_N / start_N.sum().clamp(min=1.0)
        figures = {
            "coverage": float((share_N[FIRST_ITEM:] > 0).double().mean()),
            "effective_items": float(torch.special.entr(share_N).sum().exp()),
            "exposure_drift": float((share_N - start_share_N).abs().sum() / 2),
        }
        if popularity_N is not None:
            sales_I = popularity_N[FIRST_ITEM:].double().cpu().contiguous()
            below_I = torch.searchsorted(sales_I.sort().values, sales_I) / len(sales_I)
            figures["popularity"] = float((share_N[FIRST_ITEM:] * below_I).sum())
        return figures


def coverage_of(count_N: Tensor, showings: int) -> float:
    """Share of the catalogue that so many showings would cover if each were drawn by these counts: the mean over items
    of 1 - (1 - share)^showings. Of few showings nobody can ask the coverage of many."""
    share_I = count_N[FIRST_ITEM:].double() / count_N[FIRST_ITEM:].sum().clamp(min=1.0)
    return float(-torch.expm1(showings * torch.log1p(-share_I)).mean())


def logged_exposure(dataset: TokenisedDataset) -> tuple[Exposure, str]:
    """The showings of the train log's slates, or its events where it has none; and which: "slates" or "events"."""
    slates, source = dataset.slates, "slates"
    if slates is not None and bool((slates.split_S == TRAIN).any()):
        shown = slates.slate_SK[slates.split_S == TRAIN]
    else:
        shown, source = dataset.event_item_E[dataset.event_split_E == TRAIN], "events"
    logged = Exposure(tokens=dataset.tokens)
    logged.add(torch.from_numpy(shown.astype(np.int64)))
    logged.count_N[:FIRST_ITEM] = 0.0
    return logged, source


@dataclass(frozen=True)
class CollapseFloors:
    """Below which a policy in training has collapsed; 0 switches a floor off.

    Attributes:
        effective_slates: least number of different slates' worth of items shown in a validation (effective items by
            the size of a slate): at 1, all users always see the same items.
        entropy: least mean entropy of the first position, in nats: at 0, nothing is explored.
    """

    effective_slates: float = 1.2
    entropy: float = 1e-4

    def __post_init__(self) -> None:
        if self.effective_slates < 0 or self.entropy < 0:
            raise ConfigError(f"floors of {self.effective_slates} slates and {self.entropy} nats; the least is 0")

    def check_exposure(self, effective_items: float, *, slate_size: int, items: int, iteration: int) -> None:
        """Raises PolicyCollapse under the floor, which a catalogue too small for it lowers."""
        floor = min(self.effective_slates * slate_size, 0.9 * items)
        if effective_items < floor:
            raise PolicyCollapse(
                f"the policy collapsed at iteration {iteration}: what it shows is worth {effective_items:.1f} items of "
                f"{items}, and slates have {slate_size} (floor {floor:.1f}). Raise entropy_weight or kl_weight, lower "
                "learning_rate, or lower floors.effective_slates if so few items are meant"
            )

    def check_entropy(self, entropy: float, *, iteration: int) -> None:
        """Raises PolicyCollapse under the floor."""
        if entropy < self.entropy:
            raise PolicyCollapse(
                f"the policy collapsed at iteration {iteration}: entropy {entropy:.2g} nats, under {self.entropy:.2g}: "
                "nothing is explored now. Raise entropy_weight, kl_weight or the temperature, or lower learning_rate"
            )
