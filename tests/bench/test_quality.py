"""`recolam bench quality` and `objectives` on a small log: what they print, what they train, what they find again."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recolam.bench import seeds
from recolam.bench.data import dataset_of, save_with_digest
from recolam.bench.objectives import WEIGHTS, ObjectivesBench, default_by_rule, objectives, pooled, with_objective
from recolam.bench.quality import mean_and_error, selection
from recolam.bench.settings import sequence_config
from recolam.contracts.dataset import TokenisedDataset
from recolam.contracts.home import Home
from recolam.errors import ArtifactError, ConfigError
from recolam.evaluate.baselines import Popularity
from recolam.pretrain.stage import PretrainConfig
from recolam.sequence.ranking import ndcg, rank_targets
from recolam.sequence.training import TrainingConfig
from tests.conftest import RECOLAM, Outcome

Recolam = Callable[..., Outcome]
TINY = {
    "width": 8, "blocks": 1, "heads": 1,
    "training": {"epochs": 2, "batch_size": 32, "max_len": 8, "patience": 2, "validation_queries": 2000},
}  # fmt: skip
DAY = 86_400


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 users walk through 30 items, mostly to the next one, over 60 days; some of a user's events share a time."""
    rng = np.random.default_rng(0)
    rows = ["user,item,time"]
    for user in range(60):
        item, second = int(rng.integers(30)), int(rng.integers(50 * DAY))
        for _ in range(int(rng.integers(5, 12))):
            rows.append(f"u{user},{item},{second}")
            item = (item + 1) % 30 if rng.random() < 0.7 else int(rng.integers(30))
            second += int(rng.integers(3)) * DAY
    path = tmp_path_factory.mktemp("log") / "walks.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("settings") / "tiny.json"
    path.write_text(json.dumps(TINY))
    return path


def one_line(outcome: Outcome) -> dict[str, Any]:
    assert outcome.code == 0, outcome.err
    (line,) = outcome.out.splitlines()
    return json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def results(home: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (home / "runs" / "quality").rglob("seed-*.json")}


def test_quality_prints_what_was_measured(log: Path, settings: Path, tmp_path: Path, recolam: Recolam) -> None:
    answer = one_line(
        recolam("bench", "quality", "--data", log, "--seeds", "2", "--config", settings, "--home", tmp_path, "--json")
    )
    assert (answer["bench"], answer["protocol"], answer["ties"], answer["seeds"]) == ("quality", "loo", "hash", 2)
    runs = answer["runs"]
    values = [run["ndcg10"] for run in runs]
    assert [run["seed"] for run in runs] == [0, 1]
    assert values[0] != values[1]
    assert answer["ndcg10"]["mean"] == pytest.approx(sum(values) / 2)
    assert answer["ndcg10"]["se"] == pytest.approx(abs(values[0] - values[1]) / 2)
    assert all(0 < run["ndcg10"] <= run["hr10"] <= 1 and run["epochs"] == 2 for run in runs)
    assert answer["configuration"]["width"] == 8
    assert answer["configuration"]["training"]["max_len"] == 8
    dataset = dataset_of(str(log))
    assert answer["dataset"]["queries"] == len(dataset.test_event_Q) == answer["dataset"]["users"] == 60
    popular = rank_targets(Popularity(dataset), dataset, dataset.test_event_Q, max_len=8)
    assert answer["baselines"]["popularity"]["ndcg10"] == ndcg(popular.rank_Q, k=10)
    assert answer["baselines"]["popularity_7_days"]["hr10"] > 0
    assert answer["baselines"]["item_knn"]["ndcg10"] > 0
    assert "all 60 validation queries" in answer["selection"]
    assert "last event but one" in answer["selection"]
    temporal = answer["temporal"]
    assert temporal["dataset"]["split"] == "temporal"
    assert len(temporal["runs"]) == 1
    assert temporal["ndcg10"] == {"mean": temporal["runs"][0]["ndcg10"], "se": None}
    assert temporal["baselines"]["popularity"] != answer["baselines"]["popularity"]
    assert "two cuts" in temporal["selection"]
    (result, *_) = results(tmp_path)
    content = json.loads(result.read_text())
    assert content["commit"]
    assert content["identity"]["version"]
    assert not list(tmp_path.rglob("*.scratch"))


def test_done_work_is_found_and_changed_settings_train_anew(
    log: Path, settings: Path, tmp_path: Path, recolam: Recolam
) -> None:
    command = ["bench", "quality", "--data", log, "--home", tmp_path, "--temporal", "false", "--config"]
    first = one_line(recolam(*command, settings, "--seeds", "1"))
    before = results(tmp_path)
    again = one_line(recolam(*command, settings, "--seeds", "1"))
    assert results(tmp_path) == before
    assert len(before) == 1
    assert again == first
    more = one_line(recolam(*command, settings, "--seeds", "2"))
    assert more["runs"][0] == first["runs"][0]
    assert results(tmp_path).items() > before.items()
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"pretrain": {**TINY, "width": 16}}))
    changed = one_line(recolam(*command, other, "--seeds", "1"))
    assert len(results(tmp_path)) == 3
    assert changed["runs"][0]["parameters"] > first["runs"][0]["parameters"]
    assert first["temporal"]["runs"] == []
    assert first["temporal"]["baselines"]["popularity_7_days"]["ndcg10"] > 0


