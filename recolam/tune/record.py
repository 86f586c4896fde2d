"""A study in MLflow: one run for the study, and nested in it one run for every trial.

Runs are found again by their tags, so a resumed study goes on in the runs it had. They carry no step key: a stage that
is tracked at the same time does not take them for runs that a killed process left.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recolam.contracts.home import Home
from recolam.tracking import client, experiment_id, parameters, redact

if TYPE_CHECKING:
    from mlflow import MlflowClient

STUDY, TRIAL, PARENT = "recolam.tune.study", "recolam.tune.trial", "mlflow.parentRunId"
_FINAL = "objective"


@dataclass
class TrialRecord:
    """The run of one trial. `steps` are those that its curve has already."""

    opened: "MlflowClient"
    run_id: str
    metric: str
    steps: set[int]

    def point(self, step: int, value: float) -> None:
        """Adds a point to the curve, once."""
        if step not in self.steps:
            self.opened.log_metric(self.run_id, self.metric, value, step=step)
            self.steps.add(step)

    def close(self, status: str, *, value: float | None = None, reason: str = "") -> None:
        """Ends the run: FINISHED with the objective's value, KILLED (pruned, cut off) or FAILED with the reason."""
        if value is not None and _FINAL not in self.opened.get_run(self.run_id).data.metrics:
            self.opened.log_metric(self.run_id, _FINAL, value)
        if reason:
            self.opened.set_tag(self.run_id, "recolam.tune.reason", redact("", reason)[:500])
        self.opened.set_terminated(self.run_id, status=status)


class StudyRecord:
    """The run of a study, found again by the study's name."""

    def __init__(self, opened: "MlflowClient", experiment: str, *, study: str, metric: str) -> None:
        self.opened, self._experiment, self._study, self._metric = opened, experiment, study, metric
        tags = {STUDY: study, "mlflow.source.name": "recolam tune"}
        self.run_id = self._run(f"tags.`{TRIAL}` IS NULL", f"tune-{study}", tags)

    def describe(self, values: Mapping[str, Any]) -> None:
        """Logs parameters of the study; the same ones again change nothing."""
        for key, text in parameters(values).items():
            self.opened.log_param(self.run_id, key, text)

    def trial(self, number: int, values: Mapping[str, Any]) -> TrialRecord:
        """The run of trial `number`; a repeat of a killed trial goes by the number of the first try."""
        query = f"tags.`{TRIAL}` = '{number}' and tags.`{PARENT}` = '{self.run_id}'"
        tags = {STUDY: self._study, TRIAL: str(number), PARENT: self.run_id, "mlflow.source.name": "recolam tune"}
        run_id = self._run(query, f"tune-{self._study}-{number}", tags)
        for key, text in parameters(values).items():
            self.opened.log_param(run_id, key, text)
        history = self.opened.get_metric_history(run_id, self._metric)
        return TrialRecord(self.opened, run_id, self._metric, {point.step for point in history})

    def close(self, status: str, *, document: Path) -> None:
        """Ends the study's run, and those of its trials that are still open."""
        if document.is_file():
            self.opened.log_artifact(self.run_id, str(document))
        query = f"attributes.status = 'RUNNING' and tags.`{PARENT}` = '{self.run_id}'"
        for run in self.opened.search_runs([self._experiment], filter_string=query):
            self.opened.set_terminated(run.info.run_id, status="KILLED")
        self.opened.set_terminated(self.run_id, status=status)

    def _run(self, query: str, name: str, tags: dict[str, str]) -> str:
        """The newest run of this study that `query` finds, running again, or else a new one."""
        query = f"tags.`{STUDY}` = '{self._study}' and {query}"
        found = self.opened.search_runs([self._experiment], filter_string=query, max_results=1)
        if not found:
            return str(self.opened.create_run(self._experiment, tags=tags, run_name=name).info.run_id)
        self.opened.update_run(found[0].info.run_id, status="RUNNING")
        return str(found[0].info.run_id)


@contextmanager
def study_record(home: Home, *, study: str, metric: str, document: Path) -> Iterator[StudyRecord]:
    """Inside, the study's run is RUNNING; behind, it is FINISHED, or FAILED where an error ended it.

    Args:
        study: its name; two studies of one home have different ones.
        metric: what the trials' curves show.
        document: a file kept with the run, if it is there at the end.
    """
    opened = client(home)
    record = StudyRecord(opened, experiment_id(home, opened), study=study, metric=metric)
    status = "FAILED"
    try:
        yield record
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        record.close(status, document=document)
