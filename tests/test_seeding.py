"""One seed, many streams: the same everywhere, different by name, untouched by their neighbours."""

import subprocess
import sys
from itertools import product

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from recolam.seeding import derive, numpy_generator, torch_generator

NAMES = st.lists(st.integers(0, 10**6) | st.text(st.characters(codec="utf-8"), max_size=10), max_size=4)


@given(seed=st.integers(0, 2**70), names=NAMES)
def test_a_derived_seed_fits_every_generator(seed: int, names: list[str | int]) -> None:
    derived = derive(seed, *names)
    assert 0 <= derived < 2**63
    assert derived == derive(seed, *names)
    np.random.default_rng(derived)
    torch.Generator().manual_seed(derived)


def test_seeds_and_names_make_different_streams() -> None:
    streams = [(), ("a",), ("b",), ("a", 0), ("a", 1), ("a", 10), ("a1", 0), ("demo", "video"), ("demo", "music")]
    derived = {derive(seed, *names) for seed, names in product(range(200), streams)}
    assert len(derived) == 200 * len(streams)


def test_a_seed_means_the_same_on_every_machine() -> None:
    """The first 63 bits of SHA-256 of `0` and of `0/policy/3`, computed elsewhere."""
    assert derive(0) == 3456079177858693020
    assert derive(0, "policy", 3) == 6239490641241108669


def test_hash_randomisation_changes_nothing() -> None:
    program = "from recolam.seeding import derive; print(derive(7, 'policy', 3))"
    answers = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert answers == {str(derive(7, "policy", 3))}


def test_generators_are_fresh_and_repeat() -> None:
    one, two = numpy_generator(5, "x"), numpy_generator(5, "x")
    assert one.integers(2**60, size=8).tolist() == two.integers(2**60, size=8).tolist()
    assert one.integers(2**60) != numpy_generator(5, "x").integers(2**60)
    first, second = (torch.rand(8, generator=torch_generator(5, "x")) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, torch.rand(8, generator=torch_generator(5, "y")))


def test_global_generators_are_left_alone() -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    before = torch.random.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[index, union-attr]
    torch.rand(3, generator=torch_generator(5, "x"))
    numpy_generator(5, "x").random(3)
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()  # type: ignore[index, union-attr]
