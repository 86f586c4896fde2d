"""Off-policy evaluation of a real agent on slates drawn from a real Plackett-Luce policy whose world is known."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
from torch import Tensor

from recolam.contracts.dataset import (
    FIRST_ITEM,
    PADDING,
    TEST,
    TRAIN,
    UNKNOWN,
    VALIDATION,
    LoggedSlates,
    TokenisedDataset,
)
from recolam.contracts.protocols import Observation
from recolam.errors import DataError
from recolam.evaluate.off_policy import OffPolicyResult, choose_slates, evaluate_off_policy
from recolam.evaluate.seen import observe
from recolam.policy.agent import SlateAgent
from recolam.policy.distribution import SlateDistribution
from recolam.sequence.model import SequenceConfig, SequenceModel

ITEMS, USERS, WIDTH, MAX_LEN = 6, 40, 2, 4
ITEM_REWARD = torch.tensor([0.0, 0.0, 0.0, 0.9, 0.1, 0.5, 0.3, 0.7, 0.2])  # by token id


def an_agent(*, seed: int, temperature: float = 1.0) -> SlateAgent:
    torch.manual_seed(seed)
    model = SequenceModel(SequenceConfig(tokens=FIRST_ITEM + ITEMS, max_len=MAX_LEN, width=8, blocks=1, heads=1))
    with torch.no_grad():
        model.item_vectors.weight.mul_(20)  # preferences strong enough to tell two agents apart
    return SlateAgent(model.eval(), temperature, tuple("abcdef"), {})


class TrueRewards:
    """Users who reward a slate by its items, the first position most: both the world and a perfect model of it."""

    def expected_reward(self, history_BT: Tensor, length_B: Tensor, slate_BK: Tensor) -> Tensor:
        weight_K = torch.tensor([0.6, 0.4])[: slate_BK.shape[1]]
        return (ITEM_REWARD[slate_BK] * weight_K).sum(dim=1)


class WrongRewards:
    def expected_reward(self, history_BT: Tensor, length_B: Tensor, slate_BK: Tensor) -> Tensor:
        return 1.0 - ITEM_REWARD[slate_BK[:, 0]]


def dataset_without_slates() -> TokenisedDataset:
    generator = np.random.default_rng(0)
    item_E = np.concatenate([FIRST_ITEM + generator.permutation(ITEMS)[:2] for _ in range(USERS)]).astype(np.int32)
    return TokenisedDataset(
        event_item_E=item_E,
        event_time_E=np.arange(len(item_E)),
        event_value_E=np.ones(len(item_E), dtype=np.float32),
        event_split_E=np.full(len(item_E), TRAIN, dtype=np.int32),
        user_offset_U1=np.arange(0, 2 * USERS + 1, 2),
        validation_event_Q=np.empty(0, dtype=np.int64),
        test_event_Q=np.empty(0, dtype=np.int64),
        item_count_V=np.bincount(item_E, minlength=FIRST_ITEM + ITEMS),
        item_text_VF=np.zeros((FIRST_ITEM + ITEMS, 0), dtype=np.float32),
        items=tuple("abcdef"),
        titles=tuple("abcdef"),
        users=tuple(map(str, range(USERS))),
        info={},
    )


def logged(agent: SlateAgent, *, slates: int, seed: int = 0, split: int = TEST) -> TokenisedDataset:
    """Slates that `agent` sampled for the users' histories, with its own probabilities and rewards of 0 or 1."""
    dataset = dataset_without_slates()
    generator = torch.Generator().manual_seed(seed)
    user_S = np.arange(slates) % USERS
    end_S = dataset.user_offset_U1[user_S + 1]
    seen = observe(dataset, end_S, max_len=MAX_LEN, user_B=user_S)
    slate_SK = agent.slates(seen, k=WIDTH, generator=generator)
    chance_S = TrueRewards().expected_reward(seen.history_BT, seen.length_B, slate_SK)
    zeros = np.zeros(slates, dtype=np.int32)
    table = LoggedSlates(
        slate_SK=slate_SK.numpy().astype(np.int32),
        log_propensity_S=agent.slate_log_prob(seen, slate_SK).numpy(),
        choice_S=zeros,
        reward_S=(torch.rand(slates, generator=generator) < chance_S).float().numpy(),
        user_S=user_S,
        history_end_S=end_S,
        session_S=np.arange(slates),
        step_S=zeros,
        left_S=zeros,
        split_S=np.full(slates, split, dtype=np.int32),
    )
    return replace(dataset, slates=table)


