"""Stock RecSim NG's demo beside ours: its own recommender, trained as its demo trains it, in the same corpus.

The demo: 1,000 users, 100 documents in 2 topics, slates of 2, sessions of 100 steps, histories of 15, 100 steps of
gradient descent at 1e-4, each over all users' sessions: 10,000,000 user-steps.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recolam.bench.peers import RECSIM_NG, peer_python, run_script
from recolam.contracts.dataset import FIRST_ITEM
from recolam.contracts.home import Home
from recolam.world.interest_evolution import Corpus

DEMO = {"topics": 2}
"""What the demo has other than the named world "interest_evolution"."""
_USERS, _HISTORY, _RATE = 1000, 15, 1e-4


def train_stock(
    corpus: Corpus, *, slate: int, horizon: int, training_steps: int, evaluations: int, seed: int, home: str
) -> dict[str, Any]:
    """Trains stock's recommender in a process of its own.

    Returns:
        train_s (wall seconds, building the graph included), first_step_s of them, curve (mean reward of each training
        step's sessions), returns (of `evaluations` plays of 1,000 new users), versions.

    Raises:
        ConfigError: stock's environment or process fails.
    """
    python = peer_python(RECSIM_NG, Home.at(home or None))
    with tempfile.TemporaryDirectory() as folder:
        task = Path(folder) / "task"
        task.mkdir()
        items = slice(FIRST_ITEM, None)
        np.savez(
            task / "corpus.npz",
            topic_D=np.zeros(len(corpus.quality_N[items]), dtype=np.int32),  # nothing reads it
            quality_D=corpus.quality_N[items].numpy(),
            feature_DZ=corpus.feature_NZ[items].numpy(),
            length_D=corpus.length_N[items].numpy(),
        )
        documents, topics = corpus.feature_NZ[items].shape
        config = {
            "num_users": _USERS, "num_topics": topics, "num_docs": documents, "slate_size": slate,
            "history_length": _HISTORY,
        }  # fmt: skip
        settings = {
            "threads": torch.get_num_threads(), "seed": seed, "config": config, "horizon": horizon,
            "training_steps": training_steps, "learning_rate": _RATE, "evaluations": evaluations,
        }  # fmt: skip
        (task / "settings.json").write_text(json.dumps(settings))
        out = Path(folder) / "out"
        return run_script("run_recsim_policy.py", python=python, task=task, out=out, what="stock's demo")
