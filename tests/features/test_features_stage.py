"""The stage as a whole: from a raw log to a dataset on disk."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recolam.contracts.artifact import Artifact
from recolam.contracts.config import from_mapping
from recolam.contracts.dataset import FIRST_ITEM, TRAIN, UNKNOWN, TokenisedDataset
from recolam.contracts.home import Home
from recolam.errors import ArtifactError, ConfigError, DataError
from recolam.features.config import FeaturesConfig
from recolam.features.tokenise import tokenise
from tests.features.support import features, ingest, tables


def write_log(path: Path, *, events: int = 200, order: str = "time") -> Path:
    rng = np.random.default_rng(0)
    rows = [f"u{n % 9},i{rng.integers(0, 30)},{n},{n % 5}" for n in range(events)]
    path.write_text("\n".join([f"user,item,{order},value", *rows]) + "\n")
    return path


def test_dataset_on_disk_is_the_one_that_was_made(tmp_path: Path, home: Home) -> None:
    ingested = ingest(home, write_log(tmp_path / "log.csv"))
    artifact = features(home, ingested)
    dataset = TokenisedDataset.load(artifact.path)
    metrics = artifact.metrics
    assert sorted(artifact.manifest["files"]) == ["dataset.json", "tokens.safetensors"]
    assert (metrics["dataset"], metrics["domain"], metrics["split"], metrics["clock"]) == (
        "log", "main", "temporal", "time",
    )  # fmt: skip
    counts = metrics["counts"]
    assert counts["rows"] == counts["events"] == len(dataset.event_item_E) == 200
    assert counts["train_events"] + counts["validation_events"] + counts["test_events"] == 200
    assert metrics["items"] == len(dataset.items) == len(dataset.titles)
    assert metrics["users"] == len(dataset.users) == 9
    assert not metrics["has_slates"]
    assert dataset.info["cut_times"] == metrics["cut_times"] == [160, 180]
    assert dataset.item_text_VF.shape == (dataset.tokens, 128)
    assert not dataset.item_text_VF[:FIRST_ITEM].any()
    assert dataset.item_count_V.sum() == counts["train_events"]


def test_same_seed_same_artifact_other_seed_other_order(tmp_path: Path, home: Home) -> None:
    ingested = ingest(home, write_log(tmp_path / "log.csv"))
    one = features(home, ingested, seed=1, key="one")
    again = features(home, ingested, seed=1, key="again")
    other = features(home, ingested, seed=2, key="other")
    assert one.digest == again.digest
    assert one.json("dataset.json")["items"] != other.json("dataset.json")["items"]
    assert sorted(one.json("dataset.json")["items"]) == sorted(other.json("dataset.json")["items"])


def test_tables_are_read_at_the_recorded_version(tmp_path: Path, home: Home) -> None:
    ingested = ingest(home, write_log(tmp_path / "log.csv"))
    before = features(home, ingested, key="before")
    (tmp_path / "more").mkdir()
    ingest(home, write_log(tmp_path / "more" / "log2.csv", events=400), name="log")
    assert features(home, ingested, key="after").digest == before.digest


def test_missing_tables_are_an_artifact_error(tmp_path: Path, home: Home) -> None:
    ingested = ingest(home, write_log(tmp_path / "log.csv"))
    with pytest.raises(ArtifactError, match="interactions: no Delta table at version 0"):
        features(Home(tmp_path / "elsewhere"), ingested)


def test_positions_are_split_by_leave_one_out_only(tmp_path: Path, home: Home) -> None:
    ingested = ingest(home, write_log(tmp_path / "log.csv", order="position"))
    assert features(home, ingested).metrics["split"] == "leave_one_out"
    with pytest.raises(ConfigError, match="'temporal' needs a log with a clock"):
        features(home, ingested, split="temporal", key="two")
    assert not (home.runs / "features" / "two").exists()


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ([("a", "x", 0), ("a", "y", 1), ("a", "z", 2)], "1 users"),
        ([("a", "x", 5), ("b", "y", 5), ("b", "x", 5)], "0 items with events in train"),
        ([*(("ab"[n % 2], "x", n) for n in range(8)), ("a", "y", 8), ("b", "y", 9)], "1 items with events in train"),
        ([(f"u{n}", f"i{n % 3}", n) for n in range(30)], "0 users with an event to validate on"),
    ],
)
def test_too_little_to_learn_from(events: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        tokenise(tables(events), FeaturesConfig(), seed=0)
    assert "dataset 'small', domain 'main'" in str(error.value)


@pytest.mark.parametrize(
    "values",
    [
        {"split": "random"},
        {"validation_fraction": 0.0},
        {"validation_fraction": 0.5, "test_fraction": 0.5},
        {"target_user_share": -0.1},
        {"min_user_events": 1},
        {"text_features": 0},
        {"texts": 5},
    ],
)
def test_config_refuses_what_makes_no_sense(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        from_mapping(FeaturesConfig, values, where="features")


def test_unknown_items_are_counted_as_targets_and_kept_in_histories() -> None:
    events = [(user, f"i{n}", n) for user in "ab" for n in range(8)] + [("a", "new", 9), ("a", "new2", 10)]
    dataset = tokenise(tables(events), FeaturesConfig(), seed=0, cuts=(7, 8)).dataset
    assert dataset.info["counts"]["test_unknown_targets"] == 1
    assert dataset.info["counts"]["validation_unknown_targets"] == 2
    query = int(dataset.test_event_Q[0])
    assert dataset.event_item_E[query] == UNKNOWN
    assert dataset.event_item_E[query - 1] == UNKNOWN
    assert UNKNOWN not in dataset.event_item_E[dataset.event_split_E == TRAIN]


def test_values_are_kept_and_absent_ones_are_nan(tmp_path: Path, home: Home) -> None:
    path = tmp_path / "log.csv"
    rows = [f"u{n % 3},i{n % 4},{n},{'' if n == 0 else n / 4}" for n in range(40)]
    path.write_text("\n".join(["user,item,time,value", *rows]) + "\n")
    dataset = TokenisedDataset.load(features(home, ingest(home, path)).path)
    by_time = dict(zip(dataset.event_time_E.tolist(), dataset.event_value_E.tolist(), strict=True))
    assert np.isnan(by_time.pop(0))
    assert by_time == {n: n / 4 for n in range(1, 40)}


@pytest.fixture(scope="module")
def real_log(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Home, Artifact]]:
    """Ingests a real log once."""
    home = Home(tmp_path_factory.mktemp("home"))
    return cache(lambda name: (home, ingest(home, shared_data / name)))


@pytest.mark.parametrize(
    ("name", "domain", "split"),
    [
        ("ml-100k.zip", "main", "temporal"),
        pytest.param("ml-1m.zip", "main", "temporal", marks=pytest.mark.slow),
        pytest.param("ml-1m.zip", "children", "temporal", marks=pytest.mark.slow),
        ("ml-latest-small.zip", None, "leave_one_out"),
        ("amazon-beauty", None, "auto"),
    ],
)
def test_real_logs(real_log: Callable[[str], tuple[Home, Artifact]], name: str, domain: str | None, split: str) -> None:
    home, ingested = real_log(name)
    artifact = features(home, ingested, domain=domain, split=split)
    counts, dropped = artifact.metrics["counts"], artifact.metrics["dropped"]
    dataset = TokenisedDataset.load(artifact.path)
    assert counts["rows"] == ingested.metrics["rows"]
    assert counts["events"] + sum(n for why, n in dropped.items() if why.startswith("events")) == counts["rows"]
    assert len(dataset.users) + dropped["users_of_other_domains"] == ingested.metrics["users"]
    if artifact.metrics["split"] == "temporal":
        assert abs(counts["train_events"] / counts["events"] - 0.8) < 0.01
        assert abs(counts["test_events"] / counts["events"] - 0.1) < 0.01
    else:
        assert counts["test_queries"] == len(dataset.users)
    histories_QT, length_Q = dataset.histories(dataset.test_event_Q, limit=20)
    assert (length_Q >= 1).all()
    assert ((histories_QT > 0).sum(axis=1) == length_Q).all()
