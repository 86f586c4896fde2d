"""Baselines that learn from as many user-steps as the policy they are compared with: popularity, a bandit, SlateQ.

Shape legend: B users, K slate, N token ids, S transitions.
"""

import torch
from torch import Tensor

from recolam.contracts.dataset import FIRST_ITEM
from recolam.contracts.protocols import Observation, Sight, SightedEnvironment
from recolam.policy.admission import Admission, Anything
from recolam.policy.bandit import LinearBandit
from recolam.policy.choice_model import ChoiceModel, picks_several
from recolam.policy.decoder_rollout import Sessions
from recolam.policy.random_log import Budget, RandomLog
from recolam.policy.response import Answers, ResponseFit, ResponseModel, root_mean_square
from recolam.policy.returns import Act
from recolam.policy.slateq_agent import Replay, SlateQAgent, SlateQConfig, Transitions, state_of
from recolam.policy.slateq_choice import ChoiceSlateQAgent
from recolam.seeding import derive

_SEGMENT = 10
_RESPONSE_STEPS = 20
_LEAST_EXPLORATION = 0.1


def popularity(environment: SightedEnvironment, log: RandomLog) -> Act:
    """The same slate for everybody: the items of most clicks per showing in the log."""
    answers = log.answers
    shown_N = 1 + torch.bincount(answers.slate_SK.flatten(), minlength=environment.tokens)
    click_N = torch.bincount(answers.slate_SK[answers.is_clicked_SK], minlength=environment.tokens)
    slate_K = (click_N / shown_N)[FIRST_ITEM:].topk(environment.slate_size).indices + FIRST_ITEM
    return lambda observation, _: slate_K.expand(len(observation.length_B), -1).contiguous()


def bandit(environment: SightedEnvironment, budget: Budget, *, seed: int, admission: Admission | None = None) -> Act:
    """Thompson sampling of linear rewards while it learns; the mean's greedy slate afterwards."""
    admission = admission or Anything(tokens=environment.tokens)
    user_size = environment.reset(users=1, seed=seed).user_BF.shape[1]
    learner = LinearBandit.of(environment.feature_NG, environment.attribute_NZ, user_size=user_size)
    for sessions, generator in budget.rounds(environment, seed=seed):
        while bool(sessions.is_active_B.any()):
            known = len(sessions.answers)
            sessions.play_by(_sampled(learner, admission, environment.slate_size), generator, steps=_SEGMENT)
            learner.learn(Answers.joined(sessions.answers[known:]))
    return _greedy(learner, admission, environment.slate_size)


def slateq(
    environment: SightedEnvironment,
    budget: Budget,
    config: SlateQConfig,
    *,
    seed: int,
    admission: Admission | None = None,
) -> Act:
    """SlateQ with a learnt click model; whole slates are random at first, and with probability 0.1 at the end.

    Users are taken to pick at most one item (`slateq_choice`) until a slate has two clicks, and then to answer position
    by position (`slateq_agent`): what was learnt before is dropped, what was seen is kept. `admission` narrows what is
    shown, not the maximum in the target.
    """
    admission = admission or Anything(tokens=environment.tokens)
    first = environment.reset(users=budget.users, seed=derive(seed, "learning", 0))
    agent = _new_slateq(environment, first, config, ChoiceSlateQAgent, seed=seed)
    fit, replay, done = ResponseFit(agent.response), Replay(), 0
    for sessions, generator in budget.rounds(environment, seed=seed):
        while bool(sessions.is_active_B.any()):
            exploration = max(1.0 - 2.0 * (done + sessions.played) / budget.steps, _LEAST_EXPLORATION)
            greedy = _greedy(agent, admission, environment.slate_size)
            act = _exploring(greedy, _random(admission, environment.slate_size), exploration)
            played = Transitions.joined(_transitions(sessions, act, generator))
            replay.add(played)
            if isinstance(agent, ChoiceSlateQAgent) and picks_several(played.answers.is_clicked_SK):
                agent = _new_slateq(environment, first, config, SlateQAgent, seed=seed)
                fit = ResponseFit(agent.response)
            known = replay.transitions
            fit.steps(known.answers, _RESPONSE_STEPS, generator)
            agent.learn(known, generator)
        done += sessions.played
    return _greedy(agent, admission, environment.slate_size)


def _new_slateq(
    environment: SightedEnvironment, sight: Sight, config: SlateQConfig, kind: type[SlateQAgent], *, seed: int
) -> SlateQAgent:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        response = (ChoiceModel if kind is ChoiceSlateQAgent else ResponseModel)(
            environment.feature_NG, environment.attribute_NZ,
            user_size=sight.user_BF.shape[1], slate_size=environment.slate_size,
        )  # fmt: skip
        response.user_scale.copy_(root_mean_square(sight.user_BF))
        state_size = state_of(sight).shape[1]
        return kind(
            response, environment.attribute_NZ, config, state_size=state_size, slate_size=environment.slate_size
        )


def _transitions(sessions: Sessions, act: Act, generator: torch.Generator) -> list[Transitions]:
    found = []
    for _ in range(_SEGMENT):
        before, index_S = sessions.sight, sessions.is_active_B.nonzero()[:, 0]
        sessions.play_by(act, generator, steps=1)
        after = sessions.sight
        states = (state_of(before)[index_S], state_of(after)[index_S], after.user_BF[index_S])
        found.append(Transitions(sessions.answers[-1], *states, sessions.has_left_B[index_S]))
        if not bool(sessions.is_active_B.any()):
            break
    return found


def _exploring(act: Act, explore: Act, share: float) -> Act:
    def mixed(observation: Observation, generator: torch.Generator) -> Tensor:
        draw_B1 = torch.rand(len(observation.length_B), 1, generator=generator)
        return torch.where(draw_B1 < share, explore(observation, generator), act(observation, generator))

    return mixed


def _greedy(agent: LinearBandit | SlateQAgent, admission: Admission, k: int) -> Act:
    def act(observation: Observation, generator: torch.Generator) -> Tensor:
        score_BN = agent.scores(observation, None) if isinstance(agent, LinearBandit) else agent.scores(observation)
        return admission.best(score_BN, observation, k=k)

    return act


def _sampled(agent: LinearBandit, admission: Admission, k: int) -> Act:
    return lambda observation, generator: admission.best(agent.scores(observation, generator), observation, k=k)


def _random(admission: Admission, k: int) -> Act:
    return lambda observation, generator: admission.random(observation, k=k, generator=generator)
