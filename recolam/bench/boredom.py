"""Steps of boredom users a second, in turn with the package sardine-rec, whose world they were rebuilt from."""

import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch

from recolam.bench.timed_worlds import torch_threads
from recolam.contracts.dataset import FIRST_ITEM
from recolam.contracts.protocols import Environment
from recolam.progress import Progress
from recolam.seeding import torch_generator
from recolam.world.boredom import BORED_INFLUENCED, BoredomUsers
from recolam.world.environment import SimulatedUsers
from recolam.world.sardine import SardineEnvironment
from recolam.world.slates import random_slates

_NAME = "SlateTopK-BoredInf"


@dataclass(frozen=True)
class BoredomBench:
    """`users` sessions of ours, on `own_threads` of torch's threads, and `their_users` of the package's; `steps` slates
    each, in `repeats` rounds."""

    users: int = 1000
    their_users: int = 4
    steps: int = 100
    repeats: int = 3
    own_threads: int = 1


def boredom(config: BoredomBench) -> dict[str, Any]:
    """User-steps a second, medians over interleaved rounds: slates of 10 of 1,000 items, drawn inside the clock.

    Both run the package's items under its "SlateTopK-BoredInf"; the sessions' start is not timed.
    """
    theirs = SardineEnvironment(_NAME)
    ours = SimulatedUsers(BoredomUsers(BORED_INFLUENCED, theirs.feature_NZ), horizon=config.steps)
    contestants: dict[str, tuple[Environment, int]] = {
        "recolam": (ours, config.users),
        "sardine-rec": (theirs, config.their_users),
    }
    speeds: dict[str, list[float]] = {name: [] for name in contestants}
    with (
        torch.inference_mode(),
        torch_threads(config.own_threads),
        Progress("bench boredom", total=config.repeats) as progress,
    ):
        for seed in range(config.repeats):
            for name, (environment, users) in contestants.items():
                speeds[name].append(users * config.steps / _seconds(environment, users, config.steps, seed))
            progress.advance()
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    return {
        "user_steps_per_s": medians["recolam"],
        "sardine_rec_user_steps_per_s": medians["sardine-rec"],
        "ratio": medians["recolam"] / medians["sardine-rec"],
        "rounds": speeds,
        "setting": f"{_NAME}: slates of {theirs.slate_size} of {theirs.tokens - FIRST_ITEM} items at random",
    }


def _seconds(environment: Environment, users: int, steps: int, seed: int) -> float:
    environment.reset(users=users, seed=seed)
    generator, items = torch_generator(seed, "bench boredom"), environment.tokens - FIRST_ITEM
    begin = time.perf_counter()
    for _ in range(steps):
        slate_BK = random_slates(users, documents=items, slate=environment.slate_size, generator=generator)
        environment.step(slate_BK + FIRST_ITEM)
    return time.perf_counter() - begin
