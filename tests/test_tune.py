"""Search: finds, prunes, fails, resumes; and what MLflow and best.json say of it."""

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from filelock import FileLock

from recolam import pipeline
from recolam.contracts.config import from_mapping
from recolam.contracts.dataset import FIRST_ITEM
from recolam.contracts.home import Home
from recolam.errors import ConfigError, DataError
from recolam.pretrain.stage import PretrainConfig
from recolam.tracking import client, experiment_id, reap
from recolam.tune.pretrain import DEFAULT_SPACE, pretrain_objective
from recolam.tune.space import Choice, Range, check_space, over, parse_space
from recolam.tune.study import Report, SearchConfig, search
from tests.conftest import Outcome
from tests.databases import home_with_database
from tests.planted import cyclic_dataset
from tests.tuning import STEPS, climb, height

ROOT = Path(__file__).resolve().parents[1]
TINY = {"width": 16, "blocks": 1, "heads": 1, "dropout": 0.1, "training": {
    "epochs": 6, "batch_size": 16, "max_len": 12, "learning_rate": 5e-3, "warmup_steps": 5, "patience": 6,
}}  # fmt: skip


@pytest.fixture
def home(tmp_path: Path, migrated: Path) -> Home:
    return home_with_database(tmp_path / "home", migrated)


def trials_of(home: Home, study: str = "toy") -> list[optuna.trial.FrozenTrial]:
    """The study's trials, without the tries that a later trial repeats."""
    opened = optuna.load_study(study_name=study, storage=f"sqlite:///{home.runs / 'tune' / study / 'study.db'}")
    repeated = {trial.user_attrs.get("repeats") for trial in opened.trials}
    return [trial for trial in opened.trials if trial.number not in repeated]


def runs_of(home: Home) -> tuple[Any, list[Any]]:
    """The one run of the study, and its trials' runs by number."""
    opened = client(home)
    runs = opened.search_runs([experiment_id(home, opened)])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert len(parents) == 1
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parents[0].info.run_id}
    return parents[0], sorted(children, key=lambda run: int(run.data.tags["recolam.tune.trial"]))


def curve_of(home: Home, run: Any, metric: str = "height") -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in client(home).get_metric_history(run.info.run_id, metric)]


def story(home: Home) -> list[Any]:
    """All that a study has found: each trial's settings, curve and outcome, in the study and in MLflow."""
    trials, (parent, children) = trials_of(home), runs_of(home)
    assert parent.info.status == "FINISHED"
    found = [(trial.state.name, trial.params, trial.value, trial.intermediate_values) for trial in trials]
    runs = [(run.info.status, run.data.params, run.data.metrics, curve_of(home, run)) for run in children]
    return [found, sorted(runs, key=repr)]


@pytest.mark.slow
def test_a_search_finds_the_top_of_a_known_function(home: Home) -> None:
    found = climb(home, trials=30, pruning_trials=30)
    assert found.best_values is not None
    assert found.best_value is not None
    assert (found.complete, found.pruned, found.failed, found.interrupted) == (30, 0, 0, 0)
    assert found.best_values["c"] == "b"
    assert abs(found.best_values["x"] - 2) < 1
    assert found.best_value == max(trial.value for trial in trials_of(home) if trial.value is not None) > -1
    assert json.loads((home.runs / "tune/toy/best.json").read_text()) == found.best_values
    late = [trial.value for trial in trials_of(home)[20:] if trial.value is not None]
    early = [trial.value for trial in trials_of(home)[:10] if trial.value is not None]
    assert np.median(late) > np.median(early)  # proposals, not random draws


def test_trials_are_runs_nested_in_the_study_and_nobody_reaps_them(home: Home) -> None:
    def objective(values: Mapping[str, Any], report: Report) -> float:
        if values["x"] < -2:
            raise DataError("too low")
        opened = client(home)
        reap(opened, experiment_id(home, opened))
        parent, children = runs_of(home)
        assert (parent.info.status, children[-1].info.status) == ("RUNNING", "RUNNING")
        return height(values, report)

    found = climb(home, trials=10, objective=objective)
    assert min(found.complete, found.pruned, found.failed) >= 1
    assert found.complete + found.pruned + found.failed == 10
    parent, children = runs_of(home)
    assert parent.info.status == "FINISHED"
    assert parent.data.params["of"] == "toy"
    assert len({json.dumps(trial.params) for trial in trials_of(home)}) == 10
    status = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}
    for number, (trial, run) in enumerate(zip(trials_of(home), children, strict=True)):
        assert (trial.number, run.data.tags["recolam.tune.trial"]) == (number, str(number))
        assert run.info.status == status[trial.state.name]
        assert run.data.params == {key: str(value) for key, value in trial.params.items()}
        assert curve_of(home, run) == sorted(trial.intermediate_values.items())
        if run.info.status == "FINISHED":
            assert run.data.metrics["objective"] == trial.value
            assert len(trial.intermediate_values) == STEPS
        elif run.info.status == "KILLED":
            assert 2 <= max(trial.intermediate_values) < STEPS
        else:
            assert run.data.tags["recolam.tune.reason"] == "DataError: too low" == trial.user_attrs["reason"]


