"""Every format is found, read, and refused where it is not what it says."""

import gzip
import json
import zipfile
from pathlib import Path

import polars as pl
import pytest

from recolam.errors import ConfigError, DataError
from recolam.logs.config import ColumnMapping
from recolam.logs.raw import RawLog
from recolam.logs.readers.registry import FORMATS, choose_reader
from recolam.logs.source import open_source
from tests.logs.support import good_rows, native_folder, write_csv

ONE_M = {
    "ratings.dat": "1::10::5::978300760\n2::20::3::978302109\n",
    "movies.dat": "10::Amélie (2001)::Comedy|Romance\n20::Toy Story (1995)::Animation|Children's\n",
}
HUNDRED_K = {
    "u.data": "1\t10\t5\t978300760\n2\t20\t3\t978302109\n",
    "u.item": "10|Amélie (2001)|01-Jan-2001||http://x|" + "|".join("0000010000000010000")
    + "\n20|Toy Story (1995)|01-Jan-1995||http://x|" + "|".join("0001100000000000000") + "\n",
}  # fmt: skip
LATEST = {
    "ratings.csv": "userId,movieId,rating,timestamp\n1,10,5.0,978300760\n2,20,3.0,978302109\n",
    "movies.csv": 'movieId,title,genres\n10,"Amélie, the film (2001)",Comedy|Romance\n20,Toy Story (1995),Children\n'
    "30,Nothing,(no genres listed)\n",
}
LAYOUTS = {"movielens-1m": ONE_M, "movielens-100k": HUNDRED_K, "movielens-latest": LATEST}


def read(path: Path, *, name: str = "auto", mapping: ColumnMapping | None = None) -> RawLog:
    source = open_source(path)
    return choose_reader(source, name, mapping).read(source, mapping)


def write_layout(folder: Path, name: str) -> Path:
    folder.mkdir()
    for member, text in LAYOUTS[name].items():
        (folder / member).write_bytes(text.encode("utf-8" if name == "movielens-latest" else "latin-1"))
    return folder


def zipped(folder: Path) -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for member in folder.iterdir():
            archive.write(member, f"{folder.name}/{member.name}")
    return path


@pytest.mark.parametrize("name", sorted(LAYOUTS))
@pytest.mark.parametrize("is_zip", [False, True])
def test_movielens_layouts(tmp_path: Path, name: str, is_zip: bool) -> None:
    path = write_layout(tmp_path / "ml", name)
    path = zipped(path) if is_zip else path
    assert choose_reader(open_source(path), "auto", None).name == name
    log = read(path)
    events, items = log.interactions, log.items
    assert items is not None
    cells = events.frame.select(*(events.text(column).alias(column) for column in ("user", "item", "value", "time")))
    assert [(u, i, float(v), t) for u, i, v, t in cells.rows()] == [
        ("1", "10", 5.0, "978300760"),
        ("2", "20", 3.0, "978302109"),
    ]
    wanted = [items.text(column).alias(column) for column in ("item", "title", "tags", "domain")]
    first, second = items.frame.select(wanted).rows()[:2]
    assert (first[0], first[1][:6], *first[2:]) == ("10", "Amélie", "Comedy|Romance", "main")
    assert (second[1], second[3]) == ("Toy Story (1995)", "children")
    assert events.source == ("ml.zip/ml/" if is_zip else "ml/") + next(iter(LAYOUTS[name]))


def test_no_genres_is_no_tag(tmp_path: Path) -> None:
    items = read(write_layout(tmp_path / "ml", "movielens-latest")).items
    assert items is not None
    assert items.frame.select(items.text("tags")).to_series().to_list()[2] is None


def test_folder_with_positions(tmp_path: Path) -> None:
    (tmp_path / "interactions.csv.gz").write_bytes(gzip.compress(b"user_id,item_id,position\n1,a,0\n1,b,1\n2,a,0\n"))
    (tmp_path / "items.csv.gz").write_bytes(gzip.compress(b'item_id,title,tags\na,"A, the first",red|big\nb,,\n'))
    log = read(tmp_path)
    assert log.clock == "position"
    assert log.items is not None
    assert log.items.frame["title"].to_list() == ["A, the first", None]


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "tsv", "parquet", "jsonl"])
def test_tables_with_obvious_names(tmp_path: Path, ending: str) -> None:
    rows = [("u1", "a", 5, 1.5), ("u2", "b", 6, 2.5)]
    frame = pl.DataFrame(rows, schema=["User", "item_id", "timestamp", "rating"], orient="row")
    path = tmp_path / f"log.{ending}"
    if ending == "parquet":
        frame.write_parquet(path)
    elif ending == "jsonl":
        path.write_text("\n".join(json.dumps(row) for row in frame.iter_rows(named=True)))
    else:
        text = frame.write_csv(separator="\t" if ending == "tsv" else ",").encode()
        path.write_bytes(gzip.compress(text) if ending.endswith("gz") else text)
    log = read(path)
    assert log.clock == "time"
    assert log.interactions.columns == {"user": "User", "item": "item_id", "time": "timestamp", "value": "rating"}
    assert log.interactions.frame["item_id"].to_list() == ["a", "b"]


