"""Run by test_definitions in a process of its own: reads the DAG files and writes what it found as JSON."""

import json
import sys
import time
from pathlib import Path
from typing import Any


def main(folder: str, out: str) -> None:
    begin = time.process_time()
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(folder)
    seconds = time.process_time() - begin
    found = {
        "import_errors": bag.import_errors,
        "cpu_seconds": seconds,
        "modules": sorted({name.split(".")[0] for name in sys.modules}),
        "dags": {dag_id: _describe(dag) for dag_id, dag in bag.dags.items()},
    }
    Path(out).write_text(json.dumps(found))


def _describe(dag: Any) -> dict[str, Any]:
    return {
        "tags": sorted(dag.tags),
        "doc": dag.doc_md,
        "catchup": dag.catchup,
        "max_active_runs": dag.max_active_runs,
        "schedule": dag.schedule if isinstance(dag.schedule, str) else [asset.name for asset in dag.schedule],
        "params": {name: dag.params.get_param(name).schema for name in dag.params},
        "defaults": dag.params.dump(),
        "refused": {name: _refused(dag, name, value) for name, value in BAD_PARAMS},
        "tasks": {task.task_id: _describe_task(task) for task in dag.tasks},
    }


BAD_PARAMS = [("preset", "enormous"), ("seed", -1), ("seed", "1"), ("data", "--home"), ("format", "a b"), ("home", "x")]


def _refused(dag: Any, name: str, value: Any) -> bool:
    from airflow.sdk.exceptions import ParamValidationError

    try:
        dag.params.get_param(name).resolve(value)
    except ParamValidationError:
        return True
    return False


def _describe_task(task: Any) -> dict[str, Any]:
    from recolam.errors import ArtifactError, ConfigError, DataError

    policy = task.retry_policy
    return {
        "retries": task.retries,
        "retry_delay_s": task.retry_delay.total_seconds(),
        "backoff": task.retry_exponential_backoff,
        "timeout_s": task.execution_timeout.total_seconds(),
        "outlets": [asset.name for asset in task.outlets],
        "upstream": sorted(task.upstream_task_ids),
        "mapped": task.is_mapped,
        "on_error": {
            error.__name__: policy.evaluate(error("why"), 1, 3).action.value
            for error in (DataError, ConfigError, ArtifactError, OSError)
        },
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
