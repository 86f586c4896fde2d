from itertools import permutations

import pytest
import torch
from torch import Tensor

from recolam.contracts.dataset import FIRST_ITEM
from recolam.policy import plackett_luce
from recolam.policy.decoder import Choices, Retrieval, SlateDecoder, decode, divergence, log_probs

EXAMINATION = torch.tensor([1.0, 0.8, 0.5])


def decoder_and_choices(*, is_random: bool = True, states: int = 1) -> tuple[SlateDecoder, Choices]:
    """Six candidates with mixed attributes; a decoder whose urges are random, or zero as at the start."""
    torch.manual_seed(3)
    decoder = SlateDecoder(attributes=3, facets=2, width=8, sharpness=2.0)
    if is_random:
        for parameter in decoder.parameters():
            torch.nn.init.normal_(parameter, std=0.8)
    candidate_BC = (torch.arange(6) + FIRST_ITEM).expand(states, -1)
    attribute_BCZ = torch.rand(6, 3).expand(states, -1, -1)
    expected_BC, click_BC = torch.rand(states, 6), torch.rand(states, 6)
    return decoder, Choices(torch.randn(states, 3, 2), candidate_BC, expected_BC, click_BC, attribute_BCZ)


def all_slates() -> Tensor:
    return torch.tensor(list(permutations(range(6), 3)))


def every_log_prob(decoder: SlateDecoder, choices: Choices) -> Tensor:
    slate_LK = all_slates()
    repeated = Choices(*(part.expand(len(slate_LK), *part.shape[1:]) for part in choices))
    return log_probs(decoder, repeated, slate_LK, EXAMINATION)[0].sum(dim=1)


def test_probabilities_of_all_slates_sum_to_one() -> None:
    assert float(every_log_prob(*decoder_and_choices()).exp().sum().detach()) == pytest.approx(1.0, abs=1e-5)


def test_before_training_it_is_plackett_luce_over_expected_rewards() -> None:
    decoder, choices = decoder_and_choices(is_random=False)
    score_LC = 2.0 * choices.expected_BC.expand(120, -1)
    torch.testing.assert_close(every_log_prob(decoder, choices), plackett_luce.log_prob(score_LC, all_slates()))


def test_slates_are_drawn_as_often_as_their_probability_says() -> None:
    decoder, choices = decoder_and_choices()
    draws = 60_000
    many = Choices(*(part.expand(draws, *part.shape[1:]) for part in choices))
    place_BK, log_prob_BK = decode(decoder, many, EXAMINATION, torch.Generator().manual_seed(0))
    code_B, code_L = place_BK @ torch.tensor([36, 6, 1]), all_slates() @ torch.tensor([36, 6, 1])
    count_L = (code_B[:, None] == code_L).sum(dim=0)
    expected_L = every_log_prob(decoder, choices).exp().detach() * draws
    statistic = float(((count_L - expected_L).square() / expected_L).sum())
    assert statistic < 119 + 5 * (2 * 119) ** 0.5  # chi-square of 119 degrees, five deviations above its mean
    shared = ((count_L - draws / 120).square() / (draws / 120)).sum()
    assert float(shared) > 10 * statistic  # the test can tell it from another distribution
    replayed, _ = log_probs(decoder, many, place_BK, EXAMINATION)
    torch.testing.assert_close(replayed, log_prob_BK, rtol=1e-4, atol=1e-5)


def test_entropy_of_sampled_prefixes_estimates_that_of_slates() -> None:
    decoder, choices = decoder_and_choices()
    log_prob_L = every_log_prob(decoder, choices).detach()
    exact = float(-(log_prob_L.exp() * log_prob_L).sum())
    many = Choices(*(part.expand(20_000, *part.shape[1:]) for part in choices))
    place_BK, _ = decode(decoder, many, EXAMINATION, torch.Generator().manual_seed(1))
    entropy_B = log_probs(decoder, many, place_BK, EXAMINATION)[1].sum(dim=1).detach()
    assert float(entropy_B.mean()) == pytest.approx(exact, abs=4 * float(entropy_B.std()) / 20_000**0.5)


def test_divergence_of_positions_sums_to_that_of_slates() -> None:
    """All slates enumerated: sum_k E[KL_k] = sum P log(P / Q), and nothing to itself."""
    decoder, choices = decoder_and_choices()
    other, _ = decoder_and_choices(is_random=False)
    log_prob_L, other_L = every_log_prob(decoder, choices), every_log_prob(other, choices)
    exact = float((log_prob_L.exp() * (log_prob_L - other_L)).sum().detach())
    repeated = Choices(*(part.expand(120, *part.shape[1:]) for part in choices))
    apart_L = divergence(decoder, other, repeated, all_slates(), EXAMINATION).sum(dim=1)
    assert exact > 0.1
    assert float((log_prob_L.exp() * apart_L).sum().detach()) == pytest.approx(exact, rel=1e-4)
    same_LK = divergence(decoder, decoder, repeated, all_slates(), EXAMINATION)
    torch.testing.assert_close(same_LK, torch.zeros_like(same_LK))


def test_greedy_slates_hear_what_the_slate_already_holds() -> None:
    """An urge of minus 10 times the mass: by hand, the second position leaves the first one's attribute."""
    decoder = SlateDecoder(attributes=2, facets=1, width=1, sharpness=1.0)
    facets, own = 1, decoder.own_ZE.shape[1]
    with torch.no_grad():
        decoder.urge[0].weight.zero_()
        decoder.urge[0].bias.zero_()
        decoder.urge[0].weight[0, facets + own] = 0.01  # mass; tanh is a line there
        decoder.urge[2].weight.fill_(-1000.0)
    expected_BC, attribute_BCZ = torch.tensor([[0.9, 0.8, 0.5]]), torch.tensor([[[1.0, 0], [1.0, 0], [0, 1.0]]])
    choices = Choices(torch.zeros(1, 2, 1), torch.tensor([[4, 5, 6]]), expected_BC, expected_BC, attribute_BCZ)
    place_BK, _ = decode(decoder, choices, torch.ones(2), None)
    assert place_BK.tolist() == [[0, 2]]
    unseen_BK, _ = decode(decoder, choices, torch.zeros(2), None)  # nobody looks: no mass, no urge
    assert unseen_BK.tolist() == [[0, 1]]


def test_gradient_of_log_probabilities_has_mean_zero() -> None:
    decoder, choices = decoder_and_choices()
    log_prob_L = every_log_prob(decoder, choices)
    (log_prob_L.exp().detach() * log_prob_L).sum().backward()
    for name, parameter in decoder.named_parameters():
        if "value" not in name:
            assert float(parameter.grad.abs().max()) < 1e-5, name


def test_candidates_are_the_best_of_every_main_attribute() -> None:
    attribute_NZ = torch.zeros(FIRST_ITEM + 7, 3)
    attribute_NZ[FIRST_ITEM:] = torch.eye(3)[[0, 0, 0, 1, 1, 1, 2]]
    retrieval = Retrieval.of(attribute_NZ, slate_size=2, most=5)
    expected_BN = torch.zeros(1, FIRST_ITEM + 7)
    expected_BN[0, FIRST_ITEM:] = torch.tensor([0.1, 0.9, 0.5, 0.3, 0.2, 0.4, 0.0])
    found = retrieval.candidates(expected_BN)[0] - FIRST_ITEM
    assert sorted(found.tolist()) == [1, 2, 3, 5, 6]
    assert Retrieval.of(attribute_NZ, slate_size=2, most=7).candidates(expected_BN).shape == (1, 7)
