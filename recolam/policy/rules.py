"""Hard constraints by name: what a config asks for, what a policy's file keeps, and both as `SlateConstraints`.

Shape legend: V items of the vocabulary, N token ids.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch

from recolam.contracts.dataset import FIRST_ITEM, TRAIN, TokenisedDataset
from recolam.errors import ConfigError
from recolam.policy.constraints import NoSuchSlate, OpenItems, SlateConstraints

_DAY = 86_400


@dataclass(frozen=True)
class ConstraintsConfig:
    """What every slate keeps, sampled or served. The defaults constrain nothing.

    Attributes:
        blocked: items never shown, by id.
        blocked_groups: groups never shown. An item's group is its first tag (genre, category, provider).
        at_most_per_group: the most items of one group in a slate; items without a group count for none.
        at_least_new: the fewest new items in a slate.
        new_days: an item is new that was first seen in the last so many days of the train log, or not at all.
        fixed: position, from 0, as text -> the item that stands there in every slate, whatever the user had before.
    """

    blocked: tuple[str, ...] = ()
    blocked_groups: tuple[str, ...] = ()
    at_most_per_group: int | None = None
    at_least_new: int = 0
    new_days: float = 30.0
    fixed: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.at_most_per_group is not None and self.at_most_per_group < 1:
            raise ConfigError(f"at_most_per_group is {self.at_most_per_group}, below 1")
        if self.at_least_new < 0 or not 0.0 < self.new_days < float("inf"):
            raise ConfigError(f"at_least_new is {self.at_least_new}, new_days {self.new_days}: too small, or no number")
        for position in self.fixed:
            if not (position.isascii() and position.isdigit() and str(int(position[:9])) == position):
                raise ConfigError(f"fixed {position[:40]!r} is not a position from 0")
        if len(set(self.fixed.values())) < len(self.fixed):
            raise ConfigError(f"fixed {self.fixed!r} shows an item twice")
        if both := sorted(set(self.fixed.values()) & set(self.blocked)):
            raise ConfigError(f"item {both[0]!r} is fixed and blocked")

    @property
    def is_empty(self) -> bool:
        return replace(self, new_days=1.0) == ConstraintsConfig(new_days=1.0)

    @property
    def needs_groups(self) -> bool:
        return bool(self.blocked_groups) or self.at_most_per_group is not None


@dataclass(frozen=True)
class NamedConstraints:
    """Constraints with all that they need to know of the items, by id: what policy.json keeps.

    Attributes:
        groups: the items of each group.
        new: the items that count as new.
    """

    asked: ConstraintsConfig = field(default_factory=ConstraintsConfig)
    groups: dict[str, tuple[str, ...]] = field(default_factory=dict)
    new: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """What `recolam.contracts.config.from_mapping` reads back."""
        found: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return found

    def unknown(self, items: Sequence[str]) -> list[str]:
        """Blocked and fixed items that are not among these."""
        return sorted({*self.asked.blocked, *self.asked.fixed.values()} - set(items))

    def on(self, items: Sequence[str]) -> SlateConstraints:
        """The constraints on the token ids of a vocabulary; what it has not cannot be shown and is passed over.

        Raises:
            ConfigError: a group that `groups` has not.
        """
        asked, token_of = self.asked, {item: FIRST_ITEM + row for row, item in enumerate(items)}
        tokens = FIRST_ITEM + len(items)

        def marked(named: Sequence[str]) -> torch.Tensor:
            is_named_N = torch.zeros(tokens, dtype=torch.bool)
            is_named_N[[token_of[item] for item in named if item in token_of]] = True
            return is_named_N

        _refuse_unknown("group", asked.blocked_groups, self.groups)
        blocked = [*asked.blocked, *(item for name in asked.blocked_groups for item in self.groups[name])]
        group_N = torch.full((tokens,), -1, dtype=torch.int64)
        for row, members in enumerate(self.groups.values()):
            group_N[marked(members)] = row
        has_cap, has_quota = asked.at_most_per_group is not None, asked.at_least_new > 0
        return SlateConstraints(
            is_blocked=marked(blocked) if blocked else None,
            group=group_N if has_cap else None,
            at_most=asked.at_most_per_group,
            is_new=marked(self.new) if has_quota else None,
            at_least_new=asked.at_least_new,
            fixed={int(place): token_of[item] for place, item in asked.fixed.items() if item in token_of},
        )


def named_constraints(asked: ConstraintsConfig, dataset: TokenisedDataset) -> NamedConstraints:
    """What is asked for, with the dataset's groups and new items.

    Raises:
        ConfigError: an item or a group that the dataset has not; caps without groups; new items without a clock.
    """
    _refuse_unknown("item", [*asked.blocked, *asked.fixed.values()], set(dataset.items))
    groups = _groups(dataset) if asked.needs_groups else {}
    _refuse_unknown("group", asked.blocked_groups, groups)
    if asked.needs_groups and not groups:
        raise ConfigError("constraints on groups need items with tags; this log's items have none")
    found = NamedConstraints(asked, groups, _new_items(dataset, days=asked.new_days) if asked.at_least_new else ())
    gone = {item for name in asked.blocked_groups for item in groups[name]} & set(asked.fixed.values())
    if gone:
        raise ConfigError(f"item {min(gone)!r} is fixed, and its group is blocked")
    return found


def check_slates(constraints: SlateConstraints, *, items: int, slate_size: int) -> None:
    """Raises ConfigError where no slate of this size keeps the constraints, or nothing is left to choose."""
    behind = [position for position in constraints.fixed if position >= slate_size]
    if behind:
        raise ConfigError(f"position {behind[0]} is fixed, and slates have the positions 0 to {slate_size - 1}")
    if len(constraints.fixed) == slate_size:
        raise ConfigError(f"all {slate_size} positions are fixed: there is nothing to learn")
    score_1N = torch.zeros(1, FIRST_ITEM + items)
    score_1N[:, :FIRST_ITEM] = -torch.inf
    try:
        OpenItems(constraints, score_1N, slate_size)
    except NoSuchSlate as error:
        raise ConfigError(f"no slate of this catalogue keeps the constraints: {error.reason}") from error


def elsewhere(asked: ConstraintsConfig, dataset: TokenisedDataset) -> ConstraintsConfig:
    """As much of constraints made for one dataset as another one knows: its items, groups and, with a clock, days."""
    items, groups = set(dataset.items), _groups(dataset)
    return replace(
        asked,
        blocked=tuple(item for item in asked.blocked if item in items),
        blocked_groups=tuple(name for name in asked.blocked_groups if name in groups),
        at_most_per_group=asked.at_most_per_group if groups else None,
        at_least_new=asked.at_least_new if dataset.info.get("clock") == "time" else 0,
        fixed={place: item for place, item in asked.fixed.items() if item in items},
    )


def _groups(dataset: TokenisedDataset) -> dict[str, tuple[str, ...]]:
    if dataset.item_group_V is None:
        return {}
    members: dict[str, list[str]] = {name: [] for name in dataset.info["item_groups"]}
    names = list(members)
    for item, group in zip(dataset.items, dataset.item_group_V[FIRST_ITEM:].tolist(), strict=True):
        if group >= 0:
            members[names[group]].append(item)
    return {name: tuple(found) for name, found in members.items()}


def _new_items(dataset: TokenisedDataset, *, days: float) -> tuple[str, ...]:
    if dataset.info.get("clock") != "time":
        raise ConfigError(f"at_least_new: new in the last {days} days cannot be told in a log without a clock")
    is_train_E = dataset.event_split_E == TRAIN
    second_E = dataset.event_time_E[is_train_E]
    first_N = np.full(dataset.tokens, np.iinfo(np.int64).max)
    np.minimum.at(first_N, dataset.event_item_E[is_train_E], second_E)
    is_new_V = first_N[FIRST_ITEM:] > int(second_E.max()) - days * _DAY
    return tuple(item for item, is_new in zip(dataset.items, is_new_V, strict=True) if is_new)


def _refuse_unknown(kind: str, named: Sequence[str], known: Mapping[str, object] | set[str]) -> None:
    missing = sorted(set(named) - set(known))
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ConfigError(f"constraints name the {kind} {missing[0][:80]!r}{more}, which is not in this log")
