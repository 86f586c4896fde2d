"""The simulated users and the slate policy trained on them."""

from datetime import timedelta
from typing import Any

from airflow.sdk import dag, task

from recolam_tasks import POLICY, PRETRAINED, dag_settings, hand_over, run_stage


@dag(schedule=[PRETRAINED], **dag_settings(tags=["training", "simulation"]))
def recolam_policy() -> None:
    """
    ### Policy

    `world` fits users' choice and reward to the log; `policy` optimises the slate policy against those users by
    policy gradient, starting from the pretrained weights.
    """

    @task(execution_timeout=timedelta(hours=12))
    def world() -> dict[str, Any]:
        return run_stage("world")

    @task(outlets=[POLICY], execution_timeout=timedelta(hours=48))
    def policy() -> dict[str, Any]:
        artifact = run_stage("policy")
        hand_over(POLICY)
        return artifact

    world() >> policy()


recolam_policy()
