"""The dataset that a benchmark reads: a log, ingested and tokenised in a home that is thrown away."""

import tempfile
from pathlib import Path
from typing import Any, Literal

from recolam import pipeline
from recolam.contracts.dataset import DATASET_FILE, TENSORS_FILE, TokenisedDataset
from recolam.contracts.files import canonical_digest, sha256_file

Protocol = Literal["loo", "temporal"]
Ties = Literal["hash", "file", "item"]
_SPLITS = {"loo": "leave_one_out", "temporal": "temporal"}


def dataset_of(data: str, *, protocol: Protocol = "loo", ties: Ties = "hash") -> TokenisedDataset:
    """All of the log as one domain, split and ordered with seed 0, made in a home that is thrown away.

    Args:
        data: "demo", or the path of a log.
        protocol: leave-one-out, or one cut in time for everybody.
        ties: see `FeaturesConfig`.

    Raises:
        DataError, ConfigError: see the ingest and the features stage.
    """
    with tempfile.TemporaryDirectory() as home:
        features = {"split": _SPLITS[protocol], "ties": ties}
        overrides: dict[str, dict[str, Any]] = {"ingest": {"is_whole": True}, "features": features}
        plan = pipeline.make_plan(data, home=home, overrides=overrides)
        for stage in (["demo"] if plan.is_demo else []) + ["ingest", "features"]:
            folder = pipeline.run_stage(plan, stage, is_tracked=False)["path"]
        return TokenisedDataset.load(Path(folder))


def save_with_digest(dataset: TokenisedDataset, folder: Path) -> str:
    """Saves the dataset below `folder` and returns the digest of what it holds."""
    folder.mkdir(parents=True)
    dataset.save(folder)
    return canonical_digest([sha256_file(folder / name) for name in (TENSORS_FILE, DATASET_FILE)])
