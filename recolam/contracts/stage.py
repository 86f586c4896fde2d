"""What every stage function is given. It fills `out` with files and returns metrics: small numbers and names."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recolam.contracts.artifact import Artifact
from recolam.contracts.home import Home


@dataclass(frozen=True)
class StageContext:
    """The surroundings of one stage run.

    Attributes:
        home: where Delta tables, MLflow and artifacts live.
        inputs: the parents, by the name the stage gives them.
        out: an empty folder to fill; it becomes the artifact.
        scratch: survives a killed run and is emptied after success: checkpoints go here.
        seed: the run's seed; derive streams from it with `recolam.seeding`.
    """

    home: Home
    inputs: Mapping[str, Artifact]
    out: Path
    scratch: Path
    seed: int


StageFunction = Callable[[Any, StageContext], Mapping[str, Any]]
