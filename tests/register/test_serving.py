"""The served model's contract: columns, distinct items, nothing seen or excluded, counts, tolerance, isolation."""

import json
import logging
import os
import shutil
import site
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from fastapi.testclient import TestClient
from mlflow.pyfunc import PyFuncModel, scoring_server

from recolam.contracts.artifact import Artifact
from recolam.errors import ArtifactError, DataError
from recolam.policy.recommend import Recommender
from recolam.register.model import open_logged_policy

ITEMS = [f"item-{number}" for number in range(12)]


@pytest.fixture(scope="module")
def folder(logged_folders: dict[str, Path], policies: list[Artifact]) -> Path:
    return logged_folders[policies[0].digest]


@pytest.fixture
def model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> PyFuncModel:
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    monkeypatch.setattr(sys, "path", list(sys.path))
    return mlflow.pyfunc.load_model(folder.as_uri())


def test_a_slate_has_k_different_items_none_of_them_seen_or_excluded(model: PyFuncModel) -> None:
    generator = np.random.default_rng(0)
    rows = []
    for _ in range(40):
        drawn = generator.permutation(ITEMS).tolist()
        rows.append({"history": drawn[:4], "exclude": drawn[4:7], "k": int(generator.integers(1, 6))})
    answer = model.predict(pd.DataFrame(rows))
    assert list(answer.columns) == ["slate", "scores", "log_propensity"]
    for row, slate, scores in zip(rows, answer["slate"], answer["scores"], strict=True):
        assert len(slate) == len(set(slate)) == len(scores) == row["k"]
        assert not set(slate) & {*row["history"], *row["exclude"]}
        assert set(slate) <= set(ITEMS)
        assert scores == sorted(scores, reverse=True)
        assert np.isfinite(scores).all()


def test_it_answers_what_the_policy_answers(model: PyFuncModel, policies: list[Artifact]) -> None:
    histories = [ITEMS[:3], ITEMS[5:9], []]
    expected = Recommender.load(policies[0].path).recommend(histories, k=4)
    answer = model.predict(pd.DataFrame({"history": histories, "k": [4, 4, 4]}))
    assert answer["slate"].tolist() == [item.slate for item in expected]
    assert answer["scores"].tolist() == [item.scores for item in expected]


def test_rows_with_a_seed_are_drawn_and_carry_their_propensity(model: PyFuncModel, policies: list[Artifact]) -> None:
    table = pd.DataFrame({"history": [["item-1"]] * 3, "k": [4] * 3, "seed": [5, 5, None]})
    answer = model.predict(table)
    expected = Recommender.load(policies[0].path).recommend([["item-1"]] * 3, k=4, seeds=[5, 5, None])
    assert answer["slate"].tolist() == [item.slate for item in expected]
    assert answer["slate"][0] == answer["slate"][1]
    assert answer["log_propensity"].tolist() == [item.log_propensity for item in expected]
    assert answer["log_propensity"][0] < 0.0 == answer["log_propensity"][2]


@pytest.mark.parametrize("history", [[], ["item-1"], ["item-1", "item-2"]])
def test_a_mapping_of_columns_is_one_row_a_list(model: PyFuncModel, history: list[str]) -> None:
    answer = model.predict({"history": [history], "exclude": [[]], "k": [4]})
    assert [len(slate) for slate in answer["slate"]] == [4]


def test_without_k_the_slate_has_the_policys_size(model: PyFuncModel) -> None:
    answer = model.predict(pd.DataFrame({"history": [["item-1"]]}))
    assert len(answer["slate"][0]) == 3


def test_a_catalogue_that_is_used_up_gives_what_is_left(model: PyFuncModel) -> None:
    answer = model.predict(pd.DataFrame({"history": [ITEMS[:11], ITEMS], "k": [5, 5]}))
    assert answer["slate"].tolist() == [["item-11"], []]


