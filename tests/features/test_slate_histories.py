"""Logged slates get the history their user had, and the part of the split they belong to."""

import numpy as np
import pytest

from recolam.contracts.dataset import FIRST_ITEM, TEST, TRAIN, UNKNOWN, VALIDATION
from recolam.features import leak
from recolam.features.config import FeaturesConfig
from recolam.features.tokenise import Tokenised, tokenise
from tests.features.support import Event, tables


def built(
    split: str = "temporal", seed: int = 0
) -> tuple[Tokenised, list[Event], list[tuple[str, int, list[str], int]]]:
    """Users click every second slate; `never` is shown slates and clicks none."""
    rng = np.random.default_rng(seed)
    events, slates = [], []
    for n in range(300):
        user, second = f"u{rng.integers(0, 8)}", int(rng.integers(0, 100))
        shown = [f"i{item}" for item in rng.choice(20, 3, replace=False)]
        choice = int(rng.integers(-1, 3))
        slates.append((user, second, shown, choice))
        if choice >= 0:
            events.append((user, shown[choice], second))
        slates.append(("never", n, shown[:2], -1))
    slates.append(("u0", 50, ["cold", "i1"], -1))
    config = FeaturesConfig(split=split)  # type: ignore[arg-type]
    return tokenise(tables(events, slates=slates), config, seed=seed), events, slates


@pytest.mark.parametrize("split", ["temporal", "leave_one_out"])
def test_histories_are_the_strictly_earlier_events(split: str) -> None:
    result, events, slates = built(split)
    dataset, logged = result.dataset, result.dataset.slates
    assert logged is not None
    assert result.slate_second_S is not None
    leak.check(dataset, slate_second_S=result.slate_second_S)
    assert len(logged.user_S) == len(slates) == dataset.info["counts"]["slates"]
    found = sorted(
        (dataset.users[user], int(second), int(end - dataset.user_offset_U1[user]), int(choice))
        for user, second, end, choice in zip(
            logged.user_S, result.slate_second_S, logged.history_end_S, logged.choice_S, strict=True
        )
    )
    unique = set(events)
    wanted = sorted(
        (user, second, sum(name == user and time < second for name, _, time in unique), choice)
        for user, second, _, choice in slates
    )
    assert found == wanted


def test_slate_tokens_padding_and_unknown_items() -> None:
    result, _, slates = built()
    dataset, logged = result.dataset, result.dataset.slates
    assert logged is not None
    assert logged.slate_SK.shape == (len(slates), 3)
    names = ("pad", "mask", "cold", *dataset.items)
    rows = sorted(
        (dataset.users[user], [names[token] for token in row if token])
        for user, row in zip(logged.user_S, logged.slate_SK, strict=True)
    )
    assert rows == sorted((user, shown) for user, _, shown, _ in slates)
    assert (logged.slate_SK[logged.slate_SK < FIRST_ITEM] <= UNKNOWN).all()
    assert dataset.info["counts"]["slates_with_unknown_items"] == 1


def test_users_who_never_click_keep_their_slates() -> None:
    dataset = built()[0].dataset
    row = dataset.users.index("never")
    assert dataset.user_offset_U1[row] == dataset.user_offset_U1[row + 1]
    assert dataset.slates is not None
    assert (dataset.slates.user_S == row).sum() == 300


def test_slates_are_split_by_time() -> None:
    result, *_ = built()
    first, second = result.dataset.info["cut_times"]
    logged, second_S = result.dataset.slates, result.slate_second_S
    assert logged is not None
    assert second_S is not None
    wanted = np.where(second_S < first, TRAIN, np.where(second_S < second, VALIDATION, TEST))
    np.testing.assert_array_equal(logged.split_S, wanted)
    assert len(np.unique(logged.split_S)) == 3


def test_leave_one_out_slates_of_held_out_clicks_are_held_out() -> None:
    events = [("a", f"i{n}", 10 * n) for n in range(5)] + [("b", f"i{n}", n) for n in range(4)]
    slates = [("a", 10 * n + more, [f"i{n}", "i0" if n else "i1"], 0 if more == 0 else -1)
              for n in range(5) for more in (0, 5)]  # fmt: skip
    result = tokenise(tables(events, slates=slates), FeaturesConfig(split="leave_one_out"), seed=0)
    assert result.dataset.slates is not None
    assert result.dataset.slates.split_S.tolist() == [TRAIN] * 6 + [VALIDATION] * 2 + [TEST] * 2


def test_slates_of_several_domains_or_of_others_users_are_counted() -> None:
    domains = {"x": "other", "y": "other"}
    events = [("a", f"i{n}", n) for n in range(9)] + [("b", f"i{n}", n) for n in range(9)] + [("c", "x", 3)]
    slates = [
        ("a", 5, ["i0", "i1"], -1),
        ("a", 6, ["i0", "x"], -1),
        ("a", 6, ["y", "x"], -1),
        ("c", 1, ["i1", "i2"], -1),
    ]
    config = FeaturesConfig(split="leave_one_out", target_user_share=0.0)
    dataset = tokenise(tables(events, domains=domains, slates=slates), config, seed=0).dataset
    assert dataset.slates is not None
    kept, dropped = len(dataset.slates.user_S), dataset.info["dropped"]
    assert (kept, dropped["slates_of_other_domains"], dropped["slates_of_users_of_other_domains"]) == (2, 2, 0)
    assert set(dataset.users) == {"a", "b", "c"}
