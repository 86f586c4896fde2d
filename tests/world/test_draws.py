"""What is drawn with few numbers has exactly the distribution that its docstring says."""

import itertools
import math

import pytest
import torch
from scipy import stats

from recolam.contracts.dataset import FIRST_ITEM
from recolam.world.boredom import BoredomConfig, BoredomUsers, draw_items
from recolam.world.runtime import Value
from recolam.world.slates import are_distinct, are_items, decoded, random_slates
from recolam.world.story import appended, choice_at, sample_choice

GRID = 1 << 24  # torch.rand draws float32 numbers that are multiples of 1 / GRID


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("documents", "slate"), [(5, 3), (4, 4), (7, 2), (6, 1)])
def test_every_code_is_another_slate_and_no_slate_is_left_out(documents: int, slate: int) -> None:
    codes = list(itertools.product(*[range(documents - place) for place in range(slate)]))
    slates = decoded(torch.tensor(codes).T.contiguous()).T.tolist()
    assert sorted(map(tuple, slates)) == list(itertools.permutations(range(documents), slate))


def decoded_from_the_front(choice_KB: torch.Tensor) -> torch.Tensor:
    """A planted fault: steps over the picks in the order of the places."""
    for place in range(1, len(choice_KB)):
        for earlier in range(place):
            choice_KB[place] += choice_KB[place] >= choice_KB[earlier]
    return choice_KB


def test_stepping_over_picks_in_another_order_repeats_and_misses_slates() -> None:
    codes = list(itertools.product(range(5), range(4), range(3)))
    slates = set(map(tuple, decoded_from_the_front(torch.tensor(codes).T.contiguous()).T.tolist()))
    assert slates != set(itertools.permutations(range(5), 3))


def slate_p_value(slate_BK: torch.Tensor, *, documents: int) -> float:
    """P-value of Pearson's chi-square that ordered slates are uniform."""
    possible = list(itertools.permutations(range(documents), slate_BK.shape[1]))
    rank = {slate: place for place, slate in enumerate(possible)}
    counts = torch.bincount(torch.tensor([rank[tuple(row)] for row in slate_BK.tolist()]), minlength=len(possible))
    return float(stats.chisquare(counts.numpy()).pvalue)


def test_random_slates_are_uniform_over_ordered_slates() -> None:
    slate_BK = random_slates(60_000, documents=5, slate=3, generator=seeded(0))
    assert slate_p_value(slate_BK, documents=5) > 0.001


def test_a_bias_of_a_few_percent_is_found() -> None:
    """Planted: remainders of numbers that are no multiple of the documents left; 0 comes up 6 times in 21, not 5.25."""
    first_B = torch.randint(5, (60_000,), generator=seeded(0))
    second_B = torch.randint(21, (60_000,), generator=seeded(1)) % 4
    slate_BK = decoded(torch.stack([first_B, second_B])).T
    assert slate_p_value(slate_BK, documents=5) < 1e-6


def test_every_place_of_a_long_slate_shows_every_document_alike() -> None:
    slate_BK = random_slates(20_000, documents=30, slate=10, generator=seeded(2))
    assert are_distinct(slate_BK)
    for place in range(10):
        assert stats.chisquare(torch.bincount(slate_BK[:, place], minlength=30).numpy()).pvalue > 0.0005
    whole_BK = random_slates(50, documents=6, slate=6, generator=seeded(0))
    assert (whole_BK.sort(dim=1).values == torch.arange(6)).all()


def test_slates_are_judged_by_their_tokens() -> None:
    good_BK = torch.tensor([[3, 4, 9], [9, 8, 3]])
    assert are_items(good_BK, tokens=10)
    assert not are_items(good_BK, tokens=9)
    assert not are_items(good_BK - 1, tokens=10)
    assert are_distinct(good_BK)
    for first, second in itertools.combinations(range(3), 2):
        bad_BK = good_BK.clone()
        bad_BK[1, first] = bad_BK[1, second]
        assert not are_distinct(bad_BK)


def shares_of_options(utility_K: list[float], no_click: float) -> torch.Tensor:
    """Of all numbers that torch.rand can draw, the share that chooses each option, no click first; float64 [C]."""
    counts_C = torch.zeros(len(utility_K) + 1, dtype=torch.int64)
    for block_B in (torch.arange(GRID, dtype=torch.float32) / GRID).split(1 << 20):
        utility_BK = torch.tensor(utility_K).expand(len(block_B), -1)
        choice_B = choice_at(block_B, utility_BK, torch.full((len(block_B),), no_click))
        counts_C += torch.bincount(choice_B + 1, minlength=len(counts_C))
    return counts_C.double() / GRID


