"""What `test_distributed_policy.py` runs, alone or in every process of a torchrun: `JOBS OUT`.

JOBS is a JSON list of {"name", "training", "is_autoregressive", "kill"}; each trains the small agent in the small
world and leaves its weights and curves in OUT. Every process writes, so that the test can compare them. `kill` is the
iteration at which the last process dies without a word.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from recolam.threads import wait_passively

wait_passively()  # before torch

import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from recolam.contracts.config import from_mapping  # noqa: E402
from recolam.policy import training  # noqa: E402
from recolam.policy.config import PolicyTrainingConfig  # noqa: E402
from recolam.policy.reward import Reward, Surroundings  # noqa: E402
from recolam.policy.rewarded import RewardedSessions  # noqa: E402
from recolam.sequence.distributed import process_group  # noqa: E402
from tests.policy.small import small_agent, small_world  # noqa: E402

RANK = int(os.environ.get("RANK", "0"))
# 10 users in 4 shards: 3, 3, 2, 2; three validation seeds for two processes.
TRAINING = {
    "iterations": 6, "users": 10, "replicas": 2, "shards": 4, "learning_rate": 1e-2, "validate_every": 2,
    "validation_users": 20, "validation_seeds": 3, "checkpoint_every": 2,
}  # fmt: skip


def train(job: dict[str, Any], out: Path) -> None:
    config = from_mapping(PolicyTrainingConfig, {**TRAINING, **job.get("training", {})}, where="job")
    iterate = training._Trainer._iterate

    def killed(trainer: training._Trainer) -> dict[str, float]:
        if trainer.iteration == job.get("kill") and trainer.processes.rank == trainer.processes.size - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return iterate(trainer)

    training._Trainer._iterate = killed  # type: ignore[method-assign]
    agent = small_agent(is_autoregressive=job.get("is_autoregressive", False))
    reward = Reward({"response": 1.0, "diversity": 0.5}, Surroundings(model=small_agent().model))
    world = RewardedSessions(small_world(), reward)
    curves = training.train_policy(agent, world, config, seed=3, scratch=out / f"{job['name']}.scratch")
    training._Trainer._iterate = iterate  # type: ignore[method-assign]
    weights = {name: value.contiguous() for name, value in agent.networks().state_dict().items()}
    save_file(weights, out / f"{job['name']}.{RANK}")
    (out / f"{job['name']}.{RANK}.json").write_text(json.dumps(curves))


if __name__ == "__main__":
    torch.set_num_threads(1)
    with process_group("cpu"):
        for job in json.loads(sys.argv[1]):
            train(job, Path(sys.argv[2]))
