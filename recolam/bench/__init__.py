"""Benchmarks: each measures one thing and returns one JSON-able object with the machine's thread count beside it."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from typing import Any

import torch

from recolam.bench.boredom import BoredomBench, boredom
from recolam.bench.closed_loop import ClosedLoopBench, closed_loop_bench
from recolam.bench.gradients import GradientsBench, gradients
from recolam.bench.grow import GrowBench, grow
from recolam.bench.inverse_rl import InverseRLBench, inverse_rl
from recolam.bench.objectives import ObjectivesBench, objectives
from recolam.bench.parity import ParityBench, parity
from recolam.bench.policy import PolicyBench, policy
from recolam.bench.pretrain import PretrainBench, pretrain
from recolam.bench.quality import QualityBench, quality
from recolam.bench.rollout import RolloutBench, rollout
from recolam.bench.shift import ShiftBench, shift
from recolam.bench.simulate import SimulateBench, simulate
from recolam.contracts.config import from_mapping
from recolam.errors import ConfigError

_BENCHES: dict[str, tuple[Any, Callable[[Any], dict[str, Any]]]] = {
    "pretrain": (PretrainBench, pretrain),
    "simulate": (SimulateBench, simulate),
    "parity": (ParityBench, parity),
    "quality": (QualityBench, quality),
    "objectives": (ObjectivesBench, objectives),
    "grow": (GrowBench, grow),
    "boredom": (BoredomBench, boredom),
    "closed-loop": (ClosedLoopBench, closed_loop_bench),
    "rollout": (RolloutBench, rollout),
    "inverse-rl": (InverseRLBench, inverse_rl),
    "gradients": (GradientsBench, gradients),
    "policy": (PolicyBench, policy),
    "shift": (ShiftBench, shift),
}
NAMES = tuple(_BENCHES)


def run(name: str, options: Mapping[str, str]) -> dict[str, Any]:
    """Runs the benchmark `name`.

    Raises:
        ConfigError: an unknown benchmark or option, or a value of another type than the option's.
    """
    if name not in _BENCHES:
        raise ConfigError(f"bench {name!r} is not one of {', '.join(_BENCHES)}")
    config, function = _BENCHES[name]
    kinds = {field.name: type(field.default) for field in fields(config)}
    values = {key: _value(key, text, kinds.get(key, str)) for key, text in options.items()}
    settings = from_mapping(config, values, where=f"bench {name}")
    return {"bench": name, "threads": torch.get_num_threads(), **asdict(settings), **function(settings)}


def _value(key: str, text: str, kind: type) -> Any:
    """`text` as the option's type; numbers are counts, so at least 1, but for the seed."""
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ConfigError(f"bench option {key}: {text!r} is not true or false")
        return text.lower() == "true"
    if kind not in (int, float):
        return text
    try:
        value = kind(text)
    except ValueError as error:
        what = "a whole number" if kind is int else "a number"
        raise ConfigError(f"bench option {key}: {text!r} is not {what}") from error
    if kind is float:
        return value
    least = 0 if key in ("seed", "peer_steps") else 1
    if value < least:
        raise ConfigError(f"bench option {key}: {value} is below {least}")
    return value
