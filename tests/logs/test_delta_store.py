"""Appends are idempotent, and two writers at once lose nothing."""

import hashlib
import multiprocessing
import time
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from recolam.contracts.home import Home
from recolam.errors import ArtifactError, ConfigError, DataError
from recolam.logs import store
from recolam.logs.clean import row_ids
from tests.logs.support import append_in_pieces, good_rows, ingest, write_csv


def versions(home: Home, dataset: str) -> dict[str, int | None]:
    return {table: store.version(home, dataset, table) for table in store.TABLES}


def test_same_file_twice_changes_nothing(tmp_path: Path, home: Home) -> None:
    path = write_csv(tmp_path / "log.csv", [*good_rows(), "u1,,3,3"])
    first = ingest(home, path, quarantine_budget=0.1)
    before, rows = versions(home, "log"), store.read(home, "log", "interactions")
    second = ingest(home, path, quarantine_budget=0.1)
    assert versions(home, "log") == before == {"interactions": 0, "items": 0, "slates": None, "quarantine": 0}
    assert store.read(home, "log", "interactions").equals(rows)
    assert first.digest == second.digest


def test_overlapping_file_appends_only_what_is_new(tmp_path: Path, home: Home) -> None:
    rows = good_rows(30)
    ingest(home, write_csv(tmp_path / "one.csv", rows[:20]), name="log")
    second = ingest(home, write_csv(tmp_path / "two.csv", list(reversed(rows[10:]))), name="log")
    table = store.read(home, "log", "interactions")
    assert table.height == 30
    assert table["row_id"].n_unique() == 30
    assert store.version(home, "log", "interactions") == 1
    assert second.metrics["rows"] == 20
    assert second.json("tables.json")["interactions"]["rows"] == 30


def test_two_clocks(tmp_path: Path, home: Home) -> None:
    rows = good_rows(30)
    ingest(home, write_csv(tmp_path / "one.csv", rows[10:]), name="log")
    between = datetime.now(UTC)
    time.sleep(0.002)
    ingest(home, write_csv(tmp_path / "two.csv", rows), name="log")
    assert store.read(home, "log", "interactions", as_of=between).height == 20
    assert store.read(home, "log", "interactions", as_of=datetime.now(UTC)).height == 30
    assert store.read(home, "log", "interactions", as_of=datetime(2000, 1, 1, tzinfo=UTC)).height == 0
    assert store.read(home, "log", "interactions", version=0).height == 20
    late = store.read(home, "log", "interactions").filter(pl.col("ingested_at") > between)
    assert late["event_time"].max() < store.read(home, "log", "interactions", version=0)["event_time"].min()  # type: ignore[operator]


def test_two_writers_at_once_lose_and_double_nothing(tmp_path: Path, home: Home) -> None:
    """The first hundred rows are in both files, and both writers bring them at the same moments."""
    rows = good_rows(300)
    paths = [write_csv(tmp_path / f"{n}.csv", rows[:100] + rows[n * 100 : n * 100 + 100]) for n in (1, 2)]
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    writers = [
        context.Process(target=append_in_pieces, args=(home.root, path, tmp_path / path.stem, barrier))
        for path in paths
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(timeout=120)
    assert [writer.exitcode for writer in writers] == [0, 0]
    table = store.read(home, "log", "interactions")
    assert table.height == table["row_id"].n_unique() == 300


def test_half_done_append_is_completed_by_the_next(tmp_path: Path, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_csv(tmp_path / "log.csv", good_rows())
    real = store._append_new

    def dies_before_interactions(table: Path, frame: pl.DataFrame, *, clock: str) -> None:
        if table.name == "interactions":
            raise KeyboardInterrupt
        real(table, frame, clock=clock)

    monkeypatch.setattr(store, "_append_new", dies_before_interactions)
    with pytest.raises(KeyboardInterrupt):
        ingest(home, path)
    assert versions(home, "log") == {"interactions": None, "items": 0, "slates": None, "quarantine": None}
    monkeypatch.undo()
    ingest(home, path)
    assert versions(home, "log") == {"interactions": 0, "items": 0, "slates": None, "quarantine": None}


def test_clocks_do_not_mix(tmp_path: Path, home: Home) -> None:
    ingest(home, write_csv(tmp_path / "a.csv", good_rows()), name="log")
    other = write_csv(tmp_path / "b.csv", ["a,x,0", "b,y,0"], header="user,item,position\n")
    with pytest.raises(DataError, match="clock=time, these have clock=position"):
        ingest(home, other, name="log")
    assert versions(home, "log")["interactions"] == 0


def test_missing_tables_and_versions_are_named(tmp_path: Path, home: Home) -> None:
    with pytest.raises(ArtifactError, match="interactions: no Delta table"):
        store.read(home, "log", "interactions")
    ingest(home, write_csv(tmp_path / "log.csv", good_rows()))
    with pytest.raises(ArtifactError, match="no Delta table at version 7"):
        store.read(home, "log", "interactions", version=7)
    with pytest.raises(ConfigError, match=r"\.\./log"):
        store.read(home, "../log", "interactions")


def test_row_ids_tell_contents_apart() -> None:
    frame = pl.DataFrame(
        {"a": ["x", "x1", None, "", "x"], "b": ["1x", "x", "x", "x", "1x"], "c": [1.0, 1.0, 1, 1, None]}
    )
    assert row_ids(frame).n_unique() == 5
    lists = pl.DataFrame({"tags": [["a", "b"], ["a b"], ["a"], [], ["1:a"]]})
    assert row_ids(lists).n_unique() == 5
    assert row_ids(frame[:1]).to_list() == [hashlib.blake2b(b"1:x 2:1x 3:1.0", digest_size=16).hexdigest()]
