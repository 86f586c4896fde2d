"""The stages in order, and the one way to run them: from the command line, from Airflow, from tests.

A stage's artifact lies at `runs/<stage>/<key>`; the key is a digest of the stage, its config, its parents and the seed,
so unchanged work is found instead of done again. `runs/current/<plan>.json` points to each stage's latest artifact.
"""

import importlib
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from recolam import __version__, presets
from recolam.contracts.artifact import Artifact, Draft, build_artifact, canonical_digest, open_artifact, write_json
from recolam.contracts.config import from_mapping, merged, to_mapping
from recolam.contracts.home import Home
from recolam.contracts.stage import StageContext
from recolam.errors import ArtifactError, ConfigError
from recolam.progress import say
from recolam.threads import wait_passively
from recolam.tracking import tracking_uri

MODEL_NAME = "recolam-slate-policy"


@dataclass(frozen=True)
class Stage:
    """Where a stage's code is (imported only when it runs), which artifacts it reads, and whether torchrun may start it
    in several processes."""

    module: str
    config: str
    inputs: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    is_shared: bool = False


STAGES: dict[str, Stage] = {
    "demo": Stage("recolam.world.demo", "DemoConfig"),
    "ingest": Stage("recolam.logs.stage", "IngestConfig", (), ("demo",)),
    "features": Stage("recolam.features.stage", "FeaturesConfig", ("ingest",)),
    "pretrain": Stage("recolam.pretrain.stage", "PretrainConfig", ("features",), is_shared=True),
    "world": Stage("recolam.world.stage", "WorldConfig", ("features", "pretrain"), ("demo",)),
    "policy": Stage("recolam.policy.stage", "PolicyConfig", ("pretrain", "world", "features"), is_shared=True),
    "transfer": Stage("recolam.transfer.stage", "TransferConfig", ("policy", "features")),
    "evaluate": Stage(
        "recolam.evaluate.stage", "EvaluateConfig", ("features", "pretrain", "world", "policy"), ("champion",)
    ),
    "register": Stage("recolam.register.stage", "RegisterConfig", ("policy", "evaluate")),
}


@dataclass(frozen=True)
class Plan:
    """One pipeline over one log: what `recolam run` was asked to do."""

    data: str
    format: str
    preset: str
    home: Home
    seed: int
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def is_demo(self) -> bool:
        return self.data == "demo"

    @property
    def name(self) -> str:
        """Names the plan's files; made of nothing that could leave the folder."""
        stem = Path(self.data).name.split(".")[0].lower()
        place = "" if self.is_demo else f"-{canonical_digest([str(Path(self.data).absolute()), self.format])[:8]}"
        return re.sub(r"[^a-z0-9-]", "-", f"{stem[:40]}-{self.preset}-{self.seed}{place}")

    @property
    def pointers(self) -> Path:
        return self.home.runs / "current" / f"{self.name}.json"


def make_plan(
    data: str = "demo",
    format: str = "auto",  # the option's name on the command line
    preset: str = "quick",
    home: str | None = None,
    seed: int = 0,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
) -> Plan:
    """Checks what can be checked before anything runs.

    Raises:
        ConfigError: an unknown preset, a negative seed, a home that is no folder or that MLflow cannot use, overrides
            for an unknown stage or key.
    """
    presets.values(preset, is_demo=data == "demo")
    if seed < 0:
        raise ConfigError(f"seed is {seed}, below 0")
    plan = Plan(data, format, preset, Home.at(home), seed, overrides or {})
    if plan.home.root.exists() and not plan.home.root.is_dir():
        raise ConfigError(f"home {plan.home.root} is not a folder")
    tracking_uri(plan.home)
    for stage, values in plan.overrides.items():
        if stage not in STAGES:
            raise ConfigError(f"config: unknown stage {stage!r}; stages: {', '.join(STAGES)}")
        if not isinstance(values, Mapping):
            raise ConfigError(f"config: {stage}: an object of settings is needed, not {values!r}")
        stage_config(plan, stage)
    return plan


def stage_config(plan: Plan, stage: str, **values: Any) -> Any:
    """The stage's config: defaults, then the preset, then the overrides, then `values`."""
    settings = merged(presets.values(plan.preset, is_demo=plan.is_demo).get(stage, {}), plan.overrides.get(stage, {}))
    if stage == "ingest":
        settings = {"data": plan.data, "format": plan.format, **settings}
    return _config_of(stage, {**settings, **values})


