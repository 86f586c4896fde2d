"""What rivals read of users and items: the frozen model's scores, in fewer numbers."""

import torch

from recolam.contracts.dataset import FIRST_ITEM
from recolam.contracts.protocols import Observation
from recolam.policy.admission import NewToTheUser
from recolam.policy.represented import Representation, Represented, leading_terms
from tests.policy.small import ITEMS, small_agent, small_world

SALES_N = torch.cat([torch.zeros(FIRST_ITEM), torch.arange(ITEMS).flip(0).float()])


def histories(users: int = 200, length: int = 6, *, seed: int = 0) -> Observation:
    generator = torch.Generator().manual_seed(seed)
    history_BT = torch.randint(FIRST_ITEM, FIRST_ITEM + ITEMS, (users, length), generator=generator)
    length_B = torch.randint(1, length + 1, (users,), generator=generator)
    return Observation(history_BT.where(torch.arange(length) < length_B[:, None], 0), length_B)


def test_all_directions_give_the_model_s_own_scores_but_for_a_constant_of_the_user() -> None:
    agent, seen = small_agent(), histories()
    representation = Representation.of(agent.model, seen, SALES_N, directions=99)
    score_BI = representation.see(seen).user_BF @ representation.feature_NG[FIRST_ITEM:].T
    model_BI = agent.model.scores(seen.history_BT, seen.length_B)[:, FIRST_ITEM:].detach()
    expected_BI = model_BI - model_BI.mean(dim=1, keepdim=True)
    torch.testing.assert_close(score_BI, expected_BI, atol=1e-4, rtol=1e-4)
    assert float(expected_BI.std()) > 0.05


def test_no_other_scores_of_that_rank_are_nearer() -> None:
    """Over the users it was made from: the error is the sum of the squared singular values that were cut."""
    torch.manual_seed(0)
    state_BD, table_ID = torch.randn(50, 8) @ torch.randn(8, 8), torch.randn(30, 8)
    exact_BI = state_BD.double() @ (table_ID - table_ID.mean(dim=0)).double().T
    size_R = torch.linalg.svdvals(exact_BI)
    for count in (1, 3, 8):
        project_DF, item_IF = leading_terms(state_BD, table_ID, count=count)
        error = (exact_BI - ((state_BD @ project_DF) @ item_IF.T).double()).square().sum()
        torch.testing.assert_close(error, size_R[count:].square().sum(), atol=1e-2, rtol=1e-3)


def test_directions_in_which_no_user_differs_are_left_out() -> None:
    torch.manual_seed(0)
    state_BD = torch.randn(50, 2) @ torch.randn(2, 8)
    project_DF, item_IF = leading_terms(state_BD, torch.randn(30, 8), count=5)
    assert project_DF.shape == (8, 2)
    assert item_IF.shape == (30, 2)


def test_items_are_parted_by_sales_and_users_by_what_they_had() -> None:
    representation = Representation.of(small_agent().model, histories(), SALES_N, parts=4)
    part_I = representation.attribute_NZ[FIRST_ITEM:].argmax(dim=1)
    assert part_I.tolist() == [3] * 5 + [2] * 5 + [1] * 5 + [0] * 5  # the first item sells most
    assert float(representation.attribute_NZ[:FIRST_ITEM].sum()) == 0.0
    had = Observation(
        torch.tensor([[FIRST_ITEM, FIRST_ITEM + 1, FIRST_ITEM + 19, FIRST_ITEM + 2, 0]]), torch.tensor([4])
    )
    assert representation.see(had).facet_BZX[0, :, 0].tolist() == [0.25, 0.0, 0.0, 0.75]


def test_a_represented_environment_is_the_environment_and_counts_who_is_there() -> None:
    world, twin = small_world(budget=2.0), small_world(budget=2.0)
    seen = Represented(world, Representation.of(small_agent().model, histories(), SALES_N))
    rules, generator = NewToTheUser(world.tokens), torch.Generator().manual_seed(0)
    observation, plain, steps = seen.reset(users=40, seed=3), twin.reset(users=40, seed=3), 0
    for _ in range(world.horizon):
        steps += int(twin.state.get("is_active").sum())
        slate_BK = rules.random(plain, k=3, generator=generator)
        result, expected = seen.step(slate_BK), twin.step(slate_BK)
        observation, plain = result.observation, expected.observation
        assert torch.equal(result.reward_B, expected.reward_B)
        assert torch.equal(observation.history_BT, plain.history_BT)
    assert seen.played == steps < 40 * world.horizon
