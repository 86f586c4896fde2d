"""Every bad row is set aside under its rule; too many of them, and nothing is written."""

import json
import math
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from recolam.contracts.home import Home
from recolam.errors import DataError
from recolam.logs import store
from tests.logs.support import EVENTS, good_rows, ingest, native_folder, write_csv

BAD_EVENTS = {
    "row_not_readable": "u1,i1,1500,3,what",
    "user_missing": ",i1,1500,3",
    "item_missing": "u1,nan,1500,3",
    "time_missing": "u1,i1,,3",
    "time_not_a_number": "u1,i1,soon,3",
    "time_negative": "u1,i1,-5,3",
    "time_absurd": "u1,i1,978300760000,3",
    "value_not_a_number": "u1,i1,1500,good",
    "value_not_finite": "u1,i1,1500,NaN",
    "duplicate": "u0,i0,1000,1",
}


@pytest.mark.parametrize("rule", sorted(BAD_EVENTS))
def test_bad_event_is_quarantined(tmp_path: Path, home: Home, rule: str) -> None:
    rows = good_rows()
    path = write_csv(tmp_path / "log.csv", [*rows[:7], BAD_EVENTS[rule], *rows[7:]])
    artifact = ingest(home, path, quarantine_budget=0.1)
    quality = artifact.json("quality.json")
    assert quality["rules"] == {rule: 1}
    assert (quality["rows_read"], quality["rows"], quality["quarantined"]) == (21, 20, 1)
    row = store.read(home, "log", "quarantine").row(0, named=True)
    assert (row["source"], row["source_row"], row["rule"]) == ("log.csv", 8, rule)
    cells = (cell or None for cell in BAD_EVENTS[rule].split(","))
    assert json.loads(row["row_json"]) == dict(zip(EVENTS.strip().split(","), cells, strict=False))
    kept = store.read(home, "log", "interactions")
    assert sorted(kept["source_row"].to_list()) == [n for n in range(1, 22) if n != 8]


def test_row_that_breaks_several_rules_is_counted_once(tmp_path: Path, home: Home) -> None:
    path = write_csv(tmp_path / "log.csv", [*good_rows(), ",i1,-3,x"])
    assert ingest(home, path, quarantine_budget=0.1).json("quality.json")["rules"] == {"user_missing": 1}


def test_duplicate_of_a_bad_row_does_not_hide_a_good_one(tmp_path: Path, home: Home) -> None:
    path = write_csv(tmp_path / "log.csv", ["u9,i1,1500,3,what", "u9,i1,1500,3", *good_rows()])
    quality = ingest(home, path, quarantine_budget=0.1).json("quality.json")
    assert quality["rules"] == {"row_not_readable": 1}
    assert quality["rows"] == 21


def test_times_may_be_iso_dates_or_fractions(tmp_path: Path, home: Home) -> None:
    rows = ["a,x,2001-01-01T00:00:00Z,1", "b,y,2001-01-01 01:00:00+01:00,1", "b,z,978307200.25,1"]
    ingest(home, write_csv(tmp_path / "log.csv", rows))
    times = store.read(home, "log", "interactions").sort("source_row")["event_time"].dt.timestamp("us").to_list()
    assert times == [978_307_200_000_000, 978_307_200_000_000, 978_307_200_250_000]


def test_position_must_be_whole(tmp_path: Path, home: Home) -> None:
    path = write_csv(tmp_path / "log.csv", ["a,x,0", "b,y,0", "b,z,1.5"], header="user,item,position\n")
    quality = ingest(home, path, quarantine_budget=0.5).json("quality.json")
    assert quality["rules"] == {"time_not_a_number": 1}
    assert quality["clock"] == "position"


def test_over_budget_names_the_first_bad_row_and_writes_nothing(tmp_path: Path, home: Home) -> None:
    rows = good_rows(100)
    path = write_csv(tmp_path / "log.csv", [*rows[:50], "u1,i1,soon,3", *rows[50:], "u1,,5,3"])
    with pytest.raises(DataError) as error:
        ingest(home, path)
    message = str(error.value)
    for part in (str(path), "2 of 102 rows", "1.96%", "log.csv, row 51", "column timestamp", "value 'soon'"):
        assert part in message
    assert '{"item_missing": 1, "time_not_a_number": 1}' in message
    assert error.value.exit_code == 2
    assert not home.feature_store.exists()
    assert not list(home.runs.rglob("manifest.json"))


def test_budget_is_a_share_of_the_rows(tmp_path: Path, home: Home) -> None:
    path = write_csv(tmp_path / "log.csv", [*good_rows(99), "u1,i1,soon,3"])
    assert ingest(home, path, quarantine_budget=0.01).metrics["quarantined"] == 1
    with pytest.raises(DataError, match="1 of 100 rows"):
        ingest(home, path, quarantine_budget=0.0099)


