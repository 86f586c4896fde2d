"""Logging a policy artifact as an MLflow model: models from code, safetensors inside, nothing pickled."""

import shutil
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from recolam.contracts.artifact import Artifact, open_artifact
from recolam.contracts.home import Home
from recolam.errors import ArtifactError
from recolam.register.pickles import refuse_pickles
from recolam.tracking import client, default_store, experiment_id, safe_mlflow

POLICY_DIGEST = "recolam.policy_digest"
_CODE = Path(__file__).with_name("serving_model.py")
_PACKAGE = Path(__file__).parents[1]
_REQUIRED = ("torch", "transformers", "safetensors", "numpy", "pandas", "mlflow", "filelock")


def requirements() -> list[str]:
    """The exact versions that serving needs, as installed here (without local labels such as +cpu)."""
    return [f"{name}=={version(name).split('+')[0]}" for name in _REQUIRED]


def signature(*, is_constrained: bool = False) -> Any:
    """Input columns history, exclude, k and seed (all but history optional); output columns slate, scores,
    log_propensity and, of a policy with constraints, problem.

    The input columns are of type Any because MLflow's typed columns refuse a missing cell, even in optional columns;
    the model checks them itself, and says row and column.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema, TensorSpec
    from mlflow.types.schema import AnyType, Array

    inputs: list[ColSpec | TensorSpec] = [
        ColSpec(AnyType(), name, required=name == "history") for name in ("history", "exclude", "k", "seed")
    ]
    outputs: list[ColSpec | TensorSpec] = [
        ColSpec(Array(DataType.string), "slate"),
        ColSpec(Array(DataType.double), "scores"),
        ColSpec(DataType.double, "log_propensity"),
    ]
    if is_constrained:
        outputs.append(ColSpec(DataType.string, "problem"))
    return ModelSignature(inputs=Schema(inputs), outputs=Schema(outputs))


def log_policy(home: Home, policy: Artifact, *, run_id: str) -> str:
    """Logs the policy as an MLflow model that belongs to a run; call it under the registry's lock.

    The model holds the whole artifact folder with its manifest, and recolam's code. Unfinished models of the same
    policy, left by a killed process, are deleted.

    Returns:
        The model's URI, models:/<model id>.

    Raises:
        ArtifactError: the artifact's folder holds a pickle, or what was logged is not what was meant.
    """
    import pandas as pd

    refuse_pickles(policy.path)
    opened = client(home)
    experiment = experiment_id(home, opened)
    tags = {POLICY_DIGEST: policy.digest}
    for left in opened.search_logged_models([experiment], filter_string=f"tags.`{POLICY_DIGEST}` = '{policy.digest}'"):
        if str(left.status) != "READY":
            opened.delete_logged_model(left.model_id)
    items = policy.json("vocabulary.json")["items"]
    example = pd.DataFrame({"history": [items[:2], items[1:2]], "exclude": [items[2:3], []], "k": [2, 1]})
    before, writes_nothing = list(sys.path), sys.dont_write_bytecode
    sys.dont_write_bytecode = True  # MLflow tries the model out: no compiled file may slip into its folder
    with default_store(home) as mlflow, tempfile.TemporaryDirectory() as folder:
        code = shutil.copytree(_PACKAGE, Path(folder) / _PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
        begun = mlflow.initialize_logged_model(
            name=policy.stage, source_run_id=run_id, tags=tags, experiment_id=experiment
        )
        mlflow.pyfunc.log_model(
            name=policy.stage,
            model_id=begun.model_id,
            python_model=str(_CODE),
            artifacts={"policy": str(policy.path)},
            code_paths=[str(code)],
            signature=signature(is_constrained="constraints" in policy.json("policy.json")),
            input_example=example,
            pip_requirements=requirements(),
        )
    sys.path[:] = before  # MLflow leaves its temporary code folder on the path
    sys.dont_write_bytecode = writes_nothing
    logged = open_logged_policy(opened.get_logged_model(begun.model_id).artifact_location)
    if logged.digest != policy.digest:
        raise ArtifactError(f"{logged.path}: holds policy {logged.digest}, not {policy.digest}")
    return f"models:/{begun.model_id}"


def open_logged_policy(location: str) -> Artifact:
    """Opens and verifies the policy artifact inside an MLflow model's folder.

    Args:
        location: the folder's file URI or path.

    Raises:
        ArtifactError: the folder is gone, is no recolam model, holds a pickle, or its policy was changed.
    """
    safe_mlflow()
    from mlflow.models import Model

    folder = Path(url2pathname(urlsplit(location).path))
    if not (folder / "MLmodel").is_file():
        raise ArtifactError(f"{folder}: no MLflow model there (was the home moved or cleaned?)")
    refuse_pickles(folder)
    try:
        inside = Model.load(folder).flavors["python_function"]["artifacts"]["policy"]["path"]
    except (KeyError, TypeError) as error:
        raise ArtifactError(f"{folder}: an MLflow model, but not of a recolam policy") from error
    return open_artifact(folder / inside)
