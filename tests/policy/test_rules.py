"""Constraints by name, against what a dataset has; retrieval for large catalogues."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from recolam.contracts.config import from_mapping
from recolam.contracts.dataset import FIRST_ITEM, TRAIN, TokenisedDataset
from recolam.errors import ConfigError
from recolam.policy.constraints import SlateConstraints
from recolam.policy.retrieval import candidates_for, retrieve
from recolam.policy.rules import ConstraintsConfig, NamedConstraints, check_slates, elsewhere, named_constraints
from tests.planted import dataset_from

DAY = 86_400


def grouped() -> TokenisedDataset:
    """Items 0..4; item 4 is in no train event, and item 3 first in one three days before the log ends."""
    plain = dataset_from([[0, 1, 2, 3, 4], [1, 0, 3, 3, 2]], items=5)
    return replace(
        plain,
        event_time_E=np.array([0, 1, 7, 99, 100, 0, 1, 4, 99, 100], dtype=np.int64) * DAY,
        item_group_V=np.array([-1, -1, -1, 0, 1, 1, -1, 0], dtype=np.int32),
        info={**plain.info, "item_groups": ["Drama", "<b>Horror</b>"]},
    )


def test_groups_and_new_items_are_the_dataset_s() -> None:
    dataset = grouped()
    assert dataset.event_split_E[:5].tolist() == [TRAIN, TRAIN, TRAIN, 1, 2]  # the log's train part ends on day 7
    asked = ConstraintsConfig(
        blocked=("item-0",), blocked_groups=("<b>Horror</b>",), at_most_per_group=1, at_least_new=1, new_days=3.5,
        fixed={"1": "item-3"},
    )  # fmt: skip
    named = named_constraints(asked, dataset)
    assert named.groups == {"Drama": ("item-0", "item-4"), "<b>Horror</b>": ("item-1", "item-2")}
    assert named.new == ("item-2", "item-3", "item-4")
    found = named.on(dataset.items)
    assert found.is_blocked is not None
    assert found.is_blocked.tolist() == [False] * 3 + [True, True, True, False, False]
    assert found.group is not None
    assert found.group.tolist() == [-1, -1, -1, 0, 1, 1, -1, 0]
    assert found.is_new is not None
    assert found.is_new.tolist() == [False] * 3 + [False, False, True, True, True]
    assert (found.at_most, found.at_least_new, dict(found.fixed)) == (1, 1, {1: FIRST_ITEM + 3})
    assert named_constraints(replace(asked, new_days=2.5), dataset).new == ("item-2", "item-4")
    assert from_mapping(NamedConstraints, named.as_json(), where="policy.json") == named


def test_what_is_not_asked_for_constrains_nothing() -> None:
    assert ConstraintsConfig(new_days=3.0).is_empty
    assert not ConstraintsConfig(at_least_new=1).is_empty
    found = NamedConstraints(ConstraintsConfig(fixed={"0": "item-1"})).on(grouped().items)
    assert (found.is_blocked, found.group, found.is_new) == (None, None, None)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"blocked": ["item-9"]}, "the item 'item-9', which"),
        ({"blocked": ["item-9", "item-8"]}, "the item 'item-8' and 1 more"),
        ({"fixed": {"0": "../../etc"}}, r"the item '\.\./\.\./etc'"),
        ({"blocked_groups": ["drama"]}, "the group 'drama'"),
        ({"at_most_per_group": 0}, "at_most_per_group is 0"),
        ({"at_least_new": -1}, "at_least_new is -1"),
        ({"new_days": 0.0}, "new_days 0.0"),
        ({"fixed": {"first": "item-1"}}, "'first' is not a position"),
        ({"fixed": {"01": "item-1"}}, "'01' is not a position"),
        ({"fixed": {"9" * 30: "item-1"}}, "is not a position"),
        ({"fixed": {"0": "item-1", "1": "item-1"}}, "an item twice"),
        ({"fixed": {"0": "item-1"}, "blocked": ["item-1"]}, "'item-1' is fixed and blocked"),
        ({"fixed": {"0": "item-0"}, "blocked_groups": ["Drama"]}, "'item-0' is fixed, and its group is blocked"),
        ({"blocked": "item-1"}, "not of type tuple"),
        ({"cap": 1}, "unknown key 'cap'"),
    ],
)
def test_what_a_log_has_not_is_refused_by_name(asked: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        named_constraints(from_mapping(ConstraintsConfig, asked, where="policy.constraints"), grouped())


def test_groups_need_tags_and_new_items_a_clock() -> None:
    plain = replace(grouped(), item_group_V=None)
    with pytest.raises(ConfigError, match="items with tags"):
        named_constraints(ConstraintsConfig(at_most_per_group=1), plain)
    timeless = replace(grouped(), info={**grouped().info, "clock": "position"})
    with pytest.raises(ConfigError, match="without a clock"):
        named_constraints(ConstraintsConfig(at_least_new=1), timeless)
    asked = ConstraintsConfig(("item-9", "item-1"), ("Drama", "Noir"), 2, 1, 3.0, {"0": "item-8", "1": "item-2"})
    assert elsewhere(asked, grouped()) == ConstraintsConfig(("item-1",), ("Drama",), 2, 1, 3.0, {"1": "item-2"})
    assert elsewhere(asked, timeless).at_least_new == 0
    assert elsewhere(asked, plain) == ConstraintsConfig(("item-1",), (), None, 1, 3.0, {"1": "item-2"})


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (SlateConstraints(fixed={3: 4}), "position 3 is fixed, and slates have the positions 0 to 2"),
        (SlateConstraints(fixed={0: 3, 1: 4, 2: 5}), "nothing to learn"),
        (SlateConstraints(is_blocked=torch.arange(8) > 4), "no slate of this catalogue .* 2 admissible"),
    ],
)
def test_constraints_that_leave_no_choice_are_refused_before_training(rules: SlateConstraints, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_slates(rules, items=5, slate_size=3)


def test_large_catalogues_have_candidates_whether_asked_for_or_not() -> None:
    assert candidates_for(0, items=100_000, slate_size=10) == 0
    assert candidates_for(0, items=100_001, slate_size=10) == 1000
    assert candidates_for(0, items=100_001, slate_size=100) == 2000
    assert candidates_for(200, items=5000, slate_size=10) == 200
    assert candidates_for(200, items=150, slate_size=10) == 0  # that is the whole catalogue
    with pytest.raises(ConfigError, match="19 candidates are too few"):
        candidates_for(19, items=5000, slate_size=10)


def test_candidates_are_the_best_that_may_be_shown_and_can_keep_the_constraints() -> None:
    table_ND = torch.eye(40)
    state_BD = torch.arange(40.0).flip(0).expand(2, -1)  # the score of item i is 39 - i
    history_BT = torch.tensor([[3, 5, 0], [6, 6, 6]])
    is_barred_N = torch.arange(40) == 4
    plain_BC = retrieve(state_BD, table_ND, history_BT, count=4, slate_size=2, is_barred_N=is_barred_N)
    assert plain_BC.tolist() == [[6, 7, 8, 9], [3, 5, 7, 8]]
    rules = SlateConstraints(
        is_blocked=torch.arange(40) == 7, is_new=torch.arange(40) > 30, at_least_new=1, fixed={1: 20}
    )
    found_BC = retrieve(
        state_BD, table_ND, history_BT, count=4, slate_size=3, constraints=rules, is_barred_N=is_barred_N
    )
    assert found_BC[:, 0].tolist() == [20, 20]
    assert [set(row) for row in found_BC[:, 1:].tolist()] == [{6, 8, 9, 31}, {3, 5, 8, 31}]  # 31: the best new one


def test_rows_with_too_few_items_are_filled_up() -> None:
    table_ND = torch.eye(8)
    found_BC = retrieve(torch.ones(1, 8), table_ND, torch.tensor([[3, 4, 5]]), count=6, slate_size=1)
    assert sorted(found_BC[0].tolist()) == [0, 0, 0, 0, 6, 7]
