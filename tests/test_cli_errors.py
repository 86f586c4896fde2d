"""Wrong input on the command line: a named error in one line, exit code 2 or 3, and nothing left behind."""

import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest

from recolam import pipeline
from recolam.contracts.home import Home
from recolam.tracking import client
from tests.conftest import FinishedRun, Outcome, run_recolam
from tests.logs.support import good_rows, native_folder, write_csv

Recolam = Callable[..., Outcome]


def refused(outcome: Outcome, code: int, error: str, *parts: str | Path) -> None:
    """The command ended with this code, and one line with this error that says all these things."""
    assert outcome.code == code, outcome.err
    assert outcome.out == ""
    assert "Traceback" not in outcome.err
    lines = [line for line in outcome.err.splitlines() if line.startswith(f"{error}: ")]
    assert len(lines) == 1, outcome.err
    assert lines[0] == outcome.err.splitlines()[-1]
    for part in parts:
        assert str(part) in lines[0]


def nothing_in(root: Path) -> bool:
    """No artifact, draft, table or database: at most lock files and empty folders."""
    files = [path for path in root.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return files == list(root.rglob(".*.partial")) == []


# What a user can bring: name -> (makes the log and returns its path, config, what the message says).
BAD_LOGS: dict[str, tuple[Callable[[Path], Path], dict[str, Any], list[str]]] = {
    "missing file": (lambda f: f / "absent.csv", {}, ["absent.csv: no such file or folder"]),
    "missing folder": (lambda f: f / "absent", {}, ["absent: no such file or folder"]),
    "zip without ratings": (lambda f: zipped(f, {"readme.txt": "hello"}), {}, ["log.zip: holds no ratings", "readme"]),
    "zip that is none": (lambda f: text(f / "log.zip", "hello"), {}, ["log.zip: not a zip archive"]),
    "wrong column": (
        lambda f: write_csv(f / "log.csv", good_rows()),
        {"ingest": {"mapping": {"user": "user_id", "item": "item_id", "time": "when"}}},
        ["log.csv", "'when'"],
    ),
    "no user column": (
        lambda f: write_csv(f / "log.csv", ["1,2"], header="item,time\n"), {}, ["log.csv", "no column for the user"],
    ),
    "letters": (lambda f: spoiled(f, "u1,i1,soon,3"), {}, ["log.csv", "row 11", "timestamp", "'soon'"]),
    "NaN": (lambda f: spoiled(f, "u1,i1,1500,NaN"), {}, ["log.csv", "row 11", "rating", "'NaN'"]),
    "negative time": (lambda f: spoiled(f, "u1,i1,-5,3"), {}, ["log.csv", "row 11", "timestamp", "'-5'"]),
    "duplicate rows": (lambda f: spoiled(f, good_rows()[3]), {}, ["log.csv", "row 11", "duplicate"]),
    "empty log": (lambda f: write_csv(f / "log.csv", []), {}, ["log.csv", "the log is empty"]),
    "empty file": (lambda f: text(f / "log.csv", ""), {}, ["log.csv", "empty"]),
    "one user": (lambda f: write_csv(f / "log.csv", ["a,x,1,1", "a,y,2,1"]), {}, ["log.csv", "1 users; at least 2"]),
    "one item": (lambda f: write_csv(f / "log.csv", ["a,x,1,1", "b,x,2,1"]), {}, ["log.csv", "1 items; at least 2"]),
    "unknown item in a slate": (
        lambda f: native_folder(f / "log", slates={"items": [["x", "y"], ["y", "q"]]}),
        {},
        ["slates.parquet", "row 2", "item_not_in_catalogue", "'q'"],
    ),
}  # fmt: skip


def text(path: Path, content: str) -> Path:
    path.write_text(content)
    return path


def zipped(folder: Path, members: dict[str, str]) -> Path:
    with zipfile.ZipFile(folder / "log.zip", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return folder / "log.zip"


def spoiled(folder: Path, row: str) -> Path:
    """Twenty good rows and a bad one: past the budget of 1 %."""
    rows = good_rows()
    return write_csv(folder / "log.csv", [*rows[:10], row, *rows[10:]])


@pytest.mark.parametrize("name", BAD_LOGS)
@pytest.mark.parametrize("command", ["run", "ingest"])
def test_bad_logs_end_with_exit_code_2(tmp_path: Path, home: Home, recolam: Recolam, command: str, name: str) -> None:
    make, config, parts = BAD_LOGS[name]
    settings = config if command == "run" else config.get("ingest", {})
    options = [
        "--data",
        make(tmp_path),
        "--home",
        home.root,
        "--config",
        text(tmp_path / "c.json", json.dumps(settings)),
    ]
    refused(recolam(command, *options, "--preset", "tiny"), 2, "DataError", *parts)
    assert nothing_in(home.root)


BAD_SETTINGS: dict[str, tuple[list[str], str, list[str]]] = {
    "unknown key": (["--config", '{"pretrain": {"widht": 8}}'], "ConfigError", ["pretrain", "'widht'", "width"]),
    "unknown nested key": (["--config", '{"pretrain": {"training": {"x": 1}}}'], "ConfigError", ["training", "'x'"]),
    "unknown stage": (["--config", '{"training": {}}'], "ConfigError", ["'training'", "pretrain"]),
    "wrong type": (["--config", '{"world": {"horizon": "long"}}'], "ConfigError", ["world.horizon", "'long'"]),
    "no settings": (["--config", '{"world": 3}'], "ConfigError", ["world", "3"]),
    "out of range": (["--config", '{"ingest": {"quarantine_budget": 2}}'], "ConfigError", ["quarantine_budget 2"]),
    "half a mapping": (["--config", '{"ingest": {"mapping": {"user": "u"}}}'], "ConfigError", ["mapping", "'item'"]),
    "malformed JSON": (["--config", '{"pretrain": {"width": 8,}}'], "ConfigError", ["c.json", "line 1, column"]),
    "not JSON text": (["--config", "\udcff"], "ConfigError", ["c.json"]),
    "not an object": (["--config", "[1]"], "ConfigError", ["c.json", "object", "list"]),
    "unknown format": (["--data", "log.csv", "--format", "xls"], "ConfigError", ["'xls'", "csv"]),
    "negative seed": (["--seed", "-1"], "ConfigError", ["seed is -1"]),
    "unsafe name": (["--config", '{"ingest": {"name": "../x"}}', "--data", "log.csv"], "ConfigError", ["'../x'"]),
}


@pytest.mark.parametrize("name", BAD_SETTINGS)
def test_bad_settings_end_with_exit_code_2(tmp_path: Path, home: Home, recolam: Recolam, name: str) -> None:
    (option, value, *rest), error, parts = BAD_SETTINGS[name]
    if option == "--config":
        (tmp_path / "c.json").write_bytes(value.encode(errors="surrogateescape"))
        value = str(tmp_path / "c.json")
    refused(recolam("run", "--preset", "tiny", "--home", home.root, option, value, *rest), 2, error, *parts)
    assert nothing_in(home.root)


def test_a_config_file_that_is_not_there(tmp_path: Path, recolam: Recolam) -> None:
    refused(recolam("run", "--config", tmp_path / "c.json"), 2, "ConfigError", tmp_path / "c.json", "no such")


@pytest.mark.parametrize(("name", "part"), [("file", "is not a folder"), ("a#b", "contains ?, # or %")])
def test_a_home_that_cannot_be_one(tmp_path: Path, recolam: Recolam, name: str, part: str) -> None:
    text(tmp_path / "file", "")
    refused(recolam("run", "--home", tmp_path / name), 2, "ConfigError", tmp_path / name, part)
    assert not (tmp_path / "a#b").exists()


def test_unknown_settings_of_a_single_stage(tmp_path: Path, recolam: Recolam) -> None:
    path = text(tmp_path / "c.json", '{"widht": 8}')
    refused(recolam("pretrain", "--config", path), 2, "ConfigError", "pretrain", "'widht'")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["run", "--preset", "huge"], ["huge", "tiny"]),
        (["run", "--sede", "3"], ["--sede"]),
        (["run", "--seed", "three"], ["--seed"]),
        (["fly"], ["fly"]),
        (["recommend"], ["--history"]),
        (["recommend", "--history", "a", "--k", "0"], ["--k"]),
    ],
)
def test_wrong_usage_ends_with_exit_code_2(recolam: Recolam, arguments: list[str], parts: list[str]) -> None:
    outcome = recolam(*arguments)
    assert outcome.code == 2
    assert outcome.out == ""
    assert "Usage" in outcome.err
    assert "Traceback" not in outcome.err
    for part in parts:
        assert part in outcome.err


