"""The command line: argv -> stage configs -> run. Results go to stdout, everything else to stderr.

Exit codes: 0 done, 1 unexpected failure, 2 wrong input or setting, 3 missing or damaged artifact.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from recolam import pipeline, presets
from recolam.contracts.artifact import open_artifact
from recolam.contracts.home import Home
from recolam.errors import ConfigError, DataError, RecolamError
from recolam.memory import keep_freed_memory
from recolam.options import (
    ConfigOption,
    DataOption,
    FormatOption,
    HomeOption,
    InputsOption,
    Preset,
    PresetOption,
    SeedOption,
    StageConfigOption,
    ids,
    open_inputs,
    read_config,
)
from recolam.threads import wait_passively

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="**recolam**: from interaction logs to a registered slate policy. Start with `recolam run`, which takes its "
    "own demo world when you name no data. Exit codes: 0 done, 1 failure, 2 wrong input, 3 damaged artifact.",
)
TunedStage = StrEnum("TunedStage", ["pretrain", "policy"])


@app.command()
def run(
    data: DataOption = "demo",
    format: FormatOption = "auto",
    preset: PresetOption = Preset["quick"],
    home: HomeOption = None,
    seed: SeedOption = 0,
    config: ConfigOption = None,
) -> None:
    """Run all stages in order; unchanged stages are not run again. Prints the path of summary.json.

    Example: `recolam run --data ml-1m.zip --preset quick`. Your own CSV needs a mapping of its columns:
    `--config` with `{"ingest": {"mapping": {"user": "uid", "item": "sku", "time": "ts"}}}`.
    """
    plan = pipeline.make_plan(data, format, preset.value, home, seed, read_config(config))
    print(pipeline.run_all(plan))


def _stage_runner(stage: str) -> Callable[..., None]:
    """The command of one stage."""

    def command(
        inputs: InputsOption = None,
        preset: PresetOption = Preset["quick"],
        home: HomeOption = None,
        seed: SeedOption = 0,
        config: StageConfigOption = None,
        data: DataOption = "demo",
        format: Annotated[str, typer.Option(help="The log's format (ingest only).")] = "auto",
    ) -> None:
        overrides = {stage: read_config(config)} if config is not None else {}
        plan = pipeline.make_plan(data, format, preset.value, home, seed, overrides)
        parents = open_inputs(stage, inputs or [])
        if stage == "ingest" and plan.is_demo and "demo" not in parents:
            settings = pipeline.stage_config(plan, "demo")
            parents["demo"], _ = pipeline.execute("demo", settings, {}, home=plan.home, seed=seed)
        settings = pipeline.stage_config(plan, stage)
        artifact, _ = pipeline.execute(stage, settings, parents, home=plan.home, seed=seed)
        print(artifact.path)

    return command


def _world(
    inputs: InputsOption = None,
    preset: PresetOption = Preset["quick"],
    home: HomeOption = None,
    seed: SeedOption = 0,
    config: StageConfigOption = None,
    data: DataOption = "demo",
    format: Annotated[str, typer.Option(help="The log's format (ingest only).")] = "auto",
    show: Annotated[
        str | None, typer.Option(help="Draw a user's session instead: a world's name (bored) or an artifact's path.")
    ] = None,
    policy: Annotated[
        str | None, typer.Option(help="With --show: random (default), greedy, or a policy artifact's path.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="With --show: slates at most; default 20.")] = None,
    out: Annotated[Path | None, typer.Option(help="With --show: the SVG to write; default session.svg.")] = None,
) -> None:
    """The stage; or, with --show, a picture."""
    options: dict[str, Any] = {"policy": policy, "steps": steps, "out": out}
    asked = {name: value for name, value in options.items() if value is not None}
    if show is None:
        if asked:
            raise ConfigError(f"--{next(iter(asked))} goes with --show")
        return _stage_runner("world")(inputs, preset, home, seed, config, data, format)
    from recolam.show import show_session  # torch takes seconds to import

    print(show_session(show, seed=seed, overrides=read_config(config), **asked))


def _stage_command(stage: str, text: str, command: Callable[..., None] | None = None) -> None:
    """Adds the command of one stage; by default one that runs it, with an option for each artifact that it reads."""
    needs = ", ".join(pipeline.STAGES[stage].inputs) or "no artifact"
    app.command(stage, help=f"{text} Needs: {needs}. Prints the artifact's path.")(command or _stage_runner(stage))


_stage_command("ingest", "Validate a log, quarantine bad rows, append to Delta tables.")
_stage_command("features", "Split by time, build the vocabulary from train, tokenise.")
_stage_command("pretrain", "Train the sequence transformer on the tokenised dataset.")
_stage_command("world", "Fit simulated users to the logs and check their calibration; --show draws one.", _world)
_stage_command("policy", "Train the slate policy by policy gradient in the world.")
_stage_command("transfer", "Tune the policy for another domain (features: the target domain's).")
_stage_command("evaluate", "Rank, estimate off-policy, and write the report.")
_stage_command("register", "Register the policy in MLflow; promote it if it beats the champion.")


@app.command()
def recommend(
    history: Annotated[str, typer.Option(help="Item ids, oldest first, joined by commas; may be empty.")],
    model: Annotated[
        str, typer.Option(help="MLflow model URI, such as models:/recolam-slate-policy@champion.")
    ] = f"models:/{pipeline.MODEL_NAME}@champion",
    exclude: Annotated[str, typer.Option(help="Item ids never to show, joined by commas.")] = "",
    k: Annotated[int, typer.Option(min=1, help="Items of the slate.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    home: HomeOption = None,
) -> None:
    """Recommend a slate with a registered model."""
    import pandas as pd  # these two take seconds to import

    from recolam.register.registry import load_model

    query = {"history": [ids(history)], "exclude": [ids(exclude)], "k": [k]}
    answer: Any = load_model(Home.at(home), model).predict(pd.DataFrame(query))
    if problem := answer.get("problem", [""])[0]:
        raise DataError(f"no slate keeps the policy's constraints: {problem}")
    slate, scores = list(answer["slate"][0]), [float(score) for score in answer["scores"][0]]
    if as_json:
        print(json.dumps({"model": model, "slate": slate, "scores": scores}))
    else:
        for place, (item, score) in enumerate(zip(slate, scores, strict=True), start=1):
            print(f"{place:3d}  {item}  {score:.4f}")


class _BenchCommand(TyperCommand):
    """Its help asks the benchmarks themselves, whose torch takes seconds to import."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        from recolam import bench as benches

        self.help = f"{self.help}\n\n{benches.overview()}"
        super().format_help(ctx, formatter)


