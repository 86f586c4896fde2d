"""The command line on good input: what each command does and prints."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recolam import pipeline
from recolam.cli import app
from recolam.contracts.artifact import open_artifact
from recolam.register.registry import champion_version, promote
from tests.conftest import FinishedRun, Outcome

Recolam = Callable[..., Outcome]
COMMANDS = ("run", "ingest", "features", "pretrain", "world", "policy", "transfer", "evaluate", "register",
            "recommend", "export", "tune", "bench", "rollback")  # fmt: skip


@pytest.fixture(scope="module")
def champion(tiny_run: FinishedRun) -> FinishedRun:
    """The shared home with its version 1 as champion, whether or not so little training passed the gate."""
    if champion_version(tiny_run.home, pipeline.MODEL_NAME) is None:
        promote(tiny_run.home, pipeline.MODEL_NAME, "1", None)
    return tiny_run


@pytest.mark.parametrize("k", [1, 5, 10])
def test_recommend_gives_k_different_items_none_of_them_seen(champion: FinishedRun, recolam: Recolam, k: int) -> None:
    items = json.loads((champion.artifact("policy") / "vocabulary.json").read_text())["items"]
    history, excluded = items[:4], items[4:8]
    options = ["--history", ",".join([*history, "no such item"]), "--exclude", ", ".join(excluded), "--k", str(k)]
    outcome = recolam("recommend", "--home", champion.home.root, *options, "--json")
    assert outcome.code == 0, outcome.err
    (line,) = outcome.out.splitlines()
    answer = json.loads(line)
    assert answer["model"] == f"models:/{pipeline.MODEL_NAME}@champion"
    assert len(answer["slate"]) == len(set(answer["slate"])) == len(answer["scores"]) == k
    assert set(answer["slate"]) <= set(items) - {*history, *excluded}
    assert answer["scores"] == sorted(answer["scores"], reverse=True)


def test_recommend_without_json_prints_one_line_an_item(champion: FinishedRun, recolam: Recolam) -> None:
    outcome = recolam("recommend", "--home", champion.home.root, "--history", "", "--k", "3")
    assert outcome.code == 0, outcome.err
    assert [re.fullmatch(r" +(\d)  video-\d{4}  -?\d+\.\d{4}", line)[1] for line in outcome.out.splitlines()] == [  # type: ignore[index]
        "1", "2", "3",
    ]  # fmt: skip


@pytest.mark.slow
def test_each_stage_runs_alone_from_artifact_paths(tiny_run: FinishedRun, tmp_path: Path, recolam: Recolam) -> None:
    """In another home, stage by stage, the same artifacts come out as `recolam run` makes."""
    home = tmp_path / "home"
    made: dict[str, str] = {}

    def stage(name: str, *inputs: str, slot: str = "", config: dict[str, Any] | None = None) -> None:
        options: list[str | Path] = ["--preset", "tiny", "--home", home]
        for text in inputs:
            alias, _, source = text.partition("=")
            options += ["--input", f"{alias}={made[source or alias]}"]
        if config is not None:
            (tmp_path / "c.json").write_text(json.dumps(config))
            options += ["--config", tmp_path / "c.json"]
        outcome = recolam(name, *options)
        assert outcome.code == 0, outcome.err
        slot = slot or name
        made[slot] = outcome.out.removesuffix("\n")
        assert open_artifact(made[slot], stage=name).digest == tiny_run.digests[slot], slot

    stage("ingest")
    made["demo"] = str(open_artifact(made["ingest"]).parent("demo").path)
    stage("features", "ingest")
    stage("features", "ingest", slot="features:music", config={"domain": "music"})
    stage("pretrain", "features")
    stage("world", "features", "pretrain", "demo")
    stage("policy", "pretrain", "world", "features")
    stage("transfer", "policy", "features=features:music", slot="transfer:music")
    stage("evaluate", "features", "pretrain", "world", "policy", "transfer_music=transfer:music")
    stage("register", "policy", "evaluate", "transfer_music=transfer:music")


def test_help_says_what_every_command_does(recolam: Recolam) -> None:
    overview = recolam("--help")
    assert overview.code == 0
    assert {command.name or command.callback.__name__ for command in app.registered_commands} == set(COMMANDS)  # type: ignore[union-attr]
    for command in COMMANDS:
        assert re.search(rf"^\W*{command} +[A-Z]\w+", overview.out, re.MULTILINE), command
        outcome = recolam(command, "--help")
        assert outcome.code == 0
        assert f"recolam {command}" in outcome.out
        assert len(outcome.out) > 300
    for stage in ("features", "pretrain", "world", "policy", "transfer", "evaluate", "register"):
        words = " ".join(recolam(stage, "--help").out.split())
        assert f"Needs: {', '.join(pipeline.STAGES[stage].inputs)}." in words
        for option in ("--input", "--preset", "--home", "--seed", "--config"):
            assert option in words


def test_without_a_command_the_help_is_shown(recolam: Recolam) -> None:
    outcome = recolam()
    assert outcome.code == 2
    assert "Usage" in outcome.out + outcome.err


def test_bench_simulate_prints_one_json_line(recolam: Recolam) -> None:
    sizes = {"users": 50, "items": 20, "topics": 4, "slate": 2, "steps": 3}
    options = [text for name, value in sizes.items() for text in (f"--{name}", str(value))]
    outcome = recolam("bench", "simulate", *options, "--json")
    assert outcome.code == 0, outcome.err
    (line,) = outcome.out.splitlines()
    answer = json.loads(line)
    assert answer["user_steps_per_s"] > 0
    assert sizes.items() <= answer.items()


def test_help_of_bench_tells_every_benchmark_its_options_and_their_defaults(recolam: Recolam) -> None:
    words = " ".join(recolam("bench", "--help").out.split())
    told = re.split(r" ([a-z-]+): (?=[A-Z])", words)
    benches = dict(zip(told[1::2], told[2::2], strict=True))
    assert {"pretrain", "simulate", "policy", "shift", "rollout", "inverse-rl", "closed-loop"} <= set(benches)
    assert "--seeds 5, --first-seed 0, --gamma -1.0, --observation full, --rivals true" in benches["policy"]
    assert "--protocol loo|temporal" in benches["quality"]
    assert "--config, --workers 1" in benches["quality"]


@pytest.mark.slow
def test_bench_pretrain_prints_speed_and_accuracy(recolam: Recolam) -> None:
    sizes = ["--max-len", "16", "--dim", "16", "--blocks", "1", "--batch-size", "64", "--epochs", "1"]
    outcome = recolam("bench", "pretrain", "--data", "demo", *sizes)
    assert outcome.code == 0, outcome.err
    (line,) = outcome.out.splitlines()
    answer = json.loads(line)
    assert min(answer[name] for name in ("users_per_s", "tokens_per_s", "epoch_s")) > 0
    assert 0 < answer["ndcg10"] <= answer["hr10"] <= 1
