"""recolam's simulated users on a task of `bench simulate`: `python run_recolam_users.py TASK OUT`."""

import json
import sys
from pathlib import Path

import torch

from recolam.bench.timed_worlds import timed_runs
from recolam.memory import keep_freed_memory

keep_freed_memory()  # as the command line does
task, out = Path(sys.argv[1]), Path(sys.argv[2])
torch.set_num_threads(json.loads((task / "settings.json").read_text())["own_threads"])
(out / "result.json").write_text(json.dumps({"timed": timed_runs(task), "versions": {"torch": torch.__version__}}))
