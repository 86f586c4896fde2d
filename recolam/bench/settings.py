"""Settings of the sequence model for a benchmark: a preset, and a file of settings over it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recolam import presets
from recolam.contracts.config import from_mapping
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
    settings = _read_object(Path(file))
    if set(settings) == {"pretrain"} and isinstance(settings["pretrain"], Mapping):
        settings = settings["pretrain"]
    return from_mapping(PretrainConfig, _over(values, settings), where=file)


def _read_object(path: Path) -> Mapping[str, Any]:
    try:
        values = json.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path}: no such config file ({error.strerror})") from error
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}: line {error.lineno}, column {error.colno}: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not text in UTF-8 ({error})") from error
    if not isinstance(values, Mapping):
        raise ConfigError(f"{path}: a JSON object is needed, not {type(values).__name__}")
    return values


def _over(base: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in extra.items():
        below = merged.get(key)
        is_nested = isinstance(value, Mapping) and isinstance(below, Mapping)
        merged[key] = _over(below, value) if is_nested else value  # type: ignore[arg-type]
    return merged