def true_value(agent: SlateAgent) -> float:
    """By enumeration of every slate for every user."""
    dataset, total = dataset_without_slates(), 0.0
    user_B = np.arange(USERS)
    seen = observe(dataset, dataset.user_offset_U1[user_B + 1], max_len=MAX_LEN, user_B=user_B)
    for slate in permutations(range(FIRST_ITEM, FIRST_ITEM + ITEMS), WIDTH):
        slate_BK = torch.tensor(slate).repeat(USERS, 1)
        chance_B = agent.slate_log_prob(seen, slate_BK).exp()
        total += float((chance_B * TrueRewards().expected_reward(seen.history_BT, seen.length_B, slate_BK)).mean())
    return total


def evaluate(dataset: TokenisedDataset, agent: SlateAgent, model: object | None = None, **more: int) -> OffPolicyResult:
    settings = {"max_len": MAX_LEN, "samples": 4, "resamples": 200, **more}
    return evaluate_off_policy(dataset, agent, model or TrueRewards(), **settings)  # type: ignore[arg-type]


LOGGER, TARGET = an_agent(seed=1, temperature=3.0), an_agent(seed=8, temperature=2.0)


def test_estimates_find_the_enumerated_truth() -> None:
    truth = true_value(TARGET)
    result = evaluate(logged(LOGGER, slates=5000), TARGET)
    assert abs(true_value(LOGGER) - truth) > 0.02, "two policies of one value would prove nothing"
    assert result.split == "test"
    assert result.mean_weight == pytest.approx(1.0, abs=0.1)
    for name, tolerance in (("ips", 0.05), ("snips", 0.05), ("dm", 0.02), ("dr", 0.03)):
        assert result.estimates[name].value == pytest.approx(truth, abs=tolerance)
        assert result.estimates[name].ci95[0] - 0.01 < truth < result.estimates[name].ci95[1] + 0.01
    assert 100 < result.estimates["ips"].ess < 5000


def test_a_wrong_model_misleads_dm_alone() -> None:
    truth = true_value(TARGET)
    estimates = evaluate(logged(LOGGER, slates=5000), TARGET, WrongRewards()).estimates
    assert estimates["dr"].value == pytest.approx(truth, abs=0.06)
    assert abs(estimates["dm"].value - truth) > 0.1


def test_the_logging_policy_itself_has_weights_of_one() -> None:
    dataset = logged(LOGGER, slates=400)
    result = evaluate(dataset, LOGGER)
    assert dataset.slates is not None
    assert result.estimates["ips"].value == pytest.approx(float(dataset.slates.reward_S.mean()), rel=1e-5)
    assert result.estimates["ips"].ess == pytest.approx(400, rel=1e-5)
    assert result.estimates["ips"].max_weight == pytest.approx(1.0, rel=1e-5)


def test_the_logging_policy_gains_nothing_over_itself() -> None:
    results = [evaluate(logged(LOGGER, slates=200, seed=seed), LOGGER, seed=100 + seed) for seed in range(12)]
    gains = np.array([result.gain.mean for result in results if result.gain is not None])
    assert len(gains) == 12
    assert abs(gains.mean()) < 3 * gains.std(ddof=1) / np.sqrt(12)


def test_a_better_policy_gains() -> None:
    knowing = an_agent(seed=1, temperature=3.0)
    with torch.no_grad():  # a bias towards the rewarded items that no history changes
        knowing.model.item_vectors.weight.zero_()
    better = _Rewarded(knowing.model, 0.2, knowing.items, {})
    result = evaluate(logged(knowing, slates=2000), better)
    assert result.gain is not None
    assert 0 < result.gain.low < true_value(better) - true_value(knowing) < result.gain.high


class _Rewarded(SlateAgent):
    """Scores items by what they truly earn."""

    def distribution(self, observation: Observation, *, excluded_BX: Tensor | None = None) -> SlateDistribution:
        found = super().distribution(observation, excluded_BX=excluded_BX)
        return replace(found, score_BM=found.score_BM + ITEM_REWARD / self.temperature)


