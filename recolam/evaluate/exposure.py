"""What the policy shows, before and after training, beside what the behaviour log showed.

Shape legend: N token ids.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from recolam.contracts.dataset import TokenisedDataset
from recolam.policy.exposure import logged_exposure

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
    counted, source = logged_exposure(dataset)
    popularity_N = torch.from_numpy(dataset.item_count_V).float()
    figures = counted.figures(counted.count_N, popularity_N)
    block["logged"] = {name: figures[name] for name in ("coverage", "effective_items", "popularity")}
    block["source"] = source
    block["iteration"] = validated[best][0]
    block["is_narrow"] = block["served"]["coverage"] < _NARROW * figures["coverage"]
    return block