@pytest.mark.slow
def test_killed_anywhere_a_study_goes_on_to_what_the_unbroken_one_finds(home: Home, migrated: Path) -> None:
    trials, moments = 3, [18, 43, 64]  # the unbroken study writes about 90 times
    climb(home, trials=trials)
    command = [sys.executable, "-m", "tests.tuning", str(home.root / "killed"), str(migrated), str(trials)]
    done = subprocess.run([*command, json.dumps(moments)], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert json.loads(done.stdout) == [-9] * len(moments), done.stderr
    interrupted = 0
    for moment in moments:
        killed = Home(home.root / "killed" / str(moment))
        interrupted += climb(killed, trials=trials).interrupted
        assert story(killed) == story(home)
    assert interrupted >= 2, "no kill fell into a trial"


def test_a_trial_cut_off_goes_on_with_its_curve_and_is_failed_in_the_end(home: Home) -> None:
    seen: list[Mapping[str, Any]] = []

    def cut(values: Mapping[str, Any], report: Report) -> float:
        seen.append(dict(values))
        report(1, -0.5)
        raise KeyboardInterrupt

    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            climb(home, trials=2, objective=cut)
        parent, children = runs_of(home)
        assert (parent.info.status, [run.info.status for run in children]) == ("KILLED", ["KILLED"])
    found = climb(home, trials=2)
    assert (found.complete, found.failed, found.interrupted) == (1, 1, 2)
    assert seen[0] == seen[1] == seen[2]
    _, children = runs_of(home)
    assert [run.info.status for run in children] == ["FAILED", "FINISHED"]
    assert curve_of(home, children[0]) == [(1, -0.5)]
    assert "3 times" in children[0].data.tags["recolam.tune.reason"]


def test_out_of_time_the_running_trial_waits_for_the_next_call(home: Home) -> None:
    reports = 0

    def endless(values: Mapping[str, Any], report: Report) -> float:
        nonlocal reports
        while True:
            reports += 1
            report(reports, 0.1)

    first = climb(home, trials=2, objective=endless, minutes=0.01)
    assert (first.complete, first.pruned, first.failed, first.best_values) == (0, 0, 0, None)
    assert not (home.runs / "tune/toy/best.json").exists()

    def constant(values: Mapping[str, Any], report: Report) -> float:
        report(1, 0.1)
        return 1.0

    second = climb(home, trials=2, objective=constant)
    assert (second.complete, second.interrupted) == (2, 1)
    assert [len(trial.intermediate_values) for trial in trials_of(home)] == [reports, 1]
    _, children = runs_of(home)
    assert [len(curve_of(home, run)) for run in children] == [reports, 1]
    assert climb(home, trials=2, objective=endless) == second  # finished: nothing runs again


def test_failures_in_a_row_end_the_search_with_their_error(home: Home) -> None:
    calls = 0

    def objective(values: Mapping[str, Any], report: Report) -> float:
        nonlocal calls
        calls += 1
        if calls == 2:
            return 1.0
        raise (ConfigError if calls == 4 else DataError)(f"call {calls}")

    with pytest.raises(DataError, match="3 trials in a row failed, the last one: call 7"):
        climb(home, trials=20, objective=objective)  # 1 fails, 2 is good, 3 fails, 4 otherwise, 5 to 7 alike
    assert calls == 7
    assert runs_of(home)[0].info.status == "FAILED"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_fails_the_trial(home: Home, value: float) -> None:
    found = climb(home, trials=1, objective=lambda values, report: value)
    assert (found.complete, found.failed) == (0, 1)


def test_another_search_under_the_same_name_is_refused(home: Home) -> None:
    climb(home, trials=1)
    with pytest.raises(
        ConfigError, match="'toy' is another search: of was 'toy' and is 'play'; seed was None and is 1"
    ):
        search(
            height, parse_space({"x": [1]}, where="t"), SearchConfig(), study="toy", home=home,
            identity={"of": "play", "seed": 1},
        )  # fmt: skip
    with (
        FileLock(home.runs / "tune/toy/.lock"),
        pytest.raises(ConfigError, match="'toy' is being searched by another process"),
    ):
        climb(home, trials=2)
    assert len(trials_of(home)) == 1


@pytest.mark.parametrize("settings", [{"trials": 0}, {"minutes": 0.0}, {"minutes": float("nan")}, {"attempts": 0}])
def test_bad_limits_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        SearchConfig(**settings)


def make_tiny(values: Mapping[str, Any]) -> PretrainConfig:
    return from_mapping(PretrainConfig, over(TINY, values), where="pretrain")


def test_pruning_ends_a_bad_training_early_and_leaves_no_checkpoint(home: Home) -> None:
    space = parse_space({"training.learning_rate": [5e-3, 1e-7]}, where="test")
    scratch = home.root / "scratch"
    objective = pretrain_objective(cyclic_dataset(users=60), make_tiny, seed=0, scratch=scratch)
    limits = SearchConfig(trials=8, pruning_trials=2, pruning_steps=2)
    found = search(objective, space, limits, study="prune", home=home, identity={}, metric="validation_ndcg10")
    _, children = runs_of(home)
    epochs = {"KILLED": set(), "FINISHED": set()}
    for trial, run in zip(trials_of(home, "prune"), children, strict=True):
        epochs[run.info.status].add(len(curve_of(home, run, "validation_ndcg10")))
        assert run.info.status == "FINISHED" or trial.params == {"training.learning_rate": 1e-7}
    assert found.pruned >= 1
    assert max(epochs["KILLED"]) < TINY["training"]["epochs"] == min(epochs["FINISHED"])
    assert list(scratch.iterdir()) == []


def test_a_training_that_was_cut_off_goes_on_to_the_same_value(tmp_path: Path) -> None:
    objective = pretrain_objective(cyclic_dataset(users=60), make_tiny, seed=0, scratch=tmp_path)
    whole: list[int] = []
    value = objective({"width": 8}, lambda epoch, ndcg: whole.append(epoch))

    def cut(epoch: int, ndcg: float) -> None:
        if epoch == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        objective({"width": 8}, cut)
    rest: list[int] = []
    assert objective({"width": 8}, lambda epoch, ndcg: rest.append(epoch)) == value
    assert (whole, rest) == ([1, 2, 3, 4, 5, 6], [3, 4, 5, 6])  # the cut was before the checkpoint of epoch 3


def test_test_events_are_never_looked_at(tmp_path: Path) -> None:
    dataset = cyclic_dataset(users=60)
    item_E = dataset.event_item_E.copy()
    item_E[dataset.test_event_Q] = FIRST_ITEM
    other = dataclasses.replace(dataset, event_item_E=item_E)
    curves: list[list[float]] = [[], []]
    for place, data in enumerate((dataset, other)):
        objective = pretrain_objective(data, make_tiny, seed=0, scratch=tmp_path / str(place))
        objective({}, lambda epoch, ndcg, curve=curves[place]: curve.append(ndcg))
    assert curves[0] == curves[1]
    assert curves[0][-1] > curves[0][0]


def test_a_loss_that_is_not_finite_fails_every_trial(home: Home) -> None:
    objective = pretrain_objective(cyclic_dataset(users=60), make_tiny, seed=0, scratch=home.root / "scratch")
    space = parse_space({"training.learning_rate": [1e30, 1e32]}, where="test")
    with pytest.raises(DataError, match=r"3 trials in a row failed.*the loss became"):
        search(objective, space, SearchConfig(), study="nan", home=home, identity={})


def test_a_space_is_lists_and_ranges() -> None:
    values = {"a": [1, None, "x"], "b": {"low": 1, "high": 2}, "c": {"low": 1, "high": 8, "int": True, "log": True}}
    space = parse_space(values, where="test")
    assert space == {"a": Choice((1, None, "x")), "b": Range(1.0, 2.0), "c": Range(1, 8, log=True, is_int=True)}
    assert over({"a": {"b": 1, "c": 2}}, {"a.b": 3, "d.e": 4}) == {"a": {"b": 3, "c": 2}, "d": {"e": 4}}
    check_space(parse_space(DEFAULT_SPACE, where="test"), make_tiny, where="test")


@pytest.mark.parametrize(
    ("space", "parts"),
    [
        ({}, ["names no setting"]),
        ({"width": 64}, ["width", "64", "neither a list"]),
        ({"width": []}, ["width", "[]"]),
        ({"width": [64, [1]]}, ["width", "[1]", "plain"]),
        ({"width": [64, 64]}, ["width", "64", "twice"]),
        ({"dropout": {"low": 0.1}}, ["dropout", "0.1", "'high'"]),
        ({"dropout": {"low": 0.1, "high": 0.5, "steps": 3}}, ["dropout", "'steps'"]),
        ({"dropout": {"low": 0.5, "high": 0.1}}, ["dropout", "0.5", "0.1", "above"]),
        ({"dropout": {"low": "a", "high": 1}}, ["dropout", "low", "'a'"]),
        ({"dropout": {"low": 0, "high": 0.5, "log": True}}, ["dropout", "low 0", "logarithm"]),
        ({"dropout": {"low": 0, "high": 0.5, "log": "yes"}}, ["dropout", "log", "'yes'"]),
        ({"width": {"low": 8, "high": 16.5, "int": True}}, ["width", "high", "16.5", "whole"]),
        ({"width": {"low": 8, "high": 16}}, ["width", "8.0", "int"]),
        ({"width": [64, "wide"]}, ["width", "'wide'", "int"]),
        ({"wdith": [64]}, ["wdith", "64", "unknown key"]),
        ({"training.batch_size": [0]}, ["training.batch_size", "0", "at least 1"]),
    ],
)
def test_a_bad_space_is_refused_with_file_key_and_value(
    tmp_path: Path, recolam: Callable[..., Outcome], space: dict[str, Any], parts: list[str]
) -> None:
    file = tmp_path / "space.json"
    file.write_text(json.dumps(space))
    done = recolam("tune", "--space", file, "--home", tmp_path / "home")
    assert done.code == 2
    for part in [str(file), *parts]:
        assert part in done.err
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    ("option", "value", "named"), [("--preset", "huge", "two-cores"), ("--protocol", "x", "loo"), ("--name", "A b", "")]
)
def test_a_bad_option_is_refused(
    tmp_path: Path, recolam: Callable[..., Outcome], option: str, value: str, named: str
) -> None:
    done = recolam("tune", option, value, "--home", tmp_path / "home")
    assert done.code == 2
    assert repr(value) in done.err
    assert named in done.err


