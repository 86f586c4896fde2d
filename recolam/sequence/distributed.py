"""One training in several processes, as torchrun starts them: whole copies of the model (DDP) or shards of it (FSDP2).

Every process draws the same batches and the same targets, and takes every size-th window of each batch; the gradients'
sum is that of one process, up to rounding and to the draws of dropout and of sampled negatives. Numbers go over gloo
on a CPU and over NCCL between GPUs. No process sends another a pickle: texts and tensors travel as bytes.

Shape legend: Q queries, R the queries of one process.
"""

import copy
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, Self, TypeVar

import numpy as np
import safetensors.torch
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from recolam.errors import ConfigError
from recolam.progress import Progress, say
from recolam.sequence.gradients import BatchGradient, is_out_of_memory
from recolam.sequence.model import SequenceModel
from recolam.sequence.windows import Batch

TIMEOUT = timedelta(minutes=30)
"""How long a process waits for the others before it gives up with an error."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Processes:
    """This process's number, from 0, and how many train together."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def names(self) -> tuple[str | int, ...]:
        """What to derive seeds from where processes must draw different numbers; nothing for one process alone."""
        return () if self.size == 1 else ("rank", self.rank)

    @property
    def gpus(self) -> list[int]:
        """The GPUs whose generators this process may touch."""
        if self.size > 1 and torch.cuda.is_available():
            return [torch.cuda.current_device()]
        return list(range(torch.cuda.device_count()))

    def say(self, message: str) -> None:
        """One line for the person who watches, from the first process alone."""
        if self.is_first:
            say(message)

    def progress(self, label: str, *, total: int, unit: str = "step") -> "Progress | Silence":
        return Progress(label, total=total, unit=unit) if self.is_first else Silence()

    def agree(self, value: float) -> float:
        """The first process's value, in all of them; nobody goes on before everybody is here."""
        if self.size == 1:
            return value
        said = torch.tensor(value if self.is_first else 0.0, dtype=torch.float64)
        dist.all_reduce(said)
        return float(said)

    def total(self, value: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def share(self, count: int) -> NDArray[np.int64]:
        """Which of `count` queries are this process's, int64 [R]: every size-th.

        R is the same in all processes, as FSDP needs it; where `count` does not divide, the last is somebody else's.
        """
        return (self.rank + self.size * np.arange(-(-count // self.size))) % max(count, 1)

    def collect(self, value_R: NDArray[np.int64], *, count: int) -> NDArray[np.int64]:
        """The values of all `count` queries, int64 [Q], in all processes, from those of each one's share."""
        value_Q = torch.zeros(count, dtype=torch.int64)
        own_Q = value_Q[self.rank :: self.size]
        own_Q.copy_(torch.from_numpy(value_R[: len(own_Q)]))
        return self.total(value_Q).numpy()

    def own_blocks(self, count: int) -> range:
        """Which of `count` blocks of work are this process's: neighbours, equally many for each.

        Raises:
            ConfigError: `count` does not divide.
        """
        if count % self.size:
            raise ConfigError(f"{count} shards cannot be dealt to {self.size} processes in equal parts")
        each = count // self.size
        return range(self.rank * each, (self.rank + 1) * each)

    def all_blocks(self, row_RX: Tensor, *, count: int) -> Tensor:
        """The rows of all `count` blocks, [count, X], in all processes, from those of each one's own.

        Nothing is rounded, so what is computed from them does not depend on how many processes there are.
        """
        if self.size == 1:
            return row_RX
        row_CX = row_RX.new_zeros(count, *row_RX.shape[1:])
        own = self.own_blocks(count)
        row_CX[own.start : own.stop] = row_RX
        return self.total(row_CX)

    def shared(
        self, found: tuple[dict[str, Tensor], dict[str, Any]] | None
    ) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The first process's checkpoint, in all of them, so that only that one needs the file."""
        if self.size == 1:
            return found
        text = _broadcast_bytes(json.dumps(found[1] if found else None).encode())
        tensors = _broadcast_bytes(safetensors.torch.save(found[0]) if found else b"")
        state = json.loads(text)
        return None if state is None else (safetensors.torch.load(tensors), state)


class Silence:
    """The progress of a process that prints nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass

    def advance(self, count: int = 1, **figures: float) -> None:
        pass


def current() -> Processes:
    """The processes of the group that exists; one where there is none."""
    return Processes(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else Processes()


def resolve_device(name: str) -> torch.device:
    """`auto` is the GPU where there is one."""
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


@contextmanager
def process_group(device: str) -> Iterator[Processes]:
    """Joins the processes that torchrun started (its environment variables say so) and leaves them at the end.

    One process alone joins nothing. Inside another `process_group`, or where the caller made a group of its own (for
    CPU tensors too: "cpu:gloo,cuda:nccl"), that one is used and left as it is.

    Raises:
        ConfigError: WORLD_SIZE without torchrun's other variables, or more processes on this machine than GPUs.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield current()
        return
    missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise ConfigError(f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but there is no {missing[0]}: start by torchrun")
    is_cuda, place = resolve_device(device).type == "cuda", int(os.environ["LOCAL_RANK"])
    if is_cuda and place >= torch.cuda.device_count():
        raise ConfigError(f"process {place} of this machine has no GPU: there are {torch.cuda.device_count()}")
    if is_cuda:
        torch.cuda.set_device(place)
    dist.init_process_group("cpu:gloo,cuda:nccl" if is_cuda else "gloo", timeout=TIMEOUT)
    try:
        yield current()
    finally:
        dist.destroy_process_group()


class Hooked(nn.Module):
    """Runs any function of a model as a module's forward pass, which is where DDP and FSDP hang their hooks."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[[nn.Module], Any]) -> Any:
        return function(self.model)


class Spread:
    """A model in all processes.

    Attributes:
        model: what to train: the given model, or for "fsdp" a copy whose parameters are shards (DTensors).
    """

    def __init__(
        self, model: nn.Module, *, mode: Literal["ddp", "fsdp"], device: torch.device, processes: Processes
    ) -> None:
        self.processes, self.device, self.given = processes, device, model
        is_sharded = processes.size > 1 and mode == "fsdp"
        self.model = copy.deepcopy(model) if is_sharded else model.to(device)
        self.hooked: nn.Module = Hooked(self.model)
        if is_sharded:
            self._shard()
        elif processes.size > 1:  # parameters that no objective reaches (the value head) keep having no gradient
            self.hooked = DistributedDataParallel(self.hooked, find_unused_parameters=True, forward_sync_buffers=False)

    def _shard(self) -> None:
        """FSDP2 (Zhao et al. 2023, arXiv:2304.11277) by blocks: whole are only the one at work and what is outside."""
        for value in self.model.state_dict().values():
            dist.broadcast(value, src=0)
        mesh = init_device_mesh(self.device.type, (self.processes.size,))
        lists = [module for module in self.model.modules() if isinstance(module, nn.ModuleList)]
        for block in [block for blocks in reversed(lists) for block in blocks]:
            fully_shard(block, mesh=mesh)
        fully_shard(self.hooked, mesh=mesh)

    def evaluate(self, function: Callable[[nn.Module], Result]) -> Result:
        """`function` of the model without gradients; under FSDP all processes must run equally many forward passes."""
        if not isinstance(self.hooked, FSDPModule):
            return function(self.model)
        with torch.no_grad():
            value = self.hooked(function)
        self.hooked.reshard()  # or a later forward pass would see the weights that were gathered now
        return value

    def give_back(self) -> None:
        """Leaves the trained weights, whole, in the given model of every process, and that in eval mode."""
        if self.given is not self.model:
            weights = self.model.state_dict()  # in the order of the modules, the same everywhere
            self.given.load_state_dict({name: _whole(value).cpu() for name, value in weights.items()})
        self.given.eval()

    def gathered(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors, whole, in the first process, one after the other; nothing in the others."""
        kept: dict[str, Tensor] = {}
        for name in sorted(tensors):  # in one order everywhere: safetensors reads back in any
            whole = _whole(value := tensors[name])
            if self.processes.is_first:
                kept[name] = whole.cpu() if whole is not value else value
        return kept

    def cut(self, tensors: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
        """A checkpoint's whole tensors ("model.NAME", "optimizer.INDEX.NAME" ...), cut as the parameters are cut."""
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        by_name, parts = self.model.state_dict(), {}
        for key, value in tensors.items():
            kind, _, name = key.partition(".")
            like = parameters[int(name.split(".")[0])] if kind == "optimizer" else by_name.get(name)
            is_cut = isinstance(like, DTensor) and like.shape == value.shape
            parts[key] = _cut(value.to(self.device), like) if is_cut else value  # type: ignore[arg-type]
        return parts


class SharedGradient:
    """`BatchGradient` over all processes: the same call, the same gradient and the same returned loss.

    DDP and FSDP average gradients over processes, so each process's share of the loss is taken `size` times.
    """

    def __init__(self, local: BatchGradient, spread: Spread, inner: Callable[[nn.Module], SequenceModel]) -> None:
        self.local, self.spread, self.inner = local, spread, inner

    def __call__(self, model: nn.Module, inner: SequenceModel, batch: Batch, *, seed: int) -> float:
        """Leaves gradients in `model` and returns the loss of the whole batch.

        Raises:
            ConfigError: out of memory. No retry: the other processes could not know of it.
        """
        processes = self.spread.processes
        targets = self.local.targets(batch, seed=seed)
        counts = self.local.counts(targets)
        chosen = slice(processes.rank, None, processes.size)
        if processes.rank >= len(
            batch.length_B
        ):  # a window without targets: zeros for the same parameters as elsewhere
            chosen, targets = slice(0, 1), [torch.zeros_like(is_target_BT) for is_target_BT in targets]
        model.zero_grad(set_to_none=True)
        try:
            loss = self.spread.hooked(
                lambda module: self.local.loss(self.inner(module), batch, targets, counts, chosen)
            )
            (loss * processes.size).backward()
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            windows = len(range(*chosen.indices(len(batch.length_B))))
            raise ConfigError(
                f"out of memory in process {processes.rank} of {processes.size} at {windows} windows: batches are not "
                f"halved in several processes; take more of them or a smaller batch_size ({error})"
            ) from error
        return float(processes.total(loss.detach()))


def _whole(value: Tensor) -> Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value


def _cut(value: Tensor, like: DTensor) -> Tensor:
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


def _broadcast_bytes(content: bytes) -> bytes:
    size = torch.tensor(len(content))
    dist.broadcast(size, src=0)
    if dist.get_rank() > 0:
        content = bytes(int(size))
    buffer = torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)
    dist.broadcast(buffer, src=0)
    return buffer.numpy().tobytes()
