"""The sequence model, pretrained whenever there is a new dataset."""

from datetime import timedelta
from typing import Any

from airflow.sdk import dag, task

from recolam_tasks import FEATURES, PRETRAINED, dag_settings, hand_over, run_stage


@dag(schedule=[FEATURES], **dag_settings(tags=["training"]))
def recolam_pretrain() -> None:
    """
    ### Pretrain

    Masked-item and next-item training of the sequence transformer. A killed task resumes from its last checkpoint
    when it is retried, and ends with the same weights.
    """

    @task(outlets=[PRETRAINED], execution_timeout=timedelta(hours=48))
    def pretrain() -> dict[str, Any]:
        artifact = run_stage("pretrain")
        hand_over(PRETRAINED)
        return artifact

    pretrain()


recolam_pretrain()
