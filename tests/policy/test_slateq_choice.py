"""SlateQ under a conditional choice, in a world of 2 states, 4 items and slates of 2 that can be enumerated.

Shape legend: S states, I items, M what is picked (items, then nothing), A the 6 slates, R transitions.
"""

import itertools

import pytest
import torch
from torch import Tensor

from recolam.contracts.dataset import FIRST_ITEM
from recolam.contracts.protocols import Sight
from recolam.policy import rivals
from recolam.policy.choice_model import ChoiceModel
from recolam.policy.random_log import Budget
from recolam.policy.response import Answers, ResponseModel
from recolam.policy.slateq_agent import SlateQAgent, SlateQConfig, Transitions
from recolam.policy.slateq_choice import ChoiceSlateQAgent
from recolam.world.sight import Sighted
from tests.policy.sighted import bored_world, choc_world

GAMMA, STATES, ITEMS = 0.8, 2, 4
SLATES = list(itertools.combinations(range(ITEMS), 2))
WEIGHT_SI = torch.tensor([[2.0, 1.0, 0.5, 3.0], [0.2, 1.0, 2.0, 1.0]])  # of nothing: 1
REWARD_SM = torch.tensor([[1.0, 0.2, 0.0, 1.5, 0.0], [0.5, 2.0, 0.3, 3.0, 0.0]])
NEXT_SM = torch.tensor([[0, 1, 1, 0, 0], [1, 0, 1, 1, 0]])
IS_LEAVING_SM = torch.tensor([[False, False, False, True, False], [False, False, False, True, False]])


def agent_of(kind: type[SlateQAgent], weight_SI: Tensor, **settings: float) -> SlateQAgent:
    """Its click model knows the weights; states are one-hot, and so are items."""
    torch.manual_seed(0)
    states, items = weight_SI.shape
    feature_NG = torch.cat([torch.zeros(FIRST_ITEM, items), torch.eye(items)])
    model = ChoiceModel if kind is ChoiceSlateQAgent else ResponseModel
    response = model(feature_NG, torch.zeros(len(feature_NG), 1), user_size=states, slate_size=2)
    with torch.no_grad():
        response.log_scale.zero_()
        response.affinity.zero_()
        response.affinity[:states, :items] = weight_SI.log()
        response.seen_K.fill_(20.0)  # all positions are looked at
    config = SlateQConfig(**{"gamma": GAMMA, **settings})  # type: ignore[arg-type]
    return kind(response, feature_NG, config, state_size=states + 1, slate_size=2)


def state_rows(states: int) -> Tensor:
    return torch.cat([torch.eye(states), torch.zeros(states, 1)], dim=1)


def all_transitions() -> Transitions:
    """Each state, slate and answer once: the values of what was picked do not depend on how often it is."""
    found = [(s, slate, place) for s in range(STATES) for slate in SLATES for place in range(3)]
    state_R = torch.tensor([s for s, _, _ in found])
    picked_R = torch.tensor([[*slate, ITEMS][place] for _, slate, place in found])
    slate_RK = torch.tensor([slate for _, slate, _ in found]) + FIRST_ITEM
    is_clicked_RK = torch.tensor([[place == 0, place == 1] for _, _, place in found])
    next_R = NEXT_SM[state_R, picked_R]
    answers = Answers(torch.eye(STATES)[state_R], slate_RK, is_clicked_RK, REWARD_SM[state_R, picked_R])
    rows = state_rows(STATES)
    return Transitions(
        answers, rows[state_R], rows[next_R], torch.eye(STATES)[next_R], IS_LEAVING_SM[state_R, picked_R]
    )


def exact_values() -> Tensor:
    """Q*(s, A) of whole slates by value iteration, with no decomposition, float [S, A]."""
    value_SA = torch.zeros(STATES, len(SLATES))
    for _ in range(200):
        worth_SM = REWARD_SM + GAMMA * value_SA.amax(dim=1)[NEXT_SM] * ~IS_LEAVING_SM
        for s, (a, slate) in itertools.product(range(STATES), enumerate(SLATES)):
            weight_K = WEIGHT_SI[s, list(slate)]
            picked = (weight_K * worth_SM[s, list(slate)]).sum() + worth_SM[s, ITEMS]
            value_SA[s, a] = picked / (1.0 + weight_K.sum())
    return value_SA


@pytest.mark.parametrize(("kind", "is_right"), [(ChoiceSlateQAgent, True), (SlateQAgent, False)])
def test_learnt_values_of_slates_are_the_exact_ones(kind: type[SlateQAgent], is_right: bool) -> None:
    """The planted fault takes the clicks of a slate to be independent: its best slate is worth something else."""
    agent = agent_of(kind, WEIGHT_SI, learning_rate=5e-3, gradient_steps=1200, batch=36, target_every=30)
    agent.learn(all_transitions(), torch.Generator().manual_seed(0))
    exact_SA = exact_values()
    best_S = agent.state_value(state_rows(STATES), torch.eye(STATES))
    assert (float((best_S - exact_SA.amax(dim=1)).abs().max()) < 0.05) == is_right
    if is_right:
        assert float((values_of_slates(agent, WEIGHT_SI) - exact_SA).abs().max()) < 0.05