@pytest.mark.parametrize(
    ("inputs", "parts"),
    [
        ([], ["policy needs --input pretrain=PATH"]),
        (["pretrain"], ["'pretrain'", "pretrain, world, features"]),
        (["evaluate=x"], ["'evaluate=x'", "pretrain, world, features"]),
        (["features={features}", "features={features}"], ["'features="]),
        (["features={features}"], ["policy needs --input pretrain=PATH"]),
    ],
)
def test_wrong_inputs_of_a_stage(
    tiny_run: FinishedRun, home: Home, recolam: Recolam, inputs: list[str], parts: list[str]
) -> None:
    options = [option for text in inputs for option in ("--input", text.format(features=tiny_run.artifact("features")))]
    refused(recolam("policy", "--home", home.root, *options), 2, "ConfigError", *parts)
    assert nothing_in(home.root)


@contextmanager
def flipped(path: Path) -> Iterator[None]:
    """The file with one byte flipped, for as long as it takes."""
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    try:
        yield
    finally:
        path.write_bytes(content)


def test_a_flipped_byte_in_an_input_ends_with_exit_code_3(
    tiny_run: FinishedRun, tmp_path: Path, home: Home, recolam: Recolam
) -> None:
    shutil.copytree(tiny_run.artifact("features"), tmp_path / "features")
    path = tmp_path / "features" / "tokens.safetensors"
    with flipped(path):
        outcome = recolam("pretrain", "--input", f"features={path.parent}", "--home", home.root)
    refused(outcome, 3, "ArtifactError", f"{path}: changed since it was written")
    assert nothing_in(home.root)


