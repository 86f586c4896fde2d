"""A preference shift in mid-training: how many user-steps until what was lost is back, with and without learning on.

A slate decoder learns in a shipped world (A). Then what users like moves to other topics while the profiles that the
policy reads stay as they were (B, `recolam.world.taste_shift`). From the same learnt weights, or none, go on:

- continual: training goes on, told of the shift: a new optimiser and learning rate, no answers from before;
- continual, random first: the same, after random slates for `warm_share` of the steps, as every new training begins;
- continual, responses anew: the same with random slates first and a new response model; the decoder stays;
- detected: the same, but nobody is told: training goes on in A for a while, the shift comes in its midst, and the
  reset when `recolam.policy.shift_detection` calls it;
- frozen: the weights stay, so the return stays where it fell;
- scratch: a new agent trains in B with as many steps, random slates first.

    optimum  = the larger of scratch's mean return at its full budget and the best privileged rule's
    gap      = optimum - frozen return                regained: the first validation at or above frozen + share * gap

Returns are of sessions that no training plays; only the curves, and so the crossing, are of validation's.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from recolam.bench.heuristics import heuristics
from recolam.bench.policy import GAMMAS, REWARDS, seen_world
from recolam.bench.workers import processes
from recolam.contracts.protocols import SightedEnvironment
from recolam.errors import ConfigError, DataError
from recolam.intervals import student_t_interval
from recolam.policy.continual import learn_on
from recolam.policy.decoder_agent import DecoderAgent
from recolam.policy.decoder_training import DecoderTrainingConfig, train_decoder
from recolam.policy.returns import Act, session_returns
from recolam.policy.shift_detection import ShiftDetectionConfig
from recolam.progress import Progress, say
from recolam.seeding import derive, numpy_generator
from recolam.world.sight import Sighted
from recolam.world.taste_shift import TasteShifted

Curve = list[list[float]]
"""[user-steps, return], in order."""

_QUIET = (0.02, 0.12)  # learning on before a shift that nobody is told of, as shares of `steps`, drawn by each seed


@dataclass(frozen=True)
class ShiftBench:
    """`seeds` runs of `steps` user-steps before the shift and `steps_after` behind it, validation included.

    `world` is as in `PolicyBench`, of those with tastes for topics. A negative `gamma` stands for the world's own.
    Every round of `users` sessions is followed by a validation on half as many. `share` of the gap is to be regained.
    `jobs` seeds run side by side, in processes of as many threads as this one, with the same results.
    """

    world: str = "bored"
    steps: int = 100_000
    steps_after: int = 100_000
    seeds: int = 3
    gamma: float = -1.0
    users: int = 20
    evaluation_users: int = 200
    share: float = 0.9
    jobs: int = 1


def shift(config: ShiftBench) -> dict[str, Any]:
    """`measured` in the world that the config names; raises as it does, and ConfigError for an unknown world."""
    return measured(config, partial(seen_world, config.world))


def measured(config: ShiftBench, make_before: Callable[[], Sighted]) -> dict[str, Any]:
    """Returns before and after, user-steps until the gap's share is back by arm and seed, and the learning curves.

    Args:
        make_before: makes the world before the shift; with several jobs, a function that processes can be sent.

    Raises:
        ConfigError: a world without tastes for topics; fewer than two seeds; a share outside (0, 1]; a budget of less
            than one round.
        DataError: the shift cost nothing.
    """
    if config.seeds < 2:
        raise ConfigError(f"seeds is {config.seeds}; an interval takes 2")
    if not 0.0 < config.share <= 1.0:
        raise ConfigError(f"share is {config.share}, outside (0, 1]")
    before = make_before()
    after = TasteShifted(before, seed=0)
    for steps in (config.steps, config.steps_after):
        _training(config, steps).rounds(before.horizon)
    one = partial(run_seed, config, make_before)
    with Progress("bench shift", total=config.seeds) as progress:
        if config.jobs == 1:
            runs = [_told(progress, one(index)) for index in range(config.seeds)]
        else:
            with processes(config.jobs, threads=torch.get_num_threads()) as pool:
                runs = [_told(progress, run) for run in pool.map(one, range(config.seeds))]
    rules = {
        name: float(np.mean([_earned(config, after, act, index=index) for index in range(config.seeds)]))
        for name, act in heuristics(before).items()
    }
    scratch = float(np.mean([run.returns["scratch"] for run in runs]))
    best_rule = max(rules, key=rules.__getitem__) if rules else None
    optimum = max(scratch, rules[best_rule]) if best_rule else scratch
    return {
        "reward": REWARDS.get(config.world, "clicks"),
        "returns": {name: _over_seeds([run.returns[name] for run in runs]) for name in runs[0].returns},
        "best_privileged": best_rule,
        "privileged": rules,
        "optimum": optimum,
        "regained_after": {
            arm: _over_seeds([run.regained_after(arm, optimum=optimum, share=config.share) for run in runs])
            for arm in runs[0].after
        },
        "detection": [run.detection for run in runs],
        "curves": [run.curves() for run in runs],
    }


def regained_after(curve: Sequence[Sequence[float]], *, fallen: float, optimum: float, share: float) -> float | None:
    """User-steps of the first point at or above fallen + share * (optimum - fallen); None where there is none.

    Args:
        curve: [user-steps, return], in order.

    Raises:
        DataError: the optimum is not above what is left, so there is nothing to regain.
    """
    if not optimum > fallen:
        raise DataError(f"the shift cost nothing: a return of {fallen} is left, of {optimum} at best")
    target = fallen + share * (optimum - fallen)
    return next((steps for steps, earned in curve if earned >= target), None)


@dataclass(frozen=True)
class _Run:
    """One seed: returns by arm, user-steps before the shift, validation curves, and what the detector did; `after`
    counts from the shift."""

    returns: dict[str, float]
    shift_step: int
    before: Curve
    after: dict[str, Curve]
    detection: dict[str, Any]

    def regained_after(self, arm: str, *, optimum: float, share: float) -> float | None:
        return regained_after(self.after[arm], fallen=self.returns["frozen"], optimum=optimum, share=share)

    def curves(self) -> dict[str, Any]:
        """Every curve on the axis of all user-steps; continual and frozen go on from the one before the shift."""
        later = {arm: [[self.shift_step + step, earned] for step, earned in curve] for arm, curve in self.after.items()}
        return {"shift_step": self.shift_step, "before": self.before, **later}


def _told(progress: Progress, run: _Run) -> _Run:
    progress.advance()
    return run


def run_seed(config: ShiftBench, make_before: Callable[[], Sighted], index: int) -> _Run:
    """All arms of one seed."""
    before = make_before()
    after = TasteShifted(before, seed=0)
    seed = derive(index, "bench shift")
    settings = {
        "world": config.world, "observation": "full", "gamma": _gamma(config),
        "reward": REWARDS.get(config.world, "clicks"),
    }  # fmt: skip

    def new_agent(environment: SightedEnvironment, name: str) -> DecoderAgent:
        sight = environment.reset(users=1, seed=derive(seed, name))
        return DecoderAgent.for_environment(environment, sight, settings, seed=derive(seed, name))

    agent = new_agent(before, "before")
    learnt = train_decoder(agent, before, _training(config, config.steps), seed=derive(seed, "before"))
    returns = {"before": _earned(config, before, _greedy(agent), index=index)}
    returns["frozen"] = _earned(config, after, _greedy(agent), index=index)
    later, unaware = derive(seed, "after"), copy.deepcopy(agent)
    validation_seed = derive(later, "validation")  # the trainer's own sessions
    fallen = session_returns(after, _greedy(agent), users=_validation_users(config), seed=validation_seed)
    after_curves = {"frozen": [[0.0, fallen], [float(config.steps_after), fallen]]}
    for arm, pupil, is_random_first in pupils(agent, new_agent(after, "scratch")):
        training = _training(config, config.steps_after, is_random_first=is_random_first)
        curve = train_decoder(pupil, after, training, seed=later).curves["validation_return"]
        after_curves[arm] = curve if arm == "scratch" else [[0.0, fallen], *curve]
        returns[arm] = _earned(config, after, _greedy(pupil), index=index)
    detection, after_curves["detected"] = undisclosed(config, before, unaware, seed=seed)
    returns["detected"] = _earned(config, after, _greedy(unaware), index=index)
    say(f"{config.world}, seed {index}: " + ", ".join(f"{name} {earned:.1f}" for name, earned in returns.items()))
    return _Run(
        returns=returns,
        shift_step=learnt.learning_steps + learnt.validation_steps,
        before=learnt.curves["validation_return"],
        after=after_curves,
        detection=detection,
    )


def undisclosed(config: ShiftBench, before: Sighted, agent: DecoderAgent, *, seed: int) -> tuple[dict[str, Any], Curve]:
    """The agent learns on, and the shift comes when nobody expects it; it trains in place.

    Returns:
        What the detector did, and validations from the shift on, in user-steps from the shift.
    """
    at = round(config.steps * numpy_generator(seed, "shift").uniform(*_QUIET))
    world = TasteShifted(before, seed=0, at=at)
    learnt = learn_on(
        agent, world, _training(config, at + config.steps_after), detection=ShiftDetectionConfig(), seed=seed
    )
    due = [alarm - at for alarm in learnt.alarms if alarm >= at]
    figures = {"shift_at": at, "delay": due[0] if due else None, "false_alarms": len(learnt.alarms) - len(due[:1])}
    return figures, [[step - at, earned] for step, earned in learnt.validation_return if step > at]


def pupils(learnt: DecoderAgent, newcomer: DecoderAgent) -> list[tuple[str, DecoderAgent, bool]]:
    """Who trains after the shift: the arm, its agent, and whether it begins with random slates."""
    renewed = copy.deepcopy(learnt)
    renewed.response.load_state_dict(newcomer.response.state_dict())
    return [
        ("continual", copy.deepcopy(learnt), False),
        ("continual, random first", copy.deepcopy(learnt), True),
        ("continual, responses anew", renewed, True),
        ("scratch", newcomer, True),
    ]


def _training(config: ShiftBench, steps: int, *, is_random_first: bool = True) -> DecoderTrainingConfig:
    """A validation after every round, and no early stop: the curves are what is measured."""
    training = DecoderTrainingConfig(
        steps=steps,
        users=config.users,
        gamma=_gamma(config),
        validate_every=1,
        validation_users=_validation_users(config),
        patience=steps,
    )
    return training if is_random_first else replace(training, warm_share=0.0)


def _validation_users(config: ShiftBench) -> int:
    return math.ceil(config.users / 2)


def _gamma(config: ShiftBench) -> float:
    return GAMMAS.get(config.world, 0.95) if config.gamma < 0 else config.gamma


def _greedy(agent: DecoderAgent) -> Act:
    return lambda observation, _: agent.slates(observation, k=agent.sizes.slate, generator=None)


def _earned(config: ShiftBench, environment: SightedEnvironment, act: Act, *, index: int) -> float:
    return session_returns(environment, act, users=config.evaluation_users, seed=derive(index, "bench shift sessions"))


def _over_seeds(values: Sequence[float | None]) -> dict[str, Any]:
    """Each seed's value, with mean and t interval where every seed has one."""
    known = [value for value in values if value is not None]
    interval = student_t_interval(np.array(known)).as_json() if len(known) == len(values) else {}
    return {"per_seed": list(values), **interval}
