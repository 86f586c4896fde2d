"""Benchmarks: each measures one thing and returns one JSON-able object with the machine's thread count beside it."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import torch

from recolam.bench import options
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


def run(name: str, given: Mapping[str, str]) -> dict[str, Any]:
    """Runs the benchmark `name`; `given` are its options as text.

    Raises:
        ConfigError: an unknown benchmark or option, or a value of another type than the option's.
    """
    if name not in _BENCHES:
        raise ConfigError(f"bench {name!r} is not one of {', '.join(_BENCHES)}")
    config, function = _BENCHES[name]
    settings = from_mapping(config, options.values(config, given), where=f"bench {name}")
    return {"bench": name, "threads": torch.get_num_threads(), **asdict(settings), **function(settings)}


def overview() -> str:
    """What each benchmark measures, and its options: its module's first sentence and its config; Markdown."""
    return "\n\n".join(
        f"**{name}**: {_first_sentence(function)} {options.described(config)}"
        for name, (config, function) in _BENCHES.items()
    )


def _first_sentence(function: Callable[..., Any]) -> str:
    return (sys.modules[function.__module__].__doc__ or "").split("\n\n")[0].replace("\n", " ")
