"""The whole pipeline on the demo world: complete, reused where nothing changed, the same again, safe from kills."""

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recolam import pipeline
from recolam.contracts.artifact import open_artifact
from recolam.contracts.home import Home
from recolam.errors import ArtifactError, ConfigError
from recolam.register.registry import champion_policy, open_logged_policy
from recolam.tracking import STEP_KEY, client, experiment_id
from tests.conftest import FinishedRun, Outcome, run_recolam
from tests.killing import kill_recolam_when_it_says

SLOTS = [
    "demo", "ingest", "features", "pretrain", "world", "policy", "features:music", "transfer:music", "evaluate",
    "register",
]  # fmt: skip
MODELS = (pipeline.MODEL_NAME, f"{pipeline.MODEL_NAME}-music")


def run_without_tracking(plan: pipeline.Plan, *, until: str = "evaluate") -> dict[str, dict[str, Any]]:
    """Runs the stages in order as `run_all` does, but leaves MLflow out."""
    results: dict[str, dict[str, Any]] = {}
    for stage in ("demo", "ingest", "features", "pretrain", "world", "policy", "transfer", "evaluate"):
        for domain in pipeline.domains(plan) if stage == "transfer" else [None]:
            slot = stage if domain is None else f"{stage}:{domain}"
            results[slot] = pipeline.run_stage(plan, stage, domain=domain, is_tracked=False)
        if stage == until:
            break
    return results


def tiny_plan(home: Home, **values: Any) -> pipeline.Plan:
    return pipeline.make_plan(preset="tiny", home=str(home.root), **values)


def copy_of(finished: FinishedRun, root: Path) -> Home:
    """A home with the same tables and artifacts, without MLflow."""
    for folder in ("runs", "feature_store"):
        shutil.copytree(finished.home.root / folder, root / folder)
    return Home(root)


def versions(home: Home) -> dict[str, list[str]]:
    opened = client(home)
    return {name: [str(v.version) for v in opened.search_model_versions(f"name = '{name}'")] for name in MODELS}


def leftovers(home: Home) -> list[Path]:
    """Drafts, scratch folders and retired artifacts."""
    return [path for ending in ("partial", "scratch", "retired") for path in home.runs.rglob(f".*.{ending}")]


def test_summary_has_what_scripts_rely_on(tiny_run: FinishedRun) -> None:
    summary = tiny_run.summary
    assert set(summary) == {"dataset", "stages", "ranking", "policy", "ope", "transfer", "model", "report"}
    dataset = summary["dataset"]
    assert dataset["name"] == "demo"
    assert {name: type(dataset[name]) for name in ("rows", "users", "items", "quarantined")} == {
        "rows": int, "users": int, "items": int, "quarantined": int,
    }  # fmt: skip
    assert dataset["quarantined"] == 0
    assert 100 < dataset["users"] <= 240  # some never click
    assert dataset["rows"] > dataset["users"] > dataset["items"] > 10
    assert sorted(summary["stages"]) == sorted(SLOTS)
    for slot, stage in summary["stages"].items():
        artifact = open_artifact(stage["path"], stage=slot.split(":")[0])
        assert artifact.digest == stage["digest"]
        assert 0 <= stage["seconds"] < 600
    assert Path(summary["report"]).suffix == ".html"
    assert "<html" in Path(summary["report"]).read_text()


def test_summary_holds_sane_figures(tiny_run: FinishedRun) -> None:
    summary = tiny_run.summary
    for name in ("ndcg10", "hr10", "popularity_ndcg10", "coverage"):
        assert 0 < summary["ranking"][name] <= 1
    returns = summary["policy"]
    for name in ("random", "pretrained_greedy", "untrained", "trained", "myopic"):
        low, high = returns["ci95"][name]
        assert 0 <= low <= returns[f"return_{name}"] <= high < 100
    assert {"ips", "snips", "dm", "dr"} <= set(summary["ope"])
    for estimate in summary["ope"].values():
        assert estimate["ci95"][0] <= estimate["value"] <= estimate["ci95"][1]
        assert estimate["ess"] > 1
    (domain, moved), *others = summary["transfer"].items()
    assert (domain, others) == ("music", [])
    assert {"scratch", "zero_shot", "full", "head", "lora"} <= set(moved["ndcg10"])
    assert moved["kept"] in ("scratch", "tuned-full", "tuned-head", "tuned-lora")
    assert summary["model"]["name"] == pipeline.MODEL_NAME
    assert summary["model"]["version"] == "1"
    assert summary["model"]["alias"] in ("champion", None)
    figures = [summary["dataset"], summary["ranking"], {k: v for k, v in returns.items() if k != "ci95"}]
    numbers = [value for part in figures for value in part.values() if isinstance(value, float)]
    assert all(math.isfinite(number) for number in numbers)


