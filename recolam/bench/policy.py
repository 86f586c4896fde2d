"""Policies in a shipped world: the slate decoder, and what it must beat, on the same seeds within the same budget.

Shape legend: B users, K slate, N token ids, Z attributes.
"""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from recolam.bench.heuristics import heuristics, myopic
from recolam.bench.policy_peer import DEMO, train_stock
from recolam.bench.timed_worlds import torch_threads
from recolam.bench.workers import processes
from recolam.contracts.protocols import SightedEnvironment
from recolam.errors import ConfigError
from recolam.intervals import student_t_interval
from recolam.policy import rivals
from recolam.policy.decoder_agent import DecoderAgent
from recolam.policy.decoder_rollout import random_slates
from recolam.policy.decoder_training import DecoderTrainingConfig, train_decoder
from recolam.policy.pretrained_rival import pretrained
from recolam.policy.random_log import Budget, RandomLog, random_log
from recolam.policy.returns import Act, session_returns
from recolam.policy.slateq_agent import SlateQConfig
from recolam.progress import Progress, say
from recolam.seeding import derive
from recolam.world.environment import SimulatedUsers
from recolam.world.interest_evolution import Corpus, InterestEvolutionUsers
from recolam.world.named import make_environment
from recolam.world.sight import Sighted, sighted

SARDINE = {
    "sardine_bored": "SlateTopK-Bored",
    "sardine_bored_influenced": "SlateTopK-BoredInf",
    "sardine_uncertain": "SlateTopK-Uncertain",
}
"""Names for the package's own settings, which the registry has as one world."""
REWARDS = {"choc_kale": "engagement", "interest_evolution": "watch time", "recsim_ng_demo": "watch time"}

GAMMAS = {"interest_evolution": 0.98, "recsim_ng_demo": 0.98}
"""Discounts of worlds in which what is shown takes effect slowly: a tenth of the way to a document, a click."""

BELIEFS = {"interest_evolution": 16, "recsim_ng_demo": 16}
"""Numbers of a learnt belief, in worlds where it earned more than fading sums of the session did."""


@dataclass(frozen=True)
class PolicyBench:
    """`seeds` trainings of `steps` user-steps at most, each judged on `evaluation_users` sessions of its own seed; the
    first seed is `first_seed`.

    `world` is a name of `recolam.world.named` or of `SARDINE`, or `recsim_ng_demo`; `observation` is full or partial.
    A negative `gamma` stands for the world's own, of `GAMMAS`, else 0.95. Without `rivals` only ours learns. With
    `peer_steps` above 0, in `recsim_ng_demo`, stock RecSim NG takes as many training steps, each of 100,000 user-steps;
    its demo takes 100. `home` is the root whose runs/peers/ holds stock's environment. Under partial observation ours
    learns a belief of `belief` numbers from the sessions, from random slates first; 0 for none, a negative number for
    the world's own, of `BELIEFS`. `jobs` contestants at a time play in processes of their own, of one thread as always;
    the results are the same for any number of them.
    """

    world: str = "bored"
    steps: int = 100_000
    seeds: int = 5
    first_seed: int = 0
    gamma: float = -1.0
    observation: str = "full"
    rivals: bool = True
    users: int = 100
    evaluation_users: int = 200
    peer_steps: int = 0
    home: str = ""
    belief: int = -1
    jobs: int = 1


_Task = tuple[str, int]
"""A contestant's name and the index of its seed."""


@dataclass(frozen=True)
class _Ready:
    """A contestant ready to play, or one that has played elsewhere; `figures` are printed per seed.

    `seen` is the environment as it sees it, where that is not as all do.
    """

    act: Act | None
    figures: Mapping[str, Any]
    seen: SightedEnvironment | None = None