@app.command(cls=_BenchCommand, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def bench(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="One of the names above.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON line (it is always one).")] = False,
) -> None:
    """Measure: one JSON line on stdout. Options by benchmark, each with a value, here with their defaults:"""
    from recolam import bench as benches  # torch takes seconds to import

    answer = benches.run(name, benches.options.pairs(context.args))
    print(json.dumps(answer, sort_keys=False))
    if not answer.get("is_same", True):
        raise typer.Exit(1)


@app.command()
def tune(
    data: DataOption = "demo",
    format: FormatOption = "auto",
    stage: Annotated[TunedStage, typer.Option(help="Whose settings; policy needs --input.")] = TunedStage.pretrain,
    preset: Annotated[
        str | None,
        typer.Option(help=f"The other settings: {', '.join(presets.SEQUENCE)}; for policy {', '.join(presets.NAMES)}."),
    ] = None,
    inputs: InputsOption = None,
    trials: Annotated[int, typer.Option(help="Trials that the study has in the end, over all calls.")] = 40,
    timeout: Annotated[
        float | None, typer.Option(help="Minutes, after which this call ends; the next one goes on.")
    ] = None,
    home: HomeOption = None,
    seed: SeedOption = 0,
    space: Annotated[
        Path | None,
        typer.Option(help='JSON file: {"width": [64, 128], "dropout": {"low": 0.1, "high": 0.5}}; also log, int.'),
    ] = None,
    protocol: Annotated[str, typer.Option(help="Which split: loo or temporal.")] = "loo",
    config: ConfigOption = None,
    name: Annotated[str | None, typer.Option(help="The study's name; the same name goes on with it.")] = None,
) -> None:
    """Search a stage's settings: the pretraining's for the best validation NDCG@10, the policy's for the best
    validation return. Prints one JSON line.

    A killed search goes on where it was, trial and all. best.json, which the line names, is for `recolam run --config`.
    """
    from recolam.tune.command import tune as search  # torch and optuna take seconds to import

    settings = {
        "data": data, "name": name, "overrides": read_config(config), "preset": preset, "format": format,
        "protocol": protocol, "space": space and read_config(space), "space_name": space and str(space),
    }  # fmt: skip
    parents = open_inputs("policy", inputs or []) if stage == TunedStage.policy else {}
    limits = {"trials": trials, "minutes": timeout, "seed": seed}
    print(json.dumps(search(stage.value, settings, limits, parents, home=home)))


@app.command()
def export(
    source: Annotated[str, typer.Option("--input", "-i", help="pretrain=PATH: the artifact whose model is written.")],
    out: Annotated[Path, typer.Option("--out", help="The ONNX file; vocabulary.json is written beside it.")],
) -> None:
    """Write the sequence model as one ONNX file, compared with torch in onnxruntime. Prints one JSON line."""
    from recolam.sequence.export import export_onnx  # torch takes seconds to import
    from recolam.sequence.model import load_sequence_model

    name, _, path = source.partition("=")
    if name != "pretrain" or not path:
        raise ConfigError(f"--input {source!r}: export reads pretrain=PATH")
    artifact = open_artifact(path, stage="pretrain")
    model = load_sequence_model(artifact.path / "model")
    print(json.dumps(asdict(export_onnx(model, out, items=artifact.json("vocabulary.json")["items"]))))


@app.command()
def rollback(
    home: HomeOption = None, name: Annotated[str, typer.Option(help="Registered model.")] = pipeline.MODEL_NAME
) -> None:
    """Give the champion alias back to the version that had it before."""
    from recolam.register.registry import rollback as undo

    print(undo(Home.at(home), name))


def main() -> None:
    """Entry point: named errors become one line and an exit code."""
    wait_passively()
    keep_freed_memory()
    try:
        app(standalone_mode=False)
    except RecolamError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error
    except typer.Exit as stop:
        raise SystemExit(stop.exit_code) from stop
    except typer.Abort:
        raise SystemExit(130) from None
    except Exception as error:
        if hasattr(error, "show") and hasattr(error, "exit_code"):  # a usage error of the command line itself
            error.show()
            raise SystemExit(error.exit_code) from error
        raise