def test_milliseconds_get_a_hint(tmp_path: Path, home: Home) -> None:
    path = write_csv(tmp_path / "log.csv", ["a,x,978300760000,1", "b,y,978300760001,1"])
    with pytest.raises(DataError, match="milliseconds"):
        ingest(home, path)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "the log is empty"),
        (["a,x,1,1", "a,y,2,1", "a,z,3,1"], "has 1 users; at least 2"),
        (["a,x,1,1", "b,x,2,1", "c,x,3,1"], "has 1 items; at least 2"),
    ],
)
def test_log_too_small(tmp_path: Path, home: Home, rows: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        ingest(home, write_csv(tmp_path / "log.csv", rows))
    assert not home.feature_store.exists()


def test_empty_dat_and_jsonl(tmp_path: Path, home: Home) -> None:
    (tmp_path / "ml").mkdir()
    for path in (tmp_path / "ml" / "ratings.dat", tmp_path / "log.jsonl"):
        path.write_text("\n")
    for data in (tmp_path / "ml", tmp_path / "log.jsonl"):
        with pytest.raises(DataError, match="the log is empty"):
            ingest(home, data)


BAD_SLATES: dict[str, dict[str, list[Any]]] = {
    "slate_missing": {"slate_id": ["s1", None]},
    "user_missing": {"user_id": ["a", ""]},
    "session_not_whole": {"session_id": [7.0, 7.5]},
    "step_not_whole": {"step": [0, -1]},
    "time_not_a_number": {"event_time": ["100", "later"]},
    "time_negative": {"event_time": [100, -200]},
    "time_absurd": {"event_time": [100, 10**12]},
    "items_missing": {"items": [["x", "y"], []]},
    "items_repeated": {"items": [["x", "y"], ["y", "y"]]},
    "item_not_in_catalogue": {"items": [["x", "y"], ["y", "q"]]},
    "propensity_not_a_number": {"log_propensity": [-0.25, -math.inf]},
    "propensity_positive": {"log_propensity": [-0.25, 0.5]},
    "choice_outside_slate": {"choice": [0, 2]},
    "reward_not_a_number": {"reward": [1.0, math.nan]},
    "left_not_a_flag": {"left": ["true", "perhaps"]},
    "duplicate": {"slate_id": ["s1", "s1"]},
}


@pytest.mark.parametrize("rule", sorted(BAD_SLATES))
def test_bad_slate_is_quarantined(tmp_path: Path, home: Home, rule: str) -> None:
    folder = native_folder(tmp_path / "world", slates=BAD_SLATES[rule])
    quality = ingest(home, folder, quarantine_budget=0.5).json("quality.json")
    assert quality["rules"] == {rule: 1}
    assert quality["tables"]["slates"] == {"read": 2, "kept": 1, "quarantined": 1}
    assert store.read(home, "world", "slates")["slate_id"].to_list() == ["s1"]
    assert store.read(home, "world", "quarantine")["source"].to_list() == ["world/slates.parquet"]
    with pytest.raises(DataError, match="1 of 2 rows"):
        ingest(home, folder, name="again")
    assert not (home.feature_store / "again").exists()


def test_good_slates_are_kept_exactly(tmp_path: Path, home: Home) -> None:
    ingest(home, native_folder(tmp_path / "world"))
    first, second = store.read(home, "world", "slates").sort("slate_id").rows(named=True)
    assert (first["items"], first["log_propensity"], first["choice"], first["left"]) == (["x", "y"], -0.25, 0, False)
    assert (second["session_id"], second["step"], second["reward"], second["left"]) == (7, 1, 0.0, True)


def test_catalogue_rows_are_made_kept_and_quarantined(tmp_path: Path, home: Home) -> None:
    (tmp_path / "log").mkdir()
    write_csv(tmp_path / "log" / "interactions.csv", good_rows())
    items = ["i0,Zero,a|b,Kids & Co", "i1,One,,", "i1,Other,,", "i0,Zero,a|b,Kids & Co", ",None,,", "extra,E,e,"]
    write_csv(tmp_path / "log" / "items.csv", items, header="item_id,title,tags,domain\n")
    quality = ingest(home, tmp_path / "log", quarantine_budget=0.5).json("quality.json")
    assert quality["rules"] == {"duplicate": 1, "item_missing": 1, "item_repeated": 1}
    assert quality["domains"].keys() == {"kids-co", "main"}
    table = store.read(home, "log", "items").sort("item_id").select("item_id", "title", "tags", "domain")
    assert table.rows()[:3] == [
        ("extra", "E", ["e"], "main"),
        ("i0", "Zero", ["a", "b"], "kids-co"),
        ("i1", "One", [], "main"),
    ]
    assert table["item_id"].to_list()[3:] == ["i2", "i3", "i4"]
    assert set(table["title"][3:]) == {""}


def test_mapped_attributes_make_the_catalogue(tmp_path: Path, home: Home) -> None:
    header = "user,item,time,title,tags,domain\n"
    path = write_csv(tmp_path / "log.csv", ["a,x,1,,,", "b,x,2,Late,p|q,D1", "b,y,3,,,D2"], header=header)
    ingest(home, path)
    table = store.read(home, "log", "items").sort("item_id").select("item_id", "title", "tags", "domain")
    assert table.rows() == [("x", "Late", ["p", "q"], "d1"), ("y", "", [], "d2")]


def test_domain_without_latin_letters_keeps_a_name_of_its_own(tmp_path: Path, home: Home) -> None:
    path = write_csv(tmp_path / "log.csv", ["a,x,1,书", "b,y,2,歌"], header="user,item,time,domain\n")
    ingest(home, path)
    domains = store.read(home, "log", "items")["domain"]
    assert domains.n_unique() == 2
    assert domains.str.starts_with("domain-").all()


def test_rows_are_conserved(tmp_path: Path, home: Home) -> None:
    bad = list(BAD_EVENTS.values())
    path = write_csv(tmp_path / "log.csv", [*good_rows(), *bad])
    quality = ingest(home, path, quarantine_budget=0.5).json("quality.json")
    numbers = pl.concat([store.read(home, "log", table)["source_row"] for table in ("interactions", "quarantine")])
    assert sorted(numbers.to_list()) == list(range(1, 20 + len(bad) + 1))
    assert quality["rows_read"] == quality["rows"] + quality["quarantined"] == 20 + len(bad)
    assert sum(quality["rules"].values()) == quality["quarantined"]
