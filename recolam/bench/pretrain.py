"""Training speed of the sequence model."""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recolam.bench.data import dataset_of
from recolam.pretrain.stage import PretrainConfig, new_model
from recolam.sequence.ranking import ndcg, rank_targets
from recolam.sequence.training import TrainingConfig, train_sequence_model
from recolam.sequence.windows import training_windows


@dataclass(frozen=True)
class PretrainBench:
    """`data` is "demo" or a log; the protocol is leave-one-out with each user's last `max_len` items, seed 0."""

    data: str = "demo"
    max_len: int = 50
    dim: int = 64
    blocks: int = 2
    batch_size: int = 128
    epochs: int = 1


def pretrain(config: PretrainBench) -> dict[str, Any]:
    """Training speed without validation, and test accuracy after `epochs` epochs (full ranking, seen items out)."""
    dataset = dataset_of(config.data)
    training = TrainingConfig(
        epochs=config.epochs, batch_size=config.batch_size, max_len=config.max_len, last_window_only=True,
        validation_queries=0, patience=config.epochs + 1, checkpoint_every=10**9,
    )  # fmt: skip
    model = new_model(
        dataset,
        PretrainConfig(width=config.dim, blocks=config.blocks, heads=1, use_text=False, training=training),
        seed=0,
    )
    windows = training_windows(dataset, max_len=config.max_len, last_only=True)
    with tempfile.TemporaryDirectory() as scratch:
        begin = time.perf_counter()
        train_sequence_model(model, dataset, training, seed=0, scratch=Path(scratch), label="bench pretrain")
        seconds = (time.perf_counter() - begin) / max(1, config.epochs)
    ranked = rank_targets(model, dataset, dataset.test_event_Q, max_len=config.max_len)
    return {
        "users_per_s": len(windows) / seconds,
        "tokens_per_s": windows.items / seconds,
        "epoch_s": seconds,
        "ndcg10": ndcg(ranked.rank_Q, k=10),
        "hr10": float((ranked.rank_Q <= 10).mean()),
    }
