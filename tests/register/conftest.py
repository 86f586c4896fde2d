"""A tiny real policy, evaluations of it, and homes with a migrated MLflow database."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from recolam.contracts.artifact import Artifact, Draft, build_artifact
from recolam.contracts.dataset import FIRST_ITEM
from recolam.contracts.home import Home
from recolam.contracts.stage import StageContext
from recolam.policy.agent import SlateAgent
from recolam.register.model import log_policy
from recolam.sequence.model import SequenceConfig, SequenceModel
from recolam.tracking import client, safe_mlflow, track_stage
from tests.databases import home_with_database

safe_mlflow()  # its switches must be set before a test file imports mlflow
ITEMS = [f"item-{number}" for number in range(12)]


def _save_policy(folder: Path, *, seed: int) -> None:
    torch.manual_seed(seed)
    sizes = {"text_features": 4, "max_len": 6, "width": 8, "blocks": 1, "heads": 1}
    model = SequenceModel(SequenceConfig(tokens=FIRST_ITEM + len(ITEMS), **sizes))
    settings = {"slate_size": 3, "max_len": 6, "domain": None}
    SlateAgent(model.eval(), 1.0, tuple(ITEMS), settings).save(folder, titles=ITEMS)


@pytest.fixture(scope="session")
def make_artifact() -> Callable[..., Artifact]:
    """Builds a real artifact from files given as JSON values or text."""

    def make(path: Path, *, stage: str, files: dict[str, Any], **manifest: Any) -> Artifact:
        def build(draft: Draft) -> dict[str, Any]:
            for name, content in files.items():
                (draft.folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
            return manifest.get("metrics", {})

        config, parents = manifest.get("config", {}), manifest.get("parents", {})
        return build_artifact(path, stage=stage, config=config, parents=parents, seed=7, build=build)

    return make


@pytest.fixture(scope="session")
def make_policy() -> Callable[..., Artifact]:
    """Builds a real, untrained policy artifact; another seed makes another policy."""

    def make(path: Path, *, seed: int = 0, stage: str = "policy", metrics: dict[str, Any] | None = None) -> Artifact:
        def build(draft: Draft) -> dict[str, Any]:
            _save_policy(draft.folder, seed=seed)
            return metrics or {"returns": {"random": {"mean": 0.1}}}

        return build_artifact(path, stage=stage, config={"temperature": 1.0}, parents={}, seed=seed, build=build)

    return make


@pytest.fixture(scope="session")
def policies(tmp_path_factory: pytest.TempPathFactory, make_policy: Callable[..., Artifact]) -> list[Artifact]:
    """Three different policies."""
    folder = tmp_path_factory.mktemp("policies")
    return [make_policy(folder / f"policy-{seed}", seed=seed) for seed in range(3)]


@pytest.fixture
def home(tmp_path: Path, migrated: Path) -> Home:
    return home_with_database(tmp_path / "home", migrated)


@pytest.fixture(scope="session")
def logged_folders(
    tmp_path_factory: pytest.TempPathFactory, migrated: Path, policies: list[Artifact]
) -> dict[str, Path]:
    """The folder of each policy's logged MLflow model, by policy digest; read-only for tests."""
    home = home_with_database(tmp_path_factory.mktemp("logged") / "home", migrated)
    folders = {}
    for policy in policies:
        uri = log_policy(home, policy, run_id=track_stage(home, policy))
        location = client(home).get_logged_model(uri.removeprefix("models:/")).artifact_location
        folders[policy.digest] = Path(location.removeprefix("file://"))
    return folders


@pytest.fixture
def evaluation(tmp_path: Path, make_artifact: Callable[..., Artifact]) -> Callable[..., Artifact]:
    """Builds an evaluate artifact whose gate compares a candidate with a champion."""

    def make(candidate: Artifact, champion: Artifact | None = None, *, gain: float = 1.0) -> Artifact:
        report = {"gate": gate_numbers(candidate.digest, champion and champion.digest, gain=gain)}
        name = f"evaluate-{candidate.digest[:8]}-{champion.digest[:8] if champion else 'none'}-{gain}"
        files = {"report.json": report, "model_card.md": "# A tiny policy\n", "report.html": "<p>Good.</p>"}
        return make_artifact(tmp_path / name, stage="evaluate", files=files, parents={"policy": candidate})

    return make


def gate_numbers(candidate: str, champion: str | None, *, gain: float = 1.0) -> dict[str, Any]:
    """What evaluate writes under `gate`: the candidate earns `gain` +- 0.5 more than the champion."""
    own = {"policy_digest": candidate, "return_mean": 5.0, "return_ci95": [4.5, 5.5], "ndcg10": 0.2, "coverage": 0.5}
    checks = {"popularity_ndcg10": 0.1, "slates_valid": True, "finite": True}
    other = {"policy_digest": champion, "return_mean": 5.0 - gain, "return_ci95": [0.0, 9.0], "ndcg10": 0.2}
    return {
        "candidate": own | checks,
        "champion": None if champion is None else other,
        "difference": None if champion is None else {"mean": gain, "ci95": [gain - 0.5, gain + 0.5]},
        "baseline_return": 1.0,
    }


@pytest.fixture
def context(tmp_path: Path, home: Home) -> Callable[..., StageContext]:
    """A stage context with an empty output folder."""

    def make(**inputs: Artifact) -> StageContext:
        number = len(list(tmp_path.glob("out-*")))
        out, scratch = tmp_path / f"out-{number}", tmp_path / "scratch"
        out.mkdir()
        scratch.mkdir(exist_ok=True)
        return StageContext(home=home, inputs=inputs, out=out, scratch=scratch, seed=7)

    return make