@pytest.mark.slow
def test_workers_do_not_change_the_numbers(log: Path, settings: Path, tmp_path: Path, recolam: Recolam) -> None:
    command = ["bench", "quality", "--data", log, "--seeds", "2", "--config", settings]
    alone = one_line(recolam(*command, "--workers", "1", "--home", tmp_path / "one"))
    beside = one_line(recolam(*command, "--workers", "2", "--home", tmp_path / "two"))
    assert len(results(tmp_path / "two")) == 3
    for name in ("ndcg10", "hr10", "baselines", "dataset"):
        assert beside[name] == alone[name]
        assert beside["temporal"][name] == alone["temporal"][name]
    for one, two in zip(alone["runs"], beside["runs"], strict=True):
        assert two["validation_ndcg10"] == one["validation_ndcg10"]


@pytest.mark.slow
def test_objectives_compare_by_seed_and_share_trainings(
    log: Path, settings: Path, tmp_path: Path, recolam: Recolam
) -> None:
    other = tmp_path / "other.csv"
    other.write_text("\n".join(log.read_text().splitlines()[:300]) + "\n")
    options = ["--seeds", "2", "--config", settings, "--home", tmp_path]
    answer = one_line(recolam("bench", "objectives", "--data", f"{log},{other}", *options))
    assert set(answer["datasets"]) == {str(log), str(other)}
    assert len(results(tmp_path)) == 12
    table = answer["datasets"][str(log)]
    by_seed = {name: [run["ndcg10"] for run in table[name]["runs"]] for name in ("next", "masked", "sum")}
    assert len({tuple(values) for values in by_seed.values()}) == 3
    gains = np.array(by_seed["sum"]) - np.array(by_seed["next"])
    assert table["sum_minus_next"]["per_seed"] == pytest.approx(gains)
    assert table["sum_minus_next"]["se"] == pytest.approx(gains.std(ddof=1) / 2**0.5)
    weights = tmp_path / "next.json"
    weights.write_text(json.dumps({**TINY, "training": {**TINY["training"], "next_weight": 1.0, "masked_weight": 0.0}}))  # type: ignore[dict-item]
    before = results(tmp_path)
    options[options.index(settings)] = weights
    shared = one_line(recolam("bench", "quality", "--data", log, "--temporal", "false", *options))
    assert results(tmp_path) == before
    assert [run["ndcg10"] for run in shared["runs"]] == by_seed["next"]


@pytest.mark.parametrize(
    ("gains", "default"),
    [
        ([0.03, 0.02, 0.04], "sum"),
        ([0.03, -0.02, 0.01], "next"),
        ([-0.03, -0.02, -0.04], "next"),
        ([0.05], "next"),
        ([0.0, 0.0], "next"),
    ],
)
def test_the_sum_must_win_by_two_standard_errors(gains: list[float], default: str) -> None:
    assert default_by_rule(mean_and_error(gains)) == default


def test_logs_are_pooled_by_hand() -> None:
    assert pooled([{"mean": 0.1, "se": 0.03}, {"mean": 0.3, "se": 0.04}]) == {
        "mean": pytest.approx(0.2),
        "se": pytest.approx(0.025),
    }
    assert pooled([{"mean": 0.1, "se": None}])["se"] is None


def test_the_objectives_differ_in_weights_alone() -> None:
    config = PretrainConfig(training=TrainingConfig(epochs=3))
    made = {name: with_objective(config, name).training for name in WEIGHTS}
    assert {name: (one.next_weight, one.masked_weight) for name, one in made.items()} == WEIGHTS
    assert {one.epochs for one in made.values()} == {3}


def test_logs_without_a_clock_have_no_temporal_split(tmp_path: Path, settings: Path, recolam: Recolam) -> None:
    log = tmp_path / "positions.csv"
    rows = [f"u{user},{(user * 3 + step) % 9},{step}" for user in range(12) for step in range(6)]
    log.write_text("\n".join(["user,item,position", *rows]) + "\n")
    answer = one_line(
        recolam("bench", "quality", "--data", log, "--seeds", "1", "--config", settings, "--home", tmp_path)
    )
    assert answer["temporal"] is None
    assert answer["baselines"]["popularity_7_days"] is None
    assert answer["ndcg10"]["se"] is None
    refused = recolam("bench", "quality", "--data", log, "--protocol", "temporal", "--home", tmp_path)
    assert refused.code == 2
    assert "leave_one_out" in refused.err


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--protocol", "random"], ["protocol", "'random'", "'loo', 'temporal'"]),
        (["--ties", "ids"], ["ties", "'ids'", "'hash', 'file', 'item'"]),
        (["--temporal", "maybe"], ["temporal", "'maybe'", "true or false"]),
        (["--seeds", "0"], ["seeds", "0"]),
        (["--workers", "two"], ["workers", "'two'"]),
        (["--preset", "huge"], ["'huge'", "two-cores"]),
        (["--config", "absent.json"], ["absent.json"]),
        (["--seed", "3"], ["'seed'", "seeds"]),
    ],
)
def test_wrong_options_are_named(recolam: Recolam, options: list[str], parts: list[str]) -> None:
    outcome = recolam("bench", "quality", *options)
    assert outcome.code == 2
    assert "ConfigError" in outcome.err
    for part in parts:
        assert part in outcome.err


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("{", "line 1"),
        ("[]", "a JSON object"),
        ('{"widht": 3}', "'widht'"),
        ('{"training": {"epochs": "3"}}', "epochs"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, text: str, part: str) -> None:
    (tmp_path / "wrong.json").write_text(text)
    with pytest.raises(ConfigError, match=part):
        sequence_config("two-cores", str(tmp_path / "wrong.json"))


