"""The offline evaluation, the gate, and the registered model."""

from datetime import timedelta
from typing import Any

from airflow.sdk import dag, task

from recolam_tasks import MODEL, TRANSFERS, dag_settings, hand_over, run_settings, run_stage


@dag(schedule=[TRANSFERS], **dag_settings(tags=["evaluation", "registry"]))
def recolam_evaluate_register() -> None:
    """
    ### Evaluate and register

    Ranking metrics, off-policy estimates with intervals and returns in the world, as a report; then a new model
    version, which becomes the champion only if it passes the gate against the present one.
    """

    @task(execution_timeout=timedelta(hours=12))
    def evaluate() -> dict[str, Any]:
        return run_stage("evaluate")

    @task
    def register() -> dict[str, Any]:
        return run_stage("register")

    @task(outlets=[MODEL])
    def summary() -> str:
        from recolam import pipeline

        path = pipeline.summarise(pipeline.make_plan(**run_settings()))
        hand_over(MODEL)
        return str(path)

    evaluate() >> register() >> summary()


recolam_evaluate_register()
