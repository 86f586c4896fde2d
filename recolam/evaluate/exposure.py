"""What the policy shows, before and after training, beside what the behaviour log showed.

Shape legend: E events, S logged slates, K slate positions, N token ids.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from recolam.contracts.dataset import FIRST_ITEM, TRAIN, TokenisedDataset
from recolam.policy.exposure import Exposure

CURVES = ("coverage", "effective_items", "exposure_drift", "popularity", "entropy", "kl")
_NARROW = 0.5  # of the behaviour log's coverage


def exposure_block(dataset: TokenisedDataset, curves: Mapping[str, Sequence[Sequence[float]]]) -> dict[str, Any]:
    """The `exposure` block of report.json: figures of `recolam.policy.exposure` as shares and numbers of items.

    Returns:
        `start` (before training) and `served` (where validation was best, whose weights were kept) from the curves,
        `logged` from the train log's slates, or from its events where it has none (`source` says which), and
        `is_narrow`: whether the served policy covers less than half of what the log covered. Empty without curves.
    """
    validated = curves.get("validation_return") or []
    if not validated or "coverage" not in curves:
        return {}
    best = max(range(len(validated)), key=lambda place: validated[place][1])
    places = {"start": 0, "served": best}
    block: dict[str, Any] = {
        when: {name: curves[name][place][1] for name in CURVES[:4] if len(curves.get(name, [])) > place}
        for when, place in places.items()
    }
    shown, source = _logged(dataset)
    counted = Exposure(tokens=dataset.tokens)
    counted.count_N = torch.from_numpy(np.bincount(shown, minlength=dataset.tokens)).double()
    counted.count_N[:FIRST_ITEM] = 0.0
    popularity_N = torch.from_numpy(dataset.item_count_V).float()
    figures = counted.figures(counted.count_N, popularity_N)
    block["logged"] = {name: figures[name] for name in ("coverage", "effective_items", "popularity")}
    block["source"] = source
    block["iteration"] = validated[best][0]
    block["is_narrow"] = block["served"]["coverage"] < _NARROW * figures["coverage"]
    return block


def _logged(dataset: TokenisedDataset) -> tuple[np.ndarray, str]:
    """The items of the train log's slates, or of its events; and which."""
    if dataset.slates is not None and bool((dataset.slates.split_S == TRAIN).any()):
        return dataset.slates.slate_SK[dataset.slates.split_S == TRAIN].ravel(), "slates"
    return dataset.event_item_E[dataset.event_split_E == TRAIN], "events"
