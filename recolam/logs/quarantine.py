"""Good rows go on, bad ones to the quarantine; too many bad ones end the run before anything is written."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

import dataframely as dy
import polars as pl

from recolam.errors import DataError
from recolam.logs.raw import DEFECT, ROW, RawTable
from recolam.logs.schemas import SCHEMA_RULES

_HINTS = {"time_absurd": " (times are seconds since 1970; later than 2100 usually means milliseconds)"}


@dataclass(frozen=True)
class Sorted:
    """One table's rows, judged.

    Attributes:
        good: the candidates that break no rule, in file order.
        bad: columns source, source_row, rule, row_json; one row per bad row, under the first rule it breaks.
        read: how many rows the file has: `good.height + bad.height`.
        rules: bad rows per rule.
    """

    good: pl.DataFrame
    bad: pl.DataFrame
    read: int
    rules: Mapping[str, int]


def sort_out(schema: type[dy.Schema], candidates: pl.DataFrame, raw: RawTable, *, budget: float, where: str) -> Sorted:
    """Applies a schema to the rows of one file.

    Args:
        budget: the share of rows that may be bad.
        where: the source's path, for the error.

    Raises:
        DataError: more are bad; it names the first bad row's file, number, column and value, and counts per rule.
    """
    result = schema.filter(candidates)
    broken = _first_rule(result.failure.details(), schema)
    rules = dict(sorted(broken.group_by("rule").len().iter_rows()))
    if broken.height > budget * candidates.height:
        raise DataError(f"{where}: " + _over_budget(raw, broken, rules, schema, budget=budget))
    rows = raw.frame.join(broken, on=ROW, how="inner", maintain_order="right")
    bad = pl.DataFrame(
        {
            "source": pl.Series([raw.source] * rows.height, dtype=pl.String),
            ROW: rows[ROW],
            "rule": rows["rule"],
            "row_json": pl.Series(_as_json(rows.drop(ROW, DEFECT, "rule")), dtype=pl.String),
        }
    )
    return Sorted(pl.DataFrame(result.result).sort(ROW), bad, candidates.height, rules)


def _first_rule(details: pl.DataFrame, schema: type[dy.Schema]) -> pl.DataFrame:
    """Columns source_row and rule, in file order."""
    names = [name for name in SCHEMA_RULES[schema] if name in details.columns]
    blamed = [pl.when(pl.col(name) == "invalid").then(pl.lit(name)) for name in names]
    return details.select(ROW, pl.coalesce(blamed).alias("rule")).sort(ROW)


def _over_budget(
    raw: RawTable, broken: pl.DataFrame, rules: Mapping[str, int], schema: type[dy.Schema], *, budget: float
) -> str:
    row, rule = broken.row(0)
    cells = raw.frame.filter(pl.col(ROW) == row).row(0, named=True)
    column = raw.columns.get(SCHEMA_RULES[schema][rule])
    value = (
        {name: cell for name, cell in cells.items() if name not in (ROW, DEFECT)} if column is None else cells[column]
    )
    total = raw.frame.height
    return (
        f"{broken.height} of {total} rows of {raw.source} are bad ({broken.height / total:.2%}, allowed {budget:.2%}). "
        f"First: {raw.source}, {raw.row_word} {row}, column {column or 'all'}, value {_short(value)}: "
        f"{rule}{_HINTS.get(rule, '')}. Counts: {json.dumps(dict(rules))}. Nothing was written."
    )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else text[:200] + "..."


def _as_json(rows: pl.DataFrame) -> list[str]:
    return [json.dumps(row, ensure_ascii=False, sort_keys=True) for row in rows.iter_rows(named=True)]
