"""The stage as a whole: its files, its metrics, its fingerprint."""

import json
import shutil
from pathlib import Path

import pytest

from recolam.contracts.artifact import Artifact, build_artifact
from recolam.contracts.config import from_mapping
from recolam.contracts.home import Home
from recolam.errors import ArtifactError, ConfigError, DataError
from recolam.logs import store
from recolam.logs.stage import IngestConfig, dataset_name, fingerprint, is_intact
from tests.logs.support import good_rows, ingest, native_folder, write_csv


def test_files_and_metrics(tmp_path: Path, home: Home) -> None:
    artifact = ingest(home, native_folder(tmp_path / "World 1"))
    assert artifact.metrics == {
        "name": "world-1",
        "format": "recolam",
        "clock": "time",
        "rows": 3,
        "users": 2,
        "items": 2,
        "quarantined": 0,
        "domains": {"video": {"rows": 3, "users": 2, "items": 2}},
        "has_slates": True,
    }
    tables = artifact.json("tables.json")
    assert {name: (entry["path"], entry["version"], entry["rows"]) for name, entry in tables.items()} == {
        "interactions": ("feature_store/world-1/interactions", 0, 3),
        "items": ("feature_store/world-1/items", 0, 3),
        "slates": ("feature_store/world-1/slates", 0, 2),
    }


def test_artifact_holds_no_clock(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "log.csv", good_rows())
    assert ingest(Home(tmp_path / "a"), path).digest == ingest(Home(tmp_path / "b"), path).digest


def test_intact_until_the_tables_go(tmp_path: Path, home: Home) -> None:
    artifact = ingest(home, write_csv(tmp_path / "log.csv", good_rows()))
    assert is_intact(artifact, home)
    data_file = next((home.feature_store / "log" / "interactions").glob("*.parquet"))
    ingest(home, write_csv(tmp_path / "more.csv", good_rows(40)), name="log")
    assert is_intact(artifact, home)
    content = data_file.read_bytes()
    data_file.unlink()
    assert not is_intact(artifact, home)
    data_file.write_bytes(content)
    shutil.rmtree(home.feature_store / "log" / "items")
    assert not is_intact(artifact, home)


def test_fingerprint_follows_the_content(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "log.csv", good_rows())
    before = fingerprint(IngestConfig(data=str(path)))
    assert (before["name"], before["format"], list(before["sources"])) == ("log", "csv", ["log.csv"])
    assert fingerprint(IngestConfig(data=str(path), format="csv")) == before
    write_csv(path, good_rows(21))
    assert fingerprint(IngestConfig(data=str(path))) != before
    assert json.dumps(before)


def test_fingerprint_of_a_folder_reads_only_the_logs(tmp_path: Path) -> None:
    folder = native_folder(tmp_path / "world")
    before = fingerprint(IngestConfig(data=str(folder)))
    (folder / "notes.txt").write_text("nothing to do with it")
    assert fingerprint(IngestConfig(data=str(folder))) == before
    assert sorted(before["sources"]) == ["interactions.parquet", "items.parquet", "slates.parquet"]


@pytest.mark.parametrize(
    ("data", "name", "expected"),
    [("x/ML-1M.zip", None, "ml-1m"), ("My Log.csv.gz", None, "my-log"), ("d", "given_1", "given_1")],
)
def test_dataset_names(data: str, name: str | None, expected: str) -> None:
    assert dataset_name(IngestConfig(data=data, name=name)) == expected


def test_unsafe_names_are_refused(tmp_path: Path, home: Home) -> None:
    path = write_csv(tmp_path / "log.csv", good_rows())
    with pytest.raises(ConfigError, match=r"\.\./x"):
        ingest(home, path, name="../x")
    assert not home.feature_store.exists()


def test_config_refuses_unknown_keys_and_shares() -> None:
    with pytest.raises(ConfigError, match="unknown key 'foramt'"):
        from_mapping(IngestConfig, {"data": "x", "foramt": "csv"}, where="ingest")
    with pytest.raises(ConfigError, match=r"1\.5"):
        IngestConfig(data="x", quarantine_budget=1.5)
    mapping = {"user": "u", "item": "i", "time": "t"}
    config = from_mapping(IngestConfig, {"data": "x", "mapping": mapping}, where="ingest")
    assert config.mapping is not None
    assert config.mapping.time == "t"


def test_missing_file_is_the_users_error(tmp_path: Path, home: Home) -> None:
    with pytest.raises(DataError, match=r"none\.zip: no such file") as error:
        ingest(home, tmp_path / "none.zip")
    assert error.value.exit_code == 2
    with pytest.raises(DataError, match=r"none\.zip: no such file"):
        fingerprint(IngestConfig(data=str(tmp_path / "none.zip")))


def _demo(home: Home, folder: Path, seed: int) -> Artifact:
    def build(draft: object) -> dict[str, int]:
        native_folder(draft.folder)  # type: ignore[attr-defined]
        return {}

    return build_artifact(folder, stage="demo", config={}, parents={}, seed=seed, build=build)


def test_demo_logs_come_from_the_demo_artifact(tmp_path: Path, home: Home) -> None:
    one, two = (_demo(home, tmp_path / str(seed), seed) for seed in (1, 2))
    first = ingest(home, "demo", inputs={"demo": one})
    second = ingest(home, "demo", inputs={"demo": two})
    assert first.metrics["name"] == second.metrics["name"] == "demo"
    paths = {artifact.json("tables.json")["slates"]["path"] for artifact in (first, second)}
    assert paths == {f"feature_store/demo-{demo.digest[:8]}/slates" for demo in (one, two)}
    assert store.read(home, f"demo-{one.digest[:8]}", "slates").height == 2
    assert fingerprint(IngestConfig(data="demo")) == {"name": "demo", "format": "recolam", "sources": {}}
    with pytest.raises(ArtifactError, match="needs the demo artifact"):
        ingest(home, "demo")