@pytest.mark.parametrize("damage", ["half-written", "absent", "another stage", "pickle inside", "edited"])
def test_a_bad_input_ends_with_exit_code_3(
    tiny_run: FinishedRun, tmp_path: Path, home: Home, recolam: Recolam, damage: str
) -> None:
    copy = tmp_path / "input"
    if damage != "absent":
        shutil.copytree(tiny_run.artifact("world" if damage == "another stage" else "features"), copy)
    part = "input: no manifest.json: not an artifact, or half-written"
    if damage == "half-written":
        (copy / "manifest.json").unlink()
    elif damage == "another stage":
        part = "'world', not 'features'"
    elif damage == "pickle inside":
        part = str(text(copy / "cache.pkl", "harmless"))
    elif damage == "edited":
        manifest = json.loads((copy / "manifest.json").read_text())
        text(copy / "manifest.json", json.dumps(manifest | {"metrics": manifest["metrics"] | {"items": 1}}))
        part = "manifest.json: changed since it was written"
    refused(recolam("pretrain", "--input", f"features={copy}", "--home", home.root), 3, "ArtifactError", part)
    assert nothing_in(home.root)


def model_folder(home: Home, version: str = "1") -> Path:
    location = client(home).get_model_version_download_uri(pipeline.MODEL_NAME, version)
    return Path(url2pathname(urlsplit(location).path))


def test_a_model_folder_with_a_pickle_ends_with_exit_code_3(
    tiny_run: FinishedRun, tmp_path: Path, recolam: Recolam
) -> None:
    copy = tmp_path / "model"
    shutil.copytree(model_folder(tiny_run.home), copy)
    question = ["recommend", "--home", tiny_run.home.root, "--model", copy, "--history", ""]
    assert recolam(*question).code == 0
    for name in ("python_model.pkl", "artifacts/weights.bin"):
        path = text(copy / name, "harmless")
        refused(recolam(*question), 3, "ArtifactError", path, "pickle")
        path.unlink()


def test_a_registered_model_whose_file_was_changed_ends_with_exit_code_3(
    tiny_run: FinishedRun, recolam: Recolam
) -> None:
    folder = model_folder(tiny_run.home)
    question = ["recommend", "--home", tiny_run.home.root, "--model", f"models:/{pipeline.MODEL_NAME}/1"]
    for name in ("model.safetensors", "vocabulary.json", "manifest.json"):
        (path,) = folder.rglob(name)
        with flipped(path):
            refused(recolam(*question, "--history", "a"), 3, "ArtifactError", name)
    assert recolam(*question, "--history", "a").code == 0


def test_a_model_that_is_not_there_ends_with_exit_code_3(tiny_run: FinishedRun, recolam: Recolam) -> None:
    for model in ("models:/absent@champion", f"models:/{pipeline.MODEL_NAME}/99"):
        outcome = recolam("recommend", "--home", tiny_run.home.root, "--model", model, "--history", "a")
        refused(outcome, 3, "ArtifactError", model)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["fly"], ["'fly'", "pretrain, simulate"]),
        (["simulate", "--user", "3"], ["'user'", "users"]),
        (["simulate", "--users", "many"], ["users", "'many'"]),
        (["simulate", "--users", "0"], ["users", "0"]),
        (["simulate", "--users"], ["'--users'", "no value"]),
        (["simulate", "users", "3"], ["'users'"]),
        (["simulate", "--slate", "5", "--items", "4"], ["5", "4"]),
        (["pretrain", "--dim", "1.5"], ["dim", "'1.5'"]),
        (["pretrain", "--data", "absent.csv"], ["absent.csv"]),
    ],
)
def test_wrong_options_of_a_benchmark_end_with_exit_code_2(
    recolam: Recolam, arguments: list[str], parts: list[str]
) -> None:
    error = "DataError" if "absent.csv" in arguments else "ConfigError"
    refused(recolam("bench", *arguments), 2, error, *parts)


def test_the_console_script_knows_the_exit_codes(tiny_run: FinishedRun, tmp_path: Path, home: Home) -> None:
    absent = run_recolam("run", "--data", tmp_path / "absent.csv", "--home", home.root)
    refused(absent, 2, "DataError", tmp_path / "absent.csv")
    assert run_recolam("run", "--preset", "huge").code == 2
    half = run_recolam("pretrain", "--input", f"features={tmp_path}", "--home", home.root)
    refused(half, 3, "ArtifactError", tmp_path, "half-written")
    assert nothing_in(home.root)


def test_there_is_nothing_to_roll_back_to(tiny_run: FinishedRun, recolam: Recolam) -> None:
    refused(recolam("rollback", "--home", tiny_run.home.root), 3, "ArtifactError", "no earlier champion")
