"""The dataset that a benchmark reads: a log, ingested and tokenised in a home that is thrown away."""

import tempfile
from pathlib import Path
from typing import Any

from recolam import pipeline
from recolam.contracts.dataset import TokenisedDataset


def dataset_of(data: str) -> TokenisedDataset:
    """All of the log as one domain, split leave-one-out, made in a home that is thrown away."""
    with tempfile.TemporaryDirectory() as home:
        overrides: dict[str, dict[str, Any]] = {"ingest": {"is_whole": True}, "features": {"split": "leave_one_out"}}
        plan = pipeline.make_plan(data, home=home, overrides=overrides)
        for stage in (["demo"] if plan.is_demo else []) + ["ingest", "features"]:
            folder = pipeline.run_stage(plan, stage, is_tracked=False)["path"]
        return TokenisedDataset.load(Path(folder))
