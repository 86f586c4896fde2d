"""Steps of simulated users a second: recolam's alone, on a GPU, or in turn with stock RecSim NG on the same corpora."""

import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recolam.bench.peers import RECSIM_NG, peer_python, run_script
from recolam.bench.resident import resident
from recolam.bench.timed_worlds import STORIES, timed_runs, torch_threads
from recolam.contracts.home import Home
from recolam.errors import ConfigError
from recolam.progress import Progress
from recolam.seeding import torch_generator
from recolam.world.parity.dynamics import draw_documents
from recolam.world.slates import random_slates

SIZES = ((1_000, 100), (10_000, 100), (1_000, 1_000))
"""Users and documents that are timed beside stock."""
SLATES = ("random", "fed")
SCRIPTS = {"recolam": "run_recolam_users.py", "stock": "run_recsim_ng.py"}
TIMED = {
    "both": "one run = new users and `steps` slates with their answers, in a process that runs nothing else; the first "
    "run, which compiles, is left out; median over the runs of all rounds. random: slates of distinct documents are "
    "drawn at each step, inside the clock; fed: read from a table made beforehand",
    "recolam": "eager torch in inference mode, on `own_threads` threads. story `world`: the environment, with history, "
    "budget, the state's network and the checks of slates; story `functions`: the dynamics alone",
    "stock": "TFRuntime.execute in graph mode of recs_story with stock's users, static corpus and metrics; random "
    "slates by stock's IteratedMultinomialLogitChoiceModel over equal scores",
}


@dataclass(frozen=True)
class SimulateBench:
    """`users` sessions side by side, `steps` slates each, of `slate` documents out of `items`.

    `peers` runs stock RecSim NG beside it, at `SIZES` instead of `users` and `items`, in `repeats` rounds of `runs`
    timed runs a process. `story` is one of `STORIES`; `home` is the root whose runs/peers/ holds stock's environment.
    `own_threads` are recolam's, stock has those of torch in this process (`threads`).
    `device` cuda keeps the world on the GPU, with slates drawn there and a step as one CUDA graph.
    """

    users: int = 1000
    items: int = 100
    topics: int = 20
    slate: int = 2
    steps: int = 50
    peers: bool = False
    story: str = "world"
    repeats: int = 3
    runs: int = 10
    own_threads: int = 1
    device: str = "cpu"
    home: str = ""


def simulate(config: SimulateBench) -> dict[str, Any]:
    """User-steps a second for each size and source of slates; nobody leaves.

    Raises:
        ConfigError: slates larger than the corpus, an unknown story, a GPU that is not there or beside peers, or
            stock's environment or process fails.
    """
    sizes = SIZES if config.peers else ((config.users, config.items),)
    if config.slate > min(documents for _, documents in sizes):
        raise ConfigError(f"slates of {config.slate} out of {config.items} items")
    if config.story not in STORIES:
        raise ConfigError(f"story {config.story!r} is not one of {', '.join(STORIES)}")
    if config.device != "cpu":
        if config.peers:
            raise ConfigError("stock RecSim NG is timed on the CPU: --peers true goes with --device cpu")
        return resident(asdict(config), device=config.device)
    with tempfile.TemporaryDirectory() as folder:
        write_task(Path(folder) / "task", config, sizes)
        if config.peers:
            stock = peer_python(RECSIM_NG, Home.at(config.home or None))
            found = race({"recolam": Path(sys.executable), "stock": stock}, Path(folder), repeats=config.repeats)
        else:
            with torch_threads(config.own_threads):
                found = {"recolam": [timed_runs(Path(folder) / "task")]}
    table = compare(found, steps=config.steps, users={name_of(*size): size[0] for size in sizes})
    if not config.peers:
        only = next(iter(table.values()))
        return {"user_steps_per_s": only["random"]["recolam"], "fed_user_steps_per_s": only["fed"]["recolam"]}
    ratios = [row["recolam/stock"] for slates in table.values() for row in slates.values()]
    return {"sizes": table, "smallest_ratio": min(ratios), "timed": TIMED, "rounds": found}


def name_of(users: int, documents: int) -> str:
    """What a size is called: `1000x100`."""
    return f"{users}x{documents}"


def write_task(folder: Path, config: SimulateBench, sizes: Sequence[tuple[int, int]]) -> None:
    """Writes settings.json, a corpus for each number of documents and a table of slates for each size."""
    folder.mkdir(parents=True)
    for users, documents in sizes:
        corpus = draw_documents(documents=documents, topics=config.topics, seed=0)
        np.savez(folder / f"corpus-{documents}.npz", **asdict(corpus))
        generator = torch_generator(0, "bench simulate slates")
        slates = [
            random_slates(users, documents=documents, slate=config.slate, generator=generator)
            for _ in range(config.steps)
        ]
        np.savez(folder / f"slates-{name_of(users, documents)}.npz", slate_TUK=torch.stack(slates).numpy())
    named = [{"name": name_of(*size), "users": size[0], "documents": size[1]} for size in sizes]
    settings = {
        "what": ["speed"], "threads": torch.get_num_threads(), "own_threads": config.own_threads,
        "story": config.story, "sizes": named, "slates": list(SLATES), "topics": config.topics,
        "slate": config.slate, "steps": config.steps, "runs": config.runs,
    }  # fmt: skip
    (folder / "settings.json").write_text(json.dumps(settings))


def race(pythons: Mapping[str, Path], folder: Path, *, repeats: int) -> dict[str, list[list[dict[str, Any]]]]:
    """Runs the contestants on `folder`/task in turn, each in a process of its own; what each timed, by round."""
    found: dict[str, list[list[dict[str, Any]]]] = {name: [] for name in pythons}
    with Progress("bench simulate", total=repeats * len(pythons)) as progress:
        for turn in range(repeats):
            for name, python in pythons.items():
                out = folder / f"{turn}-{name}"
                answer = run_script(SCRIPTS[name], python=python, task=folder / "task", out=out, what=name)
                found[name].append(answer["timed"])
                progress.advance()
    return found


def compare(
    found: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]], *, steps: int, users: Mapping[str, int]
) -> dict[str, dict[str, dict[str, float]]]:
    """size -> source of slates -> user-steps a second of each contestant by its median run, and recolam's over stock's.

    Args:
        found: contestant -> rounds -> what was timed: size, slates, seconds of each run.
        users: users of each size.
    """
    table: dict[str, dict[str, dict[str, float]]] = {}
    for name, rounds in found.items():
        for size, count in users.items():
            for slates in SLATES:
                seconds = [
                    second
                    for timed in rounds
                    for row in timed
                    if (row["size"], row["slates"]) == (size, slates)
                    for second in row["seconds"]
                ]
                table.setdefault(size, {}).setdefault(slates, {})[name] = count * steps / statistics.median(seconds)
    for row in (row for by_slates in table.values() for row in by_slates.values()):
        if "stock" in row:
            row["recolam/stock"] = row["recolam"] / row["stock"]
    return table
