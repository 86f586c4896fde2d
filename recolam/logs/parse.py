"""Bytes of one file -> a frame of text cells. Nothing is judged here except what cannot be taken apart at all."""

import csv
import io
import json
import re
from collections.abc import Sequence
from typing import Any

import polars as pl

from recolam.errors import DataError
from recolam.logs.raw import DEFECT, ROW

_EXTRA = "\x1fextra"


def parse_lines(data: bytes, *, separator: str, columns: Sequence[str], encoding: str, where: str) -> pl.DataFrame:
    """Fields between `separator`s, without quoting or header; `source_row` is the physical line. Blank lines count.

    Raises:
        DataError: the bytes are not text of this encoding.
    """
    lines = _decode(data, encoding=encoding, where=where).split("\n")
    frame = pl.DataFrame({"line": pl.Series(lines, dtype=pl.String).str.strip_chars_end("\r")})
    frame = frame.with_row_index(ROW, offset=1).filter(pl.col("line").str.strip_chars() != "")
    extra = len(columns)
    fields = pl.col("line").str.split_exact(separator, extra).struct.rename_fields([*columns, _EXTRA])
    return _with_defects(frame.select(pl.col(ROW).cast(pl.Int64), fields).unnest("line"))


def parse_csv(data: bytes, *, where: str, separator: str = ",") -> pl.DataFrame:
    """A table with a header; `source_row` is the number of the data row, from 1. Rows without any content are left out.

    Raises:
        DataError: no header, a column name twice, not UTF-8, or quotes that do not close.
    """
    data = data.removeprefix(b"\xef\xbb\xbf")
    first, _, rest = data.partition(b"\n")
    header = next(csv.reader([_decode(first, encoding="utf-8", where=where).strip("\r")], delimiter=separator), [])
    if not "".join(header).strip():
        raise DataError(f"{where}: empty, there is no header line")
    _refuse_repeats(header, where=where)
    names = [*(f"c{i}" for i in range(len(header))), _EXTRA]
    body = separator.join(names).encode() + b"\n" + rest
    try:
        frame = pl.read_csv(io.BytesIO(body), separator=separator, infer_schema=False, truncate_ragged_lines=True)
    except pl.exceptions.PolarsError as error:
        reason = re.sub(r"'c(\d+)'", lambda match: repr(header[int(match[1])]), str(error).splitlines()[0])
        raise DataError(f"{where}: not a CSV table ({reason})") from error
    frame = frame.with_row_index(ROW, offset=1).filter(pl.any_horizontal(pl.col(names).is_not_null()))
    frame = frame.rename(dict(zip(names, header, strict=False)))
    return _with_defects(frame.with_columns(pl.col(ROW).cast(pl.Int64)))


def parse_parquet(data: bytes, *, where: str) -> pl.DataFrame:
    """A Parquet file; lists stay lists, dates become seconds since 1970, columns of other nested types are left out.

    Raises:
        DataError: not a Parquet file.
    """
    try:
        frame = pl.read_parquet(io.BytesIO(data))
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{where}: not a Parquet file ({str(error).splitlines()[0]})") from error
    kinds = {name: kind for name, kind in frame.schema.items() if name not in (ROW, DEFECT)}
    cells = [cell for name, kind in kinds.items() if (cell := _as_text(name, kind)) is not None]
    return _with_defects(frame.select(cells).with_row_index(ROW, offset=1).with_columns(pl.col(ROW).cast(pl.Int64)))


def parse_jsonl(data: bytes, *, where: str) -> pl.DataFrame:
    """One JSON object a line; `source_row` is the physical line. A line that is no object is a defect.

    Raises:
        DataError: not UTF-8.
    """
    lines = _decode(data.removeprefix(b"\xef\xbb\xbf"), encoding="utf-8", where=where).split("\n")
    columns: dict[str, dict[int, Any]] = {}
    rows: list[int] = []
    defects: dict[int, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        rows.append(number)
        try:
            record = json.loads(line)
        except (json.JSONDecodeError, RecursionError):
            record = None
        if not isinstance(record, dict):
            defects[number] = line[:200]
            continue
        for key, value in record.items():
            columns.setdefault(str(key), {})[number] = value
    frame = {ROW: pl.Series(rows, dtype=pl.Int64)}
    for name, cells in columns.items():
        if name not in (ROW, DEFECT):
            frame[name] = _json_column([cells.get(number) for number in rows])
    frame[DEFECT] = pl.Series(["not_json" if number in defects else None for number in rows], dtype=pl.String)
    return pl.DataFrame(frame)


def _json_column(values: list[Any]) -> pl.Series:
    if any(isinstance(value, list) for value in values):
        lists = [[_json_text(x) for x in (v if isinstance(v, list) else [v]) if x is not None] if v is not None
                 else None for v in values]  # fmt: skip
        return pl.Series(lists, dtype=pl.List(pl.String))
    return pl.Series([_json_text(value) for value in values], dtype=pl.String)


def _json_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return repr(value) if isinstance(value, float) else json.dumps(value)


def _as_text(name: str, kind: pl.DataType) -> pl.Expr | None:
    column = pl.col(name)
    if isinstance(kind, (pl.Datetime, pl.Date)):
        return (column.cast(pl.Datetime("us")).dt.timestamp("us") / 1_000_000).cast(pl.String).alias(name)
    if isinstance(kind, (pl.List, pl.Array)) and not kind.inner.is_nested():
        return column.cast(pl.List(pl.String))
    if kind.is_nested() or kind == pl.Binary or kind == pl.Object:
        return None
    return column.cast(pl.String)


def _with_defects(frame: pl.DataFrame) -> pl.DataFrame:
    if _EXTRA not in frame.columns:
        return frame.with_columns(pl.lit(None, dtype=pl.String).alias(DEFECT))
    defect = pl.when(pl.col(_EXTRA).is_not_null()).then(pl.lit("too_many_fields")).alias(DEFECT)
    return frame.with_columns(defect).drop(_EXTRA)


def _decode(data: bytes, *, encoding: str, where: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: byte {error.start} is not {encoding} text") from error


def _refuse_repeats(header: list[str], *, where: str) -> None:
    for name in header:
        if header.count(name) > 1 or name in (ROW, DEFECT):
            reason = "stands twice in the header" if header.count(name) > 1 else "is a reserved name"
            raise DataError(f"{where}: column {name!r} {reason}")