def test_the_path_of_the_summary_is_the_only_line_on_stdout(tiny_run: FinishedRun) -> None:
    assert tiny_run.stdout == f"{tiny_run.summary_path}\n"
    assert tiny_run.summary_path.name == "summary.json"
    assert tiny_run.summary_path.is_relative_to(tiny_run.home.root)


def test_a_second_run_finds_everything_done(tiny_run: FinishedRun, recolam: Callable[..., Outcome]) -> None:
    before, written = tiny_run.summary_path.read_text(), manifest_times(tiny_run.home)
    tracked = runs(tiny_run.home)
    outcome = recolam("run", "--preset", "tiny", "--home", tiny_run.home.root)
    assert (outcome.code, outcome.out) == (0, tiny_run.stdout)
    said = [line for line in outcome.err.splitlines() if line.startswith("==")]
    assert len(said) == len(SLOTS)
    assert all(": unchanged, " in line for line in said)
    assert tiny_run.summary_path.read_text() == before
    assert manifest_times(tiny_run.home) == written
    assert versions(tiny_run.home) == {name: ["1"] for name in MODELS}
    assert runs(tiny_run.home) == tracked


def manifest_times(home: Home) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in home.runs.rglob("manifest.json")}


def runs(home: Home) -> list[tuple[str, str]]:
    """Every MLflow run's status and the digest it records."""
    opened = client(home)
    found = opened.search_runs([experiment_id(home, opened)])
    return sorted((run.info.status, run.data.tags.get(STEP_KEY, "")) for run in found)


def test_every_artifact_is_tracked_once(tiny_run: FinishedRun) -> None:
    assert runs(tiny_run.home) == sorted(("FINISHED", digest) for digest in tiny_run.digests.values())


@pytest.mark.parametrize(
    ("overrides", "changed"),
    [
        ({"world": {"epochs": 2}}, {"world", "policy", "transfer:music", "evaluate"}),
        ({"transfer": {"methods": ["head"]}}, {"transfer:music", "evaluate"}),
        ({"evaluate": {"bootstrap": 150}}, {"evaluate"}),
    ],
)
def test_another_setting_runs_that_stage_and_what_depends_on_it(
    tiny_run: FinishedRun, tmp_path: Path, overrides: dict[str, Any], changed: set[str]
) -> None:
    plan = tiny_plan(copy_of(tiny_run, tmp_path / "home"), overrides=overrides)
    results = run_without_tracking(plan)
    assert {slot for slot, result in results.items() if not result["reused"]} == changed
    assert {slot for slot, result in results.items() if result["digest"] != tiny_run.digests[slot]} == changed
    assert all(result["reused"] for result in run_without_tracking(plan).values())


def test_the_same_seed_gives_the_same_artifacts_in_another_home(tiny_run: FinishedRun, home: Home) -> None:
    results = run_without_tracking(tiny_plan(home))
    assert {slot: result["digest"] for slot, result in results.items()} == {
        slot: tiny_run.digests[slot] for slot in results
    }
    assert leftovers(home) == []


def test_another_seed_gives_other_artifacts_the_same_beside_the_first_and_alone(
    tiny_run: FinishedRun, tmp_path: Path
) -> None:
    alone = run_without_tracking(tiny_plan(Home(tmp_path / "alone"), seed=1), until="policy")
    for slot, result in alone.items():
        assert result["digest"] != tiny_run.digests[slot], slot
    shared = copy_of(tiny_run, tmp_path / "shared")
    beside = run_without_tracking(tiny_plan(shared, seed=1), until="features")
    assert {slot: result["digest"] for slot, result in beside.items()} == {
        slot: alone[slot]["digest"] for slot in beside
    }
    again = run_without_tracking(tiny_plan(shared), until="features")
    assert all(result["reused"] for result in again.values())


@pytest.mark.parametrize("name", ["a home, with spaces", "Größe 书"])
def test_a_home_may_have_any_name(tiny_run: FinishedRun, tmp_path: Path, name: str) -> None:
    results = run_without_tracking(tiny_plan(Home(tmp_path / name)), until="features")
    assert {slot: result["digest"] for slot, result in results.items()} == {
        slot: tiny_run.digests[slot] for slot in results
    }


