"""Steps without the host: no function of a step asks for a tensor's content, and steps in place are the same steps."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from recsim_ng.core.network import Network
from torch import Tensor

from recolam.bench.resident import resident, resident_world
from recolam.contracts.dataset import FIRST_ITEM
from recolam.errors import ConfigError
from recolam.world.boredom import BORED_INFLUENCED, BoredomUsers, draw_items
from recolam.world.resident import ResidentNetwork
from recolam.world.runtime import TorchRuntime, Value
from recolam.world.slates import are_distinct, are_items, decoded, random_slates
from recolam.world.story import RESPONSE, STATE, UserModel, build_network
from tests.world.worlds import small_users

BATCH, ITEMS = 16, 20
WORLDS: dict[str, Callable[[], UserModel]] = {
    "interest evolution": lambda: small_users(items=ITEMS),
    "boredom": lambda: BoredomUsers(
        dataclasses.replace(BORED_INFLUENCED, slate_size=3), draw_items(ITEMS, topics=10, seed=0)
    ),
}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def traced(function: Callable[..., object]) -> Callable[..., object]:
    """The function as one graph: tracing fails where Python asks for a tensor's content."""
    torch.compiler.reset()
    return torch.compile(function, fullgraph=True, backend="eager")


@pytest.mark.parametrize("world", WORLDS)
def test_a_whole_step_is_one_graph_and_the_same_step(world: str) -> None:
    users = WORLDS[world]()
    slate_BK = random_slates(BATCH, documents=ITEMS, slate=3, generator=seeded(1)) + FIRST_ITEM
    start = TorchRuntime(build_network(users, lambda _: slate_BK, batch=BATCH, generator=seeded(0))).execute(0)

    def step(slate_BK: Tensor, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        # without a generator torch's own draws: the tracer knows no others
        network = build_network(users, lambda _: slate_BK, batch=BATCH, generator=None)  # type: ignore[arg-type]
        value = TorchRuntime(network).execute(1, {**start, STATE: Value(**state)})
        return value[STATE].as_dict, value[RESPONSE].as_dict

    with torch.no_grad():
        torch.manual_seed(0)
        wanted = step(slate_BK, start[STATE].as_dict)
        torch.manual_seed(0)
        found = traced(step)(slate_BK, start[STATE].as_dict)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def test_slates_are_decoded_and_judged_in_one_graph() -> None:
    def judge(choice_KB: Tensor) -> tuple[Tensor, Tensor]:
        slate_BK = decoded(choice_KB).T.contiguous()
        return are_distinct(slate_BK), are_items(slate_BK + FIRST_ITEM, tokens=ITEMS + FIRST_ITEM)

    assert traced(judge)(torch.zeros(3, BATCH, dtype=torch.int64)) == (True, True)


def test_a_step_that_reads_a_tensor_is_found() -> None:
    def step(interest_BZ: Tensor) -> Tensor:
        return interest_BZ + 1 if bool(interest_BZ.any()) else interest_BZ

    with pytest.raises(torch._dynamo.exc.TorchDynamoException, match=r"[Dd]ata-dependent"):
        traced(step)(torch.zeros(3))


@pytest.mark.parametrize("world", WORLDS)
def test_steps_in_place_are_those_of_the_runtime_bit_for_bit(world: str) -> None:
    def network_of(generator: torch.Generator) -> Network:
        def slates(_: Value) -> Tensor:
            return random_slates(BATCH, documents=ITEMS, slate=3, generator=generator) + FIRST_ITEM

        return build_network(WORLDS[world](), slates, batch=BATCH, generator=generator)

    generator = seeded(3)
    wanted = TorchRuntime(network_of(generator)).execute(7)
    generator = seeded(3)
    resident_network = ResidentNetwork(network_of(generator), generator=generator)
    places = [tensor.data_ptr() for tensor in resident_network.value[STATE].as_dict.values()]
    for _ in range(7):
        resident_network.step()
    for name, content in wanted.items():
        torch.testing.assert_close(resident_network.value[name].as_dict, content.as_dict, rtol=0, atol=0)
    assert places == [tensor.data_ptr() for tensor in resident_network.value[STATE].as_dict.values()]


SETTINGS = {"users": 40, "items": 12, "topics": 3, "slate": 2, "steps": 4, "runs": 2}


def test_the_bench_steps_its_world_and_counts_users() -> None:
    world = resident_world(SETTINGS, device="cpu")
    world.step()
    assert world.value[STATE].get("step").tolist() == [1] * 40
    found = resident(SETTINGS, device="cpu")
    assert found["user_steps_per_s"] > 0
    assert found["host_calls"] == {}


def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="torch finds no such GPU here"):
        resident(SETTINGS, device="tpu")
