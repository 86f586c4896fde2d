from pathlib import Path

import pytest
import torch
from torch import Tensor

from recolam.contracts.dataset import FIRST_ITEM
from recolam.errors import ConfigError
from recolam.pretrain.stage import PretrainConfig, new_model
from recolam.sequence import sampled
from recolam.sequence.config import TrainingConfig
from recolam.sequence.ranking import ndcg, rank_targets
from recolam.sequence.sampled import Negatives, popularity_proposal, sampled_cross_entropy
from recolam.sequence.training import item_objectives, train_sequence_model
from tests.planted import cyclic_dataset

POSITIONS, ITEMS, WIDTH = 40, 60, 8


def problem() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    state_MD, table_ND = torch.randn(POSITIONS, WIDTH), torch.randn(ITEMS, WIDTH)
    count_N = (1000 / torch.arange(1, ITEMS + 1)).long()  # Zipf
    target_M = torch.multinomial(count_N.float(), POSITIONS, replacement=True)
    return state_MD.requires_grad_(), table_ND.requires_grad_(), target_M, popularity_proposal(count_N)


def gradient(loss: Tensor, *parameters: Tensor) -> Tensor:
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, parameters)])


def exact_gradient() -> Tensor:
    state_MD, table_ND, target_M, _ = problem()
    return gradient(torch.nn.functional.cross_entropy(state_MD @ table_ND.T, target_M), state_MD, table_ND)


def mean_gradient(*, negatives: int, draws: int, seed: int = 0) -> Tensor:
    state_MD, table_ND, target_M, proposal_N = problem()
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(state_MD.numel() + table_ND.numel())
    for _ in range(draws):
        loss = sampled_cross_entropy(
            state_MD, table_ND, target_M, negatives=Negatives(negatives, proposal_N), generator=generator
        )
        total += gradient(loss, state_MD, table_ND)
    return total / draws


def relative_error(of: Tensor) -> float:
    exact = exact_gradient()
    return float((of - exact).norm() / exact.norm())


def test_with_many_negatives_the_gradient_is_the_exact_one() -> None:
    assert relative_error(mean_gradient(negatives=300_000, draws=1)) < 0.02


def test_without_the_correction_it_is_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampled, "log_expected_count", lambda proposal, *, negatives: torch.zeros_like(proposal))
    assert relative_error(mean_gradient(negatives=300_000, draws=1)) > 0.2
    # The number of draws alone is no correction: the proposal must be in it.
    monkeypatch.setattr(
        sampled, "log_expected_count", lambda proposal, *, negatives: torch.full_like(proposal, negatives / ITEMS).log()
    )
    assert relative_error(mean_gradient(negatives=300_000, draws=1)) > 0.2


def test_the_error_of_one_draw_falls_like_the_root_of_the_negatives() -> None:
    few, many = (
        sum(relative_error(mean_gradient(negatives=n, draws=1, seed=seed)) for seed in range(20)) for n in (400, 6400)
    )
    assert 3.0 < few / many < 5.3  # sixteen times the negatives, a quarter of the error


def test_the_bias_falls_with_the_negatives() -> None:
    """Averaged over draws, only the bias is left: of order 1 / K."""
    few, more = (relative_error(mean_gradient(negatives=n, draws=200)) for n in (8, 128))
    assert few > 0.3
    assert more < few / 3


def by_hand(state_MD: Tensor, table_ND: Tensor, target_M: Tensor, drawn_K: Tensor, proposal_N: Tensor) -> Tensor:
    """The sum of the losses with plain operations, a position at a time."""
    total = torch.zeros(())
    for state_D, target in zip(state_MD, target_M, strict=True):
        terms = [torch.exp(state_D @ table_ND[target])]
        for item in drawn_K.tolist():
            if item != int(target):
                terms.append(torch.exp(state_D @ table_ND[item]) / (len(drawn_K) * proposal_N[item]))
        total = total - torch.log(terms[0] / torch.stack(terms).sum())
    return total


