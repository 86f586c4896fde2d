import pytest
import torch

from recolam.policy.gradient import discounted_returns, generalised_advantages

REWARD = torch.tensor([[1.0, 2.0, 4.0]])
VALUE = torch.tensor([[0.5, 1.0, 3.0]])
ALL = torch.ones(1, 3, dtype=torch.bool)
AFTER = torch.tensor([8.0])
CUT, LEFT = torch.tensor([True]), torch.tensor([False])


def test_by_hand_cut_and_left() -> None:
    # delta = 1 + .5*1 - .5 = 1; 2 + .5*3 - 1 = 2.5; 4 + .5*8 - 3 = 5 where cut, 4 - 3 = 1 where the user left
    cut = generalised_advantages(REWARD, VALUE, ALL, gamma=0.5, trace=0.5, after_B=AFTER, is_truncated_B=CUT)
    assert cut.tolist() == [[1 + 0.25 * (2.5 + 0.25 * 5), 2.5 + 0.25 * 5, 5.0]]
    left = generalised_advantages(REWARD, VALUE, ALL, gamma=0.5, trace=0.5, after_B=AFTER, is_truncated_B=LEFT)
    assert left.tolist() == [[1 + 0.25 * (2.5 + 0.25), 2.5 + 0.25, 1.0]]


@pytest.mark.parametrize("is_cut", [CUT, LEFT])
def test_trace_one_is_the_return_minus_the_value_and_trace_zero_the_surprise(is_cut: torch.Tensor) -> None:
    options = {"gamma": 0.9, "after_B": AFTER, "is_truncated_B": is_cut}
    whole = generalised_advantages(REWARD, VALUE, ALL, trace=1.0, **options)
    returns = discounted_returns(REWARD, gamma=0.9, after_B=AFTER * is_cut)
    torch.testing.assert_close(whole, returns - VALUE)
    following = torch.cat([VALUE[:, 1:], (AFTER * is_cut)[:, None]], dim=1)
    short = generalised_advantages(REWARD, VALUE, ALL, trace=0.0, **options)
    torch.testing.assert_close(short, REWARD + 0.9 * following - VALUE)


def test_a_session_that_ended_early_is_judged_by_its_own_steps() -> None:
    active = torch.tensor([[True, True, False]])
    reward, value = torch.tensor([[1.0, 2.0, 99.0]]), torch.tensor([[0.5, 1.0, 77.0]])
    options = {"gamma": 0.9, "trace": 0.7, "after_B": AFTER}
    for is_cut in (CUT, LEFT):
        long = generalised_advantages(reward, value, active, is_truncated_B=is_cut, **options)
        short = generalised_advantages(reward[:, :2], value[:, :2], active[:, :2], is_truncated_B=is_cut, **options)
        assert long[0, 2] == 0
        torch.testing.assert_close(long[:, :2], short)


def test_numbers_outside_the_unit_interval_are_refused() -> None:
    with pytest.raises(ValueError, match=r"trace 1\.5"):
        generalised_advantages(REWARD, VALUE, ALL, gamma=1.0, trace=1.5, after_B=AFTER, is_truncated_B=CUT)


@pytest.mark.parametrize("trace", [0.0, 0.5, 0.95])
def test_with_the_policy_s_own_values_every_trace_is_unbiased(trace: float) -> None:
    """Two steps, two actions each, all four paths enumerated: expected gradients equal the exact one.

    Step 0 pays a0; step 1, whose chance of action 1 is a's, pays 2 a1 if a0 = 1 and a1 otherwise.
    """
    logit = torch.tensor([0.3, -0.4, 0.8], dtype=torch.float64, requires_grad=True)  # start, after 0, after 1
    chance = torch.sigmoid(logit)
    after_worth = torch.stack([chance[1], 2 * chance[2]])
    exact_value = chance[0] * (1 + 0.9 * after_worth[1]) + (1 - chance[0]) * 0.9 * after_worth[0]
    (exact,) = torch.autograd.grad(exact_value, logit, retain_graph=True)

    def expected(value_0: torch.Tensor, trace: float) -> torch.Tensor:
        loss = torch.zeros((), dtype=torch.float64)
        for first in (0, 1):
            for second in (0, 1):
                p_first = chance[0] if first else 1 - chance[0]
                p_second = chance[1 + first] if second else 1 - chance[1 + first]
                reward = torch.tensor([[float(first), second * (1.0 + first)]], dtype=torch.float64)
                value = torch.stack([value_0, after_worth[first]]).detach()[None]
                advantage = generalised_advantages(
                    reward, value, torch.ones(1, 2, dtype=torch.bool), gamma=0.9, trace=trace,
                    after_B=torch.zeros(1, dtype=torch.float64), is_truncated_B=LEFT,
                )  # fmt: skip
                path = (p_first * p_second).detach()
                discount = torch.tensor([1.0, 0.9])  # of the visited step, for the gradient of the discounted return
                loss = loss + path * (advantage[0] * discount * torch.stack([p_first, p_second]).log()).sum()
        return torch.autograd.grad(loss, logit, retain_graph=True)[0]

    torch.testing.assert_close(expected(exact_value, trace), exact)
    torch.testing.assert_close(expected(exact_value + 5.0, 1.0), exact)  # trace 1: unbiased for any value
