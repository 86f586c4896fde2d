"""The search itself, for any stage: TPE proposes settings, the median rule prunes, and a killed study goes on.

A study is a folder `runs/tune/<name>/` with Optuna's SQLite database and `best.json`. One process at a time works on
it, so a trial that is RUNNING when a search begins was left by a killed one: it is marked as failed, does not count,
and its settings are queued again, with the curve it had. The sampler is seeded anew for every trial, from the seed and
the number of trials that count so far: a study that was killed and resumed draws what the unbroken one draws.

Bergstra et al. 2011, "Algorithms for Hyper-Parameter Optimization", section 4 (TPE). Golovin et al. 2017, "Google
Vizier", section 3.2.2 (the median stopping rule).
"""

import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from recolam.contracts.artifact import canonical_digest, write_json
from recolam.contracts.config import to_mapping
from recolam.contracts.home import Home, safe_name
from recolam.errors import ConfigError, DataError, RecolamError
from recolam.progress import Progress, say
from recolam.seeding import derive
from recolam.tune.record import StudyRecord, study_record
from recolam.tune.space import Choice, Range, Space

Report = Callable[[int, float], None]
Objective = Callable[[Mapping[str, Any], Report], float]
_IDENTITY, _REPEATS, _ORIGIN, _ATTEMPT, _REASON = "identity", "repeats", "origin", "attempt", "reason"


@dataclass(frozen=True)
class SearchConfig:
    """How long and how strictly to search.

    Attributes:
        trials: how many trials count in the end: complete, pruned and failed ones, over all calls.
        minutes: after these, a call ends: at the running trial's next report, from where the next call goes on.
        seed: decides the proposals.
        pruning_trials: so many trials must be complete before one is pruned.
        pruning_steps: no trial is pruned at a step below this.
        failures: so many failed trials in a row, all with one kind of error, end the search with that error.
        attempts: a trial that died with its process so many times has failed.
    """

    trials: int = 40
    minutes: float | None = None
    seed: int = 0
    pruning_trials: int = 5
    pruning_steps: int = 3
    failures: int = 3
    attempts: int = 3

    def __post_init__(self) -> None:
        if min(self.trials, self.failures, self.attempts) < 1:
            raise ConfigError(f"trials {self.trials}, failures {self.failures}, attempts {self.attempts}: at least 1")
        if self.minutes is not None and not self.minutes > 0:
            raise ConfigError(f"timeout {self.minutes} is not a number of minutes above 0")


@dataclass(frozen=True)
class SearchResult:
    """Where a study stands. `interrupted` counts tries that were repeated; they are in none of the other counts."""

    complete: int
    pruned: int
    failed: int
    interrupted: int
    best_value: float | None
    best_values: Mapping[str, Any] | None


class OutOfTime(Exception):
    """The search's minutes are over. Raised by `report`; an objective lets it pass."""


def search(
    objective: Objective,
    space: Space,
    config: SearchConfig,
    *,
    study: str,
    home: Home,
    identity: Mapping[str, Any],
    metric: str = "value",
    describe: Callable[[Mapping[str, Any]], Any] = dict,
) -> SearchResult:
    """Searches for the settings with the highest value, until the study has `config.trials` trials or time is up.

    Args:
        objective: settings by their keys in the space, and `report(step, value)` -> the value to maximise. `report`
            raises `optuna.TrialPruned` where the trial is not worth going on with. A `RecolamError` fails the trial.
        study: its name and its folder's.
        identity: what must be the same in every call for this study: plain JSON values.
        metric: the name of the reported value.
        describe: the best values -> the content of `best.json`, written after every trial.

    Raises:
        ConfigError: an unusable name, a study of another identity, or one that another process works on.
        RecolamError: the error of the last of `config.failures` failed trials in a row.
    """
    folder = home.runs / "tune" / safe_name(study)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ConfigError(f"study {study!r} is being searched by another process") from None
    try:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        opened = optuna.create_study(
            storage=f"sqlite:///{folder / 'study.db'}", study_name=study, direction="maximize", load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(
                n_startup_trials=config.pruning_trials, n_warmup_steps=config.pruning_steps
            ),
        )  # fmt: skip
        _check_identity(opened, dict(identity))
        best_file = folder / "best.json"
        with study_record(home, study=study, metric=metric, document=best_file) as record:
            record.describe(identity)
            work = _Search(objective, space, config, opened, record)
            return work.run(lambda values: write_json(best_file, describe(values)))
    finally:
        lock.release()


