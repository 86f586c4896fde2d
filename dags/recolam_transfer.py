"""The policy tuned for each target domain of the log."""

from datetime import timedelta
from typing import Any

from airflow.sdk import TriggerRule, dag, task

from recolam_tasks import POLICY, TRANSFERS, dag_settings, hand_over, run_settings, run_stage


@dag(schedule=[POLICY], **dag_settings(tags=["training", "transfer"]))
def recolam_transfer() -> None:
    """
    ### Transfer

    One mapped task for each target domain that ingest found; a log without domains maps to none and goes on.
    One domain at a time in a run: they would share one accelerator.
    """

    @task
    def domains() -> list[str]:
        from recolam import pipeline

        return pipeline.domains(pipeline.make_plan(**run_settings()))

    @task(max_active_tis_per_dagrun=1, map_index_template="{{ domain }}", execution_timeout=timedelta(hours=24))
    def transfer(domain: str) -> dict[str, Any]:
        return run_stage("transfer", domain=domain)

    @task(outlets=[TRANSFERS], trigger_rule=TriggerRule.NONE_FAILED)
    def transferred() -> None:
        hand_over(TRANSFERS)

    transfer.expand(domain=domains()) >> transferred()


recolam_transfer()
