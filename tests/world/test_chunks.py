"""Users in chunks: the same however many there are and fly at once, and in bounded memory."""

import json
import subprocess
import sys
from dataclasses import fields

import pytest
import torch

from recolam.contracts.protocols import Observation
from recolam.seeding import derive
from recolam.world.acting import at_random, by_policy, greedily
from recolam.world.chunks import ChunkResult, play_chunk, run_in_chunks
from recolam.world.environment import SimulatedUsers, World
from recolam.world.named import make_environment
from tests.world.playing import simulated
from tests.world.worlds import fixed_slates, small_environment


def fixed(world: World, observation: Observation, generator: torch.Generator) -> torch.Tensor:
    return fixed_slates(len(observation.length_B))


def tiny() -> World:
    return make_environment("bored", {"items": 30})


def assert_same(first: ChunkResult, second: ChunkResult, *, rows: int | None = None) -> None:
    assert first.first == second.first
    for field in fields(first)[1:]:
        assert torch.equal(getattr(first, field.name)[:rows], getattr(second, field.name)[:rows]), field.name


def test_chunks_are_the_same_whatever_flies_beside_them_and_however_many_follow() -> None:
    def run(*, users: int, in_flight: int) -> list[ChunkResult]:
        return list(run_in_chunks(tiny, at_random, users=users, chunk=20, seed=3, steps=6, in_flight=in_flight))

    alone, beside, fewer = run(users=90, in_flight=1), run(users=90, in_flight=3), run(users=40, in_flight=2)
    assert [chunk.first for chunk in alone] == [0, 20, 40, 60, 80]
    assert [len(chunk.return_B) for chunk in alone] == [20, 20, 20, 20, 10]
    for one, other in zip(alone, beside, strict=True):
        assert_same(one, other)
    for one, other in zip(alone[:2], fewer, strict=True):
        assert_same(one, other)
    by_itself = play_chunk(tiny(), at_random, index=2, chunk=20, users=20, seed=3, steps=6)
    assert_same(alone[2], by_itself)
    assert not torch.equal(alone[0].return_B, alone[1].return_B)


def test_a_chunk_is_a_session_of_its_seed_added_up() -> None:
    """Rewards, clicks and steps until the user leaves, beside the environment's own; some leave and some are cut."""
    (chunk,) = run_in_chunks(lambda: small_environment(budget=4.0), fixed, users=40, chunk=40, seed=5, steps=9)
    environment = small_environment(budget=4.0)
    environment.reset(users=40, seed=derive(5, "chunk", 0))
    rewards, clicks, lengths, has_left = [0.0] * 40, [0] * 40, [0] * 40, [False] * 40
    for step in range(environment.horizon):
        result = environment.step(fixed_slates(40))
        for user in range(40):
            if not has_left[user]:
                rewards[user] += float(result.reward_B[user])
                clicks[user] += int(result.is_clicked_BK[user].sum())
                lengths[user] = step + 1
            has_left[user] = has_left[user] or bool(result.terminated_B[user])
    assert chunk.return_B.tolist() == rewards
    assert chunk.clicks_B.tolist() == clicks
    assert chunk.steps_B.tolist() == lengths
    assert chunk.has_left_B.tolist() == has_left
    assert 0 < sum(has_left) < 40
    assert max(lengths) == environment.horizon < 9


def test_acts_are_what_they_are_called() -> None:
    environment, generator = simulated("choc_kale"), torch.Generator().manual_seed(0)
    observation = environment.reset(users=600, seed=0)
    drawn = at_random(environment, observation, generator)
    assert len(drawn.unique()) == 50
    assert torch.equal(greedily(environment, observation, generator), environment.users.greedy_slate(environment.state))

    class Policy:
        def slates(self, observation: Observation, *, k: int, generator: object | None) -> torch.Tensor:
            return torch.full((len(observation.length_B), k), 3 if generator is None else 4)

    assert by_policy(Policy(), is_sampled=False)(environment, observation, generator).tolist() == [[3]] * 600
    assert by_policy(Policy(), is_sampled=True)(environment, observation, generator).tolist() == [[4]] * 600
    package = make_environment("sardine")
    observation = package.reset(users=1, seed=0)
    with pytest.raises(ValueError, match="no greedy slates"):
        greedily(package, observation, generator)


@pytest.mark.parametrize("name", ["users", "chunk", "steps", "in_flight"])
def test_nothing_to_play_is_refused(name: str) -> None:
    settings = {"users": 2, "chunk": 2, "steps": 2, "in_flight": 1, "seed": 0} | {name: 0}
    with pytest.raises(ValueError, match=f"{name} is 0, below 1"):
        next(run_in_chunks(tiny, at_random, **settings))


def test_a_failure_in_a_chunk_is_the_caller_s() -> None:
    def bad(world: World, observation: Observation, generator: torch.Generator) -> torch.Tensor:
        raise RuntimeError("no slates today")

    with pytest.raises(RuntimeError, match="no slates today"):
        list(run_in_chunks(tiny, bad, users=10, chunk=2, seed=0, steps=1, in_flight=2))


MEASURED = """
import json
from pathlib import Path
from recolam.world.acting import at_random
from recolam.world.chunks import run_in_chunks
from recolam.world.named import make_environment

def peak():  # not ru_maxrss, which begins at that of the process that started this one
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024

def play(users, chunk):
    world = make_environment("bored")
    return sum(float(part.return_B.sum()) for part in run_in_chunks(
        lambda: world, at_random, users=users, chunk=chunk, seed=0, steps=5))

play(4_000, 2_000)
first = peak()
clicks = play(100_000, 2_000)
many = peak()
play(30_000, 30_000)
print(json.dumps({"clicks": clicks, "in_chunks": many - first, "at_once": peak() - many}))
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_users() -> None:
    """MB of peak memory that 100,000 bored users in chunks of 2,000 take beyond the first 4,000; 30,000 in one chunk,
    a third as many, take more than this bound, so that the bound says something."""
    done = subprocess.run([sys.executable, "-c", MEASURED], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["clicks"] > 100_000 * 0.2
    assert found["in_chunks"] < 64
    assert found["at_once"] > 64


def test_environments_that_fly_are_different_ones() -> None:
    made: list[SimulatedUsers] = []

    def make() -> SimulatedUsers:
        made.append(simulated("choc_kale"))
        return made[-1]

    list(run_in_chunks(make, at_random, users=10, chunk=2, seed=0, steps=1, in_flight=3))
    assert len(made) == 3
