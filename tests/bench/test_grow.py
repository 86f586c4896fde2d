import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from recolam import bench
from recolam.bench.grow import draw_new, over_items, without_events
from recolam.contracts.dataset import FIRST_ITEM
from tests.planted import cyclic_dataset


def test_events_and_queries_of_other_items_stay_as_they_were() -> None:
    whole = cyclic_dataset(users=40)
    whole = dataclasses.replace(whole, event_type_E=np.arange(len(whole.event_item_E), dtype=np.int32))
    is_new_N = draw_new(whole, seed=1)
    assert is_new_N.sum() == round(len(whole.items) / 6)
    assert not is_new_N[:FIRST_ITEM].any()
    dropped = without_events(whole, is_new_N)
    small = over_items(dropped, ~is_new_N)
    small._check()
    for user in range(len(whole.users)):
        began, ended = whole.user_offset_U1[user : user + 2]
        events = [event for event in range(began, ended) if not is_new_N[whole.event_item_E[event]]]
        mine = slice(*small.user_offset_U1[user : user + 2])
        names = [small.items[token - FIRST_ITEM] for token in small.event_item_E[mine]]
        assert names == [whole.items[whole.event_item_E[event] - FIRST_ITEM] for event in events]
        np.testing.assert_array_equal(small.event_type_E[mine], events)  # type: ignore[index]
        np.testing.assert_array_equal(small.event_split_E[mine], whole.event_split_E[events])
    asked = whole.test_event_Q[~is_new_N[whole.event_item_E[whole.test_event_Q]]]
    np.testing.assert_array_equal(small.event_type_E[small.test_event_Q], asked)  # type: ignore[index]
    assert 0 < len(asked) < len(whole.test_event_Q)


@pytest.mark.slow
def test_the_command_measures_what_is_kept(tmp_path: Path) -> None:
    settings = tmp_path / "small.json"
    training = {"epochs": 2, "max_len": 24, "batch_size": 64, "validate_every": 1}
    settings.write_text(json.dumps({"width": 16, "blocks": 1, "training": training}))
    found = bench.run("grow", {"config": str(settings)})
    run = found["runs"][0]
    assert run["new_items"] == round((run["new_items"] + run["old_items"]) / 6)
    assert run["queries"] > 100
    low, high = run["in_competition"]["ci95"]
    assert low <= run["in_competition"]["mean"] <= high
    assert 0.9 < run["in_competition"]["mean"] < 1.05