def test_tables_that_are_gone_are_made_again(tiny_run: FinishedRun, tmp_path: Path) -> None:
    home = copy_of(tiny_run, tmp_path / "home")
    shutil.rmtree(home.feature_store)
    results = run_without_tracking(tiny_plan(home), until="features")
    assert [slot for slot, result in results.items() if not result["reused"]] == ["ingest"]
    assert results["ingest"]["digest"] == tiny_run.digests["ingest"]


def test_a_damaged_artifact_is_never_used(tiny_run: FinishedRun, tmp_path: Path) -> None:
    home = copy_of(tiny_run, tmp_path / "home")
    (path,) = home.runs.glob("pretrain/*/model/model.safetensors")
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    for stage in ("pretrain", "world"):
        with pytest.raises(ArtifactError, match=r"model\.safetensors: changed"):
            pipeline.run_stage(tiny_plan(home), stage, is_tracked=False)


def test_a_stage_without_its_parents_says_which_one_is_missing(home: Home) -> None:
    with pytest.raises(ArtifactError, match="no pretrain yet; run that stage first"):
        pipeline.run_stage(tiny_plan(home), "policy")
    assert not home.runs.exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"preset": "huge"}, "preset 'huge' is not one of tiny, quick, standard, full"),
        ({"seed": -1}, "seed is -1, below 0"),
        ({"overrides": {"training": {}}}, "unknown stage 'training'; stages: demo, ingest"),
        ({"overrides": {"pretrain": {"widht": 8}}}, "pretrain: unknown key 'widht'"),
        ({"overrides": {"pretrain": {"training": {"epochs": "many"}}}}, r"pretrain\.training\.epochs: 'many'"),
        ({"overrides": {"pretrain": 3}}, "pretrain: an object of settings is needed, not 3"),
        ({"overrides": {"ingest": {"mapping": {"user": "u", "time": "t"}}}}, r"ingest\.mapping: 'item' is missing"),
    ],
)
def test_a_wrong_plan_is_refused_before_anything_runs(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        pipeline.make_plan(**values)


def test_overrides_reach_into_nested_settings() -> None:
    plan = pipeline.make_plan(preset="tiny", overrides={"pretrain": {"training": {"epochs": 7}}})
    config, preset = (pipeline.stage_config(p, "pretrain") for p in (plan, pipeline.make_plan(preset="tiny")))
    assert config.training.epochs == 7
    assert (config.width, config.training.max_len) == (preset.width, preset.training.max_len)


# Where `recolam run` is killed: at the start of a stage, in its middle, and before it is recorded in MLflow.
KILLS = [
    "== demo$", "== demo: ", "== ingest$", r"ingest: \d+ rows", "== ingest: ", "== features$", "== pretrain$",
    r"pretrain: \d+/\d+ steps", "== world$", "fitting users: ", "== policy$", "comparing policies", "== policy: ",
    "== transfer$", "transfer, full: ", "== evaluate$", "ranking: ", "== evaluate: ", "== register$",
    "Validating input example", "recolam-slate-policy version", "== register: ",
]  # fmt: skip


@pytest.mark.slow
def test_killed_at_every_stage_it_ends_with_the_same_model(tiny_run: FinishedRun, home: Home) -> None:
    arguments = ["run", "--preset", "tiny", "--home", str(home.root)]
    kill_recolam_when_it_says(KILLS, arguments)
    done = run_recolam(*arguments)
    assert done.code == 0, done.err
    survivor = FinishedRun(home, done.out, done.err)
    assert survivor.digests == tiny_run.digests
    assert {**survivor.summary, "stages": {}, "report": ""} == {**tiny_run.summary, "stages": {}, "report": ""}
    assert versions(home) == {name: ["1"] for name in MODELS}
    registered = client(home).get_model_version_download_uri(pipeline.MODEL_NAME, "1")
    assert open_logged_policy(registered).digest == tiny_run.digests["policy"]
    champion = champion_policy(home, pipeline.MODEL_NAME)
    assert (champion is not None) == (tiny_run.summary["model"]["alias"] == "champion")
    statuses = [status for status, _ in runs(home)]
    assert "RUNNING" not in statuses
    assert statuses.count("FINISHED") == len(SLOTS)
    assert leftovers(home) == []
