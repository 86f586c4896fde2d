"""Runs the five DAGs in order in this process, as `airflow dags test` does, with an Airflow home of their own.

    python dags/run_chain.py [--data demo] [--preset quick] [--home DIR] [--seed N]

A scheduler needs none of this: it reads the same DAG files and starts each DAG on the asset of the one before.
"""

import argparse
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recolam.contracts.home import Home
from recolam.errors import RecolamError
from recolam.pipeline import make_plan, summarise
from recolam.progress import say

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow.sdk import DAG

CHAIN = ("recolam_ingest", "recolam_pretrain", "recolam_policy", "recolam_transfer", "recolam_evaluate_register")
DAGS_FOLDER = Path(__file__).resolve().parent


def main(arguments: list[str] | None = None) -> int:
    """Runs the chain and returns its exit code: the failing task's own, or 0."""
    begin = time.monotonic()
    options = _parse(arguments)
    home = Home.at(options.home)
    settings = {
        "data": options.data if options.data == "demo" else str(Path(options.data).absolute()),
        "format": options.format,
        "preset": options.preset,
        "seed": options.seed,
        "home": str(home.root),
    }
    try:
        plan = make_plan(**settings)
    except RecolamError as error:  # a wrong option: say so before Airflow starts
        return _explain(error)
    airflow_home = Path(os.environ.get("AIRFLOW_HOME", home.root / ".airflow")).absolute()
    _set_environment(airflow_home)
    log = airflow_home / "run_chain.log"
    say(f"recolam: {len(CHAIN)} DAGs on Airflow, data {options.data}, preset {options.preset}; Airflow's log: {log}")
    with log.open("w") as stream:
        dags = _load_dags(stream)
        say(f"Airflow is ready after {time.monotonic() - begin:.0f} s")
        exit_code = _run(dags, settings)
    if exit_code:
        say(f"recolam: failed with exit code {exit_code}; Airflow's log: {log}")
        return exit_code
    _print_results(summarise(plan), home, seconds=time.monotonic() - begin)
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="run_chain.py", description="Runs recolam's five Airflow DAGs in order.")
    parser.add_argument("--data", default=os.environ.get("RECOLAM_DATA", "demo"), help="`demo` or the path of a log")
    parser.add_argument("--format", default="auto", help="the log's format; `auto` looks at the files")
    parser.add_argument("--preset", default=os.environ.get("RECOLAM_PRESET", "quick"), help="quick, standard or full")
    parser.add_argument("--home", default=os.environ.get("RECOLAM_HOME") or None, help="default: the checkout")
    parser.add_argument("--seed", type=int, default=int(os.environ.get("RECOLAM_SEED", "0")))
    return parser.parse_args(arguments)


def _set_environment(airflow_home: Path) -> None:
    """Settings that Airflow reads when it is imported. The database is always the home's own, never a shared one."""
    airflow_home.mkdir(parents=True, exist_ok=True)
    os.environ |= {
        "AIRFLOW_HOME": str(airflow_home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS_FOLDER),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{airflow_home / 'airflow.db'}",
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(airflow_home / "logs"),
        "RECOLAM_RETRIES": "0",  # somebody is watching: show the error now
    }


def _load_dags(log: Any) -> "Mapping[str, DAG]":
    """Imports Airflow with its log going to `log`, brings the database up to date, and reads the DAG files."""
    from airflow.dag_processing.dagbag import BundleDagBag
    from airflow.sdk.log import configure_logging
    from airflow.utils.db import check_migrations, initdb

    configure_logging(output=log, colored_console_log=False)
    try:
        check_migrations(timeout=0)
    except TimeoutError:
        initdb()
    bag = BundleDagBag(DAGS_FOLDER, bundle_path=DAGS_FOLDER, bundle_name="dags-folder")
    if bag.import_errors:
        raise ImportError("\n".join(f"{file}: {error}" for file, error in bag.import_errors.items()))
    return bag.dags


def _run(dags: "Mapping[str, DAG]", settings: dict[str, Any]) -> int:
    from airflow.sdk import DagRunState
    from airflow.sdk.listener import get_listener_manager

    watcher = _watcher()
    get_listener_manager().add_listener(watcher)
    for number, dag_id in enumerate(CHAIN, start=1):
        say(f"[{number}/{len(CHAIN)}] {dag_id}")
        run = dags[dag_id].test(run_conf=settings)
        if run.state != DagRunState.SUCCESS:
            return _explain(watcher.error)
    return 0


def _watcher() -> Any:
    """An Airflow listener that prints each task's progress and keeps the first error."""
    from airflow.listeners import hookimpl

    class Watcher:
        error: BaseException | str | None = None
        begin = 0.0

        @hookimpl
        def on_task_instance_running(self, task_instance: Any) -> None:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Airflow has just made this process ignore it
            self.begin = time.monotonic()
            say(f"  {_name(task_instance)} ...")

        @hookimpl
        def on_task_instance_success(self, task_instance: Any) -> None:
            say(f"  {_name(task_instance)} done in {time.monotonic() - self.begin:.1f} s")

        @hookimpl
        def on_task_instance_skipped(self, task_instance: Any) -> None:
            say(f"  {_name(task_instance)} skipped")

        @hookimpl
        def on_task_instance_failed(self, task_instance: Any, error: BaseException | str | None) -> None:
            self.error = self.error or error
            say(f"  {_name(task_instance)} FAILED after {time.monotonic() - self.begin:.1f} s")

    return Watcher()


def _name(task_instance: Any) -> str:
    if task_instance.map_index < 0:
        return task_instance.task_id
    return f"{task_instance.task_id}[{task_instance.rendered_map_index or task_instance.map_index}]"


def _explain(error: BaseException | str | None) -> int:
    if isinstance(error, RecolamError):
        say(f"{type(error).__name__}: {error}")
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        say("interrupted; the same command goes on from the last finished stage or checkpoint")
        return 130
    say("".join(traceback.format_exception(error)) if isinstance(error, BaseException) else str(error))
    return 1


def _print_results(path: Path, home: Home, *, seconds: float) -> None:
    summary = json.loads(path.read_text())
    ranking, policy = summary["ranking"], summary["policy"]
    print(f"report: {summary['report']}")
    print(f"champion: {_champion(home, **summary['model'])}")
    print(
        f"results: NDCG@10 {ranking['ndcg10']:.4f} (popularity {ranking['popularity_ndcg10']:.4f}), "
        f"return {policy['return_trained']:.3g} (untrained {policy['return_untrained']:.3g}, "
        f"pretrained {policy['return_pretrained_greedy']:.3g}), {seconds:.0f} s"
    )
    print(path)


def _champion(home: Home, name: str, version: str, **_: Any) -> str:
    from recolam.register.registry import champion_version

    champion = champion_version(home, name)
    if champion == version:
        return f"{name} version {version}, this run's"
    verdict = f"this run's version {version} did not pass the gate"
    return f"{name} version {champion}; {verdict}" if champion else f"none yet; {verdict}"


if __name__ == "__main__":
    sys.exit(main())