class _Search:
    def __init__(
        self, objective: Objective, space: Space, config: SearchConfig, study: optuna.Study, record: StudyRecord
    ) -> None:
        self.objective, self.config, self.study, self.record = objective, config, study, record
        self.distributions = {key: _distribution(dimension) for key, dimension in space.items()}
        self.deadline = math.inf if config.minutes is None else time.monotonic() + 60 * config.minutes

    def run(self, write_best: Callable[[Mapping[str, Any]], None]) -> SearchResult:
        for trial in self.study.get_trials(states=(TrialState.RUNNING,)):
            self._repeat(trial)
        errors: list[RecolamError] = []
        with Progress(f"tune {self.study.study_name}", total=self.config.trials, unit="trial", every=0.0) as progress:
            result = self._result()
            progress.advance(_counted(result), best=_figure(result))
            with suppress(OutOfTime):
                while _counted(result) < self.config.trials:
                    self._check_time()
                    error = self._trial(_counted(result))
                    errors = [*(e for e in errors if type(e) is type(error)), error] if error is not None else []
                    result = self._result()
                    if result.best_values is not None:
                        write_best(result.best_values)
                    progress.advance(best=_figure(result))
                    if error is not None and len(errors) == self.config.failures:
                        raise type(error)(f"{len(errors)} trials in a row failed, the last one: {error}") from error
        if result.best_values is not None:
            write_best(result.best_values)
        return result

    def _trial(self, counted: int) -> RecolamError | None:
        """Runs one trial; returns the error that failed it."""
        self.study.sampler = optuna.samplers.TPESampler(seed=derive(self.config.seed, "trial", counted) % 2**32)
        trial = self.study.ask(self.distributions)
        number, values = trial.user_attrs.get(_ORIGIN, trial.number), dict(trial.params)
        record = self.record.trial(number, values)
        say(f"trial {number}: " + ", ".join(f"{key} {_short(value)}" for key, value in values.items()))
        reported = self._take_over(trial)

        def report(step: int, value: float) -> None:
            if not math.isfinite(value):
                raise DataError(f"the value became {value} at step {step}")
            record.point(step, value)
            if step not in reported:
                reported.add(step)
                trial.report(value, step)
            if trial.should_prune():
                raise optuna.TrialPruned(f"step {step}")
            self._check_time()

        try:
            value = float(self.objective(values, report))
            if not math.isfinite(value):
                raise DataError(f"the value is {value}")
        except optuna.TrialPruned as stop:
            say(f"trial {number}: pruned at {stop}")
            record.close("KILLED", reason=f"pruned at {stop}")
            self.study.tell(trial, state=TrialState.PRUNED)
        except RecolamError as error:
            reason = f"{type(error).__name__}: {error}"
            say(f"trial {number}: failed, {reason}")
            trial.set_user_attr(_REASON, reason)
            record.close("FAILED", reason=reason)
            self.study.tell(trial, state=TrialState.FAIL)
            return error
        else:
            say(f"trial {number}: {value:.5g}")
            record.close("FINISHED", value=value)
            self.study.tell(trial, value)
        return None

    def _repeat(self, trial: FrozenTrial) -> None:
        """Queues a trial that was left RUNNING again, once, and ends the old one; or fails it for good."""
        queued = {other.user_attrs.get(_REPEATS) for other in self.study.get_trials(deepcopy=False)}
        attempt, number = trial.user_attrs.get(_ATTEMPT, 1), trial.user_attrs.get(_ORIGIN, trial.number)
        if attempt >= self.config.attempts:
            values = trial.params or trial.system_attrs.get("fixed_params", {})
            self.record.trial(number, values).close("FAILED", reason=f"died with its process {attempt} times")
        elif trial.number not in queued:
            is_drawn = set(trial.params) == set(self.distributions)
            values = trial.params if is_drawn else trial.system_attrs.get("fixed_params", {})
            attributes = {_REPEATS: trial.number, _ORIGIN: number, _ATTEMPT: attempt + 1}
            self.study.enqueue_trial(values, user_attrs=attributes)
        self.study.tell(trial.number, state=TrialState.FAIL)

    def _take_over(self, trial: optuna.Trial) -> set[int]:
        """Gives a repeated trial the curve of the one it repeats; returns the steps."""
        if _REPEATS not in trial.user_attrs:
            return set()
        curve = self.study.get_trials(deepcopy=False)[trial.user_attrs[_REPEATS]].intermediate_values
        for step, value in sorted(curve.items()):
            trial.report(value, step)
        return set(curve)

    def _check_time(self) -> None:
        if time.monotonic() >= self.deadline:
            raise OutOfTime

    def _result(self) -> SearchResult:
        trials = self.study.get_trials(deepcopy=False)
        repeated = {trial.user_attrs.get(_REPEATS) for trial in trials}
        ended = {
            state: [trial for trial in trials if trial.state == state and trial.number not in repeated]
            for state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
        }
        best = max(ended[TrialState.COMPLETE], key=lambda trial: trial.value or 0.0, default=None)
        return SearchResult(
            complete=len(ended[TrialState.COMPLETE]), pruned=len(ended[TrialState.PRUNED]),
            failed=len(ended[TrialState.FAIL]), interrupted=len(repeated - {None}),
            best_value=None if best is None else best.value, best_values=None if best is None else dict(best.params),
        )  # fmt: skip