def test_unknown_items_and_empty_histories_are_counted(model: PyFuncModel, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        answer = model.predict(pd.DataFrame({"history": [["item-1", "never-seen"], [], ["nor-this", "nor-that"]]}))
    assert [len(slate) for slate in answer["slate"]] == [3, 3, 3]
    served = model.unwrap_python_model()
    assert (served.unknown_items_total, served.empty_histories_total) == (3, 1)
    assert "3 unknown items and 1 empty histories" in caplog.text
    model.predict(pd.DataFrame({"history": [["never-seen"]]}))
    assert served.unknown_items_total == 4


@pytest.mark.parametrize("missing", [None, float("nan"), pd.NA])
def test_missing_cells_count_as_empty(model: PyFuncModel, missing: Any) -> None:
    table = pd.DataFrame(
        {"history": [missing, ["item-1", missing]], "exclude": [missing, ["item-2"]], "k": [missing, 2]}, dtype=object
    )
    answer = model.predict(table)
    assert [len(slate) for slate in answer["slate"]] == [3, 2]
    assert not {"item-1", "item-2"} & set(answer["slate"][1])
    assert model.unwrap_python_model().empty_histories_total == 1


def test_records_that_lack_optional_keys(model: PyFuncModel) -> None:
    table = pd.DataFrame([{"history": ["item-1"]}, {"history": ["item-2"], "exclude": ["item-3"], "k": 2}])
    assert table["k"].dtype == float  # pandas has put NaN where the key is missing
    assert [len(slate) for slate in model.predict(table)["slate"]] == [3, 2]


def test_the_index_is_kept_and_no_rows_give_no_rows(model: PyFuncModel) -> None:
    table = pd.DataFrame({"history": [["item-1"], ["item-2"]]}, index=["anna", "ben"])
    assert list(model.predict(table).index) == ["anna", "ben"]
    assert list(model.predict(table.iloc[:0]).columns) == ["slate", "scores", "log_propensity"]


@pytest.mark.parametrize(
    ("column", "cell", "message"),
    [
        ("history", "item-1,item-2", "row 0, history: 'item-1,item-2' is of type str, not a list"),
        ("history", {"item-1": 1}, "row 0, history"),
        ("history", [1193, 661], "row 0, history: item id 1193 is of type int, not text"),
        ("exclude", 5, "row 0, exclude: 5 is of type int, not a list"),
        ("k", "three", "row 0, k: 'three' is not a whole number"),
        ("k", 2.5, "row 0, k: 2.5"),
        ("k", 0, "row 0, k: 0"),
        ("k", -1, "row 0, k: -1"),
        ("k", float("inf"), "row 0, k: inf"),
        ("k", True, "row 0, k: True"),
        ("seed", -1, "row 0, seed: -1 is not a whole number of at least 0"),
        ("seed", "today", "row 0, seed: 'today' is not a whole number"),
    ],
)
def test_wrong_types_are_named(model: PyFuncModel, column: str, cell: Any, message: str) -> None:
    row = {"history": ["item-1"], column: cell}
    with pytest.raises(DataError) as caught:
        model.predict(pd.DataFrame([row]))
    assert message in str(caught.value)


def test_a_missing_history_column_is_named(model: PyFuncModel) -> None:
    with pytest.raises(mlflow.MlflowException, match="history"):
        model.predict(pd.DataFrame({"k": [3]}))
    with pytest.raises(DataError, match="no column 'history'"):
        model.unwrap_python_model().predict(None, pd.DataFrame({"k": [3]}))


def test_signature_example_and_requirements(model: PyFuncModel, folder: Path) -> None:
    signature = model.metadata.signature
    assert signature.inputs.required_input_names() == ["history"]
    assert signature.inputs.optional_input_names() == ["exclude", "k", "seed"]
    assert signature.outputs.input_names() == ["slate", "scores", "log_propensity"]
    example = pd.DataFrame(**json.loads((folder / "input_example.json").read_text()))
    assert len(model.predict(example)) == len(example) > 0
    lines = (folder / "requirements.txt").read_text().split()
    names = [line.partition("==")[0] for line in lines]
    assert {"torch", "transformers", "safetensors", "numpy", "pandas", "mlflow", "filelock"} == set(names)
    assert all("==" in line and "+" not in line for line in lines)


def test_a_json_request_is_served(model: PyFuncModel) -> None:
    server = TestClient(scoring_server.init(model))
    records = [{"history": ["item-1"], "exclude": None, "k": 2}, {"history": [], "k": None}, {"history": None}]
    answer = server.post("/invocations", json={"dataframe_records": records})
    assert [len(row["slate"]) for row in answer.json()["predictions"]] == [2, 3, 3]
    refused = server.post("/invocations", json={"dataframe_records": [{"history": "item-1"}]})
    assert refused.status_code == 400


@pytest.mark.slow
def test_it_loads_where_recolam_is_not_installed(folder: Path, tmp_path: Path) -> None:
    script = """
import importlib.util, json, sys
sys.path += json.loads(sys.argv[2])  # without site, so that no editable install is on the path
assert importlib.util.find_spec("recolam") is None, "recolam is installed here"
import mlflow, pandas
model = mlflow.pyfunc.load_model(sys.argv[1])
slates = model.predict(pandas.DataFrame({"history": [["item-1"], ["unheard-of"]], "k": [2, 3]}))["slate"].tolist()
print(json.dumps({"slates": slates, "code": sys.modules["recolam"].__file__}))
"""
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    command = [sys.executable, "-I", "-S", "-B", "-c", script, folder.as_uri(), json.dumps(site.getsitepackages())]
    answer = subprocess.run(
        command, cwd=tmp_path, env=environment | {"MLFLOW_DISABLE_TELEMETRY": "true"}, capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stderr
    told = json.loads(answer.stdout.splitlines()[-1])
    assert [len(slate) for slate in told["slates"]] == [2, 3]
    assert Path(told["code"]).is_relative_to(folder / "code")


def test_nothing_in_the_model_is_a_pickle_or_compiled(folder: Path) -> None:
    endings = {path.suffix for path in folder.rglob("*") if path.is_file()}
    assert not endings & {".pkl", ".pickle", ".pt", ".pth", ".bin", ".joblib"}
    assert ".safetensors" in endings
    # beside the model's own file Python writes a compiled one when another test loads it
    assert not list((folder / "code").rglob("*.pyc"))


@pytest.mark.parametrize("name", ["python_model.pkl", "artifacts/extra.bin", "artifacts/policy-0/model/model.pkl"])
def test_a_pickle_in_the_models_folder_is_refused(
    folder: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    assert open_logged_policy(str(copy)).stage == "policy"
    (copy / name).write_bytes(b"\x80\x04N.")
    for load in (open_logged_policy, mlflow.pyfunc.load_model):
        with pytest.raises(ArtifactError, match="pickle"):
            load(copy.as_uri())


def test_a_changed_policy_is_refused(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    weights = open_logged_policy(str(copy)).file("model/model.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ArtifactError, match="changed since it was written"):
        mlflow.pyfunc.load_model(copy.as_uri())
