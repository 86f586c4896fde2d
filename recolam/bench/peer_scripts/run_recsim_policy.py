"""Stock RecSim NG trains its own recommender, as its demo does: `python run_recsim_policy.py TASK OUT`.

On the task's corpus instead of one that it draws itself. Afterwards the trained recommender plays new users without
learning; its slates are sampled, for it has no greedy mode. A training step of the demo shows one slate less than the
sessions that are judged.
"""

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
from recsim_story import Demo, documents_value, tf  # type: ignore[import-not-found]


def main(task: Path, out: Path) -> None:
    settings = json.loads((task / "settings.json").read_text())
    tf.config.threading.set_intra_op_parallelism_threads(settings["threads"])
    tf.config.threading.set_inter_op_parallelism_threads(settings["threads"])
    tf.random.set_seed(settings["seed"])
    with np.load(task / "corpus.npz") as arrays:
        documents = documents_value({name: tf.constant(array) for name, array in arrays.items()})
    begin = time.perf_counter()
    demo = Demo(settings["config"], documents, horizon=settings["horizon"], learning_rate=settings["learning_rate"])
    curve = [demo.train_step()]
    first = time.perf_counter() - begin
    curve += [demo.train_step() for _ in range(settings["training_steps"] - 1)]
    found = {"train_s": time.perf_counter() - begin, "first_step_s": first, "curve": curve}
    found["returns"] = [demo.play() for _ in range(settings["evaluations"])]
    found["versions"] = {name: version(name) for name in ("recsim-ng", "tensorflow-cpu")}
    (out / "result.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
