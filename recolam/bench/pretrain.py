"""Training speed of the sequence model, beside a bare loop and two other libraries on the same sequences.

Every contestant runs in a process of its own, one at a time, in rounds: machines that speed up or slow down meanwhile
do so for all. Only epochs are timed: not start-up, imports, preparation of the data or ranking.
"""

import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from recolam.bench.data import dataset_of
from recolam.bench.peers import PEERS, Result, measure, peer_python
from recolam.contracts.dataset import FIRST_ITEM, TRAIN, TokenisedDataset
from recolam.contracts.home import Home
from recolam.progress import Progress
from recolam.sequence.precision import Precision
from recolam.sequence.ranking import ndcg
from recolam.sequence.training import resolve_device

SETTING = (
    "each user's last max_len train items as one window, next item, full softmax, 1 head, Adam or AdamW 1e-3, "
    "dropout 0.2; leave-one-out validation targets ranked among all items, seen ones out, after the last epoch"
)


@dataclass(frozen=True)
class PretrainBench:
    """`data` is "demo" or a log. `repeats` rounds of `epochs` epochs each; `peers` adds RecTools and RePlay.

    `device` is "auto", "cpu" or "cuda"; `precision` is that of recolam and the bare loop (the peers keep their own
    default, float32); `home` is the root whose runs/peers/ holds the peers' environments, by default this repository.
    """

    data: str = "demo"
    max_len: int = 50
    dim: int = 64
    blocks: int = 2
    batch_size: int = 128
    epochs: int = 1
    repeats: int = 1
    peers: bool = False
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Precision = "auto"
    home: str = ""


def pretrain(config: PretrainBench) -> dict[str, Any]:
    """Users and real tokens a second, seconds an epoch, and validation accuracy of each contestant.

    Raises:
        ConfigError: a peer's environment cannot be made, or a contestant fails.
    """
    device = resolve_device(config.device).type
    pythons = {"recolam": Path(sys.executable), "bare": Path(sys.executable)}
    if config.peers:
        pythons |= {peer.name: peer_python(peer, Home.at(config.home or None)) for peer in PEERS}
    dataset = dataset_of(config.data)
    with tempfile.TemporaryDirectory() as folder:
        task = Path(folder) / "task"
        settings = {
            "max_len": config.max_len, "dim": config.dim, "blocks": config.blocks, "heads": 1, "dropout": 0.2,
            "learning_rate": 1e-3, "batch_size": config.batch_size, "epochs": config.epochs, "seed": 0,
            "threads": torch.get_num_threads(), "device": device,
            "precision": config.precision,
        }  # fmt: skip
        write_task(task, dataset, settings)
        order, results = race(pythons, task=task, out=Path(folder) / "out", repeats=config.repeats)
    contestants = {name: figures(found) for name, found in results.items()}
    own = contestants["recolam"]
    return {
        **{name: own[name] for name in ("users_per_s", "tokens_per_s", "epoch_s", "ndcg10", "hr10")},
        "contestants": contestants,
        "ratios": ratios(contestants),
        "order": order,
        "real_token_share": results["recolam"][-1].more["real_share"],
        "device": device,
        "setting": SETTING,
    }


def write_task(folder: Path, dataset: TokenisedDataset, settings: Mapping[str, Any]) -> None:
    """Writes what the contestants read: sequences.npz for all, the tokenised dataset for recolam, settings.json."""
    (folder / "dataset").mkdir(parents=True)
    dataset.save(folder / "dataset")
    is_train_E = dataset.event_split_E == TRAIN
    train_before_E1 = np.concatenate([[0], np.cumsum(is_train_E)])
    queries = dataset.validation_event_Q
    target_Q = dataset.event_item_E[queries].astype(np.int64) - FIRST_ITEM
    np.savez(
        folder / "sequences.npz",
        item_E=dataset.event_item_E[is_train_E].astype(np.int64) - FIRST_ITEM,
        user_offset_U1=train_before_E1[dataset.user_offset_U1],
        user_Q=dataset.user_of_event(queries),
        target_Q=np.where(target_Q >= 0, target_Q, -1),
    )
    (folder / "settings.json").write_text(json.dumps({**settings, "items": len(dataset.items), "wants_ranks": True}))


def race(
    pythons: Mapping[str, Path], *, task: Path, out: Path, repeats: int
) -> tuple[list[str], dict[str, list[Result]]]:
    """Runs all contestants in turn, `repeats` times. Only the last round ranks.

    Returns:
        the names in the order in which they ran, and each one's results by round.
    """
    order: list[str] = []
    results: dict[str, list[Result]] = {name: [] for name in pythons}
    settings = json.loads((task / "settings.json").read_text())
    with Progress("bench pretrain", total=repeats * len(pythons)) as progress:
        for turn in range(repeats):
            wants_ranks = turn == repeats - 1
            (task / "settings.json").write_text(json.dumps({**settings, "wants_ranks": wants_ranks}))
            for name, python in pythons.items():
                results[name].append(measure(name, python=python, task=task, out=out / f"{turn}-{name}"))
                order.append(name)
                progress.advance()
    return order, results


def figures(results: Sequence[Result]) -> dict[str, Any]:
    """One contestant's figures; its seconds an epoch are the median over rounds of the mean over a round's epochs.

    Processor seconds hardly depend on what else the machine does, but say nothing about threads that wait.
    """
    last = results[-1]
    seconds = statistics.median(statistics.fmean(result.epoch_s) for result in results)
    cpu_seconds = statistics.median(statistics.fmean(result.cpu_s) for result in results)
    rank_Q = last.rank_Q
    return {
        "users_per_s": last.users / seconds,
        "tokens_per_s": last.tokens / seconds,
        "epoch_s": seconds,
        "epoch_s_rounds": [result.epoch_s for result in results],
        "epoch_cpu_s": cpu_seconds,
        "users": last.users,
        "tokens": last.tokens,
        "ndcg10": None if rank_Q is None else ndcg(rank_Q, k=10),
        "hr10": None if rank_Q is None else float((rank_Q <= 10).mean()),
        "queries": None if rank_Q is None else len(rank_Q),
        **last.more,
        "versions": last.versions,
    }


def ratios(contestants: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """recolam's users a second over those of each other contestant."""
    own = contestants["recolam"]["users_per_s"]
    return {f"recolam/{name}": own / found["users_per_s"] for name, found in contestants.items() if name != "recolam"}