@pytest.mark.parametrize("block", [None, 1, 7])
def test_loss_and_gradient_are_those_written_out(block: int | None) -> None:
    state_MD, table_ND, target_M, proposal_N = problem()
    negatives = Negatives(50, proposal_N)
    drawn_K = torch.multinomial(proposal_N, 50, replacement=True, generator=torch.Generator().manual_seed(4))
    assert len(set(drawn_K.tolist()) & set(target_M.tolist())) > 3  # accidental hits
    assert len(set(drawn_K.tolist())) < 50  # items drawn twice
    reference = by_hand(state_MD, table_ND, target_M, drawn_K, proposal_N)
    loss = sampled_cross_entropy(
        state_MD, table_ND, target_M, negatives=negatives, generator=torch.Generator().manual_seed(4), block=block,
        reduction="sum",
    )  # fmt: skip
    torch.testing.assert_close(loss, reference)
    torch.testing.assert_close(
        gradient(3 * loss, state_MD, table_ND), gradient(3 * reference, state_MD, table_ND), rtol=1e-4, atol=1e-5
    )


def test_where_every_negative_is_the_target_nothing_is_lost() -> None:
    state_MD, table_ND = torch.randn(3, 2, requires_grad=True), torch.randn(4, 2, requires_grad=True)
    only_2 = Negatives(5, torch.tensor([0.0, 0.0, 1.0, 0.0]))
    loss = sampled_cross_entropy(state_MD, table_ND, torch.tensor([2, 2, 2]), negatives=only_2)
    assert float(loss.detach()) == 0.0
    assert bool((gradient(loss, state_MD, table_ND) == 0).all())


@pytest.mark.parametrize(
    ("target", "items", "message"),
    [([], 3, "no positions"), ([3], 3, "not a row"), ([-1], 3, "not a row"), ([0], 4, "proposal over 4 items")],
)
def test_bad_input_is_refused(target: list[int], items: int, message: str) -> None:
    negatives = Negatives(2, torch.full((items,), 1.0 / items))
    target_M = torch.tensor(target, dtype=torch.int64)
    with pytest.raises(ValueError, match=message):
        sampled_cross_entropy(torch.zeros(len(target), 2), torch.zeros(3, 2), target_M, negatives=negatives)
    with pytest.raises(ConfigError, match="negatives -1"):
        TrainingConfig(negatives=-1)


def test_the_proposal_follows_the_train_counts() -> None:
    dataset = cyclic_dataset(users=20)
    objectives = item_objectives(TrainingConfig(negatives=7, masked_weight=1.0), dataset, torch.device("cpu"))
    for objective in objectives:
        assert objective.rivals.negatives.count == 7
        share_N = (dataset.item_count_V[FIRST_ITEM:] + 1.0) ** 0.75
        torch.testing.assert_close(
            objective.rivals.negatives.proposal_N, torch.from_numpy(share_N / share_N.sum()).float()
        )
    assert all(o.rivals.negatives is None for o in item_objectives(TrainingConfig(), dataset, torch.device("cpu")))


@pytest.mark.parametrize(("next_weight", "masked_weight"), [(1.0, 0.0), (0.0, 1.0)])
def test_a_planted_source_is_learnt_from_few_negatives(
    tmp_path: Path, next_weight: float, masked_weight: float
) -> None:
    dataset = cyclic_dataset(users=200)
    config = TrainingConfig(
        epochs=12, batch_size=16, max_len=12, learning_rate=5e-3, warmup_steps=5, negatives=10, validate_every=12,
        next_weight=next_weight, masked_weight=masked_weight,
    )  # fmt: skip
    model = new_model(dataset, PretrainConfig(width=16, blocks=1, heads=2, dropout=0.0, training=config), seed=0)
    train_sequence_model(model, dataset, config, seed=3, scratch=tmp_path)
    assert ndcg(rank_targets(model, dataset, dataset.test_event_Q, max_len=12).rank_Q, k=10) > 0.6  # chance: 0.25
