"""Hard constraints on a slate, and what they leave to choose from at every position.

After the items a_1..a_{k-1} an item is open at position k if and only if some complete slate that keeps all constraints
begins with a_1..a_{k-1} and it. So a slate drawn from open items alone never runs into a dead end, and nothing has to
be filtered, repaired or drawn again.

Why counting is enough. Fixed items are set aside first: they are open at their own position only, and the caps and the
quota of the others are what they leave. Then order does not matter, and the sets that keep the caps are the independent
sets of a partition matroid. With F free positions left, quota q of new items, room r_g in group g and n_g new items
still to be had there, the slate can be completed exactly if

    q <= F,    sum_g min(r_g, n_g) >= q,    sum_g min(r_g, items of g) >= F:

q new items that keep the caps exist by the second condition, and every independent set grows to one of size F by
exchange. Taking an item lowers F by one. A new item with room in its group keeps all three. An old one, too, unless
q = F, or q = sum_g min(r_g, n_g) and r_g <= n_g in its group, where it takes the room of a new one. Both tests are
monotone: an item once closed stays closed, so the open sets of a slate's free positions shrink.

Shape legend: B slates, K positions, N items, G groups (and one more, without a cap, for items of no group).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from recolam.errors import ConfigError, DataError

_NO_CAP = 2**40


class NoSuchSlate(DataError):
    """What a row's slate may show cannot keep the constraints; `reason` says why, without the row."""

    def __init__(self, reason: str, *, row: int) -> None:
        super().__init__(f"row {row}: {reason}")
        self.reason = reason


@dataclass(frozen=True, eq=False)
class SlateConstraints:
    """What every slate keeps. Item ids are columns of the scores; absent tensors constrain nothing.

    Attributes:
        is_blocked: bool [N] or [B, N], True for items never shown.
        group: int64 [N] or [B, N], each item's one group (provider, genre, ...) from 0, -1 for none; with `at_most`.
        at_most: the most items of one group in a slate.
        is_new: bool [N] or [B, N], True for items that count as new; with `at_least_new`.
        at_least_new: the fewest new items in a slate.
        fixed: position -> item: what stands there in every slate, and nowhere else.
    """

    is_blocked: Tensor | None = None
    group: Tensor | None = None
    at_most: int | None = None
    is_new: Tensor | None = None
    at_least_new: int = 0
    fixed: Mapping[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.group is None) != (self.at_most is None):
            raise ConfigError(f"at most {self.at_most} items per group: group and at_most go together")
        if self.at_most is not None and self.at_most < 0:
            raise ConfigError(f"at most {self.at_most} items per group: below 0")
        if self.group is not None and bool((self.group < -1).any()):
            raise ConfigError(f"group {int(self.group.min())}: groups count from 0, -1 is none")
        if self.at_least_new < 0 or (self.at_least_new > 0 and self.is_new is None):
            raise ConfigError(f"at least {self.at_least_new} new items: below 0, or is_new is absent")
        items = list(self.fixed.values())
        if len(set(items)) < len(items):
            raise ConfigError(f"fixed positions {dict(self.fixed)} show an item twice")

    @property
    def is_only_blocking(self) -> bool:
        """Whether a slate's items are drawn as if there were no constraint once the blocked ones are barred."""
        return self.group is None and self.at_least_new == 0 and not self.fixed

    def barred(self, score_BN: Tensor) -> Tensor:
        """Scores with -inf for blocked items."""
        return score_BN if self.is_blocked is None else score_BN.masked_fill(self.is_blocked, -torch.inf)

    def within(self, k: int) -> "SlateConstraints":
        """The constraints of slates of k items: positions behind the k-th are not fixed."""
        fixed = {position: item for position, item in self.fixed.items() if position < k}
        return self if len(fixed) == len(self.fixed) else replace(self, fixed=fixed)

    def to(self, device: torch.device) -> "SlateConstraints":
        """The same on another device."""
        tensors = {name: getattr(self, name) for name in ("is_blocked", "group", "is_new")}
        return replace(self, **{name: value.to(device) for name, value in tensors.items() if value is not None})

    def rows(self, chosen: Tensor) -> "SlateConstraints":
        """The constraints of some of the slates (a mask or indices)."""
        own = {
            name: value[chosen]
            for name in ("is_blocked", "group", "is_new")
            if (value := getattr(self, name)) is not None and value.ndim == 2
        }
        return replace(self, **own) if own else self

    def are_kept(self, slate_BK: Tensor) -> Tensor:
        """Which slates of different items keep all of it, by the definition alone, bool [B]."""
        slates, k = slate_BK.shape
        is_kept_B = torch.ones(slates, dtype=torch.bool, device=slate_BK.device)
        for position, item in self.within(k).fixed.items():
            is_kept_B &= slate_BK[:, position] == item
        if self.is_blocked is not None:
            is_kept_B &= ~self.is_blocked.expand(slates, -1).gather(1, slate_BK).any(dim=1)
        if self.is_new is not None:
            is_kept_B &= self.is_new.expand(slates, -1).gather(1, slate_BK).sum(dim=1) >= self.at_least_new
        if self.group is not None and self.at_most is not None:
            group_BK = self.group.expand(slates, -1).gather(1, slate_BK)
            alike_BK = (group_BK[:, :, None] == group_BK[:, None]).sum(dim=2)
            is_kept_B &= ((alike_BK <= self.at_most) | (group_BK < 0)).all(dim=1)
        return is_kept_B