@torch.no_grad()
def values_of_slates(agent: SlateQAgent, weight_SI: Tensor, *, nothing: float = 1.0) -> Tensor:
    """Q(s, A) of the learnt item values, by the choice written out, where nothing has this weight, float [S, A]."""
    states, items = weight_SI.shape
    value_SI, nothing_S = agent._values(
        agent.values, state_rows(states), (torch.arange(items) + FIRST_ITEM).expand(states, -1)
    )
    slates = itertools.combinations(range(items), 2)
    columns = [
        ((weight_SI[:, [i, j]] * value_SI[:, [i, j]]).sum(dim=1) + nothing * nothing_S)
        / (nothing + weight_SI[:, [i, j]].sum(dim=1))
        for i, j in slates
    ]
    return torch.stack(columns, dim=1)


@pytest.mark.parametrize("is_nothing_seen", [True, False])
def test_the_slate_shown_is_the_best_of_all(is_nothing_seen: bool) -> None:
    """60 users with weights of their own; the labels of independent clicks find another slate for some.

    Where nothing was never picked, it has no weight.
    """
    users, items = 60, 7
    weight_SI = torch.randn(users, items, generator=torch.Generator().manual_seed(4)).mul(1.5).exp()
    agent = agent_of(ChoiceSlateQAgent, weight_SI)
    with torch.no_grad():
        agent.values.gain.weight.normal_(std=3.0, generator=torch.Generator().manual_seed(5))
    agent.target.load_state_dict(agent.values.state_dict())
    agent.is_nothing_seen = is_nothing_seen  # type: ignore[assignment]
    value_SA, slates = (
        values_of_slates(agent, weight_SI, nothing=float(is_nothing_seen)),
        list(itertools.combinations(range(items), 2)),
    )
    best = [set(slates[a]) for a in value_SA.argmax(dim=1).tolist()]
    sight = Sight(
        torch.zeros(users, 1, dtype=torch.int64), torch.zeros(users, dtype=torch.int64),
        user_BF=torch.eye(users), facet_BZX=torch.zeros(users, 1, 1),
    )  # fmt: skip
    shown_BK = agent.slates(sight, k=2, generator=None) - FIRST_ITEM
    assert [set(row) for row in shown_BK.tolist()] == best
    assert [set(row) for row in (agent.scores(sight).topk(2, dim=1).indices - FIRST_ITEM).tolist()] == best
    found_B = agent.state_value(state_rows(users), torch.eye(users))
    torch.testing.assert_close(found_B, value_SA.amax(dim=1), rtol=1e-4, atol=1e-5)
    independent = agent_of(SlateQAgent, weight_SI)
    candidate_BC, label_BC, _ = independent._labels(agent.values, state_rows(users), torch.eye(users))
    other_BK = candidate_BC.gather(1, label_BC.topk(2, dim=1).indices) - FIRST_ITEM
    assert [set(row) for row in other_BK.tolist()] != best


def test_who_left_has_no_future_and_who_was_cut_has() -> None:
    agent, whole = agent_of(ChoiceSlateQAgent, WEIGHT_SI), all_transitions()
    one = whole.rows(torch.tensor([0]))  # state 0, slate (0, 1), the first picked: reward 1, and state 0 again
    with torch.no_grad():
        value = float(agent._values(agent.values, one.state_SP, one.answers.slate_SK)[0][0, 0])
        following = GAMMA * float(agent.state_value(one.next_SP, one.next_user_SF))
        left = Transitions(one.answers, one.state_SP, one.next_SP, one.next_user_SF, torch.tensor([True]))
        assert float(agent.loss(one)) == pytest.approx((value - 1.0 - following) ** 2, rel=1e-4)
        assert float(agent.loss(left)) == pytest.approx((value - 1.0) ** 2, rel=1e-4)


@pytest.mark.parametrize(
    ("world", "kinds"),
    [(choc_world(horizon=10), [ChoiceSlateQAgent]), (bored_world(), [ChoiceSlateQAgent, SlateQAgent])],
    ids=["one pick", "several"],
)
def test_what_users_answer_decides_on_the_form(
    world: Sighted, kinds: list[type], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, make = list[type](), rivals._new_slateq

    def noted(*args: object, **options: object) -> SlateQAgent:
        agent = make(*args, **options)  # type: ignore[arg-type]
        made.append(type(agent))
        return agent

    monkeypatch.setattr(rivals, "_new_slateq", noted)
    rivals.slateq(world, Budget(steps=400, users=20), SlateQConfig(gradient_steps=2), seed=0)
    assert made == kinds