def policy(config: PolicyBench) -> dict[str, Any]:
    """Mean session returns, undiscounted, with Student t intervals over the seeds; learning curves of ours.

    Raises:
        ConfigError: an unknown world or observation, fewer than two seeds, a budget of less than one round.
    """
    if config.gamma < 0:
        config = replace(config, gamma=GAMMAS.get(config.world, 0.95))
    if config.belief < 0:
        config = replace(config, belief=BELIEFS.get(config.world, 0))
    if config.seeds < 2:
        raise ConfigError(f"seeds is {config.seeds}; an interval takes 2")
    environment = seen_world(config.world, observation=config.observation)
    _training(config).rounds(environment.horizon)
    found = _played(config, list(_contestants(config, environment, 0)))
    table = {name: _row(rows) for name, rows in found.items()}
    privileged = [name for name in table if name.startswith("privileged ")]
    return {
        "threads": 1,
        "reward": REWARDS.get(config.world, "clicks"),
        "discount": config.gamma,
        "horizon": environment.horizon,
        "slate": environment.slate_size,
        "items": len(environment.feature_NG),
        "returns": table,
        "best_privileged": max(privileged, key=lambda name: table[name]["mean"]) if privileged else None,
        "curves": [row["curves"] for row in found["ours"]],
    }


def _played(config: PolicyBench, names: list[str]) -> dict[str, list[dict[str, Any]]]:
    """Every contestant's rows, by seed."""
    indices = range(config.first_seed, config.first_seed + config.seeds)
    tasks = [(name, index) for index in indices for name in names]
    rows: dict[_Task, dict[str, Any]] = {}
    with Progress("bench policy", total=len(tasks)) as progress, _taken(config, tasks) as taken:
        for (name, index), row in taken:
            rows[name, index] = row
            say(f"{config.world}, seed {index}: {name} earns {row['return']:.1f} after {row['train_s']:.0f} s")
            progress.advance()
    return {name: [rows[name, index] for index in indices] for name in names}


@contextmanager
def _taken(config: PolicyBench, tasks: list[_Task]) -> Iterator[Iterator[tuple[_Task, dict[str, Any]]]]:
    """Tasks with their rows as they are done: here one after another, or in `jobs` processes."""
    if config.jobs == 1:
        yield ((task, play(config, *task)) for task in tasks)
        return
    with processes(min(config.jobs, len(tasks)), threads=1) as pool:
        futures = {pool.submit(play, config, *task): task for task in tasks}
        yield ((futures[future], future.result()) for future in as_completed(futures))


def play(config: PolicyBench, name: str, index: int) -> dict[str, Any]:
    """What one contestant earns with one seed, and its figures: a function of the arguments, on one thread.

    The world is made anew, so that it does not matter who played before.
    """
    with torch_threads(1):
        environment = seen_world(config.world, observation=config.observation)
        begin = time.perf_counter()
        ready = _contestants(config, environment, index)[name](derive(index, "bench policy", name))
        row = {"train_s": time.perf_counter() - begin, **ready.figures}
        if ready.act is not None:
            row["return"] = session_returns(
                ready.seen or environment, ready.act,
                users=config.evaluation_users, seed=derive(index, "bench policy sessions"),
            )  # fmt: skip
        return row


def seen_world(name: str, *, observation: str = "full") -> Sighted:
    """The world that a `PolicyBench` names, as policies see it.

    Raises:
        ConfigError: an unknown world or observation.
    """
    if observation not in ("full", "partial"):
        raise ConfigError(f"observation {observation!r} is not full or partial")
    if name in SARDINE:
        world = make_environment("sardine", {"name": SARDINE[name]})
    elif name == "recsim_ng_demo":
        world = make_environment("interest_evolution", DEMO)
    else:
        world = make_environment(name)
    return sighted(world, is_full=observation == "full")


