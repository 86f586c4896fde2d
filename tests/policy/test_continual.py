"""Learning on while users change: the alarm, what it resets, and what it leaves."""

from dataclasses import replace

import torch

from recolam.policy.continual import learn_on
from recolam.policy.decoder_agent import DecoderAgent
from recolam.policy.decoder_training import DecoderTrainingConfig, train_decoder
from recolam.policy.response import Answers
from recolam.policy.shift_detection import ShiftDetectionConfig
from recolam.world.named import make_environment
from recolam.world.sight import Sighted, sighted

SIZES = DecoderTrainingConfig(steps=600, users=10, validate_every=1, validation_users=5, patience=99)


def world() -> Sighted:
    return sighted(make_environment("bored", {"items": 30, "horizon": 20}), is_full=True)


def new_agent(environment: Sighted) -> DecoderAgent:
    return DecoderAgent.for_environment(environment, environment.reset(users=2, seed=0), {}, seed=0)


def test_a_watch_that_is_silent_changes_nothing_and_hears_every_answer_once() -> None:
    heard: list[Answers] = []

    def watch(answers: Answers) -> bool:
        heard.append(answers)
        return False

    environment, alone, watched = world(), new_agent(world()), new_agent(world())
    first = train_decoder(alone, environment, SIZES, seed=1)
    second = train_decoder(watched, environment, SIZES, seed=1, watch=watch)
    assert first == second
    assert sum(map(len, heard)) == second.learning_steps
    for name, weight in alone.state_dict().items():
        assert torch.equal(weight, watched.state_dict()[name])


def test_a_watch_ends_the_training_within_a_segment() -> None:
    heard: list[int] = []

    def watch(answers: Answers) -> bool:
        heard.append(len(answers))
        return sum(heard) >= 230  # a round is 200 user-steps and a validation 100, a segment 100

    trained = train_decoder(new_agent(world()), world(), SIZES, seed=1, watch=watch)
    assert trained.is_stopped
    assert sum(heard) == 230
    assert trained.learning_steps == 300
    assert trained.steps == 400
    assert [step for step, _ in trained.curves["validation_return"]] == [300]


def test_an_alarm_makes_the_response_model_new_and_leaves_the_decoder() -> None:
    """An alarm at the first answer, with no budget for another round: what is left is what the reset leaves."""
    environment, agent = world(), new_agent(world())
    train_decoder(agent, environment, SIZES, seed=1)
    decoder = {name: weight.clone() for name, weight in agent.decoder.state_dict().items()}
    always = ShiftDetectionConfig(apart=1.0, flatness=0.999999)  # any evidence at all is above 1 by then
    found = learn_on(agent, environment, replace(SIZES, steps=350), detection=always, seed=2)
    assert len(found.alarms) == 1
    assert found.validation_return == []
    for name, weight in decoder.items():
        assert torch.equal(weight, agent.decoder.state_dict()[name])
    for name, weight in new_agent(world()).response.state_dict().items():
        assert torch.equal(weight, agent.response.state_dict()[name])


def test_a_model_that_never_knew_its_users_is_an_alarm_too_and_then_left_to_settle() -> None:
    """After 300 user-steps the response model is sure of what is not so."""
    environment, agent = world(), new_agent(world())
    train_decoder(agent, environment, replace(SIZES, steps=300), seed=1)
    found = learn_on(agent, environment, SIZES, detection=ShiftDetectionConfig(settling=10_000), seed=2)
    (alarm,) = found.alarms
    assert alarm <= 200
    assert [step for step, _ in found.validation_return] == [alarm + 300]
