"""Playing sessions, a segment of some steps at a time, and writing down what learning needs.

Shape legend: B sessions, H steps of a segment, K slate, S = H x B states (steps first), Z attributes, X facets.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from recolam.contracts.protocols import SightedEnvironment, sight_of
from recolam.policy.admission import Anything
from recolam.policy.decoder import Choices, decode
from recolam.policy.decoder_agent import DecoderAgent
from recolam.policy.response import Answers
from recolam.policy.returns import Act


def random_slates(environment: SightedEnvironment) -> Act:
    """Items drawn alike, another slate each time."""
    anything, k = Anything(tokens=environment.tokens), environment.slate_size
    return lambda observation, generator: anything.random(observation, k=k, generator=generator)


@dataclass(frozen=True)
class Segment:
    """Some steps of sessions side by side, under a sampled policy.

    Attributes:
        choices, place_SK, log_prob_SK: what could be shown, what was, and with which probability at each position.
        reward_BH, is_active_BH: what was earned; False for steps after a session's end, which carry nothing.
        after_BZX: the facets behind the last step.
        has_left_B: True where the user ended the session.
    """

    choices: Choices
    place_SK: Tensor
    log_prob_SK: Tensor
    reward_BH: Tensor
    is_active_BH: Tensor
    after_BZX: Tensor
    has_left_B: Tensor


class Sessions:
    """Sessions under way: `sight` is what is seen now, `is_active_B` who is still there, `played` user-steps so far."""

    def __init__(self, environment: SightedEnvironment, *, users: int, seed: int) -> None:
        self.environment, self.played = environment, 0
        self.sight = environment.reset(users=users, seed=seed)
        self.is_active_B = torch.ones(users, dtype=torch.bool)
        self.has_left_B = torch.zeros(users, dtype=torch.bool)
        self.answers: list[Answers] = []

    def play(self, agent: DecoderAgent, generator: torch.Generator, *, steps: int) -> Segment:
        """Shows `steps` sampled slates to each user, fewer where all sessions end."""
        choices, places, log_probs, rewards, actives = [], [], [], [], []
        examination_K = agent.response.examination_K
        for _ in range(steps):
            choice = agent.choices(self.sight)
            with torch.no_grad():
                place_BK, log_prob_BK = decode(agent.decoder, choice, examination_K, generator)
            actives.append(self.is_active_B)
            rewards.append(self._show(choice.candidate_BC.gather(1, place_BK)))
            choices.append(choice)
            places.append(place_BK)
            log_probs.append(log_prob_BK)
            if not bool(self.is_active_B.any()):
                break
        return Segment(
            choices=Choices.joined(choices),
            place_SK=torch.cat(places),
            log_prob_SK=torch.cat(log_probs),
            reward_BH=torch.stack(rewards, dim=1),
            is_active_BH=torch.stack(actives, dim=1),
            after_BZX=self.sight.facet_BZX,
            has_left_B=self.has_left_B,
        )

    def play_by(self, act: Act, generator: torch.Generator, *, steps: int) -> None:
        """Shows `steps` slates of another policy, fewer where all sessions end."""
        for _ in range(steps):
            self._show(act(self.sight, generator))
            if not bool(self.is_active_B.any()):
                break

    def _show(self, slate_BK: Tensor) -> Tensor:
        """Rewards, float [B]; the answers of active users are kept."""
        was_active_B, user_BF = self.is_active_B, self.sight.user_BF
        result = self.environment.step(slate_BK)
        answers = Answers(user_BF, slate_BK, result.is_clicked_BK, result.reward_B)
        self.answers.append(answers if bool(was_active_B.all()) else answers.rows(was_active_B.nonzero()[:, 0]))
        self.sight = sight_of(result.observation)
        self.has_left_B = self.has_left_B | result.terminated_B
        self.is_active_B = was_active_B & ~result.terminated_B & ~result.truncated_B
        self.played += int(was_active_B.sum())
        return result.reward_B
