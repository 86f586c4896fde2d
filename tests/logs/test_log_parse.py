"""Bytes become text cells with the number of the row they stood in."""

import gzip
import io
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from recolam.errors import DataError
from recolam.logs.parse import parse_csv, parse_jsonl, parse_lines, parse_parquet
from recolam.logs.source import open_source


def test_csv_keeps_quotes_blanks_and_row_numbers() -> None:
    data = b'\xef\xbb\xbfuser,"the, item",time\r\na,"x, ""y""\nz",3\r\n\r\nb,q,4,5\r\nc,q\r\n'
    frame = parse_csv(data, where="f")
    assert frame.columns == ["source_row", "user", "the, item", "time", "defect"]
    assert frame.rows() == [
        (1, "a", 'x, "y"\nz', "3", None),
        (3, "b", "q", "4", "too_many_fields"),
        (4, "c", "q", None, None),
    ]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no header"),
        (b"\n\n", "no header"),
        (b"a,a\n1,2\n", "'a' stands twice"),
        (b"source_row,b\n1,2\n", "'source_row' is a reserved name"),
        (b'a,b\n1,"2" 3\n', "at column 'b'"),
        (b'a,b\n1,"2\n', "not a CSV table"),
        (b"a,b\n\xff,2\n", "utf-8"),
        (b"\xff,b\n1,2\n", "not utf-8 text"),
    ],
)
def test_csv_that_is_none_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        parse_csv(data, where="folder: file.csv")
    assert "folder: file.csv" in str(error.value)


def test_lines_number_physical_lines() -> None:
    data = "1::Amélie\r\n\r\n2\n3::x::y\n".encode("latin-1")
    frame = parse_lines(data, separator="::", columns=("id", "title"), encoding="latin-1", where="f")
    assert frame.rows() == [(1, "1", "Amélie", None), (3, "2", None, None), (4, "3", "x", "too_many_fields")]


def test_json_lines_keep_every_cell_checkable() -> None:
    data = b'{"user": 1, "tags": ["a", 2], "v": NaN}\n\n{"user": "u", "v": 0.1}\n[1]\n{broken\n'
    frame = parse_jsonl(data, where="f")
    assert frame["source_row"].to_list() == [1, 3, 4, 5]
    assert frame["user"].to_list() == ["1", "u", None, None]
    assert frame["tags"].to_list() == [["a", "2"], None, None, None]
    assert frame["v"].to_list() == ["nan", "0.1", None, None]
    assert frame["defect"].to_list() == [None, None, "not_json", "not_json"]


def test_parquet_cells_become_text_and_dates_seconds() -> None:
    moment = datetime(2020, 1, 1, 0, 0, 0, 500_000, tzinfo=UTC)
    stream = io.BytesIO()
    frame = pl.DataFrame({"id": [7], "time": [moment], "value": [0.1], "tags": [["a"]], "deep": [{"a": 1}], "s": ["x"]})
    frame.write_parquet(stream)
    row = parse_parquet(stream.getvalue(), where="f").row(0, named=True)
    assert float(row.pop("time")) == moment.timestamp()
    assert float(row.pop("value")) == 0.1
    assert row == {"source_row": 1, "id": "7", "tags": ["a"], "s": "x", "defect": None}


def test_parquet_that_is_none_is_refused() -> None:
    with pytest.raises(DataError, match="f: not a Parquet file"):
        parse_parquet(b"PAR1 no", where="f")


def test_source_decompresses_and_names_broken_gzip(tmp_path: Path) -> None:
    whole = gzip.compress(b"content")
    (tmp_path / "good.csv.gz").write_bytes(whole)
    (tmp_path / "bad.csv.gz").write_bytes(whole[:-9])
    source = open_source(tmp_path)
    assert source.read("good.csv.gz") == b"content"
    with pytest.raises(DataError, match=r"bad\.csv\.gz cannot be read"):
        source.read("bad.csv.gz")
