"""The stage on a tiny house of real artifacts."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recolam.contracts.artifact import Artifact, build_artifact
from recolam.contracts.config import from_mapping, to_mapping
from recolam.contracts.dataset import PADDING, TRAIN, UNKNOWN, TokenisedDataset
from recolam.contracts.home import Home
from recolam.errors import ArtifactError, ConfigError, DataError
from recolam.evaluate import stage as evaluate
from recolam.evaluate.baselines import Popularity
from recolam.evaluate.exposure import CURVES, exposure_block
from recolam.evaluate.ranking_table import choose_queries
from recolam.register.gate import decide_from_report
from recolam.sequence.ranking import ndcg, rank_targets
from tests.evaluate.support import EVALUATE, evaluate_house, run_stage
from tests.planted import dataset_from


def an_artifact(
    path: Path, *, stage: str, metrics: Mapping[str, Any], dataset: TokenisedDataset | None = None
) -> Artifact:
    def build(draft: Any) -> Mapping[str, Any]:
        if dataset is not None:
            dataset.save(draft.folder)
        return metrics

    return build_artifact(path, stage=stage, config={}, parents={}, seed=0, build=build)


def test_files_and_metrics_are_what_later_stages_read(evaluated: Artifact) -> None:
    assert set(evaluated.manifest["files"]) == {"report.json", "report.html", "model_card.md"}
    ranking = evaluated.metrics["ranking"]
    for name in ("ndcg10", "hr10", "mrr", "coverage", "novelty"):
        for prefix in ("", "popularity_", "item_knn_", "policy_"):
            assert np.isfinite(ranking[f"{prefix}{name}"])
    for name in ("ips", "snips", "dm", "dr"):
        estimate = evaluated.metrics["ope"][name]
        assert set(estimate) == {"value", "ci95", "ess"}
        assert estimate["ci95"][0] <= estimate["value"] <= estimate["ci95"][1]
    assert evaluated.metrics["verdict"] == evaluated.json("report.json")["verdict"]["sentence"]


def test_the_gate_is_complete_and_decidable(evaluated: Artifact, house: dict[str, Artifact]) -> None:
    gate = evaluated.json("report.json")["gate"]
    candidate = gate["candidate"]
    assert candidate["policy_digest"] == house["policy"].digest
    assert candidate["slates_valid"] is True
    assert candidate["finite"] is True
    returns = house["policy"].metrics["returns"]
    assert candidate["return_mean"] == pytest.approx(returns["trained"]["mean"])
    assert candidate["return_ci95"] == pytest.approx(returns["trained"]["ci95"], rel=1e-3)
    assert gate["baseline_return"] == returns["random"]["mean"]
    assert candidate["popularity_ndcg10"] == evaluated.metrics["ranking"]["popularity_ndcg10"]
    assert decide_from_report({"gate": gate}, min_gain=0.0).reasons


def test_reported_ranking_is_that_of_the_full_catalogue(evaluated: Artifact, house: dict[str, Artifact]) -> None:
    dataset = TokenisedDataset.load(house["features"].path)
    ranked = rank_targets(Popularity(dataset), dataset, dataset.test_event_Q, max_len=30)
    assert evaluated.metrics["ranking"]["popularity_ndcg10"] == pytest.approx(ndcg(ranked.rank_Q, k=10), abs=1e-12)
    assert evaluated.metrics["ranking"]["queries"] == len(dataset.test_event_Q)


def test_returns_are_copied_and_lineage_names_every_ancestor(evaluated: Artifact, house: dict[str, Artifact]) -> None:
    report = evaluated.json("report.json")
    assert report["returns"] == house["policy"].metrics["returns"]
    assert report["curves"] == house["policy"].json("curves.json")
    digests = {row["name"]: row["digest"] for row in report["lineage"]}
    assert digests == {name: artifact.digest for name, artifact in house.items()}
    names = [row["name"] for row in report["lineage"]]
    assert names.index("features") < names.index("pretrain") < names.index("policy")
    assert report["data"]["Rows kept"] == house["ingest"].metrics["rows"]


def test_what_the_served_policy_showed_is_that_of_its_best_validation(
    evaluated: Artifact, house: dict[str, Artifact]
) -> None:
    curves, told = house["policy"].json("curves.json"), evaluated.json("report.json")["exposure"]
    best = max(range(len(curves["coverage"])), key=lambda place: curves["validation_return"][place][1])
    assert told["served"] == {name: curves[name][best][1] for name in CURVES[:4]}
    assert told["start"]["coverage"] == curves["coverage"][0][1]
    dataset = TokenisedDataset.load(house["features"].path)
    assert dataset.slates is not None
    train_SK = dataset.slates.slate_SK[dataset.slates.split_S == TRAIN]
    shown = set(train_SK.ravel().tolist()) - {PADDING, UNKNOWN}
    assert told["logged"]["coverage"] == pytest.approx(len(shown) / len(dataset.items))
    assert told["source"] == "slates"


def test_a_narrow_policy_is_told_from_a_broad_one() -> None:
    dataset = dataset_from([[0, 1, 2, 3, 4], [5, 6, 0, 7, 7], [0, 0, 0, 0, 0]], items=8)  # train: 0 1 2 5 6
    curves = {"validation_return": [[0, 1.0], [10, 3.0], [20, 2.0]]}
    for served, is_narrow in ((0.3, True), (0.35, False)):
        shown = exposure_block(dataset, {**curves, "coverage": [[0, 0.9], [10, served], [20, 0.01]]})
        assert (shown["is_narrow"], shown["iteration"], shown["source"]) == (is_narrow, 10, "events")
        assert shown["logged"]["coverage"] == 5 / 8
    assert exposure_block(dataset, {"return": [[0, 1.0]]}) == {}


def test_examples_show_titles_and_no_item_twice(evaluated: Artifact, house: dict[str, Artifact]) -> None:
    report = evaluated.json("report.json")
    titles = set(TokenisedDataset.load(house["features"].path).titles)
    assert len(report["examples"]) == 3
    for user in report["examples"]:
        assert len(user["policy"]) == len(user["pretrained"]) == report["slate_size"]
        assert set(user["policy"]) <= titles
        assert user["history"]
    html = evaluated.file("report.html").read_text()
    assert report["examples"][0]["policy"][0] in html


def test_equal_inputs_give_an_equal_artifact(evaluated: Artifact, house: dict[str, Artifact], tmp_path: Path) -> None:
    assert evaluate_house(house, tmp_path).digest == evaluated.digest


def test_transfer_results_are_shown(house: dict[str, Artifact], tmp_path: Path) -> None:
    scores = {"scratch": 0.111, "zero_shot": 0.022, "full": 0.133, "head": 0.121, "lora": 0.127}
    metrics = {"domain": "music", "kept": "full", "ndcg10": scores}
    music = an_artifact(tmp_path / "music", stage="transfer", metrics=metrics)
    result = evaluate_house(house, tmp_path, transfer_music=music)
    assert result.json("report.json")["transfer"] == [metrics]
    html = result.file("report.html").read_text()
    assert all(text in html for text in ("music", "0.133", "Full tuning"))


def test_logs_without_slates_give_a_reason_and_no_estimate(house: dict[str, Artifact], tmp_path: Path) -> None:
    plain = replace(TokenisedDataset.load(house["features"].path), slates=None)
    features = an_artifact(tmp_path / "plain", stage="features", metrics={}, dataset=plain)
    result = evaluate_house(house, tmp_path, features=features)
    assert result.metrics["ope"] == {}
    assert "no slates" in result.json("report.json")["ope"]["reason"]
    assert "No off-policy estimate" in result.file("report.html").read_text()


def test_nothing_to_rank_is_named(house: dict[str, Artifact], tmp_path: Path) -> None:
    dataset = TokenisedDataset.load(house["features"].path)
    empty = replace(dataset, test_event_Q=np.empty(0, dtype=np.int64))
    features = an_artifact(tmp_path / "empty", stage="features", metrics={}, dataset=empty)
    with pytest.raises(DataError, match="no test queries"):
        evaluate_house(house, tmp_path, features=features)
    assert not (tmp_path / "runs" / "evaluate").exists()


def test_a_damaged_policy_is_named(house: dict[str, Artifact], tmp_path: Path) -> None:
    folder = tmp_path / "policy"
    shutil.copytree(house["policy"].path, folder)
    (folder / "policy.json").write_text(json.dumps({"slate_size": 3}))
    damaged = replace(house["policy"], path=folder)
    with pytest.raises(ArtifactError, match="not a policy"):
        evaluate_house(house, tmp_path, policy=damaged)


def test_more_queries_than_wanted_are_drawn_by_the_seed(house: dict[str, Artifact]) -> None:
    dataset = TokenisedDataset.load(house["features"].path)
    drawn = choose_queries(dataset, limit=10, seed=1)
    assert len(set(drawn.tolist())) == 10
    assert set(drawn) <= set(dataset.test_event_Q)
    assert np.array_equal(drawn, choose_queries(dataset, limit=10, seed=1))
    assert not np.array_equal(drawn, choose_queries(dataset, limit=10, seed=2))
    assert np.array_equal(choose_queries(dataset, limit=10_000, seed=1), dataset.test_event_Q)


def test_config_is_json_and_checked(house: dict[str, Artifact], tmp_path: Path) -> None:
    assert from_mapping(evaluate.EvaluateConfig, to_mapping(EVALUATE), where="test") == EVALUATE
    with pytest.raises(ConfigError, match="bootstrap 0"):
        evaluate.EvaluateConfig(bootstrap=0)
    inputs = {name: house[name] for name in ("features", "pretrain", "world", "policy")}
    config = replace(EVALUATE, max_queries=20, k=3)
    small = run_stage(Home(tmp_path), "evaluate", evaluate.run, config, inputs, seed=5)
    assert small.metrics["ranking"]["queries"] == 20
    assert "a random draw of the" in small.file("report.html").read_text()
    assert "Coverage@3" in small.file("report.html").read_text()


def test_the_closed_loop_reaches_the_report(house: dict[str, Artifact], evaluated: Artifact) -> None:
    found = evaluated.json("report.json")["closed_loop"]
    assert found == house["policy"].json("closed_loop.json")
    assert len(found["policies"]) >= 10
    assert set(found["ranking"]) == {"fitted", "charged"}
    assert "rank correlation" in evaluated.file("report.html").read_text()
