import os

import pytest
import torch

from recolam.bench.workers import processes
from recolam.errors import RecolamError


def test_processes_have_the_threads_they_were_given_and_pass_on_failures() -> None:
    with processes(2, threads=3) as pool:
        assert pool.submit(torch.get_num_threads).result() == 3
        with pytest.raises(ValueError, match="'x'"):
            pool.submit(int, "x").result()


def test_a_process_that_is_ended_is_told_of() -> None:
    with pytest.raises(RecolamError, match="one of 1 processes was ended"), processes(1, threads=1) as pool:
        pool.submit(os._exit, 1).result()
