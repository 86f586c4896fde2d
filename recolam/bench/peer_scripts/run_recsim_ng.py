"""Stock RecSim NG's answers to a task of `bench parity` or `bench simulate`: `python run_recsim_ng.py TASK OUT`.

The task's settings.json lists `what` is asked:

- "story": for every recommender and seed, the whole story in graph mode on the seed's corpus; writes the choices, the
  consumed time, the interest after some steps and each user's reward, and one large corpus drawn by stock itself.
- "exact": fed interests, slates and Gumbel noise in; logits, probabilities, choices, times, next interests out.
- "speed": user-steps a second of `TFRuntime.execute`, without what the first call takes.

Shape legend: U users, K slate positions, C = K + 1 options, D documents, Z topics, T steps, M marks (steps looked at).
"""

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from recsim_story import (  # type: ignore[import-not-found]
    FedChoice,
    Value,
    documents_value,
    selectors,
    stock_corpus,
    story_runtime,
    tf,
    user,
)

CORPUS = ("topic_D", "quality_D", "feature_DZ", "length_D")
PACKAGES = ("recsim-ng", "tensorflow-cpu", "tensorflow-probability", "edward2", "tf-keras", "gym", "numpy")


def arrays_of(path: Path) -> dict[str, Any]:
    with np.load(path) as arrays:
        return dict(arrays)


def config_of(settings: dict[str, Any], *, documents: int | None = None) -> dict[str, int]:
    return {
        "num_users": settings["users"],
        "num_docs": documents or settings["documents"],
        "num_topics": settings["topics"],
        "slate_size": settings["slate"],
    }


def story(task: Path, out: Path, settings: dict[str, Any]) -> dict[str, Any]:
    tf.random.set_seed(settings["seeds"][0])  # once: again, and every seed would get the draws of the first
    corpora = {seed: arrays_of(task / f"corpus-{seed}.npz") for seed in settings["seeds"]}
    fields = {name: tf.Variable(field) for name, field in corpora[settings["seeds"][0]].items()}
    seconds = {}
    for recommender in settings["recommenders"]:
        begin = time.perf_counter()
        trajectory = _trajectory(settings, fields, recommender)
        for seed, arrays in corpora.items():
            for name, field in fields.items():
                field.assign(arrays[name])
            folder = out / f"{recommender}-{seed}"
            folder.mkdir()
            for name, field in trajectory().items():
                np.save(folder / f"{name}.npy", field.numpy())
        seconds[recommender] = time.perf_counter() - begin
    drawn = stock_corpus(config_of(settings, documents=settings["corpus_documents"]))
    for name, field in zip(CORPUS, ("doc_topic", "doc_quality", "doc_features", "doc_length"), strict=True):
        np.save(out / f"{name}.npy", tf.convert_to_tensor(drawn.get(field)).numpy())
    return {"seconds": seconds}


def _trajectory(settings: dict[str, Any], fields: dict[str, Any], recommender: str) -> Any:
    """One graph for all seeds: it reads the corpus from variables. Step 0 answers from the initial interest."""
    marks = settings["marks"]
    runtime = story_runtime(config_of(settings), documents_value(fields), recommender=recommender, graph_compile=False)

    @tf.function
    def run() -> dict[str, Any]:
        steps = runtime.trajectory(length=max(marks) + 1)
        interest_TUZ = steps["user state"].get("interest.state")
        response = steps["user response"]
        return {
            "choice_TU": response.get("choice"),
            "time_TU": response.get("consumed_time"),
            "start_UZ": interest_TUZ[0],
            "interest_MUZ": tf.gather(interest_TUZ, marks),
            "reward_U": steps["metrics state"].get("cumulative_reward")[-1],
        }

    return run


def exact(task: Path, out: Path, settings: dict[str, Any]) -> dict[str, Any]:
    fed = arrays_of(task / "fed.npz")
    documents = documents_value(arrays_of(task / f"corpus-{settings['seeds'][0]}.npz"))
    config = config_of({**settings, "users": settings["replayed"]})
    users = user.InterestEvolutionUser(config, choice_model_ctor=FedChoice)
    model = users._choice_model

    @tf.function
    def step(interest_UZ: Any, slate_UK: Any, noise_UC: Any) -> Any:
        state = Value(state=interest_UZ).prefixed_with("interest")
        shown = documents.map(lambda field: tf.gather(field, slate_UK))
        model.noise_UC = noise_UC
        response = users.next_response(state, shown)
        after = users.next_state(state, response, shown)
        watched = selectors.get_chosen(shown, response.get("choice"))
        return (
            model.logit_UC,
            model.probability_UC,
            response.get("choice"),
            response.get("consumed_time"),
            watched.get("doc_id"),
            after.get("interest.state"),
        )

    (out / "exact").mkdir()
    names = ("logit_TUC", "probability_TUC", "choice_TU", "time_TU", "doc_id_TU", "interest_TUZ")
    found: dict[str, list[Any]] = {name: [] for name in names}
    interest_UZ = tf.constant(fed["interest_UZ"])
    for slate_UK, noise_UC in zip(fed["slate_TUK"], fed["noise_TUC"], strict=True):
        answers = step(interest_UZ, tf.constant(slate_UK, tf.int32), tf.constant(noise_UC))
        interest_UZ = answers[-1]
        for name, answer in zip(names, answers, strict=True):
            found[name].append(answer.numpy())
    for name in names:
        np.save(out / "exact" / f"{name}.npy", np.stack(found[name]))
    return {}


def speed(task: Path, out: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Seconds of each run of the whole story; `execute` of T - 1 steps answers T slates, for step 0 has one as well."""
    found = []
    for size in settings["sizes"]:
        fed = arrays_of(task / f"corpus-{size['documents']}.npz")
        for slates in settings["slates"]:
            table_TUK = tf.constant(arrays_of(task / f"slates-{size['name']}.npz")["slate_TUK"], tf.int32)
            runtime = story_runtime(
                config_of({**settings, **size}), documents_value(fed), recommender=slates, slate_TUK=table_TUK,
                graph_compile=True,
            )  # fmt: skip
            seconds = []
            for _ in range(1 + settings["runs"]):
                begin = time.perf_counter()
                last = runtime.execute(num_steps=settings["steps"] - 1)
                last["user response"].get("consumed_time").numpy()
                seconds.append(time.perf_counter() - begin)
            found.append({"size": size["name"], "slates": slates, "first_s": seconds[0], "seconds": seconds[1:]})
    return {"timed": found}


def main() -> None:
    task, out = Path(sys.argv[1]), Path(sys.argv[2])
    settings = json.loads((task / "settings.json").read_text())
    tf.config.threading.set_intra_op_parallelism_threads(settings["threads"])
    tf.config.threading.set_inter_op_parallelism_threads(settings["threads"])
    found: dict[str, Any] = {"versions": {name: version(name) for name in PACKAGES}}
    for name in settings["what"]:
        found |= {"story": story, "exact": exact, "speed": speed}[name](task, out, settings)
    (out / "result.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
