"""Trainings of one model with several seeds: each done once, kept in a file, resumed after a kill, side by side.

A training is known by its key: the digests of the dataset, of the whole configuration and of the source text of
`recolam/sequence/*.py` and `recolam/pretrain/*.py`, with the versions of recolam and torch, the device and the number
format of its products. A result of other code is therefore never taken for this one's, whether that code was committed
or not; the commit is recorded beside it. Results lie at `<home>/runs/quality/<key>/seed-S.json`, checkpoints beside
them until they are done.
"""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock

import recolam
from recolam.bench.workers import processes
from recolam.contracts.artifact import current_commit
from recolam.contracts.config import to_mapping
from recolam.contracts.dataset import TokenisedDataset
from recolam.contracts.files import canonical_digest, sha256_file, write_json
from recolam.contracts.home import Home
from recolam.errors import ArtifactError
from recolam.pretrain.stage import PretrainConfig, new_model
from recolam.progress import say
from recolam.seeding import derive
from recolam.sequence.precision import resolve_precision
from recolam.sequence.ranking import ndcg, rank_targets
from recolam.sequence.training import resolve_device, train_sequence_model

_SOURCES = ("sequence", "pretrain")


@dataclass(frozen=True)
class Job:
    """One training.

    Attributes:
        data: folder of a saved dataset.
        digest: what the dataset holds (`save_with_digest`).
        sources: `sources_digest()` of the process that gives out the jobs.
    """

    home: Home
    data: Path
    digest: str
    sources: str
    config: PretrainConfig
    seed: int
    label: str

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What makes this training what it is, its seed left out."""
        device = resolve_device(self.config.training.device)
        return {
            "dataset": self.digest,
            "config": to_mapping(self.config),
            "sources": self.sources,
            "version": recolam.__version__,
            "torch": torch.__version__,
            "device": str(device),
            "format": str(resolve_precision(self.config.training.precision, device)),
        }

    @cached_property
    def folder(self) -> Path:
        return self.home.runs / "quality" / canonical_digest(self.identity)[:16]

    @property
    def result(self) -> Path:
        return self.folder / f"seed-{self.seed}.json"


def sources_digest() -> str:
    """A digest of the source text of the sequence model and its training, file by file."""
    root = Path(recolam.__file__).parent
    files = sorted(path for room in _SOURCES for path in (root / room).glob("*.py"))
    return canonical_digest({path.relative_to(root).as_posix(): sha256_file(path) for path in files})


def train_all(jobs: Sequence[Job], *, workers: int) -> list[dict[str, Any]]:
    """Trains what has not been trained, `workers` trainings at a time, and returns every job's result, in order.

    One worker is this process, with its threads. More are processes of their own that share the cores; a thread count
    may change the last bits of sums, and is part of each result. Workers end when this process does.

    Returns:
        Per job: seed, ndcg10 and hr10 on the test queries (ranked in float32), validation_ndcg10 (None where nothing
        was validated), best_epoch, epochs, train_minutes (without validation and checkpoints), parameters, threads,
        commit.

    Raises:
        DataError: a training failed; those under way are finished first.
        ArtifactError: a result or checkpoint was changed since it was written.
    """
    open_jobs = list({job.result: job for job in jobs if not job.result.is_file()}.values())
    if len(open_jobs) < len(jobs):
        say(f"quality: {len(jobs) - len(open_jobs)} of {len(jobs)} trainings were done before")
    workers = min(workers, len(open_jobs))
    if workers <= 1:
        for job in open_jobs:
            train_one(job)
    else:
        threads = max(1, _cores() // workers)
        with processes(workers, threads=threads) as pool:
            for future in [pool.submit(train_one, job) for job in open_jobs]:
                future.result()
    return [_read(job) for job in jobs]


def train_one(job: Job) -> None:
    """Trains, ranks the test queries and writes the result. Two processes never train the same job at once."""
    job.folder.mkdir(parents=True, exist_ok=True)
    with FileLock(job.folder / f".seed-{job.seed}.lock"):
        if job.result.is_file():
            return
        scratch = job.folder / f"seed-{job.seed}.scratch"
        scratch.mkdir(exist_ok=True)
        dataset = TokenisedDataset.load(job.data)
        numbers = _train_and_rank(job, dataset, scratch)
        write_json(job.result, {"identity": job.identity, "commit": current_commit(), "result": numbers})
        shutil.rmtree(scratch)


def _train_and_rank(job: Job, dataset: TokenisedDataset, scratch: Path) -> dict[str, Any]:
    training = job.config.training
    model = new_model(dataset, job.config, seed=job.seed)
    state = train_sequence_model(
        model, dataset, training, seed=derive(job.seed, "pretrain"), scratch=scratch, label=job.label
    )
    device = next(model.parameters()).device
    ranked = rank_targets(model, dataset, dataset.test_event_Q, max_len=training.max_len, device=device)
    return {
        "seed": job.seed,
        "ndcg10": ndcg(ranked.rank_Q, k=10),
        "hr10": float((ranked.rank_Q <= 10).mean()),
        "validation_ndcg10": state.best_ndcg if np.isfinite(state.best_ndcg) else None,
        "best_epoch": state.best_epoch,
        "epochs": state.epoch,
        "train_minutes": round(state.train_seconds / 60, 3),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "threads": torch.get_num_threads(),
    }


def _read(job: Job) -> dict[str, Any]:
    try:
        content = json.loads(job.result.read_text())
        is_ours = content["identity"] == json.loads(json.dumps(job.identity))
        numbers = {**content["result"], "commit": content["commit"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{job.result}: not a training's result ({error}); delete it to train again") from error
    if not is_ours or numbers.get("seed") != job.seed:
        raise ArtifactError(f"{job.result}: the result of another training; delete it to train again")
    return numbers


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
