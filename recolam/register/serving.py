"""The served policy: a DataFrame of histories in, a DataFrame of slates out."""

import logging
import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.pyfunc import PythonModel, PythonModelContext

from recolam.contracts.artifact import open_artifact
from recolam.errors import DataError
from recolam.policy.recommend import Recommender
from recolam.register.pickles import refuse_pickles

POLICY = "policy"
_log = logging.getLogger(__name__)


class SlateModel(PythonModel):
    """An MLflow pyfunc around `Recommender`.

    Attributes:
        unknown_items_total: history items outside the vocabulary, and missing ones, since the model was loaded.
        empty_histories_total: rows without any history since then.
    """

    def __init__(self) -> None:
        self.unknown_items_total = 0
        self.empty_histories_total = 0
        self._counting = threading.Lock()  # a server predicts in several threads
        self._recommender: Recommender | None = None

    def load_context(self, context: PythonModelContext) -> None:
        """Opens and verifies the policy artifact inside the model's folder.

        Raises:
            ArtifactError: it is incomplete, changed since it was written, or a pickle lies beside it.
        """
        folder = Path(context.artifacts[POLICY])
        refuse_pickles(model_folder(folder))
        self._recommender = Recommender.load(open_artifact(folder).path)

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Recommends one slate a row.

        Args:
            context: unused; the policy was read by `load_context`.
            model_input: `history` (list of item ids, oldest first), optionally `exclude` (list of item ids), `k` (how
                many items; the policy's own slate size where missing) and `seed` (whole number: the slate is drawn from
                the policy with it; the most probable slate where missing). A missing list counts as an empty one.
            params: unused.

        Returns:
            `slate` (k different item ids, best first, none of them in history or exclude), `scores` (one each) and
            `log_propensity` (of drawing this slate; 0 without a seed), which a log of slates keeps for off-policy
            estimates. Of a policy with constraints also `problem`: why the slate is empty where none keeps them, ""
            elsewhere.

        Raises:
            DataError: a cell is of another type; names row and column.
        """
        if self._recommender is None:
            raise DataError("the model was not loaded by MLflow: load_context has not run")
        histories, missing = read_items(model_input, "history", required=True)
        excluded, _ = read_items(model_input, "exclude", required=False)
        sizes = [
            self._recommender.slate_size if size is None else size
            for size in read_whole_numbers(model_input, "k", least=1)
        ]
        seeds = read_whole_numbers(model_input, "seed", least=0)
        columns = ["slate", "scores", "log_propensity"] + ["problem"] * self._recommender.is_constrained
        if not histories:
            return pd.DataFrame({name: [] for name in columns}, index=model_input.index, dtype=object)
        answers = self._recommender.recommend(histories, k=sizes, exclude=excluded, seeds=seeds)
        self._count(unknown=missing + sum(answer.unknown for answer in answers), empty=histories.count([]))
        cells = {name: [getattr(answer, name) for answer in answers] for name in columns}
        return pd.DataFrame(cells, index=model_input.index)

    def _count(self, *, unknown: int, empty: int) -> None:
        with self._counting:
            self.unknown_items_total += unknown
            self.empty_histories_total += empty
        if unknown or empty:
            _log.warning("%d unknown items and %d empty histories in this request", unknown, empty)


def model_folder(policy_folder: Path) -> Path:
    """The MLflow model's folder around its policy artifact, or the artifact's own where there is none."""
    return next((parent for parent in policy_folder.parents if (parent / "MLmodel").is_file()), policy_folder)


def read_items(table: pd.DataFrame, column: str, *, required: bool) -> tuple[list[list[str]], int]:
    """The lists of item ids in a column, and how many ids in them were missing (None, NaN) and dropped.

    Raises:
        DataError: a required column is not there, or a cell is not a list of texts.
    """
    if column not in table.columns:
        if required:
            raise DataError(f"input has no column {column!r}; columns: {', '.join(map(str, table.columns))}")
        return [[] for _ in range(len(table))], 0
    lists, missing = [], 0
    for row, cell in enumerate(table[column]):
        if _is_missing(cell):
            cell = []
        if not isinstance(cell, (list, tuple, np.ndarray)):
            raise DataError(f"row {row}, {column}: {cell!r} is {_name(cell)}, not a list of item ids")
        kept = [item for item in cell if not _is_missing(item)]
        for item in kept:
            if not isinstance(item, str):
                raise DataError(f"row {row}, {column}: item id {item!r} is {_name(item)}, not text")
        missing += len(cell) - len(kept)
        lists.append([str(item) for item in kept])
    return lists, missing


def read_whole_numbers(table: pd.DataFrame, column: str, *, least: int) -> list[int | None]:
    """The numbers in a column, None where missing.

    Raises:
        DataError: a cell is not a whole number of at least `least`.
    """
    if column not in table.columns:
        return [None] * len(table)
    numbers: list[int | None] = []
    for row, cell in enumerate(table[column]):
        if _is_missing(cell):
            numbers.append(None)
            continue
        is_number = isinstance(cell, (int, float, np.integer, np.floating)) and not isinstance(cell, bool)
        if not is_number or not float(cell).is_integer() or cell < least:
            raise DataError(f"row {row}, {column}: {cell!r} is not a whole number of at least {least}")
        numbers.append(int(cell))
    return numbers


def _is_missing(cell: Any) -> bool:
    return cell is None or cell is pd.NA or (isinstance(cell, (float, np.floating)) and math.isnan(cell))


def _name(value: Any) -> str:
    return f"of type {type(value).__name__}"
