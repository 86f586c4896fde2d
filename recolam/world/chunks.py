"""More users than fit into memory at once, a chunk at a time.

Chunk c holds users c * chunk, c * chunk + 1, ...; its environment is reset with the seed derive(seed, "chunk", c), and
its slates are drawn from derive(seed, "chunk", c, "slates"). So what a chunk's users do is a function of the seed, the
size of a chunk and c alone: however many users there are in all, however many chunks are in flight, and in whatever
order they end. Another size of chunk is another draw of the same users' distribution. Where users share something (the
markets of `recolam.world.ecosystem`), they share it within their chunk.
Shape legend: B users of a chunk.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from recolam.seeding import derive, torch_generator
from recolam.world.acting import Act
from recolam.world.environment import World


@dataclass(frozen=True)
class ChunkResult:
    """What became of a chunk's users.

    Attributes:
        first: the number of the first of them.
        return_B: the sum of rewards of each session, float64.
        clicks_B, steps_B: clicks and steps of each session, int64.
        has_left_B: who left before the end.
    """

    first: int
    return_B: Tensor
    clicks_B: Tensor
    steps_B: Tensor
    has_left_B: Tensor


def run_in_chunks(
    make_world: Callable[[], World], act: Act, *, users: int, chunk: int, seed: int, steps: int, in_flight: int = 1
) -> Iterator[ChunkResult]:
    """Plays one session of each of `users` users, `steps` slates at most, and yields the chunks in order.

    Memory holds `in_flight` chunks at most, however many users there are.

    Args:
        make_world: makes an environment; one is made for each chunk in flight.
        in_flight: chunks that are played side by side, in threads.

    Raises:
        ValueError: any of the numbers below 1.
    """
    for name, number in {"users": users, "chunk": chunk, "steps": steps, "in_flight": in_flight}.items():
        if number < 1:
            raise ValueError(f"{name} is {number}, below 1")
    worlds = deque(make_world() for _ in range(in_flight))
    waiting: deque[tuple[World, Future[ChunkResult]]] = deque()
    with ThreadPoolExecutor(in_flight) as pool:
        for index in range(-(-users // chunk)):
            if not worlds:
                yield _freed(worlds, waiting)
            world, size = worlds.popleft(), min(chunk, users - index * chunk)
            task = pool.submit(play_chunk, world, act, index=index, chunk=chunk, users=size, seed=seed, steps=steps)
            waiting.append((world, task))
        while waiting:
            yield _freed(worlds, waiting)


def _freed(worlds: deque[World], waiting: deque[tuple[World, "Future[ChunkResult]"]]) -> ChunkResult:
    """The result of the chunk that waits for longest, whose environment is free again."""
    world, task = waiting.popleft()
    result = task.result()
    worlds.append(world)
    return result


@torch.no_grad()
def play_chunk(world: World, act: Act, *, index: int, chunk: int, users: int, seed: int, steps: int) -> ChunkResult:
    """One session of each of the `users` users of the chunk `index`."""
    observation = world.reset(users=users, seed=derive(seed, "chunk", index))
    generator = torch_generator(seed, "chunk", index, "slates")
    return_B = torch.zeros(users, dtype=torch.float64)
    clicks_B, steps_B = torch.zeros(users, dtype=torch.int64), torch.zeros(users, dtype=torch.int64)
    is_on_B, has_left_B = torch.ones(users, dtype=torch.bool), torch.zeros(users, dtype=torch.bool)
    for _ in range(steps):
        result = world.step(act(world, observation, generator))
        observation = result.observation
        return_B += result.reward_B * is_on_B
        clicks_B += result.is_clicked_BK.sum(dim=1) * is_on_B
        steps_B += is_on_B
        has_left_B |= result.terminated_B
        is_on_B &= ~(result.terminated_B | result.truncated_B)
        if not bool(is_on_B.any()):
            break
    return ChunkResult(index * chunk, return_B, clicks_B, steps_B, has_left_B)
