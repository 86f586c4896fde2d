"""Fits users to the logs, checks them on held-out users, and keeps what environments need."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from recolam.contracts.artifact import write_json
from recolam.contracts.dataset import TRAIN, TokenisedDataset
from recolam.contracts.stage import StageContext
from recolam.errors import ConfigError, DataError
from recolam.progress import say
from recolam.seeding import derive
from recolam.sequence.model import SequenceModel, load_sequence_model
from recolam.world import bank, fitting
from recolam.world.answers import contexts_at_train_end, interaction_answers, logged_answers, times_shown
from recolam.world.calibration import calibrate
from recolam.world.calibration_gate import CalibrationGate, verdict
from recolam.world.departures import event_departures
from recolam.world.response import ResponseModel
from recolam.world.returning import ReturnModel, absences, calibrate_return, fit_return


@dataclass(frozen=True)
class WorldConfig:
    """How to make the world.

    Attributes:
        kind: the users that policies learn with; "auto" is the true ones of the demo world, else the fitted ones.
        slate_size: positions of a slate where the log has no slates of its own.
        horizon: steps of a session at most.
        click_rate: assumed share of slates clicked, where the log has only interactions.
        candidates: items a choice is taken from when fitting to interactions.
        fit_limit: contexts used for fitting to interactions, at most.
        members: models of the ensemble, each fitted to users drawn with replacement; 1 is fitted to all of them.
        gate: what the calibration must keep.
        must_pass: whether a fitted world that fails it ends the stage; otherwise the report says that it did.
    """

    kind: str = "auto"
    slate_size: int = 5
    horizon: int = 12
    held_out_share: float = 0.2
    epochs: int = 15
    learning_rate: float = 0.01
    click_rate: float = 0.3
    candidates: int = 50
    fit_limit: int = 60_000
    members: int = 5
    gate: CalibrationGate = field(default_factory=CalibrationGate)
    must_pass: bool = False

    def __post_init__(self) -> None:
        if self.members < 1:
            raise ConfigError(f"members {self.members} is below 1")


def run(config: WorldConfig, context: StageContext) -> dict[str, Any]:
    """Inputs: features, pretrain, and demo where the truth is known. Leaves the fitted world and its calibration."""
    dataset = TokenisedDataset.load(context.inputs["features"].path)
    encoder = load_sequence_model(context.inputs["pretrain"].path / "model").eval()
    if config.horizon >= encoder.config.max_len:
        raise ConfigError(f"horizon {config.horizon} leaves no room in histories of {encoder.config.max_len} items")
    populations = bank.split_users(dataset, held_out_share=config.held_out_share, seed=context.seed)
    slate_size = config.slate_size if dataset.slates is None else dataset.slates.slate_SK.shape[1]
    model, calibration, curves = _fit(config, dataset, encoder, populations, slate_size=slate_size, seed=context.seed)
    returning, calibration["return"] = _fit_return(config, dataset, encoder, populations, seed=context.seed)
    calibration["gate"] = verdict(calibration, config.gate)

    room = min(encoder.config.max_len, len(dataset.items) - slate_size) - config.horizon
    if room < 1:
        raise DataError(
            f"a catalogue of {len(dataset.items)} items is too small for {config.horizon} slates of {slate_size} "
            "different items that the user has not had"
        )
    tensors = _bank(dataset, populations, capacity=encoder.config.max_len, limit=room)
    settings: dict[str, Any] = {"slate_size": slate_size, "horizon": config.horizon, "kinds": ["fitted"]}
    if "demo" in context.inputs:
        settings["interest_evolution"] = _add_truth(tensors, context, dataset, populations)
        settings["kinds"].append("interest_evolution")
    settings["kind"] = settings["kinds"][-1] if config.kind == "auto" else config.kind
    if settings["kind"] not in settings["kinds"]:
        raise ConfigError(f"world kind {config.kind!r} is not one of {', '.join(settings['kinds'])}")
    found = calibration["gate"]
    say(f"world: calibration {'passed' if found['passed'] else 'failed: ' + '; '.join(found['reasons'])}")
    if config.must_pass and settings["kind"] == "fitted" and not found["passed"]:
        raise DataError(f"the fitted users fail their calibration: {'; '.join(found['reasons'])}")
    save_file(tensors, context.out / "bank.safetensors")
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, context.out / "response.safetensors")
    if returning is not None:
        save_file(dict(returning.state_dict()), context.out / "return.safetensors")
    write_json(context.out / "world.json", settings)
    write_json(context.out / "calibration.json", calibration)
    write_json(context.out / "curves.json", curves)
    return (
        {"kind": settings["kind"], "slate_size": slate_size}
        | {name: calibration[name] for name in ("ece", "nll", "nll_uniform", "slates", "users", "session_length_tv")}
        | {"calibrated": found["passed"], "told_apart_auc": calibration["told_apart"]["auc"]}
    )


def _fit(
    config: WorldConfig,
    dataset: TokenisedDataset,
    encoder: SequenceModel,
    populations: dict[str, np.ndarray],
    *,
    slate_size: int,
    seed: int,
) -> tuple[ResponseModel, dict[str, Any], dict[str, Any]]:
    with torch.no_grad():
        item_ND = encoder.item_table()
    max_len = encoder.config.max_len
    popularity_N = torch.from_numpy(dataset.item_count_V)
    model = ResponseModel(item_ND=item_ND, popularity_N=popularity_N, slate_size=slate_size, members=config.members)
    if dataset.slates is not None:
        answers = logged_answers(encoder, dataset, split=TRAIN, max_len=max_len)
    else:
        answers = interaction_answers(
            encoder, dataset, candidates=config.candidates, limit=config.fit_limit, max_len=max_len, seed=seed
        )
    is_held_out_S = torch.from_numpy(np.isin(answers.user_S.numpy(), populations["held_out"]))
    is_validation_S = ~is_held_out_S & torch.from_numpy(np.isin(answers.user_S.numpy(), populations["train"][::10]))
    train, validation = answers.rows(~is_held_out_S & ~is_validation_S), answers.rows(is_validation_S)
    held_out = answers.rows(is_held_out_S)
    if min(len(train), len(validation), len(held_out)) == 0:
        raise DataError(
            f"{len(train)} answers to fit, {len(validation)} to stop by and {len(held_out)} to judge by: too few users"
        )
    departures = answers.departures if dataset.slates is not None else event_departures(dataset)
    is_judge_S = torch.from_numpy(np.isin(departures.user_S.numpy(), populations["held_out"]))
    learnt_from = departures.rows(~is_judge_S)

    def weights(user_S: Tensor) -> Tensor:
        return fitting.bootstrap_weights(user_S, members=config.members, seed=derive(seed, "ensemble"))

    curves = fitting.fit_response(
        model, train, validation, epochs=config.epochs, learning_rate=config.learning_rate, seed=derive(seed, "world"),
        weight_ES=weights(train.user_S), departures=learnt_from, departure_weight_ES=weights(learnt_from.user_S),
    )  # fmt: skip
    calibration = calibrate(model, held_out, departures=departures.rows(is_judge_S), seed=seed)
    calibration["users_fitted"] = len(train.user_S.unique())
    if not answers.has_no_click:
        fitting.anchor_no_click(
            model, train.state_SD, train.slate_SK[:, 1 : slate_size + 1], click_rate=config.click_rate
        )
        calibration["assumed_click_rate"] = config.click_rate
    return model, calibration, curves


def _fit_return(
    config: WorldConfig,
    dataset: TokenisedDataset,
    encoder: SequenceModel,
    populations: dict[str, np.ndarray],
    *,
    seed: int,
) -> tuple[ReturnModel | None, dict[str, Any]]:
    """When users come back, and its calibration; None and the reason where the log does not tell."""
    seen = absences(encoder, dataset, limit=config.fit_limit // 4, max_len=encoder.config.max_len, seed=seed)
    if seen is None:
        return None, {"reason": "the log has no clock, or no time before which all training data lie"}
    is_held_out_S = torch.from_numpy(np.isin(seen.user_S.numpy(), populations["held_out"]))
    train, held_out = seen.rows(~is_held_out_S), seen.rows(is_held_out_S)
    if min(int(train.has_returned_S.sum()), len(held_out)) == 0:
        return None, {"reason": "nobody came back in the train period"}
    model = ReturnModel(encoder.config.width)
    fit_return(model, train)
    return model, calibrate_return(model, held_out)


def _bank(
    dataset: TokenisedDataset, populations: dict[str, np.ndarray], *, capacity: int, limit: int
) -> dict[str, Tensor]:
    """Start states of both populations, with room in the history for a whole session; how often items were shown."""
    tensors = {"shown_N": times_shown(dataset)}
    for name, users in populations.items():
        history_PT, length_P = bank.histories_at_train_end(dataset, users, limit=limit, capacity=capacity)
        context_PF = contexts_at_train_end(dataset, users)
        tensors |= {
            f"{name}.history_PT": history_PT, f"{name}.length_P": length_P, f"{name}.context_PF": context_PF,
        }  # fmt: skip
    return tensors


def _add_truth(
    tensors: dict[str, Tensor],
    context: StageContext,
    dataset: TokenisedDataset,
    populations: dict[str, np.ndarray],
) -> dict[str, Any]:
    """Adds the demo world's documents and interests to the bank; returns its constants."""
    demo, domain = context.inputs["demo"], dataset.info["domain"]
    truth = load_file(demo.file("truth.safetensors"))
    for name, values in bank.true_corpus(demo, truth, dataset, domain).items():
        tensors[f"corpus.{name}"] = values
    for name, users in populations.items():
        tensors[f"{name}.interest_PZ"] = bank.true_interests(demo, truth, dataset, domain, users)
    return demo.json("truth.json")["world"]