def test_mapping_names_the_columns(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "log.csv", ["1,a,9,Some film"], header="who,what,nth,name\n")
    log = read(path, mapping=ColumnMapping(user="who", item="what", position="nth", title="name"))
    assert log.clock == "position"
    assert log.interactions.columns == {"user": "who", "item": "what", "time": "nth", "title": "name"}


def test_mapping_needs_exactly_one_order() -> None:
    for orders in ({}, {"time": "t", "position": "p"}):
        with pytest.raises(ConfigError, match="'time' and 'position'"):
            ColumnMapping(user="u", item="i", **orders)


@pytest.mark.parametrize(
    ("header", "mapping", "message"),
    [
        ("user_id,film,timestamp\n", None, r"no column for the item \(looked for item, item_id.*it has: user_id, film"),
        ("user_id,item_id,when\n", None, r"no column for the time \(looked for time, timestamp, event_time, position"),
        (
            "a,b,c\n",
            ColumnMapping("a", "q", time="c"),
            "no column 'q', which the mapping names for the item; it",
        ),
    ],
)
def test_wrong_column_is_named(tmp_path: Path, header: str, mapping: ColumnMapping | None, message: str) -> None:
    path = write_csv(tmp_path / "log.csv", ["1,2,3"], header=header)
    with pytest.raises(DataError, match=message) as error:
        read(path, mapping=mapping)
    assert str(path) in str(error.value)


def test_latest_with_a_wrong_column(tmp_path: Path) -> None:
    folder = write_layout(tmp_path / "ml", "movielens-latest")
    write_csv(folder / "ratings.csv", ["1,2,3,4"], header="user,movieId,rating,timestamp\n")
    with pytest.raises(DataError, match=r"ml/ratings\.csv: no column 'userId'; it has: user, movieId"):
        read(folder)


def test_column_of_lists_is_no_user(tmp_path: Path) -> None:
    frame = pl.DataFrame({"user_id": [["a"]], "item_id": ["b"], "time": [1]})
    frame.write_parquet(tmp_path / "log.parquet")
    with pytest.raises(DataError, match="column 'user_id' holds lists"):
        read(tmp_path / "log.parquet")


def test_native_format(tmp_path: Path) -> None:
    log = read(native_folder(tmp_path / "log"))
    assert log.slates is not None
    assert log.items is not None
    assert log.slates.frame["items"].to_list() == [["x", "y"], ["y", "x"]]
    (tmp_path / "log" / "items.parquet").unlink()
    with pytest.raises(DataError, match=r"no items\.parquet"):
        read(tmp_path / "log", name="recolam")


def test_native_format_without_a_slate_column(tmp_path: Path) -> None:
    folder = native_folder(tmp_path / "log")
    pl.read_parquet(folder / "slates.parquet").drop("log_propensity").write_parquet(folder / "slates.parquet")
    with pytest.raises(DataError, match=r"log/slates\.parquet: no column for the log_propensity"):
        read(folder)


def test_unknown_format_lists_the_known(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "log.csv", good_rows())
    with pytest.raises(ConfigError, match="'avro' is unknown") as error:
        read(path, name="avro")
    assert all(name in str(error.value) for name in FORMATS)


def test_mapping_does_not_go_with_fixed_columns(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'movielens-1m' are fixed"):
        read(write_layout(tmp_path / "ml", "movielens-1m"), mapping=ColumnMapping("a", "b", time="c"))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.csv: no such file"):
        open_source(tmp_path / "nowhere.csv")


@pytest.mark.parametrize("name", ["auto", *LAYOUTS])
def test_zip_without_ratings(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/readme.txt", "hello")
    with pytest.raises(DataError, match=r"x\.zip: holds no ratings.*x/readme\.txt"):
        read(path, name=name)


@pytest.mark.parametrize("member", ["../ratings.dat", "/ratings.dat", "a/../../ratings.dat", "..\\ratings.dat"])
def test_zip_with_members_outside(tmp_path: Path, member: str) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, ONE_M["ratings.dat"])
    with pytest.raises(DataError, match="lies outside the archive"):
        open_source(path)


def test_zip_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(b"PK\x03\x04 and nothing more")
    with pytest.raises(DataError, match="not a zip archive"):
        open_source(tmp_path / "x.zip")


def test_zip_with_a_flipped_byte(tmp_path: Path) -> None:
    path = zipped(write_layout(tmp_path / "ml", "movielens-1m"))
    content = bytearray(path.read_bytes())
    content[content.index(b"978300760")] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"ratings\.dat cannot be read"):
        read(path)


def test_unrecognised_file_and_folder(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text("x")
    with pytest.raises(DataError, match=r"log\.txt: its ending tells no format"):
        read(tmp_path / "log.txt")
    with pytest.raises(DataError, match=r"holds no ratings or interactions.*log\.txt"):
        read(tmp_path)
