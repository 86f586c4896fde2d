"""What `test_kills.py` kills: an artifact built over another one."""

from pathlib import Path

from recolam.contracts.artifact import Artifact, Draft, build_artifact


def build(folder: Path, *, seed: int) -> Artifact:
    """Builds an artifact of three files and a scratch file; another seed makes another one."""

    def fill(draft: Draft) -> dict[str, int]:
        (draft.scratch / "checkpoint").write_text(str(seed))
        (draft.folder / "model").mkdir()
        for name in ("first.json", "model/second.json", "third.json"):
            (draft.folder / name).write_text(str(seed) * 1000)
        return {"seed": seed}

    return build_artifact(folder / "a", stage="test", config={}, parents={}, seed=seed, build=fill)


def prepare(folder: Path) -> None:
    build(folder, seed=1)


def work(folder: Path) -> None:
    build(folder, seed=2)
