"""Shifts, new items and seasons, in every world that ships: exact, and nothing when off."""

import math
from collections.abc import Callable

import pytest
import torch

from recolam.contracts.dataset import FIRST_ITEM
from recolam.sequence.model import SequenceConfig, SequenceModel
from recolam.world.boredom import BoredomConfig, BoredomUsers, draw_items
from recolam.world.choc_kale import ChocKaleConfig, ChocKaleUsers, draw_choc
from recolam.world.drift import DriftConfig, Drifting
from recolam.world.ecosystem import EcosystemConfig, EcosystemUsers, draw_offer
from recolam.world.environment import SimulatedUsers
from recolam.world.fitted import Bank, FittedUsers
from recolam.world.response import ResponseModel
from recolam.world.runtime import Value
from recolam.world.story import UserModel, sample_choice
from tests.world.worlds import small_users

ITEMS, SLATE = 20, 3


def boredom() -> UserModel:
    config = BoredomConfig(slate_size=SLATE, topics=5, slope=4.0, offset=0.3, omega=0.9, threshold=2, boredom="topic")
    return BoredomUsers(config, draw_items(ITEMS, topics=5, seed=0))


def ecosystem() -> UserModel:
    mean_PZ = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    return EcosystemUsers(EcosystemConfig(slate_size=SLATE, cost=0.2), draw_offer(ITEMS, mean_PZ, spread=0.3, seed=0))


def fitted(*, members: int = 1) -> FittedUsers:
    generator, tokens = torch.Generator().manual_seed(0), FIRST_ITEM + ITEMS
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = SequenceModel(SequenceConfig(tokens=tokens, max_len=8, width=8, blocks=1, heads=1))
    response = ResponseModel(
        item_ND=torch.randn(tokens, 8, generator=generator), popularity_N=torch.ones(tokens), slate_size=SLATE,
        members=members,
    )  # fmt: skip
    with torch.no_grad():
        response.match_EDD.mul_(0.3)
        response.reward_item_ED.normal_(generator=generator)
        response.leaving_step_EJ.fill_(-4.0)
    history_PT = torch.randint(FIRST_ITEM, tokens, (30, 8), generator=generator)
    length_P = torch.randint(1, 6, (30,), generator=generator)
    history_PT = history_PT.masked_fill(torch.arange(8) >= length_P[:, None], 0)
    return FittedUsers(encoder, response, Bank(history_PT, length_P), slate_size=SLATE)


WORLDS: dict[str, Callable[[], UserModel]] = {
    "interest evolution": lambda: small_users(items=ITEMS, budget=8.0),
    "choc and kale": lambda: ChocKaleUsers(ChocKaleConfig(slate_size=SLATE, sensitivity=0.3), draw_choc(ITEMS, seed=0)),
    "boredom": boredom,
    "ecosystem": ecosystem,
    "fitted": fitted,
}
every_world = pytest.mark.parametrize("name", WORLDS)


def random_slates(steps: int, users: int, *, seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(users, ITEMS, generator=generator).topk(SLATE).indices + FIRST_ITEM for _ in range(steps)]


