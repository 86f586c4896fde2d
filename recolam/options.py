"""Options that several commands share, and how their text is read."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from recolam import pipeline, presets
from recolam.contracts.artifact import Artifact, open_artifact
from recolam.contracts.config import read_settings
from recolam.errors import ConfigError

Preset = StrEnum("Preset", list(presets.NAMES))  # type: ignore[misc]  # the names live in one place

HomeOption = Annotated[
    str | None, typer.Option("--home", help="Root of feature_store/, mlruns/ and runs/; default: this repository.")
]
SeedOption = Annotated[int, typer.Option("--seed", help="Decides every random draw.")]
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", help='JSON file of settings over the preset, by stage: {"pretrain": {"width": 64}}.'),
]
DataOption = Annotated[str, typer.Option("--data", help="'demo', or the path of a log: zip, folder or file.")]
PresetOption = Annotated[Preset, typer.Option("--preset", help="How much work: tiny, quick, standard or full.")]
FormatOption = Annotated[str, typer.Option(help="The log's format; 'auto' looks.")]
InputsOption = Annotated[
    list[str] | None, typer.Option("--input", "-i", help="NAME=PATH of a parent artifact; repeat for each.")
]
StageConfigOption = Annotated[Path | None, typer.Option("--config", help="JSON file of this stage's settings.")]


def read_config(path: Path | None) -> dict[str, Any]:
    return {} if path is None else read_settings(path)


def open_inputs(stage: str, inputs: list[str]) -> dict[str, Artifact]:
    """The parents named as NAME=PATH.

    Raises:
        ConfigError: an input is missing, repeated or unknown to the stage.
        ArtifactError: an input is damaged, or another stage's.
    """
    spec = pipeline.STAGES[stage]
    parents: dict[str, Artifact] = {}
    for text in inputs:
        name, separator, path = text.partition("=")
        known = name in spec.inputs + spec.optional or name.startswith("transfer_")
        if not separator or not known or name in parents:
            raise ConfigError(f"--input {text!r}: {stage} reads {', '.join(spec.inputs + spec.optional) or 'nothing'}")
        made_by = {"champion": "policy"}.get(name, "transfer" if name.startswith("transfer_") else name)
        parents[name] = open_artifact(path, stage=made_by)
    missing = [name for name in spec.inputs if name not in parents]
    if missing:
        raise ConfigError(f"{stage} needs --input {missing[0]}=PATH")
    return parents


def ids(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]