def test_equal_seeds_give_equal_estimates_whatever_the_block() -> None:
    dataset = logged(LOGGER, slates=300)
    first, again, blocked = evaluate(dataset, TARGET), evaluate(dataset, TARGET), evaluate(dataset, TARGET, block=64)
    assert first == again
    assert blocked.estimates["ips"].value == pytest.approx(first.estimates["ips"].value, rel=1e-5)


def test_validation_slates_join_where_test_has_too_few() -> None:
    slates = logged(LOGGER, slates=300).slates
    assert slates is not None
    split_S = np.repeat([TRAIN, VALIDATION, TEST], [100, 150, 50]).astype(np.int32)
    few = replace(slates, split_S=split_S)
    row_S, words = choose_slates(few, least=60, most=1000, seed=0)
    assert len(row_S) == 200
    assert "validation and test (test alone has 50 of the 60 wanted)" in words
    row_S, words = choose_slates(few, least=50, most=1000, seed=0)
    assert (len(row_S), words) == (50, "test")
    row_S, words = choose_slates(few, least=50, most=20, seed=0)
    assert (len(set(row_S.tolist())), words) == (20, "test, 20 drawn of 50")
    assert (split_S[row_S] == TEST).all()


def test_without_usable_slates_there_is_a_reason() -> None:
    assert "no slates" in evaluate(dataset_without_slates(), TARGET).reason
    assert "newer than the training" in evaluate(logged(LOGGER, slates=20, split=TRAIN), TARGET).reason
    unknown = logged(LOGGER, slates=20)
    assert unknown.slates is not None
    unknown.slates.slate_SK[:, 0] = UNKNOWN
    result = evaluate(unknown, TARGET)
    assert "no overlap" in result.reason
    assert result.impossible == 20
    assert not result.estimates


def test_unknown_items_and_seen_items_get_no_weight_and_are_counted() -> None:
    dataset = logged(LOGGER, slates=400)
    assert dataset.slates is not None
    dataset.slates.slate_SK[:30, 1] = UNKNOWN
    dataset.slates.slate_SK[30:50, 0] = dataset.event_item_E[dataset.slates.history_end_S[30:50] - 1]
    result = evaluate(dataset, TARGET)
    assert result.impossible == 50
    assert np.isfinite([estimate.value for estimate in result.estimates.values()]).all()


def test_shorter_slates_are_judged_at_their_own_length() -> None:
    """A slate of one item, drawn as such, is a slate of one item: its padding is no item of the slate."""
    dataset = logged(LOGGER, slates=400)
    assert dataset.slates is not None
    seen = observe(dataset, dataset.slates.history_end_S, max_len=MAX_LEN, user_B=dataset.slates.user_S)
    first_S1 = torch.from_numpy(dataset.slates.slate_SK[:, :1].astype(np.int64))
    is_short_S = np.arange(400) % 2 == 0
    dataset.slates.slate_SK[is_short_S, 1] = PADDING
    short_S = LOGGER.slate_log_prob(seen, first_S1).numpy()
    dataset.slates.log_propensity_S[is_short_S] = short_S[is_short_S]
    result = evaluate(dataset, LOGGER)
    assert result.impossible == 0
    assert result.estimates["ips"].ess == pytest.approx(400, rel=1e-5)


def test_contexts_without_room_for_a_slate_are_passed_over() -> None:
    dataset = logged(LOGGER, slates=100)
    crowded = replace(dataset, items=tuple("abc"))  # user histories hold up to two of the three items
    result = evaluate(crowded, an_agent_of_three())
    assert result.reason or next(iter(result.estimates.values())).n < 100


def an_agent_of_three() -> SlateAgent:
    torch.manual_seed(3)
    model = SequenceModel(SequenceConfig(tokens=FIRST_ITEM + 3, max_len=MAX_LEN, width=8, blocks=1, heads=1))
    return SlateAgent(model.eval(), 1.0, tuple("abc"), {})


def test_impossible_propensities_are_refused() -> None:
    dataset = logged(LOGGER, slates=50)
    assert dataset.slates is not None
    dataset.slates.log_propensity_S[7] = 0.4
    with pytest.raises(DataError, match=r"slate 7 is 0\.4"):
        evaluate(dataset, TARGET)


def test_agent_protocols_are_met() -> None:
    seen = Observation(torch.tensor([[3, 0]]), torch.tensor([1]))
    assert TARGET.slate_log_prob(seen, torch.tensor([[3, 4]])).item() == -np.inf
