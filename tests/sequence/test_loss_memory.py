"""Peak memory of the exact loss, in a process of its own so that nothing else has grown it before.

The peak is the kernel's VmHWM, set back just before: getrusage's would begin at that of the process that started it.
"""

import json
import subprocess
import sys

import pytest

_PROGRAM = """
import json, sys
from pathlib import Path
import torch
from recolam.sequence.loss import blockwise_cross_entropy

def kilobytes(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


tokens, items, width, is_dense = json.loads(sys.argv[1])
torch.manual_seed(0)
torch.set_num_threads(1)
state_MD, table_ND = torch.randn(tokens, width).requires_grad_(), (torch.randn(items, width) / width).requires_grad_()
target_M = torch.randint(items, (tokens,))
blockwise_cross_entropy(state_MD[:2, :2], table_ND[:50, :2], target_M[:2] % 50).backward()  # loads what it needs
state_MD.grad = table_ND.grad = None
Path("/proc/self/clear_refs").write_text("5")
before = kilobytes("VmRSS")
if is_dense:
    loss = torch.nn.functional.cross_entropy(state_MD @ table_ND.T, target_M)
else:
    loss = blockwise_cross_entropy(state_MD, table_ND, target_M)
loss.backward()
growth = 1024 * (kilobytes("VmHWM") - before)
print(json.dumps({"growth": growth, "loss": float(loss.detach()), "gradient": float(table_ND.grad.norm())}))
"""


def measured(*, tokens: int, items: int, width: int, is_dense: bool = False) -> dict[str, float]:
    """Growth of the resident set's peak in bytes over forward and backward, the loss and the gradient's norm."""
    sizes = json.dumps([tokens, items, width, is_dense])
    done = subprocess.run([sys.executable, "-c", _PROGRAM, sizes], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.slow
def test_the_exact_loss_never_holds_all_logits() -> None:
    tokens, items, width = 4000, 200_000, 32
    found = measured(tokens=tokens, items=items, width=width)
    assert found["gradient"] > 0
    assert found["growth"] < 2 * tokens * items * 4 / 10  # a dense loss holds the logits and their gradient


def test_the_measurement_sees_a_dense_loss() -> None:
    dense, ours = (measured(tokens=2000, items=50_000, width=8, is_dense=is_dense) for is_dense in (True, False))
    logits = 2000 * 50_000 * 4
    assert dense["growth"] > 1.9 * logits
    assert ours["growth"] < logits / 2
    assert ours["loss"] == pytest.approx(dense["loss"], rel=1e-5)
    assert ours["gradient"] == pytest.approx(dense["gradient"], rel=1e-4)
