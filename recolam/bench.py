"""Benchmarks: each measures one thing and returns one JSON-able object with the machine's thread count beside it."""

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from recolam import pipeline
from recolam.contracts.config import from_mapping
from recolam.contracts.dataset import FIRST_ITEM, TokenisedDataset
from recolam.errors import ConfigError
from recolam.pretrain.stage import PretrainConfig, new_model
from recolam.progress import Progress
from recolam.seeding import torch_generator
from recolam.sequence.ranking import ndcg, rank_targets
from recolam.sequence.training import TrainingConfig, train_sequence_model
from recolam.sequence.windows import training_windows
from recolam.world.environment import SimulatedUsers
from recolam.world.interest_evolution import Corpus, InterestEvolutionConfig, InterestEvolutionUsers, StartStates


@dataclass(frozen=True)
class PretrainBench:
    """`data` is "demo" or a log; the protocol is leave-one-out with each user's last `max_len` items, seed 0."""

    data: str = "demo"
    max_len: int = 50
    dim: int = 64
    blocks: int = 2
    batch_size: int = 128
    epochs: int = 1


@dataclass(frozen=True)
class SimulateBench:
    """`users` sessions side by side, `steps` slates each, of `slate` random items out of `items`."""

    users: int = 1000
    items: int = 100
    topics: int = 20
    slate: int = 2
    steps: int = 50


def run(name: str, options: Mapping[str, str]) -> dict[str, Any]:
    """Runs the benchmark `name`.

    Raises:
        ConfigError: an unknown benchmark or option, or a value that is not a whole number.
    """
    benches: dict[str, tuple[Any, Any]] = {"pretrain": (PretrainBench, pretrain), "simulate": (SimulateBench, simulate)}
    if name not in benches:
        raise ConfigError(f"bench {name!r} is not one of {', '.join(benches)}")
    config, function = benches[name]
    values = {key: text if key == "data" else _whole(key, text) for key, text in options.items()}
    settings: Any = from_mapping(config, values, where=f"bench {name}")
    return {"bench": name, "threads": torch.get_num_threads(), **vars(settings), **function(settings)}


def pretrain(config: PretrainBench) -> dict[str, Any]:
    """Training speed without validation, and test accuracy after `epochs` epochs (full ranking, seen items out)."""
    dataset = _dataset(config.data)
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


def simulate(config: SimulateBench) -> dict[str, Any]:
    """Steps of simulated users a second: interest evolution, nobody leaves, slates drawn beforehand."""
    if config.slate > config.items:
        raise ConfigError(f"slates of {config.slate} out of {config.items} items")
    generator = torch_generator(0, "bench simulate")
    tokens = FIRST_ITEM + config.items
    corpus = Corpus(
        feature_NZ=torch.randn(tokens, config.topics, generator=generator),
        quality_N=torch.rand(tokens, generator=generator) * 2 - 1,
        length_N=torch.full((tokens,), 2.0),
    )
    start = StartStates(
        history_PT=torch.zeros(config.users, 8, dtype=torch.int64),
        length_P=torch.zeros(config.users, dtype=torch.int64),
        interest_PZ=torch.randn(config.users, config.topics, generator=generator),
    )
    world = InterestEvolutionConfig(slate_size=config.slate, budget=float("inf"))
    environment = SimulatedUsers(InterestEvolutionUsers(world, corpus, start), horizon=config.steps)
    drawn = torch.rand(config.steps, config.users, config.items, generator=generator).topk(config.slate).indices
    environment.reset(users=config.users, seed=0)
    begin = time.perf_counter()
    with torch.no_grad(), Progress("bench simulate", total=config.steps) as progress:
        for slate_BK in drawn + FIRST_ITEM:
            environment.step(slate_BK)
            progress.advance()
    return {"user_steps_per_s": config.users * config.steps / (time.perf_counter() - begin)}


def _dataset(data: str) -> TokenisedDataset:
    """All of the log as one domain, split leave-one-out, made in a home that is thrown away."""
    with tempfile.TemporaryDirectory() as home:
        overrides: dict[str, dict[str, Any]] = {"ingest": {"is_whole": True}, "features": {"split": "leave_one_out"}}
        plan = pipeline.make_plan(data, home=home, overrides=overrides)
        for stage in (["demo"] if plan.is_demo else []) + ["ingest", "features"]:
            folder = pipeline.run_stage(plan, stage, is_tracked=False)["path"]
        return TokenisedDataset.load(Path(folder))


def _whole(key: str, text: str) -> int:
    try:
        value = int(text)
    except ValueError as error:
        raise ConfigError(f"bench option {key}: {text!r} is not a whole number") from error
    if value < 1:
        raise ConfigError(f"bench option {key}: {value} is below 1")
    return value