def run_stage(plan: Plan, stage: str, *, domain: str | None = None, is_tracked: bool = True) -> dict[str, Any]:
    """Runs a stage on its parents' latest artifacts, or finds that it was done already.

    Args:
        domain: the target domain of "transfer" (which makes that domain's features first), or of "features".
        is_tracked: whether the artifact is recorded in MLflow.

    Returns:
        {"path", "digest", "metrics", "reused", "seconds"}.

    Raises:
        ArtifactError: a parent has not been made yet.
        ConfigError: an unknown stage or domain.
    """
    if stage not in STAGES:
        raise ConfigError(f"unknown stage {stage!r}; stages: {', '.join(STAGES)}")
    values: dict[str, Any] = {}
    if stage == "transfer":
        if domain not in domains(plan):
            raise ConfigError(f"domain {domain!r} is not one of {', '.join(domains(plan)) or 'none'}")
        run_stage(plan, "features", domain=domain)
    if stage == "features" and domain is not None:
        values["domain"] = domain
    config = stage_config(plan, stage, **values)
    artifact, reused = execute(
        stage, config, _parents(plan, stage, domain), home=plan.home, seed=plan.seed, is_tracked=is_tracked
    )
    _point(plan, _slot(stage, domain), artifact)
    return {
        "path": str(artifact.path), "digest": artifact.digest, "metrics": dict(artifact.metrics), "reused": reused,
        "seconds": artifact.manifest["seconds"],
    }  # fmt: skip


def execute(
    stage: str, config: Any, inputs: Mapping[str, Artifact], *, home: Home, seed: int, is_tracked: bool = True
) -> tuple[Artifact, bool]:
    """The artifact of this work, and whether it was there already. Tracked artifacts are recorded in MLflow, once.

    Under torchrun every process calls this; the first one makes the artifact, and the others work with it and wait.

    Raises:
        ConfigError: several processes for a stage that is for one.
    """
    module = _module(stage)
    recorded = to_mapping(config)
    identity: dict[str, Any] = {"stage": stage, "version": __version__, "seed": seed}
    source = module.fingerprint(config) if hasattr(module, "fingerprint") else None
    if source is not None:  # the content of outside files, whatever they are called
        identity["source"] = source
        recorded |= {name: Path(recorded[name]).name for name in ("data", "learnt_reward") if name in recorded}
    identity["config"] = recorded
    identity["parents"] = {name: parent.digest for name, parent in inputs.items()}
    final = home.runs / stage / canonical_digest(identity)[:16]

    def build(draft: Draft) -> Mapping[str, Any]:
        context = StageContext(home=home, inputs=inputs, out=draft.folder, scratch=draft.scratch, seed=seed)
        return module.run(config, context)

    with _processes(stage, config) as processes:
        if processes is not None and not processes.is_first:
            return _follow(processes, final, stage, build)
        artifact = _intact(module, final, stage, home)
        reused = artifact is not None
        if processes is not None:
            processes.agree(reused)
        if artifact is None:
            say(f"== {stage}")
            begin = time.monotonic()
            artifact = build_artifact(final, stage=stage, config=recorded, parents=inputs, seed=seed, build=build)
            say(f"== {stage}: {time.monotonic() - begin:.1f} s, {artifact.path}")
        else:
            say(f"== {stage}: unchanged, {artifact.path}")
        if is_tracked:
            _track(home, artifact)
        if processes is not None:
            processes.agree(True)
    return artifact, reused


def _processes(stage: str, config: Any) -> AbstractContextManager[Any]:
    """Joins the processes that torchrun started; None for one alone, which need not import torch for that."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return nullcontext()
    if not STAGES[stage].is_shared:
        raise ConfigError(f"{stage} runs in one process; torchrun started {os.environ['WORLD_SIZE']}")
    return importlib.import_module("recolam.sequence.distributed").process_group(
        getattr(config.training, "device", "cpu")
    )


def _follow(processes: Any, final: Path, stage: str, build: Callable[[Draft], Any]) -> tuple[Artifact, bool]:
    """What every process but the first does: the stage's work, into a folder that is thrown away."""
    reused = bool(processes.agree(False))
    if not reused:
        with tempfile.TemporaryDirectory() as folder:
            out, scratch = Path(folder, "out"), Path(folder, "scratch")
            out.mkdir()
            scratch.mkdir()
            build(Draft(folder=out, scratch=scratch, final=final))
    processes.agree(True)
    return open_artifact(final, stage=stage), reused


def run_all(plan: Plan) -> Path:
    """All stages in order; returns the path of summary.json."""
    if plan.is_demo:
        run_stage(plan, "demo")
    for stage in ("ingest", "features", "pretrain", "world", "policy"):
        run_stage(plan, stage)
    for domain in domains(plan):
        run_stage(plan, "transfer", domain=domain)
    for stage in ("evaluate", "register"):
        run_stage(plan, stage)
    return summarise(plan)


