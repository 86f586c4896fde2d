"""Logs to a tokenised dataset, once a day."""

from datetime import timedelta
from typing import Any

from airflow.sdk import TriggerRule, dag, task
from airflow.sdk.exceptions import AirflowSkipException

from recolam_tasks import FEATURES, dag_settings, hand_over, run_settings, run_stage


@dag(schedule="@daily", **dag_settings(tags=["data"]))
def recolam_ingest() -> None:
    """
    ### Ingest

    Validates the log, quarantines bad rows, appends to the Delta tables, then makes the tokenised dataset.
    Ingesting the same file twice changes nothing, so that a retry or a second run is safe.
    A log past its quarantine budget fails at once and is not retried: the message names the rule.
    """

    @task
    def demo() -> dict[str, Any]:
        if run_settings()["data"] != "demo":
            raise AirflowSkipException("the log is the user's own")
        return run_stage("demo")

    @task(trigger_rule=TriggerRule.NONE_FAILED, execution_timeout=timedelta(hours=4))
    def ingest() -> dict[str, Any]:
        return run_stage("ingest")

    @task(outlets=[FEATURES], execution_timeout=timedelta(hours=4))
    def features() -> dict[str, Any]:
        artifact = run_stage("features")
        hand_over(FEATURES)
        return artifact

    demo() >> ingest() >> features()


recolam_ingest()
