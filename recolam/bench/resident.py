"""Simulated users that stay on a GPU: steps a second, where their time goes, and what the host does meanwhile.

Shape legend: U users, K slate positions.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from recolam.bench.timed_worlds import interest_users
from recolam.contracts.dataset import FIRST_ITEM
from recolam.errors import ConfigError
from recolam.seeding import torch_generator
from recolam.world.parity.dynamics import draw_documents
from recolam.world.resident import ResidentNetwork
from recolam.world.runtime import Value
from recolam.world.slates import random_slates
from recolam.world.story import build_network

_PROFILED_STEPS, _SHOWN = 10, 12


def resident(settings: Mapping[str, Any], *, device: str) -> dict[str, Any]:
    """User-steps a second of interest evolution with slates drawn on the device; medians over `runs` of `steps` each.

    Args:
        settings: users, items, topics, slate, steps, runs.

    Returns:
        user_steps_per_s; kernels: share of the device's time by kernel, over some steps after the timed ones;
        host_calls: calls into CUDA's runtime in these steps, of which one graph launch a step should be all but the
        last synchronisation.

    Raises:
        ConfigError: torch finds no such device.
    """
    if device != "cpu" and not (device.startswith("cuda") and torch.cuda.is_available()):
        raise ConfigError(f"device {device!r}: torch finds no such GPU here")
    with torch.inference_mode():
        world = resident_world(settings, device=device)
        seconds = [_seconds(world.step, settings["steps"], device) for _ in range(1 + settings["runs"])][1:]
        found = _profile(world.step, device)
    return {"user_steps_per_s": settings["users"] * settings["steps"] / statistics.median(seconds), **found}


def resident_world(settings: Mapping[str, Any], *, device: str) -> ResidentNetwork:
    """The users of `settings` and their random slates, all drawn by one generator of the device."""
    generator = torch_generator(0, "bench simulate", device=device)
    documents = draw_documents(documents=settings["items"], topics=settings["topics"], seed=0)

    def slates(_: Value) -> Tensor:
        drawn_UK = random_slates(
            settings["users"], documents=settings["items"], slate=settings["slate"], generator=generator
        )
        return drawn_UK + FIRST_ITEM

    users = interest_users(documents, settings, generator)
    network = build_network(users, slates, batch=settings["users"], generator=generator)
    return ResidentNetwork(network, generator=generator)


def _seconds(step: Callable[[], None], steps: int, device: str) -> float:
    _wait(device)
    begin = time.perf_counter()
    for _ in range(steps):
        step()
    _wait(device)
    return time.perf_counter() - begin


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize(device)


def _profile(step: Callable[[], None], device: str) -> dict[str, Any]:
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device != "cpu" else [])
    with profile(activities=activities) as found:
        _seconds(step, _PROFILED_STEPS, device)
    rows = found.key_averages()
    total = sum(row.self_device_time_total for row in rows) or 1.0
    busiest = sorted(rows, key=lambda row: -row.self_device_time_total)[:_SHOWN]
    return {
        "kernels": {row.key: row.self_device_time_total / total for row in busiest if row.self_device_time_total > 0},
        "host_calls": {row.key: row.count for row in rows if row.key.startswith("cuda")},
        "profiled_steps": _PROFILED_STEPS,
    }
