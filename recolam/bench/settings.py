"""Settings of the sequence model for a benchmark: a preset, and a file of settings over it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recolam import presets
from recolam.contracts.config import from_mapping, merged, read_settings
from recolam.errors import ConfigError
from recolam.pretrain.stage import PretrainConfig


def sequence_config(preset: str, file: str | None) -> PretrainConfig:
    """The preset `preset` of `presets.SEQUENCE`, with the settings in `file` over it, key by key at every depth.

    Args:
        file: a JSON object of pretraining settings, or of {"pretrain": settings} as `--config` of other commands has.

    Raises:
        ConfigError: no such preset or file, text that is not a JSON object, an unknown key, a value of another type.
    """
    if preset not in presets.SEQUENCE:
        raise ConfigError(f"preset {preset!r} is not one of {', '.join(presets.SEQUENCE)}")
    values: Mapping[str, Any] = presets.SEQUENCE[preset]
    if file is None:
        return from_mapping(PretrainConfig, values, where=f"preset {preset}")
    settings: Mapping[str, Any] = read_settings(Path(file))
    if set(settings) == {"pretrain"} and isinstance(settings["pretrain"], Mapping):
        settings = settings["pretrain"]
    return from_mapping(PretrainConfig, merged(values, settings), where=file)