@contextmanager
def trial_folder(scratch: Path, config: Any) -> Iterator[Path]:
    """Where a trial of this config keeps its checkpoints, gone when it has ended.

    That of a trial which was cut off stays, and the repeated trial goes on from there.
    """
    folder = scratch / canonical_digest(to_mapping(config))[:16]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    except (optuna.TrialPruned, RecolamError):
        shutil.rmtree(folder)
        raise
    shutil.rmtree(folder)


def summary(result: SearchResult, *, study: str, best_file: Path) -> dict[str, Any]:
    """{"study", "trials": {"complete", "pruned", "failed", "interrupted"}, "best_value", "best_values", "best_config"};
    the last is the path of best.json, and the last three are None where no trial is complete."""
    return {
        "study": study,
        "trials": {name: getattr(result, name) for name in ("complete", "pruned", "failed", "interrupted")},
        "best_value": result.best_value,
        "best_values": result.best_values,
        "best_config": None if result.best_values is None else str(best_file),
    }


def _check_identity(study: optuna.Study, identity: dict[str, Any]) -> None:
    known = study.user_attrs.get(_IDENTITY)
    if known is None:
        study.set_user_attr(_IDENTITY, identity)
    elif known != identity:
        differing = [key for key in sorted(known | identity) if known.get(key) != identity.get(key)]
        changes = "; ".join(f"{key} was {known.get(key)!r} and is {identity.get(key)!r}" for key in differing)
        raise ConfigError(f"study {study.study_name!r} is another search: {changes}. Give this one another --name")


def _distribution(dimension: Choice | Range) -> BaseDistribution:
    if isinstance(dimension, Choice):
        return CategoricalDistribution(dimension.values)
    if dimension.is_int:
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def _counted(result: SearchResult) -> int:
    return result.complete + result.pruned + result.failed


def _figure(result: SearchResult) -> float:
    return math.nan if result.best_value is None else result.best_value


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
