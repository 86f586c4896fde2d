"""Is the torch world stock RecSim NG's? Interest evolution on both, compared in distribution and exactly.

Stock runs in an environment of its own, in one process. Both sides get the same corpora, one for each seed.
"""

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
from recolam.world.parity.compare import Exact, compare_documents, compare_replays, compare_sessions, verdict
from recolam.world.parity.dynamics import (
    RECOMMENDERS,
    STOCK_DYNAMICS,
    Documents,
    Dynamics,
    Sessions,
    draw_documents,
    replay,
    simulate,
)

MARKS = (1, 10, 50)
STEP_TOLERANCE = 2e-5  # the squash multiplies the rounding of a sigmoid near 1/2, 6e-8, by 40
SESSION_TOLERANCE = 1e-3  # bad documents repel, so an error of rounding can grow by a tenth a step
SCRIPT = "run_recsim_ng.py"


@dataclass(frozen=True)
class ParityBench:
    """`users` sessions for each of `seeds` corpora of `documents`, slates of `slate`; `replayed` more are replayed.

    `home` is the root whose runs/peers/ holds stock's environment, by default this repository.
    """

    users: int = 4000
    documents: int = 100
    topics: int = 10
    slate: int = 2
    seeds: int = 3
    replayed: int = 500
    home: str = ""


def parity(config: ParityBench, *, dynamics: Dynamics = STOCK_DYNAMICS) -> dict[str, Any]:
    """The verdict as JSON, and the seconds that each side took; the tables go to stderr as Markdown.

    Args:
        dynamics: what is compared with stock.

    Raises:
        ConfigError: stock's environment cannot be made, or its process fails.
    """
    begin = time.perf_counter()
    python = peer_python(RECSIM_NG, Home.at(config.home or None))
    made = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        fed, documents = write_task(root / "task", config)
        found = run_script(SCRIPT, python=python, task=root / "task", out=root / "out", what="stock RecSim NG")
        ran = time.perf_counter()
        result = _compare(config, root / "out", fed, documents, dynamics)
    seconds = {"environment": made - begin, "stock": ran - made, "ours and tests": time.perf_counter() - ran}
    return {**result, "seconds": seconds, "stock": found}


def write_task(folder: Path, config: ParityBench) -> tuple[dict[str, NDArray[Any]], dict[int, Documents]]:
    """Writes settings.json, a corpus for each seed, and fed.npz for the exact part.

    Returns:
        the arrays of fed.npz that are no corpus (interest_UZ, slate_TUK, noise_TUC), and the corpora by seed.
    """
    folder.mkdir(parents=True)
    documents = {
        seed: draw_documents(documents=config.documents, topics=config.topics, seed=seed)
        for seed in range(config.seeds)
    }
    for seed, corpus in documents.items():
        np.savez(folder / f"corpus-{seed}.npz", **asdict(corpus))
    generator = numpy_generator(0, "parity draws")
    steps, users = max(MARKS), config.replayed
    fed: dict[str, NDArray[Any]] = {
        "interest_UZ": generator.standard_normal((users, config.topics)).astype(np.float32),
        "slate_TUK": np.stack([_slates(generator, users, config) for _ in range(steps)]),
        "noise_TUC": generator.gumbel(size=(steps, users, config.slate + 1)).astype(np.float32),
    }
    everything: dict[str, Any] = asdict(documents[0]) | fed
    np.savez(folder / "fed.npz", **everything)
    settings = {
        "what": ["story", "exact"], "threads": torch.get_num_threads(), "users": config.users,
        "documents": config.documents, "topics": config.topics, "slate": config.slate, "seeds": list(documents),
        "marks": list(MARKS), "recommenders": list(RECOMMENDERS), "corpus_documents": _corpus_size(config),
        "replayed": users,
    }  # fmt: skip
    (folder / "settings.json").write_text(json.dumps(settings))
    return fed, documents


def _slates(generator: np.random.Generator, users: int, config: ParityBench) -> NDArray[np.int64]:
    return np.argsort(generator.random((users, config.documents)), axis=1)[:, : config.slate]


def _corpus_size(config: ParityBench) -> int:
    return 5 * config.users


def _compare(
    config: ParityBench,
    out: Path,
    fed: Mapping[str, NDArray[Any]],
    documents: Mapping[int, Documents],
    dynamics: Dynamics,
) -> dict[str, Any]:
    tested = []
    for recommender in RECOMMENDERS:
        for seed, corpus in documents.items():
            ours = simulate(
                corpus, users=config.users, slate=config.slate, marks=MARKS, recommender=recommender, seed=seed,
                dynamics=dynamics,
            )  # fmt: skip
            theirs = Sessions(**_read(out / f"{recommender}-{seed}", Sessions))
            tested += compare_sessions(ours, theirs, marks=MARKS, where=f"{recommender}, seed {seed}")
    drawn = draw_documents(documents=_corpus_size(config), topics=config.topics, seed=config.seeds)
    tested += compare_documents(drawn, Documents(**_read(out, Documents)))
    exact = _replays(documents[0], fed, out / "exact", dynamics)
    found = verdict(tested, exact)
    say(found.as_markdown())
    return found.as_json()


def _replays(corpus: Documents, fed: Mapping[str, NDArray[Any]], stock: Path, dynamics: Dynamics) -> list[Exact]:
    """Each step from stock's own interest before it, and whole sessions."""
    whole = replay(corpus, **fed, dynamics=dynamics)
    theirs = {name: np.load(stock / f"{name}.npy") for name in whole}
    before_TUZ = np.concatenate([fed["interest_UZ"][None], theirs["interest_TUZ"][:-1]])
    single = replay(corpus, **fed, before_TUZ=before_TUZ, dynamics=dynamics)
    noise_TUC = fed["noise_TUC"]
    return [
        *compare_replays(single, theirs, noise_TUC=noise_TUC, tolerance=STEP_TOLERANCE, where="one step"),
        *compare_replays(whole, theirs, noise_TUC=noise_TUC, tolerance=SESSION_TOLERANCE, where="sessions"),
    ]


def _read(folder: Path, kind: type) -> dict[str, NDArray[Any]]:
    return {field.name: np.load(folder / f"{field.name}.npy") for field in fields(kind)}
