from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from recolam.sequence.loss import Seen, blockwise_cross_entropy


@pytest.mark.parametrize("block", [1, 7, 64, 1000, None])
def test_value_and_gradients_are_those_of_dense_cross_entropy(block: int | None) -> None:
    torch.manual_seed(0)
    state_MD = torch.randn(300, 16, requires_grad=True)
    table_ND = torch.randn(90, 16, requires_grad=True)
    target_M = torch.randint(90, (300,))
    loss = blockwise_cross_entropy(state_MD, table_ND, target_M, block=block)
    dense = torch.nn.functional.cross_entropy(state_MD @ table_ND.T, target_M)
    assert float((loss - dense).detach().abs()) < 1e-5
    ours = torch.autograd.grad(3 * loss, (state_MD, table_ND))
    theirs = torch.autograd.grad(3 * dense, (state_MD, table_ND))
    for mine, reference in zip(ours, theirs, strict=True):
        assert float((mine - reference).norm() / reference.norm()) < 1e-5


@pytest.mark.parametrize("block", [1, 7, None])
def test_seen_items_do_not_compete(block: int | None) -> None:
    """Against dense cross entropy with -inf written in one position at a time; repeated targets stay."""
    torch.manual_seed(0)
    item_BT = torch.randint(-3, 20, (5, 6))
    window_M, before_M = torch.arange(30) // 6, torch.arange(30) % 6
    target_M = torch.randint(20, (30,))
    target_M[4] = item_BT[0, 1] = 7  # a repeated one
    state_MD, table_ND = torch.randn(30, 8, requires_grad=True), torch.randn(20, 8, requires_grad=True)
    seen = Seen(item_BT, window_M, before_M)
    ours = blockwise_cross_entropy(state_MD, table_ND, target_M, seen=seen, block=block)
    barred = torch.zeros(30, 20)
    for m in range(30):
        for item in item_BT[window_M[m], : before_M[m]].tolist():
            if item >= 0 and item != int(target_M[m]):
                barred[m, item] = -torch.inf
    dense = torch.nn.functional.cross_entropy(state_MD @ table_ND.T + barred, target_M)
    assert float((ours - dense).detach().abs()) < 1e-5
    plain = blockwise_cross_entropy(state_MD, table_ND, target_M)
    assert float((ours - plain).detach()) < -0.01
    for mine, reference in zip(
        torch.autograd.grad(ours, (state_MD, table_ND)), torch.autograd.grad(dense, (state_MD, table_ND)), strict=True
    ):
        assert float((mine - reference).norm() / reference.norm()) < 1e-5


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_a_target_without_a_share_has_a_finite_loss(kind: torch.dtype) -> None:
    """exp(-300) is zero in either format."""
    state_MD = torch.tensor([[300.0], [1.0]], dtype=kind, requires_grad=True)
    table_ND = torch.tensor([[0.0], [1.0], [1.0]])
    ours = blockwise_cross_entropy(state_MD, table_ND, torch.tensor([0, 0]), reduction="sum")
    dense = torch.nn.functional.cross_entropy(state_MD.float() @ table_ND.T, torch.tensor([0, 0]), reduction="sum")
    assert float(ours.detach()) == pytest.approx(float(dense.detach()), rel=1e-4)
    ours.backward()
    assert state_MD.grad is not None
    assert float(state_MD.grad[0]) == pytest.approx(1.0)


class Largest(TorchDispatchMode):
    """Remembers the most elements that any operation returned."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


def test_no_tensor_of_all_logits_is_made() -> None:
    state_MD, table_ND = torch.randn(500, 4, requires_grad=True), torch.randn(40_000, 4, requires_grad=True)
    with Largest() as ours:
        blockwise_cross_entropy(state_MD, table_ND, torch.arange(500)).backward()
    with Largest() as dense:
        torch.nn.functional.cross_entropy(state_MD @ table_ND.T, torch.arange(500)).backward()
    assert ours.elements <= 128 * 40_000
    assert dense.elements == 500 * 40_000


def test_under_autocast_products_are_bfloat16_and_sums_are_not() -> None:
    torch.manual_seed(0)
    state_MD, table_ND = torch.randn(300, 16, requires_grad=True), torch.randn(90, 16, requires_grad=True)
    target_M = torch.randint(90, (300,))
    exact = torch.autograd.grad(blockwise_cross_entropy(state_MD, table_ND, target_M), (state_MD, table_ND))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = blockwise_cross_entropy(state_MD, table_ND, target_M)
    rounded = torch.autograd.grad(loss, (state_MD, table_ND))
    assert loss.dtype == torch.float32
    for mine, reference in zip(rounded, exact, strict=True):
        assert mine.dtype == torch.float32
        assert 1e-5 < float((mine - reference).norm() / reference.norm()) < 0.02


def test_without_gradient_nothing_is_kept() -> None:
    with torch.no_grad():
        loss = blockwise_cross_entropy(torch.randn(5, 2), torch.randn(3, 2), torch.tensor([0, 1, 2, 0, 1]))
    assert not loss.requires_grad


@pytest.mark.parametrize("target", [[], [-1], [3]])
def test_bad_targets_are_refused(target: list[int]) -> None:
    with pytest.raises(ValueError, match=r"cross entropy of no positions|not a row"):
        blockwise_cross_entropy(torch.zeros(len(target), 2), torch.zeros(3, 2), torch.tensor(target, dtype=torch.int64))
