"""The champion on the candidate's ground."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from recolam.contracts.artifact import Artifact, Draft, build_artifact
from tests.evaluate.support import evaluate_house


def renamed(policy: Artifact, root: Path) -> Artifact:
    """The same policy for a catalogue that has none of these items."""

    def build(draft: Draft) -> Mapping[str, Any]:
        for name in policy.manifest["files"]:
            (draft.folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(policy.file(name), draft.folder / name)
        vocabulary = policy.json("vocabulary.json")
        vocabulary["items"] = [f"elsewhere-{item}" for item in vocabulary["items"]]
        (draft.folder / "vocabulary.json").write_text(json.dumps(vocabulary))
        return policy.metrics

    return build_artifact(root / "other", stage="policy", config={}, parents={}, seed=policy.seed, build=build)


def test_the_candidate_as_its_own_champion_earns_the_same_on_every_seed(
    house: dict[str, Artifact], tmp_path: Path
) -> None:
    report = evaluate_house(house, tmp_path, champion=house["policy"]).json("report.json")
    gate = report["gate"]
    assert gate["champion"]["policy_digest"] == house["policy"].digest
    assert gate["champion"]["ndcg10"] == pytest.approx(gate["candidate"]["ndcg10"])
    assert report["returns"]["champion"]["per_seed"] == pytest.approx(report["returns"]["trained"]["per_seed"])
    assert gate["difference"]["mean"] == pytest.approx(0.0)


def test_a_champion_of_another_catalogue_has_no_standing(house: dict[str, Artifact], tmp_path: Path) -> None:
    other = renamed(house["policy"], tmp_path)
    report = evaluate_house(house, tmp_path, champion=other).json("report.json")
    assert report["gate"]["champion"] == {"policy_digest": other.digest, "is_comparable": False}
    assert report["gate"]["difference"] is None
    assert "champion" not in report["returns"]
