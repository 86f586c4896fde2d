"""An artifact is whole or it is refused: digests, damage, edits, parents, pickles."""

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recolam.contracts.artifact import Artifact, Draft, _digest, build_artifact, open_artifact
from recolam.errors import ArtifactError

FILES = {"model/weights.safetensors": b"\x00\x01\x02\x03", "notes.json": b'{"a": 1}', "empty.txt": b""}
METRICS = {"loss": 0.5, "nested": {"ndcg": [0.1, 0.2]}}


def make(
    path: Path,
    *,
    files: dict[str, bytes] = FILES,
    metrics: dict[str, Any] = METRICS,
    parents: dict[str, Artifact] | None = None,
    **values: Any,
) -> Artifact:
    def build(draft: Draft) -> dict[str, Any]:
        for name, content in files.items():
            (draft.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (draft.folder / name).write_bytes(content)
        return metrics

    given_or_default = {"stage": "pretrain", "config": {"width": 8, "name": "x"}, "seed": 3} | values
    return build_artifact(path, parents=parents or {}, build=build, **given_or_default)


def edit(artifact: Artifact, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes the manifest as somebody with an editor would: its digest stays what it was."""
    manifest = json.loads((artifact.path / "manifest.json").read_text())
    change(manifest)
    (artifact.path / "manifest.json").write_text(json.dumps(manifest))


def names_in(folder: Path) -> set[str]:
    """What lies in a folder, but for lock files."""
    return {path.name for path in folder.iterdir() if path.suffix != ".lock"}


def test_equal_work_has_an_equal_digest_wherever_and_whenever(tmp_path: Path) -> None:
    first = make(tmp_path / "a", config={"width": 8, "name": "x"})
    second = make(tmp_path / "deep" / "er" / "b", config={"name": "x", "width": 8})
    assert first.digest == second.digest == open_artifact(tmp_path / "a").digest
    make(tmp_path / "a")  # over itself
    assert open_artifact(tmp_path / "a").digest == first.digest


def test_what_went_in_comes_out(tmp_path: Path) -> None:
    artifact = open_artifact(make(tmp_path / "a").path, stage="pretrain")
    assert {name: artifact.file(name).read_bytes() for name in artifact.manifest["files"]} == FILES
    assert (artifact.stage, artifact.seed, artifact.metrics) == ("pretrain", 3, METRICS)
    assert artifact.config == {"width": 8, "name": "x"}
    assert artifact.json("notes.json") == {"a": 1}
    assert names_in(tmp_path) == {"a"}
    with pytest.raises(ArtifactError, match=r"no file 'other\.json'"):
        artifact.file("other.json")


def test_any_difference_makes_another_digest(tmp_path: Path) -> None:
    one, two = make(tmp_path / "one", stage="features"), make(tmp_path / "two", stage="features", seed=4)
    variants: list[dict[str, Any]] = [
        {},
        {"files": FILES | {"notes.json": b'{"a": 2}'}},
        {"files": FILES | {"more.json": b"{}"}},
        {"files": {name: content for name, content in FILES.items() if name != "empty.txt"}},
        {"config": {"width": 9, "name": "x"}},
        {"config": {"width": 8, "name": "x", "depth": None}},
        {"metrics": {"loss": 0.6}},
        {"seed": 4},
        {"stage": "world"},
        {"parents": {"features": one}},
        {"parents": {"features": two}},
        {"parents": {"source": one}},
    ]
    digests = [make(tmp_path / str(number), **variant).digest for number, variant in enumerate(variants)]
    assert len(set(digests)) == len(variants)


@pytest.mark.parametrize("name", [name for name, content in FILES.items() if content])
def test_a_flipped_byte_is_found_and_its_file_named(tmp_path: Path, name: str) -> None:
    path = make(tmp_path / "a").path / name
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(ArtifactError, match=f"{name}: changed since it was written") as error:
            open_artifact(tmp_path / "a")
        assert error.value.exit_code == 3
    path.write_bytes(content)
    open_artifact(tmp_path / "a")


def test_a_file_longer_shorter_or_gone_is_found(tmp_path: Path) -> None:
    path = make(tmp_path / "a").path / "notes.json"
    for content in (b'{"a": 1} ', b'{"a": 1', b""):
        path.write_bytes(content)
        with pytest.raises(ArtifactError, match=r"notes\.json: changed"):
            open_artifact(tmp_path / "a")
    path.unlink()
    with pytest.raises(ArtifactError, match=r"notes\.json: missing"):
        open_artifact(tmp_path / "a")
    path.mkdir()
    with pytest.raises(ArtifactError, match=r"notes\.json"):
        open_artifact(tmp_path / "a")


EDITS: dict[str, Callable[[dict[str, Any]], object]] = {
    "metrics": lambda manifest: manifest["metrics"].update(loss=0.4),
    "config": lambda manifest: manifest["config"].update(width=16),
    "seed": lambda manifest: manifest.update(seed=4),
    "stage": lambda manifest: manifest.update(stage="world"),
    "file forgotten": lambda manifest: manifest["files"].pop("notes.json"),
    "parent invented": lambda manifest: manifest["parents"].update(features={"path": "../b", "digest": "0" * 64}),
    "digest": lambda manifest: manifest.update(digest="0" * 64),
    "schema version": lambda manifest: manifest.update(schema_version=2),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_manifest_is_refused(tmp_path: Path, name: str) -> None:
    edit(make(tmp_path / "a"), EDITS[name])
    with pytest.raises(ArtifactError, match=r"manifest\.json: (changed since it was written|schema version 2)"):
        open_artifact(tmp_path / "a")


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda s: st.lists(s, max_size=2))


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Artifact]:
    """A parent and its child."""
    folder = tmp_path_factory.mktemp("family")
    parent = make(folder / "parent")
    return parent, make(folder / "child", parents={"source": parent})


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_no_edit_of_the_manifest_ends_in_anything_but_a_named_error(
    family: tuple[Artifact, Artifact], data: st.DataObject
) -> None:
    parent, child = family
    manifest = json.loads(json.dumps(child.manifest))
    (child.path / "manifest.json").write_text(json.dumps(data.draw(spoiled(manifest))))
    try:
        opened = open_artifact(child.path)
        assert opened.parent("source").digest == parent.digest
    except ArtifactError:
        return
    assert opened.digest == child.digest
    assert (opened.stage, opened.config, opened.metrics) == (child.stage, child.config, child.metrics)


@st.composite
def spoiled(draw: st.DrawFn, manifest: dict[str, Any]) -> Any:
    """The manifest with one value, at any depth, deleted or replaced."""
    manifest = copy.deepcopy(manifest)
    holder, key = draw(st.sampled_from([({"": manifest}, ""), *places(manifest)]))
    if key and draw(st.booleans()):
        del holder[key]
        return manifest
    holder[key] = draw(JSON)
    return manifest if key else holder[key]


def places(value: Any) -> Iterator[tuple[dict[str, Any], str]]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield value, key
            yield from places(part)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"', "{}", "\ud800", '{"schema_version": 1}'])
def test_an_unreadable_manifest_is_refused(tmp_path: Path, text: str) -> None:
    path = make(tmp_path / "a").path / "manifest.json"
    path.write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(ArtifactError, match=r"manifest\.json: (unreadable|changed|schema)"):
        open_artifact(tmp_path / "a")


def test_a_half_written_folder_is_no_artifact(tmp_path: Path) -> None:
    make(tmp_path / "a").path.joinpath("manifest.json").unlink()
    for path in (tmp_path / "a", tmp_path / "absent"):
        with pytest.raises(ArtifactError, match="not an artifact, or half-written"):
            open_artifact(path)


def test_another_stage_is_refused(tmp_path: Path) -> None:
    make(tmp_path / "a")
    with pytest.raises(ArtifactError, match="stage 'pretrain', not 'world'"):
        open_artifact(tmp_path / "a", stage="world")


def test_parents_are_found_wherever_both_lie(tmp_path: Path) -> None:
    parent = make(tmp_path / "here" / "features" / "p", stage="features")
    make(tmp_path / "here" / "pretrain" / "c", parents={"features": parent})
    (tmp_path / "here").rename(tmp_path / "there")
    child = open_artifact(tmp_path / "there" / "pretrain" / "c")
    assert child.parent("features").path == (tmp_path / "there" / "features" / "p").resolve()
    with pytest.raises(ArtifactError, match="no parent 'world'"):
        child.parent("world")


def test_a_parent_that_changed_is_refused(tmp_path: Path) -> None:
    parent = make(tmp_path / "p", stage="features")
    child = make(tmp_path / "c", parents={"features": parent})
    other = make(tmp_path / "p", stage="features", seed=9)
    with pytest.raises(ArtifactError, match=f"digest {other.digest}, not {parent.digest}"):
        child.parent("features")
    other.file("notes.json").write_bytes(b"{}")
    with pytest.raises(ArtifactError, match=r"p/notes\.json: changed"):
        child.parent("features")


@pytest.mark.parametrize("how", ["relative", "absolute", "link"])
def test_no_file_outside_the_folder_is_read(tmp_path: Path, how: str) -> None:
    make(tmp_path / "a", files={"notes.json": b"secret"})
    secret = tmp_path / "secret.json"
    secret.write_bytes(b"secret")
    name = {"relative": "../secret.json", "absolute": str(secret), "link": "notes.json"}[how]
    if how == "link":
        (tmp_path / "a" / "notes.json").unlink()
        (tmp_path / "a" / "notes.json").symlink_to(secret)
    else:
        forge(tmp_path / "a", lambda manifest: manifest["files"].update({name: manifest["files"]["notes.json"]}))
    with pytest.raises(ArtifactError, match="outside the artifact"):
        open_artifact(tmp_path / "a")


def forge(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes the manifest and its digest, as an attacker would."""
    manifest = json.loads((path / "manifest.json").read_text())
    change(manifest)
    manifest["digest"] = _digest(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("name", ["model.pkl", "m/model.pt", "model.bin", "m.pth", "m.joblib", "m.ckpt", "m.pickle"])
def test_a_pickle_is_refused_on_build_and_on_open(tmp_path: Path, name: str) -> None:
    make(tmp_path / "a")
    with pytest.raises(ArtifactError, match=r"can hold a pickle"):
        make(tmp_path / "a", files=FILES | {name: b"harmless"}, seed=4)
    assert open_artifact(tmp_path / "a").seed == 3
    assert names_in(tmp_path) == {"a"}
    (tmp_path / "a" / name).parent.mkdir(exist_ok=True)
    (tmp_path / "a" / name).write_bytes(b"harmless")  # beside what the manifest names
    with pytest.raises(ArtifactError, match=Path(name).name):
        open_artifact(tmp_path / "a")


def test_an_error_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail(draft: Draft) -> dict[str, Any]:
        (draft.folder / "half.json").write_text("{}")
        raise ValueError("no")

    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            build_artifact(tmp_path / "a", stage="s", config={}, parents={}, seed=0, build=fail)
        assert names_in(tmp_path) == set()


def test_an_error_leaves_the_old_artifact_and_the_checkpoint(tmp_path: Path) -> None:
    old = make(tmp_path / "a")
    found = []

    def fail_once(draft: Draft) -> dict[str, Any]:
        checkpoint = draft.scratch / "checkpoint"
        found.append(checkpoint.read_text() if checkpoint.exists() else None)
        checkpoint.write_text("step 7")
        if len(found) == 1:
            raise ValueError("no")
        return {}

    def build() -> Artifact:
        return build_artifact(tmp_path / "a", stage="s", config={}, parents={}, seed=0, build=fail_once)

    with pytest.raises(ValueError, match="no"):
        build()
    assert open_artifact(tmp_path / "a").digest == old.digest
    assert names_in(tmp_path) == {"a", ".a.scratch"}
    assert build().stage == "s"
    assert found == [None, "step 7"]
    assert names_in(tmp_path) == {"a"}