@pytest.mark.parametrize(
    ("utility_K", "no_click"),
    [([0.3, -1.2], 0.0), ([5.0, -torch.inf, 4.9], -2.0), ([-torch.inf, 0.0], -torch.inf), ([88.0, 200.0], 199.0)],
)
def test_over_all_numbers_that_can_be_drawn_choices_have_their_probabilities(
    utility_K: list[float], no_click: float
) -> None:
    expected_C = torch.softmax(torch.tensor([no_click, *utility_K], dtype=torch.float64), dim=0)
    found_C = shares_of_options(utility_K, no_click)
    assert float((found_C - expected_C).abs().max()) < 4 / GRID  # float32 rounds the weights
    assert (found_C[expected_C == 0] == 0).all()


def test_what_torch_draws_lies_on_the_grid_and_below_one() -> None:
    drawn_B = torch.rand(1 << 20, generator=seeded(0))
    assert torch.equal(drawn_B * GRID, (drawn_B * GRID).round())
    assert drawn_B.max() < 1
    assert stats.kstest(drawn_B.numpy(), "uniform").pvalue > 0.001


def test_a_share_of_the_whole_is_below_the_whole_however_it_is_rounded() -> None:
    """Every float32 in [1, 2); other powers of two scale both sides exactly."""
    whole_M = (torch.arange(1 << 23, dtype=torch.int32) + 0x3F800000).view(torch.float32)
    assert (whole_M[0], whole_M[-1]) == (1.0, 2.0 - 2.0**-23)
    assert (whole_M * (1.0 - 2.0**-24) < whole_M).all()


def test_sampled_choices_are_multinomial_logit_and_unavailable_items_are_not_chosen() -> None:
    utility_BK = torch.tensor([0.5, -0.5, 1.0]).expand(60_000, -1)
    is_available_BK = torch.tensor([True, False, True]).expand(60_000, -1)
    no_click_B = torch.full((60_000,), 0.2)
    for mask_BK, weights in ((None, [0.2, 0.5, -0.5, 1.0]), (is_available_BK, [0.2, 0.5, -math.inf, 1.0])):
        choice_B = sample_choice(utility_BK, no_click_B, seeded(1), is_available_BK=mask_BK)
        counts_C = torch.bincount(choice_B + 1, minlength=4).double()
        expected_C = torch.softmax(torch.tensor(weights, dtype=torch.float64), dim=0) * 60_000
        possible_C = expected_C > 0
        assert counts_C[~possible_C].sum() == 0
        assert stats.chisquare(counts_C[possible_C], expected_C[possible_C]).pvalue > 0.001


def joint_p_value(is_clicked_BK: torch.Tensor, probability_K: torch.Tensor) -> float:
    """P-value of the chi-square over all patterns of clicks, that clicks are independent with these probabilities."""
    place_K = torch.arange(len(probability_K))
    counts = torch.bincount((is_clicked_BK << place_K).sum(dim=1), minlength=1 << len(place_K))
    patterns_PK = torch.arange(len(counts))[:, None] >> place_K & 1
    expected = torch.where(patterns_PK == 1, probability_K, 1 - probability_K).double().prod(dim=1)
    return float(stats.chisquare(counts.numpy(), (expected / expected.sum() * counts.sum()).numpy()).pvalue)


def test_several_clicks_are_independent_with_the_probabilities_of_their_places() -> None:
    users = 60_000
    people = BoredomUsers(BoredomConfig(slate_size=3, slope=3.0, capacity=4), draw_items(40, topics=10, seed=0))
    one = people.initial_state(seeded(3), 1)
    state = Value(**{name: tensor.expand(users, *tensor.shape[1:]) for name, tensor in one.items()})
    slate_BK = torch.tensor([[5, 17, 30]]).expand(users, -1)
    probability_K = people.click_probability(state, slate_BK)[0]
    assert ((probability_K > 0.05) & (probability_K < 0.95)).all()
    is_clicked_BK = people.respond(state, slate_BK, seeded(4))["is_clicked"]
    assert joint_p_value(is_clicked_BK, probability_K) > 0.001
    one_draw_for_all_BK = torch.rand(users, 1, generator=seeded(4)) < probability_K  # planted: the right marginals
    assert joint_p_value(one_draw_for_all_BK, probability_K) < 1e-6


def test_new_values_stand_behind_the_old_ones_and_push_the_oldest_out() -> None:
    generator, capacity, most, users = seeded(5), 5, 3, 400
    rows: list[list[int]] = [[] for _ in range(users)]
    row_BT, length_B = torch.zeros(users, capacity, dtype=torch.int64), torch.zeros(users, dtype=torch.int64)
    for _ in range(8):
        new_BJ = torch.randint(FIRST_ITEM, 99, (users, most), generator=generator)
        is_new_BJ = torch.rand(users, most, generator=generator) < 0.4
        row_BT, length_B = appended(row_BT, length_B, new_BJ, is_new_BJ)
        for row, new, is_new in zip(rows, new_BJ.tolist(), is_new_BJ.tolist(), strict=True):
            row.extend(itertools.compress(new, is_new))
            del row[:-capacity]
        assert length_B.tolist() == [len(row) for row in rows]
        assert row_BT.tolist() == [row + [0] * (capacity - len(row)) for row in rows]
