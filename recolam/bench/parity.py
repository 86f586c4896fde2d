"""Are the torch worlds stock RecSim NG's? Interest evolution on both, compared in distribution and exactly.

Stock runs in an environment of its own, in one process. All get the same corpora, one for each seed.
"""

import itertools
import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recolam.bench.peers import RECSIM_NG, peer_python, run_script
from recolam.contracts.home import Home
from recolam.progress import say
from recolam.seeding import numpy_generator
from recolam.world.parity.compare import Exact, Verdict, compare_documents, compare_replays, compare_sessions, verdict
from recolam.world.parity.dynamics import (
    RECOMMENDERS,
    STOCK_DYNAMICS,
    Documents,
    Sessions,
    World,
    draw_documents,
    world_of,
)
from recolam.world.parity.environment import environment_world
from recolam.world.parity.story import story_world

MARKS = (1, 10, 50)
STEP_TOLERANCE = 2e-5  # the squash multiplies the rounding of a sigmoid near 1/2, 6e-8, by 40
SESSION_TOLERANCE = 1e-3  # bad documents repel, so an error of rounding can grow by a tenth a step
SCRIPT = "run_recsim_ng.py"
WORLDS = {
    "functions": world_of(STOCK_DYNAMICS),  # of recolam.world.interest_evolution
    "environment": environment_world(),  # what policies learn in: SimulatedUsers
    "story": story_world(),  # the port, recolam.world.stories.interest_evolution
}
"""What is compared with stock."""


@dataclass(frozen=True)
class ParityBench:
    """`users` sessions for each of `seeds` corpora of `documents`, slates of `slate`; `replayed` more are replayed.

    The command ends with exit code 1 where the worlds are not the same.
    `home` is the root whose runs/peers/ holds stock's environment, by default this repository.
    """

    users: int = 4000
    documents: int = 100
    topics: int = 10
    slate: int = 2
    seeds: int = 3
    replayed: int = 500
    home: str = ""


def parity(config: ParityBench) -> dict[str, Any]:
    """The verdict as JSON, and the seconds that each side took; the tables go to stderr as Markdown.

    Raises:
        ConfigError: stock's environment cannot be made, or its process fails.
    """
    begin = time.perf_counter()
    python = peer_python(RECSIM_NG, Home.at(config.home or None))
    made = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        found = ask_stock(config, Path(folder), python=python)
        asked = time.perf_counter()
        judged = judge(config, Path(folder), WORLDS)
    say(judged.as_markdown())
    seconds = {"environment": made - begin, "stock": asked - made, "ours and tests": time.perf_counter() - asked}
    return {**judged.as_json(), "worlds": list(WORLDS), "seconds": seconds, "stock": found}


def ask_stock(config: ParityBench, folder: Path, *, python: Path) -> dict[str, Any]:
    """Writes the task to `folder`/task and lets stock answer it in `folder`/out; its versions and seconds.

    Raises:
        ConfigError: stock's process fails.
    """
    write_task(folder / "task", config)
    return run_script(SCRIPT, python=python, task=folder / "task", out=folder / "out", what="stock RecSim NG")


def judge(config: ParityBench, folder: Path, worlds: Mapping[str, World]) -> Verdict:
    """Compares these worlds, and a corpus of `draw_documents`, with what stock answered in `folder`: one family of
    tests."""
    task, out = folder / "task", folder / "out"
    drawn = draw_documents(documents=_corpus_size(config), topics=config.topics, seed=config.seeds)
    tested = compare_documents(drawn, Documents(**_read(out, Documents)))
    exact: list[Exact] = []
    for name, world in worlds.items():
        for recommender, seed in itertools.product(RECOMMENDERS, range(config.seeds)):
            ours = world.simulate(
                _corpus(task / f"corpus-{seed}.npz"), users=config.users, slate=config.slate, marks=MARKS,
                recommender=recommender, seed=seed,
            )  # fmt: skip
            theirs = Sessions(**_read(out / f"{recommender}-{seed}", Sessions))
            tested += compare_sessions(ours, theirs, marks=MARKS, where=f"{name}, {recommender}, seed {seed}")
        exact += _replays(task, out / "exact", world, name)
    return verdict(tested, exact)


def write_task(folder: Path, config: ParityBench) -> None:
    """Writes settings.json, a corpus for each seed, and fed.npz (the first seed's users) for the exact part."""
    folder.mkdir(parents=True)
    for seed in range(config.seeds):
        corpus = draw_documents(documents=config.documents, topics=config.topics, seed=seed)
        np.savez(folder / f"corpus-{seed}.npz", **asdict(corpus))
    generator = numpy_generator(0, "parity draws")
    steps, users = max(MARKS), config.replayed
    np.savez(
        folder / "fed.npz",
        interest_UZ=generator.standard_normal((users, config.topics)).astype(np.float32),
        slate_TUK=np.stack([_slates(generator, users, config) for _ in range(steps)]),
        noise_TUC=generator.gumbel(size=(steps, users, config.slate + 1)).astype(np.float32),
    )
    settings = {
        "what": ["story", "exact"], "threads": torch.get_num_threads(), "users": config.users,
        "documents": config.documents, "topics": config.topics, "slate": config.slate,
        "seeds": list(range(config.seeds)), "marks": list(MARKS), "recommenders": list(RECOMMENDERS),
        "corpus_documents": _corpus_size(config), "replayed": users,
    }  # fmt: skip
    (folder / "settings.json").write_text(json.dumps(settings))


def _slates(generator: np.random.Generator, users: int, config: ParityBench) -> NDArray[np.int64]:
    return np.argsort(generator.random((users, config.documents)), axis=1)[:, : config.slate]


def _corpus_size(config: ParityBench) -> int:
    return 5 * config.users


def _replays(task: Path, stock: Path, world: World, name: str) -> list[Exact]:
    """Each step from stock's own interest before it, and whole sessions."""
    corpus = _corpus(task / "corpus-0.npz")
    with np.load(task / "fed.npz") as arrays:
        fed: dict[str, NDArray[Any]] = dict(arrays)
    whole = world.replay(corpus, **fed)
    theirs = {array: np.load(stock / f"{array}.npy") for array in whole}
    before_TUZ = np.concatenate([fed["interest_UZ"][None], theirs["interest_TUZ"][:-1]])
    noise_TUC = fed["noise_TUC"]
    single = world.replay_steps(corpus, before_TUZ=before_TUZ, slate_TUK=fed["slate_TUK"], noise_TUC=noise_TUC)
    return [
        *compare_replays(single, theirs, noise_TUC=noise_TUC, tolerance=STEP_TOLERANCE, where=f"{name}, one step"),
        *compare_replays(whole, theirs, noise_TUC=noise_TUC, tolerance=SESSION_TOLERANCE, where=f"{name}, sessions"),
    ]


def _corpus(path: Path) -> Documents:
    with np.load(path) as arrays:
        return Documents(**arrays)


def _read(folder: Path, kind: type) -> dict[str, NDArray[Any]]:
    return {field.name: np.load(folder / f"{field.name}.npy") for field in fields(kind)}