@pytest.mark.slow
def test_the_command_on_a_log_and_its_best_config_in_the_pipeline(
    home: Home, tmp_path: Path, recolam: Callable[..., Outcome]
) -> None:
    generator = np.random.default_rng(0)
    rows = [
        f"{user},{(start + step * stride) % 20},{1000 * user + step}"
        for user, (start, stride) in enumerate(generator.integers(1, 20, size=(60, 2)))
        for step in range(8)
    ]
    log, space, config = tmp_path / "small.csv", tmp_path / "space.json", tmp_path / "config.json"
    log.write_text("\n".join(["user,item,time", *rows]))
    space.write_text(json.dumps({"width": [8, 16], "training.learning_rate": {"low": 1e-3, "high": 1e-2, "log": True}}))
    config.write_text(json.dumps({"pretrain": over(TINY, {"training.epochs": 2})}))
    arguments = ("tune", "--data", log, "--space", space, "--config", config, "--home", home.root, "--seed", 3)

    done = recolam(*arguments, "--trials", 2)
    assert done.code == 0, done.err
    answer = json.loads(done.out)
    assert answer["trials"] == {"complete": 2, "pruned": 0, "failed": 0, "interrupted": 0}
    assert answer["study"] == "small-two-cores-loo-3"
    best = json.loads(Path(answer["best_config"]).read_text())
    assert best["pretrain"]["width"] == answer["best_values"]["width"]
    assert best["pretrain"]["training"]["epochs"] == 2

    more = json.loads(recolam(*arguments, "--trials", 3).out)
    assert more["trials"]["complete"] + more["trials"]["pruned"] == 3
    assert len(runs_of(home)[1]) == 3
    refused = recolam("tune", "--data", log, "--config", config, "--home", home.root, "--name", answer["study"])
    assert refused.code == 2
    for key in ("space", "seed", "data"):
        assert f"{key} was " in refused.err

    best = json.loads(Path(more["best_config"]).read_text())
    plan = pipeline.make_plan(str(log), home=str(home.root), seed=3, overrides=best)
    features = next(path.parent for path in home.runs.glob("features/*/manifest.json") if _seed(path) == 3)
    parents = {"features": pipeline.open_artifact(features)}
    settings = pipeline.stage_config(plan, "pretrain")
    artifact, _ = pipeline.execute("pretrain", settings, parents, home=plan.home, seed=3, is_tracked=False)
    assert artifact.metrics["validation_ndcg10"] == more["best_value"]
    assert not plan.pointers.exists()
    shutil.rmtree(home.root)


def _seed(manifest: Path) -> int:
    return json.loads(manifest.read_text())["seed"]
