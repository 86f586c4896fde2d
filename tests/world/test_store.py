"""A world comes back from its folder the same, bit for bit; a folder that is not whole, or not one, is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from recolam.contracts.artifact import MANIFEST, build_artifact, open_artifact
from recolam.errors import ArtifactError, ConfigError
from recolam.world.drift import DriftConfig
from recolam.world.environment import SimulatedUsers
from recolam.world.interest_evolution import InterestEvolutionUsers
from recolam.world.named import SIMULATED, make_environment
from recolam.world.store import STAGE, load_world, save_world
from recolam.world.story import UserModel
from tests.conftest import FinishedRun
from tests.world.playing import DRIFT, assert_same_session, play, simulated
from tests.world.worlds import small_users

every_simulated_world = pytest.mark.parametrize("name", SIMULATED)
with_and_without_drift = pytest.mark.parametrize("overrides", [{}, {"drift": DRIFT}], ids=["steady", "drift"])


def loaded(folder: Path) -> SimulatedUsers:
    world = load_world(folder)
    assert isinstance(world, SimulatedUsers)
    return world


@with_and_without_drift
@every_simulated_world
def test_equal_seeds_give_equal_sessions_before_and_after(name: str, overrides: dict[str, Any], tmp_path: Path) -> None:
    world = simulated(name, overrides, seed=1)
    save_world(world, tmp_path / "world")
    back = loaded(tmp_path / "world")
    assert back.horizon == world.horizon
    first, second = (play(one, users=6, steps=20, seed=5, reset_at=9) for one in (world, back))
    assert_same_session(first, second)


@with_and_without_drift
@every_simulated_world
def test_sessions_under_way_go_on_as_they_would_have(name: str, overrides: dict[str, Any], tmp_path: Path) -> None:
    """In the ecosystem the state of the markets comes with them."""
    world = simulated(name, overrides, seed=1)
    slates = [row["slate_BK"] for row in play_on(world, steps=6, seed=5, is_new=True)]
    save_world(world, tmp_path / "world")
    back = loaded(tmp_path / "world")
    assert_same_session(play_on(world, steps=8, seed=6), play_on(back, steps=8, seed=6))
    assert len(slates) == 6


def play_on(world: SimulatedUsers, *, steps: int, seed: int, is_new: bool = False) -> list[dict[str, torch.Tensor]]:
    """Goes on with sessions of random slates; some rows start anew in between."""
    if is_new:
        world.reset(users=6, seed=seed)
    generator, record = torch.Generator().manual_seed(seed), []
    for step in range(steps):
        if step == 4:
            world.reset_rows(torch.arange(6) == 2)
        noise_BI = torch.rand(6, world.tokens - 3, generator=generator)
        slate_BK = noise_BI.topk(world.slate_size).indices + 3
        result = world.step(slate_BK)
        record.append({"slate_BK": slate_BK, "reward_B": result.reward_B} | dict(world.state.as_dict))
    return record


def test_a_saved_world_can_be_made_to_drift(tmp_path: Path) -> None:
    save_world(simulated("choc_kale", seed=1), tmp_path / "world")
    drifting = load_world(tmp_path / "world", drift=DriftConfig(**DRIFT))
    wanted = play(simulated("choc_kale", {"drift": DRIFT}, seed=1), users=6, steps=9, seed=5)
    assert_same_session(play(drifting, users=6, steps=9, seed=5), wanted)
    save_world(drifting, tmp_path / "world")
    with pytest.raises(ConfigError, match="drift of its own"):
        load_world(tmp_path / "world", drift=DriftConfig())
    save_world(make_environment("sardine"), tmp_path / "world")
    with pytest.raises(ConfigError, match="cannot have any"):
        load_world(tmp_path / "world", drift=DriftConfig())


def test_users_taken_in_their_order_stay_so(tmp_path: Path) -> None:
    drawn = small_users()
    users = InterestEvolutionUsers(drawn.config, drawn.corpus, drawn.start, is_sampled=False)
    save_world(SimulatedUsers(users, horizon=6), tmp_path / "world")
    observed = loaded(tmp_path / "world").reset(users=50, seed=0)
    assert torch.equal(observed.history_BT, drawn.start.history_PT)
    with pytest.raises(ValueError, match="3 sessions for 50 users"):
        loaded(tmp_path / "world").reset(users=3, seed=0)


def test_the_package_s_world_is_its_name(tmp_path: Path) -> None:
    world = make_environment("sardine", {"name": "SlateTopK-Uncertain", "capacity": 12})
    artifact = save_world(world, tmp_path / "world")
    assert set(artifact.manifest["files"]) == set()
    back = load_world(tmp_path / "world")
    assert_same_session(*(play(one, users=2, steps=4, seed=5) for one in (world, back)))


def test_a_world_is_replaced_as_a_whole_and_other_folders_are_left_alone(tmp_path: Path) -> None:
    save_world(simulated("bored"), tmp_path / "world")
    save_world(simulated("choc_kale"), tmp_path / "world")
    assert loaded(tmp_path / "world").tokens == 53
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    for path in (tmp_path / "mine", tmp_path / "mine" / "letter.txt"):
        with pytest.raises(ConfigError, match="not a world"):
            save_world(simulated("bored"), path)
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"


def test_equal_worlds_have_equal_digests(tmp_path: Path) -> None:
    first, second, other = (
        save_world(simulated("bored", seed=seed), tmp_path / f"{number}").digest
        for number, seed in enumerate((1, 1, 2))
    )
    assert first == second != other


@pytest.mark.slow
def test_the_pipeline_s_world_loads_too(tiny_run: FinishedRun) -> None:
    world, others = (load_world(tiny_run.artifact("world"), population=name) for name in ("held_out", "train"))
    assert isinstance(world, SimulatedUsers)
    assert isinstance(world.users, InterestEvolutionUsers)
    first, again = (play(one, users=6, steps=5, seed=5) for one in (world, load_world(tiny_run.artifact("world"))))
    assert_same_session(first, again)
    with pytest.raises(AssertionError):
        assert_same_session(first, play(others, users=6, steps=5, seed=5))
    with pytest.raises(ArtifactError, match="'policy', not 'world' or 'simulated users'"):
        load_world(tiny_run.artifact("policy"))


def forge(folder: Path, change: Callable[[dict[str, Any], dict[str, torch.Tensor]], None]) -> None:
    """A world whose checksums are right and whose content is not: as somebody could write it on purpose."""
    artifact = open_artifact(folder)
    settings, tensors = dict(artifact.config), load_file(folder / "users.safetensors")
    change(settings, tensors)

    def build(draft: Any) -> dict[str, Any]:
        save_file(tensors, draft.folder / "users.safetensors")
        return {}

    build_artifact(folder, stage=STAGE, config=settings, parents={}, seed=0, build=build)


FORGERIES: dict[str, tuple[Callable[[dict[str, Any], dict[str, torch.Tensor]], Any], str]] = {
    "unknown kind": (lambda s, t: s.update(kind="os.system"), "manifest.json: world kind 'os.system' is not one of"),
    "another format": (lambda s, t: s.update(format=2), "world format 2, this code reads 1"),
    "another setting": (lambda s, t: s["settings"].update(evil=1), "unknown key 'evil'"),
    "another key": (lambda s, t: s.update(path="/etc/passwd"), "manifest.json: .*unknown key 'path'"),
    "no horizon": (lambda s, t: s.update(horizon=None), "manifest.json: .*horizon is 0"),
    "bad drift": (lambda s, t: s.update(drift={"period": 1}), "manifest.json: .*period is 1"),
    "missing tensor": (lambda s, t: t.pop("corpus.quality_N"), "users.safetensors: .*expected corpus.feature_NZ"),
    "another tensor": (lambda s, t: t.update(x_N=torch.zeros(3)), "users.safetensors: .*tensors corpus"),
    "another type": (lambda s, t: t.update({"corpus.quality_N": t["corpus.quality_N"].double()}), "float64"),
    "another rank": (lambda s, t: t.update({"corpus.quality_N": t["corpus.quality_N"][:, None]}), "not torch.float32"),
    "another size": (lambda s, t: t.update({"corpus.quality_N": t["corpus.quality_N"][:-1]}), "does not fit"),
    "not finite": (lambda s, t: t["corpus.quality_N"].fill_(torch.nan), "corpus.quality_N has numbers that are not"),
    "unknown items": (lambda s, t: t["start.history_PT"].fill_(99), "start.history_PT has numbers from 99 to 99"),
    "long histories": (lambda s, t: t["start.length_P"].fill_(11), "start.length_P has .* outside 0 to 10"),
}


@pytest.mark.parametrize("case", FORGERIES)
def test_forged_worlds_are_refused_by_the_file_that_is_wrong(case: str, tmp_path: Path) -> None:
    folder = tmp_path / "world"
    save_world(SimulatedUsers(small_users(), horizon=6), folder)
    forge(folder, lambda settings, tensors: None)
    loaded(folder)
    change, message = FORGERIES[case]
    forge(folder, change)
    with pytest.raises(ArtifactError, match=message) as caught:
        load_world(folder)
    assert str(folder) in str(caught.value)


def test_forged_sessions_are_refused(tmp_path: Path) -> None:
    folder, world = tmp_path / "world", simulated("choc_kale")
    world.reset(users=3, seed=0)
    save_world(world, folder)
    good = load_file(folder / "sessions.safetensors")
    users, settings = load_file(folder / "users.safetensors"), open_artifact(folder).config
    bad = {
        "fields": {name: tensor for name, tensor in good.items() if name != "state.exposure"},
        "is not": good | {"state.exposure": good["state.exposure"].double()},
        "2 rows": good | {"state.exposure": good["state.exposure"][:2]},
        "RNG state": good | {"generator": good["generator"][:5]},
        "'generator'": {name: tensor for name, tensor in good.items() if name != "generator"},
    }
    for message, tensors in bad.items():

        def build(draft: Any, tensors: dict[str, torch.Tensor] = tensors) -> dict[str, Any]:
            save_file(users, draft.folder / "users.safetensors")
            save_file(tensors, draft.folder / "sessions.safetensors")
            return {}

        build_artifact(folder, stage=STAGE, config=settings, parents={}, seed=0, build=build)
        with pytest.raises(ArtifactError, match=f"sessions.safetensors: .*{message}"):
            load_world(folder)


@pytest.mark.parametrize(
    "damage", ["no manifest", "no tensors", "cut tensors", "changed manifest", "no folder", "pickle"]
)
def test_damaged_folders_are_refused(damage: str, tmp_path: Path) -> None:
    folder = tmp_path / "world"
    save_world(simulated("choc_kale"), folder)
    tensors = folder / "users.safetensors"
    if damage == "no manifest":
        (folder / MANIFEST).unlink()
    elif damage == "no tensors":
        tensors.unlink()
    elif damage == "cut tensors":
        tensors.write_bytes(tensors.read_bytes()[:-8])
    elif damage == "changed manifest":
        manifest = json.loads((folder / MANIFEST).read_text())
        manifest["config"]["horizon"] = 9
        (folder / MANIFEST).write_text(json.dumps(manifest))
    elif damage == "pickle":
        (folder / "extra.pkl").write_bytes(b"cos\nsystem\n")
    else:
        shutil.rmtree(folder)
    with pytest.raises(ArtifactError, match=str(folder)):
        load_world(folder)


def test_users_of_no_known_kind_cannot_be_saved(tmp_path: Path) -> None:
    class Others(InterestEvolutionUsers):
        """A user model of somebody else's."""

    drawn = small_users()
    users: UserModel = Others(drawn.config, drawn.corpus, drawn.start)
    with pytest.raises(ConfigError, match="Others cannot be written; kinds that can: interest_evolution, choc_kale"):
        save_world(SimulatedUsers(users, horizon=6), tmp_path / "world")
    assert not (tmp_path / "world").exists()
