"""One batch's gradient, however it is split, and what happens when memory runs out."""

import dataclasses

import pytest
import torch
from torch import Tensor

from recolam.errors import ConfigError
from recolam.sequence.gradients import BatchGradient, is_out_of_memory
from recolam.sequence.model import SequenceConfig, SequenceModel
from recolam.sequence.objectives import MaskedItem, NextItem, Objective, Rivals
from recolam.sequence.windows import Batch, batches, training_windows
from tests.planted import noise_dataset

CPU = torch.device("cpu")


def model() -> SequenceModel:
    torch.manual_seed(0)
    return SequenceModel(SequenceConfig(tokens=33, max_len=8, width=16, blocks=1, heads=2, dropout=0.0))


def batch() -> Batch:
    windows = training_windows(noise_dataset(users=30), max_len=8)
    return next(batches(windows, batch_size=13, seed=0, epoch=0))


def gradients(made: SequenceModel) -> list[Tensor]:
    return [p.grad.clone() for p in made.parameters() if p.grad is not None]


@pytest.mark.parametrize("pieces", [2, 3, 13])
def test_micro_batches_add_up_to_the_whole_batch(pieces: int) -> None:
    objectives: list[Objective] = [NextItem(1.0), MaskedItem(0.5, 0.3)]
    whole, split = (BatchGradient(objectives, device=CPU, dtype=torch.float32) for _ in range(2))
    split.pieces = pieces
    first, second = model(), model()
    loss = whole(first, first, batch(), seed=4)
    assert split(second, second, batch(), seed=4) == pytest.approx(loss, rel=1e-5)
    for ours, theirs in zip(gradients(second), gradients(first), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_the_loss_is_the_mean_over_targets_by_hand() -> None:
    made, one = model(), batch()
    loss = BatchGradient([NextItem(2.0)], device=CPU, dtype=torch.float32)(made, made, one, seed=0)
    total, count = 0.0, 0
    with torch.no_grad():
        for row, length in enumerate(one.length_B.tolist()):
            states = made(one.item_BT[row : row + 1, :length])[0]
            for t in range(length):
                logit = states[t] @ made.item_vectors.weight[3:].T
                total -= float(torch.log_softmax(logit, 0)[one.item_BT[row, t] - 3])
                count += 1
    assert loss == pytest.approx(2 * total / count, rel=1e-5)


def test_unseen_rivals_by_hand() -> None:
    made, one = model(), batch()
    unseen = Rivals(are_unseen=True)
    for objective, is_causal in ((NextItem(1.0, unseen), True), (MaskedItem(1.0, 0.5, unseen), False)):
        loss = BatchGradient([objective], device=CPU, dtype=torch.float32)(made, made, one, seed=0)
        is_target_BT = objective.targets(one, torch.Generator().manual_seed(0))
        losses = []
        with torch.no_grad():
            for row, length in enumerate(one.length_B.tolist()):
                item_T = one.item_BT[row, :length]
                shown_T = item_T if is_causal else item_T.masked_fill(is_target_BT[row, :length], 1)
                states = made(shown_T[None], is_causal=is_causal)[0]
                for t in is_target_BT[row, :length].nonzero()[:, 0].tolist():
                    logit = (states[t] if is_causal else states[t + 1]) @ made.item_vectors.weight.T
                    visible = set((item_T[:t] if is_causal else shown_T).tolist()) - {int(item_T[t])}
                    logit[sorted(visible | {0, 1, 2})] = -torch.inf
                    losses.append(-float(torch.log_softmax(logit, 0)[item_T[t]]))
        assert loss == pytest.approx(sum(losses) / len(losses), rel=1e-4)


@dataclasses.dataclass(frozen=True)
class Hungry(NextItem):
    """Runs out of memory with more than `limit` windows at a time."""

    limit: int = 3
    seen: list[int] = dataclasses.field(default_factory=list)

    def loss_sum(self, model: SequenceModel, batch: Batch, is_target_BT: Tensor) -> Tensor:
        self.seen.append(len(batch.length_B))
        if len(batch.length_B) > self.limit:
            raise torch.OutOfMemoryError("no more")
        return super().loss_sum(model, batch, is_target_BT)


def test_out_of_memory_halves_the_micro_batch_and_says_so(capfd: pytest.CaptureFixture[str]) -> None:
    hungry, made, plain = Hungry(), model(), model()
    gradient = BatchGradient([hungry], device=CPU, dtype=torch.float32)
    loss = gradient(made, made, batch(), seed=0)
    assert loss == pytest.approx(
        BatchGradient([NextItem()], device=CPU, dtype=torch.float32)(plain, plain, batch(), seed=0), rel=1e-5
    )
    for ours, theirs in zip(gradients(made), gradients(plain), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    assert [n for n in hungry.seen if n > 3] == [8, 4]
    assert "out of memory: micro-batches of 2 windows from now on" in capfd.readouterr().err
    hungry.seen.clear()
    gradient(made, made, batch(), seed=1)  # remembered
    assert max(hungry.seen) <= 3


def test_what_never_fits_is_an_error_and_other_errors_pass() -> None:
    made = model()
    with pytest.raises(ConfigError, match="one window does not fit into memory"):
        BatchGradient([Hungry(limit=0)], device=CPU, dtype=torch.float32)(made, made, batch(), seed=0)
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("shapes cannot be multiplied"))