def test_selection_says_what_was_used(job: seeds.Job) -> None:
    dataset = TokenisedDataset.load(job.data)
    few = PretrainConfig(training=TrainingConfig(validation_queries=10, patience=4, epochs=9, validate_every=2))
    sentence = selection(dataset, few, protocol="loo")
    for part in (
        "10, drawn by the training seed, of the 60",
        "after 4 validations",
        "after 9 epochs",
        "validations: 2",
    ):
        assert part in sentence
    none = replace(job.config, training=replace(job.config.training, validation_queries=0))
    assert "nothing was chosen" in selection(dataset, none, protocol="loo")
    (run,) = seeds.train_all([replace(job, config=none)], workers=1)
    assert run["validation_ndcg10"] is None
    assert run["best_epoch"] == run["epochs"] == 2


def test_settings_lie_over_the_preset_at_every_depth(settings: Path) -> None:
    plain, tiny = sequence_config("two-cores", None), sequence_config("two-cores", str(settings))
    assert (tiny.width, tiny.training.epochs) == (8, 2)
    assert tiny.dropout == plain.dropout
    assert tiny.training.learning_rate == plain.training.learning_rate


def test_a_log_named_twice_is_refused(log: Path) -> None:
    for data in (f"{log},{log}", f"{log},"):
        with pytest.raises(ConfigError, match="data"):
            objectives(ObjectivesBench(data=data))


@pytest.fixture
def job(log: Path, settings: Path, tmp_path: Path) -> seeds.Job:
    digest = save_with_digest(dataset_of(str(log)), tmp_path / "data")
    config = sequence_config("two-cores", str(settings))
    return seeds.Job(Home(tmp_path), tmp_path / "data", digest, seeds.sources_digest(), config, 0, "test")


def test_results_of_other_code_and_damaged_ones_are_not_taken(job: seeds.Job, tmp_path: Path) -> None:
    (first,) = seeds.train_all([job], workers=1)
    other = seeds.Job(job.home, job.data, job.digest, "f" * 64, job.config, 0, "test")
    assert other.result != job.result
    assert not other.result.exists()
    other.folder.mkdir()
    other.result.write_bytes(job.result.read_bytes())
    with pytest.raises(ArtifactError, match="another training"):
        seeds.train_all([other], workers=1)
    job.result.write_text(job.result.read_text()[:40])
    with pytest.raises(ArtifactError, match="delete it"):
        seeds.train_all([job], workers=1)
    job.result.unlink()
    (again,) = seeds.train_all([job], workers=1)
    assert again["ndcg10"] == first["ndcg10"]


def test_sources_digest_follows_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sequence/a.py", "pretrain/b.py", "policy/c.py"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("A = 1\n")
    monkeypatch.setattr("recolam.__file__", str(tmp_path / "__init__.py"))
    before = seeds.sources_digest()
    (tmp_path / "policy/c.py").write_text("A = 2\n")
    assert seeds.sources_digest() == before
    (tmp_path / "sequence/a.py").write_text("A = 2\n")
    assert seeds.sources_digest() != before


@pytest.mark.slow
def test_a_killed_command_goes_on_to_the_same_numbers(
    log: Path, tmp_path: Path, recolam: Recolam, settings: Path
) -> None:
    longer = tmp_path / "longer.json"
    longer.write_text(json.dumps({**TINY, "training": {**TINY["training"], "epochs": 60, "patience": 60}}))  # type: ignore[dict-item]
    command = ["bench", "quality", "--data", log, "--seeds", "1", "--temporal", "false", "--config", longer, "--home"]
    process = subprocess.Popen(
        [str(RECOLAM), *map(str, command), str(tmp_path / "killed")], stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 300
    while not list((tmp_path / "killed").rglob("checkpoint/state.json")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not results(tmp_path / "killed")
    assert list((tmp_path / "killed").rglob("checkpoint/state.json"))
    resumed = one_line(recolam(*command, tmp_path / "killed"))
    whole = one_line(recolam(*command, tmp_path / "whole"))
    for name in ("ndcg10", "hr10"):
        assert resumed[name] == whole[name]
    assert resumed["runs"][0]["validation_ndcg10"] == whole["runs"][0]["validation_ndcg10"]
