"""SlateQ in a world with 3 states, 4 items and slates of 2, all of whose outcomes can be enumerated.

Shape legend: S states (and the end, after them), N items, A the 12 ordered slates, K positions.
"""

import itertools

import pytest
import torch
from torch import Tensor

from recolam.policy import plackett_luce
from recolam.policy.pl_rank import pl_rank
from recolam.policy.slateq import best_slate, long_term_labels, slate_value, slateq_target

GAMMA = 0.9
STATES, ITEMS, END = 3, 4, 3
SLATE_AK = torch.tensor(list(itertools.permutations(range(ITEMS), 2)))
EXPOSURE_K = torch.tensor([0.6, 0.4], dtype=torch.float64)  # the user examines one position
_DRAW = torch.Generator().manual_seed(3)
CLICK_SN = torch.rand(STATES, ITEMS, generator=_DRAW, dtype=torch.float64)
REWARD_SN = torch.rand(STATES, ITEMS, generator=_DRAW, dtype=torch.float64)
# where a pick of item i, or of nothing (column N), leads to; the last state is the end
NEXT_SMT = torch.rand(STATES, ITEMS + 1, STATES + 1, generator=_DRAW, dtype=torch.float64).pow(3)
NEXT_SMT = NEXT_SMT / NEXT_SMT.sum(dim=2, keepdim=True)
SCORE_SN = torch.randn(STATES, ITEMS, generator=_DRAW, dtype=torch.float64)


def slate_chances(score_SN: Tensor) -> Tensor:
    rows = [plackett_luce.log_prob(score_N.expand(len(SLATE_AK), -1), SLATE_AK).exp() for score_N in score_SN]
    return torch.stack(rows)


def pick_chances(state: int) -> Tensor:
    """P(pick | state, slate) of the two items and of nothing, [A, 3]."""
    chance_AK = EXPOSURE_K * CLICK_SN[state][SLATE_AK]
    return torch.cat([chance_AK, 1 - chance_AK.sum(dim=1, keepdim=True)], dim=1)


def outcome_chances(state: int) -> Tensor:
    """P(item or nothing picked | state, slate), [A, N + 1]."""
    columns_AK = torch.cat([SLATE_AK, torch.full((len(SLATE_AK), 1), ITEMS)], dim=1)
    return torch.zeros(len(SLATE_AK), ITEMS + 1, dtype=torch.float64).scatter(1, columns_AK, pick_chances(state))


def dynamics(score_SN: Tensor) -> tuple[Tensor, Tensor]:
    """Expected reward [S] and transition [S, S] under the policy."""
    chance_SA = slate_chances(score_SN)
    pick_SM = torch.stack([chance_SA[state] @ outcome_chances(state) for state in range(STATES)])
    return (pick_SM[:, :ITEMS] * REWARD_SN).sum(dim=1), (pick_SM[:, :, None] * NEXT_SMT).sum(dim=1)[:, :STATES]


def state_values(score_SN: Tensor) -> Tensor:
    reward_S, move_SS = dynamics(score_SN)
    return torch.linalg.solve(torch.eye(STATES, dtype=torch.float64) - GAMMA * move_SS, reward_S)


def learnt_values(*, target_state: str, is_greedy: bool = False) -> Tensor:
    """Q(s, i) and Q(s, nothing), [S, N + 1]: the fixed point of the expected target."""
    value_SM = torch.zeros(STATES, ITEMS + 1, dtype=torch.float64)
    chance_SA = slate_chances(SCORE_SN)
    reward_SM = torch.cat([REWARD_SN, torch.zeros(STATES, 1, dtype=torch.float64)], dim=1)
    columns_AK = torch.cat([SLATE_AK, torch.full((len(SLATE_AK), 1), ITEMS)], dim=1)
    for _ in range(250):
        answer_SM = torch.zeros_like(value_SM)
        for state, pick, after in itertools.product(range(STATES), range(ITEMS + 1), range(STATES + 1)):
            looked_at = state if target_state == "current" else min(after, STATES - 1)
            target_A = slateq_target(
                reward_SM[state, pick].expand(len(SLATE_AK)), pick_chances(looked_at),
                value_SM[looked_at][columns_AK], torch.full((len(SLATE_AK),), after == END), gamma=GAMMA,
            )  # fmt: skip
            target = target_A.max() if is_greedy else chance_SA[looked_at] @ target_A
            answer_SM[state, pick] += NEXT_SMT[state, pick, after] * target
        value_SM = answer_SM
    return value_SM