def _contestants(config: PolicyBench, environment: Sighted, index: int) -> dict[str, Callable[[int], _Ready]]:
    """Who plays with the seed `index`: each makes itself ready with a seed of its own. Those that learn from logs share
    one."""

    def ready(act: Act) -> Callable[[int], _Ready]:
        return lambda seed: _Ready(act, {})

    budget = Budget(steps=config.steps, users=config.users)
    training = _training(config)
    makers = {"ours": lambda seed: _ours(config, environment, training, seed=seed)}
    if config.rivals:
        myopic_training, slateq = replace(training, gamma=0.0), SlateQConfig(gamma=config.gamma)
        makers |= {
            "ours, gamma 0": lambda seed: _ours(config, environment, myopic_training, seed=seed),
            "slateq": lambda seed: _Ready(rivals.slateq(environment, budget, slateq, seed=seed), {}),
            "bandit": lambda seed: _Ready(rivals.bandit(environment, budget, seed=seed), {}),
            "popularity": lambda _: _logged(config, index, lambda log: rivals.popularity(environment, log)),
            "pretrained greedy": lambda seed: _logged(
                config, index, lambda log: pretrained(environment, log, seed=seed)
            ),
        }
    if config.peer_steps:
        corpus = _stock_corpus(config, environment)
        makers["recsim-ng, trained"] = lambda seed: _stock(config, environment, corpus, seed=seed)
    makers |= {"random": ready(random_slates(environment)), "myopic, true state": ready(myopic(environment))}
    return makers | {f"privileged {name}": ready(act) for name, act in heuristics(environment).items()}


def _logged(config: PolicyBench, index: int, learn: Callable[[RandomLog], Act]) -> _Ready:
    """Who learns from a log of random slates, which takes the whole budget; `train_s` tells both."""
    log = _log(config, index)
    begin = time.perf_counter()
    act = learn(log)
    return _Ready(act, {"log_s": log.seconds, "train_s": log.seconds + time.perf_counter() - begin})


@lru_cache(maxsize=1)
def _log(config: PolicyBench, index: int) -> RandomLog:
    budget = Budget(steps=config.steps, users=config.users)
    environment = seen_world(config.world, observation=config.observation)
    return random_log(environment, budget, seed=derive(index, "bench policy", "log"))


def _training(config: PolicyBench) -> DecoderTrainingConfig:
    training = DecoderTrainingConfig(
        steps=config.steps, users=config.users, gamma=config.gamma, validation_users=math.ceil(config.users / 2),
        expects_rewards=config.observation == "full",
    )  # fmt: skip
    if config.observation == "full" or not config.belief:
        return training
    # an answer tells who a user is and changes him; values of what is seen confuse the two, and sampled returns do not
    return replace(training, segment=25, trace=1.0, epochs=4, belief_steps=10)


def _stock_corpus(config: PolicyBench, environment: Sighted) -> Corpus:
    world = environment.environment
    if not (isinstance(world, SimulatedUsers) and isinstance(world.users, InterestEvolutionUsers)):
        raise ConfigError(f"peer_steps: stock RecSim NG has no world {config.world!r}; it has recsim_ng_demo")
    return world.users.corpus


def _stock(config: PolicyBench, environment: Sighted, corpus: Corpus, *, seed: int) -> _Ready:
    found = train_stock(
        corpus,
        slate=environment.slate_size,
        horizon=environment.horizon,
        training_steps=config.peer_steps,
        evaluations=3,
        seed=seed % 2**31,
        home=config.home,
    )
    figures = {name: found[name] for name in ("train_s", "first_step_s", "curve", "versions")}
    return _Ready(None, {"return": statistics.mean(found["returns"]), **figures})


def _ours(config: PolicyBench, environment: Sighted, training: DecoderTrainingConfig, *, seed: int) -> _Ready:
    settings = {
        "world": config.world, "observation": config.observation, "gamma": training.gamma,
        "reward": REWARDS.get(config.world, "clicks"),
    }  # fmt: skip
    sight = environment.reset(users=1, seed=seed)
    belief = config.belief if config.observation == "partial" else 0
    agent = DecoderAgent.for_environment(environment, sight, settings, seed=seed, belief=belief)
    trained = train_decoder(agent, environment, training, seed=seed)
    return _Ready(
        lambda observation, _: agent.slates(observation, k=environment.slate_size, generator=None),
        {
            "learning_steps": trained.learning_steps,
            "validation_steps": trained.validation_steps,
            "curves": {name: trained.curves[name] for name in ("validation_return", "reward_per_step")},
        },
        agent.seen(environment),
    )


def _row(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """One contestant: mean and interval of the returns, and what its trainings took."""
    returns = [row["return"] for row in rows]
    row = {"per_seed": returns, **student_t_interval(np.array(returns)).as_json()}
    for name in sorted(rows[0].keys() - {"return", "curves"}):
        row[name] = [each[name] for each in rows]
    return row