class OpenItems:
    """The open items of one position after another, for a batch of slates that are filled from the front.

    Attributes:
        is_possible_B: which rows have a slate that keeps the constraints.
    """

    def __init__(self, constraints: SlateConstraints, score_BN: Tensor, k: int, *, is_checked: bool = True) -> None:
        """
        Args:
            score_BN: -inf for items that a slate may not show.
            is_checked: False only to look at `is_possible_B`, which may then be False.

        Raises:
            ConfigError: constraints that no slate of k of these items can keep, whatever the scores.
            NoSuchSlate: a row's admissible items cannot keep them; the message names the constraint and the row.
        """
        self._constraints, self._position = constraints, 0
        shape, device = score_BN.shape, score_BN.device
        self._free_BN = torch.isfinite(constraints.barred(score_BN.detach()))
        is_fixed_open_B = self._check_fixed(k, is_checked=is_checked)
        self._is_new_BN = (
            torch.zeros(shape, dtype=torch.bool, device=device)
            if constraints.is_new is None
            else constraints.is_new.expand(shape)
        )
        group = torch.tensor(-1, device=device) if constraints.group is None else constraints.group
        groups = int(group.max()) + 1 if group.numel() else 0
        self._group_BN = (group % (groups + 1)).expand(shape)  # -1 becomes the last
        self._room_BG = torch.full((shape[0], groups + 1), constraints.at_most or 0, device=device)
        self._room_BG[:, groups] = _NO_CAP
        self._quota_B = torch.full((shape[0],), constraints.at_least_new, device=device)
        self._new_BG = self._by_group(self._free_BN & self._is_new_BN)
        for item in constraints.fixed.values():
            self._take(torch.full((shape[0],), item, device=device))
        self._left = k - len(constraints.fixed)
        self.is_possible_B = is_fixed_open_B & self._check_rows(k, is_checked=is_checked)

    def next(self) -> Tensor:
        """Which items are open at the next position, bool [B, N]."""
        if self._position in self._constraints.fixed:
            only_BN = torch.zeros_like(self._free_BN)
            only_BN[:, self._constraints.fixed[self._position]] = True
            return only_BN
        return self.first_free()

    def first_free(self) -> Tensor:
        """Which items are open at the next position that is not fixed, bool [B, N]."""
        most_new_B = torch.minimum(self._room_BG, self._new_BG).sum(dim=1)
        takes_room_BG = (self._room_BG <= self._new_BG).long()
        is_open_to_old_BG = (self._quota_B < self._left)[:, None] & (
            most_new_B[:, None] - takes_room_BG >= self._quota_B[:, None]
        )
        is_open_BN = self._free_BN & (self._room_BG > 0).gather(1, self._group_BN)
        return is_open_BN & (self._is_new_BN | is_open_to_old_BG.gather(1, self._group_BN))

    def take(self, item_B: Tensor) -> None:
        """Goes on to the position after the one that shows `item_B`."""
        if self._position not in self._constraints.fixed:
            self._take(item_B)
            self._left -= 1
        self._position += 1

    def _take(self, item_B: Tensor) -> None:
        item_B1 = item_B[:, None]
        group_B1 = self._group_BN.gather(1, item_B1)
        is_new_B1 = self._is_new_BN.gather(1, item_B1).long()
        was_free_B1 = self._free_BN.gather(1, item_B1).long()
        self._room_BG = self._room_BG.scatter_add(1, group_B1, -torch.ones_like(group_B1))
        self._new_BG = self._new_BG.scatter_add(1, group_B1, -is_new_B1 * was_free_B1)
        self._quota_B = (self._quota_B - is_new_B1[:, 0]).clamp(min=0)
        self._free_BN = self._free_BN.scatter(1, item_B1, False)

    def _by_group(self, is_counted_BN: Tensor) -> Tensor:
        return torch.zeros_like(self._room_BG).scatter_add(1, self._group_BN, is_counted_BN.long())

    def _check_fixed(self, k: int, *, is_checked: bool) -> Tensor:
        rows, items = self._free_BN.shape
        is_open_B = torch.ones(rows, dtype=torch.bool, device=self._free_BN.device)
        for position, item in self._constraints.fixed.items():
            if not (0 <= position < k and 0 <= item < items):
                raise ConfigError(
                    f"item {item} fixed at position {position}: slates have {k} positions, the catalogue {items} items"
                )
            is_open_B = is_open_B & self._free_BN[:, item]
            if is_checked and not bool(is_open_B.all()):
                row = int(is_open_B.long().argmin())
                raise NoSuchSlate(f"the item fixed at position {position} is blocked or barred", row=row)
        return is_open_B

    def _check_rows(self, k: int, *, is_checked: bool) -> Tensor:
        constraints = self._constraints
        full = (self._room_BG < 0).any(dim=0).nonzero()[:, 0].tolist()
        if full:
            raise ConfigError(f"at most {constraints.at_most} items per group: more of group {full[0]} are fixed")
        most_new_B = torch.minimum(self._room_BG, self._new_BG).sum(dim=1).clamp(max=self._left)
        most_B = torch.minimum(self._room_BG, self._by_group(self._free_BN)).sum(dim=1)
        is_new_enough_B, is_full_B = most_new_B >= self._quota_B, most_B >= self._left
        if is_checked and not bool((is_new_enough_B & is_full_B).all()):
            under = "" if constraints.at_most is None else f" under at most {constraints.at_most} items per group"
            beside = f" beside {len(constraints.fixed)} fixed" if constraints.fixed else ""
            row = int((is_new_enough_B & is_full_B).long().argmin())
            if not bool(is_new_enough_B[row]):
                raise NoSuchSlate(
                    f"at least {constraints.at_least_new} new items in a slate of {k}: {int(self._quota_B[row])} "
                    f"needed{beside}, {int(most_new_B[row])} to be had{under}",
                    row=row,
                )
            raise NoSuchSlate(f"a slate of {k} items: {int(most_B[row])}{beside} admissible{under}", row=row)
        return is_new_enough_B & is_full_B