def test_the_decomposition_has_the_values_of_the_slates() -> None:
    value_SM = learnt_values(target_state="next")
    chance_SA, columns_AK = slate_chances(SCORE_SN), torch.cat([SLATE_AK, torch.full((12, 1), ITEMS)], dim=1)
    expected_S = [chance_SA[s] @ slate_value(pick_chances(s), value_SM[s][columns_AK]) for s in range(STATES)]
    torch.testing.assert_close(torch.stack(expected_S), state_values(SCORE_SN), rtol=0, atol=1e-10)


def test_the_current_state_in_the_target_learns_another_function() -> None:
    assert (learnt_values(target_state="current") - learnt_values(target_state="next")).abs().max() > 0.1


def long_term_gradient(value_SM: Tensor) -> Tensor:
    """Expected PL-Rank on long-term labels, by how often (discounted) the policy is in each state from state 0 on."""
    move_SS = dynamics(SCORE_SN)[1]
    start_S = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    visits_S = torch.linalg.solve((torch.eye(STATES, dtype=torch.float64) - GAMMA * move_SS).T, start_S)
    label_SN = long_term_labels(CLICK_SN, value_SM[:, :ITEMS], value_SM[:, ITEMS])
    rows = []
    for state, chance_A in enumerate(slate_chances(SCORE_SN)):
        size = (len(SLATE_AK), ITEMS)
        estimate_AN = pl_rank(SCORE_SN[state].expand(size), SLATE_AK, label_SN[state].expand(size), EXPOSURE_K)
        rows.append(visits_S[state] * (chance_A @ estimate_AN))
    return torch.stack(rows)


def test_pl_rank_on_slateq_labels_is_the_gradient_of_the_long_term_return() -> None:
    leaf_SN = SCORE_SN.clone().requires_grad_()
    (exact_SN,) = torch.autograd.grad(state_values(leaf_SN)[0], leaf_SN)
    torch.testing.assert_close(
        long_term_gradient(learnt_values(target_state="next")), exact_SN, rtol=0, atol=1e-9
    )  # fmt: skip
    wrong_SN = long_term_gradient(learnt_values(target_state="current"))
    assert (wrong_SN - exact_SN).abs().max() > 0.005


def test_q_learning_finds_the_best_policy_s_values() -> None:
    value_SM = learnt_values(target_state="next", is_greedy=True)
    best_S = torch.zeros(STATES, dtype=torch.float64)
    following_ST = torch.zeros(STATES + 1, dtype=torch.float64)
    for _ in range(250):  # value iteration over whole slates, with no decomposition
        reward_SM = torch.cat([REWARD_SN, torch.zeros(STATES, 1, dtype=torch.float64)], dim=1)
        worth_SM = reward_SM + GAMMA * NEXT_SMT @ following_ST
        best_S = torch.stack([(outcome_chances(s) @ worth_SM[s]).max() for s in range(STATES)])
        following_ST = torch.cat([best_S, torch.zeros(1, dtype=torch.float64)])
    torch.testing.assert_close(value_SM, worth_SM, rtol=0, atol=1e-9)


def test_targets_by_hand() -> None:
    choice_BK = torch.tensor([[0.5, 0.25], [0.5, 0.25]])
    value_BK = torch.tensor([[4.0, 8.0], [4.0, 8.0]])
    target_B = slateq_target(torch.tensor([1.0, 1.0]), choice_BK, value_BK, torch.tensor([False, True]), gamma=0.5)
    assert target_B.tolist() == [3.0, 1.0]
    with pytest.raises(ValueError, match="gamma is 2"):
        slateq_target(torch.ones(2), choice_BK, value_BK, torch.tensor([False, True]), gamma=2.0)


def test_the_best_slate_is_the_best_of_all() -> None:
    generator = torch.Generator().manual_seed(0)
    affinity_BN = torch.randn(30, 7, generator=generator, dtype=torch.float64)
    value_BN = 5 * torch.rand(30, 7, generator=generator, dtype=torch.float64)
    nothing_B = torch.rand(30, generator=generator, dtype=torch.float64)
    found_BK = best_slate(affinity_BN, value_BN, k=3, nothing_B=nothing_B)

    def worth(slate_BK: Tensor) -> Tensor:
        weight_BK = torch.cat([affinity_BN.gather(1, slate_BK).exp(), torch.ones(30, 1, dtype=torch.float64)], dim=1)
        earned_BK = torch.cat([value_BN.gather(1, slate_BK), nothing_B[:, None]], dim=1)
        return slate_value(weight_BK / weight_BK.sum(dim=1, keepdim=True), earned_BK)

    every = [worth(torch.tensor(slate).expand(30, -1)) for slate in itertools.combinations(range(7), 3)]
    torch.testing.assert_close(worth(found_BK), torch.stack(every).amax(dim=0), rtol=0, atol=1e-12)
