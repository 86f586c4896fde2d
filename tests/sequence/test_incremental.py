"""Reading what is new gives the states of reading everything, and reads no more than that."""

import pytest
import torch
from torch import Tensor

from recolam.contracts.dataset import FIRST_ITEM
from recolam.sequence.incremental import IncrementalEncoder
from recolam.sequence.model import SequenceConfig, SequenceModel

ITEMS, MAX_LEN = 30, 24


def model_of(backbone: str = "native") -> SequenceModel:
    torch.manual_seed(1)
    config = SequenceConfig(
        tokens=FIRST_ITEM + ITEMS, text_features=4, backbone=backbone, max_len=MAX_LEN, width=16, blocks=2, heads=2
    )
    model = SequenceModel(config).eval()
    model.item_text.normal_()
    return model


class Sessions:
    """Histories that grow by none to three items a step; the generator is seeded."""

    def __init__(self, users: int) -> None:
        self.generator = torch.Generator().manual_seed(5)
        self.history_BT = torch.zeros(users, MAX_LEN, dtype=torch.int64)
        self.length_B = torch.zeros(users, dtype=torch.int64)

    def draw(self, low: int, high: int, size: int) -> Tensor:
        return torch.randint(low, high, (size,), generator=self.generator)

    def grow(self, *, most: int = 3) -> None:
        for row, count in enumerate(self.draw(0, most + 1, len(self.length_B)).tolist()):
            begin = int(self.length_B[row])
            count = min(count, MAX_LEN - begin)
            self.history_BT[row, begin : begin + count] = self.draw(FIRST_ITEM, FIRST_ITEM + ITEMS, count)
            self.length_B[row] += count

    def start_anew(self, row: int) -> None:
        self.history_BT[row], self.length_B[row] = 0, 0


def assert_same(encoder: IncrementalEncoder, history_BT: Tensor, length_B: Tensor) -> None:
    with torch.no_grad():
        expected_BD = encoder.model.last_state(history_BT, length_B)
    torch.testing.assert_close(encoder.last_state(history_BT, length_B), expected_BD, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backbone", ["native", "gpt2"])
def test_states_are_those_of_whole_histories(backbone: str) -> None:
    encoder, sessions = IncrementalEncoder(model_of(backbone)), Sessions(7)
    for step in range(14):
        assert_same(encoder, sessions.history_BT, sessions.length_B)
        sessions.grow()
        if step % 4 == 3:
            sessions.start_anew(step % 7)
    assert int(sessions.length_B.max()) > MAX_LEN // 2


def test_other_histories_are_read_again() -> None:
    encoder, sessions = IncrementalEncoder(model_of()), Sessions(4)
    for _ in range(5):
        sessions.grow()
    history_BT, length_B = sessions.history_BT, sessions.length_B
    assert_same(encoder, history_BT, length_B)
    assert_same(encoder, history_BT.flip(0), length_B.flip(0))  # other users in the rows
    changed_BT = history_BT.clone()
    changed_BT[0, 0] = FIRST_ITEM + (changed_BT[0, 0] - FIRST_ITEM + 1) % ITEMS
    assert_same(encoder, changed_BT, length_B)  # the same length, another first item
    assert_same(encoder, changed_BT, (length_B - 2).clamp(min=0))  # a shorter history
    assert_same(encoder, changed_BT.repeat(3, 1), length_B.repeat(3))  # more users
    dropped_BT = torch.cat([changed_BT[:, 1:], changed_BT[:, :1]], dim=1)
    assert_same(encoder, dropped_BT, length_B - 1)  # the oldest item fell out
    long_BT = torch.randint(FIRST_ITEM, FIRST_ITEM + ITEMS, (4, MAX_LEN + 6))
    assert_same(encoder, long_BT, torch.tensor([3, MAX_LEN, MAX_LEN + 1, MAX_LEN + 6]))


def test_only_new_items_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    model, sessions, read = model_of(), Sessions(6), []
    encoder, project = IncrementalEncoder(model), type(model.backbone.blocks[0]).project

    def counted(block: torch.nn.Module, state_MD: Tensor) -> Tensor:
        read.append(len(state_MD))
        return project(block, state_MD)

    monkeypatch.setattr(type(model.backbone.blocks[0]), "project", counted)
    encoder.last_state(sessions.history_BT, sessions.length_B)
    for _ in range(8):
        before_B = sessions.length_B.clone()
        sessions.grow(most=2)
        read.clear()
        encoder.last_state(sessions.history_BT, sessions.length_B)
        assert read == [int((sessions.length_B - before_B).sum())] * 2
    read.clear()
    encoder.last_state(sessions.history_BT, sessions.length_B)
    assert read == []
