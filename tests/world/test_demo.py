import math
from pathlib import Path

import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from recolam.contracts.artifact import Artifact, build_artifact
from recolam.contracts.home import Home
from recolam.contracts.stage import StageContext
from recolam.world import demo

SMALL = demo.DemoConfig(users=200, items=60, sessions=2)


def simulate(home: Home, config: demo.DemoConfig) -> Artifact:
    return build_artifact(
        home.runs / "demo" / "x", stage="demo", config={}, parents={}, seed=0,
        build=lambda draft: demo.run(config, StageContext(home, {}, draft.folder, draft.scratch, 0)),
    )  # fmt: skip


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return simulate(Home(tmp_path_factory.mktemp("demo")), SMALL)


def test_domains_share_no_items_and_no_users(logs: Artifact) -> None:
    slates = pl.read_parquet(logs.file("slates.parquet")).explode("items")
    domain = slates["slate_id"].str.split("-").list.first()
    for column in ("user_id", "items"):
        assert (slates[column].str.split("-").list.first() == domain).all()
    assert set(domain) == set(demo.DOMAINS)


def test_every_click_is_an_interaction_of_the_same_moment(logs: Artifact) -> None:
    slates = pl.read_parquet(logs.file("slates.parquet")).filter(pl.col("choice") >= 0)
    clicked = slates.with_columns(item_id=pl.col("items").list.get(pl.col("choice")))
    interactions = pl.read_parquet(logs.file("interactions.parquet"))
    joined = interactions.join(clicked, on=["user_id", "item_id", "event_time"])
    assert len(joined) == len(interactions) == len(clicked)
    assert (joined["value"] == joined["reward"]).all()


def test_nobody_is_shown_what_he_had(logs: Artifact) -> None:
    interactions = pl.read_parquet(logs.file("interactions.parquet"))
    assert interactions.select("user_id", "item_id").is_duplicated().sum() == 0


def test_propensities_are_those_of_the_logging_policy(tmp_path: Path) -> None:
    """E[1 / propensity] over the logging policy is the number of slates that it can show."""
    config = demo.DemoConfig(users=4000, items=10, sessions=1, horizon=1)
    first = pl.read_parquet(simulate(Home(tmp_path), config).file("slates.parquet"))
    inverse = (-first.filter(pl.col("slate_id").str.starts_with("video"))["log_propensity"]).exp()
    error = inverse.std() / math.sqrt(len(inverse))
    assert inverse.std() > 0.3 * inverse.mean()  # the policy is far from uniform
    assert abs(inverse.mean() - math.perm(7, 3)) < 4 * error


def test_the_truth_explains_the_clicks(logs: Artifact) -> None:
    """Clicked items lie nearer to the user's first true interest than the others of the slate."""
    truth = load_file(logs.file("truth.safetensors"))
    names = logs.json("truth.json")["domains"]["video"]
    slates = pl.read_parquet(logs.file("slates.parquet")).filter(
        (pl.col("choice") >= 0) & pl.col("slate_id").str.starts_with("video")
    )
    user_row, item_row = ({name: row for row, name in enumerate(names[key])} for key in ("users", "items"))
    interest = truth["video.interest_SUZ"][0, [user_row[user] for user in slates["user_id"]]]
    shown = torch.tensor([[item_row[item] for item in row] for row in slates["items"].to_list()])
    distance = (truth["video.feature_NZ"][shown] - interest[:, None]).norm(dim=2)
    chosen = distance.gather(1, torch.tensor(slates["choice"].to_list(), dtype=torch.int64)[:, None])[:, 0]
    assert float(chosen.mean()) < float(distance.mean()) - 0.1


def test_the_same_seed_writes_the_same_logs(logs: Artifact, tmp_path: Path) -> None:
    assert simulate(Home(tmp_path), SMALL).digest == logs.digest
