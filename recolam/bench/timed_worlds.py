"""The worlds that `bench simulate` can time: each makes a function that runs all steps of all users once.

Shape legend: U users, K slate positions, N token ids, D documents, Z topics, T steps.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recolam.contracts.dataset import FIRST_ITEM
from recolam.seeding import torch_generator
from recolam.world.environment import SimulatedUsers
from recolam.world.interest_evolution import InterestEvolutionUsers
from recolam.world.parity.dynamics import STOCK, Documents, simulate
from recolam.world.parity.environment import users_of
from recolam.world.slates import random_slates

Run = Callable[[int], None]
"""seed -> one run: new users, then `steps` slates and answers."""

Story = Callable[[Documents, Tensor | None, Mapping[str, Any]], Run]
"""corpus, fed slates int64 [T, U, K] or None for random ones, settings (users, topics, slate, steps) -> Run."""


def interest_users(
    documents: Documents, settings: Mapping[str, Any], generator: torch.Generator
) -> InterestEvolutionUsers:
    """recolam's interest-evolution users on the generator's device, with stock's constants; nobody leaves."""
    shape = settings["users"], settings["topics"]
    interest_UZ = torch.randn(shape, generator=generator, device=generator.device)
    return users_of(documents, interest_UZ, config=replace(STOCK, slate_size=settings["slate"]))


def world(documents: Documents, slate_TUK: Tensor | None, settings: Mapping[str, Any]) -> Run:
    """`interest_users` in their environment, with history, budget, the state's network and checks of slates."""
    users, count = settings["users"], len(documents.topic_D)

    @torch.inference_mode()
    def run(seed: int) -> None:
        generator = torch_generator(seed, "bench simulate")
        environment = SimulatedUsers(interest_users(documents, settings, generator), horizon=settings["steps"])
        environment.reset(users=users, seed=seed)
        for step in range(settings["steps"]):
            if slate_TUK is None:
                slate_UK = random_slates(users, documents=count, slate=settings["slate"], generator=generator)
            else:
                slate_UK = slate_TUK[step]
            environment.step(slate_UK + FIRST_ITEM)

    return run


def functions(documents: Documents, slate_TUK: Tensor | None, settings: Mapping[str, Any]) -> Run:
    """The pure functions of `recolam.world.parity.dynamics`, with nothing around them."""

    def run(seed: int) -> None:
        simulate(
            documents, users=settings["users"], slate=settings["slate"], marks=(settings["steps"] - 1,),
            recommender="random", seed=seed, slate_TUK=slate_TUK,
        )  # fmt: skip

    return run


STORIES: dict[str, Story] = {"world": world, "functions": functions}


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """This process's torch with `count` threads. A step's operations are so short that one is mostly the fastest: a
    second one is waited for more often than it helps, above all where the cores have other work."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def timed_runs(task: Path) -> list[dict[str, Any]]:
    """Seconds of each run for each size and source of slates of a task written by `bench simulate`, the first apart."""
    settings = json.loads((task / "settings.json").read_text())
    found = []
    for size in settings["sizes"]:
        with np.load(task / f"corpus-{size['documents']}.npz") as arrays:
            documents = Documents(**arrays)
        with np.load(task / f"slates-{size['name']}.npz") as arrays:
            slate_TUK = torch.from_numpy(arrays["slate_TUK"])
        for slates in settings["slates"]:
            run = STORIES[settings["story"]](documents, slate_TUK if slates == "fed" else None, settings | size)
            seconds = []
            for seed in range(1 + settings["runs"]):
                begin = time.perf_counter()
                run(seed)
                seconds.append(time.perf_counter() - begin)
            found.append({"size": size["name"], "slates": slates, "first_s": seconds[0], "seconds": seconds[1:]})
    return found