def domains(plan: Plan) -> list[str]:
    """The target domains: all that the log names but the source's own."""
    source = _latest(plan, "features").metrics["domain"]
    return sorted(name for name in _latest(plan, "ingest").metrics["domains"] if name != source)


def summarise(plan: Plan) -> Path:
    """Writes summary.json: the run's figures under names that scripts may rely on."""
    slots = json.loads(plan.pointers.read_text())
    artifacts = {slot: open_artifact(plan.pointers.parent / path) for slot, path in slots.items()}
    ingest, evaluate, register = (artifacts[name].metrics for name in ("ingest", "evaluate", "register"))
    returns = artifacts["policy"].metrics["returns"]
    ranking = evaluate["ranking"]
    summary = {
        "dataset": {name: ingest[name] for name in ("name", "rows", "users", "items", "quarantined")},
        "stages": {
            slot: {"path": str(artifact.path), "digest": artifact.digest, "seconds": artifact.manifest["seconds"]}
            for slot, artifact in artifacts.items()
        },
        "ranking": ranking,
        "policy": {f"return_{name}": entry["mean"] for name, entry in returns.items()}
        | {"ci95": {name: entry["ci95"] for name, entry in returns.items()}},
        "ope": evaluate["ope"],
        "transfer": {
            domain: dict(artifacts[_slot("transfer", domain)].metrics)
            for domain in domains(plan)
        },
        "model": {name: register[name] for name in ("name", "version", "alias")},
        "report": str(artifacts["evaluate"].file("report.html")),
    }  # fmt: skip
    folder = plan.home.runs / "summary" / plan.name
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "summary.json", summary)
    return folder / "summary.json"


def _slot(stage: str, domain: str | None) -> str:
    return stage if domain is None else f"{stage}:{domain}"


def _parents(plan: Plan, stage: str, domain: str | None) -> dict[str, Artifact]:
    inputs = {name: _latest(plan, name) for name in STAGES[stage].inputs}
    if stage == "transfer":
        inputs["features"] = _latest(plan, _slot("features", domain))
    if stage in ("ingest", "world") and plan.is_demo:
        inputs["demo"] = _latest(plan, "demo")
    if stage in ("evaluate", "register"):
        inputs |= {f"transfer_{name}": _latest(plan, _slot("transfer", name)) for name in domains(plan)}
    if stage == "evaluate":
        champion = importlib.import_module("recolam.register.registry").champion_policy(plan.home, MODEL_NAME)
        if champion is not None and champion.digest != inputs["policy"].digest:
            inputs["champion"] = champion
    return inputs


def _latest(plan: Plan, slot: str) -> Artifact:
    slots = json.loads(plan.pointers.read_text()) if plan.pointers.is_file() else {}
    if slot not in slots:
        raise ArtifactError(f"{plan.pointers}: no {slot} yet; run that stage first")
    return open_artifact(plan.pointers.parent / slots[slot])


def _point(plan: Plan, slot: str, artifact: Artifact) -> None:
    plan.pointers.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(plan.pointers.with_suffix(".lock")):
        slots = json.loads(plan.pointers.read_text()) if plan.pointers.is_file() else {}
        slots[slot] = f"../{artifact.path.relative_to(plan.home.runs.resolve()).as_posix()}"
        write_json(plan.pointers, slots)


def _intact(module: Any, final: Path, stage: str, home: Home) -> Artifact | None:
    """The finished artifact at `final`, if it and what it refers to outside are still whole."""
    if not final.exists():
        return None
    artifact = open_artifact(final, stage=stage)
    return artifact if not hasattr(module, "is_intact") or module.is_intact(artifact, home) else None


def _track(home: Home, artifact: Artifact) -> None:
    """Records the artifact in MLflow, once; the marker spares a finished pipeline the import of MLflow."""
    marker = artifact.path.parent / f".{artifact.path.name}.tracked"
    if marker.is_file() and marker.read_text() == artifact.digest and (home.mlruns / "mlflow.db").is_file():
        return
    importlib.import_module("recolam.tracking").track_stage(home, artifact)
    marker.write_text(artifact.digest)


def _module(stage: str) -> Any:
    wait_passively()
    return importlib.import_module(STAGES[stage].module)


def _config_of(stage: str, values: Mapping[str, Any]) -> Any:
    module = _module(stage)
    return from_mapping(getattr(module, STAGES[stage].config), values, where=stage)