def session(users: UserModel, slates: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """All that happens, step by step: the fields of the state before each slate and of the answer to it."""
    environment = SimulatedUsers(users, horizon=len(slates))
    environment.reset(users=len(slates[0]), seed=3)
    record = []
    for slate_BK in slates:
        before = {f"before.{name}": field.clone() for name, field in environment.state.as_dict.items()}
        result = environment.step(slate_BK)
        after = {f"after.{name}": field.clone() for name, field in environment.state.as_dict.items()}
        answer = {"clicked": result.is_clicked_BK, "reward": result.reward_B, "left": result.terminated_B}
        record.append({**before, **after, **answer})
    return record


def assert_same_but_for_history(wrapped: dict[str, torch.Tensor], inner: dict[str, torch.Tensor]) -> None:
    for name, field in inner.items():
        beside = name.replace(".history", ".role_history")
        assert torch.equal(wrapped[beside], field), name


@every_world
def test_with_nothing_switched_on_sessions_are_those_of_the_inner_world(name: str) -> None:
    slates = random_slates(6, 40, seed=0)
    wrapped = session(Drifting(WORLDS[name](), DriftConfig()), slates)
    for ours, inner in zip(wrapped, session(WORLDS[name](), slates), strict=True):
        assert_same_but_for_history(ours, inner)
        assert torch.equal(ours["after.history"], inner["after.history"])


@pytest.mark.parametrize(
    "config",
    [DriftConfig(shift_at=3), DriftConfig(period=4), DriftConfig(shift_at=2, period=3, seed=1)],
    ids=["shift", "season", "both"],
)
@every_world
def test_sessions_are_those_of_the_inner_world_shown_the_roles(name: str, config: DriftConfig) -> None:
    """Roles looked up here item by item. What is shown stays in the history; the change is one that matters."""
    slates = random_slates(8, 40, seed=1)
    drifting = Drifting(WORLDS[name](), config)

    def role(token: int, step: int) -> int:
        if config.period and step % config.period >= config.period // 2:
            token = int(drifting.swap_N[token])
        return int(drifting.shift_N[token]) if config.shift_at is not None and step >= config.shift_at else token

    roles = [
        torch.tensor([[role(token, step) for token in row] for row in s.tolist()]) for step, s in enumerate(slates)
    ]
    wrapped, inner = session(drifting, slates), session(WORLDS[name](), roles)
    unchanged = session(WORLDS[name](), slates)
    for step, (ours, theirs) in enumerate(zip(wrapped, inner, strict=True)):
        assert_same_but_for_history(ours, theirs)
        for user in range(40):
            length = int(ours["before.length"][user])
            expected = ours["before.history"][user, :length].tolist()
            expected += slates[step][user][ours["clicked"][user]].tolist()
            capacity, length = ours["after.history"].shape[1], int(ours["after.length"][user])
            assert ours["after.history"][user, :length].tolist() == expected[-capacity:]
            assert not ours["after.history"][user, length:].any()
    first = config.shift_at if config.period is None else 1
    assert all(torch.equal(wrapped[step]["reward"], unchanged[step]["reward"]) for step in range(first or 0))
    assert any(not torch.equal(ours["reward"], same["reward"]) for ours, same in zip(wrapped, unchanged, strict=True))


@every_world
def test_a_shift_from_the_start_renames_the_start_histories(name: str) -> None:
    drifting, inner = Drifting(WORLDS[name](), DriftConfig(shift_at=0)), WORLDS[name]()
    ours = drifting.initial_state(torch.Generator().manual_seed(5), 50)
    theirs = inner.initial_state(torch.Generator().manual_seed(5), 50)
    assert torch.equal(drifting.shift_N[ours["history"]], theirs["history"])
    assert torch.equal(ours["role_history"], theirs["history"])
    if name in ("boredom", "fitted"):  # the worlds here whose users bring histories
        assert not torch.equal(ours["history"], theirs["history"])


@every_world
def test_new_items_get_clicks_from_their_step_on_and_none_before(name: str) -> None:
    drifting = Drifting(WORLDS[name](), DriftConfig(new_at=4, new_share=0.4, shift_at=2, period=3))
    assert int(drifting.is_new_N.sum()) == 8
    slates = random_slates(8, 200, seed=2)
    clicks = [
        int((step["clicked"] & drifting.is_new_N[slate_BK]).sum())
        for step, slate_BK in zip(session(drifting, slates), slates, strict=True)
    ]
    assert clicks[:4] == [0] * 4
    assert all(count > 0 for count in clicks[4:])


@every_world
def test_the_others_are_chosen_as_if_the_new_item_could_not_be(name: str) -> None:
    """Given that the new item is not chosen, a logit's choices are those without it (Luce 1959), and so are clicks that
    are independent of each other: the inner world itself says what to expect."""
    inner, count = WORLDS[name](), 30_000
    drifting = Drifting(inner, DriftConfig(new_at=1, new_share=0.3))
    start = drifting.initial_state(torch.Generator().manual_seed(6), 3)
    state = Value(**{field: value[:1].expand(count, *value.shape[1:]) for field, value in start.items()})
    new, old = drifting.is_new_N.nonzero()[0, 0], (~drifting.is_new_N).nonzero()[FIRST_ITEM:, 0]
    slate_BK = torch.stack([old[0], new, old[1]]).expand(count, -1)
    plain = Value(**{field: value for field, value in state.as_dict.items() if field != "role_history"})

    def clicks(answer: dict[str, torch.Tensor]) -> torch.Tensor:
        if "is_clicked" in answer:
            return answer["is_clicked"]
        return answer["choice"][:, None] == torch.arange(SLATE)

    free_BK = clicks(dict(inner.respond(plain, slate_BK, torch.Generator().manual_seed(7))))
    ours_BK = clicks(dict(drifting.respond(state, slate_BK, torch.Generator().manual_seed(8))))
    kept_BK = free_BK[~free_BK[:, 1]]
    assert len(kept_BK) < count
    assert not ours_BK[:, 1].any()
    for place in (0, 2):
        share, observed = float(kept_BK[:, place].float().mean()), float(ours_BK[:, place].float().mean())
        error = math.sqrt(share * (1 - share) * (1 / len(kept_BK) + 1 / count))
        assert abs(observed - share) < 4 * error


@every_world
def test_greedy_slates_are_the_inner_world_s_of_what_can_be_chosen(name: str) -> None:
    inner = WORLDS[name]()
    drifting = Drifting(inner, DriftConfig(shift_at=2, new_at=3, new_share=0.5))
    environment = SimulatedUsers(drifting, horizon=5)
    environment.reset(users=30, seed=0)
    best = []
    for step in range(5):
        slate_BK = drifting.greedy_slate(environment.state)
        fields = environment.state.as_dict
        state = Value(**{**{f: v for f, v in fields.items() if f != "role_history"}, "history": fields["role_history"]})
        if step < 3:
            assert not drifting.is_new_N[slate_BK].any()
        else:
            assert torch.equal(drifting.shift_N[slate_BK], inner.greedy_slate(state))
        best.append(slate_BK)
        environment.step(slate_BK)
    assert any(drifting.is_new_N[slate_BK].any() for slate_BK in best[3:])


def test_with_nothing_to_choose_from_choc_and_kale_users_choose_nothing() -> None:
    inner = ChocKaleUsers(ChocKaleConfig(), draw_choc(ITEMS, seed=0))
    drifting = Drifting(inner, DriftConfig(new_at=1))
    environment = SimulatedUsers(drifting, horizon=5)
    environment.reset(users=10, seed=0)
    new = int(drifting.is_new_N.nonzero()[0, 0])
    exposure_B = environment.state.get("exposure")
    result = environment.step(torch.full((10, 1), new))
    assert (result.choice_B == -1).all()
    assert not result.reward_B.any()
    assert torch.equal(environment.state.get("exposure"), exposure_B)
    assert (environment.step(torch.full((10, 1), new)).choice_B == 0).all()


def test_roles_are_periodic_move_what_they_should_and_go_by_each_session_s_own_step() -> None:
    drifting = Drifting(small_users(items=21), DriftConfig(shift_at=10, period=5))
    token_BN = torch.arange(drifting.tokens).expand(30, -1)
    step_B = torch.arange(30)
    role_BN = drifting.roles(token_BN, step_B)
    assert torch.equal(drifting.shown(role_BN, step_B), token_BN)
    assert torch.equal(role_BN[:5], role_BN[5:10])
    assert torch.equal(role_BN[10:15], role_BN[25:30])
    moved_BN = role_BN != token_BN
    assert moved_BN[:10].sum(dim=1).tolist() == [0, 0, 10, 10, 10] * 2  # ten of 21 items swap, from the third step on
    assert moved_BN[10, FIRST_ITEM:].all()
    assert not moved_BN[:, :FIRST_ITEM].any()
    assert torch.equal(drifting.swap_N[drifting.swap_N], torch.arange(drifting.tokens))


def test_a_session_that_starts_anew_starts_before_the_shift() -> None:
    drifting = Drifting(small_users(budget=100.0), DriftConfig(shift_at=2, new_at=2))
    environment = SimulatedUsers(drifting, horizon=9)
    environment.reset(users=4, seed=0)
    for slate_BK in random_slates(3, 4, seed=4):
        environment.step(slate_BK)
    environment.reset_rows(torch.tensor([True, False, True, False]))
    token_BN = torch.arange(drifting.tokens).expand(4, -1)
    is_moved_B = (drifting.roles(token_BN, environment.state.get("step")) != token_BN).any(dim=1)
    assert is_moved_B.tolist() == [False, True, False, True]
    available_BN = drifting.is_available(token_BN, environment.state.get("step"))
    assert available_BN is not None
    assert available_BN.all(dim=1).tolist() == [False, True, False, True]
    assert len(environment.replicate(3).history_BT) == 12


def test_seeds_decide_what_changes() -> None:
    first, again, other = (Drifting(small_users(), DriftConfig(seed=seed)) for seed in (0, 0, 1))
    for name in ("shift_N", "swap_N", "is_new_N"):
        assert torch.equal(getattr(first, name), getattr(again, name))
        assert not torch.equal(getattr(first, name), getattr(other, name))


def test_a_logit_over_available_items_is_written_out_and_never_draws_the_others() -> None:
    count, utilities = 80_000, [0.5, 3.0, -0.2]
    mask_BK = torch.tensor([[True, False, True]]).expand(count, -1)
    choice_B = sample_choice(
        torch.tensor([utilities]).expand(count, -1), torch.full((count,), 0.1),
        torch.Generator().manual_seed(0), is_available_BK=mask_BK,
    )  # fmt: skip
    total = math.exp(0.1) + math.exp(0.5) + math.exp(-0.2)
    for choice, weight in ((-1, math.exp(0.1)), (0, math.exp(0.5)), (2, math.exp(-0.2))):
        share = weight / total
        assert abs(float((choice_B == choice).float().mean()) - share) < 4 * math.sqrt(share * (1 - share) / count)
    assert not (choice_B == 1).any()
    nothing_B = sample_choice(
        torch.zeros(50, 3), torch.full((50,), -torch.inf), torch.Generator(),
        is_available_BK=torch.zeros(50, 3, dtype=torch.bool),
    )  # fmt: skip
    assert (nothing_B == -1).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shift_at": -1}, "shift_at is -1"),
        ({"new_at": -2}, "new_at is -2"),
        ({"new_share": 1.0}, "new_share is 1.0"),
        ({"period": 1}, "period is 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DriftConfig(**settings)  # type: ignore[arg-type]


def test_worlds_that_cannot_drift_are_refused() -> None:
    with pytest.raises(ValueError, match="3 items cannot change places"):
        Drifting(small_users(items=3), DriftConfig())
    with pytest.raises(ValueError, match="one drift at a time"):
        Drifting(Drifting(small_users(), DriftConfig()), DriftConfig())
