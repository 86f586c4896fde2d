"""The register stage: logs and registers the candidate, promotes it if the gate says so, and the tuned policies."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from recolam.contracts.artifact import Artifact, sha256_file, write_json
from recolam.contracts.home import Home, safe_name
from recolam.contracts.stage import StageContext
from recolam.errors import ArtifactError, ConfigError
from recolam.progress import say
from recolam.register.gate import Decision, decide_from_report
from recolam.register.model import POLICY_DIGEST
from recolam.register.registry import (
    CHAMPION,
    PromotionConflict,
    champion_version,
    is_whole,
    promote,
    register_version,
    version_digest,
)
from recolam.tracking import track_stage

REGISTRATION_FILE, REPORT_FILE, CARD_FILE = "registration.json", "report.json", "model_card.md"
_TRANSFER = "transfer_"


@dataclass(frozen=True)
class RegisterConfig:
    """How a policy enters the registry.

    Attributes:
        model_name: the registered model; a tuned policy's is this, a dash and its domain.
        min_gain: what the paired difference of returns to the champion must exceed, with 95 % confidence.
        min_coverage: how much of the catalogue a policy must show in simulated sessions, as a share of what as many
            showings drawn like the behaviour log's would cover; 0 for no floor. Below half there is a warning.
    """

    model_name: str = "recolam-slate-policy"
    min_gain: float = 0.0
    min_coverage: float = 0.05

    def __post_init__(self) -> None:
        safe_name(self.model_name)
        if not 0 <= self.min_gain < float("inf"):
            raise ConfigError(f"min_gain: {self.min_gain} is not a finite number of at least 0")
        if not 0 <= self.min_coverage <= 1:
            raise ConfigError(f"min_coverage: {self.min_coverage} is not a share from 0 to 1")


def run(config: RegisterConfig, context: StageContext) -> dict[str, Any]:
    """Runs the stage on `policy`, `evaluate` and any number of `transfer_<domain>` inputs.

    Running it again, also after a kill at any point, finds the versions that are there and ends in the same state.

    Raises:
        ArtifactError: a pickle in a policy's folder, or a report without the gate's numbers.
        PromotionConflict: the champion is not the one that the evaluation compared with.
    """
    policy, evaluate = context.inputs["policy"], context.inputs["evaluate"]
    decision = decide_from_report(
        evaluate.json(REPORT_FILE), min_gain=config.min_gain, min_coverage=config.min_coverage
    )
    run_id = track_stage(context.home, policy)
    version = register_version(
        context.home,
        config.model_name,
        policy,
        run_id=run_id,
        tags=_links(policy, evaluate),
        description=_description(decision, evaluate),
    )
    if decision.promote:
        _promote_candidate(config, context, version, evaluate)
    alias = CHAMPION if champion_version(context.home, config.model_name) == version else None
    domains = {
        name.removeprefix(_TRANSFER): _register_domain(config, context.home, name, tuned)
        for name, tuned in sorted(context.inputs.items())
        if name.startswith(_TRANSFER)
    }
    registration = {
        "name": config.model_name,
        "version": version,
        "alias": alias,
        "promoted": decision.promote,
        "reasons": decision.reasons,
        "source": f"models:/{config.model_name}/{version}",
        "policy_digest": policy.digest,
        "domains": domains,
    }
    write_json(context.out / REGISTRATION_FILE, registration)
    say(f"{config.model_name} version {version}: {alias or 'not champion'}. {' '.join(decision.reasons)}")
    return {"name": config.model_name, "version": version, "alias": alias, "promoted": decision.promote}


def is_intact(artifact: Artifact, home: Home) -> bool:
    """Whether the versions that a register artifact speaks of are still in the home's registry, files and all."""
    registration = artifact.json(REGISTRATION_FILE)
    recorded = [registration, *registration["domains"].values()]
    return all(is_whole(home, entry["name"], entry["version"], entry["policy_digest"]) for entry in recorded)


def _promote_candidate(config: RegisterConfig, context: StageContext, version: str, evaluate: Artifact) -> None:
    current = champion_version(context.home, config.model_name)
    if current == version:
        return
    compared = evaluate.json(REPORT_FILE)["gate"]["champion"]
    compared_digest = None if compared is None else compared["policy_digest"]
    current_digest = None if current is None else version_digest(context.home, config.model_name, current)
    if compared_digest != current_digest:
        raise PromotionConflict(
            f"{config.model_name}: the evaluation compared with the champion of policy {compared_digest}, "
            f"but version {current} with policy {current_digest} is champion now: evaluate again"
        )
    report_digest = sha256_file(evaluate.file(REPORT_FILE))
    promote(context.home, config.model_name, version, current, report_digest=report_digest)


def _register_domain(config: RegisterConfig, home: Home, name: str, tuned: Artifact) -> dict[str, Any]:
    domain = safe_name(name.removeprefix(_TRANSFER))
    model_name = safe_name(f"{config.model_name}-{domain}")
    kept = str(_metric(tuned, "kept"))
    is_tuned = kept.startswith("tuned")
    verdict = f"Kept for domain {domain}: {kept}."
    version = register_version(
        home,
        model_name,
        tuned,
        run_id=track_stage(home, tuned),
        tags=_lineage(tuned) | {"recolam.domain": domain, "recolam.kept": kept},
        description=verdict,
    )
    if is_tuned:
        promote(home, model_name, version, champion_version(home, model_name))
    alias = CHAMPION if champion_version(home, model_name) == version else None
    return {"name": model_name, "version": version, "alias": alias, "kept": kept, "policy_digest": tuned.digest}


def _metric(tuned: Artifact, key: str) -> Any:
    if key not in tuned.metrics:
        raise ArtifactError(f"{tuned.path}: its metrics lack {key!r}")
    return tuned.metrics[key]


def _links(policy: Artifact, evaluate: Artifact) -> dict[str, str]:
    report = {"recolam.report_digest": sha256_file(evaluate.file(REPORT_FILE)), "recolam.evaluate": evaluate.digest}
    return _lineage(policy) | report


def _lineage(policy: Artifact) -> dict[str, str]:
    parents: Mapping[str, Any] = policy.manifest["parents"]
    dataset = parents["features"]["digest"] if "features" in parents else "unknown"
    return {
        POLICY_DIGEST: policy.digest,
        "recolam.dataset_digest": dataset,
        "recolam.commit": policy.manifest["commit"],
        "recolam.seed": str(policy.seed),
        "recolam.stage": policy.stage,
    }


def _description(decision: Decision, evaluate: Artifact) -> str:
    verdict = "Passed the gate. " if decision.promote else "Did not pass the gate. "
    card = evaluate.file(CARD_FILE).read_text() if CARD_FILE in evaluate.manifest["files"] else ""
    return f"{verdict}{' '.join(decision.reasons)}\n\n{card}"
