"""`ties`: events of one user and time by hash, by their row in the file, or by item id."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recolam.contracts.artifact import Artifact
from recolam.contracts.config import from_mapping
from recolam.contracts.dataset import TokenisedDataset
from recolam.contracts.home import Home
from recolam.errors import ConfigError
from recolam.features.config import FeaturesConfig
from recolam.features.tokenise import tokenise
from recolam.logs import store
from tests.features.support import Event, features, ingest, tables

Log = list[tuple[str, str, int]]


def tied_rows(users: int = 40) -> Log:
    """Every user has ten items with numbers as ids at two times, in an order that follows neither ids nor times."""
    rng = np.random.default_rng(0)
    rows = [(f"u{user}", str(item), half) for user in range(users) for half in (1, 2)
            for item in rng.choice(120, 5, replace=False)]  # fmt: skip
    return [rows[place] for place in rng.permutation(len(rows))]


def write(path: Path, rows: Log) -> Path:
    path.write_text("\n".join(["user,item,time", *(f"{user},{item},{second}" for user, item, second in rows)]) + "\n")
    return path


def events_of(artifact: Artifact) -> dict[str, list[tuple[str, int]]]:
    """Each user's (item, time), as the dataset has them."""
    dataset = TokenisedDataset.load(artifact.path)
    names = ("", "", "?", *dataset.items)
    bounds = list(pairwise(dataset.user_offset_U1))
    return {
        user: [(names[dataset.event_item_E[event]], int(dataset.event_time_E[event])) for event in range(*bounds[row])]
        for row, user in enumerate(dataset.users)
    }


def test_file_order_is_that_of_the_source(tmp_path: Path, home: Home) -> None:
    rows = tied_rows()
    made = events_of(
        features(home, ingest(home, write(tmp_path / "log.csv", rows)), split="leave_one_out", ties="file")
    )
    for user, events in made.items():
        in_file = sorted(((item, second) for who, item, second in rows if who == user), key=lambda event: event[1])
        known = [(item, second) for item, second in in_file]
        assert [(one if one[0] != "?" else other) for one, other in zip(events, known, strict=True)] == known
    assert len(made) == 40


def test_item_order_is_by_number_and_then_by_text(tmp_path: Path, home: Home) -> None:
    rows = [(user, item, 5) for item in ("10", "b", "9", "a", "100", "7") for user in ("u", "v", "w")]
    made = events_of(
        features(home, ingest(home, write(tmp_path / "log.csv", rows)), split="leave_one_out", ties="item")
    )
    assert [item for item, _ in made["u"]][:4] == ["7", "9", "10", "100"]
    dataset = TokenisedDataset.load(home.runs / "features" / "one")
    assert dataset.info["ties"] == "item"


def test_times_come_before_ties_and_the_default_is_the_hash(tmp_path: Path, home: Home) -> None:
    ingested = ingest(home, write(tmp_path / "log.csv", tied_rows()))
    made = {
        name: features(home, ingested, key=name, split="leave_one_out", **({"ties": name} if name != "default" else {}))
        for name in ("default", "hash", "file", "item")
    }
    orders = {name: events_of(artifact) for name, artifact in made.items()}
    assert orders["default"] == orders["hash"]
    assert len({str(order) for order in orders.values()}) == 3
    for order in orders.values():
        assert all(one[1] <= two[1] for events in order.values() for one, two in pairwise(events))


def test_row_numbers_are_no_part_of_a_rows_identity(tmp_path: Path, home: Home) -> None:
    rows = tied_rows()
    first = ingest(home, write(tmp_path / "log.csv", rows))
    (tmp_path / "again").mkdir()
    ingest(home, write(tmp_path / "again" / "log.csv", rows[::-1]), name="log")
    assert store.version(home, "log", "interactions") == 0
    assert store.read(home, "log", "interactions").height == first.metrics["rows"] == len(rows)


def test_files_of_one_dataset_follow_each_other(tmp_path: Path, home: Home) -> None:
    """Rows that came later stand behind those that came first, whatever their numbers."""
    ingest(home, write(tmp_path / "log.csv", [(user, item, 1) for item in "dcb" for user in ("u", "v")]))
    later = ingest(
        home, write(tmp_path / "more.csv", [(user, item, 1) for item in "af" for user in ("u", "v")]), name="log"
    )
    made = events_of(features(home, later, split="leave_one_out", ties="file"))
    assert [item for item, _ in made["u"]][:3] == ["d", "c", "b"]


def test_tables_without_row_numbers_are_read_but_have_no_file_order() -> None:
    events: list[Event] = [(user, item, int(item)) for user in "abc" for item in "12345"]
    old = tables(events)
    assert "source_row" not in old.interactions.columns
    for ties in ("hash", "item"):
        config = from_mapping(FeaturesConfig, {"split": "leave_one_out", "ties": ties}, where="features")
        assert tokenise(old, config, seed=0).dataset.info["counts"]["events"] == 15
    config = FeaturesConfig(split="leave_one_out", ties="file")
    with pytest.raises(ConfigError, match=r"dataset 'small'.*ingest the log again"):
        tokenise(old, config, seed=0)
    half = pl.when(pl.col("user_id") == "a").then(1).alias("source_row")
    with pytest.raises(ConfigError, match="ingest the log again"):
        tokenise(replace(old, interactions=old.interactions.with_columns(half)), config, seed=0)


def test_other_orders_are_refused() -> None:
    with pytest.raises(ConfigError, match="'hash', 'file', 'item'"):
        from_mapping(FeaturesConfig, {"ties": "id"}, where="features")
